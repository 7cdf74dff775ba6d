//! Bandwidth: bodies are passed on no faster than a rule's limit, all its requests of this edge together. Nothing is
//! buffered for it: what is not passed on is not read.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::bucket::stream;
use super::table::Bucket;
use crate::proxy::body::Chunk;
use crate::proxy::clock::Timer;
use crate::proxy::worker::Worker;

/// What was not used for so long may be made up for.
const BURST: Duration = Duration::from_secs(1);
/// A part of a second's bytes is passed on at a time, so that slow streams move evenly.
const PARTS: u64 = 10;
const LEAST_PIECE: u64 = 512;

pub struct Throttle {
    worker: Rc<Worker>,
    bucket: Arc<Bucket>,
    /// Bytes per second.
    rate: u64,
    timer: Timer,
    /// How long it made its stream wait.
    waited: Cell<Duration>,
}

impl Throttle {
    pub fn new(worker: &Rc<Worker>, bucket: Arc<Bucket>, rate: u64) -> Self {
        let timer = worker.clock.timer();
        Self { worker: Rc::clone(worker), bucket, rate, timer, waited: Cell::default() }
    }

    pub fn waited(&self) -> Duration {
        self.waited.get()
    }

    /// How much of a stream is passed on at once.
    pub fn piece(&self) -> usize {
        usize::try_from((self.rate / PARTS).max(LEAST_PIECE)).unwrap_or(usize::MAX)
    }

    /// Waits until so many bytes may be passed on.
    pub async fn pass(&self, bytes: usize) {
        let now = self.worker.ledger().now();
        let wait = stream(&self.bucket.level, bytes as u64, self.rate, BURST, now);
        if wait.is_zero() {
            return;
        }
        self.waited.set(self.waited.get().saturating_add(wait));
        let _ = self.timer.within(wait, std::future::pending::<()>()).await;
    }
}

/// A chunk in pieces of at most so many bytes.
pub fn pieces(chunk: Chunk, most: usize) -> impl Iterator<Item = Chunk> {
    let (whole, mut rest) = match chunk {
        chunk if chunk.as_slice().len() <= most => (Some(chunk), bytes::Bytes::new()),
        Chunk::Shared(bytes) => (None, bytes),
        Chunk::Pooled(buffer) => (None, bytes::Bytes::copy_from_slice(buffer.as_slice())),
    };
    let pieces = std::iter::from_fn(move || {
        (!rest.is_empty()).then(|| Chunk::Shared(rest.split_to(most.max(1).min(rest.len()))))
    });
    whole.into_iter().chain(pieces)
}
