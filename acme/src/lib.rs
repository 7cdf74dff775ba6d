//! Certificates that Edge makes or orders: when one is due, in which order, the making of those that need no foreign CA,
//! and the ACME side of those that do.
//!
//! In flow wanted certificates (of a snapshot), what is held of them, and `now` in Unix seconds; out flow actions and
//! PEM. Nothing here opens a file or prints a key; but for [`client`] and [`order`], nothing reads a clock, opens a
//! socket or keeps state.
//! Standards: RFC 5280 (profile of X.509), RFC 7093 (key identifiers), RFC 9773 is not applied to own CAs.

pub mod alpn;
pub mod backoff;
pub mod budget;
pub mod challenge;
pub mod client;
pub mod dns;
pub mod due;
pub mod failure;
pub mod level;
pub mod local;
pub mod memory;
pub mod order;
pub mod plan;
