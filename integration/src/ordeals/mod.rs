//! What an edge must live through: deaths at any moment, and everything that goes wrong in a data centre, one after the
//! other in an order that a seed decides.
//!
//! Flows in: how often or how long, and a seed. Flows out: [`Findings`](crate::trials::Findings), a line per promise. The
//! same ordeals run for seconds in `tests/ordeals.rs` and for hours in `make ordeals`.

#![allow(clippy::panic, clippy::unwrap_used)]

pub mod kills;
pub mod storm;

/// xorshift64*: variety that can be repeated.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit.max(1)
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let index = usize::try_from(self.below(of.len() as u64)).unwrap_or_default();
        of.get(index).expect("below the length")
    }
}
