//! What is written for what is there, by table; and what holds for any two of them.

use proptest::prelude::*;

use edge_config::names::ObjectKey;

use super::*;

const NOW: &str = "2026-11-23T10:00:00Z";
const OURS: &str = "edge.internal/gateway-controller";

type List = Vec<Value>;

fn changes(kind: Kind, seen: &Value, wanted: Option<&Value>) -> Option<Map<String, Value>> {
    let object = ObjectRef::new(kind, ObjectKey::parse("ns/x"));
    Author { controllers: &[OURS.to_owned()], now: NOW, others: None }.changes(&object, seen, wanted)
}

fn condition(kind: &str, status: &str, generation: i64, since: &str) -> Value {
    json!({"type": kind, "status": status, "observedGeneration": generation, "lastTransitionTime": since,
        "reason": kind, "message": ""})
}

/// As `edge_config::status` renders it.
fn wanted(kind: &str, status: &str, generation: i64) -> Value {
    json!({"type": kind, "status": status, "observedGeneration": generation, "reason": kind, "message": ""})
}

fn applied(seen: &Value, changes: &Map<String, Value>) -> Value {
    let mut status = seen.clone();
    if status.is_null() {
        status = json!({});
    }
    for (name, value) in changes {
        status[name] = value.clone();
    }
    status
}

#[test]
fn conditions_of_an_object() {
    const T1: &str = "2026-01-01T00:00:00Z";
    let cases: [(&str, List, List, Option<List>); 10] = [
        ("first", vec![], vec![wanted("Accepted", "True", 1)], Some(vec![condition("Accepted", "True", 1, NOW)])),
        ("equal", vec![condition("Accepted", "True", 1, T1)], vec![wanted("Accepted", "True", 1)], None),
        (
            "a new generation keeps the time",
            vec![condition("Accepted", "True", 1, T1)],
            vec![wanted("Accepted", "True", 2)],
            Some(vec![condition("Accepted", "True", 2, T1)]),
        ),
        (
            "a new status has a new time",
            vec![condition("Accepted", "Unknown", 1, "1970-01-01T00:00:00Z")],
            vec![wanted("Accepted", "True", 1)],
            Some(vec![condition("Accepted", "True", 1, NOW)]),
        ),
        (
            "others' types stay, ours that are not wanted go",
            vec![
                condition("example.com/Seen", "True", 1, T1),
                condition("Conflicted", "True", 1, T1),
                condition("Accepted", "True", 1, T1),
            ],
            vec![wanted("Accepted", "True", 1)],
            Some(vec![condition("example.com/Seen", "True", 1, T1), condition("Accepted", "True", 1, T1)]),
        ),
        (
            "never an older generation",
            vec![condition("Accepted", "False", 3, T1)],
            vec![wanted("Accepted", "True", 2)],
            None,
        ),
        (
            "nor the removal of what knows a later one",
            vec![condition("Accepted", "True", 2, T1), condition("Conflicted", "True", 3, T1)],
            vec![wanted("Accepted", "True", 2)],
            None,
        ),
        (
            "a time that is missing",
            vec![json!({"type": "Accepted", "status": "True", "observedGeneration": 1, "reason": "x"})],
            vec![wanted("Accepted", "True", 1)],
            Some(vec![condition("Accepted", "True", 1, NOW)]),
        ),
        (
            "the order of others",
            vec![condition("Programmed", "True", 1, T1), condition("Accepted", "True", 1, T1)],
            vec![wanted("Accepted", "True", 1), wanted("Programmed", "True", 1)],
            None,
        ),
        (
            "no more than eight",
            (0..7).map(|n| condition(&format!("example.com/{n}"), "True", 1, T1)).collect(),
            vec![wanted("Accepted", "True", 1), wanted("Programmed", "True", 1)],
            Some(
                (0..7)
                    .map(|n| condition(&format!("example.com/{n}"), "True", 1, T1))
                    .chain([condition("Accepted", "True", 1, NOW)])
                    .collect(),
            ),
        ),
    ];
    for (name, seen, wanted, expected) in cases {
        let status = json!({"conditions": seen});
        let wanted = json!({"conditions": wanted, "supportedFeatures": []});
        let changed = changes(Kind::GatewayClass, &status, Some(&wanted));
        assert_eq!(changed, expected.map(|list| Map::from_iter([("conditions".into(), json!(list))])), "{name}");
    }
}

fn entry(controller: &str, parent: &str, conditions: &[Value]) -> Value {
    json!({"parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": parent},
        "controllerName": controller, "conditions": conditions})
}

