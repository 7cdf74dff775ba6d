//! `[[pool]]`: addresses, and who may have them.

use super::{Section, Sink, namespace, narrow, not_empty, range, selector};
use crate::metallb::ServiceAllocation;
use crate::settings::Pool;

pub(super) fn pools(root: &mut Section<'_>, sink: &mut Sink<'_>) -> Vec<Pool> {
    let mut pools: Vec<Pool> = Vec::new();
    for section in root.sections(sink, "pool") {
        let start = section.start();
        let Some(pool) = pool(section, sink) else { continue };
        if pools.iter().any(|earlier| earlier.name == pool.name) {
            sink.error(start..start, format!("pool: {:?} is the name of two pools", pool.name));
        }
        pools.push(pool);
    }
    pools
}

fn pool(mut section: Section<'_>, sink: &mut Sink<'_>) -> Option<Pool> {
    let name = section.required(sink, "name", not_empty);
    if !section.has("addresses") {
        section.error(sink, "addresses is missing");
    }
    let addresses = section.list(sink, "addresses", range);
    if addresses.as_ref().is_some_and(Vec::is_empty) {
        section.error(sink, "addresses is empty, expected at least one range");
    }
    let auto_assign = section.boolean(sink, "auto_assign");
    let avoid_buggy_ips = section.boolean(sink, "avoid_buggy_ips");
    let disabled = section.boolean(sink, "disabled");
    let start = section.value_start("reserve");
    let reserve = section.list(sink, "reserve", range).unwrap_or_default();
    for range in &reserve {
        let is_inside = |addresses: &Vec<crate::settings::AddressRange>| {
            addresses.iter().any(|own| own.contains(range.first) && own.contains(range.last))
        };
        if addresses.as_ref().is_some_and(|addresses| !is_inside(addresses)) {
            sink.error(start..start, format!("{}: {range} is in no range of the pool", section.path("reserve")));
        }
    }
    let is_for_somebody =
        ["priority", "namespaces", "namespace_selectors", "service_selectors"].iter().any(|key| section.has(key));
    let allocation = ServiceAllocation {
        priority: narrow(section.integer(sink, "priority", 0, u32::MAX.into())).unwrap_or_default(),
        namespaces: section.list(sink, "namespaces", namespace).unwrap_or_default(),
        namespace_selectors: section.list(sink, "namespace_selectors", selector::parse).unwrap_or_default(),
        service_selectors: section.list(sink, "service_selectors", selector::parse).unwrap_or_default(),
    };
    section.finish(sink);
    Some(Pool {
        name: name?,
        addresses: addresses?,
        auto_assign: auto_assign.unwrap_or(true),
        avoid_buggy_ips: avoid_buggy_ips.unwrap_or(false),
        disabled: disabled.unwrap_or(false),
        reserve,
        allocation: is_for_somebody.then_some(allocation),
    })
}
