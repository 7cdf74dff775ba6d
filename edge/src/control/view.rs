//! What users see of an edge: one model for `edgectl`, the API and scripts.
//!
//! Plain rows made by [`status`](super::status::status) flow in and out as JSON; every row has a state and, unless it is
//! up, one line that says why. Nothing here is computed from the clock or the system, and nothing here decides anything.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::why::ElectionRow;
use crate::history::Held;
use crate::reach::Way;

/// How well something works, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It serves nobody.
    Down,
    /// It serves, but less or other than configured.
    Degraded,
    /// It will serve once something that is under way is done.
    Pending,
    Up,
}

impl State {
    pub const ALL: [Self; 4] = [Self::Down, Self::Degraded, Self::Pending, Self::Up];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Degraded => "degraded",
            Self::Pending => "pending",
            Self::Up => "up",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A state with its reason; the reason of `Up` may be empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Health {
    pub state: State,
    /// One line, lower case, no full stop.
    pub reason: String,
}

impl Health {
    pub fn up() -> Self {
        Self { state: State::Up, reason: String::new() }
    }

    pub fn new(state: State, reason: impl Into<String>) -> Self {
        Self { state, reason: reason.into() }
    }

    /// The worse of the two; of two equally bad ones the first.
    pub fn and(self, other: Self) -> Self {
        if other.state < self.state { other } else { self }
    }
}

/// Everything `edgectl status` shows. The rows of each list are sorted worst first, then by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub edge: Edge,
    pub vips: Vec<VipRow>,
    pub listeners: Vec<ListenerRow>,
    pub certificates: Vec<CertificateRow>,
    pub routes: Vec<RouteRow>,
    pub backends: Vec<BackendRow>,
    /// BGP sessions; empty where Edge speaks no BGP.
    #[serde(default)]
    pub peers: Vec<SessionRow>,
    /// Virtual routers; empty where no VIP is told by ARP or NDP.
    #[serde(default)]
    pub routers: Vec<ElectionRow>,
    /// Edges that share certificates; absent where there is no `[fleet]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetView>,
    pub problems: Problems,
}

/// The fleet as this edge sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetView {
    /// The edge that orders certificates; absent where nobody is known to.
    pub orders: Option<String>,
    /// Why nobody is known to; empty otherwise.
    pub reason: String,
    /// Since when it is so; RFC 3339, UTC.
    pub since: String,
    /// Since when the key of session tickets in use is; RFC 3339, UTC.
    pub ticket_keys_since: Option<String>,
    /// This edge first.
    pub edges: Vec<EdgeRow>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeRow {
    #[serde(flatten)]
    pub health: Health,
    pub edge: String,
    /// Where it is called; empty for this edge.
    pub address: String,
    /// It orders certificates.
    pub orders: bool,
    /// Of the program.
    pub version: Option<String>,
    /// When it answered last; RFC 3339, UTC.
    pub last_exchange: Option<String>,
}

impl Status {
    /// The worst state of anything.
    pub fn worst(&self) -> State {
        let rows = [
            self.vips.iter().map(|row| row.health.state).min(),
            self.listeners.iter().map(|row| row.health.state).min(),
            self.certificates.iter().map(|row| row.health.state).min(),
            self.routes.iter().map(|row| row.health.state).min(),
            self.backends.iter().map(|row| row.health.state).min(),
            self.peers.iter().map(|row| row.health.state).min(),
            self.routers.iter().map(|row| row.health.state).min(),
            self.fleet.iter().flat_map(|fleet| &fleet.edges).map(|row| row.health.state).min(),
        ];
        rows.into_iter().flatten().min().unwrap_or(State::Up).min(self.edge.health.state)
    }
}

/// The daemon itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Edge {
    #[serde(flatten)]
    pub health: Health,
    pub name: String,
    pub version: String,
    pub generation: u64,
    /// When this generation was published; RFC 3339, UTC.
    pub since: String,
    pub uptime_seconds: u64,
    pub workers: u32,
    /// Workers that serve this generation.
    pub acknowledged: u32,
    pub sources: Vec<SourceRow>,
    /// At which revision the configuration is held, and what waits; absent: it is what the sources say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
    /// What the store has to say, such as a database that was moved aside.
    pub notices: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRow {
    #[serde(flatten)]
    pub health: Health,
    /// A path or the name of another source.
    pub name: String,
    /// When it was last read without a fault; RFC 3339, UTC.
    pub last_good: Option<String>,
    /// What it consists of, where it is more than one thing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub collections: Vec<CollectionRow>,
}

