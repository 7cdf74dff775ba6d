//! Both sides over loopback, in clear and inside TLS, against each other and against the plain h2 crate.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::client::{Call, Connections};
use super::mux::Ended;
use super::serve::{self, Request};
use super::wire;
use crate::proxy::body::{Chunk, Sink, Source, StreamError};
use crate::proxy::buffer::Buffer;
use crate::proxy::clock::Clock;
use crate::proxy::h1::parse::HeadLimits;
use crate::proxy::io::{Backend, Socket, uring};
use crate::proxy::message::{Fields, Length, RequestHead, ResponseHead, Scheme};
use crate::proxy::tls::stream::TlsStream;
use crate::proxy::tls::table::UpstreamConfig;
use crate::proxy::tls::{hello, provider};
use crate::proxy::upstream::{Download as _, Upload as _};

fn on_both<F: Future<Output = ()> + 'static>(test: impl Fn(Worker) -> F) {
    let run = async |backend| {
        let clock = Clock::new();
        tokio::task::spawn_local(Rc::clone(&clock).run());
        let test = test(Worker { clock, backend });
        tokio::time::timeout(Duration::from_secs(30), test).await.expect("the test hangs");
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, run(Backend::Epoll));
    match uring::probe() {
        Ok(()) => uring::run(run(Backend::Uring)).unwrap(),
        Err(error) => eprintln!("io_uring not tested: {error}"),
    }
}

#[derive(Clone)]
struct Worker {
    clock: Rc<Clock>,
    backend: Backend,
}

const LIMITS: HeadLimits = HeadLimits { bytes: 16 << 10, fields: 50 };

fn settings() -> serve::Settings {
    serve::Settings {
        scheme: Scheme::Http,
        limits: LIMITS,
        head_timeout: Duration::from_secs(5),
        idle_timeout: Rc::new(Cell::new(Duration::from_secs(10))),
        stream_idle_timeout: Duration::from_secs(5),
        bounds: Default::default(),
    }
}

impl Worker {
    async fn pair(&self) -> (Socket, Socket) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let near = Socket::connect(listener.local_addr().unwrap(), self.backend).await.unwrap();
        let (far, _) = listener.accept().unwrap();
        far.set_nonblocking(true).unwrap();
        (near, Socket::from_std(far, self.backend).unwrap())
    }

    /// A server that echoes, and the client's end of its connection.
    async fn server(&self, settings: serve::Settings, drain: impl Future<Output = ()> + 'static) -> Socket {
        let (near, far) = self.pair().await;
        let wire = wire::plain(far, b"").unwrap();
        let clock = Rc::clone(&self.clock);
        tokio::task::spawn_local(async move { serve_with(wire, settings, clock, drain, echo).await });
        near
    }

    fn connections(&self, secure: bool) -> Connections {
        let settings = super::client::Settings {
            limits: LIMITS,
            idle_timeout: Duration::from_secs(10),
            stream_idle_timeout: Duration::from_secs(5),
            secure,
            requests: None,
            age: None,
        };
        Connections::new(settings, &self.clock)
    }
}

/// Serves a connection, every request by `service`; a request that is taken back is given up.
async fn serve_with<F: Future<Output = ()> + 'static>(
    wire: wire::Wire,
    settings: serve::Settings,
    clock: Rc<Clock>,
    drain: impl Future<Output = ()>,
    service: impl Fn(Request) -> F,
) -> Ended {
    let start = |request: Request, gone: serve::Gone| {
        let served = service(request);
        tokio::task::spawn_local(async move {
            tokio::select! {
                () = served => {}
                () = gone.wait() => {}
            }
        });
    };
    serve::serve(wire, settings, clock, Instant::now(), drain, start, |_| {}).await
}

/// Answers by path: what came, bytes without end, nothing, an abandoned response.
async fn echo(request: Request) {
    let Request { head, refused, mut body, mut sink } = request;
    let mut response = ResponseHead { status: 200, ..ResponseHead::default() };
    if let Some(refused) = refused {
        response.status = refused.status();
        sink.head(&response).await.unwrap();
        return sink.finish(None).await.unwrap();
    }
    let method = head.method().to_owned();
    response.fields.add(b"x-method", method.as_bytes());
    response.fields.add(b"x-host", head.host().as_bytes());
    match head.path() {
        "/never" => std::future::pending().await,
        "/interim" => {
            let mut early = ResponseHead { status: 103, ..ResponseHead::default() };
            early.fields.add(b"link", b"</a.css>");
            sink.interim(&early).await.unwrap();
            sink.head(&response).await.unwrap();
            sink.finish(None).await.unwrap();
        }
        "/cut" => {
            response.length = Length::Unknown;
            sink.head(&response).await.unwrap();
            sink.chunk(Chunk::Shared(Bytes::from_static(b"part"))).await.unwrap();
        }
        "/endless" => {
            response.length = Length::Unknown;
            sink.head(&response).await.unwrap();
            while sink.chunk(Chunk::Pooled(Buffer::copy_of(&[b'x'; 10_000]))).await.is_ok() {}
        }
        _ => {
            response.length = body.length();
            sink.head(&response).await.unwrap();
            loop {
                match body.next().await {
                    Ok(Some(chunk)) => sink.chunk(chunk).await.unwrap(),
                    Ok(None) => break,
                    Err(_) => return,
                }
                if !body.is_ready() {
                    sink.flush().await.unwrap();
                }
            }
            sink.finish(body.trailers().as_ref()).await.unwrap();
        }
    }
}

