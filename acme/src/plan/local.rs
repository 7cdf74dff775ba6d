//! The part of the plan that is carried out here: certificates of the internal CA, of CAs in Secrets, self-signed ones.

use std::collections::{BTreeMap, BTreeSet};

use edge_config::names::CertId;
use edge_config::snapshot::{Adopt, WantedCertificate, WantedIssuer};

use super::made_for::issuer_text;
use super::{CLOCK_FLOOR, Ca, Held, Issue, KeyId, MadeFor, Plan, PlanInput, Reason, SKEW, Wait};
use crate::due::{Validity, renewal_due, retry_due, seconds};

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

pub(super) struct Planner<'a> {
    pub(super) input: &'a PlanInput<'a>,
    pub(super) by_id: BTreeMap<&'a CertId, usize>,
    settled: BTreeMap<usize, Settled>,
    on_path: BTreeSet<usize>,
    pub(super) plan: Plan,
}

/// What will have signed the certificate when the plan is carried out.
struct SignerAhead {
    /// `None`: a key that does not exist yet.
    key: Option<KeyId>,
    name: String,
    /// `None`: no end (self-signed).
    not_after: Option<i64>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(input: &'a PlanInput<'a>) -> Self {
        let by_id = input.wanted.iter().enumerate().map(|(index, wanted)| (&wanted.id, index)).collect();
        Self { input, by_id, settled: BTreeMap::new(), on_path: BTreeSet::new(), plan: Plan::default() }
    }

    /// Decides about all that are made here.
    pub(super) fn settle_all(&mut self) {
        for (index, wanted) in self.input.wanted.iter().enumerate() {
            if !matches!(wanted.issuer, WantedIssuer::Acme(_)) {
                self.settle(index);
            }
        }
    }

    /// Decides about one certificate, after its CA. The recursion is as deep as the chain of wanted CAs, which is bounded.
    fn settle(&mut self, index: usize) -> Settled {
        if let Some(settled) = self.settled.get(&index) {
            return settled.clone();
        }
        let wanted = &self.input.wanted[index];
        if let Some(settled) = self.away(wanted) {
            self.settled.insert(index, settled.clone());
            return settled;
        }
        self.on_path.insert(index);
        let settled = match self.signer(wanted) {
            Ok(signer) => self.decide(index, &signer),
            Err(wait) => self.wait(wanted, wait),
        };
        self.on_path.remove(&index);
        self.settled.insert(index, settled.clone());
        settled
    }

