//! What HTTP/3 does with clients that break it, flood it, or say nothing: the same as HTTP/2 where both have a word for it.
#![allow(clippy::unwrap_used, clippy::panic)] // what fails in a helper fails the test

mod quic;
mod rig;
mod secure;

use std::net::UdpSocket;
use std::time::Duration;

use edge::proxy::limits::Limits;
use quic::*;
use quinn::VarInt;
use rig::{Origin, on_both, wait_for};

const MESSAGE_ERROR: Result<Vec<u8>, Refused> = Err(Refused::Stream(0x10e));

/// GET with something else instead, or beside.
fn with(change: &[(&'static str, &'static str)]) -> Vec<u8> {
    let mut fields = GET.to_vec();
    for &(name, value) in change {
        match fields.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = value,
            None => fields.push((name, value)),
        }
    }
    headers(&fields)
}

fn without(name: &str) -> Vec<u8> {
    headers(&GET.into_iter().filter(|(known, _)| *known != name).collect::<Vec<_>>())
}

#[test]
fn malformed_requests_reset_their_stream_and_nothing_else() {
    on_both(|backend| {
        let origin = Origin::echo();
        let world = World::new(backend, origin.address);
        run(async {
            let raw = Raw::new(world.rig.address).await;
            let after = |more: &[(&'static str, &'static str)]| headers(&[&GET[..], more].concat());
            for (what, bytes) in [
                ("an upper-case name", after(&[("X-Own", "1")])),
                ("an empty name", after(&[("", "1")])),
                ("a space in a name", after(&[("x own", "1")])),
                ("a line break in a value", after(&[("x-own", "1\r\nx-more: 2")])),
                ("NUL in a value", after(&[("x-own", "1\x002")])),
                ("space around a value", after(&[("x-own", " 1")])),
                ("connection", after(&[("connection", "close")])),
                ("keep-alive", after(&[("keep-alive", "5")])),
                ("proxy-connection", after(&[("proxy-connection", "close")])),
                ("upgrade", after(&[("upgrade", "websocket")])),
                ("transfer-encoding", after(&[("transfer-encoding", "chunked")])),
                ("te other than trailers", after(&[("te", "gzip")])),
                ("a pseudo-header behind a field", headers(&[&[("x-own", "1")][..], &GET].concat())),
                ("an unknown pseudo-header", after(&[(":protocol", "websocket")])),
                ("a pseudo-header of a response", after(&[(":status", "200")])),
                ("a path twice", after(&[(":path", "/")])),
                ("a method twice", after(&[(":method", "GET")])),
                ("no method", without(":method")),
                ("no scheme", without(":scheme")),
                ("no path", without(":path")),
                ("an empty path", with(&[(":path", "")])),
                ("a method that is no token", with(&[(":method", "G ET")])),
                ("a length without content", with(&[("content-length", "5")])),
                ("nothing at all", Vec::new()),
            ] {
                assert_eq!(raw.request(&bytes).await, MESSAGE_ERROR, "{what}");
            }
            // A length that the content does not meet: the endpoint may have heard of the request, but never of its end.
            let post = with(&[(":method", "POST"), ("content-length", "5")]);
            for content in [&b"four"[..], b"sixsix"] {
                let bytes = [&post[..], &frame(0, content)].concat();
                assert_eq!(raw.request(&bytes).await, MESSAGE_ERROR, "{content:?}");
            }
            let trailers = |fields: &[(&str, &str)]| {
                [with(&[(":method", "POST")]), frame(0, b"content"), headers(fields)].concat()
            };
            for fields in [&[(":path", "/")][..], &[("content-length", "7")], &[("X-Own", "1")]] {
                assert_eq!(raw.request(&trailers(fields)).await, MESSAGE_ERROR, "{fields:?}");
            }
            assert!(has_status(&raw.request(&headers(&GET)).await.unwrap(), 200));
            assert!(has_status(&raw.request(&trailers(&[("x-own", "1")])).await.unwrap(), 200));
        });
    });
}

