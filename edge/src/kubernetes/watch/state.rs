//! What the source says of itself, for status and metrics: plain values.

use std::sync::Arc;
use std::time::SystemTime;

use edge_config::names::Kind;

use super::readiness::Phase;

/// The source as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceState {
    /// Since when no collection can be followed; `None`: some can.
    pub unreachable_since: Option<SystemTime>,
    /// When something was followed last.
    pub last_good: Option<SystemTime>,
    /// Whether everything that could be known was handed over once.
    pub is_complete: bool,
    /// What is wrong with credentials.
    pub trouble: Option<Arc<str>>,
    pub kinds: Vec<KindState>,
}

/// One collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindState {
    pub kind: Kind,
    /// `HTTPRoute`, `Secret shop/tls`, …
    pub name: String,
    /// The version of the API that is read.
    pub version: Option<&'static str>,
    pub phase: Phase,
    pub objects: usize,
    /// When the API server told of a change last.
    pub last_event: Option<SystemTime>,
    /// How often it was listed, the first time included.
    pub lists: u64,
    pub failures: u64,
}

impl KindState {
    /// Why the last request failed, where one did.
    pub fn failure(&self) -> Option<&str> {
        match &self.phase {
            Phase::Pending(Some(reason)) | Phase::Lost(reason) => Some(reason),
            _ => None,
        }
    }

    /// What a user must know of it; `None`: all is well.
    pub fn notice(&self) -> Option<String> {
        let kept = if self.objects > 0 { format!("; {} objects keep serving", self.objects) } else { String::new() };
        match &self.phase {
            Phase::Live | Phase::Absent if self.objects == 0 => None,
            Phase::Live => None,
            Phase::Absent => Some(format!("the API server does not have the kind any more{kept}")),
            Phase::Pending(None) => Some(format!("not listed yet{kept}")),
            Phase::Pending(Some(reason)) => Some(format!("not listed yet: {reason}{kept}")),
            Phase::Lost(reason) => Some(format!("{reason}{kept}")),
            Phase::Refused(reason) => Some(format!("no right to list and watch: {reason}{kept}")),
        }
    }
}
