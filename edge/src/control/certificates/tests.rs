use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use edge_acme::budget::{Bucket, Charge, Exemption, Usage};
use edge_acme::challenge::{ChallengeKind, Identifier};
use edge_acme::dns::diagnosis::{Beside, diagnose};
use edge_acme::dns::preflight::{
    Addresses, Announced, Ca, Caa, CaaStep, Entry, Facts, Said, Seen, Severity, Sight, Stands, Wish, Written, judge,
};
use edge_acme::failure::{Class, Fault, LookedAt, OrderError, Step};
use edge_acme::level::Level;
use edge_acme::plan::Wait;
use edge_config::inputs::Inputs;
use edge_config::issuer::{CertManager, IssuerId};
use edge_config::names::ObjectKey;

use super::view::{Cause, Served};
use super::*;
use crate::certs::observed::{AcmeError, AcmeState, Alarm, IssuerState, Tally};
use crate::control::fixture::{NOW, ago, golden, now};
use crate::control::observed::{CertificateSource, CertificateState, Observed};
use crate::ctl::args::Format;
use crate::ctl::show::render;
use crate::ctl::style::Style;
use crate::fleet::FleetObserved;
use crate::source::{Cache, load_directory};

const VIP: &str = "203.1.113.10";

/// A shop whose certificate Let's Encrypt issues, and listeners with something wrong about each.
const MANIFESTS: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: edge }
spec: { controllerName: edge.internal/gateway-controller }
---
apiVersion: cert-manager.io/v1
kind: ClusterIssuer
metadata: { name: le }
spec:
  acme:
    server: https://acme-v02.api.letsencrypt.org/directory
    privateKeySecretRef: { name: le }
    solvers: [{ http01: { gatewayHTTPRoute: {} } }]
---
apiVersion: cert-manager.io/v1
kind: ClusterIssuer
metadata: { name: half }
spec:
  acme: { server: "https://acme-v02.api.letsencrypt.org/directory" }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: public, namespace: shop, annotations: { cert-manager.io/cluster-issuer: le } }
spec:
  gatewayClassName: edge
  addresses: [{ value: 203.1.113.10 }]
  listeners:
    - { name: shop, port: 443, protocol: HTTPS, hostname: shop.example.com, tls: { certificateRefs: [{ name: shop-tls }] } }
    - { name: inner, port: 443, protocol: HTTPS, hostname: shop.cluster.local, tls: { certificateRefs: [{ name: inner-tls }] } }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: nowhere, namespace: shop, annotations: { cert-manager.io/cluster-issuer: nowhere } }
spec:
  gatewayClassName: edge
  addresses: [{ value: 203.1.113.11 }]
  listeners:
    - { name: l, port: 443, protocol: HTTPS, hostname: nowhere.example.com, tls: { certificateRefs: [{ name: nowhere-tls }] } }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: half, namespace: shop, annotations: { cert-manager.io/cluster-issuer: half } }
spec:
  gatewayClassName: edge
  addresses: [{ value: 203.1.113.12 }]
  listeners:
    - { name: l, port: 443, protocol: HTTPS, hostname: half.example.com, tls: { certificateRefs: [{ name: half-tls }] } }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: bare, namespace: shop }
spec:
  gatewayClassName: edge
  addresses: [{ value: 203.1.113.13 }]
  listeners:
    - { name: l, port: 443, protocol: HTTPS, hostname: bare.example.com, tls: { certificateRefs: [{ name: bare-tls }] } }
"#;

fn inputs() -> Inputs {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("shop.yaml"), MANIFESTS).unwrap();
    load_directory(directory.path(), &mut Cache::default()).inputs
}

fn id(name: &str) -> CertId {
    CertId(ObjectKey::parse(name))
}

fn le() -> IssuerId {
    IssuerId("ClusterIssuer le".into())
}

fn state(source: CertificateSource, days: i64) -> CertificateState {
    let end = now().checked_add(Duration::from_secs(days.unsigned_abs() * 86_400)).unwrap();
    CertificateState {
        source,
        names: vec!["shop.example.com".into()],
        not_before: Some(ago(86_400)),
        not_after: Some(end),
        renews_at: None,
        error: None,
    }
}

