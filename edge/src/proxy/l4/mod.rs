//! Below HTTP: TCP and TLS passthrough as tunnels, UDP as sessions.
//!
//! In: accepted connections, datagrams, the StreamRoute of a listener, and the worker's endpoints as [`Targets`]. Out:
//! bytes between client and endpoint, and a summary for the log. All of it are tasks of one worker on readiness; io_uring
//! has nothing to add where splice(2) moves the bytes. Nothing here looks into a payload.
//!
//! Standards: Gateway API v1.6.1 TCPRoute, UDPRoute, TLSRoute; RFC 9293 §3.6 (half-close), RFC 1122
//! §4.2.3.6 (keep-alive probes find dead peers), RFC 1122 §4.1.3.3 (ICMP errors reach the session that they are about).

pub mod affinity;
pub mod relay;
mod serve;
mod splice;
pub mod tcp;
pub mod tunnel;
pub mod udp;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::proxy::upstream::Census;
use edge_config::snapshot::{Backend, Balance, StreamRoute, Target, UpstreamId};

pub use serve::{datagrams, passthrough, streams, terminated};
pub use tunnel::{Cause, Meter, Quiet, TunnelEnd, tunnel};

/// The endpoints of a generation, as the worker balances them.
pub trait Targets {
    /// Kept while a connection or session lives: it counts as load of its endpoint.
    type Load: 'static;

    /// An endpoint that takes new work: the client's own where it has one. `avoid` has just failed and is only given
    /// again when there is no other.
    fn pick(&self, upstream: UpstreamId, how: How<'_>, avoid: Option<SocketAddr>) -> Option<(SocketAddr, Self::Load)>;

    /// How many endpoints are healthy. Only asked where some backends are for need.
    fn census(&self, _upstream: UpstreamId) -> Census {
        Census::default()
    }

    /// Whether the upstream still has this endpoint.
    fn has(&self, upstream: UpstreamId, endpoint: SocketAddr) -> bool;

    /// Work that is under way already, at this endpoint; no limit ends it. `None`: the upstream does not have it.
    fn hold(&self, upstream: UpstreamId, endpoint: SocketAddr) -> Option<Self::Load>;

    /// How connecting went, for passive health.
    fn note(&self, upstream: UpstreamId, endpoint: SocketAddr, outcome: Result<(), &io::Error>);
}

/// How an endpoint is chosen for a client.
#[derive(Debug, Clone, Copy)]
pub struct How<'a> {
    pub client: IpAddr,
    pub sticky: Option<Sticky>,
    /// `None`: in turn.
    pub balance: Option<&'a Balance>,
}

/// A client that stays with an endpoint (`sessionAffinity: ClientIP`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sticky {
    pub client: IpAddr,
    pub timeout: Duration,
}

impl Sticky {
    pub fn of(route: &StreamRoute, client: IpAddr) -> Option<Self> {
        route.affinity.map(|timeout| Self { client: client.to_canonical(), timeout })
    }
}

/// What a weighted choice leads to.
pub(super) fn target(backend: &Backend) -> Option<UpstreamId> {
    match backend.target {
        Target::Upstream(upstream) => Some(upstream),
        Target::Invalid { .. } => None,
    }
}

/// Closes with RST: the client learns at once that this is no regular end.
pub fn reset(stream: tokio::net::TcpStream) {
    abandon(&stream);
}

/// Makes the close of a connection, whenever it comes, a reset.
fn abandon(stream: &tokio::net::TcpStream) {
    // A socket that refuses the option is dead already.
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

#[cfg(test)]
mod tests;
