//! Which VIPs may be told to the network now; pure.
//!
//! In: the snapshot and what is observed of addresses, sockets, certificates and endpoints. Out: every VIP of the snapshot
//! in its order, with the reason why it is withheld. "Never announce what we cannot serve": a VIP needs its address on
//! this machine, unless an election decides who has it, at least one bound socket, a listener on it that serves, for TLS a
//! certificate or placeholder, and an endpoint where that is asked for.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use edge_config::names::CertId;
use edge_config::snapshot::{
    Action, Backend, EndpointSet, Endpoints, Listener, ListenerId, ListenerServe, Port, PortServe, Snapshot, Socket,
    StreamRoute, Target, Transport, Vip,
};

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
    /// Nothing behind it has an endpoint, and the settings ask for one.
    NoEndpoint,
    /// The data plane serves nothing.
    NoWorker,
    /// The guard took everything back while edged did not answer.
    Undone(String),
    /// A worker stands still, or whoever judges does.
    Standstill(String),
    /// What it failed of in the process before this one.
    Before(String),
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
            Self::NoEndpoint => f.write_str("nothing behind it has a ready endpoint"),
            Self::NoWorker => f.write_str("no worker serves"),
            Self::Standstill(reason) | Self::Before(reason) => f.write_str(reason),
            Self::Undone(reason) => write!(f, "it was withdrawn: {reason}"),
            Self::NoCertificate { listener, certificate } => {
                write!(f, "{listener} has neither certificate {certificate} nor a placeholder")
            }
        }
    }
}

/// What there is to be looked at.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'a> {
    pub snapshot: &'a Snapshot,
    /// With names resolved.
    pub endpoints: &'a Endpoints,
    pub addresses: &'a AddressesObserved,
    pub observed: &'a Observed,
}

/// Every VIP of the snapshot: `Ok` may be announced.
pub fn wanted_vips(sight: Sight<'_>) -> Vec<(IpAddr, Result<(), Withheld>)> {
    let snapshot = sight.snapshot;
    let mut sockets: Vec<&Socket> = snapshot.sockets.iter().filter(|socket| carries_alone(socket)).collect();
    sockets.sort_by_key(|socket| socket.address.ip());
    let elected: BTreeSet<IpAddr> = snapshot.announce.l2.iter().flat_map(|group| &group.vips).copied().collect();
    let judge = |vip: &Vip| {
        let first = sockets.partition_point(|socket| socket.address.ip() < vip.address);
        let end = sockets.partition_point(|socket| socket.address.ip() <= vip.address);
        let verdict = judge(sight, vip, &sockets[first..end], elected.contains(&vip.address));
        (vip.address, verdict)
    };
    snapshot.vips.iter().map(judge).collect()
}

