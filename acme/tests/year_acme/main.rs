//! A simulated year of 500 certificates within Let's Encrypt's published limits, which a model of the CA enforces: with
//! outages, broken DNS, a recall of everything, a change of the leader in mid-order and a restart. Nothing lapses, the
//! CA has nothing to refuse, and no hour sees a storm.

// A failed expectation is what a test is for; the figures are printed for people.
#![allow(clippy::panic, clippy::unwrap_used, clippy::print_stdout)]

mod ca;

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use ca::{Ca, DAY, HOUR};
use edge_acme::budget::Limits;
use edge_acme::challenge::Identifier;
use edge_acme::due::Validity;
use edge_acme::failure::{Class, Fault, OrderError, Step};
use edge_acme::level::Level;
use edge_acme::memory::{Memory, Tried};
use edge_acme::order::RenewalWindow;
use edge_acme::plan::{AcmeInput, CONCURRENT, Held, IssuerState, KeyId, Plan, PlanInput, Start, UnderWay, plan};
use edge_config::issuer::IssuerId;
use edge_config::names::{CertId, ObjectKey};
use edge_config::snapshot::{KeyAlgorithm, WantedCertificate, WantedIssuer};

const START: i64 = 1_800_000_000;
/// Between two looks at the plan while nothing is under way.
const TICK: i64 = 3 * HOUR;

fn le() -> IssuerId {
    IssuerId("ClusterIssuer letsencrypt-prod".into())
}

fn id(name: &str) -> CertId {
    CertId(ObjectKey::new("sim", name))
}

fn certificate(name: &str, hosts: &[String], days: i64) -> WantedCertificate {
    WantedCertificate {
        id: id(name),
        issuer: WantedIssuer::Acme(vec![le()]),
        dns_names: hosts
            .iter()
            .filter(|host| host.parse::<std::net::IpAddr>().is_err())
            .map(|host| host.as_str().into())
            .collect(),
        addresses: hosts.iter().filter_map(|host| host.parse().ok()).collect(),
        common_name: None,
        is_ca: false,
        key: KeyAlgorithm::EcdsaP256,
        rotate_key: true,
        // The CA decides; this is how the simulation remembers the profile.
        duration: Duration::from_secs((days * DAY) as u64),
        renew_before: Duration::ZERO,
        profile: None,
        labels: Vec::new(),
        write_back: None,
        adopt: None,
        wanted_by: Vec::new(),
    }
}

fn hosts(wanted: &WantedCertificate) -> Vec<String> {
    wanted
        .dns_names
        .iter()
        .map(|name| name.to_string())
        .chain(wanted.addresses.iter().map(ToString::to_string))
        .collect()
}

/// 500 certificates: one domain far over its weekly fifty, many small ones, some addresses; lifetimes of 90, 45 and
/// nearly 7 days.
fn wishes() -> Vec<WantedCertificate> {
    let mut wanted = Vec::new();
    for number in 0..500 {
        let host = match number {
            0..120 => format!("h{number}.large.example.com"),
            120..160 => format!("h{number}.shop.co.uk"),
            160..480 => format!("h{number}.d{}.org", number % 8),
            _ => format!("192.0.2.{}", number - 400),
        };
        let mut hosts = vec![host.clone()];
        if number % 10 == 3 && number < 480 {
            hosts.push(format!("*.{host}"));
        }
        let days = if number >= 480 || number % 17 == 0 {
            // 160 hours, rounded up; see `lifetime`.
            7
        } else if number % 5 == 0 {
            45
        } else {
            90
        };
        wanted.push(certificate(&format!("c{number:03}"), &hosts, days));
    }
    wanted
}

fn lifetime(wanted: &WantedCertificate) -> i64 {
    match wanted.duration.as_secs() as i64 / DAY {
        7 => 160 * HOUR,
        days => days * DAY,
    }
}

