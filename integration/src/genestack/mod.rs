//! Genestack's certificates from nothing: two edges that announce one anycast VIP to two routers, a client and an ACME CA on
//! the far side of them, and Genestack's own files with `letsencrypt-prod` aimed at that CA.
//!
//! Flows in: [`Plan`]. Flows out: what scenarios and the demonstration do to it ([`Cloud`]), what a client saw meanwhile
//! ([`watch`]), what the CA did ([`ledger`]). Needs root, frr, gobgpd, pebble and the files ([`files::files`]).
//!
//! ```text
//!     Pebble, its DNS, the client: 10.9.0.2
//!        /                    \
//!     tor1 AS 65001        tor2 AS 65002       a route to 10.74.8.99 by every edge that announces it
//!        |    \            /    |
//!      edge a AS 65101    edge b AS 65102      10.8.0.1 and 10.8.0.2, towards the CA
//!           \                  /
//!      backends and the fleet: 10.50.0.0/24
//! ```
//! A challenge comes from the far side and reaches either edge, whichever the routers choose.

#![allow(clippy::panic, clippy::unwrap_used)]

pub mod edge;
pub mod files;
pub mod ledger;
pub mod sessions;
pub mod watch;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use tempfile::TempDir;

pub use self::edge::Edge;
pub use self::ledger::Ledger;
use crate::acme::{Edition, Pebble, Settings};
use crate::datacentre::{self, Network, routes::RouteWatch};
use crate::edged::until;
use crate::lab::{Origins, Running};
use crate::netns::Namespace;
use crate::router::Router;

/// Of Genestack's MetalLB pool.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 74, 8, 99);
const CA: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const BACKENDS: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 101);
const NAMES: [&str; 2] = ["a", "b"];

#[derive(Debug, Clone, Copy, Default)]
pub struct Plan {
    /// The CA waits up to five seconds before it looks at an answer, as one with other things to do.
    pub is_ca_slow: bool,
}

pub struct Cloud {
    // Dropped in this order: edges take leave of routers that are still there.
    pub edges: Vec<Edge>,
    _running: Vec<Running>,
    _origins: Origins,
    pub pebble: Pebble,
    pub routers: Vec<Router>,
    pub network: Network,
    directory: TempDir,
}

/// Why it cannot be built here, if so.
pub fn available() -> Result<(), String> {
    files::files()?;
    datacentre::available()
}

impl Cloud {
    /// Everything but the edges runs when this returns.
    pub fn new(plan: Plan) -> Result<Self, String> {
        available()?;
        let files = files::files()?;
        // The path of a unix socket has 107 bytes.
        let directory = tempfile::Builder::new().prefix("edge-gs-").tempdir_in("/tmp").map_err(|e| e.to_string())?;
        let shape = datacentre::Plan::plain(2);
        let network = Network::new(&shape);
        let routers: Vec<Router> =
            (1..=2).map(|number| Router::start(network.router(number), &network.frr(&shape, number))).collect();
        for (name, number) in NAMES.iter().zip(1..) {
            sources(&network, name, number);
        }
        let pebble = ca(&network.client, plan)?;
        let origins = network.backends.run(Origins::start).map_err(|error| error.to_string())?;
        let (services, running) = network
            .backends
            .run(|| files::services(&origins, BACKENDS.into(), &["keystone-api"]))
            .map_err(|error| error.to_string())?;
        let edges = NAMES
            .iter()
            .zip(1..)
            .map(|(name, number)| {
                let home = directory.path().join(name);
                Edge::new(name, number, network.edge(name), &home, &edge::Inputs::new(&files, &services, &pebble))
            })
            .collect();
        Ok(Self { edges, _running: running, _origins: origins, pebble, routers, network, directory })
    }

    pub fn client(&self) -> &Namespace {
        &self.network.client
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn edge(&mut self, name: &str) -> &mut Edge {
        self.edges.iter_mut().find(|edge| edge.name == name).expect("an edge of the cloud")
    }

    pub fn https() -> SocketAddr {
        (VIP, 443).into()
    }

    pub fn http() -> SocketAddr {
        (VIP, 80).into()
    }

    /// What the kernels of both routers believe about the VIP, from now on.
    pub fn routes(&self) -> Vec<RouteWatch> {
        let spaces = self.network.routers.iter().map(Namespace::name);
        self.routers.iter().zip(spaces).map(|(router, space)| RouteWatch::start(router, space, &prefix())).collect()
    }

    /// Waits until each router has so many ways to the VIP.
    pub fn wait_ways(&self, wanted: usize) {
        for (number, router) in self.routers.iter().enumerate() {
            until(&format!("tor{} has {wanted} ways to {VIP}", number + 1), || {
                (router.gateways(&prefix()).len() == wanted).then_some(())
            });
        }
    }

    /// What the CA was asked for, and did.
    pub fn ledger(&self) -> Ledger {
        Ledger::of(&self.pebble.log())
    }
}

fn prefix() -> String {
    format!("{VIP}/32")
}

/// What an edge says first towards the CA comes from one address that both routers know: an answer need not come back the
/// way that the question went.
fn sources(network: &Network, name: &str, number: u8) {
    let space = network.edge(name);
    let own = IpAddr::from([10, 8, 0, number]);
    space.ip(&format!("addr add {own}/32 dev lo")).unwrap();
    space
        .ip(&format!("route replace default src {own} nexthop via 10.1.{number}.2 nexthop via 10.2.{number}.2"))
        .unwrap();
    for router in 1..=2 {
        network.router(router).ip(&format!("route add {own}/32 via 10.{router}.{number}.1")).unwrap();
    }
}

/// The newest Pebble where there is Go, Debian's otherwise.
fn ca(space: &Namespace, plan: Plan) -> Result<Pebble, String> {
    let settings = |edition| Settings {
        edition,
        namespace: space.name().to_owned(),
        listen: CA.into(),
        names_lead_to: VIP.into(),
        sleeps: plan.is_ca_slow,
        // A few good nonces are refused, as Pebble has it by default.
        refused_nonces: 5,
        ..Settings::default()
    };
    Pebble::start(&settings(Edition::Newest)).or_else(|_| Pebble::start(&settings(Edition::Debian)))
}
