//! Whether whoever asks for a VIP from outside finds the way to it: what has to be so before a CA is asked to look.
//!
//! In: who is to be told, what the network was told. Out: one [`Road`] for each VIP. Pure. A road says nothing about
//! routers beyond those that are told here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};

use edge_acme::dns::preflight::Announced;
use edge_config::announce::Bgp;

use crate::control::observed::{Network, VipState};

/// Of each VIP; the supervisor writes, orders read.
pub type Roads = Arc<RwLock<BTreeMap<IpAddr, Road>>>;

/// From the moment a router is told until its kernel forwards by it, and its neighbours know.
const SETTLING: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Road {
    pub announced: Announced,
    /// Some routers know it, others are still to be told.
    is_partial: bool,
    /// When the last router was told.
    told: Option<SystemTime>,
}

impl Road {
    /// Nobody knows anything about it.
    pub const UNKNOWN: Self = Self { announced: Announced::Unknown, is_partial: false, told: None };

    pub fn of(address: IpAddr, state: &VipState, bgp: Option<&Bgp>, network: &Network) -> Self {
        match state {
            VipState::Withheld(why) | VipState::Failed(why) => {
                Self { announced: Announced::No(why.as_str().into()), ..Self::UNKNOWN }
            }
            VipState::Bound { announced } => {
                let prefixes = bgp.iter().flat_map(|bgp| &bgp.prefixes).filter(|one| one.vips.contains(&address));
                let (mut offered, mut told) = (0, Vec::new());
                for prefix in prefixes {
                    let seen = network.bgp.as_ref().and_then(|seen| seen.prefix(&prefix.prefix));
                    for peer in prefix.offers.iter().flat_map(|offer| &offer.peers) {
                        offered += 1;
                        told.extend(seen.and_then(|seen| seen.told.iter().find(|told| told.peer == *peer)));
                    }
                }
                let said = match announced {
                    Some(_) => Announced::Yes,
                    None if offered > 0 => Announced::No("no router has been told of it".into()),
                    // Routed here by means that Edge does not know.
                    None => Announced::Unknown,
                };
                let last = told.iter().map(|told| told.since).max();
                Self { announced: said, is_partial: told.len() < offered, told: last }
            }
        }
    }

    /// Whether a little patience makes it better.
    pub fn is_coming(&self, now: SystemTime) -> bool {
        // A clock that was set back is no reason to wait.
        let is_fresh = |at: SystemTime| now.duration_since(at).is_ok_and(|age| age < SETTLING);
        matches!(self.announced, Announced::No(_)) || self.is_partial || self.told.is_some_and(is_fresh)
    }
}

#[cfg(test)]
mod tests {
    use edge_config::announce::{Attributes, Engine, NextHop, Offer, Prefix};

    use super::*;
    use crate::control::observed::Network;

    fn bgp(peers: &[&str]) -> Bgp {
        let vip: IpAddr = "192.0.2.1".parse().unwrap();
        let offer =
            Offer { peers: peers.iter().map(|name| (*name).into()).collect(), attributes: Attributes::default() };
        Bgp {
            engine: Engine::Child { program: "/usr/bin/gobgpd".into() },
            asn: edge_config::announce::Asn::new(65000).unwrap(),
            router_id: "10.0.0.1".parse().unwrap(),
            listen: None,
            peers: Vec::new(),
            prefixes: vec![Prefix {
                prefix: "192.0.2.1/32".parse().unwrap(),
                vips: vec![vip],
                next_hop: NextHop { v4: None, v6: None },
                offers: vec![offer],
            }],
            graceful_shutdown: Duration::ZERO,
        }
    }

    fn told(peers: &[&str], since: SystemTime) -> Network {
        let mut seen = edge_bgp::Observed::nothing(since);
        let told = peers.iter().map(|peer| edge_bgp::Told {
            peer: (*peer).into(),
            since,
            next_hop: None,
            communities: Vec::new(),
            large_communities: Vec::new(),
            as_path: Vec::new(),
            med: None,
            local_pref: None,
        });
        seen.prefixes =
            vec![edge_bgp::PrefixSeen { prefix: "192.0.2.1/32".parse().unwrap(), is_held: true, told: told.collect() }];
        Network { bgp: Some(Arc::new(seen)), ..Network::default() }
    }

    #[test]
    fn roads() {
        let vip = "192.0.2.1".parse().unwrap();
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let bound = |network: &Network| VipState::Bound { announced: network.announced(vip) };
        let soon = at + Duration::from_millis(100);
        let later = at + Duration::from_secs(3);
        for (what, plan, network, now, announced, is_coming) in [
            ("nobody announces", None, Network::default(), later, Announced::Unknown, false),
            (
                "not told yet",
                Some(bgp(&["x", "y"])),
                told(&[], at),
                later,
                Announced::No("no router has been told of it".into()),
                true,
            ),
            ("one of two", Some(bgp(&["x", "y"])), told(&["x"], at), later, Announced::Yes, true),
            ("both, just now", Some(bgp(&["x", "y"])), told(&["x", "y"], at), soon, Announced::Yes, true),
            ("both", Some(bgp(&["x", "y"])), told(&["x", "y"], at), later, Announced::Yes, false),
            ("the clock was set back", Some(bgp(&["x"])), told(&["x"], later), at, Announced::Yes, false),
        ] {
            let road = Road::of(vip, &bound(&network), plan.as_ref(), &network);
            assert_eq!((&road.announced, road.is_coming(now)), (&announced, is_coming), "{what}");
        }
        let network = Network::default();
        let road = Road::of(vip, &VipState::Withheld("drained".into()), None, &network);
        assert_eq!((&road.announced, road.is_coming(at)), (&Announced::No("drained".into()), true));
    }
}
