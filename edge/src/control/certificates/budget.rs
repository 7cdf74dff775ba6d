//! What CAs still let Edge have, known before anything is ordered: the account book of the plan, with the limits that
//! nobody has drawn from yet.

use std::collections::BTreeMap;

use edge_acme::budget::{Bucket, Charge, Exemption, Limit, Limits, Usage};
use edge_acme::plan::Timestamp;
use edge_config::issuer::{AcmeIssuer, IssuerId};
use edge_config::snapshot::{WantedCertificate, WantedIssuer};

use super::view::{Budget, BudgetRow};
use crate::control::observed::CertificateSource;
use crate::control::span;
use crate::control::world::World;

/// Every limit that is drawn from, or will be by what is wanted.
pub(super) fn all(world: &World) -> Budget {
    let mut waiting: BTreeMap<Bucket, usize> = BTreeMap::new();
    for usage in &world.observed.acme.budget {
        waiting.insert(usage.bucket.clone(), 0);
    }
    for wanted in &world.compiled.snapshot.certificates {
        let Some(issuer) = first_issuer(world, wanted) else { continue };
        let charge = Charge::of_order(&issuer.directory, &issuer.id, wanted, Exemption::None);
        let is_lacking = is_lacking(world, wanted);
        for bucket in charge.buckets {
            // One set of names or one name is of interest once it is drawn from.
            let is_shown = matches!(bucket.limit, Limit::PerDomain | Limit::NewOrders);
            if is_shown || waiting.contains_key(&bucket) {
                *waiting.entry(bucket).or_default() += usize::from(is_lacking);
            }
        }
    }
    let mut limits: Vec<BudgetRow> = waiting.iter().filter_map(|(bucket, count)| row(world, bucket, *count)).collect();
    // What is scarce comes first: parts of what there is, without fractions.
    limits.sort_by(|a, b| {
        let part = |row: &BudgetRow| u64::from(row.left) * 1000 / u64::from(row.most.max(1));
        (part(a), &a.ca, &a.limit, &a.of).cmp(&(part(b), &b.ca, &b.limit, &b.of))
    });
    let accounts = world.compiled.snapshot.issuers.iter().map(|issuer| super::account(&issuer.id, world)).collect();
    Budget { accounts, limits }
}

/// What a first order for one certificate would draw from.
pub(super) fn of_one(world: &World, wanted: &WantedCertificate) -> Vec<BudgetRow> {
    let Some(issuer) = first_issuer(world, wanted) else { return Vec::new() };
    let charge = Charge::of_order(&issuer.directory, &issuer.id, wanted, Exemption::None);
    let has_account = world.observed.acme.issuers.get(&issuer.id).is_some_and(|known| known.account.is_some());
    let charge = if has_account { charge } else { charge.with_account(&issuer.directory) };
    let buckets = charge.buckets.iter().chain(&charge.must_have).filter(|bucket| bucket.limit != Limit::Pace);
    let waiting = usize::from(is_lacking(world, wanted));
    buckets.filter_map(|bucket| row(world, bucket, waiting)).collect()
}

/// Why a limit stands in the way, and what can be done.
pub(super) fn sentence(world: &World, issuer: &IssuerId, bucket: &Bucket, until: i64) -> String {
    let (what, remedy) = match bucket.limit {
        Limit::NewAccounts => ("accounts", "keep the accounts that there are (edgectl backup) instead of new ones"),
        Limit::NewOrders => ("orders", "spread new names over time, or add a second issuer"),
        Limit::PerDomain => {
            ("certificates", "put several names into one certificate or a wildcard, or add a second issuer")
        }
        Limit::ExactSet => ("certificates", "find out what orders the same names again and again"),
        Limit::AuthorizationFailures => ("failures", "mend the cause of the failures first"),
        Limit::Pace => ("renewals", "nothing needs to be done, edgectl cert renew goes before the others"),
    };
    let used = usage(world, bucket);
    let rate = Limits::of(&bucket.directory).rate(bucket.limit).or_else(|| Limits::NONE.rate(bucket.limit));
    let spent = match (used, rate) {
        (Some(used), _) if used.refused_until.is_some() => "the CA itself refuses more".to_owned(),
        (Some(used), Some(rate)) => {
            format!("{} of {} {what} in {} are used", used.used, used.most, span::rough(rate.period))
        }
        _ => "its limit is reached".to_owned(),
    };
    format!("{issuer} allows no more now ({bucket}: {spent}): it is ordered at {}; {remedy}", Timestamp(until))
}

fn first_issuer<'a>(world: &'a World, wanted: &WantedCertificate) -> Option<&'a AcmeIssuer> {
    let WantedIssuer::Acme(issuers) = &wanted.issuer else { return None };
    let first = issuers.first()?;
    world.compiled.snapshot.issuers.iter().find(|issuer| issuer.id == *first)
}

fn is_lacking(world: &World, wanted: &WantedCertificate) -> bool {
    let state = world.observed.certificates.get(&wanted.id);
    state.is_none_or(|state| state.source == CertificateSource::Placeholder || state.not_after.is_none())
}

fn usage<'a>(world: &'a World, bucket: &Bucket) -> Option<&'a Usage> {
    world.observed.acme.budget.iter().find(|usage| usage.bucket == *bucket)
}

fn row(world: &World, bucket: &Bucket, waiting: usize) -> Option<BudgetRow> {
    let rate = Limits::of(&bucket.directory).rate(bucket.limit)?;
    let used = usage(world, bucket);
    let spent = used.map_or(0, |usage| usage.used);
    let at = |seconds: i64| Timestamp(seconds).to_string();
    Some(BudgetRow {
        ca: host(&bucket.directory).to_owned(),
        limit: bucket.limit.to_string(),
        of: bucket.of.to_string(),
        used: spent,
        most: rate.count,
        left: rate.count.saturating_sub(spent),
        per: span::rough(rate.period),
        next: used.and_then(|usage| usage.until).map(at),
        full_at: used.filter(|usage| usage.used > 0).map(|usage| at(usage.full_at)),
        refused_until: used.and_then(|usage| usage.refused_until).map(at),
        waiting,
    })
}

/// Of the URL of a directory.
pub(super) fn host(directory: &str) -> &str {
    let rest = directory.split_once("://").map_or(directory, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}
