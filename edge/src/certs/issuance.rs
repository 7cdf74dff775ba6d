//! What the thread knows and does: plan, issue, keep, publish.
//!
//! In: the wanted set and a clock. Out: tables and observations, at once with placeholders and again as certificates
//! come. Interruptible after each certificate, because a key of RSA 4096 takes seconds and the wishes may have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edge_acme::due::{Validity, renewal_due};
use edge_acme::local::{self, LocalError, Made, Order, OrderKey, Signer};
use edge_acme::plan::{self, AcmeInput, CLOCK_FLOOR, Ca, Failure, Held, Issue, MadeFor, Plan, PlanInput};
use edge_config::names::CertId;
use zeroize::Zeroizing;

use edge_config::snapshot::{KeyAlgorithm, WantedCertificate, WantedIssuer};

use super::choice::{Choice, Found, choose};
use super::offer::Offers;
use super::ordering::Ordering;
use super::saver::Saver;
use super::supplied::SuppliedSigners;
use super::table::{CertEntry, CertTable, Origin};
use super::{CertsObserved, CertsSettings, CertsWanted, offering, view};
use crate::proxy::tls::provider;
use crate::source::KeyMaterial;
use crate::store::{Store, StoredCertificate};

/// Of the internal CA.
const CA_DURATION: Duration = Duration::from_secs(3652 * 86_400);
/// The internal CA is renewed, with the same key, this long before it ends.
const CA_RENEW_BEFORE: Duration = Duration::from_secs(365 * 86_400);
const CA_FILE: &str = "internal-ca.crt";
const PLACEHOLDER_DURATION: Duration = Duration::from_secs(7 * 86_400);
const NOTICES: usize = 100;
/// Work between two publications.
const SLICE: Duration = Duration::from_millis(200);

pub(super) enum Progress {
    /// Something newer is wanted.
    Interrupted,
    /// All is done until this moment (Unix seconds).
    Until(Option<i64>),
}

/// What is published.
pub(super) type Shown = (CertTable, CertsObserved, Arc<Offers>);

pub(super) struct Issuance {
    pub(super) store: Store,
    saver: Saver,
    settings: CertsSettings,
    /// As loaded; parsed when first wanted.
    pub(super) stored: BTreeMap<CertId, StoredCertificate>,
    pub(super) issued: BTreeMap<CertId, Issued>,
    supplied: SuppliedSigners,
    pub(super) placeholders: BTreeMap<CertId, Placeholder>,
    /// What Secrets supplied, and nobody issues: it serves on where the Secret goes and somebody is to issue it by then.
    pub(super) supplied_last: BTreeMap<CertId, Arc<CertEntry>>,
    /// One key for all placeholders: they last a week and are never stored.
    placeholder_key: Option<zeroize::Zeroizing<String>>,
    failures: BTreeMap<CertId, Failure>,
    /// Signers of issued CAs.
    signers: BTreeMap<CertId, Arc<Signer>>,
    pub(super) internal: Result<Internal, String>,
    pub(super) notices: Vec<String>,
    pub(super) offers: Arc<Offers>,
    /// What comes from ACME CAs; `None`: nothing is ordered.
    pub(super) ordering: Option<Ordering>,
}

pub(super) struct Internal {
    signer: Arc<Signer>,
    pub(super) stored: StoredCertificate,
    pub(super) file: Option<PathBuf>,
    pub(super) validity: Validity,
}

pub(super) struct Issued {
    pub(super) held: Held,
    pub(super) entry: Arc<CertEntry>,
    pub(super) stored: StoredCertificate,
}

pub(super) struct Placeholder {
    names: Vec<Box<str>>,
    pub(super) entry: Arc<CertEntry>,
    validity: Validity,
    /// Why it does not bear all its names.
    pub(super) reason: Option<String>,
}

