//! Which wires the flows of clients come in by: counted at the edges, one by one, as tcpdump sees them.
//!
//! Flows in: edges with their wires to both routers. Flows out: for each wire how many connections began (SYN) and how many
//! datagrams came, by VIP.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{DataCentre, UDP_PORT};
use crate::edged::until;

/// The edge's name and the router's number.
pub type Wire = (&'static str, u8);

/// Counts until it is dropped.
pub struct Wires(Vec<(Wire, Listener)>);

struct Listener {
    process: Child,
    counts: Arc<Mutex<Counts>>,
}

/// Of what came at this moment or later, by the kernel's clock: tcpdump tells of it a while after the fact.
#[derive(Default)]
struct Counts {
    since: Duration,
    by_address: BTreeMap<IpAddr, usize>,
}

impl Wires {
    /// Returns when all of them are listened to.
    pub fn start(centre: &DataCentre) -> Self {
        let wires = centre.edges.iter().flat_map(|edge| [1, 2].map(|router| ((edge.name, router), edge.namespace())));
        Self(wires.map(|(wire, space)| (wire, Listener::start(space, &format!("tor{}", wire.1)))).collect())
    }

    /// What has come for a VIP by each wire; wires without anything are there, too.
    pub fn to(&self, vip: IpAddr) -> BTreeMap<Wire, usize> {
        let count =
            |listener: &Listener| listener.counts.lock().unwrap().by_address.get(&vip).copied().unwrap_or_default();
        self.0.iter().map(|(wire, listener)| (*wire, count(listener))).collect()
    }

    /// Begins again with nothing.
    pub fn clear(&self) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        for (_, listener) in &self.0 {
            *listener.counts.lock().unwrap() = Counts { since, ..Counts::default() };
        }
    }
}

impl Listener {
    fn start(namespace: &str, interface: &str) -> Self {
        // A first segment of TCP has SYN and no ACK; tcpdump knows the flags of IPv4 by name, those of IPv6 by place.
        let filter = format!(
            "(tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn) or (ip6[6] = 6 and ip6[53] & 0x12 = 2) or udp dst port {UDP_PORT}"
        );
        let mut process = Command::new("ip")
            .args([
                "netns",
                "exec",
                namespace,
                "tcpdump",
                "-n",
                "-tt",
                "-l",
                "--immediate-mode",
                "-Q",
                "in",
                "-i",
                interface,
            ])
            .arg(filter)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("tcpdump: {error}"));
        let ready = Arc::new(Mutex::new(false));
        let (errors, is_ready) = (process.stderr.take().unwrap(), Arc::clone(&ready));
        std::thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                *is_ready.lock().unwrap() |= line.contains("listening on");
            }
        });
        let counts = Arc::<Mutex<Counts>>::default();
        let (output, shared) = (process.stdout.take().unwrap(), Arc::clone(&counts));
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some((at, address)) = arrival(&line) {
                    let mut counts = shared.lock().unwrap();
                    if at >= counts.since {
                        *counts.by_address.entry(address).or_default() += 1;
                    }
                }
            }
        });
        until("tcpdump listens", || ready.lock().unwrap().then_some(()));
        Self { process, counts }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// When and where to in `1700000000.123456 IP 10.9.0.2.4000 > 198.51.100.1.80: Flags [S], …`.
fn arrival(line: &str) -> Option<(Duration, IpAddr)> {
    let (seconds, micros) = line.split_once(' ')?.0.split_once('.')?;
    let at = Duration::from_secs(seconds.parse().ok()?) + Duration::from_micros(micros.parse().ok()?);
    let (_, behind) = line.split_once(" > ")?;
    let word = behind.split(' ').next()?.strip_suffix(':')?;
    Some((at, word.rsplit_once('.')?.0.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals() {
        let at = Duration::new(1_700_000_000, 1_000);
        for (line, expected) in [
            ("1700000000.000001 IP 10.9.0.2.40000 > 198.51.100.1.80: Flags [S], seq 1", Some("198.51.100.1")),
            ("1700000000.000001 IP6 fd00:9::2.40000 > 2001:db8:cafe::1.80: Flags [S], seq 1", Some("2001:db8:cafe::1")),
            ("1700000000.000001 IP 10.9.0.2.40000 > 198.51.100.2.7001: UDP, length 1", Some("198.51.100.2")),
            ("", None),
        ] {
            assert_eq!(arrival(line), expected.map(|text| (at, text.parse().unwrap())), "{line}");
        }
    }
}