struct World {
    wanted: Vec<WantedCertificate>,
    issuers: BTreeMap<IssuerId, IssuerState>,
    held: BTreeMap<CertId, Held>,
    /// The journal, shared by the edges.
    under_way: BTreeMap<CertId, UnderWay>,
    memory: Memory,
    /// What the other edge was told.
    follower: Memory,
    ca: Ca,
    now: i64,
    /// (negative moment, certificate) of orders that will come to an end.
    ends: BinaryHeap<(i64, CertId)>,
    orders: u64,
    resumed: u64,
    plans: u64,
}

impl World {
    fn new(tells_windows: bool) -> Self {
        let state = IssuerState {
            directory: "https://acme-v02.api.letsencrypt.org/directory".into(),
            profile: None,
            account: None,
            tells_windows,
            limits: Limits::of("https://acme-v02.api.letsencrypt.org/directory"),
            concurrent: CONCURRENT,
            unusable: None,
            settings: 1,
        };
        assert_eq!(state.limits, Limits::LETS_ENCRYPT);
        Self {
            wanted: wishes(),
            issuers: BTreeMap::from([(le(), state)]),
            held: BTreeMap::new(),
            under_way: BTreeMap::new(),
            memory: Memory::new(),
            follower: Memory::new(),
            ca: Ca::new(),
            now: START,
            ends: BinaryHeap::new(),
            orders: 0,
            resumed: 0,
            plans: 0,
        }
    }

    fn plan(&mut self) -> Plan {
        self.plans += 1;
        plan(&PlanInput {
            wanted: &self.wanted,
            held: &self.held,
            supplied_cas: &BTreeMap::new(),
            internal: Err("not here"),
            failures: &BTreeMap::new(),
            acme: AcmeInput {
                issuers: &self.issuers,
                under_way: &self.under_way,
                polling: &BTreeSet::new(),
                memory: &self.memory,
                elsewhere: None,
            },
            now: self.now,
        })
    }

    /// Begins what is planned; returns the plan.
    fn begin(&mut self) -> Plan {
        let plan = self.plan();
        let now = self.now;
        for order in &plan.orders {
            self.memory.started(order, &self.issuers[&le()], now);
        }
        // Stored and shared before the CA is asked.
        if !plan.orders.is_empty() {
            self.follower.merge(&self.memory);
        }
        for order in &plan.orders {
            assert!(!self.under_way.get(&order.id).is_some_and(|order| order.running), "{} twice", order.id);
            self.orders += 1;
            self.under_way.insert(order.id.clone(), order.under_way(now));
            let wanted = &self.wanted[order.index];
            if self.ca.down {
                self.ends.push((-(now + 10), order.id.clone()));
                continue;
            }
            if self.issuers[&le()].account.is_none() {
                let account = self.ca.new_account(now);
                self.issuers.get_mut(&le()).unwrap().account = Some(account.into());
            }
            let account = self.issuers[&le()].account.clone().unwrap();
            match &order.start {
                Start::New { replaces, .. } => {
                    assert!(
                        self.ca.new_order(&account, &hosts(wanted), replaces.as_deref(), now),
                        "{:?}",
                        self.ca.refused
                    );
                }
                Start::Resume { .. } => self.resumed += 1,
            }
            let takes = 3 + (self.orders * 7919 % 55) as i64;
            self.ends.push((-(now + takes), order.id.clone()));
        }
        for poll in &plan.polls {
            if self.ca.down {
                let error = OrderError::new(Class::Transient, Step::RenewalInfo, "connection refused");
                self.memory.window_failed(&poll.id, &poll.ari_id, &error, now);
            } else {
                let (start, end) = self.ca.window(&poll.ari_id, now);
                let window = RenewalWindow { start, end, explanation: None, ask_again: now + 6 * HOUR };
                self.memory.window(&poll.id, &poll.ari_id, &window, now);
            }
        }
        plan
    }

