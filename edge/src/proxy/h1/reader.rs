//! The receiving half of an HTTP/1 connection: heads, then bodies, from one stream of bytes.
//!
//! It owns a buffer only while there are bytes in it. After an error the connection is closed: where the next message
//! would start is unknown.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use super::chunked::Decoder;
use super::parse::{self, Framing, HeadLimits};
use crate::proxy::body::{Chunk, StreamError};
use crate::proxy::buffer::{BUFFER_SIZE, Buffer, LARGE_SIZE};
use crate::proxy::clock::Timer;
use crate::proxy::io::Io;
use crate::proxy::message::Fields;

/// Empty lines tolerated before a request line (RFC 9112 §2.2 asks for at least one). Before a status line there are none:
/// they would be bytes that no response has framed.
const EMPTY_LINES: usize = 2;

/// Why there is no head.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// The peer ended between two messages, which is its right.
    #[error("closed")]
    Closed,
    #[error("closed within a head")]
    Truncated,
    #[error("head too large")]
    TooLarge { in_start_line: bool },
    #[error("{0}")]
    Malformed(&'static str),
    #[error("no complete head in time")]
    Elapsed { started: bool },
    #[error(transparent)]
    Io(#[from] io::Error),
}

pub struct Reader {
    held: Option<Buffer>,
    /// How far `held` was searched for the end of a head.
    scanned: usize,
    body: Body,
    trailers: Option<Fields>,
    limits: HeadLimits,
    /// How many may stand before a head.
    empty_lines: usize,
    /// The last read of a body filled its buffer: the next takes a large one.
    busy: bool,
    /// Large buffers are not wanted.
    frugal: bool,
    /// An error was found, or a read was given up with bytes in it: where the next message starts is unknown.
    broken: Cell<bool>,
    pub timer: Timer,
}

#[derive(Debug)]
enum Body {
    /// Its end was seen: the next byte belongs to the next message.
    Ended,
    Length(u64),
    Chunked(Decoder),
    Trailers,
    Close,
}

impl Reader {
    pub fn new(timer: Timer, limits: HeadLimits) -> Self {
        Self {
            held: None,
            scanned: 0,
            body: Body::Ended,
            trailers: None,
            limits,
            empty_lines: 0,
            busy: false,
            frugal: false,
            broken: Cell::new(false),
            timer,
        }
    }

    /// Requests are to be read.
    pub fn tolerate_empty_lines(&mut self) {
        self.empty_lines = EMPTY_LINES;
    }

    pub fn set_limits(&mut self, limits: HeadLimits) {
        self.limits = limits;
    }

    /// See [`Source::limit_buffer`](crate::proxy::body::Source::limit_buffer).
    pub fn limit_buffer(&mut self, bytes: Option<u64>) {
        self.frugal = bytes.is_some_and(|bytes| bytes < LARGE_SIZE as u64);
        self.busy &= !self.frugal;
    }

    pub fn limits(&self) -> HeadLimits {
        self.limits
    }

    /// Bytes that came and were not used yet.
    pub fn held(&self) -> &[u8] {
        self.held.as_ref().map(Buffer::as_slice).unwrap_or_default()
    }

    /// Gives the unused bytes away, with the connection.
    pub fn take_held(&mut self) -> Option<Buffer> {
        self.held.take()
    }

    /// Puts bytes in front that were read elsewhere.
    pub fn put_back(&mut self, buffer: Buffer) {
        self.held = Some(buffer).filter(|buffer| !buffer.is_empty());
    }

    /// Waits for the first byte of a message, without a buffer, up to the timer's deadline.
    pub async fn wait<I: Io>(&mut self, io: &I) -> Result<(), HeadError> {
        if self.held.is_some() {
            return Ok(());
        }
        match self.timer.limit(io.readable()).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(HeadError::Elapsed { started: false }),
        }
    }

    /// Reads a complete head, up to the timer's deadline, and gives its length in [`held`](Self::held).
    pub async fn head<I: Io>(&mut self, io: &I) -> Result<usize, HeadError> {
        self.scanned = 0;
        let mut empty_lines = 0;
        loop {
            if let Some(held) = &mut self.held {
                while empty_lines < self.empty_lines && held.as_slice().starts_with(b"\r\n") {
                    held.advance(2);
                    empty_lines += 1;
                    self.scanned = 0;
                }
                if let Some(length) =
                    parse::head_end(held.as_slice(), &mut self.scanned).map_err(HeadError::Malformed)?
                {
                    let fits = length <= self.limits.bytes;
                    return if fits { Ok(length) } else { Err(HeadError::TooLarge { in_start_line: false }) };
                }
                if held.len() >= self.limits.bytes {
                    return Err(HeadError::TooLarge { in_start_line: self.scanned == 0 });
                }
                make_room(held, self.limits.bytes);
            } else {
                self.wait(io).await?;
            }
            self.more(io).await?;
        }
    }

    /// Ends the head and says how what follows is framed.
    pub fn begin_body(&mut self, head: usize, framing: Framing) {
        self.use_up(head);
        self.busy = false;
        self.trailers = None;
        self.body = match framing {
            Framing::None | Framing::Length(0) => Body::Ended,
            Framing::Length(length) => Body::Length(length),
            Framing::Chunked => Body::Chunked(Decoder::default()),
            Framing::Close => Body::Close,
        };
    }

    /// Takes what follows as it comes, up to the end of the connection.
    pub fn begin_tunnel(&mut self) {
        self.body = Body::Close;
    }

    /// Whether the whole body was read.
    pub fn has_ended(&self) -> bool {
        matches!(self.body, Body::Ended) && !self.broken.get()
    }

    /// Whether nothing but the next message can follow, and nothing of it is here.
    pub fn is_clean(&self) -> bool {
        self.has_ended() && self.held.is_none()
    }

    /// Whether [`next`](Self::next) has something without waiting.
    pub fn is_ready(&self) -> bool {
        self.held.is_some() || self.has_ended()
    }

    pub fn trailers(&mut self) -> Option<Fields> {
        self.trailers.take()
    }

    /// The next piece of the body; each wait is up to `idle`. After an error there is none: a body that breaks the
    /// grammar has no end that both sides agree on (RFC 9112 §11.2).
    pub async fn next<I: Io>(&mut self, io: &I, idle: Duration) -> Result<Option<Chunk>, StreamError> {
        if self.broken.get() {
            return Err(StreamError::Malformed("body was broken off"));
        }
        let piece = self.piece(io, idle).await;
        if piece.is_err() {
            self.broken.set(true);
        }
        piece
    }

    async fn piece<I: Io>(&mut self, io: &I, idle: Duration) -> Result<Option<Chunk>, StreamError> {
        loop {
            match &mut self.body {
                Body::Ended => return Ok(None),
                Body::Length(left) => {
                    let left = *left;
                    let mut buffer = self.fill(io, idle).await?.ok_or(StreamError::Closed)?;
                    if buffer.len() as u64 >= left {
                        let length = usize::try_from(left).unwrap_or(buffer.len());
                        if length < buffer.len() {
                            let body = buffer.split_front(length);
                            self.put_back(std::mem::replace(&mut buffer, body));
                        }
                        self.body = Body::Ended;
                    } else {
                        self.body = Body::Length(left - buffer.len() as u64);
                    }
                    return Ok(Some(Chunk::Pooled(buffer)));
                }
                Body::Chunked(_) => {
                    let mut buffer = self.fill(io, idle).await?.ok_or(StreamError::Closed)?;
                    let Body::Chunked(decoder) = &mut self.body else { return Ok(None) };
                    let step = decoder.step(buffer.as_mut_slice()).map_err(StreamError::Malformed)?;
                    if step.done {
                        self.body = Body::Trailers;
                        let rest = buffer.as_slice().get(step.used..).unwrap_or_default();
                        if !rest.is_empty() {
                            self.held = Some(Buffer::copy_of(rest));
                            self.scanned = 0;
                        }
                        // The usual end is here with the last data: taking it now lets both go out together.
                        self.end_without_trailers();
                    }
                    buffer.truncate(step.data.end);
                    buffer.advance(step.data.start);
                    if !step.data.is_empty() {
                        return Ok(Some(Chunk::Pooled(buffer)));
                    }
                }
                Body::Trailers => {
                    if !self.end_without_trailers() {
                        self.read_trailers(io, idle).await?;
                    }
                    return Ok(None);
                }
                Body::Close => match self.fill(io, idle).await? {
                    Some(buffer) => return Ok(Some(Chunk::Pooled(buffer))),
                    None => self.body = Body::Ended,
                },
            }
        }
    }

    fn end_without_trailers(&mut self) -> bool {
        let empty = self.held().starts_with(b"\r\n");
        if empty {
            self.use_up(2);
            self.body = Body::Ended;
        }
        empty
    }

    async fn read_trailers<I: Io>(&mut self, io: &I, idle: Duration) -> Result<(), StreamError> {
        self.scanned = 0;
        // One deadline for the whole section: it must not drip in.
        self.timer.set(idle);
        let length = loop {
            let held = self.held.get_or_insert_with(Buffer::take);
            if let Some(length) = parse::head_end(held.as_slice(), &mut self.scanned).map_err(StreamError::Malformed)? {
                break length;
            }
            if held.len() >= self.limits.bytes {
                return Err(StreamError::Malformed("trailer section is too large"));
            }
            make_room(held, self.limits.bytes);
            self.more(io).await.map_err(|error| match error {
                HeadError::Io(error) => StreamError::Io(error),
                HeadError::Elapsed { .. } => StreamError::Stalled,
                _ => StreamError::Closed,
            })?;
        };
        let mut fields = Fields::default();
        let section = self.held().get(..length).unwrap_or_default();
        parse::trailers(section, self.limits, &mut fields).map_err(StreamError::Malformed)?;
        self.use_up(length);
        self.body = Body::Ended;
        self.trailers = Some(fields).filter(|fields| !fields.is_empty());
        Ok(())
    }

    /// A buffer with bytes, or `None` at the peer's end.
    async fn fill<I: Io>(&mut self, io: &I, idle: Duration) -> Result<Option<Buffer>, StreamError> {
        if let Some(held) = self.held.take() {
            return Ok(Some(held));
        }
        match self.timer.within(idle, read_some(io, self.busy, &self.broken)).await {
            Ok(Ok((0, _))) => Ok(None),
            Ok(Ok((_, buffer))) => {
                self.busy = buffer.len() >= BUFFER_SIZE && !self.frugal;
                Ok(Some(buffer))
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(StreamError::Stalled),
        }
    }

    /// Appends to what is held, which has room, up to the timer's deadline.
    async fn more<I: Io>(&mut self, io: &I) -> Result<(), HeadError> {
        let buffer = self.held.take().unwrap_or_else(Buffer::take);
        let started = !buffer.is_empty();
        self.broken.set(true);
        let Ok((count, buffer)) = self.timer.limit(io.read(buffer)).await else {
            return Err(HeadError::Elapsed { started });
        };
        match count {
            Ok(0) if started => Err(HeadError::Truncated),
            Ok(0) => Err(HeadError::Closed),
            Ok(_) => {
                self.held = Some(buffer);
                self.broken.set(false);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn use_up(&mut self, count: usize) {
        self.scanned = 0;
        if let Some(held) = &mut self.held {
            held.advance(count);
            if held.is_empty() {
                self.held = None;
            }
        }
    }
}

/// Waits without a buffer, then reads into one.
async fn read_some<I: Io>(io: &I, busy: bool, broken: &Cell<bool>) -> io::Result<(usize, Buffer)> {
    io.readable().await?;
    let buffer = if busy { Buffer::take_large() } else { Buffer::take() };
    // Should this be dropped in the middle, bytes may be missing.
    broken.set(true);
    let (count, buffer) = io.read(buffer).await;
    broken.set(false);
    count.map(|count| (count, buffer))
}

/// Makes room in a buffer that holds a part of a head of up to `limit` bytes.
fn make_room(held: &mut Buffer, limit: usize) {
    if held.room() > 0 {
        return;
    }
    held.compact();
    if held.room() == 0 {
        let mut larger = Buffer::with_size((held.len() * 2).clamp(BUFFER_SIZE, limit.max(BUFFER_SIZE)) + 1);
        larger.append(held.as_slice());
        *held = larger;
    }
}
