//! Which Secrets are to be looked at. No I/O: it takes what is known, and the time, and gives single jobs out.
//!
//! In: worlds, offers, texts of Secrets, outcomes. Out: one [`Job`] after the other. A Secret that holds what it should, as
//! far as the watches show, needs no call at all; one that was looked at is looked at again only when something about it
//! or about what it should hold has changed, so nothing runs in a circle. Somebody who keeps writing the opposite meets a
//! writer that waits longer each time ([`Pace`]).

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
use std::sync::Arc;

use edge_config::core::Secret;
use edge_config::inputs::Object;
use edge_config::issuer::{SecretRef, WriteBack};
use edge_config::names::{CertId, Kind, ObjectRef};
use edge_config::snapshot::WantedCertificate;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::judge::{EDGE, MANAGED_BY, is_as_offered};
use crate::certs::SecretTexts;
use crate::certs::offer::{Offer, Offers, WRITTEN_ANNOTATION, account_secret};
use crate::control::world::World;
use crate::kubernetes::status::pace::{Failure, Pace};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    Certificate(CertId),
    /// By the `privateKeySecretRef` of its issuer.
    Account(SecretRef),
}

/// One Secret to look at, and to write where it must be.
#[derive(Debug)]
pub struct Job {
    pub item: Item,
    pub secret: ObjectRef,
    pub what: What,
    /// Of the circumstances under which it was given out.
    print: u64,
}

#[derive(Debug)]
pub enum What {
    Certificate { wish: Box<WantedCertificate>, write: WriteBack, offer: Arc<Offer> },
    Account { reference: SecretRef, pem: Arc<Zeroizing<String>> },
}

#[derive(Debug)]
pub enum Next {
    Do(Box<Job>),
    /// Nothing before this moment, or before something happens.
    Wait(Option<Instant>),
}

pub struct Book {
    world: Option<Arc<World>>,
    offers: Arc<Offers>,
    texts: Arc<SecretTexts>,
    /// What is to be looked at, with its circumstances.
    open: BTreeMap<Item, u64>,
    /// What was looked at, under which circumstances.
    settled: BTreeMap<Item, u64>,
    in_flight: BTreeSet<Item>,
    pace: Pace,
}

impl Book {
    pub fn new(now: Instant) -> Self {
        Self {
            world: None,
            offers: Arc::default(),
            texts: Arc::default(),
            open: BTreeMap::new(),
            settled: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            pace: Pace::new(now),
        }
    }

    /// Takes what is known now.
    pub fn note(&mut self, world: &Arc<World>, offers: &Arc<Offers>, texts: &Arc<SecretTexts>) {
        // Routes and endpoints change all the time, and mean nothing here.
        let is_known = self.world.as_ref().is_some_and(|known| {
            let (inputs, before) = (&world.inputs, &known.inputs);
            let (wishes, known) = (&world.compiled.snapshot, &known.compiled.snapshot);
            (Arc::ptr_eq(inputs, before)
                || (inputs.secrets.is_identical(&before.secrets) && inputs.outdated == before.outdated))
                && (Arc::ptr_eq(wishes, known) || wishes.certificates == known.certificates)
        });
        if is_known && Arc::ptr_eq(&self.offers, offers) && Arc::ptr_eq(&self.texts, texts) {
            return;
        }
        (self.world, self.offers, self.texts) = (Some(Arc::clone(world)), Arc::clone(offers), Arc::clone(texts));
        self.open = BTreeMap::new();
        for wish in &world.compiled.snapshot.certificates {
            if let (Some(write), Some(offer)) = (&wish.write_back, offers.certificates.get(&wish.id))
                && let Some(print) = needs_look(world, wish, write, offer)
            {
                self.open.insert(Item::Certificate(wish.id.clone()), print);
            }
        }
        for (reference, pem) in &offers.accounts {
            // One that is read is known by its text; one that is not is looked at once.
            let text = texts.get(&account_secret(reference));
            if !text.is_some_and(|text| text.as_ref().is_ok_and(|text| text.bytes() == pem.as_bytes())) {
                let mut hasher = hasher();
                (pem.as_bytes(), text.map(|text| text.as_ref().map(|text| text.bytes()))).hash(&mut hasher);
                self.open.insert(Item::Account(reference.clone()), hasher.finish());
            }
        }
        let Self { open, settled, .. } = self;
        settled.retain(|item, print| open.get(item) == Some(print));
    }

    /// Looks at everything again: whoever wrote until now may have left anything behind.
    pub fn take_over(&mut self) {
        self.settled.clear();
    }

