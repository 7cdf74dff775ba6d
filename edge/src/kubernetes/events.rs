//! Events on objects for faults that their owners must see.
//!
//! In: new faults, as the status writer finds them. Out: events.k8s.io/v1 Events. The same fault of the same object
//! within [`SERIES`] is one Event whose series counts on, written at most once per [`COUNT_AGAIN`]; each object and all
//! together have a budget; what is over it is dropped, for the status holds the same. Losing an Event costs nothing else.
//!
//! Standards: events.k8s.io/v1 (KEP-383: series, lengths).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use edge_config::names::{Kind, ObjectRef};
use foldhash::{HashMap, HashMapExt};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::calls::{self, CallError, Place};
use super::client::Api;
use super::lease::micro_time;
use super::status::faults::Fault;
use super::watch::SourceState;

/// A fault that comes back within this time goes on with its Event.
const SERIES: Duration = Duration::from_secs(3600);
/// How often the count of a series is written.
const COUNT_AGAIN: Duration = Duration::from_secs(360);
/// New Events of one object within [`SERIES`].
const MOST_OF_ONE: u32 = 20;
/// New Events of all objects at once, and how fast the budget comes back.
const BURST: f64 = 50.0;
const RATE: f64 = 2.0;
/// Faults that are remembered.
const MOST_KNOWN: usize = 4096;
/// "Maximal length of the note is 1kB".
const LONGEST_NOTE: usize = 1024;
const LONGEST_NAME: usize = 128;

const API: &str = "apis/events.k8s.io/v1";

/// Something to tell of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Told {
    pub object: ObjectRef,
    pub uid: Box<str>,
    pub fault: Fault,
}

/// What to write.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Create {
        name: String,
    },
    /// The series of an Event that is there has so many occurrences now.
    Count {
        name: String,
        count: u32,
    },
}

/// Which faults were told, and how often. Pure but for the numbers in names.
struct Memory {
    known: HashMap<Told, Known>,
    order: VecDeque<Told>,
    budget: f64,
    at: Instant,
    /// By object: since when, and how many.
    spent: HashMap<ObjectRef, (Instant, u32)>,
    serial: u64,
    dropped: u64,
}

struct Known {
    name: String,
    count: u32,
    seen: Instant,
    written: Instant,
}

impl Memory {
    fn new(now: Instant, serial: u64) -> Self {
        let spent = HashMap::new();
        Self { known: HashMap::new(), order: VecDeque::new(), budget: BURST, at: now, spent, serial, dropped: 0 }
    }

    fn note(&mut self, told: &Told, now: Instant) -> Option<Action> {
        if let Some(known) = self.known.get_mut(told).filter(|known| now < known.seen + SERIES) {
            known.count = known.count.saturating_add(1);
            known.seen = now;
            if now < known.written + COUNT_AGAIN {
                return None;
            }
            known.written = now;
            return Some(Action::Count { name: known.name.clone(), count: known.count });
        }
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.budget = (self.budget + passed * RATE).min(BURST);
        self.at = now;
        self.spent.retain(|_, (since, _)| now < *since + SERIES);
        let (_, spent) = self.spent.entry(told.object.clone()).or_insert((now, 0));
        if self.budget < 1.0 || *spent >= MOST_OF_ONE {
            self.dropped += 1;
            return None;
        }
        self.budget -= 1.0;
        *spent += 1;
        self.serial += 1;
        let name = event_name(&told.object, self.serial);
        if self.known.remove(told).is_none() {
            self.order.push_back(told.clone());
        }
        while self.order.len() > MOST_KNOWN {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
        self.known.insert(told.clone(), Known { name: name.clone(), count: 1, seen: now, written: now });
        Some(Action::Create { name })
    }

    /// The Event is not there, or was never made.
    fn forget(&mut self, told: &Told) {
        self.known.remove(told);
        self.order.retain(|known| known != told);
    }
}

/// A name that is unique in time; the object's is cut so that the whole is at most 253 characters long.
fn event_name(object: &ObjectRef, serial: u64) -> String {
    let cut: String = object.key.name.chars().take(253 - 17).collect();
    format!("{}.{serial:016x}", cut.trim_end_matches(['.', '-']))
}

/// Who tells.
pub struct Teller {
    pub api: Api,
    pub source: watch::Receiver<Arc<SourceState>>,
    pub inbox: mpsc::Receiver<Told>,
    /// The name of this edge.
    pub edge: String,
    pub stop: watch::Receiver<bool>,
}

impl Teller {
    pub async fn run(mut self) {
        let start = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let serial = u64::try_from(start.as_nanos()).unwrap_or_default();
        let mut memory = Memory::new(Instant::now(), serial);
        let mut stop = self.stop.clone();
        loop {
            let told = tokio::select! {
                told = self.inbox.recv() => told,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let Some(told) = told else { return };
            let Some(action) = memory.note(&told, Instant::now()) else { continue };
            if let Err(error) = self.carry_out(&told, action).await {
                memory.forget(&told);
                tracing::debug!("Event on {}: {error}", told.object);
            }
        }
    }

    async fn carry_out(&self, told: &Told, action: Action) -> Result<(), CallError> {
        let now = micro_time(SystemTime::now());
        let namespace = namespace(&told.object);
        match action {
            Action::Create { name } => {
                let version = self.source.borrow().version(told.object.kind);
                let body = event(told, &name, &now, version, &self.edge);
                calls::create(&self.api, &Place::new(API, "events", namespace, ""), &body).await.map(drop)
            }
            Action::Count { name, count } => {
                let body = json!({"series": {"count": count, "lastObservedTime": now}});
                calls::merge(&self.api, &Place::new(API, "events", namespace, &name), &body).await.map(drop)
            }
        }
    }
}

/// Events about cluster-scoped objects live in `default`.
fn namespace(object: &ObjectRef) -> &str {
    if object.key.namespace.is_empty() { "default" } else { &object.key.namespace }
}

fn event(told: &Told, name: &str, now: &str, version: &str, edge: &str) -> Value {
    let Told { object, uid, fault } = told;
    let group = object.kind.group();
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let mut regarding =
        json!({"apiVersion": api_version, "kind": object.kind.as_str(), "name": &*object.key.name, "uid": uid});
    if !object.key.namespace.is_empty() {
        regarding["namespace"] = (&*object.key.namespace).into();
    }
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": namespace(object)},
        "eventTime": now,
        "type": if fault.is_notice { "Normal" } else { "Warning" },
        "reason": cut(&fault.reason, LONGEST_NAME),
        "action": action(object.kind),
        "note": cut(&fault.note, LONGEST_NOTE),
        "regarding": regarding,
        "reportingController": "edge.internal/edged",
        "reportingInstance": cut(edge, LONGEST_NAME),
    })
}

