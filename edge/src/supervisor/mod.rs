//! The one owner of control state. It takes one event at a time, and each either changes nothing or ends in a new
//! generation that the workers serve and a new world that users see.
//!
//! In: files that changed, signals, commands, and what the actors observe. Out: generations for the proxy, wanted sets for
//! the actors, worlds for the control API. It runs on the main thread with its own runtime, so it may wait for a disk or
//! a name; traffic never waits for it. It carries no byte of traffic and decides nothing that compile decides.

mod apply;
mod cluster;
mod observe;
mod signals;
mod start;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use edge_config::inputs::Inputs;
use edge_config::problem::Problem;
use edge_config::settings::Settings;
use edge_config::snapshot::Transport;
use edge_config::{Compiled, Compiler};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use self::cluster::{Cluster, Files, Saver};
use crate::certs::table::CertTable;
use crate::certs::{self, Certs, CertsObserved};
use crate::control::api;
use crate::control::world::{Command, Reloaded, World};
use crate::kubernetes::{Changes, Kubernetes, Reporting};
use crate::logging::Logging;
use crate::notify::Notifier;
use crate::proxy::tls::table::TlsTable;
use crate::proxy::{self, Proxy, access_log};
use crate::reach::{Reach, ReachObserved};
use crate::resolve::{self, Resolved, Resolver};
use crate::source::{self, Keys, Watcher};
use crate::store::Store;
use crate::vip::{Addresses, AddressesObserved};

