//! Counters of the data plane. A worker counts into series of its own; whoever scrapes reads all workers' and adds up.
//!
//! Nothing is shared on the request path: a counter has one writer, which loads and stores it relaxed, and that compiles to
//! plain moves. Series belong to listeners, ports, routes and upstreams of the current snapshot and are kept across
//! generations by name; what a snapshot no longer has is no longer reported. There is no series per route *and* backend:
//! the number grows with the sum of objects, never with a product.
//!
//! Standards: Prometheus text format 0.0.4 and OpenMetrics 1.0, Prometheus naming (base units, `_total`).

mod render;
mod sample;
mod series;
mod text;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use edge_config::policy::Coding;
use edge_config::snapshot::Snapshot;

use super::reason::Reason;

pub use render::{render, write};
pub use sample::{Asked, Buckets, Connections, Sample, Served};
pub use series::{
    Handshake, LimitLabel, LimitSeries, ListenerLabel, ListenerSeries, ObjectLabel, PortLabel, PortSeries, RouteSeries,
    Series, UdpDrop, UpstreamLabel, UpstreamSeries,
};
pub use text::{Format, MetricType, Text};

/// A number that one thread counts up and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        // One writer: no read-modify-write is needed, and nothing is ordered by a counter.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    pub fn one(&self) {
        self.add(1);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Responses by the first digit of their status.
#[derive(Debug, Default)]
pub struct Classes([Counter; 5]);

impl Classes {
    pub const LABELS: [&'static str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

    /// Statuses outside 100..=599 are not counted; the decoders refuse them.
    pub fn count(&self, status: u16) {
        if let Some(class) = usize::from(status / 100).checked_sub(1).and_then(|class| self.0.get(class)) {
            class.one();
        }
    }

    pub(crate) fn values(&self) -> [u64; 5] {
        std::array::from_fn(|class| self.0[class].value())
    }
}

/// How long something took.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Not cumulative; the last one is beyond all bounds.
    buckets: [Counter; Histogram::BOUNDS.len() + 1],
    micros: Counter,
}

impl Histogram {
    /// Upper bounds in microseconds, inclusive, and how they are written in seconds.
    pub const BOUNDS: [(u64, &'static str); 16] = [
        (500, "0.0005"),
        (1_000, "0.001"),
        (2_500, "0.0025"),
        (5_000, "0.005"),
        (10_000, "0.01"),
        (25_000, "0.025"),
        (50_000, "0.05"),
        (100_000, "0.1"),
        (250_000, "0.25"),
        (500_000, "0.5"),
        (1_000_000, "1.0"),
        (2_500_000, "2.5"),
        (5_000_000, "5.0"),
        (10_000_000, "10.0"),
        (30_000_000, "30.0"),
        (60_000_000, "60.0"),
    ];

    pub fn observe(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = Self::BOUNDS.partition_point(|(bound, _)| *bound < micros);
        self.buckets[bucket].one();
        self.micros.add(micros);
    }
}

/// All counters of one worker.
#[derive(Debug, Default)]
pub struct WorkerMetrics {
    /// Replaced by the worker with each generation; locked by it then and by a scrape only.
    series: Mutex<Arc<Series>>,
    /// Of the newest generation that was prepared, which the worker has taken up or soon will.
    newest: Mutex<Arc<Series>>,
    reasons: Reasons,
    /// Generations that this worker has taken up.
    pub generations: Counter,
    /// Panics that cost a connection.
    pub panics: Counter,
    pub compression: Compression,
    /// Requests that CSRF judged: invalid ones, then valid ones.
    csrf: [Counter; 2],
    /// Of all workers, as the last one that looked has seen it.
    crowded: AtomicU64,
}

/// Bodies that were coded for clients.
#[derive(Debug, Default)]
pub struct Compression {
    codings: [CodingCounters; Coding::ALL.len()],
    /// Sent as they are, because there was no memory for one more encoder.
    pub skipped: Counter,
}

#[derive(Debug, Default)]
pub struct CodingCounters {
    pub responses: Counter,
    pub bytes_in: Counter,
    pub bytes_out: Counter,
}

impl Compression {
    pub fn of(&self, coding: Coding) -> &CodingCounters {
        let [gzip, brotli, zstd] = &self.codings;
        match coding {
            Coding::Gzip => gzip,
            Coding::Brotli => brotli,
            Coding::Zstd => zstd,
        }
    }
}

/// By [`Reason::index`].
#[derive(Debug)]
struct Reasons([Counter; Reason::COUNT]);

impl Default for Reasons {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl WorkerMetrics {
    /// Counts a request that CSRF judged.
    pub fn csrf(&self, is_valid: bool) {
        self.csrf[usize::from(is_valid)].one();
    }

    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The series of a generation to come, with the counts so far of everything that is there now. They are made
    /// beside the worker: with thousands of routes it would be busy with them for milliseconds.
    pub fn prepare(&self, snapshot: &Snapshot) -> Arc<Series> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Arc::new(Series::of(snapshot, &newest));
        *newest = Arc::clone(&next);
        next
    }

    /// Takes up a generation with the series made for it. The worker keeps them beside the snapshot, so that indices
    /// fit.
    pub fn adopt(&self, series: &Arc<Series>) {
        *self.series.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(series);
        self.generations.one();
    }

    /// Counts something that Edge itself answered or ended.
    pub fn count(&self, reason: Reason) {
        if let Some(counter) = self.reasons.0.get(reason.index()) {
            counter.one();
        }
    }

    /// How many requests shared a bucket for want of a place for their client.
    pub fn saw_crowded(&self, count: u64) {
        self.crowded.store(count, Ordering::Relaxed);
    }

    fn current(&self) -> Arc<Series> {
        Arc::clone(&self.series.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests;
