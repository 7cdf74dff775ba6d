//! Which virtual router has which VIP, and with what priority this edge is for it.
//!
//! All edges must agree which VIPs belong to a virtual router, since the one that leads has all of them: so this follows
//! from what all edges have alike, and never from the labels or the name of this edge. These decide the priority, and
//! whether it takes part.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::super::context::{Context, Fault, fingerprint};
use super::{Outcome, Reports, Subject, are_there, is_for_this_edge, list, objects};
use crate::announce::L2Group;
use crate::inputs::Object;
use crate::metallb::L2AdvertisementSpec;
use crate::names::Kind;
use crate::problem::Severity;
use crate::settings::{L2GroupSettings, L2Settings};

/// What is taken off the priority at most where several edges share the VIPs.
const SPREAD: u64 = 20;

pub(super) fn plan(
    context: &Context<'_>,
    l2: &L2Settings,
    labels: &BTreeMap<String, String>,
    subjects: &[Subject<'_, '_>],
    out: &mut Reports,
) -> Outcome<Vec<L2Group>> {
    let choice = Choice {
        l2,
        labels,
        objects: if l2.metallb {
            context.inputs.l2_advertisements.values().map(|object| &**object).collect()
        } else {
            Vec::new()
        },
        is_selected_by_objects: l2.metallb && are_there(context, Kind::L2Advertisement),
    };
    choice.report(context, out);
    let mut silent = BTreeMap::new();
    let mut members: BTreeMap<(usize, u8), Members> = BTreeMap::new();
    for subject in subjects {
        match choice.group(subject) {
            Ok(Place { group, also }) => {
                let settings = &l2.groups[group];
                let router = router_of(settings, subject.address);
                let place = members.entry((group, router)).or_default();
                place.vips.push(subject.address);
                place.also.extend(also.into_iter().map(str::to_owned));
            }
            Err(why) => drop(silent.insert(subject.address, why)),
        }
    }
    let name = context.inputs.settings.edge.name.as_deref().unwrap_or_default();
    for group in
        l2.groups.iter().filter(|group| !group.edges.is_empty() && !group.edges.iter().any(|edge| edge == name))
    {
        let message = format!("l2 {:?}: this edge, {name}, is not among its edges", group.name);
        context.problem_in_settings(Severity::Warning, message);
    }
    let mut groups: Vec<L2Group> = members
        .into_iter()
        .filter_map(|((place, router), Members { mut vips, mut also })| {
            let group = l2.groups.get(place)?;
            vips.sort();
            also.extend(group.also.iter().cloned());
            also.remove(&group.interface);
            let name_of = if group.spread > 1 { format!("{}/{router}", group.name) } else { group.name.clone() };
            Some(L2Group {
                name: name_of.into(),
                interface: group.interface.clone(),
                router,
                priority: priority(group, router, name, choice.preference(group)),
                interval: group.interval,
                preempt: group.preempt,
                preempt_delay: group.preempt_delay,
                unicast: group.unicast.clone(),
                key: group.key.clone(),
                virtual_mac: group.virtual_mac,
                vips,
                also: also.into_iter().collect(),
                watch: group.watch.clone(),
            })
        })
        .collect();
    groups.sort_by(|a, b| (&a.interface, a.router).cmp(&(&b.interface, b.router)));
    Outcome { plan: groups, silent }
}

#[derive(Default)]
struct Members {
    vips: Vec<IpAddr>,
    also: BTreeSet<String>,
}

/// A group by its place in the settings, and further interfaces.
struct Place<'a> {
    group: usize,
    also: Vec<&'a str>,
}

struct Choice<'a> {
    l2: &'a L2Settings,
    labels: &'a BTreeMap<String, String>,
    /// In the order of their names.
    objects: Vec<&'a Object<L2AdvertisementSpec>>,
    is_selected_by_objects: bool,
}

