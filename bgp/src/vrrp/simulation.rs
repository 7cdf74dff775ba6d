//! Several edges on one simulated link: seeded delays, loss, partitions, crashes and changes of mind, then peace. In
//! peace exactly one fit edge is active, it is the right one, and it was there within the time that the RFC promises.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::{Action, Advertisement, Family, Interval, Role, Router, Settings, Standing};

/// A small generator (xorshift); the same seed gives the same run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

struct Edge {
    router: Router,
    standing: Standing,
    is_fit: bool,
    /// A crashed edge neither hears nor speaks; what it had of addresses is taken away by its guard.
    is_crashed: bool,
    has_addresses: bool,
}

struct Link {
    now: Duration,
    dice: Dice,
    edges: Vec<Edge>,
    /// Due, receiver, sender, index into `packets`.
    flight: BinaryHeap<Reverse<(Duration, usize, usize, usize)>>,
    packets: Vec<Advertisement>,
    loss_percent: u64,
    /// `cut[a][b]`: b does not hear a.
    cut: Vec<Vec<bool>>,
    settings: Settings,
}

fn address(index: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, index as u8 + 1))
}

impl Link {
    fn new(seed: u64, preempt: bool) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let count = 2 + dice.roll(4) as usize;
        let settings = Settings {
            family: Family::V4,
            router: 7,
            interval: Duration::from_millis([10, 100, 300, 1000][dice.roll(4) as usize]),
            preempt,
            preempt_delay: Duration::from_millis(if preempt { dice.roll(3) * 500 } else { 0 }),
            addresses: vec!["10.0.0.100".parse().unwrap()],
        };
        let edges = (0..count)
            .map(|index| Edge {
                router: Router::new(Duration::ZERO, settings.clone()),
                // Some priorities are alike: the address decides.
                standing: Standing { local: address(index), priority: [1, 100, 100, 200, 254][dice.roll(5) as usize] },
                is_fit: true,
                is_crashed: false,
                has_addresses: false,
            })
            .collect();
        let cut = vec![vec![false; count]; count];
        Self {
            now: Duration::ZERO,
            dice,
            edges,
            flight: BinaryHeap::new(),
            packets: Vec::new(),
            loss_percent: 0,
            cut,
            settings,
        }
    }

    fn apply(&mut self, index: usize) {
        let edge = &mut self.edges[index];
        let standing = if edge.is_fit { Ok(edge.standing) } else { Err("no backend".into()) };
        let mut out = Vec::new();
        edge.router.set(self.now, self.settings.clone(), standing, &mut out);
        self.act(index, out);
    }

    fn act(&mut self, index: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(packet) => self.send(index, packet),
                Action::Take => self.edges[index].has_addresses = true,
                Action::Release(farewell) => {
                    assert!(self.edges[index].has_addresses, "released without having");
                    self.edges[index].has_addresses = false;
                    if let Some(farewell) = farewell {
                        self.send(index, farewell);
                    }
                }
                Action::Reannounce => assert_eq!(self.edges[index].router.role(), Role::Active),
            }
        }
        let edge = &self.edges[index];
        assert_eq!(edge.has_addresses, edge.router.role() == Role::Active, "addresses follow the role");
    }

    fn send(&mut self, from: usize, packet: Advertisement) {
        let kept = self.packets.len();
        self.packets.push(packet);
        for to in 0..self.edges.len() {
            if to != from && !self.cut[from][to] && self.dice.roll(100) >= self.loss_percent {
                let due = self.now + Duration::from_micros(50 + self.dice.roll(1500));
                self.flight.push(Reverse((due, to, from, kept)));
            }
        }
    }

    fn run_until(&mut self, end: Duration, mut check: impl FnMut(&Self)) {
        loop {
            let timers = self.edges.iter().filter(|edge| !edge.is_crashed).filter_map(|edge| edge.router.deadline());
            let next = timers.chain(self.flight.peek().map(|Reverse(packet)| packet.0)).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            // A priority that rose can put an end to a patience in the past.
            let next = next.max(self.now);
            self.now = next;
            while let Some(Reverse(packet)) = self.flight.peek().copied().filter(|Reverse(packet)| packet.0 <= next) {
                self.flight.pop();
                let (_, to, from, kept) = packet;
                if !self.edges[to].is_crashed {
                    let mut out = Vec::new();
                    let packet = self.packets[kept].clone();
                    self.edges[to].router.received(self.now, address(from), &packet, &mut out);
                    self.act(to, out);
                }
            }
            for index in 0..self.edges.len() {
                if !self.edges[index].is_crashed {
                    let mut out = Vec::new();
                    self.edges[index].router.tick(self.now, &mut out);
                    self.act(index, out);
                }
            }
            check(self);
        }
        self.now = end;
    }

    fn disturb(&mut self) {
        let index = self.dice.roll(self.edges.len() as u64) as usize;
        match self.dice.roll(7) {
            0 => self.loss_percent = self.dice.roll(60),
            1 => {
                let other = self.dice.roll(self.edges.len() as u64) as usize;
                // One-way cuts are among them.
                self.cut[index][other] ^= true;
            }
            2 => {
                self.edges[index].is_crashed = true;
                self.edges[index].has_addresses = false;
            }
            3 if self.edges[index].is_crashed => self.restart(index),
            4 => {
                self.edges[index].is_fit ^= true;
                self.apply_if_alive(index);
            }
            5 => {
                self.edges[index].standing.priority = 1 + self.dice.roll(254) as u8;
                self.apply_if_alive(index);
            }
            _ => {}
        }
    }

    fn apply_if_alive(&mut self, index: usize) {
        if !self.edges[index].is_crashed {
            self.apply(index);
        }
    }

    fn restart(&mut self, index: usize) {
        self.edges[index].is_crashed = false;
        self.edges[index].router = Router::new(self.now, self.settings.clone());
        self.apply(index);
    }

    fn active(&self) -> Vec<usize> {
        (0..self.edges.len()).filter(|index| self.edges[*index].has_addresses).collect()
    }

    /// The priority that wins. Among equals who came first stays: a backup listens to its equal (§6.4.2).
    fn best(&self) -> Option<u8> {
        let fit = self.edges.iter().filter(|edge| edge.is_fit && !edge.is_crashed);
        fit.map(|edge| edge.standing.priority).max()
    }

    /// The priorities of those that have the addresses.
    fn ruling(&self) -> Vec<u8> {
        self.active().into_iter().map(|index| self.edges[index].standing.priority).collect()
    }

    /// The longest that anybody waits, with the pace of the slowest.
    fn patience(&self) -> Duration {
        let pace = Interval::nearest(self.settings.interval).duration();
        pace * 4 + Duration::from_millis(5)
    }
}