impl Issuance {
    pub(super) fn load(store: Store, settings: CertsSettings, now: i64) -> Self {
        let (stored, notices) = store.certificates();
        let mut issuance = Self {
            saver: Saver::start(store.clone()),
            store,
            settings,
            stored,
            issued: BTreeMap::new(),
            supplied: SuppliedSigners::default(),
            placeholders: BTreeMap::new(),
            supplied_last: BTreeMap::new(),
            placeholder_key: None,
            failures: BTreeMap::new(),
            signers: BTreeMap::new(),
            internal: Err("not created yet".into()),
            notices,
            offers: Arc::default(),
            ordering: None,
        };
        if let Some(stored) = issuance.store.internal_ca() {
            match issuance.adopt_internal(stored) {
                Ok(internal) => issuance.internal = Ok(internal),
                Err(error) => issuance.notice(format!("the stored internal CA cannot be used: {error}")),
            }
        }
        issuance.internal_ca(now);
        issuance
    }

    /// Makes the world match `wanted` as far as it goes now.
    pub(super) fn round(
        &mut self,
        wanted: &CertsWanted,
        clock: impl Fn() -> i64,
        interrupted: &dyn Fn() -> bool,
        publish: &mut dyn FnMut(Shown),
    ) -> Progress {
        let now = clock();
        self.internal_ca(now);
        self.take_up(wanted, now);
        if let Some(ordering) = &mut self.ordering {
            ordering.prepare(wanted);
        }
        let mut plan = self.plan(wanted, now);
        let mut slice = Instant::now();
        let mut published = false;
        for issue in std::mem::take(&mut plan.issue) {
            let slow = matches!(wanted.certificates[issue.index].key, KeyAlgorithm::Rsa(_)) && !issue.keep_key;
            if slice.elapsed() > SLICE || slow && !published {
                let now = clock();
                let ahead = self.plan(wanted, now);
                publish(self.look(wanted, &ahead, now));
                (slice, published) = (Instant::now(), true);
                if interrupted() {
                    return Progress::Interrupted;
                }
            }
            self.carry_out(&wanted.certificates[issue.index], &issue, clock());
        }
        let now = clock();
        let plan = self.plan(wanted, now);
        if let Some(ordering) = &mut self.ordering {
            let issued = &self.issued;
            ordering.launch(
                &plan,
                wanted,
                &|id| issued.get(id).filter(|one| !one.held.made_for.revoked).map(|one| one.stored.key_pem.clone()),
                now,
            );
        }
        publish(self.look(wanted, &plan, now));
        // What could not be issued has a wait now; only a plan that changed under our hands has more to do at once.
        let opening = self.ordering.as_ref().and_then(|ordering| ordering.next_opening(now));
        Progress::Until(plan.next.into_iter().chain(opening).min())
    }

    /// Parses what is used and not parsed yet, and forgets what is not used any more.
    fn take_up(&mut self, wanted: &CertsWanted, now: i64) {
        let mut used: BTreeSet<&CertId> = wanted.uses.iter().flat_map(|one| &one.certificates).collect();
        used.extend(&wanted.client);
        let cas = wanted.certificates.iter().filter_map(|one| match &one.issuer {
            WantedIssuer::Ca(id) => Some(id),
            WantedIssuer::Internal { .. }
            | WantedIssuer::SelfSigned
            | WantedIssuer::Acme(_)
            | WantedIssuer::Nobody { .. } => None,
        });
        self.supplied.update(&wanted.supplied, &cas.collect());
        for one in &wanted.certificates {
            if let Some(stored) = self.stored.remove(&one.id) {
                match adopt(stored) {
                    Ok(issued) => drop(self.issued.insert(one.id.clone(), issued)),
                    Err(error) => self.notice(format!("stored certificate {}: {error}; a new one is issued", one.id)),
                }
            }
        }
        for one in &wanted.certificates {
            // One that is not what is wanted serves as it is, until the wanted one is there.
            if one.adopt.as_ref().is_some_and(|adopt| adopt.unfit.is_some()) {
                continue;
            }
            if let Some(Ok(material)) = wanted.supplied.get(supplier(one)) {
                self.adopt_supplied(one, material, wanted, now);
            }
        }
        let wished: BTreeSet<&CertId> = wanted.certificates.iter().map(|one| &one.id).collect();
        self.failures.retain(|id, _| wished.contains(id));
        self.placeholders.retain(|id, _| used.contains(id));
        self.supplied_last.retain(|id, _| used.contains(id));
    }

