//! MetalLB's kinds. Its webhooks look at all objects together; what takes more than one object is judged in compile.

use super::{Faults, gateway};
use crate::community;
use crate::metallb::{BfdProfileSpec, BgpAdvertisementSpec, BgpPeerSpec, CommunitySpec, L2AdvertisementSpec};
use crate::yaml::Quoted;

/// `field: what is wrong` at its place.
fn check<T>(faults: &mut Faults, outcome: Result<T, String>) {
    let Err(message) = outcome else { return };
    match message.split_once(": ") {
        Some((field, why)) if field.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            faults.error(format_args!("spec.{field}"), why);
        }
        _ => faults.error("spec", message),
    }
}

pub fn bgp_peer(spec: &BgpPeerSpec, faults: &mut Faults) {
    check(faults, spec.own_asn());
    check(faults, spec.shown_asn());
    check(faults, spec.asn());
    check(faults, spec.address());
    check(faults, spec.source());
    check(faults, spec.router_id());
    check(faults, spec.timers());
    check(faults, spec.connect_retry());
    faults.port("spec.peerPort", Some(spec.peer_port));
    if spec.password.is_some() && spec.password_secret().is_some() {
        faults.error("spec", "has both password and passwordSecret, expected one of them");
    }
    if spec.vrf.as_deref().is_some_and(|vrf| !vrf.is_empty()) {
        faults.part("spec.vrf", "routing tables of a VRF are not supported, so nobody speaks to this peer");
    }
    selectors(faults, "spec.nodeSelectors", &spec.node_selectors);
}

pub fn bgp_advertisement(spec: &BgpAdvertisementSpec, faults: &mut Faults) {
    for (field, length, most) in
        [("aggregationLength", spec.aggregation_length, 32), ("aggregationLengthV6", spec.aggregation_length_v6, 128)]
    {
        if !(1..=most).contains(&length) {
            faults.error(format_args!("spec.{field}"), format!("{length} is out of range, expected 1 to {most}"));
        }
    }
    let is_aggregated = (spec.aggregation_length, spec.aggregation_length_v6) != (32, 128);
    if is_aggregated && !spec.service_selectors.is_empty() {
        faults.error("spec.serviceSelectors", "must not be there beside an aggregation length");
    }
    faults.at_most("spec.communities", spec.communities.len(), 64);
    let mut seen = std::collections::BTreeSet::new();
    for (index, community) in spec.communities.iter().enumerate() {
        if !seen.insert(community) {
            faults.error(format_args!("spec.communities[{index}]"), format!("{} is there twice", Quoted(community)));
        }
    }
    selectors(faults, "spec.ipAddressPoolSelectors", &spec.ip_address_pool_selectors);
    selectors(faults, "spec.nodeSelectors", &spec.node_selectors);
    selectors(faults, "spec.serviceSelectors", &spec.service_selectors);
}

pub fn l2_advertisement(spec: &L2AdvertisementSpec, faults: &mut Faults) {
    selectors(faults, "spec.ipAddressPoolSelectors", &spec.ip_address_pool_selectors);
    selectors(faults, "spec.nodeSelectors", &spec.node_selectors);
    selectors(faults, "spec.serviceSelectors", &spec.service_selectors);
    for (index, preferred) in spec.preferred_node_selectors.iter().enumerate() {
        let path = format!("spec.preferredNodeSelectors[{index}]");
        if !(1..=100).contains(&preferred.weight) {
            let message = format!("{} is out of range, expected 1 to 100", preferred.weight);
            faults.error(format_args!("{path}.weight"), message);
        }
        gateway::selector(faults, &format!("{path}.preference"), Some(&preferred.preference));
    }
}

pub fn community(spec: &CommunitySpec, faults: &mut Faults) {
    for (index, alias) in spec.communities.iter().enumerate() {
        let path = format!("spec.communities[{index}]");
        if alias.name.is_empty() {
            faults.error(format_args!("{path}.name"), "is empty");
        }
        if community::Community::parse(&alias.value).is_none() {
            let message = format!("{} is no community, expected {}", Quoted(&alias.value), community::EXPECTED);
            faults.error(format_args!("{path}.value"), message);
        }
        if spec.communities[..index].iter().any(|earlier| earlier.name == alias.name) {
            faults.error(format_args!("{path}.name"), format!("{} is there twice", Quoted(&alias.name)));
        }
    }
}

pub fn bfd_profile(spec: &BfdProfileSpec, faults: &mut Faults) {
    check(faults, spec.timers());
}

fn selectors(faults: &mut Faults, path: &str, selectors: &[crate::gateway::LabelSelector]) {
    for (index, selector) in selectors.iter().enumerate() {
        gateway::selector(faults, &format!("{path}[{index}]"), Some(selector));
    }
}
