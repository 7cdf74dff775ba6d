//! What is counted of certificates. One series per certificate for its end, as far as [`SERIES`] go; all else by level,
//! class, issuer and limit, so that thousands of certificates cost no more than one.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::SystemTime;

use edge_acme::budget::{Limit, Limits};
use edge_acme::failure::Class;
use edge_acme::level::Level;

use super::budget::host;
use super::subject::{Subjects, unix};
use crate::control::world::World;
use crate::proxy::metrics::{MetricType, Text};

/// Certificates with a series of their own: those that end first.
const SERIES: usize = 1000;

const LEVELS: [Level; 6] = [Level::Fine, Level::Late, Level::Warning, Level::Critical, Level::Missing, Level::Expired];
const CLASSES: [Class; 5] = [Class::Config, Class::Validation, Class::Limited, Class::Transient, Class::Ours];

/// Appends the families to a page.
pub fn write(world: &World, now: SystemTime, text: &mut Text) {
    let observed = &world.observed;
    let mut ends: Vec<_> =
        observed.certificates.iter().filter_map(|(id, state)| Some((state.not_after?, id, state))).collect();
    ends.sort_by_key(|(end, id, _)| (*end, *id));
    let listed = &ends[..ends.len().min(SERIES)];
    text.family("edge_certificate_not_after_seconds", MetricType::Gauge, "When a certificate ends, in Unix seconds.");
    for (end, id, _) in listed {
        text.sample(&[("secret", id)], unix(*end));
    }
    text.family("edge_certificate_expiry_seconds", MetricType::Gauge, "How long a certificate still holds.");
    for (end, id, _) in listed {
        text.sample(&[("secret", id)], unix(*end).saturating_sub(unix(now)));
    }
    text.family("edge_certificate_renewal_seconds", MetricType::Gauge, "When it is to be renewed, in Unix seconds.");
    for (_, id, state) in listed {
        if let Some(at) = state.renews_at {
            text.sample(&[("secret", id)], unix(at));
        }
    }
    text.family(
        "edge_certificates_unlisted",
        MetricType::Gauge,
        "Certificates without series: others end before them.",
    );
    text.sample(&[], ends.len() - listed.len());

    let mut levels: BTreeMap<Level, usize> = BTreeMap::new();
    for subject in Subjects::new(world, now).all() {
        *levels.entry(subject.level).or_default() += 1;
    }
    text.family("edge_certificate_levels", MetricType::Gauge, "Certificates by how pressing their renewal is.");
    for level in LEVELS {
        text.sample(&[("level", &level)], levels.get(&level).copied().unwrap_or(0));
    }
    if !observed.acme.issuers.is_empty() {
        issuers(world, now, text);
    }
}

fn issuers(world: &World, now: SystemTime, text: &mut Text) {
    let acme = &world.observed.acme;
    text.family("edge_acme_orders", MetricType::Counter, "Orders that ended, by what became of them.");
    for (id, issuer) in &acme.issuers {
        let failed: u64 = issuer.tally.failed.values().sum();
        for (result, count) in [("obtained", issuer.tally.obtained), ("failed", failed)] {
            text.sample(&[("issuer", id), ("result", &result)], count);
        }
    }
    text.family("edge_acme_failures", MetricType::Counter, "Orders that failed, by what can be done about it.");
    for (id, issuer) in &acme.issuers {
        for class in CLASSES {
            text.sample(&[("issuer", id), ("class", &class)], issuer.tally.failed.get(&class).copied().unwrap_or(0));
        }
    }
    text.family(
        "edge_acme_issuer_paused",
        MetricType::Gauge,
        "1 while a CA is left alone, as it asked or for a failure.",
    );
    for (id, issuer) in &acme.issuers {
        text.sample(&[("issuer", id)], u8::from(issuer.paused_until.is_some_and(|until| until > now)));
    }
    // The least that is left of each limit, of whatever account, domain or name: that is what is met first.
    let mut left: BTreeMap<(&str, Limit), u32> = BTreeMap::new();
    for issuer in &world.compiled.snapshot.issuers {
        let limits = Limits::of(&issuer.directory);
        let kinds =
            [Limit::NewAccounts, Limit::NewOrders, Limit::PerDomain, Limit::ExactSet, Limit::AuthorizationFailures];
        for limit in kinds {
            if let Some(rate) = limits.rate(limit) {
                left.insert((host(&issuer.directory), limit), rate.count);
            }
        }
    }
    for usage in &acme.budget {
        let refused = usage.refused_until.is_some();
        let own = if refused { 0 } else { usage.most.saturating_sub(usage.used) };
        if let Some(known) = left.get_mut(&(host(&usage.bucket.directory), usage.bucket.limit)) {
            *known = own.min(*known);
        }
    }
    if !left.is_empty() {
        text.family("edge_acme_budget_left", MetricType::Gauge, "The least that is left of a limit of a CA.");
        for ((ca, limit), left) in left {
            let labels: [(&str, &dyn Display); 2] = [("ca", &ca), ("limit", &limit)];
            text.sample(&labels, left);
        }
    }
}
