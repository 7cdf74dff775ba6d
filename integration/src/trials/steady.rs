//! A load that must not notice anything: keep-alive connections over HTTP and HTTPS and new connections beside them.
//!
//! Flows in: hosts and who may answer. Flows out: every failure with the time at which its exchange began and ended, so
//! that those of a restart are told from others, and the gaps between good answers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::{Connection, Tls};
use crate::engine::Histogram;
use crate::lab::block_on;

#[derive(Clone)]
pub struct Plan {
    pub http: SocketAddr,
    pub https: Option<(SocketAddr, Tls)>,
    /// Asked one after the other.
    pub hosts: Vec<String>,
    /// Who may answer, by `x-backend`.
    pub backends: Vec<String>,
    pub connections: usize,
    /// Between the exchanges of one connection.
    pub every: Duration,
    /// Every so many exchanges a connection is closed and opened again.
    pub renew: u64,
}

#[derive(Debug, Clone)]
pub struct Failure {
    pub began: Instant,
    pub ended: Instant,
    pub reason: String,
}

#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub exchanges: u64,
    pub latency: Histogram,
    pub failures: Vec<Failure>,
    /// How often each backend answered.
    pub backends: BTreeMap<String, u64>,
}

impl Outcome {
    /// Reasons of the failures whose exchange does not touch the time between.
    pub fn failures_outside(&self, window: Option<(Instant, Instant)>) -> BTreeMap<String, u64> {
        let mut reasons = BTreeMap::new();
        for failure in &self.failures {
            let is_inside = window.is_some_and(|(from, to)| failure.ended >= from && failure.began <= to);
            if !is_inside {
                *reasons.entry(failure.reason.clone()).or_default() += 1;
            }
        }
        reasons
    }
}

struct Shared {
    plan: Plan,
    stop: AtomicBool,
    done: AtomicU64,
    outcome: Mutex<Outcome>,
}

/// Runs on a thread of its own, in the namespace of the thread that started it.
pub struct Steady {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Steady {
    pub fn start(plan: Plan) -> Self {
        let shared =
            Arc::new(Shared { plan, stop: AtomicBool::new(false), done: AtomicU64::new(0), outcome: Mutex::default() });
        let work = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            block_on(async {
                let mut tasks = tokio::task::JoinSet::new();
                for index in 0..work.plan.connections {
                    tasks.spawn_local(connection(Arc::clone(&work), index));
                }
                while tasks.join_next().await.is_some() {}
            });
        });
        Self { shared, thread: Some(thread) }
    }

    /// Exchanges so far, good or bad.
    pub fn done(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }

    pub fn stop(mut self) -> Outcome {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        std::mem::take(&mut *self.shared.outcome.lock().unwrap())
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn count(&self, began: Instant, answer: Result<String, String>) {
        let mut outcome = self.outcome.lock().unwrap();
        outcome.exchanges += 1;
        match answer {
            Ok(backend) => {
                outcome.latency.record(began.elapsed());
                *outcome.backends.entry(backend).or_default() += 1;
            }
            Err(reason) => outcome.failures.push(Failure { began, ended: Instant::now(), reason }),
        }
        self.done.fetch_add(1, Ordering::Relaxed);
    }
}

async fn connection(shared: Arc<Shared>, index: usize) {
    let plan = &shared.plan;
    let (address, tls, scheme) = match &plan.https {
        Some((address, tls)) if index % 2 == 1 => (*address, Some(tls), "https"),
        _ => (plan.http, None, "http"),
    };
    let mut turn = index;
    while !shared.is_stopped() {
        let began = Instant::now();
        let mut connection = match Connection::open(address, tls).await {
            Ok(connection) => connection,
            Err(error) => {
                shared.count(began, Err(format!("{scheme}: connect: {error}")));
                tokio::time::sleep(plan.every).await;
                continue;
            }
        };
        for _ in 0..plan.renew {
            if shared.is_stopped() {
                return;
            }
            let Some(host) = plan.hosts.get(turn % plan.hosts.len()) else { return };
            turn += 1;
            let began = Instant::now();
            let answer = match connection.get(host, "/").await {
                Ok(reply) if reply.status != 200 => Err(format!("{scheme}: status {}", reply.status)),
                Ok(reply) => match reply.backend() {
                    Some(backend) if plan.backends.iter().any(|known| known == backend) => Ok(backend.to_owned()),
                    other => Err(format!("{scheme}: answered by {other:?}")),
                },
                Err(error) => Err(format!("{scheme}: {error}")),
            };
            let is_over = matches!(&answer, Err(reason) if !reason.contains("status"));
            shared.count(began, answer);
            tokio::time::sleep(plan.every).await;
            if is_over {
                break;
            }
        }
    }
}
