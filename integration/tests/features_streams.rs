//! What is more than one request and one reply: WebSocket, HTTP/2, h2c, gRPC with trailers, TCP and UDP.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::time::Duration;

use edge_integration::client::{Connection, H2, WebSocket, fetch, within};
use edge_integration::edged::until;
use edge_integration::lab::{HTTP, HTTPS, Lab, Running, block_on};
use edge_integration::manifests::{CLASS, LISTENERS, gateway, http_route, route, service, service_with, to};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

const GRPC: &[(&str, &str)] = &[("content-type", "application/grpc"), ("te", "trailers")];

fn served(more: &str) -> (Lab, Running) {
    let mut lab = Lab::new();
    let a = lab.origin("a");
    let text = [
        CLASS,
        &gateway("web", LISTENERS),
        &service("default", "a", 80, &[a.address]),
        &service_with("default", "h2c", 80, "kubernetes.io/h2c", "TCP", &[a.address]),
        more,
    ]
    .concat();
    lab.manifest("all.yaml", &text);
    lab.start(&[HTTP, HTTPS]);
    (lab, a)
}

#[test]
fn websockets_pass_over_http_and_https() {
    let (lab, _a) = served(&http_route("ws", &["ws.test"], &to("a", 80)));
    block_on(async {
        let tls = lab.tls("ws.test", &["http/1.1"]);
        for (address, tls) in [(lab.at(HTTP), None), (lab.at(HTTPS), Some(&tls))] {
            let mut socket = WebSocket::open(address, tls, "ws.test", "/ws").await.unwrap();
            assert_eq!(socket.backend, "a");
            for payload in [&b"hello"[..], &[], &[9; 200_000]] {
                socket.echo(payload).await.unwrap();
            }
            socket.close().await.unwrap();
        }
        // Without the upgrade the same path is an ordinary request, and the connection goes on.
        let mut connection = Connection::open(lab.at(HTTP), None).await.unwrap();
        assert_eq!(connection.get("ws.test", "/ws").await.unwrap().status, 426);
        assert_eq!(connection.get("ws.test", "/").await.unwrap().status, 200);
    });
}

#[test]
fn http2_is_served_to_either_kind_of_backend() {
    let routes = http_route("h1", &["h1.test"], &to("a", 80)) + &http_route("h2", &["h2.test"], &to("h2c", 80));
    let (lab, _a) = served(&routes);
    block_on(async {
        let tls = lab.tls("h1.test", &["h2", "http/1.1"]);
        let mut over_tls = H2::open(lab.at(HTTPS), Some(&tls)).await.unwrap();
        let mut prior = H2::open(lab.at(HTTP), None).await.unwrap();
        let mut h1 = Connection::open(lab.at(HTTP), None).await.unwrap();
        for (host, protocol) in [("h1.test", "HTTP/1.1"), ("h2.test", "HTTP/2")] {
            for connection in [&mut over_tls, &mut prior] {
                let reply =
                    connection.request("POST", host, "/x?y=1", &[("x-a", "1"), ("x-a", "2")], b"body").await.unwrap();
                let echo = reply.json();
                assert_eq!((reply.status, &echo["protocol"]), (200, &protocol.into()), "{host}");
                assert_eq!((&echo["host"], &echo["query"]), (&host.into(), &"y=1".into()), "{host}");
                assert_eq!(echo["headers"]["x-a"], serde_json::json!(["1", "2"]), "{host}");
                assert_eq!(connection.get(host, "/bytes/300000").await.unwrap().body.len(), 300_000);
                let big = vec![3u8; 2 << 20];
                let reply = connection.request("PUT", host, "/upload", &[], &big).await.unwrap();
                assert_eq!(reply.json()["received"], 2 << 20, "{host}");
                let reply = connection.request("HEAD", host, "/bytes/77", &[], b"").await.unwrap();
                assert_eq!((reply.header("content-length"), reply.body.len()), (Some("77"), 0), "{host}");
            }
            let reply = h1.get(host, "/").await.unwrap();
            assert_eq!(reply.json()["protocol"], protocol, "{host}");
        }
        assert_eq!(over_tls.get("nobody.test", "/").await.unwrap().status, 404);
    });
}

