//! One collection, watched for as long as the daemon runs: carries out what the [`Reflector`] asks for, and tells what
//! changed. Objects that mean what they meant before are no change, and a list replaces what was known in one step.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use edge_config::names::{Kind, ObjectKey, ObjectRef};
use edge_config::settings::KubernetesSettings;
use edge_config::yaml::Node;
use foldhash::{HashMap, HashSet};
use serde::Deserialize;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep};

use super::discovery::Served;
use super::entry::{self, Entry, Held, Texts};
use super::json::{self, Line, Raw};
use super::kinds::{Slot, encode};
use super::readiness::Phase;
use super::reflector::{Ask, Effect, Failure, Heard, Reflector};
use super::wire::{self, Status};
use crate::kubernetes::backoff::chance;
use crate::kubernetes::client::Api;
use crate::kubernetes::mirror::{self, Mirror, Seen};
use crate::memory;

/// A watch is asked to end after 25 to 40 s, so that one that says nothing for longer is dead: many are truly silent. The
/// server sends a bookmark right before the end of each, so the next one goes on from there.
const WATCH_SECONDS: u64 = 25;
const WATCH_SECONDS_SPREAD: u64 = 15;
/// Beyond the time that the watch should have ended by itself.
const SILENCE: Duration = Duration::from_secs(8);
/// A streaming list that says nothing for so long, before it is complete, is none.
const STREAM_PATIENCE: Duration = Duration::from_secs(10);
/// Everything is listed again after 30 to 60 minutes: a watch is trusted, not believed.
const RESYNC_MINUTES: u64 = 30;
/// A watch that ends before this and said nothing was no watch.
const ABRUPT: Duration = Duration::from_secs(2);
/// Changes that are handed over together, at most.
const BATCH: usize = 256;
/// Reading a list of more objects than this leaves much memory behind.
const BULK: usize = 500;
/// KEP-3157: on the bookmark after the last object of a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// What a feed tells.
#[derive(Debug)]
pub struct News {
    pub slot: Slot,
    pub phase: Phase,
    /// The version of the API that the objects come in.
    pub version: Option<&'static str>,
    /// `None`: the object is gone.
    pub changes: Vec<(ObjectKey, Option<Arc<Entry>>)>,
    /// How many objects there are.
    pub objects: usize,
    /// When the API server told of a change last.
    pub heard: Option<SystemTime>,
    pub lists: u64,
    pub failures: u64,
}

/// What all feeds share.
#[derive(Clone)]
pub struct Shared {
    pub api: Api,
    pub mirror: Mirror,
    pub settings: Arc<KubernetesSettings>,
    pub news: mpsc::Sender<News>,
    /// Counts the ends of outages: whoever waits out a failure tries again.
    pub revivals: watch::Sender<u64>,
    /// Asks discovery to look now.
    pub nudge: Arc<Notify>,
}

pub struct Feed {
    slot: Slot,
    shared: Shared,
    /// The version in which the API server has the kind, if it has it.
    served: watch::Receiver<Served>,
    reflector: Reflector,
    known: HashMap<ObjectKey, Held>,
    /// Of a list that is under way.
    listed: HashSet<ObjectKey>,
    /// Not told yet.
    changes: Vec<(ObjectKey, Option<Arc<Entry>>)>,
    sightings: Vec<(ObjectRef, Option<Seen>)>,
    texts: Texts,
    phase: Phase,
    /// Whether a list was ever complete.
    was_live: bool,
    /// Whether the last request came to nothing for a reason that passes for all at once.
    is_cut_off: bool,
    heard: Option<SystemTime>,
    lists: u64,
    failures: u64,
    resync_at: Instant,
    /// Whether a large list was read, whose memory is to be given back.
    is_bulky: bool,
}

impl Feed {
    /// `known` is what serves from before, of versions that nobody knows any more.
    pub fn new(
        slot: Slot,
        shared: Shared,
        served: watch::Receiver<Served>,
        known: HashMap<ObjectKey, Arc<Entry>>,
    ) -> Self {
        let known = known.into_iter().map(|(key, entry)| (key, Held { version: 0, entry })).collect();
        Self {
            slot,
            shared,
            served,
            reflector: Reflector::default(),
            known,
            listed: HashSet::default(),
            changes: Vec::new(),
            sightings: Vec::new(),
            texts: Texts::default(),
            phase: Phase::Pending(None),
            was_live: false,
            is_cut_off: false,
            heard: None,
            lists: 0,
            failures: 0,
            resync_at: Instant::now(),
            is_bulky: false,
        }
    }

