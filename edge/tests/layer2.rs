//! VIPs by ARP and NDP between real network namespaces: edges among themselves, and against keepalived. A bridge is the
//! switch, and a host without any part in it is the client. Needs root; skips loudly without.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

#[allow(dead_code, unreachable_pub)] // it is shared with the laboratory
#[path = "../../integration/src/netns.rs"]
mod netns;
#[path = "layer2/rig.rs"]
mod rig;

use std::net::IpAddr;
use std::time::Duration;

use edge::vip::l2::{L2Observed, VipHeld};
use edge_bgp::l2::Mac;
use edge_bgp::vrrp::{Discard, Role};
use edge_config::announce::{L2Group, L2Watch};

use rig::{Edge, Lan, V4, V6, group, ip, keepalived, until, wanted};

#[test]
fn the_better_edge_has_the_addresses_and_they_move_when_it_cannot_serve() {
    let Some(lan) = Lan::new("a") else { return };
    let (a, b) = (Edge::start(&lan, "a"), Edge::start(&lan, "b"));
    let heard = lan.listen("c");
    a.set(wanted(group(200), &[V4, V6]));
    b.set(wanted(group(100), &[V4, V6]));
    until("a leads", || a.role() == [Role::Active; 2] && b.role() == [Role::Backup; 2]);
    for vip in [V4, V6] {
        until("a has it, b has not", || lan.has("a", vip) && !lan.has("b", vip));
        until("the client finds a", || lan.reaches("c", vip) && lan.neighbour("c", vip) == Some(lan.mac("a")));
        let (_, election, seen) = b.vip(vip);
        assert_eq!(seen, VipHeld::NotHeld);
        assert_eq!(election.leader.unwrap().priority, 200);
    }
    assert_eq!(a.vip(V4).2, VipHeld::Held);
    let heard_of = |vip: &str, host| heard.announcements().iter().filter(|c| **c == (ip(vip), lan.mac(host))).count();
    // Five times: a request and a reply of ARP, an advertisement of NDP.
    until("the burst is over", || heard_of(V4, "a") >= 10 && heard_of(V6, "a") >= 5);

    a.set(wanted(group(200), &[]));
    until("b leads", || b.role() == [Role::Active; 2] && a.role() == [Role::Down; 2]);
    assert_eq!(b.vip(V4).1.reason, "198.51.100.1 gave the addresses up");
    assert_eq!(a.vip(V4).1.reason, "none of its VIPs may be served here");
    for vip in [V4, V6] {
        until("b has it, a has not", || lan.has("b", vip) && !lan.has("a", vip));
        // Without being asked: the client's entry is not stale, it was changed by what b told.
        until("the client was told", || lan.neighbour("c", vip) == Some(lan.mac("b")));
    }
    // A VIP that may not be served is with nobody, and the other stays.
    b.set(wanted(group(100), &[V4]));
    until("the IPv6 VIP is gone", || !lan.has("b", V6) && lan.has("b", V4));
    assert_eq!((b.vip(V6).2, b.vip(V4).2), (VipHeld::Withheld, VipHeld::Held));

    a.set(wanted(group(200), &[V4, V6]));
    until("a preempts", || lan.has("a", V4) && lan.has("a", V6) && !lan.has("b", V4));
    until("b's takeover was told", || heard_of(V4, "b") >= 2 && heard_of(V6, "b") >= 1);
    assert_eq!(a.vip(V4).1.counters.discarded, Default::default());
    a.stop();
    until("a left in order", || !lan.has("a", V4) && !lan.has("a", V6));
    until("b has what it may serve", || lan.has("b", V4));
    b.stop();
    assert!(!lan.has("b", V4));
}

