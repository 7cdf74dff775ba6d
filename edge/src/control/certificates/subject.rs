//! One certificate with everything that is known of it, joined once for all views.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use edge_acme::due::Validity;
use edge_acme::level::Level;
use edge_config::names::{CertId, ObjectRef};
use edge_config::report::{CERTIFICATE_READY, Condition, ListenerReport};
use edge_config::snapshot::{WantedCertificate, WantedIssuer};

use super::view::Served;
use crate::certs::observed::{AcmeState, AcmeStep};
use crate::control::observed::{CertificateSource, CertificateState};
use crate::control::span;
use crate::control::status::{self, Lookup, certificates_of};
use crate::control::view::{Health, State};
use crate::control::world::World;

pub(super) struct Subject<'a> {
    pub id: &'a CertId,
    pub wanted: Option<&'a WantedCertificate>,
    pub state: Option<&'a CertificateState>,
    pub acme: Option<&'a AcmeState>,
    /// What its listeners have to say of certificates and of references, where that is not good.
    pub conditions: Vec<&'a Condition>,
    /// What they say of certificates that others issue.
    pub notes: Vec<&'a Condition>,
    pub used_by: &'a [String],
    pub level: Level,
}

/// All of them.
pub(super) struct Subjects<'a> {
    pub world: &'a World,
    pub now: SystemTime,
    lookup: Lookup<'a>,
    conditions: BTreeMap<&'a CertId, Vec<&'a Condition>>,
}

impl<'a> Subjects<'a> {
    pub fn new(world: &'a World, now: SystemTime) -> Self {
        let (snapshot, report) = (&world.compiled.snapshot, &world.compiled.report);
        let reports: BTreeMap<(&ObjectRef, &str), &ListenerReport> = report
            .objects
            .iter()
            .flat_map(|(object, report)| report.listeners.iter().map(move |one| ((object, &*one.name), one)))
            .collect();
        let mut conditions: BTreeMap<&CertId, Vec<&Condition>> = BTreeMap::new();
        for listener in &snapshot.listeners {
            let Some(report) = reports.get(&(&listener.parent, &*listener.name)) else { continue };
            for id in certificates_of(listener) {
                let known = conditions.entry(id).or_default();
                known.extend(report.conditions.iter().filter(|one| !known.contains(one)).collect::<Vec<_>>());
            }
        }
        Self { world, now, lookup: Lookup::new(world.scene()), conditions }
    }

    /// In the order of names.
    pub fn all(&self) -> Vec<Subject<'_>> {
        let lookup = &self.lookup;
        let seen = self.world.observed.certificates.keys();
        let ids: BTreeSet<&CertId> =
            lookup.users.keys().copied().chain(lookup.wanted.keys().copied()).chain(seen).collect();
        ids.into_iter().map(|id| self.subject(id)).collect()
    }

    pub fn one(&self, id: &'a CertId) -> Option<Subject<'_>> {
        let observed = &self.world.observed;
        let is_known = self.lookup.users.contains_key(id)
            || self.lookup.wanted.contains_key(id)
            || observed.certificates.contains_key(id);
        is_known.then(|| self.subject(id))
    }

    fn subject<'s>(&'s self, id: &'s CertId) -> Subject<'s> {
        let observed = &self.world.observed;
        let state = observed.certificates.get(id);
        let acme = observed.acme.certificates.get(id);
        let all = self.conditions.get(id).map(Vec::as_slice).unwrap_or_default();
        let bad = |one: &&&Condition| !one.status && matches!(one.kind, CERTIFICATE_READY | "ResolvedRefs");
        Subject {
            id,
            wanted: self.lookup.wanted.get(id).copied(),
            state,
            acme,
            conditions: all.iter().filter(bad).copied().collect(),
            notes: all.iter().filter(|one| one.kind == CERTIFICATE_READY).copied().collect(),
            used_by: self.lookup.users.get(id).map(Vec::as_slice).unwrap_or_default(),
            level: acme.map_or_else(|| level(state, self.now), |acme| acme.level),
        }
    }

    /// As in `edgectl status`, and worse where something stands in for what was wanted.
    pub fn health(&self, subject: &Subject<'_>) -> Health {
        let health = status::certificate_row(&self.lookup, subject.id, self.now).health;
        if subject.served() == Served::StandIn && !subject.is_refused_name() {
            return health.and(Health::new(State::Degraded, ""));
        }
        health
    }
}

