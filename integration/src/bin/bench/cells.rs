//! One measurement: one proxy, one scenario, one round.
//!
//! Flows in: a scenario and a proxy. Flows out: a [`Cell`]. A proxy is started for every cell and ended after it, so no
//! cell inherits another's connections or memory.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use edge_integration::engine::{
    Driver, Histogram, Kind, Opening, Outcome, Pace, TlsPlan, Usage, Work, pss, resident, spent, tracer, tree,
};

use crate::h2::H2Site;
use crate::peers::{Door, Peer, Running, Setup, Site};
use crate::scenarios::{Load, Scenario, What};

/// How long a proxy may be quiet before its memory is looked at.
const SETTLE: Duration = Duration::from_secs(3);

/// How long to look.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub warm: Duration,
    pub time: Duration,
}

/// What one round of one proxy gave. Times are in microseconds, sizes in MB.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    /// CPU µs per request, or CPU s per GB, or kB per connection, or system calls per request.
    pub cost: f64,
    /// Requests, or MB, per second.
    pub rate: f64,
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    /// Proportional memory right after the load, and the most that was resident.
    pub pss: f64,
    pub peak: f64,
    /// Share of the proxy's CPU that others had.
    pub others: f64,
    /// Configuration file changed to the first answer that shows it, in milliseconds.
    pub reload: Option<f64>,
    pub failures: BTreeMap<String, u64>,
}

impl Cell {
    pub fn fail(&mut self, why: &str, times: u64) {
        *self.failures.entry(why.to_owned()).or_default() += times;
    }

    pub fn failed(reason: &str) -> Self {
        let mut cell = Self::default();
        cell.fail(reason, 1);
        cell
    }

    /// Takes over a window in which `units` requests were done.
    pub fn spent(&mut self, usage: Usage, units: f64, latency: &Histogram) {
        if units <= 0.0 {
            self.fail("nothing was done", 1);
            return;
        }
        self.cost = usage.cpu.as_secs_f64() * 1e6 / units;
        self.rate = units / usage.wall.as_secs_f64();
        self.others = usage.others;
        let micros = |share| latency.quantile(share).as_secs_f64() * 1e6;
        (self.p50, self.p99, self.p999) = (micros(0.5), micros(0.99), micros(0.999));
    }

    fn memory(&mut self, pid: u32) {
        self.pss = pss(pid) as f64 / 1024.0;
        self.peak = tree(pid).iter().map(|pid| resident(*pid, "VmHWM")).sum::<u64>() as f64 / 1024.0;
    }
}

/// Everything a measurement needs.
pub struct Bench {
    pub site: Site,
    pub h2: H2Site,
    pub window: Window,
    /// Idle connections to open; fewer where open files are few.
    pub idle: usize,
    pub proxy_cpus: Vec<usize>,
}

impl Bench {
    pub fn measure(&self, scenario: &Scenario, peer: Peer) -> Option<Cell> {
        let needs_bytes = matches!(scenario.what, What::Load(Load { door: Door::ByName | Door::Tcp, .. }));
        let only_edge = matches!(scenario.what, What::Logged(_) | What::Workers(_));
        if (needs_bytes && !peer.passes_bytes()) || (only_edge && !peer.is_edge()) {
            return None;
        }
        let outcome = match scenario.what {
            What::Load(load) => self.load(peer, load, 1, &self.one_cpu(), false),
            What::Logged(access_log) => self.load(peer, Load::PLAIN, 1, &self.one_cpu(), access_log),
            What::Workers(workers) => {
                let cpus: Vec<usize> = self.proxy_cpus.iter().copied().take(workers).collect();
                self.load(peer, Load::PLAIN, workers, &cpus, false)
            }
            What::H2 { grpc } => self.start(peer, 1).map(|running| {
                let mut cell = self.h2.measure(&running, grpc, self.window);
                cell.memory(running.pid());
                cell
            }),
            What::Hosts(hosts) => self.hosts(peer, hosts),
            What::Idle => self.idle(peer),
            What::Syscalls { secure } => self.syscalls(peer, secure),
        };
        Some(outcome.unwrap_or_else(|reason| Cell::failed(&reason)))
    }

