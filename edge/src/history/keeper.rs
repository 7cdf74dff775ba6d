//! The thread that writes revisions: takes what is in force, finds out whether it is another configuration than before
//! and in what, writes what is new of it, and lets go of what is beyond the bounds.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::SystemTime;

use edge_config::edge_toml;
use edge_config::inputs::Inputs;
use edge_config::manifest::AnyObject;
use edge_config::names::{Kind, ObjectRef};
use edge_config::settings::HistorySettings;
use tokio::sync::{Notify, watch};

use super::folder::{Folder, Index, place};
use super::{Assigned, Cause, Changes, Counts, HistoryObserved, How, Outcome, Revision, record};
use crate::control::span;

/// Something that was taken into force, or was refused.
#[derive(Debug, Clone)]
pub struct Applied {
    pub generation: u64,
    pub at: SystemTime,
    pub cause: Cause,
    pub by: Option<String>,
    pub outcome: Outcome,
    /// Whether `edge.toml` has no fault now.
    pub is_sound: bool,
    pub counts: Counts,
    /// What is in force.
    pub inputs: Inputs,
    /// Of edge.toml, as it is in force.
    pub portion: Arc<str>,
    pub assigned: Assigned,
}

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub revisions: usize,
    pub bytes: u64,
    /// It stays whatever the bounds say.
    pub pinned: Option<u64>,
}

impl Bounds {
    pub fn of(settings: &HistorySettings, pinned: Option<u64>) -> Self {
        Self { revisions: settings.revisions, bytes: settings.max_size as u64, pinned }
    }
}

/// Refusals that wait for the disk.
const WAITING: usize = 16;

#[derive(Default)]
struct Inbox {
    /// In their order.
    news: Vec<Applied>,
    bounds: Option<Bounds>,
    is_over: bool,
}

type Shared = Arc<(Mutex<Inbox>, Condvar)>;

/// The running thread. Dropping it writes what is left and ends it.
pub struct Keeper {
    inbox: Shared,
    observed: watch::Receiver<Arc<HistoryObserved>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// `changed` is told when what is observed is new.
    pub fn start(state_directory: &Path, bounds: Bounds, changed: Arc<Notify>) -> std::io::Result<Self> {
        let inbox: Shared = Arc::default();
        let (publish, observed) = watch::channel(Arc::default());
        let shared = Arc::clone(&inbox);
        let folder = Folder::new(state_directory);
        let thread = std::thread::Builder::new().name("history".to_owned()).spawn(move || {
            let mut desk = Desk::open(folder, bounds);
            loop {
                publish.send_replace(Arc::new(desk.observed()));
                changed.notify_one();
                let (lock, arrived) = &*shared;
                let mut inbox = lock.lock().unwrap_or_else(PoisonError::into_inner);
                while inbox.news.is_empty() && inbox.bounds.is_none() {
                    if inbox.is_over {
                        return;
                    }
                    inbox = arrived.wait(inbox).unwrap_or_else(PoisonError::into_inner);
                }
                let (news, bounds) = (std::mem::take(&mut inbox.news), inbox.bounds.take());
                drop(inbox);
                desk.bounds = bounds.unwrap_or(desk.bounds);
                news.into_iter().for_each(|one| desk.take(one));
                desk.prune();
            }
        })?;
        Ok(Self { inbox, observed, thread: Some(thread) })
    }

    pub fn observed(&self) -> Arc<HistoryObserved> {
        Arc::clone(&self.observed.borrow())
    }

    /// Hands over what is in force now.
    pub fn note(&self, applied: Applied) {
        let mut inbox = self.lock();
        // Of two that the disk could not follow the last is what counts, with the reason of the first where somebody
        // gave it as a command.
        let is_applied = |one: &Applied| matches!(one.outcome, Outcome::Applied { .. });
        let is_full = inbox.news.len() >= WAITING;
        match inbox.news.last_mut() {
            Some(before) if is_applied(before) && is_applied(&applied) => {
                let first =
                    (before.by.is_some() && applied.by.is_none()).then(|| (before.cause.clone(), before.by.clone()));
                *before = applied;
                if let Some(first) = first {
                    (before.cause, before.by) = first;
                }
            }
            Some(before) if before.outcome == applied.outcome => {}
            _ if is_full && !is_applied(&applied) => {}
            _ => inbox.news.push(applied),
        }
        drop(inbox);
        self.inbox.1.notify_one();
    }

    pub fn bound(&self, bounds: Bounds) {
        self.lock().bounds = Some(bounds);
        self.inbox.1.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.lock().is_over = true;
        self.inbox.1.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the history panicked");
        }
    }
}

