//! The calls are made to a model of an engine that is as strict as gobgpd, and after each of them it is asked what its
//! peers are told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use edge_config::announce::{
    Asn, Attributes, Engine as Place, Families, Listen, NextHop, Offer, Peer, PeerAddress, PeerAsn,
};
use ipnet::IpNet;
use proptest::prelude::*;

use super::model::{Set, SetKind};
use super::target::Found;
use super::*;
use crate::wanted::{PeerPassword, Secret, Tell, Wanted, WantedPeer, WantedPrefix};

mod keep;

#[derive(Debug, Clone, Default)]
struct Model {
    seen: Seen,
    sets: BTreeMap<(SetKind, String), Set>,
    classes: BTreeMap<String, Class>,
}

/// What one neighbor is told of one prefix.
type ToldModel = BTreeMap<(IpAddr, IpNet), (Actions, IpAddr, bool)>;

impl Model {
    fn apply(&mut self, call: &Call) {
        let seen = &mut self.seen;
        assert!(seen.global.is_some() || matches!(call, Call::Start(_)), "{call:?}: not started");
        match call {
            Call::Stop => *self = Self::default(),
            Call::Start(global) => {
                assert!(seen.global.is_none(), "started twice");
                seen.global = Some(global.clone());
            }
            Call::AddSet(set) => {
                assert!(!set.members.is_empty(), "an empty set matches everybody");
                assert!(seen.sets.insert(set.key()), "{set:?} would be appended to the one that is there");
                self.sets.insert(set.key(), set.clone());
            }
            Call::AddImport => assert!(seen.policies.insert(IMPORT.to_owned()), "defined twice"),
            Call::AddPolicy(class) => {
                for set in class.sets() {
                    assert_eq!(self.sets.get(&set.key()), Some(&set), "a set of {} is missing", class.name);
                }
                assert!(seen.policies.insert(class.name.clone()), "defined twice");
                self.classes.insert(class.name.clone(), class.clone());
            }
            Call::Assign(direction, assignment) => {
                for name in &assignment.policies {
                    assert!(seen.policies.contains(name), "{name} is not defined");
                }
                match direction {
                    Direction::Import => seen.import = assignment.clone(),
                    Direction::Export => seen.export = assignment.clone(),
                }
            }
            Call::Announce(paths) => {
                assert_eq!(seen.import.policies, [IMPORT], "a router could take over our own path");
                assert!(!seen.export.accepts && !paths.is_empty());
                seen.paths.extend(paths.iter().map(|path| (path.prefix, path.clone())));
            }
            Call::Withdraw(paths) => {
                assert!(!paths.is_empty(), "nothing would mean everything");
                for path in paths {
                    assert_eq!(seen.paths.remove(&path.prefix).as_ref(), Some(path));
                }
            }
            Call::AddPeer(peer) => {
                assert!(!seen.import.accepts && !seen.export.accepts, "a transit");
                let there = SeenPeer {
                    address: peer.key.to_string(),
                    description: peer.description(),
                    password: peer.password.clone(),
                };
                assert!(seen.peers.insert(peer.key.clone(), there).is_none(), "added twice");
            }
            Call::DeletePeer(key, _) => assert!(seen.peers.remove(key).is_some(), "no such peer"),
            Call::DeletePolicy(name) => {
                assert!(!seen.export.policies.contains(name) && !seen.import.policies.contains(name), "in use");
                assert!(seen.policies.remove(name), "no such policy");
                self.classes.remove(name);
            }
            Call::DeleteSet(kind, name) => {
                let key = (*kind, name.clone());
                assert!(
                    !self.classes.values().any(|class| class.sets().iter().any(|set| set.key() == key)),
                    "{name} is in use"
                );
                assert!(seen.sets.remove(&key), "no such set");
                self.sets.remove(&key);
            }
        }
    }

    fn told(&self) -> ToldModel {
        let mut told = BTreeMap::new();
        let assigned = self.seen.export.policies.iter().filter_map(|name| self.classes.get(name));
        for class in assigned {
            for path in self.seen.paths.values().filter(|path| path.tag == class.tag) {
                for rule in &class.rules {
                    for neighbor in &rule.neighbors {
                        if self.seen.peers.contains_key(&PeerKey::Address(*neighbor)) {
                            told.insert(
                                (*neighbor, path.prefix),
                                (rule.actions.clone(), path.next_hop, path.is_leaving),
                            );
                        }
                    }
                }
            }
        }
        told
    }
}

fn asn(number: u32) -> Asn {
    Asn::new(number).unwrap()
}

