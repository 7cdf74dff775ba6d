//! What the parts of the channel share, and the answer to who orders.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use edge_config::settings::FleetSettings;
use futures_util::future::join_all;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::drift::Drift;
use super::election::Election;
use super::identity::{Credentials, Identity};
use super::limits;
use super::merge::{self, Key};
use super::message::{Answer, Ask, Done, Item, LimitNews, Ping};
use super::observed::{FleetObserved, PeerObserved};
use super::standing::{Difference, Keys, Standing};
use super::tickets::Keeper;
use super::{Holdings, Start, Who, Witness, answer, link, survey};
use crate::certs::edges::{Deliveries, Delivery, Edges, Orders, Shared};
use crate::proxy::protection::Ledger;
use crate::proxy::tls::tickets::Duty;

/// How long another edge may take to have something in force.
const SHARE: Duration = Duration::from_secs(5);
/// How long taking something may take here.
const TAKE: Duration = Duration::from_secs(10);
/// Between two looks at who orders and which keys are due.
const LOOK: Duration = Duration::from_millis(250);
/// Between two looks at the configurations of the others.
const COMPARE: Duration = Duration::from_secs(1);
/// Leafs are made anew this often, and the secret is looked for where there was none.
const RENEW: Duration = Duration::from_secs(6 * 3600);
const RETRY: Duration = Duration::from_secs(5);
const FAREWELL: Duration = Duration::from_millis(500);
/// Calls that wait for a connection to one edge.
const CALLS: usize = 256;

pub(super) struct Core {
    pub(super) me: Arc<str>,
    pub(super) who: Who,
    pub(super) settings: Option<FleetSettings>,
    pub(super) peers: Vec<Arc<Peer>>,
    /// Of the names in the list: edges with different lists must not elect together.
    pub(super) list: String,
    pub(super) keeper: Arc<Keeper>,
    pub(super) changed: Arc<Notify>,
    election: Mutex<Election>,
    holdings: OnceLock<Arc<dyn Holdings>>,
    ledger: OnceLock<Arc<Ledger>>,
    witness: OnceLock<Arc<dyn Witness>>,
    /// Of the configuration that is in force here; `None`: it is not known yet.
    hash: Mutex<Option<String>>,
    drift: Mutex<Drift>,
    seen: Mutex<Seen>,
    runtime: Handle,
}

/// Another edge.
pub(super) struct Peer {
    pub(super) name: Arc<str>,
    pub(super) address: SocketAddr,
    /// It has called us: it is worth calling.
    pub(super) called: Notify,
    calls: mpsc::Sender<Call>,
    inbox: Mutex<Option<mpsc::Receiver<Call>>>,
    state: Mutex<PeerState>,
}

#[derive(Default)]
pub(super) struct PeerState {
    pub(super) last_exchange: Option<SystemTime>,
    pub(super) version: Option<String>,
    pub(super) error: Option<String>,
    /// Of its configuration, as it says.
    pub(super) hash: Option<String>,
    /// It is being asked what its configuration is.
    pub(super) is_compared: bool,
    /// It orders, as it says.
    pub(super) orders: bool,
    /// Something could not be given to it.
    pub(super) lacks: bool,
    /// It said that it stops.
    pub(super) left: bool,
}

pub(super) struct Call {
    pub(super) ask: Ask,
    pub(super) reply: oneshot::Sender<Result<Answer, String>>,
}

struct Seen {
    orders: Orders,
    since: SystemTime,
    /// What keeps the channel from being there: the secret, the socket.
    faults: BTreeMap<&'static str, String>,
    refused: u64,
    last_refused: Option<String>,
}