fn ordered(step: AcmeStep) -> AcmeState {
    AcmeState {
        issuer: None,
        step,
        failures: 0,
        last_error: None,
        findings: Vec::new(),
        seen: Vec::new(),
        level: Level::Missing,
        alarm: Alarm::Warning,
        standing: "there is none yet".into(),
        wait: None,
        window: None,
    }
}

fn waits(wait: Wait) -> AcmeState {
    let until = wait.until().and_then(span::unix);
    AcmeState { wait: Some(wait.clone()), ..ordered(AcmeStep::Waiting { why: wait.to_string(), until }) }
}

/// A failed order as the runner and the plan leave it.
fn failed(error: &OrderError, facts: Option<&Facts>, wait: fn(String) -> Wait) -> AcmeState {
    let beside = Beside { facts, issuer: &le().0, ..Beside::default() };
    let text = diagnose(error, beside).to_string();
    let findings = facts.map(judge).unwrap_or_default();
    let texts = |fine: bool| {
        let of = findings.iter().filter(|one| (one.severity == Severity::Fine) == fine);
        of.map(|one| one.text.clone()).collect()
    };
    AcmeState {
        failures: 1,
        findings: texts(false),
        seen: texts(true),
        last_error: Some(AcmeError {
            at: ago(60),
            issuer: le(),
            text: text.clone(),
            class: error.class,
            said: error.to_string(),
        }),
        ..waits(wait(text))
    }
}

fn backoff(reason: String) -> Wait {
    Wait::Backoff { until: NOW + 600, reason }
}

fn down(reason: String) -> Wait {
    Wait::CaDown { issuer: le(), until: Some(NOW + 300), reason }
}

/// The world with what is observed of `shop/shop-tls`, which has a placeholder.
fn world(acme: Option<AcmeState>) -> World {
    build(inputs(), acme)
}

fn build(inputs: Inputs, acme: Option<AcmeState>) -> World {
    let compiled = edge_config::compile(&inputs);
    let issued = compiled.snapshot.certificates.iter().filter(|one| !matches!(one.issuer, WantedIssuer::Acme(_)));
    let mut certificates: BTreeMap<CertId, CertificateState> =
        issued.map(|one| (one.id.clone(), state(CertificateSource::Issued("internal CA".into()), 80))).collect();
    certificates.insert(id("shop/shop-tls"), state(CertificateSource::Placeholder, 7));
    let mut observed = Observed { certificates, ..Observed::default() };
    if let Some(acme) = acme {
        observed.acme.certificates.insert(id("shop/shop-tls"), acme);
    }
    let account = IssuerState {
        account: Some("https://acme-v02.api.letsencrypt.org/acme/acct/1".into()),
        tally: Tally { obtained: 3, failed: BTreeMap::from([(Class::Validation, 2)]) },
        awaits_secrets: false,
        contact: None,
        thumbprint: Some("n0tReal".into()),
        error: None,
        paused_until: None,
    };
    observed.acme.issuers.insert(le(), account);
    World {
        generation: 1,
        since: now(),
        inputs: Arc::new(inputs),
        endpoints: Arc::default(),
        compiled: Arc::new(compiled),
        observed: Arc::new(observed),
        ..World::empty("edge-1", ago(3600))
    }
}

fn facts(address: &str, announced: Announced) -> Facts {
    fn seen<T>(said: Said<T>) -> Seen<T> {
        Seen { sight: Sight::AsTheCa, server: "9.9.9.9".into(), aliases: Vec::new(), said }
    }
    Facts {
        wish: Wish {
            identifier: Identifier::Dns("shop.example.com".into()),
            wildcard: false,
            kind: ChallengeKind::Http01,
            ca: Ca {
                name: "ClusterIssuer le".into(),
                identities: vec!["letsencrypt.org".into()],
                account: None,
                stands: Stands::OnTheInternet,
            },
            entries: vec![Entry { address: VIP.parse().unwrap(), announced }],
            edges: Vec::new(),
            written: Written::There,
        },
        addresses: Some(Addresses {
            a: match address.parse() {
                Ok(address) => seen(Said::Records(vec![address])),
                Err(_) => seen(Said::NoName),
            },
            aaaa: seen(Said::NoRecord),
        }),
        caa: vec![CaaStep { name: "example.com".into(), seen: seen(Said::NoRecord) }],
        record: None,
    }
}

