//! One worker: a thread with its own runtime, listeners, pools and clock, which shares nothing with others on the request
//! path. It converges on what the supervisor wants (see [`Wanted`]) and says which generation is live.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use edge_config::policy::ConnectionLimit;
use edge_config::snapshot::{ClientSettings, Http2Bounds, Port, PortId, Snapshot, Transport, UpstreamId};
use foldhash::{HashMap, HashMapExt as _};
use tokio::sync::watch;

use super::accept::{self, Accepting};
use super::authorities::Authorities;
use super::challenges::Challenges;
use super::clock::Clock;
use super::complaints::Complaints;
use super::filters::session::Tokens;
use super::generation::Generation;
use super::h2::front::Attendants;
use super::h3;
use super::io::Backend;
use super::l4::udp::HandedFlow;
use super::listening::Bound;
use super::metrics::{Series, WorkerMetrics};
use super::protection::{self, Ledger, connections};
use super::proxy_protocol::Origin;
use super::secrets::Secrets;
use super::security::prepared::Prepared;
use super::tap::Watched;
use super::tls::shown::Shown;
use super::upstream::balance::Random;
use super::upstream::{Called, Definition, Dialer, Upstream, Upstreams};
use super::{Mode, Shared, Wanted, access_log, trace};

/// How often idle upstream connections are looked at.
const SWEEP: Duration = Duration::from_secs(5);
/// How often the health of endpoints is told to the control side, and free memory is given back.
const POST: Duration = Duration::from_secs(1);

/// Until accepting is tried again, doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A connection as it arrived: what routing needs beside the request.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The client: the other end of the connection, or who a trusted PROXY protocol header says.
    pub peer: SocketAddr,
    /// The address that was connected to, as the snapshot has it.
    pub local: SocketAddr,
    /// What such a header says beside the client.
    pub proxied: Option<Box<Proxied>>,
    /// Whether it is inside TLS that we terminated, and the server name of the handshake.
    pub secure: bool,
    pub server_name: Option<Box<str>>,
    /// What the client showed to a listener that asks for certificates.
    pub shown: Option<Box<Shown>>,
    /// What the handshake settled, for the log.
    pub tls: Option<Settled>,
    pub at: Instant,
    /// What the listener that the handshake or the last request picked says of waiting for the next request.
    pub patience: Cell<Option<Patience>>,
    /// Requests so far, where somebody counts them.
    pub requests: Cell<u32>,
    /// What the listener that the handshake picked says of HTTP/2.
    pub http2: Option<Http2Bounds>,
}

/// Of a connection that a load balancer in front has made on behalf of a client.
#[derive(Debug, Clone, Copy)]
pub struct Proxied {
    /// The load balancer.
    pub by: SocketAddr,
    /// The address that the client connected to.
    pub destination: SocketAddr,
}

impl Arrival {
    /// A connection of which nothing is known but its ends.
    pub fn new(peer: SocketAddr, local: SocketAddr) -> Self {
        Self {
            peer,
            local,
            proxied: None,
            secure: false,
            server_name: None,
            shown: None,
            tls: None,
            at: Instant::now(),
            patience: Cell::default(),
            requests: Cell::default(),
            http2: None,
        }
    }

    /// The connection as its client sees it.
    pub fn origin(&self) -> Origin {
        Origin { source: self.peer, destination: self.destination() }
    }

    /// The address that the client connected to.
    pub fn destination(&self) -> SocketAddr {
        self.proxied.as_ref().map_or(self.local, |proxied| proxied.destination)
    }
}

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Without a request.
    pub idle: Duration,
    /// From the first byte of a head to its last.
    pub head: Duration,
}

impl Patience {
    pub fn of(client: &ClientSettings) -> Self {
        Self { idle: client.idle_timeout, head: client.head_timeout }
    }

    pub fn with_idle(self, idle: Duration) -> Self {
        Self { idle, ..self }
    }
}

/// Version and cipher suite of a TLS connection.
#[derive(Debug, Clone, Copy)]
pub struct Settled {
    pub version: &'static str,
    pub cipher: &'static str,
}

/// A generation with what this worker made of it.
pub struct Current {
    pub generation: Arc<Generation>,
    pub series: Arc<Series>,
    called: Called,
    upstreams: Rc<RefCell<Upstreams>>,
    ports: HashMap<(SocketAddr, Transport), PortId>,
    port_limits: connections::PortLimits,
}

