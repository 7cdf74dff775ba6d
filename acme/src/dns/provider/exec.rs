//! A program of one's own: `COMMAND [ARGUMENTS] present|cleanup NAME. VALUE`, as lego's `exec` provider calls it.
//!
//! It gets a clean environment, no input, a deadline and a process group of its own, which is killed when the deadline
//! is over or the wait is given up. Exit status 0 is success; what it wrote, bounded, is the reason otherwise.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::time::{Instant, timeout, timeout_at};

use super::{ProviderError, TxtValue, WriteTxt};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// For those that the program left behind to close its output.
const AFTER_EXIT: Duration = Duration::from_secs(1);

/// What a program may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub time: Duration,
    /// Bytes of output that are kept, the last ones; the rest is read and dropped.
    pub output: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { time: Duration::from_secs(180), output: 4096 }
    }
}

pub struct Exec {
    command: PathBuf,
    arguments: Vec<Box<str>>,
    limits: Limits,
}

impl Exec {
    pub fn new(command: &std::path::Path, arguments: &[Box<str>], limits: Limits) -> Self {
        Self { command: command.to_owned(), arguments: arguments.to_vec(), limits }
    }

    async fn run(&self, verb: &str, record: &TxtValue) -> Result<(), ProviderError> {
        let fault = |reason: String| ProviderError::Program {
            program: self.command.display().to_string().into(),
            reason: reason.into(),
        };
        let mut command = Command::new(&self.command);
        command.args(self.arguments.iter().map(|argument| &**argument));
        command.args([verb, &format!("{}.", record.name), &record.value]);
        command.env_clear().env("PATH", PATH).env("LC_ALL", "C.UTF-8").current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        let end = Instant::now() + self.limits.time;
        let mut child = command.spawn().map_err(|error| fault(error.to_string()))?;
        let mut group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
        let (mut said, mut complained) = (Tail::new(self.limits.output), Tail::new(self.limits.output));
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let run = async {
            let reading = async { tokio::join!(said.read(out), complained.read(err)) };
            tokio::pin!(reading);
            let status = tokio::select! {
                _ = &mut reading => return (child.wait().await, true),
                status = child.wait() => status,
            };
            (status, timeout(AFTER_EXIT, reading).await.is_ok())
        };
        // On both early ways out the group is killed.
        let Ok((status, silent)) = timeout_at(end, run).await else {
            return Err(fault(format!("still running after {} s, killed", self.limits.time.as_secs_f32())));
        };
        let status = status.map_err(|error| fault(error.to_string()))?;
        if silent {
            // Nobody of the group is known to be left, so its id may be another's soon.
            group.spare();
        }
        if status.success() {
            return Ok(());
        }
        let mut reason = match status.code() {
            Some(code) => format!("exit status {code}"),
            None => format!("ended by {status}"),
        };
        let words = if complained.text().is_empty() { said.text() } else { complained.text() };
        if !words.is_empty() {
            reason.push_str(": ");
            reason.push_str(&words);
        }
        Err(fault(reason))
    }
}

impl WriteTxt for Exec {
    async fn add(&self, record: &TxtValue) -> Result<(), ProviderError> {
        self.run("present", record).await
    }

    async fn remove(&self, record: &TxtValue) -> Result<(), ProviderError> {
        self.run("cleanup", record).await
    }
}

/// A process group that is killed when this is dropped.
struct Group(Option<Pid>);

impl Group {
    fn spare(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // A group that has ended is what is wanted.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// The end of what was written.
struct Tail {
    bytes: Vec<u8>,
    limit: usize,
}

impl Tail {
    fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit }
    }

    /// Reads until nobody can write any more.
    async fn read(&mut self, from: Option<impl AsyncRead + Unpin>) {
        let Some(mut from) = from else { return };
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            self.bytes.extend_from_slice(&buffer[..count]);
            let surplus = self.bytes.len().saturating_sub(self.limit);
            self.bytes.drain(..surplus);
        }
    }

    /// One line, short.
    fn text(&self) -> String {
        const SHOWN: usize = 240;
        let text = String::from_utf8_lossy(&self.bytes);
        let line: String = text.trim().chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
        match line.char_indices().rev().nth(SHOWN) {
            Some((start, _)) => format!("…{}", &line[start..]),
            None => line,
        }
    }
}
