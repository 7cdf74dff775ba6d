//! Everything that planning must remember between two plans, as one record: what was spent, what failed, when CAs want
//! certificates renewed, and what people asked for.
//!
//! In: what became of each order. Out: what [`crate::plan::plan`] reads. It is stored at each edge and shared between
//! them ([`Memory::merge`]), so that neither a restart nor another leader starts from innocence. It holds no secret.

use std::collections::{BTreeMap, BTreeSet};

use edge_config::issuer::IssuerId;
use edge_config::names::CertId;
use edge_config::snapshot::WantedCertificate;
use serde::{Deserialize, Serialize};

use crate::backoff::{DAY, Setbacks, is_judged};
use crate::budget::{Bucket, Charge, Exemption, Ledger, Limit, exact_set, identifiers, registered_domain};
use crate::due::part_of;
use crate::failure::{Class, OrderError, Step};
use crate::order::RenewalWindow;
use crate::plan::{IssuerState, PlannedOrder, Start, UnderWay};

/// RFC 9773 §4.3.3: after a failure that lasts.
const ASK_AGAIN: i64 = 6 * 3600;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    pub ledger: Ledger,
    pub setbacks: Setbacks,
    #[serde(with = "by_name")]
    windows: BTreeMap<CertId, Window>,
    /// Renewals that people asked for, and when.
    #[serde(with = "by_name")]
    asked: BTreeMap<CertId, i64>,
    /// When each certificate was last obtained, by our clock.
    #[serde(default, with = "by_name")]
    obtained: BTreeMap<CertId, i64>,
}

/// What the CA says of the renewal of one certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// RFC 9773 §4.1: of which certificate.
    pub ari_id: Box<str>,
    /// Start and end; `None`: the CA has not said.
    pub suggested: Option<(i64, i64)>,
    /// A page that says why.
    pub explanation: Option<Box<str>>,
    pub ask_again: i64,
    /// Asked in vain, in a row.
    pub failures: u32,
    /// The CA refused `replaces` with it.
    pub irreplaceable: bool,
}

/// An order that ended, one way or the other.
pub struct Tried<'a> {
    pub wanted: &'a WantedCertificate,
    pub order: &'a UnderWay,
    pub issuer: &'a IssuerState,
}

/// What a record of another version or of damaged bytes is met with.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    #[error("record of ACME limits and waits is unreadable: {0}")]
    Decode(serde_json::Error),
    #[error("record of ACME limits and waits cannot be written: {0}")]
    Encode(serde_json::Error),
}

