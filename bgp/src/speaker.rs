//! The speaker: one task that keeps an engine as it is wanted and says what is so.
//!
//! Flows in: [`Wanted`], whole, as often as one likes; only the last one counts. Flows out: [`Observed`]. A caller never
//! waits for the engine: a dead or hanging one is tried again and shown as down. What is to be done is [`crate::plan`]'s
//! to say; here is only when.

mod report;
mod session;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use edge_config::announce::Engine;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::child::Child;
use crate::gobgp::client::{Client, Place};
use crate::observed::Observed;
use crate::permit::Permit;
use crate::wanted::Wanted;
use report::Report;
use session::{Backoff, Session};

/// How long a child may take until it can be spoken to.
const START: Duration = Duration::from_secs(10);
/// How long a child may take to end.
const PATIENCE: Duration = Duration::from_secs(3);
/// A connection that lasted so long makes earlier failures forgotten.
const GOOD: Duration = Duration::from_secs(30);

/// Dropped without [`Speaker::stop`]: the child dies by SIGTERM, somebody else's engine keeps what it was told.
pub struct Speaker {
    orders: watch::Sender<Order>,
    observed: watch::Receiver<Arc<Observed>>,
    generation: AtomicU64,
    task: JoinHandle<Stopped>,
}

/// What the task is to do.
#[derive(Debug, Clone, Default)]
struct Order {
    generation: u64,
    wanted: Option<Arc<Wanted>>,
    /// Withdraw everything until then and end.
    end: Option<Instant>,
}

impl Order {
    fn engine(&self) -> Option<&Engine> {
        self.wanted.as_deref().map(|wanted| &wanted.engine).filter(|_| self.end.is_none())
    }
}

/// How an orderly end went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// No adj-out of an established session held any of our prefixes when the engine was left or stopped.
    Withdrawn,
    /// It could not be confirmed; why, in one line.
    Unconfirmed(String),
}

impl Speaker {
    /// Starts the task on the runtime of the caller. A child has its socket in `directory`, which is made if missing and
    /// must be writable by nobody else. `permit` is asked right before whatever may tell a peer anything.
    pub fn start(directory: PathBuf, permit: Permit) -> Self {
        let (orders, receiver) = watch::channel(Order::default());
        let report = Report::new(SystemTime::now());
        let observed = report.subscribe();
        let task = tokio::spawn(Task { orders: receiver, report, directory, permit }.run());
        Self { orders, observed, generation: AtomicU64::new(0), task }
    }

    /// Wants this from now on, `None`: no BGP at all (everything is withdrawn, a child is stopped). Returns at once,
    /// with the generation that [`Observed::generation`] will say.
    pub fn set(&self, wanted: Option<Wanted>) -> u64 {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        self.orders.send_replace(Order { generation, wanted: wanted.map(Arc::new), end: None });
        generation
    }

    pub fn observed(&self) -> watch::Receiver<Arc<Observed>> {
        self.observed.clone()
    }

    /// Withdraws everything, waits until adj-out confirms it, then stops a child; sessions in somebody else's engine
    /// stay. After `deadline` a child is stopped all the same.
    pub async fn stop(self, deadline: Duration) -> Stopped {
        let end = Instant::now() + deadline;
        self.orders.send_modify(|order| order.end = Some(end));
        let Self { task, .. } = self;
        let outcome = tokio::time::timeout_at(end + PATIENCE * 3, task).await;
        match outcome {
            Ok(Ok(stopped)) => stopped,
            Ok(Err(error)) => Stopped::Unconfirmed(format!("the speaker ended early: {error}")),
            Err(_) => Stopped::Unconfirmed("the engine does not let go".to_owned()),
        }
    }
}

struct Task {
    orders: watch::Receiver<Order>,
    report: Report,
    directory: PathBuf,
    permit: Permit,
}

/// Why an engine was left.
enum End {
    /// Nobody wants anything any more.
    Dropped,
    Stopped(Stopped),
    /// Another engine is wanted, or none; whether this one has let go of everything.
    Replaced(Result<(), String>),
    Failed(String),
}

