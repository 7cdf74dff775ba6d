//! `soak`: Edge at 60 % of what it can serve, for minutes, while everything about it changes.
//!
//! Flows in: `MINUTES` (10). Flows out: a Markdown table. HTTP/1.1 and HTTPS at a fixed rate, new TLS connections, HTTP/2
//! and WebSocket, all verified; meanwhile routes, endpoints and certificates change, each change awaited until clients
//! see it. Ends with failure where one exchange failed or memory grew by more than 10 % after the warm-up.
//!
//! edged has one worker and the first CPU to itself; everybody else shares the second.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod churn;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use churn::{Churn, STEADY};
use edge_integration::client::Tls;
use edge_integration::edged::Edged;
use edge_integration::engine::{Clock, FastOrigin};
use edge_integration::engine::{
    Driver, HOST, Kind, Opening, Outcome, Pace, TlsPlan, Work, allowed_cpus, open_files, pin, resident, spent,
};
use edge_integration::lab::{HTTP, HTTPS, Lab};
use edge_integration::load::{Load, Plan};
use edge_integration::pki;

/// Share of the measured capacity.
const SHARE: f64 = 0.6;
/// New TLS connections per second, beside the rest.
const NEW_CONNECTIONS: f64 = 50.0;
const CAPACITY_TIME: Duration = Duration::from_secs(5);
/// Memory may grow by this factor after the warm-up.
const GROWTH: f64 = 1.10;

