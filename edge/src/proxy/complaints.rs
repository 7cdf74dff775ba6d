//! Faults that others cause, told now and then: whoever can make us write a line can make us write a million.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Between two lines about the same.
const INTERVAL: Duration = Duration::from_secs(10);

/// Lets one of many like events be told per interval.
#[derive(Debug, Default)]
pub struct Complaints {
    told: Cell<Option<Instant>>,
    since: Cell<u64>,
}

impl Complaints {
    /// Whether this one is to be told, with how many were not since the last.
    pub fn note(&self, now: Instant) -> Option<u64> {
        if self.told.get().is_some_and(|told| now.saturating_duration_since(told) < INTERVAL) {
            self.since.set(self.since.get().saturating_add(1));
            return None;
        }
        self.told.set(Some(now));
        Some(self.since.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_complaint_per_interval() {
        let (complaints, start) = (Complaints::default(), Instant::now());
        assert_eq!(complaints.note(start), Some(0));
        for _ in 0..5 {
            assert_eq!(complaints.note(start + INTERVAL / 2), None);
        }
        assert_eq!(complaints.note(start + INTERVAL), Some(5));
        assert_eq!(complaints.note(start + INTERVAL), None);
        assert_eq!(complaints.note(start + INTERVAL * 2), Some(1));
    }
}
