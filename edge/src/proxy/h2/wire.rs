//! The byte stream under an HTTP/2 connection, in clear or inside TLS, with a lazy flush.
//!
//! h2 flushes after every frame it writes; taken literally that is a TLS record and a system call per response. Here a
//! flush only notes that something is to be sent: [`Lazy`], which drives the connection, sends once per turn, behind the
//! tasks that are runnable already and may have more to say. What is unsent stays noted until the socket has taken all
//! of it, whether it waits here or sealed inside rustls (forgetting the latter is how such a scheme hangs).

use std::cell::{Cell, RefCell};
use std::io::{self, Read as _, Write as _};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustls::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::proxy::buffer::Buffer;
use crate::proxy::io::Socket;
use crate::proxy::tls::record::{RecordError, Records, Step, Taken};
use crate::proxy::tls::stream::{Layer, TlsStream};
use crate::proxy::upstream::stream::Counted;

/// What waits to be sent may grow to this; then h2 has to wait for the socket.
const HIGH: usize = 128 * 1024;
/// Memory for outgoing bytes that a connection keeps while it has none.
const KEPT: usize = 4 * 1024;
/// Bytes taken from the socket at once, into memory shared by all connections of the thread.
const READ: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// h2's side of the stream.
pub struct Wire(Rc<RefCell<State>>);

/// The sending side of the stream, for [`Lazy`].
pub struct Flusher(Rc<RefCell<State>>);

struct State {
    socket: TcpStream,
    tls: Option<Layer>,
    /// Taken from the socket and not yet read: plaintext without TLS, records with it.
    ahead: Vec<u8>,
    /// Where `ahead` really starts.
    consumed: usize,
    /// To be sent, not sealed yet. Without TLS the first `sent` bytes are out already.
    pending: Vec<u8>,
    sent: usize,
    /// Sealed by [`Records`], of which the first `gone` bytes are out already.
    sealed: Vec<u8>,
    gone: usize,
    /// Counts reads that brought something.
    heard: Rc<Cell<u64>>,
    /// Towards an endpoint: counts the connection's end.
    counted: Option<Counted>,
}

/// A stream in clear. `ahead` is what was read before.
pub fn plain(socket: Socket, ahead: &[u8]) -> io::Result<(Wire, Flusher)> {
    Ok(wire(socket.into_tokio()?, None, ahead.to_vec()))
}

/// A stream inside TLS, after its handshake.
pub fn tls(stream: TlsStream<Socket>) -> io::Result<(Wire, Flusher)> {
    let (socket, layer, ahead) = stream.into_parts();
    let ahead = ahead.as_ref().map_or(&[][..], Buffer::as_slice).to_vec();
    Ok(wire(socket.into_tokio()?, Some(layer), ahead))
}

fn wire(socket: TcpStream, tls: Option<Layer>, ahead: Vec<u8>) -> (Wire, Flusher) {
    let state = State {
        socket,
        tls,
        ahead,
        consumed: 0,
        pending: Vec::new(),
        sent: 0,
        sealed: Vec::new(),
        gone: 0,
        heard: Rc::default(),
        counted: None,
    };
    let state = Rc::new(RefCell::new(state));
    (Wire(Rc::clone(&state)), Flusher(state))
}

impl Flusher {
    /// Lets the connection's end be counted.
    pub fn count(&self, counted: Option<Counted>) {
        self.0.borrow_mut().counted = counted;
    }

    /// A counter that moves whenever the peer is heard of.
    pub fn heard(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.0.borrow().heard)
    }
}

impl State {
    fn ahead(&self) -> &[u8] {
        self.ahead.get(self.consumed..).unwrap_or_default()
    }

    fn consume(&mut self, count: usize) {
        self.consumed += count;
        if self.consumed >= self.ahead.len() {
            self.ahead = Vec::new();
            self.consumed = 0;
        }
    }

