//! Objects as texts in the form of the API, and back; and what of inputs is configuration. Pure.
//!
//! Objects lie in buckets by their name, so that one that changes costs a bucket on the disk and not its whole kind.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::digest;
use edge_config::core::ServicePort;
use edge_config::edge_toml;
use edge_config::inputs::Inputs;
use edge_config::manifest::AnyObject;
use edge_config::names::{Kind, ObjectRef};
use edge_config::problem::Origin;
use edge_config::settings::Settings;
use serde_json::Value;

use crate::kubernetes::{last_good, restore};

/// Of each kind.
const BUCKETS: u8 = 64;

/// Whether objects of a kind say what is wanted. Those of the other kinds say what there is, or are what others refer to
/// and must never come back from the past: keys, certificates, revocation lists, endpoints.
pub fn is_configuration(kind: Kind) -> bool {
    !matches!(kind, Kind::Secret | Kind::ConfigMap | Kind::EndpointSlice | Kind::Node)
}

/// The kinds that are kept.
pub fn kinds() -> impl Iterator<Item = Kind> {
    Kind::ALL.into_iter().filter(|kind| is_configuration(*kind))
}

pub fn bucket(object: &ObjectRef) -> u8 {
    let name = object.key.to_string();
    let sum = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    u8::try_from((sum >> 32) % u64::from(BUCKETS)).unwrap_or_default()
}

/// One line. A password in it is only a word that there is one.
pub fn line(object: &AnyObject) -> std::io::Result<String> {
    let body = object.body().map_err(std::io::Error::other)?;
    let mut whole = last_good::in_api_form(object, body);
    // A copy of what somebody applied, passwords included.
    if let Some(annotations) = whole.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    Ok(whole.to_string())
}

/// What of a line says what is wanted: the same in a file and at an API server, on every edge.
pub fn essence(line: &str) -> String {
    let Ok(mut value) = serde_json::from_str::<Value>(line) else { return line.to_owned() };
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("generation");
        metadata.remove("creationTimestamp");
    }
    if value.get("kind").and_then(Value::as_str) == Some(Kind::Service.as_str())
        && let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut)
    {
        // What a cluster has given out.
        for key in ["clusterIP", "clusterIPs", "healthCheckNodePort"] {
            spec.remove(key);
        }
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            port.as_object_mut().map(|port| port.remove("nodePort"));
        }
    }
    value.to_string()
}

pub fn hash(text: &[u8]) -> String {
    let sum = digest::digest(&digest::SHA256, text);
    sum.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// What each object says, as a hash, known until the object changes.
#[derive(Debug, Default)]
pub struct Digests {
    known: BTreeMap<ObjectRef, (AnyObject, Arc<str>)>,
}

impl Digests {
    /// A key for each object that is configuration, and for each setting that edges have in common, with the hash of what
    /// it says.
    pub fn keys(&mut self, inputs: &Inputs, portion: &str) -> BTreeMap<String, String> {
        let mut known = BTreeMap::new();
        let mut keys = BTreeMap::new();
        for object in kinds().flat_map(|kind| inputs.of_kind(kind)) {
            let reference = object.reference();
            let before = self.known.remove(&reference).filter(|(before, _)| before.is_identical(&object));
            let digest = before.map_or_else(
                || line(&object).map_or_else(|_| Arc::from(""), |line| hash(essence(&line).as_bytes()).into()),
                |(_, digest)| digest,
            );
            keys.insert(reference.to_string(), digest.to_string());
            known.insert(reference, (object, digest));
        }
        self.known = known;
        let settings = edge_toml::shared_keys(portion).into_iter();
        keys.extend(settings.map(|(path, value)| (format!("edge.toml: {path}"), hash(value.as_bytes()))));
        keys
    }
}

/// Of all keys together.
pub fn summary(keys: &BTreeMap<String, String>) -> String {
    let text: String = keys.iter().map(|(key, digest)| format!("{key} {digest}\n")).collect();
    hash(text.as_bytes())
}

/// The objects of lines; and how many of them this version cannot read.
pub fn objects(kind: Kind, text: &str) -> (Vec<AnyObject>, usize) {
    let mut lost = 0;
    let mut found = Vec::new();
    for line in text.lines() {
        let entry = restore(kind, line.as_bytes()).and_then(|(_, entry)| entry.served.ok());
        match entry {
            Some(served) => found.push(served.object),
            None => lost += 1,
        }
    }
    (found, lost)
}

/// The name of the object of a line.
pub fn name(kind: Kind, line: &str) -> Option<ObjectRef> {
    #[derive(serde::Deserialize)]
    struct Whole<'l> {
        #[serde(borrow)]
        metadata: Metadata<'l>,
    }
    #[derive(serde::Deserialize)]
    struct Metadata<'l> {
        #[serde(borrow)]
        name: std::borrow::Cow<'l, str>,
        #[serde(borrow, default)]
        namespace: std::borrow::Cow<'l, str>,
    }
    let Whole { metadata } = serde_json::from_str(line).ok()?;
    let key = edge_config::names::ObjectKey::new(&*metadata.namespace, &*metadata.name);
    Some(ObjectRef::new(kind, key))
}

