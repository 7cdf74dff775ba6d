//! After a failure: who waits, and for how long.
//!
//! In: an [`OrderError`] and what was tried. Out: moments before which nothing is tried again, for a CA, for a name at a
//! CA, or for one certificate at a CA. What the CA said of a wait goes before any schedule of ours. Jitter comes from a
//! hash, as in [`crate::due`]: it is the same after a restart, so that a restart is no way around a wait.
//!
//! - The CA does not answer: 5 s to 5 min for the whole CA, and then one order at a time until one comes through.
//! - A name was not validated: 1, 10, 100 minutes, then daily (the schedule that Let's Encrypt recommends).
//! - It can never succeed: daily, or as soon as wish or issuer are changed.
//! - Nothing was asked of the CA yet (pre-flight), or it answers and does not end the order: 30 s to an hour. This side
//!   is at fault: 5 s to an hour.

use std::collections::{BTreeMap, BTreeSet};

use edge_config::issuer::IssuerId;
use edge_config::names::CertId;
use serde::{Deserialize, Serialize};

use crate::challenge::Identifier;
use crate::due::{part_of, retry_due};
use crate::failure::{Class, OrderError, Step};
use crate::plan::{MadeFor, UnderWay};

const MINUTE: i64 = 60;
const HOUR: i64 = 3600;
pub const DAY: i64 = 86_400;
/// A wait that the CA asked for is believed up to here.
const LONGEST: i64 = 8 * DAY;
/// Names that failed; beyond it those are forgotten that may be tried soonest.
const MOST: usize = 20_000;
/// A reason is for one line.
const LONGEST_REASON: usize = 600;

/// Failures in a row of one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setback {
    pub class: Class,
    pub count: u32,
    /// The first in this row, in Unix seconds.
    pub first: i64,
    pub last: i64,
    /// Nothing is tried before.
    pub until: i64,
    /// Whether `until` is the CA's own word.
    pub ordered_by_ca: bool,
    pub reason: String,
}

/// Of one certificate at one CA: it holds back the same attempt only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempted {
    pub setback: Setback,
    pub attempt: MadeFor,
    /// [`crate::plan::IssuerState::settings`] at that time.
    pub settings: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Record", into = "Record")]
pub struct Setbacks {
    issuers: BTreeMap<IssuerId, (Setback, u64)>,
    identifiers: BTreeMap<(IssuerId, Identifier), Setback>,
    certificates: BTreeMap<(CertId, IssuerId), Attempted>,
}

/// JSON has text as keys of maps only.
#[derive(Serialize, Deserialize)]
struct Record {
    issuers: Vec<(IssuerId, Setback, u64)>,
    identifiers: Vec<(IssuerId, Identifier, Setback)>,
    certificates: Vec<(String, IssuerId, Attempted)>,
}

impl From<Record> for Setbacks {
    fn from(record: Record) -> Self {
        let id = |text: &str| CertId(edge_config::names::ObjectKey::parse(text));
        let certificates = record.certificates.into_iter().map(|(cert, issuer, one)| ((id(&cert), issuer), one));
        Self {
            issuers: record.issuers.into_iter().map(|(issuer, one, settings)| (issuer, (one, settings))).collect(),
            identifiers: record.identifiers.into_iter().map(|(issuer, name, one)| ((issuer, name), one)).collect(),
            certificates: certificates.collect(),
        }
    }
}

impl From<Setbacks> for Record {
    fn from(setbacks: Setbacks) -> Self {
        let certificates = setbacks.certificates.into_iter();
        Self {
            issuers: setbacks.issuers.into_iter().map(|(issuer, (one, settings))| (issuer, one, settings)).collect(),
            identifiers: setbacks.identifiers.into_iter().map(|((issuer, name), one)| (issuer, name, one)).collect(),
            certificates: certificates.map(|((cert, issuer), one)| (cert.to_string(), issuer, one)).collect(),
        }
    }
}

impl Setbacks {
    pub const fn new() -> Self {
        Self { issuers: BTreeMap::new(), identifiers: BTreeMap::new(), certificates: BTreeMap::new() }
    }

