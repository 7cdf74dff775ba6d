//! Bodies on HTTP/2 streams: [`Inbound`] is the `Source` of both sides, [`Outbound`] sends, [`Responder`] is the `Sink`
//! of a request.
//!
//! Flow control is the back-pressure: what was received is given back to the peer's window when the next chunk is asked
//! for, and nothing is sent before the stream's window has room. Every wait ends with the stream idle timeout.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};

use super::convert;
use crate::proxy::body::{Chunk, Sink, Source, StreamError};
use crate::proxy::buffer::Buffer;
use crate::proxy::clock::{Pulse, Timer};
use crate::proxy::h1::parse::HeadLimits;
use crate::proxy::message::{Fields, Length, ResponseHead};

/// Body bytes that h2 holds until they are sent, without a copy.
pub enum Data {
    Pooled(Buffer),
    Shared(Bytes),
}

impl From<Chunk> for Data {
    fn from(chunk: Chunk) -> Self {
        match chunk {
            Chunk::Pooled(buffer) => Self::Pooled(buffer),
            Chunk::Shared(bytes) => Self::Shared(bytes),
        }
    }
}

impl Buf for Data {
    fn remaining(&self) -> usize {
        self.chunk().len()
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Pooled(buffer) => buffer.as_slice(),
            Self::Shared(bytes) => bytes,
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Pooled(buffer) => buffer.advance(count),
            Self::Shared(bytes) => bytes.advance(count),
        }
    }
}

/// What a failed stream means to an exchange.
pub(super) fn failure(error: h2::Error) -> StreamError {
    if error.is_io() {
        return error.into_io().map_or(StreamError::Closed, StreamError::Io);
    }
    // Found here, not told by the peer: the peer broke the protocol, such as by a body that is not Content-Length long.
    if error.is_library() { StreamError::Malformed("http2_stream") } else { StreamError::Closed }
}

/// A body that comes in: a downstream request's or an upstream response's.
pub struct Inbound {
    stream: RefCell<RecvStream>,
    /// The next frame, where [`Source::is_ready`] had to look.
    seen: RefCell<Option<Option<Result<Bytes, h2::Error>>>>,
    length: Length,
    /// Given out and not yet given back to the window.
    held: usize,
    ended: Cell<bool>,
    trailers: Option<Fields>,
    /// The client waits for a 100 before it sends the body (RFC 9110 §10.1.1).
    continues: Option<Rc<RefCell<Reply>>>,
    timer: Timer,
    idle: Duration,
    limits: HeadLimits,
}

impl Inbound {
    pub(super) fn new(stream: RecvStream, length: Length, timer: Timer, idle: Duration, limits: HeadLimits) -> Self {
        Self {
            ended: Cell::new(stream.is_end_stream() && length == Length::None),
            stream: RefCell::new(stream),
            seen: RefCell::new(None),
            length,
            held: 0,
            trailers: None,
            continues: None,
            timer,
            idle,
            limits,
        }
    }

    /// A 100 is sent as soon as somebody wants the body.
    pub(super) fn owe_continue(&mut self, reply: Rc<RefCell<Reply>>) {
        self.continues = Some(reply);
    }

    async fn frame(&mut self) -> Result<Option<Bytes>, StreamError> {
        let seen = self.seen.get_mut().take();
        let frame = match seen {
            Some(frame) => frame,
            None => {
                let stream = self.stream.get_mut();
                let frame = self.timer.within(self.idle, std::future::poll_fn(|cx| stream.poll_data(cx)));
                frame.await.map_err(|_| StreamError::Stalled)?
            }
        };
        frame.transpose().map_err(failure)
    }
}

impl Source for Inbound {
    fn pulse(&self) -> Option<Rc<Pulse>> {
        self.timer.pulse()
    }

    fn length(&self) -> Length {
        self.length
    }

    fn is_ready(&self) -> bool {
        let mut seen = self.seen.borrow_mut();
        if self.ended.get() || seen.is_some() {
            return true;
        }
        match self.stream.borrow_mut().poll_data(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(frame) => {
                *seen = Some(frame);
                true
            }
            Poll::Pending => false,
        }
    }

    async fn next(&mut self) -> Result<Option<Chunk>, StreamError> {
        let held = std::mem::take(&mut self.held);
        if held > 0 {
            self.stream.get_mut().flow_control().release_capacity(held).map_err(failure)?;
        }
        if self.ended.get() {
            return Ok(None);
        }
        if let Some(reply) = self.continues.take()
            && !self.is_ready()
            && let Reply::Waiting(reply) = &mut *reply.borrow_mut()
        {
            let mut go_on = http::Response::new(());
            *go_on.status_mut() = http::StatusCode::CONTINUE;
            reply.send_informational(go_on).map_err(failure)?;
        }
        while let Some(bytes) = self.frame().await? {
            if !bytes.is_empty() {
                self.held = bytes.len();
                return Ok(Some(Chunk::Shared(bytes)));
            }
        }
        let stream = self.stream.get_mut();
        let trailers = self.timer.within(self.idle, std::future::poll_fn(|cx| stream.poll_trailers(cx)));
        if let Some(trailers) = trailers.await.map_err(|_| StreamError::Stalled)?.map_err(failure)? {
            let mut fields = Fields::default();
            convert::trailers(&trailers, self.limits, &mut fields).map_err(StreamError::Malformed)?;
            self.trailers = Some(fields);
        }
        self.ended.set(true);
        Ok(None)
    }

