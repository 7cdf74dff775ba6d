//! Rules of HTTPRoutes and GRPCRoutes: what both have in common, and their way into listeners and reports.

use std::sync::Arc;

use super::attach::{Attachment, ParentOutcome, Parents, Route};
use super::backends::{Backends, Referrer, Resolved, Upstreams};
use super::context::{Context, Fault, by_age, condition, fingerprint};
use super::filters::{Built, UNSUPPORTED, is_token};
use super::gateways::{GatewayState, Profile};
use super::policies::{RoutePolicies, Traffic};
use super::{routes_grpc, routes_http};
use crate::gateway::{CookieLifetime, GrpcRouteSpec, HttpRouteSpec, ParentReference, SessionPersistenceType};
use crate::inputs::{Meta, Object};
use crate::matching::RouteMatch;
use crate::names::{HostPattern, Kind, ObjectRef};
use crate::problem::Severity;
use crate::report::{Condition, ObjectReport, ParentReport};
use crate::snapshot::{Action, Backend, Filters, Rule, RuleId, SessionCarrier, SessionPersistence, Target};

/// A rule before it has a number: matches name it by [`RuleId`] 0.
pub(super) struct Draft {
    pub rule: Rule,
    pub matches: Vec<RouteMatch>,
}

/// All rules of one route, for one profile.
#[derive(Default)]
pub(super) struct Drafts {
    pub rules: Vec<Draft>,
    /// ResolvedRefs.
    pub refs_fault: Option<Fault>,
    /// Rules that are invalid.
    pub dropped: Vec<(usize, Fault)>,
    pub total: usize,
}

enum L7<'a> {
    Http(&'a Object<HttpRouteSpec>),
    Grpc(&'a Object<GrpcRouteSpec>),
}

impl<'a> L7<'a> {
    fn meta(&self) -> &'a Meta {
        match self {
            Self::Http(route) => &route.meta,
            Self::Grpc(route) => &route.meta,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Http(_) => Kind::HTTPRoute,
            Self::Grpc(_) => Kind::GRPCRoute,
        }
    }

    fn parents(&self) -> &'a [ParentReference] {
        match self {
            Self::Http(route) => &route.spec.parent_refs,
            Self::Grpc(route) => &route.spec.parent_refs,
        }
    }

    fn hostnames(&self) -> &'a [String] {
        match self {
            Self::Http(route) => &route.spec.hostnames,
            Self::Grpc(route) => &route.spec.hostnames,
        }
    }
}

/// Attaches every HTTPRoute and GRPCRoute and returns the rules, numbered by precedence among equal matches: oldest
/// route first, then by namespace and name. HTTP and gRPC routes may share a host.
pub(super) fn routes<'a>(
    backends: &Backends<'_, 'a>,
    gateways: &mut [GatewayState<'a>],
    policies: &RoutePolicies,
    upstreams: &mut Upstreams<'a>,
    out: &mut Vec<(ObjectRef, ObjectReport)>,
) -> Vec<Rule> {
    let context = backends.context;
    let inputs = context.inputs;
    let mut routes: Vec<L7<'a>> = Vec::with_capacity(inputs.http_routes.len() + inputs.grpc_routes.len());
    routes.extend(inputs.http_routes.values().map(|route| L7::Http(route)));
    routes.extend(inputs.grpc_routes.values().map(|route| L7::Grpc(route)));
    routes.sort_by(|a, b| by_age(a.meta(), b.meta()).then_with(|| a.kind().cmp(&b.kind())));
    let parents = Parents::new(gateways);
    let profiles: Vec<Profile> = gateways.iter().map(|gateway| gateway.profile.clone()).collect();
    let mut rules: Vec<Rule> = Vec::with_capacity(routes.len());
    // Backends of routes that are attached nowhere are judged all the same, and then forgotten.
    let mut scratch = Upstreams::default();
    for l7 in &routes {
        let hosts = hosts(context, l7.kind(), l7.meta(), l7.hostnames());
        let route = Route { kind: l7.kind(), meta: l7.meta(), parents: l7.parents(), hosts };
        let (outcomes, attachments) = parents.attach(context, gateways, &route);
        if outcomes.is_empty() {
            continue;
        }
        let object = ObjectRef::new(route.kind, route.meta.key.clone());
        let own = policies.traffic.get(&object).copied();
        let guard = policies.guards.get(&object);
        let mut status = None;
        for (profile, members) in by_profile(&attachments, &profiles) {
            let drafts = draft(backends, l7, &profiles[profile], &members, own, upstreams);
            if drafts.dropped.len() < drafts.total {
                let guarded = drafts.rules.into_iter().map(|draft| Draft { rule: guarded(draft.rule, guard), ..draft });
                install(&attachments, &members, gateways, guarded.collect(), &mut rules);
            }
            status = Some((drafts.refs_fault, drafts.dropped, drafts.total));
        }
        let (refs_fault, dropped, total) = status.unwrap_or_else(|| {
            let drafts = draft(backends, l7, &Profile::default(), &[], own, &mut scratch);
            (drafts.refs_fault, drafts.dropped, drafts.total)
        });
        let invalid = dropped.len() == total && !dropped.is_empty();
        if !invalid {
            for attachment in &attachments {
                let listener = &mut gateways[attachment.gateway].listeners[attachment.listener];
                listener.attached += 1;
                listener.route_hosts.extend(attachment.hosts.iter().cloned());
            }
        }
        let refused = dropped.first().filter(|_| invalid).map(|(_, fault)| fault);
        let partly = (!dropped.is_empty() && !invalid).then(|| partially_invalid(&dropped));
        out.push(report(gateways, &route, outcomes, refused, refs_fault.as_ref(), partly.as_ref()));
    }
    rules
}

