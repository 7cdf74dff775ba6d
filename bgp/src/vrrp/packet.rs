//! The advertisement on the wire (RFC 9568 §5.2), both ways.
//!
//! In: the bytes after the IP header with what that header said. Out: an [`Advertisement`], or why it is none.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::Family;

/// The number of VRRP among the protocols of IP.
pub const PROTOCOL: u8 = 112;
const VERSION_AND_TYPE: u8 = 0x31;
const HEADER: usize = 8;
/// An IPv6 advertisement with this many addresses and a trailer fits into the smallest MTU of IPv6 (1280).
const MOST_V6: usize = 74;
const MOST_V4: usize = 255;

/// How often the active router speaks: centiseconds, 1 to 4095 (§5.2.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interval(u16);

impl Interval {
    /// `None`: zero, or more than 12 bits hold.
    pub fn from_centiseconds(centiseconds: u16) -> Option<Self> {
        (1..=4095).contains(&centiseconds).then_some(Self(centiseconds))
    }

    /// The nearest that can be said.
    pub fn nearest(duration: Duration) -> Self {
        let centiseconds = (duration.as_millis() + 5) / 10;
        Self(u16::try_from(centiseconds).unwrap_or(4095).clamp(1, 4095))
    }

    pub fn centiseconds(self) -> u16 {
        self.0
    }

    pub fn duration(self) -> Duration {
        Duration::from_millis(u64::from(self.0) * 10)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertisement {
    pub router: u8,
    /// 0: the sender gives the addresses up.
    pub priority: u8,
    pub interval: Interval,
    /// Of one family; as many as [`fitting`] lets pass.
    pub addresses: Vec<IpAddr>,
}

/// What the IP header of a packet said, and how it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub hops: u8,
}

/// Why a packet was not used; for counters and one line to a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Discard {
    /// Shorter than its header or than its list of addresses.
    Short,
    Version,
    Kind,
    Checksum,
    /// It crossed a router (§5.1.1.3).
    Hops,
    NoAddress,
    Interval,
    /// A virtual router of somebody else on this link.
    Router,
    /// From our own address: looped back, or somebody else has it.
    Own,
    /// Multicast where unicast was agreed, or from an edge that is not a peer.
    Stranger,
    Unsigned,
    Signature,
    Replay,
    /// Signed too long ago or in the future: the clocks of the edges differ.
    Clock,
}

impl fmt::Display for Discard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Short => "too short",
            Self::Version => "not version 3",
            Self::Kind => "not an advertisement",
            Self::Checksum => "wrong checksum",
            Self::Hops => "TTL or hop limit is not 255",
            Self::NoAddress => "no addresses",
            Self::Interval => "interval is zero",
            Self::Router => "virtual router of somebody else",
            Self::Own => "from our own address",
            Self::Stranger => "not from a unicast peer",
            Self::Unsigned => "not signed",
            Self::Signature => "signed with another key",
            Self::Replay => "seen before",
            Self::Clock => "signed more than 60 s ago or ahead by our clock",
        })
    }
}

/// The addresses of one family that are told in an advertisement; the rest goes with them untold.
pub fn fitting(family: Family, addresses: &[IpAddr]) -> Vec<IpAddr> {
    let most = if family == Family::V4 { MOST_V4 } else { MOST_V6 };
    addresses.iter().copied().filter(|address| Family::of(*address) == family).take(most).collect()
}

/// The bytes after the IP header.
pub fn encode(advertisement: &Advertisement, source: IpAddr, destination: IpAddr) -> Vec<u8> {
    let addresses = fitting(Family::of(source), &advertisement.addresses);
    let mut bytes = Vec::with_capacity(HEADER + addresses.len() * 16);
    // No more than 255 pass `fitting`.
    let count = u8::try_from(addresses.len()).unwrap_or(u8::MAX);
    bytes.extend([VERSION_AND_TYPE, advertisement.router, advertisement.priority, count]);
    bytes.extend(advertisement.interval.0.to_be_bytes());
    bytes.extend([0, 0]);
    for address in addresses {
        push(&mut bytes, address);
    }
    let sum = !fold(sum(&bytes) + pseudo_header(source, destination, bytes.len()));
    bytes[6..8].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// Reads an advertisement; what follows it (a signature) begins at the second value.
pub fn decode<'a>(bytes: &'a [u8], arrival: &Arrival) -> Result<(Advertisement, &'a [u8]), Discard> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else { return Err(Discard::Short) };
    let [version_and_type, router, priority, count, high, low, ..] = *header;
    if version_and_type >> 4 != VERSION_AND_TYPE >> 4 {
        return Err(Discard::Version);
    }
    if version_and_type & 0x0f != VERSION_AND_TYPE & 0x0f {
        return Err(Discard::Kind);
    }
    let family = Family::of(arrival.source);
    let width = if family == Family::V4 { 4 } else { 16 };
    let length = usize::from(count) * width;
    if rest.len() < length {
        return Err(Discard::Short);
    }
    let (list, trailer) = rest.split_at(length);
    let message = &bytes[..HEADER + length];
    let plain = sum(message);
    let whole = plain + pseudo_header(arrival.source, arrival.destination, message.len());
    if fold(whole) != 0xffff && (family == Family::V6 || fold(plain) != 0xffff) {
        return Err(Discard::Checksum);
    }
    if count == 0 {
        return Err(Discard::NoAddress);
    }
    // The four bits above are reserved and ignored (§5.2.6).
    let interval = Interval::from_centiseconds(u16::from_be_bytes([high & 0x0f, low])).ok_or(Discard::Interval)?;
    let addresses = list.chunks_exact(width).filter_map(address).collect();
    Ok((Advertisement { router, priority, interval, addresses }, trailer))
}

fn push(bytes: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => bytes.extend(address.octets()),
        IpAddr::V6(address) => bytes.extend(address.octets()),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

/// RFC 8200 §8.1, and the same of IPv4's shorter addresses.
fn pseudo_header(source: IpAddr, destination: IpAddr, length: usize) -> u64 {
    let mut bytes = Vec::with_capacity(40);
    push(&mut bytes, source);
    push(&mut bytes, destination);
    // A VRRP message has 4088 bytes at most.
    sum(&bytes) + length as u64 + u64::from(PROTOCOL)
}

/// The sum of 16-bit words, not folded (RFC 1071).
fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
