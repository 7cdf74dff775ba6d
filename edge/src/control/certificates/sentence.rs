//! Why a certificate is as it is: one sentence with the cause and the remedy.
//!
//! The words about a failed order are the diagnosis's, those about names and issuers compile's; here is chosen whose word
//! counts, and what is missing is added: when it is tried again, and what to do about it.

use std::time::SystemTime;

use edge_acme::failure::Class;
use edge_acme::level::Level;
use edge_acme::plan::{Timestamp, Wait};
use edge_config::snapshot::WantedIssuer;

use super::budget;
use super::subject::Subject;
use super::view::{Cause, Served};
use crate::certs::observed::{AcmeState, AcmeStep};
use crate::control::observed::CertificateState;
use crate::control::span;
use crate::control::world::World;

pub(super) struct Judgement {
    pub cause: Cause,
    pub sentence: String,
}

fn judged(cause: Cause, sentence: impl Into<String>) -> Judgement {
    Judgement { cause, sentence: sentence.into() }
}

pub(super) fn judge(subject: &Subject<'_>, world: &World, now: SystemTime) -> Judgement {
    match (subject.wanted.map(|wanted| &wanted.issuer), subject.acme) {
        (None, _) => supplied(subject, now),
        (Some(issuer), _) if subject.is_kept() || matches!(issuer, WantedIssuer::Nobody { .. }) => kept(subject),
        (Some(WantedIssuer::Internal { instead_of: Some(why) }), _) if subject.is_stood_in_for() => {
            stood_in(subject, why)
        }
        (Some(WantedIssuer::Acme(_)), Some(acme)) => ordered(subject, acme, world),
        (Some(WantedIssuer::Acme(issuers)), None) => {
            let issuer = issuers.first().map(ToString::to_string).unwrap_or_default();
            judged(Cause::Unknown, format!("edged has not asked {issuer} for it yet: look again in a moment"))
        }
        (Some(issuer), _) => local(subject, issuer),
    }
}

/// Somebody else writes the Secret.
fn supplied(subject: &Subject<'_>, now: SystemTime) -> Judgement {
    let id = subject.id;
    let deferred = subject.notes.iter().find(|note| note.reason == "Deferred");
    let held = subject.state.filter(|_| matches!(subject.served(), Served::Real | Served::LastGood));
    if let Some(note) = deferred {
        let remedy = match held {
            Some(_) => format!("Edge serves it as it is, and leaves renewing to cert-manager: {}", describe(id)),
            None => format!("nothing usable is in it yet: {}", describe(id)),
        };
        return judged(Cause::Deferred, format!("{}; {remedy}", note.message));
    }
    let Some(state) = held else {
        let error = subject.state.and_then(|state| state.error.clone());
        let error = error.unwrap_or_else(|| format!("Secret {id} is missing or has no certificate"));
        let remedy =
            "create it (kubernetes.io/tls, [[secret]]), or name an issuer by annotation or [certificates] issuers";
        return judged(Cause::Secret, format!("{error}: {remedy}"));
    };
    if let Some(error) = &state.error {
        let of = if error.starts_with("Secret ") { String::new() } else { format!("Secret {id}: ") };
        return judged(Cause::Secret, format!("{of}{error}: replace it; Edge does not renew what others write"));
    }
    // Edge was to renew it, and cannot.
    if let Some(note) = subject.conditions.iter().find(|note| note.reason == "IssuerNotReady") {
        return judged(Cause::Issuer, format!("{}: correct the issuer or name another", note.message));
    }
    let Some(end) = state.not_after else { return judged(Cause::Unknown, "nothing is known of it yet") };
    match end.duration_since(now) {
        Ok(_) => {
            let end = span::rfc3339(end);
            judged(Cause::Fine, format!("it comes from Secret {id}, is valid until {end}, and others renew it"))
        }
        Err(_) => {
            let end = span::rfc3339(end);
            judged(Cause::Secret, format!("what Secret {id} holds expired at {end}: replace it, or name an issuer"))
        }
    }
}