impl Task {
    async fn run(mut self) -> Stopped {
        let mut backoff = Backoff::new();
        // Why an engine that may still tell of us could not be asked.
        let mut unasked = None;
        loop {
            let order = self.orders.borrow_and_update().clone();
            let Some(wanted) = order.wanted.filter(|_| order.end.is_none()) else {
                self.report.idle(order.generation);
                if order.end.is_some() {
                    return unasked.map_or(Stopped::Withdrawn, Stopped::Unconfirmed);
                }
                if self.orders.changed().await.is_err() {
                    return Stopped::Withdrawn;
                }
                continue;
            };
            self.report.expect(&wanted);
            let begun = Instant::now();
            let engine = wanted.engine.clone();
            // A child is gone with its sessions; of somebody else's engine nobody knows.
            let is_foreign = !matches!(engine, Engine::Child { .. });
            match self.engage(&engine).await {
                End::Dropped => return Stopped::Withdrawn,
                End::Stopped(stopped) => return stopped,
                End::Replaced(asked) => {
                    backoff = Backoff::new();
                    unasked = asked.err().filter(|_| is_foreign);
                }
                End::Failed(error) => {
                    if begun.elapsed() > GOOD {
                        backoff = Backoff::new();
                    }
                    self.report.down(error.clone());
                    unasked = is_foreign.then_some(error);
                    let mut orders = self.orders.clone();
                    tokio::select! {
                        () = self.pause(backoff.next()) => {}
                        is_replaced = replaced(&mut orders, &engine) => if !is_replaced {
                            return Stopped::Withdrawn;
                        },
                    }
                }
            }
        }
    }

    /// Waits, and lists what is wanted meanwhile.
    async fn pause(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while let Ok(Ok(())) = tokio::time::timeout_at(end, self.orders.changed()).await {
            let order = self.orders.borrow_and_update().clone();
            if let Some(wanted) = order.wanted {
                self.report.expect(&wanted);
            }
        }
    }

    /// Gets hold of an engine and keeps it as it is wanted until it fails or another one is wanted.
    async fn engage(&mut self, engine: &Engine) -> End {
        self.report.starting();
        let mut orders = self.orders.clone();
        let opened = tokio::select! {
            opened = open(engine, &self.directory) => opened,
            is_replaced = replaced(&mut orders, engine) => return match is_replaced {
                true => End::Replaced(Err("the engine was never reached".to_owned())),
                false => End::Dropped,
            },
        };
        let (child, client) = match opened {
            Ok(opened) => opened,
            Err(error) => return End::Failed(error),
        };
        let mut session = Session::new(engine, child, client, (self.permit.clone(), &mut self.report));
        let end = session.run(&mut self.orders).await;
        if let Some(child) = session.child.take() {
            child.stop(PATIENCE).await;
        }
        end
    }
}

/// Waits until another engine is wanted or an end. `false`: nobody is there to want anything.
async fn replaced(orders: &mut watch::Receiver<Order>, engine: &Engine) -> bool {
    orders.wait_for(|order| order.engine() != Some(engine)).await.is_ok()
}

/// Starts a child where one is wanted, and connects.
async fn open(engine: &Engine, directory: &std::path::Path) -> Result<(Option<Child>, Client), String> {
    let Engine::Child { program } = engine else {
        let client = Client::connect(&Place::Other(engine.clone())).await.map_err(|error| error.to_string())?;
        return Ok((None, client));
    };
    let mut child = Child::start(program, directory).await.map_err(|error| error.to_string())?;
    let place = Place::Unix(child.socket.clone());
    let patience = Instant::now() + START;
    let mut wait = Duration::from_millis(10);
    loop {
        let error = match Client::connect(&place).await {
            Ok(client) => return Ok((Some(child), client)),
            Err(error) => error,
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(Duration::from_millis(200)),
            how = child.ended() => {
                return Err(format!("{}: {how}; {}", program.display(), child.last_words()));
            }
        }
        if Instant::now() > patience {
            child.stop(PATIENCE).await;
            return Err(format!("{}: {error}", program.display()));
        }
    }
}

#[cfg(test)]
mod tests;
