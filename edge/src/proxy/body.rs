//! How bodies travel: a [`Source`] gives chunks, a [`Sink`] takes them. Each protocol has one of each, and an exchange
//! pumps between any two without knowing which. Nothing is buffered beyond the chunk in hand.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use super::buffer::Buffer;
use super::clock::Pulse;
use super::message::{Fields, Length, ResponseHead};

/// Body bytes on their way. Never empty.
#[derive(Debug)]
pub enum Chunk {
    /// Memory of this worker; it goes back to the worker's pool when dropped.
    Pooled(Buffer),
    /// A frame from an HTTP/2 connection, or a body that Edge made.
    Shared(Bytes),
}

impl Chunk {
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Pooled(buffer) => buffer.as_slice(),
            Self::Shared(bytes) => bytes,
        }
    }
}

/// Why a body, or a whole exchange, ended early; the side is known from where it happened.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The bytes break the protocol; the connection is of no further use.
    #[error("malformed message: {0}")]
    Malformed(&'static str),
    /// The peer closed or reset before the end.
    #[error("closed before the end")]
    Closed,
    #[error("nothing moved for too long")]
    Stalled,
    /// Something moves, and too little.
    #[error("slower than the least rate")]
    TooSlow,
    /// More bytes than a body may have.
    #[error("larger than it may be")]
    TooLarge,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Where body bytes come from: a downstream request or an upstream response.
pub trait Source {
    fn length(&self) -> Length;

    /// Whether [`next`](Self::next) would return without waiting for the peer.
    fn is_ready(&self) -> bool;

    /// The next bytes, or `None` at the proven end of the body. Every wait has a deadline inside.
    async fn next(&mut self) -> Result<Option<Chunk>, StreamError>;

    /// Trailer fields, once `next` has returned `None`.
    fn trailers(&mut self) -> Option<Fields>;

    /// What both directions of the exchange share, so that a wait in one is not cut while the other moves.
    fn pulse(&self) -> Option<Rc<Pulse>> {
        None
    }

    fn follow(&mut self, _pulse: Rc<Pulse>) {}

    /// Holds no more than about this many bytes at once from now on, as far as the protocol lets us choose: HTTP/1.1 reads
    /// in small buffers below 64 KiB, never smaller than 16 KiB; HTTP/2 has its flow-control windows.
    fn limit_buffer(&mut self, _bytes: Option<u64>) {}

    /// How long each wait is from now on; zero is without end.
    fn set_idle(&mut self, _idle: Duration) {}

    /// After a 101: `next` gives bytes as they come up to the peer's end, and waits without a deadline of its own.
    /// Only what can be upgraded (HTTP/1.1) has a use for it.
    fn begin_tunnel(&mut self) {}
}

/// How a client goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// It sends no more; it may still wait for its answer.
    Perhaps,
    Gone,
}

/// Where a response goes to.
pub trait Sink {
    /// Sends an interim (1xx) response at once. HTTP/1.0 clients get none.
    async fn interim(&mut self, head: &ResponseHead) -> Result<(), StreamError>;

    /// Takes the head; it need not leave before the first chunk, `flush` or `finish`. `head.length` says what follows.
    /// After a 101, `chunk` sends bytes as they are and `finish` ends our direction.
    async fn head(&mut self, head: &ResponseHead) -> Result<(), StreamError>;

    async fn chunk(&mut self, chunk: Chunk) -> Result<(), StreamError>;

    /// Sends what is held back, because the source is going to wait.
    async fn flush(&mut self) -> Result<(), StreamError>;

    /// Ready at a sign that the client goes away; takes no byte. HTTP/2 tells by resetting the stream.
    fn poll_leaving(&mut self, _cx: &mut Context<'_>) -> Poll<Leaving> {
        Poll::Pending
    }

    /// Waits until it has gone beyond doubt.
    async fn gone(&mut self) {
        std::future::pending().await
    }

    /// Nothing more is to be read from this client: its connection ends with the response, where it carries one request
    /// at a time.
    fn close(&mut self) {}

    /// How long each wait is from now on; zero is without end.
    fn set_idle(&mut self, _idle: Duration) {}

    /// Ends the body properly. A sink that is dropped instead makes the truncation visible to the client.
    async fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), StreamError>;
}
