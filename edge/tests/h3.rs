//! HTTP/3 end to end over loopback, on both back ends: what HTTP/2 does, over QUIC, with a client of the h3 crate.
#![allow(clippy::unwrap_used, clippy::panic)] // what fails in a helper fails the test

mod quic;
mod rig;
mod secure;

use std::net::UdpSocket;
use std::sync::Arc;

use edge::proxy::trace::Tracer;
use edge::proxy::trace::sampling::Sampler;
use edge_config::settings::{ParentRule, Ratio};
use edge_config::snapshot::*;
use quic::*;
use rig::{Origin, on_both, wait_for};
use secure::{Ca, cert_table, connect as connect_tls, https, listener, routes, terminate};

/// An endpoint that answers with so many bytes of a pattern.
fn bytes_origin(length: usize) -> Origin {
    Origin::new(move |client, _| {
        use std::io::Write as _;
        while !client.message().0.is_empty() {
            client.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n"));
            if client.stream.write_all(&pattern_of(length)).is_err() {
                return;
            }
        }
    })
}

fn pattern_of(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

#[test]
fn requests_and_responses_go_through_whole() {
    on_both(|backend| {
        let world = World::new(backend, Origin::echo().address);
        run(async {
            let connection = connect(world.rig.address, "a.example").await.unwrap();
            let mut sender = client(connection).await;
            let answer = exchange(&mut sender, get("/x?y=1"), b"", None).await.unwrap();
            assert_eq!(answer.status, 200);
            let text = answer.text().to_ascii_lowercase();
            assert!(text.starts_with("get /x?y=1 http/1.1\r\n") && text.contains("x-forwarded-proto: https"), "{text}");
            assert!(text.contains("host: a.example") && !text.contains("transfer-encoding"), "{text}");
            // A body of a known length, then one without, then one with trailers.
            let body = pattern_of(300_000).iter().map(|byte| b'a' + byte % 26).collect::<Vec<u8>>();
            let post = |length: Option<usize>| {
                let request = http::Request::post("https://a.example/up");
                let request = match length {
                    Some(length) => request.header("content-length", length),
                    None => request,
                };
                request.body(()).unwrap()
            };
            let answer = exchange(&mut sender, post(Some(body.len())), &body, None).await.unwrap();
            assert!(answer.body.ends_with(&body) && answer.text().contains("content-length: 300000"));
            let mut trailers = http::HeaderMap::new();
            trailers.insert("x-sum", "7".parse().unwrap());
            let answer = exchange(&mut sender, post(None), &body, Some(trailers)).await.unwrap();
            let text = answer.text();
            assert!(text.to_ascii_lowercase().contains("transfer-encoding: chunked"), "{}", &text[..400]);
            assert!(text.ends_with("[x-sum: 7]"), "{}", &text[text.len() - 40..]);
            let head = http::Request::head("https://a.example/").body(()).unwrap();
            let answer = exchange(&mut sender, head, b"", None).await.unwrap();
            assert!(answer.status == 200 && answer.body.is_empty());
            assert!(answer.fields["content-length"].to_str().unwrap().parse::<u32>().unwrap() > 0);
        });
    });
}

#[test]
fn large_answers_and_trailers_come_back() {
    on_both(|backend| {
        let world = World::new(backend, bytes_origin(8 << 20).address);
        run(async {
            let mut sender = client(connect(world.rig.address, "a.example").await.unwrap()).await;
            let answer = exchange(&mut sender, get("/"), b"", None).await.unwrap();
            assert!(answer.body == pattern_of(8 << 20));
        });
        let origin = Origin::new(|client, _| {
            while !client.message().0.is_empty() {
                client.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: grpc-status\r\n\r\n3\r\nabc\r\n0\r\ngrpc-status: 0\r\n\r\n");
            }
        });
        let world = World::new(backend, origin.address);
        run(async {
            let mut sender = client(connect(world.rig.address, "a.example").await.unwrap()).await;
            let call = http::Request::post("https://a.example/pkg.Service/Call")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(())
                .unwrap();
            let answer = exchange(&mut sender, call, b"\0\0\0\0\x02hi", None).await.unwrap();
            assert_eq!((answer.status, answer.body.as_slice()), (200, &b"abc"[..]));
            assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
        });
    });
}

#[test]
fn many_streams_share_a_connection() {
    on_both(|backend| {
        let world = World::new(backend, Origin::echo().address);
        run(async {
            let sender = client(connect(world.rig.address, "a.example").await.unwrap()).await;
            let asking = (0..90).map(|number| {
                let mut sender = sender.clone();
                tokio::spawn(async move {
                    let answer = exchange(&mut sender, get(&format!("/{number}")), b"", None).await.unwrap();
                    assert!(answer.text().starts_with(&format!("GET /{number} ")), "{number}");
                })
            });
            for task in asking.collect::<Vec<_>>() {
                task.await.unwrap();
            }
        });
    });
}

#[test]
fn a_trace_goes_on_through_it() {
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    on_both(|backend| {
        let world = World::new(backend, Origin::echo().address);
        let (tracer, mut spans) = Tracer::new(Sampler::new(Ratio::ONE, ParentRule::Follow), 1 << 20, Arc::default());
        *world.rig.tracer.lock().unwrap() = Some(Arc::new(tracer));
        world.publish(|_| ());
        let arrived = run(async {
            let mut sender = client(connect(world.rig.address, "a.example").await.unwrap()).await;
            let mut request = get("/x");
            request.headers_mut().insert("traceparent", PARENT.parse().unwrap());
            exchange(&mut sender, request, b"", None).await.unwrap().text()
        });
        let told = arrived.lines().find_map(|line| line.strip_prefix("traceparent: ")).unwrap();
        assert_eq!((&told[..35], &told[52..]), (&PARENT[..35], "-01"), "{arrived}");
        assert_ne!(told[36..52], PARENT[36..52]);
        let mut batch = None;
        wait_for(|| {
            batch = spans.try_recv().ok();
            batch.is_some()
        });
        // What Edge asked, and what it was asked: a key, and the value 3.
        let batch = batch.unwrap();
        let says = |text: &[u8]| batch.bytes.windows(text.len()).any(|part| part == text);
        assert_eq!(batch.count, 2);
        assert!(says(b"network.protocol.version\x12\x03\x0a\x013"), "{}", String::from_utf8_lossy(&batch.bytes));
    });
}

/// There are two workers, and the kernel deals each new port of the client to one of them: with a dozen ports, some come to the
/// worker that knows nothing of the connection.
#[test]
fn a_client_that_moves_keeps_its_connection() {
    on_both(|backend| {
        let length = 24 << 20;
        let world = World::new(backend, bytes_origin(length).address);
        run(async {
            let endpoint = endpoint(None);
            let connection = endpoint.connect(world.rig.address, "a.example").unwrap().await.unwrap();
            let mut sender = client(connection.clone()).await;
            let mut stream = sender.send_request(get("/")).await.unwrap();
            stream.finish().await.unwrap();
            assert_eq!(stream.recv_response().await.unwrap().status(), 200);
            let (mut body, mut moves) = (Vec::with_capacity(length), 0);
            while let Some(mut chunk) = stream.recv_data().await.unwrap() {
                use bytes::Buf as _;
                body.extend_from_slice(&chunk.copy_to_bytes(chunk.remaining()));
                if body.len() > (moves + 1) * (length / 13) && moves < 12 {
                    moves += 1;
                    endpoint.rebind(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
                }
            }
            assert_eq!(moves, 12);
            assert!(body == pattern_of(length), "{} of {length} bytes", body.len());
            // One connection it was.
            let answer = exchange(&mut sender, get("/"), b"", None).await.unwrap();
            assert!(answer.body.len() == length && connection.close_reason().is_none());
        });
        assert_eq!(world.rig.proxy.connections(), 1);
    });
}

#[test]
fn it_is_announced_only_where_it_is_served() {
    on_both(|backend| {
        let world = World::new(backend, Origin::echo().address);
        let config = Arc::new(secure::client_config(None, &[]));
        let announced = || {
            let answer =
                secure::ask(&mut connect_tls(world.rig.address, &config, "a.example").unwrap(), "a.example", "/");
            let answer = answer.unwrap();
            let head = answer.split("\r\n\r\n").next().unwrap().to_ascii_lowercase();
            head.lines().find_map(|line| line.strip_prefix("alt-svc: ").map(str::to_owned))
        };
        let wanted = Some("h3=\":443\"; ma=86400".to_owned());
        assert_eq!(announced(), wanted);
        world.publish(|listener| listener.client.http3 = false);
        assert_eq!(announced(), None);
        // Somebody else has the UDP port: TCP goes on, and nothing is promised.
        let mut squatter = None;
        wait_for(|| {
            squatter = UdpSocket::bind(world.rig.address).ok();
            squatter.is_some()
        });
        let wish = |world: &World| {
            let snapshot = world.snapshot(|_| {});
            world.rig.publish_as_far_as_possible(snapshot, &world.table, &[world.endpoint]).1
        };
        let failures = wish(&world);
        assert_eq!(failures.len(), 1);
        assert_eq!((failures[0].address, failures[0].transport), (world.rig.address, Transport::Quic));
        assert_eq!(announced(), None);
        drop(squatter);
        assert!(wish(&world).is_empty());
        assert_eq!(announced(), wanted);
        run(async {
            let mut sender = client(connect(world.rig.address, "a.example").await.unwrap()).await;
            assert_eq!(exchange(&mut sender, get("/"), b"", None).await.unwrap().status, 200);
        });
    });
}

#[test]
fn a_connection_outlives_the_wish_for_it_and_the_wish_may_come_back() {
    on_both(|backend| {
        let world = World::new(backend, Origin::echo().address);
        run(async {
            let address = world.rig.address;
            let mut old = client(connect(address, "a.example").await.unwrap()).await;
            assert_eq!(exchange(&mut old, get("/"), b"", None).await.unwrap().status, 200);
            world.publish(|listener| listener.client.http3 = false);
            // Every worker refuses who is new.
            for _ in 0..6 {
                assert!(connect(address, "a.example").await.is_err());
            }
            assert_eq!(exchange(&mut old, get("/"), b"", None).await.unwrap().status, 200);
            world.publish(|_| {});
            for _ in 0..6 {
                let mut new = client(connect(address, "a.example").await.unwrap()).await;
                assert_eq!(exchange(&mut new, get("/"), b"", None).await.unwrap().status, 200);
            }
            assert_eq!(exchange(&mut old, get("/"), b"", None).await.unwrap().status, 200);
        });
    });
}

#[test]
fn the_name_picks_the_listener_and_the_host_must_fit() {
    on_both(|backend| {
        let origin = Origin::echo();
        let world = World::new(backend, origin.address);
        let mut listeners =
            vec![https("a", "a.example", "a", 0), https("b", "b.example", "a", 0), https("c", "c.example", "a", 0)];
        listeners[0].client.http3 = true;
        listeners[1].client.http3 = true;
        let upstreams = vec![secure::upstream(0, UpstreamProtocol::Http1, None)];
        let snapshot = with_quic(secure::snapshot(world.rig.address, listeners, vec![rig::rule(0)], upstreams));
        world.rig.publish(snapshot, &world.table, &[origin.address]);
        run(async {
            let address = world.rig.address;
            let mut sender = client(connect(address, "a.example").await.unwrap()).await;
            assert_eq!(exchange(&mut sender, get("/"), b"", None).await.unwrap().status, 200);
            let other = http::Request::get("https://b.example/").body(()).unwrap();
            assert_eq!(exchange(&mut sender, other, b"", None).await.unwrap().status, 421);
            assert!(connect(address, "b.example").await.is_ok());
            // One that does not speak it, and nobody's.
            for name in ["c.example", "d.example"] {
                assert!(connect(address, name).await.is_err(), "{name}");
            }
        });
    });
}

#[test]
fn client_certificates_are_asked_for_as_over_tcp() {
    on_both(|backend| {
        let origin = Origin::echo();
        let world = World::new(backend, origin.address);
        let (ca, stranger) = (Ca::new(), Ca::new());
        let tls = terminate(&["a"], ClientValidation::Required { trust: TrustId(0) });
        let mut listener = listener("a", "*", ListenerServe::Https { tls, routes: routes(&[("*", 0)]) });
        listener.client.http3 = true;
        let upstreams = vec![secure::upstream(0, UpstreamProtocol::Http1, None)];
        let mut snapshot =
            with_quic(secure::snapshot(world.rig.address, vec![listener], vec![rig::rule(0)], upstreams));
        snapshot.trust = vec![ca.trust()];
        world.rig.publish(snapshot, &world.table, &[origin.address]);
        run(async {
            let ask = async |leaf: Option<&secure::Leaf>| -> Option<u16> {
                let endpoint = endpoint(leaf);
                let connection = endpoint.connect(world.rig.address, "a.example").unwrap().await.ok()?;
                // A client is done before its certificate is judged.
                let stream = h3::client::new(h3_quinn::Connection::new(connection)).await.ok()?;
                let (mut driver, mut sender): (_, Sender) = stream;
                tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
                exchange(&mut sender, get("/"), b"", None).await.ok().map(|answer| answer.status)
            };
            assert_eq!(ask(Some(&ca.client("me"))).await, Some(200));
            assert_eq!(ask(Some(&stranger.client("me"))).await, None);
            assert_eq!(ask(None).await, None);
        });
    });
}

#[test]
fn a_certificate_is_swapped_per_handshake() {
    on_both(|backend| {
        let world = World::new(backend, Origin::echo().address);
        let shown = |connection: &quinn::Connection| {
            let chain = connection.peer_identity().unwrap();
            chain.downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>().unwrap()[0].clone()
        };
        run(async {
            let before = connect(world.rig.address, "a.example").await.unwrap();
            let leaf = Ca::new().server(&["a.example"]);
            assert_ne!(shown(&before), leaf.chain[0]);
            world.rig.publish(world.snapshot(|_| {}), &cert_table(&[("a", &leaf)]), &[world.endpoint]);
            let after = connect(world.rig.address, "a.example").await.unwrap();
            assert_eq!(shown(&after), leaf.chain[0]);
            let mut sender = client(before).await;
            assert_eq!(exchange(&mut sender, get("/"), b"", None).await.unwrap().status, 200);
        });
    });
}

/// A session is resumed; nothing is ever taken before the handshake is done.
#[test]
fn there_is_no_early_data() {
    on_both(|backend| {
        let world = World::new(backend, Origin::echo().address);
        run(async {
            let mut config = secure::client_config(None, &["h3"]);
            config.enable_early_data = true;
            let config = quinn::crypto::rustls::QuicClientConfig::try_from(config).unwrap();
            let mut endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
            endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(config)));
            for _ in 0..3 {
                let connecting = endpoint.connect(world.rig.address, "a.example").unwrap();
                let connecting = connecting.into_0rtt().err().expect("no early data is offered");
                let mut sender = client(connecting.await.unwrap()).await;
                assert_eq!(exchange(&mut sender, get("/"), b"", None).await.unwrap().status, 200);
            }
        });
        let text = rendered(&world);
        let resumed =
            text.lines().find(|line| line.starts_with("edge_tls_handshakes_total") && line.contains("resumed"));
        assert!(resumed.is_some_and(|line| line.ends_with(" 2")), "{resumed:?}");
    });
}

