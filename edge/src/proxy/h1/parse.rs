//! Heads of HTTP/1 messages: bytes to the canonical head, under one strict policy (RFC 9110, RFC 9112).
//!
//! In: the bytes of a complete head, as [`head_end`] delimits it. Out: a [`RequestHead`] or [`ResponseHead`] without
//! connection-level fields, and how the body is framed. Ambiguity is an error, never repaired: after an error the
//! connection is closed, because nobody knows where the next message starts. httparse splits lines into tokens and
//! refuses bytes that may not be in them; everything else is decided here.

use std::mem::MaybeUninit;

use super::fields::{Scope, Special, Trailer, check_method, copy_line, is_alias_of_own, trailer, trim};
use super::target::{self, Target};
use crate::proxy::message::{Fields, Length, RequestHead, ResponseHead, Scheme, Version};
use crate::proxy::path;

/// Field lines that one head can ever have, whatever the limit says (the range of `max_fields` in edge.toml).
const MOST_FIELDS: usize = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    pub bytes: usize,
    pub fields: usize,
}

/// Why a request head is refused; the connection is closed after the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    #[error("request line too long")]
    TargetTooLong,
    #[error("request head too large")]
    HeadTooLarge,
    #[error("HTTP version not supported")]
    Version,
    #[error("not implemented: {0}")]
    NotImplemented(&'static str),
    #[error("unknown expectation")]
    Expectation,
}

impl RequestError {
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::TargetTooLong => 414,
            Self::HeadTooLarge => 431,
            Self::Version => 505,
            Self::NotImplemented(_) => 501,
            Self::Expectation => 417,
        }
    }
}

/// Why a response head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ResponseError(pub &'static str);

/// How the bytes after a head are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    /// Up to the end of the connection (responses only).
    Close,
}

/// What the head says of the connection, beside the canonical message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    pub framing: Framing,
    pub keep_alive: bool,
}

/// Finds the end of a head. `scanned` remembers what was looked at already, so that a head that drips in costs no more
/// than one that comes at once. `None`: not complete yet.
pub fn head_end(bytes: &[u8], scanned: &mut usize) -> Result<Option<usize>, &'static str> {
    let mut line = *scanned;
    while let Some(length) = memchr::memchr(b'\n', bytes.get(line..).unwrap_or_default()) {
        let end = line + length;
        // RFC 9112 §2.2: a bare LF may be taken for a line end by some and not by others.
        if end == 0 || bytes.get(end - 1) != Some(&b'\r') {
            return Err("line ends without CR");
        }
        if end == line + 1 {
            return Ok(Some(end + 1));
        }
        line = end + 1;
        *scanned = line;
    }
    Ok(None)
}

/// Decodes a complete request head.
pub fn request(
    bytes: &[u8],
    scheme: Scheme,
    limits: HeadLimits,
    head: &mut RequestHead,
) -> Result<Connection, RequestError> {
    use RequestError::{Malformed, NotImplemented};
    head.clear();
    let mut lines = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; MOST_FIELDS];
    let lines = lines.get_mut(..limits.fields.min(MOST_FIELDS)).unwrap_or_default();
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(bytes, lines) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return Err(Malformed("head is not complete")),
        Err(httparse::Error::TooManyHeaders) => return Err(RequestError::HeadTooLarge),
        Err(httparse::Error::Version) => return Err(bad_version(bytes)),
        Err(error) => return Err(Malformed(syntax(error))),
    }
    let (Some(method), Some(path), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Malformed("request line is not complete"));
    };
    head.version = if version == 0 { Version::Http10 } else { Version::Http11 };
    head.scheme = scheme;
    check_method(method.as_bytes()).map_err(Malformed)?;
    head.method = head.fields.store(method.as_bytes());
    if method == "CONNECT" {
        return Err(NotImplemented("CONNECT"));
    }

    let mut special = Special::default();
    for line in &*parsed.headers {
        let scope = special.take(line).map_err(Malformed)?;
        if scope == Scope::EndToEnd && !is_alias_of_own(line.name.as_bytes()) {
            copy_line(bytes, line, &mut head.fields);
        }
    }
    special.options.remove_nominated(parsed.headers, &mut head.fields);
    target_of(head, path.as_bytes(), &special)?;
    let framing = request_framing(&special, head.version)?;
    head.length = match framing {
        Framing::Length(length) => Length::Known(length),
        Framing::Chunked => Length::Unknown,
        Framing::None | Framing::Close => Length::None,
    };
    let options = &special.options;
    head.te_trailers = special.te_trailers && options.te;
    if let Some(expect) = special.expect {
        if !expect.eq_ignore_ascii_case(b"100-continue") {
            return Err(RequestError::Expectation);
        }
        // RFC 9110 §10.1.1: to be ignored in HTTP/1.0, and without a body there is nothing to wait for.
        head.expect_continue = head.version == Version::Http11 && framing != Framing::None;
    }
    if let Some(protocol) = special.upgrade
        && options.upgrade
        && head.version == Version::Http11
        && method == "GET"
        && protocol.eq_ignore_ascii_case(b"websocket")
    {
        if framing != Framing::None {
            return Err(Malformed("upgrade with a body"));
        }
        head.upgrade = Some(head.fields.store(b"websocket"));
    }
    // RFC 9110 §9.3.8
    if method == "TRACE" && framing.has_body() {
        return Err(Malformed("TRACE with content"));
    }
    let keep_alive = match head.version {
        Version::Http10 => options.keep_alive && !options.close,
        _ => !options.close,
    };
    Ok(Connection { framing, keep_alive })
}