fn head(method: &str, path: &str, length: Length) -> RequestHead {
    let mut head = RequestHead { length, te_trailers: true, ..RequestHead::default() };
    head.method = head.fields.store(method.as_bytes());
    head.authority = head.fields.store(b"a.example");
    head.path = head.fields.store(path.as_bytes());
    head
}

async fn call(connections: &Connections, socket: Socket, head: &RequestHead) -> Call {
    let place = connections.place(async || wire::plain(socket, b"")).await.unwrap();
    place.begin(head).unwrap()
}

/// A call over a connection that is there already.
async fn again(connections: &Connections, head: &RequestHead) -> Call {
    let place = connections.place(async || Err::<_, std::io::Error>(std::io::ErrorKind::Other.into())).await.unwrap();
    assert!(place.reused);
    place.begin(head).unwrap()
}

async fn rest(mut download: impl Source) -> Result<(Vec<u8>, Option<Fields>), StreamError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = download.next().await? {
        bytes.extend_from_slice(chunk.as_slice());
    }
    Ok((bytes, download.trailers()))
}

#[test]
fn bodies_and_trailers_go_both_ways() {
    on_both(|worker| async move {
        let socket = worker.server(settings(), std::future::pending()).await;
        let connections = worker.connections(false);
        let mut call = call(&connections, socket, &head("POST", "/", Length::Unknown)).await;
        let (mut up, mut down) = call.halves();
        let mut response = ResponseHead::default();
        let sent: Vec<u8> = (0..1 << 20).map(|i| (i % 251) as u8).collect();
        let upload = async {
            for chunk in sent.chunks(12_345) {
                up.chunk(Chunk::Pooled(Buffer::copy_of(chunk))).await.unwrap();
            }
            let mut trailers = Fields::default();
            trailers.add(b"grpc-status", b"0");
            up.finish(Some(&trailers)).await.unwrap();
        };
        let download = async {
            down.head(&mut response).await.unwrap();
            rest(down).await.unwrap()
        };
        let ((), (bytes, trailers)) = tokio::join!(upload, download);
        assert!(bytes == sent);
        assert_eq!(trailers.unwrap().first(b"grpc-status"), Some(&b"0"[..]));
        assert_eq!((response.status, response.length), (200, Length::Unknown));
        assert_eq!(response.fields.first(b"x-host"), Some(&b"a.example"[..]));
    });
}

#[test]
fn many_requests_share_one_connection() {
    on_both(|worker| async move {
        let socket = worker.server(settings(), std::future::pending()).await;
        let connections = worker.connections(false);
        drop(call(&connections, socket, &head("GET", "/never", Length::None)).await);
        let calls = (0..60).map(|number| {
            let connections = &connections;
            async move {
                let mut call = again(connections, &head("POST", "/", Length::Known(3))).await;
                let (mut up, mut down) = call.halves();
                let text = format!("{number:03}");
                up.chunk(Chunk::Shared(text.clone().into())).await.unwrap();
                up.finish(None).await.unwrap();
                let mut response = ResponseHead::default();
                down.head(&mut response).await.unwrap();
                assert_eq!(response.length, Length::Known(3));
                assert_eq!(rest(down).await.unwrap().0, text.as_bytes());
            }
        });
        futures_util::future::join_all(calls).await;
        assert_eq!(connections.len(), 1);
    });
}

#[test]
fn a_response_without_a_body_and_an_interim_one() {
    on_both(|worker| async move {
        let socket = worker.server(settings(), std::future::pending()).await;
        let connections = worker.connections(false);
        let mut call = call(&connections, socket, &head("GET", "/interim", Length::None)).await;
        let (_, mut down) = call.halves();
        let mut response = ResponseHead::default();
        down.head(&mut response).await.unwrap();
        assert_eq!((response.status, response.fields.first(b"link")), (103, Some(&b"</a.css>"[..])));
        down.head(&mut response).await.unwrap();
        assert_eq!((response.status, response.length), (200, Length::None));
        assert_eq!(rest(down).await.unwrap().0, b"");
    });
}

