use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};

use super::*;
use crate::proxy::io::{Backend, Socket, uring};
use crate::proxy::tls::{hello, provider};

fn on_both<F: Future<Output = ()> + 'static>(test: impl Fn(Backend) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test(Backend::Epoll));
    match uring::probe() {
        Ok(()) => uring::run(test(Backend::Uring)).unwrap(),
        Err(error) => eprintln!("io_uring not tested: {error}"),
    }
}

/// Who makes the server's records, and the version.
#[derive(Clone, Copy)]
struct Way {
    own: bool,
    versions: &'static [&'static rustls::SupportedProtocolVersion],
}

fn configs(way: Way) -> (Arc<ServerConfig>, UpstreamConfig) {
    let versions = way.versions;
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["a.example".into()]).unwrap().self_signed(&key).unwrap();
    let mut server = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap();
    server.enable_secret_extraction = way.own;
    server.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), UpstreamConfig { config: Arc::new(client), name: "a.example".try_into().unwrap() })
}

async fn sockets(backend: Backend) -> (Socket, Socket) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let near = Socket::connect(listener.local_addr().unwrap(), backend).await.unwrap();
    let (far, _) = listener.accept().unwrap();
    far.set_nonblocking(true).unwrap();
    (near, Socket::from_std(far, backend).unwrap())
}

async fn pair(backend: Backend, way: Way) -> (TlsStream<Socket>, TlsStream<Socket>) {
    let (server, client) = configs(way);
    let (near, far) = sockets(backend).await;
    let accept = async {
        let (hello, bytes) = hello::read(&far, Buffer::take()).await.unwrap();
        assert_eq!(hello.server_name.as_deref(), Some("a.example"));
        TlsStream::accept(far, &server, bytes).await.unwrap()
    };
    let (near, far) = tokio::join!(TlsStream::connect(near, &client), accept);
    (near.unwrap(), far)
}

const ALL: [Way; 4] = [
    Way { own: true, versions: &[&rustls::version::TLS13] },
    Way { own: true, versions: &[&rustls::version::TLS12] },
    Way { own: false, versions: &[&rustls::version::TLS13] },
    Way { own: false, versions: &[&rustls::version::TLS12] },
];
/// With TLS 1.3.
const NEW: [Way; 2] = [ALL[0], ALL[2]];

fn text(text: &str) -> Chunk {
    Chunk::Pooled(Buffer::copy_of(text.as_bytes()))
}

async fn read_all(io: &impl Io) -> (io::Result<()>, Vec<u8>) {
    let mut all = Vec::new();
    loop {
        let (result, buffer) = io.read(Buffer::take()).await;
        all.extend_from_slice(buffer.as_slice());
        match result {
            Ok(0) => return (Ok(()), all),
            Ok(_) => {}
            Err(error) => return (Err(error), all),
        }
    }
}

#[test]
fn bytes_pass_and_close_notify_is_the_end() {
    for way in ALL {
        on_both(move |backend| async move {
            let (near, far) = pair(backend, way).await;
            near.write(text("hello ")).await.0.unwrap();
            near.write(text("world")).await.0.unwrap();
            near.finish().await.unwrap();
            let (result, bytes) = read_all(&far).await;
            assert_eq!(bytes, b"hello world");
            result.unwrap();
            // Half closed: the other direction still works.
            far.write(text("bye")).await.0.unwrap();
            far.finish().await.unwrap();
            assert_eq!(read_all(&near).await.1, b"bye");
        });
    }
}

#[test]
fn an_end_without_close_notify_is_an_error() {
    for way in ALL {
        on_both(move |backend| async move {
            let (near, far) = pair(backend, way).await;
            near.write(text("part")).await.0.unwrap();
            near.get_ref().finish().await.unwrap();
            let (result, bytes) = read_all(&far).await;
            assert_eq!(bytes, b"part");
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        });
    }
}

