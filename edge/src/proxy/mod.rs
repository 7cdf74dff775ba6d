//! The data plane: connections in, requests routed by the current snapshot, bytes out.
//!
//! In: generations (snapshot, endpoints, certificates, limits) from the supervisor, connections from clients. Out:
//! bytes to endpoints and clients, access log entries, counters. It decides nothing that the snapshot decides, waits
//! for nothing in the control plane, and keeps serving the generation it has.
//!
//! A request passes one function per step: [`h1`] or `h2` decode it into the canonical [`message`], [`exchange`]
//! routes, edits and forwards it, [`upstream`] supplies the connection, and the body is pumped from a `Source` to a
//! `Sink` ([`body`]). Standards: RFC 9110, RFC 9112, RFC 9113, RFC 9114, RFC 6455 (tunnel only), RFC 6265 (session cookies).
#![allow(async_fn_in_trait)] // one thread per worker: no future needs to be Send

pub mod accept;
pub mod access_log;
pub mod authorities;
pub mod body;
pub mod buffer;
pub mod challenges;
pub mod clock;
pub mod complaints;
pub mod digits;
pub mod exchange;
pub mod filters;
#[cfg(any(test, fuzzing))] // cargo-fuzz sets the latter
pub mod fuzzing;
pub mod generation;
pub mod h1;
pub mod h2;
pub mod h3;
pub mod health;
pub mod io;
pub mod l4;
pub mod limits;
pub mod listening;
pub mod message;
pub mod metrics;
pub mod path;
pub mod probing;
pub mod protection;
pub mod proxy_protocol;
pub mod reason;
pub mod responses;
pub mod secrets;
pub mod secure;
pub mod security;
pub mod tap;
pub mod tls;
pub mod trace;
pub mod upstream;
pub mod worker;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use edge_config::snapshot::{Transport, UpstreamKey};
use foldhash::{HashMap, HashMapExt as _};
use tokio::sync::{Notify, watch};

use self::authorities::Authorities;
use self::challenges::Board;
use self::filters::session::Tokens;
pub use self::generation::Generation;
use self::health::Health;
use self::io::Backend;
use self::l4::udp::HandedFlow;
use self::listening::{Bound, HandedSocket};
use self::metrics::{Series, WorkerMetrics};
use self::protection::Ledger;
use self::tap::Taps;
use self::upstream::circuit::Registry;
use self::worker::Seat;
use crate::control::observed::{Ejection, UpstreamState};
use crate::pulse::Pulse;

/// Of a worker's thread. Only what is touched costs memory; an exchange is deep, above all without optimisation.
const STACK: usize = 16 << 20;

/// What workers may take to let go of their sockets; one that stands still takes its sessions with it.
const RETIRE: Duration = Duration::from_millis(500);

/// How the data plane is set up for the life of the daemon.
pub struct ProxyOptions {
    /// 0 is one per CPU.
    pub workers: usize,
    /// `None` leaves the choice to us: epoll, which was measured equal or better on every path.
    pub backend: Option<Backend>,
    pub tokens: Tokens,
    /// Of QUIC.
    pub keys: h3::steering::Keys,
    pub log: Option<access_log::AccessLog>,
    /// From the edged that ran before, if there is one: nothing is accepted until [`Proxy::begin`].
    pub handed: Option<Vec<HandedSocket>>,
}

/// What all workers shall do. The whole of it is given each time, and only the newest counts.
struct Wanted {
    generation: Arc<Generation>,
    /// By worker.
    series: Vec<Arc<Series>>,
    sockets: Vec<Arc<Bound>>,
    mode: Mode,
}

/// What is left of a generation that is no longer wanted. Not its sockets: one that nobody accepts on must be closed.
struct Retired {
    generation: Arc<Generation>,
    series: Vec<Arc<Series>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Everything is there, but another edged still accepts.
    Wait,
    /// Connections are accepted, datagrams are not: their flows are still another edged's.
    Begin,
    Serve,
    /// New connections are served as ever, but none gets a next request: clients come back by another way.
    Leave,
    /// No new connections, no request after the next one on those that there are: another edged accepts.
    Retire,
    /// No new connections, no next request on those that there are.
    Drain,
    Stop,
}

