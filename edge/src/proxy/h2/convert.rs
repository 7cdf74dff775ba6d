//! Between header blocks and canonical heads, under the same policy as HTTP/1 ([`crate::proxy::h1`]).
//!
//! In flow the fields of a block one by one; out flows a canonical head, or why there is none: malformed by RFC 9113 §8
//! (the stream is reset), or understood and refused (the client is told). Nothing is repaired. The other way round, a
//! head is checked once more as it is written.

use std::ops::Range;

use super::hpack::encode;
use crate::proxy::h1::fields::{self, Hop, Trailer, is_alias_of_own};
use crate::proxy::h1::parse::{HeadLimits, RequestError};
use crate::proxy::h1::target::{self, Target};
use crate::proxy::message::{Fields, Length, RequestHead, ResponseHead, Scheme, Span, Version};
use crate::proxy::path;

/// Why a block is no head that we take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// RFC 9113 §8.1.1: a stream error.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// A message that is well-formed and gets an answer.
    #[error(transparent)]
    Refused(#[from] RequestError),
}

/// What counts and judges the fields of a block, whatever it is a block of.
struct Lines {
    limits: HeadLimits,
    bytes: usize,
    count: usize,
    regular: bool,
    broken: Option<&'static str>,
    too_large: bool,
}

enum Line {
    Pseudo,
    Regular,
    /// Of no further interest.
    Lost,
}

impl Lines {
    fn new(limits: HeadLimits) -> Self {
        Self { limits, bytes: 0, count: 0, regular: false, broken: None, too_large: false }
    }

    fn take(&mut self, name: &[u8], value: &[u8]) -> Line {
        if self.broken.is_some() || self.too_large {
            return Line::Lost;
        }
        // Fields are counted as well as bytes: a reference to a table entry is one byte (CVE-2026-49975).
        self.count += 1;
        // RFC 9113 §6.5.2: the size of a field is that of its text plus 32.
        self.bytes += name.len() + value.len() + 32;
        if self.bytes > self.limits.bytes || self.count > self.limits.fields {
            self.too_large = true;
            return Line::Lost;
        }
        match self.judge(name, value) {
            Ok(line) => line,
            Err(why) => {
                self.broken = Some(why);
                Line::Lost
            }
        }
    }

    fn judge(&mut self, name: &[u8], value: &[u8]) -> Result<Line, &'static str> {
        check_value(value)?;
        if name.first() == Some(&b':') {
            return if self.regular { Err("pseudo-header behind a field") } else { Ok(Line::Pseudo) };
        }
        self.regular = true;
        if name.is_empty() || !name.iter().all(|byte| is_name(*byte)) {
            return Err("invalid field name");
        }
        match name {
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
                Err("connection-specific field")
            }
            b"te" if value != b"trailers" => Err("TE other than trailers"),
            _ => Ok(Line::Regular),
        }
    }
}

/// RFC 9113 §8.2.1: lower-case letters only.
fn is_name(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'.'
        | b'^' | b'`' | b'|' | b'~')
}

/// No control character, and no white space around a value (RFC 9113 §8.2.1).
fn check_value(value: &[u8]) -> Result<(), &'static str> {
    // Without a branch per byte, so that several are looked at at once.
    if value.iter().fold(false, |found, byte| found | ((*byte < 0x20) & (*byte != b'\t')) | (*byte == 0x7f)) {
        return Err("control character in a field value");
    }
    let space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if space(value.first()) || space(value.last()) {
        return Err("white space around a field value");
    }
    Ok(())
}

/// Fields that live on as members of a head, or that belong to one connection (RFC 9110 §7.6.1).
fn is_taken_out(name: &[u8]) -> bool {
    matches!(name, b"host" | b"expect") || Hop::of(name).is_some()
}

/// A Content-Length, of which there may be one.
#[derive(Default)]
struct GivenLength(Option<u64>);

impl GivenLength {
    fn take(&mut self, value: &[u8]) -> Result<(), &'static str> {
        match self.0.replace(fields::content_length(value)?) {
            Some(_) => Err("more than one Content-Length"),
            None => Ok(()),
        }
    }
}

/// Reads a request's block.
pub struct RequestBlock<'h> {
    head: &'h mut RequestHead,
    lines: Lines,
    given_scheme: Option<bool>,
    path: Option<Span>,
    authority: Option<Span>,
    host: Option<Span>,
    length: GivenLength,
    cookies: Option<Vec<u8>>,
    /// The first thing that we do not take although RFC 9113 lets it pass.
    refused: Option<RequestError>,
}

