//! A map from host patterns to values, in which a host finds its most specific pattern first.
//!
//! Flows in: patterns of listeners and routes at compile time, a lower-case host without a port per request. Flows out:
//! the values of every pattern that matches, most specific first, without allocation and at a cost that does not grow
//! with the number of hosts. It never decides what a host without a value means.

use std::fmt;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::names::{HostPattern, Hostname};

/// Values by [`HostPattern`].
#[derive(Clone)]
pub struct HostMap<T> {
    exact: HashMap<Arc<str>, T>,
    /// Keyed by what follows `*.`.
    wildcard: HashMap<Arc<str>, T>,
    any: Option<T>,
}

impl<T> HostMap<T> {
    pub fn new() -> Self {
        Self { exact: HashMap::new(), wildcard: HashMap::new(), any: None }
    }

    /// Returns the value that the pattern had before.
    pub fn insert(&mut self, pattern: HostPattern, value: T) -> Option<T> {
        match pattern {
            HostPattern::Any => self.any.replace(value),
            HostPattern::Wildcard(suffix) => self.wildcard.insert(suffix.into_text(), value),
            HostPattern::Exact(name) => self.exact.insert(name.into_text(), value),
        }
    }

    /// The value of exactly this pattern.
    pub fn of(&self, pattern: &HostPattern) -> Option<&T> {
        match pattern {
            HostPattern::Any => self.any.as_ref(),
            HostPattern::Wildcard(suffix) => self.wildcard.get(suffix.as_str()),
            HostPattern::Exact(name) => self.exact.get(name.as_str()),
        }
    }

    /// The value of exactly this pattern, made on first use.
    pub fn entry_or_default(&mut self, pattern: &HostPattern) -> &mut T
    where
        T: Default,
    {
        match pattern {
            HostPattern::Any => self.any.get_or_insert_default(),
            HostPattern::Wildcard(suffix) => self.wildcard.entry(suffix.clone().into_text()).or_default(),
            HostPattern::Exact(name) => self.exact.entry(name.clone().into_text()).or_default(),
        }
    }

    /// The values of all patterns that match a host, from the most to the least specific. Gateway API: precedence goes
    /// to "characters in a matching non-wildcard hostname", then to "characters in a matching hostname"; all wildcards
    /// that match one host are suffixes of it, so the one with most labels is the one with most characters.
    pub fn candidates<'m, 'h>(&'m self, host: &'h str) -> Candidates<'m, 'h, T> {
        // What cannot be a host name only falls to `Any`; the length also bounds the walk over the labels.
        let stage = if host.starts_with('.') || host.len() > 253 { Stage::Any } else { Stage::Exact };
        Candidates { map: self, stage, rest: host }
    }

    /// The value of the most specific pattern that matches.
    pub fn best(&self, host: &str) -> Option<&T> {
        self.candidates(host).next()
    }

    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcard.is_empty() && self.any.is_none()
    }

    pub fn len(&self) -> usize {
        self.exact.len() + self.wildcard.len() + usize::from(self.any.is_some())
    }

    /// All values, in no particular order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.exact.values().chain(self.wildcard.values()).chain(self.any.as_ref())
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.exact.values_mut().chain(self.wildcard.values_mut()).chain(self.any.as_mut())
    }

    /// All patterns as text with their values: exact ones by name, wildcards by name, then `*`.
    pub fn iter(&self) -> impl Iterator<Item = (String, &T)> {
        sorted(&self.exact)
            .map(|(name, value)| (name.to_owned(), value))
            .chain(sorted(&self.wildcard).map(|(suffix, value)| (format!("*.{suffix}"), value)))
            .chain(self.any.as_ref().map(|value| ("*".to_owned(), value)))
    }

    /// As [`HostMap::iter`], with patterns.
    pub fn patterns(&self) -> impl Iterator<Item = (HostPattern, &T)> {
        self.iter().filter_map(|(text, value)| {
            let pattern = match text.as_str() {
                "*" => HostPattern::Any,
                text => match text.strip_prefix("*.") {
                    Some(suffix) => HostPattern::Wildcard(Hostname::parse(suffix).ok()?),
                    None => HostPattern::Exact(Hostname::parse(text).ok()?),
                },
            };
            Some((pattern, value))
        })
    }
}

fn sorted<T>(map: &HashMap<Arc<str>, T>) -> impl Iterator<Item = (&str, &T)> {
    let mut all: Vec<(&str, &T)> = map.iter().map(|(key, value)| (&**key, value)).collect();
    all.sort_unstable_by_key(|(key, _)| *key);
    all.into_iter()
}

