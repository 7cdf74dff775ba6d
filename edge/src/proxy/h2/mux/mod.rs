//! The state of one HTTP/2 connection, for either side (RFC 9113): frames in, frames out, streams between.
//!
//! In flow the peer's bytes ([`Mux::receive`]) and what exchanges send ([`send`]); out flow bytes for the socket
//! ([`Mux::pending`]) and wake-ups. It does no I/O and waits for nothing. Whatever a peer can make it hold or do is bounded:
//! streams, windows, header blocks in bytes, frames and fields, output that is not taken, and frames that carry nothing
//! ([`budget`]).

pub mod budget;
mod receive;
mod send;
pub(super) mod stream;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::task::Waker;
use std::time::Instant;

use foldhash::{HashMap, HashMapExt as _};
use slab::Slab;

use self::budget::Budget;
pub use self::budget::Flood;
pub use self::stream::Failed;
use self::stream::Stream;
use super::frame::{self, Code};
use super::hpack::Decoder;
use crate::proxy::h1::parse::{HeadLimits, RequestError};
use crate::proxy::message::{RequestHead, Scheme};

/// Output that may wait for the socket; beyond it nothing is read and nobody sends.
const HIGH: usize = 128 * 1024;
/// Memory for output that an idle connection keeps.
const KEPT: usize = 4 * 1024;
/// Streams that were reset by us, whose frames may still be on their way (RFC 9113 §5.1, "closed").
const FORGOTTEN: usize = 64;

/// Which side we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Server,
    Client,
}

/// What bounds a connection.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub side: Side,
    pub scheme: Scheme,
    pub limits: HeadLimits,
    /// Streams that the peer may have open.
    pub streams: u32,
    /// Bytes that come before they are asked for.
    pub stream_window: u32,
    pub connection_window: u32,
}

/// Why a connection takes nothing any more.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// All that was to be done is done.
    #[error("finished")]
    Done,
    /// The peer closed.
    #[error("closed by the peer")]
    Closed,
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The peer broke the protocol.
    #[error("{1} ({0:?})")]
    Broken(Code, &'static str),
    #[error("flood: {0}")]
    Flooded(Flood),
    /// A head, or the first SETTINGS, took too long.
    #[error("no complete head in time")]
    HeadTimeout,
}

/// A request that has come.
pub struct Started {
    pub key: usize,
    pub head: RequestHead,
    pub refused: Option<RequestError>,
    /// END_STREAM came with the head.
    pub ended: bool,
}

/// How far we are with taking no further requests (§6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    No,
    /// Told; requests that were on their way are still taken.
    Announced(Instant),
    /// Nothing beyond this stream is taken.
    Final(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// So much of the preface has come.
    Preface(usize),
    /// The first frame must be SETTINGS (§3.4).
    Settings,
    Open,
}

/// A header block in progress.
struct Block {
    stream: u32,
    ended: bool,
    /// The head depends on itself (§5.3.1 of RFC 7540).
    depends_on_itself: bool,
    bytes: Vec<u8>,
    frames: u32,
}

/// What the peer allows us.
struct Peer {
    initial_window: i64,
    max_frame: usize,
    max_streams: u32,
}

pub struct Mux {
    bounds: Bounds,
    stage: Stage,
    /// Since when a head (or the preface) is in progress.
    head_since: Option<Instant>,
    /// The beginning of a frame that has not come whole.
    partial: Vec<u8>,
    block: Option<Block>,
    decoder: Decoder,
    budget: Budget,

    streams: Slab<Stream>,
    /// Those that are not closed in both directions.
    open: HashMap<u32, usize>,
    /// Those that are answered and whose requests are not over, the oldest first.
    lingering: VecDeque<(usize, u32)>,
    /// A ring.
    forgotten: VecDeque<u32>,
    /// The highest stream that the peer has opened, and the next that we open.
    highest: u32,
    next: u32,
    started: VecDeque<Started>,
    /// Malformed requests whose streams were reset, not yet fetched.
    malformed: Vec<&'static str>,

    peer: Peer,
    send_window: i64,
    recv_window: i64,
    /// Consumed, and not yet given back to the peer.
    recv_owed: u32,
    /// Streams that wait for room in what all of them share.
    waiting: VecDeque<usize>,
    /// The peer has lowered its table, which the next block must acknowledge (RFC 7541 §4.2).
    owes_table_update: bool,

    out: Vec<u8>,
    /// How much of `out` is taken by the socket, and how many bytes were before it.
    sent: usize,
    base: u64,

    ended: Option<Ended>,
    drain: Drain,
    /// The peer takes no further requests.
    left: bool,
    heard: u64,
    waker: Option<Waker>,
}

/// A connection, shared by its task and the exchanges on it.
pub type Shared = Rc<RefCell<Mux>>;

impl Mux {
    /// `since`: when the peer began to have time for its first frame.
    pub fn new(bounds: Bounds, since: Instant) -> Self {
        let mut mux = Self {
            bounds,
            stage: if bounds.side == Side::Server { Stage::Preface(0) } else { Stage::Settings },
            head_since: Some(since),
            partial: Vec::new(),
            block: None,
            decoder: Decoder::default(),
            budget: Budget::default(),
            streams: Slab::new(),
            open: HashMap::new(),
            lingering: VecDeque::new(),
            forgotten: VecDeque::new(),
            highest: 0,
            next: 1,
            started: VecDeque::new(),
            malformed: Vec::new(),
            peer: Peer { initial_window: 65_535, max_frame: frame::MAX_SIZE, max_streams: u32::MAX },
            send_window: 65_535,
            recv_window: i64::from(bounds.connection_window),
            recv_owed: 0,
            waiting: VecDeque::new(),
            owes_table_update: false,
            out: Vec::new(),
            sent: 0,
            base: 0,
            ended: None,
            drain: Drain::No,
            left: false,
            heard: 0,
            waker: None,
        };
        mux.greet();
        mux
    }

