//! Many feeds into one stream of changes: waits a moment for what belongs together, holds back what is half of
//! something, and keeps the latest of each object while the supervisor is busy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use edge_config::names::{Kind, ObjectKey, ObjectRef};
use edge_config::settings::{KubernetesSettings, SecretScope};
use foldhash::{HashMap, HashMapExt as _};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::discovery::Discovery;
use super::entry::{self, Entry};
use super::feed::{Feed, News, Shared};
use super::kinds::{self, Slot};
use super::readiness::{Phase, Readiness, Release};
use super::references::secrets_of;
use super::state::{KindState, SourceState};
use super::{Changes, Restored};
use crate::kubernetes::client::Api;
use crate::kubernetes::mirror::Mirror;
use crate::memory;

/// Events within this time of each other are one change: the API server sends those of several kinds on their own ways.
const QUIET: Duration = Duration::from_millis(2);
/// After this, changes go out however many follow.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// By then whoever took changes has let go of what came with them.
const TIDY: Duration = Duration::from_secs(5);
/// Single Secrets that are watched, at most.
const MOST_SECRETS: usize = 1000;

/// Secrets that objects of other sources refer to.
pub type Wanted = Arc<BTreeSet<ObjectKey>>;

pub struct Gather {
    settings: Arc<KubernetesSettings>,
    shared: Shared,
    inbox: mpsc::Receiver<News>,
    discovery: Option<Discovery>,
    out: mpsc::Sender<Changes>,
    state: watch::Sender<Arc<SourceState>>,
    wanted: watch::Receiver<Wanted>,
    restored: Restored,
    readiness: Readiness,
    rows: BTreeMap<Slot, KindState>,
    pending: BTreeMap<ObjectRef, Option<Arc<Entry>>>,
    /// When the first and the last of what is pending came.
    since: Option<(Instant, Instant)>,
    /// Whether the first batch, which may be empty, is out.
    is_begun: bool,
    /// By object: the Secrets it names.
    references: HashMap<ObjectRef, Vec<ObjectKey>>,
    secrets: BTreeMap<ObjectKey, AbortHandle>,
    unreachable_since: Option<SystemTime>,
    last_good: Option<SystemTime>,
}

impl Gather {
    pub fn new(
        settings: Arc<KubernetesSettings>,
        (api, mirror): (Api, Mirror),
        restored: Restored,
        (out, state): (mpsc::Sender<Changes>, watch::Sender<Arc<SourceState>>),
        wanted: watch::Receiver<Wanted>,
    ) -> Self {
        let (news, inbox) = mpsc::channel(64);
        let shared = Shared {
            api,
            mirror,
            settings: Arc::clone(&settings),
            news,
            revivals: watch::channel(0).0,
            nudge: Arc::new(Notify::new()),
        };
        let slots = kinds::slots(&settings);
        let readiness = Readiness::new(slots.iter().cloned(), Instant::now() + settings.sync_timeout);
        Self {
            settings,
            shared,
            inbox,
            discovery: Some(Discovery::default()),
            out,
            state,
            wanted,
            restored,
            readiness,
            rows: BTreeMap::new(),
            pending: BTreeMap::new(),
            since: None,
            is_begun: false,
            references: HashMap::new(),
            secrets: BTreeMap::new(),
            unreachable_since: None,
            last_good: None,
        }
    }

