//! Accounts at CAs beside orders: opened before their time where somebody waits for them, known by Secrets of others, and
//! offered to Secrets.

use std::collections::BTreeMap;

use edge_acme::budget::Charge;
use edge_acme::failure::OrderError;
use edge_acme::order::{self, AccountRecord};
use edge_acme::plan::Plan;
use edge_config::issuer::{IssuerId, SecretRef};
use zeroize::Zeroizing;

use super::Ordering;
use super::runner::Job;
use crate::certs::CertsWanted;
use crate::certs::offer::{AccountKey, account_key};

/// An account that is to be had before its time.
#[derive(Default)]
pub(super) struct Opening {
    pub(super) running: bool,
    failures: u32,
    /// Unix seconds.
    next_try: i64,
    pub(super) error: Option<String>,
}

/// Between two tries to open an account: a minute, ten, a hundred.
const REOPEN: [i64; 3] = [60, 600, 6000];

impl Ordering {
    /// An account whose key lies in a Secret is answered for, whichever edge has opened it.
    pub(super) fn learn_thumbprints(&mut self, wanted: &CertsWanted) {
        for issuer in &wanted.issuers {
            let AccountKey::Usable(pem) = account_key(&self.texts, issuer) else { continue };
            let Some(key) = std::str::from_utf8(pem).ok().and_then(|pem| order::account_key(pem).ok()) else {
                continue;
            };
            if self.accounts.get(&issuer.id).is_some_and(|record| record.key == key) {
                continue;
            }
            let record = AccountRecord {
                directory: issuer.directory.clone(),
                url: None,
                key,
                next_key: None,
                contacts: Vec::new(),
                external_key_id: None,
                resources: None,
            };
            if let Ok(thumbprint) = order::thumbprint(&record) {
                self.thumbprints.insert(issuer.id.clone(), thumbprint.into());
            }
        }
    }

    /// Whoever has written an issuer's object waits for its account, whether or not something is ordered.
    pub(super) fn open_accounts(&mut self, plan: &Plan, wanted: &CertsWanted, now: i64) {
        if self.elsewhere.is_some() {
            return;
        }
        for issuer in wanted.issuers.iter().filter(|issuer| issuer.account_secret.is_some()) {
            let Some(known) = self.issuers.get(&issuer.id) else { continue };
            let ordered = plan.orders.iter().any(|order| order.issuer == issuer.id)
                || self.under_way.values().any(|order| order.running && order.issuer == issuer.id);
            let is_open = known.account.is_some();
            let is_told = self.accounts.get(&issuer.id).is_some_and(|record| record.contacts == issuer.contacts);
            if is_open && is_told || known.unusable.is_some() || ordered {
                continue;
            }
            let limits = known.limits;
            let opening = self.opening.entry(issuer.id.clone()).or_default();
            if opening.running || now < opening.next_try {
                continue;
            }
            opening.running = true;
            // To tell an account's CA of other contacts is free.
            for bucket in Charge::default().with_account(&issuer.directory).buckets.iter().filter(|_| !is_open) {
                self.memory.ledger.take(bucket, &limits, now);
            }
            if let Some(client) = self.client(wanted, &issuer.id) {
                self.send(Job::Open { client });
            }
        }
    }

    /// When an account is to be tried again. One whose time has come and that is not tried waits for something else.
    pub fn next_opening(&self, now: i64) -> Option<i64> {
        let waiting = self.opening.values().filter(|opening| !opening.running && opening.next_try > now);
        waiting.map(|opening| opening.next_try).min()
    }

    pub fn opened(&mut self, issuer: IssuerId, result: Result<(), OrderError>, now: i64) {
        let opening = self.opening.entry(issuer.clone()).or_default();
        opening.running = false;
        match result {
            Ok(()) => drop(self.opening.remove(&issuer)),
            Err(error) => {
                let wait = REOPEN.get(opening.failures as usize).copied().unwrap_or(86_400);
                opening.failures = opening.failures.saturating_add(1);
                opening.next_try = error.until.unwrap_or(now).max(now.saturating_add(wait));
                opening.error = Some(error.to_string());
            }
        }
    }

    /// Keys of accounts for the Secrets that issuers name.
    pub fn account_keys(&self, wanted: &CertsWanted) -> BTreeMap<SecretRef, Zeroizing<String>> {
        let keys = wanted.issuers.iter().filter_map(|issuer| {
            let record = self.accounts.get(&issuer.id)?;
            record.url.as_ref()?;
            Some((issuer.account_secret.clone()?, Zeroizing::new(record.key.reveal().to_owned())))
        });
        keys.collect()
    }
}
