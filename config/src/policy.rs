//! The one model of balancing and health behind every policy shape: Envoy Gateway's BackendTrafficPolicy and NGINX Gateway
//! Fabric's UpstreamSettingsPolicy become these values, and the data plane knows no other.
//!
//! [`UpstreamPolicy`] is a part of an upstream: all routes whose policies say the same of a Service port share one upstream,
//! and so its health, its limits and its connections; routes that ask for something else have an upstream of their own.
//! Active checks go further: the same check of the same address is made once, however many upstreams ask for it.
//! [`Balance`] belongs to rules, since to take endpoints in another order is no reason to have other connections.
//! Values are decided here and never judged again: whoever makes one has kept to the ranges below.

mod certificates;
mod client;
mod headers;
pub mod protection;
mod responses;
mod rule;
mod secrets;
mod security;
mod text_match;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

pub use certificates::{
    CertificateDemands, CertificateDetails, CertificateField, NameDemand, NameKind, Revocation, Sha256,
};
pub use client::{
    ClientKeep, ClientKeepalive, ClientRules, Detection, Http2Bounds, RequestId, TlsParameters, Underscores, Waits,
};
pub use headers::{FieldEdits, ListenerHeaders};
pub use protection::{ConnectionLimit, Protection};
pub use responses::*;
pub use rule::RulePolicy;
pub use secrets::secrets;
pub use security::*;
pub use text_match::TextMatch;

/// The name of a [`PolicyService`](crate::snapshot::PolicyService): a policy's own backends, which are asked instead of
/// the host of a URL.
pub type ServiceName = Arc<str>;

/// Which endpoint takes the next request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub enum Balance {
    #[default]
    RoundRobin,
    /// The less loaded of two random endpoints (per worker view).
    LeastRequest,
    Random,
    /// Requests that are alike go to the same endpoint, on every worker and every edge, and nearly all stay there when
    /// endpoints come and go.
    Hash(Arc<HashBalance>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HashBalance {
    pub key: HashKey,
    /// Places in the table, a prime; at most 65537 are made. Absent: 16381.
    pub table: Option<u32>,
}

/// What makes requests alike. A request that has nothing of it goes to a random endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum HashKey {
    /// The client's address, as X-Forwarded-For of trusted proxies or a PROXY protocol header says.
    SourceIp,
    /// Lower case; all that are there count.
    Headers(Vec<Box<str>>),
    Cookie(Box<HashCookie>),
    /// Names are case-sensitive; all that are there count.
    Query(Vec<Box<str>>),
    Host,
    /// Path without query.
    Path,
    /// Path and query.
    Uri,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HashCookie {
    pub name: Box<str>,
    /// A client without the cookie is given one that lives so long; zero: until the browser ends. `None`: it is given none.
    pub ttl: Option<Duration>,
    /// Name and value of further attributes, in the order of their names.
    pub attributes: Vec<(Box<str>, Box<str>)>,
}

/// What is said of an upstream beside how it is spoken to. The default asks for nothing and costs nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct UpstreamPolicy {
    pub check: Option<Check>,
    pub outliers: Option<Outliers>,
    /// Per cent of endpoints that must be healthy; below, all are taken again, because a few would not carry the load of
    /// all. 0 to 100; 0 never panics. Meaningful with `check` or `outliers`.
    pub panic_below: u8,
    /// A new endpoint, or one that has recovered, gets its full share after so long, growing evenly from a tenth.
    pub slow_start: Option<Duration>,
    pub limits: Limits,
    pub keep_alive: KeepAlive,
    /// TCP and TLS together. `None`: as edge.toml says.
    pub connect_timeout: Option<Duration>,
}

impl UpstreamPolicy {
    /// Whether there is anything that must be asked or counted per request.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether endpoints may be left out for their health.
    pub fn judges_health(&self) -> bool {
        self.check.is_some() || self.outliers.is_some()
    }
}

