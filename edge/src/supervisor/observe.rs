//! From what the actors saw to the world that users see.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use edge_config::inputs::Meta;
use edge_config::problem::Severity;
use edge_config::reach;
use edge_config::snapshot::{EndpointSet, UpstreamKey};

use super::cluster::Saver;
use super::rollback::Holding;
use super::{Supervisor, take_over};
use crate::control::observed::{
    CollectionState, Network, Observed, ReachState, SocketState, SourceState, UpstreamState, VipState,
};
use crate::control::span;
use crate::control::world::World;
use crate::history::Keeper;
use crate::kubernetes::Reporting;
use crate::reach::Way;
use crate::vip::AddressState;
use crate::vip::gate::Stance;
use crate::vip::road::Road;

impl Supervisor {
    /// Shows the world as it is now, if anything about it is new.
    pub(super) fn show(&mut self) {
        let snapshot = &self.wanted.compiled.snapshot;
        let of_rules = snapshot.rules.iter().filter_map(|rule| rule.policy.as_deref());
        let of_listeners = snapshot.listeners.iter().filter_map(|listener| listener.policy.as_deref());
        let policies = of_rules.chain(of_listeners).filter_map(|policy| policy.security.as_deref());
        let now = Instant::now();
        self.seen.authorities.settle(self.proxy.authorities().known().troubles(policies, now), now);
        let mut observed = self.observed();
        let endpoints = Arc::new(self.reached_endpoints());
        self.tell_network(&observed, &endpoints);
        self.put_network(&mut observed);
        let wanted = &self.wanted;
        let world = World {
            edge: self.seen.edge.clone(),
            started: self.seen.started,
            generation: wanted.generation,
            since: wanted.since,
            inputs: Arc::clone(&wanted.inputs),
            portion: Arc::clone(&wanted.portion),
            compiled: Arc::clone(&wanted.compiled),
            endpoints,
            problems: Arc::clone(&wanted.problems),
            observed: Arc::new(observed),
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

    /// What stands for policies that cannot be read.
    fn unreadable(&self) -> impl Iterator<Item = String> {
        let inputs = &self.wanted.inputs;
        let security = inputs.security_policies.values().map(|policy| (&policy.meta, &policy.spec.unreadable));
        let clients = inputs.client_traffic_policies.values().map(|policy| (&policy.meta, &policy.spec.unreadable));
        let line = |kind: &str, (meta, why): (&Meta, &Option<String>)| {
            why.as_ref().map(|why| format!("{kind} {} closes what it is about: {why}", meta.key))
        };
        let security = security.filter_map(move |policy| line("SecurityPolicy", policy));
        security.chain(clients.filter_map(move |policy| line("ClientTrafficPolicy", policy)))
    }

    fn observed(&self) -> Observed {
        let snapshot = &self.wanted.compiled.snapshot;
        let workers = self.proxy.metrics().len();
        let acknowledged = self.proxy.acknowledged(self.wanted.generation);
        let mut notices = self.seen.store_notices.clone();
        notices.extend(self.store.degraded().map(|reason| format!("store: {reason}")));
        notices.extend(self.saver.as_ref().and_then(Saver::trouble));
        notices.extend(self.history.as_ref().and_then(|history| history.observed().trouble.clone()));
        notices.extend(self.seen.certs.notices.iter().cloned());
        notices.extend(self.seen.addresses.notices.iter().cloned());
        notices.extend(self.seen.reach.notices.iter().cloned());
        notices.extend(self.seen.tls_reasons.iter().cloned());
        notices.extend(self.seen.unheard.iter().cloned());
        let troubles = Arc::clone(self.seen.authorities.lines());
        notices.extend(troubles.iter().map(|(policy, line)| format!("{policy}: {line}")));
        notices.extend(self.unreadable());
        notices.extend(self.seen.kernel.0.iter().map(|finding| format!("kernel: {finding}")));
        notices.extend(self.proxy.deaf());
        notices.extend(self.telemetry.trouble());
        notices.extend(self.dashboard.notice());
        notices.extend(self.reporting.as_ref().and_then(Reporting::trouble));
        notices.extend(self.upgrade.notice());
        notices.extend(self.succession.as_ref().map(take_over::Succession::notice));
        let fleet = self.fleet.observed();
        notices.extend(fleet.iter().flat_map(|fleet| fleet.notices()));
        if let Some(kubernetes) = &self.kubernetes {
            let beside = kubernetes.coexistence();
            let beside = beside.borrow();
            notices.extend(beside.cert_manager.is_some().then(|| beside.why.clone()));
        }
        Observed {
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
            acme: self.seen.certs.acme.clone(),
            upstreams: self.upstreams(),
            sources: self.sources(),
            notices,
            drain: self.leaving.map(|leaving| leaving.observed()),
            holds: Arc::clone(&self.holds),
            closures: Arc::clone(&self.closed.closures),
            levels: Arc::clone(&self.levels),
            held: self.held.as_ref().map(Holding::told),
            history: self.history.as_ref().map(Keeper::observed).unwrap_or_default(),
            network: Network::default(),
            fleet,
            troubles,
        }
    }

    /// What became of the VIPs, now that the network was told.
    fn put_network(&self, observed: &mut Observed) {
        observed.network = Network {
            stances: self.seen.stances.clone(),
            addresses: Arc::clone(&self.seen.addresses),
            ..self.announcer.observed()
        };
        observed.notices.extend(observed.network.notices());
        observed.vips = self
            .seen
            .stances
            .iter()
            .map(|(address, stance)| (*address, self.vip(observed, *address, stance)))
            .collect();
        let bgp = self.wanted.compiled.snapshot.announce.bgp.as_ref();
        let road =
            |(address, state): (&IpAddr, &VipState)| (*address, Road::of(*address, state, bgp, &observed.network));
        let roads = observed.vips.iter().map(road).collect();
        *self.roads.write().unwrap_or_else(PoisonError::into_inner) = roads;
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

    fn vip(&self, observed: &Observed, address: IpAddr, stance: &Stance) -> VipState {
        match (stance, self.seen.addresses.addresses.get(&address)) {
            (Stance::Announced | Stance::Leaving, _) => {
                VipState::Bound { announced: observed.network.announced(address) }
            }
            (stance, Some(AddressState::Ours { .. } | AddressState::Present { .. })) => {
                VipState::Withheld(stance.to_string())
            }
            (stance, Some(AddressState::Failed(_)) | None) => VipState::Failed(stance.to_string()),
        }
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
