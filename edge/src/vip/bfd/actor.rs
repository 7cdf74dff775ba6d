//! The loop: packets are read before timers fire, then what is due is sent and what changed is published.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use edge_bgp::bfd::{Discard, Hops, Packet, Session, Settings, decode, encode, select};
use socket2::Socket;
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::socket::{interface_index, listen, peer_address, sender};
use super::{BfdHanded, BfdObserved, BfdSeen, BfdWanted, RemoteSeen, Stop};
use crate::vip::wire;

/// Counters are published and failed sockets tried again this often.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// The least time between two turns that nothing but a timer asks for.
const TICK: Duration = Duration::from_millis(1);
/// Longer than any control packet with authentication.
const LONGEST: usize = 256;
/// How long a session that is no longer wished tells its peer so (RFC 5880 §6.8.16).
const FAREWELL: Duration = Duration::from_secs(3);

pub(super) async fn run(
    mut wishes: watch::Receiver<Vec<BfdWanted>>,
    publish: watch::Sender<Arc<BfdObserved>>,
    handed: Vec<BfdHanded>,
    mut stop: oneshot::Receiver<Stop>,
) {
    let mut actor = Actor {
        handed,
        entries: Vec::new(),
        leaving: Vec::new(),
        listeners: BTreeMap::new(),
        notices: BTreeMap::new(),
        discarded: BTreeMap::new(),
        dice: RandomState::new().hash_one(0u8) | 1,
        began: Instant::now(),
        began_wall: SystemTime::now(),
        kept: Duration::ZERO,
    };
    loop {
        let deadline = actor.deadline();
        let listeners = &actor.listeners;
        let readable = std::future::poll_fn(|context| {
            let mut ready = Poll::Pending;
            for listener in listeners.values() {
                // An error of the reactor shows itself again when the socket is read.
                if listener.poll_read_ready(context).is_ready() {
                    ready = Poll::Ready(());
                }
            }
            ready
        });
        let (mut is_wished, mut is_over) = (false, false);
        tokio::select! {
            biased;
            () = readable => {}
            // The handle is gone, or wants us to go.
            stopped = &mut stop => match stopped {
                Ok(Stop::Release(reply)) => {
                    let handed = actor.entries.iter().filter_map(Entry::hand).collect();
                    drop(actor);
                    // Who asked may be gone; then the peers notice.
                    let _ = reply.send(handed);
                    return;
                }
                Ok(Stop::Farewell) | Err(_) => is_over = true,
            },
            wished = wishes.changed() => (is_wished, is_over) = (wished.is_ok(), wished.is_err()),
            () = sleep_until(deadline) => {}
        }
        if is_wished {
            let wanted = wishes.borrow_and_update().clone();
            actor.configure(wanted);
        }
        if is_over {
            actor.configure(Vec::new());
        }
        actor.turn(&publish);
        if is_over {
            return;
        }
    }
}

struct Entry {
    wanted: BfdWanted,
    session: Session,
    sender: Option<Socket>,
    problem: Option<String>,
    /// Of its interface, if it has one; looked up now and then.
    index: Option<u32>,
    /// When a session that is no longer wished falls silent.
    ends: Duration,
}

struct Actor {
    /// What another process had, until it is wished here.
    handed: Vec<BfdHanded>,
    entries: Vec<Entry>,
    leaving: Vec<Entry>,
    /// By family (true is IPv6) and port.
    listeners: BTreeMap<(bool, u16), AsyncFd<Socket>>,
    notices: BTreeMap<(bool, u16), String>,
    discarded: BTreeMap<Discard, u64>,
    dice: u64,
    began: Instant,
    began_wall: SystemTime,
    kept: Duration,
}

impl Entry {
    fn hops(&self) -> Hops {
        match self.wanted.is_multihop {
            false => Hops::One,
            true => Hops::Several { minimum_ttl: self.wanted.bfd.minimum_ttl },
        }
    }

    /// The same session in spite of other settings.
    fn is_of(&self, wanted: &BfdWanted) -> bool {
        let key = |wanted: &BfdWanted| (wanted.peer, wanted.local, wanted.interface.clone(), wanted.is_multihop);
        key(&self.wanted) == key(wanted)
    }

    fn hand(&self) -> Option<BfdHanded> {
        let BfdWanted { peer, local, interface, is_multihop, .. } = self.wanted.clone();
        Some(BfdHanded { peer, local, interface, is_multihop, session: self.session.hand()? })
    }

