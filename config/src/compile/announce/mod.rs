//! What is told to the network: [`Announce`] from `[bgp]`, `[l2]`, `[vips]` and MetalLB's objects.
//!
//! Flows in: the VIPs that are served, where each is from, and the labels of who has them. Flows out: peers, prefixes and
//! virtual routers, and a reason for every VIP that nothing announces. One peer, advertisement or group at fault costs
//! itself. Selection is MetalLB's: pools, their labels, labels of Services and Gateways, labels of this edge in the place
//! of a node's.
//! MetalLB's objects count only beside a section `[bgp]` or `[l2]`: a cluster in which MetalLB itself announces is not
//! taken over by reading it.

mod advertisements;
mod communities;
mod l2;
mod objects;
mod peers;
mod prefixes;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::context::Context;
use super::vips::{Given, Pool};
use crate::announce::Announce;
use crate::gateway::LabelSelector;
use crate::names::{Kind, ObjectRef};
use crate::report::ObjectReport;
use crate::settings::RequireEndpoints;
use crate::snapshot::Vip;

/// A VIP as advertisements see it.
struct Subject<'v, 'a> {
    address: IpAddr,
    /// `None` where `spec.addresses` was taken at its word.
    pool: Option<&'v Pool<'a>>,
    /// Of everybody who has it.
    labels: Vec<&'v BTreeMap<String, String>>,
}

impl Subject<'_, '_> {
    /// MetalLB: no names and no selectors mean every pool.
    fn is_of_pools(&self, names: &[String], selectors: &[LabelSelector]) -> bool {
        if names.is_empty() && selectors.is_empty() {
            return true;
        }
        let Some(pool) = self.pool else { return false };
        let none = BTreeMap::new();
        let labels = pool.labels.unwrap_or(&none);
        names.iter().any(|name| name == pool.name) || selectors.iter().any(|selector| selector.matches(labels))
    }

    /// MetalLB's serviceSelectors: one of them holds for somebody who has the address.
    fn is_of_services(&self, selectors: &[LabelSelector]) -> bool {
        let holds = |selector: &LabelSelector| self.labels.iter().any(|labels| selector.matches(labels));
        selectors.is_empty() || selectors.iter().any(holds)
    }
}

/// Where reports of objects go.
type Reports = Vec<(ObjectRef, ObjectReport)>;

/// What one way of announcing came to.
struct Outcome<T> {
    plan: T,
    /// VIPs that are not in it, with the reason.
    silent: BTreeMap<IpAddr, String>,
}

pub(super) fn plan(context: &Context<'_>, vips: &[Vip], given: &Given<'_>, out: &mut Reports) -> Announce {
    let settings = &context.inputs.settings;
    let labels = settings.edge.all_labels();
    objects::unobeyed(context, out);
    if settings.bgp.is_none() && settings.l2.is_none() {
        return Announce::default();
    }
    let mut never = BTreeMap::new();
    let mut subjects = Vec::with_capacity(vips.len());
    for vip in vips {
        if let Some(why) = unfit(vip.address) {
            never.insert(vip.address, why.to_owned());
            continue;
        }
        subjects.push(Subject {
            address: vip.address,
            pool: given.pool(vip.address),
            labels: vip.owners.iter().filter_map(|owner| given.labels(owner)).collect(),
        });
    }
    let bgp = settings.bgp.as_ref().map(|bgp| prefixes::plan(context, bgp, &labels, &subjects, out));
    let l2 = settings.l2.as_ref().map(|l2| l2::plan(context, l2, &labels, &subjects, out));

    let mut silent: Vec<(IpAddr, String)> = never.into_iter().collect();
    for subject in &subjects {
        let reasons = [
            bgp.as_ref().map(|bgp| bgp.silent.get(&subject.address).map(|why| format!("BGP: {why}"))),
            l2.as_ref().map(|l2| l2.silent.get(&subject.address).map(|why| format!("layer 2: {why}"))),
        ];
        let ways: Vec<Option<String>> = reasons.into_iter().flatten().collect();
        // Silent is who is on none of the ways.
        if ways.iter().all(Option::is_some) {
            silent.push((subject.address, ways.into_iter().flatten().collect::<Vec<_>>().join("; ")));
        }
    }
    silent.sort();
    Announce {
        bgp: bgp.and_then(|bgp| bgp.plan),
        l2: l2.map(|l2| l2.plan).unwrap_or_default(),
        hold_down: settings.vips.hold_down,
        need_endpoint: need_endpoint(settings.vips.require_endpoints, vips),
        silent,
    }
}

/// Addresses that mean nothing to others.
fn unfit(address: IpAddr) -> Option<&'static str> {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if address.is_loopback() {
        Some("a loopback address means nothing to others")
    } else if is_link_local {
        Some("a link-local address means nothing to others")
    } else {
        None
    }
}

fn need_endpoint(rule: RequireEndpoints, vips: &[Vip]) -> Vec<IpAddr> {
    let needs = |vip: &&Vip| match rule {
        RequireEndpoints::All => true,
        RequireEndpoints::None => false,
        RequireEndpoints::Services => vip.owners.iter().all(|owner| owner.kind == Kind::Service),
    };
    vips.iter().filter(needs).map(|vip| vip.address).collect()
}

/// MetalLB's nodeSelectors, with an edge in the place of a node.
fn is_for_this_edge(selectors: &[LabelSelector], labels: &BTreeMap<String, String>) -> bool {
    selectors.is_empty() || selectors.iter().any(|selector| selector.matches(labels))
}

/// Whether there is an object of the kind at all, broken ones included: an advertisement that cannot be read does not
/// mean that everything is to be told to everybody.
fn are_there(context: &Context<'_>, kind: Kind) -> bool {
    let known = match kind {
        Kind::BGPAdvertisement => !context.inputs.bgp_advertisements.is_empty(),
        _ => !context.inputs.l2_advertisements.is_empty(),
    };
    known || context.inputs.unusable.keys().any(|object| object.kind == kind)
}

/// The names of everything that is named, for messages.
fn list<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    names.into_iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
}
