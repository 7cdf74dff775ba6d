use proptest::prelude::*;

use super::*;
use crate::proxy::body::Chunk;
use crate::proxy::clock::Clock;
use crate::proxy::h1::encode;
use crate::proxy::h1::writer::Writer;

const LIMITS: HeadLimits = HeadLimits { bytes: 64 << 10, fields: 100 };

fn decode(bytes: &[u8]) -> Result<(RequestHead, Connection), RequestError> {
    let mut scanned = 0;
    let end = head_end(bytes, &mut scanned).map_err(RequestError::Malformed)?;
    let end = end.ok_or(RequestError::Malformed("incomplete"))?;
    let mut head = RequestHead::default();
    request(&bytes[..end], Scheme::Http, LIMITS, &mut head).map(|connection| (head, connection))
}

fn status_of(text: &str) -> u16 {
    decode(text.as_bytes()).map_or_else(RequestError::status, |_| 200)
}

/// A valid request with these further lines.
fn with(lines: &str) -> String {
    format!("POST /p HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
}

#[test]
fn a_request_becomes_canonical() {
    let (head, connection) = decode(
        b"GET /p/%41?q=%41 HTTP/1.1\r\nHost: Example.COM.:8080\r\nX-One: 1 \r\nConnection: x-hop, TE, keep-alive\r\n\
          X-Hop: 2\r\nKeep-Alive: 5\r\nTE: trailers, deflate\r\nProxy-Connection: x\r\nUpgrade: h2c\r\n\
          HTTP2-Settings: x\r\nx_forwarded_for: 6.6.6.6\r\nX_y: kept\r\nx-one: 3\r\n\r\n",
    )
    .unwrap();
    assert_eq!((head.method(), head.path(), head.query()), ("GET", "/p/A", Some("q=%41")));
    assert_eq!((head.authority(), head.host()), ("Example.COM.:8080", "example.com"));
    assert_eq!((head.te_trailers, head.upgrade, head.length), (true, None, Length::None));
    let fields: Vec<_> = head.fields.iter().collect();
    assert_eq!(fields, [(&b"x-one"[..], &b"1"[..]), (b"x_y", b"kept"), (b"x-one", b"3")]);
    assert_eq!(connection, Connection { framing: Framing::None, keep_alive: true });
}

#[test]
fn each_clause_about_framing() {
    for (lines, expected) in [
        ("Content-Length: 5\r\n", Ok(Framing::Length(5))),
        ("Content-Length:   007\t\r\n", Ok(Framing::Length(7))),
        ("Content-Length: 0\r\n", Ok(Framing::Length(0))),
        ("Transfer-Encoding: Chunked\r\n", Ok(Framing::Chunked)),
        ("", Ok(Framing::None)),
        // RFC 9112 §6.3
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Err(400)),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Err(400)),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", Err(400)),
        ("Content-Length: 5, 5\r\n", Err(400)),
        ("Content-Length: +5\r\n", Err(400)),
        ("Content-Length: -5\r\n", Err(400)),
        ("Content-Length: 0x5\r\n", Err(400)),
        ("Content-Length: 5_0\r\n", Err(400)),
        ("Content-Length: 5 0\r\n", Err(400)),
        ("Content-Length: \r\n", Err(400)),
        ("Content-Length: 99999999999999999999\r\n", Err(400)),
        ("Transfer-Encoding: chunked, chunked\r\n", Err(400)),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Err(400)),
        ("Transfer-Encoding: ,chunked\r\n", Err(400)),
        ("Transfer-Encoding: gzip\r\n", Err(400)),
        ("Transfer-Encoding: identity\r\n", Err(400)),
        ("Transfer-Encoding: gzip, chunked\r\n", Err(501)),
        ("Transfer-Encoding: chunked, gzip\r\n", Err(400)),
        ("Transfer-Encoding: \r\n", Err(400)),
        ("Transfer-Encoding: \"chunked\"\r\n", Err(400)),
        ("Transfer-Encoding: \x0bchunked\r\n", Err(400)),
        ("Transfer-Encoding : chunked\r\n", Err(400)),
        (" Transfer-Encoding: chunked\r\n", Err(400)),
        ("X: y\r\n Transfer-Encoding: chunked\r\n", Err(400)),
    ] {
        let result = decode(with(lines).as_bytes()).map(|(_, connection)| connection.framing);
        assert_eq!(result.map_err(RequestError::status), expected, "{lines:?}");
    }
    let old = "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(status_of(old), 400);
}

