//! Addresses of Gateways and of Services of type LoadBalancer: pools of edge.toml and of MetalLB, requests by
//! `spec.addresses`, `spec.loadBalancerIP` and MetalLB's annotations, sharing by MetalLB's rules.
//!
//! What somebody had before (`Inputs::published`, `Inputs::assigned`) stays while it may; after that come explicit
//! requests, then whoever needs any address, each in the order of age. A Service has all of its addresses from one pool
//! and gets the addresses that it names all or none, as MetalLB has it; a Gateway is given what can be had.

mod claims;
mod pools;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use super::context::{Context, Fault, by_age};
use super::gateways::GatewayState;
use super::services::ServiceState;
use crate::core::PortProtocol;
use crate::names::{Kind, ObjectRef};
use crate::report::{Condition, ObjectReport};
use claims::{Claim, Families, Family, Sharing, Want};
pub(super) use pools::Pool;
use pools::is_unicast;

/// A port of somebody that another has on an address which both share from before. Neither moves for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub address: IpAddr,
    pub port: u16,
    pub protocol: PortProtocol,
    pub by: ObjectRef,
}

impl Refused {
    /// Whether the port is refused on every one of the addresses, and why.
    pub fn everywhere(
        refused: &[Self],
        addresses: &[(IpAddr, String)],
        port: u16,
        protocol: &PortProtocol,
    ) -> Option<String> {
        let on = |address: &IpAddr| {
            refused.iter().find(|one| one.address == *address && one.port == port && one.protocol == *protocol)
        };
        let first = on(&addresses.first()?.0)?;
        addresses
            .iter()
            .all(|(address, _)| on(address).is_some())
            .then(|| format!("{} has port {port}/{protocol} of {}", first.by, first.address))
    }
}

/// Gives everybody addresses.
pub(super) fn assign<'a>(
    context: &Context<'a>,
    gateways: &mut [GatewayState<'a>],
    services: &mut [ServiceState<'a>],
    out: &mut Vec<(ObjectRef, ObjectReport)>,
) -> Given<'a> {
    let pools = pools::pools(context, out);
    let of_gateways = gateways.iter().map(claims::of_gateway);
    let mut claims: Vec<Claim<'_>> = of_gateways.chain(services.iter().map(claims::of_service)).collect();
    let mut order: Vec<usize> = (0..claims.len()).collect();
    order.sort_by(|a, b| {
        let (a, b) = (&claims[*a], &claims[*b]);
        by_age(a.meta, b.meta).then_with(|| a.object.kind.cmp(&b.object.kind))
    });
    let mut table = Table { context, pools: &pools, holders: BTreeMap::new(), cursors: BTreeMap::new() };
    order.iter().for_each(|place| table.keep(&mut claims[*place]));
    order.iter().for_each(|place| table.particular(&mut claims[*place]));
    order.iter().for_each(|place| table.any(&mut claims[*place]));
    claims.iter_mut().for_each(|claim| table.explain(claim));

    let text = |pool: Option<&str>| pool.map_or_else(|| "spec.addresses".to_owned(), |name| format!("pool {name}"));
    let mut given = Given { pools: Vec::new(), places: BTreeMap::new(), labels: BTreeMap::new() };
    for claim in &claims {
        given.places.extend(claim.addresses.iter().copied());
        given.labels.insert(claim.object.clone(), claim.labels.clone());
    }
    let mut claims = claims.into_iter().map(|mut claim| {
        claim.addresses.sort();
        claim
    });
    for (gateway, claim) in gateways.iter_mut().zip(&mut claims) {
        gateway.addresses = claim.addresses.iter().map(|(address, pool)| (*address, text(*pool))).collect();
        gateway.address_fault = gateway.address_fault.take().or(claim.fault);
        gateway.refuse(claim.refused);
    }
    for (service, claim) in services.iter_mut().zip(claims) {
        service.pool = claim.addresses.iter().find_map(|(_, pool)| *pool).map(Box::from);
        service.addresses = claim.addresses.iter().map(|(address, pool)| (*address, text(*pool))).collect();
        service.address_fault = claim.fault;
        service.note = claim.note;
        service.refused = claim.refused;
    }
    given.pools = pools;
    given
}

