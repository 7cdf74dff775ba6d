//! The operator's view of certificates: what serves, when it ends, who renews it, and why something is not as wanted.
//!
//! A [`World`], a name and the time flow in, rows flow out. Pure; nothing is decided here: levels, waits, budgets and the
//! words about failures are those of the plan, of the diagnosis and of compile, put side by side. No key is ever here.

mod budget;
mod chain;
mod find;
pub mod metrics;
mod sentence;
mod subject;
#[cfg(test)]
mod tests;
pub mod view;

use std::time::SystemTime;

use edge_config::names::CertId;
use edge_config::snapshot::{KeyAlgorithm, WantedIssuer};

use super::span;
use super::view::State;
use super::world::World;
use crate::certs::command::Material;
use crate::certs::observed::AcmeStep;
use subject::{Subject, Subjects};
use view::{Account, Budget, CertificateList, CertificateRow, CertificateWhy, Evidence, Failure, Shown, Window};

pub use chain::links;
pub use find::{find, place_for};
pub use subject::level;

/// `edgectl cert list`: every certificate that is wanted, served or presented; the most urgent first.
pub fn list(world: &World, now: SystemTime) -> CertificateList {
    let subjects = Subjects::new(world, now);
    let mut rows: Vec<CertificateRow> = subjects.all().iter().map(|subject| row(&subjects, subject)).collect();
    rows.sort_by(|a, b| a.urgency().cmp(&b.urgency()));
    CertificateList { edge: world.edge.to_string(), orders: orders(world), certificates: rows }
}

/// `edgectl cert show`. `None`: nobody here wants or serves it. `material` is what serves, or why there is nothing.
pub fn shown(world: &World, id: &CertId, material: Result<&Material, &str>, now: SystemTime) -> Option<Shown> {
    let subjects = Subjects::new(world, now);
    let subject = subjects.one(id)?;
    let (chain, chain_fault) = match material.map_err(str::to_owned).and_then(|found| links(&found.chain_pem)) {
        Ok(chain) => (chain, None),
        Err(reason) => (Vec::new(), Some(reason)),
    };
    let wanted = subject.wanted;
    Some(Shown {
        row: row(&subjects, &subject),
        kept_in: kept_in(&subject),
        wanted_by: wanted.map(|wanted| wanted.wanted_by.clone()).unwrap_or_default(),
        key: wanted.map(|wanted| key_text(wanted.key)),
        profile: wanted.and_then(|wanted| wanted.profile.as_ref().map(ToString::to_string)),
        chain,
        chain_fault,
        findings: subject.acme.map(|acme| acme.findings.clone()).unwrap_or_default(),
        seen: subject.acme.map(|acme| acme.seen.clone()).unwrap_or_default(),
        accounts: accounts(&subject, world),
        budget: wanted.map(|wanted| budget::of_one(world, wanted)).unwrap_or_default(),
    })
}

/// `edgectl cert why`: the one sentence, and what it rests on. `None`: nobody here wants or serves it.
pub fn why(world: &World, id: &CertId, now: SystemTime) -> Option<CertificateWhy> {
    let subjects = Subjects::new(world, now);
    let subject = subjects.one(id)?;
    let row = row(&subjects, &subject);
    let judgement = sentence::judge(&subject, world, now);
    let evidence = evidence(&subject, &row, world);
    Some(CertificateWhy { sentence: judgement.sentence, cause: judgement.cause, row, evidence })
}

/// `edgectl cert budget`.
pub fn budget(world: &World) -> Budget {
    budget::all(world)
}

fn row(subjects: &Subjects<'_>, subject: &Subject<'_>) -> CertificateRow {
    let (world, now) = (subjects.world, subjects.now);
    let mut health = subjects.health(subject);
    if health.state != State::Up {
        health.reason = sentence::judge(subject, world, now).sentence;
    }
    let state = subject.state;
    let acme = subject.acme;
    let next = acme.and_then(|acme| match &acme.step {
        AcmeStep::Waiting { until, .. } => *until,
        AcmeStep::Held { .. } | AcmeStep::Ordering { .. } | AcmeStep::Elsewhere { .. } => None,
    });
    let end = state.and_then(|state| state.not_after);
    CertificateRow {
        health,
        certificate: subject.id.to_string(),
        names: subject.names(),
        served: subject.served(),
        level: subject.level.to_string(),
        issuers: subject.issuers(),
        issued_by: acme.and_then(|acme| Some(acme.issuer.as_ref()?.to_string())),
        not_before: state.and_then(|state| state.not_before).map(span::rfc3339),
        not_after: end.map(span::rfc3339),
        seconds_left: end.map(|end| match end.duration_since(now) {
            Ok(left) => i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            Err(over) => -i64::try_from(over.duration().as_secs()).unwrap_or(i64::MAX),
        }),
        renews_at: state.and_then(|state| state.renews_at).map(span::rfc3339),
        window: acme.and_then(|acme| acme.window.as_ref()).map(|window| Window {
            start: span::rfc3339(window.start),
            end: span::rfc3339(window.end),
            explanation: window.explanation.clone(),
            asked_again: span::rfc3339(window.ask_again),
        }),
        step: subject.step(),
        failures: acme.map_or(0, |acme| acme.failures),
        last_failure: acme.and_then(|acme| acme.last_error.as_ref()).map(|error| Failure {
            at: span::rfc3339(error.at),
            issuer: error.issuer.to_string(),
            class: error.class.to_string(),
            sentence: error.text.clone(),
            said: error.said.clone(),
        }),
        next_try: next.map(span::rfc3339),
        orders: orders(world),
        used_by: subject.used_by.to_vec(),
    }
}

