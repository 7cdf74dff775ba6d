//! Commands that take an edge off the network and bring it back. Each waits for what the network was really told, not for
//! what was asked.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::client::{Client, ClientError};
use super::show::{View, plural};
use super::style::Style;
use crate::control::why::Why;

/// How long the network may take to confirm. edged may tell it for a while first that other ways are better.
const PATIENCE: Duration = Duration::from_secs(60);
const ASK: Duration = Duration::from_millis(10);

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    pub done: bool,
    /// Each step with the time from the command on.
    pub steps: Vec<Step>,
    /// Why it is not done.
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub step: String,
    pub milliseconds: u64,
}

/// Takes the edge off the network.
pub fn drain(client: &Client) -> Result<Moved, ClientError> {
    let mut course = Course::begin();
    let before = client.get::<Vec<Why>>("/v1/why")?;
    let told = before.iter().filter(|why| why.is_told()).count();
    client.post::<()>("/v1/drain", Vec::new(), PATIENCE)?;
    course.step("asked");
    leave(client, told, &mut course)
}

fn leave(client: &Client, told: usize, course: &mut Course) -> Result<Moved, ClientError> {
    let mut is_lame = false;
    loop {
        let now = client.get::<Vec<Why>>("/v1/why")?;
        let left = now.iter().filter(|why| why.is_told()).count();
        if !is_lame && left > 0 && now.iter().all(|why| !why.is_told() || is_last_resort(why)) {
            is_lame = true;
            let be = plural(left, "VIP is", "VIPs are");
            course.step(format!("{be} the way of last resort"));
        }
        if left == 0 {
            let be = plural(told, "VIP is", "VIPs are");
            course.step(format!("{be} withdrawn, confirmed by every peer's adj-out"));
            return Ok(course.done());
        }
        if course.is_over() {
            return Ok(course
                .failed(format!("of {}, {left} still announced: edgectl why ADDRESS", plural(told, "VIP", "VIPs"))));
        }
        std::thread::sleep(ASK);
    }
}

/// RFC 8326
fn is_last_resort(why: &Why) -> bool {
    why.peers
        .iter()
        .filter_map(|peer| peer.told.as_ref())
        .all(|told| told.communities.iter().any(|one| one == "65535:0"))
}

/// Brings the edge back.
pub fn undrain(client: &Client) -> Result<Moved, ClientError> {
    let mut course = Course::begin();
    client.post::<()>("/v1/undrain", Vec::new(), PATIENCE)?;
    course.step("asked");
    come_back(client, None, &mut course)
}

/// Waits until as many VIPs are told as `expected`, or as may be by their rules.
fn come_back(client: &Client, expected: Option<usize>, course: &mut Course) -> Result<Moved, ClientError> {
    loop {
        let now = client.get::<Vec<Why>>("/v1/why")?;
        let may_be = |why: &&Why| why.rules.iter().all(|rule| rule.allows) && !why.peers.is_empty();
        let wanted = expected.unwrap_or_else(|| now.iter().filter(may_be).count());
        let told = now.iter().filter(|why| why.is_told()).count();
        if told >= wanted {
            let be = plural(told, "VIP is", "VIPs are");
            course.step(format!("{be} announced, confirmed by adj-out"));
            return Ok(course.done());
        }
        if course.is_over() {
            return Ok(
                course.failed(format!("of {}, {told} announced: edgectl why ADDRESS", plural(wanted, "VIP", "VIPs")))
            );
        }
        std::thread::sleep(ASK);
    }
}

/// Away and back, with the times of everything.
pub fn failover(client: &Client, away: Duration) -> Result<Moved, ClientError> {
    let before = client.get::<Vec<Why>>("/v1/why")?;
    let told = before.iter().filter(|why| why.is_told()).count();
    let mut course = Course::begin();
    if told == 0 {
        return Ok(course.failed("nothing is announced now, so there is nothing to try".to_owned()));
    }
    client.post::<()>("/v1/drain", Vec::new(), PATIENCE)?;
    course.step("asked to leave");
    let left = leave(client, told, &mut course);
    // Whatever came of it: an exercise must not leave the edge away.
    if matches!(&left, Ok(moved) if moved.done) {
        std::thread::sleep(away);
    }
    client.post::<()>("/v1/undrain", Vec::new(), PATIENCE)?;
    let left = left?;
    if !left.done {
        return Ok(left);
    }
    course.patience = Instant::now() + PATIENCE;
    course.step("asked to come back");
    come_back(client, Some(told), &mut course)
}

struct Course {
    began: Instant,
    patience: Instant,
    steps: Vec<Step>,
}

impl Course {
    fn begin() -> Self {
        let began = Instant::now();
        Self { began, patience: began + PATIENCE, steps: Vec::new() }
    }

    fn step(&mut self, step: impl Into<String>) {
        let milliseconds = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.steps.push(Step { step: step.into(), milliseconds });
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.patience
    }

    fn done(&self) -> Moved {
        Moved { done: true, steps: self.steps.clone(), reason: String::new() }
    }

    fn failed(&self, reason: String) -> Moved {
        Moved { done: false, steps: self.steps.clone(), reason }
    }
}

impl View for Moved {
    fn human(&self, style: Style, _all: bool) -> String {
        let mut out = String::new();
        for step in &self.steps {
            out.push_str(&format!("{:>8.3} s  {}\n", step.milliseconds as f64 / 1e3, step.step));
        }
        if !self.done {
            out.push_str(&style.bad(&self.reason));
            out.push('\n');
        }
        out
    }
}
