//! From a path to a running daemon. Everything that can fail at the start fails here, before a socket is open.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use edge_config::Compiler;
use edge_config::problem::Severity;
use edge_config::settings::{AccessLog, IoBackend, Settings};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::cluster::{Cluster, Files, Kept};
use super::leave::Leaving;
use super::rollback;
use super::take_over::{Parts, Succession};
use super::texts::Beside;
use super::upgrade::Upgrade;
use super::{HELD_BEYOND, Inbox, LOOK, Seen, Serving, StartError, Supervisor, signals};
use crate::certs::edges::Orders;
use crate::certs::ordering::Means;
use crate::certs::{Certs, CertsSettings, Published};
use crate::control::api::{Api, Sights, Sockets};
use crate::control::fleet::Witnessed;
use crate::control::world::{self, World};
use crate::dashboard::{self, Dashboard};
use crate::fleet::{self, Fleet, Who, Witness};
use crate::handover::Program;
use crate::handover::message::{FromSuccessor, Standing};
use crate::handover::predecessor::Predecessor;
use crate::history::{Cause, Folder};
use crate::kubernetes::{Counters, Kubernetes, Leadership, last_good};
use crate::logging::Logging;
use crate::logging::levels::Levels;
use crate::notify::Notifier;
use crate::proxy::authorities::trouble::Told;
use crate::proxy::filters::session::Tokens;
use crate::proxy::generation::Generation;
use crate::proxy::h3::steering;
use crate::proxy::io::Backend;
use crate::proxy::limits::Limits;
use crate::proxy::listening::HandedSocket;
use crate::proxy::tls::tickets::Tickets;
use crate::proxy::{Proxy, ProxyOptions, access_log, metrics};
use crate::pulse::{Pulse, Vitals};
use crate::reach::Reach;
use crate::resolve::Resolver;
use crate::source::{self, Keys, Watcher};
use crate::store::{Sealing, Store};
use crate::telemetry::Telemetry;
use crate::vip::Addresses;
use crate::vip::announcer::{Announcer, Begin};
use crate::vip::gate::{Gate, Now};
use crate::vip::road::Roads;

/// Runs the daemon until it is told to stop, or has handed over. With `takes_over` it takes the place of one that runs.
pub fn run(config: &Path, takes_over: bool) -> Result<(), StartError> {
    let started = SystemTime::now();
    let program = Program::of_this_process().map_err(StartError::Program)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Runtime)?;
    let predecessor = match takes_over {
        true => Some(runtime.block_on(Predecessor::meet())?),
        false => None,
    };
    let speech = predecessor.as_ref().map(Predecessor::speech);
    let ended = runtime.block_on(serve(config, started, program, predecessor));
    if let (Err(error), Some(speech)) = (&ended, speech) {
        // It prints what it is told; the whole story is in the log of this process.
        speech.say(&FromSuccessor::Refused(error.to_string()));
    }
    ended
}

async fn serve(
    config: &Path,
    started: SystemTime,
    program: Program,
    predecessor: Option<Predecessor>,
) -> Result<(), StartError> {
    let mut cache = source::Cache::default();
    let loaded = source::load(config, &mut cache);
    if !loaded.settings_are_sound {
        let faults = loaded.problems.into_iter().filter(|problem| problem.severity == Severity::Error);
        return Err(StartError::Configuration(faults.collect()));
    }
    let logging = Logging::install(&loaded.settings.log);
    let beginning = Beginning { config, started, cache, program, predecessor };
    let mut supervisor = open(beginning, Arc::clone(&loaded.settings), logging)?;
    supervisor.first(loaded).await;
    supervisor.run().await;
    Ok(())
}

struct Beginning<'a> {
    config: &'a Path,
    started: SystemTime,
    cache: source::Cache,
    program: Program,
    predecessor: Option<Predecessor>,
}

