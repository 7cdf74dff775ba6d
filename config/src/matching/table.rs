//! The table itself: matches by host, sorted by precedence, with an index where there are many.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use serde::{Serialize, Serializer};

use super::order::{PathMatch, RouteMatch, ends_segment};
use super::{Fields, RequestView};
use crate::hosts::HostMap;
use crate::names::HostPattern;
use crate::snapshot::{RuleId, are_same};

/// Up to here a host's matches are tried one by one, which is faster than hashing and needs no index.
const SCANNED: usize = 8;

/// All matches of one listener. Listeners with the same matches share one table.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct RouteTable {
    pub(super) hosts: Arc<HostMap<Matches>>,
}

/// The rule that takes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matched {
    pub rule: RuleId,
    /// Place of the match in the rule.
    pub index: u32,
    /// How many bytes of the path a PathPrefix covered, without a trailing slash: what ReplacePrefixMatch replaces.
    pub prefix: usize,
    /// The match names the method, as opposed to taking every one.
    pub by_method: bool,
    pub by_path: ByPath,
}

/// What kind of match the path was matched by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByPath {
    Exact,
    Prefix,
    /// An expression, or one part of a call of gRPC.
    Pattern,
}

impl RouteTable {
    /// Builds a table of matches and the hosts at which each holds. A match may be shared by many hosts.
    pub fn build(matches: impl IntoIterator<Item = (HostPattern, Arc<RouteMatch>)>) -> Self {
        let mut hosts: HostMap<Matches> = HostMap::new();
        for (host, entry) in matches {
            hosts.entry_or_default(&host).add(entry);
        }
        for matches in hosts.values_mut() {
            matches.finish();
        }
        Self { hosts: Arc::new(hosts) }
    }

    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// The match with the highest precedence among those that hold. A more specific host goes first, but only if one of
    /// its matches holds.
    pub fn find<F: Fields + ?Sized>(&self, request: &RequestView<'_, F>) -> Option<Matched> {
        self.hosts.candidates(request.host).find_map(|matches| matches.find(request))
    }

    /// All hosts with their matches in the order of precedence.
    pub fn iter(&self) -> impl Iterator<Item = (String, &[Arc<RouteMatch>])> {
        self.hosts.iter().map(|(host, matches)| (host, matches.sorted()))
    }
}

/// The matches of one host pattern. Of 10,000 hosts the next request wants another one, so a look-up is as long as the
/// way through memory: most hosts have one match, most such matches take every request, and that is written here.
#[derive(Debug, Clone, Default)]
pub(super) enum Matches {
    #[default]
    None,
    /// Place in the rule and the rule of an only match that takes every request, and the match itself.
    All(u32, RuleId, Arc<RouteMatch>),
    One(Arc<RouteMatch>),
    Many(Box<Many>),
}

#[derive(Debug, Clone, Default)]
pub(super) struct Many {
    sorted: Vec<Arc<RouteMatch>>,
    index: Option<Index>,
}

/// Ranges of `sorted`.
#[derive(Debug, Clone, Default)]
struct Index {
    exact: HashMap<Box<str>, (u32, u32)>,
    /// Regular expressions for paths.
    regex: (u32, u32),
    prefix: HashMap<Box<str>, (u32, u32)>,
    /// Lengths of the keys of `prefix`, longest first. Only these are tried, so a path of many segments costs no more
    /// look-ups than there are lengths.
    lengths: Vec<u32>,
    /// gRPC expressions and methods, then the prefix `/`.
    rest: (u32, u32),
}

