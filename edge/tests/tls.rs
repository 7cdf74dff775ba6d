//! TLS end to end over loopback, on both back ends: who is let in, which certificate is shown, whom Edge trusts.
#![allow(clippy::unwrap_used, clippy::panic)] // what fails in a helper fails the test

mod rig;
mod secure;

use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use edge::proxy::limits::Limits;
use edge::proxy::tls::provider;
use edge_config::snapshot::*;
use rig::{Origin, forward, object, rule};
use rustls::HandshakeKind;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;
use secure::*;

fn plain_upstreams(count: u32) -> Vec<Upstream> {
    (0..count).map(|index| upstream(index, UpstreamProtocol::Http1, None)).collect()
}

/// An endpoint that answers with a word.
fn saying(word: &'static str) -> Origin {
    Origin::new(move |client, _| {
        while !client.message().0.is_empty() {
            client.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{word}", word.len()));
        }
    })
}

#[test]
fn handshakes_are_full_and_then_resumed() {
    on_each(|backend| {
        let (origin, ca) = (Origin::echo(), Ca::new());
        let rig = SecureRig::new(backend);
        let leaf = ca.server(&["a.example"]);
        let snapshot = snapshot(rig.address, vec![https("a", "*", "a", 0)], vec![rule(0)], plain_upstreams(1));
        assert_eq!(rig.publish(snapshot, &cert_table(&[("a", &leaf)]), &[origin.address]), []);
        for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
            let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(provider()))
                .with_protocol_versions(versions)
                .unwrap()
                .with_root_certificates({
                    let mut roots = rustls::RootCertStore::empty();
                    roots.add(ca.der.clone()).unwrap();
                    roots
                })
                .with_no_client_auth();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            let config = Arc::new(config);
            for kind in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
                let mut stream = connect(rig.address, &config, "a.example").unwrap();
                assert_eq!(stream.conn.handshake_kind(), Some(kind), "{versions:?}");
                assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
                let answer = ask(&mut stream, "a.example", "/x").unwrap();
                assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("x-forwarded-proto: https"), "{answer}");
            }
        }
        // Offered, the hybrid key exchange is used.
        let stream = connect(rig.address, &Arc::new(client_config(None, &[])), "a.example").unwrap();
        let group = stream.conn.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    });
}

#[test]
fn the_name_picks_the_certificate_and_nobody_else_is_answered() {
    on_each(|backend| {
        let (origin, ca) = (Origin::echo(), Ca::new());
        let leaves =
            [ca.server(&["a.example"]), ca.server(&["*.wild.example"]), ca.server(&["x.example"]), ca.server(&["*"])];
        let rig = SecureRig::new(backend);
        let two = terminate(&["b", "c"], ClientValidation::Off);
        let listeners = vec![
            https("exact", "a.example", "a", 0),
            listener("wild", "*.wild.example", ListenerServe::Https { tls: two, routes: routes(&[("*", 0)]) }),
            https("star", "star.example", "d", 0),
        ];
        let table = cert_table(&[("a", &leaves[0]), ("b", &leaves[1]), ("c", &leaves[2]), ("d", &leaves[3])]);
        rig.publish(snapshot(rig.address, listeners, vec![rule(0)], plain_upstreams(1)), &table, &[origin.address]);
        let config = Arc::new(client_config(None, &[]));
        for (name, leaf) in [("a.example", 0), ("y.wild.example", 1), ("y.z.wild.example", 1), ("star.example", 3)] {
            let stream = connect(rig.address, &config, name).unwrap();
            assert_eq!(stream.conn.peer_certificates().unwrap(), leaves[leaf].chain, "{name}");
        }
        // No listener: not one byte, also not of an alert; and the same for what is no TLS.
        for name in ["b.example", "wild.example"] {
            let mut connection = rustls::ClientConnection::new(Arc::clone(&config), name.try_into().unwrap()).unwrap();
            let mut socket = tcp(rig.address);
            connection.write_tls(&mut socket).unwrap();
            assert_eq!(socket.read(&mut [0; 16]).unwrap_or(0), 0, "{name}");
        }
        let mut socket = tcp(rig.address);
        socket.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
        assert_eq!(socket.read(&mut [0; 16]).unwrap_or(0), 0);
    });
}