    pub fn next(&mut self, now: Instant) -> Next {
        let mut wait: Option<Instant> = None;
        let todo = self.open.iter().filter(|(item, print)| self.settled.get(item) != Some(print));
        let todo = todo.filter(|(item, _)| !self.in_flight.contains(item));
        let todo: Vec<(Item, u64)> = todo.map(|(item, print)| (item.clone(), *print)).collect();
        for (item, print) in todo {
            let secret = secret_of(&item);
            match self.pace.leave(&secret, now) {
                Ok(()) => {}
                Err(at) => {
                    wait = Some(wait.map_or(at, |known| known.min(at)));
                    continue;
                }
            }
            let Some(what) = self.what(&item) else { continue };
            self.in_flight.insert(item.clone());
            return Next::Do(Box::new(Job { item, secret, what, print }));
        }
        Next::Wait(wait)
    }

    fn what(&self, item: &Item) -> Option<What> {
        match item {
            Item::Certificate(id) => {
                let wishes = &self.world.as_ref()?.compiled.snapshot.certificates;
                let wish = wishes.iter().find(|wish| wish.id == *id)?;
                let offer = Arc::clone(self.offers.certificates.get(id)?);
                Some(What::Certificate { wish: Box::new(wish.clone()), write: wish.write_back.clone()?, offer })
            }
            Item::Account(reference) => {
                let pem = Arc::clone(self.offers.accounts.get(reference)?);
                Some(What::Account { reference: account_secret(reference), pem })
            }
        }
    }

    /// It holds what it should, or is to be left alone.
    pub fn settled(&mut self, job: &Job) {
        self.in_flight.remove(&job.item);
        self.settled.insert(job.item.clone(), job.print);
    }

    /// It was written. Returns whether somebody keeps writing the opposite.
    pub fn written(&mut self, job: &Job, now: Instant) -> bool {
        self.settled(job);
        let mut hasher = hasher();
        match &job.what {
            What::Certificate { offer, .. } => offer.facts.fingerprint.0.hash(&mut hasher),
            What::Account { pem, .. } => pem.hash(&mut hasher),
        }
        self.pace.written(&job.secret, hasher.finish(), now)
    }

    pub fn failed(&mut self, job: &Job, failure: Failure, now: Instant) {
        self.in_flight.remove(&job.item);
        self.pace.failed(&job.secret, failure, now);
    }

    pub fn tidy(&mut self, now: Instant) {
        self.pace.forget(now);
    }
}

fn secret_of(item: &Item) -> ObjectRef {
    let key = match item {
        Item::Certificate(id) => id.0.clone(),
        Item::Account(reference) => account_secret(reference).secret,
    };
    ObjectRef::new(Kind::Secret, key)
}

/// The circumstances of a Secret that must be looked at; nothing where the watches show what is offered.
fn needs_look(world: &World, wish: &WantedCertificate, write: &WriteBack, offer: &Offer) -> Option<u64> {
    let secret = world.inputs.secrets.get(&write.secret.0);
    let object = ObjectRef::new(Kind::Secret, write.secret.0.clone());
    let outdated = world.inputs.outdated.get(&object).map(|outdated| &outdated.reason);
    if let Some(secret) = secret {
        // Files go before the cluster, and are not written to.
        if !secret.meta.is_served() || (outdated.is_none() && holds(secret, write, offer)) {
            return None;
        }
    }
    let mut hasher = hasher();
    (&offer.facts.fingerprint.0, &offer.ca_pem, offer.chain_length).hash(&mut hasher);
    (&write.annotations, &write.labels, &wish.dns_names, &wish.addresses, outdated).hash(&mut hasher);
    if let Some(secret) = secret {
        let sha = secret.spec.certificate().map(|facts| (&facts.sha256, facts.chain_length));
        (sha, &secret.meta.annotations, &secret.meta.labels, &secret.spec.keys).hash(&mut hasher);
    }
    Some(hasher.finish())
}

fn holds(secret: &Object<Secret>, write: &WriteBack, offer: &Offer) -> bool {
    let meta = &secret.meta;
    let annotation = |name: &str| meta.annotations.get(name).map(String::as_str);
    let print = offer.facts.fingerprint.to_string();
    let is_kept = |name: &str| name.starts_with("cert-manager.io/");
    let ca = secret.spec.ca().and_then(|bundle| bundle.0.as_ref().ok()).map(Vec::as_slice).unwrap_or_default();
    let wanted_ca = offer.ca_pem.iter().filter_map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).ok());
    secret.spec.certificate().is_ok_and(|facts| is_as_offered(facts, &offer.facts, offer.chain_length))
        && meta.labels.get(MANAGED_BY).is_some_and(|value| value == EDGE)
        && annotation(WRITTEN_ANNOTATION) == Some(&print)
        && write.annotations.iter().all(|(name, value)| !is_kept(name) || annotation(name) == Some(value))
        && wanted_ca.eq(ca.iter().map(|der| CertificateDer::from(der.as_ref())))
}

fn hasher() -> impl std::hash::Hasher {
    foldhash::quality::FixedState::default().build_hasher()
}

#[cfg(test)]
mod tests;