#[test]
fn each_clause_about_lines_and_fields() {
    for lines in [
        "X : y\r\n",
        "X y\r\n",
        ": y\r\n",
        "\u{e9}: y\r\n",
        "X\t: y\r\n",
        "X: a\0b\r\n",
        "X: a\x01b\r\n",
        "X: a\x7fb\r\n",
        "X: a\rb\r\n",
        "X: a\nb: c\r\n",
        "X: y\r\n folded\r\n",
        "X: y\r\n\tfolded\r\n",
        "X(: y\r\n",
        "\"X\": y\r\n",
        "Host: b\r\n",
        "Host: a\r\n",
        "Expect: 100-continue\r\nExpect: 100-continue\r\n",
    ] {
        assert_eq!(status_of(&with(lines)), 400, "{lines:?}");
    }
    for lines in ["X:\r\n", "X:y\r\n", "X: caf\u{e9}\r\n", "!#$%&'*+-.^_`|~09az: y\r\n", "X: a\tb\r\n"] {
        assert_eq!(status_of(&with(lines)), 200, "{lines:?}");
    }
    let many = "X: y\r\n".repeat(100);
    assert_eq!(status_of(&with(&many)), 431);
    assert_eq!(status_of(&with(&many["X: y\r\n".len()..])), 200);
    assert_eq!(status_of(&with("Expect: nothing\r\n")), 417);
}

#[test]
fn each_clause_about_the_request_line() {
    for (line, status) in [
        ("GET / HTTP/1.1", 200),
        ("OPTIONS * HTTP/1.1", 200),
        ("FOO!#$ / HTTP/1.1", 200),
        ("GET http://a/x HTTP/1.1", 200),
        ("GET HTTP://A:80/x HTTP/1.1", 200),
        ("GET http://a HTTP/1.1", 200),
        ("GET * HTTP/1.1", 400),
        ("GET x HTTP/1.1", 400),
        ("GET http://b/ HTTP/1.1", 400),
        ("GET http://a:81/ HTTP/1.1", 400),
        ("GET https://a/ HTTP/1.1", 400),
        ("GET http://u@a/ HTTP/1.1", 400),
        ("GET http:///x HTTP/1.1", 400),
        ("GET ftp://a/ HTTP/1.1", 400),
        ("GET  / HTTP/1.1", 400),
        ("GET /  HTTP/1.1", 400),
        ("GET\t/ HTTP/1.1", 400),
        (" GET / HTTP/1.1", 400),
        ("GET / HTTP/1.1 ", 400),
        ("G(T / HTTP/1.1", 400),
        ("GET /", 400),
        ("GET / http/1.1", 400),
        ("GET / HTTP/1", 400),
        ("GET / HTTP/11.1", 400),
        ("GET / XTTP/1.1", 400),
        ("GET / HTTP/1.2", 505),
        ("GET / HTTP/2.0", 505),
        ("GET / HTTP/0.9", 505),
        ("CONNECT a:80 HTTP/1.1", 501),
        ("CONNECT / HTTP/1.1", 501),
        ("GET /a#b HTTP/1.1", 400),
        ("GET /a\\b HTTP/1.1", 400),
        ("GET /caf\u{e9} HTTP/1.1", 400),
        ("GET /a%00 HTTP/1.1", 400),
    ] {
        assert_eq!(status_of(&format!("{line}\r\nHost: a\r\n\r\n")), status, "{line:?}");
    }
    for (host, status) in [
        ("Host: a", 200),
        ("Host: [::1]:80", 200),
        ("Host: 10.0.0.1", 200),
        ("X: y", 400),
        ("Host:", 400),
        ("Host: a b", 400),
        ("Host: a,b", 400),
        ("Host: a:b", 400),
        ("Host: u@a", 400),
        ("Host: a/b", 400),
        ("Host: a\0", 400),
        ("Host: [::1", 400),
        ("Host: http://a", 400),
    ] {
        assert_eq!(status_of(&format!("GET / HTTP/1.1\r\n{host}\r\n\r\n")), status, "{host:?}");
    }
    assert_eq!(status_of("GET / HTTP/1.0\r\n\r\n"), 200);
    assert_eq!(status_of("GET http://a/ HTTP/1.1\r\n\r\n"), 400);
}

