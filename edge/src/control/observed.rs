//! What the actors see of the world, as plain values: the other half of every status.
//!
//! The supervisor collects it from the workers, the VIP and certificate actors, the sources and the store; the views
//! read it. It holds no key and no handle to anything alive.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use edge_config::names::CertId;
use edge_config::snapshot::{Transport, UpstreamKey};
use edge_config::status;

use crate::reach::Way;

/// Absent entries mean "not known yet" and show as pending. [`Observed::offline`] is for files that nobody serves.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// Nothing runs: views say nothing about sockets, certificates at hand or health.
    pub offline: bool,
    pub workers: u32,
    /// How many workers have acknowledged the current generation.
    pub acknowledged: u32,
    /// Whether every worker serves some generation.
    pub serving: bool,
    pub sockets: BTreeMap<(SocketAddr, Transport), SocketState>,
    pub vips: BTreeMap<IpAddr, VipState>,
    pub certificates: BTreeMap<CertId, CertificateState>,
    pub upstreams: BTreeMap<UpstreamKey, UpstreamState>,
    pub sources: Vec<SourceState>,
    /// What the store has to say, one line each.
    pub notices: Vec<String>,
    pub drain: Option<Drain>,
}

impl Observed {
    /// Of a configuration that is only looked at.
    pub fn offline() -> Self {
        Self { offline: true, ..Self::default() }
    }

    /// The part of it from which the API's conditions are made.
    pub fn for_conditions(&self, now: SystemTime) -> edge_config::status::Observed {
        let sockets = self.sockets.iter().map(|(socket, state)| {
            let outcome = match state {
                SocketState::Bound => Ok(()),
                SocketState::Failed(error) => Err(error.clone()),
            };
            (*socket, outcome)
        });
        let vips = self.vips.iter().map(|(address, state)| {
            let (bound, announced) = match state {
                VipState::Bound { .. } => (Ok(()), Ok(())),
                VipState::Withheld(reason) => (Ok(()), Err(reason.clone())),
                VipState::Failed(reason) => (Err(reason.clone()), Err(reason.clone())),
            };
            (*address, status::VipState { bound, announced })
        });
        let certificates = self.certificates.iter().map(|(id, state)| (id.clone(), state.for_conditions(now)));
        edge_config::status::Observed {
            acknowledged: self.workers > 0 && self.acknowledged == self.workers,
            sockets: sockets.collect(),
            vips: vips.collect(),
            certificates: certificates.collect(),
            pending: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketState {
    Bound,
    /// Why it is not: the error of bind or listen.
    Failed(String),
}

/// Whether an address is on an interface of this machine and known to the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VipState {
    /// On an interface, by us or by somebody else. `announced` names how: `bgp`, `l2`; none: nobody announces it.
    Bound { announced: Option<String> },
    /// On an interface, but held back from the network for this reason.
    Withheld(String),
    /// Not on an interface, for this reason.
    Failed(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateState {
    pub source: CertificateSource,
    pub names: Vec<String>,
    pub not_before: Option<SystemTime>,
    pub not_after: Option<SystemTime>,
    pub renews_at: Option<SystemTime>,
    /// What went wrong last, such as a failed renewal or a Secret that cannot be used.
    pub error: Option<String>,
}

impl CertificateState {
    fn for_conditions(&self, now: SystemTime) -> status::CertificateState {
        let why = || self.error.clone().unwrap_or_else(|| "it is missing".to_owned());
        match (&self.source, &self.error) {
            (CertificateSource::Placeholder, _) => status::CertificateState::Placeholder { why: why() },
            (_, Some(_)) if self.not_after.is_none() => status::CertificateState::Failed { why: why() },
            _ if self.not_after.is_some_and(|end| end <= now) => {
                status::CertificateState::Unfit { why: "it has ended".to_owned() }
            }
            _ if self.not_before.is_some_and(|start| start > now) => {
                status::CertificateState::Unfit { why: "it is not valid yet".to_owned() }
            }
            // A renewal that failed leaves what it should have replaced. A Secret whose names are not those of the
            // listener is served as asked for: the Gateway API leaves names to whoever wrote both.
            _ => status::CertificateState::Present,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateSource {
    /// Supplied by a Secret or `[[secret]]`.
    Secret,
    /// Issued by Edge: `internal CA`, `self-signed`, `CA ns/name`.
    Issued(String),
    /// Served in place of one that is missing.
    Placeholder,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamState {
    /// Requests or connections under way, of all workers.
    pub in_flight: u64,
    /// What a name resolved to, for upstreams that are one; or why it did not.
    pub resolved: Option<Result<Vec<SocketAddr>, String>>,
    /// How its Pods are reached, where it has any.
    pub reach: Option<ReachState>,
    /// Endpoints that are out of rotation on at least one worker.
    pub ejected: BTreeMap<SocketAddr, Ejection>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReachState {
    pub way: Way,
    /// Why not in a better way; may be empty.
    pub why: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ejection {
    pub since: SystemTime,
    /// `connection refused`, `5 answers with 5xx in a row`, …
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceState {
    /// A path as the user wrote it, or the name of another source.
    pub name: String,
    pub last_good: Option<SystemTime>,
    /// Why the last read failed; the last good version serves.
    pub error: Option<String>,
    /// What it consists of, where it is more than one thing.
    pub collections: Vec<CollectionState>,
}

/// All objects of one kind that a source follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectionState {
    /// `HTTPRoute`, `Secret shop/tls`, …
    pub name: String,
    /// In which version of its API; absent where the source does not have the kind.
    pub version: Option<String>,
    pub objects: usize,
    /// When a change was heard of last.
    pub last_event: Option<SystemTime>,
    /// How often all of it was read anew, the first time included.
    pub lists: u64,
    pub failures: u64,
    /// Why it is not followed now.
    pub notice: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    pub since: SystemTime,
    pub until: SystemTime,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A listener is programmed with the certificate that it was given, whatever names are in it and whatever became of
    /// its renewal; one that clients refuse by its dates is none.
    #[test]
    fn what_becomes_of_a_certificate_in_conditions() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let names = Some("is not valid for a.example, the hostname of listener https of Gateway shop/web");
        let unfit = |why: &str| status::CertificateState::Unfit { why: why.into() };
        let issued = || CertificateSource::Issued("internal CA".into());
        for (name, source, dates, error, expected) in [
            ("good", CertificateSource::Secret, (at(1), at(2000)), None, status::CertificateState::Present),
            ("other names", CertificateSource::Secret, (at(1), at(2000)), names, status::CertificateState::Present),
            ("no renewal", issued(), (at(1), at(2000)), Some("refused"), status::CertificateState::Present),
            ("ended", CertificateSource::Secret, (at(1), at(999)), names, unfit("it has ended")),
            ("not begun", CertificateSource::Secret, (at(1001), at(2000)), None, unfit("it is not valid yet")),
            (
                "not there",
                CertificateSource::Secret,
                (None, None),
                Some("Secret a/b: no PEM"),
                status::CertificateState::Failed { why: "Secret a/b: no PEM".into() },
            ),
            (
                "stood in for",
                CertificateSource::Placeholder,
                (at(1), at(2000)),
                None,
                status::CertificateState::Placeholder { why: "it is missing".into() },
            ),
        ] {
            let (not_before, not_after) = dates;
            let error = error.map(str::to_owned);
            let state = CertificateState { source, names: Vec::new(), not_before, not_after, renews_at: None, error };
            assert_eq!(state.for_conditions(now), expected, "{name}");
        }
    }
}
