//! Every kind of peer, and every reason why there is no session, with engines of series 3 and 4 and a real router.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use edge_bgp::Stopped;
use edge_config::announce::{Asn, Attributes, Engine, Listen, Password, PeerAddress, PeerAsn};
use edge_integration::edged::until;
use edge_integration::netns::Namespace;
use edge_integration::rack::{Rack, TOR, V4, V6, address, plan};
use edge_integration::router::{Daemon, wire};
use edge_integration::speaker::{GOBGPD, Rig, announced, bgp, gobgpd4, peer, prefix, prefix_with, told};
use rustix::process::Signal;

#[test]
fn a_wrong_as_is_called_by_its_name() {
    let Some(rack) = Rack::start("asn", &TOR.replace("router bgp 65000", "router bgp 65009")) else { return };
    let rig = Rig::new(&rack.edge);
    rig.set(announced(&plan()));
    let error = rig.error("tor", "wrong AS");
    assert!(error.ends_with("expected 65000"), "{error}");
    // The other way round the router refuses us.
    let mut right = plan();
    right.peers = vec![peer("tor", "10.1.1.2", 65009)];
    right.asn = Asn::new(65111).unwrap();
    rig.set(announced(&right));
    rig.error("tor", "as a rule it expects another AS than 65111");
    right.asn = plan().asn;
    rig.set(announced(&right));
    rig.established("tor");
    rack.has(2);
}

#[test]
fn a_wrong_password_is_found_in_the_kernel_s_counters() {
    a_wrong_password("md5", GOBGPD.into());
}

#[test]
fn series_four_has_passwords_too() {
    a_wrong_password("md5-4", gobgpd4().unwrap());
}

fn a_wrong_password(scenario: &str, program: PathBuf) {
    let Some(rack) = Rack::start(
        scenario,
        &TOR.replace(
            " neighbor 10.1.1.1 timers 3 9",
            " neighbor 10.1.1.1 password right\n neighbor 10.1.1.1 timers 3 9",
        ),
    ) else {
        return;
    };
    let rig = Rig::new(&rack.edge);
    let with = |password: Option<&str>| {
        let mut plan = plan();
        plan.engine = Engine::Child { program: program.clone() };
        plan.peers[0].password = password.map(|text| Password::File(format!("/x/{text}").into()));
        announced(&plan)
    };
    rig.set(with(Some("wrong")));
    rig.error("tor", "TCP-MD5: the kernel dropped");
    rig.set(with(Some("right")));
    rig.established("tor");
    rack.has(2);
    assert!(!format!("{:?}", rig.seen()).contains("right"), "a password is seen");
    let before = rack.dropped("10.1.1.1");
    rig.set(with(Some("right")));
    assert_eq!(rack.dropped("10.1.1.1"), before);
}

#[test]
fn a_vip_that_a_router_sends_back_is_not_used() {
    let Some(rack) = Rack::start("reflect", TOR) else { return };
    // Another edge has the same VIP, and the router tells us of it.
    let other = Namespace::new("bgp-reflect-other").unwrap();
    wire((&other, "up0", &["10.1.2.1/30", "fd00:1:2::1/64"]), (&rack.tor, "down1", &["10.1.2.2/30", "fd00:1:2::2/64"]));
    rack.router.configure(&[
        "router bgp 65000",
        "neighbor 10.1.2.1 remote-as 65102",
        "neighbor 10.1.2.1 timers connect 1",
        "address-family ipv4 unicast",
        "maximum-paths 8",
    ]);
    let mut theirs = bgp(65102, "10.1.2.1");
    theirs.peers = vec![peer("tor", "10.1.2.2", 65000)];
    theirs.prefixes = vec![prefix(V4, &["tor"])];
    let first = Rig::new(&other);
    first.set(announced(&theirs));
    first.established("tor");
    rack.has(1);

    let mut ours = plan();
    let weak = Attributes { local_pref: Some(50), ..Attributes::default() };
    ours.prefixes = vec![prefix_with(V4, &[(&["tor"], weak)])];
    let rig = Rig::new(&rack.edge);
    rig.set(announced(&ours));
    rig.established("tor");
    until("both edges are next hops", || {
        (rack.router.gateways(V4) == [address("10.1.1.1"), address("10.1.2.1")]).then_some(())
    });
    rig.until("the reflected route is counted", |seen| seen.peers[0].received > 0);
    // Reads the engine's table anew.
    rig.set(announced(&ours));
    let seen = rig.until("adj-out has it", |seen| told(seen, "tor", V4));
    assert_eq!(seen.peers[0].accepted, 0, "the engine's own table has a foreign route");
    // And never passed on: the router hears one path from each.
    assert_eq!(rack.paths(V4).len(), 2);
}

