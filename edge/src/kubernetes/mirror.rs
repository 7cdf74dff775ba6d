//! What the API server says of objects beside what they ask for: identity, version, status. The watches write it, whoever
//! writes status reads it: a status that is equal needs no write, and entries of other controllers must be kept.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

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
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror").field("objects", &self.read().len()).finish_non_exhaustive()
    }
}

impl Default for Mirror {
    fn default() -> Self {
        Self(Arc::new(Shared { seen: RwLock::default(), changes: watch::channel(0).0 }))
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

    /// Takes what was seen (`None`: the object is gone), as one change.
    pub(super) fn note(&self, news: impl IntoIterator<Item = (ObjectRef, Option<Seen>)>) {
        let mut is_changed = false;
        {
            let mut seen = self.0.seen.write().unwrap_or_else(PoisonError::into_inner);
            for (object, news) in news {
                is_changed = true;
                match news {
                    Some(news) => drop(seen.insert(object, Arc::new(news))),
                    None => drop(seen.remove(&object)),
                }
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