impl Current {
    pub fn snapshot(&self) -> &Snapshot {
        &self.generation.snapshot
    }

    pub fn secrets(&self) -> &Secrets {
        &self.generation.secrets
    }

    pub fn upstream(&self, id: UpstreamId) -> Option<&Rc<Upstream>> {
        self.called.get(id, &definition(&self.generation, &self.series), &self.upstreams)
    }

    pub fn port_id(&self, address: SocketAddr, transport: Transport) -> Option<PortId> {
        self.ports.get(&(address, transport)).copied()
    }

    /// The limit that the HTTP listeners of a port share.
    pub fn port_limit(&self, address: SocketAddr) -> Option<ConnectionLimit> {
        if self.port_limits.is_empty() {
            return None;
        }
        self.port_limits.get(&self.port_id(address, Transport::Tcp)?).copied()
    }

    /// The TCP port that an address belongs to now, which may be none any more.
    pub fn port_at(&self, address: SocketAddr) -> Option<&Port> {
        let id = self.port_id(address, Transport::Tcp)?;
        self.snapshot().ports.get(id.index())
    }
}

pub struct Worker {
    pub index: usize,
    pub backend: Backend,
    pub clock: Rc<Clock>,
    pub random: Random,
    pub metrics: Arc<WorkerMetrics>,
    pub tokens: Arc<Tokens>,
    pub mirrors: Gate,
    pub attendants: Attendants,
    pub log: Option<RefCell<access_log::Sink>>,
    pub spans: RefCell<trace::Sink>,
    /// Who looks at requests.
    pub watched: Watched,
    /// About PROXY protocol headers.
    pub complaints: Complaints,
    /// What it keeps of what all workers count.
    pub near: protection::Near,
    /// What a CA is answered.
    pub challenges: RefCell<Arc<Challenges>>,
    /// What was made of passwords, keys and tokens.
    pub prepared: Prepared,
    /// Addresses on which QUIC is spoken, or was while a connection of theirs lives.
    quic: RefCell<HashMap<SocketAddr, Rc<h3::Listening>>>,
    pub(super) shared: Arc<Shared>,
    current: RefCell<Rc<Current>>,
    upstreams: Rc<RefCell<Upstreams>>,
    draining: Cell<bool>,
    /// Connections that wait for a next request end now.
    ends_idle: Cell<bool>,
}

impl Worker {
    /// A worker before its first generation: it has the bounds of that one, and nothing to serve.
    pub(super) fn new(seat: Seat) -> (Rc<Self>, watch::Receiver<Arc<Wanted>>) {
        let Seat { index, backend, mut wanted, shared, metrics, tokens, log } = seat;
        let first = Arc::clone(&wanted.borrow_and_update().generation);
        let upstreams = Rc::new(RefCell::new(Upstreams::new(Arc::clone(&shared.registry))));
        let worker = Rc::new(Self {
            index,
            backend,
            clock: Clock::new(),
            random: Random::from_system(),
            current: RefCell::new(Rc::new(Current {
                series: Arc::default(),
                generation: Arc::new(Generation {
                    snapshot: Arc::default(),
                    endpoints: Arc::default(),
                    ..(*first).clone()
                }),
                called: Called::none(),
                upstreams: Rc::clone(&upstreams),
                ports: HashMap::new(),
                port_limits: connections::PortLimits::default(),
            })),
            metrics,
            tokens,
            mirrors: Gate::default(),
            attendants: Attendants::default(),
            log: log.map(RefCell::new),
            spans: RefCell::default(),
            watched: Watched::default(),
            complaints: Complaints::default(),
            near: protection::Near::default(),
            challenges: RefCell::default(),
            prepared: Prepared::default(),
            quic: RefCell::default(),
            shared,
            upstreams,
            draining: Cell::new(false),
            ends_idle: Cell::new(false),
        });
        (worker, wanted)
    }

    /// The generation that a request which begins now belongs to.
    pub fn current(&self) -> Rc<Current> {
        Rc::clone(&self.current.borrow())
    }

