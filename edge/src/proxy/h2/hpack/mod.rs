//! HPACK (RFC 7541): header blocks to fields and back.
//!
//! In flow blocks as frames carried them; out flow names and values, one at a time and never stored here beyond the
//! dynamic table of 4 KiB. Names and values are foreign bytes: the caller judges them. What is written uses the static
//! table only, so that it costs no state.

pub mod encode;
pub mod huffman;
mod table;

use self::table::Dynamic;

/// SETTINGS_HEADER_TABLE_SIZE as we leave it (RFC 9113 §6.5.2).
pub const TABLE_SIZE: usize = 4096;
/// Integers beyond this are of no use in a block of ours.
const MOST: u32 = 1 << 24;

/// A block that cannot be read; the connection ends with COMPRESSION_ERROR (RFC 9113 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HpackError(pub &'static str);

/// One direction's state.
#[derive(Debug, Default)]
pub struct Decoder {
    table: Dynamic,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Decoder {
    /// Reads a whole block. All of it is read whatever `field` makes of it, because the table must stay in step.
    pub fn decode(&mut self, block: &[u8], mut field: impl FnMut(&[u8], &[u8])) -> Result<(), HpackError> {
        let mut input = Input(block);
        let mut first = true;
        while let Some(&byte) = input.0.first() {
            match byte {
                0x80.. => {
                    let index = input.integer(7)?;
                    let (name, value) = self.table.at(index).ok_or(HpackError("index beyond the table"))?;
                    field(name, value);
                }
                // Literal, to be remembered.
                0x40..0x80 => {
                    let index = input.integer(6)?;
                    let (name, value) = self.literal(index, &mut input)?;
                    field(name.get(&self.table, &self.name), value.get(&self.value));
                    self.table.insert(name.get(&self.table, &self.name).to_vec(), value.get(&self.value));
                }
                // A change of the table's size, only in front (§4.2).
                0x20..0x40 => {
                    let size = input.integer(5)? as usize;
                    if !first {
                        return Err(HpackError("table size update inside a block"));
                    }
                    if size > TABLE_SIZE {
                        return Err(HpackError("table size update beyond the setting"));
                    }
                    self.table.resize(size);
                    continue;
                }
                0x00..0x20 => {
                    let index = input.integer(4)?;
                    let (name, value) = self.literal(index, &mut input)?;
                    field(name.get(&self.table, &self.name), value.get(&self.value));
                }
            }
            first = false;
        }
        // An exceptional value's memory is not kept.
        self.name.shrink_to(KEPT);
        self.value.shrink_to(KEPT);
        Ok(())
    }

    fn literal<'b>(&mut self, index: u32, input: &mut Input<'b>) -> Result<(Name<'b>, Text<'b>), HpackError> {
        let name = if index == 0 {
            match input.string(&mut self.name)? {
                Text::Plain(name) => Name::Plain(name),
                Text::Decoded => Name::Decoded,
            }
        } else if self.table.at(index).is_some() {
            Name::Indexed(index)
        } else {
            return Err(HpackError("index beyond the table"));
        };
        Ok((name, input.string(&mut self.value)?))
    }
}

/// Memory for decoded strings that is kept between blocks.
const KEPT: usize = 256;

/// Where a string is.
enum Text<'b> {
    Plain(&'b [u8]),
    Decoded,
}

impl<'b> Text<'b> {
    fn get<'a>(&self, decoded: &'a [u8]) -> &'a [u8]
    where
        'b: 'a,
    {
        match self {
            Self::Plain(text) => text,
            Self::Decoded => decoded,
        }
    }
}

enum Name<'b> {
    Indexed(u32),
    Plain(&'b [u8]),
    Decoded,
}

impl<'b> Name<'b> {
    fn get<'a>(&self, table: &'a Dynamic, decoded: &'a [u8]) -> &'a [u8]
    where
        'b: 'a,
    {
        match self {
            Self::Indexed(index) => table.at(*index).map_or(&[], |(name, _)| name),
            Self::Plain(name) => name,
            Self::Decoded => decoded,
        }
    }
}

/// What is left of a block.
struct Input<'b>(&'b [u8]);

impl<'b> Input<'b> {
    fn byte(&mut self) -> Result<u8, HpackError> {
        let (first, rest) = self.0.split_first().ok_or(HpackError("block ends early"))?;
        self.0 = rest;
        Ok(*first)
    }

    /// An integer with a prefix of `bits` bits (§5.1).
    fn integer(&mut self, bits: u32) -> Result<u32, HpackError> {
        let mask = (1_u32 << bits) - 1;
        let mut value = u32::from(self.byte()?) & mask;
        if value < mask {
            return Ok(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = u32::from(self.byte()?);
            value += (byte & 0x7f) << shift;
            if byte < 0x80 {
                return if value < MOST { Ok(value) } else { Err(HpackError("integer too large")) };
            }
        }
        Err(HpackError("integer too long"))
    }

    /// A string (§5.2); one in Huffman's code is left in `decoded`.
    fn string(&mut self, decoded: &mut Vec<u8>) -> Result<Text<'b>, HpackError> {
        let is_huffman = self.0.first().is_some_and(|byte| *byte >= 0x80);
        let length = self.integer(7)? as usize;
        let (text, rest) = self.0.split_at_checked(length).ok_or(HpackError("string longer than its block"))?;
        self.0 = rest;
        if !is_huffman {
            return Ok(Text::Plain(text));
        }
        decoded.clear();
        huffman::decode(text, decoded).map_err(HpackError)?;
        Ok(Text::Decoded)
    }
}

#[cfg(test)]
mod tests;
