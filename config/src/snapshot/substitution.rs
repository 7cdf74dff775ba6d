//! Text in which each match of a regular expression gives way to another text, in the syntax of RE2: `\1` to `\9` are the
//! groups of the expression, `\0` is the whole match, `\\` a backslash.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::matching::{PatternError, compile_pattern};

/// No result is longer.
const MOST: usize = 16 << 10;

#[derive(Clone)]
pub struct Substitution(Arc<Compiled>);

struct Compiled {
    pattern: Box<str>,
    substitution: Box<str>,
    regex: regex::bytes::Regex,
    pieces: Box<[Piece]>,
}

enum Piece {
    Text(Box<[u8]>),
    Group(usize),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubstitutionError {
    #[error("pattern {0:?} {1}")]
    Pattern(String, PatternError),
    #[error("substitution {0:?}: group {1} is not in the pattern")]
    Group(String, usize),
    #[error("substitution {0:?}: a backslash is followed by a digit or a backslash")]
    Escape(String),
}

/// The result would be longer than a request may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the substituted text is too long")]
pub struct TooLong;

impl Substitution {
    pub fn parse(pattern: &str, substitution: &str) -> Result<Self, SubstitutionError> {
        let regex = compile_pattern(pattern).map_err(|error| SubstitutionError::Pattern(pattern.to_owned(), error))?;
        let mut pieces = Vec::new();
        let mut text = Vec::new();
        let mut rest = substitution.bytes();
        while let Some(byte) = rest.next() {
            match (byte, if byte == b'\\' { rest.next() } else { None }) {
                (b'\\', Some(b'\\')) => text.push(b'\\'),
                (b'\\', Some(digit @ b'0'..=b'9')) => {
                    let group = usize::from(digit - b'0');
                    if group >= regex.captures_len() {
                        return Err(SubstitutionError::Group(substitution.to_owned(), group));
                    }
                    pieces.extend((!text.is_empty()).then(|| Piece::Text(std::mem::take(&mut text).into())));
                    pieces.push(Piece::Group(group));
                }
                (b'\\', _) => return Err(SubstitutionError::Escape(substitution.to_owned())),
                (byte, _) => text.push(byte),
            }
        }
        pieces.extend((!text.is_empty()).then(|| Piece::Text(text.into())));
        let (pattern, substitution) = (pattern.into(), substitution.into());
        Ok(Self(Arc::new(Compiled { pattern, substitution, regex, pieces: pieces.into() })))
    }

    pub fn is_match(&self, text: &str) -> bool {
        self.0.regex.is_match(text.as_bytes())
    }

    /// Every match, from left to right. What does not match stays.
    pub fn apply<'t>(&self, text: &'t str) -> Result<Cow<'t, [u8]>, TooLong> {
        let Compiled { regex, pieces, .. } = &*self.0;
        let bytes = text.as_bytes();
        let mut out = Vec::new();
        let mut at = 0;
        for captures in regex.captures_iter(bytes) {
            let Some(whole) = captures.get(0) else { continue };
            out.extend_from_slice(bytes.get(at..whole.start()).unwrap_or_default());
            for piece in pieces {
                match piece {
                    Piece::Text(text) => out.extend_from_slice(text),
                    // A group that took no part is empty.
                    Piece::Group(group) => {
                        out.extend_from_slice(captures.get(*group).map_or(&[][..], |found| found.as_bytes()));
                    }
                }
            }
            if out.len() > MOST {
                return Err(TooLong);
            }
            at = whole.end();
        }
        if at == 0 && out.is_empty() {
            return Ok(Cow::Borrowed(bytes));
        }
        out.extend_from_slice(bytes.get(at..).unwrap_or_default());
        if out.len() > MOST { Err(TooLong) } else { Ok(Cow::Owned(out)) }
    }
}

impl PartialEq for Substitution {
    fn eq(&self, other: &Self) -> bool {
        (&self.0.pattern, &self.0.substitution) == (&other.0.pattern, &other.0.substitution)
    }
}

impl Eq for Substitution {}

impl fmt::Display for Substitution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.0.pattern, self.0.substitution)
    }
}

impl fmt::Debug for Substitution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} to {:?}", self.0.pattern, self.0.substitution)
    }
}

impl Serialize for Substitution {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(pattern: &str, substitution: &str, text: &str) -> String {
        let substitution = Substitution::parse(pattern, substitution).unwrap();
        String::from_utf8(substitution.apply(text).unwrap().into_owned()).unwrap()
    }

    #[test]
    fn the_examples_of_replace_regex_match() {
        for (pattern, substitution, text, expected) in [
            ("^/service/([^/]+)(/.*)$", r"\2/instance/\1", "/service/foo/v1/api", "/v1/api/instance/foo"),
            ("one", "two", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/two/zzz"),
            ("^(.*?)one(.*)$", r"\1two\2", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/one/zzz"),
            ("(?i)/xxx/", "/yyy/", "/aaa/XxX/bbb", "/aaa/yyy/bbb"),
            // Beyond them.
            ("x", "y", "/abc", "/abc"),
            ("^/(a)?b", r"/<\1>\\", "/b/c", r"/<>\/c"),
            ("b", "", "/b", "/"),
            ("(a+)", r"\0\0", "/aa", "/aaaa"),
        ] {
            assert_eq!(apply(pattern, substitution, text), expected, "{pattern} {substitution}");
        }
    }

    #[test]
    fn what_cannot_be_honoured() {
        for (pattern, substitution, expected) in [
            ("(", "", "pattern \"(\" is no regular expression"),
            ("a", r"\1", "group 1 is not in the pattern"),
            ("a", r"\x", "a backslash is followed by"),
            ("a", "\\", "a backslash is followed by"),
            ("(?=a)", "", "is no regular expression"),
        ] {
            let error = Substitution::parse(pattern, substitution).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let long = Substitution::parse("", &"x".repeat(1000)).unwrap();
        assert_eq!(long.apply(&"a".repeat(1000)), Err(TooLong));
    }
}