fn peer(name: &str, address: &str) -> WantedPeer {
    let address = address.parse().map_or_else(|_| PeerAddress::Interface(address.to_owned()), PeerAddress::Address);
    let peer = Peer {
        families: Families { v4: true, v6: true },
        max_prefixes: 100,
        ..Peer::plain(name, address, PeerAsn::Number(asn(65000)))
    };
    let own = NextHop { v4: None, v6: Some("fd00::1".parse().unwrap()) };
    WantedPeer { peer, password: PeerPassword::None, own, held: None }
}

fn offer(peers: &[&str], attributes: Attributes) -> Offer {
    Offer { peers: peers.iter().map(|name| Arc::from(*name)).collect(), attributes }
}

fn prefix(text: &str, offers: Vec<Offer>) -> WantedPrefix {
    WantedPrefix { prefix: text.parse().unwrap(), next_hop: NextHop::default(), offers, tell: Tell::Announced }
}

fn two_peers() -> Wanted {
    let everybody = || vec![offer(&["a", "b"], Attributes::default())];
    Wanted {
        engine: Place::Child { program: "/usr/bin/gobgpd".into() },
        asn: asn(65101),
        router_id: "10.0.0.1".parse().unwrap(),
        listen: None,
        peers: vec![peer("a", "10.0.0.2"), peer("b", "10.0.0.3")],
        prefixes: vec![prefix("203.0.113.1/32", everybody()), prefix("2001:db8::1/128", everybody())],
    }
}

fn goal(wanted: &Wanted) -> Target {
    target(wanted, &BTreeMap::new()).0
}

/// Makes the engine as wanted and returns the calls; there must be none left afterwards.
fn reach(model: &mut Model, wanted: &Wanted) -> Vec<Call> {
    let target = goal(wanted);
    let calls = plan(&target, &model.seen);
    for call in &calls {
        model.apply(call);
    }
    assert_eq!(plan(&target, &model.seen), [], "not done after {calls:#?}");
    calls
}

fn kinds(calls: &[Call]) -> Vec<String> {
    let word = |call: &Call| {
        let text = format!("{call:?}");
        text.split(['(', ' ', '{']).next().unwrap().to_owned()
    };
    calls.iter().map(word).collect()
}

#[test]
fn an_empty_engine_is_filled_in_the_safe_order() {
    let calls = reach(&mut Model::default(), &two_peers());
    let expected = [
        "Start",
        "AddImport",
        "Assign",
        "AddSet",
        "AddSet",
        "AddPolicy",
        "AddSet",
        "AddSet",
        "AddPolicy",
        "Assign",
        "Announce",
        "AddPeer",
        "AddPeer",
    ];
    assert_eq!(kinds(&calls), expected);
}

#[test]
fn changes_touch_what_they_concern_and_nothing_else() {
    let peers = |change: fn(&mut Wanted)| {
        let mut model = Model::default();
        let mut wanted = two_peers();
        reach(&mut model, &wanted);
        change(&mut wanted);
        kinds(&reach(&mut model, &wanted)).join(" ")
    };
    type Case = (&'static str, fn(&mut Wanted), &'static str);
    let cases: [Case; 13] = [
        ("nothing", |_| {}, ""),
        (
            "withdrawn",
            |wanted| wanted.prefixes[0].tell = Tell::Withdrawn,
            "Withdraw Assign DeletePolicy DeleteSet DeleteSet",
        ),
        ("leaving", |wanted| wanted.prefixes[0].tell = Tell::Leaving, "Announce"),
        (
            "a prefix of a class that is there",
            |wanted| {
                let mut more = wanted.prefixes[0].clone();
                more.prefix = "203.0.113.2/32".parse().unwrap();
                wanted.prefixes.push(more);
            },
            "Announce",
        ),
        (
            "another attribute",
            |wanted| wanted.prefixes[0].offers[0].attributes.med = Some(5),
            "AddSet AddSet AddPolicy Assign Announce Assign DeletePolicy DeleteSet DeleteSet",
        ),
        ("a timer", |wanted| wanted.peers[1].peer.hold_time = Duration::from_secs(30), "DeletePeer AddPeer"),
        (
            "a password",
            |wanted| wanted.peers[0].password = PeerPassword::Is(Secret::new("x".to_owned())),
            "DeletePeer AddPeer",
        ),
        (
            "a password that cannot be read",
            |wanted| wanted.peers[0].password = PeerPassword::Missing("gone".to_owned()),
            "",
        ),
        (
            "the address of a peer",
            |wanted| wanted.peers[0].peer.address = PeerAddress::Address("10.0.0.9".parse().unwrap()),
            "AddSet AddSet AddPolicy AddSet AddSet AddPolicy Assign Announce DeletePeer AddPeer Assign DeletePolicy DeletePolicy DeleteSet DeleteSet DeleteSet DeleteSet",
        ),
        ("a peer that BFD has lost", |wanted| wanted.peers[0].held = Some("lost".to_owned()), "DeletePeer"),
        ("a peer that is told nothing", |wanted| wanted.peers.push(peer("c", "10.0.0.4")), "AddPeer"),
        ("BFD, which is not the engine's", |wanted| wanted.peers[0].peer.bfd = None, ""),
        (
            "our AS",
            |wanted| wanted.asn = asn(65102),
            "Stop Start AddImport Assign AddSet AddSet AddPolicy AddSet AddSet AddPolicy Assign Announce AddPeer AddPeer",
        ),
    ];
    for (what, change, expected) in cases {
        assert_eq!(peers(change), expected, "{what}");
    }
}

