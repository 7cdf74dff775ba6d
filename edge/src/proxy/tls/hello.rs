//! Reads a ClientHello without consuming it: the server name and the protocols decide which listener takes a connection
//! before any TLS state exists, and the bytes are replayed to it.
//!
//! In flow bytes as they arrive, split anywhere, over any number of records; out flows a [`Hello`] or a refusal. Strict
//! where two readers could disagree (RFC 8446 §4.1.2, §5.1; RFC 6066 §3; RFC 7301): lengths must fit exactly, names and
//! protocols come once. It never answers: a refused connection is closed without a TLS alert.

use crate::proxy::buffer::Buffer;
use crate::proxy::io::Io;

/// What a client says first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hello {
    /// In lower case. An IP address is no server name and is left out (RFC 6066 §3 forbids it, some clients send it).
    pub server_name: Option<Box<str>>,
    /// As offered by ALPN, in the client's order.
    pub protocols: Vec<Box<[u8]>>,
    /// Whether it offers a session to go on with (RFC 8446 §4.2.11). Only a hint: what comes of it rustls decides.
    pub resumes: bool,
}

/// Why bytes are no acceptable ClientHello.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    #[error("no TLS handshake: first byte {0:#04x}, expected 0x16")]
    NotTls(u8),
    #[error("malformed ClientHello: {0}")]
    Malformed(&'static str),
    #[error("ClientHello longer than {0} bytes")]
    TooLong(usize),
    #[error("closed before the end of the ClientHello")]
    Closed,
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Reads until the ClientHello is complete. All bytes read stay in the buffer, from its front; its room bounds them.
/// The deadline is the caller's.
pub async fn read<S: Io>(io: &S, mut buffer: Buffer) -> Result<(Hello, Buffer), HelloError> {
    let mut needed = 1;
    loop {
        if buffer.len() >= needed {
            match parse(buffer.as_slice())? {
                Parsed::Whole(hello) => return Ok((hello, buffer)),
                Parsed::Needs(count) => needed = count,
            }
        }
        if buffer.room() < needed.saturating_sub(buffer.len()) {
            return Err(HelloError::TooLong(buffer.len() + buffer.room()));
        }
        let (result, back) = io.read(buffer).await;
        buffer = back;
        if result? == 0 {
            return Err(HelloError::Closed);
        }
    }
}

/// The result of looking at the first bytes of a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    Whole(Hello),
    /// Nothing can be said before so many bytes are there.
    Needs(usize),
}

const RECORD_HEADER: usize = 5;
const HANDSHAKE_HEADER: usize = 4;
/// RFC 8446 §5.1: 2^14.
const MAX_FRAGMENT: usize = 1 << 14;

/// Looks at the first bytes of a connection, which may have more behind the ClientHello.
pub fn parse(bytes: &[u8]) -> Result<Parsed, HelloError> {
    let mut joined = Vec::new();
    let mut at = 0;
    loop {
        let (fragment, next) = match record(bytes, at)? {
            Record::Needs(count) => return Ok(Parsed::Needs(count)),
            Record::Partial(fragment, end) => {
                // Even a part may show that this is no ClientHello.
                check_type(if joined.is_empty() { fragment } else { &joined })?;
                return Ok(Parsed::Needs(end));
            }
            Record::Whole(fragment, end) => (fragment, end),
        };
        at = next;
        // Nearly always the whole message is in the first record, and nothing is copied.
        let message = if joined.is_empty() {
            fragment
        } else {
            joined.extend_from_slice(fragment);
            &joined
        };
        check_type(message)?;
        if let Some(length) = message_length(message) {
            match message.get(HANDSHAKE_HEADER..HANDSHAKE_HEADER + length) {
                // RFC 8446 §5.1: nothing may follow a ClientHello in its record, as keys change with the answer.
                Some(body) if message.len() == HANDSHAKE_HEADER + length => {
                    return client_hello(body).map(Parsed::Whole).map_err(HelloError::Malformed);
                }
                Some(_) => return Err(HelloError::Malformed("bytes behind it in the same record")),
                None => {}
            }
        }
        if joined.is_empty() {
            joined.extend_from_slice(fragment);
        }
    }
}

/// Looks at a ClientHello that comes without records (RFC 9001 §4); `None` while it is not whole.
pub fn message(bytes: &[u8]) -> Result<Option<Hello>, HelloError> {
    check_type(bytes)?;
    let Some(length) = message_length(bytes) else { return Ok(None) };
    match bytes.get(HANDSHAKE_HEADER..HANDSHAKE_HEADER + length) {
        Some(body) if bytes.len() == HANDSHAKE_HEADER + length => {
            client_hello(body).map(Some).map_err(HelloError::Malformed)
        }
        Some(_) => Err(HelloError::Malformed("bytes behind it")),
        None => Ok(None),
    }
}

