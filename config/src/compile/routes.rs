//! HTTPRoutes and GRPCRoutes: each is judged to an [`Outcome`], and outcomes go into listeners, rules and reports.
//!
//! An outcome follows from its route, from what [`memo`](super::memo) compares (Gateways, policies, grants, …), and from
//! the numbers that its first rule and its upstreams get. So one that was found before may be taken again.

use std::sync::Arc;

use super::attach::{Attachment, Parents, Route};
use super::backends::{Backends, Referrer, Upstreams};
use super::context::{Context, Fault, by_age};
use super::filters::UNSUPPORTED;
use super::gateways::{GatewayState, Profile};
use super::memo::Memo;
use super::policies::{RoutePolicies, Traffic};
use super::rules::{Draft, Drafts, hosts, report};
use super::{routes_grpc, routes_http};
use crate::gateway::{GrpcRouteSpec, HttpRouteSpec, ParentReference};
use crate::inputs::{Meta, Object};
use crate::matching::RouteMatch;
use crate::names::{HostPattern, Kind, ObjectKey, ObjectRef};
use crate::problem::Problem;
use crate::report::{Condition, ObjectReport};
use crate::snapshot::{Action, Rule, RuleId, UpstreamId};

/// What became of one route.
#[derive(Clone)]
pub(super) struct Outcome {
    attachments: Arc<[Attachment]>,
    /// Whether it counts among the routes of its listeners.
    is_attached: bool,
    pub rules: Box<[Arc<Rule>]>,
    /// The number of the first rule.
    first: u32,
    entries: Box<[Arc<RouteMatch>]>,
    /// Which entry holds at which attachment.
    places: Box<[(u32, u32)]>,
    /// Absent where no parent is ours.
    report: Option<Arc<ObjectReport>>,
    pub problems: Box<[Problem]>,
    /// What its rules lead to.
    pub upstreams: Box<[UpstreamId]>,
}

#[derive(Clone, Copy)]
pub(super) enum L7<'a> {
    Http(&'a Object<HttpRouteSpec>),
    Grpc(&'a Object<GrpcRouteSpec>),
}

impl<'a> L7<'a> {
    pub fn meta(self) -> &'a Meta {
        match self {
            Self::Http(route) => &route.meta,
            Self::Grpc(route) => &route.meta,
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Http(_) => Kind::HTTPRoute,
            Self::Grpc(_) => Kind::GRPCRoute,
        }
    }

    fn parents(self) -> &'a [ParentReference] {
        match self {
            Self::Http(route) => &route.spec.parent_refs,
            Self::Grpc(route) => &route.spec.parent_refs,
        }
    }

    fn hostnames(self) -> &'a [String] {
        match self {
            Self::Http(route) => &route.spec.hostnames,
            Self::Grpc(route) => &route.spec.hostnames,
        }
    }
}

/// What routes bring to a snapshot.
#[derive(Default)]
pub(super) struct Routes {
    pub rules: Vec<Arc<Rule>>,
    pub reports: Vec<(ObjectRef, Arc<ObjectReport>)>,
    /// The outcomes that may be taken again.
    pub outcomes: Vec<(ObjectRef, Arc<Outcome>)>,
}

/// Attaches every HTTPRoute and GRPCRoute and returns the rules, numbered by precedence among equal matches: oldest
/// route first, then by namespace and name. HTTP and gRPC routes may share a host.
pub(super) fn routes<'a>(
    backends: &Backends<'_, 'a>,
    gateways: &mut [GatewayState<'a>],
    policies: &RoutePolicies,
    upstreams: &mut Upstreams,
    memo: Option<&Memo>,
) -> Routes {
    let context = backends.context;
    let inputs = context.inputs;
    let http = inputs.http_routes.iter().map(|(key, route)| (key, L7::Http(route)));
    let routes = by_precedence(http.chain(inputs.grpc_routes.iter().map(|(key, route)| (key, L7::Grpc(route)))));
    let parents = Parents::new(gateways);
    let profiles: Vec<Profile> = gateways.iter().map(|gateway| gateway.profile.clone()).collect();
    let mut recall = memo.and_then(|memo| memo.recall(inputs, gateways, policies));
    let judge = Judge { backends, parents: &parents, profiles: &profiles, policies };
    let mut found = Routes {
        rules: Vec::with_capacity(routes.len()),
        reports: Vec::new(),
        outcomes: Vec::with_capacity(routes.len()),
    };
    // In the order of their names, which saves the report a sort.
    let mut reports = vec![None; routes.len()];
    for (place, key, l7) in routes {
        // The key of the map is the one that was there before, so that names are compared by their place in memory.
        let object = ObjectRef::new(l7.kind(), key.clone());
        let first = u32::try_from(found.rules.len()).unwrap_or(u32::MAX);
        let known = recall.as_mut().and_then(|recall| recall.outcome(&object, upstreams));
        let (outcome, is_lasting) = match known {
            Some(outcome) => {
                context.repeat_problems(&outcome.problems);
                (numbered(outcome, first), true)
            }
            None => {
                let (outcome, is_lasting) = judge.outcome(l7, &object, gateways, first, upstreams);
                (Arc::new(outcome), is_lasting)
            }
        };
        outcome.install(gateways, &mut found.rules);
        reports[place] = outcome.report.as_ref().map(|report| (object.clone(), Arc::clone(report)));
        if is_lasting {
            found.outcomes.push((object, outcome));
        }
    }
    found.reports = reports.into_iter().flatten().collect();
    found
}

