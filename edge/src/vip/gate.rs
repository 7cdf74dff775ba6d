//! When a VIP may be told to the network again, and how it leaves; pure.
//!
//! In: what is to be said of every VIP now (`wanted_vips`), whether this edge leaves, and the time. Out: how each VIP
//! stands, and when to ask again. A VIP that is new, or that nobody announced yet, waits for nothing; one that was
//! announced and failed has to be good for the hold-down first, since its return moves more flows than its loss did.
//! While the edge leaves, a VIP is first told as the way of last resort (RFC 8326) and then no more.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use super::wanted::Withheld;
use crate::control::span::rfc3339;

/// How a VIP stands with the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stance {
    Announced,
    /// Announced as the way of last resort: this edge is about to leave.
    Leaving,
    /// It could be announced, but has not been good for long enough since it failed.
    Held {
        until: SystemTime,
        /// What it failed of.
        after: Withheld,
    },
    Withheld(Withheld),
}

impl fmt::Display for Stance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Announced => f.write_str("may be announced"),
            Self::Leaving => f.write_str("announced as the way of last resort: this edge is about to leave"),
            Self::Held { until, after } => {
                write!(f, "held down until {}, since it failed: {after}", rfc3339(*until))
            }
            Self::Withheld(reason) => reason.fmt(f),
        }
    }
}

impl Stance {
    /// Whether the network is to know of the VIP at all.
    pub fn is_told(&self) -> bool {
        matches!(self, Self::Announced | Self::Leaving)
    }
}

/// How far this edge is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    Stays,
    /// Whoever knows another way takes it.
    Telling,
    Gone,
}

/// The time, once for measuring and once for people.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub instant: Instant,
    pub wall: SystemTime,
}

impl Now {
    pub fn of_clocks() -> Self {
        Self { instant: Instant::now(), wall: SystemTime::now() }
    }
}

/// What is remembered of the VIPs.
#[derive(Debug, Default)]
pub struct Gate {
    standing: BTreeMap<IpAddr, Standing>,
}

#[derive(Debug, Clone)]
enum Standing {
    Announced,
    /// Was announced and is not good now.
    Fallen(Withheld),
    Recovering {
        since: Instant,
        until: SystemTime,
        after: Withheld,
    },
    /// The rest of a hold-down of another process.
    Waiting {
        end: Instant,
        until: SystemTime,
        after: Withheld,
    },
}

/// How all VIPs stand, in the order given.
#[derive(Debug, Default)]
pub struct Judged {
    pub stances: Vec<(IpAddr, Stance)>,
    /// When the first hold-down ends.
    pub next: Option<Instant>,
}

impl Gate {
    /// Judges the whole set; VIPs that are not in it are forgotten.
    pub fn judge<'v>(
        &mut self,
        verdicts: impl IntoIterator<Item = (IpAddr, &'v Result<(), Withheld>)>,
        leave: Leave,
        hold_down: Duration,
        now: Now,
    ) -> Judged {
        let mut before = std::mem::take(&mut self.standing);
        let mut judged = Judged::default();
        for (address, verdict) in verdicts {
            let known = before.remove(&address);
            let (standing, stance) = step(known, verdict, leave, hold_down, now);
            let end = match &standing {
                Some(Standing::Recovering { since, .. }) => Some(*since + hold_down),
                Some(Standing::Waiting { end, .. }) => Some(*end),
                _ => None,
            };
            if let Some(end) = end {
                judged.next = Some(judged.next.map_or(end, |next| next.min(end)));
            }
            if let Some(standing) = standing {
                self.standing.insert(address, standing);
            }
            judged.stances.push((address, stance));
        }
        judged
    }

