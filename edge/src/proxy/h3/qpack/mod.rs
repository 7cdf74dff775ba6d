//! QPACK (RFC 9204) without a dynamic table: ours has the size 0, so that a block stands for itself and no request waits for
//! another stream.
//!
//! In flow field sections as frames carried them; out flow names and values, one at a time and stored nowhere. They are
//! foreign bytes: the caller judges and counts them. A section is no longer than its fields may be, and a byte of it can
//! stand for no more than an entry of the static table.

mod table;

use self::table::STATIC;
use crate::proxy::h2::convert::{self, Unwritable};
use crate::proxy::h2::hpack::huffman;
use crate::proxy::message::{Fields, Length, ResponseHead};

/// A section that cannot be read; the connection ends with QPACK_DECOMPRESSION_FAILED.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct QpackError(pub &'static str);

const DYNAMIC: QpackError = QpackError("reference to a dynamic table that there is none of");

/// Reads a section (RFC 9204 §4.5).
pub fn decode(section: &[u8], mut field: impl FnMut(&[u8], &[u8])) -> Result<(), QpackError> {
    let mut input = Input(section);
    // Without a table nothing can have been inserted, and the base has nothing to count from.
    if input.integer(8)?.1 != 0 {
        return Err(DYNAMIC);
    }
    if input.integer(7)?.0 & 0x80 != 0 {
        return Err(QpackError("negative base"));
    }
    let (mut name, mut value) = (Vec::new(), Vec::new());
    while let Some(first) = input.0.first() {
        match first {
            // Indexed.
            0x80.. => {
                let (flags, index) = input.integer(6)?;
                let (name, value) = entry(flags & 0x40 != 0, index)?;
                field(name, value);
            }
            // The name by index.
            0x40..0x80 => {
                let (flags, index) = input.integer(4)?;
                let (name, _) = entry(flags & 0x10 != 0, index)?;
                field(name, input.string(7, &mut value)?);
            }
            0x20..0x40 => {
                let name = input.string(3, &mut name)?;
                field(name, input.string(7, &mut value)?);
            }
            // Behind the base.
            0x00..0x20 => return Err(DYNAMIC),
        }
    }
    Ok(())
}

fn entry(is_static: bool, index: usize) -> Result<(&'static [u8], &'static [u8]), QpackError> {
    if !is_static {
        return Err(DYNAMIC);
    }
    let (name, value) = STATIC.get(index).ok_or(QpackError("index beyond the static table"))?;
    Ok((name.as_bytes(), value.as_bytes()))
}

struct Input<'b>(&'b [u8]);

impl<'b> Input<'b> {
    fn byte(&mut self) -> Result<u8, QpackError> {
        let (first, rest) = self.0.split_first().ok_or(QpackError("section ends inside a field"))?;
        self.0 = rest;
        Ok(*first)
    }

    /// The bits in front of an integer of so many bits, and the integer (RFC 7541 §5.1).
    fn integer(&mut self, bits: u32) -> Result<(u8, usize), QpackError> {
        let first = self.byte()?;
        let mask = ((1_u16 << bits) - 1) as u8;
        let mut value = usize::from(first & mask);
        if value < usize::from(mask) {
            return Ok((first, value));
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((first, value));
            }
        }
        Err(QpackError("integer without use"))
    }

    /// A text behind a length of so many bits with the flag for Huffman's code in front.
    fn string<'a>(&mut self, bits: u32, decoded: &'a mut Vec<u8>) -> Result<&'a [u8], QpackError>
    where
        'b: 'a,
    {
        let (first, length) = self.integer(bits)?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(QpackError("section ends inside a field"))?;
        self.0 = rest;
        if first & (1 << bits) == 0 {
            return Ok(text);
        }
        decoded.clear();
        huffman::decode(text, decoded).map_err(QpackError)?;
        Ok(decoded)
    }
}

/// Appends a response's section.
pub fn put_response(head: &ResponseHead, into: &mut Vec<u8>) -> Result<(), Unwritable> {
    if !(100..=599).contains(&head.status) || head.status == 101 {
        return Err(Unwritable("status"));
    }
    into.extend_from_slice(&[0, 0]);
    match table::status(head.status) {
        Some(index) => put_integer(into, 0xc0, 6, index),
        None => {
            put_integer(into, 0x50, 4, table::STATUS);
            let digits = [100, 10, 1].map(|unit| b'0' + (head.status / unit % 10) as u8);
            put_string(into, &digits);
        }
    }
    put_lines(&head.fields, into)?;
    // RFC 9110 §8.6: never in 1xx and 204.
    if let Length::Known(length) = head.length
        && !matches!(head.status, 100..=199 | 204)
    {
        put_integer(into, 0x50, 4, table::CONTENT_LENGTH);
        put_string(into, length.to_string().as_bytes());
    }
    Ok(())
}

/// Appends a trailer section.
pub fn put_fields(fields: &Fields, into: &mut Vec<u8>) -> Result<(), Unwritable> {
    into.extend_from_slice(&[0, 0]);
    put_lines(fields, into)
}

fn put_lines(fields: &Fields, into: &mut Vec<u8>) -> Result<(), Unwritable> {
    for (name, value) in fields.iter() {
        convert::check_field(name, value)?;
        // Secrets are marked as never to be indexed, by whoever re-encodes them (RFC 9204 §7.1.3).
        let is_secret = matches!(name, b"authorization" | b"cookie" | b"set-cookie" | b"proxy-authorization");
        match table::place(name) {
            Some(index) => put_integer(into, if is_secret { 0x70 } else { 0x50 }, 4, index),
            None => {
                put_integer(into, if is_secret { 0x30 } else { 0x20 }, 3, name.len());
                into.extend_from_slice(name);
            }
        }
        put_string(into, value);
    }
    Ok(())
}

fn put_string(into: &mut Vec<u8>, text: &[u8]) {
    put_integer(into, 0, 7, text.len());
    into.extend_from_slice(text);
}

fn put_integer(into: &mut Vec<u8>, flags: u8, bits: u32, value: usize) {
    let mask = (1_usize << bits) - 1;
    if value < mask {
        return into.push(flags | value as u8);
    }
    into.push(flags | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        into.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    into.push(rest as u8);
}

#[cfg(test)]
mod tests;