/// What the thread works on.
pub(super) struct Desk {
    folder: Folder,
    pub bounds: Bounds,
    /// Of every revision on the disk, with the size of its file; the oldest first.
    revisions: Vec<(Revision, u64)>,
    /// Of each text on the disk: its size, and how many revisions need it.
    texts: BTreeMap<String, (u64, usize)>,
    /// What was applied last.
    last: Option<Index>,
    /// Objects of which the buckets are known.
    known: Inputs,
    buckets: BTreeMap<(Kind, u8), String>,
    digests: record::Digests,
    trouble: Option<String>,
}

impl Desk {
    pub fn open(folder: Folder, bounds: Bounds) -> Self {
        let (indexes, notices) = folder.list();
        let mut texts: BTreeMap<String, (u64, usize)> =
            folder.sizes().into_iter().map(|(hash, size)| (hash, (size, 0))).collect();
        for (index, _) in &indexes {
            for hash in index.texts() {
                if let Some((_, count)) = texts.get_mut(hash) {
                    *count += 1;
                }
            }
        }
        notices.iter().for_each(|notice| tracing::warn!("{notice}"));
        let last = indexes.iter().rev().find(|(index, _)| !index.revision.hash.is_empty());
        let mut desk = Self {
            last: last.map(|(index, _)| index.clone()),
            revisions: indexes.into_iter().map(|(index, size)| (index.revision, size)).collect(),
            folder,
            bounds,
            texts,
            known: Inputs::default(),
            buckets: BTreeMap::new(),
            digests: record::Digests::default(),
            trouble: notices.first().cloned(),
        };
        // What a crash left between two writes.
        desk.sweep();
        desk
    }

    pub fn observed(&self) -> HistoryObserved {
        HistoryObserved {
            revisions: self.revisions.iter().map(|(revision, _)| revision.clone()).collect(),
            size: self.size(),
            trouble: self.trouble.clone(),
        }
    }

    fn size(&self) -> u64 {
        let files: u64 = self.revisions.iter().map(|(_, size)| size).sum();
        files + self.texts.values().map(|(size, _)| size).sum::<u64>()
    }

    /// Writes a revision, if it is another one than the last.
    pub fn take(&mut self, applied: Applied) {
        if self.bounds.revisions == 0 {
            return;
        }
        match self.write(applied) {
            Ok(()) => self.trouble = None,
            Err(error) => {
                // What was found out is not on the disk, so it is found out again.
                (self.known, self.buckets) = Default::default();
                self.fail(format!("history: a revision is not on disk: {error}"));
            }
        }
    }

    fn fail(&mut self, trouble: String) {
        if self.trouble.as_ref() != Some(&trouble) {
            tracing::warn!("{trouble}");
        }
        self.trouble = Some(trouble);
    }

    fn write(&mut self, applied: Applied) -> std::io::Result<()> {
        let Applied { generation, at, cause, by, outcome, is_sound, counts, inputs, portion, assigned } = applied;
        let newest = self.revisions.last().map(|(revision, _)| revision.clone());
        let number = newest.as_ref().map_or(1, |newest| newest.revision + 1);
        let mut revision = Revision {
            revision: number,
            generation,
            at: span::rfc3339(at),
            cause,
            by,
            outcome,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            hash: String::new(),
            counts,
            changes: Changes::default(),
        };
        if let Outcome::Refused { .. } = &revision.outcome {
            // What stays refused for the same reason is told once.
            if newest.is_some_and(|newest| newest.outcome == revision.outcome) {
                return Ok(());
            }
            let index =
                Index { revision, settings: String::new(), buckets: BTreeMap::new(), assigned: BTreeMap::new() };
            self.folder.make()?;
            let size = self.folder.write_index(&index)?;
            self.revisions.push((index.revision, size));
            return Ok(());
        }
        let mut texts = self.learn(&inputs)?;
        let settings = record::hash(portion.as_bytes());
        texts.insert(settings.clone(), portion.to_string());
        revision.counts.objects = record::kinds().map(|kind| inputs.of_kind(kind).len()).sum();
        revision.hash = record::summary(&self.digests.keys(&inputs, &portion));
        let named = self.buckets.iter().map(|((kind, bucket), content)| (place(*kind, *bucket), content.clone()));
        let mut index = Index {
            revision,
            settings,
            buckets: named.collect(),
            assigned: assigned.iter().map(|(object, list)| (object.to_string(), list.clone())).collect(),
        };
        if let Some(last) = &self.last {
            let was = &last.revision.version;
            if index.revision.cause == Cause::Start && *was != index.revision.version {
                index.revision.cause = Cause::Upgrade { from: was.clone() };
            }
            let is_told =
                matches!(index.revision.cause, Cause::Upgrade { .. } | Cause::Rollback { .. } | Cause::Release);
            // A refusal between the two shows that it was mended.
            let is_newest = newest.is_some_and(|newest| newest.revision == last.revision.revision);
            if !is_told && (is_newest || !is_sound) && index.is_same(last) {
                return Ok(());
            }
            index.revision.changes = self.folder.changes(last, &index, &texts);
        }
        self.folder.make()?;
        for hash in index.texts() {
            if !self.texts.contains_key(hash) {
                let text = texts.get(hash).ok_or_else(|| std::io::Error::other("a text is not known any more"))?;
                self.folder.write_text(hash, text)?;
                self.texts.insert(hash.clone(), (text.len() as u64, 0));
            }
        }
        let size = self.folder.write_index(&index)?;
        for hash in index.texts() {
            if let Some((_, count)) = self.texts.get_mut(hash) {
                *count += 1;
            }
        }
        self.revisions.push((index.revision.clone(), size));
        self.last = Some(index);
        Ok(())
    }

