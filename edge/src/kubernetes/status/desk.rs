//! What is to be written next. No I/O: it takes what happened, and the time, and gives single writes out.
//!
//! In: worlds from the supervisor, objects from the [`Mirror`], what other edges say, outcomes of writes. Out: one
//! [`Job`] after the other, computed from the newest of all that at the moment it is given out, so that of several
//! states of an object only the last is ever written. It writes nothing while not everything is listed, nothing for an
//! object that the supervisor and the API do not know in the same generation, and nothing that is already so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use edge_config::inputs::Inputs;
use edge_config::names::{Kind, ObjectKey, ObjectRef};
use edge_config::report::ObjectReport;
use edge_config::settings::KubernetesSettings;
use edge_config::status;
use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::alarms;
use super::balancer;
use super::certificates;
use super::faults::{Fault, new_faults};
use super::fleet::{self, Acknowledgement, Peer, Served};
use super::merge::Author;
use super::pace::{Failure, Pace};
use crate::control::world::World;
use crate::kubernetes::SOURCE;
use crate::kubernetes::events::Told;
use crate::kubernetes::mirror::{Mirror, Seen};

/// Objects that are looked at before others have their turn on the thread, the watches among them.
const MOST_AT_ONCE: usize = 32;

/// Why an Event tells of an object whose newest version does not serve.
const LAST_GOOD: &str = "LastGoodVersionServed";

/// One write of one object's status.
#[derive(Debug)]
pub struct Job {
    pub object: ObjectRef,
    pub uid: Box<str>,
    /// A JSON merge patch for the status subresource, with the version that it was computed from as its precondition.
    pub patch: Value,
    /// What users shall be told of when it is written.
    pub faults: Vec<Fault>,
    print: u64,
}

/// What to do now.
#[derive(Debug)]
pub enum Next {
    Write(Box<Job>),
    /// Users shall be told of this, though nothing is written.
    Tell(Vec<Told>),
    /// Nothing before this moment, or before something happens.
    Wait(Option<Instant>),
}

pub struct Desk {
    mirror: Mirror,
    is_open: bool,
    world: Option<Arc<World>>,
    /// Of all edges together.
    observed: status::Observed,
    mine: status::Observed,
    served: Served,
    peers: Vec<Peer>,
    reports: HashMap<ObjectRef, Arc<ObjectReport>>,
    queue: Queue,
    in_flight: HashSet<ObjectRef>,
    pace: Pace,
    /// What was told of objects last that their status does not hold.
    told: HashMap<ObjectRef, Vec<Fault>>,
}

impl Desk {
    pub fn new(mirror: Mirror, now: Instant) -> Self {
        Self {
            mirror,
            is_open: false,
            world: None,
            observed: status::Observed::default(),
            mine: status::Observed::default(),
            served: Served::default(),
            peers: Vec::new(),
            reports: HashMap::new(),
            queue: Queue::default(),
            in_flight: HashSet::new(),
            pace: Pace::new(now),
            told: HashMap::new(),
        }
    }

    /// Everything that could be known was handed over once. Until then nothing is written: a route must not lose its
    /// entry for a Gateway that is merely not listed yet.
    pub fn open(&mut self) {
        self.is_open = true;
        if let Some(world) = &self.world {
            self.served.note(&world.compiled.report, self.mine.acknowledged, true);
        }
    }

    /// A new state of this edge.
    pub fn note_world(&mut self, world: Arc<World>, wall: SystemTime, now: Instant) {
        let is_compiled_anew = self.world.as_ref().is_none_or(|known| !Arc::ptr_eq(&known.compiled, &world.compiled));
        self.mine = world.observed.for_conditions(wall);
        let report = &world.compiled.report;
        self.served.note(report, self.mine.acknowledged, self.is_open);
        if is_compiled_anew {
            let mut gone: Vec<ObjectRef> =
                self.reports.keys().filter(|object| !report.objects.contains_key(*object)).cloned().collect();
            for object in gone.drain(..) {
                self.reports.remove(&object);
                self.told.remove(&object);
                self.queue.add(object, now);
            }
            for (object, report) in &report.objects {
                let known = self.reports.get(object);
                if known.is_none_or(|known| !Arc::ptr_eq(known, report) && known != report) {
                    self.queue.add(object.clone(), now);
                }
                if known.is_none_or(|known| !Arc::ptr_eq(known, report)) {
                    self.reports.insert(object.clone(), Arc::clone(report));
                }
            }
        }
        let before = self.world.replace(world);
        self.note_outdated(before.as_deref(), now);
        self.note_certificates(before.as_deref(), now);
        self.join(now);
    }