impl<'h> RequestBlock<'h> {
    pub fn new(head: &'h mut RequestHead, limits: HeadLimits) -> Self {
        head.clear();
        head.version = Version::Http2;
        Self {
            head,
            lines: Lines::new(limits),
            given_scheme: None,
            path: None,
            authority: None,
            host: None,
            length: GivenLength::default(),
            cookies: None,
            refused: None,
        }
    }

    pub fn field(&mut self, name: &[u8], value: &[u8]) {
        match self.lines.take(name, value) {
            Line::Lost => {}
            Line::Pseudo => {
                if let Err(why) = self.pseudo(name, value) {
                    self.lines.broken = Some(why);
                }
            }
            Line::Regular => {
                if let Err(error) = self.regular(name, value) {
                    self.refused.get_or_insert(error);
                }
            }
        }
    }

    /// RFC 9113 §8.3.1.
    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let fields = &mut self.head.fields;
        let again = match name {
            b":method" => {
                let again = !self.head.method.is_empty();
                if value.is_empty() || !value.iter().all(|byte| is_name(byte.to_ascii_lowercase())) {
                    return Err("invalid :method");
                }
                self.head.method = fields.store(value);
                again
            }
            b":scheme" => {
                let known = value.eq_ignore_ascii_case(b"https") || value.eq_ignore_ascii_case(b"http");
                self.given_scheme.replace(known).is_some()
            }
            b":path" if value.is_empty() => return Err("empty :path"),
            b":path" => self.path.replace(fields.store(value)).is_some(),
            b":authority" => self.authority.replace(fields.store(value)).is_some(),
            _ => return Err("unknown pseudo-header"),
        };
        if again { Err("pseudo-header twice") } else { Ok(()) }
    }

    fn regular(&mut self, name: &[u8], value: &[u8]) -> Result<(), RequestError> {
        use RequestError::Malformed;
        let fields = &mut self.head.fields;
        match name {
            b"host" => {
                if self.host.replace(fields.store(value)).is_some() {
                    return Err(Malformed("more than one Host"));
                }
            }
            b"content-length" => self.length.take(value).map_err(Malformed)?,
            b"te" => self.head.te_trailers = true,
            b"expect" => {
                if std::mem::replace(&mut self.head.expect_continue, true) {
                    return Err(Malformed("more than one Expect"));
                }
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(RequestError::Expectation);
                }
            }
            b"cookie" => {
                // RFC 9113 §8.2.3: crumbs are joined before they leave HTTP/2.
                let joined = self.cookies.get_or_insert_default();
                if !joined.is_empty() {
                    joined.extend_from_slice(b"; ");
                }
                joined.extend_from_slice(value);
            }
            _ if is_taken_out(name) || is_alias_of_own(name) => {}
            _ => fields.add(name, value),
        }
        Ok(())
    }

    /// The end of the block. `ended`: END_STREAM came with it, so there is no body.
    pub fn finish(self, ended: bool, scheme: Scheme) -> Result<(), Refusal> {
        use RequestError::{Malformed, NotImplemented};
        let Self { head, lines, given_scheme, path, authority, host, length, cookies, refused } = self;
        head.scheme = scheme;
        if let Some(why) = lines.broken {
            return Err(Refusal::Malformed(why));
        }
        if lines.too_large {
            return Err(RequestError::HeadTooLarge.into());
        }
        if head.method.is_empty() {
            return Err(Refusal::Malformed("no :method"));
        }
        if head.method() == "CONNECT" {
            return Err(NotImplemented("CONNECT").into());
        }
        let Some(known) = given_scheme else { return Err(Refusal::Malformed("no :scheme")) };
        let Some(path) = path else { return Err(Refusal::Malformed("no :path")) };
        head.length = match (ended, length.0) {
            // RFC 9113 §8.1.1: a length that the body does not meet makes the request malformed.
            (true, Some(1..)) => return Err(Refusal::Malformed("Content-Length without a body")),
            (true, None) => Length::None,
            (_, Some(length)) => Length::Known(length),
            (false, None) => Length::Unknown,
        };
        if !known {
            return Err(Malformed("scheme is neither http nor https").into());
        }
        if let Some(error) = refused {
            return Err(error.into());
        }
        fields::check_method(head.method().as_bytes()).map_err(Malformed)?;
        // RFC 9110 §9.3.8
        if head.method() == "TRACE" && !ended {
            return Err(Malformed("TRACE with content").into());
        }
        authorities(authority, host, scheme, head).map_err(Malformed)?;
        paths(path, head).map_err(Malformed)?;
        head.expect_continue &= !ended;
        if let Some(cookies) = cookies {
            head.fields.add(b"cookie", &cookies);
        }
        Ok(())
    }
}

