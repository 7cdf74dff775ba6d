//! Plans for certificates that are ordered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use edge_config::issuer::IssuerId;
use edge_config::names::ObjectKey;
use edge_config::snapshot::{Adopt, KeyAlgorithm};
use proptest::prelude::*;

use super::*;
use crate::budget::{Limit, Limits};
use crate::failure::{Class, Fault, OrderError, Step};
use crate::level::Level;
use crate::memory::{Memory, Tried};
use crate::order::RenewalWindow;

const NOW: i64 = 1_800_000_000;
const MINUTE: i64 = 60;
const HOUR: i64 = 3600;
const DAY: i64 = 86_400;

fn id(name: &str) -> CertId {
    CertId(ObjectKey::new("a", name))
}

fn issuer(name: &str) -> IssuerId {
    IssuerId(name.into())
}

fn wanted(name: &str, issuers: &[&str]) -> WantedCertificate {
    WantedCertificate {
        id: id(name),
        issuer: WantedIssuer::Acme(issuers.iter().map(|name| issuer(name)).collect()),
        dns_names: vec![format!("{name}.example.org").into()],
        addresses: Vec::new(),
        common_name: None,
        is_ca: false,
        key: KeyAlgorithm::EcdsaP256,
        rotate_key: true,
        duration: Duration::from_secs(90 * DAY as u64),
        renew_before: Duration::ZERO,
        profile: None,
        labels: Vec::new(),
        write_back: None,
        adopt: None,
        wanted_by: Vec::new(),
    }
}

fn state(directory: &str) -> IssuerState {
    IssuerState {
        directory: directory.into(),
        profile: None,
        account: Some(format!("{directory}/account").into()),
        tells_windows: true,
        limits: Limits::LETS_ENCRYPT,
        concurrent: CONCURRENT,
        unusable: None,
        settings: 7,
    }
}

struct World {
    wanted: Vec<WantedCertificate>,
    issuers: BTreeMap<IssuerId, IssuerState>,
    held: BTreeMap<CertId, Held>,
    under_way: BTreeMap<CertId, UnderWay>,
    memory: Memory,
    elsewhere: Option<&'static str>,
    now: i64,
}

impl World {
    fn new(wanted: Vec<WantedCertificate>) -> Self {
        Self {
            wanted,
            issuers: BTreeMap::from([(issuer("one"), state("https://one")), (issuer("two"), state("https://two"))]),
            held: BTreeMap::new(),
            under_way: BTreeMap::new(),
            memory: Memory::new(),
            elsewhere: None,
            now: NOW,
        }
    }

    /// `count` certificates of issuer one.
    fn many(count: usize) -> Self {
        Self::new((0..count).map(|n| wanted(&format!("c{n:03}"), &["one"])).collect())
    }

    /// Held since `age` seconds, of a lifetime of `days`.
    fn hold(mut self, index: usize, by: &str, age: i64, days: i64) -> Self {
        let wanted = &self.wanted[index];
        let state = &self.issuers[&issuer(by)];
        let made = MadeFor::ordered(wanted, &issuer(by), state);
        let made_for =
            made.obtained(state.account.clone().unwrap_or_default(), Some(format!("ari {}", wanted.id).into()));
        let validity = Validity { not_before: NOW - age, not_after: NOW - age + days * DAY };
        self.held.insert(wanted.id.clone(), Held { made_for, validity, key_id: KeyId("k".into()) });
        self
    }

    fn plan(&self) -> Plan {
        plan(&PlanInput {
            wanted: &self.wanted,
            held: &self.held,
            supplied_cas: &BTreeMap::new(),
            internal: Err("none"),
            failures: &BTreeMap::new(),
            acme: AcmeInput {
                issuers: &self.issuers,
                under_way: &self.under_way,
                polling: &BTreeSet::new(),
                memory: &self.memory,
                elsewhere: self.elsewhere,
            },
            now: self.now,
        })
    }

    fn names(&self) -> Vec<String> {
        self.plan().orders.iter().map(|order| order.id.0.name.to_string()).collect()
    }

    fn wait(&self, name: &str) -> Wait {
        self.plan().waiting[&id(name)].clone()
    }

    fn start(&mut self) -> Vec<PlannedOrder> {
        let orders = self.plan().orders;
        for order in &orders {
            let state = self.issuers[&order.issuer].clone();
            self.memory.started(order, &state, self.now);
            self.under_way.insert(order.id.clone(), order.under_way(self.now));
        }
        orders
    }

