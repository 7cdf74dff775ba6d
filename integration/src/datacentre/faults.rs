//! What goes wrong in a data centre. Each fault ends when it is dropped.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use super::Network;
use crate::netns::ip;

/// No packet passes between an edge and a router any more; both ends still have a carrier.
pub struct BlackHole {
    fabric: String,
    port: String,
    bridge: String,
}

impl BlackHole {
    pub fn between(network: &Network, edge: &str, router: u8) -> Self {
        let bridge = format!("{edge}-tor{router}");
        let hole = Self { fabric: network.fabric.name().to_owned(), port: format!("{bridge}.e"), bridge };
        ip(&format!("-n {} link set dev {} nomaster", hole.fabric, hole.port)).unwrap();
        hole
    }

    /// The same for an edge at the segment `lan`.
    pub fn at_lan(network: &Network, edge: &str) -> Self {
        let port = format!("lan.{edge}");
        let hole = Self { fabric: network.fabric.name().to_owned(), port, bridge: "lan".to_owned() };
        ip(&format!("-n {} link set dev {} nomaster", hole.fabric, hole.port)).unwrap();
        hole
    }
}

impl Drop for BlackHole {
    fn drop(&mut self) {
        let _ = ip(&format!("-n {} link set dev {} master {}", self.fabric, self.port, self.bridge));
    }
}

/// An interface of a namespace is down, and the other end has no carrier.
pub struct LinkDown {
    fabric: String,
    port: String,
}

impl LinkDown {
    /// The wire of an edge to a router. The router's end keeps its carrier, as there is a switch between them.
    pub fn between(network: &Network, edge: &str, router: u8) -> Self {
        Self::port(network, format!("{edge}-tor{router}.e"))
    }

    /// The same at the router's end.
    pub fn at_router(network: &Network, edge: &str, router: u8) -> Self {
        Self::port(network, format!("{edge}-tor{router}.r"))
    }

    fn port(network: &Network, port: String) -> Self {
        let fabric = network.fabric.name().to_owned();
        ip(&format!("-n {fabric} link set dev {port} down")).unwrap();
        Self { fabric, port }
    }
}

impl Drop for LinkDown {
    fn drop(&mut self) {
        let _ = ip(&format!("-n {} link set dev {} up", self.fabric, self.port));
    }
}

/// Processes that do not run any more, and have not ended.
pub struct Frozen(Vec<Pid>);

impl Frozen {
    pub fn new(processes: impl IntoIterator<Item = u32>) -> Self {
        let processes: Vec<Pid> = processes.into_iter().filter_map(|pid| Pid::from_raw(pid.cast_signed())).collect();
        for pid in &processes {
            kill_process(*pid, Signal::STOP).unwrap();
        }
        Self(processes)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.0 {
            // It may have been killed meanwhile.
            let _ = kill_process(*pid, Signal::CONT);
        }
    }
}

/// One thread of a process stands still, the others do not.
pub struct FrozenThread(PathBuf);

impl FrozenThread {
    /// The thread of this name; `None` where the kernel has no freezer of version 1, which takes single threads.
    pub fn new(process: u32, name: &str) -> Option<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let group = PathBuf::from(format!("/sys/fs/cgroup/freezer/edge-frozen-{}-{number}", std::process::id()));
        fs::create_dir(&group).ok()?;
        let frozen = Self(group);
        if !frozen.0.join("freezer.state").exists() {
            return None;
        }
        let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap().map(|entry| entry.unwrap().path());
        let mut threads =
            threads.filter(|thread| fs::read_to_string(thread.join("comm")).is_ok_and(|found| found.trim() == name));
        let thread = threads.next().unwrap_or_else(|| panic!("{process} has no thread {name}"));
        fs::write(frozen.0.join("tasks"), thread.file_name().unwrap().as_encoded_bytes()).unwrap();
        fs::write(frozen.0.join("freezer.state"), "FROZEN").unwrap();
        Some(frozen)
    }
}

impl Drop for FrozenThread {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("freezer.state"), "THAWED");
        let threads = fs::read_to_string(self.0.join("tasks")).unwrap_or_default();
        for thread in threads.lines() {
            let _ = fs::write("/sys/fs/cgroup/freezer/tasks", thread);
        }
        let _ = fs::remove_dir(&self.0);
    }
}