fn describe(id: &edge_config::names::CertId) -> String {
    let (namespace, name) = (&id.0.namespace, &id.0.name);
    format!(
        "kubectl -n {namespace} describe certificate,secret {name} says how far it is, and edge.internal/certificates: \
         own makes it Edge's"
    )
}

/// Whoever should issue it cannot, and nothing takes the place of what it issued before.
fn kept(subject: &Subject<'_>) -> Judgement {
    let why = subject.instead_of().unwrap_or("its issuer cannot issue");
    let end = subject.state.filter(|_| subject.is_kept()).and_then(|state| state.not_after).map(span::rfc3339);
    let meanwhile = match end {
        Some(end) => format!("what is held serves until it ends at {end}"),
        None => "nothing is held of it".to_owned(),
    };
    match subject.notes.iter().any(|note| note.reason == "Deferred") {
        true => judged(Cause::Deferred, format!("{why}; {meanwhile}: {}", describe(subject.id))),
        false => judged(Cause::Issuer, format!("{why}; {meanwhile}: correct the issuer or name another")),
    }
}

/// The internal CA issues it in the place of another.
fn stood_in(subject: &Subject<'_>, why: &str) -> Judgement {
    let reason = subject.notes.iter().find(|note| note.reason != "Issued").map(|note| note.reason);
    match reason {
        Some("Deferred") => judged(
            Cause::Deferred,
            format!("{why}; the internal CA serves until its Secret is there: {}", describe(subject.id)),
        ),
        Some("NotPublic") => judged(
            Cause::NotPublic,
            format!(
                "{why}, so no public CA issues it and the internal CA does: let clients trust internal-ca.crt, use a \
                 public name, or name an issuer of your own"
            ),
        ),
        Some("NotIssuable") => judged(
            Cause::NotIssuable,
            format!("{why}; the internal CA serves instead: correct the name, or give the issuer a solver for it"),
        ),
        _ => judged(
            Cause::Issuer,
            format!("{why}: correct the issuer or name another; the internal CA serves until then"),
        ),
    }
}

/// The internal CA, a CA of a Secret, or itself signs it.
fn local(subject: &Subject<'_>, issuer: &WantedIssuer) -> Judgement {
    match subject.state {
        None => judged(Cause::Unknown, "edged has not issued it yet: look again in a moment"),
        Some(CertificateState { error: Some(error), .. }) => {
            let remedy = match issuer {
                WantedIssuer::Ca(ca) => format!(": mend Secret {ca}"),
                _ => String::new(),
            };
            judged(Cause::LocalCa, format!("{error}{remedy}"))
        }
        Some(state) => judged(Cause::Fine, fine(state, subject.instead_of())),
    }
}

fn fine(state: &CertificateState, instead_of: Option<&str>) -> String {
    let end = state.not_after.map(span::rfc3339).unwrap_or_default();
    let renewal = state.renews_at.map(|at| format!(", to be renewed at {}", span::rfc3339(at))).unwrap_or_default();
    let why = instead_of.map(|why| format!(" ({why})")).unwrap_or_default();
    format!("nothing is wrong: it is valid until {end}{renewal}{why}")
}

/// An ACME CA issues it.
fn ordered(subject: &Subject<'_>, acme: &AcmeState, world: &World) -> Judgement {
    let failed = acme.last_error.as_ref().filter(|_| acme.failures > 0);
    match &acme.step {
        AcmeStep::Held { .. } if acme.level > Level::Fine => judged(Cause::OrderFailed, acme.standing.clone()),
        AcmeStep::Held { .. } => match subject.state {
            // Names that do not fit a listener, and the like.
            Some(CertificateState { error: Some(error), .. }) => judged(Cause::Secret, error.clone()),
            Some(state) => judged(Cause::Fine, fine(state, None)),
            None => judged(Cause::Unknown, acme.standing.clone()),
        },
        AcmeStep::Ordering { issuer, doing, since } => {
            let text = format!("an order at {issuer} is under way since {}: {doing}", span::rfc3339(*since));
            match failed {
                Some(error) => judged(Cause::OrderFailed, format!("{}; {text}", error.text)),
                None => judged(Cause::Ordering, text),
            }
        }
        AcmeStep::Elsewhere { edge } => elsewhere(subject, edge, failed.map(|error| error.text.as_str()), world),
        AcmeStep::Waiting { why, until } => match &acme.wait {
            Some(wait) => waiting(subject, acme, wait, world),
            None => judged(Cause::OrderFailed, then(why, until.map(span::rfc3339))),
        },
    }
}