/// What was given to whom, for those who select addresses by it.
pub(super) struct Given<'a> {
    pools: Vec<Pool<'a>>,
    /// The name of the pool of each address.
    places: BTreeMap<IpAddr, Option<&'a str>>,
    labels: BTreeMap<ObjectRef, Cow<'a, BTreeMap<String, String>>>,
}

impl<'a> Given<'a> {
    /// Where an address is from; `None` where `spec.addresses` was taken at its word.
    pub fn pool(&self, address: IpAddr) -> Option<&Pool<'a>> {
        let name = (*self.places.get(&address)?)?;
        self.pools.iter().find(|pool| pool.name == name)
    }

    /// Of a Gateway or Service, as pools and advertisements see them.
    pub fn labels(&self, owner: &ObjectRef) -> Option<&BTreeMap<String, String>> {
        self.labels.get(owner).map(|labels| &**labels)
    }
}

/// Who has an address.
struct Holder<'a> {
    object: ObjectRef,
    sharing: Sharing<'a>,
    /// It is at fault and has the address for itself until that is over.
    is_held: bool,
}

struct Table<'t, 'a> {
    context: &'t Context<'a>,
    pools: &'t [Pool<'a>],
    holders: BTreeMap<IpAddr, Vec<Holder<'a>>>,
    /// By the first address of a range: where the search for one that nobody has goes on.
    cursors: BTreeMap<IpAddr, IpAddr>,
}

