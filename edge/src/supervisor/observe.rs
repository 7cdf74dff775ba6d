//! From what the actors saw to the world that users see.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use edge_config::problem::Severity;
use edge_config::reach;
use edge_config::snapshot::{EndpointSet, UpstreamKey};

use super::Supervisor;
use super::cluster::Saver;
use crate::control::observed::{
    CollectionState, Observed, ReachState, SocketState, SourceState, UpstreamState, VipState,
};
use crate::control::span;
use crate::control::world::World;
use crate::kubernetes::Reporting;
use crate::reach::Way;
use crate::vip::{AddressState, Withheld, wanted_vips};

impl Supervisor {
    /// Shows the world as it is now, if anything about it is new.
    pub(super) fn show(&self) {
        let wanted = &self.wanted;
        let world = World {
            edge: self.seen.edge.clone(),
            started: self.seen.started,
            generation: wanted.generation,
            since: wanted.since,
            inputs: Arc::clone(&wanted.inputs),
            compiled: Arc::clone(&wanted.compiled),
            endpoints: Arc::new(self.reached_endpoints()),
            problems: Arc::clone(&wanted.problems),
            observed: Arc::new(self.observed()),
        };
        self.worlds.send_if_modified(|shown| {
            let is_new = shown.generation != world.generation
                || !Arc::ptr_eq(&shown.inputs, &world.inputs)
                || shown.endpoints != world.endpoints
                || shown.observed != world.observed;
            if is_new {
                *shown = Arc::new(world);
            }
            is_new
        });
    }

    fn observed(&self) -> Observed {
        let snapshot = &self.wanted.compiled.snapshot;
        let workers = self.proxy.metrics().len();
        let acknowledged = self.proxy.acknowledged(self.wanted.generation);
        let mut notices = self.seen.store_notices.clone();
        notices.extend(self.store.degraded().map(|reason| format!("store: {reason}")));
        notices.extend(self.saver.as_ref().and_then(Saver::trouble));
        notices.extend(self.seen.certs.notices.iter().cloned());
        notices.extend(self.seen.addresses.notices.iter().cloned());
        notices.extend(self.seen.reach.notices.iter().cloned());
        notices.extend(self.seen.tls_reasons.iter().cloned());
        notices.extend(self.proxy.deaf());
        notices.extend(self.reporting.as_ref().and_then(Reporting::trouble));
        let mut observed = Observed {
            offline: false,
            workers: u32::try_from(workers).unwrap_or(u32::MAX),
            acknowledged: u32::try_from(acknowledged).unwrap_or(u32::MAX),
            serving: self.proxy.live() > 0,
            sockets: snapshot
                .sockets
                .iter()
                .map(|socket| {
                    let key = (socket.address, socket.transport);
                    let state = match self.seen.failed_sockets.get(&key) {
                        Some(reason) => SocketState::Failed(reason.clone()),
                        None => SocketState::Bound,
                    };
                    (key, state)
                })
                .collect(),
            vips: BTreeMap::new(),
            certificates: self.seen.certs.certificates.clone(),
            upstreams: self.upstreams(),
            sources: self.sources(),
            notices,
            drain: None,
        };
        observed.vips = self.vips(&observed);
        observed
    }

