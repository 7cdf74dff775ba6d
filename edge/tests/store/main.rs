//! The store against the world: processes that die, disks that lose power or fill up, files that rot.
//!
//! The writer is this same test program, started again as a child; what it has acknowledged on its standard output must
//! be found by whoever opens the directory next.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

mod child;
mod disk_full;
mod kill;
mod power_loss;
mod replay;
mod rot;

/// A skipped test must be seen by people; CI has root and strace.
fn skip(test: &str, why: &str) {
    eprintln!("SKIPPED {test}: {why}");
}

/// xorshift64*: tests need variety that can be repeated, not randomness.
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
}
