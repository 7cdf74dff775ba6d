//! Addresses of Gateways: pools of edge.toml and of MetalLB, requests by `spec.addresses` and by MetalLB's annotations.
//!
//! Every Gateway gets addresses of its own. One that it had before (`Inputs::assigned`) it keeps while it may; after
//! that come explicit requests, then whoever needs any address, each in the order of age.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::context::{Context, Fault, by_age, condition};
use super::gateways::GatewayState;
use crate::inputs::{Meta, Object};
use crate::metallb::{ADDRESSES_ANNOTATIONS, IpAddressPoolSpec, POOL_ANNOTATIONS, ServiceAllocation};
use crate::names::{Kind, ObjectKey, ObjectRef};
use crate::problem::Severity;
use crate::report::ObjectReport;
use crate::settings::AddressRange;

const NOT_USABLE: &str = "AddressNotUsable";
const NOT_ASSIGNED: &str = "AddressNotAssigned";

/// A pool in effect.
struct Pool<'a> {
    name: &'a str,
    ranges: Vec<AddressRange>,
    auto_assign: bool,
    avoid_buggy: bool,
    allocation: Option<&'a ServiceAllocation>,
}

impl Pool<'_> {
    fn holds(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address)) && !(self.avoid_buggy && is_buggy(address))
    }

    /// MetalLB's serviceAllocation: one of the namespaces or their selectors, and one of the service selectors, must
    /// hold; an empty list does not ask for anything.
    fn serves(&self, context: &Context<'_>, gateway: &GatewayState<'_>) -> bool {
        let Some(allocation) = self.allocation else { return true };
        let namespace = &*gateway.key().namespace;
        let by_namespace = (allocation.namespaces.is_empty() && allocation.namespace_selectors.is_empty())
            || allocation.namespaces.iter().any(|name| name == namespace)
            || allocation.namespace_selectors.iter().any(|selector| context.selects(selector, namespace));
        by_namespace
            && (allocation.service_selectors.is_empty() || {
                // The Service that MetalLB would see carries the infrastructure's labels.
                let mut labels = gateway.object.meta.labels.clone();
                if let Some(infrastructure) = &gateway.object.spec.infrastructure {
                    labels.extend(infrastructure.labels.iter().map(|(key, value)| (key.clone(), value.clone())));
                }
                allocation.service_selectors.iter().any(|selector| selector.matches(&labels))
            })
    }

    /// Pools made for somebody go first, then those with a priority (lower first, 0 is none), as MetalLB has it.
    fn preference(&self) -> (bool, u32) {
        let priority = self.allocation.map_or(0, |allocation| allocation.priority);
        (self.allocation.is_none(), if priority == 0 { u32::MAX } else { priority })
    }

    /// The first address that nobody has. The search is as long as the list of taken addresses, however big the pool.
    fn free(&self, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        self.ranges.iter().find_map(|range| {
            let mut candidate = range.first;
            loop {
                // Multicast ranges are huge and hold nothing else.
                if candidate.is_multicast() {
                    return None;
                }
                let refused = taken.contains(&candidate) || (self.avoid_buggy && is_buggy(candidate));
                if !refused && is_unicast(candidate) {
                    return Some(candidate);
                }
                if candidate >= range.last {
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
fn is_unicast(address: IpAddr) -> bool {
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    !address.is_unspecified() && !address.is_multicast() && !broadcast
}

fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => u32::from(address).checked_add(1).map(|bits| Ipv4Addr::from(bits).into()),
        IpAddr::V6(address) => u128::from(address).checked_add(1).map(|bits| Ipv6Addr::from(bits).into()),
    }
}

/// What a Gateway asks for.
struct Request<'a> {
    /// Particular addresses.
    fixed: Vec<IpAddr>,
    /// How many more, whichever.
    any: usize,
    pool: Option<&'a str>,
}

/// Gives every Gateway its addresses.
pub(super) fn assign(
    context: &Context<'_>,
    gateways: &mut [GatewayState<'_>],
    out: &mut Vec<(ObjectRef, ObjectReport)>,
) {
    let pools = pools(context, out);
    let mut taken: BTreeSet<IpAddr> = BTreeSet::new();
    let mut requests: Vec<Option<Request<'_>>> = Vec::new();
    for gateway in gateways.iter_mut() {
        let asked = if gateway.fault.is_some() { None } else { Some(request(gateway)) };
        requests.push(match asked {
            Some(Ok(request)) => Some(request),
            Some(Err(fault)) => {
                gateway.address_fault = Some(fault);
                None
            }
            None => None,
        });
    }
    // What was given out before stays, if it is still asked for and still allowed.
    for (gateway, request) in gateways.iter_mut().zip(&mut requests) {
        let Some(before) = context.inputs.assigned.get(gateway.key()) else { continue };
        let Some(request) = request else {
            // While a Gateway is at fault its addresses are not for others.
            taken.extend(before);
            continue;
        };
        for address in before {
            let wanted = match request.fixed.iter().position(|fixed| fixed == address) {
                Some(place) => Some(Some(place)),
                None => (request.any > 0).then_some(None),
            };
            let Some(place) = wanted else { continue };
            let Ok(source) = source(context, &pools, gateway, request.pool, *address) else { continue };
            if !taken.insert(*address) {
                continue;
            }
            match place {
                Some(place) => {
                    request.fixed.remove(place);
                }
                None => request.any -= 1,
            }
            gateway.addresses.push((*address, source));
        }
    }
    for (gateway, request) in gateways.iter_mut().zip(&requests) {
        for address in request.iter().flat_map(|request| &request.fixed) {
            let pool = request.as_ref().and_then(|request| request.pool);
            let fault = match source(context, &pools, gateway, pool, *address) {
                Ok(_) if taken.contains(address) => {
                    Fault::new(NOT_USABLE, format!("{address} is in use by another Gateway"))
                }
                Ok(source) => {
                    taken.insert(*address);
                    gateway.addresses.push((*address, source));
                    continue;
                }
                Err(fault) => fault,
            };
            gateway.address_fault.get_or_insert(fault);
        }
    }
    for (gateway, request) in gateways.iter_mut().zip(&requests) {
        let Some(request) = request else { continue };
        for _ in 0..request.any {
            match any(context, &pools, gateway, request.pool, &taken) {
                Ok((address, source)) => {
                    taken.insert(address);
                    gateway.addresses.push((address, source));
                }
                Err(message) => {
                    gateway.address_fault.get_or_insert(Fault::new(NOT_ASSIGNED, message));
                }
            }
        }
        gateway.addresses.sort();
    }
}

fn annotation<'g>(gateway: &GatewayState<'g>, names: [&str; 2]) -> Option<&'g str> {
    let object = gateway.object;
    // Envoy Gateway copies the infrastructure's annotations to the Service that MetalLB sees; so these count first.
    let infrastructure = object.spec.infrastructure.as_ref().map(|infrastructure| &infrastructure.annotations);
    let maps = infrastructure.into_iter().chain([&object.meta.annotations]);
    maps.flat_map(|map| names.map(|name| map.get(name))).flatten().map(String::as_str).next()
}

fn request<'g>(gateway: &GatewayState<'g>) -> Result<Request<'g>, Fault> {
    let pool = annotation(gateway, POOL_ANNOTATIONS);
    let mut request = Request { fixed: Vec::new(), any: 0, pool };
    let mut ask = |text: &str, place: &str| match text.trim().parse::<IpAddr>() {
        Ok(address) => {
            if !request.fixed.contains(&address) {
                request.fixed.push(address);
            }
            Ok(())
        }
        Err(_) => Err(Fault::new(NOT_USABLE, format!("{place}: {text:?} is no IP address"))),
    };
    let addresses = &gateway.object.spec.addresses;
    let mut any = 0;
    for address in addresses {
        match address.value.as_deref() {
            None | Some("") => any += 1,
            Some(text) => ask(text, "spec.addresses")?,
        }
    }
    if addresses.is_empty() {
        match annotation(gateway, ADDRESSES_ANNOTATIONS) {
            None => any = 1,
            Some(list) => list.split(',').try_for_each(|text| ask(text, "annotation loadBalancerIPs"))?,
        }
    }
    request.any = any;
    Ok(request)
}

