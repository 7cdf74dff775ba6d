//! A fleet of simulated edges under one clock: they serve a flood, tell each other, are cut off, leave and come back.

use std::cell::Cell;
use std::collections::BTreeSet;

use edge_config::policy::protection::Reach;

use super::*;
use crate::proxy::protection::bucket::Pace;
use crate::proxy::protection::table::Key;
use crate::proxy::protection::{Account, Ledger, Near};
use crate::proxy::upstream::balance::Random;

thread_local! {
    static NOW: Cell<Duration> = const { Cell::new(Duration::from_secs(1_000_000)) };
}

fn simulated() -> Duration {
    NOW.get()
}

struct Edge {
    ledger: Ledger,
    near: Near,
    shares: Shares,
    informed: BTreeSet<usize>,
    is_up: bool,
    /// Of its counts: news on their way to it, with the moment of arrival.
    inbox: Vec<(Duration, LimitNews)>,
}

struct Fleet {
    edges: Vec<Edge>,
    /// Of which side of a partition each is.
    sides: Vec<u8>,
    left: BTreeSet<usize>,
    origin: Instant,
    passed: Vec<Duration>,
    way: Duration,
    limit: (u32, Duration),
}

const STEP: Duration = Duration::from_millis(10);
const KEY: Key = Key { limit: 7, client: 1234 };

impl Fleet {
    fn new(count: usize, limit: (u32, Duration), way: Duration) -> Self {
        let origin = Instant::now();
        let edge = || Edge {
            ledger: Ledger::by(simulated),
            near: Near::default(),
            shares: Shares::new(origin),
            informed: BTreeSet::new(),
            is_up: true,
            inbox: Vec::new(),
        };
        let edges: Vec<Edge> = (0..count).map(|_| edge()).collect();
        for edge in &edges {
            edge.ledger.share(u32::try_from(count).unwrap(), u32::try_from(count).unwrap());
        }
        NOW.set(Duration::from_secs(1_000_000));
        Self { edges, sides: vec![0; count], left: BTreeSet::new(), origin, passed: Vec::new(), way, limit }
    }

    fn tell(&mut self, from: usize) {
        let now = NOW.get();
        let (sides, left) = (self.sides.clone(), self.left.clone());
        let up: Vec<bool> = self.edges.iter().map(|edge| edge.is_up).collect();
        let is_live = |to: usize| up[to] && sides[to] == sides[from];
        let others: Vec<usize> = (0..self.edges.len()).filter(|to| *to != from).collect();
        let known: Vec<Known> = others
            .iter()
            .map(|to| Known { name: to.to_string().into(), is_live: is_live(*to), has_left: left.contains(to) })
            .collect();
        let moment = self.origin + (now - Duration::from_secs(1_000_000));
        let edge = &mut self.edges[from];
        let (present, all) = edge.shares.of(&known, moment);
        edge.ledger.share(present, all);
        edge.informed.retain(|to| is_live(*to));
        let spent = edge.ledger.spent(MOST_SPENT);
        let informed = edge.informed.clone();
        let is_needed = others.iter().any(|to| is_live(*to) && !informed.contains(to));
        let levels = if is_needed { edge.ledger.levels(MOST_LEVELS) } else { Vec::new() };
        for to in others.into_iter().filter(|to| is_live(*to)) {
            let news = if informed.contains(&to) { LimitNews::new(&spent, &[]) } else { LimitNews::new(&[], &levels) };
            self.edges[from].informed.insert(to);
            self.edges[to].inbox.push((now + self.way, news));
        }
    }

    /// Runs for so long, `each` requests arriving at every edge in each step.
    fn run(&mut self, time: Duration, arrivals: impl Fn(usize, u64) -> u32) {
        let steps = u64::try_from(time.as_millis() / STEP.as_millis()).unwrap();
        for step in 0..steps {
            NOW.set(NOW.get() + STEP);
            let now = NOW.get();
            for place in 0..self.edges.len() {
                if !self.edges[place].is_up {
                    continue;
                }
                let due: Vec<_> = self.edges[place].inbox.extract_if(.., |(at, _)| *at <= now).collect();
                for (_, news) in due {
                    self.edges[place].ledger.learn_levels(&news.levels());
                    self.edges[place].ledger.learn_spent(&news.spent());
                }
                // Each tells at its own moments.
                if (step + place as u64 * 3).is_multiple_of(10) {
                    self.tell(place);
                }
                let Edge { ledger, near, .. } = &self.edges[place];
                let (requests, per) = self.limit;
                let pace = Pace::new(requests, per, requests - 1);
                for _ in 0..arrivals(place, step) {
                    if ledger.take(near, Account { reach: Reach::Fleet, key: KEY, pace }, 1, ledger.now()).is_ok() {
                        self.passed.push(now);
                    }
                }
            }
        }
    }

    fn most_within(&self, window: Duration) -> usize {
        let mut most = 0;
        let mut first = 0;
        for (place, at) in self.passed.iter().enumerate() {
            while *at - self.passed[first] > window {
                first += 1;
            }
            most = most.max(place + 1 - first);
        }
        most
    }
}

/// The bound of docs/limits.md: the limit and what it gives in the time, and what the other edges may not know of yet.
fn bound(edges: usize, (requests, per): (u32, Duration), time: Duration, arrivals: f64, way: Duration) -> usize {
    let unknown = arrivals * (TELL + way + STEP * 2).as_secs_f64();
    let apart = unknown.min(f64::from(requests)).ceil() as usize;
    let steady = f64::from(requests) * (1.0 + time.as_secs_f64() / per.as_secs_f64());
    steady.ceil() as usize + (edges - 1) * apart + 1
}