fn storm(link: &mut Link) {
    for index in 0..link.edges.len() {
        link.apply(index);
    }
    for _ in 0..40 {
        link.disturb();
        let pause = link.settings.interval * link.dice.roll(6) as u32 + Duration::from_micros(link.dice.roll(9000));
        let end = link.now + pause;
        link.run_until(end, |_| {});
    }
}

fn make_peace(link: &mut Link) {
    link.loss_percent = 0;
    link.cut.iter_mut().flatten().for_each(|cut| *cut = false);
    let end = link.now + link.patience() * 2 + link.settings.preempt_delay;
    link.run_until(end, |_| {});
}

#[test]
fn after_every_storm_one_edge_is_active_and_it_is_the_right_one() {
    for seed in 1..=400 {
        let mut link = Link::new(seed, true);
        storm(&mut link);
        make_peace(&mut link);
        let best = link.best();
        let right: Vec<u8> = best.into_iter().collect();
        assert_eq!(link.ruling(), right, "seed {seed}");
        // And it stays so.
        let (end, active) = (link.now + link.patience() * 3, link.active());
        link.run_until(end, |link| assert_eq!(link.active(), active, "seed {seed}"));
    }
}

#[test]
fn without_preemption_one_edge_is_active_and_keeps_the_addresses() {
    for seed in 1..=400 {
        let mut link = Link::new(seed, false);
        storm(&mut link);
        make_peace(&mut link);
        let active = link.active();
        assert_eq!(active.len(), usize::from(link.best().is_some()), "seed {seed}");
        // Everybody comes back, better ones among them: nothing moves.
        for index in 0..link.edges.len() {
            if link.edges[index].is_crashed {
                link.restart(index);
            }
        }
        let end = link.now + link.patience() * 3;
        if !active.is_empty() {
            link.run_until(end, |link| assert_eq!(link.active(), active, "seed {seed}"));
        }
    }
}

#[test]
fn a_crash_is_noticed_within_the_down_interval_and_a_farewell_within_the_skew() {
    for seed in 1..=300 {
        let mut link = Link::new(seed, true);
        for index in 0..link.edges.len() {
            link.apply(index);
        }
        make_peace(&mut link);
        let leader = link.active()[0];
        let crash = seed % 2 == 0;
        let died = link.now;
        if crash {
            link.edges[leader].is_crashed = true;
            link.edges[leader].has_addresses = false;
        } else {
            link.edges[leader].is_fit = false;
            link.apply(leader);
        }
        let next = link.best().unwrap();
        let interval = Interval::nearest(link.settings.interval).duration();
        let skew = interval * (256 - u32::from(next)) / 256;
        let promised = if crash { interval * 3 + skew } else { skew } + Duration::from_millis(2);
        link.run_until(died + promised, |_| {});
        // Those of one priority may all rise in one moment; the addresses decide an instant later.
        assert!(link.ruling().contains(&next), "seed {seed}: {:?} instead of {next}", link.ruling());
        let end = link.now + link.patience();
        link.run_until(end, |_| {});
        assert_eq!(link.ruling(), [next], "seed {seed}");
    }
}
