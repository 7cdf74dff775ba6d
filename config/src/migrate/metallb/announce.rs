//! How addresses are told: `[edge]` labels, `[bgp]` with its peers and advertisements.

use std::collections::BTreeMap;

use super::{Entry, Model, l2, selected};
use crate::metallb::{BfdProfileSpec, BgpAdvertisementSpec, BgpPeerSpec};
use crate::migrate::toml::{Toml, quoted};
use crate::migrate::{NoteKind, Notes};
use crate::problem::Origin;
use crate::wire::{GepDuration, GoDuration};
use crate::yaml::Tree;

/// `[edge] labels`: what stands for the labels of nodes.
pub(super) fn labels(model: &Model, toml: &mut Toml, notes: &mut Notes) {
    let mut labels: BTreeMap<&str, &str> = BTreeMap::new();
    let mut first: Option<(&Origin, &str)> = None;
    let peers = model.peers.iter().filter(|entry| entry.object.is_some());
    let peers = peers.map(|entry| (&entry.spec.node_selectors, entry.at("spec.nodeSelectors"), &entry.subject));
    let bgp = model.bgp.iter().filter(|entry| entry.object.is_some());
    let bgp = bgp.map(|entry| (&entry.spec.node_selectors, entry.at("spec.nodeSelectors"), &entry.subject));
    let l2 = model.l2.iter().filter(|entry| entry.object.is_some());
    let l2 = l2.map(|entry| (&entry.spec.node_selectors, entry.at("spec.nodeSelectors"), &entry.subject));
    for (selectors, origin, subject) in peers.chain(bgp).chain(l2) {
        for selector in selectors {
            first.get_or_insert((origin, subject));
            for (key, value) in &selector.match_labels {
                labels.entry(key).or_insert(value);
            }
        }
    }
    let Some((origin, subject)) = first else { return };
    if !labels.is_empty() {
        toml.begin("[edge]");
        let members: Vec<String> =
            labels.iter().map(|(key, value)| format!("{} = {}", quoted(key), quoted(value))).collect();
        toml.raw("labels", format!("{{ {} }}", members.join(", ")));
    }
    let message = "spec.nodeSelectors: an edge is no node; nodeSelectors are matched with [edge] labels of its \
        edge.toml, so give each edge those of the nodes that it stands for";
    notes.add(NoteKind::ToDo, Some(origin), subject, message);
}

/// Returns the objects of MetalLB that stay: what edge.toml cannot say, Edge reads from them.
pub(super) fn write(model: &Model, toml: &mut Toml, notes: &mut Notes) -> Vec<Tree> {
    let mut kept = Vec::new();
    bgp(model, toml, &mut kept, notes);
    if model.bgp.is_empty()
        && let Some(peer) = model.peers.first()
    {
        let message = "there is no BGPAdvertisement, so MetalLB announces nothing to its peers; Edge does the same";
        notes.add(NoteKind::Differs, Some(&peer.origin), &peer.subject, message);
    }
    l2::write(model, toml, &mut kept, notes);
    kept
}

fn bgp(model: &Model, toml: &mut Toml, kept: &mut Vec<Tree>, notes: &mut Notes) {
    let Some(first) = model.peers.first() else { return };
    toml.begin("[bgp]");
    toml.raw("asn", first.spec.my_asn);
    let router = model.peers.iter().find_map(|peer| Some((peer, peer.spec.router_id.as_deref()?)));
    if let Some((peer, router)) = router {
        toml.text("router_id", router);
        let message = "routerID: it must differ between edges; give each its own in its edge.toml";
        notes.add(NoteKind::ToDo, Some(peer.at("spec.routerID")), &peer.subject, message);
        for other in &model.peers {
            if other.spec.router_id.as_deref().is_some_and(|id| id != router) {
                let message = format!("routerID: an edge has one for all its peers, which is {router:?}");
                notes.add(NoteKind::NoEquivalent, Some(other.at("spec.routerID")), &other.subject, message);
            }
        }
    }
    for entry in &model.peers {
        about_vrf(entry, notes);
        match entry.object.clone().filter(|_| !entry.spec.node_selectors.is_empty()) {
            Some(object) => kept.push(peer_object(entry, object, notes)),
            None => peer(model, entry, first.spec.my_asn, toml, notes),
        }
    }
    for entry in &model.bgp {
        let has_selectors = !entry.spec.node_selectors.is_empty() || !entry.spec.service_selectors.is_empty();
        match entry.object.clone().filter(|_| has_selectors) {
            Some(object) => kept.extend(advertisement_object(model, entry, object, notes)),
            None => advertisement(model, entry, toml, notes),
        }
    }
    // A kept object refers to these by name.
    let profiles = model.profiles.values().filter(|profile| {
        let is_meant = |peer: &&Entry<BgpPeerSpec>| peer.spec.bfd_profile.as_deref() == Some(profile.name.as_str());
        model.peers.iter().filter(|peer| !peer.spec.node_selectors.is_empty()).any(|peer| is_meant(&peer))
    });
    kept.extend(profiles.filter_map(|profile| profile.object.clone()));
}

