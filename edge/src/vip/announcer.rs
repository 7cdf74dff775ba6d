//! Makes the network know what may be known: the one place where BGP, the virtual routers, BFD and the guard meet.
//!
//! In: the plan and how each VIP stands, whole, each time. Out: what is really told to whom. It has a thread and a runtime of
//! its own, so that a compile or a slow disk delays no announcement. Whatever is told is first entrusted to the guard,
//! which takes it back when edged no longer can. It decides nothing about a VIP; the gate has done that.

mod lost;
mod passwords;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use edge_bgp::child::Parent;
use edge_bgp::speaker::Household;
use edge_bgp::{Observed, Speaker, Tell, Wanted};
use edge_config::announce::{Announce, Engine, Password, Peer, PeerAddress, Prefix};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use self::lost::Lost;
use self::passwords::PasswordFiles;
pub use self::passwords::Passwords;
use super::bfd::{Bfd, BfdHanded, BfdObserved, BfdWanted};
use super::gate::Stance;
use super::guard::{ChildProcess, Guard, OWN_PROGRAM, Undo, Untold};
use super::l2::{GroupWanted, L2, L2Handed, L2Observed, L2Options, VipHeld};
use crate::control::observed::Network;
use crate::moment;
use crate::pulse::Vitals;

/// What is to be told.
#[derive(Debug, Clone, Default, PartialEq)]
struct Order {
    plan: Announce,
    stances: BTreeMap<IpAddr, Stance>,
    passwords: Passwords,
    /// The last undoing of the guard after which the VIPs were judged.
    undone: u64,
}

/// Everything that the network knows of this machine, between two processes of it: no peer notices while somebody holds
/// it and goes on in time.
#[derive(Debug, Default)]
pub struct Told {
    pub gobgpd: Option<edge_bgp::child::Handed>,
    pub l2: Vec<L2Handed>,
    pub bfd: Vec<BfdHanded>,
}

impl Told {
    /// For who may have to go on himself.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        let Self { gobgpd, l2, bfd } = self;
        let gobgpd = gobgpd.as_ref().map(edge_bgp::child::Handed::try_clone).transpose()?;
        Ok(Self { gobgpd, l2: l2.clone(), bfd: bfd.clone() })
    }
}

/// Whence the thread begins.
pub enum Begin {
    /// Nobody knows of this machine.
    Anew,
    /// When another process has handed over. The second is told as soon as the guard of this one watches over it.
    After(oneshot::Receiver<Told>, oneshot::Sender<()>),
}

/// How the thread ends.
enum Stop {
    Withdraw,
    Release(oneshot::Sender<Released>),
}

/// What was let go of. The guard still takes everything back if this process dies; to be stopped when another's watches.
pub struct Released {
    pub told: Told,
    pub guard: Guard,
}

