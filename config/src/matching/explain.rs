//! Why a request goes where it goes: every match of every host pattern that matches, won or lost and by what.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::order::{PathMatch, RouteMatch};
use super::table::RouteTable;
use super::{Fields, RequestView};
use crate::snapshot::RuleId;

/// One match that was considered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// The host pattern under which it stands.
    pub host: String,
    pub matched: Arc<RouteMatch>,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Won,
    Lost(Loss),
}

/// The first reason, in the order in which a match is tested.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    Host,
    Path,
    Method {
        expected: Box<str>,
    },
    Header {
        name: Box<str>,
        found: bool,
    },
    Query {
        name: Box<str>,
        found: bool,
    },
    Cookie {
        name: Box<str>,
        found: bool,
    },
    /// It holds, but another one that holds goes first.
    Precedence {
        winner: RuleId,
        because: &'static str,
    },
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |found: &bool| if *found { "has another value" } else { "is absent" };
        match self {
            Self::Host => f.write_str("host does not match"),
            Self::Path => f.write_str("path does not match"),
            Self::Method { expected } => write!(f, "method is not {expected}"),
            Self::Header { name, found } => write!(f, "header {name} {}", value(found)),
            Self::Query { name, found } => write!(f, "query parameter {name} {}", value(found)),
            Self::Cookie { name, found } => write!(f, "cookie {name} {}", value(found)),
            Self::Precedence { because, .. } => write!(f, "another match goes first: {because}"),
        }
    }
}

impl RouteTable {
    /// Every match of this listener: those of matching hosts from the most to the least specific and in the order of
    /// precedence, then those of other hosts.
    pub fn explain<F: Fields + ?Sized>(&self, request: &RequestView<'_, F>) -> Vec<Candidate> {
        let mut patterns: Vec<_> = self.hosts.patterns().collect();
        // Exact names sort before wildcards, and these by length, which is the order of `HostMap::candidates`.
        patterns.sort_by_cached_key(|(pattern, _)| {
            let text = pattern.to_string();
            (!pattern.matches(request.host), text.starts_with('*'), std::cmp::Reverse(text.len()), text)
        });
        let mut winner: Option<(String, Arc<RouteMatch>)> = None;
        let mut candidates = Vec::new();
        for (pattern, matches) in patterns {
            let host = pattern.to_string();
            for entry in matches.sorted() {
                let outcome = match fault(pattern.matches(request.host), entry, request) {
                    Some(loss) => Outcome::Lost(loss),
                    None => match &winner {
                        None => {
                            winner = Some((host.clone(), Arc::clone(entry)));
                            Outcome::Won
                        }
                        Some((winning_host, winning)) => Outcome::Lost(Loss::Precedence {
                            winner: winning.rule,
                            because: if *winning_host == host {
                                because(winning, entry)
                            } else {
                                "a more specific host"
                            },
                        }),
                    },
                };
                candidates.push(Candidate { host: host.clone(), matched: Arc::clone(entry), outcome });
            }
        }
        candidates
    }
}

fn fault<F: Fields + ?Sized>(host: bool, entry: &RouteMatch, request: &RequestView<'_, F>) -> Option<Loss> {
    if !host {
        return Some(Loss::Host);
    }
    if entry.path.matches(request.path).is_none() {
        return Some(Loss::Path);
    }
    if let Some(method) = entry.method.as_ref().filter(|method| ***method != *request.method) {
        return Some(Loss::Method { expected: method.clone() });
    }
    if let Some(header) = entry.headers.iter().find(|header| !header.matches(request)) {
        let found = request.fields.first(&header.name).is_some();
        return Some(Loss::Header { name: header.name.clone(), found });
    }
    if let Some(parameter) = entry.query.iter().find(|parameter| !parameter.matches(request.query)) {
        let found = parameter.value_in(request.query).is_some();
        return Some(Loss::Query { name: parameter.name.clone(), found });
    }
    let cookie = entry.cookies.iter().find(|cookie| !cookie.matches(request))?;
    Some(Loss::Cookie { name: cookie.name.clone(), found: cookie.value_in(request).is_some() })
}

/// The criterion by which the first of two matches of one host goes first.
fn because(winning: &RouteMatch, losing: &RouteMatch) -> &'static str {
    if winning.path.rank() != losing.path.rank() {
        return match winning.path {
            PathMatch::Exact(_) => "an exact path",
            PathMatch::Regex(_) => "a regular expression for the path",
            PathMatch::GrpcRegex { .. } | PathMatch::GrpcMethod(_) => "a gRPC method",
            PathMatch::Prefix(_) => "a longer path prefix",
        };
    }
    match (&winning.path, &losing.path) {
        (PathMatch::Prefix(a), PathMatch::Prefix(b)) if a.len() != b.len() => return "a longer path prefix",
        (PathMatch::GrpcRegex { service: a, method: c }, PathMatch::GrpcRegex { service: b, method: d })
            if a != b || c != d =>
        {
            return "more characters in service and method";
        }
        _ => {}
    }
    if winning.method.is_some() != losing.method.is_some() {
        "a method"
    } else if winning.headers.len() + winning.cookies.len() != losing.headers.len() + losing.cookies.len() {
        "more headers"
    } else if winning.query.len() != losing.query.len() {
        "more query parameters"
    } else {
        "an older route, a name that sorts first, or an earlier rule"
    }
}
