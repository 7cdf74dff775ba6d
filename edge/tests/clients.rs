//! Clients that leave while their answer is made, and clients that dawdle, end to end over loopback on both back ends.
#![allow(clippy::unwrap_used, clippy::panic)] // what fails in a helper fails the test

mod rig;

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use edge::proxy::limits::Limits;
use rig::{Origin, PATIENCE, Rig, on_both, rule};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";

/// The backend thinks, and learns that nobody waits for it any more: its connection ends.
#[test]
fn a_client_that_leaves_takes_its_request_back() {
    on_both(|io| {
        for request in [GET, POST] {
            for reset in [true, false] {
                let (sender, events) = mpsc::channel();
                let sender = Mutex::new(sender);
                let origin = Origin::new(move |client, _| {
                    client.message();
                    let sender = sender.lock().unwrap().clone();
                    sender.send("asked").unwrap();
                    client.rest();
                    sender.send("ended").unwrap();
                });
                let rig = Rig::plain(io, origin.address);
                let mut client = rig.client();
                client.send(request);
                assert_eq!(events.recv_timeout(PATIENCE), Ok("asked"));
                if reset {
                    socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
                }
                drop(client);
                assert_eq!(events.recv_timeout(PATIENCE), Ok("ended"), "{request:?} reset {reset}");
                rig::wait_for(|| rig.proxy.connections() == 0);
            }
        }
    });
}

/// A client that only sends no more is asked whether it is there, and then waited for.
#[test]
fn a_client_that_half_closes_is_not_gone() {
    on_both(|io| {
        for request in [GET, POST] {
            let (go, wait) = mpsc::channel::<()>();
            let wait = Mutex::new(wait);
            let origin = Origin::new(move |client, _| {
                client.message();
                wait.lock().unwrap().recv().unwrap();
                client.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                client.rest();
            });
            let rig = Rig::plain(io, origin.address);
            let mut client = rig.client();
            client.send(request);
            client.stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(client.head(), "HTTP/1.1 100 Continue\r\n\r\n");
            go.send(()).unwrap();
            let (head, body) = client.message();
            assert!(head.starts_with("HTTP/1.1 200 ") && body == "ok", "{head}{body}");
        }
    });
}

/// Requests that are there already are no sign of leaving, and are answered in order.
#[test]
fn a_client_that_asks_ahead_is_not_gone() {
    on_both(|io| {
        let rig = Rig::plain(io, Origin::echo().address);
        let mut client = rig.client();
        client.send(&GET.repeat(20));
        client.stream.shutdown(Shutdown::Write).unwrap();
        for _ in 0..20 {
            assert!(client.message().0.starts_with("HTTP/1.1 200 "));
        }
    });
}

fn hurried(rate: u32, grace: u64) -> Limits {
    Limits { min_body_rate: rate, min_body_rate_grace: Duration::from_millis(grace), ..Limits::default() }
}

#[test]
fn a_body_that_trickles_is_cut() {
    on_both(|io| {
        let origin = Origin::new(|client, _| drop(client.rest()));
        let limits = hurried(1_000_000, 200);
        let rig = Rig::with_limits(io, vec![("", rule(0))], vec![vec![origin.address]], limits);
        for (head, piece) in [("Content-Length: 100000", "x"), ("Transfer-Encoding: chunked", "1\r\nx\r\n")] {
            let mut client = rig.client();
            client.send(&format!("POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n"));
            let mut feed = client.stream.try_clone().unwrap();
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) && feed.write_all(piece.as_bytes()).is_ok() {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                });
                let answer = client.head();
                rig::wait_for(|| rig.proxy.connections() == 0);
                stop.store(true, Ordering::Relaxed);
                // A read that was given up in the middle leaves a connection that can only be ended.
                let told = answer.starts_with("HTTP/1.1 408 ") && answer.contains("connection: close\r\n");
                assert!(told || answer.is_empty(), "{answer:?}");
            });
        }
    });
}

#[test]
fn a_response_that_is_hardly_read_is_cut() {
    on_both(|io| {
        const SIZE: usize = 64 << 20;
        let origin = Origin::new(|client, _| {
            client.head();
            client.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
            let _ = client.stream.write_all(&vec![b'x'; SIZE]);
        });
        let limits = hurried(1_000_000_000, 200);
        let rig = Rig::with_limits(io, vec![("", rule(0))], vec![vec![origin.address]], limits);
        let mut client = rig.client();
        client.send(GET);
        assert!(client.head().starts_with("HTTP/1.1 200 "));
        rig::wait_for(|| rig.proxy.connections() == 0);
        let mut left = 0;
        let mut bytes = vec![0; 1 << 20];
        while let Ok(count @ 1..) = client.stream.read(&mut bytes) {
            left += count;
        }
        assert!(left < SIZE, "all of it came");
    });
}

/// Where a route says that it streams, and where the rate is off, a pause is the client's own affair.
#[test]
fn a_stream_may_pause() {
    on_both(|io| {
        let mut streams = rule(0);
        streams.timeouts.streams = true;
        let origin = Origin::echo();
        for (rule, limits) in [(streams, hurried(1_000_000, 50)), (rule(0), hurried(0, 50))] {
            let rig = Rig::with_limits(io, vec![("", rule)], vec![vec![origin.address]], limits);
            let mut client = rig.client();
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n");
            client.send("o");
            std::thread::sleep(Duration::from_millis(500));
            client.send("k");
            let (head, body) = client.message();
            assert!(head.starts_with("HTTP/1.1 200 ") && body.ends_with("\r\n\r\nok"), "{head}{body}");
        }
    });
}