#[test]
fn a_response_that_is_given_up_is_seen_to_be_cut_off() {
    on_both(|worker| async move {
        let socket = worker.server(settings(), std::future::pending()).await;
        let connections = worker.connections(false);
        let mut first = call(&connections, socket, &head("GET", "/cut", Length::None)).await;
        let (_, mut down) = first.halves();
        let mut response = ResponseHead::default();
        // The reset may overtake what was sent before it.
        let end = match down.head(&mut response).await {
            Ok(()) => rest(down).await.map(drop),
            Err(error) => Err(error),
        };
        assert!(matches!(end, Err(StreamError::Closed)));
        // Only that stream.
        let mut second = again(&connections, &head("GET", "/", Length::None)).await;
        second.halves().1.head(&mut response).await.unwrap();
        assert_eq!(response.status, 200);
    });
}

#[test]
fn a_slow_reader_holds_the_sender_back_and_leaving_frees_it() {
    on_both(|worker| async move {
        let served = Rc::new(Cell::new(0_usize));
        let (near, far) = worker.pair().await;
        let wire = wire::plain(far, b"").unwrap();
        let (clock, count, over) = (Rc::clone(&worker.clock), Rc::clone(&served), Rc::new(tokio::sync::Notify::new()));
        let done = Rc::clone(&over);
        tokio::task::spawn_local(serve_with(wire, settings(), clock, std::future::pending(), move |request| {
            let (count, done) = (Rc::clone(&count), Rc::clone(&done));
            async move {
                struct OnDrop(Rc<tokio::sync::Notify>);
                impl Drop for OnDrop {
                    fn drop(&mut self) {
                        self.0.notify_one();
                    }
                }
                let _done = OnDrop(done);
                let mut sink = request.sink;
                let response = ResponseHead { status: 200, length: Length::Unknown, ..ResponseHead::default() };
                sink.head(&response).await.unwrap();
                while sink.chunk(Chunk::Shared(Bytes::from_static(&[0; 16384]))).await.is_ok() {
                    count.set(count.get() + 16384);
                }
            }
        }));
        let connections = worker.connections(false);
        let mut call = call(&connections, near, &head("GET", "/", Length::None)).await;
        let mut response = ResponseHead::default();
        call.halves().1.head(&mut response).await.unwrap();
        // Nothing is read: the sender stops at the window (256 KiB).
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(served.get() <= (256 + 64 + 16) << 10, "{} bytes", served.get());
        drop(call);
        over.notified().await;
    });
}

