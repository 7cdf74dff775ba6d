//! One endpoint as one worker knows it: idle connections, work in flight, and what went wrong lately.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::circuit::Vitals;
use super::dial::Dialer;
use super::stream::Stream;
use crate::proxy::clock::{Clock, recent};
use crate::proxy::h1::upstream::Connection;
use crate::proxy::h2::client::{Connections, Settings};
use crate::proxy::proxy_protocol::Origin;

/// Connect failures in a row, as one worker sees them, after which an endpoint is passed over for a while.
const FAILURES: u32 = 3;
/// The first pause, doubled each time up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

pub struct Endpoint {
    pub address: SocketAddr,
    /// Last in, first out: the warmest connection is used, and the others age away.
    idle: RefCell<Vec<Idle>>,
    /// HTTP/2 connections, which many requests share.
    shared: RefCell<Option<Rc<Connections>>>,
    /// The same, each for one client, the longest unused first.
    of_clients: RefCell<Vec<(Origin, Rc<Connections>)>>,
    in_flight: Cell<u32>,
    failures: Cell<u32>,
    passed_over_until: Cell<Option<Instant>>,
    last_failure: RefCell<Option<Box<str>>>,
    /// Counts up when its connections must not be used any more.
    epoch: Cell<u32>,
    /// What all workers know of it, where the upstream has a policy.
    vitals: Option<Arc<Vitals>>,
}

/// Work of an endpoint for as long as it is kept, for connections that are not leased from the pool.
pub struct InFlight(Rc<Endpoint>);

impl InFlight {
    pub fn new(endpoint: Rc<Endpoint>) -> Self {
        endpoint.add_in_flight();
        Self(endpoint)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.remove_in_flight();
    }
}

struct Idle {
    connection: Box<Connection<Stream>>,
    /// By [`recent`].
    since: Duration,
    /// It has told the endpoint of this client, and is for no other.
    client: Option<Origin>,
}

impl Endpoint {
    pub fn new(address: SocketAddr, vitals: Option<Arc<Vitals>>) -> Self {
        Self {
            address,
            idle: RefCell::default(),
            shared: RefCell::default(),
            of_clients: RefCell::default(),
            in_flight: Cell::new(0),
            failures: Cell::new(0),
            passed_over_until: Cell::new(None),
            last_failure: RefCell::default(),
            epoch: Cell::new(0),
            vitals,
        }
    }

