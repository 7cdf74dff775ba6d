//! What the API server says of objects beside what they ask for: identity, version, status. The watches write it, whoever
//! writes status reads it: a status that is equal needs no write, and entries of other controllers must be kept.

mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use edge_config::metallb::{ALLOCATED_ANNOTATION, WRITTEN_ANNOTATION};
use edge_config::names::{Kind, ObjectRef};
use foldhash::HashMap;
use serde_json::Value;
use tokio::sync::watch;

use text::Forms;
pub use text::StatusText;

/// Annotations of a Service that the writer of status writes beside it.
pub(super) const OWN_ANNOTATIONS: [&str; 2] = [ALLOCATED_ANNOTATION, WRITTEN_ANNOTATION];
/// The API takes so many addresses of a Gateway; of a Service nobody needs more.
const MOST_ADDRESSES: usize = 16;

/// An object as the API server showed it last, whether Edge can use it or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    pub uid: Box<str>,
    pub resource_version: Box<str>,
    /// 0 for kinds that have none.
    pub generation: i64,
    /// Whether it is being deleted and only waits for its finalizers.
    pub is_leaving: bool,
    /// `status`; empty where there is none.
    pub status: StatusText,
    /// What the status says are the addresses of a Gateway or a Service.
    pub addresses: Box<[IpAddr]>,
    /// Of a Service: the values of [`OWN_ANNOTATIONS`].
    pub annotations: [Option<Box<str>>; 2],
}

impl Seen {
    /// The addresses in the status of a Gateway or a Service; those that are names are none.
    pub(super) fn addresses_in(status: &Value) -> Box<[IpAddr]> {
        let texts = |list: &Value, name: &str| -> Vec<IpAddr> {
            let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
            list.iter().filter_map(|entry| entry[name].as_str()?.parse().ok()).take(MOST_ADDRESSES).collect()
        };
        let mut addresses = texts(&status["addresses"], "value");
        addresses.extend(texts(&status["loadBalancer"]["ingress"], "ip"));
        addresses.into()
    }
}

/// A cheap handle; clones share the content.
#[derive(Clone)]
pub struct Mirror(Arc<Shared>);

struct Shared {
    seen: RwLock<HashMap<ObjectRef, Arc<Seen>>>,
    forms: Mutex<Forms>,
    changes: watch::Sender<u64>,
    /// Counts the changes of addresses.
    addresses: watch::Sender<u64>,
    /// Changed since the writer of status took them; bounded by the number of objects there ever were between.
    fresh: Mutex<BTreeSet<ObjectRef>>,
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror").field("objects", &self.read().len()).finish_non_exhaustive()
    }
}

