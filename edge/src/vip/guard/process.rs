//! The guard's own process: one thread, asleep in poll(2), without a runtime until there is something to undo.
//!
//! In: letters on standard input, which is the line to edged, and its end. Out: reports on the same line, and lines for
//! the log on standard error, both after the deed. It starts nothing, opens nothing but the lock under systemd, and ends
//! when edged has ended and nothing is left to do.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::FlockOperation;

use super::undo::{Charge, Gobgpd};
use super::vigil::{Heard, TICK, Verdict, Vigil, Why};
use super::wire::{Charged, Letter, Order, Report};
use crate::line::{Line, Received, wait};

/// How it calls itself: not `edged`, so `killall edged` does not kill both at once.
pub const NAME: &str = "edge-guard";
/// What could not be undone is tried again this often, at this pace.
const TRIES: u32 = 10;
const PACE: Duration = Duration::from_secs(1);
/// Exit code for arguments that make no sense, as in sysexits.h.
const USAGE: u8 = 64;

/// Is this process meant to be a guard? Then it is one, until it ends.
pub fn if_asked() -> Option<ExitCode> {
    let name = std::env::args_os().next()?;
    (Path::new(&name).file_name() == Some(OsStr::new(NAME))).then(run)
}

fn run() -> ExitCode {
    let edged = std::env::args().nth(2).unwrap_or_default();
    let line = std::io::stdin().as_fd().try_clone_to_owned().and_then(Line::from_descriptor);
    let line = match line {
        Ok(line) => line,
        Err(error) => {
            say(&format!("started by edged, and by nobody else: standard input: {error}"));
            return ExitCode::from(USAGE);
        }
    };
    // A stop from the terminal (Ctrl-Z, Ctrl-C) goes to edged's process group; the guard must not stop with it. It fails
    // only for the leader of a group, which was not started by edged.
    let _ = rustix::process::setsid();
    // Only for ps and killall.
    let _ = rustix::thread::set_name(c"edge-guard");
    let _lock = lock();
    let now = Instant::now();
    Guard {
        line,
        edged,
        vigil: Vigil::new(now),
        letter: 0,
        charge: Charge::default(),
        left: Charge::default(),
        tries: 0,
        retry_at: now,
        report: Report::default(),
    }
    .watch();
    ExitCode::SUCCESS
}

/// Under systemd: held as long as the guard lives, so that the unit's ExecStopPost= can wait for it to finish before
/// systemd kills what is left of the unit. Shared, as a successor may live already.
fn lock() -> Option<File> {
    let directories = std::env::var("RUNTIME_DIRECTORY").ok()?;
    let directory = directories.split(':').next().filter(|directory| !directory.is_empty())?;
    let file = File::options().create(true).append(true).open(Path::new(directory).join("guard.lock")).ok()?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).ok()?;
    Some(file)
}

/// A log that is full or gone is not worth a guard.
fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "{NAME}: {what}");
}

/// A charge with the descriptor that came along with it.
fn taken(charged: Charged, along: Option<std::os::fd::OwnedFd>) -> Charge {
    let Charged { gobgpd, address_list, engine, .. } = charged;
    let gobgpd = gobgpd.zip(along).map(|(pid, pidfd)| Gobgpd { pid, pidfd });
    Charge { gobgpd, address_list, engine, addresses: Vec::new() }
}

struct Guard {
    line: Line,
    /// The number of edged's process, for the log.
    edged: String,
    vigil: Vigil,
    /// The last letter.
    letter: u64,
    charge: Charge,
    /// What could not be undone yet.
    left: Charge,
    tries: u32,
    retry_at: Instant,
    report: Report,
}

