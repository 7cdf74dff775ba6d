//! Pools of addresses: of edge.toml and of MetalLB, and which of them a claim may have an address of.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::context::{Context, Fault, by_age, condition};
use super::claims::{Claim, Family};
use crate::inputs::{Meta, Object};
use crate::metallb::{IpAddressPoolSpec, ServiceAllocation};
use crate::names::{Kind, ObjectRef};
use crate::problem::Severity;
use crate::report::ObjectReport;
use crate::settings::AddressRange;

/// A pool in effect.
pub(in crate::compile) struct Pool<'a> {
    pub name: &'a str,
    ranges: Vec<AddressRange>,
    pub auto_assign: bool,
    /// Nothing new is given from it.
    pub is_disabled: bool,
    /// Given only to who asks for them.
    reserve: &'a [AddressRange],
    avoid_buggy: bool,
    /// Of the object; pools of edge.toml have none.
    pub labels: Option<&'a BTreeMap<String, String>>,
    allocation: Option<&'a ServiceAllocation>,
}

impl Pool<'_> {
    pub fn holds(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address)) && !(self.avoid_buggy && is_buggy(address))
    }

    /// Whether all addresses between two are of it.
    pub fn covers(&self, first: IpAddr, last: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(first) && range.contains(last))
    }

    /// MetalLB's serviceAllocation: one of the namespaces or their selectors, and one of the service selectors, must
    /// hold; an empty list does not ask for anything.
    pub(super) fn serves(&self, context: &Context<'_>, claim: &Claim<'_>) -> bool {
        let Some(allocation) = self.allocation else { return true };
        let namespace = &*claim.object.key.namespace;
        let by_namespace = (allocation.namespaces.is_empty() && allocation.namespace_selectors.is_empty())
            || allocation.namespaces.iter().any(|name| name == namespace)
            || allocation.namespace_selectors.iter().any(|selector| context.selects(selector, namespace));
        by_namespace
            && (allocation.service_selectors.is_empty()
                || allocation.service_selectors.iter().any(|selector| selector.matches(&claim.labels)))
    }

    /// Whether it is for somebody in particular: such pools go first.
    pub fn is_for_somebody(&self) -> bool {
        self.allocation.is_some()
    }

    /// Pools made for somebody go first, then those with a priority (lower first, 0 is none), as MetalLB has it.
    pub fn preference(&self) -> (bool, u32) {
        let priority = self.allocation.map_or(0, |allocation| allocation.priority);
        (self.allocation.is_none(), if priority == 0 { u32::MAX } else { priority })
    }

    /// The first address of the family that is not refused. `cursors` says, per range, before which address the search
    /// can be left out, and is told how far it came.
    pub(super) fn first(
        &self,
        family: Option<Family>,
        cursors: &mut BTreeMap<IpAddr, IpAddr>,
        refused: impl Fn(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let of_family = |range: &&AddressRange| family.is_none_or(|family| Family::of(range.first) == family);
        self.ranges.iter().filter(of_family).find_map(|range| {
            let mut candidate = cursors.get(&range.first).copied().unwrap_or(range.first);
            loop {
                // Multicast ranges are huge and hold nothing else.
                if candidate.is_multicast() {
                    return None;
                }
                if let Some(kept) = self.reserve.iter().find(|range| range.contains(candidate)) {
                    if kept.last >= range.last {
                        cursors.insert(range.first, range.last);
                        return None;
                    }
                    candidate = next(kept.last)?;
                    continue;
                }
                let unfit = !is_unicast(candidate) || (self.avoid_buggy && is_buggy(candidate));
                if !unfit && !refused(candidate) {
                    cursors.insert(range.first, candidate);
                    return Some(candidate);
                }
                if candidate >= range.last {
                    cursors.insert(range.first, range.last);
                    return None;
                }
                candidate = next(candidate)?;
            }
        })
    }
}

/// MetalLB's avoidBuggyIPs: some equipment takes `.0` and `.255` for network and broadcast addresses.
fn is_buggy(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if matches!(address.octets()[3], 0 | 255))
}

