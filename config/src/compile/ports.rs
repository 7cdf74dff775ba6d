//! From judged listeners to what the data plane binds: VIPs, sockets, ports, listeners.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::context::Context;
use super::gateways::GatewayState;
use super::listeners::{Class, ListenerState};
use super::services::{self, ServiceState};
use super::vips::Refused;
use crate::core::PortProtocol;
use crate::gateway::Protocol;
use crate::hosts::HostMap;
use crate::matching::{RouteMatch, RouteTable};
use crate::names::{HostPattern, Kind};
use crate::problem::Severity;
use crate::settings::ProxySettings;
use crate::snapshot::{
    AcceptProxy, ClientSettings, Listener, ListenerId, ListenerServe, Port, PortId, PortServe, Snapshot, Socket,
    Transport, Vip,
};

/// Puts everything that serves into the snapshot. No socket without a listener, no VIP without a socket.
pub(super) fn build(
    context: &Context<'_>,
    gateways: &mut [GatewayState<'_>],
    services: &mut [ServiceState<'_>],
    snapshot: &mut Snapshot,
) {
    let mut vips: BTreeMap<IpAddr, Vip> = BTreeMap::new();
    let mut quic: Vec<Socket> = Vec::new();
    let mut bind = |snapshot: &mut Snapshot,
                    port: Port,
                    transport: Transport,
                    (addresses, refused): (&[(IpAddr, String)], &[Refused])| {
        let id = PortId(count(snapshot.ports.len()));
        let protocol = if transport == Transport::Udp { PortProtocol::Udp } else { PortProtocol::Tcp };
        let is_refused = |address: &IpAddr| {
            refused.iter().any(|one| (one.address, one.port) == (*address, port.number) && one.protocol == protocol)
        };
        for (address, source) in addresses.iter().filter(|(address, _)| !is_refused(address)) {
            let socket = Socket { address: SocketAddr::new(*address, port.number), transport, port: id };
            if has_http3(snapshot, &port) {
                quic.push(Socket { transport: Transport::Quic, ..socket.clone() });
            }
            snapshot.sockets.push(socket);
            let vip = vips.entry(*address);
            let vip = vip.or_insert_with(|| Vip { address: *address, owners: Vec::new(), source: source.clone() });
            if !vip.owners.contains(&port.owner) {
                vip.owners.push(port.owner.clone());
            }
        }
        snapshot.ports.push(port);
    };
    let mut tables = Tables::default();
    for gateway in gateways {
        if gateway.fault.is_some() || gateway.addresses.is_empty() {
            continue;
        }
        let mut ports: BTreeMap<(u16, Transport), Vec<usize>> = BTreeMap::new();
        for place in 0..gateway.listeners.len() {
            let listener = &mut gateway.listeners[place];
            let Some((class, serve)) = serve(listener, &mut tables) else { continue };
            let Some(client) = listener.client.clone() else { continue };
            let id = ListenerId(count(snapshot.listeners.len()));
            snapshot.listeners.push(Listener {
                parent: listener.parent_ref(),
                name: listener.spec.name.as_str().into(),
                port: listener.spec.port,
                hostname: listener.hostname.clone(),
                policy: listener.policy.clone(),
                client,
                serve,
            });
            listener.id = Some(id);
            let transport = if class == Class::Udp { Transport::Udp } else { Transport::Tcp };
            ports.entry((listener.spec.port, transport)).or_default().push(place);
        }
        for ((number, transport), members) in ports {
            let presence = members.iter().filter_map(|place| gateway.listeners[*place].proxy_protocol).max();
            let proxy_protocol = presence.map(|presence| AcceptProxy {
                presence,
                from: context.inputs.settings.proxy.proxy_protocol_from.clone(),
            });
            let keepalive = members.iter().find_map(|place| gateway.listeners[*place].keepalive);
            let members = members.into_iter().map(|place| &gateway.listeners[place]);
            let Some(serve) = port(members) else { continue };
            let port = Port { owner: gateway.reference(), number, sources: None, proxy_protocol, keepalive, serve };
            bind(snapshot, port, transport, (&gateway.addresses, &gateway.refused));
        }
    }
    let client = client_settings(&context.inputs.settings.proxy);
    services::build(services, &client, snapshot, |snapshot, service, number, transport, serve| {
        let (owner, sources) = (service.reference(), service.sources.clone());
        let port = Port { owner, number, sources, proxy_protocol: None, keepalive: None, serve };
        bind(snapshot, port, transport, (&service.addresses, &service.refused));
    });
    let (taken, free): (Vec<Socket>, Vec<Socket>) = quic.into_iter().partition(|socket| {
        let is_rival = |other: &Socket| other.transport == Transport::Udp && other.address == socket.address;
        snapshot.sockets.iter().any(is_rival)
    });
    snapshot.sockets.extend(free);
    for socket in taken {
        let owner = snapshot.ports.get(socket.port.index()).map(|port| &port.owner);
        let Some(meta) = owner.and_then(|owner| context.inputs.meta(owner)) else { continue };
        let message = format!("http3: {} is a UDP listener's already, so QUIC is not spoken there", socket.address);
        context.problem(Severity::Warning, Kind::Gateway, meta, message);
    }
    snapshot.sockets.sort();
    snapshot.vips = vips.into_values().collect();
    snapshot.vips.iter_mut().for_each(|vip| vip.owners.sort());
}

/// Whether any listener of a port serves HTTP/3.
fn has_http3(snapshot: &Snapshot, port: &Port) -> bool {
    let PortServe::Tls { names } = &port.serve else { return false };
    names.values().any(|id| snapshot.listeners.get(id.index()).is_some_and(|listener| listener.client.http3))
}

/// What holds for a listener without a policy.
pub(super) fn client_settings(proxy: &ProxySettings) -> ClientSettings {
    ClientSettings {
        trusted_hops: proxy.trusted_hops,
        idle_timeout: proxy.idle_timeout,
        head_timeout: proxy.head_timeout,
        path: proxy.path,
        ..ClientSettings::default()
    }
}

pub(super) fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

type Matches = Vec<(HostPattern, Arc<RouteMatch>)>;

/// The tables of routes so far: a plain and a TLS listener most often have the same routes.
#[derive(Default)]
struct Tables(Vec<(Matches, RouteTable)>);

impl Tables {
    fn of(&mut self, matches: Matches) -> RouteTable {
        let is_same = |known: &Matches| {
            known.len() == matches.len()
                && known.iter().zip(&matches).all(|(a, b)| Arc::ptr_eq(&a.1, &b.1) && a.0 == b.0)
        };
        if let Some((_, table)) = self.0.iter().find(|(known, _)| is_same(known)) {
            return table.clone();
        }
        let table = RouteTable::build(matches.iter().cloned());
        self.0.push((matches, table.clone()));
        table
    }
}

/// What a listener does, if it can do anything.
fn serve(listener: &mut ListenerState<'_>, tables: &mut Tables) -> Option<(Class, ListenerServe)> {
    if !listener.is_valid() {
        return None;
    }
    let class = listener.class?;
    let routes = std::mem::take(&mut listener.routes);
    let serve = match (class, &listener.spec.protocol) {
        (Class::Http, _) => ListenerServe::Http { routes: tables.of(routes.matches) },
        (Class::Tls, Protocol::Https) => {
            ListenerServe::Https { tls: listener.terminate.take()?, routes: tables.of(routes.matches) }
        }
        (Class::Tls, _) if listener.is_passthrough() => ListenerServe::TlsPassthrough { routes: routes.streams },
        (Class::Tls, _) => ListenerServe::TlsTerminate { tls: listener.terminate.take()?, routes: routes.streams },
        (Class::Tcp, _) => ListenerServe::Tcp { route: routes.stream },
        (Class::Udp, _) => ListenerServe::Udp { route: routes.stream },
    };
    Some((class, serve))
}

/// Conflicts are gone by now, so the listeners of a port are of one class and differ in hostname.
fn port<'l, 'a: 'l>(mut members: impl Iterator<Item = &'l ListenerState<'a>>) -> Option<PortServe> {
    let first = members.next()?;
    let hosts = |rest: &mut dyn Iterator<Item = &'l ListenerState<'a>>| -> HostMap<ListenerId> {
        let all = std::iter::once(first).chain(rest);
        all.filter_map(|listener| Some((listener.hostname.clone(), listener.id?))).collect()
    };
    Some(match first.class? {
        Class::Http => PortServe::Http { hosts: hosts(&mut members) },
        Class::Tls => PortServe::Tls { names: hosts(&mut members) },
        Class::Tcp => PortServe::Tcp { listener: first.id? },
        Class::Udp => PortServe::Udp { listener: first.id? },
    })
}