    pub(super) fn plan(&self, wanted: &CertsWanted, now: i64) -> Plan {
        let held: BTreeMap<CertId, Held> =
            self.issued.iter().map(|(id, issued)| (id.clone(), issued.held.clone())).collect();
        let ca = |signer: &Signer| Ca { key_id: signer.key_id().clone(), validity: signer.validity() };
        let supplied_cas = self
            .supplied
            .iter()
            .map(|(id, result)| (id.clone(), result.as_ref().map(|signer| ca(signer)).map_err(Clone::clone)));
        let mut plan = plan::plan(&PlanInput {
            wanted: &wanted.certificates,
            held: &held,
            supplied_cas: &supplied_cas.collect(),
            internal: self.internal.as_ref().map(|internal| ca(&internal.signer)).map_err(String::as_str),
            failures: &self.failures,
            acme: self.ordering.as_ref().map_or_else(AcmeInput::default, Ordering::input),
            now,
        });
        plan.unwanted.extend(self.stored.keys().cloned());
        plan.unwanted.sort();
        plan
    }

    /// Makes what a Secret holds our own, where that is what is to serve from now on.
    fn adopt_supplied(&mut self, wish: &WantedCertificate, material: &KeyMaterial, wanted: &CertsWanted, now: i64) {
        let facts = &material.entry.facts;
        let is_as_written =
            wanted.written.get(supplier(wish)).is_some_and(|written| **written == *facts.fingerprint.to_string());
        let held = self.issued.get(&wish.id).map(|issued| &issued.entry.facts);
        if choose(Found { facts, is_as_written }, held, wish, now) != Choice::Adopt {
            return;
        }
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
        let (Some(chain_pem), Some(key_pem)) = (text(&material.certificate_pem), text(&material.key_pem)) else {
            return;
        };
        let _ = self.adopt(wish, chain_pem, Zeroizing::new(key_pem));
    }

    /// Takes a certificate that was obtained elsewhere, as if it had been made here.
    pub(super) fn adopt(
        &mut self,
        wish: &WantedCertificate,
        chain_pem: String,
        key_pem: Zeroizing<String>,
    ) -> Result<(), String> {
        let facts = CertEntry::from_pem(chain_pem.as_bytes(), key_pem.as_bytes(), Origin::Issued, provider())
            .map_err(|error| error.to_string())?
            .facts;
        let made_for = MadeFor::adopted(wish, facts.dns_names, facts.addresses);
        let note = serde_json::to_string(&made_for).map_err(|error| error.to_string())?;
        let stored = StoredCertificate { note, chain_pem, key_pem };
        self.saver.save(wish.id.clone(), stored.clone());
        self.hold(&wish.id, stored)
    }

    /// Serves and plans with a certificate from now on.
    pub(super) fn hold(&mut self, id: &CertId, stored: StoredCertificate) -> Result<(), String> {
        let issued = adopt(stored)?;
        self.failures.remove(id);
        self.signers.remove(id);
        self.placeholders.remove(id);
        self.supplied_last.remove(id);
        self.stored.remove(id);
        self.issued.insert(id.clone(), issued);
        Ok(())
    }

    /// Notes, also on disk, that its CA does not vouch for a certificate any more. Gives what other edges are to know.
    pub(super) fn note_revoked(&mut self, id: &CertId) -> Option<StoredCertificate> {
        let issued = self.issued.get_mut(id)?;
        issued.held.made_for.revoked = true;
        issued.stored.note = serde_json::to_string(&issued.held.made_for).ok()?;
        self.saver.save(id.clone(), issued.stored.clone());
        Some(issued.stored.clone())
    }

    /// Whether something is to be had that another edge orders.
    pub(super) fn waits_for_others(&self) -> bool {
        self.ordering.as_ref().is_some_and(Ordering::is_elsewhere)
    }

    fn carry_out(&mut self, wanted: &WantedCertificate, issue: &Issue, now: i64) {
        match self.issue(wanted, issue, now) {
            Ok(issued) => {
                self.failures.remove(&wanted.id);
                self.signers.remove(&wanted.id);
                self.placeholders.remove(&wanted.id);
                self.saver.save(wanted.id.clone(), issued.stored.clone());
                self.issued.insert(wanted.id.clone(), issued);
            }
            Err(reason) => {
                let count = self.failures.get(&wanted.id).map_or(0, |failure| failure.count);
                let failure =
                    Failure { count: count.saturating_add(1), last_try: now, reason, attempt: issue.attempt.clone() };
                self.failures.insert(wanted.id.clone(), failure);
            }
        }
    }

