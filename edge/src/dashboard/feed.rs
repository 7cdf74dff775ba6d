//! What the pages show, made once a second at most however many look.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::watch;

use crate::control::map::Map;
use crate::control::rates::Rates;
use crate::control::world::World;
use crate::memory;
use crate::proxy::metrics::{Sample, WorkerMetrics};

/// So long a view of the edge is shown again.
const FRESH: Duration = Duration::from_secs(1);
/// Between two looks at the counters.
const LOOK: Duration = Duration::from_secs(5);
/// Rates are averages of so many looks and what came since.
const LOOKS: usize = 2;
/// Averages of less say nothing.
const LEAST: Duration = Duration::from_secs(2);
/// Ten minutes.
const POINTS: usize = 120;
/// Nobody looks any more.
const UNWATCHED: Duration = Duration::from_secs(30);
/// Different answers of one second that are kept.
const ANSWERS: usize = 64;

pub(super) struct Feed {
    worlds: watch::Receiver<Arc<World>>,
    workers: Vec<Arc<WorkerMetrics>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    samples: VecDeque<Sample>,
    points: VecDeque<Point>,
    moment: Option<(Instant, Arc<Moment>)>,
    watched: Option<Instant>,
}

/// All traffic at one look.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Point {
    /// Unix seconds.
    pub at: u64,
    pub requests: f64,
    pub errors: f64,
    pub p99: Option<f64>,
    pub connections: Option<u64>,
}

/// One view of the edge, with the answers that were made of it.
pub(super) struct Moment {
    pub map: Map,
    pub rates: Rates,
    pub points: Vec<Point>,
    answers: Mutex<HashMap<String, Bytes>>,
}

impl Feed {
    pub fn new(worlds: watch::Receiver<Arc<World>>, workers: Vec<Arc<WorkerMetrics>>) -> Self {
        Self { worlds, workers, state: Mutex::default() }
    }

    /// Looks at the counters for ever.
    pub async fn follow(&self) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            self.look();
        }
    }

    fn look(&self) {
        let mut state = self.state();
        let is_watched = state.watched.is_some_and(|at| at.elapsed() < UNWATCHED);
        let sample = Sample::take(&self.workers, is_watched);
        let total = Rates::new(state.samples.back().cloned(), sample.clone()).total();
        if !state.samples.is_empty() {
            let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let (requests, errors) = (total.requests, total.errors);
            state.points.push_back(Point { at, requests, errors, p99: total.p99, connections: total.connections });
        }
        state.samples.push_back(sample);
        while state.samples.len() > LOOKS {
            state.samples.pop_front();
        }
        while state.points.len() > POINTS {
            state.points.pop_front();
        }
        if !is_watched && state.moment.take().is_some() {
            drop(state);
            // A view of thousands of objects takes megabytes.
            memory::give_back();
        }
    }

    /// The view of now, not older than a second.
    pub fn moment(&self) -> Arc<Moment> {
        let mut state = self.state();
        let now = Instant::now();
        state.watched = Some(now);
        if let Some((made, moment)) = &state.moment
            && now.duration_since(*made) < FRESH
        {
            return Arc::clone(moment);
        }
        let world = Arc::clone(&self.worlds.borrow());
        // Samples without routes say nothing of them: the first that has them begins.
        let is_good = |sample: &&Sample| sample.is_whole && now.duration_since(sample.at) >= LEAST;
        let older = state.samples.iter().find(is_good).or(state.samples.front()).cloned();
        let moment = Arc::new(Moment {
            map: Map::new(world, SystemTime::now()),
            rates: Rates::new(older, Sample::take(&self.workers, true)),
            points: state.points.iter().copied().collect(),
            answers: Mutex::default(),
        });
        // Counted from here: a view that took long to make is not old when it is there.
        state.moment = Some((Instant::now(), Arc::clone(&moment)));
        moment
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Moment {
    /// The answer to a question, made at the first time that it is asked.
    pub fn answer(&self, question: &str, make: impl FnOnce(&Self) -> Bytes) -> Bytes {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = answers.get(question) {
            return known.clone();
        }
        let answer = make(self);
        if answers.len() < ANSWERS {
            answers.insert(question.to_owned(), answer.clone());
        }
        answer
    }
}
