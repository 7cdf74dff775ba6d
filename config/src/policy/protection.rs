//! How much may pass: rates, sizes, bandwidth, concurrency. Values are decided at compile time and never judged again.
//!
//! A rate is a bucket that empties evenly. What it is counted by is said twice: [`Rate::when`], which requests it is about
//! at all, and [`Rate::by`], which of those are counted apart.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::matching::{Pattern, QueryMatch, ValueMatch};
use crate::names::ObjectRef;
use crate::settings::AddressRange;

/// In the order in which it is asked. An absent part costs nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Protection {
    /// Lower goes first when Edge has more to do than it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// Requests of one rule at once; one more is answered 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel: Option<u32>,
    /// The most bytes of a request body; one more is answered 413. [`UNBOUNDED`] says that there is no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_body: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rates: Option<Arc<Rates>>,
    /// Of another origin, which adds to them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zones: Option<Arc<Rates>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admission: Option<Arc<Admission>>,
    /// A request is taken whole before anything of it goes on; one with a larger body is answered 413.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buffer: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Arc<Bandwidth>>,
}

/// See [`Protection::max_body`].
pub const UNBOUNDED: u64 = u64::MAX;

impl Protection {
    /// What is said here, and for the rest what is said more widely.
    pub fn under(&self, wider: &Self) -> Self {
        let Self { priority, parallel, max_body, rates, zones, admission, buffer, bandwidth } = self.clone();
        Self {
            priority: priority.or(wider.priority),
            parallel: parallel.or(wider.parallel),
            max_body: max_body.or(wider.max_body),
            rates: rates.or_else(|| wider.rates.clone()),
            zones: match (zones, &wider.zones) {
                (Some(own), Some(wider)) => Some(own.under(wider)),
                (own, wider) => own.or_else(|| wider.clone()),
            },
            admission: admission.or_else(|| wider.admission.clone()),
            buffer: buffer.or(wider.buffer),
            bandwidth: bandwidth.or_else(|| wider.bandwidth.clone()),
        }
    }

    /// `None` where nothing is said.
    pub fn or_none(self) -> Option<Arc<Self>> {
        (self != Self::default()).then(|| Arc::new(self))
    }

    /// Every rate, those of both origins.
    pub fn all_rates(&self) -> impl Iterator<Item = &Rate> {
        self.rates.iter().chain(&self.zones).flat_map(|rates| &rates.list)
    }
}

/// Rates of one origin. A request must be within each that is about it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Rates {
    pub list: Vec<Rate>,
    /// Nothing is refused because of them, only counted. `None`: as said more widely, and at last no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<bool>,
    /// The status of refusals. `None`: the same, and at last [`TOO_MANY_REQUESTS`] or [`UNAVAILABLE`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The level at which refusals are logged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<LogLevel>,
}

pub const TOO_MANY_REQUESTS: u16 = 429;
/// What NGINX answers where nothing is said.
pub const UNAVAILABLE: u16 = 503;

impl Rates {
    /// As directives of NGINX are inherited: the list whole, everything else by itself.
    fn under(self: &Arc<Self>, wider: &Arc<Self>) -> Arc<Self> {
        let list = if self.list.is_empty() { &wider.list } else { &self.list };
        Arc::new(Self {
            list: list.clone(),
            dry_run: self.dry_run.or(wider.dry_run),
            status: self.status.or(wider.status),
            log: self.log.or(wider.log),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Info,
    Notice,
    Warn,
    Error,
}

/// One limit: so many in so long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rate {
    pub name: RateName,
    /// Of the name, the same on every edge.
    #[serde(skip)]
    pub digest: u64,
    /// 0: nothing passes.
    pub requests: u32,
    pub per: Duration,
    /// How many may come at once beyond the even rate.
    pub burst: u32,
    /// Of these, how many are passed on at once; the rest wait until they are due. `None`: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_after: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<Box<Selector>>,
    /// It is about requests that no other rate of its list with the same reach is about.
    #[serde(skip_serializing_if = "is_false")]
    pub otherwise: bool,
    /// Requests that differ in these are counted apart; one that has none of a part is not counted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<KeyPart>,
    /// It is counted if it has any of the parts.
    #[serde(skip_serializing_if = "is_false")]
    pub by_any: bool,
    pub counts: Counts,
    pub reach: Reach,
    #[serde(skip_serializing_if = "is_false")]
    pub dry_run: bool,
    /// What a request takes from it; 0 only looks.
    pub cost: u64,
    /// What its end takes, which may be more than there is.
    #[serde(skip_serializing_if = "is_zero")]
    pub response_cost: u64,
    /// Whether responses tell of it. `None`: as the listener says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<bool>,
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// Where a rate is written: the policy, and its place there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct RateName {
    pub policy: ObjectRef,
    pub list: RateList,
    pub index: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RateList {
    Local,
    Global,
}

impl RateList {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Global => "global",
        }
    }
}

/// `BackendTrafficPolicy shop/limits local rule 2`
impl std::fmt::Display for RateName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} rule {}", self.policy, self.list.as_str(), self.index)
    }
}