impl Peer {
    pub(super) async fn call(&self, ask: Ask) -> Result<Answer, String> {
        let (reply, answer) = oneshot::channel();
        self.calls.try_send(Call { ask, reply }).map_err(|_| "too much waits for it".to_owned())?;
        answer.await.unwrap_or_else(|_| Err("the connection ended".to_owned()))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, PeerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_inbox(&self) -> Option<mpsc::Receiver<Call>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Core {
    pub(super) fn new(start: Start, runtime: Handle) -> Arc<Self> {
        let Start { settings, name, who, tickets, store, changed } = start;
        let mut seen = Seen {
            orders: Orders::Unknown("it has just started".to_owned()),
            since: SystemTime::now(),
            faults: BTreeMap::new(),
            refused: 0,
            last_refused: None,
        };
        let edges = settings.as_ref().map(|settings| settings.edges.as_slice()).unwrap_or_default();
        if settings.is_some() && !edges.iter().any(|edge| edge.name == name) {
            seen.faults.insert("list", format!("this edge, {name}, is none of [[fleet.edge]]: it takes no part"));
        }
        let peers: Vec<Arc<Peer>> = edges
            .iter()
            .filter(|edge| edge.name != name)
            .map(|edge| {
                let (calls, inbox) = mpsc::channel(CALLS);
                Arc::new(Peer {
                    name: edge.name.as_str().into(),
                    address: edge.address,
                    called: Notify::new(),
                    calls,
                    inbox: Mutex::new(Some(inbox)),
                    state: Mutex::default(),
                })
            })
            .collect();
        let mut names: Vec<Arc<str>> = peers.iter().map(|peer| Arc::clone(&peer.name)).collect();
        names.push(name.as_str().into());
        names.sort();
        let alone_after = settings.as_ref().and_then(|settings| settings.alone_after);
        let election = Election::new(&name, &names, alone_after, Instant::now());
        let sum = digest::digest(&digest::SHA256, names.join(" ").as_bytes());
        let keeper = Keeper::new(tickets, store, !peers.is_empty(), unix_now());
        Arc::new(Self {
            me: name.into(),
            who,
            settings,
            list: STANDARD_NO_PAD.encode(sum.as_ref().get(..12).unwrap_or_default()),
            peers,
            keeper: Arc::new(keeper),
            changed,
            election: Mutex::new(election),
            holdings: OnceLock::new(),
            ledger: OnceLock::new(),
            witness: OnceLock::new(),
            hash: Mutex::default(),
            drift: Mutex::default(),
            seen: Mutex::new(seen),
            runtime,
        })
    }

    pub(super) fn has_peers(&self) -> bool {
        self.settings.is_some()
    }

    pub(super) fn attach(&self, holdings: Arc<dyn Holdings>) {
        // Somebody who is there already stays.
        let _ = self.holdings.set(holdings);
        self.election().attach();
    }

    pub(super) fn count(&self, ledger: Arc<Ledger>) {
        // The first stays.
        let _ = self.ledger.set(ledger);
    }

    pub(super) fn witness(&self, witness: Arc<dyn Witness>) {
        // The first stays.
        let _ = self.witness.set(witness);
    }

    /// How this edge stands.
    pub(super) async fn standing(&self) -> Result<Standing, String> {
        let Some(witness) = self.witness.get().cloned() else { return Err("it is still starting".to_owned()) };
        let standing = tokio::task::spawn_blocking(move || witness.standing()).await;
        standing.map_err(|_| "how it stands cannot be told now".to_owned())
    }

    /// What is configured here, and the hash of it all.
    pub(super) async fn configuration(&self) -> Option<Arc<(String, Keys)>> {
        let witness = self.witness.get().cloned()?;
        tokio::task::spawn_blocking(move || witness.configuration()).await.ok().flatten()
    }

    pub(super) fn hash(&self) -> Option<String> {
        self.hash.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn drift(&self) -> MutexGuard<'_, Drift> {
        self.drift.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the hash up to date when something changed, and looks which edges have another.
    async fn compare(self: &Arc<Self>) {
        let Some(witness) = self.witness.get() else { return };
        let hash = match witness.hash() {
            Some(hash) => Some(hash),
            None => self.configuration().await.map(|known| known.0.clone()),
        };
        *self.hash.lock().unwrap_or_else(PoisonError::into_inner) = hash;
        let Some(here) = self.hash() else { return };
        let now = (Instant::now(), SystemTime::now());
        for peer in &self.peers {
            let is_live = self.election().is_live(&peer.name, now.0);
            let there = peer.state().hash.clone().filter(|_| is_live);
            let Some(there) = there else {
                self.drift().forget(&peer.name);
                continue;
            };
            if self.drift().note(&peer.name, &here, &there, now)
                && !std::mem::replace(&mut peer.state().is_compared, true)
            {
                tokio::spawn(find_out(Arc::clone(self), Arc::clone(peer), (here.clone(), there)));
            }
        }
    }

    pub(super) fn ledger(&self) -> Option<&Arc<Ledger>> {
        self.ledger.get()
    }

    /// What another edge has let pass. Before there is anything to limit here, it means nothing here.
    pub(super) fn learn_limits(&self, news: &LimitNews) {
        if let Some(ledger) = self.ledger.get() {
            ledger.learn_levels(&news.levels());
            ledger.learn_spent(&news.spent());
        }
    }

    pub(super) fn election(&self) -> MutexGuard<'_, Election> {
        self.election.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn peer(&self, name: &str) -> Option<&Arc<Peer>> {
        self.peers.iter().find(|peer| *peer.name == *name)
    }

    /// Notes why a part of the channel is not there, or that it is. Told once.
    pub(super) fn fault(&self, part: &'static str, fault: Option<String>) {
        let mut seen = self.seen();
        if seen.faults.get(part) == fault.as_ref() {
            return;
        }
        match fault {
            Some(fault) => {
                tracing::warn!("fleet: {fault}");
                seen.faults.insert(part, fault);
            }
            None => drop(seen.faults.remove(part)),
        }
        self.changed.notify_one();
    }

    /// Somebody was turned away.
    pub(super) fn refuse(&self, from: IpAddr, why: &str) {
        let mut seen = self.seen();
        seen.refused = seen.refused.saturating_add(1);
        let line = format!("{from}: {why}");
        // Once for each kind of attempt, not for each attempt.
        if seen.last_refused.as_ref() != Some(&line) {
            tracing::warn!("fleet: refused {line}");
            seen.last_refused = Some(line);
            self.changed.notify_one();
        }
    }

    /// Takes what another edge has given.
    pub(super) async fn take(&self, shared: Shared) -> Result<(), String> {
        if let Shared::TicketKeys(keys) = &shared {
            return self.keeper.receive(keys, unix_now());
        }
        let Some(holdings) = self.holdings.get() else { return Err("it is still starting".to_owned()) };
        let taken = tokio::time::timeout(TAKE, holdings.receive(shared)).await;
        taken.unwrap_or_else(|_| Err(format!("it is not in force after {TAKE:?}")))
    }

    /// Everything that this edge has, by name.
    pub(super) async fn all(&self) -> Result<BTreeMap<Key, Shared>, String> {
        let Some(holdings) = self.holdings.get() else { return Err("it is still starting".to_owned()) };
        let all = tokio::time::timeout(TAKE, holdings.all()).await.ok().flatten();
        let all = all.ok_or_else(|| "what it has cannot be told now".to_owned())?;
        let all = all.into_iter().chain([self.keeper.shared()]);
        Ok(all.filter_map(|shared| Some((merge::key(&shared)?, shared))).collect())
    }

    pub(super) fn observe(&self) -> FleetObserved {
        let now = Instant::now();
        let election = self.election();
        let peers = self.peers.iter().map(|peer| {
            let state = peer.state();
            let stranger = || election.is_stranger(&peer.name).then(|| "has another list of edges".to_owned());
            PeerObserved {
                name: peer.name.to_string(),
                address: peer.address,
                is_live: election.is_live(&peer.name, now),
                last_exchange: state.last_exchange,
                version: state.version.clone(),
                error: state.error.clone().or_else(stranger),
            }
        });
        let peers = peers.collect();
        drop(election);
        let after = self.settings.as_ref().map_or(Duration::MAX, |settings| settings.drift_after);
        let drift = self.drift().told(after, now);
        let seen = self.seen();
        let mut notices: Vec<String> = seen.faults.values().cloned().collect();
        if let Some(last) = &seen.last_refused {
            notices.push(format!("{} connections were refused, the last from {last}", seen.refused));
        }
        FleetObserved {
            name: self.me.to_string(),
            orders: match &seen.orders {
                Orders::Here => Ok(self.me.to_string()),
                Orders::Elsewhere(name) => Ok(name.clone()),
                Orders::Unknown(why) => Err(why.clone()),
            },
            since: seen.since,
            peers,
            drift,
            ticket_keys_since: self.keeper.since(),
            notices,
        }
    }

    pub(super) fn live(&self) -> Vec<Arc<Peer>> {
        let (election, now) = (self.election(), Instant::now());
        self.peers.iter().filter(|peer| election.is_live(&peer.name, now)).cloned().collect()
    }

    fn decide(&self) -> Orders {
        let (election, now) = (self.election(), Instant::now());
        if let Some(fault) = self.seen().faults.get("list") {
            return Orders::Unknown(fault.clone());
        }
        match &self.who {
            Who::Votes => election.orders(now),
            Who::Lease(lease) => {
                let is_complete = election.is_complete(now);
                drop(election);
                match lease() {
                    Orders::Here if !is_complete => {
                        Orders::Unknown("this edge still asks the others for what it lacks".to_owned())
                    }
                    orders => orders,
                }
            }
        }
    }

    /// Gives it to one edge.
    async fn give(self: Arc<Self>, peer: Arc<Peer>, item: Item) -> Delivery {
        let answer = tokio::time::timeout(SHARE, peer.call(Ask::Share(item))).await;
        let result = match answer {
            Err(_) => Err(format!("no answer within {SHARE:?}")),
            Ok(Err(why)) => Err(why),
            Ok(Ok(Answer::Done(Done { error: None }))) => Ok(()),
            Ok(Ok(Answer::Done(Done { error: Some(why) }))) => Err(why),
            Ok(Ok(Answer::Unknown)) => Err("it does not know what was shared: an older version of Edge".to_owned()),
            Ok(Ok(_)) => Err("it gave another answer than it was asked for".to_owned()),
        };
        if result.is_err() {
            peer.state().lacks = true;
        }
        Delivery { edge: peer.name.to_string(), result }
    }

    async fn give_all(self: Arc<Self>, shared: Shared) -> Vec<Delivery> {
        let live = self.live();
        // Whoever is away asks when it comes back; it may not know that it was.
        for peer in self.peers.iter().filter(|peer| !live.iter().any(|other| other.name == peer.name)) {
            peer.state().lacks = true;
        }
        let item = Item::from(&shared);
        drop(shared);
        join_all(live.into_iter().map(|peer| Arc::clone(&self).give(peer, item.clone()))).await
    }
}

/// Shares outlive whoever asked for them: the handle is to the same core.
impl Edges for Arc<Core> {
    fn orders(&self) -> Orders {
        self.decide()
    }

    fn share(&self, shared: Shared) -> Deliveries<'_> {
        // On the thread of the fleet, wherever the answer is awaited.
        let names: Vec<String> = self.live().iter().map(|peer| peer.name.to_string()).collect();
        let given = self.runtime.spawn(Arc::clone(self).give_all(shared));
        Box::pin(async move {
            given.await.unwrap_or_else(|_| {
                let stopped = |edge| Delivery { edge, result: Err("this edge is stopping".to_owned()) };
                names.into_iter().map(stopped).collect()
            })
        })
    }

    fn absent(&self) -> Vec<(String, String)> {
        let (election, now) = (self.election(), Instant::now());
        let absent = self.peers.iter().filter(|peer| !election.is_live(&peer.name, now));
        absent
            .map(|peer| {
                let why = peer.state().error.clone();
                (peer.name.to_string(), why.unwrap_or_else(|| "it does not answer".to_owned()))
            })
            .collect()
    }

    fn has_others(&self) -> bool {
        !self.live().is_empty()
    }
}

/// Everything that happens on the thread, until `stopped`.
pub(super) async fn run(core: Arc<Core>, mut stopped: watch::Receiver<bool>) {
    tokio::spawn(Arc::clone(&core.keeper).save());
    if let Some(settings) = core.settings.clone()
        && !core.seen().faults.contains_key("list")
    {
        let (publish, credentials) = watch::channel(None);
        tokio::spawn(identify(Arc::clone(&core), settings.clone(), publish));
        tokio::spawn(limits::run(Arc::clone(&core)));
        tokio::spawn(answer::listen(Arc::clone(&core), settings.listen, credentials.clone()));
        for peer in &core.peers {
            if let Some(inbox) = peer.take_inbox() {
                tokio::spawn(link::run(Arc::clone(&core), Arc::clone(peer), inbox, credentials.clone()));
            }
        }
    }
    let mut compared = Instant::now();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => break,
            _ = look.tick() => {}
        }
        core.election().look(Instant::now());
        if core.has_peers() && compared.elapsed() >= COMPARE {
            compared = Instant::now();
            core.compare().await;
        }
        let orders = core.decide();
        let duty = match orders {
            _ if !core.has_peers() => Duty::Ours,
            Orders::Here => Duty::Ours,
            Orders::Elsewhere(_) | Orders::Unknown(_) => Duty::Theirs,
        };
        if let Some(keys) = core.keeper.tick(duty, unix_now()) {
            tokio::spawn(Arc::clone(&core).give_all(keys));
        }
        let mut seen = core.seen();
        if seen.orders != orders {
            let is_told = !matches!((&seen.orders, &orders), (Orders::Unknown(_), Orders::Unknown(_)));
            match &orders {
                _ if !is_told || !core.has_peers() => {}
                Orders::Here => tracing::info!("fleet: this edge orders certificates"),
                Orders::Elsewhere(name) => tracing::info!("fleet: edge {name} orders certificates"),
                Orders::Unknown(why) => tracing::warn!("fleet: nobody orders certificates: {why}"),
            }
            (seen.orders, seen.since) = (orders, SystemTime::now());
            core.changed.notify_one();
        }
    }
    core.election().leave();
    let leaves = Ping { claims: false, leaves: true, lacks: false, list: core.list.clone() };
    let goodbyes = core.live().into_iter().map(|peer| {
        let leaves = leaves.clone();
        async move { peer.call(Ask::Ping(leaves)).await }
    });
    let _ = tokio::time::timeout(FAREWELL, join_all(goodbyes)).await;
}

