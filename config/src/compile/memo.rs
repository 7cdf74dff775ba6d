//! What a compile leaves for the next one: the outcomes of routes, to be taken again where all that they follow from is
//! the same. Taking one again gives what judging anew would give, byte for byte (property
//! `what_was_compiled_before_changes_nothing`); it only saves the work, and the memory of a second copy.
//!
//! In: the inputs of both compiles. Out: outcomes. It decides nothing; in doubt it has no outcome.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::{HashMap, HashSet, HashSetExt};

use super::backends::{Known, Upstreams};
use super::gateways::{GatewayState, Profile};
use super::policies::RoutePolicies;
use super::protection::RouteProtections;
use super::routes::Outcome;
use super::rule_policies::RouteRules;
use super::traffic::{RouteTraffic, Traffic};
use crate::inputs::{Inputs, Meta, Object, Objects};
use crate::names::{Kind, ObjectKey, ObjectRef};
use crate::settings::Settings;
use crate::snapshot::{RulePolicy, Snapshot};

pub(super) struct Memo {
    inputs: Arc<Inputs>,
    pub(super) snapshot: Arc<Snapshot>,
    stage: Stage,
    identities: Vec<Arc<Known>>,
    /// In the order in which routes are judged.
    outcomes: Vec<(ObjectRef, Arc<Outcome>)>,
}

/// What earlier steps of compile decided for all routes.
#[derive(PartialEq)]
pub(super) struct Stage {
    profiles: Vec<Profile>,
    listeners: Vec<OfListener>,
    traffic: BTreeMap<ObjectRef, RouteTraffic>,
    rules: BTreeMap<ObjectRef, RouteRules>,
    protections: RouteProtections,
}

/// What policies say of a listener: for rules, and on the way to endpoints.
type OfListener = (Option<Arc<RulePolicy>>, Option<Arc<Traffic>>);

impl Stage {
    pub fn of(gateways: &[GatewayState<'_>], policies: &RoutePolicies) -> Self {
        let listeners = gateways.iter().flat_map(|gateway| &gateway.listeners);
        Self {
            profiles: gateways.iter().map(|gateway| gateway.profile.clone()).collect(),
            listeners: listeners.map(|listener| (listener.policy.clone(), listener.traffic.clone())).collect(),
            traffic: policies.traffic.clone(),
            rules: policies.rules.clone(),
            protections: policies.protections.clone(),
        }
    }
}

impl Memo {
    pub fn new(
        inputs: Arc<Inputs>,
        snapshot: Arc<Snapshot>,
        stage: Stage,
        identities: Vec<Arc<Known>>,
        outcomes: Vec<(ObjectRef, Arc<Outcome>)>,
    ) -> Self {
        Self { inputs, snapshot, stage, identities, outcomes }
    }

    /// Access to the outcomes if what all routes follow from is as it was.
    pub fn recall<'m>(
        &'m self,
        inputs: &'m Inputs,
        gateways: &[GatewayState<'_>],
        policies: &RoutePolicies,
    ) -> Option<Recall<'m>> {
        let is_same = surroundings_are_same(&self.inputs, inputs) && self.stage == Stage::of(gateways, policies);
        is_same.then(|| Recall {
            memo: self,
            services: Changes::between(&self.inputs.services, &inputs.services).changed,
            backends: Changes::between(&self.inputs.backends, &inputs.backends).changed,
            http_routes: Changes::between(&self.inputs.http_routes, &inputs.http_routes),
            grpc_routes: Changes::between(&self.inputs.grpc_routes, &inputs.grpc_routes),
            next: 0,
            places: None,
        })
    }
}

/// The outcomes of one earlier compile, seen from a later one.
pub(super) struct Recall<'m> {
    memo: &'m Memo,
    services: HashSet<&'m ObjectKey>,
    backends: HashSet<&'m ObjectKey>,
    http_routes: Changes<'m>,
    grpc_routes: Changes<'m>,
    /// The place after the outcome that was found last: routes are asked for in the order of before.
    next: usize,
    /// All places, made when a route is not where it is expected.
    places: Option<HashMap<&'m ObjectRef, usize>>,
}

/// The names of objects that are not in both of two versions, or not the same in both; and of those that are the same but
/// for the place where they are written.
struct Changes<'k> {
    changed: HashSet<&'k ObjectKey>,
    moved: HashSet<&'k ObjectKey>,
}