/// What failed, in one word.
fn action(kind: Kind) -> &'static str {
    match kind {
        Kind::GatewayClass => "Claim",
        Kind::Gateway | Kind::ListenerSet => "Program",
        Kind::Service => "Assign",
        Kind::Secret | Kind::Certificate | Kind::Issuer | Kind::ClusterIssuer => "Issue",
        _ => "Attach",
    }
}

fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use edge_config::names::ObjectKey;

    use super::*;

    fn told(name: &str, reason: &str) -> Told {
        let fault = Fault { reason: reason.into(), note: "why".into(), is_notice: false };
        Told { object: ObjectRef::new(Kind::HTTPRoute, ObjectKey::new("ns", name)), uid: "u".into(), fault }
    }

    #[test]
    fn one_fault_is_one_event() {
        let start = Instant::now();
        let mut memory = Memory::new(start, 0);
        let minutes = |count: u64| start + Duration::from_secs(60 * count);
        let Some(Action::Create { name }) = memory.note(&told("a", "X"), start) else { unreachable!("it is new") };
        for (minute, expected) in [
            (0, None),
            (1, None),
            (6, Some(Action::Count { name: name.clone(), count: 4 })),
            (7, None),
            (66, Some(Action::Count { name: name.clone(), count: 6 })),
            (127, Some(Action::Create { name: "a.0000000000000002".into() })),
        ] {
            assert_eq!(memory.note(&told("a", "X"), minutes(minute)), expected, "minute {minute}");
        }
        assert!(matches!(memory.note(&told("a", "Y"), minutes(127)), Some(Action::Create { .. })));
    }

    #[test]
    fn budgets_hold() {
        let start = Instant::now();
        let mut memory = Memory::new(start, 0);
        let created = |memory: &mut Memory, name: &str, count: u32, at: Instant| {
            (0..count).filter(|n| memory.note(&told(name, &format!("R{n}")), at).is_some()).count()
        };
        assert_eq!(created(&mut memory, "a", 100, start), 20, "of one object");
        assert_eq!(created(&mut memory, "b", 100, start), 20);
        assert_eq!(created(&mut memory, "c", 100, start), 10, "of all");
        assert_eq!(created(&mut memory, "d", 100, start + Duration::from_secs(5)), 10);
        assert_eq!(memory.dropped, 80 + 80 + 90 + 90);
        for n in 0..10_000u64 {
            memory.note(&told(&n.to_string(), "X"), start + Duration::from_secs(n));
        }
        assert!(memory.known.len() <= MOST_KNOWN && memory.order.len() <= MOST_KNOWN);
    }

    #[test]
    fn names_and_bodies_are_within_the_bounds() {
        let long = told(&"a.".repeat(126), "X");
        let name = event_name(&long.object, u64::MAX);
        assert!(name.len() <= 253, "{}", name.len());
        let mut long = long;
        long.fault.note = "é".repeat(3000);
        let body = event(&long, &name, "2026-01-01T00:00:00.000000Z", "v1", "edge");
        assert_eq!(body["note"].as_str().unwrap().len(), 1024);
        assert_eq!(body["regarding"]["apiVersion"], "gateway.networking.k8s.io/v1");
    }
}
