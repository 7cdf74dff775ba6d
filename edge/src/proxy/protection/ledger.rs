//! What all workers count together, and what is told to and learned from the other edges of a fleet.
//!
//! On the request path there are atomic numbers, found in tables ([`table`](super::table)) or in what a worker keeps of
//! them ([`Near`]). Limits with the reach of the fleet are counted here as if there were no other edge; what the others
//! have let pass is charged to the same buckets as they tell of it. How far edges can be apart in what they let pass is
//! said in docs/limits.md.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use edge_config::policy::protection::Reach;
use foldhash::HashMap;

use super::admission::Sample;
use super::bucket::{MOST_DEBT, Pace, Refused, Taken, Tick, charge, give_back, raise, take, ticks};
use super::table::{Bucket, Clients, Key, MOST_NAMED, Named};
use crate::proxy::clock::exact;
use crate::proxy::complaints::Complaints;

/// Clients that are limited at once, of all limits of this edge: 4 MiB once there is one.
const CLIENTS: usize = 1 << 17;
/// The same of limits with the reach of the fleet.
const FLEET_CLIENTS: usize = 1 << 16;

pub struct Ledger {
    clock: fn() -> Duration,
    begun: Duration,
    here: Book,
    fleet: Book,
    /// Edges that are counted with, and all that there are: `present << 32 | all`.
    share: AtomicU64,
    /// A limit with the reach of the fleet was asked for.
    is_shared: AtomicBool,
    samples: Mutex<HashMap<u64, Arc<Sample>>>,
    running: Mutex<HashMap<u64, Arc<AtomicU32>>>,
}

#[derive(Debug)]
struct Book {
    clients: Clients,
    named: Named,
}

/// What a request is counted against.
#[derive(Debug, Clone, Copy)]
pub struct Account {
    pub reach: Reach,
    pub key: Key,
    pub pace: Pace,
}

/// What one edge tells another of one bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub key: Key,
    pub ticks: Tick,
}

impl Default for Ledger {
    fn default() -> Self {
        Self::by(exact)
    }
}

impl Ledger {
    /// By this clock, which never goes back.
    pub fn by(clock: fn() -> Duration) -> Self {
        let book = |clients| Book { clients: Clients::new(clients), named: Named::default() };
        Self {
            clock,
            begun: clock(),
            here: book(CLIENTS),
            fleet: book(FLEET_CLIENTS),
            share: AtomicU64::new(1 << 32 | 1),
            is_shared: AtomicBool::new(false),
            samples: Mutex::default(),
            running: Mutex::default(),
        }
    }

    /// Never 0, so that a bucket that was never used is empty.
    pub fn now(&self) -> Tick {
        ticks((self.clock)().saturating_sub(self.begun)).saturating_add(1)
    }

    fn book(&self, reach: Reach) -> &Book {
        match reach {
            Reach::Edge => &self.here,
            Reach::Fleet => &self.fleet,
        }
    }

    /// As fast as this edge may let pass, where it does not hear of all others.
    fn pace(&self, reach: Reach, pace: Pace) -> Pace {
        if reach == Reach::Edge {
            return pace;
        }
        if !self.is_shared.load(Relaxed) {
            self.is_shared.store(true, Relaxed);
        }
        let share = self.share.load(Relaxed);
        pace.part((share >> 32) as u32, share as u32)
    }

    /// Takes room for so many requests.
    pub fn take(&self, near: &Near, account: Account, count: u64, now: Tick) -> Result<Taken, Refused> {
        let Account { reach, key, pace } = account;
        let pace = self.pace(reach, pace);
        let act = |bucket: &Bucket| {
            let taken = take(&bucket.level, pace, count, now);
            if let (Reach::Fleet, Ok(taken)) = (reach, &taken) {
                bucket.untold.fetch_add(taken.ticks, Relaxed);
            }
            taken
        };
        let undo = |bucket: &Bucket, taken: &Result<Taken, Refused>| {
            if let Ok(taken) = taken {
                back(bucket, reach, taken.ticks);
            }
        };
        self.with(near, reach, key, now, act, undo)
    }

    /// Takes without asking.
    pub fn charge(&self, near: &Near, account: Account, count: u64, most: Duration, now: Tick) {
        let Account { reach, key, pace } = account;
        let act = |bucket: &Bucket| {
            let charged = charge(&bucket.level, pace.cost(count), ticks(most), now);
            if reach == Reach::Fleet {
                bucket.untold.fetch_add(charged, Relaxed);
            }
            charged
        };
        self.with(near, reach, key, now, act, |bucket, charged| back(bucket, reach, *charged));
    }

    /// For what was taken and then not used.
    pub fn give_back(&self, near: &Near, account: Account, ticks: Tick, now: Tick) {
        let Account { reach, key, .. } = account;
        self.with(near, reach, key, now, |bucket| back(bucket, reach, ticks), |_, ()| {});
    }

    fn with<T>(
        &self,
        near: &Near,
        reach: Reach,
        key: Key,
        now: Tick,
        act: impl Fn(&Bucket) -> T,
        undo: impl Fn(&Bucket, &T),
    ) -> T {
        let book = self.book(reach);
        if key.is_client()
            && let Some(done) = book.clients.with(key, now, &act, undo)
        {
            return done;
        }
        let key = if key.is_client() { Key::crowd(key.limit) } else { key };
        act(&near.bucket(reach, key, || book.named.bucket(key, now)))
    }