/// Starts every part, serving nothing yet.
fn open(beginning: Beginning<'_>, settings: Arc<Settings>, logging: Logging) -> Result<Supervisor, StartError> {
    let Beginning { config, started, cache, program, predecessor } = beginning;
    let notifier = Notifier::from_environment().unwrap_or_else(|error| {
        tracing::warn!(%error, "systemd cannot be told anything");
        Notifier::silent()
    });
    // systemd does not listen to a process that is not the main one.
    let (notifier, later) = match &predecessor {
        Some(_) => (Notifier::silent(), Some(notifier)),
        None => (notifier, None),
    };
    let opened = match &predecessor {
        Some(_) => Store::beside(&settings.state_directory, sealing(&settings)),
        None => Store::open_sealed(&settings.state_directory, sealing(&settings)),
    };
    for notice in &opened.notices {
        tracing::warn!(target: "edge::store", "store: {notice}");
    }
    let store = opened.store;
    // A source has put the name of the host there where nobody said one.
    let edge: Box<str> = settings.edge.name.as_deref().unwrap_or("edge").into();

    let (worlds, commands, handle) = world::channels(World::empty(&edge, started));
    let (mut handed, mut offered, mut succession, mut ear) = (None, None, None, None);
    let mut begin = Begin::Anew;
    let mut standing = Standing::default();
    if let Some(predecessor) = predecessor {
        let (told, awaited) = oneshot::channel();
        let (watches, entrusted) = oneshot::channel();
        begin = Begin::After(awaited, watches);
        succession = Some(Succession::new(&predecessor, told, entrusted));
        ear = Some(predecessor.ear());
        standing = predecessor.standing;
        handed = Some(predecessor.sockets);
        offered = Some(predecessor.control);
    }
    let (socket, metrics_address) = (&settings.control.socket, settings.control.metrics);
    let sockets = match offered {
        Some(offered) => Sockets::adopt(offered, socket, metrics_address)?,
        None => Sockets::bind(socket, metrics_address)?,
    };
    let spare = sockets.spare()?;
    let (resolved, resolver_inbox) = mpsc::channel(64);
    let (changed, files) = mpsc::channel(1);
    let watcher = Watcher::start(changed).map_err(StartError::Watch)?;
    let (signal, signal_inbox) = mpsc::channel(8);
    signals::watch(signal).map_err(StartError::Signals)?;

    let network = Arc::new(Notify::new());
    let tickets = Tickets::random();
    let leadership = Arc::new(OnceLock::new());
    let who = who_decides(&settings, &leadership);
    let mut start_fleet = fleet::Start {
        settings: settings.fleet.clone(),
        name: edge.to_string(),
        who,
        tickets: tickets.clone(),
        store: store.clone(),
        changed: Arc::clone(&network),
    };
    if succession.is_some() {
        // The others speak with the predecessor until it has let go, and it orders.
        start_fleet.settings = None;
        start_fleet.who = Who::Lease(Arc::new(|| Orders::Unknown("the edged before this one still orders".to_owned())));
    }
    let fleet = Fleet::start(start_fleet).map_err(StartError::Fleet)?;

    let telemetry = Telemetry::start(settings.tracing.as_ref());
    let proxy = start_proxy(&settings, &store, handed)?;
    fleet.count(Arc::clone(proxy.ledger()));
    let roads = Roads::default();
    let means = Means { board: Arc::clone(proxy.board()), edges: fleet.edges(), roads: Arc::clone(&roads) };
    let (publish, certificates) = mpsc::unbounded_channel();
    let certs = start_certs(&settings, &store, means, &publish).map_err(StartError::Certificates)?;
    fleet.attach(Arc::new(certs.door()));
    let (addresses, reach) = match &succession {
        Some(_) => (Addresses::start_beside(store.clone()), Reach::start(Some(standing.way))),
        None => (Addresses::start(store.clone()), Reach::start(None)),
    };
    let leaving = store.drained_since().map(Leaving::resumed);
    let holds = Arc::new(store.holds());
    let closed = super::maintenance::Closed::of(store.closures());

    let revisions = Folder::new(&settings.state_directory);
    let (held, lost_hold) = match rollback::resume(&store, &revisions) {
        Ok(held) => (held, None),
        Err(notice) => (None, Some(notice)),
    };

    if leaving.is_some() {
        tracing::warn!("drained, as it was told before the restart: nothing is announced until edgectl undrain");
        proxy.leave(true);
    }
    let pulse = Pulse::default();
    let vitals = Vitals { supervisor: pulse.clone(), workers: proxy.pulses().to_vec() };
    let announcer = Announcer::start(run_directory(&settings), vitals.clone(), begin, Arc::clone(&network))
        .map_err(StartError::Network)?;
    let workers = proxy.metrics().to_vec();
    let sights = Sights::new(Arc::clone(logging.ring()), Arc::clone(proxy.taps()), &workers);
    let checks = Arc::clone(proxy.checks());
    let authorities = Arc::clone(proxy.authorities());
    let spans = telemetry.metrics();
    let dropped = proxy.log().map(access_log::AccessLog::dropped_counter);
    let mut api_server = None;
    let mut cluster = Cluster::default();
    let mut restored = None;
    let mut store_notices = opened.notices;
    store_notices.extend(lost_hold);
    let kept = Kept::read(&store);
    if let Some(kubernetes) = &settings.kubernetes {
        let found = last_good::read(&settings.state_directory);
        for notice in found.notices {
            tracing::warn!(target: "edge::kubernetes", "kubernetes: {notice}");
            store_notices.push(notice);
        }
        cluster = Cluster::of(&found.objects);
        restored = found.written.filter(|_| cluster.is_known);
        api_server = Some(
            Kubernetes::start(kubernetes, found.objects, Arc::clone(&kept.texts)).map_err(StartError::Kubernetes)?,
        );
    }
    let (kubernetes, changes) = api_server.unzip();
    let written: Arc<OnceLock<Arc<Counters>>> = Arc::default();
    let counted = Arc::clone(&written);
    let metrics = Arc::new(move |text: &mut metrics::Text| {
        metrics::write(&workers, dropped.as_ref().map_or(0, |dropped| dropped()), text);
        checks.write(text);
        spans(text);
        authorities.tally.write(&authorities.known(), text);
        if let Some(written) = counted.get() {
            written.write(text);
        }
    });
    let dashboard = Dashboard::new(dashboard::Sources {
        worlds: handle.world.clone(),
        workers: proxy.metrics().to_vec(),
        store: store.clone(),
        edge: (&*edge).into(),
    });
    let (stop_api, _) = watch::channel(false);
    let witness: Arc<dyn Witness> = Arc::new(Witnessed::new(handle.world.clone()));
    fleet.witness(Arc::clone(&witness));
    let api = Api { handle, metrics, revisions: revisions.clone(), fleet: fleet.survey(), witness, sights };
    // Whoever has nothing to serve yet waits for the API server.
    let patience = settings.kubernetes.as_ref().filter(|_| !cluster.is_known).map(|kubernetes| kubernetes.sync_timeout);

    let (successors, successors_inbox) = mpsc::channel(1);
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let inbox = Inbox {
        signals: signal_inbox,
        successors: successors_inbox,
        predecessor: ear,
        files,
        commands,
        certificates,
        addresses: addresses.observed(),
        resolved: resolver_inbox,
        reach: reach.observed(),
        cluster: changes,
        moves: kubernetes.as_ref().map(|kubernetes| kubernetes.mirror().moves()),
        beside: kubernetes.as_ref().map(Beside::of),
        network: Arc::clone(&network),
        due: None,
        held: patience.map(|patience| Instant::now() + patience + HELD_BEYOND),
        look,
    };
    let gate = resumed_gate(standing);
    let takes_over = succession.is_some();
    let mut supervisor = Supervisor {
        config: config.to_owned(),
        program,
        upgrade: Upgrade::new(successors),
        succession,
        parts: Parts {
            publish,
            api,
            sockets: Some(sockets),
            spare,
            leadership,
            written,
            vitals,
            network,
            notifier: later,
        },
        inbox,
        logging,
        levels: Arc::new(Levels::of(settings.log.level)),
        notifier,
        store,
        watcher,
        proxy,
        telemetry,
        certs,
        roads,
        fleet,
        tickets,
        addresses,
        resolver: Resolver::new(resolved),
        reach,
        announcer,
        pulse,
        gate,
        leaving,
        holds,
        closed,
        history: None,
        revisions,
        held,
        cause: (Cause::Start, None),
        kubernetes,
        reporting: None,
        saver: None,
        worlds,
        stop_api,
        api: None,
        dashboard,
        wanted: Serving {
            cache,
            files: Files::default(),
            cluster,
            settings,
            inputs: Arc::default(),
            portion: "".into(),
            keys: Keys::default(),
            problems: Arc::new([]),
            compiled: Arc::default(),
            compiler: Compiler::default(),
            generation: 0,
            since: started,
            table: Arc::default(),
            tls: Arc::default(),
            secrets: Arc::default(),
        },
        seen: Seen {
            started,
            edge,
            certs: Arc::default(),
            certs_applied: 0,
            addresses: Arc::default(),
            resolved: BTreeMap::new(),
            reach: Arc::default(),
            stances: BTreeMap::new(),
            undone: 0,
            kernel: (Vec::new(), Instant::now()),
            failed_sockets: BTreeMap::new(),
            tls_reasons: Vec::new(),
            unheard: Vec::new(),
            store_notices,
            authorities: Told::default(),
            sources_good: Some(started),
            sources_error: None,
            restored,
            untidy_since: None,
            text_forgotten: None,
        },
    };
    if !takes_over {
        supervisor.start_writing()?;
        supervisor.start_answering()?;
    }
    Ok(supervisor)
}

