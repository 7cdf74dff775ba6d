//! The parsers one by one: any split of an input gives the same result, and what is accepted has one meaning.

use std::ops::ControlFlow;

use edge_config::settings::{DotSegments, EscapedSlashes, PathPolicy, RepeatedSlashes};
use edge_config::snapshot::ProxyVersion;

use super::Dice;
use super::reference::{self, Stop};
use crate::proxy::h1::chunked::Decoder;
use crate::proxy::h1::parse::{self, Framing, HeadLimits};
use crate::proxy::h1::target as split_target;
use crate::proxy::message::{Fields, Length, RequestHead, ResponseHead, Scheme};
use crate::proxy::path;
use crate::proxy::proxy_protocol::{self, Start};
use crate::proxy::tls::hello::{self, Parsed};

const LIMITS: HeadLimits = HeadLimits { bytes: 64 << 10, fields: 100 };

/// The length of the head, the same however it drips in.
fn head_end(input: &[u8]) -> Option<usize> {
    let whole = parse::head_end(input, &mut 0);
    let mut scanned = 0;
    let mut seen = 0;
    let dripped = Dice::of(input).split(input).into_iter().try_for_each(|piece| {
        seen += piece.len();
        match parse::head_end(&input[..seen], &mut scanned) {
            Ok(None) => ControlFlow::Continue(()),
            result => ControlFlow::Break(result),
        }
    });
    assert_eq!(dripped.break_value().unwrap_or(Ok(None)), whole, "a head depends on how it was split");
    whole.ok().flatten()
}

pub fn request_head(input: &[u8]) {
    let Some(length) = head_end(input) else { return };
    let mut head = RequestHead::default();
    let Ok(connection) = parse::request(&input[..length], Scheme::Http, LIMITS, &mut head) else { return };
    // What the listener's policy refuses is refused before anything is matched.
    if path::settle(head.path().as_bytes(), head.path_marks, PathPolicy::default()).is_err() {
        return;
    }
    let mut seen = reference::requests(&input[..length]);
    let request = seen.partial.take().or_else(|| seen.complete.pop());
    let Some(request) = request else { panic!("accepted, but {:?}: {head:?}", seen.stop) };
    assert!(!matches!(seen.stop, Stop::Malformed(_)), "accepted, but {:?}", seen.stop);
    assert_eq!(head.method().as_bytes(), request.method);
    assert_eq!(head.authority().as_bytes(), request.authority);
    let target = head.query().map_or(head.path().to_owned(), |query| format!("{}?{query}", head.path()));
    assert_eq!(target.as_bytes(), request.target);
    assert_eq!(connection.keep_alive, request.keeps_alive);
    let has_body = !matches!(connection.framing, Framing::None | Framing::Length(0));
    assert_eq!(has_body, seen.stop == Stop::Truncated, "{connection:?}");
    fields_are_valid(&head.fields);
    for (name, value) in head.fields.iter() {
        assert!(request.fields.iter().any(|field| field.0 == name && field.1 == value), "a field out of nowhere");
    }
}

pub fn response_head(input: &[u8]) {
    let Some(length) = head_end(input) else { return };
    for is_head in [false, true] {
        let mut head = ResponseHead::default();
        let Ok(connection) = parse::response(&input[..length], is_head, LIMITS, &mut head) else { return };
        fields_are_valid(&head.fields);
        assert!((100..600).contains(&head.status));
        let is_bodiless = head.is_bodiless(is_head);
        assert_eq!(connection.framing == Framing::None, is_bodiless);
        assert!(!is_bodiless || head.length != Length::Unknown);
        assert!(connection.framing != Framing::Close || !connection.keep_alive);
        if head.status >= 200 {
            match reference::response(&input[..length], is_head) {
                Ok(seen) => assert_eq!(seen.last.status, head.status),
                Err((Stop::Truncated, Some(seen))) => assert_eq!(seen.status, head.status),
                Err((stop, _)) => panic!("accepted, but {stop:?}: {head:?}"),
            }
        }
    }
}

fn fields_are_valid(fields: &Fields) {
    for (name, value) in fields.iter() {
        assert!(!name.is_empty() && name.iter().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()));
        assert!(!name.contains(&b':'));
        assert!(value.iter().all(|byte| *byte == b'\t' || (*byte >= 0x20 && *byte != 0x7f)), "{value:?}");
        assert_eq!(value.trim_ascii(), value);
    }
}

