//! When what the watches saw may be served: a world of which half is not known yet must not replace a better one. What
//! each watch says of itself and the time flow in; whether to hand over, hold back, or look again later flows out. Pure.
//!
//! At the start everything is held back until every kind is known, or, after a while, every essential one. Later, the
//! kinds return one by one after an outage: a route may be back before its Service. So what comes is held back until
//! those that were lost together are back together, for a few seconds at most.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::kinds::{Slot, is_essential};

/// A single watch that breaks is back within this time, or is not waited for.
const BREAK: Duration = Duration::from_secs(1);
/// After an outage, the watches return within this time of the first one.
const RETURN: Duration = Duration::from_secs(5);

/// What a watch says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Not listed yet, for the reason if there is one.
    Pending(Option<String>),
    Live,
    /// Listed before, and not followed now.
    Lost(String),
    /// The API server does not have the kind.
    Absent,
    /// The API server does not let us.
    Refused(String),
}

#[derive(Debug, Clone, Copy)]
enum Standing {
    Pending,
    Settled,
    Lost { since: Instant, waited_until: Instant, is_hopeless: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    Now,
    /// Not before this time, unless something is heard.
    At(Instant),
    /// Not before something is heard.
    Never,
}

#[derive(Debug)]
pub struct Readiness {
    slots: BTreeMap<Slot, Standing>,
    /// Until when the start waits for all; `None`: it is over.
    start: Option<Instant>,
}

impl Readiness {
    pub fn new(slots: impl IntoIterator<Item = Slot>, start: Instant) -> Self {
        Self { slots: slots.into_iter().map(|slot| (slot, Standing::Pending)).collect(), start: Some(start) }
    }

    pub fn note(&mut self, slot: &Slot, phase: &Phase, now: Instant) {
        let before = self.slots.get(slot).copied().unwrap_or(Standing::Pending);
        let after = match (phase, before) {
            (Phase::Live | Phase::Absent | Phase::Refused(_), _) => Standing::Settled,
            (Phase::Pending(_), _) => Standing::Pending,
            (Phase::Lost(_), lost @ Standing::Lost { .. }) => lost,
            (Phase::Lost(_), _) => Standing::Lost { since: now, waited_until: now + BREAK, is_hopeless: false },
        };
        self.slots.insert(slot.clone(), after);
        let is_return_from_outage = matches!(
            (before, after),
            (Standing::Lost { since, .. }, Standing::Settled) if now.duration_since(since) >= BREAK
        );
        for standing in self.slots.values_mut() {
            if let Standing::Lost { since, waited_until, is_hopeless } = standing {
                // Waited for after a return already, in vain.
                *is_hopeless |= *waited_until <= now && *waited_until > *since + BREAK;
                if is_return_from_outage && !*is_hopeless && *waited_until <= *since + BREAK {
                    *waited_until = now + RETURN;
                }
            }
        }
    }

    /// A collection that is not watched any more.
    pub fn forget(&mut self, slot: &Slot) {
        self.slots.remove(slot);
    }

    /// Whether the start is over: everything that could be known was handed over once.
    pub fn is_open(&self) -> bool {
        self.start.is_none()
    }

