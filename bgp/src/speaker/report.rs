//! What the speaker saw, put together and published when it changes.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;
use tokio::sync::watch;

use crate::gobgp::read::{PeerStatus, TablePath};
use crate::observed::{EngineState, Observed, PeerSeen, PrefixSeen, SessionState, Told};
use crate::plan::model::{PeerKey, Target};
use crate::wanted::Wanted;

/// Lines of a child's log that are kept.
const LOG: usize = 50;
const DOWN: &str = "the engine is down";

pub struct Report {
    sender: watch::Sender<Arc<Observed>>,
    now: Observed,
    log: VecDeque<String>,
    /// An engine has held what was wanted since we began.
    was_filled: bool,
}

/// What one peer looks like.
pub struct PeerView<'a> {
    pub status: Option<&'a PeerStatus>,
    pub error: Option<String>,
    /// Prefixes of it in the engine's own table.
    pub accepted: u64,
}

impl Report {
    pub fn new(now: SystemTime) -> Self {
        let now = Observed::nothing(now);
        let (sender, _) = watch::channel(Arc::new(now.clone()));
        Self { sender, now, log: VecDeque::new(), was_filled: false }
    }

    pub fn subscribe(&self) -> watch::Receiver<Arc<Observed>> {
        self.sender.subscribe()
    }

    /// Nothing is wanted.
    pub fn idle(&mut self, generation: u64) {
        self.clear();
        self.was_filled = false;
        self.now.generation = generation;
        self.now.is_settled = true;
        self.now.engine.error = None;
        self.now.engine.foreign = None;
        self.now.peers.clear();
        self.now.prefixes.clear();
        self.state(EngineState::Idle);
        self.publish();
    }

    /// Lists what is wanted before anything is known of it.
    pub fn expect(&mut self, wanted: &Wanted) {
        let is_listed = self
            .now
            .peers
            .iter()
            .map(|peer| &peer.name)
            .eq(wanted.peers.iter().map(|peer| &peer.peer.name))
            && self.now.prefixes.iter().map(|seen| seen.prefix).eq(wanted.prefixes.iter().map(|wanted| wanted.prefix));
        if !is_listed {
            self.peers(wanted, |_| PeerView { status: None, error: Some(DOWN.to_owned()), accepted: 0 });
            self.prefixes(wanted, |_| false, &BTreeMap::new());
            self.publish();
        }
    }

    pub fn starting(&mut self) {
        self.clear();
        self.state(EngineState::Starting);
        self.publish();
    }

    pub fn down(&mut self, error: String) {
        self.clear();
        self.now.engine.error = Some(error);
        self.state(EngineState::Down);
        self.publish();
    }

    pub fn running(&mut self, api: u8, version: Option<String>, pid: Option<u32>) {
        self.now.engine.api = Some(api);
        self.now.engine.version = version;
        self.now.engine.pid = pid;
        self.now.engine.error = None;
        self.state(EngineState::Running);
        self.publish();
    }

    pub fn was_filled(&self) -> bool {
        self.was_filled
    }

    pub fn filled(&mut self) {
        self.was_filled = true;
    }

    /// It had been filled before and was found empty.
    pub fn restarted(&mut self) {
        self.now.engine.restarts += 1;
    }

    pub fn foreign(&mut self, words: Option<String>) {
        self.now.engine.foreign = words;
    }

    /// A request was refused; the engine runs all the same.
    pub fn error(&mut self, error: Option<String>) {
        self.now.engine.error = error;
        self.publish();
    }

    pub fn settled(&mut self, generation: u64, is_settled: bool) {
        self.now.generation = generation;
        self.now.is_settled = is_settled;
    }

    pub fn log(&mut self, line: String) {
        if self.log.len() == LOG {
            self.log.pop_front();
        }
        self.log.push_back(line);
    }