/// Where a particular address comes from, if this Gateway may have it. Without any pool the operator's `spec.addresses`
/// are taken at their word.
fn source(
    context: &Context<'_>,
    pools: &[Pool<'_>],
    gateway: &GatewayState<'_>,
    named: Option<&str>,
    address: IpAddr,
) -> Result<String, Fault> {
    let unusable = |message: String| Err(Fault::new(NOT_USABLE, message));
    if !is_unicast(address) {
        return unusable(format!("{address} is no unicast address"));
    }
    if pools.is_empty() && named.is_none() {
        return Ok("spec.addresses".to_owned());
    }
    let Some(pool) = pools.iter().find(|pool| pool.holds(address)) else {
        return unusable(format!("{address} is in no address pool"));
    };
    if named.is_some_and(|named| named != pool.name) {
        return unusable(format!(
            "{address} is in pool {}, but pool {} is asked for",
            pool.name,
            named.unwrap_or_default()
        ));
    }
    if !pool.serves(context, gateway) {
        return unusable(format!("{address} is in pool {}, which is not for this Gateway", pool.name));
    }
    Ok(format!("pool {}", pool.name))
}

fn any(
    context: &Context<'_>,
    pools: &[Pool<'_>],
    gateway: &GatewayState<'_>,
    named: Option<&str>,
    taken: &BTreeSet<IpAddr>,
) -> Result<(IpAddr, String), String> {
    if let Some(name) = named {
        let pool = pools.iter().find(|pool| pool.name == name);
        let pool = pool.ok_or_else(|| format!("address pool {name} not found"))?;
        if !pool.serves(context, gateway) {
            return Err(format!("address pool {name} is not for this Gateway"));
        }
        let free = pool.free(taken).ok_or_else(|| format!("address pool {name} has no free address left"))?;
        return Ok((free, format!("pool {name}")));
    }
    let mut usable: Vec<&Pool<'_>> =
        pools.iter().filter(|pool| pool.auto_assign && pool.serves(context, gateway)).collect();
    // A stable sort: equal ones stay in the order of edge.toml, then of names.
    usable.sort_by_key(|pool| pool.preference());
    let found = usable.iter().find_map(|pool| Some((pool.free(taken)?, format!("pool {}", pool.name))));
    found.ok_or_else(|| match (pools.is_empty(), usable.is_empty()) {
        (true, _) => "there is no address pool; add a [[pool]], an IPAddressPool or spec.addresses".to_owned(),
        (_, true) => "no address pool is assigned automatically to this Gateway; name one with the annotation \
                      metallb.io/address-pool"
            .to_owned(),
        _ => {
            let names: Vec<&str> = usable.iter().map(|pool| pool.name).collect();
            format!("no free address left in pool {}", names.join(", "))
        }
    })
}

/// Pools of edge.toml, then MetalLB's by age. One that overlaps an earlier one, or has its name, is out.
fn pools<'a>(context: &Context<'a>, out: &mut Vec<(ObjectRef, ObjectReport)>) -> Vec<Pool<'a>> {
    let inputs = context.inputs;
    let mut pools: Vec<Pool<'a>> = Vec::new();
    for pool in &inputs.settings.pools {
        let candidate = Pool {
            name: &pool.name,
            ranges: pool.addresses.clone(),
            auto_assign: pool.auto_assign,
            avoid_buggy: pool.avoid_buggy_ips,
            allocation: None,
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
        avoid_buggy: spec.avoid_buggy_ips,
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

/// What the store keeps. A Gateway at fault keeps what it had.
pub(super) fn assigned(context: &Context<'_>, gateways: &[GatewayState<'_>]) -> BTreeMap<ObjectKey, Vec<IpAddr>> {
    let mut assigned = BTreeMap::new();
    for gateway in gateways {
        let before = context.inputs.assigned.get(gateway.key());
        let addresses = match before {
            Some(before) if gateway.addresses.is_empty() => before.clone(),
            _ => gateway.addresses.iter().map(|(address, _)| *address).collect(),
        };
        if !addresses.is_empty() {
            assigned.insert(gateway.key().clone(), addresses);
        }
    }
    assigned
}
