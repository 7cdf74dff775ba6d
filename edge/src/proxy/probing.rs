//! Active health checks: one thread asks every endpoint whose upstream wants it, and tells all workers what it found.
//!
//! In: the generations that workers get. Out: [`Vitals`] that say whether an endpoint is down. What is asked is one
//! [`Target`]: an address, a check, and how it is spoken to; however many routes and upstreams want the same, it is asked
//! once. A check goes the way of the traffic (TLS, verification and PROXY protocol header included) on connections of its
//! own, and never counts as traffic: not in limits, not for outliers.

mod judgement;
mod knock;
mod probe;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use edge_config::policy::{Check, CheckKind};
use edge_config::snapshot::{EndpointSet, EndpointState, ProxyVersion, UpstreamId, UpstreamProtocol, UpstreamTls};
use foldhash::{HashMap, HashMapExt as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use self::judgement::Judgement;
use super::clock::Clock;
use super::generation::Generation;
use super::limits::Limits;
use super::metrics::{MetricType, Text};
use super::upstream::Upstream;
use super::upstream::circuit::{self, Circuit, Vitals};
use super::upstream::hashing;
use super::{Mode, Shared, Wanted};

/// First checks are spread over at most so long, so that an endpoint that is down is found soon; later ones over their
/// interval, so that many cost the same at any time.
const SPREAD: Duration = Duration::from_secs(1);
/// Checks begin at multiples of this, so that one turn of the loop begins many, and ends many.
const GRID: Duration = Duration::from_millis(50);

/// What the checks came to.
#[derive(Debug, Default)]
pub struct Tally {
    pub succeeded: AtomicU64,
    pub failed: AtomicU64,
    /// What is checked now, each once.
    pub targets: AtomicU64,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Target {
    address: SocketAddr,
    check: Check,
    protocol: UpstreamProtocol,
    tls: Option<UpstreamTls>,
    proxy_protocol: Option<ProxyVersion>,
}

impl Tally {
    /// Appends the families to a page.
    pub fn write(&self, text: &mut Text) {
        text.family("edge_health_targets", MetricType::Gauge, "Endpoints under active checks, each check once.");
        text.sample(&[], self.targets.load(Ordering::Relaxed));
        text.family("edge_health_checks", MetricType::Counter, "Active checks that were made, by outcome.");
        text.sample(&[("outcome", &"success")], self.succeeded.load(Ordering::Relaxed));
        text.sample(&[("outcome", &"failure")], self.failed.load(Ordering::Relaxed));
    }
}

impl Target {
    /// Where the check goes.
    fn checked(&self) -> SocketAddr {
        SocketAddr::new(self.address.ip(), self.check.port.unwrap_or(self.address.port()))
    }
}

/// A target of one generation.
struct Asked {
    /// Of every upstream that wants it.
    vitals: Vec<Arc<Vitals>>,
    upstream: Upstream,
}

/// A target that is asked again and again.
struct Running {
    watched: Rc<Watched>,
    task: JoinHandle<()>,
}

struct Watched {
    target: Target,
    vitals: RefCell<Vec<Arc<Vitals>>>,
    /// What the last checks came to.
    state: RefCell<State>,
    upstream: RefCell<Rc<Upstream>>,
    limits: RefCell<Limits>,
}

#[derive(Default)]
struct State {
    judgement: Judgement,
    /// Why it is down.
    reason: Option<String>,
}

/// Runs until the proxy is told to stop.
pub(super) async fn run(shared: Arc<Shared>, mut wanted: watch::Receiver<Arc<Wanted>>) {
    let clock = Clock::new();
    let ticking = tokio::task::spawn_local(Rc::clone(&clock).run());
    let mut running: HashMap<Target, Running> = HashMap::new();
    let begun = Instant::now();
    // Kept alive with what they know, whether a worker has met them or not.
    let mut _circuits: Vec<Arc<Circuit>> = Vec::new();
    loop {
        let (mode, generation) = {
            let want = wanted.borrow_and_update();
            (want.mode, Arc::clone(&want.generation))
        };
        if mode == Mode::Stop {
            break;
        }
        let (circuits, plan) = plan(&shared, &generation);
        _circuits = circuits;
        follow(&shared, (&clock, begun), &mut running, plan, generation.limits);
        shared.tally.targets.store(running.len() as u64, Ordering::Relaxed);
        // It may be large, and nobody should wait for its end here.
        drop(generation);
        if wanted.changed().await.is_err() {
            break;
        }
    }
    running.into_values().for_each(|running| running.task.abort());
    ticking.abort();
}

/// Everything that is to be asked, each once.
fn plan(shared: &Shared, generation: &Generation) -> (Vec<Arc<Circuit>>, BTreeMap<Target, Asked>) {
    let mut circuits = Vec::new();
    let mut plan: BTreeMap<Target, Asked> = BTreeMap::new();
    for (id, upstream) in (0..).map(UpstreamId).zip(&generation.snapshot.upstreams) {
        let Some(policy) = &upstream.policy else { continue };
        let Some(check) = &policy.check else { continue };
        let Some(EndpointSet::Addresses(list)) = generation.endpoints.get(id.index()).map(|set| &**set) else {
            continue;
        };
        let circuit = shared.registry.circuit(&upstream.key, policy);
        let vitals = circuit.attend(list.iter().map(|endpoint| endpoint.address), circuit::now());
        circuits.push(circuit);
        let protocol = match (&check.kind, upstream.protocol) {
            (CheckKind::Grpc { .. }, _) => UpstreamProtocol::Http2,
            (CheckKind::Http(_), UpstreamProtocol::Stream) => UpstreamProtocol::Http1,
            (CheckKind::Http(_), protocol) => protocol,
            (CheckKind::Tcp { .. }, _) => UpstreamProtocol::Stream,
        };
        // What leaves has been told so, and is asked no more.
        let asked = list.iter().zip(vitals).filter(|(endpoint, _)| endpoint.state == EndpointState::Ready);
        for (endpoint, vitals) in asked {
            let target = Target {
                address: endpoint.address,
                check: check.clone(),
                protocol,
                tls: upstream.tls.clone(),
                proxy_protocol: upstream.proxy_protocol,
            };
            let tls = || generation.tls.upstream(id).map(|config| config.cloned().map_err(Box::from));
            let slot = plan.entry(target);
            let asked = slot.or_insert_with_key(|target| Asked {
                vitals: Vec::new(),
                upstream: Upstream::for_checks(upstream, protocol, target.checked(), tls()),
            });
            asked.vitals.push(vitals);
        }
    }
    (circuits, plan)
}

/// Asks exactly these from now on; what was asked before goes on as it was.
fn follow(
    shared: &Arc<Shared>,
    (clock, begun): (&Rc<Clock>, Instant),
    running: &mut HashMap<Target, Running>,
    plan: BTreeMap<Target, Asked>,
    limits: Limits,
) {
    running.retain(|target, running| {
        let stays = plan.contains_key(target);
        if !stays {
            running.task.abort();
        }
        stays
    });
    for (target, Asked { vitals, upstream }) in plan {
        let Some(Running { watched, .. }) = running.get(&target) else {
            // What was found out when it was asked before does not count any more.
            for vitals in &vitals {
                vitals.check(Ok(()), circuit::now());
            }
            let watched = Rc::new(Watched {
                target: target.clone(),
                vitals: RefCell::new(vitals),
                state: RefCell::default(),
                upstream: RefCell::new(Rc::new(upstream)),
                limits: RefCell::new(limits),
            });
            let task = watch(Arc::clone(shared), Rc::clone(&watched), Rc::clone(clock), begun);
            running.insert(target, Running { watched, task: tokio::task::spawn_local(task) });
            continue;
        };
        // Who asks only now learns what is known.
        let known = watched.state.borrow().reason.clone().map_or(Ok(()), Err);
        let is_new = |vitals: &&Arc<Vitals>| !watched.vitals.borrow().iter().any(|old| Arc::ptr_eq(old, vitals));
        for vitals in vitals.iter().filter(is_new) {
            vitals.check(known.clone(), circuit::now());
        }
        watched.vitals.replace(vitals);
        watched.limits.replace(limits);
        if !watched.upstream.borrow().speaks_like(&upstream) {
            watched.upstream.replace(Rc::new(upstream));
        }
    }
}

/// Asks one target at its interval.
async fn watch(shared: Arc<Shared>, watched: Rc<Watched>, clock: Rc<Clock>, begun: Instant) {
    let check = &watched.target.check;
    let timer = clock.timer();
    let (first, rest) = offsets(watched.target.address, check.interval);
    let first = on_grid(begun, Instant::now() + first);
    let mut ticks = interval_at(on_grid(begun, first + rest), check.interval);
    // What is late does not leave the grid.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    tokio::time::sleep_until(first).await;
    loop {
        let (upstream, limits) = (Rc::clone(&watched.upstream.borrow()), *watched.limits.borrow());
        let asked = probe::probe(&upstream, &watched.target.check, &clock, &limits);
        let outcome = match timer.within(check.timeout, asked).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {:?}", check.timeout)),
        };
        // Nobody is to be woken for what is over.
        timer.clear();
        let tally = &shared.tally;
        let counted = if outcome.is_ok() { &tally.succeeded } else { &tally.failed };
        counted.fetch_add(1, Ordering::Relaxed);
        watched.note(outcome);
        ticks.tick().await;
    }
}

/// How long the first check of an address waits, and how long after it the regular ones begin. By the address, so that it is
/// by chance only that edges that start together ask together.
fn offsets(address: SocketAddr, interval: Duration) -> (Duration, Duration) {
    // Multiplied, so that ports reach the upper bits, which are those that count.
    let hash = (hashing::of_client(address.ip()) ^ u64::from(address.port())).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let part = |hash: u64, of: Duration| {
        let micros = (u128::from(hash) * of.as_micros()) >> 64;
        Duration::from_micros(u64::try_from(micros).unwrap_or_default())
    };
    let first = part(hash, interval.min(SPREAD));
    // Where first checks are spread over all of it, later ones are as well.
    let rest = if interval > SPREAD { part(hash.rotate_left(32), interval) } else { interval };
    (first, rest)
}

/// The next moment of the grid, or this one.
fn on_grid(begun: Instant, at: Instant) -> Instant {
    let steps = at.saturating_duration_since(begun).as_micros().div_ceil(GRID.as_micros());
    begun + GRID.saturating_mul(u32::try_from(steps).unwrap_or(u32::MAX))
}

impl Watched {
    fn note(&self, outcome: Result<(), String>) {
        let check = &self.target.check;
        let mut state = self.state.borrow_mut();
        let Some(is_up) = state.judgement.note(outcome.is_ok(), check) else { return };
        let address = self.target.address;
        state.reason = outcome.err().map(|reason| format!("check failed {} times: {reason}", check.fall));
        match &state.reason {
            None => tracing::info!(endpoint = %address, "checks succeed again"),
            Some(reason) => tracing::warn!(endpoint = %address, %reason, "taken out"),
        }
        debug_assert_eq!(is_up, state.reason.is_none());
        for vitals in &*self.vitals.borrow() {
            vitals.check(state.reason.clone().map_or(Ok(()), Err), circuit::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_spread_over_their_interval_and_begin_together() {
        let interval = Duration::from_secs(5);
        let mut seconds = [0; 5];
        for number in 0..1000_u32 {
            let address = SocketAddr::new(std::net::Ipv4Addr::from(0x7f00_0000 + number).into(), 80);
            let (first, rest) = offsets(address, interval);
            assert!(first < SPREAD && rest < interval, "{first:?} {rest:?}");
            seconds[usize::try_from((first + rest).as_secs()).unwrap() % 5] += 1;
            let (first, rest) = offsets(address, Duration::from_millis(100));
            assert!(first < Duration::from_millis(100) && rest == Duration::from_millis(100));
        }
        assert!(seconds.iter().all(|count| (120..280).contains(count)), "{seconds:?}");
        let begun = Instant::now();
        for (at, expected) in [(0, 0), (1, 50), (50, 50), (51, 100), (7_000, 7_000), (7_001, 7_050)] {
            let found = on_grid(begun, begun + Duration::from_millis(at));
            assert_eq!(found, begun + Duration::from_millis(expected), "{at}");
        }
    }
}