#[test]
fn what_a_run_before_us_left_is_taken_over_or_removed() {
    let mut model = Model::default();
    let wanted = two_peers();
    reach(&mut model, &wanted);
    // Somebody else's policy, set and peer are not among what is seen; a set of ours without its policy is.
    let stale = Set { kind: SetKind::Tags, name: "edge-00".to_owned(), members: vec!["^1:2:3$".to_owned()] };
    model.apply(&Call::AddSet(stale));
    assert_eq!(kinds(&reach(&mut model, &wanted)), ["DeleteSet"]);

    let mut less = wanted.clone();
    less.peers.pop();
    less.prefixes.pop();
    let calls = reach(&mut model, &less);
    assert!(calls.contains(&Call::DeletePeer(PeerKey::Address("10.0.0.3".parse().unwrap()), "10.0.0.3".to_owned())));
    assert_eq!(model.seen.paths.len(), 1);
}

#[test]
fn a_set_that_a_cut_off_run_left_is_used() {
    let mut model = Model::default();
    let target = goal(&two_peers());
    let calls = plan(&target, &model.seen);
    for cut in 0..calls.len() {
        let mut model = Model::default();
        for call in &calls[..cut] {
            model.apply(call);
        }
        for call in plan(&target, &model.seen) {
            model.apply(&call);
        }
        assert_eq!(plan(&target, &model.seen), [], "cut off after {cut} calls");
    }
    for call in &calls {
        model.apply(call);
    }
}

#[test]
fn an_engine_that_serves_others_is_not_started_anew() {
    let mut model = Model::default();
    let mut wanted = two_peers();
    reach(&mut model, &wanted);
    model.seen.foreign_peers = 2;
    assert_eq!(refusal(&goal(&wanted), &model.seen), None);
    wanted.asn = asn(65102);
    let why = refusal(&goal(&wanted), &model.seen).unwrap();
    assert!(why.contains("runs as AS 65101") && why.contains("expected AS 65102"), "{why}");
}

#[test]
fn attributes_go_to_whom_they_are_for() {
    let mut wanted = two_peers();
    wanted.peers[1].peer.asn = PeerAsn::Internal;
    let attributes = Attributes {
        communities: vec![65000 << 16 | 100],
        large_communities: vec![(65101, 1, 2)],
        local_pref: Some(50),
        med: Some(10),
        prepend: 2,
    };
    wanted.prefixes = vec![prefix("203.0.113.1/32", vec![offer(&["a", "b"], attributes)])];
    let mut model = Model::default();
    reach(&mut model, &wanted);
    let told = model.told();
    let of = |address: &str| &told[&(address.parse().unwrap(), "203.0.113.1/32".parse().unwrap())].0;
    assert_eq!((of("10.0.0.2").prepend, of("10.0.0.2").local_pref), (Some((65101, 2)), None), "external");
    assert_eq!((of("10.0.0.3").prepend, of("10.0.0.3").local_pref), (None, Some(50)), "internal");
}

#[test]
fn next_hops_of_the_other_family_come_from_the_host() {
    let mut wanted = two_peers();
    wanted.peers[1].own = NextHop::default();
    let (target, untold) = target(&wanted, &BTreeMap::new());
    let next_hops = target.classes.values().flat_map(|class| &class.rules).map(|rule| rule.actions.next_hop);
    let found: BTreeSet<Option<IpAddr>> = next_hops.collect();
    assert_eq!(found, BTreeSet::from([None, Some("fd00::1".parse().unwrap())]));
    assert!(untold["b"].contains("no IPv6 address"), "{untold:?}");

    wanted.prefixes[1].next_hop.v6 = Some("2001:db8::ff".parse().unwrap());
    let (target, untold) = super::target(&wanted, &BTreeMap::new());
    assert_eq!(untold.len(), 0, "the next hop is given");
    assert_eq!(target.paths[&wanted.prefixes[1].prefix].next_hop, "2001:db8::ff".parse::<IpAddr>().unwrap());
}