    fn fail(&mut self, name: &str, error: &OrderError) {
        let order = self.under_way.remove(&id(name)).unwrap();
        let wanted = self.wanted.iter().find(|wanted| wanted.id == id(name)).unwrap();
        let tried = Tried { wanted, order: &order, issuer: &self.issuers[&order.issuer] };
        self.memory.failed(&tried, error, true, self.now);
    }
}

impl World {
    /// The order is kept, to be gone on with.
    fn stop(&mut self, name: &str, error: &OrderError) {
        let order = UnderWay { running: false, ..self.under_way[&id(name)].clone() };
        let wanted = self.wanted.iter().find(|wanted| wanted.id == id(name)).unwrap();
        let tried = Tried { wanted, order: &order, issuer: &self.issuers[&order.issuer] };
        self.memory.failed(&tried, error, false, self.now);
        self.under_way.insert(id(name), order);
    }
}

fn unmoved() -> OrderError {
    let error = OrderError::new(Class::Transient, Step::Finalize, "the CA has not come to an end within 180 s");
    OrderError { resumes: true, answered: true, ..error }
}

#[test]
fn an_order_that_does_not_end_holds_up_itself_and_not_for_ever() {
    let mut world = World::new(vec![wanted("stuck", &["one", "two"]), wanted("other", &["one"])]);
    world.wanted[1].dns_names = vec!["other.example.net".into()];
    world.start();
    world.stop("stuck", &unmoved());
    world.under_way.remove(&id("other"));
    // The CA answers: others are ordered as ever.
    assert_eq!(world.names(), ["other"]);
    world.wanted.truncate(1);
    let mut resumed = 0;
    let second = loop {
        world.now += 10;
        let orders = world.start();
        match orders.as_slice() {
            [] => continue,
            [order] if matches!(order.start, Start::Resume { .. }) => {
                assert_eq!(order.issuer, issuer("one"));
                resumed += 1;
                world.now += 180;
                world.stop("stuck", &unmoved());
            }
            [order] => break order.clone(),
            more => panic!("{more:?}"),
        }
    };
    // The next issuer, after a quarter of an hour or so.
    assert_eq!(second.issuer, issuer("two"));
    assert!((10 * MINUTE..25 * MINUTE).contains(&(world.now - NOW)) && resumed >= 2, "{} {resumed}", world.now - NOW);
}

/// The clock of this machine jumps, that of the CA does not: nothing is ordered more often than daily.
#[test]
fn a_clock_that_jumps_makes_no_storm() {
    for (jump, least, most) in [
        (-3650 * DAY, 0, 0),
        (-60 * DAY, 0, 0),
        (-DAY, 0, 0),
        (-HOUR, 0, 0),
        (HOUR, 0, 0),
        // It looks due, or expired: daily, for the CA's answer is no better.
        (60 * DAY, 1, 6),
        (87 * DAY, 1, 6),
        (200 * DAY, 1, 6),
        (3650 * DAY, 1, 6),
    ] {
        let mut world = World::many(4);
        for n in 0..4 {
            world = world.hold(n, "one", DAY, 90);
        }
        world.now = NOW + jump;
        let mut orders: BTreeMap<CertId, u32> = BTreeMap::new();
        for step in 0..5 * 72 {
            let truth = NOW + step * 20 * MINUTE;
            world.now = truth + jump;
            for order in world.start() {
                *orders.entry(order.id.clone()).or_default() += 1;
                let validity = Validity { not_before: truth - HOUR, not_after: truth + 90 * DAY };
                if validity.not_after <= world.now || validity.not_before > world.now + DAY {
                    world.fail(&order.id.0.name, &OrderError::new(Class::Config, Step::Verify, "is the clock right?"));
                    continue;
                }
                let under_way = world.under_way.remove(&order.id).unwrap();
                let wanted = world.wanted[order.index].clone();
                let tried = Tried { wanted: &wanted, order: &under_way, issuer: &world.issuers[&issuer("one")] };
                world.memory.obtained(&tried, true, world.now);
                world.held.get_mut(&order.id).unwrap().validity = validity;
            }
        }
        let counts: Vec<u32> = world.wanted.iter().map(|one| orders.get(&one.id).copied().unwrap_or(0)).collect();
        assert!(counts.iter().all(|count| (least..=most).contains(count)), "{} d: {counts:?}", jump / DAY);
    }
}

