//! What is counted, per listener, port, route and upstream.

use std::hash::Hash;
use std::ops::Deref;
use std::sync::{Arc, LazyLock, OnceLock};

use edge_config::names::ObjectRef;
use edge_config::policy::protection::RateName;
use edge_config::snapshot::{ListenerId, Port, PortId, PortServe, RuleId, Snapshot, UpstreamId, UpstreamKey};
use foldhash::{HashMap, HashMapExt as _};

use super::{Classes, Counter, Histogram};

/// The series of one worker for one generation, by the indices of its snapshot.
#[derive(Debug, Default)]
pub struct Series {
    pub(super) listeners: Vec<(ListenerLabel, Arc<ListenerSeries>)>,
    pub(super) ports: Vec<(PortLabel, Arc<PortSeries>)>,
    /// By rule; the rules of one route share one.
    rules: Vec<Arc<RouteSeries>>,
    /// Each route once.
    pub(super) routes: Vec<(ObjectLabel, Arc<RouteSeries>)>,
    /// Each rate that some rule has, once; nearly always none.
    pub(super) limits: Vec<(LimitLabel, Arc<LimitSeries>)>,
    /// By the digest of its name.
    limit_places: HashMap<u64, usize>,
    /// Shared with the generation before where its upstreams are the same.
    pub(super) upstreams: Arc<Vec<(UpstreamLabel, Arc<UpstreamSeries>)>>,
}

/// Gateway or ListenerSet, listener name, port.
pub type ListenerLabel = (ObjectRef, Box<str>, u16);
/// Gateway or Service, port, transport: TCP and UDP ports may have one number.
pub type PortLabel = (ObjectRef, u16, &'static str);
pub type ObjectLabel = ObjectRef;
pub type UpstreamLabel = UpstreamKey;
pub type LimitLabel = RateName;

#[derive(Debug, Default)]
pub struct ListenerSeries {
    /// Responses, also those that Edge made.
    pub responses: Classes,
    /// From the complete request head to the last byte of the response.
    pub duration: Histogram,
    /// Body bytes, and payload below HTTP.
    pub received: Counter,
    pub sent: Counter,
    /// Connections of TCPRoutes and TLSRoutes.
    pub tunnels_opened: Counter,
    pub tunnels_closed: Counter,
    pub udp_sessions_opened: Counter,
    pub udp_sessions_closed: Counter,
    pub udp_datagrams_received: Counter,
    pub udp_datagrams_sent: Counter,
    pub udp_dropped: [Counter; UdpDrop::LABELS.len()],
}

/// Why a datagram went no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UdpDrop {
    /// The table of sessions is full.
    TableFull,
    /// No route, or the share of an invalid backend.
    InvalidBackend,
    NoReadyEndpoint,
    /// A socket's buffer is full.
    Congested,
    /// The kernel refused it: too large, unreachable, no memory for a socket.
    Refused,
    /// Who sent it is not let in (`loadBalancerSourceRanges`, or a SecurityPolicy).
    SourceForbidden,
}

impl UdpDrop {
    pub const LABELS: [&'static str; 6] =
        ["table_full", "invalid_backend", "no_ready_endpoint", "congested", "refused", "source_forbidden"];
}

impl ListenerSeries {
    pub fn count_udp_drop(&self, drop: UdpDrop) {
        if let Some(counter) = self.udp_dropped.get(drop as usize) {
            counter.one();
        }
    }
}

#[derive(Debug, Default)]
pub struct PortSeries {
    pub accepted: Counter,
    pub closed: Counter,
    /// Closed at accept because a limit was reached.
    pub refused: Counter,
    /// Closed at accept because the client is not let in (`loadBalancerSourceRanges`).
    pub forbidden: Counter,
    pub handshakes: [Counter; Handshake::LABELS.len()],
}

/// How a TLS handshake with a client ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    Full,
    Resumed,
    Failed,
}

impl Handshake {
    pub const LABELS: [&'static str; 3] = ["full", "resumed", "failed"];
}

impl PortSeries {
    pub fn count_handshake(&self, handshake: Handshake) {
        if let Some(counter) = self.handshakes.get(handshake as usize) {
            counter.one();
        }
    }
}

#[derive(Debug, Default)]
pub struct RouteSeries {
    pub responses: Classes,
}

/// Of one rate, of all routes and clients that are counted against it.
#[derive(Debug, Default)]
pub struct LimitSeries {
    pub allowed: Counter,
    pub limited: Counter,
    /// Would have been refused.
    pub dry_run: Counter,
    /// Of those that were allowed, how many had to wait for their turn.
    pub delayed: Counter,
}

/// Of an upstream. The counters are made at the first use: of thousands of upstreams a worker may never meet most.
#[derive(Debug, Default)]
pub struct UpstreamSeries(OnceLock<Box<UpstreamCounters>>);

impl UpstreamSeries {
    /// Whether anything was ever counted.
    pub(super) fn is_met(&self) -> bool {
        self.0.get().is_some()
    }

    /// For who reads: nothing is made.
    pub(super) fn read(&self) -> &UpstreamCounters {
        static NONE: LazyLock<UpstreamCounters> = LazyLock::new(UpstreamCounters::default);
        self.0.get().map(|counters| &**counters).unwrap_or(&NONE)
    }
}

/// For who counts.
impl Deref for UpstreamSeries {
    type Target = UpstreamCounters;

