use std::path::PathBuf;
use std::time::Duration;

use super::super::*;
use super::faults;
use crate::announce::{Asn, Engine, Families, Password, PeerAddress, PeerAsn};
use crate::community::Community;
use crate::settings::{BgpSettings, L2Settings, RequireEndpoints, VipSettings};

fn decoded(text: &str) -> Settings {
    decode(&"edge.toml".into(), text).unwrap()
}

fn bgp(text: &str) -> BgpSettings {
    decoded(text).bgp.unwrap()
}

fn l2(text: &str) -> L2Settings {
    decoded(text).l2.unwrap()
}

#[test]
fn nothing_is_announced_by_default() {
    let settings = decoded("");
    assert_eq!((settings.bgp, settings.l2), (None, None));
    assert_eq!(settings.vips, VipSettings::default());
    assert_eq!(settings.vips.hold_down, Duration::from_secs(30));
    assert_eq!(bgp("[bgp]\n"), BgpSettings::default());
}

#[test]
fn every_key_of_bgp() {
    let settings = bgp(r#"
[bgp]
engine = "192.0.2.9:50051"
asn = 4200000001
router_id = "192.0.2.1"
listen_port = 1179
listen_addresses = ["192.0.2.1", "2001:db8::1"]
graceful_shutdown = "0s"
next_hop_v4 = "192.0.2.7"
next_hop_v6 = "2001:db8::7"
metallb = false
[bgp.engine_tls]
ca = "ca.pem"
name = "gobgpd"
certificate = "edge.pem"
key = "edge.key"
[bgp.communities]
blue = "64512:7"
wide = "large:64512:1:2"
[[bgp.peer]]
name = "tor-1"
address = "192.0.2.254"
port = 1790
asn = 64512
local_asn = 64999
source = "192.0.2.1"
password_file = "tor.key"
hold_time = "30s"
keepalive = "5s"
connect_retry = "1s"
multihop = 3
graceful_restart = "2m"
families = ["ipv6", "ipv4"]
max_prefixes = 7
passive = true
bfd = { transmit = "50ms", receive = "60ms", multiplier = 5, passive = true, minimum_ttl = 250 }
[[bgp.peer]]
name = "tor-2"
interface = "eth1"
asn = "external"
ttl_security = 254
bfd = true
[[bgp.peer]]
name = "tor-3"
address = "2001:db8::fe"
asn = "internal"
bfd = false
[[bgp.advertisement]]
name = "all"
[[bgp.advertisement]]
name = "some"
pools = ["public"]
vips = ["198.51.100.0/28"]
peers = ["tor-1"]
communities = ["blue", "wide", "no-export", "1:2"]
local_pref = 0
med = 10
prepend = 2
aggregation_length = 24
aggregation_length_v6 = 64
"#);
    let Engine::Tcp { address, tls: Some(tls) } = &settings.engine else { panic!("{:?}", settings.engine) };
    assert_eq!(address.to_string(), "192.0.2.9:50051");
    assert_eq!((&*tls.name, tls.client.as_ref().unwrap().0.to_str()), ("gobgpd", Some("edge.pem")));
    assert_eq!(settings.asn.map(Asn::get), Some(4_200_000_001));
    assert_eq!(settings.listen.as_ref().unwrap().addresses.len(), 2);
    assert_eq!(settings.graceful_shutdown, Duration::ZERO);
    assert_eq!(settings.next_hop.v6, Some("2001:db8::7".parse().unwrap()));
    assert!(!settings.metallb);
    let [one, two, three] = &settings.peers[..] else { panic!("{:?}", settings.peers) };
    assert_eq!((one.port, one.asn), (1790, PeerAsn::Number(Asn::new(64512).unwrap())));
    assert_eq!(one.password, Some(Password::File(PathBuf::from("tor.key"))));
    assert_eq!((one.hold_time, one.keepalive), (Duration::from_secs(30), Duration::from_secs(5)));
    assert_eq!((one.multihop, one.ttl_security, one.max_prefixes, one.is_passive), (Some(3), None, 7, true));
    assert_eq!(one.families, Families { v4: true, v6: true });
    let bfd = one.bfd.unwrap();
    assert_eq!((bfd.transmit.as_millis(), bfd.receive.as_millis(), bfd.multiplier), (50, 60, 5));
    assert!(bfd.is_passive && bfd.minimum_ttl == 250);
    assert_eq!(two.address, PeerAddress::Interface("eth1".to_owned()));
    assert_eq!((two.asn, two.ttl_security), (PeerAsn::External, Some(254)));
    assert_eq!(two.families, Families { v4: true, v6: true }, "an interface has both");
    assert_eq!(two.bfd.unwrap().transmit, Duration::from_millis(300));
    assert_eq!((two.hold_time, two.keepalive), (Duration::from_secs(9), Duration::from_secs(3)));
    assert_eq!((three.asn, three.bfd), (PeerAsn::Internal, None));
    assert_eq!(three.families, Families { v4: false, v6: true }, "that of its address");
    let [all, some] = &settings.advertisements[..] else { panic!("{:?}", settings.advertisements) };
    assert!(all.vips.is_all() && all.peers.is_empty());
    assert_eq!(
        some.communities,
        [
            Community::Standard(64512 << 16 | 7),
            Community::Large(64512, 1, 2),
            Community::Standard(0xffff_ff01),
            Community::Standard(1 << 16 | 2)
        ]
    );
    assert_eq!((some.local_pref, some.med, some.prepend), (Some(0), Some(10), 2));
    assert_eq!((some.aggregation_length, some.aggregation_length_v6), (24, 64));
    assert!(some.vips.names("198.51.100.3".parse().unwrap(), None));
    assert!(some.vips.names("203.0.113.1".parse().unwrap(), Some("public")));
    assert!(!some.vips.names("203.0.113.1".parse().unwrap(), Some("other")));
}

#[test]
fn engines() {
    for (text, expected) in [
        ("/opt/gobgpd", Engine::Child { program: PathBuf::from("/opt/gobgpd") }),
        ("./gobgpd", Engine::Child { program: PathBuf::from("./gobgpd") }),
        ("unix:/run/gobgp.sock", Engine::Unix { path: PathBuf::from("/run/gobgp.sock") }),
        ("unix:///run/gobgp.sock", Engine::Unix { path: PathBuf::from("/run/gobgp.sock") }),
        ("[::1]:50051", Engine::Tcp { address: "[::1]:50051".parse().unwrap(), tls: None }),
    ] {
        assert_eq!(bgp(&format!("[bgp]\nengine = \"{text}\"\n")).engine, expected, "{text}");
    }
    let anchored = decoded("[bgp]\nengine = \"bin/gobgpd\"\n").anchored(std::path::Path::new("/etc/edge"));
    assert_eq!(anchored.bgp.unwrap().engine, Engine::Child { program: PathBuf::from("/etc/edge/bin/gobgpd") });
}

#[test]
fn every_fault_of_bgp_at_once() {
    let text = r#"[bgp]
engine = "gobgpd"
asn = 23456
router_id = "0.0.0.0"
listen_addresses = ["192.0.2.1"]
next_hop_v6 = "192.0.2.1"
grace = "1s"
[bgp.engine_tls]
ca = "a"
key = "b"
[bgp.communities]
no-export = "1:2"
blue = "70000:1"
[[bgp.peer]]
name = "Tor"
address = "192.0.2.1"
asn = "outside"
[[bgp.peer]]
name = "tor"
asn = 1
hold_time = "2s"
[[bgp.peer]]
name = "tor"
address = "192.0.2.1"
interface = "eth0"
source = "2001:db8::1"
hold_time = "3500ms"
keepalive = "4s"
multihop = 2
ttl_security = 255
passive = true
families = []
[[bgp.peer]]
name = "a"
address = "192.0.2.2"
asn = 1
source = "2001:db8::1"
bdf = true
[[bgp.peer]]
name = "a"
address = "192.0.2.2"
asn = 1
[[bgp.advertisement]]
name = "x"
communities = ["blu", "no-exprt"]
pools = []
aggregation_length = 33
"#;
    let faults = faults(text);
    for expected in [
        "edge.toml:2:10: bgp.engine: \"gobgpd\" is no engine",
        "edge.toml:3:7: bgp.asn: 23456 is no AS number",
        "edge.toml:4:13: bgp.router_id: \"0.0.0.0\" is no router id",
        "edge.toml:5:20: bgp.listen_addresses needs bgp.listen_port",
        "edge.toml:6:15: bgp.next_hop_v6: \"192.0.2.1\" is no address of this family",
        "edge.toml:7:1: unknown key `bgp.grace`",
        "bgp.engine_tls: certificate and key belong together",
        "bgp.engine_tls.name is missing",
        "bgp.communities: \"no-export\" has a meaning already",
        "bgp.communities.blue: \"70000:1\" is no community",
        "bgp.peer[0].name: \"Tor\" is no name",
        "edge.toml:17:7: bgp.peer[0].asn: found the string \"outside\", expected an AS number",
        "bgp.peer[1]: has neither address nor interface",
        "edge.toml:21:13: bgp.peer[1].hold_time: 2s is out of range, expected 3s to 18h12m15s",
        "bgp.peer[2]: has both address and interface",
        "bgp.peer[2]: asn is missing",
        "bgp.peer[2].hold_time has a part of a second",
        "bgp.peer[2].keepalive is longer than the hold time",
        "bgp.peer[2].ttl_security and bgp.peer[2].multihop exclude each other",
        "bgp.peer[2].passive needs bgp.listen_port",
        "bgp.peer[2].families is empty",
        "bgp.peer[3].source: 2001:db8::1 is of another family than the peer",
        "unknown key `bgp.peer[3].bdf`, did you mean `bfd`?",
        "bgp.peer: \"a\" is the name of two peers",
        "bgp.advertisement[0].communities: \"blu\" is no community",
        "did you mean `no-export`?",
        "bgp.advertisement[0].pools is empty",
        "bgp.advertisement[0].aggregation_length: 33 is out of range, expected 1 to 32",
    ] {
        assert!(faults.iter().any(|fault| fault.contains(expected)), "{expected}: {faults:#?}");
    }
    let tls = super::faults("[bgp]\n[bgp.engine_tls]\nca = \"a\"\nname = \"b\"\n");
    assert_eq!(tls.len(), 1, "{tls:?}");
    let twice = "[bgp]\n[[bgp.peer]]\nname = \"a\"\naddress = \"192.0.2.2\"\nasn = 1\n[[bgp.peer]]\nname = \"b\"\naddress = \"192.0.2.2\"\nasn = 1\n";
    assert_eq!(super::faults(twice), ["edge.toml:6:1: bgp.peer: 192.0.2.2 is the address of \"a\" and \"b\""]);
}

#[test]
fn layer_two() {
    let one = l2("[l2]\ninterface = \"eth0\"\nrouter = 51\n");
    let [group] = &one.groups[..] else { panic!("{one:?}") };
    assert!(one.metallb && group.is_for_the_rest());
    assert_eq!((&*group.name, group.priority, group.interval.as_millis(), group.preempt), ("l2", 200, 300, true));
    let many = l2(r#"
[l2]
interface = "eth0"
priority = 200
interval = "1s"
preempt = false
preempt_delay = "5s"
unicast = ["192.0.2.2"]
key_file = "l2.key"
virtual_mac = true
also = ["eth9"]
spread = 4
edges = ["a", "b"]
router = 10
[[l2.group]]
name = "storage"
interface = "eth1"
router = 10
spread = 1
pools = ["storage"]
[[l2.group]]
name = "rack"
router = 20
advertisements = ["rack-1"]
"#);
    let [storage, rack, own] = &many.groups[..] else { panic!("{many:?}") };
    assert_eq!((&*own.name, own.router, own.spread, own.edges.len()), ("l2", 10, 4, 2));
    assert_eq!((&*storage.interface, storage.spread, storage.priority), ("eth1", 1, 200), "what [l2] says holds");
    assert!(!storage.is_for_the_rest() && !rack.is_for_the_rest() && own.is_for_the_rest());
    assert_eq!(rack.advertisements, ["rack-1"]);
    assert_eq!(rack.key, Some(Password::File(PathBuf::from("l2.key"))));
}

#[test]
fn faults_of_layer_two() {
    for (text, expected) in [
        ("", "l2: router is missing"),
        ("router = 1\n", "l2: \"l2\" has no interface"),
        ("interface = \"eth0\"\nrouter = 0\n", "l2.router: 0 is out of range, expected 1 to 255"),
        ("interface = \"eth0\"\nrouter = 254\nspread = 3\n", "has virtual routers 254 to 256"),
        ("interface = \"eth0\"\nrouter = 1\ninterval = \"15ms\"\n", "l2.interval is not a multiple of 10ms"),
        ("interface = \"eth0\"\nrouter = 1\ninterval = \"41s\"\n", "expected 10ms to 40s950ms"),
        ("interface = \"eth0\"\nrouter = 1\npriority = 255\n", "expected 1 to 254"),
        ("interface = \"eth0\"\nrouter = 1\nkey_file = \"k\"\n", "has key_file without unicast"),
        ("interface = \"eth0 \"\nrouter = 1\n", "is no interface name"),
        ("interface = \"eth0\"\nrouter = 1\nedges = [\"a\", \"a\"]\n", "names an edge twice"),
        ("interface = \"eth0\"\nrouter = 1\nvirtual_mak = true\n", "did you mean `virtual_mac`?"),
        (
            "interface = \"eth0\"\nrouter = 5\n[[l2.group]]\nname = \"g\"\nrouter = 4\nspread = 2\npools = [\"p\"]\n",
            "shares virtual routers with \"g\" on eth0",
        ),
        ("interface = \"eth0\"\n[[l2.group]]\nname = \"g\"\n", "l2.group[0]: router is missing"),
        (
            "metallb = false\ninterface = \"eth0\"\n[[l2.group]]\nname = \"g\"\nrouter = 1\nadvertisements = [\"a\"]\n",
            "\"g\" has advertisements, and l2.metallb is false",
        ),
        (
            "interface = \"eth0\"\n[[l2.group]]\nname = \"g\"\nrouter = 1\npools = [\"p\"]\nadvertisements = [\"a\"]\n",
            "has both advertisements and VIPs of its own",
        ),
    ] {
        let found = faults(&format!("[l2]\n{text}"));
        assert!(found.iter().any(|fault| fault.contains(expected)), "{text}: {found:#?}");
    }
}

#[test]
fn edges_vips_and_pools() {
    let settings = decoded(
        r#"
[edge]
name = "rack-1"
labels = { rack = "1", "example.com/zone" = "a" }
[vips]
hold_down = "0s"
require_endpoints = "all"
[[pool]]
name = "a"
addresses = ["192.0.2.0/28"]
disabled = true
reserve = ["192.0.2.1", "192.0.2.4-192.0.2.7"]
priority = 5
namespaces = ["shop"]
namespace_selectors = ["team=a"]
service_selectors = ["tier in (web)", "public"]
[[pool]]
name = "b"
addresses = ["192.0.2.16/28"]
[kubernetes]
"#,
    );
    assert_eq!(settings.edge.name.as_deref(), Some("rack-1"));
    assert_eq!(settings.kubernetes.unwrap().edge_name.as_deref(), Some("rack-1"), "one name for both");
    assert_eq!(settings.edge.labels.len(), 2);
    assert_eq!((settings.vips.hold_down, settings.vips.require_endpoints), (Duration::ZERO, RequireEndpoints::All));
    let pool = &settings.pools[0];
    assert!(pool.disabled && pool.reserve.len() == 2);
    let allocation = pool.allocation.as_ref().unwrap();
    assert_eq!((allocation.priority, allocation.namespaces.len(), allocation.service_selectors.len()), (5, 1, 2));
    assert_eq!(settings.pools[1].allocation, None);

    let settings = decoded("[kubernetes]\nedge_name = \"b\"\n");
    assert_eq!(settings.edge.name.as_deref(), Some("b"));
    assert_eq!(settings.on_host("other").edge.name.as_deref(), Some("b"));
    assert_eq!(decoded("").on_host("Host.example\n").edge.name.as_deref(), Some("host-example"));
    for (text, expected) in [
        (
            "[edge]\nname = \"a\"\n[kubernetes]\nedge_name = \"b\"\n",
            "4:13: kubernetes.edge_name: \"b\" is not edge.name",
        ),
        ("[edge]\nname = \"A\"\n", "edge.name: \"A\" is no DNS label"),
        ("[edge]\nlabels = { \"-\" = \"a\" }\n", "\"-\" is no label name"),
        ("[edge]\nlabels = { a = \"b c\" }\n", "a: \"b c\" is no label value"),
        ("[vips]\nhold_down = \"2h\"\n", "vips.hold_down: 2h is out of range, expected 0s to 1h"),
        ("[vips]\nrequire_endpoints = \"some\"\n", "expected services, all, none"),
        (
            "[[pool]]\nname = \"a\"\naddresses = [\"192.0.2.1\"]\nreserve = [\"192.0.2.2\"]\n",
            "is in no range of the pool",
        ),
        (
            "[[pool]]\nname = \"a\"\naddresses = [\"192.0.2.1\"]\nservice_selectors = [\"a b\"]\n",
            "is no label selector",
        ),
    ] {
        let found = faults(text);
        assert!(found.iter().any(|fault| fault.contains(expected)), "{text}: {found:#?}");
    }
}
