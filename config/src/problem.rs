//! What is wrong with an input, in one line: where, what, value, expected.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::names::ObjectRef;

/// A place in a text. Lines and columns count from 1, column counts characters; both are 0 where the source is no text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Origin {
    /// The path as the user would type it, or the name of another source.
    pub file: Arc<str>,
    pub line: u32,
    pub column: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A source that is no text has no lines.
        if self.line == 0 {
            return f.write_str(&self.file);
        }
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// How bad a finding is, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object, or the part of it that is named, is not in effect.
    Error,
    /// It is in effect, but hardly as intended.
    Warning,
    /// A field that is understood but that this version does not act on.
    Inert,
}

/// One finding about one place of one input.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Problem {
    pub severity: Severity,
    /// Absent when no text can be blamed, such as a directory that is gone.
    pub origin: Option<Origin>,
    /// The object concerned, where the text got as far as being one.
    pub object: Option<ObjectRef>,
    /// What, value, expected: lower case, no full stop.
    pub message: String,
}

impl fmt::Display for Problem {
    /// `FILE:LINE:COL: KIND NS/NAME: message`; a warning and an inert field say so after the place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        match self.severity {
            Severity::Error => {}
            Severity::Warning => f.write_str("warning: ")?,
            Severity::Inert => f.write_str("not acted on: ")?,
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        f.write_str(&self.message)
    }
}
