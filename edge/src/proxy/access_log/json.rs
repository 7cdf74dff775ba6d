//! Strings, numbers and times as JSON, appended to bytes. Whatever came over the wire stays one readable line.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edge_config::names::ObjectRef;

use crate::proxy::digits;

/// Longer strings end in an ellipsis.
pub(super) const LONGEST: usize = 4096;

/// Appends a JSON string. Control characters (also C1, which terminals obey) are escaped; a byte that is no UTF-8 becomes
/// the four characters `\xNN`.
pub(in crate::proxy) fn push_str(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    push_escaped(out, text);
    out.push(b'"');
}

/// Appends what a value displays as, as a JSON string.
pub(super) fn push_display(out: &mut Vec<u8>, value: &dyn fmt::Display) {
    out.push(b'"');
    push_shown(out, value);
    out.push(b'"');
}

fn push_shown(out: &mut Vec<u8>, value: &dyn fmt::Display) {
    struct Escaping<'a>(&'a mut Vec<u8>);
    impl fmt::Write for Escaping<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            push_escaped(self.0, text.as_bytes());
            Ok(())
        }
    }
    // Writing to a vector does not fail.
    let _ = fmt::write(&mut Escaping(out), format_args!("{value}"));
}

fn push_escaped(out: &mut Vec<u8>, text: &[u8]) {
    // Nearly all texts are these bytes only, and the look at all of them at once is a few instructions.
    if text.len() <= LONGEST && text.iter().fold(true, |all, byte| all & is_plain(*byte)) {
        out.extend_from_slice(text);
        return;
    }
    let (text, cut) = match text.get(..LONGEST) {
        Some(front) if text.len() > LONGEST => (front, true),
        _ => (text, false),
    };
    for chunk in text.utf8_chunks() {
        push_valid(out, chunk.valid());
        // A character that the cut went through is no fault of the text.
        if !(cut && chunk.invalid().as_ptr_range().end == text.as_ptr_range().end) {
            for byte in chunk.invalid() {
                out.extend_from_slice(b"\\\\x");
                push_hex(out, *byte);
            }
        }
    }
    if cut {
        out.extend_from_slice("…".as_bytes());
    }
}

/// Printable ASCII that stands for itself in a JSON string.
fn is_plain(byte: u8) -> bool {
    (byte.wrapping_sub(0x20) < 0x5F) & (byte != b'"') & (byte != b'\\')
}

fn push_valid(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut copied = 0;
    for (at, byte) in bytes.iter().enumerate() {
        // C1 controls are 0xC2 0x80 to 0xC2 0x9F.
        let c1 = *byte == 0xC2 && bytes.get(at + 1).is_some_and(|next| *next < 0xA0);
        if is_plain(*byte) || (*byte >= 0x80 && !c1) {
            continue;
        }
        if at < copied {
            continue;
        }
        out.extend_from_slice(&bytes[copied..at]);
        copied = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => {
                let code = if c1 { bytes.get(at + 1).copied().unwrap_or_default() } else { *control };
                copied += usize::from(c1);
                out.extend_from_slice(b"\\u00");
                push_hex(out, code);
            }
        }
    }
    out.extend_from_slice(&bytes[copied..]);
}

fn push_hex(out: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push(DIGITS[usize::from(byte >> 4)]);
    out.push(DIGITS[usize::from(byte & 15)]);
}

pub(super) fn push_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(digits::decimal(number, &mut [0; 20]));
}

/// An address with its port, as it displays.
pub(super) fn push_address(out: &mut Vec<u8>, address: &SocketAddr) {
    out.push(b'"');
    match address {
        SocketAddr::V4(address) => {
            push_ip4(out, *address.ip());
            out.push(b':');
            push_number(out, u64::from(address.port()));
        }
        address @ SocketAddr::V6(_) => push_shown(out, address),
    }
    out.push(b'"');
}

/// An address without a port.
pub(super) fn push_ip(out: &mut Vec<u8>, ip: &IpAddr) {
    out.push(b'"');
    match ip {
        IpAddr::V4(ip) => push_ip4(out, *ip),
        ip @ IpAddr::V6(_) => push_shown(out, ip),
    }
    out.push(b'"');
}

/// An object as it displays, which is in every line: `Kind namespace/name`, and what follows inside the string.
pub(super) fn push_object(out: &mut Vec<u8>, object: &ObjectRef, tail: &[&str]) {
    out.push(b'"');
    out.extend_from_slice(object.kind.as_str().as_bytes());
    out.push(b' ');
    if !object.key.namespace.is_empty() {
        push_escaped(out, object.key.namespace.as_bytes());
        out.push(b'/');
    }
    push_escaped(out, object.key.name.as_bytes());
    for piece in tail {
        push_escaped(out, piece.as_bytes());
    }
    out.push(b'"');
}

fn push_ip4(out: &mut Vec<u8>, ip: Ipv4Addr) {
    out.extend_from_slice(digits::ipv4(ip, &mut [0; 15]));
}

/// At least so many digits.
fn push_padded(out: &mut Vec<u8>, number: u64, width: usize) {
    out.extend_from_slice(digits::padded(number, width, &mut [0; 20]));
}

/// Milliseconds with microseconds after the point.
pub(in crate::proxy) fn push_milliseconds(out: &mut Vec<u8>, duration: Duration) {
    push_number(out, u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    out.push(b'.');
    push_padded(out, u64::from(duration.subsec_micros() % 1000), 3);
}

/// The last second that was written, which is most often the next one's too.
#[derive(Debug, Default)]
pub struct Second {
    since: u64,
    /// `2026-11-22T20:23:19.`, or nothing yet.
    text: Vec<u8>,
}

/// RFC 3339 in UTC with milliseconds, without quotes.
pub(super) fn push_time(out: &mut Vec<u8>, at: SystemTime, second: &mut Second) {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    if second.since != since.as_secs() || second.text.is_empty() {
        second.since = since.as_secs();
        second.text.clear();
        push_second(&mut second.text, since.as_secs());
    }
    out.extend_from_slice(&second.text);
    push_padded(out, u64::from(since.subsec_millis()), 3);
    out.push(b'Z');
}

fn push_second(out: &mut Vec<u8>, since: u64) {
    let (days, seconds) = (since / 86_400, since % 86_400);
    // Civil date from a day number, counting from March so that the leap day comes last in its year.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    for (number, width, after) in [
        (year, 4, b'-'),
        (month, 2, b'-'),
        (day, 2, b'T'),
        (seconds / 3600, 2, b':'),
        (seconds / 60 % 60, 2, b':'),
        (seconds % 60, 2, b'.'),
    ] {
        push_padded(out, number, width);
        out.push(after);
    }
}