    /// Runs until nobody takes changes any more.
    pub async fn run(mut self) {
        let Some(discovery) = self.discovery.take() else { return };
        for slot in kinds::slots(&self.settings) {
            let known = self.known(&slot);
            self.start(slot, known, &discovery);
        }
        let secrets = discovery.of(Kind::Secret);
        let slots = kinds::slots(&self.settings);
        for (object, entry) in self.restored.clone() {
            self.note_references(&object, Some(&entry));
            let is_read = slots.iter().any(|slot| slot.holds(&object));
            if !is_read && object.kind != Kind::Secret {
                // Of a namespace that is not read any more.
                self.pending.insert(object, None);
            }
        }
        tokio::spawn(discovery.run(self.shared.api.clone(), Arc::clone(&self.shared.nudge)));
        self.follow_references(&secrets);
        let out = self.out.clone();
        let mut tidy_at: Option<Instant> = None;
        loop {
            let due = self.due();
            let is_due = due.is_some_and(|due| due <= Instant::now());
            tokio::select! {
                Some(news) = self.inbox.recv() => {
                    self.take(news);
                    self.follow_references(&secrets);
                }
                permit = out.reserve(), if is_due => {
                    let Ok(permit) = permit else { return };
                    if !std::mem::replace(&mut self.is_begun, true) {
                        self.drop_unwanted_secrets();
                        // Every feed has its part of it.
                        self.restored.clear();
                    }
                    self.since = None;
                    permit.send(Changes { objects: std::mem::take(&mut self.pending) });
                    self.publish();
                    tidy_at.get_or_insert(Instant::now() + TIDY);
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() && !is_due => {}
                () = sleep_until(tidy_at.unwrap_or_else(Instant::now)), if tidy_at.is_some() => {
                    tidy_at = None;
                    memory::give_back();
                }
                Ok(()) = self.wanted.changed() => self.follow_references(&secrets),
                () = out.closed() => return,
            }
        }
    }

    /// When what is pending may go out; `None`: not before something is heard.
    fn due(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let release = self.readiness.release(now);
        let settled = match self.since {
            Some((first, last)) => (last + QUIET).min(first + DEBOUNCE),
            // Nothing is as good as anything, the first time.
            None if !self.is_begun => now,
            None => return None,
        };
        match release {
            Release::Now => Some(settled),
            Release::At(time) => Some(time.max(settled)),
            Release::Never => None,
        }
    }

    fn start(&self, slot: Slot, known: HashMap<ObjectKey, Arc<Entry>>, discovery: &Discovery) {
        let served = discovery.of(slot.kind);
        tokio::spawn(Feed::new(slot, self.shared.clone(), served, known).run());
    }

    /// What serves from before in a collection.
    fn known(&self, slot: &Slot) -> HashMap<ObjectKey, Arc<Entry>> {
        let known = self.restored.iter().filter(|(object, _)| slot.holds(object));
        known.map(|(object, entry)| (object.key.clone(), Arc::clone(entry))).collect()
    }

    fn take(&mut self, news: News) {
        let now = Instant::now();
        let News { slot, phase, version, changes, objects, heard, lists, failures } = news;
        if slot.name.is_some() && !self.rows_are_wanted(&slot) {
            // The last words of a feed that was ended.
            return;
        }
        self.readiness.note(&slot, &phase, now);
        if !changes.is_empty() {
            let first = self.since.map_or(now, |(first, _)| first);
            self.since = Some((first, now));
        }
        for (key, entry) in changes {
            let object = ObjectRef::new(slot.kind, key);
            self.note_references(&object, entry.as_ref());
            self.pending.insert(object, entry);
        }
        let row = KindState {
            kind: slot.kind,
            name: slot.to_string(),
            version,
            phase,
            objects,
            last_event: heard,
            lists,
            failures,
        };
        let is_news = self.rows.get(&slot).is_none_or(|known| known.phase != row.phase);
        self.rows.insert(slot, row);
        if is_news {
            self.publish();
        }
    }

    fn rows_are_wanted(&self, slot: &Slot) -> bool {
        self.secrets
            .keys()
            .any(|key| slot.namespace.as_deref() == Some(&*key.namespace) && slot.name.as_deref() == Some(&*key.name))
    }

    fn publish(&mut self) {
        let is_reached = |row: &KindState| {
            matches!(row.phase, Phase::Live | Phase::Absent | Phase::Refused(_)) && row.version.is_some()
        };
        let trouble = self.shared.api.trouble();
        if self.rows.values().any(is_reached) {
            self.last_good = Some(SystemTime::now());
            if self.unreachable_since.take().is_some() {
                tracing::info!("kubernetes: the API server is back");
            }
        } else if self.unreachable_since.is_none()
            && let Some(reason) = self.rows.values().find_map(KindState::failure)
        {
            tracing::warn!("kubernetes: the API server cannot be reached: {reason}");
            self.unreachable_since = Some(SystemTime::now());
        }
        let state = SourceState {
            unreachable_since: self.unreachable_since,
            last_good: self.last_good,
            is_complete: self.is_begun,
            trouble,
            kinds: self.rows.values().cloned().collect(),
        };
        self.state.send_if_modified(|known| {
            let is_new = **known != state;
            if is_new {
                *known = Arc::new(state);
            }
            is_new
        });
    }

    /// Secrets that served before and that nothing refers to any more.
    fn drop_unwanted_secrets(&mut self) {
        if self.settings.secrets == SecretScope::Referenced {
            let restored = self.restored.keys().filter(|object| object.kind == Kind::Secret);
            let unwanted = restored.filter(|object| !self.secrets.contains_key(&object.key)).cloned();
            self.pending.extend(unwanted.map(|object| (object, None)));
        }
    }

    fn note_references(&mut self, object: &ObjectRef, entry: Option<&Arc<Entry>>) {
        if self.settings.secrets != SecretScope::Referenced {
            return;
        }
        let secrets = entry.and_then(|entry| entry::object(entry)).map(secrets_of).unwrap_or_default();
        if secrets.is_empty() {
            self.references.remove(object);
        } else {
            self.references.insert(object.clone(), secrets);
        }
    }

    /// Watches each Secret that something refers to, and no other.
    fn follow_references(&mut self, served: &watch::Receiver<super::discovery::Served>) {
        if self.settings.secrets != SecretScope::Referenced {
            return;
        }
        let may_read = |key: &ObjectKey| {
            let namespaces = &self.settings.namespaces;
            namespaces.is_empty() || namespaces.iter().any(|namespace| namespace == &*key.namespace)
        };
        let elsewhere = self.wanted.borrow_and_update().clone();
        let wanted: BTreeSet<ObjectKey> = self.references.values().flatten().chain(&*elsewhere).cloned().collect();
        let wanted: BTreeSet<ObjectKey> = wanted.into_iter().filter(may_read).take(MOST_SECRETS).collect();
        let slot = |key: &ObjectKey| Slot {
            kind: Kind::Secret,
            namespace: Some(key.namespace.to_string()),
            name: Some(key.name.to_string()),
        };
        let gone: Vec<ObjectKey> = self.secrets.keys().filter(|key| !wanted.contains(*key)).cloned().collect();
        for key in gone {
            if let Some(feed) = self.secrets.remove(&key) {
                feed.abort();
            }
            self.readiness.forget(&slot(&key));
            self.rows.remove(&slot(&key));
            let now = Instant::now();
            self.since = Some((self.since.map_or(now, |(first, _)| first), now));
            self.pending.insert(ObjectRef::new(Kind::Secret, key), None);
        }
        for key in wanted {
            if self.secrets.contains_key(&key) {
                continue;
            }
            let slot = slot(&key);
            let known = self.known(&slot);
            if !self.readiness.is_open() {
                // Served with the rest: a listener without its certificate is half of one.
                self.readiness.note(&slot, &Phase::Pending(None), Instant::now());
            }
            let feed = Feed::new(slot, self.shared.clone(), served.clone(), known);
            self.secrets.insert(key, tokio::spawn(feed.run()).abort_handle());
        }
    }
}
