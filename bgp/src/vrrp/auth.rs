//! A signature beside an advertisement, for unicast between edges. RFC 9568 has none (§9 says why the old ones went), so
//! only Edge knows it; others see bytes after the message, which the RFC lets them ignore.
//!
//! ```text
//! offset  bytes  after the last address of the advertisement
//!      0      4  "EDG1"
//!      4      8  stamp: microseconds since 1970 at the sender, big endian; each is greater than the one before
//!     12     32  HMAC-SHA-256 with the shared key over: "edge vrrp 1\0", source, destination (16 bytes each, IPv4
//!                mapped into IPv6 as in RFC 4291 §2.5.5.2), the advertisement from its first byte, the stamp
//! ```
//!
//! A stamp is accepted once and only upwards, which ends replays while a receiver runs; and only within 60 s of the
//! receiver's clock, which bounds them after its start. So the clocks of the edges must agree to a minute.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use aws_lc_rs::hmac;

use super::packet::{Arrival, Discard};

/// How many bytes a signature adds.
pub const TRAILER: usize = 44;
const MAGIC: [u8; 4] = *b"EDG1";
const CONTEXT: &[u8] = b"edge vrrp 1\0";
/// In microseconds.
const WINDOW: u64 = 60_000_000;
/// Senders whose last stamp is kept; a group has fewer peers.
const MOST_SENDERS: usize = 64;

/// A key that several edges share. It is never printed.
#[derive(Clone)]
pub struct Key {
    key: hmac::Key,
    /// To tell a changed key without keeping the text.
    print: [u8; 32],
}

impl Key {
    /// Any text; an empty one would be as good as no key.
    pub fn new(text: &[u8]) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, text);
        let mut print = [0; 32];
        print.copy_from_slice(&hmac::sign(&key, b"edge vrrp key print").as_ref()[..32]);
        Some(Self { key, print })
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.print == other.print
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Signs what one election sends.
#[derive(Debug)]
pub struct Signer {
    key: Key,
    last: u64,
}

impl Signer {
    pub fn new(key: Key) -> Self {
        Self { key, last: 0 }
    }

    /// Appends the trailer. `clock` is in microseconds since 1970; one that goes backwards does no harm.
    pub fn sign(&mut self, message: &mut Vec<u8>, source: IpAddr, destination: IpAddr, clock: u64) {
        self.last = clock.max(self.last.saturating_add(1));
        let tag = tag(&self.key, source, destination, message, self.last);
        message.extend(MAGIC);
        message.extend(self.last.to_be_bytes());
        message.extend(tag.as_ref());
    }
}

/// Checks what one election receives.
#[derive(Debug)]
pub struct Verifier {
    key: Key,
    seen: BTreeMap<IpAddr, u64>,
}

impl Verifier {
    pub fn new(key: Key) -> Self {
        Self { key, seen: BTreeMap::new() }
    }

    /// `trailer` is the end of `bytes`, behind the advertisement.
    pub fn check(&mut self, bytes: &[u8], trailer: &[u8], arrival: &Arrival, clock: u64) -> Result<(), Discard> {
        let Ok(trailer) = <&[u8; TRAILER]>::try_from(trailer) else { return Err(Discard::Unsigned) };
        if trailer[..4] != MAGIC {
            return Err(Discard::Unsigned);
        }
        let mut stamp = [0; 8];
        stamp.copy_from_slice(&trailer[4..12]);
        let stamp = u64::from_be_bytes(stamp);
        let message = &bytes[..bytes.len() - TRAILER];
        let input = hmac_input(arrival.source, arrival.destination, message, stamp);
        // Compared in constant time.
        hmac::verify(&self.key.key, &input, &trailer[12..]).map_err(|_| Discard::Signature)?;
        if stamp.abs_diff(clock) > WINDOW {
            return Err(Discard::Clock);
        }
        if self.seen.get(&arrival.source).is_some_and(|last| stamp <= *last) {
            return Err(Discard::Replay);
        }
        if self.seen.len() >= MOST_SENDERS && !self.seen.contains_key(&arrival.source) {
            return Err(Discard::Stranger);
        }
        self.seen.insert(arrival.source, stamp);
        Ok(())
    }
}

fn tag(key: &Key, source: IpAddr, destination: IpAddr, message: &[u8], stamp: u64) -> hmac::Tag {
    hmac::sign(&key.key, &hmac_input(source, destination, message, stamp))
}

fn hmac_input(source: IpAddr, destination: IpAddr, message: &[u8], stamp: u64) -> Vec<u8> {
    let mut input = Vec::with_capacity(CONTEXT.len() + 40 + message.len());
    input.extend(CONTEXT);
    for address in [source, destination] {
        let mapped = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        input.extend(mapped.octets());
    }
    input.extend(message);
    input.extend(stamp.to_be_bytes());
    input
}
