//! Filters: what a rule changes in a request or a response, as functions over the canonical heads.
//!
//! A filter flows in as a value of the snapshot and changes a head in place, or answers for the backend. No filter does
//! I/O, reads a clock or draws a random number: time and draws are arguments. The order in which they are called is that
//! of the exchange: [`forwarded`] first, so that nothing after it sees what a client only claims; then [`cors`] and
//! [`redirect`], which may answer; then [`headers`] and [`rewrite`]; on the way back [`headers`], [`session`], [`cors`].
//!
//! Standards: Gateway API v1.6.1 HTTPRouteFilter, GEP-1619 (session persistence), RFC 9110, RFC 6265, Fetch (CORS).

pub mod client;
pub mod client_cert;
pub mod cors;
pub mod extension;
pub mod forwarded;
pub mod headers;
pub mod mirror;
pub mod redirect;
pub mod rewrite;
pub mod session;
