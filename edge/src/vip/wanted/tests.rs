use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use edge_config::hosts::HostMap;
use edge_config::matching::RouteTable;
use edge_config::names::{HostPattern, Kind, ObjectKey, ObjectRef};
use edge_config::snapshot::{ClientSettings, ClientValidation, Port, PortId, Terminate, Transport};

use super::*;
use crate::control::observed::{CertificateSource, CertificateState, Drain};

const VIP: &str = "192.0.2.10";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn id() -> CertId {
    CertId(ObjectKey::new("shop", "tls"))
}

fn listener(name: &str, serve: ListenerServe) -> Listener {
    let client = ClientSettings {
        trusted_hops: 0,
        idle_timeout: std::time::Duration::from_secs(60),
        head_timeout: std::time::Duration::from_secs(10),
        buffer_limit: None,
        path: Default::default(),
    };
    Listener {
        parent: ObjectRef::new(Kind::Gateway, ObjectKey::new("shop", "web")),
        name: name.into(),
        port: 443,
        hostname: HostPattern::Any,
        client,
        serve,
    }
}

/// One VIP with the sockets 80 (HTTP) and 443 (HTTPS), and one without any socket.
fn snapshot() -> Snapshot {
    let gateway = ObjectRef::new(Kind::Gateway, ObjectKey::new("shop", "web"));
    let vip = |address| Vip { address: ip(address), owners: vec![gateway.clone()], source: "pool a".into() };
    let only = |listener: u32| {
        let mut hosts = HostMap::new();
        hosts.insert(HostPattern::Any, ListenerId(listener));
        hosts
    };
    let port = |number, serve| Port { owner: gateway.clone(), number, sources: None, proxy_protocol: None, serve };
    let tls = Terminate { certificates: vec![id()], client_validation: ClientValidation::Off };
    Snapshot {
        vips: vec![vip(VIP), vip("192.0.2.11")],
        sockets: [80, 443]
            .into_iter()
            .zip(0..)
            .map(|(number, port)| Socket {
                address: (ip(VIP), number).into(),
                transport: Transport::Tcp,
                port: PortId(port),
            })
            .collect(),
        ports: vec![port(80, PortServe::Http { hosts: only(0) }), port(443, PortServe::Tls { names: only(1) })],
        listeners: vec![
            listener("http", ListenerServe::Http { routes: RouteTable::default() }),
            listener("https", ListenerServe::Https { tls, routes: RouteTable::default() }),
        ],
        ..Snapshot::default()
    }
}

/// Everything is well.
fn world() -> (Snapshot, AddressesObserved, Observed) {
    let snapshot = snapshot();
    let present = || AddressState::Present { interface: Some("lo".into()) };
    let addresses = AddressesObserved {
        addresses: snapshot.vips.iter().map(|vip| (vip.address, present())).collect(),
        notices: Vec::new(),
    };
    let certificate = CertificateState {
        source: CertificateSource::Placeholder,
        names: Vec::new(),
        not_before: Some(SystemTime::UNIX_EPOCH),
        not_after: Some(SystemTime::UNIX_EPOCH),
        renews_at: None,
        error: None,
    };
    let observed = Observed {
        sockets: snapshot
            .sockets
            .iter()
            .map(|socket| ((socket.address, socket.transport), SocketState::Bound))
            .collect(),
        certificates: BTreeMap::from([(id(), certificate)]),
        ..Observed::default()
    };
    (snapshot, addresses, observed)
}

fn verdict(world: &(Snapshot, AddressesObserved, Observed)) -> Result<(), String> {
    let (snapshot, addresses, observed) = world;
    let verdicts = wanted_vips(snapshot, addresses, observed);
    assert_eq!(verdicts.iter().map(|(vip, _)| vip.address).collect::<Vec<_>>(), [ip(VIP), ip("192.0.2.11")]);
    assert!(verdicts[1].1.is_err(), "a VIP without a socket");
    verdicts[0].1.as_ref().copied().map_err(ToString::to_string)
}

#[test]
fn reasons_to_withhold() {
    type World = (Snapshot, AddressesObserved, Observed);
    type Change = fn(&mut World);
    let cases: &[(&str, Change, Result<(), &str>)] = &[
        ("all is well", |_| {}, Ok(())),
        (
            "drain",
            |world| world.2.drain = Some(Drain { since: SystemTime::UNIX_EPOCH, until: SystemTime::UNIX_EPOCH }),
            Err("this edge is draining"),
        ),
        (
            "not bound",
            |world| drop(world.1.addresses.insert(ip(VIP), AddressState::Failed("cannot add it".into()))),
            Err("cannot add it"),
        ),
        ("not looked at", |world| world.1.addresses.clear(), Err("its address is not set up yet")),
        ("no socket", |world| world.0.sockets.clear(), Err("no listener of its Gateway serves")),
        ("sockets not bound yet", |world| world.2.sockets.clear(), Err("the socket on 192.0.2.10:80 is not bound yet")),
        (
            "one socket of two",
            |world| {
                drop(
                    world
                        .2
                        .sockets
                        .insert(((ip(VIP), 80).into(), Transport::Tcp), SocketState::Failed("in use".into())),
                )
            },
            Ok(()),
        ),
        (
            "no socket of two",
            |world| world.2.sockets.values_mut().for_each(|state| *state = SocketState::Failed("in use".into())),
            Err("no socket on 192.0.2.10:80: in use"),
        ),
        ("no certificate, but plaintext", |world| world.2.certificates.clear(), Ok(())),
        (
            "no certificate",
            |world| {
                world.2.certificates.clear();
                world.0.sockets.remove(0);
            },
            Err("listener https of Gateway shop/web has neither certificate shop/tls nor a placeholder"),
        ),
        (
            "a certificate that is not at hand",
            |world| {
                world.2.certificates.values_mut().for_each(|state| state.not_after = None);
                world.0.sockets.remove(0);
            },
            Err("listener https of Gateway shop/web has neither certificate shop/tls nor a placeholder"),
        ),
        (
            "passthrough needs none",
            |world| {
                world.2.certificates.clear();
                world.0.sockets.remove(0);
                world.0.listeners[1].serve = ListenerServe::TlsPassthrough { routes: HostMap::new() };
            },
            Ok(()),
        ),
        (
            "a port without listeners",
            |world| {
                world.0.ports[0].serve = PortServe::Http { hosts: HostMap::new() };
                world.0.sockets.remove(1);
            },
            Err("no listener of its Gateway serves"),
        ),
    ];
    for (name, change, expected) in cases {
        let mut world = world();
        change(&mut world);
        assert_eq!(verdict(&world), expected.map_err(str::to_owned), "{name}");
    }
}
