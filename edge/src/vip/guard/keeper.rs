//! Edged's side of the guard: a thread of its own, so that neither a long compile nor a busy worker delays a beat.
//!
//! In: the wanted charge, acknowledgements, the vitals. Out: beats while everybody lives, word of who does not, and the
//! guard's reports. It keeps the guard's process alive: one that ended, or does not answer, is replaced by another.
//! While nothing is charged it sleeps.

use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::process::NAME;
use super::wire::{Charged, Letter, Order, Report};
use super::{GuardObserved, Shared, Undo, Undone};
use crate::line::{Line, Received, WireError, wait};
use crate::pulse::{Onlooker, Patience, Vitals};

/// From beat to beat.
const BEAT: Duration = Duration::from_millis(100);
/// A supervisor may compile for long, and traffic flows meanwhile: so this is not about traffic. It is shorter than the
/// watchdog of the unit (30 s), which kills: who is about to be killed is withdrawn first.
const PATIENCE: Patience = Patience {
    supervisor: Duration::from_secs(20),
    worker: Duration::from_millis(700),
    step: Duration::from_millis(200),
};
/// A guard that says nothing for so long is replaced.
const DEAF: Duration = Duration::from_secs(2);
/// Until a guard is started again, doubled up to the longest; from the beginning after a good while.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const GOOD_WHILE: Duration = Duration::from_secs(60);
/// For an orderly end.
const FAREWELL: Duration = Duration::from_secs(1);

pub(super) struct Keeper {
    shared: Arc<Shared>,
    program: PathBuf,
    onlooker: Onlooker,
    guard: Option<Running>,
    letter: u64,
    beat_at: Instant,
    start_at: Instant,
    pause: Duration,
    /// How often a guard was lost, and how the last one was.
    lost: Option<(u32, String)>,
    failing: Option<String>,
    undone: Option<Undone>,
    /// Why there is no guard.
    missing: Option<String>,
}

