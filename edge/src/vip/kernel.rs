//! Settings of the kernel under which VIPs do not work although Edge does everything right; pure.
//!
//! In: what is announced and where, and a function that reads files below `/proc`. Out: one line for each setting that is
//! wrong for this configuration, with the command that mends it. Nothing is changed: the machine is not ours. A file that
//! cannot be read says nothing. Meaning of the settings: ip-sysctl of the Linux documentation; of two values of
//! `conf/all` and of the interface the greater one counts for rp_filter, arp_ignore and arp_announce.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use edge_config::announce::{Announce, PeerAddress};
use ipnet::{Ipv4Net, Ipv6Net};

/// What has to work.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    pub announce: &'a Announce,
    /// Of the snapshot.
    pub vips: &'a [IpAddr],
    /// Where Edge adds those that are not of a virtual router; `None`: it adds none.
    pub interface: Option<&'a str>,
    /// Of all workers.
    pub max_connections: usize,
}

/// Reads a file, such as `/proc/net/route`, as text.
pub type Read<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The real one.
pub fn read_file(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// Fewer local ports than this run out: each connection to the same endpoint needs one, for a minute after its end, too.
const FEW_PORTS: u64 = 10_000;

/// Everything that is wrong, in a stable order.
pub fn findings(demand: &Demand<'_>, read: Read<'_>) -> Vec<String> {
    let kernel = Kernel { read, routes: Routes::read(read) };
    let mut found = Vec::new();
    reverse_path(demand, &kernel, &mut found);
    strict_arp(demand, &kernel, &mut found);
    virtual_mac(demand, &kernel, &mut found);
    ipv6(demand, &kernel, &mut found);
    capacity(demand, &kernel, &mut found);
    found
}

/// RFC 3704: a strict filter drops what comes in by another interface than the answer would go out by. Linux answers by
/// its routes, not by where the question came from.
fn reverse_path(demand: &Demand<'_>, kernel: &Kernel<'_>, found: &mut Vec<String>) {
    let v4 = |address: &IpAddr| address.is_ipv4();
    let mut entrances = BTreeSet::new();
    if let Some(bgp) = demand.announce.bgp.as_ref().filter(|_| demand.vips.iter().any(v4)) {
        entrances.extend(bgp.peers.iter().filter_map(|peer| match peer.address {
            PeerAddress::Interface(ref name) => Some(name.as_str()),
            PeerAddress::Address(address) => kernel.routes.towards(address),
        }));
    }
    let groups = demand.announce.l2.iter().filter(|group| group.vips.iter().any(v4));
    entrances.extend(groups.map(|group| group.interface.as_str()));
    let defaults = kernel.routes.defaults();
    for interface in &entrances {
        let is_only_way = entrances.len() == 1 && defaults.iter().all(|default| default == interface);
        if !is_only_way && kernel.effective("rp_filter", interface) == Some(1) {
            found.push(format!(
                "{interface}: rp_filter is strict, requests to VIPs are dropped whose answers leave by another \
                 interface: {}",
                fix("ipv4", interface, "rp_filter", 2)
            ));
        }
    }
}

/// An address on `lo` is answered for on every interface that is asked. That matters where somebody asks: in a network
/// that this machine is connected to and the VIP is part of. There every edge would answer, and nobody is the right one.
fn strict_arp(demand: &Demand<'_>, kernel: &Kernel<'_>, found: &mut Vec<String>) {
    let Some(bound) = demand.interface else { return };
    let in_groups: BTreeSet<IpAddr> = demand.announce.l2.iter().flat_map(|group| group.vips.iter().copied()).collect();
    let mut seen = BTreeSet::new();
    for vip in demand.vips.iter().filter(|vip| !in_groups.contains(vip)) {
        let IpAddr::V4(address) = vip else { continue };
        for interface in kernel.routes.connected(*address) {
            if interface == bound || !seen.insert(interface) {
                continue;
            }
            if kernel.effective("arp_ignore", interface) == Some(0) {
                found.push(format!(
                    "{vip} is on {bound} and of the network at {interface}, where every edge answers ARP for it: {}",
                    fix("ipv4", interface, "arp_ignore", 1)
                ));
            }
            if kernel.effective("arp_announce", interface).is_some_and(|level| level < 2) {
                found.push(format!(
                    "{vip} is on {bound} and of the network at {interface}, to which ARP requests tell it as ours: {}",
                    fix("ipv4", interface, "arp_announce", 2)
                ));
            }
        }
    }
}

/// The macvlan with the virtual router's MAC and its parent are on one wire: the parent must not answer for it.
fn virtual_mac(demand: &Demand<'_>, kernel: &Kernel<'_>, found: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for group in demand.announce.l2.iter().filter(|group| group.virtual_mac) {
        let interface = group.interface.as_str();
        if !group.vips.iter().any(IpAddr::is_ipv4) || !seen.insert(interface) {
            continue;
        }
        for (key, least, what) in [
            ("arp_ignore", 1, "answers ARP for the addresses of the virtual MAC with its own"),
            ("arp_announce", 2, "tells the addresses of the virtual MAC with its own"),
        ] {
            if kernel.effective(key, interface).is_some_and(|level| level < least) {
                let fix = fix("ipv4", interface, key, least);
                found.push(format!("{interface} {what} (l2 group \"{}\"): {fix}", group.name));
            }
        }
        if kernel.value("ipv4", "all", "rp_filter") == Some(1) {
            found.push(format!(
                "rp_filter is strict for all interfaces, requests to the virtual MAC at {interface} are dropped: {}",
                fix("ipv4", "all", "rp_filter", 0)
            ));
        }
    }
}

fn ipv6(demand: &Demand<'_>, kernel: &Kernel<'_>, found: &mut Vec<String>) {
    let mut needed: BTreeSet<(&str, String)> = BTreeSet::new();
    let groups = &demand.announce.l2;
    for group in groups {
        if let Some(vip) = group.vips.iter().find(|vip| vip.is_ipv6()) {
            needed.insert((&group.interface, format!("VIP {vip} cannot be added")));
        }
    }
    let is_in_group = |vip: &IpAddr| groups.iter().any(|group| group.vips.contains(vip));
    if let (Some(interface), Some(vip)) =
        (demand.interface, demand.vips.iter().find(|vip| vip.is_ipv6() && !is_in_group(vip)))
    {
        needed.insert((interface, format!("VIP {vip} cannot be added")));
    }
    for peer in demand.announce.bgp.iter().flat_map(|bgp| &bgp.peers) {
        if let PeerAddress::Interface(interface) = &peer.address {
            needed.insert((interface, format!("peer {} has no link-local address to be reached by", peer.name)));
        }
    }
    for (interface, what) in needed {
        if kernel.value("ipv6", interface, "disable_ipv6") == Some(1) {
            let fix = fix("ipv6", interface, "disable_ipv6", 0);
            found.push(format!("{interface}: IPv6 is off, {what}: {fix}"));
        }
    }
}

fn capacity(demand: &Demand<'_>, kernel: &Kernel<'_>, found: &mut Vec<String>) {
    if demand.vips.is_empty() {
        return;
    }
    let range = (kernel.read)("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ends = range.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
    if let (Some(first), Some(last)) = (ends.next(), ends.next())
        && let Some(ports) = last.checked_sub(first).map(|between| between + 1)
        && ports < FEW_PORTS
    {
        found.push(format!(
            "{ports} local ports for connections to endpoints, which run out under load: \
             sysctl -w net.ipv4.ip_local_port_range=\"32768 60999\""
        ));
    }
    // Two entries for each proxied connection. Without a rule that needs it nothing is tracked, and the count stays zero.
    let tracked = kernel.number("/proc/sys/net/netfilter/nf_conntrack_count").unwrap_or(0);
    let needed = u64::try_from(demand.max_connections).unwrap_or(u64::MAX).saturating_mul(2);
    if let Some(most) = kernel.number("/proc/sys/net/netfilter/nf_conntrack_max")
        && tracked > 0
        && most < needed
    {
        found.push(format!(
            "the firewall follows {most} connections at most and drops those beyond; [proxy] max_connections needs \
             {needed}: sysctl -w net.netfilter.nf_conntrack_max={needed}"
        ));
    }
}

/// In the notation of sysctl(8) a dot in the name of an interface is a slash.
fn fix(family: &str, interface: &str, key: &str, value: u64) -> String {
    format!("sysctl -w net.{family}.conf.{}.{key}={value}", interface.replace('.', "/"))
}

struct Kernel<'r> {
    read: Read<'r>,
    routes: Routes,
}

impl Kernel<'_> {
    fn number(&self, path: &str) -> Option<u64> {
        (self.read)(path)?.trim().parse().ok()
    }

    fn value(&self, family: &str, interface: &str, key: &str) -> Option<u64> {
        // An interface cannot be called so; a path of somebody's making could.
        if interface.contains('/') {
            return None;
        }
        self.number(&format!("/proc/sys/net/{family}/conf/{interface}/{key}"))
    }

    fn effective(&self, key: &str, interface: &str) -> Option<u64> {
        let own = self.value("ipv4", interface, key)?;
        Some(own.max(self.value("ipv4", "all", key).unwrap_or(0)))
    }
}

