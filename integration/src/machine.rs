//! A machine with a systemd of its own, which runs the unit of Edge as a package would install it.
//!
//! Flows in: a namespace, whose network the machine has, and what `/etc/edge` holds. Flows out: what `systemctl` says and
//! does there, and the processes of the unit. Everything ends with the [`Machine`]. Needs root and the package `systemd`.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::edged::{Said, program, run, until, workspace};
use crate::netns::{Namespace, ip, run_in};

const UNIT: &str = "edged.service";

pub struct Machine {
    /// `unshare`, whose end is the end of everything below it.
    process: Child,
    init: u32,
    namespace: String,
    directory: TempDir,
}

/// Why there can be none here, if so.
pub fn available() -> Result<(), String> {
    crate::netns::available()?;
    let systemd = Path::new("/lib/systemd/systemd");
    if systemd.exists() { Ok(()) } else { Err(format!("{} is missing (package systemd)", systemd.display())) }
}

impl Machine {
    /// Boots it; `settings` is edge.toml, `site` a manifest, `unit` what is said of the unit beside its own file.
    pub fn start(namespace: &Namespace, settings: &str, site: &str, unit: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("edge-machine-").tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        std::fs::create_dir_all(directory.path().join("edge/manifests")).unwrap();
        write("edge/edge.toml", settings);
        write("edge/manifests/site.yaml", site);
        write("more.conf", unit);
        let log = File::create(directory.path().join("machine.log")).unwrap();
        let programs = program("edged").canonicalize().unwrap();
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--cgroup"])
            .arg(workspace().join("integration/run/machine"))
            .arg(directory.path())
            .arg(programs.parent().unwrap())
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log);
        let process = run_in(namespace.name(), || command.spawn()).unwrap().unwrap();
        let mut machine = Self { process, init: 0, namespace: namespace.name().to_owned(), directory };
        machine.init = until("systemd runs", || machine.processes("systemd").first().copied());
        until("systemd listens", || machine.systemctl(&["is-system-running"]).stdout.contains("running").then_some(()));
        machine
    }

    /// `systemctl` inside.
    pub fn systemctl(&self, arguments: &[&str]) -> Said {
        self.run(&[&["systemctl", "--no-pager"], arguments].concat())
    }

    /// Any program inside.
    pub fn run(&self, words: &[&str]) -> Said {
        let init = self.init.to_string();
        let into = ["--target", &init, "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--root", "--wd"];
        run(Path::new("nsenter"), &[&into, words].concat())
    }

    /// A property of the unit.
    pub fn property(&self, name: &str) -> String {
        self.systemctl(&["show", "--value", "--property", name, UNIT]).stdout.trim().to_owned()
    }

    /// The number of edged's process as this side of the wall has it.
    pub fn edged(&self) -> u32 {
        let inside = self.property("MainPID");
        let is_it = |pid: &u32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
            numbers.split_whitespace().last() == Some(&*inside)
        };
        until("edged runs", || self.processes("edged").into_iter().find(is_it))
    }

    /// The numbers of its processes with this name, as this side of the wall has them.
    pub fn processes(&self, name: &str) -> Vec<u32> {
        let inside = ip(&format!("netns pids {}", self.namespace)).unwrap_or_default();
        let is_called =
            |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|found| found.trim() == name);
        inside.lines().filter_map(|line| line.trim().parse().ok()).filter(is_called).collect()
    }

    /// Where its files are: `edged.log`, and `edge`, from which its `/etc/edge` was made.
    pub fn directory(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("edged.log")).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let start = std::fs::read_to_string(self.directory.path().join("machine.log")).unwrap_or_default();
            eprintln!("the machine said:\n{start}\nedged wrote:\n{}", self.log());
        }
        // All of its processes go with its init.
        if let Some(init) = Pid::from_raw(self.init.cast_signed()) {
            let _ = kill_process(init, Signal::KILL);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
