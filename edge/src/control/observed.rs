//! What the actors see of the world, as plain values: the other half of every status.
//!
//! The supervisor collects it from the workers, the VIP and certificate actors, the sources and the store; the views
//! read it. It holds no key and no handle to anything alive.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use edge_config::names::{CertId, ObjectRef};
use edge_config::snapshot::{Transport, UpstreamKey};
use edge_config::status;

use super::holds::Holds;
use super::maintenance::Closures;
use super::span;
use crate::certs::observed::AcmeObserved;
use crate::fleet::FleetObserved;
use crate::history::{Held, HistoryObserved};
use crate::reach::Way;
use crate::vip::AddressesObserved;
use crate::vip::bfd::BfdObserved;
use crate::vip::gate::Stance;
use crate::vip::guard::GuardObserved;
use crate::vip::l2::{L2Observed, VipHeld};

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
    /// Of those among them that ACME CAs issue, and of these CAs.
    pub acme: AcmeObserved,
    pub upstreams: BTreeMap<UpstreamKey, UpstreamState>,
    pub sources: Vec<SourceState>,
    /// What the store has to say, one line each.
    pub notices: Vec<String>,
    pub drain: Option<Drain>,
    /// What an operator says of endpoints.
    pub holds: Arc<Holds>,
    /// Hosts that an operator has closed.
    pub closures: Arc<Closures>,
    /// `None`: the configuration is what the sources say.
    pub held: Option<Held>,
    /// Configurations that were in force before.
    pub history: Arc<HistoryObserved>,
    pub network: Network,
    /// `None`: there is no `[fleet]`.
    pub fleet: Option<Arc<FleetObserved>>,
    /// Policies that cannot do what they are for, because those whom they ask are away: one line each.
    pub troubles: Arc<BTreeMap<ObjectRef, String>>,
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
            troubles: (*self.troubles).clone(),
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
    /// By whom it was issued who cannot issue at the moment; it serves until it ends.
    Kept(String),
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
    pub step: DrainStep,
}

/// What the network has been told, as far as who tells it can see.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Network {
    /// How each VIP stands with it, as the gate has it.
    pub stances: BTreeMap<IpAddr, Stance>,
    /// What is bound.
    pub addresses: Arc<AddressesObserved>,
    /// `None`: nobody has looked yet.
    pub bgp: Option<Arc<edge_bgp::Observed>>,
    /// Of the elections that decide who answers ARP and NDP.
    pub l2: Arc<L2Observed>,
    /// Of the peers that are watched closely.
    pub bfd: Arc<BfdObserved>,
    /// Of the process that withdraws everything when edged cannot.
    pub guard: Arc<GuardObserved>,
}

impl Network {
    /// Whether anybody is told of any address.
    pub fn is_told(&self) -> bool {
        let by_bgp = self.bgp.iter().any(|bgp| bgp.prefixes.iter().any(|prefix| !prefix.told.is_empty()));
        let mut elections = self.l2.groups.iter().flat_map(|group| &group.elections);
        by_bgp || elections.any(|election| election.vips.iter().any(|vip| vip.state == VipHeld::Held))
    }

    /// How the network learns of an address: `bgp`, `l2`, or both; `None`: it does not.
    pub fn announced(&self, address: IpAddr) -> Option<String> {
        let is_told = |prefix: &edge_bgp::PrefixSeen| prefix.prefix.contains(&address) && !prefix.told.is_empty();
        let by_bgp = self.bgp.as_ref().is_some_and(|bgp| bgp.prefixes.iter().any(is_told));
        let by_l2 = self.l2.is_held(address);
        match (by_bgp, by_l2) {
            (true, true) => Some("bgp, l2".to_owned()),
            (true, false) => Some("bgp".to_owned()),
            (false, true) => Some("l2".to_owned()),
            (false, false) => None,
        }
    }

    /// What is wrong with it, one line each.
    pub fn notices(&self) -> Vec<String> {
        let guard = self.guard.notices.iter().map(|notice| format!("guard: {notice}"));
        let bgp = self.bgp.iter().flat_map(|bgp| bgp.engine.error.iter().chain(&bgp.engine.foreign));
        let l2 = self.l2.notices.iter().map(|notice| format!("l2: {notice}"));
        let bfd = self.bfd.notices.iter().map(|notice| format!("bfd: {notice}"));
        guard.chain(l2).chain(bfd).chain(bgp.map(|text| format!("bgp: {text}"))).collect()
    }
}

/// How far an edge is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainStep {
    /// The network is asked to prefer other ways.
    Telling { until: SystemTime },
    /// Nothing is announced; edged stays up.
    Withdrawn,
    /// Nothing is announced, and connections that are left at this time are cut.
    Stopping { until: SystemTime },
}

impl Drain {
    /// One line about it.
    pub fn text(&self) -> String {
        match self.step {
            DrainStep::Telling { until } => {
                format!("draining: the network prefers other ways, withdrawn at {}", span::rfc3339(until))
            }
            DrainStep::Withdrawn => {
                format!("drained since {}; edgectl undrain ends it", span::rfc3339(self.since))
            }
            DrainStep::Stopping { until } => format!("stopping: connections may last until {}", span::rfc3339(until)),
        }
    }
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
