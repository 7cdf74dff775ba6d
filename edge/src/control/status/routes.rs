//! One row per route that names a Gateway or ListenerSet of ours.

use std::collections::BTreeSet;

use edge_config::gateway::ParentReference;
use edge_config::inputs::Inputs;
use edge_config::names::{Kind, ObjectRef};
use edge_config::report::ObjectReport;
use edge_config::snapshot::{Action, Backend, Rule, Target, UpstreamId};

use super::{Lookup, is_fault, says};
use crate::control::view::{BackendRow, Health, RouteRow, State};

pub fn route_rows(lookup: &Lookup<'_>, backends: &[BackendRow]) -> Vec<RouteRow> {
    let routes = lookup.scene.report.objects.iter().filter(|(object, _)| is_route(object.kind));
    routes
        .map(|(route, report)| RouteRow {
            health: health(lookup, route, report, backends),
            kind: route.kind.to_string(),
            route: route.key.to_string(),
            hostnames: hostnames(lookup.scene.inputs, route),
            parents: report.parents.iter().map(|parent| parent_text(&parent.parent, route)).collect(),
            backends: references(lookup, route),
        })
        .collect()
}

/// How the same routes are, and nothing else.
pub fn route_states(lookup: &Lookup<'_>, backends: &[BackendRow]) -> impl Iterator<Item = State> {
    let routes = lookup.scene.report.objects.iter().filter(|(object, _)| is_route(object.kind));
    routes.map(move |(route, report)| health(lookup, route, report, backends).state)
}

pub fn is_route(kind: Kind) -> bool {
    matches!(kind, Kind::HTTPRoute | Kind::GRPCRoute | Kind::TLSRoute | Kind::TCPRoute | Kind::UDPRoute)
}

/// As the route writes them; `*` where it writes none.
pub fn hostnames(inputs: &Inputs, route: &ObjectRef) -> Vec<String> {
    let names = match route.kind {
        Kind::HTTPRoute => inputs.http_routes.get(&route.key).map(|route| &route.spec.hostnames),
        Kind::GRPCRoute => inputs.grpc_routes.get(&route.key).map(|route| &route.spec.hostnames),
        Kind::TLSRoute => inputs.tls_routes.get(&route.key).map(|route| &route.spec.hostnames),
        _ => None,
    };
    match names {
        Some(names) if !names.is_empty() => names.clone(),
        _ => vec!["*".to_owned()],
    }
}

/// `ns/name`, with the listener or port where the reference names one.
pub fn parent_text(parent: &ParentReference, route: &ObjectRef) -> String {
    let namespace = parent.namespace.as_deref().unwrap_or(&route.key.namespace);
    let mut text = format!("{namespace}/{}", parent.name);
    if let Some(section) = &parent.section_name {
        text.push('/');
        text.push_str(section);
    }
    if let Some(port) = parent.port {
        text.push_str(&format!(":{port}"));
    }
    text
}

fn health(lookup: &Lookup<'_>, route: &ObjectRef, report: &ObjectReport, rows: &[BackendRow]) -> Health {
    let mut refused = Vec::new();
    let mut unresolved = None;
    let mut partial = None;
    for parent in &report.parents {
        for condition in parent.conditions.iter().filter(|condition| is_fault(condition)) {
            let text = says(condition);
            match condition.kind {
                "Accepted" => refused.push(format!("{}: {text}", parent_text(&parent.parent, route))),
                "ResolvedRefs" => unresolved = unresolved.or(Some(text)),
                _ => partial = partial.or(Some(text)),
            }
        }
    }
    if report.parents.is_empty() {
        return Health::new(State::Down, "no parent of it is a Gateway or ListenerSet of Edge");
    }
    if let Some(first) = refused.first().filter(|_| refused.len() == report.parents.len()) {
        return Health::new(State::Down, first.clone());
    }
    let mut health = served(lookup, route, rows);
    // The words of the condition name the reference; what is served only tells how much of the route it costs.
    if let Some(text) = unresolved {
        let state = health.state.min(State::Degraded);
        health = Health::new(state, text);
    }
    if let Some(first) = refused.into_iter().next() {
        health = health.and(Health::new(State::Degraded, first));
    }
    if let Some(text) = partial {
        health = health.and(Health::new(State::Degraded, text));
    }
    health
}

