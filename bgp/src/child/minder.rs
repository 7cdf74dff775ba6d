//! The process between edged and gobgpd, so that gobgpd can be handed from one edged to the next.
//!
//! The kernel sends the signal of a parent's death whenever that parent ends, and nobody can give a child away. So gobgpd
//! is the child of a process that does nothing else: it ends gobgpd when the last edged has let go of its standard input,
//! whatever that edged died of, and the kernel ends gobgpd where this process is killed itself. It holds gobgpd's log open
//! as well: gobgpd writes a line before it tells its peers, and a line that nobody can read any more would end it at once
//! (SIGPIPE), with peers that agreed on graceful restart left to believe in its routes.
//!
//! In: the program and its arguments; the reading end of a pipe as standard input, in which nothing is ever written. Out:
//! gobgpd's log on standard error, and [`Word`]s on standard output, one per line.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
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
        Ok((child, process, log)) => {
            say(&Word::Started(child.id()));
            Word::Ended(mind(child, process.as_fd(), log.as_fd()))
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

/// gobgpd, its process, and the reading end of its log.
fn begin() -> io::Result<(Child, OwnedFd, File)> {
    let mut arguments = std::env::args_os().skip(1);
    let program = arguments.next().ok_or_else(|| io::Error::other("no program to start"))?;
    // The log is a pipe whose reading end edged has; this opens another one, and is itself one of those who could write.
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
    let log = File::options().read(true).custom_flags(nonblocking).open("/proc/self/fd/2")?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(io::stderr().as_fd().try_clone_to_owned()?);
    let child = spawn::spawn(&mut command)?;
    let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    Ok((child, process, log))
}

/// Waits for the end of gobgpd, and brings it about when nobody wants it any more.
fn mind(mut child: Child, process: BorrowedFd<'_>, log: BorrowedFd<'_>) -> String {
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
    if !see_off(process, log) {
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
    how(&mut child)
}

/// Whether it ends in the time that it has. What it writes meanwhile is for nobody; but it must not wait for somebody to read.
fn see_off(process: BorrowedFd<'_>, log: BorrowedFd<'_>) -> bool {
    let until = Instant::now() + FAREWELL;
    let mut bytes = [0; 4096];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let Ok(left) = Timespec::try_from(left) else { return false };
        let mut on = [PollFd::new(&process, PollFlags::IN), PollFd::new(&log, PollFlags::IN)];
        match rustix::event::poll(&mut on, Some(&left)) {
            Err(Errno::INTR) => {}
            Err(_) | Ok(0) => return false,
            Ok(_) if !on[0].revents().is_empty() => return true,
            Ok(_) => while matches!(rustix::io::read(log, &mut bytes), Ok(1..)) {},
        }
    }
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
