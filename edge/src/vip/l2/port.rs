//! The sockets of one interface: VRRP of both families, frames of ARP and NDP.
//!
//! In: advertisements and frames to send. Out: packets that arrived, each with what its IP header said. Nothing waits.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::task::{Context, Poll};

use edge_bgp::l2::{Claim, ETHERTYPE_ARP, ETHERTYPE_IPV6, claim};
use edge_bgp::vrrp::{Arrival, Family, GROUP_V4, GROUP_V6, PROTOCOL};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

use crate::vip::wire;

/// Longer than any packet that is of use: an IPv4 header, 255 addresses of IPv6, a signature.
const LONGEST: usize = 4608;
/// Internetwork control (RFC 2474 §4.2.2.2, CS6): advertisements come first in full queues.
const CLASS: u32 = 0xc0;

/// What arrived on an interface.
pub(super) enum Incoming {
    /// A VRRP packet: what its IP header said, and the bytes behind it.
    Vrrp(Arrival, Vec<u8>),
    Claim(Claim),
}

pub(super) struct Port {
    index: u32,
    name: String,
    v4: AsyncFd<Socket>,
    /// `None`: IPv6 is switched off on this machine.
    v6: Option<AsyncFd<Socket>>,
    arp: AsyncFd<Socket>,
    ndp: AsyncFd<Socket>,
    /// Sockets to send advertisements, by source.
    senders: BTreeMap<IpAddr, Socket>,
}

impl Port {
    /// Needs CAP_NET_RAW.
    pub(super) fn open(name: &str, index: u32) -> io::Result<Self> {
        let v4 = raw(Domain::IPV4, name)?;
        v4.join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(index))?;
        let v6 = match raw(Domain::IPV6, name) {
            Ok(socket) => {
                wire::tell_arrival(&socket, true)?;
                // Without an IPv6 address on the link there is no membership either; the election then has no source.
                let _ = socket.join_multicast_v6(&GROUP_V6, index);
                Some(wire::watched(socket)?)
            }
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            Err(error) => return Err(error),
        };
        Ok(Self {
            index,
            name: name.to_owned(),
            v4: wire::watched(v4)?,
            v6,
            arp: wire::watched(wire::packet_socket(index, ETHERTYPE_ARP, &[])?)?,
            ndp: wire::watched(wire::packet_socket(index, ETHERTYPE_IPV6, &neighbour_discovery())?)?,
            senders: BTreeMap::new(),
        })
    }

    pub(super) fn index(&self) -> u32 {
        self.index
    }

    /// Ready when a socket has something to read.
    pub(super) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        let sockets = [Some(&self.v4), self.v6.as_ref(), Some(&self.arp), Some(&self.ndp)];
        let mut ready = Poll::Pending;
        for socket in sockets.into_iter().flatten() {
            // An error of the reactor shows itself again when the socket is read.
            if socket.poll_read_ready(context).is_ready() {
                ready = Poll::Ready(());
            }
        }
        ready
    }

    /// Everything that waits in the sockets, up to a bound.
    pub(super) fn take(&self, into: &mut Vec<Incoming>) {
        let mut buffer = [0; LONGEST];
        wire::drain(&self.v4, &mut buffer, |bytes, _| into.extend(read_v4(bytes)));
        if let Some(v6) = &self.v6 {
            wire::drain(v6, &mut buffer, |bytes, received| {
                if let (Some(SocketAddr::V6(source)), Some(destination), Some(hops)) =
                    (received.source, received.destination, received.hops)
                {
                    let arrival = Arrival { source: IpAddr::V6(*source.ip()), destination, hops };
                    into.push(Incoming::Vrrp(arrival, bytes.to_vec()));
                }
            });
        }
        for socket in [&self.arp, &self.ndp] {
            wire::drain(socket, &mut buffer, |bytes, _| into.extend(claim(bytes).map(Incoming::Claim)));
        }
    }

    /// Sends an advertisement. A socket that fails is made anew at the next.
    pub(super) fn send(&mut self, source: IpAddr, destination: IpAddr, bytes: &[u8]) -> io::Result<()> {
        if !self.senders.contains_key(&source) {
            let socket = self.sender(source)?;
            self.senders.insert(source, socket);
        }
        let Some(socket) = self.senders.get(&source) else { return Ok(()) };
        let to = match destination {
            IpAddr::V4(address) => SocketAddr::from((address, 0)),
            IpAddr::V6(address) => SocketAddr::V6(SocketAddrV6::new(address, 0, 0, self.scope(address))),
        };
        let result = socket.send_to(bytes, &SockAddr::from(to));
        if result.is_err() {
            self.senders.remove(&source);
        }
        result.map(drop)
    }

    pub(super) fn send_frame(&self, family: Family, frame: &[u8]) -> io::Result<()> {
        let socket = if family == Family::V4 { &self.arp } else { &self.ndp };
        socket.get_ref().send(frame).map(drop)
    }

    fn sender(&self, source: IpAddr) -> io::Result<Socket> {
        let socket = raw(if source.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 }, &self.name)?;
        // It is only for sending: nothing may pile up in it.
        socket.set_recv_buffer_size(0)?;
        match source {
            IpAddr::V4(address) => {
                socket.set_multicast_ttl_v4(255)?;
                socket.set_multicast_loop_v4(false)?;
                socket.set_ttl_v4(255)?;
                socket.set_tos_v4(CLASS)?;
                socket.bind(&SockAddr::from(SocketAddr::from((address, 0))))?;
            }
            IpAddr::V6(address) => {
                socket.set_multicast_if_v6(self.index)?;
                socket.set_multicast_hops_v6(255)?;
                socket.set_multicast_loop_v6(false)?;
                socket.set_unicast_hops_v6(255)?;
                socket.set_tclass_v6(CLASS)?;
                let from = SocketAddrV6::new(address, 0, 0, self.scope(address));
                socket.bind(&SockAddr::from(SocketAddr::V6(from)))?;
            }
        }
        Ok(socket)
    }

    fn scope(&self, address: std::net::Ipv6Addr) -> u32 {
        if address.is_unicast_link_local() || address.is_multicast() { self.index } else { 0 }
    }
}

