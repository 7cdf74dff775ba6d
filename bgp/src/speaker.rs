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

use crate::child::{Child, Handed, Parent};
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
    task: JoinHandle<Ended>,
}

/// How the task came to its end.
struct Ended {
    stopped: Stopped,
    /// A child that was given away.
    handed: Option<Handed>,
}

impl From<Stopped> for Ended {
    fn from(stopped: Stopped) -> Self {
        Self { stopped, handed: None }
    }
}

/// How a child of the speaker lives, and one that another speaker has given away.
#[derive(Debug)]
pub struct Household {
    pub parent: Parent,
    /// A child has its socket there. It is made if missing and must be writable by nobody else.
    pub directory: PathBuf,
    pub handed: Option<Handed>,
}

impl Household {
    /// One whose child is this process's own and cannot be handed over.
    pub fn own(directory: PathBuf) -> Self {
        Self { parent: Parent::Own, directory, handed: None }
    }
}

/// What the task is to do.
#[derive(Debug, Clone, Default)]
struct Order {
    generation: u64,
    wanted: Option<Arc<Wanted>>,
    /// Withdraw everything until then and end.
    end: Option<Instant>,
    /// Let go of the engine as it is, and end.
    is_over: bool,
}

impl Order {
    fn engine(&self) -> Option<&Engine> {
        self.wanted.as_deref().map(|wanted| &wanted.engine).filter(|_| self.end.is_none() && !self.is_over)
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
    /// Starts the task on the runtime of the caller. `permit` is asked right before whatever may tell a peer anything.
    pub fn start(household: Household, permit: Permit) -> Self {
        let (orders, receiver) = watch::channel(Order::default());
        let report = Report::new(SystemTime::now());
        let observed = report.subscribe();
        let task = tokio::spawn(Task { orders: receiver, report, household, permit }.run());
        Self { orders, observed, generation: AtomicU64::new(0), task }
    }

    /// Wants this from now on, `None`: no BGP at all (everything is withdrawn, a child is stopped). Returns at once,
    /// with the generation that [`Observed::generation`] will say.
    pub fn set(&self, wanted: Option<Wanted>) -> u64 {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        self.orders.send_replace(Order { generation, wanted: wanted.map(Arc::new), end: None, is_over: false });
        generation
    }

    pub fn observed(&self) -> watch::Receiver<Arc<Observed>> {
        self.observed.clone()
    }

    /// Lets go of the engine as it is: nothing is withdrawn, no session ends. A child is given away where it can be.
    pub async fn release(self) -> Option<Handed> {
        self.orders.send_modify(|order| order.is_over = true);
        let Self { task, .. } = self;
        // It is in the middle of a call for at most as long.
        tokio::time::timeout(PATIENCE, task).await.ok()?.ok()?.handed
    }

    /// Withdraws everything, waits until adj-out confirms it, then stops a child; sessions in somebody else's engine
    /// stay. After `deadline` a child is stopped all the same.
    pub async fn stop(self, deadline: Duration) -> Stopped {
        let end = Instant::now() + deadline;
        self.orders.send_modify(|order| order.end = Some(end));
        let Self { task, .. } = self;
        let outcome = tokio::time::timeout_at(end + PATIENCE * 3, task).await;
        match outcome {
            Ok(Ok(ended)) => ended.stopped,
            Ok(Err(error)) => Stopped::Unconfirmed(format!("the speaker ended early: {error}")),
            Err(_) => Stopped::Unconfirmed("the engine does not let go".to_owned()),
        }
    }
}

struct Task {
    orders: watch::Receiver<Order>,
    report: Report,
    household: Household,
    permit: Permit,
}

/// Why an engine was left.
enum End {
    /// As it is, for another to take up.
    Released,
    /// Nobody wants anything any more.
    Dropped,
    Stopped(Stopped),
    /// Another engine is wanted, or none; whether this one has let go of everything.
    Replaced(Result<(), String>),
    Failed(String),
}

impl Task {
    async fn run(mut self) -> Ended {
        let mut backoff = Backoff::new();
        // Why an engine that may still tell of us could not be asked.
        let mut unasked = None;
        loop {
            let order = self.orders.borrow_and_update().clone();
            if order.is_over {
                // What was handed over and never taken up goes on to the next.
                return Ended { stopped: Stopped::Withdrawn, handed: self.household.handed.take() };
            }
            let Some(wanted) = order.wanted.filter(|_| order.end.is_none()) else {
                self.report.idle(order.generation);
                if order.end.is_some() {
                    return unasked.map_or(Stopped::Withdrawn, Stopped::Unconfirmed).into();
                }
                if self.orders.changed().await.is_err() {
                    return Stopped::Withdrawn.into();
                }
                continue;
            };
            self.report.expect(&wanted);
            let begun = Instant::now();
            let engine = wanted.engine.clone();
            // A child is gone with its sessions; of somebody else's engine nobody knows.
            let is_foreign = !matches!(engine, Engine::Child { .. });
            let (end, handed) = self.engage(&engine).await;
            match end {
                End::Released => return Ended { stopped: Stopped::Withdrawn, handed },
                End::Dropped => return Stopped::Withdrawn.into(),
                End::Stopped(stopped) => return stopped.into(),
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
                            return Stopped::Withdrawn.into();
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
    async fn engage(&mut self, engine: &Engine) -> (End, Option<Handed>) {
        self.report.starting();
        let mut orders = self.orders.clone();
        let handed = self.household.handed.take();
        let opened = tokio::select! {
            opened = open(engine, &self.household, handed) => opened,
            is_replaced = replaced(&mut orders, engine) => {
                let end = match is_replaced {
                    true if orders.borrow().is_over => End::Released,
                    true => End::Replaced(Err("the engine was never reached".to_owned())),
                    false => End::Dropped,
                };
                return (end, None);
            }
        };
        let (child, client) = match opened {
            Ok(opened) => opened,
            Err(error) => return (End::Failed(error), None),
        };
        let mut session = Session::new(engine, child, client, (self.permit.clone(), &mut self.report));
        let end = session.run(&mut self.orders).await;
        match (session.child.take(), &end) {
            (Some(child), End::Released) => return (end, child.release()),
            (Some(child), _) => child.stop(PATIENCE).await,
            (None, _) => {}
        }
        (end, None)
    }
}

/// Waits until another engine is wanted or an end. `false`: nobody is there to want anything.
async fn replaced(orders: &mut watch::Receiver<Order>, engine: &Engine) -> bool {
    orders.wait_for(|order| order.engine() != Some(engine)).await.is_ok()
}

/// Starts a child where one is wanted and none was handed over, and connects.
async fn open(
    engine: &Engine,
    household: &Household,
    handed: Option<Handed>,
) -> Result<(Option<Child>, Client), String> {
    let Engine::Child { program } = engine else {
        let client = Client::connect(&Place::Other(engine.clone())).await.map_err(|error| error.to_string())?;
        return Ok((None, client));
    };
    let mut child = match handed.filter(|handed| handed.program == *program) {
        Some(handed) => Child::adopt(handed).map_err(|error| format!("{}: {error}", program.display()))?,
        None => {
            let started = Child::start(&household.parent, program, &household.directory).await;
            started.map_err(|error| error.to_string())?
        }
    };
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
