//! MetalLB's older forms: AddressPool, BGPPeer v1beta1, and the ConfigMap of versions before 0.13. They become what the
//! present kinds would say.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Entry, Model, Pool, entry};
use crate::gateway::LabelSelector;
use crate::metallb::{
    BfdProfileSpec, BgpAdvertisementSpec, BgpPeerSpec, IpAddressPoolSpec, L2AdvertisementSpec, PresentText,
};
use crate::migrate::read::Found;
use crate::migrate::{NoteKind, Notes};
use crate::problem::Origin;
use crate::yaml::{self, Mark, Node};

fn yes() -> bool {
    true
}

fn length() -> u8 {
    32
}

fn length_v6() -> u8 {
    128
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AddressPoolSpec {
    #[serde(default)]
    protocol: String,
    addresses: Vec<String>,
    #[serde(default = "yes")]
    auto_assign: bool,
    #[serde(default, rename = "avoidBuggyIPs")]
    avoid_buggy_ips: bool,
    #[serde(default)]
    bgp_advertisements: Vec<OldAdvertisement>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OldAdvertisement {
    #[serde(default = "length", alias = "aggregation-length")]
    aggregation_length: u8,
    #[serde(default = "length_v6", alias = "aggregation-length-v6", rename = "aggregationLengthV6")]
    aggregation_length_v6: u8,
    #[serde(default, alias = "localpref")]
    local_pref: Option<u32>,
    #[serde(default)]
    communities: Vec<String>,
}

/// A pool that says itself how it is announced.
struct OldPool {
    name: String,
    subject: String,
    origin: Origin,
    spec: AddressPoolSpec,
}

pub(super) fn address_pool(object: &Found<'_>, model: &mut Model, notes: &mut Notes) {
    if let Some(spec) = object.spec(notes) {
        let pool = OldPool { name: object.name.clone(), subject: object.subject(), origin: object.origin(), spec };
        old_pool(pool, model, notes);
    }
}

fn old_pool(pool: OldPool, model: &mut Model, notes: &mut Notes) {
    let OldPool { name, subject, origin, spec } = pool;
    fn like<T>(name: &str, subject: &str, origin: &Origin, spec: T) -> Entry<T> {
        Entry {
            name: name.to_owned(),
            subject: subject.to_owned(),
            origin: origin.clone(),
            places: BTreeMap::new(),
            object: None,
            spec,
        }
    }
    let pools = vec![name.clone()];
    match spec.protocol.as_str() {
        "layer2" => {
            let spec = L2AdvertisementSpec { ip_address_pools: pools, ..L2AdvertisementSpec::default() };
            model.l2.push(like(&name, &subject, &origin, spec));
        }
        "bgp" => {
            let mut all = spec.bgp_advertisements;
            if all.is_empty() {
                all.push(OldAdvertisement {
                    aggregation_length: 32,
                    aggregation_length_v6: 128,
                    local_pref: None,
                    communities: Vec::new(),
                });
            }
            for one in all {
                let spec = BgpAdvertisementSpec {
                    aggregation_length: one.aggregation_length,
                    aggregation_length_v6: one.aggregation_length_v6,
                    local_pref: one.local_pref,
                    communities: one.communities,
                    ip_address_pools: pools.clone(),
                    ip_address_pool_selectors: Vec::new(),
                    node_selectors: Vec::new(),
                    service_selectors: Vec::new(),
                    peers: Vec::new(),
                };
                model.bgp.push(like(&name, &subject, &origin, spec));
            }
        }
        other => {
            let message = format!("protocol {other:?} is not known, expected layer2 or bgp; the pool is not announced");
            notes.add(NoteKind::Fault, Some(&origin), &subject, message);
        }
    }
    let spec = IpAddressPoolSpec {
        addresses: spec.addresses,
        auto_assign: spec.auto_assign,
        avoid_buggy_ips: spec.avoid_buggy_ips,
        service_allocation: None,
    };
    let entry = like(&name, &subject, &origin, spec);
    model.pools.push(Pool { entry, labels: BTreeMap::new() });
}

/// A BGPPeer of either version.
pub(super) fn peer(object: &Found<'_>, notes: &mut Notes) -> Option<Entry<BgpPeerSpec>> {
    if !object.api_version.ends_with("/v1beta1") {
        return entry(object, notes);
    }
    let mut inner = Notes::default();
    let found = entry::<BgpPeerSpec>(object, &mut inner);
    for note in inner.0 {
        // The older shape of a selector; that there is one is told in any case.
        if !note.message.starts_with("spec.nodeSelectors") {
            notes.0.push(note);
        }
    }
    found
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct OldConfig {
    #[serde(default)]
    peers: Vec<OldPeer>,
    #[serde(default)]
    bgp_communities: BTreeMap<String, String>,
    #[serde(default)]
    address_pools: Vec<OldConfigPool>,
    #[serde(default)]
    bfd_profiles: Vec<OldProfile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct OldPeer {
    #[serde(default)]
    name: Option<String>,
    my_asn: u32,
    peer_asn: u32,
    peer_address: String,
    #[serde(default)]
    peer_port: Option<u16>,
    #[serde(default)]
    source_address: Option<String>,
    #[serde(default)]
    hold_time: Option<String>,
    #[serde(default)]
    keepalive_time: Option<String>,
    #[serde(default)]
    router_id: Option<String>,
    #[serde(default)]
    node_selectors: Option<Vec<OldSelector>>,
    #[serde(default)]
    password: Option<PresentText>,
    #[serde(default)]
    bfd_profile: Option<String>,
    #[serde(default)]
    ebgp_multihop: bool,
}

/// Only that it is there: an edge is no node.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct OldSelector {
    #[serde(default, rename = "match-labels")]
    _match_labels: BTreeMap<String, String>,
    #[serde(default, rename = "match-expressions")]
    _match_expressions: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct OldConfigPool {
    name: String,
    #[serde(default)]
    protocol: String,
    addresses: Vec<String>,
    #[serde(default = "yes")]
    auto_assign: bool,
    #[serde(default)]
    avoid_buggy_ips: bool,
    #[serde(default)]
    bgp_advertisements: Vec<OldAdvertisement>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct OldProfile {
    name: String,
    #[serde(default)]
    receive_interval: Option<u32>,
    #[serde(default)]
    transmit_interval: Option<u32>,
    #[serde(default)]
    detect_multiplier: Option<u32>,
    #[serde(default)]
    echo_interval: Option<u32>,
    #[serde(default)]
    echo_mode: Option<bool>,
    #[serde(default)]
    passive_mode: Option<bool>,
    #[serde(default)]
    minimum_ttl: Option<u32>,
}

/// Returns whether the ConfigMap is MetalLB's.
pub(super) fn config_map(object: &Found<'_>, model: &mut Model, notes: &mut Notes) -> bool {
    let Some(node) = object.at("data.config") else { return false };
    let Some(text) = node.as_str() else { return false };
    if !text.contains("address-pools") && !text.contains("peers") {
        return false;
    }
    let place = Inner::new(object, node);
    let subject = object.subject();
    let parsed = match yaml::parse(text) {
        Ok(Some(parsed)) => parsed,
        Ok(None) => return true,
        Err(fault) => {
            notes.add(NoteKind::Fault, Some(&place.origin(fault.mark)), &subject, fault.message);
            return true;
        }
    };
    let (config, unknown) = yaml::decode::<OldConfig>(&parsed, "", &[]);
    for field in unknown {
        let message = format!("{}: not known to this version of edgectl", field.path);
        notes.add(NoteKind::NoEquivalent, Some(&place.origin(field.mark)), &subject, message);
    }
    let config = match config {
        Ok(config) => config,
        Err(fault) => {
            notes.add(NoteKind::Fault, Some(&place.origin(fault.mark())), &subject, fault.to_string());
            return true;
        }
    };
    let origin_of = |path: String| place.origin(parsed.mark_at(&path));
    model.communities.extend(config.bgp_communities);
    for (index, pool) in config.address_pools.into_iter().enumerate() {
        let spec = AddressPoolSpec {
            protocol: pool.protocol,
            addresses: pool.addresses,
            auto_assign: pool.auto_assign,
            avoid_buggy_ips: pool.avoid_buggy_ips,
            bgp_advertisements: pool.bgp_advertisements,
        };
        let origin = origin_of(format!("address-pools[{index}]"));
        let pool = OldPool { subject: format!("pool {}", pool.name), name: pool.name, origin, spec };
        old_pool(pool, model, notes);
    }
    for (index, peer) in config.peers.into_iter().enumerate() {
        let path = format!("peers[{index}]");
        let origin = origin_of(path.clone());
        let mut places = BTreeMap::new();
        for (new, old) in [
            ("spec.nodeSelectors", "node-selectors"),
            ("spec.password", "password"),
            ("spec.myASN", "my-asn"),
            ("spec.routerID", "router-id"),
            ("spec.bfdProfile", "bfd-profile"),
        ] {
            places.insert(new, origin_of(format!("{path}.{old}")));
        }
        let name = peer.name.clone().unwrap_or_else(|| format!("peer-{}", index + 1));
        let subject = format!("peer {name}");
        model.peers.push(Entry { subject, name, origin, places, object: None, spec: modern(peer) });
    }
    for (index, profile) in config.bfd_profiles.into_iter().enumerate() {
        let spec = BfdProfileSpec {
            receive_interval: profile.receive_interval,
            transmit_interval: profile.transmit_interval,
            detect_multiplier: profile.detect_multiplier,
            echo_interval: profile.echo_interval,
            echo_mode: profile.echo_mode,
            passive_mode: profile.passive_mode,
            minimum_ttl: profile.minimum_ttl,
        };
        let origin = origin_of(format!("bfd-profiles[{index}]"));
        let subject = format!("bfd profile {}", profile.name);
        let entry = Entry { name: profile.name.clone(), subject, origin, places: BTreeMap::new(), object: None, spec };
        model.profiles.insert(profile.name, entry);
    }
    true
}

fn modern(peer: OldPeer) -> BgpPeerSpec {
    BgpPeerSpec {
        my_asn: peer.my_asn,
        peer_asn: peer.peer_asn,
        local_asn: None,
        dynamic_asn: None,
        peer_address: peer.peer_address,
        interface: None,
        peer_port: peer.peer_port.unwrap_or(179),
        source_address: peer.source_address,
        hold_time: peer.hold_time,
        keepalive_time: peer.keepalive_time,
        connect_time: None,
        router_id: peer.router_id,
        node_selectors: peer.node_selectors.iter().flatten().map(|_| LabelSelector::default()).collect(),
        password: peer.password,
        password_secret: None,
        bfd_profile: peer.bfd_profile.filter(|name| !name.is_empty()),
        enable_graceful_restart: false,
        ebgp_multi_hop: peer.ebgp_multihop,
        vrf: None,
        disable_mp: false,
        dual_stack_address_family: false,
    }
}

/// Places in a text that stands inside of another.
struct Inner<'f> {
    object: &'f Found<'f>,
    /// Line of the document on which the inner text begins, and by how much its lines are indented.
    first: u32,
    indent: u32,
}

impl<'f> Inner<'f> {
    fn new(object: &'f Found<'_>, node: &Node<'_>) -> Self {
        // A block scalar begins where its first line does, or at its header; anything else is on one line.
        let line = (node.mark.line as usize).saturating_sub(1);
        let rest: String =
            object.document.lines().nth(line).unwrap_or_default().chars().skip(node.mark.column as usize - 1).collect();
        let is_header = rest.starts_with(['|', '>']);
        let first = node.mark.line + u32::from(is_header);
        let content = object.document.lines().skip(line + 1).find(|line| !line.trim().is_empty()).unwrap_or_default();
        let indent = match is_header {
            true => content.len() - content.trim_start_matches(' ').len(),
            false => node.mark.column as usize - 1,
        };
        Self { object, first, indent: u32::try_from(indent).unwrap_or(0) }
    }

    fn origin(&self, mark: Mark) -> Origin {
        let line = self.first.saturating_add(mark.line).saturating_sub(1);
        self.object.place.origin(Mark { source: 0, line, column: mark.column.saturating_add(self.indent) })
    }
}