#[test]
fn malformed_requests_are_refused_one_by_one() {
    on_both(|worker| async move {
        let socket = worker.server(settings(), std::future::pending()).await.into_tokio().unwrap();
        let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::task::spawn_local(async move { connection.await.unwrap() });
        for (uri, host, status) in [
            ("http://a.example/..;/b", None, 400),
            ("http://a.example/", Some("b.example"), 400),
            ("http://a.example/ok", Some("a.example"), 200),
        ] {
            let mut request = http::Request::builder().uri(uri);
            if let Some(host) = host {
                request = request.header("host", host);
            }
            let (response, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
            assert_eq!(response.await.unwrap().status(), status, "{uri}");
        }
        // More header bytes than allowed.
        let request = http::Request::builder().uri("http://a.example/").header("x-big", "x".repeat(20_000));
        let (response, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 431);
    });
}

#[test]
fn a_drained_connection_ends_after_its_last_request() {
    on_both(|worker| async move {
        let drain = Rc::new(tokio::sync::Notify::new());
        let drained = Rc::clone(&drain);
        let socket = worker.server(settings(), async move { drained.notified().await }).await;
        let connections = worker.connections(false);
        let mut call = call(&connections, socket, &head("POST", "/", Length::Unknown)).await;
        let (mut up, mut down) = call.halves();
        up.chunk(Chunk::Shared(Bytes::from_static(b"a"))).await.unwrap();
        let mut response = ResponseHead::default();
        down.head(&mut response).await.unwrap();
        drain.notify_one();
        // The request in progress goes on; new ones go elsewhere as soon as GOAWAY is here.
        while connections.place(async || Err::<_, std::io::Error>(std::io::ErrorKind::Other.into())).await.is_ok() {
            tokio::task::yield_now().await;
        }
        up.chunk(Chunk::Shared(Bytes::from_static(b"b"))).await.unwrap();
        up.finish(None).await.unwrap();
        assert_eq!(rest(down).await.unwrap().0, b"ab");
    });
}

#[test]
fn an_idle_connection_is_ended_by_the_server() {
    on_both(|worker| async move {
        let short = serve::Settings { idle_timeout: Rc::new(Cell::new(Duration::from_millis(30))), ..settings() };
        let socket = worker.server(short, std::future::pending()).await.into_tokio().unwrap();
        let (client, connection) = h2::client::handshake(socket).await.unwrap();
        connection.await.unwrap();
        drop(client);
    });
}

#[test]
fn the_first_request_tells_how_long_idling_is_allowed() {
    on_both(|worker| async move {
        let (near, far) = worker.pair().await;
        let (wire, clock) = (wire::plain(far, b"").unwrap(), Rc::clone(&worker.clock));
        let patient = serve::Settings { idle_timeout: Rc::new(Cell::new(Duration::from_secs(3600))), ..settings() };
        let idle = Rc::clone(&patient.idle_timeout);
        let answer = move |request| {
            idle.set(Duration::from_millis(30));
            echo(request)
        };
        tokio::task::spawn_local(serve_with(wire, patient, clock, std::future::pending(), answer));
        let (mut client, connection) = h2::client::handshake(near.into_tokio().unwrap()).await.unwrap();
        let connection = tokio::task::spawn_local(connection);
        let (response, _) = client.send_request(http::Request::new(()), true).unwrap();
        response.await.unwrap();
        connection.await.unwrap().unwrap();
    });
}

#[test]
fn a_client_that_says_nothing_is_cut_off() {
    on_both(|worker| async move {
        use tokio::io::AsyncReadExt as _;
        let short = serve::Settings { head_timeout: Duration::from_millis(30), ..settings() };
        let mut socket = worker.server(short, std::future::pending()).await.into_tokio().unwrap();
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).await.unwrap();
    });
}

#[test]
fn rapid_resets_end_the_connection_and_leave_no_service_behind() {
    on_both(|worker| async move {
        let (near, far) = worker.pair().await;
        let wire = wire::plain(far, b"").unwrap();
        let alive = Rc::new(Cell::new(0_i64));
        let most = Rc::new(Cell::new(0));
        let (clock, count, peak) = (Rc::clone(&worker.clock), Rc::clone(&alive), Rc::clone(&most));
        let server =
            tokio::task::spawn_local(serve_with(wire, settings(), clock, std::future::pending(), move |request| {
                let (count, peak) = (Rc::clone(&count), Rc::clone(&peak));
                async move {
                    struct Alive(Rc<Cell<i64>>);
                    impl Drop for Alive {
                        fn drop(&mut self) {
                            self.0.set(self.0.get() - 1);
                        }
                    }
                    count.set(count.get() + 1);
                    peak.set(count.get().max(peak.get()));
                    let _alive = Alive(count);
                    let _request = request;
                    std::future::pending::<()>().await;
                }
            }));
        let (mut client, connection) = h2::client::handshake(near.into_tokio().unwrap()).await.unwrap();
        let connection = tokio::task::spawn_local(connection);
        let mut sent = 0;
        loop {
            let Ok(ready) = client.clone().ready().await else { break };
            client = ready;
            let request = http::Request::builder().uri("http://a.example/").body(()).unwrap();
            let Ok((response, mut stream)) = client.send_request(request, false) else { break };
            // Time for the request to be seen, so that h2's own limit is not what ends it.
            tokio::task::yield_now().await;
            stream.send_reset(h2::Reason::CANCEL);
            drop(response);
            sent += 1;
            assert!(sent < 20_000, "still served");
        }
        drop(client);
        let _ = connection.await.unwrap();
        assert!(matches!(server.await.unwrap(), Ended::Flooded(_)));
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(alive.get(), 0);
        assert!(most.get() <= 100, "{} at once", most.get());
    });
}

#[test]
fn a_refused_stream_may_be_sent_again() {
    on_both(|worker| async move {
        let (near, far) = worker.pair().await;
        let far = far.into_tokio().unwrap();
        tokio::task::spawn_local(async move {
            let mut server = h2::server::handshake(far).await.unwrap();
            let mut first = true;
            while let Some(Ok((_, mut reply))) = server.accept().await {
                let reason = if std::mem::take(&mut first) { h2::Reason::REFUSED_STREAM } else { h2::Reason::CANCEL };
                reply.send_reset(reason);
            }
        });
        let connections = worker.connections(false);
        let mut refused = call(&connections, near, &head("POST", "/", Length::None)).await;
        let mut response = ResponseHead::default();
        assert!(refused.halves().1.head(&mut response).await.is_err());
        assert!(!refused.was_processed());
        let mut cancelled = again(&connections, &head("POST", "/", Length::None)).await;
        assert!(cancelled.halves().1.head(&mut response).await.is_err());
        assert!(cancelled.was_processed());
    });
}

