//! Many connections on one thread, closed loop or open loop.
//!
//! Flows in: a [`Work`], a [`Pace`] and a time. Flows out: an [`Outcome`]. In the open loop a latency counts from when
//! the request was due, so a slow proxy cannot hide by being asked less. A failed connection is counted and opened
//! again.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustls::ClientConfig;

use super::connection::{Common, Connection, Step};
use super::tls::client_hello;
use super::{HOST, Histogram, Opening, Work};

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Every connection asks as fast as it is answered.
    Closed,
    /// Requests per second over all connections.
    Rate(f64),
    /// One exchange per connection, which then stays open.
    Hold,
}

#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub requests: u64,
    /// Body bytes, verified when they were received.
    pub bytes: u64,
    pub seconds: f64,
    pub latency: Histogram,
    /// Reason → how often.
    pub failures: BTreeMap<String, u64>,
}

impl Outcome {
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

/// An exchange that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(15);
/// Connections that are being opened at a time.
const OPENING: usize = 64;
/// After so many failures without a success there is nothing left to measure.
const HOPELESS: u64 = 200;

pub struct Driver {
    common: Common,
    pace: Pace,
    poll: rustix::fd::OwnedFd,
    slots: Vec<Slot>,
    closed: VecDeque<usize>,
    /// Connections without an exchange, the one that waits longest first.
    free: VecDeque<usize>,
    opening: usize,
    due: Instant,
    random: u64,
    scratch: Vec<u8>,
    unlucky: u64,
    outcome: Outcome,
}

#[derive(Default)]
struct Slot {
    connection: Option<Connection>,
    generation: u32,
    established: bool,
    config: Option<Arc<ClientConfig>>,
    /// Whether this slot has a session to resume.
    seasoned: bool,
}

impl Driver {
    pub fn new(work: Work, pace: Pace) -> io::Result<Self> {
        let hello = match work.opening {
            Opening::HelloOnly => Some(client_hello(HOST)?.into()),
            _ => None,
        };
        let slots = (0..work.connections).map(|_| Slot {
            config: if let Opening::Tls(plan) = &work.opening { Some(plan.slot()) } else { None },
            ..Slot::default()
        });
        let everyone: VecDeque<usize> = (0..work.connections).collect();
        // A connection per request at a rate is opened when the request is due.
        let later = work.once && matches!(pace, Pace::Rate(_));
        let (closed, free) = if later { (VecDeque::new(), everyone) } else { (everyone, VecDeque::new()) };
        Ok(Self {
            poll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            slots: slots.collect(),
            closed,
            free,
            opening: 0,
            due: Instant::now(),
            random: 0x2545_f491_4f6c_dd1d,
            scratch: vec![0; 256 << 10],
            unlucky: 0,
            outcome: Outcome::default(),
            common: Common { work, hello },
            pace,
        })
    }

    /// Works for that long or until so many exchanges are done. What is in flight at the end goes on in the next run.
    pub fn run(&mut self, time: Duration, most: u64) -> io::Result<Outcome> {
        self.go_on(time, most, &AtomicBool::new(false))
    }

    /// Works until it is told to stop, and no longer than that.
    pub fn run_until(&mut self, time: Duration, stop: &AtomicBool) -> io::Result<Outcome> {
        self.go_on(time, u64::MAX, stop)
    }

    fn go_on(&mut self, time: Duration, most: u64, stop: &AtomicBool) -> io::Result<Outcome> {
        let begin = Instant::now();
        let end = begin + time;
        let mut review = begin + Duration::from_millis(20);
        self.outcome = Outcome::default();
        self.due = begin;
        self.unlucky = 0;
        self.open_closed();
        let mut events = Vec::with_capacity(1024);
        loop {
            let now = Instant::now();
            if now >= end || self.outcome.requests >= most || self.unlucky > HOPELESS {
                break;
            }
            let mut wake = end.min(review);
            if let Pace::Rate(rate) = self.pace {
                let gap = Duration::from_secs_f64(1.0 / rate);
                while self.due <= now {
                    let Some(index) = self.free.pop_front() else { break };
                    let due = self.due;
                    self.due += gap;
                    if self.common.work.once { self.open_one(index, due) } else { self.ask(index, due) }
                }
                if !self.free.is_empty() {
                    wake = wake.min(self.due);
                }
            }
            if now >= review {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                review = now + Duration::from_millis(20);
                self.give_up_the_overdue(now);
                self.open_closed();
            }
            events.clear();
            let wait = Timespec::try_from(wake.saturating_duration_since(now)).map_err(io::Error::other)?;
            match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                let token = event.data.u64();
                self.turn((token & 0xffff_ffff) as usize, (token >> 32) as u32);
            }
        }
        self.outcome.seconds = begin.elapsed().as_secs_f64();
        Ok(std::mem::take(&mut self.outcome))
    }

