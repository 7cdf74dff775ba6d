//! What must hold of every plan, tried with random peers, advertisements and VIPs over few names, so that they collide.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::announce::{Announce, Attributes};
use crate::compile::tests::add;
use crate::compile::{Compiled, compile};
use crate::edge_toml;
use crate::inputs::Inputs;
use crate::names::{Kind, ObjectKey, ObjectRef};

/// One object of MetalLB's: kind, name, spec.
type Piece = (Kind, String, Value);

fn selectors() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!([]),
        json!([]),
        json!([{"matchLabels": {"rack": "1"}}]),
        json!([{"matchLabels": {"rack": "2"}}]),
        json!([{"matchExpressions": [{"key": "rack", "operator": "Exists"}]}]),
    ])
}

fn pools() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![json!([]), json!(["a"]), json!(["b"]), json!(["a", "b"]), json!(["none"])])
}

fn peer() -> impl Strategy<Value = Piece> {
    let address = prop::sample::select(vec!["203.0.113.1", "203.0.113.2", "203.0.113.3", "2001:db8:1::1"]);
    let my = prop::sample::select(vec![64500, 64500, 64999, 0]);
    let extra = prop::sample::select(vec![
        json!({}),
        json!({}),
        json!({"dualStackAddressFamily": true}),
        json!({"vrf": "red"}),
        json!({"passwordSecret": {"name": "none"}}),
        json!({"password": "never-to-be-seen"}),
        json!({"bfdProfile": "none"}),
        json!({"holdTime": "1s"}),
    ]);
    (0..4u8, address, my, selectors(), extra).prop_map(|(name, address, my, nodes, extra)| {
        let mut spec = json!({"myASN": my, "peerASN": 64501, "peerAddress": address, "nodeSelectors": nodes});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        (Kind::BGPPeer, format!("m/p{name}"), spec)
    })
}

fn advertisement() -> impl Strategy<Value = Piece> {
    let peers = prop::sample::select(vec![json!([]), json!([]), json!(["p0", "tor"]), json!(["p1"]), json!(["none"])]);
    let pref = prop::sample::select(vec![0, 0, 100, 200]);
    let communities =
        prop::sample::select(vec![json!([]), json!(["1:2"]), json!(["blue", "large:1:2:3"]), json!(["?"])]);
    let length = prop::sample::select(vec![32, 32, 24, 26]);
    (0..4u8, pools(), selectors(), (peers, pref), communities, length).prop_map(
        |(name, pools, nodes, (peers, pref), communities, length)| {
            let spec = json!({
                "ipAddressPools": pools, "nodeSelectors": nodes, "peers": peers, "localPref": pref,
                "communities": communities, "aggregationLength": length,
            });
            (Kind::BGPAdvertisement, format!("m/a{name}"), spec)
        },
    )
}

fn l2_advertisement() -> impl Strategy<Value = Piece> {
    let interfaces = prop::sample::select(vec![json!([]), json!(["eth0"]), json!(["eth0", "eth1"]), json!(["eth9"])]);
    (0..3u8, pools(), selectors(), interfaces).prop_map(|(name, pools, nodes, interfaces)| {
        let spec = json!({"ipAddressPools": pools, "nodeSelectors": nodes, "interfaces": interfaces});
        (Kind::L2Advertisement, format!("m/l{name}"), spec)
    })
}

fn service() -> impl Strategy<Value = Piece> {
    let address =
        prop::sample::select(vec!["192.0.2.1", "192.0.2.2", "192.0.2.100", "198.51.100.1", "127.0.0.1", "2001:db8::1"]);
    (0..5u8, address).prop_map(|(name, address)| (Kind::Service, format!("s/s{name}"), json!(address)))
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let piece = prop_oneof![3 => peer(), 4 => advertisement(), 2 => l2_advertisement(), 4 => service()];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| {
        let mut seen = BTreeSet::new();
        pieces.into_iter().filter(|(kind, name, _)| seen.insert((*kind, name.clone()))).collect()
    })
}