impl Memory {
    pub const fn new() -> Self {
        Self {
            ledger: Ledger::new(),
            setbacks: Setbacks::new(),
            windows: BTreeMap::new(),
            asked: BTreeMap::new(),
            obtained: BTreeMap::new(),
        }
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, MemoryError> {
        serde_json::from_slice(bytes).map_err(MemoryError::Decode)
    }

    pub fn encode(&self) -> Result<Vec<u8>, MemoryError> {
        serde_json::to_vec(self).map_err(MemoryError::Encode)
    }

    /// An order is about to be made (or gone on with). Store this before the CA is asked: what was spent must not be
    /// forgotten by a crash.
    pub fn started(&mut self, order: &PlannedOrder, issuer: &IssuerState, now: i64) {
        if let Start::New { charge, .. } = &order.start {
            self.ledger.reserve(&order.id, charge, &issuer.limits, now);
        }
    }

    /// What these orders have taken, alone. Merged into what was remembered before them, limits are as they are now.
    pub fn of_orders(&self, ids: &[&CertId]) -> Self {
        Self { ledger: self.ledger.of_orders(ids), ..Self::new() }
    }

    /// The certificate is there (and stored). `replaced`: the CA took `replaces`.
    pub fn obtained(&mut self, tried: &Tried<'_>, replaced: bool, now: i64) {
        let Tried { wanted, order, issuer } = tried;
        // The plan counted on an exemption that the CA did not give.
        if order.replaces && !replaced {
            let charge = Charge::of_order(&issuer.directory, &order.issuer, wanted, Exemption::None);
            for bucket in charge.buckets.iter().filter(|bucket| bucket.limit != Limit::Pace) {
                self.ledger.take(bucket, &issuer.limits, now);
            }
        }
        self.ledger.settle(&wanted.id);
        self.setbacks.succeeded(&wanted.id, &order.issuer, &identifiers(wanted));
        self.asked.remove(&wanted.id);
        self.windows.remove(&wanted.id);
        self.obtained.insert(wanted.id.clone(), now);
    }

    /// A try came to nothing. `over`: the order is done for and nothing of it is kept; otherwise it is gone on with.
    pub fn failed(&mut self, tried: &Tried<'_>, error: &OrderError, over: bool, now: i64) {
        let Tried { wanted, order, issuer } = tried;
        if over {
            self.ledger.give_back(&wanted.id, error.step >= Step::NewOrder, &issuer.limits);
        }
        for fault in error.faults.iter().filter(|fault| fault.class == Class::Validation && is_judged(error.step)) {
            let bucket = Bucket::of_failures(&issuer.directory, &order.issuer, &fault.identifier);
            self.ledger.take(&bucket, &issuer.limits, now);
        }
        if error.class == Class::Limited && error.kind.is_some() {
            for bucket in refused_buckets(&issuer.directory, &order.issuer, wanted, &error.detail) {
                self.ledger.refuse(bucket, error.until.unwrap_or(now.saturating_add(3600)));
            }
        }
        let refused = order.replaces && error.step == Step::NewOrder && error.kind.is_some();
        if let Some(window) = self.windows.get_mut(&wanted.id).filter(|_| refused && error.class != Class::Limited) {
            window.irreplaceable = true;
        }
        self.setbacks.failed(&wanted.id, order, issuer.settings, error, now);
    }

    /// Says of a try that came to nothing at `now` why, in other words than the CA's.
    pub fn explain(&mut self, tried: &Tried<'_>, sentence: &str, now: i64) {
        let Tried { wanted, order, .. } = tried;
        self.setbacks.explain(&wanted.id, &order.issuer, sentence, now);
    }

    /// Another edge has obtained it: nobody waits for what was asked any more, and nothing stands against it.
    pub fn arrived(&mut self, id: &CertId) {
        self.asked.remove(id);
    }

    /// The CA said when it wants the certificate with this identifier renewed.
    pub fn window(&mut self, id: &CertId, ari_id: &str, found: &RenewalWindow, now: i64) {
        // Not all at the same second for ever.
        let wait = found.ask_again.saturating_sub(now).clamp(60, DAY);
        let irreplaceable = self.windows.get(id).is_some_and(|known| &*known.ari_id == ari_id && known.irreplaceable);
        let window = Window {
            ari_id: ari_id.into(),
            suggested: Some((found.start, found.end)),
            explanation: found.explanation.clone(),
            ask_again: now + wait + part_of(wait / 10, ari_id, now),
            failures: 0,
            irreplaceable,
        };
        self.windows.insert(id.clone(), window);
    }

    /// It could not be asked. What it said before still holds.
    pub fn window_failed(&mut self, id: &CertId, ari_id: &str, error: &OrderError, now: i64) {
        let known = self.windows.remove(id).filter(|known| &*known.ari_id == ari_id);
        let mut window = known.unwrap_or_else(|| Window {
            ari_id: ari_id.into(),
            suggested: None,
            explanation: None,
            ask_again: 0,
            failures: 0,
            irreplaceable: false,
        });
        window.failures = window.failures.saturating_add(1);
        let lasting = !matches!(error.class, Class::Transient | Class::Limited);
        let wait = if lasting { ASK_AGAIN } else { (300_i64 << window.failures.min(10)).min(ASK_AGAIN) };
        let until = now.saturating_add(wait + part_of(wait / 10, ari_id, now));
        window.ask_again = error.until.unwrap_or(until).clamp(now.saturating_add(60), now.saturating_add(DAY));
        self.windows.insert(id.clone(), window);
    }

    pub fn window_of(&self, id: &CertId, ari_id: &str) -> Option<&Window> {
        self.windows.get(id).filter(|window| &*window.ari_id == ari_id)
    }

    /// Somebody wants it renewed now: waits of ours are over, limits of the CA are not.
    pub fn ask(&mut self, wanted: &WantedCertificate, now: i64) {
        self.asked.insert(wanted.id.clone(), now);
        self.setbacks.forgive(&wanted.id, &identifiers(wanted));
    }

    /// When a certificate was last obtained. A clock that was set back since then does not count.
    pub fn obtained_at(&self, id: &CertId, now: i64) -> Option<i64> {
        self.obtained.get(id).copied().filter(|at| *at <= now)
    }

    pub fn is_asked(&self, id: &CertId) -> bool {
        self.asked.contains_key(id)
    }

    /// Takes in what another edge remembers.
    pub fn merge(&mut self, other: &Self) {
        self.ledger.merge(&other.ledger);
        self.setbacks.merge(&other.setbacks);
        for (id, theirs) in &other.windows {
            let newer = self.windows.get(id).is_none_or(|own| own.ask_again < theirs.ask_again);
            if newer {
                self.windows.insert(id.clone(), theirs.clone());
            }
        }
        for (id, at) in &other.asked {
            self.asked.entry(id.clone()).or_insert(*at);
        }
        for (id, at) in &other.obtained {
            let own = self.obtained.entry(id.clone()).or_insert(*at);
            *own = (*own).max(*at);
        }
    }

    /// Forgets what nobody needs any more; call it before storing.
    pub fn prune(&mut self, wanted: &[WantedCertificate], issuers: &BTreeMap<IssuerId, IssuerState>, now: i64) {
        let ids: BTreeSet<&CertId> = wanted.iter().map(|one| &one.id).collect();
        self.ledger.prune(&ids, now);
        self.setbacks.prune(&ids, &issuers.keys().collect(), now);
        self.windows.retain(|id, _| ids.contains(id));
        self.asked.retain(|id, _| ids.contains(id));
        self.obtained.retain(|id, _| ids.contains(id));
    }
}

/// Which buckets a refusal is about. A limit that is not known by its words holds back this certificate alone.
fn refused_buckets(directory: &str, issuer: &IssuerId, wanted: &WantedCertificate, detail: &str) -> Vec<Bucket> {
    let bucket = |limit, of: String| Bucket { directory: directory.into(), limit, of: of.into() };
    let quoted = detail.split('"').nth(1).map(str::to_ascii_lowercase);
    let identifiers = identifiers(wanted);
    match Limit::of_detail(detail) {
        Some(Limit::NewAccounts) => Charge::default().with_account(directory).buckets,
        Some(Limit::NewOrders) => vec![bucket(Limit::NewOrders, issuer.to_string())],
        Some(Limit::ExactSet) => vec![bucket(Limit::ExactSet, exact_set(wanted))],
        Some(Limit::PerDomain) => {
            let domains: BTreeSet<String> = identifiers.iter().map(registered_domain).collect();
            let named = quoted.filter(|name| domains.contains(name));
            let domains = named.map_or(domains, |name| BTreeSet::from([name]));
            domains.into_iter().map(|domain| bucket(Limit::PerDomain, domain)).collect()
        }
        Some(Limit::AuthorizationFailures) => {
            let named = identifiers.iter().filter(|one| quoted.as_deref() == Some(one.to_string().as_str()));
            named.map(|one| Bucket::of_failures(directory, issuer, one)).collect()
        }
        Some(Limit::Pace) | None => Vec::new(),
    }
}

/// Maps by certificate as lists: JSON has text as keys only.
mod by_name {
    use std::collections::BTreeMap;

    use edge_config::names::{CertId, ObjectKey};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<T: Serialize, S: Serializer>(map: &BTreeMap<CertId, T>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(map.iter().map(|(id, one)| (id.to_string(), one)))
    }

    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<CertId, T>, D::Error> {
        let map = BTreeMap::<String, T>::deserialize(from)?;
        Ok(map.into_iter().map(|(id, one)| (CertId(ObjectKey::parse(&id)), one)).collect())
    }
}