#[test]
fn entries_of_a_route() {
    const T1: &str = "2026-01-01T00:00:00Z";
    let (theirs, mine) = (entry("example.com/other", "gw", &[condition("Accepted", "False", 1, T1)]), OURS);
    let accepted = |status, generation| [wanted("Accepted", status, generation)];
    let cases: [(&str, List, Option<List>, Option<List>); 7] = [
        (
            "first",
            vec![theirs.clone()],
            Some(vec![entry(mine, "gw", &accepted("True", 1))]),
            Some(vec![theirs.clone(), entry(mine, "gw", &[condition("Accepted", "True", 1, NOW)])]),
        ),
        (
            "equal in another order",
            vec![
                entry(mine, "b", &[condition("Accepted", "True", 1, T1)]),
                theirs.clone(),
                entry(mine, "a", &[condition("Accepted", "True", 1, T1)]),
            ],
            Some(vec![entry(mine, "a", &accepted("True", 1)), entry(mine, "b", &accepted("True", 1))]),
            None,
        ),
        (
            "one that is gone",
            vec![entry(mine, "a", &[condition("Accepted", "True", 1, T1)]), theirs.clone()],
            Some(vec![]),
            Some(vec![theirs.clone()]),
        ),
        (
            "a route that is no longer ours",
            vec![entry(mine, "a", &[condition("Accepted", "True", 1, T1)]), theirs.clone()],
            None,
            Some(vec![theirs.clone()]),
        ),
        ("nothing of ours", vec![theirs.clone()], None, None),
        ("nothing at all", vec![], None, None),
        (
            "conditions of others in our entry stay",
            vec![entry(
                mine,
                "a",
                &[condition("example.com/x", "True", 1, T1), condition("PartiallyInvalid", "True", 1, T1)],
            )],
            Some(vec![entry(mine, "a", &accepted("True", 1))]),
            Some(vec![entry(
                mine,
                "a",
                &[condition("example.com/x", "True", 1, T1), condition("Accepted", "True", 1, NOW)],
            )]),
        ),
    ];
    for (name, seen, wanted, expected) in cases {
        let status = json!({"parents": seen});
        let wanted = wanted.map(|list| json!({"parents": list}));
        let changed = changes(Kind::HTTPRoute, &status, wanted.as_ref());
        assert_eq!(changed, expected.map(|list| Map::from_iter([("parents".into(), json!(list))])), "{name}");
    }
}

#[test]
fn entries_of_another_group_stay() {
    let mine = entry(OURS, "mine", &[condition("Accepted", "True", 1, NOW)]);
    let theirs = entry(OURS, "theirs", &[condition("Accepted", "True", 1, NOW)]);
    let seen = json!({"parents": [mine, theirs]});
    let is_known = |_: &str, reference: &Value| reference["name"] == "mine";
    let object = ObjectRef::new(Kind::HTTPRoute, ObjectKey::parse("ns/x"));
    let author = Author { controllers: &[OURS.to_owned()], now: NOW, others: Some(&is_known) };
    let changed = author.changes(&object, &seen, None);
    assert_eq!(changed, Some(Map::from_iter([("parents".into(), json!([theirs]))])));
}

#[test]
fn lists_stay_within_the_bounds_of_the_crds() {
    let many: Vec<Value> = (0..40).map(|n| entry(OURS, &n.to_string(), &[wanted("Accepted", "True", 1)])).collect();
    let written = changes(Kind::HTTPRoute, &Value::Null, Some(&json!({ "parents": many }))).unwrap();
    assert_eq!(written["parents"].as_array().unwrap().len(), 32);
    let others: Vec<Value> = (0..15)
        .map(|n| json!({"ancestorRef": {"name": n.to_string()}, "controllerName": "example.com/x", "conditions": []}))
        .collect();
    let mine: Vec<Value> = (0..3)
        .map(|n| {
            json!({"ancestorRef": {"name": n.to_string()}, "controllerName": OURS,
            "conditions": [wanted("Accepted", "True", 1)]})
        })
        .collect();
    let (seen, want) = (json!({ "ancestors": others }), json!({ "ancestors": mine }));
    let written = changes(Kind::BackendTLSPolicy, &seen, Some(&want)).unwrap();
    let list = written["ancestors"].as_array().unwrap();
    assert_eq!((list.len(), &list[..15]), (16, &others[..]), "others keep their places");

    let long = json!({"type": "Accepted", "status": "False", "observedGeneration": 1, "reason": "Invalid",
        "message": "é".repeat(20_000)});
    let written = changes(Kind::GatewayClass, &Value::Null, Some(&json!({"conditions": [long]}))).unwrap();
    assert_eq!(written["conditions"][0]["message"].as_str().unwrap().len(), 32_768);
    let seen = Value::Object(written);
    let again = changes(Kind::GatewayClass, &seen, Some(&json!({"conditions": [long]})));
    assert_eq!(again, None, "a message that was cut is compared as cut");

    let features: Vec<Value> = (0..70).rev().map(|n| json!({"name": format!("F{n:02}")})).collect();
    let written = changes(Kind::GatewayClass, &Value::Null, Some(&json!({"supportedFeatures": features}))).unwrap();
    let names: Vec<&str> = written["supportedFeatures"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|feature| feature["name"].as_str())
        .collect();
    assert!(names.is_sorted() && names.len() == 64, "{names:?}");
}

