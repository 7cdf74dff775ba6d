//! Constant load while something else happens: HTTP/1.1 keep-alive, HTTP/2 and WebSocket, each connection at a fixed rate.
//!
//! Flows in: where and what to ask. Flows out: a [`Tally`] that counts every exchange and keeps the reason of every
//! failure. A connection that ends without being asked to is a failure; it is opened again so that the load goes on. One
//! whose end was told (`Connection: close`, GOAWAY) is opened again without one, as clients do.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::{Connection, H2, Reply, Tls, WebSocket};
use crate::engine::Histogram;

#[derive(Clone)]
pub struct Plan {
    pub http: SocketAddr,
    /// For the HTTP/2 connections and half of the others, each with the ALPN of its own.
    pub https: Option<(SocketAddr, Tls)>,
    pub host: String,
    /// What the answer must say in `x-backend`.
    pub backend: String,
    pub h1: usize,
    pub h2: usize,
    pub websockets: usize,
    /// Between the exchanges of one connection.
    pub every: Duration,
}

#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub h1: u64,
    pub h2: u64,
    pub websocket: u64,
    /// How long good exchanges took, by what they were.
    pub latency: BTreeMap<&'static str, Histogram>,
    /// Reason → how often.
    pub failures: BTreeMap<String, u64>,
}

impl Tally {
    pub fn exchanges(&self) -> u64 {
        self.h1 + self.h2 + self.websocket
    }
}

fn speaking(tls: &Tls, protocol: &str) -> Tls {
    let mut config = (*tls.config).clone();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    Tls { config: config.into(), server_name: tls.server_name.clone() }
}

/// A load that runs on its own thread until it is stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: Option<JoinHandle<Tally>>,
}

struct Shared {
    plan: Plan,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    tally: RefCell<Tally>,
}

