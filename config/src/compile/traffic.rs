//! BackendTrafficPolicy: which one holds for a rule, what it comes to, and its status.
//!
//! A policy of a rule (`sectionName`) goes before one of its route, that before one of the listener, of the ListenerSet, and
//! of the Gateway; each replaces the wider one wholly, or is merged over the next wider one at the listener where
//! `mergeType` says so. Of two for one target the older has it. A policy that cannot be honoured is not in effect; fields
//! that are not acted on are named in its status.

mod idle;
mod layers;
mod protection;
mod responses;
mod shared;
mod values;

pub(super) use self::responses::text_match;
pub(super) use protection::digest;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};

use self::layers::Layers;
use super::attach::Parents;
use super::context::{Context, Fault};
use super::gateways::GatewayState;
use super::listeners::ListenerState;
use super::policies::{Status, conflicted, elsewhere, invalid, oldest_first, targets};
use super::rule_policies::AtListener;
use super::scopes::Scope;
use crate::envoy::BackendTrafficPolicySpec;
use crate::inputs::{Inputs, Object};
use crate::names::{Kind, ObjectKey, ObjectRef};
use crate::policy::{Balance, Protection, Responses, RulePolicy, UpstreamPolicy, Waits};
use crate::problem::Severity;
use crate::report::{Condition, ObjectReport};
use crate::snapshot::{ProxyVersion, Retry, Rule};

/// What is said of the way to endpoints. `None` leaves it to who comes next, and at last to edge.toml.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub balance: Option<Balance>,
    /// The balance is said of the route or rule itself, so it goes before one of the Service.
    pub balance_is_own: bool,
    pub request_timeout: Option<Duration>,
    /// Without a byte of a request or its answer; zero is no limit.
    pub stream_idle: Option<Duration>,
    pub proxy_protocol: Option<ProxyVersion>,
    pub upstream: Option<Arc<UpstreamPolicy>>,
    pub retry: Option<Retry>,
    /// Of each try.
    pub try_timeout: Option<Duration>,
    /// What answers look like.
    pub responses: Option<Arc<Responses>>,
    pub protection: Option<Arc<Protection>>,
    /// What it was made of, for policies that are merged over it.
    pub spec: Option<Arc<(BackendTrafficPolicySpec, ObjectRef)>>,
}

impl Traffic {
    /// `merged`: what the policy itself said, and the one that it was merged over.
    pub(super) fn of(
        spec: &BackendTrafficPolicySpec,
        policy: &ObjectRef,
        merged: Option<(&BackendTrafficPolicySpec, &ObjectRef)>,
    ) -> Result<Self, Fault> {
        let mut traffic = values::traffic(spec).map_err(invalid)?;
        traffic.protection = protection::protection(spec, policy, merged).map_err(invalid)?;
        traffic.spec = Some(Arc::new((spec.clone(), policy.clone())));
        Ok(traffic)
    }

    /// The policy of a Gateway over its parameters.
    fn over(mut self, parameters: &Self) -> Self {
        self.balance = self.balance.or_else(|| parameters.balance.clone());
        self.request_timeout = self.request_timeout.or(parameters.request_timeout);
        self.stream_idle = self.stream_idle.or(parameters.stream_idle);
        self.proxy_protocol = self.proxy_protocol.or(parameters.proxy_protocol);
        self
    }

    /// With the bodies that it refers to.
    fn resolved(context: &Context<'_>, policy: &Object<BackendTrafficPolicySpec>) -> Result<Self, Fault> {
        let spec = responses::resolved(context, &policy.meta.key.namespace, &policy.spec).map_err(invalid)?;
        Self::of(&spec, &ObjectRef::new(Kind::BackendTrafficPolicy, policy.meta.key.clone()), None)
    }

    /// One that asks to be merged, over the next wider one; `None` where it does not ask, or there is none.
    fn merged(said: &Self, below: &Self) -> Option<Result<Self, Fault>> {
        let (above, below) = (said.spec.as_deref()?, below.spec.as_deref()?);
        above.0.merge_type.as_ref()?;
        let spec = match above.0.over(&below.0) {
            Ok(spec) => spec,
            Err(why) => return Some(Err(invalid(why))),
        };
        Some(Self::of(&spec, &above.1, Some((&above.0, &below.1))))
    }

