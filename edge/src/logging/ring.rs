//! The newest lines of the log, kept in memory for `edgectl logs`: whatever the log is written to, and also where it is
//! written to nothing.
//!
//! Events that pass the levels flow in from any thread, lines flow out by number. Full, it forgets the oldest, so it is its
//! own bound for whoever follows: a reader that is too slow misses lines and is told how many.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde_json::{Map, Value};
use tokio::sync::Notify;
use tracing::field::{Field, Visit};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::levels::Level;
use super::modules::word_of;

/// Bytes of all lines together; a usual line is some 250.
pub const ROOM: usize = 1 << 20;
/// Of a message, and of the value of a field. What is longer ends in an ellipsis.
const LONGEST: usize = 4 << 10;
/// Of one line.
const MOST_FIELDS: usize = 32;

#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// Counts from 1 since the start.
    pub number: u64,
    pub at: SystemTime,
    pub level: Level,
    /// A word of [`super::modules`].
    pub module: &'static str,
    /// A path of the program's.
    pub target: &'static str,
    pub message: Box<str>,
    pub fields: Box<[(&'static str, Value)]>,
}

impl Kept {
    fn bytes(&self) -> usize {
        let fields = self.fields.iter().map(|(_, value)| match value {
            Value::String(text) => text.capacity(),
            _ => 0,
        });
        size_of::<Self>() + self.message.len() + fields.sum::<usize>() + size_of_val(&*self.fields)
    }

    pub fn fields(&self) -> Map<String, Value> {
        self.fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }
}

#[derive(Debug, Default)]
pub struct Ring {
    lines: Mutex<Lines>,
    followers: AtomicUsize,
    news: Notify,
}

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<Kept>,
    bytes: usize,
    /// The number of the newest one.
    newest: u64,
}

/// What a look at the ring found.
#[derive(Debug, Default)]
pub struct Found {
    pub lines: Vec<Kept>,
    /// Where the next look begins.
    pub next: u64,
    /// Lines that were forgotten before this look.
    pub missed: u64,
}

impl Ring {
    pub(super) fn push(&self, mut line: Kept) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.newest += 1;
        line.number = lines.newest;
        lines.bytes += line.bytes();
        lines.kept.push_back(line);
        while lines.bytes > ROOM {
            let Some(oldest) = lines.kept.pop_front() else { break };
            lines.bytes -= oldest.bytes();
        }
        drop(lines);
        if self.followers.load(Ordering::Relaxed) > 0 {
            self.news.notify_waiters();
        }
    }

    /// The lines after a number that pass a test, no more than so many of the newest.
    pub fn after(&self, number: u64, most: usize, passes: impl Fn(&Kept) -> bool) -> Found {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = lines.kept.front().map_or(lines.newest + 1, |line| line.number);
        let missed = oldest.saturating_sub(number + 1);
        let fitting = lines.kept.iter().rev().take_while(|line| line.number > number).filter(|line| passes(line));
        let mut found: Vec<Kept> = fitting.take(most).cloned().collect();
        found.reverse();
        Found { lines: found, next: lines.newest, missed }
    }

    /// Told of every new line while it lives.
    pub fn follow(&self) -> Follower<'_> {
        self.followers.fetch_add(1, Ordering::Relaxed);
        Follower(self)
    }
}

pub struct Follower<'r>(&'r Ring);

impl Follower<'_> {
    /// Resolves at the next line after this call, not after its first poll.
    pub fn news(&self) -> impl Future<Output = ()> + '_ {
        self.0.news.notified()
    }
}

impl Drop for Follower<'_> {
    fn drop(&mut self) {
        self.0.followers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Puts what passes the levels into a ring.
pub(super) struct IntoRing(pub std::sync::Arc<Ring>);

impl<S: tracing::Subscriber> Layer<S> for IntoRing {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let target = event.metadata().target();
        self.0.push(Kept {
            number: 0,
            at: SystemTime::now(),
            level: (*event.metadata().level()).into(),
            module: word_of(target),
            target,
            message: parts.message.into(),
            fields: parts.fields.into(),
        });
    }
}

#[derive(Default)]
struct Parts {
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Parts {
    fn put(&mut self, field: &Field, value: Value) {
        if self.fields.len() < MOST_FIELDS {
            self.fields.push((field.name(), value));
        }
    }
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = Bounded::default();
        // It ends early by itself when there is no room.
        let _ = write!(text, "{value:?}");
        if field.name() == "message" {
            self.message = text.0;
        } else {
            self.put(field, text.0.into());
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

#[derive(Default)]
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = LONGEST.saturating_sub(self.0.len());
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        self.0.push_str(&text[..text.floor_char_boundary(room)]);
        self.0.push('…');
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn line(message: &str) -> Kept {
        Kept {
            number: 0,
            at: SystemTime::UNIX_EPOCH,
            level: Level::Info,
            module: "proxy",
            target: "edge::proxy",
            message: message.into(),
            fields: Box::default(),
        }
    }

    #[test]
    fn it_is_bounded_and_says_what_is_gone() {
        let ring = Ring::default();
        for number in 0..5000 {
            ring.push(line(&format!("{number} {}", "x".repeat(900))));
        }
        let lines = ring.lines.lock().unwrap();
        assert!(lines.bytes <= ROOM && lines.bytes > ROOM - 2000, "{}", lines.bytes);
        assert_eq!(lines.bytes, lines.kept.iter().map(Kept::bytes).sum::<usize>());
        let kept = lines.kept.len();
        drop(lines);
        let found = ring.after(0, usize::MAX, |_| true);
        assert_eq!((found.lines.len(), found.next), (kept, 5000));
        assert_eq!(found.missed, 5000 - kept as u64);
        let found = ring.after(4990, 3, |_| true);
        assert_eq!(found.lines.iter().map(|line| line.number).collect::<Vec<_>>(), [4998, 4999, 5000]);
        assert_eq!((found.missed, ring.after(5000, 9, |_| true).lines.len()), (0, 0));
    }

    #[test]
    fn events_become_lines() {
        let ring = Arc::new(Ring::default());
        let subscriber = tracing_subscriber::registry().with(IntoRing(Arc::clone(&ring)));
        tracing::subscriber::with_default(subscriber, || {
            let (name, error) = ("a.example", std::io::Error::other("broken"));
            tracing::warn!(target: "edge::vip::l2", name, %error, count = 3, "not {}", "told");
            tracing::info!("{}", "é".repeat(LONGEST));
        });
        let found = ring.after(0, 10, |_| true).lines;
        assert_eq!((found[0].module, found[0].level, &*found[0].message), ("l2", Level::Warn, "not told"));
        let fields = serde_json::to_string(&found[0].fields()).unwrap();
        assert_eq!(fields, r#"{"name":"a.example","error":"broken","count":3}"#);
        assert!(found[1].message.len() <= LONGEST + 4 && found[1].message.ends_with('…'));
    }
}
