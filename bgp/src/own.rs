//! Our own addresses towards a peer, for next hops of the family that its session does not run over.
//!
//! Flows in: what the kernel prints in `/proc/net`. Flows out: addresses of the interface that a connected network of the
//! peer is on; a peer behind a router gets those of the interface that leads there. Parsing is pure, one function reads.

pub mod neighbor;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use edge_config::announce::NextHop;
use ipnet::{Ipv4Net, Ipv6Net};

/// The kernel's tables, as text.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// `/proc/net/route`
    pub route4: String,
    /// `/proc/net/ipv6_route`
    pub route6: String,
    /// `/proc/net/fib_trie`
    pub trie: String,
    /// `/proc/net/if_inet6`
    pub inet6: String,
}

impl Tables {
    /// Of the network namespace of the calling thread. What cannot be read is empty.
    pub fn read() -> Self {
        let file = |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
        Self { route4: file("route"), route6: file("ipv6_route"), trie: file("fib_trie"), inet6: file("if_inet6") }
    }

    /// Addresses of ours on the interface towards this one.
    pub fn towards(&self, peer: IpAddr) -> NextHop {
        let interface = match peer {
            IpAddr::V4(peer) => self.interface4(peer),
            IpAddr::V6(peer) => self.interface6(peer),
        };
        interface.map_or_else(NextHop::default, |name| NextHop { v4: self.address4(name), v6: self.address6(name) })
    }

    /// Columns: interface, destination, gateway, flags, …, mask at 7; words are the bytes of the network order read as
    /// a number of this machine.
    fn routes4(&self) -> impl Iterator<Item = (&str, Ipv4Net, bool)> {
        self.route4.lines().skip(1).filter_map(|line| {
            let mut words = line.split_whitespace();
            let (name, destination, gateway) = (words.next()?, words.next()?, words.next()?);
            let mask = words.nth(4)?;
            let word = |text: &str| u32::from_str_radix(text, 16).ok().map(|word| Ipv4Addr::from(word.to_ne_bytes()));
            let network = Ipv4Net::with_netmask(word(destination)?, word(mask)?).ok()?;
            Some((name, network, word(gateway)?.is_unspecified()))
        })
    }

    fn interface4(&self, peer: Ipv4Addr) -> Option<&str> {
        let towards = self.routes4().filter(|(_, network, _)| network.contains(&peer));
        towards.max_by_key(|(_, network, _)| network.prefix_len()).map(|(name, ..)| name)
    }

    /// Columns: destination, its length in hexadecimal, …, interface at the end.
    fn interface6(&self, peer: Ipv6Addr) -> Option<&str> {
        let routes = self.route6.lines().filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (&destination, &length, &name) = (words.first()?, words.get(1)?, words.last()?);
            let address = Ipv6Addr::from(u128::from_str_radix(destination, 16).ok()?);
            let network = Ipv6Net::new(address, u8::from_str_radix(length, 16).ok()?).ok()?;
            (network.contains(&peer) && name != "lo").then_some((name, network.prefix_len()))
        });
        routes.max_by_key(|(_, length)| *length).map(|(name, _)| name)
    }

    /// Columns: address, index, length, scope (00: global), flags, interface.
    fn address6(&self, interface: &str) -> Option<Ipv6Addr> {
        /// IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_TENTATIVE of linux/if_addr.h; IFA_F_TEMPORARY changes too often.
        const UNFIT: u8 = 0x08 | 0x20 | 0x40 | 0x01;
        self.inet6.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            let (address, scope, flags) = (words.next()?, words.nth(2)?, words.next()?);
            let is_fit = u8::from_str_radix(flags, 16).ok()? & UNFIT == 0;
            let is_ours = words.next()? == interface && scope == "00" && is_fit;
            is_ours.then(|| u128::from_str_radix(address, 16).ok().map(Ipv6Addr::from))?
        })
    }

    /// An address of ours that lies in a network connected to the interface.
    fn address4(&self, interface: &str) -> Option<Ipv4Addr> {
        let networks: Vec<Ipv4Net> = self
            .routes4()
            .filter(|(name, network, is_connected)| *name == interface && *is_connected && network.prefix_len() > 0)
            .map(|(_, network, _)| network)
            .collect();
        self.local4().find(|address| networks.iter().any(|network| network.contains(address)))
    }

    /// The trie names an address in one line and says `/32 host LOCAL` in the next.
    fn local4(&self) -> impl Iterator<Item = Ipv4Addr> {
        let next = self.trie.lines().skip(1);
        self.trie.lines().zip(next).filter_map(|(line, next)| {
            let address = line.trim().strip_prefix("|-- ")?;
            (next.trim() == "/32 host LOCAL").then(|| address.parse().ok())?
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables() -> Tables {
        Tables {
            route4: "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                     eth0\t00000000\t0201010A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                     eth0\t0001010A\t00000000\t0001\t0\t0\t0\tFCFFFFFF\t0\t0\t0\n"
                .to_owned(),
            route6: "fd000001000200000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth1\n\
                     00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n"
                .to_owned(),
            trie: "Main:\n  +-- 10.1.1.0/30 2 0 2\n     |-- 10.1.1.0\n        /30 link UNICAST\n     |-- 10.1.1.1\n        /32 host LOCAL\n     |-- 127.0.0.1\n        /32 host LOCAL\n"
                .to_owned(),
            inet6: "fe800000000000000000000000000001 02 40 20 80     eth0\n\
                    fd000001000100000000000000000009 02 40 00 40     eth0\n\
                    fd000001000100000000000000000001 02 40 00 80     eth0\n\
                    fd000001000200000000000000000001 03 40 00 80     eth1\n"
                .to_owned(),
        }
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn the_interface_towards_the_peer_gives_both_addresses() {
        let expected = NextHop { v4: Some(Ipv4Addr::new(10, 1, 1, 1)), v6: Some("fd00:1:1::1".parse().unwrap()) };
        assert_eq!(tables().towards("10.1.1.2".parse().unwrap()), expected);
        assert_eq!(tables().towards("192.0.2.1".parse().unwrap()), expected, "by the default route");
    }

    #[test]
    fn an_interface_without_an_address_of_the_family_gives_none() {
        let expected = NextHop { v4: None, v6: Some("fd00:1:2::1".parse().unwrap()) };
        assert_eq!(tables().towards("fd00:1:2::2".parse().unwrap()), expected);
        assert_eq!(tables().towards("fd00:9::2".parse().unwrap()), NextHop::default(), "no route");
    }

    #[test]
    fn foreign_text_gives_nothing() {
        let junk = "| 0 | zz\n\t\n|-- 1.2.3\n/32 host LOCAL\n00 zz zz 0000000g zz zz zz zz zz\n".to_owned();
        let tables = Tables { route4: junk.clone(), route6: junk.clone(), trie: junk.clone(), inet6: junk };
        assert_eq!(tables.towards("10.0.0.1".parse().unwrap()), NextHop::default());
        assert_eq!(tables.towards("::1".parse().unwrap()), NextHop::default());
    }

    #[test]
    fn this_machine_s_tables_can_be_read() {
        let _ = Tables::read().towards("127.0.0.1".parse().unwrap());
    }
}
