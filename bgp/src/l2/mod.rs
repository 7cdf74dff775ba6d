//! ARP and NDP without I/O: the frames that tell a link where an address is, when to send them, and who else claims it.
//!
//! In: addresses, frames of strangers, `now` as the time since some fixed moment. Out: frames, moments, conflicts.
//! The kernel has the addresses and answers questions about them; this only tells unasked, and watches.
//! Standards: RFC 826 and 5227 (ARP), RFC 4861 and 4862 (NDP).

mod arp;
mod conflict;
mod ndp;
mod schedule;
mod watch;

use std::fmt;
use std::net::IpAddr;

pub use conflict::{Conflict, Conflicts};
pub use schedule::{REFRESH, Schedule};
pub use watch::{Pace, Watch};

/// ARP and IPv6 among the protocols of Ethernet.
pub const ETHERTYPE_ARP: u16 = 0x0806;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Bytes before the payload of a frame: two addresses and a type.
const ETHERNET: usize = 14;

/// The address of an interface on a link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// The MAC of a virtual router (RFC 9568 §7.3).
    pub fn of_router(router: u8, is_v6: bool) -> Self {
        Self([0, 0, 0x5e, 0, if is_v6 { 2 } else { 1 }, router])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Somebody says that an address is at this MAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    pub address: IpAddr,
    pub mac: Mac,
}

/// What tells everybody on the link that the address is at `mac`: a gratuitous request and a gratuitous reply of ARP,
/// because some listen to one of them only; or an unsolicited neighbour advertisement.
pub fn announcement(address: IpAddr, mac: Mac) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(address) => vec![arp::gratuitous_request(address, mac), arp::gratuitous_reply(address, mac)],
        IpAddr::V6(address) => vec![ndp::unsolicited(address, mac)],
    }
}

/// A question that whoever has the address answers, and nobody learns from (RFC 5227 §2.1.1, RFC 4862 §5.4.2).
pub fn probe(address: IpAddr, mac: Mac) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp::probe(address, mac),
        IpAddr::V6(address) => ndp::probe(address, mac),
    }
}

/// A question for the MAC of an address, from an address of ours of the same family; `None` where it is of the other.
pub fn question(address: IpAddr, source: IpAddr, mac: Mac) -> Option<Vec<u8>> {
    match (address, source) {
        (IpAddr::V4(address), IpAddr::V4(source)) => Some(arp::question(address, source, mac)),
        (IpAddr::V6(address), IpAddr::V6(source)) => Some(ndp::question(address, source, mac)),
        _ => None,
    }
}

/// Reads a whole Ethernet frame. `None`: it claims nothing, or is malformed.
pub fn claim(frame: &[u8]) -> Option<Claim> {
    let kind = u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]);
    let source = Mac(frame.get(6..12)?.try_into().ok()?);
    let payload = frame.get(ETHERNET..)?;
    match kind {
        ETHERTYPE_ARP => arp::claim(payload),
        ETHERTYPE_IPV6 => ndp::claim(payload, source),
        _ => None,
    }
}

fn ethernet(destination: Mac, source: Mac, kind: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET + 72);
    frame.extend(destination.0);
    frame.extend(source.0);
    frame.extend(kind.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests;