/// What pre-flight stops is an order that failed before the CA was asked.
fn stopped(facts: &Facts) -> OrderError {
    let stops = judge(facts).into_iter().find(|finding| finding.severity == Severity::Stops).unwrap();
    OrderError::new(Class::Validation, Step::Prepare, stops.text)
}

fn refused(kind: &str, detail: &str, address: &str) -> OrderError {
    let mut error = OrderError::new(Class::Validation, Step::Validate, "");
    error.faults = vec![Fault {
        identifier: Identifier::Dns("shop.example.com".into()),
        wildcard: false,
        challenge: Some(ChallengeKind::Http01),
        class: Class::Validation,
        kind: Some(kind.into()),
        detail: detail.into(),
        looked_at: vec![LookedAt {
            url: Some("http://shop.example.com/.well-known/acme-challenge/x".into()),
            host: "shop.example.com".into(),
            port: Some(80),
            resolved: vec![address.parse().unwrap()],
            used: Some(address.parse().unwrap()),
        }],
    }];
    error
}

fn of_ca(class: Class, step: Step, kind: &str, detail: &str) -> OrderError {
    let mut error = OrderError::new(class, step, detail);
    error.kind = (!kind.is_empty()).then(|| kind.into());
    error
}

fn spent(world: &World) -> Bucket {
    let wanted = world.compiled.snapshot.certificates.iter().find(|one| one.id == id("shop/shop-tls")).unwrap();
    let directory = "https://acme-v02.api.letsencrypt.org/directory";
    let charge = Charge::of_order(directory, &le(), wanted, Exemption::None);
    charge.buckets.into_iter().find(|bucket| &*bucket.of == "example.com").unwrap()
}

fn with_budget() -> World {
    let bucket = spent(&world(None));
    let until = NOW + 12_120;
    let mut world = world(Some(waits(Wait::Budget { issuer: le(), bucket: bucket.clone(), until })));
    let observed = Arc::make_mut(&mut world.observed);
    observed.acme.budget =
        vec![Usage { bucket, used: 50, most: 50, until: Some(until), full_at: NOW + 600_000, refused_until: None }];
    world
}

fn deferred() -> World {
    let mut inputs = inputs();
    for gateway in inputs.gateways.values_mut() {
        // Only what the API server has is cert-manager's.
        Arc::make_mut(gateway).meta.origin.line = 0;
    }
    inputs.cert_manager = Some(CertManager { gateways: true });
    build(inputs, None)
}

fn fleet(mut world: World, orders: Result<&str, &str>) -> World {
    let seen = FleetObserved {
        name: "edge-1".into(),
        orders: orders.map(str::to_owned).map_err(str::to_owned),
        since: ago(60),
        peers: Vec::new(),
        drift: Vec::new(),
        ticket_keys_since: None,
        notices: Vec::new(),
    };
    Arc::make_mut(&mut world.observed).fleet = Some(Arc::new(seen));
    world
}

fn valid() -> World {
    let mut world = world(Some(AcmeState {
        issuer: Some(le()),
        level: Level::Fine,
        alarm: Alarm::None,
        ..ordered(AcmeStep::Held { renews_at: span::unix(NOW + 50 * 86_400) })
    }));
    let held = CertificateState {
        renews_at: span::unix(NOW + 50 * 86_400),
        ..state(CertificateSource::Issued("ClusterIssuer le".into()), 80)
    };
    Arc::make_mut(&mut world.observed).certificates.insert(id("shop/shop-tls"), held);
    world
}

