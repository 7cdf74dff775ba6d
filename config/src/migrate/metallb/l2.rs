//! `[[l2.group]]`: the interfaces on which addresses are told by ARP and NDP.

use super::{Entry, Model, selected};
use crate::metallb::L2AdvertisementSpec;
use crate::migrate::toml::Toml;
use crate::migrate::{NoteKind, Notes};
use crate::yaml::Tree;

/// Advertisements with the same interfaces are one group.
struct Group<'m> {
    interfaces: &'m [String],
    members: Vec<(&'m Entry<L2AdvertisementSpec>, Vec<String>)>,
}

pub(super) fn write(model: &Model, toml: &mut Toml, kept: &mut Vec<Tree>, notes: &mut Notes) {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for entry in &model.l2 {
        let spec = &entry.spec;
        let at = (&entry.origin, entry.subject.as_str());
        let pools = selected(model, &spec.ip_address_pools, &spec.ip_address_pool_selectors, at, notes);
        if pools.is_empty() && !is_for_all(spec) {
            continue;
        }
        let known = groups.iter_mut().find(|group| group.interfaces == spec.interfaces);
        match known {
            Some(group) => group.members.push((entry, pools)),
            None => {
                if spec.interfaces.is_empty() {
                    let message = "spec.interfaces: MetalLB answers on every interface where none is named, Edge on \
                        those it is told; write the one on the network of these addresses in place of eth0";
                    notes.add(NoteKind::ToDo, Some(&entry.origin), &entry.subject, message);
                }
                groups.push(Group { interfaces: &spec.interfaces, members: vec![(entry, pools)] });
            }
        }
    }
    for (index, group) in groups.iter().enumerate() {
        let number = index + 1;
        toml.begin("[[l2.group]]");
        toml.text("name", &format!("group-{number}"));
        let (interface, also) = group.interfaces.split_first().map_or(("eth0", &[][..]), |(first, also)| (first, also));
        toml.text("interface", interface);
        if !also.is_empty() {
            toml.texts("also", also);
        }
        toml.raw("router", number);
        // Selectors are no part of edge.toml: such advertisements stay objects, and those of their group with them.
        if group.members.iter().any(|(entry, _)| has_selectors(entry)) {
            toml.texts("advertisements", group.members.iter().map(|(entry, _)| entry.name.as_str()));
            kept.extend(group.members.iter().map(|(entry, pools)| object(entry, pools)));
        } else if !group.members.iter().any(|(entry, _)| is_for_all(&entry.spec)) {
            let mut pools: Vec<&str> = Vec::new();
            for pool in group.members.iter().flat_map(|(_, pools)| pools) {
                if !pools.contains(&pool.as_str()) {
                    pools.push(pool);
                }
            }
            toml.texts("pools", pools);
        }
    }
}

fn is_for_all(spec: &L2AdvertisementSpec) -> bool {
    spec.ip_address_pools.is_empty() && spec.ip_address_pool_selectors.is_empty()
}

fn has_selectors(entry: &Entry<L2AdvertisementSpec>) -> bool {
    let spec = &entry.spec;
    !spec.node_selectors.is_empty() || !spec.service_selectors.is_empty() || !spec.preferred_node_selectors.is_empty()
}

/// The object without what its group says; selectors of pools become their names, since a `[[pool]]` has no labels.
fn object(entry: &Entry<L2AdvertisementSpec>, pools: &[String]) -> Tree {
    let mut object = entry.object.clone().unwrap_or_else(|| {
        Tree::map([
            ("apiVersion", "metallb.io/v1beta1".into()),
            ("kind", "L2Advertisement".into()),
            ("metadata", Tree::map([("name", entry.name.as_str().into()), ("namespace", "metallb-system".into())])),
        ])
    });
    if object.member("spec").is_none() {
        object.put("spec", Tree::map([]));
    }
    if let Some(spec) = object.member_mut("spec") {
        for field in ["interfaces", "ipAddressPoolSelectors"] {
            spec.take(field);
        }
        if !pools.is_empty() {
            spec.put("ipAddressPools", Tree::texts(pools));
        }
    }
    object
}