impl<'a> Choice<'a> {
    fn report(&self, context: &Context<'_>, out: &mut Reports) {
        for object in &self.objects {
            let (meta, spec) = (&object.meta, &object.spec);
            let own = self.own_group(&meta.key.name);
            if own.is_none() && !spec.preferred_node_selectors.is_empty() {
                let message = format!("spec.preferredNodeSelectors: {}", needs_a_group(&meta.key.name));
                context.problem(Severity::Inert, Kind::L2Advertisement, meta, message);
            }
            if own.is_none() && !spec.node_selectors.is_empty() {
                let message = format!("nodeSelectors: {}", needs_a_group(&meta.key.name));
                let fault = Fault::new("NoVirtualRouter", message);
                objects::accepted(context, Kind::L2Advertisement, meta, Some(&fault), out);
            } else if is_for_this_edge(&spec.node_selectors, self.labels) {
                objects::accepted(context, Kind::L2Advertisement, meta, None, out);
            } else {
                objects::elsewhere(Kind::L2Advertisement, meta, out);
            }
        }
        for group in &self.l2.groups {
            for name in &group.advertisements {
                let is_known = self.objects.iter().any(|object| *object.meta.key.name == **name);
                let is_broken = || {
                    let mut unusable = context.inputs.unusable.keys();
                    unusable.any(|object| object.kind == Kind::L2Advertisement && *object.key.name == **name)
                };
                if !is_known && !is_broken() {
                    let message = format!("l2 {:?}: there is no L2Advertisement {name}", group.name);
                    context.problem_in_settings(Severity::Warning, message);
                }
            }
        }
    }

    fn own_group(&self, advertisement: &str) -> Option<usize> {
        self.l2.groups.iter().position(|group| group.advertisements.iter().any(|name| name == advertisement))
    }

    fn group(&self, subject: &Subject<'_, '_>) -> Result<Place<'a>, String> {
        let pool = subject.pool.map(|pool| pool.name);
        let named = self.l2.groups.iter().position(|group| group.vips.names(subject.address, pool));
        if let Some(group) = named {
            return Ok(Place { group, also: Vec::new() });
        }
        let rest = || self.l2.groups.iter().enumerate().filter(|(_, group)| group.is_for_the_rest());
        if !self.is_selected_by_objects {
            let (group, _) = rest().next().ok_or("no group of virtual routers is for it")?;
            return Ok(Place { group, also: Vec::new() });
        }
        let matching: Vec<&'a Object<L2AdvertisementSpec>> = self
            .objects
            .iter()
            .copied()
            .filter(|object| {
                subject.is_of_pools(&object.spec.ip_address_pools, &object.spec.ip_address_pool_selectors)
                    && subject.is_of_services(&object.spec.service_selectors)
            })
            .collect();
        if matching.is_empty() {
            return Err("no L2Advertisement selects it".to_owned());
        }
        let owned = matching.iter().filter_map(|object| Some((self.own_group(&object.meta.key.name)?, *object)));
        if let Some(group) = owned.clone().map(|(group, _)| group).min() {
            let objects: Vec<_> = owned.filter(|(place, _)| *place == group).map(|(_, object)| object).collect();
            // Who takes part has all VIPs of the group, whichever object they are of.
            let is_elsewhere = |object: &&&'a Object<L2AdvertisementSpec>| {
                self.own_group(&object.meta.key.name) == Some(group)
                    && !is_for_this_edge(&object.spec.node_selectors, self.labels)
            };
            if let Some(object) = self.objects.iter().find(is_elsewhere) {
                return Err(format!("L2Advertisement {} is not for this edge", object.meta.key.name));
            }
            return self.on_interfaces(std::iter::once(group), &objects);
        }
        // Of one that only some edges obey, the leader of a router that all of them share may know nothing.
        let is_free = |object: &&Object<L2AdvertisementSpec>| object.spec.node_selectors.is_empty();
        let (free, bound): (Vec<_>, Vec<_>) = matching.into_iter().partition(is_free);
        match (&free[..], &bound[..]) {
            ([], [first, ..]) => {
                let name = &first.meta.key.name;
                Err(format!("L2Advertisement {name} has nodeSelectors: {}", needs_a_group(name)))
            }
            _ => self.on_interfaces(rest().map(|(group, _)| group), &free),
        }
    }

    /// The first group on an interface that the objects name; all interfaces where one of them names none.
    fn on_interfaces(
        &self,
        mut groups: impl Iterator<Item = usize>,
        objects: &[&'a Object<L2AdvertisementSpec>],
    ) -> Result<Place<'a>, String> {
        if objects.iter().any(|object| object.spec.interfaces.is_empty()) {
            let group = groups.next().ok_or("no group of virtual routers is for it")?;
            return Ok(Place { group, also: Vec::new() });
        }
        let also: Vec<&'a str> =
            objects.iter().flat_map(|object| &object.spec.interfaces).map(String::as_str).collect();
        let is_there = |group: &usize| also.contains(&self.l2.groups[*group].interface.as_str());
        match groups.find(is_there) {
            Some(group) => Ok(Place { group, also }),
            None => {
                let names = list(objects.iter().map(|object| &*object.meta.key.name));
                let interfaces = list(also);
                Err(format!("L2Advertisement {names} is for {interfaces}, where no group of virtual routers for it is"))
            }
        }
    }

    /// MetalLB's preferredNodeSelectors: the sum of the weights that hold here.
    fn preference(&self, group: &L2GroupSettings) -> i32 {
        let objects = self
            .objects
            .iter()
            .filter(|object| group.advertisements.iter().any(|name| **name == *object.meta.key.name));
        let preferred = objects.flat_map(|object| &object.spec.preferred_node_selectors);
        let weights = preferred.filter(|one| one.preference.matches(self.labels)).map(|one| one.weight);
        weights.fold(0, i32::saturating_add)
    }
}

