//! A simulated year and more: whatever is wanted, nothing ever lapses, and no hour sees a storm.
//!
//! The issuer of the simulation makes no keys: it gives each certificate the validity that the real one would, so a year
//! takes milliseconds. It fails sometimes, for a while.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use edge_acme::due::Validity;
use edge_acme::plan::{AcmeInput, Ca, Failure, Held, KeyId, MadeFor, PlanInput, plan};
use edge_config::names::{CertId, ObjectKey};
use edge_config::snapshot::{KeyAlgorithm, WantedCertificate, WantedIssuer};
use proptest::prelude::*;

const START: i64 = 1_800_000_000;
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn id(name: &str) -> CertId {
    CertId(ObjectKey::new("sim", name))
}

#[derive(Debug, Clone)]
struct Wish {
    days: i64,
    /// Of the duration, in percent.
    lead: i64,
    /// 0: internal, 1: self-signed, 2: the wanted CA, 3: the CA below it.
    issuer: u8,
    rotate_key: bool,
}

fn wishes() -> impl Strategy<Value = Vec<Wish>> {
    let wish = (2_i64..400, 5_i64..60, 0_u8..4, any::<bool>()).prop_map(|(days, lead, issuer, rotate_key)| Wish {
        days,
        lead,
        issuer,
        rotate_key,
    });
    prop::collection::vec(wish, 1..60)
}

fn certificate(name: &str, wish: &Wish, is_ca: bool) -> WantedCertificate {
    let seconds = |seconds: i64| Duration::from_secs(seconds as u64);
    WantedCertificate {
        id: id(name),
        issuer: match wish.issuer {
            0 => WantedIssuer::Internal { instead_of: None },
            1 => WantedIssuer::SelfSigned,
            2 => WantedIssuer::Ca(id("root")),
            _ => WantedIssuer::Ca(id("middle")),
        },
        dns_names: vec![format!("{name}.example").into()],
        addresses: Vec::new(),
        common_name: None,
        is_ca,
        key: KeyAlgorithm::EcdsaP256,
        rotate_key: wish.rotate_key,
        duration: seconds(wish.days * DAY),
        renew_before: seconds(wish.days * DAY * wish.lead / 100),
        profile: None,
        labels: Vec::new(),
        write_back: None,
        adopt: None,
        wanted_by: Vec::new(),
    }
}

struct Simulation {
    wanted: Vec<WantedCertificate>,
    held: BTreeMap<CertId, Held>,
    failures: BTreeMap<CertId, Failure>,
    keys: u64,
    issued: u64,
}

impl Simulation {
    fn internal() -> Ca {
        let validity = Validity { not_before: START, not_after: START + 3652 * DAY };
        Ca { key_id: KeyId("internal".into()), validity }
    }

    /// Carries out one plan; returns when the next is due.
    fn step(&mut self, now: i64, outage: bool) -> Option<i64> {
        let supplied = BTreeMap::new();
        let plan = plan(&PlanInput {
            wanted: &self.wanted,
            held: &self.held,
            supplied_cas: &supplied,
            internal: Ok(Self::internal()),
            failures: &self.failures,
            acme: AcmeInput::default(),
            now,
        });
        for issue in &plan.issue {
            if outage {
                let count = self.failures.get(&issue.id).map_or(0, |failure| failure.count) + 1;
                let failure = Failure { count, last_try: now, reason: "outage".into(), attempt: issue.attempt.clone() };
                self.failures.insert(issue.id.clone(), failure);
                continue;
            }
            self.failures.remove(&issue.id);
            let wanted = &self.wanted[issue.index];
            let ca = match &wanted.issuer {
                WantedIssuer::SelfSigned | WantedIssuer::Acme(_) | WantedIssuer::Nobody { .. } => None,
                WantedIssuer::Internal { .. } => Some(Self::internal()),
                WantedIssuer::Ca(ca) => {
                    let held = &self.held[ca];
                    Some(Ca { key_id: held.key_id.clone(), validity: held.validity })
                }
            };
            let key_id = match self.held.get(&issue.id).filter(|_| issue.keep_key) {
                Some(held) => held.key_id.clone(),
                None => {
                    self.keys += 1;
                    KeyId(format!("key {}", self.keys))
                }
            };
            let signer = ca.as_ref().map_or_else(|| key_id.clone(), |ca| ca.key_id.clone());
            let end = now + wanted.duration.as_secs() as i64;
            let not_after = ca.map_or(end, |ca| end.min(ca.validity.not_after));
            assert!(not_after > now, "{} would be over when it is made", issue.id);
            let validity = Validity { not_before: now - HOUR, not_after };
            self.held.insert(issue.id.clone(), Held { made_for: MadeFor::new(wanted, signer), validity, key_id });
            self.issued += 1;
        }
        plan.next
    }

