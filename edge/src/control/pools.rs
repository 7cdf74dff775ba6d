//! Pools of addresses: how full they are, who has what, and what an edit of them would change.
//!
//! Inputs and what was compiled of them flow in, rows flow out. Pure. A dry run compiles the edited inputs with every
//! address where it is now, so it says what a reload would do. Nothing here gives or takes an address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use edge_config::Compiled;
use edge_config::edge_toml;
use edge_config::inputs::Inputs;
use edge_config::manifest::{AnyObject, Outcome, Place, decode_document};
use edge_config::names::{Kind, ObjectRef};
use edge_config::problem::{Problem, Severity};
use edge_config::report::Report;
use edge_config::settings::{AddressRange, Settings};
use edge_config::yaml;
use serde::{Deserialize, Serialize};

/// All pools, and addresses that are in none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pools {
    pub pools: Vec<PoolRow>,
    /// Given where `spec.addresses` was taken at its word.
    pub outside: Vec<Holding>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRow {
    pub name: String,
    /// `edge.toml` or `IPAddressPool NAMESPACE/NAME`.
    pub origin: String,
    pub ranges: Vec<String>,
    /// Whether who asks for no pool may get an address of it.
    pub auto_assign: bool,
    /// Nothing new is given from it.
    pub disabled: bool,
    /// It is for certain namespaces or Services.
    pub restricted: bool,
    /// Why nothing is given from it at all; absent: it is in effect.
    pub fault: Option<String>,
    pub v4: Option<Usage>,
    pub v6: Option<Usage>,
    pub assigned: Vec<Holding>,
}

/// Numbers of addresses of one family; the largest number there is stands for more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Without those that nobody can have: `avoid_buggy_ips`, multicast.
    pub total: u64,
    pub assigned: u64,
    /// Kept for who asks for them, and not assigned.
    pub reserved: u64,
    /// For anybody who may have an address of the pool; 0 where it is disabled.
    pub available: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Holding {
    pub address: IpAddr,
    /// `Gateway shop/public`
    pub holders: Vec<String>,
}

/// What an edit would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolChange {
    /// After it.
    pub pools: Vec<PoolRow>,
    /// Names of pools that would be gone.
    pub removed: Vec<String>,
    /// How many objects keep all that they have.
    pub kept: usize,
    pub moved: Vec<Moved>,
    /// What would be wrong with it.
    pub faults: Vec<String>,
}

/// One object whose addresses would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    pub object: String,
    pub loses: Vec<IpAddr>,
    pub gets: Vec<IpAddr>,
    pub reason: String,
}

impl PoolChange {
    /// Nobody loses an address.
    pub fn is_harmless(&self) -> bool {
        self.faults.is_empty() && self.moved.iter().all(|moved| moved.loses.is_empty())
    }
}

/// An edited text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// For messages; what ends in `.toml` is an edge.toml, anything else manifests.
    pub file: String,
    pub text: String,
}

pub fn pools(inputs: &Inputs, report: &Report, assigned: &BTreeMap<ObjectRef, Vec<IpAddr>>) -> Pools {
    let mut holdings: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    for (object, addresses) in assigned {
        for address in addresses {
            holdings.entry(*address).or_default().push(object.to_string());
        }
    }
    let mut plans = plans(inputs, report);
    let mut rows = Vec::new();
    for plan in &mut plans {
        let mut own = Vec::new();
        if plan.row.fault.is_none() {
            holdings.retain(|address, holders| {
                let is_inside = plan.ranges.iter().any(|range| range.contains(*address));
                if is_inside {
                    own.push(Holding { address: *address, holders: std::mem::take(holders) });
                }
                !is_inside
            });
        }
        plan.row.v4 = plan.usage(true, &own);
        plan.row.v6 = plan.usage(false, &own);
        plan.row.assigned = own;
        rows.push(plan.row.clone());
    }
    let outside = holdings.into_iter().map(|(address, holders)| Holding { address, holders }).collect();
    Pools { pools: rows, outside }
}

struct Plan {
    row: PoolRow,
    ranges: Vec<AddressRange>,
    reserve: Vec<AddressRange>,
    avoid_buggy: bool,
}

