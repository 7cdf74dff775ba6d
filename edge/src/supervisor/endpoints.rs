//! Endpoints: which there are, how they are reached, what names resolve to. They move without a new generation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use edge_config::reach;
use edge_config::snapshot::{Endpoint, EndpointSet, EndpointState, Endpoints};

use super::{Serving, Supervisor};
use crate::reach::{PROBES, ReachObserved, ReachWanted, Way};
use crate::resolve::{self, Resolved};

impl Supervisor {
    /// Endpoints moved and nothing else: what is served stays the same generation.
    pub(super) fn move_endpoints(&mut self) {
        let mut inputs = self.wanted.cluster.with_endpoints(&self.wanted.files, &self.wanted.inputs);
        if self.held.is_some() {
            // What is outdated of the sources' objects is not what serves.
            inputs.outdated.clone_from(&self.wanted.inputs.outdated);
        }
        let inputs = Arc::new(inputs);
        let compiled = &self.wanted.compiled;
        let endpoints = self.wanted.compiler.endpoints(&inputs, &compiled.snapshot);
        // Workers see at a glance what did not change.
        let is_same = endpoints.iter().zip(&compiled.endpoints).all(|(now, before)| Arc::ptr_eq(now, before));
        self.wanted.inputs = inputs;
        if !is_same {
            let compiled = edge_config::Compiled {
                snapshot: Arc::clone(&compiled.snapshot),
                report: compiled.report.clone(),
                endpoints,
                assigned: compiled.assigned.clone(),
            };
            self.wanted.compiled = Arc::new(compiled);
            self.tell_reach();
            self.publish();
        }
        self.show();
    }

    /// What is to be reached now.
    pub(super) fn tell_reach(&self) {
        let Serving { inputs, compiled, settings, .. } = &self.wanted;
        let endpoints = &compiled.endpoints;
        self.reach.set(ReachWanted {
            settings: settings.reach.clone(),
            routes: reach::pod_routes(inputs, endpoints),
            probes: reach::probes(inputs, &compiled.snapshot, endpoints, PROBES),
        });
    }

    pub(super) fn take_reach(&mut self, observed: Arc<ReachObserved>) {
        let before = std::mem::replace(&mut self.seen.reach, observed);
        if before.way != self.seen.reach.way {
            self.publish();
        }
        self.show();
    }

    /// The endpoints that workers connect to: names resolved, and node ports in the place of Pods where they have to be.
    pub(super) fn reached_endpoints(&self) -> Endpoints {
        let endpoints = resolved_endpoints(&self.wanted.compiled.endpoints, &self.seen.resolved);
        let endpoints = self.held_endpoints(endpoints);
        match self.seen.reach.way {
            Way::Direct | Way::PodRoute => endpoints,
            Way::NodePort => reach::by_node_ports(&self.wanted.inputs, &self.wanted.compiled.snapshot, &endpoints).0,
        }
    }

    pub(super) fn take_resolved(&mut self, name: resolve::Name, resolved: Arc<Resolved>) {
        if let Some(error) = &resolved.error {
            tracing::warn!("{error}");
        }
        self.seen.resolved.insert(name, resolved);
        self.publish();
        self.show();
    }
}

/// The DNS names among the endpoints.
pub(super) fn names(endpoints: &Endpoints) -> BTreeSet<resolve::Name> {
    let name = |set: &Arc<EndpointSet>| match &**set {
        EndpointSet::Dns { host, port } => Some((host.clone(), *port)),
        EndpointSet::Addresses(_) => None,
    };
    endpoints.iter().filter_map(name).collect()
}

/// Endpoints with every DNS name replaced by the addresses that it has now.
pub(super) fn resolved_endpoints(
    endpoints: &Endpoints,
    resolved: &BTreeMap<resolve::Name, Arc<Resolved>>,
) -> Endpoints {
    let one = |set: &Arc<EndpointSet>| match &**set {
        EndpointSet::Addresses(_) => Arc::clone(set),
        EndpointSet::Dns { host, port } => {
            let known = resolved.get(&(host.clone(), *port));
            let addresses = known.map(|resolved| resolved.addresses.as_slice()).unwrap_or_default();
            let endpoint = |address: &std::net::SocketAddr| Endpoint {
                address: *address,
                state: EndpointState::Ready,
                target: host.clone(),
                node: "".into(),
            };
            Arc::new(EndpointSet::Addresses(addresses.iter().map(endpoint).collect()))
        }
    };
    endpoints.iter().map(one).collect()
}