/// Hostnames of a route; what is none was reported where it was parsed and takes no part.
pub(super) fn hosts(context: &Context<'_>, kind: Kind, meta: &Meta, names: &[String]) -> Vec<HostPattern> {
    if names.is_empty() {
        return vec![HostPattern::Any];
    }
    let mut hosts = Vec::with_capacity(names.len());
    for name in names {
        match HostPattern::parse(Some(name)) {
            Ok(HostPattern::Any) => {}
            Ok(pattern) => hosts.push(pattern),
            Err(error) => context.problem(Severity::Error, kind, meta, format!("hostnames: {name:?} {error}")),
        }
    }
    hosts
}

/// Attachments grouped by what their Gateways add to rules; nearly always one group.
fn by_profile(attachments: &[Attachment], profiles: &[Profile]) -> Vec<(usize, Vec<usize>)> {
    let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
    for attachment in attachments {
        let gateway = attachment.gateway;
        match groups.iter_mut().find(|(first, _)| *first == gateway || profiles[*first] == profiles[gateway]) {
            Some((_, members)) if members.contains(&gateway) => {}
            Some((_, members)) => members.push(gateway),
            None => groups.push((gateway, vec![gateway])),
        }
    }
    groups
}

fn draft<'a>(
    backends: &Backends<'_, 'a>,
    l7: &L7<'a>,
    profile: &Profile,
    gateways: &[usize],
    own: Option<Traffic>,
    upstreams: &mut Upstreams<'a>,
) -> Drafts {
    let meta = l7.meta();
    let referrer = Referrer { kind: l7.kind(), namespace: &meta.key.namespace, gateways, profile };
    let mut drafts = match l7 {
        L7::Http(route) => routes_http::draft(backends, referrer, route, upstreams),
        L7::Grpc(route) => routes_grpc::draft(backends, referrer, route, upstreams),
    };
    // A policy of the route replaces one of its Gateway wholly.
    let traffic = own.unwrap_or(Traffic { balance: profile.balance, request_timeout: profile.request_timeout });
    for draft in &mut drafts.rules {
        draft.rule.balance = traffic.balance.unwrap_or_default();
        let timeouts = &mut draft.rule.timeouts;
        if let (None, false, Some(timeout)) = (timeouts.request, timeouts.streams, traffic.request_timeout) {
            timeouts.request = Some(timeout).filter(|timeout| !timeout.is_zero());
            timeouts.streams = timeout.is_zero();
        }
    }
    drafts
}