/// Decodes a complete response head. `bodiless`: the request was HEAD.
pub fn response(
    bytes: &[u8],
    bodiless: bool,
    limits: HeadLimits,
    head: &mut ResponseHead,
) -> Result<Connection, ResponseError> {
    head.clear();
    let mut lines = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; MOST_FIELDS];
    let lines = lines.get_mut(..limits.fields.min(MOST_FIELDS)).unwrap_or_default();
    let mut parsed = httparse::Response::new(&mut []);
    match httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, bytes, lines) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return Err(ResponseError("head is not complete")),
        Err(error) => return Err(ResponseError(syntax(error))),
    }
    let (Some(status), Some(version)) = (parsed.code, parsed.version) else {
        return Err(ResponseError("status line is not complete"));
    };
    if !(100..=599).contains(&status) {
        return Err(ResponseError("status is not between 100 and 599"));
    }
    head.status = status;
    let mut special = Special::default();
    for line in &*parsed.headers {
        if special.take(line).map_err(ResponseError)? != Scope::Connection {
            copy_line(bytes, line, &mut head.fields);
        }
    }
    special.options.remove_nominated(parsed.headers, &mut head.fields);
    let options = &special.options;
    let declared = match (special.encoding, special.length) {
        // RFC 9112 §6.3: "ought to be handled as an error".
        (Some(_), Some(_)) => return Err(ResponseError("both Content-Length and Transfer-Encoding")),
        (Some(_), None) if version == 0 => return Err(ResponseError("Transfer-Encoding in HTTP/1.0")),
        (Some(encoding), None) if encoding.eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
        (Some(_), None) => return Err(ResponseError("a transfer coding other than chunked")),
        (None, Some(length)) => Framing::Length(length),
        (None, None) => Framing::Close,
    };
    let mut keep_alive = !options.close && (version == 1 || options.keep_alive);
    // RFC 9112 §6.3: no body whatever the fields say. A length then describes what a GET would give.
    let framing = if head.is_bodiless(bodiless) {
        if matches!(status, 100..=199 | 204) && matches!(declared, Framing::Length(1..) | Framing::Chunked) {
            // It must not announce a body; who does may also send one.
            keep_alive = false;
        }
        head.length = match declared {
            Framing::Length(length) if bodiless || status == 304 => Length::Known(length),
            _ => Length::None,
        };
        Framing::None
    } else {
        head.length = match declared {
            Framing::Length(length) => Length::Known(length),
            _ => Length::Unknown,
        };
        declared
    };
    keep_alive &= framing != Framing::Close;
    if status == 101 {
        head.upgrade = special.upgrade.filter(|_| options.upgrade).map(|token| head.fields.store_lower(token));
    }
    Ok(Connection { framing, keep_alive })
}

/// Decodes a complete trailer section, its empty line included. What frames or routes a message must not be sent in
/// trailers (RFC 9110 §6.5.1) and makes the message malformed; other connection-level fields are dropped.
pub fn trailers(bytes: &[u8], limits: HeadLimits, fields: &mut Fields) -> Result<(), &'static str> {
    let mut lines = [httparse::EMPTY_HEADER; 64];
    let most = limits.fields.min(lines.len());
    let lines = lines.get_mut(..most).unwrap_or_default();
    let Ok(httparse::Status::Complete((length, lines))) = httparse::parse_headers(bytes, lines) else {
        return Err("trailer section is malformed");
    };
    if length != bytes.len() {
        return Err("trailer section is malformed");
    }
    for line in lines {
        let name = line.name.as_bytes();
        match trailer(name) {
            Trailer::Keep => fields.add_lower(name, line.value),
            Trailer::Drop => {}
            Trailer::Refuse => return Err("trailer section has a framing field"),
        }
    }
    Ok(())
}

