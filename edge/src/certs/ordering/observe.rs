//! How each ACME certificate and each CA stands, for status, metrics and conditions.

use std::sync::PoisonError;

use edge_acme::client::CaClock;
use edge_acme::level::{Level, span};
use edge_acme::plan::{MadeFor, Plan, Wait};
use edge_config::issuer::IssuerId;
use edge_config::names::CertId;
use edge_config::snapshot::WantedIssuer;

use super::Ordering;
use super::secrets::is_unread;
use crate::certs::CertsWanted;
use crate::certs::observed::{AcmeError, AcmeObserved, AcmeState, AcmeStep, Alarm, IssuerState, Window};
use crate::certs::view::at;

impl Ordering {
    /// `held` says for what and by whom that was made which is held.
    pub fn observe<'a>(
        &self,
        wanted: &CertsWanted,
        plan: &Plan,
        held: &dyn Fn(&CertId) -> Option<&'a MadeFor>,
        now: i64,
    ) -> AcmeObserved {
        let doing = self.doing.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let ordered = wanted.certificates.iter().filter(|one| matches!(one.issuer, WantedIssuer::Acme(_)));
        let certificates = ordered.map(|one| {
            let id = &one.id;
            let under_way = self.under_way.get(id).filter(|order| order.running);
            let made_for = held(id);
            let issuer = made_for.map(|made| IssuerId(made.issuer.as_str().into()));
            let step = if let Some(order) = under_way {
                let (text, since) =
                    doing.get(id).cloned().unwrap_or_else(|| ("waiting for its turn".into(), at(order.since)));
                AcmeStep::Ordering { issuer: order.issuer.clone(), doing: text, since }
            } else if let Some(wait) = plan.waiting.get(id) {
                match wait {
                    Wait::Elsewhere(edge) => AcmeStep::Elsewhere { edge: edge.clone() },
                    wait => AcmeStep::Waiting { why: wait.to_string(), until: wait.until().map(at) },
                }
            } else {
                AcmeStep::Held { renews_at: plan.renewals.get(id).copied().map(at) }
            };
            let past = self.past.get(id);
            let (failures, last_error) = self.failures(id);
            let standing = plan.standing.get(id).cloned();
            let state = AcmeState {
                issuer,
                step,
                failures,
                last_error,
                findings: past.map(|past| past.findings.clone()).unwrap_or_default(),
                seen: past.map(|past| past.seen.clone()).unwrap_or_default(),
                level: standing.as_ref().map_or(Level::Missing, |standing| standing.level),
                alarm: standing.as_ref().map_or(Alarm::None, |standing| Alarm::of(standing.level)),
                standing: standing.map(|standing| standing.to_string()).unwrap_or_default(),
                wait: plan.waiting.get(id).cloned(),
                window: made_for.and_then(|made| self.window_of(id, made)),
            };
            (id.clone(), state)
        });
        let issuers = self.issuers.iter().map(|(id, known)| {
            let down = self.memory.setbacks.of_issuer(id, known.settings);
            let until = down.and_then(|setback| setback.holds_until(now));
            let state = IssuerState {
                account: known.account.as_ref().map(ToString::to_string),
                awaits_secrets: wanted.issuers.iter().any(|issuer| issuer.id == *id && is_unread(issuer, &self.texts)),
                contact: self.accounts.get(id).and_then(|record| record.contacts.first().cloned()),
                thumbprint: self.thumbprints.get(id).map(ToString::to_string),
                error: known
                    .unusable
                    .clone()
                    .or_else(|| down.map(|setback| setback.reason.clone()))
                    .or_else(|| self.opening.get(id).and_then(|opening| opening.error.clone())),
                paused_until: until.map(at),
                tally: self.tallies.get(id).cloned().unwrap_or_default(),
            };
            (id.clone(), state)
        });
        AcmeObserved {
            certificates: certificates.collect(),
            issuers: issuers.collect(),
            budget: self.memory.ledger.usage(&self.issuers, now),
        }
    }

    /// Which CA's clock says that ours is wrong: orders and renewals depend on it, one line for all.
    pub fn clock_notice(&self, now: i64) -> Option<String> {
        let clocks = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        let wrong = |(issuer, clock): (&IssuerId, &CaClock)| {
            let ahead = clock.ahead(now).filter(|_| self.issuers.contains_key(issuer))?;
            let (by, direction) = (span(ahead.saturating_abs()), if ahead > 0 { "behind" } else { "ahead of" });
            Some(format!(
                "the clock of this machine is {by} {direction} that of {issuer}: synchronize it (chrony, timesyncd)"
            ))
        };
        clocks.iter().find_map(wrong)
    }

    /// Tries in a row that failed, and the last of them: as seen here, else as remembered from before a restart or by
    /// another edge.
    fn failures(&self, id: &CertId) -> (u32, Option<AcmeError>) {
        if let Some(past) = self.past.get(id).filter(|past| past.last.is_some()) {
            return (past.failures, past.last.clone());
        }
        let Some((issuer, setback)) = self.memory.setbacks.latest(id) else { return (0, None) };
        let error = AcmeError {
            at: at(setback.last),
            issuer: issuer.clone(),
            text: setback.reason.clone(),
            class: setback.class,
            said: String::new(),
        };
        (setback.count, Some(error))
    }

    fn window_of(&self, id: &CertId, made: &MadeFor) -> Option<Window> {
        let known = self.memory.window_of(id, made.acme.as_ref()?.ari_id.as_deref()?)?;
        let (start, end) = known.suggested?;
        Some(Window {
            start: at(start),
            end: at(end),
            explanation: known.explanation.as_ref().map(ToString::to_string),
            ask_again: at(known.ask_again),
        })
    }
}
