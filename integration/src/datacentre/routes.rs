//! When a route of a router's kernel changed: what the network believes, not what we said.
//!
//! Flows in: a namespace and a prefix. Flows out: the gateways of the prefix with the moment at which they became so, as
//! `ip monitor` tells it, a few milliseconds after the fact.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use crate::edged::{LIMIT, until};
use crate::router::Router;

/// Follows one prefix.
pub struct RouteWatch {
    monitor: Child,
    seen: Arc<Seen>,
    prefix: String,
}

#[derive(Default)]
struct Seen {
    history: Mutex<Vec<(Instant, Vec<IpAddr>)>>,
    changed: Condvar,
}

impl RouteWatch {
    /// `namespace` is the router's.
    pub fn start(router: &Router, namespace: &str, prefix: &str) -> Self {
        let mut monitor = Command::new("ip")
            .args(["-n", namespace, "-o", "monitor", "route"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let seen = Arc::<Seen>::default();
        // It hears nothing of what came before it subscribed; what changes between that and this look is told twice.
        until("the monitor listens", || is_subscribed(monitor.id()).then_some(()));
        seen.note(Instant::now(), router.gateways(prefix));
        let lines = BufReader::new(monitor.stdout.take().unwrap()).lines();
        let (shared, name) = (Arc::clone(&seen), prefix.to_owned());
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let now = Instant::now();
                if let Some(gateways) = event(&line, &name) {
                    shared.note(now, gateways);
                }
            }
        });
        Self { monitor, seen, prefix: prefix.to_owned() }
    }

    pub fn now(&self) -> Vec<IpAddr> {
        self.seen.history.lock().unwrap().last().map(|(_, gateways)| gateways.clone()).unwrap_or_default()
    }

    /// The first moment from `since` on at which the gateways were so.
    pub fn when(&self, since: Instant, what: &str, is_so: impl Fn(&[IpAddr]) -> bool) -> Instant {
        let end = Instant::now() + LIMIT;
        let mut history = self.seen.history.lock().unwrap();
        loop {
            let found = history.iter().find(|(at, gateways)| *at >= since && is_so(gateways));
            if let Some((at, _)) = found {
                return *at;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{}: {what}: {:?}", self.prefix, history.last());
            history = self.seen.changed.wait_timeout(history, left).unwrap().0;
        }
    }

    /// How often a change from `since` on left the route without this gateway.
    pub fn without(&self, since: Instant, gateway: IpAddr) -> usize {
        let history = self.seen.history.lock().unwrap();
        history.iter().filter(|(at, gateways)| *at >= since && !gateways.contains(&gateway)).count()
    }

    /// When the route changed, the first look included.
    pub fn moments(&self) -> Vec<Instant> {
        self.seen.history.lock().unwrap().iter().map(|(at, _)| *at).collect()
    }

    /// How often the route changed from `since` on.
    pub fn changes(&self, since: Instant) -> usize {
        self.seen.history.lock().unwrap().iter().filter(|(at, _)| *at >= since).count()
    }
}

impl Drop for RouteWatch {
    fn drop(&mut self) {
        let _ = self.monitor.kill();
        let _ = self.monitor.wait();
    }
}

impl Seen {
    fn note(&self, at: Instant, mut gateways: Vec<IpAddr>) {
        gateways.sort();
        self.history.lock().unwrap().push((at, gateways));
        self.changed.notify_all();
    }
}

/// Whether a process listens to groups of netlink, whose sockets are those of its own network namespace.
fn is_subscribed(process: u32) -> bool {
    let sockets = std::fs::read_to_string(format!("/proc/{process}/net/netlink")).unwrap_or_default();
    listens(&sockets, process)
}

/// Columns: socket, protocol (0 for routes), port, which is the first socket's process, groups in hexadecimal.
fn listens(sockets: &str, process: u32) -> bool {
    sockets.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().take(4).collect();
        let [_, "0", port, groups] = words.as_slice() else { return false };
        port.parse() == Ok(process) && u32::from_str_radix(groups, 16).is_ok_and(|groups| groups != 0)
    })
}

/// The gateways after an event about the prefix; none after its deletion.
fn event(line: &str, prefix: &str) -> Option<Vec<IpAddr>> {
    let (is_deleted, line) = match line.strip_prefix("Deleted ") {
        Some(rest) => (true, rest),
        None => (false, line),
    };
    let mut words = line.split(|c: char| c.is_whitespace() || c == '\\').filter(|word| !word.is_empty());
    let bare = |text: &str| text.trim_end_matches("/32").trim_end_matches("/128").to_owned();
    if bare(words.next()?) != bare(prefix) {
        return None;
    }
    if is_deleted {
        return Some(Vec::new());
    }
    let words: Vec<&str> = words.collect();
    let gateways = words.windows(3).filter(|window| window[0] == "via");
    // An IPv4 route by an IPv6 gateway says `via inet6 ADDRESS`.
    Some(gateways.filter_map(|window| window[1].parse().or_else(|_| window[2].parse()).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions() {
        let head = "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n";
        let table = |pid: &str, groups: &str| {
            format!("{head}0000000000000000 0   {pid}       {groups} 0        0        0     2        0        42\n")
        };
        assert!(listens(&table("4711", "00000440"), 4711));
        for (pid, groups) in [("4711", "00000000"), ("4712", "00000440"), ("x", "00000440")] {
            assert!(!listens(&table(pid, groups), 4711), "{pid} {groups}");
        }
        assert!(!listens(head, 4711));
    }

    #[test]
    fn events() {
        let gateways = |texts: &[&str]| Some(texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>());
        for (line, expected) in [
            ("198.51.100.1 via 10.1.1.1 dev a proto bgp metric 20 ", gateways(&["10.1.1.1"])),
            (
                "198.51.100.1 proto bgp metric 20 \\\tnexthop via 10.1.1.1 dev a weight 1 \\\tnexthop via 10.1.2.1 dev b weight 1 ",
                gateways(&["10.1.1.1", "10.1.2.1"]),
            ),
            ("198.51.100.1 via inet6 fe80::1 dev c proto bgp metric 20", gateways(&["fe80::1"])),
            ("Deleted 198.51.100.1 via 10.1.1.1 dev a proto bgp metric 20 ", gateways(&[])),
            ("198.51.100.10 via 10.1.1.1 dev a proto bgp metric 20 ", None),
            ("", None),
        ] {
            assert_eq!(event(line, "198.51.100.1/32"), expected, "{line}");
        }
    }
}