impl<'m> Recall<'m> {
    fn changes(&self, kind: Kind) -> &Changes<'m> {
        if kind == Kind::GRPCRoute { &self.grpc_routes } else { &self.http_routes }
    }

    fn find(&mut self, object: &ObjectRef) -> Option<&'m Arc<Outcome>> {
        let all = &self.memo.outcomes;
        // What is not there any more, or is judged anew, is passed over.
        while let Some((known, outcome)) = all.get(self.next) {
            if known == object {
                self.next += 1;
                return Some(outcome);
            }
            if !self.changes(known.kind).is_changed(&known.key) {
                break;
            }
            self.next += 1;
        }
        let places = self
            .places
            .get_or_insert_with(|| all.iter().enumerate().map(|(place, (known, _))| (known, place)).collect());
        let place = *places.get(object)?;
        self.next = place + 1;
        all.get(place).map(|(_, outcome)| outcome)
    }

    /// The outcome of a route if it would be the same again; its upstreams are then in the list, with the same numbers.
    pub fn outcome(&mut self, object: &ObjectRef, upstreams: &mut Upstreams) -> Option<&'m Arc<Outcome>> {
        if self.changes(object.kind).is_changed(&object.key) {
            return None;
        }
        let outcome = self.find(object)?;
        // A place matters to problems only.
        if !outcome.problems.is_empty() && self.changes(object.kind).moved.contains(&object.key) {
            return None;
        }
        let mut next = upstreams.list.len();
        for id in &outcome.upstreams {
            let known = self.memo.identities.get(id.index())?;
            let identity = &known.0;
            let changed = if identity.kind == Kind::Backend { &self.backends } else { &self.services };
            if !changed.is_empty() && changed.contains(&identity.object) {
                return None;
            }
            let is_same = |now: &Arc<Known>| Arc::ptr_eq(now, known) || now.0 == *identity;
            match upstreams.identities.get(id.index()).map(is_same) {
                Some(true) => {}
                // It would be added now. As long as all were taken from there, those that follow are not here yet.
                None if id.index() == next && (!upstreams.is_on_its_own || !upstreams.is_known(identity)) => next += 1,
                _ => return None,
            }
        }
        for id in outcome.upstreams.iter().filter(|id| id.index() >= upstreams.list.len()).copied().collect::<Vec<_>>()
        {
            let known = self.memo.identities.get(id.index())?;
            let upstream = self.memo.snapshot.upstreams.get(id.index())?;
            upstreams.add_again(Arc::clone(known), Arc::clone(upstream));
        }
        Some(outcome)
    }
}

/// Whether everything but routes, Services, Backends and endpoints is the same for a route. Places do not count.
fn surroundings_are_same(a: &Inputs, b: &Inputs) -> bool {
    // Without `..`, so that a new kind of object is thought of here.
    let Inputs {
        settings,
        gateway_classes,
        gateways,
        listener_sets,
        http_routes: _,
        grpc_routes: _,
        // They are attached after HTTPRoutes and GRPCRoutes.
        tls_routes: _,
        tcp_routes: _,
        udp_routes: _,
        reference_grants,
        backend_tls_policies,
        namespaces,
        services: _,
        endpoint_slices: _,
        secrets,
        config_maps,
        // Routes name Services, never Nodes.
        nodes: _,
        issuers,
        cluster_issuers,
        certificates,
        address_pools,
        l2_advertisements,
        bgp_peers,
        bgp_advertisements,
        communities,
        bfd_profiles,
        client_traffic_policies,
        backend_traffic_policies,
        security_policies,
        envoy_proxies,
        backends: _,
        upstream_settings_policies,
        http_route_filters,
        client_settings_policies,
        proxy_settings_policies,
        rate_limit_policies,
        authentication_filters,
        snippets_filters,
        snippets_policies,
        // Addresses change nothing about a route.
        assigned: _,
        published: _,
        unusable,
        // What serves is in its place; that it is not the newest is told by others.
        outdated: _,
        // It decides about certificates, never about routes.
        cert_manager: _,
    } = a;
    settings_are_same(settings, &b.settings)
        && all_same(gateway_classes, &b.gateway_classes)
        && all_same(gateways, &b.gateways)
        && all_same(listener_sets, &b.listener_sets)
        && all_same(reference_grants, &b.reference_grants)
        && all_same(backend_tls_policies, &b.backend_tls_policies)
        && all_same(namespaces, &b.namespaces)
        && all_same(secrets, &b.secrets)
        && all_same(config_maps, &b.config_maps)
        && all_same(issuers, &b.issuers)
        && all_same(cluster_issuers, &b.cluster_issuers)
        && all_same(certificates, &b.certificates)
        && all_same(address_pools, &b.address_pools)
        && all_same(l2_advertisements, &b.l2_advertisements)
        && all_same(bgp_peers, &b.bgp_peers)
        && all_same(bgp_advertisements, &b.bgp_advertisements)
        && all_same(communities, &b.communities)
        && all_same(bfd_profiles, &b.bfd_profiles)
        && all_same(client_traffic_policies, &b.client_traffic_policies)
        && all_same(backend_traffic_policies, &b.backend_traffic_policies)
        && all_same(security_policies, &b.security_policies)
        && all_same(envoy_proxies, &b.envoy_proxies)
        && all_same(upstream_settings_policies, &b.upstream_settings_policies)
        && all_same(http_route_filters, &b.http_route_filters)
        && all_same(client_settings_policies, &b.client_settings_policies)
        && all_same(proxy_settings_policies, &b.proxy_settings_policies)
        && all_same(rate_limit_policies, &b.rate_limit_policies)
        && all_same(authentication_filters, &b.authentication_filters)
        && all_same(snippets_filters, &b.snippets_filters)
        && all_same(snippets_policies, &b.snippets_policies)
        && *unusable == b.unusable
}