/// An active check. An endpoint that was never checked is taken as healthy until `fall` checks have failed, so that a
/// restart of Edge is no outage.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Check {
    pub kind: CheckKind,
    /// From the start of one check to that of the next; at least 100 ms. F5's `interval`.
    pub interval: Duration,
    /// Of one check, the connection included; at least 10 ms. A check that is longer has failed. (F5's `timeout` is another
    /// thing: the time without a success after which a member is down, which is `fall` × `interval` here.)
    pub timeout: Duration,
    /// Successes in a row that bring an endpoint back; at least 1. Envoy's `healthyThreshold`, HAProxy's `rise`.
    pub rise: u32,
    /// Failures in a row that take an endpoint out; at least 1. Envoy's `unhealthyThreshold`, HAProxy's `fall`. A connection
    /// that is refused or reset counts as one failure, where F5 marks the member down at once.
    pub fall: u32,
    /// Another port than that of the traffic.
    pub port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum CheckKind {
    /// Inside TLS where the upstream speaks TLS.
    Http(Box<HttpCheck>),
    /// grpc.health.v1.Health/Check, which must say SERVING. Of the whole server where `service` is empty.
    Grpc { service: Box<str> },
    /// A connection, and what it answers where something is expected. Empty: nothing is sent, nothing is expected.
    Tcp { send: Box<[u8]>, expect: Box<[u8]> },
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct HttpCheck {
    /// `None`: the endpoint's address.
    pub host: Option<Box<str>>,
    /// Path and query.
    pub path: Box<str>,
    pub method: Box<str>,
    /// Inclusive ranges of status codes that are healthy, in order.
    pub statuses: Vec<(u16, u16)>,
    /// What the first 64 KiB of the body must contain; empty: anything.
    pub expect: Box<[u8]>,
}

/// Endpoints are judged by how they serve.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Outliers {
    /// 5xx responses in a row, 0: they do not count. Failures to connect and broken connections count as 5xx unless
    /// `local_failures` counts them apart.
    pub server_errors: u32,
    /// The same of 502, 503 and 504.
    pub gateway_errors: u32,
    /// Failures to connect, broken connections and timeouts in a row, counted apart. `None`: they count as 5xx.
    pub local_failures: Option<u32>,
    /// The first ejection; the n-th one in short order is n times as long, at most [`LONGEST_EJECTION`].
    pub base_ejection: Duration,
    /// Of the endpoints, how many may be out at once. 0 to 100.
    pub most_ejected: u8,
    /// One may be out in any case.
    pub at_least_one: bool,
}

/// See [`Outliers::base_ejection`].
pub const LONGEST_EJECTION: Duration = Duration::from_secs(300);

/// Bounds of an upstream, of all workers together. `None`: no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Limits {
    /// Connections in use: requests over HTTP/1.1, and tunnels. One more waits (see `pending`).
    pub connections: Option<u32>,
    /// The same of each endpoint. Another endpoint that has room is taken; with none the request waits.
    pub endpoint_connections: Option<u32>,
    /// Requests that wait for a connection, until the connect timeout. One more is answered 503. `None`: none waits longer
    /// than it takes to find that there is no room.
    pub pending: Option<u32>,
    /// Requests at once, also over HTTP/2. One more is answered 503.
    pub requests: Option<u32>,
    /// Retries at once. One more is not made.
    pub retries: Option<u32>,
    /// Retries at once, as a share of the requests in progress; goes before `retries`.
    pub retry_budget: Option<RetryBudget>,
}

impl Limits {
    /// Whether anything has to be counted per request.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct RetryBudget {
    /// Hundredths of a per cent: 2000 is 20 %.
    pub share: u32,
    /// So many may be made however few requests there are.
    pub at_least: u32,
}

/// How long connections to endpoints are kept. `None`: as edge.toml says, and without bound where it says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct KeepAlive {
    /// Idle ones, of each endpoint and worker.
    pub idle_connections: Option<u32>,
    pub idle_timeout: Option<Duration>,
    /// Of one connection, then it is closed. At least 1.
    pub requests: Option<u32>,
    /// A connection that is so old is closed after the request in progress.
    pub age: Option<Duration>,
}