    fn greet(&mut self) {
        let Bounds { side, limits, streams, stream_window, connection_window, .. } = self.bounds;
        let list = u32::try_from(limits.bytes).unwrap_or(u32::MAX);
        let window = (frame::INITIAL_WINDOW_SIZE, stream_window);
        let own = match side {
            Side::Server => (frame::MAX_CONCURRENT_STREAMS, streams),
            Side::Client => {
                self.out.extend_from_slice(frame::PREFACE);
                (frame::ENABLE_PUSH, 0)
            }
        };
        frame::settings(&mut self.out, &[own, window, (frame::MAX_HEADER_LIST_SIZE, list)]);
        // The connection's own window is not a setting, but begins at 65,535 and is widened (§6.9.2).
        if let Some(more) = connection_window.checked_sub(65_535).filter(|more| *more > 0) {
            frame::window_update(&mut self.out, 0, more);
        }
    }

    /// Lets a task be woken when there is something to send, or the connection has ended.
    pub fn park(&mut self, waker: &Waker) {
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
    }

    pub fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    pub fn next_started(&mut self) -> Option<Started> {
        self.started.pop_front()
    }

    /// What the streams that were reset for being malformed were about.
    pub fn take_malformed(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.malformed)
    }

    pub fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    pub fn ended(&mut self) -> Option<Ended> {
        self.ended.take()
    }

    /// Whether the peer has said hello.
    pub fn is_greeted(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Counts up whenever the peer is heard of.
    pub fn heard(&self) -> u64 {
        self.heard
    }

    /// Streams with somebody on our side.
    pub fn in_use(&self) -> usize {
        self.streams.len()
    }

    /// Since when the peer is in the middle of a head.
    pub fn head_since(&self) -> Option<Instant> {
        self.head_since
    }

    /// Whether the peer takes a further request of ours, how many at once, and whether there are numbers left.
    pub fn takes_requests(&self) -> bool {
        !self.left && self.ended.is_none() && self.next < 1 << 31
    }

    pub fn max_streams(&self) -> usize {
        self.peer.max_streams as usize
    }

    pub fn drain(&self) -> Drain {
        self.drain
    }

    /// Tells the peer that the connection will end; what it has sent by then is served.
    pub fn begin_drain(&mut self) {
        if self.drain == Drain::No {
            self.drain = Drain::Announced(Instant::now());
            frame::goaway(&mut self.out, (1 << 31) - 1, Code::NO_ERROR);
            frame::ping(&mut self.out, 0, *b"draining");
            self.wake();
        }
    }

    /// From here on nothing new is taken.
    pub fn finish_drain(&mut self) {
        if !matches!(self.drain, Drain::Final(_)) {
            self.drain = Drain::Final(self.highest);
            frame::goaway(&mut self.out, self.highest, Code::NO_ERROR);
            self.wake();
        }
    }

    /// Ends the connection: the peer is told why where it may want to know, and so is everybody on a stream.
    pub fn end(&mut self, why: Ended) {
        if self.ended.is_some() {
            return;
        }
        let code = match &why {
            Ended::Broken(code, _) => Some(*code),
            Ended::Flooded(_) | Ended::HeadTimeout => Some(Code::ENHANCE_YOUR_CALM),
            Ended::Done if self.drain == Drain::No => Some(Code::NO_ERROR),
            Ended::Done | Ended::Closed | Ended::Io(_) => None,
        };
        if let Some(code) = code {
            frame::goaway(&mut self.out, self.highest, code);
        }
        self.ended = Some(why);
        self.partial = Vec::new();
        self.block = None;
        self.head_since = None;
        for (_, stream) in &mut self.streams {
            stream.fail(Failed::Gone { processed: true });
        }
        self.open.clear();
        self.streams.retain(|_, stream| stream.lingers.is_none());
        self.wake();
    }

    fn broken(&mut self, code: Code, why: &'static str) {
        self.end(Ended::Broken(code, why));
    }

    fn flooded(&mut self, flood: Flood) {
        self.end(Ended::Flooded(flood));
    }

    /// Whether so much waits for the socket that nothing is to be added.
    pub fn is_full(&self) -> bool {
        self.out.len() - self.sent >= HIGH
    }

    /// What waits for the socket, and how much of it is taken already.
    pub fn pending(&mut self) -> (&[u8], &mut usize) {
        (&self.out, &mut self.sent)
    }

    pub fn is_dirty(&self) -> bool {
        self.out.len() > self.sent
    }

    /// All of it is taken.
    pub fn flushed(&mut self) {
        self.base += self.out.len() as u64;
        self.out.clear();
        self.out.shrink_to(KEPT);
        self.sent = 0;
        self.wake_next();
    }

    /// Resets a stream for what the peer did there.
    fn refuse(&mut self, id: u32, code: Code) {
        frame::rst_stream(&mut self.out, id, code);
        self.forget(id);
        if code != Code::REFUSED_STREAM
            && let Err(flood) = self.budget.reset()
        {
            self.flooded(flood);
        }
    }

    fn forget(&mut self, id: u32) {
        if self.forgotten.len() == FORGOTTEN {
            self.forgotten.pop_front();
        }
        self.forgotten.push_back(id);
    }
}

#[cfg(test)]
mod tests;