#[test]
fn an_unnumbered_peer_is_told_when_its_address_is_known() {
    let mut wanted = two_peers();
    wanted.peers = vec![peer("a", "eth0")];
    assert_eq!(goal(&wanted).classes.len(), 0);
    let found = Found { neighbor: Some("fe80::1".parse().unwrap()), ..Found::default() };
    let (target, untold) = target(&wanted, &BTreeMap::from([(Arc::from("a"), found)]));
    let rules: Vec<_> = target.classes.values().flat_map(|class| &class.rules).collect();
    assert!(rules.iter().all(|rule| rule.neighbors == ["fe80::1".parse::<IpAddr>().unwrap()]), "{rules:?}");
    assert_eq!((rules.len(), untold.len()), (2, 0), "a class of each family");
}

#[test]
fn an_external_peer_with_our_own_number_is_told_nothing() {
    let mut wanted = two_peers();
    wanted.peers[0].peer.asn = PeerAsn::External;
    for (says, rules, reason) in [(None, 2, false), (Some(65000), 2, false), (Some(65101), 1, true)] {
        let found = BTreeMap::from([(Arc::from("a"), Found { asn: says, ..Found::default() })]);
        let (target, untold) = target(&wanted, &found);
        let told: BTreeSet<IpAddr> =
            target.classes.values().flat_map(|class| &class.rules).flat_map(|rule| rule.neighbors.clone()).collect();
        assert_eq!((told.len(), untold.contains_key("a")), (rules, reason), "{says:?}: {untold:?}");
    }
}

#[test]
fn an_engine_listens_where_it_is_told() {
    let global = |port: i32, addresses: &[&str]| Global {
        asn: 1,
        router_id: "10.0.0.1".parse().unwrap(),
        port,
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
    };
    let cases = [
        (global(179, &[]), global(179, &["0.0.0.0", "::"]), true),
        (global(179, &[]), global(179, &["10.0.0.1"]), false),
        (global(179, &["10.0.0.1", "::1"]), global(179, &["::1", "10.0.0.1"]), true),
        (global(179, &["10.0.0.1"]), global(179, &["0.0.0.0", "::"]), false),
        (global(-1, &[]), global(-1, &["10.0.0.1"]), true),
        (global(-1, &[]), global(179, &[]), false),
    ];
    for (ours, theirs, expected) in cases {
        assert_eq!(ours.is_served_by(&theirs), expected, "{ours:?} {theirs:?}");
    }
}

#[test]
fn tags_are_told_from_other_large_communities() {
    let tag = Tag::new(65101, 0x0123_4567_89ab_cdef);
    assert_eq!(tag, Tag { asn: 65101, high: 0xed6e_4567, low: 0x89ab_cdef });
    assert_eq!(Tag::of((tag.asn, tag.high, tag.low)), Some(tag));
    assert_eq!(Tag::of((65101, 1, 2)), None);
    // Names in an engine outlive us; a test vector of FNV-1a's authors.
    assert_eq!(model::digest(b"foobar"), 0x8594_4171_f739_67e8);
}

#[test]
fn the_description_of_a_peer_holds_no_secret() {
    let mut wanted = two_peers();
    let before = goal(&wanted).peers.into_values().next().unwrap().description();
    wanted.peers[0].password = PeerPassword::Is(Secret::new("hunter2".to_owned()));
    assert!(!format!("{wanted:?}").contains("hunter2"));
    assert_eq!(goal(&wanted).peers.into_values().next().unwrap().description(), before);
}

const PEERS: [(&str, &str); 4] = [("a", "10.0.0.2"), ("b", "10.0.0.3"), ("c", "fd00::4"), ("d", "10.0.0.5")];
const PREFIXES: [&str; 5] =
    ["203.0.113.1/32", "203.0.113.2/32", "198.51.100.0/24", "2001:db8::1/128", "2001:db8:1::/64"];

prop_compose! {
    fn any_attributes()(communities in proptest::collection::vec(1_u32..3, 0..2), med in proptest::option::of(1_u32..3),
                        local_pref in proptest::option::of(50_u32..52), prepend in 0_u8..2) -> Attributes {
        Attributes { communities, large_communities: Vec::new(), local_pref, med, prepend }
    }
}

