//! The guard's mind: what it hears from edged and how time passes, into when to undo; pure.
//!
//! In: one [`Heard`] at a time and `now`. Out: a [`Verdict`]. Silence is counted in steps of the guard's own pace, none
//! longer than [`LONGEST_STEP`]: on a machine so busy, or paused for so long, that the guard did not run, it cannot know
//! that edged would have run.

use std::time::{Duration, Instant};

/// How often the guard looks at its clock while it watches.
pub const TICK: Duration = Duration::from_millis(50);
/// What one step of time may add to the silence.
const LONGEST_STEP: Duration = Duration::from_millis(100);
/// Silence that ends in undoing. Six beats are missed by then, and what follows (gobgpd's notification, 0.1 s) is done
/// within the second that is promised.
pub const SILENCE: Duration = Duration::from_millis(600);

/// What edged said, or did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Edged and all of its workers live; it knows of that many undoings.
    Beat {
        known: u64,
    },
    /// What is to be undone is said anew.
    Charge {
        known: u64,
        is_empty: bool,
    },
    /// Edged itself says that it cannot serve.
    Failing {
        known: u64,
    },
    /// Edged has withdrawn everything in order and ends.
    Farewell,
    /// The other end is closed: edged is gone.
    Closed,
    Nothing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Watch,
    /// What was said is in force from now on.
    Take,
    Undo(Why),
    /// There is nothing left to do in this life.
    Leave,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    Died,
    Silent(Duration),
    Failing,
}

#[derive(Debug)]
pub struct Vigil {
    last: Instant,
    silence: Duration,
    /// There is something to undo.
    has_charge: bool,
    undone: u64,
    /// How many undoings edged knows of.
    known: u64,
}

impl Vigil {
    pub fn new(now: Instant) -> Self {
        Self { last: now, silence: Duration::ZERO, has_charge: false, undone: 0, known: 0 }
    }

    /// How often was undone.
    pub fn undone(&self) -> u64 {
        self.undone
    }

    /// Whether time matters: without a charge the guard sleeps until it is spoken to.
    pub fn is_watching(&self) -> bool {
        self.has_charge
    }

    pub fn hear(&mut self, heard: Heard, now: Instant) -> Verdict {
        let step = now.saturating_duration_since(self.last).min(LONGEST_STEP);
        self.last = now;
        match heard {
            Heard::Beat { known } => {
                self.note(known);
                self.silence = Duration::ZERO;
                Verdict::Watch
            }
            Heard::Charge { known, is_empty } => {
                self.note(known);
                self.silence = Duration::ZERO;
                if !self.is_obeyed() {
                    // Said by somebody who does not know yet that it was withdrawn; it is told, and nothing is announced
                    // by it before the guard has taken the charge.
                    return Verdict::Watch;
                }
                self.has_charge = !is_empty;
                Verdict::Take
            }
            Heard::Failing { known } => {
                self.note(known);
                self.silence = Duration::ZERO;
                self.undo_if_charged(Why::Failing)
            }
            Heard::Farewell => Verdict::Leave,
            Heard::Closed => match self.undo_if_charged(Why::Died) {
                Verdict::Watch => Verdict::Leave,
                undo => undo,
            },
            Heard::Nothing if !self.has_charge => Verdict::Watch,
            Heard::Nothing => {
                self.silence += step;
                if self.silence < SILENCE { Verdict::Watch } else { self.undo_if_charged(Why::Silent(self.silence)) }
            }
        }
    }

    /// Takes no charge before edged knows of every undoing.
    fn is_obeyed(&self) -> bool {
        self.known >= self.undone
    }

    /// A guard that took the place of another one begins with what edged knows.
    fn note(&mut self, known: u64) {
        self.known = self.known.max(known);
        self.undone = self.undone.max(known);
    }

