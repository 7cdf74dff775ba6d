//! The whole way through Edge, judged by the [`reference`] reader on both sides: what reaches a backend is exactly what the
//! reference sees in the client's bytes, or nothing; what reaches a client is exactly what it sees in the backend's, or an
//! error of Edge's own, or visibly cut off.

use std::time::Duration;

use super::Dice;
use super::backends::{Client, ClientIo, Plane, Script, Seen};
use super::reference::{self, Field, Request, Response, Stop, values};
use crate::proxy::h1::serve::{Served, serve};

/// Every wait of a run ends at once, so one that lasts is a hang.
pub const HANG: Duration = Duration::from_secs(20);

/// Fields that Edge writes itself.
const OWN: [&[u8]; 10] = [
    b"host",
    b"content-length",
    b"transfer-encoding",
    b"connection",
    b"te",
    b"upgrade",
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"x-forwarded-host",
    b"date",
];

/// Fields that may not be passed on, beside those that Connection names (RFC 9110 §7.6.1) and the client's claims about itself.
const HOP: [&[u8]; 14] = [
    b"host",
    b"content-length",
    b"transfer-encoding",
    b"connection",
    b"te",
    b"upgrade",
    b"keep-alive",
    b"proxy-connection",
    b"proxy-authorization",
    b"proxy-authenticate",
    b"http2-settings",
    b"trailer",
    b"expect",
    b"forwarded",
];
const CLAIMS: [&[u8]; 6] =
    [b"x-forwarded", b"x-envoy-", b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip", b"true-client-ip"];

struct Outcome {
    seen: Seen,
    received: Vec<u8>,
    was_reset: bool,
    /// The connection went on as HTTP/2.
    left: bool,
}

thread_local! {
    static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
}

/// Runs something as a worker's thread does.
pub fn in_worker<F: Future>(run: F) -> F::Output {
    RUNTIME.with(|runtime| tokio::task::LocalSet::new().block_on(runtime, run))
}

fn forward<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, script: Script) -> Outcome {
    in_worker(async {
        let client = Client::new(pieces);
        let plane = Plane::new(script);
        let io = ClientIo(std::rc::Rc::clone(&client));
        let served = tokio::time::timeout(HANG, serve(&plane.worker, io, &plane.arrival)).await;
        let left = matches!(served.expect("it hangs"), Served::Http2 { .. });
        let seen = tokio::time::timeout(HANG, plane.end()).await.expect("a connection is never closed");
        Outcome { seen, received: client.received(), was_reset: client.was_reset(), left }
    })
}

/// How many requests of this input reach the backend.
pub fn forwarded(input: &[u8]) -> usize {
    forward([input], Script::Count).seen.complete.len()
}

/// Bytes from a client.
pub fn requests(input: &[u8]) {
    let truth = reference::requests(input);
    let outcome = forward(Dice::of(input).split(input), Script::Count);
    let Outcome { seen, received, was_reset, left } = outcome;
    if let Some((what, bytes)) = &seen.malformed {
        panic!("Edge sent a backend what is no request ({what}): {:?}", String::from_utf8_lossy(bytes));
    }
    let mut candidates = truth.complete.iter();
    for request in &seen.complete {
        let found = candidates.any(|candidate| is_same(request, candidate, true));
        assert!(found, "a request reached the backend that is none: {request:?}\nof {truth:?}");
    }
    for request in &seen.partial {
        let found = candidates.clone().chain(&truth.partial).any(|candidate| is_same(request, candidate, false));
        assert!(found, "a part of a request reached the backend that is none: {request:?}\nof {truth:?}");
    }
    if left {
        return assert!(seen.complete.is_empty() && seen.partial.is_empty(), "forwarded before HTTP/2");
    }
    let mut rest = &received[..];
    let mut answered = 0;
    let mut last = None;
    let mut methods = truth.complete.iter().chain(&truth.partial).map(|request| &request.method[..]);
    while !rest.is_empty() {
        let method = methods.next();
        let mut is_head = method == Some(b"HEAD");
        let mut found = reference::response(rest, is_head);
        if method.is_none() && found.is_err() {
            // What is no request may have begun like one by HEAD.
            is_head = true;
            found = reference::response(rest, is_head);
        }
        match found {
            Ok(found) => {
                rest = &rest[found.used..];
                match values(&found.last.fields, b"x-order")[..] {
                    [] => assert!(found.last.status >= 400, "{:?}", found.last),
                    ref order => {
                        assert_eq!(order, &[answered.to_string().as_bytes()], "answers out of order");
                        assert!(is_head || found.last.body == format!("answer {answered}").as_bytes());
                        answered += 1;
                    }
                }
                last = Some(found.last);
            }
            Err((stop, _)) => {
                assert!(was_reset, "{stop:?} in what the client got: {:?}", String::from_utf8_lossy(rest));
                break;
            }
        }
    }
    assert!(was_reset || answered == seen.complete.len(), "{answered} answers to {} requests", seen.complete.len());
    // A head that is never complete is nothing to answer.
    let mut rest = &input[truth.used..];
    while let Some(after) = rest.strip_prefix(b"\r\n") {
        rest = after;
    }
    let has_head = rest.windows(4).any(|window| window == b"\r\n\r\n");
    // A connection that begins with a line of no HTTP/1 at all is closed without a word.
    let is_foreign =
        truth.used == 0 && !rest.split(|byte| *byte == b'\n').next().is_some_and(|line| line.contains(&b'/'));
    let has_head = has_head && !is_foreign;
    if let (Stop::Malformed(what), false, true) = (truth.stop, was_reset, has_head) {
        let refused = last.is_some_and(|last| last.status >= 400 && !last.keeps_alive);
        assert!(refused, "{what}, and the client is not told");
    }
}

