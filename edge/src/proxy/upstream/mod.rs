//! Connections to endpoints: pools, balancing, passive health. One set per worker, shared by all generations through the
//! upstream's key, so that a new snapshot costs no connection. An upstream is made when it is first asked for: of thousands
//! that a generation names, a worker may never meet most.
//!
//! In: the upstreams and endpoints of a generation, requests for a connection. Out: a [`Lease`] of one, or why there is
//! none. It never decides whether a request is tried again.

pub mod ask;
pub mod balance;
pub mod circuit;
pub mod dial;
pub mod endpoint;
pub mod hashing;
pub mod priority;
pub mod stream;

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edge_config::policy::KeepAlive;
use edge_config::snapshot::{
    Balance, Endpoint as EndpointSpec, EndpointSet, EndpointState, Endpoints, ProxyVersion, Snapshot, UpstreamId,
    UpstreamKey, UpstreamProtocol,
};
use foldhash::{HashMap, HashMapExt as _};

pub use self::balance::NoEndpoint;
use self::balance::Random;
use self::circuit::{Circuit, Registry};
use self::endpoint::Endpoint;
use self::hashing::Table;
pub use self::priority::Census;
use crate::proxy::body::{Chunk, Source, StreamError};
use crate::proxy::limits::Limits;
use crate::proxy::message::{Fields, ResponseHead};
use crate::proxy::metrics::{Series, UpstreamSeries};
use crate::proxy::tls::table::{TlsTable, UpstreamConfig};

pub use self::dial::{DialError, Dialer, Lease};
pub use self::endpoint::InFlight;

/// A connection for checks carries so many of them: who answers on old connections only does not accept any more.
const CHECKS: u32 = 10;

/// Sends a request to an endpoint, whose head was given already.
pub trait Upload {
    async fn chunk(&mut self, chunk: Chunk) -> Result<(), StreamError>;

    /// Sends what is held back, the head included.
    async fn flush(&mut self) -> Result<(), StreamError>;

    async fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), StreamError>;

    /// How long each wait is from now on; zero is without end.
    fn set_idle(&mut self, _idle: Duration) {}

    /// After a 101: bytes as they come.
    fn begin_tunnel(&mut self) {}

    async fn end_tunnel(&mut self) -> Result<(), StreamError> {
        Ok(())
    }
}

/// Receives the response; the body is a [`Source`].
pub trait Download: Source {
    /// The next head, interim ones included.
    async fn head(&mut self, head: &mut ResponseHead) -> Result<(), StreamError>;
}

/// An upstream as one generation sees it.
pub struct Upstream {
    pub key: UpstreamKey,
    pub protocol: UpstreamProtocol,
    pub proxy_protocol: Option<ProxyVersion>,
    /// The error is why its TLS cannot be used; it is then never called without.
    pub tls: Option<Result<UpstreamConfig, Box<str>>>,
    pub series: Option<Arc<UpstreamSeries>>,
    /// Nothing, where it has no policy.
    pub keep_alive: KeepAlive,
    /// Where it has a policy: what all workers know of it.
    pub circuit: Option<Arc<Circuit>>,
    /// Tables for hashing, by their size.
    tables: RefCell<Vec<(Option<u32>, Rc<Table>)>>,
    ready: Vec<Rc<Endpoint>>,
    draining: Vec<Rc<Endpoint>>,
    /// For sessions that are pinned to them.
    drained: Vec<Rc<Endpoint>>,
    shared: Rc<Shared>,
    source: Arc<EndpointSet>,
}

/// What outlives a generation.
#[derive(Default)]
struct Shared {
    turn: Cell<usize>,
    endpoints: RefCell<HashMap<SocketAddr, Rc<Endpoint>>>,
}

impl Upstream {
    /// Chooses an endpoint; ready ones first, draining ones only when there is none. `avoid` has just failed.
    pub fn pick(&self, balance: &Balance, random: &Random, avoid: Option<SocketAddr>) -> Option<Rc<Endpoint>> {
        self.pick_alike(balance, None, random, avoid).ok()
    }

    /// The same for a request with a hash, by which it goes where others with it go.
    pub fn pick_alike(
        &self,
        balance: &Balance,
        hash: Option<u64>,
        random: &Random,
        avoid: Option<SocketAddr>,
    ) -> Result<Rc<Endpoint>, NoEndpoint> {
        let candidates = self.candidates();
        let choose = |attempt| match (balance, hash) {
            (Balance::Hash(by), Some(hash)) => candidates.get(self.table(by.table, candidates).at(hash, attempt)),
            _ => balance::choose(candidates, balance, &self.shared.turn, random),
        };
        let found = match &self.circuit {
            None => balance::pick(candidates, choose(0), random, avoid, Instant::now).ok_or(NoEndpoint::Healthy),
            Some(circuit) => {
                let now = (circuit::now(), Instant::now);
                balance::pick_judged(candidates, circuit, choose, random, avoid, now)
            }
        };
        found.cloned()
    }

