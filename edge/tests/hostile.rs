//! What must not happen whatever a peer sends and whenever a generation changes, end to end over loopback on both back ends:
//! a connection out of step, a rule or a listener reached past its condition, a deadline that cuts what it is not about.
#![allow(clippy::unwrap_used, clippy::panic)] // what fails in a helper fails the test

mod rig;
mod secure;

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use edge::proxy::limits::Limits;
use edge_config::snapshot::*;
use rig::{Origin, Rig, on_both, rule};
use secure::{Ca, SecureRig, cert_table, client_config, connect, listener, routes, status, tcp, terminate};

/// A body that breaks the grammar has no end that both sides agree on: what follows is no request, however it looks.
#[test]
fn nothing_is_read_behind_a_broken_body() {
    on_both(|io| {
        let origin = Origin::new(|client, _| while !client.message().0.is_empty() {});
        let rig = Rig::plain(io, origin.address);
        for broken in ["0x2\r\nok\r\n", "2\nok\r\n", "2\r\nokay", "0\r\nno field\r\n\r\n"] {
            let mut client = rig.client();
            client.send(&format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{broken}"));
            let (head, _) = client.message();
            assert!(head.starts_with("HTTP/1.1 400 ") && head.contains("connection: close\r\n"), "{broken:?} {head}");
            // The end of the request for whoever reads it in another way.
            let _ = client.stream.write_all(b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.rest(), "", "{broken:?}");
        }
    });
}

#[test]
fn a_body_that_stops_is_told_so() {
    on_both(|io| {
        let origin = Origin::new(|client, _| drop(client.rest()));
        let limits = Limits { stream_idle_timeout: Duration::from_millis(100), ..Limits::default() };
        let rig = Rig::with_limits(io, vec![("", rule(0))], vec![vec![origin.address]], limits);
        for request in ["Content-Length: 5\r\n\r\nab", "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"] {
            let answer = rig.ask(&format!("POST / HTTP/1.1\r\nHost: a\r\n{request}"));
            assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("connection: close\r\n"), "{answer:?}");
        }
    });
}

/// A listener is known by its place in a generation; the handshake may last into the next one.
#[test]
fn a_generation_within_a_handshake_leads_to_no_other_listener() {
    on_both(|io| {
        let ca = Ca::new();
        let rig = SecureRig::new(io);
        let saying = |word: &'static str| {
            Origin::new(move |client, _| {
                client.send(word);
                client.rest();
            })
        };
        let (right, wrong) = (saying("right"), saying("wrong"));
        let route = |upstream| StreamRoute {
            route: rig::object(edge_config::names::Kind::TLSRoute, "route"),
            backends: vec![rig::backend(upstream, 1)],
            affinity: None,
            admission: None,
        };
        let over_tls = |name: &str, host: &str, upstream| {
            let routes = [(secure::pattern("*"), route(upstream))].into_iter().collect();
            let tls = terminate(&["a"], ClientValidation::Off);
            listener(name, host, ListenerServe::TlsTerminate { tls, routes })
        };
        let table = cert_table(&[("a", &ca.server(&["*"]))]);
        let publish = |listeners: Vec<Listener>| {
            let upstream = |index| secure::upstream(index, UpstreamProtocol::Stream, None);
            let snapshot = secure::snapshot(rig.address, listeners, vec![], vec![upstream(0), upstream(1)]);
            rig.publish(snapshot, &table, &[right.address, wrong.address]);
        };
        publish(vec![over_tls("a", "a.example", 0)]);
        let config = Arc::new(client_config(None, &[]));
        let mut connection = rustls::ClientConnection::new(config, "a.example".try_into().unwrap()).unwrap();
        let mut socket = tcp(rig.address);
        connection.write_tls(&mut socket).unwrap();
        connection.read_tls(&mut socket).unwrap();
        // The handshake has begun; now another listener takes the place of this one.
        publish(vec![over_tls("b", "b.example", 1), over_tls("a", "a.example", 0)]);
        connection.process_new_packets().unwrap();
        let mut stream = rustls::StreamOwned::new(connection, socket);
        let mut word = [0; 5];
        stream.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"right");
    });
}

