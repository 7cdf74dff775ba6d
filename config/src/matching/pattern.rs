//! Regular expressions of matches: the whole value must match, and neither pattern nor automaton grows without bound.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// A compiled pattern costs at most about this much memory.
const SIZE_LIMIT: usize = 1 << 20;
/// Nested groups and repetitions.
const NEST_LIMIT: u32 = 64;

/// A regular expression that a whole value must match ("RegularExpression" in the Gateway API is
/// implementation-specific; ours is the syntax of the `regex` crate: RE2 without look-around and back-references, so
/// matching takes linear time).
///
/// It is a pointer, since every match has room for one and few have one.
#[derive(Clone)]
pub struct Pattern(Arc<Compiled>);

struct Compiled {
    text: Box<str>,
    regex: regex::bytes::Regex,
}

/// Why a text is no usable pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("is no regular expression: {0}")]
    Syntax(String),
    #[error("is a regular expression of more than 1 MiB when compiled")]
    Size,
}

impl Pattern {
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        // Compiled alone first, so that no text can break out of the group that is put around it.
        compile(text)?;
        let regex = compile(&format!(r"\A(?:{text})\z"))?;
        Ok(Self(Arc::new(Compiled { text: text.into(), regex })))
    }

    pub fn matches(&self, value: &[u8]) -> bool {
        self.0.regex.is_match(value)
    }

    pub fn as_str(&self) -> &str {
        &self.0.text
    }
}

/// A text as an expression that is not bound to the whole value.
pub(crate) fn compile(text: &str) -> Result<regex::bytes::Regex, PatternError> {
    regex::bytes::RegexBuilder::new(text)
        .size_limit(SIZE_LIMIT)
        .dfa_size_limit(SIZE_LIMIT)
        .nest_limit(NEST_LIMIT)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => PatternError::Size,
            // The error draws the pattern over several lines; the last says what is wrong.
            other => {
                let text = other.to_string();
                let last = text.lines().last().unwrap_or_default().trim();
                PatternError::Syntax(last.strip_prefix("error: ").unwrap_or(last).to_owned())
            }
        })
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "~{:?}", self.0.text)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_value_must_match() {
        let pattern = Pattern::parse("a+|b").unwrap();
        for (value, expected) in [("aa", true), ("b", true), ("ab", false), ("xb", false), ("b\n", false), ("", false)]
        {
            assert_eq!(pattern.matches(value.as_bytes()), expected, "{value:?}");
        }
        assert!(!Pattern::parse("(?m)^a$").unwrap().matches(b"a\nb"));
    }

    #[test]
    fn what_is_no_pattern() {
        for text in ["a)(b", "[", "*", r"(?=x)", r"(a)\1"] {
            assert!(matches!(Pattern::parse(text), Err(PatternError::Syntax(_))), "{text}");
        }
        assert_eq!(Pattern::parse(r"(\w{500}){500}").unwrap_err(), PatternError::Size);
        assert!(Pattern::parse(&"(".repeat(10_000)).is_err());
    }
}