    pub fn release(&mut self, now: Instant) -> Release {
        if let Some(start) = self.start {
            let is_known = |standing: &Standing| matches!(standing, Standing::Settled);
            let all = self.slots.values().all(is_known);
            let essential =
                self.slots.iter().filter(|(slot, _)| is_essential(slot.kind)).all(|(_, standing)| is_known(standing));
            if !all && now < start {
                return Release::At(start);
            }
            if !all && !essential {
                return Release::Never;
            }
            self.start = None;
        }
        let waits = self.slots.values().filter_map(|standing| match standing {
            Standing::Lost { waited_until, is_hopeless: false, .. } if *waited_until > now => Some(*waited_until),
            _ => None,
        });
        waits.max().map_or(Release::Now, Release::At)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edge_config::names::Kind;

    fn slot(kind: Kind) -> Slot {
        Slot { kind, namespace: None, name: None }
    }

    fn lost() -> Phase {
        Phase::Lost("connection refused".to_owned())
    }

    const KINDS: [Kind; 3] = [Kind::HTTPRoute, Kind::Service, Kind::BFDProfile];

    fn open(now: Instant) -> Readiness {
        let mut readiness = Readiness::new(KINDS.map(slot), now + Duration::from_secs(30));
        for kind in KINDS {
            readiness.note(&slot(kind), &Phase::Live, now);
        }
        assert_eq!(readiness.release(now), Release::Now);
        readiness
    }

    #[test]
    fn the_start_waits_for_all_kinds() {
        let now = Instant::now();
        let patience = now + Duration::from_secs(30);
        let mut readiness = Readiness::new(KINDS.map(slot), patience);
        assert_eq!(readiness.release(now), Release::At(patience));
        readiness.note(&slot(Kind::HTTPRoute), &Phase::Live, now);
        readiness.note(&slot(Kind::BFDProfile), &Phase::Absent, now);
        assert_eq!(readiness.release(now), Release::At(patience));
        readiness.note(&slot(Kind::Service), &Phase::Refused("forbidden".to_owned()), now);
        assert_eq!(readiness.release(now), Release::Now);
        assert!(readiness.is_open());
    }

    #[test]
    fn after_a_while_the_start_waits_for_essential_kinds_only() {
        let now = Instant::now();
        let mut readiness = Readiness::new(KINDS.map(slot), now);
        readiness.note(&slot(Kind::HTTPRoute), &Phase::Live, now);
        assert_eq!(readiness.release(now), Release::Never, "routes without Services would answer 500");
        readiness.note(&slot(Kind::Service), &Phase::Live, now);
        assert_eq!(readiness.release(now), Release::Now);
    }

    #[test]
    fn a_watch_that_breaks_alone_is_waited_for_shortly() {
        let now = Instant::now();
        let mut readiness = open(now);
        readiness.note(&slot(Kind::Service), &lost(), now);
        assert_eq!(readiness.release(now), Release::At(now + BREAK));
        // Its failures do not prolong the wait.
        readiness.note(&slot(Kind::Service), &lost(), now + BREAK / 2);
        assert_eq!(readiness.release(now + BREAK), Release::Now);
    }

    #[test]
    fn after_an_outage_kinds_return_together() {
        let now = Instant::now();
        let mut readiness = open(now);
        for kind in KINDS {
            readiness.note(&slot(kind), &lost(), now);
        }
        let back = now + Duration::from_secs(1800);
        readiness.note(&slot(Kind::HTTPRoute), &Phase::Live, back);
        assert_eq!(readiness.release(back), Release::At(back + RETURN));
        readiness.note(&slot(Kind::Service), &Phase::Live, back);
        readiness.note(&slot(Kind::BFDProfile), &Phase::Live, back);
        assert_eq!(readiness.release(back), Release::Now);
    }

    #[test]
    fn a_kind_that_stays_away_is_waited_for_once() {
        let now = Instant::now();
        let mut readiness = open(now);
        for kind in KINDS {
            readiness.note(&slot(kind), &lost(), now);
        }
        let back = now + Duration::from_secs(60);
        readiness.note(&slot(Kind::HTTPRoute), &Phase::Live, back);
        readiness.note(&slot(Kind::Service), &Phase::Live, back);
        let later = back + RETURN;
        assert_eq!(readiness.release(later), Release::Now);
        // Another outage of another kind: the hopeless one does not hold it up again.
        readiness.note(&slot(Kind::Service), &lost(), later);
        let again = later + Duration::from_secs(60);
        readiness.note(&slot(Kind::Service), &Phase::Live, again);
        assert_eq!(readiness.release(again), Release::Now);
    }
}
