//! Writing status back to the Kubernetes API.
//!
//! In: the supervisor's worlds, the [`Mirror`] of the watches, what other edges say of themselves. Out: merge
//! patches of the status subresource, each with the resource version it was computed from as its precondition, so that
//! what others write meanwhile is never lost (`parents` of routes is an atomic list and knows no better way). One edge
//! of a group writes; all edges' acknowledgements count. It decides nothing about configuration.
//!
//! [`merge`] one object's status · [`balancer`] that of a Service · [`certificates`] those of cert-manager's kinds · [`alarms`] what of
//! certificates is in Events alone · [`fleet`] several edges · [`pace`] how fast · [`desk`] what next · here: the I/O.

pub mod alarms;
pub mod balancer;
pub mod certificates;
pub mod counters;
pub mod desk;
pub mod faults;
pub mod fleet;
pub mod merge;
pub mod pace;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::stream::{FuturesUnordered, StreamExt};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::calls::{self, CallError, Place};
use super::client::Api;
use super::events::Told;
use super::leadership::View;
use super::mirror::{Mirror, OWN_ANNOTATIONS, Seen, StatusText};
use super::watch::SourceState;
use crate::control::world::World;
use crate::moment;
use counters::{Counters, Outcome};
use desk::{Desk, Job, Next};
use fleet::Acknowledgement;
use pace::Failure;

/// Writes under way at a time.
const AT_ONCE: usize = 16;
const TIDY: Duration = Duration::from_secs(60);

/// What the writer is connected to.
pub struct Writer {
    pub api: Api,
    pub mirror: Mirror,
    pub source: watch::Receiver<Arc<SourceState>>,
    pub worlds: watch::Receiver<Arc<World>>,
    /// Who writes, and who else is there.
    pub view: watch::Receiver<View>,
    /// What this edge says of itself.
    pub said: watch::Sender<Acknowledgement>,
    /// Faults that users must see; a full queue drops them.
    pub events: mpsc::Sender<Told>,
    pub counters: Arc<Counters>,
    pub stop: watch::Receiver<bool>,
}

/// How a write ended, and what the API holds now where it was asked.
struct Done {
    job: Box<Job>,
    result: Result<Seen, CallError>,
    /// After a conflict.
    fresh: Option<Result<Seen, CallError>>,
}