#[test]
fn keepalived_and_an_edge_take_turns() {
    let Some(lan) = Lan::new("k") else { return };
    let a = Edge::start(&lan, "a");
    a.set(wanted(group(100), &[V4, V6]));
    until("a is alone", || a.role() == [Role::Active; 2]);

    let neighbour = keepalived(&lan, "b", 150, "");
    until("keepalived preempts", || a.role() == [Role::Backup; 2]);
    assert_eq!(a.vip(V4).1.reason, "198.51.100.2 has priority 150 and leads");
    until("the addresses moved", || lan.has("b", V4) && lan.has("b", V6) && !lan.has("a", V4) && !lan.has("a", V6));
    assert_eq!(a.vip(V4).1.leader.unwrap().address, ip("198.51.100.2"));
    let problems: Vec<String> = a.elections().into_iter().flat_map(|election| election.problems).collect();
    assert_eq!(problems, Vec::<String>::new(), "both advertise the same addresses");

    a.set(wanted(group(200), &[V4, V6]));
    until("the edge preempts", || a.role() == [Role::Active; 2]);
    assert_eq!(a.vip(V4).1.reason, "198.51.100.2 had a lower priority (150)");
    until("keepalived lets go", || lan.has("a", V4) && !lan.has("b", V4) && !lan.has("b", V6));

    // It goes by itself: keepalived, a backup, follows at once.
    a.set(wanted(group(200), &[]));
    until("keepalived follows", || lan.has("b", V4) && lan.has("b", V6) && !lan.has("a", V4));

    a.set(wanted(group(100), &[V4, V6]));
    until("the edge waits", || a.role() == [Role::Backup; 2]);
    neighbour.end();
    until("keepalived said farewell", || a.role() == [Role::Active; 2]);
    assert_eq!(a.vip(V4).1.reason, "198.51.100.2 gave the addresses up");
    assert!(!lan.has("b", V4));

    let neighbour = keepalived(&lan, "b", 150, "");
    until("keepalived preempts again", || a.role() == [Role::Backup; 2] && lan.has("b", V4));
    neighbour.kill();
    until("silence is noticed", || a.role() == [Role::Active; 2]);
    assert!(a.vip(V4).1.reason.starts_with("198.51.100.2 was silent for "), "{}", a.vip(V4).1.reason);
    // The killed one left its addresses behind: the machine still answers for them.
    until("the leftover is reported", || {
        let seen = a.observed();
        seen.vip(ip(V4)).unwrap().2.conflicts.iter().any(|conflict| conflict.mac == lan.mac("b"))
    });
    assert!(a.elections().iter().all(|election| election.counters.discarded.is_empty()), "{:?}", a.elections());
}

#[test]
fn keepalived_by_unicast() {
    let Some(lan) = Lan::new("u") else { return };
    let a = Edge::start(&lan, "a");
    let mut settings = group(100);
    settings.unicast = vec![ip("198.51.100.2"), ip("fd51::2")];
    a.set(wanted(settings.clone(), &[V4, V6]));
    until("a is alone", || a.role() == [Role::Active; 2]);
    let neighbour = keepalived(&lan, "b", 150, "198.51.100.1 fd51::1");
    until("keepalived leads", || a.role() == [Role::Backup; 2] && lan.has("b", V4) && lan.has("b", V6));
    neighbour.end();
    until("a leads", || a.role() == [Role::Active; 2] && lan.has("a", V6));
    assert_eq!(a.vip(V6).1.reason, "fd51::2 gave the addresses up");
}

#[test]
fn a_stranger_with_our_address_is_reported_and_contradicted() {
    let Some(lan) = Lan::new("s") else { return };
    let a = Edge::start(&lan, "a");
    // There before us, and silent: the probe finds it.
    lan.ip("c", &format!("addr add {V4}/32 dev eth0"));
    a.set(wanted(group(100), &[V4, V6]));
    until("the silent one is found", || a.conflicts(V4) == [lan.mac("c")]);
    assert_eq!(a.conflicts(V6), []);
    // Comes later: another virtual router with our address.
    let c = Edge::start(&lan, "c");
    let mut other = group(100);
    (other.router, other.vips) = (52, vec![ip(V6)]);
    c.set(wanted(other, &[V6]));
    until("the newcomer is found", || a.conflicts(V6) == [lan.mac("c")]);
    assert_eq!((a.role(), a.vip(V4).2), (vec![Role::Active; 2], VipHeld::Held), "we do not give way");
}

#[test]
fn without_carrier_the_other_edge_takes_over() {
    let Some(lan) = Lan::new("l") else { return };
    let (a, b) = (Edge::start(&lan, "a"), Edge::start(&lan, "b"));
    a.set(wanted(group(200), &[V4, V6]));
    b.set(wanted(group(100), &[V4, V6]));
    until("a leads", || lan.has("a", V4) && lan.has("a", V6));
    lan.carrier("a", false);
    until("a has seen it", || a.role() == [Role::Down; 2]);
    assert_eq!(a.vip(V4).1.reason, "interface eth0 has no carrier");
    assert_eq!(a.observed().groups[0].link, Err("interface eth0 has no carrier".into()));
    until("the addresses moved", || lan.has("b", V4) && lan.has("b", V6) && !lan.has("a", V4) && !lan.has("a", V6));
    lan.carrier("a", true);
    until("a is back", || lan.has("a", V4) && lan.has("a", V6) && !lan.has("b", V4));
    lan.ip("a", "link del eth0");
    until("b again", || lan.has("b", V4));
    assert_eq!(a.vip(V4).1.reason, "interface eth0 does not exist");
}

