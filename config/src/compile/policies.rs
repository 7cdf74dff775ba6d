//! What the policies of all kinds have in common: their targets, their status, which of two holds. One that cannot be
//! honoured is not in effect and says so; it is never half in effect.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::attach::Parents;
use super::backend_tls::MOST_ANCESTORS;
use super::context::{Context, Fault, by_age, condition};
use super::protection::RouteProtections;
use super::rule_policies::RouteRules;
use super::traffic::RouteTraffic;
use crate::envoy::TargetSelector;
use crate::gateway::{ParentReference, PolicyTargetRef};
use crate::inputs::{Meta, Object, Objects};
use crate::names::{Kind, ObjectKey, ObjectRef};
use crate::policy::Waits;
use crate::problem::Severity;
use crate::report::{Condition, ObjectReport, ParentReport};

/// What policies say of single routes.
pub(super) struct RoutePolicies {
    pub traffic: BTreeMap<ObjectRef, RouteTraffic>,
    pub rules: BTreeMap<ObjectRef, RouteRules>,
    pub waits: BTreeMap<ObjectRef, Arc<Waits>>,
    pub protections: RouteProtections,
}

pub(super) const TARGET_NOT_FOUND: &str = "TargetNotFound";

/// An ancestor in a policy's status.
pub(super) fn ancestor(gateway: &ObjectKey, section: Option<&str>) -> ParentReference {
    ParentReference {
        group: crate::gateway::GROUP.to_owned(),
        kind: Kind::Gateway.as_str().to_owned(),
        namespace: Some(gateway.namespace.to_string()),
        name: gateway.name.to_string(),
        section_name: section.map(str::to_owned),
        port: None,
    }
}

/// Collects the ancestors of one policy.
pub(super) struct Status<'p> {
    kind: Kind,
    pub meta: &'p Meta,
    pub parents: Vec<ParentReport>,
    /// Targets that are nowhere.
    lost: Vec<String>,
    /// Stand beside Accepted where it is true.
    pub notes: Vec<Condition>,
}

impl<'p> Status<'p> {
    pub fn new(kind: Kind, meta: &'p Meta) -> Self {
        Self { kind, meta, parents: Vec::new(), lost: Vec::new(), notes: Vec::new() }
    }

    pub fn add(
        &mut self,
        context: &Context<'_>,
        parent: ParentReference,
        controller: &Arc<str>,
        fault: Option<&Fault>,
    ) {
        match fault {
            Some(fault) if fault.reason == TARGET_NOT_FOUND => self.lost.push(fault.message.clone()),
            Some(fault) => context.problem(Severity::Error, self.kind, self.meta, fault.message.clone()),
            None => {}
        }
        if self.parents.len() < MOST_ANCESTORS && !self.parents.iter().any(|known| *known.parent == parent) {
            let notes = if fault.is_none() { joined(&self.notes) } else { Vec::new() };
            let conditions = std::iter::once(condition("Accepted", "Accepted", fault)).chain(notes).collect();
            let parent = Arc::new(parent);
            self.parents.push(ParentReport { parent, controller: Arc::clone(controller), conditions });
        }
    }

    /// A target that is nowhere. Policies reach objects of their own namespace only, which is easily forgotten.
    pub fn not_found(&mut self, context: &Context<'_>, target: &PolicyTargetRef, kind: Kind, elsewhere: Option<&str>) {
        let key = ObjectKey::new(&*self.meta.key.namespace, target.name.as_str());
        let mut message = format!("targetRefs: {}", context.missing(kind, &key));
        if let Some(namespace) = elsewhere {
            message.push_str(&format!(
                "; there is one in {namespace}, but a policy reaches objects of its own namespace only"
            ));
        }
        let fault = Fault::new(TARGET_NOT_FOUND, message);
        let parent = ParentReference {
            group: target.group.clone(),
            kind: target.kind.clone(),
            namespace: Some(key.namespace.to_string()),
            name: target.name.clone(),
            section_name: target.section_name.clone(),
            port: None,
        };
        let controller = context.inputs.settings.controller_names.first().map_or("", String::as_str).into();
        self.add(context, parent, &controller, Some(&fault));
    }

    pub fn finish(self, context: &Context<'_>, out: &mut Vec<(ObjectRef, ObjectReport)>) {
        // One line for all: such a policy is most often in the wrong namespace with every target of its list.
        if let Some(first) = self.lost.first() {
            let more = match self.lost.len() {
                1 => String::new(),
                count => format!("; and {} more of its targets are not found", count - 1),
            };
            context.problem(Severity::Warning, self.kind, self.meta, format!("{first}{more}"));
        }
        let mut parents = self.parents;
        parents.iter_mut().for_each(|parent| parent.conditions = joined(&parent.conditions).into());
        out.push((
            ObjectRef::new(self.kind, self.meta.key.clone()),
            ObjectReport { generation: self.meta.generation, parents, ..ObjectReport::default() },
        ));
    }
}

