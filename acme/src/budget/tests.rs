use std::time::Duration;

use edge_config::names::{CertId, ObjectKey};
use edge_config::snapshot::{KeyAlgorithm, WantedIssuer};
use proptest::prelude::*;

use super::*;

const NOW: i64 = 1_800_000_000;
const HOUR: i64 = 3600;
const LE: &str = "https://acme-v02.api.letsencrypt.org/directory";
const ALL: Haste = Haste { paced: false, keeps: true };
const PRESSED: Haste = Haste { paced: false, keeps: false };

fn issuer() -> IssuerId {
    IssuerId("issuers.le".into())
}

fn cert(name: &str) -> CertId {
    CertId(ObjectKey::new("a", name))
}

fn wanted(names: &[&str]) -> WantedCertificate {
    WantedCertificate {
        id: cert(names.first().unwrap_or(&"none")),
        issuer: WantedIssuer::Acme(vec![issuer()]),
        dns_names: names.iter().map(|name| (*name).into()).collect(),
        addresses: Vec::new(),
        common_name: None,
        is_ca: false,
        key: KeyAlgorithm::EcdsaP256,
        rotate_key: true,
        duration: Duration::from_secs(90 * 86_400),
        renew_before: Duration::ZERO,
        profile: None,
        labels: Vec::new(),
        write_back: None,
        adopt: None,
        wanted_by: Vec::new(),
    }
}

fn charge(names: &[&str], exemption: Exemption) -> Charge {
    Charge::of_order(LE, &issuer(), &wanted(names), exemption)
}

/// How many of these can be had now, one after the other.
fn most(ledger: &mut Ledger, limits: &Limits, haste: Haste, charge: impl Fn(usize) -> Charge) -> usize {
    (0..1000)
        .take_while(|n| {
            let charge = charge(*n);
            let fits = Tentative::new(ledger, NOW).check(&charge, limits, haste).is_ok();
            if fits {
                ledger.reserve(&cert(&n.to_string()), &charge, limits, NOW);
            }
            fits
        })
        .count()
}

#[test]
fn published_limits_hold() {
    let limits = Limits::of(LE);
    let one_domain = |n: usize| charge(&[&format!("h{n}.example.co.uk")], Exemption::None);
    let domains = |n: usize| charge(&[&format!("h.d{n}.org")], Exemption::None);
    let same = |_: usize| charge(&["a.org"], Exemption::None);
    assert_eq!(most(&mut Ledger::new(), &limits, ALL, one_domain), 50);
    assert_eq!(most(&mut Ledger::new(), &limits, ALL, domains), 300);
    assert_eq!(most(&mut Ledger::new(), &limits, ALL, same), 2, "three are kept for the operator");
    assert_eq!(most(&mut Ledger::new(), &limits, PRESSED, same), 5);
    let renewals = |_: usize| charge(&["a.org"], Exemption::SameSet);
    assert_eq!(most(&mut Ledger::new(), &limits, ALL, renewals), 2);
    assert_eq!(most(&mut Ledger::new(), &limits, ALL, |_| charge(&["a.org"], Exemption::Replaces)), 1000);
    assert_eq!(most(&mut Ledger::new(), &Limits::of("https://localhost:14000/dir"), ALL, same), 1000);
    let accounts = |_: usize| Charge::default().with_account(LE);
    assert_eq!(most(&mut Ledger::new(), &limits, ALL, accounts), 10);
}

#[test]
fn a_pace_is_kept_only_by_those_in_no_hurry() {
    let limits = Limits::of(LE);
    let renewal = |_: usize| charge(&["a.org"], Exemption::Replaces);
    let slow = Haste { paced: true, keeps: true };
    assert_eq!(most(&mut Ledger::new(), &limits, slow, renewal), 120);
}

