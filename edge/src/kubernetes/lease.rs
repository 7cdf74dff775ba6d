//! Leases: which edges are alive, what they say, and which one of them writes status.
//!
//! Each edge keeps a Lease of its own, `<group>-<edge>`, renewed while it lives, with what it serves in an annotation. One
//! more Lease, `<group>`, is held by the edge that writes. All carry the label `edge.internal/group`, so one watch shows
//! an edge everything. Nothing that carries traffic depends on any of it: without an API server nobody writes, and that
//! is all.
//!
//! Clocks of different machines are never compared: a Lease has ended when it was not seen to change for its duration,
//! by our own clock. A writer stops being one well before others may take over.
//!
//! Standards: coordination.k8s.io/v1; the rules of client-go's leader election.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::watcher::{self, Event};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::calls::{self, CallError, Place};
use super::client::Api;
use super::leadership::{Tenure, View};
use super::status::fleet::{self, Acknowledgement, Peer};
use super::texts::is_refused;

/// A Lease that was not renewed for so long is over.
const DURATION: Duration = Duration::from_secs(15);
/// Who could not renew for so long does not count on being the holder any more.
const GIVE_UP: Duration = Duration::from_secs(10);
/// How often a Lease is renewed.
const RENEW: Duration = Duration::from_secs(4);
/// After a renewal that failed.
const RETRY: Duration = Duration::from_secs(1);
/// What is acknowledged changes in bursts.
const SAY_AGAIN: Duration = Duration::from_millis(250);
/// The Lease of an edge that has been dead for so long is removed by the writer.
const BURY: Duration = Duration::from_secs(3600);
/// How long the API may take at the end of the daemon.
pub(super) const FAREWELL: Duration = Duration::from_secs(2);

const API: &str = "apis/coordination.k8s.io/v1";
const GROUP_LABEL: &str = "edge.internal/group";
const EDGE_LABEL: &str = "edge.internal/edge";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseSettings {
    pub namespace: String,
    /// Edges of one group serve the same; one of them writes for all.
    pub group: String,
    /// This edge: a DNS label.
    pub edge: String,
    /// Tells this process from an earlier or another one of the same name.
    pub instance: String,
}

/// One Lease as the watch showed it.
#[derive(Debug, Clone)]
struct Seen {
    version: String,
    holder: String,
    duration: Duration,
    transitions: i64,
    said: Acknowledgement,
    /// When we saw it change last.
    at: Instant,
}

/// What to do about a Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Create,
    /// It is ours, or over: take or renew it.
    Take,
    Wait(Instant),
}

/// The rule of the election, and of keeping one's own Lease. `renewed` is when we last wrote it.
fn step(lease: Option<&Seen>, me: &str, renewed: Option<Instant>, now: Instant) -> Step {
    let Some(lease) = lease else { return Step::Create };
    if lease.holder == me {
        // One that we held before a restart of the watch is renewed at once.
        let due = renewed.map_or(now, |at| at + RENEW);
        return if due <= now { Step::Take } else { Step::Wait(due) };
    }
    let end = lease.at + lease.duration;
    if lease.holder.is_empty() || end <= now { Step::Take } else { Step::Wait(end) }
}

struct Group {
    api: Api,
    settings: LeaseSettings,
    leases: BTreeMap<String, Seen>,
    /// The names that a running relist has shown.
    listed: Option<Vec<String>>,
    is_listed: bool,
    /// When we last wrote each Lease, and when we may try again.
    written: BTreeMap<String, Instant>,
    not_before: BTreeMap<String, Instant>,
    said: Acknowledgement,
    told: Option<Acknowledgement>,
    trouble: Option<String>,
    /// Leases whose last call failed.
    failing: BTreeSet<String>,
    tenure: Tenure,
    cut_off_since: Option<Instant>,
}