/// The clock is two months ahead of the CA's, or the CA wants all that it issues renewed at once.
#[test]
fn what_is_due_as_soon_as_it_comes_is_renewed_once_a_day() {
    for window in [None, Some((-2 * DAY, -DAY))] {
        let mut world = World::many(1);
        let mut orders = 0;
        while world.now < NOW + 10 * DAY {
            for order in world.start() {
                orders += 1;
                let under_way = world.under_way.remove(&order.id).unwrap();
                let tried =
                    Tried { wanted: &world.wanted[0], order: &under_way, issuer: &world.issuers[&issuer("one")] };
                world.memory.obtained(&tried, false, world.now);
                let age = if window.is_none() { 61 * DAY } else { 0 };
                world = world.hold(0, "one", age, 90);
            }
            if let Some((start, end)) = window {
                let window = RenewalWindow {
                    start: NOW + start,
                    end: NOW + end,
                    explanation: None,
                    ask_again: world.now + HOUR,
                };
                world.memory.window(&id("c000"), "ari a/c000", &window, world.now);
            }
            world.now += 20 * MINUTE;
        }
        assert!((2..=12).contains(&orders), "{window:?}: {orders}");
    }
}

/// What makes a CA look down must not be its only probe.
#[test]
fn a_ca_that_is_down_is_not_probed_by_the_same_certificate_again_and_again() {
    let mut world = World::many(20);
    world.issuers.get_mut(&issuer("one")).unwrap().concurrent = 1;
    let mut probes = Vec::new();
    for _ in 0..10 {
        let orders = world.start();
        probes.extend(orders.iter().map(|order| order.id.0.name.to_string()));
        for order in orders {
            world.fail(&order.id.0.name, &unreachable());
        }
        world.now += 400;
    }
    let different: BTreeSet<&String> = probes.iter().collect();
    assert_eq!((probes.len(), different.len()), (10, 10), "{probes:?}");
}

/// A month of every kind of trouble: how often is a CA asked? (Goal: at most once in an hour for each name that the CA
/// judges, and one request in five minutes for a CA that is away.)
#[test]
fn a_month_of_trouble_stays_within_the_published_limits() {
    let with = |class, kind: Option<&str>, step| {
        let mut error = OrderError::new(class, step, "trouble");
        error.kind = kind.map(Into::into);
        error
    };
    let cases = [
        ("away", OrderError { resumes: true, ..unreachable() }, 30 * 24 * 12),
        ("stuck", unmoved(), 3 * 30 * 25),
        ("validation", invalid("c000"), 3 * 40),
        ("refused", with(Class::Config, Some("rejectedIdentifier"), Step::NewOrder), 3 * 31),
        ("another certificate", with(Class::Config, None, Step::Verify), 3 * 31),
        ("too many", with(Class::Limited, Some("rateLimited"), Step::NewOrder), 30 * 24 * 3),
        ("no words", with(Class::Limited, None, Step::NewOrder), 30 * 24 + 20),
        ("disk", with(Class::Ours, None, Step::Journal), 3 * 30 * 24),
        ("pre-flight", with(Class::Validation, None, Step::Prepare), 3 * 30 * 25),
    ];
    for (title, error, most) in cases {
        let mut world = World::many(3);
        let (mut tries, mut judged) = (0, 0);
        while world.now < NOW + 30 * DAY {
            let orders = world.start();
            tries += orders.len();
            judged += orders.iter().filter(|order| matches!(order.start, Start::New { .. })).count();
            for order in &orders {
                let name = order.id.0.name.to_string();
                let error = if title == "validation" { invalid(&name) } else { error.clone() };
                if error.resumes { world.stop(&name, &error) } else { world.fail(&name, &error) }
            }
            let next = world.plan().next.unwrap_or(world.now + HOUR);
            world.now = next.clamp(world.now + 1, world.now + HOUR);
        }
        assert!(tries <= most, "{title}: {tries} tries, at most {most}");
        assert!(tries >= 3, "{title}: given up");
        eprintln!("{title}: {tries} tries, {judged} orders in 30 days of 3 certificates");
    }
}

fn unreachable() -> OrderError {
    OrderError::new(Class::Transient, Step::NewOrder, "connection refused")
}

fn invalid(name: &str) -> OrderError {
    let mut error = OrderError::new(Class::Validation, Step::Validate, "");
    error.faults.push(Fault {
        identifier: crate::challenge::Identifier::Dns(format!("{name}.example.org").into()),
        wildcard: false,
        challenge: None,
        class: Class::Validation,
        kind: Some("connection".into()),
        detail: "refused".into(),
        looked_at: Vec::new(),
    });
    error
}