/// Interface, destination, and whether it is connected.
struct Routes {
    v4: Vec<(String, Ipv4Net, bool)>,
    v6: Vec<(String, Ipv6Net)>,
}

impl Routes {
    fn read(read: Read<'_>) -> Self {
        let v4 = read("/proc/net/route").unwrap_or_default();
        let v6 = read("/proc/net/ipv6_route").unwrap_or_default();
        Self { v4: v4.lines().skip(1).filter_map(route4).collect(), v6: v6.lines().filter_map(route6).collect() }
    }

    fn defaults(&self) -> BTreeSet<&str> {
        let defaults = self.v4.iter().filter(|(_, network, _)| network.prefix_len() == 0);
        defaults.map(|(interface, ..)| interface.as_str()).collect()
    }

    /// The interface by which an address is reached. Of several routes of one length the first counts, as for the kernel.
    fn towards(&self, address: IpAddr) -> Option<&str> {
        match address {
            IpAddr::V4(address) => {
                let routes = self.v4.iter().rev().filter(|(_, network, _)| network.contains(&address));
                routes.max_by_key(|(_, network, _)| network.prefix_len()).map(|(interface, ..)| interface.as_str())
            }
            IpAddr::V6(address) => {
                let routes = self.v6.iter().rev().filter(|(_, network)| network.contains(&address));
                routes.max_by_key(|(_, network)| network.prefix_len()).map(|(interface, _)| interface.as_str())
            }
        }
    }

