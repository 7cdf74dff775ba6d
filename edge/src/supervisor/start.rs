//! From a path to a running daemon. Everything that can fail at the start fails here, before a socket is open.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use edge_config::Compiler;
use edge_config::problem::Severity;
use edge_config::settings::{AccessLog, IoBackend, Settings};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::cluster::{Cluster, Files, Saver};
use super::{HELD_BEYOND, Inbox, LOOK, Seen, Serving, StartError, Supervisor, signals};
use crate::certs::{Certs, CertsSettings};
use crate::control::api::{self, Api, Sockets};
use crate::control::world::{self, World};
use crate::kubernetes::{Kubernetes, Reporting, last_good};
use crate::logging::Logging;
use crate::notify::Notifier;
use crate::proxy::filters::session::Tokens;
use crate::proxy::generation::Generation;
use crate::proxy::io::Backend;
use crate::proxy::limits::Limits;
use crate::proxy::{Proxy, ProxyOptions, access_log, metrics};
use crate::reach::Reach;
use crate::resolve::Resolver;
use crate::source::{self, Keys, Watcher};
use crate::store::Store;
use crate::vip::Addresses;

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
    let opened = Store::open(&settings.state_directory);
    for notice in &opened.notices {
        tracing::warn!("store: {notice}");
    }
    let store = opened.store;
    let edge = host_name();

    let (worlds, commands, handle) = world::channels(World::empty(&edge, started));
    let sockets = Sockets::bind(&settings.control.socket, settings.control.metrics)?;
    let (resolved, resolver_inbox) = mpsc::channel(64);
    let (changed, files) = mpsc::channel(1);
    let watcher = Watcher::start(changed).map_err(StartError::Watch)?;
    let (signal, signal_inbox) = mpsc::channel(8);
    signals::watch(signal).map_err(StartError::Signals)?;

    let (publish, certificates) = mpsc::unbounded_channel();
    let certs_settings = CertsSettings { internal_ca: settings.certificates.internal_ca.clone() };
    let certs = Certs::start(store.clone(), certs_settings, move |published| {
        // The supervisor is gone only when the daemon stops.
        let _ = publish.send(published);
    })
    .map_err(StartError::Certificates)?;
    let addresses = Addresses::start(store.clone());
    let reach = Reach::start();

    let proxy = start_proxy(&settings, &store)?;
    let workers = proxy.metrics().to_vec();
    let dropped = proxy.log().map(access_log::AccessLog::dropped_counter);
    let mut api_server = None;
    let mut cluster = Cluster::default();
    let mut restored = None;
    let mut store_notices = opened.notices;
    let mut saver = None;
    if let Some(kubernetes) = &settings.kubernetes {
        let found = last_good::read(&settings.state_directory);
        for notice in found.notices {
            tracing::warn!("kubernetes: {notice}");
            store_notices.push(notice);
        }
        cluster = Cluster::of(&found.objects);
        restored = found.written.filter(|_| cluster.is_known);
        saver = Some(Saver::start(&settings.state_directory).map_err(StartError::Kubernetes)?);
        api_server = Some(Kubernetes::start(kubernetes, found.objects).map_err(StartError::Kubernetes)?);
    }
    let (kubernetes, changes) = api_server.unzip();
    let reporting = match (&kubernetes, &settings.kubernetes) {
        (Some(kubernetes), Some(settings)) if settings.write_status => {
            Some(Reporting::start(kubernetes, &handle.world, settings, &edge))
        }
        _ => None,
    };
    let written = reporting.as_ref().map(Reporting::counters);
    let metrics = Arc::new(move |text: &mut metrics::Text| {
        metrics::write(&workers, dropped.as_ref().map_or(0, |dropped| dropped()), text);
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
        certs,
        addresses,
        resolver: Resolver::new(resolved),
        reach,
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
            keys: Keys::new(),
            problems: Arc::new([]),
            compiled: Arc::default(),
            compiler: Compiler::default(),
            generation: 0,
            since: started,
            table: Arc::default(),
            tls: Arc::default(),
        },
        seen: Seen {
            started,
            edge,
            certs: Arc::default(),
            certs_applied: 0,
            addresses: Arc::default(),
            resolved: BTreeMap::new(),
            reach: Arc::default(),
            failed_sockets: BTreeMap::new(),
            tls_reasons: Vec::new(),
            store_notices,
            sources_good: Some(started),
            sources_error: None,
            restored,
            untidy_since: None,
        },
    })
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
        limits: Limits::of(&settings.proxy),
    };
    Ok(Proxy::start(options, first)?)
}

/// What this edge calls itself in status.
fn host_name() -> Box<str> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "edge".into() } else { name.trim().into() }
}
