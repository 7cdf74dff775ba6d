//! What ACME CAs ask over loopback, on both back ends: answered before anything of the user's, and nothing else is.
#![allow(clippy::unwrap_used, clippy::panic)] // what fails in a helper fails the test

mod rig;
mod secure;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use edge::proxy::challenges::{Board, Challenges};
use edge::proxy::filters::session::Tokens;
use edge::proxy::h3::steering::Keys;
use edge::proxy::limits::Limits;
use edge::proxy::{Generation, Proxy, ProxyOptions};
use edge_acme::challenge::{Challenge, ChallengeKind, Identifier};
use edge_config::snapshot::*;
use rig::{Client, Origin, Rig, forward, on_both, rule, wait_for};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use secure::*;
use x509_parser::prelude::{FromDer as _, X509Certificate};

const TOKEN: &str = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA";

fn put(board: &Board, table: Challenges) {
    let revision = board.set(table);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(board.until_live(revision, Duration::from_secs(10))).unwrap();
}

fn stateless(hosts: &[&str]) -> Challenges {
    let mut table = Challenges::default();
    for host in hosts {
        table.answer_for(&Identifier::Dns((*host).into()), &"thumb".into());
    }
    table
}

fn challenge(kind: ChallengeKind, name: &str) -> Challenge {
    Challenge {
        identifier: Identifier::Dns(name.into()),
        wildcard: false,
        kind,
        token: TOKEN.into(),
        key_authorization: format!("{TOKEN}.told").into(),
    }
}

fn get(path: &str, host: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")
}

/// A CA looks into the certificate itself: webpki would stumble over the critical extension.
#[derive(Debug)]
struct Ca8737;

