//! `[edge]`, `[bgp]` and `[l2]`: who this edge is, and how it tells the network of its VIPs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::AddressRange;
use crate::announce::{Asn, Engine, L2Watch, Listen, NextHop, Password, Peer};
use crate::community::Community;

/// `[edge]`: this edge among others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct EdgeSettings {
    /// A DNS label. `None`: nobody said it; a source puts the name of the host there.
    pub name: Option<String>,
    /// What node selectors are matched with, beside [`HOSTNAME_LABEL`].
    pub labels: BTreeMap<String, String>,
}

/// The label that every Node has; of an edge it is the name, unless its labels say otherwise.
pub const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";

/// Host name to the name of an edge: a DNS label.
pub fn edge_name(host: &str) -> String {
    let label = host.trim().chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' });
    let label: String = label.take(63).collect();
    let label = label.trim_matches('-');
    if label.is_empty() { "edge".to_owned() } else { label.to_owned() }
}

impl EdgeSettings {
    /// All labels of this edge.
    pub fn all_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.labels.clone();
        if let Some(name) = &self.name {
            labels.entry(HOSTNAME_LABEL.to_owned()).or_insert_with(|| name.clone());
        }
        labels
    }
}

/// `[bgp]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BgpSettings {
    pub engine: Engine,
    /// `None`: what the oldest BGPPeer says (`myASN`).
    pub asn: Option<Asn>,
    /// `None`: what the oldest BGPPeer with a `routerID` says, else one made of the name of this edge.
    pub router_id: Option<Ipv4Addr>,
    pub listen: Option<Listen>,
    pub graceful_shutdown: Duration,
    pub next_hop: NextHop,
    /// Whether MetalLB's BGPPeers and BGPAdvertisements count beside the two below.
    pub metallb: bool,
    /// Names for BGPAdvertisements; those of `advertisements` are resolved.
    pub communities: BTreeMap<String, Community>,
    pub peers: Vec<Peer>,
    pub advertisements: Vec<BgpAdvertisement>,
}

/// `[[bgp.advertisement]]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BgpAdvertisement {
    pub name: String,
    pub vips: VipSelection,
    /// Names of peers; empty: all of them.
    pub peers: Vec<String>,
    pub communities: Vec<Community>,
    pub local_pref: Option<u32>,
    pub med: Option<u32>,
    pub prepend: u8,
    pub aggregation_length: u8,
    pub aggregation_length_v6: u8,
}

/// Which VIPs are meant: those of any of the pools, and those within any of the ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VipSelection {
    pub pools: Vec<String>,
    pub vips: Vec<AddressRange>,
}

impl VipSelection {
    /// Nobody said which: all of them.
    pub fn is_all(&self) -> bool {
        self.pools.is_empty() && self.vips.is_empty()
    }

    /// Whether the VIP is named; `pool` is where its address is from.
    pub fn names(&self, vip: IpAddr, pool: Option<&str>) -> bool {
        self.vips.iter().any(|range| range.contains(vip))
            || pool.is_some_and(|pool| self.pools.iter().any(|name| name == pool))
    }
}

/// `[l2]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct L2Settings {
    /// Whether MetalLB's L2Advertisements say which VIPs the groups without a selection have.
    pub metallb: bool,
    /// Those of `[[l2.group]]`, then that of `[l2]` itself.
    pub groups: Vec<L2GroupSettings>,
}

/// Virtual routers of one interface, and which VIPs they have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct L2GroupSettings {
    pub name: String,
    pub interface: String,
    /// The first VRID.
    pub router: u8,
    /// How many VRIDs, from `router` on, the VIPs are spread over.
    pub spread: u8,
    /// All edges, in the same order on each of them; empty: chance decides who leads which.
    pub edges: Vec<String>,
    pub priority: u8,
    pub interval: Duration,
    pub preempt: bool,
    pub preempt_delay: Duration,
    pub unicast: Vec<IpAddr>,
    pub key: Option<Password>,
    pub virtual_mac: bool,
    /// None of them and no advertisement: the VIPs that no other group names.
    pub vips: VipSelection,
    /// Names of L2Advertisements that have this group for themselves.
    pub advertisements: Vec<String>,
    /// Further interfaces on which the addresses are told.
    pub also: Vec<String>,
    pub watch: Option<L2Watch>,
}

