//! How fast status is written, and when something is tried again. Pure: it takes the time and gives times back.
//!
//! Three things hold writes back: a rate for all, a rate for each object (so that a Gateway whose routes change all the
//! time costs the API server one write a second, and no more), and failures. A write that somebody undoes counts as a
//! failure: two writers that disagree must not chase each other.

use std::time::Duration;

use edge_config::names::ObjectRef;
use foldhash::{HashMap, HashMapExt};
use tokio::time::Instant;

/// Of all objects together.
const RATE: f64 = 100.0;
const BURST: f64 = 200.0;
/// Of one object.
const OBJECT_RATE: f64 = 1.0;
const OBJECT_BURST: f64 = 10.0;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// An object that was quiet for so long starts afresh, one that never made trouble sooner: thousands are written once.
const FORGET: Duration = Duration::from_secs(900);
const FORGET_HARMLESS: Duration = Duration::from_secs(60);
/// So many writes of the same may be undone before it looks like a quarrel.
const PATIENCE: u32 = 3;

/// Why a write did not do its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The object was changed meanwhile; it is read again and tried again.
    Conflict,
    /// The API server refuses this status, or this object.
    Refused,
    /// The API server does not answer, is overloaded, or says how long to leave it alone. Concerns all objects.
    Unavailable(Option<Duration>),
}

pub struct Pace {
    all: Bucket,
    /// Nothing is written before.
    quiet_until: Option<Instant>,
    outages: u32,
    objects: HashMap<ObjectRef, Own>,
}

struct Own {
    bucket: Bucket,
    failures: u32,
    /// Fingerprint of what was written last, and how often the same was written in a row.
    written: Option<(u64, u32)>,
    not_before: Option<Instant>,
    used: Instant,
}

impl Pace {
    pub fn new(now: Instant) -> Self {
        Self { all: Bucket::new(RATE, BURST, now), quiet_until: None, outages: 0, objects: HashMap::new() }
    }

    /// Whether anything at all may be written now, or when. Asked first: thousands of objects may be due, and to find
    /// out what each of them needs takes longer than to write one.
    pub fn is_open(&mut self, now: Instant) -> Result<(), Instant> {
        if let Some(until) = self.quiet_until.filter(|until| *until > now) {
            return Err(until);
        }
        self.all.next(now).map_or(Ok(()), Err)
    }

    /// Whether an object may be written now, or when. What was never written may.
    pub fn is_due(&mut self, object: &ObjectRef, now: Instant) -> Result<(), Instant> {
        let Some(own) = self.objects.get_mut(object) else { return Ok(()) };
        match own.not_before.filter(|until| *until > now).or_else(|| own.bucket.next(now)) {
            Some(at) => Err(at),
            None => Ok(()),
        }
    }

    /// Takes leave to write an object now, or says when to ask again.
    pub fn leave(&mut self, object: &ObjectRef, now: Instant) -> Result<(), Instant> {
        self.is_open(now)?;
        self.is_due(object, now)?;
        let own = self.objects.entry(object.clone()).or_insert_with(|| Own::new(now));
        own.used = now;
        own.bucket.take();
        self.all.take();
        Ok(())
    }

    /// What was asked for was written. Returns whether somebody keeps undoing it.
    pub fn written(&mut self, object: &ObjectRef, print: u64, now: Instant) -> bool {
        self.quiet_until = None;
        self.outages = 0;
        let own = self.objects.entry(object.clone()).or_insert_with(|| Own::new(now));
        own.failures = 0;
        own.not_before = None;
        let times = match own.written {
            Some((known, times)) if known == print => times.saturating_add(1),
            _ => 1,
        };
        own.written = Some((print, times));
        let is_quarrel = times > PATIENCE;
        if is_quarrel {
            own.not_before = Some(now + pause(times - PATIENCE + 4, object));
        }
        is_quarrel
    }

    pub fn failed(&mut self, object: &ObjectRef, failure: Failure, now: Instant) {
        match failure {
            Failure::Unavailable(asked) => {
                self.outages = self.outages.saturating_add(1);
                // In flight beside each other, many fail for one reason: the longest pause counts.
                let until = now + asked.unwrap_or_else(|| pause(self.outages.min(8), object)).min(LONGEST_PAUSE);
                self.quiet_until = self.quiet_until.max(Some(until));
            }
            Failure::Conflict | Failure::Refused => {
                let own = self.objects.entry(object.clone()).or_insert_with(|| Own::new(now));
                own.failures = own.failures.saturating_add(1);
                // A first conflict is ordinary, and what is written next follows from a fresh read.
                let is_first = failure == Failure::Conflict && own.failures == 1;
                let steps = if failure == Failure::Refused { own.failures + 3 } else { own.failures };
                own.not_before = (!is_first).then(|| now + pause(steps, object));
            }
        }
    }

    pub fn forget(&mut self, now: Instant) {
        self.objects.retain(|_, own| now.duration_since(own.used) < own.remembered());
        self.objects.shrink_to(2 * self.objects.len());
    }
}

