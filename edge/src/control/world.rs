//! What the supervisor shows to the outside: one immutable value per change, and the commands that come back.
//!
//! The supervisor sends an `Arc<World>` through a `watch` channel whenever a generation, its endpoints or something
//! observed changes; the API reads the newest. Nothing here is alive: no socket, no key, no lock.

use std::sync::Arc;
use std::time::SystemTime;

use edge_config::Compiled;
use edge_config::inputs::Inputs;
use edge_config::problem::Problem;
use edge_config::report::Report;
use edge_config::snapshot::{Endpoints, Snapshot};
use tokio::sync::{mpsc, oneshot, watch};

use super::findings::findings;
use super::holds::{Ask, Holds};
use super::maintenance::{self, Closures};
use super::observed::Observed;
use crate::certs::command::CertCommand;
use crate::history::{self, Held};

#[derive(Debug, Clone)]
pub struct World {
    /// The name of this edge: the host name.
    pub edge: Box<str>,
    pub started: SystemTime,
    /// 0 until the first one is published.
    pub generation: u64,
    /// When the generation was published.
    pub since: SystemTime,
    pub inputs: Arc<Inputs>,
    /// The part of `edge.toml` that says what is served, as it is in force.
    pub portion: Arc<str>,
    pub compiled: Arc<Compiled>,
    /// Newer than those in `compiled` when pods moved since.
    pub endpoints: Arc<Endpoints>,
    /// What the sources found wrong; those of compile are in its report.
    pub problems: Arc<[Problem]>,
    pub observed: Arc<Observed>,
}

impl World {
    /// Before anything is known.
    pub fn empty(edge: &str, started: SystemTime) -> Self {
        Self {
            edge: edge.into(),
            started,
            generation: 0,
            since: started,
            inputs: Arc::default(),
            portion: "".into(),
            compiled: Arc::default(),
            endpoints: Arc::default(),
            problems: Arc::new([]),
            observed: Arc::default(),
        }
    }

    pub fn scene(&self) -> Scene<'_> {
        Scene {
            inputs: &self.inputs,
            snapshot: &self.compiled.snapshot,
            report: &self.compiled.report,
            endpoints: &self.endpoints,
            observed: &self.observed,
        }
    }

    /// Whether a load balancer or service manager may count on this edge; else why not.
    pub fn ready(&self) -> Result<(), &'static str> {
        if self.generation == 0 || !self.observed.serving {
            Err("starting: no generation is served yet")
        } else if self.observed.drain.is_some() {
            Err("draining")
        } else {
            Ok(())
        }
    }

    /// Everything that is wrong with the configuration.
    pub fn findings(&self) -> Vec<Problem> {
        findings(self.scene(), &self.problems)
    }
}

/// What the views look at, whether somebody serves it or it only lies in files.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    pub inputs: &'a Inputs,
    pub snapshot: &'a Snapshot,
    pub report: &'a Report,
    pub endpoints: &'a Endpoints,
    pub observed: &'a Observed,
}

/// What a user may ask of the supervisor. Each command is answered; an answer that cannot be delivered is dropped.
#[derive(Debug)]
pub enum Command {
    /// Read every source again, as SIGHUP does.
    Reload { by: Option<String>, reply: oneshot::Sender<Result<Reloaded, String>> },
    /// Read every source again, and hand over to the program on disk where it is another one, or where that is forced.
    Upgrade { is_forced: bool, reply: oneshot::Sender<Result<Upgraded, String>> },
    /// Leave the network and stay away until told otherwise, over restarts.
    Drain { reply: oneshot::Sender<Result<(), String>> },
    /// Come back.
    Undrain { reply: oneshot::Sender<Result<(), String>> },
    /// Something about single endpoints; the answer is all that is in force.
    Hold { ask: Ask, reply: oneshot::Sender<Result<Holds, String>> },
    /// Something about a host; the answer is all that is in force.
    Close { ask: maintenance::Ask, reply: oneshot::Sender<Result<Closures, String>> },
    /// Hold the configuration at a revision, or release it.
    Roll { ask: history::Ask, by: Option<String>, reply: oneshot::Sender<Result<Rolled, String>> },
    /// Something about one certificate.
    Certificate(CertCommand),
}

/// What `edgectl upgrade` asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskUpgrade {
    /// Also where the program on disk is the one that runs.
    pub force: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Upgraded {
    /// The program on disk is the one that runs.
    Reloaded(Reloaded),
    HandedOver {
        /// Versions and processes.
        from: Box<str>,
        to: Box<str>,
        process: u32,
        /// Of the edged that serves now.
        generation: u64,
        /// Until it was ready, and from then until it had everything.
        preparing_ms: u64,
        taking_ms: u64,
        /// What the edged before it still has.
        connections: usize,
        /// How long these may take at most.
        drain_seconds: u64,
    },
}

/// The answer to a reload that was carried out; findings in the files are among the problems of the world.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reloaded {
    /// The generation that serves now.
    pub generation: u64,
    /// Whether it differs from the one before.
    pub changed: bool,
    pub errors: u32,
    pub warnings: u32,
}

/// The answer to a rollback, or to a release.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Rolled {
    /// The generation that serves now.
    pub generation: u64,
    /// Absent: the configuration is what the sources say.
    pub held: Option<Held>,
    pub errors: u32,
    pub warnings: u32,
}

/// The supervisor's end and the API's end of the same two channels.
pub fn channels(first: World) -> (watch::Sender<Arc<World>>, mpsc::Receiver<Command>, Handle) {
    let (publish, world) = watch::channel(Arc::new(first));
    // Commands are rare and typed by people: a full queue means that the supervisor is stuck, and says so.
    let (commands, receive) = mpsc::channel(16);
    (publish, receive, Handle { world, commands })
}

#[derive(Debug, Clone)]
pub struct Handle {
    pub world: watch::Receiver<Arc<World>>,
    pub commands: mpsc::Sender<Command>,
}

impl Handle {
    pub fn now(&self) -> Arc<World> {
        Arc::clone(&self.world.borrow())
    }
}
