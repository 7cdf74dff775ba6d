//! UDP sockets of BFD: one for each family and port to listen, one for each session to send (RFC 5881 §4, RFC 5883 §5).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::unix::AsyncFd;

use crate::vip::wire;

/// RFC 5881 §4.
const FIRST_SOURCE_PORT: u16 = 49152;
/// Ports that are tried before giving up.
const ATTEMPTS: u16 = 64;
/// Internetwork control (RFC 2474 §4.2.2.2, CS6): a full queue must not look like a dead link.
const CLASS: u32 = 0xc0;

/// Hears every packet to a port, and says where it came in and how far it came.
pub(super) fn listen(is_v6: bool, port: u16) -> io::Result<AsyncFd<Socket>> {
    let socket = udp(is_v6)?;
    wire::tell_arrival(&socket, is_v6)?;
    let any = if is_v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    socket.bind(&SockAddr::from(SocketAddr::new(any, port)))?;
    wire::watched(socket)
}

/// Sends to one peer, always from the same port and with a TTL or hop limit of 255. `number` spreads the ports.
pub(super) fn sender(
    peer: SocketAddr,
    local: Option<IpAddr>,
    interface: Option<&str>,
    number: u16,
) -> io::Result<Socket> {
    let socket = udp(peer.is_ipv6())?;
    // Nobody sends to this port.
    socket.set_recv_buffer_size(0)?;
    if let Some(interface) = interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    if peer.is_ipv6() {
        socket.set_unicast_hops_v6(255)?;
        socket.set_tclass_v6(CLASS)?;
    } else {
        socket.set_ttl_v4(255)?;
        socket.set_tos_v4(CLASS)?;
    }
    let any = if peer.is_ipv6() { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for attempt in 0..ATTEMPTS {
        let span = u16::MAX - FIRST_SOURCE_PORT + 1;
        let port = FIRST_SOURCE_PORT + number.wrapping_add(attempt) % span;
        let from = with_scope(local.unwrap_or(any), port, peer);
        match socket.bind(&SockAddr::from(from)) {
            Ok(()) => {
                socket.connect(&SockAddr::from(peer))?;
                return Ok(socket);
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// A link-local address needs the number of its interface.
pub(super) fn peer_address(peer: IpAddr, port: u16, interface: Option<&str>) -> io::Result<SocketAddr> {
    let IpAddr::V6(address) = peer else { return Ok(SocketAddr::new(peer, port)) };
    if !address.is_unicast_link_local() {
        return Ok(SocketAddr::new(peer, port));
    }
    let Some(interface) = interface else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a link-local peer needs an interface"));
    };
    Ok(SocketAddr::V6(SocketAddrV6::new(address, port, 0, interface_index(interface)?)))
}

pub(super) fn interface_index(name: &str) -> io::Result<u32> {
    let any = udp(false).or_else(|_| udp(true))?;
    rustix::net::netdevice::name_to_index(&any, name).map_err(|error| match error {
        rustix::io::Errno::NODEV => io::Error::new(io::ErrorKind::NotFound, format!("interface {name} does not exist")),
        error => error.into(),
    })
}

fn with_scope(address: IpAddr, port: u16, peer: SocketAddr) -> SocketAddr {
    match (address, peer) {
        (IpAddr::V6(address), SocketAddr::V6(peer)) if address.is_unicast_link_local() => {
            SocketAddr::V6(SocketAddrV6::new(address, port, 0, peer.scope_id()))
        }
        _ => SocketAddr::new(address, port),
    }
}

fn udp(is_v6: bool) -> io::Result<Socket> {
    let domain = if is_v6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if is_v6 {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}
