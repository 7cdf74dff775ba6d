//! The dashboard: a read-only web page about this edge, at an address of its own, for a person with a browser.
//!
//! In flow the worlds that the supervisor publishes and the counters of the workers; out flow views of them (`control::map`,
//! `control::rates`, status, certificates, findings) as JSON, and the page that shows them, which is built into the program.
//! It has a thread and runtime of its own: however many look, however slow they are, traffic, the supervisor and `edgectl` do
//! not notice. It can change nothing: it has no way to send a command. What is wrong with its settings, files or address is a
//! notice in the status and never ends edged.
//!
//! Bounds: connections in all and of one client, bytes of a head, time of a handshake, a head and a connection, failed tokens
//! of one client. Standards: HTTP/1.1, TLS 1.2 and 1.3, Content Security Policy Level 3, RFC 6750 (bearer tokens), RFC 6265
//! (cookies).

mod answer;
mod assets;
mod auth;
mod feed;
mod host;
mod material;
mod pages;
mod serve;
mod throttle;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use edge_config::settings::DashboardSettings;
use tokio::sync::watch;

use crate::control::world::World;
use crate::proxy::metrics::WorkerMetrics;
use crate::store::Store;

/// What the pages are made of.
#[derive(Clone)]
pub struct Sources {
    pub worlds: watch::Receiver<Arc<World>>,
    pub workers: Vec<Arc<WorkerMetrics>>,
    /// For the internal CA.
    pub store: Store,
    /// The name of this edge.
    pub edge: Arc<str>,
}

/// The actor: it serves what it was told last.
pub struct Dashboard {
    sources: Sources,
    running: Option<Running>,
}

struct Running {
    settings: DashboardSettings,
    trouble: Trouble,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// Why it does not work as configured, if it does not.
#[derive(Clone, Default)]
struct Trouble(Arc<Mutex<Option<String>>>);

impl Trouble {
    fn set(&self, trouble: Option<String>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != trouble {
            match &trouble {
                Some(trouble) => tracing::warn!("dashboard: {trouble}"),
                None => tracing::info!("dashboard: works"),
            }
            *known = trouble;
        }
    }

    fn now(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Dashboard {
    pub fn new(sources: Sources) -> Self {
        Self { sources, running: None }
    }

    /// Serves as wanted from now on; without a change nothing happens. What was served before ends first.
    pub fn set(&mut self, wanted: Option<&DashboardSettings>) {
        if self.running.as_ref().map(|running| &running.settings) == wanted {
            return;
        }
        self.running = None;
        let Some(settings) = wanted else { return };
        match Running::start(settings.clone(), self.sources.clone()) {
            Ok(running) => self.running = Some(running),
            Err(error) => tracing::error!(%error, "dashboard: its thread cannot be started"),
        }
    }

    /// One line for the status.
    pub fn notice(&self) -> Option<String> {
        let running = self.running.as_ref()?;
        running.trouble.now().map(|trouble| format!("dashboard {}: {trouble}", running.settings.address))
    }
}

impl Running {
    fn start(settings: DashboardSettings, sources: Sources) -> std::io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let trouble = Trouble::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (of_thread, told) = (settings.clone(), trouble.clone());
        let thread = std::thread::Builder::new().name("edge-dashboard".to_owned()).spawn(move || {
            runtime.block_on(serve::run(of_thread, sources, told, stopped));
            runtime.shutdown_background();
        })?;
        Ok(Self { settings, trouble, stop, thread: Some(thread) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the dashboard panicked");
        }
    }
}
