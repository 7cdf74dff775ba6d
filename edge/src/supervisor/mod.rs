//! The one owner of control state. It takes one event at a time, and each either changes nothing or ends in a new
//! generation that the workers serve and a new world that users see.
//!
//! In: files that changed, signals, commands, and what the actors observe. Out: generations for the proxy, wanted sets for
//! the actors, worlds for the control API. It runs on the main thread with its own runtime, so it may wait for a disk or
//! a name; traffic never waits for it. It carries no byte of traffic and decides nothing that compile decides.

mod apply;
mod cluster;
mod endpoints;
mod holds;
mod leave;
mod levels;
mod maintenance;
mod network;
mod observe;
mod rollback;
mod signals;
mod start;
mod take_over;
mod texts;
mod upgrade;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use edge_config::inputs::Inputs;
use edge_config::problem::Problem;
use edge_config::settings::Settings;
use edge_config::snapshot::Transport;
use edge_config::{Compiled, Compiler};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use self::cluster::{Cluster, Files, Saver};
use self::rollback::Holding;
use crate::certs::command::CertCommand;
use crate::certs::table::CertTable;
use crate::certs::{self, Certs, CertsObserved};
use crate::control::api;
use crate::control::holds::{Ask, Holds};
use crate::control::maintenance::Closures;
use crate::control::world::{Command, Reloaded, Rolled, Upgraded, World};
use crate::dashboard::Dashboard;
use crate::fleet::Fleet;
use crate::handover::Program;
use crate::handover::predecessor::{Ear, News};
use crate::handover::successor::Successor;
use crate::history::{self, Cause, Folder, Keeper};
use crate::kubernetes::{Changes, Kubernetes, Reporting};
use crate::logging::Logging;
use crate::logging::levels::Levels;
use crate::moment;
use crate::notify::Notifier;
use crate::proxy::authorities::trouble::Told;
use crate::proxy::secrets::Secrets;
use crate::proxy::tls::table::TlsTable;
use crate::proxy::tls::tickets::Tickets;
use crate::proxy::{self, Proxy, access_log};
use crate::pulse::Pulse;
use crate::reach::{Reach, ReachObserved};
use crate::resolve::{self, Resolved, Resolver};
use crate::source::{self, Keys, Watcher};
use crate::store::Store;
use crate::telemetry::Telemetry;
use crate::vip::announcer::Announcer;
use crate::vip::gate::{Gate, Stance};
use crate::vip::road::Roads;
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
    #[error("cannot start the thread that speaks with other edges")]
    Fleet(#[source] std::io::Error),
    #[error("cannot start the thread that tells the network")]
    Network(#[source] std::io::Error),
    #[error("cannot start the thread of the history")]
    History(#[source] std::io::Error),
    #[error("cannot start the thread that watches files")]
    Watch(#[source] std::io::Error),
    #[error("cannot find out which program this is")]
    Program(#[source] std::io::Error),
    #[error(transparent)]
    Predecessor(#[from] crate::handover::predecessor::PredecessorError),
}

/// One thing that happened.
#[derive(Debug)]
enum Event {
    /// Files may have changed. A command waits for the answer; the watch and SIGHUP do not.
    Reload(Cause, Option<String>, Option<oneshot::Sender<Result<Reloaded, String>>>),
    Certificates(certs::Published),
    Addresses(Arc<AddressesObserved>),
    Resolved(resolve::Update),
    /// Pods are reached in another way, or routes to them changed.
    Reach(Arc<ReachObserved>),
    /// The API server's objects changed.
    Cluster(Changes),
    /// Addresses in the status of objects changed.
    Published,
    /// Texts of Secrets changed, or what is seen of cert-manager.
    Heard(texts::Heard),
    /// The first generation waits no longer for the API server.
    Begin,
    Drain(oneshot::Sender<Result<(), String>>),
    Undrain(oneshot::Sender<Result<(), String>>),
    /// Something about single endpoints.
    Hold(Ask, oneshot::Sender<Result<Holds, String>>),
    /// Something about a host.
    Close(crate::control::maintenance::Ask, oneshot::Sender<Result<Closures, String>>),
    /// How much is logged of what.
    Levels(crate::logging::levels::Ask, oneshot::Sender<Result<Levels, String>>),
    /// The configuration is to be held at a revision, or to be released.
    Roll(history::Ask, Option<String>, oneshot::Sender<Result<Rolled, String>>),
    /// Reload, or hand over to the program on disk; `true`: that in any case.
    Upgrade(bool, oneshot::Sender<Result<Upgraded, String>>),
    /// A successor is ready, or why there is none.
    Successor(Result<Box<Successor>, String>),
    /// Of the edged before this one.
    Predecessor(News),
    /// The certificate thread answers it.
    Certificate(CertCommand),
    /// What is seen of the network, or of who guards it, changed.
    Network,
    /// A hold-down or a step of leaving is over.
    Due,
    /// Time to look at what changes without an event: health, acknowledgements, sockets that failed.
    Look,
    ReopenLogs,
    Stop,
}

/// Where events come from.
struct Inbox {
    /// Signals.
    signals: mpsc::Receiver<Event>,
    successors: mpsc::Receiver<Result<Box<Successor>, String>>,
    /// Until it has ended.
    predecessor: Option<Ear>,
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
    beside: Option<texts::Beside>,
    /// Until when the first generation waits for the API server.
    held: Option<Instant>,
    /// Tells that something about the network is new.
    network: Arc<Notify>,
    /// When a hold-down or a step of leaving is over.
    due: Option<Instant>,
    look: tokio::time::Interval,
}

impl Inbox {
    async fn next(&mut self) -> Event {
        tokio::select! {
            biased;
            Some(event) = self.signals.recv() => event,
            Some(command) = self.commands.recv() => match command {
                Command::Reload { by, reply } => Event::Reload(Cause::Reload, by, Some(reply)),
                Command::Upgrade { is_forced, reply } => Event::Upgrade(is_forced, reply),
                Command::Drain { reply } => Event::Drain(reply),
                Command::Undrain { reply } => Event::Undrain(reply),
                Command::Hold { ask, reply } => Event::Hold(ask, reply),
                Command::Close { ask, reply } => Event::Close(ask, reply),
                Command::Levels { ask, reply } => Event::Levels(ask, reply),
                Command::Roll { ask, by, reply } => Event::Roll(ask, by, reply),
                Command::Certificate(command) => Event::Certificate(command),
            },
            Some(successor) = self.successors.recv() => Event::Successor(successor),
            news = heard(&mut self.predecessor) => Event::Predecessor(news),
            () = self.network.notified() => Event::Network,
            () = moment::reached(self.due) => Event::Due,
            Some(published) = self.certificates.recv() => Event::Certificates(published),
            Some(update) = self.resolved.recv() => Event::Resolved(update),
            Ok(()) = self.reach.changed() => Event::Reach(self.reach.borrow_and_update().clone()),
            Ok(()) = self.addresses.changed() => Event::Addresses(self.addresses.borrow_and_update().clone()),
            // Before what may come without end: the watchdog and health wait for it.
            _ = self.look.tick() => Event::Look,
            Some(()) = self.files.recv() => Event::Reload(Cause::Files, None, None),
            Some(changes) = receive(&mut self.cluster) => Event::Cluster(changes),
            () = moved(&mut self.moves) => Event::Published,
            heard = texts::heard(&mut self.beside) => Event::Heard(heard),
            () = moment::reached(self.held) => Event::Begin,
        }
    }
}

async fn heard(predecessor: &mut Option<Ear>) -> News {
    match predecessor {
        Some(ear) => ear.next().await,
        None => std::future::pending().await,
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

/// Health of endpoints and acknowledgements change without an event; the world follows at this pace.
const LOOK: Duration = Duration::from_secs(1);
/// Settings of the kernel change without an event, and seldom.
const KERNEL: Duration = Duration::from_secs(30);
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
    program: Program,
    upgrade: upgrade::Upgrade,
    /// While there is an edged before this one.
    succession: Option<take_over::Succession>,
    parts: take_over::Parts,
    inbox: Inbox,
    logging: Logging,
    /// How much is logged of what.
    levels: Arc<Levels>,
    notifier: Notifier,
    store: Store,
    watcher: Watcher,
    proxy: Proxy,
    telemetry: Telemetry,
    certs: Certs,
    /// Told to who orders certificates.
    roads: Roads,
    fleet: Fleet,
    /// Keys of TLS sessions, which outlive generations.
    tickets: Tickets,
    addresses: Addresses,
    resolver: Resolver,
    reach: Reach,
    announcer: Announcer,
    /// Beats as long as events are taken.
    pulse: Pulse,
    gate: Gate,
    /// On the way out, by command or because edged stops.
    leaving: Option<leave::Leaving>,
    /// What an operator says of endpoints.
    holds: Arc<Holds>,
    /// Hosts that an operator has closed.
    closed: maintenance::Closed,
    /// Once this edged is the one of its machine.
    history: Option<Keeper>,
    /// Where revisions are read.
    revisions: Folder,
    /// At a revision, by command.
    held: Option<Holding>,
    /// Why the next configuration is taken into force, and who asked for it.
    cause: (Cause, Option<String>),
    kubernetes: Option<Kubernetes>,
    /// What is said in the API.
    reporting: Option<Reporting>,
    saver: Option<Saver>,
    worlds: watch::Sender<Arc<World>>,
    /// Ends the control API when it is dropped.
    stop_api: watch::Sender<bool>,
    api: Option<std::thread::JoinHandle<()>>,
    dashboard: Dashboard,
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
    /// Of `edge.toml`, as it is in force.
    portion: Arc<str>,
    keys: Keys,
    problems: Arc<[Problem]>,
    compiled: Arc<Compiled>,
    compiler: Compiler,
    generation: u64,
    since: SystemTime,
    table: Arc<CertTable>,
    tls: Arc<TlsTable>,
    /// Texts that policies name.
    secrets: Arc<Secrets>,
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
    /// How each VIP stands with the network.
    stances: BTreeMap<IpAddr, Stance>,
    /// The last time that the guard withdrew everything.
    undone: u64,
    /// Settings of the kernel that are in the way, and when they are looked at again.
    kernel: (Vec<String>, Instant),
    failed_sockets: BTreeMap<(SocketAddr, Transport), String>,
    tls_reasons: Vec<String>,
    /// Where challenges cannot be answered, and why.
    unheard: Vec<String>,
    store_notices: Vec<String>,
    /// Of those whom policies ask.
    authorities: Told,
    /// When `edge.toml` was read without a fault last.
    sources_good: Option<SystemTime>,
    sources_error: Option<String>,
    /// When the last good objects of the API server that serve were written; `None`: they are from the API server.
    restored: Option<SystemTime>,
    /// Since when changes leave memory behind that nobody uses.
    untidy_since: Option<Instant>,
    text_forgotten: Option<Instant>,
}

impl Supervisor {
    /// Takes events until one says to stop; then drains, and undoes what only makes sense while edged runs.
    async fn run(mut self) {
        loop {
            self.report_readiness();
            match self.inbox.next().await {
                Event::Upgrade(is_forced, reply) => self.upgrade(is_forced, reply).await,
                Event::Successor(successor) => {
                    if let Some(relief) = self.relieve(successor).await {
                        return self.hand_over(relief).await;
                    }
                }
                Event::Predecessor(news) => {
                    if !self.take_news(news).await {
                        return;
                    }
                }
                Event::Reload(cause, by, reply) => {
                    let answer = self.reload(cause, by).await;
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
                Event::Heard(heard) => self.take_heard(heard).await,
                Event::Begin => self.begin().await,
                Event::Drain(reply) => {
                    let answer = self.drain().await;
                    // Whoever asked may be gone by now.
                    let _ = reply.send(answer);
                }
                Event::Undrain(reply) => {
                    let answer = self.undrain().await;
                    let _ = reply.send(answer);
                }
                Event::Hold(ask, reply) => {
                    let answer = self.hold(ask).await;
                    let _ = reply.send(answer);
                }
                Event::Close(ask, reply) => {
                    let answer = self.close(ask).await;
                    let _ = reply.send(answer);
                }
                Event::Levels(ask, reply) => {
                    let answer = self.set_levels(ask);
                    let _ = reply.send(answer);
                }
                Event::Roll(ask, by, reply) => {
                    let answer = self.roll(ask, by).await;
                    let _ = reply.send(answer);
                }
                Event::Certificate(command) => self.certs.door().send(command),
                Event::Network => self.show(),
                Event::Due => {
                    self.step_out();
                    self.lapse_holds().await;
                    self.lapse_closures().await;
                    self.lapse_pin().await;
                    self.show();
                }
                Event::Look => {
                    self.lapse_levels();
                    self.look();
                }
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

    async fn stop(mut self) {
        let deadline = self.wanted.settings.proxy.drain_timeout;
        tracing::info!(connections = self.proxy.connections(), "draining");
        self.tell(self.notifier.stopping(self.announcer.patience() + deadline + Duration::from_secs(5)));
        self.leave_for_good(deadline).await;

        let mut kept = self.kept();
        if let Some(reporting) = self.reporting {
            let leadership = reporting.leadership();
            reporting.stop().await;
            kept.tenure = leadership.tenure();
        }
        drop(self.kubernetes);
        if let Some(saver) = self.saver {
            saver.stop(&self.wanted.cluster, kept);
        }
        self.proxy.drain(deadline).await;
        self.announcer.stop().await;
        self.addresses.stop().await;
        self.proxy.stop();
        // Whatever still holds a generation is not waited for.
        self.telemetry.stop();
        self.reach.stop().await;
        drop(self.fleet);
        drop(self.certs);
        drop(self.dashboard);
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
