//! What all workers know together of an upstream that has a policy: the health of its endpoints, and how much is under way.
//!
//! In: answers and failures from workers, outcomes of active checks, requests for room. Out: whether an endpoint may be
//! taken, and permits. On the request path there are atomic numbers only; a lock is taken when an endpoint is met for the
//! first time, when it is ejected, and by who looks on. An upstream without a policy has none of this.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use edge_config::policy::{LONGEST_EJECTION, Outliers, UpstreamPolicy};
use edge_config::snapshot::UpstreamKey;
use foldhash::HashMap;
use tokio::sync::Notify;

use crate::proxy::clock::recent;

/// Milliseconds of the clock that [`recent`] reads.
pub type Millis = u64;

pub fn now() -> Millis {
    millis(recent())
}

fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The circuits of all upstreams that somebody uses.
#[derive(Default)]
pub struct Registry(Mutex<HashMap<UpstreamKey, Weak<Circuit>>>);

impl Registry {
    /// The circuit of an upstream; made if nobody uses it yet.
    pub fn circuit(&self, key: &UpstreamKey, policy: &Arc<UpstreamPolicy>) -> Arc<Circuit> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The key tells policies apart by a fingerprint.
        if let Some(known) = all.get(key).and_then(Weak::upgrade).filter(|known| known.policy == *policy) {
            return known;
        }
        all.retain(|_, circuit| circuit.strong_count() > 0);
        let circuit = Arc::new(Circuit::new(Arc::clone(policy)));
        all.insert(key.clone(), Arc::downgrade(&circuit));
        circuit
    }

    /// All that are in use.
    pub fn each(&self, mut tell: impl FnMut(&UpstreamKey, &Arc<Circuit>)) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, circuit) in &*all {
            if let Some(circuit) = circuit.upgrade() {
                tell(key, &circuit);
            }
        }
    }
}

pub struct Circuit {
    pub policy: Arc<UpstreamPolicy>,
    connections: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
    waiting: AtomicU32,
    /// A connection has ended.
    freed: Notify,
    members: Mutex<Members>,
}

#[derive(Default)]
struct Members {
    list: HashMap<SocketAddr, Weak<Vitals>>,
    /// The endpoints were told at least once: those that come from now on are new.
    is_known: bool,
}

/// One endpoint of an upstream.
pub struct Vitals {
    pub address: SocketAddr,
    /// Active checks have failed.
    is_down: AtomicBool,
    /// 0: not ejected.
    ejected_until: AtomicU64,
    /// When it came or came back; 0: it always was there.
    since: AtomicU64,
    ejections: AtomicU32,
    server_errors: AtomicU32,
    gateway_errors: AtomicU32,
    local_failures: AtomicU32,
    connections: AtomicU32,
    /// Why it is out, or was last.
    reason: Mutex<(SystemTime, Box<str>)>,
}

impl Vitals {
    fn new(address: SocketAddr, since: Millis) -> Self {
        Self {
            address,
            is_down: AtomicBool::new(false),
            ejected_until: AtomicU64::new(0),
            since: AtomicU64::new(since),
            ejections: AtomicU32::new(0),
            server_errors: AtomicU32::new(0),
            gateway_errors: AtomicU32::new(0),
            local_failures: AtomicU32::new(0),
            connections: AtomicU32::new(0),
            reason: Mutex::new((SystemTime::UNIX_EPOCH, Box::default())),
        }
    }

    pub fn is_healthy(&self, now: Millis) -> bool {
        !self.is_down.load(Relaxed) && !self.is_ejected(now)
    }

    fn is_ejected(&self, now: Millis) -> bool {
        // Nearly always 0.
        now < self.ejected_until.load(Relaxed)
    }

    /// Since when and why it is out now.
    pub fn why_out(&self, now: Millis) -> Option<(SystemTime, Box<str>)> {
        let reason = || self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (!self.is_healthy(now)).then(reason)
    }

    fn say(&self, reason: String) {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = (SystemTime::now(), reason.into());
    }

    /// What active checks have found. Returns whether that is news.
    pub fn check(&self, outcome: Result<(), String>, now: Millis) -> bool {
        match outcome {
            Ok(()) => {
                let was_down = self.is_down.swap(false, Relaxed);
                if was_down {
                    self.since.store(now, Relaxed);
                }
                was_down
            }
            Err(reason) => {
                self.say(reason);
                !self.is_down.swap(true, Relaxed)
            }
        }
    }

    fn forgive(&self) {
        for count in [&self.server_errors, &self.gateway_errors, &self.local_failures] {
            count.store(0, Relaxed);
        }
    }

