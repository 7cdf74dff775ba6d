//! Real routers: FRR's zebra, bgpd and bfdd in a network namespace, as the top of the rack that edges speak to.
//!
//! Flows in: a namespace and a configuration in FRR's words. Flows out: what `vtysh` answers, and the kernel routes that
//! the router made of what it was told. Everything ends with the [`Router`]. Needs root and the package `frr`.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::edged::until;
use crate::netns::{Namespace, run_in};

const PROGRAMS: &str = "/usr/lib/frr";

/// Lines without which the kernel of a router does not show what bgpd means: zebra 8.4 loses a member of a next-hop group
/// that went and came back.
pub const ZEBRA: &str = "no zebra nexthop kernel enable\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemon {
    Zebra,
    Bgpd,
    Bfdd,
}

impl Daemon {
    fn name(self) -> &'static str {
        match self {
            Self::Zebra => "zebra",
            Self::Bgpd => "bgpd",
            Self::Bfdd => "bfdd",
        }
    }
}

/// Why routers cannot be used here, if so.
pub fn available() -> Result<(), String> {
    crate::netns::available()?;
    let program = Path::new(PROGRAMS).join("bgpd");
    if program.exists() { Ok(()) } else { Err(format!("{} is missing (package frr)", program.display())) }
}

/// One router.
pub struct Router {
    daemons: Vec<(Daemon, Child)>,
    namespace: String,
    directory: TempDir,
}

impl Router {
    /// Starts zebra and bgpd, and bfdd where the configuration speaks of BFD.
    pub fn start(namespace: &Namespace, config: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("edge-router-").tempdir().unwrap();
        let path = directory.path();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(path.join("frr.conf"), config).unwrap();
        std::fs::write(path.join("vtysh.conf"), "no service integrated-vtysh-config\n").unwrap();
        run(Command::new("chown").args(["-R", "frr:frr"]).arg(path)).unwrap();
        for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/fib_multipath_hash_policy"] {
            set(namespace, name, "1");
        }
        let mut router = Self { daemons: Vec::new(), namespace: namespace.name().to_owned(), directory };
        router.spawn(Daemon::Zebra);
        if config.contains("bfd") {
            router.spawn(Daemon::Bfdd);
        }
        router.spawn(Daemon::Bgpd);
        router
    }

    fn spawn(&mut self, daemon: Daemon) {
        let path = self.path();
        let log = File::create(path.join(format!("{}.log", daemon.name()))).unwrap();
        let mut command = Command::new(Path::new(PROGRAMS).join(daemon.name()));
        command
            .args(["-u", "frr", "-g", "frr", "-A", "127.0.0.1", "--log", "stdout", "-f"])
            .arg(path.join("frr.conf"))
            .arg("-i")
            .arg(path.join(format!("{}.pid", daemon.name())))
            .arg("-z")
            .arg(path.join("zserv.api"))
            .arg("--vty_socket")
            .arg(&path)
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log);
        if daemon == Daemon::Bfdd {
            command.arg("--bfdctl").arg(path.join("bfdd.sock"));
        } else if path.join("bfdd.sock").exists() {
            command.arg("-I").arg("0");
        }
        let child = run_in(&self.namespace, || command.spawn()).unwrap().unwrap();
        self.daemons.push((daemon, child));
        let socket = path.join(format!("{}.vty", daemon.name()));
        until(&format!("{} listens in {}", daemon.name(), self.namespace), || socket.exists().then_some(()));
    }

    fn path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// Where its sockets for `vtysh --vty_socket` are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What the router answers to a command.
    pub fn ask(&self, command: &str) -> String {
        self.vtysh(&[command])
    }

    /// The same, of a command that ends in `json`.
    pub fn json(&self, command: &str) -> Value {
        let text = self.ask(command);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command}: {error}: {text}"))
    }

    /// Enters lines of configuration.
    pub fn configure(&self, lines: &[&str]) {
        let said = self.vtysh(&[&["configure terminal"], lines].concat());
        assert!(!said.contains('%'), "{lines:?}: {said}");
    }

    fn vtysh(&self, commands: &[&str]) -> String {
        let mut command = Command::new("vtysh");
        command.arg("--vty_socket").arg(self.path()).arg("--config_dir").arg(self.path());
        for line in commands {
            command.args(["-c", line]);
        }
        run(&mut command).unwrap()
    }

    /// The gateways of the kernel's route to a prefix that a daemon of FRR made; empty: there is none.
    pub fn gateways(&self, prefix: &str) -> Vec<IpAddr> {
        let family = if prefix.contains(':') { "-6" } else { "-4" };
        let text = crate::netns::ip(&format!("-n {} -j {family} route show {prefix} proto bgp", self.namespace));
        let routes: Value = serde_json::from_str(&text.unwrap_or_default()).unwrap_or_default();
        let mut found: Vec<IpAddr> = Vec::new();
        for route in routes.as_array().into_iter().flatten() {
            let several = route["nexthops"].as_array().into_iter().flatten();
            for hop in std::iter::once(route).chain(several) {
                found.extend(
                    [&hop["gateway"], &hop["via"]["host"]].iter().filter_map(|v| v.as_str()?.parse::<IpAddr>().ok()),
                );
            }
        }
        found.sort();
        found
    }

    /// How many routes in the kernel are from BGP, of both families.
    pub fn kernel_routes(&self) -> usize {
        ["-4", "-6"]
            .iter()
            .map(|family| {
                let text = crate::netns::ip(&format!("-n {} {family} route show proto bgp", self.namespace));
                text.unwrap_or_default().lines().filter(|line| !line.starts_with([' ', '\t'])).count()
            })
            .sum()
    }

    /// Sends a signal to one of its daemons.
    pub fn signal(&self, daemon: Daemon, signal: Signal) {
        let found = self.daemons.iter().find(|(known, _)| *known == daemon).expect("started");
        kill_process(Pid::from_child(&found.1), signal).unwrap();
    }

    /// The log of one of its daemons, for messages.
    pub fn log(&self, daemon: Daemon) -> String {
        std::fs::read_to_string(self.path().join(format!("{}.log", daemon.name()))).unwrap_or_default()
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("bgpd in {} wrote:\n{}", self.namespace, self.log(Daemon::Bgpd));
        }
        for (_, child) in self.daemons.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A veth pair with these interface names; each end gets its addresses with their prefix lengths. IPv6 addresses are
/// used at once.
pub fn wire(a: (&Namespace, &str, &[&str]), b: (&Namespace, &str, &[&str])) {
    a.0.ip(&format!("link add {} type veth peer name {} netns {}", a.1, b.1, b.0.name())).unwrap();
    for (namespace, interface, addresses) in [a, b] {
        for address in addresses {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            namespace.ip(&format!("addr add {address} dev {interface}{nodad}")).unwrap();
        }
        namespace.ip(&format!("link set {interface} up")).unwrap();
    }
}

/// Sets a kernel setting inside a namespace: `ipv4/ip_forward`.
pub fn set(namespace: &Namespace, name: &str, value: &str) {
    let path = format!("/proc/sys/net/{name}");
    namespace.run(|| std::fs::write(&path, value)).unwrap().unwrap_or_else(|error| panic!("{path}: {error}"));
}

fn run(command: &mut Command) -> io::Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(said)
    } else {
        Err(io::Error::other(format!("{command:?}: {said}{}", String::from_utf8_lossy(&output.stderr))))
    }
}
