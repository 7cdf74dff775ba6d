//! What the API server says of objects beside what they ask for: identity, version, status. The watches write it, whoever
//! writes status reads it: a status that is equal needs no write, and entries of other controllers must be kept.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use edge_config::names::{Kind, ObjectRef};
use foldhash::HashMap;
use tokio::sync::watch;

/// An object as the API server showed it last, whether Edge can use it or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub uid: Box<str>,
    pub resource_version: Box<str>,
    /// 0 for kinds that have none.
    pub generation: i64,
    /// Whether it is being deleted and only waits for its finalizers.
    pub is_leaving: bool,
    /// The JSON of `status`; empty where there is none.
    pub status: Box<[u8]>,
}

/// A cheap handle; clones share the content.
#[derive(Clone)]
pub struct Mirror(Arc<Shared>);

struct Shared {
    seen: RwLock<HashMap<ObjectRef, Arc<Seen>>>,
    changes: watch::Sender<u64>,
    /// Changed since the writer of status took them; bounded by the number of objects there ever were between.
    fresh: Mutex<BTreeSet<ObjectRef>>,
    versions: RwLock<HashMap<Kind, &'static str>>,
    is_open: AtomicBool,
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror").field("objects", &self.read().len()).finish_non_exhaustive()
    }
}

impl Default for Mirror {
    fn default() -> Self {
        Self(Arc::new(Shared {
            seen: RwLock::default(),
            changes: watch::channel(0).0,
            fresh: Mutex::default(),
            versions: RwLock::default(),
            is_open: AtomicBool::new(false),
        }))
    }
}

impl Mirror {
    pub fn look(&self, object: &ObjectRef) -> Option<Arc<Seen>> {
        self.read().get(object).cloned()
    }

    /// Counts the changes; a receiver wakes at each.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// The names of all objects, in no order.
    pub(super) fn names(&self) -> Vec<ObjectRef> {
        self.read().keys().cloned().collect()
    }

    /// What changed since the last call, objects that are gone included. For the writer of status alone.
    pub(super) fn take_fresh(&self) -> BTreeSet<ObjectRef> {
        std::mem::take(&mut *self.0.fresh.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says that everything that could be known was handed over once. Until then no status is written: a route must not
    /// lose its entry for a Gateway that is merely not listed yet.
    pub(super) fn open(&self) {
        if !self.0.is_open.swap(true, Ordering::AcqRel) {
            self.0.changes.send_modify(|count| *count += 1);
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.0.is_open.load(Ordering::Acquire)
    }

    /// The version of the API in which a kind is served.
    pub(super) fn set_version(&self, kind: Kind, version: &'static str) {
        self.0.versions.write().unwrap_or_else(PoisonError::into_inner).insert(kind, version);
    }

    pub(super) fn version(&self, kind: Kind) -> Option<&'static str> {
        self.0.versions.read().unwrap_or_else(PoisonError::into_inner).get(&kind).copied()
    }

    /// Takes what was seen (`None`: the object is gone), as one change. Watches and answers to writes overtake each
    /// other, so an older version of the same object is ignored.
    pub(super) fn note(&self, news: impl IntoIterator<Item = (ObjectRef, Option<Seen>)>) {
        let mut is_changed = false;
        {
            let mut seen = self.0.seen.write().unwrap_or_else(PoisonError::into_inner);
            let mut fresh = self.0.fresh.lock().unwrap_or_else(PoisonError::into_inner);
            for (object, news) in news {
                match news {
                    Some(news) if seen.get(&object).is_some_and(|known| !is_news(&news, known)) => continue,
                    Some(news) => drop(seen.insert(object.clone(), Arc::new(news))),
                    None => drop(seen.remove(&object)),
                }
                is_changed = true;
                fresh.insert(object);
            }
        }
        if is_changed {
            self.0.changes.send_modify(|count| *count += 1);
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<ObjectRef, Arc<Seen>>> {
        self.0.seen.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Versions of one object can be compared as numbers (KEP-5504). One that is no number is taken as it comes.
fn is_news(news: &Seen, known: &Seen) -> bool {
    let number = |seen: &Seen| seen.resource_version.parse::<u128>().ok();
    let is_older =
        news.uid == known.uid && matches!((number(news), number(known)), (Some(new), Some(old)) if new < old);
    !is_older && news != known
}

/// Kinds whose objects are mirrored: those whose status Edge, or somebody who asks Edge, writes.
pub(super) fn is_mirrored(kind: Kind) -> bool {
    use Kind::*;
    match kind {
        Namespace | EndpointSlice | Secret | ConfigMap | Node => false,
        IPAddressPool | L2Advertisement | BGPPeer | BGPAdvertisement | Community | BFDProfile | EnvoyProxy => false,
        GatewayClass | Gateway | ListenerSet | HTTPRoute | GRPCRoute | TLSRoute | TCPRoute | UDPRoute
        | ReferenceGrant | BackendTLSPolicy | Service | Issuer | ClusterIssuer | Certificate | ClientTrafficPolicy
        | BackendTrafficPolicy | SecurityPolicy | Backend => true,
    }
}

#[cfg(test)]
mod tests {
    use edge_config::names::ObjectKey;

    use super::*;

    #[test]
    fn older_versions_do_not_replace_newer_ones() {
        let seen = |(uid, version): (&str, &str)| {
            let (uid, resource_version) = (uid.into(), version.into());
            Seen { uid, resource_version, generation: 1, is_leaving: false, status: [].into() }
        };
        for (known, news, kept) in [
            (("a", "9"), ("a", "10"), "10"),
            (("a", "10"), ("a", "9"), "10"),
            (("a", "10"), ("b", "9"), "9"),
            (("a", "x"), ("a", "9"), "9"),
        ] {
            let mirror = Mirror::default();
            let name = ObjectRef::new(Kind::Gateway, ObjectKey::parse("ns/gw"));
            mirror.note([(name.clone(), Some(seen(known)))]);
            mirror.note([(name.clone(), Some(seen(news)))]);
            assert_eq!(&*mirror.look(&name).unwrap().resource_version, kept, "{known:?} then {news:?}");
            assert_eq!(mirror.take_fresh().len(), 1);
            mirror.note([(name.clone(), None)]);
            assert!(mirror.look(&name).is_none());
            assert_eq!(mirror.take_fresh().len(), 1);
        }
    }
}
