//! A small data centre in network namespaces: two top-of-rack routers (FRR) with ECMP, edges with the real `edged` and its
//! gobgpd, backends, a client, and keepalived as a foreign neighbour of the edges' virtual router.
//!
//! Flows in: a [`Plan`]. Flows out: what scenarios ask for and do: kernel routes of the routers ([`routes`]), flows of the
//! client that count every loss ([`flows`]), faults that end when they are dropped ([`faults`]). Everything is gone with
//! the [`DataCentre`]. Needs root and the packages frr, gobgpd and keepalived; [`available`] says what is missing.
//!
//! ```text
//!            client  10.9.0.2                                client, keepalived at the segment `lan`
//!           /      \                                                    |
//!    tor1 AS 65001  tor2 AS 65002                          a, b, c  10.60.0.1 … 3
//!      |  \    /  |      10.T.N.2 towards edge N                        |
//!      a    b    c  AS 65101 …  10.T.N.1 towards router T    backends at the segment `svc`, 10.50.0.101 and 102
//! ```
//! Each wire between an edge and a router passes a bridge in a namespace of its own, so a packet can be lost on it while
//! both ends have a carrier.

mod advertiser;
pub mod edge;
pub mod faults;
pub mod flows;
mod neighbour;
pub mod network;
pub mod routes;
pub mod wires;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use self::advertiser::Advertiser;
pub use self::edge::Edge;
use self::neighbour::Neighbour;
pub use self::network::{BACKENDS, Network, PASSWORD};
use crate::cluster::process::{Process, Program};
use crate::edged::{program, until};
use crate::netns::Namespace;
use crate::router::{self, Router};

/// Of the Gateway that is announced by BGP.
pub const VIP: &str = "198.51.100.1";
pub const VIP6: &str = "2001:db8:cafe::1";
/// Of the Gateway with plain TCP and UDP, announced by BGP, too.
pub const FLOWS_VIP: &str = "198.51.100.2";
/// Of the Gateway that is announced by ARP.
pub const LAN_VIP: &str = "10.60.0.80";
pub const TCP_PORT: u16 = 7000;
pub const UDP_PORT: u16 = 7001;
/// What the routes of all Gateways are for.
pub const HOST: &str = "shop.edge.test";

/// Whose gobgpd it is, and how it is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineAt {
    /// A child of edged: Debian's.
    Child,
    /// Debian's, by itself at each edge, at a unix socket.
    Unix,
    /// One of series 4, by itself at each edge, over TLS with a certificate on both sides.
    Tls,
}

/// What is built.
#[derive(Debug, Clone)]
pub struct Plan {
    /// 1 to 3: `a`, `b` and `c`.
    pub edges: u8,
    /// TCP-MD5 between every edge and `tor1`.
    pub has_password: bool,
    /// The session of the last edge with `tor1` is by the interface's name.
    pub is_unnumbered: bool,
    pub has_bfd: bool,
    /// Seconds that routers keep routes of a gobgpd that starts anew.
    pub graceful_restart: Option<u32>,
    /// Seconds.
    pub keepalive: u32,
    pub hold_time: u32,
    /// `[vips] hold_down`.
    pub hold_down: &'static str,
    pub engine: EngineAt,
    /// The number that edges believe routers to have is off by so much.
    pub wrong_asn: u32,
    /// `[bgp] graceful_shutdown`.
    pub graceful_shutdown: &'static str,
    /// The virtual router of the edges at `lan`.
    pub has_l2: bool,
    /// Further lines of `[l2]`, in the place of priorities by the order of names.
    pub l2: &'static str,
    /// keepalived beside them, with the lowest priority.
    pub has_neighbour: bool,
    /// Further text of every edge.toml.
    pub more: String,
    /// The edges announce by themselves. Off: routers and edges are there, and nobody speaks BGP at the edges.
    pub has_announcements: bool,
}

impl Plan {
    /// Everything, with three edges.
    pub fn whole() -> Self {
        Self {
            edges: 3,
            has_password: true,
            is_unnumbered: true,
            has_bfd: true,
            graceful_restart: None,
            keepalive: 3,
            hold_time: 9,
            hold_down: "10s",
            engine: EngineAt::Child,
            wrong_asn: 0,
            graceful_shutdown: "5s",
            has_l2: true,
            l2: "",
            has_neighbour: true,
            more: String::new(),
            has_announcements: true,
        }
    }

