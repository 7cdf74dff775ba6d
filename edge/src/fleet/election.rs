//! Which edge of a static list orders from CAs: the first of the list by name that is live, as more than half of the
//! list agree. Pure: messages and `now` come in, votes and answers come out.
//!
//! Each edge votes for one other at a time and is bound by it for [`HOLD`]; who is voted for counts it for [`LEASE`] from
//! when it asked. So two never count on a majority at once, whatever the network does, as long as their clocks run about
//! equally fast. Of a list of even length, a half that has its first edge counts as more than half. An edge that has
//! just started votes for nobody until votes that it may have forgotten are over, and stands for election only after it
//! has asked the others for what it lacks.
//!
//! Of two edges the second alone is no majority. Where the operator says so, it orders alone after the first was silent
//! for long; a partition that lasts as long then lets both order, each within the limits of the plan.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::certs::edges::Orders;

/// An edge is live for so long after it answered.
pub const LIVE: Duration = Duration::from_secs(3);
/// How long a vote counts, from when it was asked for.
pub const LEASE: Duration = Duration::from_secs(3);
/// How long it binds who gave it.
pub const HOLD: Duration = Duration::from_secs(4);
/// A live edge that does not tell what it has for so long does not keep another from ordering.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Election {
    me: Arc<str>,
    /// By name.
    list: Vec<Arc<str>>,
    alone_after: Option<Duration>,
    started: Instant,
    /// Whether there is somebody here to take what the others have.
    is_attached: bool,
    /// Whether this edge saw enough of the others when it looked last.
    is_connected: bool,
    peers: BTreeMap<Arc<str>, Peer>,
    /// Whom this edge votes for, and until when for nobody else.
    promise: Option<(Arc<str>, Instant)>,
}

#[derive(Debug, Default)]
struct Peer {
    /// When it last answered us.
    answered: Option<Instant>,
    /// When anything was last heard of it, also that it called us.
    heard: Option<Instant>,
    is_fit: bool,
    /// Since when it has been live.
    since: Option<Instant>,
    /// We have what it has; what is new since then it has given us.
    is_synced: bool,
    /// Until when its vote counts for us.
    vote: Option<Instant>,
    /// It has another list of edges: its votes count for another election.
    is_stranger: bool,
}

/// What a peer said in answer to a ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    /// Whether it would order.
    pub is_fit: bool,
    /// Whether we have its vote.
    pub votes: bool,
    pub same_list: bool,
}

impl Election {
    /// `list` has every edge once, `me` among them.
    pub fn new(me: &str, list: &[Arc<str>], alone_after: Option<Duration>, now: Instant) -> Self {
        let mut list = list.to_vec();
        list.sort();
        let peers = list.iter().filter(|name| ***name != *me).map(|name| (Arc::clone(name), Peer::default())).collect();
        Self {
            me: me.into(),
            list,
            alone_after,
            started: now,
            is_attached: false,
            is_connected: false,
            peers,
            promise: None,
        }
    }

    pub fn attach(&mut self) {
        self.is_attached = true;
    }

    /// This edge stops: it orders nothing more.
    pub fn leave(&mut self) {
        self.is_attached = false;
    }

    /// Looks whether this edge has been cut off: then others may have had an election, and it must ask them again for
    /// what it lacks; and whether it has been alone for long enough to stand without them. To be called several times in
    /// [`LEASE`].
    pub fn look(&mut self, now: Instant) {
        let is_connected = self.is_majority(|name| self.counts(name, now));
        if self.is_connected && !is_connected {
            self.peers.values_mut().for_each(|peer| peer.is_synced = false);
        }
        self.is_connected = is_connected;
        // Votes are asked for in pings, and there may be nobody to ping.
        if self.is_alone(now) {
            self.claims(now);
        }
    }

