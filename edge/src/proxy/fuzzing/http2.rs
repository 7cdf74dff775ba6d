//! HTTP/2 in front, HTTP/1 behind: where one protocol becomes another is where requests are smuggled. What reaches the
//! backend is exactly the request that the fields and DATA frames mean (RFC 9113 §8), or nothing; a broken stream is the
//! trouble of no other.

use std::os::fd::OwnedFd;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::Dice;
use super::backends::{Plane, Script, Seen};
use super::forwarder::{HANG, in_worker, is_same};
use super::reference::{self, Field, Request, values};
use crate::proxy::h2::front;
use crate::proxy::io::{Backend, Socket};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The request on the second stream, which must always come through unless the connection ends.
const SECOND: [(&[u8], &[u8]); 4] =
    [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"second"), (b":path", b"/second")];

/// One request, written as text: lines `name: value`, then, behind an empty line, its body, and behind another one its
/// trailers as lines. 0x1f stands for a line feed inside a line.
pub fn streams(input: &[u8]) {
    let text = Text::of(input);
    let mut frames = Vec::new();
    let ends = |last: bool| if last { END_HEADERS | END_STREAM } else { END_HEADERS };
    frame(&mut frames, HEADERS, ends(text.body.is_none()), 1, &block(&text.fields));
    if let Some(body) = &text.body {
        frame(&mut frames, DATA, if text.trailers.is_none() { END_STREAM } else { 0 }, 1, body);
    }
    if let Some(trailers) = &text.trailers {
        frame(&mut frames, HEADERS, ends(true), 1, &block(trailers));
    }
    let second: Vec<Field> = SECOND.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
    frame(&mut frames, HEADERS, ends(true), 3, &block(&second));
    let (seen, answered) = run(&frames, &mut Dice::of(input), false);
    let (mut first, mut others) = (None, Vec::new());
    let is_second =
        |request: &Request| request.target == b"/second" && request.authority == b"second" && request.method == b"GET";
    for mut request in seen.complete {
        // The cookie's crumbs are joined (RFC 9113 §8.2.3), so it may stand elsewhere.
        let cookies: Vec<u8> = values(&request.fields, b"cookie").join(&b"\r\n"[..]);
        request.fields.retain(|(name, _)| name != b"cookie");
        sort(&mut request);
        match is_second(&request) {
            true if request.body.is_empty() && cookies.is_empty() => others.push(request),
            _ => assert!(first.replace((request, cookies)).is_none(), "one stream became several requests"),
        }
    }
    let meant = meant(&text);
    if let Some((request, cookies)) = first {
        let Meant { request: expected, cookies: expected_cookies, whole } =
            meant.as_ref().unwrap_or_else(|| panic!("reached the backend, and is none: {request:?}"));
        assert!(*whole, "is not whole, and was forwarded as if it were: {request:?}");
        assert!(is_same(&request, expected, true), "{request:?}\nis not {expected:?}");
        assert_eq!(&cookies, expected_cookies);
    }
    for mut part in seen.partial {
        part.fields.retain(|(name, _)| name != b"cookie");
        sort(&mut part);
        let meant = meant.as_ref().unwrap_or_else(|| panic!("a part of what is no request: {part:?}"));
        assert!(is_same(&part, &meant.request, false), "{part:?}\nis no part of {:?}", meant.request);
    }
    let meant_second = meant.as_ref().is_some_and(|meant| is_second(&meant.request));
    assert!(others.len() <= 1 + usize::from(meant_second), "{others:?}");
    assert!(!answered || !others.is_empty(), "an answer to a request that nobody saw");
}

/// Frames as they are, behind the preface.
pub fn frames(input: &[u8]) {
    run(input, &mut Dice::of(input), true);
}