#[test]
fn a_peer_that_sends_a_whole_table_is_closed_and_named() {
    let Some(rack) = Rack::start("flood", TOR) else { return };
    let mut plan = plan();
    plan.peers[0].max_prefixes = 20;
    let rig = Rig::new(&rack.edge);
    rig.set(announced(&plan));
    rig.established("tor");
    rack.has(2);
    let routes: Vec<String> = (0..100).map(|i| format!("network 198.18.{i}.0/24")).collect();
    let mut lines = vec!["router bgp 65000", "no bgp network import-check", "address-family ipv4 unicast"];
    lines.extend(routes.iter().map(String::as_str));
    rack.router.configure(&lines);
    let error = rig.error("tor", "max_prefixes");
    assert!(error.contains("more than 20 prefixes"), "{error}");
    rack.has(0);
}

#[test]
fn reasons_are_given_for_peers_that_cannot_be_reached() {
    let Some(rack) = Rack::start("reasons", TOR) else { return };
    rack.router.configure(&["router bgp 65000", "neighbor 10.1.1.1 shutdown"]);
    let mut plan = plan();
    plan.peers = vec![
        peer("closed", "10.1.1.1", 65000),
        peer("far", "192.0.2.1", 65000),
        peer("nobody", "fd00:1:1::99", 65000),
        peer("shut", "10.1.1.2", 65000),
        peer("unnumbered", "up0", 65000),
    ];
    plan.peers[0].port = 1;
    let rig = Rig::new(&rack.edge);
    rig.set(announced(&plan));
    rig.error("far", "no route to it from this host");
    rig.error("nobody", "nobody answers for this address");
    rig.error("closed", "connection refused");
    rig.error("shut", "closed");
}

#[test]
fn a_router_that_falls_silent_is_given_up_after_the_hold_time() {
    let Some(rack) = Rack::start("silent", &TOR.replace("timers 3 9", "timers 1 3")) else { return };
    let mut plan = plan();
    (plan.peers[0].keepalive, plan.peers[0].hold_time) = (Duration::from_secs(1), Duration::from_secs(3));
    let rig = Rig::new(&rack.edge);
    rig.set(announced(&plan));
    rig.established("tor");
    rack.router.signal(Daemon::Bgpd, Signal::STOP);
    rig.error("tor", "hold timer expired: nothing was heard of the peer for 3 s");
    rack.router.signal(Daemon::Bgpd, Signal::CONT);
    let seen = rig.established("tor");
    assert_eq!(seen.peer("tor").unwrap().flaps, 1);
    rack.has(2);
}

#[test]
fn a_router_that_wants_another_ttl_is_named_with_the_setting() {
    let lines = " neighbor 10.1.1.1 timers 3 9\n neighbor 10.1.1.1 ttl-security hops 1";
    let Some(rack) = Rack::start("ttl", &TOR.replace(" neighbor 10.1.1.1 timers 3 9", lines)) else { return };
    let rig = Rig::new(&rack.edge);
    let mut plan = plan();
    rig.set(announced(&plan));
    println!("{}", rig.error("tor", "ttl_security"));
    plan.peers[0].ttl_security = Some(254);
    rig.set(announced(&plan));
    rig.established("tor");
    rack.has(2);
}