/// What has a count of its own, beside [`Rate::by`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Counts {
    /// Each route at each listener.
    Route,
    /// Each Gateway.
    Gateway,
    /// All targets of the policy together.
    Policy,
}

/// Who counts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// All workers of this edge.
    Edge,
    /// All edges of the fleet; without a fleet it is this edge.
    Fleet,
}

/// Which requests a rate is about: all of it must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Selector {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<Unless<HeaderTest>>,
    /// One of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<Unless<Box<str>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Unless<PathTest>>,
    /// The client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Unless<AddressRange>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<Unless<QueryMatch>>,
}

/// A condition, or its contrary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unless<T> {
    pub is: T,
    #[serde(skip_serializing_if = "is_false")]
    pub inverted: bool,
}

impl<T> Unless<T> {
    /// `test`: whether the condition itself holds.
    pub fn holds(&self, test: impl FnOnce(&T) -> bool) -> bool {
        test(&self.is) != self.inverted
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeaderTest {
    /// Lower case. Several fields of the name are one, joined by commas (RFC 9110 §5.3).
    pub name: Box<str>,
    pub value: ValueMatch,
}

/// Of the path without query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathTest {
    Exact(Box<str>),
    /// By segments, without a slash at the end; empty is every path.
    Prefix(Box<str>),
    Regex(Pattern),
}

/// A part of a request by which it is counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyPart {
    /// The client's address, as X-Forwarded-For of trusted proxies or a PROXY protocol header says.
    Client,
    /// Lower case; the first one counts.
    Header(Box<str>),
    Cookie(Box<str>),
    Query(Box<str>),
    Host,
    Method,
    /// Path without query.
    Path,
    /// Path and query.
    Uri,
    Text(Box<str>),
}

/// Requests are refused by chance as far as those before them failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Admission {
    pub name: ObjectRef,
    #[serde(skip)]
    pub digest: u64,
    /// At least a second.
    pub window: Duration,
    /// Per cent of successes at which nothing is refused; 1 to 100.
    pub min_success: u8,
    /// At least 1.
    pub aggression: u32,
    /// Requests per second below which nothing is refused.
    pub min_rate: u32,
    /// Per cent, 0 to 100.
    pub most_refused: u8,
    /// Statuses that are successes; empty: all below 500.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub statuses: Vec<u16>,
    /// Codes of gRPC that are; never empty.
    pub grpc_codes: Vec<u8>,
}

/// Bytes per second of bodies, of all requests of one rule together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bandwidth {
    pub name: ObjectRef,
    #[serde(skip)]
    pub digest: u64,
    /// At least 1024.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<u64>,
    /// What the names of trailers begin with that tell of the time it took. `None`: there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trailers: Option<Box<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Refused while more than 80 % of the connections that Edge may have are open.
    Low,
    /// The same beyond 90 %.
    Normal,
    /// Never refused for this.
    High,
}

/// Connections of the HTTP listeners of a Gateway together, or of one TLS listener; of this edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ConnectionLimit {
    /// At least 1.
    pub most: u64,
    /// One more is closed after so long.
    pub close_delay: Duration,
}
