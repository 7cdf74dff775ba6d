//! Version 1: one line of text (§2.1).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Malformed, Origin, Start, canonical};

pub const PREFIX: &[u8] = b"PROXY ";
/// With CRLF: "a 108-byte buffer is always enough to store all the line and a trailing zero".
pub const MOST: usize = 107;

/// `line` is what follows the prefix.
pub fn parse(bytes: &[u8], line: &[u8]) -> Result<Start, Malformed> {
    let most = MOST - PREFIX.len();
    let Some(end) = line.iter().take(most).position(|byte| *byte == b'\n') else {
        return if line.len() < most { Ok(Start::Partial) } else { Err(Malformed("v1 line is too long")) };
    };
    let text = line.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(Malformed("v1 line without CRLF"))?;
    let length = bytes.len() - line.len() + end + 1;
    // "the receiver must ignore anything presented before the CRLF is found".
    if text == b"UNKNOWN" || text.starts_with(b"UNKNOWN ") {
        return Ok(Start::Header { length, origin: None });
    }
    let text = std::str::from_utf8(text).map_err(|_| Malformed("v1 line is not text"))?;
    // Exactly one space between fields: an empty field parses as nothing.
    let mut fields = text.split(' ');
    let family = fields.next().unwrap_or_default();
    let mut field = || fields.next().ok_or(Malformed("v1 line is too short"));
    let (source, destination, from, to) = (field()?, field()?, field()?, field()?);
    if fields.next().is_some() {
        return Err(Malformed("v1 line has more fields"));
    }
    let origin = match family {
        "TCP4" => Origin { source: v4(source, from)?, destination: v4(destination, to)? },
        "TCP6" => Origin { source: v6(source, from)?, destination: v6(destination, to)? },
        _ => return Err(Malformed("v1 family is unknown")),
    };
    Ok(Start::Header { length, origin: Some(origin) })
}

fn v4(address: &str, from: &str) -> Result<SocketAddr, Malformed> {
    // The standard library takes no leading zeros, which some read as octal.
    let address: Ipv4Addr = address.parse().map_err(|_| Malformed("v1 IPv4 address is invalid"))?;
    Ok(SocketAddr::new(address.into(), port(from)?))
}

fn v6(address: &str, from: &str) -> Result<SocketAddr, Malformed> {
    let address: Ipv6Addr = address.parse().map_err(|_| Malformed("v1 IPv6 address is invalid"))?;
    Ok(canonical(SocketAddr::new(address.into(), port(from)?)))
}

/// Digits without leading zeros, 0 to 65535.
fn port(text: &str) -> Result<u16, Malformed> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if !is_plain {
        return Err(Malformed("v1 port is invalid"));
    }
    text.parse().map_err(|_| Malformed("v1 port is invalid"))
}
