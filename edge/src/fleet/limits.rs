//! Limits that all edges share: each tells the others ten times a second what it has let pass, and an edge that comes (back)
//! is told how full everything is.
//!
//! Between two tellings edges do not know of each other: how much more than the limit may pass then is said in
//! docs/limits.md, and tested here. An edge that falls silent may be cut off and serve all the same. For a while its part of
//! each limit is kept back; after that it is taken to be down, which is far more often the case. One that says goodbye
//! leaves its part at once. Nothing that carries traffic waits for any of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::core::{Core, Peer};
use super::message::{Ask, LimitNews};

/// Between two tellings.
pub const TELL: Duration = Duration::from_millis(100);
/// The part of a silent edge is kept back so long.
pub const SILENCE: Duration = Duration::from_secs(30);
/// Buckets in one message, so that it stays below a megabyte.
const MOST_SPENT: usize = 8192;
/// The fullest, of those that an edge is told of that comes.
const MOST_LEVELS: usize = 65_536;
/// An answer that is not there by then does not come.
const PATIENCE: Duration = Duration::from_millis(500);

/// How many edges there are to share with.
#[derive(Debug)]
pub struct Shares {
    /// When each was last heard of.
    seen: BTreeMap<Arc<str>, Instant>,
    begun: Instant,
}

/// What is known of another edge.
#[derive(Debug, Clone)]
pub struct Known {
    pub name: Arc<str>,
    pub is_live: bool,
    pub has_left: bool,
}

impl Shares {
    pub fn new(now: Instant) -> Self {
        Self { seen: BTreeMap::new(), begun: now }
    }

    /// Edges that this one hears of, itself included, and those that it has to share with.
    pub fn of(&mut self, peers: &[Known], now: Instant) -> (u32, u32) {
        let (mut present, mut all) = (1, 1);
        for Known { name, is_live, has_left } in peers {
            if *is_live {
                self.seen.insert(Arc::clone(name), now);
                (present, all) = (present + 1, all + 1);
                continue;
            }
            let since = *self.seen.get(name).unwrap_or(&self.begun);
            all += u32::from(!has_left && now.saturating_duration_since(since) < SILENCE);
        }
        (present, all)
    }
}

/// Tells for ever.
pub(super) async fn run(core: Arc<Core>) {
    let mut shares = Shares::new(Instant::now());
    // Those who have been told everything, and have heard everything since.
    let mut informed: Vec<Arc<str>> = Vec::new();
    let mut tick = tokio::time::interval(TELL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(ledger) = core.ledger() else { continue };
        let live = core.live();
        let known: Vec<Known> = core
            .peers
            .iter()
            .map(|peer| Known {
                name: Arc::clone(&peer.name),
                is_live: live.iter().any(|other| other.name == peer.name),
                has_left: peer.state().left,
            })
            .collect();
        let (present, all) = shares.of(&known, Instant::now());
        ledger.share(present, all);
        if !ledger.is_shared() {
            continue;
        }
        informed.retain(|name| live.iter().any(|peer| peer.name == *name));
        // Whoever is not here to hear it is told how full everything is when it comes.
        let spent = ledger.spent(MOST_SPENT);
        let is_new = |peer: &Arc<Peer>| !informed.contains(&peer.name);
        let levels = if live.iter().any(is_new) { ledger.levels(MOST_LEVELS) } else { Vec::new() };
        let told = live.iter().map(|peer| {
            let news = match is_new(peer) {
                // What was spent is in the levels.
                true => LimitNews::new(&[], &levels),
                false => LimitNews::new(&spent, &[]),
            };
            let is_needed = is_new(peer) || !spent.is_empty();
            async move {
                if !is_needed {
                    return (Arc::clone(&peer.name), true);
                }
                let answer = tokio::time::timeout(PATIENCE, peer.call(Ask::Limits(news))).await;
                (Arc::clone(&peer.name), matches!(answer, Ok(Ok(_))))
            }
        });
        // Who did not get it is told everything the next time.
        informed = join_all(told).await.into_iter().filter(|(_, is_told)| *is_told).map(|(name, _)| name).collect();
    }
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
