//! HTTPRoute: rules, matches, timeouts, retries.

use super::backends::{Backends, Referrer, Upstreams, Use};
use super::context::Fault;
use super::filters::{self, UNSUPPORTED, is_token};
use super::route_filter;
use super::rules::{Draft, Drafts, action, new_rule, session};
use crate::gateway::{
    HeaderMatch, HttpMethod, HttpRouteMatch, HttpRouteRetry, HttpRouteRule, HttpRouteSpec, HttpRouteTimeouts,
    PathMatchType, QueryParamMatch, ValueMatchType,
};
use crate::inputs::Object;
use crate::matching::{FieldMatch, PathMatch, Pattern, QueryMatch, RouteMatch, ValueMatch};
use crate::names::{Kind, ObjectRef};
use crate::snapshot::{Action, Retry, Rule, RuleId, RulePolicy, Timeouts};

/// Tries after the first where `retry` does not say how many.
const ATTEMPTS: u32 = 1;
const BACKOFF: std::time::Duration = std::time::Duration::from_millis(25);

fn unsupported(message: String) -> Fault {
    Fault::new(UNSUPPORTED, message)
}

pub(super) fn draft<'a>(
    backends: &Backends<'_, 'a>,
    referrer: Referrer<'_>,
    object: &Object<HttpRouteSpec>,
    upstreams: &mut Upstreams,
) -> Drafts {
    let route = ObjectRef::new(Kind::HTTPRoute, object.meta.key.clone());
    let mut drafts = Drafts { total: object.spec.rules.len(), ..Drafts::default() };
    for (index, spec) in object.spec.rules.iter().enumerate() {
        // Without usable matches there is nothing to refuse: the rule is dropped.
        let references = spec.filters.iter().map(|filter| filter.extension_ref.as_ref());
        let own = match matches(spec) {
            Ok(matches) => matches,
            Err(fault) => {
                drafts.dropped.push((index, fault));
                continue;
            }
        };
        let (matches, spoiled) = route_filter::matches(backends.context, referrer.namespace, references, own);
        let referrer = referrer.of_rule(spec.name.as_deref());
        let mut rule = new_rule(backends.context, &route, index, spec.name.as_deref(), false);
        let filled = fill(&mut rule, backends, referrer, spec, &mut drafts.refs_fault, upstreams);
        if let Some(fault) = filled.err().or(spoiled) {
            // What such a rule was to guard must not fall to a wider rule: its requests are refused.
            rule.action = Action::Refuse { status: 500, reason: fault.message.as_str().into() };
            drafts.dropped.push((index, fault));
        }
        drafts.rules.push(Draft { rule, matches });
    }
    drafts
}

fn fill<'a>(
    rule: &mut Rule,
    backends: &Backends<'_, 'a>,
    referrer: Referrer<'_>,
    spec: &HttpRouteRule,
    refs_fault: &mut Option<Fault>,
    upstreams: &mut Upstreams,
) -> Result<(), Fault> {
    let only_prefixes = spec.matches.iter().all(|entry| entry.path.kind == PathMatchType::PathPrefix);
    let mut built = {
        let rule = (&rule.route, rule.index as usize);
        filters::http(backends, referrer, &spec.filters, (Some(rule), only_prefixes), upstreams)?
    };
    let mut resolved = Vec::with_capacity(spec.backend_refs.len());
    for reference in &spec.backend_refs {
        let own = if reference.filters.is_empty() {
            filters::Built::default()
        } else {
            filters::http(backends, referrer, &reference.filters, (None, only_prefixes), upstreams)?
        };
        if own.redirect.is_some() {
            return Err(unsupported("filter RequestRedirect is not supported on a backendRef".to_owned()));
        }
        if own.direct.is_some() {
            return Err(unsupported("a directResponse is not supported on a backendRef".to_owned()));
        }
        if own.security.is_some() {
            return Err(unsupported("an AuthenticationFilter belongs to a rule, not to a backendRef".to_owned()));
        }
        for fault in [own.refs_fault, own.unresolved.clone()].into_iter().flatten() {
            refs_fault.get_or_insert(fault);
        }
        let mut target = backends.resolve(referrer, reference.into(), Use::Http, upstreams);
        if let Some(fault) = own.unresolved {
            target.target = crate::snapshot::Target::Invalid { status: 500, reason: fault.message.into() };
        }
        resolved.push((reference.weight, target, backends.context.share(own.filters)));
    }
    rule.timeouts = timeouts(spec.timeouts.as_ref());
    rule.retry = spec.retry.as_deref().map(retry).transpose()?.map(Box::new);
    rule.session = session(spec.session_persistence.as_deref(), &rule.route, rule.index as usize)?;
    rule.policy = RulePolicy { security: built.security.take(), ..RulePolicy::default() }.or_none();
    rule.action = action(&mut built, resolved, refs_fault, false);
    rule.filters = backends.context.share(built.filters);
    Ok(())
}

