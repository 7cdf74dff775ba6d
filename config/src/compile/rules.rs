//! Rules of HTTPRoutes and GRPCRoutes: what both have in common.

use std::sync::Arc;

use super::attach::{ParentOutcome, Route};
use super::backends::Resolved;
use super::context::{Context, Fault, condition, fingerprint};
use super::filters::{Built, UNSUPPORTED, is_token};
use super::gateways::GatewayState;
use crate::gateway::{CookieLifetime, SessionPersistenceType};
use crate::inputs::Meta;
use crate::matching::RouteMatch;
use crate::names::{HostPattern, Kind, ObjectRef};
use crate::problem::Severity;
use crate::report::{Condition, ObjectReport, ParentReport};
use crate::snapshot::{Action, Backend, Filters, Rule, SessionCarrier, SessionPersistence, Target};

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

/// The status of a route: one entry per parentRef that names a parent of ours.
pub(super) fn report(
    context: &Context<'_>,
    gateways: &[GatewayState<'_>],
    route: &Route<'_>,
    outcomes: Vec<ParentOutcome<'_>>,
    refused: Option<&Fault>,
    refs_fault: Option<&Fault>,
    partly: Option<&Condition>,
) -> ObjectReport {
    let mut last: Option<(Option<&Fault>, Arc<[Condition]>)> = None;
    let mut parents = Vec::with_capacity(outcomes.len());
    for outcome in &outcomes {
        let accepted = outcome.fault.as_ref().or(refused);
        // Most often all parents get the same answer.
        let conditions = match &last {
            Some((fault, conditions)) if *fault == accepted => Arc::clone(conditions),
            _ => {
                let partly = partly.filter(|_| accepted.is_none()).cloned();
                let own = [
                    condition("Accepted", "Accepted", accepted),
                    condition("ResolvedRefs", "ResolvedRefs", refs_fault),
                ];
                context.share_conditions(own.into_iter().chain(partly).collect())
            }
        };
        last = Some((accepted, Arc::clone(&conditions)));
        parents.push(ParentReport {
            parent: context.share_parent(outcome.reference),
            controller: Arc::clone(&gateways[outcome.gateway].controller),
            conditions,
        });
    }
    ObjectReport { generation: route.meta.generation, parents, ..ObjectReport::default() }
}

/// What a rule does, from its filters and judged backends.
pub(super) fn action(
    built: &mut Built,
    backends: Vec<(u32, Resolved, Arc<Filters>)>,
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
        let Resolved { reference, balance, target, fallback, .. } = resolved;
        list.push(Backend { weight, reference, target, filters, balance, fallback });
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
    if let Some(answer) = built.direct.take() {
        return Action::Respond(answer);
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
) -> Result<Option<Box<SessionPersistence>>, Fault> {
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
    Ok(Some(Box::new(SessionPersistence { carrier, name, absolute_timeout })))
}

/// Sorted out here so that both route kinds do it alike.
pub(super) fn new_rule(context: &Context<'_>, route: &ObjectRef, index: usize, name: Option<&str>, grpc: bool) -> Rule {
    Rule {
        route: route.clone(),
        index: u32::try_from(index).unwrap_or(u32::MAX),
        name: name.map(Into::into),
        grpc,
        filters: Arc::clone(&context.no_filters),
        action: Action::Forward(Vec::new()),
        timeouts: crate::snapshot::Timeouts::default(),
        retry: None,
        session: None,
        balance: crate::snapshot::Balance::default(),
        policy: None,
    }
}
