//! Where buckets are: those of clients in tables of a fixed size, those that only configuration names in a map.
//!
//! A table is a number of sets of eight places. A client that is looked for is found without a lock; one that is new takes
//! a place whose bucket is empty, which loses nothing, under the lock of a few sets. Where no place is empty it gets none
//! and is counted together with all others of its limit that have none: a flood of made-up clients shares one bucket and
//! pushes out nobody. No limit has more than six of the eight places of a set, so that others find room beside it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use foldhash::HashMap;

use super::bucket::Tick;

/// Names a bucket, the same on every edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Of the limit, and of what has a count of its own.
    pub limit: u64,
    /// Of the client; below [`Key::FIRST_CLIENT`] there is none.
    pub client: u64,
}

impl Key {
    pub const FIRST_CLIENT: u64 = 2;

    /// All requests together.
    pub fn everybody(limit: u64) -> Self {
        Self { limit, client: 0 }
    }

    /// Those who found no place.
    pub fn crowd(limit: u64) -> Self {
        Self { limit, client: 1 }
    }

    pub fn client(limit: u64, client: u64) -> Self {
        Self { limit, client: client.max(Self::FIRST_CLIENT) }
    }

    pub fn is_client(self) -> bool {
        self.client >= Self::FIRST_CLIENT
    }
}

#[derive(Debug, Default)]
pub struct Bucket {
    /// See [`super::bucket`].
    pub level: AtomicU64,
    /// What was taken here and the other edges do not know of yet.
    pub untold: AtomicU64,
}

impl Bucket {
    fn is_idle(&self, now: Tick) -> bool {
        self.level.load(Relaxed) <= now && self.untold.load(Relaxed) == 0
    }
}

const WAYS: usize = 8;
/// Of one limit in one set.
const MOST_OF_ONE: usize = 6;
/// Each has a lock, and a mark that something in it is untold.
const SHARDS: usize = 64;

#[derive(Debug, Default)]
struct Place {
    limit: AtomicU64,
    client: AtomicU64,
    bucket: Bucket,
}

impl Place {
    fn is(&self, key: Key) -> bool {
        self.client.load(Relaxed) == key.client && self.limit.load(Relaxed) == key.limit
    }
}

type Set = [Place; WAYS];

/// Of clients.
#[derive(Debug)]
pub struct Clients {
    /// A power of two.
    size: usize,
    /// Made when the first client comes: most edges limit nobody.
    sets: OnceLock<Box<[Set]>>,
    locks: [Mutex<()>; SHARDS],
    untold: [AtomicBool; SHARDS],
    /// How often somebody found no place.
    crowded: AtomicU64,
}

impl Clients {
    /// `places`: a power of two, at least 512.
    pub fn new(places: usize) -> Self {
        Self {
            size: (places / WAYS).next_power_of_two().max(SHARDS),
            sets: OnceLock::new(),
            locks: std::array::from_fn(|_| Mutex::default()),
            untold: std::array::from_fn(|_| AtomicBool::new(false)),
            crowded: AtomicU64::new(0),
        }
    }

    fn sets(&self) -> &[Set] {
        self.sets.get_or_init(|| (0..self.size).map(|_| Set::default()).collect())
    }

    fn number(&self, key: Key) -> usize {
        let mixed = (key.client ^ key.limit.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) as usize & (self.size - 1)
    }

    /// Does something with a client's bucket; `None`: it has none, and there is no place for one. `undo` takes back what
    /// was done to a bucket that became another client's in that moment.
    pub fn with<T>(&self, key: Key, now: Tick, act: impl Fn(&Bucket) -> T, undo: impl Fn(&Bucket, &T)) -> Option<T> {
        let number = self.number(key);
        let set = self.sets().get(number)?;
        // It is replaced only while it is empty, so this hardly ever goes round.
        for _ in 0..4 {
            let place = set.iter().find(|place| place.is(key)).or_else(|| self.settle(set, number, key, now))?;
            let done = act(&place.bucket);
            if place.is(key) {
                if place.bucket.untold.load(Relaxed) > 0
                    && let Some(mark) = self.untold.get(number % SHARDS)
                    && !mark.load(Relaxed)
                {
                    mark.store(true, Relaxed);
                }
                return Some(done);
            }
            undo(&place.bucket, &done);
        }
        None
    }

    fn settle<'s>(&self, set: &'s Set, number: usize, key: Key, now: Tick) -> Option<&'s Place> {
        let lock = self.locks.get(number % SHARDS)?;
        let _only = lock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = set.iter().find(|place| place.is(key)) {
            return Some(known);
        }
        let of_limit =
            set.iter().filter(|place| place.limit.load(Relaxed) == key.limit && !place.bucket.is_idle(now)).count();
        let free = set.iter().find(|place| place.bucket.is_idle(now)).filter(|_| of_limit < MOST_OF_ONE);
        let Some(free) = free else {
            self.crowded.fetch_add(1, Relaxed);
            return None;
        };
        free.client.store(0, Relaxed);
        free.bucket.level.store(0, Relaxed);
        free.limit.store(key.limit, Relaxed);
        free.client.store(key.client, Relaxed);
        Some(free)
    }

    pub fn crowded(&self) -> u64 {
        self.crowded.load(Relaxed)
    }

    /// Looks at all that is untold, until `tell` has enough of it and says no.
    pub fn each_untold(&self, mut tell: impl FnMut(Key, &Bucket) -> bool) {
        let Some(sets) = self.sets.get() else { return };
        for (shard, mark) in self.untold.iter().enumerate().filter(|(_, mark)| mark.load(Relaxed)) {
            mark.store(false, Relaxed);
            for place in sets.iter().skip(shard).step_by(SHARDS).flatten() {
                if place.bucket.untold.load(Relaxed) == 0 {
                    continue;
                }
                let key = Key { limit: place.limit.load(Relaxed), client: place.client.load(Relaxed) };
                if !tell(key, &place.bucket) {
                    mark.store(true, Relaxed);
                    return;
                }
            }
        }
    }

    /// Everything that is not empty.
    pub fn each(&self, now: Tick, mut tell: impl FnMut(Key, &Bucket)) {
        let places = self.sets.get().map(|sets| &**sets).unwrap_or_default().iter().flatten();
        for place in places.filter(|place| !place.bucket.is_idle(now)) {
            tell(Key { limit: place.limit.load(Relaxed), client: place.client.load(Relaxed) }, &place.bucket);
        }
    }
}