impl Load {
    pub fn start(plan: Plan) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stopped, counted) = (stop.clone(), done.clone());
        let thread = std::thread::Builder::new().name("load".to_owned()).spawn(move || {
            let shared = Rc::new(Shared { plan, stop: stopped, done: counted, tally: RefCell::default() });
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async {
                let mut tasks = tokio::task::JoinSet::new();
                for index in 0..shared.plan.h1 {
                    tasks.spawn_local(h1(shared.clone(), index));
                }
                for _ in 0..shared.plan.h2 {
                    tasks.spawn_local(h2(shared.clone()));
                }
                for index in 0..shared.plan.websockets {
                    tasks.spawn_local(websocket(shared.clone(), index));
                }
                while tasks.join_next().await.is_some() {}
            });
            shared.tally.take()
        })?;
        Ok(Self { stop, done, thread: Some(thread) })
    }

    /// Exchanges so far, good or bad.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Blocks until that many more exchanges have happened.
    pub fn pass(&self, more: u64) {
        let until = self.done() + more;
        let limit = std::time::Instant::now() + Duration::from_secs(60);
        while self.done() < until && std::time::Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn stop(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// One exchange that began then; opening a connection is none.
    fn count(&self, kind: &'static str, begin: Instant, outcome: Result<fn(&mut Tally) -> &mut u64, String>) {
        let mut tally = self.tally.borrow_mut();
        match outcome {
            Ok(counter) => {
                *counter(&mut tally) += 1;
                tally.latency.entry(kind).or_default().record(begin.elapsed());
            }
            Err(reason) => *tally.failures.entry(reason).or_default() += 1,
        }
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    fn check(&self, reply: &Reply) -> Result<(), String> {
        if reply.status != 200 {
            return Err(format!("status {}", reply.status));
        }
        match reply.backend() {
            Some(backend) if backend == self.plan.backend => Ok(()),
            other => Err(format!("answered by {other:?}")),
        }
    }

    /// Keeps the rate and, after a failure, from spinning.
    async fn pause(&self) {
        tokio::time::sleep(self.plan.every).await;
    }
}

async fn h1(shared: Rc<Shared>, index: usize) {
    let (address, tls) = match (&shared.plan.https, index % 2) {
        (Some((address, tls)), 1) => (*address, Some(speaking(tls, "http/1.1"))),
        _ => (shared.plan.http, None),
    };
    let kind = if tls.is_some() { "https/1.1" } else { "http/1.1" };
    while !shared.stopped() {
        let begin = Instant::now();
        let mut connection = match Connection::open(address, tls.as_ref()).await {
            Ok(connection) => connection,
            Err(error) => {
                shared.count(kind, begin, Err(format!("{kind} connect: {error}")));
                shared.pause().await;
                continue;
            }
        };
        while !shared.stopped() {
            let begin = Instant::now();
            match connection.get(&shared.plan.host, "/load").await {
                Ok(reply) => {
                    let outcome = shared.check(&reply).map_err(|reason| format!("{kind}: {reason}"));
                    shared.count(
                        kind,
                        begin,
                        outcome.map(|()| (|tally: &mut Tally| &mut tally.h1) as fn(&mut Tally) -> &mut u64),
                    );
                    if reply.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
                        break;
                    }
                }
                Err(error) => {
                    shared.count(kind, begin, Err(format!("{kind}: {error}")));
                    break;
                }
            }
            shared.pause().await;
        }
    }
}

async fn h2(shared: Rc<Shared>) {
    let (address, tls) = match &shared.plan.https {
        Some((address, tls)) => (*address, Some(speaking(tls, "h2"))),
        None => (shared.plan.http, None),
    };
    while !shared.stopped() {
        let begin = Instant::now();
        let mut connection = match H2::open(address, tls.as_ref()).await {
            Ok(connection) => connection,
            Err(error) => {
                shared.count("h2", begin, Err(format!("h2 connect: {error}")));
                shared.pause().await;
                continue;
            }
        };
        while !shared.stopped() && !connection.is_closed() {
            let begin = Instant::now();
            match connection.get(&shared.plan.host, "/load").await {
                Ok(reply) => shared.count(
                    "h2",
                    begin,
                    shared
                        .check(&reply)
                        .map(|()| (|tally: &mut Tally| &mut tally.h2) as fn(&mut Tally) -> &mut u64)
                        .map_err(|reason| format!("h2: {reason}")),
                ),
                // Never sent, since the end was told a moment before (RFC 9113 §6.8).
                Err(error) if is_unsent(&error) => break,
                Err(error) => {
                    shared.count("h2", begin, Err(format!("h2: {error}")));
                    break;
                }
            }
            shared.pause().await;
        }
    }
}

fn is_unsent(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<hyper::Error>());
    cause.is_some_and(|cause| cause.is_canceled() || cause.is_closed())
}

async fn websocket(shared: Rc<Shared>, index: usize) {
    let (address, tls) = match (&shared.plan.https, index % 2) {
        (Some((address, tls)), 1) => (*address, Some(speaking(tls, "http/1.1"))),
        _ => (shared.plan.http, None),
    };
    while !shared.stopped() {
        let begin = Instant::now();
        let mut socket = match WebSocket::open(address, tls.as_ref(), &shared.plan.host, "/ws").await {
            Ok(socket) => socket,
            Err(error) => {
                shared.count("websocket", begin, Err(format!("websocket open: {error}")));
                shared.pause().await;
                continue;
            }
        };
        let mut number = 0u64;
        loop {
            number += 1;
            let begin = Instant::now();
            match socket.echo(&number.to_be_bytes()).await {
                Ok(()) => shared.count("websocket", begin, Ok(|tally| &mut tally.websocket)),
                Err(error) => {
                    shared.count("websocket", begin, Err(format!("websocket: {error}")));
                    break;
                }
            }
            if shared.stopped() {
                if let Err(error) = socket.close().await {
                    shared.count("websocket", begin, Err(format!("websocket close: {error}")));
                }
                return;
            }
            shared.pause().await;
        }
    }
}