/// Of the settings that compile reads; the texts of manifests are not among them.
fn settings_are_same(a: &Settings, b: &Settings) -> bool {
    a.controller_names == b.controller_names
        && a.services == b.services
        && a.pools == b.pools
        && a.proxy == b.proxy
        && a.certificates == b.certificates
}

fn all_same<T: PartialEq>(a: &Objects<T>, b: &Objects<T>) -> bool {
    a.is_shared_with(b)
        || (a.len() == b.len() && a.values().zip(b.values()).all(|(a, b)| Arc::ptr_eq(a, b) || are_same(a, b)))
}

/// Whether two objects differ in nothing but the place where they are written.
fn are_same<T: PartialEq>(a: &Object<T>, b: &Object<T>) -> bool {
    let Meta { key, labels, annotations, generation, created, origin: _ } = &a.meta;
    *key == b.meta.key
        && *labels == b.meta.labels
        && *annotations == b.meta.annotations
        && *generation == b.meta.generation
        && *created == b.meta.created
        && a.spec == b.spec
}

/// Tells of each object that is not the very same in both, with what it was and what it is.
pub(super) fn differences<'k, T>(
    a: &'k Objects<T>,
    b: &'k Objects<T>,
    mut tell: impl FnMut(&'k ObjectKey, Option<&'k Arc<Object<T>>>, Option<&'k Arc<Object<T>>>),
) {
    if a.is_shared_with(b) {
        return;
    }
    let (mut left, mut right) = (a.iter().peekable(), b.iter().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (Some((one, _)), Some((other, _))) => one.cmp(other),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return,
        };
        let then = if order == Ordering::Greater { None } else { left.next() };
        let now = if order == Ordering::Less { None } else { right.next() };
        let is_same = matches!((then, now), (Some((_, then)), Some((_, now))) if Arc::ptr_eq(then, now));
        if let Some((key, _)) = then.or(now).filter(|_| !is_same) {
            tell(key, then.map(|(_, object)| object), now.map(|(_, object)| object));
        }
    }
}

impl<'k> Changes<'k> {
    fn between<T: PartialEq>(a: &'k Objects<T>, b: &'k Objects<T>) -> Self {
        let mut changes = Self { changed: HashSet::new(), moved: HashSet::new() };
        differences(a, b, |key, then, now| {
            let is_moved = matches!((then, now), (Some(then), Some(now)) if are_same(then, now));
            let names = if is_moved { &mut changes.moved } else { &mut changes.changed };
            names.insert(key);
        });
        changes
    }

    /// Whether an object is not what it was.
    fn is_changed(&self, key: &ObjectKey) -> bool {
        !self.changed.is_empty() && self.changed.contains(key)
    }
}
