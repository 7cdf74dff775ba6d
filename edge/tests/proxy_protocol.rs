//! PROXY protocol at both ends of the proxy, over loopback on both back ends: who is believed, what is closed, what
//! endpoints are told, and that no connection to one is shared between clients.
#![allow(clippy::unwrap_used, clippy::panic)] // what fails in a helper fails the test

mod rig;

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use edge::proxy::limits::Limits;
use edge::proxy::proxy_protocol::{Start, parse};
use edge_config::names::Kind;
use edge_config::settings::AddressRange;
use edge_config::snapshot::*;
use rig::{Client, Origin, Rig, on_both, rule};

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 5555 443\r\n";
const V1_IPV6: &[u8] = b"PROXY TCP6 2001:db8::7 2001:db8::1 5555 443\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\x15\xb3\x01\xbb";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
const TRUSTED: &str = "127.0.0.0/8";
const OTHERS: &str = "10.0.0.0/8";

fn accept(presence: ProxyPresence, from: &str) -> Option<AcceptProxy> {
    Some(AcceptProxy { presence, from: vec![AddressRange::parse(from).unwrap()] })
}

#[test]
fn headers_are_believed_by_source() {
    use ProxyPresence::{Optional, Required};
    on_both(|io| {
        let origin = Origin::echo();
        let rig = Rig::plain(io, origin.address);
        let told = Some("x-forwarded-for: 192.0.2.7\r\n");
        let own = Some("x-forwarded-for: 127.0.0.1\r\n");
        let broken = &b"PROXY TCP4 192.0.2.7 198.51.100.1 05555 443\r\n"[..];
        let datagram = [&V2[..13], b"\x12", &V2[14..]].concat();
        for (presence, from, header, expected) in [
            (Required, TRUSTED, V1, told),
            (Required, TRUSTED, V2, told),
            (Required, TRUSTED, V1_IPV6, Some("x-forwarded-for: 2001:db8::7\r\n")),
            (Required, TRUSTED, b"PROXY UNKNOWN\r\n", own),
            (Required, TRUSTED, LOCAL, own),
            (Required, TRUSTED, &datagram, own),
            (Required, TRUSTED, broken, None),
            (Required, TRUSTED, b"", None),
            (Required, OTHERS, V1, None),
            (Required, OTHERS, b"", None),
            (Optional, TRUSTED, V1, told),
            (Optional, TRUSTED, V2, told),
            (Optional, TRUSTED, b"", own),
            (Optional, TRUSTED, broken, None),
            (Optional, OTHERS, V1, None),
            (Optional, OTHERS, V2, None),
            (Optional, OTHERS, b"", own),
        ] {
            rig.publish_edited(origin.address, |snapshot| snapshot.ports[0].proxy_protocol = accept(presence, from));
            let request = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\r\nConnection: close\r\n\r\n";
            let bytes = [header, request].concat();
            // At once, and each byte on its own.
            for step in [bytes.len(), 1] {
                let mut client = rig.client();
                for piece in bytes.chunks(step) {
                    if client.stream.write_all(piece).is_err() {
                        break;
                    }
                }
                let answer = client.rest();
                let what = format!("{presence:?} {from} {:?}: {answer:?}", String::from_utf8_lossy(header));
                match expected {
                    Some(field) => assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(field), "{what}"),
                    None => assert_eq!(answer, "", "{what}"),
                }
            }
        }
    });
}

