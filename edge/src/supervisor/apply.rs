//! From what the sources say to what the workers serve.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use edge_config::core::ServiceType;
use edge_config::inputs::{Inputs, Meta};
use edge_config::names::{Kind, ObjectRef};
use edge_config::problem::{Problem, Severity};
use edge_config::settings::Settings;
use edge_config::snapshot::Transport;
use tokio::time::Instant;

use super::cluster::{Files, Joined};
use super::endpoints::names;
use super::rollback::Holding;
use super::{CERTIFICATES_PATIENCE, DISK_PATIENCE, LIVE_PATIENCE, Serving, Supervisor};
use crate::certs;
use crate::control::world::Reloaded;
use crate::history::{Bounds, Cause};
use crate::kubernetes::{Changes, SOURCE};
use crate::memory;
use crate::proxy::challenges::responders;
use crate::proxy::generation::Generation;
use crate::proxy::limits::Limits;
use crate::proxy::tls::table::{TlsSubject, tls_table};
use crate::source::{self, Loaded};
use crate::vip::AddressesObserved;

/// How long what changes left behind is kept for the next ones.
const TIDY: Duration = Duration::from_secs(5);
/// The least time until the program's text is taken out of the page table again.
const FORGET: Duration = Duration::from_secs(600);

impl Supervisor {
    /// The first generation: like a reload, but there is nothing to compare with.
    pub(super) async fn first(&mut self, loaded: Loaded) {
        self.take_files(loaded);
        if self.inbox.held.is_some() {
            // Half of what there is would be worse than a moment of nothing.
            tracing::info!("waiting for the API server");
            self.show();
            return;
        }
        self.begin().await;
    }

    /// Publishes the first generation.
    pub(super) async fn begin(&mut self) {
        self.inbox.held = None;
        self.settle().await;
        memory::give_back();
        self.seen.untidy_since = Some(Instant::now());
        let status = self.status_line();
        tracing::info!("{status}");
        self.tell(self.notifier.ready(&status));
    }

    /// Reads everything again and serves what came out of it. An error: edge.toml is refused, and what it names is read
    /// by the settings before it.
    pub(super) async fn reload(&mut self, cause: Cause, by: Option<String>) -> Result<Reloaded, String> {
        self.tell(self.notifier.reloading());
        self.cause = (cause.clone(), by.clone());
        let before = self.wanted.generation;
        let began = Instant::now();
        let loaded = source::load(&self.config, &mut self.wanted.cache);
        let read = began.elapsed();
        self.take_files(loaded);
        if self.inbox.held.is_none() {
            self.settle().await;
        }
        if self.wanted.generation != before {
            let (read, total) = (read.as_secs_f64() * 1e3, began.elapsed().as_secs_f64() * 1e3);
            tracing::info!(read_ms = read, total_ms = total, "{}", self.status_line());
        }
        memory::give_back();
        let status = self.status_line();
        self.tell(self.notifier.ready(&status));
        if let Some(reason) = &self.seen.sources_error {
            self.note_refused(cause, by, reason);
            return Err(format!("{reason}; the settings before it stay in force"));
        }
        Ok(Reloaded {
            generation: self.wanted.generation,
            changed: self.wanted.generation != before,
            errors: self.count(Severity::Error),
            warnings: self.count(Severity::Warning),
        })
    }

    /// Problems of what is in force.
    pub(super) fn count(&self, severity: Severity) -> u32 {
        let problems = self.wanted.problems.iter().chain(&self.wanted.compiled.report.problems);
        u32::try_from(problems.filter(|problem| problem.severity == severity).count()).unwrap_or(u32::MAX)
    }

    pub(super) fn take_files(&mut self, loaded: Loaded) {
        self.note_source(&loaded);
        self.watcher.set(&loaded.watched);
        let Loaded { inputs, keys, problems, portion, .. } = loaded;
        self.wanted.files = Files { inputs, keys, problems, portion };
        self.name_secrets();
    }

