//! Clients that take places and give nothing, end to end over loopback on both back ends: heads and handshakes that are
//! begun and not ended, answers that nobody reads, more connections than allowed. They are cut in time, and whoever
//! behaves is served meanwhile.
#![allow(clippy::unwrap_used, clippy::panic)] // what fails in a helper fails the test

mod rig;
mod secure;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use edge::proxy::limits::Limits;
use edge::proxy::metrics::{Format, render};
use edge_config::snapshot::*;
use rig::{Client, Origin, PATIENCE, Rig, on_both, rule};
use secure::{Ca, SecureRig, ask, cert_table, client_config, connect, https, status};

/// Connections that were begun in different ways.
fn begun(address: SocketAddr, count: usize, ways: &[&[u8]]) -> Vec<TcpStream> {
    let mut open = Vec::with_capacity(count);
    for way in ways.iter().cycle().take(count) {
        let mut stream = secure::tcp(address);
        stream.write_all(way).unwrap();
        open.push(stream);
    }
    open
}

/// Waits for the end of each, in whatever way it comes.
fn until_cut(open: Vec<TcpStream>) {
    for mut stream in open {
        let end = Instant::now() + PATIENCE;
        while matches!(stream.read(&mut [0; 4096]), Ok(count) if count > 0) {
            assert!(Instant::now() < end, "still open");
        }
    }
}

#[test]
fn slow_heads_are_cut_and_others_served() {
    on_both(|io| {
        let origin = Origin::echo();
        let limits = Limits { head_timeout: Duration::from_secs(2), ..Limits::default() };
        let rig = Rig::with_limits(io, vec![("", rule(0))], vec![vec![origin.address]], limits);
        let start = Instant::now();
        let mut client = rig.client();
        let slow =
            begun(rig.address, 500, &[b"", b"G", b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ", b"PRI * HTTP/2.0\r\n"]);
        // Drops of the slow kind do not move the deadline.
        let mut drop_by_drop = Client::new(rig.address);
        while rig.proxy.connections() > 1 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert!(client.message().0.starts_with("HTTP/1.1 200 "));
            let _ = drop_by_drop.stream.write_all(b"X");
            assert!(start.elapsed() < PATIENCE, "{} are still open", rig.proxy.connections() - 1);
            std::thread::sleep(Duration::from_millis(5));
        }
        until_cut(slow);
    });
}

#[test]
fn half_open_handshakes_are_cut_and_others_served() {
    on_both(|io| {
        let (origin, ca) = (Origin::echo(), Ca::new());
        let limits = Limits { head_timeout: Duration::from_secs(2), ..Limits::default() };
        let rig = SecureRig::with_limits(io, limits);
        let table = cert_table(&[("a", &ca.server(&["a.example"]))]);
        let upstream = secure::upstream(0, UpstreamProtocol::Http1, None);
        let snapshot =
            secure::snapshot(rig.address, vec![https("a", "a.example", "a", 0)], vec![rule(0)], vec![upstream]);
        rig.publish(snapshot, &table, &[origin.address]);
        let config = Arc::new(client_config(None, &[]));
        let hello = {
            let mut bytes = Vec::new();
            let name = "a.example".try_into().unwrap();
            rustls::ClientConnection::new(Arc::clone(&config), name).unwrap().write_tls(&mut bytes).unwrap();
            bytes
        };
        // Nothing, part of a record, a ClientHello in pieces, and all of one whose answer nobody takes up.
        let ways: [&[u8]; 5] = [b"", &hello[..1], &hello[..4], &hello[..hello.len() / 2], &hello];
        let start = Instant::now();
        let half_open = begun(rig.address, 500, &ways);
        while rig.proxy.connections() > 0 {
            let mut stream = connect(rig.address, &config, "a.example").unwrap();
            assert_eq!(status(&ask(&mut stream, "a.example", "/").unwrap()), 200);
            assert!(start.elapsed() < PATIENCE * 2, "{} are still open", rig.proxy.connections());
        }
        until_cut(half_open);
    });
}

#[test]
fn an_answer_that_nobody_reads_ends() {
    on_both(|io| {
        let is_cut = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_cut);
        let origin = Origin::new(move |client, _| {
            client.head();
            client.send("HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n");
            while client.stream.write_all(&[b'x'; 1 << 16]).is_ok() {}
            told.store(true, Ordering::Relaxed);
        });
        let limits = Limits { stream_idle_timeout: Duration::from_millis(500), ..Limits::default() };
        let rig = Rig::with_limits(io, vec![("", rule(0))], vec![vec![origin.address]], limits);
        let mut client = rig.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        rig::wait_for(|| rig.proxy.connections() == 1);
        rig::wait_for(|| rig.proxy.connections() == 0);
        // Neither side is left behind.
        rig::wait_for(|| is_cut.load(Ordering::Relaxed));
    });
}

/// Beyond the limit connections are closed at once and counted; within it they work on.
#[test]
fn a_flood_of_connections_leaves_those_within_the_limit() {
    on_both(|io| {
        let origin = Origin::echo();
        let limits = Limits { max_connections: 20, ..Limits::default() };
        let rig = Rig::with_limits(io, vec![("", rule(0))], vec![vec![origin.address]], limits);
        let mut within: Vec<Client> = (0..20).map(|_| rig.client()).collect();
        let works = |client: &mut Client| {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert!(client.message().0.starts_with("HTTP/1.1 200 "));
        };
        within.iter_mut().for_each(works);
        let beyond: Vec<Client> = (0..200).map(|_| rig.client()).collect();
        within.iter_mut().for_each(works);
        for mut client in beyond {
            assert_eq!(client.rest(), "");
        }
        within.iter_mut().for_each(works);
        let page = render(rig.proxy.metrics(), 0, Format::Prometheus);
        let refused = page.lines().find(|line| line.starts_with("edge_connections_refused") && line.contains("{"));
        assert!(refused.is_some_and(|line| line.ends_with(" 200")), "{refused:?} in {page}");
        drop(within);
        rig::wait_for(|| rig.proxy.connections() == 0);
        works(&mut rig.client());
    });
}
