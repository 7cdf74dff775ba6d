//! `bench`: Edge beside HAProxy, nginx, Envoy and Caddy on this machine, as Markdown.
//!
//! Every proxy has one worker on the first CPU; the client and the origin share the second. Rounds are interleaved, every
//! response is verified, and what is compared is the CPU time of the whole process tree per unit of work: unlike
//! requests per second it hardly moves with what else the machine does. `integration/bench/run` is the way to start it;
//! `integration/README.md` names the variables. Ends with failure where any response was not the expected one.

#![allow(clippy::print_stdout)]

mod cells;
mod goals;
mod h2;
mod peers;
mod report;
mod scenarios;

use std::fs::File;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use cells::{Bench, Window};
use edge_integration::engine::{FastOrigin, HOST, allowed_cpus, pin};
use edge_integration::pki::{self, Authority, Leaf};
use h2::H2Site;
use peers::{PEERS, Peer, Site};
use report::Results;
use scenarios::{SCENARIOS, Scenario};

fn main() -> ExitCode {
    match measure() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failures) => {
            eprintln!("bench: {failures} responses were not the expected ones");
            ExitCode::FAILURE
        }
        Err(problem) => {
            eprintln!("bench: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<u64, String> {
    pki::install_provider();
    let rounds = number("ROUNDS", 7.0)?.max(1.0) as usize;
    let seconds = number("SECONDS_EACH", 1.0)?.max(0.1);
    let scenarios = chosen("SCENARIOS", SCENARIOS, |scenario| scenario.id)?;
    let default: Vec<&Peer> = PEERS.iter().filter(|peer| **peer != Peer::Edge).collect();
    let peers = if std::env::var("PEERS").is_ok() { chosen("PEERS", &PEERS, |peer| peer.word())? } else { default };
    let (peers, missing): (Vec<&Peer>, Vec<&Peer>) = peers.into_iter().partition(|peer| peers::is_there(**peer));
    let peers: Vec<Peer> = peers.into_iter().copied().collect();
    for peer in missing {
        eprintln!("bench: {} is not there: {}", peer.title(), peer.binary().display());
    }
    let cpus = allowed_cpus().map_err(|error| error.to_string())?;
    let [first, second, more @ ..] = cpus.as_slice() else {
        return Err("two CPUs are needed: one for the proxy, one for client and origin".to_owned());
    };
    // The second worker of the one scenario that has two shares its CPU with the client unless there are more.
    let (client, origin) = match more {
        [] => (*second, *second),
        [third] => (*third, *third),
        [third, fourth, ..] => (*third, *fourth),
    };
    let limit = raise_open_files();
    let said = |error: std::io::Error| error.to_string();
    let authority = Authority::new("bench").map_err(said)?;
    let pair = authority.sign(&Leaf { dns: &[HOST], ..Leaf::default() }).map_err(said)?;
    pin(&[origin]).map_err(said)?;
    let site_origin = FastOrigin::start().map_err(said)?;
    let h2 = H2Site::start()?;
    pin(&[client]).map_err(said)?;
    let warm = Duration::from_secs_f64((seconds / 4.0).clamp(0.1, 0.5));
    let bench = Bench {
        site: Site { pair, origin: site_origin.address, h2c: h2.port },
        h2,
        window: Window { warm, time: Duration::from_secs_f64(seconds) },
        idle: 10_000.min(limit.saturating_sub(2000)),
        proxy_cpus: vec![*first, *second],
    };

    let mut rows = std::env::var_os("BENCH_ROUNDS").map(File::create).transpose().map_err(said)?;
    if let Some(file) = &mut rows {
        writeln!(file, "scenario\tround\tproxy\tcost\trate\tp50\tp99\tp999\tpss\tpeak\tothers\tfailures")
            .map_err(said)?;
    }
    let mut results = Results::default();
    for scenario in &scenarios {
        let rounds = scenario.rounds(rounds);
        for round in 0..rounds {
            for place in 0..peers.len() {
                // Another one is first in every round.
                let Some(peer) = peers.get((place + round) % peers.len()).copied() else { continue };
                let Some(cell) = bench.measure(scenario, peer) else { continue };
                let failures: u64 = cell.failures.values().sum();
                eprintln!(
                    "{} {}/{rounds} {}: cost {:.3}, {:.0}/s, p99 {:.0} µs, {failures} failures",
                    scenario.id,
                    round + 1,
                    peer.word(),
                    cell.cost,
                    cell.rate,
                    cell.p99
                );
                for (reason, times) in &cell.failures {
                    eprintln!("  {times} x {reason}");
                }
                if let Some(file) = &mut rows {
                    writeln!(
                        file,
                        "{}\t{round}\t{}\t{:.4}\t{:.1}\t{:.1}\t{:.1}\t{:.1}\t{:.2}\t{:.2}\t{:.3}\t{failures}",
                        scenario.id,
                        peer.word(),
                        cell.cost,
                        cell.rate,
                        cell.p50,
                        cell.p99,
                        cell.p999,
                        cell.pss,
                        cell.peak,
                        cell.others
                    )
                    .map_err(said)?;
                }
                results.add(scenario, peer, round, cell);
            }
        }
    }
    let alone = cpus.len() > 2;
    print!("{}", report::markdown(&results, &scenarios, &peers, rounds, seconds, alone));
    Ok(results.failures())
}

fn number(variable: &str, otherwise: f64) -> Result<f64, String> {
    match std::env::var(variable) {
        Err(_) => Ok(otherwise),
        Ok(text) => text.parse().map_err(|_| format!("{variable}={text}: expected a number")),
    }
}

/// The named ones, in the order of the table; all where nothing is named.
fn chosen<'a, T>(variable: &str, all: &'a [T], name: fn(&T) -> &'static str) -> Result<Vec<&'a T>, String> {
    let words = std::env::var(variable).unwrap_or_default();
    let words: Vec<&str> = words.split([',', ' ']).filter(|word| !word.is_empty()).collect();
    if let Some(unknown) = words.iter().find(|word| !all.iter().any(|one| name(one) == **word)) {
        let known: Vec<&str> = all.iter().map(name).collect();
        return Err(format!("{variable}: unknown word {unknown}, expected some of {}", known.join(", ")));
    }
    Ok(all.iter().filter(|one| words.is_empty() || words.contains(&name(one))).collect())
}

/// As many open files as the hard limit allows, here and in every child.
fn raise_open_files() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_err() {
        eprintln!("bench: the limit of open files stays as it is");
    }
    usize::try_from(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)).unwrap_or(usize::MAX)
}

/// Used by the report to tell what a scenario costs in.
fn unit(scenario: &Scenario) -> &'static str {
    match scenario.what {
        scenarios::What::Idle => "kB each",
        scenarios::What::Syscalls { .. } => "calls",
        _ if scenario.is_bulk() => "CPU s/GB",
        _ => "CPU µs",
    }
}