    /// Takes what the API server says now.
    pub(super) async fn take_cluster(&mut self, changes: Changes) {
        let began = Instant::now();
        let count = changes.objects.len();
        let only_endpoints = self.wanted.cluster.take(changes);
        self.seen.restored = None;
        if let Some(saver) = &mut self.saver
            && count > 0
        {
            saver.note();
        }
        if self.inbox.held.is_some() {
            self.begin().await;
        } else if only_endpoints {
            self.move_endpoints();
        } else {
            self.cause = (Cause::Kubernetes, None);
            self.settle().await;
        }
        // Each generation leaves the one before it behind.
        self.seen.untidy_since.get_or_insert(began);
        let total = began.elapsed().as_secs_f64() * 1e3;
        tracing::debug!(target: "edge::kubernetes", objects = count, total_ms = total, "kubernetes: changes");
    }

    /// Addresses that objects show are looked at when something else changes, too. By themselves they count only where
    /// they are others than those that this edge has given out: what it wrote itself is no news.
    pub(super) async fn take_published(&mut self) {
        let Some(kubernetes) = self.kubernetes.as_ref().filter(|_| self.inbox.held.is_none()) else { return };
        let published = kubernetes.mirror().published(announced(&self.wanted.inputs));
        let Serving { inputs, compiled, .. } = &self.wanted;
        let is_news = published.iter().any(|(object, addresses)| {
            let given = compiled.report.objects.get(object).map(|report| &*report.addresses);
            let is_elsewhere = given.is_some_and(|given| addresses.iter().any(|address| !given.contains(address)));
            is_elsewhere && inputs.published.get(object) != Some(addresses)
        });
        if is_news {
            self.settle().await;
        }
    }

    /// Decides what is served now, from all sources, and serves it.
    pub(super) async fn settle(&mut self) {
        let mut clock = Stopwatch::start();
        let joined = match &self.kubernetes {
            Some(_) => self.wanted.cluster.join(&self.wanted.files),
            // Nothing to put them together with, now or later.
            None => std::mem::take(&mut self.wanted.files).into(),
        };
        let Joined { mut inputs, keys, mut problems, mut portion } = joined;
        inputs.assigned = self.store.assignments();
        if let Some(held) = &mut self.held {
            (inputs, portion) = held.over(inputs, portion);
            problems.push(held.problem());
        }
        self.tell_problems(&problems);
        let settings = Arc::clone(&inputs.settings);
        if let Some(kubernetes) = &self.kubernetes {
            inputs.published = kubernetes.mirror().published(announced(&inputs));
            inputs.cert_manager = kubernetes.coexistence().borrow().cert_manager;
        }
        // After a SIGHUP the watch tells of the same change once more, and then there is nothing to compile.
        if self.wanted.generation > 0
            && inputs.is_identical(&self.wanted.inputs)
            && keys.is_same(&self.wanted.keys)
            && *problems == *self.wanted.problems
            && self.seen.failed_sockets.is_empty()
        {
            self.wanted.portion = portion;
            self.cause = (Cause::Kubernetes, None);
            self.show();
            return;
        }
        let inputs = Arc::new(inputs);
        clock.lap("join_ms");
        let compiled = self.wanted.compiler.compile(&inputs);
        clock.lap("compile_ms");
        // An address is given out for good: it must be remembered before anybody sees it.
        let assigned = match &self.held {
            Some(held) => held.with_waiting(&compiled.assigned, &self.store.assignments()),
            None => compiled.assigned.clone(),
        };
        if assigned != inputs.assigned {
            self.remember_assignments(assigned).await;
        }
        let settings_before = std::mem::replace(&mut self.wanted.settings, settings);
        self.apply_settings(&settings_before);
        let settings = &self.wanted.settings;

        let unchanged = self.wanted.generation > 0
            && keys.is_same(&self.wanted.keys)
            // The compiler gives an equal one back as the same.
            && Arc::ptr_eq(&compiled.snapshot, &self.wanted.compiled.snapshot)
            && compiled.endpoints == self.wanted.compiled.endpoints
            && settings_before.proxy == settings.proxy
            && settings_before.vips == settings.vips
            && settings_before.tracing == settings.tracing
            && settings_before.certificates == settings.certificates;
        self.wanted.inputs = inputs;
        self.wanted.portion = portion;
        self.wanted.keys = keys;
        self.wanted.problems = problems.into();
        self.wanted.compiled = Arc::new(compiled);
        self.tell_reach();
        if unchanged && self.seen.failed_sockets.is_empty() {
            self.note_applied();
            self.show();
            return;
        }

        clock.lap("compare_ms");
        let snapshot = &self.wanted.compiled.snapshot;
        // What an election decides about is added by whoever wins it.
        let elected: BTreeSet<_> = snapshot.announce.l2.iter().flat_map(|group| &group.vips).copied().collect();
        let all = snapshot.vips.iter().map(|vip| vip.address);
        let vips: BTreeSet<_> = all.filter(|address| !elected.contains(address)).collect();
        self.seen.addresses = self.addresses.set(&self.wanted.settings.vips, vips).await;
        self.resolver.set(&names(&self.wanted.compiled.endpoints));
        self.name_secrets();
        self.name_texts();
        let ticket = self.certs.set(self.certs_wanted());
        self.wait_for_certificates(ticket).await;

        clock.lap("actors_ms");
        self.wanted.generation += 1;
        self.wanted.since = SystemTime::now();
        self.seen.kernel.1 = Instant::now();
        self.publish();
        clock.lap("publish_ms");
        // The answer to a reload is the truth: it is given when the workers serve what it says.
        let live = self.proxy.until_live(self.wanted.generation);
        if tokio::time::timeout(LIVE_PATIENCE, live).await.is_err() {
            tracing::warn!(generation = self.wanted.generation, "not every worker serves it yet");
        }
        clock.lap("live_ms");
        self.note_applied();
        self.proxy.forget();
        self.show();
        clock.lap("show_ms");
        tracing::debug!(generation = self.wanted.generation, "settled: {clock}");
    }

