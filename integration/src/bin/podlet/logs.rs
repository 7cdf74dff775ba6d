//! What containers print: bounded rings of lines stamped at arrival, and the selection a reader asks for.
//!
//! Flows in: bytes of standard output and error. Flows out: lines in the form of a kubelet's `/containerLogs`. The
//! oldest lines go first; a line longer than [`LINE`] is cut into several, as container runtimes do.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::watch;

/// Bytes of one line at most.
pub const LINE: usize = 16 * 1024;
/// Bytes and lines of one run of a container at most.
const BYTES: usize = 4 * 1024 * 1024;
const LINES: usize = 50_000;

/// What one run of a container printed.
pub struct Journal {
    ring: Mutex<Ring>,
    /// Changes with every line, so that followers wake.
    news: watch::Sender<u64>,
}

#[derive(Default)]
struct Ring {
    lines: VecDeque<Line>,
    bytes: usize,
    /// Number of the first line that is still there.
    first: u64,
    closed: bool,
}

struct Line {
    at: Timestamp,
    /// Without its line feed.
    text: Vec<u8>,
}

/// What a reader asks for, by the query parameters of `/containerLogs`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    pub since: Option<Timestamp>,
    pub tail: Option<usize>,
    pub limit: Option<usize>,
    pub timestamps: bool,
    pub follow: bool,
    pub previous: bool,
}

/// A part of a journal, and where the next part begins.
pub struct Chunk {
    pub bytes: Vec<u8>,
    pub next: u64,
    /// Nothing can follow.
    pub last: bool,
}

impl Query {
    /// Unknown parameters are ignored, as the API server passes on what clients send.
    pub fn parse(query: &str, now: Timestamp) -> Result<Self, String> {
        let mut wanted = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let bad = |expected: &str| format!("{name}={value}: expected {expected}");
            let number = || value.parse::<u32>().map_err(|_| bad("a number"));
            let switch = || value.parse::<bool>().map_err(|_| bad("true or false"));
            match name.as_ref() {
                "sinceTime" => wanted.since = Some(value.parse().map_err(|_| bad("a time as of RFC 3339"))?),
                "sinceSeconds" => {
                    let back = SignedDuration::from_secs(i64::from(number()?));
                    wanted.since = now.checked_sub(back).ok();
                }
                "tailLines" => wanted.tail = Some(number()? as usize),
                "limitBytes" => wanted.limit = Some(number()? as usize),
                "timestamps" => wanted.timestamps = switch()?,
                "follow" => wanted.follow = switch()?,
                "previous" => wanted.previous = switch()?,
                _ => {}
            }
        }
        Ok(wanted)
    }
}

impl Journal {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { ring: Mutex::default(), news: watch::Sender::new(0) })
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // A ring is whole between any two statements, so a panic elsewhere left it usable.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, at: Timestamp, text: &[u8]) {
        let mut ring = self.ring();
        ring.bytes += text.len();
        ring.lines.push_back(Line { at, text: text.to_vec() });
        while ring.bytes > BYTES || ring.lines.len() > LINES {
            let Some(gone) = ring.lines.pop_front() else { break };
            ring.bytes -= gone.text.len();
            ring.first += 1;
        }
        drop(ring);
        self.news.send_modify(|count| *count += 1);
    }

    /// The run is over: followers end.
    pub fn close(&self) {
        self.ring().closed = true;
        self.news.send_modify(|count| *count += 1);
    }

    /// Wakes after every change from now on.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// What a reader gets first.
    pub fn first(&self, query: &Query) -> Chunk {
        let ring = self.ring();
        let tail = query.tail.unwrap_or(usize::MAX);
        let skip = ring.lines.len().saturating_sub(tail);
        ring.chunk(skip, query)
    }

    /// What came since.
    pub fn after(&self, next: u64, query: &Query) -> Chunk {
        let ring = self.ring();
        let skip = usize::try_from(next.saturating_sub(ring.first)).unwrap_or(usize::MAX);
        ring.chunk(skip, query)
    }

    /// Reads a stream to its end.
    pub async fn record(self: Arc<Self>, mut stream: impl AsyncRead + Unpin) {
        let mut pending: Vec<u8> = Vec::new();
        let mut buffer = vec![0; 8 * 1024];
        loop {
            // An error means the same as the end here: the writer is gone.
            let count = stream.read(&mut buffer).await.unwrap_or(0);
            let now = Timestamp::now();
            if count == 0 {
                if !pending.is_empty() {
                    self.add(now, &pending);
                }
                return;
            }
            for part in buffer[..count].split_inclusive(|byte| *byte == b'\n') {
                pending.extend_from_slice(part);
                let complete = pending.pop_if(|byte| *byte == b'\n').is_some();
                while pending.len() > LINE {
                    let rest = pending.split_off(LINE);
                    self.add(now, &pending);
                    pending = rest;
                }
                if complete {
                    self.add(now, &pending);
                    pending.clear();
                }
            }
        }
    }
}

impl Ring {
    fn chunk(&self, skip: usize, query: &Query) -> Chunk {
        let mut bytes = Vec::new();
        for line in self.lines.iter().skip(skip) {
            // Equal counts: the API server rounds sinceTime down to a second.
            if query.since.is_some_and(|since| line.at < since) {
                continue;
            }
            if query.timestamps {
                bytes.extend_from_slice(format!("{:.9} ", line.at).as_bytes());
            }
            bytes.extend_from_slice(&line.text);
            bytes.push(b'\n');
        }
        Chunk { bytes, next: self.first + self.lines.len() as u64, last: self.closed }
    }
}