    /// The hold-downs that run: of each the address, the time that is left, and what it failed of.
    pub fn held(&self, hold_down: Duration, now: Instant) -> Vec<(IpAddr, Duration, String)> {
        let left = |(address, standing): (&IpAddr, &Standing)| match standing {
            Standing::Recovering { since, after, .. } => {
                let left = (*since + hold_down).saturating_duration_since(now);
                Some((*address, left, after.to_string()))
            }
            Standing::Waiting { end, after, .. } => {
                Some((*address, end.saturating_duration_since(now), after.to_string()))
            }
            Standing::Fallen(after) => Some((*address, hold_down, after.to_string())),
            Standing::Announced => None,
        };
        self.standing.iter().filter_map(left).collect()
    }

    /// Goes on with what another process was told by [`held`](Self::held).
    pub fn resume(held: Vec<(IpAddr, Duration, String)>, now: Now) -> Self {
        let standing = held.into_iter().map(|(address, left, after)| {
            let (end, until) = (now.instant + left, now.wall + left);
            (address, Standing::Waiting { end, until, after: Withheld::Before(after) })
        });
        Self { standing: standing.collect() }
    }

    /// Everything that was announced was taken back behind our back.
    pub fn fell(&mut self, reason: &Withheld) {
        for standing in self.standing.values_mut() {
            *standing = Standing::Fallen(reason.clone());
        }
    }
}

