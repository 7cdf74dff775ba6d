//! The Huffman code of HPACK (RFC 7541 §5.2 and appendix B), to be read only: what we write is short-lived and plain.
//!
//! The code is canonical: within a length, codes count up with the symbols, so that the lengths alone define it.

/// Bits of each symbol's code; the last is EOS.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26, 30,
];
const EOS: u16 = 256;
const LONGEST: usize = 30;
/// Codes up to this many bits, which is nearly all text, are looked up at once.
const QUICK: usize = 9;

struct Code {
    /// By the next [`QUICK`] bits: symbol and length, or length 0 where the code is longer.
    quick: [(u8, u8); 1 << QUICK],
    /// Per length: the first code, and where its symbols begin in `symbols`.
    first: [u32; LONGEST + 1],
    start: [u16; LONGEST + 2],
    symbols: [u16; 257],
}

static CODE: Code = build();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which would stop at a wrong index")]
const fn build() -> Code {
    let mut code =
        Code { quick: [(0, 0); 1 << QUICK], first: [0; LONGEST + 1], start: [0; LONGEST + 2], symbols: [0; 257] };
    let (mut next, mut place, mut length) = (0_u32, 0_usize, 1_usize);
    while length <= LONGEST {
        next <<= 1;
        code.first[length] = next;
        code.start[length] = place as u16;
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == length {
                code.symbols[place] = symbol as u16;
                if length <= QUICK {
                    let mut at = (next as usize) << (QUICK - length);
                    let end = at + (1 << (QUICK - length));
                    while at < end {
                        code.quick[at] = (symbol as u8, length as u8);
                        at += 1;
                    }
                }
                place += 1;
                next += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    code.start[LONGEST + 1] = place as u16;
    code
}

/// Appends the text behind `bytes`. An error is one of RFC 7541 §5.2: EOS inside, or padding that is not a short EOS.
pub fn decode(bytes: &[u8], into: &mut Vec<u8>) -> Result<(), &'static str> {
    // The next bits, left-aligned; `held` of them are real.
    let (mut bits, mut held) = (0_u64, 0_usize);
    let mut rest = bytes.iter();
    loop {
        while held <= 56 {
            let Some(byte) = rest.next() else { break };
            bits |= u64::from(*byte) << (56 - held);
            held += 8;
        }
        if held == 0 {
            return Ok(());
        }
        let (symbol, length) = CODE.quick.get((bits >> (64 - QUICK)) as usize).copied().unwrap_or_default();
        if length > 0 && usize::from(length) <= held {
            into.push(symbol);
            bits <<= length;
            held -= usize::from(length);
            continue;
        }
        match long(bits).filter(|(_, length)| length > &QUICK && *length <= held) {
            Some((EOS, _)) => return Err("EOS inside a Huffman string"),
            Some((symbol, length)) => {
                into.push(symbol as u8);
                bits <<= length;
                held -= length;
            }
            // Padding: at most seven bits, all of them ones.
            None if held < 8 && bits >> (64 - held) == (1 << held) - 1 => return Ok(()),
            None => return Err("bad padding of a Huffman string"),
        }
    }
}

/// The symbol at the front, whatever its length.
fn long(bits: u64) -> Option<(u16, usize)> {
    (QUICK + 1..=LONGEST).find_map(|length| {
        let code = (bits >> (64 - length)) as u32;
        let offset = code.checked_sub(*CODE.first.get(length)?)?;
        let place = u32::from(*CODE.start.get(length)?) + offset;
        if place >= u32::from(*CODE.start.get(length + 1)?) {
            return None;
        }
        Some((*CODE.symbols.get(place as usize)?, length))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> Result<String, &'static str> {
        let mut into = Vec::new();
        decode(bytes, &mut into).map(|()| String::from_utf8_lossy(&into).into_owned())
    }

    /// The strings of RFC 7541 appendix C.
    #[test]
    fn examples_of_the_specification() {
        for (hex, expected) in [
            ("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"),
            ("a8eb10649cbf", "no-cache"),
            ("25a849e95ba97d7f", "custom-key"),
            ("25a849e95bb8e8b4bf", "custom-value"),
            ("6402", "302"),
            ("aec3771a4b", "private"),
            ("d07abe941054d444a8200595040b8166e082a62d1bff", "Mon, 21 Oct 2013 20:13:21 GMT"),
            ("9d29ad171863c78f0b97c8e9ae82ae43d3", "https://www.example.com"),
            (
                "94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
                "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
            ),
        ] {
            let bytes: Vec<u8> =
                (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
            assert_eq!(text(&bytes).as_deref(), Ok(expected));
        }
    }

    /// Every symbol by itself, padded with ones.
    #[test]
    fn every_symbol_is_read_back() {
        for symbol in 0..256_usize {
            let place = (0..257).find(|place| usize::from(CODE.symbols[*place]) == symbol).unwrap();
            let length = usize::from(LENGTHS[symbol]);
            let code = u64::from(CODE.first[length]) + (place as u64 - u64::from(CODE.start[length]));
            let bits = (code << (64 - length)) | (u64::MAX >> length);
            let bytes = bits.to_be_bytes();
            assert_eq!(text(&bytes[..length.div_ceil(8)]).map(|_| ()), Ok(()), "{symbol}");
            let mut into = Vec::new();
            decode(&bytes[..length.div_ceil(8)], &mut into).unwrap();
            assert_eq!(into, [symbol as u8]);
        }
    }

    #[test]
    fn what_is_no_string_is_refused() {
        for bytes in [&[0xff, 0xff, 0xff, 0xff][..], &[0xff], &[0x1f, 0xff], &[0x18], &[0xff, 0xff, 0xff, 0xfc]] {
            assert!(text(bytes).is_err(), "{bytes:x?}");
        }
    }
}
