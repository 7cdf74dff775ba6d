use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use edge_config::announce::{Asn, Bgp, Engine, Families, L2Group, Peer, PeerAsn};

use super::*;

/// A machine with two interfaces; the default route is by the first.
fn machine(changes: &[(&str, &str)]) -> BTreeMap<String, String> {
    // As the kernel prints them: words of this machine.
    let word = |text: &str| format!("{:08X}", u32::from_ne_bytes(text.parse::<Ipv4Addr>().unwrap().octets()));
    let route = |interface: &str, to: &str, by: &str, mask: &str| {
        format!("{interface}\t{}\t{}\t0001\t0\t0\t0\t{}\t0\t0\t0\n", word(to), word(by), word(mask))
    };
    let any = "0.0.0.0";
    let routes = [
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n".to_owned(),
        route("eth0", any, "10.0.0.1", any),
        route("eth0", "10.0.0.0", any, "255.255.255.0"),
        route("eth1.7", "10.0.1.0", any, "255.255.255.0"),
    ];
    let zeros = "0".repeat(32);
    let route6 = format!(
        "fd000001{0} 40 {zeros} 00 {zeros} 00000100 00000001 00000000 00000001   eth1.7\n\
         {zeros} 00 {zeros} 00 {zeros} ffffffff 00000001 00000000 00200200       lo\n",
        "0".repeat(24)
    );
    let mut files = BTreeMap::from([
        ("/proc/net/route".to_owned(), routes.concat()),
        ("/proc/net/ipv6_route".to_owned(), route6),
        ("/proc/sys/net/ipv4/ip_local_port_range".to_owned(), "32768\t60999\n".to_owned()),
    ]);
    for interface in ["all", "lo", "eth0", "eth1.7"] {
        for key in ["rp_filter", "arp_ignore", "arp_announce"] {
            files.insert(format!("/proc/sys/net/ipv4/conf/{interface}/{key}"), "0\n".to_owned());
        }
        files.insert(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"), "0\n".to_owned());
    }
    for (path, value) in changes {
        files.insert(format!("/proc/sys/net/{path}"), format!("{value}\n"));
    }
    files
}

fn peer(address: PeerAddress) -> Peer {
    Peer {
        families: Families { v4: true, v6: true },
        max_prefixes: 10,
        ..Peer::plain("tor", address, PeerAsn::External)
    }
}

/// Peers are addresses or names of interfaces.
fn bgp(peers: &[&str]) -> Announce {
    let address = |text: &&str| match text.parse() {
        Ok(address) => PeerAddress::Address(address),
        Err(_) => PeerAddress::Interface((*text).to_owned()),
    };
    Announce {
        bgp: Some(Bgp {
            engine: Engine::Unix { path: "/run/gobgpd.sock".into() },
            asn: Asn::new(65_101).unwrap(),
            router_id: Ipv4Addr::new(10, 0, 0, 9),
            listen: None,
            peers: peers.iter().map(address).map(peer).collect(),
            prefixes: Vec::new(),
            graceful_shutdown: Duration::ZERO,
        }),
        ..Announce::default()
    }
}

fn group(interface: &str, virtual_mac: bool, vips: &[&str]) -> L2Group {
    L2Group {
        name: Arc::from("public"),
        interface: interface.to_owned(),
        router: 7,
        priority: 100,
        interval: Duration::from_secs(1),
        preempt: true,
        preempt_delay: Duration::ZERO,
        unicast: Vec::new(),
        key: None,
        virtual_mac,
        vips: addresses(vips),
        also: Vec::new(),
        watch: None,
    }
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn found(announce: &Announce, vips: &[&str], changes: &[(&str, &str)]) -> Vec<String> {
    let files = machine(changes);
    let vips = addresses(vips);
    let demand = Demand { announce, vips: &vips, interface: Some("lo"), max_connections: 100_000 };
    findings(&demand, &|path| files.get(path).cloned())
}

/// The commands only.
fn fixes(announce: &Announce, vips: &[&str], changes: &[(&str, &str)]) -> Vec<String> {
    let lines = found(announce, vips, changes);
    lines.iter().map(|line| line.rsplit_once("sysctl -w ").unwrap().1.to_owned()).collect()
}

const FAR: &[&str] = &["192.0.2.10"];
const NONE: &[String] = &[];

#[test]
fn a_strict_filter_matters_where_answers_may_leave_elsewhere() {
    let strict = &[("ipv4/conf/eth0/rp_filter", "1"), ("ipv4/conf/eth1.7/rp_filter", "1")];
    for (peers, expected) in [
        // The only entrance is the default route's interface.
        (&["10.0.0.1"][..], &[][..]),
        // A router somewhere behind it.
        (&["172.16.0.1"], &[]),
        (&["10.0.1.1"], &["net.ipv4.conf.eth1/7.rp_filter=2"]),
        (&["eth1.7"], &["net.ipv4.conf.eth1/7.rp_filter=2"]),
        (&["fd00:1::1"], &["net.ipv4.conf.eth1/7.rp_filter=2"]),
        (&["10.0.0.1", "10.0.1.1"], &["net.ipv4.conf.eth0.rp_filter=2", "net.ipv4.conf.eth1/7.rp_filter=2"]),
    ] {
        assert_eq!(fixes(&bgp(peers), FAR, strict), expected, "{peers:?}");
        assert_eq!(fixes(&bgp(peers), FAR, &[]), NONE, "{peers:?}");
        assert_eq!(fixes(&bgp(peers), &["2001:db8::10"], strict), NONE, "IPv6 has no such filter");
    }
    // The greater of both counts: loose for all mends it, strict for all breaks it.
    let two = bgp(&["10.0.0.1", "10.0.1.1"]);
    assert_eq!(fixes(&two, FAR, &[strict[0], strict[1], ("ipv4/conf/all/rp_filter", "2")]), NONE);
    assert_eq!(fixes(&two, FAR, &[("ipv4/conf/all/rp_filter", "1")]).len(), 2);
    let l2 = Announce { l2: vec![group("eth1.7", false, &["10.0.1.80"])], ..Announce::default() };
    assert_eq!(fixes(&l2, &["10.0.1.80"], strict), ["net.ipv4.conf.eth1/7.rp_filter=2"]);
}

#[test]
fn addresses_on_lo_within_a_connected_network_need_strict_arp() {
    let announce = bgp(&["10.0.0.1"]);
    let lines = found(&announce, &["10.0.1.80", "10.0.1.81"], &[]);
    assert_eq!(
        lines,
        [
            "10.0.1.80 is on lo and of the network at eth1.7, where every edge answers ARP for it: \
             sysctl -w net.ipv4.conf.eth1/7.arp_ignore=1",
            "10.0.1.80 is on lo and of the network at eth1.7, to which ARP requests tell it as ours: \
             sysctl -w net.ipv4.conf.eth1/7.arp_announce=2",
        ]
    );
    assert_eq!(found(&announce, FAR, &[]), NONE);
    let strict = &[("ipv4/conf/all/arp_ignore", "1"), ("ipv4/conf/eth1.7/arp_announce", "2")];
    assert_eq!(found(&announce, &["10.0.1.80"], strict), NONE);
    // A virtual router has its addresses where they are asked for.
    let l2 = Announce { l2: vec![group("eth1.7", false, &["10.0.1.80"])], ..announce };
    assert_eq!(found(&l2, &["10.0.1.80"], &[]), NONE);
}

#[test]
fn the_parent_of_a_virtual_mac_is_silent() {
    let l2 = Announce { l2: vec![group("eth0", true, &["10.0.0.80"]); 2], ..Announce::default() };
    let wrong = fixes(&l2, &["10.0.0.80"], &[("ipv4/conf/all/rp_filter", "1")]);
    let expected =
        ["net.ipv4.conf.eth0.arp_ignore=1", "net.ipv4.conf.eth0.arp_announce=2", "net.ipv4.conf.all.rp_filter=0"];
    assert_eq!(wrong, expected);
    let right = &[("ipv4/conf/eth0/arp_ignore", "1"), ("ipv4/conf/eth0/arp_announce", "2")];
    assert_eq!(found(&l2, &["10.0.0.80"], right), NONE);
    let own = Announce { l2: vec![group("eth0", false, &["10.0.0.80"])], ..Announce::default() };
    assert_eq!(found(&own, &["10.0.0.80"], &[]), NONE);
}

#[test]
fn ipv6_that_is_off_where_it_is_needed() {
    let off = &[
        ("ipv6/conf/lo/disable_ipv6", "1"),
        ("ipv6/conf/eth0/disable_ipv6", "1"),
        ("ipv6/conf/eth1.7/disable_ipv6", "1"),
    ];
    let mut announce = bgp(&["10.0.0.1", "eth1.7"]);
    announce.l2 = vec![group("eth0", false, &["2001:db8::80"])];
    assert_eq!(
        found(&announce, &["2001:db8::80", "2001:db8::81"], off),
        [
            "eth0: IPv6 is off, VIP 2001:db8::80 cannot be added: sysctl -w net.ipv6.conf.eth0.disable_ipv6=0",
            "eth1.7: IPv6 is off, peer tor has no link-local address to be reached by: \
             sysctl -w net.ipv6.conf.eth1/7.disable_ipv6=0",
            "lo: IPv6 is off, VIP 2001:db8::81 cannot be added: sysctl -w net.ipv6.conf.lo.disable_ipv6=0",
        ]
    );
    assert_eq!(found(&bgp(&["10.0.0.1"]), FAR, off), NONE);
}

#[test]
fn room_for_connections() {
    let nothing = Announce::default();
    let few = &[("ipv4/ip_local_port_range", "32768 33767")];
    assert!(found(&nothing, FAR, few)[0].starts_with("1000 local ports"));
    assert_eq!(found(&nothing, &[], few), NONE);
    let small = ("netfilter/nf_conntrack_max", "65536");
    let tracked = ("netfilter/nf_conntrack_count", "12");
    assert_eq!(fixes(&nothing, FAR, &[small, tracked]), ["net.netfilter.nf_conntrack_max=200000"]);
    assert_eq!(found(&nothing, FAR, &[small, ("netfilter/nf_conntrack_count", "0")]), NONE);
    assert_eq!(found(&nothing, FAR, &[tracked, ("netfilter/nf_conntrack_max", "262144")]), NONE);
}

#[test]
fn a_machine_that_says_nothing_or_nonsense_has_no_findings() {
    let mut announce = bgp(&["10.0.0.1", "eth1", "../../etc"]);
    announce.l2 = vec![group("eth0", true, &["10.0.0.80", "2001:db8::80"])];
    let vips = addresses(&["10.0.0.80", "10.0.0.81", "2001:db8::80"]);
    let demand = Demand { announce: &announce, vips: &vips, interface: Some("lo"), max_connections: usize::MAX };
    assert_eq!(findings(&demand, &|_| None), NONE);
    for text in ["", "\n\n", "eth0", "x y z q", "-1", "99999999999999999999999", "\u{fffd} 80 40"] {
        assert_eq!(findings(&demand, &|_| Some(text.to_owned())), NONE, "{text}");
    }
    // On the machine of the test, whatever it is like.
    let _ = findings(&demand, &read_file);
}