#[test]
fn a_hello_may_come_in_single_bytes_but_not_for_ever() {
    on_each(|backend| {
        let (origin, ca) = (Origin::echo(), Ca::new());
        // Hundreds of packets and a whole handshake on a busy machine fit into it.
        let limits = Limits { head_timeout: Duration::from_millis(1500), ..Limits::default() };
        let rig = SecureRig::with_limits(backend, limits);
        let leaf = ca.server(&["a.example"]);
        let snapshot = snapshot(rig.address, vec![https("a", "*", "a", 0)], vec![rule(0)], plain_upstreams(1));
        rig.publish(snapshot, &cert_table(&[("a", &leaf)]), &[origin.address]);
        let config = Arc::new(client_config(None, &[]));
        let hello = |connection: &mut rustls::ClientConnection| {
            let mut bytes = Vec::new();
            connection.write_tls(&mut bytes).unwrap();
            bytes
        };
        let mut connection =
            rustls::ClientConnection::new(Arc::clone(&config), "a.example".try_into().unwrap()).unwrap();
        let mut socket = tcp(rig.address);
        for byte in hello(&mut connection) {
            socket.write_all(&[byte]).unwrap();
        }
        let mut stream = rustls::StreamOwned::new(connection, socket);
        assert_eq!(status(&ask(&mut stream, "a.example", "/").unwrap()), 200);

        let mut connection = rustls::ClientConnection::new(config, "a.example".try_into().unwrap()).unwrap();
        for length in [0, 1, 100] {
            let mut socket = tcp(rig.address);
            let bytes = if length == 0 { Vec::new() } else { hello(&mut connection) };
            socket.write_all(&bytes[..length.min(bytes.len())]).unwrap();
            assert_eq!(socket.read(&mut [0; 16]).unwrap_or(0), 0, "{length} bytes and silence");
        }
    });
}

#[test]
fn client_certificates_are_required_or_only_asked_for() {
    on_each(|backend| {
        let origin = Origin::echo();
        let (ca, first, second, stranger) = (Ca::new(), Ca::new(), Ca::new(), Ca::new());
        let rig = SecureRig::new(backend);
        let leaf = ca.server(&["*"]);
        let listeners = [
            ("required", ClientValidation::Required { trust: TrustId(0) }),
            ("requested", ClientValidation::Requested { trust: TrustId(0) }),
            ("nobody", ClientValidation::Required { trust: TrustId(1) }),
            ("off", ClientValidation::Off),
        ]
        .map(|(name, validation)| {
            let serve = ListenerServe::Https { tls: terminate(&["a"], validation), routes: routes(&[("*", 0)]) };
            listener(name, &format!("{name}.example"), serve)
        });
        let mut snapshot = snapshot(rig.address, listeners.to_vec(), vec![rule(0)], plain_upstreams(1));
        // Two CAs of one name, of which the second has signed; and a set without a usable certificate.
        let broken = Trust { source: "ConfigMap default/broken".into(), certificates: vec![Arc::from(&b"x"[..])] };
        snapshot.trust = vec![trust(&[&first, &second]), broken];
        let reasons = rig.publish(snapshot, &cert_table(&[("a", &leaf)]), &[origin.address]);
        assert_eq!(reasons.len(), 1, "{reasons:?}");

        let good = second.client("me");
        let expired = second.issue(&["me"], rcgen::ExtendedKeyUsagePurpose::ClientAuth, expired);
        let wrong_use = second.server(&["me"]);
        let foreign = stranger.client("me");
        for (name, certificate, accepted) in [
            ("required.example", None, false),
            ("required.example", Some(&good), true),
            ("required.example", Some(&foreign), false),
            ("required.example", Some(&expired), false),
            ("required.example", Some(&wrong_use), false),
            ("requested.example", None, true),
            ("requested.example", Some(&good), true),
            ("requested.example", Some(&foreign), true),
            ("nobody.example", Some(&good), false),
            ("off.example", None, true),
            ("off.example", Some(&foreign), true),
        ] {
            let mut config = client_config(certificate, &[]);
            // A client that presents its certificate whatever CA is asked for.
            if let Some(leaf) = certificate {
                let key = rustls::sign::SingleCertAndKey::from((*leaf.entry().certified).clone());
                config.client_auth_cert_resolver = Arc::new(key);
            }
            let answer =
                connect(rig.address, &Arc::new(config), name).and_then(|mut stream| ask(&mut stream, name, "/"));
            assert_eq!(answer.is_ok(), accepted, "{name}: {answer:?}");
        }
    });
}

/// Gives any session to any name.
#[derive(Debug, Default)]
struct Careless(Mutex<(Option<Tls12ClientSessionValue>, Vec<Tls13ClientSessionValue>)>);

