//! gobgpd as a child: started in a private directory, its log read, ended with us.
//!
//! Flows in: a program and a directory. Flows out: a socket to speak to, log lines, and how it ended. Nothing of an
//! earlier child is taken over. It dies with SIGTERM when this process does, whatever this process dies of, and so says
//! goodbye to its peers: a graceful restart (RFC 4724) of routes without anybody behind them would be a black hole.

use std::io::{self, BufRead as _, BufReader, PipeReader, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};
use tokio::sync::{mpsc, oneshot};

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

/// A running gobgpd. Dropped: SIGTERM.
#[derive(Debug)]
pub struct Child {
    pub pid: u32,
    pub socket: PathBuf,
    pub version: String,
    lines: mpsc::Receiver<String>,
    end: oneshot::Receiver<String>,
    /// How it ended, once it has.
    ended: Option<String>,
    process: OwnedFd,
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
    pub async fn start(program: &Path, directory: &Path) -> Result<Self, Error> {
        let version = version(program).await?;
        let socket = prepare(directory)?;
        let failed = |error: io::Error| Error::Program { program: program.to_owned(), reason: error.to_string() };
        let (lines_in, lines) = mpsc::channel(WAITING);
        let (ended_in, end) = oneshot::channel();
        let (started_in, started) = oneshot::channel();
        let command = command(program, directory, &socket);
        // A thread of its own: PR_SET_PDEATHSIG is sent when the thread that made the child ends, so that thread waits
        // for the child and for nothing else.
        std::thread::Builder::new()
            .name("gobgpd".to_owned())
            .spawn(move || attend(command, started_in, lines_in, ended_in))
            .map_err(failed)?;
        let (pid, process) = started.await.map_err(|_| failed(io::Error::other("not started")))?.map_err(failed)?;
        Ok(Self { pid, socket, version, lines, end, ended: None, process })
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
        self.terminate();
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

fn command(program: &Path, directory: &Path, socket: &Path) -> Command {
    let mut command = Command::new(program);
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

type Started = io::Result<(u32, OwnedFd)>;

/// Starts the child and stays with it until it has ended.
fn attend(
    mut command: Command,
    started: oneshot::Sender<Started>,
    lines: mpsc::Sender<String>,
    ended: oneshot::Sender<String>,
) {
    let begun = io::pipe().and_then(|(output, end)| {
        command.stdout(end.try_clone()?).stderr(end);
        let child = spawn::spawn(&mut command)?;
        // The command keeps the writing ends open otherwise, and the log would never end.
        drop(command);
        let pid = child.id();
        let raw = Pid::from_child(&child);
        Ok((child, pid, pidfd_open(raw, PidfdFlags::empty())?, output))
    });
    let (mut child, pid, process, output) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    if let Err(Ok((_, process))) = started.send(Ok((pid, process))) {
        // Nobody waits for it any more.
        let _ = pidfd_send_signal(&process, Signal::TERM);
    }
    read_lines(output, &lines);
    let how = match child.wait() {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    let _ = ended.send(how);
}

fn read_lines(output: PipeReader, lines: &mpsc::Sender<String>) {
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if line.last() != Some(&b'\n') && !matches!(reader.skip_until(b'\n'), Ok(read) if read > 0) && line.is_empty() {
            return;
        }
        // Dropped where nobody takes them fast enough, or at all.
        let _ = lines.try_send(String::from_utf8_lossy(&line).trim_end().to_owned());
    }
}

#[cfg(test)]
mod tests;
