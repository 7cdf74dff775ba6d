//! What an engine holds and what can be asked of it, in our own words; the two series of its API are made of this.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use edge_config::announce::{NextHop, PeerAddress};
use ipnet::IpNet;

use crate::wanted::Secret;

/// Names that begin so are ours; what has another name is left alone.
pub const OURS: &str = "edge-";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Global {
    pub asn: u32,
    pub router_id: Ipv4Addr,
    /// -1: nobody can call.
    pub port: i32,
    /// Empty: every address.
    pub addresses: Vec<IpAddr>,
}

impl Global {
    /// An engine that runs with `other` need not be started anew.
    pub fn is_served_by(&self, other: &Self) -> bool {
        let mut ours = self.addresses.clone();
        let mut theirs = other.addresses.clone();
        ours.sort();
        theirs.sort();
        // GoBGP calls every address by the unspecified ones.
        let is_everywhere = ours.is_empty() && theirs.iter().all(IpAddr::is_unspecified);
        let same_addresses = self.port < 0 || is_everywhere || ours == theirs;
        (self.asn, self.router_id, self.port) == (other.asn, other.router_id, other.port) && same_addresses
    }
}

/// A large community (RFC 8092) that never leaves the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    pub asn: u32,
    pub high: u32,
    pub low: u32,
}

impl Tag {
    /// The upper half of the second word of every tag.
    const MARK: u32 = 0xed6e;

    pub fn new(asn: u32, hash: u64) -> Self {
        let [.., a, b, c, d, e, f] = hash.to_be_bytes();
        Self { asn, high: Self::MARK << 16 | u32::from_be_bytes([0, 0, a, b]), low: u32::from_be_bytes([c, d, e, f]) }
    }

    /// `None`: a large community that is no tag.
    pub fn of((asn, high, low): (u32, u32, u32)) -> Option<Self> {
        (high >> 16 == Self::MARK).then_some(Self { asn, high, low })
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.asn, self.high, self.low)
    }
}

/// One prefix in the engine's own table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub prefix: IpNet,
    /// Unspecified: the address that the session is from, or what the export policy says.
    pub next_hop: IpAddr,
    pub tag: Tag,
    /// With GRACEFUL_SHUTDOWN (RFC 8326).
    pub is_leaving: bool,
}

/// What one group of peers is told of the prefixes of a class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Never empty: GoBGP takes an empty set for everybody.
    pub neighbors: Vec<IpAddr>,
    pub actions: Actions,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Actions {
    pub communities: Vec<u32>,
    pub large_communities: Vec<(u32, u32, u32)>,
    pub local_pref: Option<u32>,
    pub med: Option<u32>,
    /// This number, so many times more.
    pub prepend: Option<(u32, u8)>,
    pub next_hop: Option<IpAddr>,
}

/// Prefixes of which the same is told to the same peers. Its name says its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    pub name: String,
    pub tag: Tag,
    /// Never empty.
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SetKind {
    Neighbors,
    Tags,
}

/// A defined set of GoBGP's policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    pub kind: SetKind,
    pub name: String,
    pub members: Vec<String>,
}

impl Set {
    pub fn key(&self) -> (SetKind, String) {
        (self.kind, self.name.clone())
    }
}

impl Class {
    /// The name of the rule at this place, and of its set of neighbors.
    pub fn rule_name(&self, index: usize) -> String {
        format!("{}-{index}", self.name)
    }

    pub fn sets(&self) -> Vec<Set> {
        let tags = Set { kind: SetKind::Tags, name: self.name.clone(), members: vec![format!("^{}$", self.tag)] };
        let neighbors = self.rules.iter().enumerate().map(|(index, rule)| Set {
            kind: SetKind::Neighbors,
            name: self.rule_name(index),
            members: rule.neighbors.iter().map(|address| host(*address).to_string()).collect(),
        });
        std::iter::once(tags).chain(neighbors).collect()
    }
}

fn host(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub fn of(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    pub fn own(self, next_hop: &NextHop) -> Option<IpAddr> {
        match self {
            Self::V4 => next_hop.v4.map(IpAddr::V4),
            Self::V6 => next_hop.v6.map(IpAddr::V6),
        }
    }
}

/// What a neighbor is called in the engine: its address, or the interface of an unnumbered one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerKey {
    Address(IpAddr),
    Interface(String),
}

