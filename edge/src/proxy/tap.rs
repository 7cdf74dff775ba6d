//! Requests as they happen, for who looks (`edgectl tap`, `edgectl top`).
//!
//! Who looks is on a board that each worker is told of, as of challenges; the request path reads one flag of the worker's
//! own memory and does nothing more while nobody looks. Entries are those of the access log, whether there is one or
//! not. What a reader has not taken yet is bounded in bytes; what does not fit is counted and lost, never waited for.

pub mod ask;
pub mod meter;
pub mod redaction;

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, watch};

use self::ask::Ask;
use self::meter::Meter;
use self::redaction::Secrets;
use super::access_log::{Entry, Second, push_milliseconds, push_str};
use super::generation::Generation;
use super::message::Fields;

/// Bytes of lines that wait for one reader.
const ROOM: usize = 1 << 20;
/// Of one value of a field; what is longer is cut.
const LONGEST: usize = 1024;

/// Somebody who wants to see requests.
#[derive(Debug)]
pub struct Tap {
    ask: Ask,
    lines: mpsc::UnboundedSender<Bytes>,
    /// Bytes in the channel, which is what bounds it.
    held: AtomicUsize,
    lost: AtomicU64,
    /// Requests for which everything holds, for the sample.
    fitting: AtomicU64,
    /// How many were begun to be shown, up to the count.
    taken: AtomicU64,
    /// Told of lines that are lost, which nobody else says.
    loss: Notify,
}

impl Tap {
    pub fn new(ask: Ask) -> (Arc<Self>, mpsc::UnboundedReceiver<Bytes>) {
        let (lines, receive) = mpsc::unbounded_channel();
        let zero = || AtomicU64::new(0);
        let (held, loss) = (AtomicUsize::new(0), Notify::new());
        let tap = Self { ask, lines, held, lost: zero(), fitting: zero(), taken: zero(), loss };
        (Arc::new(tap), receive)
    }

    /// A line has been taken out of the channel.
    pub fn took(&self, line: &Bytes) {
        self.held.fetch_sub(line.len(), Ordering::Relaxed);
    }

    /// Lines that were lost since this was asked last.
    pub fn lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }

    /// How many requests are shown, if there is an end to it.
    pub fn count(&self) -> Option<u64> {
        self.ask.count
    }

    /// Something was lost.
    pub async fn loss(&self) {
        self.loss.notified().await;
    }

    fn wants(&self, entry: &Entry<'_>) -> bool {
        if !self.ask.holds(entry) {
            return false;
        }
        let place = self.fitting.fetch_add(1, Ordering::Relaxed);
        if !place.is_multiple_of(self.ask.sample.max(1).into()) {
            return false;
        }
        self.ask.count.is_none_or(|count| self.taken.fetch_add(1, Ordering::Relaxed) < count)
    }

    fn send(&self, line: &[u8]) {
        let held = self.held.fetch_add(line.len(), Ordering::Relaxed);
        if held + line.len() > ROOM || self.lines.send(Bytes::copy_from_slice(line)).is_err() {
            self.held.fetch_sub(line.len(), Ordering::Relaxed);
            self.lost.fetch_add(1, Ordering::Relaxed);
            self.loss.notify_one();
        }
    }
}

/// Who looks now; immutable once it is on the board.
#[derive(Debug, Clone, Default)]
pub(super) struct Open {
    revision: u64,
    taps: Vec<Arc<Tap>>,
    meters: Vec<Arc<Meter>>,
}

/// Where who looks is put.
#[derive(Debug)]
pub struct Taps {
    current: watch::Sender<Arc<Open>>,
    /// The revision that each worker knows.
    live: Vec<AtomicU64>,
    changed: Notify,
    /// Changes are made one after the other.
    writing: Mutex<()>,
}

impl Taps {
    pub fn new(workers: usize) -> Self {
        let live = (0..workers).map(|_| AtomicU64::new(0)).collect();
        Self { current: watch::Sender::default(), live, changed: Notify::new(), writing: Mutex::default() }
    }

    pub fn workers(&self) -> usize {
        self.live.len()
    }

    /// Shows every request to a tap until what is returned is dropped.
    pub fn open(self: &Arc<Self>, tap: &Arc<Tap>) -> Opened {
        let revision = self.change(|open| open.taps.push(Arc::clone(tap)));
        Opened { taps: Arc::clone(self), revision, tap: Some(Arc::clone(tap)), meter: None }
    }

    /// The same for a meter.
    pub fn measure(self: &Arc<Self>, meter: &Arc<Meter>) -> Opened {
        let revision = self.change(|open| open.meters.push(Arc::clone(meter)));
        Opened { taps: Arc::clone(self), revision, tap: None, meter: Some(Arc::clone(meter)) }
    }

