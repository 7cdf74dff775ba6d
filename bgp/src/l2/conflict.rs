//! Who else claims an address that is ours at the moment, and when to contradict (RFC 5227 §2.4).
//!
//! Another edge that takes over claims the address too, an instant before or after we let it go; so a claim counts only
//! if we still have the address a little later. We never give way to a stranger: that would be a way to take a VIP from
//! everybody. It is reported, and contradicted at most every ten seconds (§2.4, the third way).

use std::collections::BTreeMap;
use std::time::Duration;

use super::Mac;

const CONFIRM: Duration = Duration::from_millis(500);
/// RFC 5227 §1.1 DEFEND_INTERVAL.
const DEFEND: Duration = Duration::from_secs(10);
/// A claim that was not repeated for three refreshes is over.
const FORGET: Duration = Duration::from_secs(90);
/// Claimants that are remembered of one address.
const MOST: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict {
    pub mac: Mac,
    pub first: Duration,
    pub last: Duration,
    pub claims: u64,
}

/// Of one address, while we have it.
#[derive(Debug, Clone, Default)]
pub struct Conflicts {
    seen: BTreeMap<Mac, Conflict>,
    defended: Option<Duration>,
    is_pending: bool,
}

impl Conflicts {
    /// Somebody with another MAC than ours claims the address.
    pub fn claimed(&mut self, now: Duration, mac: Mac) {
        self.forget(now);
        if self.seen.len() >= MOST && !self.seen.contains_key(&mac) {
            return;
        }
        let conflict = self.seen.entry(mac).or_insert(Conflict { mac, first: now, last: now, claims: 0 });
        conflict.last = now;
        conflict.claims += 1;
        self.is_pending = true;
    }

    /// When [`Conflicts::defend`] may have something to say.
    pub fn next(&self) -> Option<Duration> {
        let pending = self.is_pending.then(|| {
            let confirmed = self.seen.values().map(|conflict| conflict.first).min().unwrap_or_default() + CONFIRM;
            self.defended.map_or(confirmed, |last| confirmed.max(last + DEFEND))
        });
        let over = self.seen.values().map(|conflict| conflict.last + FORGET).min();
        pending.into_iter().chain(over).min()
    }

    /// Whether to announce the address against a claim now.
    pub fn defend(&mut self, now: Duration) -> bool {
        self.forget(now);
        let is_due = self.is_pending
            && self.seen.values().any(|conflict| conflict.first + CONFIRM <= now)
            && self.defended.is_none_or(|last| last + DEFEND <= now);
        if is_due {
            self.defended = Some(now);
            self.is_pending = false;
        }
        is_due
    }

    /// Those that lasted, in the order of their MACs.
    pub fn confirmed(&self, now: Duration) -> impl Iterator<Item = &Conflict> {
        self.seen.values().filter(move |conflict| conflict.first + CONFIRM <= now)
    }

    fn forget(&mut self, now: Duration) {
        self.seen.retain(|_, conflict| conflict.last + FORGET > now);
        self.is_pending &= !self.seen.is_empty();
    }
}