impl<'a> Table<'_, 'a> {
    /// What was given out before stays, if it is still asked for and still allowed. Ports do not count: who adds one that
    /// another has on the same address goes without that port, not without the address.
    fn keep(&mut self, claim: &mut Claim<'a>) {
        let inputs = self.context.inputs;
        let before = [&inputs.published, &inputs.assigned].map(|known| known.get(&claim.object));
        let before: Vec<IpAddr> = before.into_iter().flatten().flatten().copied().collect();
        if claim.is_held {
            before.into_iter().for_each(|address| self.hold(claim, address));
            return;
        }
        match claim.want {
            Want::Count(mut more) => {
                for address in before {
                    let place = claim.fixed.iter().position(|fixed| *fixed == address);
                    let is_known = claim.addresses.iter().any(|(known, _)| *known == address);
                    if is_known || (place.is_none() && more == 0) {
                        continue;
                    }
                    let Ok(pool) = self.permit(claim, address, Ports::Settled) else { continue };
                    match place {
                        Some(place) => drop(claim.fixed.remove(place)),
                        None => more -= 1,
                    }
                    self.give(claim, address, pool);
                }
                claim.want = Want::Count(more);
            }
            Want::Families(_) if !claim.fixed.is_empty() => {
                if claim.fixed.iter().all(|address| before.contains(address)) {
                    self.all_of(claim, Ports::Settled);
                }
            }
            Want::Families(families) => {
                for address in before {
                    let family = Family::of(address);
                    let is_enough = families == Families::Either && !claim.addresses.is_empty();
                    if is_enough || !families.has(family) || claim.has(family) {
                        continue;
                    }
                    if let Ok(pool) = self.permit(claim, address, Ports::Settled) {
                        self.give(claim, address, pool);
                    }
                }
            }
        }
    }

    /// Particular addresses.
    fn particular(&mut self, claim: &mut Claim<'a>) {
        if claim.is_held || claim.fixed.is_empty() {
            return;
        }
        if let Want::Families(_) = claim.want {
            if let Some(fault) = self.all_of(claim, Ports::Free) {
                claim.fault = Some(fault);
            }
            return;
        }
        for address in std::mem::take(&mut claim.fixed) {
            match self.permit(claim, address, Ports::Free) {
                Ok(pool) => self.give(claim, address, pool),
                Err(message) => {
                    claim.fault.get_or_insert(claim.not_usable(message));
                    claim.fixed.push(address);
                }
            }
        }
    }

    /// Why a particular address cannot be had, now that all is given out: who came in between says no more than who had
    /// it before.
    fn explain(&self, claim: &mut Claim<'a>) {
        if claim.is_held {
            return;
        }
        let why = claim.fixed.iter().find_map(|address| self.permit(claim, *address, Ports::Free).err());
        if let Some(message) = why {
            claim.fault = Some(claim.not_usable(message));
        }
    }

    /// Gives all the particular addresses, or none for the fault that is returned.
    fn all_of(&mut self, claim: &mut Claim<'a>, ports: Ports) -> Option<Fault> {
        for address in claim.fixed.clone() {
            match self.permit(claim, address, ports) {
                Ok(pool) => claim.addresses.push((address, pool)),
                Err(message) => {
                    claim.addresses.clear();
                    return Some(claim.not_usable(message));
                }
            }
        }
        claim.fixed.clear();
        for (address, _) in claim.addresses.clone() {
            self.hold(claim, address);
        }
        None
    }

    /// Whichever addresses.
    fn any(&mut self, claim: &mut Claim<'a>) {
        if claim.is_held {
            return;
        }
        match claim.want {
            Want::Count(more) => {
                for _ in 0..more {
                    match self.found(claim, None) {
                        Ok(found) => {
                            found.into_iter().for_each(|(address, pool)| self.give(claim, address, Some(pool)))
                        }
                        Err(message) => drop(claim.fault.get_or_insert(claim.not_assigned(message))),
                    }
                }
            }
            // It named its addresses, and has all of them or none.
            Want::Families(_) if claim.fault.is_some() || claim.is_particular => {}
            Want::Families(families) if claim.addresses.is_empty() => match self.found(claim, Some(families)) {
                Ok(found) => found.into_iter().for_each(|(address, pool)| self.give(claim, address, Some(pool))),
                Err(message) => claim.fault = Some(claim.not_assigned(message)),
            },
            Want::Families(families) => self.second(claim, families),
        }
        if let (Want::Families(Families::Most(_)), [(_, Some(pool))]) = (&claim.want, &claim.addresses[..]) {
            let message = format!("no address of the other IP family in pool {pool}");
            claim.note = Some(Condition { kind: "Allocated", status: true, reason: "AdditionalAssignFailed", message });
        }
    }

    /// The family that is missing beside an address from before, which does not move for its sake.
    fn second(&mut self, claim: &mut Claim<'a>, families: Families) {
        let Some((_, Some(pool))) = claim.addresses.first().copied() else { return };
        let missing = [Family::V4, Family::V6].into_iter().find(|family| families.has(*family) && !claim.has(*family));
        let Some(family) = missing.filter(|_| families != Families::Either) else { return };
        let pool = self.pools.iter().find(|known| known.name == pool);
        let open = pool.filter(|pool| !pool.is_disabled);
        match open.and_then(|pool| Some((self.free(pool, Some(family), claim)?, pool.name))) {
            Some((address, pool)) => self.give(claim, address, Some(pool)),
            None if families == Families::Both => {
                let name = pool.map_or("", |pool| pool.name);
                let message =
                    format!("no free {} address left in pool {name}, as dual stack requires", family.as_str());
                claim.fault = Some(claim.not_assigned(message));
            }
            None => {}
        }
    }

    /// Addresses of one pool: one, or what the families say.
    fn found(&mut self, claim: &Claim<'a>, families: Option<Families>) -> Result<Vec<(IpAddr, &'a str)>, String> {
        let pools = self.pools;
        if let Some(name) = claim.pool {
            let pool = pools.iter().find(|pool| pool.name == name);
            let pool = pool.ok_or_else(|| format!("address pool {name} not found"))?;
            if !pool.serves(self.context, claim) {
                return Err(format!("address pool {name} is not for this {}", claim.object.kind));
            }
            if pool.is_disabled {
                return Err(format!("address pool {name} is disabled"));
            }
            let found = self.in_pools(&[pool], claim, families);
            return found.ok_or_else(|| format!("address pool {name} has no free {}left", wanted(families)));
        }
        let mut usable: Vec<&Pool<'a>> =
            pools.iter().filter(|pool| pool.auto_assign && pool.serves(self.context, claim)).collect();
        let has_disabled = usable.iter().any(|pool| pool.is_disabled);
        usable.retain(|pool| !pool.is_disabled);
        // A stable sort: equal ones stay in the order of edge.toml, then of names.
        usable.sort_by_key(|pool| pool.preference());
        let (reserved, others): (Vec<_>, Vec<_>) = usable.iter().copied().partition(|pool| pool.is_for_somebody());
        let found = self.in_pools(&reserved, claim, families).or_else(|| self.in_pools(&others, claim, families));
        found.ok_or_else(|| match (pools.is_empty(), usable.is_empty()) {
            (true, _) if claim.object.kind == Kind::Service => {
                "there is no address pool; add a [[pool]] or an IPAddressPool".to_owned()
            }
            (true, _) => "there is no address pool; add a [[pool]], an IPAddressPool or spec.addresses".to_owned(),
            (_, true) if has_disabled => "every address pool that it may have an address of is disabled".to_owned(),
            (_, true) => format!(
                "no address pool is assigned automatically to this {}; name one with the annotation \
                 metallb.io/address-pool",
                claim.object.kind
            ),
            _ => {
                let names: Vec<&str> = usable.iter().map(|pool| pool.name).collect();
                format!("no free {}left in pool {}", wanted(families), names.join(", "))
            }
        })
    }

    /// From the first pool that has all that is wanted; for who prefers two families, else from the first that has one.
    fn in_pools(
        &mut self,
        pools: &[&Pool<'a>],
        claim: &Claim<'a>,
        families: Option<Families>,
    ) -> Option<Vec<(IpAddr, &'a str)>> {
        let mut fallback: [Option<(IpAddr, &'a str)>; 2] = [None, None];
        for pool in pools {
            let mut of = |family| Some((self.free(pool, family, claim)?, pool.name));
            match families {
                None | Some(Families::Either) => {
                    if let Some(found) = of(None) {
                        return Some(vec![found]);
                    }
                }
                Some(Families::One(family)) => {
                    if let Some(found) = of(Some(family)) {
                        return Some(vec![found]);
                    }
                }
                Some(Families::Both | Families::Most(_)) => {
                    let both = [of(Some(Family::V4)), of(Some(Family::V6))];
                    if let [Some(first), Some(second)] = both {
                        return Some(vec![first, second]);
                    }
                    for (kept, found) in fallback.iter_mut().zip(both) {
                        *kept = kept.or(found);
                    }
                }
            }
        }
        let [first, second] = fallback;
        match families {
            Some(Families::Most(Family::V6)) => second.or(first).map(|found| vec![found]),
            Some(Families::Most(Family::V4)) => first.or(second).map(|found| vec![found]),
            _ => None,
        }
    }

    fn free(&mut self, pool: &Pool<'a>, family: Option<Family>, claim: &Claim<'a>) -> Option<IpAddr> {
        let holders = &self.holders;
        match claim.sharing.key {
            // Addresses only ever get taken, so the search need not begin again.
            None => pool.first(family, &mut self.cursors, |address| holders.contains_key(&address)),
            Some(_) => pool.first(family, &mut BTreeMap::new(), |address| {
                conflict(holders, claim, address, Ports::Free).is_some()
            }),
        }
    }

    /// The pool of a particular address, if the claimant may have it, or why not. Without any pool the `spec.addresses`
    /// of a Gateway are taken at their word; who may write Services is not to choose among all addresses there are.
    fn permit(&self, claim: &Claim<'a>, address: IpAddr, ports: Ports) -> Result<Option<&'a str>, String> {
        if !is_unicast(address) {
            return Err(format!("{address} is no unicast address"));
        }
        let is_free = || match conflict(&self.holders, claim, address, ports) {
            Some(why) => Err(format!("{address} is in use by {why}")),
            None => Ok(()),
        };
        if self.pools.is_empty() && claim.pool.is_none() && claim.object.kind == Kind::Gateway {
            return is_free().map(|()| None);
        }
        let pool = self.pools.iter().find(|pool| pool.holds(address));
        let pool = pool.ok_or_else(|| format!("{address} is in no address pool"))?;
        if let Some(named) = claim.pool.filter(|named| *named != pool.name) {
            return Err(format!("{address} is in pool {}, but pool {named} is asked for", pool.name));
        }
        if !pool.serves(self.context, claim) {
            return Err(format!("{address} is in pool {}, which is not for this {}", pool.name, claim.object.kind));
        }
        if pool.is_disabled && ports == Ports::Free {
            return Err(format!("{address} is in pool {}, which is disabled", pool.name));
        }
        let is_service = matches!(claim.want, Want::Families(_));
        if let Some((other, Some(another))) = claim.addresses.first().filter(|_| is_service)
            && *another != pool.name
        {
            return Err(format!("{address} is in pool {}, but {other} is in pool {another}", pool.name));
        }
        is_free().map(|()| Some(pool.name))
    }

    fn give(&mut self, claim: &mut Claim<'a>, address: IpAddr, pool: Option<&'a str>) {
        claim.addresses.push((address, pool));
        self.hold(claim, address);
    }

    fn hold(&mut self, claim: &mut Claim<'a>, address: IpAddr) {
        let holders = self.holders.entry(address).or_default();
        let mut sharing = claim.sharing.clone();
        for holder in holders.iter().filter(|holder| holder.object != claim.object) {
            for (port, protocol) in sharing.ports.intersection(&holder.sharing.ports) {
                let by = holder.object.clone();
                claim.refused.push(Refused { address, port: *port, protocol: protocol.clone(), by });
            }
            sharing.ports.retain(|port| !holder.sharing.ports.contains(port));
        }
        // In the order of names, so that what is said of them does not depend on who came first.
        let place = holders.partition_point(|holder| holder.object < claim.object);
        holders.insert(place, Holder { object: claim.object.clone(), sharing, is_held: claim.is_held });
    }
}

/// Whether two may have one port on an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ports {
    /// They must not.
    Free,
    /// One of them goes without.
    Settled,
}

/// Who keeps the claimant from an address, and why it is not shared.
fn conflict(
    holders: &BTreeMap<IpAddr, Vec<Holder<'_>>>,
    claim: &Claim<'_>,
    address: IpAddr,
    ports: Ports,
) -> Option<String> {
    let others = holders.get(&address)?.iter().filter(|holder| holder.object != claim.object);
    others.into_iter().find_map(|holder| {
        let (theirs, ours) = (&holder.sharing, &claim.sharing);
        let why = match (theirs.key, ours.key) {
            _ if holder.is_held => ", which is at fault".to_owned(),
            (None, None) => String::new(),
            (None, Some(_)) => ", which does not share it".to_owned(),
            (Some(_), None) => ", which shares it only with those that have its key".to_owned(),
            (Some(a), Some(b)) if a != b => ", which shares it under another key".to_owned(),
            _ if theirs.pods != ours.pods => {
                ", and externalTrafficPolicy Local does not share it with other Pods".to_owned()
            }
            _ if ports == Ports::Settled => return None,
            _ => {
                let (port, protocol) = theirs.ports.intersection(&ours.ports).next()?;
                format!(", which has port {port}/{protocol}")
            }
        };
        Some(format!("{}{why}", holder.object))
    })
}

fn wanted(families: Option<Families>) -> &'static str {
    match families {
        None | Some(Families::Either | Families::Most(_)) => "address ",
        Some(Families::One(Family::V4)) => "IPv4 address ",
        Some(Families::One(Family::V6)) => "IPv6 address ",
        Some(Families::Both) => "pair of an IPv4 and an IPv6 address ",
    }
}

/// What the store keeps. Who is at fault keeps what it had.
pub(super) fn assigned(
    context: &Context<'_>,
    gateways: &[GatewayState<'_>],
    services: &[ServiceState<'_>],
) -> BTreeMap<ObjectRef, Vec<IpAddr>> {
    let gateways = gateways.iter().map(|gateway| (gateway.reference(), &gateway.addresses));
    let services = services.iter().map(|service| (service.reference(), &service.addresses));
    let mut assigned = BTreeMap::new();
    for (object, addresses) in gateways.chain(services) {
        let before = context.inputs.assigned.get(&object);
        let addresses: Vec<IpAddr> = match before {
            Some(before) if addresses.is_empty() => before.clone(),
            _ => addresses.iter().map(|(address, _)| *address).collect(),
        };
        if !addresses.is_empty() {
            assigned.insert(object, addresses);
        }
    }
    assigned
}
