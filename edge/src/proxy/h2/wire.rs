//! The byte stream under an HTTP/2 connection, in clear or inside TLS, and the turn that drives it.
//!
//! In flow bytes of the socket, out flow those of [`Mux`]. Writing is lazy: what exchanges say is sent once per turn,
//! behind the tasks that are runnable already and may have more to say, so that many answers leave as one TLS record and
//! one system call. What is unsent stays noted until the socket has taken all of it, whether it waits in the mux or
//! sealed inside rustls (forgetting the latter is how such a scheme hangs).

use std::cell::RefCell;
use std::io::{self, BufRead as _, Write as _};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::Connection;
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;

use super::mux::{Ended, Mux, Shared};
use crate::proxy::buffer::Buffer;
use crate::proxy::clock::Timer;
use crate::proxy::io::Socket;
use crate::proxy::tls::record::{Records, Taken};
use crate::proxy::tls::stream::{Layer, TlsStream};
use crate::proxy::upstream::stream::Counted;

/// Bytes taken from the socket at once, into memory shared by all connections of the thread.
const READ: usize = 64 * 1024;
/// Reads in one turn; then the others have theirs.
const READS: usize = 4;
/// How long a peer may take to close after us, and what is read of it meanwhile: closing with bytes unread would reset
/// the connection and could cost the peer the last frames.
const CLOSING: Duration = Duration::from_secs(5);
const MOST_DISCARDED: usize = 256 * 1024;

/// Memory for sealed bytes that a connection keeps while it has none.
const KEPT: usize = 4 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A socket, and TLS where there is some.
pub struct Wire {
    socket: TcpStream,
    tls: Option<Layer>,
    /// Taken from the socket before, and not yet read: plaintext without TLS, records with it.
    ahead: Vec<u8>,
    /// Sealed by [`Records`], of which the first `gone` bytes are out already.
    sealed: Vec<u8>,
    gone: usize,
    /// Towards an endpoint: counts the connection's end.
    counted: Option<Counted>,
}

/// A stream in clear. `ahead` is what was read before.
pub fn plain(socket: Socket, ahead: &[u8]) -> io::Result<Wire> {
    Ok(wire(socket.into_tokio()?, None, ahead))
}

/// A stream inside TLS, after its handshake.
pub fn tls(stream: TlsStream<Socket>) -> io::Result<Wire> {
    let (socket, layer, ahead) = stream.into_parts();
    let ahead = ahead.as_ref().map_or(&[][..], Buffer::as_slice);
    Ok(wire(socket.into_tokio()?, Some(layer), ahead))
}

fn wire(socket: TcpStream, tls: Option<Layer>, ahead: &[u8]) -> Wire {
    Wire { socket, tls, ahead: ahead.to_vec(), sealed: Vec::new(), gone: 0, counted: None }
}

impl Wire {
    /// Lets the connection's end be counted.
    pub fn count(&mut self, counted: Option<Counted>) {
        self.counted = counted;
    }