impl ClientSessionStore for Careless {
    fn set_kx_hint(&self, _: ServerName<'static>, _: rustls::NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<rustls::NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.lock().unwrap().0 = Some(value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.lock().unwrap().0.clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.lock().unwrap().1.push(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.lock().unwrap().1.pop()
    }
}

#[test]
fn a_session_is_worth_nothing_at_another_listener() {
    on_each(|backend| {
        let (origin, ca, client_ca) = (Origin::echo(), Ca::new(), Ca::new());
        let rig = SecureRig::new(backend);
        let leaf = ca.server(&["*"]);
        let serve =
            |validation| ListenerServe::Https { tls: terminate(&["a"], validation), routes: routes(&[("*", 0)]) };
        let required = ClientValidation::Required { trust: TrustId(0) };
        let listeners = vec![
            listener("open", "open.example", serve(ClientValidation::Off)),
            listener("other", "other.example", serve(ClientValidation::Off)),
            listener("closed", "closed.example", serve(required)),
        ];
        let mut first = snapshot(rig.address, listeners, vec![rule(0)], plain_upstreams(1));
        first.trust = vec![client_ca.trust()];
        let table = cert_table(&[("a", &leaf)]);
        rig.publish(first.clone(), &table, &[origin.address]);
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(provider()))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates({
                    let mut roots = rustls::RootCertStore::empty();
                    roots.add(ca.der.clone()).unwrap();
                    roots
                })
                .with_no_client_auth();
            config.dangerous().set_certificate_verifier(anything());
            config.resumption = rustls::client::Resumption::store(Arc::new(Careless::default()));
            let config = Arc::new(config);
            let kind = |name| {
                let mut stream = connect(rig.address, &config, name)?;
                let kind = stream.conn.handshake_kind().unwrap();
                ask(&mut stream, name, "/").map(|answer| (kind, status(&answer)))
            };
            assert_eq!(kind("open.example").unwrap(), (HandshakeKind::Full, 200));
            assert_eq!(kind("open.example").unwrap(), (HandshakeKind::Resumed, 200));
            assert_eq!(kind("other.example").unwrap().0, HandshakeKind::Full);
            assert_eq!(kind("open.example").unwrap().1, 200);
            assert!(kind("closed.example").is_err());

            // The rule of the same listener changes: what was resumed before is no longer.
            assert_eq!(kind("open.example").unwrap().1, 200);
            let mut stricter = first.clone();
            if let ListenerServe::Https { tls, .. } = &mut stricter.listeners[0].serve {
                tls.client_validation = required;
            }
            rig.publish(stricter, &table, &[origin.address]);
            assert!(kind("open.example").is_err());
            rig.publish(first.clone(), &table, &[origin.address]);
        }
    });
}

#[test]
fn a_renewal_counts_from_the_next_handshake_and_costs_no_session() {
    on_each(|backend| {
        let (origin, ca) = (Origin::echo(), Ca::new());
        let rig = SecureRig::new(backend);
        let (old, new) = (ca.server(&["a.example"]), ca.server(&["a.example"]));
        let make = || snapshot(rig.address, vec![https("a", "*", "a", 0)], vec![rule(0)], plain_upstreams(1));
        rig.publish(make(), &cert_table(&[("a", &old)]), &[origin.address]);
        let config = Arc::new(client_config(None, &[]));
        let mut before = connect(rig.address, &config, "a.example").unwrap();
        // Tickets come with the first answer.
        let mut stream = connect(rig.address, &config, "a.example").unwrap();
        ask(&mut stream, "a.example", "/").unwrap();
        rig.publish(make(), &cert_table(&[("a", &new)]), &[origin.address]);
        let resumed = connect(rig.address, &config, "a.example").unwrap();
        assert_eq!(resumed.conn.handshake_kind(), Some(HandshakeKind::Resumed));
        let fresh = connect(rig.address, &Arc::new(client_config(None, &[])), "a.example").unwrap();
        assert_eq!(fresh.conn.peer_certificates().unwrap(), new.chain);
        assert_eq!(status(&ask(&mut before, "a.example", "/").unwrap()), 200);
        // The certificate is gone altogether: closed, with a reason.
        let reasons = rig.publish(make(), &cert_table(&[]), &[origin.address]);
        let texts: Vec<_> = reasons.iter().map(|reason| reason.text.as_str()).collect();
        assert_eq!(texts, ["certificate default/a is not at hand", "no certificate at hand: connections are closed"]);
        assert!(connect(rig.address, &config, "a.example").is_err());
    });
}

