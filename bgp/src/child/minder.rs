//! The process between edged and gobgpd, so that gobgpd can be handed from one edged to the next.
//!
//! The kernel sends the signal of a parent's death whenever that parent ends, and nobody can give a child away. So gobgpd
//! is the child of a process that does nothing else: it ends gobgpd when the last edged has let go of its standard input,
//! whatever that edged died of, and the kernel ends gobgpd where this process is killed itself.
//!
//! In: the program and its arguments; the reading end of a pipe as standard input, in which nothing is ever written. Out:
//! gobgpd's log on standard error, and [`Word`]s on standard output, one per line.

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::spawn;

/// How it calls itself.
pub const NAME: &str = "edge-minder";
/// What gobgpd may take to say goodbye to its peers.
const FAREWELL: Duration = Duration::from_secs(3);

/// What it says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word {
    Started(u32),
    Failed(String),
    Ended(String),
}

impl Word {
    fn line(&self) -> String {
        match self {
            Self::Started(pid) => format!("started {pid}\n"),
            Self::Failed(why) => format!("failed {}\n", why.replace('\n', " ")),
            Self::Ended(how) => format!("ended {}\n", how.replace('\n', " ")),
        }
    }

    pub(super) fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.trim_end().split_once(' ')?;
        match word {
            "started" => rest.parse().ok().map(Self::Started),
            "failed" => Some(Self::Failed(rest.to_owned())),
            "ended" => Some(Self::Ended(rest.to_owned())),
            _ => None,
        }
    }
}

/// Is this process meant to be one? Then it is one, until gobgpd has ended.
pub fn if_asked() -> Option<ExitCode> {
    let name = std::env::args_os().next()?;
    (Path::new(&name).file_name() == Some(OsStr::new(NAME))).then(run)
}

fn run() -> ExitCode {
    // What a terminal sends to edged (Ctrl-C) is not meant for gobgpd: edged drains first.
    let _ = rustix::process::setsid();
    // Only for ps.
    let _ = rustix::thread::set_name(c"edge-minder");
    let word = match begin() {
        Ok((child, process)) => {
            say(&Word::Started(child.id()));
            Word::Ended(mind(child, process.as_fd()))
        }
        Err(error) => Word::Failed(error.to_string()),
    };
    say(&word);
    if matches!(word, Word::Failed(_)) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Who listens may be gone, which the end of standard input says as well.
fn say(word: &Word) {
    let _ = io::stdout().lock().write_all(word.line().as_bytes());
}

fn begin() -> io::Result<(Child, OwnedFd)> {
    let mut arguments = std::env::args_os().skip(1);
    let program = arguments.next().ok_or_else(|| io::Error::other("no program to start"))?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(io::stderr().as_fd().try_clone_to_owned()?);
    let child = spawn::spawn(&mut command)?;
    let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    Ok((child, process))
}

/// Waits for the end of gobgpd, and brings it about when nobody wants it any more.
fn mind(mut child: Child, process: BorrowedFd<'_>) -> String {
    let input = io::stdin();
    loop {
        let mut on = [PollFd::from_borrowed_fd(input.as_fd(), PollFlags::IN), PollFd::new(&process, PollFlags::IN)];
        match rustix::event::poll(&mut on, None) {
            Err(Errno::INTR) => continue,
            // Nobody can be waited for: gobgpd without a minder is worse than none.
            Err(_) => break,
            Ok(_) if !on[1].revents().is_empty() => return how(&mut child),
            Ok(_) if on[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) => break,
            Ok(_) => {
                // Nothing is to be said there; it must not be ready for ever.
                let mut bytes = [0; 64];
                if matches!(rustix::io::read(input.as_fd(), &mut bytes), Ok(0)) {
                    break;
                }
            }
        }
    }
    // A stopped process ends when it is continued. One that is gone is what is wanted.
    for signal in [Signal::TERM, Signal::CONT] {
        let _ = pidfd_send_signal(process, signal);
    }
    let patience = Timespec { tv_sec: i64::try_from(FAREWELL.as_secs()).unwrap_or(3), tv_nsec: 0 };
    let mut on = [PollFd::new(&process, PollFlags::IN)];
    if !matches!(rustix::event::poll(&mut on, Some(&patience)), Ok(1..)) {
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
    how(&mut child)
}

fn how(child: &mut Child) -> String {
    child.wait().map_or_else(|error| error.to_string(), |status| status.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_as_they_were_said() {
        for word in [Word::Started(42), Word::Failed("no such\nfile".into()), Word::Ended("exit status: 7".into())] {
            let parsed = Word::parse(&word.line()).unwrap();
            assert_eq!(parsed.line(), word.line());
            assert_eq!(word.line().lines().count(), 1);
        }
        for nonsense in ["", "started", "started x", "gone 7"] {
            assert_eq!(Word::parse(nonsense), None, "{nonsense:?}");
        }
    }
}
