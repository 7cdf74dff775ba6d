//! Keeps Pods within reach: probes whether they are, adds routes to them by way of their nodes, and says when node ports
//! have to do instead.
//!
//! In: the whole wanted set (mode, routes, Pods to probe). Out: the way that is taken and why, and what is wrong with
//! routes. Routes are compared with the kernel's whenever it reports a change and every 30 s; those that bear our protocol
//! number and are not wanted are removed, so a crash leaves nothing behind for ever. What must not happen here: touching
//! a route of anybody else, or deciding which endpoints there are.

mod choose;
mod routes;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use edge_config::settings::{ReachMode, ReachSettings};
use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

pub use choose::Way;
use choose::{Chooser, Outcome};
use routes::Netlink;

/// Pods asked per round.
pub const PROBES: usize = 3;
/// A Pod of one's own cluster answers in milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between rounds: while the way is in doubt, while it works, and while it is the last resort.
const DOUBT: Duration = Duration::from_secs(1);
const STEADY: Duration = Duration::from_secs(10);
/// The kernel is asked anew this often, for changes that it did not report.
const RESYNC: Duration = Duration::from_secs(30);
/// Changes come in bursts, our own among them.
const SETTLE: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReachWanted {
    pub settings: ReachSettings,
    pub routes: BTreeMap<IpNet, IpAddr>,
    pub probes: Vec<SocketAddr>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReachObserved {
    pub way: Way,
    /// Empty where nothing had to be chosen.
    pub why: String,
    /// Routes that are in place.
    pub routes: usize,
    /// What is wrong with routes, one line each.
    pub notices: Vec<String>,
}

/// A handle to the task that owns the routes.
pub struct Reach {
    wanted: watch::Sender<Option<Arc<ReachWanted>>>,
    stop: mpsc::Sender<Stop>,
    observed: watch::Receiver<Arc<ReachObserved>>,
}

/// How the task ends, or begins.
enum Stop {
    Remove(oneshot::Sender<()>),
    Leave(oneshot::Sender<()>),
    /// No end: routes are ours from now on.
    TakeOver,
}

impl Reach {
    /// Starts the task on the current tokio runtime. `handed` is the way that another process of this machine has chosen
    /// and whose routes it keeps, until [`take_over`](Self::take_over).
    pub fn start(handed: Option<Way>) -> Self {
        let (wanted, inbox) = watch::channel(None);
        let (stop, stopped) = mpsc::channel(1);
        let (publish, observed) = watch::channel(Arc::default());
        let owner = Owner {
            looks_only: handed.is_some(),
            wanted: None,
            chooser: handed.map_or_else(Chooser::default, Chooser::resumed),
            netlink: None,
            publish,
            routes: 0,
            notices: Vec::new(),
        };
        if handed.is_some() {
            owner.tell();
        }
        tokio::spawn(owner.run(inbox, stopped));
        Self { wanted, stop, observed }
    }

    /// What is to be reached from now on.
    pub fn set(&self, wanted: ReachWanted) {
        self.wanted.send_if_modified(|known| {
            let is_new = known.as_deref() != Some(&wanted);
            if is_new {
                *known = Some(Arc::new(wanted));
            }
            is_new
        });
    }

    /// What is seen now, and later changes of it.
    pub fn observed(&self) -> watch::Receiver<Arc<ReachObserved>> {
        self.observed.clone()
    }

    /// The other process has let go of the routes.
    pub async fn take_over(&self) {
        // The task is gone only while the runtime goes down.
        let _ = self.stop.send(Stop::TakeOver).await;
    }

    /// Ends the task; another process goes on with the routes.
    pub async fn release(self) {
        self.end(Stop::Leave).await;
    }

    /// Removes our routes, unless they are to stay, and ends the task.
    pub async fn stop(self) {
        self.end(Stop::Remove).await;
    }

    async fn end(self, how: impl FnOnce(oneshot::Sender<()>) -> Stop) {
        let (done, answer) = oneshot::channel();
        if self.stop.send(how(done)).await.is_ok() {
            // An error means that the task ended before: the same thing.
            let _ = answer.await;
        }
    }
}

struct Owner {
    /// The routes are another process's.
    looks_only: bool,
    /// `None` before the first request: nothing is removed before somebody said what is wanted.
    wanted: Option<Arc<ReachWanted>>,
    chooser: Chooser,
    netlink: Option<Netlink>,
    publish: watch::Sender<Arc<ReachObserved>>,
    routes: usize,
    notices: Vec<String>,
}

impl Owner {
    async fn run(mut self, mut inbox: watch::Receiver<Option<Arc<ReachWanted>>>, mut stopped: mpsc::Receiver<Stop>) {
        // Subscribed before the first look, so no change is missed.
        let (mut changes, listener) = match routes::changes() {
            Some((changes, listener)) => (Some(changes), Some(listener)),
            None => (None, None),
        };
        let mut resync = Instant::now() + RESYNC;
        let mut probe = Instant::now();
        let mut round: JoinSet<Outcome> = JoinSet::new();
        loop {
            let is_asking = !round.is_empty();
            tokio::select! {
                Some(how) = stopped.recv() => match how {
                    Stop::TakeOver => {
                        self.looks_only = false;
                        self.sync().await;
                    }
                    Stop::Leave(done) => {
                        // Whoever asked may be gone.
                        let _ = done.send(());
                        break;
                    }
                    Stop::Remove(done) => {
                        self.end().await;
                        let _ = done.send(());
                        break;
                    }
                },
                Ok(()) = inbox.changed() => {
                    let wanted = inbox.borrow_and_update().clone();
                    let is_first = self.wanted.is_none();
                    let before = self.wanted.as_ref().map(|wanted| wanted.settings.mode);
                    self.wanted = wanted;
                    // What was handed over was chosen under the first.
                    if before != self.mode() && !(is_first && self.looks_only) {
                        self.chooser = Chooser::default();
                        probe = Instant::now();
                    }
                    if is_first || self.installs() || self.routes > 0 {
                        self.sync().await;
                    }
                }
                () = seen(&mut changes) => {
                    sleep(SETTLE).await;
                    if let Some(changes) = &mut changes {
                        while changes.try_recv().is_ok() {}
                    }
                    if self.installs() {
                        self.sync().await;
                    }
                }
                () = sleep_until(resync) => {
                    resync = Instant::now() + RESYNC;
                    if self.installs() || self.routes > 0 {
                        self.sync().await;
                    }
                }
                () = sleep_until(probe), if !is_asking && self.mode() == Some(ReachMode::Auto) => {
                    let probes = self.wanted.as_ref().map(|wanted| wanted.probes.clone()).unwrap_or_default();
                    round.spawn(ask(probes));
                }
                Some(outcome) = round.join_next(), if is_asking => {
                    // A probe that was aborted or fell over says nothing.
                    let outcome = outcome.unwrap_or(Outcome::Nothing);
                    if self.mode() == Some(ReachMode::Auto) && self.chooser.take(outcome) {
                        tracing::info!(way = %self.chooser.way(), "{}", self.chooser.why());
                        self.sync().await;
                    }
                    probe = Instant::now() + if self.chooser.is_in_doubt() { DOUBT } else { STEADY };
                }
            }
            self.tell();
        }
        if let Some(listener) = listener {
            listener.abort();
        }
    }

    fn mode(&self) -> Option<ReachMode> {
        self.wanted.as_ref().map(|wanted| wanted.settings.mode)
    }

    fn way(&self) -> Way {
        match self.mode() {
            Some(ReachMode::Auto) => self.chooser.way(),
            Some(ReachMode::PodRoute) => Way::PodRoute,
            Some(ReachMode::NodePort) => Way::NodePort,
            Some(ReachMode::Direct) | None => Way::Direct,
        }
    }

    /// Whether routes belong in the kernel: also under node ports that were chosen for want of anything better, since the
    /// way back is seen through them.
    fn installs(&self) -> bool {
        match self.mode() {
            Some(ReachMode::PodRoute) => true,
            Some(ReachMode::Auto) => self.chooser.way() != Way::Direct,
            Some(ReachMode::Direct | ReachMode::NodePort) | None => false,
        }
    }

    /// Makes the kernel's routes of ours those that are wanted.
    async fn sync(&mut self) {
        if self.looks_only {
            return;
        }
        let wanted = match &self.wanted {
            Some(wanted) if self.installs() => wanted.routes.clone(),
            Some(_) => BTreeMap::new(),
            None => return,
        };
        match self.converge(&wanted).await {
            Ok(notices) => {
                self.routes = wanted.len() - notices.len().min(wanted.len());
                for notice in notices.iter().filter(|notice| !self.notices.contains(notice)) {
                    tracing::warn!("{notice}");
                }
                self.notices = notices;
            }
            Err(error) => self.notices = vec![format!("routes to Pods: {error}")],
        }
    }

    async fn converge(&mut self, wanted: &BTreeMap<IpNet, IpAddr>) -> Result<Vec<String>, String> {
        let netlink = match &mut self.netlink {
            Some(netlink) => netlink,
            none => none.insert(Netlink::open()?),
        };
        let ours = netlink.list().await?;
        let mut notices = Vec::new();
        for (net, gateway) in ours.iter().filter(|(net, gateway)| wanted.get(net) != Some(gateway)) {
            if let Err(error) = netlink.remove(*net, *gateway).await {
                notices.push(format!("route {net} via {gateway} cannot be removed: {error}"));
            }
        }
        for (net, gateway) in wanted.iter().filter(|(net, gateway)| ours.get(net) != Some(gateway)) {
            if let Err(error) = netlink.add(*net, *gateway).await {
                notices.push(format!("route {net} via {gateway}: {error}"));
            }
        }
        Ok(notices)
    }

    async fn end(&mut self) {
        let keeps = self.looks_only || self.wanted.as_ref().is_none_or(|wanted| wanted.settings.keep_routes);
        if !keeps && (self.routes > 0 || self.installs()) {
            // What cannot be removed is removed by the next start.
            let _ = self.converge(&BTreeMap::new()).await;
        }
    }

    fn tell(&self) {
        let why = if self.mode() == Some(ReachMode::Auto) { self.chooser.why().to_owned() } else { String::new() };
        let now = ReachObserved { way: self.way(), why, routes: self.routes, notices: self.notices.clone() };
        self.publish.send_if_modified(|known| {
            let is_new = **known != now;
            if is_new {
                *known = Arc::new(now);
            }
            is_new
        });
    }
}

async fn seen(changes: &mut Option<mpsc::Receiver<()>>) {
    match changes {
        Some(inner) => {
            if inner.recv().await.is_none() {
                *changes = None;
            }
        }
        None => std::future::pending().await,
    }
}

/// One round: whether any of these Pods can be connected to.
async fn ask(probes: Vec<SocketAddr>) -> Outcome {
    let mut asked: JoinSet<Result<(), String>> = JoinSet::new();
    for address in probes {
        asked.spawn(async move {
            match timeout(PATIENCE, TcpStream::connect(address)).await {
                Ok(Ok(_)) => Ok(()),
                // An answer, if not the one that was hoped for.
                Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
                Ok(Err(error)) => Err(format!("{address}: {}", error.to_string().to_lowercase())),
                Err(_) => Err(format!("{address}: no answer within {} s", PATIENCE.as_secs())),
            }
        });
    }
    let mut first = Outcome::Nothing;
    while let Some(outcome) = asked.join_next().await {
        match outcome {
            Ok(Ok(())) => return Outcome::Reached,
            Ok(Err(why)) if first == Outcome::Nothing => first = Outcome::Unreached(why),
            _ => {}
        }
    }
    first
}
