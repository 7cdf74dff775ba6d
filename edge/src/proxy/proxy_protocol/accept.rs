//! The header at the beginning of a connection that was accepted.
//!
//! It is looked at where it lies in the socket (MSG_PEEK) and then taken to the byte, so whatever comes behind finds
//! the connection as if it had begun there. All of it happens within `head_timeout` of the accept. A header of someone
//! who is not trusted, a broken one, and none where one is required end the connection, which is counted and, now and
//! then, logged.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use edge_config::snapshot::{AcceptProxy, ProxyPresence};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::{MOST, Malformed, Origin, Start, canonical, parse};
use crate::proxy::buffer::Buffer;
use crate::proxy::clock::Elapsed;
use crate::proxy::reason::Reason;
use crate::proxy::worker::{Arrival, Proxied, Worker};

/// Why a connection is not served.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the source is not trusted to send PROXY protocol headers")]
    Untrusted,
    #[error("PROXY protocol header is missing")]
    Missing,
    #[error("PROXY protocol header: {0}")]
    Malformed(#[from] Malformed),
    #[error("no complete PROXY protocol header within the head timeout")]
    Elapsed,
    #[error("closed before its PROXY protocol header was complete")]
    Closed,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Takes the header of a connection and notes in `arrival` what it says. `false`: the connection is to be closed.
pub async fn take(worker: &Worker, stream: &TcpStream, rule: &AcceptProxy, arrival: &mut Arrival) -> bool {
    let timer = worker.clock.timer();
    timer.set_at(arrival.at + worker.current().generation.limits.head_timeout);
    let peer = canonical(arrival.peer);
    let taken = match timer.limit(header(stream, rule, peer.ip())).await {
        Ok(taken) => taken,
        Err(Elapsed) => Err(Refusal::Elapsed),
    };
    match taken {
        Ok(None) => true,
        Ok(Some(Origin { source, destination })) => {
            arrival.proxied = Some(Box::new(Proxied { by: arrival.peer, destination }));
            arrival.peer = source;
            true
        }
        Err(refusal) => {
            refuse(worker, arrival.peer, arrival.local, &refusal);
            false
        }
    }
}

/// The origin that a header tells, `None` where there is none or it tells nothing.
async fn header(stream: &TcpStream, rule: &AcceptProxy, peer: IpAddr) -> Result<Option<Origin>, Refusal> {
    let is_trusted = rule.from.iter().any(|range| range.contains(peer));
    let is_required = rule.presence == ProxyPresence::Required;
    if is_required && !is_trusted {
        // Whatever it says.
        return Err(Refusal::Untrusted);
    }
    loop {
        // Known before the look: then the look sees all that will ever come.
        let ended = stream.ready(Interest::READABLE).await?.is_read_closed();
        let mut buffer = Buffer::take();
        let count = stream.peek(buffer.room_mut().get_mut(..MOST).unwrap_or_default()).await?;
        buffer.grow(count);
        match parse(buffer.as_slice())? {
            _ if count == 0 => return Err(Refusal::Closed),
            Start::Undecided if ended && !is_required => return Ok(None),
            Start::Undecided | Start::Partial if ended => return Err(Refusal::Closed),
            // From here on it can only be a header.
            Start::Partial | Start::Header { .. } if !is_trusted => return Err(Refusal::Untrusted),
            Start::Undecided | Start::Partial => wait_for_more(stream),
            Start::Other if is_required => return Err(Refusal::Missing),
            Start::Other => return Ok(None),
            Start::Header { length, origin } => {
                consume(stream, buffer, length)?;
                return Ok(origin);
            }
        }
    }
}

/// Takes the readiness away: what was looked at is still there, and only news count.
fn wait_for_more(stream: &TcpStream) {
    let _ = stream.try_io::<()>(Interest::READABLE, || Err(io::ErrorKind::WouldBlock.into()));
}

/// Takes the header, which is all there, out of the socket.
fn consume(stream: &TcpStream, mut buffer: Buffer, length: usize) -> io::Result<()> {
    buffer.clear();
    let mut left = length;
    while left > 0 {
        match stream.try_read(buffer.room_mut().get_mut(..left).unwrap_or_default())? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => left -= count,
        }
    }
    Ok(())
}

fn refuse(worker: &Worker, peer: SocketAddr, local: SocketAddr, refusal: &Refusal) {
    let reason = match refusal {
        Refusal::Untrusted | Refusal::Missing | Refusal::Malformed(_) => Reason::ProxyProtocol,
        Refusal::Elapsed => Reason::HeadTimeout,
        Refusal::Closed | Refusal::Io(_) => Reason::ClientClosed,
    };
    worker.metrics.count(reason);
    let told = if reason == Reason::ProxyProtocol { worker.complaints.note(Instant::now()) } else { None };
    match told {
        Some(more) => tracing::warn!(%peer, %local, error = %refusal, more, "connection closed"),
        None => tracing::debug!(%peer, %local, error = %refusal, "connection closed"),
    }
}
