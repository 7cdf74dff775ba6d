//! The io_uring back end; the only file that knows tokio-uring.
//!
//! tokio-uring cannot cancel: an operation whose future is dropped stays armed, keeps its buffer and swallows the next
//! bytes. So no operation here ever waits in the ring. The descriptor is non-blocking, for which the kernel completes
//! a read or write at once, with EAGAIN where it would wait; all waiting is on readiness (the ring's runtime is a tokio
//! runtime with an epoll reactor), which takes no buffer and may be dropped at any time. What the ring saves is
//! system calls: the operations of one turn are submitted together. Should a future be dropped between submission and
//! completion all the same, the socket is shut down, and so can never be used with bytes missing.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio_uring::buf::{IoBuf, IoBufMut};
use tokio_uring::net::TcpStream;

use crate::proxy::body::Chunk;
use crate::proxy::buffer::Buffer;
use crate::proxy::io::Closed;

/// Submission queue entries per worker. More operations than this in one turn are submitted in several calls.
const ENTRIES: u32 = 1024;

/// Runs a worker on a ring of its own; tokio's network, time and tasks work inside.
pub fn run<F: Future>(future: F) -> io::Result<F::Output> {
    let mut ring = tokio_uring::uring_builder();
    // Completions are noticed when this thread enters the kernel anyway (Linux 5.19, probed by `is_available`).
    ring.setup_coop_taskrun();
    let runtime = tokio_uring::Runtime::new(tokio_uring::builder().entries(ENTRIES).uring_builder(&ring))?;
    Ok(runtime.block_on(future))
}

/// Whether this kernel and its policy let us use io_uring at all, or why not.
pub fn probe() -> io::Result<()> {
    // On a thread of its own: the caller may be inside another runtime.
    let probe = std::thread::Builder::new().name("io-uring-probe".into()).spawn(|| run(exchange_a_byte()))?;
    probe.join().map_err(|_| io::Error::other("the probe failed"))??
}

/// One byte over loopback: a ring that can be made but not used is of no use.
async fn exchange_a_byte() -> io::Result<()> {
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    let near = std::net::TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nonblocking(true)?;
    far.set_nonblocking(true)?;
    let (near, far) = (Socket::from_std(near)?, Socket::from_std(far)?);
    near.write(Chunk::Pooled(Buffer::copy_of(b"x"))).await.0?;
    let deadline = std::time::Duration::from_secs(2);
    let (count, _) = tokio::time::timeout(deadline, far.read(Buffer::take())).await?;
    if count? == 1 { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// A descriptor that something else owns, for the reactor.
#[derive(Debug)]
struct Borrowed(RawFd);

impl AsRawFd for Borrowed {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

pub struct Socket {
    // Before `stream`, so that it leaves the reactor before the descriptor is closed.
    ready: AsyncFd<Borrowed>,
    stream: TcpStream,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "uring::Socket({})", self.ready.get_ref().0)
    }
}

impl Socket {
    pub fn from_std(stream: std::net::TcpStream) -> io::Result<Self> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        // SAFETY: the descriptor is open, is owned by `stream`, and leaves the reactor before it is closed, because
        // `ready` is dropped first.
        // JUSTIFICATION: tokio-uring owns the descriptor, so the reactor can only borrow it.
        let ready = unsafe { AsyncFd::register_with_interest(Borrowed(stream.as_raw_fd()), interest) }?;
        Ok(Self { ready, stream: TcpStream::from_std(stream) })
    }

    pub fn into_tokio(self) -> io::Result<tokio::net::TcpStream> {
        // The ring closes its descriptor by itself, so tokio gets one of its own.
        let stream: std::net::TcpStream = self.descriptor().try_clone_to_owned()?.into();
        tokio::net::TcpStream::from_std(stream)
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: `stream` owns the descriptor and lives as long as the borrow of `self`.
        // JUSTIFICATION: tokio-uring gives out a raw descriptor only.
        unsafe { BorrowedFd::borrow_raw(self.stream.as_raw_fd()) }
    }

    pub async fn readable(&self) -> io::Result<()> {
        // The readiness stays: only a read that finds nothing takes it away.
        poll_fn(|cx| self.ready.poll_read_ready(cx)).await.map(|mut guard| guard.retain_ready())
    }

    pub fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<Closed> {
        match std::task::ready!(self.ready.poll_read_ready(cx)) {
            Ok(mut guard) => {
                guard.retain_ready();
                Closed::of(guard.ready())
            }
            Err(_) => Poll::Ready(Closed::Broken),
        }
    }

    pub async fn broken(&self) {
        if let Ok(mut guard) = self.ready.ready(Interest::ERROR).await {
            guard.retain_ready();
        }
    }

    pub async fn read(&self, buffer: Buffer) -> (io::Result<usize>, Buffer) {
        let mut tail = Tail(buffer);
        loop {
            let mut ready = match poll_fn(|cx| self.ready.poll_read_ready(cx)).await {
                Ok(ready) => ready,
                Err(error) => return (Err(error), tail.0),
            };
            let room = tail.0.room();
            let before = tail.0.len();
            let armed = Armed::new(self);
            let (result, back) = self.stream.read(tail).await;
            armed.done();
            tail = back;
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Ok(count) => {
                    debug_assert_eq!(tail.0.len(), before + count);
                    // Less than asked for: the socket is drained, and the reactor tells when more comes. An end
                    // (0) must stay visible, because it is not told twice.
                    if count > 0 && count < room {
                        ready.clear_ready();
                        // What was told while the ring read is not taken away by that, and may have been read: who
                        // then waited would be told of bytes that are not there.
                        let _ = self.is_quiet();
                    } else {
                        ready.retain_ready();
                    }
                    return (Ok(count), tail.0);
                }
                Err(error) => return (Err(error), tail.0),
            }
        }
    }

    pub async fn write(&self, chunk: Chunk) -> (io::Result<()>, Chunk) {
        let mut rest = Rest { chunk, done: 0 };
        while !rest.left().is_empty() {
            let mut ready = match poll_fn(|cx| self.ready.poll_write_ready(cx)).await {
                Ok(ready) => ready,
                Err(error) => return (Err(error), rest.chunk),
            };
            let armed = Armed::new(self);
            let (result, back) = self.stream.write(rest).submit().await;
            armed.done();
            rest = back;
            match result {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), rest.chunk),
                Ok(count) => {
                    rest.done += count;
                    ready.retain_ready();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) => return (Err(error), rest.chunk),
            }
        }
        (Ok(()), rest.chunk)
    }

    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        socket2::SockRef::from(&self.descriptor()).shutdown(how)
    }

    /// A close from now on discards and resets.
    pub fn linger_not(&self) -> io::Result<()> {
        socket2::SockRef::from(&self.descriptor()).set_linger(Some(std::time::Duration::ZERO))
    }

    pub fn is_quiet(&self) -> bool {
        // Without readiness nothing is looked at, and a look that finds nothing takes it away.
        let look = self.ready.try_io(Interest::READABLE, |_| {
            socket2::SockRef::from(&self.descriptor()).peek(&mut [std::mem::MaybeUninit::uninit()])
        });
        matches!(look, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Waits for the end of a connect and says how it failed, if it did.
    pub async fn connected(&self) -> io::Result<Option<io::Error>> {
        self.ready.writable().await?.retain_ready();
        socket2::SockRef::from(&self.descriptor()).take_error()
    }
}

/// Shuts the socket down unless the operation was seen to its end.
struct Armed<'a> {
    socket: &'a Socket,
    pending: Cell<bool>,
}

