//! Programs of the rig as child processes inside a namespace, and waiting that a signal can end.
//!
//! Flows in: a namespace, a program, its arguments, a log file. Flows out: a process that is stopped when dropped, and
//! killed by the kernel when this program ends in any other way.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

/// What a control plane may take on a machine that does other things as well.
pub const LIMIT: Duration = Duration::from_secs(120);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes every wait of the rig panic, so that everything is undone on the way out.
fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From now on the first signal to end undoes everything, and a second one leaves at once.
pub fn end_on_signals() {
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut int = signal(SignalKind::interrupt()).unwrap();
            let mut term = signal(SignalKind::terminate()).unwrap();
            for _ in 0..2 {
                tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
                interrupt();
            }
            std::process::exit(130);
        });
    });
}

pub fn check_interrupt() {
    assert!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
}

/// Polls until the condition holds; panics with `what` after the limit.
pub fn await_within<T>(limit: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        check_interrupt();
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A program and its arguments.
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(String, OsString)>,
}

impl Program {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), arguments: Vec::new(), environment: Vec::new() }
    }

    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub fn args<T: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// The command line that runs it inside a namespace, or inside none where that has no name, as the child itself:
    /// neither program in front forks.
    pub fn command(&self, inside: &str) -> Command {
        let mut command = match inside {
            "" => Command::new("setpriv"),
            inside => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{inside}")).arg("setpriv");
                command
            }
        };
        command.args(["--pdeathsig", "KILL"]).arg(&self.path).args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null());
        command
    }
}

/// A running program.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it with both outputs appended to the log.
    pub fn start(name: &str, inside: &str, program: &Program, log: &Path) -> Self {
        let output = File::options().create(true).append(true).open(log).unwrap();
        let mut command = program.command(inside);
        command.stdout(output.try_clone().unwrap()).stderr(output);
        let child = spawn(command).unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    /// Starts it with its standard output for the caller to read.
    pub fn piped(name: &str, inside: &str, program: &Program, log: &Path) -> (Self, ChildStdout) {
        let errors = File::options().create(true).append(true).open(log).unwrap();
        let mut command = program.command(inside);
        command.stdout(Stdio::piped()).stderr(errors);
        let mut child = spawn(command).unwrap_or_else(|error| panic!("{name}: {error}"));
        let output = child.stdout.take().unwrap();
        (Self { name: name.to_owned(), child, log: log.to_owned() }, output)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Panics with the end of its log when it is gone.
    pub fn must_live(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("{} ended with {status}:\n{}", self.name, tail(&self.log, 20));
        }
    }

    /// Waits until the condition holds, as long as the process lives.
    pub fn until<T>(&mut self, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
        await_within(LIMIT, what, || {
            self.must_live();
            condition()
        })
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Asks it to end, and kills it when it has not after `patience`.
    pub fn stop(&mut self, patience: Duration) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::TERM);
            let start = Instant::now();
            while start.elapsed() < patience && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop(Duration::from_secs(10));
    }
}

/// The last lines of a file.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

type Job = (Command, mpsc::Sender<std::io::Result<Child>>);

/// Starts children from a thread that lives as long as this program: the kernel counts the thread that started a child
/// as its parent, and a test's own thread may end first.
fn spawn(command: Command) -> std::io::Result<Child> {
    static NURSERY: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let nursery = NURSERY.get_or_init(|| {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, reply) in queue {
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(jobs)
    });
    let (reply, answer) = mpsc::channel();
    nursery.lock().unwrap().send((command, reply)).expect("the thread runs as long as the program");
    answer.recv().expect("the thread answers every job")
}
