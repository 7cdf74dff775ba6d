//! TLSRoute, TCPRoute and UDPRoute: connections and datagrams, by weight.

use std::sync::Arc;

use super::attach::{Attachment, Parents, Route};
use super::backends::{Backends, Referrer, Upstreams, Use};
use super::context::{Fault, by_age};
use super::filters::UNSUPPORTED;
use super::gateways::{GatewayState, Profile};
use super::listeners::Class;
use super::policies::RoutePolicies;
use super::rule_policies::{RouteRules, security_at};
use super::rules::{hosts, report};
use super::traffic::RouteTraffic;
use crate::gateway::{L4RouteRule, ParentReference};
use crate::inputs::Meta;
use crate::names::{Kind, ObjectRef};
use crate::problem::Severity;
use crate::report::ObjectReport;
use crate::snapshot::{Backend, StreamRoute, Target};

struct Stream<'p, 'a> {
    kind: Kind,
    meta: &'a Meta,
    parents: &'a [ParentReference],
    hostnames: &'a [String],
    rules: &'a [L4RouteRule],
    /// What policies say of its rules.
    policies: Option<&'p RouteRules>,
    /// A policy of its own, instead of its Gateway's.
    traffic: Option<RouteTraffic>,
}

/// Attaches every stream route. Where several ask for one place, all are accepted and counted, and the oldest has it.
pub(super) fn routes<'a>(
    backends: &Backends<'_, 'a>,
    gateways: &mut [GatewayState<'a>],
    policies: &RoutePolicies,
    upstreams: &mut Upstreams,
    out: &mut Vec<(ObjectRef, ObjectReport)>,
) {
    let inputs = backends.context.inputs;
    let mut routes: Vec<Stream<'_, 'a>> = Vec::new();
    for route in inputs.tls_routes.values() {
        routes.push(Stream {
            kind: Kind::TLSRoute,
            meta: &route.meta,
            parents: &route.spec.parent_refs,
            hostnames: &route.spec.hostnames,
            rules: &route.spec.rules,
            policies: None,
            traffic: None,
        });
    }
    for (kind, objects) in [(Kind::TCPRoute, &inputs.tcp_routes), (Kind::UDPRoute, &inputs.udp_routes)] {
        for route in objects.values() {
            routes.push(Stream {
                kind,
                meta: &route.meta,
                parents: &route.spec.parent_refs,
                hostnames: &[],
                rules: &route.spec.rules,
                policies: None,
                traffic: None,
            });
        }
    }
    routes.sort_by(|a, b| by_age(a.meta, b.meta).then_with(|| a.kind.cmp(&b.kind)));
    let parents = Parents::new(gateways);
    for stream in &mut routes {
        let object = ObjectRef::new(stream.kind, stream.meta.key.clone());
        stream.traffic = policies.traffic.get(&object).cloned();
        stream.policies = policies.rules.get(&object);
        one(backends, gateways, &parents, stream, upstreams, out);
    }
}

fn one<'a>(
    backends: &Backends<'_, 'a>,
    gateways: &mut [GatewayState<'a>],
    parents: &Parents<'a>,
    stream: &Stream<'_, 'a>,
    upstreams: &mut Upstreams,
    out: &mut Vec<(ObjectRef, ObjectReport)>,
) {
    let context = backends.context;
    if stream.rules.len() > 1 {
        let message = format!("rules: {} rules, of which only the first can match", stream.rules.len());
        context.problem(Severity::Warning, stream.kind, stream.meta, message);
    }
    let route = Route {
        kind: stream.kind,
        meta: stream.meta,
        parents: stream.parents,
        hosts: hosts(context, stream.kind, stream.meta, stream.hostnames),
    };
    let (outcomes, attachments) = parents.attach(context, gateways, &route);
    if outcomes.is_empty() {
        return;
    }
    let mut refs_fault = None;
    let object = ObjectRef::new(stream.kind, stream.meta.key.clone());
    let refused = stream.rules.is_empty().then(|| Fault::new(UNSUPPORTED, "rules is empty"));
    if refused.is_none() {
        for attachment in &attachments {
            attach(backends, gateways, stream, &object, attachment, &mut refs_fault, upstreams);
        }
        if attachments.is_empty() {
            // Attached nowhere, its references are judged all the same.
            let mut scratch = Upstreams::default();
            let profile = Profile::default();
            let gone = destination(backends, stream, &object, (&[], &profile), false, &mut scratch);
            refs_fault = gone.1;
        }
    }
    out.push((object, report(context, gateways, &route, outcomes, refused.as_ref(), refs_fault.as_ref(), None)));
}

