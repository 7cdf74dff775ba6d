//! Documents to objects: identity, patches, decoding, defaults, checks. One document flows in with the place it comes
//! from, objects flow out, each with its problems; a fault costs the object it is in and no other. Decoding is a pure
//! function of its arguments, so a source may keep the result for as long as the text is the same.
//! What must not happen here: judging anything that needs a second object.

mod closed;
mod inert;
mod object;
mod raw;
mod served;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use crate::core::{RawConfigMap, RawSecret, SecretText};
use crate::inputs::{Meta, Object};
use crate::names::{Kind, ObjectKey, ObjectRef};
use crate::patch;
use crate::problem::{Origin, Problem, Severity};
use crate::settings::{PatchTarget, PatchType};
use crate::suggest;
use crate::validate::{self, Faults};
use crate::yaml::{self, DecodeError, Mark, Node, Unknown, Value};

pub(crate) use inert::unacted;
pub use object::AnyObject;
pub use served::{Known, decode_served, is_infrastructure};

/// Where a text comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub file: Arc<str>,
    /// How many lines of the file come before the text.
    pub line_offset: u32,
}

impl Place {
    pub fn origin(&self, mark: Mark) -> Origin {
        Origin { file: self.file.clone(), line: self.line_offset.saturating_add(mark.line), column: mark.column }
    }
}

/// A patch that is meant for one object.
#[derive(Debug, Clone)]
pub struct Patch<'p> {
    pub target: &'p PatchTarget,
    pub format: PatchType,
    pub text: &'p str,
    pub place: Place,
}

impl Patch<'_> {
    pub fn is_for(&self, object: &ObjectRef) -> bool {
        self.target.kind == object.kind
            && self.target.group.as_deref().is_none_or(|group| group == object.kind.group())
            && (self.target.key == object.key
                || (object.kind.is_cluster_scoped() && self.target.key.name == object.key.name))
    }
}

/// One object of a document, or a document that is none.
#[derive(Debug, Clone)]
pub struct Item {
    pub origin: Origin,
    /// Absent where the text did not get as far.
    pub identity: Option<ObjectRef>,
    pub outcome: Outcome,
    /// What of the object is secret and in no [`AnyObject`]: `spec.password` of a BGPPeer.
    pub password: Option<SecretText>,
    pub problems: Vec<Problem>,
}

#[derive(Debug, Clone)]
pub enum Outcome {
    Ready(AnyObject),
    /// Needs a source that can read certificates.
    Secret(Box<Object<RawSecret>>),
    ConfigMap(Box<Object<RawConfigMap>>),
    /// Meant to be an object and is none; the last good version of it, if any, keeps serving.
    Broken,
    /// The same of a policy that protects. Without a good version this stands for it, and nobody passes what it is about.
    Closed(AnyObject),
    /// Nothing that Edge reads.
    Foreign,
}

/// A document larger than this is refused; an API server would refuse it at a sixth of that.
pub const MAX_DOCUMENT: usize = 8 << 20;

/// Decodes one document. `namespace` is for namespaced objects that name none; they share its text.
pub fn decode_document(text: &str, place: &Place, namespace: &Arc<str>, patches: &[Patch<'_>]) -> Vec<Item> {
    let whole = |mark: Mark, outcome: Outcome, severity: Severity, message: String| {
        let origin = place.origin(mark);
        let problems = vec![Problem { severity, origin: Some(origin.clone()), object: None, message }];
        let outcome = match outcome {
            Outcome::Broken => closed::of_text(text, namespace, &origin, &problems),
            _ => None,
        }
        .map_or(outcome, Outcome::Closed);
        vec![Item { origin, identity: None, outcome, password: None, problems }]
    };
    if text.len() > MAX_DOCUMENT {
        let message = format!("the document has {} bytes, expected at most {MAX_DOCUMENT}", text.len());
        return whole(Mark::START, Outcome::Broken, Severity::Error, message);
    }
    let root = match yaml::parse(text) {
        Ok(Some(root)) => root,
        Ok(None) => return Vec::new(),
        Err(fault) => return whole(fault.mark, Outcome::Broken, Severity::Error, fault.message),
    };
    match &root.value {
        Value::Null => Vec::new(),
        Value::Mapping(_) => {
            let mut items = Vec::new();
            let context = Context { place, namespace, patches };
            context.expand(&root, None, &mut items);
            items
        }
        Value::Sequence(_) => {
            let message = "a list is no Kubernetes object; a JSON patch belongs under [[patch]] in edge.toml";
            whole(root.mark, Outcome::Foreign, Severity::Warning, message.to_owned())
        }
        other => {
            let message = format!("{} is no Kubernetes object", other.describe());
            whole(root.mark, Outcome::Broken, Severity::Error, message)
        }
    }
}

struct Context<'a> {
    place: &'a Place,
    namespace: &'a Arc<str>,
    patches: &'a [Patch<'a>],
}