/// All objects of one kind that a source follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionRow {
    #[serde(flatten)]
    pub health: Health,
    /// `HTTPRoute`, `Secret shop/tls`, …
    pub name: String,
    /// In which version of its API; absent where the source does not have the kind.
    pub version: Option<String>,
    pub objects: usize,
    /// When a change was heard of last; RFC 3339, UTC.
    pub last_event: Option<String>,
    /// How often all of it was read anew, the first time included.
    pub lists: u64,
    pub failures: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipRow {
    #[serde(flatten)]
    pub health: Health,
    /// Absent while there is none.
    pub address: Option<String>,
    /// `Gateway ns/name` or `Service ns/name`; several where the address is shared.
    pub owners: Vec<String>,
    /// `pool NAME`, or `spec.addresses`.
    pub source: String,
    /// How the network learns of it: `bgp`, `l2`, or absent.
    pub announced: Option<String>,
    /// `443/tcp`, in order of port.
    pub ports: Vec<String>,
}

/// A BGP session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    #[serde(flatten)]
    pub health: Health,
    /// Its name in the configuration.
    pub peer: String,
    pub address: String,
    /// What the peer says that it is.
    pub asn: Option<u32>,
    /// `established`, `active`, …
    pub session: String,
    /// What BFD says of the peer, such as `up`; absent where it is not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<String>,
    /// RFC 3339, UTC.
    pub since: String,
    /// Prefixes in adj-out.
    pub advertised: u64,
    /// Prefixes that the peer sent; none is used.
    pub received: u64,
    /// How often it was lost.
    pub flaps: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerRow {
    #[serde(flatten)]
    pub health: Health,
    /// `Gateway ns/name`, `ListenerSet ns/name` or `Service ns/name`.
    pub parent: String,
    pub name: String,
    pub port: u16,
    pub protocol: String,
    /// `*` when the listener names none.
    pub hostname: String,
    pub attached_routes: u32,
    /// `namespace/name` of Secrets.
    pub certificates: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRow {
    #[serde(flatten)]
    pub health: Health,
    /// `namespace/name` of the Secret.
    pub secret: String,
    /// Who made it: `Secret`, `internal CA`, `self-signed`, `CA ns/name`, `placeholder`.
    pub source: String,
    pub names: Vec<String>,
    /// RFC 3339, UTC.
    pub not_after: Option<String>,
    pub renews_at: Option<String>,
    /// Listeners that serve it, as `ns/gateway/listener`.
    pub used_by: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRow {
    #[serde(flatten)]
    pub health: Health,
    pub kind: String,
    /// `namespace/name`.
    pub route: String,
    /// Hosts at which it serves, or would; `*` for all of its listeners.
    pub hostnames: Vec<String>,
    /// Parents as `ns/name` or `ns/name/listener`.
    pub parents: Vec<String>,
    /// Backends as `ns/name:port`, each once.
    pub backends: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendRow {
    #[serde(flatten)]
    pub health: Health,
    /// `ns/name:port`, with a variant in parentheses where one port is used in several ways.
    pub backend: String,
    /// `http/1.1`, `http/2`, `tcp or udp`; `over tls` where a policy says so.
    pub protocol: String,
    /// Endpoints that take new work.
    pub ready: u32,
    pub ejected: u32,
    pub endpoints: Vec<EndpointRow>,
    /// How its Pods are reached: `direct`, `pod-route`, `node-port`; absent where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reach: Option<Way>,
    /// Why not in a better way.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reach_reason: String,
    /// Requests or connections under way.
    pub in_flight: u64,
    /// How many routes use it.
    pub routes: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRow {
    #[serde(flatten)]
    pub health: Health,
    pub address: String,
    /// `Pod ns/name`, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
}

/// How many findings there are; `edgectl get problems` lists them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problems {
    pub errors: u32,
    pub warnings: u32,
    pub inert: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worse_comes_first() {
        let mut states = [State::Up, State::Pending, State::Down, State::Degraded];
        states.sort();
        assert_eq!(states, State::ALL);
    }

    #[test]
    fn health_keeps_the_worse_reason() {
        let health = Health::up()
            .and(Health::new(State::Degraded, "first"))
            .and(Health::new(State::Degraded, "second"))
            .and(Health::new(State::Pending, "third"));
        assert_eq!(health, Health::new(State::Degraded, "first"));
    }
}