impl From<&PeerAddress> for PeerKey {
    fn from(address: &PeerAddress) -> Self {
        match address {
            PeerAddress::Address(address) => Self::Address(*address),
            PeerAddress::Interface(name) => Self::Interface(name.clone()),
        }
    }
}

impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Interface(name) => f.write_str(name),
        }
    }
}

/// One neighbor as it should be configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    pub name: Arc<str>,
    pub key: PeerKey,
    /// Of an unnumbered one: its address with the interface, as far as it is known.
    pub neighbor: Option<String>,
    pub port: u16,
    /// 0: whatever the peer says.
    pub asn: u32,
    /// 0: that of [`Global`].
    pub local_asn: u32,
    pub source: Option<IpAddr>,
    pub password: Option<Secret>,
    /// In seconds.
    pub hold_time: u64,
    pub keepalive: u64,
    pub connect_retry: u64,
    pub multihop: Option<u8>,
    pub ttl_security: Option<u8>,
    /// In seconds.
    pub graceful_restart: Option<u32>,
    pub families: Vec<Family>,
    pub max_prefixes: u32,
    pub is_passive: bool,
    /// Its password could not be read: it is not begun, and left as it is where it runs.
    pub is_held_back: bool,
    /// The engine was empty: our paths are held by the peer from before, and End-of-RIB is told when all are in again.
    pub is_restarting: bool,
}

impl PeerConfig {
    /// What stands at the neighbor in the engine: whose it is, and a digest of how it is configured.
    pub fn description(&self) -> String {
        let text = format!(
            "{:?}",
            (
                (&self.key, self.port, self.asn, self.local_asn, self.source, self.hold_time, self.keepalive),
                (self.connect_retry, self.multihop, self.ttl_security, self.graceful_restart, &self.families),
                (self.max_prefixes, self.is_passive),
            )
        );
        format!("{OURS}{}-{:016x}", self.name, digest(text.as_bytes()))
    }

    pub fn is_served_by(&self, there: &SeenPeer) -> bool {
        let same_password = self.password.as_ref() == there.password.as_ref();
        let same_address = self.neighbor.as_ref().is_none_or(|neighbor| *neighbor == there.address);
        self.is_held_back || (self.description() == there.description && same_password && same_address)
    }
}

/// FNV-1a. Names made of it are compared with those in an engine that outlives us, so it must never change.
pub fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What the engine should hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub global: Global,
    pub classes: BTreeMap<String, Class>,
    pub paths: BTreeMap<IpNet, Path>,
    pub peers: BTreeMap<PeerKey, PeerConfig>,
}

/// What was read out of the engine; only what is ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// `None`: it has not been started since it came up.
    pub global: Option<Global>,
    pub sets: BTreeSet<(SetKind, String)>,
    pub policies: BTreeSet<String>,
    pub import: Assignment,
    pub export: Assignment,
    pub paths: BTreeMap<IpNet, Path>,
    pub peers: BTreeMap<PeerKey, SeenPeer>,
    pub foreign_peers: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenPeer {
    /// As the engine calls it: with the zone, where it is unnumbered.
    pub address: String,
    pub description: String,
    pub password: Option<Secret>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    Import,
    Export,
}

/// Which policies are asked, and what is done with a route that none of them decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    pub policies: Vec<String>,
    pub accepts: bool,
}

impl Default for Assignment {
    /// Of an engine that was just started.
    fn default() -> Self {
        Self { policies: Vec::new(), accepts: true }
    }
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Stop,
    Start(Global),
    AddSet(Set),
    AddImport,
    AddPolicy(Class),
    Assign(Direction, Assignment),
    Announce(Vec<Path>),
    /// Never empty: GoBGP takes a request without a path for all of them.
    Withdraw(Vec<Path>),
    AddPeer(Box<PeerConfig>),
    /// With the address that the engine knows it by.
    DeletePeer(PeerKey, String),
    DeletePolicy(String),
    DeleteSet(SetKind, String),
}

impl Call {
    /// It can only take something back from peers.
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::Withdraw(_) | Self::DeletePeer(..))
    }
}
