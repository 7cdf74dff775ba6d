//! Namespaces, wires and addresses of the data centre, and the routers' configuration.

#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Plan;
use crate::netns::{Namespace, ip};
use crate::router::{ZEBRA, set};

/// Of the sessions that have one.
pub const PASSWORD: &str = "lab-of-the-edge";
/// The client's own addresses, known to both routers.
pub const CLIENT: &str = "10.9.0.2";
pub const CLIENT6: &str = "fd00:9::2";
/// Names and addresses.
pub const BACKENDS: [(&str, Ipv4Addr); 2] =
    [("shop-1", Ipv4Addr::new(10, 50, 0, 101)), ("shop-2", Ipv4Addr::new(10, 50, 0, 102))];

/// Where everything is.
pub struct Network {
    pub client: Namespace,
    pub routers: [Namespace; 2],
    pub edges: Vec<(&'static str, Namespace)>,
    pub backends: Namespace,
    pub neighbour: Namespace,
    /// Bridges: `lan`, `svc`, and `EDGE-torN` for each wire between an edge and a router.
    pub fabric: Namespace,
}

impl Network {
    pub fn new(plan: &Plan) -> Self {
        // One process may have several.
        static BUILT: AtomicU32 = AtomicU32::new(0);
        let built = BUILT.fetch_add(1, Ordering::Relaxed);
        let space = |role: &str| {
            let number = if built == 0 { String::new() } else { (built + 1).to_string() };
            let space = Namespace::new(&format!("{role}{number}")).unwrap();
            for name in ["all", "default"] {
                // What the machine says is inherited.
                set(&space, &format!("ipv4/conf/{name}/rp_filter"), "0");
                // Routers with unnumbered sessions advertise themselves; ways are chosen here.
                set(&space, &format!("ipv6/conf/{name}/accept_ra_defrtr"), "0");
            }
            space
        };
        let network = Self {
            client: space("client"),
            routers: [space("tor1"), space("tor2")],
            edges: plan.edges().map(|(name, _)| (name, space(name))).collect(),
            backends: space("backends"),
            neighbour: space("neighbour"),
            fabric: space("fabric"),
        };
        network.wire(plan);
        network
    }

    /// 1 or 2.
    pub fn router(&self, number: u8) -> &Namespace {
        &self.routers[usize::from(number - 1)]
    }

    pub fn edge(&self, name: &str) -> &Namespace {
        &self.edges.iter().find(|(known, _)| *known == name).expect("an edge of the plan").1
    }

    fn wire(&self, plan: &Plan) {
        self.bridge("lan");
        self.bridge("svc");
        for number in 1..=2 {
            let router = self.router(number);
            let (near, far) = (format!("tor{number}"), "client");
            ip(&format!("-n {} link add {near} type veth peer name {far} netns {}", self.client.name(), router.name()))
                .unwrap();
            dress(&self.client, &near, &[&format!("10.9.{number}.2/30"), &format!("fd00:9:{number}::2/64")]);
            dress(router, far, &[&format!("10.9.{number}.1/30"), &format!("fd00:9:{number}::1/64")]);
            router.ip(&format!("route add {CLIENT}/32 via 10.9.{number}.2")).unwrap();
            router.ip(&format!("-6 route add {CLIENT6}/128 via fd00:9:{number}::2")).unwrap();
        }
        // Whichever way a packet of the client goes, its answer may go the other.
        dress(&self.client, "lo", &[&format!("{CLIENT}/32"), &format!("{CLIENT6}/128")]);
        for (name, edge) in plan.edges() {
            let space = self.edge(name);
            for number in 1..=2 {
                let (router, bridge) = (self.router(number), format!("{name}-tor{number}"));
                self.bridge(&bridge);
                let interface = format!("tor{number}");
                self.plug(space, &interface, &bridge, &format!("{bridge}.e"));
                self.plug(router, name, &bridge, &format!("{bridge}.r"));
                let (v4, v6) = (format!("10.{number}.{edge}"), format!("fd00:{number}:{edge}:"));
                for (space, interface, end) in [(space, interface.as_str(), 1), (router, name, 2)] {
                    // One link-local address that is known beforehand, in the place of one that comes later. It is made of
                    // the MAC as RFC 4291 appendix A has it: FRR 8.4 finds the MAC of an unnumbered peer by reading it
                    // out of the address, and what it sends to another MAC is lost without a word.
                    space.ip(&format!("link set dev {interface} addrgenmode none")).unwrap();
                    space
                        .ip(&format!("link set dev {interface} address 02:00:00:{number:02x}:{edge:02x}:{end:02x}"))
                        .unwrap();
                    let local = format!("{}/64", link_local(edge, number, end));
                    dress(space, interface, &[&format!("{v4}.{end}/30"), &format!("{v6}:{end}/64"), &local]);
                }
            }
            for (segment, net) in [("lan", 60), ("svc", 50)] {
                self.plug(space, segment, segment, &format!("{segment}.{name}"));
                let (v4, v6) = (format!("10.{net}.0.{edge}/24"), format!("fd00:{net}::{edge}/64"));
                dress(space, segment, &[&v4, &v6]);
            }
            set(space, "ipv4/fib_multipath_hash_policy", "1");
            set(space, "ipv6/fib_multipath_hash_policy", "1");
            let ways = |family: &str, via: [String; 2]| {
                let [first, second] = via;
                space.ip(&format!("{family} route add default nexthop via {first} nexthop via {second}")).unwrap();
            };
            ways("-4", [1, 2].map(|number| format!("10.{number}.{edge}.2")));
            ways("-6", [1, 2].map(|number| format!("fd00:{number}:{edge}::2")));
        }
        self.plug(&self.client, "lan", "lan", "lan.client");
        dress(&self.client, "lan", &["10.60.0.50/24", "fd00:60::50/64"]);
        self.plug(&self.neighbour, "lan", "lan", "lan.vrrp");
        dress(&self.neighbour, "lan", &["10.60.0.9/24", "fd00:60::9/64"]);
        self.plug(&self.backends, "svc", "svc", "svc.backends");
        let backends = BACKENDS.map(|(_, address)| format!("{address}/24"));
        dress(&self.backends, "svc", &[&backends[0], &backends[1]]);
        for family in ["ipv4", "ipv6"] {
            set(&self.client, &format!("{family}/fib_multipath_hash_policy"), "1");
        }
        let client = &self.client;
        client.ip(&format!("-4 route add default src {CLIENT} nexthop via 10.9.1.1 nexthop via 10.9.2.1")).unwrap();
        client
            .ip(&format!("-6 route add default src {CLIENT6} nexthop via fd00:9:1::1 nexthop via fd00:9:2::1"))
            .unwrap();
    }

