//! Whether the neighbours of an interface still answer: a link may have its carrier and lead nowhere; pure.
//!
//! In: which neighbours, how often and how patiently, every word that is heard of one of them, `now` as the time since some
//! fixed moment. Out: whom to ask now, and whether all of them are silent. One that answers is enough: a neighbour that is
//! switched off is no fault of the interface.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// How neighbours are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// From question to question.
    pub interval: Duration,
    /// So many answers in a row make a silent one speak; at least 1.
    pub rise: u8,
    /// So many questions in a row without an answer make one silent; at least 1.
    pub fall: u8,
}

#[derive(Debug, Clone)]
pub struct Watch {
    pace: Pace,
    neighbours: BTreeMap<IpAddr, Neighbour>,
    /// When the next questions are due.
    next: Duration,
}

#[derive(Debug, Clone, Copy, Default)]
struct Neighbour {
    /// Asked, and the answer is not judged yet.
    is_asked: bool,
    /// Heard of since it was asked.
    has_answered: bool,
    /// In a row, of the kind that the state does not expect.
    against: u8,
    is_silent: bool,
}

impl Watch {
    /// Nobody is silent before that is known.
    pub fn new(now: Duration) -> Self {
        let pace = Pace { interval: Duration::from_secs(1), rise: 1, fall: 1 };
        Self { pace, neighbours: BTreeMap::new(), next: now }
    }

    /// Watches these from now on. What is known of those who stay is kept.
    pub fn configure(&mut self, neighbours: &[IpAddr], pace: Pace) {
        self.neighbours.retain(|address, _| neighbours.contains(address));
        for address in neighbours {
            self.neighbours.entry(*address).or_default();
        }
        self.pace = pace;
    }

    /// Something was heard that only who has the address can have sent.
    pub fn heard(&mut self, address: IpAddr) {
        if let Some(neighbour) = self.neighbours.get_mut(&address) {
            neighbour.has_answered = true;
        }
    }

    /// Judges the last questions when new ones are due, and says whom to ask. Call it after everything that waited was
    /// [`heard`](Self::heard). However late it is called, it counts for one question: who was stopped has not listened.
    pub fn ask(&mut self, now: Duration) -> Vec<IpAddr> {
        if now < self.next {
            return Vec::new();
        }
        self.next = now + self.pace.interval;
        let Pace { rise, fall, .. } = self.pace;
        for neighbour in self.neighbours.values_mut().filter(|neighbour| neighbour.is_asked) {
            let is_against = neighbour.has_answered == neighbour.is_silent;
            neighbour.against = if is_against { neighbour.against.saturating_add(1) } else { 0 };
            if neighbour.against >= if neighbour.is_silent { rise } else { fall } {
                neighbour.is_silent = !neighbour.is_silent;
                neighbour.against = 0;
            }
        }
        for neighbour in self.neighbours.values_mut() {
            (neighbour.is_asked, neighbour.has_answered) = (true, false);
        }
        self.neighbours.keys().copied().collect()
    }

    /// Nobody can be asked at the moment, and so silence means nothing.
    pub fn pause(&mut self, now: Duration) {
        self.next = now + self.pace.interval;
        for neighbour in self.neighbours.values_mut() {
            neighbour.is_asked = false;
        }
    }

    pub fn next(&self) -> Option<Duration> {
        (!self.neighbours.is_empty()).then_some(self.next)
    }

    /// All of them are silent; who they are.
    pub fn silent(&self) -> Option<Vec<IpAddr>> {
        let all = !self.neighbours.is_empty() && self.neighbours.values().all(|neighbour| neighbour.is_silent);
        all.then(|| self.neighbours.keys().copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { interval: Duration::from_millis(100), rise: 2, fall: 3 };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Rounds in which these answer; whether all are silent after each.
    fn rounds(watch: &mut Watch, now: &mut Duration, answers: &[&[&str]]) -> Vec<bool> {
        let round = |answering: &&[&str]| {
            assert!(!watch.ask(*now).is_empty());
            answering.iter().for_each(|address| watch.heard(ip(address)));
            *now += PACE.interval;
            // Judged when the next question is due.
            let mut after = watch.clone();
            after.ask(*now);
            after.silent().is_some()
        };
        answers.iter().map(round).collect()
    }

    #[test]
    fn silence_counts_after_the_patience_and_ends_after_answers_in_a_row() {
        let (mut watch, mut now) = (Watch::new(Duration::ZERO), Duration::ZERO);
        watch.configure(&[ip("192.0.2.1"), ip("fe80::1")], PACE);
        let (nobody, one): (&[&str], &[&str]) = (&[], &["192.0.2.1"]);
        let seen = rounds(&mut watch, &mut now, &[one, nobody, nobody, one, nobody, nobody, nobody]);
        assert_eq!(seen, [false, false, false, false, false, false, true], "one of them was there up to then");
        let seen = rounds(&mut watch, &mut now, &[one, nobody, one, one, nobody]);
        assert_eq!(seen, [true, true, true, false, false], "an answer now and then is none");
        assert_eq!(watch.ask(now), [ip("192.0.2.1"), ip("fe80::1")]);
        assert!(watch.ask(now).is_empty(), "not before the interval");
    }

    #[test]
    fn who_was_stopped_or_cannot_ask_blames_nobody() {
        let (mut watch, mut now) = (Watch::new(Duration::ZERO), Duration::ZERO);
        watch.configure(&[ip("192.0.2.1")], PACE);
        rounds(&mut watch, &mut now, &[&[]]);
        now += Duration::from_secs(3600);
        watch.ask(now);
        assert_eq!(watch.silent(), None, "two questions");
        for _ in 0..100 {
            watch.pause(now);
            now += PACE.interval;
            assert_eq!((watch.ask(now), watch.silent()), (vec![ip("192.0.2.1")], None));
        }
    }

    #[test]
    fn a_changed_list_keeps_what_is_known() {
        let (mut watch, mut now) = (Watch::new(Duration::ZERO), Duration::ZERO);
        assert_eq!((watch.next(), watch.silent()), (None, None), "nobody to watch");
        watch.configure(&[ip("192.0.2.1")], PACE);
        rounds(&mut watch, &mut now, &[&[], &[], &[], &[]]);
        assert!(watch.silent().is_some());
        watch.heard(ip("192.0.2.99"));
        watch.configure(&[ip("192.0.2.1"), ip("192.0.2.2")], PACE);
        assert_eq!(watch.silent(), None, "nothing is known of the new one");
        watch.configure(&[ip("192.0.2.1")], PACE);
        assert_eq!(watch.silent(), Some(vec![ip("192.0.2.1")]));
    }
}
