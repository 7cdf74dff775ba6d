//! `[l2]` and `[[l2.group]]`: virtual routers. What `[l2]` says is what its groups have where they do not say it; with a
//! `router` it is a group itself.

use std::time::Duration;

use super::bgp::selection;
use super::{Section, Sink, address, interface, label, narrow, not_empty, path, set};
use crate::announce::{L2Watch, Password};
use crate::settings::{L2GroupSettings, L2Settings, VipSelection, defaults};

/// RFC 9568 §5.2.7: 12 bits of hundredths of a second.
const STEP: Duration = Duration::from_millis(10);
const MOST_INTERVAL: Duration = Duration::from_millis(40_950);

pub(super) fn l2(mut section: Section<'_>, sink: &mut Sink<'_>) -> L2Settings {
    let metallb = section.boolean(sink, "metallb").unwrap_or(true);
    let sections = section.sections(sink, "group");
    let has_router = section.has("router");
    let mut base = L2GroupSettings {
        name: "l2".to_owned(),
        interface: String::new(),
        router: 0,
        spread: 1,
        edges: Vec::new(),
        priority: defaults::L2_PRIORITY,
        interval: defaults::L2_INTERVAL,
        preempt: true,
        preempt_delay: defaults::L2_PREEMPT_DELAY,
        unicast: Vec::new(),
        key: None,
        virtual_mac: false,
        vips: VipSelection::default(),
        advertisements: Vec::new(),
        also: Vec::new(),
        watch: None,
    };
    let start = section.start();
    fill(&mut section, &mut base, sink);
    if !has_router && sections.is_empty() {
        section.error(sink, "router is missing; [[l2.group]] may have it instead");
    }
    if !has_router && !base.vips.is_all() {
        section.error(sink, "pools and vips are for virtual routers, and there is no router");
    }
    section.finish(sink);
    let mut groups: Vec<(usize, L2GroupSettings)> = Vec::new();
    for mut section in sections {
        let start = section.start();
        let mut group = L2GroupSettings { vips: VipSelection::default(), router: 0, ..base.clone() };
        let name = section.required(sink, "name", not_empty);
        if !section.has("router") {
            section.error(sink, "router is missing");
        }
        group.advertisements = section.list(sink, "advertisements", not_empty).unwrap_or_default();
        fill(&mut section, &mut group, sink);
        section.finish(sink);
        group.name = name.unwrap_or_default();
        groups.push((start, group));
    }
    if has_router {
        groups.push((start, base));
    }
    for (start, group) in groups.iter().filter(|(_, group)| !metallb && !group.advertisements.is_empty()) {
        let message = format!("l2: {:?} has advertisements, and l2.metallb is false", group.name);
        sink.error(*start..*start, message);
    }
    for (place, (start, group)) in groups.iter().enumerate() {
        check(group, *start, groups.get(..place).unwrap_or_default(), sink);
    }
    L2Settings { metallb, groups: groups.into_iter().map(|(_, group)| group).collect() }
}

fn fill(section: &mut Section<'_>, group: &mut L2GroupSettings, sink: &mut Sink<'_>) {
    set(&mut group.interface, section.parsed(sink, "interface", interface));
    set(&mut group.router, narrow(section.integer(sink, "router", 1, 255)));
    set(&mut group.spread, narrow(section.integer(sink, "spread", 1, 64)));
    set(&mut group.edges, section.list(sink, "edges", label));
    set(&mut group.priority, narrow(section.integer(sink, "priority", 1, 254)));
    let start = section.value_start("interval");
    let interval = section.duration_in(sink, "interval", STEP, MOST_INTERVAL);
    if interval.is_some_and(|interval| interval.as_millis() % STEP.as_millis() != 0) {
        sink.error(start..start, format!("{} is not a multiple of 10ms", section.path("interval")));
    }
    set(&mut group.interval, interval);
    set(&mut group.preempt, section.boolean(sink, "preempt"));
    let delay = section.duration_in(sink, "preempt_delay", Duration::ZERO, Duration::from_secs(3600));
    set(&mut group.preempt_delay, delay);
    set(&mut group.unicast, section.list(sink, "unicast", address));
    if let Some(path) = section.parsed(sink, "key_file", path) {
        group.key = Some(Password::File(path));
    }
    set(&mut group.virtual_mac, section.boolean(sink, "virtual_mac"));
    set(&mut group.also, section.list(sink, "also", interface));
    if section.has("watch") {
        group.watch = section.optional_section(sink, "watch").and_then(|section| watch(section, sink));
    }
    group.vips = selection(section, sink);
}

fn watch(mut section: Section<'_>, sink: &mut Sink<'_>) -> Option<L2Watch> {
    let start = section.start();
    let is_empty = !section.has("neighbours") || section.is_empty_list("neighbours");
    let mut neighbours = section.list(sink, "neighbours", address).unwrap_or_default();
    if is_empty {
        sink.error(start..start, format!("{} names no address", section.path("neighbours")));
    }
    neighbours.sort();
    neighbours.dedup();
    let interval = section.duration_in(sink, "interval", Duration::from_millis(100), Duration::from_secs(60));
    let rise = narrow(section.integer(sink, "rise", 1, 100));
    let fall = narrow(section.integer(sink, "fall", 1, 100));
    let weight = narrow(section.integer(sink, "weight", 0, 253));
    section.finish(sink);
    (!neighbours.is_empty()).then(|| L2Watch {
        neighbours,
        interval: interval.unwrap_or(defaults::L2_WATCH_INTERVAL),
        rise: rise.unwrap_or(defaults::L2_WATCH_RISE),
        fall: fall.unwrap_or(defaults::L2_WATCH_FALL),
        weight: weight.unwrap_or(defaults::L2_WATCH_WEIGHT),
    })
}

/// What the parts of a group, and groups among each other, must be.
fn check(group: &L2GroupSettings, start: usize, earlier: &[(usize, L2GroupSettings)], sink: &mut Sink<'_>) {
    let mut fault = |message: String| sink.error(start..start, format!("l2: {:?} {message}", group.name));
    if group.interface.is_empty() {
        fault("has no interface".to_owned());
    }
    let last = u16::from(group.router) + u16::from(group.spread) - 1;
    if last > 255 {
        fault(format!("has virtual routers {} to {last}, expected none above 255", group.router));
    }
    if group.key.is_some() && group.unicast.is_empty() {
        fault("has key_file without unicast; advertisements to everybody have no key".to_owned());
    }
    if !group.vips.is_all() && !group.advertisements.is_empty() {
        fault("has both advertisements and VIPs of its own".to_owned());
    }
    if group.also.contains(&group.interface) {
        fault(format!("has its interface {} among the further ones", group.interface));
    }
    let mut edges = group.edges.clone();
    edges.sort();
    edges.dedup();
    if edges.len() != group.edges.len() {
        fault("names an edge twice".to_owned());
    }
    for (_, other) in earlier {
        if other.name == group.name {
            fault("is the name of two groups".to_owned());
        }
        let end = u16::from(other.router) + u16::from(other.spread) - 1;
        let apart = last < other.router.into() || end < group.router.into();
        if other.interface == group.interface && !apart && group.router != 0 && other.router != 0 {
            fault(format!("shares virtual routers with {:?} on {}", other.name, group.interface));
        }
        let is_twice = group.advertisements.iter().find(|name| other.advertisements.contains(name));
        if let Some(name) = is_twice {
            fault(format!("has the advertisement {name:?} of {:?} too", other.name));
        }
    }
}