/// Of what no ACME CA issues. What nobody renews is no renewal that is overdue.
pub fn level(state: Option<&CertificateState>, now: SystemTime) -> Level {
    let Some(state) = state.filter(|state| state.source != CertificateSource::Placeholder) else {
        return Level::Missing;
    };
    let (Some(from), Some(to)) = (state.not_before, state.not_after) else { return Level::Missing };
    let validity = Validity { not_before: unix(from), not_after: unix(to) };
    let due = state.renews_at.map_or(validity.not_after, unix);
    Level::of(validity, due, unix(now))
}

pub(super) fn unix(at: SystemTime) -> i64 {
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
    }
}

impl Subject<'_> {
    pub fn served(&self) -> Served {
        let Some(state) = self.state else { return Served::Nothing };
        if state.source == CertificateSource::Placeholder {
            return Served::Placeholder;
        }
        if state.not_after.is_none() {
            return Served::Nothing;
        }
        if self.is_kept() {
            return Served::LastGood;
        }
        if self.is_stood_in_for() {
            return Served::StandIn;
        }
        let failing = self.acme.is_some_and(|acme| acme.failures > 0 && !matches!(acme.step, AcmeStep::Held { .. }));
        if failing || self.level > Level::Fine { Served::LastGood } else { Served::Real }
    }

    pub fn served_text(&self) -> String {
        let Some(state) = self.state else { return "nothing is known of it yet".to_owned() };
        let until = state.not_after.map(|end| format!(", valid until {}", span::rfc3339(end))).unwrap_or_default();
        match self.served() {
            Served::Real => format!("what is wanted{until}"),
            Served::LastGood => format!("the last good one{until}"),
            Served::StandIn => format!("one of the internal CA in its place{until}"),
            Served::Placeholder => "a placeholder of the internal CA, which no client trusts by itself".to_owned(),
            Served::Nothing => "nothing".to_owned(),
        }
    }

    /// Why whoever should issue it cannot.
    pub fn instead_of(&self) -> Option<&str> {
        self.wanted?.issuer.away()
    }

    /// What its issuer made before serves, as the issuer cannot issue at the moment.
    pub fn is_kept(&self) -> bool {
        self.state.is_some_and(|state| matches!(state.source, CertificateSource::Kept(_)))
    }

    /// The internal CA is right for such names: no other would have them.
    pub fn is_refused_name(&self) -> bool {
        self.is_stood_in_for() && self.notes.iter().any(|one| one.reason == "NotPublic")
    }

    /// The internal CA has it in the place of another issuer, which its listeners have something to say about.
    pub fn is_stood_in_for(&self) -> bool {
        let is_told = self.notes.iter().any(|one| matches!(one.reason, "Deferred" | "NotPublic" | "NotIssuable"));
        self.instead_of().is_some() && (is_told || !self.conditions.is_empty())
    }

    pub fn names(&self) -> Vec<String> {
        let wanted = self.wanted.map(|wanted| {
            let names = wanted.dns_names.iter().map(ToString::to_string);
            names.chain(wanted.addresses.iter().map(ToString::to_string)).collect::<Vec<_>>()
        });
        let held = || self.state.map(|state| state.names.clone());
        wanted.filter(|names| !names.is_empty()).or_else(held).unwrap_or_default()
    }

    pub fn issuers(&self) -> Vec<String> {
        match self.wanted.map(|wanted| &wanted.issuer) {
            Some(WantedIssuer::Acme(issuers)) => issuers.iter().map(ToString::to_string).collect(),
            Some(WantedIssuer::Internal { .. }) => vec!["internal CA".to_owned()],
            Some(WantedIssuer::Nobody { .. }) => Vec::new(),
            Some(WantedIssuer::SelfSigned) => vec!["self-signed".to_owned()],
            Some(WantedIssuer::Ca(id)) => vec![format!("CA {id}")],
            None => Vec::new(),
        }
    }

    /// How far it is.
    pub fn step(&self) -> String {
        match self.acme.map(|acme| &acme.step) {
            Some(AcmeStep::Held { .. }) => "held".to_owned(),
            Some(AcmeStep::Waiting { .. }) => "waiting".to_owned(),
            Some(AcmeStep::Ordering { issuer, doing, since }) => {
                format!("ordering: {doing}, at {issuer}, since {}", span::rfc3339(*since))
            }
            Some(AcmeStep::Elsewhere { edge }) => format!("elsewhere: {edge}"),
            None if self.state.is_some_and(|state| state.not_after.is_some()) => "held".to_owned(),
            None => "waiting".to_owned(),
        }
    }
}
