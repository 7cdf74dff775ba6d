//! A copy of this machine on which packages are installed: its own systemd, and nothing that is written there stays.
//!
//! Flows in: files into [`Host::share`], which is `/share` there. Flows out: what programs say that run there. Everything
//! ends with the [`Host`]. Needs root and the package `systemd`; it has loopback and no other network.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::edged::{Said, run, until, workspace};

pub struct Host {
    /// `unshare`, whose end is the end of everything below it.
    process: Child,
    init: u32,
    directory: TempDir,
}

impl Host {
    /// Boots it; [`crate::machine::available`] says whether it can.
    pub fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("edge-host-").tempdir().unwrap();
        let log = File::create(directory.path().join("host.log")).unwrap();
        let process = Command::new("unshare")
            .args(["--mount", "--pid", "--net", "--fork", "--kill-child", "--uts", "--ipc", "--cgroup"])
            .arg(workspace().join("integration/run/host"))
            .arg(directory.path())
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn()
            .unwrap();
        let mut host = Self { process, init: 0, directory };
        host.init = until("systemd runs", || host.first_child());
        until("systemd listens", || host.run("systemctl is-system-running").stdout.contains("running").then_some(()));
        host
    }

    /// The child of `unshare`, once it has become systemd.
    fn first_child(&self) -> Option<u32> {
        let unshare = self.process.id();
        let children = std::fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).ok()?;
        let child = children.split_whitespace().next()?.parse().ok()?;
        let name = std::fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
        (name.trim() == "systemd").then_some(child)
    }

    /// A line for the shell there.
    pub fn run(&self, line: &str) -> Said {
        let init = self.init.to_string();
        let into = ["--target", &init, "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--root", "--wd"];
        let shell = ["env", "-i", "PATH=/usr/sbin:/usr/bin", "DEBIAN_FRONTEND=noninteractive", "sh", "-c", line];
        run(Path::new("nsenter"), &[&into[..], &shell[..]].concat())
    }

    /// The same, of which nothing but success will do.
    pub fn must(&self, line: &str) -> String {
        let said = self.run(line);
        assert_eq!(said.code, Some(0), "{line}: {said:?}");
        said.stdout
    }

    /// A property of the unit.
    pub fn property(&self, name: &str) -> String {
        self.must(&format!("systemctl show --value --property {name} edged")).trim().to_owned()
    }

    pub fn share(&self) -> PathBuf {
        self.directory.path().to_owned()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["host.log", "edged.log"] {
                let text = std::fs::read_to_string(self.directory.path().join(name)).unwrap_or_default();
                eprintln!("{name}:\n{text}");
            }
        }
        // All of its processes, mounts and its network go with its init.
        if let Some(init) = Pid::from_raw(self.init.cast_signed()) {
            let _ = kill_process(init, Signal::KILL);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