/// The journals of a node's containers: this run and the one before.
#[derive(Default)]
pub struct Shelf {
    journals: Mutex<HashMap<Title, Runs>>,
}

/// Namespace, Pod and container.
pub type Title = (String, String, String);

#[derive(Default)]
struct Runs {
    current: Option<Arc<Journal>>,
    previous: Option<Arc<Journal>>,
}

impl Shelf {
    fn journals(&self) -> MutexGuard<'_, HashMap<Title, Runs>> {
        self.journals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A journal for a new run.
    pub fn open(&self, title: &Title) -> Arc<Journal> {
        let journal = Journal::new();
        let mut journals = self.journals();
        let runs = journals.entry(title.clone()).or_default();
        runs.previous = runs.current.replace(Arc::clone(&journal));
        journal
    }

    pub fn find(&self, title: &Title, previous: bool) -> Option<Arc<Journal>> {
        let journals = self.journals();
        let runs = journals.get(title)?;
        if previous { runs.previous.clone() } else { runs.current.clone() }
    }

    /// Forgets a Pod's containers, unless a Pod of the same name has begun since.
    pub fn forget(&self, title: &Title, journal: &Arc<Journal>) {
        let mut journals = self.journals();
        let ours = |runs: &Runs| runs.current.as_ref().is_some_and(|current| Arc::ptr_eq(current, journal));
        if journals.get(title).is_some_and(ours) {
            journals.remove(title);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn journal() -> Arc<Journal> {
        let journal = Journal::new();
        for second in 0..4 {
            journal.add(at(second), format!("line {second}").as_bytes());
        }
        journal
    }

    #[test]
    fn selections() {
        let stamp = |second: i64| at(second).to_string();
        let cases = [
            (String::new(), "line 0|line 1|line 2|line 3|".to_owned()),
            ("tailLines=2".to_owned(), "line 2|line 3|".to_owned()),
            ("tailLines=0".to_owned(), String::new()),
            (format!("sinceTime={}", stamp(2)), "line 2|line 3|".to_owned()),
            (format!("sinceTime={}", stamp(2).replace(':', "%3A")), "line 2|line 3|".to_owned()),
            (format!("sinceTime={}&tailLines=1", stamp(0)), "line 3|".to_owned()),
            (format!("sinceTime={}", stamp(9)), String::new()),
            ("sinceSeconds=2&follow=false".to_owned(), "line 2|line 3|".to_owned()),
            ("timestamps=true&tailLines=1".to_owned(), "2027-01-15T08:00:03.000000000Z line 3|".to_owned()),
        ];
        for (query, expected) in cases {
            let query = Query::parse(&query, at(4)).unwrap();
            let text = String::from_utf8(journal().first(&query).bytes).unwrap();
            assert_eq!(text.replace('\n', "|"), expected, "{query:?}");
        }
    }

    #[test]
    fn bad_queries() {
        let cases = [
            ("tailLines=x", "tailLines=x: expected a number"),
            ("sinceTime=yesterday", "sinceTime=yesterday: expected a time as of RFC 3339"),
            ("follow=maybe", "follow=maybe: expected true or false"),
        ];
        for (query, expected) in cases {
            assert_eq!(Query::parse(query, at(0)).unwrap_err(), expected);
        }
    }

    #[test]
    fn oldest_lines_go_first_and_readers_go_on() {
        let journal = Journal::new();
        let query = Query::default();
        let long = vec![b'x'; LINE];
        journal.add(at(0), b"first");
        let next = journal.first(&query).next;
        assert_eq!(next, 1);
        for _ in 0..BYTES / LINE + 5 {
            journal.add(at(1), &long);
        }
        let all = journal.first(&query);
        assert_eq!(all.bytes.len(), BYTES / LINE * (LINE + 1));
        assert_eq!(journal.after(next, &query).bytes.len(), all.bytes.len());
        journal.add(at(2), b"last");
        assert_eq!(journal.after(all.next, &query).bytes, b"last\n");
        journal.close();
        assert!(journal.after(all.next, &query).last);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn streams_become_lines() {
        let journal = Journal::new();
        let text = [b"one\n\ntwo".as_slice(), &[b'x'; LINE], b"\nend"].concat();
        Arc::clone(&journal).record(text.as_slice()).await;
        let query = Query::default();
        let bytes = journal.first(&query).bytes;
        let lengths: Vec<usize> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::len).collect();
        assert_eq!(lengths, [3, 0, LINE, 3, 3, 0]);
    }

    #[test]
    fn shelf_keeps_two_runs() {
        let shelf = Shelf::default();
        let title = ("ns".to_owned(), "pod".to_owned(), "c".to_owned());
        assert!(shelf.find(&title, false).is_none());
        let first = shelf.open(&title);
        let second = shelf.open(&title);
        assert!(Arc::ptr_eq(&shelf.find(&title, true).unwrap(), &first));
        shelf.forget(&title, &first);
        assert!(Arc::ptr_eq(&shelf.find(&title, false).unwrap(), &second));
        shelf.forget(&title, &second);
        assert!(shelf.find(&title, false).is_none());
    }
}