/// RFC 9113 §8.3.1: `:authority` and Host must not say different things; one of them must be there.
fn authorities(
    given: Option<Span>,
    host: Option<Span>,
    scheme: Scheme,
    head: &mut RequestHead,
) -> Result<(), &'static str> {
    let chosen = match (given, host) {
        (Some(given), Some(host)) => {
            let (given_text, host) = (head.fields.text(given), head.fields.text(host));
            target::check_authority(host)?;
            if !target::same_authority(given_text, host, scheme == Scheme::Https) {
                return Err("Host differs from :authority");
            }
            given
        }
        (Some(given), None) => given,
        (None, Some(host)) => host,
        (None, None) => return Err("no :authority"),
    };
    let length = target::check_authority(head.fields.text(chosen))?;
    head.authority = chosen;
    let name = chosen.part(0..length);
    let name = if head.fields.text(name).last() == Some(&b'.') { name.part(0..length - 1) } else { name };
    // Copied only where it is not in lower case already.
    head.host = if head.fields.text(name).iter().any(u8::is_ascii_uppercase) {
        let text = head.fields.text(name).to_vec();
        head.fields.store_lower(&text)
    } else {
        name
    };
    Ok(())
}

fn paths(given: Span, head: &mut RequestHead) -> Result<(), &'static str> {
    let text = head.fields.text(given);
    let (path, query): (Range<usize>, Option<Range<usize>>) = match target::split(text)? {
        Target::Asterisk if head.method() == "OPTIONS" => {
            head.path = given;
            return Ok(());
        }
        Target::Asterisk => return Err("* is a target for OPTIONS only"),
        Target::Absolute { .. } => return Err(":path is no path"),
        Target::Origin { path, query } => (path, query),
    };
    path::keep(given.part(path), head)?;
    head.query = query.map(|query| given.part(query));
    Ok(())
}

/// Reads a response's block.
pub struct ResponseBlock<'h> {
    head: &'h mut ResponseHead,
    lines: Lines,
    length: GivenLength,
}

impl<'h> ResponseBlock<'h> {
    pub fn new(head: &'h mut ResponseHead, limits: HeadLimits) -> Self {
        head.clear();
        Self { head, lines: Lines::new(limits), length: GivenLength::default() }
    }

    pub fn field(&mut self, name: &[u8], value: &[u8]) {
        let taken = match self.lines.take(name, value) {
            Line::Lost => Ok(()),
            Line::Pseudo => self.pseudo(name, value),
            Line::Regular if name == b"content-length" => self.length.take(value),
            Line::Regular => {
                if !is_taken_out(name) {
                    self.head.fields.add(name, value);
                }
                Ok(())
            }
        };
        if let Err(why) = taken {
            self.lines.broken = Some(why);
        }
    }

    /// RFC 9113 §8.3.2.
    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        if name != b":status" || self.head.status != 0 {
            return Err("unexpected pseudo-header");
        }
        let digit = |byte: u8| u16::from(byte.wrapping_sub(b'0'));
        match *value {
            [a @ b'1'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9'] => {
                self.head.status = digit(a) * 100 + digit(b) * 10 + digit(c);
                Ok(())
            }
            _ => Err("invalid :status"),
        }
    }

    /// The end of the block. `ended`: END_STREAM came with it.
    pub fn finish(self, ended: bool, request_is_head: bool) -> Result<(), &'static str> {
        let Self { head, lines, length: GivenLength(length) } = self;
        if let Some(why) = lines.broken {
            return Err(why);
        }
        if lines.too_large {
            return Err("response head is too large");
        }
        match head.status {
            0 => return Err("no :status"),
            // RFC 9113 §8.6: "HTTP/2 does not support the 101".
            101 => return Err("status that HTTP/2 does not have"),
            // RFC 9113 §8.1: an interim response ends nothing.
            100..=199 if ended => return Err("interim response at the end"),
            _ => {}
        }
        head.length = match length {
            Some(length) if request_is_head || head.status == 304 => Length::Known(length),
            _ if head.is_bodiless(request_is_head) => Length::None,
            Some(1..) if ended => return Err("Content-Length without a body"),
            Some(length) => Length::Known(length),
            None if ended => Length::None,
            None => Length::Unknown,
        };
        Ok(())
    }
}

/// Reads a trailer section.
pub struct TrailerBlock {
    fields: Fields,
    lines: Lines,
}

