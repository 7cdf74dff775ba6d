use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::*;
use crate::settings::{VipSelection, defaults};

fn group(router: u8, spread: u8, edges: &[&str]) -> L2GroupSettings {
    L2GroupSettings {
        name: "g".to_owned(),
        interface: "eth0".to_owned(),
        router,
        spread,
        edges: edges.iter().map(|&edge| edge.to_owned()).collect(),
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
    }
}

fn leaders<'e>(group: &L2GroupSettings, edges: &[&'e str]) -> Vec<&'e str> {
    let routers = group.router..=group.router + (group.spread - 1);
    routers.map(|router| *edges.iter().max_by_key(|edge| priority(group, router, edge, 0)).unwrap()).collect()
}

#[test]
fn named_edges_lead_in_turn() {
    let edges = ["a", "b", "c"];
    let shared = group(10, 6, &edges);
    assert_eq!(leaders(&shared, &edges), ["a", "b", "c", "a", "b", "c"]);
    for router in 10..16 {
        let all: BTreeSet<u8> = edges.iter().map(|edge| priority(&shared, router, edge, 0)).collect();
        assert_eq!(all.len(), 3, "nobody is like another at router {router}");
        assert!(all.iter().all(|priority| (181..=200).contains(priority)), "{all:?}");
    }
    // Where one edge is away, its routers go to one other.
    let without = leaders(&shared, &["a", "c"]);
    assert_eq!((without[0], without[2], without[1] == without[4]), ("a", "c", true));
}

#[test]
fn edges_that_are_not_named_lead_by_chance() {
    let shared = group(1, 16, &[]);
    for edges in [&["a", "b"][..], &["edge-1", "edge-2", "edge-3"], &["rack1", "rack2"]] {
        let leading: BTreeSet<&str> = leaders(&shared, edges).into_iter().collect();
        assert_eq!(leading.len(), edges.len(), "{edges:?}: each leads some");
    }
    assert_eq!(priority(&group(1, 1, &[]), 1, "a", 0), 200, "alone it is what was said");
}

#[test]
fn a_preference_counts_more_than_the_spread() {
    let shared = group(1, 16, &[]);
    for router in 1..=16 {
        for other in ["a", "b", "c"] {
            assert!(priority(&shared, router, "here", 1) > priority(&shared, router, other, 0));
        }
    }
    let mut top = group(1, 1, &[]);
    top.priority = 254;
    assert_eq!(priority(&top, 1, "a", 100), 254);
    top.priority = 1;
    top.spread = 2;
    assert!((1..=254).contains(&priority(&top, 1, "a", 0)));
    assert_eq!(priority(&group(1, 1, &[]), 1, "a", 100), 253);
    assert_eq!(priority(&group(1, 1, &[]), 1, "a", i32::MAX), 253);
    assert_eq!(priority(&group(1, 1, &[]), 1, "a", i32::MIN), 200);
}

#[test]
fn vips_spread_and_stay() {
    let vips: Vec<IpAddr> = (0..200u8).map(|last| Ipv4Addr::new(192, 0, 2, last).into()).collect();
    let four = group(10, 4, &[]);
    let mut counts = [0; 4];
    for vip in &vips {
        counts[usize::from(router_of(&four, *vip) - 10)] += 1;
    }
    assert!(counts.iter().all(|count| (25..=75).contains(count)), "{counts:?}");
    let five = group(10, 5, &[]);
    for vip in &vips {
        let (before, after) = (router_of(&four, *vip), router_of(&five, *vip));
        assert!(after == before || after == 14, "{vip} moves to the new router or not at all");
    }
    assert_eq!(router_of(&group(255, 1, &[]), vips[0]), 255);
}