    /// The share of its load that it may be given, in thousandths.
    fn share(&self, window: Duration, now: Millis) -> u32 {
        let start = self.since.load(Relaxed).max(self.ejected_until.load(Relaxed));
        let window = millis(window).max(1);
        if start == 0 || now >= start.saturating_add(window) {
            return 1000;
        }
        u32::try_from(now.saturating_sub(start).saturating_mul(1000) / window).unwrap_or(1000).max(100)
    }
}

/// No room, and no place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl Circuit {
    fn new(policy: Arc<UpstreamPolicy>) -> Self {
        Self {
            policy,
            connections: AtomicU32::new(0),
            requests: AtomicU32::new(0),
            retries: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            freed: Notify::new(),
            members: Mutex::default(),
        }
    }

    /// The endpoints as they are now, in this order.
    pub fn attend(&self, addresses: impl Iterator<Item = SocketAddr>, now: Millis) -> Vec<Arc<Vitals>> {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let since = if members.is_known { now } else { 0 };
        members.is_known = true;
        members.list.retain(|_, vitals| vitals.strong_count() > 0);
        let one = |address| {
            let slot = members.list.entry(address).or_default();
            slot.upgrade().unwrap_or_else(|| {
                let vitals = Arc::new(Vitals::new(address, since));
                *slot = Arc::downgrade(&vitals);
                vitals
            })
        };
        addresses.map(one).collect()
    }

    /// Every endpoint that somebody knows.
    pub fn each(&self, mut tell: impl FnMut(&Vitals)) {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.list.values().filter_map(Weak::upgrade).for_each(|vitals| tell(&vitals));
    }

    /// Whether an endpoint may have one more connection.
    pub fn has_room(&self, vitals: &Vitals) -> bool {
        self.policy.limits.endpoint_connections.is_none_or(|most| vitals.connections.load(Relaxed) < most)
    }

    /// Whether a new endpoint is passed over this time. `draw` is uniform.
    pub fn is_spared(&self, vitals: &Vitals, now: Millis, draw: u32) -> bool {
        let Some(window) = self.policy.slow_start else { return false };
        match vitals.share(window, now) {
            1000.. => false,
            share => (u64::from(draw) * 1000) >> 32 >= u64::from(share),
        }
    }

    /// Notes an answer. Returns whether the endpoint is ejected because of it.
    pub fn answered(&self, vitals: &Vitals, status: u16, now: impl FnOnce() -> Millis) -> bool {
        let Some(outliers) = &self.policy.outliers else { return false };
        clear(&vitals.local_failures);
        if status < 500 {
            clear(&vitals.server_errors);
            clear(&vitals.gateway_errors);
            return false;
        }
        let is_gateway = matches!(status, 502..=504);
        if !is_gateway {
            clear(&vitals.gateway_errors);
        }
        let (by_gateway, by_server) = (
            is_gateway && reached(&vitals.gateway_errors, outliers.gateway_errors),
            reached(&vitals.server_errors, outliers.server_errors),
        );
        match (by_gateway, by_server) {
            (true, _) => self.eject(vitals, outliers, (outliers.gateway_errors, "answers with 502, 503 or 504"), now()),
            (_, true) => self.eject(vitals, outliers, (outliers.server_errors, "answers with 5xx"), now()),
            _ => false,
        }
    }

    /// Notes a connection that could not be made, or was broken, or took too long. The same.
    pub fn failed(&self, vitals: &Vitals, now: impl FnOnce() -> Millis) -> bool {
        let Some(outliers) = &self.policy.outliers else { return false };
        let (count, most) = match outliers.local_failures {
            Some(most) => (&vitals.local_failures, most),
            None => (&vitals.server_errors, outliers.server_errors),
        };
        reached(count, most) && self.eject(vitals, outliers, (most, "failures to connect or to answer"), now())
    }

    fn eject(&self, vitals: &Vitals, outliers: &Outliers, (count, what): (u32, &str), now: Millis) -> bool {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut all, mut out) = (0_u64, 0_u64);
        for member in members.list.values().filter_map(Weak::upgrade) {
            all += 1;
            out += u64::from(member.is_ejected(now));
        }
        let is_allowed =
            (out + 1) * 100 <= all * u64::from(outliers.most_ejected) || (outliers.at_least_one && out == 0);
        if vitals.is_ejected(now) || !is_allowed {
            return false;
        }
        let base = millis(outliers.base_ejection).max(1);
        let before = vitals.ejections.load(Relaxed);
        // Each time in the right that lasted as long as the last ejection takes one back.
        let quiet = now.saturating_sub(vitals.ejected_until.load(Relaxed)) / base.saturating_mul(before.max(1).into());
        let times = before.saturating_sub(u32::try_from(quiet).unwrap_or(u32::MAX)).saturating_add(1);
        let longest = millis(LONGEST_EJECTION).max(base);
        vitals.ejections.store(times, Relaxed);
        vitals.say(format!("{count} {what} in a row"));
        vitals.forgive();
        vitals.ejected_until.store(now.saturating_add(base.saturating_mul(times.into()).min(longest)), Relaxed);
        true
    }

    /// Counts a request until the guard is dropped, where there is a reason to.
    pub fn enter(self: &Arc<Self>) -> Result<Option<Held>, Full> {
        let limits = &self.policy.limits;
        if limits.requests.is_none() && limits.retry_budget.is_none() {
            return Ok(None);
        }
        let is_in = below(&self.requests, limits.requests.unwrap_or(u32::MAX));
        if is_in { Ok(Some(Held::new(self, What::Request))) } else { Err(Full) }
    }

    /// The same of a retry; an error forbids it.
    pub fn retry(self: &Arc<Self>) -> Result<Option<Held>, Full> {
        let limits = &self.policy.limits;
        let most = match (limits.retry_budget, limits.retries) {
            (Some(budget), _) => {
                let requests = u64::from(self.requests.load(Relaxed));
                u32::try_from(requests * u64::from(budget.share) / 10_000).unwrap_or(u32::MAX).max(budget.at_least)
            }
            (None, Some(most)) => most,
            (None, None) => return Ok(None),
        };
        if below(&self.retries, most) { Ok(Some(Held::new(self, What::Retry))) } else { Err(Full) }
    }

    /// Whether connections have to be asked for.
    pub fn counts_connections(&self) -> bool {
        let limits = &self.policy.limits;
        limits.connections.is_some() || limits.endpoint_connections.is_some()
    }

    /// Room for a connection to an endpoint.
    pub fn connect(self: &Arc<Self>, vitals: &Arc<Vitals>) -> Result<Held, Full> {
        let limits = &self.policy.limits;
        if !below(&self.connections, limits.connections.unwrap_or(u32::MAX)) {
            return Err(Full);
        }
        let held = Held::new(self, What::Connection(None));
        if !below(&vitals.connections, limits.endpoint_connections.unwrap_or(u32::MAX)) {
            return Err(Full);
        }
        Ok(held.of(Arc::clone(vitals)))
    }

    /// A place in the queue for a connection.
    pub fn queue(self: &Arc<Self>) -> Result<Held, Full> {
        let is_in = below(&self.waiting, self.policy.limits.pending.unwrap_or(0));
        if is_in { Ok(Held::new(self, What::Place)) } else { Err(Full) }
    }

    /// A connection has ended since this was called.
    pub fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.freed.notified()
    }

    /// Connections, requests, and requests that wait.
    pub fn load(&self) -> (u32, u32, u32) {
        (self.connections.load(Relaxed), self.requests.load(Relaxed), self.waiting.load(Relaxed))
    }
}

