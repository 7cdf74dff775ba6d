//! What an edge says of itself to the others, and how two of them differ. Pure.
//!
//! An edge answers [`Standing`]: the head of its status, its VIPs, and what of its certificates is not as wanted. Where its
//! configuration has another hash, it is asked for [`Keys`], page by page, which say what differs by name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::message::short;
use crate::control::view::{CertificateRow, Edge, Problems, SessionRow, State, VipRow};

/// Rows of each list in one message; more are counted.
pub const MOST_ROWS: usize = 500;
/// More objects and settings than this no edge has.
pub const MOST_KEYS: usize = 200_000;
/// Differences that are named.
pub const NAMED: usize = 20;

/// How an edge stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    pub edge: Edge,
    pub worst: State,
    pub problems: Problems,
    /// The worst first, at most [`MOST_ROWS`].
    pub vips: Vec<VipRow>,
    pub peers: Vec<SessionRow>,
    /// Those that are not up, the worst first, at most [`MOST_ROWS`].
    pub certificates: Vec<CertificateRow>,
    /// How many there are of each kind of thing, by state.
    pub counts: BTreeMap<String, BTreeMap<State, usize>>,
    /// Of the configuration that is in force; absent: it is not known yet.
    pub hash: Option<String>,
}

impl Standing {
    /// What came from another edge, with its bounds.
    pub fn bounded(mut self) -> Self {
        self.vips.truncate(MOST_ROWS);
        self.peers.truncate(MOST_ROWS);
        self.certificates.truncate(MOST_ROWS);
        self.edge.notices.truncate(MOST_ROWS);
        self.edge.sources.truncate(MOST_ROWS);
        self.edge.health.reason = short(&self.edge.health.reason);
        self.hash = self.hash.map(|hash| short(&hash));
        self
    }
}

/// The keys of a configuration, such as `HTTPRoute shop/cart` or `edge.toml: proxy.max_head`, each with the hash of what it
/// says. The same on all edges that are configured alike.
pub type Keys = BTreeMap<String, String>;

/// A page of keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPage {
    pub keys: Keys,
    pub more: bool,
}

/// How the configuration of another edge differs from that of this one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    pub total: usize,
    /// The first of them, one line each: `HTTPRoute shop/cart: only here`.
    pub named: Vec<String>,
}

impl Difference {
    pub fn of(here: &Keys, there: &Keys, edge: &str) -> Self {
        let mut all: Vec<String> = Vec::new();
        for (key, hash) in here {
            match there.get(key) {
                None => all.push(format!("{key}: not at {edge}")),
                Some(other) if other != hash => all.push(format!("{key}: another one at {edge}")),
                Some(_) => {}
            }
        }
        all.extend(
            there.keys().filter(|key| !here.contains_key(*key)).map(|key| format!("{}: only at {edge}", short(key))),
        );
        all.sort();
        let total = all.len();
        all.truncate(NAMED);
        Self { total, named: all }
    }

    /// `HTTPRoute shop/cart: only at b and 3 more`
    pub fn line(&self, most: usize) -> String {
        let shown = self.named.iter().take(most).map(String::as_str).collect::<Vec<_>>().join(", ");
        let rest = self.total - self.named.len().min(most);
        if rest > 0 { format!("{shown} and {rest} more") } else { shown }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named_from_here() {
        let keys = |pairs: &[(&str, &str)]| -> Keys {
            pairs.iter().map(|(key, hash)| ((*key).to_owned(), (*hash).to_owned())).collect()
        };
        let here = keys(&[("HTTPRoute n/a", "1"), ("HTTPRoute n/b", "1"), ("edge.toml: proxy.max_head", "1")]);
        let there = keys(&[("HTTPRoute n/a", "1"), ("HTTPRoute n/c", "1"), ("edge.toml: proxy.max_head", "2")]);
        let found = Difference::of(&here, &there, "b");
        assert_eq!(
            found.named,
            ["HTTPRoute n/b: not at b", "HTTPRoute n/c: only at b", "edge.toml: proxy.max_head: another one at b"]
        );
        assert_eq!(found.line(1), "HTTPRoute n/b: not at b and 2 more");
        assert_eq!(Difference::of(&here, &here, "b"), Difference::default());
    }
}
