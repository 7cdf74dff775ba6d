//! What the data plane changes about requests and responses: filters of rules and backends, checked and canonical.
//! Standards: Gateway API v1.6.1 HTTPRouteFilter and GRPCRouteFilter.

use std::sync::Arc;

use serde::Serialize;

use super::{Substitution, Target};
use crate::issuer::SecretRef;

/// Filters in the form in which they are applied. Header names are lower case and valid field names; values are valid
/// field values (RFC 9110 §5).
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Filters {
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    pub rewrite: Option<Rewrite>,
    pub mirrors: Vec<Mirror>,
    pub cors: Option<Cors>,
    /// Beyond the Gateway API; after `rewrite`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extension: Option<Box<Extension>>,
}

/// What Envoy Gateway's HTTPRouteFilter says of requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Extension {
    /// Judged before `path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostEdit>,
    /// Whether the backend is told the host that the client asked for, where `host` is another.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub hides_host: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Substitution>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<Credential>,
}

/// Where the host that a backend sees comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum HostEdit {
    /// A field of the request, in lower case. Absent or empty: the host stays.
    Field(Box<str>),
    /// The name of the backend, where it has one.
    Backend,
    /// What becomes of the path. It does not match: the host stays.
    Path(Substitution),
}

/// A field that the backend wants and the client does not send.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Credential {
    /// Lower case.
    pub field: Box<str>,
    /// Whether it goes before one of the client.
    pub replaces: bool,
    /// Its whole value.
    pub secret: SecretRef,
}

/// Applied in this order: set, add, remove.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HeaderEdits {
    pub set: Vec<(Box<str>, Box<str>)>,
    pub add: Vec<(Box<str>, Box<str>)>,
    pub remove: Vec<Box<str>>,
}

impl HeaderEdits {
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

/// RequestRedirect. Absent parts follow the request (HTTPRequestRedirectFilter).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Redirect {
    pub scheme: Option<Scheme>,
    pub hostname: Option<Box<str>>,
    pub path: Option<PathEdit>,
    pub port: Option<u16>,
    pub status: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    Http,
    Https,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rewrite {
    pub hostname: Option<Box<str>>,
    pub path: Option<PathEdit>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum PathEdit {
    Full(Box<str>),
    /// Replaces what the matched PathPrefix covered.
    Prefix(Box<str>),
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mirror {
    pub reference: Arc<str>,
    pub target: Target,
    /// Of requests, `numerator / denominator` are copied.
    pub numerator: u32,
    pub denominator: u32,
}

/// HTTPCORSFilter. `None` in a list position means that the field is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Cors {
    pub allow_origins: Vec<Origin>,
    pub allow_credentials: bool,
    pub allow_methods: Vec<Box<str>>,
    pub allow_headers: Vec<Box<str>>,
    pub expose_headers: Vec<Box<str>>,
    pub max_age: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Origin {
    Any,
    Exact(Box<str>),
    /// `scheme://*.suffix[:port]`: what stands before and after the `*`.
    Wildcard {
        before: Box<str>,
        after: Box<str>,
    },
}