#[test]
fn misdirected_requests_get_421() {
    on_each(|backend| {
        let words = ["v1", "v2", "v3"];
        let origins = words.map(saying);
        let ca = Ca::new();
        let rig = SecureRig::new(backend);
        let leaf = ca.server(&["*"]);
        // The listeners and routes of the conformance test.
        let serve = |hosts: &[(&str, u32)]| ListenerServe::Https {
            tls: terminate(&["a"], ClientValidation::Off),
            routes: routes(hosts),
        };
        let listeners = vec![
            listener("https", "*", serve(&[("example.org", 0)])),
            listener("https-with-hostname", "second-example.org", serve(&[("second-example.org", 1)])),
            listener(
                "https-with-wildcard-hostname",
                "*.wildcard.org",
                serve(&[("third-example.wildcard.org", 2), ("fifth-example.wildcard.org", 2)]),
            ),
            listener("https-with-hostname-matching-wildcard", "fourth-example.wildcard.org", serve(&[("*", 0)])),
        ];
        let rules = (0..3).map(rule).collect();
        let addresses: Vec<_> = origins.iter().map(|origin| origin.address).collect();
        rig.publish(
            snapshot(rig.address, listeners, rules, plain_upstreams(3)),
            &cert_table(&[("a", &leaf)]),
            &addresses,
        );
        let config = Arc::new(client_config(None, &[]));
        for (name, host, expected) in [
            ("example.org", "example.org", Ok("v1")),
            ("example.org", "second-example.org", Err(421)),
            ("example.org", "unknown-example.org", Err(404)),
            ("second-example.org", "second-example.org", Ok("v2")),
            ("second-example.org", "example.org", Err(421)),
            ("second-example.org", "unknown-example.org", Err(421)),
            ("third-example.wildcard.org", "third-example.wildcard.org", Ok("v3")),
            ("third-example.wildcard.org", "fifth-example.wildcard.org", Ok("v3")),
            ("third-example.wildcard.org", "fourth-example.wildcard.org", Err(421)),
            ("third-example.wildcard.org", "second-example.org", Err(421)),
            ("third-example.wildcard.org", "unknown-example.org", Err(421)),
            ("fourth-example.wildcard.org", "fourth-example.wildcard.org", Ok("v1")),
            ("fourth-example.wildcard.org", "fifth-example.wildcard.org", Err(421)),
            ("unknown-example.org", "example.org", Ok("v1")),
            ("unknown-example.org", "unknown-example.org", Err(404)),
        ] {
            let answer = ask(&mut connect(rig.address, &config, name).unwrap(), host, "/").unwrap();
            let result = if status(&answer) == 200 { Ok(&answer[answer.len() - 2..]) } else { Err(status(&answer)) };
            assert_eq!(result, expected, "SNI {name}, Host {host}");
        }
    });
}

