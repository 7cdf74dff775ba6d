//! Which rule takes a request: the matches of all routes of one listener, ordered by precedence and indexed.
//!
//! Flows in: the matches of HTTPRoutes and GRPCRoutes at compile time; a request as a [`RequestView`] afterwards. Flows
//! out: the rule that takes the request and how much of the path its prefix covered, or an explanation of every
//! candidate. A look-up allocates nothing (but to decode an escaped query value for a regular expression), and costs
//! the same for one host as for 10,000, for one path as for 1,000.
//!
//! It does not choose the listener (listener isolation comes first, see `PortServe`), and applies no filter.
//!
//! Standards: Gateway API v1.6.1 HTTPRouteRule.matches and GRPCRouteRule.matches; RFC 3986 §3.4.

mod condition;
mod explain;
mod order;
mod pattern;
mod table;

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;

pub use condition::{CookieMatch, FieldMatch, QueryMatch, ValueMatch, query_value};
pub use explain::{Candidate, Loss, Outcome};
pub use order::{PathMatch, RouteMatch};
pub(crate) use pattern::compile as compile_pattern;
pub use pattern::{Pattern, PatternError};
pub use table::{ByPath, Matched, RouteTable};

/// The header fields of a request, looked up by the data plane in its own form of a head.
pub trait Fields {
    /// The value of the first field with this lower-case name.
    fn first(&self, name: &str) -> Option<&[u8]>;
}

/// What matching looks at.
#[derive(Clone, Copy)]
pub struct RequestView<'a, F: ?Sized> {
    /// Lower case, without a port.
    pub host: &'a str,
    pub method: &'a str,
    /// Without the query.
    pub path: &'a str,
    /// What follows `?`, undecoded.
    pub query: Option<&'a str>,
    pub fields: &'a F,
}

/// For tools and tests: names are compared without regard to case.
impl Fields for [(String, String)] {
    fn first(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_bytes())
    }
}
