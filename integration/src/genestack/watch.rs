//! A client on the far side of the routers that shakes hands with every host of the VIP, again and again, and notes all that
//! it sees.
//!
//! Flows in: a namespace and hosts. Flows out: one [`Try`] for each handshake.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::client::Resumption;

use super::Cloud;
use crate::client::{Connection, Tls};
use crate::lab::block_on;
use crate::netns::{Namespace, enter};
use crate::pki;

/// Beyond it a client has given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// A handshake that a change of the routers' ways fell into went to another edge in the middle, as happens to flows of any
/// anycast service. `ip monitor` tells of a change a little late.
const AROUND: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
pub struct Try {
    pub began: Instant,
    pub ended: Instant,
    pub host: String,
    /// The issuer of the certificate, or what went wrong.
    pub outcome: Result<String, String>,
}

pub struct Watch {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Try>>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub fn start(client: &Namespace, hosts: Vec<String>) -> Self {
        let (stop, seen) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Try>>>::default());
        let (name, ending, noted) = (client.name().to_owned(), Arc::clone(&stop), Arc::clone(&seen));
        let thread = std::thread::spawn(move || {
            enter(&name).unwrap();
            block_on(async {
                while !ending.load(Ordering::Relaxed) {
                    for host in &hosts {
                        let one = shake(host).await;
                        noted.lock().unwrap().push(one);
                        // The machine has other things to do.
                        tokio::time::sleep(Duration::from_millis(3)).await;
                    }
                }
            });
        });
        Self { stop, seen, thread: Some(thread) }
    }

    pub fn tries(&self) -> Vec<Try> {
        self.seen.lock().unwrap().clone()
    }

    /// What it saw, all in all.
    pub fn stop(mut self) -> Vec<Try> {
        self.end();
        self.tries()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
    }
}

/// A full handshake as a new client.
async fn shake(host: &str) -> Try {
    let began = Instant::now();
    let mut config = ClientConfig::clone(&pki::client_accepting_anything(&["http/1.1"]));
    config.resumption = Resumption::disabled();
    let tls = Tls { config: Arc::new(config), server_name: Some(host.to_owned()) };
    let outcome = match tokio::time::timeout(PATIENCE, Connection::open(Cloud::https(), Some(&tls))).await {
        Err(_) => Err("nothing for 5 s".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(open)) => match open.handshake.certificates.first().map(pki::facts) {
            Some(Ok(facts)) if facts.dns.iter().any(|name| name == host) => Ok(facts.issuer),
            Some(Ok(facts)) => Err(format!("a certificate for {:?}", facts.dns)),
            _ => Err("no certificate".to_owned()),
        },
    };
    Try { began, ended: Instant::now(), host: host.to_owned(), outcome }
}

/// Those that failed, from a moment on, but for those that a change of ways fell into.
pub fn failures<'a>(tries: &'a [Try], since: Instant, changes: &[Instant]) -> Vec<&'a Try> {
    let is_moved = |one: &Try| changes.iter().any(|at| *at + AROUND >= one.began && *at <= one.ended + AROUND);
    tries.iter().filter(|one| one.began >= since && one.outcome.is_err() && !is_moved(one)).collect()
}