/// Bytes from a backend, in answer to GET and to HEAD.
pub fn responses(input: &[u8]) {
    for method in ["GET", "HEAD"] {
        response_to(method, input);
    }
}

fn response_to(method: &str, input: &[u8]) {
    let truth = reference::response(input, method == "HEAD");
    let spare = truth.as_ref().is_ok_and(|truth| truth.used < input.len());
    let pieces = match spare {
        // Bytes that come after the connection is in use again are nobody's fault.
        true => vec![input.to_vec()],
        false => Dice::of(input).split(input).into_iter().map(<[u8]>::to_vec).collect(),
    };
    let close = truth.as_ref().map_or(true, |truth| truth.until_close);
    let requests = format!("{method} /one HTTP/1.1\r\nHost: a\r\n\r\nGET /two HTTP/1.1\r\nHost: a\r\n\r\n");
    let outcome = forward([requests.as_bytes()], Script::Say { pieces, close });
    let Outcome { seen, received, was_reset, .. } = outcome;
    assert!(seen.malformed.is_none());
    let text = || String::from_utf8_lossy(&received).into_owned();
    match (reference::response(&received, method == "HEAD"), truth) {
        (Ok(found), Ok(truth)) if is_passed_on(&found.last, &truth.last, true) => {
            let second = reference::response(&received[found.used..], false);
            let (second, _) = second.map(|second| (second.last, second.used)).unwrap_or_else(|stop| {
                panic!("after a good response {stop:?}: {}", text());
            });
            let connection = values(&second.fields, b"x-connection");
            assert!(!connection.is_empty() && second.body == b"answer 1", "another's answer: {}", text());
            let reusable = truth.last.keeps_alive && !truth.until_close && !spare;
            assert!(reusable || connection != [b"0"], "a connection that is not clean was used again");
        }
        (Ok(found), truth) => {
            assert!(matches!(found.last.status, 502..=504), "neither passed on nor refused: {truth:?}\n{}", text());
        }
        (Err((_, part)), truth) => {
            assert!(was_reset, "cut off, and the client cannot tell: {}", text());
            let whole = match truth {
                Ok(truth) => Some(truth.last),
                Err((_, part)) => part,
            };
            if let Some(part) = part {
                let whole = whole.unwrap_or_else(|| panic!("a response out of nowhere: {}", text()));
                assert!(is_passed_on(&part, &whole, false), "{part:?} of {whole:?}");
            }
        }
    }
}

/// Whether a backend was sent this request, whole or up to somewhere in its body.
pub fn is_same(sent: &Request, meant: &Request, whole: bool) -> bool {
    let bodies = if whole { sent.body == meant.body } else { meant.body.starts_with(&sent.body) };
    let same = sent.method == meant.method && sent.target == meant.target && sent.authority == meant.authority;
    if !same || !bodies || !is_part(&sent.fields, &meant.fields) || !is_part(&sent.trailers, &meant.trailers) {
        return false;
    }
    let nominated = values(&meant.fields, b"connection");
    let is_nominated = |name: &[u8]| {
        let mut tokens = nominated.iter().flat_map(|list| list.split(|byte| *byte == b','));
        tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(name))
    };
    meant.fields.iter().all(|(name, value)| {
        sent.fields.iter().any(|(other, same)| other == name && same == value)
            || HOP.contains(&name.as_slice())
            || CLAIMS.iter().any(|claim| name.starts_with(claim))
            || name.contains(&b'_')
            || is_nominated(name)
    })
}

fn is_passed_on(got: &Response, meant: &Response, whole: bool) -> bool {
    let bodies = if whole { got.body == meant.body } else { meant.body.starts_with(&got.body) };
    got.status == meant.status
        && bodies
        && is_part(&got.fields, &meant.fields)
        && is_part(&got.trailers, &meant.trailers)
}

/// Whether these fields, but for Edge's own, are all among those, in the same order.
fn is_part(fields: &[Field], of: &[Field]) -> bool {
    let mut rest = of.iter();
    fields.iter().filter(|(name, _)| !OWN.contains(&name.as_slice())).all(|field| rest.any(|other| other == field))
}
