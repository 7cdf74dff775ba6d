//! Connections to endpoints: pools, balancing, passive health. One set per worker, shared by all generations through the
//! upstream's key, so that a new snapshot costs no connection.
//!
//! In: the upstreams and endpoints of a generation, requests for a connection. Out: a [`Lease`] of one, or why there is
//! none. It never decides whether a request is tried again.

pub mod balance;
pub mod dial;
pub mod endpoint;
pub mod stream;

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use edge_config::snapshot::{
    Balance, Endpoint as EndpointSpec, EndpointSet, EndpointState, Endpoints, ProxyVersion, Snapshot, UpstreamKey,
    UpstreamProtocol,
};
use foldhash::{HashMap, HashSet};

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
struct Shared {
    turn: Cell<usize>,
    endpoints: std::cell::RefCell<HashMap<SocketAddr, Rc<Endpoint>>>,
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

/// All upstreams of a worker.
#[derive(Default)]
pub struct Upstreams {
    shared: HashMap<UpstreamKey, Rc<Shared>>,
}

impl Upstreams {
    /// The upstreams of a generation, in the order of its ids. What `previous` has and did not change is taken over;
    /// the connections of endpoints that are gone are dropped.
    pub fn build(
        &mut self,
        snapshot: &Snapshot,
        endpoints: &Endpoints,
        tls: &TlsTable,
        series: &Series,
        previous: &[Rc<Upstream>],
    ) -> Vec<Rc<Upstream>> {
        // Nearly always an upstream has the number that it had: the others are looked up by their keys.
        let mut before: Option<HashMap<&UpstreamKey, &Rc<Upstream>>> = None;
        let mut built = Vec::with_capacity(snapshot.upstreams.len());
        for (id, upstream) in (0..).map(edge_config::snapshot::UpstreamId).zip(&snapshot.upstreams) {
            let source = endpoints.get(id.index()).cloned().unwrap_or_default();
            let config = tls.upstream(id).map(|config| config.cloned().map_err(Box::from));
            let old = match previous.get(id.index()) {
                Some(old) if old.key == upstream.key => Some(old),
                _ => {
                    let all = previous.iter().map(|upstream| (&upstream.key, upstream));
                    before.get_or_insert_with(|| all.collect()).get(&upstream.key).copied()
                }
            };
            let same_tls = old.is_none_or(|old| same_config(old.tls.as_ref(), config.as_ref()));
            if let Some(old) = old
                && same_tls
                && old.protocol == upstream.protocol
                && old.proxy_protocol == upstream.proxy_protocol
                && Arc::ptr_eq(&old.source, &source)
            {
                built.push(Rc::clone(old));
                continue;
            }
            let shared = self
                .shared
                .entry(upstream.key.clone())
                .or_insert_with(|| Rc::new(Shared { turn: Cell::new(0), endpoints: Default::default() }));
            let mut assembled = assemble(upstream, source, config, Rc::clone(shared), same_tls);
            assembled.series = series.upstream(id).cloned();
            built.push(Rc::new(assembled));
        }
        if self.shared.len() != built.len() {
            let kept: HashSet<&UpstreamKey> = snapshot.upstreams.iter().map(|upstream| &upstream.key).collect();
            self.shared.retain(|key, _| kept.contains(key));
        }
        built
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