/// Asks an edge in what it differs.
async fn find_out(core: Arc<Core>, peer: Arc<Peer>, hashes: (String, String)) {
    let keys = tokio::time::timeout(SHARE, survey::keys(&peer)).await;
    match (core.configuration().await, keys) {
        (Some(here), Ok(Ok(there))) if here.0 == hashes.0 => {
            let difference = Difference::of(&here.1, &there, &peer.name);
            core.drift().found(&peer.name, (&hashes.0, &hashes.1), difference);
            core.changed.notify_one();
        }
        (_, Ok(Err(why))) => tracing::debug!("fleet: edge {}: {why}", peer.name),
        // It has changed again, or does not answer: the next look asks anew.
        _ => {}
    }
    peer.state().is_compared = false;
}

/// Keeps the certificates of this edge fresh.
async fn identify(core: Arc<Core>, settings: FleetSettings, publish: watch::Sender<Option<Credentials>>) {
    let mut identity = None;
    loop {
        let made = match &identity {
            Some(identity) => Ok(identity),
            None => {
                let (path, name) = (settings.secret_file.clone(), Arc::clone(&core.me));
                match tokio::task::spawn_blocking(move || Identity::load(&path, &name)).await {
                    Ok(loaded) => loaded.map(|loaded| &*identity.insert(loaded)),
                    Err(_) => return,
                }
            }
        };
        match made.and_then(|identity| identity.credentials(unix_now())) {
            Ok(credentials) => {
                core.fault("secret", None);
                publish.send_replace(Some(credentials));
                tokio::time::sleep(RENEW).await;
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                core.fault("secret", Some(format!("{error}{cause}; no other edge is spoken with")));
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

pub(super) fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