#[test]
fn what_is_understood_and_refused_is_answered() {
    on_both(|backend| {
        let origin = Origin::echo();
        let world = World::new(backend, origin.address);
        run(async {
            let raw = Raw::new(world.rig.address).await;
            let large = "x".repeat(70_000);
            let many: Vec<(&str, &str)> = GET.into_iter().chain((0..200).map(|_| ("x-own", "1"))).collect();
            for (what, bytes, status) in [
                ("CONNECT", headers(&[(":method", "CONNECT"), (":authority", "a.example:443")]), 501),
                ("another scheme", with(&[(":scheme", "ftp")]), 400),
                ("another Host", with(&[("host", "b.example")]), 400),
                ("nobody's host", without(":authority"), 400),
                (
                    "two lengths",
                    headers(&[&GET[..], &[("content-length", "0"), ("content-length", "0")]].concat()),
                    400,
                ),
                ("a path that is none", with(&[(":path", "x")]), 400),
                ("a large field", headers(&[&GET[..], &[("x-large", &large)]].concat()), 431),
                ("many fields", headers(&many), 431),
                ("an expectation", with(&[("expect", "more")]), 417),
            ] {
                let answer = raw.request(&bytes).await.unwrap_or_else(|refused| panic!("{what}: {refused:?}"));
                assert!(has_status(&answer, status), "{what}: {answer:x?}");
            }
            assert_eq!(origin.connections(), 0);
            assert!(has_status(&raw.request(&headers(&GET)).await.unwrap(), 200));
        });
    });
}

#[test]
fn a_broken_connection_is_closed_for_what_was_broken() {
    on_both(|backend| {
        let world = World::new(backend, Origin::echo().address);
        let request = headers(&GET);
        let requests: Vec<(&str, Vec<u8>, u64)> = vec![
            ("content before a head", frame(0, b"content"), 0x105),
            ("SETTINGS on a request", frame(4, &[]), 0x105),
            ("GOAWAY on a request", frame(7, &[0]), 0x105),
            ("a push", frame(5, &[0, 0, 0]), 0x105),
            ("a frame of HTTP/2", frame(6, &[0; 8]), 0x105),
            (
                "a head behind trailers",
                [&request[..], &headers(&[("x-own", "1")]), &headers(&[("x-own", "1")])].concat(),
                0x105,
            ),
            ("content behind trailers", [&request[..], &headers(&[("x-own", "1")]), &frame(0, b"x")].concat(), 0x105),
            ("a frame that is cut", vec![1, 10, 0, 0], 0x106),
            ("a frame's head that is cut", vec![0x40], 0x106),
            ("content that is cut", [&request[..], &[0, 10, b'x']].concat(), 0x106),
            ("a dynamic table", frame(1, &[2, 0, 0x80]), 0x200),
            ("a section that is cut", frame(1, &[0, 0, 0x23, b'a']), 0x200),
            ("an index beyond the table", frame(1, &[0, 0, 0xff, 0x70]), 0x200),
        ];
        run(async {
            for (what, bytes, code) in &requests {
                let raw = Raw::new(world.rig.address).await;
                // Whatever came back before, the connection ends.
                let _ = raw.request(bytes).await;
                assert_eq!(raw.closed().await, *code, "{what}");
            }
            let stream = |kind: u8, content: &[u8]| [&[kind], content].concat();
            for (what, bytes, code) in [
                ("a push stream", stream(1, &[0]), 0x103),
                ("a second control stream", stream(0, &frame(4, &[])), 0x103),
                ("an entry for a table without room", stream(2, &[0x41, b'a', 0]), 0x201),
                ("a table with room", stream(2, &[0x3f, 0x01]), 0x201),
                ("an acknowledgement of nothing", stream(3, &[0x80]), 0x202),
                ("an increment of nothing", stream(3, &[0x01]), 0x202),
            ] {
                let raw = Raw::new(world.rig.address).await;
                let mut sender = raw.connection.open_uni().await.unwrap();
                sender.write_all(&bytes).await.unwrap();
                assert_eq!(raw.closed().await, code, "{what}");
            }
            for (what, bytes, code) in [
                ("SETTINGS twice", frame(4, &[]), 0x105),
                ("content on the control stream", frame(0, b"x"), 0x105),
                ("a frame of HTTP/2", frame(2, &[0; 5]), 0x105),
                ("a push that was never promised", frame(3, &[0]), 0x108),
                ("GOAWAY without an ID", frame(7, &[]), 0x106),
                ("GOAWAY with more than an ID", frame(7, &[0, 0]), 0x106),
            ] {
                let mut raw = Raw::new(world.rig.address).await;
                raw.control.write_all(&bytes).await.unwrap();
                assert_eq!(raw.closed().await, code, "{what}");
            }
            for (what, bytes, code) in [
                ("no SETTINGS first", frame(7, &[0]), 0x10a),
                ("a setting of HTTP/2", frame(4, &[2, 0]), 0x109),
                ("a setting twice", frame(4, &[6, 1, 6, 1]), 0x109),
                ("SETTINGS that are cut", frame(4, &[6]), 0x106),
                ("SETTINGS without end", frame(4, &[0; 5000]), 0x107),
            ] {
                let connection = connect(world.rig.address, "a.example").await.unwrap();
                let mut control = connection.open_uni().await.unwrap();
                control.write_all(&[&[0], &bytes[..]].concat()).await.unwrap();
                let raw = Raw { connection, control };
                assert_eq!(raw.closed().await, code, "{what}");
            }
            let mut raw = Raw::new(world.rig.address).await;
            raw.control.finish().unwrap();
            assert_eq!(raw.closed().await, 0x104, "the control stream is closed");
        });
        wait_for(|| world.rig.proxy.connections() == 0);
    });
}