#[test]
fn due_by_window_by_wish_and_by_lifetime() {
    // (lifetime in days, window in days, renew_before in days; earliest and latest hour since issuance)
    for (days, window, before, earliest, latest) in [
        (90, None, 0, 54 * 24, 60 * 24),
        (45, None, 0, 27 * 24, 30 * 24),
        (6, None, 0, 86, 96),
        (365, None, 0, 219 * 24, 244 * 24),
        (90, None, 20, 63 * 24, 70 * 24),
        // Thirty days of forty-five, or of six, is nobody's wish: two thirds.
        (45, None, 30, 27 * 24, 30 * 24),
        (6, None, 30, 86, 96),
        (90, Some((40, 41)), 20, 40 * 24, 41 * 24),
        (90, Some((-4, -3)), 0, -4 * 24, -3 * 24),
        // A window that ends with the certificate, or after it, is too late.
        (90, Some((89, 95)), 0, 85 * 24, 86 * 24),
        // Upside down.
        (90, Some((50, 20)), 0, 50 * 24, 50 * 24),
    ] {
        for name in ["a/x", "b/y", ""] {
            let validity = Validity { not_before: NOW, not_after: NOW + days * DAY };
            let window = window.map(|(start, end)| (NOW + start * DAY, NOW + end * DAY));
            let lead = Duration::from_secs(before * DAY as u64);
            let due = (crate::due::acme_due(validity, window, lead, name) - NOW) / HOUR;
            assert!((earliest..=latest).contains(&due), "{days} {window:?} {before}: {due} h");
        }
    }
}

#[test]
fn what_serves_nothing_goes_first_then_what_expires_soonest() {
    let mut world = World::many(5)
        .hold(0, "one", 61 * DAY, 90)
        .hold(1, "one", 70 * DAY, 90)
        .hold(2, "one", 88 * DAY, 90)
        .hold(3, "one", 92 * DAY, 90);
    assert_eq!(world.names(), ["c004", "c003", "c002", "c001", "c000"]);
    let reasons: Vec<Reason> = world.plan().orders.into_iter().map(|order| order.reason).collect();
    assert_eq!(reasons, [Reason::Missing, Reason::Expired, Reason::Pressing, Reason::Due, Reason::Due]);
    let levels: Vec<Level> = world.plan().standing.values().map(|standing| standing.level).collect();
    assert!(levels[2] == Level::Critical && levels[3] == Level::Expired && levels[4] == Level::Missing, "{levels:?}");
    // A name more is a change, and it goes before renewals.
    world.wanted[0].dns_names.push("more.example.org".into());
    assert_eq!(world.names(), ["c004", "c003", "c002", "c000", "c001"]);
}

#[test]
fn orders_at_a_time_are_bounded_and_the_account_is_made_once() {
    let mut world = World::many(40);
    assert_eq!(world.plan().orders.len(), CONCURRENT);
    assert_eq!(world.wait("c039"), Wait::Busy(issuer("one")));
    world.start();
    assert!(world.plan().orders.is_empty());
    assert!(matches!(world.wait("c000"), Wait::UnderWay { .. }));

    let mut world = World::many(40);
    world.issuers.get_mut(&issuer("one")).unwrap().account = None;
    let orders = world.start();
    assert_eq!(orders.len(), 1);
    let Start::New { charge, .. } = &orders[0].start else { panic!("{orders:?}") };
    assert!(charge.buckets.iter().any(|bucket| bucket.limit == Limit::NewAccounts));
    assert_eq!(world.wait("c039"), Wait::Account(issuer("one")));
}

#[test]
fn a_limit_is_known_before_the_order() {
    let mut world = World::many(60);
    world.issuers.get_mut(&issuer("one")).unwrap().concurrent = 1000;
    assert_eq!(world.plan().orders.len(), 50, "certificates per registered domain");
    let waits: Vec<Wait> = world.plan().waiting.values().cloned().collect();
    let turns: BTreeSet<i64> = waits.iter().filter_map(Wait::until).collect();
    assert_eq!(turns.len(), 10, "each knows its turn");
    let text = waits[0].to_string();
    assert!(
        text.starts_with("one allows no more now: certificates per registered domain of example.org; next at "),
        "{text}"
    );
    assert_eq!(world.plan().next, turns.first().copied());
}