    /// How many of its endpoints would be taken, if it were only for their health.
    pub fn census(&self) -> Census {
        let (now, millis) = (Instant::now(), self.circuit.as_ref().map_or(0, |_| circuit::now()));
        let is_healthy = |endpoint: &&Rc<Endpoint>| {
            !endpoint.is_passed_over(now) && endpoint.vitals().is_none_or(|vitals| vitals.is_healthy(millis))
        };
        Census { healthy: self.ready.iter().filter(is_healthy).count(), all: self.ready.len() }
    }

    /// How long making a connection may take.
    pub fn connect_timeout(&self, usual: Duration) -> Duration {
        let own = self.circuit.as_ref().and_then(|circuit| circuit.policy.connect_timeout);
        own.unwrap_or(usual)
    }

    fn idle_timeout(&self, limits: &Limits) -> Duration {
        self.keep_alive.idle_timeout.unwrap_or(limits.upstream_idle_timeout)
    }

    /// Notes an answer of an endpoint.
    pub fn answered(&self, endpoint: &Endpoint, status: u16) {
        if let (Some(circuit), Some(vitals)) = (&self.circuit, endpoint.vitals())
            && circuit.answered(vitals, status, circuit::now)
            && let Some(series) = &self.series
        {
            series.ejections.one();
        }
    }

    /// Notes that an endpoint could not be reached or did not answer. Returns whether it is ejected because of it.
    pub fn failed(&self, endpoint: &Endpoint) -> bool {
        match (&self.circuit, endpoint.vitals()) {
            (Some(circuit), Some(vitals)) => circuit.failed(vitals, circuit::now),
            _ => false,
        }
    }

    fn candidates(&self) -> &[Rc<Endpoint>] {
        if self.ready.is_empty() { &self.draining } else { &self.ready }
    }

    fn table(&self, size: Option<u32>, candidates: &[Rc<Endpoint>]) -> Rc<Table> {
        let mut tables = self.tables.borrow_mut();
        if let Some((_, table)) = tables.iter().find(|(known, _)| *known == size) {
            return Rc::clone(table);
        }
        let table = Rc::new(Table::new(candidates.iter().map(|endpoint| endpoint.address), size));
        tables.push((size, Rc::clone(&table)));
        table
    }

    /// The endpoint of a client that stays with one: its own while that is of use, else the one of the greatest weight,
    /// which every worker and every edge finds the same.
    pub fn pick_for(
        &self,
        own: Option<SocketAddr>,
        weight: impl Fn(SocketAddr) -> u64,
        avoid: Option<SocketAddr>,
        now: Instant,
    ) -> Option<Rc<Endpoint>> {
        let candidates = self.candidates();
        let (circuit, millis) = (self.circuit.as_deref(), self.circuit.as_ref().map_or(0, |_| circuit::now()));
        let usable = |endpoint: &&Rc<Endpoint>| {
            let judged = |circuit: &Circuit| {
                endpoint.vitals().is_none_or(|vitals| vitals.is_healthy(millis) && circuit.has_room(vitals))
            };
            Some(endpoint.address) != avoid && !endpoint.is_passed_over(now) && circuit.is_none_or(judged)
        };
        let own = candidates.iter().chain(&self.drained).find(|endpoint| Some(endpoint.address) == own).filter(usable);
        let heaviest = |left: &&Rc<Endpoint>| (weight(left.address), left.address);
        let chosen = own
            .or_else(|| candidates.iter().filter(usable).max_by_key(heaviest))
            .or_else(|| candidates.iter().filter(|endpoint| Some(endpoint.address) != avoid).max_by_key(heaviest));
        chosen.or(candidates.first()).cloned()
    }

    /// The endpoint of a pinned session, as long as it may take requests and is not known to be of no use.
    pub fn pinned(&self, address: SocketAddr) -> Option<Rc<Endpoint>> {
        let endpoint = self.endpoint_at(address)?;
        let is_out = endpoint.vitals().is_some_and(|vitals| !vitals.is_healthy(circuit::now()));
        (!is_out).then_some(endpoint)
    }

    pub fn endpoint_at(&self, address: SocketAddr) -> Option<Rc<Endpoint>> {
        self.ready
            .iter()
            .chain(&self.draining)
            .chain(&self.drained)
            .find(|endpoint| endpoint.address == address)
            .cloned()
    }