/// One thing that a VIP needs before it may be announced: its name, and what speaks for or against it.
pub type Rule = (&'static str, Result<String, String>);

/// Everything that [`wanted_vips`] looks at for one VIP, with the evidence, in the same order.
pub fn rules(sight: Sight<'_>, vip: &Vip) -> Vec<Rule> {
    let Sight { snapshot, endpoints, addresses, observed } = sight;
    let mut rules = Vec::with_capacity(5);
    rules.push(match observed.serving {
        true => ("workers serve", Ok(format!("{} of {}", observed.acknowledged, observed.workers))),
        false => ("workers serve", Err(Withheld::NoWorker.to_string())),
    });
    let group = snapshot.announce.l2.iter().find(|group| group.vips.contains(&vip.address));
    let bound = match (group, addresses.addresses.get(&vip.address)) {
        (Some(group), _) => Ok(format!("on {} while this edge leads virtual router {}", group.interface, group.router)),
        (None, None) => Err(Withheld::Pending.to_string()),
        (None, Some(AddressState::Failed(reason))) => Err(reason.clone()),
        (None, Some(AddressState::Ours { interface })) => Ok(format!("added to {interface} by Edge")),
        (None, Some(AddressState::Present { interface: Some(interface) })) => Ok(format!("on {interface} already")),
        (None, Some(AddressState::Present { interface: None })) => Ok("local already".to_owned()),
    };
    rules.push(("address is bound", bound));
    let of_vip = |socket: &&Socket| socket.address.ip() == vip.address && carries_alone(socket);
    let sockets: Vec<&Socket> = snapshot.sockets.iter().filter(of_vip).collect();
    let served: Vec<_> = sockets.iter().map(|socket| (socket, serves(snapshot, socket, observed))).collect();
    let port = |socket: &Socket| format!("{}/{}", socket.address.port(), socket.transport.as_str());
    let good: Vec<String> =
        served.iter().filter(|(_, outcome)| outcome.is_ok()).map(|(socket, _)| port(socket)).collect();
    let bad = served.iter().find_map(|(_, outcome)| outcome.as_ref().err());
    rules.push(match (good.is_empty(), bad) {
        (false, None) => ("a listener serves", Ok(good.join(", "))),
        (false, Some(bad)) => ("a listener serves", Ok(format!("{}; but {bad}", good.join(", ")))),
        (true, bad) => ("a listener serves", Err(bad.unwrap_or(&Withheld::NoListener).to_string())),
    });
    let needs_endpoint = snapshot.announce.need_endpoint.binary_search(&vip.address).is_ok();
    let mut ports = served.iter().filter_map(|(_, outcome)| outcome.as_ref().ok());
    rules.push(match (needs_endpoint, ports.any(|port| has_endpoint(snapshot, endpoints, port))) {
        (_, true) => ("an endpoint is ready", Ok("yes".to_owned())),
        (false, false) => ("an endpoint is ready", Ok("no, and none is asked for".to_owned())),
        (true, false) => ("an endpoint is ready", Err(Withheld::NoEndpoint.to_string())),
    });
    rules
}

fn judge(sight: Sight<'_>, vip: &Vip, sockets: &[&Socket], is_elected: bool) -> Result<(), Withheld> {
    let Sight { snapshot, endpoints, addresses, observed } = sight;
    if !observed.serving {
        return Err(Withheld::NoWorker);
    }
    match addresses.addresses.get(&vip.address) {
        // Whoever is elected adds the address.
        _ if is_elected => {}
        None => return Err(Withheld::Pending),
        Some(AddressState::Failed(reason)) => return Err(Withheld::NotBound(reason.clone())),
        Some(AddressState::Ours { .. } | AddressState::Present { .. }) => {}
    }
    let needs_endpoint = snapshot.announce.need_endpoint.binary_search(&vip.address).is_ok();
    // The reason of the first socket stands for all: sockets are in the order of their ports.
    let mut first = None;
    for socket in sockets {
        match serves(snapshot, socket, observed) {
            Ok(port) if needs_endpoint && !has_endpoint(snapshot, endpoints, port) => {
                first.get_or_insert(Withheld::NoEndpoint);
            }
            Ok(_) => return Ok(()),
            Err(reason) => drop(first.get_or_insert(reason)),
        }
    }
    Err(first.unwrap_or(Withheld::NoListener))
}

/// Whether anything that the port leads to has an endpoint that is ready or still serves.
fn has_endpoint(snapshot: &Snapshot, endpoints: &Endpoints, port: &Port) -> bool {
    let of_backends = |backends: &[Backend]| {
        backends.iter().filter(|backend| backend.weight > 0).any(|backend| match backend.target {
            Target::Upstream(id) => endpoints.get(id.index()).is_some_and(|set| match &**set {
                EndpointSet::Addresses(addresses) => !addresses.is_empty(),
                EndpointSet::Dns { .. } => false,
            }),
            Target::Invalid { .. } => false,
        })
    };
    let of_stream = |route: &StreamRoute| of_backends(&route.backends);
    let of_listener = |id: &ListenerId| match snapshot.listeners.get(id.index()).map(|listener| &listener.serve) {
        Some(ListenerServe::Http { routes } | ListenerServe::Https { routes, .. }) => {
            routes.iter().any(|(_, matches)| {
                matches.iter().any(|one| match snapshot.rules.get(one.rule.index()).map(|rule| &rule.action) {
                    Some(Action::Forward(backends)) => of_backends(backends),
                    // It is answered by Edge itself.
                    Some(Action::Redirect(_) | Action::Respond(_)) => true,
                    Some(Action::Refuse { .. }) | None => false,
                })
            })
        }
        Some(ListenerServe::TlsTerminate { routes, .. } | ListenerServe::TlsPassthrough { routes }) => {
            routes.values().any(of_stream)
        }
        Some(ListenerServe::Tcp { route } | ListenerServe::Udp { route }) => route.as_ref().is_some_and(of_stream),
        None => false,
    };
    match &port.serve {
        PortServe::Http { hosts } | PortServe::Tls { names: hosts } => hosts.values().any(of_listener),
        PortServe::Tcp { listener } | PortServe::Udp { listener } => of_listener(listener),
    }
}

/// HTTP/3 is found by way of TCP only, so it makes no address worth to be announced, and keeps none from it.
fn carries_alone(socket: &Socket) -> bool {
    socket.transport != Transport::Quic
}

/// The port of a socket, if it serves.
fn serves<'s>(snapshot: &'s Snapshot, socket: &Socket, observed: &Observed) -> Result<&'s Port, Withheld> {
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
        PortServe::Http { hosts } if hosts.values().any(|id| listener(*id).is_some()) => Ok(port),
        PortServe::Tcp { listener: id } | PortServe::Udp { listener: id } if listener(*id).is_some() => Ok(port),
        PortServe::Tls { names } => {
            let mut first = Err(Withheld::NoListener);
            for (_, id) in names.iter() {
                match listener(*id).map(|listener| has_certificate(listener, observed)) {
                    Some(Ok(())) => return Ok(port),
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