impl TrailerBlock {
    pub fn new(limits: HeadLimits) -> Self {
        Self { fields: Fields::default(), lines: Lines::new(limits) }
    }

    pub fn field(&mut self, name: &[u8], value: &[u8]) {
        match self.lines.take(name, value) {
            Line::Lost => {}
            // RFC 9113 §8.1: "Pseudo-header fields MUST NOT appear in trailer sections".
            Line::Pseudo => self.lines.broken = Some("pseudo-header in trailers"),
            // What frames or routes a message must not be there (RFC 9110 §6.5.1).
            Line::Regular => match fields::trailer(name) {
                Trailer::Keep => self.fields.add(name, value),
                Trailer::Drop => {}
                Trailer::Refuse => self.lines.broken = Some("trailer section has a framing field"),
            },
        }
    }

    pub fn finish(self) -> Result<Fields, &'static str> {
        match self.lines {
            Lines { broken: Some(why), .. } => Err(why),
            Lines { too_large: true, .. } => Err("too many trailer fields"),
            _ => Ok(self.fields),
        }
    }
}

/// A canonical message that cannot be written: an edit made something that is no valid field or target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {0}")]
pub struct Unwritable(pub &'static str);

/// Entries of the static table that are written by number.
mod entry {
    pub const AUTHORITY: u8 = 1;
    pub const GET: u8 = 2;
    pub const POST: u8 = 3;
    pub const PATH: u8 = 4;
    pub const HTTP: u8 = 6;
    pub const HTTPS: u8 = 7;
    pub const CONTENT_LENGTH: u8 = 28;
}

/// Writes a response's block.
pub fn put_response(head: &ResponseHead, into: &mut Vec<u8>) -> Result<(), Unwritable> {
    if !(100..=599).contains(&head.status) || head.status == 101 {
        return Err(Unwritable("status"));
    }
    encode::status(into, head.status);
    put_fields(&head.fields, into)?;
    // RFC 9110 §8.6: never in 1xx and 204.
    if let Length::Known(length) = head.length
        && !matches!(head.status, 100..=199 | 204)
    {
        encode::number(into, entry::CONTENT_LENGTH, length);
    }
    Ok(())
}

/// Writes a request's block.
pub fn put_request(head: &RequestHead, secure: bool, into: &mut Vec<u8>) -> Result<(), Unwritable> {
    let visible = |text: &str| text.bytes().all(|byte| byte > 0x20 && byte != 0x7f);
    let (method, authority, path) = (head.method(), head.authority(), head.path());
    if method.is_empty() || !method.bytes().all(|byte| is_name(byte.to_ascii_lowercase())) {
        return Err(Unwritable("method"));
    }
    if authority.is_empty() || !visible(authority) {
        return Err(Unwritable("authority"));
    }
    if path.is_empty() || !visible(path) || !head.query().is_none_or(visible) {
        return Err(Unwritable("target"));
    }
    match method {
        "GET" => encode::indexed(into, entry::GET),
        "POST" => encode::indexed(into, entry::POST),
        _ => encode::with_name(into, entry::GET, &[method.as_bytes()]),
    }
    encode::indexed(into, if secure { entry::HTTPS } else { entry::HTTP });
    encode::with_name(into, entry::AUTHORITY, &[authority.as_bytes()]);
    match head.query() {
        None if path == "/" => encode::indexed(into, entry::PATH),
        None => encode::with_name(into, entry::PATH, &[path.as_bytes()]),
        Some(query) => encode::with_name(into, entry::PATH, &[path.as_bytes(), b"?", query.as_bytes()]),
    }
    put_fields(&head.fields, into)?;
    if let Length::Known(length) = head.length {
        encode::number(into, entry::CONTENT_LENGTH, length);
    }
    if head.te_trailers {
        encode::field(into, b"te", b"trailers");
    }
    Ok(())
}

/// Writes a trailer section's block.
pub fn put_fields(fields: &Fields, into: &mut Vec<u8>) -> Result<(), Unwritable> {
    for (name, value) in fields.iter() {
        check_field(name, value)?;
        encode::field(into, name, value);
    }
    Ok(())
}

/// Whether a field may be written; HTTP/3 has the same rule (RFC 9114 §4.2).
pub fn check_field(name: &[u8], value: &[u8]) -> Result<(), Unwritable> {
    if name.is_empty() || !name.iter().all(|byte| is_name(*byte)) {
        return Err(Unwritable("field name"));
    }
    check_value(value).map_err(|_| Unwritable("field value"))
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
