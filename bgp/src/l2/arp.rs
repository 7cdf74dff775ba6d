//! ARP for IPv4 over Ethernet (RFC 826), as far as announcing and watching need it (RFC 5227).

use std::net::{IpAddr, Ipv4Addr};

use super::{Claim, ETHERTYPE_ARP, Mac, ethernet};

/// Hardware Ethernet, protocol IPv4, address lengths 6 and 4.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
const LENGTH: usize = 28;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// RFC 5227 §2.3: an announcement is a request from and for the address.
pub(super) fn gratuitous_request(address: Ipv4Addr, mac: Mac) -> Vec<u8> {
    frame(REQUEST, (mac, address), (Mac([0; 6]), address))
}

/// The same as a reply, with our MAC in both places.
pub(super) fn gratuitous_reply(address: Ipv4Addr, mac: Mac) -> Vec<u8> {
    frame(REPLY, (mac, address), (mac, address))
}

/// RFC 5227 §2.1.1: from no address, so that no cache is touched.
pub(super) fn probe(address: Ipv4Addr, mac: Mac) -> Vec<u8> {
    frame(REQUEST, (mac, Ipv4Addr::UNSPECIFIED), (Mac([0; 6]), address))
}

/// What a host asks that wants to send something there.
pub(super) fn question(address: Ipv4Addr, source: Ipv4Addr, mac: Mac) -> Vec<u8> {
    frame(REQUEST, (mac, source), (Mac([0; 6]), address))
}

/// RFC 5227 §2.4: every packet from an address claims it, request or reply.
pub(super) fn claim(payload: &[u8]) -> Option<Claim> {
    let packet: &[u8; LENGTH] = payload.get(..LENGTH)?.try_into().ok()?;
    let operation = u16::from_be_bytes([packet[6], packet[7]]);
    if packet[..6] != KIND || !matches!(operation, REQUEST | REPLY) {
        return None;
    }
    let mac = Mac(packet[8..14].try_into().ok()?);
    let address = Ipv4Addr::new(packet[14], packet[15], packet[16], packet[17]);
    // A probe claims nothing, and a group of machines has no address.
    let is_claim = !address.is_unspecified() && mac.0[0] & 1 == 0 && mac.0 != [0; 6];
    is_claim.then_some(Claim { address: IpAddr::V4(address), mac })
}

fn frame(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut frame = ethernet(Mac::BROADCAST, sender.0, ETHERTYPE_ARP);
    frame.extend(KIND);
    frame.extend(operation.to_be_bytes());
    for (mac, address) in [sender, target] {
        frame.extend(mac.0);
        frame.extend(address.octets());
    }
    frame
}