/// What the workers share; never touched per request.
struct Shared {
    /// Of all workers.
    connections: AtomicUsize,
    /// Of all addresses and workers.
    udp_sessions: Arc<AtomicUsize>,
    /// UDP sessions on their way from or to another process.
    flows: Mutex<Vec<HandedFlow>>,
    /// Workers that have let go of their sockets.
    relieved: AtomicUsize,
    /// Which endpoint a client of a Service stays with, whichever worker it comes to.
    affinity: l4::affinity::Affinity,
    /// Why a worker does not accept on all of its sockets.
    deaf: Vec<Mutex<Option<String>>>,
    /// The generation that each worker serves.
    live: Vec<AtomicU64>,
    /// Of each worker, whether it has work or not.
    pulses: Vec<Pulse>,
    health: Health,
    /// Of upstreams with a policy.
    registry: Arc<Registry>,
    tally: Arc<probing::Tally>,
    board: Arc<Board>,
    /// Who looks at requests.
    taps: Arc<Taps>,
    authorities: Arc<Authorities>,
    /// What is counted against limits.
    ledger: Arc<Ledger>,
    changed: Notify,
}

impl Shared {
    fn new(workers: usize, authorities: Arc<Authorities>) -> Self {
        Self {
            connections: AtomicUsize::new(0),
            udp_sessions: Arc::default(),
            flows: Mutex::default(),
            relieved: AtomicUsize::new(0),
            affinity: Default::default(),
            deaf: (0..workers).map(|_| Mutex::default()).collect(),
            live: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            pulses: (0..workers).map(|_| Pulse::default()).collect(),
            health: Health::new(workers),
            registry: Arc::default(),
            tally: Default::default(),
            board: Arc::new(Board::new(workers)),
            taps: Arc::new(Taps::new(workers)),
            authorities,
            ledger: Arc::default(),
            changed: Notify::new(),
        }
    }
}

/// A socket that could not be bound, and why.
#[derive(Debug)]
pub struct BindFailure {
    pub address: SocketAddr,
    pub transport: Transport,
    pub error: std::io::Error,
}

/// Why the data plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("worker thread cannot be started")]
    Thread(#[source] std::io::Error),
}

/// The running data plane.
pub struct Proxy {
    wanted: watch::Sender<Arc<Wanted>>,
    bound: Mutex<HashMap<(SocketAddr, Transport), Arc<Bound>>>,
    /// Of another edged, as long as nobody has wanted them.
    handed: Mutex<HashMap<(SocketAddr, Transport), Arc<Bound>>>,
    /// Sockets of QUIC, also those that are there for the connections on them alone.
    lingering: Mutex<HashMap<SocketAddr, Weak<Bound>>>,
    keys: h3::steering::Keys,
    shared: Arc<Shared>,
    metrics: Vec<Arc<WorkerMetrics>>,
    threads: Vec<JoinHandle<()>>,
    /// Makes the active checks.
    checker: Option<JoinHandle<()>>,
    /// Asks OpenID providers and fetches keys.
    asker: Option<JoinHandle<()>>,
    log: Option<access_log::AccessLog>,
    backend: Backend,
    /// Generations that workers may still hold. They end here, because to free a large one takes milliseconds that no
    /// worker has.
    retired: Mutex<Vec<Retired>>,
}

