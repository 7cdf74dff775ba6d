//! The Kubernetes API: the only room that knows kube and k8s-openapi.
//!
//! It has a thread and a runtime of its own, so an API server that is slow, lies or hangs costs nobody else anything.
//! Out of it flow values of `edge-config` through bounded channels; into it, the worlds that the supervisor shows. Other
//! users of the API (status, Leases, Events) run here as tasks of their own, see [`Kubernetes::spawn`]. What must not
//! happen here: deciding what objects mean together, or waiting for the supervisor while a watch is to be read.
//! Standards: Kubernetes API concepts (list, watch, bookmarks, resource versions).

mod backoff;
mod calls;
mod client;
mod events;
mod infrastructure;
pub mod last_good;
mod lease;
mod mirror;
mod report;
pub mod status;
mod watch;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use edge_config::names::ObjectKey;
use edge_config::settings::KubernetesSettings;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, oneshot, watch as latest};

pub use backoff::Backoff;
pub use client::{Api, ConnectError};
pub use mirror::{Mirror, Seen};
pub use report::Reporting;
pub use watch::{Changes, Entry, KindState, Phase, Restored, SOURCE, SourceState, restore, secrets_of};

/// The running thread. Dropping it ends the thread and every task on it.
pub struct Kubernetes {
    runtime: Handle,
    api: Api,
    mirror: Mirror,
    state: latest::Receiver<Arc<SourceState>>,
    wanted: latest::Sender<watch::Wanted>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Kubernetes {
    /// Starts the thread and the watches. Nothing about the API server can fail here: it may be away. `restored` is what
    /// serves until the API server says something else.
    pub fn start(settings: &KubernetesSettings, restored: Restored) -> io::Result<(Self, mpsc::Receiver<Changes>)> {
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
        let gather = watch::Gather::new(Arc::new(settings.clone()), access, restored, (out, publish), is_wanted);
        handle.spawn(keep);
        handle.spawn(gather.run());
        let thread = std::thread::Builder::new().name("kubernetes".to_owned()).spawn(move || {
            // Either way somebody wants it to end.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        })?;
        let started = Self { runtime: handle, api, mirror, state, wanted, stop: Some(stop), thread: Some(thread) };
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