    /// Runs until the receiver of news is gone.
    pub async fn run(mut self) {
        // The channel is closed when the daemon stops.
        while self.step().await.is_ok() {}
    }

    async fn step(&mut self) -> Result<(), Closed> {
        let served = *self.served.borrow_and_update();
        let version = match served {
            Served::In(version) => version,
            Served::Unknown => return self.served.changed().await.map_err(|_| Closed),
            Served::Absent => {
                // What it had keeps serving: objects go when the server says so, not when it falls silent.
                self.list_again();
                self.tell(Phase::Absent, None).await?;
                return self.served.changed().await.map_err(|_| Closed);
            }
        };
        let outcome = match self.reflector.next() {
            Ask::Wait(wait) => return self.wait(wait).await,
            Ask::Stream => self.follow(version, None).await,
            Ask::Watch { version: from } => self.follow(version, Some(&from)).await,
            Ask::Page { token, limit } => self.page(version, &token, limit).await,
        };
        match outcome {
            Ok(()) => self.flush(version).await,
            Err(failure) => self.fail(failure, version).await,
        }
    }

    async fn wait(&mut self, wait: Duration) -> Result<(), Closed> {
        let mut revivals = self.shared.revivals.subscribe();
        tokio::select! {
            () = sleep(wait) => Ok(()),
            _ = revivals.changed(), if self.is_cut_off => {
                // Not all in the same moment.
                sleep(Duration::from_millis(u64::from(chance()))).await;
                Ok(())
            }
            () = self.shared.api.renewed(), if self.is_cut_off => Ok(()),
            changed = self.served.changed() => changed.map_err(|_| Closed),
            () = self.shared.news.closed() => Err(Closed),
        }
    }

    /// One page of a list.
    async fn page(&mut self, version: &'static str, token: &str, limit: u32) -> Result<(), Failure> {
        let narrowing = self.slot.narrowing(&self.shared.settings);
        let mut path = format!("{}?limit={limit}{narrowing}", self.slot.path(version));
        if token.is_empty() {
            self.listed.clear();
        } else {
            path.push_str("&continue=");
            encode(token, &mut path);
        }
        let bytes = wire::page(&self.shared.api, &path).await?;
        self.revive();
        let meta = json::list(&bytes, entry::status_part(self.slot.kind), |raw| self.sight(&raw));
        let meta = meta.map_err(|error| Failure::Other(format!("the list cannot be read: {error}")))?;
        self.hear(Heard::Page { version: meta.resource_version, next: meta.next });
        Ok(())
    }

