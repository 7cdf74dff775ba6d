//! HTTP/2 clients that mean harm, frame by frame: each costs its own connection, is counted, and nobody else notices.
#![allow(clippy::unwrap_used, clippy::panic)] // what fails in a helper fails the test

mod rig;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use edge::proxy::limits::Limits;
use edge::proxy::metrics::{Format, render};
use rig::{Client, Origin, PATIENCE, Rig, on_both, rule, wait_for};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ENHANCE_YOUR_CALM: u32 = 11;

/// GET http://a/
const GET: &[u8] = b"\x82\x86\x84\x01\x01a";
/// POST http://a/
const POST: &[u8] = b"\x83\x86\x84\x01\x01a";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn headers(flags: u8, stream: u32, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, flags, stream, block)
}

#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

struct Attacker(TcpStream);

impl Attacker {
    fn new(rig: &Rig, settings: &[u8]) -> Self {
        let mut stream = TcpStream::connect(rig.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, settings)).unwrap();
        Self(stream)
    }

    /// Sends until the other side has had enough.
    fn send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    /// The next frame; `None` at the end, however it came.
    fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.0.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        loop {
            let frame = self.read().expect("closed too early");
            if wanted(&frame) {
                return frame;
            }
        }
    }

    /// The last GOAWAY before the end.
    fn farewell(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.read() {
            if frame.kind == GOAWAY {
                code = Some(frame.number(4));
            }
        }
        code
    }

    fn also(&self) -> Self {
        Self(self.0.try_clone().unwrap())
    }
}

/// How often the proxy has counted this reason.
fn counted(rig: &Rig, reason: &str) -> u64 {
    let text = render(rig.proxy.metrics(), 0, Format::Prometheus);
    let label = format!("reason=\"{reason}\"");
    text.lines()
        .filter(|line| line.contains(&label))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64)
        .sum()
}