    fn one_cpu(&self) -> Vec<usize> {
        self.proxy_cpus.iter().copied().take(1).collect()
    }

    fn start(&self, peer: Peer, hosts: u32) -> Result<Running, String> {
        let cpus = self.one_cpu();
        Running::start(peer, &self.site, Setup { hosts, workers: 1, cpus: &cpus, access_log: false })
    }

    fn work(&self, running: &Running, load: Load) -> Result<Work, String> {
        let plan = |resume| TlsPlan::pinned(&self.site.pair.certificate, resume).map_err(|error| error.to_string());
        let opening = match load.door {
            Door::Http | Door::Tcp => Opening::Plain,
            Door::Https | Door::Grpc => Opening::Tls(plan(load.resume)?),
            Door::ByName => Opening::HelloOnly,
        };
        Ok(Work {
            address: running.door(load.door),
            opening,
            kind: load.kind,
            connections: load.connections,
            hosts: 1,
            once: load.once,
        })
    }

    fn load(&self, peer: Peer, load: Load, workers: usize, cpus: &[usize], log: bool) -> Result<Cell, String> {
        let setup = Setup { hosts: 1, workers, cpus, access_log: log };
        let running = Running::start(peer, &self.site, setup)?;
        let pace = load.rate.map_or(Pace::Closed, Pace::Rate);
        let driver = Driver::new(self.work(&running, load)?, pace).map_err(|error| error.to_string())?;
        let (mut cell, _driver) = self.watch(&running, driver, load.is_bulk())?;
        cell.memory(running.pid());
        Ok(cell)
    }

    /// Warms up, then takes the window between two samples.
    fn watch(&self, running: &Running, mut driver: Driver, bulk: bool) -> Result<(Cell, Driver), String> {
        let said = |error: std::io::Error| error.to_string();
        let warm = driver.run(self.window.warm, u64::MAX).map_err(said)?;
        let before = running.clock().now();
        let outcome = driver.run(self.window.time, u64::MAX).map_err(said)?;
        let after = running.clock().now();
        let mut cell = Cell::default();
        add_failures(&mut cell, &warm);
        add_failures(&mut cell, &outcome);
        let usage = spent(&before, &after);
        // Bytes count as they arrive: a window sees few whole bodies.
        let units = if bulk { outcome.bytes as f64 / 1e6 } else { outcome.requests as f64 };
        cell.spent(usage, units, &outcome.latency);
        if bulk {
            // µs per MB are ms per GB.
            cell.cost /= 1e3;
        }
        Ok((cell, driver))
    }