    fn issue(&mut self, wanted: &WantedCertificate, issue: &Issue, now: i64) -> Result<Issued, String> {
        let signer = match &wanted.issuer {
            WantedIssuer::SelfSigned => None,
            WantedIssuer::Acme(_) => return Err("it is ordered from an ACME CA".into()),
            WantedIssuer::Nobody { why } => return Err(why.clone()),
            WantedIssuer::Internal { .. } => Some(self.internal.as_ref().map_err(Clone::clone)?.signer.clone()),
            WantedIssuer::Ca(id) => Some(self.signer(id)?),
        };
        let kept = self.issued.get(&wanted.id).filter(|_| issue.keep_key).map(|held| held.stored.key_pem.clone());
        let order = Order {
            dns_names: &wanted.dns_names,
            addresses: &[],
            common_name: wanted.common_name.as_deref(),
            is_ca: wanted.is_ca,
            key: kept.as_ref().map_or(OrderKey::New(wanted.key), |pem| OrderKey::Keep(pem)),
            duration: wanted.duration,
            now,
        };
        let made = match signer {
            None => local::self_signed(&order),
            Some(signer) => local::signed_by(&order, &signer),
        };
        let made = made.map_err(|error| error.to_string())?;
        let made_for = MadeFor::new(wanted, made.signer.clone());
        let note = serde_json::to_string(&made_for).map_err(|error| error.to_string())?;
        let entry = entry(&made, Origin::Issued)?;
        let held = Held { made_for, validity: made.validity, key_id: made.key_id };
        let stored = StoredCertificate { note, chain_pem: made.chain_pem, key_pem: made.key_pem };
        Ok(Issued { held, entry, stored })
    }

    fn signer(&mut self, id: &CertId) -> Result<Arc<Signer>, String> {
        if let Some(supplied) = self.supplied.signer(id) {
            return supplied.clone();
        }
        if let Some(signer) = self.signers.get(id) {
            return Ok(signer.clone());
        }
        let stored = &self.issued.get(id).ok_or_else(|| format!("its CA {id} is not issued yet"))?.stored;
        let signer =
            Signer::from_pem(&stored.chain_pem, &stored.key_pem).map_err(|error| format!("CA {id}: {error}"))?;
        let signer = Arc::new(signer);
        self.signers.insert(id.clone(), signer.clone());
        Ok(signer)
    }

    /// Creates the internal CA where there is none, and renews it with its key when its time comes.
    fn internal_ca(&mut self, now: i64) {
        if now < CLOCK_FLOOR {
            return;
        }
        let (key, common_name) = match &self.internal {
            Ok(internal) if now < renewal_due(internal.validity, CA_RENEW_BEFORE, "internal") => return,
            // The name must stay: what it has signed is found by it.
            Ok(internal) => (Some(internal.stored.key_pem.clone()), internal.stored.note.clone()),
            Err(_) => (None, self.settings.internal_ca.clone()),
        };
        let order = Order {
            dns_names: &[],
            addresses: &[],
            common_name: Some(&common_name),
            is_ca: true,
            key: key.as_ref().map_or(OrderKey::New(KeyAlgorithm::EcdsaP256), |pem| OrderKey::Keep(pem)),
            duration: CA_DURATION,
            now,
        };
        let made = local::self_signed(&order).map_err(|error| error.to_string());
        let stored = made.map(|made| StoredCertificate {
            note: common_name.clone(),
            chain_pem: made.chain_pem,
            key_pem: made.key_pem,
        });
        let adopted = stored.and_then(|stored| {
            // On disk before anything is signed: users may trust it from then on.
            if let Err(error) = self.store.put_internal_ca(&stored) {
                self.notice(format!("internal CA: {error}"));
            }
            self.adopt_internal(stored).map_err(|error| error.to_string())
        });
        match (adopted, &self.internal) {
            (Ok(internal), _) => self.internal = Ok(internal),
            // The old one still signs.
            (Err(reason), Ok(_)) => self.notice(format!("internal CA: not renewed: {reason}")),
            (Err(reason), Err(_)) => self.internal = Err(reason),
        }
    }