    fn bridge(&self, name: &str) {
        // Without snooping neighbour discovery reaches everybody from the first packet on.
        self.fabric.ip(&format!("link add {name} type bridge mcast_snooping 0")).unwrap();
        self.fabric.ip(&format!("link set dev {name} up")).unwrap();
    }

    /// An interface of a namespace at a bridge.
    fn plug(&self, space: &Namespace, interface: &str, bridge: &str, port: &str) {
        let fabric = &self.fabric;
        ip(&format!("-n {} link add {port} type veth peer name {interface} netns {}", fabric.name(), space.name()))
            .unwrap();
        fabric.ip(&format!("link set dev {port} master {bridge} up")).unwrap();
    }

    /// The configuration of a router, in FRR's words.
    pub fn frr(&self, plan: &Plan, number: u8) -> String {
        let mut text = format!("hostname tor{number}\n{ZEBRA}");
        if plan.has_bfd {
            text +=
                "bfd\n profile fast\n  receive-interval 300\n  transmit-interval 300\n  detect-multiplier 3\n !\n!\n";
        }
        let _ = write!(
            text,
            "router bgp 6500{number}\n bgp router-id 10.9.{number}.1\n no bgp ebgp-requires-policy\n \
             bgp bestpath as-path multipath-relax\n"
        );
        let mut active = String::new();
        for (name, edge) in plan.edges() {
            let neighbour = if plan.is_unnumbered(edge, number) {
                let _ = writeln!(text, " neighbor {name} interface v6only remote-as 6510{edge}");
                name.to_owned()
            } else {
                let address = format!("10.{number}.{edge}.1");
                let _ = writeln!(text, " neighbor {address} remote-as 6510{edge}");
                address
            };
            let _ = writeln!(text, " neighbor {neighbour} description {name}");
            let _ = writeln!(text, " neighbor {neighbour} timers {} {}", plan.keepalive, plan.hold_time);
            let _ = writeln!(text, " neighbor {neighbour} timers connect 2");
            if plan.has_password && number == 1 && !plan.is_unnumbered(edge, number) {
                let _ = writeln!(text, " neighbor {neighbour} password {PASSWORD}");
            }
            if plan.has_bfd {
                let _ = writeln!(text, " neighbor {neighbour} bfd\n neighbor {neighbour} bfd profile fast");
            }
            let _ = writeln!(active, "  neighbor {neighbour} activate");
        }
        let _ = write!(
            text,
            " address-family ipv4 unicast\n  maximum-paths 64\n{active} exit-address-family\n \
             address-family ipv6 unicast\n  maximum-paths 64\n{active} exit-address-family\n"
        );
        text
    }
}

/// Of the wire between an edge and a router; end 1 is the edge's.
pub(super) fn link_local(edge: u8, router: u8, end: u8) -> String {
    format!("fe80::ff:fe{router:02x}:{edge:x}{end:02x}")
}

/// Addresses for an interface, which is up from then on.
fn dress(space: &Namespace, interface: &str, addresses: &[&str]) {
    for address in addresses {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        space.ip(&format!("addr add {address} dev {interface}{nodad}")).unwrap();
    }
    space.ip(&format!("link set dev {interface} up")).unwrap();
}
