//! Peers that BFD has lost; pure.
//!
//! In: how each session stands, and the time. Out: the peers whose BGP session is to be ended, and why. RFC 5882 §3 and
//! §4: a session that goes from Up to Down is a failure, one that a person took down is none, and BGP may try again
//! without BFD, since the peer may have been told to do without it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use edge_bgp::bfd::State;
use tokio::time::Instant;

/// How long BGP is kept from trying again, unless BFD finds the peer before: the session is to end for certain.
const HOLD: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub struct Lost {
    up: BTreeSet<Arc<str>>,
    lost: BTreeMap<Arc<str>, (Instant, String)>,
}

impl Lost {
    /// Takes all sessions: name of the peer, state, and why it is in it. Says whether anything follows from it.
    pub fn see<'s>(
        &mut self,
        sessions: impl IntoIterator<Item = (&'s Arc<str>, State, &'s str)>,
        now: Instant,
    ) -> bool {
        let before: Vec<Arc<str>> = self.lost.keys().cloned().collect();
        let (was_up, mut was_lost) = (std::mem::take(&mut self.up), std::mem::take(&mut self.lost));
        for (peer, state, reason) in sessions {
            match state {
                State::Up => drop(self.up.insert(Arc::clone(peer))),
                State::AdminDown => {}
                State::Down if was_up.contains(peer) => {
                    self.lost.insert(Arc::clone(peer), (now + HOLD, format!("BFD: {reason}")));
                }
                State::Down | State::Init => {
                    if let Some(entry) = was_lost.remove(peer).filter(|(until, _)| *until > now) {
                        self.lost.insert(Arc::clone(peer), entry);
                    }
                }
            }
        }
        !self.lost.keys().eq(before.iter())
    }

    /// Why the BGP session of a peer is to be down.
    pub fn reason(&self, peer: &str) -> Option<&str> {
        self.lost.get(peer).map(|(_, reason)| &**reason)
    }

    /// When to look again without being told.
    pub fn next(&self) -> Option<Instant> {
        self.lost.values().map(|(until, _)| *until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_up_can_be_lost() {
        let peer: Arc<str> = "tor".into();
        let start = Instant::now();
        let mut lost = Lost::default();
        let mut see = |second: u64, state| {
            let changed = lost.see([(&peer, state, "silence")], start + Duration::from_secs(second));
            (changed, lost.reason("tor").map(str::to_owned))
        };
        let reason = || Some("BFD: silence".to_owned());
        assert_eq!(see(0, State::Down), (false, None), "it never was up");
        assert_eq!(see(1, State::Init), (false, None));
        assert_eq!(see(1, State::Up), (false, None));
        assert_eq!(see(2, State::Down), (true, reason()));
        assert_eq!(see(3, State::Down), (false, reason()));
        assert_eq!(see(4, State::Init), (false, reason()));
        assert_eq!(see(5, State::Up), (true, None), "it is found");
        assert_eq!(see(6, State::Down), (true, reason()));
        assert_eq!(see(11, State::Down), (true, None), "BGP may try again");
        assert_eq!(see(12, State::Up), (false, None));
        assert_eq!(see(13, State::AdminDown), (false, None), "somebody took it down");
        assert_eq!(see(14, State::Down), (false, None));
    }

    #[test]
    fn a_peer_that_is_gone_is_forgotten() {
        let peer: Arc<str> = "tor".into();
        let now = Instant::now();
        let mut lost = Lost::default();
        lost.see([(&peer, State::Up, "")], now);
        lost.see([(&peer, State::Down, "silence")], now);
        assert_eq!(lost.next(), Some(now + HOLD));
        assert!(lost.see([], now));
        assert_eq!((lost.reason("tor"), lost.next()), (None, None));
    }
}
