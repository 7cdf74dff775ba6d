//! SecurityPolicy: which one holds for a rule, what it comes to, and its status.
//!
//! A policy of a rule (`sectionName`) goes before one of its route, that before one of the listener, of the ListenerSet,
//! and of the Gateway; each replaces the wider one wholly, or is merged over the next wider one at the listener where
//! `mergeType` says so. Of two for one target the older has it. A policy that cannot be carried out closes what it is
//! about: requests are answered 500, connections are closed.

mod access;
mod asked;
mod browsers;
mod credentials;
mod ext_auth;
mod make;
pub(super) mod nginx_oidc;
mod oidc;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};

pub(super) use self::asked::named_service;
pub(super) use self::ext_auth::{STATUS as AUTHORIZER_STATUS, TIMEOUT as AUTHORIZER_TIMEOUT};
use self::make::{Made, Maker, http_steps, only_authorization};
use super::attach::Parents;
use super::backends::{Backends, Upstreams};
use super::context::Context;
use super::gateways::GatewayState;
use super::policies::{Status, conflicted, elsewhere, oldest_first, route_parents, targets};
use super::rule_policies::{AtListener, RouteRules};
use super::scopes::{Scope, add_note, listed, listeners_of, scopes};
use super::traffic::{deprecated, unacted};
use crate::envoy::{SecurityPolicySpec, TargetNamespacesFrom, TargetSelector};
use crate::gateway::{ParentReference, PolicyTargetRef};
use crate::inputs::Object;
use crate::manifest;
use crate::names::{Kind, ObjectKey, ObjectRef};
use crate::policy::{RulePolicy, Security};
use crate::problem::Severity;
use crate::report::{Condition, ObjectReport};

const STREAMS: [Kind; 3] = [Kind::TLSRoute, Kind::TCPRoute, Kind::UDPRoute];

/// Judges every policy: those of routes go into `rules`, those of listeners into their policies.
pub(super) fn security<'a>(
    backends: &Backends<'_, 'a>,
    gateways: &mut [GatewayState<'a>],
    rules: &mut BTreeMap<ObjectRef, RouteRules>,
    upstreams: &mut Upstreams,
    out: &mut Vec<(ObjectRef, ObjectReport)>,
) {
    let context: &Context<'_> = backends.context;
    if context.inputs.security_policies.is_empty() {
        return;
    }
    let mut policies = oldest_first(&context.inputs.security_policies);
    // One that cannot be read may be about everything: what others are known to be about is theirs.
    policies.sort_by_key(|policy| policy.spec.unreadable.is_some());
    let mut judge = Judge {
        backends,
        all: (0..gateways.len()).collect(),
        context,
        parents: Parents::new(gateways),
        gateways,
        upstreams,
        policies: &policies,
        made: Vec::with_capacity(policies.len()),
        statuses: Vec::with_capacity(policies.len()),
        taken: HashMap::new(),
        wide: Vec::new(),
        of_routes: Vec::new(),
        overriding: BTreeMap::new(),
    };
    for policy in &policies {
        judge.policy(policy);
    }
    judge.routes(rules);
    judge.tell_overridden();
    let Judge { wide, made, statuses, .. } = judge;
    for (at, place, by_name) in listeners(gateways, &wide) {
        let listener = &mut gateways[at.0].listeners[at.1];
        let mut policy: RulePolicy = listener.policy.as_deref().cloned().unwrap_or_default();
        let security = &made[place].security;
        // What is said of a listener of streams itself must hold there; what is said of its Gateway is of others, too.
        let unfit = by_name && listener.is_stream();
        policy.security = Some(match only_authorization(&policies[place].spec) {
            Err(fault) if unfit => Arc::new(Security::closed(Arc::clone(&security.from), fault.message.into())),
            _ => Arc::clone(security),
        });
        listener.policy = Some(Arc::new(policy));
    }
    for status in statuses {
        status.finish(context, out);
    }
}

