//! One limit of one client as one number: the moment at which its bucket will be empty again (the generic cell rate
//! algorithm, ITU-T I.371). No I/O; the time is given.
//!
//! A bucket that is empty is the same as one that was never there, so forgetting it loses nothing. Many workers may take
//! from one at once: it is one atomic number, and what is taken is never taken twice.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Time as buckets know it: sixteenths of a nanosecond since the process began, so that a rate of ten million per second
/// is met within a hundredth, and thirty years fit.
pub type Tick = u64;

pub const TICKS_PER_SECOND: u64 = 16_000_000_000;

/// Two years: no bucket is fuller, whatever it was told. The longest window has one.
pub const MOST_DEBT: Tick = 2 * 366 * 86_400 * TICKS_PER_SECOND;

pub fn ticks(duration: Duration) -> Tick {
    u64::try_from(duration.as_nanos().saturating_mul(16)).unwrap_or(Tick::MAX)
}

pub fn duration(ticks: Tick) -> Duration {
    Duration::from_nanos(ticks.div_ceil(16))
}

/// A rate in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Of one request. `None`: nothing passes.
    each: Option<Tick>,
    /// How full a bucket may be for one more.
    tolerance: Tick,
}

impl Pace {
    /// So many in so long evenly, and `burst` more at once.
    pub fn new(requests: u32, per: Duration, burst: u32) -> Self {
        let each = ticks(per).checked_div(u64::from(requests)).map(|each| each.max(1));
        Self { each, tolerance: each.unwrap_or(0).saturating_mul(u64::from(burst)) }
    }

    /// The part that `present` of `all` edges have; one request always fits into an empty bucket.
    pub fn part(self, present: u32, all: u32) -> Self {
        let (present, all) = (u128::from(present.max(1)), u128::from(all.max(1)));
        if present >= all {
            return self;
        }
        let Some(each) = self.each else { return self };
        // The window stays as long: fewer fit, each taking more of it.
        let window = self.tolerance.saturating_add(each);
        let larger = u64::try_from(u128::from(each) * all / present).unwrap_or(Tick::MAX);
        Self { each: Some(larger), tolerance: window.saturating_sub(larger) }
    }

    pub fn cost(&self, count: u64) -> Tick {
        self.each.unwrap_or(0).saturating_mul(count)
    }

    /// Requests that are due in so long, rounded down.
    fn count(&self, ticks: Tick) -> u64 {
        self.each.and_then(|each| ticks.checked_div(each)).unwrap_or(0)
    }
}

/// What is left after a request that fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Requests that would fit now.
    pub left: u64,
    /// Until the bucket is empty.
    pub reset: Duration,
    /// Requests before this one that are not due yet, rounded down, and until this one is.
    pub ahead: u64,
    pub due: Duration,
    /// What was taken, to be given back.
    pub ticks: Tick,
}

/// Nothing was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Until the same would fit; `None`: never.
    pub retry: Option<Duration>,
    pub reset: Duration,
}

/// Takes room for `count` requests. A count of 0 looks only whether one more would fit.
pub fn take(bucket: &AtomicU64, pace: Pace, count: u64, now: Tick) -> Result<Taken, Refused> {
    let mut known = bucket.load(Relaxed);
    loop {
        let full = known.saturating_sub(now);
        if pace.each.is_none() {
            return Err(Refused { retry: None, reset: duration(full) });
        }
        let ticks = pace.cost(count);
        // As if the last of them came alone.
        let before = full.saturating_add(pace.cost(count.saturating_sub(1)));
        if before > pace.tolerance {
            let more = before - pace.tolerance;
            let ever = pace.cost(count.saturating_sub(1)) <= pace.tolerance;
            return Err(Refused { retry: ever.then(|| duration(more)), reset: duration(full) });
        }
        let after = full.saturating_add(ticks);
        let taken = Taken {
            left: (pace.tolerance.saturating_add(pace.cost(1))).checked_sub(after).map_or(0, |room| pace.count(room)),
            reset: duration(after),
            ahead: pace.count(full),
            due: duration(full),
            ticks,
        };
        if ticks == 0 {
            return Ok(taken);
        }
        match bucket.compare_exchange_weak(known, now.saturating_add(after), Relaxed, Relaxed) {
            Ok(_) => return Ok(taken),
            Err(newer) => known = newer,
        }
    }
}

/// Takes without asking whether it fits; what is too much is owed, up to `most` from now.
pub fn charge(bucket: &AtomicU64, ticks: Tick, most: Tick, now: Tick) -> Tick {
    let mut charged = 0;
    let _ = bucket.fetch_update(Relaxed, Relaxed, |known| {
        let full = known.saturating_sub(now);
        let after = full.saturating_add(ticks).min(full.max(most.min(MOST_DEBT)));
        charged = after - full;
        Some(now.saturating_add(after))
    });
    charged
}

/// Makes it at least so full: what another edge knows of it.
pub fn raise(bucket: &AtomicU64, full: Tick, now: Tick) {
    bucket.fetch_max(now.saturating_add(full.min(MOST_DEBT)), Relaxed);
}

/// For what was taken and then not used.
pub fn give_back(bucket: &AtomicU64, ticks: Tick) {
    let _ = bucket.fetch_update(Relaxed, Relaxed, |known| Some(known.saturating_sub(ticks)));
}

/// Takes part of a stream, which has to wait so long for it. `rate`: per second; what was not used for `burst` may be made
/// up for.
pub fn stream(bucket: &AtomicU64, bytes: u64, rate: u64, burst: Duration, now: Tick) -> Duration {
    let ticks = u128::from(bytes) * u128::from(TICKS_PER_SECOND) / u128::from(rate.max(1));
    let ticks = u64::try_from(ticks).unwrap_or(Tick::MAX);
    let mut full = 0;
    let _ = bucket.fetch_update(Relaxed, Relaxed, |known| {
        full = known.saturating_sub(now);
        Some(now.saturating_add(full.saturating_add(ticks).min(MOST_DEBT)))
    });
    duration(full.saturating_add(ticks).saturating_sub(self::ticks(burst)))
}

#[cfg(test)]
#[path = "bucket_tests.rs"]
mod tests;
