//! The real programs as child processes: `edged` with a configuration, `edgectl` beside it.
//!
//! Flows in: a configuration file. Flows out: a running daemon that is killed when dropped. The programs come from
//! `EDGE_BIN_DIR`, or from the target directory that the test itself was built into.

#![allow(clippy::panic)]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Nothing that a test waits for takes longer, on the slowest machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Polls until the condition holds; panics with `what` after [`LIMIT`].
pub fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    until_within(LIMIT, what, condition)
}

pub fn until_within<T>(limit: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Where a program of the workspace is; builds the programs once when it is missing.
pub fn program(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| {
        if let Some(directory) = std::env::var_os("EDGE_BIN_DIR") {
            return directory.into();
        }
        // target/PROFILE/PROGRAM, or target/PROFILE/deps/TEST-HASH
        let own = std::env::current_exe().unwrap_or_default();
        let beside = own.ancestors().nth(1).map(Path::to_owned).unwrap_or_default();
        let above = own.ancestors().nth(2).map(Path::to_owned).unwrap_or_default();
        let directory = if beside.file_name().is_some_and(|name| name == "deps") { above } else { beside };
        if !["edged", "edgectl", "demo-backend"].iter().all(|name| directory.join(name).exists()) {
            let profile = match directory.file_name().and_then(|name| name.to_str()) {
                Some("debug") | None => "dev",
                Some(profile) => profile,
            };
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let built = Command::new(cargo)
                .args(["build", "--quiet", "--workspace", "--bins", "--profile", profile])
                .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
                .status();
            assert!(built.is_ok_and(|status| status.success()), "cargo build --workspace --bins failed");
        }
        directory
    });
    let path = directory.join(name);
    assert!(path.exists(), "{} is not there; build the workspace or set EDGE_BIN_DIR", path.display());
    path
}

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    pub fn json(&self) -> serde_json::Value {
        match serde_json::from_str(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!("no JSON ({error}): {self:?}"),
        }
    }

    /// Both streams.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs a program to its end.
pub fn run(program: &Path, arguments: &[&str]) -> Said {
    match Command::new(program).args(arguments).stdin(Stdio::null()).env("NO_COLOR", "1").output() {
        Ok(output) => Said {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        },
        Err(error) => panic!("{}: {error}", program.display()),
    }
}

/// `edgectl` without a daemon.
pub fn edgectl(arguments: &[&str]) -> Said {
    run(&program("edgectl"), arguments)
}

/// A running daemon.
pub struct Edged {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Edged {
    /// Starts it; its output is appended to `log`.
    pub fn spawn(config: &Path, socket: &Path, log: &Path) -> Self {
        Self::spawn_by(&[], config, socket, log)
    }

    /// The same by a program that becomes it, with its arguments before.
    pub fn spawn_by(before: &[&str], config: &Path, socket: &Path, log: &Path) -> Self {
        let output = match File::options().create(true).append(true).open(log) {
            Ok(file) => file,
            Err(error) => panic!("{}: {error}", log.display()),
        };
        let errors = output.try_clone().map_or_else(|_| Stdio::null(), Stdio::from);
        let mut command = match before {
            [] => Command::new(program("edged")),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(program("edged"));
                command
            }
        };
        let child = command.arg("--config").arg(config).stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
        match child {
            Ok(child) => Self { child, socket: socket.to_owned(), log: log.to_owned() },
            Err(error) => panic!("edged: {error}"),
        }
    }

    /// Waits until an address accepts connections.
    pub fn wait_port(&mut self, address: SocketAddr) {
        let start = Instant::now();
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("edged ended with {status} before {address} answered:\n{}", self.log());
            }
            assert!(start.elapsed() < LIMIT, "{address} did not answer:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Waits until the control socket answers.
    pub fn wait_control(&mut self) {
        let start = Instant::now();
        while UnixStream::connect(&self.socket).is_err() {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("edged ended with {status} before its control socket was there:\n{}", self.log());
            }
            assert!(start.elapsed() < LIMIT, "no control socket:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Waits until the status knows what is served: sockets answer a moment before.
    pub fn wait_shown(&mut self) {
        self.wait_control();
        until("the status knows of the first generation", || {
            let mut stream = UnixStream::connect(&self.socket).ok()?;
            stream.set_read_timeout(Some(LIMIT)).ok()?;
            stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: edge\r\nconnection: close\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            (answer.starts_with("HTTP/1.1 ") && !answer.contains("starting:")).then_some(())
        });
    }

    /// Reads all files again. When this returns, every worker serves what they say and the status shows it; a change that
    /// one request has seen may still be ahead of another worker.
    pub fn apply(&self) {
        let said = self.ctl(&["reload"]);
        assert!(matches!(said.code, Some(0 | 1)), "{said:?}");
    }

    pub fn ctl(&self, arguments: &[&str]) -> Said {
        let socket = self.socket.to_string_lossy();
        let mut words = vec!["--socket", &*socket];
        words.extend_from_slice(arguments);
        edgectl(&words)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }

    /// SIGHUP.
    pub fn reload(&self) {
        self.signal(Signal::HUP);
    }

    /// SIGUSR1: reopens the access log.
    pub fn reopen(&self) {
        self.signal(Signal::USR1);
    }

    /// SIGTERM; `None` where it had to be killed after [`LIMIT`].
    pub fn terminate(&mut self) -> Option<ExitStatus> {
        self.signal(Signal::TERM);
        self.wait_end()
    }

    /// Waits for its end by itself.
    pub fn wait_end(&mut self) -> Option<ExitStatus> {
        let start = Instant::now();
        while start.elapsed() < LIMIT {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(3));
        }
        None
    }

    /// SIGKILL, and gone when this returns.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How many descriptors it has open.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    /// A field of /proc/PID/status in kB, such as `VmRSS` or `VmHWM`.
    pub fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
    }
}

impl Drop for Edged {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- edged said, at the end:");
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}