    fn change(&self, change: impl FnOnce(&mut Open)) -> u64 {
        let _one_by_one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut open = (**self.current.borrow()).clone();
        open.revision += 1;
        change(&mut open);
        let revision = open.revision;
        self.current.send_replace(Arc::new(open));
        revision
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Open>> {
        let mut receiver = self.current.subscribe();
        receiver.mark_changed();
        receiver
    }

    pub(super) fn acknowledge(&self, worker: usize, open: &Open) {
        if let Some(live) = self.live.get(worker) {
            live.store(open.revision, Ordering::Release);
        }
        self.changed.notify_waiters();
    }

    async fn until_live(&self, revision: u64, patience: Duration) {
        let end = tokio::time::Instant::now() + patience;
        loop {
            let changed = self.changed.notified();
            let is_live = self.live.iter().all(|live| live.load(Ordering::Acquire) >= revision);
            let pause = end.min(tokio::time::Instant::now() + Duration::from_millis(20));
            if is_live || tokio::time::Instant::now() >= end {
                return;
            }
            // A notice may come between the look and the wait; nobody waits for long because of it.
            let _ = tokio::time::timeout_at(pause, changed).await;
        }
    }
}

/// Looks as long as it lives.
pub struct Opened {
    taps: Arc<Taps>,
    revision: u64,
    tap: Option<Arc<Tap>>,
    meter: Option<Arc<Meter>>,
}

impl Opened {
    /// Waits until every worker shows its requests; one that hangs is not waited for longer than `patience`.
    pub async fn until_live(&self, patience: Duration) {
        self.taps.until_live(self.revision, patience).await;
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.taps.change(|open| {
            open.taps.retain(|tap| self.tap.as_ref().is_none_or(|own| !Arc::ptr_eq(own, tap)));
            open.meters.retain(|meter| self.meter.as_ref().is_none_or(|own| !Arc::ptr_eq(own, meter)));
        });
    }
}

/// How long the parts of a request took, as far as it came.
#[derive(Debug, Clone, Copy, Default)]
pub struct Phases {
    /// From the request head to the last try: policies, queues, bodies that are wanted whole, connecting, other tries.
    pub before: Option<Duration>,
    /// From the response head to the end.
    pub after: Option<Duration>,
}

impl Phases {
    pub fn of(begun: Instant, sent: Option<Instant>, latency: Option<Duration>, duration: Duration) -> Self {
        let before = sent.map(|sent| sent.saturating_duration_since(begun));
        let after = before.zip(latency).map(|(before, latency)| duration.saturating_sub(before + latency));
        Self { before, after }
    }
}

/// What a worker knows of who looks.
#[derive(Default)]
pub struct Watched {
    is_any: Cell<bool>,
    open: RefCell<Arc<Open>>,
    line: RefCell<(Vec<u8>, Second)>,
    /// Of the generation with this number.
    secrets: RefCell<(u64, Secrets)>,
}

impl Watched {
    pub(super) fn take(&self, open: Arc<Open>) {
        self.is_any.set(!open.taps.is_empty() || !open.meters.is_empty());
        *self.open.borrow_mut() = open;
    }

    /// All that a request pays while nobody looks.
    #[inline]
    pub fn is_any(&self) -> bool {
        self.is_any.get()
    }

    /// Shows what happened to who looks.
    #[cold]
    pub fn show(&self, worker: usize, entry: &Entry<'_>, phases: Phases, head: Option<(&Fields, &Generation)>) {
        let open = Arc::clone(&self.open.borrow());
        for meter in &open.meters {
            meter.count(worker, entry);
        }
        for tap in open.taps.iter().filter(|tap| tap.wants(entry)) {
            let (line, second) = &mut *self.line.borrow_mut();
            line.clear();
            entry.write(line, second);
            // The end of the object and of the line.
            line.truncate(line.len().saturating_sub(2));
            for (key, phase) in [(",\"before_ms\":", phases.before), (",\"after_ms\":", phases.after)] {
                if let Some(phase) = phase {
                    line.extend_from_slice(key.as_bytes());
                    push_milliseconds(line, phase);
                }
            }
            if let Some((fields, generation)) = head.filter(|_| !tap.ask.headers.is_empty()) {
                self.headers(line, &tap.ask.headers, fields, generation);
            }
            line.extend_from_slice(b"}\n");
            tap.send(line);
        }
    }

    /// As they were when the exchange ended: with what filters did to them.
    fn headers(&self, line: &mut Vec<u8>, wanted: &[String], fields: &Fields, generation: &Generation) {
        let mut secrets = self.secrets.borrow_mut();
        if secrets.0 != generation.number {
            *secrets = (generation.number, Secrets::of(&generation.snapshot));
        }
        line.extend_from_slice(b",\"headers\":[");
        let mut is_first = true;
        for name in wanted {
            for value in fields.all(name.as_bytes()) {
                line.extend_from_slice(if is_first { b"[" } else { b",[" });
                is_first = false;
                push_str(line, name.as_bytes());
                line.push(b',');
                let shown = if secrets.1.has(name) { b"[redacted]" } else { &value[..value.len().min(LONGEST)] };
                push_str(line, shown);
                line.push(b']');
            }
        }
        line.push(b']');
    }
}

#[cfg(test)]
mod tests;