    /// One more exchange on that many of the held connections, spread over all of them; works until they are done.
    pub fn ask_held(&mut self, count: usize, time: Duration) -> io::Result<Outcome> {
        let step = (self.free.len() / count.max(1)).max(1);
        let chosen: Vec<usize> = self.free.iter().copied().step_by(step).take(count).collect();
        self.free.retain(|index| !chosen.contains(index));
        let missing = count.saturating_sub(chosen.len()) as u64;
        let now = Instant::now();
        for index in &chosen {
            self.ask(*index, now);
        }
        let mut outcome = self.run(time, chosen.len() as u64)?;
        let silent = (chosen.len() as u64).saturating_sub(outcome.requests + outcome.failed()) + missing;
        if silent > 0 {
            outcome.failures.insert("a held connection did not answer".to_owned(), silent);
        }
        Ok(outcome)
    }

    /// Established connections.
    pub fn open(&self) -> usize {
        self.slots.iter().filter(|slot| slot.established && slot.connection.is_some()).count()
    }

    fn open_closed(&mut self) {
        while self.opening < OPENING
            && let Some(index) = self.closed.pop_front()
        {
            self.open_one(index, Instant::now());
        }
    }

    fn open_one(&mut self, index: usize, since: Instant) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        let resume = matches!(&self.common.work.opening, Opening::Tls(plan) if plan.resume);
        let resumes = resume && slot.seasoned;
        slot.generation = slot.generation.wrapping_add(1);
        slot.established = false;
        self.opening += 1;
        let opened = Connection::open(&self.common, slot.config.clone(), resumes, since).and_then(|connection| {
            let token = epoll::EventData::new_u64(u64::from(slot.generation) << 32 | index as u64);
            // Edges: one registration for the whole life of a connection.
            let edges = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
            epoll::add(&self.poll, &connection.socket, token, edges)?;
            Ok(connection)
        });
        match opened {
            Ok(connection) => slot.connection = Some(connection),
            Err(error) => self.fail(index, format!("open: {error}")),
        }
    }

    fn turn(&mut self, index: usize, generation: u32) {
        let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.generation == generation) else { return };
        let Some(connection) = &mut slot.connection else { return };
        let outcome = connection.turn(&self.common.work, &mut self.scratch);
        self.outcome.bytes += std::mem::take(&mut connection.moved);
        match outcome {
            Ok(Step::Wait) => {}
            Ok(Step::Open) => {
                slot.established = true;
                self.opening = self.opening.saturating_sub(1);
                match self.pace {
                    Pace::Rate(_) if !self.common.work.once => self.free.push_back(index),
                    // With a connection per request its time begins before the connection does.
                    _ if self.common.work.once => {
                        let since = connection.since;
                        self.ask(index, since);
                    }
                    _ => self.ask(index, Instant::now()),
                }
                if !self.closed.is_empty() {
                    self.open_closed();
                }
            }
            Ok(Step::Done) => self.done(index),
            Err(reason) => self.fail(index, reason),
        }
    }

    fn done(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        let Some(connection) = &mut slot.connection else { return };
        let now = Instant::now();
        self.outcome.requests += 1;
        self.outcome.latency.record(now.saturating_duration_since(connection.since));
        self.unlucky = 0;
        slot.seasoned = true;
        if self.common.work.once {
            slot.connection = None;
            match self.pace {
                Pace::Rate(_) => self.free.push_back(index),
                _ => self.open_one(index, now),
            }
            return;
        }
        match self.pace {
            Pace::Closed => self.ask(index, now),
            Pace::Rate(_) | Pace::Hold => self.free.push_back(index),
        }
    }

    fn ask(&mut self, index: usize, since: Instant) {
        // xorshift (Marsaglia): hosts at random, the same ones for every proxy.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let host = (self.random >> 16) as u32 % self.common.work.hosts.max(1);
        let Some(connection) = self.slots.get_mut(index).and_then(|slot| slot.connection.as_mut()) else { return };
        let asked = connection.ask(&self.common.work, host, since);
        self.outcome.bytes += std::mem::take(&mut connection.moved);
        if let Err(reason) = asked {
            self.fail(index, reason);
        }
    }

    fn fail(&mut self, index: usize, reason: String) {
        *self.outcome.failures.entry(reason).or_default() += 1;
        self.unlucky += 1;
        if let Some(slot) = self.slots.get_mut(index) {
            if slot.connection.take().is_some_and(|connection| connection.is_idle()) {
                self.free.retain(|free| *free != index);
            }
            if !slot.established {
                self.opening = self.opening.saturating_sub(1);
            }
            slot.established = false;
            slot.seasoned = false;
        }
        // The next review opens it again, so that a proxy that refuses is not asked in a tight loop.
        self.closed.push_back(index);
    }

    fn give_up_the_overdue(&mut self, now: Instant) {
        let overdue = |slot: &Slot| {
            slot.connection
                .as_ref()
                .is_some_and(|one| !one.is_idle() && now.saturating_duration_since(one.since) > PATIENCE)
        };
        let found: Vec<usize> =
            self.slots.iter().enumerate().filter(|(_, slot)| overdue(slot)).map(|(index, _)| index).collect();
        for index in found {
            self.fail(index, format!("no answer within {PATIENCE:?}"));
        }
    }
}
