//! An edge and a router with one wire between them: the smallest network in which something is announced.
//!
//! Flows in: the router's configuration in FRR's words. Flows out: what the router's kernel and bgpd have of it. An engine
//! that is nobody's child can be started at the edge's end. Needs root and the package `frr`.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use edge_config::announce::{Bgp, Engine, EngineTls};
use serde_json::Value;

use crate::edged::until;
use crate::lab::skip;
use crate::netns::{Namespace, run_in};
use crate::pki::{Authority, Leaf};
use crate::router::{self, Router, ZEBRA, wire};
use crate::speaker::{bgp, peer, prefix};

/// A router that takes everything of the edge, of both families.
pub const TOR: &str = "router bgp 65000
 bgp router-id 10.9.0.1
 no bgp ebgp-requires-policy
 bgp bestpath as-path multipath-relax
 neighbor 10.1.1.1 remote-as 65101
 neighbor 10.1.1.1 timers 3 9
 neighbor 10.1.1.1 timers connect 1
 address-family ipv6 unicast
  neighbor 10.1.1.1 activate
 exit-address-family
";

pub const V4: &str = "203.0.113.10/32";
pub const V6: &str = "2001:db8:cafe::10/128";

/// The edge is 10.1.1.1 and fd00:1:1::1, the router 10.1.1.2 and fd00:1:1::2.
pub struct Rack {
    pub edge: Namespace,
    pub tor: Namespace,
    pub router: Router,
}

/// One peer, one VIP of each family.
pub fn plan() -> Bgp {
    let mut plan = bgp(65101, "10.1.1.1");
    plan.peers = vec![peer("tor", "10.1.1.2", 65000)];
    plan.prefixes = vec![prefix(V4, &["tor"]), prefix(V6, &["tor"])];
    plan
}

impl Rack {
    /// `None`: skipped, loudly.
    pub fn start(scenario: &str, config: &str) -> Option<Self> {
        if let Err(why) = router::available() {
            skip(scenario, &why);
            return None;
        }
        let edge = Namespace::new(&format!("bgp-{scenario}-edge")).unwrap();
        let tor = Namespace::new(&format!("bgp-{scenario}-tor")).unwrap();
        wire((&edge, "up0", &["10.1.1.1/30", "fd00:1:1::1/64"]), (&tor, "down0", &["10.1.1.2/30", "fd00:1:1::2/64"]));
        let router = Router::start(&tor, &format!("{ZEBRA}{config}"));
        Some(Self { edge, tor, router })
    }

    /// Waits until the router's kernel has so many routes.
    pub fn has(&self, count: usize) {
        until(&format!("the router's kernel has {count} routes of BGP"), || {
            (self.router.kernel_routes() == count).then_some(())
        });
    }

    /// What bgpd has of a prefix from its neighbors.
    pub fn paths(&self, prefix: &str) -> Vec<Value> {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let table = self.router.json(&format!("show bgp {family} unicast {prefix} json"));
        table["paths"].as_array().cloned().unwrap_or_default()
    }

    /// UPDATE messages that the router had from a neighbor.
    pub fn updates(&self, neighbor: &str) -> u64 {
        let all = self.router.json(&format!("show bgp neighbors {neighbor} json"));
        all[neighbor]["messageStats"]["updatesRecv"].as_u64().unwrap()
    }

    /// Sessions that the router has lost.
    pub fn dropped(&self, neighbor: &str) -> u64 {
        let all = self.router.json(&format!("show bgp neighbors {neighbor} json"));
        all[neighbor]["connectionsDropped"].as_u64().unwrap()
    }
}

pub fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A gobgpd that somebody else runs at the edge.
pub struct Foreign(Child);

impl Foreign {
    /// `api` is what it listens at, as it takes it itself; `more` are further words for it.
    pub fn start(rack: &Rack, program: &Path, api: &str, more: &[String]) -> Self {
        if let Some(socket) = api.strip_prefix("unix://") {
            // A killed one leaves it behind, and the next would not start.
            let _ = std::fs::remove_file(socket);
        }
        let mut command = Command::new(program);
        command.args(["--pprof-disable", "--api-hosts", api]).args(more);
        command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
        Self(run_in(rack.edge.name(), || command.spawn()).unwrap().unwrap())
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where an engine behind TCP listens.
pub const API: &str = "127.0.0.1:50051";
/// The name in its certificate.
pub const ENGINE: &str = "gobgpd.edge.test";
/// The certificate that its client has.
pub const CLIENT: &str = "client";

/// The files of an engine behind TLS: `NAME.pem` and `NAME.key` of each certificate, `ca.pem` of who signs them, and
/// `stranger.pem` of who does not.
pub struct Secured {
    directory: PathBuf,
}

impl Secured {
    /// Writes them.
    pub fn new(directory: &Path) -> Self {
        let (authority, stranger) = (Authority::new("engines").unwrap(), Authority::new("somebody else").unwrap());
        let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
        write("ca.pem", &authority.certificate);
        write("stranger.pem", &stranger.certificate);
        let sign = |name: &str, leaf: &Leaf<'_>| {
            let pair = authority.sign(leaf).unwrap();
            write(&format!("{name}.pem"), &pair.certificate);
            write(&format!("{name}.key"), &pair.key);
        };
        sign("engine", &Leaf { dns: &[ENGINE], ..Leaf::default() });
        sign("expired", &Leaf { dns: &[ENGINE], days: Some(-1), ..Leaf::default() });
        sign(CLIENT, &Leaf { client: true, ..Leaf::default() });
        Self { directory: directory.to_owned() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// What gobgpd is told to have this certificate; one of series 4 that `asks` lets nobody in without one.
    pub fn words(&self, certificate: &str, asks: bool) -> Vec<String> {
        let path = |name: String| self.path(&name).display().to_string();
        let mut words: Vec<String> = vec!["--tls".to_owned()];
        words.extend(["--tls-cert-file".to_owned(), path(format!("{certificate}.pem"))]);
        words.extend(["--tls-key-file".to_owned(), path(format!("{certificate}.key"))]);
        if asks {
            words.extend(["--tls-client-ca-file".to_owned(), path("ca.pem".to_owned())]);
        }
        words
    }

    /// How to speak to it, with a client's certificate of this name.
    pub fn place(&self, ca: &str, name: &str, client: Option<&str>) -> Engine {
        let pair = |name: &str| (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        let tls = EngineTls { ca: self.path(ca), name: name.to_owned(), client: client.map(pair) };
        Engine::Tcp { address: API.parse().unwrap(), tls: Some(tls) }
    }
}