/// What nobody knows is passed over (RFC 9114 §9), in a client's own streams, frames and settings.
#[test]
fn what_is_unknown_is_ignored() {
    on_both(|backend| {
        let world = World::new(backend, Origin::echo().address);
        run(async {
            let mut raw = Raw::new(world.rig.address).await;
            raw.control.write_all(&frame(0x1f * 7 + 0x21, b"grease")).await.unwrap();
            raw.control.write_all(&frame(0xf_0700, b"\0u=1")).await.unwrap();
            let mut stream = raw.connection.open_uni().await.unwrap();
            stream.write_all(&[0x21, 1, 2, 3]).await.unwrap();
            for (kind, content) in [(2, &[0x20][..]), (3, &[0x44, 0x7f, 0x80, 0x01])] {
                let mut stream = raw.connection.open_uni().await.unwrap();
                stream.write_all(&[&[kind], content].concat()).await.unwrap();
                std::mem::forget(stream);
            }
            let bytes = [frame(0x21, &[7; 3000]), headers(&GET), frame(0x40, b""), frame(0, b"x")].concat();
            assert!(has_status(&raw.request(&bytes).await.unwrap(), 200));
        });
    });
}

#[test]
fn floods_end_their_connection() {
    on_both(|backend| {
        let world = World::new(backend, Origin::new(|client, _| drop(client.rest())).address);
        run(async {
            let raw = Raw::new(world.rig.address).await;
            // Rapid reset: asked and taken back.
            let flood = async {
                loop {
                    let Ok((mut send, mut receive)) = raw.connection.open_bi().await else { return };
                    let _ = send.write_all(&headers(&GET)).await;
                    tokio::task::yield_now().await;
                    let _ = send.reset(VarInt::from_u32(0x10c));
                    let _ = receive.stop(VarInt::from_u32(0x10c));
                }
            };
            flood.await;
            assert_eq!(raw.closed().await, 0x107);
            for (kind, payload) in [(0, &b""[..]), (0x21, b""), (0x21, b"x")] {
                let raw = Raw::new(world.rig.address).await;
                let (mut send, receive) = raw.connection.open_bi().await.unwrap();
                send.write_all(&with(&[(":method", "POST")])).await.unwrap();
                while send.write_all(&frame(kind, payload).repeat(100)).await.is_ok() {}
                assert_eq!(raw.closed().await, 0x107, "{kind:x} {payload:?}");
                drop(receive);
            }
            let mut raw = Raw::new(world.rig.address).await;
            while raw.control.write_all(&frame(7, &[0]).repeat(100)).await.is_ok() {}
            assert_eq!(raw.closed().await, 0x107, "GOAWAY without end");
        });
        wait_for(|| world.rig.proxy.connections() == 0);
    });
}

/// A section can stand for no more than the limit says: references to the static table are counted like their text.
#[test]
fn a_bomb_of_references_is_refused() {
    on_both(|backend| {
        let world = World::new(backend, Origin::echo().address);
        run(async {
            let raw = Raw::new(world.rig.address).await;
            // Entry 85 has 78 bytes of text, in two bytes.
            let mut section = vec![0, 0, 0xd1, 0xd7, 0xc1];
            section.extend(b"\x50\x09a.example");
            section.extend([0xff, 85 - 63].repeat(30_000));
            assert!(has_status(&raw.request(&frame(1, &section)).await.unwrap(), 431));
            assert!(has_status(&raw.request(&headers(&GET)).await.unwrap(), 200));
        });
    });
}

#[test]
fn streams_beyond_the_limit_have_to_wait() {
    on_both(|backend| {
        let world = World::new(backend, Origin::echo().address);
        world.publish(|listener| {
            listener.client.http2 = Some(edge_config::policy::Http2Bounds { streams: Some(3), ..Default::default() });
        });
        run(async {
            let raw = Raw::new(world.rig.address).await;
            let mut open = Vec::new();
            for _ in 0..3 {
                open.push(raw.connection.open_bi().await.unwrap());
            }
            let fourth = tokio::time::timeout(Duration::from_millis(500), raw.connection.open_bi()).await;
            assert!(fourth.is_err(), "a fourth stream");
            let (mut send, receive) = open.pop().unwrap();
            send.write_all(&headers(&GET)).await.unwrap();
            send.finish().unwrap();
            assert!(has_status(&answer(receive).await.unwrap(), 200));
            raw.connection.open_bi().await.unwrap();
        });
    });
}

