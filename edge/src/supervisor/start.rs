//! From a path to a running daemon. Everything that can fail at the start fails here, before a socket is open.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use edge_config::Compiler;
use edge_config::problem::Severity;
use edge_config::settings::{AccessLog, IoBackend, Settings};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::cluster::{Cluster, Files, Kept, Saver};
use super::leave::Leaving;
use super::texts::Beside;
use super::{HELD_BEYOND, Inbox, LOOK, Seen, Serving, StartError, Supervisor, signals};
use crate::certs::edges::Orders;
use crate::certs::ordering::Means;
use crate::certs::{Certs, CertsSettings};
use crate::control::api::{self, Api, Sockets};
use crate::control::world::{self, World};
use crate::fleet::{self, Fleet, Who};
use crate::kubernetes::{Kubernetes, Leadership, Reporting, last_good};
use crate::logging::Logging;
use crate::notify::Notifier;
use crate::proxy::authorities::trouble::Told;
use crate::proxy::filters::session::Tokens;
use crate::proxy::generation::Generation;
use crate::proxy::io::Backend;
use crate::proxy::limits::Limits;
use crate::proxy::tls::tickets::Tickets;
use crate::proxy::{Proxy, ProxyOptions, access_log, metrics};
use crate::pulse::{Pulse, Vitals};
use crate::reach::Reach;
use crate::resolve::Resolver;
use crate::source::{self, Keys, Watcher};
use crate::store::{Sealing, Store};
use crate::telemetry::Telemetry;
use crate::vip::Addresses;
use crate::vip::announcer::Announcer;
use crate::vip::gate::Gate;
use crate::vip::road::Roads;

/// Runs the daemon until it is told to stop.
pub fn run(config: &Path) -> Result<(), StartError> {
    let started = SystemTime::now();
    let mut cache = source::Cache::default();
    let loaded = source::load(config, &mut cache);
    if !loaded.settings_are_sound {
        let faults = loaded.problems.into_iter().filter(|problem| problem.severity == Severity::Error);
        return Err(StartError::Configuration(faults.collect()));
    }
    let logging = Logging::install(&loaded.settings.log);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Runtime)?;
    runtime.block_on(async {
        let mut supervisor = open(config, started, cache, Arc::clone(&loaded.settings), logging)?;
        supervisor.first(loaded).await;
        supervisor.run().await;
        Ok(())
    })
}

