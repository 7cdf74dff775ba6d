//! The rules of `docs/parsing.md` about responses: backends that break off, stall, lie about length and say too much.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use edge::proxy::limits::Limits;

use super::rig::{Client, Origin, Rig, on_both, rule};

/// What the client is to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Want {
    /// This status, made by Edge, as a whole answer.
    Status(u16),
    /// A response that breaks off, with no more than this of its body.
    Cut(String),
    /// A whole response with this body.
    Whole(String),
}

impl Want {
    pub fn answer(&self) -> String {
        match self {
            Self::Status(status) => status.to_string(),
            Self::Cut(_) => "cut".to_owned(),
            Self::Whole(_) => "forwarded".to_owned(),
        }
    }
}

/// What a backend does, after it has read the head of a request.
#[derive(Debug, Clone)]
enum Step {
    Send(Vec<u8>),
    /// Waits until the client has seen what was sent.
    Seen,
    /// Waits for the client's connection to end, or the patience of the proxy.
    Hold,
    Reset,
    /// Half a close: it goes on reading.
    Finish,
}

pub struct Case {
    pub rule: &'static str,
    name: String,
    request: &'static str,
    steps: Vec<Step>,
    pub want: Want,
    /// The connection is clean after it.
    reusable: bool,
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const HEAD: &str = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbegun";

fn send(bytes: impl AsRef<[u8]>) -> Step {
    Step::Send(bytes.as_ref().to_vec())
}

pub fn all() -> Vec<Case> {
    let mut list = Vec::new();
    let mut add = |rule, name: &str, request, steps, want| {
        list.push(Case { rule, name: name.to_owned(), request, steps, want, reusable: false });
    };
    let bad = || Want::Status(502);
    const OK: &str = "HTTP/1.1 200 OK\r\n";
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length:\r\n",
        "Content-Length: 9223372036854775808\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
    ] {
        add("r-framing", &fields.escape_debug().to_string(), GET, vec![send(format!("{OK}{fields}\r\nhello"))], bad());
    }
    let old = "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    add("r-framing", "chunked in HTTP/1.0", GET, vec![send(old)], bad());
    for text in [
        "garbage\r\n\r\n",
        "\0\0\0\0\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 99 Low\r\n\r\n",
        "HTTP/1.1 600 High\r\n\r\n",
        "HTTP/1.1 20 Short\r\n\r\n",
        "HTTP/1.1 2000 Long\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: \0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: y\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
        "http/1.1 200 OK\r\n\r\n",
    ] {
        add("r-syntax", &text.escape_debug().to_string(), GET, vec![send(text)], bad());
    }
    add("r-head-size", "70 KiB", GET, vec![send(format!("{OK}X: {}\r\n\r\n", "y".repeat(70 << 10)))], bad());
    add("r-head-size", "without an end", GET, vec![send(format!("{OK}X: {}", "y".repeat(70 << 10)))], bad());
    add("r-head-size", "101 fields", GET, vec![send(format!("{OK}{}\r\n", "X: y\r\n".repeat(101)))], bad());
    let storm = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(17);
    add("r-interim", "17 of 103", GET, vec![send(format!("{storm}{OK}Content-Length: 0\r\n\r\n"))], bad());
    let storm = "HTTP/1.1 100 Continue\r\n\r\n".repeat(1000);
    add("r-interim", "1000 of 100", GET, vec![send(&storm), Step::Hold], bad());
    let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nbytes";
    add("r-101", "websocket", GET, vec![send(switch)], bad());
    add("r-no-head", "closed", GET, vec![], bad());
    add("r-no-head", "reset", GET, vec![Step::Reset], bad());
    add("r-no-head", "half closed", GET, vec![Step::Finish, Step::Hold], bad());
    add("r-no-head", "closed within", GET, vec![send("HTTP/1.1 200 OK\r\nContent-Le")], bad());
    add("r-no-head", "closed behind an interim response", GET, vec![send("HTTP/1.1 100 Continue\r\n\r\n")], bad());
    add("r-no-head", "reset in an upload", POST, vec![Step::Reset], bad());
    add("r-stall", "nothing at all", GET, vec![Step::Hold], Want::Status(504));
    add("r-stall", "half a head", GET, vec![send("HTTP/1.1 200"), Step::Hold], Want::Status(504));
    let chunked = |body: &str| format!("{OK}Transfer-Encoding: chunked\r\n\r\n{body}");
    for body in [
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "hello",
        "-5\r\nhello",
        "\r\n5\r\nhello",
        "5 \r\nhello",
        "2\r\nhello\r\n0\r\n\r\n",
    ] {
        add("r-first-chunk", &body.escape_debug().to_string(), GET, vec![send(chunked(body))], bad());
    }
    let long = format!("{OK}Content-Length: 10\r\n\r\nhello");
    let part = || Want::Cut("hello".to_owned());
    add("r-cut", "shorter than its length", GET, vec![send(&long), Step::Seen], part());
    add(
        "r-cut",
        "shorter than its length, half closed",
        GET,
        vec![send(&long), Step::Seen, Step::Finish, Step::Hold],
        part(),
    );
    add("r-cut", "reset", GET, vec![send(&long), Step::Seen, Step::Reset], part());
    add("r-cut", "stalled", GET, vec![send(&long), Step::Seen, Step::Hold], part());
    let first = || vec![send(chunked("5\r\nhello\r\n")), Step::Seen];
    let then = |steps: &[Step]| [first(), steps.to_vec()].concat();
    add("r-cut", "no last chunk", GET, first(), part());
    add("r-cut", "half closed without a last chunk", GET, then(&[Step::Finish, Step::Hold]), part());
    add("r-cut", "a bad chunk", GET, then(&[send("0x0\r\n\r\n")]), part());
    add("r-cut", "a bad trailer", GET, then(&[send("0\r\nContent-Length: 5\r\n\r\n")]), part());
    add("r-cut", "no end of the trailers", GET, then(&[send("0\r\n")]), part());
    add("r-cut", "a stalled chunk", GET, then(&[send("5\r"), Step::Hold]), part());
    let hello = || Want::Whole("hello".to_owned());
    let next = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    add(
        "r-surplus",
        "longer than its length",
        GET,
        vec![send(format!("{OK}Content-Length: 5\r\n\r\nhello{next}")), Step::Hold],
        hello(),
    );
    let surplus = chunked("5\r\nhello\r\n0\r\n\r\n") + next;
    add("r-surplus", "behind the last chunk", GET, vec![send(surplus), Step::Hold], hello());
    let nothing = || Want::Whole(String::new());
    for (name, request, head) in [
        ("204", GET, "HTTP/1.1 204 No Content\r\n"),
        ("204 with a length", GET, "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n"),
        ("304", GET, "HTTP/1.1 304 Not Modified\r\n"),
        ("HEAD", HEAD, "HTTP/1.1 200 OK\r\nX: y\r\n"),
        ("HEAD, chunked", HEAD, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"),
    ] {
        add("r-bodiless", name, request, vec![send(format!("{head}\r\nhello")), Step::Hold], nothing());
    }
    let early = vec![send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\r\nhello"), Step::Hold];
    add("r-early", "413 to an upload", POST, early, hello());
    let early = vec![send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")];
    add("r-early", "200 to an upload, and closed", POST, early, hello());
    add("r-close", "HTTP/1.1", GET, vec![send(format!("{OK}\r\nhello"))], hello());
    add("r-close", "HTTP/1.0", GET, vec![send("HTTP/1.0 200 OK\r\n\r\nhello")], hello());
    let hop = "Connection: keep-alive, x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=9\r\nProxy-Authenticate: Basic\r\n\
               Proxy-Connection: keep-alive\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello";
    add("r-hop", "all of them", GET, vec![send(format!("{OK}{hop}"))], hello());
    if let Some(last) = list.last_mut() {
        last.reusable = true;
    }
    list
}

#[test]
fn a_backend_that_misbehaves_never_looks_like_one_that_does_not() {
    on_both(|io| {
        let mut faults = Vec::new();
        for case in all() {
            if let Err(fault) = judge(io, &case) {
                faults.push(format!("{} [{}]: {fault}", case.rule, case.name));
            }
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    });
}

fn judge(io: edge::proxy::io::Backend, case: &Case) -> Result<(), String> {
    let (seen, wait_seen) = mpsc::channel::<()>();
    let wait_seen = Mutex::new(wait_seen);
    let reused = Arc::new(AtomicBool::new(false));
    let (steps, note) = (case.steps.clone(), Arc::clone(&reused));
    let origin = Origin::new(move |client, number| {
        if number > 0 {
            while !client.head().is_empty() {
                client.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine");
            }
            return;
        }
        client.head();
        for step in &steps {
            match step {
                // The proxy may have had enough of it.
                Step::Send(bytes) => drop(client.stream.write_all(bytes)),
                Step::Seen => drop(wait_seen.lock().unwrap_or_else(PoisonError::into_inner).recv()),
                Step::Hold => return watch(client, &note),
                Step::Reset => return socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap(),
                Step::Finish => client.stream.shutdown(std::net::Shutdown::Write).unwrap(),
            }
        }
        if !steps.is_empty() {
            // Whatever comes now would be a second request on a connection that is not clean.
            let _ = client.stream.shutdown(std::net::Shutdown::Write);
            watch(client, &note);
        }
    });
    // Long enough for a busy machine; only what stalls waits for it.
    let stalls = case.want == Want::Status(504) || case.name.contains("stalled") || case.name.contains("half closed");
    let idle = if stalls { Duration::from_millis(500) } else { Duration::from_secs(20) };
    let limits = Limits { stream_idle_timeout: idle, ..Limits::default() };
    let rig = Rig::with_limits(io, vec![("", rule(0))], vec![vec![origin.address]], limits);
    let mut client = rig.client();
    let _ = client.stream.write_all(case.request.as_bytes());
    let mut head = client.head();
    while head.starts_with("HTTP/1.1 103 ") {
        head = client.head();
    }
    let fault = |what: &str, rest: &str| Err(format!("{what}: {head:?} {rest:?}"));
    let length =
        head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse::<usize>().ok());
    match &case.want {
        Want::Status(status) => {
            let body = client.exactly(length.unwrap_or(0));
            if !head.starts_with(&format!("HTTP/1.1 {status} ")) || body.is_empty() {
                return fault(&format!("not a whole {status}"), &body);
            }
        }
        Want::Cut(part) => {
            // Framing counts as body here: what matters is that it ends too early, and with a reset.
            let first = if length.is_some() { client.exactly(part.len()) } else { client.until(part) };
            let _ = seen.send(());
            let (reset, rest) = (client.is_reset(), client.rest());
            if !head.starts_with("HTTP/1.1 200 ")
                || !first.ends_with(part.as_str())
                || rest.contains("0\r\n\r\n")
                || !reset
            {
                return fault("not cut off", &format!("{first} {rest} {reset}"));
            }
        }
        Want::Whole(expected) => {
            let is_chunked = head.contains("transfer-encoding: chunked");
            let body = if case.request == HEAD || expected.is_empty() {
                String::new()
            } else if is_chunked {
                client.until("0\r\n\r\n")
            } else if length.is_some() {
                client.exactly(length.unwrap_or(0))
            } else {
                client.rest()
            };
            let _ = seen.send(());
            let text = body.strip_prefix("5\r\n").and_then(|text| text.strip_suffix("\r\n0\r\n\r\n")).unwrap_or(&body);
            if text != expected || head.starts_with("HTTP/1.1 5") {
                return fault("not the whole response", &body);
            }
            for hop in ["x-hop", "keep-alive:", "proxy-", "upgrade"] {
                if head.contains(hop) {
                    return fault("a field about the connection was passed on", hop);
                }
            }
            // Nothing but the answer to the next request may follow, if anything does.
            if client.stream.write_all(GET.as_bytes()).is_ok() {
                let rest = client.head();
                if !rest.is_empty()
                    && case.request != POST
                    && !rest.starts_with("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n")
                    && !case.reusable
                {
                    return fault("something else followed", &rest);
                }
            }
        }
    }
    for _ in 0..3 {
        let answer = rig.ask("GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        if !answer.ends_with("fine") && !case.reusable {
            return fault("the next request suffers", &answer);
        }
    }
    if reused.load(Ordering::Relaxed) && !case.reusable { fault("the connection was used again", "") } else { Ok(()) }
}

/// Reads to the end, and notes when another request comes.
fn watch(client: &mut Client, reused: &AtomicBool) {
    let mut bytes = [0; 65536];
    while let Ok(count @ 1..) = client.stream.read(&mut bytes) {
        if bytes[..count].windows(4).any(|window| window == b"GET ") {
            reused.store(true, Ordering::Relaxed);
        }
    }
}