#[test]
fn sessions_may_use_other_ports() {
    // FRR has one port for all of its neighbors, so the other end is a gobgpd.
    let Some(rack) = Rack::start("ports", "") else { return };
    let mut theirs = bgp(65000, "10.9.0.1");
    theirs.listen = Some(Listen { port: 1790, addresses: vec![address("10.1.1.2")] });
    theirs.peers = vec![peer("edge", "10.1.1.1", 65101)];
    theirs.peers[0].is_passive = true;
    let router = Rig::new(&rack.tor);
    router.set(announced(&theirs));
    let rig = Rig::new(&rack.edge);
    let mut plan = plan();
    plan.listen = None;
    rig.set(announced(&plan));
    rig.error("tor", "connection refused");
    plan.peers[0].port = 1790;
    rig.set(announced(&plan));
    rig.established("tor");
    rig.until("both are told", |seen| told(seen, "tor", V4) && told(seen, "tor", V6));
    let heard = router.until("both are heard", |seen| seen.peer("edge").is_some_and(|peer| peer.received == 2));
    assert_eq!(heard.peer("edge").unwrap().accepted, 0, "no edge uses what another one tells");
}

#[test]
fn sessions_of_every_kind_come_up() {
    every_kind("kinds", Path::new(GOBGPD));
}

#[test]
fn sessions_of_every_kind_come_up_with_series_four() {
    every_kind("kinds4", &gobgpd4().unwrap());
}

