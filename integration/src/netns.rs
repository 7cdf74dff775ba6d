//! Network namespaces for scenarios: made with `ip`, named `edge-…`, gone when dropped.
//!
//! Flows in: names, addresses. Flows out: threads that live inside a namespace; what they start (sockets, threads,
//! processes) lives there too. Needs root; [`available`] says why not, and a scenario then skips loudly.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::process::Command;

use rustix::process::{Pid, geteuid, test_kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// One namespace. Its name ends in our process id, so that leftovers of a killed run are told from those in use.
pub struct Namespace {
    name: String,
}

/// Why namespaces cannot be used here, if so.
pub fn available() -> Result<(), String> {
    if !geteuid().is_root() {
        return Err("not root".to_owned());
    }
    match Command::new("ip").args(["netns", "list"]).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("ip netns list: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("ip: {error}")),
    }
}

/// Runs `ip` with the words of a line.
pub fn ip(line: &str) -> io::Result<String> {
    let output = Command::new("ip").args(line.split_whitespace()).output()?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(io::Error::other(format!("ip {line}: {}", String::from_utf8_lossy(&output.stderr).trim())))
    }
}

/// Removes namespaces of runs that are over.
fn sweep() {
    for line in ip("netns list").unwrap_or_default().lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let owner = name.strip_prefix("edge-").and_then(|rest| rest.rsplit_once('-')).map(|(_, pid)| pid);
        let owner = owner.and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
        if owner.is_some_and(|pid| test_kill_process(pid).is_err()) {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

impl Namespace {
    /// A namespace with its loopback up.
    pub fn new(role: &str) -> io::Result<Self> {
        sweep();
        let name = format!("edge-{role}-{}", std::process::id());
        ip(&format!("netns add {name}"))?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` inside.
    pub fn ip(&self, line: &str) -> io::Result<String> {
        ip(&format!("-n {} {line}", self.name))
    }

    /// A veth pair between two namespaces; each end gets an address with its prefix length.
    pub fn link(&self, address: &str, other: &Self, other_address: &str) -> io::Result<()> {
        // Interface names have 15 characters at most.
        let id = std::process::id() % 100_000;
        let (here, there) = (format!("ev{id}a"), format!("ev{id}b"));
        self.ip(&format!("link add {here} type veth peer name {there} netns {}", other.name))?;
        for (namespace, interface, address) in [(self, &here, address), (other, &there, other_address)] {
            namespace.ip(&format!("addr add {address} dev {interface}"))?;
            namespace.ip(&format!("link set {interface} up"))?;
        }
        Ok(())
    }

    /// Moves the calling thread inside, for good.
    pub fn enter(&self) -> io::Result<()> {
        enter(&self.name)
    }

    /// Runs a closure on a thread of its own inside, and hands over what it returns.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        run_in(&self.name, work)
    }
}

/// Moves the calling thread inside, for good.
pub fn enter(name: &str) -> io::Result<()> {
    let file = File::open(format!("/run/netns/{name}"))?;
    Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// Runs a closure on a thread of its own inside a namespace, and hands over what it returns.
pub fn run_in<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(name)?;
            Ok(work())
        });
        match thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&format!("netns del {}", self.name));
    }
}
