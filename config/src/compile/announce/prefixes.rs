//! Which prefix is told to which peer, with which attributes. Of several advertisements for one prefix and peer the
//! communities are united, as MetalLB has it; where they differ in anything else nobody can tell what was meant, and the
//! VIPs that they are for are not announced.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::super::context::Context;
use super::advertisements::{Advertisement, advertisements};
use super::peers::{Peers, peers};
use super::{Outcome, Reports, Subject, list};
use crate::announce::{Attributes, Bgp, Offer, Prefix};
use crate::settings::BgpSettings;

pub(super) fn plan(
    context: &Context<'_>,
    bgp: &BgpSettings,
    labels: &BTreeMap<String, String>,
    subjects: &[Subject<'_, '_>],
    out: &mut Reports,
) -> Outcome<Option<Bgp>> {
    let peers = peers(context, bgp, labels, out);
    let advertisements = advertisements(context, bgp, labels, &peers, out);
    let Some(asn) = peers.asn else {
        let silent = subjects.iter().map(|subject| (subject.address, "this edge has no AS number".to_owned()));
        return Outcome { plan: None, silent: silent.collect() };
    };
    let mut offers = Offers { peers: &peers, advertisements: &advertisements, known: BTreeMap::new() };
    let mut silent = BTreeMap::new();
    let mut misfits = BTreeMap::new();
    let claims: Vec<(IpAddr, Vec<(IpNet, usize)>)> = subjects
        .iter()
        .filter_map(|subject| match claims(&peers, &advertisements, subject, &mut misfits) {
            Ok(claims) => Some((subject.address, claims)),
            Err(why) => {
                silent.insert(subject.address, why);
                None
            }
        })
        .collect();
    for (place, why) in misfits {
        if let Some(advertisement) = advertisements.get(place) {
            advertisement.warn(context, &why);
        }
    }
    for (prefix, entry) in &table(&claims, &silent) {
        if let Err(why) = offers.of(*prefix, &entry.advertisements) {
            silent.extend(entry.vips.iter().map(|vip| (*vip, format!("{prefix}: {why}"))));
        }
    }
    let mut prefixes = Vec::new();
    let mut told = BTreeSet::new();
    // Without those that were left out nothing is in dispute any more.
    for (prefix, entry) in table(&claims, &silent) {
        match offers.of(prefix, &entry.advertisements) {
            Ok(list) if !list.is_empty() => {
                told.extend(entry.vips.iter().copied());
                prefixes.push(Prefix { prefix, vips: entry.vips, next_hop: bgp.next_hop, offers: list.clone() });
            }
            _ => {}
        }
    }
    for (address, claims) in &claims {
        if !told.contains(address) && !silent.contains_key(address) {
            silent.insert(*address, nobody(&peers, &advertisements, *address, claims));
        }
    }
    let plan = Bgp {
        engine: bgp.engine.clone(),
        asn,
        router_id: peers.router_id,
        listen: bgp.listen.clone(),
        peers: peers.list,
        prefixes,
        graceful_shutdown: bgp.graceful_shutdown,
    };
    Outcome { plan: Some(plan), silent }
}

/// The prefixes that a VIP is told by, each with its advertisement, or why there are none.
fn claims(
    peers: &Peers,
    advertisements: &[Advertisement<'_>],
    subject: &Subject<'_, '_>,
    misfits: &mut BTreeMap<usize, String>,
) -> Result<Vec<(IpNet, usize)>, String> {
    if peers.list.is_empty() {
        return Err("there is no peer".to_owned());
    }
    let mut found = Vec::new();
    let mut why = None;
    for (place, advertisement) in advertisements.iter().enumerate() {
        if !advertisement.selects(subject) {
            continue;
        }
        if !advertisement.is_for_this_edge {
            why.get_or_insert_with(|| format!("{} is not for this edge", advertisement.name));
            continue;
        }
        match advertisement.prefix(subject) {
            Ok(prefix) => found.push((prefix, place)),
            Err(fault) => {
                misfits.entry(place).or_insert_with(|| fault.clone());
                why = Some(format!("{}: {fault}", advertisement.name));
            }
        }
    }
    if found.is_empty() { Err(why.unwrap_or_else(|| "no advertisement selects it".to_owned())) } else { Ok(found) }
}

#[derive(Default)]
struct Entry {
    vips: Vec<IpAddr>,
    advertisements: BTreeSet<usize>,
}

fn table(claims: &[(IpAddr, Vec<(IpNet, usize)>)], silent: &BTreeMap<IpAddr, String>) -> BTreeMap<IpNet, Entry> {
    let mut table: BTreeMap<IpNet, Entry> = BTreeMap::new();
    for (address, claims) in claims.iter().filter(|(address, _)| !silent.contains_key(address)) {
        for (prefix, advertisement) in claims {
            let entry = table.entry(*prefix).or_default();
            entry.advertisements.insert(*advertisement);
            if entry.vips.last() != Some(address) {
                entry.vips.push(*address);
            }
        }
    }
    table
}

/// The offers of a set of advertisements; nearly all prefixes have one of a few sets.
struct Offers<'p> {
    peers: &'p Peers,
    advertisements: &'p [Advertisement<'p>],
    known: BTreeMap<(bool, BTreeSet<usize>), Result<Vec<Offer>, String>>,
}

