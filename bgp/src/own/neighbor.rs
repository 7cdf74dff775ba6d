//! The router at the other end of a wire, as the kernel knows it: for an unnumbered peer.
//!
//! Flows in: an interface. Flows out: link-local addresses that were heard there. GoBGP looks this up too, but series 3
//! forgets it in requests over its API. Asked over netlink; the answer is parsed by a pure function.

use std::io;
use std::net::Ipv6Addr;
use std::time::Duration;

use rustix::net::netdevice::name_to_index;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

/// linux/netlink.h and linux/rtnetlink.h
const DONE: u16 = 3;
const NEW_NEIGHBOR: u16 = 28;
const GET_NEIGHBOR: u16 = 30;
const REQUEST_DUMP: u16 = 0x301;
const HEADER: usize = 16;
/// linux/neighbour.h: of `struct ndmsg`, its states and flags.
const NEIGHBOR: usize = 12;
const INCOMPLETE_FAILED_NOARP: u16 = 0x01 | 0x20 | 0x40;
const ROUTER: u8 = 0x80;
const DESTINATION: u16 = 1;
const INET6: u8 = 10;

/// Answers that are read; a wire with one router needs one.
const ANSWERS: usize = 64;

/// A neighbor with a link-local address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbor {
    pub address: Ipv6Addr,
    pub is_router: bool,
}

/// The one router on an interface of the network namespace of the calling thread. `None`: there is none, or several.
pub fn router(interface: &str) -> Option<Ipv6Addr> {
    let all = neighbors(interface).ok()?;
    let routers: Vec<&Neighbor> = all.iter().filter(|neighbor| neighbor.is_router).collect();
    match (&*routers, &*all) {
        ([one], _) => Some(one.address),
        ([], [one]) => Some(one.address),
        _ => None,
    }
}

fn neighbors(interface: &str) -> io::Result<Vec<Neighbor>> {
    // NETLINK_ROUTE is protocol 0.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(1)))?;
    let index = name_to_index(&socket, interface)?;
    let mut request = Vec::with_capacity(HEADER + NEIGHBOR);
    request.extend_from_slice(&u32::try_from(HEADER + NEIGHBOR).unwrap_or(0).to_ne_bytes());
    request.extend_from_slice(&GET_NEIGHBOR.to_ne_bytes());
    request.extend_from_slice(&REQUEST_DUMP.to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    request.push(INET6);
    request.resize(HEADER + NEIGHBOR, 0);
    sendto(&socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    for _ in 0..ANSWERS {
        let (length, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        if parse(buffer.get(..length).unwrap_or_default(), index, &mut found) {
            break;
        }
    }
    Ok(found)
}

/// Takes the neighbors out of one answer. `true`: it was the last.
fn parse(mut answer: &[u8], index: u32, found: &mut Vec<Neighbor>) -> bool {
    while let Some((length, kind)) = message(answer) {
        if kind != NEW_NEIGHBOR {
            return true;
        }
        if let Some(neighbor) = answer.get(HEADER..length).and_then(|body| neighbor(body, index)) {
            found.push(neighbor);
        }
        answer = answer.get(aligned(length)..).unwrap_or_default();
    }
    false
}

fn message(bytes: &[u8]) -> Option<(usize, u16)> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    (kind == DONE || (HEADER..=bytes.len()).contains(&length)).then_some((length, kind))
}

fn neighbor(body: &[u8], index: u32) -> Option<Neighbor> {
    let its_index = u32::from_ne_bytes(*body.get(4..)?.first_chunk()?);
    let state = u16::from_ne_bytes(*body.get(8..)?.first_chunk()?);
    let flags = *body.get(10)?;
    if its_index != index || state & INCOMPLETE_FAILED_NOARP != 0 {
        return None;
    }
    let mut attributes = body.get(NEIGHBOR..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?);
        let value = attributes.get(4..length)?;
        if kind == DESTINATION {
            let address = Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?);
            let is_router = flags & ROUTER != 0;
            return address.is_unicast_link_local().then_some(Neighbor { address, is_router });
        }
        attributes = attributes.get(aligned(length)..)?;
    }
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(index: u32, state: u16, flags: u8, address: &str) -> Vec<u8> {
        let address: Ipv6Addr = address.parse().unwrap();
        let mut body = vec![INET6, 0, 0, 0];
        body.extend_from_slice(&index.to_ne_bytes());
        body.extend_from_slice(&state.to_ne_bytes());
        body.extend_from_slice(&[flags, 1]);
        // NDA_LLADDR with six bytes, then NDA_DST.
        body.extend_from_slice(&[10_u16.to_ne_bytes(), 2_u16.to_ne_bytes()].concat());
        body.extend_from_slice(&[2, 0, 0, 0, 0, 1, 0, 0]);
        body.extend_from_slice(&[20_u16.to_ne_bytes(), DESTINATION.to_ne_bytes()].concat());
        body.extend_from_slice(&address.octets());
        let mut message = u32::try_from(HEADER + body.len()).unwrap().to_ne_bytes().to_vec();
        message.extend_from_slice(&[NEW_NEIGHBOR.to_ne_bytes(), [2, 0]].concat());
        message.extend_from_slice(&[0; 8]);
        message.extend_from_slice(&body);
        message
    }

    #[test]
    fn link_local_neighbors_of_the_interface_are_found() {
        let bytes = [
            answer(3, 0x04, ROUTER, "fe80::1"),
            answer(4, 0x02, ROUTER, "fe80::2"),
            answer(3, 0x20, 0, "fe80::3"),
            answer(3, 0x40, 0, "ff02::2"),
            answer(3, 0x02, 0, "2001:db8::1"),
            answer(3, 0x02, 0, "fe80::5"),
        ]
        .concat();
        let mut found = Vec::new();
        assert!(!parse(&bytes, 3, &mut found));
        let seen: Vec<(String, bool)> = found.iter().map(|one| (one.address.to_string(), one.is_router)).collect();
        assert_eq!(seen, [("fe80::1".to_owned(), true), ("fe80::5".to_owned(), false)]);
        let done = [&20_u32.to_ne_bytes()[..], &DONE.to_ne_bytes(), &[0; 14]].concat();
        assert!(parse(&done, 3, &mut found));
    }

    #[test]
    fn the_kernel_answers() {
        assert_eq!(neighbors("lo").unwrap(), []);
        assert!(neighbors("nonexistent0").is_err());
    }

    proptest! {
        #[test]
        fn no_answer_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..100), cut in 0_usize..80) {
            let mut found = Vec::new();
            parse(&bytes, 3, &mut found);
            let mut whole = answer(3, 2, 0, "fe80::1");
            whole.truncate(cut);
            parse(&whole, 3, &mut found);
        }
    }
}
