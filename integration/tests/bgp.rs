//! What a change costs: the speaker with a real gobgpd as its engine and FRR as the top of the rack; what counts is the
//! router's kernel and the messages that it had.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::net::IpAddr;
use std::time::Duration;

use edge_bgp::Tell;
use edge_config::announce::{Attributes, Bgp, NextHop, Prefix};
use edge_integration::edged::until;
use edge_integration::rack::{Rack, TOR, V4, V6, plan};
use edge_integration::router::wire;
use edge_integration::speaker::{Rig, announced, bgp, peer, prefix, prefix_with, told, wanted};

/// Two routers' worth of neighbors: a second session from another address of the router.
const SECOND: &str = " neighbor 10.1.2.1 remote-as 65101
 neighbor 10.1.2.1 timers 3 9
 neighbor 10.1.2.1 timers connect 1
";

fn two_sessions(scenario: &str) -> Option<(Rack, Bgp)> {
    let config = TOR.replace(" address-family", &format!("{SECOND} address-family"));
    let rack = Rack::start(scenario, &config)?;
    wire(
        (&rack.edge, "up1", &["10.1.2.1/30", "fd00:1:2::1/64"]),
        (&rack.tor, "down1", &["10.1.2.2/30", "fd00:1:2::2/64"]),
    );
    let mut plan = bgp(65101, "10.1.1.1");
    plan.peers = vec![peer("left", "10.1.1.2", 65000), peer("right", "10.1.2.2", 65000)];
    Some((rack, plan))
}

#[test]
fn a_changed_timer_resets_its_own_session_only() {
    let Some((rack, mut plan)) = two_sessions("timer") else { return };
    plan.prefixes = vec![prefix(V4, &["left", "right"])];
    let rig = Rig::new(&rack.edge);
    rig.set(announced(&plan));
    rig.established("left");
    rig.established("right");
    until("both sessions tell it", || (rack.paths(V4).len() == 2).then_some(()));
    let quiet = rack.updates("10.1.1.1");
    plan.peers[1].hold_time = Duration::from_secs(6);
    plan.peers[1].keepalive = Duration::from_secs(2);
    rig.set(announced(&plan));
    until("the right session is made anew", || (rack.dropped("10.1.2.1") == 1).then_some(()));
    rig.until("with the new timer", |seen| seen.peer("right").unwrap().hold_time == Some(6));
    until("both sessions tell it", || (rack.paths(V4).len() == 2).then_some(()));
    assert_eq!((rack.dropped("10.1.1.1"), rack.updates("10.1.1.1")), (0, quiet), "the left one is not touched");
}

#[test]
fn a_changed_vip_is_news_of_that_vip_only() {
    let Some((rack, mut plan)) = two_sessions("vip") else { return };
    let many: Vec<Prefix> = (1..=50).map(|i| prefix(&format!("203.0.113.{i}/32"), &["left", "right"])).collect();
    plan.prefixes = many;
    let rig = Rig::new(&rack.edge);
    rig.set(announced(&plan));
    rig.established("left");
    rig.established("right");
    rack.has(50);
    until("both sessions tell all", || {
        let counts = rack.router.json("show bgp ipv4 unicast summary json");
        let count = |peer: &str| counts["peers"][peer]["pfxRcd"].as_u64();
        (count("10.1.1.1") == Some(50) && count("10.1.2.1") == Some(50)).then_some(())
    });
    let before = [rack.updates("10.1.1.1"), rack.updates("10.1.2.1")];
    // Another attribute for one peer of one VIP: another class, whose old and new rules are swapped under way.
    let marked = Attributes { communities: vec![65000 << 16 | 7], ..Attributes::default() };
    plan.prefixes[0] = prefix_with("203.0.113.1/32", &[(&["left"], marked), (&["right"], Attributes::default())]);
    rig.set(announced(&plan));
    until("the router has the community", || {
        let has = rack.paths("203.0.113.1/32").iter().any(|path| path["community"]["string"] == "65000:7");
        has.then_some(())
    });
    assert_eq!(rack.paths("203.0.113.1/32").iter().filter(|path| path.get("community").is_some()).count(), 1);
    // One of them withdrawn from one peer only.
    plan.prefixes[1] = prefix("203.0.113.2/32", &["left"]);
    rig.set(announced(&plan));
    until("one session tells it", || (rack.paths("203.0.113.2/32").len() == 1).then_some(()));
    let grown: Vec<u64> = [rack.updates("10.1.1.1"), rack.updates("10.1.2.1")]
        .iter()
        .zip(before)
        .map(|(now, before)| now - before)
        .collect();
    assert!(grown.iter().all(|updates| *updates <= 2), "two VIPs changed, {grown:?} updates");
    assert_eq!([rack.dropped("10.1.1.1"), rack.dropped("10.1.2.1")], [0, 0]);
}

