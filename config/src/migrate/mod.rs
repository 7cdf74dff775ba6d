//! Other products' configuration as Edge's: MetalLB's objects, F5's AS3 declarations and `bigip.conf`, Ingress objects.
//! Texts flow in; an `edge.toml`, manifests, and a note for everything that is not the same afterwards flow out.
//! What must not happen here: reading files, printing a secret, or opening in silence what was closed before.

mod f5;
mod gateway;
mod ingress;
mod metallb;
mod read;
mod toml;

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::problem::Origin;
use crate::yaml::Tree;

/// What is migrated from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    Metallb,
    F5,
    Ingress,
}

impl Product {
    /// As on the command line.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "metallb" => Some(Self::Metallb),
            "f5" => Some(Self::F5),
            "ingress" => Some(Self::Ingress),
            _ => None,
        }
    }
}

/// One text, with the name of its file for messages.
#[derive(Debug, Clone)]
pub struct Source {
    pub file: Arc<str>,
    pub text: String,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Migration {
    /// `edge.toml` first, then manifests.
    pub files: Vec<File>,
    /// In the order of the sources.
    pub notes: Vec<Note>,
}

impl Migration {
    pub fn has(&self, kind: NoteKind) -> bool {
        self.notes.iter().any(|note| note.kind == kind)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct File {
    /// Relative to the directory of `edge.toml`.
    pub path: String,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoteKind {
    /// It could not be read; nothing of it is in the output.
    Fault,
    /// Nothing in the output does what it did.
    NoEquivalent,
    /// It is in the output and behaves otherwise in the way that is told.
    Differs,
    /// Something only the reader can fill in or decide.
    ToDo,
}

/// One thing that the reader of a migration must know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Note {
    pub origin: Option<Origin>,
    pub kind: NoteKind,
    /// Such as `BGPPeer metallb-system/tor-a`.
    pub subject: String,
    /// What, why, what to do instead.
    pub message: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        f.write_str(match self.kind {
            NoteKind::Fault => "",
            NoteKind::NoEquivalent => "no equivalent: ",
            NoteKind::Differs => "differs: ",
            NoteKind::ToDo => "to do: ",
        })?;
        if !self.subject.is_empty() {
            write!(f, "{}: ", self.subject)?;
        }
        f.write_str(&self.message)
    }
}

/// Reads all sources as one configuration of a product.
pub fn migrate(product: Product, sources: &[Source]) -> Migration {
    let mut notes = Notes::default();
    let output = match product {
        Product::Metallb => metallb::migrate(sources, &mut notes),
        Product::Ingress => ingress::migrate(sources, &mut notes),
        Product::F5 => f5::migrate(sources, &mut notes),
    };
    let mut files = Vec::new();
    let mut toml = output.toml;
    let manifests: Vec<(&str, Vec<Tree>)> =
        output.manifests.into_iter().filter(|(_, objects)| !objects.is_empty()).collect();
    if !manifests.is_empty() {
        toml.begin("[[manifests]]");
        toml.text("path", "manifests");
    }
    if !toml.is_empty() {
        files.push(File { path: "edge.toml".to_owned(), text: toml.finish() });
    }
    for (name, mut objects) in manifests {
        // What came of odd input must not cost more than itself.
        objects.retain(|object| {
            let faults = gateway::faults(object);
            let name = |key| object.member("metadata").and_then(|m| m.member(key)?.as_str()).unwrap_or_default();
            let kind = object.member("kind").and_then(Tree::as_str).unwrap_or_default();
            let subject = format!("{kind} {}/{}", name("namespace"), name("name"));
            if !faults.is_empty() {
                notes.add(NoteKind::Fault, None, &subject, format!("not written: {}", faults.join("; ")));
            }
            faults.is_empty()
        });
        let texts: Vec<String> = objects.iter().map(Tree::to_yaml).collect();
        files.push(File { path: format!("manifests/{name}.yaml"), text: texts.join("---\n") });
    }
    Migration { files, notes: notes.finish(sources) }
}

/// What a product's reader makes.
#[derive(Default)]
struct Output {
    toml: toml::Toml,
    /// By the name of the file.
    manifests: Vec<(&'static str, Vec<Tree>)>,
}

/// Collects notes.
#[derive(Default)]
struct Notes(Vec<Note>);

impl Notes {
    fn add(&mut self, kind: NoteKind, origin: Option<&Origin>, subject: &str, message: impl Into<String>) {
        let message = message.into();
        self.0.push(Note { origin: origin.cloned(), kind, subject: subject.to_owned(), message });
    }

    /// In the order in which the files were given, then of their lines.
    fn finish(mut self, sources: &[Source]) -> Vec<Note> {
        self.0.sort_by_cached_key(|note| {
            let file = note.origin.as_ref().and_then(|origin| sources.iter().position(|s| s.file == origin.file));
            (file.unwrap_or(usize::MAX), note.clone())
        });
        self.0.dedup();
        self.0
    }
}
