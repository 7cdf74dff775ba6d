//! Routes in the kernel that are Edge's: found, added and removed by their protocol number, by
//! rtnetlink. A route of anybody else is never touched, also where it leads elsewhere.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures_util::StreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, new_connection};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::netlink;

/// RTPROT of our routes: the same mark as that of our addresses, and none that /etc/iproute2/rt_protos names.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(0xed);
const DEADLINE: Duration = Duration::from_secs(5);

pub(super) struct Netlink {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Netlink {
    /// Needs a tokio runtime.
    pub(super) fn open() -> Result<Self, String> {
        let (connection, handle, _) = new_connection().map_err(|error| error.to_string())?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// Our routes.
    pub(super) async fn list(&self) -> Result<BTreeMap<IpNet, IpAddr>, String> {
        let mut ours = BTreeMap::new();
        let all = [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
        for message in all {
            within(async {
                let mut routes = std::pin::pin!(self.handle.route().get(message).execute());
                while let Some(route) = routes.next().await {
                    ours.extend(ours_of(&route?));
                }
                Ok(())
            })
            .await?;
        }
        Ok(ours)
    }

    pub(super) async fn add(&self, net: IpNet, gateway: IpAddr) -> Result<(), String> {
        let message = message(net, gateway).ok_or("its gateway is of the other IP family")?;
        within(self.handle.route().add(message).execute()).await
    }

    pub(super) async fn remove(&self, net: IpNet, gateway: IpAddr) -> Result<(), String> {
        let message = message(net, gateway).ok_or("its gateway is of the other IP family")?;
        within(self.handle.route().del(message).execute()).await
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A channel of capacity 1 that is filled whenever a route or a link changed; `None` without that right.
pub(super) fn changes() -> Option<(mpsc::Receiver<()>, tokio::task::JoinHandle<()>)> {
    netlink::changes(&[MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route, MulticastGroup::Link])
}

async fn within<T>(work: impl Future<Output = Result<T, rtnetlink::Error>>) -> Result<T, String> {
    match timeout(DEADLINE, work).await {
        Ok(result) => result.map_err(readable),
        Err(_) => Err("no answer from the kernel within 5 s".to_owned()),
    }
}

fn readable(error: rtnetlink::Error) -> String {
    let rtnetlink::Error::NetlinkError(message) = error else { return error.to_string() };
    let io = message.to_io();
    match io.raw_os_error() {
        Some(libc::EEXIST) => "a route of somebody else is there".to_owned(),
        Some(libc::EPERM | libc::EACCES) => "operation not permitted (needs CAP_NET_ADMIN)".to_owned(),
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH) => "the node is not on a network of this machine".to_owned(),
        _ => io.to_string().to_lowercase(),
    }
}

fn message(net: IpNet, gateway: IpAddr) -> Option<RouteMessage> {
    Some(match (net, gateway) {
        (IpNet::V4(net), IpAddr::V4(gateway)) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .gateway(gateway)
            .protocol(PROTOCOL)
            .build(),
        (IpNet::V6(net), IpAddr::V6(gateway)) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .gateway(gateway)
            .protocol(PROTOCOL)
            .build(),
        _ => return None,
    })
}

fn ours_of(route: &RouteMessage) -> Option<(IpNet, IpAddr)> {
    if route.header.protocol != PROTOCOL || route.header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let (mut destination, mut gateway) = (None, None);
    let plain = |address: &RouteAddress| match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    };
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = plain(address),
            RouteAttribute::Gateway(address) => gateway = plain(address),
            _ => {}
        }
    }
    Some((IpNet::new(destination?, route.header.destination_prefix_length).ok()?, gateway?))
}