/// What the backend saw, and whether stream 3 was answered. `blind`: the frames are not ours, so nothing is waited for.
fn run(frames: &[u8], dice: &mut Dice, blind: bool) -> (Seen, bool) {
    let mut bytes = PREFACE.to_vec();
    if !blind {
        frame(&mut bytes, SETTINGS, 0, 0, b"");
    }
    bytes.extend_from_slice(frames);
    let pieces: Vec<Vec<u8>> = dice.split(&bytes).into_iter().map(<[u8]>::to_vec).collect();
    in_worker(async {
        let plane = Plane::new(Script::Count);
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        far.set_nonblocking(true).unwrap();
        let near = Socket::from_std(OwnedFd::from(near).into(), Backend::Epoll).unwrap();
        let far = UnixStream::from_std(far).unwrap();
        let server = front::plain(&plane.worker, near, None, plane.arrival.clone());
        let both = async { tokio::join!(server, client(far, pieces, blind)).1 };
        let answered = tokio::time::timeout(HANG, both).await.expect("it hangs");
        let seen = tokio::time::timeout(HANG, plane.end()).await.expect("a connection is never closed");
        if let Some((what, bytes)) = &seen.malformed {
            panic!("Edge sent a backend what is no request ({what}): {:?}", String::from_utf8_lossy(bytes));
        }
        (seen, answered)
    })
}

/// Sends everything, then waits for the ends of both streams, or of the connection.
async fn client(stream: UnixStream, pieces: Vec<Vec<u8>>, blind: bool) -> bool {
    let (mut read, mut write) = stream.into_split();
    let send = async {
        for piece in pieces {
            if write.write_all(&piece).await.is_err() {
                break;
            }
        }
        if blind {
            let _ = write.shutdown().await;
        }
        write
    };
    let receive = async {
        let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
        let (mut ended, mut answered) = ([false; 4], false);
        while let Ok(count @ 1..) = read.read(&mut chunk).await {
            bytes.extend_from_slice(&chunk[..count]);
            while let Some(header) = bytes.first_chunk::<9>().copied() {
                let [a, b, c, kind, flags, _, _, _, stream] = header;
                let length = 9 + (usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c));
                if bytes.len() < length {
                    break;
                }
                bytes.drain(..length);
                let ends = kind == RST_STREAM || (matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0);
                if let Some(ended) = ended.get_mut(usize::from(stream)).filter(|_| ends) {
                    *ended = true;
                    answered |= stream == 3 && kind != RST_STREAM;
                }
            }
            if !blind && ended[1] && ended[3] {
                break;
            }
        }
        answered
    };
    let (write, answered) = tokio::join!(send, receive);
    drop(write);
    answered
}

#[derive(Default)]
struct Text {
    fields: Vec<Field>,
    body: Option<Vec<u8>>,
    trailers: Option<Vec<Field>>,
}

impl Text {
    fn of(input: &[u8]) -> Self {
        let (fields, rest) = paragraph(input);
        let Some(rest) = rest else { return Self { fields: lines(fields), ..Self::default() } };
        let (body, trailers) = paragraph(rest);
        Self { fields: lines(fields), body: Some(body.to_vec()), trailers: trailers.map(lines) }
    }
}

fn paragraph(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    match text.windows(2).position(|window| window == b"\n\n") {
        Some(at) => (&text[..at], Some(&text[at + 2..])),
        None => (text, None),
    }
}

fn lines(text: &[u8]) -> Vec<Field> {
    let field = |line: &[u8]| {
        let line: Vec<u8> = line.iter().map(|byte| if *byte == 0x1f { b'\n' } else { *byte }).collect();
        let at = line.windows(2).skip(1).position(|window| window == b": ").map(|at| at + 1);
        at.map_or((line.clone(), Vec::new()), |at| (line[..at].to_vec(), line[at + 2..].to_vec()))
    };
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(field).collect()
}

struct Meant {
    /// Without its cookies.
    request: Request,
    cookies: Vec<u8>,
    /// The body and the trailers are as announced.
    whole: bool,
}