/// Keeps the Leases until `stop` says otherwise, then gives them up.
pub async fn run(
    api: Api,
    settings: LeaseSettings,
    mut said: watch::Receiver<Acknowledgement>,
    view: watch::Sender<View>,
    mut stop: watch::Receiver<bool>,
) {
    let mut group = Group {
        api,
        settings,
        leases: BTreeMap::new(),
        listed: None,
        is_listed: false,
        written: BTreeMap::new(),
        not_before: BTreeMap::new(),
        said: said.borrow_and_update().clone(),
        told: None,
        trouble: None,
        failing: BTreeSet::new(),
        tenure: view.borrow().tenure,
        cut_off_since: None,
    };
    let mut events: Option<BoxStream<'static, Result<Event<Lease>, watcher::Error>>> = None;
    let mut watch_again = Instant::now();
    loop {
        if events.is_none() && watch_again <= Instant::now() {
            events = group.watch().await;
            if events.is_none() {
                group.cut_off_since.get_or_insert_with(Instant::now);
            }
            watch_again = Instant::now() + RETRY;
        }
        let mut next = group.keep(&view).await;
        if events.is_none() {
            next = next.min(watch_again);
        }
        tokio::select! {
            event = heard(&mut events) => match event {
                Some(Ok(event)) => {
                    group.cut_off_since = None;
                    group.note(event, Instant::now());
                }
                // Started anew with the newest client: credentials may be the reason.
                Some(Err(error)) => {
                    if !is_refused(&error) {
                        group.cut_off_since.get_or_insert_with(Instant::now);
                    }
                    group.trouble = Some(format!("Leases in {}: {error}", group.settings.namespace));
                    events = None;
                    watch_again = Instant::now() + RETRY;
                }
                None => events = None,
            },
            changed = said.changed() => {
                if changed.is_err() {
                    break;
                }
                group.said = said.borrow_and_update().clone();
            }
            () = tokio::time::sleep_until(next) => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    view.send_replace(View { tenure: group.tenure, ..View::default() });
    let is_given_up = tokio::time::timeout(FAREWELL, group.leave()).await.unwrap_or_default();
    if is_given_up && group.tenure.has_others {
        // One of them has it in a moment.
        view.send_modify(|view| view.tenure.is_ours = false);
    }
}

async fn heard<S: futures_util::Stream + Unpin>(events: &mut Option<S>) -> Option<S::Item> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

impl Group {
    async fn watch(&self) -> Option<BoxStream<'static, Result<Event<Lease>, watcher::Error>>> {
        let client = tokio::time::timeout(RETRY, self.api.client()).await.ok()??;
        let leases = kube::Api::namespaced(client, &self.settings.namespace);
        let config = watcher::Config::default().labels(&format!("{GROUP_LABEL}={}", self.settings.group));
        Some(watcher::watcher(leases, config).boxed())
    }

    fn note(&mut self, event: Event<Lease>, now: Instant) {
        match event {
            Event::Init => self.listed = Some(Vec::new()),
            Event::InitApply(lease) => {
                if let (Some(listed), Some(name)) = (&mut self.listed, &lease.metadata.name) {
                    listed.push(name.clone());
                }
                self.saw(lease, now);
            }
            Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                self.leases.retain(|name, _| listed.contains(name));
                self.is_listed = true;
                self.trouble = None;
            }
            Event::Apply(lease) => self.saw(lease, now),
            Event::Delete(lease) => {
                if let Some(name) = &lease.metadata.name {
                    self.leases.remove(name);
                }
            }
        }
    }

    fn saw(&mut self, lease: Lease, now: Instant) {
        let Some(name) = lease.metadata.name else { return };
        let version = lease.metadata.resource_version.unwrap_or_default();
        if self.leases.get(&name).is_some_and(|known| known.version == version) {
            return;
        }
        let spec = lease.spec.unwrap_or_default();
        let said = lease.metadata.annotations.as_ref().and_then(|all| all.get(fleet::ANNOTATION));
        let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or_default()).unwrap_or_default();
        let seen = Seen {
            version,
            holder: spec.holder_identity.unwrap_or_default(),
            // A Lease that promises an hour must not keep a dead edge alive for an hour.
            duration: Duration::from_secs(seconds.min(60)),
            transitions: i64::from(spec.lease_transitions.unwrap_or_default()),
            said: said.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default(),
            at: now,
        };
        self.leases.insert(name, seen);
    }

    /// Does what is due, shows the result, and says when something will be due again.
    async fn keep(&mut self, view: &watch::Sender<View>) -> Instant {
        let mut next = Instant::now() + RENEW;
        if self.is_listed {
            for name in [self.own_name(), self.settings.group.clone()] {
                next = next.min(self.keep_one(&name).await);
            }
        }
        let now = Instant::now();
        let shown = self.view(now);
        // Lives end without an event.
        let ends = self.leases.values().map(|seen| seen.at + seen.duration).filter(|end| *end > now);
        next = ends.fold(next, Instant::min);
        if shown.may_write(now) {
            self.bury(now).await;
        }
        view.send_if_modified(|known| {
            let is_new = *known != shown;
            if is_new {
                *known = shown;
            }
            is_new
        });
        next
    }

    async fn keep_one(&mut self, name: &str) -> Instant {
        let now = Instant::now();
        if let Some(until) = self.not_before.get(name).filter(|until| **until > now) {
            return *until;
        }
        let is_own = name != self.settings.group;
        let renewed = self.written.get(name).copied();
        let mut what = step(self.leases.get(name), &self.settings.instance, renewed, now);
        if is_own {
            match what {
                // Nobody else has a right to a Lease with our name, but for an earlier process of this edge. One that
                // takes it from us is no earlier one.
                Step::Wait(_) if self.leases.get(name).is_some_and(|lease| lease.holder != self.settings.instance) => {
                    let again = renewed.map_or(now, |at| at + RENEW);
                    if renewed.is_some() {
                        self.trouble = Some(format!(
                            "two edges are called {}: name each with [kubernetes] edge_name",
                            self.settings.edge
                        ));
                    }
                    what = if again <= now { Step::Take } else { Step::Wait(again) };
                }
                Step::Wait(at) if self.told.as_ref() != Some(&self.said) => {
                    let soon = renewed.map_or(now, |at| at + SAY_AGAIN);
                    what = if soon <= now { Step::Take } else { Step::Wait(soon.min(at)) };
                }
                _ => {}
            }
        }
        let outcome = match what {
            Step::Wait(at) => return at,
            Step::Create => {
                let place = Place::new(API, "leases", &self.settings.namespace, "");
                calls::create(&self.api, &place, &self.body(name, is_own, None)).await
            }
            Step::Take => {
                let place = Place::new(API, "leases", &self.settings.namespace, name);
                let body = self.body(name, is_own, self.leases.get(name));
                calls::merge(&self.api, &place, &body).await
            }
        };
        let done = Instant::now();
        match outcome {
            Ok(answer) => {
                // Counted from before the call: that is when others may have seen it.
                self.written.insert(name.to_owned(), now);
                self.not_before.remove(name);
                self.failing.remove(name);
                self.cut_off_since = None;
                if is_own {
                    self.told = Some(self.said.clone());
                }
                if let Ok(lease) = serde_json::from_value::<Lease>(answer) {
                    self.saw(lease, done);
                }
                if !is_own {
                    self.trouble = None;
                }
                now + RENEW
            }
            Err(error) => {
                match error {
                    // Somebody was faster; the watch will show who.
                    CallError::Conflict | CallError::Exists => {}
                    // The watch has not told yet.
                    CallError::NotFound if what == Step::Take => drop(self.leases.remove(name)),
                    error => {
                        if matches!(error, CallError::Unavailable { .. }) {
                            self.cut_off_since.get_or_insert(now);
                        }
                        let trouble = format!("Lease {}/{name}: {error}", self.settings.namespace);
                        // Once for an outage, not once a second: two Leases fail for reasons that vary.
                        if self.failing.insert(name.to_owned()) {
                            tracing::warn!("{trouble}");
                        }
                        self.trouble = Some(trouble);
                    }
                }
                self.not_before.insert(name.to_owned(), done + RETRY);
                done + RETRY
            }
        }
    }

    fn view(&mut self, now: Instant) -> View {
        let election = self.leases.get(&self.settings.group);
        let is_ours = election.is_some_and(|lease| lease.holder == self.settings.instance);
        let alive = |seen: &Seen| seen.at + seen.duration > now && !seen.holder.is_empty();
        let own = self.own_name();
        let prefix = format!("{}-", self.settings.group);
        let others = self.leases.iter().filter(|(name, seen)| **name != own && alive(seen));
        let peers = others.filter_map(|(name, seen)| {
            Some(Peer { name: name.strip_prefix(&prefix)?.to_owned(), said: seen.said.clone() })
        });
        let mut view = View {
            writer_until: self.written.get(&self.settings.group).filter(|_| is_ours).map(|at| *at + GIVE_UP),
            writer: election.filter(|lease| alive(lease)).map(|lease| lease.holder.clone()),
            peers: peers.collect(),
            trouble: self.trouble.clone(),
            tenure: self.tenure,
            cut_off_since: self.cut_off_since,
        };
        if view.may_write(now) {
            view.tenure = Tenure { is_ours: true, has_others: !view.peers.is_empty() };
        } else if view.writer.is_some() && !is_ours {
            view.tenure = Tenure { is_ours: false, has_others: true };
        }
        self.tenure = view.tenure;
        view
    }

    /// Removes Leases of edges that have been dead for long.
    async fn bury(&mut self, now: Instant) {
        let dead = self.leases.iter().find(|(name, seen)| **name != self.settings.group && seen.at + BURY <= now);
        if let Some(name) = dead.map(|(name, _)| name.clone()) {
            let place = Place::new(API, "leases", &self.settings.namespace, &name);
            if calls::delete(&self.api, &place).await.is_ok() {
                self.leases.remove(&name);
            }
        }
    }

    /// At the end of the daemon: others need not wait. Whether it gave up the Lease of the group.
    async fn leave(&mut self) -> bool {
        let own = self.own_name();
        let place = Place::new(API, "leases", &self.settings.namespace, &own);
        if self.leases.get(&own).is_some_and(|lease| lease.holder == self.settings.instance) {
            let _ = calls::delete(&self.api, &place).await;
        }
        let Some(election) = self.leases.get(&self.settings.group) else { return false };
        if election.holder == self.settings.instance {
            let place = Place::new(API, "leases", &self.settings.namespace, &self.settings.group);
            let release = json!({
                "metadata": {"resourceVersion": election.version},
                "spec": {"holderIdentity": "", "leaseDurationSeconds": 1},
            });
            return calls::merge(&self.api, &place, &release).await.is_ok();
        }
        false
    }

    fn own_name(&self) -> String {
        format!("{}-{}", self.settings.group, self.settings.edge)
    }

    fn body(&self, name: &str, is_own: bool, known: Option<&Seen>) -> Value {
        let now = micro_time(std::time::SystemTime::now());
        let me = &self.settings.instance;
        let mut body = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": name,
                "namespace": self.settings.namespace,
                "labels": {GROUP_LABEL: self.settings.group, "app.kubernetes.io/managed-by": "edge"},
            },
            "spec": {
                "holderIdentity": me,
                "leaseDurationSeconds": DURATION.as_secs(),
                "renewTime": now,
                "leaseTransitions": known.map_or(0, |known| known.transitions + i64::from(known.holder != *me)),
            },
        });
        if let Some(known) = known {
            body["metadata"]["resourceVersion"] = known.version.as_str().into();
        }
        if known.is_none_or(|known| known.holder != *me) {
            body["spec"]["acquireTime"] = now.into();
        }
        if is_own {
            body["metadata"]["labels"][EDGE_LABEL] = self.settings.edge.as_str().into();
            let said = serde_json::to_string(&self.said).unwrap_or_default();
            body["metadata"]["annotations"] = json!({fleet::ANNOTATION: said});
        }
        body
    }
}

