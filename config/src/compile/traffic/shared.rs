//! What of a BackendTrafficPolicy has no effect on some of the routes that it is about, for what these lead to: answers of
//! gRPC say how they ended in trailers, and an endpoint that is spoken to in HTTP/2 has all requests on few connections.

use super::super::attach::Parents;
use super::super::context::Context;
use super::super::gateways::GatewayState;
use super::super::policies::route_parents;
use super::super::scopes::Scope;
use crate::envoy::{BackendProtocol, BackendTrafficPolicySpec};
use crate::gateway::{BackendRef, HttpFilter, ParentReference};
use crate::names::{Kind, ObjectKey, ObjectRef};
use crate::report::Condition;

/// Conditions that name the fields, and the first of the routes or backends.
pub(super) fn notes(
    context: &Context<'_>,
    parents: &Parents<'_>,
    gateways: &[GatewayState<'_>],
    scope: &Scope,
    spec: &BackendTrafficPolicySpec,
) -> Vec<Condition> {
    let concerned = |route: &ObjectRef| match scope.object.kind {
        Kind::Gateway | Kind::ListenerSet => route_parents(context, parents, route)
            .iter()
            .any(|(parent, gateway)| is_below(scope, parent, *gateways[*gateway].key() == scope.object.key)),
        _ => *route == scope.object,
    };
    let inputs = context.inputs;
    let calls = || {
        let routes = inputs.grpc_routes.keys().map(|key| ObjectRef::new(Kind::GRPCRoute, key.clone()));
        routes.filter(concerned)
    };
    let mut notes = Vec::new();
    if !spec.response_override.is_empty() {
        notes.extend(note("responseOverride for calls of gRPC", calls().map(|route| route.to_string())));
    }
    let of_connections = of_connections(spec);
    if !of_connections.is_empty() {
        let what = format!("{} for backends that are spoken to in HTTP/2", of_connections.join(", spec."));
        // A policy of a GRPCRoute is told so by its kind.
        let calls = calls().filter(|_| scope.is_wide()).map(|route| route.to_string());
        let routes = inputs.http_routes.values();
        let routes = routes.filter(|route| concerned(&ObjectRef::new(Kind::HTTPRoute, route.meta.key.clone())));
        let references = routes.flat_map(|route| {
            let rules = route.spec.rules.iter();
            let section = scope.section.as_deref().filter(|_| !scope.is_wide());
            let rules = rules.filter(move |rule| section.is_none_or(|section| rule.name.as_deref() == Some(section)));
            rules.flat_map(|rule| &rule.backend_refs).map(|reference| (&*route.meta.key.namespace, reference))
        });
        let shared = references.filter_map(|(namespace, reference)| shared(context, namespace, reference));
        let all: std::collections::BTreeSet<String> = shared.chain(calls).collect();
        notes.extend(note(&what, all.into_iter()));
    }
    notes
}

/// Whether a route with this parent is at what a policy of a Gateway or a ListenerSet is about.
fn is_below(scope: &Scope, parent: &ParentReference, is_of_gateway: bool) -> bool {
    let object = &scope.object;
    let is_named = parent.kind == object.kind.as_str()
        && parent.name == *object.key.name
        && parent.namespace.as_deref() == Some(&*object.key.namespace);
    match (&scope.section, parent.section_name.as_deref().filter(|name| !name.is_empty())) {
        // Listeners of sets are the Gateway's, too, but not the one of this name.
        (Some(section), named) => is_named && named.is_none_or(|named| **section == *named),
        (None, _) if object.kind == Kind::Gateway => is_of_gateway,
        (None, _) => is_named,
    }
}

/// Fields that count connections, of which a request is not one where many share them.
fn of_connections(spec: &BackendTrafficPolicySpec) -> Vec<&'static str> {
    let breaker = spec.circuit_breaker.unwrap_or_default();
    let per_endpoint = breaker.per_endpoint.is_some_and(|per_endpoint| per_endpoint.max_connections.is_some());
    let fields = [
        ("circuitBreaker.maxConnections", breaker.max_connections.is_some()),
        ("circuitBreaker.perEndpoint", per_endpoint),
    ];
    fields.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name).collect()
}

/// The backend of an HTTPRoute, if it says that it speaks HTTP/2.
fn shared(context: &Context<'_>, namespace: &str, reference: &BackendRef<HttpFilter>) -> Option<String> {
    let key = ObjectKey::new(reference.namespace.as_deref().unwrap_or(namespace), reference.name.as_str());
    match Kind::of(&reference.group, &reference.kind)? {
        Kind::Service => {
            let service = context.inputs.services.get(&key)?;
            let port = service.spec.ports.iter().find(|port| Some(port.port) == reference.port)?;
            let is_shared = super::super::backends::is_http2(port.app_protocol.as_deref());
            is_shared.then(|| format!("Service {key}:{}", port.port))
        }
        Kind::Backend => {
            let backend = context.inputs.backends.get(&key)?;
            backend.spec.app_protocols.contains(&BackendProtocol::H2c).then(|| format!("Backend {key}"))
        }
        _ => None,
    }
}

fn note(what: &str, mut names: impl Iterator<Item = String>) -> Option<Condition> {
    let (first, more) = (names.next()?, names.count());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let message = format!("not acted on by this version: spec.{what} ({first}{more})");
    Some(Condition { kind: "Warning", status: true, reason: "UnsupportedField", message })
}
