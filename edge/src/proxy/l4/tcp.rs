//! TCPRoute and TLSRoute: from a route to a connection with one endpoint.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use edge_config::snapshot::{StreamRoute, UpstreamId};

use super::{How, Sticky, Targets, target};
use crate::proxy::reason::Reason;
use crate::proxy::upstream::priority;

/// Endpoints that are tried before the client is turned away.
const TRIES: u32 = 3;

/// How connections are made; each has a deadline of its own.
pub trait Connect: Targets {
    type Connection;

    async fn connect(&self, upstream: UpstreamId, endpoint: SocketAddr) -> Result<Self::Connection, Refusal>;
}

/// An endpoint did not take a connection.
#[derive(Debug)]
pub struct Refusal {
    pub reason: Reason,
    pub error: io::Error,
}

/// What there is to log of a connection, whether it got anywhere or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub backend: Option<Arc<str>>,
    pub upstream: Option<UpstreamId>,
    pub endpoint: Option<SocketAddr>,
    pub tries: u32,
    /// Until the endpoint accepted.
    pub connect: Option<Duration>,
}

/// Chooses a backend and connects to one of its endpoints; another endpoint is tried when one does not accept. A route that
/// is absent or leads to an invalid backend is an error: "invalid share of connections must be rejected actively".
pub async fn dial<T: Connect>(
    route: Option<&StreamRoute>,
    client: IpAddr,
    targets: &T,
    draw: u32,
    summary: &mut Summary,
) -> Result<(T::Connection, T::Load), Reason> {
    let route = route.ok_or(Reason::NoRoute)?;
    if route.admission.as_ref().is_some_and(|admission| !admission.admits(client)) {
        return Err(Reason::Forbidden);
    }
    let sticky = Sticky::of(route, client);
    let backend =
        priority::choose(&route.backends, draw, |upstream| targets.census(upstream)).ok_or(Reason::InvalidBackend)?;
    summary.backend = Some(Arc::clone(&backend.reference));
    let upstream = target(backend).ok_or(Reason::InvalidBackend)?;
    summary.upstream = Some(upstream);
    let how = How { client, sticky, balance: backend.balance.as_ref() };
    let start = Instant::now();
    let mut failed: Option<(SocketAddr, Reason)> = None;
    while summary.tries < TRIES {
        let avoid = failed.map(|(endpoint, _)| endpoint);
        let Some((endpoint, load)) = targets.pick(upstream, how, avoid) else { break };
        if Some(endpoint) == avoid {
            // There is no other one.
            break;
        }
        summary.tries += 1;
        summary.endpoint = Some(endpoint);
        match targets.connect(upstream, endpoint).await {
            Ok(connection) => {
                targets.note(upstream, endpoint, Ok(()));
                summary.connect = Some(start.elapsed());
                return Ok((connection, load));
            }
            Err(refusal) => {
                targets.note(upstream, endpoint, Err(&refusal.error));
                failed = Some((endpoint, refusal.reason));
            }
        }
    }
    Err(failed.map_or(Reason::NoReadyEndpoint, |(_, reason)| reason))
}
