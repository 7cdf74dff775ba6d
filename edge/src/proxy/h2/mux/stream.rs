//! One stream, and the handles by which an exchange holds it.

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Waker};

use super::{Mux, Shared, Side};
use crate::proxy::body::{Chunk, StreamError};
use crate::proxy::buffer::Buffer;
use crate::proxy::h2::frame::{self, Code};
use crate::proxy::message::{Fields, ResponseHead};

/// Pieces of a body below this get memory of their own size instead of a pooled buffer.
const SMALL: usize = 2048;

/// Why nothing comes or goes on a stream any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// The peer reset it.
    Reset(Code),
    /// We did, for what the peer sent.
    Malformed(&'static str),
    /// The connection ended, or the peer left before it (then `processed` is false; RFC 9113 §6.8).
    Gone { processed: bool },
}

impl Failed {
    pub fn error(self) -> StreamError {
        match self {
            Self::Malformed(what) => StreamError::Malformed(what),
            Self::Reset(_) | Self::Gone { .. } => StreamError::Closed,
        }
    }

    /// `false`: the peer has said that it did not act on it (§8.7).
    pub fn was_processed(self) -> bool {
        !matches!(self, Self::Reset(Code::REFUSED_STREAM) | Self::Gone { processed: false })
    }
}

pub(super) struct Stream {
    pub id: u32,
    handles: u8,
    pub send_window: i64,
    pub recv_window: i64,
    pub recv_owed: u32,
    pub send_done: bool,
    pub recv_done: bool,
    pub failed: Option<Failed>,
    /// Where the flags of the last frame sent are, counted from the connection's first byte.
    pub flags_at: u64,
    /// A final head is sent.
    pub head_sent: bool,
    /// It waits in the connection's queue.
    pub queued: bool,
    pub queue: Queue,
    /// What is still to come by Content-Length.
    pub expected: Option<u64>,
    pub trailers: Option<Fields>,
    /// Response heads that have come.
    pub head: Option<ResponseHead>,
    pub more_heads: VecDeque<ResponseHead>,
    /// A final response head has come.
    pub head_received: bool,
    pub request_is_head: bool,
    /// The task of the exchange.
    waker: Option<Waker>,
}

impl Stream {
    pub fn new(id: u32, send_window: i64, recv_window: i64) -> Self {
        Self {
            id,
            handles: 0,
            send_window,
            recv_window,
            recv_owed: 0,
            send_done: false,
            recv_done: false,
            failed: None,
            flags_at: 0,
            head_sent: false,
            queued: false,
            queue: Queue::default(),
            expected: None,
            trailers: None,
            head: None,
            more_heads: VecDeque::new(),
            head_received: false,
            request_is_head: false,
            waker: None,
        }
    }

    pub fn park(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }

    pub fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    pub fn fail(&mut self, why: Failed) {
        self.failed.get_or_insert(why);
        self.wake();
    }
}

/// Body bytes that nobody has asked for yet. Small pieces are put together, so that it holds little beside the bytes.
#[derive(Default)]
pub(super) struct Queue {
    first: Option<Chunk>,
    more: VecDeque<Chunk>,
}

impl Queue {
    pub fn push(&mut self, mut bytes: &[u8]) {
        if let Some(last) = self.more.back_mut().or(self.first.as_mut()) {
            if let Chunk::Shared(small) = last
                && small.len() + bytes.len() <= SMALL
            {
                let mut buffer = Buffer::take();
                buffer.append(small);
                *last = Chunk::Pooled(buffer);
            }
            if let Chunk::Pooled(buffer) = last {
                let count = buffer.append(bytes);
                bytes = bytes.get(count..).unwrap_or_default();
            }
        }
        if bytes.is_empty() {
            return;
        }
        let chunk = if bytes.len() < SMALL {
            Chunk::Shared(bytes::Bytes::copy_from_slice(bytes))
        } else {
            Chunk::Pooled(Buffer::copy_of(bytes))
        };
        if self.first.is_none() { self.first = Some(chunk) } else { self.more.push_back(chunk) }
    }

    pub fn pop(&mut self) -> Option<Chunk> {
        let first = self.first.take();
        self.first = self.more.pop_front();
        first
    }

    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub fn len(&self) -> usize {
        self.first.iter().chain(&self.more).map(|chunk| chunk.as_slice().len()).sum()
    }
}

/// A hold on a stream. With the last one the stream goes, reset where it was not at its end.
pub struct Handle {
    pub(in crate::proxy::h2) mux: Shared,
    pub(in crate::proxy::h2) key: usize,
}

impl Handle {
    pub fn new(mux: &Shared, key: usize) -> Self {
        if let Some(stream) = mux.borrow_mut().streams.get_mut(key) {
            stream.handles += 1;
        }
        Self { mux: Rc::clone(mux), key }
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        Self::new(&self.mux, self.key)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.mux.borrow_mut().release_handle(self.key);
    }
}

impl Mux {
    fn release_handle(&mut self, key: usize) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.handles = stream.handles.saturating_sub(1);
        if stream.handles > 0 {
            return;
        }
        self.remove(key);
    }

    /// Takes a stream out that nobody holds.
    pub(super) fn remove(&mut self, key: usize) {
        let Some(stream) = self.streams.try_remove(key) else { return };
        self.give_back(stream.queue.len());
        if self.open.remove(&stream.id).is_some() && stream.failed.is_none() {
            let code = match self.bounds.side {
                // What was sent of the response is not all of it.
                Side::Server if !stream.send_done => Code::INTERNAL_ERROR,
                // §8.1: the response is whole, and the rest of the request is of no interest.
                Side::Server => Code::NO_ERROR,
                Side::Client => Code::CANCEL,
            };
            frame::rst_stream(&mut self.out, stream.id, code);
            self.forget(stream.id);
        }
        // Whoever is next in the queue must not wait for this one; the connection's task may have nothing left to do.
        self.wake_next();
        self.wake();
    }

    /// A stream that is closed in both directions is no longer one of the peer's.
    pub(super) fn settle(&mut self, key: usize) {
        if let Some(stream) = self.streams.get(key)
            && stream.send_done
            && stream.recv_done
        {
            self.open.remove(&stream.id);
        }
    }
}
