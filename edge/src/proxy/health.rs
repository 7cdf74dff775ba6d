//! What workers know of endpoints, told to the control side. A worker posts its view about once a second, and only what
//! is worth telling; nothing on the request path comes here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use edge_config::snapshot::UpstreamKey;

use super::upstream::Upstreams;
use crate::control::observed::{Ejection, UpstreamState};

/// One view per worker.
#[derive(Debug)]
pub struct Health(Vec<Mutex<View>>);

type View = BTreeMap<UpstreamKey, UpstreamState>;

impl Health {
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Mutex::default()).collect())
    }

    /// Replaces the view of one worker.
    pub fn post(&self, worker: usize, upstreams: &Upstreams, now: Instant) {
        let Some(slot) = self.0.get(worker) else { return };
        let mut view = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = View::new();
        upstreams.each_endpoint(|key, endpoint| {
            let in_flight = u64::from(endpoint.in_flight());
            let reason = endpoint.failure().filter(|_| endpoint.is_passed_over(now));
            if in_flight == 0 && reason.is_none() {
                return;
            }
            let state = next.entry(key.clone()).or_default();
            state.in_flight += in_flight;
            if let Some(reason) = reason {
                let known = view.get(key).and_then(|state| state.ejected.get(&endpoint.address));
                let since = known.map_or_else(SystemTime::now, |known| known.since);
                state.ejected.insert(endpoint.address, Ejection { since, reason: reason.into() });
            }
        });
        *view = next;
    }

    /// All workers together: an endpoint counts as ejected when at least one passes it over, since the first did.
    pub fn merged(&self) -> BTreeMap<UpstreamKey, UpstreamState> {
        let mut merged = View::new();
        for slot in &self.0 {
            for (key, state) in slot.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                let into = merged.entry(key.clone()).or_default();
                into.in_flight += state.in_flight;
                for (address, ejection) in &state.ejected {
                    merge_ejection(&mut into.ejected, *address, ejection);
                }
            }
        }
        merged
    }
}

fn merge_ejection(into: &mut BTreeMap<SocketAddr, Ejection>, address: SocketAddr, ejection: &Ejection) {
    match into.get(&address) {
        Some(known) if known.since <= ejection.since => {}
        _ => drop(into.insert(address, ejection.clone())),
    }
}
