use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use edge_config::names::{Kind, ObjectKey, ObjectRef};
use proptest::prelude::*;

use super::json::{LONGEST, push_milliseconds, push_str, push_time};
use super::*;
use crate::proxy::reason::Reason;

fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).unwrap()
}

fn entry(path: &[u8]) -> Entry<'_> {
    let client: SocketAddr = "192.0.2.1:5000".parse().unwrap();
    let at = UNIX_EPOCH + Duration::from_millis(1_795_378_999_007);
    Entry { path, ..Entry::new(at, client, "198.51.100.7:443".parse().unwrap(), "HTTP/1.1") }
}

#[test]
fn times() {
    // One memory for all, as in a worker: what it remembers must not show.
    let mut second = Second::default();
    for (seconds, millis, expected) in [
        (0, 0, "1970-01-01T00:00:00.000Z"),
        (951_782_400, 1, "2000-02-29T00:00:00.001Z"),
        (951_868_799, 999, "2000-02-29T23:59:59.999Z"),
        (1_709_164_800, 0, "2024-02-29T00:00:00.000Z"),
        (1_735_689_599, 10, "2024-12-31T23:59:59.010Z"),
        (4_107_542_399, 0, "2100-02-28T23:59:59.000Z"),
        (4_107_542_400, 0, "2100-03-01T00:00:00.000Z"),
        (253_402_300_799, 0, "9999-12-31T23:59:59.000Z"),
    ] {
        let at = UNIX_EPOCH + Duration::new(seconds, millis * 1_000_000);
        for at in [at, at] {
            assert_eq!(text(|out| push_time(out, at, &mut second)), expected);
        }
    }
    let before = UNIX_EPOCH - Duration::from_secs(1);
    assert_eq!(text(|out| push_time(out, before, &mut second)), "1970-01-01T00:00:00.000Z");
    for (micros, expected) in [(0, "0.000"), (1, "0.001"), (12_345, "12.345"), (3_600_000_000, "3600000.000")] {
        assert_eq!(text(|out| push_milliseconds(out, Duration::from_micros(micros))), expected);
    }
}