/// A count that goes back when this is dropped.
pub struct Held {
    circuit: Arc<Circuit>,
    what: What,
}

enum What {
    Request,
    Retry,
    Place,
    /// Of an endpoint, once there is room.
    Connection(Option<Arc<Vitals>>),
}

impl Held {
    fn new(circuit: &Arc<Circuit>, what: What) -> Self {
        Self { circuit: Arc::clone(circuit), what }
    }

    fn of(mut self, vitals: Arc<Vitals>) -> Self {
        self.what = What::Connection(Some(vitals));
        self
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let circuit = &self.circuit;
        match &self.what {
            What::Request => circuit.requests.fetch_sub(1, Relaxed),
            What::Retry => circuit.retries.fetch_sub(1, Relaxed),
            What::Place => circuit.waiting.fetch_sub(1, Relaxed),
            What::Connection(vitals) => {
                if let Some(vitals) = vitals {
                    vitals.connections.fetch_sub(1, SeqCst);
                }
                // Either who begins to wait sees the room, or this sees who waits.
                let left = circuit.connections.fetch_sub(1, SeqCst);
                if circuit.waiting.load(SeqCst) > 0 {
                    circuit.freed.notify_one();
                }
                left
            }
        };
    }
}

fn clear(count: &AtomicU32) {
    // Not written where it need not be: workers share the cache line.
    if count.load(Relaxed) != 0 {
        count.store(0, Relaxed);
    }
}

fn reached(count: &AtomicU32, most: u32) -> bool {
    most > 0 && count.fetch_add(1, Relaxed).saturating_add(1) >= most
}

/// Adds one if the result is at most `most`.
fn below(count: &AtomicU32, most: u32) -> bool {
    count.fetch_update(SeqCst, SeqCst, |count| (count < most).then(|| count + 1)).is_ok()
}

#[cfg(test)]
mod tests;
