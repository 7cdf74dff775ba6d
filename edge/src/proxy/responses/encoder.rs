//! Content codings as streams: bytes in, coded bytes out, and a flush after which everything that went in can be decoded.
//!
//! What an encoder holds is bounded by its settings, and how many there are at once on a worker by [`MOST_MEMORY`]: windows
//! are small, since a proxy has many bodies at once and most are short. Levels are those at which a core still codes some
//! hundred megabytes in a second. Standards: RFC 1952, RFC 7932, RFC 8878 (whose window must not exceed 8 MB).

use std::cell::Cell;
use std::io::{self, Write};

use brotli::CompressorWriter;
use brotli::enc::BrotliEncoderParams;
use edge_config::policy::Coding;
use flate2::write::GzEncoder;

/// Of all encoders of one worker together; a body that would need more is sent as it is.
const MOST_MEMORY: usize = 64 << 20;

const GZIP_LEVEL: u32 = 5;
const BROTLI_QUALITY: i32 = 4;
/// Window, as a power of two.
const BROTLI_WINDOW: i32 = 18;
const ZSTD_LEVEL: i32 = 3;
/// Window and tables, as powers of two.
const ZSTD_WINDOW: u32 = 18;
const ZSTD_TABLES: u32 = 16;
/// What brotli gathers before it writes.
const GATHERED: usize = 4 << 10;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// About what one holds while it works, by the sizes of its windows and tables.
fn cost(coding: Coding) -> usize {
    match coding {
        Coding::Gzip => 320 << 10,
        Coding::Brotli => 1536 << 10,
        Coding::Zstd => 1280 << 10,
    }
}

/// One body on its way.
pub struct Encoder {
    inner: Inner,
    _place: Place,
}

enum Inner {
    Gzip(GzEncoder<Vec<u8>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

/// Memory that is counted as long as this lives.
struct Place(usize);

impl Place {
    fn take(coding: Coding) -> Option<Self> {
        let wanted = cost(coding);
        let held = HELD.get() + wanted;
        (held <= MOST_MEMORY).then(|| {
            HELD.set(held);
            Self(wanted)
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // At thread exit nobody counts any more.
        let _ = HELD.try_with(|held| held.set(held.get().saturating_sub(self.0)));
    }
}

impl Encoder {
    /// `None`: there is no memory for one more.
    pub fn new(coding: Coding) -> Option<Self> {
        let place = Place::take(coding)?;
        let out = Vec::new();
        let inner = match coding {
            Coding::Gzip => Inner::Gzip(GzEncoder::new(out, flate2::Compression::new(GZIP_LEVEL))),
            Coding::Brotli => {
                let params = BrotliEncoderParams {
                    quality: BROTLI_QUALITY,
                    lgwin: BROTLI_WINDOW,
                    ..BrotliEncoderParams::default()
                };
                Inner::Brotli(Box::new(CompressorWriter::with_params(out, GATHERED, &params)))
            }
            Coding::Zstd => Inner::Zstd(zstd_encoder(out).ok()?),
        };
        Some(Self { inner, _place: place })
    }

    /// Takes bytes in.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.inner {
            Inner::Gzip(encoder) => encoder.write_all(bytes),
            Inner::Brotli(encoder) => encoder.write_all(bytes),
            Inner::Zstd(encoder) => encoder.write_all(bytes),
        }
    }

    /// Makes what went in decodable from what is out.
    pub fn flush(&mut self) -> io::Result<()> {
        match &mut self.inner {
            Inner::Gzip(encoder) => encoder.flush(),
            Inner::Brotli(encoder) => encoder.flush(),
            Inner::Zstd(encoder) => encoder.flush(),
        }
    }

    /// What has come out since it was last taken; to be cleared by who has seen to it.
    pub fn out(&mut self) -> &mut Vec<u8> {
        match &mut self.inner {
            Inner::Gzip(encoder) => encoder.get_mut(),
            Inner::Brotli(encoder) => encoder.get_mut(),
            Inner::Zstd(encoder) => encoder.get_mut(),
        }
    }

    /// Ends the body; gives what had not been taken.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        match self.inner {
            Inner::Gzip(encoder) => encoder.finish(),
            Inner::Brotli(encoder) => Ok(encoder.into_inner()),
            Inner::Zstd(encoder) => encoder.finish(),
        }
    }
}