fn elsewhere(subject: &Subject<'_>, edge: &str, failed: Option<&str>, world: &World) -> Judgement {
    let id = subject.id;
    let nobody = world.observed.fleet.as_ref().is_some_and(|fleet| fleet.orders.is_err()) || edge.contains(' ');
    if nobody {
        let remedy = "see that the edges reach each other and the API server (edgectl status)";
        return judged(Cause::NobodyOrders, format!("no edge orders certificates now, because {edge}: {remedy}"));
    }
    match failed {
        Some(failed) => judged(
            Cause::Elsewhere,
            format!("edge {edge} orders it, and its last try failed: {failed} (edgectl cert why {id} there)"),
        ),
        None => judged(
            Cause::Elsewhere,
            format!(
                "edge {edge} orders it, and this one serves it when it arrives: edgectl cert why {id} there says how far it is"
            ),
        ),
    }
}

fn waiting(subject: &Subject<'_>, acme: &AcmeState, wait: &Wait, world: &World) -> Judgement {
    let failed = acme.last_error.as_ref().filter(|_| acme.failures > 0);
    let until = wait.until().map(|until| Timestamp(until).to_string());
    match wait {
        Wait::Backoff { reason, .. } => {
            // The diagnosis, where it is at hand, knows more than what is remembered.
            let text = failed.map_or(reason.as_str(), |error| error.text.as_str());
            let is_limited = failed.is_some_and(|error| error.class == Class::Limited);
            let cause = if is_limited { Cause::Budget } else { Cause::OrderFailed };
            judged(cause, then(text, until))
        }
        Wait::CaDown { issuer, .. } => match failed.filter(|error| error.issuer == *issuer) {
            Some(error) => judged(Cause::CaDown, then(&error.text, until)),
            None => judged(Cause::CaDown, wait.to_string()),
        },
        Wait::Budget { issuer, bucket, until } => {
            judged(Cause::Budget, budget::sentence(world, issuer, bucket, *until))
        }
        Wait::NoIssuer { reason, .. } => {
            let remedy = if reason.contains("Secret ") {
                "create that Secret with the key that the issuer names, or correct the issuer"
            } else if reason.contains("not configured") {
                "create the issuer, or name another"
            } else {
                "correct the issuer, or name another"
            };
            judged(Cause::Issuer, format!("{wait}: {remedy}"))
        }
        Wait::Clock => judged(Cause::Clock, format!("{wait}, so nothing is ordered: set it (chrony, timesyncd)")),
        Wait::Elsewhere(edge) => elsewhere(subject, edge, failed.map(|error| error.text.as_str()), world),
        Wait::UnderWay { .. } | Wait::Busy(_) | Wait::Account(_) => match failed {
            Some(error) => judged(Cause::OrderFailed, format!("{}; {wait}", error.text)),
            None => judged(Cause::Ordering, wait.to_string()),
        },
        Wait::NoInternalCa(_)
        | Wait::NoCa(_)
        | Wait::CaUnusable { .. }
        | Wait::CaWaits(_)
        | Wait::CaEnds { .. }
        | Wait::CaExpired { .. }
        | Wait::Cycle(_)
        | Wait::IssuerAway { .. }
        | Wait::Nobody(_) => judged(Cause::LocalCa, wait.to_string()),
    }
}

fn then(text: &str, until: Option<String>) -> String {
    match until {
        Some(until) => format!("{text}; next try at {until}"),
        None => text.to_owned(),
    }
}
