//! Signs of life: who works counts, somebody else looks whether the count moves.
//!
//! In: one relaxed add now and then by each party. Out: who stands still for longer than it may. Nothing here reads a
//! clock, and nothing is paid per request: workers count in a chore that they have anyway.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The pulse of one party. An idle party counts as well as a busy one; only one that hangs or is gone does not.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Everybody who must live for traffic to be served and judged.
#[derive(Debug, Clone, Default)]
pub struct Vitals {
    pub supervisor: Pulse,
    pub workers: Vec<Pulse>,
}

/// Who stands still, and for how long already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standstill {
    pub party: Party,
    pub time: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    Supervisor,
    Worker(usize),
}

impl fmt::Display for Standstill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.time.as_millis();
        match self.party {
            Party::Supervisor => write!(f, "the supervisor stands still for {time} ms"),
            Party::Worker(index) => write!(f, "worker {index} stands still for {time} ms"),
        }
    }
}

/// How long each may stand still.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    pub supervisor: Duration,
    pub worker: Duration,
    /// The longest step of time that counts against anybody: a machine that was paused, or on which the onlooker did not
    /// run either, says nothing about those that it looks at.
    pub step: Duration,
}

/// Looks at vitals again and again.
#[derive(Debug)]
pub struct Onlooker {
    vitals: Vitals,
    patience: Patience,
    last: Option<Instant>,
    /// Count and time without a change; the supervisor, then the workers.
    seen: Vec<(u64, Duration)>,
}

impl Onlooker {
    pub fn new(vitals: Vitals, patience: Patience) -> Self {
        Self { vitals, patience, last: None, seen: Vec::new() }
    }

    /// Everybody gets the whole of their patience anew.
    pub fn forget(&mut self) {
        self.last = None;
    }

    /// The first who stands still for too long, if anybody does. A worker counts before the supervisor.
    pub fn look(&mut self, now: Instant) -> Option<Standstill> {
        let Self { vitals, patience, last, seen } = self;
        let parties = vitals.workers.iter().chain([&vitals.supervisor]);
        let Some(before) = last.replace(now) else {
            *seen = parties.map(|pulse| (pulse.count(), Duration::ZERO)).collect();
            return None;
        };
        let step = now.saturating_duration_since(before).min(patience.step);
        let workers = vitals.workers.len();
        let mut first = None;
        for (index, (pulse, (count, time))) in parties.zip(seen).enumerate() {
            let (party, limit) = match index {
                index if index < workers => (Party::Worker(index), patience.worker),
                _ => (Party::Supervisor, patience.supervisor),
            };
            let now = pulse.count();
            if now != *count {
                (*count, *time) = (now, Duration::ZERO);
                continue;
            }
            *time += step;
            if *time >= limit && first.is_none() {
                first = Some(Standstill { party, time: *time });
            }
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(100);

    fn onlooker(workers: usize) -> (Vitals, Onlooker) {
        let vitals = Vitals { supervisor: Pulse::default(), workers: (0..workers).map(|_| Pulse::default()).collect() };
        let patience =
            Patience { supervisor: Duration::from_secs(20), worker: Duration::from_millis(700), step: STEP * 2 };
        (vitals.clone(), Onlooker::new(vitals, patience))
    }

    /// Looks every 100 ms for `steps` steps, while `alive` beat; the time of the first finding.
    fn run(vitals: &Vitals, onlooker: &mut Onlooker, steps: u32, alive: &[usize]) -> Option<(Duration, Standstill)> {
        let start = Instant::now();
        for step in 0..=steps {
            for index in alive {
                vitals.workers[*index].beat();
            }
            if step % 10 == 0 {
                vitals.supervisor.beat();
            }
            if let Some(found) = onlooker.look(start + STEP * step) {
                return Some((STEP * step, found));
            }
        }
        None
    }

    #[test]
    fn who_counts_lives_and_who_does_not_is_found() {
        let (vitals, mut all) = onlooker(3);
        assert_eq!(run(&vitals, &mut all, 600, &[0, 1, 2]), None);
        let (vitals, mut all) = onlooker(3);
        let (at, found) = run(&vitals, &mut all, 600, &[0, 2]).unwrap();
        assert_eq!(at, Duration::from_millis(700));
        assert_eq!(found.to_string(), "worker 1 stands still for 700 ms");
    }

    #[test]
    fn a_supervisor_may_think_for_long_but_not_for_ever() {
        let (vitals, mut all) = onlooker(1);
        let start = Instant::now();
        let mut found = None;
        for step in 0..300 {
            vitals.workers[0].beat();
            found = found.or_else(|| all.look(start + STEP * step).map(|what| (STEP * step, what)));
        }
        let (at, what) = found.unwrap();
        assert_eq!((at, what.party), (Duration::from_secs(20), Party::Supervisor));
    }

    #[test]
    fn a_pause_of_the_whole_machine_is_nobodys_fault() {
        let (vitals, mut all) = onlooker(1);
        let start = Instant::now();
        assert_eq!(all.look(start), None);
        vitals.workers[0].beat();
        assert_eq!(all.look(start + STEP), None);
        // Five seconds in which nobody ran, not even the onlooker.
        assert_eq!(all.look(start + STEP + Duration::from_secs(5)), None);
        vitals.workers[0].beat();
        assert_eq!(all.look(start + Duration::from_secs(6)), None);
        // Standing still afterwards is found as late as ever.
        let mut steps = 0;
        while all.look(start + Duration::from_secs(6) + STEP * (steps + 1)).is_none() {
            steps += 1;
        }
        assert_eq!(steps, 6);
    }

    #[test]
    fn who_is_looked_at_again_has_all_the_time_again() {
        let (vitals, mut all) = onlooker(1);
        assert!(run(&vitals, &mut all, 60, &[]).is_some());
        all.forget();
        assert_eq!(run(&vitals, &mut all, 6, &[]), None);
    }
}