/// What a version other than 1.0 and 1.1 is answered: 505 if it is one at all.
fn bad_version(bytes: &[u8]) -> RequestError {
    let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
    match line {
        // A version that we do speak was refused for what stands before it.
        [.., b'1', b'.', b'0' | b'1'] => RequestError::Malformed("invalid character in the start line"),
        [.., b' ', b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            RequestError::Version
        }
        _ => RequestError::Malformed("request line has no HTTP version"),
    }
}

fn syntax(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "invalid field name",
        httparse::Error::HeaderValue => "invalid field value",
        httparse::Error::NewLine => "invalid line end",
        httparse::Error::Status => "invalid status",
        httparse::Error::Token => "invalid character in the start line",
        httparse::Error::TooManyHeaders => "too many fields",
        httparse::Error::Version => "invalid HTTP version",
    }
}

fn request_framing(special: &Special<'_>, version: Version) -> Result<Framing, RequestError> {
    use RequestError::{Malformed, NotImplemented};
    match (special.encoding, special.length) {
        (None, None) => Ok(Framing::None),
        (None, Some(length)) => Ok(Framing::Length(length)),
        (Some(_), Some(_)) => Err(Malformed("both Content-Length and Transfer-Encoding")),
        (Some(_), None) if version == Version::Http10 => Err(Malformed("Transfer-Encoding in HTTP/1.0")),
        (Some(encoding), None) if encoding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (Some(encoding), None) => {
            let last = trim(encoding.rsplit(|byte| *byte == b',').next().unwrap_or_default());
            let codings = || encoding.split(|byte| *byte == b',').map(trim);
            let chunked = codings().filter(|coding| coding.eq_ignore_ascii_case(b"chunked")).count();
            // RFC 9112 §6.3: without chunked as the last coding the length is unknown, hence malformed; a coding that
            // we do not know, properly ended by chunked, is 501 (§6.1).
            if chunked == 1 && last.eq_ignore_ascii_case(b"chunked") && codings().all(is_token) {
                Err(NotImplemented("a transfer coding other than chunked"))
            } else {
                Err(Malformed("invalid Transfer-Encoding"))
            }
        }
    }
}

/// RFC 9110 §5.6.2.
fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// Sets authority, host, path and query (RFC 9112 §3.2, §3.3).
fn target_of(head: &mut RequestHead, target: &[u8], special: &Special<'_>) -> Result<(), RequestError> {
    let bad = RequestError::Malformed;
    let secure = head.scheme == Scheme::Https;
    let host_of = |authority: &[u8]| target::check_authority(authority).map_err(bad);
    let by_field = special.host.map(host_of).transpose()?;
    let range = |range: std::ops::Range<usize>| target.get(range).unwrap_or_default();
    let (authority, path, query) = match target::split(target).map_err(bad)? {
        Target::Origin { path, query } => (None, range(path), query.map(range)),
        Target::Asterisk if head.method() == "OPTIONS" => (None, target, None),
        Target::Asterisk => return Err(bad("* is a target for OPTIONS only")),
        Target::Absolute { secure: other, .. } if other != secure => {
            return Err(bad("scheme of the target is not that of the connection"));
        }
        Target::Absolute { authority, path, query, .. } => {
            let path = if path.is_empty() { b"/" } else { range(path) };
            (Some(range(authority)), path, query.map(range))
        }
    };
    let (authority, host) = match (authority, special.host.zip(by_field)) {
        (Some(authority), field) => {
            let host = host_of(authority)?;
            // RFC 9112 §3.2.2 lets the target win; two different names are an ambiguity all the same.
            match field {
                Some((field, _)) if !target::same_authority(field, authority, secure) => {
                    return Err(bad("Host differs from the target"));
                }
                None if head.version == Version::Http11 => return Err(bad("no Host")),
                _ => (authority, host),
            }
        }
        (None, Some(field)) => field,
        // Only HTTP/1.0 may do without; it then reaches what serves every host.
        (None, None) if head.version == Version::Http10 => (&b""[..], 0),
        (None, None) => return Err(bad("no Host")),
    };
    head.authority = head.fields.store(authority);
    let host = authority.get(..host).unwrap_or_default();
    // A trailing dot only says that the name is complete.
    head.host = head.fields.store_lower(host.strip_suffix(b".").unwrap_or(host));
    if path == b"*" {
        head.path = head.fields.store(path);
    } else {
        path::store(path, head).map_err(bad)?;
    }
    head.query = query.map(|query| head.fields.store(query));
    Ok(())
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
