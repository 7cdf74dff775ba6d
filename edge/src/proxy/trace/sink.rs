//! From workers to the exporter: each worker writes spans into a buffer of its own and hands it over when it is full, or a
//! moment later. What waits is bounded in bytes; beyond that spans are dropped and counted.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::sampling::Sampler;
use super::wire;

/// A buffer is handed over when it holds this much.
const FULL: usize = 32 << 10;
/// `ScopeSpans.spans`
const SPANS: wire::Field = 2;

/// What became of spans since the start.
#[derive(Debug, Default)]
pub struct Tally {
    pub exported: AtomicU64,
    /// There was no room to wait in.
    pub dropped: AtomicU64,
    /// Nobody took them.
    pub failed: AtomicU64,
}

/// What the workers of a generation need to trace. The exporter goes on as long as one of them is there.
pub struct Tracer {
    pub sampler: Sampler,
    sender: UnboundedSender<Batch>,
    waiting: Arc<AtomicUsize>,
    most: usize,
    tally: Arc<Tally>,
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer").field("sampler", &self.sampler).finish_non_exhaustive()
    }
}

/// Spans, each as a field of `ScopeSpans`. They wait as long as this lives.
#[derive(Debug)]
pub struct Batch {
    pub bytes: Vec<u8>,
    pub count: u64,
    waiting: Arc<AtomicUsize>,
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

impl Tracer {
    /// `most`: bytes that may wait.
    pub fn new(sampler: Sampler, most: usize, tally: Arc<Tally>) -> (Self, UnboundedReceiver<Batch>) {
        let (sender, receiver) = unbounded_channel();
        (Self { sampler, sender, waiting: Arc::default(), most, tally }, receiver)
    }

    fn take(&self, bytes: Vec<u8>, count: u64) {
        let length = bytes.len();
        let drop = || self.tally.dropped.fetch_add(count, Ordering::Relaxed);
        if self.waiting.fetch_add(length, Ordering::Relaxed) + length > self.most {
            self.waiting.fetch_sub(length, Ordering::Relaxed);
            drop();
            return;
        }
        if self.sender.send(Batch { bytes, count, waiting: Arc::clone(&self.waiting) }).is_err() {
            drop();
        }
    }
}

/// The spans of one worker, and the ids that it gives.
pub struct Sink {
    tracer: Option<Arc<Tracer>>,
    spans: Vec<u8>,
    count: u64,
    /// For the one that is being written.
    span: Vec<u8>,
    /// The wall clock as it was a moment ago: every span would otherwise look at it.
    now: (Instant, SystemTime),
    ids: [u8; 512],
    unused: usize,
}

impl Default for Sink {
    fn default() -> Self {
        let now = (Instant::now(), SystemTime::now());
        Self { tracer: None, spans: Vec::new(), count: 0, span: Vec::new(), now, ids: [0; 512], unused: 0 }
    }
}

impl Sink {
    /// Goes on with the tracer of a new generation.
    pub fn adopt(&mut self, tracer: Option<&Arc<Tracer>>) {
        let is_same = match (&self.tracer, tracer) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        if !is_same {
            self.flush();
            self.tracer = tracer.cloned();
        }
    }

    /// Random bytes that are never all zero.
    pub fn id<const N: usize>(&mut self) -> [u8; N] {
        loop {
            if self.unused < N {
                SystemRandom::new().fill(&mut self.ids).expect("the kernel supplies randomness");
                self.unused = self.ids.len();
            }
            let mut id = [0; N];
            let from = self.ids.len() - self.unused;
            id.copy_from_slice(&self.ids[from..from + N]);
            self.unused -= N;
            if id != [0; N] {
                return id;
            }
        }
    }

    /// Nanoseconds since 1970.
    pub fn wall(&self, at: Instant) -> u64 {
        let (known, wall) = self.now;
        let wall = match at.checked_duration_since(known) {
            Some(after) => wall.checked_add(after),
            None => wall.checked_sub(known.duration_since(at)),
        };
        let since = wall.and_then(|wall| wall.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or_default()
    }

    /// Takes a span that `write` writes.
    pub fn span(&mut self, write: impl FnOnce(&Self, &mut Vec<u8>)) {
        if self.tracer.is_none() {
            return;
        }
        let mut span = std::mem::take(&mut self.span);
        span.clear();
        write(self, &mut span);
        wire::bytes(&mut self.spans, SPANS, &span);
        self.span = span;
        self.count += 1;
        if self.spans.len() >= FULL {
            self.flush();
        }
    }

    /// Hands over what there is; to be called now and then.
    pub fn flush(&mut self) {
        self.now = (Instant::now(), SystemTime::now());
        let Some(tracer) = self.tracer.as_ref().filter(|_| self.count > 0) else { return };
        // As much again is likely.
        let room = Vec::with_capacity(self.spans.len());
        tracer.take(std::mem::replace(&mut self.spans, room), std::mem::take(&mut self.count));
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use edge_config::settings::{ParentRule, Ratio};

    use super::*;

    fn tracer(most: usize) -> (Arc<Tracer>, UnboundedReceiver<Batch>, Arc<Tally>) {
        let tally = Arc::new(Tally::default());
        let sampler = Sampler::new(Ratio::ONE, ParentRule::Follow);
        let (tracer, receiver) = Tracer::new(sampler, most, Arc::clone(&tally));
        (Arc::new(tracer), receiver, tally)
    }

    #[test]
    fn what_waits_is_bounded() {
        let (tracer, mut receiver, tally) = tracer(100);
        let mut sink = Sink::default();
        sink.adopt(Some(&tracer));
        let one = |sink: &mut Sink| {
            sink.span(|_, out| out.extend_from_slice(&[7; 48]));
            sink.flush();
        };
        one(&mut sink);
        one(&mut sink);
        // The third finds no room until one has left.
        one(&mut sink);
        assert_eq!(tally.dropped.load(Ordering::Relaxed), 1);
        let first = receiver.try_recv().unwrap();
        assert_eq!((first.count, first.bytes.len()), (1, 50));
        one(&mut sink);
        assert_eq!(tally.dropped.load(Ordering::Relaxed), 2);
        drop(first);
        one(&mut sink);
        assert_eq!(tally.dropped.load(Ordering::Relaxed), 2);
        assert!(receiver.try_recv().is_ok() && receiver.try_recv().is_ok() && receiver.try_recv().is_err());
    }

    #[test]
    fn a_full_buffer_leaves_by_itself_and_the_rest_with_the_tracer() {
        let (tracer, mut receiver, _) = tracer(1 << 20);
        let mut sink = Sink::default();
        sink.span(|_, _| unreachable!("nobody wants it"));
        sink.adopt(Some(&tracer));
        for _ in 0..40 {
            sink.span(|_, out| out.extend_from_slice(&[7; 1000]));
        }
        let full = receiver.try_recv().unwrap();
        assert!(full.bytes.len() >= FULL && full.count == 33, "{} in {}", full.count, full.bytes.len());
        assert!(receiver.try_recv().is_err());
        sink.adopt(Some(&tracer));
        assert!(receiver.try_recv().is_err());
        sink.adopt(None);
        assert_eq!(receiver.try_recv().unwrap().count, 7);
        drop(tracer);
        assert!(receiver.blocking_recv().is_none());
    }

    #[test]
    fn ids_differ() {
        let mut sink = Sink::default();
        let ids: std::collections::BTreeSet<[u8; 16]> = (0..1000).map(|_| sink.id()).collect();
        assert_eq!(ids.len(), 1000);
    }
}