/// Pools in the order in which they take effect: those of edge.toml, then objects.
fn plans(inputs: &Inputs, report: &Report) -> Vec<Plan> {
    let mut plans: Vec<Plan> = Vec::new();
    for pool in &inputs.settings.pools {
        let rival = plans.iter().find(|plan| plan.ranges.iter().any(|a| pool.addresses.iter().any(|b| overlap(a, b))));
        let row = PoolRow {
            name: pool.name.clone(),
            origin: "edge.toml".to_owned(),
            ranges: pool.addresses.iter().map(ToString::to_string).collect(),
            auto_assign: pool.auto_assign,
            disabled: pool.disabled,
            restricted: pool.allocation.is_some(),
            fault: rival.map(|rival| format!("overlaps pool {}", rival.row.name)),
            v4: None,
            v6: None,
            assigned: Vec::new(),
        };
        let (ranges, reserve) = (pool.addresses.clone(), pool.reserve.clone());
        plans.push(Plan { row, ranges, reserve, avoid_buggy: pool.avoid_buggy_ips });
    }
    for (key, pool) in &inputs.address_pools {
        let object = ObjectRef::new(Kind::IPAddressPool, key.clone());
        let conditions = report.objects.get(&object).map_or(&[][..], |report| &report.conditions);
        let refused = conditions.iter().find(|condition| condition.kind == "Accepted" && !condition.status);
        let ranges: Vec<AddressRange> =
            pool.spec.addresses.iter().filter_map(|text| AddressRange::parse(text).ok()).collect();
        let row = PoolRow {
            name: key.name.to_string(),
            origin: object.to_string(),
            ranges: pool.spec.addresses.clone(),
            auto_assign: pool.spec.auto_assign,
            disabled: false,
            restricted: pool.spec.service_allocation.is_some(),
            fault: refused.map(|condition| condition.message.clone()),
            v4: None,
            v6: None,
            assigned: Vec::new(),
        };
        plans.push(Plan { row, ranges, reserve: Vec::new(), avoid_buggy: pool.spec.avoid_buggy_ips });
    }
    plans
}

fn overlap(a: &AddressRange, b: &AddressRange) -> bool {
    a.first.is_ipv4() == b.first.is_ipv4() && a.first <= b.last && b.first <= a.last
}