/// Numbers rules and puts their matches into the listeners of these Gateways.
fn install(
    attachments: &[Attachment],
    members: &[usize],
    gateways: &mut [GatewayState<'_>],
    drafts: Vec<Draft>,
    rules: &mut Vec<Rule>,
) {
    let attachments = || attachments.iter().filter(|attachment| members.contains(&attachment.gateway));
    for draft in drafts {
        // Nearly always one variant: the listeners without a guard.
        let mut variants: Vec<(Option<Arc<str>>, RuleId)> = Vec::with_capacity(1);
        for attachment in attachments() {
            let guard = &gateways[attachment.gateway].listeners[attachment.listener].guard;
            if variants.iter().all(|(known, _)| known != guard) {
                let id = RuleId(u32::try_from(rules.len()).unwrap_or(u32::MAX));
                rules.push(guarded(draft.rule.clone(), guard.as_ref()));
                variants.push((guard.clone(), id));
            }
        }
        for entry in draft.matches {
            for (guard, id) in &variants {
                let entry = Arc::new(RouteMatch { rule: *id, ..entry.clone() });
                for attachment in attachments() {
                    let listener = &mut gateways[attachment.gateway].listeners[attachment.listener];
                    if listener.guard == *guard {
                        let hosts = attachment.hosts.iter();
                        listener.routes.matches.extend(hosts.map(|host| (host.clone(), Arc::clone(&entry))));
                    }
                }
            }
        }
    }
}

/// A rule whose protection is missing answers 500 instead of doing its work without it.
fn guarded(mut rule: Rule, guard: Option<&Arc<str>>) -> Rule {
    if let Some(reason) = guard {
        rule.action = Action::Refuse { status: if rule.grpc { 503 } else { 500 }, reason: Arc::clone(reason) };
        rule.filters = Filters::default();
    }
    rule
}

/// RouteConditionPartiallyInvalid: "The message for this condition MUST start with the prefix 'Dropped Rule'".
fn partially_invalid(dropped: &[(usize, Fault)]) -> Condition {
    let reasons: Vec<String> = dropped.iter().map(|(index, fault)| format!("{index} ({})", fault.message)).collect();
    let plural = if dropped.len() == 1 { "" } else { "s" };
    Condition {
        kind: "PartiallyInvalid",
        status: true,
        reason: dropped.first().map_or(UNSUPPORTED, |(_, fault)| fault.reason),
        message: format!("Dropped Rule{plural} {}", reasons.join(", ")),
    }
}

/// The status of a route: one entry per parentRef that names a parent of ours.
pub(super) fn report(
    gateways: &[GatewayState<'_>],
    route: &Route<'_>,
    outcomes: Vec<ParentOutcome<'_>>,
    refused: Option<&Fault>,
    refs_fault: Option<&Fault>,
    partly: Option<&Condition>,
) -> (ObjectRef, ObjectReport) {
    let parents = outcomes.into_iter().map(|outcome| {
        let accepted = outcome.fault.as_ref().or(refused);
        let mut conditions = Vec::with_capacity(3);
        conditions.push(condition("Accepted", "Accepted", accepted));
        conditions.push(condition("ResolvedRefs", "ResolvedRefs", refs_fault));
        if accepted.is_none() {
            conditions.extend(partly.cloned());
        }
        ParentReport {
            parent: outcome.reference.clone(),
            controller: Arc::clone(&gateways[outcome.gateway].controller),
            conditions,
        }
    });
    (
        ObjectRef::new(route.kind, route.meta.key.clone()),
        ObjectReport { generation: route.meta.generation, parents: parents.collect(), ..ObjectReport::default() },
    )
}

/// What a rule does, from its filters and judged backends.
pub(super) fn action(
    built: &mut Built,
    backends: Vec<(u32, Resolved, Filters)>,
    refs: &mut Option<Fault>,
    grpc: bool,
) -> Action {
    // 500, and in gRPC UNAVAILABLE, for "no valid backend" (HTTPRouteRule.backendRefs, GRPCRouteRule.backendRefs).
    let status = if grpc { 503 } else { 500 };
    let refuse = |reason: &str| Action::Refuse { status, reason: reason.into() };
    let mut list = Vec::with_capacity(backends.len());
    for (weight, resolved, filters) in backends {
        if let Some(fault) = resolved.fault {
            refs.get_or_insert(fault);
        }
        list.push(Backend { weight, reference: resolved.reference, target: resolved.target, filters });
    }
    if let Some(fault) = built.refs_fault.take() {
        refs.get_or_insert(fault);
    }
    if let Some(fault) = built.unresolved.take() {
        let action = Action::Refuse { status: 500, reason: fault.message.as_str().into() };
        refs.get_or_insert(fault);
        return action;
    }
    if let Some(redirect) = built.redirect.take() {
        return Action::Redirect(redirect);
    }
    if list.is_empty() {
        return refuse("the rule has no backendRefs");
    }
    let mut weighted = list.iter().filter(|backend| backend.weight > 0).peekable();
    if weighted.peek().is_none() {
        return refuse("every backendRef has weight 0");
    }
    let mut reason = None;
    let all_invalid = weighted.all(|backend| match &backend.target {
        Target::Invalid { reason: why, .. } => {
            reason.get_or_insert_with(|| Arc::clone(why));
            true
        }
        Target::Upstream(_) => false,
    });
    match reason {
        Some(reason) if all_invalid => Action::Refuse { status, reason },
        _ => Action::Forward(list),
    }
}

/// Session persistence of a rule (GEP-1619 as in v1.6.1). Without a name the session gets one that stays the same.
pub(super) fn session(
    spec: Option<&crate::gateway::SessionPersistence>,
    route: &ObjectRef,
    index: usize,
) -> Result<Option<SessionPersistence>, Fault> {
    let Some(spec) = spec else { return Ok(None) };
    let unsupported = |message: String| Err(Fault::new(UNSUPPORTED, message));
    let lifetime = spec.cookie_config.as_ref().map(|config| &config.lifetime_type);
    let carrier = match (&spec.kind, lifetime) {
        (SessionPersistenceType::Header, _) => SessionCarrier::Header,
        (SessionPersistenceType::Cookie, None | Some(CookieLifetime::Session)) => SessionCarrier::SessionCookie,
        (SessionPersistenceType::Cookie, Some(CookieLifetime::Permanent)) => SessionCarrier::PermanentCookie,
        (SessionPersistenceType::Cookie, Some(CookieLifetime::Other(other))) => {
            return unsupported(format!("sessionPersistence: cookie lifetime {other:?} is not supported"));
        }
        (SessionPersistenceType::Other(other), _) => {
            return unsupported(format!("sessionPersistence type {other:?} is not supported"));
        }
    };
    let absolute_timeout = spec.absolute_timeout.map(|timeout| timeout.0).filter(|timeout| !timeout.is_zero());
    if carrier == SessionCarrier::PermanentCookie && absolute_timeout.is_none() {
        return unsupported("sessionPersistence: a Permanent cookie needs an absoluteTimeout".to_owned());
    }
    let name: Box<str> = match spec.session_name.as_deref() {
        Some(name) if is_token(name) => match carrier {
            SessionCarrier::Header => name.to_ascii_lowercase().into(),
            _ => name.into(),
        },
        Some(name) => return unsupported(format!("sessionPersistence: {name:?} is no cookie or header name")),
        None => {
            let print = fingerprint([route.to_string().as_bytes(), &index.to_be_bytes()]);
            format!("edge-session-{print:016x}").into()
        }
    };
    Ok(Some(SessionPersistence { carrier, name, absolute_timeout }))
}

/// Sorted out here so that both route kinds do it alike.
pub(super) fn new_rule(route: &ObjectRef, index: usize, name: Option<&str>, grpc: bool) -> Rule {
    Rule {
        route: route.clone(),
        index: u32::try_from(index).unwrap_or(u32::MAX),
        name: name.map(Into::into),
        grpc,
        filters: Filters::default(),
        action: Action::Forward(Vec::new()),
        timeouts: crate::snapshot::Timeouts::default(),
        retry: None,
        session: None,
        balance: crate::snapshot::Balance::default(),
    }
}
