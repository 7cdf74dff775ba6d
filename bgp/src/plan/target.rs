//! What the engine should hold, of what is wanted; pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use edge_config::announce::{Attributes, Families, NextHop, PeerAddress, PeerAsn};

use super::keep;
use super::model::{Actions, Class, Family, Global, Path, PeerConfig, PeerKey, Rule, Tag, Target, digest};
use crate::wanted::{PeerPassword, Tell, Wanted, WantedPeer, WantedPrefix};

/// What must be found out about a peer before it can be told anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Of an unnumbered one: the address at the other end.
    pub neighbor: Option<IpAddr>,
    /// Our own addresses towards it.
    pub own: NextHop,
    /// The number it says it has.
    pub asn: Option<u32>,
}

/// The target, and for peers that some prefixes cannot be told to, why.
pub fn target(wanted: &Wanted, found: &BTreeMap<Arc<str>, Found>) -> (Target, BTreeMap<Arc<str>, String>) {
    let mut untold = BTreeMap::new();
    let mut classes = BTreeMap::new();
    let mut paths = BTreeMap::new();
    for prefix in wanted.prefixes.iter().filter(|prefix| prefix.tell != Tell::Withdrawn) {
        let rules = rules(wanted, prefix, found, &mut untold);
        let family = Family::of(&prefix.prefix);
        // The families are apart, as a peer that comes may carry one of them only.
        let hash = digest(format!("{family:?} {rules:?}").as_bytes());
        let tag = Tag::new(wanted.asn.get(), hash);
        let path = Path {
            prefix: prefix.prefix,
            next_hop: family.own(&prefix.next_hop).unwrap_or(match family {
                Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            }),
            tag,
            is_leaving: prefix.tell == Tell::Leaving,
        };
        paths.insert(prefix.prefix, path);
        if !rules.is_empty() {
            let name = keep::name(tag, &rules);
            classes.insert(name.clone(), Class { name, tag, rules });
        }
    }
    // One that is held is taken out of the engine, which ends its session for certain.
    let peers = wanted.peers.iter().filter(|peer| peer.held.is_none()).map(|peer| {
        let neighbor = found.get(&peer.peer.name).and_then(|found| found.neighbor);
        (PeerKey::from(&peer.peer.address), config(peer, wanted, neighbor))
    });
    let listen = wanted.listen.as_ref();
    let global = Global {
        asn: wanted.asn.get(),
        router_id: wanted.router_id,
        port: listen.map_or(-1, |listen| i32::from(listen.port)),
        addresses: listen.map_or_else(Vec::new, |listen| listen.addresses.clone()),
    };
    (Target { global, classes, paths, peers: peers.collect() }, untold)
}

/// What each group of peers is told of a prefix: peers that are told the same share a rule.
fn rules(
    wanted: &Wanted,
    prefix: &WantedPrefix,
    found: &BTreeMap<Arc<str>, Found>,
    untold: &mut BTreeMap<Arc<str>, String>,
) -> Vec<Rule> {
    let mut groups: BTreeMap<Actions, Vec<IpAddr>> = BTreeMap::new();
    for (peer, attributes) in
        prefix.offers.iter().flat_map(|offer| offer.peers.iter().map(|name| (name, &offer.attributes)))
    {
        let Some(peer) = wanted.peers.iter().find(|known| known.peer.name == *peer) else { continue };
        let family = Family::of(&prefix.prefix);
        if !carries(&peer.peer.families, family) {
            continue;
        }
        let nothing = Found::default();
        let found = found.get(&peer.peer.name).unwrap_or(&nothing);
        let Some(neighbor) = address(peer, found) else { continue };
        if let Some(reason) = wrong_asn(wanted, peer, found) {
            untold.insert(peer.peer.name.clone(), reason);
            continue;
        }
        let needs_own = family.own(&prefix.next_hop).is_none() && is_foreign(peer, family);
        let own = family.own(&peer.own).or_else(|| family.own(&found.own)).filter(|_| needs_own);
        if needs_own && own.is_none() {
            let family = if family == Family::V4 { "IPv4" } else { "IPv6" };
            untold.insert(
                peer.peer.name.clone(),
                format!("told no {family} prefixes: this host has no {family} address on the interface towards it; expected one, or next_hop"),
            );
            continue;
        }
        groups.entry(actions(wanted, peer, attributes, own)).or_default().push(neighbor);
    }
    let mut rules: Vec<Rule> = groups
        .into_iter()
        .map(|(actions, mut neighbors)| {
            neighbors.sort();
            neighbors.dedup();
            Rule { neighbors, actions }
        })
        .collect();
    rules.sort_by(|a, b| a.neighbors.cmp(&b.neighbors));
    rules
}