fn raw(domain: Domain, interface: &str) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(Protocol::from(i32::from(PROTOCOL))))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    Ok(socket)
}

/// Raw sockets of IPv4 hand over the IP header (RFC 791 §3.1).
fn read_v4(bytes: &[u8]) -> Option<Incoming> {
    let header: &[u8; 20] = bytes.first_chunk()?;
    let length = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || length < header.len() || header[9] != PROTOCOL {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let payload = bytes.get(length..total.min(bytes.len()))?;
    let address = |at: usize| IpAddr::V4(Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]));
    let arrival = Arrival { source: address(12), destination: address(16), hops: header[8] };
    Some(Incoming::Vrrp(arrival, payload.to_vec()))
}

/// Lets ICMPv6 neighbour solicitations and advertisements pass, so that no other packet of IPv6 wakes us.
fn neighbour_discovery() -> [SockFilter; 7] {
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const NEXT_HEADER: u32 = 14 + 6;
    const ICMP_TYPE: u32 = 14 + 40;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, NEXT_HEADER),
        SockFilter::new(EQUAL, 0, 4, 58),
        SockFilter::new(LOAD_BYTE, 0, 0, ICMP_TYPE),
        SockFilter::new(EQUAL, 1, 0, 135),
        SockFilter::new(EQUAL, 0, 1, 136),
        SockFilter::new(RETURN, 0, 0, 0xffff),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_of_ipv4_is_read_and_what_is_no_packet_is_not() {
        let mut packet = vec![0x46, 0, 0, 28, 0, 0, 0, 0, 255, 112, 0, 0, 10, 0, 0, 1, 224, 0, 0, 18, 1, 1, 1, 1];
        packet.extend([1, 2, 3, 4, 0xee]);
        let Some(Incoming::Vrrp(arrival, bytes)) = read_v4(&packet) else { panic!("read") };
        let text = |address: IpAddr| address.to_string();
        assert_eq!((text(arrival.source), text(arrival.destination)), ("10.0.0.1".into(), "224.0.0.18".into()));
        assert_eq!((arrival.hops, bytes), (255, vec![1, 2, 3, 4]), "with options, without padding");
        for (at, byte) in [(0, 0x66), (0, 0x44), (9, 6), (0, 0x4f), (3, 5)] {
            let mut bad = packet.clone();
            bad[at] = byte;
            assert!(read_v4(&bad).is_none(), "byte {at}");
        }
        assert!(read_v4(&packet[..19]).is_none());
    }
}