impl Offers<'_> {
    fn of(&mut self, prefix: IpNet, advertisements: &BTreeSet<usize>) -> Result<&Vec<Offer>, &String> {
        let is_v4 = prefix.addr().is_ipv4();
        let key = (is_v4, advertisements.clone());
        let (peers, all) = (self.peers, self.advertisements);
        self.known.entry(key).or_insert_with(|| make(peers, all, prefix.addr(), advertisements)).as_ref()
    }
}

fn make(
    peers: &Peers,
    all: &[Advertisement<'_>],
    address: IpAddr,
    advertisements: &BTreeSet<usize>,
) -> Result<Vec<Offer>, String> {
    let mut by_peer: BTreeMap<usize, (Attributes, &str)> = BTreeMap::new();
    for advertisement in advertisements.iter().filter_map(|place| all.get(*place)) {
        let takers = advertisement.peers.iter().filter_map(|place| Some((*place, peers.list.get(*place)?)));
        for (place, peer) in takers.filter(|(_, peer)| peer.families.has(address)) {
            let attributes = &advertisement.attributes;
            let Some((merged, first)) = by_peer.get_mut(&place) else {
                by_peer.insert(place, (attributes.clone(), &advertisement.name));
                continue;
            };
            let differs = [
                ("local preference", merged.local_pref != attributes.local_pref),
                ("MED", merged.med != attributes.med),
                ("prepending", merged.prepend != attributes.prepend),
            ];
            if let Some((what, _)) = differs.into_iter().find(|(_, differs)| *differs) {
                let other = &advertisement.name;
                return Err(format!("{first} and {other} differ in {what} for peer {}", peer.name));
            }
            merged.communities.extend(&attributes.communities);
            merged.large_communities.extend(&attributes.large_communities);
        }
    }
    let mut offers: BTreeMap<Attributes, Vec<Arc<str>>> = BTreeMap::new();
    for (place, (mut attributes, _)) in by_peer {
        attributes.communities.sort_unstable();
        attributes.communities.dedup();
        attributes.large_communities.sort_unstable();
        attributes.large_communities.dedup();
        if let Some(peer) = peers.list.get(place) {
            offers.entry(attributes).or_default().push(Arc::clone(&peer.name));
        }
    }
    let mut offers: Vec<Offer> = offers.into_iter().map(|(attributes, peers)| Offer { peers, attributes }).collect();
    offers.sort_by(|a, b| a.peers.cmp(&b.peers));
    Ok(offers)
}

/// Why nobody hears of a VIP that is advertised.
fn nobody(peers: &Peers, all: &[Advertisement<'_>], address: IpAddr, claims: &[(IpNet, usize)]) -> String {
    let mine: Vec<&Advertisement<'_>> = claims.iter().filter_map(|(_, place)| all.get(*place)).collect();
    let names = list(mine.iter().map(|advertisement| &*advertisement.name));
    if mine.iter().all(|advertisement| advertisement.peers.is_empty()) {
        return format!("none of the peers that {names} names is there");
    }
    let takers = mine.iter().flat_map(|advertisement| &advertisement.peers).filter_map(|place| peers.list.get(*place));
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    format!("{} takes no {family} prefixes, see families", list(takers.map(|peer| &*peer.name)))
}