#[test]
fn whatever_edge_says_of_a_policy_goes_when_it_is_over() {
    const T1: &str = "2026-01-01T00:00:00Z";
    let ancestor = |conditions: &[Value]| json!({"ancestors": [{"ancestorRef": {"name": "gw"}, "controllerName": OURS, "conditions": conditions}]});
    for kind in CONDITION_TYPES.into_iter().filter(|kind| *kind != "Accepted") {
        let seen = ancestor(&[condition("Accepted", "True", 1, T1), condition(kind, "True", 1, T1)]);
        let want = ancestor(&[wanted("Accepted", "True", 1)]);
        let written = changes(Kind::BackendTrafficPolicy, &seen, Some(&want)).unwrap();
        assert_eq!(applied(&seen, &written), ancestor(&[condition("Accepted", "True", 1, T1)]), "{kind}");
    }
}

#[test]
fn backends_say_whether_they_can_be_used() {
    const T1: &str = "2026-01-01T00:00:00Z";
    let of = |conditions: &[Value]| json!({ "conditions": conditions });
    let said = |message: &str| {
        let mut condition = condition("Accepted", "True", 1, T1);
        condition["message"] = json!(message);
        condition
    };
    let want = of(&[wanted("Accepted", "True", 1)]);
    let written = changes(Kind::Backend, &Value::Null, Some(&want)).unwrap();
    assert_eq!(applied(&Value::Null, &written), of(&[condition("Accepted", "True", 1, NOW)]));
    // Another controller that agrees is left alone, since Backends have no entries by controller.
    let theirs = of(&[said("The Backend was accepted")]);
    assert_eq!(changes(Kind::Backend, &theirs, Some(&want)), None);
    let bad = of(&[wanted("Accepted", "False", 1)]);
    let written = changes(Kind::Backend, &theirs, Some(&bad)).unwrap();
    assert_eq!(applied(&theirs, &written), of(&[condition("Accepted", "False", 1, NOW)]));
    let insecure = of(&[condition("Accepted", "True", 1, T1), condition("Warning", "True", 1, T1)]);
    let written = changes(Kind::Backend, &insecure, Some(&want)).unwrap();
    assert_eq!(applied(&insecure, &written), of(&[condition("Accepted", "True", 1, T1)]));
}

#[test]
fn listeners_follow_the_spec_and_keep_their_times() {
    const T1: &str = "2026-01-01T00:00:00Z";
    let listener = |name: &str, routes: u32, conditions: Vec<Value>| json!({"name": name, "supportedKinds": [], "attachedRoutes": routes, "conditions": conditions});
    let seen = json!({"listeners": [
        listener("old", 1, vec![]),
        listener("http", 1, vec![condition("example.com/x", "True", 1, T1), condition("Accepted", "True", 1, T1)]),
    ], "attachedListenerSets": 0, "addresses": [], "conditions": []});
    let want = json!({"listeners": [
        listener("http", 2, vec![wanted("Accepted", "True", 2)]),
        listener("new", 0, vec![wanted("Accepted", "False", 2)]),
    ], "attachedListenerSets": 0, "addresses": [], "conditions": []});
    let written = changes(Kind::Gateway, &seen, Some(&want)).unwrap();
    let expected = json!([
        listener("http", 2, vec![condition("example.com/x", "True", 1, T1), condition("Accepted", "True", 2, T1)]),
        listener("new", 0, vec![condition("Accepted", "False", 2, NOW)]),
    ]);
    assert_eq!(written, Map::from_iter([("listeners".into(), expected)]));
}

fn conditions() -> impl Strategy<Value = Vec<Value>> {
    let one = (
        prop::sample::select(vec!["Accepted", "ResolvedRefs", "Conflicted", "a.example/x", "b.example/y", "Ready"]),
        prop::sample::select(vec!["True", "False", "Unknown"]),
        1..4i64,
        prop::sample::select(vec!["A", "B"]),
    );
    prop::collection::vec(one, 0..6).prop_map(|list| {
        let mut out: Vec<Value> = Vec::new();
        for (kind, status, generation, reason) in list {
            if !out.iter().any(|known| known["type"] == kind) {
                let mut value = condition(kind, status, generation, "2026-01-01T00:00:00Z");
                value["reason"] = json!(reason);
                out.push(value);
            }
        }
        out
    })
}