impl Writer {
    /// Writes until it is told to stop. Writes under way are given up then: each is whole or not there.
    pub async fn run(mut self) {
        let mut desk = Desk::new(self.mirror.clone(), Instant::now());
        let mut under_way = FuturesUnordered::new();
        let mut is_writer = false;
        let mut tidy = tokio::time::interval(TIDY);
        let mut stop = self.stop.clone();
        let mut changes = self.mirror.changes();
        let mut is_open = false;
        desk.note_world(self.worlds.borrow_and_update().clone(), SystemTime::now(), Instant::now());
        loop {
            let now = Instant::now();
            desk.note_mirror(now);
            if !is_open && self.source.borrow_and_update().is_complete {
                is_open = true;
                desk.open();
            }
            let said = desk.acknowledgement();
            self.said.send_if_modified(|known| {
                let is_new = *known != said;
                if is_new {
                    *known = said;
                }
                is_new
            });
            let until = self.view.borrow().writer_until.filter(|until| *until > now);
            if until.is_some() && !is_writer {
                tracing::info!("this edge writes status");
                desk.take_over(now);
            } else if until.is_none() && is_writer {
                tracing::info!("this edge writes status no longer");
            }
            is_writer = until.is_some();
            self.counters.note(is_writer, desk.backlog());
            let mut wake = until;
            while is_writer && under_way.len() < AT_ONCE {
                match desk.next(&seconds(SystemTime::now()), now) {
                    Next::Write(job) => {
                        let version = self.source.borrow().version(job.object.kind);
                        let place = Place::of(job.object.kind, version, &job.object.key);
                        under_way.push(write(self.api.clone(), place, job));
                    }
                    Next::Tell(told) => self.tell(told),
                    Next::Wait(at) => {
                        wake = [wake, at].into_iter().flatten().min();
                        break;
                    }
                }
            }
            tokio::select! {
                changed = self.worlds.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let world = self.worlds.borrow_and_update().clone();
                    desk.note_world(world, SystemTime::now(), Instant::now());
                }
                changed = self.view.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let peers = self.view.borrow_and_update().peers.clone();
                    desk.note_peers(peers, Instant::now());
                }
                Ok(()) = changes.changed() => {}
                Ok(()) = self.source.changed(), if !is_open => {}
                Some(done) = under_way.next() => self.finish(&mut desk, done),
                () = moment::reached(wake) => {}
                _ = tidy.tick() => desk.tidy(Instant::now()),
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    fn tell(&self, told: Vec<Told>) {
        for told in told {
            // Events are a courtesy: status holds the same, and edgectl more.
            let _ = self.events.try_send(told);
        }
    }

    fn finish(&self, desk: &mut Desk, done: Done) {
        let now = Instant::now();
        let Done { job, result, fresh } = done;
        let kind = job.object.kind;
        let error = match result {
            Ok(seen) => {
                self.counters.count(kind, Outcome::Written);
                if desk.written(&job, seen, now) {
                    self.counters.count(kind, Outcome::Undone);
                    tracing::warn!("status of {}: somebody else keeps changing what Edge writes", job.object);
                }
                let told = |fault: &faults::Fault| Told {
                    object: job.object.clone(),
                    uid: job.uid.clone(),
                    fault: fault.clone(),
                };
                return self.tell(job.faults.iter().map(told).collect());
            }
            Err(error) => error,
        };
        let (failure, outcome) = match &error {
            CallError::Conflict | CallError::Exists => (Failure::Conflict, Outcome::Conflict),
            CallError::NotFound => {
                self.counters.count(kind, Outcome::Gone);
                return desk.gone(&job.object);
            }
            CallError::Refused(why) => {
                tracing::warn!("status of {}: {why}", job.object);
                (Failure::Refused, Outcome::Refused)
            }
            CallError::Unavailable { after, .. } => {
                tracing::debug!("status of {}: {error}", job.object);
                (Failure::Unavailable(*after), Outcome::Unavailable)
            }
        };
        self.counters.count(kind, outcome);
        match fresh {
            Some(Ok(seen)) => desk.failed(&job.object, failure, Some(seen), now),
            Some(Err(CallError::NotFound)) => desk.gone(&job.object),
            Some(Err(_)) | None => desk.failed(&job.object, failure, None, now),
        }
    }
}

async fn write(api: Api, place: Place, job: Box<Job>) -> Done {
    let result = calls::merge(&api, &place.clone().status(), &job.patch).await.map(|answer| seen_in(&answer));
    // The watch will show it too, but not sooner.
    let fresh = match result {
        Err(CallError::Conflict) => Some(calls::get(&api, &place).await.map(|answer| seen_in(&answer))),
        _ => None,
    };
    Done { job, result, fresh }
}

/// An object as the API gives it, as far as a writer needs it.
pub fn seen_in(object: &Value) -> Seen {
    let text = |value: &Value| value.as_str().unwrap_or_default().into();
    let metadata = &object["metadata"];
    let annotation = |name: &str| metadata["annotations"][name].as_str().map(Box::from);
    Seen {
        uid: text(&metadata["uid"]),
        resource_version: text(&metadata["resourceVersion"]),
        generation: metadata["generation"].as_i64().unwrap_or_default(),
        is_leaving: metadata.get("deletionTimestamp").is_some(),
        status: match object.get("status") {
            None | Some(Value::Null) => StatusText::default(),
            Some(status) => StatusText::of(status.to_string().as_bytes()),
        },
        addresses: Seen::addresses_in(&object["status"]),
        annotations: OWN_ANNOTATIONS.map(annotation),
    }
}

/// RFC 3339, whole seconds, UTC, as `metav1.Time` is written.
pub(super) fn seconds(at: SystemTime) -> String {
    let format = time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    time::OffsetDateTime::from(at).format(format).unwrap_or_default()
}