/// What apiVersion and kind say.
enum Type {
    Known(Kind),
    /// The kind of the items, where the list's own kind says it.
    List(Option<Kind>),
    Unreadable(Severity, String),
}

impl Context<'_> {
    fn expand(&self, node: &Node<'_>, item_kind: Option<Kind>, items: &mut Vec<Item>) {
        match classify(node, item_kind) {
            Type::Known(kind) => items.push(self.item(node, kind)),
            Type::List(item_kind) => match node.member("items").map(|list| &list.value) {
                Some(Value::Sequence(nodes)) => nodes.iter().for_each(|node| self.expand(node, item_kind, items)),
                Some(Value::Null) | None => {}
                Some(other) => {
                    let message = format!("items: found {}, expected a list", other.describe());
                    items.push(self.rejected(node.mark_at("items"), Outcome::Broken, Severity::Error, message));
                }
            },
            Type::Unreadable(severity, message) => {
                let outcome = if severity == Severity::Error { Outcome::Broken } else { Outcome::Foreign };
                items.push(self.protecting(node, self.rejected(node.mark, outcome, severity, message)));
            }
        }
    }

    /// What becomes of a document that cannot be used, and may be a policy that protects something.
    fn protecting(&self, node: &Node<'_>, mut item: Item) -> Item {
        if let Some(closed) = closed::of_document(node, self.namespace, &item.origin, &item.problems) {
            item.outcome = Outcome::Closed(closed);
        }
        item
    }

    fn rejected(&self, mark: Mark, outcome: Outcome, severity: Severity, message: String) -> Item {
        let origin = self.place.origin(mark);
        let problem = Problem { severity, origin: Some(origin.clone()), object: None, message };
        Item { origin, identity: None, outcome, password: None, problems: vec![problem] }
    }

    fn item(&self, node: &Node<'_>, kind: Kind) -> Item {
        let origin = self.place.origin(node.mark);
        let key = match identify(node, kind, self.namespace) {
            Ok(key) => key,
            Err((mark, message)) => {
                let message = format!("{kind}: {message}");
                return self.protecting(node, self.rejected(mark, Outcome::Broken, Severity::Error, message));
            }
        };
        let identity = ObjectRef::new(kind, key);
        let mut patches: Vec<&Patch<'_>> = self.patches.iter().filter(|patch| patch.is_for(&identity)).collect();
        let mut spoilt = Vec::new();
        loop {
            let attempt = self.attempt(node, &identity, &patches, &origin);
            let culprit = attempt.culprit.filter(|_| matches!(attempt.outcome, Outcome::Broken));
            match culprit {
                // A patch whose result is no valid object is left out; the object serves without it.
                Some(source) if source > 0 && usize::from(source) <= patches.len() => {
                    let patch = patches.remove(usize::from(source) - 1);
                    let errors = attempt.problems.into_iter().filter(|problem| problem.severity == Severity::Error);
                    spoilt.extend(errors.map(|mut problem| {
                        if problem.origin.as_ref().is_some_and(|origin| origin.file == patch.place.file) {
                            problem.message.push_str("; the patch is left out");
                        }
                        problem
                    }));
                }
                _ => {
                    spoilt.extend(attempt.problems);
                    let place = |problem: &Problem| (problem.origin.clone(), problem.severity, problem.message.clone());
                    spoilt.sort_by_cached_key(place);
                    spoilt.dedup();
                    let outcome = match attempt.outcome {
                        Outcome::Broken => closed::of_object(node, &identity, &origin, &spoilt)
                            .map_or(Outcome::Broken, Outcome::Closed),
                        outcome => outcome,
                    };
                    return Item {
                        origin,
                        identity: Some(identity),
                        outcome,
                        password: attempt.password,
                        problems: spoilt,
                    };
                }
            }
        }
    }

    fn attempt(&self, node: &Node<'_>, identity: &ObjectRef, patches: &[&Patch<'_>], origin: &Origin) -> Attempt {
        let places: Vec<&Place> = std::iter::once(self.place).chain(patches.iter().map(|patch| &patch.place)).collect();
        let mut findings = Findings { places, object: identity, problems: Vec::new(), culprit: None };
        let mut patched;
        let node = if patches.is_empty() {
            node
        } else {
            patched = node.clone();
            for (source, patch) in (1u16..).zip(patches) {
                if let Err((mark, message)) = apply(&mut patched, patch, source) {
                    // It changed nothing, so the object is judged without it.
                    findings.add(Severity::Error, Mark { source, ..mark }, format!("patch: {message}"));
                }
            }
            if identify(&patched, identity.kind, self.namespace).ok().as_ref() != Some(&identity.key)
                || !matches!(classify(&patched, None), Type::Known(kind) if kind == identity.kind)
            {
                let source = u16::try_from(patches.len()).unwrap_or(u16::MAX);
                findings.blame(source);
                findings.add(
                    Severity::Error,
                    Mark { source, ..Mark::START },
                    "the patches change the kind, name or namespace of their target".to_owned(),
                );
                return findings.into_attempt(Outcome::Broken);
            }
            &patched
        };
        let outcome = decode_object(node, identity, origin, &mut findings);
        Attempt { password: password(identity.kind, node), ..findings.into_attempt(outcome) }
    }
}