    /// Takes note of a failed try. `settings` are those of the issuer.
    pub fn failed(&mut self, id: &CertId, tried: &UnderWay, settings: u64, error: &OrderError, now: i64) {
        let issuer = &tried.issuer;
        let reason = shortened(&error.to_string());
        let salt = id.to_string();
        if is_of_whole_ca(error) {
            let known = self.issuers.get(issuer).filter(|(_, known)| *known == settings).map(|(one, _)| one);
            // Those that were under way together fail together: that is one failure, not sixteen.
            let counts = known.is_none_or(|known| known.until <= now || known.last > now);
            let count = known.map_or(0, |known| known.count) + u32::from(counts);
            let until = now.saturating_add(wait(error, count, &issuer.0, now));
            let setback = next(known, error, &reason, count, until, now);
            self.issuers.insert(issuer.clone(), (setback, settings));
        }
        for fault in error.faults.iter().filter(|fault| fault.class == Class::Validation && is_judged(error.step)) {
            let key = (issuer.clone(), fault.identifier.clone());
            let known = self.identifiers.get(&key);
            let count = known.map_or(0, |known| known.count).saturating_add(1);
            let until = now.saturating_add(validation_wait(count, &fault.identifier.to_string(), now));
            let setback = next(known, error, &reason, count, until, now);
            self.identifiers.insert(key, setback);
        }
        let key = (id.clone(), issuer.clone());
        let known = self.certificates.get(&key).filter(|known| known.attempt == tried.attempt);
        let known = known.filter(|known| known.settings == settings).map(|known| &known.setback);
        let count = known.map_or(0, |known| known.count).saturating_add(1);
        let until = now.saturating_add(wait(error, count, &salt, now));
        let setback = next(known, error, &reason, count, until, now);
        self.certificates.insert(key, Attempted { setback, attempt: tried.attempt.clone(), settings });
        self.bound();
    }

    /// Puts a better reason to the failure of an order that was noted at `now`, wherever it was noted.
    pub fn explain(&mut self, id: &CertId, issuer: &IssuerId, sentence: &str, now: i64) {
        let Some(own) = self.certificates.get_mut(&(id.clone(), issuer.clone())).map(|one| &mut one.setback) else {
            return;
        };
        let before = std::mem::replace(&mut own.reason, shortened(sentence));
        let of_issuer = self.issuers.get_mut(issuer).map(|(setback, _)| setback);
        let of_names = self.identifiers.iter_mut().filter(|((of, _), _)| of == issuer).map(|(_, setback)| setback);
        for setback in of_issuer.into_iter().chain(of_names) {
            if setback.last == now && setback.reason == before {
                setback.reason = shortened(sentence);
            }
        }
    }

    /// An order came through: the CA is up, its names were validated.
    pub fn succeeded(&mut self, id: &CertId, issuer: &IssuerId, identifiers: &BTreeSet<Identifier>) {
        self.issuers.remove(issuer);
        self.identifiers.retain(|(of, name), _| of != issuer || !identifiers.contains(name));
        self.certificates.retain(|(of, _), _| of != id);
    }

    /// Somebody asks for another try now. What the CA itself ordered stays.
    pub fn forgive(&mut self, id: &CertId, identifiers: &BTreeSet<Identifier>) {
        self.certificates.retain(|(of, _), one| of != id || one.setback.ordered_by_ca);
        self.identifiers.retain(|(_, name), one| one.ordered_by_ca || !identifiers.contains(name));
    }

    /// Of the whole CA, as long as its settings are those.
    pub fn of_issuer(&self, issuer: &IssuerId, settings: u64) -> Option<&Setback> {
        self.issuers.get(issuer).filter(|(_, of)| *of == settings).map(|(setback, _)| setback)
    }

    pub fn of_identifier(&self, issuer: &IssuerId, identifier: &Identifier) -> Option<&Setback> {
        self.identifiers.get(&(issuer.clone(), identifier.clone()))
    }

    /// Of this very attempt.
    pub fn of_attempt(&self, id: &CertId, issuer: &IssuerId, attempt: &MadeFor, settings: u64) -> Option<&Setback> {
        let known = self.certificates.get(&(id.clone(), issuer.clone()))?;
        (known.attempt == *attempt && known.settings == settings).then_some(&known.setback)
    }

    /// Failures in a row of one certificate at one CA.
    pub fn tries(&self, id: &CertId, issuer: &IssuerId) -> u32 {
        self.certificates.get(&(id.clone(), issuer.clone())).map_or(0, |one| one.setback.count)
    }

    /// The newest failure of a certificate, and at which CA.
    pub fn latest(&self, id: &CertId) -> Option<(&IssuerId, &Setback)> {
        let first = (id.clone(), IssuerId("".into()));
        let of = self.certificates.range(first..).take_while(|((of, _), _)| of == id);
        of.map(|((_, issuer), one)| (issuer, &one.setback)).max_by_key(|(_, one)| one.last)
    }