#[test]
fn upgrades_are_websocket_or_nothing() {
    let get = |lines: &str| decode(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n").as_bytes());
    let upgrade = |lines: &str| get(lines).unwrap().0.upgrade.is_some();
    assert!(upgrade("Connection: Upgrade\r\nUpgrade: WebSocket\r\n"));
    assert!(upgrade("Upgrade: websocket\r\nConnection: keep-alive, upgrade\r\n"));
    assert!(!upgrade("Upgrade: websocket\r\n"));
    assert!(!upgrade("Connection: upgrade\r\nUpgrade: h2c\r\n"));
    assert!(!upgrade("Connection: upgrade\r\nUpgrade: h2c, websocket\r\n"));
    assert!(!upgrade("Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n"));
    assert!(get("Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n").is_err());
    assert!(decode(with("Connection: upgrade\r\nUpgrade: websocket\r\n").as_bytes()).unwrap().0.upgrade.is_none());
}

#[test]
fn keep_alive_follows_version_and_options() {
    for (version, options, expected) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: x, CLOSE\r\n", false),
        ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: keep-alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ] {
        let text = format!("GET / HTTP/{version}\r\nHost: a\r\n{options}\r\n");
        assert_eq!(decode(text.as_bytes()).unwrap().1.keep_alive, expected, "{text:?}");
    }
}

#[test]
fn the_end_of_a_head_is_found_in_any_pieces() {
    let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody";
    for size in 1..text.len() {
        let mut scanned = 0;
        let mut end = None;
        for length in (0..text.len()).step_by(size).chain([text.len()]) {
            end = head_end(&text[..length], &mut scanned).unwrap();
            if end.is_some() {
                break;
            }
        }
        assert_eq!(end, Some(text.len() - 4));
    }
    assert!(head_end(b"\n", &mut 0).is_err());
    assert!(head_end(b"GET /\n\r\n", &mut 0).is_err());
    assert_eq!(head_end(b"\r\n", &mut 0), Ok(Some(2)));
}

fn decode_response(bytes: &[u8], is_head: bool) -> Result<(ResponseHead, Connection), ResponseError> {
    let mut head = ResponseHead::default();
    response(bytes, is_head, LIMITS, &mut head).map(|connection| (head, connection))
}

#[test]
fn each_clause_about_responses() {
    let none = Framing::None;
    for (text, is_head, framing, length, keep_alive) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", false, Framing::Length(3), Length::Known(3), true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", true, none, Length::Known(3), true),
        ("HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n", false, Framing::Chunked, Length::Unknown, true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", true, none, Length::None, true),
        ("HTTP/1.1 200 OK\r\n\r\n", false, Framing::Close, Length::Unknown, false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", false, Framing::Length(3), Length::Known(3), false),
        ("HTTP/1.1 204 No\r\n\r\n", false, none, Length::None, true),
        ("HTTP/1.1 204 No\r\nContent-Length: 3\r\n\r\n", false, none, Length::None, false),
        ("HTTP/1.1 304 No\r\nContent-Length: 3\r\n\r\n", false, none, Length::Known(3), true),
        ("HTTP/1.1 103 Hint\r\n\r\n", false, none, Length::None, true),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            false,
            Framing::Length(0),
            Length::Known(0),
            false,
        ),
    ] {
        let (head, connection) = decode_response(text.as_bytes(), is_head).unwrap();
        assert_eq!((connection.framing, head.length, connection.keep_alive), (framing, length, keep_alive), "{text:?}");
    }
    for bad in [
        "HTTP/1.1 99 Low\r\n\r\n",
        "HTTP/1.1 600 High\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: \0\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
    ] {
        assert!(decode_response(bad.as_bytes(), false).is_err(), "{bad:?}");
    }
    let text = "HTTP/1.1 101 Switching\r\nUpgrade: WebSocket\r\nConnection: upgrade, x-hop\r\nX-Hop: 1\r\nX: 2\r\n\r\n";
    let (head, _) = decode_response(text.as_bytes(), false).unwrap();
    assert_eq!(head.upgrade.map(|span| head.fields.str(span)), Some("websocket"));
    assert_eq!(head.fields.iter().collect::<Vec<_>>(), [(&b"x"[..], &b"2"[..])]);
}

