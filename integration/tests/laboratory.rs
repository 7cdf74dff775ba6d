//! The laboratory itself, without edged: origins answer what they promise, and the load notices what it should.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::time::Duration;

use edge_integration::client::{Connection, H2, Tls, WebSocket, fetch};
use edge_integration::lab::{Origins, block_on, skip};
use edge_integration::load::{Load, Plan};
use edge_integration::netns::{self, Namespace};
use edge_integration::pki::{self, Authority, Leaf};

#[test]
fn an_origin_echoes_over_every_protocol() {
    pki::install_provider();
    let origins = Origins::start();
    let ca = Authority::new("lab").unwrap();
    let pair = ca.sign(&Leaf { dns: &["origin.test"], ..Leaf::default() }).unwrap();
    let plain = origins.http("plain", None).address;
    let secure = origins.http("secure", Some(pki::acceptor(&pair, None).unwrap())).address;
    let tls = |alpn: &[&str]| Tls {
        config: pki::client(&ca.certificate, alpn, None).unwrap(),
        server_name: Some("origin.test".into()),
    };
    block_on(async {
        let mut h1 = Connection::open(plain, None).await.unwrap();
        let reply =
            h1.request("POST", "/a?b=1", &[("host", "x.test"), ("x-y", "1"), ("x-y", "2")], b"hi").await.unwrap();
        let echo = reply.json();
        assert_eq!(reply.backend(), Some("plain"));
        assert_eq!(
            (echo["method"].as_str(), echo["path"].as_str(), echo["query"].as_str(), echo["host"].as_str()),
            (Some("POST"), Some("/a"), Some("b=1"), Some("x.test"))
        );
        assert_eq!(echo["headers"]["x-y"], serde_json::json!(["1", "2"]));
        assert_eq!(h1.get("x.test", "/status/418").await.unwrap().status, 418);
        assert_eq!(h1.get("x.test", "/bytes/100000").await.unwrap().body.len(), 100_000);
        // hyper sends trailers to those who ask for them (RFC 9110 §6.5.1).
        let asking = [("host", "x.test"), ("te", "trailers"), ("connection", "te")];
        let reply = h1.request("GET", "/trailers", &asking, b"").await.unwrap();
        assert_eq!(reply.trailer("x-checksum"), Some("42"));
        assert_eq!(h1.get("x.test", "/flaky/k/1").await.unwrap().status, 503);
        assert_eq!(h1.get("x.test", "/flaky/k/1").await.unwrap().status, 200);
        assert!(h1.get("x.test", "/drop/k/1").await.is_err());
        let mut h1 = Connection::open(plain, None).await.unwrap();
        let reply = h1.request("PUT", "/upload", &[("host", "x")], &[1; 70_000]).await.unwrap();
        assert_eq!(reply.json(), serde_json::json!({"received": 70_000, "sum": 70_000}));

        let mut h2c = H2::open(plain, None).await.unwrap();
        assert_eq!(h2c.get("x.test", "/").await.unwrap().json()["protocol"], "HTTP/2");
        let reply = h2c.request("HEAD", "x.test", "/bytes/77", &[], b"").await.unwrap();
        assert_eq!((reply.header("content-length"), reply.body.len()), (Some("77"), 0));
        let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
        let reply = h2c.request("POST", "x.test", "/svc/Echo", &grpc, b"message").await.unwrap();
        assert_eq!((&*reply.body, reply.trailer("grpc-status")), (&b"message"[..], Some("0")));
        let reply = h2c.request("POST", "x.test", "/svc/Fail", &grpc, b"message").await.unwrap();
        assert_eq!((reply.body.len(), reply.header("grpc-status")), (0, Some("13")));

        let reply = H2::open(secure, Some(&tls(&["h2"]))).await.unwrap().get("origin.test", "/").await.unwrap();
        assert_eq!((&reply.json()["tls"], &reply.json()["server_name"]), (&true.into(), &"origin.test".into()));
        let reply = fetch(secure, Some(&tls(&["http/1.1"])), "origin.test", "/").await.unwrap();
        assert_eq!(reply.json()["protocol"], "HTTP/1.1");

        let mut socket = WebSocket::open(plain, None, "x.test", "/ws").await.unwrap();
        socket.echo(b"hello").await.unwrap();
        socket.echo(&[7; 100_000]).await.unwrap();
        socket.close().await.unwrap();
    });
}

#[test]
fn a_load_counts_what_went_well_and_why_the_rest_did_not() {
    pki::install_provider();
    let origins = Origins::start();
    let origin = origins.http("a", None);
    let plan = |backend: &str, address| Plan {
        http: address,
        https: None,
        host: "x.test".into(),
        backend: backend.into(),
        h1: 2,
        h2: 2,
        websockets: 2,
        every: Duration::from_millis(1),
    };
    let load = Load::start(plan("a", origin.address)).unwrap();
    load.pass(60);
    let tally = load.stop();
    assert!(tally.failures.is_empty() && tally.h1 > 0 && tally.h2 > 0 && tally.websocket > 0, "{tally:?}");

    let load = Load::start(plan("b", origin.address)).unwrap();
    load.pass(20);
    let tally = load.stop();
    assert!(
        tally.h1 == 0 && tally.h2 == 0 && tally.failures.contains_key("http/1.1: answered by Some(\"a\")"),
        "{tally:?}"
    );

    let gone = origins.http("gone", None);
    gone.stop();
    let load = Load::start(plan("gone", gone.address)).unwrap();
    load.pass(20);
    let tally = load.stop();
    assert!(tally.exchanges() == 0 && tally.failures.keys().any(|reason| reason.contains("connect")), "{tally:?}");
}

#[test]
fn namespaces_are_apart_joined_by_veth_and_gone_when_dropped() {
    if let Err(why) = netns::available() {
        return skip("namespaces", &why);
    }
    let server = Namespace::new("lab-server").unwrap();
    let client = Namespace::new("lab-client").unwrap();
    server.link("10.74.1.1/24", &client, "10.74.1.2/24").unwrap();
    let backend = server.run(|| {
        let origins = Origins::start();
        let origin = origins.http_at("inside", ([10, 74, 1, 1], 80).into(), None);
        client.run(|| block_on(fetch(origin.address, None, "x", "/"))).unwrap().unwrap()
    });
    assert_eq!(backend.unwrap().backend(), Some("inside"));
    assert!(std::net::TcpListener::bind("10.74.1.1:0").is_err(), "the address must not be on the host");
    let names = [server.name().to_owned(), client.name().to_owned()];
    drop((server, client));
    let left = netns::ip("netns list").unwrap();
    assert!(names.iter().all(|name| !left.contains(name)), "left behind: {left}");
}
