//! BFD with the peers of BGP: a black hole is noticed in less than a second, whatever the hold time is.
//!
//! In: every peer that shall be watched. Out: [`BfdObserved`]. It has a thread and a runtime of its own, so neither
//! traffic nor the supervisor makes us look dead. What follows from a session that is down is decided elsewhere.
//! Standards: RFC 5880, 5881 (one hop), 5883 (several hops).

mod actor;
mod socket;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use edge_bgp::bfd::{Counters, Discard, Handed, State};
use edge_config::announce::Bfd as BfdSettings;
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

/// A peer to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BfdWanted {
    pub peer: IpAddr,
    /// What the peer sees; `None`: what the kernel chooses.
    pub local: Option<IpAddr>,
    /// Needed for a link-local peer.
    pub interface: Option<String>,
    /// RFC 5883 instead of RFC 5881.
    pub is_multihop: bool,
    pub bfd: BfdSettings,
    /// The session is held in AdminDown, which tells the peer that nothing is broken.
    pub is_disabled: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BfdObserved {
    /// In the order in which they were wished.
    pub sessions: Vec<BfdSeen>,
    /// Packets that were not used.
    pub discarded: BTreeMap<Discard, u64>,
    /// What keeps all sessions of a kind from working.
    pub notices: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BfdSeen {
    pub peer: IpAddr,
    pub interface: Option<String>,
    pub state: State,
    /// When the state was entered, and why.
    pub since: SystemTime,
    pub reason: String,
    /// Between our packets at the moment; `None`: none are sent.
    pub transmit: Option<Duration>,
    /// How long the peer may be silent; `None`: it does not speak.
    pub detection: Option<Duration>,
    pub remote: Option<RemoteSeen>,
    /// Why nothing can be sent.
    pub problem: Option<String>,
    pub counters: Counters,
}

/// What the peer says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteSeen {
    pub state: State,
    pub diagnostic: String,
    pub multiplier: u8,
    pub transmit: Duration,
    pub receive: Duration,
}

impl BfdObserved {
    pub fn session(&self, peer: IpAddr) -> Option<&BfdSeen> {
        self.sessions.iter().find(|session| session.peer == peer)
    }
}

/// A session that is up, on its way to another process of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BfdHanded {
    pub peer: IpAddr,
    pub local: Option<IpAddr>,
    pub interface: Option<String>,
    pub is_multihop: bool,
    pub session: Handed,
}

/// How it ends.
enum Stop {
    /// Peers are told.
    Farewell,
    /// Nobody notices.
    Release(oneshot::Sender<Vec<BfdHanded>>),
}

/// A handle to the actor's thread.
pub struct Bfd {
    wanted: watch::Sender<Vec<BfdWanted>>,
    observed: watch::Receiver<Arc<BfdObserved>>,
    stop: Option<oneshot::Sender<Stop>>,
    ended: watch::Receiver<bool>,
}

/// What an orderly end may take.
const STOP: Duration = Duration::from_secs(1);

impl Bfd {
    /// Starts the thread, in the network namespace of the caller. No socket is open before a peer is wished. Sessions that
    /// were handed over go on when they are wished first.
    pub fn start(handed: Vec<BfdHanded>) -> std::io::Result<Self> {
        let (wanted, wishes) = watch::channel(Vec::new());
        let (publish, observed) = watch::channel(Arc::default());
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("edge-bfd".into()).spawn(move || {
            // More than our fair share where that is allowed.
            let _ = rustix::process::setpriority_process(None, -10);
            runtime.block_on(actor::run(wishes, publish, handed, stopped));
            // Nobody waits for it any more if this fails.
            let _ = end.send(true);
        })?;
        Ok(Self { wanted, observed, stop: Some(stop), ended })
    }

    /// Makes this the whole wish. Returns at once; sessions that go on are not disturbed.
    pub fn set(&self, peers: Vec<BfdWanted>) {
        self.wanted.send_if_modified(|last| {
            let changed = *last != peers;
            *last = peers;
            changed
        });
    }

    /// What is seen now, and later changes of it; counters every second.
    pub fn observed(&self) -> watch::Receiver<Arc<BfdObserved>> {
        self.observed.clone()
    }

    /// Falls silent, and returns what another process needs to go on before any peer notices.
    pub async fn release(mut self) -> Vec<BfdHanded> {
        let (reply, answer) = oneshot::channel();
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(Stop::Release(reply));
        }
        let handed = tokio::time::timeout(STOP, answer).await.ok().and_then(Result::ok).unwrap_or_default();
        // Its sockets are closed with it.
        let _ = tokio::time::timeout(STOP, self.ended.wait_for(|ended| *ended)).await;
        handed
    }

    /// Tells every peer that its session ends on purpose.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            // It has ended already: the same thing.
            let _ = stop.send(Stop::Farewell);
        }
        // Only a kernel that hangs takes longer.
        let _ = tokio::time::timeout(STOP, self.ended.wait_for(|ended| *ended)).await;
    }
}
