//! Admission by success: the more of the requests before it failed, the more likely a request is refused, so that a
//! backend in trouble gets fewer of them. Envoy's formula; the window is counted in sixteenths.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use edge_config::policy::protection::Admission;

use super::bucket::{Tick, ticks};

const PARTS: u64 = 16;

/// Successes and all, of the last window.
#[derive(Debug)]
pub struct Sample {
    window: Duration,
    /// One look or note in each request that has such a policy: a short lock, which is hardly ever waited for.
    parts: Mutex<[Part; PARTS as usize]>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Part {
    /// Which part of time it is about.
    number: u64,
    all: u32,
    good: u32,
}

impl Sample {
    pub fn new(window: Duration) -> Self {
        Self { window, parts: Mutex::default() }
    }

    pub fn window(&self) -> Duration {
        self.window
    }

    fn number(&self, now: Tick) -> u64 {
        now / (ticks(self.window) / PARTS).max(1)
    }

    pub fn note(&self, is_good: bool, now: Tick) {
        let number = self.number(now);
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(part) = parts.get_mut((number % PARTS) as usize) else { return };
        if part.number != number {
            *part = Part { number, ..Part::default() };
        }
        part.all = part.all.saturating_add(1);
        part.good = part.good.saturating_add(u32::from(is_good));
    }

    fn counts(&self, now: Tick) -> (u64, u64) {
        let number = self.number(now);
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = parts.iter().filter(|part| part.number + PARTS > number && part.number <= number);
        recent.fold((0, 0), |(all, good), part| (all + u64::from(part.all), good + u64::from(part.good)))
    }

    /// How likely the next request is to be refused, in 2³²ths.
    pub fn refusal(&self, policy: &Admission, now: Tick) -> u32 {
        let (all, good) = self.counts(now);
        if all < u64::from(policy.min_rate).saturating_mul(self.window.as_secs()) || all == 0 {
            return 0;
        }
        let expected = good as f64 * 100.0 / f64::from(policy.min_success.max(1));
        let share = ((all as f64 - expected) / (all as f64 + 1.0)).max(0.0);
        let share = share.powf(1.0 / f64::from(policy.aggression.max(1)));
        let share = share.min(f64::from(policy.most_refused) / 100.0);
        (share * f64::from(u32::MAX)) as u32
    }
}

/// Whether an answer is a success.
pub fn is_good(policy: &Admission, status: u16, grpc: Option<u8>) -> bool {
    if let Some(code) = grpc {
        return policy.grpc_codes.contains(&code);
    }
    if policy.statuses.is_empty() { status < 500 } else { policy.statuses.contains(&status) }
}

#[cfg(test)]
mod tests {
    use super::super::bucket::TICKS_PER_SECOND;
    use super::*;
    use edge_config::names::{Kind, ObjectKey, ObjectRef};

    fn policy(min_success: u8, aggression: u32, min_rate: u32) -> Admission {
        Admission {
            name: ObjectRef::new(Kind::BackendTrafficPolicy, ObjectKey::new("shop", "a")),
            digest: 1,
            window: Duration::from_secs(10),
            min_success,
            aggression,
            min_rate,
            most_refused: 80,
            statuses: Vec::new(),
            grpc_codes: vec![0, 5],
        }
    }

    fn per_cent(share: u32) -> u64 {
        (u64::from(share) * 100 + (1 << 31)) >> 32
    }

    #[test]
    fn the_more_fails_the_more_is_refused() {
        let start = 1000 * TICKS_PER_SECOND;
        for (good, all, policy, expected) in [
            (0, 0, policy(95, 1, 0), 0),
            (100, 100, policy(95, 1, 0), 0),
            (95, 100, policy(95, 1, 0), 0),
            (50, 100, policy(95, 1, 0), 47),
            (50, 100, policy(100, 1, 0), 50),
            (50, 100, policy(100, 2, 0), 70),
            (0, 1000, policy(95, 1, 0), 80),
            (0, 99, policy(95, 1, 10), 0),
            (0, 100, policy(95, 1, 10), 80),
        ] {
            let sample = Sample::new(policy.window);
            (0..all).for_each(|number| sample.note(number < good, start));
            assert_eq!(per_cent(sample.refusal(&policy, start)), expected, "{good} of {all}");
            // After the window nobody remembers.
            assert_eq!(sample.refusal(&policy, start + 11 * TICKS_PER_SECOND), 0);
        }
    }

    #[test]
    fn the_window_moves_in_parts() {
        let (policy, sample) = (policy(100, 1, 0), Sample::new(Duration::from_secs(16)));
        for second in 0..64 {
            sample.note(second >= 32, (1000 + second) * TICKS_PER_SECOND);
        }
        assert_eq!(sample.refusal(&policy, 1063 * TICKS_PER_SECOND), 0);
        assert_eq!(sample.counts(1063 * TICKS_PER_SECOND), (16, 16));
    }

    #[test]
    fn what_counts_as_success() {
        let mut policy = policy(95, 1, 0);
        let good = |policy: &Admission| [200, 404, 500, 503].map(|status| is_good(policy, status, None));
        assert_eq!(good(&policy), [true, true, false, false]);
        policy.statuses = vec![200, 503];
        assert_eq!(good(&policy), [true, false, false, true]);
        assert_eq!([0, 5, 14].map(|code| is_good(&policy, 200, Some(code))), [true, true, false]);
    }
}