/// What Edge would render: types of its own, one generation.
fn rendered() -> impl Strategy<Value = Vec<Value>> {
    (conditions(), 1..4i64).prop_map(|(list, generation)| {
        let mut list: Vec<Value> = list.into_iter().filter(|one| is_own(one["type"].as_str().unwrap())).collect();
        for one in &mut list {
            one["observedGeneration"] = json!(generation);
            one.as_object_mut().unwrap().shift_remove("lastTransitionTime");
        }
        list
    })
}

fn parents(of: impl Strategy<Value = Vec<Value>>, only_ours: bool) -> impl Strategy<Value = Vec<Value>> {
    let controllers = if only_ours { vec![OURS] } else { vec![OURS, "example.com/a", "example.com/b"] };
    let one = (prop::sample::select(controllers), prop::sample::select(vec!["a", "b", "c"]), of);
    prop::collection::vec(one, 0..6).prop_map(|list| {
        let mut out: Vec<Value> = Vec::new();
        for (controller, parent, conditions) in list {
            let next = entry(controller, parent, &conditions);
            let is_known = |known: &Value| {
                known["controllerName"] == next["controllerName"] && known["parentRef"] == next["parentRef"]
            };
            if !out.iter().any(is_known) {
                out.push(next);
            }
        }
        out
    })
}

fn foreign(status: &Value) -> Vec<Value> {
    list(&status["parents"]).iter().filter(|entry| entry["controllerName"] != OURS).cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_written_is_what_is_wanted(seen in parents(conditions(), false), want in parents(rendered(), true)) {
        let (seen, want) = (json!({"parents": seen}), json!({"parents": want}));
        let after = match changes(Kind::HTTPRoute, &seen, Some(&want)) {
            Some(written) => applied(&seen, &written),
            None => seen.clone(),
        };
        prop_assert_eq!(changes(Kind::HTTPRoute, &after, Some(&want)), None, "a second round writes nothing");
        prop_assert_eq!(foreign(&after), foreign(&seen), "entries of others stay as they are");
        let ours: Vec<&Value> =
            list(&after["parents"]).iter().filter(|entry| entry["controllerName"] == OURS).collect();
        prop_assert_eq!(ours.len(), list(&want["parents"]).len());
        for entry in list(&want["parents"]) {
            let is_same = |found: &&&Value| found["parentRef"] == entry["parentRef"];
            let found = ours.iter().find(is_same).expect("every wanted entry is there");
            let before = list(&seen["parents"]).iter()
                .find(|old| old["controllerName"] == OURS && old["parentRef"] == entry["parentRef"]);
            for condition in list(&entry["conditions"]) {
                let written = list(&found["conditions"]).iter().find(|one| one["type"] == condition["type"]);
                let written = written.expect("every wanted condition is there");
                prop_assert!(written["observedGeneration"].as_i64() >= condition["observedGeneration"].as_i64());
                prop_assert!(written["lastTransitionTime"].is_string());
                if written["observedGeneration"] == condition["observedGeneration"] {
                    prop_assert_eq!(&written["status"], &condition["status"]);
                    prop_assert_eq!(&written["reason"], &condition["reason"]);
                }
            }
            for old in before.map(|old| list(&old["conditions"])).unwrap_or_default() {
                if !is_own(old["type"].as_str().unwrap()) {
                    prop_assert!(list(&found["conditions"]).contains(old), "conditions of others stay");
                }
            }
        }
    }
}

#[test]
fn certificates_keep_what_others_say() {
    let controllers: Vec<String> = Vec::new();
    let author = Author { controllers: &controllers, now: NOW, others: None };
    let condition = |kind: &str, status: &str, since: &str| {
        json!({"type": kind, "status": status, "reason": "r", "message": "", "observedGeneration": 1,
            "lastTransitionTime": since})
    };
    let wanted = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "r", "message": "", "observedGeneration": 1});
    let seen = json!({
        "conditions": [condition("Theirs", "True", "then"), condition("Ready", "True", "then"), condition("Issuing", "True", "then")],
        "revision": 1, "nextPrivateKeySecretName": "x", "acme": {"uri": "u", "lastPrivateKeyHash": "h"},
    });
    let all = json!({"conditions": [wanted("Ready", "True")], "revision": 1, "acme": {"uri": "u"}, "notAfter": null});
    let changes = Value::Object(author.certificate_changes(&seen, &all).unwrap());
    assert_eq!(
        changes,
        json!({"conditions": [condition("Theirs", "True", "then"), condition("Ready", "True", "then")]}),
        "what is over goes, all else stays"
    );
    let mut done = seen.clone();
    done["conditions"] = changes["conditions"].clone();
    assert_eq!(author.certificate_changes(&done, &all), None);
    let next = json!({"conditions": [wanted("Ready", "False")], "notAfter": "t"});
    let changes = author.certificate_changes(&done, &next).unwrap();
    assert_eq!(changes["conditions"][1]["lastTransitionTime"], NOW);
    assert_eq!(changes["notAfter"], "t");
}
