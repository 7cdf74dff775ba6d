use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use edge_config::announce::L2Group;
use edge_config::hosts::HostMap;
use edge_config::matching::RouteTable;
use edge_config::names::{HostPattern, Kind, ObjectKey, ObjectRef};
use edge_config::snapshot::{ClientSettings, ClientValidation, Port, PortId, Terminate, Transport};

use super::*;
use crate::control::observed::{CertificateSource, CertificateState};

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
        ..ClientSettings::default()
    };
    Listener {
        parent: ObjectRef::new(Kind::Gateway, ObjectKey::new("shop", "web")),
        name: name.into(),
        port: 443,
        hostname: HostPattern::Any,
        policy: None,
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
    let port = |number, serve| Port {
        owner: gateway.clone(),
        number,
        sources: None,
        proxy_protocol: None,
        keepalive: None,
        serve,
    };
    let tls = Terminate {
        certificates: vec![id()],
        client_validation: ClientValidation::Off,
        demands: None,
        parameters: None,
    };
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
        serving: true,
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

fn group() -> L2Group {
    L2Group {
        name: "a".into(),
        interface: "eth0".to_owned(),
        router: 1,
        priority: 100,
        interval: std::time::Duration::from_millis(300),
        preempt: true,
        preempt_delay: std::time::Duration::ZERO,
        unicast: Vec::new(),
        key: None,
        virtual_mac: false,
        vips: vec![ip(VIP)],
        also: Vec::new(),
        watch: None,
    }
}

fn verdict(world: &(Snapshot, AddressesObserved, Observed)) -> Result<(), String> {
    let (snapshot, addresses, observed) = world;
    let endpoints = Endpoints::new();
    let verdicts = wanted_vips(Sight { snapshot, endpoints: &endpoints, addresses, observed });
    assert_eq!(verdicts.iter().map(|(address, _)| *address).collect::<Vec<_>>(), [ip(VIP), ip("192.0.2.11")]);
    assert!(verdicts[1].1.is_err(), "a VIP without a socket");
    verdicts[0].1.as_ref().copied().map_err(ToString::to_string)
}

#[test]
fn reasons_to_withhold() {
    type World = (Snapshot, AddressesObserved, Observed);
    type Change = fn(&mut World);
    let cases: &[(&str, Change, Result<(), &str>)] = &[
        ("all is well", |_| {}, Ok(())),
        ("no worker", |world| world.2.serving = false, Err("no worker serves")),
        (
            "no endpoint where one is asked for",
            |world| world.0.announce.need_endpoint = vec![ip(VIP)],
            Err("nothing behind it has a ready endpoint"),
        ),
        ("no endpoint of another", |world| world.0.announce.need_endpoint = vec![ip("192.0.2.11")], Ok(())),
        (
            "an election decides who has it",
            |world| {
                world.1.addresses.clear();
                world.0.announce.l2 = vec![group()];
            },
            Ok(()),
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
