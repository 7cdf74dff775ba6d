//! What the API server holds of the objects that Edge answers for, as the watch saw it last.
//!
//! The watch writes, the status writer reads. Nothing here is judged. An object's status is kept as text: there are
//! thousands of them, few change at a time, and a tree costs several times its text.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use edge_config::names::{Kind, ObjectRef};
use foldhash::HashMap;
use tokio::sync::Notify;

/// One object in the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiObject {
    pub uid: Box<str>,
    pub resource_version: Box<str>,
    pub generation: i64,
    /// The JSON text of `status`; empty where there is none.
    pub status: Box<str>,
}

/// Cheap to clone; all clones are one ledger. Bounded by the number of objects in the cluster.
#[derive(Clone, Default)]
pub struct Ledger {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    objects: HashMap<ObjectRef, ApiObject>,
    /// Seen anew since somebody took them.
    fresh: BTreeSet<ObjectRef>,
    versions: HashMap<Kind, &'static str>,
    is_complete: bool,
}

impl Ledger {
    /// An object as a watch event or an answer to a write shows it. Watch and answers overtake each other, so an older
    /// version of the same object is ignored.
    pub fn saw(&self, object: ObjectRef, seen: ApiObject) {
        let mut state = self.state();
        match state.objects.get(&object) {
            Some(known) if *known == seen || is_older(&seen, known) => return,
            _ => {}
        }
        state.objects.insert(object.clone(), seen);
        state.fresh.insert(object);
        drop(state);
        self.inner.changed.notify_one();
    }

    /// An object is gone from the API.
    pub fn gone(&self, object: &ObjectRef) {
        let mut state = self.state();
        if state.objects.remove(object).is_some() {
            state.fresh.insert(object.clone());
            drop(state);
            self.inner.changed.notify_one();
        }
    }

    /// After a list: what is of this kind and not in the list is gone.
    pub fn retain(&self, kind: Kind, listed: &dyn Fn(&ObjectRef) -> bool) {
        let gone: Vec<ObjectRef> =
            self.state().objects.keys().filter(|object| object.kind == kind && !listed(object)).cloned().collect();
        gone.iter().for_each(|object| self.gone(object));
    }

    /// Whether every kind that is served has been listed, and what came of it was handed on. Until then nothing is
    /// written: a route must not lose its entry for a Gateway that is merely not listed yet.
    pub fn set_complete(&self, is_complete: bool) {
        self.state().is_complete = is_complete;
        self.inner.changed.notify_one();
    }

    pub fn is_complete(&self) -> bool {
        self.state().is_complete
    }

    /// The version of the API under which a kind is served.
    pub fn set_version(&self, kind: Kind, version: &'static str) {
        self.state().versions.insert(kind, version);
    }

    pub fn version(&self, kind: Kind) -> &'static str {
        self.state().versions.get(&kind).copied().unwrap_or("v1")
    }

    pub fn get(&self, object: &ObjectRef) -> Option<ApiObject> {
        self.state().objects.get(object).cloned()
    }

    /// All names, in no order.
    pub fn names(&self) -> Vec<ObjectRef> {
        self.state().objects.keys().cloned().collect()
    }

    /// What changed since the last call, objects that are gone included.
    pub fn take_fresh(&self) -> BTreeSet<ObjectRef> {
        std::mem::take(&mut self.state().fresh)
    }

    /// Resolves once something changed; a change between two calls is not missed.
    pub async fn changed(&self) {
        self.inner.changed.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one assignment, so what a panic left behind is whole.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Versions of one object can be compared as numbers (KEP-5504). One that is no number is taken as it comes.
fn is_older(seen: &ApiObject, known: &ApiObject) -> bool {
    let number = |object: &ApiObject| object.resource_version.parse::<u128>().ok();
    seen.uid == known.uid && matches!((number(seen), number(known)), (Some(new), Some(old)) if new < old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use edge_config::names::ObjectKey;

    fn object(uid: &str, version: &str) -> ApiObject {
        ApiObject { uid: uid.into(), resource_version: version.into(), generation: 1, status: "".into() }
    }

    #[test]
    fn older_versions_do_not_replace_newer_ones() {
        for (known, seen, kept) in [
            (("a", "9"), ("a", "10"), "10"),
            (("a", "10"), ("a", "9"), "10"),
            (("a", "10"), ("b", "9"), "9"),
            (("a", "x"), ("a", "9"), "9"),
        ] {
            let ledger = Ledger::default();
            let name = ObjectRef::new(Kind::Gateway, ObjectKey::parse("ns/gw"));
            ledger.saw(name.clone(), object(known.0, known.1));
            ledger.saw(name.clone(), object(seen.0, seen.1));
            assert_eq!(&*ledger.get(&name).unwrap().resource_version, kept, "{known:?} then {seen:?}");
            assert_eq!(ledger.take_fresh().len(), 1);
            ledger.retain(Kind::Gateway, &|_| false);
            assert!(ledger.get(&name).is_none());
            assert_eq!(ledger.take_fresh().len(), 1);
        }
    }
}
