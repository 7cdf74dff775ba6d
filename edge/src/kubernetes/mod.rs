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
mod lease;
mod mirror;
mod report;
pub mod status;

use std::io;
use std::thread::JoinHandle;

use edge_config::settings::KubernetesSettings;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

pub use backoff::Backoff;
pub use client::{Api, ConnectError};
pub use mirror::{Mirror, Seen};
pub use report::Reporting;

/// `Origin::file` of objects that come from the API.
pub const SOURCE: &str = "kubernetes";

/// The running thread. Dropping it ends the thread and every task on it.
pub struct Kubernetes {
    runtime: Handle,
    api: Api,
    mirror: Mirror,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Kubernetes {
    /// Starts the thread. Nothing about the API server can fail here: it may be away.
    pub fn start(settings: &KubernetesSettings) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().thread_name("kubernetes").build()?;
        let (stop, stopped) = oneshot::channel();
        let handle = runtime.handle().clone();
        let (api, keep) = client::keep(settings);
        handle.spawn(keep);
        let thread = std::thread::Builder::new().name("kubernetes".to_owned()).spawn(move || {
            // Either way somebody wants it to end.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        })?;
        Ok(Self { runtime: handle, api, mirror: Mirror::default(), stop: Some(stop), thread: Some(thread) })
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