/// An object has one condition of a type: what several say of it goes into one message.
fn joined(notes: &[Condition]) -> Vec<Condition> {
    let mut all: Vec<Condition> = Vec::with_capacity(notes.len());
    for note in notes {
        match all.iter_mut().find(|known| known.kind == note.kind) {
            Some(known) if *known == *note => {}
            Some(known) => {
                known.message = format!("{}; {}", known.message, note.message);
                if known.status && !note.status {
                    (known.status, known.reason) = (false, note.reason);
                } else if known.status && known.reason != note.reason {
                    // As Envoy Gateway calls it.
                    known.reason = "Warnings";
                }
            }
            None => all.push(note.clone()),
        }
    }
    all
}

pub(super) fn oldest_first<T>(objects: &Objects<T>) -> Vec<&Object<T>> {
    let mut sorted: Vec<&Object<T>> = objects.values().map(|object| &**object).collect();
    sorted.sort_by(|a, b| by_age(&a.meta, &b.meta));
    sorted
}

pub(super) fn invalid(message: String) -> Fault {
    Fault::new("Invalid", message)
}

pub(super) fn conflicted(rival: &ObjectKey) -> Fault {
    Fault::new("Conflicted", format!("the older policy {rival} has the same target"))
}

pub(super) fn elsewhere<'a>(context: &Context<'a>, kind: Kind, name: &str) -> Option<&'a str> {
    let inputs = context.inputs;
    let same = |key: &&'a ObjectKey| &*key.name == name;
    let found = match kind {
        Kind::HTTPRoute => inputs.http_routes.keys().find(same),
        Kind::GRPCRoute => inputs.grpc_routes.keys().find(same),
        Kind::TLSRoute => inputs.tls_routes.keys().find(same),
        Kind::TCPRoute => inputs.tcp_routes.keys().find(same),
        Kind::ListenerSet => inputs.listener_sets.keys().find(same),
        _ => inputs.gateways.keys().find(same),
    };
    found.map(|key| &*key.namespace)
}

/// The Gateways that a route names as parents, in Envoy Gateway's manner: with the section, as ancestors of a policy.
pub(super) fn route_parents(
    context: &Context<'_>,
    parents: &Parents<'_>,
    route: &ObjectRef,
) -> Vec<(ParentReference, usize)> {
    let inputs = context.inputs;
    let key = &route.key;
    let references = match route.kind {
        Kind::HTTPRoute => inputs.http_routes.get(key).map(|route| &route.spec.parent_refs),
        Kind::GRPCRoute => inputs.grpc_routes.get(key).map(|route| &route.spec.parent_refs),
        Kind::TLSRoute => inputs.tls_routes.get(key).map(|route| &route.spec.parent_refs),
        Kind::TCPRoute => inputs.tcp_routes.get(key).map(|route| &route.spec.parent_refs),
        Kind::UDPRoute => inputs.udp_routes.get(key).map(|route| &route.spec.parent_refs),
        _ => None,
    };
    let mut found = Vec::new();
    for reference in references.into_iter().flatten() {
        let namespace = reference.namespace.as_deref().unwrap_or(&route.key.namespace);
        if let Some(gateway) = parents.gateway_of(reference, namespace) {
            let mut parent = reference.clone();
            parent.namespace = Some(namespace.to_owned());
            found.push((parent, gateway));
        }
    }
    found
}

/// What a policy is about: named, or selected by labels in its namespace.
pub(super) fn targets<'t>(
    context: &Context<'_>,
    policy: &Meta,
    named: impl Iterator<Item = &'t PolicyTargetRef>,
    selectors: &[TargetSelector],
) -> Vec<PolicyTargetRef> {
    let inputs = context.inputs;
    let mut targets: Vec<PolicyTargetRef> = named.cloned().collect();
    for selector in selectors {
        let labels = selector.labels();
        let mut select = |meta: &Meta| {
            if meta.key.namespace == policy.key.namespace && labels.matches(&meta.labels) {
                targets.push(PolicyTargetRef {
                    group: selector.group.clone(),
                    kind: selector.kind.clone(),
                    name: meta.key.name.to_string(),
                    section_name: None,
                });
            }
        };
        match Kind::of(&selector.group, &selector.kind) {
            Some(Kind::Gateway) => inputs.gateways.values().for_each(|object| select(&object.meta)),
            Some(Kind::ListenerSet) => inputs.listener_sets.values().for_each(|object| select(&object.meta)),
            Some(Kind::HTTPRoute) => inputs.http_routes.values().for_each(|object| select(&object.meta)),
            Some(Kind::GRPCRoute) => inputs.grpc_routes.values().for_each(|object| select(&object.meta)),
            Some(Kind::TLSRoute) => inputs.tls_routes.values().for_each(|object| select(&object.meta)),
            Some(Kind::TCPRoute) => inputs.tcp_routes.values().for_each(|object| select(&object.meta)),
            Some(Kind::UDPRoute) => inputs.udp_routes.values().for_each(|object| select(&object.meta)),
            _ => {}
        }
    }
    targets
}
