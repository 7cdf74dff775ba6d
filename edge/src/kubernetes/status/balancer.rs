//! What is written to a Service of type LoadBalancer: its addresses, and beside them two annotations, the pool they are
//! of and the addresses once more. Pure.
//!
//! The second one is how Edge knows later which addresses in a status are its own: what it did not write it never takes
//! away from a Service that is not its own. Both go into one patch of the status subresource, which keeps metadata for
//! Services, so that no right to change a Service itself is needed.
//!
//! Standards: Kubernetes v1 LoadBalancerStatus, MetalLB's annotation of the pool.

use edge_config::report::ObjectReport;
use serde_json::{Map, Value, json};

use super::faults::Fault;
use crate::kubernetes::mirror::{OWN_ANNOTATIONS, Seen};

/// The members of a Service to write.
#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    pub status: Map<String, Value>,
    /// `null`: to be taken away.
    pub annotations: Map<String, Value>,
}

/// What must change so that a Service says what is wanted, if anything must. Without a wanted status it is not ours, and
/// nothing that we wrote may stay.
pub fn changes(seen: &Seen, status: &Value, wanted: Option<(&Value, &ObjectReport)>) -> Option<Changes> {
    let none = Value::Array(Vec::new());
    let shown = status["loadBalancer"].get("ingress").unwrap_or(&none);
    let (ingress, pool) = match wanted {
        Some((wanted, report)) => {
            let pool = report.load_balancer.as_ref().and_then(|balancer| balancer.pool.as_deref());
            (wanted["loadBalancer"].get("ingress").unwrap_or(&none), pool)
        }
        // Not ours, and never was, as far as anybody can tell.
        None if seen.annotations[1].is_none() => return None,
        None => (&none, None),
    };
    let addresses = addresses(ingress);
    let is_ours =
        wanted.is_some() || is_empty(shown) || seen.annotations[1].as_deref() == Some(&*self::addresses(shown));
    let mut changes = Changes::default();
    if is_ours && !(is_empty(shown) && is_empty(ingress)) && !covers(shown, ingress) {
        let ingress = if is_empty(ingress) { Value::Null } else { ingress.clone() };
        changes.status.insert("loadBalancer".to_owned(), json!({ "ingress": ingress }));
    }
    let values = match addresses.is_empty() {
        true => [None, None],
        false => [pool, Some(&*addresses)],
    };
    for (place, (name, value)) in OWN_ANNOTATIONS.into_iter().zip(values).enumerate() {
        let known = seen.annotations[place].as_deref();
        // A pool that somebody else named is theirs as long as we say nothing.
        let is_theirs = value.is_none() && (seen.annotations[1].is_none() || !is_ours) && place == 0;
        if known != value && !is_theirs {
            changes.annotations.insert(name.to_owned(), json!(value));
        }
    }
    (changes != Changes::default()).then_some(changes)
}

/// What the owner of a Service is to be told.
pub fn faults(report: &ObjectReport) -> Vec<Fault> {
    let mut faults = Vec::new();
    // The first explains those that follow.
    if let Some(fault) = report.conditions.iter().find(|condition| !condition.status) {
        let note = format!("{} is False: {}", fault.kind, fault.message);
        faults.push(Fault { reason: fault.reason.to_owned(), note, is_notice: false });
    }
    if let Some(note) = report.load_balancer.as_ref().and_then(|balancer| balancer.note.as_ref()) {
        faults.push(Fault { reason: note.reason.to_owned(), note: note.message.clone(), is_notice: true });
    }
    faults
}

/// As the annotation has them.
fn addresses(ingress: &Value) -> String {
    let list = ingress.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|entry| entry["ip"].as_str()).collect::<Vec<_>>().join(",")
}

fn is_empty(list: &Value) -> bool {
    list.as_array().is_none_or(Vec::is_empty)
}

/// Whether everything wanted is there; members that the API server added beside it do not count.
fn covers(seen: &Value, wanted: &Value) -> bool {
    match (seen, wanted) {
        (Value::Object(seen), Value::Object(wanted)) => {
            // An error that is over must go.
            seen.contains_key("ports") == wanted.contains_key("ports")
                && wanted.iter().all(|(name, value)| covers(seen.get(name).unwrap_or(&Value::Null), value))
        }
        (Value::Array(seen), Value::Array(wanted)) => {
            seen.len() == wanted.len() && seen.iter().zip(wanted).all(|(seen, wanted)| covers(seen, wanted))
        }
        (seen, wanted) => seen == wanted,
    }
}

#[cfg(test)]
mod tests {
    use edge_config::report::{Condition, LoadBalancerReport};

    use super::*;

    const POOL: &str = OWN_ANNOTATIONS[0];
    const MINE: &str = OWN_ANNOTATIONS[1];

    fn report(pool: Option<&str>) -> ObjectReport {
        let balancer = LoadBalancerReport { pool: pool.map(Box::from), ..LoadBalancerReport::default() };
        ObjectReport { load_balancer: Some(Box::new(balancer)), ..ObjectReport::default() }
    }

