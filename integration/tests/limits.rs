//! The bounds of `[proxy]` hold against clients that do not behave: heads without end, sockets that say nothing, bodies
//! that nobody reads, more connections than allowed.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use edge_integration::client::{Connection, H2, WebSocket, fetch};
use edge_integration::edged::until;
use edge_integration::lab::{HTTP, HTTPS, Lab, Running, block_on};
use edge_integration::manifests::{CLASS, LISTENERS, gateway, http_route, service, to};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

fn served(proxy: &str) -> (Lab, Running) {
    let mut lab = Lab::new();
    lab.write_config_with(proxy, "");
    let a = lab.origin("a");
    let text = [
        CLASS,
        &gateway("web", LISTENERS),
        &service("default", "a", 80, &[a.address]),
        &http_route("all", &["l.test"], &to("a", 80)),
    ];
    lab.manifest("all.yaml", &text.concat());
    lab.start(&[HTTP, HTTPS]);
    (lab, a)
}

#[test]
fn heads_are_bounded_in_bytes_fields_and_time() {
    let (lab, _a) = served("max_head = \"4KiB\"\nmax_fields = 20\nhead_timeout = \"1s\"\nidle_timeout = \"1s\"");
    block_on(async {
        let long = "x".repeat(5000);
        let mut connection = Connection::open(lab.at(HTTP), None).await.unwrap();
        let reply = connection.request("GET", "/", &[("host", "l.test"), ("x-long", &long)], b"").await.unwrap();
        assert_eq!(reply.status, 431, "long field");
        connection.closed().await.unwrap();
        let mut connection = Connection::open(lab.at(HTTP), None).await.unwrap();
        let reply = connection.request("GET", &format!("/{long}"), &[("host", "l.test")], b"").await.unwrap();
        assert!(matches!(reply.status, 414 | 431), "long target: {}", reply.status);
        let many: Vec<(String, String)> = (0..30).map(|i| (format!("x-{i}"), "1".to_owned())).collect();
        let mut headers: Vec<(&str, &str)> = many.iter().map(|(name, value)| (&**name, &**value)).collect();
        headers.push(("host", "l.test"));
        let mut connection = Connection::open(lab.at(HTTP), None).await.unwrap();
        assert_eq!(connection.request("GET", "/", &headers, b"").await.unwrap().status, 431, "30 fields");
        assert_eq!(fetch(lab.at(HTTP), None, "l.test", "/").await.unwrap().status, 200);

        // Nothing, half a head, a finished request and then nothing, half a ClientHello, a preface without settings.
        for (port, bytes, answered) in [
            (HTTP, &b""[..], false),
            (HTTP, b"GET / HTTP/1.1\r\nhost: l.te", false),
            (HTTP, b"GET / HTTP/1.1\r\nhost: l.test\r\n\r\n", true),
            (HTTPS, b"", false),
            (HTTPS, b"\x16\x03\x01\x02\x00\x01\x00", false),
            (HTTP, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false),
        ] {
            let mut connection = Connection::open(lab.at(port), None).await.unwrap();
            let start = Instant::now();
            connection.send(bytes).await.unwrap();
            if answered {
                connection.reply("GET").await.unwrap();
            }
            let mut stream = connection.into_stream();
            let mut rest = Vec::new();
            let end = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest);
            let end = tokio::time::timeout(Duration::from_secs(8), end).await;
            assert!(end.is_ok(), "port {port}, {bytes:?}: still open after {:?}", start.elapsed());
            assert!(start.elapsed() > Duration::from_millis(500), "port {port}, {bytes:?}: {:?}", start.elapsed());
        }
    });
}

#[test]
fn a_body_that_moves_slowly_but_moves_outlives_every_timeout() {
    // Each pause is far from the bound, so that a busy machine keeps it, and all of them together are longer.
    let (lab, _a) = served("head_timeout = \"1s\"\nidle_timeout = \"1s\"\nstream_idle_timeout = \"3s\"");
    block_on(async {
        let mut connection = Connection::open(lab.at(HTTP), None).await.unwrap();
        connection.send(b"PUT /upload HTTP/1.1\r\nhost: l.test\r\ncontent-length: 16\r\n\r\n").await.unwrap();
        for _ in 0..16 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            connection.send(b"x").await.unwrap();
        }
        let reply = connection.reply("PUT").await.unwrap();
        assert_eq!(reply.json()["received"], 16, "{reply:?}");
    });
}

#[test]
fn bodies_that_stand_still_are_ended_and_tunnels_are_not() {
    let (lab, _a) = served("head_timeout = \"500ms\"\nidle_timeout = \"500ms\"\nstream_idle_timeout = \"1s\"");
    block_on(async {
        let mut connection = Connection::open(lab.at(HTTP), None).await.unwrap();
        connection.send(b"PUT /upload HTTP/1.1\r\nhost: l.test\r\ncontent-length: 10\r\n\r\nx").await.unwrap();
        let start = Instant::now();
        let reply = connection.reply("PUT").await;
        let told = reply.as_ref().is_ok_and(|reply| matches!(reply.status, 408 | 504));
        assert!(reply.is_err() || told, "an upload that stands still: {reply:?}");
        assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
        // So is a download, and the client can tell.
        let mut connection = Connection::open(lab.at(HTTP), None).await.unwrap();
        let reply = connection.get("l.test", "/stall").await;
        assert!(reply.is_err(), "a download that stands still is no whole reply: {reply:?}");
        // A tunnel is none of these.
        let mut socket = WebSocket::open(lab.at(HTTP), None, "l.test", "/ws").await.unwrap();
        tokio::time::sleep(Duration::from_millis(2500)).await;
        socket.echo(b"still here").await.unwrap();
    });
}

