//! How much may pass, as policies that add up say it of Gateways and routes: NGINX Gateway Fabric's are inherited field by
//! field, a route's before its Gateway's. What a BackendTrafficPolicy says has fields of its own (see
//! [`traffic`](super::traffic)) and stands beside it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::context::Context;
use super::gateways::GatewayState;
use crate::inputs::Meta;
use crate::names::{Kind, ObjectRef};
use crate::policy::protection::{Priority, Rates};
use crate::policy::{Protection, RulePolicy};
use crate::problem::Severity;
use crate::snapshot::Rule;

const PRIORITY: &str = "edge.internal/priority";
const PARALLEL: &str = "edge.internal/max-parallel-requests";
const MOST_PARALLEL: u32 = 1_000_000;

/// What is said of routes; what is said of Gateways is in their profiles.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct RouteProtections(BTreeMap<ObjectRef, Arc<Protection>>);

impl RouteProtections {
    pub fn of(&self, route: &ObjectRef) -> Option<&Arc<Protection>> {
        self.0.get(route)
    }

    /// One more policy of a route; older ones have been said before.
    pub fn say(&mut self, route: &ObjectRef, said: &Protection) {
        let known = self.0.get(route).cloned();
        self.0.insert(route.clone(), beside(known.as_ref(), said));
    }
}

/// What no policy of others says, as annotations of a Gateway or of a route:
///
/// | annotation | values |
/// | --- | --- |
/// | `edge.internal/priority` | `low`, `normal`, `high`: what goes first when Edge has nearly too much to do |
/// | `edge.internal/max-parallel-requests` | 1 to 1000000: of each rule, at once |
pub(super) fn annotated(context: &Context<'_>, kind: Kind, meta: &Meta) -> Option<Arc<Protection>> {
    if meta.annotations.is_empty() {
        return None;
    }
    let wrong = |name: &str, value: &str, expected: &str| {
        let message = format!("annotation {name} {value:?}: expected {expected}");
        context.problem(Severity::Error, kind, meta, message);
    };
    let mut said = Protection::default();
    if let Some(value) = meta.annotations.get(PRIORITY) {
        said.priority = match value.as_str() {
            "low" => Some(Priority::Low),
            "normal" => Some(Priority::Normal),
            "high" => Some(Priority::High),
            other => {
                wrong(PRIORITY, other, "low, normal or high");
                None
            }
        };
    }
    if let Some(value) = meta.annotations.get(PARALLEL) {
        said.parallel = value.parse().ok().filter(|most| (1..=MOST_PARALLEL).contains(most));
        if said.parallel.is_none() {
            wrong(PARALLEL, value, "1 to 1000000");
        }
    }
    said.or_none()
}

/// The annotations of Gateways, for what nothing else says of them.
pub(super) fn of_gateways(context: &Context<'_>, gateways: &mut [GatewayState<'_>]) {
    for gateway in gateways {
        if let Some(said) = annotated(context, Kind::Gateway, &gateway.object.meta) {
            let profile = &mut gateway.profile;
            profile.protection = Some(beside(profile.protection.as_ref(), &said));
        }
    }
}

/// A policy beside those for the same target that are older: fields that they have are theirs, rates add up.
pub(super) fn beside(known: Option<&Arc<Protection>>, said: &Protection) -> Arc<Protection> {
    let Some(known) = known else { return Arc::new(said.clone()) };
    let mut all = known.under(said);
    if let (Some(known), Some(said)) = (&known.zones, &said.zones) {
        all.zones = Some(Arc::new(Rates {
            list: known.list.iter().chain(&said.list).cloned().collect(),
            dry_run: known.dry_run.or(said.dry_run),
            status: known.status.or(said.status),
            log: known.log.or(said.log),
        }));
    }
    Arc::new(all)
}

/// Adds what is said more widely to what a rule has already.
pub(super) fn add(rule: &mut Rule, wider: &Arc<Protection>) {
    let known = rule.policy.as_ref().and_then(|policy| policy.protection.as_ref());
    let merged = match known {
        Some(known) if Arc::ptr_eq(known, wider) => return,
        Some(known) => Arc::new(known.under(wider)),
        None => Arc::clone(wider),
    };
    let rest = rule.policy.as_deref().cloned().unwrap_or_default();
    rule.policy = Some(Arc::new(RulePolicy { protection: Some(merged), ..rest }));
}