/// What is held down goes on to be; the rest is judged as if it had never failed.
fn resumed_gate(standing: Standing) -> Gate {
    let held = standing.held.into_iter();
    let held = held.map(|(address, left, after)| (address, Duration::from_millis(left), after)).collect();
    Gate::resume(held, Now::of_clocks())
}

/// What seals keys in the store.
pub(super) fn sealing(settings: &Settings) -> Sealing {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    Sealing::find(settings.state_key_file.as_deref(), credentials.as_deref())
}

pub(super) fn start_certs(
    settings: &Settings,
    store: &Store,
    means: Means,
    publish: &mpsc::UnboundedSender<Published>,
) -> std::io::Result<Certs> {
    let certs_settings = CertsSettings { internal_ca: settings.certificates.internal_ca.clone() };
    let publish = publish.clone();
    Certs::start(store.clone(), certs_settings, means, move |published| {
        // The supervisor is gone only when the daemon stops.
        let _ = publish.send(published);
    })
}

/// Edges that keep Leases follow them: what the API server says is one answer for all of a group.
pub(super) fn who_decides(settings: &Settings, leadership: &Arc<OnceLock<Leadership>>) -> Who {
    let keeps_leases = settings.kubernetes.as_ref().is_some_and(|kubernetes| kubernetes.write_status);
    let leadership = Arc::clone(leadership);
    match keeps_leases {
        false => Who::Votes,
        true => Who::Lease(Arc::new(move || match leadership.get() {
            Some(leadership) => leadership.orders(),
            None => Orders::Unknown("the Lease is not read yet".to_owned()),
        })),
    }
}