impl<T> Default for HostMap<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: PartialEq> PartialEq for HostMap<T> {
    fn eq(&self, other: &Self) -> bool {
        self.exact == other.exact && self.wildcard == other.wildcard && self.any == other.any
    }
}

impl<T: fmt::Debug> fmt::Debug for HostMap<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<T: Serialize> Serialize for HostMap<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (pattern, value) in self.iter() {
            map.serialize_entry(&pattern, value)?;
        }
        map.end()
    }
}

impl<T> FromIterator<(HostPattern, T)> for HostMap<T> {
    fn from_iter<I: IntoIterator<Item = (HostPattern, T)>>(iter: I) -> Self {
        let mut map = Self::new();
        for (pattern, value) in iter {
            map.insert(pattern, value);
        }
        map
    }
}

/// See [`HostMap::candidates`].
pub struct Candidates<'m, 'h, T> {
    map: &'m HostMap<T>,
    stage: Stage,
    /// What the next wildcard may be followed by, with its first label still on.
    rest: &'h str,
}

enum Stage {
    Exact,
    Wildcard,
    Any,
    Done,
}

impl<'m, T> Iterator for Candidates<'m, '_, T> {
    type Item = &'m T;

    fn next(&mut self) -> Option<&'m T> {
        loop {
            match self.stage {
                Stage::Exact => {
                    self.stage = if self.map.wildcard.is_empty() { Stage::Any } else { Stage::Wildcard };
                    if let Some(found) = self.map.exact.get(self.rest) {
                        return Some(found);
                    }
                }
                Stage::Wildcard => match self.rest.split_once('.') {
                    Some((_, suffix)) => {
                        self.rest = suffix;
                        if let Some(found) = self.map.wildcard.get(suffix) {
                            return Some(found);
                        }
                    }
                    None => self.stage = Stage::Any,
                },
                Stage::Any => {
                    self.stage = Stage::Done;
                    if let Some(found) = &self.map.any {
                        return Some(found);
                    }
                }
                Stage::Done => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(patterns: &[&'static str]) -> HostMap<&'static str> {
        patterns
            .iter()
            .map(|text| (HostPattern::parse(Some(text).filter(|text| **text != "*").copied()).unwrap(), *text))
            .collect()
    }

    #[test]
    fn most_specific_first() {
        let map = map(&["*", "*.example", "*.b.example", "a.b.example", "*.c.example"]);
        for (host, expected) in [
            ("a.b.example", vec!["a.b.example", "*.b.example", "*.example", "*"]),
            ("x.b.example", vec!["*.b.example", "*.example", "*"]),
            ("x.y.b.example", vec!["*.b.example", "*.example", "*"]),
            ("b.example", vec!["*.example", "*"]),
            ("example", vec!["*"]),
            ("", vec!["*"]),
            (".b.example", vec!["*"]),
            ("192.0.2.1", vec!["*"]),
        ] {
            assert_eq!(map.candidates(host).copied().collect::<Vec<_>>(), expected, "{host}");
            assert_eq!(map.best(host).copied(), expected.first().copied(), "{host}");
        }
        assert_eq!(map.best(&"a.".repeat(40_000)).copied(), Some("*"));
    }

    #[test]
    fn nothing_without_a_pattern() {
        assert_eq!(map(&["a.example", "*.b.example"]).best("b.example"), None);
        assert_eq!(map(&["*.example"]).best("example"), None);
        assert_eq!(map(&["*.example"]).best("badexample"), None);
    }

    #[test]
    fn written_in_one_order() {
        let one = map(&["*.b", "*", "z.b", "a.b", "*.a"]);
        let two = map(&["a.b", "*.a", "*", "*.b", "z.b"]);
        assert_eq!(one, two);
        let text = serde_json::to_string(&one).unwrap();
        assert_eq!(text, r#"{"a.b":"a.b","z.b":"z.b","*.a":"*.a","*.b":"*.b","*":"*"}"#);
        assert_eq!(text, serde_json::to_string(&two).unwrap());
        assert_eq!(
            one.patterns().map(|(pattern, _)| pattern.to_string()).collect::<Vec<_>>(),
            one.iter().map(|(text, _)| text).collect::<Vec<_>>()
        );
        assert_eq!(one.len(), 5);
    }

    #[test]
    fn a_pattern_has_one_value() {
        let mut map = HostMap::new();
        assert_eq!(map.insert(HostPattern::Any, 1), None);
        assert_eq!(map.insert(HostPattern::Any, 2), Some(1));
        *map.entry_or_default(&HostPattern::Any) += 1;
        assert_eq!(map.of(&HostPattern::Any), Some(&3));
    }
}