    fn check(&self, now: i64) {
        for wanted in &self.wanted {
            assert!(self.held.contains_key(&wanted.id), "{} is missing", wanted.id);
            let held = &self.held[&wanted.id];
            assert!(held.validity.holds_at(now), "{} lapsed {} s ago", wanted.id, now - held.validity.not_after);
            if let WantedIssuer::Ca(ca) = &wanted.issuer {
                assert_eq!(held.made_for.signer, self.held[ca].key_id, "{} hangs on an old key of {ca}", wanted.id);
                assert!(held.validity.not_after <= self.held[ca].validity.not_after, "{} outlives {ca}", wanted.id);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn nothing_lapses_and_nothing_storms(wishes in wishes(), ca_days in 20_i64..400, outage_every in 3_i64..40) {
        let ca = |issuer, rotate_key| Wish { days: ca_days, lead: 33, issuer, rotate_key };
        let mut wanted = vec![certificate("root", &ca(1, true), true), certificate("middle", &ca(2, false), true)];
        wanted.extend(wishes.iter().enumerate().map(|(n, wish)| certificate(&format!("leaf{n}"), wish, false)));
        let shortest = wishes.iter().map(|wish| wish.days).min().unwrap_or(1).min(ca_days);
        let wanted_count = wanted.len() as u64;
        let mut simulation =
            Simulation { wanted, held: BTreeMap::new(), failures: BTreeMap::new(), keys: 0, issued: 0 };
        simulation.step(START, false);
        simulation.check(START);
        let (mut now, end) = (START, START + 400 * DAY);
        let mut steps = 0;
        while now < end {
            // A tenth of the days there is an outage of an hour: far shorter than any lead time here.
            let outage = (now / HOUR) % (outage_every * 10) == 0;
            simulation.step(now, outage);
            // What failed has a wait by now, and what was issued a due date.
            let next = simulation.step(now, true).expect("a renewal always lies ahead");
            prop_assert!(next > now, "a plan that is due again at once");
            simulation.check(now);
            now = next;
            steps += 1;
        }
        // Two for every third of the shortest lifetime, and some more for changed keys above.
        let bound = wanted_count * (400 / (shortest / 3).max(1) as u64 + 2) * 4;
        prop_assert!(simulation.issued < bound, "{} issued, expected fewer than {bound}", simulation.issued);
        prop_assert!(steps < 200_000);
    }

    #[test]
    fn a_clock_that_jumps_costs_one_renewal_each(jump in prop_oneof![Just(60 * DAY), Just(-DAY), Just(-3650 * DAY), Just(365 * DAY)]) {
        let wish = Wish { days: 90, lead: 33, issuer: 0, rotate_key: true };
        let wanted: Vec<_> = (0..500).map(|n| certificate(&format!("leaf{n}"), &wish, false)).collect();
        let mut simulation = Simulation { wanted, held: BTreeMap::new(), failures: BTreeMap::new(), keys: 0, issued: 0 };
        simulation.step(START, false);
        let before = simulation.issued;
        for minute in 0..120 {
            simulation.step(START + 10 * DAY + jump + 60 * minute, false);
        }
        prop_assert!(simulation.issued - before <= 500, "{}", simulation.issued - before);
        if jump < -DAY {
            prop_assert_eq!(simulation.issued, before, "a clock in the past issues nothing");
        }
    }
}
