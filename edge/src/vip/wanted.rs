//! Which VIPs may be told to the network now; pure.
//!
//! In: the snapshot and what is observed of addresses, sockets and certificates. Out: every VIP of the snapshot in its
//! order, with the reason why it is withheld. "Never announce what we cannot serve": a VIP needs its address on this
//! machine, at least one bound socket, a listener on it that serves, for TLS a certificate or placeholder, and no drain.

use std::fmt;
use std::net::SocketAddr;

use edge_config::names::CertId;
use edge_config::snapshot::{Listener, ListenerId, ListenerServe, PortServe, Snapshot, Socket, Vip};

use super::address::{AddressState, AddressesObserved};
use crate::control::observed::{Observed, SocketState};

/// Why a VIP is not announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Withheld {
    Draining,
    NotBound(String),
    /// The address was not looked at yet.
    Pending,
    NoListener,
    SocketFailed {
        socket: SocketAddr,
        reason: String,
    },
    SocketPending(SocketAddr),
    NoCertificate {
        listener: String,
        certificate: CertId,
    },
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Draining => f.write_str("this edge is draining"),
            Self::NotBound(reason) => f.write_str(reason),
            Self::Pending => f.write_str("its address is not set up yet"),
            Self::NoListener => f.write_str("no listener of its Gateway serves"),
            Self::SocketFailed { socket, reason } => write!(f, "no socket on {socket}: {reason}"),
            Self::SocketPending(socket) => write!(f, "the socket on {socket} is not bound yet"),
            Self::NoCertificate { listener, certificate } => {
                write!(f, "{listener} has neither certificate {certificate} nor a placeholder")
            }
        }
    }
}

/// Every VIP of the snapshot: `Ok` may be announced.
pub fn wanted_vips(
    snapshot: &Snapshot,
    addresses: &AddressesObserved,
    observed: &Observed,
) -> Vec<(Vip, Result<(), Withheld>)> {
    let mut sockets: Vec<&Socket> = snapshot.sockets.iter().collect();
    sockets.sort_by_key(|socket| socket.address.ip());
    let mut result = Vec::with_capacity(snapshot.vips.len());
    for vip in &snapshot.vips {
        let first = sockets.partition_point(|socket| socket.address.ip() < vip.address);
        let end = sockets.partition_point(|socket| socket.address.ip() <= vip.address);
        result.push((vip.clone(), judge(snapshot, vip, &sockets[first..end], addresses, observed)));
    }
    result
}

fn judge(
    snapshot: &Snapshot,
    vip: &Vip,
    sockets: &[&Socket],
    addresses: &AddressesObserved,
    observed: &Observed,
) -> Result<(), Withheld> {
    if observed.drain.is_some() {
        return Err(Withheld::Draining);
    }
    match addresses.addresses.get(&vip.address) {
        None => return Err(Withheld::Pending),
        Some(AddressState::Failed(reason)) => return Err(Withheld::NotBound(reason.clone())),
        Some(AddressState::Ours { .. } | AddressState::Present { .. }) => {}
    }
    // The reason of the first socket stands for all: sockets are in the order of their ports.
    let mut first = None;
    for socket in sockets {
        match serves(snapshot, socket, observed) {
            Ok(()) => return Ok(()),
            Err(reason) => drop(first.get_or_insert(reason)),
        }
    }
    Err(first.unwrap_or(Withheld::NoListener))
}

fn serves(snapshot: &Snapshot, socket: &Socket, observed: &Observed) -> Result<(), Withheld> {
    match observed.sockets.get(&(socket.address, socket.transport)) {
        None => return Err(Withheld::SocketPending(socket.address)),
        Some(SocketState::Failed(reason)) => {
            return Err(Withheld::SocketFailed { socket: socket.address, reason: reason.clone() });
        }
        Some(SocketState::Bound) => {}
    }
    let Some(port) = snapshot.ports.get(socket.port.index()) else { return Err(Withheld::NoListener) };
    let listener = |id: ListenerId| snapshot.listeners.get(id.index());
    match &port.serve {
        PortServe::Http { hosts } if hosts.values().any(|id| listener(*id).is_some()) => Ok(()),
        PortServe::Tcp { listener: id } | PortServe::Udp { listener: id } if listener(*id).is_some() => Ok(()),
        PortServe::Tls { names } => {
            let mut first = Err(Withheld::NoListener);
            for (_, id) in names.iter() {
                match listener(*id).map(|listener| has_certificate(listener, observed)) {
                    Some(Ok(())) => return Ok(()),
                    Some(Err(reason)) if first == Err(Withheld::NoListener) => first = Err(reason),
                    _ => {}
                }
            }
            first
        }
        _ => Err(Withheld::NoListener),
    }
}

fn has_certificate(listener: &Listener, observed: &Observed) -> Result<(), Withheld> {
    let tls = match &listener.serve {
        ListenerServe::Https { tls, .. } | ListenerServe::TlsTerminate { tls, .. } => tls,
        // The backend has the certificate.
        ListenerServe::TlsPassthrough { .. } => return Ok(()),
        ListenerServe::Http { .. } | ListenerServe::Tcp { .. } | ListenerServe::Udp { .. } => return Ok(()),
    };
    // What has an end is at hand: issued, supplied or a placeholder, even one that is over.
    if tls.certificates.iter().any(|id| observed.certificates.get(id).is_some_and(|state| state.not_after.is_some())) {
        return Ok(());
    }
    match tls.certificates.first() {
        Some(id) => Err(Withheld::NoCertificate {
            listener: format!("listener {} of {}", listener.name, listener.parent),
            certificate: id.clone(),
        }),
        None => Err(Withheld::NoListener),
    }
}

#[cfg(test)]
mod tests;
