//! What the API server said last, as the supervisor holds it, and how it goes together with files: objects of files win,
//! since whoever writes them is who runs this edge, and an object of the cluster must not take their place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use edge_config::inputs::{Inputs, Outdated};
use edge_config::names::{Kind, ObjectKey, ObjectRef};
use edge_config::problem::{Problem, Severity};
use tokio::time::Instant;

use crate::certs::SecretTexts;
use crate::kubernetes::{Changes, Entry, Restored, Tenure, last_good, secrets_of, texts};
use crate::memory;
use crate::source::Keys;
use crate::store::{Store, StoreError};

/// So many changes at once are a list, and no list comes for long after it.
const BULK: usize = 1000;

/// What files say, kept to be put together with the cluster again.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) inputs: Inputs,
    pub(super) keys: Keys,
    pub(super) problems: Vec<Problem>,
    /// Of `edge.toml`.
    pub(super) portion: Arc<str>,
}

impl Files {
    /// The Secrets that objects of files name and files do not hold.
    pub(super) fn secrets(&self) -> BTreeSet<ObjectKey> {
        referred(&self.inputs).filter(|secret| !self.inputs.secrets.contains_key(secret)).collect()
    }
}

/// The Secrets that objects name.
pub(super) fn referred(inputs: &Inputs) -> impl Iterator<Item = ObjectKey> {
    let kinds =
        [Kind::Gateway, Kind::ListenerSet, Kind::BackendTLSPolicy, Kind::Issuer, Kind::Certificate, Kind::BGPPeer];
    let objects = kinds.into_iter().flat_map(|kind| inputs.of_kind(kind));
    objects.flat_map(|object| secrets_of(&object))
}

/// Everything that compile reads, from all sources.
pub(super) struct Joined {
    pub(super) inputs: Inputs,
    pub(super) keys: Keys,
    pub(super) problems: Vec<Problem>,
    pub(super) portion: Arc<str>,
}

impl From<Files> for Joined {
    fn from(files: Files) -> Self {
        let Files { inputs, keys, problems, portion } = files;
        Self { inputs, keys, problems, portion }
    }
}

/// The objects of the API server.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    inputs: Inputs,
    keys: Keys,
    /// Of objects that have any.
    problems: BTreeMap<ObjectRef, Arc<Entry>>,
    unusable: BTreeMap<ObjectRef, String>,
    outdated: BTreeMap<ObjectRef, Outdated>,
    /// Whether anything is known at all: from the API server, or from the disk.
    pub(super) is_known: bool,
}

impl Cluster {
    pub(super) fn of(restored: &Restored) -> Self {
        let mut cluster = Self { is_known: !restored.is_empty(), ..Self::default() };
        for (object, entry) in restored {
            cluster.set(object.clone(), Some(Arc::clone(entry)));
        }
        cluster.inputs.pack();
        cluster
    }

    /// Takes a batch; returns whether it was of nothing but endpoints.
    pub(super) fn take(&mut self, changes: Changes) -> bool {
        let only_endpoints = self.is_known && changes.objects.keys().all(|object| object.kind == Kind::EndpointSlice);
        self.is_known = true;
        let is_bulk = changes.objects.len() > BULK;
        for (object, entry) in changes.objects {
            self.set(object, entry);
        }
        if is_bulk {
            self.inputs.pack();
        }
        only_endpoints
    }

    fn set(&mut self, object: ObjectRef, entry: Option<Arc<Entry>>) {
        self.problems.remove(&object);
        self.unusable.remove(&object);
        self.outdated.remove(&object);
        self.keys.remove(&object);
        let Some(entry) = entry else {
            self.inputs.remove(&object);
            return;
        };
        if let Some(outdated) = &entry.outdated {
            self.outdated.insert(object.clone(), Outdated::clone(outdated));
        }
        match &entry.served {
            Ok(served) => {
                self.keys.put(&object, served);
                served.object.clone().put(&mut self.inputs);
            }
            Err(reason) => {
                self.inputs.remove(&object);
                self.unusable.insert(object.clone(), reason.to_string());
            }
        }
        if !entry.problems.is_empty() {
            self.problems.insert(object, entry);
        }
    }

