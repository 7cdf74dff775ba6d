//! One object of the API as the source holds it: what serves, what is wrong with it, and its version. The tree that was
//! read flows in with the entry before it, an entry flows out; decoding is that of files.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::SystemTime;

use edge_config::inputs::Outdated;
use edge_config::manifest::{AnyObject, Item, Known, Outcome, decode_served};
use edge_config::names::{Kind, ObjectKey, ObjectRef};
use edge_config::problem::{Origin, Problem, Severity};
use edge_config::validate;
use edge_config::yaml::Node;

use super::json::{Raw, StatusPart};
use super::reflector::number;
use crate::control::span;
use crate::kubernetes::mirror::{self, OWN_ANNOTATIONS, Seen, StatusText};
use crate::source::{KeyMaterial, Served, Settled, settle};

/// What the API is called in problems and as the origin of objects.
pub const SOURCE: &str = "kubernetes";

/// What came of an object.
#[derive(Debug)]
pub struct Entry {
    /// The newest version that can serve, or why there is none.
    pub served: Result<Served, Box<str>>,
    /// Why that is not the newest, where it is not.
    pub outdated: Option<Box<Outdated>>,
    pub problems: Box<[Problem]>,
}

impl Entry {
    /// Whether both mean the same to everybody.
    fn is_same(&self, other: &Self) -> bool {
        let served = match (&self.served, &other.served) {
            (Ok(one), Ok(other)) => is_same_served(one, other),
            (Err(one), Err(other)) => one == other,
            _ => false,
        };
        served && self.outdated == other.outdated && self.problems == other.problems
    }
}

fn is_same_served(one: &Served, other: &Served) -> bool {
    one.object == other.object && is_same_key(&one.key, &other.key) && one.password == other.password
}

fn is_same_key(one: &Option<Arc<KeyMaterial>>, other: &Option<Arc<KeyMaterial>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => {
            Arc::ptr_eq(one, other) || (one.certificate_pem == other.certificate_pem && one.key_pem == other.key_pem)
        }
        (None, None) => true,
        _ => false,
    }
}

/// An entry and the version it is of; 0: of a version that nobody knows any more.
#[derive(Debug, Clone)]
pub struct Held {
    pub version: u64,
    pub entry: Arc<Entry>,
}

/// Texts that many objects share.
#[derive(Debug)]
pub struct Texts {
    namespaces: HashSet<Arc<str>>,
    pub source: Arc<str>,
}

impl Default for Texts {
    fn default() -> Self {
        Self { namespaces: HashSet::new(), source: SOURCE.into() }
    }
}

impl Texts {
    fn namespace(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.namespaces.get(text) {
            return Arc::clone(known);
        }
        let text: Arc<str> = text.into();
        self.namespaces.insert(Arc::clone(&text));
        text
    }

    /// Forgets what no object has any more.
    pub fn prune(&mut self) {
        self.namespaces.retain(|text| Arc::strong_count(text) > 1);
    }
}

/// What becomes of `status` when objects of a kind are read.
pub fn status_part(kind: Kind) -> StatusPart {
    match kind {
        Kind::Node => StatusPart::InTree,
        kind if mirror::is_mirrored(kind) => StatusPart::Apart,
        _ => StatusPart::Drop,
    }
}

/// The name of an object; `None` for what can be no object, which the API server never serves.
pub fn key_of(kind: Kind, raw: &Raw<'_>, texts: &mut Texts) -> Option<ObjectKey> {
    let name = raw.metadata("name").filter(|name| validate::is_object_name(kind, name))?;
    if kind.is_cluster_scoped() {
        return Some(ObjectKey::new("", name));
    }
    let namespace = raw.metadata("namespace").filter(|namespace| validate::is_label(namespace))?;
    Some(ObjectKey::new(texts.namespace(namespace), name))
}

pub fn version_of(raw: &Raw<'_>) -> u64 {
    raw.metadata("resourceVersion").map_or(0, number)
}

