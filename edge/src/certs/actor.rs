//! The thread: takes the newest wanted set, lets [`Issuance`] work, publishes between two certificates.
//!
//! Only this file reads the clock. A wait is never longer than a minute, so a clock that jumps is noticed.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::issuance::{Issuance, Progress};
use super::{CertsSettings, CertsWanted, Published};
use crate::store::Store;

/// Between two looks at the clock.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Holds the newest wanted set only: what was not taken up is replaced.
#[derive(Default)]
pub(super) struct Mailbox {
    content: Mutex<Content>,
    changed: Condvar,
}

#[derive(Default)]
struct Content {
    wanted: Option<Arc<CertsWanted>>,
    sequence: u64,
    stop: bool,
}

impl Mailbox {
    pub(super) fn put(&self, wanted: CertsWanted) -> u64 {
        let mut content = self.lock();
        content.wanted = Some(Arc::new(wanted));
        content.sequence += 1;
        self.changed.notify_one();
        content.sequence
    }

    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_one();
    }

    /// Whether something newer than `seen` waits, or the end.
    fn is_newer(&self, seen: u64) -> bool {
        let content = self.lock();
        content.stop || content.sequence > seen
    }

    /// Waits for something newer, at most for `wait`. `None` is the end.
    fn wait(&self, seen: u64, wait: Duration) -> Option<(u64, Option<Arc<CertsWanted>>)> {
        let nothing_new = |content: &mut Content| !content.stop && content.sequence == seen;
        let (content, _) =
            self.changed.wait_timeout_while(self.lock(), wait, nothing_new).unwrap_or_else(PoisonError::into_inner);
        (!content.stop).then(|| (content.sequence, content.wanted.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn run(mailbox: &Mailbox, store: Store, settings: CertsSettings, mut publish: impl FnMut(Published)) {
    let mut issuance = Issuance::load(store, settings, now());
    let (mut seen, mut wait) = (0, LONGEST_WAIT);
    while let Some((sequence, wanted)) = mailbox.wait(seen, wait) {
        seen = sequence;
        let Some(wanted) = wanted else { continue };
        let progress = issuance.round(&wanted, now, &|| mailbox.is_newer(seen), &mut |(table, observed)| {
            publish(Published { applied: seen, table: Arc::new(table), observed: Arc::new(observed) });
        });
        wait = match progress {
            Progress::Interrupted => Duration::ZERO,
            Progress::Until(next) => {
                let seconds = next.map_or(u64::MAX, |next| u64::try_from(next.saturating_sub(now())).unwrap_or(0));
                // At least a second: a plan that asks for itself again at once must not spin.
                LONGEST_WAIT.min(Duration::from_secs(seconds.max(1)))
            }
        };
    }
}

/// Unix seconds. A clock before 1970 counts as 1970, which the plan refuses to work with.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
