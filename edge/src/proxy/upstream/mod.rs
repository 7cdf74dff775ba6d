//! Connections to endpoints: pools, balancing, passive health. One set per worker, shared by all generations through the
//! upstream's key, so that a new snapshot costs no connection. An upstream is made when it is first asked for: of thousands
//! that a generation names, a worker may never meet most.
//!
//! In: the upstreams and endpoints of a generation, requests for a connection. Out: a [`Lease`] of one, or why there is
//! none. It never decides whether a request is tried again.

pub mod balance;
pub mod dial;
pub mod endpoint;
pub mod stream;

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use edge_config::snapshot::{
    Balance, Endpoint as EndpointSpec, EndpointSet, EndpointState, Endpoints, ProxyVersion, Snapshot, UpstreamId,
    UpstreamKey, UpstreamProtocol,
};
use foldhash::{HashMap, HashMapExt as _};

use self::balance::Random;
use self::endpoint::Endpoint;
use crate::proxy::body::{Chunk, Source, StreamError};
use crate::proxy::message::{Fields, ResponseHead};
use crate::proxy::metrics::{Series, UpstreamSeries};
use crate::proxy::tls::table::{TlsTable, UpstreamConfig};

pub use self::dial::{DialError, Dialer, Lease};
pub use self::endpoint::InFlight;

/// Sends a request to an endpoint, whose head was given already.
pub trait Upload {
    async fn chunk(&mut self, chunk: Chunk) -> Result<(), StreamError>;

    /// Sends what is held back, the head included.
    async fn flush(&mut self) -> Result<(), StreamError>;

    async fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), StreamError>;

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
    ready: Vec<Rc<Endpoint>>,
    draining: Vec<Rc<Endpoint>>,
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
    pub fn pick(&self, balance: Balance, random: &Random, avoid: Option<SocketAddr>) -> Option<Rc<Endpoint>> {
        let candidates = if self.ready.is_empty() { &self.draining } else { &self.ready };
        balance::pick(candidates, balance, &self.shared.turn, random, avoid, Instant::now).cloned()
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
        let candidates = if self.ready.is_empty() { &self.draining } else { &self.ready };
        let usable = |endpoint: &&Rc<Endpoint>| Some(endpoint.address) != avoid && !endpoint.is_passed_over(now);
        let own = candidates.iter().find(|endpoint| Some(endpoint.address) == own).filter(usable);
        let heaviest = |left: &&Rc<Endpoint>| (weight(left.address), left.address);
        let chosen = own
            .or_else(|| candidates.iter().filter(usable).max_by_key(heaviest))
            .or_else(|| candidates.iter().filter(|endpoint| Some(endpoint.address) != avoid).max_by_key(heaviest));
        chosen.or(candidates.first()).cloned()
    }

    /// The endpoint of a pinned session, as long as it may take requests at all.
    pub fn endpoint_at(&self, address: SocketAddr) -> Option<Rc<Endpoint>> {
        self.ready.iter().chain(&self.draining).find(|endpoint| endpoint.address == address).cloned()
    }

    pub fn endpoints(&self) -> impl Iterator<Item = &Rc<Endpoint>> {
        self.ready.iter().chain(&self.draining)
    }
}

/// What the upstreams of a worker keep from one generation to the next.
#[derive(Default)]
pub struct Upstreams {
    /// Of those that were asked for.
    shared: HashMap<UpstreamKey, Rc<Shared>>,
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
        Some(slot.get_or_init(|| Rc::new(of.assemble(id, upstream, shared, true))))
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
    ) -> Upstream {
        let mut assembled = assemble(upstream, self.source(id), self.tls(id), shared, same_tls);
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
                if is_same { Rc::clone(old) } else { Rc::new(now.assemble(id, upstream, Rc::clone(shared), same_tls)) }
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
    same_tls: bool,
) -> Upstream {
    let list: &[EndpointSpec] = match &*source {
        EndpointSet::Addresses(list) => list,
        // Names are resolved outside; until then there is no address.
        EndpointSet::Dns { .. } => &[],
    };
    let (mut ready, mut draining) = (Vec::new(), Vec::new());
    {
        let mut known = shared.endpoints.borrow_mut();
        known.retain(|address, endpoint| {
            let stays = list.iter().any(|spec| spec.address == *address);
            if !stays || !same_tls {
                endpoint.retire();
            }
            stays
        });
        for spec in list {
            let endpoint = known.entry(spec.address).or_insert_with(|| Rc::new(Endpoint::new(spec.address)));
            match spec.state {
                EndpointState::Ready => ready.push(Rc::clone(endpoint)),
                EndpointState::Draining => draining.push(Rc::clone(endpoint)),
            }
        }
    }
    Upstream {
        key: upstream.key.clone(),
        protocol: upstream.protocol,
        proxy_protocol: upstream.proxy_protocol,
        tls,
        series: None,
        ready,
        draining,
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