    fn is_dirty(&self) -> bool {
        let tls = match &self.tls {
            None => false,
            Some(Layer::Rustls(connection)) => connection.wants_write(),
            Some(Layer::Records(records)) => records.is_urgent() || !self.sealed.is_empty(),
        };
        tls || !self.pending.is_empty()
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &self.tls {
            None => {}
            Some(Layer::Rustls(_)) => return self.poll_read_rustls(cx, into),
            Some(Layer::Records(_)) => return self.poll_read_records(cx, into),
        }
        if self.ahead().is_empty() {
            ready!(Pin::new(&mut self.socket).poll_read(cx, into))?;
            self.heard.set(self.heard.get().wrapping_add(1));
            return Poll::Ready(Ok(()));
        }
        let count = self.ahead().len().min(into.remaining());
        into.put_slice(self.ahead().get(..count).unwrap_or_default());
        self.consume(count);
        Poll::Ready(Ok(()))
    }

    fn poll_read_records(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { socket, tls: Some(Layer::Records(records)), ahead, consumed, heard, .. } = self else {
            return Poll::Ready(Ok(()));
        };
        loop {
            // What is whole is opened where it lies; what is not waits in `ahead`.
            if take(records, ahead, consumed, into)? {
                return Poll::Ready(Ok(()));
            }
            ahead.drain(..*consumed);
            *consumed = 0;
            ready!(socket.poll_read_ready(cx))?;
            let received: io::Result<bool> = SCRATCH.with_borrow_mut(|scratch| {
                scratch.resize(READ, 0);
                // Behind what waits there already.
                let (held, _) = scratch.split_at_mut_checked(ahead.len()).unwrap_or_default();
                held.copy_from_slice(ahead);
                let room = scratch.get_mut(ahead.len()..).unwrap_or_default();
                let count = socket.try_read(room)?;
                if count == 0 {
                    records.cut();
                    return Ok(false);
                }
                heard.set(heard.get().wrapping_add(1));
                let whole = scratch.get_mut(..ahead.len() + count).unwrap_or_default();
                let mut used = 0;
                let done = take(records, whole, &mut used, into)?;
                ahead.clear();
                ahead.extend_from_slice(whole.get(used..).unwrap_or_default());
                if ahead.is_empty() {
                    *ahead = Vec::new();
                }
                Ok(done)
            });
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(true) => return Poll::Ready(Ok(())),
                received => drop(received?),
            }
        }
    }

    fn poll_read_rustls(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { socket, tls: Some(Layer::Rustls(tls)), ahead, consumed, heard, .. } = self else {
            return Poll::Ready(Ok(()));
        };
        loop {
            match tls.reader().read(into.initialize_unfilled()) {
                Ok(count) => {
                    into.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // An end without close_notify. HTTP/2 sees by itself what is cut short: END_STREAM is missing.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(error)),
            }
            if *consumed < ahead.len() {
                *consumed += feed(tls, ahead.get(*consumed..).unwrap_or_default())?;
                continue;
            }
            if !ahead.is_empty() {
                (*ahead, *consumed) = (Vec::new(), 0);
            }
            ready!(socket.poll_read_ready(cx))?;
            let received = SCRATCH.with_borrow_mut(|scratch| {
                scratch.resize(READ, 0);
                let count = match socket.try_read(scratch) {
                    Ok(0) => {
                        tls.read_tls(&mut io::empty())?;
                        return Ok(());
                    }
                    Ok(count) => count,
                    Err(error) => return Err(error),
                };
                heard.set(heard.get().wrapping_add(1));
                let mut bytes = scratch.get(..count).unwrap_or_default();
                // What rustls does not take yet, because plaintext waits in it, is kept.
                while !bytes.is_empty() && tls.wants_read() {
                    let taken = feed(tls, bytes)?;
                    bytes = bytes.get(taken..).unwrap_or_default();
                }
                ahead.extend_from_slice(bytes);
                Ok(())
            });
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => received?,
            }
        }
    }

    /// Takes bytes to be sent, unless too many wait already.
    fn poll_take(&mut self, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.pending.len() - self.sent >= HIGH {
            ready!(self.poll_drain(cx))?;
        }
        let mut total = 0;
        for slice in slices {
            self.pending.extend_from_slice(slice);
            total += slice.len();
        }
        Poll::Ready(Ok(total))
    }

    /// Sends everything.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, tls, pending, sent, sealed, gone, .. } = self;
        loop {
            let left = pending.get(*sent..).unwrap_or_default();
            let result = match tls {
                None if left.is_empty() => break,
                None => socket.try_write(left).map(|count| *sent += count),
                Some(Layer::Records(records)) => {
                    if sealed.is_empty() && !seal(records, left, sent, sealed)? {
                        break;
                    }
                    socket.try_write(sealed.get(*gone..).unwrap_or_default()).map(|count| {
                        *gone += count;
                        if *gone >= sealed.len() {
                            sealed.clear();
                            *gone = 0;
                        }
                    })
                }
                Some(Layer::Rustls(tls)) => {
                    if !left.is_empty() {
                        // Takes as much as rustls' own bound allows; the rest follows when some of it is out.
                        *sent += tls.writer().write(left)?;
                    } else if !tls.wants_write() {
                        break;
                    }
                    tls.write_tls(&mut Direct(socket)).map(drop)
                }
            };
            match result {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(socket.poll_write_ready(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        pending.clear();
        pending.shrink_to(KEPT);
        sealed.shrink_to(KEPT);
        *sent = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        match &mut self.tls {
            None => {}
            Some(Layer::Rustls(connection)) => connection.send_close_notify(),
            Some(Layer::Records(records)) => records.close(),
        }
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// Opens what is whole; `true` when there is something for the reader, be it the end.
fn take(records: &mut Records, bytes: &mut [u8], used: &mut usize, into: &mut ReadBuf<'_>) -> io::Result<bool> {
    let mut some = false;
    loop {
        let bytes = bytes.get_mut(*used..).unwrap_or_default();
        let room = into.initialize_unfilled();
        let most = room.len();
        if most == 0 || (some && records.copies(bytes, most, most)) {
            return Ok(true);
        }
        let step = match records.take(bytes, room, most) {
            Ok(step) => step,
            // An end without close_notify. HTTP/2 sees by itself what is cut short: END_STREAM is missing.
            Err(RecordError::Cut) => return Ok(true),
            Err(_) if some => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        let Step { used: count, taken } = step;
        *used += count;
        match taken {
            Taken::Data(count) => {
                into.advance(count);
                some = true;
            }
            Taken::Nothing => {}
            Taken::Starved => return Ok(some),
            Taken::Ended => return Ok(true),
        }
    }
}

/// Seals what is owed and what is left; `false` when there is neither.
fn seal(records: &mut Records, left: &[u8], sent: &mut usize, sealed: &mut Vec<u8>) -> io::Result<bool> {
    if !left.is_empty() {
        records.refresh()?;
    } else if !records.owes() {
        return Ok(false);
    }
    sealed.extend_from_slice(&records.take_owed());
    let framed = records.framed(left.len());
    let start = sealed.len();
    sealed.resize(start + framed, 0);
    let (taken, written) = records.seal(left, sealed.get_mut(start..).unwrap_or_default())?;
    sealed.truncate(start + written);
    *sent += taken;
    Ok(true)
}

/// Gives records to rustls and says how many bytes it took.
fn feed(tls: &mut Connection, bytes: &[u8]) -> io::Result<usize> {
    let mut rest = bytes;
    let count = tls.read_tls(&mut rest)?;
    tls.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    // After close_notify nothing is taken any more, and what follows it is to be ignored.
    Ok(if count == 0 { bytes.len() } else { count })
}

/// Writes the records of rustls to the socket, several at once.
struct Direct<'a>(&'a TcpStream);

impl io::Write for Direct<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_read(cx, into)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_take(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_take(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_shutdown(cx)
    }
}

/// Drives a connection over a [`Wire`] and sends what it wrote, once per turn.
pub struct Lazy<F> {
    connection: Pin<Box<F>>,
    flusher: Flusher,
    deferred: bool,
}

impl<F> Lazy<F> {
    pub fn new(connection: F, flusher: Flusher) -> Self {
        Self { connection: Box::pin(connection), flusher, deferred: false }
    }
}

impl<F: Future> Future for Lazy<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let result = this.connection.as_mut().poll(cx);
        let mut state = this.flusher.0.borrow_mut();
        if !state.is_dirty() {
            this.deferred = false;
        } else if this.deferred || result.is_ready() {
            this.deferred = false;
            // Pending: the socket wakes this task. An error shows on the connection's next read or write.
            let _ = state.poll_drain(cx);
        } else {
            this.deferred = true;
            cx.waker().wake_by_ref();
        }
        result
    }
}
