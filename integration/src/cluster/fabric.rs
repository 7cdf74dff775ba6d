//! The hosts of the rig and the network between them: namespaces on one layer 2 network, as machines in one rack.
//!
//! ```text
//!  client .10      edge .20 (VIPs on lo)      node .30 ── pods0 10.244.0.1/24 ── one namespace per Pod
//!     │                │                        │
//!     └────────────────┴──── lan 10.91.0.0/24 ──┴──── control .1 (etcd, API server, controllers)
//! ```
//!
//! The client reaches VIPs through the edge by a static route and nothing else of the cluster; the edge reaches Pods
//! through the node. Hosts have an IPv6 address with the same end, and there are VIPs of IPv6; Pods have none. Addresses are
//! the same in every rig: namespaces keep rigs apart.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::netns::Namespace;

pub const CONTROL: Ipv4Addr = Ipv4Addr::new(10, 91, 0, 1);
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 91, 0, 10);
pub const EDGE: Ipv4Addr = Ipv4Addr::new(10, 91, 0, 20);
/// Of an edge beside the first one.
pub const OTHER_EDGE: Ipv4Addr = Ipv4Addr::new(10, 91, 0, 21);
pub const NODE: Ipv4Addr = Ipv4Addr::new(10, 91, 0, 30);
/// The node by IPv6.
pub const NODE6: Ipv6Addr = by_ipv6(NODE);
pub const POD_CIDR: &str = "10.244.0.0/24";
pub const POD_BRIDGE: &str = "pods0";
/// All VIPs, as the client's route has them.
pub const VIPS: &str = "10.99.0.0/24";
pub const VIPS6: &str = "fd99::/64";

/// The IPv6 address of a host: its last octet, read as hexadecimal digits, in the network of all hosts.
const fn by_ipv6(host: Ipv4Addr) -> Ipv6Addr {
    let octet = host.octets()[3] as u16;
    Ipv6Addr::new(0xfd91, 0, 0, 0, 0, 0, 0, octet / 100 * 256 + octet / 10 % 10 * 16 + octet % 10)
}

pub struct Fabric {
    pub client: Namespace,
    pub edge: Namespace,
    pub node: Namespace,
    /// Also the switch.
    pub control: Namespace,
}

impl Fabric {
    /// Namespaces named `edge-PREFIX-ROLE-PID`.
    pub fn new(prefix: &str) -> Self {
        let control = Namespace::new(&format!("{prefix}-control")).unwrap();
        control.ip("link add lan type bridge").unwrap();
        control.ip(&format!("addr add {CONTROL}/24 dev lan")).unwrap();
        control.ip("link set lan up").unwrap();
        let client = host(prefix, "client", CLIENT, &control);
        let edge = host(prefix, "edge", EDGE, &control);
        let node = host(prefix, "node", NODE, &control);

        client.ip(&format!("route add {VIPS} via {EDGE}")).unwrap();
        client.ip(&format!("route add {VIPS6} via {}", by_ipv6(EDGE))).unwrap();
        edge.ip(&format!("route add {POD_CIDR} via {NODE}")).unwrap();
        node.ip(&format!("link add {POD_BRIDGE} type bridge")).unwrap();
        node.ip(&format!("addr add 10.244.0.1/24 dev {POD_BRIDGE}")).unwrap();
        node.ip(&format!("link set {POD_BRIDGE} up")).unwrap();
        node.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")).unwrap().unwrap();
        Self { client, edge, node, control }
    }

    /// The host of one more edge; no route leads to its VIPs.
    pub fn other_edge(&self, prefix: &str) -> Namespace {
        let edge = host(prefix, "edge2", OTHER_EDGE, &self.control);
        edge.ip(&format!("route add {POD_CIDR} via {NODE}")).unwrap();
        edge
    }
}

/// A namespace with one interface on the switch.
fn host(prefix: &str, role: &str, address: Ipv4Addr, switch: &Namespace) -> Namespace {
    let host = Namespace::new(&format!("{prefix}-{role}")).unwrap();
    switch.ip(&format!("link add {role} type veth peer name eth0 netns {}", host.name())).unwrap();
    switch.ip(&format!("link set {role} master lan up")).unwrap();
    host.ip(&format!("addr add {address}/24 dev eth0")).unwrap();
    host.ip("link set eth0 up").unwrap();
    host.ip(&format!("addr add {}/64 dev eth0 nodad", by_ipv6(address))).unwrap();
    host
}