/// What the mirror keeps of an object.
pub fn seen(kind: Kind, raw: &Raw<'_>) -> Option<Seen> {
    if !mirror::is_mirrored(kind) {
        return None;
    }
    let mut annotations = [None, None];
    if kind == Kind::Service {
        let metadata = raw.tree.member("metadata").and_then(|metadata| metadata.member("annotations"));
        let value = |name: &str| metadata.and_then(|annotations| annotations.member(name)?.as_str()).map(Box::from);
        annotations = OWN_ANNOTATIONS.map(value);
        let kind = raw.tree.member("spec").and_then(|spec| spec.member("type")).and_then(Node::as_str);
        // One that was announced may still say so.
        if kind != Some("LoadBalancer") && annotations[1].is_none() {
            return None;
        }
    }
    let addresses = match (kind, &raw.status) {
        (Kind::Gateway | Kind::Service, Some(status)) => Seen::addresses_in(status),
        _ => Box::default(),
    };
    // Whatever was read as JSON can be written as JSON.
    let status = raw.status.as_ref().and_then(|status| serde_json::to_vec(status).ok()).unwrap_or_default();
    Some(Seen { status: StatusText::of(&status), addresses, annotations, ..identity(raw) })
}

/// Which object in which version it is, and nothing that it says.
pub fn identity(raw: &Raw<'_>) -> Seen {
    Seen {
        uid: raw.metadata("uid").unwrap_or_default().into(),
        resource_version: raw.metadata("resourceVersion").unwrap_or_default().into(),
        generation: raw.generation(),
        is_leaving: raw.metadata("deletionTimestamp").is_some(),
        ..Seen::default()
    }
}

/// Decodes an object. `None`: it means what the entry before it means.
pub fn decode(kind: Kind, key: &ObjectKey, raw: &Raw<'_>, last: Option<&Arc<Entry>>, texts: &Texts) -> Option<Entry> {
    let known = Known { kind, key, source: &texts.source };
    let attempt = || decode_served(&raw.tree, &known);
    let item = catch_unwind(AssertUnwindSafe(attempt)).unwrap_or_else(|_| {
        let origin = Origin { file: Arc::clone(&texts.source), line: 0, column: 0 };
        let identity = ObjectRef::new(kind, key.clone());
        let problem = Problem {
            severity: Severity::Error,
            origin: Some(origin.clone()),
            object: Some(identity.clone()),
            message: "cannot be read: a fault in Edge's own decoder, please report it with this object".to_owned(),
        };
        Item { origin, identity: Some(identity), outcome: Outcome::Broken, password: None, problems: vec![problem] }
    });
    let before = last.and_then(|last| last.served.as_ref().ok()).cloned();
    let Settled { mut served, outdated, problems } = settle(item, before.clone());
    if let Ok(served) = &mut served {
        // Nobody needs most of them, and who needs one asks for it by name.
        served.texts = None;
    }
    if let (Ok(now), Some(before)) = (&mut served, before)
        && is_same_served(now, &before)
    {
        // Nobody has to look twice at what only had a problem for a while.
        *now = before;
    }
    let known = last.and_then(|last| last.outdated.as_ref()).map(|outdated| outdated.since.clone());
    let outdated = outdated.map(|reason| {
        let since = known.unwrap_or_else(|| span::rfc3339(SystemTime::now()));
        Box::new(Outdated { reason, since })
    });
    let entry = Entry { served: served.map_err(String::into_boxed_str), outdated, problems: problems.into() };
    match last {
        Some(last) if last.is_same(&entry) => None,
        _ => Some(entry),
    }
}

/// The references of an entry's object.
pub fn object(entry: &Entry) -> Option<&AnyObject> {
    entry.served.as_ref().ok().map(|served| &served.object)
}

#[cfg(test)]
mod tests {
    use edge_config::inputs::Created;

    use super::super::json::{Line, line};
    use super::*;