    /// We have what a peer has.
    pub fn synced(&mut self, peer: &str) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.is_synced = true;
        }
    }

    /// A peer has something that we have not.
    pub fn lacks(&mut self, peer: &str) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.is_synced = false;
        }
    }

    pub fn is_synced(&self, peer: &str) -> bool {
        self.peers.get(peer).is_some_and(|peer| peer.is_synced)
    }

    /// Whether this edge has what all live edges have, as far as they tell.
    pub fn is_complete(&self, now: Instant) -> bool {
        let has_asked = self.peers.is_empty() || now.saturating_duration_since(self.started) >= LIVE;
        let lacks = |peer: &Peer| {
            let is_late = peer.since.is_some_and(|since| now.saturating_duration_since(since) >= PATIENCE);
            peer.is_live(now) && !peer.is_synced && !is_late
        };
        self.is_attached && has_asked && !self.peers.values().any(lacks)
    }

    pub fn is_live(&self, peer: &str, now: Instant) -> bool {
        self.peers.get(peer).is_some_and(|peer| peer.is_live(now))
    }

    /// When a peer last answered.
    pub fn answered(&self, peer: &str) -> Option<Instant> {
        self.peers.get(peer)?.answered
    }

    pub fn is_stranger(&self, peer: &str) -> bool {
        self.peers.get(peer).is_some_and(|peer| peer.is_stranger)
    }

    /// A peer called us.
    pub fn hear(&mut self, peer: &str, now: Instant) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.heard = Some(now);
        }
    }

    /// A peer answered what was sent at `sent`.
    pub fn answer(&mut self, from: &str, said: Said, sent: Instant, now: Instant) {
        let Some(peer) = self.peers.get_mut(from) else { return };
        if !peer.is_live(now) {
            peer.since = Some(now);
        }
        (peer.answered, peer.heard) = (Some(now), Some(now));
        (peer.is_fit, peer.is_stranger) = (said.is_fit && said.same_list, !said.same_list);
        peer.vote = (said.votes && said.same_list).then(|| sent + LEASE);
    }

    /// Whether this edge would order: it lacks nothing and sees enough of the others.
    pub fn is_fit(&self, now: Instant) -> bool {
        let is_enough = self.is_alone(now) || self.is_majority(|name| self.counts(name, now));
        is_enough && self.is_complete(now)
    }

    /// Whether this edge asks for votes, in the ping that is sent now. It votes for itself then.
    pub fn claims(&mut self, now: Instant) -> bool {
        let claims = self.candidate(now).is_some_and(|name| *name == self.me);
        if claims {
            let me = Arc::clone(&self.me);
            self.promise(&me, now);
        }
        claims
    }

    /// A peer asks for our vote. Whether it has it.
    pub fn vote(&mut self, peer: &str, now: Instant) -> bool {
        let Some(peer) = self.list.iter().find(|name| ***name == *peer).cloned() else { return false };
        // Whoever comes before it and would order does so, and asks us too.
        let is_outdone = self.candidate(now).is_some_and(|first| *first < peer);
        !is_outdone && self.promise(&peer, now)
    }

    /// A peer says that it stops: nobody need wait for votes that it has.
    pub fn release(&mut self, peer: &str) {
        if self.promise.as_ref().is_some_and(|(name, _)| **name == *peer) {
            self.promise = None;
        }
        if let Some(peer) = self.peers.get_mut(peer) {
            (peer.answered, peer.vote, peer.is_fit) = (None, None, false);
        }
    }

    /// Who orders now.
    pub fn orders(&self, now: Instant) -> Orders {
        let candidate = self.candidate(now);
        match candidate {
            Some(name) if *name != self.me => Orders::Elsewhere(name.to_string()),
            Some(_) if self.is_elected(now) => Orders::Here,
            Some(_) => Orders::Unknown("the edges have not agreed yet who orders".to_owned()),
            None if !self.is_complete(now) => {
                Orders::Unknown("this edge still asks the others for what it lacks".to_owned())
            }
            None => {
                let live = 1 + self.peers.values().filter(|peer| peer.is_live(now) && !peer.is_stranger).count();
                let all = self.list.len();
                let needed = if all.is_multiple_of(2) && live * 2 == all {
                    format!("more than half, or half with {}", self.list.first().map_or("", |name| name))
                } else {
                    format!("at least {}", all / 2 + 1)
                };
                Orders::Unknown(format!("{live} of {all} edges can agree, expected {needed}"))
            }
        }
    }

    /// The first by name of those that would order, as this edge sees them.
    fn candidate(&self, now: Instant) -> Option<&Arc<str>> {
        self.list.iter().find(|name| match self.peers.get(*name) {
            Some(peer) => peer.is_live(now) && peer.is_fit,
            None => self.is_fit(now),
        })
    }

    /// This edge, and those that can vote in the same election.
    fn counts(&self, name: &str, now: Instant) -> bool {
        self.peers.get(name).is_none_or(|peer| peer.is_live(now) && !peer.is_stranger)
    }

    fn is_elected(&self, now: Instant) -> bool {
        let own = self.promise.as_ref().is_some_and(|(name, until)| **name == *self.me && now < *until);
        let votes = |name: &Arc<str>| match self.peers.get(name) {
            Some(peer) => peer.vote.is_some_and(|until| now < until),
            None => true,
        };
        own && (self.is_alone(now) || self.is_majority(votes))
    }

    fn is_majority(&self, counts: impl Fn(&Arc<str>) -> bool) -> bool {
        let all = self.list.len();
        let some = self.list.iter().filter(|name| counts(name)).count();
        some * 2 > all || (some * 2 == all && self.list.first().is_some_and(counts))
    }

    fn is_alone(&self, now: Instant) -> bool {
        let Some(after) = self.alone_after.filter(|_| self.list.len() == 2) else { return false };
        let heard = self.peers.values().filter_map(|peer| peer.heard).max().unwrap_or(self.started);
        now.saturating_duration_since(heard.max(self.started)) >= after
    }

    /// Binds this edge, unless it is bound otherwise.
    fn promise(&mut self, name: &Arc<str>, now: Instant) -> bool {
        let is_free = match &self.promise {
            Some((held, until)) => held == name || *until <= now,
            // What was promised before a restart is not known.
            None => now.saturating_duration_since(self.started) >= HOLD,
        };
        if is_free {
            self.promise = Some((Arc::clone(name), now + HOLD));
        }
        is_free
    }
}

impl Peer {
    fn is_live(&self, now: Instant) -> bool {
        self.answered.is_some_and(|at| now.saturating_duration_since(at) < LIVE)
    }
}

#[cfg(test)]
#[path = "election_tests.rs"]
mod tests;
