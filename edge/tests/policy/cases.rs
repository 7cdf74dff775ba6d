//! Every rule of `docs/parsing.md` about requests, as raw bytes and what is to come of them.

use edge_config::settings::{DotSegments, EscapedSlashes, PathPolicy, RepeatedSlashes};

/// What a case expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Want {
    /// This status, an end, and nothing at the backend.
    Refused(u16),
    /// An end without an answer, and nothing at the backend.
    Closed,
    /// The first part is answered and forwarded, the second gets this status, an end, and nothing more at the backend.
    After(u16),
    /// This status; the backend has a request that is visibly incomplete.
    CutOff(u16),
    /// Nothing at the backend, and the client is sent to this URL.
    Redirected(String),
    /// Exactly this at the backend, after the fields that Edge adds to every request are taken out.
    Forwarded(String),
}

pub struct Case {
    pub rule: &'static str,
    pub name: String,
    /// Sent one after the other, the second when the backend has the first.
    pub parts: Vec<Vec<u8>>,
    pub path: PathPolicy,
    pub want: Want,
}

#[derive(Default)]
pub struct Cases {
    pub list: Vec<Case>,
}

/// What would be smuggled behind a request that is refused.
const BEHIND: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

impl Cases {
    fn refused(&mut self, rule: &'static str, status: u16, name: &str, bytes: impl AsRef<[u8]>) {
        let mut bytes = bytes.as_ref().to_vec();
        bytes.extend_from_slice(BEHIND);
        self.add(rule, name, vec![bytes], PathPolicy::default(), Want::Refused(status));
    }

    fn forwarded(&mut self, rule: &'static str, name: &str, bytes: impl AsRef<[u8]>, expected: &str) {
        let want = Want::Forwarded(expected.to_owned());
        self.add(rule, name, vec![bytes.as_ref().to_vec()], PathPolicy::default(), want);
    }

    fn add(&mut self, rule: &'static str, name: &str, parts: Vec<Vec<u8>>, path: PathPolicy, want: Want) {
        self.list.push(Case { rule, name: name.to_owned(), parts, path, want });
    }

    /// A POST with these lines, which is refused.
    fn lines(&mut self, rule: &'static str, status: u16, lines: impl AsRef<[u8]>) {
        let lines = lines.as_ref();
        let mut bytes = b"POST /p HTTP/1.1\r\nHost: a\r\n".to_vec();
        bytes.extend_from_slice(lines);
        bytes.extend_from_slice(b"\r\n0\r\n\r\n");
        self.refused(rule, status, &String::from_utf8_lossy(lines).trim().escape_debug().to_string(), bytes);
    }

    /// A chunked body.
    fn chunks(&mut self, rule: &'static str, name: &str, body: impl AsRef<[u8]>) {
        let mut bytes = CHUNKED.to_vec();
        bytes.extend_from_slice(body.as_ref());
        self.refused(rule, 400, name, bytes);
    }

    fn start_line(&mut self, rule: &'static str, status: u16, line: impl AsRef<[u8]>) {
        let line = line.as_ref();
        let bytes = [line, b"\r\nHost: a\r\n\r\n"].concat();
        self.refused(rule, status, &String::from_utf8_lossy(line).escape_debug().to_string(), bytes);
    }

    /// A request for a path under a policy.
    fn path(&mut self, rule: &'static str, path: &str, policy: PathPolicy, want: Result<&str, u16>) {
        let bytes = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes();
        let want = match want {
            Ok(path) if rule.ends_with("redirect") => Want::Redirected(format!("http://a{path}")),
            Ok(path) => Want::Forwarded(get(path)),
            Err(status) => Want::Refused(status),
        };
        self.add(rule, path, vec![bytes], policy, want);
    }
}

const CHUNKED: &[u8] = b"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")
}

/// With the body `ok`, framed anew.
fn chunked(trailers: &str) -> String {
    format!("POST /p HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n{trailers}\r\n")
}

pub fn all() -> Vec<Case> {
    let mut cases = Cases::default();
    framing(&mut cases);
    chunks(&mut cases);
    lines(&mut cases);
    bytes_everywhere(&mut cases);
    request_line(&mut cases);
    target(&mut cases);
    path(&mut cases);
    connection(&mut cases);
    cases.list
}