    /// A disk that hangs holds this up for a moment, not for good: serving goes before remembering.
    async fn remember_assignments(&self, assigned: BTreeMap<ObjectRef, Vec<IpAddr>>) {
        let store = self.store.clone();
        let write = tokio::task::spawn_blocking(move || store.put_assignments(&assigned));
        match tokio::time::timeout(DISK_PATIENCE, write).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "VIP assignments"),
            Ok(Err(error)) => tracing::error!(%error, "VIP assignments"),
            Err(_) => tracing::warn!("VIP assignments are not on disk yet: it does not answer"),
        }
    }

    /// What can change while the daemon runs does; the rest says that it needs a restart.
    fn apply_settings(&mut self, before: &Settings) {
        self.configure_levels();
        let now = &self.wanted.settings;
        if before.tracing != now.tracing {
            self.telemetry.set(now.tracing.as_ref());
        }
        // Whoever takes over answers when the predecessor does not any more.
        if self.api.is_some() {
            self.dashboard.set(now.dashboard.as_ref());
        }
        if before.history != now.history
            && let Some(history) = &self.history
        {
            history.bound(Bounds::of(&now.history, self.held.as_ref().map(Holding::revision)));
        }
        let fixed = [
            ("[state] directory", before.state_directory != now.state_directory),
            ("[state] key_file", before.state_key_file != now.state_key_file),
            ("[proxy] workers", before.proxy.workers != now.proxy.workers),
            ("[proxy] io", before.proxy.io != now.proxy.io),
            ("[access_log] path", before.access_log != now.access_log),
            ("[log] format", before.log.format != now.log.format),
            ("[control]", before.control != now.control),
            ("[kubernetes]", before.kubernetes != now.kubernetes),
            ("[fleet]", before.fleet != now.fleet),
        ];
        for (key, changed) in fixed {
            if changed {
                tracing::warn!("edge.toml: {key} changed: it takes effect at the next start");
            }
        }
    }

    fn note_source(&mut self, loaded: &Loaded) {
        let first = loaded.problems.iter().find(|problem| problem.severity == Severity::Error);
        let error = (!loaded.settings_are_sound)
            .then(|| first.map_or_else(|| "edge.toml cannot be used".to_owned(), |problem| problem.to_string()));
        if error.is_none() {
            self.seen.sources_good = Some(SystemTime::now());
        }
        self.seen.sources_error = error;
    }

    /// A fault that stays is in the status; the log tells of it once.
    fn tell_problems(&self, now: &[Problem]) {
        let known: HashSet<&Problem> = self.wanted.problems.iter().collect();
        for problem in now.iter().filter(|problem| !known.contains(problem)) {
            match problem.severity {
                Severity::Error => tracing::error!("{problem}"),
                Severity::Warning => tracing::warn!("{problem}"),
                Severity::Inert => tracing::debug!("{problem}"),
            }
        }
    }

    /// Waits until every listener has a certificate or its placeholder, and no longer than users would.
    async fn wait_for_certificates(&mut self, ticket: u64) {
        let deadline = Instant::now() + CERTIFICATES_PATIENCE;
        while self.seen.certs_applied < ticket {
            match tokio::time::timeout_at(deadline, self.inbox.certificates.recv()).await {
                Ok(Some(published)) => self.note_certificates(&published),
                Ok(None) | Err(_) => {
                    tracing::warn!("certificates are late; their listeners follow when they are there");
                    return;
                }
            }
        }
    }

    fn note_certificates(&mut self, published: &certs::Published) {
        self.seen.certs_applied = published.applied;
        self.seen.certs = Arc::clone(&published.observed);
        self.wanted.table = Arc::clone(&published.table);
        if let Some(kubernetes) = &self.kubernetes {
            kubernetes.offer(Arc::clone(&published.offers));
        }
    }

    pub(super) fn take_certificates(&mut self, published: certs::Published) {
        let is_news = !self.wanted.table.is_same(&published.table);
        self.note_certificates(&published);
        if is_news {
            self.publish();
        }
        self.show();
    }

    pub(super) fn take_addresses(&mut self, observed: Arc<AddressesObserved>) {
        if self.seen.addresses != observed {
            self.seen.addresses = observed;
            // An address that came back can be bound again.
            if !self.seen.failed_sockets.is_empty() {
                self.publish();
            }
            self.show();
        }
    }

    pub(super) fn look(&mut self) {
        self.pulse.beat();
        self.look_at_kernel();
        self.proxy.forget();
        let kept = self.kept();
        if let Some(saver) = &mut self.saver {
            saver.look(&self.wanted.cluster, kept);
        }
        if self.seen.untidy_since.is_some_and(|since| since.elapsed() >= TIDY) {
            self.seen.untidy_since = None;
            memory::give_back();
            if self.seen.text_forgotten.is_none_or(|last| last.elapsed() >= FORGET) {
                self.seen.text_forgotten = Some(Instant::now());
                memory::forget_text();
            }
        }
        if !self.seen.failed_sockets.is_empty() {
            self.publish();
        }
        self.show();
        // A worker that never moves again keeps every VIP withdrawn: then systemd's remedy is the right one.
        let stands_still = self.announcer.observed().guard.failing.is_some();
        if self.notifier.watchdog_interval().is_some() && !stands_still {
            self.tell(self.notifier.alive());
        }
    }

    /// Hands the current generation with everything that belongs to it to the workers.
    pub(super) fn publish(&mut self) {
        if self.wanted.generation == 0 {
            return;
        }
        self.refresh_secrets();
        let snapshot = &self.wanted.compiled.snapshot;
        let records = self.wanted.settings.proxy.tls_records;
        let (table, reasons) = tls_table(snapshot, &self.wanted.table, records, &self.tickets, Some(&self.wanted.tls));
        self.wanted.tls = Arc::new(table);
        self.seen.tls_reasons = reasons
            .into_iter()
            .map(|reason| match reason.subject {
                TlsSubject::Listener(id) => match snapshot.listeners.get(id.index()) {
                    Some(listener) => format!("{} listener {}: {}", listener.parent, listener.name, reason.text),
                    None => reason.text,
                },
                TlsSubject::Upstream(id) => match snapshot.upstreams.get(id.index()) {
                    Some(upstream) => format!("{} {}: {}", upstream.key.object.kind, upstream.key, reason.text),
                    None => reason.text,
                },
                TlsSubject::Trust(id) => match snapshot.trust.get(id.index()) {
                    Some(trust) => format!("CA certificates of {}: {}", trust.source, reason.text),
                    None => reason.text,
                },
                TlsSubject::SystemTrust => format!("the system's CA certificates: {}", reason.text),
            })
            .collect();
        let responders: Arc<[SocketAddr]> = match self.wanted.settings.certificates.http01_responder {
            true => responders(&self.wanted.compiled.snapshot).into(),
            false => Arc::default(),
        };
        let generation = Generation {
            number: self.wanted.generation,
            snapshot: Arc::clone(&self.wanted.compiled.snapshot),
            endpoints: Arc::new(self.reached_endpoints()),
            tls: Arc::clone(&self.wanted.tls),
            secrets: Arc::clone(&self.wanted.secrets),
            limits: Limits::of(&self.wanted.settings.proxy),
            responders: Arc::clone(&responders),
            maintenance: self.closed.table.clone(),
            tracer: self.telemetry.tracer(),
        };
        let failures = self.proxy.publish(generation);
        let (failures, unheard): (Vec<_>, Vec<_>) = failures
            .into_iter()
            .partition(|failure| failure.transport != Transport::Tcp || !responders.contains(&failure.address));
        // Nobody asked for these sockets by name; they are tried again when something else changes.
        self.seen.unheard = unheard
            .into_iter()
            .map(|failure| format!("challenges of http-01 are not answered on {}: {}", failure.address, failure.error))
            .collect();
        let failed: BTreeMap<_, _> = failures
            .into_iter()
            .map(|failure| ((failure.address, failure.transport), failure.error.to_string()))
            .collect();
        for ((address, _), reason) in &failed {
            if self.seen.failed_sockets.values().all(|known| known != reason) {
                tracing::error!(%address, "cannot listen: {reason}");
            }
        }
        self.seen.failed_sockets = failed;
    }
}

