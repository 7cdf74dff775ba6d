//! Field lines of HTTP/1 heads: which are understood, which are about one connection only, which are copied.
//!
//! In: lines as httparse split them. Out: the values that frame and steer a message ([`Special`]), the connection options,
//! and the end-to-end fields in canonical form (RFC 9110 §5, §7.6.1).

use crate::proxy::message::Fields;

/// Fields that frame a message: a server that takes `_` for `-` would find another end of it than Edge does.
const FRAMING_FIELDS: [&[u8]; 2] = [b"content-length", b"transfer-encoding"];

/// Fields that Edge sets itself. A name that differs from one of them only by `_` for `-` is dropped, because many
/// servers take the two for the same.
pub(super) const OWN_FIELDS: [&[u8]; 6] =
    [b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port", b"x-real-ip", b"forwarded"];

/// The fields that are not copied but understood.
#[derive(Default)]
pub(super) struct Special<'a> {
    pub host: Option<&'a [u8]>,
    pub length: Option<u64>,
    pub encoding: Option<&'a [u8]>,
    pub expect: Option<&'a [u8]>,
    pub upgrade: Option<&'a [u8]>,
    pub te_trailers: bool,
    pub options: Options,
}

/// Whom a field is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    EndToEnd,
    /// In a request it is understood here; in a response it means nothing and is passed on as it is.
    OfRequests,
    /// About this connection or the framing of this message.
    Connection,
}

impl<'a> Special<'a> {
    /// Takes a field line and says whom it is for.
    pub fn take(&mut self, line: &httparse::Header<'a>) -> Result<Scope, &'static str> {
        let (name, value) = (line.name.as_bytes(), line.value);
        let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
        match name.len() {
            2 if is(b"te") => {
                self.te_trailers |= value.split(|byte| *byte == b',').any(|coding| trim(coding) == b"trailers");
            }
            4 if is(b"host") => {
                once(&mut self.host, value, "more than one Host")?;
                return Ok(Scope::OfRequests);
            }
            6 if is(b"expect") => {
                once(&mut self.expect, value, "more than one Expect")?;
                return Ok(Scope::OfRequests);
            }
            // Several protocols, in one field or more, are none that we offer.
            7 if is(b"upgrade") => self.upgrade = if self.upgrade.is_some() { Some(b"") } else { Some(value) },
            10 if is(b"connection") => self.options.take(value),
            14 if is(b"content-length") => {
                once(&mut self.length, content_length(value)?, "more than one Content-Length")?
            }
            17 if is(b"transfer-encoding") => once(&mut self.encoding, value, "more than one Transfer-Encoding")?,
            _ if Hop::of(name).is_none() => return Ok(Scope::EndToEnd),
            _ => {}
        }
        Ok(Scope::Connection)
    }
}

/// Keeps the value of a field that may be there once.
fn once<T>(place: &mut Option<T>, value: T, else_say: &'static str) -> Result<(), &'static str> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(else_say),
    }
}

/// The longest body that has a length: more does not fit the signed numbers that many servers count with.
pub(in crate::proxy) const MOST_LENGTH: u64 = i64::MAX as u64;

/// RFC 9110 §8.6: digits only. No sign, no list, no space inside, no overflow.
pub(in crate::proxy) fn content_length(value: &[u8]) -> Result<u64, &'static str> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return Err("invalid Content-Length");
    }
    match value.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0')) {
        length @ 0..=MOST_LENGTH => Ok(length),
        _ => Err("invalid Content-Length"),
    }
}

/// RFC 9110 §9.1: methods have a case. One that differs from a usual method in nothing else is another method to us and
/// the same to many servers, down to whether a response to it has a body.
pub(in crate::proxy) fn check_method(method: &[u8]) -> Result<(), &'static str> {
    const USUAL: [&[u8]; 9] = [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT"];
    if method.iter().any(u8::is_ascii_lowercase) && USUAL.iter().any(|usual| method.eq_ignore_ascii_case(usual)) {
        return Err("method in the wrong case");
    }
    // The first line of the HTTP/2 preface begins with it (RFC 9113 §11.6 reserves the name).
    if method == b"PRI" { Err("PRI is no method") } else { Ok(()) }
}

/// The connection options that mean something to us, and whether there are others.
#[derive(Default)]
pub(super) struct Options {
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
    pub te: bool,
    nominates: bool,
}

impl Options {
    /// Takes the value of a Connection field.
    fn take(&mut self, value: &[u8]) {
        for token in tokens(value) {
            let is = |other: &[u8]| token.eq_ignore_ascii_case(other);
            if is(b"close") {
                self.close = true;
            } else if is(b"keep-alive") {
                self.keep_alive = true;
            } else if is(b"upgrade") {
                self.upgrade = true;
            } else if is(b"te") {
                self.te = true;
            } else {
                self.nominates = true;
            }
        }
    }