    pub fn peers<'a>(&mut self, wanted: &Wanted, view: impl Fn(&PeerKey) -> PeerView<'a>) {
        let now = SystemTime::now();
        let before: BTreeMap<Arc<str>, PeerSeen> =
            self.now.peers.drain(..).map(|peer| (peer.name.clone(), peer)).collect();
        for peer in &wanted.peers {
            let view = view(&PeerKey::from(&peer.peer.address));
            let status = view.status;
            let session = status.map_or(SessionState::Absent, |status| status.session);
            let last = before.get(&peer.peer.name);
            let is_up = session == SessionState::Established;
            let was_up = last.is_some_and(|last| last.session == SessionState::Established);
            let seen_since = match last {
                Some(last) if (last.session == session) || (!is_up && !was_up) => last.since,
                _ => now,
            };
            let since = status.and_then(|status| status.up_since).filter(|_| is_up).unwrap_or(seen_since);
            self.now.peers.push(PeerSeen {
                name: peer.peer.name.clone(),
                address: status.map(|status| status.there.address.clone()),
                session,
                since,
                asn: status.and_then(|status| status.asn),
                router_id: status.and_then(|status| status.router_id).filter(|_| is_up),
                error: view.error,
                received: status.map_or(0, |status| status.received),
                accepted: view.accepted,
                advertised: last.map_or(0, |last| last.advertised),
                flaps: last.map_or(0, |last| last.flaps) + u32::from(was_up && !is_up),
                hold_time: status.and_then(|status| status.hold_time).filter(|_| is_up),
            });
        }
    }

    /// What peers have been told; `adj_out` of those whose session is established.
    pub fn prefixes(
        &mut self,
        wanted: &Wanted,
        is_held: impl Fn(&IpNet) -> bool,
        adj_out: &BTreeMap<Arc<str>, BTreeMap<IpNet, TablePath>>,
    ) {
        let now = SystemTime::now();
        let before: BTreeMap<IpNet, PrefixSeen> =
            self.now.prefixes.drain(..).map(|prefix| (prefix.prefix, prefix)).collect();
        for wanted in &wanted.prefixes {
            let last = before.get(&wanted.prefix);
            let told = adj_out.iter().filter_map(|(peer, paths)| {
                let mut told = told(peer, paths.get(&wanted.prefix)?, now);
                let known = last.into_iter().flat_map(|last| &last.told).find(|known| known.peer == *peer);
                if let Some(known) = known.filter(|known| Told { since: now, ..(*known).clone() } == told) {
                    told.since = known.since;
                }
                Some(told)
            });
            let told = told.collect();
            self.now.prefixes.push(PrefixSeen { prefix: wanted.prefix, is_held: is_held(&wanted.prefix), told });
        }
        for peer in &mut self.now.peers {
            peer.advertised = adj_out.get(&peer.name).map_or(0, |paths| paths.len() as u64);
        }
    }

    pub fn publish(&mut self) {
        self.now.engine.log = self.log.iter().cloned().collect();
        let now = &self.now;
        self.sender.send_if_modified(|sent| {
            let is_new = **sent != *now;
            if is_new {
                *sent = Arc::new(now.clone());
            }
            is_new
        });
    }

    fn state(&mut self, state: EngineState) {
        if self.now.engine.state != state {
            self.now.engine.state = state;
            self.now.engine.since = SystemTime::now();
        }
    }

    /// Without a connection nothing is known, and so nothing is claimed.
    fn clear(&mut self) {
        self.now.is_settled = false;
        self.now.engine.api = None;
        self.now.engine.version = None;
        self.now.engine.pid = None;
        let now = SystemTime::now();
        for peer in &mut self.now.peers {
            let was_up = peer.session == SessionState::Established;
            *peer = PeerSeen {
                name: peer.name.clone(),
                address: None,
                session: SessionState::Absent,
                since: if was_up { now } else { peer.since },
                asn: None,
                router_id: None,
                error: Some(DOWN.to_owned()),
                received: 0,
                accepted: 0,
                advertised: 0,
                flaps: peer.flaps + u32::from(was_up),
                hold_time: None,
            };
        }
        for prefix in &mut self.now.prefixes {
            prefix.is_held = false;
            prefix.told.clear();
        }
    }
}

fn told(peer: &Arc<str>, path: &TablePath, now: SystemTime) -> Told {
    Told {
        peer: peer.clone(),
        since: now,
        next_hop: path.next_hop.filter(|address: &IpAddr| !address.is_unspecified()),
        communities: path.communities.clone(),
        large_communities: path.large_communities.clone(),
        as_path: path.as_path.clone(),
        med: path.med,
        local_pref: path.local_pref,
    }
}

/// Prefixes that the engine holds as the target says.
pub fn held(target: &Target, paths: &BTreeMap<IpNet, crate::plan::model::Path>) -> Vec<IpNet> {
    target.paths.values().filter(|path| paths.get(&path.prefix) == Some(path)).map(|path| path.prefix).collect()
}