struct Judge<'j, 'c, 'a> {
    backends: &'j Backends<'c, 'a>,
    context: &'j Context<'a>,
    parents: Parents<'a>,
    gateways: &'j [GatewayState<'a>],
    /// Their places.
    all: Vec<usize>,
    upstreams: &'j mut Upstreams,
    policies: &'j [&'a Object<SecurityPolicySpec>],
    made: Vec<Made>,
    statuses: Vec<Status<'a>>,
    /// By whom.
    taken: HashMap<Scope, ObjectKey>,
    /// Of Gateways, ListenerSets and their listeners: the place of the policy.
    wide: Vec<(Scope, usize)>,
    /// Route, rule, and the place of the policy.
    of_routes: Vec<(ObjectRef, Option<Box<str>>, usize)>,
    /// What has a policy of its own, by the ancestor and the place of the wider policy.
    overriding: BTreeMap<(usize, ParentReference), BTreeSet<String>>,
}

/// The policy that holds for each listener that has one: its section's, its set's, its Gateway's; and whether it is the
/// listener's own.
fn listeners(gateways: &[GatewayState<'_>], wide: &[(Scope, usize)]) -> Vec<(AtListener, usize, bool)> {
    let mut found = Vec::new();
    for (gateway, state) in gateways.iter().enumerate() {
        for place in 0..state.listeners.len() {
            let at = (gateway, place);
            let policy = |scope: Scope| policy_of(wide, &scope).map(|policy| (at, policy, scope.section.is_some()));
            found.extend(scopes(gateways, at).find_map(policy));
        }
    }
    found
}

fn policy_of(wide: &[(Scope, usize)], scope: &Scope) -> Option<usize> {
    wide.iter().find(|(known, _)| known == scope).map(|(_, policy)| *policy)
}

impl<'a> Judge<'_, '_, 'a> {
    fn policy(&mut self, policy: &'a Object<SecurityPolicySpec>) {
        let context = self.context;
        let place = self.made.len();
        let mut maker = Maker {
            backends: self.backends,
            upstreams: self.upstreams,
            gateways: &self.all,
            policy: &policy.meta,
            home: &policy.meta.key.namespace,
            parent: None,
            warnings: Vec::new(),
        };
        let targets = targets(context, &policy.meta, policy.spec.targets(), &policy.spec.target_selectors);
        let mut made = maker.make(&policy.spec);
        let is_wide = |target: &PolicyTargetRef| {
            matches!(Kind::of(&target.group, &target.kind), Some(Kind::Gateway | Kind::ListenerSet))
        };
        if policy.spec.merge_type.is_some() && targets.iter().any(is_wide) {
            made.close(super::policies::invalid("mergeType: belongs to policies of routes only".to_owned()));
        }
        if let Some(other) = policy.spec.merge_type.as_ref().filter(|merge| !merge.is_known()) {
            let message = format!("mergeType {other} is not known, expected StrategicMerge or JSONMerge");
            made.close(super::policies::invalid(message));
        }
        let reaches_out = |selector: &TargetSelector| {
            selector.namespaces.as_ref().is_some_and(|namespaces| namespaces.from != TargetNamespacesFrom::Same)
        };
        if policy.spec.target_selectors.iter().any(reaches_out) {
            let message =
                "targetSelectors: namespaces is not acted on by this version; what is in others is not protected";
            made.close(super::policies::invalid(message.to_owned()));
        }
        let mut status = Status::new(Kind::SecurityPolicy, &policy.meta);
        status.notes.extend(made.notes.iter().cloned());
        status.notes.extend(deprecated(&policy.spec.deprecated()));
        status.notes.extend(unacted("spec", &manifest::unacted(Kind::SecurityPolicy, &policy.spec)));
        self.made.push(made);
        for target in &targets {
            self.target(policy, target, place, &mut status);
        }
        self.statuses.push(status);
    }

    fn target(
        &mut self,
        policy: &Object<SecurityPolicySpec>,
        target: &PolicyTargetRef,
        place: usize,
        status: &mut Status<'a>,
    ) {
        let context = self.context;
        let kind = Kind::of(&target.group, &target.kind).filter(|kind| SecurityPolicySpec::TARGETS.contains(kind));
        let Some(kind) = kind else {
            let message = format!("targetRefs: {} of group {:?} cannot be a target", target.kind, target.group);
            context.problem(Severity::Error, Kind::SecurityPolicy, &policy.meta, message);
            return;
        };
        let object = ObjectRef::new(kind, ObjectKey::new(&*policy.meta.key.namespace, target.name.as_str()));
        if context.inputs.meta(&object).is_none() {
            let elsewhere = match kind {
                Kind::ListenerSet => {
                    let sets = &context.inputs.listener_sets;
                    sets.keys().find(|key| key.name == object.key.name).map(|key| &*key.namespace)
                }
                Kind::UDPRoute => {
                    let routes = &context.inputs.udp_routes;
                    routes.keys().find(|key| key.name == object.key.name).map(|key| &*key.namespace)
                }
                _ => elsewhere(context, kind, &object.key.name),
            };
            status.not_found(context, target, kind, elsewhere);
            return;
        }
        let section: Option<Box<str>> = target.section_name.as_deref().filter(|name| !name.is_empty()).map(Into::into);
        let scope = Scope { object: object.clone(), section: section.clone() };
        if policy.spec.unreadable.is_some() && self.taken.contains_key(&scope) {
            return;
        }
        let ancestors = self.ancestors(&scope);
        let is_route = !matches!(kind, Kind::Gateway | Kind::ListenerSet);
        let fault = if let Some(fault) = scope.unplaced(context.inputs) {
            Some(fault)
        } else if let Some(rival) = self.taken.get(&scope) {
            Some(conflicted(rival))
        } else {
            self.taken.insert(scope.clone(), policy.meta.key.clone());
            match is_route {
                true => self.of_routes.push((object, section, place)),
                false => self.wide.push((scope.clone(), place)),
            }
            let is_stream = match (is_route, &scope.section) {
                (true, _) => STREAMS.contains(&kind),
                (false, section) => section.is_some() && !self.streams(&scope).is_empty(),
            };
            let unfit = is_stream.then(|| only_authorization(&policy.spec)).and_then(Result::err);
            unfit.or_else(|| self.made[place].fault.clone())
        };
        if fault.is_none() && !is_route && scope.section.is_none() {
            status.notes.extend(beside_http(&self.streams(&scope), &policy.spec));
        }
        for (parent, gateway) in ancestors {
            status.add(context, parent, &self.gateways[gateway].controller, fault.as_ref());
        }
    }

    /// The listeners of streams or datagrams that a policy of a Gateway or ListenerSet is about.
    fn streams(&self, scope: &Scope) -> Vec<&str> {
        let mut found = Vec::new();
        for (gateway, state) in self.gateways.iter().enumerate() {
            for (place, listener) in state.listeners.iter().enumerate().filter(|(_, listener)| listener.is_stream()) {
                if scopes(self.gateways, (gateway, place)).any(|of| of == *scope) {
                    found.push(listener.spec.name.as_str());
                }
            }
        }
        found
    }

    /// Under which names the status of a target is told.
    fn ancestors(&self, scope: &Scope) -> Vec<(ParentReference, usize)> {
        scope.ancestors(self.context, &self.parents, self.gateways)
    }

    /// Puts what is said of routes in its place, merged over what is said of their listeners where they ask for it.
    fn routes(&mut self, rules: &mut BTreeMap<ObjectRef, RouteRules>) {
        let of_routes = std::mem::take(&mut self.of_routes);
        for (object, section, place) in &of_routes {
            let policy = self.policies[*place];
            let is_stream = STREAMS.contains(&object.kind);
            let own = match only_authorization(&policy.spec) {
                Err(fault) if is_stream => {
                    Arc::new(Security::closed(Arc::clone(&self.made[*place].security.from), fault.message.into()))
                }
                _ => Arc::clone(&self.made[*place].security),
            };
            let entry = rules.entry(object.clone()).or_default();
            entry.entry(section.as_deref()).security = Some(own);
            let of_rule = section.as_ref().map(|section| format!("{object} rule {section}"));
            let name = of_rule.clone().unwrap_or_else(|| object.to_string());
            let mut merged: Vec<(usize, Arc<Security>)> = Vec::new();
            for (parent, gateway) in route_parents(self.context, &self.parents, object) {
                let state = &self.gateways[gateway];
                for listener in listeners_of(state, &parent, object.kind) {
                    let at = (gateway, listener);
                    for (step, scope) in scopes(self.gateways, at).enumerate() {
                        let Some(wide) = policy_of(&self.wide, &scope) else { continue };
                        if policy.spec.merge_type.is_none() || step > 0 && self.is_shadowed(at, step) {
                            let ancestor = self.ancestors(&scope).pop();
                            if let Some((ancestor, _)) = ancestor {
                                self.overriding.entry((wide, ancestor)).or_default().insert(name.clone());
                            }
                            continue;
                        }
                        let security = match merged.iter().find(|(known, _)| *known == wide) {
                            Some((_, security)) => Arc::clone(security),
                            None => {
                                let security = self.merge(*place, wide, &parent);
                                merged.push((wide, Arc::clone(&security)));
                                security
                            }
                        };
                        if let Some(entry) = rules.get_mut(object) {
                            let policy = RulePolicy { security: Some(security), ..RulePolicy::default() };
                            entry.merged.push((section.clone(), at, policy));
                        }
                    }
                }
                if let Some(of_rule) = &of_rule {
                    let wide = of_routes.iter().find(|(route, section, _)| route == object && section.is_none());
                    if let Some((_, _, wide)) = wide {
                        let key = (*wide, parent.clone());
                        self.overriding.entry(key).or_default().insert(of_rule.clone());
                    }
                }
            }
        }
    }

    /// Whether a narrower scope of the listener has a policy, too.
    fn is_shadowed(&self, at: AtListener, step: usize) -> bool {
        scopes(self.gateways, at).take(step).any(|scope| policy_of(&self.wide, &scope).is_some())
    }

    /// A policy of a route over one of a listener. Two that are valid may contradict each other: then nobody passes.
    fn merge(&mut self, place: usize, wide: usize, parent: &ParentReference) -> Arc<Security> {
        let (policy, below) = (self.policies[place], self.policies[wide]);
        let Some(spec) = policy.spec.over(&below.spec) else {
            let why = format!("it cannot be merged with SecurityPolicy {}", below.meta.key);
            return Arc::new(Security::closed(Arc::clone(&self.made[place].security.from), why.into()));
        };
        let mut maker = Maker {
            backends: self.backends,
            upstreams: self.upstreams,
            gateways: &self.all,
            policy: &policy.meta,
            home: &policy.meta.key.namespace,
            parent: Some((&policy.spec, &below.meta)),
            warnings: Vec::new(),
        };
        let made = maker.make(&spec);
        let message = format!("merged with SecurityPolicy {}", below.meta.key);
        let note = match &made.fault {
            None => Condition { kind: "Merged", status: true, reason: "Merged", message },
            Some(fault) => {
                let message = format!("{message}: {}", fault.message);
                self.context.problem(Severity::Error, Kind::SecurityPolicy, &policy.meta, message.clone());
                Condition { kind: "Merged", status: false, reason: fault.reason, message }
            }
        };
        add_note(&mut self.statuses[place], parent, note);
        made.security
    }

    fn tell_overridden(&mut self) {
        // Narrower policies of the listeners of a Gateway or set, and of its sets.
        for (scope, place) in &self.wide {
            for (other, _) in self.wide.iter().filter(|(other, narrower)| narrower != place && *other != *scope) {
                if !scope.is_around(other, self.gateways) {
                    continue;
                }
                let name = other.name();
                for (ancestor, _) in self.ancestors(scope) {
                    self.overriding.entry((*place, ancestor)).or_default().insert(name.clone());
                }
            }
        }
        for ((place, ancestor), by) in &self.overriding {
            let message = format!("there are policies of their own for {}", listed(by));
            let note = Condition { kind: "Overridden", status: true, reason: "Overridden", message };
            add_note(&mut self.statuses[*place], ancestor, note);
        }
    }
}

/// What a policy of a Gateway does not do, or does by closing, at its listeners of streams and datagrams.
fn beside_http(streams: &[&str], spec: &SecurityPolicySpec) -> Option<Condition> {
    if streams.is_empty() {
        return None;
    }
    let steps = http_steps(spec);
    let by_address = only_authorization(&SecurityPolicySpec {
        authorization: spec.authorization.clone(),
        ..SecurityPolicySpec::default()
    });
    let what = match (by_address, steps.is_empty()) {
        (Err(fault), _) => format!("{}, so connections are closed", fault.message),
        (Ok(()), false) => format!("of {} nothing applies there", steps.join(", ")),
        (Ok(()), true) => return None,
    };
    let message = format!("not acted on at listeners without HTTP ({}): {what}", streams.join(", "));
    Some(Condition { kind: "Warning", status: true, reason: "UnsupportedField", message })
}