#[test]
fn both_directions_move_bulk_at_once() {
    for way in NEW {
        on_both(move |backend| async move {
            let (near, far) = pair(backend, way).await;
            let big = bytes::Bytes::from((0..3 << 20).map(|i| (i % 251) as u8).collect::<Vec<u8>>());
            let send = async |io: &TlsStream<Socket>| {
                io.write(Chunk::Shared(big.slice(..1 << 20))).await.0.unwrap();
                // Key updates in the middle, asked for from both sides.
                match &mut io.session.borrow_mut().layer {
                    Layer::Rustls(connection) => connection.refresh_traffic_keys().unwrap(),
                    Layer::Records(records) => records.ask_for_update(),
                }
                for chunk in big[1 << 20..].chunks(10_000) {
                    io.write(Chunk::Pooled(Buffer::copy_of(chunk))).await.0.unwrap();
                }
                io.finish().await.unwrap();
            };
            let (_, _, (one, from_far), (other, from_near)) =
                tokio::join!(send(&near), send(&far), read_all(&near), read_all(&far));
            one.unwrap();
            other.unwrap();
            assert!(from_far == big && from_near == big);
        });
    }
}

#[test]
fn quiet_and_readable_see_through_the_records() {
    // Not where the tickets of rustls come unasked.
    for way in [ALL[0], ALL[1], ALL[3]] {
        on_both(move |backend| async move {
            let (near, far) = pair(backend, way).await;
            assert!(near.is_quiet() && far.is_quiet());
            assert!(tokio::time::timeout(Duration::from_millis(5), far.readable()).await.is_err());
            near.write(text("abcdef")).await.0.unwrap();
            far.readable().await.unwrap();
            // Read in part: the rest waits inside, where the socket knows nothing of it.
            let mut small = Buffer::take();
            small.append(&vec![0; crate::proxy::buffer::BUFFER_SIZE - 2]);
            assert_eq!(far.read(small).await.0.unwrap(), 2);
            assert!(!far.is_quiet());
            far.readable().await.unwrap();
            assert_eq!(far.read(Buffer::take()).await.0.unwrap(), 4);
            assert!(far.is_quiet());
        });
    }
}

#[test]
fn garbage_is_answered_with_an_alert_and_an_error() {
    for way in NEW {
        on_both(move |backend| async move {
            let (near, far) = pair(backend, way).await;
            near.get_ref().write(text("\x17\x03\x03\x00\x20................................")).await.0.unwrap();
            let error = far.read(Buffer::take()).await.0.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            // The peer hears about it (after the tickets, which it does not look at here).
            let (result, _) = read_all(&near).await;
            assert!(result.unwrap_err().to_string().contains("BadRecordMac"));
        });
    }
}

#[test]
fn a_wrong_name_is_refused_with_a_readable_reason() {
    for way in NEW {
        on_both(move |backend| async move {
            let (server, mut client) = configs(way);
            client.name = "b.example".try_into().unwrap();
            let (near, far) = sockets(backend).await;
            let accept = async {
                let (_, bytes) = hello::read(&far, Buffer::take()).await.unwrap();
                TlsStream::accept(far, &server, bytes).await.unwrap_err().to_string()
            };
            let (near, far) = tokio::join!(TlsStream::connect(near, &client), accept);
            let near = near.unwrap_err().to_string();
            assert!(near.starts_with("certificate is for another name: expected \"b.example\", given"), "{near}");
            assert_eq!(far, "peer refused with alert BadCertificate");
        });
    }
}

#[test]
fn a_hello_in_single_bytes_over_single_byte_records() {
    for way in NEW {
        on_both(move |backend| async move {
            let (server, client) = configs(way);
            let (near, far) = sockets(backend).await;
            let mut connection = ClientConnection::new(Arc::clone(&client.config), client.name.clone()).unwrap();
            let mut whole = Vec::new();
            connection.write_tls(&mut whole).unwrap();
            let send = async {
                for byte in &whole[5..] {
                    for part in [&[0x16, 3, 1][..], &[0, 1, *byte]] {
                        near.write(Chunk::Pooled(Buffer::copy_of(part))).await.0.unwrap();
                        tokio::task::yield_now().await;
                    }
                }
                let stream = TlsStream::new(near, Layer::Rustls(Box::new(connection.into())), None);
                while stream.session.borrow().agreed().is_none() {
                    assert!(stream.receive().await.unwrap());
                    while stream.session.borrow_mut().feed().unwrap() {}
                    stream.send(&[]).await.unwrap();
                }
                stream
            };
            let accept = async {
                let (hello, bytes) = hello::read(&far, Buffer::take()).await.unwrap();
                assert_eq!(hello.server_name.as_deref(), Some("a.example"));
                TlsStream::accept(far, &server, bytes).await.unwrap()
            };
            let (near, far) = tokio::join!(send, accept);
            near.write(text("hi")).await.0.unwrap();
            assert_eq!(far.read(Buffer::take()).await.0.unwrap(), 2);
        });
    }
}

