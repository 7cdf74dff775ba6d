//! The configuration held at an earlier revision, by command: over restarts, until it is released or its time is over.
//!
//! What is configuration is that of then: objects and the settings that say what is served. What is state is that of now:
//! endpoints, nodes, Secrets and ConfigMaps with all keys and certificates, the addresses of VIPs, what a cluster gives
//! out to Services. So an old revision brings back neither an endpoint that is gone nor a certificate that has ended.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use edge_config::inputs::Inputs;
use edge_config::problem::{Problem, Severity};
use tokio::time::Instant;

use super::{DISK_PATIENCE, Supervisor};
use crate::control::world::Rolled;
use crate::history::record::Past;
use crate::history::{Applied, Ask, Assigned, Bounds, Cause, Changes, Counts, Folder, Held, Kept, Outcome, Pin};
use crate::source;
use crate::store::Store;

/// How long the disk may take for a revision.
const READ: Duration = Duration::from_secs(20);

/// At which revision, and what waits.
pub(super) struct Holding {
    pin: Pin,
    past: Past,
    portion: Arc<str>,
    /// The addresses of then.
    assigned: Assigned,
    waiting: Changes,
    /// What the sources say.
    now: Inputs,
}

impl Holding {
    fn of(pin: Pin, kept: Kept) -> Result<Self, String> {
        let Kept { portion, past, assigned, lost, .. } = kept;
        if lost > 0 {
            return Err(format!("{lost} objects of revision {} cannot be read by this version of Edge", pin.revision));
        }
        let (waiting, now) = (Changes::default(), Inputs::default());
        Ok(Self { pin, past, portion, assigned, waiting, now })
    }

    pub(super) fn revision(&self) -> u64 {
        self.pin.revision
    }

    pub(super) fn told(&self) -> Held {
        Held { pin: self.pin.clone(), waiting: self.waiting.clone() }
    }

    pub(super) fn problem(&self) -> Problem {
        let message = format!("{}: edgectl rollback --release", self.told().text());
        Problem { severity: Severity::Warning, origin: None, object: None, message }
    }

    /// The configuration of then with the state of now.
    pub(super) fn over(&mut self, now: Inputs, portion: Arc<str>) -> (Inputs, Arc<str>) {
        let mut inputs = self.past.over(&now);
        inputs.assigned.clone_from(&now.assigned);
        // Who lost its address since gets it back, unless somebody else has it.
        let taken: BTreeSet<IpAddr> = now.assigned.values().flatten().copied().collect();
        for (object, addresses) in &self.assigned {
            let is_free = addresses.iter().all(|address| !taken.contains(address));
            if is_free && !inputs.assigned.contains_key(object) && inputs.meta(object).is_some() {
                inputs.assigned.insert(object.clone(), addresses.clone());
            }
        }
        self.waiting = Changes::between((&inputs, &self.portion), (&now, &portion));
        self.now = now;
        (inputs, Arc::clone(&self.portion))
    }

    /// The addresses to remember: also those of objects that wait.
    pub(super) fn with_waiting(&self, compiled: &Assigned, remembered: &Assigned) -> Assigned {
        let mut all = compiled.clone();
        for (object, addresses) in remembered {
            if !all.contains_key(object) && self.now.meta(object).is_some() {
                all.insert(object.clone(), addresses.clone());
            }
        }
        all
    }
}

/// What was held before a restart. An error: it cannot be held any longer, and what the sources say is served.
pub(super) fn resume(store: &Store, revisions: &Folder) -> Result<Option<Holding>, String> {
    let Some(pin) = store.pin().filter(|pin| pin.until.is_none_or(|until| until > SystemTime::now())) else {
        return Ok(None);
    };
    let revision = pin.revision;
    let held = revisions.read(revision).map_err(|error| error.to_string()).and_then(|kept| Holding::of(pin, kept));
    held.map(Some).map_err(|why| {
        let notice = format!("the configuration is held at revision {revision} no longer: {why}");
        tracing::error!("{notice}");
        notice
    })
}