fn framing(cases: &mut Cases) {
    const TE: &str = "Transfer-Encoding: chunked\r\n";
    cases.lines("cl-and-te", 400, format!("Content-Length: 5\r\n{TE}"));
    cases.lines("cl-and-te", 400, format!("{TE}Content-Length: 5\r\n"));
    cases.lines("cl-and-te", 400, format!("Content-Length: 0\r\n{TE}"));
    cases.lines("cl-and-te", 400, "Content-Length: 5\r\nTransfer-Encoding: identity\r\n");
    cases.lines("cl-and-te", 400, format!("Connection: Content-Length\r\nContent-Length: 5\r\n{TE}"));
    cases.lines("cl-repeated", 400, "Content-Length: 5\r\nContent-Length: 5\r\n");
    cases.lines("cl-repeated", 400, "Content-Length: 5\r\nContent-Length: 6\r\n");
    cases.lines("cl-repeated", 400, "Content-Length: 5\r\nX: y\r\ncontent-length: 0\r\n");
    for value in [
        "",
        "+5",
        "-5",
        "-0",
        "0x5",
        "5_0",
        "5,5",
        "5, 5",
        "5,",
        ",5",
        "5 5",
        "5;",
        "5.0",
        "5e0",
        "\"5\"",
        "five",
        "9223372036854775808",
        "9999999999999999999",
        "18446744073709551616",
        "99999999999999999999999",
        "00000000000000000005",
    ] {
        cases.lines("cl-malformed", 400, format!("Content-Length: {value}\r\n"));
    }
    let body = |length| format!("POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\nhello");
    let whole = "POST /p HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello";
    cases.forwarded("cl-zeros", "005", body("005"), whole);
    cases.forwarded("cl-zeros", "white space around it", body(" \t5\t "), whole);
    for value in [
        "",
        "identity",
        "gzip",
        "chunked, gzip",
        "chunked, identity",
        "chunked, chunked",
        ",chunked",
        "chunked,",
        "gzip, , chunked",
        "\"chunked\"",
        "chunked;q=1",
        "xchunked",
        "chunkedx",
        "chunked chunked",
        "chunk ed",
        "(chunked)",
    ] {
        cases.lines("te-invalid", 400, format!("Transfer-Encoding: {value}\r\n"));
    }
    cases.lines("te-coding", 501, "Transfer-Encoding: gzip, chunked\r\n");
    cases.lines("te-coding", 501, "Transfer-Encoding: identity, chunked\r\n");
    cases.lines("te-repeated", 400, format!("{TE}{TE}"));
    cases.lines("te-repeated", 400, format!("{TE}Transfer-Encoding: identity\r\n"));
    cases.lines("te-repeated", 400, format!("Transfer-Encoding: gzip\r\n{TE}"));
    cases.refused("te-http10", 400, "chunked", format!("POST /p HTTP/1.0\r\nHost: a\r\n{TE}\r\n0\r\n\r\n"));
    for coding in ["chunked", "Chunked", "CHUNKED", " chunked\t"] {
        let request =
            format!("POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:{coding}\r\n\r\n02\r\nok\r\n000\r\n\r\n");
        cases.forwarded("te-chunked", coding, request, &chunked(""));
    }
}

