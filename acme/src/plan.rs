//! What to issue now, in which order, and why the rest waits.
//!
//! In: wanted certificates, what is held, which CAs can sign, past failures, `now`. Out: actions. Pure and total: the
//! whole plan is made anew each time, so nothing is lost when the daemon stops between plan and act.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use edge_config::names::CertId;
use edge_config::snapshot::{KeyAlgorithm, WantedCertificate, WantedIssuer};
use serde::{Deserialize, Serialize};

use crate::due::{Validity, renewal_due, retry_due, seconds};

/// Before this moment (2026-01-01) no certificate of ours was ever issued: a clock that says less is wrong, and nothing
/// is issued by it.
pub const CLOCK_FLOOR: i64 = 1_767_225_600;
/// A certificate that begins later than this ahead of the clock was made under a wrong clock.
const SKEW: i64 = 60;

/// Everything that a plan depends on.
pub struct PlanInput<'a> {
    pub wanted: &'a [WantedCertificate],
    pub held: &'a BTreeMap<CertId, Held>,
    /// Certificates of Secrets, as far as somebody names them as CA.
    pub supplied_cas: &'a BTreeMap<CertId, Result<Ca, String>>,
    /// Edge's own CA; the error says why there is none.
    pub internal: Result<Ca, &'a str>,
    pub failures: &'a BTreeMap<CertId, Failure>,
    pub now: i64,
}

/// A certificate that Edge issued and still has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub made_for: MadeFor,
    pub validity: Validity,
    /// The own subject and public key.
    pub key_id: KeyId,
}

/// What a certificate was made for; it is stored beside it, and a difference to what is wanted means a new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeFor {
    pub issuer: String,
    /// Who signed it: another CA, or the same one with a new key, makes a chain that no longer holds.
    pub signer: KeyId,
    pub dns_names: Vec<Box<str>>,
    pub common_name: Option<Box<str>>,
    pub is_ca: bool,
    pub key: String,
}

/// SHA-256 over subject and public key, in hexadecimal digits: what a signature binds to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub String);

/// A certificate that may sign others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ca {
    pub key_id: KeyId,
    pub validity: Validity,
}

/// Failures in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub count: u32,
    pub last_try: i64,
    pub reason: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order: a CA comes before what it signs.
    pub issue: Vec<Issue>,
    /// Wanted, but not now possible. What is held of them keeps being served.
    pub waiting: BTreeMap<CertId, Wait>,
    /// When each held certificate that is wanted is to be renewed.
    pub renewals: BTreeMap<CertId, i64>,
    /// Held but not wanted: kept, for the wish may come back.
    pub unwanted: Vec<CertId>,
    /// When to plan again, even if nothing changes; at once when there is something to issue, because whether that
    /// succeeds decides what comes next.
    pub next: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    pub id: CertId,
    /// Position in the list of wanted certificates.
    pub index: usize,
    pub reason: Reason,
    /// Whether the key that is held is used again.
    pub keep_key: bool,
}

/// Why a certificate is issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    Missing,
    Due,
    Expired,
    NotYetValid,
    Changed(&'static str),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there is none yet"),
            Self::Due => f.write_str("its renewal is due"),
            Self::Expired => f.write_str("it has expired"),
            Self::NotYetValid => f.write_str("it begins in the future: it was made under a wrong clock"),
            Self::Changed(what) => write!(f, "{what} changed"),
        }
    }
}

/// Why a wanted certificate is not issued now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    Clock,
    NoInternalCa(String),
    NoCa(CertId),
    CaUnusable { ca: CertId, reason: String },
    CaWaits(CertId),
    CaEnds { ca: String, not_after: i64 },
    CaExpired { ca: String, not_after: i64 },
    Cycle(CertId),
    Backoff { until: i64, reason: String },
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clock => f.write_str("the clock of this machine is before 2026-01-01"),
            Self::NoInternalCa(reason) => write!(f, "no internal CA: {reason}"),
            Self::NoCa(ca) => write!(f, "the CA's Secret {ca} does not exist"),
            Self::CaUnusable { ca, reason } => write!(f, "the CA's Secret {ca} cannot sign: {reason}"),
            Self::CaWaits(ca) => write!(f, "its CA {ca} is not issued yet"),
            Self::CaEnds { ca, not_after } => {
                write!(f, "its CA {ca} ends at {}, so nothing longer can be signed", Timestamp(*not_after))
            }
            Self::CaExpired { ca, not_after } => write!(f, "its CA {ca} has expired at {}", Timestamp(*not_after)),
            Self::Cycle(ca) => write!(f, "it would be signed, by way of {ca}, by itself"),
            Self::Backoff { until, reason } => write!(f, "{reason}; next try at {}", Timestamp(*until)),
        }
    }
}

/// Unix seconds as RFC 3339 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use time::format_description::well_known::Rfc3339;
        let text = time::OffsetDateTime::from_unix_timestamp(self.0).ok().and_then(|at| at.format(&Rfc3339).ok());
        match text {
            Some(text) => f.write_str(&text),
            None => write!(f, "{} s", self.0),
        }
    }
}

