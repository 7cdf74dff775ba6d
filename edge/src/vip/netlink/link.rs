//! Interfaces: their state, addresses that come and go with an election, and macvlans for a virtual MAC.

use std::net::IpAddr;

use edge_bgp::l2::Mac;
use futures_util::StreamExt as _;
use rtnetlink::packet_route::address::{AddressAttribute, CacheInfo};
use rtnetlink::packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, MacVlanMode};
use rtnetlink::{LinkMacVlan, LinkUnspec};

use super::{Listed, Netlink, NetlinkError, PROTOCOL, message, within};

/// An interface as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::vip) struct Link {
    pub(in crate::vip) name: String,
    pub(in crate::vip) index: u32,
    /// `None`: it has no Ethernet address.
    pub(in crate::vip) mac: Option<Mac>,
    /// Switched on by the administrator.
    pub(in crate::vip) is_enabled: bool,
    pub(in crate::vip) has_carrier: bool,
}

impl Netlink {
    pub(in crate::vip) async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        within(async {
            let mut found = Vec::new();
            let mut links = std::pin::pin!(self.handle.link().get().execute());
            while let Some(link) = links.next().await {
                let link = link?;
                let (mut name, mut mac) = (String::new(), None);
                for attribute in link.attributes {
                    match attribute {
                        LinkAttribute::IfName(text) => name = text,
                        LinkAttribute::Address(bytes) => mac = bytes.try_into().ok().map(Mac),
                        _ => {}
                    }
                }
                let flags = link.header.flags;
                found.push(Link {
                    name,
                    index: link.header.index,
                    mac,
                    is_enabled: flags.contains(LinkFlags::Up),
                    has_carrier: flags.contains(LinkFlags::Running | LinkFlags::LowerUp),
                });
            }
            Ok(found)
        })
        .await
    }

    /// Adds a host address that moves between machines: the kernel never chooses an IPv6 one as a source by itself,
    /// because a connection from it would die with the next move.
    pub(in crate::vip) async fn add_moving(&self, address: IpAddr, index: u32) -> Result<(), NetlinkError> {
        let mut message = message(address, index);
        if address.is_ipv6() {
            let mut lifetimes = CacheInfo::default();
            lifetimes.ifa_preferred = 0;
            lifetimes.ifa_valid = u32::MAX;
            message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
        }
        within(async {
            let mut request = self.handle.address().add(index, address, message.header.prefix_len);
            *request.message_mut() = message;
            request.execute().await
        })
        .await
    }

    pub(in crate::vip) async fn remove_moving(&self, address: IpAddr, index: u32) -> Result<(), NetlinkError> {
        within(self.handle.address().del(message(address, index)).execute()).await
    }

    /// A macvlan that is switched off; it hears only what is for itself.
    pub(in crate::vip) async fn add_macvlan(&self, name: &str, parent: u32, mac: Mac) -> Result<(), NetlinkError> {
        let link = LinkMacVlan::new(name, parent, MacVlanMode::Private).address(mac.0.to_vec()).build();
        within(self.handle.link().add(link).execute()).await
    }

    /// The kernel gives it no IPv6 address by itself: two machines with one MAC would both have it.
    pub(in crate::vip) async fn silence(&self, index: u32) -> Result<(), NetlinkError> {
        let silent = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let link = LinkUnspec::new_with_index(index).append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![silent]));
        within(self.handle.link().set(link.build()).execute()).await
    }

    pub(in crate::vip) async fn switch(&self, index: u32, is_on: bool) -> Result<(), NetlinkError> {
        let link = LinkUnspec::new_with_index(index);
        let link = if is_on { link.up() } else { link.down() };
        within(self.handle.link().set(link.build()).execute()).await
    }

    pub(in crate::vip) async fn remove_link(&self, index: u32) -> Result<(), NetlinkError> {
        within(self.handle.link().del(index).execute()).await
    }
}

/// A host address of ours, as it will be listed.
pub(in crate::vip) fn ours(address: IpAddr, interface: &str) -> Listed {
    Listed {
        address,
        prefix: if address.is_ipv4() { 32 } else { 128 },
        interface: interface.to_owned(),
        protocol: Some(PROTOCOL),
        duplicate: false,
        tentative: false,
    }
}