    fn adopt_internal(&mut self, stored: StoredCertificate) -> Result<Internal, LocalError> {
        let signer = Arc::new(Signer::from_pem(&stored.chain_pem, &stored.key_pem)?);
        let file = match self.store.put_public_file(CA_FILE, stored.chain_pem.as_bytes()) {
            Ok(path) => Some(path),
            Err(error) => {
                self.notice(error.to_string());
                None
            }
        };
        Ok(Internal { validity: signer.validity(), signer, stored, file })
    }

    /// A stand-in that bears the names under which the listeners serve.
    pub(super) fn placeholder(&mut self, id: &CertId, names: Vec<Box<str>>, now: i64) -> Option<Arc<CertEntry>> {
        if let Some(held) = self.placeholders.get(id) {
            let fresh = now < renewal_due(held.validity, PLACEHOLDER_DURATION / 3, "placeholder");
            let begun = held.validity.not_before <= now;
            if held.names == names && fresh && begun {
                return Some(held.entry.clone());
            }
        }
        let (made, reason) = match self.make_placeholder(&names, now) {
            Ok(made) => (made, None),
            // One bad name must not take the handshake from the others.
            Err(error) => (self.make_placeholder(&[], now).ok()?, Some(error.to_string())),
        };
        let entry = entry(&made, Origin::Placeholder).ok()?;
        let placeholder = Placeholder { names, entry: entry.clone(), validity: made.validity, reason };
        self.placeholders.insert(id.clone(), placeholder);
        Some(entry)
    }

    fn make_placeholder(&mut self, names: &[Box<str>], now: i64) -> Result<Made, LocalError> {
        let key = self.placeholder_key.clone();
        let order = Order {
            dns_names: names,
            addresses: &[],
            common_name: Some("Edge placeholder"),
            is_ca: false,
            key: key.as_ref().map_or(OrderKey::New(KeyAlgorithm::EcdsaP256), |pem| OrderKey::Keep(pem)),
            duration: PLACEHOLDER_DURATION,
            now,
        };
        let made = match &self.internal {
            Ok(internal) if internal.validity.holds_at(now) => local::signed_by(&order, &internal.signer)?,
            _ => local::self_signed(&order)?,
        };
        self.placeholder_key.get_or_insert_with(|| made.key_pem.clone());
        Ok(made)
    }

    fn look(&mut self, wanted: &CertsWanted, plan: &Plan, now: i64) -> Shown {
        let (table, mut observed) = view::look(self, wanted, plan, now);
        observed.notices.extend(self.saver.trouble());
        if let Some(ordering) = &mut self.ordering {
            ordering.remember(wanted, now);
            observed.notices.extend(ordering.clock_notice(now));
            let issued = &self.issued;
            observed.acme = ordering.observe(wanted, plan, &|id| Some(&issued.get(id)?.held.made_for), now);
        }
        self.offers = offering::offers(self, wanted, plan);
        (table, observed, Arc::clone(&self.offers))
    }

    /// Said once; a fault that repeats must not fill the memory.
    fn notice(&mut self, text: String) {
        if self.notices.len() < NOTICES && !self.notices.contains(&text) {
            self.notices.push(text);
        }
    }
}

/// The Secret that supplies a wanted certificate now, if any does.
pub(super) fn supplier(wish: &WantedCertificate) -> &CertId {
    wish.adopt.as_ref().map_or(&wish.id, |adopt| &adopt.secret)
}

fn entry(made: &Made, origin: Origin) -> Result<Arc<CertEntry>, String> {
    CertEntry::from_pem(made.chain_pem.as_bytes(), made.key_pem.as_bytes(), origin, provider())
        .map(Arc::new)
        .map_err(|error| error.to_string())
}

fn adopt(stored: StoredCertificate) -> Result<Issued, String> {
    let made_for: MadeFor = serde_json::from_str(&stored.note).map_err(|error| format!("note: {error}"))?;
    let (validity, key_id) = local::inspect(&stored.chain_pem).map_err(|error| error.to_string())?;
    let entry = CertEntry::from_pem(stored.chain_pem.as_bytes(), stored.key_pem.as_bytes(), Origin::Issued, provider())
        .map_err(|error| error.to_string())?;
    Ok(Issued { held: Held { made_for, validity, key_id }, entry: Arc::new(entry), stored })
}
