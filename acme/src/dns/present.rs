//! Answers DNS-01 challenges (RFC 8555 §8.4): writes the record, waits until all name servers show it, takes it back.
//!
//! In: challenges, one solver of an issuer. Out: when the CA may ask, or why not in one line. One presenter serves one
//! solver. The waits for name servers run side by side.

use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use edge_config::issuer::DnsProvider;

use super::preflight::Written;
use super::propagation::{Patience, wait};
use super::provider::{Means, Provider, ProviderError, Secrets, TxtValue, WriteTxt as _};
use super::resolver::RecordType;
use crate::challenge::{Challenge, ChallengeKind, Identifier, Present};

/// Records whose place is remembered; beyond, it is looked up again when they are taken back.
const REMEMBERED: usize = 1000;

#[derive(Clone)]
pub struct DnsPresenter {
    inner: Arc<Inner>,
}

struct Inner {
    provider: DnsProvider,
    place: Written,
    secrets: Arc<dyn Secrets>,
    means: Means,
    patience: Patience,
    /// What was written, so that it is taken back from the same place.
    written: Mutex<Vec<TxtValue>>,
    /// Held by those whose changes of one name must not meet: they write whole sets, or may.
    turn: tokio::sync::Mutex<()>,
}

impl DnsPresenter {
    /// For `Solve::Dns01 { provider, follow_cname }`.
    pub fn new(
        provider: DnsProvider,
        follow_cname: bool,
        secrets: Arc<dyn Secrets>,
        means: Means,
        patience: Patience,
    ) -> Self {
        let place = Written::of(&provider, follow_cname);
        let (written, turn) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { inner: Arc::new(Inner { provider, place, secrets, means, patience, written, turn }) }
    }
}

/// What a CA looks for in TXT at `_acme-challenge.NAME`: the digest of the key authorization.
pub fn txt_value(key_authorization: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, key_authorization.as_bytes()))
}

#[derive(Clone, Copy)]
enum Change {
    Add,
    Remove,
}

impl Inner {
    /// Where the record goes, by the aliases that there are.
    async fn place(&self, domain: &str) -> Result<Box<str>, String> {
        let name: Box<str> = format!("_acme-challenge.{domain}").into();
        if self.place == Written::There {
            return Ok(name);
        }
        let resolver = &self.means.resolver;
        // The zone's own servers know a new alias at once; the resolver is for where they cannot be reached.
        let answer = match resolver.authority(&name, RecordType::TXT).await {
            Ok(answer) => Ok(answer),
            Err(_) => resolver.lookup(&name, RecordType::TXT).await,
        };
        let answer = answer.map_err(|error| format!("looking for aliases of {name}: {error}"))?;
        match answer.aliases.last() {
            Some(target) => Ok(target.clone()),
            None if self.place == Written::OnlyWhereAliased => {
                Err(format!("{name} is no alias: add a CNAME to the full domain of its acme-dns registration"))
            }
            None => Ok(name),
        }
    }

    /// Does one thing to a record, in turn where it has to be.
    async fn change(&self, record: &TxtValue, change: Change) -> Result<(), ProviderError> {
        let _turn = match self.provider {
            DnsProvider::Designate { .. } | DnsProvider::Exec { .. } | DnsProvider::Webhook { .. } => {
                Some(self.turn.lock().await)
            }
            DnsProvider::Rfc2136 { .. } | DnsProvider::AcmeDns { .. } | DnsProvider::Cloudflare { .. } => None,
        };
        let provider = Provider::open(&self.provider, &*self.secrets, &self.means).await?;
        match change {
            Change::Add => provider.add(record).await,
            Change::Remove => provider.remove(record).await,
        }
    }

    async fn record(&self, challenge: &Challenge) -> Result<TxtValue, String> {
        let domain = match &challenge.identifier {
            Identifier::Dns(name) if challenge.kind == ChallengeKind::Dns01 => name.clone(),
            other => return Err(format!("{} for {other} is not answered in DNS", challenge.kind)),
        };
        let name = self.place(&domain).await?;
        Ok(TxtValue { name, domain, value: txt_value(&challenge.key_authorization).into() })
    }

    fn remember(&self, record: &TxtValue) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.len() < REMEMBERED && !written.contains(record) {
            written.push(record.clone());
        }
    }

    fn forget(&self, value: &str) -> Option<TxtValue> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let place = written.iter().position(|record| *record.value == *value)?;
        Some(written.swap_remove(place))
    }
}

impl Present for DnsPresenter {
    async fn present(&self, challenge: &Challenge) -> Result<(), String> {
        let inner = &self.inner;
        let record = inner.record(challenge).await?;
        // Remembered first: what fails half-way may be there.
        inner.remember(&record);
        inner.change(&record, Change::Add).await.map_err(|error| error.to_string())?;
        wait(&inner.means.resolver, &record.name, &record.value, inner.patience)
            .await
            .map(|_| ())
            .map_err(|error| format!("{}: {error}", record.name))
    }

    async fn withdraw(&self, challenge: &Challenge) {
        let inner = &self.inner;
        let record = match inner.forget(&txt_value(&challenge.key_authorization)) {
            Some(record) => record,
            None => match inner.record(challenge).await {
                Ok(record) => record,
                Err(_) => return,
            },
        };
        // A value that stays is worth nothing to anybody once the challenge is over.
        let _ = inner.change(&record, Change::Remove).await;
    }
}