fn attach<'a>(
    backends: &Backends<'_, 'a>,
    gateways: &mut [GatewayState<'a>],
    stream: &Stream<'_, 'a>,
    object: &ObjectRef,
    attachment: &Attachment,
    refs_fault: &mut Option<Fault>,
    upstreams: &mut Upstreams,
) {
    let gateway = &mut gateways[attachment.gateway];
    let profile = gateway.profile_at(attachment.listener);
    let listener = &mut gateway.listeners[attachment.listener];
    listener.attached += 1;
    if listener.collects_hosts {
        listener.route_hosts.extend(attachment.hosts.iter().cloned());
    }
    let members = [attachment.gateway];
    let (mut found, fault) =
        destination(backends, stream, object, (&members, &profile), listener.is_passthrough(), upstreams);
    if let Some(fault) = fault {
        refs_fault.get_or_insert(fault);
    }
    let at = (attachment.gateway, attachment.listener);
    let name = stream.rules.first().and_then(|rule| rule.name.as_deref());
    if let Some(security) = security_at(name, stream.policies, listener.policy.as_deref(), at) {
        match security.for_streams() {
            Ok(admission) => found.admission = admission.cloned().map(Arc::new),
            Err(reason) => {
                for backend in &mut found.backends {
                    backend.target = Target::Invalid { status: 500, reason: Arc::clone(&reason) };
                }
            }
        }
    }
    match listener.class {
        Some(Class::Tls) => {
            for host in &attachment.hosts {
                if listener.routes.streams.of(host).is_none() {
                    listener.routes.streams.insert(host.clone(), found.clone());
                }
            }
        }
        _ => {
            listener.routes.stream.get_or_insert(found);
        }
    }
}

fn destination<'a>(
    backends: &Backends<'_, 'a>,
    stream: &Stream<'_, 'a>,
    object: &ObjectRef,
    (gateways, profile): (&[usize], &Profile),
    passthrough: bool,
    upstreams: &mut Upstreams,
) -> (StreamRoute, Option<Fault>) {
    let found = RouteTraffic::under(stream.traffic.as_ref(), &profile.traffic);
    let (traffic, sections) = (found.whole.as_deref().unwrap_or(&profile.traffic), &*found.sections);
    let name = stream.rules.first().and_then(|rule| rule.name.as_deref());
    let namespace = &stream.meta.key.namespace;
    let referrer = Referrer { kind: stream.kind, namespace, gateways, profile, traffic, sections }.of_rule(name);
    let balance = referrer.traffic.balance.clone();
    let purpose = if stream.kind == Kind::UDPRoute { Use::Udp } else { Use::Stream { passthrough } };
    let mut fault = None;
    let references = stream.rules.first().map_or(&[][..], |rule| &rule.backend_refs);
    let mut list = Vec::with_capacity(references.len());
    for reference in references {
        let resolved = backends.resolve(referrer, reference.into(), purpose, upstreams);
        if let Some(wrong) = resolved.fault {
            fault.get_or_insert(wrong);
        }
        list.push(Backend {
            weight: reference.weight,
            reference: resolved.reference,
            target: resolved.target,
            filters: Arc::clone(&backends.context.no_filters),
            balance: resolved.balance.or_else(|| balance.clone()),
            fallback: resolved.fallback,
        });
    }
    (StreamRoute { route: object.clone(), backends: list, affinity: None, admission: None }, fault)
}