    /// What answers to requests without a route look like, which are the listener's own.
    fn tell_listener(&self, listener: &mut ListenerState<'_>) {
        let Some(responses) = &self.responses else { return };
        let mut policy = listener.policy.as_deref().cloned().unwrap_or_default();
        policy.responses.get_or_insert_with(|| Arc::clone(responses));
        listener.policy = policy.or_none();
    }

    /// What a route says of its own rules goes before all of it. `gateway` is what holds where a route has nothing.
    pub fn apply(&self, rule: &mut Rule, gateway: &Self) {
        // Where this replaces the Gateway's, nothing of that is left, which its listeners have too.
        let replaced = || gateway.responses.is_some().then(Arc::default);
        if let Some(responses) = self.responses.clone().or_else(replaced) {
            let policy = rule.policy.as_deref().cloned().unwrap_or_default();
            rule.policy = RulePolicy { responses: policy.responses.or(Some(responses)), ..policy }.or_none();
        }
        rule.balance = self.balance.clone().unwrap_or_default();
        let timeouts = &mut rule.timeouts;
        if let (None, false, Some(timeout)) = (timeouts.request, timeouts.streams, self.request_timeout) {
            timeouts.request = Some(timeout).filter(|timeout| !timeout.is_zero());
            timeouts.streams = timeout.is_zero();
        }
        if let Some(idle) = self.stream_idle {
            timeouts.waits = Waits { stream: Some(idle), ..Waits::default() }.or_none();
        }
        if rule.retry.is_none()
            && let Some(retry) = self.retry.as_ref().filter(|retry| retry.attempts > 0)
        {
            rule.retry = Some(Box::new(retry.clone()));
            timeouts.backend_request = timeouts.backend_request.or(self.try_timeout);
        }
        if let Some(protection) = &self.protection {
            super::protection::add(rule, protection);
        }
    }
}

/// What policies say of one route and of its rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RouteTraffic {
    /// `None`: as its Gateway has it.
    pub whole: Option<Arc<Traffic>>,
    /// By the name of the rule.
    pub sections: Vec<(Box<str>, Arc<Traffic>)>,
}

impl RouteTraffic {
    /// The policies of a route, where they are to be merged with what holds at a listener.
    pub fn under(own: Option<&Self>, listener: &Traffic) -> Self {
        let Some(own) = own else { return Self::default() };
        let merged = |traffic: &Arc<Traffic>| match Traffic::merged(traffic, listener) {
            Some(Ok(mut found)) => {
                found.balance_is_own = traffic.balance_is_own;
                Arc::new(found)
            }
            // Two that contradict each other: the narrower one holds alone, as its status says.
            Some(Err(_)) | None => Arc::clone(traffic),
        };
        Self {
            whole: own.whole.as_ref().map(merged),
            sections: own.sections.iter().map(|(name, traffic)| (name.clone(), merged(traffic))).collect(),
        }
    }
}

/// What a BackendTrafficPolicy may be about.
const TARGETS: [Kind; 7] = [
    Kind::Gateway,
    Kind::ListenerSet,
    Kind::HTTPRoute,
    Kind::GRPCRoute,
    Kind::TLSRoute,
    Kind::TCPRoute,
    Kind::UDPRoute,
];

/// A policy that holds for one of its targets.
struct Attached {
    scope: Scope,
    traffic: Arc<Traffic>,
    /// Of its status.
    place: usize,
}

impl Attached {
    fn is_merged(&self) -> bool {
        self.traffic.spec.as_ref().is_some_and(|said| said.0.merge_type.is_some())
    }
}