    /// One endpoint as checks see it: the way of the traffic, and nothing that belongs to the traffic.
    pub(in crate::proxy) fn for_checks(
        of: &edge_config::snapshot::Upstream,
        protocol: UpstreamProtocol,
        address: SocketAddr,
        tls: Option<Result<UpstreamConfig, Box<str>>>,
    ) -> Self {
        Self {
            key: of.key.clone(),
            protocol,
            proxy_protocol: of.proxy_protocol,
            tls,
            series: None,
            keep_alive: KeepAlive { requests: Some(CHECKS), ..KeepAlive::default() },
            circuit: None,
            tables: RefCell::default(),
            ready: vec![Rc::new(Endpoint::new(address, None))],
            draining: Vec::new(),
            drained: Vec::new(),
            shared: Rc::default(),
            source: Arc::default(),
        }
    }

    /// Whether connections to both are begun alike.
    pub(in crate::proxy) fn speaks_like(&self, other: &Self) -> bool {
        same_config(self.tls.as_ref(), other.tls.as_ref())
    }

    pub fn endpoints(&self) -> impl Iterator<Item = &Rc<Endpoint>> {
        self.ready.iter().chain(&self.draining).chain(&self.drained)
    }
}

/// What the upstreams of a worker keep from one generation to the next.
#[derive(Default)]
pub struct Upstreams {
    /// Of those that were asked for.
    shared: HashMap<UpstreamKey, Rc<Shared>>,
    /// Of all workers.
    registry: Arc<Registry>,
}

/// The upstreams of one generation, in the order of its ids, as far as they were asked for.
pub struct Called {
    slots: Vec<OnceCell<Rc<Upstream>>>,
    /// The ids of those that are made.
    made: RefCell<Vec<UpstreamId>>,
    /// Whether a later generation has taken over: what it says of endpoints counts.
    is_past: Cell<bool>,
}

impl Called {
    /// Of a generation without upstreams.
    pub fn none() -> Self {
        Self { slots: Vec::new(), made: RefCell::default(), is_past: Cell::new(false) }
    }

    /// An upstream of the generation that this was made for.
    pub fn get(&self, id: UpstreamId, of: &Definition<'_>, all: &RefCell<Upstreams>) -> Option<&Rc<Upstream>> {
        let slot = self.slots.get(id.index())?;
        if let Some(upstream) = slot.get() {
            return Some(upstream);
        }
        let upstream = of.snapshot.upstreams.get(id.index())?;
        let shared = if self.is_past.get() {
            // A request that began before a change and only now needs this one: its pool is its own.
            Rc::default()
        } else {
            let mut all = all.borrow_mut();
            match all.shared.get(&upstream.key) {
                Some(shared) => Rc::clone(shared),
                None => Rc::clone(all.shared.entry(upstream.key.clone()).or_default()),
            }
        };
        self.made.borrow_mut().push(id);
        let registry = Arc::clone(&all.borrow().registry);
        Some(slot.get_or_init(|| Rc::new(of.assemble(id, upstream, shared, true, &registry))))
    }
}

/// What a generation says of its upstreams.
pub struct Definition<'g> {
    pub snapshot: &'g Snapshot,
    pub endpoints: &'g Endpoints,
    pub tls: &'g TlsTable,
    pub series: &'g Series,
}

impl Definition<'_> {
    fn assemble(
        &self,
        id: UpstreamId,
        upstream: &edge_config::snapshot::Upstream,
        shared: Rc<Shared>,
        same_tls: bool,
        registry: &Registry,
    ) -> Upstream {
        let circuit = upstream.policy.as_ref().map(|policy| registry.circuit(&upstream.key, policy));
        let mut assembled = assemble(upstream, self.source(id), self.tls(id), shared, (same_tls, circuit));
        assembled.series = self.series.upstream(id).cloned();
        assembled
    }

    fn source(&self, id: UpstreamId) -> Arc<EndpointSet> {
        self.endpoints.get(id.index()).cloned().unwrap_or_default()
    }

    fn tls(&self, id: UpstreamId) -> Option<Result<UpstreamConfig, Box<str>>> {
        self.tls.upstream(id).map(|config| config.cloned().map_err(Box::from))
    }
}

