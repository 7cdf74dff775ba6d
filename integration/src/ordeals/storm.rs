//! Everything that goes wrong in a data centre with two edges, one after the other, under load: what is planned costs no
//! request, what is not costs a client no more than a moment, and nothing is left behind.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::Dice;
use crate::datacentre::faults::{BlackHole, Frozen, LinkDown};
use crate::datacentre::flows::{Ask, Flow, Flows, Tally};
use crate::datacentre::{BACKENDS, DataCentre, FLOWS_VIP, HOST, Plan, TCP_PORT, UDP_PORT, VIP};
use crate::edged::until;
use crate::trials::Findings;
use crate::trials::findings::millis;

/// For how long a client may be without an answer when an edge or its wire fails without a word: the slowest is BFD of
/// 3 × 300 ms and the router's work after it, on machines that are busy.
const GAP: Duration = Duration::from_secs(4);
/// Of so many requests one may be under way when its flow is moved, twice for each act. Connections live for milliseconds.
const MOVED: u64 = 500;
/// Before and after each fault.
const CALM: Duration = Duration::from_millis(700);
/// What memory may grow by between the first and the last look at one process: by a share, and what a process that has
/// just begun still gets.
const GROWTH: (u64, u64) = (10, 8 * 1024);
/// And open files: flows of UDP of the last minute, and kept connections to endpoints.
const FILES: usize = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Nothing changed and it is read again.
    Reload,
    /// A route more or less.
    Route,
    /// An endpoint goes, and comes back.
    Endpoint,
    /// `edgectl drain` and `undrain`.
    Drain,
    /// SIGTERM, and a start.
    Stop,
    /// SIGKILL of the guard.
    Guard,
    /// SIGKILL of gobgpd.
    Engine,
    /// SIGKILL of edged, and a start.
    Kill,
    /// SIGSTOP of edged for a while.
    Freeze,
    /// Nothing passes between an edge and a router.
    Hole,
    /// The wire has no carrier at the edge.
    Link,
}

pub const ALL: [Fault; 11] = [
    Fault::Reload,
    Fault::Route,
    Fault::Endpoint,
    Fault::Drain,
    Fault::Stop,
    Fault::Guard,
    Fault::Engine,
    Fault::Kill,
    Fault::Freeze,
    Fault::Hole,
    Fault::Link,
];

