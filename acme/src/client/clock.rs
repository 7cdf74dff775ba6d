//! What the clock of a CA says, for people whose own one is wrong.
//!
//! In: the `Date` of answers (RFC 9110 §6.6.1). Out: by how much the clock of this machine differs, also after it was
//! set in the meantime. Nothing is decided by it: whoever answers says it, and it is believed by nobody but readers.

use std::time::Duration;

use http::header::HeaderMap;
use tokio::time::Instant;

use super::wait::date;

/// So much differs on healthy machines that are slow or far away.
const USUAL: i64 = 300;
/// A machine that was suspended does not count that time here: later on only what is far off counts.
const LATER: i64 = 3600;
const FRESH: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(86_400);

/// When a CA said which time it has.
#[derive(Debug, Clone, Copy)]
pub struct CaClock {
    /// Unix seconds.
    date: i64,
    heard: Instant,
}

impl CaClock {
    /// `None`: the answer has no date.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        Some(Self { date: date(headers)?, heard: Instant::now() })
    }

    /// By how many seconds the CA's clock is ahead of ours at `now`, where that is more than usual.
    pub fn ahead(&self, now: i64) -> Option<i64> {
        self.ahead_after(self.heard.elapsed(), now)
    }

    fn ahead_after(&self, since: Duration, now: i64) -> Option<i64> {
        let passed = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        let ahead = self.date.saturating_add(passed).saturating_sub(now);
        let usual = if since < FRESH { USUAL } else { LATER };
        (since <= LONGEST && ahead.abs() > usual).then_some(ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_two_clocks_are_apart() {
        const NOW: i64 = 1_800_000_000;
        let clock = CaClock { date: NOW, heard: Instant::now() };
        for (passed, now, expected) in [
            (0, NOW, None),
            (0, NOW + 299, None),
            (0, NOW + 301, Some(-301)),
            (0, NOW - 301, Some(301)),
            // Steps of NTP.
            (30, NOW + 31, None),
            (3600, NOW + 3600, None),
            // A machine that slept for half an hour.
            (3600, NOW + 5400, None),
            (3600, NOW + 3600 + 60 * 86_400, Some(-60 * 86_400)),
            (3600, NOW + 3600 - 365 * 86_400, Some(365 * 86_400)),
            // It is long ago.
            (86_401, 0, None),
            (0, i64::MIN, Some(i64::MAX)),
        ] {
            assert_eq!(clock.ahead_after(Duration::from_secs(passed), now), expected, "{passed} {now}");
        }
    }
}