#[test]
fn upstream_certificates_are_verified_as_the_policy_says() {
    on_each(|backend| {
        let (good_ca, other_ca, client_ca) = (Ca::new(), Ca::new(), Ca::new());
        let rig = SecureRig::new(backend);
        let backend_auth = rcgen::ExtendedKeyUsagePurpose::ServerAuth;
        let spiffe = "spiffe://abc.example.com/test-identity";
        let leaf = good_ca.server(&["abc.example.com", "other.example.com", spiffe]);
        let wild = good_ca.server(&["*.wild.example.com"]);
        let old = good_ca.issue(&["abc.example.com"], backend_auth, expired);
        let own = self_signed(&["own.example.com"], true);
        let own_trust = Trust { source: "pin".into(), certificates: vec![Arc::from(own.chain[0].as_ref())] };
        let me = client_ca.client("edge");

        let dns = |name: &str| SubjectAltName::Dns(name.into());
        let uri = |name: &str| SubjectAltName::Uri(name.into());
        let hostname = "abc.example.com";
        type Case<'a> = (&'a Leaf, bool, &'a str, Vec<SubjectAltName>, u32, bool, Result<&'a str, ()>);
        let cases: Vec<Case<'_>> = vec![
            (&leaf, false, hostname, vec![], 0, false, Ok("sni abc.example.com client false")),
            (&leaf, false, "wrong.example.com", vec![], 0, false, Err(())),
            (&leaf, false, hostname, vec![], 1, false, Err(())),
            (&leaf, false, hostname, vec![], 2, false, Ok("sni abc.example.com client false")),
            (&old, false, hostname, vec![], 0, false, Err(())),
            // With names given, the hostname is sent but not compared.
            (
                &leaf,
                false,
                "sni.example.com",
                vec![dns("x.example"), dns("other.example.com")],
                0,
                false,
                Ok("sni sni.example.com client false"),
            ),
            (&leaf, false, hostname, vec![dns("x.example")], 0, false, Err(())),
            (&leaf, false, "sni.example.com", vec![uri(spiffe)], 0, false, Ok("sni sni.example.com client false")),
            (&leaf, false, hostname, vec![uri("spiffe://abc.example.com/test")], 0, false, Err(())),
            (&leaf, false, hostname, vec![uri(spiffe)], 1, false, Err(())),
            (&leaf, false, hostname, vec![dns("*.example.com")], 0, false, Ok("sni abc.example.com client false")),
            (&wild, false, "a.wild.example.com", vec![], 0, false, Ok("sni a.wild.example.com client false")),
            (&wild, false, "a.b.wild.example.com", vec![], 0, false, Err(())),
            (&own, false, "own.example.com", vec![], 3, false, Ok("sni own.example.com client false")),
            (&own, false, "other.example.com", vec![], 3, false, Err(())),
            (&leaf, true, hostname, vec![], 0, true, Ok("sni abc.example.com client true")),
            (&leaf, true, hostname, vec![], 0, false, Err(())),
        ];
        for (number, (leaf, wants_client, hostname, names, trust_id, presents, expected)) in
            cases.into_iter().enumerate()
        {
            let origin = tls_origin(leaf, wants_client.then_some(&client_ca));
            let tls = UpstreamTls {
                hostname: hostname.into(),
                subject_alt_names: names,
                trust: Some(TrustId(trust_id)),
                client_certificate: presents.then(|| cert_id("me")),
                is_verified: true,
                parameters: None,
            };
            let mut upstream = upstream(0, UpstreamProtocol::Http1, Some(tls));
            upstream.key.variant = number.to_string().into();
            let mut snapshot = in_clear(rig.address, vec![rule(0)], vec![upstream]);
            snapshot.trust = vec![good_ca.trust(), other_ca.trust(), trust(&[&other_ca, &good_ca]), own_trust.clone()];
            let reasons = rig.publish(snapshot, &cert_table(&[("me", &me)]), &[origin]);
            assert_eq!(reasons, []);
            let mut client = rig::Client::new(rig.address);
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            let (head, body) = client.message();
            match expected {
                Ok(text) => assert!(head.starts_with("HTTP/1.1 200") && body == text, "case {number}: {head}{body}"),
                // With TLS 1.3 a client certificate is refused after the handshake: the request finds it closed.
                Err(()) => assert!(head.starts_with("HTTP/1.1 502"), "case {number}: {head}{body}"),
            }
        }
    });
}