/// A handle to the thread.
pub struct Announcer {
    orders: watch::Sender<Arc<Order>>,
    network: watch::Receiver<Arc<Network>>,
    stop: Option<oneshot::Sender<Stop>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// After it an orderly end goes on without the network's word.
const WITHDRAWAL_PATIENCE: Duration = Duration::from_secs(3);
/// A password file is read again this often.
const PASSWORDS: Duration = Duration::from_secs(10);

impl Announcer {
    /// Starts the thread, which announces nothing yet. `changed` is told of everything new in [`observed`](Self::observed).
    /// `vitals` are those without whom nothing may be announced.
    pub fn start(run_directory: PathBuf, vitals: Vitals, begin: Begin, changed: Arc<Notify>) -> std::io::Result<Self> {
        let guard = Guard::start(Path::new(OWN_PROGRAM), vitals)?;
        let permit = guard.permit().question();
        let address_list = run_directory.join("l2.addresses");
        let (orders, inbox) = watch::channel(Arc::default());
        let (publish, network) = watch::channel(Arc::default());
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let body = move || {
            runtime.block_on(async {
                let (told, entrusted) = match begin {
                    Begin::Anew => (None, None),
                    Begin::After(told, entrusted) => match told.await {
                        Ok(told) => (Some(told), Some(entrusted)),
                        // Nothing is handed over any more: this process ends.
                        Err(_) => return,
                    },
                };
                let is_handed = told.is_some();
                let Told { gobgpd, l2, bfd } = told.unwrap_or_default();
                let options =
                    L2Options { list: address_list.clone(), permit: permit.clone(), handed: is_handed.then_some(l2) };
                let (l2, bfd) = match (L2::start(options), Bfd::start(bfd)) {
                    (Ok(l2), Ok(bfd)) => (l2, bfd),
                    (Err(error), _) | (_, Err(error)) => {
                        tracing::error!(%error, "nothing can be announced: no thread");
                        return;
                    }
                };
                let child = gobgpd.as_ref().map(|handed| handed.pid);
                let household = Household {
                    parent: Parent::Minder(PathBuf::from(OWN_PROGRAM)),
                    directory: run_directory.join("gobgp"),
                    handed: gobgpd,
                };
                let speaker = Speaker::start(household, permit);
                let (undo, passwords, lost) = (Undo::default(), PasswordFiles::default(), Lost::default());
                let mut owner = Owner {
                    speaker,
                    l2,
                    bfd,
                    lost,
                    guard,
                    address_list,
                    undo,
                    is_entrusted: true,
                    acknowledged: 0,
                    publish,
                    changed,
                    passwords,
                };
                if is_handed {
                    // Before it is taken up: whoever had it may end as soon as this is said.
                    owner.entrust_child(child).await;
                    if let Some(entrusted) = entrusted {
                        let _ = entrusted.send(());
                    }
                }
                owner.run(inbox, stopped).await;
            });
        };
        let thread = std::thread::Builder::new().name("edge-network".to_owned()).spawn(body)?;
        Ok(Self { orders, network, stop: Some(stop), thread: Some(thread) })
    }

    /// One that has ended: nothing is observed, and what is set is lost.
    pub fn ended() -> Self {
        Self {
            orders: watch::channel(Arc::default()).0,
            network: watch::channel(Arc::default()).1,
            stop: None,
            thread: None,
        }
    }

    /// Makes the network know exactly this. What is told already is not told again.
    /// `undone` is the last undoing of the guard that the stances take into account.
    pub fn set(&self, plan: &Announce, stances: &[(IpAddr, Stance)], passwords: &Passwords, undone: u64) {
        self.orders.send_if_modified(|order| {
            let is_same = order.plan == *plan
                && order.undone == undone
                && order.passwords == *passwords
                && order.stances.len() == stances.len()
                && stances.iter().all(|(address, stance)| order.stances.get(address) == Some(stance));
            if !is_same {
                let stances = stances.iter().cloned().collect();
                *order = Arc::new(Order { plan: plan.clone(), stances, passwords: passwords.clone(), undone });
            }
            !is_same
        });
    }

    pub fn observed(&self) -> Network {
        Network::clone(&self.network.borrow())
    }

    /// How long an orderly withdrawal may take.
    pub fn patience(&self) -> Duration {
        let lame = self.orders.borrow().plan.bgp.as_ref().map_or(Duration::ZERO, |bgp| bgp.graceful_shutdown);
        lame + WITHDRAWAL_PATIENCE
    }

    /// Waits until nobody is told anything any more, and no longer than [`patience`](Self::patience) allows for.
    pub async fn until_withdrawn(&self) {
        let mut network = self.network.clone();
        let withdrawn = network.wait_for(|network| !network.is_told());
        if tokio::time::timeout(WITHDRAWAL_PATIENCE, withdrawn).await.is_err() {
            tracing::warn!("the network has not confirmed within {WITHDRAWAL_PATIENCE:?} that everything is withdrawn");
        }
    }