fn start_proxy(settings: &Settings, store: &Store, handed: Option<Vec<HandedSocket>>) -> Result<Proxy, StartError> {
    let (secret, error) = store.session_secret();
    if let Some(error) = error {
        tracing::warn!(%error, "sessions end with this process");
    }
    let destination = match &settings.access_log {
        AccessLog::Off => None,
        AccessLog::Stdout => Some(access_log::Destination::Stdout),
        AccessLog::File(path) => Some(access_log::Destination::File(path.clone())),
    };
    let options = ProxyOptions {
        workers: usize::from(settings.proxy.workers),
        backend: match settings.proxy.io {
            IoBackend::Auto => None,
            IoBackend::IoUring => Some(Backend::Uring),
            IoBackend::Epoll => Some(Backend::Epoll),
        },
        keys: steering::Keys::new(secret.bytes()),
        tokens: Tokens::new(secret.bytes()).expect("a key of 32 bytes is long enough for HMAC-SHA-256"),
        log: destination.map(access_log::AccessLog::start).transpose()?,
        handed,
    };
    let first = Generation {
        number: 0,
        snapshot: Arc::default(),
        endpoints: Arc::default(),
        tls: Arc::default(),
        secrets: Arc::default(),
        limits: Limits::of(&settings.proxy),
        responders: Arc::default(),
        maintenance: None,
        tracer: None,
    };
    Ok(Proxy::start(options, first)?)
}

/// Where sockets between Edge's own processes are: beside the control socket.
pub(super) fn run_directory(settings: &Settings) -> PathBuf {
    let beside = settings.control.socket.parent().unwrap_or(Path::new("."));
    // Others than edged are told of it. An error: there is no working directory any more, and nothing better to say.
    std::path::absolute(beside).unwrap_or_else(|_| beside.to_owned())
}
