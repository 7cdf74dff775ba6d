//! HTTP/2 on both sides of an exchange (RFC 9113), and HPACK (RFC 7541); gRPC needs nothing more.
//!
//! In flow connections, in clear or inside TLS; out flow canonical heads with a `Source` and a `Sink` each, as from
//! HTTP/1, so that an exchange does not know which protocol it serves. A connection is [`mux`], which does no I/O, driven
//! by [`wire`]; [`serve`] and [`client`] are its two uses. No server push, no extended CONNECT, no upgrade from HTTP/1.1,
//! no priorities.

pub mod body;
pub mod client;
pub mod convert;
mod frame;
pub mod front;
pub(super) mod hpack;
mod mux;
pub mod serve;
pub mod wire;

pub use mux::budget;

#[cfg(test)]
mod tests;
