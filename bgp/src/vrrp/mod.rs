//! VRRP version 3 (RFC 9568) without I/O: who of several edges has the addresses of a group.
//!
//! In: advertisements with what the network layer knew of them, the standing of this edge, `now` as the time since some
//! fixed moment. Out: advertisements to send, and when to take the addresses or to let them go. One [`Router`] is one
//! election: one VRID of one address family on one interface. Bytes of strangers never panic; each that is not used has
//! a [`Discard`]. Accept_Mode is always on, and priority 255 (the owner of an address) is never used: VIPs have none.
//!
//! Where we differ from the text: an IPv6 advertisement lists the VIPs themselves, without a link-local address as the
//! first (§5.2.9), as keepalived does; and an advertisement of IPv4 is accepted with and without a pseudo-header in its
//! checksum (RFC 5798 implementations differ), and sent with it.

mod auth;
mod packet;
mod reason;
mod router;

pub use auth::{Key, Signer, TRAILER, Verifier};
pub use packet::{Advertisement, Arrival, Discard, Interval, PROTOCOL, decode, encode, fitting};
pub use reason::{Mismatch, Reason};
pub use router::{Action, Counters, Leader, Role, Router, Settings, Standing, Transition};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The multicast groups of §5.1.1.2 and §5.1.2.2.
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);

/// IPv4 and IPv6 have an election each, even with one VRID (§1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Where advertisements go without unicast peers.
    pub fn group(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(GROUP_V4),
            Self::V6 => IpAddr::V6(GROUP_V6),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
