//! How soon a route is served: from the write of a new HTTPRoute to the first 200 through the VIP.
//!
//! Flows in: how many routes to write, and what else changes meanwhile. Flows out: the times, from just before the write
//! is sent and from when the API server has acknowledged it, and every answer in between, which may be 404 and nothing
//! else. The end of a route is timed in the same way.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Field;
use super::churn::Churn;
use super::field::{DOMAIN, name};
use super::findings::{Findings, Times, millis};
use super::objects::{self, Plural};
use crate::client::Connection;
use crate::cluster::process::check_interrupt;
use crate::lab::block_on;

pub struct Plan {
    pub samples: u32,
    /// Other changes per second.
    pub churn: f64,
    /// For 99 of 100 routes.
    pub goal: Duration,
}

/// Between two probes.
const EVERY: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(60);
/// After the answer that was waited for, so many more must be the same.
const STAYS: u32 = 5;

#[derive(Default)]
struct Measured {
    sent: Times,
    acknowledged: Times,
    withdrawn: Times,
    probes: u64,
    wrong: BTreeMap<String, u64>,
}

pub fn probe(field: &mut Field, plan: &Plan, findings: &mut Findings) {
    let churn = (plan.churn > 0.0).then(|| Churn::start(field, plan.churn));
    let measured = block_on(measure(field, plan));
    let what = match churn {
        None => format!("{} routes, calm", field.routes),
        Some(churn) => format!("{} routes, {:.0} changes/s", field.routes, churn.stop()),
    };
    let goal = format!("p99 ≤ {}", millis(plan.goal));
    let p99 = measured.acknowledged.quantile(0.99);
    findings.check(
        format!("{what}: write acknowledged to first 200"),
        measured.acknowledged.to_string(),
        goal,
        p99 <= plan.goal,
    );
    findings.note(format!("{what}: write sent to first 200"), measured.sent.to_string());
    findings.note(format!("{what}: deletion acknowledged to first 404"), measured.withdrawn.to_string());
    findings.none(format!("{what}: answers but 404, then 200, then 404"), measured.probes, &measured.wrong);
}

async fn measure(field: &Field, plan: &Plan) -> Measured {
    let objects = field.objects().await;
    let address = field.http();
    let mut measured = Measured::default();
    for sample in 0..plan.samples {
        check_interrupt();
        let (route, host) = (format!("probe-{sample}"), format!("probe-{sample}.{DOMAIN}"));
        let existing = sample * 37 % field.routes;
        let space = field.namespace(existing);
        let object = objects::route(&space, &route, &host, &name(existing));
        // Not in step with anything.
        tokio::time::sleep(Duration::from_millis(u64::from(sample * 17 % 40))).await;

        let watch = watch(address, &host, 404, 200).await;
        let sent = Instant::now();
        objects.create(Plural::HttpRoutes, &object).await;
        let acknowledged = Instant::now();
        let seen = watch.await.unwrap();
        seen.count(&mut measured);
        if let Some(at) = seen.at {
            measured.sent.add(at.saturating_duration_since(sent));
            measured.acknowledged.add(at.saturating_duration_since(acknowledged));
        }

        let watch = self::watch(address, &host, 200, 404).await;
        objects.delete(Plural::HttpRoutes, &space, &route).await;
        let acknowledged = Instant::now();
        let seen = watch.await.unwrap();
        seen.count(&mut measured);
        if let Some(at) = seen.at {
            measured.withdrawn.add(at.saturating_duration_since(acknowledged));
        }
    }
    measured
}

struct Seen {
    at: Option<Instant>,
    probes: u64,
    wrong: BTreeMap<String, u64>,
}

impl Seen {
    fn count(&self, measured: &mut Measured) {
        measured.probes += self.probes;
        for (what, times) in &self.wrong {
            *measured.wrong.entry(what.clone()).or_default() += times;
        }
        if self.at.is_none() {
            *measured.wrong.entry(format!("no change within {PATIENCE:?}")).or_default() += 1;
        }
    }
}

/// Asks all the time until the answer is another one and stays it; returns when the first answer is there.
async fn watch(address: SocketAddr, host: &str, before: u16, after: u16) -> tokio::task::JoinHandle<Seen> {
    let host = host.to_owned();
    let (first, ready) = tokio::sync::oneshot::channel();
    let task = tokio::task::spawn_local(async move {
        let mut first = Some(first);
        let mut seen = Seen { at: None, probes: 0, wrong: BTreeMap::new() };
        let began = Instant::now();
        let mut connection = None;
        let mut more = STAYS;
        while more > 0 && began.elapsed() < PATIENCE {
            let answer = status(&mut connection, address, &host).await;
            seen.probes += 1;
            match answer {
                Ok(status) if status == after => {
                    seen.at.get_or_insert_with(Instant::now);
                    more -= 1;
                }
                Ok(status) if status == before && seen.at.is_none() => {}
                Ok(status) => *seen.wrong.entry(format!("status {status}")).or_default() += 1,
                Err(error) => *seen.wrong.entry(error.to_string()).or_default() += 1,
            }
            if let Some(first) = first.take() {
                let _ = first.send(());
            }
            tokio::time::sleep(EVERY).await;
        }
        seen
    });
    let _ = ready.await;
    task
}

async fn status(connection: &mut Option<Connection>, address: SocketAddr, host: &str) -> std::io::Result<u16> {
    if connection.is_none() {
        *connection = Some(Connection::open(address, None).await?);
    }
    let Some(open) = connection else { return Ok(0) };
    match open.get(host, "/").await {
        Ok(reply) => Ok(reply.status),
        Err(error) => {
            *connection = None;
            Err(error)
        }
    }
}

/// Memory, and what is written while nothing happens.
pub fn rest(field: &mut Field, time: Duration, most: u64, findings: &mut Findings) {
    let before = field.writes();
    super::outage::pass(field, time);
    // Before the counters are read: to write the whole page of metrics of thousands of routes takes memory for a moment.
    let memory = field.memory();
    let written = super::field::more(&before, &field.writes());
    let what = format!("{} routes at rest for {:.0} s", field.routes, time.as_secs_f64());
    findings.check(format!("{what}: writes of status"), written.to_string(), "0", written == 0);
    findings.check(
        format!("{what}: RSS of edged"),
        format!("{:.1} MiB", memory as f64 / 1024.0),
        format!("≤ {} MiB", most / 1024),
        memory <= most,
    );
}
