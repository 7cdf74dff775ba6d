//! The chunked transfer coding (RFC 9112 §7.1), strictly: a size is 1 to 16 hex digits, lines end in CRLF, extensions
//! are dropped and bounded. Nothing of the received framing is ever sent on; bodies are framed anew.

use std::ops::Range;

use super::fields::MOST_LENGTH;
use crate::proxy::buffer::Buffer;

/// Extension bytes in one body. More than a few are only ever sent to burden us.
const MOST_EXTENSION: u32 = 4096;

/// Decodes a body piece by piece.
#[derive(Debug, Clone, Default)]
pub struct Decoder {
    state: State,
    /// Of the current chunk: its size while that is read, then what is left of it.
    size: u64,
    extension: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    FirstDigit,
    /// So many digits were read.
    Digit(u8),
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// The last chunk was read; the trailer section follows.
    Done,
}

/// What one step found.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// Where the decoded bytes now are.
    pub data: Range<usize>,
    /// How many bytes were used up.
    pub used: usize,
    /// Whether the last chunk was read, and so the trailer section comes next.
    pub done: bool,
}

impl Decoder {
    /// Decodes in place: the data of several chunks is moved together behind the first, which stays where it is.
    pub fn step(&mut self, bytes: &mut [u8]) -> Result<Step, &'static str> {
        let mut data = 0..0;
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if self.state == State::Data {
                let count = usize::try_from(self.size).unwrap_or(usize::MAX).min(bytes.len() - at);
                if data.is_empty() {
                    data = at..at + count;
                } else {
                    bytes.copy_within(at..at + count, data.end);
                    data.end += count;
                }
                self.size -= count as u64;
                at += count;
                if self.size == 0 {
                    self.state = State::DataCr;
                }
                continue;
            }
            at += 1;
            self.state = self.frame(byte)?;
            if self.state == State::Done {
                break;
            }
        }
        Ok(Step { data, used: at, done: self.state == State::Done })
    }

    /// Takes one byte of framing.
    fn frame(&mut self, byte: u8) -> Result<State, &'static str> {
        let digit = (byte as char).to_digit(16);
        match (self.state, byte, digit) {
            (State::FirstDigit, _, Some(digit)) => {
                self.size = u64::from(digit);
                Ok(State::Digit(1))
            }
            (State::Digit(count), _, Some(digit)) if count < 16 => {
                self.size = self.size * 16 + u64::from(digit);
                Ok(State::Digit(count + 1))
            }
            (State::Digit(_), b';', _) => Ok(State::Extension),
            (State::Digit(_) | State::Extension, b'\r', _) => Ok(State::SizeLf),
            // Quoted or not, an extension has no control character; a bare LF hides a second line from some.
            (State::Extension, b'\t' | 0x20..=0x7e | 0x80.., _) => {
                self.extension += 1;
                if self.extension > MOST_EXTENSION {
                    return Err("chunk extensions are too long");
                }
                Ok(State::Extension)
            }
            (State::SizeLf, b'\n', _) if self.size == 0 => Ok(State::Done),
            (State::SizeLf, b'\n', _) if self.size > MOST_LENGTH => Err("chunk is too long"),
            (State::SizeLf, b'\n', _) => Ok(State::Data),
            (State::DataCr, b'\r', _) => Ok(State::DataLf),
            (State::DataLf, b'\n', _) => Ok(State::FirstDigit),
            (State::DataCr | State::DataLf, ..) => Err("chunk is longer than its size"),
            _ => Err("invalid chunk size line"),
        }
    }
}

/// The end of a body without trailers.
pub const END: &[u8] = b"0\r\n\r\n";
/// The longest size line.
pub const SIZE_LINE: usize = 18;
/// What framing adds to a chunk, and the end of the body.
pub const OVERHEAD: usize = SIZE_LINE + 2 + END.len();

/// Frames a buffer in place; gives it back unframed when there is no room for the framing.
pub fn frame(buffer: &mut Buffer) -> bool {
    let mut line = [0; SIZE_LINE];
    let line = size_line(buffer.len(), &mut line);
    if !buffer.prepend(line) {
        return false;
    }
    if buffer.frame_end(b"\r\n") {
        return true;
    }
    buffer.advance(line.len());
    false
}