fn step(
    known: Option<Standing>,
    verdict: &Result<(), Withheld>,
    leave: Leave,
    hold_down: Duration,
    now: Now,
) -> (Option<Standing>, Stance) {
    if let Err(reason) = verdict {
        // What was never announced has nothing to recover from.
        let standing = known.map(|_| Standing::Fallen(reason.clone()));
        return (standing, Stance::Withheld(reason.clone()));
    }
    match (leave, known) {
        // Who comes back does so by a command of a person, who need not wait.
        (Leave::Gone, _) => (None, Stance::Withheld(Withheld::Draining)),
        (Leave::Telling, Some(Standing::Announced)) => (Some(Standing::Announced), Stance::Leaving),
        (Leave::Telling, known) => (known, Stance::Withheld(Withheld::Draining)),
        (Leave::Stays, None | Some(Standing::Announced)) => (Some(Standing::Announced), Stance::Announced),
        (Leave::Stays, Some(Standing::Fallen(_))) if hold_down.is_zero() => {
            (Some(Standing::Announced), Stance::Announced)
        }
        (Leave::Stays, Some(Standing::Fallen(after))) => {
            let until = now.wall + hold_down;
            let stance = Stance::Held { until, after: after.clone() };
            (Some(Standing::Recovering { since: now.instant, until, after }), stance)
        }
        (Leave::Stays, Some(Standing::Recovering { since, until, after })) => {
            if now.instant.saturating_duration_since(since) >= hold_down {
                return (Some(Standing::Announced), Stance::Announced);
            }
            let stance = Stance::Held { until, after: after.clone() };
            (Some(Standing::Recovering { since, until, after }), stance)
        }
        (Leave::Stays, Some(Standing::Waiting { end, .. })) if now.instant >= end => {
            (Some(Standing::Announced), Stance::Announced)
        }
        (Leave::Stays, Some(Standing::Waiting { end, until, after })) => {
            let stance = Stance::Held { until, after: after.clone() };
            (Some(Standing::Waiting { end, until, after }), stance)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Duration = Duration::from_secs(30);

    fn vip() -> IpAddr {
        "192.0.2.1".parse().unwrap()
    }

    struct Script {
        gate: Gate,
        start: Now,
    }

    impl Script {
        fn new() -> Self {
            Self { gate: Gate::default(), start: Now::of_clocks() }
        }

        fn at(&mut self, second: u64, verdict: Result<(), Withheld>, leave: Leave) -> (Stance, Option<u64>) {
            let after = Duration::from_secs(second);
            let now = Now { instant: self.start.instant + after, wall: self.start.wall + after };
            let mut judged = self.gate.judge([(vip(), &verdict)], leave, HOLD, now);
            let next = judged.next.map(|next| next.duration_since(self.start.instant).as_secs());
            (judged.stances.remove(0).1, next)
        }

        fn held(&self, second: u64) -> Stance {
            Stance::Held { until: self.start.wall + Duration::from_secs(second), after: Withheld::NoListener }
        }
    }

    #[test]
    fn what_was_never_announced_waits_for_nothing() {
        let mut script = Script::new();
        let pending = Stance::Withheld(Withheld::Pending);
        assert_eq!(script.at(0, Err(Withheld::Pending), Leave::Stays), (pending, None));
        assert_eq!(script.at(1, Ok(()), Leave::Stays), (Stance::Announced, None));
    }

    #[test]
    fn what_failed_is_held_down_from_when_it_is_good_again() {
        let mut script = Script::new();
        script.at(0, Ok(()), Leave::Stays);
        let bad = || Err(Withheld::NoListener);
        assert_eq!(script.at(1, bad(), Leave::Stays), (Stance::Withheld(Withheld::NoListener), None));
        assert_eq!(script.at(5, Ok(()), Leave::Stays), (script.held(35), Some(35)));
        assert_eq!(script.at(34, Ok(()), Leave::Stays), (script.held(35), Some(35)));
        // A relapse begins it anew.
        script.at(34, bad(), Leave::Stays);
        assert_eq!(script.at(36, Ok(()), Leave::Stays), (script.held(66), Some(66)));
        assert_eq!(script.at(66, Ok(()), Leave::Stays), (Stance::Announced, None));
    }

    #[test]
    fn an_edge_leaves_in_two_steps_and_comes_back_at_once() {
        let mut script = Script::new();
        script.at(0, Ok(()), Leave::Stays);
        assert_eq!(script.at(1, Ok(()), Leave::Telling).0, Stance::Leaving);
        assert_eq!(script.at(6, Ok(()), Leave::Gone).0, Stance::Withheld(Withheld::Draining));
        assert_eq!(script.at(9, Ok(()), Leave::Stays).0, Stance::Announced);
    }

    #[test]
    fn an_edge_that_leaves_announces_nothing_new() {
        let mut script = Script::new();
        assert_eq!(script.at(0, Ok(()), Leave::Telling).0, Stance::Withheld(Withheld::Draining));
        script.at(1, Ok(()), Leave::Stays);
        script.at(2, Err(Withheld::NoListener), Leave::Stays);
        assert_eq!(script.at(3, Ok(()), Leave::Telling).0, Stance::Withheld(Withheld::Draining));
        // It fell before and is still to be good for a while.
        assert_eq!(script.at(4, Ok(()), Leave::Stays).0, script.held(34));
    }

    #[test]
    fn what_somebody_else_took_back_is_held_down() {
        let mut script = Script::new();
        script.at(0, Ok(()), Leave::Stays);
        script.gate.fell(&Withheld::NoListener);
        assert_eq!(script.at(1, Ok(()), Leave::Stays).0, script.held(31));
    }

    #[test]
    fn a_hold_down_goes_on_in_another_process() {
        let mut script = Script::new();
        script.at(0, Ok(()), Leave::Stays);
        script.at(1, Err(Withheld::NoListener), Leave::Stays);
        script.at(5, Ok(()), Leave::Stays);
        let at = |second| {
            let after = Duration::from_secs(second);
            Now { instant: script.start.instant + after, wall: script.start.wall + after }
        };
        let held = script.gate.held(HOLD, at(15).instant);
        assert_eq!(held, [(vip(), Duration::from_secs(20), Withheld::NoListener.to_string())]);
        let mut next = Script { gate: Gate::resume(held, at(15)), start: script.start };
        assert!(matches!(next.at(34, Ok(()), Leave::Stays), (Stance::Held { .. }, Some(35))));
        assert_eq!(next.at(35, Ok(()), Leave::Stays).0, Stance::Announced);
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let mut script = Script::new();
        script.at(0, Ok(()), Leave::Stays);
        script.at(1, Err(Withheld::NoListener), Leave::Stays);
        script.gate.judge([], Leave::Stays, HOLD, script.start);
        assert_eq!(script.at(2, Ok(()), Leave::Stays).0, Stance::Announced);
    }
}