/// The objects of the API server whose status shows addresses.
fn announced(inputs: &Inputs) -> Vec<ObjectRef> {
    let is_read = |meta: &Meta| &*meta.origin.file == SOURCE;
    let gateways = inputs.gateways.values().filter(|gateway| is_read(&gateway.meta));
    let services = inputs.services.values();
    let services = services.filter(|service| service.spec.kind == ServiceType::LoadBalancer && is_read(&service.meta));
    let gateways = gateways.map(|gateway| ObjectRef::new(Kind::Gateway, gateway.meta.key.clone()));
    gateways.chain(services.map(|service| ObjectRef::new(Kind::Service, service.meta.key.clone()))).collect()
}

/// What each step of a change took, for the log.
struct Stopwatch {
    last: Instant,
    laps: Vec<(&'static str, Duration)>,
}

impl Stopwatch {
    fn start() -> Self {
        Self { last: Instant::now(), laps: Vec::with_capacity(8) }
    }

    fn lap(&mut self, name: &'static str) {
        let now = Instant::now();
        self.laps.push((name, now - self.last));
        self.last = now;
    }
}

impl fmt::Display for Stopwatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, time) in &self.laps {
            write!(f, "{separator}{name} {:.1}", time.as_secs_f64() * 1e3)?;
            separator = ", ";
        }
        Ok(())
    }
}
