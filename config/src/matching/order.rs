//! One match of one rule, and the order of precedence among matches of one host.

use std::cmp::{Ordering, Reverse};

use serde::Serialize;

use super::condition::{CookieMatch, FieldMatch, QueryMatch, first_by_name};
use super::pattern::Pattern;
use super::{Fields, RequestView};
use crate::snapshot::RuleId;

/// What a match says of the path. GRPCRoute matches are paths too: gRPC calls `/service/method`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathMatch {
    Exact(Box<str>),
    Regex(Pattern),
    /// By whole segments, without a trailing slash; `/` is the empty text here.
    Prefix(Box<str>),
    /// A regular expression for the service, the method, or both.
    GrpcRegex {
        service: Option<Pattern>,
        method: Option<Pattern>,
    },
    /// A method of whatever service.
    GrpcMethod(Box<str>),
}

/// One match of one rule.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RouteMatch {
    pub path: PathMatch,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Box<str>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub headers: Box<[FieldMatch]>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub query: Box<[QueryMatch]>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub cookies: Box<[CookieMatch]>,
    /// Rules are numbered from the oldest route to the newest, then by namespace and name, then in their order in the
    /// route: the number is the tie-breaker of the specification.
    pub rule: RuleId,
    /// Place in the rule's list of matches, from 0.
    pub index: u32,
}

impl PathMatch {
    /// PathPrefix: "trailing `/` … is ignored".
    pub fn prefix(text: &str) -> Self {
        Self::Prefix(text.strip_suffix('/').unwrap_or(text).into())
    }

    pub fn exact(text: &str) -> Self {
        Self::Exact(text.into())
    }

    /// A GRPCMethodMatch of type Exact.
    pub fn grpc(service: Option<&str>, method: Option<&str>) -> Self {
        match (service, method) {
            (Some(service), Some(method)) => Self::Exact(format!("/{service}/{method}").into()),
            (Some(service), None) => Self::Prefix(format!("/{service}").into()),
            (None, Some(method)) => Self::GrpcMethod(method.into()),
            (None, None) => Self::Prefix("".into()),
        }
    }

    /// The length of what the path was matched by if that is a prefix, 0 for every other kind of match; `None` if the
    /// path does not match.
    pub(super) fn matches(&self, path: &str) -> Option<usize> {
        match self {
            Self::Exact(exact) => (**exact == *path).then_some(0),
            Self::Regex(pattern) => pattern.matches(path.as_bytes()).then_some(0),
            Self::Prefix(prefix) => {
                let ends_segment = ends_segment(path, prefix.len());
                (ends_segment && path.as_bytes().starts_with(prefix.as_bytes())).then_some(prefix.len())
            }
            Self::GrpcRegex { service, method } => {
                let (called, name) = grpc_call(path)?;
                let matches = |pattern: &Option<Pattern>, text: &str| {
                    pattern.as_ref().is_none_or(|pattern| pattern.matches(text.as_bytes()))
                };
                (matches(service, called) && matches(method, name)).then_some(0)
            }
            Self::GrpcMethod(method) => grpc_call(path).is_some_and(|(_, name)| *name == **method).then_some(0),
        }
    }

    /// Kinds of match from the first to the last.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Exact(_) => 0,
            Self::Regex(_) => 1,
            Self::Prefix(prefix) if !prefix.is_empty() => 2,
            Self::GrpcRegex { .. } => 3,
            Self::GrpcMethod(_) => 4,
            Self::Prefix(_) => 5,
        }
    }
}

/// Whether a segment ends after this many bytes; the empty prefix matches everything.
pub(super) fn ends_segment(path: &str, length: usize) -> bool {
    length == 0 || path.len() == length || path.as_bytes().get(length) == Some(&b'/')
}

/// gRPC over HTTP/2: `Path → ":path" "/" Service-Name "/" {method name}`.
fn grpc_call(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix('/')?.split_once('/').filter(|(_, method)| !method.contains('/'))
}