    /// Looks again at who says something of certificates, when something about any of them changed.
    fn note_certificates(&mut self, before: Option<&World>, now: Instant) {
        let (Some(world), Some(before)) = (&self.world, before) else { return };
        let is_same_input = Arc::ptr_eq(&world.inputs, &before.inputs)
            || (world.inputs.secrets.is_identical(&before.inputs.secrets)
                && world.inputs.cert_manager == before.inputs.cert_manager);
        let (now_seen, then) = (&world.observed, &before.observed);
        if is_same_input && now_seen.certificates == then.certificates && now_seen.acme == then.acme {
            return;
        }
        let is_concerned = |kind: Kind| certificates::is_one(kind) || matches!(kind, Kind::Gateway | Kind::ListenerSet);
        for object in self.reports.keys().filter(|object| is_concerned(object.kind)) {
            self.queue.add(object.clone(), now);
        }
    }

    /// Objects that began or ceased to be of no use, or to serve in their last good version.
    fn note_outdated(&mut self, before: Option<&World>, now: Instant) {
        let Some(world) = &self.world else { return };
        let (unusable, known) = (&world.inputs.unusable, before.map(|before| &before.inputs.unusable));
        let news = unusable.iter().filter(|(object, why)| known.is_none_or(|known| known.get(*object) != Some(*why)));
        for (object, _) in news.filter(|(object, _)| certificates::is_one(object.kind)) {
            self.queue.add(object.clone(), now);
        }
        let outdated = &world.inputs.outdated;
        let known = before.map(|before| &before.inputs.outdated);
        if known.map_or(outdated.is_empty(), |known| known == outdated) {
            return;
        }
        let ceased = known.into_iter().flatten().filter(|(object, _)| !outdated.contains_key(*object));
        let news = outdated.iter().filter(|(object, why)| known.is_none_or(|known| known.get(*object) != Some(*why)));
        for (object, _) in ceased.chain(news) {
            self.queue.add(object.clone(), now);
        }
    }

    /// What the other edges that are alive say.
    pub fn note_peers(&mut self, peers: Vec<Peer>, now: Instant) {
        if self.peers != peers {
            self.peers = peers;
            self.join(now);
        }
    }

    /// What this edge has to say to the others.
    pub fn acknowledgement(&self) -> Acknowledgement {
        fleet::acknowledgement(&self.served, &self.mine)
    }

    fn join(&mut self, now: Instant) {
        let Some(world) = &self.world else { return };
        let joined = fleet::join(self.mine.clone(), &world.compiled.report, &self.served, &self.peers);
        if joined != self.observed {
            let (old, new) = (&self.observed.troubles, &joined.troubles);
            let asked = old.keys().chain(new.keys()).filter(|policy| old.get(*policy) != new.get(*policy));
            asked.for_each(|policy| self.queue.add(policy.clone(), now));
            self.observed = joined;
            let moved = self.reports.keys().filter(|object| status::depends_on_the_world(object.kind));
            moved.for_each(|object| self.queue.add(object.clone(), now));
        }
    }

    /// Takes up what the watch saw since.
    pub fn note_mirror(&mut self, now: Instant) {
        for object in self.mirror.take_fresh() {
            self.queue.add(object, now);
        }
    }

    /// Looks at every object again: whoever wrote until now may have left anything behind.
    pub fn take_over(&mut self, now: Instant) {
        for object in self.mirror.names() {
            self.queue.add(object, now);
        }
    }

    pub fn next(&mut self, wall: &str, now: Instant) -> Next {
        let Some(world) = self.world.clone().filter(|_| self.is_open) else { return Next::Wait(None) };
        if let Some((at, _)) = self.queue.first(now) {
            if *at > now {
                return Next::Wait(Some(*at));
            }
            if let Err(at) = self.pace.is_open(now) {
                return Next::Wait(Some(at));
            }
        }
        let controllers = &world.inputs.settings.controller_names;
        let is_shared = world.inputs.settings.kubernetes.as_ref().is_some_and(reads_a_part);
        let is_known = |home: &str, reference: &Value| is_known(&world.inputs, home, reference);
        let author = Author { controllers, now: wall, others: is_shared.then_some(&is_known) };
        let observed = std::mem::take(&mut self.observed);
        let rendering = status::World::new(&world.compiled.snapshot, &observed);
        let mut late = None;
        let mut looked_at = 0;
        let found = loop {
            if looked_at >= MOST_AT_ONCE {
                late = Some(now);
                break None;
            }
            let object = match self.queue.first(now) {
                Some((at, _)) if *at > now => {
                    late = Some(*at);
                    break None;
                }
                Some((_, object)) => object.clone(),
                None => break None,
            };
            self.queue.remove(&object);
            if self.in_flight.contains(&object) {
                // It comes back when the answer is there.
                continue;
            }
            let Some(seen) = self.mirror.look(&object) else {
                self.told.remove(&object);
                continue;
            };
            if let Some(told) = self.news(&world, &object, &seen) {
                // What is to be written of it comes next.
                self.queue.add(object, now);
                self.observed = observed;
                return Next::Tell(told);
            }
            if let Err(at) = self.pace.is_due(&object, now) {
                self.queue.add(object, at);
                continue;
            }
            looked_at += 1;
            let Some(job) = self.judge(&author, &world, &rendering, &object, &seen) else { continue };
            match self.pace.leave(&object, now) {
                Ok(()) => break Some(job),
                Err(at) => self.queue.add(object, at),
            }
        };
        self.observed = observed;
        match found {
            Some(job) => {
                self.in_flight.insert(job.object.clone());
                Next::Write(Box::new(job))
            }
            None => Next::Wait(late),
        }
    }