/// The edge that orders; `None`: this one, which has nobody beside it, or nobody is known to.
fn orders(world: &World) -> Option<String> {
    world.observed.fleet.as_ref()?.orders.clone().ok()
}

fn kept_in(subject: &Subject<'_>) -> String {
    let id = subject.id;
    match subject.wanted {
        None => format!("Secret {id}, which somebody else writes"),
        Some(wanted) => match &wanted.write_back {
            Some(write) => format!("store of the edges and Secret {}", write.secret),
            None => "store of the edges".to_owned(),
        },
    }
}

fn key_text(key: KeyAlgorithm) -> String {
    match key {
        KeyAlgorithm::EcdsaP256 => "ECDSA P-256".to_owned(),
        KeyAlgorithm::EcdsaP384 => "ECDSA P-384".to_owned(),
        KeyAlgorithm::Ed25519 => "Ed25519".to_owned(),
        KeyAlgorithm::Rsa(bits) => format!("RSA {bits}"),
    }
}

fn accounts(subject: &Subject<'_>, world: &World) -> Vec<Account> {
    let Some(WantedIssuer::Acme(issuers)) = subject.wanted.map(|wanted| &wanted.issuer) else { return Vec::new() };
    issuers.iter().map(|id| account(id, world)).collect()
}

fn account(id: &edge_config::issuer::IssuerId, world: &World) -> Account {
    let configured = world.compiled.snapshot.issuers.iter().find(|issuer| issuer.id == *id);
    let known = world.observed.acme.issuers.get(id);
    Account {
        issuer: id.to_string(),
        directory: configured.map(|issuer| issuer.directory.to_string()).unwrap_or_default(),
        account: known.and_then(|known| known.account.clone()),
        thumbprint: known.and_then(|known| known.thumbprint.clone()),
        error: known.and_then(|known| known.error.clone()),
        paused_until: known.and_then(|known| known.paused_until).map(span::rfc3339),
    }
}

/// What the sentence rests on, in the order of thought.
fn evidence(subject: &Subject<'_>, row: &CertificateRow, world: &World) -> Vec<Evidence> {
    let mut rows = Vec::new();
    let mut add = |about: &str, text: String| rows.push(Evidence { about: about.to_owned(), text });
    let names = if row.names.is_empty() { String::new() } else { format!(" for {}", row.names.join(", ")) };
    add("certificate", format!("{}{names}", row.certificate));
    add("served", subject.served_text());
    for by in subject.wanted.iter().flat_map(|wanted| &wanted.wanted_by) {
        add("wanted by", by.clone());
    }
    for condition in subject.conditions.iter().filter(|condition| !condition.message.is_empty()) {
        add("listener says", format!("{}: {}", condition.reason, condition.message));
    }
    add("stands", format!("{}: {}", row.step, subject.level));
    let Some(acme) = subject.acme else {
        if let Some(error) = subject.state.and_then(|state| state.error.clone()) {
            add("error", error);
        }
        return rows;
    };
    for finding in &acme.findings {
        add("before the order", finding.clone());
    }
    for seen in &acme.seen {
        add("seen then", seen.clone());
    }
    if let Some(failure) = &row.last_failure {
        let count = acme.failures;
        add(
            "last failure",
            format!("at {} by {}, class {}, {count} in a row", failure.at, failure.issuer, failure.class),
        );
        // Before the CA was asked there is nothing that it has told.
        if !failure.said.is_empty() && !failure.said.contains(&failure.sentence) {
            add("told", failure.said.clone());
        }
    }
    for account in accounts(subject, world) {
        add("issuer", account.text());
    }
    for bucket in subject.wanted.map(|wanted| budget::of_one(world, wanted)).unwrap_or_default() {
        add("budget", bucket.text());
    }
    if let Some(orders) = &row.orders {
        add("orders", format!("edge {orders}"));
    }
    if let Some(next) = &row.next_try {
        add("next try", next.clone());
    }
    rows
}