impl MadeFor {
    pub fn new(wanted: &WantedCertificate, signer: KeyId) -> Self {
        Self {
            issuer: issuer_text(&wanted.issuer),
            signer,
            dns_names: wanted.dns_names.clone(),
            common_name: wanted.common_name.clone(),
            is_ca: wanted.is_ca,
            key: key_text(wanted.key),
        }
    }
}

fn issuer_text(issuer: &WantedIssuer) -> String {
    match issuer {
        WantedIssuer::Internal { .. } => "internal".into(),
        WantedIssuer::SelfSigned => "self-signed".into(),
        WantedIssuer::Ca(id) => format!("ca {id}"),
    }
}

fn key_text(key: KeyAlgorithm) -> String {
    match key {
        KeyAlgorithm::EcdsaP256 => "ecdsa-p256".into(),
        KeyAlgorithm::EcdsaP384 => "ecdsa-p384".into(),
        KeyAlgorithm::Ed25519 => "ed25519".into(),
        KeyAlgorithm::Rsa(bits) => format!("rsa-{bits}"),
    }
}

/// Makes the plan.
pub fn plan(input: &PlanInput<'_>) -> Plan {
    let by_id: BTreeMap<&CertId, usize> =
        input.wanted.iter().enumerate().map(|(index, wanted)| (&wanted.id, index)).collect();
    let mut planner =
        Planner { input, by_id, settled: BTreeMap::new(), on_path: BTreeSet::new(), plan: Plan::default() };
    for index in 0..input.wanted.len() {
        planner.settle(index);
    }
    let Planner { by_id, mut plan, .. } = planner;
    plan.unwanted = input.held.keys().filter(|id| !by_id.contains_key(id)).cloned().collect();
    let retries = plan.waiting.values().filter_map(|wait| match wait {
        Wait::Backoff { until, .. } => Some(*until),
        // The clock is set some time; a CA in a Secret is a change that plans again by itself.
        Wait::Clock => Some(input.now.saturating_add(60)),
        _ => None,
    });
    // A renewal that waits is planned again by its wait, not by its due date, which is over.
    let renewals = plan.renewals.values().copied().filter(|due| *due > input.now);
    plan.next = retries.chain(renewals).min();
    if !plan.issue.is_empty() {
        plan.next = Some(input.now);
    }
    plan
}

/// What a certificate offers to those that it is to sign, once the plan is carried out.
#[derive(Clone)]
enum Settled {
    /// It is held and stays.
    Stays(Ca),
    /// It will be issued before them; its key is known only if it is kept.
    Issued {
        key: Option<KeyId>,
        not_after: i64,
    },
    No,
}

struct Planner<'a> {
    input: &'a PlanInput<'a>,
    by_id: BTreeMap<&'a CertId, usize>,
    settled: BTreeMap<usize, Settled>,
    on_path: BTreeSet<usize>,
    plan: Plan,
}

/// What will have signed the certificate when the plan is carried out.
struct SignerAhead {
    /// `None`: a key that does not exist yet.
    key: Option<KeyId>,
    name: String,
    /// `None`: no end (self-signed).
    not_after: Option<i64>,
}