fn apply<'t>(target: &mut Node<'t>, patch: &Patch<'t>, source: u16) -> Result<(), (Mark, String)> {
    match yaml::parse(patch.text) {
        Ok(Some(mut tree)) => {
            tree.set_source(source);
            patch::apply(target, &tree, patch.format).map_err(|fault| (fault.mark, fault.message))
        }
        Ok(None) => Err((Mark::START, "is empty".to_owned())),
        Err(fault) => Err((fault.mark, fault.message)),
    }
}

struct Attempt {
    outcome: Outcome,
    password: Option<SecretText>,
    problems: Vec<Problem>,
    /// The source of the first fatal fault.
    culprit: Option<u16>,
}

struct Findings<'a> {
    /// By source number.
    places: Vec<&'a Place>,
    object: &'a ObjectRef,
    problems: Vec<Problem>,
    culprit: Option<u16>,
}

impl Findings<'_> {
    fn add(&mut self, severity: Severity, mark: Mark, message: String) {
        let place = self.places.get(usize::from(mark.source)).copied();
        let origin = place.map(|place| place.origin(mark));
        self.problems.push(Problem { severity, origin, object: Some(self.object.clone()), message });
    }

    fn blame(&mut self, source: u16) {
        // Of several, the last patch is the one that can be left out with the least loss.
        self.culprit = Some(self.culprit.map_or(source, |other| other.max(source)));
    }

    fn fatal(&mut self, mark: Mark, message: String) {
        self.blame(mark.source);
        self.add(Severity::Error, mark, message);
    }

    fn into_attempt(mut self, outcome: Outcome) -> Attempt {
        self.problems.sort_by(|a, b| (&a.origin, a.severity).cmp(&(&b.origin, b.severity)));
        Attempt { outcome, password: None, problems: self.problems, culprit: self.culprit }
    }
}

/// What a source has to keep apart from the object.
fn password(kind: Kind, node: &Node<'_>) -> Option<SecretText> {
    let text = (kind == Kind::BGPPeer).then(|| node.member("spec")?.member("password")?.as_str())??;
    (!text.is_empty()).then(|| SecretText(text.as_bytes().to_vec()))
}

fn decode_object(node: &Node<'_>, identity: &ObjectRef, origin: &Origin, findings: &mut Findings<'_>) -> Outcome {
    let inert = inert::find(identity.kind, node);
    for field in &inert {
        findings.add(Severity::Inert, field.mark, field.to_string());
    }
    let report_unknown = |unknown: Vec<Unknown>, findings: &mut Findings<'_>| {
        for field in unknown {
            if inert.iter().any(|inert| inert.covers(&field.path)) {
                continue;
            }
            // Nobody writes a Node by hand.
            if identity.kind == Kind::Node {
                continue;
            }
            let (parent, name) = match field.path.rsplit_once('.') {
                Some((parent, name)) => (format!("{parent}: "), name),
                None => (String::new(), field.path.as_str()),
            };
            let hint = suggest::hint(name, field.known.iter().copied());
            let message = format!("{parent}unknown field `{name}`{hint}");
            match is_strict(identity.kind, node, &field.path) {
                true => findings.fatal(field.mark, message),
                false => findings.add(Severity::Warning, field.mark, message),
            }
        }
    };
    let meta = match meta(node, identity, origin, findings) {
        Ok((meta, unknown)) => {
            report_unknown(unknown, findings);
            meta
        }
        Err(fault) => {
            findings.fatal(fault.mark(), fault.to_string());
            return Outcome::Broken;
        }
    };
    decode_body(node, identity.kind, meta, findings, report_unknown)
}

