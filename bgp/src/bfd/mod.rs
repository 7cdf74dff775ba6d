//! BFD (RFC 5880) in asynchronous mode without I/O: whether a peer can be reached both ways, known in less than a second.
//!
//! In: packets that were found to belong to a [`Session`], the time since some fixed moment, a random number for jitter.
//! Out: packets to send, the state and why it is so. No demand mode of our own, no echo, no authentication; a packet that
//! is authenticated is discarded (§6.8.6). Bytes of strangers never panic.
//! Ports and hop limits of [`Hops`]: RFC 5881 (one hop), RFC 5883 (several).

mod packet;
mod session;

use std::net::IpAddr;

pub use packet::{Diagnostic, Discard, Packet, State, decode, encode};
pub use session::{Counters, Handed, Reason, Session, Settings};

/// How far away a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hops {
    One,
    /// The least TTL or hop limit that is believed.
    Several {
        minimum_ttl: u8,
    },
}

impl Hops {
    /// RFC 5881 §4, RFC 5883 §5.
    pub fn port(self) -> u16 {
        match self {
            Self::One => 3784,
            Self::Several { .. } => 4784,
        }
    }

    /// RFC 5881 §5: without authentication only a packet that crossed no router is believed.
    pub fn believes(self, ttl: u8) -> bool {
        match self {
            Self::One => ttl == 255,
            Self::Several { minimum_ttl } => ttl >= minimum_ttl,
        }
    }
}

/// The session that a packet is for (§6.8.6, RFC 5881 §3): by our discriminator once the peer knows it, by its address
/// before. In both cases it must come from the peer's address. `candidates` are those whose port, interface and TTL
/// let the packet pass, each with the address of its peer and its discriminator.
pub fn select<K>(
    packet: &Packet,
    source: IpAddr,
    candidates: impl IntoIterator<Item = (K, IpAddr, u32)>,
) -> Result<K, Discard> {
    let mut found = candidates.into_iter().filter(|(_, peer, discriminator)| {
        *peer == source && (packet.your_discriminator == 0 || packet.your_discriminator == *discriminator)
    });
    found.next().map(|(key, ..)| key).ok_or(Discard::NoSession)
}

#[cfg(test)]
mod tests;