struct Running {
    process: Child,
    line: Line,
    since: Instant,
    /// The charge that it was told last.
    told: Option<u64>,
    heard: u64,
    /// Of the first letter that is not answered.
    unanswered: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>, program: PathBuf, vitals: Vitals) -> Self {
        let now = Instant::now();
        Self {
            shared,
            program,
            onlooker: Onlooker::new(vitals, PATIENCE),
            guard: None,
            letter: 0,
            beat_at: now,
            start_at: now,
            pause: FIRST_PAUSE,
            lost: None,
            failing: None,
            undone: None,
            missing: None,
        }
    }

    /// Until edged stops.
    pub(super) fn run(mut self) {
        loop {
            self.shared.drain_wake();
            let (number, known, undo, is_over) = {
                let wanted = self.shared.wanted();
                (wanted.number, wanted.known, Arc::clone(&wanted.undo), wanted.is_over)
            };
            self.read();
            if is_over {
                break;
            }
            let now = Instant::now();
            let is_armed = !undo.is_empty() || self.failing.is_some();
            if is_armed && self.guard.is_none() && now >= self.start_at {
                self.start(now);
            }
            if !is_armed {
                self.shared.standing.unwatched();
                self.onlooker.forget();
            }
            if self.guard.as_ref().is_some_and(|guard| guard.told != Some(number)) {
                self.charge(number, known, &undo);
            }
            if is_armed && now >= self.beat_at {
                self.beat_at = now + BEAT;
                self.look(now);
                self.beat();
            }
            self.replace_if_deaf();
            self.publish();
            let timeout = is_armed.then(|| self.beat_at.saturating_duration_since(Instant::now()));
            let mut on = vec![(self.shared.wake.as_fd(), PollFlags::IN)];
            on.extend(self.guard.as_ref().map(|guard| (guard.line.as_fd(), PollFlags::IN)));
            if wait(&on, timeout).is_err() {
                std::thread::sleep(BEAT);
            }
        }
        self.end();
    }

    fn start(&mut self, now: Instant) {
        match self.spawn() {
            Ok((process, line)) => {
                self.missing = None;
                self.guard =
                    Some(Running { process, line, since: now, told: None, heard: self.letter, unanswered: None });
            }
            Err(error) => {
                let why = format!("{}: {error}", self.program.display());
                if self.missing.is_none() {
                    tracing::error!("no guard of the VIPs: {why}");
                }
                self.missing = Some(why);
                self.start_at = now + self.pause;
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    fn spawn(&self) -> std::io::Result<(Child, Line)> {
        let (line, far) = Line::pair()?;
        let mut command = Command::new(&self.program);
        // Nothing of edged's surroundings is needed, and NOTIFY_SOCKET would be misunderstood.
        command.env_clear().envs(std::env::var_os("RUNTIME_DIRECTORY").map(|value| ("RUNTIME_DIRECTORY", value)));
        command.arg0(NAME).arg("--edged").arg(std::process::id().to_string());
        command.stdin(far).stdout(Stdio::null()).current_dir("/");
        Ok((command.spawn()?, line))
    }

    /// Tells the whole charge anew. One that was undone already is not told again: edged has to wish for it once more.
    fn charge(&mut self, number: u64, known: u64, undo: &Undo) {
        if self.shared.standing.undone() > known {
            if let Some(guard) = &mut self.guard {
                guard.told = Some(number);
            }
            return;
        }
        let charged = Charged {
            charge: number,
            gobgpd: undo.gobgpd.as_ref().map(|child| child.pid()),
            address_list: undo.address_list.clone(),
            engine: undo.engine.clone(),
        };
        if !self.send(Order::Charge(charged), undo.gobgpd.as_ref().map(|child| child.as_fd())) {
            return;
        }
        if let Some(guard) = &mut self.guard {
            guard.told = Some(number);
        }
    }

    /// Is everybody alive?
    fn look(&mut self, now: Instant) {
        let found = self.onlooker.look(now).map(|found| found.to_string());
        match (&self.failing, &found) {
            (None, Some(why)) => tracing::error!("{why}: the VIPs are withdrawn"),
            (Some(_), None) => tracing::info!("the supervisor and all workers go on"),
            // The time grows with each look; the first one says enough.
            (Some(_), Some(_)) => return,
            (None, None) => {}
        }
        self.failing = found;
        self.shared.standing.set_failing(self.failing.is_some());
    }

    fn beat(&mut self) {
        match self.failing.clone() {
            Some(why) => self.send(Order::Failing { why }, None),
            None => self.send(Order::Beat, None),
        };
    }

    fn send(&mut self, order: Order, along: Option<std::os::fd::BorrowedFd<'_>>) -> bool {
        let Some(guard) = &mut self.guard else { return false };
        self.letter += 1;
        let now = Instant::now();
        self.shared.standing.beat(self.letter, now);
        let letter = Letter { number: self.letter, known: self.shared.standing.known(), order };
        guard.unanswered.get_or_insert(now);
        match guard.line.send(&letter, along.as_slice()) {
            Ok(()) => true,
            Err(WireError::Full) => {
                self.lose("does not listen");
                false
            }
            Err(error) => {
                self.lose(&format!("cannot be told: {error}"));
                false
            }
        }
    }

    fn read(&mut self) {
        loop {
            let Some(guard) = &mut self.guard else { return };
            match guard.line.receive::<Report>() {
                Ok(Received::Message(report, _)) => {
                    guard.heard = report.heard;
                    guard.unanswered = (report.heard < self.letter).then(Instant::now);
                    self.note(report);
                }
                Ok(Received::Nothing) => return,
                Ok(Received::Closed) => return self.lose("ended"),
                Err(error) => return self.lose(&format!("is not understood: {error}")),
            }
        }
    }

    fn note(&mut self, report: Report) {
        if self.shared.standing.answer(report.heard, report.undone) {
            tracing::error!("the guard has withdrawn all VIPs of this edge: {}", report.why);
        }
        if report.undone > 0 {
            let Report { undone: number, why, failed, .. } = report;
            self.undone = Some(Undone { number, why, failed });
        }
        self.shared.applied.send_if_modified(|applied| std::mem::replace(applied, report.charge) != report.charge);
    }

    fn replace_if_deaf(&mut self) {
        let is_deaf = self.guard.as_ref().and_then(|guard| guard.unanswered).is_some_and(|at| at.elapsed() >= DEAF);
        if is_deaf {
            self.lose("does not answer");
        }
    }

    fn lose(&mut self, how: &str) {
        let Some(mut guard) = self.guard.take() else { return };
        // It may be gone already.
        let _ = guard.process.kill();
        let status = match guard.process.wait() {
            Ok(status) if how == "ended" => format!("{how} ({status})"),
            _ => how.to_owned(),
        };
        tracing::error!("the guard of the VIPs {status}; another one is started");
        let times = self.lost.take().map_or(1, |(times, _)| times + 1);
        self.lost = Some((times, status));
        // Nobody undoes anything until the next one has the charge.
        self.shared.standing.unwatched();
        self.shared.applied.send_replace(0);
        let now = Instant::now();
        if now.duration_since(guard.since) >= GOOD_WHILE {
            self.pause = FIRST_PAUSE;
        }
        self.start_at = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.beat_at = self.start_at;
    }

    fn publish(&self) {
        let mut notices = Vec::new();
        if let Some(why) = &self.missing {
            notices.push(format!("guard: there is none, VIPs stay announced if edged hangs: {why}"));
        }
        if let Some((times, how)) = &self.lost {
            notices.push(match times {
                1 => format!("guard: {how}, and was started again"),
                times => format!("guard: {how}, and was started again, {times} times by now"),
            });
        }
        let process = self.guard.as_ref().map(|guard| guard.process.id());
        let Self { undone, failing, missing, .. } = self;
        let observed = GuardObserved {
            undone: undone.clone(),
            failing: failing.clone(),
            missing: missing.clone(),
            process,
            notices,
        };
        self.shared.observed.send_if_modified(|last| {
            let is_new = **last != observed;
            if is_new {
                *last = Arc::new(observed);
            }
            is_new
        });
    }

    /// Everything is withdrawn already, by those who announced it.
    fn end(mut self) {
        if !self.send(Order::Farewell, None) {
            return;
        }
        let Some(mut guard) = self.guard.take() else { return };
        let deadline = Instant::now() + FAREWELL;
        while let Ok(None) = guard.process.try_wait() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // Its line closes with this thread, and it ends then.
                return;
            }
            let _ = wait(&[(guard.line.as_fd(), PollFlags::empty())], Some(left.min(BEAT)));
        }
    }
}