/// Whether a field that is not understood may be the one that keeps somebody out. Then nothing of the object counts.
fn is_strict(kind: Kind, node: &Node<'_>, path: &str) -> bool {
    match kind {
        Kind::SecurityPolicy | Kind::AuthenticationFilter => path.starts_with("spec."),
        Kind::ClientTrafficPolicy => closed::is_about_clients(node, path),
        _ => false,
    }
}

/// What follows the metadata.
fn decode_body<'f>(
    node: &Node<'_>,
    kind: Kind,
    meta: Meta,
    findings: &mut Findings<'f>,
    report_unknown: impl Fn(Vec<Unknown>, &mut Findings<'f>),
) -> Outcome {
    let unknown_members = |findings: &mut Findings<'_>| {
        let Value::Mapping(entries) = &node.value else { return };
        for entry in entries {
            if !["apiVersion", "kind", "metadata", "spec", "status"].contains(&entry.key.as_ref()) {
                let hint = suggest::hint(&entry.key, ["apiVersion", "kind", "metadata", "spec"]);
                let message = format!("unknown field `{}`{hint}", entry.key);
                findings.add(Severity::Warning, entry.mark, message);
            }
        }
    };
    match object::decode_spec(kind, node, meta.clone()) {
        Some(decoded) => {
            if kind != Kind::EndpointSlice {
                unknown_members(findings);
            }
            report_unknown(decoded.unknown, findings);
            let is_understood = findings.culprit.is_none();
            let sound = report_faults(node, decoded.faults, findings) && is_understood;
            match decoded.result {
                Ok(object) if sound => Outcome::Ready(object),
                Ok(_) => Outcome::Broken,
                Err(fault) => {
                    let mark = if fault.path().is_empty() { node.mark } else { fault.mark() };
                    findings.fatal(mark, fault.to_string());
                    Outcome::Broken
                }
            }
        }
        None => {
            let mut faults = Faults::default();
            let (outcome, unknown) = if kind == Kind::Secret {
                let (raw, unknown) = raw::secret(node, &mut faults);
                (raw.map(|spec| Outcome::Secret(Box::new(Object { meta, spec }))), unknown)
            } else {
                let (raw, unknown) = raw::config_map(node, &mut faults);
                (raw.map(|spec| Outcome::ConfigMap(Box::new(Object { meta, spec }))), unknown)
            };
            report_unknown(unknown, findings);
            let sound = report_faults(node, faults, findings);
            match outcome {
                Ok(outcome) if sound => outcome,
                Ok(_) => Outcome::Broken,
                Err(fault) => {
                    findings.fatal(fault.mark(), fault.to_string());
                    Outcome::Broken
                }
            }
        }
    }
}