    /// Puts the objects of files over those of the cluster.
    pub(super) fn join(&self, files: &Files) -> Joined {
        let mut inputs = self.inputs.clone();
        let twice = inputs.overlay(&files.inputs);
        inputs.settings = Arc::clone(&files.inputs.settings);
        let mut keys = self.keys.clone();
        let mut problems = files.problems.clone();
        let shadowed: BTreeSet<&ObjectRef> = twice.iter().collect();
        for (object, entry) in &self.problems {
            if !shadowed.contains(object) {
                problems.extend(entry.problems.iter().cloned());
            }
        }
        for object in &twice {
            keys.remove(object);
            let place = inputs.meta(object).map(|meta| meta.origin.to_string()).unwrap_or_default();
            problems.push(Problem {
                severity: Severity::Error,
                origin: self.inputs.meta(object).map(|meta| meta.origin.clone()),
                object: Some(object.clone()),
                message: format!("is there twice; the one at {place} is in effect"),
            });
        }
        keys.extend(&files.keys);
        // What one source breaks, another may still define.
        let broken = files.inputs.unusable.iter().chain(&self.unusable);
        let broken = broken.filter(|(object, _)| inputs.meta(object).is_none());
        inputs.unusable = broken.map(|(object, reason)| (object.clone(), reason.clone())).collect();
        inputs.outdated = self.outdated_beside(files);
        Joined { inputs, keys, problems, portion: Arc::clone(&files.portion) }
    }

    /// Those of its objects that serve in their last good version and are in no file.
    fn outdated_beside(&self, files: &Files) -> BTreeMap<ObjectRef, Outdated> {
        let outdated = self.outdated.iter().filter(|(object, _)| files.inputs.meta(object).is_none());
        outdated.map(|(object, outdated)| (object.clone(), outdated.clone())).collect()
    }

    /// The endpoints as they are now within inputs that are otherwise the same.
    pub(super) fn with_endpoints(&self, files: &Files, inputs: &Inputs) -> Inputs {
        let mut inputs = inputs.clone();
        inputs.endpoint_slices.clone_from(&self.inputs.endpoint_slices);
        for slice in files.inputs.of_kind(Kind::EndpointSlice) {
            slice.put(&mut inputs);
        }
        inputs.outdated = self.outdated_beside(files);
        inputs
    }
}

/// Between two writes of the last good objects.
const PERIOD: Duration = Duration::from_secs(10);

/// What is kept beside the objects of the API server.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    pub(super) texts: Arc<SecretTexts>,
    pub(super) tenure: Tenure,
}

impl Kept {
    /// What the store holds of it.
    pub(super) fn read(store: &Store) -> Self {
        let texts = store.secret_texts().map(|kept| texts::decode(&kept)).unwrap_or_default();
        Self { texts: Arc::new(texts), tenure: store.tenure().map(|kept| Tenure::decode(&kept)).unwrap_or_default() }
    }

    /// Makes the store hold what is another than before.
    fn write(&mut self, new: &Self, store: &Store) -> Result<(), StoreError> {
        if self.tenure != new.tenure {
            store.put_tenure(new.tenure.encode())?;
            self.tenure = new.tenure;
        }
        let at_hand = new.texts.iter().filter(|(_, text)| text.is_ok());
        let texts: SecretTexts = at_hand.map(|(reference, text)| (reference.clone(), text.clone())).collect();
        if texts != *self.texts {
            store.put_secret_texts(texts::encode(&texts))?;
            self.texts = Arc::new(texts);
        }
        Ok(())
    }
}

/// Keeps the last good objects on disk, on a thread of its own: a disk that hangs holds up nothing but itself.
pub(super) struct Saver {
    jobs: Option<std::sync::mpsc::SyncSender<(Inputs, Keys, Kept)>>,
    thread: Option<JoinHandle<()>>,
    trouble: Arc<std::sync::Mutex<Option<String>>>,
    is_due: bool,
    last: Option<Instant>,
    /// As it was handed over last.
    tenure: Tenure,
}