    /// Ends the thread with everything told as it is. `None`: it has ended already.
    pub async fn release(mut self) -> Option<Released> {
        let (reply, answer) = oneshot::channel();
        self.stop.take()?.send(Stop::Release(reply)).ok()?;
        let released = answer.await.ok()?;
        self.join().await;
        Some(released)
    }

    /// Takes everything back and ends the thread.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            // It is gone already: the same thing.
            let _ = stop.send(Stop::Withdraw);
        }
        self.join().await;
    }

    async fn join(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if let Ok(Err(_)) = tokio::task::spawn_blocking(move || thread.join()).await {
            tracing::error!("the thread of the announcers panicked");
        }
    }
}

struct Owner {
    speaker: Speaker,
    l2: L2,
    guard: Guard,
    /// Where the addresses are that virtual routers have added.
    address_list: PathBuf,
    /// What the guard knows, or should know.
    undo: Undo,
    /// The guard has taken it.
    is_entrusted: bool,
    /// The last undoing that the guard was told that we know of.
    acknowledged: u64,
    publish: watch::Sender<Arc<Network>>,
    changed: Arc<Notify>,
    passwords: PasswordFiles,
    bfd: Bfd,
    lost: Lost,
}

impl Owner {
    async fn run(mut self, mut orders: watch::Receiver<Arc<Order>>, mut stopped: oneshot::Receiver<Stop>) {
        let mut bgp = self.speaker.observed();
        let mut l2 = self.l2.observed();
        let mut guard = self.guard.observed();
        let mut bfd = self.bfd.observed();
        let mut reread = Instant::now() + PASSWORDS;
        let mut held = BTreeSet::new();
        let reply = loop {
            tokio::select! {
                changed = orders.changed() => {
                    if changed.is_err() {
                        break None;
                    }
                    let order = Arc::clone(&orders.borrow_and_update());
                    self.passwords.read(&order.plan);
                    if order.undone > self.acknowledged {
                        // In this order: with the word that it is known, the permit is there again, and nobody may have
                        // a wish from before.
                        self.wish(&order, &held);
                        self.acknowledged = order.undone;
                        self.guard.acknowledge(order.undone);
                        // What it knew before counts no more.
                        self.entrust(self.undo.clone()).await;
                    }
                    self.tell(&order, &held).await;
                    self.watch(&order, &bgp.borrow());
                }
                Ok(()) = bgp.changed() => {
                    let seen = bgp.borrow().clone();
                    self.entrust_child(seen.engine.pid).await;
                    self.watch(&orders.borrow(), &seen);
                }
                Ok(()) = bfd.changed() => {
                    let order = Arc::clone(&orders.borrow());
                    let seen = bfd.borrow().clone();
                    if self.look_for_lost(&order, &bgp.borrow(), &seen) {
                        self.tell(&order, &held).await;
                    }
                }
                () = moment::reached(self.lost.next()) => {
                    let order = Arc::clone(&orders.borrow());
                    let seen = bfd.borrow().clone();
                    if self.look_for_lost(&order, &bgp.borrow(), &seen) {
                        self.tell(&order, &held).await;
                    }
                }
                Ok(()) = l2.changed() => {
                    let now = held_addresses(&l2.borrow());
                    if now != held {
                        held = now;
                        let order = Arc::clone(&orders.borrow());
                        self.tell(&order, &held).await;
                    }
                }
                Ok(()) = guard.changed() => {
                    // Somebody stood still when it was told last.
                    if !self.is_entrusted && guard.borrow().failing.is_none() {
                        self.entrust(self.undo.clone()).await;
                    }
                }
                () = tokio::time::sleep_until(reread) => {
                    reread = Instant::now() + PASSWORDS;
                    let order = Arc::clone(&orders.borrow());
                    if self.passwords.read(&order.plan) {
                        self.tell(&order, &held).await;
                    }
                }
                how = &mut stopped => match how {
                    Ok(Stop::Release(reply)) => break Some(reply),
                    Ok(Stop::Withdraw) | Err(_) => break None,
                },
            }
            self.show(Network {
                bgp: Some(bgp.borrow_and_update().clone()),
                l2: l2.borrow_and_update().clone(),
                bfd: bfd.borrow_and_update().clone(),
                guard: guard.borrow_and_update().clone(),
                ..Network::default()
            });
        };
        let Self { speaker, l2, bfd, guard, .. } = self;
        if let Some(reply) = reply {
            // At the same time, since peers of all three count.
            let (gobgpd, l2, bfd) = tokio::join!(speaker.release(), l2.release(), bfd.release());
            if let Err(released) = reply.send(Released { told: Told { gobgpd, l2, bfd }, guard }) {
                released.guard.stop().await;
            }
            return;
        }
        l2.stop().await;
        if let edge_bgp::Stopped::Unconfirmed(reason) = speaker.stop(WITHDRAWAL_PATIENCE).await {
            tracing::warn!("bgp: {reason}");
        }
        // Last, so that nobody takes its silence for a fault.
        bfd.stop().await;
        guard.stop().await;
    }

