//! What stands for a SecurityPolicy that cannot be read, until it can: one that lets nobody pass. The same of a
//! ClientTrafficPolicy that validates the certificates of clients: nobody is let in. A text that was to protect something
//! must not leave it open because of a slip of the pen, least of all at the first start, when there is no good version of
//! it yet.
//!
//! Its targets are read where they can be. Where they cannot, or not all of them, everything in its namespace counts as its
//! target, since a policy reaches no other one: nobody can tell what it was to protect.

use std::collections::BTreeMap;
use std::hash::BuildHasher as _;
use std::sync::Arc;

use super::AnyObject;
use crate::envoy::{ClientTrafficPolicySpec, SecurityPolicySpec, TargetSelector};
use crate::gateway::PolicyTargetRef;
use crate::inputs::{Meta, Object};
use crate::names::{Kind, ObjectKey, ObjectRef};
use crate::problem::{Origin, Problem, Severity};
use crate::suggest;
use crate::yaml::{self, Node, Value};

/// A kind that protects.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Guard {
    /// SecurityPolicy: says who may pass.
    Requests,
    /// ClientTrafficPolicy with `clientValidation`: says who may connect.
    Clients,
}

impl Guard {
    fn of(kind: &str, validates: impl FnOnce() -> bool) -> Option<Self> {
        if kind == Kind::SecurityPolicy.as_str() {
            return Some(Self::Requests);
        }
        (kind == Kind::ClientTrafficPolicy.as_str() && validates()).then_some(Self::Clients)
    }

    fn targets(self) -> &'static [Kind] {
        match self {
            Self::Requests => &SecurityPolicySpec::TARGETS,
            Self::Clients => &[Kind::Gateway, Kind::ListenerSet],
        }
    }
}

/// The field that makes a ClientTrafficPolicy one that protects.
const VALIDATION: &str = "clientValidation";

/// Whether a name is that field's, or a slip of the pen in it.
fn is_validation(name: &str) -> bool {
    let letters: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    suggest::closest(&letters, [VALIDATION]).is_some()
}

/// Whether a ClientTrafficPolicy means to say who may connect, in the right place and word or in a wrong one.
fn validates(node: &Node<'_>) -> bool {
    node.member("spec").is_some_and(|spec| holds_validation(spec, 0))
}

/// The field is two levels down; one that is much deeper is none of this kind.
fn holds_validation(node: &Node<'_>, depth: u8) -> bool {
    let Value::Mapping(entries) = &node.value else { return false };
    entries.iter().any(|entry| {
        is_validation(&entry.key) && !matches!(entry.value.value, Value::Null)
            || depth < 3 && holds_validation(&entry.value, depth + 1)
    })
}

/// Whether a field of a ClientTrafficPolicy that is not understood may be the one that keeps somebody out: it is below
/// `clientValidation`, it is that field itself, misspelt, or it has it inside.
pub(super) fn is_about_clients(node: &Node<'_>, path: &str) -> bool {
    let mut names = path.split('.');
    if names.clone().any(|name| is_validation(name.split('[').next().unwrap_or(name))) {
        return true;
    }
    let found = names.try_fold(node, |node, name| node.member(name));
    found.is_some_and(|found| holds_validation(found, 0))
}

/// For a document whose name is known. `None`: it is of another kind.
pub(super) fn of_object(
    node: &Node<'_>,
    identity: &ObjectRef,
    origin: &Origin,
    problems: &[Problem],
) -> Option<AnyObject> {
    let guard = Guard::of(identity.kind.as_str(), || validates(node))?;
    Some(made(guard, identity.key.clone(), origin, targets(node), problems))
}

/// For a document that says of itself no more than that it is one.
pub(super) fn of_document(
    node: &Node<'_>,
    namespace: &Arc<str>,
    origin: &Origin,
    problems: &[Problem],
) -> Option<AnyObject> {
    let text = |name: &str| node.member(name).and_then(Node::as_str);
    let is_ours = text("apiVersion").is_none_or(|version| version.starts_with(Kind::SecurityPolicy.group()));
    let guard = Guard::of(text("kind")?, || validates(node)).filter(|_| is_ours)?;
    let own = node.member("metadata").and_then(|metadata| metadata.member("namespace")).and_then(Node::as_str);
    let namespace = own.map_or_else(|| Arc::clone(namespace), Arc::from);
    Some(made(guard, nameless(&namespace, origin), origin, targets(node), problems))
}

