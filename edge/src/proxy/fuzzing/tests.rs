//! The bounded run: every file of the corpus as it is, then a fixed number of mutations of each corpus.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::{Dice, TARGETS, forwarder, reference, run};

/// Mutations per target, always the same ones.
const MUTATIONS: usize = 2000;
/// No mutation grows beyond this.
const LONGEST: usize = 8192;

/// What breaks parsers, put in at random places.
const TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"\x0b",
    b"\x85",
    b"\xa0",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"0",
    b"0x",
    b"+",
    b"-1",
    b"_",
    b"%2e",
    b"%2F",
    b"/../",
    b"//",
    b"\\",
    b"#",
    b"?",
    b"*",
    b"@",
    b"%00",
    b"chunked",
    b"identity",
    b", chunked",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive, x-a\r\n",
    b"Host: b\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: websocket\r\n",
    b"Connection: upgrade\r\n",
    b"TE: trailers\r\n",
    b" HTTP/1.1\r\n",
    b" HTTP/1.0\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST ",
    b"HEAD ",
    b"CONNECT ",
    b"http://a",
    b"18446744073709551615",
    b"ffffffffffffffff",
    b"10000000000000000",
    b"X-A: b\r\n",
    b" x",
    b"\x00\x00\x00\x05a.b\x00",
    b"\x16\x03\x01",
    b"\xff\xff",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
];

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

fn mutate(input: &[u8], other: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len() + 1);
        let length = dice.below(20).min(bytes.len() - at);
        match dice.below(7) {
            0 => {
                bytes.truncate(at);
                bytes.extend_from_slice(&other[dice.below(other.len() + 1)..]);
            }
            1 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            2 if at < bytes.len() => bytes[at] = dice.below(256) as u8,
            3 => {
                let copy = bytes[at..at + length].to_vec();
                let to = dice.below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            4 => drop(bytes.drain(at..at + length)),
            _ => drop(bytes.splice(at..at, TOKENS[dice.below(TOKENS.len())].iter().copied())),
        }
    }
    bytes.truncate(LONGEST);
    bytes
}

/// Runs one input; a finding is told as a byte string that can be made a file of the corpus.
fn judge(target: &str, origin: &str, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| run(target, input))).is_err() {
        panic!("target {target}, {origin}: b\"{}\"", input.escape_ascii());
    }
}

/// Replays and mutates the corpus of one target.
fn bounded(target: &str) {
    let corpus = corpus(target);
    assert!(corpus.len() > 5, "hardly a corpus for {target}");
    for (name, input) in &corpus {
        assert!(input.len() < 4096, "{target}/{name} is too large for the tree");
        judge(target, name, input);
    }
    let mut dice = Dice::of(target.as_bytes());
    for _ in 0..MUTATIONS {
        let (name, input) = &corpus[dice.below(corpus.len())];
        let (_, other) = &corpus[dice.below(corpus.len())];
        let input = mutate(input, other, &mut dice);
        judge(target, name, &input);
    }
    println!("{target}: {} inputs of the corpus and {MUTATIONS} mutations", corpus.len());
}

macro_rules! bounded {
    ($($target:ident)*) => {
        $(#[test] fn $target() { bounded(stringify!($target)); })*

        #[test]
        fn every_target_is_run_and_has_its_program() {
            let run = [$(stringify!($target)),*];
            let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
            let programs = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
            for (target, _) in TARGETS {
                assert!(run.contains(target), "{target}");
                assert!(programs.contains(&format!("\"{target}\"")), "{target}");
                assert!(fuzz.join(format!("targets/{target}.rs")).exists(), "{target}");
            }
        }
    };
}

bounded!(
    request_head response_head chunked request_target client_hello proxy_header requests responses h2_streams h2_frames
);

/// The judges would also be content with a proxy that refuses everything.
#[test]
fn what_is_good_goes_through() {
    for (name, input) in corpus("requests") {
        let meant = reference::requests(&input);
        let good = meant.complete.len();
        let through = forwarder::forwarded(&input);
        assert!(through <= good, "{name}");
        match name.split_once('-') {
            Some(("good", _)) => {
                assert!(good > 0, "{name}: {:?}", meant.stop);
                assert_eq!(through, good, "{name}");
            }
            Some(("bad", _)) => assert_eq!(through, 0, "{name}"),
            Some(("mixed", _)) => assert!(through == 1, "{name}: {through}"),
            _ => panic!("{name}: good-, bad- or mixed-"),
        }
    }
}
