//! One row per certificate that is served or wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use edge_acme::level::Level;
use edge_config::names::CertId;
use edge_config::snapshot::{WantedCertificate, WantedIssuer};

use super::Lookup;
use crate::certs::observed::AcmeState;
use crate::control::observed::{CertificateSource, CertificateState};
use crate::control::span;
use crate::control::view::{CertificateRow, Health, State};

/// A certificate that nobody here renews is worth a word this long before its end.
const NOTICE: Duration = Duration::from_secs(7 * 86_400);

pub fn certificate_rows(lookup: &Lookup<'_>, now: SystemTime) -> BTreeMap<CertId, CertificateRow> {
    let clients = lookup
        .scene
        .snapshot
        .upstreams
        .iter()
        .filter_map(|upstream| upstream.tls.as_ref()?.client_certificate.as_ref());
    let ids: BTreeSet<&CertId> =
        lookup.users.keys().copied().chain(lookup.wanted.keys().copied()).chain(clients).collect();
    ids.into_iter().map(|id| (id.clone(), certificate_row(lookup, id, now))).collect()
}

pub fn certificate_row(lookup: &Lookup<'_>, id: &CertId, now: SystemTime) -> CertificateRow {
    let wanted = lookup.wanted.get(id).copied();
    let mut row = match lookup.scene.observed.certificates.get(id) {
        Some(state) => {
            let mut row = at_hand(state, wanted, now);
            row.health = row.health.and(overdue(lookup, id));
            row
        }
        None => configured(lookup, id, wanted, now),
    };
    row.secret = id.to_string();
    row.used_by = lookup.users.get(id).cloned().unwrap_or_default();
    row
}

/// A renewal that does not come is told long before the end, whatever it waits for.
fn overdue(lookup: &Lookup<'_>, id: &CertId) -> Health {
    match lookup.scene.observed.acme.certificates.get(id) {
        Some(acme) if acme.level > Level::Fine && acme.level != Level::Missing => {
            Health::new(State::Degraded, acme.standing.clone())
        }
        // Also while it is tried again.
        Some(AcmeState { failures: 1.., last_error: Some(error), .. }) => {
            Health::new(State::Degraded, format!("not renewed: {}", error.text))
        }
        _ => Health::up(),
    }
}

/// A certificate that edged holds.
fn at_hand(state: &CertificateState, wanted: Option<&WantedCertificate>, now: SystemTime) -> CertificateRow {
    let mut health = validity(state.not_before, state.not_after, now);
    let error = state.error.as_deref();
    match &state.source {
        CertificateSource::Placeholder => {
            let reason = match (error, wanted) {
                (Some(error), _) => format!("a placeholder is served: {error}"),
                (None, Some(wanted)) => format!("a placeholder is served until {} has issued it", issuer(wanted)),
                (None, None) => "a placeholder is served: the Secret is missing".to_owned(),
            };
            health = health.and(Health::new(State::Degraded, reason));
        }
        CertificateSource::Issued(_) | CertificateSource::Kept(_) => {
            if let Some(error) = error {
                health = health.and(Health::new(State::Degraded, error));
            }
        }
        CertificateSource::Secret => {
            if let Some(error) = error {
                health = health.and(Health::new(State::Degraded, error));
            } else if let Some(left) =
                state.not_after.and_then(|end| end.duration_since(now).ok()).filter(|left| *left < NOTICE)
            {
                let reason = format!("ends in {} and comes from a Secret that Edge does not renew", span::rough(left));
                health = health.and(Health::new(State::Degraded, reason));
            }
        }
    }
    CertificateRow {
        health,
        source: match &state.source {
            CertificateSource::Secret => "Secret".to_owned(),
            CertificateSource::Issued(by) | CertificateSource::Kept(by) => by.clone(),
            CertificateSource::Placeholder => "placeholder".to_owned(),
        },
        names: state.names.clone(),
        not_after: state.not_after.map(span::rfc3339),
        renews_at: state.renews_at.map(span::rfc3339),
        secret: String::new(),
        used_by: Vec::new(),
    }
}

/// A certificate of which only the configuration is known.
fn configured(lookup: &Lookup<'_>, id: &CertId, wanted: Option<&WantedCertificate>, now: SystemTime) -> CertificateRow {
    let scene = lookup.scene;
    let facts = scene.inputs.secrets.get(&id.0).map(|secret| secret.spec.certificate());
    let (health, source, names, not_after) = match (facts, wanted) {
        (Some(Ok(facts)), None) => (
            validity(span::unix(facts.not_before), span::unix(facts.not_after), now),
            "Secret".to_owned(),
            facts.dns_names.iter().cloned().chain(facts.ip_addresses.iter().map(ToString::to_string)).collect(),
            span::unix(facts.not_after),
        ),
        (Some(Err(error)), None) => {
            (Health::new(State::Down, format!("the Secret {error}")), "Secret".to_owned(), Vec::new(), None)
        }
        (None, None) => (Health::new(State::Down, "the Secret is missing"), String::new(), Vec::new(), None),
        (_, Some(wanted)) => {
            let health = if scene.observed.offline {
                Health::new(State::Up, format!("edged issues it: {}", issuer(wanted)))
            } else {
                Health::new(State::Pending, format!("not issued yet by {}", issuer(wanted)))
            };
            (health, issuer(wanted), wanted.dns_names.iter().map(ToString::to_string).collect(), None)
        }
    };
    CertificateRow {
        health,
        secret: String::new(),
        source,
        names,
        not_after: not_after.map(span::rfc3339),
        renews_at: None,
        used_by: Vec::new(),
    }
}

fn issuer(wanted: &WantedCertificate) -> String {
    match &wanted.issuer {
        WantedIssuer::Internal { instead_of: None } => "internal CA".to_owned(),
        WantedIssuer::Internal { instead_of: Some(other) } => format!("internal CA instead of {other}"),
        WantedIssuer::SelfSigned => "self-signed".to_owned(),
        WantedIssuer::Acme(issuers) => issuers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", else "),
        WantedIssuer::Ca(id) => format!("CA {id}"),
        WantedIssuer::Nobody { why } => format!("nobody: {why}"),
    }
}

fn validity(from: Option<SystemTime>, to: Option<SystemTime>, now: SystemTime) -> Health {
    if let Some(age) = to.and_then(|end| now.duration_since(end).ok()) {
        return Health::new(State::Down, format!("ended {} ago", span::rough(age)));
    }
    match from.and_then(|start| start.duration_since(now).ok()).filter(|wait| !wait.is_zero()) {
        Some(wait) => Health::new(State::Down, format!("not valid before {} from now", span::rough(wait))),
        None => Health::up(),
    }
}