impl Matches {
    fn add(&mut self, entry: Arc<RouteMatch>) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(entry),
            Self::All(.., first) | Self::One(first) => {
                Self::Many(Box::new(Many { sorted: vec![first, entry], index: None }))
            }
            Self::Many(mut many) => {
                many.sorted.push(entry);
                Self::Many(many)
            }
        };
    }

    fn finish(&mut self) {
        match self {
            Self::One(entry) if entry.takes_all() => *self = Self::All(entry.index, entry.rule, Arc::clone(entry)),
            Self::Many(many) => many.finish(),
            Self::None | Self::All(..) | Self::One(_) => {}
        }
    }

    /// In the order of precedence.
    pub(super) fn sorted(&self) -> &[Arc<RouteMatch>] {
        match self {
            Self::None => &[],
            Self::All(.., entry) | Self::One(entry) => std::slice::from_ref(entry),
            Self::Many(many) => &many.sorted,
        }
    }

    fn find<F: Fields + ?Sized>(&self, request: &RequestView<'_, F>) -> Option<Matched> {
        match self {
            Self::None => None,
            Self::All(index, rule, _) => {
                Some(Matched { rule: *rule, index: *index, prefix: 0, by_method: false, by_path: ByPath::Prefix })
            }
            Self::One(entry) => entry.matched(request),
            Self::Many(many) => many.find(request),
        }
    }
}

impl Many {
    fn finish(&mut self) {
        self.sorted.sort_unstable_by(|a, b| a.precedence(b));
        self.sorted.shrink_to_fit();
        if self.sorted.len() > SCANNED {
            self.index = Some(Index::of(&self.sorted));
        }
    }

    fn find<F: Fields + ?Sized>(&self, request: &RequestView<'_, F>) -> Option<Matched> {
        let all = (0, u32::try_from(self.sorted.len()).unwrap_or(u32::MAX));
        let Some(index) = &self.index else { return self.scan(all, request) };
        index
            .exact
            .get(request.path)
            .and_then(|range| self.scan(*range, request))
            .or_else(|| self.scan(index.regex, request))
            .or_else(|| {
                index.lengths.iter().find_map(|length| {
                    let length = *length as usize;
                    let head = request.path.get(..length).filter(|_| ends_segment(request.path, length))?;
                    self.scan(*index.prefix.get(head)?, request)
                })
            })
            .or_else(|| self.scan(index.rest, request))
    }

    fn scan<F: Fields + ?Sized>(&self, (from, to): (u32, u32), request: &RequestView<'_, F>) -> Option<Matched> {
        self.sorted.get(from as usize..to as usize)?.iter().find_map(|entry| entry.matched(request))
    }
}

impl RouteMatch {
    fn matched<F: Fields + ?Sized>(&self, request: &RequestView<'_, F>) -> Option<Matched> {
        let prefix = self.path.matches(request.path)?;
        let by_method = self.method.is_some();
        let by_path = match self.path {
            PathMatch::Exact(_) => ByPath::Exact,
            PathMatch::Prefix(_) => ByPath::Prefix,
            PathMatch::Regex(_) | PathMatch::GrpcRegex { .. } | PathMatch::GrpcMethod(_) => ByPath::Pattern,
        };
        let matched = Matched { rule: self.rule, index: self.index, prefix, by_method, by_path };
        self.conditions_hold(request).then_some(matched)
    }
}

impl Index {
    fn of(sorted: &[Arc<RouteMatch>]) -> Self {
        let mut index = Self { exact: HashMap::new(), ..Self::default() };
        for (place, entry) in (0u32..).zip(sorted) {
            let range = match &entry.path {
                PathMatch::Exact(path) => ranged(&mut index.exact, path),
                PathMatch::Regex(_) => &mut index.regex,
                PathMatch::Prefix(prefix) if !prefix.is_empty() => {
                    let length = u32::try_from(prefix.len()).unwrap_or(u32::MAX);
                    if index.lengths.last() != Some(&length) {
                        index.lengths.push(length);
                    }
                    ranged(&mut index.prefix, prefix)
                }
                PathMatch::Prefix(_) | PathMatch::GrpcRegex { .. } | PathMatch::GrpcMethod(_) => &mut index.rest,
            };
            if range.1 == 0 {
                range.0 = place;
            }
            range.1 = place + 1;
        }
        index
    }
}

fn ranged<'m>(map: &'m mut HashMap<Box<str>, (u32, u32)>, key: &str) -> &'m mut (u32, u32) {
    map.entry(key.into()).or_default()
}

impl PartialEq for Matches {
    fn eq(&self, other: &Self) -> bool {
        // All else follows from them.
        are_same(self.sorted(), other.sorted())
    }
}

impl Serialize for Matches {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.sorted().serialize(serializer)
    }
}
