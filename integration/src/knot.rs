//! Knot DNS on loopback: real zones, updates, secondaries.
//!
//! Flows in: zones in few words, keys, an address. Flows out: a server that answers, and what it answers. All servers of
//! a test share one port on different addresses of 127.0.0.0/8, since name servers are named by address alone.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::acme::ask;

pub const KNOTD: &str = "/usr/sbin/knotd";
const KNOTC: &str = "/usr/sbin/knotc";
const KDIG: &str = "/usr/bin/kdig";
const PATIENCE: Duration = Duration::from_secs(30);

/// A TSIG key: name, algorithm, secret in base64.
pub type Key = (&'static str, &'static str, &'static str);

/// A zone as the server has it.
#[derive(Debug, Clone, Default)]
pub struct Zone {
    pub name: &'static str,
    /// In the format of zone files, relative to the zone; the SOA is added. Empty for a secondary.
    pub records: String,
    /// Names of keys that may update it.
    pub updates: &'static [&'static str],
    /// Where a secondary gets it from.
    pub primary: Option<SocketAddr>,
}

/// A running server; dropped, it is stopped and its files are removed.
pub struct Knot {
    child: Child,
    directory: TempDir,
    pub address: SocketAddr,
}

impl Knot {
    /// Returns when it answers for all zones.
    pub fn start(address: SocketAddr, keys: &[Key], zones: &[Zone]) -> Self {
        let directory = tempfile::Builder::new().prefix("edge-knot-").tempdir().unwrap();
        let config = write(directory.path(), address, keys, zones);
        let child = Command::new(KNOTD)
            .arg("-c")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(directory.path().join("log")).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{KNOTD}: {error} (package knot)"));
        let knot = Self { child, directory, address };
        for zone in zones {
            let start = Instant::now();
            while !knot.dig(zone.name, "SOA").contains("SOA") {
                assert!(start.elapsed() < PATIENCE, "{} is not served:\n{}", zone.name, knot.log());
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        knot
    }

    /// What kdig prints in its short form.
    pub fn dig(&self, name: &str, kind: &str) -> String {
        let mut command = Command::new(KDIG);
        command.arg(format!("@{}", self.address.ip())).args(["-p", &self.address.port().to_string()]);
        // One try: whoever waits asks again.
        let output = command.args(["+time=2", "+retry=0", "+noall", "+answer", name, kind]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The TXT values at a name, sorted.
    pub fn texts(&self, name: &str) -> Vec<String> {
        let answer = self.dig(name, "TXT");
        let value = |line: &str| line.split('"').nth(1).map(str::to_owned);
        let mut values: Vec<String> = answer.lines().filter_map(value).collect();
        values.sort();
        values
    }

    /// A secondary asks its primary now.
    pub fn refresh(&self, zone: &str) {
        let socket = self.directory.path().join("knot.sock");
        let output = Command::new(KNOTC).arg("-s").arg(socket).args(["zone-refresh", zone]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Knot {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that is free on all these addresses, for UDP and TCP, and that nobody is given by chance.
pub fn free_port(addresses: &[&str]) -> u16 {
    for _ in 0..100 {
        let port = ask::free_port("", addresses[0].parse().unwrap());
        let free = |address: &&str| {
            let tcp = TcpListener::bind((*address, port));
            tcp.is_ok() && UdpSocket::bind((*address, port)).is_ok()
        };
        if addresses.iter().all(free) {
            return port;
        }
    }
    panic!("no port is free on {addresses:?}");
}

pub fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse::<IpAddr>().unwrap(), port)
}

fn write(directory: &Path, address: SocketAddr, keys: &[Key], zones: &[Zone]) -> PathBuf {
    let here = directory.display();
    let mut text = format!(
        "server:\n  rundir: {here}\n  listen: {}@{}\n  udp-workers: 1\n  tcp-workers: 2\n  background-workers: 1\n\
         log:\n- target: stderr\n  any: info\ndatabase:\n  storage: {here}\n",
        address.ip(),
        address.port()
    );
    text.push_str("key:\n");
    for (name, algorithm, secret) in keys {
        writeln!(text, "- id: {name}\n  algorithm: {algorithm}\n  secret: {secret}").unwrap();
    }
    text.push_str("remote:\n");
    for primary in zones.iter().filter_map(|zone| zone.primary) {
        let id = primary.ip().to_string().replace('.', "-");
        writeln!(text, "- id: primary-{id}\n  address: {}@{}\n  via: {}", primary.ip(), primary.port(), address.ip())
            .unwrap();
    }
    text.push_str("acl:\n- id: transfer\n  address: 127.0.0.0/8\n  action: transfer\n");
    for (name, ..) in keys {
        writeln!(text, "- id: update-{name}\n  key: {name}\n  action: update\n  update-type: TXT").unwrap();
    }
    text.push_str("template:\n- id: default\n");
    writeln!(text, "  storage: {here}\n  zonefile-load: whole\n  zonefile-sync: -1\n  journal-content: changes")
        .unwrap();
    text.push_str("zone:\n");
    for zone in zones {
        let mut acl = vec!["transfer".to_owned()];
        acl.extend(zone.updates.iter().map(|key| format!("update-{key}")));
        writeln!(text, "- domain: {}\n  acl: [{}]", zone.name, acl.join(", ")).unwrap();
        match zone.primary {
            Some(primary) => {
                writeln!(text, "  master: primary-{}", primary.ip().to_string().replace('.', "-")).unwrap();
            }
            None => {
                // Secondaries ask when a test says so.
                let soa = "@ 3600 SOA ns1 hostmaster 1 86400 86400 864000 60\n";
                let file = directory.join(format!("{}.zone", zone.name));
                let whole = format!("$ORIGIN {}.\n$TTL 60\n{soa}{}", zone.name, zone.records);
                std::fs::write(file, whole).unwrap();
            }
        }
    }
    let path = directory.join("knot.conf");
    std::fs::write(&path, text).unwrap();
    path
}