    /// Makes the guard know the gobgpd that is to be ended when edged cannot do it. It has no session yet, which takes
    /// longer than this.
    async fn entrust_child(&mut self, pid: Option<u32>) {
        if self.undo.gobgpd.as_ref().map(|child| child.pid()) == pid {
            return;
        }
        let gobgpd = pid.and_then(|pid| match ChildProcess::of(pid) {
            Ok(child) => Some(Arc::new(child)),
            Err(error) => {
                tracing::warn!("gobgpd {pid} has no guard: {error}");
                None
            }
        });
        self.entrust(Undo { gobgpd, ..self.undo.clone() }).await;
    }

    async fn entrust(&mut self, undo: Undo) {
        self.undo = undo;
        let told = self.guard.tell(self.undo.clone()).await;
        self.is_entrusted = told.is_ok();
        match told {
            // Whoever withdrew or fails says so in what is observed, and the VIPs are judged by that.
            Ok(()) | Err(Untold::Undone | Untold::Failing(_)) => {}
            Err(error @ Untold::Unguarded(_)) => tracing::warn!("vips: {error}"),
        }
    }

    fn show(&self, network: Network) {
        let is_new = self.publish.send_if_modified(|shown| {
            let is_new = **shown != network;
            if is_new {
                *shown = Arc::new(network);
            }
            is_new
        });
        if is_new {
            self.changed.notify_one();
        }
    }

    /// Has BFD watch the peers for whom that is asked.
    fn watch(&self, order: &Order, seen: &Observed) {
        let peers = order.plan.bgp.iter().flat_map(|bgp| &bgp.peers);
        let watched = peers.filter_map(|peer| {
            let bfd = peer.bfd?;
            let interface = match &peer.address {
                PeerAddress::Address(_) => None,
                PeerAddress::Interface(name) => Some(name.clone()),
            };
            let local = peer.source;
            let is_multihop = peer.multihop.is_some();
            Some(BfdWanted { peer: address_of(peer, seen)?, local, interface, is_multihop, bfd, is_disabled: false })
        });
        self.bfd.set(watched.collect());
    }

    /// Whether BFD has lost or found a peer.
    fn look_for_lost(&mut self, order: &Order, seen: &Observed, bfd: &BfdObserved) -> bool {
        let peers = order.plan.bgp.iter().flat_map(|bgp| &bgp.peers).filter(|peer| peer.bfd.is_some());
        let sessions = peers.filter_map(|peer| {
            let session = bfd.session(address_of(peer, seen)?)?;
            Some((&peer.name, session.state, &*session.reason))
        });
        self.lost.see(sessions, Instant::now())
    }

