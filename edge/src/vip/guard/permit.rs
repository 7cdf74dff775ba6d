//! Whether edged may announce at this moment, as far as the guard is concerned; a few atomics, no wait.
//!
//! An edged that was frozen wakes up in the middle of whatever it did, with everything withdrawn behind its back: gobgpd
//! killed, paths in somebody else's gobgpd and addresses gone. Whoever announces would put it back. So it asks here
//! first, and the answer is no from the first instant after such a gap, before any message of the guard was read, until
//! it is known what happened and the VIPs were judged by that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::vigil::SILENCE;

/// A gap between two beats that leaves doubt. As much shorter than [`SILENCE`] as what follows the question may take.
const DOUBT: Duration = SILENCE.saturating_sub(Duration::from_millis(200));
/// Nobody watches, so nothing can have been undone.
const UNWATCHED: u64 = u64::MAX;

/// A handle for whoever announces.
#[derive(Debug, Clone)]
pub struct Permit(Arc<Standing>);

impl Permit {
    pub(super) fn new(standing: &Arc<Standing>) -> Self {
        Self(Arc::clone(standing))
    }

    /// One that always holds, for where there is no guard.
    pub fn unconditional() -> Self {
        Self(Arc::new(Standing::new(Instant::now())))
    }

    /// Ask right before each act that the guard would undo and that has effect at once. No: wait a moment, ask again.
    pub fn holds(&self) -> bool {
        self.0.holds(Instant::now())
    }

    /// The same for those who announce: the number of undoings that are known.
    pub fn question(&self) -> edge_bgp::Permit {
        let standing = Arc::clone(&self.0);
        edge_bgp::Permit::new(move || {
            let known = standing.known();
            // A withdrawal that becomes known between the two is taken for one that is not.
            standing.holds(Instant::now()).then_some(known)
        })
    }
}

#[derive(Debug)]
pub(super) struct Standing {
    origin: Instant,
    /// When the last beat was sent, in milliseconds since `origin`.
    beaten: AtomicU64,
    /// The letter whose answer ends the doubt; 0: there is none.
    doubt: AtomicU64,
    undone: AtomicU64,
    known: AtomicU64,
    failing: AtomicBool,
}

impl Standing {
    pub(super) fn new(origin: Instant) -> Self {
        Self {
            origin,
            beaten: AtomicU64::new(UNWATCHED),
            doubt: AtomicU64::new(0),
            undone: AtomicU64::new(0),
            known: AtomicU64::new(0),
            failing: AtomicBool::new(false),
        }
    }

    fn milliseconds(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.origin).as_millis()).unwrap_or(UNWATCHED - 1)
    }

    fn is_gap(&self, now: Instant) -> bool {
        let beaten = self.beaten.load(Ordering::Acquire);
        let gap = self.milliseconds(now).saturating_sub(beaten);
        beaten != UNWATCHED && Duration::from_millis(gap) >= DOUBT
    }

    pub(super) fn holds(&self, now: Instant) -> bool {
        !self.failing.load(Ordering::Acquire)
            && self.doubt.load(Ordering::Acquire) == 0
            && !self.is_undone()
            // Last: whoever is frozen before this line finds the gap.
            && !self.is_gap(now)
    }

    pub(super) fn is_undone(&self) -> bool {
        self.undone.load(Ordering::Acquire) > self.known()
    }

    pub(super) fn known(&self) -> u64 {
        self.known.load(Ordering::Acquire)
    }

    pub(super) fn undone(&self) -> u64 {
        self.undone.load(Ordering::Acquire)
    }

    /// To be called before a letter goes out. The order matters: doubt first, then the mark that would hide the gap.
    pub(super) fn beat(&self, letter: u64, now: Instant) {
        if self.is_gap(now) {
            self.doubt.store(letter, Ordering::Release);
        }
        self.beaten.store(self.milliseconds(now), Ordering::Release);
    }

    /// The guard is gone or has nothing to watch: nothing can be undone from here on. What was before is still open.
    pub(super) fn unwatched(&self) {
        self.beaten.store(UNWATCHED, Ordering::Release);
        self.doubt.store(0, Ordering::Release);
    }

    /// The guard's answer to a letter. `true`: it tells of an undoing that was not known.
    pub(super) fn answer(&self, heard: u64, undone: u64) -> bool {
        let is_news = self.undone.fetch_max(undone, Ordering::AcqRel) < undone;
        let doubt = self.doubt.load(Ordering::Acquire);
        if doubt != 0 && heard >= doubt {
            self.doubt.store(0, Ordering::Release);
        }
        is_news
    }

    pub(super) fn acknowledge(&self, undone: u64) {
        self.known.fetch_max(undone, Ordering::AcqRel);
    }

    pub(super) fn set_failing(&self, failing: bool) {
        self.failing.store(failing, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, milliseconds: u64) -> Instant {
        start + Duration::from_millis(milliseconds)
    }

    #[test]
    fn who_was_frozen_may_not_go_on_before_it_is_known_what_happened() {
        let start = Instant::now();
        let standing = Standing::new(start);
        assert!(standing.holds(at(start, 60_000)), "nobody watches");
        standing.beat(1, at(start, 60_000));
        assert!(!standing.answer(1, 0));
        assert!(standing.holds(at(start, 60_100)));
        // Frozen for two seconds. The first who runs again may be anybody.
        assert!(!standing.holds(at(start, 62_000)));
        standing.beat(2, at(start, 62_001));
        assert!(!standing.holds(at(start, 62_002)), "the beat hides the gap, not the doubt");
        // An answer from before.
        assert!(!standing.answer(1, 0));
        assert!(!standing.holds(at(start, 62_003)));
        assert!(standing.answer(2, 1), "this is how it learns");
        assert!(!standing.holds(at(start, 62_004)));
        standing.acknowledge(1);
        assert!(standing.holds(at(start, 62_005)));
    }

    #[test]
    fn a_short_gap_is_cleared_by_the_guard_itself() {
        let start = Instant::now();
        let standing = Standing::new(start);
        standing.beat(1, start);
        assert!(!standing.holds(at(start, 450)));
        standing.beat(2, at(start, 450));
        assert!(!standing.answer(2, 0));
        assert!(standing.holds(at(start, 460)));
    }

    #[test]
    fn failing_and_unknown_undoings_forbid() {
        let start = Instant::now();
        let standing = Standing::new(start);
        standing.set_failing(true);
        assert!(!standing.holds(start));
        standing.set_failing(false);
        assert!(standing.holds(start));
        assert!(standing.answer(1, 3));
        standing.unwatched();
        standing.acknowledge(2);
        assert!(!standing.holds(start));
        standing.acknowledge(3);
        assert!(standing.holds(start));
        assert!(Permit::unconditional().holds());
    }
}
