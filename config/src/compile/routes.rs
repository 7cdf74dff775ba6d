//! HTTPRoutes and GRPCRoutes: each is judged to an [`Outcome`], and outcomes go into listeners, rules and reports.
//!
//! An outcome follows from its route, from what [`memo`](super::memo) compares (Gateways, policies, grants, …), and from
//! the numbers that its first rule and its upstreams get. So one that was found before may be taken again.

use std::sync::Arc;

use super::attach::{Attachment, Parents, Route};
use super::backends::{Backends, Referrer, Upstreams};
use super::context::{Context, Fault};
use super::filters::UNSUPPORTED;
use super::gateways::{GatewayState, Profile};
use super::memo::Memo;
use super::policies::RoutePolicies;
use super::rule_policies::{RouteRules, policy_at};
use super::rules::{Draft, Drafts, hosts, report};
use super::traffic::RouteTraffic;
use super::{routes_grpc, routes_http};
use crate::gateway::{GrpcRouteSpec, HttpRouteSpec, ParentReference};
use crate::inputs::{Created, Meta, Object};
use crate::matching::RouteMatch;
use crate::names::{Kind, ObjectKey, ObjectRef};
use crate::policy::Waits;
use crate::problem::Problem;
use crate::report::{Condition, ObjectReport};
use crate::snapshot::{Rule, RuleId, RulePolicy, UpstreamId};

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
    let profiles = Profiles::of(gateways);
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
    // Thousands of times are compared many times: they are kept beside the routes.
    let mut routes: Vec<(Option<Created>, usize, &ObjectKey, L7<'a>)> =
        routes.enumerate().map(|(place, (key, l7))| (l7.meta().created, place, key, l7)).collect();
    routes.sort_by(|(one, place, key, a), (other, other_place, other_key, b)| {
        let names = || match a.kind() == b.kind() {
            true => place.cmp(other_place),
            false => key.cmp(other_key).then_with(|| a.kind().cmp(&b.kind())),
        };
        one.cmp(other).then_with(names)
    });
    routes.into_iter().map(|(_, place, key, l7)| (place, key, l7)).collect()
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
                if listener.collects_hosts {
                    listener.route_hosts.extend(attachment.hosts.iter().cloned());
                }
            }
        }
    }

    /// Numbers rules whose matches hold at these attachments. A rule of which policies say something else at another
    /// listener is another rule there.
    fn add(&mut self, alike: &[u32], gateways: &[GatewayState<'_>], policies: Option<&RouteRules>, drafts: Vec<Draft>) {
        let attachments = Arc::clone(&self.attachments);
        let attachments = || alike.iter().filter_map(|place| Some((*place, attachments.get(*place as usize)?)));
        let mut rules = std::mem::take(&mut self.rules).into_vec();
        let mut entries = std::mem::take(&mut self.entries).into_vec();
        let mut places = std::mem::take(&mut self.places).into_vec();
        for draft in drafts {
            let policy_of = |attachment: &Attachment| {
                let at = (attachment.gateway, attachment.listener);
                let listener = gateways[at.0].listeners[at.1].policy.as_deref();
                policy_at(&draft.rule, policies, listener, at)
            };
            // Nearly always one variant.
            let mut variants: Vec<(Option<Arc<RulePolicy>>, RuleId, Vec<u32>)> = Vec::with_capacity(1);
            for (place, attachment) in attachments() {
                let policy = policy_of(attachment);
                if let Some((_, _, places)) = variants.iter_mut().find(|(known, _, _)| *known == policy) {
                    places.push(place);
                    continue;
                }
                let number = u32::try_from(rules.len()).unwrap_or(u32::MAX);
                rules.push(Arc::new(Rule { policy: policy.clone(), ..draft.rule.clone() }));
                variants.push((policy, RuleId(self.first.saturating_add(number)), vec![place]));
            }
            for entry in draft.matches {
                for (_, id, of_variant) in &variants {
                    let number = u32::try_from(entries.len()).unwrap_or(u32::MAX);
                    entries.push(Arc::new(RouteMatch { rule: *id, ..entry.clone() }));
                    places.extend(of_variant.iter().map(|place| (number, *place)));
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
    profiles: &'j Profiles,
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
        let annotated = super::protection::annotated(context, l7.kind(), l7.meta());
        let own = self.policies.traffic.get(object);
        let rules = self.policies.rules.get(object);
        let waits = self.policies.waits.get(object);
        let mut status = None;
        for Alike { profile, gateways: members, places } in self.profiles.groups(&outcome.attachments) {
            let mut drafts = draft(self.backends, l7, profile, &members, (own, waits), upstreams);
            let inherited = [annotated.as_ref(), self.policies.protections.of(object), profile.protection.as_ref()];
            for protection in inherited.into_iter().flatten() {
                drafts.rules.iter_mut().for_each(|draft| super::protection::add(&mut draft.rule, protection));
            }
            if drafts.dropped.len() < drafts.total {
                outcome.add(&places, gateways, rules, drafts.rules);
            }
            status = Some((drafts.refs_fault, drafts.dropped, drafts.total));
        }
        let has_rules = status.is_some();
        let (refs_fault, dropped, total) = status.unwrap_or_else(|| {
            // Backends of a route that is attached nowhere are judged all the same, and then forgotten.
            let mut scratch = Upstreams::default();
            let drafts = draft(self.backends, l7, &Profile::default(), &[], (own, waits), &mut scratch);
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

/// What is added to rules at each listener.
struct Profiles {
    list: Vec<Profile>,
    /// By Gateway: the place of its own profile, and those of its listeners where they differ.
    of: Vec<(usize, Vec<(usize, usize)>)>,
}

/// Attachments of a route at which the same is added to its rules.
struct Alike<'p> {
    profile: &'p Profile,
    gateways: Vec<usize>,
    places: Vec<u32>,
}

impl Profiles {
    fn of(gateways: &[GatewayState<'_>]) -> Self {
        let mut profiles = Self { list: Vec::with_capacity(gateways.len()), of: Vec::with_capacity(gateways.len()) };
        for gateway in gateways {
            let whole = profiles.place(gateway.profile.clone());
            let narrower = gateway.listeners.iter().enumerate().filter(|(_, listener)| listener.traffic.is_some());
            let narrower = narrower.map(|(place, _)| (place, profiles.place(gateway.profile_at(place)))).collect();
            profiles.of.push((whole, narrower));
        }
        profiles
    }

    fn place(&mut self, profile: Profile) -> usize {
        let known = self.list.iter().position(|known| *known == profile);
        known.unwrap_or_else(|| {
            self.list.push(profile);
            self.list.len() - 1
        })
    }

    fn at(&self, attachment: &Attachment) -> usize {
        let (whole, narrower) = &self.of[attachment.gateway];
        let own = narrower.iter().find(|(listener, _)| *listener == attachment.listener);
        own.map_or(*whole, |(_, profile)| *profile)
    }

    /// Nearly always one group.
    fn groups(&self, attachments: &[Attachment]) -> Vec<Alike<'_>> {
        let mut groups: Vec<(usize, Alike<'_>)> = Vec::new();
        for (place, attachment) in (0..).zip(attachments) {
            let profile = self.at(attachment);
            let known = groups.iter().position(|(known, _)| *known == profile);
            let known = known.unwrap_or_else(|| {
                let profile_itself = &self.list[profile];
                groups.push((profile, Alike { profile: profile_itself, gateways: Vec::new(), places: Vec::new() }));
                groups.len() - 1
            });
            let (_, group) = &mut groups[known];
            group.places.push(place);
            if !group.gateways.contains(&attachment.gateway) {
                group.gateways.push(attachment.gateway);
            }
        }
        groups.into_iter().map(|(_, group)| group).collect()
    }
}

fn draft<'a>(
    backends: &Backends<'_, 'a>,
    l7: L7<'a>,
    profile: &Profile,
    gateways: &[usize],
    (own, waits): (Option<&RouteTraffic>, Option<&Arc<Waits>>),
    upstreams: &mut Upstreams,
) -> Drafts {
    let meta = l7.meta();
    let found = RouteTraffic::under(own, &profile.traffic);
    let (traffic, sections) = (found.whole.as_deref().unwrap_or(&profile.traffic), &*found.sections);
    let referrer = Referrer { kind: l7.kind(), namespace: &meta.key.namespace, gateways, profile, traffic, sections };
    let mut drafts = match l7 {
        L7::Http(route) => routes_http::draft(backends, referrer, route, upstreams),
        L7::Grpc(route) => routes_grpc::draft(backends, referrer, route, upstreams),
    };
    for draft in &mut drafts.rules {
        let traffic = referrer.of_rule(draft.rule.name.as_deref()).traffic;
        traffic.apply(&mut draft.rule, &profile.traffic);
        if let Some(waits) = waits {
            let known = &mut draft.rule.timeouts.waits;
            *known = match known.as_deref() {
                Some(known) => waits.over(known).or_none(),
                None => Some(Arc::clone(waits)),
            };
        }
    }
    drafts
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