/// Whether connections to the address can be accepted at all.
pub(super) fn is_unicast(address: IpAddr) -> bool {
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    !address.is_unspecified() && !address.is_multicast() && !broadcast
}

fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => u32::from(address).checked_add(1).map(|bits| Ipv4Addr::from(bits).into()),
        IpAddr::V6(address) => u128::from(address).checked_add(1).map(|bits| Ipv6Addr::from(bits).into()),
    }
}

/// Pools of edge.toml, then MetalLB's by age. One that overlaps an earlier one, or has its name, is out.
pub(super) fn pools<'a>(context: &Context<'a>, out: &mut Vec<(ObjectRef, ObjectReport)>) -> Vec<Pool<'a>> {
    let inputs = context.inputs;
    let mut pools: Vec<Pool<'a>> = Vec::new();
    for pool in &inputs.settings.pools {
        let candidate = Pool {
            name: &pool.name,
            ranges: pool.addresses.clone(),
            auto_assign: pool.auto_assign,
            is_disabled: pool.disabled,
            reserve: &pool.reserve,
            avoid_buggy: pool.avoid_buggy_ips,
            labels: None,
            allocation: pool.allocation.as_ref(),
        };
        match clash(&pools, &candidate) {
            Some(why) => {
                context.problem_in_settings(Severity::Error, format!("pool {:?} is not in effect: {why}", pool.name));
            }
            None => pools.push(candidate),
        }
    }
    let mut objects: Vec<&'a Object<IpAddressPoolSpec>> =
        inputs.address_pools.values().map(|object| &**object).collect();
    // The oldest first, so that a new pool cannot push out the one whose addresses are in use.
    objects.sort_by(|a, b| by_age(&a.meta, &b.meta));
    for object in objects {
        let fault = match metallb_pool(&object.meta, &object.spec) {
            Ok(candidate) => match clash(&pools, &candidate) {
                Some(why) => Some(why),
                None => {
                    pools.push(candidate);
                    None
                }
            },
            Err(why) => Some(why),
        };
        if let Some(why) = &fault {
            context.problem(Severity::Error, Kind::IPAddressPool, &object.meta, format!("not in effect: {why}"));
        }
        let fault = fault.map(|why| Fault::new("Invalid", why));
        out.push((
            ObjectRef::new(Kind::IPAddressPool, object.meta.key.clone()),
            ObjectReport {
                generation: object.meta.generation,
                conditions: vec![condition("Accepted", "Accepted", fault.as_ref())],
                ..ObjectReport::default()
            },
        ));
    }
    pools
}

fn metallb_pool<'a>(meta: &'a Meta, spec: &'a IpAddressPoolSpec) -> Result<Pool<'a>, String> {
    let mut ranges = Vec::with_capacity(spec.addresses.len());
    for text in &spec.addresses {
        ranges.push(AddressRange::parse(text).map_err(|error| format!("addresses: {text:?}: {error}"))?);
    }
    Ok(Pool {
        name: &meta.key.name,
        ranges,
        auto_assign: spec.auto_assign,
        is_disabled: false,
        reserve: &[],
        avoid_buggy: spec.avoid_buggy_ips,
        labels: Some(&meta.labels),
        allocation: spec.service_allocation.as_ref(),
    })
}

fn clash(pools: &[Pool<'_>], candidate: &Pool<'_>) -> Option<String> {
    for (index, range) in candidate.ranges.iter().enumerate() {
        if candidate.ranges.iter().take(index).any(|other| overlap(range, other)) {
            return Some(format!("its range {}-{} is named twice", range.first, range.last));
        }
    }
    pools.iter().find_map(|pool| {
        if pool.name == candidate.name {
            return Some("another pool has its name".to_owned());
        }
        let range = candidate.ranges.iter().find(|range| pool.ranges.iter().any(|other| overlap(range, other)))?;
        Some(format!("its range {}-{} overlaps pool {}", range.first, range.last, pool.name))
    })
}

fn overlap(a: &AddressRange, b: &AddressRange) -> bool {
    a.first.is_ipv4() == b.first.is_ipv4() && a.first <= b.last && b.first <= a.last
}
