//! What must hold for every input, as functions of bytes: the fuzz targets (`edge/fuzz`) call them without end, the tests
//! with the corpus and a fixed number of mutations of it. Compiled for those two only; nothing of it is in a program.
//!
//! In flow bytes of a foreign peer; out comes nothing, or a panic that says what does not hold. HTTP/1 is judged by the
//! [`reference`] reader, TLS by rustls.
#![allow(clippy::unwrap_used, clippy::panic)] // a finding is a panic

pub mod backends;
pub mod forwarder;
pub mod http2;
mod parts;
pub mod reference;
#[cfg(test)]
mod tests;

/// Panics where something does not hold.
pub type Target = fn(&[u8]);

/// Every target by its name, which is that of its corpus and of its program in `edge/fuzz`.
pub const TARGETS: &[(&str, Target)] = &[
    ("request_head", parts::request_head),
    ("response_head", parts::response_head),
    ("chunked", parts::chunked),
    ("request_target", parts::request_target),
    ("client_hello", parts::client_hello),
    ("proxy_header", parts::proxy_header),
    ("requests", forwarder::requests),
    ("responses", forwarder::responses),
    ("h2_streams", http2::streams),
    ("h2_frames", http2::frames),
];

/// Runs a target by its name.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    target.unwrap_or_else(|| panic!("no target {name}")).1(input);
}

/// A small generator: the same seed gives the same numbers everywhere (xorshift64*).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// Seeded by the input, so that what a run does is a function of the input alone (FNV-1a).
    pub fn of(input: &[u8]) -> Self {
        let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        Self::new(input.iter().fold(0xcbf2_9ce4_8422_2325, hash))
    }

    /// Below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    /// Cuts an input into pieces: whole, byte by byte, or at random.
    pub fn split<'a>(&mut self, input: &'a [u8]) -> Vec<&'a [u8]> {
        let most = match self.below(4) {
            0 => input.len().max(1),
            1 => 1,
            2 => 7,
            _ => 200,
        };
        let (mut pieces, mut rest) = (Vec::new(), input);
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((1 + self.below(most)).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces
    }
}