impl RouteMatch {
    /// A match on everything.
    pub fn new(path: PathMatch, rule: RuleId, index: u32) -> Self {
        Self {
            path,
            method: None,
            headers: Box::default(),
            query: Box::default(),
            cookies: Box::default(),
            rule,
            index,
        }
    }

    /// Of headers with one name only the first is kept.
    pub fn with_headers(mut self, headers: Vec<FieldMatch>) -> Self {
        self.headers = first_by_name(headers, |header| &header.name);
        self
    }

    /// Of parameters with one name only the first is kept.
    pub fn with_query(mut self, query: Vec<QueryMatch>) -> Self {
        self.query = first_by_name(query, |parameter| &parameter.name);
        self
    }

    /// Whether no request fails to match.
    pub(super) fn takes_all(&self) -> bool {
        let Self { path, method, headers, query, cookies, rule: _, index: _ } = self;
        matches!(path, PathMatch::Prefix(prefix) if prefix.is_empty())
            && method.is_none()
            && headers.is_empty()
            && query.is_empty()
            && cookies.is_empty()
    }

    pub(super) fn conditions_hold<F: Fields + ?Sized>(&self, request: &RequestView<'_, F>) -> bool {
        self.method.as_deref().is_none_or(|method| method == request.method)
            && self.headers.iter().all(|header| header.matches(request))
            && self.query.iter().all(|parameter| parameter.matches(request.query))
            && self.cookies.iter().all(|cookie| cookie.matches(request))
    }

    /// HTTPRouteRule.matches: "Across all rules specified on applicable Routes, precedence must be given to the match
    /// having: 'Exact' path match. 'Prefix' path match with largest number of characters. Method match. Largest number
    /// of header matches. Largest number of query param matches. Note: The precedence of RegularExpression path matches
    /// are implementation-specific. If ties still exist across multiple Routes, matching precedence MUST be determined
    /// in order of the following criteria, continuing on ties: The oldest Route based on creation timestamp. The Route
    /// appearing first in alphabetical order by '{namespace}/{name}'. If ties still exist within an HTTPRoute, matching
    /// precedence MUST be granted to the FIRST matching rule (in list order) with a match meeting the above criteria."
    ///
    /// GRPCRouteRule.matches: "Characters in a matching service. Characters in a matching method. Header matches.", then
    /// the same ties. An exact service and method is an exact path, an exact service is a prefix; what names no service
    /// comes after what does. Ours is where regular expressions stand: an expression for a path after exact paths and
    /// before prefixes, one for a service or method after exact services; and that cookies count as headers do.
    ///
    /// Matches that cannot both hold (two exact paths) are ordered by their text, so that equal ones are neighbours.
    pub(super) fn precedence(&self, other: &Self) -> Ordering {
        self.path
            .rank()
            .cmp(&other.path.rank())
            .then_with(|| path_order(&self.path, &other.path))
            .then_with(|| self.criteria().cmp(&other.criteria()))
    }

    fn criteria(&self) -> impl Ord {
        let headers = self.headers.len() + self.cookies.len();
        (self.method.is_none(), Reverse(headers), Reverse(self.query.len()), self.rule, self.index)
    }
}

fn path_order(one: &PathMatch, other: &PathMatch) -> Ordering {
    let longest_first = |a: &str, b: &str| b.len().cmp(&a.len()).then_with(|| a.cmp(b));
    let characters = |pattern: &Option<Pattern>| Reverse(pattern.as_ref().map_or(0, |pattern| pattern.as_str().len()));
    match (one, other) {
        (PathMatch::Exact(a), PathMatch::Exact(b)) => a.cmp(b),
        (PathMatch::Prefix(a), PathMatch::Prefix(b)) | (PathMatch::GrpcMethod(a), PathMatch::GrpcMethod(b)) => {
            longest_first(a, b)
        }
        (
            PathMatch::GrpcRegex { service: one_service, method: one_method },
            PathMatch::GrpcRegex { service: other_service, method: other_method },
        ) => (characters(one_service), characters(one_method))
            .cmp(&(characters(other_service), characters(other_method))),
        _ => Ordering::Equal,
    }
}