fn chunks(cases: &mut Cases) {
    for line in [
        "",
        "x",
        " 2",
        "2 ",
        "\t2",
        "0x2",
        "0X2",
        "+2",
        "-2",
        "2h",
        "2_",
        "2,",
        "2.",
        "2:",
        "1_0",
        "g",
        "\u{ff12}",
        "8000000000000000",
        "ffffffffffffffff",
        "fffffffffffffffff",
        "00000000000000002",
        "2\0",
        "2\x0b",
    ] {
        cases.chunks("chunk-size", &format!("size {line:?}"), format!("{line}\r\nok\r\n0\r\n\r\n"));
    }
    cases.chunks("chunk-size", "LF behind the size", "2\nok\r\n0\r\n\r\n");
    cases.chunks("chunk-size", "CR behind the size", "2\rok\r\n0\r\n\r\n");
    cases.chunks("chunk-size", "two CR behind the size", "2\r\r\nok\r\n0\r\n\r\n");
    cases.chunks("chunk-size", "LF behind the last size", "2\r\nok\r\n0\n\r\n");
    cases.chunks("chunk-size", "an empty line before the size", "\r\n2\r\nok\r\n0\r\n\r\n");
    cases.chunks("chunk-end", "longer than its size", "2\r\noka\r\n0\r\n\r\n");
    cases.chunks("chunk-end", "shorter than its size", "5\r\nok\r\n0\r\n\r\n");
    cases.chunks("chunk-end", "LF behind the data", "2\r\nok\n0\r\n\r\n");
    cases.chunks("chunk-end", "CR behind the data", "2\r\nok\r0\r\n\r\n");
    cases.chunks("chunk-end", "nothing behind the data", "2\r\nok0\r\n\r\n");
    for (name, late) in [("a size", "0x5\r\nhello\r\n0\r\n\r\n"), ("an end", "2\r\nokay\r\n0\r\n\r\n")] {
        let parts = vec![[CHUNKED, b"2\r\nok\r\n"].concat(), [late.as_bytes(), BEHIND].concat()];
        cases.add("chunk-late", name, parts, PathPolicy::default(), Want::CutOff(400));
    }
    for extension in [";a", ";a=b", ";a=\"b;c\"", "; a = b", ";a;b=c", ";", ";\u{e9}"] {
        let body = format!("2{extension}\r\nok\r\n0{extension}\r\n\r\n");
        cases.forwarded("chunk-extension", extension, [CHUNKED, body.as_bytes()].concat(), &chunked(""));
    }
    for (name, extension) in
        [("NUL", ";a\0"), ("LF", ";a\n"), ("CR", ";a\rb"), ("VT", ";a\x0b"), ("DEL", ";\x7f"), ("ESC", ";\x1b")]
    {
        cases.chunks("chunk-extension-bad", name, format!("2{extension}\r\nok\r\n0\r\n\r\n"));
    }
    cases.chunks("chunk-extension-bad", "5000 bytes", format!("2;{}\r\nok\r\n0\r\n\r\n", "a".repeat(5000)));
    let many = format!("1;{}\r\no\r\n", "a".repeat(900)).repeat(5);
    cases.chunks("chunk-extension-bad", "4500 bytes in 5 chunks", format!("{many}0\r\n\r\n"));

    let with = |trailers: &str| [CHUNKED, b"2\r\nok\r\n0\r\n", trailers.as_bytes(), b"\r\n"].concat();
    cases.forwarded("trailer", "two of them", with("X-Sum: 7\r\nY:\r\n"), &chunked("x-sum: 7\r\ny: \r\n"));
    for field in [
        "Authorization: x",
        "Cookie: a=b",
        "Set-Cookie: a=b",
        "Content-Type: a/b",
        "Content-Encoding: gzip",
        "Content-Range: x",
        "Cache-Control: x",
        "Range: bytes=0-",
        "If-Match: x",
        "Max-Forwards: 0",
        "Expect: 100-continue",
        "TE: trailers",
        "Connection: x",
        "Keep-Alive: 5",
        "Upgrade: websocket",
        "Trailer: x",
        "Proxy-Authorization: x",
        "X-Forwarded-For: 6.6.6.6",
        "Forwarded: for=6.6.6.6",
        "X-Real-IP: 6.6.6.6",
        "True-Client-IP: 6.6.6.6",
        "x_forwarded_for: 6.6.6.6",
        "content_length: 5",
        "X-Forwarded-Client-Cert: x",
    ] {
        cases.forwarded("trailer-dropped", field, with(&format!("{field}\r\nX-Sum: 7\r\n")), &chunked("x-sum: 7\r\n"));
    }
    for field in ["Content-Length: 2", "Transfer-Encoding: chunked", "Host: b"] {
        cases.chunks("trailer-framing", field, format!("2\r\nok\r\n0\r\n{field}\r\n\r\n"));
    }
    for trailer in [
        "x y: z\r\n",
        ":path: /\r\n",
        "no field\r\n",
        "x : y\r\n",
        "x: y\r\n z\r\n",
        " x: y\r\n",
        "x: y\n",
        "x: \0\r\n",
        ": x\r\n",
        "x: a\rb\r\n",
    ] {
        cases.chunks("trailer-syntax", &format!("{trailer:?}"), format!("2\r\nok\r\n0\r\n{trailer}\r\n"));
    }
    cases.chunks("trailer-syntax", "65 of them", format!("2\r\nok\r\n0\r\n{}\r\n", "x: y\r\n".repeat(65)));
    cases.chunks("trailer-syntax", "70 KiB", format!("2\r\nok\r\n0\r\nx: {}\r\n\r\n", "y".repeat(70 << 10)));
}