const POOLS: &str = r#"
[[pool]]
name = "a"
addresses = ["192.0.2.0/25", "2001:db8::/120", "127.0.0.0/28"]
[[pool]]
name = "b"
addresses = ["198.51.100.0/26"]
[edge]
name = "here"
labels = { rack = "1" }
"#;

/// Sections beside the pools.
fn settings() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "",
        "[bgp]\n",
        "[bgp]\nasn = 64500\nmetallb = false\n",
        "[bgp]\nasn = 64500\n[[bgp.peer]]\nname = \"tor\"\naddress = \"203.0.113.1\"\nasn = 64501\n",
        "[bgp]\nasn = 64500\n[[bgp.peer]]\nname = \"tor\"\naddress = \"203.0.113.9\"\nasn = \"external\"\n[[bgp.advertisement]]\nname = \"x\"\nvips = [\"192.0.2.1\"]\nlocal_pref = 100\nmed = 3\n",
        "[l2]\ninterface = \"eth0\"\nrouter = 10\nspread = 3\n",
        "[l2]\ninterface = \"eth0\"\n[[l2.group]]\nname = \"g\"\nrouter = 9\nadvertisements = [\"l0\"]\n[[l2.group]]\nname = \"h\"\nrouter = 1\ninterface = \"eth1\"\npools = [\"b\"]\n[bgp]\nasn = 64500\n",
    ])
}

fn inputs(settings: &str, pieces: &[Piece]) -> Inputs {
    let text = format!("{POOLS}{settings}");
    let settings = edge_toml::decode(&"edge.toml".into(), &text).unwrap();
    let mut inputs = Inputs { settings: Arc::new(settings), ..Inputs::default() };
    for (kind, name, spec) in pieces {
        match kind {
            Kind::BGPPeer => add(&mut inputs.bgp_peers, name, 0, spec.clone()),
            Kind::BGPAdvertisement => add(&mut inputs.bgp_advertisements, name, 0, spec.clone()),
            Kind::L2Advertisement => add(&mut inputs.l2_advertisements, name, 0, spec.clone()),
            _ => {
                let ports = json!({"type": "LoadBalancer", "loadBalancerClass": "edge.internal/load-balancer", "ports": [{"port": 80}]});
                add(&mut inputs.services, name, 0, ports);
                let service = inputs.services.get_mut(&ObjectKey::parse(name)).unwrap();
                let annotation = ("metallb.io/loadBalancerIPs".to_owned(), spec.as_str().unwrap().to_owned());
                Arc::make_mut(service).meta.annotations.extend([annotation]);
            }
        }
    }
    inputs
}