/// Judges every policy. Those of Gateways go into their profiles, those of sets and listeners to the listeners.
pub(super) fn backend_traffic(
    context: &Context<'_>,
    gateways: &mut [GatewayState<'_>],
    out: &mut Vec<(ObjectRef, ObjectReport)>,
) -> BTreeMap<ObjectRef, RouteTraffic> {
    if context.inputs.backend_traffic_policies.is_empty() {
        return BTreeMap::new();
    }
    let parents = Parents::new(gateways);
    let mut judge =
        Judge { context, parents: &parents, gateways, taken: HashMap::new(), wide: Vec::new(), of_routes: Vec::new() };
    let mut statuses: Vec<Status<'_>> = Vec::new();
    for policy in oldest_first(&context.inputs.backend_traffic_policies) {
        let status = judge.policy(policy, statuses.len());
        statuses.push(status);
    }
    let Judge { wide, of_routes, .. } = judge;
    let layers = Layers::new((context, &parents), gateways, &wide, &of_routes);
    layers.tell(&mut statuses);
    let of_listeners = of_listeners(&layers);
    layers::settle(gateways, of_listeners);
    for one in wide.iter().filter(|one| one.scope.object.kind == Kind::Gateway && one.scope.section.is_none()) {
        if let Some(gateway) = gateways.iter_mut().find(|gateway| *gateway.key() == one.scope.object.key) {
            gateway.profile.traffic = Arc::new(Traffic::clone(&one.traffic).over(&gateway.profile.traffic));
            let inherits = |listener: &&mut ListenerState<'_>| listener.traffic.is_none();
            gateway.listeners.iter_mut().filter(inherits).for_each(|listener| one.traffic.tell_listener(listener));
        }
    }
    for status in statuses {
        status.finish(context, out);
    }
    routes(of_routes)
}

/// The listeners at which something else holds than what their Gateway has.
fn of_listeners(layers: &Layers<'_, '_>) -> Vec<(AtListener, Arc<Traffic>)> {
    let all = layers.gateways.iter().enumerate();
    let all = all.flat_map(|(gateway, state)| (0..state.listeners.len()).map(move |listener| (gateway, listener)));
    let narrower = |one: &&Attached| one.scope.section.is_some() || one.scope.object.kind == Kind::ListenerSet;
    all.filter_map(|at| Some((at, Arc::clone(&layers.at(at).filter(narrower)?.traffic)))).collect()
}

fn routes(attached: Vec<Attached>) -> BTreeMap<ObjectRef, RouteTraffic> {
    let mut routes: BTreeMap<ObjectRef, RouteTraffic> = BTreeMap::new();
    for Attached { scope: Scope { object, section }, traffic, .. } in attached {
        let own = Arc::new(Traffic { balance_is_own: traffic.balance.is_some(), ..(*traffic).clone() });
        let of_route = routes.entry(object).or_default();
        match section {
            Some(section) => of_route.sections.push((section, own)),
            None => of_route.whole = Some(own),
        }
    }
    routes
}

struct Judge<'j, 'a> {
    context: &'j Context<'a>,
    parents: &'j Parents<'a>,
    gateways: &'j [GatewayState<'a>],
    taken: HashMap<Scope, ObjectKey>,
    wide: Vec<Attached>,
    of_routes: Vec<Attached>,
}