    /// BGP in its simplest form.
    pub fn plain(edges: u8) -> Self {
        Self {
            edges,
            has_password: false,
            is_unnumbered: false,
            has_bfd: false,
            has_l2: false,
            has_neighbour: false,
            hold_down: "1s",
            ..Self::whole()
        }
    }

    /// The names of the edges with their numbers.
    fn edges(&self) -> impl Iterator<Item = (&'static str, u8)> + use<> {
        ["a", "b", "c"].into_iter().zip(1..=self.edges.clamp(1, 3))
    }

    /// Whether the session of this edge with this router is by the interface's name.
    fn is_unnumbered(&self, edge: u8, router: u8) -> bool {
        self.is_unnumbered && router == 1 && edge == self.edges.clamp(1, 3)
    }
}

/// Why it cannot be built here, if so.
pub fn available() -> Result<(), String> {
    router::available()?;
    for (path, package) in [("/usr/bin/gobgpd", "gobgpd"), ("/usr/sbin/keepalived", "keepalived")] {
        if !Path::new(path).exists() {
            return Err(format!("{path} is missing (package {package})"));
        }
    }
    Ok(())
}

/// The running data centre.
pub struct DataCentre {
    // Dropped in this order: edges take leave of routers that are still there.
    pub edges: Vec<Edge>,
    neighbour: Option<Neighbour>,
    _backends: Vec<Process>,
    _advertisers: Vec<Advertiser>,
    pub routers: Vec<Router>,
    pub network: Network,
    pub plan: Plan,
    directory: TempDir,
}

impl DataCentre {
    /// Builds everything; returns when every edge serves. What is announced comes a moment later.
    pub fn start(plan: Plan) -> Self {
        // The path of a unix socket has 107 bytes.
        let directory = tempfile::Builder::new().prefix("edge-dc-").tempdir_in("/tmp").expect("/tmp can be written");
        let network = Network::new(&plan);
        let routers = (1..=2).map(|number| Router::start(network.router(number), &network.frr(&plan, number)));
        let routers = routers.collect();
        let backends =
            BACKENDS.iter().map(|(name, address)| {
                let at = |port| SocketAddr::new((*address).into(), port).to_string();
                let program = Program::new(program("demo-backend"))
                    .args(["--name", name, "--listen", &at(8000)])
                    .args(["--tcp", &at(TCP_PORT), "--udp", &at(UDP_PORT)]);
                Process::start(name, network.backends.name(), &program, &directory.path().join(format!("{name}.log")))
            });
        let backends = backends.collect();
        let neighbour = plan.has_neighbour.then(|| Neighbour::start(&network, directory.path()));
        let wires = plan.edges().flat_map(|(name, edge)| [(name, edge, 1), (name, edge, 2)]);
        let advertisers = wires
            .filter(|(_, edge, router)| plan.is_unnumbered(*edge, *router))
            .map(|(name, _, router)| Advertiser::start(network.edge(name), &format!("tor{router}")))
            .collect();
        let mut edges: Vec<Edge> =
            plan.edges().map(|(name, number)| Edge::start(name, number, &network, &plan, directory.path())).collect();
        for edge in &mut edges {
            edge.wait_serving();
        }
        Self { edges, neighbour, _backends: backends, _advertisers: advertisers, routers, network, plan, directory }
    }

    /// 1 or 2.
    pub fn router(&self, number: u8) -> &Router {
        &self.routers[usize::from(number - 1)]
    }

    pub fn edge(&mut self, name: &str) -> &mut Edge {
        self.edges.iter_mut().find(|edge| edge.name == name).expect("an edge of the plan")
    }

    pub fn client(&self) -> &Namespace {
        &self.network.client
    }

    pub fn directory(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// keepalived's namespace, where there is one.
    pub fn neighbour(&self) -> Option<&Namespace> {
        self.neighbour.as_ref().map(|_| &self.network.neighbour)
    }

    /// Waits until both routers have a route to the prefix by every edge.
    pub fn wait_announced(&self, prefix: &str) {
        for (index, router) in self.routers.iter().enumerate() {
            let wanted = self.edges.len();
            until(&format!("tor{} has {wanted} ways to {prefix}", index + 1), || {
                (router.gateways(prefix).len() == wanted).then_some(())
            });
        }
    }
}