impl Guard {
    fn watch(mut self) {
        let mut is_closed = false;
        while !(is_closed && self.left.is_empty()) {
            let timeout = match (self.vigil.is_watching(), self.left.is_empty()) {
                (true, _) => Some(TICK),
                (false, false) => Some(self.retry_at.saturating_duration_since(Instant::now())),
                (false, true) => None,
            };
            if is_closed {
                // The end of the line would be ready all the time.
                std::thread::sleep(timeout.unwrap_or_default());
            } else if let Err(error) = wait(&[(self.line.as_fd(), PollFlags::IN)], timeout) {
                say(&format!("cannot wait: {error}"));
                std::thread::sleep(TICK);
            }
            // Everything that edged has said counts before its silence does.
            while !is_closed {
                match self.line.receive::<Letter>() {
                    Ok(Received::Message(letter, along)) => {
                        if self.take(letter, along.into_iter().next()) == Verdict::Leave {
                            return;
                        }
                    }
                    Ok(Received::Nothing) => break,
                    Ok(Received::Closed) => is_closed = true,
                    Err(error) => {
                        // Whoever talks nonsense does not beat; silence follows.
                        say(&format!("edged {} is not understood: {error}", self.edged));
                        break;
                    }
                }
            }
            let heard = if is_closed { Heard::Closed } else { Heard::Nothing };
            let verdict = self.vigil.hear(heard, Instant::now());
            self.act(&verdict, "");
            if verdict != Verdict::Watch && !is_closed {
                self.tell();
            }
            self.retry();
        }
    }

    fn take(&mut self, letter: Letter, along: Option<std::os::fd::OwnedFd>) -> Verdict {
        let Letter { number, known, order } = letter;
        self.letter = number;
        let mut reason = String::new();
        let mut charge = None;
        let heard = match order {
            Order::Beat => Heard::Beat { known },
            Order::Failing { why } => {
                reason = why;
                Heard::Failing { known }
            }
            Order::Farewell => Heard::Farewell,
            Order::Charge(charged) => {
                let number = charged.charge;
                let wanted = taken(charged, along);
                let is_empty = wanted.is_empty();
                charge = Some((number, wanted));
                Heard::Charge { known, is_empty }
            }
        };
        let verdict = self.vigil.hear(heard, Instant::now());
        if let (Verdict::Take, Some((number, wanted))) = (&verdict, charge) {
            self.charge = wanted;
            // What is wanted again must not be undone any more.
            self.left = Charge::default();
            self.report.charge = number;
        }
        self.act(&verdict, &reason);
        self.tell();
        verdict
    }

    fn act(&mut self, verdict: &Verdict, reason: &str) {
        let Verdict::Undo(why) = verdict else { return };
        let mut charge = std::mem::take(&mut self.charge);
        let began = Instant::now();
        self.report.failed = charge.undo();
        let took = began.elapsed().as_millis();
        self.report.undone = self.vigil.undone();
        self.report.charge = 0;
        self.report.why = match why {
            Why::Died => "it died".to_owned(),
            Why::Silent(time) => format!("it was silent for {} ms", time.as_millis()),
            Why::Failing => reason.to_owned(),
        };
        self.left = charge;
        self.tries = 1;
        self.retry_at = Instant::now() + PACE;
        say(&format!("withdrew what edged {} announced, in {took} ms: {}", self.edged, self.report.why));
        for failure in &self.report.failed {
            say(&format!("cannot withdraw: {failure}"));
        }
    }

    fn retry(&mut self) {
        if self.left.is_empty() || Instant::now() < self.retry_at {
            return;
        }
        self.report.failed = self.left.undo();
        self.tries += 1;
        self.retry_at = Instant::now() + PACE;
        if self.left.is_empty() {
            say("withdrew the rest, too");
        } else if self.tries >= TRIES {
            for failure in &self.report.failed {
                say(&format!("gave up withdrawing: {failure}"));
            }
            self.left = Charge::default();
        }
    }

    fn tell(&mut self) {
        self.report.heard = self.letter;
        self.report.undone = self.vigil.undone();
        // An edged that does not read is one that is silent, or gone.
        let _ = self.line.send(&self.report, &[]);
    }
}