impl<'a> Judge<'_, 'a> {
    fn policy(&mut self, policy: &'a Object<BackendTrafficPolicySpec>, place: usize) -> Status<'a> {
        let context = self.context;
        let mut status = Status::new(Kind::BackendTrafficPolicy, &policy.meta);
        status.notes.extend(deprecated(&policy.spec.deprecated()));
        let mut judged = Traffic::resolved(context, policy).map(Arc::new);
        let targets = targets(context, &policy.meta, policy.spec.targets(), &policy.spec.target_selectors);
        let is_wide = |kind: Option<Kind>| matches!(kind, Some(Kind::Gateway | Kind::ListenerSet));
        if policy.spec.merge_type.is_some() && targets.iter().any(|one| is_wide(Kind::of(&one.group, &one.kind))) {
            judged = Err(invalid("mergeType: belongs to policies of routes only".to_owned()));
        }
        for target in &targets {
            let refused =
                |message: String| context.problem(Severity::Error, Kind::BackendTrafficPolicy, &policy.meta, message);
            let kind = Kind::of(&target.group, &target.kind).filter(|kind| TARGETS.contains(kind));
            let Some(kind) = kind else {
                refused(format!("targetRefs: {} of group {:?} cannot be a target", target.kind, target.group));
                continue;
            };
            let object = ObjectRef::new(kind, ObjectKey::new(&*policy.meta.key.namespace, target.name.as_str()));
            if context.inputs.meta(&object).is_none() {
                let elsewhere = elsewhere(context, kind, &object.key.name);
                status.not_found(context, target, kind, elsewhere);
                continue;
            }
            let section = target.section_name.as_deref().filter(|name| !name.is_empty()).map(Into::into);
            let scope = Scope { object, section };
            let fault = self.fault(&scope, &policy.meta.key, &judged);
            let without_effect = idle::idle(&policy.spec, kind);
            let unacted = unacted("spec", &[&policy.spec.unacted()[..], &without_effect].concat());
            let of_all = status.notes.len();
            status.notes.extend(unacted);
            if judged.is_ok() {
                status.notes.extend(shared::notes(context, self.parents, self.gateways, &scope, &policy.spec));
            }
            for (parent, gateway) in scope.ancestors(context, self.parents, self.gateways) {
                status.add(context, parent, &self.gateways[gateway].controller, fault.as_ref());
            }
            status.notes.truncate(of_all);
            if let (None, Ok(traffic)) = (fault, &judged) {
                if !without_effect.is_empty() {
                    let message = format!("not acted on for a {kind}: {}", without_effect.join(", "));
                    context.problem(Severity::Warning, Kind::BackendTrafficPolicy, &policy.meta, message);
                }
                let list = if scope.is_wide() { &mut self.wide } else { &mut self.of_routes };
                list.push(Attached { scope, traffic: Arc::clone(traffic), place });
            }
        }
        status
    }

    /// Why a policy does not hold for a target.
    fn fault(&mut self, scope: &Scope, policy: &ObjectKey, judged: &Result<Arc<Traffic>, Fault>) -> Option<Fault> {
        if let Some(fault) = scope.unplaced(self.context.inputs) {
            return Some(fault);
        }
        if let Some(rival) = self.taken.get(scope) {
            return Some(conflicted(rival));
        }
        match judged {
            Ok(_) => {
                self.taken.insert(scope.clone(), policy.clone());
                None
            }
            Err(fault) => Some(fault.clone()),
        }
    }
}

/// Whether a route has a rule of this name.
pub(super) fn has_rule(inputs: &Inputs, object: &ObjectRef, section: &str) -> bool {
    let key = &object.key;
    let stream = |route: Option<&Arc<Object<crate::gateway::L4RouteSpec>>>| {
        route.is_some_and(|route| route.spec.rules.iter().any(|rule| rule.name.as_deref() == Some(section)))
    };
    match object.kind {
        Kind::HTTPRoute => inputs
            .http_routes
            .get(key)
            .is_some_and(|route| route.spec.rules.iter().any(|rule| rule.name.as_deref() == Some(section))),
        Kind::GRPCRoute => inputs
            .grpc_routes
            .get(key)
            .is_some_and(|route| route.spec.rules.iter().any(|rule| rule.name.as_deref() == Some(section))),
        Kind::TLSRoute => inputs
            .tls_routes
            .get(key)
            .is_some_and(|route| route.spec.rules.iter().any(|rule| rule.name.as_deref() == Some(section))),
        Kind::TCPRoute => stream(inputs.tcp_routes.get(key)),
        Kind::UDPRoute => stream(inputs.udp_routes.get(key)),
        _ => false,
    }
}

/// Names the fields that have another name by now: the old and the new one.
pub(super) fn deprecated(fields: &[(&str, &str)]) -> Option<Condition> {
    let fields: Vec<String> = fields.iter().map(|(old, new)| format!("{old} is deprecated, use {new}")).collect();
    let message = fields.join("; ");
    (!fields.is_empty()).then_some(Condition { kind: "Warning", status: true, reason: "DeprecatedField", message })
}

/// Names the fields that are set and not acted on.
pub(super) fn unacted(place: &str, fields: &[&str]) -> Option<Condition> {
    if fields.is_empty() {
        return None;
    }
    let names: Vec<String> = fields.iter().map(|field| format!("{place}.{field}")).collect();
    let message = format!("not acted on by this version: {}", names.join(", "));
    Some(Condition { kind: "Warning", status: true, reason: "UnsupportedField", message })
}