/// What a request is by the letter of RFC 9113 §8.2 and §8.3; `None` where it is malformed.
fn meant(text: &Text) -> Option<Meant> {
    let mut pseudo = std::collections::BTreeMap::new();
    let mut fields: Vec<Field> = Vec::new();
    for (name, value) in &text.fields {
        if value.iter().any(|byte| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f) || value.trim_ascii() != value {
            return None;
        }
        if name.starts_with(b":") {
            if !fields.is_empty() || pseudo.insert(name.as_slice(), value.as_slice()).is_some() {
                return None;
            }
            continue;
        }
        if !is_name(name) || is_of_connection(name, value) {
            return None;
        }
        fields.push((name.clone(), value.clone()));
    }
    let mut take = |name: &[u8]| pseudo.remove(name);
    let (method, scheme, path, authority) =
        (take(b":method")?, take(b":scheme")?, take(b":path")?, take(b":authority"));
    let is_fine = pseudo.is_empty()
        && reference::is_method(method)
        && method != b"CONNECT"
        && (scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https"))
        && path.iter().all(u8::is_ascii_graphic);
    let target = match path {
        b"*" if method == b"OPTIONS" => path.to_vec(),
        [b'/', ..] => reference::path_and_query(path).ok()?,
        _ => return None,
    };
    let bare = |name: &[u8]| name.strip_suffix(b":80").unwrap_or(name).to_ascii_lowercase();
    let authority = match (authority, &values(&fields, b"host")[..]) {
        (Some(authority), []) => authority.to_vec(),
        (Some(authority), [host]) if bare(authority) == bare(host) => authority.to_vec(),
        (None, [host]) => host.to_vec(),
        _ => return None,
    };
    if !is_fine || !reference::is_authority(&authority) {
        return None;
    }
    let body = text.body.clone().unwrap_or_default();
    let length_fits = match values(&fields, b"content-length")[..] {
        [] => true,
        [length] => std::str::from_utf8(length).is_ok_and(|length| length.parse() == Ok(body.len())),
        _ => return None,
    };
    let trailers = text.trailers.clone().unwrap_or_default();
    let trailers_fit = trailers.iter().all(|(name, value)| {
        is_name(name)
            && !is_of_connection(name, value)
            && value.iter().all(|byte| *byte == b'\t' || (*byte >= 0x20 && *byte != 0x7f))
    });
    let cookies = values(&fields, b"cookie").join(&b"; "[..]);
    fields.retain(|(name, _)| name != b"cookie");
    let mut request = Request { method: method.to_vec(), target, authority, fields, body, trailers, keeps_alive: true };
    sort(&mut request);
    Some(Meant { request, cookies, whole: length_fits && trailers_fit })
}

/// RFC 9110 §5.3: only the order among fields of one name means something.
fn sort(request: &mut Request) {
    request.fields.sort_by(|a, b| a.0.cmp(&b.0));
    request.trailers.sort_by(|a, b| a.0.cmp(&b.0));
}

fn is_name(name: &[u8]) -> bool {
    reference::is_method(name) && !name.iter().any(u8::is_ascii_uppercase)
}

fn is_of_connection(name: &[u8], value: &[u8]) -> bool {
    matches!(name, b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade")
        || (name == b"te" && value != b"trailers")
}

fn frame(into: &mut Vec<u8>, kind: u8, flags: u8, stream: u8, payload: &[u8]) {
    let [.., a, b, c] = payload.len().to_be_bytes();
    into.extend_from_slice(&[a, b, c, kind, flags, 0, 0, 0, stream]);
    into.extend_from_slice(payload);
}

/// Every field as a literal, so that nothing that is odd about it is lost (RFC 7541 §6.2.2).
fn block(fields: &[Field]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            let mut rest = text.len();
            if rest < 127 {
                block.push(rest as u8);
            } else {
                block.push(127);
                rest -= 127;
                while rest >= 128 {
                    block.push((rest % 128) as u8 | 128);
                    rest /= 128;
                }
                block.push(rest as u8);
            }
            block.extend_from_slice(text);
        }
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_request_comes_through() {
        let text = b":method: POST\n:scheme: http\n:authority: a\n:path: /x?y\ncookie: a=b\ncookie: c=d\n\nbody";
        assert!(meant(&Text::of(text)).is_some_and(|meant| meant.whole && meant.cookies == b"a=b; c=d"));
        streams(text);
    }
}
