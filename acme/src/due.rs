//! When a certificate is due for renewal, and when a failed attempt may be repeated.
//!
//! In: validity, the wanted lead time, a name. Out: Unix seconds. Spread comes from a hash of the name, not from
//! randomness: the same certificate has the same due date after every restart, and a thousand certificates that were
//! made in one second are not renewed in one second.

use std::time::Duration;

/// The time in which a certificate holds, in Unix seconds, both ends included (RFC 5280 §4.1.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before: i64,
    pub not_after: i64,
}

impl Validity {
    pub fn lifetime(self) -> i64 {
        self.not_after.saturating_sub(self.not_before).max(0)
    }

    pub fn holds_at(self, now: i64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

/// When to renew. `renew_before` is honoured to the second or exceeded: the spread only ever goes to the earlier side,
/// by at most a tenth of the time from issuance. A lead time that the lifetime does not even have (a CA that ended
/// sooner cut it, or the user asked for more) falls back to two thirds of the lifetime.
pub fn renewal_due(validity: Validity, renew_before: Duration, name: &str) -> i64 {
    let lifetime = validity.lifetime();
    let lead = seconds(renew_before);
    let age = if lead >= lifetime { lifetime - lifetime / 3 } else { lifetime - lead };
    let spread = age / 10;
    let early = scaled(spread, fraction(name, validity.not_before));
    validity.not_before.saturating_add(age - early)
}

/// When a certificate of an ACME CA is to be renewed: within the window that the CA suggests (RFC 9773 §4.2), where it
/// suggests one; else `renew_before` ahead of its end; else, when nobody said that or when it would take two thirds and
/// more of the lifetime, with a third of the lifetime left. Never after [`emergency_at`], whatever the window says.
pub fn acme_due(validity: Validity, window: Option<(i64, i64)>, renew_before: Duration, name: &str) -> i64 {
    let due = match window {
        Some((start, end)) => {
            let length = end.saturating_sub(start).max(0);
            start.saturating_add(scaled(length, fraction(name, validity.not_before)))
        }
        None => {
            let lifetime = validity.lifetime();
            let said = !renew_before.is_zero() && seconds(renew_before) < lifetime - lifetime / 3;
            let lead = if said { renew_before } else { Duration::from_secs((lifetime / 3).unsigned_abs()) };
            renewal_due(validity, lead, name)
        }
    };
    due.min(emergency_at(validity))
}

/// From here on nothing but the CA's own word holds a renewal up: a twentieth of the lifetime is left.
pub fn emergency_at(validity: Validity) -> i64 {
    validity.not_after.saturating_sub(validity.lifetime() / 20)
}

/// First wait after a failure; doubled with each further one.
const FIRST_WAIT: i64 = 5;
const LONGEST_WAIT: i64 = 3600;

/// When to try again after `failures` failures in a row, the last one at `last_try`: 5 s, 10 s, 20 s … 1 h, each
/// stretched by up to a fifth.
pub fn retry_due(failures: u32, last_try: i64, name: &str) -> i64 {
    if failures == 0 {
        return last_try;
    }
    let doublings = (failures - 1).min(20);
    let wait = (FIRST_WAIT << doublings).min(LONGEST_WAIT);
    last_try.saturating_add(wait + scaled(wait / 5, fraction(name, last_try)))
}

pub(crate) fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// A part of `whole` that depends on name and salt only.
pub(crate) fn part_of(whole: i64, name: &str, salt: i64) -> i64 {
    scaled(whole, fraction(name, salt))
}

/// A number in 0..2^32 that depends on nothing but its arguments (FNV-1a, then a finalizer against its weak high bits).
fn fraction(name: &str, salt: i64) -> u32 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in name.bytes().chain(salt.to_be_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    (hash >> 32) as u32
}

/// `part / 2^32` of `whole`.
fn scaled(whole: i64, part: u32) -> i64 {
    ((i128::from(whole) * i128::from(part)) >> 32) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn days(number: i64) -> Duration {
        Duration::from_secs((number * DAY) as u64)
    }

    #[test]
    fn due_dates() {
        // (lifetime, renew_before, earliest, latest), all in days from issuance.
        for (lifetime, before, earliest, latest) in [
            (90, 30, 54, 60),
            (90, 1, 80, 89),
            (6, 2, 3, 4),
            // No room for the lead time: two thirds of the lifetime.
            (90, 90, 54, 60),
            (90, 4000, 54, 60),
            (3650, 30, 3258, 3620),
        ] {
            for name in ["a/b", "shop/cart-tls", ""] {
                let validity = Validity { not_before: 1_000, not_after: 1_000 + lifetime * DAY };
                let due = renewal_due(validity, days(before), name) - 1_000;
                assert!((earliest * DAY..=latest * DAY).contains(&due), "{lifetime} {before} {name:?}: {due}");
            }
        }
    }

    #[test]
    fn degenerate_validities_are_due_at_once() {
        for (not_before, not_after) in [(10, 10), (10, 5), (i64::MAX, i64::MIN)] {
            let validity = Validity { not_before, not_after };
            assert_eq!(renewal_due(validity, days(30), "x"), not_before);
        }
    }

    #[test]
    fn a_thousand_of_one_second_are_spread() {
        let validity = Validity { not_before: 0, not_after: 90 * DAY };
        let mut per_hour = std::collections::BTreeMap::<i64, u32>::new();
        for number in 0..1000 {
            let due = renewal_due(validity, days(30), &format!("shop/cert-{number}"));
            *per_hour.entry(due / 3600).or_default() += 1;
        }
        assert!(per_hour.len() > 100, "{} hours", per_hour.len());
        assert!(per_hour.values().all(|count| *count < 30), "{per_hour:?}");
    }

    #[test]
    fn waits_grow_to_an_hour() {
        for (failures, shortest, longest) in
            [(0, 0, 0), (1, 5, 6), (2, 10, 12), (3, 20, 24), (10, 2560, 3072), (11, 3600, 4320), (u32::MAX, 3600, 4320)]
        {
            let wait = retry_due(failures, 1_000, "a/b") - 1_000;
            assert!((shortest..=longest).contains(&wait), "{failures}: {wait}");
        }
    }
}