    fn sources(&self) -> Vec<SourceState> {
        let files = SourceState {
            name: self.config.display().to_string(),
            last_good: self.seen.sources_good,
            error: self.seen.sources_error.clone(),
            collections: Vec::new(),
        };
        let Some(kubernetes) = &self.kubernetes else { return vec![files] };
        let state = kubernetes.state().borrow().clone();
        let mut reasons = Vec::new();
        if let Some(since) = state.unreachable_since {
            reasons.push(format!("unreachable since {}", span::rfc3339(since)));
        } else if !state.is_complete {
            reasons.push("not read yet".to_owned());
        }
        if let Some(written) = self.seen.restored {
            reasons.push(format!("serving what was good at {}", span::rfc3339(written)));
        }
        reasons.extend(state.trouble.as_deref().map(str::to_owned));
        let collections: Vec<CollectionState> = state
            .kinds
            .iter()
            .map(|kind| CollectionState {
                name: kind.name.clone(),
                version: kind.version.map(str::to_owned),
                objects: kind.objects,
                last_event: kind.last_event,
                lists: kind.lists,
                failures: kind.failures,
                notice: kind.notice(),
            })
            .collect();
        if reasons.is_empty() {
            let lacking: Vec<&str> =
                collections.iter().filter(|one| one.notice.is_some()).map(|one| one.name.as_str()).collect();
            if !lacking.is_empty() {
                reasons.push(format!("not followed: {}", lacking.join(", ")));
            }
        }
        let cluster = SourceState {
            name: crate::kubernetes::SOURCE.to_owned(),
            last_good: state.last_good.or(self.seen.restored),
            error: (!reasons.is_empty()).then(|| reasons.join(", ")),
            collections,
        };
        vec![files, cluster]
    }

    fn vips(&self, observed: &Observed) -> BTreeMap<IpAddr, VipState> {
        let judged = wanted_vips(&self.wanted.compiled.snapshot, &self.seen.addresses, observed);
        let state = |address: IpAddr, verdict: Result<(), Withheld>| match verdict {
            Ok(()) => VipState::Bound { announced: None },
            Err(reason) => match self.seen.addresses.addresses.get(&address) {
                Some(AddressState::Ours { .. } | AddressState::Present { .. }) => {
                    VipState::Withheld(reason.to_string())
                }
                Some(AddressState::Failed(_)) | None => VipState::Failed(reason.to_string()),
            },
        };
        judged.into_iter().map(|(vip, verdict)| (vip.address, state(vip.address, verdict))).collect()
    }

    fn upstreams(&self) -> BTreeMap<UpstreamKey, UpstreamState> {
        let mut states = self.proxy.health();
        let compiled = &self.wanted.compiled;
        for (upstream, endpoints) in compiled.snapshot.upstreams.iter().zip(&compiled.endpoints) {
            if let EndpointSet::Dns { host, port } = &**endpoints
                && let Some(resolved) = self.seen.resolved.get(&(host.clone(), *port))
            {
                let state = states.entry(upstream.key.clone()).or_default();
                state.resolved = Some(match (&resolved.error, resolved.addresses.is_empty()) {
                    (Some(error), true) => Err(error.clone()),
                    _ => Ok(resolved.addresses.clone()),
                });
            }
        }
        let seen = &self.seen.reach;
        let without = match seen.way {
            Way::NodePort => reach::by_node_ports(&self.wanted.inputs, &compiled.snapshot, &compiled.endpoints).1,
            Way::Direct | Way::PodRoute => BTreeMap::new(),
        };
        let pods = compiled.snapshot.upstreams.iter().zip(&compiled.endpoints).filter(|(_, set)| reach::has_pods(set));
        for (upstream, _) in pods {
            states.entry(upstream.key.clone()).or_default().reach = Some(match without.get(&upstream.key) {
                Some(why) => ReachState { way: Way::Direct, why: why.clone() },
                None => ReachState { way: seen.way, why: seen.why.clone() },
            });
        }
        states
    }

    /// One line for systemd and the log.
    pub(super) fn status_line(&self) -> String {
        let snapshot = &self.wanted.compiled.snapshot;
        let problems = self.wanted.problems.iter().chain(&self.wanted.compiled.report.problems);
        let errors = problems.filter(|problem| problem.severity == Severity::Error).count();
        format!(
            "generation {}: {} VIPs, {} sockets, {} listeners, {} rules, {} upstreams, {errors} errors",
            self.wanted.generation,
            snapshot.vips.len(),
            snapshot.sockets.len(),
            snapshot.listeners.len(),
            snapshot.rules.len(),
            snapshot.upstreams.len(),
        )
    }
}