fn zstd_encoder(out: Vec<u8>) -> io::Result<zstd::stream::write::Encoder<'static, Vec<u8>>> {
    use zstd::zstd_safe::CParameter::{ChainLog, HashLog, WindowLog};
    let mut encoder = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?;
    for parameter in [WindowLog(ZSTD_WINDOW), HashLog(ZSTD_TABLES), ChainLog(ZSTD_TABLES)] {
        encoder.set_parameter(parameter)?;
    }
    Ok(encoder)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    fn decoded(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        match coding {
            Coding::Gzip => drop(flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).unwrap()),
            Coding::Brotli => drop(brotli::Decompressor::new(bytes, 4096).read_to_end(&mut plain).unwrap()),
            Coding::Zstd => plain = zstd::stream::decode_all(bytes).unwrap(),
        }
        plain
    }

    /// As far as it can be decoded, of a body that goes on.
    fn decoded_so_far(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        let _ = match coding {
            Coding::Gzip => flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain),
            Coding::Brotli => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut plain),
            Coding::Zstd => zstd::stream::read::Decoder::new(bytes).unwrap().read_to_end(&mut plain),
        };
        plain
    }

    #[test]
    fn what_is_flushed_can_be_read_at_once() {
        for coding in Coding::ALL {
            let mut encoder = Encoder::new(coding).unwrap();
            let (mut wire, mut plain) = (Vec::new(), Vec::new());
            for event in ["data: one\n\n", "data: two\n\n", "data: three\n\n"] {
                encoder.write(event.as_bytes()).unwrap();
                encoder.flush().unwrap();
                wire.append(encoder.out());
                plain.extend_from_slice(event.as_bytes());
                assert_eq!(decoded_so_far(coding, &wire), plain, "{coding:?}");
            }
            wire.extend_from_slice(&encoder.finish().unwrap());
            assert_eq!(decoded(coding, &wire), plain, "{coding:?}");
        }
    }

    #[test]
    fn memory_is_bounded_and_given_back() {
        for coding in Coding::ALL {
            let most = MOST_MEMORY / cost(coding);
            let mut all: Vec<Encoder> = Vec::new();
            for _ in 0..most {
                all.push(Encoder::new(coding).unwrap());
            }
            assert!(Encoder::new(coding).is_none(), "{coding:?}");
            all.pop();
            assert!(Encoder::new(coding).is_some(), "{coding:?}");
        }
    }

    #[test]
    fn text_gets_much_shorter() {
        let text = include_str!("encoder.rs").repeat(8);
        for coding in Coding::ALL {
            let mut encoder = Encoder::new(coding).unwrap();
            encoder.write(text.as_bytes()).unwrap();
            let coded = encoder.finish().unwrap();
            assert!(coded.len() * 10 < text.len(), "{coding:?}: {} of {}", coded.len(), text.len());
        }
    }

    fn body() -> impl Strategy<Value = Vec<u8>> {
        let text = "([a-z ]{0,40}<p>|\\{\"id\": [0-9]{1,5}\\},){0,400}".prop_map(String::into_bytes);
        prop_oneof![text, proptest::collection::vec(any::<u8>(), 0..5000), Just(Vec::new())]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_body_in_any_pieces_decodes_to_itself(
            body in body(),
            pieces in proptest::collection::vec((1usize..3000, any::<bool>()), 1..40),
        ) {
            for coding in Coding::ALL {
                let mut encoder = Encoder::new(coding).unwrap();
                let mut wire = Vec::new();
                let mut rest = &body[..];
                for (length, flushed) in pieces.iter().cycle() {
                    if rest.is_empty() {
                        break;
                    }
                    let (piece, after) = rest.split_at((*length).min(rest.len()));
                    encoder.write(piece).unwrap();
                    if *flushed {
                        encoder.flush().unwrap();
                        wire.append(encoder.out());
                    }
                    rest = after;
                }
                wire.extend_from_slice(&encoder.finish().unwrap());
                prop_assert_eq!(decoded(coding, &wire), body.clone());
            }
        }
    }
}
