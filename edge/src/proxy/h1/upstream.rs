//! HTTP/1.1 towards an endpoint: one connection, one exchange at a time, both directions at once.
//!
//! A connection may be used again only from the proven-clean state: request and response ended as framed, the endpoint
//! keeps it open, and no byte is left over.

use std::rc::Rc;
use std::time::Duration;

use super::encode;
use super::parse::{self, HeadLimits};
use super::reader::{HeadError, Reader};
use super::writer::Writer;
use crate::proxy::body::{Chunk, Source, StreamError};
use crate::proxy::clock::{Clock, Pulse, recent};
use crate::proxy::io::Io;
use crate::proxy::message::{Fields, Length, RequestHead, ResponseHead};
use crate::proxy::upstream::{self, stream::Counted};

pub struct Connection<I> {
    io: I,
    reader: Reader,
    writer: Writer,
    keep_alive: bool,
    idle: Duration,
    counted: Option<Counted>,
    exchanges: u32,
    /// By [`recent`].
    opened: Duration,
}

impl<I: Io> Connection<I> {
    pub fn new(io: I, clock: &Rc<Clock>, limits: HeadLimits, idle: Duration) -> Self {
        let reader = Reader::new(clock.timer(), limits);
        Self {
            io,
            reader,
            writer: Writer::new(clock.timer()),
            keep_alive: true,
            idle,
            counted: None,
            exchanges: 0,
            opened: recent(),
        }
    }

    /// Lets the connection's end be counted.
    pub fn count(&mut self, counted: Option<Counted>) {
        self.counted = counted;
    }

    /// Whether nothing came since it was put aside: an endpoint that closes, or speaks out of turn, is of no use.
    pub fn is_quiet(&self) -> bool {
        self.io.is_quiet()
    }

    /// How many exchanges were begun.
    pub fn exchanges(&self) -> u32 {
        self.exchanges
    }

    /// When it was made, by [`recent`].
    pub fn opened(&self) -> Duration {
        self.opened
    }

    /// Begins an exchange; the head is held back until the body or a flush.
    pub fn begin(&mut self, head: &RequestHead) {
        self.exchanges = self.exchanges.saturating_add(1);
        encode::request(head, &mut self.writer);
    }

    pub fn halves(&mut self, is_head: bool) -> (Upload<'_, I>, Download<'_, I>) {
        let upload = Upload { io: &self.io, writer: &mut self.writer, idle: self.idle };
        let download = Download {
            io: &self.io,
            reader: &mut self.reader,
            keep_alive: &mut self.keep_alive,
            idle: self.idle,
            is_head,
            length: Length::None,
        };
        (upload, download)
    }

    /// Whether it can carry another exchange, given that the whole request was sent.
    pub fn is_clean(&self) -> bool {
        self.keep_alive && self.reader.is_clean()
    }
}

/// The way to the endpoint.
pub struct Upload<'a, I> {
    io: &'a I,
    writer: &'a mut Writer,
    idle: Duration,
}

impl<I: Io> upstream::Upload for Upload<'_, I> {
    async fn chunk(&mut self, chunk: Chunk) -> Result<(), StreamError> {
        self.writer.chunk(self.io, chunk, self.idle).await
    }

    async fn flush(&mut self) -> Result<(), StreamError> {
        self.writer.flush(self.io, self.idle).await
    }

    async fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), StreamError> {
        self.writer.finish(self.io, trailers, self.idle).await
    }

    fn set_idle(&mut self, idle: Duration) {
        self.idle = idle;
    }

    fn begin_tunnel(&mut self) {
        self.idle = Duration::ZERO;
        self.writer.begin_tunnel();
    }

    async fn end_tunnel(&mut self) -> Result<(), StreamError> {
        self.flush().await?;
        Ok(self.io.finish().await?)
    }
}

/// The way back.
pub struct Download<'a, I> {
    io: &'a I,
    reader: &'a mut Reader,
    keep_alive: &'a mut bool,
    idle: Duration,
    is_head: bool,
    length: Length,
}

impl<I: Io> upstream::Download for Download<'_, I> {
    /// [`StreamError::Closed`] with nothing received is what a connection that
    /// was closed while idle gives.
    async fn head(&mut self, head: &mut ResponseHead) -> Result<(), StreamError> {
        self.reader.timer.set(self.idle);
        self.reader.wait(self.io).await.map_err(failure)?;
        let length = self.reader.head(self.io).await.map_err(failure)?;
        let limits = self.reader.limits();
        let bytes = self.reader.held().get(..length).unwrap_or_default();
        let connection =
            parse::response(bytes, self.is_head, limits, head).map_err(|error| StreamError::Malformed(error.0))?;
        self.reader.begin_body(length, connection.framing);
        *self.keep_alive &= connection.keep_alive;
        self.length = head.length;
        Ok(())
    }
}

impl<I: Io> Source for Download<'_, I> {
    fn length(&self) -> Length {
        self.length
    }

    fn is_ready(&self) -> bool {
        self.reader.is_ready()
    }

    async fn next(&mut self) -> Result<Option<Chunk>, StreamError> {
        self.reader.next(self.io, self.idle).await
    }

    fn trailers(&mut self) -> Option<Fields> {
        self.reader.trailers()
    }

    fn follow(&mut self, pulse: Rc<Pulse>) {
        self.reader.timer.follow(pulse);
    }

    fn limit_buffer(&mut self, bytes: Option<u64>) {
        self.reader.limit_buffer(bytes);
    }

    fn set_idle(&mut self, idle: Duration) {
        self.idle = idle;
    }

    fn begin_tunnel(&mut self) {
        *self.keep_alive = false;
        self.idle = Duration::ZERO;
        self.reader.begin_tunnel();
    }
}

fn failure(error: HeadError) -> StreamError {
    match error {
        HeadError::Closed => StreamError::Closed,
        HeadError::Truncated => StreamError::Malformed("response head is cut off"),
        HeadError::TooLarge { .. } => StreamError::Malformed("response head is too large"),
        HeadError::Malformed(what) => StreamError::Malformed(what),
        HeadError::Elapsed { .. } => StreamError::Stalled,
        HeadError::Io(error) => StreamError::Io(error),
    }
}