impl Default for Mirror {
    fn default() -> Self {
        let (changes, addresses) = (watch::channel(0).0, watch::channel(0).0);
        let (seen, forms, fresh) = (RwLock::default(), Mutex::default(), Mutex::default());
        Self(Arc::new(Shared { seen, forms, changes, addresses, fresh }))
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

    /// Counts the changes of addresses that objects show; a receiver wakes at each.
    pub fn moves(&self) -> watch::Receiver<u64> {
        self.0.addresses.subscribe()
    }

    /// The addresses that these objects show, of those that show any.
    pub fn published(&self, objects: impl IntoIterator<Item = ObjectRef>) -> BTreeMap<ObjectRef, Vec<IpAddr>> {
        let seen = self.read();
        let shown = |object: ObjectRef| {
            let addresses = &seen.get(&object)?.addresses;
            (!addresses.is_empty()).then(|| (object, addresses.to_vec()))
        };
        objects.into_iter().filter_map(shown).collect()
    }

    /// The names of all objects, in no order.
    pub(super) fn names(&self) -> Vec<ObjectRef> {
        self.read().keys().cloned().collect()
    }

    /// What changed since the last call, objects that are gone included. For the writer of status alone.
    pub(super) fn take_fresh(&self) -> BTreeSet<ObjectRef> {
        std::mem::take(&mut *self.0.fresh.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes what was seen (`None`: the object is gone), as one change. Watches and answers to writes overtake each
    /// other, so an older version of the same object is ignored.
    pub(super) fn note(&self, news: impl IntoIterator<Item = (ObjectRef, Option<Seen>)>) {
        let (mut is_changed, mut is_moved) = (false, false);
        {
            let mut seen = self.0.seen.write().unwrap_or_else(PoisonError::into_inner);
            let mut fresh = self.0.fresh.lock().unwrap_or_else(PoisonError::into_inner);
            let mut forms = self.0.forms.lock().unwrap_or_else(PoisonError::into_inner);
            for (object, news) in news {
                let before = seen.get(&object).map_or(&[][..], |known| &known.addresses);
                is_moved |= news.as_ref().map_or(&[][..], |news| &news.addresses) != before;
                match news {
                    Some(news) if seen.get(&object).is_some_and(|known| !is_news(&news, known)) => continue,
                    Some(mut news) => {
                        forms.share(&mut news.status);
                        seen.insert(object.clone(), Arc::new(news));
                    }
                    None => drop(seen.remove(&object)),
                }
                is_changed = true;
                fresh.insert(object);
            }
        }
        if is_changed {
            self.0.changes.send_modify(|count| *count += 1);
        }
        if is_moved {
            self.0.addresses.send_modify(|count| *count += 1);
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
        // It has no status.
        HTTPRouteFilter => false,
        GatewayClass
        | Gateway
        | ListenerSet
        | HTTPRoute
        | GRPCRoute
        | TLSRoute
        | TCPRoute
        | UDPRoute
        | ReferenceGrant
        | BackendTLSPolicy
        | Service
        | Issuer
        | ClusterIssuer
        | Certificate
        | ClientTrafficPolicy
        | BackendTrafficPolicy
        | SecurityPolicy
        | Backend
        | UpstreamSettingsPolicy
        | ClientSettingsPolicy
        | ProxySettingsPolicy
        | RateLimitPolicy
        | AuthenticationFilter
        | SnippetsFilter
        | SnippetsPolicy => true,
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
            Seen { uid, resource_version, generation: 1, ..Seen::default() }
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

    #[test]
    fn addresses_that_objects_show() {
        let mirror = Mirror::default();
        let moves = mirror.moves();
        let name = |kind| ObjectRef::new(kind, ObjectKey::parse("ns/x"));
        let mut version = 0;
        let mut show = |kind, status: Value| {
            version += 1;
            let resource_version = version.to_string().into();
            let addresses = Seen::addresses_in(&status);
            mirror.note([(name(kind), Some(Seen { resource_version, addresses, ..Seen::default() }))]);
            let shown = mirror.published([name(kind)]).remove(&name(kind)).unwrap_or_default();
            (shown.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" "), *moves.borrow())
        };
        let gateway = |list: &[&str]| {
            let addresses: Vec<Value> = list.iter().map(|value| serde_json::json!({ "value": value })).collect();
            serde_json::json!({ "addresses": addresses, "listeners": [] })
        };
        for (kind, status, shown, moves) in [
            (Kind::Gateway, Value::Null, "", 0),
            (Kind::Gateway, gateway(&["192.0.2.1", "a.example", "2001:db8::1"]), "192.0.2.1 2001:db8::1", 1),
            (Kind::Gateway, gateway(&["192.0.2.1", "2001:db8::1"]), "192.0.2.1 2001:db8::1", 1),
            (
                Kind::Service,
                serde_json::json!({"loadBalancer": {"ingress": [{"hostname": "a.example"}, {"ip": "192.0.2.2"}]}}),
                "192.0.2.2",
                2,
            ),
            (Kind::Service, serde_json::json!({"loadBalancer": {"ingress": 7}}), "", 3),
        ] {
            assert_eq!(show(kind, status.clone()), (shown.to_owned(), moves), "{kind} {status}");
        }
        mirror.note([(name(Kind::Gateway), None)]);
        assert_eq!((mirror.published([name(Kind::Gateway)]).len(), *moves.borrow()), (0, 4));
    }
}