#[test]
fn replaces_only_by_the_account_that_got_it() {
    let replaces = |world: &World| match &world.plan().orders[0].start {
        Start::New { replaces, charge } => (replaces.as_deref().map(str::to_owned), charge.buckets.len()),
        Start::Resume { .. } => panic!("nothing is under way"),
    };
    let held = || World::many(1).hold(0, "one", 70 * DAY, 90);
    // Only its own pace is charged.
    assert_eq!(replaces(&held()), (Some("ari a/c000".into()), 1));
    let mut other_account = held();
    other_account.issuers.get_mut(&issuer("one")).unwrap().account = Some("https://one/account/2".into());
    // The exact set counts, neither domain nor orders.
    assert_eq!(replaces(&other_account), (None, 2));
    let mut silent = held();
    silent.issuers.get_mut(&issuer("one")).unwrap().tells_windows = false;
    assert_eq!(replaces(&silent).0, None);
    let mut other_names = held();
    other_names.wanted[0].dns_names = vec!["new.example.org".into()];
    assert_eq!(replaces(&other_names), (None, 4));
    let mut refused = held();
    refused.start();
    let window = RenewalWindow { start: NOW, end: NOW, explanation: None, ask_again: NOW + HOUR };
    refused.memory.window(&id("c000"), "ari a/c000", &window, NOW);
    let mut error = OrderError::new(Class::Transient, Step::NewOrder, "already replaced");
    error.kind = Some("alreadyReplaced".into());
    refused.fail("c000", &error);
    refused.now += MINUTE;
    assert_eq!(replaces(&refused).0, None);
}

#[test]
fn windows_are_asked_for_and_obeyed() {
    let mut world = World::many(40);
    for n in 0..40 {
        world = world.hold(n, "one", DAY, 90);
    }
    let polls = world.plan().polls;
    assert_eq!((polls.len(), &*polls[0].ari_id), (32, "ari a/c000"));
    let window = |from: i64| RenewalWindow {
        start: NOW + from,
        end: NOW + from + DAY,
        explanation: None,
        ask_again: NOW + 6 * HOUR,
    };
    world.memory.window(&id("c000"), "ari a/c000", &window(10 * DAY), NOW);
    let plan = world.plan();
    assert!(!plan.polls.iter().any(|poll| poll.id == id("c000")) && plan.orders.is_empty());
    assert!((10 * DAY..11 * DAY).contains(&(plan.renewals[&id("c000")] - NOW)));
    // The CA takes it back.
    world.memory.window(&id("c000"), "ari a/c000", &window(-2 * DAY), NOW);
    assert_eq!(world.names(), ["c000"]);
    // Of another certificate.
    world.memory.window(&id("c001"), "another", &window(-2 * DAY), NOW);
    assert_eq!(world.names(), ["c000"]);
    // It cannot be asked: what was said holds, and it is asked again later.
    world.memory.window_failed(&id("c000"), "ari a/c000", &unreachable(), NOW);
    assert_eq!(world.names(), ["c000"]);
    assert!(!world.plan().polls.iter().any(|poll| poll.id == id("c000")));
    world.elsewhere = Some("b");
    assert!(world.plan().polls.is_empty() && world.plan().orders.is_empty());
    assert_eq!(world.wait("c000"), Wait::Elsewhere("b".into()));
}

#[test]
fn a_ca_that_is_down_is_tried_by_one() {
    let mut world = World::many(40);
    for order in world.start() {
        world.fail(&order.id.0.name, &unreachable());
    }
    assert!(world.names().is_empty());
    let Wait::CaDown { until: Some(until), .. } = world.wait("c000") else { panic!("{:?}", world.wait("c000")) };
    assert!((5..=6).contains(&(until - NOW)), "sixteen that fail together are one failure");
    world.now = until;
    let probe = world.start();
    assert_eq!(probe.len(), 1);
    let other = world.plan().waiting.values().find(|wait| matches!(wait, Wait::CaDown { until: None, .. })).cloned();
    let text = other.unwrap().to_string();
    assert!(text.starts_with("one cannot be used: ") && text.ends_with("; another order is trying it now"), "{text}");
    // It comes through: all others at once, but not more than ever.
    let order = world.under_way.remove(&probe[0].id).unwrap();
    let wanted = world.wanted[probe[0].index].clone();
    let tried = Tried { wanted: &wanted, order: &order, issuer: &world.issuers[&issuer("one")] };
    world.memory.obtained(&tried, false, world.now);
    world.wanted.remove(probe[0].index);
    world.now += 10;
    assert_eq!(world.names().len(), CONCURRENT);
}

#[test]
fn an_outage_of_hours_costs_a_handful_of_tries() {
    let mut world = World::many(40);
    let (mut tries, end) = (0, NOW + 6 * HOUR);
    while world.now < end {
        let orders = world.start();
        tries += orders.len();
        for order in orders {
            world.fail(&order.id.0.name, &unreachable());
        }
        world.now = world.plan().next.unwrap().max(world.now + 1);
    }
    assert!((60..110).contains(&tries), "{tries}");
}