    /// A watch: of what follows a version, or, without one, of everything.
    async fn follow(&mut self, version: &'static str, from: Option<&str>) -> Result<(), Failure> {
        let seconds = WATCH_SECONDS + WATCH_SECONDS_SPREAD * u64::from(chance()) / 255;
        let narrowing = self.slot.narrowing(&self.shared.settings);
        let mut path = format!(
            "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}{narrowing}&resourceVersion=",
            self.slot.path(version),
        );
        match from {
            Some(from) => encode(from, &mut path),
            None => {
                path.push_str("&sendInitialEvents=true&resourceVersionMatch=NotOlderThan");
                self.listed.clear();
            }
        }
        let began = Instant::now();
        let mut lines = match wire::watch(&self.shared.api, &path).await {
            Ok(lines) => lines,
            // Servers without streaming lists refuse their parameters.
            Err(Failure::Other(reason)) if from.is_none() && reason.starts_with('4') => {
                return Err(Failure::NoStream(reason));
            }
            Err(failure) => return Err(failure),
        };
        self.revive();
        let mut has_heard = false;
        loop {
            while let Some(line) = lines.ready() {
                has_heard = true;
                self.line(line)?;
                if self.changes.len() >= BATCH && self.reflector.is_following() {
                    self.flush(version).await.map_err(|Closed| unheard())?;
                }
            }
            let is_following = self.reflector.is_following();
            if is_following && (self.phase != Phase::Live || self.has_news()) {
                self.flush(version).await.map_err(|Closed| unheard())?;
            }
            if is_following && self.resync_at <= Instant::now() {
                self.list_again();
                return Ok(());
            }
            let patience = match is_following {
                true => (Duration::from_secs(seconds) + SILENCE).saturating_sub(began.elapsed()),
                false => STREAM_PATIENCE,
            };
            let more = tokio::select! {
                more = lines.more(patience) => more,
                // Another version, or none: whatever it is, the next step sees it.
                _ = self.served.changed() => {
                    self.served.mark_changed();
                    return Ok(());
                }
            };
            match more {
                Ok(true) => {}
                Ok(false) => {
                    self.hear(Heard::Ended { is_abrupt: !has_heard && began.elapsed() < ABRUPT });
                    return Ok(());
                }
                // It took the parameters and did not understand them, or cannot finish.
                Err(Failure::Silent(_)) if !is_following => {
                    return Err(Failure::NoStream("the list does not end".to_owned()));
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// One line of a watch.
    fn line(&mut self, text: &[u8]) -> Result<(), Failure> {
        if text.is_empty() {
            return Ok(());
        }
        let line = json::line(text, entry::status_part(self.slot.kind));
        let Line { kind, object } =
            line.map_err(|error| Failure::Other(format!("an event cannot be read: {error}")))?;
        let version = object.metadata("resourceVersion").unwrap_or_default().to_owned();
        match kind.as_ref() {
            "ADDED" | "MODIFIED" => {
                self.sight(&object);
                self.heard = Some(SystemTime::now());
            }
            "DELETED" => {
                if let Some(key) = entry::key_of(self.slot.kind, &object, &mut self.texts) {
                    self.remove(key);
                }
                self.heard = Some(SystemTime::now());
            }
            "BOOKMARK" => {
                let annotations = object.tree.member("metadata").and_then(|metadata| metadata.member("annotations"));
                let end = annotations.and_then(|annotations| annotations.member(INITIAL_EVENTS_END));
                if !self.reflector.is_following() && end.and_then(Node::as_str) == Some("true") {
                    self.hear(Heard::InitialEnd { version });
                    return Ok(());
                }
            }
            "ERROR" => {
                #[derive(Deserialize)]
                struct ErrorLine {
                    object: Status,
                }
                let failure = match serde_json::from_slice::<ErrorLine>(text) {
                    Ok(line) => line.object.failure(0, None),
                    Err(error) => Failure::Other(format!("an error event cannot be read: {error}")),
                };
                return Err(match failure {
                    Failure::Other(reason) if !self.reflector.is_following() => Failure::NoStream(reason),
                    failure => failure,
                });
            }
            other => return Err(Failure::Other(format!("an event of the unknown type {other:?}"))),
        }
        if version.is_empty() {
            return Err(Failure::Other("an event without a version".to_owned()));
        }
        self.hear(Heard::Version(version));
        Ok(())
    }

    /// Takes an object as it is now.
    fn sight(&mut self, raw: &Raw<'_>) {
        let kind = self.slot.kind;
        let Some(key) = entry::key_of(kind, raw, &mut self.texts) else { return };
        let version = entry::version_of(raw);
        let (key, last) = match self.known.get_key_value(&key) {
            Some((known, held)) => (known.clone(), Some(held)),
            None => (key, None),
        };
        if !self.reflector.is_following() {
            self.listed.insert(key.clone());
        }
        let is_known = last.is_some_and(|held| held.version == version && version != 0);
        let is_stale = last.is_some_and(|held| held.version > version && version != 0);
        if is_known || (is_stale && !self.reflector.accepts_older()) {
            return;
        }
        let object = ObjectRef::new(kind, key.clone());
        match entry::seen(kind, raw) {
            Some(seen) => self.sightings.push((object, Some(seen))),
            // A Service may stop being one that is announced.
            None if kind == Kind::Service && self.shared.mirror.look(&object).is_some() => {
                self.sightings.push((object, None));
            }
            None => {}
        }
        let last = last.map(|held| &held.entry);
        let was_outdated = last.is_some_and(|last| last.outdated.is_some());
        let news = entry::decode(kind, &key, raw, last, &self.texts);
        let is_outdated = news.as_ref().map_or(was_outdated, |entry| entry.outdated.is_some());
        if (was_outdated || is_outdated) && !mirror::is_mirrored(kind) {
            // Who is told of it must know which object it is.
            let object = ObjectRef::new(kind, key.clone());
            self.sightings.push((object, is_outdated.then(|| entry::identity(raw))));
        }
        match news {
            Some(entry) => {
                let entry = Arc::new(entry);
                self.changes.push((key.clone(), Some(Arc::clone(&entry))));
                self.known.insert(key, Held { version, entry });
            }
            None => {
                if let Some(held) = self.known.get_mut(&key) {
                    held.version = version;
                }
            }
        }
    }

    fn remove(&mut self, key: ObjectKey) {
        if self.known.remove(&key).is_some() {
            self.sightings.push((ObjectRef::new(self.slot.kind, key.clone()), None));
            self.changes.push((key, None));
        }
    }

    fn hear(&mut self, heard: Heard) {
        match self.reflector.hear(heard) {
            Effect::None => {}
            // What was read of objects stays true, and is told when a list is complete.
            Effect::Discard => self.listed.clear(),
            Effect::Complete => {
                let listed = std::mem::take(&mut self.listed);
                self.is_bulky = listed.len() > BULK;
                let gone: Vec<ObjectKey> = self.known.keys().filter(|key| !listed.contains(*key)).cloned().collect();
                gone.into_iter().for_each(|key| self.remove(key));
                self.texts.prune();
                self.known.shrink_to_fit();
                self.lists += 1;
                self.was_live = true;
                let minutes = RESYNC_MINUTES + RESYNC_MINUTES * u64::from(chance()) / 255;
                self.resync_at = Instant::now() + Duration::from_secs(60 * minutes);
            }
        }
    }

    fn list_again(&mut self) {
        self.reflector.resync();
        self.listed.clear();
    }

    async fn fail(&mut self, failure: Failure, version: &'static str) -> Result<(), Closed> {
        if !matches!(failure, Failure::NoStream(_)) {
            self.failures += 1;
            self.is_cut_off = matches!(failure, Failure::Other(_) | Failure::Silent(_) | Failure::Unauthorized);
        }
        if failure == Failure::Missing {
            self.shared.nudge.notify_one();
        }
        tracing::debug!(slot = %self.slot, "kubernetes: {failure}");
        let reason = failure.to_string();
        let phase = match &failure {
            Failure::NoStream(_) => self.phase.clone(),
            Failure::Forbidden(_) => Phase::Refused(reason),
            _ if self.was_live => Phase::Lost(reason),
            _ => Phase::Pending(Some(reason)),
        };
        self.hear(Heard::Failed(failure));
        self.tell(phase, Some(version)).await
    }

    /// Whoever waits because the server was away need not wait any longer.
    fn revive(&mut self) {
        if std::mem::take(&mut self.is_cut_off) {
            self.shared.revivals.send_modify(|count| *count += 1);
        }
    }

    fn has_news(&self) -> bool {
        !self.changes.is_empty() || !self.sightings.is_empty()
    }

    /// Tells what is complete.
    async fn flush(&mut self, version: &'static str) -> Result<(), Closed> {
        if !self.reflector.is_following() || (self.phase == Phase::Live && !self.has_news()) {
            return Ok(());
        }
        self.tell(Phase::Live, Some(version)).await
    }

    async fn tell(&mut self, phase: Phase, version: Option<&'static str>) -> Result<(), Closed> {
        // Half of a list is nobody's business yet.
        let is_whole = self.reflector.is_following();
        let changes = if is_whole { std::mem::take(&mut self.changes) } else { Vec::new() };
        if is_whole {
            self.shared.mirror.note(std::mem::take(&mut self.sightings));
        }
        if phase == self.phase && changes.is_empty() && version.is_some() {
            return Ok(());
        }
        self.phase = phase.clone();
        let news = News {
            slot: self.slot.clone(),
            phase,
            version,
            changes,
            objects: self.known.len(),
            heard: self.heard,
            lists: self.lists,
            failures: self.failures,
        };
        self.shared.news.send(news).await.map_err(|_| Closed)?;
        if std::mem::take(&mut self.is_bulky) {
            memory::give_back();
        }
        Ok(())
    }
}

/// Nobody listens any more: the daemon stops.
struct Closed;

fn unheard() -> Failure {
    Failure::Other("nobody listens".to_owned())
}