    /// `held` are the addresses that this edge has by election.
    async fn tell(&mut self, order: &Order, held: &BTreeSet<IpAddr>) {
        let elected: BTreeSet<IpAddr> = order.plan.l2.iter().flat_map(|group| &group.vips).copied().collect();
        let address_list = (!elected.is_empty()).then(|| self.address_list.clone());
        // A child is ended as a whole, and is known when it has been started.
        let engine = order.plan.bgp.as_ref().map(|bgp| &bgp.engine);
        let engine = engine.filter(|engine| !matches!(engine, Engine::Child { .. })).cloned();
        if self.undo.address_list != address_list || self.undo.engine != engine {
            self.entrust(Undo { address_list, engine, ..self.undo.clone() }).await;
        }
        self.wish(order, held);
    }

    /// Asks for it, of whom the guard knows already.
    fn wish(&self, order: &Order, held: &BTreeSet<IpAddr>) {
        let elected: BTreeSet<IpAddr> = order.plan.l2.iter().flat_map(|group| &group.vips).copied().collect();
        let groups = order.plan.l2.iter().map(|group| GroupWanted {
            group: group.clone(),
            key: group.key.as_ref().map(|key| self.passwords.text(&order.passwords, key)),
            told: group
                .vips
                .iter()
                .copied()
                .filter(|vip| order.stances.get(vip).is_some_and(Stance::is_told))
                .collect(),
        });
        self.l2.set(groups.collect());
        let wanted = order.plan.bgp.as_ref().map(|bgp| {
            let password = |password: &Password| self.passwords.text(&order.passwords, password);
            let tell = |prefix: &Prefix| {
                told(prefix.vips.iter().filter(|vip| !elected.contains(vip) || held.contains(vip)), &order.stances)
            };
            let mut wanted = Wanted::of(bgp, password, tell);
            for peer in &mut wanted.peers {
                peer.held = self.lost.reason(&peer.peer.name).map(str::to_owned);
            }
            wanted
        });
        self.speaker.set(wanted);
    }
}

/// Of an unnumbered peer: what was found at the other end.
fn address_of(peer: &Peer, seen: &Observed) -> Option<IpAddr> {
    match &peer.address {
        PeerAddress::Address(address) => Some(*address),
        PeerAddress::Interface(_) => {
            let found = seen.peer(&peer.name)?.address.as_deref()?;
            found.split('%').next()?.parse().ok()
        }
    }
}

/// The addresses that this edge has by election.
fn held_addresses(seen: &L2Observed) -> BTreeSet<IpAddr> {
    let vips = seen.groups.iter().flat_map(|group| &group.elections).flat_map(|election| &election.vips);
    vips.filter(|vip| vip.state == VipHeld::Held).map(|vip| vip.address).collect()
}

/// What is told of a prefix: the best that any of its VIPs may have.
fn told<'v>(vips: impl Iterator<Item = &'v IpAddr>, stances: &BTreeMap<IpAddr, Stance>) -> Tell {
    let of = |address| match stances.get(address) {
        Some(Stance::Announced) => Tell::Announced,
        Some(Stance::Leaving) => Tell::Leaving,
        Some(Stance::Held { .. } | Stance::Withheld(_)) | None => Tell::Withdrawn,
    };
    vips.map(of).min().unwrap_or(Tell::Withdrawn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vip::Withheld;

    #[test]
    fn a_prefix_is_told_while_one_of_its_vips_may_be() {
        let vips: Vec<IpAddr> = ["192.0.2.1", "192.0.2.2"].iter().map(|text| text.parse().unwrap()).collect();
        let bad = || Stance::Withheld(Withheld::NoListener);
        for (stances, expected) in [
            ([Stance::Announced, bad()], Tell::Announced),
            ([bad(), Stance::Leaving], Tell::Leaving),
            ([Stance::Leaving, Stance::Announced], Tell::Announced),
            ([bad(), bad()], Tell::Withdrawn),
        ] {
            let stances = vips.iter().copied().zip(stances).collect();
            assert_eq!(told(vips.iter(), &stances), expected, "{stances:?}");
        }
        assert_eq!(told(vips.iter(), &BTreeMap::new()), Tell::Withdrawn);
    }
}