fn mutual(name: &str, host: &str, validation: ClientValidation) -> Listener {
    listener(name, host, ListenerServe::Https { tls: terminate(&["a"], validation), routes: routes(&[("*", 0)]) })
}

/// A connection on which no certificate was shown is not let into a listener that has come to require one.
#[test]
fn a_requirement_for_certificates_counts_on_old_connections() {
    on_both(|io| {
        let (origin, ca) = (Origin::echo(), Ca::new());
        let rig = SecureRig::new(io);
        let table = cert_table(&[("a", &ca.server(&["*"]))]);
        let publish = |listeners: Vec<Listener>| {
            let upstreams = vec![secure::upstream(0, UpstreamProtocol::Http1, None)];
            let mut snapshot = secure::snapshot(rig.address, listeners, vec![rule(0)], upstreams);
            snapshot.trust = vec![secure::trust(&[&ca])];
            rig.publish(snapshot, &table, &[origin.address]);
        };
        let required = ClientValidation::Required { trust: TrustId(0) };
        let ask = |stream: &mut secure::Stream| {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x.example\r\n\r\n").unwrap();
            let mut bytes = [0; 4096];
            let count = stream.read(&mut bytes).unwrap();
            status(std::str::from_utf8(&bytes[..count]).unwrap())
        };
        let (anyone, me) = (Arc::new(client_config(None, &[])), Arc::new(client_config(Some(&ca.client("me")), &[])));
        for later in [
            vec![mutual("all", "*", required)],
            vec![mutual("all", "*", ClientValidation::Off), mutual("one", "x.example", required)],
        ] {
            publish(vec![mutual("all", "*", ClientValidation::Off)]);
            let mut stream = connect(rig.address, &anyone, "x.example").unwrap();
            assert_eq!(ask(&mut stream), 200);
            publish(later);
            assert_eq!(ask(&mut stream), 421);
            let mut stream = connect(rig.address, &me, "x.example").unwrap();
            assert_eq!(ask(&mut stream), 200);
        }
        // Who has shown one goes on, also when the listener gets another place or another bundle.
        publish(vec![mutual("one", "x.example", required)]);
        let mut stream = connect(rig.address, &me, "x.example").unwrap();
        assert_eq!(ask(&mut stream), 200);
        publish(vec![mutual("first", "y.example", required), mutual("one", "x.example", required)]);
        assert_eq!(ask(&mut stream), 200);
    });
}