impl Fault {
    /// The word by which one is asked for.
    pub fn word(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reload => "reload",
            Self::Route => "a route changes",
            Self::Endpoint => "an endpoint goes and returns",
            Self::Drain => "drain and return of an edge",
            Self::Stop => "stop and start of an edge",
            Self::Guard => "SIGKILL of the guard",
            Self::Engine => "SIGKILL of gobgpd",
            Self::Kill => "SIGKILL of edged",
            Self::Freeze => "edged frozen",
            Self::Hole => "black hole between edge and router",
            Self::Link => "link down at an edge",
        }
    }

    /// What it may cost.
    fn price(self) -> Price {
        match self {
            Self::Reload | Self::Route | Self::Endpoint | Self::Guard => Price::Nothing,
            Self::Drain | Self::Stop => Price::Moved,
            Self::Engine | Self::Kill | Self::Freeze | Self::Hole | Self::Link => Price::Moment,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Price {
    /// Not a single request.
    Nothing,
    /// Exchanges that were under way when routers moved their flow to the other edge, whose kernel does not know it.
    Moved,
    /// [`GAP`].
    Moment,
}

/// What became of one kind of fault.
#[derive(Debug, Default)]
struct Toll {
    times: u64,
    asked: u64,
    lost: u64,
    longest_gap: Duration,
    reasons: BTreeMap<String, u64>,
}

/// The first and the last look at one process.
#[derive(Debug, Clone, Copy)]
struct Looks {
    memory: (u64, u64),
    files: (usize, usize),
    times: usize,
}

/// Goes on for this time, and at least until each kind of `faults` was there once.
pub fn storm(findings: &mut Findings, faults: &[Fault], time: Duration, seed: u64) {
    let plan = Plan { has_bfd: true, hold_down: "100ms", graceful_shutdown: "1s", ..Plan::plain(2) };
    let mut storm = Storm { centre: DataCentre::start(plan), dice: Dice::new(seed), changes: 0 };
    storm.settle();
    let mut tolls: BTreeMap<Fault, Toll> = BTreeMap::new();
    let mut processes: BTreeMap<(&'static str, u32), Looks> = BTreeMap::new();
    let end = Instant::now() + time;
    let mut left: Vec<Fault> = faults.to_vec();
    while Instant::now() < end || !left.is_empty() {
        // In rounds, each in an order of its own.
        if left.is_empty() {
            left = faults.to_vec();
        }
        let next = usize::try_from(storm.dice.below(left.len() as u64)).unwrap_or_default();
        let fault = left.swap_remove(next);
        let edge = *storm.dice.pick(&["a", "b"]);
        let flows = storm.load();
        std::thread::sleep(CALM);
        storm.happen(fault, edge);
        storm.settle();
        std::thread::sleep(CALM);
        let toll = tolls.entry(fault).or_default();
        toll.add(&flows.stop(), fault, edge);
        for edge in &mut storm.centre.edges {
            let name = edge.name;
            let edged = edge.edged();
            let (memory, files) = (edged.memory("VmRSS"), edged.open_files());
            let looks = processes.entry((name, edged.pid())).or_insert(Looks {
                memory: (memory, memory),
                files: (files, files),
                times: 0,
            });
            (looks.memory.1, looks.files.1) = (memory, files);
            looks.times += 1;
        }
    }
    report(findings, &tolls, &processes);
}

fn report(findings: &mut Findings, tolls: &BTreeMap<Fault, Toll>, processes: &BTreeMap<(&'static str, u32), Looks>) {
    for (fault, toll) in tolls {
        let what = format!("{} ({} times)", fault.as_str(), toll.times);
        match fault.price() {
            Price::Nothing => findings.none(format!("{what}: requests lost"), toll.asked, &toll.reasons),
            Price::Moved => findings.check(
                format!("{what}: requests lost"),
                format!("{} of {}", toll.lost, toll.asked),
                format!("≤ 1 of {MOVED}"),
                toll.asked > 0 && toll.lost * MOVED <= toll.asked,
            ),
            Price::Moment => findings.check(
                format!("{what}: longest time without an answer"),
                format!("{} ({} of {} lost)", millis(toll.longest_gap), toll.lost, toll.asked),
                format!("≤ {} s", GAP.as_secs()),
                toll.longest_gap <= GAP,
            ),
        }
    }
    let (share, more) = GROWTH;
    let grown: BTreeMap<String, u64> = processes
        .iter()
        .filter(|(_, looks)| looks.memory.1 > looks.memory.0 * (100 + share) / 100 + more)
        .map(|((edge, pid), looks)| {
            (format!("edge {edge}, process {pid}: {} to {} kB", looks.memory.0, looks.memory.1), 1)
        })
        .collect();
    let count = processes.len() as u64;
    findings.none(format!("processes whose memory grew by more than {share} % and {} MiB", more / 1024), count, &grown);
    let open: BTreeMap<String, u64> = processes
        .iter()
        .filter(|(_, looks)| looks.files.1 > looks.files.0 + FILES)
        .map(|((edge, pid), looks)| (format!("edge {edge}, process {pid}: {} to {}", looks.files.0, looks.files.1), 1))
        .collect();
    findings.none(format!("processes with more than {FILES} further open files"), count, &open);
    if let Some(looks) = processes.values().max_by_key(|looks| looks.times) {
        let ((before, after), (first, last)) = (looks.memory, looks.files);
        let what = format!("the process that lived longest, {} faults: memory, open files", looks.times);
        findings.note(what, format!("{before} → {after} kB, {first} → {last}"));
    }
}

impl Toll {
    fn add(&mut self, tallies: &[Tally], fault: Fault, edge: &str) {
        self.times += 1;
        for tally in tallies {
            self.asked += tally.asked;
            self.lost += tally.lost();
            self.longest_gap = self.longest_gap.max(tally.longest_gap);
            if tally.lost() > 0 {
                let told: u64 = tally.failures.values().sum();
                let mut note = |why: &str, times| {
                    *self.reasons.entry(format!("{} at edge {edge}: {why}", fault.as_str())).or_default() += times;
                };
                tally.failures.iter().for_each(|(why, times)| note(why, *times));
                // A datagram that does not come back says nothing.
                note("no answer", tally.lost().saturating_sub(told));
            }
        }
        self.reasons.retain(|_, times| *times > 0);
    }
}

struct Storm {
    centre: DataCentre,
    dice: Dice,
    changes: u32,
}

impl Storm {
    fn load(&self) -> Flows {
        let to = |vip: &str, port| SocketAddr::new(vip.parse().unwrap(), port);
        let (web, host, every) = (to(VIP, 80), HOST.to_owned(), Duration::from_millis(20));
        let mut flows = vec![Flow::new(Ask::Http { host: host.clone() }, web, every); 4];
        flows.extend(vec![Flow::new(Ask::HttpKept { host }, web, every); 4]);
        flows.extend(vec![Flow::new(Ask::Tcp, to(FLOWS_VIP, TCP_PORT), every); 2]);
        flows.extend(vec![Flow::new(Ask::Udp, to(FLOWS_VIP, UDP_PORT), every); 4]);
        Flows::start(self.centre.client(), flows)
    }

    /// Both edges are announced at both routers, and routers and edges see each other.
    fn settle(&self) {
        for vip in [VIP, FLOWS_VIP] {
            self.centre.wait_announced(&format!("{vip}/32"));
        }
        for router in &self.centre.routers {
            until("every session of BFD is up", || {
                (router.ask("show bfd peers brief").matches(" up").count() >= 2).then_some(())
            });
        }
    }

    fn happen(&mut self, fault: Fault, edge: &'static str) {
        eprintln!("  {} at edge {edge}", fault.as_str());
        let pause = Duration::from_millis(500 + self.dice.below(1500));
        match fault {
            Fault::Reload => self.reload(),
            Fault::Route => {
                self.changes += 1;
                let path = format!("/new-{}", self.changes);
                self.edit(|text| text.replacen("rules: [{ backendRefs", &extra(&path), 1));
                self.reload();
                std::thread::sleep(pause);
                self.edit(|text| text.replacen(&extra(&path), "rules: [{ backendRefs", 1));
                self.reload();
            }
            Fault::Endpoint => {
                let second = format!(", {{ addresses: [\"{}\"] }}", BACKENDS[1].1);
                self.edit(|text| text.replacen(&second, "", 1));
                self.reload();
                std::thread::sleep(pause);
                let first = format!("{{ addresses: [\"{}\"] }}", BACKENDS[0].1);
                self.edit(|text| text.replacen(&first, &format!("{first}{second}"), 1));
                self.reload();
            }
            Fault::Drain => {
                let said = self.centre.edge(edge).ctl(&["drain"]);
                assert_eq!(said.code, Some(0), "{said:?}");
                std::thread::sleep(pause);
                let said = self.centre.edge(edge).ctl(&["undrain"]);
                assert_eq!(said.code, Some(0), "{said:?}");
            }
            Fault::Stop => {
                self.centre.edge(edge).terminate();
                self.start(edge);
            }
            Fault::Guard => {
                self.centre.edge(edge).signal("edge-guard", Signal::KILL);
                until("another guard", || (self.centre.edge(edge).processes("edge-guard").len() == 1).then_some(()));
            }
            Fault::Engine => {
                let before = self.centre.edge(edge).processes("gobgpd");
                self.centre.edge(edge).signal("gobgpd", Signal::KILL);
                until("another gobgpd", || {
                    let now = self.centre.edge(edge).processes("gobgpd");
                    (now.len() == 1 && now != before).then_some(())
                });
            }
            Fault::Kill => {
                self.centre.edge(edge).kill();
                self.start(edge);
            }
            Fault::Freeze => {
                let pid = self.centre.edge(edge).edged().pid();
                let frozen = Frozen::new([pid]);
                std::thread::sleep(pause);
                drop(frozen);
            }
            Fault::Hole => {
                let router = if self.dice.below(2) == 0 { 1 } else { 2 };
                let hole = BlackHole::between(&self.centre.network, edge, router);
                std::thread::sleep(pause + Duration::from_secs(1));
                drop(hole);
            }
            Fault::Link => {
                let router = if self.dice.below(2) == 0 { 1 } else { 2 };
                let down = LinkDown::between(&self.centre.network, edge, router);
                std::thread::sleep(pause + Duration::from_secs(1));
                drop(down);
            }
        }
    }

    /// After the one before is gone with all its processes.
    fn start(&mut self, edge: &'static str) {
        for name in ["gobgpd", "edge-guard"] {
            until(&format!("{name} is gone"), || self.centre.edge(edge).processes(name).is_empty().then_some(()));
        }
        self.centre.edge(edge).restart();
        self.centre.edge(edge).edged().wait_shown();
    }

    fn reload(&mut self) {
        for edge in &mut self.centre.edges {
            edge.edged().apply();
        }
    }

    /// The manifests of both edges, which are the same.
    fn edit(&self, change: impl Fn(&str) -> String) {
        for edge in &self.centre.edges {
            let path = edge.directory().join("manifests/site.yaml");
            let text = std::fs::read_to_string(&path).unwrap();
            let changed = change(&text);
            assert_ne!(text, changed, "nothing was changed");
            // Beside the folder that is watched.
            let fresh = edge.directory().join("site.fresh");
            std::fs::write(&fresh, changed).unwrap();
            std::fs::rename(&fresh, &path).unwrap();
        }
    }
}

/// The beginning of the first HTTPRoute's rules, with one more before it.
fn extra(path: &str) -> String {
    format!(
        "rules: [{{ matches: [{{ path: {{ type: PathPrefix, value: {path} }} }}], backendRefs: [{{ name: shop, port: 80 }}] }}, \
         {{ backendRefs"
    )
}
