//! What was in force, and since when: configurations that were applied, kept on disk to be listed, compared, and gone back
//! to.
//!
//! In: each configuration that the supervisor took into force, and why it did. Out: [`Revision`]s, their objects, and what
//! differs between them. It runs on a thread of its own; a disk that hangs holds up nothing but itself.
//!
//! Kept is configuration, never state: Secrets, ConfigMaps, EndpointSlices and Nodes are not in it, so no key, no
//! certificate and no endpoint of the past comes back, and nothing secret is written. [`record`] objects as text and back ·
//! [`folder`] files, bounds, what differs · [`keeper`] the thread · here: the values.

mod folder;
mod keeper;
pub mod record;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use edge_config::names::ObjectRef;
use serde::{Deserialize, Serialize};

use crate::control::span;

pub use folder::{Folder, HistoryError, Kept};
pub use keeper::{Applied, Bounds, Keeper};

/// Changes of a revision that are named; the others are counted.
pub const NAMED: usize = 50;

/// One configuration that was in force, or was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Counts on over restarts; generations do not.
    pub revision: u64,
    /// Of the process that applied it.
    pub generation: u64,
    /// RFC 3339, UTC.
    pub at: String,
    pub cause: Cause,
    /// Who asked for it, where somebody did: a user of this machine.
    pub by: Option<String>,
    pub outcome: Outcome,
    /// Of the program.
    pub version: String,
    /// Of all that is configuration in it: the same hash, the same configuration. Empty where it was refused.
    pub hash: String,
    pub counts: Counts,
    /// Against the revision before.
    pub changes: Changes,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Cause {
    /// edged started, with another configuration than it had.
    Start,
    /// edged started in another version.
    Upgrade { from: String },
    /// Files changed on disk.
    Files,
    /// SIGHUP
    Hangup,
    /// `edgectl reload`
    Reload,
    /// Objects of the API server changed.
    Kubernetes,
    /// `edgectl rollback`
    Rollback { to: u64 },
    /// `edgectl rollback --release`, or its time was over.
    Release,
}

impl Cause {
    pub fn text(&self) -> String {
        match self {
            Self::Start => "start".to_owned(),
            Self::Upgrade { from } => format!("upgrade from {from}"),
            Self::Files => "files".to_owned(),
            Self::Hangup => "SIGHUP".to_owned(),
            Self::Reload => "reload".to_owned(),
            Self::Kubernetes => "kubernetes".to_owned(),
            Self::Rollback { to } => format!("rollback to {to}"),
            Self::Release => "release".to_owned(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum Outcome {
    Applied {
        errors: u32,
        warnings: u32,
    },
    /// What was in force before stayed.
    Refused {
        reason: String,
    },
}

impl Outcome {
    pub fn text(&self) -> String {
        match self {
            Self::Applied { errors: 0, .. } => "applied".to_owned(),
            Self::Applied { errors: 1, .. } => "applied, 1 error".to_owned(),
            Self::Applied { errors, .. } => format!("applied, {errors} errors"),
            Self::Refused { .. } => "refused".to_owned(),
        }
    }
}

/// What there was of it, by and large.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Objects that are configuration.
    pub objects: usize,
    pub vips: usize,
    pub listeners: usize,
    pub rules: usize,
    pub upstreams: usize,
}

/// What differs, the first [`NAMED`] by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    pub total: usize,
    pub named: Vec<Change>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Change {
    pub how: How,
    /// `HTTPRoute shop/cart`, or `edge.toml: proxy.max_head`.
    pub what: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    Added,
    Changed,
    Removed,
}

impl Changes {
    fn add(&mut self, how: How, what: impl FnOnce() -> String) {
        self.total += 1;
        if self.named.len() < NAMED {
            self.named.push(Change { how, what: what() });
        }
    }

    /// `HTTPRoute shop/cart changed, Service shop/b added and 3 more`
    pub fn line(&self, most: usize) -> String {
        let word = |how| match how {
            How::Added => "added",
            How::Changed => "changed",
            How::Removed => "removed",
        };
        let shown: Vec<String> =
            self.named.iter().take(most).map(|change| format!("{} {}", change.what, word(change.how))).collect();
        let rest = self.total - shown.len();
        let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        format!("{}{more}", shown.join(", "))
    }
}

/// What the thread has done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryObserved {
    /// The newest last.
    pub revisions: Vec<Revision>,
    /// Bytes on the disk.
    pub size: u64,
    /// Why something is not kept.
    pub trouble: Option<String>,
}

/// That the configuration is held, and what waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub pin: Pin,
    /// What the sources say now against what is in force.
    pub waiting: Changes,
}

impl Held {
    /// One line.
    pub fn text(&self) -> String {
        let Pin { revision, of, since, until, by } = &self.pin;
        let by = by.as_deref().map(|by| format!(" by {by}")).unwrap_or_default();
        let until = until.map(|until| format!(" until {}", span::rfc3339(until))).unwrap_or_default();
        let waiting = match self.waiting.total {
            0 => "nothing newer waits".to_owned(),
            1 => format!("1 change waits: {}", self.waiting.line(3)),
            total => format!("{total} changes wait: {}", self.waiting.line(3)),
        };
        let since = span::rfc3339(*since);
        format!("the configuration is held at revision {revision} (of {of}) since {since}{by}{until}; {waiting}")
    }
}

/// The configuration is held at a revision. Kept over restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    pub revision: u64,
    /// When that revision was applied; RFC 3339, UTC.
    pub of: String,
    pub since: SystemTime,
    /// `None`: until it is released.
    pub until: Option<SystemTime>,
    pub by: Option<String>,
}

/// What is asked of the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// `None`: release.
    pub revision: Option<u64>,
    /// `None`: until it is released.
    pub seconds: Option<u64>,
}

/// Addresses that objects had.
pub type Assigned = BTreeMap<ObjectRef, Vec<IpAddr>>;