impl Proxy {
    /// Starts the workers with a first generation, whose sockets are not opened yet: that is [`publish`](Self::publish).
    pub fn start(options: ProxyOptions, first: Generation) -> Result<Self, StartError> {
        let backend = choose(options.backend, io::uring::probe);
        let workers = match options.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        };
        let (authorities, orders) = Authorities::new();
        let shared = Arc::new(Shared::new(workers, authorities));
        let series = (0..workers).map(|_| Arc::default()).collect();
        let mode = if options.handed.is_none() { Mode::Serve } else { Mode::Wait };
        let first = Wanted { generation: Arc::new(first), series, sockets: Vec::new(), mode };
        let (wanted, receiver) = watch::channel(Arc::new(first));
        let tokens = Arc::new(options.tokens);
        let mut proxy = Self {
            wanted,
            bound: Mutex::default(),
            lingering: Mutex::default(),
            keys: options.keys,
            handed: Mutex::new(together(options.handed.unwrap_or_default())),
            shared,
            metrics: Vec::new(),
            threads: Vec::new(),
            checker: None,
            asker: None,
            log: options.log,
            backend,
            retired: Mutex::default(),
        };
        for index in 0..workers {
            let metrics = WorkerMetrics::new();
            proxy.metrics.push(Arc::clone(&metrics));
            let seat = Seat {
                index,
                backend,
                wanted: receiver.clone(),
                shared: Arc::clone(&proxy.shared),
                metrics,
                tokens: Arc::clone(&tokens),
                log: proxy.log.as_ref().map(access_log::AccessLog::sink),
            };
            let thread = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .stack_size(STACK)
                .spawn(move || run_worker(seat))
                .map_err(StartError::Thread)?;
            proxy.threads.push(thread);
        }
        let (asking, following) = (Arc::clone(&proxy.shared), receiver.clone());
        let thread = std::thread::Builder::new()
            .name("authorities".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                if let Err(error) = io::epoll::run(authorities::run(asking, following, orders)) {
                    tracing::error!(%error, "nobody can be asked about logins and keys");
                }
            })
            .map_err(StartError::Thread)?;
        proxy.asker = Some(thread);
        let (checked, wanted) = (Arc::clone(&proxy.shared), receiver);
        let thread = std::thread::Builder::new()
            .name("health".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                if let Err(error) = io::epoll::run(probing::run(checked, wanted)) {
                    tracing::error!(%error, "endpoints cannot be checked");
                }
            })
            .map_err(StartError::Thread)?;
        proxy.checker = Some(thread);
        tracing::info!(workers, io = backend.as_str(), "the proxy runs");
        Ok(proxy)
    }

    /// Makes a generation the current one. New sockets are bound first, so that nothing is published which does not
    /// accept; one that fails costs only itself and is tried again the next time. Sockets that are gone stop accepting.
    pub fn publish(&self, generation: Generation) -> Vec<BindFailure> {
        let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        let handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut failures = Vec::new();
        let mut next = HashMap::with_capacity(generation.snapshot.sockets.len());
        let sockets = generation.snapshot.sockets.iter().map(|socket| (socket.address, socket.transport));
        let responders = generation.responders.iter().map(|address| (*address, Transport::Tcp));
        for key in sockets.chain(responders) {
            let known = bound.get(&key).or_else(|| next.get(&key)).or_else(|| handed.get(&key)).cloned();
            let existing = known.or_else(|| self.lingering(key));
            let bind = || Bound::new(key.0, key.1, self.threads.len(), &self.keys).map(Arc::new);
            match existing.map_or_else(bind, Ok) {
                Ok(socket) => {
                    self.remember(&socket);
                    next.insert(key, socket);
                }
                Err(error) => failures.push(BindFailure { address: key.0, transport: key.1, error }),
            }
        }
        drop(handed);
        let sockets = next.values().cloned().collect();
        *bound = next;
        let series = self.metrics.iter().map(|metrics| metrics.prepare(&generation.snapshot)).collect();
        let mode = self.wanted.borrow().mode;
        let wanted = Arc::new(Wanted { generation: Arc::new(generation), series, sockets, mode });
        let before = self.wanted.send_replace(wanted);
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.push(Retired { generation: Arc::clone(&before.generation), series: before.series.clone() });
        drop(retired);
        self.forget();
        failures
    }

    /// A socket of QUIC that connections still hold. A second one beside it would get a share of its datagrams.
    fn lingering(&self, (address, transport): (SocketAddr, Transport)) -> Option<Arc<Bound>> {
        if transport != Transport::Quic {
            return None;
        }
        self.lingering.lock().unwrap_or_else(PoisonError::into_inner).get(&address)?.upgrade()
    }

    fn remember(&self, socket: &Arc<Bound>) {
        if let (address, Transport::Quic) = socket.key() {
            let mut lingering = self.lingering.lock().unwrap_or_else(PoisonError::into_inner);
            lingering.retain(|_, socket| socket.strong_count() > 0);
            lingering.insert(address, Arc::downgrade(socket));
        }
    }

    /// Frees the generations that no worker holds any more. To be called now and then.
    pub fn forget(&self) {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|Retired { generation, series }| {
            Arc::strong_count(generation) > 1 || series.iter().any(|series| Arc::strong_count(series) > 1)
        });
    }

    /// The newest generation that every worker serves.
    pub fn live(&self) -> u64 {
        self.shared.live.iter().map(|live| live.load(Ordering::Acquire)).min().unwrap_or_default()
    }

    /// How many workers serve this generation or a later one.
    pub fn acknowledged(&self, number: u64) -> usize {
        self.shared.live.iter().filter(|live| live.load(Ordering::Acquire) >= number).count()
    }

    /// Why workers do not accept on all of their sockets, one line for each that does not. They try again by themselves,
    /// and do not count as serving the current generation before.
    pub fn deaf(&self) -> Vec<String> {
        let known = self.shared.deaf.iter().map(|why| why.lock().unwrap_or_else(PoisonError::into_inner).clone());
        known.flatten().collect()
    }

    /// Beat at least every [`access_log::FLUSH_INTERVAL`] as long as the worker's thread gets anywhere.
    pub fn pulses(&self) -> &[Pulse] {
        &self.shared.pulses
    }

    /// UDP sessions, of all workers.
    pub fn udp_sessions(&self) -> usize {
        self.shared.udp_sessions.load(Ordering::Relaxed)
    }

    /// Work in flight and endpoints that are passed over, as of about a second ago, and what is known of those that
    /// have a policy, as of now.
    pub fn health(&self) -> BTreeMap<UpstreamKey, UpstreamState> {
        let mut known = self.shared.health.merged();
        let now = upstream::circuit::now();
        self.shared.registry.each(|key, circuit| {
            circuit.each(|vitals| {
                if let Some((since, reason)) = vitals.why_out(now) {
                    let ejected = &mut known.entry(key.clone()).or_default().ejected;
                    ejected.insert(vitals.address, Ejection { since, reason: reason.into() });
                }
            });
        });
        known
    }

    /// What the active checks came to.
    pub fn checks(&self) -> &Arc<probing::Tally> {
        &self.shared.tally
    }

    /// Waits until every worker serves this generation or a later one.
    pub async fn until_live(&self, number: u64) {
        loop {
            let changed = self.shared.changed.notified();
            if self.live() >= number {
                return;
            }
            // A notice may come between the look and the wait; nobody waits for ever because of it.
            let _ = tokio::time::timeout(Duration::from_millis(50), changed).await;
        }
    }

    /// What is known of OpenID providers and remote keys.
    pub fn authorities(&self) -> &Arc<Authorities> {
        &self.shared.authorities
    }

    /// What is counted against limits, for the other edges.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.shared.ledger
    }

    /// Where answers to ACME challenges are put.
    pub fn board(&self) -> &Arc<Board> {
        &self.shared.board
    }

    /// Where who wants to see requests is put.
    pub fn taps(&self) -> &Arc<Taps> {
        &self.shared.taps
    }

    pub fn backend(&self) -> Backend {
        self.backend
    }

    pub fn metrics(&self) -> &[Arc<WorkerMetrics>] {
        &self.metrics
    }

    pub fn log(&self) -> Option<&access_log::AccessLog> {
        self.log.as_ref()
    }

    /// Connections from clients, of all workers.
    pub fn connections(&self) -> usize {
        self.shared.connections()
    }

    /// Whether every connection ends after its current request, new ones included: the network leads clients elsewhere,
    /// and they are to notice while this edge still answers.
    pub fn leave(&self, is_leaving: bool) {
        let mode = if is_leaving { Mode::Leave } else { Mode::Serve };
        self.change(mode, |mode| matches!(mode, Mode::Serve | Mode::Leave));
    }

    fn change(&self, mode: Mode, may: impl FnOnce(Mode) -> bool) {
        self.wanted.send_if_modified(|wanted| {
            let changes = wanted.mode != mode && may(wanted.mode);
            if changes {
                let Wanted { generation, series, sockets, .. } = &**wanted;
                let (generation, series, sockets) = (Arc::clone(generation), series.clone(), sockets.clone());
                *wanted = Arc::new(Wanted { generation, series, sockets, mode });
            }
            changes
        });
    }

    /// Stops accepting, lets every connection end after its current request, and waits for that up to a deadline.
    pub async fn drain(&self, deadline: Duration) {
        self.set_mode(Mode::Drain);
        let end = Instant::now() + deadline;
        while self.connections() > 0 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// All sockets, for another edged. Not those of QUIC: connections live on them, and end here.
    pub fn hand(&self) -> std::io::Result<Vec<HandedSocket>> {
        let bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        let handed: std::io::Result<Vec<Vec<HandedSocket>>> = {
            let passes = |bound: &&Arc<Bound>| bound.key().1 != Transport::Quic;
            bound.values().filter(passes).map(|bound| bound.hand()).collect()
        };
        Ok(handed?.into_iter().flatten().collect())
    }

    /// Accepts connections from now on: who did so before lets go. Datagrams follow with [`serve`](Self::serve).
    pub fn begin(&self) {
        // Those that are wanted are held as bound. Connections that wait in the others are nobody's.
        self.handed.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.change(Mode::Begin, |mode| mode == Mode::Wait);
    }

    /// Serves everything, and goes on with these sessions of UDP.
    pub fn serve(&self, flows: Vec<HandedFlow>) {
        let bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        let is_served = |flow: &HandedFlow| bound.contains_key(&(flow.local, Transport::Udp));
        let flows = flows.into_iter().filter(is_served);
        self.shared.flows.lock().unwrap_or_else(PoisonError::into_inner).extend(flows);
        drop(bound);
        self.change(Mode::Serve, |mode| mode == Mode::Begin);
    }

    /// Lets go of all sockets, of which a successor has its own descriptors, and lets every connection end with its next
    /// request. Returns the sessions of UDP, which are the successor's as well.
    pub async fn retire(&self) -> Vec<HandedFlow> {
        self.set_mode(Mode::Retire);
        let end = Instant::now() + RETIRE;
        while self.shared.relieved.load(Ordering::Acquire) < self.threads.len() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        std::mem::take(&mut *self.shared.flows.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the workers and every connection that is left.
    pub fn stop(mut self) {
        self.set_mode(Mode::Stop);
        for thread in self.threads.drain(..).chain(self.checker.take()).chain(self.asker.take()) {
            if thread.join().is_err() {
                tracing::error!("a thread of the proxy panicked");
            }
        }
        if let Some(log) = self.log.take() {
            log.close();
        }
    }

    fn set_mode(&self, mode: Mode) {
        let (generation, series) = {
            let wanted = self.wanted.borrow();
            (Arc::clone(&wanted.generation), wanted.series.clone())
        };
        self.bound.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.wanted.send_replace(Arc::new(Wanted { generation, series, sockets: Vec::new(), mode }));
    }
}

/// By address, in the order of the one who bound them.
fn together(mut handed: Vec<HandedSocket>) -> HashMap<(SocketAddr, Transport), Arc<Bound>> {
    handed.sort_by_key(|socket| socket.index);
    let mut all: HashMap<_, Vec<_>> = HashMap::new();
    for HandedSocket { address, transport, descriptor, .. } in handed {
        all.entry((address, transport)).or_default().push(descriptor);
    }
    let bound = |((address, transport), descriptors)| Bound::handed(address, transport, descriptors);
    all.into_iter().map(|(key, descriptors)| (key, Arc::new(bound((key, descriptors))))).collect()
}

/// Traffic is served either way: a machine that denies io_uring costs one line in the log.
fn choose(wanted: Option<Backend>, probe: impl FnOnce() -> std::io::Result<()>) -> Backend {
    let wanted = wanted.unwrap_or_default();
    if wanted == Backend::Uring
        && let Err(error) = probe()
    {
        tracing::warn!(%error, "io_uring was asked for and does not work here, using epoll");
        return Backend::Epoll;
    }
    wanted
}

fn run_worker(seat: Seat) {
    let index = seat.index;
    let result = match seat.backend {
        Backend::Uring => io::uring::run(worker::run(seat)),
        Backend::Epoll => io::epoll::run(worker::run(seat)),
    };
    if let Err(error) = result {
        tracing::error!(worker = index, %error, "worker cannot run");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_io_uring_is_served_by_epoll() {
        let (works, denied) = (|| Ok(()), || Err(std::io::ErrorKind::PermissionDenied.into()));
        assert_eq!(choose(None, works), Backend::Epoll);
        assert_eq!(choose(Some(Backend::Epoll), works), Backend::Epoll);
        assert_eq!(choose(Some(Backend::Uring), works), Backend::Uring);
        assert_eq!(choose(Some(Backend::Uring), denied), Backend::Epoll);
    }
}