impl Planner<'_> {
    /// Decides about one certificate, after its CA. The recursion is as deep as the chain of wanted CAs, which is bounded.
    fn settle(&mut self, index: usize) -> Settled {
        if let Some(settled) = self.settled.get(&index) {
            return settled.clone();
        }
        let wanted = &self.input.wanted[index];
        self.on_path.insert(index);
        let settled = match self.signer(wanted) {
            Ok(signer) => self.decide(index, &signer),
            Err(wait) => self.wait(wanted, wait),
        };
        self.on_path.remove(&index);
        self.settled.insert(index, settled.clone());
        settled
    }

    fn signer(&mut self, wanted: &WantedCertificate) -> Result<SignerAhead, Wait> {
        if self.input.now < CLOCK_FLOOR {
            return Err(Wait::Clock);
        }
        let signer = match &wanted.issuer {
            WantedIssuer::SelfSigned => SignerAhead { key: None, name: "self".into(), not_after: None },
            WantedIssuer::Internal { .. } => {
                let ca = self.input.internal.as_ref().map_err(|reason| Wait::NoInternalCa((*reason).into()))?;
                SignerAhead {
                    key: Some(ca.key_id.clone()),
                    name: "internal".into(),
                    not_after: Some(ca.validity.not_after),
                }
            }
            WantedIssuer::Ca(id) => self.ca(id)?,
        };
        match signer.not_after {
            Some(not_after) if not_after <= self.input.now => Err(Wait::CaExpired { ca: signer.name, not_after }),
            _ => Ok(signer),
        }
    }

    fn ca(&mut self, id: &CertId) -> Result<SignerAhead, Wait> {
        // A Secret of the user goes before a wanted certificate of the same name.
        if let Some(supplied) = self.input.supplied_cas.get(id) {
            let ca = supplied.as_ref().map_err(|reason| Wait::CaUnusable { ca: id.clone(), reason: reason.clone() })?;
            return Ok(SignerAhead {
                key: Some(ca.key_id.clone()),
                name: id.to_string(),
                not_after: Some(ca.validity.not_after),
            });
        }
        let index = *self.by_id.get(id).ok_or_else(|| Wait::NoCa(id.clone()))?;
        if self.on_path.contains(&index) {
            return Err(Wait::Cycle(id.clone()));
        }
        if self.on_path.len() >= DEEPEST {
            return Err(Wait::CaUnusable { ca: id.clone(), reason: format!("more than {DEEPEST} CAs in a chain") });
        }
        if !self.input.wanted[index].is_ca {
            return Err(Wait::CaUnusable { ca: id.clone(), reason: "its Certificate has no isCA: true".into() });
        }
        match self.settle(index) {
            Settled::Stays(ca) => {
                Ok(SignerAhead { key: Some(ca.key_id), name: id.to_string(), not_after: Some(ca.validity.not_after) })
            }
            Settled::Issued { key, not_after } => {
                Ok(SignerAhead { key, name: id.to_string(), not_after: Some(not_after) })
            }
            Settled::No => Err(Wait::CaWaits(id.clone())),
        }
    }

    fn decide(&mut self, index: usize, signer: &SignerAhead) -> Settled {
        let (input, wanted) = (self.input, &self.input.wanted[index]);
        let held = input.held.get(&wanted.id);
        let reason = match held {
            None => Some(Reason::Missing),
            Some(held) => self.reason(wanted, held, signer),
        };
        let Some(reason) = reason else {
            return held.map_or(Settled::No, stays);
        };
        let wished = input.now.saturating_add(seconds(wanted.duration));
        let not_after = signer.not_after.map_or(wished, |end| end.min(wished));
        if let (Reason::Due, Some(held)) = (&reason, held) {
            // A renewal that gains nothing would be repeated for ever.
            let gain = (seconds(wanted.duration) / 100).max(1);
            if not_after < held.validity.not_after.saturating_add(gain) {
                let wait = Wait::CaEnds { ca: signer.name.clone(), not_after };
                return self.wait(wanted, wait);
            }
        }
        if let Some(failure) = input.failures.get(&wanted.id) {
            let until = retry_due(failure.count, failure.last_try, &wanted.id.to_string());
            // A clock that was set back must not turn a wait of an hour into one of years.
            if until > input.now && failure.last_try <= input.now {
                let wait = Wait::Backoff { until, reason: failure.reason.clone() };
                return self.wait(wanted, wait);
            }
        }
        let keep_key = held.is_some_and(|held| !wanted.rotate_key && held.made_for.key == key_text(wanted.key));
        // A changed name would be a changed identity even with the same key.
        let same = keep_key && !matches!(reason, Reason::Changed(_));
        let key = held.filter(|_| same).map(|held| held.key_id.clone());
        self.plan.issue.push(Issue { id: wanted.id.clone(), index, reason, keep_key });
        Settled::Issued { key, not_after }
    }

    fn reason(&mut self, wanted: &WantedCertificate, held: &Held, signer: &SignerAhead) -> Option<Reason> {
        let now = self.input.now;
        let due = renewal_due(held.validity, wanted.renew_before, &wanted.id.to_string());
        self.plan.renewals.insert(wanted.id.clone(), due);
        let made = &held.made_for;
        let signed_by_other = match (&wanted.issuer, &signer.key) {
            (WantedIssuer::SelfSigned, _) => made.signer != held.key_id,
            (_, Some(key)) => made.signer != *key,
            // The CA gets a new key in this very plan.
            (_, None) => true,
        };
        if made.issuer != issuer_text(&wanted.issuer) {
            Some(Reason::Changed("its issuer"))
        } else if signed_by_other {
            Some(Reason::Changed("the key of its CA"))
        } else if made.dns_names != wanted.dns_names {
            Some(Reason::Changed("the list of its names"))
        } else if made.common_name != wanted.common_name {
            Some(Reason::Changed("its common name"))
        } else if made.is_ca != wanted.is_ca {
            Some(Reason::Changed("isCA"))
        } else if made.key != key_text(wanted.key) {
            Some(Reason::Changed("its key algorithm"))
        } else if now > held.validity.not_after {
            Some(Reason::Expired)
        } else if held.validity.not_before > now.saturating_add(SKEW) {
            Some(Reason::NotYetValid)
        } else {
            (now >= due).then_some(Reason::Due)
        }
    }

    /// What is held stays in use, also as a CA, as long as it holds.
    fn wait(&mut self, wanted: &WantedCertificate, wait: Wait) -> Settled {
        self.plan.waiting.insert(wanted.id.clone(), wait);
        let held = self.input.held.get(&wanted.id).filter(|held| held.validity.holds_at(self.input.now));
        held.map_or(Settled::No, stays)
    }
}

/// CAs in one chain.
const DEEPEST: usize = 8;

fn stays(held: &Held) -> Settled {
    Settled::Stays(Ca { key_id: held.key_id.clone(), validity: held.validity })
}

#[cfg(test)]
mod tests;