#[test]
fn edges_with_a_key_believe_each_other_and_nobody_else() {
    let Some(lan) = Lan::new("h") else { return };
    let (a, b) = (Edge::start(&lan, "a"), Edge::start(&lan, "b"));
    let signed = |priority, peer: &str, key: &str| {
        let mut settings = group(priority);
        settings.unicast = vec![ip(peer)];
        settings.vips = vec![ip(V4)];
        let mut wanted = wanted(settings, &[V4]);
        wanted.key = Some(Ok(edge_bgp::Secret::new(key.into())));
        wanted
    };
    a.set(signed(200, "198.51.100.2", "one"));
    b.set(signed(100, "198.51.100.1", "one"));
    until("a leads", || a.role() == [Role::Active] && b.role() == [Role::Backup]);
    until("b hears a", || b.vip(V4).1.counters.received > 5);
    assert_eq!(b.vip(V4).1.counters.discarded, Default::default());
    b.set(signed(100, "198.51.100.1", "another"));
    until("b does not believe a", || b.role() == [Role::Active]);
    until("it says so", || b.vip(V4).1.counters.discarded.contains_key(&Discard::Signature));
    until("and each sees the other's claims", || a.conflicts(V4) == [lan.mac("b")]);
    b.set(signed(100, "198.51.100.1", "one"));
    until("peace", || a.role() == [Role::Active] && b.role() == [Role::Backup] && !lan.has("b", V4));
    // Whoever has no key is not heard, whatever its priority is.
    let _neighbour = keepalived(&lan, "c", 254, "198.51.100.1 198.51.100.2");
    let mut settings = group(200);
    settings.unicast = vec![ip("198.51.100.2"), ip("198.51.100.3")];
    settings.vips = vec![ip(V4)];
    let mut with_c = wanted(settings, &[V4]);
    with_c.key = Some(Ok(edge_bgp::Secret::new("one".into())));
    a.set(with_c);
    until("c was heard", || a.vip(V4).1.counters.discarded.contains_key(&Discard::Unsigned));
    assert_eq!(a.role(), [Role::Active]);
}