/// The routes, which come in the order of kind and name, in the order in which they are judged, each with its place in the
/// order that they came in.
fn by_precedence<'a>(routes: impl Iterator<Item = (&'a ObjectKey, L7<'a>)>) -> Vec<(usize, &'a ObjectKey, L7<'a>)> {
    let mut routes: Vec<(Option<Stamp>, usize, &ObjectKey, L7<'a>)> =
        routes.enumerate().map(|(place, (key, l7))| (Stamp::of(l7.meta()), place, key, l7)).collect();
    if routes.iter().all(|(stamp, ..)| stamp.is_some()) {
        routes.sort_by(|(one, place, key, a), (other, other_place, other_key, b)| {
            let names = || match a.kind() == b.kind() {
                true => place.cmp(other_place),
                false => key.cmp(other_key).then_with(|| a.kind().cmp(&b.kind())),
            };
            one.cmp(other).then_with(names)
        });
    } else {
        routes.sort_by(|(.., a), (.., b)| by_age(a.meta(), b.meta()).then_with(|| a.kind().cmp(&b.kind())));
    }
    routes.into_iter().map(|(_, place, key, l7)| (place, key, l7)).collect()
}

/// A time of creation, in the order of its text: thousands of them are compared many times.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Stamp(u128, u64);

impl Stamp {
    /// `None` for a text that is longer than such times are.
    fn of(meta: &Meta) -> Option<Self> {
        let mut bytes = [0_u8; 24];
        // Without a time is before any time; of two texts that begin alike the shorter is first.
        if let Some(text) = &meta.created {
            bytes[0] = 1;
            bytes.get_mut(1..=text.len()).filter(|room| room.len() < 23)?.copy_from_slice(text.as_bytes());
            bytes[23] = u8::try_from(text.len()).ok()?;
        }
        let mut halves = (0_u128, 0_u64);
        bytes[..16].iter().for_each(|byte| halves.0 = halves.0 << 8 | u128::from(*byte));
        bytes[16..].iter().for_each(|byte| halves.1 = halves.1 << 8 | u64::from(*byte));
        Some(Self(halves.0, halves.1))
    }
}

/// The same outcome with its rules numbered from `first`.
fn numbered(outcome: &Arc<Outcome>, first: u32) -> Arc<Outcome> {
    if outcome.first == first || outcome.rules.is_empty() {
        return Arc::clone(outcome);
    }
    let moved = |entry: &Arc<RouteMatch>| {
        let rule = RuleId(first.saturating_add(entry.rule.0.saturating_sub(outcome.first)));
        Arc::new(RouteMatch { rule, ..RouteMatch::clone(entry) })
    };
    Arc::new(Outcome { first, entries: outcome.entries.iter().map(moved).collect(), ..Outcome::clone(outcome) })
}

