//! What a request is aimed at: the request-target and the authority, checked and split (RFC 9112 §3.2, RFC 3986).
//!
//! One reading only: whatever another party could take for something else is refused. Paths are [`crate::proxy::path`]'s.

use std::ops::Range;

/// Why a target or an authority is refused.
pub type Refusal = &'static str;

/// A request-target, as ranges into it.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// `/path?query`
    Origin { path: Range<usize>, query: Option<Range<usize>> },
    /// `http://authority/path?query`; an empty path stands for `/`.
    Absolute { secure: bool, authority: Range<usize>, path: Range<usize>, query: Option<Range<usize>> },
    /// `*`
    Asterisk,
}

/// Splits a target and checks its characters.
pub fn split(target: &[u8]) -> Result<Target, Refusal> {
    if target == b"*" {
        return Ok(Target::Asterisk);
    }
    if target.first() == Some(&b'/') {
        let (path, query) = path_and_query(target, 0)?;
        return Ok(Target::Origin { path, query });
    }
    let (secure, start) = if starts_with(target, b"http://") {
        (false, 7)
    } else if starts_with(target, b"https://") {
        (true, 8)
    } else {
        return Err("request target is neither a path nor a URL");
    };
    let rest = target.get(start..).unwrap_or_default();
    let length = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let authority = start..start + length;
    let (path, query) = path_and_query(target, authority.end)?;
    Ok(Target::Absolute { secure, authority, path, query })
}

fn starts_with(text: &[u8], prefix: &[u8]) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn path_and_query(target: &[u8], start: usize) -> Result<(Range<usize>, Option<Range<usize>>), Refusal> {
    let mut question = None;
    for (at, &byte) in target.iter().enumerate().skip(start) {
        match byte {
            b'?' if question.is_none() => question = Some(at),
            b'#' => return Err("request target has a fragment"),
            b'\\' if question.is_none() => return Err("path has a backslash"),
            0x21..=0x7e => {}
            _ => return Err("request target has a character that must be encoded"),
        }
    }
    let end = question.unwrap_or(target.len());
    Ok((start..end, question.map(|at| at + 1..target.len())))
}

/// Checks `host[:port]` and gives the length of the host. A registered name is held to letters, digits, `-`, `.` and
/// `_`; an IPv6 address stands in brackets.
pub fn check_authority(authority: &[u8]) -> Result<usize, Refusal> {
    let host = match authority {
        [b'[', rest @ ..] => {
            let length = rest.iter().position(|byte| *byte == b']').ok_or("host has an unclosed bracket")?;
            let address = rest.get(..length).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default();
            address.parse::<std::net::Ipv6Addr>().map_err(|_| "host has brackets around no IPv6 address")?;
            length + 2
        }
        _ => {
            let length = memchr::memchr(b':', authority).unwrap_or(authority.len());
            let name = authority.get(..length).unwrap_or_default();
            if name.is_empty() {
                return Err("host is empty");
            }
            if name.len() > 255 || name.first() == Some(&b'.') {
                return Err("host is no name");
            }
            // Without an early end, so that many bytes are looked at with one instruction.
            let is_good = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            if !name.iter().fold(true, |good, byte| good & is_good(byte)) {
                return Err("host has a character that no host name has");
            }
            length
        }
    };
    match authority.get(host..).unwrap_or_default() {
        [] => Ok(host),
        [b':', digits @ ..]
            if !digits.is_empty()
                && digits.iter().all(u8::is_ascii_digit)
                && std::str::from_utf8(digits).is_ok_and(|digits| digits.parse::<u16>().is_ok()) =>
        {
            Ok(host)
        }
        _ => Err("host has an invalid port"),
    }
}

/// Whether two authorities name the same server for a scheme.
pub fn same_authority(a: &[u8], b: &[u8], secure: bool) -> bool {
    let port: &[u8] = if secure { b":443" } else { b":80" };
    let (a, b) = (a.strip_suffix(port).unwrap_or(a), b.strip_suffix(port).unwrap_or(b));
    a.eq_ignore_ascii_case(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_split_into_their_parts() {
        assert_eq!(split(b"/a?b?c"), Ok(Target::Origin { path: 0..2, query: Some(3..6) }));
        assert_eq!(split(b"/a?"), Ok(Target::Origin { path: 0..2, query: Some(3..3) }));
        assert_eq!(split(b"*"), Ok(Target::Asterisk));
        assert_eq!(
            split(b"HTTP://h:1?q"),
            Ok(Target::Absolute { secure: false, authority: 7..10, path: 10..10, query: Some(11..12) })
        );
        assert_eq!(
            split(b"https://h/p"),
            Ok(Target::Absolute { secure: true, authority: 8..9, path: 9..11, query: None })
        );
        for bad in ["", "a", "**", "http:/h", "ftp://h/", "/a#b", "/a\\b", "/\x7f", "/a b", "/\u{e9}", "?q"] {
            assert!(split(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(split(b"/a?x\\y").is_ok(), "a query is opaque");
    }

    #[test]
    fn authorities_are_names_addresses_and_ports() {
        for (good, host) in
            [("a", 1), ("A.b-c_d:80", 7), ("a.:1", 2), ("1.2.3.4:65535", 7), ("[::1]", 5), ("[::1]:8", 5)]
        {
            assert_eq!(check_authority(good.as_bytes()), Ok(host), "{good}");
        }
        for bad in [
            "", ":80", "a:", "a:b", "a:70000", "a:-1", "a:1:2", "u@h", "a/b", "a b", "a,b", "[::1", "[x]", "[::1]x",
            ".a", "a%41", "\u{e9}",
        ] {
            assert!(check_authority(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(same_authority(b"A:80", b"a", false));
        assert!(!same_authority(b"a:80", b"a", true));
    }
}
