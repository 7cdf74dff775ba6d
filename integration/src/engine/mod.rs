//! The load engine of the benchmark and the soak: a client and an origin that cost next to nothing, so that the proxy
//! between them is the bottleneck.
//!
//! Flows in: a [`Work`] and where to do it. Flows out: an [`Outcome`], in which every response was verified byte by byte,
//! and [`Sample`]s of what the proxy spent. One thread each, epoll, no allocation per request. HTTP/1.1 (RFC 9112), TLS
//! 1.3 and WebSocket (RFC 6455) only; HTTP/2 is left to `h2load`.

mod connection;
mod driver;
mod histogram;
mod origin;
mod outgoing;
pub mod pattern;
mod response;
mod sample;
mod tls;

pub use driver::{Driver, Outcome, Pace};
pub use histogram::Histogram;
pub use origin::FastOrigin;
pub use sample::{Clock, Sample, Usage, allowed_cpus, open_files, pin, pss, resident, spent, tracer, tree};
pub use tls::TlsPlan;

use std::net::SocketAddr;

/// What one exchange is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `GET`, with a response of that many bytes.
    Download(u64),
    /// `POST` of that many bytes; the origin says whether they were the right ones.
    Upload(u64),
    /// One masked WebSocket frame and its echo.
    Echo,
}

/// How a connection begins.
#[derive(Clone)]
pub enum Opening {
    Plain,
    Tls(TlsPlan),
    /// A real ClientHello, then plain bytes: passthrough by SNI without anybody paying for cryptography.
    HelloOnly,
}

#[derive(Clone)]
pub struct Work {
    pub address: SocketAddr,
    pub opening: Opening,
    pub kind: Kind,
    pub connections: usize,
    /// Hosts `h0` to `hN-1` of [`DOMAIN`], one at random for every request.
    pub hosts: u32,
    /// A connection per request.
    pub once: bool,
}

pub const DOMAIN: &str = "example.test";

/// The first of the hosts.
pub const HOST: &str = "h0.example.test";