/// One header per connection; a second one is what any other bytes are.
#[test]
fn a_second_header_is_no_header() {
    on_both(|io| {
        let origin = Origin::echo();
        let rig = Rig::plain(io, origin.address);
        let rule = || accept(ProxyPresence::Required, TRUSTED);
        rig.publish_edited(origin.address, |snapshot| snapshot.ports[0].proxy_protocol = rule());
        let mut client = rig.client();
        client.stream.write_all(&[V1, V1, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"].concat()).unwrap();
        // Its line is of no HTTP/1 at all.
        assert_eq!(client.rest(), "");
    });
}

#[test]
fn a_header_has_a_deadline() {
    on_both(|io| {
        let origin = Origin::echo();
        let limits = Limits { head_timeout: Duration::from_millis(200), ..Limits::default() };
        let rig = Rig::with_limits(io, vec![("", rule(0))], vec![vec![origin.address]], limits);
        for presence in [ProxyPresence::Required, ProxyPresence::Optional] {
            let rule = accept(presence, TRUSTED);
            rig.publish_edited(origin.address, |snapshot| snapshot.ports[0].proxy_protocol = rule);
            for begun in [&b""[..], b"PRO", &V1[..20], &V2[..15]] {
                let mut client = rig.client();
                client.stream.write_all(begun).unwrap();
                assert_eq!(client.rest(), "", "{presence:?} {begun:?}");
            }
        }
        rig::wait_for(|| rig.proxy.connections() == 0);
    });
}

/// Reads a header to the byte.
fn header(client: &mut Client) -> (SocketAddr, SocketAddr) {
    let mut bytes = Vec::new();
    loop {
        let mut byte = [0; 1];
        assert_eq!(client.exactly_or_read(&mut byte), 1, "ended within {bytes:?}");
        bytes.push(byte[0]);
        if let Start::Header { length, origin } = parse(&bytes).unwrap() {
            assert_eq!(length, bytes.len());
            let origin = origin.expect("addresses");
            return (origin.source, origin.destination);
        }
    }
}

#[test]
fn http_endpoints_are_told_and_connections_are_of_one_client() {
    on_both(|io| {
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            let origin = Origin::new(move |client, number| {
                let (source, destination) = header(client);
                while !client.message().0.is_empty() {
                    let text = format!("{number} {source} {destination}");
                    client.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len()));
                }
            });
            let rig = Rig::plain(io, origin.address);
            rig.publish_edited(origin.address, |snapshot| {
                Arc::make_mut(&mut snapshot.upstreams[0]).proxy_protocol = Some(version)
            });
            let mut clients = [rig.client(), rig.client(), rig.client()];
            let mut seen: Vec<Vec<String>> = vec![Vec::new(); clients.len()];
            for _ in 0..3 {
                for (client, seen) in clients.iter_mut().zip(&mut seen) {
                    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                    seen.push(client.message().1);
                }
            }
            for (client, seen) in clients.iter().zip(&seen) {
                let ends = format!(" {} {}", client.stream.local_addr().unwrap(), rig.address);
                assert!(seen.iter().all(|text| text.ends_with(&ends) && *text == seen[0]), "{seen:?}");
            }
            assert_eq!(origin.connections(), clients.len());
        }
    });
}

#[test]
fn what_came_in_goes_out_below_http_too() {
    on_both(|io| {
        let origin = Origin::new(|client, _| {
            let (source, destination) = header(client);
            let word = client.exactly(5);
            client.send(&format!("{source} {destination} {word}"));
        });
        let rig = Rig::plain(io, origin.address);
        for (bytes, expected) in
            [(V1, "192.0.2.7:5555 198.51.100.1:443 hello"), (V1_IPV6, "[2001:db8::7]:5555 [2001:db8::1]:443 hello")]
        {
            for version in [ProxyVersion::V1, ProxyVersion::V2] {
                rig.publish_edited(origin.address, |snapshot| {
                    let route = rig::object(Kind::TCPRoute, "route");
                    let route =
                        StreamRoute { route, backends: vec![rig::backend(0, 1)], affinity: None, admission: None };
                    snapshot.listeners[0].serve = ListenerServe::Tcp { route: Some(route) };
                    snapshot.ports[0].serve = PortServe::Tcp { listener: ListenerId(0) };
                    snapshot.ports[0].proxy_protocol = accept(ProxyPresence::Required, TRUSTED);
                    Arc::make_mut(&mut snapshot.upstreams[0]).protocol = UpstreamProtocol::Stream;
                    Arc::make_mut(&mut snapshot.upstreams[0]).proxy_protocol = Some(version);
                });
                let mut client = rig.client();
                client.stream.write_all(&[bytes, b"hello"].concat()).unwrap();
                assert_eq!(client.rest(), expected);
            }
        }
    });
}