/// Every cause with its sentence, made by the parts that make it in a running edge.
#[test]
fn every_cause_has_its_sentence() {
    let here = || facts(VIP, Announced::Yes);
    let gone = facts("none", Announced::Yes);
    let silent = facts(VIP, Announced::No("no BGP session is up".into()));
    let elsewhere = facts("198.51.101.7", Announced::Yes);
    let mut forbidden = here();
    let caa = Caa { critical: false, tag: "issue".into(), value: "other-ca.example".into() };
    forbidden.caa[0].seen.said = Said::Records(vec![caa]);
    let mut limited = of_ca(Class::Limited, Step::NewOrder, "", "503 Service Unavailable");
    limited.until = Some(NOW + 300);
    let mut rate = of_ca(Class::Limited, Step::NewOrder, "rateLimited", "too many new orders recently");
    rate.until = Some(NOW + 600);
    let eab = "external account binding: key id kid-1 is unknown";
    let ours = |kind: &str, detail: &str| failed(&refused(kind, detail, VIP), Some(&here()), backoff);
    let plain = |error: OrderError, wait| world(Some(failed(&error, None, wait)));
    let readiness = "2/3 edges answer; edge-3: no answer within 5s";
    let cases: Vec<(&str, World, &str, Cause)> = vec![
        ("nothing is wrong", valid(), "shop.example.com", Cause::Fine),
        (
            "an order is under way",
            world(Some(ordered(AcmeStep::Ordering { issuer: le(), doing: "the CA validates".into(), since: ago(2) }))),
            "shop.example.com",
            Cause::Ordering,
        ),
        (
            "the name does not resolve",
            world(Some(failed(&stopped(&gone), Some(&gone), backoff))),
            "shop.example.com",
            Cause::OrderFailed,
        ),
        (
            "the name points elsewhere",
            world(Some(failed(
                &refused("unauthorized", "Invalid response from http://shop.example.com/: 404", "198.51.101.7"),
                Some(&elsewhere),
                backoff,
            ))),
            "shop.example.com",
            Cause::OrderFailed,
        ),
        (
            "CAA forbids",
            world(Some(failed(&stopped(&forbidden), Some(&forbidden), backoff))),
            "shop.example.com",
            Cause::OrderFailed,
        ),
        (
            "the VIP is not announced",
            world(Some(failed(&stopped(&silent), Some(&silent), backoff))),
            "shop.example.com",
            Cause::OrderFailed,
        ),
        (
            "port 80 is closed",
            world(Some(ours("connection", "Timeout during connect (likely firewall problem)"))),
            "shop.example.com",
            Cause::OrderFailed,
        ),
        (
            "somebody else answers port 80",
            world(Some(ours("unauthorized", "Invalid response from http://shop.example.com/: \"<html>\""))),
            "shop.example.com",
            Cause::OrderFailed,
        ),
        (
            "an edge does not answer the token",
            plain(of_ca(Class::Ours, Step::Present, "", readiness), backoff),
            "shop.example.com",
            Cause::OrderFailed,
        ),
        ("the budget is spent", with_budget(), "shop.example.com", Cause::Budget),
        ("the CA limits", plain(rate, backoff), "shop.example.com", Cause::Budget),
        (
            "the CA is down",
            plain(of_ca(Class::Transient, Step::Directory, "", "connection refused"), down),
            "shop.example.com",
            Cause::CaDown,
        ),
        ("the CA says when", plain(limited, down), "shop.example.com", Cause::CaDown),
        (
            "the account is rejected",
            plain(of_ca(Class::Config, Step::NewOrder, "unauthorized", "account is deactivated"), backoff),
            "shop.example.com",
            Cause::OrderFailed,
        ),
        (
            "the external account is rejected",
            plain(of_ca(Class::Config, Step::Account, "unauthorized", eab), down),
            "shop.example.com",
            Cause::CaDown,
        ),
        (
            "credentials of DNS are missing",
            plain(of_ca(Class::Ours, Step::Present, "", "Secret cert-manager/tsig: not read yet"), backoff),
            "shop.example.com",
            Cause::OrderFailed,
        ),
        (
            "the account's Secret is not known",
            world(Some(waits(Wait::NoIssuer {
                issuer: le(),
                reason: "Secret cert-manager/le is not read yet".into(),
            }))),
            "shop.example.com",
            Cause::Issuer,
        ),
        ("no public CA issues for the name", world(None), "shop.cluster.local", Cause::NotPublic),
        ("the issuer does not exist", world(None), "nowhere.example.com", Cause::Issuer),
        ("the issuer is half written", world(None), "half.example.com", Cause::Issuer),
        ("cert-manager issues it", deferred(), "shop/shop-tls", Cause::Deferred),
        (
            "another edge orders",
            fleet(world(Some(ordered(AcmeStep::Elsewhere { edge: "edge-2".into() }))), Ok("edge-2")),
            "shop.example.com",
            Cause::Elsewhere,
        ),
        (
            "no edge orders",
            fleet(world(Some(ordered(AcmeStep::Elsewhere { edge: "the Lease is not read yet".into() }))), Err("x")),
            "shop.example.com",
            Cause::NobodyOrders,
        ),
        ("the clock is wrong", world(Some(waits(Wait::Clock))), "shop.example.com", Cause::Clock),
    ];
    let mut text = String::new();
    for (name, world, asked, cause) in cases {
        let id = find(&world, asked).unwrap();
        let found = why(&world, &id, now()).unwrap();
        assert_eq!(found.cause, cause, "{name}: {}", found.sentence);
        assert!(!found.sentence.contains('\n') && !found.sentence.ends_with('.'), "{name}: {}", found.sentence);
        text.push_str(&format!("{name}:\n  {}\n", found.sentence));
    }
    golden("cert-why.txt", &text);
}

