use std::sync::Arc;

use edge_config::Compiled;
use edge_config::issuer::CertManager;
use edge_config::problem::Problem;
use edge_config::report::Report;
use serde_json::json;

use super::*;
use crate::certs::observed::AcmeStep;
use crate::kubernetes::status::certificates::tests::{acme, state, world};

fn of_certificate(world: &World) -> Vec<String> {
    let object = ObjectRef::new(Kind::Certificate, ObjectKey::parse("n/c"));
    faults(&object, world).into_iter().map(|fault| format!("{}: {}", fault.reason, fault.note)).collect()
}

#[test]
fn renewals_that_do_not_come_are_told_in_steps() {
    let step = || AcmeStep::Waiting { why: "for its turn, until 12:00".into(), until: None };
    let held = |days, alarm, error| {
        let acme = crate::certs::observed::AcmeState { alarm, ..acme(step(), error) };
        of_certificate(&world(Some(state(days)), Some(acme)))
    };
    for (days, alarm, error, expected) in [
        (30, Alarm::None, None, None),
        // One that failed and is in time says so in a condition.
        (30, Alarm::None, Some("no A record"), None),
        (20, Alarm::Notice, None, Some(("RenewalLate: n/tls ends at ", " and is not renewed yet"))),
        (7, Alarm::Warning, Some("no A record"), Some(("RenewalOverdue: ", " and is not renewed yet: no A record"))),
        (1, Alarm::Critical, Some("no A record"), Some(("CertificateExpiring: ", "no A record"))),
        (-1, Alarm::Critical, None, Some(("CertificateExpired: ", ""))),
    ] {
        let told = held(days, alarm, error);
        match expected {
            None => assert_eq!(told, Vec::<String>::new()),
            Some((start, end)) => {
                assert!(told.len() == 1 && told[0].starts_with(start) && told[0].ends_with(end), "{told:?}");
            }
        }
    }
    let missing = crate::certs::observed::AcmeState { alarm: Alarm::Warning, ..acme(step(), None) };
    assert_eq!(of_certificate(&world(None, Some(missing))), Vec::<String>::new(), "the first one is no renewal");
}

#[test]
fn what_cannot_be_is_bad_configuration() {
    let object = ObjectRef::new(Kind::Gateway, ObjectKey::parse("n/web"));
    let problem = |severity, message: &str| Problem {
        severity,
        origin: None,
        object: Some(object.clone()),
        message: message.to_owned(),
    };
    let problems = vec![problem(Severity::Error, "both issuers"), problem(Severity::Warning, "a longer name")];
    let report = Report { problems, ..Report::default() };
    let mut world = world(None, None);
    world.compiled = Arc::new(Compiled { report, ..Compiled::default() });
    let expected = Fault { reason: "BadConfig".to_owned(), note: "both issuers".to_owned(), is_notice: false };
    assert_eq!(faults(&object, &world), [expected]);
    let inputs = Arc::make_mut(&mut world.inputs);
    inputs.cert_manager = Some(CertManager { gateways: true });
    assert_eq!(faults(&object, &world), [], "cert-manager says so itself");
}

#[test]
fn what_a_listener_got_is_told_once() {
    let listener = |status: &str, reason: &str, message: &str| {
        let ready = json!({"type": "CertificateReady", "status": status, "reason": reason, "message": message});
        json!([{"name": "https", "conditions": [ready]}])
    };
    let of = |before: Value, now: Value| {
        let changed = Map::from_iter([("listeners".to_owned(), now)]);
        let told = created(&json!({ "listeners": before }), &changed);
        told.into_iter().map(|fault| format!("{}: {}", fault.reason, fault.note)).collect::<Vec<_>>()
    };
    let there = || listener("True", "Issued", "a.example: until then");
    let expected = ["CreateCertificate: listener https: a.example: until then"];
    assert_eq!(of(Value::Null, there()), expected);
    assert_eq!(of(listener("False", "Issuing", "ordered"), there()), expected);
    assert!(of(there(), listener("True", "Issued", "a.example: until later")).is_empty(), "it was renewed");
    assert!(of(Value::Null, listener("True", "NoHosts", "none")).is_empty());
    assert!(of(Value::Null, listener("False", "Issuing", "ordered")).is_empty());
}
