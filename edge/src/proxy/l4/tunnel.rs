//! Two TCP connections joined: what one side sends, the other gets, until both have ended.
//!
//! Ends travel as they are: a FIN shuts one direction down and the other goes on; a reset resets the other side. A side
//! that no longer takes bytes ends its direction only, since what it sent before may still be on its way.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::abandon;
use super::splice::{Pipe, USUAL};
use crate::proxy::buffer::Buffer;
use crate::proxy::reason::Reason;

/// Of one look at a socket: a stream, not a conversation.
const BULK: usize = 16 * 1024;

/// What went through a tunnel, and how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelEnd {
    pub a_to_b: u64,
    pub b_to_a: u64,
    pub cause: Cause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Both sides ended their direction.
    Closed,
    /// A side broke off: it reset the connection, or stopped answering.
    BrokenA,
    BrokenB,
    /// Nothing moved for the idle time.
    Idle,
}

impl Cause {
    /// For the log, where `a` is the client.
    pub fn reason(self) -> Option<Reason> {
        match self {
            Self::Closed => None,
            Self::BrokenA => Some(Reason::ClientClosed),
            Self::BrokenB => Some(Reason::BackendClosed),
            Self::Idle => Some(Reason::TunnelIdle),
        }
    }
}

/// Told of bytes as they move, since a tunnel may live for days.
pub trait Meter {
    fn a_to_b(&self, bytes: u64);
    fn b_to_a(&self, bytes: u64);
}

/// Measures nothing.
impl Meter for () {
    fn a_to_b(&self, _: u64) {}
    fn b_to_a(&self, _: u64) {}
}

/// How long a tunnel lives on which nothing moves.
#[derive(Debug, Clone, Copy)]
pub struct Quiet {
    /// Zero: until the peers end it; keep-alive probes find those that are dead.
    pub open: Duration,
    /// From the end of one direction on, where that is less. Zero is no bound here either.
    pub half_closed: Duration,
}

impl Quiet {
    /// What holds once one direction has ended.
    pub fn narrowed(self) -> Duration {
        match (self.open, self.half_closed) {
            (open, half_closed) if open.is_zero() => half_closed,
            (open, half_closed) if half_closed.is_zero() => open,
            (open, half_closed) => open.min(half_closed),
        }
    }
}

/// Joins two connections. What was read from `a` already goes `first`. The caller drops the connections.
pub async fn tunnel(a: &TcpStream, b: &TcpStream, first: Option<Buffer>, idle: Quiet, meter: &impl Meter) -> TunnelEnd {
    let watch = Watch::new(idle);
    let (up, down) = (Cell::new(0), Cell::new(0));
    let count_up = |bytes| watch.count(&up, bytes, |bytes| meter.a_to_b(bytes));
    let count_down = |bytes| watch.count(&down, bytes, |bytes| meter.b_to_a(bytes));
    let end = join(one_way(a, b, first, &count_up), one_way(b, a, None, &count_down), &watch).await;
    match end {
        Cause::BrokenA => abandon(b),
        Cause::BrokenB => abandon(a),
        Cause::Closed | Cause::Idle => {}
    }
    TunnelEnd { a_to_b: up.get(), b_to_a: down.get(), cause: end }
}

/// How a direction ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The sending side broke off.
    Source,
    /// The receiving side takes no more.
    Sink,
}

/// When something moved last, in either direction.
pub(super) struct Watch {
    quiet: Quiet,
    /// What holds now.
    idle: Cell<Duration>,
    last: Cell<Instant>,
    narrowed: Notify,
}

impl Watch {
    pub fn new(quiet: Quiet) -> Self {
        Self { quiet, idle: Cell::new(quiet.open), last: Cell::new(Instant::now()), narrowed: Notify::new() }
    }

    /// One direction has ended: a peer that never ends the other must not hold both for ever.
    fn narrow(&self) {
        self.idle.set(self.quiet.narrowed());
        self.last.set(Instant::now());
        self.narrowed.notify_one();
    }

    pub fn count(&self, total: &Cell<u64>, bytes: usize, meter: impl Fn(u64)) {
        let bytes = bytes as u64;
        total.set(total.get() + bytes);
        meter(bytes);
        if !self.idle.get().is_zero() {
            self.last.set(Instant::now());
        }
    }

    /// Returns when nothing has moved for the idle time.
    async fn elapsed(&self) {
        loop {
            let idle = self.idle.get();
            if idle.is_zero() {
                self.narrowed.notified().await;
                continue;
            }
            let deadline = self.last.get() + idle;
            if Instant::now() >= deadline {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => {}
                () = self.narrowed.notified() => {}
            }
        }
    }
}

