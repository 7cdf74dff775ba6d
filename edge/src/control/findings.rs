//! Everything that is wrong with a configuration, in one list: what sources found in texts, what compile found in
//! objects, and the conditions that speak against an object, at the place where the object is written.

use std::collections::BTreeSet;

use edge_config::names::{Kind, ObjectRef};
use edge_config::problem::{Problem, Severity};
use edge_config::report::{Condition, ObjectReport};

use super::status::{is_fault, is_route, parent_text, says};
use super::world::Scene;

/// In the order of place, then of severity and text; what two of them would say is said once.
pub fn findings(scene: Scene<'_>, sources: &[Problem]) -> Vec<Problem> {
    let mut all: Vec<Problem> = sources.iter().chain(&scene.report.problems).cloned().collect();
    let told: BTreeSet<(ObjectRef, String)> =
        all.iter().filter_map(|problem| Some((problem.object.clone()?, problem.message.clone()))).collect();
    let tells = |object: &ObjectRef, text: &str| {
        let key = (object.clone(), text.to_owned());
        told.contains(&key)
    };
    let served = scene.snapshot.listeners.iter().map(|listener| (&listener.parent, &*listener.name)).collect();
    for (object, report) in &scene.report.objects {
        for (severity, place, text) in faults(&served, object, report) {
            if !tells(object, &text) {
                let origin = scene.inputs.meta(object).map(|meta| meta.origin.clone());
                let message = if place.is_empty() { text } else { format!("{place}: {text}") };
                all.push(Problem { severity, origin, object: Some(object.clone()), message });
            }
        }
    }
    all.sort_by(|a, b| {
        (&a.origin, a.severity, &a.object, &a.message).cmp(&(&b.origin, b.severity, &b.object, &b.message))
    });
    all.dedup();
    all
}

/// `served` holds the listeners of the snapshot.
fn faults(
    served: &BTreeSet<(&ObjectRef, &str)>,
    object: &ObjectRef,
    report: &ObjectReport,
) -> Vec<(Severity, String, String)> {
    let mut faults = Vec::new();
    let own: Vec<&Condition> = report.conditions.iter().filter(|condition| is_fault(condition)).collect();
    // Listeners say themselves what makes their Gateway say that something of them is not valid.
    let by_listeners = report.listeners.iter().any(|listener| listener.conditions.iter().any(is_fault));
    for condition in own {
        if !(by_listeners && is_summary(condition)) {
            faults.push((severity(condition, true), String::new(), says(condition)));
        }
    }
    for listener in &report.listeners {
        let serves = served.contains(&(object, &*listener.name));
        let place = format!("listener {}", listener.name);
        let mut texts = BTreeSet::new();
        // Programmed only repeats what another condition explains.
        let (repeats, causes): (Vec<_>, Vec<_>) =
            listener.conditions.iter().filter(|one| is_fault(one)).partition(|one| one.kind == "Programmed");
        for condition in if causes.is_empty() { repeats } else { causes } {
            let text = says(condition);
            if texts.insert(text.clone()) {
                faults.push((severity(condition, !serves), place.clone(), text));
            }
        }
    }
    let mut texts = BTreeSet::new();
    for parent in &report.parents {
        for condition in parent.conditions.iter().filter(|condition| is_fault(condition)) {
            let text = says(condition);
            // Backends are the same for every parent; acceptance is a matter of each.
            let place = match condition.kind {
                "Accepted" if is_route(object.kind) => format!("parent {}", parent_text(&parent.parent, object)),
                _ => String::new(),
            };
            if texts.insert((place.clone(), text.clone())) {
                faults.push((severity(condition, true), place, text));
            }
        }
    }
    // An issuer that this version cannot use is replaced by one that it can, and certificates say so themselves.
    if matches!(object.kind, Kind::Issuer | Kind::ClusterIssuer | Kind::Certificate) {
        faults.iter_mut().for_each(|(severity, _, _)| *severity = Severity::Warning);
    }
    faults
}

/// What a Gateway says of all its listeners at once.
fn is_summary(condition: &Condition) -> bool {
    matches!(condition.reason, "ListenersNotValid" | "ListenersNotResolved")
}

/// A reference that does not resolve costs what it names; where the listener serves all the same, it is a warning.
fn severity(condition: &Condition, costs: bool) -> Severity {
    if matches!(condition.kind, "ResolvedRefs" | "Programmed") && !costs { Severity::Warning } else { Severity::Error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixture::world;

    #[test]
    fn conditions_are_findings_at_the_place_of_the_object() {
        let world = world();
        let lines: Vec<String> = findings(world.scene(), &[]).iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "Gateway edge/private: pool private has no free address",
                "Gateway edge/public: listener doubled: hostname shop.example is also claimed by listener shop",
                "shop.yaml:1:1: HTTPRoute shop/canary: Service shop/gone does not exist",
                "shop.yaml:1:1: HTTPRoute shop/lost: parent edge/public: no hostname of it falls under a listener of \
                 Gateway edge/public",
                "shop.yaml:7:5: warning: HTTPRoute shop/canary: backend shop/gone:80 does not exist",
            ]
        );
    }
}
