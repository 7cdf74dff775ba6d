//! One connection to an engine, from the first look at it until it ends.
//!
//! Everything is read before anything is changed, so an engine that was just born, one that was left by a run before
//! us and one that somebody meddled with are the same to us.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use edge_config::announce::{Engine, NextHop, PeerAddress};
use ipnet::IpNet;
use tokio::sync::watch;
use tokio::time::Instant;

use super::report::{PeerView, Report, held};
use super::{End, Order, Stopped};
use crate::child::{Child, Event};
use crate::diagnose::{Evidence, Md5, Notes, diagnose, note};
use crate::gobgp::client::{Client, Error, Reading};
use crate::gobgp::read::{PeerStatus, TablePath};
use crate::observed::SessionState;
use crate::own::{Tables, neighbor};
use crate::permit::Permit;
use crate::plan::model::{Call, Family, Path, PeerKey, Seen, SeenPeer};
use crate::plan::target::Found;
use crate::plan::{Meanings, plan, refusal, target};
use crate::wanted::Wanted;

/// Every so often the engine is read anew and put right.
const AUDIT: Duration = Duration::from_secs(10);
/// The same, while a peer could not be added.
const RETRY: Duration = Duration::from_secs(2);
/// How often sessions are looked at: nothing tells of counters.
const LOOK: Duration = Duration::from_secs(2);
/// The same, while a session is on its way.
const LOOK_CLOSELY: Duration = Duration::from_millis(500);
/// How long a burst of events is collected.
const CALM: Duration = Duration::from_millis(20);
/// How often it is asked whether anything may be told, while nothing may.
const ASK: Duration = Duration::from_millis(50);
/// Rounds of reading and changing until nothing is left to change.
const ROUNDS: usize = 4;
/// A peer that was closed for sending too much may try again after this.
const FORGIVE: Duration = Duration::from_secs(300);
/// The counters of TCP-MD5 are compared with those of one to two of these ago.
const MD5_WINDOW: Duration = Duration::from_secs(30);

pub struct Session<'a> {
    pub child: Option<Child>,
    client: Client,
    permit: Permit,
    report: &'a mut Report,
    /// The engine's host is this one, so that its kernel's counters and addresses are ours to read.
    is_local: bool,
    statuses: Vec<PeerStatus>,
    accepted: BTreeMap<IpAddr, u64>,
    held: BTreeSet<IpNet>,
    adj_out: BTreeMap<Arc<str>, BTreeMap<IpNet, TablePath>>,
    notes: Notes,
    /// Why a peer could not be added, or is told less than wanted.
    refused: BTreeMap<PeerKey, String>,
    untold: BTreeMap<Arc<str>, String>,
    closed: BTreeMap<PeerKey, Instant>,
    meanings: Meanings,
    md5: [Md5; 2],
    md5_taken: Instant,
}

/// How far the engine was made to hold what is wanted.
enum Applied {
    /// All of it was asked of it.
    Whole,
    /// What would be told to peers waits for the permit.
    Unpermitted,
}

