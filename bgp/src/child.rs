//! gobgpd as a child: started in a private directory, its log read, ended with us.
//!
//! Flows in: a program and a directory. Flows out: a socket to speak to, log lines, and how it ended. Nothing that an
//! earlier process left is taken up, only what it hands over itself ([`Handed`]). It dies with SIGTERM when this process
//! does, whatever this process dies of, and so says goodbye to its peers: a graceful restart (RFC 4724) of routes without
//! anybody behind them would be a black hole.

use std::io::{self, BufRead as _, BufReader, PipeReader, PipeWriter, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};
use tokio::sync::{mpsc, oneshot};

pub mod minder;
mod spawn;

/// Of one log line; the rest of a longer one is skipped.
const LONGEST_LINE: u64 = 4096;
/// Log lines that may wait; more are dropped, as the log is no reason to wait.
const WAITING: usize = 1024;
const VERSION_DEADLINE: Duration = Duration::from_secs(10);
/// Of a unix socket's address, with the zero at its end.
const LONGEST_PATH: usize = 108;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{}: {reason}; expected the program gobgpd, version 3 or 4", program.display())]
    Program { program: PathBuf, reason: String },
    #[error("{}: version \"{version}\"; expected 3 or 4", program.display())]
    Version { program: PathBuf, version: String },
    #[error("{}: {reason}", path.display())]
    Directory { path: PathBuf, reason: String },
}

/// Whose child gobgpd is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parent {
    /// Of this process: it cannot be handed over.
    Own,
    /// Of a [`minder`], which this program becomes under another name: it can.
    Minder(PathBuf),
}

/// A gobgpd between two processes: whoever holds it keeps it alive.
#[derive(Debug)]
pub struct Handed {
    pub pid: u32,
    pub program: PathBuf,
    pub socket: PathBuf,
    pub version: String,
    pub descriptors: Descriptors,
}

#[derive(Debug)]
pub struct Descriptors {
    /// Of its process.
    pub process: OwnedFd,
    /// While somebody has this end, its minder lets it live.
    pub lifeline: OwnedFd,
    /// What the minder says.
    pub words: OwnedFd,
    /// What it writes itself.
    pub log: OwnedFd,
}

impl Handed {
    /// For who may have to take it back.
    pub fn try_clone(&self) -> io::Result<Self> {
        let Descriptors { process, lifeline, words, log } = &self.descriptors;
        let descriptors = Descriptors {
            process: process.try_clone()?,
            lifeline: lifeline.try_clone()?,
            words: words.try_clone()?,
            log: log.try_clone()?,
        };
        let Self { pid, program, socket, version, .. } = self;
        let (program, socket, version) = (program.clone(), socket.clone(), version.clone());
        Ok(Self { pid: *pid, program, socket, version, descriptors })
    }
}

/// A running gobgpd. Dropped: SIGTERM.
#[derive(Debug)]
pub struct Child {
    pub pid: u32,
    pub socket: PathBuf,
    pub version: String,
    program: PathBuf,
    lines: mpsc::Receiver<String>,
    end: oneshot::Receiver<String>,
    /// How it ended, once it has.
    ended: Option<String>,
    process: OwnedFd,
    /// What keeps it alive, where that can be given away.
    kept: Option<Kept>,
    /// Written to: nobody reads its log any more.
    release: OwnedFd,
    is_given_away: bool,
}

#[derive(Debug)]
struct Kept {
    lifeline: OwnedFd,
    words: OwnedFd,
    log: OwnedFd,
}

/// What a child does by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It wrote this into its log.
    Line(String),
    /// How, in words; said as often as it is asked.
    Ended(String),
}

impl Child {
    pub async fn start(parent: &Parent, program: &Path, directory: &Path) -> Result<Self, Error> {
        let version = version(program).await?;
        let socket = prepare(directory)?;
        let failed = |error: io::Error| Error::Program { program: program.to_owned(), reason: error.to_string() };
        let (lines_in, lines) = mpsc::channel(WAITING);
        let (ended_in, end) = oneshot::channel();
        let (started_in, started) = oneshot::channel();
        let command = command(parent, program, directory, &socket);
        let is_minded = matches!(parent, Parent::Minder(_));
        let release = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        let released = release.try_clone().map_err(failed)?;
        let name = program.to_owned();
        // A thread of its own: PR_SET_PDEATHSIG is sent when the thread that made the child ends, so that thread waits
        // for the child and for nothing else.
        let body = move || {
            let begun = if is_minded { begin_minded(command) } else { begin_own(command) };
            let Begun { pid, process, kept, log, end: ending } = match begun {
                Ok(begun) => begun,
                Err(error) => {
                    let _ = started_in.send(Err(error));
                    return;
                }
            };
            // Dropped on its way, where nobody waits for it any more, it is told to end as anywhere else.
            let _ = started_in.send(Ok(Self {
                pid,
                socket,
                version,
                program: name,
                lines,
                end,
                ended: None,
                process,
                kept,
                release,
                is_given_away: false,
            }));
            attend(log, &released, &lines_in, ending, ended_in);
        };
        std::thread::Builder::new().name("gobgpd".to_owned()).spawn(body).map_err(failed)?;
        started.await.map_err(|_| failed(io::Error::other("not started")))?.map_err(failed)
    }