/// RFC 3339 with microseconds, as `metav1.MicroTime` wants it.
pub(super) fn micro_time(at: std::time::SystemTime) -> String {
    let format =
        time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    time::OffsetDateTime::from(at).format(format).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule() {
        let now = Instant::now();
        let seconds = Duration::from_secs;
        let lease = |holder: &str, ago: u64| Seen {
            version: "1".into(),
            holder: holder.into(),
            duration: DURATION,
            transitions: 0,
            said: Acknowledgement::default(),
            at: now - seconds(ago),
        };
        for (name, lease, renewed, expected) in [
            ("none", None, None, Step::Create),
            ("given up", Some(lease("", 0)), None, Step::Take),
            ("somebody's", Some(lease("b", 3)), None, Step::Wait(now + seconds(12))),
            ("over", Some(lease("b", 15)), None, Step::Take),
            ("mine", Some(lease("me", 1)), Some(now - seconds(1)), Step::Wait(now + seconds(3))),
            ("mine and due", Some(lease("me", 4)), Some(now - seconds(4)), Step::Take),
            ("mine from before", Some(lease("me", 1)), None, Step::Take),
        ] {
            assert_eq!(step(lease.as_ref(), "me", renewed, now), expected, "{name}");
        }
        assert!(RENEW + RETRY < GIVE_UP && GIVE_UP < DURATION, "a writer stops before another starts");
    }

    #[test]
    fn times_are_readable() {
        let at = std::time::UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_001);
        assert_eq!(micro_time(at), "2023-11-14T22:13:20.000001Z");
    }
}