    fn undo_if_charged(&mut self, why: Why) -> Verdict {
        if !self.has_charge {
            return Verdict::Watch;
        }
        self.has_charge = false;
        self.undone += 1;
        Verdict::Undo(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHARGE: Heard = Heard::Charge { known: 0, is_empty: false };
    const BEAT: Heard = Heard::Beat { known: 0 };

    fn at(start: Instant, milliseconds: u64) -> Instant {
        start + Duration::from_millis(milliseconds)
    }

    fn charged(start: Instant) -> Vigil {
        let mut vigil = Vigil::new(start);
        assert_eq!(vigil.hear(CHARGE, start), Verdict::Take);
        vigil
    }

    /// Ticks from `from` on; when and why something was undone.
    fn wait(vigil: &mut Vigil, start: Instant, from: u64, until: u64) -> Option<(u64, Why)> {
        let mut time = from;
        while time <= until {
            if let Verdict::Undo(why) = vigil.hear(Heard::Nothing, at(start, time)) {
                return Some((time, why));
            }
            time += 50;
        }
        None
    }

    #[test]
    fn beats_keep_it_quiet_and_silence_does_not() {
        let start = Instant::now();
        let mut vigil = charged(start);
        for beat in 0..100 {
            assert_eq!(vigil.hear(BEAT, at(start, beat * 100)), Verdict::Watch);
            assert_eq!(wait(&mut vigil, start, beat * 100 + 50, beat * 100 + 50), None);
        }
        let (when, why) = wait(&mut vigil, start, 9950, 20_000).unwrap();
        assert_eq!((when, why), (10_500, Why::Silent(SILENCE)));
        // Once.
        assert_eq!(wait(&mut vigil, start, 10_550, 60_000), None);
        assert_eq!(vigil.undone(), 1);
    }

    #[test]
    fn the_end_of_edged_is_undone_at_once_and_an_orderly_one_not() {
        let start = Instant::now();
        let mut vigil = charged(start);
        assert_eq!(vigil.hear(Heard::Closed, at(start, 1)), Verdict::Undo(Why::Died));
        assert_eq!(vigil.hear(Heard::Closed, at(start, 2)), Verdict::Leave);
        let mut vigil = charged(start);
        assert_eq!(vigil.hear(Heard::Farewell, at(start, 1)), Verdict::Leave);
        let mut vigil = Vigil::new(start);
        assert_eq!(vigil.hear(Heard::Closed, at(start, 1)), Verdict::Leave);
    }

    #[test]
    fn without_a_charge_silence_means_nothing() {
        let start = Instant::now();
        let mut vigil = Vigil::new(start);
        assert_eq!(wait(&mut vigil, start, 0, 60_000), None);
        assert!(!vigil.is_watching());
        let mut vigil = charged(start);
        assert_eq!(vigil.hear(Heard::Charge { known: 0, is_empty: true }, at(start, 10)), Verdict::Take);
        assert_eq!(wait(&mut vigil, start, 50, 60_000), None);
        assert_eq!(vigil.hear(Heard::Closed, at(start, 60_000)), Verdict::Leave);
    }

    #[test]
    fn a_guard_that_did_not_run_itself_counts_a_step_only() {
        let start = Instant::now();
        let mut vigil = charged(start);
        assert_eq!(vigil.hear(BEAT, at(start, 100)), Verdict::Watch);
        // The machine stood still for a minute; then edged's beat is in the queue, or comes soon.
        assert_eq!(vigil.hear(Heard::Nothing, at(start, 60_000)), Verdict::Watch);
        assert_eq!(vigil.hear(BEAT, at(start, 60_100)), Verdict::Watch);
        // So slow that the guard runs only every 400 ms: six of its own steps.
        let mut undone = None;
        for step in 1..20 {
            if vigil.hear(Heard::Nothing, at(start, 60_100 + step * 400)) == Verdict::Undo(Why::Silent(SILENCE)) {
                undone = Some(step);
                break;
            }
        }
        assert_eq!(undone, Some(6));
    }

    #[test]
    fn who_wakes_up_is_not_obeyed_before_it_knows() {
        let start = Instant::now();
        let mut vigil = charged(start);
        assert!(wait(&mut vigil, start, 50, 5000).is_some());
        // Said before edged read the report.
        assert_eq!(vigil.hear(CHARGE, at(start, 5100)), Verdict::Watch);
        assert_eq!(vigil.hear(BEAT, at(start, 5200)), Verdict::Watch);
        assert!(!vigil.is_watching());
        assert_eq!(vigil.hear(Heard::Charge { known: 1, is_empty: false }, at(start, 5300)), Verdict::Take);
        assert_eq!(vigil.hear(Heard::Closed, at(start, 5301)), Verdict::Undo(Why::Died));
    }

    #[test]
    fn who_says_that_it_fails_is_undone_once() {
        let start = Instant::now();
        let mut vigil = charged(start);
        assert_eq!(vigil.hear(Heard::Failing { known: 0 }, at(start, 10)), Verdict::Undo(Why::Failing));
        for time in 1..100 {
            assert_eq!(vigil.hear(Heard::Failing { known: 0 }, at(start, 10 + time * 100)), Verdict::Watch);
        }
        assert_eq!(vigil.undone(), 1);
    }

    #[test]
    fn a_successor_goes_on_counting() {
        let start = Instant::now();
        let mut vigil = Vigil::new(start);
        assert_eq!(vigil.hear(Heard::Charge { known: 3, is_empty: false }, start), Verdict::Take);
        assert_eq!(vigil.hear(Heard::Closed, at(start, 1)), Verdict::Undo(Why::Died));
        assert_eq!(vigil.undone(), 4);
    }

    /// Whatever is heard in whatever order: nothing is undone twice, and nothing is undone while beats come.
    #[test]
    fn any_order_of_events() {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        for _ in 0..2000 {
            let start = Instant::now();
            let (mut vigil, mut time, mut beaten, mut charged) = (Vigil::new(start), 0, 0, false);
            for _ in 0..200 {
                time += random(80);
                let known = random(3);
                let heard = match random(10) {
                    0..4 => Heard::Nothing,
                    4..7 => Heard::Beat { known },
                    7 | 8 => Heard::Charge { known, is_empty: random(3) == 0 },
                    _ => Heard::Failing { known },
                };
                if !matches!(heard, Heard::Nothing) {
                    beaten = time;
                }
                match vigil.hear(heard, at(start, time)) {
                    Verdict::Take => charged = matches!(heard, Heard::Charge { is_empty: false, .. }),
                    Verdict::Undo(why) => {
                        assert!(std::mem::take(&mut charged), "{why:?} without a charge");
                        assert!(!matches!(why, Why::Silent(_)) || time - beaten >= 600, "{why:?} {}", time - beaten);
                    }
                    Verdict::Watch => {}
                    Verdict::Leave => panic!("nobody said farewell"),
                }
                assert_eq!(vigil.is_watching(), charged);
            }
        }
    }
}
