//! The fleet as users see it: every edge with what it says of itself, and what an edge says when it is asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use edge_config::inputs::Inputs;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::span;
use super::status;
use super::view::{Health, State};
use super::world::World;
use crate::fleet::Witness;
use crate::fleet::standing::{Difference, Keys, MOST_ROWS, Standing};
use crate::fleet::survey::{Said, Word};
use crate::history::record::{self, Digests};

/// What `edgectl --all status` shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FleetStatus {
    /// This edge first, the others by name.
    pub edges: Vec<EdgeStatus>,
}

impl FleetStatus {
    /// The worst state of any edge, and of anything of it.
    pub fn worst(&self) -> State {
        self.edges.iter().map(|edge| edge.health.state).min().unwrap_or(State::Up)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EdgeStatus {
    /// The worst of it; down where it does not answer.
    #[serde(flatten)]
    pub health: Health,
    pub edge: String,
    /// Where it is called; empty for the edge that was asked.
    pub address: String,
    /// When it last answered anything; RFC 3339, UTC; absent for the edge that was asked, and for one that never did.
    pub last_exchange: Option<String>,
    /// Of the program, as far as it was heard of.
    pub version: Option<String>,
    /// Absent: it says nothing.
    pub standing: Option<Standing>,
    /// In what its configuration differs from that of the edge that was asked; absent: in nothing, or it cannot be said.
    pub drift: Option<Difference>,
}

/// Everything that is known of all edges.
pub fn fleet_status(world: &World, own: Standing, words: Vec<Word>) -> FleetStatus {
    let mine = EdgeStatus {
        health: health(&own, None),
        edge: world.edge.to_string(),
        address: String::new(),
        last_exchange: None,
        version: Some(own.edge.version.clone()),
        standing: Some(own),
        drift: None,
    };
    FleetStatus { edges: std::iter::once(mine).chain(words.into_iter().map(other)).collect() }
}

fn other(word: Word) -> EdgeStatus {
    let Word { edge, address, last_exchange, version, said } = word;
    let (health, standing, drift) = match said {
        Said::Standing { standing, difference } => {
            let drift = difference.and_then(Result::ok).filter(|difference| difference.total > 0);
            (health(&standing, drift.as_ref()), Some(*standing), drift)
        }
        Said::Older => (Health::new(State::Degraded, "an older version: it cannot say how it stands"), None, None),
        Said::Nothing(why) => {
            let since = last_exchange.map_or_else(
                || "it was never heard of".to_owned(),
                |at| format!("last heard of at {}", span::rfc3339(at)),
            );
            (Health::new(State::Down, format!("away: {why}; {since}")), None, None)
        }
    };
    EdgeStatus {
        health,
        edge,
        address: address.to_string(),
        last_exchange: last_exchange.map(span::rfc3339),
        version,
        standing,
        drift,
    }
}

/// As `edgectl status` on that edge would end; a difference is told even where all else is well.
fn health(standing: &Standing, drift: Option<&Difference>) -> Health {
    let own = &standing.edge.health;
    let mut health = Health::new(standing.worst, if own.state == State::Up { "" } else { &*own.reason });
    if health.reason.is_empty() && health.state != State::Up {
        let of_state = |counts: &BTreeMap<State, usize>| counts.get(&standing.worst).copied().unwrap_or_default();
        let kinds: Vec<String> = standing
            .counts
            .iter()
            .filter(|(_, counts)| of_state(counts) > 0)
            .map(|(kind, counts)| format!("{} of kind {kind}", of_state(counts)))
            .collect();
        health.reason = format!("{}: {}", standing.worst, kinds.join(", "));
    }
    match drift {
        Some(drift) => health.and(Health::new(State::Degraded, format!("configured differently: {}", drift.line(3)))),
        None => health,
    }
}

/// Answers for this edge, from the newest world.
pub struct Witnessed {
    world: watch::Receiver<Arc<World>>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    digests: Digests,
    of: Option<(Arc<Inputs>, Arc<str>)>,
    configuration: Option<Arc<(String, Keys)>>,
}

impl Witnessed {
    pub fn new(world: watch::Receiver<Arc<World>>) -> Self {
        Self { world, known: Mutex::default() }
    }

    fn now(&self) -> Arc<World> {
        Arc::clone(&self.world.borrow())
    }
}

impl Known {
    fn is_of(&self, world: &World) -> bool {
        let is_it = |(inputs, portion): &(Arc<Inputs>, Arc<str>)| {
            Arc::ptr_eq(inputs, &world.inputs) && *portion == world.portion
        };
        self.of.as_ref().is_some_and(is_it)
    }
}

impl Witness for Witnessed {
    fn standing(&self) -> Standing {
        let hash = self.configuration().map(|known| known.0.clone());
        standing(&self.now(), SystemTime::now(), hash)
    }

    fn configuration(&self) -> Option<Arc<(String, Keys)>> {
        let world = self.now();
        if world.generation == 0 {
            return None;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.is_of(&world) {
            let keys = known.digests.keys(&world.inputs, &world.portion);
            known.configuration = Some(Arc::new((record::summary(&keys), keys)));
            known.of = Some((Arc::clone(&world.inputs), Arc::clone(&world.portion)));
        }
        known.configuration.clone()
    }

    fn hash(&self) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.configuration.as_ref().filter(|_| known.is_of(&self.now())).map(|known| known.0.clone())
    }
}

/// How this edge stands, in short.
fn standing(world: &World, now: SystemTime, hash: Option<String>) -> Standing {
    let mut status = status::status(world, now);
    // Of the others each says itself how it stands.
    status.fleet = None;
    let worst = status.worst();
    let counts = status::tally(world, now).counts.into_iter().map(|(kind, counts)| {
        let counts = State::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0);
        (kind.to_owned(), counts.collect())
    });
    let mut standing = Standing {
        worst,
        problems: status.problems,
        counts: counts.collect(),
        vips: status.vips,
        peers: status.peers,
        certificates: status.certificates,
        edge: status.edge,
        hash,
    };
    standing.certificates.retain(|row| row.health.state != State::Up);
    standing.vips.truncate(MOST_ROWS);
    standing.peers.truncate(MOST_ROWS);
    standing.certificates.truncate(MOST_ROWS);
    // How each kind of the API server is followed is that edge's own matter.
    standing.edge.sources.iter_mut().for_each(|source| source.collections.clear());
    standing
}

/// What the edge that is asked says of itself.
pub async fn own(witness: Arc<dyn Witness>) -> Option<Standing> {
    tokio::task::spawn_blocking(move || witness.standing()).await.ok()
}