prop_compose! {
    fn any_peer(index: usize)(hold in 3_u64..5, password in 0_u8..3, internal in any::<bool>(), v6 in any::<bool>()) -> WantedPeer {
        let mut wanted = peer(PEERS[index].0, PEERS[index].1);
        wanted.peer.hold_time = Duration::from_secs(hold);
        wanted.peer.families.v6 = v6;
        wanted.own.v4 = Some("10.0.0.1".parse().unwrap());
        if internal {
            wanted.peer.asn = PeerAsn::Internal;
        }
        if password > 0 {
            wanted.password = PeerPassword::Is(Secret::new(password.to_string()));
        }
        wanted
    }
}

prop_compose! {
    fn any_prefix(index: usize)(cut in 0_usize..5, first in any_attributes(), second in any_attributes(), tell in 0_u8..4) -> WantedPrefix {
        let names: Vec<&str> = PEERS.iter().map(|(name, _)| *name).collect();
        let (left, right) = names.split_at(cut.min(names.len()));
        let mut wanted = prefix(PREFIXES[index], vec![offer(left, first), offer(right, second)]);
        wanted.tell = match tell {
            0 => Tell::Withdrawn,
            1 => Tell::Leaving,
            _ => Tell::Announced,
        };
        wanted
    }
}

fn any_wanted() -> impl Strategy<Value = Wanted> {
    let peers: Vec<_> = (0..PEERS.len()).map(any_peer).collect();
    let prefixes: Vec<_> = (0..PREFIXES.len()).map(any_prefix).collect();
    let which = (proptest::bits::u8::masked(0b1111), proptest::bits::u8::masked(0b11111));
    (peers, prefixes, which, any::<bool>()).prop_map(|(peers, prefixes, (has_peer, has_prefix), listens)| Wanted {
        listen: listens.then(|| Listen { port: 179, addresses: Vec::new() }),
        peers: pick(peers, has_peer),
        prefixes: pick(prefixes, has_prefix),
        ..two_peers()
    })
}

fn pick<T>(all: Vec<T>, mask: u8) -> Vec<T> {
    all.into_iter().enumerate().filter(|(index, _)| mask >> index & 1 == 1).map(|(_, item)| item).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever was wanted before, the engine comes to hold what is wanted now, and it holds the same as one that was
    /// never anything else.
    #[test]
    fn every_wanted_set_is_reached_from_every_other(one in any_wanted(), two in any_wanted(), three in any_wanted()) {
        let mut model = Model::default();
        for wanted in [&one, &two, &three] {
            reach(&mut model, wanted);
            let mut fresh = Model::default();
            reach(&mut fresh, wanted);
            prop_assert_eq!(&model.seen, &fresh.seen);
            prop_assert_eq!(model.told(), fresh.told());
        }
    }

    /// On the way nobody is told anything that is neither old nor new, and what is the same before and after is never
    /// away for a moment, unless the session itself has to be made anew.
    #[test]
    fn the_way_there_goes_through_nothing_else(one in any_wanted(), two in any_wanted()) {
        let two = Wanted { listen: one.listen.clone(), ..two };
        let mut model = Model::default();
        reach(&mut model, &one);
        let before = model.told();
        let calls = plan(&goal(&two), &model.seen);
        let after = {
            let mut model = model.clone();
            reach(&mut model, &two);
            model.told()
        };
        let renewed: BTreeSet<IpAddr> = calls.iter().filter_map(|call| match call {
            Call::DeletePeer(PeerKey::Address(address), _) => Some(*address),
            _ => None,
        }).collect();
        for call in &calls {
            model.apply(call);
            let now = model.told();
            for (key, value) in &now {
                prop_assert!(before.get(key) == Some(value) || after.get(key) == Some(value), "{:?} told {:?}", key, value);
            }
            for (key, value) in &before {
                if after.get(key) == Some(value) && !renewed.contains(&key.0) {
                    prop_assert_eq!(now.get(key), Some(value), "{:?}", call);
                }
            }
        }
    }

    /// A change of prefixes alone makes no call about peers, and none about the start.
    #[test]
    fn prefixes_touch_no_peer(one in any_wanted(), two in any_wanted()) {
        let mut model = Model::default();
        reach(&mut model, &one);
        let calls = reach(&mut model, &Wanted { prefixes: two.prefixes, ..one });
        for call in calls {
            prop_assert!(!matches!(call, Call::AddPeer(_) | Call::DeletePeer(..) | Call::Start(_) | Call::Stop), "{:?}", call);
        }
    }
}