#[test]
fn a_poisoned_order_does_not_stand_in_the_way() {
    let mut world = World::many(3);
    world.start();
    let mut error = OrderError::new(Class::Transient, Step::Finalize, "boom");
    error.kind = Some("serverInternal".into());
    world.fail("c000", &error);
    world.under_way.clear();
    assert_eq!(world.names(), ["c001", "c002"]);
    assert!(matches!(world.wait("c000"), Wait::Backoff { .. }));
}

#[test]
fn a_name_that_is_not_validated_is_tried_at_1_10_100_minutes_and_daily() {
    let mut world = World::new(vec![wanted("x", &["one"])]);
    let mut waits = Vec::new();
    for _ in 0..6 {
        world.start();
        world.fail("x", &invalid("x"));
        let until = world.wait("x").until().unwrap();
        waits.push((until - world.now) / MINUTE);
        world.now = until;
    }
    for (wait, (least, most)) in
        waits.iter().zip([(1, 1), (10, 12), (100, 120), (1440, 1728), (1440, 1728), (1440, 1728)])
    {
        assert!((least..=most).contains(wait), "{waits:?}");
    }
    // Another certificate for the same name does not try its luck either.
    world.start();
    world.fail("x", &invalid("x"));
    world.wanted.push(WantedCertificate { dns_names: vec!["*.x.example.org".into()], ..wanted("y", &["one"]) });
    assert!(matches!(world.wait("y"), Wait::Backoff { .. }));
    // Asked for by a person, both do.
    let asked = world.wanted[0].clone();
    world.memory.ask(&asked, world.now);
    assert_eq!(world.names(), ["x", "y"]);
}

#[test]
fn what_can_never_succeed_waits_for_a_change() {
    let mut world = World::new(vec![wanted("x", &["one"])]);
    world.start();
    let mut error = OrderError::new(Class::Config, Step::NewOrder, "forbidden by policy");
    error.kind = Some("rejectedIdentifier".into());
    world.fail("x", &error);
    let until = world.wait("x").until().unwrap();
    assert!((DAY..2 * DAY).contains(&(until - NOW)));
    let mut changed = World { memory: world.memory.clone(), ..World::new(world.wanted.clone()) };
    changed.wanted[0].dns_names = vec!["mended.example.org".into()];
    assert_eq!(changed.names(), ["x"]);
    let mut mended = World { memory: world.memory.clone(), ..World::new(world.wanted.clone()) };
    mended.issuers.get_mut(&issuer("one")).unwrap().settings = 8;
    assert_eq!(mended.names(), ["x"]);
}

#[test]
fn a_wait_that_the_ca_asks_for_goes_first() {
    let mut world = World::many(3);
    world.issuers.get_mut(&issuer("one")).unwrap().concurrent = 1;
    world.start();
    let mut error = OrderError::new(
        Class::Limited,
        Step::NewOrder,
        "too many certificates (50) already issued for \"example.org\" in the last 168h",
    );
    error.kind = Some("rateLimited".into());
    error.until = Some(NOW + 9 * HOUR);
    world.fail("c000", &error);
    world.now += 5;
    // Somebody else spends from the same limit: all of the domain wait.
    for name in ["c000", "c001", "c002"] {
        assert!(world.wait(name).until().unwrap() >= NOW + 9 * HOUR, "{name}");
    }
    world.wanted.push(WantedCertificate { dns_names: vec!["else.net".into()], ..wanted("z", &["one"]) });
    assert_eq!(world.names(), ["z"]);
    // And a person cannot wave it away.
    let asked = world.wanted[0].clone();
    world.memory.ask(&asked, world.now);
    assert_eq!(world.names(), ["z"]);
}

