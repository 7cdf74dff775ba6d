//! Listening sockets: one per worker and address, bound together with SO_REUSEPORT before anything is published.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use edge_config::snapshot::Transport;
use socket2::{Domain, Protocol, Socket, Type};

use super::h3::steering::{Keys, Steering};

/// Connections that may wait to be accepted, per worker (the kernel's somaxconn is 4096 as well).
const BACKLOG: i32 = 4096;
/// Receive buffer of a UDP socket; a burst must survive until its worker's turn.
const UDP_BUFFER: usize = 4 << 20;

/// An address bound once per worker; one that another edged has bound, once per worker of that one.
#[derive(Debug)]
pub struct Bound {
    address: SocketAddr,
    transport: Transport,
    descriptors: Vec<OwnedFd>,
    /// Of QUIC.
    steering: Option<Arc<Steering>>,
}

/// One socket of an address, on its way from one process to another.
#[derive(Debug)]
pub struct HandedSocket {
    pub address: SocketAddr,
    pub transport: Transport,
    /// Among those of its address: the kernel has a place for each.
    pub index: usize,
    pub descriptor: OwnedFd,
}

impl Bound {
    /// Binds an address for `workers` workers; for TCP, connections are taken from here on. `keys` are for QUIC.
    pub fn new(address: SocketAddr, transport: Transport, workers: usize, keys: &Keys) -> io::Result<Self> {
        if transport == Transport::Quic {
            alone(address)?;
        }
        let sockets: io::Result<Vec<Socket>> = (0..workers).map(|_| socket(address, transport)).collect();
        let sockets = sockets?;
        // Only when all are bound: a half-opened set would take connections that nobody accepts.
        if transport == Transport::Tcp {
            for socket in &sockets {
                socket.listen(BACKLOG)?;
            }
        }
        let steering = (transport == Transport::Quic).then(|| Steering::new(workers, keys.clone()));
        Ok(Self { address, transport, descriptors: sockets.into_iter().map(OwnedFd::from).collect(), steering })
    }

    /// What keeps connections of QUIC with their workers.
    pub fn steering(&self) -> Option<&Arc<Steering>> {
        self.steering.as_ref()
    }

    pub fn key(&self) -> (SocketAddr, Transport) {
        (self.address, self.transport)
    }

    /// What another edged has bound, in its order. None of them may be closed while the others stay: the kernel would
    /// drop the connections that wait in it.
    pub fn handed(address: SocketAddr, transport: Transport, descriptors: Vec<OwnedFd>) -> Self {
        Self { address, transport, descriptors, steering: None }
    }

    /// Descriptors for one worker of `workers`, which it closes when it is done. Each socket has somebody who listens to
    /// it, whatever their numbers are; where there are fewer than workers, those of TCP are shared. Two readers of one UDP
    /// socket would tear flows apart: there the others have nothing to do.
    pub fn descriptors(&self, worker: usize, workers: usize) -> io::Result<Vec<(usize, OwnedFd)>> {
        let (count, workers) = (self.descriptors.len(), workers.max(1));
        if count == 0 {
            // A worker that had nothing to accept on would count as serving.
            return Err(io::Error::new(io::ErrorKind::NotFound, "it was bound for no worker"));
        }
        let shared = (self.transport == Transport::Tcp && worker >= count).then(|| worker % count.max(1));
        let own = (0..count).filter(|index| index % workers == worker).chain(shared);
        own.filter_map(|index| Some((index, self.descriptors.get(index)?)))
            .map(|(index, descriptor)| Ok((index, descriptor.try_clone()?)))
            .collect()
    }

    /// All of it, for another process.
    pub fn hand(&self) -> io::Result<Vec<HandedSocket>> {
        let Self { address, transport, descriptors, .. } = self;
        let handed = descriptors.iter().enumerate().map(|(index, descriptor)| {
            let descriptor = descriptor.try_clone()?;
            Ok(HandedSocket { address: *address, transport: *transport, index, descriptor })
        });
        handed.collect()
    }
}

/// Fails where anybody has the UDP port, also an edged that lets its last connections end there: sockets that join its own
/// would get a share of its datagrams.
fn alone(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    socket.bind(&address.into())
}

fn socket(address: SocketAddr, transport: Transport) -> io::Result<Socket> {
    let (kind, protocol) = match transport {
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
        Transport::Udp | Transport::Quic => (Type::DGRAM, Protocol::UDP),
    };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_port(true)?;
    socket.set_reuse_address(transport == Transport::Tcp)?;
    // A VIP may be bound before it is on an interface here, or while another edge holds it.
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    if transport == Transport::Tcp {
        // Linux hands both down to the connections that are accepted.
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(&super::io::KEEPALIVE)?;
    }
    if transport != Transport::Tcp {
        // As large as the system allows.
        let _ = socket.set_recv_buffer_size(UDP_BUFFER);
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(bound: &Bound, workers: usize) -> Vec<Vec<usize>> {
        let inode = |descriptor: &OwnedFd| rustix::fs::fstat(descriptor).unwrap().st_ino;
        let known: Vec<u64> = bound.descriptors.iter().map(inode).collect();
        let place = |descriptor: &OwnedFd| known.iter().position(|known| *known == inode(descriptor)).unwrap();
        let of = |worker| {
            let own = bound.descriptors(worker, workers).unwrap();
            own.iter().for_each(|(index, descriptor)| assert_eq!(place(descriptor), *index));
            own.into_iter().map(|(index, _)| index).collect()
        };
        (0..workers).map(of).collect()
    }

    #[test]
    fn every_socket_is_listened_to_whatever_the_number_of_workers() {
        let address = "127.0.0.1:0".parse().unwrap();
        // Port 0: each has one of its own, which does not matter here.
        let tcp = Bound::new(address, Transport::Tcp, 3, &Keys::new(b"test")).unwrap();
        assert_eq!(numbers(&tcp, 3), [[0], [1], [2]]);
        assert_eq!(numbers(&tcp, 2), [vec![0, 2], vec![1]]);
        assert_eq!(numbers(&tcp, 1), [[0, 1, 2]]);
        assert_eq!(numbers(&tcp, 5), [[0], [1], [2], [0], [1]]);
        let udp = Bound::new(address, Transport::Udp, 2, &Keys::new(b"test")).unwrap();
        assert_eq!(numbers(&udp, 3), [vec![0], vec![1], vec![]]);
        assert_eq!(numbers(&udp, 1), [[0, 1]]);
    }

    #[test]
    fn a_connection_that_waits_in_a_socket_survives_who_opened_it() {
        let first = Bound::new("127.0.0.1:0".parse().unwrap(), Transport::Tcp, 1, &Keys::new(b"test")).unwrap();
        let handed = first.hand().unwrap().remove(0);
        let listener = std::net::TcpListener::from(handed.descriptor.try_clone().unwrap());
        let address = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        drop((first, listener));
        let second = Bound::handed(address, Transport::Tcp, vec![handed.descriptor]);
        let listener = std::net::TcpListener::from(second.descriptors(0, 1).unwrap().remove(0).1);
        assert_eq!(listener.accept().unwrap().1, client.local_addr().unwrap());
    }

    #[test]
    fn a_port_for_quic_is_shared_with_nobody() {
        let keys = Keys::new(b"test");
        let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap();
        assert!(Bound::new(address, Transport::Quic, 2, &keys).is_err());
        drop(other);
        let first = Bound::new(address, Transport::Quic, 2, &keys).unwrap();
        let refused = Bound::new(address, Transport::Quic, 2, &keys).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(Bound::new(address, Transport::Quic, 2, &keys).is_ok());
    }
}
