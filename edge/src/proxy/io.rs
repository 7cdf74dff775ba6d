//! Bytes on connections: one small interface with two back ends, io_uring ([`uring`]) and epoll ([`epoll`]).
//!
//! Every method takes `&self`, so both directions of a connection run at the same time. Waiting for bytes
//! ([`Io::readable`]) takes no buffer: an idle connection owns none. Deadlines are the caller's ([`super::clock`]); one
//! that fires ends in [`Io::abort`] and the connection is never used again.

pub mod epoll;
pub mod uring;

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::task::{Context, Poll};

use super::body::Chunk;
use super::buffer::Buffer;

/// Probes on a connection on which nothing moves: a dead peer is noticed within two minutes, also by tunnels that may be
/// silent for days (RFC 1122 §4.2.3.6).
pub const KEEPALIVE: socket2::TcpKeepalive = socket2::TcpKeepalive::new()
    .with_time(std::time::Duration::from_secs(60))
    .with_interval(std::time::Duration::from_secs(15))
    .with_retries(4);

/// A connection, in clear or inside TLS.
pub trait Io: 'static {
    /// Waits until a read has something to give: bytes, the end, or an error. May be dropped at any time.
    async fn readable(&self) -> io::Result<()>;

    /// Appends at least one byte to `buffer`, which must have room; 0 is the peer's end. When it is dropped before
    /// it is done, bytes may be lost: abort the connection then.
    async fn read(&self, buffer: Buffer) -> (io::Result<usize>, Buffer);

    /// Writes the whole chunk and gives it back. When it is dropped before it is done, abort the connection.
    async fn write(&self, chunk: Chunk) -> (io::Result<()>, Chunk);

    /// Ready when the peer has ended its direction or the connection is broken. Takes no byte and makes no system call. An
    /// end behind bytes that were not read yet may not be seen. For one party at a time.
    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<Closed>;

    /// Waits until the connection is broken. May be dropped at any time.
    async fn broken(&self);

    /// The next write is the last: what ends our direction may go with it. [`finish`](Self::finish) follows.
    fn last(&self) {}

    /// Ends our direction properly (TLS: close_notify, then FIN); the peer may go on sending.
    async fn finish(&self) -> io::Result<()>;

    /// Makes the close that comes with the drop a reset, so that a cut-off message cannot look complete.
    fn reset(&self);

    /// Ends both directions at once; every pending operation returns.
    fn abort(&self);

    /// Whether nothing has arrived, not even an end: what a pooled connection must be to be used again.
    fn is_quiet(&self) -> bool;
}

/// What is known of a peer that closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// It sends no more.
    Ended,
    /// It takes no more either.
    Broken,
}

impl Closed {
    /// What readiness for reading says. Bytes alone say nothing, and who waits behind them is not woken.
    fn of(ready: tokio::io::Ready) -> Poll<Self> {
        if ready.is_error() || ready.is_write_closed() {
            Poll::Ready(Self::Broken)
        } else if ready.is_read_closed() {
            Poll::Ready(Self::Ended)
        } else {
            Poll::Pending
        }
    }
}

/// Which back end a worker uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    #[default]
    Epoll,
    Uring,
}

impl Backend {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Epoll => "epoll",
            Self::Uring => "io_uring",
        }
    }
}

/// A TCP connection on the worker's back end.
#[derive(Debug)]
pub enum Socket {
    Epoll(epoll::Socket),
    Uring(uring::Socket),
}

impl Socket {
    /// Takes a connection, which must be non-blocking.
    pub fn from_std(stream: std::net::TcpStream, backend: Backend) -> io::Result<Self> {
        match backend {
            Backend::Epoll => epoll::Socket::from_std(stream).map(Self::Epoll),
            Backend::Uring => uring::Socket::from_std(stream).map(Self::Uring),
        }
    }

    /// Connects; the deadline is the caller's, and dropping closes the attempt.
    pub async fn connect(address: SocketAddr, backend: Backend) -> io::Result<Self> {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(&KEEPALIVE)?;
        match socket.connect(&address.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let connection = Self::from_std(socket.into(), backend)?;
        let failure = match &connection {
            Self::Epoll(socket) => socket.connected().await,
            Self::Uring(socket) => socket.connected().await,
        }?;
        failure.map_or(Ok(connection), Err)
    }

    /// The same connection as a tokio stream, for what polls (h2). Nothing may be pending on it.
    pub fn into_tokio(self) -> io::Result<tokio::net::TcpStream> {
        match self {
            Self::Epoll(socket) => Ok(socket.into_tokio()),
            Self::Uring(socket) => socket.into_tokio(),
        }
    }
}

impl Io for Socket {
    async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Epoll(socket) => socket.readable().await,
            Self::Uring(socket) => socket.readable().await,
        }
    }

    async fn read(&self, buffer: Buffer) -> (io::Result<usize>, Buffer) {
        match self {
            Self::Epoll(socket) => socket.read(buffer).await,
            Self::Uring(socket) => socket.read(buffer).await,
        }
    }

    async fn write(&self, chunk: Chunk) -> (io::Result<()>, Chunk) {
        match self {
            Self::Epoll(socket) => socket.write(chunk).await,
            Self::Uring(socket) => socket.write(chunk).await,
        }
    }

    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<Closed> {
        match self {
            Self::Epoll(socket) => socket.poll_closed(cx),
            Self::Uring(socket) => socket.poll_closed(cx),
        }
    }

    async fn broken(&self) {
        match self {
            Self::Epoll(socket) => socket.broken().await,
            Self::Uring(socket) => socket.broken().await,
        }
    }

    async fn finish(&self) -> io::Result<()> {
        match self {
            Self::Epoll(socket) => socket.shutdown(Shutdown::Write),
            Self::Uring(socket) => socket.shutdown(Shutdown::Write),
        }
    }

    fn reset(&self) {
        // A socket that refuses the option is dead already.
        let _ = match self {
            Self::Epoll(socket) => socket.linger_not(),
            Self::Uring(socket) => socket.linger_not(),
        };
    }

    fn abort(&self) {
        // The peer may have reset the connection before: there is nothing left to end then.
        let _ = match self {
            Self::Epoll(socket) => socket.shutdown(Shutdown::Both),
            Self::Uring(socket) => socket.shutdown(Shutdown::Both),
        };
    }

    fn is_quiet(&self) -> bool {
        match self {
            Self::Epoll(socket) => socket.is_quiet(),
            Self::Uring(socket) => socket.is_quiet(),
        }
    }
}

#[cfg(test)]
mod tests;