fn carries(families: &Families, family: Family) -> bool {
    match family {
        Family::V4 => families.v4,
        Family::V6 => families.v6,
    }
}

/// The engine takes any number where none is given, ours too.
fn wrong_asn(wanted: &Wanted, peer: &WantedPeer, found: &Found) -> Option<String> {
    let own = peer.peer.local_asn.unwrap_or(wanted.asn).get();
    let is_wrong = peer.peer.asn == PeerAsn::External && found.asn == Some(own);
    is_wrong.then(|| format!("told nothing: the peer says our own AS {own}; expected another (external)"))
}

fn address(peer: &WantedPeer, found: &Found) -> Option<IpAddr> {
    match &peer.peer.address {
        PeerAddress::Address(address) => Some(*address),
        PeerAddress::Interface(_) => found.neighbor,
    }
}

/// The session is not of this family, so its own address is no next hop. An unnumbered session carries both by its
/// link-local address (RFC 8950).
fn is_foreign(peer: &WantedPeer, family: Family) -> bool {
    match (&peer.peer.address, family) {
        (PeerAddress::Address(address), Family::V4) => address.is_ipv6(),
        (PeerAddress::Address(address), Family::V6) => address.is_ipv4(),
        (PeerAddress::Interface(_), _) => false,
    }
}

fn actions(wanted: &Wanted, peer: &WantedPeer, attributes: &Attributes, next_hop: Option<IpAddr>) -> Actions {
    let own = peer.peer.local_asn.unwrap_or(wanted.asn);
    let is_internal = match peer.peer.asn {
        PeerAsn::Number(number) => number == own,
        PeerAsn::Internal => true,
        PeerAsn::External => false,
    };
    Actions {
        communities: attributes.communities.clone(),
        large_communities: attributes.large_communities.clone(),
        // RFC 4271 §5.1.5: to internal peers only.
        local_pref: attributes.local_pref.filter(|_| is_internal),
        med: attributes.med,
        // RFC 4271 §5.1.2: the path is not changed towards internal peers, who would take our number for a loop.
        prepend: (attributes.prepend > 0 && !is_internal).then(|| (own.get(), attributes.prepend)),
        next_hop,
    }
}

fn config(peer: &WantedPeer, wanted: &Wanted, neighbor: Option<IpAddr>) -> PeerConfig {
    let password = match &peer.password {
        PeerPassword::Is(secret) => Some(secret.clone()),
        PeerPassword::None | PeerPassword::Missing(_) => None,
    };
    let is_held_back = matches!(peer.password, PeerPassword::Missing(_));
    let peer = &peer.peer;
    let own = peer.local_asn.unwrap_or(wanted.asn);
    PeerConfig {
        name: peer.name.clone(),
        key: PeerKey::from(&peer.address),
        neighbor: match (&peer.address, neighbor) {
            (PeerAddress::Interface(name), Some(neighbor)) => Some(format!("{neighbor}%{name}")),
            _ => None,
        },
        port: peer.port,
        asn: match peer.asn {
            PeerAsn::Number(number) => number.get(),
            PeerAsn::Internal => own.get(),
            PeerAsn::External => 0,
        },
        local_asn: peer.local_asn.map_or(0, |asn| asn.get()),
        source: peer.source,
        password,
        hold_time: seconds(peer.hold_time),
        keepalive: seconds(peer.keepalive),
        connect_retry: seconds(peer.connect_retry),
        multihop: peer.multihop,
        ttl_security: peer.ttl_security,
        graceful_restart: peer.graceful_restart.map(|time| u32::try_from(seconds(time)).unwrap_or(u32::MAX)),
        families: Family::BOTH.into_iter().filter(|family| carries(&peer.families, *family)).collect(),
        max_prefixes: peer.max_prefixes,
        is_passive: peer.is_passive,
        is_held_back,
        is_restarting: false,
    }
}

/// BGP counts seconds; never less than was asked for.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}
