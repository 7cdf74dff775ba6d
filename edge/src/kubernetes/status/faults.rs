//! Which faults in a status are new, so that users are told of them once. Pure.

use edge_config::names::Kind;
use serde_json::{Map, Value};

/// Something about an object that its owner must see.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fault {
    /// The reason of the condition.
    pub reason: String,
    /// Where, and the condition's message.
    pub note: String,
    /// Nothing is wrong: something optional was not given.
    pub is_notice: bool,
}

/// The faults that are in the changed members of a status and were not in it before. A fault that merely waits
/// (`Pending`) is none.
pub fn new_faults(kind: Kind, before: &Value, changed: &Map<String, Value>, controllers: &[String]) -> Vec<Fault> {
    let mut found = Vec::new();
    let whole = |name: &str| changed.get(name).unwrap_or(&Value::Null);
    match kind {
        Kind::GatewayClass | Kind::Gateway | Kind::ListenerSet | Kind::Backend => {
            add(&mut found, "", &before["conditions"], whole("conditions"));
            for listener in list(whole("listeners")) {
                let name = listener["name"].as_str().unwrap_or_default();
                let known = list(&before["listeners"]).iter().find(|known| known["name"] == listener["name"]);
                let known = known.map_or(&Value::Null, |known| &known["conditions"]);
                add(&mut found, &format!("listener {name}: "), known, &listener["conditions"]);
            }
        }
        _ => {
            for (member, reference) in [("parents", "parentRef"), ("ancestors", "ancestorRef")] {
                for entry in list(whole(member)) {
                    if !controllers.iter().any(|ours| entry["controllerName"] == ours.as_str()) {
                        continue;
                    }
                    let is_same = |known: &&Value| {
                        known["controllerName"] == entry["controllerName"] && known[reference] == entry[reference]
                    };
                    let known = list(&before[member]).iter().find(is_same);
                    let known = known.map_or(&Value::Null, |known| &known["conditions"]);
                    let parent = &entry[reference];
                    let name = parent["name"].as_str().unwrap_or_default();
                    let section = parent["sectionName"].as_str().map(|name| format!(" {name}")).unwrap_or_default();
                    let kind = parent["kind"].as_str().unwrap_or("Gateway");
                    add(&mut found, &format!("{kind} {name}{section}: "), known, &entry["conditions"]);
                }
            }
        }
    }
    // Several parents most often say the same.
    let mut told: Vec<Fault> = Vec::new();
    for fault in found {
        if !told.contains(&fault) {
            told.push(fault);
        }
    }
    told
}

/// The first fault of a set of conditions, in the order in which one explains the other.
fn add(found: &mut Vec<Fault>, place: &str, before: &Value, now: &Value) {
    const ORDER: [(&str, &str); 6] = [
        ("Conflicted", "True"),
        ("Accepted", "False"),
        ("ResolvedRefs", "False"),
        ("Programmed", "False"),
        ("PartiallyInvalid", "True"),
        ("CertificateReady", "False"),
    ];
    let of = |conditions: &Value, kind: &str, bad: &str| {
        let all = list(conditions).iter();
        // A whole that merely sums its listeners up says nothing new.
        let is_told = |one: &&Value| {
            !["Pending", "Issuing", "ListenersNotResolved", "ListenersNotValid"]
                .iter()
                .any(|reason| one["reason"] == *reason)
        };
        all.filter(|one| one["type"] == kind && one["status"] == bad).find(is_told).cloned()
    };
    let Some((kind, bad, fault)) = ORDER.iter().find_map(|(kind, bad)| Some((*kind, *bad, of(now, kind, bad)?))) else {
        return;
    };
    let known = of(before, kind, bad);
    if known.is_some_and(|known| known["reason"] == fault["reason"] && known["message"] == fault["message"]) {
        return;
    }
    let text = |name: &str| fault[name].as_str().unwrap_or_default().to_owned();
    found.push(Fault {
        reason: text("reason"),
        note: format!("{place}{kind} is {bad}: {}", text("message")),
        is_notice: false,
    });
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_told() {
        let condition = |kind: &str, status: &str, reason: &str| json!({"type": kind, "status": status, "reason": reason, "message": "why"});
        let bad = condition("ResolvedRefs", "False", "InvalidCertificateRef");
        let listener = |conditions: Vec<Value>| json!({"name": "https", "conditions": conditions});
        let entry = |controller: &str, conditions: Vec<Value>| json!({"controllerName": controller, "parentRef": {"kind": "Gateway", "name": "gw"}, "conditions": conditions});
        let cases: [(&str, Kind, Value, Value, &[&str]); 8] = [
            (
                "a listener",
                Kind::Gateway,
                json!({}),
                json!({"listeners": [listener(vec![bad.clone(), condition("Programmed", "False", "Invalid")])]}),
                &["InvalidCertificateRef listener https: ResolvedRefs is False: why"],
            ),
            (
                "known",
                Kind::Gateway,
                json!({"listeners": [listener(vec![bad.clone()])]}),
                json!({"listeners": [listener(vec![bad.clone()])]}),
                &[],
            ),
            (
                "waiting",
                Kind::Gateway,
                json!({}),
                json!({"conditions": [condition("Programmed", "False", "Pending")]}),
                &[],
            ),
            (
                "a sum of listeners",
                Kind::Gateway,
                json!({}),
                json!({"conditions": [condition("ResolvedRefs", "False", "ListenersNotResolved")]}),
                &[],
            ),
            (
                "another reason",
                Kind::Gateway,
                json!({"conditions": [condition("Programmed", "False", "AddressNotAssigned")]}),
                json!({"conditions": [condition("Programmed", "False", "AddressNotUsable")]}),
                &["AddressNotUsable Programmed is False: why"],
            ),
            (
                "two parents, one told",
                Kind::HTTPRoute,
                json!({}),
                json!({"parents": [entry("ours/x", vec![bad.clone()]), entry("ours/x", vec![bad.clone()])]}),
                &["InvalidCertificateRef Gateway gw: ResolvedRefs is False: why"],
            ),
            (
                "an entry of others",
                Kind::HTTPRoute,
                json!({}),
                json!({"parents": [entry("theirs/x", vec![bad.clone()])]}),
                &[],
            ),
            (
                "all is well",
                Kind::HTTPRoute,
                json!({"parents": [entry("ours/x", vec![bad.clone()])]}),
                json!({"parents": [entry("ours/x", vec![condition("ResolvedRefs", "True", "ResolvedRefs")])]}),
                &[],
            ),
        ];
        for (name, kind, before, changed, expected) in cases {
            let changed = changed.as_object().unwrap();
            let told = new_faults(kind, &before, changed, &["ours/x".to_owned()]);
            let told: Vec<String> = told.iter().map(|fault| format!("{} {}", fault.reason, fault.note)).collect();
            assert_eq!(told, expected, "{name}");
        }
    }
}
