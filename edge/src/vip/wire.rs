//! What sockets of VRRP, ARP, NDP and BFD need beyond socket2: a packet socket on one interface, and the TTL and
//! destination of what arrives.
//!
//! Flows in: interfaces, frames. Flows out: bytes with where they came from. Everything is non-blocking; nothing here
//! understands a byte. Protocols: packet(7), ip(7), ipv6(7).
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::task::{Context, Poll, Waker};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockFilter, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Packets of one socket that are read in one turn; the rest waits for the next.
const TURN: usize = 64;

/// What came with one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) length: usize,
    /// `None` on a packet socket.
    pub(super) source: Option<SocketAddr>,
    /// Where the socket was asked to say so ([`tell_arrival`]).
    pub(super) destination: Option<IpAddr>,
    pub(super) hops: Option<u8>,
    /// The index of the interface.
    pub(super) interface: Option<u32>,
}

/// A socket for whole frames of one Ethernet type on one interface; `filter` runs before anything is received.
pub(super) fn packet_socket(index: u32, ethertype: u16, filter: &[SockFilter]) -> io::Result<Socket> {
    // With protocol 0 nothing arrives until the socket is bound: the filter is in place first.
    let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(Protocol::from(0)))?;
    if !filter.is_empty() {
        socket.attach_filter(filter)?;
    }
    let index = i32::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: all zeros is a valid `sockaddr_ll`: integers and an array of them.
    // JUSTIFICATION: the struct has private padding on some targets, so it cannot be written as a literal.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ethertype.to_be();
    address.sll_ifindex = index;
    // SAFETY: `address` is an initialised `sockaddr_ll` of the given length that outlives the call, and the descriptor is
    // open because `socket` owns it.
    // JUSTIFICATION: neither std, socket2 nor rustix can name an address of AF_PACKET.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast::<libc::sockaddr>(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}

/// The socket under the eyes of the current runtime, for reading.
pub(super) fn watched(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a `Socket` owns its descriptor, returns the same one for as long as it lives, and is owned by the result.
    // JUSTIFICATION: tokio's only constructor for a socket that is not one of its own kinds.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(io::Error::from)
}

/// Makes the socket say TTL or hop limit, and destination, of what arrives.
pub(super) fn tell_arrival(socket: &Socket, is_v6: bool) -> io::Result<()> {
    let options = if is_v6 {
        [(libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT), (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)]
    } else {
        [(libc::IPPROTO_IP, libc::IP_RECVTTL), (libc::IPPROTO_IP, libc::IP_PKTINFO)]
    };
    for (level, option) in options {
        let on: libc::c_int = 1;
        // SAFETY: the option takes a `c_int`, which `on` is, with its length; the descriptor is open.
        // JUSTIFICATION: socket2 knows one of these four options only.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                option,
                (&raw const on).cast::<libc::c_void>(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Space for the ancillary data that [`tell_arrival`] asks for, aligned as its headers must be.
#[repr(C, align(8))]
struct Control([u8; 256]);

/// Receives one packet without waiting. One that is longer than `buffer` is an error of kind `InvalidData`.
fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = Control([0; 256]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeros is a valid `msghdr`: null pointers and zero lengths.
    // JUSTIFICATION: the struct has private padding on some targets.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    let receive = |storage: *mut SockAddrStorage, length: *mut libc::socklen_t| {
        message.msg_name = storage.cast();
        // SAFETY: socket2 hands over a live length that says how large the storage is.
        // JUSTIFICATION: that is how its constructor passes a length.
        message.msg_namelen = unsafe { *length };
        // SAFETY: every pointer in `message` is to live memory of the length given beside it, and the descriptor is open
        // as long as the borrow.
        // JUSTIFICATION: rustix and socket2 do not decode the ancillary data of IP.
        let count = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        // SAFETY: as above.
        // JUSTIFICATION: as above.
        unsafe { *length = message.msg_namelen };
        Ok(count)
    };
    // SAFETY: the storage is zeroed before, and on success the kernel wrote an address of the length that is handed back,
    // or none and the length is zero.
    // JUSTIFICATION: socket2's own constructor for an address that a system call writes.
    let (length, source) = unsafe { SockAddr::try_init(receive) }?;
    let source = source.as_socket();
    if message.msg_flags & libc::MSG_TRUNC != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "longer than any packet of this protocol"));
    }
    let mut received = Received { length, source, destination: None, hops: None, interface: None };
    ancillary(&message, &mut received);
    Ok(received)
}

/// Reads everything that waits in a socket, up to a bound, whether the runtime knows of it yet or not: after a long sleep
/// it does not.
pub(super) fn drain(socket: &AsyncFd<Socket>, buffer: &mut [u8], mut each: impl FnMut(&[u8], Received)) {
    for _ in 0..TURN {
        match receive(socket.get_ref().as_fd(), buffer) {
            Ok(received) => each(&buffer[..received.length], received),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let context = &mut Context::from_waker(Waker::noop());
                if let Poll::Ready(Ok(mut ready)) = socket.poll_read_ready(context) {
                    ready.clear_ready();
                }
                return;
            }
            // Too long for its protocol; or the link went down, which the kernel tells elsewhere.
            Err(_) => {}
        }
    }
}

fn ancillary(message: &libc::msghdr, received: &mut Received) {
    // SAFETY: `message` was filled by recvmsg with control data in a live, aligned buffer.
    // JUSTIFICATION: the only way to walk ancillary data.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a whole header inside the buffer.
        // JUSTIFICATION: as above.
        let (level, kind, data) = unsafe { ((*header).cmsg_level, (*header).cmsg_type, libc::CMSG_DATA(header)) };
        // SAFETY: the kernel writes a `c_int` behind IP_TTL and IPV6_HOPLIMIT, and the struct of that name behind the
        // others; they are read without regard to alignment.
        // JUSTIFICATION: as above.
        unsafe {
            match (level, kind) {
                (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                    received.hops = u8::try_from(data.cast::<libc::c_int>().read_unaligned()).ok();
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let found = data.cast::<libc::in_pktinfo>().read_unaligned();
                    received.interface = u32::try_from(found.ipi_ifindex).ok();
                    received.destination = Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(found.ipi_addr.s_addr))));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let found = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    received.interface = Some(found.ipi6_ifindex);
                    received.destination = Some(IpAddr::V6(Ipv6Addr::from(found.ipi6_addr.s6_addr)));
                }
                _ => {}
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
}
