//! What the data plane changes about requests and responses: filters of rules and backends, checked and canonical.
//! Standards: Gateway API v1.6.1 HTTPRouteFilter and GRPCRouteFilter.

use std::sync::Arc;

use serde::Serialize;

use super::Target;

/// Filters in the form in which they are applied. Header names are lower case and valid field names; values are valid
/// field values (RFC 9110 §5).
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Filters {
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    pub rewrite: Option<Rewrite>,
    pub mirrors: Vec<Mirror>,
    pub cors: Option<Cors>,
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