/// The client knows its own path, not the one that the backend gets.
#[test]
fn a_session_cookie_is_for_the_path_that_was_asked_for() {
    on_both(|io| {
        let origin = Origin::echo();
        let mut sticky = rule(0);
        Arc::make_mut(&mut sticky.filters).rewrite =
            Some(Rewrite { hostname: None, path: Some(PathEdit::Prefix("/inner/v1".into())) });
        sticky.session = Some(Box::new(SessionPersistence {
            carrier: SessionCarrier::SessionCookie,
            name: "edge".into(),
            absolute_timeout: None,
        }));
        let rig = Rig::new(io, vec![("/shop", sticky)], vec![vec![origin.address]]);
        let answer = rig.ask("GET /shop/cart HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert!(answer.contains("GET /inner/v1/cart ") && answer.contains("; Path=/shop;"), "{answer}");
    });
}

/// The timeouts of a rule are about the answer, which for a WebSocket is the 101.
#[test]
fn a_tunnel_outlives_the_timeouts_of_its_rule() {
    on_both(|io| {
        let origin = Origin::new(|client, _| {
            client.head();
            client.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
            let asked = client.exactly(4);
            client.send(&asked.to_uppercase());
            client.rest();
        });
        let limit = Some(Duration::from_millis(500));
        let mut limited = rule(0);
        limited.timeouts = Timeouts { request: limit, backend_request: limit, ..Timeouts::default() };
        let rig = Rig::new(io, vec![("", limited)], vec![vec![origin.address]]);
        let mut client = rig.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
        assert!(client.head().starts_with("HTTP/1.1 101 "));
        std::thread::sleep(Duration::from_millis(900));
        client.send("ping");
        assert_eq!(client.exactly(4), "PING");
    });
}

/// Some backends merge trailers into the head, where these fields are Edge's own.
#[test]
fn trailers_claim_nothing_about_the_client() {
    on_both(|io| {
        let origin = Origin::echo();
        let rig = Rig::plain(io, origin.address);
        let answer = rig.ask(
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 7\r\n\
             X-Forwarded-Client-Cert: me\r\nTrue-Client-IP: 6.6.6.6\r\nx_forwarded_proto: https\r\n\r\n",
        );
        assert!(answer.contains("[x-sum: 7]"), "{answer}");
        assert!(!answer.contains("6.6.6.6") && !answer.contains(": me"), "{answer}");
    });
}

/// Servers that take `_` for `-` would frame a message by a field that Edge has not looked at.
#[test]
fn aliases_of_framing_fields_are_not_passed_on() {
    on_both(|io| {
        let origin = Origin::echo();
        let rig = Rig::plain(io, origin.address);
        let answer = rig.ask(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent_Length: 5\r\nTransfer_Encoding: chunked\r\n\
             x_other: kept\r\n\r\n",
        );
        assert!(answer.contains("x_other: kept\r\n"), "{answer}");
        assert!(!answer.contains("ontent_length") && !answer.contains("ransfer_encoding"), "{answer}");
    });
}

/// A listener may be less patient than edge.toml, and its first request is no exception.
#[test]
fn the_patience_of_a_listener_counts_from_the_first_request() {
    on_both(|io| {
        let (origin, ca) = (Origin::echo(), Ca::new());
        let rig = SecureRig::new(io);
        let mut impatient = mutual("all", "*", ClientValidation::Off);
        impatient.client.head_timeout = Duration::from_millis(300);
        let upstreams = vec![secure::upstream(0, UpstreamProtocol::Http1, None)];
        let snapshot = secure::snapshot(rig.address, vec![impatient], vec![rule(0)], upstreams);
        rig.publish(snapshot, &cert_table(&[("a", &ca.server(&["*"]))]), &[origin.address]);
        for protocol in ["http/1.1", "h2"] {
            let begun = Instant::now();
            let mut stream = connect(rig.address, &Arc::new(client_config(None, &[protocol])), "x.example").unwrap();
            // Its end, or with h2 the SETTINGS and then the end.
            while stream.read(&mut [0; 100]).is_ok_and(|count| count > 0) {}
            // What edge.toml says is longer.
            assert!(begun.elapsed() < Limits::default().head_timeout, "{protocol} {:?}", begun.elapsed());
        }
    });
}

/// Beyond what is kept of a body there is no second try, and the answer of the first is the answer.
#[test]
fn an_answer_that_cannot_be_tried_again_is_passed_on() {
    on_both(|io| {
        let origin = Origin::new(|client, _| {
            while !client.message().0.is_empty() {
                client.send("HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: 5\r\n\r\nlater");
            }
        });
        let mut again = rule(0);
        again.retry = Some(Box::new(Retry::new(vec![503], 1, Duration::ZERO)));
        let rig = Rig::new(io, vec![("", again)], vec![vec![origin.address]]);
        for length in [100_000, 10] {
            let mut client = rig.client();
            client.send(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"));
            client.send(&"x".repeat(length));
            let (head, body) = client.message();
            assert!(head.contains("retry-after: 7") && body == "later", "{length} {head}{body}");
        }
    });
}