    fn judge(
        &self,
        author: &Author<'_>,
        world: &World,
        rendering: &status::World<'_>,
        object: &ObjectRef,
        seen: &Seen,
    ) -> Option<Job> {
        if let Some(why) = world.inputs.unusable.get(object).filter(|_| !seen.is_leaving) {
            let status: Value = serde_json::from_slice(&seen.status.json()).unwrap_or_default();
            let wanted = certificates::unusable(object.kind, why, seen.generation, world)?;
            return certificate_job(author, object, seen, &status, &wanted);
        }
        // What the supervisor compiled must be what the API holds. A Service has no generation.
        let known = world.inputs.meta(object).filter(|known| &*known.origin.file == SOURCE && !seen.is_leaving)?;
        if known.generation != seen.generation && object.kind != Kind::Service {
            return None;
        }
        let status: Value = serde_json::from_slice(&seen.status.json()).unwrap_or_default();
        let report = self.reports.get(object);
        if certificates::is_one(object.kind) {
            let wanted = certificates::status(object, report?, &status, world)?;
            return certificate_job(author, object, seen, &status, &wanted);
        }
        let mut wanted = report.map(|report| rendering.status(object, report));
        if let (Some(wanted), Kind::Gateway | Kind::ListenerSet) = (&mut wanted, object.kind) {
            certificates::add_to_listeners(object, wanted, world);
        }
        let print = fingerprint(wanted.as_ref());
        let mut metadata = json!({"resourceVersion": &*seen.resource_version, "uid": &*seen.uid});
        if object.kind == Kind::Service {
            let wanted = wanted.as_ref().zip(report.map(|report| &**report));
            let changes = balancer::changes(seen, &status, wanted)?;
            if !changes.annotations.is_empty() {
                metadata["annotations"] = Value::Object(changes.annotations);
            }
            let patch = json!({"metadata": metadata, "status": changes.status});
            return Some(Job { object: object.clone(), uid: seen.uid.clone(), patch, faults: Vec::new(), print });
        }
        let changes = author.changes(object, &status, wanted.as_ref())?;
        let mut faults = new_faults(object.kind, &status, &changes, author.controllers);
        if matches!(object.kind, Kind::Gateway | Kind::ListenerSet) {
            faults.extend(alarms::created(&status, &changes));
        }
        let patch = json!({"metadata": metadata, "status": changes});
        Some(Job { object: object.clone(), uid: seen.uid.clone(), patch, faults, print })
    }

    /// What is new about an object and not in its status.
    fn news(&mut self, world: &World, object: &ObjectRef, seen: &Seen) -> Option<Vec<Told>> {
        if seen.is_leaving {
            return None;
        }
        let mut faults = match self.reports.get(object) {
            Some(report) if object.kind == Kind::Service => balancer::faults(report),
            _ => alarms::faults(object, world),
        };
        faults.extend(world.inputs.outdated.get(object).map(|outdated| Fault {
            reason: LAST_GOOD.to_owned(),
            // Without the time: the same fault again is the same Event, which has times of its own.
            note: format!("its newest version is of no use, the last good one is served: {}", outdated.reason),
            is_notice: false,
        }));
        let known = self.told.get(object).map(Vec::as_slice).unwrap_or_default();
        if faults == known {
            return None;
        }
        let news = faults.iter().filter(|fault| !known.contains(fault)).cloned();
        let told: Vec<Told> = news.map(|fault| Told { object: object.clone(), uid: seen.uid.clone(), fault }).collect();
        if faults.is_empty() {
            self.told.remove(object);
        } else {
            self.told.insert(object.clone(), faults);
        }
        (!told.is_empty()).then_some(told)
    }