/// "0s" disables a timeout (GEP-2257, HTTPRouteTimeouts).
fn timeouts(spec: Option<&HttpRouteTimeouts>) -> Timeouts {
    let limit = |timeout: Option<crate::wire::GepDuration>| timeout.map(|t| t.0).filter(|t| !t.is_zero());
    spec.map_or_else(Timeouts::default, |spec| Timeouts {
        request: limit(spec.request),
        backend_request: limit(spec.backend_request),
        streams: spec.request.is_some_and(|timeout| timeout.0.is_zero()),
        waits: None,
    })
}

fn retry(spec: &HttpRouteRetry) -> Result<Retry, Fault> {
    if let Some(code) = spec.codes.iter().find(|code| !(400..=599).contains(*code)) {
        return Err(unsupported(format!("retry code {code} is not between 400 and 599")));
    }
    let mut codes = spec.codes.clone();
    codes.sort_unstable();
    codes.dedup();
    let attempts = spec.attempts.unwrap_or(ATTEMPTS);
    Ok(Retry::new(codes, attempts, spec.backoff.map_or(BACKOFF, |backoff| backoff.0)))
}

fn matches(spec: &HttpRouteRule) -> Result<Vec<RouteMatch>, Fault> {
    if spec.matches.is_empty() {
        return Ok(vec![RouteMatch::new(PathMatch::prefix("/"), RuleId(0), 0)]);
    }
    (0u32..).zip(&spec.matches).map(|(index, entry)| one_match(entry, index)).collect()
}

fn one_match(entry: &HttpRouteMatch, index: u32) -> Result<RouteMatch, Fault> {
    let value = entry.path.value.as_str();
    let path = match &entry.path.kind {
        PathMatchType::Exact => PathMatch::exact(value),
        PathMatchType::PathPrefix => PathMatch::prefix(value),
        PathMatchType::RegularExpression => PathMatch::Regex(pattern(value, "path")?),
        PathMatchType::Other(other) => return Err(unsupported(format!("path match type {other:?} is not supported"))),
    };
    let mut matched = RouteMatch::new(path, RuleId(0), index);
    match &entry.method {
        None => {}
        Some(HttpMethod::Other(method)) if !is_token(method) => {
            return Err(unsupported(format!("method {method:?} is no method")));
        }
        Some(HttpMethod::Other(method)) => return Err(unsupported(format!("method {method:?} is not supported"))),
        Some(method) => matched.method = Some(method.as_str().into()),
    }
    if !entry.headers.is_empty() {
        matched = matched.with_headers(headers(&entry.headers)?);
    }
    if !entry.query_params.is_empty() {
        matched = matched.with_query(entry.query_params.iter().map(query).collect::<Result<_, _>>()?);
    }
    Ok(matched)
}

/// Header matches, also GRPCRoute's.
pub(super) fn headers(headers: &[HeaderMatch]) -> Result<Vec<FieldMatch>, Fault> {
    let one = |header: &HeaderMatch| {
        if !is_token(&header.name) {
            return Err(unsupported(format!("{:?} is no header name", header.name)));
        }
        Ok(FieldMatch::new(&header.name, value(&header.kind, &header.value, "header")?))
    };
    headers.iter().map(one).collect()
}

fn query(parameter: &QueryParamMatch) -> Result<QueryMatch, Fault> {
    let value = value(&parameter.kind, &parameter.value, "query parameter")?;
    Ok(QueryMatch { name: parameter.name.as_str().into(), value })
}

fn value(kind: &ValueMatchType, value: &str, what: &str) -> Result<ValueMatch, Fault> {
    match kind {
        ValueMatchType::Exact => Ok(ValueMatch::Exact(value.into())),
        ValueMatchType::RegularExpression => Ok(ValueMatch::Regex(pattern(value, what)?)),
        ValueMatchType::Other(other) => Err(unsupported(format!("{what} match type {other:?} is not supported"))),
    }
}

pub(super) fn pattern(text: &str, what: &str) -> Result<Pattern, Fault> {
    Pattern::parse(text).map_err(|error| unsupported(format!("{what} {text:?} {error}")))
}