impl Outcome {
    fn install(&self, gateways: &mut [GatewayState<'_>], rules: &mut Vec<Arc<Rule>>) {
        rules.extend(self.rules.iter().cloned());
        for (entry, place) in &self.places {
            let (Some(entry), Some(attachment)) =
                (self.entries.get(*entry as usize), self.attachments.get(*place as usize))
            else {
                continue;
            };
            let listener = &mut gateways[attachment.gateway].listeners[attachment.listener];
            let hosts = attachment.hosts.iter();
            listener.routes.matches.extend(hosts.map(|host| (host.clone(), Arc::clone(entry))));
        }
        if self.is_attached {
            for attachment in &*self.attachments {
                let listener = &mut gateways[attachment.gateway].listeners[attachment.listener];
                listener.attached += 1;
                if listener.terminate.is_some() && listener.hostname == HostPattern::Any {
                    listener.route_hosts.extend(attachment.hosts.iter().cloned());
                }
            }
        }
    }

    /// Numbers rules and finds the listeners of these Gateways at which their matches hold.
    fn add(&mut self, members: &[usize], gateways: &[GatewayState<'_>], drafts: Vec<Draft>) {
        let attachments = Arc::clone(&self.attachments);
        let attachments =
            || (0u32..).zip(&*attachments).filter(|(_, attachment)| members.contains(&attachment.gateway));
        let guard_of = |attachment: &Attachment| &gateways[attachment.gateway].listeners[attachment.listener].guard;
        let mut rules = std::mem::take(&mut self.rules).into_vec();
        let mut entries = std::mem::take(&mut self.entries).into_vec();
        let mut places = std::mem::take(&mut self.places).into_vec();
        for draft in drafts {
            // Nearly always one variant: the listeners without a guard.
            let mut variants: Vec<(Option<Arc<str>>, RuleId)> = Vec::with_capacity(1);
            for (_, attachment) in attachments() {
                let guard = guard_of(attachment);
                if variants.iter().all(|(known, _)| known != guard) {
                    let number = u32::try_from(rules.len()).unwrap_or(u32::MAX);
                    rules.push(Arc::new(guarded(draft.rule.clone(), guard.as_ref())));
                    variants.push((guard.clone(), RuleId(self.first.saturating_add(number))));
                }
            }
            for entry in draft.matches {
                for (guard, id) in &variants {
                    let number = u32::try_from(entries.len()).unwrap_or(u32::MAX);
                    entries.push(Arc::new(RouteMatch { rule: *id, ..entry.clone() }));
                    let same = attachments().filter(|(_, attachment)| guard_of(attachment) == guard);
                    places.extend(same.map(|(place, _)| (number, place)));
                }
            }
        }
        (self.rules, self.entries, self.places) = (rules.into(), entries.into(), places.into());
    }
}

/// What judging a route needs.
struct Judge<'j, 'c, 'a> {
    backends: &'j Backends<'c, 'a>,
    parents: &'j Parents<'a>,
    profiles: &'j [Profile],
    policies: &'j RoutePolicies,
}

impl<'a> Judge<'_, '_, 'a> {
    /// The outcome, and whether it depends on nothing but what is compared before it is taken again.
    fn outcome(
        &self,
        l7: L7<'a>,
        object: &ObjectRef,
        gateways: &[GatewayState<'a>],
        first: u32,
        upstreams: &mut Upstreams,
    ) -> (Outcome, bool) {
        let context: &Context<'_> = self.backends.context;
        let problems = context.problem_count();
        upstreams.trail = super::backends::Trail::default();
        let hosts = hosts(context, l7.kind(), l7.meta(), l7.hostnames());
        let route = Route { kind: l7.kind(), meta: l7.meta(), parents: l7.parents(), hosts };
        let (outcomes, attachments) = self.parents.attach(context, gateways, &route);
        let mut outcome = Outcome {
            attachments: attachments.into(),
            is_attached: false,
            rules: Box::default(),
            first,
            entries: Box::default(),
            places: Box::default(),
            report: None,
            problems: Box::default(),
            upstreams: Box::default(),
        };
        if outcomes.is_empty() {
            outcome.problems = context.problems_since(problems);
            return (outcome, false);
        }
        let own = self.policies.traffic.get(object).copied();
        let guard = self.policies.guards.get(object);
        let mut status = None;
        for (profile, members) in by_profile(&outcome.attachments, self.profiles) {
            let drafts = draft(self.backends, l7, &self.profiles[profile], &members, own, upstreams);
            if drafts.dropped.len() < drafts.total {
                let guarded = drafts.rules.into_iter().map(|draft| Draft { rule: guarded(draft.rule, guard), ..draft });
                outcome.add(&members, gateways, guarded.collect());
            }
            status = Some((drafts.refs_fault, drafts.dropped, drafts.total));
        }
        let has_rules = status.is_some();
        let (refs_fault, dropped, total) = status.unwrap_or_else(|| {
            // Backends of a route that is attached nowhere are judged all the same, and then forgotten.
            let mut scratch = Upstreams::default();
            let drafts = draft(self.backends, l7, &Profile::default(), &[], own, &mut scratch);
            (drafts.refs_fault, drafts.dropped, drafts.total)
        });
        let invalid = dropped.len() == total && !dropped.is_empty();
        outcome.is_attached = !invalid;
        let refused = dropped.first().filter(|_| invalid).map(|(_, fault)| fault);
        let partly = (!dropped.is_empty() && !invalid).then(|| partially_invalid(&dropped));
        let report = report(context, gateways, &route, outcomes, refused, refs_fault.as_ref(), partly.as_ref());
        outcome.report = Some(Arc::new(report));
        outcome.problems = context.problems_since(problems);
        let trail = std::mem::take(&mut upstreams.trail);
        outcome.upstreams = trail.used.into();
        (outcome, has_rules && !trail.is_branched)
    }
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
    l7: L7<'a>,
    profile: &Profile,
    gateways: &[usize],
    own: Option<Traffic>,
    upstreams: &mut Upstreams,
) -> Drafts {
    let meta = l7.meta();
    // A policy of the route replaces one of its Gateway wholly.
    let traffic = own.unwrap_or(Traffic::of(profile));
    let proxy_protocol = traffic.proxy_protocol;
    let referrer = Referrer { kind: l7.kind(), namespace: &meta.key.namespace, gateways, profile, proxy_protocol };
    let mut drafts = match l7 {
        L7::Http(route) => routes_http::draft(backends, referrer, route, upstreams),
        L7::Grpc(route) => routes_grpc::draft(backends, referrer, route, upstreams),
    };
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

/// A rule whose protection is missing answers 500 instead of doing its work without it.
fn guarded(mut rule: Rule, guard: Option<&Arc<str>>) -> Rule {
    if let Some(reason) = guard {
        rule.action = Action::Refuse { status: if rule.grpc { 503 } else { 500 }, reason: Arc::clone(reason) };
        rule.filters = Arc::default();
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
