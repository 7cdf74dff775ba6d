//! Bodies on HTTP/2 streams: [`Inbound`] is the `Source` of both sides, [`Responder`] the `Sink` of a request.
//!
//! Flow control is the back-pressure: what was received is given back to the peer's window when the next chunk is asked
//! for, and nothing is taken to be sent before there is room. Every wait ends with the stream idle timeout; a message
//! that is here already waits for nothing and has no timer.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::mux::stream::Handle;
use crate::proxy::body::{Chunk, Sink, Source, StreamError};
use crate::proxy::clock::{Clock, Pulse, Timer};
use crate::proxy::message::{Fields, Length, ResponseHead};

/// Waits on a stream, each for so long at most.
pub struct Patience {
    clock: Rc<Clock>,
    idle: Duration,
    timer: Option<Timer>,
    pulse: Option<Rc<Pulse>>,
}

impl Patience {
    pub fn new(clock: &Rc<Clock>, idle: Duration) -> Self {
        Self { clock: Rc::clone(clock), idle, timer: None, pulse: None }
    }

    pub fn set_idle(&mut self, idle: Duration) {
        self.idle = idle;
    }

    pub fn follow(&mut self, pulse: Rc<Pulse>) {
        if let Some(timer) = &self.timer {
            timer.follow(Rc::clone(&pulse));
        }
        self.pulse = Some(pulse);
    }

    pub fn pulse(&self) -> Option<Rc<Pulse>> {
        self.pulse.clone()
    }

    /// Waits, with a timer from the moment that there is something to wait for.
    pub async fn until<T>(&mut self, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Result<T, StreamError> {
        if let Poll::Ready(ready) = std::future::poll_fn(|cx| Poll::Ready(poll(cx))).await {
            return Ok(ready);
        }
        let timer = self.timer.get_or_insert_with(|| {
            let timer = self.clock.timer();
            if let Some(pulse) = &self.pulse {
                timer.follow(Rc::clone(pulse));
            }
            timer
        });
        timer.within(self.idle, std::future::poll_fn(poll)).await.map_err(|_| StreamError::Stalled)
    }
}

/// A body that comes in: a downstream request's or an upstream response's.
pub struct Inbound {
    stream: Handle,
    length: Length,
    /// Given out and not yet given back to the window.
    held: usize,
    ended: bool,
    trailers: Option<Fields>,
    /// The client waits for a 100 before it sends the body (RFC 9110 §10.1.1).
    owes_continue: bool,
    patience: Patience,
}

impl Inbound {
    /// `ended`: the head was the end.
    pub(super) fn new(stream: Handle, length: Length, ended: bool, patience: Patience) -> Self {
        Self { stream, length, held: 0, ended, trailers: None, owes_continue: false, patience }
    }

    /// A 100 is sent as soon as somebody wants the body.
    pub(super) fn owe_continue(&mut self) {
        self.owes_continue = true;
    }
}

impl Source for Inbound {
    fn pulse(&self) -> Option<Rc<Pulse>> {
        self.patience.pulse()
    }

    fn length(&self) -> Length {
        self.length
    }

    fn is_ready(&self) -> bool {
        self.ended || self.stream.mux.borrow().is_ready(self.stream.key)
    }

    async fn next(&mut self) -> Result<Option<Chunk>, StreamError> {
        if self.ended {
            return Ok(None);
        }
        let Handle { mux, key } = &self.stream;
        let held = std::mem::take(&mut self.held);
        if held > 0 {
            mux.borrow_mut().consumed(*key, held);
        }
        if std::mem::take(&mut self.owes_continue) {
            let mut mux = mux.borrow_mut();
            if !mux.is_ready(*key) && !mux.is_head_sent(*key) {
                mux.send_head(*key, &ResponseHead { status: 100, ..ResponseHead::default() }, false)?;
            }
        }
        let chunk = self.patience.until(|cx| mux.borrow_mut().poll_chunk(*key, cx)).await??;
        match &chunk {
            Some(chunk) => self.held = chunk.as_slice().len(),
            None => {
                self.trailers = mux.borrow_mut().take_trailers(*key);
                self.ended = true;
            }
        }
        Ok(chunk)
    }

    fn trailers(&mut self) -> Option<Fields> {
        self.trailers.take()
    }

    fn set_idle(&mut self, idle: Duration) {
        self.patience.set_idle(idle);
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        // What is dropped was consumed, too: other streams live from the connection's window.
        if self.held > 0 {
            self.stream.mux.borrow_mut().consumed(self.stream.key, self.held);
        }
    }
}

/// A body that goes out: an upstream request's, and the inside of [`Responder`].
pub struct Outbound {
    stream: Handle,
    patience: Patience,
}

impl Outbound {
    pub(super) fn new(stream: Handle, patience: Patience) -> Self {
        Self { stream, patience }
    }

    pub(super) async fn chunk(&mut self, chunk: Chunk) -> Result<(), StreamError> {
        let Handle { mux, key } = &self.stream;
        let mut rest = chunk.as_slice();
        while !rest.is_empty() {
            let count = self.patience.until(|cx| mux.borrow_mut().poll_send(*key, cx, rest)).await??;
            rest = rest.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    pub(super) fn set_idle(&mut self, idle: Duration) {
        self.patience.set_idle(idle);
    }

    pub(super) fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), StreamError> {
        self.stream.mux.borrow_mut().finish(self.stream.key, trailers)
    }
}

/// Where the response to one request goes. A message without a body is one frame.
pub struct Responder {
    body: Outbound,
    request_is_head: bool,
    /// The head was the end.
    ended: bool,
}

impl Responder {
    pub(super) fn new(stream: Handle, patience: Patience, request_is_head: bool) -> Self {
        Self { body: Outbound::new(stream, patience), request_is_head, ended: false }
    }

    async fn send_head(&mut self, head: &ResponseHead, ends: bool) -> Result<(), StreamError> {
        let Handle { mux, key } = &self.body.stream;
        self.body.patience.until(|cx| mux.borrow_mut().poll_room(*key, cx)).await??;
        mux.borrow_mut().send_head(*key, head, ends)
    }
}

impl Sink for Responder {
    async fn interim(&mut self, head: &ResponseHead) -> Result<(), StreamError> {
        self.send_head(head, false).await
    }

    async fn head(&mut self, head: &ResponseHead) -> Result<(), StreamError> {
        let ends = head.length == Length::None || head.is_bodiless(self.request_is_head);
        self.send_head(head, ends).await?;
        self.ended = ends;
        Ok(())
    }

    async fn chunk(&mut self, chunk: Chunk) -> Result<(), StreamError> {
        if self.ended { Ok(()) } else { self.body.chunk(chunk).await }
    }

    fn set_idle(&mut self, idle: Duration) {
        self.body.set_idle(idle);
    }

    async fn flush(&mut self) -> Result<(), StreamError> {
        // Frames leave at the end of the turn by themselves.
        Ok(())
    }

    async fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), StreamError> {
        if self.ended { Ok(()) } else { self.body.finish(trailers) }
    }
}
