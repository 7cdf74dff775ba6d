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

/// An address bound once per worker.
#[derive(Debug)]
pub struct Bound {
    address: SocketAddr,
    transport: Transport,
    descriptors: Vec<OwnedFd>,
    /// Of QUIC.
    steering: Option<Arc<Steering>>,
}

impl Bound {
    /// Binds an address for `workers` workers; for TCP, connections are taken from here on. `keys` are for QUIC.
    pub fn new(address: SocketAddr, transport: Transport, workers: usize, keys: &Keys) -> io::Result<Self> {
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

    /// A descriptor for one worker, which it closes when it is done.
    pub fn descriptor(&self, worker: usize) -> io::Result<OwnedFd> {
        self.descriptors.get(worker).ok_or(io::ErrorKind::NotFound)?.try_clone()
    }
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