impl Plan {
    fn usage(&self, v4: bool, own: &[Holding]) -> Option<Usage> {
        let of_family = |ranges: &[AddressRange]| -> Vec<(u128, u128)> {
            let ranges = ranges.iter().filter(|range| range.first.is_ipv4() == v4);
            joined(ranges.map(|range| (bits(range.first), bits(range.last))).collect())
        };
        let ranges = of_family(&self.ranges);
        if ranges.is_empty() {
            return None;
        }
        let usable = |ranges: &[(u128, u128)]| -> u128 {
            ranges.iter().fold(0, |sum: u128, (first, last)| {
                let whole = (last - first).saturating_add(1);
                let buggy = if v4 && self.avoid_buggy { buggy(*first, *last) } else { 0 };
                sum.saturating_add(whole - buggy)
            })
        };
        let total = usable(&ranges);
        let assigned = own.iter().filter(|holding| holding.address.is_ipv4() == v4).count() as u128;
        let kept = of_family(&self.reserve);
        let is_kept = |holding: &&Holding| {
            let bits = bits(holding.address);
            holding.address.is_ipv4() == v4 && kept.iter().any(|(first, last)| (*first..=*last).contains(&bits))
        };
        let reserved = usable(&kept).saturating_sub(own.iter().filter(is_kept).count() as u128);
        let is_closed = self.row.disabled || self.row.fault.is_some();
        let available = if is_closed { 0 } else { total.saturating_sub(assigned).saturating_sub(reserved) };
        let small = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
        Some(Usage {
            total: small(total),
            assigned: small(assigned),
            reserved: small(reserved),
            available: small(available),
        })
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// Ranges without those parts that another has as well.
fn joined(mut ranges: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    ranges.sort_unstable();
    let mut out: Vec<(u128, u128)> = Vec::new();
    for (first, last) in ranges {
        match out.last_mut() {
            Some((_, end)) if first <= *end => *end = last.max(*end),
            _ => out.push((first, last)),
        }
    }
    out
}

/// How many addresses from one to another end in `.0` or `.255`.
fn buggy(first: u128, last: u128) -> u128 {
    // So many there are below a bound.
    let below = |bound: u128| bound.div_ceil(256) + bound / 256;
    below(last + 1) - below(first)
}

/// What `edit` would do to who has addresses now. The error has the faults of the text, one line each.
pub fn dry_run(inputs: &Inputs, compiled: &Compiled, edit: &Edit) -> Result<PoolChange, Vec<String>> {
    let mut edited = inputs.clone();
    if edit.file.ends_with(".toml") {
        let file: Arc<str> = edit.file.as_str().into();
        let found = edge_toml::decode(&file, &edit.text).map_err(lines)?;
        edited.settings = Arc::new(Settings { pools: found.pools, ..Settings::clone(&inputs.settings) });
    } else {
        for object in address_pools(edit)? {
            object.put(&mut edited);
        }
    }
    edited.assigned.clone_from(&compiled.assigned);
    let after = edge_config::compile(&edited);
    Ok(change((inputs, compiled), (&edited, &after)))
}

fn lines(problems: Vec<Problem>) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

fn address_pools(edit: &Edit) -> Result<Vec<AnyObject>, Vec<String>> {
    let mut found = Vec::new();
    let mut faults = Vec::new();
    for document in yaml::split(&edit.text) {
        let place = Place { file: edit.file.as_str().into(), line_offset: document.line_offset };
        for item in decode_document(document.text, &place, &"default".into(), &[]) {
            match item.outcome {
                Outcome::Ready(object @ AnyObject::IPAddressPool(_)) => found.push(object),
                Outcome::Broken => faults
                    .extend(lines(item.problems.into_iter().filter(|one| one.severity == Severity::Error).collect())),
                _ => {}
            }
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    if found.is_empty() {
        return Err(vec![format!("{}: holds no IPAddressPool", edit.file)]);
    }
    Ok(found)
}

/// From one configuration to another; the second was compiled with the addresses of the first.
pub fn change((old, before): (&Inputs, &Compiled), (new, after): (&Inputs, &Compiled)) -> PoolChange {
    let then = pools(new, &after.report, &after.assigned);
    let now = pools(old, &before.report, &before.assigned);
    let mut moved = Vec::new();
    let mut kept = 0;
    let (served, serves) = (served(before), served(after));
    let none = Vec::new();
    let objects: BTreeSet<&ObjectRef> = before.assigned.keys().chain(after.assigned.keys()).collect();
    for object in objects {
        // Who is at fault is remembered with what it had, and does not serve it: what is served counts, where it is.
        let had = served.get(object).or_else(|| before.assigned.get(object)).unwrap_or(&none);
        let remembered = after.assigned.get(object).filter(|_| !served.contains_key(object));
        let has = serves.get(object).or(remembered).unwrap_or(&none);
        let loses: Vec<IpAddr> = had.iter().filter(|address| !has.contains(address)).copied().collect();
        let gets: Vec<IpAddr> = has.iter().filter(|address| !had.contains(address)).copied().collect();
        if loses.is_empty() && gets.is_empty() {
            kept += 1;
            continue;
        }
        let reason = match loses.first() {
            None => "new".to_owned(),
            Some(_) if new.meta(object).is_none() => "the object is not there any longer".to_owned(),
            Some(address) => why(&then, *address),
        };
        moved.push(Moved { object: object.to_string(), loses, gets, reason });
    }
    let known: BTreeSet<&str> = then.pools.iter().map(|pool| pool.name.as_str()).collect();
    let removed =
        now.pools.iter().map(|pool| pool.name.clone()).filter(|name| !known.contains(name.as_str())).collect();
    let faults = then.pools.iter().filter_map(|pool| {
        let fault = pool.fault.as_ref()?;
        let was = now.pools.iter().find(|old| old.name == pool.name).and_then(|old| old.fault.as_ref());
        (was != Some(fault)).then(|| format!("pool {}: {fault}", pool.name))
    });
    let faults = faults.collect();
    PoolChange { pools: then.pools, removed, kept, moved, faults }
}

/// The addresses at which each object is served.
fn served(compiled: &Compiled) -> BTreeMap<ObjectRef, Vec<IpAddr>> {
    let mut found: BTreeMap<ObjectRef, Vec<IpAddr>> = BTreeMap::new();
    for vip in &compiled.snapshot.vips {
        for owner in &vip.owners {
            found.entry(owner.clone()).or_default().push(vip.address);
        }
    }
    found
}

/// Why an address is not given to who has it now.
fn why(pools: &Pools, address: IpAddr) -> String {
    let covers = |pool: &&PoolRow| {
        let ranges = pool.ranges.iter().filter_map(|text| AddressRange::parse(text).ok());
        ranges.into_iter().any(|range| range.contains(address))
    };
    match pools.pools.iter().find(covers) {
        None => format!("no pool covers {address} any longer"),
        Some(pool) => match &pool.fault {
            Some(fault) => format!("pool {} would not be in effect: {fault}", pool.name),
            None => format!("pool {} would not give {address} to it", pool.name),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOLS: &str = "[[pool]]\nname = \"a\"\naddresses = [\"192.0.2.0/24\", \"2001:db8::/64\"]\navoid_buggy_ips = true\n\
        reserve = [\"192.0.2.10-192.0.2.19\"]\n\n[[pool]]\nname = \"b\"\naddresses = [\"198.51.100.7\"]\nauto_assign = false\n";

    const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: { name: any, namespace: shop }
spec: { type: LoadBalancer, loadBalancerClass: edge.internal/load-balancer, ports: [{ port: 80 }], ipFamilies: [IPv4] }
---
apiVersion: v1
kind: Service
metadata: { name: kept, namespace: shop, annotations: { metallb.io/loadBalancerIPs: 192.0.2.12 } }
spec: { type: LoadBalancer, loadBalancerClass: edge.internal/load-balancer, ports: [{ port: 80 }] }
---
apiVersion: v1
kind: Service
metadata: { name: other, namespace: shop, annotations: { metallb.io/address-pool: b } }
spec: { type: LoadBalancer, loadBalancerClass: edge.internal/load-balancer, ports: [{ port: 80 }] }
";

    fn inputs() -> Inputs {
        let settings = edge_toml::decode(&"edge.toml".into(), POOLS).unwrap();
        let mut inputs = Inputs { settings: Arc::new(settings), ..Inputs::default() };
        for document in yaml::split(SERVICES) {
            let place = Place { file: "x.yaml".into(), line_offset: document.line_offset };
            for item in decode_document(document.text, &place, &"default".into(), &[]) {
                if let Outcome::Ready(object) = item.outcome {
                    object.insert(&mut inputs);
                }
            }
        }
        inputs
    }

    fn edit(inputs: &Inputs, compiled: &Compiled, text: &str) -> PoolChange {
        dry_run(inputs, compiled, &Edit { file: "new.toml".to_owned(), text: text.to_owned() }).unwrap()
    }

    #[test]
    fn usage_of_pools() {
        let inputs = inputs();
        let compiled = edge_config::compile(&inputs);
        let found = pools(&inputs, &compiled.report, &compiled.assigned);
        let [a, b] = &found.pools[..] else { panic!("{found:#?}") };
        // .0 and .255 are nobody's; one of the ten reserved ones is assigned.
        assert_eq!(a.v4, Some(Usage { total: 254, assigned: 2, reserved: 9, available: 243 }));
        assert_eq!(a.v6, Some(Usage { total: u64::MAX, assigned: 0, reserved: 0, available: u64::MAX }));
        assert_eq!(b.v4, Some(Usage { total: 1, assigned: 1, reserved: 0, available: 0 }));
        assert_eq!(b.assigned[0].holders, ["Service shop/other"]);
        assert!(found.outside.is_empty());
    }

    #[test]
    fn edits() {
        let inputs = inputs();
        let compiled = edge_config::compile(&inputs);
        let same = edit(&inputs, &compiled, POOLS);
        assert!(same.is_harmless() && same.moved.is_empty() && same.kept == 3, "{same:#?}");
        // What is disabled keeps what it gave.
        let disabled = edit(&inputs, &compiled, &POOLS.replace("auto_assign = false", "disabled = true"));
        assert!(disabled.is_harmless(), "{disabled:#?}");
        let shorter = edit(&inputs, &compiled, &POOLS.replace("198.51.100.7", "198.51.100.8"));
        let [moved] = &shorter.moved[..] else { panic!("{shorter:#?}") };
        assert_eq!(moved.object, "Service shop/other");
        assert_eq!(moved.loses, ["198.51.100.7".parse::<IpAddr>().unwrap()]);
        assert_eq!(moved.gets, ["198.51.100.8".parse::<IpAddr>().unwrap()]);
        assert_eq!(moved.reason, "no pool covers 198.51.100.7 any longer");
        let gone = edit(&inputs, &compiled, POOLS.split("\n\n").next().unwrap());
        assert_eq!(gone.removed, ["b"]);
        assert!(gone.moved[0].gets.is_empty() && !gone.is_harmless(), "{gone:#?}");
    }

    #[test]
    fn edits_of_objects() {
        let inputs = inputs();
        let compiled = edge_config::compile(&inputs);
        let run = |text: &str| dry_run(&inputs, &compiled, &Edit { file: "p.yaml".to_owned(), text: text.to_owned() });
        let pool = "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: { name: c, namespace: m }\nspec: { addresses: [RANGE] }\n";
        let added = run(&pool.replace("RANGE", "203.0.113.0/28")).unwrap();
        assert!(added.is_harmless() && added.pools.len() == 3, "{added:#?}");
        let clash = run(&pool.replace("RANGE", "192.0.2.0/28")).unwrap();
        assert_eq!(clash.faults.len(), 1, "{clash:#?}");
        assert!(!clash.is_harmless());
        assert!(run("kind: x").is_err());
        assert!(run(&pool.replace("RANGE", "nonsense")).is_err());
    }

    #[test]
    fn addresses_at_the_ends_of_networks() {
        let number = |text: &str| bits(text.parse().unwrap());
        for (first, last, expected) in [
            ("10.0.0.0", "10.0.0.255", 2),
            ("10.0.0.1", "10.0.0.254", 0),
            ("10.0.0.255", "10.0.1.0", 2),
            ("10.0.0.0", "10.0.255.255", 512),
            ("0.0.0.0", "255.255.255.255", 1 << 25),
        ] {
            assert_eq!(buggy(number(first), number(last)), expected, "{first} to {last}");
        }
    }
}