impl Own {
    /// How long after its last use it matters.
    fn remembered(&self) -> Duration {
        let is_harmless = self.failures == 0 && self.written.is_none_or(|(_, times)| times <= 1);
        if is_harmless { FORGET_HARMLESS } else { FORGET }
    }

    fn new(now: Instant) -> Self {
        Self {
            bucket: Bucket::new(OBJECT_RATE, OBJECT_BURST, now),
            failures: 0,
            written: None,
            not_before: None,
            used: now,
        }
    }
}

/// Doubles with each step, up to the longest; objects that failed together do not come back together.
fn pause(steps: u32, object: &ObjectRef) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1_u32.checked_shl(steps.saturating_sub(1)).unwrap_or(u32::MAX));
    let whole = doubled.min(LONGEST_PAUSE);
    let spread = object.key.name.bytes().fold(steps, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    whole * 3 / 4 + whole / 4 * (spread % 64) / 64
}

/// Tokens that come back at a rate.
struct Bucket {
    tokens: f64,
    rate: f64,
    burst: f64,
    at: Instant,
}

impl Bucket {
    fn new(rate: f64, burst: f64, now: Instant) -> Self {
        Self { tokens: burst, rate, burst, at: now }
    }

    /// When there will be a token, if there is none now.
    fn next(&mut self, now: Instant) -> Option<Instant> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.rate).min(self.burst);
        self.at = now;
        // What is left of rounding must not leave a wait of zero.
        (self.tokens < 1.0)
            .then(|| now + Duration::from_secs_f64((1.0 - self.tokens) / self.rate) + Duration::from_millis(1))
    }

    fn take(&mut self) {
        self.tokens -= 1.0;
    }
}

#[cfg(test)]
mod tests {
    use edge_config::names::{Kind, ObjectKey};

    use super::*;

    fn object(name: &str) -> ObjectRef {
        ObjectRef::new(Kind::HTTPRoute, ObjectKey::new("ns", name))
    }

    /// How many writes get leave within so many seconds, always asking again as soon as it may be.
    fn writes(pace: &mut Pace, objects: &[ObjectRef], start: Instant, seconds: u64) -> usize {
        let mut count = 0;
        let mut now = start;
        while now < start + Duration::from_secs(seconds) {
            let mut next = None;
            for object in objects {
                match pace.leave(object, now) {
                    Ok(()) => count += 1,
                    Err(at) => next = next.map_or(Some(at), |known: Instant| Some(known.min(at))),
                }
            }
            now = next.unwrap_or(now + Duration::from_millis(1));
        }
        count
    }

    #[test]
    fn one_object_and_many_have_their_rates() {
        let now = Instant::now();
        let one = writes(&mut Pace::new(now), &[object("a")], now, 60);
        assert!((68..=71).contains(&one), "10 at once and one a second: {one}");
        let many: Vec<ObjectRef> = (0..500).map(|n| object(&n.to_string())).collect();
        let all = writes(&mut Pace::new(now), &many, now, 10);
        assert!((1190..=1205).contains(&all), "200 at once and 100 a second: {all}");
    }

    #[test]
    fn failures_hold_back() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        let wait = |pace: &mut Pace| match pace.leave(&object("a"), now) {
            Ok(()) => Duration::ZERO,
            Err(until) => until - now,
        };
        pace.failed(&object("a"), Failure::Conflict, now);
        assert_eq!(wait(&mut pace), Duration::ZERO, "the first conflict");
        pace.failed(&object("a"), Failure::Conflict, now);
        assert!(wait(&mut pace) >= Duration::from_millis(300));
        for _ in 0..40 {
            pace.failed(&object("a"), Failure::Refused, now);
        }
        assert!((Duration::from_secs(200)..=LONGEST_PAUSE).contains(&wait(&mut pace)));
        assert!(pace.leave(&object("b"), now).is_ok(), "others are not held back");
        pace.failed(&object("b"), Failure::Unavailable(Some(Duration::from_secs(7))), now);
        assert_eq!(pace.leave(&object("c"), now), Err(now + Duration::from_secs(7)));
        pace.written(&object("c"), 1, now);
        assert!(pace.leave(&object("c"), now).is_ok());
    }

    #[test]
    fn a_quarrel_is_given_up() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let (mut now, mut writes, mut quarrels) = (start, 0, 0);
        // Somebody undoes every write at once, for an hour.
        while now < start + Duration::from_secs(3600) {
            match pace.leave(&object("a"), now) {
                Ok(()) => {
                    writes += 1;
                    quarrels += u32::from(pace.written(&object("a"), 42, now));
                }
                Err(at) => now = at,
            }
        }
        assert!(writes < 30, "{writes} writes in an hour");
        assert!(quarrels > 0);
        // What is to be said changed: that is no quarrel.
        assert!(!pace.written(&object("a"), 43, now));
    }
}
