//! The unit: it loads, is hardened, and has its user and folders, as `systemd/check` says; and under a real systemd it takes
//! its VIP back within a second however edged ends, and has it again when edged is back. Judged by a router's kernel.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use edge_integration::datacentre::faults::Frozen;
use edge_integration::datacentre::routes::RouteWatch;
use edge_integration::edged::until;
use edge_integration::lab;
use edge_integration::machine::{self, Machine};
use edge_integration::manifests::{CLASS, gateway};
use edge_integration::rack::{Rack, TOR, address};
use edge_integration::router;

#[test]
fn the_unit_is_sound() {
    let check = concat!(env!("CARGO_MANIFEST_DIR"), "/../systemd/check");
    let output = Command::new(check).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => eprintln!("{}", String::from_utf8_lossy(&output.stdout).trim()),
        // The convention for a check that cannot be made here.
        Some(77) => lab::skip("the_unit_is_sound", errors.trim()),
        _ => panic!("{errors}"),
    }
}

const VIP: &str = "198.51.100.1/32";
/// The router would keep what a gobgpd that was killed without a word had told it.
const SETTINGS: &str = r#"
[edge]
name = "a"

[[manifests]]
path = "manifests"

[[pool]]
name = "public"
addresses = ["198.51.100.1"]

[vips]
hold_down = "0s"

[bgp]
asn = 65101
router_id = "10.1.1.1"
graceful_shutdown = "0s"

[[bgp.peer]]
name = "tor"
address = "10.1.1.2"
asn = 65000
graceful_restart = "60s"

[[bgp.advertisement]]
name = "public"
pools = ["public"]
"#;

/// A promise that is kept in the time of the figures; here it must only be clear that no timer of BGP did it: the shortest
/// is the router's hold time of 9 seconds.
const AT_ONCE: Duration = Duration::from_secs(6);

struct Site {
    machine: Machine,
    watch: RouteWatch,
    _rack: Rack,
    /// Each has a systemd and a router.
    _alone: MutexGuard<'static, ()>,
}

/// A machine that announces its VIP; `None`: skipped, loudly.
fn site(scenario: &str, unit: &str) -> Option<Site> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(why) = machine::available().and_then(|()| router::available()) {
        lab::skip(scenario, &why);
        return None;
    }
    let config = TOR.replace(" bgp bestpath", " bgp graceful-restart\n bgp bestpath");
    let rack = Rack::start(&format!("sd-{scenario}"), &config)?;
    let site = [CLASS, &gateway("web", "    - {name: http, port: 80, protocol: HTTP}\n")].concat();
    let machine = Machine::start(&rack.edge, SETTINGS, &site, unit);
    let said = machine.systemctl(&["start", "edged"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let watch = RouteWatch::start(&rack.router, rack.tor.name(), VIP);
    let site = Site { machine, watch, _rack: rack, _alone: alone };
    site.is_announced();
    Some(site)
}

impl Site {
    fn is_announced(&self) {
        until("the router has the route", || (self.watch.now() == [address("10.1.1.1")]).then_some(()));
    }

    /// The VIP leaves the router at once; how long that took.
    fn leaves(&self, what: &str, since: Instant) {
        let took = self.watch.when(since, "the route is gone", |gateways| gateways.is_empty()).duration_since(since);
        eprintln!("{what} to the router's kernel: {took:?}");
        assert!(took < AT_ONCE, "{what}: {took:?}");
    }

    /// Another edged than this one announces it again, and nothing of the first is left.
    fn is_back(&self, before: u32, result: &str) {
        until("edged was started again", || {
            let machine = &self.machine;
            (machine.property("SubState") == "running" && machine.edged() != before).then_some(())
        });
        let log = self.machine.systemctl(&["status", "edged"]).stdout;
        assert!(self.machine.property("NRestarts") != "0", "{log}");
        self.is_announced();
        for (name, count) in [("edge-guard", 1), ("gobgpd", 1)] {
            until(&format!("{count} {name}"), || (self.machine.processes(name).len() == count).then_some(()));
        }
        eprintln!("{result}: edged was started again, and the VIP is back");
    }
}

#[test]
fn an_edged_that_systemd_kills_takes_its_vip_along() {
    let Some(site) = site("kill", "") else { return };
    let user = std::fs::metadata(format!("/proc/{}", site.machine.edged())).unwrap();
    assert_ne!(std::os::unix::fs::MetadataExt::uid(&user), 0, "edged is not root");
    let before = site.machine.edged();
    let begun = Instant::now();
    let said = site.machine.systemctl(&["kill", "--signal=KILL", "--kill-whom=main", "edged"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    site.leaves("SIGKILL by systemd", begun);
    site.is_back(before, "signal");

    // An orderly stop withdraws, and leaves no process.
    let begun = Instant::now();
    assert_eq!(site.machine.systemctl(&["stop", "edged"]).code, Some(0));
    site.leaves("systemctl stop", begun);
    assert_eq!(site.machine.property("Result"), "success");
    for name in ["edged", "edge-guard", "gobgpd"] {
        assert!(site.machine.processes(name).is_empty(), "{name} is left");
    }
}

#[test]
fn an_edged_that_the_watchdog_kills_has_lost_its_vip_before() {
    let Some(site) = site("watchdog", "[Service]\nWatchdogSec=5s\n") else { return };
    let before = site.machine.edged();
    let begun = Instant::now();
    // systemd wakes up what it sends SIGABRT to.
    let frozen = Frozen::new([before]);
    site.leaves("an edged that stands still", begun);
    until("the watchdog has bitten", || (site.machine.property("NRestarts") != "0").then_some(()));
    assert!(site.machine.log().contains("silent"), "the guard says why");
    drop(frozen);
    site.is_back(before, "watchdog");
}

#[test]
fn an_edged_that_the_kernel_kills_for_its_memory_takes_its_vip_along() {
    let Some(group) = MemoryGroup::new() else {
        return lab::skip("an_edged_that_the_kernel_kills", "no memory controller of version 1 to put edged into");
    };
    let Some(site) = site("oom", "") else { return };
    let before = site.machine.edged();
    group.take(before);
    let pressed = group.press(before);
    site.leaves("SIGKILL by the kernel, out of memory", pressed);
    site.is_back(before, "out of memory");
}

/// A group of processes that may have no more memory than they have; gone when dropped.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn new() -> Option<Self> {
        let path = PathBuf::from(format!("/sys/fs/cgroup/memory/edge-systemd-{}", std::process::id()));
        std::fs::create_dir(&path).ok()?;
        let group = Self(path);
        group.0.join("memory.oom_control").exists().then_some(group)
    }

    /// What a process has already is its old group's.
    fn take(&self, pid: u32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
        std::fs::write(self.0.join("memory.limit_in_bytes"), "65536").unwrap();
    }

    /// Makes it want more, by connections that it has to accept; the last moment before the kernel killed it.
    fn press(&self, pid: u32) -> Instant {
        let socket = format!("/proc/{pid}/root/run/edge/edged.sock");
        let is_killed = || {
            let said = std::fs::read_to_string(self.0.join("memory.oom_control")).unwrap();
            said.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count != "0"))
        };
        let mut kept = Vec::new();
        let mut alive = Instant::now();
        until("the kernel has killed it", || {
            kept.extend((0..10).filter_map(|_| UnixStream::connect(&socket).ok()));
            let now = Instant::now();
            if is_killed() {
                return Some(alive);
            }
            alive = now;
            None
        })
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            until("the group is empty", || std::fs::remove_dir(&self.0).ok());
        }
    }
}
