//! From what is held to what is published: the table for the workers and one line of state per certificate.
//!
//! Order of preference: what a Secret supplies, even if it has expired; what Edge issued; a placeholder.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edge_acme::level::Level;
use edge_acme::plan::{CLOCK_FLOOR, Plan, Timestamp, Wait};
use edge_config::names::{CertId, HostPattern};
use edge_config::snapshot::{WantedCertificate, WantedIssuer};

use super::issuance::{Issuance, supplier};
use super::table::{CertEntry, CertTable, Origin};
use super::{CertUse, CertsObserved, CertsWanted, InternalCaState};
use crate::control::observed::{CertificateSource, CertificateState};

pub(super) fn look(issuance: &mut Issuance, wanted: &CertsWanted, plan: &Plan, now: i64) -> (CertTable, CertsObserved) {
    let wishes: BTreeMap<&CertId, &WantedCertificate> = wanted.certificates.iter().map(|one| (&one.id, one)).collect();
    let mut served: BTreeMap<&CertId, Vec<&CertUse>> = BTreeMap::new();
    for one in &wanted.uses {
        for id in &one.certificates {
            served.entry(id).or_default().push(one);
        }
    }
    let ids: BTreeSet<&CertId> = served.keys().copied().chain(wishes.keys().copied()).chain(&wanted.client).collect();

    let mut entries: BTreeMap<&CertId, Arc<CertEntry>> = BTreeMap::new();
    for id in &ids {
        let from = wishes.get(*id).map_or(*id, |wish| supplier(wish));
        let supplied = wanted.supplied.get(from).and_then(|found| Some(found.as_ref().ok()?.entry.clone()));
        let is_wished = wishes.contains_key(*id);
        if let Some(entry) = supplied.as_ref().filter(|_| !is_wished) {
            issuance.supplied_last.insert((*id).clone(), Arc::clone(entry));
        }
        let wish = wishes.get(*id);
        let nobody = wish.is_some_and(|wish| matches!(wish.issuer, WantedIssuer::Nobody { .. }));
        // Something else stands in for what nobody issues, and what has ended would be shown in its place.
        let serves = |entry: &Arc<CertEntry>| !nobody || entry.is_valid_at(now);
        let issued = || issuance.issued.get(*id).map(|held| held.entry.clone()).filter(serves);
        // A Secret that was removed by hand is no reason to serve nothing until its successor is there.
        let last = || issuance.supplied_last.get(*id).filter(|entry| entry.is_valid_at(now)).cloned();
        // What a Secret holds and was taken up is issued by now; a wish is for what is better than it.
        let mut entry = if is_wished { issued().or(supplied).or_else(last) } else { supplied };
        if entry.is_none() && wanted.placeholder && !nobody && served.contains_key(*id) {
            let names = placeholder_names(&served[*id], wishes.get(*id).copied());
            entry = issuance.placeholder(id, names, now);
        }
        if let Some(entry) = entry {
            entries.insert(id, entry);
        }
    }

    let mut observed = CertsObserved {
        unwanted: plan.unwanted.clone(),
        notices: issuance.notices.clone(),
        internal_ca: issuance
            .internal
            .as_ref()
            .ok()
            .map(|internal| InternalCaState { not_after: internal.validity.not_after, file: internal.file.clone() }),
        ..CertsObserved::default()
    };
    if let Err(reason) = &issuance.internal {
        observed.notices.push(format!("no internal CA: {reason}"));
    }
    if now < CLOCK_FLOOR {
        observed.notices.push("the clock of this machine is before 2026-01-01: nothing is issued".into());
    }
    let mut builder = CertTable::builder();
    for id in ids {
        let entry = entries.get(id);
        let mut errors = Vec::new();
        if let Some(Err(reason)) = wanted.supplied.get(id) {
            errors.push(format!("Secret {id}: {reason}"));
        } else if entry.is_none_or(|entry| entry.origin == Origin::Placeholder) && !wishes.contains_key(id) {
            errors.push(format!("Secret {id} does not exist or has no certificate"));
        }
        if let Some(entry) = entry.filter(|entry| entry.origin != Origin::Placeholder) {
            errors.extend(validity_error(entry, now));
            let issued = issuance.issued.get(id).filter(|issued| issued.held.made_for.revoked);
            errors.extend(issued.map(|_| "it was revoked, and clients may refuse it".to_owned()));
            errors.extend(served.get(id).into_iter().flatten().filter_map(|one| mismatch(one, &entries)));
        }
        let is_served = entry.is_some_and(|entry| entry.origin != Origin::Placeholder);
        let undone = if is_served { "not renewed" } else { "not issued" };
        errors.extend(wait(plan, id, is_served).map(|wait| format!("{undone}: {wait}")));
        errors.extend(issuance.placeholders.get(id).and_then(|held| held.reason.clone()));
        let source = match entry.map(|entry| entry.origin) {
            Some(Origin::Placeholder) => CertificateSource::Placeholder,
            Some(Origin::Supplied) => CertificateSource::Secret,
            Some(Origin::Issued) | None => match wishes.get(id) {
                Some(_) if matches!(plan.waiting.get(id), Some(Wait::IssuerAway { .. })) => {
                    let maker = issuance.issued.get(id).map(|issued| issued.held.made_for.maker());
                    CertificateSource::Kept(maker.unwrap_or_default())
                }
                Some(wish) => CertificateSource::Issued(issuer_text(&wish.issuer)),
                None => CertificateSource::Secret,
            },
        };
        let renews = plan
            .renewals
            .get(id)
            .filter(|_| matches!(source, CertificateSource::Issued(_) | CertificateSource::Kept(_)));
        observed.certificates.insert(
            id.clone(),
            CertificateState {
                source,
                names: entry.map(|entry| names(entry)).unwrap_or_default(),
                not_before: entry.map(|entry| at(entry.facts.not_before)),
                not_after: entry.map(|entry| at(entry.facts.not_after)),
                renews_at: renews.copied().map(at),
                error: (!errors.is_empty()).then(|| errors.join("; ")),
            },
        );
        if let Some(entry) = entry {
            builder.insert(id.clone(), entry.clone());
        }
    }
    (builder.build(), observed)
}

