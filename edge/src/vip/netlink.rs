//! The addresses in the kernel, by rtnetlink: lists, adds and removes host addresses, and tells when something changed.
//!
//! Each request has a deadline. Errors are lines for users.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use futures_util::StreamExt as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol, AddressScope,
};
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::{Handle, MulticastGroup, new_connection};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::netlink;

mod link;

pub(super) use link::{Link, ours};

/// Marks our addresses (IFA_PROTO, Linux 5.18): what the list of the store calls ours but does not bear this mark was
/// added again by somebody else. 1 to 3 belong to the kernel.
const PROTOCOL: u8 = 0xed;
const DEADLINE: Duration = Duration::from_secs(5);

pub(super) struct Netlink {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

/// An address as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) address: IpAddr,
    pub(super) prefix: u8,
    pub(super) interface: String,
    /// IFA_PROTO, where the kernel knows it.
    pub(super) protocol: Option<u8>,
    /// IPv6: somebody else on the link has this address.
    pub(super) duplicate: bool,
    /// IPv6: the kernel still asks whether somebody else has it.
    pub(super) tentative: bool,
}

impl Listed {
    pub(super) fn is_marked(&self) -> bool {
        self.protocol == Some(PROTOCOL)
    }

    /// 127.0.0.0/8 on `lo` makes every address in it local; so does any other IPv4 network on `lo`.
    pub(super) fn covers(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) if self.interface == "lo" && self.prefix <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                u32::from(network) & mask == u32::from(address) & mask
            }
            (held, address) => held == address,
        }
    }
}

/// Why a change failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NetlinkError {
    #[error("exists")]
    Exists,
    #[error("there is none")]
    Absent,
    #[error("operation not permitted (needs CAP_NET_ADMIN)")]
    NotPermitted,
    #[error("interface {0} does not exist")]
    NoInterface(String),
    #[error("no answer from the kernel within 5 s")]
    Deadline,
    #[error("{0}")]
    Other(String),
}

impl Netlink {
    /// Needs a tokio runtime.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = new_connection().map_err(|error| NetlinkError::Other(error.to_string()))?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// All addresses of all interfaces.
    pub(super) async fn list(&self) -> Result<Vec<Listed>, NetlinkError> {
        within(async {
            let mut names = std::collections::HashMap::new();
            let mut links = std::pin::pin!(self.handle.link().get().execute());
            while let Some(link) = links.next().await {
                let link = link?;
                let name = link.attributes.into_iter().find_map(|attribute| match attribute {
                    LinkAttribute::IfName(name) => Some(name),
                    _ => None,
                });
                names.insert(link.header.index, name.unwrap_or_default());
            }
            let mut found = Vec::new();
            let mut addresses = std::pin::pin!(self.handle.address().get().execute());
            while let Some(message) = addresses.next().await {
                let message = message?;
                let interface = names.get(&message.header.index).cloned().unwrap_or_default();
                found.extend(listed(&message, interface));
            }
            Ok(found)
        })
        .await
    }

    pub(super) async fn add(&self, address: IpAddr, interface: &str) -> Result<(), NetlinkError> {
        let message = message(address, self.index(interface).await?);
        within(async {
            let mut request = self.handle.address().add(message.header.index, address, message.header.prefix_len);
            *request.message_mut() = message;
            request.execute().await
        })
        .await
    }

    pub(super) async fn remove(&self, address: IpAddr, interface: &str) -> Result<(), NetlinkError> {
        let message = message(address, self.index(interface).await?);
        within(self.handle.address().del(message).execute()).await
    }

    async fn index(&self, interface: &str) -> Result<u32, NetlinkError> {
        let found = within(async {
            let mut links = std::pin::pin!(self.handle.link().get().match_name(interface.to_owned()).execute());
            links.next().await.transpose()
        })
        .await;
        match found {
            Ok(Some(link)) => Ok(link.header.index),
            Ok(None) | Err(NetlinkError::Absent) => Err(NetlinkError::NoInterface(interface.into())),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A channel of capacity 1 that is filled whenever an address or a link changed; `None` without that right.
pub(super) fn changes() -> Option<(mpsc::Receiver<()>, tokio::task::JoinHandle<()>)> {
    netlink::changes(&[MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr, MulticastGroup::Link])
}

async fn within<T>(work: impl Future<Output = Result<T, rtnetlink::Error>>) -> Result<T, NetlinkError> {
    match timeout(DEADLINE, work).await {
        Ok(result) => result.map_err(readable),
        Err(_) => Err(NetlinkError::Deadline),
    }
}

fn readable(error: rtnetlink::Error) -> NetlinkError {
    let rtnetlink::Error::NetlinkError(message) = error else { return NetlinkError::Other(error.to_string()) };
    let io = message.to_io();
    match io.raw_os_error() {
        Some(libc::EEXIST) => NetlinkError::Exists,
        Some(libc::EADDRNOTAVAIL | libc::ENODEV) => NetlinkError::Absent,
        Some(libc::EPERM | libc::EACCES) => NetlinkError::NotPermitted,
        _ => NetlinkError::Other(io.to_string().to_lowercase()),
    }
}

/// A host address: /32, or /128 without duplicate address detection, whose delay would keep it from being bound.
fn message(address: IpAddr, index: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
        AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)),
    ];
    match address {
        IpAddr::V4(_) => {
            message.header.family = AddressFamily::Inet;
            message.header.prefix_len = 32;
        }
        IpAddr::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            message.header.prefix_len = 128;
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
    }
    message
}

fn listed(message: &AddressMessage, interface: String) -> Option<Listed> {
    let (mut local, mut peer, mut protocol) = (None, None, None);
    let (mut duplicate, mut tentative) = (false, false);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => peer = Some(*address),
            AddressAttribute::Protocol(found) => protocol = Some(u8::from(*found)),
            AddressAttribute::Flags(flags) => {
                duplicate = flags.contains(AddressFlags::Dadfailed);
                tentative = flags.contains(AddressFlags::Tentative);
            }
            _ => {}
        }
    }
    // On a point-to-point link ADDRESS is the other end.
    let address = local.or(peer).filter(|address| *address != IpAddr::V6(Ipv6Addr::UNSPECIFIED))?;
    Some(Listed { address, prefix: message.header.prefix_len, interface, protocol, duplicate, tentative })
}