    /// Random hosts; then one host more, and how long until it is served.
    fn hosts(&self, peer: Peer, hosts: u32) -> Result<Cell, String> {
        let running = self.start(peer, hosts)?;
        let work = Work { hosts, ..self.work(&running, Load::PLAIN)? };
        let driver = Driver::new(work, Pace::Closed).map_err(|error| error.to_string())?;
        let (mut cell, driver) = self.watch(&running, driver, false)?;
        drop(driver);
        cell.memory(running.pid());
        let added = format!("h{hosts}.example.test");
        running.configure(hosts + 1)?;
        let begin = Instant::now();
        running.reload()?;
        while !running.serves(&added) {
            if begin.elapsed() > Duration::from_secs(30) {
                cell.fail("the added host is not served", 1);
                return Ok(cell);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        cell.reload = Some(begin.elapsed().as_secs_f64() * 1e3);
        Ok(cell)
    }

    /// TLS connections that did one request and then nothing: memory of each.
    fn idle(&self, peer: Peer) -> Result<Cell, String> {
        let said = |error: std::io::Error| error.to_string();
        let running = self.start(peer, 1)?;
        let secure = Load { door: Door::Https, ..Load::PLAIN };
        // Pools and caches first, so that they do not count as connections.
        Driver::new(self.work(&running, secure)?, Pace::Closed)
            .and_then(|mut driver| driver.run(self.window.warm, u64::MAX))
            .map_err(said)?;
        // What a proxy gives back when it is quiet, it may, before as well as after.
        std::thread::sleep(SETTLE);
        let before = pss(running.pid());
        let work = Work { connections: self.idle, ..self.work(&running, secure)? };
        let mut driver = Driver::new(work, Pace::Hold).map_err(said)?;
        let opened = driver.run(Duration::from_secs(60), self.idle as u64).map_err(said)?;
        let mut cell = Cell::default();
        add_failures(&mut cell, &opened);
        let quiet = driver.run(SETTLE, u64::MAX).map_err(said)?;
        add_failures(&mut cell, &quiet);
        let open = driver.open();
        if open < self.idle {
            cell.fail("a connection that was held is gone", (self.idle - open) as u64);
        }
        let grown = pss(running.pid()).saturating_sub(before);
        cell.cost = grown as f64 / open.max(1) as f64;
        cell.rate = opened.requests as f64 / opened.seconds.max(1e-9);
        cell.memory(running.pid());
        let alive = driver.ask_held(500.min(self.idle), Duration::from_secs(15)).map_err(said)?;
        add_failures(&mut cell, &alive);
        Ok(cell)
    }

    /// A fixed number of requests under `strace -c`.
    fn syscalls(&self, peer: Peer, secure: bool) -> Result<Cell, String> {
        const REQUESTS: u64 = 8000;
        let said = |error: std::io::Error| error.to_string();
        let running = self.start(peer, 1)?;
        let load = Load { door: if secure { Door::Https } else { Door::Http }, ..Load::PLAIN };
        let mut driver = Driver::new(self.work(&running, load)?, Pace::Closed).map_err(said)?;
        let warm = driver.run(self.window.warm, u64::MAX).map_err(said)?;
        let summary = tempfile::NamedTempFile::new().map_err(said)?;
        let pids = tree(running.pid());
        let mut strace = Command::new("strace");
        strace.args(["-f", "-c", "-qq", "-o"]).arg(summary.path());
        for pid in &pids {
            strace.arg("-p").arg(pid.to_string());
        }
        let mut strace = strace.stdin(Stdio::null()).stderr(Stdio::null()).spawn().map_err(said)?;
        let begin = Instant::now();
        while pids.iter().any(|pid| tracer(*pid) == 0) {
            if begin.elapsed() > Duration::from_secs(5) {
                let _ = strace.kill();
                let _ = strace.wait();
                return Err("strace cannot attach here".to_owned());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let outcome = driver.run(Duration::from_secs(30), REQUESTS).map_err(said);
        if let Some(pid) = i32::try_from(strace.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        }
        strace.wait().map_err(said)?;
        let outcome = outcome?;
        let text = fs::read_to_string(summary.path()).map_err(said)?;
        // "100.00    0.012345           1     32012        12 total", the errors may be missing.
        let total = text.lines().rfind(|line| line.trim_end().ends_with(" total")).unwrap_or_default();
        let calls = total.split_whitespace().nth(3).and_then(|word| word.parse::<f64>().ok());
        let mut cell = Cell::default();
        add_failures(&mut cell, &warm);
        add_failures(&mut cell, &outcome);
        match calls {
            Some(calls) if outcome.requests > 0 => cell.cost = calls / outcome.requests as f64,
            _ => cell.fail("strace counted nothing", 1),
        }
        Ok(cell)
    }
}

fn add_failures(cell: &mut Cell, outcome: &Outcome) {
    for (reason, times) in &outcome.failures {
        cell.fail(reason, *times);
    }
}

impl Load {
    /// What the others differ from.
    pub const PLAIN: Self =
        Self { door: Door::Http, kind: Kind::Download(1024), connections: 64, once: false, resume: false, rate: None };
}
