//! Trees as YAML 1.2 text, in the order in which they were made. Block style that YAML 1.1 and 1.2 readers understand
//! alike comes out: whatever could be read as anything but the same string is quoted. It never parses.

use std::fmt::Write;

use super::tree::{Node, Value};

/// A mapping key longer than this must be written in the explicit form (YAML 1.2 §8.2.2: 1024 characters).
const IMPLICIT_KEY: usize = 1000;

/// A value to be written. Mappings keep their order.
#[derive(Debug, Clone, PartialEq)]
pub enum Tree {
    Null,
    Bool(bool),
    Int(i64),
    /// Beyond what `Int` holds.
    Uint(u64),
    Float(f64),
    Text(String),
    List(Vec<Tree>),
    Map(Vec<(String, Tree)>),
}

impl Tree {
    pub fn map<const N: usize>(members: [(&str, Tree); N]) -> Self {
        Self::Map(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    pub fn texts<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> Self {
        Self::List(items.into_iter().map(|item| Self::from(item.as_ref())).collect())
    }

    /// Adds a member to a mapping; anything else stays as it is.
    pub fn put(&mut self, key: &str, value: impl Into<Tree>) {
        if let Self::Map(members) = self {
            match members.iter_mut().find(|(known, _)| known == key) {
                Some((_, old)) => *old = value.into(),
                None => members.push((key.to_owned(), value.into())),
            }
        }
    }

    pub fn with(mut self, key: &str, value: impl Into<Tree>) -> Self {
        self.put(key, value);
        self
    }

    /// Adds a member where there is a value for it.
    pub fn with_some(self, key: &str, value: Option<impl Into<Tree>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    pub fn member(&self, key: &str) -> Option<&Tree> {
        match self {
            Self::Map(members) => members.iter().find(|(known, _)| known == key).map(|(_, value)| value),
            _ => None,
        }
    }

    pub fn member_mut(&mut self, key: &str) -> Option<&mut Tree> {
        match self {
            Self::Map(members) => members.iter_mut().find(|(known, _)| known == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// Takes a member away.
    pub fn take(&mut self, key: &str) -> Option<Tree> {
        let Self::Map(members) = self else { return None };
        let place = members.iter().position(|(known, _)| known == key)?;
        Some(members.remove(place).1)
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// One document, with a newline at the end.
    pub fn to_yaml(&self) -> String {
        let mut out = String::new();
        match self {
            Self::Map(members) if !members.is_empty() => mapping(&mut out, members, 0, false),
            Self::List(items) if !items.is_empty() => sequence(&mut out, items, 0, false),
            other => {
                scalar(&mut out, other);
                out.push('\n');
            }
        }
        out
    }
}

impl From<&str> for Tree {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Tree {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Tree {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

macro_rules! from_integers {
    ($($integer:ty),*) => {$(
        impl From<$integer> for Tree {
            fn from(value: $integer) -> Self {
                Self::Int(i64::from(value))
            }
        }
    )*};
}
from_integers!(u8, u16, u32, i64);

impl From<Vec<Tree>> for Tree {
    fn from(items: Vec<Tree>) -> Self {
        Self::List(items)
    }
}

impl From<&Node<'_>> for Tree {
    fn from(node: &Node<'_>) -> Self {
        match &node.value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Int(value) => Self::Int(*value),
            // Beyond what any field of ours holds; the text is not lost.
            Value::Uint(value) => Self::Text(value.to_string()),
            Value::Float(value) => Self::Float(*value),
            Value::String(text) => Self::Text(text.clone().into_owned()),
            Value::Sequence(nodes) => Self::List(nodes.iter().map(Self::from).collect()),
            Value::Mapping(entries) => {
                Self::Map(entries.iter().map(|entry| (entry.key.clone().into_owned(), (&entry.value).into())).collect())
            }
        }
    }
}

fn mapping(out: &mut String, members: &[(String, Tree)], indent: usize, mut inline: bool) {
    for (key, value) in members {
        margin(out, indent, &mut inline);
        let mut name = String::new();
        string(&mut name, key);
        if name.chars().count() > IMPLICIT_KEY {
            out.push_str("? ");
            out.push_str(&name);
            out.push('\n');
            margin(out, indent, &mut false);
        } else {
            out.push_str(&name);
        }
        out.push(':');
        match value {
            Tree::Map(inner) if !inner.is_empty() => {
                out.push('\n');
                mapping(out, inner, indent + 2, false);
            }
            Tree::List(items) if !items.is_empty() => {
                out.push('\n');
                sequence(out, items, indent + 2, false);
            }
            other => {
                out.push(' ');
                scalar(out, other);
                out.push('\n');
            }
        }
    }
}

fn sequence(out: &mut String, items: &[Tree], indent: usize, mut inline: bool) {
    for item in items {
        margin(out, indent, &mut inline);
        out.push_str("- ");
        match item {
            Tree::Map(inner) if !inner.is_empty() => mapping(out, inner, indent + 2, true),
            Tree::List(inner) if !inner.is_empty() => sequence(out, inner, indent + 2, true),
            other => {
                scalar(out, other);
                out.push('\n');
            }
        }
    }
}

/// The first line of a block that starts behind `- ` has its margin already.
fn margin(out: &mut String, indent: usize, inline: &mut bool) {
    if !std::mem::take(inline) {
        out.extend(std::iter::repeat_n(' ', indent));
    }
}

fn scalar(out: &mut String, value: &Tree) {
    // Writing to a String cannot fail.
    let _ = match value {
        Tree::Null => write!(out, "null"),
        Tree::Bool(value) => write!(out, "{value}"),
        Tree::Int(value) => write!(out, "{value}"),
        Tree::Uint(value) => write!(out, "{value}"),
        Tree::Float(value) => write!(out, "{value:?}"),
        Tree::Text(text) => {
            string(out, text);
            Ok(())
        }
        Tree::List(_) => write!(out, "[]"),
        Tree::Map(_) => write!(out, "{{}}"),
    };
}

/// A string, quoted where it must be.
fn string(out: &mut String, text: &str) {
    if is_plain(text) {
        out.push_str(text);
    } else {
        quoted(out, text);
    }
}

/// Whether every reader takes the bare text for this very string.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '/' || c == '_');
    let last = text.chars().next_back().is_some_and(|c| c != ' ' && c != ':');
    first
        && last
        && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
        && !text.contains(": ")
        && text.chars().all(|c| c.is_ascii_alphanumeric() || " /_.-:()=+@".contains(c))
}

/// Double-quoted style (YAML 1.2 §7.3.1); what is not printable there (§5.1) is escaped.
fn quoted(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_printable(c) => out.push(c),
            c => {
                let code = u32::from(c);
                // Writing to a String cannot fail.
                let _ = if code <= 0xff {
                    write!(out, "\\x{code:02x}")
                } else if code <= 0xffff {
                    write!(out, "\\u{code:04x}")
                } else {
                    write!(out, "\\U{code:08x}")
                };
            }
        }
    }
    out.push('"');
}

/// Without the line breaks of YAML 1.1 and the byte order mark, which readers treat differently.
fn is_printable(c: char) -> bool {
    matches!(c, ' '..='~' | '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}'
        | '\u{ff00}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let value = Tree::map([
            ("kind", "Service".into()),
            ("empty", Tree::Map(Vec::new())),
            ("words", Tree::texts(["yes", "a: b", "12", "#", "", "a\nb", "plain text"])),
            ("deep", Tree::List(vec![Tree::map([("x", 1u8.into())]), Tree::List(vec![true.into(), Tree::Null])])),
        ]);
        let text = value.to_yaml();
        let node = super::super::parse(&text).unwrap().unwrap();
        assert_eq!(Tree::from(&node), value, "{text}");
        assert!(text.starts_with("kind: Service\nempty: {}\nwords:\n  - \"yes\"\n"), "{text}");
    }
}
