//! PROXY protocol, versions 1 and 2: who the client is, told by a load balancer in front of us, or by us to an endpoint.
//!
//! In: the first bytes of a connection ([`parse`], pure), or the client of one ([`encode`]). Out: an [`Origin`], or a
//! [`Header`]. Whom to believe is the snapshot's business, and reading from connections is [`accept`]'s. Nothing is
//! repaired: what is not exactly a header is an error as soon as it has begun like one.
//!
//! Standard: HAProxy's `proxy-protocol.txt`, §2.1 (version 1), §2.2 (version 2). TLVs are walked so that their lengths
//! hold; CRC32C (§2.2.3) is verified where it is present, and the others (ALPN, authority, SSL, network namespace, those
//! of vendors) say nothing that Edge believes.

pub mod accept;
mod crc;
mod encode;
mod v1;
mod v2;

use std::net::SocketAddr;

pub use self::encode::{Header, encode};

/// The longest header that is taken. The standard's own fit into 536 bytes; vendors' TLVs and certificates take more.
pub const MOST: usize = 4096;

/// The two ends of a connection, as its client sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// So far it could become a header or something else.
    Undecided,
    /// A header has begun; its rest is still to come.
    Partial,
    /// A whole header of this length. `None`: the connection speaks for itself (LOCAL, UNKNOWN, UNSPEC), or comes from
    /// where there are no IP addresses.
    Header { length: usize, origin: Option<Origin> },
    /// No header.
    Other,
}

/// A header that has begun and is wrong; says how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// Looks at the first bytes of a connection, all that came so far. More bytes never change an answer other than
/// [`Start::Undecided`] and [`Start::Partial`].
pub fn parse(bytes: &[u8]) -> Result<Start, Malformed> {
    if let Some(rest) = bytes.strip_prefix(v1::PREFIX) {
        return v1::parse(bytes, rest);
    }
    if bytes.starts_with(v2::SIGNATURE) {
        return v2::parse(bytes);
    }
    let could_be = v1::PREFIX.starts_with(bytes) || v2::SIGNATURE.starts_with(bytes);
    Ok(if could_be { Start::Undecided } else { Start::Other })
}

/// Clients that came by IPv4 over an IPv6 socket are what they are elsewhere.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests;
