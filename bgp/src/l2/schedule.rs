//! When an address is announced: a burst after it was taken, and again for as long as we have it.
//!
//! The first frame can be lost, and a Linux neighbour ignores a second one within its locktime of 1 s; hence the gaps.
//! The refresh heals neighbours that missed all of it or believed somebody else meanwhile.

use std::time::Duration;

const BURST: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(200),
    Duration::from_millis(1100),
    Duration::from_millis(2200),
    Duration::from_millis(3300),
];
/// Between announcements after the burst.
pub const REFRESH: Duration = Duration::from_secs(30);
/// A burst that was begun less than this ago needs no second one.
const FRESH: Duration = Duration::from_secs(1);

/// Of one address while we have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    begun: Duration,
    next_step: usize,
    next: Duration,
}

impl Schedule {
    /// The first announcement is due now.
    pub fn start(now: Duration) -> Self {
        Self { begun: now, next_step: 0, next: now }
    }

    /// Neighbours may have believed somebody else: begins a burst, unless one has just begun.
    pub fn again(&mut self, now: Duration) {
        if now >= self.begun + FRESH {
            *self = Self::start(now);
        }
    }

    /// When [`Schedule::is_due`] says so next.
    pub fn next(&self) -> Duration {
        self.next
    }

    /// Whether to announce now; what was missed by sleeping is not made up for.
    pub fn is_due(&mut self, now: Duration) -> bool {
        if now < self.next {
            return false;
        }
        while let Some(offset) = BURST.get(self.next_step) {
            self.next = self.begun + *offset;
            if self.next > now {
                return true;
            }
            self.next_step += 1;
        }
        self.next = now + REFRESH;
        true
    }
}