    fn end(&mut self, id: &CertId) {
        let Some(order) = self.under_way.get(id).filter(|order| order.running).cloned() else { return };
        let wanted = self.wanted.iter().find(|wanted| wanted.id == *id).unwrap().clone();
        let issuer = self.issuers[&le()].clone();
        let tried = Tried { wanted: &wanted, order: &order, issuer: &issuer };
        let names = hosts(&wanted);
        let broken = names.iter().find(|name| self.ca.broken.contains(*name)).cloned();
        if self.ca.down {
            // It may be gone on with if the CA knows of it; a tenth is lost.
            let over = self.orders.is_multiple_of(10) || order.since + 10 == self.now;
            if over {
                self.under_way.remove(id);
                if order.since + 10 != self.now {
                    self.ca.not_issued(&names, order.replaces, self.now);
                }
            } else if let Some(order) = self.under_way.get_mut(id) {
                order.running = false;
            }
            let step = if order.since + 10 == self.now { Step::NewOrder } else { Step::Finalize };
            let error = OrderError::new(Class::Transient, step, "connection refused");
            self.memory.failed(&tried, &error, over, self.now);
        } else if let Some(name) = broken {
            self.ca.validation_failed(&name, self.now);
            self.ca.not_issued(&names, order.replaces, self.now);
            let mut error = OrderError::new(Class::Validation, Step::Validate, "no proof");
            error.faults.push(Fault {
                identifier: Identifier::Dns(name.as_str().into()),
                wildcard: false,
                challenge: None,
                class: Class::Validation,
                kind: Some("dns".into()),
                detail: "NXDOMAIN".into(),
                looked_at: Vec::new(),
            });
            self.under_way.remove(id);
            self.memory.failed(&tried, &error, true, self.now);
        } else {
            let account = issuer.account.clone().unwrap();
            let (ari_id, not_before, not_after) = self.ca.issue(&account, &names, lifetime(&wanted), self.now);
            let made_for = order.attempt.clone().obtained(account, Some(ari_id.into()));
            let held = Held { made_for, validity: Validity { not_before, not_after }, key_id: KeyId("k".into()) };
            self.held.insert(id.clone(), held);
            self.under_way.remove(id);
            self.memory.obtained(&tried, order.replaces, self.now);
        }
    }

    /// Until `until`; calls `check` after each plan.
    fn run(&mut self, until: i64, mut check: impl FnMut(&Self, &Plan)) {
        while self.now < until {
            let plan = self.begin();
            check(self, &plan);
            let next = plan.next.map_or(i64::MAX, |next| next.max(self.now + 1));
            let idle = self.now + TICK;
            let next = match self.ends.peek() {
                Some((end, _)) => (-end).min(next.max(self.now + 5)),
                None => next.clamp(idle, idle + DAY),
            };
            self.now = next.max(self.now + 1).min(until);
            while let Some((end, _)) = self.ends.peek()
                && -end <= self.now
            {
                let (_, id) = self.ends.pop().unwrap();
                self.end(&id);
            }
            if self.plans.is_multiple_of(64) {
                self.memory.prune(&self.wanted, &self.issuers, self.now);
            }
        }
    }

    /// The process ends and begins again: what is in memory only is gone.
    fn restart(&mut self) {
        let record = self.memory.encode().unwrap();
        self.memory = Memory::decode(&record).unwrap();
        self.take_over();
    }

    /// Another edge orders from now on, knowing what it was told.
    fn change_leader(&mut self) {
        std::mem::swap(&mut self.memory, &mut self.follower);
        self.take_over();
    }

    fn take_over(&mut self) {
        self.ends.clear();
        for order in self.under_way.values_mut() {
            order.running = false;
        }
    }

    fn held_now(&self) -> usize {
        self.held.values().filter(|held| held.validity.holds_at(self.now)).count()
    }
}

