//! What is told to the network, to whom and how: the plan that `compile` makes of `[bgp]`, `[l2]`, `[vips]` and
//! MetalLB's objects. It says what is wished; whether a VIP may be announced at this moment is decided beside the
//! actors, from what they see. No password is in it, only the place of one.
//! Standards: RFC 4271, 4760, 1997, 8092, 8326 (BGP), RFC 4724 (graceful restart), RFC 5880/5881 (BFD), RFC 9568 (VRRP).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::names::{ObjectKey, ObjectRef};
use crate::settings::defaults;

/// Everything about announcing in one snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Announce {
    /// `None`: this edge speaks no BGP.
    pub bgp: Option<Bgp>,
    /// In the order of interface and virtual router; empty: nothing is announced by ARP or NDP.
    pub l2: Vec<L2Group>,
    /// How long a VIP that was withdrawn must be good again before it is announced again; not waited for after a start
    /// or by a VIP that is new.
    pub hold_down: Duration,
    /// VIPs that are announced only while something behind them has an endpoint that is ready or still serves, in order.
    pub need_endpoint: Vec<IpAddr>,
    /// VIPs that nothing announces, with the reason in one line.
    pub silent: Vec<(IpAddr, String)>,
}

impl Announce {
    /// Nothing is announced and nothing is to be said about it.
    pub fn is_idle(&self) -> bool {
        *self == Self::default()
    }
}

/// The number of an autonomous system (RFC 6793); never 0, 23456 or 4294967295.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Asn(u32);