    pub fn vitals(&self) -> Option<&Arc<Vitals>> {
        self.vitals.as_ref()
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    pub(super) fn add_in_flight(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
    }

    pub(super) fn remove_in_flight(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
    }

    pub(in crate::proxy) fn epoch(&self) -> u32 {
        self.epoch.get()
    }

    /// A connection that is still good.
    pub(super) fn take(
        &self,
        timeout: Duration,
        age: Option<Duration>,
        client: Option<Origin>,
    ) -> Option<Box<Connection<Stream>>> {
        loop {
            let mut all = self.idle.borrow_mut();
            // All are nobody's, or each is somebody's; in the first case the last one is taken.
            let place = all.iter().rposition(|idle| idle.client == client)?;
            let idle = all.remove(place);
            drop(all);
            let now = recent();
            let is_young = age.is_none_or(|age| now.saturating_sub(idle.connection.opened()) < age);
            if now.saturating_sub(idle.since) < timeout && is_young && idle.connection.is_quiet() {
                return Some(idle.connection);
            }
        }
    }

    /// Puts a clean connection aside, unless there are enough.
    pub(in crate::proxy) fn put(
        &self,
        connection: Box<Connection<Stream>>,
        epoch: u32,
        most: usize,
        client: Option<Origin>,
    ) {
        let mut idle = self.idle.borrow_mut();
        if epoch != self.epoch.get() || most == 0 {
            return;
        }
        if idle.len() >= most {
            if client.is_none() {
                return;
            }
            // Of those that are for one client each, the oldest is the least likely to be asked for again.
            idle.remove(0);
        }
        idle.push(Idle { connection, since: recent(), client });
    }

    pub fn idle_connections(&self) -> usize {
        self.idle.borrow().len()
    }

    pub(super) fn sweep(&self, timeout: Duration) {
        let now = recent();
        let mut idle = self.idle.borrow_mut();
        idle.retain(|idle| now.saturating_sub(idle.since) < timeout && idle.connection.is_quiet());
    }

    /// The HTTP/2 connections of this endpoint; other settings need other connections.
    pub(super) fn connections(&self, settings: Settings, clock: &Rc<Clock>) -> Rc<Connections> {
        let mut shared = self.shared.borrow_mut();
        match &*shared {
            Some(connections) if *connections.settings() == settings => Rc::clone(connections),
            _ => Rc::clone(shared.insert(Rc::new(Connections::new(settings, clock)))),
        }
    }

    /// The same for one client, of which a bounded number is remembered. What is forgotten ends with its last request.
    pub(super) fn connections_of(&self, client: Origin, settings: Settings, dialer: Dialer<'_>) -> Rc<Connections> {
        let mut all = self.of_clients.borrow_mut();
        let known = all.iter().rposition(|(other, known)| *other == client && *known.settings() == settings);
        let entry = match known {
            Some(place) => all.remove(place),
            None => {
                all.retain(|(other, known)| *other != client && !known.is_over());
                (client, Rc::new(Connections::new(settings, dialer.clock)))
            }
        };
        let connections = Rc::clone(&entry.1);
        all.push(entry);
        if all.len() > dialer.limits.upstream_idle_connections.max(1) {
            all.remove(0);
        }
        connections
    }

    /// Drops what is idle now and what comes back later. Requests in progress go on.
    pub(super) fn retire(&self) {
        self.epoch.set(self.epoch.get().wrapping_add(1));
        self.idle.borrow_mut().clear();
        self.shared.borrow_mut().take();
        self.of_clients.borrow_mut().clear();
    }

    pub fn note_success(&self) {
        self.failures.set(0);
        self.passed_over_until.set(None);
    }

    /// After [`FAILURES`] in a row the endpoint is passed over, longer each time.
    /// Says whether it is passed over from now on.
    pub fn note_failure(&self, why: &dyn std::fmt::Display, now: Instant) -> bool {
        let failures = self.failures.get().saturating_add(1);
        self.failures.set(failures);
        *self.last_failure.borrow_mut() = Some(why.to_string().into());
        if let Some(times) = failures.checked_sub(FAILURES) {
            let pause = FIRST_PAUSE.saturating_mul(1 << times.min(10)).min(LONGEST_PAUSE);
            return self.passed_over_until.replace(Some(now + pause)).is_none_or(|before| before <= now);
        }
        false
    }

    pub fn is_passed_over(&self, now: Instant) -> bool {
        self.is_passed_over_at(|| now)
    }

    /// The same, for who would have to look at the clock: usually nobody has to.
    pub fn is_passed_over_at(&self, now: impl FnOnce() -> Instant) -> bool {
        self.passed_over_until.get().is_some_and(|until| now() < until)
    }

    /// Why connecting failed last, while it does.
    pub fn failure(&self) -> Option<Box<str>> {
        if self.failures.get() == 0 { None } else { self.last_failure.borrow().clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_pass_an_endpoint_over_and_a_success_brings_it_back() {
        let endpoint = Endpoint::new("127.0.0.1:1".parse().unwrap(), None);
        let now = Instant::now();
        for count in 1..=FAILURES {
            assert!(!endpoint.is_passed_over(now), "{count}");
            endpoint.note_failure(&"refused", now);
        }
        assert!(endpoint.is_passed_over(now));
        assert!(!endpoint.is_passed_over(now + FIRST_PAUSE));
        for _ in 0..100 {
            endpoint.note_failure(&"refused", now);
        }
        assert!(endpoint.is_passed_over(now + LONGEST_PAUSE / 2));
        assert!(!endpoint.is_passed_over(now + LONGEST_PAUSE));
        assert_eq!(endpoint.failure().as_deref(), Some("refused"));
        endpoint.note_success();
        assert!(!endpoint.is_passed_over(now));
        assert_eq!(endpoint.failure(), None);
    }
}