#[test]
fn a_peer_that_comes_or_goes_is_no_news_for_the_others() {
    let Some((rack, both)) = two_sessions("peers") else { return };
    let with = |peers: &[&str]| {
        let mut plan = both.clone();
        plan.peers.retain(|peer| peers.contains(&&*peer.name));
        plan.prefixes = [V4, V6, "203.0.113.11/32"].map(|text| prefix(text, peers)).into();
        announced(&plan)
    };
    let rig = Rig::new(&rack.edge);
    rig.set(with(&["left"]));
    rig.established("left");
    rack.has(3);
    let updates = || rack.updates("10.1.1.1");
    let before = updates();
    for _ in 0..2 {
        rig.set(with(&["left", "right"]));
        rig.established("right");
        until("the new one is told", || (rack.paths(V4).len() == 2).then_some(()));
        rig.set(with(&["left"]));
        until("the old one is gone", || (rack.paths(V4).len() == 1).then_some(()));
    }
    assert_eq!((updates(), rack.dropped("10.1.1.1")), (before, 0));
    // What is told later is told by the policies of now.
    rig.set(wanted(&both, Tell::Withdrawn));
    rack.has(0);
    rig.set(with(&["left", "right"]));
    until("both are told", || (rack.paths(V4).len() == 2).then_some(()));
}

#[test]
fn each_peer_is_told_what_is_for_it() {
    let Some((rack, mut plan)) = two_sessions("attributes") else { return };
    let left = Attributes {
        communities: vec![65000 << 16 | 100],
        large_communities: vec![(65101, 1, 2)],
        med: Some(10),
        prepend: 2,
        local_pref: Some(77),
    };
    let right = Attributes { med: Some(20), ..Attributes::default() };
    plan.prefixes =
        vec![prefix_with(V4, &[(&["left"], left), (&["right"], right)]), prefix("198.51.100.0/24", &["right"])];
    let rig = Rig::new(&rack.edge);
    rig.set(announced(&plan));
    rig.established("left");
    rig.established("right");
    until("both sessions tell it", || (rack.paths(V4).len() == 2).then_some(()));
    let of = |peer: &str| {
        let found = rack.paths(V4).into_iter().find(|path| path["peer"]["peerId"] == peer);
        found.unwrap_or_else(|| panic!("{peer}: {:?}", rack.paths(V4)))
    };
    let (left, right) = (of("10.1.1.1"), of("10.1.2.1"));
    assert_eq!(
        (&left["community"]["string"], &left["largeCommunity"]["string"]),
        (&"65000:100".into(), &"65101:1:2".into())
    );
    assert_eq!((&left["aspath"]["string"], left["metric"].as_u64()), (&"65101 65101 65101".into(), Some(10)));
    assert_eq!((&right["aspath"]["string"], right["metric"].as_u64()), (&"65101".into(), Some(20)));
    assert_eq!((right.get("community"), right.get("largeCommunity")), (None, None));
    let seen = rig.until("adj-out has it", |seen| told(seen, "left", V4) && told(seen, "right", V4));
    let told_left =
        seen.prefix(&V4.parse().unwrap()).unwrap().told.iter().find(|told| &*told.peer == "left").unwrap().clone();
    assert_eq!((told_left.as_path, told_left.med, told_left.local_pref), (vec![65101; 3], Some(10), None));
    until("the other prefix is told", || (rack.paths("198.51.100.0/24").len() == 1).then_some(()));
    assert!(!told(&rig.seen(), "left", "198.51.100.0/24"));
}

#[test]
fn a_next_hop_that_is_given_is_told() {
    let Some(rack) = Rack::start("hop", TOR) else { return };
    let mut plan = plan();
    for prefix in &mut plan.prefixes {
        prefix.next_hop = NextHop { v4: Some("10.1.1.9".parse().unwrap()), v6: Some("fd00:1:1::9".parse().unwrap()) };
    }
    let rig = Rig::new(&rack.edge);
    rig.set(announced(&plan));
    rig.established("tor");
    // Somebody is there, as a router looks for the way to it.
    rack.edge.ip("addr add fd00:1:1::9/64 dev up0 nodad").unwrap();
    until("the router sends it there", || {
        let hops = |prefix: &str| rack.paths(prefix).first().map(|path| path["nexthops"][0]["ip"].clone());
        (hops(V4) == Some("10.1.1.9".into()) && hops(V6) == Some("fd00:1:1::9".into())).then_some(())
    });
    until("the kernel does", || (rack.router.gateways(V6) == ["fd00:1:1::9".parse::<IpAddr>().unwrap()]).then_some(()));
}

#[test]
fn two_hundred_vips_go_and_come_together() {
    let Some(rack) = Rack::start("many", TOR) else { return };
    let mut plan = plan();
    plan.prefixes = (0..200).map(|i| prefix(&format!("203.0.113.{i}/32"), &["tor"])).collect();
    let rig = Rig::new(&rack.edge);
    rig.set(announced(&plan));
    rig.established("tor");
    rack.has(200);
    let begun = std::time::Instant::now();
    rig.set(wanted(&plan, Tell::Withdrawn));
    let asked = begun.elapsed();
    rack.has(0);
    let gone = begun.elapsed();
    let begun = std::time::Instant::now();
    rig.set(announced(&plan));
    let again = begun.elapsed();
    rack.has(200);
    println!(
        "200 VIPs: withdrawn in {asked:?}, gone from the router's kernel after {gone:?}; announced in {again:?}, there after {:?}",
        begun.elapsed()
    );
    let seen = rig.until("adj-out has all", |seen| seen.prefixes.iter().all(|prefix| !prefix.told.is_empty()));
    assert_eq!(seen.peers[0].advertised, 200);
}