/// An advertisement that stays an object; a `[[pool]]` has no labels, and names of communities are told where they are.
fn advertisement_object(
    model: &Model,
    entry: &Entry<BgpAdvertisementSpec>,
    mut object: Tree,
    notes: &mut Notes,
) -> Option<Tree> {
    let at = (&entry.origin, entry.subject.as_str());
    let pools = selected(model, &entry.spec.ip_address_pools, &entry.spec.ip_address_pool_selectors, at, notes);
    if pools.is_empty() && !(entry.spec.ip_address_pools.is_empty() && entry.spec.ip_address_pool_selectors.is_empty())
    {
        // Without any it would be about all of them.
        return None;
    }
    if let Some(spec) = object.member_mut("spec") {
        if spec.take("ipAddressPoolSelectors").is_some() {
            spec.put("ipAddressPools", Tree::texts(&pools));
        }
        if !entry.spec.communities.is_empty() {
            let names = entry.spec.communities.iter();
            let texts = names.map(|name| model.communities.get(name).map_or(name.as_str(), String::as_str));
            spec.put("communities", Tree::texts(texts));
        }
    }
    Some(object)
}

/// A peer that stays an object, without its password.
fn peer_object(entry: &Entry<BgpPeerSpec>, mut object: Tree, notes: &mut Notes) -> Tree {
    object.put("apiVersion", "metallb.io/v1beta2");
    if let Some(spec) = object.member_mut("spec") {
        spec.take("vrf");
    }
    if entry.spec.password.is_some()
        && let Some(spec) = object.member_mut("spec")
    {
        let name = format!("{}-password", entry.name);
        spec.take("password");
        spec.put("passwordSecret", Tree::map([("name", name.as_str().into())]));
        let message = format!(
            "write spec.password into the member password of a Secret {name} of type kubernetes.io/basic-auth in the \
             namespace of the peer; it is not copied"
        );
        notes.add(NoteKind::ToDo, Some(entry.at("spec.password")), &entry.subject, message);
    }
    object
}

/// Only forms before the objects get here with selectors.
fn about_nodes<T>(entry: &Entry<T>, what: &str, notes: &mut Notes) {
    let message =
        format!("node-selectors: {what} is for every edge whose edge.toml has it; leave it out of those of the others");
    notes.add(NoteKind::NoEquivalent, Some(entry.at("spec.nodeSelectors")), &entry.subject, message);
}

fn peer(model: &Model, entry: &Entry<BgpPeerSpec>, asn: u32, toml: &mut Toml, notes: &mut Notes) {
    let spec = &entry.spec;
    toml.begin("[[bgp.peer]]");
    toml.text("name", &entry.name);
    match spec.interface.as_deref().filter(|name| !name.is_empty()) {
        Some(interface) => toml.text("interface", interface),
        None => toml.text("address", &spec.peer_address),
    }
    match spec.dynamic_asn.as_deref() {
        Some(word) => toml.text("asn", word),
        None => toml.raw("asn", spec.peer_asn),
    }
    if let Some(own) = spec.local_asn.or(Some(spec.my_asn).filter(|own| *own != asn)) {
        toml.raw("local_asn", own);
    }
    if spec.peer_port != 179 {
        toml.raw("port", spec.peer_port);
    }
    if let Some(source) = &spec.source_address {
        toml.text("source", source);
    }
    for (key, field, value) in [
        ("hold_time", "holdTime", &spec.hold_time),
        ("keepalive", "keepaliveTime", &spec.keepalive_time),
        ("connect_retry", "connectTime", &spec.connect_time),
    ] {
        let Some(text) = value else { continue };
        match GoDuration::parse(text) {
            Some(duration) => toml.text(key, &GepDuration(duration.0).to_string()),
            None => {
                let message = format!("spec.{field}: {text:?} is no duration");
                notes.add(NoteKind::Fault, Some(&entry.origin), &entry.subject, message);
            }
        }
    }
    if spec.ebgp_multi_hop {
        // As far as MetalLB's engine lets it go.
        toml.raw("multihop", 255);
    }
    if spec.enable_graceful_restart {
        // FRR's default, which MetalLB does not change.
        toml.text("graceful_restart", "120s");
    }
    if spec.dual_stack_address_family {
        toml.texts("families", ["ipv4", "ipv6"]);
    }
    let secret = spec.password_secret.as_ref().filter(|secret| !secret.name.is_empty());
    if spec.password.is_some() || secret.is_some() {
        let path = format!("secrets/{}.password", entry.name);
        toml.text("password_file", &path);
        let (at, from) = match secret {
            Some(secret) => {
                let namespace = secret.namespace.as_deref().unwrap_or("metallb-system");
                ("spec.passwordSecret", format!("the member password of Secret {namespace}/{}", secret.name))
            }
            None => ("spec.password", "spec.password".to_owned()),
        };
        let message = format!("write {from} into the first line of {path}, mode 0600; it is not copied");
        notes.add(NoteKind::ToDo, Some(entry.at(at)), &entry.subject, message);
    }
    if let Some(name) = spec.bfd_profile.as_deref().filter(|name| !name.is_empty()) {
        match model.profiles.get(name) {
            Some(profile) => toml.raw("bfd", bfd(profile, notes)),
            None => {
                let message = format!("spec.bfdProfile: BFDProfile {name} is in none of the files");
                notes.add(NoteKind::Fault, Some(entry.at("spec.bfdProfile")), &entry.subject, message);
            }
        }
    }
    if !spec.node_selectors.is_empty() {
        about_nodes(entry, "a peer", notes);
    }
}