fn needs_a_group(name: &str) -> String {
    format!("it needs virtual routers of its own, a [[l2.group]] with advertisements = [{name:?}]")
}

/// Highest random weight: a VIP changes its router only for one that is new, or when its own is gone.
fn router_of(group: &L2GroupSettings, vip: IpAddr) -> u8 {
    let octets = match vip {
        IpAddr::V4(vip) => vip.octets().to_vec(),
        IpAddr::V6(vip) => vip.octets().to_vec(),
    };
    let routers = group.router..=group.router.saturating_add(group.spread.saturating_sub(1));
    let weight = |router: &u8| mix(fingerprint([&octets[..], &[*router]]));
    routers.max_by_key(weight).unwrap_or(group.router)
}

/// Each edge is best for some of the routers: by its place in the list of edges, in turn, or by chance.
fn priority(group: &L2GroupSettings, router: u8, edge: &str, preference: i32) -> u8 {
    let edges = u64::try_from(group.edges.len()).unwrap_or(u64::MAX);
    let place = group.edges.iter().position(|name| name == edge).and_then(|place| u64::try_from(place).ok());
    let behind = match place {
        Some(place) => {
            let turn = u64::from(router.saturating_sub(group.router)) % edges;
            let rank = (place + edges - turn) % edges;
            (rank * (SPREAD / edges).max(1)).min(SPREAD - 1)
        }
        None if group.spread > 1 => mix(fingerprint([edge.as_bytes(), &[router]])) % SPREAD,
        None => 0,
    };
    // More than what chance may take off.
    let ahead = if preference > 0 { SPREAD + u64::from(preference.unsigned_abs().min(100)) / 3 } else { 0 };
    let priority = u64::from(group.priority).saturating_sub(behind).max(1) + ahead;
    u8::try_from(priority.min(254)).unwrap_or(254)
}

/// Spreads the bits of a number that differs in few of them.
fn mix(mut number: u64) -> u64 {
    number = (number ^ number >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    number = (number ^ number >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number ^ number >> 32
}

#[cfg(test)]
mod tests;