#[test]
fn views() {
    let gone = facts("none", Announced::Yes);
    let world = world(Some(failed(&stopped(&gone), Some(&gone), backoff)));
    golden("cert-list.txt", &render(&list(&world, now()), Format::Human, Style::default(), true));
    let id = id("shop/shop-tls");
    let why = why(&world, &id, now()).unwrap();
    golden("cert-why-one.txt", &render(&why, Format::Human, Style::default(), true));
    golden("cert-why-one.json", &render(&why, Format::Json, Style::default(), true));
    let shown = shown(&world, &id, Err("shop/shop-tls has a placeholder only"), now()).unwrap();
    golden("cert-show.txt", &render(&shown, Format::Human, Style::default(), true));
    golden("cert-budget.txt", &render(&budget(&with_budget()), Format::Human, Style::default(), true));
}

#[test]
fn what_is_served_and_what_it_means() {
    let row = |world: &World, name: &str| {
        let rows = list(world, now()).certificates;
        rows.into_iter().find(|row| row.certificate == name).unwrap()
    };
    for (name, world, certificate, served, state) in [
        ("valid", valid(), "shop/shop-tls", Served::Real, State::Up),
        ("placeholder", world(Some(waits(backoff("x".into())))), "shop/shop-tls", Served::Placeholder, State::Degraded),
        ("a name of the cluster", world(None), "shop/inner-tls", Served::StandIn, State::Up),
        ("a broken issuer", world(None), "shop/half-tls", Served::StandIn, State::Degraded),
        ("nobody is asked", world(None), "shop/bare-tls", Served::Real, State::Up),
    ] {
        let row = row(&world, certificate);
        assert_eq!((row.served, row.health.state), (served, state), "{name}: {row:?}");
    }
    let mut late = valid();
    let observed = Arc::make_mut(&mut late.observed);
    let acme = observed.acme.certificates.get_mut(&id("shop/shop-tls")).unwrap();
    (acme.level, acme.standing) = (Level::Late, "its renewal is overdue by 3 d".into());
    let row = row(&late, "shop/shop-tls");
    assert_eq!((row.served, row.health.state), (Served::LastGood, State::Degraded));
    assert_eq!(row.health.reason, "its renewal is overdue by 3 d");
}

#[test]
fn names_are_found() {
    let world = world(None);
    for (asked, expected) in [
        ("shop/shop-tls", Ok("shop/shop-tls")),
        ("Shop.Example.com.", Ok("shop/shop-tls")),
        ("shop.cluster.local", Ok("shop/inner-tls")),
        ("other.example.com", Err("no certificate is wanted or served for other.example.com")),
        ("", Err("is missing")),
    ] {
        match (find(&world, asked), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found.to_string(), expected, "{asked}"),
            (Err(reason), Err(expected)) => assert!(reason.contains(expected), "{asked}: {reason}"),
            (found, expected) => panic!("{asked}: {found:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn figures() {
    use crate::proxy::metrics::{Format, Text};
    let mut text = Text::new(Format::OpenMetrics);
    metrics::write(&with_budget(), now(), &mut text);
    golden("cert-metrics.txt", &text.finish());
}