fn main() -> ExitCode {
    pki::install_provider();
    let minutes = match std::env::var("MINUTES").map(|text| text.parse::<f64>()) {
        Err(_) => 10.0,
        Ok(Ok(minutes)) if minutes > 0.0 => minutes,
        Ok(_) => {
            eprintln!("soak: MINUTES: expected a number above 0");
            return ExitCode::from(2);
        }
    };
    if soak(Duration::from_secs_f64(minutes * 60.0)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn soak(time: Duration) -> bool {
    let cpus = allowed_cpus().unwrap();
    let (edge_cpu, rest) = cpus.split_first().unwrap();
    let others = if rest.is_empty() { vec![*edge_cpu] } else { rest.to_vec() };
    pin(&others).unwrap();
    let lab = Lab::new();
    let steady = lab.origin("steady");
    let origins: Vec<_> = (0..3).map(|_| FastOrigin::start().unwrap().address).collect();
    let mut churn = Churn::new(&lab, steady.address, origins);
    // What a thread starts inherits its CPUs.
    pin(&[*edge_cpu]).unwrap();
    let mut edged = lab.spawn();
    pin(&others).unwrap();
    edged.wait_port(lab.at(HTTP));
    edged.wait_port(lab.at(HTTPS));
    churn.wait_ready();

    let capacity = capacity(&lab, &churn);
    eprintln!("soak: can serve {:.0} HTTP and {:.0} HTTPS requests/s at once", capacity.0, capacity.1);
    let rates = (capacity.0 * SHARE, capacity.1 * SHARE);
    let warm = (time / 5).min(Duration::from_secs(60));
    let background = background(&lab, &churn);
    let loads = Loads::start(&lab, &churn, rates, time + warm);
    let pid = edged.pid();
    let clock = Clock { pid, core: *edge_cpu };
    let at_start = resident(pid, "VmRSS");
    let files_at_start = open_files(pid);

    let warmed = change_until(&mut churn, &edged, Instant::now() + warm);
    let files_warm = open_files(pid);
    let before = clock.now();
    let measured = change_until(&mut churn, &edged, Instant::now() + time);
    let usage = spent(&before, &clock.now());
    let files_at_end = open_files(pid);
    let results = loads.stop();
    let background = background.stop();
    let alive = edged.is_running();
    edged.terminate();

    let mut failures: BTreeMap<String, u64> = BTreeMap::new();
    println!("| load | exchanges | failed | p50 | p99 | p99.9 |\n| --- | ---: | ---: | ---: | ---: | ---: |");
    for (name, outcome) in &results {
        row(name, outcome.requests, outcome.failed(), &outcome.latency);
        for (reason, times) in &outcome.failures {
            *failures.entry(format!("{name}: {reason}")).or_default() += times;
        }
    }
    for (name, latency) in &background.latency {
        let of_kind = background.failures.iter().filter(|(reason, _)| reason.starts_with(name));
        row(name, latency.count(), of_kind.map(|(_, times)| times).sum(), latency);
    }
    for (reason, times) in &background.failures {
        *failures.entry(reason.clone()).or_default() += times;
    }
    for (reason, times) in &churn.failures {
        *failures.entry(reason.clone()).or_default() += times;
    }
    let after_warm_up = middle(tail(&warmed));
    let at_end = middle(tail(&measured));
    let grown = at_end as f64 / after_warm_up.max(1) as f64;
    println!("\n| what | measured |\n| --- | --- |");
    println!("| time, after a warm-up of {:.0} s | {:.1} min |", warm.as_secs_f64(), time.as_secs_f64() / 60.0);
    println!("| load | {:.0} HTTP and {:.0} HTTPS requests/s, {:.0} % of capacity |", rates.0, rates.1, SHARE * 100.0);
    println!("| CPU of edged | {:.0} % of one |", usage.cpu.as_secs_f64() / usage.wall.as_secs_f64() * 100.0);
    println!("| changes that took effect | {} |", churn.summary());
    println!("| change to effect, p50, p99 | {:?}, {:?} |", churn.effect.quantile(0.5), churn.effect.quantile(0.99));
    println!(
        "| RSS at start, after warm-up, at the end | {:.1}, {:.1}, {:.1} MB ({:+.1} % after warm-up) |",
        at_start as f64 / 1e3,
        after_warm_up as f64 / 1e3,
        at_end as f64 / 1e3,
        (grown - 1.0) * 100.0
    );
    println!("| open files at start, after warm-up, at the end | {files_at_start}, {files_warm}, {files_at_end} |");
    let failed: u64 = failures.values().sum();
    println!("| failed exchanges and changes | {failed} |");
    for (reason, times) in &failures {
        println!("- {times} x {reason}");
    }
    if !alive {
        println!("- edged ended by itself");
    }
    let silent = results.iter().any(|(_, outcome)| outcome.requests == 0) || background.exchanges() == 0;
    if silent {
        println!("- a load did nothing");
    }
    if grown > GROWTH {
        println!("- memory grew by more than {:.0} %", (GROWTH - 1.0) * 100.0);
    }
    alive && !silent && failed == 0 && grown <= GROWTH
}

fn row(name: &str, exchanges: u64, failed: u64, latency: &edge_integration::engine::Histogram) {
    let at = |share| latency.quantile(share).as_micros();
    println!("| {name} | {exchanges} | {failed} | {} µs | {} µs | {} µs |", at(0.5), at(0.99), at(0.999));
}

/// Changes one thing after the other; memory about once a second, in kB.
fn change_until(churn: &mut Churn<'_>, edged: &Edged, end: Instant) -> Vec<u64> {
    let mut memory = Vec::new();
    let mut next_sample = Instant::now();
    while Instant::now() < end {
        churn.change(edged);
        if Instant::now() >= next_sample {
            memory.push(resident(edged.pid(), "VmRSS"));
            next_sample += Duration::from_secs(1);
        }
        // A rate of changes, not a wait for one.
        std::thread::sleep(Duration::from_millis(150));
    }
    memory.push(resident(edged.pid(), "VmRSS"));
    memory
}

/// The last ten seconds of samples.
fn tail(samples: &[u64]) -> &[u64] {
    samples.get(samples.len().saturating_sub(10)..).unwrap_or_default()
}

fn middle(samples: &[u64]) -> u64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn plan(churn: &Churn<'_>) -> TlsPlan {
    TlsPlan::with(pki::client(churn.authority(), &["http/1.1"], None).unwrap(), false)
}

fn work(lab: &Lab, opening: Opening, connections: usize, once: bool) -> Work {
    let port = if matches!(opening, Opening::Plain) { HTTP } else { HTTPS };
    Work { address: lab.at(port), opening, kind: Kind::Download(1024), connections, hosts: 1, once }
}

/// HTTP and HTTPS requests per second when both are asked as fast as they answer, beside the rest of the load.
fn capacity(lab: &Lab, churn: &Churn<'_>) -> (f64, f64) {
    let beside = background(lab, churn);
    let opening = Opening::Tls(plan(churn));
    let secure = Driver::new(work(lab, opening, 32, false), Pace::Closed).unwrap();
    let plain = Driver::new(work(lab, Opening::Plain, 32, false), Pace::Closed).unwrap();
    let threads = [plain, secure].map(|mut driver| {
        std::thread::spawn(move || {
            driver.run(Duration::from_secs(1), u64::MAX).unwrap();
            driver.run(CAPACITY_TIME, u64::MAX).unwrap()
        })
    });
    let [plain, secure] = threads.map(|thread| thread.join().unwrap());
    let tally = beside.stop();
    let failed = plain.failed() + secure.failed() + tally.failures.values().sum::<u64>();
    assert!(failed == 0, "already at rest: {:?} {:?} {:?}", plain.failures, secure.failures, tally.failures);
    (plain.requests as f64 / plain.seconds, secure.requests as f64 / secure.seconds)
}

/// HTTP/2 and WebSocket, to the origin that stays.
fn background(lab: &Lab, churn: &Churn<'_>) -> Load {
    let config = pki::client(churn.authority(), &["h2", "http/1.1"], None).unwrap();
    let plan = Plan {
        http: lab.at(HTTP),
        https: Some((lab.at(HTTPS), Tls { config, server_name: Some(STEADY.to_owned()) })),
        host: STEADY.to_owned(),
        backend: "steady".to_owned(),
        h1: 2,
        h2: 6,
        websockets: 6,
        every: Duration::from_millis(10),
    };
    Load::start(plan).unwrap()
}

/// The loads at a fixed rate, a thread each.
struct Loads {
    stop: Arc<AtomicBool>,
    threads: Vec<(&'static str, JoinHandle<Outcome>)>,
}

impl Loads {
    fn start(lab: &Lab, churn: &Churn<'_>, rates: (f64, f64), time: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let table = [
            ("HTTP/1.1, kept alive", Opening::Plain, false, rates.0),
            ("HTTPS, kept alive", Opening::Tls(plan(churn)), false, rates.1),
            ("HTTPS, new connections", Opening::Tls(plan(churn)), true, NEW_CONNECTIONS),
        ];
        let threads = table.into_iter().map(|(name, opening, once, rate)| {
            let mut driver = Driver::new(work(lab, opening, 32, once), Pace::Rate(rate)).unwrap();
            let stopped = stop.clone();
            // Longer than needed, since changes take time too; the flag ends it.
            let limit = time * 2 + Duration::from_secs(60);
            (name, std::thread::spawn(move || driver.run_until(limit, &stopped).unwrap()))
        });
        Self { threads: threads.collect(), stop }
    }

    fn stop(self) -> Vec<(&'static str, Outcome)> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|(name, thread)| (name, thread.join().unwrap())).collect()
    }
}

/// The host that the loads at a fixed rate ask for.
const LOADED: &str = HOST;