    /// Takes up what another process has given away.
    pub fn adopt(handed: Handed) -> io::Result<Self> {
        let Handed { pid, program, socket, version, descriptors } = handed;
        let Descriptors { process, lifeline, words, log } = descriptors;
        let (lines_in, lines) = mpsc::channel(WAITING);
        let (ended_in, end) = oneshot::channel();
        let release = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?;
        let released = release.try_clone()?;
        let kept = Kept { lifeline, words: words.try_clone()?, log: log.try_clone()? };
        let body = move || {
            let words = BufReader::new(PipeReader::from(words));
            attend(log.into(), &released, &lines_in, Ending::Told(words), ended_in);
        };
        std::thread::Builder::new().name("gobgpd".to_owned()).spawn(body)?;
        let kept = Some(kept);
        Ok(Self {
            pid,
            socket,
            version,
            program,
            lines,
            end,
            ended: None,
            process,
            kept,
            release,
            is_given_away: false,
        })
    }

    /// Gives it away as it runs. `None`: it is this process's own child, or descriptors have run out; it is ended.
    pub fn release(mut self) -> Option<Handed> {
        let Kept { lifeline, words, log } = self.kept.take()?;
        let process = self.process.try_clone().ok()?;
        self.is_given_away = true;
        let _ = rustix::io::write(&self.release, &1_u64.to_ne_bytes());
        let descriptors = Descriptors { process, lifeline, words, log };
        let (program, socket, version) = (self.program.clone(), self.socket.clone(), self.version.clone());
        Some(Handed { pid: self.pid, program, socket, version, descriptors })
    }

    /// What it does next. Dropping the future loses nothing.
    pub async fn event(&mut self) -> Event {
        if let Some(line) = self.lines.recv().await {
            return Event::Line(line);
        }
        // Its log ends with it.
        Event::Ended(self.ended().await)
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) -> String {
        if self.ended.is_none() {
            self.ended = Some((&mut self.end).await.unwrap_or_else(|_| "nobody knows how".to_owned()));
        }
        self.ended.clone().unwrap_or_default()
    }

    /// The last line that it wrote and nobody has read.
    pub fn last_words(&mut self) -> String {
        let mut last = None;
        while let Ok(line) = self.lines.try_recv() {
            last = Some(line);
        }
        last.map_or_else(|| "it wrote nothing".to_owned(), |line| format!("its last words: {line}"))
    }

    /// Asks it to end: it tells its peers.
    pub fn terminate(&self) {
        let _ = pidfd_send_signal(&self.process, Signal::TERM);
        // A stopped process would not hear the first.
        let _ = pidfd_send_signal(&self.process, Signal::CONT);
    }

    pub fn kill(&self) {
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
    }

    /// Ends it, by force after a while; its log is read to the end.
    pub async fn stop(mut self, patience: Duration) {
        self.terminate();
        self.lines.close();
        if tokio::time::timeout(patience, self.ended()).await.is_err() {
            self.kill();
            let _ = tokio::time::timeout(patience, self.ended()).await;
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.is_given_away {
            self.terminate();
        }
    }
}

/// As the program says it, `3.10.0`.
async fn version(program: &Path) -> Result<String, Error> {
    let failed = |reason: String| Error::Program { program: program.to_owned(), reason };
    let mut command = tokio::process::Command::new(program);
    command.arg("--version").env_clear().stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(VERSION_DEADLINE, command.output()).await;
    let output = output
        .map_err(|_| failed(format!("no answer to --version within {} s", VERSION_DEADLINE.as_secs())))?
        .map_err(|error| failed(error.to_string()))?;
    let said: String = String::from_utf8_lossy(&output.stdout).chars().take(100).filter(|c| !c.is_control()).collect();
    let version = said.rsplit(' ').next().unwrap_or_default().trim_start_matches('v').to_owned();
    match version.split('.').next() {
        Some("3" | "4") => Ok(version),
        _ => Err(Error::Version { program: program.to_owned(), version: said }),
    }
}

/// Makes the directory ours alone and returns the path of a socket in it that does not exist.
fn prepare(directory: &Path) -> Result<PathBuf, Error> {
    let failed = |reason: String| Error::Directory { path: directory.to_owned(), reason };
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| failed(error.to_string()))?;
    let metadata = std::fs::metadata(directory).map_err(|error| failed(error.to_string()))?;
    let mode = metadata.permissions().mode() & 0o777;
    if metadata.uid() != geteuid().as_raw() || mode & 0o022 != 0 {
        return Err(failed(format!("owner {} mode {mode:o}; expected ours, writable by nobody else", metadata.uid())));
    }
    let socket = directory.join("gobgpd.sock");
    if socket.as_os_str().len() >= LONGEST_PATH {
        return Err(failed(format!("too long for the address of a socket; expected less than {LONGEST_PATH} bytes")));
    }
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error.to_string())),
        _ => Ok(socket),
    }
}