    fn send(&mut self, packet: &Packet) {
        let result = match &self.sender {
            Some(socket) => socket.send(&encode(packet)).map(drop),
            None => self.open().and_then(|socket| {
                let result = socket.send(&encode(packet)).map(drop);
                self.sender = Some(socket);
                result
            }),
        };
        // Refused: nobody listens at the peer, whose silence says the same.
        let refused = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
        self.problem = result.err().filter(|error| !refused(error)).map(|error| {
            // An interface that came again needs a new socket, from another port.
            self.sender = None;
            format!("cannot send to {}: {}", self.wanted.peer, error.to_string().to_lowercase())
        });
    }

    /// One that came again has another number.
    fn find_interface(&mut self) {
        self.index = self.wanted.interface.as_deref().and_then(|name| interface_index(name).ok());
    }

    fn open(&self) -> std::io::Result<Socket> {
        let interface = self.wanted.interface.as_deref();
        let peer = peer_address(self.wanted.peer, self.hops().port(), interface)?;
        // Discriminators are drawn at random, so ports are as well.
        sender(peer, self.wanted.local, interface, self.session.discriminator() as u16)
    }
}

impl Actor {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn random(&mut self) -> u32 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice >> 32) as u32
    }

    fn deadline(&self) -> Instant {
        let sessions = self.entries.iter().chain(&self.leaving).filter_map(|entry| entry.session.deadline());
        let next = sessions.min().map_or(self.kept + HOUSEKEEPING, |next| next.min(self.kept + HOUSEKEEPING));
        self.began + next.max(self.now() + TICK)
    }

    fn configure(&mut self, wanted: Vec<BfdWanted>) {
        let now = self.now();
        let mut before: Vec<Entry> = self.entries.drain(..).chain(self.leaving.drain(..)).collect();
        for wanted in wanted {
            if self.entries.iter().any(|entry| entry.is_of(&wanted)) {
                // Two peers of BGP at one address share a session (RFC 5882 §2).
                continue;
            }
            let settings = settings(&wanted);
            let entry = match before.iter().position(|entry| entry.is_of(&wanted)) {
                Some(place) => {
                    let mut entry = before.swap_remove(place);
                    entry.session.set(now, settings);
                    Entry { wanted, ..entry }
                }
                None => {
                    let session = self.resumed(now, &wanted, settings).unwrap_or_else(|| {
                        let discriminator = self.discriminator(&before);
                        Session::new(now, discriminator, settings)
                    });
                    Entry { wanted, session, sender: None, problem: None, index: None, ends: now }
                }
            };
            self.entries.push(entry);
        }
        self.entries.iter_mut().for_each(Entry::find_interface);
        for mut entry in before {
            let settings = Settings { is_disabled: true, ..settings(&entry.wanted) };
            if !entry.wanted.is_disabled || entry.ends <= now {
                entry.ends = now + FAREWELL;
            }
            entry.session.set(now, settings);
            entry.wanted.is_disabled = true;
            self.leaving.push(entry);
        }
    }

    /// As another process had it.
    fn resumed(&mut self, now: Duration, wanted: &BfdWanted, settings: Settings) -> Option<Session> {
        let is_it = |handed: &BfdHanded| {
            (handed.peer, handed.local, &handed.interface, handed.is_multihop)
                == (wanted.peer, wanted.local, &wanted.interface, wanted.is_multihop)
        };
        let place = self.handed.iter().position(is_it)?;
        Session::resume(now, &self.handed.swap_remove(place).session, settings)
    }

    fn discriminator(&mut self, others: &[Entry]) -> u32 {
        loop {
            let next = self.random();
            let handed = self.handed.iter().map(|handed| handed.session.discriminator);
            let mut taken = self.entries.iter().chain(others).map(|entry| entry.session.discriminator()).chain(handed);
            if next != 0 && taken.all(|taken| taken != next) {
                return next;
            }
        }
    }

    fn turn(&mut self, publish: &watch::Sender<Arc<BfdObserved>>) {
        let is_periodic = self.now() >= self.kept + HOUSEKEEPING;
        self.listen(is_periodic);
        if is_periodic {
            self.entries.iter_mut().for_each(Entry::find_interface);
        }
        let now = self.now();
        // After a sleep, packets that waited are heard before a peer is called silent.
        self.hear(now);
        for index in 0..self.entries.len() + self.leaving.len() {
            let random = self.random();
            let count = self.entries.len();
            let entry = if index < count { &mut self.entries[index] } else { &mut self.leaving[index - count] };
            for packet in entry.session.tick(now, random) {
                entry.send(&packet);
            }
        }
        self.leaving.retain(|entry| now < entry.ends);
        if is_periodic {
            self.kept = now;
        }
        let next = self.observed();
        publish.send_if_modified(|last| {
            let changed = **last != next && (is_periodic || without_counters(last) != without_counters(&next));
            if changed {
                *last = Arc::new(next);
            }
            changed
        });
    }

    /// A socket for each family and port that is used; one that failed is tried again now and then.
    fn listen(&mut self, is_periodic: bool) {
        let entries = self.entries.iter().chain(&self.leaving);
        let used: Vec<(bool, u16)> = entries.map(|entry| (entry.wanted.peer.is_ipv6(), entry.hops().port())).collect();
        self.listeners.retain(|key, _| used.contains(key));
        self.notices.retain(|key, _| used.contains(key));
        for key in used {
            if self.listeners.contains_key(&key) || (self.notices.contains_key(&key) && !is_periodic) {
                continue;
            }
            match listen(key.0, key.1) {
                Ok(listener) => {
                    self.notices.remove(&key);
                    self.listeners.insert(key, listener);
                }
                Err(error) => {
                    let family = if key.0 { "IPv6" } else { "IPv4" };
                    let hint = match error.kind() {
                        std::io::ErrorKind::AddrInUse => " (another BFD speaker runs on this machine)",
                        _ => "",
                    };
                    let text = format!("UDP port {} of {family}: {}{hint}", key.1, error.to_string().to_lowercase());
                    self.notices.insert(key, text);
                }
            }
        }
    }

    fn hear(&mut self, now: Duration) {
        let mut buffer = [0; LONGEST];
        let mut heard = Vec::new();
        for (key, listener) in &self.listeners {
            wire::drain(listener, &mut buffer, |bytes, received| heard.push((*key, decode(bytes), received)));
        }
        for ((_, port), packet, received) in heard {
            let result = packet.and_then(|packet| {
                let place = self.place(port, &packet, &received)?;
                self.entries[place].session.received(now, &packet);
                Ok(())
            });
            if let Err(why) = result {
                *self.discarded.entry(why).or_default() += 1;
            }
        }
    }

    /// The session that a packet is for.
    fn place(&self, port: u16, packet: &Packet, received: &wire::Received) -> Result<usize, Discard> {
        let (Some(source), Some(ttl)) = (received.source, received.hops) else { return Err(Discard::NoSession) };
        let fits = |entry: &Entry| {
            entry.hops().port() == port
                && entry.wanted.local.is_none_or(|local| received.destination == Some(local))
                && (entry.wanted.interface.is_none() || (entry.index.is_some() && entry.index == received.interface))
        };
        let candidates = |believes: bool| {
            let all = self.entries.iter().enumerate();
            all.filter(move |(_, entry)| fits(entry) && (!believes || entry.hops().believes(ttl)))
                .map(|(place, entry)| (place, entry.wanted.peer, entry.session.discriminator()))
        };
        let source: IpAddr = source.ip();
        select(packet, source, candidates(true)).map_err(|_| match select(packet, source, candidates(false)) {
            Ok(_) => Discard::Hops,
            Err(why) => why,
        })
    }

    fn observed(&self) -> BfdObserved {
        let sessions = self.entries.iter().map(|entry| {
            let session = &entry.session;
            BfdSeen {
                peer: entry.wanted.peer,
                interface: entry.wanted.interface.clone(),
                state: session.state(),
                since: self.began_wall + session.since(),
                reason: session.reason().to_string(),
                transmit: session.pace(),
                detection: session.detection(),
                remote: session.remote().map(|remote| RemoteSeen {
                    state: remote.state,
                    diagnostic: remote.diagnostic.to_string(),
                    multiplier: remote.multiplier,
                    transmit: remote.desired_transmit,
                    receive: remote.required_receive,
                }),
                problem: entry.problem.clone(),
                counters: session.counters(),
            }
        });
        BfdObserved {
            sessions: sessions.collect(),
            discarded: self.discarded.clone(),
            notices: self.notices.values().cloned().collect(),
        }
    }
}

fn settings(wanted: &BfdWanted) -> Settings {
    Settings {
        transmit: wanted.bfd.transmit,
        receive: wanted.bfd.receive,
        multiplier: wanted.bfd.multiplier.max(1),
        is_passive: wanted.bfd.is_passive,
        is_disabled: wanted.is_disabled,
    }
}

/// A state without what changes with every packet.
fn without_counters(observed: &BfdObserved) -> BfdObserved {
    let mut bare = observed.clone();
    bare.discarded.clear();
    for session in &mut bare.sessions {
        session.counters = Default::default();
    }
    bare
}