    /// Removes the fields that the options of these lines name (RFC 9110 §7.6.1).
    pub fn remove_nominated(&self, lines: &[httparse::Header<'_>], fields: &mut Fields) {
        if self.nominates {
            fields.remove_if(|name| connection_tokens(lines).any(|token| token.eq_ignore_ascii_case(name)));
        }
    }
}

fn connection_tokens<'a>(lines: &'a [httparse::Header<'_>]) -> impl Iterator<Item = &'a [u8]> {
    lines
        .iter()
        .filter(|line| line.name.len() == 10 && line.name.eq_ignore_ascii_case("connection"))
        .flat_map(|line| tokens(line.value))
}

fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim).filter(|token| !token.is_empty())
}

/// Appends a field line of a head in canonical form. As a rule it is written as we would write it, and copied whole.
pub(super) fn copy_line(head: &[u8], line: &httparse::Header<'_>, fields: &mut Fields) {
    let (name, value) = (line.name.as_bytes(), line.value);
    let start = (name.as_ptr() as usize).wrapping_sub(head.as_ptr() as usize);
    let length = name.len() + value.len() + 4;
    match head.get(start..start.wrapping_add(length)) {
        Some(whole) if whole.ends_with(b"\r\n") && whole.get(name.len()..name.len() + 2) == Some(b": ") => {
            fields.add_line(whole, name.len());
        }
        _ => fields.add_lower(name, value),
    }
}

/// What becomes of a trailer field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Trailer {
    Keep,
    Drop,
    /// It would frame or route the message once more.
    Refuse,
}

/// RFC 9110 §6.5.1: no field that frames, routes, authenticates, or is to be known before the content.
pub(in crate::proxy) fn trailer(name: &[u8]) -> Trailer {
    const REFUSED: [&[u8]; 3] = [b"content-length", b"transfer-encoding", b"host"];
    const DROPPED: [&[u8]; 26] = [
        b"age",
        b"authorization",
        b"cache-control",
        b"content-encoding",
        b"content-range",
        b"content-type",
        b"cookie",
        b"date",
        b"expect",
        b"expires",
        b"if-match",
        b"if-modified-since",
        b"if-none-match",
        b"if-range",
        b"if-unmodified-since",
        b"location",
        b"max-forwards",
        b"pragma",
        b"range",
        b"retry-after",
        b"set-cookie",
        b"trailer",
        b"vary",
        b"warning",
        b"www-authenticate",
        b"origin",
    ];
    let is = |other: &&[u8]| name.eq_ignore_ascii_case(other);
    if REFUSED.iter().any(is) {
        Trailer::Refuse
    } else if Hop::of(name).is_some() || is_alias_of_own(name) || DROPPED.iter().chain(&OWN_FIELDS).any(is) {
        Trailer::Drop
    } else {
        Trailer::Keep
    }
}

/// A field that is about one connection, about framing, or for a proxy of the client (RFC 9110 §7.6.1, §11.7).
pub(in crate::proxy) struct Hop;

impl Hop {
    pub fn of(name: &[u8]) -> Option<Self> {
        let names: &[&[u8]] = match name.len() {
            2 => &[b"te"],
            // CGI makes a variable of it that many programs take for their own proxy setting.
            5 => &[b"proxy"],
            7 => &[b"upgrade"],
            10 => &[b"connection", b"keep-alive"],
            14 => &[b"content-length", b"http2-settings"],
            16 => &[b"proxy-connection"],
            17 => &[b"transfer-encoding"],
            18 => &[b"proxy-authenticate"],
            19 => &[b"proxy-authorization"],
            25 => &[b"proxy-authentication-info"],
            _ => return None,
        };
        names.iter().any(|hop| name.eq_ignore_ascii_case(hop)).then_some(Self)
    }
}

pub(in crate::proxy) fn is_alias_of_own(name: &[u8]) -> bool {
    // Without an early end, so that many bytes are looked at with one instruction.
    name.iter().fold(false, |found, byte| found | (*byte == b'_'))
        && OWN_FIELDS.iter().chain(&FRAMING_FIELDS).any(|own| {
            own.len() == name.len()
                && own
                    .iter()
                    .zip(name)
                    .all(|(own, byte)| *own == byte.to_ascii_lowercase() || (*own == b'-' && *byte == b'_'))
        })
}

pub(super) fn trim(text: &[u8]) -> &[u8] {
    text.trim_ascii()
}
