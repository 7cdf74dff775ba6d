//! How busy the edge is, over and over: who gets how many requests, how many fail, how long they take; and what is wrong.
//!
//! Rates are counted while somebody looks ([`crate::proxy::tap::meter`]), connections are the counters of `/metrics`, and
//! states are those of the status. Frames flow out; nothing is kept between two of them but what was open.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::rates::quantile;
use super::span;
use super::status;
use super::view::{Health, State, Status};
use super::world::World;
use crate::proxy::metrics::Connections;
use crate::proxy::tap::meter::{Figures, OTHERS, Row};

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// From one frame to the next; 100 ms to 1 min.
    pub interval_ms: u64,
    /// Of each table, the busiest; up to 1000.
    pub rows: usize,
}

impl Ask {
    pub fn check(&self) -> Result<Duration, String> {
        if !(100..=60_000).contains(&self.interval_ms) {
            return Err(format!("interval {} ms is out of range, expected 100 ms to 1 min", self.interval_ms));
        }
        if !(1..=1000).contains(&self.rows) {
            return Err(format!("rows {} is out of range, expected 1 to 1000", self.rows));
        }
        Ok(Duration::from_millis(self.interval_ms))
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// RFC 3339, UTC.
    pub at: String,
    /// What the rates are of.
    pub seconds: f64,
    pub edge: String,
    #[serde(flatten)]
    pub health: Health,
    pub generation: u64,
    pub connections: u64,
    pub connections_per_second: f64,
    pub all: Rates,
    pub hosts: Vec<Line>,
    pub routes: Vec<Line>,
    pub listeners: Vec<Line>,
    pub backends: Vec<Line>,
    pub endpoints: Vec<Line>,
    pub vips: Vec<VipLine>,
    /// What is not up, worst first: `Listener shop/web/https: …`.
    pub problems: Vec<Problem>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Per second.
    pub requests: f64,
    /// Statuses of 500 and above, and what broke off; per second.
    pub errors: f64,
    /// Statuses of 400 to 499; per second.
    pub refused: f64,
    /// Bytes per second, of bodies and tunnels that ended.
    pub bytes_in: f64,
    pub bytes_out: f64,
    /// Milliseconds; absent without a request.
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    pub name: String,
    #[serde(flatten)]
    pub rates: Rates,
    /// Of backends: requests and connections under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u64>,
    /// Of backends: endpoints that take work, of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<(u32, usize)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VipLine {
    #[serde(flatten)]
    pub health: Health,
    pub address: String,
    pub owners: Vec<String>,
    pub announced: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    #[serde(flatten)]
    pub health: Health,
    pub what: String,
}

/// So many problems are told in a frame.
const MOST_PROBLEMS: usize = 100;

/// Makes frames, one after the other.
#[derive(Default)]
pub struct Frames {
    accepted: Option<u64>,
    /// Made from this world: it costs more than everything else, and changes seldom.
    known: Option<(Arc<World>, Status)>,
}

impl Frames {
    pub fn next(
        &mut self,
        world: Arc<World>,
        figures: &Figures,
        connections: Connections,
        over: Duration,
        rows: usize,
    ) -> Frame {
        let now = SystemTime::now();
        let known = self.known.take().filter(|(known, _)| Arc::ptr_eq(known, &world));
        let (world, status) = known.unwrap_or_else(|| {
            let status = status::status(&world, now);
            (world, status)
        });
        let seconds = over.as_secs_f64().max(0.001);
        let accepted =
            self.accepted.replace(connections.accepted).map_or(0, |before| connections.accepted.saturating_sub(before));
        let lines = |rows_of: &BTreeMap<String, Row>| busiest(rows_of, seconds, rows);
        let mut backends = lines(&figures.backends);
        for line in &mut backends {
            let name = line.name.split_once(' ').map_or(&*line.name, |(_, name)| name);
            if let Some(row) = status.backends.iter().find(|row| row.backend == name) {
                line.in_flight = Some(row.in_flight);
                line.ready = Some((row.ready, row.endpoints.len()));
            }
        }
        let frame = Frame {
            at: span::rfc3339(now),
            seconds,
            edge: status.edge.name.clone(),
            health: status.edge.health.clone(),
            generation: status.edge.generation,
            connections: connections.open,
            connections_per_second: accepted as f64 / seconds,
            all: rates(&figures.all, seconds),
            hosts: lines(&figures.hosts),
            routes: lines(&figures.routes),
            listeners: lines(&figures.listeners),
            backends,
            endpoints: lines(&figures.endpoints),
            vips: vips(&status),
            problems: problems(&status),
        };
        self.known = Some((world, status));
        frame
    }
}

fn busiest(rows: &BTreeMap<String, Row>, seconds: f64, most: usize) -> Vec<Line> {
    let mut all: Vec<(&String, &Row)> = rows.iter().collect();
    // What is counted together is nobody's.
    all.sort_by_key(|(name, row)| (*name == OTHERS, std::cmp::Reverse(row.requests)));
    let line = |(name, row): (&String, &Row)| Line {
        name: name.clone(),
        rates: rates(row, seconds),
        in_flight: None,
        ready: None,
    };
    all.into_iter().take(most).map(line).collect()
}

fn rates(row: &Row, seconds: f64) -> Rates {
    let per_second = |count: u64| count as f64 / seconds;
    let milliseconds = |share| quantile(&row.buckets, share).map(|seconds| seconds * 1000.0);
    Rates {
        requests: per_second(row.requests),
        errors: per_second(row.errors),
        refused: per_second(row.refused),
        bytes_in: per_second(row.bytes_in),
        bytes_out: per_second(row.bytes_out),
        p50: milliseconds(0.5),
        p95: milliseconds(0.95),
        p99: milliseconds(0.99),
    }
}

fn vips(status: &Status) -> Vec<VipLine> {
    let line = |row: &super::view::VipRow| VipLine {
        health: row.health.clone(),
        address: row.address.clone().unwrap_or_else(|| "none".to_owned()),
        owners: row.owners.clone(),
        announced: row.announced.clone(),
    };
    status.vips.iter().map(line).collect()
}

fn problems(status: &Status) -> Vec<Problem> {
    let edge = [(&status.edge.health, format!("Edge {}", status.edge.name))];
    let vips = status.vips.iter().map(|row| {
        let name = row.address.clone().unwrap_or_else(|| row.owners.join(", "));
        (&row.health, format!("VIP {name}"))
    });
    let peers = status.peers.iter().map(|row| (&row.health, format!("Peer {}", row.peer)));
    let routers =
        status.routers.iter().map(|row| (&row.health, format!("Virtual router {} {}", row.group, row.family)));
    let listeners = status.listeners.iter().map(|row| (&row.health, format!("Listener {}/{}", row.parent, row.name)));
    let certificates = status.certificates.iter().map(|row| (&row.health, format!("Certificate {}", row.secret)));
    let routes = status.routes.iter().map(|row| (&row.health, format!("{} {}", row.kind, row.route)));
    let backends = status.backends.iter().map(|row| (&row.health, format!("Backend {}", row.backend)));
    let all = edge.into_iter().chain(vips).chain(peers).chain(routers).chain(listeners).chain(certificates);
    let bad = all.chain(routes).chain(backends).filter(|(health, _)| health.state != State::Up);
    let mut found: Vec<Problem> = bad.map(|(health, what)| Problem { health: health.clone(), what }).collect();
    found.sort_by_key(|problem| problem.health.state);
    found.truncate(MOST_PROBLEMS);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixture::world;

    #[test]
    fn a_frame() {
        let mut frames = Frames::default();
        let world = Arc::new(world());
        let mut figures = Figures::default();
        let row = |requests| Row { requests, errors: 1, ..Row::default() };
        figures.all = row(30);
        for (name, requests) in [("a.example", 10), ("b.example", 20), (OTHERS, 100)] {
            figures.hosts.insert(name.to_owned(), row(requests));
        }
        let two = Duration::from_secs(2);
        let connections = |accepted| Connections { accepted, open: 3, ..Connections::default() };
        let frame = frames.next(Arc::clone(&world), &figures, connections(100), two, 2);
        assert_eq!((frame.all.requests, frame.all.errors, frame.connections), (15.0, 0.5, 3));
        assert_eq!(frame.connections_per_second, 0.0, "there is nothing to compare it with yet");
        assert_eq!(frame.hosts.iter().map(|line| &*line.name).collect::<Vec<_>>(), ["b.example", "a.example"]);
        assert!(frame.problems.windows(2).all(|pair| pair[0].health.state <= pair[1].health.state));
        assert!(frame.problems.iter().any(|problem| problem.health.state == State::Down), "{:?}", frame.problems);
        let frame = frames.next(world, &figures, connections(110), two, 9);
        assert_eq!((frame.connections_per_second, frame.hosts.len()), (5.0, 3));
        let text = serde_json::to_string(&frame).unwrap();
        assert_eq!(serde_json::from_str::<Frame>(&text).unwrap(), frame);
    }

    #[test]
    fn bounds() {
        for (interval_ms, rows, good) in
            [(1000, 50, true), (99, 50, false), (60_001, 50, false), (1000, 0, false), (1000, 1001, false)]
        {
            assert_eq!(Ask { interval_ms, rows }.check().is_ok(), good, "{interval_ms} {rows}");
        }
    }
}