/// A configuration of the past, ready to be put in the place of that of now.
#[derive(Debug, Clone)]
pub struct Past {
    pub revision: u64,
    pub settings: Arc<Settings>,
    /// With the essence of each.
    pub objects: BTreeMap<ObjectRef, (AnyObject, String)>,
    /// What became of each last, and beside which object of now: what did not change is the same object again.
    placed: BTreeMap<ObjectRef, (Option<AnyObject>, AnyObject)>,
    in_force: Option<(Arc<Settings>, Arc<Settings>)>,
}

impl Past {
    pub fn new(revision: u64, settings: Arc<Settings>, objects: BTreeMap<ObjectRef, (AnyObject, String)>) -> Self {
        Self { revision, settings, objects, placed: BTreeMap::new(), in_force: None }
    }

    /// This configuration with the state of now. An object that says the same as now is the one of now; of the others
    /// the place says which revision they are of, so that nothing is written to the API about them.
    pub fn over(&mut self, now: &Inputs) -> Inputs {
        let mut inputs = Inputs::default();
        for kind in Kind::ALL.into_iter().filter(|kind| !is_configuration(*kind)) {
            inputs.share_kind(now, kind);
        }
        let mut of_now: BTreeMap<ObjectRef, AnyObject> =
            kinds().flat_map(|kind| now.of_kind(kind)).map(|object| (object.reference(), object)).collect();
        let place: Arc<str> = format!("revision {}", self.revision).into();
        let mut placed = BTreeMap::new();
        for (reference, (object, wanted)) in &self.objects {
            let beside = of_now.remove(reference);
            let known = self.placed.remove(reference).filter(|(before, _)| match (before, &beside) {
                (Some(before), Some(beside)) => before.is_identical(beside),
                (None, None) => true,
                _ => false,
            });
            let object = match (known, &beside) {
                (Some((_, object)), _) => object,
                (None, Some(now)) if line(now).is_ok_and(|line| essence(&line) == *wanted) => now.clone(),
                (None, beside) => {
                    let mut object = object.clone();
                    object.moved_to(Origin { file: Arc::clone(&place), line: 1, column: 1 });
                    given_now(&mut object, beside.as_ref());
                    object
                }
            };
            object.clone().put(&mut inputs);
            placed.insert(reference.clone(), (beside, object));
        }
        self.placed = placed;
        // What cannot be used now is not what was used then, but for the kinds that are of now.
        let unusable = now.unusable.iter().filter(|(object, _)| !is_configuration(object.kind));
        inputs.unusable = unusable.map(|(object, why)| (object.clone(), why.clone())).collect();
        let outdated = now.outdated.iter().filter(|(object, _)| !is_configuration(object.kind));
        inputs.outdated = outdated.map(|(object, why)| (object.clone(), why.clone())).collect();
        inputs.settings = match &self.in_force {
            Some((beside, settings)) if Arc::ptr_eq(beside, &now.settings) => Arc::clone(settings),
            _ => Arc::new(Settings::clone(&self.settings).held_over(&now.settings)),
        };
        self.in_force = Some((Arc::clone(&now.settings), Arc::clone(&inputs.settings)));
        inputs
    }
}

/// What a cluster gives out is as it is now: the ports and addresses of then may be somebody else's.
fn given_now(object: &mut AnyObject, now: Option<&AnyObject>) {
    let AnyObject::Service(service) = object else { return };
    let now = match now {
        Some(AnyObject::Service(now)) => Some(&now.spec),
        _ => None,
    };
    let spec = &mut Arc::make_mut(service).spec;
    let node_port = |port: &ServicePort| {
        let same = |other: &&ServicePort| other.port == port.port && other.protocol == port.protocol;
        now.and_then(|now| now.ports.iter().find(same)).and_then(|port| port.node_port)
    };
    let ports: Vec<Option<u16>> = spec.ports.iter().map(node_port).collect();
    for (port, given) in spec.ports.iter_mut().zip(ports) {
        port.node_port = given;
    }
    spec.health_check_node_port = now.and_then(|now| now.health_check_node_port);
    spec.cluster_ip = now.and_then(|now| now.cluster_ip.clone());
    spec.cluster_ips = now.map(|now| now.cluster_ips.clone()).unwrap_or_default();
}