/// rustls must not be shown a second time what it refused: it would say so twice, or panic.
#[test]
fn a_handshake_that_is_refused_is_refused_once() {
    // Whole records, of which the first or the second is none of a handshake; what follows must not be looked at.
    let done: &[u8] = &[22, 3, 1, 0, 4, 14, 0, 0, 0];
    let junk: &[u8] = &[22, 3, 1, 0, 4, 1, 0, 0, 0];
    for (name, bytes) in [
        ("a message out of order", done.to_vec()),
        ("twice", [done, done].concat()),
        ("a ClientHello of nothing", [junk, done].concat()),
        ("data", vec![23, 3, 3, 0, 1, 0]),
    ] {
        on_both(move |backend| {
            let bytes = bytes.clone();
            async move {
                let (near, far) = sockets(backend).await;
                let (server, _) = configs(ALL[0]);
                let refused = TlsStream::accept(far, &server, Buffer::copy_of(&bytes)).await;
                assert!(refused.is_err(), "{name}");
                drop(refused);
                let (_, said) = read_all(&near).await;
                assert!(matches!(*said, [21, 3, _, 0, 2, 2, _]), "{name}: one fatal alert, not {said:?}");
            }
        });
    }
}

#[test]
fn a_client_without_its_certificate_is_told() {
    for way in [ALL[0], ALL[1]] {
        on_both(move |backend| async move {
            let (server, client) = configs(way);
            let mut roots = RootCertStore::empty();
            let key = rcgen::KeyPair::generate().unwrap();
            let authority = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
            roots.add(authority.der().clone()).unwrap();
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider()));
            let certificate = Arc::clone(&server.cert_resolver);
            let mut server = ServerConfig::builder_with_provider(Arc::clone(provider()))
                .with_protocol_versions(way.versions)
                .unwrap()
                .with_client_cert_verifier(verifier.build().unwrap())
                .with_cert_resolver(certificate);
            server.enable_secret_extraction = true;
            let server = Arc::new(server);
            let (near, far) = sockets(backend).await;
            let accept = async {
                let (_, bytes) = hello::read(&far, Buffer::take()).await.unwrap();
                TlsStream::accept(far, &server, bytes).await.map(drop)
            };
            let connect = async {
                match TlsStream::connect(near, &client).await {
                    Ok(stream) => read_all(&stream).await.0.unwrap_err().to_string(),
                    Err(error) => error.to_string(),
                }
            };
            let (said, refused) = tokio::join!(connect, accept);
            assert!(refused.unwrap_err().to_string().contains("certificate"));
            assert!(said.contains("Certificate") || said.contains("HandshakeFailure"), "{said}");
        });
    }
}

#[test]
fn a_record_that_nobody_sealed_is_refused_once() {
    for way in [ALL[0], ALL[1]] {
        on_both(move |backend| async move {
            let (server, client) = configs(way);
            let mut hello = Vec::new();
            let mut rustls = rustls::ClientConnection::new(client.config, client.name).unwrap();
            rustls.write_tls(&mut hello).unwrap();
            // Data under keys that the client cannot have yet, twice.
            let forged = [&[23, 3, 3, 0, 32][..], &[0; 32]].concat();
            let bytes = [hello, forged.clone(), forged].concat();
            let (near, far) = sockets(backend).await;
            let refused = TlsStream::accept(far, &server, Buffer::copy_of(&bytes)).await;
            assert!(refused.is_err());
            drop(refused);
            let (_, said) = read_all(&near).await;
            assert_eq!(said.first(), Some(&22), "its own part of the handshake came first");
        });
    }
}