fn about_vrf(entry: &Entry<BgpPeerSpec>, notes: &mut Notes) {
    if entry.spec.vrf.as_deref().is_some_and(|vrf| !vrf.is_empty()) {
        let message = "spec.vrf is left out: Edge speaks to peers from where edged runs; start it inside of the VRF (ip vrf exec)";
        notes.add(NoteKind::NoEquivalent, Some(entry.at("spec.vrf")), &entry.subject, message);
    }
}

/// An inline table with what differs from the defaults, which are the same here and there.
fn bfd(profile: &Entry<BfdProfileSpec>, notes: &mut Notes) -> String {
    let spec = &profile.spec;
    let mut members = Vec::new();
    for (key, value) in [("transmit", spec.transmit_interval), ("receive", spec.receive_interval)] {
        if let Some(milliseconds) = value {
            members.push(format!("{key} = {}", quoted(&format!("{milliseconds}ms"))));
        }
    }
    if let Some(multiplier) = spec.detect_multiplier {
        members.push(format!("multiplier = {multiplier}"));
    }
    if spec.passive_mode == Some(true) {
        members.push("passive = true".to_owned());
    }
    if let Some(ttl) = spec.minimum_ttl {
        members.push(format!("minimum_ttl = {ttl}"));
    }
    if spec.echo_mode == Some(true) || spec.echo_interval.is_some() {
        let message = "echoMode, echoInterval: Edge's BFD has no echo function; its control packets tell as soon as the intervals say";
        notes.add(NoteKind::NoEquivalent, Some(&profile.origin), &profile.subject, message);
    }
    if members.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", members.join(", ")) }
}

fn advertisement(model: &Model, entry: &Entry<BgpAdvertisementSpec>, toml: &mut Toml, notes: &mut Notes) {
    let spec = &entry.spec;
    let at = (&entry.origin, entry.subject.as_str());
    let pools = selected(model, &spec.ip_address_pools, &spec.ip_address_pool_selectors, at, notes);
    if pools.is_empty() && !(spec.ip_address_pools.is_empty() && spec.ip_address_pool_selectors.is_empty()) {
        // It is about pools that are not there; without any it would be about all.
        return;
    }
    toml.begin("[[bgp.advertisement]]");
    toml.text("name", &model.advertisement_name(entry));
    if !pools.is_empty() {
        toml.texts("pools", &pools);
    }
    if !spec.peers.is_empty() {
        toml.texts("peers", &spec.peers);
        for name in spec.peers.iter().filter(|name| !model.peers.iter().any(|peer| peer.name == **name)) {
            let message = format!("spec.peers: BGPPeer {name} is in none of the files");
            notes.add(NoteKind::Fault, Some(&entry.origin), &entry.subject, message);
        }
    }
    let communities: Vec<&str> =
        spec.communities.iter().map(|name| model.communities.get(name).map_or(name.as_str(), String::as_str)).collect();
    for name in communities.iter().filter(|text| !text.contains(':')) {
        let message = format!("spec.communities: no Community of the files has the alias {name:?}");
        notes.add(NoteKind::Fault, Some(entry.at("spec.communities")), &entry.subject, message);
    }
    let communities: Vec<&str> = communities.into_iter().filter(|text| text.contains(':')).collect();
    if !communities.is_empty() {
        toml.texts("communities", &communities);
    }
    if let Some(preference) = spec.local_pref {
        toml.raw("local_pref", preference);
    }
    if spec.aggregation_length != 32 {
        toml.raw("aggregation_length", spec.aggregation_length);
    }
    if spec.aggregation_length_v6 != 128 {
        toml.raw("aggregation_length_v6", spec.aggregation_length_v6);
    }
}