    #[test]
    fn what_is_written() {
        let one = |address: &str| json!([{"ip": address, "ipMode": "Proxy"}]);
        let of = |ingress: Value| json!({"loadBalancer": {"ingress": ingress}});
        let gone = json!({"loadBalancer": {"ingress": null}});
        let annotations = |pool: &str, mine: &str| [pool, mine].map(|text| (!text.is_empty()).then(|| text.into()));
        // What is there (ingress and annotations), what is wanted (ingress and pool), what is written.
        type Case =
            (&'static str, (Value, [Option<Box<str>>; 2]), Option<(Value, &'static str)>, Option<(Value, Value)>);
        let cases: [Case; 12] = [
            (
                "new",
                (json!({}), annotations("", "")),
                Some((of(one("192.0.2.1")), "p")),
                Some((of(one("192.0.2.1")), json!({POOL: "p", MINE: "192.0.2.1"}))),
            ),
            (
                "as it should be",
                (of(one("192.0.2.1")), annotations("p", "192.0.2.1")),
                Some((of(one("192.0.2.1")), "p")),
                None,
            ),
            (
                "the server adds members",
                (of(json!([{"ip": "192.0.2.1", "ipMode": "Proxy", "new": 1}])), annotations("p", "192.0.2.1")),
                Some((of(one("192.0.2.1")), "p")),
                None,
            ),
            (
                "an error of a port is over",
                (
                    of(json!([{"ip": "192.0.2.1", "ipMode": "Proxy", "ports": [{"port": 1}]}])),
                    annotations("p", "192.0.2.1"),
                ),
                Some((of(one("192.0.2.1")), "p")),
                Some((of(one("192.0.2.1")), json!({}))),
            ),
            (
                "taken over",
                (of(json!([{"ip": "192.0.2.9", "ipMode": "VIP"}])), annotations("theirs", "")),
                Some((of(one("192.0.2.9")), "p")),
                Some((of(one("192.0.2.9")), json!({POOL: "p", MINE: "192.0.2.9"}))),
            ),
            (
                "its address is not there any more",
                (of(one("192.0.2.1")), annotations("p", "192.0.2.1")),
                Some((json!({"loadBalancer": {}}), "")),
                Some((gone.clone(), json!({POOL: null, MINE: null}))),
            ),
            ("nothing to say", (json!({}), annotations("", "")), Some((json!({"loadBalancer": {}}), "")), None),
            ("of others", (of(one("192.0.2.1")), annotations("theirs", "")), None, None),
            (
                "not ours any more",
                (of(one("192.0.2.1")), annotations("p", "192.0.2.1")),
                None,
                Some((gone.clone(), json!({POOL: null, MINE: null}))),
            ),
            (
                "others have written since",
                (of(one("192.0.2.7")), annotations("theirs", "192.0.2.1")),
                None,
                Some((json!({}), json!({MINE: null}))),
            ),
            (
                "no load balancer any more",
                (json!({"loadBalancer": {}}), annotations("p", "192.0.2.1")),
                None,
                Some((json!({}), json!({POOL: null, MINE: null}))),
            ),
            (
                "two families",
                (of(one("192.0.2.1")), annotations("p", "192.0.2.1")),
                Some((of(json!([{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}])), "p")),
                Some((of(json!([{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}])), json!({MINE: "192.0.2.1,2001:db8::1"}))),
            ),
        ];
        for (name, (status, annotations), wanted, expected) in cases {
            let seen = Seen { annotations, ..Seen::default() };
            let wanted = wanted.map(|(status, pool)| (status, report(Some(pool).filter(|pool| !pool.is_empty()))));
            let written = changes(&seen, &status, wanted.as_ref().map(|(status, report)| (status, report)));
            let written = written.map(|changes| (Value::Object(changes.status), Value::Object(changes.annotations)));
            assert_eq!(written, expected, "{name}");
        }
    }

    #[test]
    fn what_is_told() {
        let condition = |kind, status, reason| Condition { kind, status, reason, message: "why".to_owned() };
        let mut report = report(Some("p"));
        report.conditions =
            vec![condition("Allocated", true, "IPAllocated"), condition("Programmed", true, "Programmed")];
        assert_eq!(faults(&report), []);
        report.conditions = vec![
            condition("Allocated", false, "AllocationFailed"),
            condition("Programmed", false, "AddressNotAssigned"),
        ];
        let note = condition("Allocated", true, "AdditionalAssignFailed");
        report.load_balancer.as_mut().unwrap().note = Some(note);
        let told: Vec<_> =
            faults(&report).into_iter().map(|f| format!("{} {} {}", f.reason, f.note, f.is_notice)).collect();
        assert_eq!(told, ["AllocationFailed Allocated is False: why false", "AdditionalAssignFailed why true"]);
    }
}
