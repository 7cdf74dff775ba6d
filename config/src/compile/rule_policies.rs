//! What policies say of the rules of one route, gathered from whatever kinds say it: a part that is said of a rule by its
//! name goes before the same part of the whole route, and that before the listener's. What a filter of the rule says of
//! who may pass goes over all of them, step by step: a filter that asks for a password opens nothing else.

use std::sync::Arc;

use crate::policy::{RulePolicy, Security};
use crate::snapshot::Rule;

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct RouteRules {
    pub whole: RulePolicy,
    /// By the name of the rule.
    pub sections: Vec<(Box<str>, RulePolicy)>,
    /// What is said at single listeners, where a policy is merged over the listener's: by the name of the rule, then by
    /// the places of Gateway and listener. Goes before the same part above.
    pub merged: Vec<(Option<Box<str>>, AtListener, RulePolicy)>,
}

/// The places of a Gateway and of one of its listeners.
pub(super) type AtListener = (usize, usize);

impl RouteRules {
    /// The policy for the whole route, or for one of its rules.
    pub fn entry(&mut self, section: Option<&str>) -> &mut RulePolicy {
        let Some(section) = section else { return &mut self.whole };
        let place = self.sections.iter().position(|(name, _)| **name == *section);
        let place = place.unwrap_or_else(|| {
            self.sections.push((section.into(), RulePolicy::default()));
            self.sections.len() - 1
        });
        &mut self.sections[place].1
    }

    /// What is said of a rule at a listener, the narrowest first.
    fn layers<'r>(&'r self, name: Option<&str>, at: AtListener) -> impl Iterator<Item = &'r RulePolicy> + use<'r> {
        let merged = |of: Option<&str>| {
            let found = self.merged.iter().find(|(section, place, _)| section.as_deref() == of && *place == at);
            found.map(|(_, _, policy)| policy)
        };
        let section = self.sections.iter().find(|(section, _)| Some(&**section) == name).map(|(_, policy)| policy);
        let of_rule = name.and_then(|name| merged(Some(name)));
        [of_rule, section, merged(None), Some(&self.whole)].into_iter().flatten()
    }
}

/// The policy of a rule at a listener, of which it already has what its filters say; `None` as well where all is said by
/// the listener's own policy.
pub(super) fn policy_at(
    rule: &Rule,
    rules: Option<&RouteRules>,
    listener: Option<&RulePolicy>,
    at: AtListener,
) -> Option<Arc<RulePolicy>> {
    let own = rule.policy.as_deref();
    if own.is_none() && rules.is_none() {
        return None;
    }
    let mut found = RulePolicy::default();
    for layer in rules.iter().flat_map(|rules| rules.layers(rule.name.as_deref(), at)) {
        found.security = found.security.or_else(|| layer.security.clone());
        found.protection = found.protection.or_else(|| layer.protection.clone());
        found.responses = found.responses.or_else(|| layer.responses.clone());
    }
    if let Some(own) = own {
        found.protection = own.protection.clone().or(found.protection);
        found.responses = own.responses.clone().or(found.responses);
        if let Some(filter) = &own.security {
            let wider = found.security.or_else(|| listener.and_then(|listener| listener.security.clone()));
            found.security = Some(match wider {
                Some(wider) => Arc::new(filter.over(&wider)),
                None => Arc::<Security>::clone(filter),
            });
        }
    }
    found.or_none()
}

/// The same of the only rule of a stream route: who may connect.
pub(super) fn security_at<'p>(
    name: Option<&str>,
    rules: Option<&'p RouteRules>,
    listener: Option<&'p RulePolicy>,
    at: AtListener,
) -> Option<&'p Security> {
    let own = rules.and_then(|rules| rules.layers(name, at).find_map(|layer| layer.security.as_deref()));
    own.or_else(|| listener.and_then(|listener| listener.security.as_deref()))
}