#[test]
fn grpc_keeps_its_trailers_and_its_own_words_for_faults() {
    let rules = "    - matches: [{method: {service: shop.Cart, method: Add}}]
      backendRefs: [{name: a, port: 80}]
    - matches: [{method: {service: shop.Cart, method: Fail}, headers: [{name: x-tenant, value: one}]}]
      backendRefs: [{name: a, port: 80}]
    - matches: [{method: {service: shop.Missing}}]
      backendRefs: [{name: nobody, port: 80}]
";
    let (lab, _a) = served(&route("GRPCRoute", "cart", "{name: web}", &["grpc.test"], rules));
    block_on(async {
        let tls = lab.tls("grpc.test", &["h2"]);
        let mut prior = H2::open(lab.at(HTTP), None).await.unwrap();
        let mut secure = H2::open(lab.at(HTTPS), Some(&tls)).await.unwrap();
        for connection in [&mut prior, &mut secure] {
            let message = b"\0\0\0\0\x05hello";
            let reply = connection.request("POST", "grpc.test", "/shop.Cart/Add", GRPC, message).await.unwrap();
            assert_eq!((reply.status, &*reply.body), (200, &message[..]));
            assert_eq!(reply.trailer("grpc-status"), Some("0"));
            let tenant = [GRPC, &[("x-tenant", "one")]].concat();
            let reply = connection.request("POST", "grpc.test", "/shop.Cart/Fail", &tenant, message).await.unwrap();
            assert_eq!((reply.status, reply.header("grpc-status")), (200, Some("13")), "trailers-only");
            // GRPCRoute: unmatched is UNIMPLEMENTED, no valid backend is UNAVAILABLE, both as 200.
            for (path, status) in [("/shop.Cart/Fail", "12"), ("/other/X", "12"), ("/shop.Missing/X", "14")] {
                let reply = connection.request("POST", "grpc.test", path, GRPC, message).await.unwrap();
                let code = reply.header("grpc-status").or(reply.trailer("grpc-status"));
                assert_eq!((reply.status, code), (200, Some(status)), "{path}");
            }
        }
    });
}

#[test]
fn trailers_pass_in_http1_too() {
    let (lab, _a) = served(&http_route("all", &[], &to("a", 80)));
    block_on(async {
        let mut connection = Connection::open(lab.at(HTTP), None).await.unwrap();
        let asking = [("host", "t.test"), ("te", "trailers"), ("connection", "te")];
        let reply = connection.request("GET", "/trailers", &asking, b"").await.unwrap();
        assert_eq!((&*reply.body, reply.status), (&b"body"[..], 200));
        assert_eq!(reply.trailer("x-checksum"), Some("42"));
        assert_eq!(connection.get("t.test", "/").await.unwrap().status, 200, "the connection goes on");
    });
}

fn l4_gateway(lab: &Lab, tcp: &[(&str, u32)], more: &str) -> String {
    let listeners = "    - {name: tcp, port: 7000, protocol: TCP}
    - {name: udp, port: 7001, protocol: UDP}
    - {name: bare, port: 7002, protocol: TCP}
";
    let backends: Vec<String> =
        tcp.iter().map(|(name, weight)| format!("{{name: {name}, port: 7000, weight: {weight}}}")).collect();
    let _ = lab;
    [
        CLASS,
        &gateway("web", listeners),
        &route(
            "TCPRoute",
            "tcp",
            "{name: web, sectionName: tcp}",
            &[],
            &format!("    - backendRefs: [{}]\n", backends.join(", ")),
        ),
        &route("UDPRoute", "udp", "{name: web, sectionName: udp}", &[], &to("udp", 7001)),
        more,
    ]
    .concat()
}

