//! What to issue and to order now, in which order, and why the rest waits.
//!
//! In: wanted certificates, what is held, which CAs can sign, past failures, what was spent of limits, `now`. Out:
//! actions. Pure and total: the whole plan is made anew each time, so nothing is lost when the daemon stops between plan
//! and act.

mod acme;
mod local;
mod made_for;
mod orders;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_acme;
mod wait;

use std::collections::BTreeMap;

use edge_config::names::CertId;
use edge_config::snapshot::{WantedCertificate, WantedIssuer};

use crate::due::Validity;
use crate::level::Standing;

pub use acme::{AcmeInput, CONCURRENT, IssuerState, PlannedOrder, Poll, Start, UnderWay};
pub use made_for::{KeyId, MadeByAcme, MadeFor};
pub(crate) use orders::validity_of;
pub use wait::{Reason, Timestamp, Wait};

/// Before this moment (2026-01-01) no certificate of ours was ever issued: a clock that says less is wrong, and nothing
/// is issued by it.
pub const CLOCK_FLOOR: i64 = 1_767_225_600;
/// A certificate that begins later than this ahead of the clock was made under a wrong clock.
const SKEW: i64 = 60;

/// The end of 9999: a clock that says more is taken to say this.
const CLOCK_CEILING: i64 = 253_402_300_799;

/// Everything that a plan depends on.
#[derive(Clone)]
pub struct PlanInput<'a> {
    pub wanted: &'a [WantedCertificate],
    pub held: &'a BTreeMap<CertId, Held>,
    /// Certificates of Secrets, as far as somebody names them as CA.
    pub supplied_cas: &'a BTreeMap<CertId, Result<Ca, String>>,
    /// Edge's own CA; the error says why there is none.
    pub internal: Result<Ca, &'a str>,
    pub failures: &'a BTreeMap<CertId, Failure>,
    pub acme: AcmeInput<'a>,
    pub now: i64,
}

/// A certificate that Edge issued or obtained, and still has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub made_for: MadeFor,
    pub validity: Validity,
    /// The own subject and public key.
    pub key_id: KeyId,
}

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
    /// What was tried. Something else is tried at once: it may well succeed.
    pub attempt: MadeFor,
}

impl Failure {
    /// Whether `attempt` would be what has failed. A CA that gets a new key in the same plan is something new, whatever
    /// failed below the old one; its own failures hold it back.
    fn repeats(&self, attempt: &MadeFor, wanted: &WantedCertificate) -> bool {
        let unsigned = KeyId::default();
        let new_key = attempt.signer == unsigned && matches!(wanted.issuer, WantedIssuer::Ca(_));
        let same_signer = self.attempt.signer == unsigned || self.attempt.signer == attempt.signer;
        !new_key && same_signer && self.attempt == MadeFor { signer: self.attempt.signer.clone(), ..attempt.clone() }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be made here, in this order: a CA comes before what it signs.
    pub issue: Vec<Issue>,
    /// To be ordered from ACME CAs, all at the same time; the most pressing first. Never more than may be under way.
    pub orders: Vec<PlannedOrder>,
    /// Certificates whose CA is to be asked when it wants them renewed (RFC 9773).
    pub polls: Vec<Poll>,
    /// Journal records of orders that nobody wants any more.
    pub abandon: Vec<CertId>,
    /// Wanted, but not now possible. What is held of them keeps being served.
    pub waiting: BTreeMap<CertId, Wait>,
    /// When each held certificate that is wanted is to be renewed.
    pub renewals: BTreeMap<CertId, i64>,
    /// How pressing each wanted certificate is.
    pub standing: BTreeMap<CertId, Standing>,
    /// Held but not wanted: kept, for the wish may come back.
    pub unwanted: Vec<CertId>,
    /// When to plan again, even if nothing changes (the end of an order is a change); at once when there is something to
    /// issue, because whether that succeeds decides what comes next.
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
    /// What it is made for; the signer is empty where its key does not exist yet.
    pub attempt: MadeFor,
}

/// Makes the plan.
pub fn plan(input: &PlanInput<'_>) -> Plan {
    let input = &PlanInput { now: input.now.clamp(0, CLOCK_CEILING), ..input.clone() };
    let mut planner = local::Planner::new(input);
    planner.settle_all();
    let local::Planner { by_id, mut plan, .. } = planner;
    let is_wanted = |id: &CertId| by_id.contains_key(id);
    plan.unwanted = input.held.keys().filter(|id| !is_wanted(id)).cloned().collect();
    let asked_again = orders::plan(input, &mut plan);
    for wanted in input.wanted {
        let standing = Standing::of(input, wanted, &plan);
        plan.standing.insert(wanted.id.clone(), standing);
    }
    let retries = plan.waiting.values().filter_map(|wait| match wait {
        // The clock is set some time; a CA in a Secret is a change that plans again by itself.
        Wait::Clock => Some(input.now.saturating_add(60)),
        wait => wait.until(),
    });
    // A renewal that waits is planned again by its wait, not by its due date, which is over.
    let renewals = plan.renewals.values().copied().filter(|due| *due > input.now);
    plan.next = retries.chain(renewals).chain(asked_again).min();
    if !plan.issue.is_empty() {
        plan.next = Some(input.now);
    }
    plan
}

/// Whether it comes from an ACME CA.
fn is_ordered(wanted: &WantedCertificate) -> bool {
    matches!(wanted.issuer, WantedIssuer::Acme(_))
}
