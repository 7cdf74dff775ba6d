//! TCPRoute and TLS passthrough: one accepted connection to one endpoint.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edge_config::snapshot::{StreamRoute, UpstreamId};
use tokio::net::TcpStream;

use super::{Targets, choose, prepare, reset, target, tunnel};
use crate::proxy::reason::Reason;

/// Endpoints that are tried before the client is turned away.
const TRIES: u32 = 3;

#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For one try.
    pub connect: Duration,
    /// Zero: none.
    pub idle: Duration,
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
    /// Bytes from the client, to the client.
    pub received: u64,
    pub sent: u64,
    pub reason: Option<Reason>,
}

/// Serves one connection to its end. `first` was read from it already (a ClientHello). A route that is absent or leads to
/// an invalid backend resets the connection: "invalid share of connections must be rejected actively".
pub async fn serve<T: Targets>(
    client: TcpStream,
    first: &[u8],
    route: Option<&StreamRoute>,
    targets: &T,
    (timeouts, draw): (Timeouts, u32),
) -> Summary {
    let mut summary = Summary::default();
    match dial(route, targets, timeouts.connect, draw, &mut summary).await {
        Ok((upstream, load)) => {
            // Without these options a connection still works.
            let _ = prepare(&client);
            let end = tunnel(&client, &upstream, first, &[], timeouts.idle).await;
            summary.received = end.a_to_b;
            summary.sent = end.b_to_a;
            summary.reason = end.cause.reason();
            drop(load);
        }
        Err(reason) => {
            summary.reason = Some(reason);
            reset(client);
        }
    }
    summary
}

/// Chooses a backend and connects to one of its endpoints; another endpoint is tried when one does not accept.
pub async fn dial<T: Targets>(
    route: Option<&StreamRoute>,
    targets: &T,
    timeout: Duration,
    draw: u32,
    summary: &mut Summary,
) -> Result<(TcpStream, T::Load), Reason> {
    let backend = choose(&route.ok_or(Reason::NoRoute)?.backends, draw).ok_or(Reason::InvalidBackend)?;
    summary.backend = Some(Arc::clone(&backend.reference));
    let upstream = target(backend).ok_or(Reason::InvalidBackend)?;
    summary.upstream = Some(upstream);
    let start = Instant::now();
    let mut failed: Option<SocketAddr> = None;
    while summary.tries < TRIES {
        let Some((endpoint, load)) = targets.pick(upstream, failed) else { break };
        if Some(endpoint) == failed {
            // There is no other one.
            break;
        }
        summary.tries += 1;
        summary.endpoint = Some(endpoint);
        let outcome = match tokio::time::timeout(timeout, TcpStream::connect(endpoint)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        targets.note(upstream, endpoint, outcome.as_ref().map(|_| ()));
        if let Ok(stream) = outcome {
            summary.connect = Some(start.elapsed());
            let _ = prepare(&stream);
            return Ok((stream, load));
        }
        failed = Some(endpoint);
    }
    Err(if failed.is_some() { Reason::ConnectFailed } else { Reason::NoReadyEndpoint })
}
