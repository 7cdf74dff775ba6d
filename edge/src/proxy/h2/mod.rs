//! HTTP/2 on both sides of an exchange (RFC 9113), with the h2 crate as codec; gRPC needs nothing more.
//!
//! In flow connections, in clear or inside TLS; out flow canonical heads with a `Source` and a `Sink` each, as from
//! HTTP/1, so that an exchange does not know which protocol it serves. No server push, no extended CONNECT, no upgrade
//! from HTTP/1.1.

pub mod body;
pub mod client;
pub mod convert;
pub mod front;
pub mod serve;
pub mod wire;

#[cfg(test)]
mod tests;