fn check(compiled: &Compiled, inputs: &Inputs) {
    let plan = &compiled.snapshot.announce;
    let vips: Vec<IpAddr> = compiled.snapshot.vips.iter().map(|vip| vip.address).collect();
    let mut told = BTreeSet::new();
    if let Some(bgp) = &plan.bgp {
        let names: Vec<&Arc<str>> = bgp.peers.iter().map(|peer| &peer.name).collect();
        assert!(names.is_sorted() && names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
        let addresses: BTreeSet<_> = bgp.peers.iter().map(|peer| &peer.address).collect();
        assert_eq!(addresses.len(), bgp.peers.len(), "no address twice");
        assert!(bgp.prefixes.is_sorted_by(|a, b| a.prefix < b.prefix));
        for prefix in &bgp.prefixes {
            assert!(!prefix.vips.is_empty() && !prefix.offers.is_empty(), "{prefix:?}");
            for vip in &prefix.vips {
                assert!(vips.contains(vip), "{vip} is no VIP");
                assert!(prefix.prefix.contains(vip), "{prefix:?}");
                assert!(!vip.is_loopback());
            }
            told.extend(prefix.vips.iter().copied());
            let pools = &inputs.settings.pools;
            let ranges = || pools.iter().flat_map(|pool| &pool.addresses);
            let is_whole = ranges()
                .any(|range| range.contains(prefix.prefix.network()) && range.contains(prefix.prefix.broadcast()));
            assert!(is_whole, "{} tells of addresses of others", prefix.prefix);
            let peers: Vec<&Arc<str>> = prefix.offers.iter().flat_map(|offer| &offer.peers).collect();
            let set: BTreeSet<_> = peers.iter().collect();
            assert_eq!(set.len(), peers.len(), "{prefix:?}");
            for peer in peers {
                let peer = bgp.peers.iter().find(|known| known.name == *peer).expect("an offer names a peer");
                assert!(peer.families.has(prefix.vips[0]));
            }
            for Attributes { communities, large_communities, prepend, .. } in
                prefix.offers.iter().map(|offer| &offer.attributes)
            {
                assert!(communities.is_sorted_by(|a, b| a < b) && large_communities.is_sorted_by(|a, b| a < b));
                assert!(*prepend <= 10);
            }
        }
    }
    let mut routers = BTreeSet::new();
    for group in &plan.l2 {
        assert!(routers.insert((&group.interface, group.router)), "{group:?}");
        assert!(!group.vips.is_empty() && group.vips.is_sorted_by(|a, b| a < b));
        assert!((1..=254).contains(&group.priority) && !group.also.contains(&group.interface));
        for vip in &group.vips {
            assert!(vips.contains(vip), "{vip} is no VIP");
            assert!(told.insert(*vip) || plan.bgp.is_some(), "{vip} is of two groups");
        }
    }
    if plan.is_idle() {
        assert!(inputs.settings.bgp.is_none() && inputs.settings.l2.is_none());
    } else {
        let silent: BTreeSet<IpAddr> = plan.silent.iter().map(|(vip, _)| *vip).collect();
        assert_eq!(silent.len(), plan.silent.len());
        assert!(silent.is_disjoint(&told));
        assert!(vips.iter().all(|vip| told.contains(vip) || silent.contains(vip)), "each is told or has its reason");
        assert!(plan.silent.iter().all(|(_, why)| !why.is_empty() && !why.contains('\n')));
        assert!(plan.need_endpoint.is_sorted());
    }
    for kind in [Kind::BGPPeer, Kind::BGPAdvertisement, Kind::L2Advertisement] {
        for object in inputs.of_kind(kind) {
            assert!(compiled.report.objects.contains_key(&object.reference()), "{} says nothing", object.reference());
        }
    }
}

fn text(compiled: &Compiled) -> String {
    serde_json::to_string(&(&compiled.snapshot, &compiled.report)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_plan_is_sound(settings in settings(), pieces in pieces(), seed in any::<u64>()) {
        let inputs = self::inputs(settings, &pieces);
        let compiled = compile(&inputs);
        check(&compiled, &inputs);
        let text = text(&compiled);
        prop_assert!(!text.contains("never-to-be-seen"));
        let mut shuffled = pieces.clone();
        shuffled.sort_by_key(|(_, name, _)| name.bytes().fold(seed, |all, byte| all.rotate_left(5) ^ u64::from(byte)));
        prop_assert_eq!(&text, &self::text(&compile(&self::inputs(settings, &shuffled))));
    }
}

#[test]
fn a_broken_advertisement_is_not_everything_to_everybody() {
    let settings = "[bgp]\nasn = 64500\n[[bgp.peer]]\nname = \"tor\"\naddress = \"203.0.113.1\"\nasn = 64501\n[l2]\ninterface = \"eth0\"\nrouter = 1\n";
    let service = (Kind::Service, "s/s".to_owned(), json!("192.0.2.1"));
    let mut inputs = inputs(settings, &[service]);
    let plan = |inputs: &Inputs| -> Announce { compile(inputs).snapshot.announce.clone() };
    let whole = plan(&inputs);
    assert_eq!((whole.bgp.as_ref().unwrap().prefixes.len(), whole.l2.len(), whole.silent.len()), (1, 1, 0));
    for kind in [Kind::BGPAdvertisement, Kind::L2Advertisement] {
        inputs.unusable.insert(ObjectRef::new(kind, ObjectKey::new("m", "x")), "is broken".to_owned());
    }
    let broken = plan(&inputs);
    assert_eq!((broken.bgp.as_ref().unwrap().prefixes.len(), broken.l2.len()), (0, 0));
    assert_eq!(broken.silent[0].1, "BGP: no advertisement selects it; layer 2: no L2Advertisement selects it");
}

#[test]
fn peers_of_metallb_are_told_what_advertisements_say() {
    let service = (Kind::Service, "s/s".to_owned(), json!("192.0.2.1"));
    let peer = json!({"myASN": 64500, "peerASN": 64501, "peerAddress": "203.0.113.1"});
    let pieces = [service, (Kind::BGPPeer, "m/p".to_owned(), peer)];
    let plan = compile(&inputs("[bgp]\n", &pieces)).snapshot.announce.clone();
    assert_eq!(plan.silent[0].1, "BGP: no advertisement selects it");
    let both = "[bgp]\n[[bgp.peer]]\nname = \"tor\"\naddress = \"203.0.113.9\"\nasn = 64501\n";
    let bgp = compile(&inputs(both, &pieces)).snapshot.announce.bgp.clone().unwrap();
    assert_eq!(bgp.prefixes[0].offers[0].peers, ["tor".into()]);
    let all = (Kind::BGPAdvertisement, "m/all".to_owned(), json!({}));
    let pieces = [pieces[0].clone(), pieces[1].clone(), all];
    let bgp = compile(&inputs(both, &pieces)).snapshot.announce.bgp.clone().unwrap();
    assert_eq!(bgp.prefixes[0].offers[0].peers, ["p".into(), "tor".into()]);
}

#[test]
fn the_numbers_of_a_session_do_not_change_for_a_new_peer() {
    let peer = |asn: u32, address: &str, id: &str| json!({"myASN": asn, "peerASN": 64501, "peerAddress": address, "routerID": id});
    let mut inputs = inputs("[bgp]\n", &[]);
    add(&mut inputs.bgp_peers, "m/z-old", 1, peer(64500, "203.0.113.1", "203.0.113.9"));
    let before = compile(&inputs).snapshot.announce.bgp.clone().unwrap();
    add(&mut inputs.bgp_peers, "m/a-new", 2, peer(64999, "203.0.113.2", "203.0.113.8"));
    let compiled = compile(&inputs);
    let after = compiled.snapshot.announce.bgp.clone().unwrap();
    assert_eq!((after.asn, after.router_id), (before.asn, before.router_id));
    assert_eq!(after.peers[0].local_asn.map(|asn| asn.get()), Some(64999));
    assert_eq!(after.peers[1], before.peers[0]);
    let told: Vec<String> = compiled.report.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "test:1:1: warning: BGPPeer m/a-new: spec.routerID: 203.0.113.8 is not used, this edge has the id 203.0.113.9"
        ]
    );
}

