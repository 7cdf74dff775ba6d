use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use edge_acme::failure::Class;
use edge_acme::level::Level;
use edge_config::Compiled;
use edge_config::certmanager::{CaIssuer, CertificateSpec, IssuerRef, SelfSignedIssuer};
use edge_config::inputs::{Inputs, Meta, Object};
use edge_config::issuer::CertManager;
use edge_config::problem::Origin;
use edge_config::report::Condition;

use super::*;
use crate::certs::observed::{AcmeError, Alarm, IssuerState};
use crate::control::observed::Observed;

fn meta(kind: Kind, name: &str) -> Meta {
    let _ = kind;
    Meta {
        key: ObjectKey::parse(name),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        generation: 2,
        created: None,
        origin: Origin { file: "kubernetes".into(), line: 0, column: 0 },
    }
}

fn report(ready: bool, reason: &'static str) -> ObjectReport {
    let condition = Condition { kind: "Ready", status: ready, reason, message: "why".to_owned() };
    ObjectReport { generation: 2, conditions: vec![condition], ..ObjectReport::default() }
}

pub(in super::super) fn state(days: i64) -> CertificateState {
    let now = SystemTime::now();
    let day = Duration::from_secs(86_400);
    let end = if days < 0 { now - day } else { now + day * u32::try_from(days).unwrap() };
    CertificateState {
        source: CertificateSource::Issued("CA".into()),
        names: vec!["a.example".into()],
        not_before: Some(now - day * 100),
        not_after: Some(end),
        renews_at: Some(now + day),
        error: None,
    }
}

pub(in super::super) fn acme(step: AcmeStep, error: Option<&str>) -> AcmeState {
    let at = SystemTime::now();
    let issuer = IssuerId("ClusterIssuer le".into());
    AcmeState {
        issuer: None,
        step,
        failures: u32::from(error.is_some()),
        last_error: error.map(|text| AcmeError {
            at,
            issuer,
            text: text.into(),
            class: Class::Validation,
            said: String::new(),
        }),
        findings: Vec::new(),
        seen: Vec::new(),
        level: Level::Fine,
        alarm: Alarm::None,
        standing: String::new(),
        wait: None,
        window: None,
    }
}

/// A world with one Certificate, three issuers, and what is seen of them.
pub(in super::super) fn world(state: Option<CertificateState>, acme: Option<AcmeState>) -> World {
    let mut inputs = Inputs::default();
    let spec = |secret: &str| {
        let issuer_ref = IssuerRef { name: "le".into(), kind: "ClusterIssuer".into(), group: "cert-manager.io".into() };
        serde_json::from_value::<CertificateSpec>(json!({"secretName": secret, "issuerRef": issuer_ref})).unwrap()
    };
    let certificate = Object { meta: meta(Kind::Certificate, "n/c"), spec: spec("tls") };
    inputs.certificates.insert(ObjectKey::parse("n/c"), Arc::new(certificate));
    let issuers = [
        ("own", IssuerSpec { self_signed: Some(SelfSignedIssuer::default()), ..IssuerSpec::default() }),
        ("ca", {
            let ca: CaIssuer = serde_json::from_value(json!({"secretName": "ca"})).unwrap();
            IssuerSpec { ca: Some(ca), ..IssuerSpec::default() }
        }),
        ("le", {
            let acme = serde_json::from_value(json!({
                "server": "https://ca/dir", "email": "a@b.example", "privateKeySecretRef": {"name": "le"}, "solvers": [],
            }))
            .unwrap();
            IssuerSpec { acme: Some(acme), ..IssuerSpec::default() }
        }),
    ];
    for (name, spec) in issuers {
        let object = Object { meta: meta(Kind::ClusterIssuer, name), spec };
        inputs.cluster_issuers.insert(ObjectKey::new("", name), Arc::new(object));
    }
    let id = CertId(ObjectKey::parse("n/tls"));
    let mut observed = Observed::default();
    observed.certificates.extend(state.map(|state| (id.clone(), state)));
    observed.acme.certificates.extend(acme.map(|acme| (id, acme)));
    World {
        inputs: Arc::new(inputs),
        compiled: Arc::new(Compiled::default()),
        observed: Arc::new(observed),
        ..World::empty("e", SystemTime::now())
    }
}