    fn read(kind: Kind, text: &str, last: Option<&Arc<Entry>>) -> Option<Entry> {
        let text = format!(r#"{{"type":"ADDED","object":{text}}}"#);
        let Line { object, .. } = line(text.as_bytes(), status_part(kind)).unwrap();
        let mut texts = Texts::default();
        let key = key_of(kind, &object, &mut texts).unwrap();
        decode(kind, &key, &object, last, &texts)
    }

    const ROUTE: &str = r#"{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":"r","namespace":"n",
        "generation":4,"creationTimestamp":"2026-01-02T03:04:05Z","resourceVersion":"77","uid":"u",
        "annotations":{"kubectl.kubernetes.io/last-applied-configuration":"x","keep":"y"},"managedFields":[{}]},
        "spec":{"hostnames":["a.example"],"rules":[{"matches":[{"path":{"type":"PathPrefix","value":"/"}}]}]},
        "status":{"parents":[]}}"#;

    #[test]
    fn metadata_of_the_server() {
        let entry = read(Kind::HTTPRoute, ROUTE, None).unwrap();
        assert!(entry.problems.is_empty(), "{:?}", entry.problems);
        let served = entry.served.as_ref().unwrap();
        let meta = served.object.meta();
        assert_eq!(meta.generation, 4);
        assert_eq!(meta.created, Created::parse("2026-01-02T03:04:05Z"));
        assert_eq!(meta.annotations.keys().collect::<Vec<_>>(), ["keep"]);
        assert_eq!(meta.origin.to_string(), "kubernetes");
        // A status alone changes nothing.
        let last = Arc::new(entry);
        let other = ROUTE.replace(r#""parents":[]"#, r#""parents":[{"x":1}]"#).replace("\"77\"", "\"78\"");
        assert!(read(Kind::HTTPRoute, &other, Some(&last)).is_none());
        assert!(read(Kind::HTTPRoute, &other.replace("a.example", "b.example"), Some(&last)).is_some());
    }

    #[test]
    fn a_broken_object_keeps_its_last_good_version() {
        let last = Arc::new(read(Kind::HTTPRoute, ROUTE, None).unwrap());
        let broken = ROUTE.replace(r#""hostnames":["a.example"]"#, r#""hostnames":7"#);
        let entry = read(Kind::HTTPRoute, &broken, Some(&last)).unwrap();
        assert!(entry.served.is_ok());
        assert!(entry.problems[0].message.ends_with("the last good version keeps serving"), "{:?}", entry.problems);
        let outdated = entry.outdated.as_ref().unwrap();
        assert!(outdated.reason.contains("hostnames") && !outdated.reason.contains("keeps"), "{outdated}");
        // Since when is told of the first useless version, however many follow.
        let since = outdated.since.clone();
        let mut known = entry;
        known.outdated.as_mut().unwrap().since = "2026-01-02T03:04:05Z".to_owned();
        let known = Arc::new(known);
        assert!(read(Kind::HTTPRoute, &broken, Some(&known)).is_none(), "{since}");
        let worse = broken.replace(r#""hostnames":7"#, r#""hostnames":8"#).replace("\"PathPrefix\"", "7");
        let later = read(Kind::HTTPRoute, &worse, Some(&known)).unwrap();
        assert_eq!(later.outdated.unwrap().since, "2026-01-02T03:04:05Z");
        let good = read(Kind::HTTPRoute, ROUTE, Some(&known)).unwrap();
        assert!(good.served.is_ok() && good.outdated.is_none());
        let alone = read(Kind::HTTPRoute, &broken, None).unwrap();
        assert!(alone.served.unwrap_err().contains("hostnames"));
    }

    #[test]
    fn bulk_is_left_behind() {
        let text = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"s","namespace":"n","labels":{"a":"b"}},
            "spec":{"type":"ClusterIP","clusterIP":"10.0.0.1","clusterIPs":["10.0.0.1"],"ports":[{"port":80,"protocol":"TCP"}],
            "selector":{"a":"b"},"newField":1},"status":{"loadBalancer":{}}}"#;
        let entry = read(Kind::Service, text, None).unwrap();
        assert!(entry.problems.is_empty(), "{:?}", entry.problems);
        assert!(entry.served.unwrap().object.meta().labels.is_empty());
        let text = text.replace("\"ClusterIP\"", "\"LoadBalancer\"");
        assert_eq!(read(Kind::Service, &text, None).unwrap().served.unwrap().object.meta().labels.len(), 1);
    }

    #[test]
    fn nodes_come_with_their_status() {
        let text = r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n1","labels":{"zone":"a"}},
            "spec":{"podCIDR":"10.244.1.0/24","podCIDRs":["10.244.1.0/24"],"taints":[]},
            "status":{"addresses":[{"type":"InternalIP","address":"192.0.2.1"}],
            "conditions":[{"type":"Ready","status":"True","lastHeartbeatTime":"x"}],"nodeInfo":{"a":"b"}}}"#;
        let entry = read(Kind::Node, text, None).unwrap();
        assert!(entry.problems.is_empty(), "{:?}", entry.problems);
        let AnyObject::Node(node) = &entry.served.as_ref().unwrap().object else { panic!("no Node") };
        assert_eq!(node.spec.spec.pod_cidrs, ["10.244.1.0/24"]);
        assert_eq!(node.spec.status.addresses[0].address, "192.0.2.1");
        // Heartbeats change nothing.
        let last = Arc::new(entry);
        assert!(read(Kind::Node, &text.replace("\"x\"", "\"y\""), Some(&last)).is_none());
    }
}