fn every_kind(scenario: &str, program: &Path) {
    type Case = (&'static str, &'static [&'static str], fn(&mut edge_config::announce::Peer));
    let cases: [Case; 6] = [
        ("over IPv6", &["neighbor fd00:1:1::1 remote-as 65101", "neighbor fd00:1:1::1 timers connect 1"], |peer| {
            peer.address = PeerAddress::Address(address("fd00:1:1::2"));
        }),
        ("passive", &["neighbor 10.1.1.1 remote-as 65101", "neighbor 10.1.1.1 timers connect 1"], |peer| {
            peer.is_passive = true;
        }),
        (
            "iBGP with a local AS",
            &["neighbor 10.1.1.1 remote-as internal", "neighbor 10.1.1.1 timers connect 1"],
            |peer| {
                peer.local_asn = Asn::new(65000);
                peer.asn = PeerAsn::Internal;
            },
        ),
        (
            "external, whatever its number",
            &["neighbor 10.1.1.1 remote-as external", "neighbor 10.1.1.1 timers connect 1"],
            |peer| {
                peer.asn = PeerAsn::External;
            },
        ),
        (
            "TTL security",
            &[
                "neighbor 10.1.1.1 remote-as 65101",
                "neighbor 10.1.1.1 ttl-security hops 1",
                "neighbor 10.1.1.1 timers connect 1",
            ],
            |peer| {
                peer.ttl_security = Some(254);
            },
        ),
        (
            "several hops, from a source of ours",
            &[
                "neighbor 10.8.0.1 remote-as 65101",
                "neighbor 10.8.0.1 ebgp-multihop 3",
                "neighbor 10.8.0.1 update-source 10.9.0.1",
                "neighbor 10.8.0.1 timers connect 1",
            ],
            |peer| {
                peer.address = PeerAddress::Address(address("10.9.0.1"));
                peer.source = Some(address("10.8.0.1"));
                peer.multihop = Some(3);
            },
        ),
    ];
    let Some(rack) = Rack::start(scenario, "") else { return };
    rack.tor.ip("addr add 10.9.0.1/32 dev lo").unwrap();
    rack.edge.ip("addr add 10.8.0.1/32 dev lo").unwrap();
    rack.tor.ip("route add 10.8.0.1/32 via 10.1.1.1").unwrap();
    rack.edge.ip("route add 10.9.0.1/32 via 10.1.1.2").unwrap();
    for (what, lines, change) in cases {
        eprintln!("{what}");
        let base = ["router bgp 65000", "bgp router-id 10.9.0.1", "no bgp ebgp-requires-policy"];
        let neighbor = lines[0].split(' ').nth(1).unwrap();
        let activate = format!("neighbor {neighbor} activate");
        let families =
            ["address-family ipv4 unicast", &activate, "exit-address-family", "address-family ipv6 unicast", &activate];
        rack.router.configure(&[&base[..], lines, &families[..]].concat());
        let rig = Rig::new(&rack.edge);
        let mut plan = plan();
        plan.engine = Engine::Child { program: program.to_path_buf() };
        change(&mut plan.peers[0]);
        let attributes = Attributes { local_pref: Some(77), prepend: 1, ..Attributes::default() };
        plan.prefixes[0] = prefix_with(V4, &[(&["tor"], attributes)]);
        rig.set(announced(&plan));
        rig.established("tor");
        rack.has(2);
        let seen = rig.until("both are told", |seen| told(seen, "tor", V4) && told(seen, "tor", V6));
        assert_eq!(seen.peer("tor").unwrap().error, None, "{what}");
        let path = &rack.paths(V4)[0];
        let expected = if what.starts_with("iBGP") { ("Local", Some(77)) } else { ("65101 65101", None) };
        assert_eq!((path["aspath"]["string"].as_str().unwrap(), path["locPrf"].as_u64()), expected, "{what}: {path}");
        assert_eq!(rig.stop(), Stopped::Withdrawn, "{what}");
        rack.has(0);
        rack.router.configure(&["no router bgp"]);
    }
}

#[test]
fn an_unnumbered_peer_is_found_by_its_interface() {
    an_unnumbered_peer("unnumbered", GOBGPD.into());
}

#[test]
fn series_four_has_unnumbered_peers_too() {
    an_unnumbered_peer("unnumbered4", gobgpd4().unwrap());
}

fn an_unnumbered_peer(scenario: &str, program: PathBuf) {
    let Some(rack) = Rack::start(scenario, "") else { return };
    let local = |namespace: &Namespace, interface: &str| {
        until("a link-local address", || {
            let text = namespace.ip(&format!("-6 -o addr show dev {interface} scope link -tentative")).ok()?;
            text.split_whitespace().find_map(|word| word.strip_suffix("/64")).map(str::to_owned)
        })
    };
    let (ours, theirs): (String, String) = (local(&rack.edge, "up0"), local(&rack.tor, "down0"));
    let rig = Rig::new(&rack.edge);
    let mut plan = plan();
    plan.engine = Engine::Child { program };
    plan.peers = vec![peer("tor", "up0", 65000)];
    rig.set(announced(&plan));
    // Nobody was heard on that wire yet.
    rig.error("tor", "expected one router there");
    let neighbor = format!("neighbor {ours}");
    let lines: Vec<String> = [
        "router bgp 65000".to_owned(),
        "bgp router-id 10.9.0.1".to_owned(),
        "no bgp ebgp-requires-policy".to_owned(),
        format!("{neighbor} remote-as 65101"),
        format!("{neighbor} interface down0"),
        format!("{neighbor} timers connect 1"),
        format!("{neighbor} capability extended-nexthop"),
        "address-family ipv4 unicast".to_owned(),
        format!("{neighbor} activate"),
        "exit-address-family".to_owned(),
        "address-family ipv6 unicast".to_owned(),
        format!("{neighbor} activate"),
    ]
    .into();
    rack.router.configure(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    // Any word of the router makes our kernel learn its address, as its router advertisements do elsewhere.
    let index = rack.tor.ip("-o link show dev down0").unwrap().split(':').next().unwrap().parse().unwrap();
    let target = std::net::SocketAddrV6::new(ours.parse().unwrap(), 9, 0, index);
    rack.tor.run(|| std::net::UdpSocket::bind("[::]:0").unwrap().send_to(b"hello", target).unwrap()).unwrap();
    let seen = rig.established("tor");
    assert_eq!(seen.peer("tor").unwrap().address, Some(format!("{theirs}%up0")));
    rig.until("both are told", |seen| told(seen, "tor", V4) && told(seen, "tor", V6));
    rack.has(2);
    assert_eq!(rig.stop(), Stopped::Withdrawn);
    rack.has(0);
}