fn rendered(world: &World) -> String {
    use edge::proxy::metrics::{Format, render};
    render(world.rig.proxy.metrics(), 0, Format::Prometheus)
}

#[test]
fn draining_lets_requests_end_and_then_the_connection() {
    on_both(|backend| {
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let begun = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = Arc::clone(&begun);
        let origin = Origin::new(move |client, _| {
            while !client.message().0.is_empty() {
                seen.store(true, std::sync::atomic::Ordering::SeqCst);
                let _ = wait.lock().unwrap().recv();
                client.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlast");
            }
        });
        let world = World::new(backend, origin.address);
        run(async {
            let connection = connect(world.rig.address, "a.example").await.unwrap();
            let mut sender = client(connection.clone()).await;
            let asking = tokio::spawn(async move { exchange(&mut sender, get("/"), b"", None).await.unwrap() });
            while !begun.load(std::sync::atomic::Ordering::SeqCst) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            world.rig.proxy.leave(true);
            // Longer than GOAWAY takes in both of its steps.
            tokio::time::sleep(BRIEF).await;
            release.send(()).unwrap();
            assert_eq!(asking.await.unwrap().text(), "last");
            match connection.closed().await {
                quinn::ConnectionError::ApplicationClosed(close) => assert_eq!(close.error_code.into_inner(), 0x100),
                // The client of the h3 crate closes by itself when it hears that all is done.
                quinn::ConnectionError::LocallyClosed => {}
                other => panic!("{other}"),
            }
        });
        wait_for(|| world.rig.proxy.connections() == 0);
    });
}
