//! Certificates that Edge makes: when one is due, in which order, and the making of those that need no foreign CA.
//!
//! In flow wanted certificates (of a snapshot), what is held of them, and `now` in Unix seconds; out flow actions and
//! PEM. Nothing here reads a clock, opens a file or a socket, keeps state, or prints a key.
//! Standards: RFC 5280 (profile of X.509), RFC 7093 (key identifiers), RFC 9773 is not applied to own CAs.

pub mod due;
pub mod local;
pub mod plan;
