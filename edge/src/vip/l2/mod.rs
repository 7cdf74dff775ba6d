//! VIPs told by ARP and NDP: elects by VRRP, puts the addresses on the interface, announces and watches them.
//!
//! In: every group with the VIPs that may be served here now. Out: [`L2Observed`]. It has a thread and a runtime of its
//! own, so neither traffic nor the supervisor delays an advertisement, and it never waits for the disk or the kernel's
//! answers between two of them:
//!
//! ```text
//!  set ──watch──► actor ──watch: addresses wished──► kernel task ──► rtnetlink, list of our addresses
//!                  │ ▲ └──────◄──watch: what is there───────┘  ▲ changes
//!        raw sockets of VRRP, packet sockets of ARP and NDP
//! ```
//!
//! An address is there only while this edge is active. On release it is removed *before* the farewell is sent: for the
//! few milliseconds between nobody answers, while the other order would let two machines answer at once whenever the
//! kernel is slow, and neighbours could learn the wrong one last. Nothing here decides what may be served.
//! Standards: RFC 9568; RFC 5227, 4861.

mod actor;
mod election;
mod group;
mod kernel;
mod observed;
mod port;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use edge_bgp::{Permit, Secret};
use edge_config::announce::L2Group;
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

pub use observed::{ConflictSeen, ElectionSeen, GroupSeen, L2Observed, LeaderSeen, VipHeld, VipSeen};

/// How the actor is started.
pub struct L2Options {
    /// Names every address that may be ours, one `ADDRESS INTERFACE` per line, written before the first is added. After
    /// a crash it tells the next start, and whoever watches us, what to remove.
    pub list: PathBuf,
    /// Whether anything may be announced; asked before every turn. No: our watchman has withdrawn us.
    pub permit: Permit,
    /// Elections that another process of this machine had won and handed over; `None`: there was none.
    pub handed: Option<Vec<L2Handed>>,
}

/// An election that this machine has won.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct L2Handed {
    pub interface: String,
    pub router: u8,
    pub virtual_mac: bool,
    pub is_v6: bool,
}

/// How it ends.
enum Stop {
    /// Addresses away, farewells sent.
    Farewell,
    /// Everything stays as it is.
    Release(oneshot::Sender<Vec<L2Handed>>),
}

/// A group with what the rest of Edge says of it at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupWanted {
    pub group: L2Group,
    /// The text behind [`L2Group::key`], or why it cannot be had: then the group takes no part.
    pub key: Option<Result<Secret, String>>,
    /// VIPs of the group that may be served here. None of a family: this edge leaves its election. Fewer than there are:
    /// its priority falls below that of every edge that can serve all.
    pub told: BTreeSet<IpAddr>,
}

/// A handle to the actor's thread.
pub struct L2 {
    wanted: watch::Sender<Vec<GroupWanted>>,
    observed: watch::Receiver<Arc<L2Observed>>,
    stop: Option<oneshot::Sender<Stop>>,
    ended: watch::Receiver<bool>,
}

/// What an orderly end may take.
const STOP: Duration = Duration::from_secs(3);

impl L2 {
    /// Starts the thread, in the network namespace of the caller. Addresses that an earlier run left are removed first;
    /// where elections were handed over, with the first wish, and only those that it does not want.
    pub fn start(options: L2Options) -> std::io::Result<Self> {
        let (wanted, wishes) = watch::channel(Vec::new());
        let (publish, observed) = watch::channel(Arc::default());
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("edge-l2".into()).spawn(move || {
            // More than our fair share where that is allowed; a thread that does so little is served in time anyway.
            let _ = rustix::process::setpriority_process(None, -10);
            runtime.block_on(actor::run(options, wishes, publish, stopped));
            // Nobody waits for it any more if this fails.
            let _ = end.send(true);
        })?;
        Ok(Self { wanted, observed, stop: Some(stop), ended })
    }

    /// Makes this the whole wish. Returns at once; a later wish replaces one that was not looked at yet.
    pub fn set(&self, groups: Vec<GroupWanted>) {
        self.wanted.send_if_modified(|last| {
            let changed = *last != groups;
            *last = groups;
            changed
        });
    }

    /// What is seen now, and later changes of it; counters every second.
    pub fn observed(&self) -> watch::Receiver<Arc<L2Observed>> {
        self.observed.clone()
    }

    /// Falls silent with every address where it is, and returns what another process needs to lead on.
    pub async fn release(mut self) -> Vec<L2Handed> {
        let (reply, answer) = oneshot::channel();
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(Stop::Release(reply));
        }
        let handed = tokio::time::timeout(STOP, answer).await.ok().and_then(Result::ok).unwrap_or_default();
        let _ = tokio::time::timeout(STOP, self.ended.wait_for(|ended| *ended)).await;
        handed
    }

    /// Gives everything up in order: addresses away, farewells sent.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            // It has ended already: the same thing.
            let _ = stop.send(Stop::Farewell);
        }
        // Longer only if the kernel hangs, and then nothing can be done about it here.
        let _ = tokio::time::timeout(STOP, self.ended.wait_for(|ended| *ended)).await;
    }
}