    /// The API took it; `seen` is its answer. Returns whether somebody keeps writing the opposite.
    pub fn written(&mut self, job: &Job, seen: Seen, now: Instant) -> bool {
        self.in_flight.remove(&job.object);
        self.mirror.note([(job.object.clone(), Some(seen))]);
        // The answer settles it, unless something changed on the way.
        self.queue.add(job.object.clone(), now);
        self.pace.written(&job.object, job.print, now)
    }

    /// It was not written; `seen` is what the API holds now, if it was asked.
    pub fn failed(&mut self, object: &ObjectRef, failure: Failure, seen: Option<Seen>, now: Instant) {
        self.in_flight.remove(object);
        if let Some(seen) = seen {
            self.mirror.note([(object.clone(), Some(seen))]);
        }
        self.pace.failed(object, failure, now);
        self.queue.add(object.clone(), now);
    }

    /// The object is not there any more.
    pub fn gone(&mut self, object: &ObjectRef) {
        self.in_flight.remove(object);
        self.mirror.note([(object.clone(), None)]);
    }

    /// Drops what was kept for objects that are quiet.
    pub fn tidy(&mut self, now: Instant) {
        self.pace.forget(now);
    }

    pub fn backlog(&self) -> usize {
        self.queue.at.len() + self.in_flight.len()
    }
}

/// The write that makes the status of a Certificate or an Issuer what it is to be.
fn certificate_job(
    author: &Author<'_>,
    object: &ObjectRef,
    seen: &Seen,
    status: &Value,
    wanted: &Value,
) -> Option<Job> {
    let changes = author.certificate_changes(status, wanted)?;
    let faults = certificates::told(object.kind, status, &changes);
    let metadata = json!({"resourceVersion": &*seen.resource_version, "uid": &*seen.uid});
    let patch = json!({"metadata": metadata, "status": changes});
    let print = fingerprint(Some(wanted));
    Some(Job { object: object.clone(), uid: seen.uid.clone(), patch, faults, print })
}

/// Whether other edges, in a group of their own, answer for what this one does not read.
fn reads_a_part(settings: &KubernetesSettings) -> bool {
    settings.gateway_selector.is_some() || !settings.namespaces.is_empty()
}

/// Whether a parentRef or ancestorRef in an object of the namespace `home` names something that this edge reads.
fn is_known(inputs: &Inputs, home: &str, reference: &Value) -> bool {
    let text = |name: &str| reference[name].as_str();
    let kind = Kind::of(text("group").unwrap_or(Kind::Gateway.group()), text("kind").unwrap_or("Gateway"));
    let (Some(kind), Some(name)) = (kind, text("name")) else { return false };
    let key = ObjectKey::new(text("namespace").unwrap_or(home), name);
    inputs.meta(&ObjectRef::new(kind, key)).is_some()
}

/// Tells what was wanted apart from what was wanted before; times do not count.
fn fingerprint(wanted: Option<&Value>) -> u64 {
    let text = wanted.map(Value::to_string).unwrap_or_default();
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Objects and when to look at them; each is in it once, at the earliest of its times. Few objects that many wait for go
/// before many that few wait for: a Gateway must not be pending until thousands of its routes are written.
#[derive(Default)]
struct Queue {
    few: BTreeSet<(Instant, ObjectRef)>,
    many: BTreeSet<(Instant, ObjectRef)>,
    at: BTreeMap<ObjectRef, Instant>,
}

impl Queue {
    fn add(&mut self, object: ObjectRef, at: Instant) {
        if let Some(known) = self.at.get(&object).copied() {
            if known <= at {
                return;
            }
            self.lane(object.kind).remove(&(known, object.clone()));
        }
        self.at.insert(object.clone(), at);
        self.lane(object.kind).insert((at, object));
    }

    fn lane(&mut self, kind: Kind) -> &mut BTreeSet<(Instant, ObjectRef)> {
        let is_one_of_few = kind == Kind::GatewayClass || status::depends_on_the_world(kind);
        if is_one_of_few { &mut self.few } else { &mut self.many }
    }

    /// The next that is due, or else the one that is due first.
    fn first(&self, now: Instant) -> Option<&(Instant, ObjectRef)> {
        let (few, many) = (self.few.first(), self.many.first());
        match (few, many) {
            (Some(one), Some(other)) if one.0 > now && other.0 < one.0 => many,
            (Some(_), _) => few,
            (None, _) => many,
        }
    }

    fn remove(&mut self, object: &ObjectRef) {
        if let Some((object, at)) = self.at.remove_entry(object) {
            self.lane(object.kind).remove(&(at, object));
        }
    }
}

#[cfg(test)]
mod tests;