#[test]
fn the_endpoints_limit_of_streams_is_respected_with_more_connections() {
    on_both(|worker| async move {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let peak = Rc::new(RefCell::new(Vec::<usize>::new()));
        let peaks = Rc::clone(&peak);
        tokio::task::spawn_local(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let index = peaks.borrow().len();
                peaks.borrow_mut().push(0);
                let peaks = Rc::clone(&peaks);
                tokio::task::spawn_local(async move {
                    let mut server = h2::server::Builder::new()
                        .max_concurrent_streams(2)
                        .handshake::<_, Bytes>(socket)
                        .await
                        .unwrap();
                    let open = Rc::new(Cell::new(0));
                    while let Some(Ok((_, mut reply))) = server.accept().await {
                        open.set(open.get() + 1);
                        let most = open.get().max(peaks.borrow()[index]);
                        peaks.borrow_mut()[index] = most;
                        let open = Rc::clone(&open);
                        tokio::task::spawn_local(async move {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                            open.set(open.get() - 1);
                            let _ = reply.send_response(http::Response::new(()), true);
                        });
                    }
                });
            }
        });
        let connections = worker.connections(false);
        let one = async || {
            let dial = async || wire::plain(Socket::connect(address, worker.backend).await?, b"");
            let place = connections.place::<std::io::Error>(dial).await.unwrap();
            let mut call = place.begin(&head("GET", "/", Length::None)).unwrap();
            let mut response = ResponseHead::default();
            call.halves().1.head(&mut response).await.unwrap();
            response.status
        };
        // The first tells the limit.
        assert_eq!(one().await, 200);
        let all = futures_util::future::join_all((0..50).map(|_| one())).await;
        assert!(all.iter().all(|status| *status == 200));
        assert!(connections.len() <= 8);
        assert!(peak.borrow().iter().all(|most| *most <= 2), "{:?}", peak.borrow());
    });
}

fn configs(own: bool) -> (Arc<rustls::ServerConfig>, UpstreamConfig) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["a.example".into()]).unwrap().self_signed(&key).unwrap();
    let mut server = rustls::ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap();
    server.enable_secret_extraction = own;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let mut client = rustls::ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    (Arc::new(server), UpstreamConfig { config: Arc::new(client), name: "a.example".try_into().unwrap() })
}

#[test]
fn all_of_it_inside_tls_in_bulk() {
    for own in [true, false] {
        on_both(move |worker| async move {
            let (server, client) = configs(own);
            let (near, far) = worker.pair().await;
            let clock = Rc::clone(&worker.clock);
            tokio::task::spawn_local(async move {
                let (hello, bytes) = hello::read(&far, Buffer::take()).await.unwrap();
                assert_eq!(hello.protocols, [Box::from(&b"h2"[..])]);
                let stream = TlsStream::accept(far, &server, bytes).await.unwrap();
                assert!(stream.is_h2());
                let settings = serve::Settings { scheme: Scheme::Https, ..settings() };
                serve_with(wire::tls(stream).unwrap(), settings, clock, std::future::pending(), echo).await
            });
            let connections = worker.connections(true);
            let dial = async || {
                let stream = TlsStream::connect(near, &client).await.map_err(std::io::Error::other)?;
                assert!(stream.is_h2());
                wire::tls(stream)
            };
            let mut call = connections.place(dial).await.unwrap().begin(&head("POST", "/", Length::Unknown)).unwrap();
            let (mut up, mut down) = call.halves();
            let sent: Vec<u8> = (0..5 << 20).map(|i| (i % 251) as u8).collect();
            let upload = async {
                for chunk in sent.chunks(16_384) {
                    up.chunk(Chunk::Pooled(Buffer::copy_of(chunk))).await.unwrap();
                }
                up.finish(None).await.unwrap();
            };
            let download = async {
                down.head(&mut ResponseHead::default()).await.unwrap();
                rest(down).await.unwrap().0
            };
            let ((), bytes) = tokio::join!(upload, download);
            assert!(bytes == sent);
            // Small ones after that, to see that nothing is forgotten unsent.
            for _ in 0..50 {
                let mut call = again(&connections, &head("GET", "/", Length::None)).await;
                call.halves().1.head(&mut ResponseHead::default()).await.unwrap();
            }
        });
    }
}
