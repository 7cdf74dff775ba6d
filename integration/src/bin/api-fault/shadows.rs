//! Lists as they were last read, for stale answers; and counts of what was asked.
//!
//! Flows in: passed answers. Flows out: old answers, and numbers as JSON. Bounded by bytes: the oldest shadow goes first.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use http::Uri;
use serde_json::{Map, Value};

use crate::request::Shape;

const BYTES: usize = 128 * 1024 * 1024;
/// What differs between two reads of one list by the same client.
const VOLATILE: [&str; 3] = ["resourceVersion", "resourceVersionMatch", "timeoutSeconds"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub content_type: Option<http::HeaderValue>,
    pub bytes: Bytes,
}

#[derive(Default)]
pub struct Shadows {
    kept: VecDeque<(String, Answer)>,
    bytes: usize,
}

/// One list, as one kind of client asks for it.
pub fn key(uri: &Uri, accept: Option<&http::HeaderValue>) -> String {
    let mut query: Vec<(String, String)> = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
        .filter(|(name, _)| !VOLATILE.contains(&name.as_ref()))
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    query.sort();
    let accept = accept.map(http::HeaderValue::as_bytes).unwrap_or_default();
    format!("{} {query:?} {}", uri.path(), String::from_utf8_lossy(accept))
}

impl Shadows {
    pub fn keep(&mut self, key: String, answer: Answer) {
        if let Some(place) = self.kept.iter().position(|(other, _)| *other == key)
            && let Some((_, old)) = self.kept.remove(place)
        {
            self.bytes -= old.bytes.len();
        }
        self.bytes += answer.bytes.len();
        self.kept.push_back((key, answer));
        while self.bytes > BYTES {
            let Some((_, old)) = self.kept.pop_front() else { break };
            self.bytes -= old.bytes.len();
        }
    }

    pub fn find(&self, key: &str) -> Option<Answer> {
        self.kept.iter().find(|(other, _)| other == key).map(|(_, answer)| answer.clone())
    }
}

/// Requests by verb, resource and answered code; code 0 is a connection closed instead.
#[derive(Default)]
pub struct Counts {
    counts: BTreeMap<(&'static str, String, u16), u64>,
}

impl Counts {
    pub fn add(&mut self, shape: &Shape, code: u16) {
        *self.counts.entry((shape.verb.name(), shape.resource.clone(), code)).or_default() += 1;
    }

    pub fn clear(&mut self) {
        self.counts.clear();
    }

    /// `{"patch httproutes/status 200": 4}`
    pub fn json(&self) -> Value {
        let line = |((verb, resource, code), count): (&(&str, String, u16), &u64)| {
            (format!("{verb} {resource} {code}").replace("  ", " "), Value::from(*count))
        };
        Value::Object(self.counts.iter().map(line).collect::<Map<_, _>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Verb;

    fn answer(length: usize) -> Answer {
        Answer { content_type: None, bytes: vec![0; length].into() }
    }

    #[test]
    fn one_list_has_one_key() {
        let of = |text: &str| key(&text.parse().unwrap(), None);
        assert_eq!(of("/api/v1/pods?limit=5&resourceVersion=7"), of("/api/v1/pods?resourceVersion=9&limit=5"));
        assert_ne!(of("/api/v1/pods?limit=5"), of("/api/v1/pods?limit=5&continue=x"));
        assert_ne!(of("/api/v1/pods"), of("/api/v1/services"));
    }

    #[test]
    fn shadows_are_bounded_and_replaced() {
        let mut shadows = Shadows::default();
        shadows.keep("a".to_owned(), answer(1));
        shadows.keep("a".to_owned(), answer(2));
        assert_eq!(shadows.find("a"), Some(answer(2)));
        shadows.keep("b".to_owned(), answer(BYTES - 1));
        assert_eq!((shadows.find("a"), shadows.find("b").is_some()), (None, true));
        shadows.keep("c".to_owned(), answer(BYTES + 1));
        assert!(shadows.kept.is_empty() && shadows.bytes == 0);
    }

    #[test]
    fn counted() {
        let mut counts = Counts::default();
        let shape = Shape { verb: Verb::Patch, resource: "httproutes/status".to_owned(), path: String::new() };
        counts.add(&shape, 200);
        counts.add(&shape, 200);
        counts.add(&Shape { verb: Verb::Other, resource: String::new(), path: String::new() }, 0);
        assert_eq!(counts.json().to_string(), r#"{"other 0":1,"patch httproutes/status 200":2}"#);
    }
}