impl<'a> Session<'a> {
    pub fn new(
        engine: &Engine,
        child: Option<Child>,
        client: Client,
        (permit, report): (Permit, &'a mut Report),
    ) -> Self {
        let is_local = match engine {
            Engine::Child { .. } | Engine::Unix { .. } => true,
            Engine::Tcp { address, .. } => address.ip().is_loopback(),
        };
        let version = child.as_ref().map(|child| child.version.clone());
        report.running(client.series().number(), version, child.as_ref().map(|child| child.pid));
        let md5 = read_md5();
        Self {
            child,
            client,
            permit,
            report,
            is_local,
            statuses: Vec::new(),
            accepted: BTreeMap::new(),
            held: BTreeSet::new(),
            adj_out: BTreeMap::new(),
            notes: Notes::default(),
            refused: BTreeMap::new(),
            untold: BTreeMap::new(),
            closed: BTreeMap::new(),
            meanings: Meanings::default(),
            md5: [md5; 2],
            md5_taken: Instant::now(),
        }
    }

    /// Keeps the engine as it is wanted.
    pub async fn run(&mut self, orders: &mut watch::Receiver<Order>) -> End {
        let engine = orders.borrow().engine().cloned();
        let mut events = match self.client.watch().await {
            Ok(events) => events,
            Err(error) => return End::Failed(error.to_string()),
        };
        let mut done = None;
        let mut audit = Instant::now();
        let mut look = Instant::now();
        let mut adj_out_due = true;
        let mut backoff = Backoff::new();
        let mut is_waiting = false;
        loop {
            // Before the order is read: what was wanted before a withdrawal behind our back is not wanted after it.
            let standing = self.permit.standing();
            if is_waiting && standing.is_some() {
                audit = Instant::now();
            }
            let order = orders.borrow_and_update().clone();
            if order.is_over {
                return End::Released;
            }
            if order.engine() != engine.as_ref() {
                let end = order.end;
                let stopped = self.leave(end.unwrap_or_else(|| Instant::now() + super::PATIENCE)).await;
                return match (end, stopped) {
                    (Some(_), stopped) => End::Stopped(stopped),
                    (None, Stopped::Withdrawn) => End::Replaced(Ok(())),
                    (None, Stopped::Unconfirmed(reason)) => End::Replaced(Err(reason)),
                };
            }
            let Some(wanted) = order.wanted else { return End::Replaced(Ok(())) };
            if done != Some(order.generation) || Instant::now() >= audit {
                is_waiting = false;
                match self.apply(&wanted, standing).await {
                    Ok(Applied::Whole) => {
                        backoff = Backoff::new();
                        let again = if self.refused.is_empty() { AUDIT } else { RETRY };
                        audit = Instant::now() + again;
                        self.report.settled(order.generation, true);
                    }
                    Ok(Applied::Unpermitted) => {
                        is_waiting = true;
                        audit = Instant::now() + AUDIT;
                        self.report.settled(order.generation, false);
                    }
                    Err(error) if error.is_lost() => return End::Failed(error.to_string()),
                    Err(error) => {
                        self.report.settled(order.generation, false);
                        self.report.error(Some(error.to_string()));
                        audit = Instant::now() + backoff.next();
                    }
                }
                done = Some(order.generation);
                adj_out_due = true;
            }
            if adj_out_due || Instant::now() >= look {
                if let Err(error) = self.look(&wanted, adj_out_due).await
                    && error.is_lost()
                {
                    return End::Failed(error.to_string());
                }
                adj_out_due = false;
                look = Instant::now() + if self.is_calm(&wanted) { LOOK } else { LOOK_CLOSELY };
            }
            tokio::select! {
                changed = orders.changed() => if changed.is_err() {
                    return End::Dropped;
                },
                event = events.message() => match event {
                    Ok(Some(_)) => {
                        // More follow at once as a rule.
                        let calm = Instant::now() + CALM;
                        while let Ok(Ok(Some(_))) = tokio::time::timeout_at(calm, events.message()).await {}
                        adj_out_due = true;
                        // What a peer says of itself may decide what it is told.
                        audit = Instant::now();
                    }
                    Ok(None) | Err(_) => return End::Failed(self.epitaph().await),
                },
                event = child_event(&mut self.child) => match event {
                    Event::Line(line) => self.hear(&line),
                    Event::Ended(how) => return End::Failed(format!("gobgpd ended: {how}")),
                },
                () = tokio::time::sleep_until(look.min(audit)) => {}
                () = tokio::time::sleep(ASK), if is_waiting => {}
            }
        }
    }

    /// Makes the engine hold what is wanted, as it was wanted when the permit stood so.
    async fn apply(&mut self, wanted: &Wanted, standing: Option<u64>) -> Result<Applied, Error> {
        for _ in 0..ROUNDS {
            let Reading { seen, statuses, accepted } = self.client.read().await?;
            self.statuses = statuses;
            self.accepted = accepted;
            let (mut target, untold) = target(wanted, &self.found(wanted));
            self.untold = untold;
            self.meanings.keep(&mut target, &seen);
            if let Some(refusal) = refusal(&target, &seen) {
                self.report.error(Some(refusal));
                return Ok(Applied::Whole);
            }
            self.report.foreign(foreign(&seen));
            let is_anew = seen.global.is_none() && self.report.was_filled();
            if is_anew {
                // Our forwarding went on while the engine was away: peers may keep our routes (RFC 4724 §4.1).
                for peer in target.peers.values_mut() {
                    peer.is_restarting = true;
                }
            }
            let refused: BTreeSet<PeerKey> = self.refused.keys().cloned().collect();
            let calls = plan(&target, &seen);
            self.held = held(&target, &seen.paths).into_iter().collect();
            let is_done = calls.iter().all(|call| matches!(call, Call::AddPeer(peer) if refused.contains(&peer.key)));
            self.refused.retain(|key, _| target.peers.contains_key(key));
            let mut is_held_back = false;
            for call in &calls {
                // Asked right before each call: everything up to here may have taken for ever.
                is_held_back |= !call.is_silent() && !self.permit.holds_since(standing);
                if is_held_back && !call.is_silent() {
                    continue;
                }
                self.make(call).await?;
                if is_anew && matches!(call, Call::Start(_)) {
                    self.report.restarted();
                }
            }
            if is_held_back {
                return Ok(Applied::Unpermitted);
            }
            if is_done {
                break;
            }
        }
        self.report.filled();
        self.report.error(None);
        Ok(Applied::Whole)
    }

    /// One call; a peer that cannot be added holds up nobody else.
    async fn make(&mut self, call: &Call) -> Result<(), Error> {
        let outcome = self.client.call(call).await;
        let Call::AddPeer(peer) = call else { return outcome };
        match outcome {
            Ok(()) => {
                self.refused.remove(&peer.key);
                self.notes.forget(&peer.key.to_string());
                Ok(())
            }
            Err(Error::Call { reason, is_lost: false, .. }) => {
                self.refused.insert(peer.key.clone(), not_added(&peer.key, &reason));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Looks at the sessions, and where asked at what they have been told.
    async fn look(&mut self, wanted: &Wanted, with_adj_out: bool) -> Result<(), Error> {
        self.statuses = self.client.peers().await?;
        let up: Vec<(Arc<str>, SeenPeer, Vec<Family>)> = wanted
            .peers
            .iter()
            .filter_map(|peer| {
                let status = self.status(&PeerKey::from(&peer.peer.address))?;
                let is_told = status.session == SessionState::Established && !status.is_deferring;
                let families = &peer.peer.families;
                let families = [(families.v4, Family::V4), (families.v6, Family::V6)];
                let families = families.into_iter().filter(|(has, _)| *has).map(|(_, family)| family).collect();
                is_told.then(|| (peer.peer.name.clone(), status.there.clone(), families))
            })
            .collect();
        let names: BTreeSet<&Arc<str>> = up.iter().map(|(name, ..)| name).collect();
        let is_known = self.adj_out.len() == names.len() && self.adj_out.keys().all(|name| names.contains(name));
        if with_adj_out || !is_known {
            let mut all = BTreeMap::new();
            for (name, there, families) in up {
                let mut told = BTreeMap::new();
                for family in families {
                    let paths = self.client.adj_out(&there.address, family).await?;
                    told.extend(paths.into_iter().map(|path| (path.prefix, path)));
                }
                all.insert(name, told);
            }
            self.adj_out = all;
        }
        self.forgive(wanted).await?;
        self.tell(wanted);
        Ok(())
    }

    /// Lets peers try again that were closed a while ago for sending too much.
    async fn forgive(&mut self, wanted: &Wanted) -> Result<(), Error> {
        let over: Vec<(PeerKey, String)> = self
            .statuses
            .iter()
            .filter(|status| status.is_over_limit && status.is_ours())
            .map(|status| (status.key.clone(), status.there.address.clone()))
            .collect();
        self.closed.retain(|key, _| over.iter().any(|(known, _)| known == key));
        for (key, address) in over {
            let is_wanted = wanted.peers.iter().any(|peer| PeerKey::from(&peer.peer.address) == key);
            let since = *self.closed.entry(key.clone()).or_insert_with(Instant::now);
            if is_wanted && since.elapsed() > FORGIVE {
                self.closed.remove(&key);
                self.client.enable(&address).await?;
            }
        }
        Ok(())
    }

    fn tell(&mut self, wanted: &Wanted) {
        let md5 = self.md5_grown();
        let Self { report, statuses, notes, refused, untold, held, adj_out, accepted, .. } = self;
        report.peers(wanted, |key| {
            let status = statuses.iter().find(|status| status.key == *key);
            let Some(peer) = wanted.peers.iter().find(|peer| PeerKey::from(&peer.peer.address) == *key) else {
                return PeerView { status, error: None, accepted: 0 };
            };
            let is_foreign = status.is_some_and(|status| !status.is_ours());
            let error = if is_foreign {
                Some(format!("{key}: the engine has a neighbor there that is not Edge's; expected none"))
            } else if peer.held.is_some() {
                peer.held.clone()
            } else if status.is_some_and(|status| status.session == SessionState::Established) {
                untold.get(&peer.peer.name).cloned()
            } else if let Some(reason) = refused.get(key).filter(|_| status.is_none()) {
                Some(reason.clone())
            } else {
                diagnose(&Evidence {
                    peer: &peer.peer,
                    password: &peer.password,
                    own_asn: wanted.asn.get(),
                    status,
                    note: status.and_then(|status| notes.of(&status.there.address)),
                    md5,
                })
            };
            let neighbor = status.and_then(|status| bare(&status.there.address));
            let accepted = neighbor.and_then(|neighbor| accepted.get(&neighbor)).copied().unwrap_or(0);
            PeerView { status, error, accepted }
        });
        report.prefixes(wanted, |prefix| held.contains(prefix), adj_out);
        report.publish();
    }

    /// Takes back everything of ours and waits until no adj-out has it.
    async fn leave(&mut self, end: Instant) -> Stopped {
        let withdrawn = async {
            let Reading { seen, statuses, .. } = self.client.read().await?;
            let paths: Vec<Path> = seen.paths.values().cloned().collect();
            if !paths.is_empty() {
                self.client.call(&Call::Withdraw(paths.clone())).await?;
            }
            let up = statuses.iter().filter(|peer| peer.is_ours() && peer.session == SessionState::Established);
            for peer in up {
                for family in Family::BOTH {
                    while self.still_told(&peer.there.address, family, &paths).await? {
                        tokio::time::sleep(CALM).await;
                    }
                }
            }
            Ok::<_, Error>(())
        };
        match tokio::time::timeout_at(end, withdrawn).await {
            Ok(Ok(())) => Stopped::Withdrawn,
            Ok(Err(error)) => Stopped::Unconfirmed(error.to_string()),
            Err(_) => Stopped::Unconfirmed("the deadline came before adj-out was empty".to_owned()),
        }
    }

    async fn still_told(&mut self, address: &str, family: Family, paths: &[Path]) -> Result<bool, Error> {
        match self.client.adj_out(address, family).await {
            Ok(told) => Ok(told.iter().any(|path| paths.iter().any(|ours| ours.prefix == path.prefix))),
            // A family that the peer does not have, or a peer that has gone.
            Err(error) if !error.is_lost() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What a peer's rules need to know.
    fn found(&self, wanted: &Wanted) -> BTreeMap<Arc<str>, Found> {
        let tables = self.is_local.then(Tables::read).unwrap_or_default();
        let found = |address: &PeerAddress| {
            let status = self.status(&PeerKey::from(address));
            let (neighbor, own) = match address {
                PeerAddress::Address(address) => (None, tables.towards(*address)),
                PeerAddress::Interface(name) => {
                    let heard = self.is_local.then(|| neighbor::router(name)).flatten().map(IpAddr::V6);
                    let known = || status.and_then(|status| bare(&status.there.address));
                    (heard.or_else(known), NextHop::default())
                }
            };
            Found { neighbor, own, asn: status.and_then(|status| status.asn) }
        };
        wanted.peers.iter().map(|peer| (peer.peer.name.clone(), found(&peer.peer.address))).collect()
    }

    fn status(&self, key: &PeerKey) -> Option<&PeerStatus> {
        self.statuses.iter().find(|status| status.key == *key && status.is_ours())
    }

    /// Every session is up and tells what it has.
    fn is_calm(&self, wanted: &Wanted) -> bool {
        wanted.peers.iter().all(|peer| {
            let status = self.status(&PeerKey::from(&peer.peer.address));
            status.is_some_and(|status| status.session == SessionState::Established && !status.is_deferring)
        })
    }

    fn md5_grown(&mut self) -> Md5 {
        if !self.is_local {
            return Md5::default();
        }
        let now = read_md5();
        if self.md5_taken.elapsed() > MD5_WINDOW {
            self.md5 = [self.md5[1], now];
            self.md5_taken = Instant::now();
        }
        now.since(self.md5[0])
    }

    /// Takes a line of the child's log.
    fn hear(&mut self, line: &str) {
        if let Some((address, note)) = note(line) {
            self.notes.add(address, note);
        }
        // What it says at that level is for the notes only.
        if !line.contains(r#""level":"debug""#) && !line.contains(r#""level":"DEBUG""#) {
            self.report.log(line.to_owned());
        }
    }

    /// Why the stream of events has ended.
    async fn epitaph(&mut self) -> String {
        let Some(child) = &mut self.child else {
            return "the engine closed the connection".to_owned();
        };
        match tokio::time::timeout(LOOK, child.ended()).await {
            Ok(how) => format!("gobgpd ended: {how}"),
            _ => "gobgpd closed the connection".to_owned(),
        }
    }
}

/// The address without the interface behind it.
fn bare(address: &str) -> Option<IpAddr> {
    address.split('%').next()?.parse().ok()
}

fn foreign(seen: &Seen) -> Option<String> {
    (seen.foreign_peers > 0).then(|| {
        format!("{} peers in it are not Edge's: they are left alone, under Edge's policies", seen.foreign_peers)
    })
}

fn not_added(key: &PeerKey, reason: &str) -> String {
    match key {
        PeerKey::Interface(name) => {
            format!(
                "{name}: the engine cannot take it as unnumbered peer: {reason}; expected one router there whose link-local address was heard"
            )
        }
        PeerKey::Address(address) => format!("{address}: the engine refuses the peer: {reason}"),
    }
}

/// Of the network namespace that the thread is in.
fn read_md5() -> Md5 {
    std::fs::read_to_string("/proc/thread-self/net/netstat").ok().and_then(|text| Md5::parse(&text)).unwrap_or_default()
}

async fn child_event(child: &mut Option<Child>) -> Event {
    match child {
        Some(child) => child.event().await,
        None => std::future::pending().await,
    }
}

/// Waiting times between tries: twice as long each time, and never the same for two of us.
pub struct Backoff {
    next: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(200);
    const LAST: Duration = Duration::from_secs(10);

    pub fn new() -> Self {
        Self { next: Self::FIRST }
    }

    /// Between half and all of the step.
    pub fn next(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(Self::LAST);
        let chance = RandomState::new().build_hasher().finish() % 1024;
        step / 2 + step / 2 * u32::try_from(chance).unwrap_or(0) / 1024
    }
}