#[test]
fn connections_are_bounded_and_free_again_when_closed() {
    let (lab, _a) = served("max_connections = 20");
    block_on(async {
        let mut open = Vec::new();
        for _ in 0..20 {
            let mut connection = Connection::open(lab.at(HTTP), None).await.unwrap();
            if connection.get("l.test", "/").await.is_ok() {
                open.push(connection);
            }
        }
        assert!((15..=20).contains(&open.len()), "{} of 20", open.len());
        let mut refused = 0;
        for _ in 0..20 {
            if fetch(lab.at(HTTP), None, "l.test", "/").await.is_err() {
                refused += 1;
            }
        }
        assert!(refused >= 15, "{refused} of 20 beyond the bound refused");
        for connection in &mut open {
            assert_eq!(connection.get("l.test", "/").await.unwrap().status, 200, "those within are not touched");
        }
        drop(open);
    });
    until("room again", || block_on(fetch(lab.at(HTTP), None, "l.test", "/")).ok());
}

/// Changes how many file descriptors a process may have.
fn limit_descriptors(pid: u32, most: u64) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    // The hard limit stays: it is the same as ours.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(most), maximum }).unwrap();
}

fn descriptors(pid: u32) -> u64 {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64
}

/// User and system time of a process so far, in clock ticks.
fn ticks(pid: u32) -> u64 {
    let line = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let rest = line.rsplit(") ").next().unwrap();
    rest.split(' ').skip(11).take(2).map(|word| word.parse::<u64>().unwrap()).sum()
}

#[test]
fn without_descriptors_new_connections_wait_and_nothing_spins() {
    let (mut lab, _a) = served("");
    let pid = lab.edged().pid();
    block_on(async {
        let mut known = Connection::open(lab.at(HTTP), None).await.unwrap();
        assert_eq!(known.get("l.test", "/").await.unwrap().status, 200);
        limit_descriptors(pid, descriptors(pid) + 4);
        let mut waiting = Vec::new();
        for _ in 0..40 {
            // The kernel takes them; edged cannot.
            waiting.push(Connection::open(lab.at(HTTP), None).await.unwrap());
        }
        for _ in 0..20 {
            assert_eq!(known.get("l.test", "/").await.unwrap().status, 200, "what is open works on");
        }
        let before = ticks(pid);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let spent = ticks(pid) - before;
        assert!(spent < 50, "{spent} ticks of 10 ms in 2 seconds without work");
        limit_descriptors(pid, 1024);
        for connection in &mut waiting {
            assert_eq!(connection.get("l.test", "/").await.unwrap().status, 200, "those that waited are served");
        }
        assert_eq!(fetch(lab.at(HTTP), None, "l.test", "/").await.unwrap().status, 200);
    });
    let log = lab.edged().log();
    let told = log.matches("cannot accept, trying again").count();
    assert!((1..=8).contains(&told), "told {told} times:\n{log}");
}

#[test]
fn bodies_that_nobody_reads_cost_no_memory() {
    let (mut lab, _a) = served("");
    let before = lab.edged().memory("VmRSS");
    block_on(async {
        let mut held = Vec::new();
        for _ in 0..20 {
            let mut connection = Connection::open(lab.at(HTTP), None).await.unwrap();
            connection.send(b"GET /bytes/500000000 HTTP/1.1\r\nhost: l.test\r\n\r\n").await.unwrap();
            held.push(connection);
        }
        let tls = lab.tls("l.test", &["h2"]);
        let mut h2 = H2::open(lab.at(HTTPS), Some(&tls)).await.unwrap();
        h2.get("l.test", "/").await.unwrap();
        let tls = lab.tls("l.test", &["http/1.1"]);
        for _ in 0..20 {
            let mut connection = Connection::open(lab.at(HTTPS), Some(&tls)).await.unwrap();
            connection.send(b"GET /bytes/500000000 HTTP/1.1\r\nhost: l.test\r\n\r\n").await.unwrap();
            held.push(connection);
        }
        // Uploads to somebody who does not read: the origin answers /stall without taking the body.
        let part = vec![b'x'; 1 << 16];
        for _ in 0..10 {
            let mut connection = Connection::open(lab.at(HTTP), None).await.unwrap();
            connection.send(b"PUT /stall HTTP/1.1\r\nhost: l.test\r\ncontent-length: 500000000\r\n\r\n").await.unwrap();
            let push = async { while connection.send(&part).await.is_ok() {} };
            let _ = tokio::time::timeout(Duration::from_millis(200), push).await;
            held.push(connection);
        }
        // Others are served meanwhile.
        for _ in 0..20 {
            assert_eq!(fetch(lab.at(HTTP), None, "l.test", "/").await.unwrap().status, 200);
        }
    });
    let grown = lab.edged().memory("VmHWM").saturating_sub(before);
    assert!(grown < 24 << 10, "50 stuck bodies cost {grown} kB");
}

#[test]
fn a_request_that_is_taken_back_is_logged() {
    let (lab, _a) = served("");
    block_on(async {
        let tls = lab.tls("l.test", &["h2"]);
        let mut h2 = H2::open(lab.at(HTTPS), Some(&tls)).await.unwrap();
        // The origin sends a head and no body. Dropped, the request is reset.
        let stalled = h2.get("l.test", "/stall");
        assert!(tokio::time::timeout(Duration::from_millis(500), stalled).await.is_err());
        assert_eq!(h2.get("l.test", "/").await.unwrap().status, 200);
    });
    let line =
        until("the line of a cancelled request", || lab.access_log().into_iter().find(|line| line["path"] == "/stall"));
    assert_eq!(line["reason"], "client_closed", "{line}");
}
