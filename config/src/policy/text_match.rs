//! What a text must be, as Envoy Gateway's StringMatch has it.

use serde::Serialize;

use crate::matching::{Pattern, PatternError};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TextMatch {
    Exact(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    /// Of the whole text.
    Regex(Pattern),
}

impl TextMatch {
    pub fn regex(text: &str) -> Result<Self, PatternError> {
        Pattern::parse(text).map(Self::Regex)
    }

    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(text) => value == text.as_bytes(),
            Self::Prefix(text) => value.starts_with(text.as_bytes()),
            Self::Suffix(text) => value.ends_with(text.as_bytes()),
            Self::Regex(pattern) => pattern.matches(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind() {
        for (rule, yes, no) in [
            (TextMatch::Exact("ab".into()), "ab", "abc"),
            (TextMatch::Prefix("ab".into()), "abc", "cab"),
            (TextMatch::Suffix("ab".into()), "cab", "abc"),
            (TextMatch::regex("a+b|c").unwrap(), "aab", "aabx"),
        ] {
            assert!(rule.matches(yes.as_bytes()) && !rule.matches(no.as_bytes()), "{rule:?}");
        }
        assert!(TextMatch::regex("(").is_err());
    }
}