#[test]
fn who_says_nothing_is_not_waited_for() {
    on_both(|backend| {
        // A handshake on a busy machine fits into it.
        let limits = Limits {
            head_timeout: Duration::from_millis(1500),
            idle_timeout: Duration::from_millis(2500),
            stream_idle_timeout: Duration::from_millis(1500),
            ..Limits::default()
        };
        let world = World::with_limits(backend, Origin::echo().address, limits);
        run(async {
            // Half a head: its stream is reset, and others go on.
            let raw = Raw::new(world.rig.address).await;
            let (mut send, receive) = raw.connection.open_bi().await.unwrap();
            send.write_all(&headers(&GET)[..9]).await.unwrap();
            assert_eq!(answer(receive).await, MESSAGE_ERROR);
            assert!(has_status(&raw.request(&headers(&GET)).await.unwrap(), 200));
            // Half a body.
            let (mut send, receive) = raw.connection.open_bi().await.unwrap();
            send.write_all(&with(&[(":method", "POST"), ("content-length", "10")])).await.unwrap();
            send.write_all(&[0, 10, b'x']).await.unwrap();
            let refused = answer(receive).await;
            assert!(refused.is_err() || has_status(refused.as_ref().unwrap(), 408), "{refused:?}");
            // Nothing more: GOAWAY, and the end.
            assert_eq!(raw.closed().await, 0x100);
            // Not even SETTINGS.
            let connection = connect(world.rig.address, "a.example").await.unwrap();
            let control = connection.open_uni().await.unwrap();
            assert_eq!(Raw { connection, control }.closed().await, 0x10a);
        });
        wait_for(|| world.rig.proxy.connections() == 0);
    });
}

#[test]
fn datagrams_of_garbage_harm_nobody() {
    on_both(|backend| {
        let world = World::new(backend, Origin::echo().address);
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        run(async {
            let mut sender = client(connect(world.rig.address, "a.example").await.unwrap()).await;
            let sockets: Vec<UdpSocket> = (0..8).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
            for round in 0..20_000_usize {
                let mut datagram: Vec<u8> = (0..next() as usize % 1300).map(|_| next() as u8).collect();
                // Some look like what they could be: packets of either form, of this version.
                match round % 4 {
                    0 => {}
                    1 => datagram.splice(0..datagram.len().min(1), [0x40 | (next() as u8 & 0x3f)]).for_each(drop),
                    _ => {
                        let kind = 0xc0 | (next() as u8 & 0x3f);
                        let front = [kind, 0, 0, 0, 1, 8].into_iter().chain((0..8).map(|_| next() as u8)).chain([0, 0]);
                        datagram.splice(0..0, front).for_each(drop);
                        if round % 3 == 0 {
                            datagram.resize(1200, 0);
                        }
                    }
                }
                // What does not fit is lost.
                let _ = sockets[round % sockets.len()].send_to(&datagram, world.rig.address);
                if round % 2000 == 0 {
                    assert_eq!(exchange(&mut sender, get("/"), b"", None).await.unwrap().status, 200);
                }
            }
            assert_eq!(exchange(&mut sender, get("/"), b"", None).await.unwrap().status, 200);
            let mut other = client(connect(world.rig.address, "a.example").await.unwrap()).await;
            assert_eq!(exchange(&mut other, get("/"), b"", None).await.unwrap().status, 200);
        });
    });
}

/// Attempts from invented addresses are asked to show themselves, and none of them keeps out who does.
#[test]
fn a_flood_of_first_packets_keeps_nobody_out() {
    on_both(|backend| {
        let world = World::new(backend, Origin::echo().address);
        run(async {
            // A real ClientHello each, and then silence: handshakes that never end.
            let stalled: Vec<_> = (0..200)
                .map(|_| {
                    let endpoint = endpoint(None);
                    let connecting = endpoint.connect(world.rig.address, "a.example").unwrap();
                    (endpoint, connecting)
                })
                .collect();
            let mut sender = client(connect(world.rig.address, "a.example").await.unwrap()).await;
            assert_eq!(exchange(&mut sender, get("/"), b"", None).await.unwrap().status, 200);
            drop(stalled);
        });
    });
}