    /// Dials, on behalf of a client where endpoints are told of it.
    pub fn dialer<'a>(&'a self, current: &'a Current, origin: Option<Origin>) -> Dialer<'a> {
        Dialer {
            clock: &self.clock,
            backend: self.backend,
            limits: &current.generation.limits,
            origin,
            connect_timeout: None,
        }
    }

    /// Those whose word decides who may pass.
    pub fn authorities(&self) -> &Authorities {
        &self.shared.authorities
    }

    /// What all workers count together.
    pub fn ledger(&self) -> &Ledger {
        &self.shared.ledger
    }

    /// Open connections, in thousandths of those that there may be.
    pub fn load(&self) -> u32 {
        let most = self.current.borrow().generation.limits.max_connections.max(1);
        u32::try_from(self.shared.connections().saturating_mul(1000) / most).unwrap_or(u32::MAX)
    }

    /// Who speaks QUIC on an address.
    pub fn quic(&self, address: SocketAddr) -> Option<Rc<h3::Listening>> {
        self.quic.borrow().get(&address).cloned()
    }

    /// Whether a client of an address would be served by HTTP/3.
    pub fn serves_http3(&self, address: SocketAddr) -> bool {
        self.quic.borrow().get(&address).is_some_and(|listening| listening.is_open())
    }

    /// Its last connection is gone.
    pub fn forget_quic(&self, listening: &Rc<h3::Listening>) {
        let mut quic = self.quic.borrow_mut();
        if quic.get(&listening.address()).is_some_and(|known| Rc::ptr_eq(known, listening)) {
            quic.remove(&listening.address());
        }
    }

    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Whether a connection without a request under way is to end. One that a successor has relieved does not: a client
    /// may be sending its next request at this moment, and learns from the answer that it is the last.
    pub fn ends_idle(&self) -> bool {
        self.ends_idle.get()
    }

    /// Another process has taken over its sockets.
    pub fn is_relieved(&self) -> bool {
        self.draining.get() && !self.ends_idle.get()
    }

    /// How many workers there are.
    pub fn count(&self) -> usize {
        self.shared.pulses.len()
    }

    /// Waits for a future, or `None` as soon as the worker drains. The future must wait on a timer of this worker.
    pub async fn unless_draining<F: Future>(&self, future: F) -> Option<F::Output> {
        unless(&self.draining, future).await
    }

    /// The same, as soon as idle connections end.
    pub async fn unless_idle_ends<F: Future>(&self, future: F) -> Option<F::Output> {
        unless(&self.ends_idle, future).await
    }