/// Whether the object may be used all the same.
fn report_faults(node: &Node<'_>, faults: Faults, findings: &mut Findings<'_>) -> bool {
    let mut sound = true;
    for fault in faults.into_list() {
        let mark = node.mark_at(&fault.path);
        let message = format!("{}: {}", fault.path, fault.message);
        if fault.is_fatal {
            sound = false;
            findings.fatal(mark, message);
        } else {
            findings.add(Severity::Error, mark, message);
        }
    }
    sound
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetaBody {
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

fn meta(
    node: &Node<'_>,
    identity: &ObjectRef,
    origin: &Origin,
    findings: &mut Findings<'_>,
) -> Result<(Meta, Vec<Unknown>), DecodeError> {
    // `identify` has read the names, so the mapping is there.
    let Some(body) = node.member("metadata") else { return Err(serde::de::Error::missing_field("metadata")) };
    let (decoded, unknown) = yaml::decode::<MetaBody>(body, "metadata", &["name", "namespace"]);
    let decoded = decoded?;
    if let (true, Some(entry)) = (identity.kind.is_cluster_scoped(), body.entry("namespace")) {
        let message = format!("metadata.namespace is not acted on: a {} belongs to no namespace", identity.kind);
        findings.add(Severity::Inert, entry.mark, message);
    }
    let meta = Meta {
        key: identity.key.clone(),
        labels: decoded.labels,
        annotations: decoded.annotations,
        generation: 1,
        created: None,
        origin: origin.clone(),
    };
    Ok((meta, unknown))
}

fn classify(node: &Node<'_>, item_kind: Option<Kind>) -> Type {
    let text = |name: &str| node.member(name).and_then(Node::as_str);
    let (api_version, kind) = match (text("apiVersion"), text("kind"), item_kind) {
        (Some(api_version), Some(kind), _) => (api_version, kind),
        // The API server leaves them out of the items of a typed list.
        (None, None, Some(kind)) => return Type::Known(kind),
        (_, None, _) => {
            let message = "no Kubernetes object: `kind` is missing, so the document is left out";
            return Type::Unreadable(Severity::Warning, message.to_owned());
        }
        (None, Some(kind), _) => {
            return Type::Unreadable(Severity::Error, format!("{kind}: `apiVersion` is missing"));
        }
    };
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if let Some(kind) = Kind::of(group, kind) {
        if versions(group).contains(&version) {
            return Type::Known(kind);
        }
        let expected = versions(group).join(", ");
        let message =
            format!("{kind}: unknown version {version:?} of its API, expected {expected}, so the document is left out");
        return Type::Unreadable(Severity::Warning, message);
    }
    if let Some(item) = kind.strip_suffix("List") {
        if group.is_empty() && item.is_empty() {
            return Type::List(None);
        }
        if let Some(item) = Kind::of(group, item) {
            return Type::List(Some(item));
        }
    }
    let hint = match Kind::named(kind) {
        Some(kind) if kind.group().is_empty() => ", did you mean apiVersion v1?".to_owned(),
        Some(kind) => format!(", did you mean apiVersion {}/{}?", kind.group(), versions(kind.group())[0]),
        None => suggest::hint(kind, Kind::ALL.iter().filter(|kind| kind.group() == group).map(|kind| kind.as_str())),
    };
    let message = format!("{api_version} {kind} is no kind that Edge reads{hint}, so the document is left out");
    Type::Unreadable(Severity::Warning, message)
}

/// The versions of a group whose shape is the one Edge reads, newest first.
fn versions(group: &str) -> &'static [&'static str] {
    match group {
        "" => &["v1"],
        "gateway.networking.k8s.io" => &["v1", "v1beta1", "v1alpha3", "v1alpha2"],
        "discovery.k8s.io" => &["v1"],
        "cert-manager.io" => &["v1"],
        "metallb.io" => &["v1beta1", "v1beta2"],
        _ => &["v1alpha1"],
    }
}

fn identify(node: &Node<'_>, kind: Kind, namespace: &Arc<str>) -> Result<ObjectKey, (Mark, String)> {
    let metadata = node.member("metadata").ok_or((node.mark, "`metadata` is missing".to_owned()))?;
    if !matches!(metadata.value, Value::Mapping(_)) {
        let message = format!("metadata: found {}, expected a mapping", metadata.value.describe());
        return Err((metadata.mark, message));
    }
    let text = |field: &str| match metadata.member(field).map(|node| (node, &node.value)) {
        None | Some((_, Value::Null)) => Ok(None),
        Some((_, Value::String(text))) => Ok(Some(text.as_ref())),
        Some((node, value)) => Err((
            node.mark,
            format!("metadata.{field}: found {}, expected a string; put it in quotes", value.describe()),
        )),
    };
    let name = text("name")?.ok_or((metadata.mark, "`metadata.name` is missing".to_owned()))?;
    if !validate::is_object_name(kind, name) {
        let message = format!("metadata.name {name:?}: expected {}", validate::object_name_rule(kind));
        return Err((metadata.mark_at("name"), message));
    }
    if kind.is_cluster_scoped() {
        return Ok(ObjectKey::new("", name));
    }
    match text("namespace")? {
        None | Some("") => Ok(ObjectKey::new(Arc::clone(namespace), name)),
        Some(namespace) if validate::is_label(namespace) => Ok(ObjectKey::new(namespace, name)),
        Some(namespace) => {
            let message =
                format!("metadata.namespace {namespace:?}: expected lower-case letters, digits and '-', at most 63");
            Err((metadata.mark_at("namespace"), message))
        }
    }
}
