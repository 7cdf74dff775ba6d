//! One group: a virtual router of one interface, with an election for each family that it has VIPs of.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use edge_bgp::l2::{Pace, Watch};
use edge_bgp::vrrp::{Family, Key};

use super::GroupWanted;
use super::election::Election;
use super::kernel::LinkSeen;
use crate::vip::netlink::Listed;

pub(super) struct Group {
    pub(super) wanted: GroupWanted,
    pub(super) elections: Vec<Election>,
    /// Why it cannot take part, before anything else is looked at.
    pub(super) unusable: Option<String>,
    pub(super) watch: Watch,
}

impl Group {
    pub(super) fn new(now: Duration, wanted: GroupWanted) -> Self {
        Self { wanted, elections: Vec::new(), unusable: None, watch: Watch::new(now) }
    }

    /// Whether a wish is of this group: the same virtual router of the same interface.
    pub(super) fn is_of(&self, wanted: &GroupWanted) -> bool {
        let (ours, theirs) = (&self.wanted.group, &wanted.group);
        (&ours.interface, ours.router, ours.virtual_mac) == (&theirs.interface, theirs.router, theirs.virtual_mac)
    }

    /// Takes over a wish. Elections without VIPs are left by [`Group::is_over`], in order. `led` are the families whose
    /// election this machine has won already, by another process.
    pub(super) fn configure(&mut self, now: Duration, wanted: GroupWanted, led: &BTreeSet<Family>) {
        self.wanted = wanted;
        let group = &self.wanted.group;
        let key = match &self.wanted.key {
            None => Ok(None),
            Some(Err(reason)) => Err(format!("its key: {reason}")),
            Some(Ok(secret)) => match Key::new(secret.expose().as_bytes()) {
                Some(_) if group.unicast.is_empty() => Err("a key needs unicast peers".to_owned()),
                Some(key) => Ok(Some(key)),
                None => Err("its key is empty".to_owned()),
            },
        };
        self.unusable = key.as_ref().err().cloned();
        if let Some(watch) = &group.watch {
            let pace = Pace { interval: watch.interval, rise: watch.rise, fall: watch.fall };
            self.watch.configure(&watch.neighbours, pace);
        } else {
            self.watch = Watch::new(now);
        }
        let families: BTreeSet<Family> = group.vips.iter().map(|vip| Family::of(*vip)).collect();
        for family in families {
            if !self.elections.iter().any(|election| election.family == family) {
                self.elections.push(Election::new(now, family, group, led.contains(&family)));
                self.elections.sort_by_key(|election| election.family);
            }
        }
        for election in &mut self.elections {
            election.configure(group, &self.wanted.told, key.clone().ok().flatten());
        }
    }

    /// An address of ours to ask for a neighbour from: in its network, or link-local.
    pub(super) fn asker(&self, neighbour: IpAddr, link: &LinkSeen, vips: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let fits =
            |listed: &&Listed| is_local(listed.address) || is_in_network(neighbour, listed.address, listed.prefix);
        own(Family::of(neighbour), link, vips).find(fits).map(|listed| listed.address)
    }

    /// What it means that no neighbour answers, if so: by how much the priority falls, and in words.
    pub(super) fn loss(&self) -> Option<(u8, String)> {
        let weight = self.wanted.group.watch.as_ref()?.weight;
        let silent: Vec<String> = self.watch.silent()?.iter().map(ToString::to_string).collect();
        let effect = if weight == 0 { "" } else { ": the priority is lower" };
        Some((weight, format!("no answer on {} from {}{effect}", self.wanted.group.interface, silent.join(", "))))
    }

    /// Drops elections that have nothing left to do.
    pub(super) fn forget_over(&mut self) {
        self.elections
            .retain(|election| !election.all.is_empty() || election.is_active() || election.farewell.is_some());
    }

    /// The address that a family's advertisements come from: link-local in IPv6 (RFC 9568 §5.1.2.1) unless a unicast
    /// peer is not; never a VIP.
    pub(super) fn source(&self, family: Family, link: &LinkSeen, vips: &BTreeSet<IpAddr>) -> Result<IpAddr, String> {
        let group = &self.wanted.group;
        let peer = group.unicast.iter().copied().find(|peer| Family::of(*peer) == family);
        if !group.unicast.is_empty() && peer.is_none() {
            return Err(format!("none of its unicast peers has an {} address", family.name()));
        }
        let own = own(family, link, vips);
        let wants_local = family == Family::V6 && peer.is_none_or(is_local);
        let mut candidates = own.filter(|listed| is_local(listed.address) == wants_local);
        // The one in the network of the peer, or else the first of the interface.
        let first = candidates.clone().next();
        let found = peer.and_then(|peer| candidates.find(|listed| is_in_network(peer, listed.address, listed.prefix)));
        found.or(first).map(|listed| listed.address).ok_or_else(|| {
            let kind = if wants_local { "IPv6 link-local" } else { family.name() };
            format!("{} has no {kind} address to speak from", group.interface)
        })
    }
}

/// Addresses of the interface to speak from: none of Edge's, and none in doubt.
fn own<'l>(family: Family, link: &'l LinkSeen, vips: &'l BTreeSet<IpAddr>) -> impl Iterator<Item = &'l Listed> + Clone {
    link.addresses.iter().filter(move |listed| {
        Family::of(listed.address) == family
            && !vips.contains(&listed.address)
            && !listed.is_marked()
            && !listed.tentative
            && !listed.duplicate
    })
}

fn is_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn is_in_network(address: IpAddr, network: IpAddr, prefix: u8) -> bool {
    ipnet::IpNet::new(network, prefix).is_ok_and(|network| network.contains(&address))
}