#[test]
fn the_next_issuer_is_asked_when_the_first_cannot_in_time() {
    let by = |world: &World| world.plan().orders.first().map(|order| order.issuer.to_string());
    let fresh = || World::new(vec![wanted("x", &["one", "two"])]);
    assert_eq!(by(&fresh()).as_deref(), Some("one"));

    let mut gone = fresh();
    gone.issuers.remove(&issuer("one"));
    assert_eq!(by(&gone).as_deref(), Some("two"));
    let mut unusable = fresh();
    unusable.issuers.get_mut(&issuer("one")).unwrap().unusable = Some("no key".into());
    assert_eq!(by(&unusable).as_deref(), Some("two"));

    // Down: a quarter of an hour without a certificate is enough.
    let mut down = fresh();
    let second = loop {
        let orders = down.start();
        match orders.first() {
            Some(order) if order.issuer == issuer("two") => break down.now - NOW,
            Some(_) => down.fail("x", &unreachable()),
            None => down.now = down.plan().next.unwrap(),
        }
        assert!(down.now < NOW + HOUR);
    };
    assert!((8 * MINUTE..16 * MINUTE).contains(&second), "{second}");

    // What is held can wait for the first until it gets serious.
    for (age, issuer_name) in [(70, None), (82, Some("two"))] {
        let mut held = fresh().hold(0, "one", age * DAY, 90);
        held.start();
        held.fail("x", &unreachable());
        assert_eq!(by(&held).as_deref(), issuer_name, "{age} days old");
    }
    // And the first has it again at the next renewal.
    assert_eq!(by(&fresh().hold(0, "two", 70 * DAY, 90)).as_deref(), Some("one"));
    assert_eq!(by(&fresh().hold(0, "two", DAY, 90)), None, "but not before");
}

#[test]
fn an_order_of_the_journal_is_gone_on_with() {
    let mut world = World::many(1);
    let before = world.start();
    let spent = world.memory.ledger.clone();
    world.under_way.values_mut().for_each(|order| order.running = false);
    let again = world.start();
    assert_eq!(again[0].start, Start::Resume { replaces: false });
    assert_eq!((&again[0].attempt, &world.memory.ledger), (&before[0].attempt, &spent), "nothing more is spent");
    // Not for another wish; its record goes.
    world.under_way.values_mut().for_each(|order| order.running = false);
    world.wanted[0].dns_names.push("more.example.org".into());
    let plan = world.plan();
    assert!(matches!(plan.orders[0].start, Start::New { .. }));
    assert_eq!(plan.abandon, [id("c000")]);
    world.wanted.clear();
    assert_eq!(world.plan().abandon, [id("c000")]);
    world.elsewhere = Some("b");
    assert!(world.plan().abandon.is_empty(), "it may be the other edge's");
}

#[test]
fn a_certificate_in_a_secret_counts_as_held() {
    let adopt = |age: i64, unfit: Option<&str>| {
        let mut wanted = wanted("x", &["one"]);
        let not_before = NOW - age * DAY;
        let unfit = unfit.map(Into::into);
        wanted.adopt =
            Some(Adopt { secret: id("x"), not_before, not_after: not_before + 90 * DAY, sha256: "00".into(), unfit });
        World::new(vec![wanted])
    };
    assert!(adopt(10, None).names().is_empty());
    assert_eq!(adopt(10, None).plan().standing[&id("x")].level, Level::Fine);
    let due = adopt(70, None).plan().orders;
    assert!(matches!(&due[0].start, Start::New { replaces: None, .. }) && due[0].reason == Reason::Due);
    assert_eq!(adopt(10, Some("a name is missing")).plan().orders[0].reason, Reason::Unfit("a name is missing".into()));
    // Edge has something newer already.
    assert!(adopt(70, None).hold(0, "one", DAY, 90).names().is_empty());
    let mut taken = World::many(1).hold(0, "one", DAY, 90);
    let all = vec!["*.example.org".into(), "other.net".into()];
    taken.held.get_mut(&id("c000")).unwrap().made_for = MadeFor::adopted(&taken.wanted[0], all, Vec::new());
    assert!(taken.names().is_empty());
}

/// An issuer object that is deleted and applied anew, by GitOps and the like, while an order is open.
#[test]
fn an_issuer_that_comes_back_finds_its_order_and_its_certificates() {
    let mut world = World::new(vec![wanted("held", &["one"]), wanted("open", &["one"])]).hold(0, "one", DAY, 90);
    assert_eq!(world.start().len(), 1);
    world.stop("open", &OrderError { resumes: true, ..unreachable() });
    let before = world.wanted.clone();
    for wish in &mut world.wanted {
        wish.issuer = WantedIssuer::Internal { instead_of: Some("ClusterIssuer one not found".into()) };
    }
    let issuers = std::mem::take(&mut world.issuers);
    world.now += HOUR;
    let plan = world.plan();
    assert!(plan.abandon.is_empty() && plan.orders.is_empty(), "{plan:?}");
    assert!(matches!(world.wait("held"), Wait::IssuerAway { .. }));
    (world.wanted, world.issuers) = (before, issuers);
    world.now += HOUR;
    let plan = world.plan();
    assert_eq!(plan.orders.len(), 1);
    assert!(matches!(plan.orders[0].start, Start::Resume { .. }) && plan.issue.is_empty(), "{plan:?}");
}