impl Saver {
    /// `kept`: what the store holds.
    pub(super) fn start(state_directory: &std::path::Path, store: Store, mut kept: Kept) -> std::io::Result<Self> {
        let (jobs, inbox) = std::sync::mpsc::sync_channel::<(Inputs, Keys, Kept)>(1);
        let tenure = kept.tenure;
        let trouble = Arc::new(std::sync::Mutex::new(None));
        let tell = Arc::clone(&trouble);
        let mut writer = last_good::Writer::new(state_directory);
        let thread = std::thread::Builder::new().name("last-good".to_owned()).spawn(move || {
            for (inputs, keys, new) in inbox {
                let outcome = writer.write(&inputs, &keys);
                drop((inputs, keys));
                memory::give_back();
                let outcome = outcome.map_err(|error| format!("the last good objects are not on disk: {error}"));
                let beside = kept.write(&new, &store).map_err(|error| format!("what goes with them is not: {error}"));
                let reason = outcome.and(beside).err();
                let mut known = tell.lock().unwrap_or_else(PoisonError::into_inner);
                if let (Some(reason), false) = (&reason, *known == reason) {
                    tracing::warn!("kubernetes: {reason}");
                }
                *known = reason;
            }
        })?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), trouble, is_due: false, last: None, tenure })
    }

    pub(super) fn note(&mut self) {
        self.is_due = true;
    }

    /// Hands over what is new, not too often.
    pub(super) fn look(&mut self, cluster: &Cluster, kept: Kept) {
        let is_time = self.last.is_none_or(|last| last.elapsed() >= PERIOD);
        if (self.is_due || kept.tenure != self.tenure) && is_time {
            self.save(cluster, kept);
        }
    }

    fn save(&mut self, cluster: &Cluster, kept: Kept) {
        let Some(jobs) = &self.jobs else { return };
        let tenure = kept.tenure;
        // Full: the disk is slow, and the next look brings newer objects anyway.
        if jobs.try_send((cluster.inputs.clone(), cluster.keys.clone(), kept)).is_ok() {
            (self.is_due, self.tenure) = (false, tenure);
            self.last = Some(Instant::now());
        }
    }

    /// Why the disk does not hold what serves.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes what is new and ends the thread.
    pub(super) fn stop(mut self, cluster: &Cluster, kept: Kept) {
        if self.is_due || kept.tenure != self.tenure {
            self.save(cluster, kept);
        }
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the last good objects panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::restore;

    fn route(name: &str, host: &str) -> (ObjectRef, Option<Arc<Entry>>) {
        let text = format!(
            r#"{{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{{"name":"{name}","namespace":"n"}},"spec":{{"hostnames":["{host}"]}}}}"#
        );
        let (key, entry) = restore(Kind::HTTPRoute, text.as_bytes()).unwrap();
        (ObjectRef::new(Kind::HTTPRoute, key), Some(Arc::new(entry)))
    }

    fn hosts(inputs: &Inputs) -> Vec<&str> {
        inputs.http_routes.values().map(|route| &*route.spec.hostnames[0]).collect()
    }

    #[test]
    fn files_win_and_both_are_told() {
        let mut cluster = Cluster::default();
        let changes = [route("a", "a.cluster"), route("b", "b.cluster")].into_iter().collect();
        assert!(!cluster.take(Changes { objects: changes }));
        let mut files = Files::default();
        let (_, entry) = route("a", "a.file");
        entry.unwrap().served.as_ref().unwrap().object.clone().put(&mut files.inputs);
        let joined = cluster.join(&files);
        assert_eq!(hosts(&joined.inputs), ["a.file", "b.cluster"]);
        assert_eq!(joined.problems.len(), 1);
        assert!(joined.problems[0].to_string().starts_with("kubernetes: HTTPRoute n/a: is there twice"));
        let gone = ObjectRef::new(Kind::HTTPRoute, ObjectKey::new("n", "b"));
        cluster.take(Changes { objects: BTreeMap::from([(gone, None)]) });
        assert_eq!(hosts(&cluster.join(&files).inputs), ["a.file"]);
    }
}