/// For a text that is no YAML, or too much of it.
pub(super) fn of_text(text: &str, namespace: &Arc<str>, origin: &Origin, problems: &[Problem]) -> Option<AnyObject> {
    let guard = Guard::of(value_of(text, "kind")?, || text.to_ascii_lowercase().contains("validation"))?;
    let namespace = value_of(text, "namespace").map_or_else(|| Arc::clone(namespace), Arc::from);
    Some(made(guard, nameless(&namespace, origin), origin, None, problems))
}

/// It is told by its place: in words for people, and as a number, so that no two places have one name.
fn nameless(namespace: &Arc<str>, origin: &Origin) -> ObjectKey {
    const LONGEST: usize = 40;
    let place = origin.to_string();
    let print = foldhash::fast::FixedState::default().hash_one(&place) as u32;
    let is_plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    let words: Vec<char> = place.chars().map(|letter| if is_plain(letter) { letter } else { '-' }).collect();
    let end: String = words[words.len().saturating_sub(LONGEST)..].iter().collect();
    let words = end.trim_matches('-');
    ObjectKey::new(Arc::clone(namespace), format!("unreadable-{words}-{print:08x}").as_str())
}

fn made(guard: Guard, key: ObjectKey, origin: &Origin, targets: Option<Targets>, problems: &[Problem]) -> AnyObject {
    let first = problems.iter().find(|problem| problem.severity == Severity::Error).or(problems.first());
    let mut why =
        first.map_or_else(|| "cannot be read".to_owned(), |first| format!("cannot be read: {}", first.message));
    if targets.is_none() {
        why.push_str("; what it is about cannot be read either, so everything in its namespace is closed");
    }
    let all = || guard.targets().iter().map(|kind| everything(*kind)).collect();
    let (target_refs, target_selectors) = match targets {
        Some(targets) => (targets.named, targets.selected),
        None => (Vec::new(), all()),
    };
    let unreadable = Some(why);
    let meta = Meta {
        key,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        generation: 1,
        created: None,
        origin: origin.clone(),
    };
    match guard {
        Guard::Requests => {
            let spec =
                SecurityPolicySpec { target_refs, target_selectors, unreadable, ..SecurityPolicySpec::default() };
            AnyObject::SecurityPolicy(Arc::new(Object { meta, spec }))
        }
        Guard::Clients => {
            let spec = ClientTrafficPolicySpec {
                target_refs,
                target_selectors,
                unreadable,
                ..ClientTrafficPolicySpec::default()
            };
            AnyObject::ClientTrafficPolicy(Arc::new(Object { meta, spec }))
        }
    }
}

fn everything(kind: Kind) -> TargetSelector {
    TargetSelector { group: kind.group().to_owned(), kind: kind.as_str().to_owned(), ..TargetSelector::default() }
}

struct Targets {
    named: Vec<PolicyTargetRef>,
    selected: Vec<TargetSelector>,
}

/// `None` where one of them cannot be read, or there is none.
fn targets(node: &Node<'_>) -> Option<Targets> {
    let spec = node.member("spec")?;
    let mut found = Targets { named: Vec::new(), selected: Vec::new() };
    if let Some(target) = spec.member("targetRef") {
        found.named.push(read(target)?);
    }
    for target in items(spec, "targetRefs")? {
        found.named.push(read(target)?);
    }
    for selector in items(spec, "targetSelectors")? {
        found.selected.push(read(selector)?);
    }
    (!found.named.is_empty() || !found.selected.is_empty()).then_some(found)
}

fn items<'n, 't>(spec: &'n Node<'t>, name: &str) -> Option<&'n [Node<'t>]> {
    match spec.member(name).map(|list| &list.value) {
        Some(Value::Sequence(items)) => Some(items),
        None | Some(Value::Null) => Some(&[]),
        Some(_) => None,
    }
}

/// One with a field that is not known may mean something else.
fn read<T: serde::de::DeserializeOwned>(node: &Node<'_>) -> Option<T> {
    let (found, unknown) = yaml::decode::<T>(node, "", &[]);
    found.ok().filter(|_| unknown.is_empty())
}

/// What stands after the first key of this name, however it is written.
fn value_of<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let of_line = |line: &'t str| {
        line.match_indices(key).find_map(|(at, _)| {
            let before = line[..at].chars().next_back();
            let rest = line[at + key.len()..].trim_start_matches(['"', '\'']).trim_start().strip_prefix(':')?;
            let is_key = before.is_none_or(|letter| letter.is_whitespace() || "{,\"'-".contains(letter));
            let rest = rest.trim_start().trim_start_matches(['"', '\'']);
            let end =
                rest.find(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '-')).unwrap_or(rest.len());
            Some(&rest[..end]).filter(|value| is_key && !value.is_empty())
        })
    };
    text.lines().filter(|line| !line.trim_start().starts_with('#')).find_map(of_line)
}