    /// Brings the buckets up to date; returns the texts of those that changed.
    fn learn(&mut self, inputs: &Inputs) -> std::io::Result<BTreeMap<String, String>> {
        let mut texts = BTreeMap::new();
        for kind in record::kinds() {
            if inputs.shares_kind(&self.known, kind) {
                continue;
            }
            let (old, new) = (by_name(&self.known, kind), by_name(inputs, kind));
            let mut dirty: Vec<u8> = Vec::new();
            dirty.extend(old.keys().filter(|object| !new.contains_key(*object)).map(record::bucket));
            let is_other = |(object, now): &(&ObjectRef, &AnyObject)| {
                old.get(*object).is_none_or(|before| !before.is_identical(now))
            };
            dirty.extend(new.iter().filter(is_other).map(|(object, _)| record::bucket(object)));
            dirty.sort_unstable();
            dirty.dedup();
            let mut lines: BTreeMap<u8, String> = dirty.into_iter().map(|bucket| (bucket, String::new())).collect();
            for (object, value) in &new {
                if let Some(text) = lines.get_mut(&record::bucket(object)) {
                    text.push_str(&record::line(value)?);
                    text.push('\n');
                }
            }
            for (bucket, text) in lines {
                if text.is_empty() {
                    self.buckets.remove(&(kind, bucket));
                    continue;
                }
                let hash = record::hash(text.as_bytes());
                texts.insert(hash.clone(), text);
                self.buckets.insert((kind, bucket), hash);
            }
            self.known.share_kind(inputs, kind);
        }
        Ok(texts)
    }

    /// Lets go of the oldest until everything is within the bounds; never of the newest, nor of what is held.
    pub fn prune(&mut self) {
        loop {
            let newest = self.last.as_ref().map(|last| last.revision.revision);
            let is_over = self.revisions.len() > self.bounds.revisions.max(1) || self.size() > self.bounds.bytes;
            let may_go = |revision: &Revision| {
                Some(revision.revision) != newest && Some(revision.revision) != self.bounds.pinned
            };
            let oldest = self.revisions.iter().position(|(revision, _)| may_go(revision)).filter(|_| is_over);
            let Some(oldest) = oldest else { return };
            let (gone, _) = self.revisions.remove(oldest);
            if let Ok(index) = self.folder.index(gone.revision) {
                for hash in index.texts() {
                    if let Some((_, count)) = self.texts.get_mut(hash) {
                        *count = count.saturating_sub(1);
                    }
                }
            }
            if let Err(error) = self.folder.remove(gone.revision) {
                self.fail(format!("history: revision {} cannot be removed: {error}", gone.revision));
            }
            self.sweep();
        }
    }

    /// Removes the texts that no revision needs.
    fn sweep(&mut self) {
        let folder = &self.folder;
        self.texts.retain(|hash, (_, count)| *count > 0 || folder.remove_text(hash).is_err());
    }
}

fn by_name(inputs: &Inputs, kind: Kind) -> BTreeMap<ObjectRef, AnyObject> {
    inputs.of_kind(kind).into_iter().map(|object| (object.reference(), object)).collect()
}

impl Changes {
    /// What the sources say against what is in force, where equal objects are the same object.
    pub fn between(in_force: (&Inputs, &str), now: (&Inputs, &str)) -> Self {
        let mut changes = Self::default();
        for path in edge_toml::differences(in_force.1, now.1) {
            changes.add(How::Changed, || format!("edge.toml: {path}"));
        }
        for kind in record::kinds().filter(|kind| !in_force.0.shares_kind(now.0, *kind)) {
            let (old, mut new) = (by_name(in_force.0, kind), by_name(now.0, kind));
            for (object, held) in old {
                match new.remove(&object) {
                    None => changes.add(How::Removed, || object.to_string()),
                    Some(now) if !now.is_identical(&held) => changes.add(How::Changed, || object.to_string()),
                    Some(_) => {}
                }
            }
            for object in new.into_keys() {
                changes.add(How::Added, || object.to_string());
            }
        }
        changes
    }
}
