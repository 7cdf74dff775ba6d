//! The epoll back end: readiness of tokio, then a plain non-blocking read or write.

use std::io;
use std::net::Shutdown;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
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
        self.stream.readable().await
    }

    pub async fn read(&self, mut buffer: Buffer) -> (io::Result<usize>, Buffer) {
        loop {
            let room = buffer.room();
            match self.stream.try_read(buffer.room_mut()) {
                Ok(count) => {
                    buffer.grow(count);
                    if count > 0 && count < room {
                        self.drained();
                    }
                    return (Ok(count), buffer);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return (Err(error), buffer),
            }
            if let Err(error) = self.stream.readable().await {
                return (Err(error), buffer);
            }
        }
    }

    /// Less than asked for came: the socket is empty, and the reactor tells when more comes. Taking the readiness away
    /// spares the next wait a read, and the buffer for it. An end (0) is left visible, because it is not told twice.
    fn drained(&self) {
        let _ = self.stream.try_io::<()>(Interest::READABLE, || Err(io::ErrorKind::WouldBlock.into()));
    }

    pub async fn write(&self, chunk: Chunk) -> (io::Result<()>, Chunk) {
        let mut done = 0;
        loop {
            let left = chunk.as_slice().get(done..).unwrap_or_default();
            if left.is_empty() {
                return (Ok(()), chunk);
            }
            match self.stream.try_write(left) {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), chunk),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Err(error) = self.stream.writable().await {
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

    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        socket2::SockRef::from(&self.stream).shutdown(how)
    }

    /// A close from now on discards and resets.
    pub fn linger_not(&self) -> io::Result<()> {
        socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO))
    }

    pub fn is_quiet(&self) -> bool {
        if self.stream.readable().now_or_never().is_none() {
            return true;
        }
        // Readiness may be stale: a look at the socket settles it and refreshes the readiness.
        let look = self.stream.try_io(Interest::READABLE, || {
            socket2::SockRef::from(&self.stream).peek(&mut [std::mem::MaybeUninit::uninit()])
        });
        matches!(look, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Waits for the end of a connect and says how it failed, if it did.
    pub async fn connected(&self) -> io::Result<Option<io::Error>> {
        self.stream.writable().await?;
        self.stream.take_error()
    }
}
