//! Certificates: those that Secrets supply, those that Edge issues, and placeholders for those that are not there yet.
//!
//! In: the whole wanted set ([`CertsWanted`]). Out: a [`CertTable`] with keys for the workers and, per certificate, what
//! is observed. All work is done on a thread of its own (`edge-certs`), so thousands of certificates stall nobody;
//! writing them to the store is done on another, so a dead disk stalls no certificate. CAs are talked to on a
//! third (`edge-acme`, see [`ordering`]), so a CA that is slow or down stalls nothing. Nothing here decides what is
//! wanted (compile does), and no key is ever printed.

mod actor;
pub mod choice;
pub mod command;
pub mod edges;
mod issuance;
mod mail;
#[cfg(test)]
mod mail_tests;
pub mod observed;
pub mod offer;
mod offering;
pub mod ordering;
mod saver;
mod supplied;
pub mod table;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use edge_config::core::Secret;
use edge_config::inputs::Objects;
use edge_config::issuer::{AcmeIssuer, SecretRef};
use edge_config::names::{CertId, HostPattern};
use edge_config::snapshot::{ListenerServe, PortServe, Snapshot, Transport, WantedCertificate, WantedIssuer};

use crate::control::observed::CertificateState;
use crate::source::{KeyMaterial, Keys, PasswordText};
use crate::store::Store;
use actor::Mailbox;
use command::CertCommand;
use offer::Offers;
use ordering::Means;
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
    /// Of the Secrets that Edge writes: the leaf that it put there last, as they say.
    pub written: BTreeMap<CertId, Box<str>>,
    /// What issuers need of Secrets: only the members that they name.
    pub texts: SecretTexts,
    /// The ACME issuers that are configured.
    pub issuers: Vec<AcmeIssuer>,
    /// Addresses that serve each certificate.
    pub entries: BTreeMap<CertId, BTreeSet<IpAddr>>,
    /// Whether names are looked at before a CA is asked, and by which name servers; none: those of the system.
    pub preflight: bool,
    pub resolvers: Arc<[SocketAddr]>,
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

/// Secret texts of issuers, or why one is not at hand. One that is absent is not known yet.
pub type SecretTexts = BTreeMap<SecretRef, Result<Arc<PasswordText>, String>>;

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
            WantedIssuer::Internal { .. }
            | WantedIssuer::SelfSigned
            | WantedIssuer::Acme(_)
            | WantedIssuer::Nobody { .. } => None,
        });
        let concerned = uses.iter().flat_map(|one| &one.certificates).chain(&client).chain(cas);
        let written = snapshot.certificates.iter().filter(|one| one.write_back.is_some()).map(|one| &one.id);
        let adopted = snapshot.certificates.iter().filter_map(|one| Some(&one.adopt.as_ref()?.secret));
        let concerned = concerned.chain(written.clone()).chain(adopted.clone());
        let supplied = concerned.filter_map(|id| Some((id.clone(), supplied(id, secrets, keys)?))).collect();
        let written = written.chain(adopted).filter_map(|id| {
            let annotation = secrets.get(&id.0)?.meta.annotations.get(offer::WRITTEN_ANNOTATION)?;
            Some((id.clone(), annotation.as_str().into()))
        });
        let written = written.collect();
        Self {
            certificates: snapshot.certificates.clone(),
            supplied,
            written,
            texts: BTreeMap::new(),
            issuers: snapshot.issuers.clone(),
            entries: entries(snapshot),
            preflight: false,
            resolvers: Arc::default(),
            uses,
            client,
            placeholder,
        }
    }
}

/// Where connections for each certificate come in.
fn entries(snapshot: &Snapshot) -> BTreeMap<CertId, BTreeSet<IpAddr>> {
    let mut entries: BTreeMap<CertId, BTreeSet<IpAddr>> = BTreeMap::new();
    for socket in snapshot.sockets.iter().filter(|socket| socket.transport == Transport::Tcp) {
        let port = snapshot.ports.get(socket.port.index());
        let Some(PortServe::Tls { names }) = port.map(|port| &port.serve) else { continue };
        let listeners = names.values().filter_map(|id| snapshot.listeners.get(id.index()));
        let certificates = listeners.filter_map(|listener| match &listener.serve {
            ListenerServe::Https { tls, .. } | ListenerServe::TlsTerminate { tls, .. } => Some(&tls.certificates),
            _ => None,
        });
        for id in certificates.flatten() {
            entries.entry(id.clone()).or_default().insert(socket.address.ip());
        }
    }
    entries
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
    /// For Secrets.
    pub offers: Arc<Offers>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertsObserved {
    /// Every certificate that is wanted, used or presented. One without `not_after` is not at hand.
    pub certificates: BTreeMap<CertId, CertificateState>,
    pub internal_ca: Option<InternalCaState>,
    pub acme: observed::AcmeObserved,
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
        means: Means,
        publish: impl FnMut(Published) + Send + 'static,
    ) -> io::Result<Self> {
        let mailbox = Arc::new(Mailbox::default());
        let inbox = mailbox.clone();
        let thread = std::thread::Builder::new()
            .name("edge-certs".into())
            .spawn(move || actor::run(&inbox, store, settings, means, publish))?;
        Ok(Self { mailbox, thread: Some(thread) })
    }

    /// Replaces the wanted set. Returns the number by which [`Published::applied`] tells that it is taken into account.
    pub fn set(&self, wanted: CertsWanted) -> u64 {
        self.mailbox.put(wanted)
    }

    /// A door to the thread for others than the supervisor.
    pub fn door(&self) -> Door {
        Door(self.mailbox.clone())
    }
}

/// Takes commands to the certificate thread. After its end they are dropped, and with them their answers.
#[derive(Clone)]
pub struct Door(Arc<Mailbox>);

impl Door {
    /// Never waits.
    pub fn send(&self, command: CertCommand) {
        self.0.command(command);
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
