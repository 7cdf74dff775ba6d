//! The keys of session tickets and their times. Pure: `now` comes in, sets come out.
//!
//! The newest key whose time has come seals; those that sealed within the last two periods open. A new key is made a little before its
//! time, so that every edge can open what another one seals. Sets of several edges are merged in any order to the same
//! result.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

/// How long a key seals, in seconds.
pub const PERIOD: i64 = 6 * 3600;
/// How long a key opens after the next one has taken its place, in seconds: no ticket lives longer.
const OPENS: i64 = 2 * PERIOD;
/// How long before it seals a key is made and given to the others.
pub const LEAD: i64 = 60;
/// A key that is this old is replaced by every edge for itself: nobody who should has done so.
const OVERDUE: i64 = 2 * PERIOD;
/// Keys that edges made before they knew each other, and those of three periods.
const MOST: usize = 40;
const VERSION: u32 = 1;

pub type KeyName = [u8; 16];

#[derive(Clone, PartialEq, Eq)]
pub struct TicketKey {
    /// Stands before each ticket; random, and known to everybody.
    pub name: KeyName,
    pub secret: Zeroizing<[u8; 32]>,
    /// Unix seconds from which on it seals.
    pub from: i64,
}

impl TicketKey {
    pub fn random(from: i64) -> Self {
        let mut key = Self { name: [0; 16], secret: Zeroizing::new([0; 32]), from };
        let random = SystemRandom::new();
        // aws-lc reseeds from the kernel; without randomness no handshake works either.
        random.fill(&mut key.name).expect("the kernel supplies randomness");
        random.fill(key.secret.as_mut()).expect("the kernel supplies randomness");
        key
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKey").field("from", &self.from).field("secret", &"[redacted]").finish_non_exhaustive()
    }
}

/// Who replaces keys in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// This edge.
    Ours,
    /// Another one, unless it fails to for long.
    Theirs,
}

/// At most [`MOST`] keys, the newest first, each name once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TicketKeys(Vec<TicketKey>);

impl TicketKeys {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn all(&self) -> &[TicketKey] {
        &self.0
    }

    /// The key that seals: the newest whose time has come, else the one whose time comes first.
    pub fn sealing(&self, now: i64) -> Option<&TicketKey> {
        self.0.iter().find(|key| key.from <= now).or(self.0.last())
    }

    /// When another key begins to seal.
    pub fn next(&self, now: i64) -> Option<i64> {
        self.0.iter().map(|key| key.from).filter(|from| *from > now).min()
    }

    /// The newest first, each name once. Keys never change, so two of a name are a fault or an attack: the choice is the
    /// same for everybody.
    fn of(keys: impl IntoIterator<Item = TicketKey>) -> Self {
        let mut by_name: BTreeMap<KeyName, TicketKey> = BTreeMap::new();
        for key in keys {
            match by_name.get_mut(&key.name) {
                Some(held) if (held.from, &*held.secret) >= (key.from, &*key.secret) => {}
                _ => drop(by_name.insert(key.name, key)),
            }
        }
        let mut keys: Vec<TicketKey> = by_name.into_values().collect();
        keys.sort_by_key(|key| (std::cmp::Reverse(key.from), key.name));
        Self(keys)
    }

    /// Both, without those whose time is over. A key that was left out is older than one that replaced it long ago, so
    /// the order in which sets are merged does not matter.
    pub fn merged(&self, other: &Self, now: i64) -> Self {
        let mut merged = Self::of(self.0.iter().chain(&other.0).cloned());
        let mut replaced = i64::MAX;
        merged.0.retain(|key| std::mem::replace(&mut replaced, key.from) > now.saturating_sub(OPENS));
        let sealing = merged.sealing(now).map(|key| key.name);
        while merged.0.len() > MOST {
            // The oldest goes, but never the one that seals.
            let last = merged.0.iter().rposition(|key| Some(key.name) != sealing);
            merged.0.remove(last.unwrap_or(0));
        }
        merged
    }

    /// A key to be added now, if that is due.
    pub fn due(&self, now: i64, duty: Duty) -> Option<TicketKey> {
        let Some(sealing) = self.sealing(now) else { return Some(TicketKey::random(now)) };
        // The clock may have been wrong when it was made: then it begins anew.
        let age = if sealing.from > now.saturating_add(PERIOD) { i64::MAX } else { now.saturating_sub(sealing.from) };
        let awaited = self.0.iter().any(|key| key.from > now && key.from <= now.saturating_add(PERIOD));
        match duty {
            Duty::Ours if age >= PERIOD - LEAD && !awaited => Some(TicketKey::random(now.saturating_add(LEAD))),
            Duty::Theirs if age >= OVERDUE && !awaited => Some(TicketKey::random(now.saturating_add(LEAD))),
            Duty::Ours | Duty::Theirs => None,
        }
    }