#[test]
fn what_a_killed_edge_left_is_removed_by_its_next_start() {
    let Some(lan) = Lan::new("x") else { return };
    let list = lan.dir().join("a.addresses");
    // The administrator's own: in the list by chance, but without our mark.
    lan.ip("a", "addr add 198.51.100.77/32 dev eth0");
    let mut child = rig::edge_process(&lan, "a", 200);
    until("it has the addresses", || lan.has("a", V4) && lan.has("a", V6));
    let text = std::fs::read_to_string(&list).unwrap();
    assert_eq!(text, format!("{V4} eth0\n{V6} eth0\n"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(lan.has("a", V4), "nobody removed it");
    std::fs::write(&list, format!("{text}198.51.100.77 eth0\nnonsense\n")).unwrap();
    let a = Edge::start(&lan, "a");
    until("cleaned", || !lan.has("a", V4) && !lan.has("a", V6));
    assert!(lan.has("a", "198.51.100.77"));
    a.set(wanted(group(200), &[V4, V6]));
    until("and taken again", || lan.has("a", V4) && lan.has("a", V6));
    // An address that somebody else put there is neither taken nor told.
    let mut other = group(200);
    other.vips = vec![ip("198.51.100.77"), ip(V4)];
    a.set(wanted(other, &[V4, "198.51.100.77"]));
    let reason = "it is on eth0 already, not added by Edge";
    until("it is refused", || a.vip("198.51.100.77").2 == VipHeld::Failed(reason.into()));
    until("the other one stays", || a.vip(V4).2 == VipHeld::Held);
    a.stop();
    assert!(lan.has("a", "198.51.100.77"));
}

#[test]
fn who_stood_still_takes_nothing_back() {
    let Some(lan) = Lan::new("f") else { return };
    let (a, b) = (Edge::start(&lan, "a"), Edge::start(&lan, "b"));
    a.set(wanted(group(200), &[V4]));
    b.set(wanted(group(100), &[V4]));
    until("a leads", || lan.has("a", V4) && b.role()[0] == Role::Backup);
    a.permit(false);
    until("a lets go", || !lan.has("a", V4) && lan.has("b", V4));
    assert_eq!(a.vip(V4).1.reason, "this edge stood still and was withdrawn");
    a.permit(true);
    until("a is back", || lan.has("a", V4) && !lan.has("b", V4));
    // Somebody removes it under our hands: it is put back and told again.
    let before = a.announced(V4);
    lan.ip("a", &format!("addr del {V4}/32 dev eth0"));
    until("it is back", || lan.has("a", V4) && a.announced(V4) > before);
}

#[test]
fn a_virtual_mac_moves_with_the_addresses() {
    let Some(lan) = Lan::new("m") else { return };
    for host in ["a", "b"] {
        // What the check of the kernel's settings asks for.
        lan.sysctl(host, "ipv4/conf/eth0/arp_ignore", "1");
        lan.sysctl(host, "ipv4/conf/eth0/arp_announce", "2");
        lan.sysctl(host, "ipv4/conf/all/rp_filter", "0");
    }
    let (a, b) = (Edge::start(&lan, "a"), Edge::start(&lan, "b"));
    let virtual_router = |priority| {
        let mut group = group(priority);
        group.virtual_mac = true;
        group
    };
    a.set(wanted(virtual_router(200), &[V4, V6]));
    b.set(wanted(virtual_router(100), &[V4, V6]));
    until("a leads", || a.role() == [Role::Active; 2] && b.role() == [Role::Backup; 2]);
    let macs = [Mac([0, 0, 0x5e, 0, 1, 51]), Mac([0, 0, 0x5e, 0, 2, 51])];
    for (vip, mac) in [(V4, macs[0]), (V6, macs[1])] {
        until("it is held", || a.vip(vip).2 == VipHeld::Held);
        until("the client finds a", || lan.reaches("c", vip));
        assert_eq!(lan.neighbour("c", vip), Some(mac));
        assert!(!lan.has("a", vip), "not on the interface itself");
        assert!(lan.all("a").contains(&format!(" {vip}/")) && !lan.all("b").contains(&format!(" {vip}/")));
    }
    a.set(wanted(virtual_router(200), &[]));
    for (vip, mac) in [(V4, macs[0]), (V6, macs[1])] {
        until("b has it", || b.vip(vip).2 == VipHeld::Held);
        until("the client finds b", || lan.reaches("c", vip));
        assert_eq!(lan.neighbour("c", vip), Some(mac), "no neighbour had to learn anything");
    }
    assert_eq!((b.conflicts(V4), b.conflicts(V6)), (vec![], vec![]));
    a.stop();
    b.stop();
    for host in ["a", "b"] {
        assert!(!lan.all(host).contains("edge4-") && !lan.all(host).contains("edge6-"), "{}", lan.all(host));
    }
}

#[test]
fn what_cannot_work_has_a_reason() {
    let Some(lan) = Lan::new("n") else { return };
    let a = Edge::start(&lan, "a");
    let says = |change: &dyn Fn(&mut edge::vip::l2::GroupWanted), reason: &str| {
        let mut wish = wanted(group(100), &[V4, V6]);
        change(&mut wish);
        a.set(wish);
        until(reason, || {
            let seen: L2Observed = (*a.observed()).clone();
            seen.vip(ip(V4)).is_some_and(|(_, election, _)| election.reason == reason)
        });
    };
    says(&|wish| wish.group.interface = "eth9".into(), "interface eth9 does not exist");
    says(
        &|wish| wish.group.unicast = vec!["fd51::2".parse::<IpAddr>().unwrap()],
        "none of its unicast peers has an IPv4 address",
    );
    says(&|wish| wish.key = Some(Err("no file".into())), "its key: no file");
    says(&|wish| wish.key = Some(Ok(edge_bgp::Secret::new("k".into()))), "a key needs unicast peers");
    lan.ip("a", "addr flush dev eth0 scope global");
    says(&|_| {}, "eth0 has no IPv4 address to speak from");
}

/// Not a test: an edge of its own, which can be killed ([`rig::edge_process`]).
#[test]
#[ignore = "started by other tests"]
fn edge_alone() {
    rig::run_edge_process();
}

fn watch(neighbours: &[&str], weight: u8) -> Option<L2Watch> {
    let neighbours = neighbours.iter().map(|address| ip(address)).collect();
    Some(L2Watch { neighbours, interval: Duration::from_millis(100), rise: 2, fall: 3, weight })
}

#[test]
fn who_reaches_no_neighbour_leaves_the_lead_to_who_does() {
    let Some(lan) = Lan::new("w") else { return };
    let (a, b) = (Edge::start(&lan, "a"), Edge::start(&lan, "b"));
    let (v4, v6) = ("198.51.100.3", "fd51::3");
    let leads = |leader: &str, other: &str| {
        [V4, V6].iter().all(|vip| lan.has(leader, vip)) && ![V4, V6].iter().any(|vip| lan.has(other, vip))
    };
    for (neighbours, weight) in [(&[v4, "198.51.100.99"][..], 150), (&[v6][..], 150), (&[v4, v6][..], 0)] {
        println!("{neighbours:?} {weight}");
        let with = |priority| L2Group { watch: watch(neighbours, weight), ..group(priority) };
        a.set(wanted(with(200), &[V4, V6]));
        b.set(wanted(with(100), &[V4, V6]));
        until("a leads", || leads("a", "b"));
        // Longer than the patience: an answer of one is enough.
        let priorities = || a.elections().iter().map(|election| election.priority).collect::<Vec<_>>();
        std::thread::sleep(Duration::from_millis(600));
        assert_eq!(priorities(), [Some(200); 2]);
        // The carrier is there, and the other edge is heard.
        lan.part(&["a", "c"], true);
        until("b leads", || leads("b", "a"));
        let (.., election, _) = a.vip(V4);
        let reason = format!("no answer on eth0 from {}", neighbours.join(", "));
        if weight == 0 {
            assert_eq!((election.reason, election.priority), (reason, None));
        } else {
            until("a says why", || priorities() == [Some(50); 2]);
            assert_eq!(a.vip(V4).1.problems, [format!("{reason}: the priority is lower")]);
        }
        assert_eq!(b.elections()[0].problems, Vec::<String>::new());
        lan.part(&["a", "c"], false);
        until("a leads again", || leads("a", "b"));
        assert_eq!(a.vip(V4).1.problems, Vec::<String>::new());
    }
    // Where nobody reaches them, nobody is better: the addresses are with one edge all the same.
    let with = |priority| L2Group { watch: watch(&[v4], 253), ..group(priority) };
    a.set(wanted(with(200), &[V4, V6]));
    b.set(wanted(with(100), &[V4, V6]));
    lan.carrier("c", false);
    let is_least = |edge: &Edge| edge.elections().iter().all(|election| election.priority == Some(1));
    until("both are as unfit as can be", || is_least(&a) && is_least(&b));
    until("one of them leads", || leads("a", "b") || leads("b", "a"));
    lan.carrier("c", true);
    until("a leads again", || leads("a", "b"));
}

#[test]
fn further_interfaces_are_told_and_watched() {
    let Some(lan) = Lan::new("m") else { return };
    lan.join(["a", "c"]);
    let macs = ["a", "c"].map(|host| lan.mac_at(host, "eth1"));
    let heard = lan.listen_at("c", "eth1");
    let a = Edge::start(&lan, "a");
    let with = |also: &[&str]| L2Group { also: also.iter().map(|name| (*name).to_owned()).collect(), ..group(100) };
    // One that is not there costs nothing.
    a.set(wanted(with(&["eth1", "eth7"]), &[V4, V6]));
    until("a leads", || lan.has("a", V4) && lan.has("a", V6));
    for (vip, times) in [(V4, 10), (V6, 5)] {
        let count = || heard.announcements().iter().filter(|claim| **claim == (ip(vip), macs[0])).count();
        until("the burst is told there, with the MAC of there", || count() >= times);
    }
    // Who claims an address there is reported like anybody else.
    assert_eq!(a.conflicts(V4), []);
    lan.ip("c", &format!("addr add {V4}/32 dev eth1"));
    lan.ip("c", "route add 192.0.2.0/24 dev eth1");
    let claim = || std::net::UdpSocket::bind((V4, 0)).unwrap().send_to(b"hello", "192.0.2.1:9").unwrap();
    until("the claim is heard", || {
        lan.host("c").run(claim).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        a.conflicts(V4) == [macs[1]]
    });
    a.stop();
}