/// What a certificate waits for. An order that is under way, here or elsewhere, while there is a certificate and time, is
/// nothing to speak of.
fn wait<'a>(plan: &'a Plan, id: &CertId, is_served: bool) -> Option<&'a Wait> {
    let wait = plan.waiting.get(id)?;
    let is_passing = matches!(wait, Wait::UnderWay { .. } | Wait::Busy(_) | Wait::Account(_) | Wait::Elsewhere(_));
    let is_fine = plan.standing.get(id).is_some_and(|standing| standing.level <= Level::Fine);
    Some(wait).filter(|_| !(is_served && is_passing && is_fine))
}

fn issuer_text(issuer: &WantedIssuer) -> String {
    match issuer {
        WantedIssuer::Internal { .. } => "internal CA".into(),
        WantedIssuer::SelfSigned => "self-signed".into(),
        WantedIssuer::Acme(issuers) => issuers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", else "),
        WantedIssuer::Ca(id) => format!("CA {id}"),
        WantedIssuer::Nobody { .. } => "nobody".into(),
    }
}

fn placeholder_names(uses: &[&CertUse], wish: Option<&WantedCertificate>) -> Vec<Box<str>> {
    let hosts = uses.iter().filter(|one| one.hostname != HostPattern::Any).map(|one| one.hostname.to_string().into());
    let wished = wish.into_iter().flat_map(|wish| wish.dns_names.iter().cloned());
    hosts.chain(wished).collect::<BTreeSet<Box<str>>>().into_iter().collect()
}

fn names(entry: &CertEntry) -> Vec<String> {
    let dns = entry.facts.dns_names.iter().map(|name| name.to_string());
    dns.chain(entry.facts.addresses.iter().map(ToString::to_string)).collect()
}

fn validity_error(entry: &CertEntry, now: i64) -> Option<String> {
    if now > entry.facts.not_after {
        Some(format!("expired at {}", Timestamp(entry.facts.not_after)))
    } else if now < entry.facts.not_before {
        Some(format!("not valid before {}", Timestamp(entry.facts.not_before)))
    } else {
        None
    }
}

/// Whether none of a listener's certificates bears the name under which it serves.
fn mismatch(one: &CertUse, entries: &BTreeMap<&CertId, Arc<CertEntry>>) -> Option<String> {
    let mut at_hand = one.certificates.iter().filter_map(|id| entries.get(id));
    if at_hand.any(|entry| covers(entry, &one.hostname)) {
        return None;
    }
    Some(format!("is not valid for {}, the hostname of {}", one.hostname, one.listener))
}

/// RFC 9525 §6.3: `*` stands for exactly one label, the first.
fn covers(entry: &CertEntry, hostname: &HostPattern) -> bool {
    let mut names = entry.facts.dns_names.iter().map(|name| &**name);
    match hostname {
        HostPattern::Any => true,
        HostPattern::Exact(host) => {
            let above = host.as_str().split_once('.').map(|(_, above)| above);
            names.any(|name| {
                name == host.as_str() || name.strip_prefix("*.").is_some_and(|suffix| Some(suffix) == above)
            })
        }
        HostPattern::Wildcard(suffix) => names.any(|name| name.strip_prefix("*.") == Some(suffix.as_str())),
    }
}

pub(super) fn at(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let moment = if seconds < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    moment.unwrap_or(UNIX_EPOCH)
}
