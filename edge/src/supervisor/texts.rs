//! Secret texts on their way from Secrets to the certificate thread and to the workers, and what is heard of cert-manager:
//! neither makes a snapshot by itself, and no text is in one.

use std::collections::BTreeSet;
use std::sync::Arc;

use edge_config::issuer::{AcmeIssuer, SecretRef};
use edge_config::names::ObjectKey;
use edge_config::policy::secrets;
use edge_config::snapshot::WantedIssuer;
use tokio::sync::watch;

use super::Supervisor;
use super::cluster::{Kept, referred};
use crate::certs::offer::account_secret;
use crate::certs::{CertsWanted, SecretTexts};
use crate::kubernetes::{Coexistence, Kubernetes};
use crate::proxy::secrets::Secrets;

/// What is followed of the API server beside its objects.
pub(super) struct Beside {
    texts: watch::Receiver<Arc<SecretTexts>>,
    coexistence: watch::Receiver<Coexistence>,
}

/// What of it changed.
#[derive(Debug)]
pub(super) enum Heard {
    Texts,
    Coexistence(String),
}

impl Beside {
    pub(super) fn of(kubernetes: &Kubernetes) -> Self {
        Self { texts: kubernetes.texts(), coexistence: kubernetes.coexistence() }
    }

    async fn changed(&mut self) -> Option<Heard> {
        tokio::select! {
            Ok(()) = self.texts.changed() => Some(Heard::Texts),
            Ok(()) = self.coexistence.changed() => {
                Some(Heard::Coexistence(self.coexistence.borrow_and_update().why.clone()))
            }
            else => None,
        }
    }
}

/// Waits for ever where no API server is read.
pub(super) async fn heard(beside: &mut Option<Beside>) -> Heard {
    if let Some(one) = beside
        && let Some(heard) = one.changed().await
    {
        return heard;
    }
    std::future::pending().await
}

/// The members of Secrets that issuers need: their own, and the keys of their accounts, in either place.
fn of_secrets(issuers: &[AcmeIssuer]) -> BTreeSet<SecretRef> {
    let accounts = issuers.iter().filter_map(|issuer| issuer.account_secret.as_ref());
    let accounts = accounts.flat_map(|reference| [reference.clone(), account_secret(reference)]);
    issuers.iter().flat_map(AcmeIssuer::secrets).cloned().chain(accounts).collect()
}

impl Supervisor {
    /// Everything that is wanted of certificates now.
    pub(super) fn certs_wanted(&self) -> CertsWanted {
        let snapshot = &self.wanted.compiled.snapshot;
        let placeholder = self.wanted.settings.certificates.placeholder;
        let mut wanted = CertsWanted::of(snapshot, &self.wanted.inputs.secrets, &self.wanted.keys, placeholder);
        let settings = &self.wanted.settings.certificates;
        wanted.preflight = settings.preflight;
        wanted.resolvers = settings.resolvers.as_slice().into();
        wanted.texts = self.texts_of(of_secrets(&snapshot.issuers));
        wanted
    }

    /// The texts that are at hand, or why one is not; files go before the cluster.
    fn texts_of(&self, references: BTreeSet<SecretRef>) -> SecretTexts {
        let read = self.kubernetes.as_ref().map(|kubernetes| kubernetes.texts().borrow().clone());
        let text = |reference: &SecretRef| {
            self.wanted.keys.text(reference).or_else(|| match &read {
                Some(read) => read.get(reference).cloned(),
                None => Some(Err(format!("Secret {} is in no file", reference.secret))),
            })
        };
        references.into_iter().filter_map(|reference| text(&reference).map(|text| (reference, text))).collect()
    }

    /// Looks for the texts that policies name; the very same table where nothing is new.
    pub(super) fn refresh_secrets(&mut self) -> bool {
        let texts = self.texts_of(secrets(&self.wanted.compiled.snapshot));
        let is_news = self.wanted.secrets.texts() != &texts;
        if is_news {
            self.wanted.secrets = Arc::new(Secrets::new(texts));
        }
        is_news
    }

    /// Names the Secrets that must be read, beside those that objects of the API server name: of files, those that Edge
    /// writes, and those of CAs.
    pub(super) fn name_secrets(&self) {
        let Some(kubernetes) = &self.kubernetes else { return };
        let snapshot = &self.wanted.compiled.snapshot;
        let mut secrets = self.wanted.files.secrets();
        if self.held.is_some() {
            // The API server's objects of now may not name those of then.
            secrets.extend(referred(&self.wanted.inputs));
        }
        for wish in &snapshot.certificates {
            secrets.extend(wish.write_back.as_ref().map(|write| write.secret.0.clone()));
            if let WantedIssuer::Ca(id) = &wish.issuer {
                secrets.insert(id.0.clone());
            }
        }
        let home = &self.wanted.settings.certificates.cluster_resource_namespace;
        let cas = self.wanted.inputs.cluster_issuers.values().filter_map(|issuer| issuer.spec.ca.as_ref());
        let cas = cas.map(|ca| ObjectKey::new(home.as_str(), ca.secret_name.as_str()));
        secrets.extend(cas.filter(|secret| !self.wanted.files.inputs.secrets.contains_key(secret)));
        kubernetes.refer(secrets);
    }

    /// Names the members of Secrets that issuers and policies need. Not before there is a snapshot: what is not named is forgotten, and
    /// what was kept over a restart may be all there is.
    pub(super) fn name_texts(&self) {
        if let Some(kubernetes) = &self.kubernetes {
            let snapshot = &self.wanted.compiled.snapshot;
            let mut needed = secrets(snapshot);
            needed.extend(of_secrets(&snapshot.issuers));
            kubernetes.need(needed);
        }
    }

    /// What is to be at hand when the API server is away at the next start.
    pub(super) fn kept(&self) -> Kept {
        Kept {
            texts: self.kubernetes.as_ref().map(|kubernetes| kubernetes.texts().borrow().clone()).unwrap_or_default(),
            tenure: self.reporting.as_ref().map(|reporting| reporting.leadership().tenure()).unwrap_or_default(),
        }
    }

    pub(super) async fn take_heard(&mut self, heard: Heard) {
        match heard {
            Heard::Texts => {
                if let Some(saver) = &mut self.saver {
                    saver.note();
                }
                self.certs.set(self.certs_wanted());
                if self.refresh_secrets() {
                    self.publish();
                    self.show();
                }
            }
            Heard::Coexistence(why) => {
                tracing::info!("kubernetes: {why}");
                if self.inbox.held.is_none() {
                    self.settle().await;
                }
            }
        }
    }
}