impl Asn {
    /// `None`: a number that RFC 7607, RFC 6793 or RFC 7300 keeps from being used.
    pub fn new(number: u32) -> Option<Self> {
        (!matches!(number, 0 | 23456 | u32::MAX)).then_some(Self(number))
    }

    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bgp {
    pub engine: Engine,
    pub asn: Asn,
    pub router_id: Ipv4Addr,
    /// Where peers may call. `None`: only Edge calls.
    pub listen: Option<Listen>,
    /// In the order of their names, which are unique.
    pub peers: Vec<Peer>,
    /// In order; one for every prefix that may be announced.
    pub prefixes: Vec<Prefix>,
    /// How long the community GRACEFUL_SHUTDOWN (RFC 8326) is told before an orderly withdrawal.
    pub graceful_shutdown: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listen {
    pub port: u16,
    /// Empty: every address.
    pub addresses: Vec<IpAddr>,
}

/// The gobgpd that speaks for Edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Engine {
    /// A child of edged, from this program.
    Child { program: PathBuf },
    /// Somebody else's, at a unix socket.
    Unix { path: PathBuf },
    /// Somebody else's, over TCP; with TLS where `tls` says how.
    Tcp { address: SocketAddr, tls: Option<EngineTls> },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineTls {
    /// PEM of the certificates that are trusted.
    pub ca: PathBuf,
    /// The name in gobgpd's certificate.
    pub name: String,
    /// PEM of certificate chain and key, where gobgpd asks for one.
    pub client: Option<(PathBuf, PathBuf)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Peer {
    pub name: Arc<str>,
    pub address: PeerAddress,
    pub port: u16,
    pub asn: PeerAsn,
    /// Shown to this peer instead of [`Bgp::asn`].
    pub local_asn: Option<Asn>,
    pub source: Option<IpAddr>,
    pub password: Option<Password>,
    pub hold_time: Duration,
    pub keepalive: Duration,
    pub connect_retry: Duration,
    /// The TTL of an eBGP session over more than one hop; `None`: one hop.
    pub multihop: Option<u8>,
    /// RFC 5082: the least TTL accepted.
    pub ttl_security: Option<u8>,
    /// RFC 4724: how long the peer keeps our routes while gobgpd starts anew.
    pub graceful_restart: Option<Duration>,
    pub families: Families,
    pub bfd: Option<Bfd>,
    /// Prefixes that the peer may send before the session is closed; none of them is ever used.
    pub max_prefixes: u32,
    /// The peer must call.
    pub is_passive: bool,
    /// What declares it: `edge.toml` or an object, for messages.
    pub origin: PeerOrigin,
}

impl Peer {
    /// One of edge.toml that says nothing more than this: everything else is as the manual has it.
    pub fn plain(name: &str, address: PeerAddress, asn: PeerAsn) -> Self {
        Self {
            name: name.into(),
            port: defaults::BGP_PORT,
            asn,
            local_asn: None,
            source: None,
            password: None,
            hold_time: defaults::HOLD_TIME,
            keepalive: defaults::HOLD_TIME / 3,
            connect_retry: defaults::CONNECT_RETRY,
            multihop: None,
            ttl_security: None,
            graceful_restart: None,
            families: Families::of(&address),
            bfd: None,
            max_prefixes: defaults::MAX_PREFIXES,
            is_passive: false,
            origin: PeerOrigin::Settings,
            address,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum PeerOrigin {
    Settings,
    Object(ObjectRef),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum PeerAddress {
    Address(IpAddr),
    /// Unnumbered: the router at the other end of this interface, by its link-local address.
    Interface(String),
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Interface(name) => f.write_str(name),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum PeerAsn {
    Number(Asn),
    /// Whatever it is, but ours.
    Internal,
    /// Whatever it is, but not ours.
    External,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Families {
    pub v4: bool,
    pub v6: bool,
}

impl Families {
    /// Where nobody says which: that of the address; both where the peer is found on an interface (RFC 8950).
    pub fn of(peer: &PeerAddress) -> Self {
        match peer {
            PeerAddress::Address(address) => Self { v4: address.is_ipv4(), v6: address.is_ipv6() },
            PeerAddress::Interface(_) => Self { v4: true, v6: true },
        }
    }

    pub fn has(self, address: IpAddr) -> bool {
        if address.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// Where a TCP-MD5 (RFC 2385) password or another shared key is. Its text is read by whoever uses it and is in no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Password {
    /// The first line of a file.
    File(PathBuf),
    /// The member `password` of a Secret of type `kubernetes.io/basic-auth`.
    Secret(ObjectKey),
    /// `spec.password` of this BGPPeer.
    Inline(ObjectKey),
}

/// RFC 5880 asynchronous mode over one hop (RFC 5881), or more where the session has several (RFC 5883).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bfd {
    pub transmit: Duration,
    pub receive: Duration,
    pub multiplier: u8,
    /// Waits for the peer's first packet.
    pub is_passive: bool,
    /// Of packets that arrive; 254 unless a profile says otherwise for several hops.
    pub minimum_ttl: u8,
}

/// One prefix and everything that is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Prefix {
    pub prefix: IpNet,
    /// It is announced while one of these VIPs may be.
    pub vips: Vec<IpAddr>,
    /// Where it is to be reached.
    pub next_hop: NextHop,
    /// Who is told, with which attributes; no peer is in two of them. Peers of none are told nothing.
    pub offers: Vec<Offer>,
}

/// Next hops by family. `None`: each edge's own address towards the peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct NextHop {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Offer {
    /// Names of peers, in order.
    pub peers: Vec<Arc<str>>,
    pub attributes: Attributes,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Attributes {
    /// RFC 1997, in order.
    pub communities: Vec<u32>,
    /// RFC 8092, in order.
    pub large_communities: Vec<(u32, u32, u32)>,
    /// Told to iBGP peers only.
    pub local_pref: Option<u32>,
    pub med: Option<u32>,
    /// So many times more our own number in the AS path; 0 to 10.
    pub prepend: u8,
}

/// One virtual router (RFC 9568) of one interface: these addresses are at one edge at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct L2Group {
    pub name: Arc<str>,
    pub interface: String,
    /// VRID; one election for IPv4 and one for IPv6.
    pub router: u8,
    /// 1 to 254; the greatest of the healthy edges has the addresses.
    pub priority: u8,
    /// 10 ms to 40.95 s, in steps of 10 ms.
    pub interval: Duration,
    /// Takes over from an edge of lower priority.
    pub preempt: bool,
    /// How long it must have been healthy for that.
    pub preempt_delay: Duration,
    /// Advertisements go to these edges instead of the multicast group; empty: multicast.
    pub unicast: Vec<IpAddr>,
    /// Of unicast advertisements: an HMAC beside the packet, which other implementations do not know.
    pub key: Option<Password>,
    /// The addresses are on a macvlan with the virtual router's MAC (RFC 9568 §7.3).
    pub virtual_mac: bool,
    /// In order; never empty.
    pub vips: Vec<IpAddr>,
    /// Further interfaces on which the addresses are told (MetalLB's `interfaces`); never `interface` itself.
    pub also: Vec<String>,
    /// Neighbours on the interface without whom this edge is less fit.
    pub watch: Option<L2Watch>,
}

/// Neighbours that are asked for by ARP and NDP, and what it means that none of them answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct L2Watch {
    /// In order; never empty.
    pub neighbours: Vec<IpAddr>,
    pub interval: Duration,
    /// Answers in a row after which a silent one counts again; not 0.
    pub rise: u8,
    /// Questions in a row without an answer after which it is silent; not 0.
    pub fall: u8,
    /// How much the priority falls, down to 1; 0: this edge takes no part.
    pub weight: u8,
}