#[test]
fn trailers_are_strict() {
    let decode = |text: &str| {
        let mut fields = Fields::default();
        trailers(text.as_bytes(), LIMITS, &mut fields).map(|()| fields.len())
    };
    assert_eq!(decode("\r\n"), Ok(0));
    assert_eq!(decode("grpc-status: 0\r\nX-Y: z\r\n\r\n"), Ok(2));
    assert_eq!(decode("Connection: x\r\nSet-Cookie: a=b\r\nX-Forwarded-For: 1\r\nX_Forwarded_For: 1\r\n\r\n"), Ok(0));
    for bad in [
        "Content-Length: 5\r\n\r\n",
        "Host: b\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n",
        "x y: z\r\n\r\n",
        ":path: /\r\n\r\n",
        "x: y\r\n z\r\n\r\n",
    ] {
        assert!(decode(bad).is_err(), "{bad:?}");
    }
}

/// What the encoder writes for a head.
fn encode(head: &RequestHead) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _guard = runtime.enter();
    let mut writer = Writer::new(Clock::new().timer());
    encode::request(head, &mut writer);
    match writer.take() {
        Some(buffer) => Chunk::Pooled(buffer).as_slice().to_vec(),
        None => Vec::new(),
    }
}

/// The canonical head as text, to be compared.
fn canonical(head: &RequestHead) -> String {
    let fields: Vec<_> = head
        .fields
        .iter()
        .map(|(name, value)| format!("{}={:?}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)))
        .collect();
    format!(
        "{} {} {} {} {:?} {:?} {:?} {:?} {}",
        head.method(),
        head.authority(),
        head.host(),
        head.path(),
        head.query(),
        head.length,
        head.upgrade.is_some(),
        fields,
        head.te_trailers
    )
}

/// Decoded, encoded and decoded again, a request is the same.
fn assert_round_trip(bytes: &[u8]) {
    let Ok((head, _)) = decode(bytes) else { return };
    // HTTP/1.0 without Host cannot be said in HTTP/1.1.
    if head.authority().is_empty() {
        return;
    }
    let encoded = encode(&head);
    let (again, _) =
        decode(&encoded).unwrap_or_else(|error| panic!("{error} in {:?}", String::from_utf8_lossy(&encoded)));
    assert_eq!(canonical(&head), canonical(&again));
}

const CORPUS: [&str; 8] = [
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /a/b;c=d?e=f&g HTTP/1.1\r\nHost: Example.com:8080\r\nContent-Length: 12\r\nContent-Type: text/plain\r\n\r\n",
    "PUT /%20%41 HTTP/1.1\r\nHost: [::1]:1\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nConnection: TE, X-A\r\nX-A: b\r\n\r\n",
    "GET http://a.b/c HTTP/1.1\r\nHost: a.b\r\nConnection: close\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\nOrigin: http://x\r\nAccess-Control-Request-Method: GET\r\n\r\n",
    "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x==\r\n\r\n",
    "HEAD /x HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nx_forwarded_host: b\r\nCookie: a=b; c=\"d\"\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\nX-Empty:\r\n\r\n",
];

/// Pieces that have broken parsers before.
const NASTY: [&str; 22] = [
    "\r",
    "\n",
    "\r\n",
    "\0",
    " ",
    "\t",
    ":",
    ";",
    ",",
    "chunked",
    "Content-Length: 1\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Host: b\r\n",
    "\x0b",
    "\u{85}",
    "\u{a0}",
    "%2e",
    "%00",
    "\\",
    "HTTP/1.1",
    "0x1",
    "X: y\r\n z\r\n",
];

#[test]
fn the_corpus_is_valid_and_round_trips() {
    for text in CORPUS {
        decode(text.as_bytes()).unwrap_or_else(|error| panic!("{error} {text:?}"));
        assert_round_trip(text.as_bytes());
    }
}

#[test]
fn a_mutated_corpus_never_panics_and_never_changes_its_meaning() {
    // A fixed seed: a failure can be repeated.
    let random = crate::proxy::upstream::balance::Random::new(42);
    for round in 0..20_000 {
        let mut bytes = CORPUS[round % CORPUS.len()].as_bytes().to_vec();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len() as u64 + 1) as usize;
            match random.below(4) {
                0 => drop(bytes.splice(at..at, NASTY[random.below(22) as usize].bytes())),
                1 if at < bytes.len() => drop(bytes.remove(at)),
                2 if at < bytes.len() => bytes[at] = random.next() as u8,
                _ => {
                    let other = CORPUS[random.below(8) as usize].as_bytes();
                    let from = random.below(other.len() as u64) as usize;
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[from..]);
                }
            }
        }
        assert_round_trip(&bytes);
        let _ = decode_response(&bytes, round % 2 == 0);
        let _ = trailers(&bytes, LIMITS, &mut Fields::default());
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        assert_round_trip(&bytes);
        let _ = decode_response(&bytes, false);
        let _ = trailers(&bytes, LIMITS, &mut Fields::default());
    }

    #[test]
    fn what_is_valid_round_trips(
        method in "[A-Z]{1,8}",
        path in "(/[a-zA-Z0-9;=%!$&'()*+,:@~_-]{0,6}){1,4}",
        query in proptest::option::of("[a-zA-Z0-9?/%=&]{0,12}"),
        host in "[a-z0-9-]{1,8}(\\.[a-z]{1,5})?(:[1-9][0-9]{0,3})?",
        fields in proptest::collection::vec(("[a-zA-Z][a-zA-Z0-9_-]{0,12}", "[!-~]{0,3}[ -~\\t]{0,10}"), 0..8),
        length in proptest::option::of(0_u64..1_000_000),
    ) {
        let mut text = format!("{method} {path}");
        if let Some(query) = &query {
            text.push_str(&format!("?{query}"));
        }
        text.push_str(&format!(" HTTP/1.1\r\nHost: {host}\r\n"));
        for (name, value) in &fields {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(length) = length {
            text.push_str(&format!("Content-Length: {length}\r\n"));
        }
        text.push_str("\r\n");
        assert_round_trip(text.as_bytes());
    }
}

