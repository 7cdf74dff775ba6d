//! Every edge over every wire, with all that a session may have: MD5, an unnumbered peer, BFD, both families, keepalived as
//! a neighbour. Judged by the routers' kernel routes and by flows of a client that are counted wire by wire.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use edge_integration::datacentre::faults::BlackHole;
use edge_integration::datacentre::flows::{Ask, Flow, Flows, Tally};
use edge_integration::datacentre::routes::RouteWatch;
use edge_integration::datacentre::wires::{Wire, Wires};
use edge_integration::datacentre::{self, DataCentre, FLOWS_VIP, HOST, Plan, TCP_PORT, UDP_PORT, VIP, VIP6};
use edge_integration::edged::until;
use edge_integration::lab;

/// One at a time: each has two dozen processes.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `None`: skipped, loudly.
fn whole(scenario: &str) -> Option<DataCentre> {
    match datacentre::available() {
        Ok(()) => Some(DataCentre::start(Plan { hold_down: "1s", graceful_shutdown: "0s", ..Plan::whole() })),
        Err(why) => {
            lab::skip(scenario, &why);
            None
        }
    }
}

const EDGES: [&str; 3] = ["a", "b", "c"];
const VIPS: [&str; 3] = [VIP, VIP6, FLOWS_VIP];

fn prefix(vip: &str) -> String {
    format!("{vip}/{}", if vip.contains(':') { 128 } else { 32 })
}

/// The gateways that a router's kernel has for a VIP when these edges announce it.
fn expected(centre: &mut DataCentre, router: u8, vip: &str, edges: &[&str]) -> Vec<IpAddr> {
    let mut gateways: Vec<IpAddr> =
        edges.iter().map(|name| centre.edge(name).gateway(router, vip.contains(':'))).collect();
    gateways.sort();
    gateways
}

/// Waits until both routers' kernels have these edges as ways to every VIP, and no others.
fn are_ways(centre: &mut DataCentre, edges: &[&str]) {
    for router in 1..=2 {
        for vip in VIPS {
            let wanted = expected(centre, router, vip, edges);
            until(&format!("tor{router}'s ways to {vip} are {wanted:?}"), || {
                (centre.router(router).gateways(&prefix(vip)) == wanted).then_some(())
            });
        }
    }
}

fn flow(ask: Ask, vip: &str, port: u16) -> Flow {
    Flow::new(ask, SocketAddr::new(vip.parse().unwrap(), port), Duration::from_millis(20))
}

/// Of every kind: HTTP by both families, TCP and UDP.
fn flows(of_each: usize) -> Vec<Flow> {
    let http = || Ask::Http { host: HOST.to_owned() };
    let kinds = [
        flow(http(), VIP, 80),
        flow(http(), VIP6, 80),
        flow(Ask::Tcp, FLOWS_VIP, TCP_PORT),
        flow(Ask::Udp, FLOWS_VIP, UDP_PORT),
    ];
    kinds.iter().flat_map(|kind| vec![kind.clone(); of_each]).collect()
}

/// Sends the client's packets to the VIPs by this router, or by both again.
fn go_by(centre: &DataCentre, router: Option<u8>) {
    for vip in VIPS {
        let (gateway, source) = match router {
            Some(number) if vip.contains(':') => (format!("fd00:9:{number}::1"), "fd00:9::2"),
            Some(number) => (format!("10.9.{number}.1"), "10.9.0.2"),
            None => {
                centre.client().ip(&format!("route del {}", prefix(vip))).unwrap();
                continue;
            }
        };
        centre.client().ip(&format!("route replace {} via {gateway} src {source}", prefix(vip))).unwrap();
    }
}

#[test]
fn every_edge_serves_over_every_wire() {
    let _alone = alone();
    let Some(mut centre) = whole("every_edge") else { return };
    are_ways(&mut centre, &EDGES);
    let wires = Wires::start(&centre);

    // All of them at once: ECMP brings something to each.
    let running = Flows::start(centre.client(), flows(24));
    let is_spread = |vip: &str| wires.to(vip.parse().unwrap()).values().all(|count| *count > 0);
    until("every wire has flows of every VIP", || VIPS.iter().all(|vip| is_spread(vip)).then_some(()));
    all_answered("all wires", &running.stop());
    for vip in VIPS {
        eprintln!("{vip}: {:?}", wires.to(vip.parse().unwrap()));
    }

    // And each of them alone, so that nobody else can have answered.
    for edge in EDGES {
        let others: Vec<&str> = EDGES.into_iter().filter(|name| *name != edge).collect();
        for name in &others {
            assert_eq!(centre.edge(name).ctl(&["drain"]).code, Some(0), "{name}");
        }
        are_ways(&mut centre, &[edge]);
        for router in 1..=2 {
            go_by(&centre, Some(router));
            wires.clear();
            let running = Flows::start(centre.client(), flows(2));
            let only: Wire = (edge, router);
            until(&format!("{only:?} has flows"), || {
                VIPS.iter().all(|vip| wires.to(vip.parse().unwrap())[&only] >= 20).then_some(())
            });
            all_answered(&format!("{only:?}"), &running.stop());
            for vip in VIPS {
                let mut came: BTreeMap<Wire, usize> = wires.to(vip.parse().unwrap());
                came.retain(|wire, count| *wire != only && *count > 0);
                assert!(came.is_empty(), "{vip}: {came:?} beside {only:?}");
            }
            go_by(&centre, None);
        }
        for name in &others {
            let said = centre.edge(name).ctl(&["undrain"]);
            assert!(matches!(said.code, Some(0 | 1)), "{said:?}");
        }
        are_ways(&mut centre, &EDGES);
    }
}

fn all_answered(what: &str, tallies: &[Tally]) {
    for tally in tallies {
        assert!(tally.asked > 0 && tally.lost() == 0, "{what}: {tally:?}");
    }
    let asked: u64 = tallies.iter().map(|tally| tally.asked).sum();
    eprintln!("{what}: {asked} asked, none lost");
}

#[test]
fn every_wire_that_breaks_is_left_alone_and_taken_again() {
    let _alone = alone();
    let Some(mut centre) = whole("every_wire") else { return };
    are_ways(&mut centre, &EDGES);
    for router in 1..=2 {
        until(&format!("every session of tor{router} has BFD"), || {
            let peers = centre.router(router).json("show bfd peers json");
            let up = peers.as_array().into_iter().flatten().filter(|peer| peer["status"] == "up").count();
            (up >= EDGES.len()).then_some(())
        });
    }
    for edge in EDGES {
        for router in 1..=2_u8 {
            let watches = VIPS.map(|vip| {
                let of = |router: u8| {
                    let name = centre.network.router(router).name();
                    RouteWatch::start(centre.router(router), name, &prefix(vip))
                };
                (vip, of(router), of(3 - router))
            });
            let begun = Instant::now();
            let hole = BlackHole::between(&centre.network, edge, router);
            for (vip, here, _) in &watches {
                let gone = centre.edge(edge).gateway(router, vip.contains(':'));
                let at = here.when(begun, "the way is gone", |gateways| !gateways.contains(&gone));
                eprintln!("black hole of {edge} and tor{router}: {vip} left after {:?}", at.duration_since(begun));
            }
            for (vip, _, there) in &watches {
                assert_eq!(there.changes(begun), 0, "{vip} at the other router of {edge}");
            }
            drop(hole);
            are_ways(&mut centre, &EDGES);
        }
    }
}