#[test]
fn tokens_come_back_one_by_one() {
    let limits = Limits::of(LE);
    let mut ledger = Ledger::new();
    let order = |n: usize| charge(&[&format!("h{n}.example.org")], Exemption::None);
    most(&mut ledger, &limits, ALL, order);
    let refusal = |now: i64| Tentative::new(&ledger, now).check(&order(999), &limits, ALL);
    let (bucket, until) = refusal(NOW).unwrap_err();
    assert_eq!(bucket.to_string(), "certificates per registered domain of example.org");
    // 202 minutes (letsencrypt.org: "refills at 1 certificate every 202 minutes").
    assert_eq!((until - NOW) / 60, 201);
    assert!(refusal(until - 1).is_err() && refusal(until).is_ok());
}

#[test]
fn a_queue_knows_its_turns() {
    let limits = Limits::of(LE);
    let mut ledger = Ledger::new();
    let order = |n: usize| charge(&[&format!("h{n}.example.org")], Exemption::None);
    most(&mut ledger, &limits, ALL, order);
    let mut tentative = Tentative::new(&ledger, NOW);
    let turns: Vec<i64> = (0..4).map(|n| (tentative.queue(&order(n), &limits, ALL) - NOW) / 12_096).collect();
    assert_eq!(turns, [1, 2, 3, 4]);
    assert!(tentative.check(&charge(&["other.org"], Exemption::None), &limits, ALL).is_ok(), "others do not wait");
}

#[test]
fn what_came_to_nothing_is_given_back_as_the_ca_counts() {
    let limits = Limits::of(LE);
    let one = charge(&["a.org"], Exemption::None);
    for (ordered, left) in [(true, vec![Limit::NewOrders, Limit::Pace]), (false, vec![Limit::Pace])] {
        let mut ledger = Ledger::new();
        ledger.reserve(&cert("a"), &one, &limits, NOW);
        ledger.give_back(&cert("a"), ordered, &limits);
        ledger.give_back(&cert("a"), ordered, &limits);
        ledger.prune(&BTreeSet::new(), NOW);
        let issuers = std::collections::BTreeMap::from([(issuer(), state())]);
        let mut used: Vec<Limit> = ledger.usage(&issuers, NOW).iter().map(|usage| usage.bucket.limit).collect();
        used.sort_unstable();
        assert_eq!(used, left);
    }
}

fn state() -> crate::plan::IssuerState {
    crate::plan::IssuerState {
        directory: LE.into(),
        profile: None,
        account: None,
        tells_windows: true,
        limits: Limits::of(LE),
        concurrent: 16,
        unusable: None,
        settings: 0,
    }
}

#[test]
fn the_word_of_the_ca_goes_first() {
    let limits = Limits::of(LE);
    let one = charge(&["a.org"], Exemption::None);
    let mut ledger = Ledger::new();
    ledger.refuse(one.buckets[1].clone(), NOW + 5 * HOUR);
    ledger.refuse(one.buckets[1].clone(), NOW + HOUR);
    let check = |ledger: &Ledger, now| Tentative::new(ledger, now).check(&one, &limits, PRESSED).map_err(|(_, at)| at);
    assert_eq!(check(&ledger, NOW), Err(NOW + 5 * HOUR));
    assert_eq!(check(&ledger, NOW + 5 * HOUR), Ok(()));
    // A clock that was a year ahead when the CA spoke.
    ledger.refuse(one.buckets[1].clone(), NOW + 365 * 86_400);
    assert_eq!(check(&ledger, NOW), Ok(()));
}

#[test]
fn limits_are_known_by_the_words_of_lets_encrypt() {
    for (detail, limit) in [
        (
            "too many new orders (300) from this account in the last 3h0m0s, retry after 2026-01-01 00:00:00 UTC",
            Some(Limit::NewOrders),
        ),
        ("too many certificates (50) already issued for \"example.com\" in the last 168h0m0s", Some(Limit::PerDomain)),
        (
            "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s",
            Some(Limit::ExactSet),
        ),
        (
            "too many failed authorizations (5) for \"www.example.com\" in the last 1h0m0s",
            Some(Limit::AuthorizationFailures),
        ),
        ("too many new registrations (10) from this IP address in the last 3h0m0s", Some(Limit::NewAccounts)),
        ("slow down", None),
    ] {
        assert_eq!(Limit::of_detail(detail), limit, "{detail}");
    }
}