/// Field values are looked at by httparse alone, some of them many bytes at a time.
#[test]
fn a_control_character_anywhere_in_a_value_is_refused() {
    for byte in (0..=8).chain(10..=31).chain([127]) {
        for before in 0..70 {
            for after in [0, 1, 40] {
                let value = [&b"v".repeat(before)[..], &[byte], &b"v".repeat(after)[..]].concat();
                let head = [&b"GET / HTTP/1.1\r\nHost: a\r\nX: "[..], &value, b"\r\n\r\n"].concat();
                let mut request = RequestHead::default();
                let limits = HeadLimits { bytes: 4096, fields: 100 };
                let parsed = super::request(&head, Scheme::Http, limits, &mut request);
                assert!(parsed.is_err(), "byte {byte} after {before}, before {after}");
            }
        }
    }
}

#[test]
fn lines_are_canonical_however_they_were_written() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nA-b: 1\r\nC:2\r\nD: \t3 \r\nE:\r\nF: \r\nConnection: x-Gone\r\nX-gone: 4\r\nG: 5\r\n\r\n";
    let mut request = RequestHead::default();
    super::request(head, Scheme::Http, HeadLimits { bytes: 4096, fields: 100 }, &mut request).unwrap();
    let mut lines = Vec::new();
    request.fields.put_lines(|piece| lines.extend_from_slice(piece));
    assert_eq!(String::from_utf8_lossy(&lines), "a-b: 1\r\nc: 2\r\nd: 3\r\ne: \r\nf: \r\ng: 5\r\n");
}