/// Starts every part, serving nothing yet.
fn open(
    config: &Path,
    started: SystemTime,
    cache: source::Cache,
    settings: Arc<Settings>,
    logging: Logging,
) -> Result<Supervisor, StartError> {
    let notifier = Notifier::from_environment().unwrap_or_else(|error| {
        tracing::warn!(%error, "systemd cannot be told anything");
        Notifier::silent()
    });
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let sealing = Sealing::find(settings.state_key_file.as_deref(), credentials.as_deref());
    let opened = Store::open_sealed(&settings.state_directory, sealing);
    for notice in &opened.notices {
        tracing::warn!("store: {notice}");
    }
    let store = opened.store;
    // A source has put the name of the host there where nobody said one.
    let edge: Box<str> = settings.edge.name.as_deref().unwrap_or("edge").into();

    let (worlds, commands, handle) = world::channels(World::empty(&edge, started));
    let sockets = Sockets::bind(&settings.control.socket, settings.control.metrics)?;
    let (resolved, resolver_inbox) = mpsc::channel(64);
    let (changed, files) = mpsc::channel(1);
    let watcher = Watcher::start(changed).map_err(StartError::Watch)?;
    let (signal, signal_inbox) = mpsc::channel(8);
    signals::watch(signal).map_err(StartError::Signals)?;

    let network = Arc::new(Notify::new());
    let tickets = Tickets::random();
    let leadership = Arc::new(OnceLock::new());
    let fleet = Fleet::start(fleet::Start {
        settings: settings.fleet.clone(),
        name: edge.to_string(),
        who: who_decides(&settings, &leadership),
        tickets: tickets.clone(),
        store: store.clone(),
        changed: Arc::clone(&network),
    })
    .map_err(StartError::Fleet)?;

    let telemetry = Telemetry::start(settings.tracing.as_ref());
    let proxy = start_proxy(&settings, &store)?;
    fleet.count(Arc::clone(proxy.ledger()));
    let roads = Roads::default();
    let means = Means { board: Arc::clone(proxy.board()), edges: fleet.edges(), roads: Arc::clone(&roads) };
    let (publish, certificates) = mpsc::unbounded_channel();
    let certs_settings = CertsSettings { internal_ca: settings.certificates.internal_ca.clone() };
    let certs = Certs::start(store.clone(), certs_settings, means, move |published| {
        // The supervisor is gone only when the daemon stops.
        let _ = publish.send(published);
    })
    .map_err(StartError::Certificates)?;
    fleet.attach(Arc::new(certs.door()));
    let addresses = Addresses::start(store.clone());
    let reach = Reach::start();
    let leaving = store.drained_since().map(Leaving::resumed);
    let holds = Arc::new(store.holds());
    let closed = super::maintenance::Closed::of(store.closures());

    if leaving.is_some() {
        tracing::warn!("drained, as it was told before the restart: nothing is announced until edgectl undrain");
        proxy.leave(true);
    }
    let pulse = Pulse::default();
    let vitals = Vitals { supervisor: pulse.clone(), workers: proxy.pulses().to_vec() };
    let announcer =
        Announcer::start(run_directory(&settings), vitals, Arc::clone(&network)).map_err(StartError::Network)?;
    let workers = proxy.metrics().to_vec();
    let checks = Arc::clone(proxy.checks());
    let authorities = Arc::clone(proxy.authorities());
    let spans = telemetry.metrics();
    let dropped = proxy.log().map(access_log::AccessLog::dropped_counter);
    let mut api_server = None;
    let mut cluster = Cluster::default();
    let mut restored = None;
    let mut store_notices = opened.notices;
    let mut saver = None;
    let kept = Kept::read(&store);
    if let Some(kubernetes) = &settings.kubernetes {
        let found = last_good::read(&settings.state_directory);
        for notice in found.notices {
            tracing::warn!("kubernetes: {notice}");
            store_notices.push(notice);
        }
        cluster = Cluster::of(&found.objects);
        restored = found.written.filter(|_| cluster.is_known);
        saver =
            Some(Saver::start(&settings.state_directory, store.clone(), kept.clone()).map_err(StartError::Kubernetes)?);
        api_server = Some(
            Kubernetes::start(kubernetes, found.objects, Arc::clone(&kept.texts)).map_err(StartError::Kubernetes)?,
        );
    }
    let (kubernetes, changes) = api_server.unzip();
    let reporting = match (&kubernetes, &settings.kubernetes) {
        (Some(kubernetes), Some(settings)) if settings.write_status => {
            Some(Reporting::start(kubernetes, &handle.world, settings, &edge, kept.tenure))
        }
        _ => None,
    };
    if let Some(reporting) = &reporting {
        // It is set once, here.
        let _ = leadership.set(reporting.leadership());
    }
    let written = reporting.as_ref().map(Reporting::counters);
    let metrics = Arc::new(move |text: &mut metrics::Text| {
        metrics::write(&workers, dropped.as_ref().map_or(0, |dropped| dropped()), text);
        checks.write(text);
        spans(text);
        authorities.tally.write(&authorities.known(), text);
        if let Some(written) = &written {
            written.write(text);
        }
    });
    let (stop_api, stopped) = watch::channel(false);
    let api = api::start(Api { handle, metrics }, sockets, stopped)?;
    // Whoever has nothing to serve yet waits for the API server.
    let patience = settings.kubernetes.as_ref().filter(|_| !cluster.is_known).map(|kubernetes| kubernetes.sync_timeout);

    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let inbox = Inbox {
        signals: signal_inbox,
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
    Ok(Supervisor {
        config: config.to_owned(),
        inbox,
        logging,
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
        gate: Gate::default(),
        leaving,
        holds,
        closed,
        kubernetes,
        reporting,
        saver,
        worlds,
        stop_api,
        api: Some(api),
        wanted: Serving {
            cache,
            files: Files::default(),
            cluster,
            settings,
            inputs: Arc::default(),
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
    })
}

/// Edges that keep Leases follow them: what the API server says is one answer for all of a group.
fn who_decides(settings: &Settings, leadership: &Arc<OnceLock<Leadership>>) -> Who {
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

fn start_proxy(settings: &Settings, store: &Store) -> Result<Proxy, StartError> {
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
        tokens: Tokens::new(secret.bytes()).expect("a key of 32 bytes is long enough for HMAC-SHA-256"),
        log: destination.map(access_log::AccessLog::start).transpose()?,
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
fn run_directory(settings: &Settings) -> PathBuf {
    let beside = settings.control.socket.parent().unwrap_or(Path::new("."));
    // Others than edged are told of it. An error: there is no working directory any more, and nothing better to say.
    std::path::absolute(beside).unwrap_or_else(|_| beside.to_owned())
}