/// How much of the route is answered by a backend or a redirect.
fn served(lookup: &Lookup<'_>, route: &ObjectRef, rows: &[BackendRow]) -> Health {
    let mut parts: Vec<(String, Health)> = Vec::new();
    let row = |id: UpstreamId| rows.get(id.index());
    for rule in lookup.rules.get(route).into_iter().flatten() {
        parts.push((rule_text(rule), rule_health(&rule.action, row)));
    }
    for stream in lookup.streams.get(route).into_iter().flatten() {
        parts.push((String::new(), forwarded(&stream.backends, row)));
    }
    let Some((name, worst)) = parts.iter().min_by_key(|(_, health)| health.state) else {
        return Health::up();
    };
    if worst.state == State::Up {
        return Health::up();
    }
    let all_down = parts.iter().all(|(_, health)| health.state == State::Down);
    let state = if worst.state == State::Down && !all_down { State::Degraded } else { worst.state };
    let several = parts.len() > 1 && !name.is_empty();
    Health::new(state, if several { format!("{name}: {}", worst.reason) } else { worst.reason.clone() })
}

/// `rule 0`, or its name.
pub fn rule_text(rule: &Rule) -> String {
    rule.name.as_ref().map_or_else(|| format!("rule {}", rule.index), |name| format!("rule {name}"))
}

/// Whether a rule answers as it is meant to; `row` knows the upstreams.
pub fn rule_health<'r>(action: &Action, row: impl Fn(UpstreamId) -> Option<&'r BackendRow>) -> Health {
    match action {
        Action::Redirect(_) | Action::Respond(_) => Health::up(),
        Action::Refuse { status, reason } => Health::new(State::Down, format!("answers {status}: {reason}")),
        Action::Forward(backends) => forwarded(backends, row),
    }
}

/// What a reference leads to.
pub fn target_health<'r>(target: &Target, row: impl Fn(UpstreamId) -> Option<&'r BackendRow>) -> Health {
    match target {
        Target::Invalid { status, reason } => Health::new(State::Down, format!("answers {status}: {reason}")),
        Target::Upstream(id) => match row(*id) {
            Some(row) if row.health.state != State::Up => {
                Health::new(row.health.state, format!("{}: {}", row.backend, row.health.reason))
            }
            _ => Health::up(),
        },
    }
}

pub fn forwarded<'r>(backends: &[Backend], row: impl Fn(UpstreamId) -> Option<&'r BackendRow>) -> Health {
    let weighted = backends.iter().filter(|backend| backend.weight > 0);
    let states: Vec<Health> = weighted.map(|backend| target_health(&backend.target, &row)).collect();
    let all_down = states.iter().all(|health| health.state == State::Down);
    let Some(worst) = states.into_iter().min_by_key(|health| health.state) else {
        return Health::new(State::Down, "no backend has a weight above 0");
    };
    if worst.state == State::Down && !all_down { Health::new(State::Degraded, worst.reason) } else { worst }
}

/// Every backend of a route once, without its kind.
fn references(lookup: &Lookup<'_>, route: &ObjectRef) -> Vec<String> {
    let rules = lookup.rules.get(route).into_iter().flatten().filter_map(|rule| match &rule.action {
        Action::Forward(backends) => Some(backends),
        _ => None,
    });
    let streams = lookup.streams.get(route).into_iter().flatten().map(|stream| &stream.backends);
    let mut seen = BTreeSet::new();
    rules
        .chain(streams)
        .flatten()
        .map(|backend| backend.reference.strip_prefix("Service ").unwrap_or(&backend.reference).to_owned())
        .filter(|reference| seen.insert(reference.clone()))
        .collect()
}