    /// Reads what is there and hands it on; `false` at the end. An end without close_notify is one as well: HTTP/2 sees
    /// by itself what is cut short, because END_STREAM is missing.
    fn poll_read(&mut self, cx: &mut Context<'_>, take: &mut dyn FnMut(&[u8])) -> Poll<io::Result<bool>> {
        let Self { socket, tls, ahead, .. } = self;
        let mut tls = match tls {
            Some(Layer::Records(records)) => return poll_open(socket, records, ahead, cx, take),
            Some(Layer::Rustls(connection)) => Some(connection),
            None => None,
        };
        if let Some(tls) = &mut tls {
            let early = std::mem::take(ahead);
            if feed(tls, &early, take)? || !early.is_empty() {
                return Poll::Ready(Ok(true));
            }
        } else if !ahead.is_empty() {
            take(&std::mem::take(ahead));
            return Poll::Ready(Ok(true));
        }
        loop {
            ready!(socket.poll_read_ready(cx))?;
            let result = SCRATCH.with_borrow_mut(|scratch| {
                scratch.resize(READ, 0);
                let count = socket.try_read(scratch)?;
                let bytes = scratch.get(..count).unwrap_or_default();
                match &mut tls {
                    _ if count == 0 => Ok(false),
                    None => {
                        take(bytes);
                        Ok(true)
                    }
                    Some(tls) => feed(tls, bytes, take).map(|open| open || !bytes.is_empty() && !is_closed(tls)),
                }
            });
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Sends what waits in the mux and inside rustls.
    fn poll_send(&mut self, cx: &mut Context<'_>, mux: &mut Mux) -> Poll<io::Result<()>> {
        let Self { socket, tls, sealed, gone, .. } = self;
        loop {
            let (out, sent) = mux.pending();
            let left = out.get(*sent..).unwrap_or_default();
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
        sealed.shrink_to(KEPT);
        mux.flushed();
        Poll::Ready(Ok(()))
    }

    fn is_dirty(&self, mux: &Mux) -> bool {
        let tls = match &self.tls {
            None => false,
            Some(Layer::Rustls(connection)) => connection.wants_write(),
            Some(Layer::Records(records)) => records.is_urgent() || !self.sealed.is_empty(),
        };
        tls || mux.is_dirty()
    }
}

/// Reads what is there, opens it where it lies and hands it on; `false` at the end.
fn poll_open(
    socket: &TcpStream,
    records: &mut Records,
    ahead: &mut Vec<u8>,
    cx: &mut Context<'_>,
    take: &mut dyn FnMut(&[u8]),
) -> Poll<io::Result<bool>> {
    let (used, found) = open(records, ahead, take);
    ahead.drain(..used);
    let mut found = found;
    while let Found::Nothing = found {
        ready!(socket.poll_read_ready(cx))?;
        let read: io::Result<Found> = SCRATCH.with_borrow_mut(|scratch| {
            // Behind the beginning of a record, where there is one.
            scratch.resize(READ + ahead.len(), 0);
            let (held, room) = scratch.split_at_mut_checked(ahead.len()).unwrap_or_default();
            held.copy_from_slice(ahead);
            let count = socket.try_read(room)?;
            if count == 0 {
                return Ok(Found::End);
            }
            let bytes = scratch.get_mut(..ahead.len() + count).unwrap_or_default();
            let (used, found) = open(records, bytes, take);
            *ahead = bytes.get(used..).unwrap_or_default().to_vec();
            Ok(found)
        });
        found = match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Found::Nothing,
            read => read?,
        };
    }
    Poll::Ready(match found {
        Found::Error(error) => {
            // The alert, as far as the socket takes it now; the connection is over.
            let _ = socket.try_write(&records.take_owed());
            Err(error)
        }
        found => Ok(matches!(found, Found::Some)),
    })
}

enum Found {
    Some,
    Nothing,
    End,
    Error(io::Error),
}

/// Opens all that is whole; says how many bytes are done with, and what there was. An error comes again after data.
fn open(records: &mut Records, bytes: &mut [u8], take: &mut dyn FnMut(&[u8])) -> (usize, Found) {
    let mut used = 0;
    let mut found = Found::Nothing;
    loop {
        let rest = bytes.get_mut(used..).unwrap_or_default();
        let step = match records.take(rest, &mut [], 0) {
            Ok(step) => step,
            Err(_) if matches!(found, Found::Some) => return (used, found),
            Err(error) => return (used, Found::Error(error.into())),
        };
        used += step.used;
        if let Some((opened, behind)) = records.take_in_place() {
            take(bytes.get(used..used + opened).unwrap_or_default());
            used += opened + behind;
            found = Found::Some;
            continue;
        }
        match step.taken {
            Taken::Data(_) | Taken::Nothing => {}
            Taken::Starved => return (used, found),
            Taken::Ended if matches!(found, Found::Some) => return (used, found),
            Taken::Ended => return (used, Found::End),
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
    let start = sealed.len();
    sealed.resize(start + records.framed(left.len()), 0);
    let (taken, written) = records.seal(left, sealed.get_mut(start..).unwrap_or_default())?;
    sealed.truncate(start + written);
    *sent += taken;
    Ok(true)
}

/// Gives records to rustls and what was inside to `take`; `true` if something was.
fn feed(tls: &mut Connection, mut records: &[u8], take: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
    let mut any = false;
    loop {
        loop {
            let mut reader = tls.reader();
            let text = match reader.fill_buf() {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(error),
            };
            let count = text.len();
            if count == 0 {
                break;
            }
            take(text);
            any = true;
            reader.consume(count);
        }
        // After close_notify nothing is taken any more, and what follows it is to be ignored.
        if records.is_empty() || tls.read_tls(&mut records)? == 0 {
            return Ok(any);
        }
        tls.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    }
}

/// Whether the peer has said close_notify.
fn is_closed(tls: &mut Connection) -> bool {
    matches!(tls.reader().fill_buf(), Ok([]))
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

/// Moves bytes between a [`Wire`] and a [`Mux`].
pub(super) struct Turn {
    pub mux: Shared,
    wire: Wire,
    /// There was something to send already in the turn before.
    deferred: bool,
}

impl Turn {
    pub fn new(mux: Mux, wire: Wire) -> Self {
        Self { mux: Rc::new(RefCell::new(mux)), wire, deferred: false }
    }

    /// Reads what has come, unless too much waits to be sent.
    pub fn read(&mut self, cx: &mut Context<'_>) {
        let mux = &mut *self.mux.borrow_mut();
        mux.park(cx.waker());
        for _ in 0..READS {
            if mux.is_full() || mux.has_ended() {
                return;
            }
            match self.wire.poll_read(cx, &mut |bytes| mux.receive(bytes)) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => return mux.lost(None),
                Poll::Ready(Err(error)) => return mux.lost(Some(error)),
                Poll::Pending => return,
            }
        }
        cx.waker().wake_by_ref();
    }

    /// Sends what there is, one turn after it was first seen.
    pub fn write(&mut self, cx: &mut Context<'_>) {
        let mux = &mut *self.mux.borrow_mut();
        if !self.wire.is_dirty(mux) {
            self.deferred = false;
            return;
        }
        if !self.deferred && !mux.has_ended() {
            self.deferred = true;
            return cx.waker().wake_by_ref();
        }
        let was_full = mux.is_full();
        match self.wire.poll_send(cx, mux) {
            Poll::Ready(Ok(())) => self.deferred = false,
            Poll::Ready(Err(error)) => mux.lost(Some(error)),
            // The socket wakes this task.
            Poll::Pending => {}
        }
        if was_full && !mux.is_full() {
            // Reading had stopped.
            cx.waker().wake_by_ref();
        }
    }

    /// Closes so that the peer gets what was said, within a bound.
    pub async fn close(mut self, timer: &Timer) -> Ended {
        let why = self.mux.borrow_mut().ended().unwrap_or(Ended::Done);
        if matches!(why, Ended::Closed | Ended::Io(_)) {
            return why;
        }
        let mut left = MOST_DISCARDED;
        let (mut notified, mut finished) = (false, false);
        let over = std::future::poll_fn(|cx| {
            let mux = &mut *self.mux.borrow_mut();
            if !finished {
                ready!(self.wire.poll_send(cx, mux)).map_err(drop)?;
                if let Some(tls) = self.wire.tls.as_mut().filter(|_| !notified) {
                    match tls {
                        Layer::Rustls(connection) => connection.send_close_notify(),
                        Layer::Records(records) => records.close(),
                    }
                    notified = true;
                    ready!(self.wire.poll_send(cx, mux)).map_err(drop)?;
                }
                ready!(Pin::new(&mut self.wire.socket).poll_shutdown(cx)).map_err(drop)?;
                finished = true;
            }
            loop {
                let mut count = 0;
                let more = ready!(self.wire.poll_read(cx, &mut |bytes| count += bytes.len())).map_err(drop)?;
                left = left.saturating_sub(count.max(1));
                if !more || left == 0 {
                    return Poll::Ready(Ok::<(), ()>(()));
                }
            }
        });
        // However it goes, that was the end.
        let _ = timer.within(CLOSING, over).await;
        why
    }
}