#[test]
fn hostile_strings() {
    for (given, expected) in [
        (&b"plain"[..], "plain"),
        (b"a\"b\\c", r#"a\"b\\c"#),
        (b"a\r\nb\tc", r"a\r\nb\tc"),
        (b"\x00\x1b[31m\x7f", r"\u0000\u001b[31m\u007f"),
        ("é\u{9b}31m\u{80}\u{a0}€".as_bytes(), "é\\u009b31m\\u0080\u{a0}€"),
        (b"a\xff\xfeb\xc3", r"a\\xff\\xfeb\\xc3"),
        (b"</script>", "</script>"),
    ] {
        assert_eq!(text(|out| push_str(out, given)), format!("\"{expected}\""), "{given:?}");
    }
    let long = "é".repeat(LONGEST);
    let line = text(|out| push_str(out, format!("a{long}").as_bytes()));
    assert_eq!(line, format!("\"a{}…\"", "é".repeat(LONGEST / 2 - 1)));
}

#[test]
fn a_whole_line() {
    let gateway = ObjectRef::new(Kind::Gateway, ObjectKey::parse("infra/public"));
    let route = ObjectRef::new(Kind::HTTPRoute, ObjectKey::parse("shop/cart"));
    let entry = Entry {
        listener: Some((&gateway, "https")),
        rule: Some(RuleOf { route: &route, index: Some(2), name: Some("checkout") }),
        backend: Some("Service shop/cart:8080"),
        endpoint: Some("10.0.0.9:3000".parse().unwrap()),
        method: b"POST",
        host: b"shop.example",
        status: 503,
        bytes_in: 17,
        bytes_out: u64::MAX,
        duration: Duration::from_micros(12_345),
        upstream: Some(Duration::from_micros(999)),
        tries: 2,
        tls: Some(TlsOf { version: "TLSv1.3", cipher: "TLS_AES_128_GCM_SHA256", server_name: Some("shop.example") }),
        user_agent: Some(b"curl/8"),
        request_id: Some(b"r-1"),
        reason: Some(Reason::ConnectFailed),
        ..entry(b"/pay")
    };
    assert_eq!(
        text(|out| entry.write(out, &mut Second::default())),
        concat!(
            r#"{"ts":"2026-11-22T20:23:19.007Z","client":"192.0.2.1:5000","vip":"198.51.100.7:443","#,
            r#""listener":"Gateway infra/public/https","route":"HTTPRoute shop/cart","rule":2,"rule_name":"checkout","#,
            r#""backend":"Service shop/cart:8080","endpoint":"10.0.0.9:3000","method":"POST","host":"shop.example","#,
            r#""path":"/pay","protocol":"HTTP/1.1","status":503,"bytes_in":17,"bytes_out":18446744073709551615,"#,
            r#""duration_ms":12.345,"upstream_ms":0.999,"tries":2,"tls_version":"TLSv1.3","#,
            r#""tls_cipher":"TLS_AES_128_GCM_SHA256","sni":"shop.example","user_agent":"curl/8","request_id":"r-1","#,
            r#""reason":"connect_failed"}"#,
            "\n"
        )
    );
    let client = SocketAddr::new(entry.client.ip(), 0);
    let short = Entry::new(SystemTime::UNIX_EPOCH, client, entry.vip, "TCP");
    assert_eq!(
        text(|out| short.write(out, &mut Second::default())),
        concat!(
            r#"{"ts":"1970-01-01T00:00:00.000Z","client":"192.0.2.1","vip":"198.51.100.7:443","protocol":"TCP","#,
            r#""bytes_in":0,"bytes_out":0,"duration_ms":0.000}"#,
            "\n"
        )
    );
}

proptest! {
    #[test]
    fn any_bytes_give_one_valid_line(path in prop::collection::vec(any::<u8>(), 0..200), agent in "\\PC*") {
        let entry = Entry { user_agent: Some(agent.as_bytes()), ..entry(&path) };
        let line = text(|out| entry.write(out, &mut Second::default()));
        prop_assert_eq!(line.matches('\n').count(), 1);
        prop_assert!(line.chars().all(|c| !c.is_control() || c == '\n'));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        if !agent.is_empty() && agent.len() < LONGEST {
            prop_assert_eq!(value["user_agent"].as_str(), Some(agent.as_str()));
        }
        if let Ok(path) = std::str::from_utf8(&path) {
            prop_assert_eq!(value["path"].as_str().unwrap_or_default(), path);
        }
    }
}

#[test]
fn the_wall_clock_goes_on_from_where_it_was_looked_at() {
    let (full, _receiver) = sync_channel(1);
    let now = (Instant::now(), UNIX_EPOCH + Duration::from_secs(1000));
    let sink = Sink { buffer: Vec::new(), count: 0, second: Second::default(), now, full, shared: Arc::default() };
    for (at, expected) in [
        (now.0, 1_000_000),
        (now.0 + Duration::from_millis(1500), 1_001_500),
        (now.0.checked_sub(Duration::from_millis(2)).unwrap(), 999_998),
    ] {
        assert_eq!(sink.wall(at), UNIX_EPOCH + Duration::from_millis(expected));
    }
}

#[test]
fn addresses_and_objects_are_written_as_they_display() {
    use super::json::{push_address, push_ip, push_object};
    for address in ["0.0.0.0:0", "255.10.9.100:65535", "[::1]:80", "[2001:db8::ffff]:1", "[::ffff:192.0.2.1]:5"] {
        let address: SocketAddr = address.parse().unwrap();
        assert_eq!(text(|out| push_address(out, &address)), format!("\"{address}\""));
        assert_eq!(text(|out| push_ip(out, &address.ip())), format!("\"{}\"", address.ip()));
    }
    for key in ["infra/public", "clusterwide"] {
        let object = ObjectRef::new(Kind::Gateway, ObjectKey::parse(key));
        assert_eq!(text(|out| push_object(out, &object, &["/", "a\"b"])), format!("\"{object}/a\\\"b\""));
    }
}

fn lines(path: &std::path::Path) -> usize {
    std::fs::read_to_string(path).unwrap_or_default().lines().count()
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn every_line_of_every_worker_is_written_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let log = AccessLog::start(Destination::File(path.clone())).unwrap();
    let workers: Vec<_> = (0..4)
        .map(|worker| {
            let mut sink = log.sink();
            std::thread::spawn(move || {
                for number in 0..500 {
                    sink.record(&entry(format!("/{worker}/{number}").as_bytes()));
                    if number % 100 == 0 {
                        sink.flush();
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
    assert_eq!(log.dropped(), 0);
    log.close();
    let written = std::fs::read_to_string(&path).unwrap();
    assert_eq!(written.lines().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()).count(), 2000);
}

#[test]
fn reopens_after_rotation() {
    let directory = tempfile::tempdir().unwrap();
    let (path, moved) = (directory.path().join("access.log"), directory.path().join("access.log.1"));
    let log = AccessLog::start(Destination::File(path.clone())).unwrap();
    let mut sink = log.sink();
    sink.record(&entry(b"/1"));
    sink.flush();
    until("the first line", || lines(&path) == 1);
    std::fs::rename(&path, &moved).unwrap();
    log.reopen();
    until("the new file", || path.exists());
    sink.record(&entry(b"/2"));
    drop(sink);
    log.close();
    assert_eq!((lines(&moved), lines(&path)), (1, 1));
}

#[test]
fn a_stuck_writer_costs_lines_and_no_time() {
    let (full, receiver) = sync_channel(WAITING);
    let shared = Arc::new(Shared::default());
    let second = Second::default();
    let now = (Instant::now(), SystemTime::now());
    let mut sink = Sink { buffer: Vec::new(), count: 0, second, now, full, shared: Arc::clone(&shared) };
    for _ in 0..WAITING {
        sink.record(&entry(b"/"));
        sink.flush();
    }
    assert_eq!(shared.dropped.load(Ordering::Relaxed), 0);
    sink.record(&entry(b"/"));
    sink.record(&entry(b"/"));
    sink.flush();
    assert_eq!(shared.dropped.load(Ordering::Relaxed), 2);
    drop(receiver);
    sink.record(&entry(b"/"));
    drop(sink);
    assert_eq!(shared.dropped.load(Ordering::Relaxed), 3);
}

#[test]
fn a_disk_that_comes_back_is_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("logs");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("access.log");
    let log = AccessLog::start(Destination::File(path.clone())).unwrap();
    let mut sink = log.sink();
    std::fs::remove_dir_all(&folder).unwrap();
    log.reopen();
    until("a lost line", || {
        sink.record(&entry(b"/"));
        sink.flush();
        log.dropped() > 0
    });
    std::fs::create_dir(&folder).unwrap();
    until("a line after", || {
        sink.record(&entry(b"/"));
        sink.flush();
        lines(&path) > 0
    });
    drop(sink);
    log.close();
}

#[test]
fn a_path_that_cannot_be_opened_is_an_error() {
    let error = AccessLog::start(Destination::File("/nonexistent/access.log".into())).unwrap_err();
    assert_eq!(error.to_string(), "access log /nonexistent/access.log: cannot be opened for appending");
}