impl<'a> Armed<'a> {
    fn new(socket: &'a Socket) -> Self {
        Self { socket, pending: Cell::new(true) }
    }

    fn done(&self) {
        self.pending.set(false);
    }
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        if self.pending.get() {
            let _ = self.socket.shutdown(Shutdown::Both);
        }
    }
}

/// The free part of a buffer, to read into.
struct Tail(Buffer);

// SAFETY: the memory of a `Buffer` is a boxed slice, which does not move with it; pointer and lengths describe its room,
// of which no byte counts as filled, and all of it is initialised.
// JUSTIFICATION: tokio-uring takes buffers through this trait only.
unsafe impl IoBuf for Tail {
    fn stable_ptr(&self) -> *const u8 {
        self.0.room_slice().as_ptr()
    }

    fn bytes_init(&self) -> usize {
        0
    }

    fn bytes_total(&self) -> usize {
        self.0.room()
    }
}

// SAFETY: as above; `set_init` counts bytes that the kernel has filled, and `grow` never passes the end of the room.
// JUSTIFICATION: as above.
unsafe impl IoBufMut for Tail {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.0.room_mut().as_mut_ptr()
    }

    unsafe fn set_init(&mut self, count: usize) {
        self.0.grow(count);
    }
}

/// What is left of a chunk to write.
struct Rest {
    chunk: Chunk,
    done: usize,
}

impl Rest {
    fn left(&self) -> &[u8] {
        self.chunk.as_slice().get(self.done..).unwrap_or_default()
    }
}

// SAFETY: the memory of a chunk (a boxed slice or shared bytes) does not move with it, and is not changed while the
// kernel reads it, because the operation owns it.
// JUSTIFICATION: tokio-uring takes buffers through this trait only.
unsafe impl IoBuf for Rest {
    fn stable_ptr(&self) -> *const u8 {
        self.left().as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.left().len()
    }

    fn bytes_total(&self) -> usize {
        self.left().len()
    }
}