    /// Of all streams of one limit.
    pub fn stream(&self, near: &Near, limit: u64, now: Tick) -> Arc<Bucket> {
        let key = Key::everybody(limit);
        near.bucket(Reach::Edge, key, || self.here.named.bucket(key, now))
    }

    pub fn sample(&self, near: &Near, name: u64, window: Duration) -> Arc<Sample> {
        if let Some(known) = near.samples.borrow().get(&name) {
            return Arc::clone(known);
        }
        let mut all = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known, sample| *known == name || Arc::strong_count(sample) > 1);
        let sample = Arc::clone(all.entry(name).or_insert_with(|| Arc::new(Sample::new(window))));
        let sample = if sample.window() == window { sample } else { Arc::new(Sample::new(window)) };
        all.insert(name, Arc::clone(&sample));
        near.samples.borrow_mut().insert(name, Arc::clone(&sample));
        sample
    }

    /// Requests of one rule that are under way.
    pub fn running(&self, near: &Near, name: u64) -> Arc<AtomicU32> {
        if let Some(known) = near.running.borrow().get(&name) {
            return Arc::clone(known);
        }
        let mut all = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known, count| *known == name || Arc::strong_count(count) > 1);
        let count = Arc::clone(all.entry(name).or_default());
        near.running.borrow_mut().insert(name, Arc::clone(&count));
        count
    }

    /// Requests that shared a bucket for want of places.
    pub fn crowded(&self) -> u64 {
        self.here.clients.crowded().wrapping_add(self.fleet.clients.crowded())
    }

    // The other edges.

    /// Whether there is anything that other edges have a part in.
    pub fn is_shared(&self) -> bool {
        self.is_shared.load(Relaxed)
    }

    /// So many edges of so many are counted with: this one among them, and those that it hears of.
    pub fn share(&self, present: u32, all: u32) {
        self.share.store(u64::from(present.max(1)) << 32 | u64::from(all.max(1)), Relaxed);
    }

    /// What was let pass here since this was asked for last, at most so many entries.
    pub fn spent(&self, most: usize) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut tell = |key, bucket: &Bucket| {
            if entries.len() >= most {
                return false;
            }
            let ticks = bucket.untold.swap(0, Relaxed);
            if ticks > 0 {
                entries.push(Entry { key, ticks });
            }
            true
        };
        self.fleet.named.each(|key, bucket| {
            tell(key, bucket);
        });
        self.fleet.clients.each_untold(tell);
        entries
    }

    /// How full everything is: for an edge that knows nothing of it. The fullest go first.
    pub fn levels(&self, most: usize) -> Vec<Entry> {
        let now = self.now();
        // Full ones are what it must not let pass again.
        let mut all: BTreeMap<(Tick, Key), ()> = BTreeMap::new();
        let mut tell = |key, bucket: &Bucket| {
            let full = bucket.level.load(Relaxed).saturating_sub(now);
            if full > 0 {
                all.insert((full, key), ());
                if all.len() > most {
                    all.pop_first();
                }
            }
        };
        self.fleet.named.each(&mut tell);
        self.fleet.clients.each(now, &mut tell);
        all.into_keys().rev().map(|(ticks, key)| Entry { key, ticks }).collect()
    }

    /// Another edge has let so much pass.
    pub fn learn_spent(&self, entries: &[Entry]) {
        self.learn(entries, |bucket, ticks, now| {
            charge(&bucket.level, ticks, MOST_DEBT, now);
        });
    }

    /// Another edge knows that it is at least so full.
    pub fn learn_levels(&self, entries: &[Entry]) {
        self.learn(entries, |bucket, ticks, now| raise(&bucket.level, ticks, now));
    }

    fn learn(&self, entries: &[Entry], act: impl Fn(&Bucket, Tick, Tick)) {
        let now = self.now();
        for Entry { key, ticks } in entries.iter().copied() {
            let act = |bucket: &Bucket| act(bucket, ticks, now);
            // It cannot be undone, and a client's place is lost in that moment only while its bucket is empty.
            if key.is_client() && self.fleet.clients.with(key, now, act, |_, ()| {}).is_some() {
                continue;
            }
            let key = if key.is_client() { Key::crowd(key.limit) } else { key };
            if self.fleet.named.count() < MOST_NAMED {
                act(&self.fleet.named.bucket(key, now));
            }
        }
    }
}

fn back(bucket: &Bucket, reach: Reach, ticks: Tick) {
    give_back(&bucket.level, ticks);
    if reach == Reach::Fleet {
        give_back(&bucket.untold, ticks);
    }
}

/// What one worker keeps of the ledger, so that it has no lock to take.
#[derive(Default)]
pub struct Near {
    buckets: RefCell<HashMap<(bool, Key), Arc<Bucket>>>,
    samples: RefCell<HashMap<u64, Arc<Sample>>>,
    running: RefCell<HashMap<u64, Arc<AtomicU32>>>,
    pub complaints: Complaints,
}

impl Near {
    fn bucket(&self, reach: Reach, key: Key, find: impl FnOnce() -> Arc<Bucket>) -> Arc<Bucket> {
        let mut buckets = self.buckets.borrow_mut();
        Arc::clone(buckets.entry((reach == Reach::Fleet, key)).or_insert_with(find))
    }

    /// With each generation: what is no more is to be forgotten.
    pub fn forget(&self) {
        self.buckets.borrow_mut().clear();
        self.samples.borrow_mut().clear();
        self.running.borrow_mut().clear();
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
