//! Keeps the keys of session tickets: makes them in time, shares them, stores them, installs them.
//!
//! In: keys of other edges, the clock, whether this edge has the duty. Out: keys in the proxy and in the store. What
//! cannot be stored is in force all the same; sessions then end with the process.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;

use crate::certs::edges::Shared;
use crate::proxy::tls::tickets::{Duty, KeyName, PERIOD, TicketKey, TicketKeys, Tickets};
use crate::store::Store;

pub(super) struct Keeper {
    tickets: Tickets,
    store: Store,
    held: Mutex<Held>,
    unsaved: Notify,
    /// Unix seconds.
    started: i64,
}

struct Held {
    keys: TicketKeys,
    /// The one that seals in the proxy.
    installed: Option<KeyName>,
}

/// A key that was made at the start only for want of another: any real one comes before it.
const FOR_WANT_OF_ANOTHER: i64 = 0;

impl Keeper {
    /// Takes up the keys of the store, or makes the first one.
    pub(super) fn new(tickets: Tickets, store: Store, has_peers: bool, now: i64) -> Self {
        let stored = store.ticket_keys().and_then(|bytes| TicketKeys::decode(&bytes)).unwrap_or_default();
        let mut keys = stored.merged(&TicketKeys::default(), now);
        if keys.is_empty() {
            // Where others have keys already, theirs are better: both sides can open them.
            let from = if has_peers { FOR_WANT_OF_ANOTHER } else { now };
            keys = keys.with(TicketKey::random(from), now);
        }
        let held = Mutex::new(Held { keys: TicketKeys::default(), installed: None });
        let keeper = Self { tickets, store, held, unsaved: Notify::new(), started: now };
        keeper.take(&keys, now);
        keeper
    }

    /// Takes keys of another edge.
    pub(super) fn receive(&self, bytes: &[u8], now: i64) -> Result<(), String> {
        let keys = TicketKeys::decode(bytes).ok_or_else(|| "these are no ticket keys".to_owned())?;
        self.take(&keys, now);
        Ok(())
    }

    /// What the others must have.
    pub(super) fn shared(&self) -> Shared {
        Shared::TicketKeys(self.lock().keys.encode())
    }

    /// Does what is due; a key that was made is to be shared.
    pub(super) fn tick(&self, duty: Duty, now: i64) -> Option<Shared> {
        let keys = self.lock().keys.clone();
        let is_first = keys.sealing(now).is_none_or(|key| key.from == FOR_WANT_OF_ANOTHER);
        // Whoever has the duty may not be known yet.
        let waits = is_first && duty == Duty::Theirs && now.saturating_sub(self.started) < 2 * PERIOD;
        let made = keys.due(now, duty).filter(|_| !waits);
        let is_made = made.is_some();
        let keys = made.into_iter().fold(keys, |keys, key| keys.with(key, now));
        self.take(&keys, now);
        is_made.then(|| self.shared())
    }

    /// When the time of the key came that seals in the proxy.
    pub(super) fn since(&self) -> Option<SystemTime> {
        let held = self.lock();
        let from = held.keys.all().iter().find(|key| Some(key.name) == held.installed)?.from;
        let from = u64::try_from(from).ok().filter(|from| *from > 0)?;
        UNIX_EPOCH.checked_add(Duration::from_secs(from))
    }

    /// Writes what is new to the store, one write at a time.
    pub(super) async fn save(self: Arc<Self>) {
        loop {
            self.unsaved.notified().await;
            let (store, bytes) = (self.store.clone(), self.lock().keys.encode());
            match tokio::task::spawn_blocking(move || store.put_ticket_keys(bytes)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "sessions of clients end with this process"),
                Err(error) => tracing::error!(%error, "keys of session tickets are not stored"),
            }
        }
    }

    fn take(&self, more: &TicketKeys, now: i64) {
        let mut held = self.lock();
        let merged = held.keys.merged(more, now);
        let sealing = merged.sealing(now).map(|key| key.name);
        if merged != held.keys || sealing != held.installed {
            self.tickets.install(&merged, now);
            held.installed = sealing;
        }
        if merged != held.keys {
            held.keys = merged;
            self.unsaved.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::tls::tickets::{LEAD, TicketContext};

    const NOW: i64 = 1_800_000_000;

    fn opens(there: &Tickets, here: &Tickets) -> bool {
        let context = TicketContext::of([&b"listener"[..]]);
        let ticket = here.ticketer(context).encrypt(b"session").unwrap();
        there.ticketer(context).decrypt(&ticket).is_some()
    }

    fn keeper(store: &Store, has_peers: bool, now: i64) -> (Keeper, Tickets) {
        let tickets = Tickets::random();
        (Keeper::new(tickets.clone(), store.clone(), has_peers, now), tickets)
    }

    #[tokio::test]
    async fn keys_survive_a_restart() {
        let store = Store::in_memory();
        let (first, before) = keeper(&store, false, NOW);
        let first = Arc::new(first);
        let saving = tokio::spawn(Arc::clone(&first).save());
        while store.ticket_keys().is_none() {
            tokio::task::yield_now().await;
        }
        saving.abort();
        let (_, after) = keeper(&store, false, NOW + 60);
        assert!(opens(&after, &before) && opens(&before, &after));
    }

    #[test]
    fn edges_come_to_the_same_keys() {
        let (a, at_a) = keeper(&Store::in_memory(), true, NOW);
        let (b, at_b) = keeper(&Store::in_memory(), true, NOW + 1);
        assert!(!opens(&at_a, &at_b));
        let Some(Shared::TicketKeys(made)) = a.tick(Duty::Ours, NOW + 5) else { unreachable!("none is due") };
        assert!(b.tick(Duty::Theirs, NOW + 5).is_none(), "that is not its duty");
        b.receive(&made, NOW + 5).unwrap();
        let Shared::TicketKeys(first) = b.shared() else { unreachable!("these are keys") };
        a.receive(&first, NOW + 5).unwrap();
        let seals_at = NOW + 5 + LEAD;
        let context = TicketContext::of([&b"listener"[..]]);
        let before = at_a.ticketer(context).encrypt(b"session").unwrap();
        // Each opens before either seals; what is told is what seals.
        a.tick(Duty::Ours, seals_at);
        assert!(a.since().is_some() && b.since().is_none());
        assert!(opens(&at_b, &at_a));
        b.tick(Duty::Theirs, seals_at);
        assert!(opens(&at_a, &at_b));
        assert_eq!(a.since(), b.since());
        for there in [&at_a, &at_b] {
            assert!(
                there.ticketer(context).decrypt(&before).is_some(),
                "what the first key sealed opens after its time"
            );
        }
        assert!(b.receive(b"junk", NOW).is_err());
    }

    #[test]
    fn who_has_not_the_duty_helps_itself_in_the_end() {
        let (keeper, _) = keeper(&Store::in_memory(), true, NOW);
        let made = (NOW..NOW + 86_400).step_by(60).find(|now| keeper.tick(Duty::Theirs, *now).is_some());
        assert!(made.is_some_and(|now| now >= NOW + 2 * PERIOD));
    }
}