    /// Whoever should issue cannot at the moment: what it made before is better than what the internal CA would put in
    /// its place, and stays for as long as it holds.
    fn away(&mut self, wanted: &WantedCertificate) -> Option<Settled> {
        let reason = wanted.issuer.away()?.to_owned();
        let is_good = |held: &&Held| held.validity.holds_at(self.input.now) && held.made_for.is_of_use(wanted);
        let held = self.input.held.get(&wanted.id).filter(|held| !held.made_for.is_internal()).filter(is_good);
        if let Some(held) = held {
            let due = renewal_due(held.validity, wanted.renew_before, &wanted.id.to_string());
            self.plan.renewals.insert(wanted.id.clone(), due);
            let wait = Wait::IssuerAway { reason, not_after: held.validity.not_after };
            return Some(self.wait(wanted, wait));
        }
        let nobody = matches!(wanted.issuer, WantedIssuer::Nobody { .. });
        nobody.then(|| self.wait(wanted, Wait::Nobody(reason)))
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
            // Not settled here.
            WantedIssuer::Acme(_) | WantedIssuer::Nobody { .. } => {
                return Ok(SignerAhead { key: None, name: "nobody here".into(), not_after: None });
            }
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
        if matches!(self.input.wanted[index].issuer, WantedIssuer::Acme(_)) {
            return Err(Wait::CaUnusable { ca: id.clone(), reason: "ACME CAs sign no CAs".into() });
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
        let reason = match (supplied(wanted, held), held) {
            (Some(adopt), _) => self.reason_of_supplied(wanted, adopt),
            (None, None) => Some(Reason::Missing),
            (None, Some(held)) => self.reason(wanted, held, signer),
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
        let attempt = MadeFor::new(wanted, signer.key.clone().unwrap_or_default());
        if let Some(failure) = input.failures.get(&wanted.id).filter(|failure| failure.repeats(&attempt, wanted)) {
            let until = retry_due(failure.count, failure.last_try, &wanted.id.to_string());
            // A clock that was set back must not turn a wait of an hour into one of years.
            if until > input.now && failure.last_try <= input.now {
                let wait = Wait::Backoff { until, reason: failure.reason.clone() };
                return self.wait(wanted, wait);
            }
        }
        let keep_key = held.is_some_and(|held| held.made_for.lends_key(wanted));
        // A changed name would be a changed identity even with the same key.
        let same = keep_key && !matches!(reason, Reason::Changed(_));
        let key = held.filter(|_| same).map(|held| held.key_id.clone());
        self.plan.issue.push(Issue { id: wanted.id.clone(), index, reason, keep_key, attempt });
        Settled::Issued { key, not_after }
    }

    fn reason_of_supplied(&mut self, wanted: &WantedCertificate, adopt: &Adopt) -> Option<Reason> {
        let validity = Validity { not_before: adopt.not_before, not_after: adopt.not_after };
        let due = renewal_due(validity, wanted.renew_before, &wanted.id.to_string());
        self.plan.renewals.insert(wanted.id.clone(), due);
        match &adopt.unfit {
            Some(why) => Some(Reason::Unfit(why.clone())),
            None => timely(validity, due, self.input.now),
        }
    }

    fn reason(&mut self, wanted: &WantedCertificate, held: &Held, signer: &SignerAhead) -> Option<Reason> {
        let now = self.input.now;
        let due = renewal_due(held.validity, wanted.renew_before, &wanted.id.to_string());
        self.plan.renewals.insert(wanted.id.clone(), due);
        let made = &held.made_for;
        let signed_by_other = match (&wanted.issuer, &signer.key) {
            // By whom is not known.
            _ if made.adopted => false,
            (WantedIssuer::SelfSigned, _) => made.signer != held.key_id,
            (_, Some(key)) => made.signer != *key,
            // The CA gets a new key in this very plan.
            (_, None) => true,
        };
        if made.issuer != issuer_text(&wanted.issuer) {
            Some(Reason::Changed("its issuer"))
        } else if signed_by_other {
            Some(Reason::Changed("the key of its CA"))
        } else if let Some(what) = made.difference(wanted) {
            Some(Reason::Changed(what))
        } else {
            timely(held.validity, due, now)
        }
    }

    /// What is held stays in use, also as a CA, as long as it holds.
    fn wait(&mut self, wanted: &WantedCertificate, wait: Wait) -> Settled {
        self.plan.waiting.insert(wanted.id.clone(), wait);
        let held = self.input.held.get(&wanted.id).filter(|held| held.validity.holds_at(self.input.now));
        held.map_or(Settled::No, stays)
    }
}

/// What the Secret supplies counts, unless Edge has something newer that is not there yet.
pub(super) fn supplied<'a>(wanted: &'a WantedCertificate, held: Option<&Held>) -> Option<&'a Adopt> {
    wanted.adopt.as_ref().filter(|adopt| held.is_none_or(|held| held.validity.not_before < adopt.not_before))
}

/// Whether a certificate that is otherwise right has had its time.
pub(super) fn timely(validity: Validity, due: i64, now: i64) -> Option<Reason> {
    if now > validity.not_after {
        Some(Reason::Expired)
    } else if validity.not_before > now.saturating_add(SKEW) {
        Some(Reason::NotYetValid)
    } else {
        (now >= due).then_some(Reason::Due)
    }
}

/// CAs in one chain.
const DEEPEST: usize = 8;

fn stays(held: &Held) -> Settled {
    Settled::Stays(Ca { key_id: held.key_id.clone(), validity: held.validity })
}
