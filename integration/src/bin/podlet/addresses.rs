//! Pod addresses: one index per Pod, the same in each of the node's networks.
//!
//! Flows in: the networks. Flows out: [`Slot`]s, and the names that follow from them. An index given back is not given
//! out again until all others were: an endpoint that somebody still remembers must not lead to another Pod.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Of a network, 0 is its own address, 1 the bridge, the last one broadcast.
const FIRST: u32 = 2;
/// More Pods than this no rig has.
const MOST: u32 = 65_536;

/// Which indices are taken.
#[derive(Debug)]
pub struct Pool {
    networks: Vec<IpNet>,
    /// One beyond the highest index.
    end: u32,
    next: u32,
    taken: BTreeSet<u32>,
}

/// The addresses of one Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub index: u32,
    /// In the order of the networks; never empty.
    pub addresses: Vec<IpNet>,
}

impl Pool {
    pub fn new(networks: &[IpNet]) -> Self {
        let bits = networks.iter().map(|network| network.max_prefix_len() - network.prefix_len()).min().unwrap_or(0);
        let size = if bits >= 16 { MOST } else { 1 << bits };
        Self { networks: networks.to_vec(), end: size.saturating_sub(1), next: FIRST, taken: BTreeSet::new() }
    }

    /// The bridge's own addresses, where the Pods' default routes lead.
    pub fn gateways(&self) -> Vec<IpNet> {
        self.networks.iter().map(|network| at(network, 1)).collect()
    }

    pub fn take(&mut self) -> Option<Slot> {
        let span = self.end.checked_sub(FIRST)?;
        let start = self.next;
        let index = (0..span)
            .map(|step| FIRST + (start - FIRST + step) % span)
            .find(|candidate| !self.taken.contains(candidate))?;
        self.taken.insert(index);
        self.next = FIRST + (index - FIRST + 1) % span;
        Some(Slot { index, addresses: self.networks.iter().map(|network| at(network, index)).collect() })
    }

    pub fn give_back(&mut self, slot: &Slot) {
        self.taken.remove(&slot.index);
    }
}

impl Slot {
    pub fn ips(&self) -> Vec<IpAddr> {
        self.addresses.iter().map(IpNet::addr).collect()
    }
}

/// How the names of a node's network namespaces begin. A node's name has no underscore, so no other node's names begin
/// like this.
pub fn namespace_stem(prefix: &str, node: &str) -> String {
    format!("{prefix}{node}_")
}

/// The end of a Pod's veth pair on the bridge: unlike everybody else's on that bridge, in at most 15 characters.
pub fn interface(node: &str, index: u32) -> String {
    let hash = node.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("pl{hash:08x}{index:04x}")
}

/// The address at an index, with the prefix length of its network.
fn at(network: &IpNet, index: u32) -> IpNet {
    let address: IpAddr = match network.network() {
        IpAddr::V4(base) => Ipv4Addr::from(u32::from(base).wrapping_add(index)).into(),
        IpAddr::V6(base) => Ipv6Addr::from(u128::from(base).wrapping_add(u128::from(index))).into(),
    };
    IpNet::new(address, network.prefix_len()).expect("the length comes from a network of this family")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(networks: &[&str]) -> Pool {
        let networks: Vec<IpNet> = networks.iter().map(|text| text.parse().unwrap()).collect();
        Pool::new(&networks)
    }

    fn taken(pool: &mut Pool) -> String {
        pool.take().unwrap().addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn first_addresses() {
        let mut pool = pool(&["10.244.1.0/24", "fd00:1::/112"]);
        assert_eq!(pool.gateways(), ["10.244.1.1/24".parse().unwrap(), "fd00:1::1/112".parse().unwrap()]);
        assert_eq!(taken(&mut pool), "10.244.1.2/24 fd00:1::2/112");
        assert_eq!(taken(&mut pool), "10.244.1.3/24 fd00:1::3/112");
    }

    #[test]
    fn a_returned_address_comes_last() {
        let mut pool = pool(&["10.244.1.0/29"]);
        let first = pool.take().unwrap();
        pool.give_back(&first);
        let mut rest = Vec::new();
        while let Some(slot) = pool.take() {
            rest.push(slot.index);
        }
        assert_eq!(rest, [3, 4, 5, 6, 2]);
        pool.give_back(&Slot { index: 4, addresses: Vec::new() });
        assert_eq!(pool.take().unwrap().index, 4);
        assert_eq!(pool.take(), None);
    }

    #[test]
    fn the_smaller_network_bounds() {
        let mut pool = pool(&["10.0.0.0/8", "fd00::/124"]);
        assert_eq!(std::iter::from_fn(|| pool.take()).count(), 13);
        let mut large = Pool::new(&["fd00::/64".parse().unwrap()]);
        assert!(large.take().is_some());
    }

    #[test]
    fn names_fit() {
        assert_eq!(namespace_stem("edge-rig-", "n1"), "edge-rig-n1_");
        assert_eq!(interface("node1", 0xffff).len(), 14);
        assert_ne!(interface("node1", 2), interface("node2", 2));
    }
}
