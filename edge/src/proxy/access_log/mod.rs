//! The access log: one JSON line per request, and per connection or session below HTTP.
//!
//! A worker formats an [`Entry`] into a buffer of its own ([`Sink`]); full buffers go to a writer thread through a bounded
//! channel. When that is full, lines are dropped and counted: the log never holds up traffic, and a stuck disk costs
//! lines, not memory. The query of a URL is not logged, since clients put secrets there.

mod json;
mod line;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use json::Second;
pub(in crate::proxy) use json::{push_milliseconds, push_str};
pub use line::{Entry, RuleOf, TlsOf};

/// A buffer is handed over when it holds this much.
const FULL: usize = 64 * 1024;
/// For the line that fills it; a longer one makes the buffer grow.
const ROOM: usize = 4096;
/// Full buffers that may wait for the writer: 4 MiB.
const WAITING: usize = 64;
/// Empty buffers that are kept for reuse.
const SPARE: usize = 8;
/// How often a worker hands over what it has.
pub const FLUSH_INTERVAL: Duration = Duration::from_millis(200);
/// How often the writer looks whether it shall reopen its file, and repeats a complaint.
const LOOK: Duration = Duration::from_millis(250);
const COMPLAIN: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    Stdout,
    File(PathBuf),
}

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("access log {}: cannot be opened for appending", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("access log: the writer thread cannot be started")]
    Thread(#[source] io::Error),
}

/// The writer thread. When all sinks and this are gone, it writes what it has and ends.
#[derive(Debug)]
pub struct AccessLog {
    shared: Arc<Shared>,
    full: SyncSender<Lines>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    reopen: AtomicBool,
    dropped: AtomicU64,
    spare: Mutex<Vec<Vec<u8>>>,
}

#[derive(Debug)]
struct Lines {
    bytes: Vec<u8>,
    count: u64,
}

impl AccessLog {
    pub fn start(destination: Destination) -> Result<Self, LogError> {
        let output = Output::open(&destination)?;
        let shared = Arc::new(Shared::default());
        let (full, lines) = sync_channel(WAITING);
        let mut writer =
            Writer { destination, output: Some(output), shared: Arc::clone(&shared), complained: None, lost: 0 };
        let thread = std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || writer.run(&lines))
            .map_err(LogError::Thread)?;
        Ok(Self { shared, full, thread })
    }

    /// A place for the lines of one worker.
    pub fn sink(&self) -> Sink {
        Sink {
            buffer: Vec::with_capacity(FULL + ROOM),
            count: 0,
            second: Second::default(),
            now: (Instant::now(), SystemTime::now()),
            full: self.full.clone(),
            shared: Arc::clone(&self.shared),
        }
    }

    /// Asks the writer to open its file anew, after it was moved away.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Relaxed);
    }

    /// Lines that were lost since the start.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// The same count for whoever outlives this value's owner, such as the metrics page.
    pub fn dropped_counter(&self) -> impl Fn() -> u64 + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move || shared.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all is written. The sinks must be gone.
    pub fn close(self) {
        drop(self.full);
        if self.thread.join().is_err() {
            tracing::error!("the access log's writer thread panicked");
        }
    }
}

/// Collects the lines of one worker. Dropping it hands over what it holds.
#[derive(Debug)]
pub struct Sink {
    buffer: Vec<u8>,
    count: u64,
    second: Second,
    /// The wall clock as it was a moment ago: every line would otherwise look at it.
    now: (Instant, SystemTime),
    full: SyncSender<Lines>,
    shared: Arc<Shared>,
}

impl Sink {
    pub fn record(&mut self, entry: &Entry<'_>) {
        entry.write(&mut self.buffer, &mut self.second);
        self.count += 1;
        if self.buffer.len() >= FULL {
            self.flush();
        }
    }

    /// When something happened, by the wall clock.
    pub fn wall(&self, at: Instant) -> SystemTime {
        let (known, wall) = self.now;
        match at.checked_duration_since(known) {
            Some(after) => wall.checked_add(after),
            None => wall.checked_sub(known.duration_since(at)),
        }
        .unwrap_or(UNIX_EPOCH)
    }

    /// Hands over what there is; to be called every [`FLUSH_INTERVAL`].
    pub fn flush(&mut self) {
        self.now = (Instant::now(), SystemTime::now());
        if self.buffer.is_empty() {
            return;
        }
        // A lock that is taken right now is not worth waiting for.
        let spare = self.shared.spare.try_lock().ok().and_then(|mut spare| spare.pop());
        let empty = spare.unwrap_or_else(|| Vec::with_capacity(FULL + ROOM));
        let lines = Lines { bytes: std::mem::replace(&mut self.buffer, empty), count: std::mem::take(&mut self.count) };
        if let Err(TrySendError::Full(lines) | TrySendError::Disconnected(lines)) = self.full.try_send(lines) {
            self.shared.dropped.fetch_add(lines.count, Ordering::Relaxed);
            self.buffer = lines.bytes;
            self.buffer.clear();
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.flush();
    }
}

enum Output {
    Stdout(io::Stdout),
    File(File),
}

impl Output {
    fn open(destination: &Destination) -> Result<Self, LogError> {
        match destination {
            Destination::Stdout => Ok(Self::Stdout(io::stdout())),
            Destination::File(path) => OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o640)
                .open(path)
                .map(Self::File)
                .map_err(|source| LogError::Open { path: path.clone(), source }),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout(stdout) => {
                let mut stdout = stdout.lock();
                stdout.write_all(bytes)?;
                stdout.flush()
            }
            Self::File(file) => file.write_all(bytes),
        }
    }
}

struct Writer {
    destination: Destination,
    /// `None` after the file could not be opened or written: every buffer tries again.
    output: Option<Output>,
    shared: Arc<Shared>,
    complained: Option<Instant>,
    /// Since the last complaint.
    lost: u64,
}

impl Writer {
    fn run(&mut self, lines: &Receiver<Lines>) {
        use std::sync::mpsc::RecvTimeoutError;
        loop {
            let received = lines.recv_timeout(LOOK);
            if self.shared.reopen.swap(false, Ordering::Relaxed) {
                self.output = None;
                self.ready();
            }
            match received {
                Ok(lines) => self.write(lines),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn write(&mut self, mut lines: Lines) {
        let outcome = match self.ready() {
            Some(output) => output.write(&lines.bytes),
            None => Ok(()),
        };
        if let Err(error) = &outcome {
            self.output = None;
            self.complain(error);
        }
        if self.output.is_none() {
            self.lost += lines.count;
            self.shared.dropped.fetch_add(lines.count, Ordering::Relaxed);
        }
        lines.bytes.clear();
        let mut spare = self.shared.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE {
            spare.push(lines.bytes);
        }
    }

    fn ready(&mut self) -> Option<&mut Output> {
        if self.output.is_none() {
            match Output::open(&self.destination) {
                Ok(output) => self.output = Some(output),
                Err(error) => self.complain(&error),
            }
        }
        self.output.as_mut()
    }

    fn complain(&mut self, error: &dyn std::error::Error) {
        if self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN) {
            self.complained = Some(Instant::now());
            let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
            tracing::error!(lost = std::mem::take(&mut self.lost), "access log lines are lost: {error}{cause}");
        }
    }
}

#[cfg(test)]
mod tests;
