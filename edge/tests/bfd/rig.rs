//! Two hosts on a bridge that can be cut while both keep their carrier; FRR's bfdd on the second.

use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use edge::vip::bfd::{Bfd, BfdSeen, BfdWanted};
use serde_json::Value;

use super::netns::{self, Namespace};

pub(crate) const OURS: &str = "192.0.2.1";
pub(crate) const THEIRS: &str = "192.0.2.2";
pub(crate) const OURS6: &str = "fd52::1";
pub(crate) const THEIRS6: &str = "fd52::2";
const PROGRAMS: &str = "/usr/lib/frr";
/// A change that takes longer is lost.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < end, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn wanted(peer: &str) -> BfdWanted {
    let settings = edge_config::announce::Bfd {
        transmit: Duration::from_millis(300),
        receive: Duration::from_millis(300),
        multiplier: 3,
        is_passive: false,
        minimum_ttl: 254,
    };
    BfdWanted { peer: ip(peer), local: None, interface: None, is_multihop: false, bfd: settings, is_disabled: false }
}

/// Waits for the first sight of a peer.
pub(crate) fn seen(bfd: &Bfd, peer: &str) -> BfdSeen {
    until("the peer is known", || bfd.observed().borrow().session(ip(peer)).is_some());
    bfd.observed().borrow().session(ip(peer)).unwrap().clone()
}

/// Lines of bfdd for a session of one hop with us.
pub(crate) fn peer(ours: &str, theirs: &str) -> String {
    format!(" peer {ours} local-address {theirs} interface eth0\n  profile fast\n !\n")
}

pub(crate) struct Pair {
    switch: Namespace,
    hosts: [Namespace; 2],
}

impl Pair {
    /// `None`: no right to make one, or no FRR, which is said.
    pub(crate) fn new(test: &str) -> Option<Self> {
        let program = format!("{PROGRAMS}/bfdd");
        let missing = netns::available().err().or_else(|| {
            (!std::path::Path::new(&program).exists()).then(|| format!("{program} is missing (package frr)"))
        });
        if let Some(reason) = missing {
            eprintln!("SKIPPED: {reason}");
            return None;
        }
        let switch = Namespace::new(&format!("l2-bfd-{test}-sw")).unwrap();
        switch.ip("link add br0 type bridge mcast_snooping 0").unwrap();
        switch.ip("link set br0 up").unwrap();
        let hosts = [1, 2].map(|number| {
            let host = Namespace::new(&format!("l2-bfd-{test}-{number}")).unwrap();
            host.run(|| {
                for (name, value) in [("accept_dad", "0"), ("dad_transmits", "0"), ("keep_addr_on_down", "1")] {
                    std::fs::write(format!("/proc/sys/net/ipv6/conf/default/{name}"), value).unwrap();
                }
            })
            .unwrap();
            switch.ip(&format!("link add p{number} type veth peer name eth0 netns {}", host.name())).unwrap();
            switch.ip(&format!("link set p{number} master br0")).unwrap();
            switch.ip(&format!("link set p{number} up")).unwrap();
            host.ip(&format!("addr add 192.0.2.{number}/24 dev eth0")).unwrap();
            host.ip("link set eth0 up").unwrap();
            host.ip(&format!("addr add fd52::{number}/64 dev eth0 nodad")).unwrap();
            host
        });
        Some(Self { switch, hosts })
    }

    /// Nothing passes any more, though both ends have a carrier.
    pub(crate) fn cut(&self, is_cut: bool) {
        self.switch.ip(&format!("link set p2 {}", if is_cut { "nomaster" } else { "master br0" })).unwrap();
    }

    pub(crate) fn ip(&self, host: usize, line: &str) {
        self.hosts[host].ip(line).unwrap();
    }

    pub(crate) fn run<T: Send>(&self, host: usize, work: impl FnOnce() -> T + Send) -> T {
        self.hosts[host].run(work).unwrap()
    }

    pub(crate) fn link_local(&self, host: usize) -> String {
        let text = self.hosts[host].ip("-6 -o addr show dev eth0 scope link").unwrap();
        let word = text.split_whitespace().find(|word| word.starts_with("fe80:")).unwrap();
        word.split('/').next().unwrap().to_owned()
    }

    pub(crate) fn bfd(&self) -> Bfd {
        self.run(0, || Bfd::start(Vec::new()).unwrap())
    }

    /// zebra and bfdd with these peers; the profile `fast` is 300 ms three times.
    pub(crate) fn frr(&self, peers: &str) -> Frr {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let profile = " profile fast\n  receive-interval 300\n  transmit-interval 300\n  detect-multiplier 3\n !\n";
        std::fs::write(path.join("frr.conf"), format!("bfd\n{profile}{peers}!\n")).unwrap();
        std::fs::write(path.join("vtysh.conf"), "no service integrated-vtysh-config\n").unwrap();
        Command::new("chmod").arg("755").arg(path).status().unwrap();
        Command::new("chown").args(["-R", "frr:frr"]).arg(path).status().unwrap();
        let mut frr = Frr { daemons: Vec::new(), directory };
        for name in ["zebra", "bfdd"] {
            let path = frr.directory.path();
            let log = std::fs::File::create(path.join(format!("{name}.log"))).unwrap();
            let mut command = Command::new(format!("{PROGRAMS}/{name}"));
            command.args(["-u", "frr", "-g", "frr", "-A", "127.0.0.1", "--log", "stdout", "-f"]);
            command.arg(path.join("frr.conf")).arg("-i").arg(path.join(format!("{name}.pid")));
            command.arg("-z").arg(path.join("zserv.api")).arg("--vty_socket").arg(path);
            if name == "bfdd" {
                command.arg("--bfdctl").arg(path.join("bfdd.sock"));
            }
            command.stdin(Stdio::null()).stderr(log.try_clone().unwrap()).stdout(log);
            let child = self.run(1, || command.spawn().unwrap());
            let socket = path.join(format!("{name}.vty"));
            until(name, || socket.exists());
            frr.daemons.push(child);
        }
        frr
    }
}

pub(crate) struct Frr {
    daemons: Vec<Child>,
    directory: tempfile::TempDir,
}

impl Frr {
    /// What bfdd says of its session with us.
    pub(crate) fn peer(&self, ours: &str) -> Value {
        self.find("show bfd peers json", ours)
    }

    pub(crate) fn counters(&self, ours: &str) -> Value {
        self.find("show bfd peers counters json", ours)
    }

    fn find(&self, command: &str, ours: &str) -> Value {
        let text = self.vtysh(&[command]);
        let all: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let peers = all.as_array().unwrap_or_else(|| panic!("{text}"));
        peers
            .iter()
            .find(|peer| peer["peer"].as_str().is_some_and(|peer| ip(peer) == ip(ours)))
            .cloned()
            .unwrap_or_default()
    }

    pub(crate) fn configure(&self, lines: &[&str]) {
        let said = self.vtysh(&[&["configure terminal"], lines].concat());
        assert!(!said.contains('%'), "{lines:?}: {said}");
    }

    pub(crate) fn kill_bfdd(&self) {
        let id = self.daemons.last().unwrap().id().to_string();
        Command::new("kill").args(["-KILL", &id]).status().unwrap();
    }

    fn vtysh(&self, commands: &[&str]) -> String {
        let path = self.directory.path();
        let mut command = Command::new("vtysh");
        command.arg("--vty_socket").arg(path).arg("--config_dir").arg(path).args(["-d", "bfdd"]);
        for line in commands {
            command.args(["-c", line]);
        }
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    }
}

impl Drop for Frr {
    fn drop(&mut self) {
        for child in self.daemons.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