/// Of limits that are not by client: as many as configuration makes.
#[derive(Debug, Default)]
pub struct Named(Mutex<HashMap<Key, Arc<Bucket>>>);

/// What other edges tell of is kept up to this many.
pub const MOST_NAMED: usize = 1 << 16;

impl Named {
    /// Workers keep what they get, so this is asked once for each and generation.
    pub fn bucket(&self, key: Key, now: Tick) -> Arc<Bucket> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&key) {
            return Arc::clone(known);
        }
        // Those of limits that are gone, now and then.
        if all.len().is_power_of_two() && all.len() >= 64 {
            all.retain(|_, bucket| Arc::strong_count(bucket) > 1 || !bucket.is_idle(now));
        }
        Arc::clone(all.entry(key).or_default())
    }

    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn each(&self, mut tell: impl FnMut(Key, &Bucket)) {
        for (key, bucket) in &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            tell(*key, bucket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::bucket::{Pace, TICKS_PER_SECOND, take};
    use super::*;
    use std::time::Duration;

    const NOW: Tick = 1000 * TICKS_PER_SECOND;

    fn pace() -> Pace {
        Pace::new(2, Duration::from_secs(60), 1)
    }

    /// Whether one request passes; `None`: there was no place.
    fn one(clients: &Clients, key: Key, now: Tick) -> Option<bool> {
        clients.with(key, now, |bucket| take(&bucket.level, pace(), 1, now).is_ok(), |_, _| {})
    }

    #[test]
    fn each_client_has_its_own() {
        let clients = Clients::new(1 << 12);
        for client in 10..200 {
            let key = Key::client(7, client * 77);
            let passed: Vec<_> = (0..3).map(|_| one(&clients, key, NOW)).collect();
            assert_eq!(passed, [Some(true), Some(true), Some(false)], "{client}");
            assert_eq!(one(&clients, Key::client(8, client * 77), NOW), Some(true));
        }
        assert_eq!(clients.crowded(), 0);
    }

    #[test]
    fn a_flood_of_clients_pushes_out_nobody_and_leaves_room_for_other_limits() {
        let clients = Clients::new(512);
        let victims: Vec<Key> = (0..40).map(|client| Key::client(1, 1_000_000 + client)).collect();
        for victim in &victims {
            assert_eq!(one(&clients, *victim, NOW), Some(true));
            assert_eq!(one(&clients, *victim, NOW), Some(true));
        }
        let placed = (0..100_000).filter(|client| one(&clients, Key::client(2, client * 31 + 5), NOW).is_some());
        assert!(placed.count() <= 64 * MOST_OF_ONE);
        assert!(clients.crowded() > 90_000);
        for victim in &victims {
            assert_eq!(one(&clients, *victim, NOW), Some(false), "its limit was forgotten");
        }
        let others = (0..100).filter(|client| one(&clients, Key::client(3, client * 7919), NOW).is_some()).count();
        assert!(others > 60, "{others}");
        // When the flood is over, its places are free.
        let later = NOW + 61 * TICKS_PER_SECOND;
        assert_eq!(one(&clients, Key::client(4, 4), later), Some(true));
        assert_eq!(one(&clients, victims[0], later), Some(true));
    }

    #[test]
    fn what_is_untold_is_found_and_kept() {
        let clients = Clients::new(1 << 12);
        for client in 10..50 {
            clients.with(Key::client(7, client), NOW, |bucket| bucket.untold.store(client, Relaxed), |_, _| {});
        }
        let mut found = Vec::new();
        clients.each_untold(|key, bucket| {
            found.push((key.client, bucket.untold.swap(0, Relaxed)));
            found.len() < 25
        });
        clients.each_untold(|key, bucket| {
            found.push((key.client, bucket.untold.swap(0, Relaxed)));
            true
        });
        found.sort_unstable();
        assert_eq!(found, (10..50).map(|client| (client, client)).collect::<Vec<_>>());
        clients.each_untold(|key, _| panic!("{key:?} again"));
    }

    #[test]
    fn named_buckets_outlive_those_who_use_them_while_they_are_not_empty() {
        let named = Named::default();
        take(&named.bucket(Key::everybody(1), NOW).level, pace(), 2, NOW).unwrap();
        for limit in 2..300 {
            named.bucket(Key::everybody(limit), NOW);
        }
        assert!(named.count() < 200);
        assert!(take(&named.bucket(Key::everybody(1), NOW).level, pace(), 1, NOW).is_err());
    }

    #[test]
    fn threads_that_meet_in_one_set_take_what_is_theirs() {
        let clients = Clients::new(512);
        let passed: Vec<usize> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..200_u64)
                            .filter(|round| one(&clients, Key::client(1, 2 + round % 50), NOW) == Some(true))
                            .count()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(passed.iter().sum::<usize>(), 100);
    }
}