#[test]
fn tcp_and_udp_routes_carry_bytes_and_datagrams() {
    let mut lab = Lab::new();
    let (one, two, udp) = (lab.origins().tcp("one"), lab.origins().tcp("two"), lab.origins().udp("udp"));
    let services = [
        service("default", "one", 7000, &[one.address]),
        service("default", "two", 7000, &[two.address]),
        service_with("default", "udp", 7001, "", "UDP", &[udp.address]),
    ]
    .concat();
    lab.manifest("all.yaml", &l4_gateway(&lab, &[("one", 1), ("two", 1), ("gone", 1)], &services));
    lab.start(&[7000, 7002]);
    let vip = lab.vip;
    block_on(async {
        let (mut answered, mut rejected) = (std::collections::BTreeSet::new(), 0);
        for _ in 0..60 {
            // The share of the missing backend is rejected: the reset comes before, during or after this.
            let Ok(mut stream) = TcpStream::connect((vip, 7000)).await else {
                rejected += 1;
                continue;
            };
            let _ = stream.write_all(b"ping").await;
            let mut answer = [0u8; 8];
            match within("tcp echo", stream.read_exact(&mut answer)).await {
                Ok(_) => {
                    assert!(answer.ends_with(b"\nping"));
                    answered.insert(answer[..3].to_vec());
                }
                Err(_) => rejected += 1,
            }
        }
        assert_eq!(answered.len(), 2, "{answered:?}");
        assert!((5..=40).contains(&rejected), "{rejected} of 60 to the missing third");

        // Half-close: the end of one direction is no end of the other.
        loop {
            let Ok(mut stream) = TcpStream::connect((vip, 7000)).await else { continue };
            let mut all = Vec::new();
            let sent = stream.write_all(&[5; 300_000]).await.is_ok() && stream.shutdown().await.is_ok();
            let read = within("tcp to the end", stream.read_to_end(&mut all)).await;
            if sent && read.is_ok() && !all.is_empty() {
                assert_eq!(all.len(), 300_004);
                break;
            }
        }
        if let Ok(mut bare) = TcpStream::connect((vip, 7002)).await {
            let mut byte = [0u8; 1];
            let end = within("end without a route", bare.read(&mut byte)).await;
            assert!(matches!(end, Ok(0) | Err(_)), "a listener without a route closes: {end:?}");
        }

        for i in 0..20u8 {
            let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
            socket.connect((vip, 7001)).await.unwrap();
            for text in [vec![i; 3], vec![i; 1400]] {
                let mut answer = [0u8; 2048];
                // UDP may lose; a repeated loss on loopback is a fault.
                let mut n = 0;
                for _ in 0..5 {
                    socket.send(&text).await.unwrap();
                    if let Ok(Ok(got)) = tokio::time::timeout(Duration::from_secs(2), socket.recv(&mut answer)).await {
                        n = got;
                        break;
                    }
                }
                assert_eq!(&answer[..n], [b"udp:", &text[..]].concat());
            }
        }
    });
}

/// What policies say of connections: a BackendTrafficPolicy of those to endpoints, a ClientTrafficPolicy of those from
/// clients.
const UPSTREAM_LIMIT: &str = "---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: few, namespace: default}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: TCPRoute, name: tcp}]
  circuitBreaker: {maxConnections: 2}
";
const CLIENT_LIMIT: &str = "---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: ClientTrafficPolicy
metadata: {name: few, namespace: default}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: web, sectionName: tcp}]
  connection: {connectionLimit: {value: 3}}
";

/// A connection that carried something; `None` where it was closed.
fn carried(to: (std::net::IpAddr, u16)) -> Option<std::net::TcpStream> {
    let mut stream = std::net::TcpStream::connect(to).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    stream.write_all(b"ping").ok()?;
    let mut answer = [0u8; 8];
    stream.read_exact(&mut answer).ok()?;
    Some(stream)
}

#[test]
fn connections_of_a_stream_are_as_many_as_policies_allow() {
    let mut lab = Lab::new();
    let one = lab.origins().tcp("one");
    lab.manifest("all.yaml", &l4_gateway(&lab, &[("one", 1)], &service("default", "one", 7000, &[one.address])));
    lab.start(&[7000]);
    let at = (lab.vip, 7000);
    for (name, text, most) in [("of an endpoint", UPSTREAM_LIMIT, 2), ("of a listener", CLIENT_LIMIT, 3)] {
        lab.manifest("limit.yaml", text);
        let mut open: Vec<std::net::TcpStream> = until(name, || {
            let open: Vec<_> = (0..6).filter_map(|_| carried(at)).collect();
            (open.len() == most).then_some(open)
        });
        assert!(carried(at).is_none(), "{name}: one too many");
        // Whoever leaves makes room.
        open.pop();
        open.push(until("room for another one", || carried(at)));
    }
}

#[test]
fn endpoints_come_and_go_without_an_error() {
    let mut lab = Lab::new();
    let (a, b) = (lab.origin("a"), lab.origin("b"));
    let text = [CLASS, &gateway("web", LISTENERS), &http_route("all", &[], &to("app", 80))].concat();
    lab.manifest("base.yaml", &text);
    lab.manifest("app.yaml", &service("default", "app", 80, &[a.address]));
    lab.start(&[HTTP]);
    let http = lab.at(HTTP);
    let backend =
        || block_on(fetch(http, None, "x.test", "/")).ok().and_then(|reply| reply.backend().map(str::to_owned));
    assert_eq!(backend().as_deref(), Some("a"));
    lab.manifest("app.yaml", &service("default", "app", 80, &[b.address]));
    until("the endpoint that came", || (backend().as_deref() == Some("b")).then_some(()));
    // A dead endpoint beside a live one: connecting elsewhere is safe, so nobody notices.
    lab.manifest("app.yaml", &service("default", "app", 80, &[a.address, b.address]));
    until("both", || (backend().as_deref() == Some("a")).then_some(()));
    a.stop();
    for _ in 0..30 {
        let reply = block_on(fetch(http, None, "x.test", "/")).unwrap();
        assert!(reply.status == 200, "{reply:?}");
    }
}