fn of_certificate(world: &World, report: &ObjectReport, seen: &Value) -> Option<Value> {
    status(&ObjectRef::new(Kind::Certificate, ObjectKey::parse("n/c")), report, seen, world)
}

fn said(status: &Value) -> String {
    let conditions = status["conditions"].as_array().unwrap().iter();
    let one = |condition: &Value| {
        let text = |name: &str| condition[name].as_str().unwrap().to_owned();
        format!("{}={} {}: {}", text("type"), text("status"), text("reason"), text("message"))
    };
    conditions.map(one).collect::<Vec<_>>().join("; ")
}

#[test]
fn how_a_certificate_stands() {
    let issuer = IssuerId("ClusterIssuer le".into());
    let ordering = AcmeStep::Ordering { issuer, doing: "x".into(), since: SystemTime::now() };
    let waiting = || AcmeStep::Waiting { why: "w".into(), until: None };
    let placeholder = || CertificateState { source: CertificateSource::Placeholder, ..state(7) };
    let supplied = || CertificateState { source: CertificateSource::Secret, ..state(7) };
    let held = || AcmeStep::Held { renews_at: None };
    for (name, state, acme, expected) in [
        ("nothing", None, None, "Ready=False DoesNotExist: there is no certificate for Secret n/tls yet"),
        (
            "being ordered",
            Some(placeholder()),
            Some(self::acme(ordering.clone(), None)),
            "Issuing=True DoesNotExist: ordered from ClusterIssuer le",
        ),
        (
            "failed",
            Some(placeholder()),
            Some(self::acme(waiting(), Some("no A record"))),
            "Issuing=False Failed: no A record",
        ),
        (
            "held",
            Some(supplied()),
            Some(self::acme(held(), None)),
            "Ready=True Ready: Certificate is up to date and has not expired",
        ),
        ("renewed", Some(supplied()), Some(self::acme(ordering, None)), "Issuing=True Renewing"),
        (
            "ended",
            Some(CertificateState { source: CertificateSource::Secret, ..self::state(-1) }),
            None,
            "Ready=False Expired",
        ),
    ] {
        let status = of_certificate(&world(state, acme), &report(true, "Ready"), &json!({})).unwrap();
        assert!(said(&status).contains(expected), "{name}: {}", said(&status));
    }
}

#[test]
fn times_and_revisions() {
    let supplied = CertificateState { source: CertificateSource::Secret, ..state(7) };
    let world = world(Some(supplied), None);
    let report = report(true, "Ready");
    let status = of_certificate(&world, &report, &json!({})).unwrap();
    assert_eq!(status["revision"], 1);
    assert!(status["notAfter"].as_str().unwrap().ends_with('Z') && status["renewalTime"].is_string());
    let mut seen = status.clone();
    seen["revision"] = 4.into();
    assert_eq!(of_certificate(&world, &report, &seen).unwrap()["revision"], 4);
    seen["notBefore"] = "2020-01-01T00:00:00Z".into();
    assert_eq!(of_certificate(&world, &report, &seen).unwrap()["revision"], 5, "another one");
}