    /// Interfaces at a network that an address is part of.
    fn connected(&self, address: Ipv4Addr) -> impl Iterator<Item = &str> {
        let routes = self.v4.iter().filter(move |(_, network, is_connected)| {
            *is_connected && (1..32).contains(&network.prefix_len()) && network.contains(&address)
        });
        routes.map(|(interface, ..)| interface.as_str())
    }
}

/// `/proc/net/route`: interface, destination, gateway, flags, three numbers, mask; addresses as words of this machine.
fn route4(line: &str) -> Option<(String, Ipv4Net, bool)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let word = |index: usize| u32::from_str_radix(words.get(index)?, 16).ok().map(|word| word.to_ne_bytes());
    let (destination, gateway, mask) = (Ipv4Addr::from(word(1)?), word(2)?, Ipv4Addr::from(word(7)?));
    let network = Ipv4Net::with_netmask(destination, mask).ok()?;
    Some(((*words.first()?).to_owned(), network, gateway == [0; 4]))
}

/// `/proc/net/ipv6_route`: destination, its length, four further columns, metric, two counters, flags, interface. Routes
/// that only refuse are on `lo`.
fn route6(line: &str) -> Option<(String, Ipv6Net)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let destination = u128::from_str_radix(words.first()?, 16).ok()?;
    let length = u8::from_str_radix(words.get(1)?, 16).ok()?;
    let interface = words.last().filter(|name| **name != "lo")?;
    Some(((*interface).to_owned(), Ipv6Net::new(Ipv6Addr::from(destination), length).ok()?))
}

#[cfg(test)]
mod tests;
