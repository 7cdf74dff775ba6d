//! GRPCRoute: rules and matches.

use super::backends::{Backends, Referrer, Upstreams, Use};
use super::context::Fault;
use super::filters::{self, UNSUPPORTED};
use super::route_filter;
use super::routes_http::{headers, pattern};
use super::rules::{Draft, Drafts, action, new_rule, session};
use crate::gateway::{GrpcMethodMatch, GrpcRouteMatch, GrpcRouteRule, GrpcRouteSpec, ValueMatchType};
use crate::inputs::Object;
use crate::matching::{PathMatch, RouteMatch};
use crate::names::{Kind, ObjectRef};
use crate::snapshot::{Action, Rule, RuleId, RulePolicy, Target};

pub(super) fn draft<'a>(
    backends: &Backends<'_, 'a>,
    referrer: Referrer<'_>,
    object: &Object<GrpcRouteSpec>,
    upstreams: &mut Upstreams,
) -> Drafts {
    let route = ObjectRef::new(Kind::GRPCRoute, object.meta.key.clone());
    let mut drafts = Drafts { total: object.spec.rules.len(), ..Drafts::default() };
    for (index, spec) in object.spec.rules.iter().enumerate() {
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
        let mut rule = new_rule(backends.context, &route, index, spec.name.as_deref(), true);
        let filled = fill(&mut rule, backends, referrer, spec, &mut drafts.refs_fault, upstreams);
        if let Some(fault) = filled.err().or(spoiled) {
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
    spec: &GrpcRouteRule,
    refs_fault: &mut Option<Fault>,
    upstreams: &mut Upstreams,
) -> Result<(), Fault> {
    let mut built = filters::grpc(backends, referrer, &spec.filters, upstreams)?;
    let mut resolved = Vec::with_capacity(spec.backend_refs.len());
    for reference in &spec.backend_refs {
        let own = filters::grpc(backends, referrer, &reference.filters, upstreams)?;
        if own.direct.is_some() {
            return Err(Fault::new(UNSUPPORTED, "a directResponse is not supported on a backendRef"));
        }
        if own.security.is_some() {
            return Err(Fault::new(UNSUPPORTED, "an AuthenticationFilter belongs to a rule, not to a backendRef"));
        }
        for fault in [own.refs_fault, own.unresolved.clone()].into_iter().flatten() {
            refs_fault.get_or_insert(fault);
        }
        let mut target = backends.resolve(referrer, reference.into(), Use::Grpc, upstreams);
        if let Some(fault) = own.unresolved {
            target.target = Target::Invalid { status: 500, reason: fault.message.into() };
        }
        resolved.push((reference.weight, target, backends.context.share(own.filters)));
    }
    rule.session = session(spec.session_persistence.as_deref(), &rule.route, rule.index as usize)?;
    rule.policy = RulePolicy { security: built.security.take(), ..RulePolicy::default() }.or_none();
    rule.action = action(&mut built, resolved, refs_fault, true);
    rule.filters = backends.context.share(built.filters);
    Ok(())
}

fn matches(spec: &GrpcRouteRule) -> Result<Vec<RouteMatch>, Fault> {
    if spec.matches.is_empty() {
        return Ok(vec![RouteMatch::new(PathMatch::grpc(None, None), RuleId(0), 0)]);
    }
    (0u32..).zip(&spec.matches).map(|(index, entry)| one_match(entry, index)).collect()
}

fn one_match(entry: &GrpcRouteMatch, index: u32) -> Result<RouteMatch, Fault> {
    let path = match &entry.method {
        None => PathMatch::grpc(None, None),
        Some(method) => call(method)?,
    };
    Ok(RouteMatch::new(path, RuleId(0), index).with_headers(headers(&entry.headers)?))
}

fn call(method: &GrpcMethodMatch) -> Result<PathMatch, Fault> {
    let text = |text: &Option<String>| text.as_deref().filter(|text| !text.is_empty()).map(str::to_owned);
    let (service, name) = (text(&method.service), text(&method.method));
    match &method.kind {
        ValueMatchType::Exact => Ok(PathMatch::grpc(service.as_deref(), name.as_deref())),
        ValueMatchType::RegularExpression => Ok(PathMatch::GrpcRegex {
            service: service.map(|text| pattern(&text, "gRPC service")).transpose()?,
            method: name.map(|text| pattern(&text, "gRPC method")).transpose()?,
        }),
        ValueMatchType::Other(other) => {
            Err(Fault::new(UNSUPPORTED, format!("gRPC method match type {other:?} is not supported")))
        }
    }
}