#[test]
fn issuers() {
    let le = IssuerId("ClusterIssuer le".into());
    let state = |account: Option<&str>, error: Option<&str>| IssuerState {
        account: account.map(str::to_owned),
        awaits_secrets: false,
        contact: account.map(|_| "a@b.example".into()),
        thumbprint: None,
        error: error.map(str::to_owned),
        paused_until: None,
        tally: Default::default(),
    };
    for (name, state, expected, uri) in [
        ("own", None, "Ready=True IsReady: ", Value::Null),
        ("ca", None, "Ready=True KeyPairVerified: Signing CA verified", Value::Null),
        ("le", None, "Ready=False Pending: nothing was asked of the CA yet", Value::Null),
        ("le", Some(state(None, Some("no route"))), "Ready=False ErrRegisterACMEAccount: no route", Value::Null),
        (
            "le",
            Some(state(Some("https://ca/acct/1"), None)),
            "Ready=True ACMEAccountRegistered: The ACME account was registered with the ACME server",
            "https://ca/acct/1".into(),
        ),
    ] {
        let mut world = world(None, None);
        let mut observed = Observed::default();
        observed.acme.issuers.extend(state.map(|state| (le.clone(), state)));
        world.observed = Arc::new(observed);
        let object = ObjectRef::new(Kind::ClusterIssuer, ObjectKey::new("", name));
        let status = status(&object, &report(true, "Ready"), &json!({}), &world).unwrap();
        assert_eq!((said(&status), &status["acme"]["uri"]), (expected.to_owned(), &uri), "{name}");
        // What nobody acts on is left to others.
        assert_eq!(self::status(&object, &report(false, "NotActedOn"), &json!({}), &world), None);
        let mut inputs = Inputs::clone(&world.inputs);
        inputs.cert_manager = Some(CertManager { gateways: true });
        world.inputs = Arc::new(inputs);
        assert_eq!(self::status(&object, &report(true, "Ready"), &json!({}), &world), None, "cert-manager is alive");
    }
}

#[test]
fn what_is_told() {
    let conditions = |list: &[(&str, &str, &str, &str)]| -> Value {
        let one = |(kind, status, reason, message): &(&str, &str, &str, &str)| json!({"type": kind, "status": status, "reason": reason, "message": message});
        json!({"conditions": list.iter().map(one).collect::<Vec<_>>()})
    };
    let ready = conditions(&[("Ready", "True", "Ready", "x")]);
    let missing = conditions(&[("Ready", "False", "DoesNotExist", "x")]);
    let ordering =
        conditions(&[("Ready", "False", "DoesNotExist", "x"), ("Issuing", "True", "DoesNotExist", "from le")]);
    let failed = conditions(&[("Ready", "False", "DoesNotExist", "x"), ("Issuing", "False", "Failed", "no A record")]);
    let registered = conditions(&[("Ready", "True", "ACMEAccountRegistered", "x")]);
    for (kind, before, now, expected) in [
        (Kind::Certificate, &json!({}), &missing, ""),
        (Kind::Certificate, &missing, &ordering, "Issuing Issuing certificate as Secret does not exist: from le true"),
        (Kind::Certificate, &ordering, &ordering, ""),
        (Kind::Certificate, &ordering, &failed, "OrderFailed no A record false"),
        (Kind::Certificate, &ordering, &ready, "Issuing The certificate has been successfully issued true"),
        (Kind::Certificate, &ready, &ready, ""),
        (Kind::ClusterIssuer, &json!({}), &registered, "ACMEAccountRegistered x true"),
        (Kind::ClusterIssuer, &registered, &registered, ""),
    ] {
        let told = told(kind, before, now.as_object().unwrap());
        let told: Vec<String> = told.iter().map(|f| format!("{} {} {}", f.reason, f.note, f.is_notice)).collect();
        assert_eq!(told.join("; "), expected);
    }
}

#[test]
fn an_account_that_is_looked_for_again_is_no_news() {
    let world = world(None, None);
    let of = |status: &str, generation: i64| {
        let ready = json!([{"type": "Ready", "status": status, "observedGeneration": generation}]);
        let object = ObjectRef::new(Kind::ClusterIssuer, ObjectKey::new("", "le"));
        super::status(&object, &report(true, "Ready"), &json!({"conditions": ready}), &world)
    };
    assert_eq!(of("True", 2), None);
    assert!(of("True", 1).is_some(), "of an earlier version");
    assert!(of("False", 2).is_some());
}

#[test]
fn what_cannot_be_read_says_so() {
    let mut world = world(None, None);
    let of = |world: &World, kind| unusable(kind, "spec.acme: required field `server` is missing", 3, world);
    let said = said(&of(&world, Kind::Issuer).unwrap());
    assert_eq!(said, "Ready=False ConfigError: spec.acme: required field `server` is missing");
    assert_eq!(of(&world, Kind::Gateway), None);
    Arc::make_mut(&mut world.inputs).cert_manager = Some(CertManager { gateways: true });
    assert_eq!(of(&world, Kind::Issuer), None, "cert-manager says so itself");
}