fn is_served(canary: &mut Client) {
    canary.send("GET /canary HTTP/1.1\r\nHost: a\r\n\r\n");
    let (head, _) = canary.message();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

/// Resident memory of this process, in KiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// One test at a time: they share the memory that is measured.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a client does again and again, by the round.
type Attack = fn(u32) -> Vec<u8>;

#[test]
fn floods_end_their_connection_only() {
    let attacks: &[(&str, &str, &[u8], Attack)] = &[
        ("rapid reset", "stream_flood", b"", |round| {
            let stream = 2 * round + 1;
            let request = headers(END_HEADERS | END_STREAM, stream, GET);
            [request, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
        }),
        ("made you reset, by a window update of nothing", "stream_flood", b"", |round| {
            let stream = 2 * round + 1;
            let request = headers(END_HEADERS, stream, POST);
            [request, frame(WINDOW_UPDATE, 0, stream, &0_u32.to_be_bytes())].concat()
        }),
        ("made you reset, by a window too large", "stream_flood", b"", |round| {
            let stream = 2 * round + 1;
            let request = headers(END_HEADERS, stream, POST);
            [request, frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes())].concat()
        }),
        ("made you reset, by DATA after the end", "stream_flood", b"", |round| {
            let stream = 2 * round + 1;
            let request = headers(END_HEADERS | END_STREAM, stream, GET);
            [request, frame(DATA, 0, stream, b"x")].concat()
        }),
        ("malformed requests", "stream_flood", b"", |round| {
            headers(END_HEADERS | END_STREAM, 2 * round + 1, b"\x82\x86\x84\x00\x01A\x01a")
        }),
        ("SETTINGS", "frame_flood", b"", |_| frame(SETTINGS, 0, 0, b"")),
        ("SETTINGS full of windows", "frame_flood", b"", |round| {
            let window = [&[0, 4][..], &(round % 60_000).to_be_bytes()].concat();
            frame(SETTINGS, 0, 0, &window.repeat(2700))
        }),
        ("PING", "frame_flood", b"", |_| frame(PING, 0, 0, b"12345678")),
        ("PRIORITY", "frame_flood", b"", |round| frame(PRIORITY, 0, 2 * round + 1, b"\0\0\0\0\x10")),
        ("unknown frames", "frame_flood", b"", |_| frame(0xfa, 0, 0, b"")),
        ("WINDOW_UPDATE", "frame_flood", b"", |_| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
        ("empty DATA", "frame_flood", b"", |round| match round {
            0 => headers(END_HEADERS, 1, POST),
            _ => frame(DATA, 0, 1, b""),
        }),
        ("padding only", "frame_flood", b"", |round| match round {
            0 => headers(END_HEADERS, 1, POST),
            _ => frame(DATA, 8, 1, b"\x03\0\0\0"),
        }),
        // A window that opens by single bytes. The response is larger than the attack.
        ("a tiny window", "frame_flood", b"\0\x04\0\0\0\0", |round| match round {
            0 => headers(END_HEADERS | END_STREAM, 1, b"\x82\x86\x04\x06/large\x01\x01a"),
            _ => frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes()),
        }),
        ("CONTINUATION, empty", "header_flood", b"", |round| match round {
            0 => headers(0, 1, GET),
            _ => frame(CONTINUATION, 0, 1, b""),
        }),
        ("CONTINUATION, large", "header_flood", b"", |round| match round {
            0 => headers(0, 1, GET),
            _ => frame(CONTINUATION, 0, 1, &[0; 16_000]),
        }),
        ("no HTTP/2 at all", "protocol_error", b"", |_| frame(PING, 0, 0, b"1234567")),
    ];
    let _alone = alone();
    on_both(|io| {
        let large = "x".repeat(1 << 20);
        let origin = Origin::new(move |client, _| {
            loop {
                // No body ever comes whole here; a script that failed on it would cost memory of its own.
                let head = client.head();
                if !head.contains(" HTTP/1.1\r\n") {
                    return;
                }
                let body = if head.contains("/large ") { &large } else { "" };
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                if client.stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        });
        let rig = Rig::plain(io, origin.address);
        let mut canary = rig.client();
        is_served(&mut canary);
        for (name, reason, settings, attack) in attacks {
            let (counted_before, memory_before) = (counted(&rig, reason), memory());
            let mut attacker = Attacker::new(&rig, settings);
            let mut reader = attacker.also();
            let listening = std::thread::spawn(move || reader.farewell());
            let rounds = (0..40_000).take_while(|round| attacker.send(&attack(*round))).count();
            let code = listening.join().unwrap();
            assert!(rounds < 40_000 || code.is_some(), "{name}: still welcome");
            // A GOAWAY can be lost to the reset that answers what is still being sent.
            assert!(
                code.is_none() || *reason == "protocol_error" || code == Some(ENHANCE_YOUR_CALM),
                "{name}: {code:?}"
            );
            wait_for(|| counted(&rig, reason) > counted_before);
            is_served(&mut canary);
            let grown = memory().saturating_sub(memory_before);
            assert!(grown < 16 << 10, "{name}: {grown} KiB");
        }
    });
}

/// References of one byte to an entry of 4,000: fields are counted, not bytes (CVE-2026-49975).
#[test]
fn a_compression_bomb_is_defused() {
    let _alone = alone();
    on_both(|io| {
        let origin = Origin::echo();
        let rig = Rig::plain(io, origin.address);
        let mut attacker = Attacker::new(&rig, b"");
        let before = memory();
        for round in 0..50_u32 {
            // A field of 3,900 bytes that is remembered once, then meant again and again.
            let mut block = GET.to_vec();
            if round == 0 {
                block.extend_from_slice(b"\x40\x01x\x7f\xbd\x1d");
                block.resize(block.len() + 3900, b'y');
            }
            block.resize(16_000, 0xbe);
            assert!(attacker.send(&headers(END_HEADERS | END_STREAM, 2 * round + 1, &block)));
            let answer = attacker.until(|frame| frame.kind == HEADERS);
            // :status 431, a literal.
            assert!(answer.payload.starts_with(b"\x08\x03431"), "{:x?}", answer.payload);
        }
        let grown = memory().saturating_sub(before);
        assert!(grown < 16 << 10, "{grown} KiB");
    });
}

#[test]
fn a_window_that_never_opens_holds_little_and_not_for_ever() {
    let _alone = alone();
    on_both(|io| {
        let body = "x".repeat(10 << 20);
        let origin = Origin::new(move |client, _| {
            while !client.message().0.is_empty() {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                let sent = client.stream.write_all(head.as_bytes());
                if sent.and_then(|()| client.stream.write_all(body.as_bytes())).is_err() {
                    return;
                }
            }
        });
        let limits = Limits { stream_idle_timeout: Duration::from_secs(2), ..Limits::default() };
        let rig = Rig::with_limits(io, vec![("", rule(0))], vec![vec![origin.address]], limits);
        is_served(&mut rig.client());
        let before = memory();
        // Nothing may be sent on any stream.
        let mut attacker = Attacker::new(&rig, b"\0\x04\0\0\0\0");
        let requests: Vec<u8> =
            (0..100).flat_map(|round| headers(END_HEADERS | END_STREAM, 2 * round + 1, GET)).collect();
        assert!(attacker.send(&requests));
        let mut reset = std::collections::BTreeSet::new();
        while reset.len() < 100 {
            let frame = attacker.read().expect("closed too early");
            if frame.kind == RST_STREAM {
                assert!(reset.insert(frame.stream));
            }
        }
        let grown = memory().saturating_sub(before);
        // Of 1,000 MiB that were asked for.
        assert!(grown < 16 << 10, "{grown} KiB");
        // The last stream is counted when its exchange is over, which is after its reset is on the way.
        wait_for(|| counted(&rig, "stream_stalled") >= 100);
        is_served(&mut rig.client());
    });
}

#[test]
fn half_a_head_has_the_time_of_a_head() {
    let _alone = alone();
    on_both(|io| {
        let origin = Origin::echo();
        let limits = Limits { head_timeout: Duration::from_secs(1), ..Limits::default() };
        let rig = Rig::with_limits(io, vec![("", rule(0))], vec![vec![origin.address]], limits);
        let half = headers(END_HEADERS | END_STREAM, 3, GET);
        for bytes in [&half[..4], &half[..half.len() - 1], &headers(0, 3, GET)] {
            let mut attacker = Attacker::new(&rig, b"");
            assert!(attacker.send(&headers(END_HEADERS | END_STREAM, 1, GET)));
            attacker.until(|frame| frame.stream == 1 && frame.flags & END_STREAM != 0);
            let begun = Instant::now();
            assert!(attacker.send(bytes));
            assert_eq!(attacker.farewell(), Some(ENHANCE_YOUR_CALM));
            assert!(begun.elapsed() < Limits::default().head_timeout, "{:?}", begun.elapsed());
        }
        wait_for(|| counted(&rig, "head_timeout") == 3);
    });
}

/// It is told twice (RFC 9113 §6.8), and then it is over, whether it listens or not.
#[test]
fn a_client_that_does_not_leave_is_left() {
    let _alone = alone();
    on_both(|io| {
        let origin = Origin::echo();
        let limits = Limits { idle_timeout: Duration::from_secs(1), ..Limits::default() };
        let rig = Rig::with_limits(io, vec![("", rule(0))], vec![vec![origin.address]], limits);
        let mut attacker = Attacker::new(&rig, b"");
        assert!(attacker.send(&headers(END_HEADERS | END_STREAM, 1, GET)));
        let first = attacker.until(|frame| frame.kind == GOAWAY);
        assert_eq!((first.number(0), first.number(4)), (0x7fff_ffff, 0));
        // What was on its way when it was told is served.
        assert!(attacker.send(&headers(END_HEADERS | END_STREAM, 3, GET)));
        attacker.until(|frame| frame.stream == 3 && frame.flags & END_STREAM != 0);
        let last = attacker.until(|frame| frame.kind == GOAWAY);
        assert_eq!((last.number(0), last.number(4)), (3, 0));
        assert_eq!(attacker.farewell(), None);
    });
}

/// Requests that no other reading of them may reach a backend with.
#[test]
fn what_is_malformed_reaches_no_backend() {
    let _alone = alone();
    on_both(|io| {
        let origin = Origin::echo();
        let rig = Rig::plain(io, origin.address);
        let mut attacker = Attacker::new(&rig, b"");
        let mut stream = 1;
        let mut send = |attacker: &mut Attacker, bytes: &dyn Fn(u32) -> Vec<u8>| {
            assert!(attacker.send(&bytes(stream)));
            let answer = attacker.until(|frame| frame.stream == stream && frame.kind != WINDOW_UPDATE);
            stream += 2;
            answer
        };
        let literal = |name: &str, value: &str| {
            [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
        };
        let get = |more: Vec<u8>| {
            let block = [GET, &more].concat();
            move |stream| headers(END_HEADERS | END_STREAM, stream, &block)
        };
        for (name, value) in [
            ("connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("te", "gzip"),
            ("X-Upper", "1"),
            ("x", "a\r\nhost: evil"),
            ("content-length", "5"),
            (":path", "/again"),
        ] {
            let answer = send(&mut attacker, &get(literal(name, value)));
            assert_eq!((answer.kind, answer.number(0)), (RST_STREAM, 1), "{name}: {value}");
        }
        // A body that is not as long as it says, in both directions, and pseudo-headers in trailers.
        let post = [POST, &literal("content-length", "3")].concat();
        for bodies in [&[&b"ab"[..]][..], &[b"abcd"], &[b"ab", b"cd"]] {
            let answer = send(&mut attacker, &|stream| {
                let mut bytes = headers(END_HEADERS, stream, &post);
                for (at, body) in bodies.iter().enumerate() {
                    let end = if at + 1 == bodies.len() { END_STREAM } else { 0 };
                    bytes.extend(frame(DATA, end, stream, body));
                }
                bytes
            });
            assert_eq!((answer.kind, answer.number(0)), (RST_STREAM, 1), "{bodies:?}");
        }
        let answer = send(&mut attacker, &|stream| {
            let trailers = headers(END_HEADERS | END_STREAM, stream, &literal(":path", "/evil"));
            [headers(END_HEADERS, stream, POST), trailers].concat()
        });
        assert_eq!((answer.kind, answer.number(0)), (RST_STREAM, 1));
        // Well-formed, but in two readings: told so.
        let answer = send(&mut attacker, &get(literal("host", "b")));
        assert_eq!((answer.kind, answer.payload[0]), (HEADERS, 0x8c));
        // And the connection goes on.
        let answer = send(&mut attacker, &get(literal("host", "a")));
        assert_eq!((answer.kind, answer.payload[0]), (HEADERS, 0x88));
    });
}