impl Supervisor {
    /// Holds the configuration at a revision, or releases it.
    pub(super) async fn roll(&mut self, ask: Ask, by: Option<String>) -> Result<Rolled, String> {
        if self.upgrade.is_under_way() {
            // The new edged has read already at which revision it begins.
            return Err("an upgrade is under way; ask again when it is over".to_owned());
        }
        let cause = match ask.revision {
            Some(revision) => {
                let folder = self.revisions.clone();
                let read = tokio::task::spawn_blocking(move || folder.read(revision));
                let kept = match tokio::time::timeout(READ, read).await {
                    Ok(Ok(kept)) => kept.map_err(|error| error.to_string())?,
                    Ok(Err(error)) => return Err(format!("revision {revision} cannot be read: {error}")),
                    Err(_) => return Err(format!("revision {revision} is not read yet: the disk does not answer")),
                };
                let since = SystemTime::now();
                let until = match ask.seconds.map(|seconds| (seconds, since.checked_add(Duration::from_secs(seconds))))
                {
                    None => None,
                    Some((seconds, None)) => return Err(format!("{seconds} seconds are longer than time is counted")),
                    Some((_, until)) => until,
                };
                let pin = Pin { revision, of: kept.revision.at.clone(), since, until, by: by.clone() };
                tracing::warn!(
                    revision,
                    by = by.as_deref().unwrap_or_default(),
                    "the configuration is held by command"
                );
                self.held = Some(Holding::of(pin, kept)?);
                Cause::Rollback { to: revision }
            }
            None => {
                if self.held.take().is_none() {
                    return Err("the configuration is not held".to_owned());
                }
                tracing::warn!(by = by.as_deref().unwrap_or_default(), "the configuration is released by command");
                Cause::Release
            }
        };
        self.serve_again(cause, by).await;
        self.remember_pin().await?;
        Ok(Rolled {
            generation: self.wanted.generation,
            held: self.held.as_ref().map(Holding::told),
            errors: self.count(Severity::Error),
            warnings: self.count(Severity::Warning),
        })
    }

    /// Releases what was held for long enough.
    pub(super) async fn lapse_pin(&mut self) {
        let is_over = |held: &Holding| held.pin.until.is_some_and(|until| until <= SystemTime::now());
        if self.held.as_ref().is_some_and(is_over) {
            tracing::warn!("the time is over for which the configuration was held");
            self.held = None;
            self.serve_again(Cause::Release, None).await;
            if let Err(error) = self.remember_pin().await {
                tracing::warn!("the configuration is released: {error}");
            }
        }
    }

    /// When it is released by itself.
    pub(super) fn next_release(&self) -> Option<Instant> {
        let until = self.held.as_ref()?.pin.until?;
        Some(Instant::now() + until.duration_since(SystemTime::now()).unwrap_or_default())
    }

    /// As a reload does: what files say is at hand only then.
    async fn serve_again(&mut self, cause: Cause, by: Option<String>) {
        let pinned = self.held.as_ref().map(Holding::revision);
        if let Some(history) = &self.history {
            history.bound(Bounds::of(&self.wanted.settings.history, pinned));
        }
        let loaded = source::load(&self.config, &mut self.wanted.cache);
        self.take_files(loaded);
        self.cause = (cause, by);
        if self.inbox.held.is_none() {
            self.settle().await;
        }
    }

    /// Hands what is in force to the history.
    pub(super) fn note_applied(&mut self) {
        let (cause, by) = std::mem::replace(&mut self.cause, (Cause::Kubernetes, None));
        let Some(history) = self.history.as_ref().filter(|_| self.wanted.settings.history.revisions > 0) else {
            return;
        };
        let outcome = Outcome::Applied { errors: self.count(Severity::Error), warnings: self.count(Severity::Warning) };
        history.note(self.applied(cause, by, outcome));
    }

    /// `edge.toml` is refused.
    pub(super) fn note_refused(&self, cause: Cause, by: Option<String>, reason: &str) {
        if let Some(history) = &self.history
            && self.wanted.settings.history.revisions > 0
        {
            history.note(self.applied(cause, by, Outcome::Refused { reason: reason.to_owned() }));
        }
    }

    fn applied(&self, cause: Cause, by: Option<String>, outcome: Outcome) -> Applied {
        let snapshot = &self.wanted.compiled.snapshot;
        Applied {
            generation: self.wanted.generation,
            at: SystemTime::now(),
            cause,
            by,
            outcome,
            is_sound: self.seen.sources_error.is_none(),
            counts: Counts {
                objects: 0,
                vips: snapshot.vips.len(),
                listeners: snapshot.listeners.len(),
                rules: snapshot.rules.len(),
                upstreams: snapshot.upstreams.len(),
            },
            inputs: Inputs::clone(&self.wanted.inputs),
            portion: Arc::clone(&self.wanted.portion),
            assigned: self.wanted.compiled.assigned.clone(),
        }
    }

    async fn remember_pin(&self) -> Result<(), String> {
        let store = self.store.clone();
        let pin = self.held.as_ref().map(|held| held.pin.clone());
        let write = tokio::task::spawn_blocking(move || store.put_pin(pin.as_ref()));
        match tokio::time::timeout(DISK_PATIENCE, write).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(format!("in force, but a restart forgets it: {error}")),
            Ok(Err(error)) => Err(format!("in force, but a restart forgets it: {error}")),
            Err(_) => Err("in force, but not on disk yet: it does not answer".to_owned()),
        }
    }
}
