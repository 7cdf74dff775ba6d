//! Neighbour discovery for IPv6 over Ethernet (RFC 4861 §4.3, §4.4), as far as announcing and watching need it.

use std::net::{IpAddr, Ipv6Addr};

use super::{Claim, ETHERTYPE_IPV6, Mac, ethernet};

const IPV6: usize = 40;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Type, code, checksum, flags and the target.
const MESSAGE: usize = 24;
/// Replace what the neighbour has.
const OVERRIDE: u8 = 0x20;
const SOURCE_ADDRESS: u8 = 1;
const TARGET_ADDRESS: u8 = 2;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// RFC 4861 §7.2.6: unsolicited, to all nodes, with the override flag.
pub(super) fn unsolicited(address: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let mut message = begin(ADVERTISEMENT, OVERRIDE, address);
    message.extend([TARGET_ADDRESS, 1]);
    message.extend(mac.0);
    packet(mac, address, ALL_NODES, message)
}

/// RFC 4862 §5.4.2: from the unspecified address to the solicited-node group, with no option.
pub(super) fn probe(address: Ipv6Addr, mac: Mac) -> Vec<u8> {
    packet(mac, Ipv6Addr::UNSPECIFIED, solicited_node(address), begin(SOLICITATION, 0, address))
}

/// RFC 4861 §7.2.2: with our own MAC, to which the answer goes.
pub(super) fn question(address: Ipv6Addr, source: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let mut message = begin(SOLICITATION, 0, address);
    message.extend([SOURCE_ADDRESS, 1]);
    message.extend(mac.0);
    packet(mac, source, solicited_node(address), message)
}

/// RFC 4291 §2.7.1
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

/// An advertisement claims its target, a solicitation its source.
pub(super) fn claim(payload: &[u8], frame_source: Mac) -> Option<Claim> {
    let header: &[u8; IPV6] = payload.get(..IPV6)?.try_into().ok()?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let message = payload.get(IPV6..IPV6.checked_add(length)?)?;
    // RFC 4861 §7.1: hop limit 255 proves that no router forwarded it.
    if header[0] >> 4 != 6 || header[6] != ICMPV6 || header[7] != 255 || message.len() < MESSAGE || message[1] != 0 {
        return None;
    }
    let source = Ipv6Addr::from(<[u8; 16]>::try_from(&header[8..24]).ok()?);
    let destination = Ipv6Addr::from(<[u8; 16]>::try_from(&header[24..40]).ok()?);
    if checksum(source, destination, message) != 0 {
        return None;
    }
    let target = Ipv6Addr::from(<[u8; 16]>::try_from(&message[8..MESSAGE]).ok()?);
    let (address, option) = match message[0] {
        ADVERTISEMENT => (target, TARGET_ADDRESS),
        SOLICITATION if !source.is_unspecified() => (source, SOURCE_ADDRESS),
        _ => return None,
    };
    if address.is_multicast() {
        return None;
    }
    let mac = link_layer_address(&message[MESSAGE..], option)?.unwrap_or(frame_source);
    Some(Claim { address: IpAddr::V6(address), mac })
}

/// `None`: the options are malformed.
fn link_layer_address(mut options: &[u8], wanted: u8) -> Option<Option<Mac>> {
    let mut found = None;
    while let [kind, units, ..] = *options {
        let length = usize::from(units) * 8;
        let option = options.get(..length).filter(|option| !option.is_empty())?;
        if kind == wanted && length == 8 {
            found = Some(Mac(option[2..8].try_into().ok()?));
        }
        options = &options[length..];
    }
    options.is_empty().then_some(found)
}

fn begin(kind: u8, flags: u8, target: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    message.extend(target.octets());
    message
}

fn packet(mac: Mac, source: Ipv6Addr, destination: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    let sum = checksum(source, destination, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let [.., a, b, c, d] = destination.octets();
    // RFC 2464 §7: groups have MACs of their own.
    let mut frame = ethernet(Mac([0x33, 0x33, a, b, c, d]), mac, ETHERTYPE_IPV6);
    frame.extend([0x60, 0, 0, 0, 0, message.len() as u8, ICMPV6, 255]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend(message);
    frame
}

/// RFC 4443 §2.3; zero over a message that holds the right one.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u64 {
        bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum()
    };
    let mut sum = words(&source.octets()) + words(&destination.octets()) + words(message);
    sum += message.len() as u64 + u64::from(ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