pub fn chunked(input: &[u8]) {
    let whole = decode(&[input]);
    assert_eq!(decode(&Dice::of(input).split(input)), whole, "a body depends on how it was split");
    let single: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(decode(&single), whole, "a body depends on how it was split");
    let message = [b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", input].concat();
    let mut seen = reference::requests(&message);
    if let Ok(Some((body, used))) = whole {
        // A trailer section of its own: what follows in the input may be none.
        let until_trailers = [&message[..message.len() - input.len() + used], b"\r\n"].concat();
        seen = reference::requests(&until_trailers);
        let request = seen.complete.first().unwrap_or_else(|| panic!("accepted, but {:?}", seen.stop));
        assert_eq!(request.body, body);
    } else if whole == Ok(None) {
        assert!(seen.complete.is_empty() && !matches!(seen.stop, Stop::Malformed(_)), "not refused: {:?}", seen.stop);
    }
}

/// The body and what its framing took, `None` where it goes on.
type Decoded = Result<Option<(Vec<u8>, usize)>, &'static str>;

fn decode(pieces: &[&[u8]]) -> Decoded {
    let mut decoder = Decoder::default();
    let (mut body, mut used) = (Vec::new(), 0);
    for piece in pieces {
        let mut bytes = piece.to_vec();
        let step = decoder.step(&mut bytes)?;
        body.extend_from_slice(&bytes[step.data]);
        used += step.used;
        if step.done {
            return Ok(Some((body, used)));
        }
        assert_eq!(step.used, piece.len(), "bytes were left over");
    }
    Ok(None)
}

/// A PROXY protocol header: an answer stays as more bytes come, and what was understood is said again in the same way.
pub fn proxy_header(input: &[u8]) {
    let mut settled = None;
    for end in 0..=input.len() {
        let found = proxy_protocol::parse(&input[..end]);
        if let Some(settled) = settled {
            assert_eq!(found, settled, "changed its mind at byte {end}");
        } else if !matches!(found, Ok(Start::Undecided | Start::Partial)) {
            settled = Some(found);
        }
    }
    let Some(Ok(Start::Header { length, origin })) = settled else { return };
    assert!(length <= input.len() && length <= proxy_protocol::MOST);
    let Some(origin) = origin else { return };
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let header = proxy_protocol::encode(version, &origin);
        let again = Start::Header { length: header.as_slice().len(), origin: Some(origin) };
        assert_eq!(proxy_protocol::parse(header.as_slice()), Ok(again));
    }
}

/// Normal form of paths: reached in one step, stable, and without a segment that leads elsewhere however often it is decoded.
pub fn request_target(input: &[u8]) {
    let _ = split_target::split(input);
    if let Ok(host) = split_target::check_authority(input) {
        assert!(host > 0 && host <= input.len());
        assert!(input.iter().all(|byte| byte.is_ascii_graphic() && !b"/?#@\\,%".contains(byte)), "{input:?}");
    }
    // Only what the request line lets through comes here.
    if !input.starts_with(b"/") || !input.iter().all(u8::is_ascii_graphic) {
        return;
    }
    let mut head = RequestHead::default();
    if path::store(input, &mut head).is_err() {
        return;
    }
    for escaped_slashes in [EscapedSlashes::Keep, EscapedSlashes::Unescape] {
        let policy = PathPolicy {
            escaped_slashes,
            dot_segments: DotSegments::Resolve,
            repeated_slashes: RepeatedSlashes::Merge,
        };
        let Ok(settled) = path::settle(head.path().as_bytes(), head.path_marks, policy) else { continue };
        let normal = settled.path.into_owned();
        let mut again = RequestHead::default();
        assert_eq!(path::store(&normal, &mut again), Ok(()), "{normal:?}");
        assert_eq!(again.path().as_bytes(), normal, "not normal");
        let lossy = String::from_utf8_lossy(&percent_decoded(&normal)).into_owned();
        assert!(!lossy.split('/').any(|segment| matches!(segment, "." | "..")), "{lossy}");
    }
}

fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let (mut decoded, mut rest) = (Vec::new(), text);
    while let [first, after @ ..] = rest {
        let byte = (*first == b'%').then(|| after.get(..2)).flatten();
        let byte = byte.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        decoded.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    decoded
}

/// The same however it arrives, and nothing that rustls reads in another way.
pub fn client_hello(input: &[u8]) {
    let whole = hello::parse(input);
    let mut seen = 0;
    for piece in Dice::of(input).split(input) {
        seen += piece.len();
        match (hello::parse(&input[..seen]), &whole) {
            (Ok(Parsed::Needs(count)), _) => assert!(count > seen, "asks for what is there"),
            (Ok(Parsed::Whole(early)), Ok(Parsed::Whole(late))) => assert_eq!(early, *late),
            (Err(_), Err(_)) => return,
            (early, late) => panic!("{early:?} and then {late:?}"),
        }
    }
    let Ok(Parsed::Whole(hello)) = whole else { return };
    let mut acceptor = rustls::server::Acceptor::default();
    let mut rest = input;
    while !rest.is_empty() {
        if !acceptor.read_tls(&mut rest).is_ok_and(|count| count > 0) {
            return;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let theirs = accepted.client_hello();
                assert_eq!(theirs.server_name(), hello.server_name.as_deref(), "server name");
                let protocols: Vec<&[u8]> = theirs.alpn().map(Iterator::collect).unwrap_or_default();
                let ours: Vec<&[u8]> = hello.protocols.iter().map(|name| &**name).collect();
                assert_eq!(protocols, ours, "protocols");
                return;
            }
            Err(_) => return,
        }
    }
}