fn lines(cases: &mut Cases) {
    cases.refused("line-lf", 400, "request line", "GET / HTTP/1.1\nHost: a\r\n\r\n");
    cases.refused("line-lf", 400, "field line", "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n");
    cases.refused("line-lf", 400, "last field line", "GET / HTTP/1.1\r\nHost: a\n\r\n");
    cases.refused("line-lf", 400, "empty line", "GET / HTTP/1.1\r\nHost: a\r\n\n");
    cases.refused("line-lf", 400, "all of them", "GET / HTTP/1.1\nHost: a\n\n");
    cases.refused("line-lf", 400, "before the request", "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    cases.refused("line-lf", 400, "in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\nContent-Length: 40\r\n\r\n");
    cases.refused("line-cr", 400, "request line", "GET / HTTP/1.1\rHost: a\r\n\r\n");
    cases.refused("line-cr", 400, "field line", "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n");
    cases.refused("line-cr", 400, "in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\rContent-Length: 40\r\n\r\n");
    cases.refused("line-cr", 400, "behind a value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\r\n\r\n");
    cases.refused("line-cr", 400, "before the end", "GET / HTTP/1.1\r\nHost: a\r\n\r\r\n\r\n");
    cases.refused("line-cr", 400, "before the request", "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    for count in [1, 2] {
        let request = format!("{}GET / HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n".repeat(count));
        cases.forwarded("line-empty", &format!("{count} of them"), request, &get("/"));
    }
    let many = |before: &str| format!("{before}\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes();
    let first = "GET /first HTTP/1.1\r\nHost: a\r\n\r\n";
    cases.add("foreign", "3 empty lines", vec![many("")], PathPolicy::default(), Want::Closed);
    cases.add("line-empty-many", "3 of them", vec![first.into(), many("")], PathPolicy::default(), Want::After(400));
    for line in [
        "X: y\r\n z\r\n",
        "X: y\r\n\tz\r\n",
        "X: y\r\n \r\n",
        "X:\r\n Content-Length: 40\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
    ] {
        cases.lines("obs-fold", 400, line);
    }
    cases.refused("obs-fold", 400, "before the first field", "GET / HTTP/1.1\r\n Host: a\r\n\r\n");
    cases.refused("obs-fold", 400, "Host in two lines", "GET / HTTP/1.1\r\nHost:\r\n a\r\n\r\n");
    for line in ["X : y\r\n", "X\t: y\r\n", "Content-Length : 5\r\n", "Transfer-Encoding : chunked\r\n", "Host : b\r\n"]
    {
        cases.lines("space-colon", 400, line);
    }
    for line in [
        ": y\r\n",
        "X y\r\n",
        "X\r\n",
        "X y: z\r\n",
        "X(: y\r\n",
        "\"X\": y\r\n",
        "X[]: y\r\n",
        "X/Y: z\r\n",
        "X@: y\r\n",
        "X;: y\r\n",
        "\u{e9}: y\r\n",
        "{X}: y\r\n",
        "X,Y: z\r\n",
        "Content-Length\u{a0}: 5\r\n",
        "GET / HTTP/1.1\r\n",
    ] {
        cases.lines("field-name", 400, line);
    }
    cases.lines("field-name", 400, b"\xef\xbb\xbfX: y\r\n");
    let with = |line: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n");
    for (line, expected) in [
        ("X: caf\u{e9}", "x: caf\u{e9}"),
        ("X:y", "x: y"),
        ("X:", "x: "),
        ("X: \t a \tb \t ", "x: a \tb"),
        ("X: \"a\\\"b\", (c)", "x: \"a\\\"b\", (c)"),
        ("!#$%&'*+-.^_`|~09: y", "!#$%&'*+-.^_`|~09: y"),
    ] {
        cases.forwarded("field-value", line, with(line), &format!("GET / HTTP/1.1\r\nhost: a\r\n{expected}\r\n\r\n"));
    }
    for space in [&b"\x85"[..], b"\xa0", b"\x0b", b"\x0c", b"\xc2\xa0", b"\xe2\x80\x80"] {
        for field in [
            "Content-Length: |5",
            "Content-Length: 5|",
            "Transfer-Encoding: |chunked",
            "Transfer-Encoding: chunked|",
            "Transfer-Encoding|: chunked",
            "|Content-Length: 5",
        ] {
            let (before, after) = field.split_once('|').unwrap();
            cases.lines("other-space", 400, [before.as_bytes(), space, after.as_bytes(), b"\r\n"].concat());
        }
        let hosts = [[b"a", space].concat(), [space, b"a"].concat()];
        for host in hosts {
            let request = [b"GET / HTTP/1.1\r\nHost: ", &host[..], b"\r\n\r\n"].concat();
            cases.refused("other-space", 400, &format!("Host {}", host.escape_ascii()), request);
        }
    }
    let large = |bytes: usize| "y".repeat(bytes);
    cases.refused("head-size", 431, "one field", with(&format!("X: {}", large(70 << 10))));
    cases.refused("head-size", 431, "80 fields", with(&format!("X: {}\r\n", large(1000)).repeat(80)));
    cases.refused("head-size", 431, "without an end", format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", large(70 << 10)));
    cases.refused("line-size", 414, "path", format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", large(70 << 10)));
    cases.refused("line-size", 414, "method", large(70 << 10));
    cases.refused("field-count", 431, "101 of them", with(&"X: y\r\n".repeat(100)));
}

/// Control bytes, one by one, in each place of a head.
fn bytes_everywhere(cases: &mut Cases) {
    const PLACES: [&str; 14] = [
        "|GET /p HTTP/1.1\r\nHost: a\r\nX-Y: v w\r\n\r\n",
        "G|ET /p HTTP/1.1\r\nHost: a\r\nX-Y: v w\r\n\r\n",
        "GET| /p HTTP/1.1\r\nHost: a\r\nX-Y: v w\r\n\r\n",
        "GET |/p HTTP/1.1\r\nHost: a\r\nX-Y: v w\r\n\r\n",
        "GET /p|q HTTP/1.1\r\nHost: a\r\nX-Y: v w\r\n\r\n",
        "GET /p?q|r HTTP/1.1\r\nHost: a\r\nX-Y: v w\r\n\r\n",
        "GET /p HTTP/|1.1\r\nHost: a\r\nX-Y: v w\r\n\r\n",
        "GET /p HTTP/1.1|\r\nHost: a\r\nX-Y: v w\r\n\r\n",
        "GET /p HTTP/1.1\r\n|Host: a\r\nX-Y: v w\r\n\r\n",
        "GET /p HTTP/1.1\r\nHost: a|b\r\nX-Y: v w\r\n\r\n",
        "GET /p HTTP/1.1\r\nHost: a\r\nX|-Y: v w\r\n\r\n",
        "GET /p HTTP/1.1\r\nHost: a\r\nX-Y|: v w\r\n\r\n",
        "GET /p HTTP/1.1\r\nHost: a\r\nX-Y: v|w\r\n\r\n",
        "GET /p HTTP/1.1\r\nHost: a\r\nX-Y: v w|\r\n\r\n",
    ];
    for byte in [0, 1, 7, 8, 0x0b, 0x0c, 0x0e, 0x1b, 0x1f, 0x7f, b'\r', b'\n'] {
        for place in PLACES {
            let (before, after) = place.split_once('|').unwrap();
            let rule = match byte {
                b'\r' => "line-cr",
                b'\n' => "line-lf",
                _ => "control",
            };
            let name = format!("0x{byte:02x} in {:?}", place.split("\r\nX-Y: v w\r\n\r\n").next().unwrap());
            cases.refused(rule, 400, &name, [before.as_bytes(), &[byte], after.as_bytes()].concat());
        }
    }
}

fn request_line(cases: &mut Cases) {
    for line in [
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /\tHTTP/1.1",
        " GET / HTTP/1.1",
        "\tGET / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / HTTP/1.1\t",
        "GET / x HTTP/1.1",
        "GET/ HTTP/1.1",
        "/ HTTP/1.1",
        " / HTTP/1.1",
        "HTTP/1.1 200 OK",
        "GET / HTTP/1.1 HTTP/1.1",
        "GET /\u{a0}HTTP/1.1",
    ] {
        cases.start_line("request-line", 400, line);
    }
    for line in ["GET", "GET ", "GET x", "\x16\x03\x01", "EHLO a", "*1"] {
        let bytes = [line.as_bytes(), b"\r\nHost: a\r\n\r\n", BEHIND].concat();
        cases.add("foreign", &line.escape_debug().to_string(), vec![bytes], PathPolicy::default(), Want::Closed);
    }
    for method in ["G(T", "G@T", "G/T", "\"GET\"", "G:T", "GET,", "G\u{e9}T", "{GET}", "G[T"] {
        cases.start_line("method", 400, format!("{method} / HTTP/1.1"));
    }
    for method in ["get", "Get", "gET", "head", "Post", "connect", "trace", "options", "delete"] {
        cases.start_line("method-case", 400, format!("{method} / HTTP/1.1"));
    }
    cases.start_line("method-pri", 400, "PRI / HTTP/1.1");
    cases.refused("method-pri", 400, "half a preface", "PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n");
    for method in ["FOO", "foo", "M-SEARCH", "PROPFIND", "G.E~T"] {
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
        cases.forwarded("method-other", method, request, &format!("{method} / HTTP/1.1\r\nhost: a\r\n\r\n"));
    }
    for target in ["a:80", "/", "http://a/", "*"] {
        cases.start_line("connect", 501, format!("CONNECT {target} HTTP/1.1"));
    }
    cases.start_line("trace", 501, "TRACE / HTTP/1.1");
    cases.refused("trace-content", 400, "5 bytes", "TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    cases.refused(
        "trace-content",
        400,
        "chunked",
        "TRACE / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    );
    for version in ["HTTP/1.2", "HTTP/1.9", "HTTP/2.0", "HTTP/0.9", "HTTP/3.0", "HTTP/0.0"] {
        cases.start_line("version", 505, format!("GET / {version}"));
    }
    for version in [
        "",
        " http/1.1",
        " Http/1.1",
        " HTTP/1",
        " HTTP/1.",
        " HTTP/.1",
        " HTTP/11.1",
        " HTTP/1.10",
        " HTTP/01.1",
        " HTTP/1.01",
        " HTTP 1.1",
        " HTTP/1,1",
        " HTTP/1.1.1",
        " HTTP/a.b",
        " HTTP/+1.1",
        " XTTP/1.1",
        " HTTPS/1.1",
        " HTTP\\1.1",
        " HTTP/-1.1",
        " ICY/1.1",
        " HTTP/2",
    ] {
        cases.start_line("version-malformed", 400, format!("GET /{version}"));
    }
    cases.refused("version-malformed", 400, "HTTP/0.9 without fields", "GET /\r\n\r\n");
    cases.forwarded("version-10", "GET", "GET / HTTP/1.0\r\nHost: a\r\n\r\n", &get("/"));
    cases.forwarded(
        "version-10",
        "kept alive",
        "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
        &get("/"),
    );
}

fn target(cases: &mut Cases) {
    for target in [
        "a",
        "a:80",
        "a/b",
        "ftp://a/",
        "http:/a",
        "http:a",
        "//",
        "://a/",
        "?q",
        "**",
        "*/",
        "/*a b",
        "javascript:x",
        "http//a/",
    ] {
        // `//` is a path.
        if target != "//" {
            let status_rule = if target == "/*a b" { "request-line" } else { "target-form" };
            cases.start_line(status_rule, 400, format!("GET {target} HTTP/1.1"));
        }
    }
    for target in [
        "/a#b",
        "/#",
        "/a?b#c",
        "http://a/#b",
        "http://a#b",
        "/a\\b",
        "\\a",
        "/\\a",
        "/\u{e9}",
        "/?\u{e9}",
        "http://a/\u{e9}",
    ] {
        let rule = if target == "\\a" { "target-form" } else { "target-byte" };
        cases.start_line(rule, 400, format!("GET {target} HTTP/1.1"));
    }
    cases.start_line("target-byte", 400, b"GET /\xff HTTP/1.1");
    cases.start_line("target-byte", 400, b"GET /\x85 HTTP/1.1");
    for method in ["GET", "POST", "FOO"] {
        cases.start_line("asterisk", 400, format!("{method} * HTTP/1.1"));
    }
    let options = "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n";
    cases.forwarded("asterisk-options", "*", options, "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n");
    for (target, path) in [
        ("http://a/x?y", "/x?y"),
        ("HTTP://a/x", "/x"),
        ("http://a", "/"),
        ("http://a?q", "/?q"),
        ("http://A/x", "/x"),
        ("http://a:80/x", "/x"),
    ] {
        let authority = target[7..].split(['/', '?']).next().unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        cases.forwarded("absolute", target, request, &format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\n\r\n"));
    }
    cases.start_line("absolute-scheme", 400, "GET https://a/ HTTP/1.1");
    for target in [
        "http://b/",
        "http://a:81/",
        "http://a.b/",
        "http://u@a/",
        "http://a@b/",
        "http:///",
        "http://",
        "http://b?a",
        "http://a:/",
        "http://[::1]/",
        "http://a./",
    ] {
        let rule =
            if target.contains('@') || target.ends_with("//") || target.ends_with("///") || target.ends_with(":/") {
                "host-invalid"
            } else {
                "absolute-host"
            };
        cases.start_line(rule, 400, format!("GET {target} HTTP/1.1"));
    }
    cases.refused("host-missing", 400, "path", "GET / HTTP/1.1\r\n\r\n");
    cases.refused("host-missing", 400, "with fields", "GET / HTTP/1.1\r\nX: y\r\n\r\n");
    cases.refused("host-missing", 400, "URL", "GET http://a/ HTTP/1.1\r\n\r\n");
    for other in ["a", "b", "", "a:80"] {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\nhost: {other}\r\n\r\n");
        cases.refused("host-repeated", 400, &format!("a and {other:?}"), request);
    }
    cases.refused("host-repeated", 400, "in HTTP/1.0", "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n");
    cases.refused("host-repeated", 400, "beside a URL", "GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    for host in [
        "",
        "a b",
        "a,b",
        "a, a",
        "a:b",
        "a:",
        ":80",
        "a:-1",
        "a:+80",
        "a:65536",
        "a:80:80",
        "a:0x50",
        "u@a",
        "u:p@a",
        "a/b",
        "/a",
        "a?b",
        "a#b",
        "a\\b",
        "[::1",
        "::1",
        "[::1]x",
        "[::1]:x",
        "[a]",
        "[]",
        "[fe80::1%25eth0]",
        ".a",
        "a%41",
        "a%00",
        "a;b",
        "http://a",
        "a\u{e9}",
        "\"a\"",
        "{a}",
        "a|b",
        "a&b",
        "a*",
        "(a)",
        "a=b",
    ] {
        cases.refused("host-invalid", 400, host, format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    }
    cases.forwarded("host-http10", "none", "GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nhost: \r\n\r\n");
}

fn path(cases: &mut Cases) {
    let usual = PathPolicy::default();
    let escaped = |escaped_slashes| PathPolicy { escaped_slashes, ..usual };
    let resolve = PathPolicy { dot_segments: DotSegments::Resolve, ..usual };
    let merge = PathPolicy { repeated_slashes: RepeatedSlashes::Merge, ..usual };
    for path in ["/a%", "/a%2", "/a%zz", "/a%+1", "/a%%41", "/%u0041", "/a%4"] {
        cases.path("path-escape", path, usual, Err(400));
    }
    for path in ["/a%00b", "/%00", "/a%0d%0ab", "/a%0a", "/a%1b", "/a%7f", "/a%09"] {
        cases.path("path-control", path, usual, Err(400));
    }
    for (path, expected) in
        [("/%61dmin", "/admin"), ("/%7Ea%2D", "/~a-"), ("/a%2561", "/a%2561"), ("/x?%61", "/x?%61"), ("/a%2Eb", "/a.b")]
    {
        cases.path("path-unreserved", path, usual, Ok(expected));
    }
    for path in [
        "/a;b=c/d",
        "/a%20b",
        "/a%3Bb",
        "/a%3Fb",
        "/a%25b",
        "/a%252fb",
        "/a%c3%a9",
        "/a:@!$&'()*+,=b",
        "/...",
        "/a/..b",
        "/x?a=../..",
        "/x?a=%2F%00",
    ] {
        cases.path("path-other", path, usual, Ok(path));
    }
    for path in ["/a%2fb", "/a%2Fb", "/a%5cb", "/a%5Cb", "/%2f", "/..%2f", "/%2e%2e%2fa", "/a%2f..%2fb"] {
        cases.path("path-slash", path, usual, Err(400));
    }
    cases.path("path-slash-keep", "/a%2fb", escaped(EscapedSlashes::Keep), Ok("/a%2fb"));
    cases.path("path-slash-keep", "/a%5Cb?q", escaped(EscapedSlashes::Keep), Ok("/a%5Cb?q"));
    for path in ["/a%2f..%2fb", "/a/%2e%2e%2fb", "/a%5c..", "/..%5ca"] {
        cases.path("path-dots", path, escaped(EscapedSlashes::Keep), Err(400));
    }
    for (path, expected) in
        [("/a%2fb", "/a/b"), ("/a%5Cb?%2f", "/a/b?%2f"), ("/%2f/a", "///a"), ("/a%252fb", "/a%252fb")]
    {
        cases.path("path-slash-unescape", path, escaped(EscapedSlashes::Unescape), Ok(expected));
    }
    cases.path("path-dots", "/a%2f..%2fb", escaped(EscapedSlashes::Unescape), Err(400));
    for (path, expected) in
        [("/a%2fb", "/a/b"), ("/a%5Cb?%2f", "/a/b?%2f"), ("/%2F%2fevil.example/", "///evil.example/")]
    {
        cases.path("path-slash-redirect", path, escaped(EscapedSlashes::Redirect), Ok(expected));
    }
    for path in [
        "/.",
        "/..",
        "/a/../b",
        "/a/./b",
        "/a/..",
        "/a/.",
        "/%2e",
        "/%2e%2e/x",
        "/.%2E/x",
        "/%2E./x",
        "/a/%2e%2e/%2e%2e/b",
    ] {
        cases.path("path-dots", path, usual, Err(400));
    }
    for target in ["http://a/../x", "http://a/."] {
        cases.start_line("path-dots", 400, format!("GET {target} HTTP/1.1"));
    }
    for (path, expected) in
        [("/a/../b", "/b"), ("/a/./b", "/a/b"), ("/a/b/..", "/a/"), ("/a/%2e%2E/b?/../", "/b?/../"), ("/.", "/")]
    {
        cases.path("path-dots-resolve", path, resolve, Ok(expected));
    }
    for path in ["/..", "/a/../../b", "/%2e%2e/x", "/a//../b", "//../a"] {
        cases.path("path-dots-never", path, resolve, Err(400));
    }
    for path in ["/..;/b", "/a/..;x=y/b", "/.;/b", "/%2e%2e;/b", "/..%3b/b", "/a/..;"] {
        cases.path("path-dots-parameters", path, usual, Err(400));
        cases.path("path-dots-parameters", path, resolve, Err(400));
    }
    for path in ["//", "/a//b", "//a/", "///", "/a//"] {
        cases.path("path-repeated", path, usual, Ok(path));
    }
    for (path, expected) in [("//", "/"), ("/a//b", "/a/b"), ("///a///b//", "/a/b/"), ("/a?b//c", "/a?b//c")] {
        cases.path("path-repeated-merge", path, merge, Ok(expected));
    }
}

fn connection(cases: &mut Cases) {
    let with = |lines: &str| format!("GET /p HTTP/1.1\r\nHost: a\r\nX: 1\r\n{lines}\r\n");
    let without = "GET /p HTTP/1.1\r\nhost: a\r\nx: 1\r\n\r\n";
    for line in [
        "Connection: keep-alive",
        "Keep-Alive: timeout=5",
        "TE: trailers",
        "TE: gzip",
        "Upgrade: websocket",
        "HTTP2-Settings: AAMAAABk",
        "Proxy: http://6.6.6.6",
        "Proxy-Connection: keep-alive",
        "Proxy-Authenticate: Basic",
        "Proxy-Authorization: Basic eA==",
        "Connection: close",
        "Connection: ,, close ,",
        "Connection:",
    ] {
        cases.forwarded("hop", line, with(&format!("{line}\r\n")), without);
    }
    for lines in [
        "Connection: x-hop\r\nX-Hop: 2\r\n",
        "X-Hop: 2\r\nConnection: keep-alive, X-HOP\r\n",
        "Connection: a\r\nConnection: x-hop\r\nX-Hop: 2\r\n",
        "Connection: x-forwarded-for, x-forwarded-proto, x-forwarded-host\r\nX-Forwarded-For: 6.6.6.6\r\n",
        "Connection: authorization, cookie\r\nAuthorization: x\r\nCookie: a=b\r\n",
    ] {
        cases.forwarded("hop-nominated", &lines.trim().escape_debug().to_string(), with(lines), without);
    }
    cases.forwarded("hop-framing", "host", with("Connection: host\r\n"), without);
    let body = "POST /p HTTP/1.1\r\nHost: a\r\nConnection: content-length, host\r\nContent-Length: 2\r\n\r\nok";
    cases.forwarded(
        "hop-framing",
        "content-length",
        body,
        "POST /p HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nok",
    );
    let body = "POST /p HTTP/1.1\r\nHost: a\r\nConnection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    cases.forwarded("hop-framing", "transfer-encoding", body, &chunked(""));
    let te = "GET /p HTTP/1.1\r\nhost: a\r\nx: 1\r\nte: trailers\r\nconnection: te\r\n\r\n";
    cases.forwarded("te-trailers", "alone", with("TE: trailers\r\nConnection: TE\r\n"), te);
    cases.forwarded("te-trailers", "with codings", with("TE: gzip;q=1, trailers\r\nConnection: close, te\r\n"), te);
    let upgrade = "GET /p HTTP/1.1\r\nhost: a\r\nx: 1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    cases.forwarded("upgrade-websocket", "websocket", with("Connection: Upgrade\r\nUpgrade: WebSocket\r\n"), upgrade);
    let lines = "Connection: upgrade\r\nUpgrade: websocket\r\n";
    cases.refused("upgrade-content", 400, "5 bytes", with(&format!("{lines}Content-Length: 5\r\n")) + "hello");
    cases.refused(
        "upgrade-content",
        400,
        "chunked",
        with(&format!("{lines}Transfer-Encoding: chunked\r\n")) + "0\r\n\r\n",
    );
    for lines in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n",
        "Connection: Upgrade\r\n",
    ] {
        cases.forwarded("upgrade-other", &lines.trim().escape_debug().to_string(), with(lines), without);
    }
    let post = "POST /p HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    cases.forwarded("upgrade-other", "websocket in a POST", post, "POST /p HTTP/1.1\r\nhost: a\r\n\r\n");
    for value in ["100", "200-ok", "", "100-continue, x"] {
        cases.lines("expect", 417, format!("Content-Length: 2\r\nExpect: {value}\r\n"));
    }
    cases.lines("expect-repeated", 400, "Expect: 100-continue\r\nExpect: 100-continue\r\n");
    for line in [
        "Forwarded: for=6.6.6.6;host=evil;proto=https",
        "X-Forwarded-For: 6.6.6.6",
        "X-Forwarded-Host: evil",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Port: 443",
        "X-Forwarded-Prefix: /evil",
        "X-Forwarded-Client-Cert: By=x",
        "X-Forwarded-Server: evil",
        "X-Forwarded: for=6.6.6.6",
        "X-Real-IP: 6.6.6.6",
        "X-Client-IP: 6.6.6.6",
        "X-Cluster-Client-IP: 6.6.6.6",
        "True-Client-IP: 6.6.6.6",
        "X-Envoy-Internal: true",
        "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7, 127.0.0.1",
        "X-Forwarded-Scheme: https",
    ] {
        cases.forwarded("own", &line.escape_debug().to_string(), with(&format!("{line}\r\n")), without);
        let alias = line.split_once(':').map(|(name, value)| format!("{}:{value}", name.replace('-', "_"))).unwrap();
        if alias != line && !line.contains("\r\n") {
            cases.forwarded("own-alias", &alias, with(&format!("{alias}\r\n")), without);
        }
    }
    for line in ["Content_Length: 5", "Transfer_Encoding: chunked", "content_LENGTH: 5"] {
        cases.forwarded("framing-alias", line, with(&format!("{line}\r\n")), without);
    }
}
