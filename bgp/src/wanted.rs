//! What the speaker is asked for: all of it, each time.
//!
//! Flows in: the plan of `compile` with the passwords that somebody read and the word whether a prefix may be told now.
//! Flows out: one value that the speaker makes true. A password prints as `[redacted]` and is wiped when dropped.

use std::fmt;
use std::net::Ipv4Addr;

use edge_config::announce::{Asn, Bgp, Engine, Listen, NextHop, Offer, Password, Peer, Prefix};
use ipnet::IpNet;
use zeroize::Zeroizing;

/// Everything that is wanted of BGP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub engine: Engine,
    pub asn: Asn,
    pub router_id: Ipv4Addr,
    /// `None`: only we call.
    pub listen: Option<Listen>,
    /// In the order of their names, which are unique.
    pub peers: Vec<WantedPeer>,
    /// In order, each prefix once.
    pub prefixes: Vec<WantedPrefix>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedPeer {
    pub peer: Peer,
    pub password: PeerPassword,
    /// Our own addresses towards this peer, told as next hops of the family that the session itself does not run over.
    /// An empty family is found out from the interface that the session leaves by.
    pub own: NextHop,
    /// Why there is to be no session for now, such as what BFD says of the peer; `None`: there is to be one.
    pub held: Option<String>,
}

/// The TCP-MD5 password of a session, as far as it could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerPassword {
    None,
    Is(Secret),
    /// Where it was looked for and why it is not there. A session that runs is left as it is, a new one is not begun.
    Missing(String),
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// One prefix and what is told of it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedPrefix {
    pub prefix: IpNet,
    pub next_hop: NextHop,
    pub offers: Vec<Offer>,
    pub tell: Tell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tell {
    Announced,
    /// Still announced, with the community GRACEFUL_SHUTDOWN (RFC 8326): the last resort of its peers.
    Leaving,
    Withdrawn,
}

impl Wanted {
    /// The plan with passwords by `password`; of each prefix is told what `tell` says of it.
    pub fn of(
        bgp: &Bgp,
        password: impl Fn(&Password) -> Result<Secret, String>,
        tell: impl Fn(&Prefix) -> Tell,
    ) -> Self {
        let peers = bgp.peers.iter().map(|peer| WantedPeer {
            peer: peer.clone(),
            password: match peer.password.as_ref().map(&password) {
                None => PeerPassword::None,
                Some(Ok(secret)) => PeerPassword::Is(secret),
                Some(Err(reason)) => PeerPassword::Missing(reason),
            },
            own: NextHop::default(),
            held: None,
        });
        let prefixes = bgp.prefixes.iter().map(|prefix| WantedPrefix {
            prefix: prefix.prefix,
            next_hop: prefix.next_hop,
            offers: prefix.offers.clone(),
            tell: tell(prefix),
        });
        Self {
            engine: bgp.engine.clone(),
            asn: bgp.asn,
            router_id: bgp.router_id,
            listen: bgp.listen.clone(),
            peers: peers.collect(),
            prefixes: prefixes.collect(),
        }
    }
}