/// Runs both directions to their end.
pub(super) async fn join(
    up: impl Future<Output = Result<(), Fault>>,
    down: impl Future<Output = Result<(), Fault>>,
    watch: &Watch,
) -> Cause {
    let (up, down, idle) = (std::pin::pin!(up), std::pin::pin!(down), std::pin::pin!(watch.elapsed()));
    let both = async {
        let (mut up, mut down) = (up, down);
        let (mut first, mut second) = (None, None);
        loop {
            tokio::select! {
                end = &mut up, if first.is_none() => first = Some(end),
                end = &mut down, if second.is_none() => second = Some(end),
            }
            match (first, second) {
                (Some(Err(Fault::Source)), _) => return Cause::BrokenA,
                (_, Some(Err(Fault::Source))) => return Cause::BrokenB,
                (Some(Err(Fault::Sink)), Some(_)) => return Cause::BrokenB,
                (Some(Ok(())), Some(Err(Fault::Sink))) => return Cause::BrokenA,
                (Some(Ok(())), Some(Ok(()))) => return Cause::Closed,
                (None, _) | (_, None) => watch.narrow(),
            }
        }
    };
    tokio::select! {
        cause = both => cause,
        () = idle => Cause::Idle,
    }
}

async fn one_way(from: &TcpStream, to: &TcpStream, first: Option<Buffer>, count: &impl Fn(usize)) -> Result<(), Fault> {
    if let Some(first) = first {
        write_all(from, to, first.as_slice(), count).await?;
    }
    // How much is asked for at once, and whether the receiver's socket may hold back a part of a segment for what follows.
    let (mut most, mut is_corked) = (USUAL, false);
    loop {
        // No pipe is held while there is nothing to move. This also yields to other connections now and then.
        from.readable().await.map_err(|_| Fault::Source)?;
        let Ok(mut pipe) = Pipe::take() else {
            push(to, &mut is_corked);
            // Out of file descriptors: copying needs none.
            if copy_once(from, to, count).await? {
                return finish(to);
            }
            continue;
        };
        let asked = most.min(pipe.size());
        let filled = match from.try_io(Interest::READABLE, || pipe.fill(from.as_fd(), asked)) {
            Ok(0) => return finish(to),
            Ok(filled) => filled,
            Err(error) if is_transient(&error) => {
                // Nothing follows for now, so nothing may be held back for it.
                push(to, &mut is_corked);
                continue;
            }
            Err(_) => return Err(Fault::Source),
        };
        // Where there is that much, more follows, or the next look tells that it does not. Segments are then full, where
        // otherwise each turn would end in a small one.
        let has_more = filled >= BULK;
        is_corked |= has_more;
        most = if filled >= asked { pipe.size() } else { USUAL };
        while !pipe.is_empty() {
            match to.try_io(Interest::WRITABLE, || pipe.drain(to.as_fd(), has_more)) {
                Ok(bytes) => count(bytes),
                Err(error) if is_transient(&error) => {
                    most = USUAL;
                    until_writable(from, to).await?;
                }
                Err(_) => return Err(Fault::Sink),
            }
        }
    }
}

/// Lets go what the socket holds back.
fn push(to: &TcpStream, is_corked: &mut bool) {
    if std::mem::take(is_corked) {
        // TCP(7): "setting this option forces an explicit flush of pending output". A socket that refuses is dead, and
        // the next write tells.
        let _ = to.set_nodelay(true);
    }
}

/// Waits for a slow receiver, but not for one whose sender has broken off meanwhile.
async fn until_writable(from: &TcpStream, to: &TcpStream) -> Result<(), Fault> {
    tokio::select! {
        outcome = to.writable() => outcome.map_err(|_| Fault::Sink),
        _ = from.ready(Interest::ERROR) => Err(Fault::Source),
    }
}

/// Moves one buffer; `true` at the end.
async fn copy_once(from: &TcpStream, to: &TcpStream, count: &impl Fn(usize)) -> Result<bool, Fault> {
    let mut buffer = Buffer::take();
    match from.try_read(buffer.room_mut()) {
        Ok(0) => return Ok(true),
        Ok(bytes) => buffer.grow(bytes),
        Err(error) if is_transient(&error) => return Ok(false),
        Err(_) => return Err(Fault::Source),
    }
    write_all(from, to, buffer.as_slice(), count).await?;
    Ok(false)
}

async fn write_all(from: &TcpStream, to: &TcpStream, mut bytes: &[u8], count: &impl Fn(usize)) -> Result<(), Fault> {
    while !bytes.is_empty() {
        match to.try_write(bytes) {
            Ok(0) => return Err(Fault::Sink),
            Ok(written) => {
                count(written);
                bytes = bytes.get(written..).unwrap_or_default();
            }
            Err(error) if is_transient(&error) => until_writable(from, to).await?,
            Err(_) => return Err(Fault::Sink),
        }
    }
    Ok(())
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Passes the end on.
fn finish(to: &TcpStream) -> Result<(), Fault> {
    match socket2::SockRef::from(to).shutdown(Shutdown::Write) {
        Ok(()) => Ok(()),
        // The other side was faster and is gone for good.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        Err(_) => Err(Fault::Sink),
    }
}