enum Record<'a> {
    Whole(&'a [u8], usize),
    Partial(&'a [u8], usize),
    Needs(usize),
}

fn record(bytes: &[u8], at: usize) -> Result<Record<'_>, HelloError> {
    let rest = bytes.get(at..).unwrap_or_default();
    match *rest {
        [] => return Ok(Record::Needs(at + 1)),
        [0x16, ..] => {}
        [other, ..] if at == 0 => return Err(HelloError::NotTls(other)),
        _ => return Err(HelloError::Malformed("another record type in between")),
    }
    if rest.get(1).is_some_and(|major| *major != 3) {
        return Err(HelloError::Malformed("record version"));
    }
    let &[_, _, _, high, low, ref payload @ ..] = rest else { return Ok(Record::Needs(at + RECORD_HEADER)) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length == 0 || length > MAX_FRAGMENT {
        return Err(HelloError::Malformed("record length"));
    }
    let end = at + RECORD_HEADER + length;
    match payload.get(..length) {
        Some(fragment) => Ok(Record::Whole(fragment, end)),
        None => Ok(Record::Partial(payload, end)),
    }
}

fn check_type(message: &[u8]) -> Result<(), HelloError> {
    match message.first() {
        None | Some(1) => Ok(()),
        Some(_) => Err(HelloError::Malformed("another handshake message, expected ClientHello")),
    }
}

fn message_length(message: &[u8]) -> Option<usize> {
    match *message {
        [_, a, b, c, ..] => Some(u32::from_be_bytes([0, a, b, c]) as usize),
        _ => None,
    }
}

/// A cursor whose every step may fail.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    fn u8(&mut self) -> Option<usize> {
        self.take(1).map(|bytes| usize::from(bytes[0]))
    }

    fn u16(&mut self) -> Option<usize> {
        self.take(2).map(|bytes| usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
    }

    /// A vector with a length of one byte in front.
    fn vec8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length)
    }

    fn vec16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

const SERVER_NAME: usize = 0;
const ALPN: usize = 16;
const PRE_SHARED_KEY: usize = 41;

fn client_hello(body: &[u8]) -> Result<Hello, &'static str> {
    let mut reader = Reader(body);
    let fixed = || "cut short";
    reader.take(2 + 32).ok_or_else(fixed)?; // legacy_version, random
    let session = reader.vec8().ok_or_else(fixed)?;
    let suites = reader.vec16().ok_or_else(fixed)?;
    let compression = reader.vec8().ok_or_else(fixed)?;
    if session.len() > 32 || suites.is_empty() || !suites.len().is_multiple_of(2) || compression.is_empty() {
        return Err("session id, cipher suites or compression methods");
    }
    let mut hello = Hello::default();
    if reader.is_empty() {
        return Ok(hello); // TLS 1.2 without extensions
    }
    let extensions = reader.vec16().ok_or_else(fixed)?;
    if !reader.is_empty() {
        return Err("bytes behind the extensions");
    }
    let mut extensions = Reader(extensions);
    let (mut named, mut offered) = (false, false);
    while !extensions.is_empty() {
        let kind = extensions.u16().ok_or("extension cut short")?;
        let content = extensions.vec16().ok_or("extension cut short")?;
        match kind {
            SERVER_NAME if std::mem::replace(&mut named, true) => return Err("two server_name extensions"),
            SERVER_NAME => hello.server_name = server_name(content)?,
            ALPN if std::mem::replace(&mut offered, true) => return Err("two ALPN extensions"),
            ALPN => hello.protocols = protocols(content)?,
            PRE_SHARED_KEY => hello.resumes = true,
            _ => {}
        }
    }
    Ok(hello)
}

/// RFC 6066 §3: a list with, in practice, exactly one name of type host_name.
fn server_name(content: &[u8]) -> Result<Option<Box<str>>, &'static str> {
    let mut outer = Reader(content);
    let list = outer.vec16().filter(|_| outer.is_empty()).ok_or("server_name list")?;
    let mut list = Reader(list);
    if list.u8() != Some(0) {
        return Err("server_name of an unknown type");
    }
    let name = list.vec16().filter(|_| list.is_empty()).ok_or("server_name")?;
    let name = std::str::from_utf8(name).map_err(|_| "server_name is no ASCII")?;
    if name.parse::<std::net::IpAddr>().is_ok() {
        return Ok(None);
    }
    // Wider than a host name by the underscore, which is found in real certificates and names.
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return Err("server_name is no host name");
    }
    Ok(Some(name.to_ascii_lowercase().into()))
}

fn protocols(content: &[u8]) -> Result<Vec<Box<[u8]>>, &'static str> {
    let mut outer = Reader(content);
    let list = outer.vec16().filter(|list| outer.is_empty() && !list.is_empty()).ok_or("ALPN list")?;
    let mut list = Reader(list);
    let mut found = Vec::new();
    while !list.is_empty() {
        let name = list.vec8().filter(|name| !name.is_empty()).ok_or("ALPN protocol name")?;
        found.push(name.into());
    }
    Ok(found)
}

#[cfg(test)]
#[path = "hello_tests.rs"]
mod tests;