#[test]
fn domains_and_sets() {
    for (name, domain) in [
        ("a.b.example.co.uk", "example.co.uk"),
        ("example.com", "example.com"),
        ("x.github.io", "x.github.io"),
        ("co.uk", "co.uk"),
        ("", ""),
    ] {
        assert_eq!(registered_domain(&Identifier::Dns(name.into())), domain, "{name}");
    }
    assert_eq!(registered_domain(&Identifier::Ip("192.0.2.7".parse().unwrap())), "192.0.2.7");
    assert_eq!(registered_domain(&Identifier::Ip("2001:db8:1:2:3::7".parse().unwrap())), "2001:db8:1:2::/64");
    assert_eq!(exact_set(&wanted(&["B.org", "*.a.org"])), exact_set(&wanted(&["*.a.org", "b.org"])));
    assert_eq!(identifiers(&wanted(&["a.org", "*.a.org"])).len(), 1);
    let many: Vec<String> = (0..50).map(|n| format!("h{n}.example.org")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let (all, fewer) = (exact_set(&wanted(&many)), exact_set(&wanted(&many[..49])));
    assert!(all.len() < 120 && all != fewer, "{all}");
}

proptest! {
    /// Whatever is spent, when, and given back: never more than the rate in any window, and the record survives storage.
    #[test]
    fn no_window_holds_more_than_the_limit_allows(steps in prop::collection::vec((0_i64..40_000, any::<bool>()), 1..200)) {
        let limits = Limits::of(LE);
        let (mut ledger, mut now) = (Ledger::new(), NOW);
        let mut issued: Vec<i64> = Vec::new();
        for (number, (wait, succeeds)) in steps.into_iter().enumerate() {
            now += wait;
            let id = cert(&number.to_string());
            let charge = charge(&[&format!("h{number}.example.org")], Exemption::None);
            if Tentative::new(&ledger, now).check(&charge, &limits, ALL).is_err() {
                continue;
            }
            ledger.reserve(&id, &charge, &limits, now);
            if succeeds {
                ledger.settle(&id);
                issued.push(now);
            } else {
                ledger.give_back(&id, true, &limits);
            }
            let text = serde_json::to_string(&ledger).unwrap();
            ledger = serde_json::from_str(&text).unwrap();
        }
        for first in &issued {
            let within = issued.iter().filter(|at| (*first..first + 7 * 86_400).contains(at)).count();
            // A full bucket and what trickles in during the week.
            prop_assert!(within <= 100);
            let at_once = issued.iter().filter(|at| (*first..first + 12_096).contains(at)).count();
            prop_assert!(at_once <= 51);
        }
    }

    #[test]
    fn merging_never_forgets(spent in prop::collection::vec((0_usize..4, any::<bool>()), 0..60)) {
        let limits = Limits::of(LE);
        let (mut one, mut two) = (Ledger::new(), Ledger::new());
        for (domain, first) in &spent {
            let charge = charge(&[&format!("h.d{domain}.org")], Exemption::None);
            if *first { &mut one } else { &mut two }.reserve(&cert("x"), &charge, &limits, NOW);
        }
        let mut both = one.clone();
        both.merge(&two);
        let mut other = two.clone();
        other.merge(&one);
        let issuers = std::collections::BTreeMap::from([(issuer(), state())]);
        prop_assert_eq!(both.usage(&issuers, NOW), other.usage(&issuers, NOW));
        for usage in one.usage(&issuers, NOW) {
            let merged = both.usage(&issuers, NOW);
            prop_assert!(merged.iter().any(|found| found.bucket == usage.bucket && found.used >= usage.used));
        }
    }
}