impl Upstreams {
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry, ..Self::default() }
    }

    /// The upstreams of a generation. What `previous` has and did not change is taken over; the connections of endpoints
    /// that are gone are dropped.
    pub fn succeed(&mut self, now: &Definition<'_>, previous: &Called) -> Called {
        previous.is_past.set(true);
        let slots: Vec<OnceCell<Rc<Upstream>>> = vec![OnceCell::new(); now.snapshot.upstreams.len()];
        let mut places: Option<HashMap<&UpstreamKey, UpstreamId>> = None;
        let mut kept = HashMap::with_capacity(self.shared.len());
        let mut made = Vec::with_capacity(previous.made.borrow().len());
        for before in &*previous.made.borrow() {
            let Some(old) = previous.slots.get(before.index()).and_then(OnceCell::get) else { continue };
            let Some(shared) = self.shared.get(&old.key) else { continue };
            // Nearly always it has the number that it had.
            let id = match now.snapshot.upstreams.get(before.index()) {
                Some(upstream) if upstream.key == old.key => Some(*before),
                _ => {
                    let all = (0..).map(UpstreamId).zip(&now.snapshot.upstreams);
                    let places = places.get_or_insert_with(|| all.map(|(id, known)| (&known.key, id)).collect());
                    places.get(&old.key).copied()
                }
            };
            let upstream =
                id.and_then(|id| Some((id, now.snapshot.upstreams.get(id.index())?, slots.get(id.index())?)));
            let Some((id, upstream, slot)) = upstream else { continue };
            kept.insert(old.key.clone(), Rc::clone(shared));
            let same_tls = same_config(old.tls.as_ref(), now.tls(id).as_ref());
            let is_same = same_tls
                && old.protocol == upstream.protocol
                && old.proxy_protocol == upstream.proxy_protocol
                && Arc::ptr_eq(&old.source, &now.source(id));
            // Assembled at once where it changed, since endpoints that are gone must not keep their connections.
            slot.get_or_init(|| {
                if is_same {
                    Rc::clone(old)
                } else {
                    Rc::new(now.assemble(id, upstream, Rc::clone(shared), same_tls, &self.registry))
                }
            });
            made.push(id);
        }
        self.shared = kept;
        Called { slots, made: RefCell::new(made), is_past: Cell::new(false) }
    }

    /// Drops idle connections that are too old or were closed by the endpoint.
    pub fn sweep(&self, timeout: std::time::Duration) {
        for shared in self.shared.values() {
            for endpoint in shared.endpoints.borrow().values() {
                endpoint.sweep(timeout);
            }
        }
    }

    /// Every endpoint that is known, also those of earlier generations that are still in use.
    pub fn each_endpoint(&self, mut tell: impl FnMut(&UpstreamKey, &Endpoint)) {
        for (key, shared) in &self.shared {
            for endpoint in shared.endpoints.borrow().values() {
                tell(key, endpoint);
            }
        }
    }

    /// Drops every idle connection.
    pub fn clear(&mut self) {
        self.shared.clear();
    }
}

fn assemble(
    upstream: &edge_config::snapshot::Upstream,
    source: Arc<EndpointSet>,
    tls: Option<Result<UpstreamConfig, Box<str>>>,
    shared: Rc<Shared>,
    (same_tls, circuit): (bool, Option<Arc<Circuit>>),
) -> Upstream {
    let list: &[EndpointSpec] = match &*source {
        EndpointSet::Addresses(list) => list,
        // Names are resolved outside; until then there is no address.
        EndpointSet::Dns { .. } => &[],
    };
    let (mut ready, mut draining, mut drained) = (Vec::new(), Vec::new(), Vec::new());
    let mut vitals = circuit
        .as_ref()
        .map(|circuit| circuit.attend(list.iter().map(|spec| spec.address), circuit::now()).into_iter());
    {
        let mut known = shared.endpoints.borrow_mut();
        known.retain(|address, endpoint| {
            let stays = list.iter().any(|spec| spec.address == *address && spec.state != EndpointState::Disabled);
            if !stays || !same_tls {
                endpoint.retire();
            }
            stays
        });
        for spec in list {
            let vitals = vitals.as_mut().and_then(Iterator::next);
            if spec.state == EndpointState::Disabled {
                continue;
            }
            let endpoint = known.entry(spec.address).or_insert_with(|| Rc::new(Endpoint::new(spec.address, vitals)));
            match spec.state {
                EndpointState::Ready => ready.push(Rc::clone(endpoint)),
                EndpointState::Draining => draining.push(Rc::clone(endpoint)),
                EndpointState::Drained | EndpointState::Disabled => drained.push(Rc::clone(endpoint)),
            }
        }
    }
    Upstream {
        key: upstream.key.clone(),
        protocol: upstream.protocol,
        proxy_protocol: upstream.proxy_protocol,
        tls,
        series: None,
        keep_alive: circuit.as_ref().map(|circuit| circuit.policy.keep_alive).unwrap_or_default(),
        circuit,
        tables: RefCell::default(),
        ready,
        draining,
        drained,
        shared,
        source,
    }
}

fn same_config(a: Option<&Result<UpstreamConfig, Box<str>>>, b: Option<&Result<UpstreamConfig, Box<str>>>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(Ok(a)), Some(Ok(b))) => Arc::ptr_eq(&a.config, &b.config) && a.name == b.name,
        (Some(Err(a)), Some(Err(b))) => a == b,
        _ => false,
    }
}
