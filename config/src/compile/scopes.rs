//! What policies of listeners are about: a Gateway, a ListenerSet, or one listener of either. The narrowest one that has a
//! policy decides at a listener, and who is overridden by whom, or merged with whom, is told under the name of each.

use std::collections::BTreeSet;

use super::attach::Parents;
use super::context::{Context, Fault};
use super::gateways::GatewayState;
use super::listeners::ListenerState;
use super::policies::{Status, TARGET_NOT_FOUND, ancestor, route_parents};
use super::rule_policies::AtListener;
use super::traffic::has_rule;
use crate::gateway::ParentReference;
use crate::inputs::Inputs;
use crate::names::{Kind, ObjectRef};
use crate::report::Condition;

/// A target: an object, or a section of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Scope {
    pub object: ObjectRef,
    pub section: Option<Box<str>>,
}

impl Scope {
    /// Whether it is a Gateway, a ListenerSet, or a listener of one.
    pub fn is_wide(&self) -> bool {
        matches!(self.object.kind, Kind::Gateway | Kind::ListenerSet)
    }

    /// As people are told of it.
    pub fn name(&self) -> String {
        match &self.section {
            None => self.object.to_string(),
            Some(section) if self.is_wide() => format!("{} listener {section}", self.object),
            Some(section) => format!("{} rule {section}", self.object),
        }
    }

    /// Whether the section is there.
    pub fn unplaced(&self, inputs: &Inputs) -> Option<Fault> {
        let (object, section) = (&self.object, self.section.as_deref()?);
        let (is_there, what) = match object.kind {
            Kind::Gateway => {
                let gateway = inputs.gateways.get(&object.key);
                (gateway.is_some_and(|gateway| gateway.spec.listeners.iter().any(|l| l.name == section)), "listener")
            }
            Kind::ListenerSet => {
                let set = inputs.listener_sets.get(&object.key);
                (set.is_some_and(|set| set.spec.listeners.iter().any(|l| l.name == section)), "listener")
            }
            _ => (has_rule(inputs, object, section), "rule"),
        };
        (!is_there).then(|| Fault::new(TARGET_NOT_FOUND, format!("targetRefs: {object} has no {what} {section:?}")))
    }

    /// Under which names its status is told; none where no Gateway of ours has to do with it.
    pub fn ancestors(
        &self,
        context: &Context<'_>,
        parents: &Parents<'_>,
        gateways: &[GatewayState<'_>],
    ) -> Vec<(ParentReference, usize)> {
        let (object, section) = (&self.object, self.section.as_deref());
        match object.kind {
            Kind::Gateway => {
                let gateway = gateways.iter().position(|gateway| *gateway.key() == object.key);
                gateway.map(|gateway| (ancestor(&object.key, section), gateway)).into_iter().collect()
            }
            Kind::ListenerSet => {
                let is_of_it = |gateway: &GatewayState<'_>| {
                    gateway.sets.iter().any(|set| set.object.meta.key == object.key && set.fault.is_none())
                };
                let mut parent = ancestor(&object.key, section);
                parent.kind = Kind::ListenerSet.as_str().to_owned();
                gateways.iter().position(is_of_it).map(|gateway| (parent, gateway)).into_iter().collect()
            }
            _ => route_parents(context, parents, object),
        }
    }

    /// Whether a policy of `inner` goes before one of this: of its own listeners, or of a set of this Gateway.
    pub fn is_around(&self, inner: &Self, gateways: &[GatewayState<'_>]) -> bool {
        let is_listener = self.section.is_none() && inner.section.is_some() && inner.object == self.object;
        let is_set = || {
            self.object.kind == Kind::Gateway
                && self.section.is_none()
                && inner.object.kind == Kind::ListenerSet
                && gateways.iter().any(|gateway| {
                    *gateway.key() == self.object.key
                        && gateway.sets.iter().any(|set| set.object.meta.key == inner.object.key)
                })
        };
        is_listener || is_set()
    }
}

/// What a listener belongs to, the narrowest first.
pub(super) fn scopes(
    gateways: &[GatewayState<'_>],
    (gateway, place): AtListener,
) -> impl Iterator<Item = Scope> + use<> {
    let state = &gateways[gateway];
    let listener = &state.listeners[place];
    let section = Some(listener.spec.name.as_str().into());
    let own = listener.parent_ref();
    let whole = listener.set.is_some().then(|| Scope { object: state.reference(), section: None });
    [Scope { object: own.clone(), section }, Scope { object: own, section: None }].into_iter().chain(whole)
}

/// The listeners of a Gateway that a parentRef names, as far as they take routes of a kind.
pub(super) fn listeners_of(
    state: &GatewayState<'_>,
    parent: &ParentReference,
    kind: Kind,
) -> impl Iterator<Item = usize> {
    let wanted = parent.section_name.as_deref().filter(|name| !name.is_empty());
    let is_named = move |listener: &ListenerState<'_>| {
        let of = listener.parent_ref();
        parent.kind == of.kind.as_str()
            && parent.name == *of.key.name
            && wanted.is_none_or(|wanted| wanted == listener.spec.name)
            && parent.port.is_none_or(|port| port == listener.spec.port)
            && listener.kinds.contains(&kind)
    };
    state.listeners.iter().enumerate().filter(move |(_, listener)| is_named(listener)).map(|(place, _)| place)
}

/// A condition beside Accepted, where that is true.
pub(super) fn add_note(status: &mut Status<'_>, ancestor: &ParentReference, note: Condition) {
    let parent = status.parents.iter_mut().find(|parent| *parent.parent == *ancestor);
    if let Some(parent) = parent.filter(|parent| parent.conditions.first().is_some_and(|accepted| accepted.status))
        && !parent.conditions.contains(&note)
    {
        parent.conditions = parent.conditions.iter().cloned().chain([note]).collect();
    }
}

/// The first names, and how many more there are.
pub(super) fn listed(names: &BTreeSet<String>) -> String {
    const SHOWN: usize = 8;
    let mut list: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    let more = format!("and {} more", names.len().saturating_sub(SHOWN));
    if names.len() > SHOWN {
        list.push(&more);
    }
    list.join(", ")
}
