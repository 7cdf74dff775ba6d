//! The thread: takes the newest wanted set, lets [`Issuance`] work, publishes between two certificates.
//!
//! Only this file reads the clock. A wait is never longer than a minute, so a clock that jumps is noticed.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::command::CertCommand;
use super::issuance::{Issuance, Progress};
use super::ordering::{Event, Means, Ordering};
use super::{CertsSettings, CertsWanted, Published};
use crate::store::Store;

/// Between two looks at the clock.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Between two looks at who orders, while it is another edge.
const TURN_WAIT: Duration = Duration::from_secs(2);

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
    commands: VecDeque<CertCommand>,
    /// Of orders under way, hence bounded by them.
    events: Vec<Event>,
    stop: bool,
}

/// Commands beyond this are dropped, which answers them: nobody types so fast, and no fleet is so large.
const COMMANDS: usize = 1024;

/// What was found in the box.
struct Mail {
    sequence: u64,
    /// The newest, old or new.
    wanted: Option<Arc<CertsWanted>>,
    commands: VecDeque<CertCommand>,
    events: Vec<Event>,
}

impl Mailbox {
    pub(super) fn put(&self, wanted: CertsWanted) -> u64 {
        let mut content = self.lock();
        content.wanted = Some(Arc::new(wanted));
        content.sequence += 1;
        self.changed.notify_one();
        content.sequence
    }

    pub(super) fn command(&self, command: CertCommand) {
        let mut content = self.lock();
        if !content.stop && content.commands.len() < COMMANDS {
            content.commands.push_back(command);
            self.changed.notify_one();
        }
    }

    fn event(&self, event: Event) {
        let mut content = self.lock();
        if !content.stop {
            content.events.push(event);
            self.changed.notify_one();
        }
    }

    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_one();
    }

    /// Whether something newer than `seen` waits, or the end.
    fn is_newer(&self, seen: u64) -> bool {
        let content = self.lock();
        content.stop || content.sequence > seen || !content.commands.is_empty() || !content.events.is_empty()
    }

    /// Waits for something newer, at most for `wait`. `None` is the end.
    fn wait(&self, seen: u64, wait: Duration) -> Option<Mail> {
        let nothing_new = |content: &mut Content| {
            !content.stop && content.sequence == seen && content.commands.is_empty() && content.events.is_empty()
        };
        let (mut content, _) =
            self.changed.wait_timeout_while(self.lock(), wait, nothing_new).unwrap_or_else(PoisonError::into_inner);
        let (commands, events) = (std::mem::take(&mut content.commands), std::mem::take(&mut content.events));
        (!content.stop).then(|| Mail { sequence: content.sequence, wanted: content.wanted.clone(), commands, events })
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn run(
    mailbox: &Arc<Mailbox>,
    store: Store,
    settings: CertsSettings,
    means: Means,
    mut publish: impl FnMut(Published),
) {
    let mut issuance = Issuance::load(store.clone(), settings, now());
    let inbox = Arc::clone(mailbox);
    let tell = Arc::new(move |event| inbox.event(event));
    match Ordering::start(store, means, tell, &mut issuance.notices) {
        Ok(ordering) => issuance.ordering = Some(ordering),
        Err(error) => issuance.notices.push(format!("nothing is ordered from ACME CAs: no thread: {error}")),
    }
    let (mut seen, mut wait) = (0, LONGEST_WAIT);
    while let Some(Mail { sequence, wanted, commands, events }) = mailbox.wait(seen, wait) {
        seen = sequence;
        let known = wanted.clone().unwrap_or_default();
        for event in events {
            issuance.take(event, &known, now());
        }
        for command in commands {
            issuance.obey(command, &known, now());
        }
        let Some(wanted) = wanted else { continue };
        let progress = issuance.round(&wanted, now, &|| mailbox.is_newer(seen), &mut |(table, observed, offers)| {
            publish(Published { applied: seen, table: Arc::new(table), observed: Arc::new(observed), offers });
        });
        wait = match progress {
            Progress::Interrupted => Duration::ZERO,
            Progress::Until(next) => {
                let seconds = next.map_or(u64::MAX, |next| u64::try_from(next.saturating_sub(now())).unwrap_or(0));
                let longest = if issuance.waits_for_others() { TURN_WAIT } else { LONGEST_WAIT };
                // At least a second: a plan that asks for itself again at once must not spin.
                longest.min(Duration::from_secs(seconds.max(1)))
            }
        };
    }
}

/// Unix seconds. A clock before 1970 counts as 1970, which the plan refuses to work with.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