fn command(parent: &Parent, program: &Path, directory: &Path, socket: &Path) -> Command {
    let mut command = match parent {
        Parent::Own => Command::new(program),
        Parent::Minder(minder) => {
            let mut command = Command::new(minder);
            command.arg0(minder::NAME).arg(program);
            command
        }
    };
    command
        .arg("--api-hosts")
        .arg(format!("unix://{}", socket.display()))
        // At this level it says why a call failed.
        .args(["--log-level", "debug", "--pprof-disable"])
        .current_dir(directory)
        .env_clear()
        .stdin(std::process::Stdio::null());
    command
}

/// A child that was just started.
struct Begun {
    pid: u32,
    process: OwnedFd,
    kept: Option<Kept>,
    log: PipeReader,
    end: Ending,
}

/// How one learns of its end.
enum Ending {
    Waited(std::process::Child),
    Told(BufReader<PipeReader>),
}

impl Ending {
    fn how(self) -> String {
        match self {
            Self::Waited(mut child) => child.wait().map_or_else(|error| error.to_string(), |how| how.to_string()),
            Self::Told(mut words) => {
                let mut line = String::new();
                match words.by_ref().take(LONGEST_LINE).read_line(&mut line).map(|_| minder::Word::parse(&line)) {
                    Ok(Some(minder::Word::Ended(how))) => how,
                    _ => "killed together with its minder".to_owned(),
                }
            }
        }
    }
}

fn begin_own(mut command: Command) -> io::Result<Begun> {
    let (log, end) = io::pipe()?;
    command.stdout(end.try_clone()?).stderr(end);
    let child = spawn::spawn(&mut command)?;
    // The command keeps the writing ends open otherwise, and the log would never end.
    drop(command);
    let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    Ok(Begun { pid: child.id(), process, kept: None, log, end: Ending::Waited(child) })
}

fn begin_minded(mut command: Command) -> io::Result<Begun> {
    let (log, log_end) = io::pipe()?;
    let (words, words_end) = io::pipe()?;
    let (life, lifeline): (PipeReader, PipeWriter) = io::pipe()?;
    command.stdin(life).stdout(words_end).stderr(log_end);
    let mut minder = command.spawn()?;
    drop(command);
    let kept = Kept { lifeline: lifeline.into(), words: words.try_clone()?.into(), log: log.try_clone()?.into() };
    let mut words = BufReader::new(words);
    let mut line = String::new();
    words.by_ref().take(LONGEST_LINE).read_line(&mut line)?;
    let pid = match minder::Word::parse(&line) {
        Some(minder::Word::Started(pid)) => pid,
        Some(minder::Word::Failed(why)) => return Err(io::Error::other(why)),
        _ => return Err(io::Error::other("its minder does not say whether it was started")),
    };
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    // Its number is its own as long as its minder lives, which is longer than it does itself.
    let process = pidfd_open(number, PidfdFlags::empty())?;
    // It ends after gobgpd, and must not stay behind as a zombie while this process lives.
    std::thread::Builder::new().name("edge-minder".to_owned()).stack_size(256 << 10).spawn(move || minder.wait())?;
    Ok(Begun { pid, process, kept: Some(kept), log, end: Ending::Told(words) })
}

/// Stays with the child until it has ended, or was given away.
fn attend(
    log: PipeReader,
    released: &OwnedFd,
    lines: &mpsc::Sender<String>,
    end: Ending,
    ended: oneshot::Sender<String>,
) {
    if read_lines(Watched { log, released }, lines) {
        let _ = ended.send(end.how());
    }
}

/// A log that ends at once when nobody is to read it any more.
struct Watched<'a> {
    log: PipeReader,
    released: &'a OwnedFd,
}

impl Watched<'_> {
    /// `false`: it was given away.
    fn wait(&self) -> io::Result<bool> {
        let mut on = [PollFd::new(self.released, PollFlags::IN), PollFd::new(&self.log, PollFlags::IN)];
        loop {
            match rustix::event::poll(&mut on, None) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => return Ok(on[0].revents().is_empty()),
            }
        }
    }
}

impl io::Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.wait()? { self.log.read(buffer) } else { Ok(0) }
    }
}

/// Whether it was read to its own end.
fn read_lines(log: Watched<'_>, lines: &mpsc::Sender<String>) -> bool {
    let mut reader = BufReader::new(log);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        if line.last() != Some(&b'\n') && !matches!(reader.skip_until(b'\n'), Ok(read) if read > 0) && line.is_empty() {
            break;
        }
        // Dropped where nobody takes them fast enough, or at all.
        let _ = lines.try_send(String::from_utf8_lossy(&line).trim_end().to_owned());
    }
    let mut on = [PollFd::new(reader.get_ref().released, PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    !matches!(rustix::event::poll(&mut on, Some(&now)), Ok(1..))
}

#[cfg(test)]
mod tests;