impl ServerCertVerifier for Ca8737 {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[test]
fn a_challenge_goes_before_routes_and_the_rest_to_them() {
    on_both(|backend| {
        let origin = Origin::echo();
        let redirect = Rule {
            action: Action::Redirect(Redirect {
                scheme: Some(Scheme::Https),
                hostname: None,
                port: None,
                path: None,
                status: 301,
            }),
            ..forward(vec![])
        };
        let rig = Rig::new(backend, vec![("/plain", rule(0)), ("", redirect)], vec![vec![origin.address]]);
        let path = format!("/.well-known/acme-challenge/{TOKEN}");
        let mut client = rig.client();
        client.send(&get(&path, "a.example"));
        assert!(client.message().0.starts_with("HTTP/1.1 301"), "nothing is ordered yet");

        let mut table = stateless(&["a.example"]);
        let asked = table.tell(&challenge(ChallengeKind::Http01, "told.example")).unwrap();
        put(rig.proxy.board(), table);
        // On the connection from before, and more than once.
        for (host, body) in [("a.example", "thumb"), ("A.Example:80", "thumb"), ("told.example", "told")] {
            client.send(&get(&path, host));
            let (head, content) = client.message();
            assert!(
                head.starts_with("HTTP/1.1 200") && head.contains("content-type: application/octet-stream"),
                "{head}"
            );
            assert_eq!(content, format!("{TOKEN}.{body}"));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        let head = rig.ask(&format!("HEAD {path} HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n"));
        assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
        for (path, host) in [(&*path, "b.example"), ("/.well-known/acme-challenge/", "a.example"), ("/", "a.example")] {
            client.send(&get(path, host));
            assert!(client.message().0.starts_with("HTTP/1.1 301"), "{path} {host}");
        }
        client.send(&get("/plain", "a.example"));
        assert!(client.message().0.starts_with("HTTP/1.1 200"));
        // No route at all.
        rig.publish(Vec::new(), Vec::new());
        client.send(&get(&path, "a.example"));
        assert!(client.message().0.starts_with("HTTP/1.1 200"));
        client.send(&get("/", "a.example"));
        assert!(client.message().0.starts_with("HTTP/1.1 404"));
        put(rig.proxy.board(), Challenges::default());
        client.send(&get(&path, "a.example"));
        assert!(client.message().0.starts_with("HTTP/1.1 404"));
    });
}

#[test]
fn port_80_of_nobody_answers_challenges_alone() {
    // Somewhere in 127/8 where nobody else is.
    let address: SocketAddr = "127.86.114.6:80".parse().unwrap();
    if let Err(error) = std::net::TcpListener::bind(address) {
        eprintln!("not tested: {address}: {error}");
        return;
    }
    on_both(|backend| {
        let options = ProxyOptions {
            workers: 2,
            backend: Some(backend),
            tokens: Tokens::new(b"test").unwrap(),
            keys: Keys::new(b"test"),
            log: None,
            handed: None,
        };
        let generation = |number, responders: &[SocketAddr]| Generation {
            number,
            snapshot: Arc::default(),
            endpoints: Arc::default(),
            tls: Arc::default(),
            secrets: Arc::default(),
            limits: Limits::default(),
            responders: responders.into(),
            maintenance: None,
            tracer: None,
        };
        let proxy = Proxy::start(options, generation(0, &[])).unwrap();
        assert!(proxy.publish(generation(1, &[address])).is_empty());
        wait_for(|| proxy.live() >= 1);
        put(proxy.board(), stateless(&["a.example"]));
        let mut client = Client::new(address);
        client.send(&get(&format!("/.well-known/acme-challenge/{TOKEN}"), "a.example"));
        assert_eq!(client.message().1, format!("{TOKEN}.thumb"));
        client.send(&get("/", "a.example"));
        assert!(client.message().0.starts_with("HTTP/1.1 404"));
        assert!(proxy.publish(generation(2, &[])).is_empty());
        wait_for(|| proxy.live() >= 2 && std::net::TcpStream::connect(address).is_err());
        proxy.stop();
    });
}

#[test]
fn handshakes_of_cas_are_answered_on_every_tls_listener() {
    on_each(|backend| {
        let (origin, ca) = (Origin::echo(), Ca::new());
        let leaf = ca.server(&["*.example"]);
        let behind = tls_origin(&leaf, None);
        let rig = SecureRig::new(backend);
        let stream_route = StreamRoute {
            route: rig::object(edge_config::names::Kind::TLSRoute, "pass"),
            backends: vec![rig::backend(0, 1)],
            affinity: None,
            admission: None,
        };
        let pass = [(pattern("pass.example"), stream_route)].into_iter().collect();
        let listeners = vec![
            https("here", "here.example", "a", 0),
            listener("pass", "pass.example", ListenerServe::TlsPassthrough { routes: pass }),
        ];
        let upstreams = vec![upstream(0, UpstreamProtocol::Stream, None), upstream(1, UpstreamProtocol::Http1, None)];
        let snapshot = snapshot(rig.address, listeners, vec![rule(1)], upstreams);
        rig.publish(snapshot, &cert_table(&[("a", &leaf)]), &[behind, origin.address]);

        let mut config = client_config(None, &["acme-tls/1"]);
        config.dangerous().set_certificate_verifier(Arc::new(Ca8737));
        let acme = Arc::new(config);
        // Nothing is ordered: for the user's own certificate this protocol does not exist.
        assert!(connect(rig.address, &acme, "here.example").is_err());

        let mut table = Challenges::default();
        for name in ["here.example", "pass.example", "nowhere.test"] {
            table.tell(&challenge(ChallengeKind::TlsAlpn01, name)).unwrap();
        }
        put(rig.proxy.board(), table);
        for name in ["here.example", "pass.example", "nowhere.test"] {
            let stream = connect(rig.address, &acme, name).unwrap();
            assert_eq!(stream.conn.alpn_protocol(), Some(&b"acme-tls/1"[..]));
            let shown = &stream.conn.peer_certificates().unwrap()[0];
            let (_, parsed) = X509Certificate::from_der(shown).unwrap();
            assert!(
                parsed.extensions().iter().any(|one| one.critical && one.oid.to_id_string() == "1.3.6.1.5.5.7.1.31")
            );
        }
        // Others are served as ever, also who offers that protocol among others.
        for protocols in [&["http/1.1"][..], &["acme-tls/1", "http/1.1"]] {
            let mut config = client_config(None, protocols);
            config.dangerous().set_certificate_verifier(anything());
            let mut stream = connect(rig.address, &Arc::new(config), "here.example").unwrap();
            assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
            assert!(ask(&mut stream, "here.example", "/").unwrap().starts_with("HTTP/1.1 200"));
        }
    });
}
