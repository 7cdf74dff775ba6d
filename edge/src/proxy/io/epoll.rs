//! The epoll back end: readiness of tokio, then a plain non-blocking read or write.
//!
//! One side waits to read and one to write at a time, both in the same task. So the socket's two fixed places for a
//! waker do, which cost neither a list nor its lock.

use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::proxy::body::Chunk;
use crate::proxy::buffer::Buffer;
use crate::proxy::io::Closed;

/// Runs a worker on a runtime of its own.
pub fn run<F: Future>(future: F) -> io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(tokio::task::LocalSet::new().block_on(&runtime, future))
}

#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
}

impl Socket {
    pub fn from_std(stream: std::net::TcpStream) -> io::Result<Self> {
        Ok(Self { stream: TcpStream::from_std(stream)? })
    }

    pub fn from_tokio(stream: TcpStream) -> Self {
        Self { stream }
    }

    pub fn into_tokio(self) -> TcpStream {
        self.stream
    }

    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| self.stream.poll_read_ready(cx)).await
    }

    async fn writable(&self) -> io::Result<()> {
        poll_fn(|cx| self.stream.poll_write_ready(cx)).await
    }

    pub async fn read(&self, mut buffer: Buffer) -> (io::Result<usize>, Buffer) {
        loop {
            let mut count = None;
            let result = self.stream.try_io(Interest::READABLE, || {
                let room = buffer.room_mut();
                let most = room.len();
                let (_, read) = rustix::net::recv(&self.stream, room, RecvFlags::DONTWAIT)?;
                count = Some(read);
                // Less than asked for came: the socket is empty, and the reactor tells when more comes. Taking the
                // readiness away spares the next wait a read, and the buffer for it. An end (0) is left visible,
                // because it is not told twice.
                if read > 0 && read < most { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            if let Some(count) = count {
                buffer.grow(count);
                return (Ok(count), buffer);
            }
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return (Err(error), buffer),
                Ok(()) => {}
            }
            if let Err(error) = self.readable().await {
                return (Err(error), buffer);
            }
        }
    }

    pub async fn write(&self, chunk: Chunk) -> (io::Result<()>, Chunk) {
        let mut done = 0;
        loop {
            let left = chunk.as_slice().get(done..).unwrap_or_default();
            if left.is_empty() {
                return (Ok(()), chunk);
            }
            match self.try_write(left) {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), chunk),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Err(error) = self.writable().await {
                        return (Err(error), chunk);
                    }
                }
                Err(error) => return (Err(error), chunk),
            }
        }
    }

    pub fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<Closed> {
        match std::task::ready!(self.stream.poll_read_ready(cx)) {
            // It is ready, so that this does not wait.
            Ok(()) => match self.stream.ready(Interest::READABLE).now_or_never() {
                Some(Ok(ready)) => Closed::of(ready),
                _ => Poll::Ready(Closed::Broken),
            },
            Err(_) => Poll::Ready(Closed::Broken),
        }
    }

    pub async fn broken(&self) {
        // A reactor that is gone counts as broken.
        let _ = self.stream.ready(Interest::ERROR).await;
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        self.stream.try_io(Interest::WRITABLE, || Ok(rustix::net::send(&self.stream, bytes, flags)?))
    }

    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        socket2::SockRef::from(&self.stream).shutdown(how)
    }

    /// A close from now on discards and resets.
    pub fn linger_not(&self) -> io::Result<()> {
        socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO))
    }

    pub fn is_quiet(&self) -> bool {
        // Without readiness nothing is looked at. It may be stale: a look at the socket settles it and refreshes it.
        let look = self.stream.try_io(Interest::READABLE, || {
            socket2::SockRef::from(&self.stream).peek(&mut [std::mem::MaybeUninit::uninit()])
        });
        matches!(look, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Waits for the end of a connect and says how it failed, if it did.
    pub async fn connected(&self) -> io::Result<Option<io::Error>> {
        self.writable().await?;
        self.stream.take_error()
    }
}