    fn deref(&self) -> &UpstreamCounters {
        self.0.get_or_init(Box::default)
    }
}

#[derive(Debug, Default)]
pub struct UpstreamCounters {
    /// Responses of endpoints; what Edge answers in their place is not among them.
    pub responses: Classes,
    /// From the sent request head to the response head.
    pub latency: Histogram,
    /// Sent to endpoints, received from them.
    pub sent: Counter,
    pub received: Counter,
    pub connections_opened: Counter,
    pub connections_closed: Counter,
    /// Also endpoints that refuse datagrams.
    pub connect_failures: Counter,
    /// Tries after the first.
    pub retries: Counter,
    /// Endpoints taken out of the choice because they failed.
    pub ejections: Counter,
}

impl Series {
    /// The series of a snapshot; those that were there before go on counting.
    pub(super) fn of(snapshot: &Snapshot, before: &Self) -> Self {
        // The rules of a route follow each other.
        let mut names: Vec<ObjectRef> = Vec::new();
        let mut places: Vec<usize> = Vec::with_capacity(snapshot.rules.len());
        for rule in &snapshot.rules {
            // Rules of one route share its name, and no two names need to be read to see that they differ.
            let is_next =
                |known: &ObjectRef| known.kind != rule.route.kind || !known.key.is_shared_with(&rule.route.key);
            if names.last().is_none_or(is_next) {
                names.push(rule.route.clone());
            }
            places.push(names.len() - 1);
        }
        let routes = carried(&before.routes, names.into_iter());
        let labels = || snapshot.upstreams.iter().map(|upstream| &upstream.key);
        let upstreams = match labels().eq(before.upstreams.iter().map(|(label, _)| label)) {
            true => Arc::clone(&before.upstreams),
            false => Arc::new(carried(&before.upstreams, labels().cloned())),
        };
        let (limits, limit_places) = limits(snapshot, before);
        let rules = places.into_iter().map(|place| Arc::clone(&routes[place].1)).collect();
        Self {
            listeners: carried(
                &before.listeners,
                snapshot.listeners.iter().map(|it| (it.parent.clone(), it.name.clone(), it.port)),
            ),
            ports: carried(&before.ports, snapshot.ports.iter().map(port_label)),
            rules,
            routes,
            limits,
            limit_places,
            upstreams,
        }
    }

    /// `None` for an index of another generation.
    pub fn listener(&self, id: ListenerId) -> Option<&Arc<ListenerSeries>> {
        self.listeners.get(id.index()).map(|(_, series)| series)
    }

    pub fn port(&self, id: PortId) -> Option<&Arc<PortSeries>> {
        self.ports.get(id.index()).map(|(_, series)| series)
    }

    pub fn rule(&self, id: RuleId) -> Option<&Arc<RouteSeries>> {
        self.rules.get(id.index())
    }

    pub fn limit(&self, digest: u64) -> Option<&Arc<LimitSeries>> {
        self.limits.get(*self.limit_places.get(&digest)?).map(|(_, series)| series)
    }

    pub fn upstream(&self, id: UpstreamId) -> Option<&Arc<UpstreamSeries>> {
        self.upstreams.get(id.index()).map(|(_, series)| series)
    }
}

type Limits = (Vec<(LimitLabel, Arc<LimitSeries>)>, HashMap<u64, usize>);

fn limits(snapshot: &Snapshot, before: &Series) -> Limits {
    let mut places: HashMap<u64, usize> = HashMap::new();
    let mut names: Vec<RateName> = Vec::new();
    let policies = snapshot.rules.iter().filter_map(|rule| rule.policy.as_ref());
    let mut last: Option<&Arc<edge_config::policy::Protection>> = None;
    for protection in policies.filter_map(|policy| policy.protection.as_ref()) {
        // Most rules have theirs from one policy.
        if last.is_some_and(|last| Arc::ptr_eq(last, protection)) {
            continue;
        }
        last = Some(protection);
        for rate in protection.all_rates() {
            places.entry(rate.digest).or_insert_with(|| {
                names.push(rate.name.clone());
                names.len() - 1
            });
        }
    }
    (carried(&before.limits, names.into_iter()), places)
}

fn port_label(port: &Port) -> PortLabel {
    let transport = if matches!(port.serve, PortServe::Udp { .. }) { "udp" } else { "tcp" };
    (port.owner.clone(), port.number, transport)
}

/// A series for each label: that of the generation before, or a new one. A label that occurs twice has one series.
fn carried<L: Eq + Hash + Clone, S: Default>(
    before: &[(L, Arc<S>)],
    labels: impl Iterator<Item = L>,
) -> Vec<(L, Arc<S>)> {
    // Most labels follow each other as they did before; only the others are looked up.
    let mut places: Option<HashMap<&L, usize>> = None;
    let mut new: HashMap<L, Arc<S>> = HashMap::new();
    let mut next = 0;
    let mut one = |label: L| {
        let place = match before.get(next) {
            Some((known, _)) if *known == label => Some(next),
            _ => {
                let places = places.get_or_insert_with(|| {
                    before.iter().enumerate().map(|(place, (label, _))| (label, place)).collect()
                });
                places.get(&label).copied()
            }
        };
        let Some((place, (known, series))) = place.and_then(|place| Some((place, before.get(place)?))) else {
            let series = Arc::clone(new.entry(label.clone()).or_default());
            return (label, series);
        };
        next = place + 1;
        // The label of before, so that only one copy of its text is kept.
        (known.clone(), Arc::clone(series))
    };
    let (fewest, _) = labels.size_hint();
    let mut series = Vec::with_capacity(fewest);
    series.extend(labels.map(&mut one));
    series
}