/// Nothing that was ever there lapses, but for the names in `except`.
fn nothing_lapses(world: &World, except: &BTreeSet<CertId>) {
    for (id, held) in world.held.iter().filter(|(id, _)| !except.contains(*id)) {
        assert!(held.validity.holds_at(world.now), "{id} lapsed at day {}", (world.now - START) / DAY);
    }
}

#[test]
fn a_year_of_500_certificates_within_the_limits() {
    let mut world = World::new(true);
    // One name never works, ten do not for the first three weeks of spring.
    world.ca.broken.insert("h299.d3.org".into());
    let never = id("c299");
    assert!(hosts(&world.wanted[299]).contains(&"h299.d3.org".to_owned()));
    let except = BTreeSet::from([never.clone()]);
    let calm = |world: &World, plan: &Plan| {
        nothing_lapses(world, &except);
        for (id, standing) in plan.standing.iter().filter(|(id, _)| !except.contains(*id)) {
            assert!(standing.level < Level::Critical || standing.level == Level::Missing, "{id}: {}", standing);
        }
    };

    // In the midst of the first orders, another edge takes over.
    world.run(START + 120, calm);
    let running = world.under_way.len() as u64;
    assert!(running >= 8, "{running} under way");
    world.change_leader();
    world.run(world.now + 60, calm);
    assert!(world.resumed >= running, "{} of {running} orders are gone on with", world.resumed);

    // What the account may order in three hours; then the large domain waits for its week.
    world.run(START + 3 * HOUR, calm);
    assert!(world.held_now() >= 300, "{} after three hours", world.held_now());
    world.run(START + DAY, calm);
    assert!(world.held_now() >= 425, "{} after a day", world.held_now());
    let plan = world.plan();
    let last = plan.waiting.values().filter_map(|wait| wait.until()).max().unwrap();
    assert!((5 * DAY..12 * DAY).contains(&(last - START)), "the queue is known to its end: {last}");
    world.run(START + 12 * DAY, calm);
    assert_eq!(world.held_now(), 499);

    let mut day = 60;
    for (number, outage) in [6, 30, 1, 12].into_iter().enumerate() {
        world.run(START + day * DAY, calm);
        world.ca.down = true;
        let before = world.orders;
        world.run(world.now + outage * HOUR, calm);
        let tries = world.orders - before;
        // One order at a time, at most every five minutes once it is clear; and those that were under way.
        assert!(tries < 40 + outage as u64 * 13, "{tries} tries in an outage of {outage} h");
        world.ca.down = false;
        if number == 1 {
            // In the midst of the recovery.
            world.restart();
        }
        day += 15;
    }

    world.run(START + 150 * DAY, calm);
    let due: Vec<CertId> = world.held.keys().cloned().collect();
    // The CA recalls everything.
    world.ca.recalled_before = world.now;
    let recalled = world.now;
    world.run(recalled + 2 * DAY, calm);
    for id in &due {
        assert!(world.held[id].validity.not_before >= recalled - HOUR, "{id} was recalled and is still there");
    }

    for number in 320..330 {
        let names = hosts(&world.wanted[number]);
        world.ca.broken.insert(names[0].clone());
    }
    world.run(world.now + 12 * DAY, |_, _| ());
    for number in 320..330 {
        let names = hosts(&world.wanted[number]);
        world.ca.broken.remove(&names[0]);
    }
    world.run(world.now + 2 * DAY, |_, _| ());
    world.run(START + 365 * DAY, calm);

    assert!(world.ca.refused.is_empty(), "{:?}", world.ca.refused);
    assert!(!world.held.contains_key(&never));
    let storm =
        world.ca.per_hour.iter().filter(|(hour, _)| **hour > (START + DAY) / HOUR).map(|(_, count)| *count).max();
    assert!(storm.unwrap() <= 150, "{} orders in an hour", storm.unwrap());
    println!("{} orders, {} of them gone on with, {} plans", world.orders, world.resumed, world.plans);
    println!("{}", world.ca.summary());
    println!("record of what is remembered: {} bytes", world.memory.encode().unwrap().len());
}