#[test]
fn a_flood_on_all_edges_stays_within_the_bound() {
    for (count, requests, seconds, each, way) in
        [(2, 10, 60, 1, 5), (3, 100, 1, 3, 20), (5, 1000, 60, 4, 50), (2, 3, 3600, 2, 5), (8, 50, 10, 1, 100)]
    {
        let (limit, way) = ((requests, Duration::from_secs(seconds)), Duration::from_millis(way));
        let mut fleet = Fleet::new(count, limit, way);
        let time = Duration::from_secs(30);
        fleet.run(time, |_, _| each);
        let arrivals = f64::from(each) / STEP.as_secs_f64();
        let most = bound(count, limit, time, arrivals, way);
        assert!(fleet.passed.len() <= most, "{count} edges: {} of {most}", fleet.passed.len());
        let least = requests as usize;
        assert!(fleet.passed.len() >= least, "{count} edges: {} of {least}", fleet.passed.len());
    }
}

#[test]
fn in_the_long_run_what_was_too_much_is_made_up_for() {
    let limit = (20, Duration::from_secs(10));
    let mut fleet = Fleet::new(4, limit, Duration::from_millis(5));
    fleet.run(Duration::from_secs(60), |_, _| 1);
    let begun = fleet.passed.len();
    fleet.run(Duration::from_secs(120), |_, _| 1);
    // 2 each second, whatever four edges did in the first tenth of a second, and but for what is on its way at the ends.
    let passed = fleet.passed.len() - begun;
    assert!((228..=252).contains(&passed), "{passed}");
    let most = bound(4, limit, Duration::from_secs(180), 100.0, Duration::from_millis(5));
    assert!(fleet.passed.len() <= most, "{} of {most}", fleet.passed.len());
}

#[test]
fn a_client_that_changes_between_edges_is_hardly_noticed() {
    let random = Random::new(7);
    let limit = (5, Duration::from_secs(3600));
    let mut fleet = Fleet::new(3, limit, Duration::from_millis(5));
    // One request each half second, at any edge: what was let pass is known everywhere by then.
    for _ in 0..40 {
        let at = usize::try_from(random.below(3)).unwrap();
        fleet.run(Duration::from_millis(500), |place, step| u32::from(place == at && step == 0));
    }
    assert_eq!(fleet.passed.len(), 5);
}

#[test]
fn sides_of_a_partition_take_their_part_of_the_limit() {
    let limit = (30, Duration::from_secs(10));
    let mut fleet = Fleet::new(3, limit, Duration::from_millis(5));
    fleet.run(Duration::from_secs(20), |_, _| 1);
    fleet.sides = vec![0, 0, 1];
    let before = fleet.passed.len();
    // Nobody has the silent ones' part yet.
    fleet.run(Duration::from_secs(25), |_, _| 1);
    let during = fleet.passed.len() - before;
    assert!(during <= 75 + 30, "{during}");
    assert!(during >= 55, "{during}");
    // After that each side takes the other to be down: twice the limit at most.
    fleet.run(Duration::from_secs(10), |_, _| 1);
    let before = fleet.passed.len();
    fleet.run(Duration::from_secs(60), |_, _| 1);
    let apart = fleet.passed.len() - before;
    assert!((300..=2 * 180 + 60).contains(&apart), "{apart}");
    // Together again they are one.
    fleet.sides = vec![0, 0, 0];
    fleet.run(Duration::from_secs(5), |_, _| 1);
    let before = fleet.passed.len();
    fleet.run(Duration::from_secs(60), |_, _| 1);
    let after = fleet.passed.len() - before;
    assert!((170..=181 + 30).contains(&after), "{after}");
}

#[test]
fn an_edge_that_leaves_gives_its_part_to_the_others_and_learns_when_it_comes_back() {
    let limit = (30, Duration::from_secs(10));
    let mut fleet = Fleet::new(2, limit, Duration::from_millis(5));
    fleet.run(Duration::from_secs(20), |_, _| 1);
    fleet.edges[1].is_up = false;
    fleet.left.insert(1);
    let before = fleet.passed.len();
    fleet.run(Duration::from_secs(20), |_, _| 1);
    let alone = fleet.passed.len() - before;
    assert!((58..=62).contains(&alone), "it said goodbye: {alone}");
    // It comes back with nothing.
    fleet.left.clear();
    fleet.edges[1].ledger = Ledger::by(simulated);
    fleet.edges[1].near = Near::default();
    fleet.edges[1].is_up = true;
    let before = fleet.passed.len();
    fleet.run(Duration::from_secs(10), |_, _| 1);
    let back = fleet.passed.len() - before;
    let apart = (100.0 * (TELL + STEP * 3).as_secs_f64()).ceil() as usize;
    assert!(back <= 30 + apart + 2, "{back}");
    assert!(fleet.most_within(Duration::from_secs(10)) <= 60 + 2 * apart, "a burst and a window");
}

#[test]
fn shares_follow_silence_and_goodbyes() {
    let start = Instant::now();
    let mut shares = Shares::new(start);
    let known = |is_live, has_left| {
        vec![Known { name: "b".into(), is_live, has_left }, Known { name: "c".into(), is_live: true, has_left: false }]
    };
    let after = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(shares.of(&known(false, false), after(0)), (2, 3), "it may be there, and not known yet");
    assert_eq!(shares.of(&known(true, false), after(1)), (3, 3));
    assert_eq!(shares.of(&known(false, false), after(30)), (2, 3));
    assert_eq!(shares.of(&known(false, false), after(31)), (2, 2));
    assert_eq!(shares.of(&known(true, false), after(40)), (3, 3));
    assert_eq!(shares.of(&known(false, true), after(41)), (2, 2));
}