#[test]
fn many_vips_are_one_table() {
    // 4000 VIPs and five advertisements: a plan is made in a moment, and every prefix shares the offers of its set.
    let mut inputs =
        inputs("[bgp]\nasn = 64500\n[[bgp.peer]]\nname = \"tor\"\naddress = \"203.0.113.1\"\nasn = 64501\n", &[]);
    let mut settings = (*inputs.settings).clone();
    settings.pools =
        vec![crate::settings::Pool::new("big", vec![crate::settings::AddressRange::parse("10.0.0.0/16").unwrap()])];
    inputs.settings = Arc::new(settings);
    for place in 0..4000 {
        let ports = json!({"type": "LoadBalancer", "loadBalancerClass": "edge.internal/load-balancer", "ports": [{"port": 80}]});
        add(&mut inputs.services, &format!("s/s{place}"), 0, ports);
    }
    for place in 0..5 {
        let spec = json!({"communities": [format!("1:{place}")]});
        add(&mut inputs.bgp_advertisements, &format!("m/a{place}"), 0, spec);
    }
    let bgp = compile(&inputs).snapshot.announce.bgp.clone().unwrap();
    assert_eq!(bgp.prefixes.len(), 4000);
    assert!(bgp.prefixes.iter().all(|prefix| prefix.offers[0].attributes.communities.len() == 5));
}
