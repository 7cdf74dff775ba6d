//! The Kubernetes API: the only room that knows kube and k8s-openapi.
//!
//! It has a thread and a runtime of its own, so an API server that is slow, lies or hangs costs nobody else anything.
//! Out of it flow values of `edge-config` through bounded channels; into it, the worlds that the supervisor shows. Other
//! users of the API (status, Leases, Events) run here as tasks of their own, see [`Kubernetes::spawn`]. What must not
//! happen here: deciding what objects mean together, or waiting for the supervisor while a watch is to be read.
//! Standards: Kubernetes API concepts (list, watch, bookmarks, resource versions).

pub mod backoff;
mod calls;
mod client;
mod coexist;
pub mod crds;
mod events;
mod infrastructure;
pub mod last_good;
mod leadership;
mod lease;
mod mirror;
mod plugin;
mod report;
mod secrets;
pub mod status;
pub mod texts;
mod watch;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use edge_config::issuer::SecretRef;
use edge_config::names::ObjectKey;
use edge_config::settings::KubernetesSettings;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, oneshot, watch as latest};

use crate::certs::SecretTexts;
use crate::certs::offer::Offers;
pub use backoff::Backoff;
pub use client::{Api, ConnectError};
pub use coexist::Coexistence;
pub use leadership::{Leadership, Tenure};
pub use mirror::{Mirror, Seen};
pub use report::Reporting;
pub use status::counters::Counters;
pub use watch::{Changes, Entry, KindState, Phase, Restored, SOURCE, SourceState, restore, secrets_of};

/// The running thread. Dropping it ends the thread and every task on it.
pub struct Kubernetes {
    runtime: Handle,
    api: Api,
    mirror: Mirror,
    state: latest::Receiver<Arc<SourceState>>,
    wanted: latest::Sender<watch::Wanted>,
    needed: latest::Sender<Option<texts::Needed>>,
    texts: latest::Receiver<Arc<SecretTexts>>,
    offers: latest::Sender<Arc<Offers>>,
    coexistence: latest::Receiver<Coexistence>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Kubernetes {
    /// Starts the thread and the watches. Nothing about the API server can fail here: it may be away. `restored` and
    /// `texts` are what serves until the API server says something else.
    pub fn start(
        settings: &KubernetesSettings,
        restored: Restored,
        texts: Arc<SecretTexts>,
    ) -> io::Result<(Self, mpsc::Receiver<Changes>)> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let handle = runtime.handle().clone();
        let (api, keep) = client::keep(settings);
        let mirror = Mirror::default();
        // One: while it is full, changes of one object become one.
        let (out, changes) = mpsc::channel(1);
        let (publish, state) = latest::channel(Arc::default());
        let (wanted, is_wanted) = latest::channel(watch::Wanted::default());
        let access = (api.clone(), mirror.clone());
        let (tell_coexistence, coexistence) = latest::channel(Coexistence::unknown(&restored));
        let gather = watch::Gather::new(Arc::new(settings.clone()), access, restored, (out, publish), is_wanted);
        let (needed, is_needed) = latest::channel(None);
        let (tell_texts, texts) = latest::channel(texts);
        let lease = settings.cert_manager_lease.clone();
        handle.spawn(keep);
        handle.spawn(gather.run());
        handle.spawn(texts::run(api.clone(), is_needed, tell_texts));
        handle.spawn(coexist::run(api.clone(), lease, state.clone(), settings.sync_timeout, tell_coexistence));
        let thread = std::thread::Builder::new().name("kubernetes".to_owned()).spawn(move || {
            // Either way somebody wants it to end.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        })?;
        let started = Self {
            runtime: handle,
            api,
            mirror,
            state,
            wanted,
            needed,
            texts,
            offers: latest::channel(Arc::default()).0,
            coexistence,
            stop: Some(stop),
            thread: Some(thread),
        };
        Ok((started, changes))
    }

    /// How the watches are.
    pub fn state(&self) -> latest::Receiver<Arc<SourceState>> {
        self.state.clone()
    }

    /// Names the Secrets that objects of other sources refer to, all of them.
    pub fn refer(&self, secrets: BTreeSet<ObjectKey>) {
        self.wanted.send_if_modified(|known| {
            let is_new = **known != secrets;
            if is_new {
                *known = Arc::new(secrets);
            }
            is_new
        });
    }

    /// Names the members of Secrets whose texts issuers need, all of them.
    pub fn need(&self, texts: BTreeSet<SecretRef>) {
        self.needed.send_if_modified(|known| {
            let is_new = known.as_deref() != Some(&texts);
            if is_new {
                *known = Some(Arc::new(texts));
            }
            is_new
        });
    }

    /// The texts of Secrets that [`Kubernetes::need`] named.
    pub fn texts(&self) -> latest::Receiver<Arc<SecretTexts>> {
        self.texts.clone()
    }

    /// Takes what is to be in Secrets.
    pub fn offer(&self, offers: Arc<Offers>) {
        self.offers.send_if_modified(|known| {
            let is_new = !Arc::ptr_eq(known, &offers);
            if is_new {
                *known = offers;
            }
            is_new
        });
    }

    fn offers(&self) -> latest::Receiver<Arc<Offers>> {
        self.offers.subscribe()
    }

    /// Whether cert-manager is alive beside Edge.
    pub fn coexistence(&self) -> latest::Receiver<Coexistence> {
        self.coexistence.clone()
    }

    /// Runs a task on the thread; it ends with the thread. The place for the writer of status and its like.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Access to the API server for tasks that [`Kubernetes::spawn`] runs.
    pub fn api(&self) -> Api {
        self.api.clone()
    }

    /// What the API server says of the objects that the watches read.
    pub fn mirror(&self) -> Mirror {
        self.mirror.clone()
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the Kubernetes API panicked");
        }
    }
}
