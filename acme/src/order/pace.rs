//! When to look at an order next.

use std::time::Duration;

use crate::client::{Answer, now};
use crate::failure::OrderError;

/// Most validations are over in milliseconds in a laboratory and in two seconds at a public CA.
const FIRST_POLL: Duration = Duration::from_millis(10);
const SLOWEST_POLL: Duration = Duration::from_secs(3);
/// After a poll that failed, and twice that after the next.
const FAILED_POLL: Duration = Duration::from_millis(300);
/// So many failed polls in a row are waited out; then the CA is left alone for a while.
pub(super) const FAILED_POLLS: u32 = 4;

/// When to look next: quickly, then ever more slowly, and not before the CA wants.
pub(super) struct Pace {
    wait: Duration,
    pub until: Option<i64>,
    pub last: Option<OrderError>,
    /// In a row.
    pub failures: u32,
}

impl Pace {
    pub fn new() -> Self {
        Self { wait: FIRST_POLL, until: None, last: None, failures: 0 }
    }

    pub fn failed(&mut self, error: &OrderError) {
        self.until = error.until;
        self.last = Some(error.clone());
        self.failures += 1;
    }

    pub fn note(&mut self, answer: Option<&Answer>) {
        self.until = answer.and_then(|answer| answer.retry_after(now()));
        self.last = None;
        self.failures = 0;
    }

    pub fn next(&mut self) -> Duration {
        let asked = self.until.map_or(0, |until| u64::try_from(until - now()).unwrap_or(0));
        // After an error there is no hurry.
        let floor = match self.failures {
            0 => Duration::ZERO,
            failures => (FAILED_POLL * (1 << (failures - 1).min(10))).min(SLOWEST_POLL),
        };
        let wait = self.wait.max(floor).max(Duration::from_secs(asked));
        self.wait = (self.wait * 8 / 5).min(SLOWEST_POLL);
        wait
    }

    pub fn is_slow(&self) -> bool {
        self.wait >= Duration::from_secs(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_are_quick_at_first_and_obey_the_ca() {
        let mut pace = Pace::new();
        let waits: Vec<u128> = (0..14).map(|_| pace.next().as_millis()).collect();
        assert_eq!((waits[0], waits[1], *waits.last().unwrap()), (10, 16, 3000));
        pace.until = Some(now() + 30);
        assert!(pace.next() >= Duration::from_secs(29));
    }
}
