//! The positioned tree.

use std::borrow::Cow;
use std::fmt;

/// Where a node starts. Lines and columns count from 1; the line is relative to the text that was parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    /// Which text: 0 is the document itself, others are numbered by whoever mixes texts (patches).
    pub source: u16,
    pub line: u32,
    pub column: u32,
}

impl Mark {
    /// The start of a document.
    pub const START: Self = Self { source: 0, line: 1, column: 1 };
}

#[derive(Debug, Clone, PartialEq)]
pub struct Node<'t> {
    pub mark: Mark,
    pub value: Value<'t>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value<'t> {
    Null,
    Bool(bool),
    Int(i64),
    /// Above `i64::MAX` only.
    Uint(u64),
    Float(f64),
    String(Cow<'t, str>),
    Sequence(Vec<Node<'t>>),
    /// In the order of the text, keys distinct.
    Mapping(Vec<Entry<'t>>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Entry<'t> {
    pub key: Cow<'t, str>,
    pub mark: Mark,
    pub value: Node<'t>,
}

impl<'t> Node<'t> {
    /// The member of a mapping.
    pub fn member(&self, key: &str) -> Option<&Node<'t>> {
        self.entry(key).map(|entry| &entry.value)
    }

    pub fn entry(&self, key: &str) -> Option<&Entry<'t>> {
        match &self.value {
            Value::Mapping(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Gives every node another source number.
    pub fn set_source(&mut self, source: u16) {
        self.mark.source = source;
        match &mut self.value {
            Value::Sequence(nodes) => nodes.iter_mut().for_each(|node| node.set_source(source)),
            Value::Mapping(entries) => {
                for entry in entries {
                    entry.mark.source = source;
                    entry.value.set_source(source);
                }
            }
            _ => {}
        }
    }

    /// The mark of the deepest node that exists on a path such as `spec.listeners[2].port`. For a mapping member it is
    /// the mark of its value.
    pub fn mark_at(&self, path: &str) -> Mark {
        let mut node = self;
        let mut rest = path;
        while !rest.is_empty() {
            let next = if let Some(index) = rest.strip_prefix('[') {
                let Some((number, after)) = index.split_once(']') else { break };
                rest = after.strip_prefix('.').unwrap_or(after);
                match &node.value {
                    Value::Sequence(nodes) => number.parse().ok().and_then(|number: usize| nodes.get(number)),
                    _ => None,
                }
            } else {
                let end = rest.find(['.', '[']).unwrap_or(rest.len());
                let (key, after) = rest.split_at(end);
                rest = after.strip_prefix('.').unwrap_or(after);
                node.member(key)
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node.mark
    }
}

impl Value<'_> {
    /// What a value is, for messages: `the number 80`, `a list`.
    pub fn describe(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => format!("the boolean {value}"),
            Self::Int(value) => format!("the number {value}"),
            Self::Uint(value) => format!("the number {value}"),
            Self::Float(value) => format!("the number {value}"),
            Self::String(text) => format!("the string {}", Quoted(text)),
            Self::Sequence(_) => "a list".to_owned(),
            Self::Mapping(_) => "a mapping".to_owned(),
        }
    }
}

/// A foreign text in a message: quoted, escaped, cut.
pub(crate) struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 64;
        match self.0.char_indices().nth(LONGEST) {
            None => write!(f, "{:?}", self.0),
            Some((end, _)) => write!(f, "{:?}…", &self.0[..end]),
        }
    }
}