    /// Of each of two views the one that has seen more.
    pub fn merge(&mut self, other: &Self) {
        for (issuer, theirs) in &other.issuers {
            let newer = self.issuers.get(issuer).is_none_or(|own| own.0.last < theirs.0.last);
            if newer {
                self.issuers.insert(issuer.clone(), theirs.clone());
            }
        }
        for (key, theirs) in &other.identifiers {
            if self.identifiers.get(key).is_none_or(|own| own.last < theirs.last) {
                self.identifiers.insert(key.clone(), theirs.clone());
            }
        }
        for (key, theirs) in &other.certificates {
            if self.certificates.get(key).is_none_or(|own| own.setback.last < theirs.setback.last) {
                self.certificates.insert(key.clone(), theirs.clone());
            }
        }
        self.bound();
    }

    /// Forgets what concerns nobody: issuers that are gone, certificates that nobody wants, and names whose last
    /// failure is two days past its wait.
    pub fn prune(&mut self, wanted: &BTreeSet<&CertId>, issuers: &BTreeSet<&IssuerId>, now: i64) {
        self.issuers.retain(|issuer, _| issuers.contains(issuer));
        self.identifiers.retain(|(issuer, _), one| issuers.contains(issuer) && now - one.until.min(now) < 2 * DAY);
        self.certificates.retain(|(id, issuer), _| wanted.contains(id) && issuers.contains(issuer));
    }

    fn bound(&mut self) {
        while self.identifiers.len() > MOST {
            let soonest = self.identifiers.iter().min_by_key(|(_, one)| one.until).map(|(key, _)| key.clone());
            let Some(soonest) = soonest else { break };
            self.identifiers.remove(&soonest);
        }
    }
}

impl Setback {
    /// When it may be tried again, if that is not now. A clock that was set back must not hold anything for years.
    pub fn holds_until(&self, now: i64) -> Option<i64> {
        (self.until > now && self.last <= now && self.until - now <= LONGEST).then_some(self.until)
    }
}

fn next(known: Option<&Setback>, error: &OrderError, reason: &str, count: u32, until: i64, now: i64) -> Setback {
    let ordered = error.until.map(|until| until.min(now.saturating_add(LONGEST)));
    Setback {
        class: error.class,
        count,
        first: known.map_or(now, |known| known.first.min(now)),
        last: now,
        until: ordered.map_or(until, |ordered| ordered.max(now.saturating_add(1))),
        ordered_by_ca: ordered.is_some(),
        reason: reason.to_owned(),
    }
}

/// Whether the failure says something of the CA or the account rather than of this certificate.
pub(crate) fn is_of_whole_ca(error: &OrderError) -> bool {
    match error.step {
        Step::Directory | Step::Account => true,
        // No word of the CA on the matter itself: refused connections, time-outs, its load balancer.
        Step::NewOrder | Step::Authorize | Step::Validate | Step::Finalize | Step::Download => {
            !error.answered
                && error.kind.is_none()
                && error.faults.is_empty()
                && matches!(error.class, Class::Transient | Class::Limited)
        }
        Step::Prepare | Step::Present | Step::Verify | Step::Journal | Step::RenewalInfo | Step::Revoke => false,
    }
}

/// Whether the CA itself has judged a challenge.
pub(crate) fn is_judged(step: Step) -> bool {
    matches!(step, Step::Authorize | Step::Validate | Step::Finalize)
}

/// Seconds after the `count`-th failure in a row.
fn wait(error: &OrderError, count: u32, name: &str, now: i64) -> i64 {
    let grown = |first: i64, longest: i64| (first << count.saturating_sub(1).min(20)).min(longest);
    let jittered = |wait: i64| wait + part_of(wait / 5, name, now);
    match error.class {
        _ if error.answered || matches!(error.step, Step::Prepare | Step::Present) => jittered(grown(30, HOUR)),
        Class::Transient => jittered(grown(5, 5 * MINUTE)),
        Class::Validation => validation_wait(count, name, now),
        Class::Config => jittered(DAY),
        // It said that it is too much, and not how long.
        Class::Limited if error.kind.is_none() => jittered(grown(MINUTE, HOUR)),
        Class::Limited => jittered(HOUR),
        Class::Ours => retry_due(count, now, name).saturating_sub(now),
    }
}

fn validation_wait(count: u32, name: &str, now: i64) -> i64 {
    let wait = match count {
        0 | 1 => MINUTE,
        2 => 10 * MINUTE,
        3 => 100 * MINUTE,
        _ => DAY,
    };
    wait + part_of(wait / 5, name, now)
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST_REASON) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