/// Writes the size line of a chunk of `size` bytes.
pub fn size_line(size: usize, line: &mut [u8; SIZE_LINE]) -> &[u8] {
    let mut at = line.len() - 2;
    let mut rest = size;
    if let Some(end) = line.get_mut(at..) {
        end.copy_from_slice(b"\r\n");
    }
    loop {
        let digit = b"0123456789abcdef".get(rest % 16).copied().unwrap_or(b'0');
        at -= 1;
        if let Some(place) = line.get_mut(at) {
            *place = digit;
        }
        rest /= 16;
        if rest == 0 || at == 0 {
            break;
        }
    }
    line.get(at..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes in pieces of `size` bytes; gives the data and what follows the last chunk line.
    fn decode(input: &[u8], size: usize) -> Result<(Vec<u8>, Vec<u8>), &'static str> {
        let mut decoder = Decoder::default();
        let mut data = Vec::new();
        let mut rest = input;
        while !rest.is_empty() {
            let mut piece = rest[..size.min(rest.len())].to_vec();
            let step = decoder.step(&mut piece)?;
            data.extend_from_slice(&piece[step.data]);
            rest = &rest[step.used..];
            if step.done {
                return Ok((data, rest.to_vec()));
            }
        }
        Err("not complete")
    }

    #[test]
    fn valid_bodies_decode_whatever_the_pieces() {
        let cases: [(&[u8], &[u8], &[u8]); 5] = [
            (b"0\r\n\r\n", b"", b"\r\n"),
            (b"5\r\nhello\r\n0\r\n\r\nGET", b"hello", b"\r\nGET"),
            (b"1;a=b;c=\"\\\"d\"\r\nx\r\n00A\r\n0123456789\r\n000\r\nt: v\r\n\r\n", b"x0123456789", b"t: v\r\n\r\n"),
            (b"2\r\n\r\n\r\n0\r\n", b"\r\n", b""),
            (b"0000000000000001\r\nx\r\n0;e\r\n", b"x", b""),
        ];
        for (input, data, rest) in cases {
            for size in 1..=input.len() {
                assert_eq!(decode(input, size), Ok((data.to_vec(), rest.to_vec())), "{size}");
            }
        }
    }

    #[test]
    fn other_grammars_are_refused() {
        for bad in [
            "\r\n",
            "x\r\n",
            " 5\r\nhello\r\n",
            "5 \r\nhello\r\n",
            "0x5\r\nhello\r\n",
            "+5\r\nhello\r\n",
            "-1\r\n",
            "5\nhello\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhello!\r\n",
            "5\r\nhell\r\n0\r\n",
            "5\rhello",
            ";a\r\n",
            "5;a\nhello\r\n",
            "5;\x00\r\n",
            "5;a\rb\r\n",
            "00000000000000001\r\nx\r\n",
            "fffffffffffffffff\r\n",
            "ffffffffffffffff\r\n",
            "8000000000000000\r\n",
            "5\r\r\nhello\r\n",
            "1_0\r\n",
            "5\r\nhello\r0\r\n",
        ] {
            for size in [1, 3, 100] {
                let result = decode(bad.as_bytes(), size);
                assert!(matches!(result, Err(why) if why != "not complete"), "{bad:?} {result:?}");
            }
        }
        let long = format!("5;{}\r\nhello\r\n", "a".repeat(5000));
        assert_eq!(decode(long.as_bytes(), 4096), Err("chunk extensions are too long"));
    }

    #[test]
    fn framing_in_place_is_read_back() {
        for size in [1, 9, 15, 16, 255, 4096, crate::proxy::buffer::BUFFER_SIZE] {
            let body = vec![b'x'; size];
            let mut buffer = Buffer::copy_of(&body);
            assert!(frame(&mut buffer));
            let mut bytes = buffer.as_slice().to_vec();
            bytes.extend_from_slice(END);
            assert_eq!(decode(&bytes, bytes.len()), Ok((body, b"\r\n".to_vec())));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_input_panics(input: Vec<u8>, size in 1_usize..64) {
            let _ = decode(&input, size);
        }

        #[test]
        fn what_is_encoded_decodes(chunks: Vec<proptest::collection::SizeRange>, seed: u8) {
            let mut bytes = Vec::new();
            let mut expected = Vec::new();
            for (index, _) in chunks.iter().enumerate() {
                let body = vec![seed.wrapping_add(index as u8); index * 7 + 1];
                let mut buffer = Buffer::copy_of(&body);
                proptest::prop_assert!(frame(&mut buffer));
                bytes.extend_from_slice(buffer.as_slice());
                expected.extend_from_slice(&body);
            }
            bytes.extend_from_slice(END);
            proptest::prop_assert_eq!(decode(&bytes, 5), Ok((expected, b"\r\n".to_vec())));
        }
    }
}
