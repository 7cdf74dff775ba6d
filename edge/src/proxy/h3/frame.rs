//! Integers, frames and error codes of HTTP/3 (RFC 9000 §16, RFC 9114 §7 and §8.1).

/// Types of frames.
pub mod kind {
    pub const DATA: u64 = 0x00;
    pub const HEADERS: u64 = 0x01;
    pub const CANCEL_PUSH: u64 = 0x03;
    pub const SETTINGS: u64 = 0x04;
    pub const PUSH_PROMISE: u64 = 0x05;
    pub const GOAWAY: u64 = 0x07;
    pub const MAX_PUSH_ID: u64 = 0x0d;

    /// What HTTP/2 used and HTTP/3 does not; "receipt ... MUST be treated as a connection error" (§7.2.8).
    pub fn is_of_http2(kind: u64) -> bool {
        matches!(kind, 0x02 | 0x06 | 0x08 | 0x09)
    }
}

/// Types of unidirectional streams (§6.2, RFC 9204 §4.2).
pub mod stream {
    pub const CONTROL: u64 = 0x00;
    pub const PUSH: u64 = 0x01;
    pub const ENCODER: u64 = 0x02;
    pub const DECODER: u64 = 0x03;
}

/// Settings (§7.2.4.1, RFC 9204 §5).
pub mod setting {
    pub const MAX_FIELD_SECTION_SIZE: u64 = 0x06;

    /// Those of HTTP/2 that have no meaning here.
    pub fn is_of_http2(id: u64) -> bool {
        matches!(id, 0x02..=0x05)
    }
}

/// Why a stream or a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    NoError = 0x100,
    InternalError = 0x102,
    StreamCreation = 0x103,
    ClosedCriticalStream = 0x104,
    FrameUnexpected = 0x105,
    Frame = 0x106,
    ExcessiveLoad = 0x107,
    Id = 0x108,
    Settings = 0x109,
    MissingSettings = 0x10a,
    RequestRejected = 0x10b,
    RequestIncomplete = 0x10d,
    Message = 0x10e,
    QpackDecompression = 0x200,
    QpackEncoderStream = 0x201,
    QpackDecoderStream = 0x202,
}

impl From<Code> for quinn::VarInt {
    fn from(code: Code) -> Self {
        Self::from_u32(code as u32)
    }
}

/// The integer at the front and its length, where it is whole.
pub fn integer(bytes: &[u8]) -> Option<(u64, usize)> {
    let (first, rest) = bytes.split_first()?;
    let more = (1_usize << (first >> 6)) - 1;
    let value = rest.get(..more)?.iter().fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte));
    Some((value, more + 1))
}

/// Appends an integer in its shortest form. None beyond 2^62 - 1 is ever written.
pub fn put_integer(into: &mut Vec<u8>, value: u64) {
    match value {
        0..0x40 => into.push(value as u8),
        0x40..0x4000 => into.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes()),
        0x4000..0x4000_0000 => into.extend_from_slice(&(value as u32 | 0x8000_0000).to_be_bytes()),
        _ => into.extend_from_slice(&(value | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

/// Appends the head of a frame.
pub fn put_head(into: &mut Vec<u8>, kind: u64, length: usize) {
    put_integer(into, kind);
    put_integer(into, length as u64);
}

/// The longest head of a frame: two integers.
pub const HEAD: usize = 16;

/// Collects the head of a frame, never a byte more.
#[derive(Debug, Default, Clone, Copy)]
pub struct Head {
    bytes: [u8; HEAD],
    have: usize,
}

impl Head {
    /// Kind and length, where the head is whole; it begins anew then.
    pub fn take(&mut self) -> Option<(u64, u64)> {
        let bytes = self.bytes.get(..self.have)?;
        let (kind, first) = integer(bytes)?;
        let (length, _) = integer(bytes.get(first..)?)?;
        self.have = 0;
        Some((kind, length))
    }

    /// Room for bytes that belong to the head for certain.
    pub fn room(&mut self) -> &mut [u8] {
        let length = |at: usize| self.bytes.get(at).map_or(1, |byte| 1_usize << (byte >> 6));
        let end = match self.have {
            // Both integers have at least a byte.
            0 => 2,
            have => {
                let first = length(0);
                if have > first { first + length(first) } else { first + 1 }
            }
        };
        self.bytes.get_mut(self.have..end).unwrap_or_default()
    }

    pub fn grow(&mut self, count: usize) {
        self.have = (self.have + count).min(HEAD);
    }

    /// Whether it is between two frames.
    pub fn is_empty(&self) -> bool {
        self.have == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 9000 appendix A.1, and the borders between lengths.
    #[test]
    fn integers_go_there_and_back() {
        for (bytes, value) in [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
        ] {
            assert_eq!(integer(bytes), Some((value, bytes.len())));
            let mut written = Vec::new();
            put_integer(&mut written, value);
            assert_eq!(written, bytes);
            for length in 0..bytes.len() {
                assert_eq!(integer(&bytes[..length]), None);
            }
        }
        for value in [0, 0x3f, 0x40, 0x3fff, 0x4000, 0x3fff_ffff, 0x4000_0000, (1 << 62) - 1] {
            let mut written = Vec::new();
            put_integer(&mut written, value);
            assert_eq!(integer(&written), Some((value, written.len())), "{value}");
        }
        assert_eq!(integer(&[0x40, 0x25]), Some((37, 2)), "a longer form is as good");
    }

    #[test]
    fn a_head_takes_no_byte_of_what_follows() {
        for (kind, length) in [(0, 0), (1, 100), (0x21, 0x4000), (1 << 40, 5), ((1 << 62) - 1, (1 << 62) - 1)] {
            let mut bytes = Vec::new();
            put_integer(&mut bytes, kind);
            put_integer(&mut bytes, length);
            let whole = bytes.len();
            bytes.extend_from_slice(b"payload");
            for most in 1..20 {
                let (mut head, mut at) = (Head::default(), 0);
                let found = loop {
                    if let Some(found) = head.take() {
                        break found;
                    }
                    let room = head.room();
                    let count = room.len().min(most);
                    assert!(count > 0);
                    room[..count].copy_from_slice(&bytes[at..at + count]);
                    head.grow(count);
                    at += count;
                };
                assert_eq!((found, at), ((kind, length), whole), "{most} at a time");
                assert!(head.is_empty());
            }
        }
    }
}
