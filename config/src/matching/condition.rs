//! Conditions beside host and path: method, header fields, query parameters.

use std::borrow::Cow;

use serde::Serialize;

use super::pattern::Pattern;
use super::{Fields, RequestView};

/// What a value must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueMatch {
    Exact(Box<str>),
    Regex(Pattern),
}

/// HTTPHeaderMatch and GRPCHeaderMatch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldMatch {
    /// Lower case.
    pub name: Box<str>,
    pub value: ValueMatch,
}

/// A cookie of the request (Envoy Gateway's HTTPCookieMatch). Names are compared with the case that they have.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CookieMatch {
    pub name: Box<str>,
    pub value: ValueMatch,
}

impl CookieMatch {
    pub(super) fn matches<F: Fields + ?Sized>(&self, request: &RequestView<'_, F>) -> bool {
        self.value_in(request).is_some_and(|value| match &self.value {
            ValueMatch::Exact(expected) => value == expected.as_bytes(),
            ValueMatch::Regex(pattern) => pattern.matches(value),
        })
    }

    /// The value of the first cookie of this name (RFC 6265 §4.2.1), without the quotes that it may have.
    pub(super) fn value_in<'r, F: Fields + ?Sized>(&self, request: &RequestView<'r, F>) -> Option<&'r [u8]> {
        let pairs = request.fields.first("cookie")?.split(|byte| *byte == b';');
        pairs.map(<[u8]>::trim_ascii).find_map(|pair| {
            let value = pair.strip_prefix(self.name.as_bytes())?.strip_prefix(b"=")?;
            let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
            Some(quoted.unwrap_or(value))
        })
    }
}

/// HTTPQueryParamMatch. Name and value are compared with the case that they have, after percent-decoding of the request's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueryMatch {
    pub name: Box<str>,
    pub value: ValueMatch,
}

impl FieldMatch {
    pub fn new(name: &str, value: ValueMatch) -> Self {
        Self { name: name.to_ascii_lowercase().into(), value }
    }

    pub(super) fn matches<F: Fields + ?Sized>(&self, request: &RequestView<'_, F>) -> bool {
        request.fields.first(&self.name).is_some_and(|value| match &self.value {
            ValueMatch::Exact(expected) => value == expected.as_bytes(),
            ValueMatch::Regex(pattern) => pattern.matches(value),
        })
    }
}

impl QueryMatch {
    pub fn matches(&self, query: Option<&str>) -> bool {
        self.value_in(query).is_some_and(|value| match &self.value {
            ValueMatch::Exact(expected) => decodes_to(value, expected.as_bytes()),
            ValueMatch::Regex(pattern) => pattern.matches(&decoded(value)),
        })
    }

    /// The undecoded value of this parameter. "If a query param is repeated in an HTTP request, the behavior is
    /// purposely left undefined": the first counts, as with header fields.
    pub(super) fn value_in<'q>(&self, query: Option<&'q str>) -> Option<&'q str> {
        parameter(query, &self.name)
    }
}

/// The undecoded value of the first parameter of this name.
fn parameter<'q>(query: Option<&'q str>, name: &str) -> Option<&'q str> {
    query.unwrap_or_default().split('&').find_map(|parameter| {
        let (known, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        (!parameter.is_empty() && decodes_to(known, name.as_bytes())).then_some(value)
    })
}

/// The value of the first parameter of this name, with its escapes decoded.
pub fn query_value<'q>(query: Option<&'q str>, name: &str) -> Option<Cow<'q, [u8]>> {
    parameter(query, name).map(decoded)
}

/// Keeps the first of several entries with one name: "only the first entry with an equivalent name MUST be considered".
pub(super) fn first_by_name<T>(entries: Vec<T>, name: impl Fn(&T) -> &str) -> Box<[T]> {
    let mut kept: Vec<T> = Vec::with_capacity(entries.len());
    for entry in entries {
        if !kept.iter().any(|other| name(other) == name(&entry)) {
            kept.push(entry);
        }
    }
    kept.into()
}

/// Octets of a component with its escapes decoded (RFC 3986 §2.1); an incomplete escape stands for itself.
fn octets(component: &str) -> impl Iterator<Item = u8> + '_ {
    let mut rest = component.as_bytes();
    std::iter::from_fn(move || {
        let (octet, after) = match rest {
            [b'%', high, low, after @ ..] => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (b'%', &rest[1..]),
            },
            [octet, after @ ..] => (*octet, after),
            [] => return None,
        };
        rest = after;
        Some(octet)
    })
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

fn decodes_to(component: &str, expected: &[u8]) -> bool {
    octets(component).eq(expected.iter().copied())
}

fn decoded(component: &str) -> Cow<'_, [u8]> {
    if component.contains('%') { Cow::Owned(octets(component).collect()) } else { Cow::Borrowed(component.as_bytes()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, value: &str) -> QueryMatch {
        QueryMatch { name: name.into(), value: ValueMatch::Exact(value.into()) }
    }

    #[test]
    fn query_parameters() {
        for (text, name, value, expected) in [
            ("animal=whale", "animal", "whale", true),
            ("ANIMAL=whale", "animal", "whale", false),
            ("animal=Whale", "animal", "whale", false),
            ("x=1&animal=whale", "animal", "whale", true),
            ("animal=dog&animal=whale", "animal", "whale", false),
            ("a%6eimal=w%68ale", "animal", "whale", true),
            ("animal=blue%20whale", "animal", "blue whale", true),
            ("animal=blue+whale", "animal", "blue+whale", true),
            ("animal", "animal", "", true),
            ("animal=", "animal", "", true),
            ("", "", "", false),
            ("&&animal=whale&", "animal", "whale", true),
            ("animal=a=b", "animal", "a=b", true),
            ("animal=%zz%2", "animal", "%zz%2", true),
        ] {
            assert_eq!(query(name, value).matches(Some(text)), expected, "{text} for {name}={value}");
        }
        assert!(!query("animal", "").matches(None));
    }

    #[test]
    fn query_expressions_see_decoded_values() {
        let matches = QueryMatch { name: "q".into(), value: ValueMatch::Regex(Pattern::parse("a b|c").unwrap()) };
        assert!(matches.matches(Some("q=a%20b")));
        assert!(matches.matches(Some("q=c")));
        assert!(!matches.matches(Some("q=cc")));
    }

    #[test]
    fn the_first_of_equal_names_counts() {
        let kept = first_by_name(vec![("a", 1), ("b", 2), ("a", 3)], |(name, _)| name);
        assert_eq!(&*kept, [("a", 1), ("b", 2)]);
    }
}