#[test]
fn tls_routes_pass_through_or_terminate_by_name() {
    on_each(|backend| {
        let ca = Ca::new();
        let rig = SecureRig::new(backend);
        let (edge_leaf, own_leaf) = (ca.server(&["terminate.example"]), ca.server(&["pass.example"]));
        let tls_backend = tls_origin(&own_leaf, None);
        let echo = Origin::new(|client, _| {
            let line = client.until("\n");
            client.send(&line.to_uppercase());
            assert_eq!(client.rest(), "");
        });
        let route = |upstream| StreamRoute {
            route: object(edge_config::names::Kind::TLSRoute, "route"),
            backends: vec![rig::backend(upstream, 1)],
            affinity: None,
            admission: None,
        };
        let invalid = StreamRoute {
            backends: vec![Backend {
                target: Target::Invalid { status: 500, reason: "gone".into() },
                ..rig::backend(0, 1)
            }],
            ..route(0)
        };
        let only = |host: &str, route| [(pattern(host), route)].into_iter().collect();
        let listeners = vec![
            listener("pass", "pass.example", ListenerServe::TlsPassthrough { routes: only("pass.example", route(0)) }),
            listener("bad", "bad.example", ListenerServe::TlsPassthrough { routes: only("bad.example", invalid) }),
            listener(
                "terminate",
                "*.example",
                ListenerServe::TlsTerminate {
                    tls: terminate(&["a"], ClientValidation::Off),
                    routes: only("terminate.example", route(1)),
                },
            ),
        ];
        let upstreams = vec![upstream(0, UpstreamProtocol::Stream, None), upstream(1, UpstreamProtocol::Stream, None)];
        let snapshot = snapshot(rig.address, listeners, vec![forward(vec![])], upstreams);
        rig.publish(snapshot, &cert_table(&[("a", &edge_leaf)]), &[tls_backend, echo.address]);
        let config = Arc::new(client_config(None, &[]));

        let mut stream = connect(rig.address, &config, "pass.example").unwrap();
        assert_eq!(stream.conn.peer_certificates().unwrap(), own_leaf.chain);
        stream.write_all(b"x").unwrap();
        let mut seen = String::new();
        while !seen.ends_with("client false") {
            let mut bytes = [0; 200];
            let count = stream.read(&mut bytes).unwrap();
            assert!(count > 0, "{seen}");
            seen.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
        assert!(seen.contains("sni pass.example"), "{seen}");

        let mut stream = connect(rig.address, &config, "terminate.example").unwrap();
        assert_eq!(stream.conn.peer_certificates().unwrap(), edge_leaf.chain);
        assert_eq!(stream.conn.alpn_protocol(), None);
        stream.write_all(b"hello\n").unwrap();
        let mut bytes = [0; 6];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"HELLO\n");
        stream.conn.send_close_notify();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"");

        // A listener without a route for the name, and a route without a backend: closed, no alert.
        for name in ["unrouted.example", "bad.example"] {
            let mut connection = rustls::ClientConnection::new(Arc::clone(&config), name.try_into().unwrap()).unwrap();
            let mut socket = tcp(rig.address);
            connection.write_tls(&mut socket).unwrap();
            assert_eq!(socket.read(&mut [0; 16]).unwrap_or(0), 0, "{name}");
        }
    });
}

/// Another implementation, as far as the machine has it: every suite, key updates from its side, and bulk.
#[test]
fn openssl_is_understood() {
    use std::io::BufRead as _;
    use std::process::{Command, Stdio};
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("not tested: there is no openssl here");
        return;
    }
    on_each(|backend| {
        let ca = Ca::new();
        let body = "0123456789abcdef".repeat(20_000);
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let origin = Origin::new(move |client, _| {
            while !client.message().0.is_empty() {
                client.send(&answer);
            }
        });
        let rig = SecureRig::new(backend);
        let leaf = ca.server(&["a.example"]);
        let snapshot = snapshot(rig.address, vec![https("a", "*", "a", 0)], vec![rule(0)], plain_upstreams(1));
        rig.publish(snapshot, &cert_table(&[("a", &leaf)]), &[origin.address]);
        let address = rig.address.to_string();
        for (version, kind, suite) in [
            ("-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"),
            ("-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"),
            ("-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"),
            ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"),
            ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"),
            ("-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"),
        ] {
            let mut client = Command::new("openssl")
                .args(["s_client", "-connect", &address, "-servername", "a.example", version, kind, suite])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut input = client.stdin.take().unwrap();
            let mut output = std::io::BufReader::new(client.stdout.take().unwrap());
            let mut errors = std::io::BufReader::new(client.stderr.take().unwrap());
            let mut text = String::new();
            while !text.contains("---\nSSL handshake has read") {
                assert!(output.read_line(&mut text).unwrap() > 0, "{suite}: {text}");
            }
            let until = |reader: &mut dyn std::io::BufRead, what: &str| {
                let mut line = String::new();
                while !line.contains(what) {
                    line.clear();
                    assert!(reader.read_line(&mut line).unwrap() > 0, "{suite}: no {what}");
                }
            };
            if version == "-tls1_3" {
                // A key update alone, then one that asks for ours: s_client takes each by itself and says so.
                for command in ["k\n", "K\n", "K\n"] {
                    input.write_all(command.as_bytes()).unwrap();
                    until(&mut errors, "KEYUPDATE");
                }
            }
            let upload = "x".repeat(300_000);
            let head = format!("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: {}\r\n", upload.len());
            // A line that begins with a letter of its commands would be one.
            input.write_all(format!("{head}Connection: close\r\n\r\n{upload}").as_bytes()).unwrap();
            let mut rest = Vec::new();
            output.read_to_end(&mut rest).unwrap();
            let rest = String::from_utf8_lossy(&rest);
            assert!(rest.contains("200 OK") && rest.contains(&body), "{suite}: {:.300}", rest);
            drop(input);
            client.wait().unwrap();
        }
    });
}