impl L2GroupSettings {
    /// Whether it has what nobody names.
    pub fn is_for_the_rest(&self) -> bool {
        self.vips.is_all() && self.advertisements.is_empty()
    }
}

/// When a VIP must have a usable endpoint to be announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum RequireEndpoints {
    /// Where only Services have it, as MetalLB does it. A Gateway can always answer.
    Services,
    All,
    None,
}

/// What the settings of peers, advertisements and groups are where they are not said.
pub mod defaults {
    use std::time::Duration;

    pub const BGP_PORT: u16 = 179;
    pub const HOLD_TIME: Duration = Duration::from_secs(9);
    pub const CONNECT_RETRY: Duration = Duration::from_secs(5);
    pub const MAX_PREFIXES: u32 = 10_000;
    pub const GRACEFUL_SHUTDOWN: Duration = Duration::from_secs(5);
    /// MetalLB asks for no time of its own; FRR's is 120 seconds.
    pub const GRACEFUL_RESTART: Duration = Duration::from_secs(120);
    /// Of any session over more than one hop that says no number.
    pub const MULTIHOP: u8 = 255;
    pub const BFD_INTERVAL: Duration = Duration::from_millis(300);
    pub const BFD_MULTIPLIER: u8 = 3;
    pub const BFD_MINIMUM_TTL: u8 = 254;
    /// High, because the higher it is the sooner whoever waits takes over (RFC 9568 §6.1, Skew_Time), and low enough for
    /// what MetalLB's preferences add.
    pub const L2_PRIORITY: u8 = 200;
    pub const L2_INTERVAL: Duration = Duration::from_millis(300);
    pub const L2_PREEMPT_DELAY: Duration = Duration::from_secs(30);
    pub const L2_WATCH_INTERVAL: Duration = Duration::from_secs(1);
    pub const L2_WATCH_RISE: u8 = 2;
    pub const L2_WATCH_FALL: u8 = 3;
    /// Below everybody else, above taking no part: an edge with the same fault may still be better than none.
    pub const L2_WATCH_WEIGHT: u8 = 253;
    pub const HOLD_DOWN: Duration = Duration::from_secs(30);
}

impl Default for BgpSettings {
    fn default() -> Self {
        Self {
            engine: Engine::Child { program: PathBuf::from("/usr/bin/gobgpd") },
            asn: None,
            router_id: None,
            listen: None,
            graceful_shutdown: defaults::GRACEFUL_SHUTDOWN,
            next_hop: NextHop::default(),
            metallb: true,
            communities: BTreeMap::new(),
            peers: Vec::new(),
            advertisements: Vec::new(),
        }
    }
}

impl BgpSettings {
    /// The same with paths taken relative to `base`.
    pub(super) fn anchor(&mut self, base: &Path) {
        let anchor = |path: &mut PathBuf| *path = base.join(&*path);
        match &mut self.engine {
            Engine::Child { program } => anchor(program),
            Engine::Unix { path } => anchor(path),
            Engine::Tcp { tls, .. } => {
                if let Some(tls) = tls {
                    anchor(&mut tls.ca);
                    if let Some((chain, key)) = &mut tls.client {
                        anchor(chain);
                        anchor(key);
                    }
                }
            }
        }
        for peer in &mut self.peers {
            if let Some(Password::File(path)) = &mut peer.password {
                anchor(path);
            }
        }
    }
}

impl L2Settings {
    /// The same with paths taken relative to `base`.
    pub(super) fn anchor(&mut self, base: &Path) {
        for group in &mut self.groups {
            if let Some(Password::File(path)) = &mut group.key {
                *path = base.join(&*path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_edges() {
        for (host, name) in [("vm\n", "vm"), ("Edge_1.example", "edge-1-example"), ("--", "edge"), ("", "edge")] {
            assert_eq!(edge_name(host), name);
        }
    }

    #[test]
    fn labels_of_an_edge() {
        let mut edge = EdgeSettings { name: Some("a".to_owned()), labels: BTreeMap::new() };
        assert_eq!(edge.all_labels()[HOSTNAME_LABEL], "a");
        edge.labels.insert(HOSTNAME_LABEL.to_owned(), "node-1".to_owned());
        assert_eq!(edge.all_labels()[HOSTNAME_LABEL], "node-1");
    }
}
