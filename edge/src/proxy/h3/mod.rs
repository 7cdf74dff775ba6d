//! HTTP/3 (RFC 9114) over QUIC (RFC 9000), for HTTPS listeners that a policy has switched it on for.
//!
//! In flow datagrams of a UDP socket per worker and address; out flow canonical heads with a `Source` and a `Sink` each,
//! so that an exchange does not know which protocol it serves. QUIC itself is quinn's: packets, loss, congestion,
//! migration, the amplification limit. What a request is, is decided here and by the blocks of HTTP/2
//! ([`super::h2::convert`]), hence one policy for both. [`listen`] takes connections, [`session`] picks the listener and
//! its TLS, [`steering`] keeps a connection with its worker, [`connection`] serves one to its end. No server push, no
//! dynamic table of QPACK, no early data, no datagrams, no extended CONNECT, no priorities.

mod body;
mod connection;
mod control;
mod frame;
mod listen;
mod qpack;
mod session;
mod socket;
pub mod steering;

pub use listen::{Listening, start};
pub use session::quic_config;
