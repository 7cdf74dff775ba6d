//! Several edges as one: who orders certificates, and that all have what was issued.
//!
//! In: the list of edges of `[fleet]`, or the Lease of the Kubernetes API. Out: [`Edges`] for whoever orders; what other
//! edges share goes to the certificate thread ([`Holdings`]), keys of session tickets to the proxy. Every edge calls every
//! other over TLS with certificates that only they can make ([`identity`]). It runs on a thread of its own; nothing that
//! carries traffic waits for it, and an edge whose fleet cannot start serves all the same, but orders nothing.
//!
//! [`election`] who orders · [`merge`] who lacks what · [`message`] the words · [`wire`] frames · [`link`] calling ·
//! [`answer`] being called · [`standing`] what edges say of themselves · [`survey`] asking all of them · [`drift`] who differs for too long · [`tickets`] keys of session tickets · [`limits`] limits of all edges together · here: the parts put together.

mod answer;
mod core;
pub mod drift;
pub mod election;
mod holdings;
pub mod identity;
mod limits;
mod link;
pub mod merge;
pub mod message;
mod observed;
mod readiness;
pub mod standing;
pub mod survey;
mod tickets;
mod wire;
mod witness;

use std::sync::Arc;
use std::thread::JoinHandle;

use edge_config::settings::FleetSettings;
use tokio::sync::Notify;
use tokio::sync::watch;

use self::core::Core;
use crate::certs::edges::{Alone, Edges, Orders};
use crate::proxy::protection::Ledger;
use crate::proxy::tls::tickets::Tickets;
use crate::store::Store;

pub use holdings::{BoxFuture, Holdings};
pub use observed::{FleetObserved, PeerObserved};
pub use readiness::Readiness;
pub use witness::Witness;

/// What a fleet is made of.
pub struct Start {
    /// `None`: no edge is called, and nobody calls.
    pub settings: Option<FleetSettings>,
    /// Of this edge.
    pub name: String,
    pub who: Who,
    pub tickets: Tickets,
    pub store: Store,
    /// Told when what is observed may be new.
    pub changed: Arc<Notify>,
}

/// Who decides which edge orders.
#[derive(Clone)]
pub enum Who {
    /// The edges among themselves; one that has no others orders.
    Votes,
    /// The holder of a Lease.
    Lease(Arc<dyn Fn() -> Orders + Send + Sync>),
}

/// The running thread. Dropping it ends the thread.
pub struct Fleet {
    core: Arc<Core>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Fleet {
    /// Starts the thread. What is wrong with the settings or the secret does not end edged: it is observed.
    pub fn start(start: Start) -> std::io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let core = Core::new(start, runtime.handle().clone());
        let running = Arc::clone(&core);
        let thread = std::thread::Builder::new().name("edge-fleet".to_owned()).spawn(move || {
            runtime.block_on(core::run(running, stopped));
            // A disk that hangs must not hold up the end.
            runtime.shutdown_background();
        })?;
        Ok(Self { core, stop, thread: Some(thread) })
    }

    /// For whoever orders.
    pub fn edges(&self) -> Arc<dyn Edges> {
        match (&self.core.who, self.core.has_peers()) {
            (Who::Votes, false) => Arc::new(Alone),
            _ => Arc::new(Arc::clone(&self.core)),
        }
    }

    /// Names who has what is shared. Until then nothing is taken from others, and this edge does not stand for election.
    pub fn attach(&self, holdings: Arc<dyn Holdings>) {
        self.core.attach(holdings);
    }

    /// Names where limits are counted that the edges share. Until then each counts for itself.
    pub fn count(&self, ledger: Arc<Ledger>) {
        self.core.count(ledger);
    }

    /// Names who knows how this edge stands. Until then the others are told that nobody can say.
    pub fn witness(&self, witness: Arc<dyn Witness>) {
        self.core.witness(witness);
    }

    /// For who asks all edges at once; `None`: there is no `[fleet]`.
    pub fn survey(&self) -> Option<Survey> {
        self.core.has_peers().then(|| Survey(Arc::clone(&self.core)))
    }

    /// `None`: there is no `[fleet]`.
    pub fn observed(&self) -> Option<Arc<FleetObserved>> {
        self.core.has_peers().then(|| Arc::new(self.core.observe()))
    }
}

/// Asks all edges at once.
#[derive(Clone)]
pub struct Survey(Arc<Core>);

impl Survey {
    /// What every other edge says, in the order of their names, after a bounded time.
    pub async fn ask(&self) -> Vec<survey::Word> {
        survey::ask(&self.0).await
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the fleet panicked");
        }
    }
}