    /// A place for one more connection, or `None` at the limit.
    pub fn enter(&self) -> Option<ConnectionPlace> {
        let most = self.current.borrow().generation.limits.max_connections;
        let counter = &self.shared.connections;
        if counter.fetch_add(1, Ordering::Relaxed) >= most {
            counter.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(ConnectionPlace { shared: Arc::clone(&self.shared), metrics: Arc::clone(&self.metrics) })
    }

    /// Takes up a generation.
    pub(super) fn adopt(&self, generation: Arc<Generation>, series: Arc<Series>) {
        let before = self.current();
        if Arc::ptr_eq(&before.generation, &generation) {
            return;
        }
        self.metrics.adopt(&series);
        self.spans.borrow_mut().adopt(generation.tracer.as_ref());
        let upstreams = Rc::clone(&self.upstreams);
        let called = upstreams.borrow_mut().succeed(&definition(&generation, &series), &before.called);
        let port_limits = connections::of_ports(&generation.snapshot);
        *self.current.borrow_mut() =
            Rc::new(Current { ports: ports(&generation), port_limits, generation, series, called, upstreams });
        self.near.forget();
    }
}

/// Waits for a future, or for a flag, of whose change the clock wakes everybody.
async fn unless<F: Future>(flag: &Cell<bool>, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        if flag.get() { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}

fn definition<'g>(generation: &'g Generation, series: &'g Series) -> Definition<'g> {
    let Generation { snapshot, endpoints, tls, .. } = generation;
    Definition { snapshot, endpoints, tls, series }
}

fn ports(generation: &Generation) -> HashMap<(SocketAddr, Transport), PortId> {
    let sockets = &generation.snapshot.sockets;
    sockets.iter().map(|socket| ((socket.address, socket.transport), socket.port)).collect()
}

/// Counts a connection until it is dropped, and a panic if that is why.
pub struct ConnectionPlace {
    shared: Arc<Shared>,
    metrics: Arc<WorkerMetrics>,
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.shared.connections.fetch_sub(1, Ordering::Relaxed);
        if std::thread::panicking() {
            self.metrics.panics.one();
        }
    }
}

/// Lets a bounded number of things happen at once.
#[derive(Debug, Default)]
pub struct Gate(Rc<Cell<usize>>);

#[derive(Debug)]
pub struct Place(Rc<Cell<usize>>);

impl Gate {
    pub fn enter(&self, most: usize) -> Option<Place> {
        let count = self.0.get();
        if count >= most {
            return None;
        }
        self.0.set(count + 1);
        Some(Place(Rc::clone(&self.0)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// What a worker thread is started with.
pub(super) struct Seat {
    pub index: usize,
    pub backend: Backend,
    pub wanted: watch::Receiver<Arc<Wanted>>,
    pub shared: Arc<Shared>,
    pub metrics: Arc<WorkerMetrics>,
    pub tokens: Arc<Tokens>,
    pub log: Option<access_log::Sink>,
}

/// Runs a worker until it is told to stop.
pub(super) async fn run(seat: Seat) {
    let (worker, mut wanted) = Worker::new(seat);
    let index = worker.index;
    let clock = tokio::task::spawn_local(Rc::clone(&worker.clock).run());
    let chores = tokio::task::spawn_local(chores(Rc::clone(&worker)));
    let answers = tokio::task::spawn_local(take_challenges(Rc::clone(&worker)));
    let taps = tokio::task::spawn_local(take_taps(Rc::clone(&worker)));
    let mut listeners = Listeners::default();
    let mut pause = FIRST_PAUSE;
    loop {
        let want = Arc::clone(&wanted.borrow_and_update());
        if let Some(series) = want.series.get(index) {
            worker.adopt(Arc::clone(&want.generation), Arc::clone(series));
        }
        let is_draining = !matches!(want.mode, Mode::Serve | Mode::Wait | Mode::Begin);
        let ends_idle = is_draining && want.mode != Mode::Retire;
        let was = (worker.draining.replace(is_draining), worker.ends_idle.replace(ends_idle));
        if was != (is_draining, ends_idle) && is_draining {
            worker.clock.wake_all();
        }
        if want.mode == Mode::Retire {
            listeners.end(&worker).await;
            worker.shared.relieved.fetch_add(1, Ordering::Release);
        }
        let heard = match want.mode {
            Mode::Serve | Mode::Leave => listeners.set(&worker, &want.sockets),
            Mode::Begin => {
                let tcp: Vec<_> =
                    want.sockets.iter().filter(|bound| bound.key().1 == Transport::Tcp).cloned().collect();
                listeners.set(&worker, &tcp)
            }
            Mode::Wait | Mode::Retire | Mode::Drain | Mode::Stop => listeners.set(&worker, &[]),
        };
        let is_deaf = heard.is_err();
        worker.shared.note_deaf(index, heard.err());
        if is_deaf {
            // Connections wait in the kernel's queue meanwhile. Who does not accept does not serve this generation.
            let changed = tokio::time::timeout(pause, wanted.changed());
            pause = (pause * 2).min(LONGEST_PAUSE);
            match changed.await {
                Ok(Err(_)) => break,
                Ok(Ok(())) | Err(_) => continue,
            }
        }
        pause = FIRST_PAUSE;
        worker.shared.acknowledge(index, want.generation.number);
        // The sender is gone when the proxy was dropped: nobody will ever want anything again.
        if want.mode == Mode::Stop || wanted.changed().await.is_err() {
            break;
        }
    }
    // Nothing is begun, so nothing can fail.
    let _ = listeners.set(&worker, &[]);
    chores.abort();
    answers.abort();
    taps.abort();
    clock.abort();
    if let Some(log) = &worker.log {
        log.borrow_mut().flush();
    }
    worker.spans.borrow_mut().flush();
}

/// The accepting tasks of a worker.
#[derive(Default)]
struct Listeners {
    active: HashMap<(SocketAddr, Transport), (Arc<Bound>, Accepting)>,
}

impl Listeners {
    /// Closes all, and waits until each has put away what it has.
    async fn end(&mut self, worker: &Rc<Worker>) {
        for (_, (_, accepting)) in self.active.drain() {
            accepting.end(worker).await;
        }
    }

    /// Accepts on exactly these sockets from now on. Connections that were accepted live on.
    /// The error is the last of those that have to be tried again; what can be accepted on is.
    fn set(&mut self, worker: &Rc<Worker>, sockets: &[Arc<Bound>]) -> Result<(), String> {
        let mut outcome = Ok(());
        let is_wanted = |key: &(SocketAddr, Transport), bound: &Arc<Bound>| {
            sockets.iter().any(|socket| socket.key() == *key && Arc::ptr_eq(socket, bound))
        };
        for (_, (_, accepting)) in self.active.extract_if(|key, (bound, _)| !is_wanted(key, bound)) {
            accepting.stop(worker);
        }
        for bound in sockets {
            if self.active.contains_key(&bound.key()) {
                continue;
            }
            match accept::start(worker, bound) {
                Ok(accepting) => {
                    if let Accepting::Quic(listening) = &accepting {
                        worker.quic.borrow_mut().insert(listening.address(), Rc::clone(listening));
                    }
                    self.active.insert(bound.key(), (Arc::clone(bound), accepting));
                }
                Err(error) => {
                    outcome = Err(format!("worker {} cannot accept on {}: {error}", worker.index, bound.key().0));
                }
            }
        }
        outcome
    }
}

/// Keeps to the newest table of challenges.
async fn take_challenges(worker: Rc<Worker>) {
    let board = Arc::clone(&worker.shared.board);
    let mut tables = board.subscribe();
    while tables.changed().await.is_ok() {
        let table = Arc::clone(&tables.borrow_and_update());
        worker.challenges.replace(Arc::clone(&table));
        board.acknowledge(worker.index, &table);
    }
}

/// Keeps to who looks.
async fn take_taps(worker: Rc<Worker>) {
    let taps = Arc::clone(&worker.shared.taps);
    let mut opened = taps.subscribe();
    while opened.changed().await.is_ok() {
        let open = Arc::clone(&opened.borrow_and_update());
        worker.watched.take(Arc::clone(&open));
        taps.acknowledge(worker.index, &open);
    }
}

/// What is to be done now and then.
async fn chores(worker: Rc<Worker>) {
    let mut swept = Instant::now();
    let mut posted = swept;
    loop {
        if let Some(pulse) = worker.shared.pulses.get(worker.index) {
            pulse.beat();
        }
        tokio::time::sleep(access_log::FLUSH_INTERVAL).await;
        if let Some(log) = &worker.log {
            log.borrow_mut().flush();
        }
        worker.spans.borrow_mut().flush();
        let now = Instant::now();
        if now.duration_since(swept) >= SWEEP {
            swept = now;
            let timeout = worker.current().generation.limits.upstream_idle_timeout;
            worker.upstreams.borrow().sweep(timeout);
        }
        if now.duration_since(posted) >= POST {
            posted = now;
            worker.shared.health.post(worker.index, &worker.upstreams.borrow(), now);
            worker.metrics.saw_crowded(worker.ledger().crowded());
            crate::memory::give_back_what_lies_idle();
        }
    }
}

impl Shared {
    /// Notes why a worker does not accept on all of its sockets; the log tells of it once.
    fn note_deaf(&self, index: usize, why: Option<String>) {
        let Some(slot) = self.deaf.get(index) else { return };
        let mut known = slot.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*known, &why) {
            (None, Some(why)) => tracing::error!("{why}; trying again"),
            (Some(_), None) => tracing::info!(worker = index, "accepts on all of its sockets again"),
            _ => {}
        }
        *known = why;
    }

    /// Takes the sessions that another process has handed over for this socket.
    pub(super) fn flows_of(&self, local: SocketAddr, index: usize) -> Vec<HandedFlow> {
        let mut flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        flows.extract_if(.., |flow| (flow.local, flow.index) == (local, index)).collect()
    }

    pub(super) fn hand_flows(&self, flows: Vec<HandedFlow>) {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).extend(flows);
    }

    fn acknowledge(&self, index: usize, number: u64) {
        if let Some(live) = self.live.get(index) {
            live.store(number, Ordering::Release);
        }
        self.changed.notify_waiters();
    }

    pub(super) fn connections(&self) -> usize {
        AtomicUsize::load(&self.connections, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