/// Why the daemon did not start. Everything later is a condition, not an error.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// `edge.toml` has faults and there is no last good version to serve.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Configuration(Vec<Problem>),
    #[error(transparent)]
    Control(#[from] api::ApiError),
    #[error(transparent)]
    Proxy(#[from] proxy::StartError),
    #[error(transparent)]
    AccessLog(#[from] access_log::LogError),
    #[error("cannot start the thread for certificates")]
    Certificates(#[source] std::io::Error),
    #[error("cannot watch for signals")]
    Signals(#[source] std::io::Error),
    #[error("cannot start the runtime of the supervisor")]
    Runtime(#[source] std::io::Error),
    #[error("cannot start the threads of the Kubernetes API")]
    Kubernetes(#[source] std::io::Error),
    #[error("cannot start the thread that watches files")]
    Watch(#[source] std::io::Error),
}

/// One thing that happened.
#[derive(Debug)]
enum Event {
    /// Files may have changed. A command waits for the answer; the watch and SIGHUP do not.
    Reload(Option<oneshot::Sender<Result<Reloaded, String>>>),
    Certificates(certs::Published),
    Addresses(Arc<AddressesObserved>),
    Resolved(resolve::Update),
    /// Pods are reached in another way, or routes to them changed.
    Reach(Arc<ReachObserved>),
    /// The API server's objects changed.
    Cluster(Changes),
    /// Addresses in the status of objects changed.
    Published,
    /// The first generation waits no longer for the API server.
    Begin,
    /// Time to look at what changes without an event: health, acknowledgements, sockets that failed.
    Look,
    ReopenLogs,
    Stop,
}

/// Where events come from.
struct Inbox {
    /// Signals.
    signals: mpsc::Receiver<Event>,
    files: mpsc::Receiver<()>,
    commands: mpsc::Receiver<Command>,
    certificates: mpsc::UnboundedReceiver<certs::Published>,
    addresses: watch::Receiver<Arc<AddressesObserved>>,
    resolved: mpsc::Receiver<resolve::Update>,
    reach: watch::Receiver<Arc<ReachObserved>>,
    /// From the API server, where one is read.
    cluster: Option<mpsc::Receiver<Changes>>,
    /// Counts changes of addresses in the status of its objects.
    moves: Option<watch::Receiver<u64>>,
    /// Until when the first generation waits for the API server.
    held: Option<Instant>,
    look: tokio::time::Interval,
}

impl Inbox {
    async fn next(&mut self) -> Event {
        tokio::select! {
            biased;
            Some(event) = self.signals.recv() => event,
            Some(Command::Reload { reply }) = self.commands.recv() => Event::Reload(Some(reply)),
            Some(published) = self.certificates.recv() => Event::Certificates(published),
            Some(update) = self.resolved.recv() => Event::Resolved(update),
            Ok(()) = self.reach.changed() => Event::Reach(self.reach.borrow_and_update().clone()),
            Ok(()) = self.addresses.changed() => Event::Addresses(self.addresses.borrow_and_update().clone()),
            // Before what may come without end: the watchdog and health wait for it.
            _ = self.look.tick() => Event::Look,
            Some(()) = self.files.recv() => Event::Reload(None),
            Some(changes) = receive(&mut self.cluster) => Event::Cluster(changes),
            () = moved(&mut self.moves) => Event::Published,
            () = due(self.held) => Event::Begin,
        }
    }
}

async fn receive(changes: &mut Option<mpsc::Receiver<Changes>>) -> Option<Changes> {
    match changes {
        Some(changes) => changes.recv().await,
        None => std::future::pending().await,
    }
}

async fn moved(moves: &mut Option<watch::Receiver<u64>>) {
    let is_open = match moves {
        Some(moves) => moves.changed().await.is_ok(),
        None => false,
    };
    if !is_open {
        std::future::pending().await
    }
}

async fn due(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Health of endpoints and acknowledgements change without an event; the world follows at this pace.
const LOOK: Duration = Duration::from_secs(1);
/// The watches give up waiting for kinds before the supervisor gives up waiting for them.
const HELD_BEYOND: Duration = Duration::from_secs(2);
/// How long a reload waits for certificates that are being made before it publishes without them.
const CERTIFICATES_PATIENCE: Duration = Duration::from_secs(2);
/// How long a reload waits for the disk.
const DISK_PATIENCE: Duration = Duration::from_secs(2);
/// How long a new generation may take to be live before the world says that it is pending.
const LIVE_PATIENCE: Duration = Duration::from_secs(1);

pub struct Supervisor {
    config: PathBuf,
    inbox: Inbox,
    logging: Logging,
    notifier: Notifier,
    store: Store,
    watcher: Watcher,
    proxy: Proxy,
    certs: Certs,
    addresses: Addresses,
    resolver: Resolver,
    reach: Reach,
    kubernetes: Option<Kubernetes>,
    /// What is said in the API.
    reporting: Option<Reporting>,
    saver: Option<Saver>,
    worlds: watch::Sender<Arc<World>>,
    /// Ends the control API when it is dropped.
    stop_api: watch::Sender<bool>,
    api: Option<std::thread::JoinHandle<()>>,
    wanted: Serving,
    seen: Seen,
}

/// What is served, and what it was made from.
struct Serving {
    cache: source::Cache,
    files: Files,
    cluster: Cluster,
    settings: Arc<Settings>,
    inputs: Arc<Inputs>,
    keys: Keys,
    problems: Arc<[Problem]>,
    compiled: Arc<Compiled>,
    compiler: Compiler,
    generation: u64,
    since: SystemTime,
    table: Arc<CertTable>,
    tls: Arc<TlsTable>,
}

/// What the actors and the workers said last.
struct Seen {
    started: SystemTime,
    edge: Box<str>,
    certs: Arc<CertsObserved>,
    /// How many wanted sets the certificate thread has taken into account.
    certs_applied: u64,
    addresses: Arc<AddressesObserved>,
    resolved: BTreeMap<resolve::Name, Arc<Resolved>>,
    reach: Arc<ReachObserved>,
    failed_sockets: BTreeMap<(SocketAddr, Transport), String>,
    tls_reasons: Vec<String>,
    store_notices: Vec<String>,
    /// When `edge.toml` was read without a fault last.
    sources_good: Option<SystemTime>,
    sources_error: Option<String>,
    /// When the last good objects of the API server that serve were written; `None`: they are from the API server.
    restored: Option<SystemTime>,
    /// Since when changes leave memory behind that nobody uses.
    untidy_since: Option<Instant>,
}

impl Supervisor {
    /// Takes events until one says to stop; then drains, and undoes what only makes sense while edged runs.
    async fn run(mut self) {
        loop {
            match self.inbox.next().await {
                Event::Reload(reply) => {
                    let answer = self.reload().await;
                    if let Some(reply) = reply {
                        // Whoever asked may be gone by now.
                        let _ = reply.send(answer);
                    }
                }
                Event::Certificates(published) => self.take_certificates(published),
                Event::Addresses(observed) => self.take_addresses(observed),
                Event::Resolved((name, resolved)) => self.take_resolved(name, resolved),
                Event::Reach(observed) => self.take_reach(observed),
                Event::Cluster(changes) => self.take_cluster(changes).await,
                Event::Published => self.take_published().await,
                Event::Begin => self.begin().await,
                Event::Look => self.look(),
                Event::ReopenLogs => {
                    if let Some(log) = self.proxy.log() {
                        log.reopen();
                    }
                }
                Event::Stop => break,
            }
        }
        self.stop().await;
    }

    async fn stop(self) {
        let deadline = self.wanted.settings.proxy.drain_timeout;
        tracing::info!(connections = self.proxy.connections(), "draining");
        self.tell(self.notifier.stopping(deadline + Duration::from_secs(5)));
        let mut world = World::clone(&self.worlds.borrow());
        let mut observed = crate::control::observed::Observed::clone(&world.observed);
        let now = SystemTime::now();
        observed.drain = Some(crate::control::observed::Drain { since: now, until: now + deadline });
        world.observed = Arc::new(observed);
        self.worlds.send_replace(Arc::new(world));

        if let Some(reporting) = self.reporting {
            reporting.stop().await;
        }
        drop(self.kubernetes);
        if let Some(saver) = self.saver {
            saver.stop(&self.wanted.cluster);
        }
        self.proxy.drain(deadline).await;
        self.addresses.stop().await;
        self.proxy.stop();
        self.reach.stop().await;
        drop(self.certs);
        drop(self.stop_api);
        if let Some(api) = self.api
            && api.join().is_err()
        {
            tracing::error!("the thread of the control api panicked");
        }
        tracing::info!("stopped");
    }

    /// systemd that does not listen is not a reason to do anything else.
    fn tell(&self, result: std::io::Result<()>) {
        if let Err(error) = result {
            tracing::debug!(%error, "systemd was not told");
        }
    }
}

pub use start::run;
