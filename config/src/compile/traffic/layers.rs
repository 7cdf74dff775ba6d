//! Which BackendTrafficPolicy holds where several are about the same traffic: of a listener, its set, its Gateway, and what
//! is merged over which. Each of them is told of it in its status (`Merged`, `Overridden`), as Envoy Gateway does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::HashMap;

use super::super::context::Context;
use super::super::gateways::GatewayState;
use super::super::policies::{Status, route_parents};
use super::super::rule_policies::AtListener;
use super::super::scopes::{Scope, add_note, listed, listeners_of, scopes};
use super::{Attached, Parents, Traffic};
use crate::gateway::ParentReference;
use crate::inputs::Meta;
use crate::names::Kind;
use crate::problem::Severity;
use crate::report::Condition;

/// Names by the place of a policy and the ancestor under which they are told.
type Named = BTreeMap<(usize, ParentReference), BTreeSet<String>>;

/// The policies that hold, by what they are about.
pub(super) struct Layers<'l, 'a> {
    context: &'l Context<'a>,
    parents: &'l Parents<'a>,
    pub gateways: &'l [GatewayState<'a>],
    /// Of Gateways, ListenerSets and their listeners.
    wide: &'l [Attached],
    of_routes: &'l [Attached],
    by_scope: HashMap<&'l Scope, &'l Attached>,
}

impl<'l, 'a> Layers<'l, 'a> {
    pub fn new(
        (context, parents): (&'l Context<'a>, &'l Parents<'a>),
        gateways: &'l [GatewayState<'a>],
        wide: &'l [Attached],
        of_routes: &'l [Attached],
    ) -> Self {
        let by_scope = wide.iter().chain(of_routes).map(|one| (&one.scope, one)).collect();
        Self { context, parents, gateways, wide, of_routes, by_scope }
    }

    /// The narrowest policy of a listener, if it has any.
    pub fn at(&self, at: AtListener) -> Option<&'l Attached> {
        scopes(self.gateways, at).find_map(|scope| self.by_scope.get(&scope).copied())
    }

    /// Adds to the status of each policy what became of it.
    pub fn tell(&self, statuses: &mut [Status<'_>]) {
        let (mut overridden, mut merged) = (Named::new(), Named::new());
        for one in self.wide {
            for other in self.wide.iter().filter(|other| other.place != one.place) {
                if one.scope.is_around(&other.scope, self.gateways) {
                    self.note(&mut overridden, one, &other.scope);
                }
            }
        }
        for route in self.of_routes {
            self.route(route, (&mut overridden, &mut merged), statuses);
        }
        for (told, by) in &merged {
            let message = format!("merged with those of {}", listed(by));
            add_note(&mut statuses[told.0], &told.1, note("Merged", message));
        }
        for (told, mut by) in overridden {
            // What is merged at one listener of a Gateway may have nothing to do with it at another.
            by.retain(|name| merged.get(&told).is_none_or(|merged| !merged.contains(name)));
            if !by.is_empty() {
                let message = format!("there are policies of their own for {}", listed(&by));
                add_note(&mut statuses[told.0], &told.1, note("Overridden", message));
            }
        }
    }

    /// What a policy of a route or rule does to the wider ones.
    fn route(&self, route: &Attached, (overridden, merged): (&mut Named, &mut Named), statuses: &mut [Status<'_>]) {
        if route.scope.section.is_some() {
            let whole = Scope { object: route.scope.object.clone(), section: None };
            if let Some(one) = self.by_scope.get(&whole).filter(|one| one.place != route.place) {
                self.note(overridden, one, &route.scope);
            }
        }
        for (parent, gateway) in route_parents(self.context, self.parents, &route.scope.object) {
            let mut with: BTreeMap<usize, &Attached> = BTreeMap::new();
            for listener in listeners_of(&self.gateways[gateway], &parent, route.scope.object.kind) {
                let mut is_merged = route.is_merged();
                for scope in scopes(self.gateways, (gateway, listener)) {
                    let Some(one) = self.by_scope.get(&scope) else { continue };
                    if is_merged {
                        with.insert(one.place, one);
                        self.note(merged, one, &route.scope);
                    } else {
                        self.note(overridden, one, &route.scope);
                    }
                    is_merged = false;
                }
            }
            if !with.is_empty() {
                let note = self.merge(route, with.values().copied(), statuses[route.place].meta);
                add_note(&mut statuses[route.place], &parent, note);
            }
        }
    }

    /// Two policies that are valid may contradict each other; the narrower one then holds alone.
    fn merge<'w>(&self, route: &Attached, wider: impl Iterator<Item = &'w Attached>, meta: &Meta) -> Condition {
        let (mut names, mut wrong) = (BTreeSet::new(), None);
        for below in wider {
            let name = below.traffic.spec.as_deref().map(|(_, name)| name.to_string()).unwrap_or_default();
            if let Some(Err(fault)) = Traffic::merged(&route.traffic, &below.traffic) {
                wrong.get_or_insert(format!("not merged with {name}, and holds alone: {}", fault.message));
            }
            names.insert(name);
        }
        match wrong {
            None => note("Merged", format!("merged with {}", listed(&names))),
            Some(message) => {
                self.context.problem(Severity::Error, Kind::BackendTrafficPolicy, meta, message.clone());
                Condition { kind: "Merged", status: false, reason: "Invalid", message }
            }
        }
    }

    fn note(&self, named: &mut Named, one: &Attached, by: &Scope) {
        for (ancestor, _) in one.scope.ancestors(self.context, self.parents, self.gateways) {
            named.entry((one.place, ancestor)).or_default().insert(by.name());
        }
    }
}

fn note(kind: &'static str, message: String) -> Condition {
    Condition { kind, status: true, reason: kind, message }
}

/// Gives every listener what holds there where it is not what its Gateway has.
pub(super) fn settle(gateways: &mut [GatewayState<'_>], found: Vec<(AtListener, Arc<Traffic>)>) {
    for ((gateway, listener), traffic) in found {
        let parameters = Arc::clone(&gateways[gateway].profile.traffic);
        let listener = &mut gateways[gateway].listeners[listener];
        traffic.tell_listener(listener);
        listener.traffic = Some(Arc::new(Traffic::clone(&traffic).over(&parameters)));
    }
}