/// The key of a revoked certificate may be in foreign hands: it is never used again, whatever the wish says.
#[test]
fn what_was_revoked_is_replaced_under_a_new_key() {
    let mut world = World::many(1).hold(0, "one", DAY, 90);
    world.wanted[0].rotate_key = false;
    assert!(world.names().is_empty());
    world.held.get_mut(&id("c000")).unwrap().made_for.revoked = true;
    let order = world.plan().orders.remove(0);
    assert!(order.reason == Reason::Revoked && !order.keep_key, "{order:?}");
    // The note on disk says so.
    let note = serde_json::to_string(&world.held[&id("c000")].made_for).unwrap();
    assert!(serde_json::from_str::<MadeFor>(&note).unwrap().revoked, "{note}");
    assert!(!serde_json::to_string(&order.attempt).unwrap().contains("revoked"));
}

/// A sentence that names the issuer needs no other in front of it.
#[test]
fn nothing_is_said_twice() {
    let (issuer, until) = (issuer("ClusterIssuer le"), Some(NOW));
    let down = |until, reason: &str| Wait::CaDown { issuer: issuer.clone(), until, reason: reason.into() }.to_string();
    let diagnosed = "ClusterIssuer le is down or cannot be reached (refused)";
    assert_eq!(down(until, diagnosed), format!("{diagnosed}; next try at {}", Timestamp(NOW)));
    assert_eq!(down(None, diagnosed), format!("{diagnosed}; another order is trying it now"));
    assert_eq!(
        down(until, "making the order: refused"),
        format!("ClusterIssuer le cannot be used: making the order: refused; next try at {}", Timestamp(NOW))
    );
    let no_issuer = Wait::NoIssuer { issuer, reason: "Secret a/b is in no file".into() };
    assert_eq!(no_issuer.to_string(), "ClusterIssuer le cannot issue: Secret a/b is in no file");
}

#[test]
fn a_change_of_the_directory_is_another_ca() {
    let mut world = World::many(1).hold(0, "one", DAY, 90);
    world.issuers.get_mut(&issuer("one")).unwrap().directory = "https://production".into();
    assert_eq!(world.plan().orders[0].reason, Reason::Changed("the directory of its issuer"));
}

#[test]
fn the_record_survives_storage_and_nonsense_is_refused() {
    let mut world = World::many(3).hold(0, "one", 70 * DAY, 90);
    world.start();
    world.fail("c001", &invalid("c001"));
    world.fail("c002", &unreachable());
    let window = RenewalWindow { start: NOW, end: NOW, explanation: Some("https://why".into()), ask_again: NOW };
    world.memory.window(&id("c000"), "ari a/c000", &window, NOW);
    let asked = world.wanted[0].clone();
    world.memory.ask(&asked, NOW);
    let bytes = world.memory.encode().unwrap();
    assert_eq!(Memory::decode(&bytes).unwrap(), world.memory);
    let mut merged = Memory::new();
    merged.merge(&world.memory);
    assert_eq!(merged, world.memory);
    assert!(Memory::decode(b"{}").is_err() && Memory::decode(&bytes[..bytes.len() / 2]).is_err());
}

proptest! {
    /// Total: any validity, window and clock gives a plan, and never two orders for one certificate or too many at a time.
    #[test]
    fn any_input_has_a_plan(
        rows in prop::collection::vec((any::<i64>(), any::<i64>(), any::<i64>(), any::<i64>(), 0_u8..4), 1..40),
        now in prop_oneof![Just(NOW), any::<i64>()],
    ) {
        let mut world = World::many(rows.len());
        world.now = now;
        for (index, (not_before, not_after, start, end, kind)) in rows.into_iter().enumerate() {
            if kind > 0 {
                world = world.hold(index, "one", 0, 90);
                let held = world.held.get_mut(&id(&format!("c{index:03}"))).unwrap();
                held.validity = Validity { not_before, not_after };
            }
            if kind > 1 {
                let window = RenewalWindow { start, end, explanation: None, ask_again: start };
                let name = format!("c{index:03}");
                world.memory.window(&id(&name), &format!("ari a/{name}"), &window, now);
            }
        }
        let plan = world.plan();
        let ids: BTreeSet<&CertId> = plan.orders.iter().map(|order| &order.id).collect();
        prop_assert!(ids.len() == plan.orders.len() && ids.len() <= CONCURRENT);
        prop_assert_eq!(plan.standing.len(), world.wanted.len());
        for standing in plan.standing.values() {
            prop_assert!(!standing.to_string().is_empty());
        }
    }
}
