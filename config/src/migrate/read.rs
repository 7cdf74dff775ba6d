//! Kubernetes objects in texts: documents split, lists opened, each with its name and its place. What cannot be read
//! becomes a note.

use std::sync::Arc;

use serde::Deserialize;

use super::{NoteKind, Notes, Source};
use crate::manifest::Place;
use crate::problem::Origin;
use crate::yaml::{self, Mark, Node, Tree, Value};

/// What an API server wrote, and what nobody needs again.
const SERVER_OWNED: [&str; 6] =
    ["creationTimestamp", "resourceVersion", "uid", "generation", "managedFields", "ownerReferences"];
const APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// One object.
pub(super) struct Found<'t> {
    pub api_version: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub node: Node<'t>,
    pub place: Place,
    /// The text of its document, for what a tree does not tell.
    pub document: &'t str,
}

impl Found<'_> {
    /// `BGPPeer metallb-system/tor-a`
    pub fn subject(&self) -> String {
        match self.namespace.as_str() {
            "" => format!("{} {}", self.kind, self.name),
            namespace => format!("{} {namespace}/{}", self.kind, self.name),
        }
    }

    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    pub fn origin(&self) -> Origin {
        self.place.origin(self.node.mark)
    }

    /// Where the key of a member stands: what a reader looks for.
    pub fn origin_of_key(&self, path: &str) -> Origin {
        let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
        let entry = descend(&self.node, parent).and_then(|node| node.entry(key));
        self.place.origin(entry.map_or_else(|| self.node.mark_at(path), |entry| entry.mark))
    }

    pub fn at(&self, path: &str) -> Option<&Node<'_>> {
        descend(&self.node, path)
    }

    pub fn text_at(&self, path: &str) -> Option<&str> {
        self.at(path)?.as_str()
    }

    /// An annotation under any of several names, with the name that it has.
    pub fn annotation<'n>(&self, names: &[&'n str]) -> Option<(&'n str, &str)> {
        let annotations = self.at("metadata.annotations")?;
        names.iter().find_map(|name| Some((*name, annotations.member(name)?.as_str()?)))
    }

    /// The object as a person would have written it.
    pub fn bare(&self) -> Tree {
        let mut tree = Tree::from(&self.node);
        tree.take("status");
        if let Some(metadata) = tree.member_mut("metadata") {
            for field in SERVER_OWNED {
                metadata.take(field);
            }
            if let Some(annotations) = metadata.member_mut("annotations") {
                annotations.take(APPLIED);
                if matches!(annotations, Tree::Map(members) if members.is_empty()) {
                    metadata.take("annotations");
                }
            }
        }
        tree
    }

    /// The spec as a typed value; faults and unknown fields become notes.
    pub fn spec<T: for<'d> Deserialize<'d>>(&self, notes: &mut Notes) -> Option<T> {
        let Some(spec) = self.node.member("spec") else {
            notes.add(NoteKind::Fault, Some(&self.origin()), &self.subject(), "required field `spec` is missing");
            return None;
        };
        let (decoded, unknown) = yaml::decode::<T>(spec, "spec", &[]);
        for field in unknown {
            let origin = self.place.origin(field.mark);
            let message = format!("{}: not known to this version of edgectl", field.path);
            notes.add(NoteKind::NoEquivalent, Some(&origin), &self.subject(), message);
        }
        match decoded {
            Ok(spec) => Some(spec),
            Err(fault) => {
                let origin = self.place.origin(fault.mark());
                notes.add(NoteKind::Fault, Some(&origin), &self.subject(), fault.to_string());
                None
            }
        }
    }
}

/// A member of a member of a mapping; keys with dots are looked up with [`Node::member`].
pub(super) fn descend<'n, 't>(node: &'n Node<'t>, path: &str) -> Option<&'n Node<'t>> {
    path.split('.').filter(|key| !key.is_empty()).try_fold(node, |node, key| node.member(key))
}

/// All objects of all sources, in their order.
pub(super) fn objects<'t>(sources: &'t [Source], notes: &mut Notes) -> Vec<Found<'t>> {
    let mut found = Vec::new();
    for source in sources {
        for document in yaml::split(&source.text) {
            let place = Place { file: Arc::clone(&source.file), line_offset: document.line_offset };
            let mut fault = |mark: Mark, message: String| {
                notes.add(NoteKind::Fault, Some(&place.origin(mark)), "", message);
            };
            if document.text.len() > crate::manifest::MAX_DOCUMENT {
                fault(Mark::START, format!("the document has {} bytes, which is too large", document.text.len()));
                continue;
            }
            match yaml::parse(document.text) {
                Ok(Some(node)) => open(node, &place, document.text, notes, &mut found),
                Ok(None) => {}
                Err(error) => fault(error.mark, error.message),
            }
        }
    }
    found
}

fn open<'t>(node: Node<'t>, place: &Place, document: &'t str, notes: &mut Notes, found: &mut Vec<Found<'t>>) {
    let Value::Mapping(_) = &node.value else {
        if !matches!(node.value, Value::Null) {
            let message = format!("{} is no Kubernetes object", node.value.describe());
            notes.add(NoteKind::Fault, Some(&place.origin(node.mark)), "", message);
        }
        return;
    };
    let text = |key: &str| node.member(key).and_then(Node::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if kind.is_empty() || api_version.is_empty() {
        let message = "has no apiVersion and kind, so it is no Kubernetes object";
        notes.add(NoteKind::Fault, Some(&place.origin(node.mark)), "", message);
        return;
    }
    if kind == "List" || (kind.ends_with("List") && node.member("items").is_some()) {
        let Value::Mapping(entries) = node.value else { return };
        for entry in entries.into_iter().filter(|entry| entry.key == "items") {
            let Value::Sequence(items) = entry.value.value else { continue };
            items.into_iter().for_each(|item| open(item, place, document, notes, found));
        }
        return;
    }
    let name = |key: &str| {
        let metadata = node.member("metadata");
        metadata.and_then(|metadata| metadata.member(key)).and_then(Node::as_str).unwrap_or_default().to_owned()
    };
    let (namespace, name) = (name("namespace"), name("name"));
    if name.is_empty() {
        notes.add(NoteKind::Fault, Some(&place.origin(node.mark)), &kind, "metadata.name is missing");
        return;
    }
    found.push(Found { api_version, kind, namespace, name, node, place: place.clone(), document });
}
