//! What every part of compile looks things up in, and where findings go.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};

use super::grants::Grants;
use crate::gateway::{FromNamespaces, LabelSelector, ParentReference};
use crate::inputs::{Inputs, Meta};
use crate::names::{Kind, ObjectKey, ObjectRef};
use crate::problem::{Problem, Severity};
use crate::report::Condition;
use crate::snapshot::Filters;

/// Why something is not as it was asked for: the reason in the words of the API, the message in ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub reason: &'static str,
    pub message: String,
}

impl Fault {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// A positive condition: true with its own reason, or false with the fault's.
pub(super) fn condition(kind: &'static str, good: &'static str, fault: Option<&Fault>) -> Condition {
    match fault {
        None => Condition { kind, status: true, reason: good, message: String::new() },
        Some(fault) => Condition { kind, status: false, reason: fault.reason, message: fault.message.clone() },
    }
}

pub(super) struct Context<'a> {
    pub inputs: &'a Inputs,
    pub grants: Grants<'a>,
    labels: HashMap<&'a str, &'a BTreeMap<String, String>>,
    /// What nearly all rules and backends have.
    pub no_filters: Arc<Filters>,
    problems: RefCell<Vec<Problem>>,
    parents: RefCell<Recent<ParentReference>>,
    conditions: RefCell<Recent<[Condition]>>,
}

/// Values that thousands of routes have alike, so that one copy of each is kept.
struct Recent<T: ?Sized>(Vec<Arc<T>>);

/// How many different ones are remembered; the others are only kept more than once.
const RECENT: usize = 8;

impl<T: ?Sized + PartialEq> Recent<T> {
    fn share(&mut self, value: &T, own: impl FnOnce() -> Arc<T>) -> Arc<T> {
        if let Some(known) = self.0.iter().find(|known| ***known == *value) {
            return Arc::clone(known);
        }
        if self.0.len() == RECENT {
            self.0.remove(0);
        }
        let new = own();
        self.0.push(Arc::clone(&new));
        new
    }
}

/// The label that the API server puts on every Namespace.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

impl<'a> Context<'a> {
    pub fn new(inputs: &'a Inputs) -> Self {
        let mut labels = HashMap::with_capacity(inputs.namespaces.len());
        for (key, namespace) in &inputs.namespaces {
            labels.insert(&*key.name, &namespace.meta.labels);
        }
        Self {
            inputs,
            grants: Grants::new(inputs),
            labels,
            no_filters: Arc::default(),
            problems: RefCell::default(),
            parents: RefCell::new(Recent(Vec::new())),
            conditions: RefCell::new(Recent(Vec::new())),
        }
    }

    pub fn problem(&self, severity: Severity, kind: Kind, meta: &Meta, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem {
            severity,
            origin: Some(meta.origin.clone()),
            object: Some(ObjectRef::new(kind, meta.key.clone())),
            message: message.into(),
        });
    }

    /// A finding about something that no object is to blame for.
    pub fn problem_in_settings(&self, severity: Severity, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem { severity, origin: None, object: None, message: message.into() });
    }

    /// How many problems were found so far.
    pub fn problem_count(&self) -> usize {
        self.problems.borrow().len()
    }

    /// The problems found after so many others.
    pub fn problems_since(&self, count: usize) -> Box<[Problem]> {
        self.problems.borrow().get(count..).unwrap_or_default().into()
    }

    /// Problems that were found before, of an object that is still the same.
    pub fn repeat_problems(&self, problems: &[Problem]) {
        self.problems.borrow_mut().extend_from_slice(problems);
    }

    /// Filters as rules and backends hold them.
    pub fn share(&self, filters: Filters) -> Arc<Filters> {
        if filters == *self.no_filters { Arc::clone(&self.no_filters) } else { Arc::new(filters) }
    }

    /// A reference as reports hold it.
    pub fn share_parent(&self, parent: &ParentReference) -> Arc<ParentReference> {
        self.parents.borrow_mut().share(parent, || Arc::new(parent.clone()))
    }

    /// Conditions as reports hold them.
    pub fn share_conditions(&self, conditions: Vec<Condition>) -> Arc<[Condition]> {
        let mut known = self.conditions.borrow_mut();
        known.share(&conditions, || conditions.as_slice().into())
    }

    pub fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        // In the order of place, then text.
        problems.sort_by(|a, b| {
            (&a.origin, &a.object, &a.message, a.severity).cmp(&(&b.origin, &b.object, &b.message, b.severity))
        });
        problems.dedup();
        problems
    }

    /// Whether a namespace rule of an object in `home` lets in objects of `namespace`. An unknown rule lets in nothing.
    pub fn allows(&self, from: &FromNamespaces, selector: Option<&LabelSelector>, home: &str, namespace: &str) -> bool {
        match from {
            FromNamespaces::All => true,
            FromNamespaces::Same => home == namespace,
            FromNamespaces::Selector => selector.is_some_and(|selector| self.selects(selector, namespace)),
            FromNamespaces::None | FromNamespaces::Other(_) => false,
        }
    }

    /// Whether a selector holds for the labels of a namespace. Files need not declare a Namespace, and need not write
    /// the label that the API server adds.
    pub fn selects(&self, selector: &LabelSelector, namespace: &str) -> bool {
        match self.labels.get(namespace) {
            Some(labels) if labels.contains_key(NAMESPACE_NAME_LABEL) => selector.matches(labels),
            declared => {
                let mut labels = declared.map(|labels| (*labels).clone()).unwrap_or_default();
                labels.insert(NAMESPACE_NAME_LABEL.to_owned(), namespace.to_owned());
                selector.matches(&labels)
            }
        }
    }

    /// "not found", or why the source could not use the object.
    pub fn missing(&self, kind: Kind, key: &ObjectKey) -> String {
        let object = ObjectRef::new(kind, key.clone());
        match self.inputs.unusable.get(&object) {
            Some(why) => format!("{object}: {why}"),
            None => format!("{object} not found"),
        }
    }
}

/// Oldest first, then by namespace and name: the order in which the Gateway API settles conflicts. Objects without a
/// creation time come from files and count as oldest.
pub(super) fn by_age(a: &Meta, b: &Meta) -> std::cmp::Ordering {
    (&a.created, &a.key).cmp(&(&b.created, &b.key))
}

/// A short, stable fingerprint (FNV-1a) that tells versions of one thing apart; not for anything adversarial.
pub(super) fn fingerprint<'b>(parts: impl IntoIterator<Item = &'b [u8]>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.iter().chain(&[0xff]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
    hash
}
