//! Everything that Edge says in the API, started together: Leases, status, Events, the objects of Gateways.

use std::sync::Arc;
use std::time::SystemTime;

use edge_config::settings::{KubernetesSettings, edge_name};
use tokio::sync::{mpsc, watch};

use super::Kubernetes;
use super::events::Teller;
use super::infrastructure::Infrastructure;
use super::leadership::{Leadership, Tenure, View};
use super::lease::{self, LeaseSettings};
use super::secrets::SecretWriter;
use super::status::Writer;
use super::status::counters::Counters;
use super::status::fleet::Acknowledgement;
use crate::control::world::World;

/// Events that wait to be written.
const EVENTS: usize = 256;

/// The running tasks. Dropping it asks them to end; they give up their Leases then, if the thread lives long enough.
pub struct Reporting {
    counters: Arc<Counters>,
    view: watch::Receiver<View>,
    stop: watch::Sender<bool>,
    ended: watch::Receiver<()>,
}

impl Reporting {
    /// Starts the tasks on the thread of the API. `edge` is the name of the host, `tenure` what was known of the Lease
    /// before the start.
    pub fn start(
        kubernetes: &Kubernetes,
        worlds: &watch::Receiver<Arc<World>>,
        settings: &KubernetesSettings,
        edge: &str,
        tenure: Tenure,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (shown, view) = watch::channel(View { tenure, ..View::default() });
        let (said, heard) = watch::channel(Acknowledgement::default());
        let (events, inbox) = mpsc::channel(EVENTS);
        let (alive, ended) = watch::channel(());
        let counters = Arc::new(Counters::default());
        let (api, mirror, source) = (kubernetes.api(), kubernetes.mirror(), kubernetes.state());
        let name = settings.edge_name.clone().unwrap_or_else(|| edge_name(edge));
        let leases = LeaseSettings {
            namespace: settings.lease_namespace.clone(),
            group: settings.group.clone(),
            instance: format!("{name}_{:08x}", chance(&name)),
            edge: name.clone(),
        };
        let end = stopped.clone();
        let lease_api = api.clone();
        kubernetes.spawn(async move {
            lease::run(lease_api, leases, heard, shown, end).await;
            drop(alive);
        });
        if settings.gateway_services {
            kubernetes.spawn(
                Infrastructure {
                    api: api.clone(),
                    mirror: mirror.clone(),
                    source: source.clone(),
                    worlds: worlds.clone(),
                    view: view.clone(),
                    stop: stopped.clone(),
                }
                .run(),
            );
        }
        let secrets = SecretWriter {
            api: api.clone(),
            source: source.clone(),
            worlds: worlds.clone(),
            offers: kubernetes.offers(),
            texts: kubernetes.texts(),
            view: view.clone(),
            events: events.clone(),
            counters: Arc::clone(&counters),
            stop: stopped.clone(),
        };
        kubernetes.spawn(secrets.run());
        let teller = Teller { api: api.clone(), source: source.clone(), inbox, edge: name, stop: stopped.clone() };
        kubernetes.spawn(teller.run());
        let writer = Writer {
            api,
            mirror,
            source,
            worlds: worlds.clone(),
            view: view.clone(),
            said,
            events,
            counters: Arc::clone(&counters),
            stop: stopped,
        };
        kubernetes.spawn(writer.run());
        Self { counters, view, stop, ended }
    }

    /// What was written, for the metrics.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Who of the group orders certificates.
    pub fn leadership(&self) -> Leadership {
        Leadership(self.view.clone())
    }

    /// Why Leases cannot be kept, so that no status is written, if that is so.
    pub fn trouble(&self) -> Option<String> {
        self.view.borrow().trouble.clone()
    }

    /// Ends the tasks and waits until the Leases are given up, or it has taken too long. For the end of the daemon.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        // An error is what it waits for: the sender is gone.
        let _ = tokio::time::timeout(lease::FAREWELL, async { while self.ended.changed().await.is_ok() {} }).await;
    }
}

/// Something that another process of this name hardly has.
fn chance(name: &str) -> u32 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let mut hasher = RandomState::new().build_hasher();
    hasher.write(name.as_bytes());
    hasher.write_u32(std::process::id());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    hasher.write_u128(now.as_nanos());
    u32::try_from(hasher.finish() >> 32).unwrap_or_default()
}