    /// With one more.
    pub fn with(&self, key: TicketKey, now: i64) -> Self {
        self.merged(&Self(vec![key]), now)
    }

    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let keys = self.0.iter().map(|key| WrittenKey {
            name: STANDARD.encode(key.name),
            secret: STANDARD.encode(*key.secret),
            from: key.from,
        });
        let written = Written { version: VERSION, keys: keys.collect() };
        // Room for all of it: growing would leave secrets behind in freed memory.
        let mut bytes = Zeroizing::new(Vec::with_capacity(64 + 160 * self.0.len()));
        serde_json::to_writer(&mut *bytes, &written).expect("texts and numbers are JSON");
        bytes
    }

    /// `None`: these are no keys.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let written: Written = serde_json::from_slice(bytes)
            .ok()
            .filter(|written: &Written| written.version == VERSION && written.keys.len() <= MOST)?;
        let mut keys = Vec::with_capacity(written.keys.len());
        for key in &written.keys {
            let name = STANDARD.decode(&key.name).ok()?.try_into().ok()?;
            let secret = Zeroizing::new(STANDARD.decode(&key.secret).ok()?);
            let secret = Zeroizing::new(<[u8; 32]>::try_from(secret.as_slice()).ok()?);
            keys.push(TicketKey { name, secret, from: key.from });
        }
        // Sorted and each name once, whatever the bytes say.
        Some(Self::of(keys))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    keys: Vec<WrittenKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenKey {
    name: String,
    secret: String,
    from: i64,
}

impl Drop for WrittenKey {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn key(name: u8, from: i64) -> TicketKey {
        TicketKey { name: [name; 16], secret: Zeroizing::new([name; 32]), from }
    }

    fn keys(all: &[(u8, i64)]) -> TicketKeys {
        all.iter().fold(TicketKeys::default(), |keys, (name, from)| {
            keys.merged(&TicketKeys(vec![key(*name, NOW + from)]), NOW)
        })
    }

    #[test]
    fn who_seals_and_who_opens() {
        let all = keys(&[(1, -3 * PERIOD), (2, -3 * PERIOD + 1), (3, -5), (4, 30)]);
        let names: Vec<u8> = all.all().iter().map(|key| key.name[0]).collect();
        assert_eq!(names, [4, 3, 2]);
        assert_eq!(all.sealing(NOW).unwrap().name[0], 3);
        assert_eq!((all.next(NOW), all.sealing(NOW + 30).unwrap().name[0]), (Some(NOW + 30), 4));
        // The last one is never thrown away, and what it sealed opens as long as a ticket lives, however old it is.
        let old = keys(&[(1, -100 * PERIOD)]);
        assert_eq!(old.merged(&TicketKeys::default(), NOW).sealing(NOW).unwrap().name[0], 1);
        let replaced = old.with(key(2, NOW), NOW);
        let opens = |now| replaced.merged(&TicketKeys::default(), now).all().iter().any(|key| key.name[0] == 1);
        assert!(opens(NOW + OPENS - 1) && !opens(NOW + OPENS));
    }

    #[test]
    fn a_day_of_one_who_has_the_duty_and_of_one_who_has_not() {
        for (duty, most_age) in [(Duty::Ours, PERIOD), (Duty::Theirs, OVERDUE + LEAD)] {
            let mut held = TicketKeys::default();
            for now in (NOW..NOW + 4 * 86_400).step_by(10) {
                if let Some(key) = held.due(now, duty) {
                    held = held.with(key, now);
                    assert_eq!(held.due(now, duty), None, "one at a time");
                }
                let sealing = held.sealing(now).unwrap();
                assert!(now - sealing.from <= most_age + 10 && held.all().len() <= 5, "{now}");
            }
        }
    }

    #[test]
    fn a_clock_that_was_ahead_does_not_hold_keys_for_ever() {
        let held = keys(&[(1, 365 * 86_400)]);
        let fresh = held.due(NOW, Duty::Ours).unwrap();
        let held = held.with(fresh.clone(), NOW);
        assert_eq!(held.sealing(NOW + LEAD).unwrap().name, fresh.name);
    }

    #[test]
    fn as_bytes_and_back() {
        let held = keys(&[(1, -5), (2, 7)]);
        assert_eq!(TicketKeys::decode(&held.encode()), Some(held.clone()));
        assert!(!format!("{held:?}").contains("[1, 1"));
        for bytes in [
            &b""[..],
            b"{}",
            br#"{"version":2,"keys":[]}"#,
            br#"{"version":1,"keys":[{"name":"","secret":"","from":0}]}"#,
        ] {
            assert_eq!(TicketKeys::decode(bytes), None);
        }
    }

    fn any_keys() -> impl Strategy<Value = TicketKeys> {
        proptest::collection::vec((0u8..12, 0u8..3), 0..8).prop_map(|all| {
            all.into_iter().fold(TicketKeys::default(), |keys, (name, secret)| {
                // Names are random: two keys of one name with two times do not happen.
                let from = NOW + i64::from(name % 6) * PERIOD - 4 * PERIOD;
                let key = TicketKey { name: [name; 16], secret: Zeroizing::new([secret; 32]), from };
                keys.merged(&TicketKeys(vec![key]), NOW)
            })
        })
    }

    proptest! {
        #[test]
        fn merging_is_the_same_in_any_order(a in any_keys(), b in any_keys(), c in any_keys()) {
            prop_assert_eq!(a.merged(&b, NOW), b.merged(&a, NOW));
            prop_assert_eq!(a.merged(&a, NOW), a.clone());
            let left = a.merged(&b, NOW).merged(&c, NOW);
            let right = a.merged(&b.merged(&c, NOW), NOW);
            prop_assert_eq!(left.sealing(NOW), right.sealing(NOW));
            prop_assert_eq!(&left, &right);
        }

        #[test]
        fn foreign_bytes_are_keys_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = TicketKeys::decode(&bytes);
        }
    }
}
