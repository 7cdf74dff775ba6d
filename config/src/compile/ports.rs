//! From judged listeners to what the data plane binds: VIPs, sockets, ports, listeners.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::context::Context;
use super::gateways::GatewayState;
use super::listeners::{Class, ListenerState};
use crate::gateway::Protocol;
use crate::hosts::HostMap;
use crate::matching::{RouteMatch, RouteTable};
use crate::names::HostPattern;
use crate::snapshot::{
    AcceptProxy, Listener, ListenerId, ListenerServe, Port, PortId, PortServe, Snapshot, Socket, Transport, Vip,
};

/// Puts everything that serves into the snapshot. No socket without a listener, no VIP without a socket.
pub(super) fn build(context: &Context<'_>, gateways: &mut [GatewayState<'_>], snapshot: &mut Snapshot) {
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
            let members = members.into_iter().map(|place| &gateway.listeners[place]);
            let Some(serve) = port(members) else { continue };
            let id = PortId(count(snapshot.ports.len()));
            snapshot.ports.push(Port { gateway: gateway.key().clone(), number, proxy_protocol, serve });
            let addresses = gateway.addresses.iter();
            let sockets = addresses.map(|(address, _)| SocketAddr::new(*address, number));
            snapshot.sockets.extend(sockets.map(|address| Socket { address, transport, port: id }));
        }
        for (address, source) in &gateway.addresses {
            snapshot.vips.push(Vip { address: *address, gateway: gateway.key().clone(), source: source.clone() });
        }
    }
    snapshot.sockets.sort();
    snapshot.vips.sort_by_key(|vip| vip.address);
    let served: HashSet<_> = snapshot.sockets.iter().map(|socket| socket.address.ip()).collect();
    snapshot.vips.retain(|vip| served.contains(&vip.address));
}

fn count(length: usize) -> u32 {
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
