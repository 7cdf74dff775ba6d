//! Who got how many requests, how many failed, how long they took: counted while somebody looks, by host, route, listener,
//! backend and endpoint. Each worker counts into tables of its own, whose rows are bounded; whoever looks takes them away.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use edge_config::names::ObjectRef;
use foldhash::{HashMap, HashMapExt as _};

use super::ask::host_of;
use crate::proxy::access_log::Entry;
use crate::proxy::metrics::{Buckets, Histogram};

/// Rows of one table of one worker; what has no place is counted together.
const MOST: usize = 1000;
/// The name of those.
pub const OTHERS: &str = "(others)";

/// Of one thing, since it was taken last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    pub requests: u64,
    /// Statuses of 500 and above, and what was broken off.
    pub errors: u64,
    /// Statuses of 400 to 499.
    pub refused: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Not cumulative, by [`Histogram::BOUNDS`].
    pub buckets: Buckets,
}

impl Row {
    fn count(&mut self, entry: &Entry<'_>) {
        self.requests += 1;
        match entry.status {
            500.. => self.errors += 1,
            400..500 => self.refused += 1,
            // Below HTTP there is no status: an end with a reason is one that was not meant.
            0 if entry.reason.is_some() => self.errors += 1,
            _ => {}
        }
        self.bytes_in += entry.bytes_in;
        self.bytes_out += entry.bytes_out;
        let micros = u64::try_from(entry.duration.as_micros()).unwrap_or(u64::MAX);
        self.buckets[Histogram::BOUNDS.partition_point(|(bound, _)| *bound < micros)] += 1;
    }

    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.refused += other.refused;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(sum, count)| *sum += count);
    }
}

#[derive(Debug, Default)]
struct Tables {
    all: Row,
    hosts: Table<Box<str>>,
    routes: Table<ObjectRef>,
    listeners: Table<(ObjectRef, Box<str>)>,
    backends: Table<Box<str>>,
    endpoints: Table<SocketAddr>,
}

#[derive(Debug)]
struct Table<K> {
    rows: HashMap<K, Row>,
    others: Row,
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self { rows: HashMap::new(), others: Row::default() }
    }
}

impl<K: Eq + Hash> Table<K> {
    /// A key is copied when it is new only.
    fn count<Q: Eq + Hash + ToOwned + ?Sized>(&mut self, entry: &Entry<'_>, key: &Q)
    where
        K: std::borrow::Borrow<Q>,
        Q::Owned: Into<K>,
    {
        let is_full = self.rows.len() >= MOST;
        match self.rows.get_mut(key) {
            Some(row) => row.count(entry),
            None if is_full => self.others.count(entry),
            None => self.rows.entry(key.to_owned().into()).or_default().count(entry),
        }
    }

    /// Adds the rows under their names.
    fn into(self, figures: &mut BTreeMap<String, Row>, name: impl Fn(&K) -> String) {
        for (key, row) in &self.rows {
            figures.entry(name(key)).or_default().add(row);
        }
        if self.others != Row::default() {
            figures.entry(OTHERS.to_owned()).or_default().add(&self.others);
        }
    }
}

/// What was counted, by name.
#[derive(Debug, Default)]
pub struct Figures {
    pub all: Row,
    pub hosts: BTreeMap<String, Row>,
    pub routes: BTreeMap<String, Row>,
    pub listeners: BTreeMap<String, Row>,
    pub backends: BTreeMap<String, Row>,
    pub endpoints: BTreeMap<String, Row>,
}

#[derive(Debug)]
pub struct Meter {
    /// Each is locked by its worker, and for a moment by whoever takes it away.
    workers: Vec<Mutex<Tables>>,
}

impl Meter {
    pub fn new(workers: usize) -> Self {
        Self { workers: (0..workers).map(|_| Mutex::default()).collect() }
    }

    pub(super) fn count(&self, worker: usize, entry: &Entry<'_>) {
        let Some(tables) = self.workers.get(worker) else { return };
        let mut tables = tables.lock().unwrap_or_else(PoisonError::into_inner);
        let Tables { all, hosts, routes, listeners, backends, endpoints } = &mut *tables;
        all.count(entry);
        if let Some(host) = host_of(entry) {
            hosts.count(entry, host);
        }
        if let Some(rule) = entry.rule {
            routes.count(entry, rule.route);
        }
        if let Some((parent, name)) = entry.listener {
            listeners.count(entry, &(parent.clone(), name.into()));
        }
        if let Some(backend) = entry.backend {
            backends.count(entry, backend);
        }
        if let Some(endpoint) = &entry.endpoint {
            endpoints.count(entry, endpoint);
        }
    }

    /// Takes what was counted since this was called last.
    pub fn take(&self) -> Figures {
        let mut figures = Figures::default();
        for tables in &self.workers {
            let taken = std::mem::take(&mut *tables.lock().unwrap_or_else(PoisonError::into_inner));
            figures.all.add(&taken.all);
            taken.hosts.into(&mut figures.hosts, |host| host.to_ascii_lowercase());
            taken.routes.into(&mut figures.routes, ToString::to_string);
            taken.listeners.into(&mut figures.listeners, |(parent, name)| format!("{parent}/{name}"));
            taken.backends.into(&mut figures.backends, |backend| backend.to_string());
            taken.endpoints.into(&mut figures.endpoints, ToString::to_string);
        }
        figures
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::control::rates::quantile;

    fn entry<'a>(host: &'a str, status: u16, millis: u64) -> Entry<'a> {
        let address = "192.0.2.1:80".parse().unwrap();
        let mut entry = Entry::new(SystemTime::UNIX_EPOCH, address, address, "HTTP/1.1");
        (entry.host, entry.status, entry.duration) = (host.as_bytes(), status, Duration::from_millis(millis));
        entry
    }

    #[test]
    fn rows_are_added_up_and_taken_away() {
        let meter = Meter::new(2);
        for (worker, host, status, millis) in [(0, "a", 200, 1), (1, "A", 503, 8), (1, "b", 404, 2), (1, "a", 0, 2)] {
            meter.count(worker, &entry(host, status, millis));
        }
        meter.count(9, &entry("a", 200, 1));
        let figures = meter.take();
        assert_eq!((figures.all.requests, figures.all.errors, figures.all.refused), (4, 1, 1));
        assert_eq!((figures.hosts["a"].requests, figures.hosts["b"].requests), (3, 1));
        assert!(figures.routes.is_empty() && meter.take().hosts.is_empty());
    }

    #[test]
    fn times_lie_in_their_buckets() {
        let meter = Meter::new(1);
        for _ in 0..98 {
            meter.count(0, &entry("a", 200, 2));
        }
        meter.count(0, &entry("a", 200, 200));
        meter.count(0, &entry("a", 200, 600_000));
        let all = meter.take().all;
        let at = |share| quantile(&all.buckets, share).unwrap();
        assert!(at(0.5) > 0.001 && at(0.5) <= 0.002_5, "{}", at(0.5));
        assert!(at(0.99) > 0.1 && at(0.99) <= 0.25, "{}", at(0.99));
        assert_eq!(at(1.0), 60.0, "beyond the last bound");
    }

    #[test]
    fn rows_are_bounded() {
        let meter = Meter::new(1);
        for number in 0..MOST + 7 {
            meter.count(0, &entry(&format!("h{number}"), 200, 1));
        }
        let figures = meter.take();
        assert_eq!((figures.hosts.len(), figures.hosts[OTHERS].requests), (MOST + 1, 7));
    }
}
