//! Certificates: those that Secrets supply, those that Edge issues, and placeholders for those that are not there yet.
//!
//! In: the whole wanted set ([`CertsWanted`]). Out: a [`CertTable`] with keys for the workers and, per certificate, what
//! is observed. All work is done on a thread of its own (`edge-certs`), so thousands of certificates stall nobody;
//! writing them to the store is done on another, so a dead disk stalls no certificate. Nothing here decides what is
//! wanted (compile does), and no key is ever printed.

mod actor;
mod issuance;
mod saver;
mod supplied;
pub mod table;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use edge_config::core::Secret;
use edge_config::inputs::Objects;
use edge_config::names::{CertId, HostPattern};
use edge_config::snapshot::{ListenerServe, Snapshot, WantedCertificate, WantedIssuer};

use crate::control::observed::CertificateState;
use crate::source::{KeyMaterial, Keys};
use crate::store::Store;
use actor::Mailbox;
use table::CertTable;

/// What does not change while the daemon runs.
#[derive(Debug, Clone)]
pub struct CertsSettings {
    /// Common name of the internal CA, used when it is created.
    pub internal_ca: String,
}

/// Everything that somebody wants of certificates.
#[derive(Debug, Clone, Default)]
pub struct CertsWanted {
    /// To be issued by Edge.
    pub certificates: Vec<WantedCertificate>,
    /// The Secrets among those used, presented or signed with: their material, or why there is none.
    pub supplied: BTreeMap<CertId, Supplied>,
    /// Who serves which certificate under which name.
    pub uses: Vec<CertUse>,
    /// Presented to backends; never replaced by a placeholder.
    pub client: BTreeSet<CertId>,
    /// Whether a listener without its certificate serves one of the internal CA.
    pub placeholder: bool,
}

/// A listener that terminates TLS.
#[derive(Debug, Clone)]
pub struct CertUse {
    /// `listener NAME of Gateway NS/NAME`
    pub listener: String,
    pub hostname: HostPattern,
    pub certificates: Vec<CertId>,
}

/// What a Secret holds, as its source read it. The same `Arc` means the same bytes.
pub type Supplied = Result<Arc<KeyMaterial>, String>;

impl CertsWanted {
    /// What a snapshot wants, with the Secrets at hand.
    pub fn of(snapshot: &Snapshot, secrets: &Objects<Secret>, keys: &Keys, placeholder: bool) -> Self {
        let uses: Vec<CertUse> = snapshot
            .listeners
            .iter()
            .filter_map(|listener| match &listener.serve {
                ListenerServe::Https { tls, .. } | ListenerServe::TlsTerminate { tls, .. } => Some(CertUse {
                    listener: format!("listener {} of {}", listener.name, listener.parent),
                    hostname: listener.hostname.clone(),
                    certificates: tls.certificates.clone(),
                }),
                ListenerServe::Http { .. }
                | ListenerServe::TlsPassthrough { .. }
                | ListenerServe::Tcp { .. }
                | ListenerServe::Udp { .. } => None,
            })
            .collect();
        let client = snapshot.upstreams.iter().filter_map(|upstream| upstream.tls.as_ref()?.client_certificate.clone());
        let client: BTreeSet<CertId> = client.collect();
        let cas = snapshot.certificates.iter().filter_map(|one| match &one.issuer {
            WantedIssuer::Ca(id) => Some(id),
            WantedIssuer::Internal { .. } | WantedIssuer::SelfSigned => None,
        });
        let concerned = uses.iter().flat_map(|one| &one.certificates).chain(&client).chain(cas);
        let supplied = concerned.filter_map(|id| Some((id.clone(), supplied(id, secrets, keys)?))).collect();
        Self { certificates: snapshot.certificates.clone(), supplied, uses, client, placeholder }
    }
}

fn supplied(id: &CertId, secrets: &Objects<Secret>, keys: &Keys) -> Option<Supplied> {
    match keys.get(id) {
        Some(material) => Some(Ok(Arc::clone(material))),
        None => secrets.get(&id.0)?.spec.certificate().err().map(|reason| Err(reason.to_string())),
    }
}

/// What the thread has to tell, whenever it changed.
#[derive(Debug, Clone)]
pub struct Published {
    /// How many calls of [`Certs::set`] are taken into account. From the first publication for a call on, every listener
    /// has at least its placeholder; slower certificates follow.
    pub applied: u64,
    pub table: Arc<CertTable>,
    pub observed: Arc<CertsObserved>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertsObserved {
    /// Every certificate that is wanted, used or presented. One without `not_after` is not at hand.
    pub certificates: BTreeMap<CertId, CertificateState>,
    pub internal_ca: Option<InternalCaState>,
    /// Issued once, wanted by nobody now, kept in the store.
    pub unwanted: Vec<CertId>,
    /// One line each: what is wrong beyond a single certificate.
    pub notices: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InternalCaState {
    /// Unix seconds.
    pub not_after: i64,
    /// Where its certificate lies for users to trust it.
    pub file: Option<PathBuf>,
}

/// A handle to the thread; dropping it ends the thread after its current certificate.
pub struct Certs {
    mailbox: Arc<Mailbox>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Certs {
    /// Starts the thread. `publish` is called from it and must not wait for long.
    pub fn start(
        store: Store,
        settings: CertsSettings,
        publish: impl FnMut(Published) + Send + 'static,
    ) -> io::Result<Self> {
        let mailbox = Arc::new(Mailbox::default());
        let inbox = mailbox.clone();
        let thread = std::thread::Builder::new()
            .name("edge-certs".into())
            .spawn(move || actor::run(&inbox, store, settings, publish))?;
        Ok(Self { mailbox, thread: Some(thread) })
    }

    /// Replaces the wanted set. Returns the number by which [`Published::applied`] tells that it is taken into account.
    pub fn set(&self, wanted: CertsWanted) -> u64 {
        self.mailbox.put(wanted)
    }
}

impl Drop for Certs {
    fn drop(&mut self) {
        self.mailbox.stop();
        if let Some(thread) = self.thread.take() {
            // A panic there was printed by the panic hook; there is nothing left to do about it here.
            let _ = thread.join();
        }
    }
}