    fn trailers(&mut self) -> Option<Fields> {
        self.trailers.take()
    }
}

/// A body that goes out: an upstream request's, and the inside of [`Responder`].
pub struct Outbound {
    stream: SendStream<Data>,
    /// END_STREAM is sent, or the stream is reset.
    done: bool,
}

impl Outbound {
    /// `done`: the head ended the stream.
    pub(super) fn new(stream: SendStream<Data>, done: bool) -> Self {
        Self { stream, done }
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.done { Poll::Pending } else { self.stream.poll_reset(cx).map(drop) }
    }

    pub(super) fn send(&mut self, chunk: Chunk) -> Result<(), StreamError> {
        self.stream.send_data(chunk.into(), false).map_err(failure)
    }

    /// Ends the stream.
    pub(super) fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), StreamError> {
        if self.done {
            return Ok(());
        }
        match trailers.filter(|trailers| !trailers.is_empty()) {
            Some(trailers) => {
                let trailers = convert::to_trailers(trailers).map_err(|_| StreamError::Malformed("trailers"))?;
                self.stream.reserve_capacity(0);
                self.stream.send_trailers(trailers).map_err(failure)?;
            }
            None => self.stream.send_data(Data::Shared(Bytes::new()), true).map_err(failure)?,
        }
        self.done = true;
        Ok(())
    }

    /// Waits until the window has room for some of a chunk; h2 holds the rest, at most this one chunk.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.stream.reserve_capacity(1);
        while self.stream.capacity() == 0 {
            match std::task::ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(failure(error))),
                None => return Poll::Ready(Err(StreamError::Closed)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        if !self.done {
            // What was sent of the message is not all of it.
            self.stream.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}

/// The state of a response, shared with the task that watches for the client's reset.
pub(super) enum Reply {
    Waiting(SendResponse<Data>),
    Sending(Outbound),
    Over,
}

impl Reply {
    /// Ready when the client has no interest in the rest any more.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Waiting(reply) => reply.poll_reset(cx).map(drop),
            Self::Sending(body) => body.poll_reset(cx),
            Self::Over => Poll::Pending,
        }
    }
}

/// Where the response to one request goes. The head waits for the first chunk, so that a message without a body is one
/// frame.
pub struct Responder {
    reply: Rc<RefCell<Reply>>,
    waiting: Option<http::Response<()>>,
    timer: Timer,
    idle: Duration,
    request_is_head: bool,
    bodiless: bool,
}

impl Responder {
    pub(super) fn new(reply: Rc<RefCell<Reply>>, timer: Timer, idle: Duration, request_is_head: bool) -> Self {
        Self { reply, waiting: None, timer, idle, request_is_head, bodiless: false }
    }

    fn send_head(&mut self, end: bool) -> Result<(), StreamError> {
        let Some(head) = self.waiting.take() else { return Ok(()) };
        let mut reply = self.reply.borrow_mut();
        let Reply::Waiting(waiting) = &mut *reply else { return Err(StreamError::Closed) };
        let stream = waiting.send_response(head, end).map_err(failure)?;
        *reply = Reply::Sending(Outbound::new(stream, end));
        Ok(())
    }
}

impl Sink for Responder {
    async fn interim(&mut self, head: &ResponseHead) -> Result<(), StreamError> {
        let head = convert::to_response(head).map_err(|_| StreamError::Malformed("interim response"))?;
        match &mut *self.reply.borrow_mut() {
            Reply::Waiting(reply) => reply.send_informational(head).map_err(failure),
            _ => Err(StreamError::Closed),
        }
    }

    async fn head(&mut self, head: &ResponseHead) -> Result<(), StreamError> {
        self.bodiless = head.is_bodiless(self.request_is_head);
        self.waiting = Some(convert::to_response(head).map_err(|_| StreamError::Malformed("response head"))?);
        Ok(())
    }

    async fn chunk(&mut self, chunk: Chunk) -> Result<(), StreamError> {
        self.send_head(false)?;
        if self.bodiless {
            return Ok(());
        }
        let room = std::future::poll_fn(|cx| match &mut *self.reply.borrow_mut() {
            Reply::Sending(body) => body.poll_room(cx),
            _ => Poll::Ready(Err(StreamError::Closed)),
        });
        self.timer.within(self.idle, room).await.map_err(|_| StreamError::Stalled)??;
        match &mut *self.reply.borrow_mut() {
            Reply::Sending(body) => body.send(chunk),
            _ => Err(StreamError::Closed),
        }
    }

    async fn flush(&mut self) -> Result<(), StreamError> {
        // Frames leave at the end of the turn by themselves; only a head without a chunk is still here.
        self.send_head(false)
    }

    async fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), StreamError> {
        let end = self.bodiless || trailers.is_none_or(Fields::is_empty);
        self.send_head(end)?;
        let mut reply = self.reply.borrow_mut();
        let result = match &mut *reply {
            Reply::Sending(body) => body.finish(trailers),
            _ => Err(StreamError::Closed),
        };
        if result.is_ok() {
            *reply = Reply::Over;
        }
        result
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        match std::mem::replace(&mut *self.reply.borrow_mut(), Reply::Over) {
            Reply::Waiting(mut reply) => reply.send_reset(Reason::INTERNAL_ERROR),
            // A body without its end resets its stream when it is dropped.
            Reply::Sending(_) | Reply::Over => {}
        }
    }
}
