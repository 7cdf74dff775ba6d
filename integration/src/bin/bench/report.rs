//! Results as Markdown: the goals, a table for each scenario, the failures.

use std::collections::BTreeMap;

use crate::cells::Cell;
use crate::peers::Peer;
use crate::scenarios::{Scenario, What};
use crate::{goals, unit};

/// By scenario and proxy, the rounds in their order.
#[derive(Default)]
pub struct Results(BTreeMap<(&'static str, Peer), BTreeMap<usize, Cell>>);

/// Median and ends of some rounds.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub least: f64,
    pub middle: f64,
    pub most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.retain(|value| value.is_finite());
        values.sort_by(f64::total_cmp);
        let half = values.len() / 2;
        let upper = *values.get(half)?;
        let middle = if values.len().is_multiple_of(2) { (values.get(half - 1)? + upper) / 2.0 } else { upper };
        Some(Self { least: *values.first()?, middle, most: *values.last()? })
    }
}

impl Results {
    pub fn add(&mut self, scenario: &Scenario, peer: Peer, round: usize, cell: Cell) {
        self.0.entry((scenario.id, peer)).or_default().insert(round, cell);
    }

    pub fn failures(&self) -> u64 {
        self.0.values().flat_map(BTreeMap::values).flat_map(|cell| cell.failures.values()).sum()
    }

    fn cells(&self, scenario: &'static str, peer: Peer) -> impl Iterator<Item = (usize, &Cell)> {
        self.0.get(&(scenario, peer)).into_iter().flatten().map(|(round, cell)| (*round, cell))
    }

    /// Of the rounds that measured something.
    pub fn spread(&self, scenario: &'static str, peer: Peer, value: fn(&Cell) -> Option<f64>) -> Option<Spread> {
        let good = self.cells(scenario, peer).filter(|(_, cell)| cell.cost > 0.0);
        Spread::of(good.filter_map(|(_, cell)| value(cell)).collect())
    }

    /// Cost beside cost in the same round.
    pub fn ratio(&self, mine: (&'static str, Peer), other: (&'static str, Peer)) -> Option<Spread> {
        let theirs = self.0.get(&other)?;
        let pairs = self.cells(mine.0, mine.1).filter_map(|(round, cell)| Some((cell, theirs.get(&round)?)));
        Spread::of(pairs.filter(|(a, b)| a.cost > 0.0 && b.cost > 0.0).map(|(a, b)| a.cost / b.cost).collect())
    }
}

pub fn markdown(
    results: &Results,
    scenarios: &[&Scenario],
    peers: &[Peer],
    rounds: usize,
    seconds: f64,
    alone: bool,
) -> String {
    let versions: Vec<String> = peers.iter().map(|peer| format!("{} {}", peer.title(), peer.version())).collect();
    let mut text = format!("{}; {rounds} rounds of {seconds} s for every proxy and scenario.\n\n", versions.join("; "));
    let goals = goals::markdown(results, peers);
    if !goals.is_empty() {
        text += &format!("## Goals\n\nMedian of the rounds, in brackets the least and the most.\n\n{goals}\n");
    }
    text += "## Every scenario\n";
    for scenario in scenarios {
        // One table for the pairs that only compare with each other.
        match scenario.what {
            What::Logged(true) | What::Workers(2) | What::Syscalls { secure: true } => {}
            What::Logged(false) => text += &own(results, scenarios, peers, "log-off", "log-on", "Access log", ""),
            What::Workers(_) => {
                let how = if alone {
                    "Two workers have two CPUs of their own, the client and the origin others."
                } else {
                    "This machine has two CPUs, so the second worker shares its CPU with the client and the origin: \
                     requests per second cannot double here. What can be told is CPU per request: workers that share \
                     nothing spend the same, and throughput then grows with their number."
                };
                text += &own(results, scenarios, peers, "workers-1", "workers-2", "Workers", how);
            }
            What::Syscalls { .. } => text += &syscalls(results, peers),
            _ => text += &table(results, scenario, peers),
        }
    }
    let others = results.0.values().flat_map(BTreeMap::values).filter(|cell| cell.rate > 0.0).map(|cell| cell.others);
    if let Some(spread) = Spread::of(others.collect()) {
        text += &format!(
            "\nOf the proxy's CPU, others (the kernel's interrupts and other guests among them) had {:.0} % in the \
             median cell and {:.0} % in the worst.\n",
            spread.middle.max(0.0) * 100.0,
            spread.most * 100.0
        );
    }
    let failures = results.failures();
    text += &format!("\n{failures} responses were not the expected ones.\n");
    for ((scenario, peer), cells) in &results.0 {
        for (reason, times) in cells.values().flat_map(|cell| &cell.failures) {
            text += &format!("- {scenario}, {}: {times} x {reason}\n", peer.title());
        }
    }
    text
}

fn number(
    results: &Results,
    scenario: &Scenario,
    peer: Peer,
    digits: usize,
    value: fn(&Cell) -> Option<f64>,
) -> String {
    results
        .spread(scenario.id, peer, value)
        .map_or_else(|| "-".to_owned(), |spread| format!("{:.digits$}", spread.middle))
}

fn ratio_text(ratio: Option<Spread>) -> String {
    ratio.map_or_else(
        || "-".to_owned(),
        |ratio| format!("{:.2} ({:.2} to {:.2})", ratio.middle, ratio.least, ratio.most),
    )
}

fn table(results: &Results, scenario: &Scenario, peers: &[Peer]) -> String {
    let idle = matches!(scenario.what, What::Idle);
    let hosts = matches!(scenario.what, What::Hosts(_));
    let rate = if scenario.is_bulk() { "MB/s" } else { "requests/s" };
    let mut columns = vec!["proxy", unit(scenario), "÷ HAProxy"];
    if !idle {
        columns.extend([rate, "p50 µs", "p99 µs", "p99.9 µs"]);
    }
    columns.extend(["PSS MB", "peak RSS MB"]);
    if hosts {
        columns.push("reload to effect ms");
    }
    columns.push("failures");
    let mut text = format!("\n### {}\n\n| {} |\n| --- |", scenario.title, columns.join(" | "));
    text += &" ---: |".repeat(columns.len() - 1);
    text.push('\n');
    for peer in peers.iter().copied() {
        if results.cells(scenario.id, peer).next().is_none() {
            continue;
        }
        let cost = if scenario.is_bulk() { 3 } else { 1 };
        let mut row = vec![
            peer.title().to_owned(),
            number(results, scenario, peer, cost, |cell| Some(cell.cost)),
            ratio_text(results.ratio((scenario.id, peer), (scenario.id, Peer::Haproxy))),
        ];
        if !idle {
            row.extend([
                number(results, scenario, peer, 0, |cell| Some(cell.rate)),
                number(results, scenario, peer, 0, |cell| Some(cell.p50)),
                number(results, scenario, peer, 0, |cell| Some(cell.p99)),
                number(results, scenario, peer, 0, |cell| Some(cell.p999)),
            ]);
        }
        row.push(number(results, scenario, peer, 1, |cell| Some(cell.pss)));
        row.push(number(results, scenario, peer, 1, |cell| Some(cell.peak)));
        if hosts {
            row.push(number(results, scenario, peer, 1, |cell| cell.reload));
        }
        row.push(failures_of(results, scenario.id, peer).to_string());
        text += &format!("| {} |\n", row.join(" | "));
    }
    text
}

fn failures_of(results: &Results, scenario: &'static str, peer: Peer) -> u64 {
    results.cells(scenario, peer).flat_map(|(_, cell)| cell.failures.values()).sum()
}

/// Edge beside itself.
fn own(
    results: &Results,
    scenarios: &[&Scenario],
    peers: &[Peer],
    base: &'static str,
    other: &'static str,
    title: &str,
    how: &str,
) -> String {
    let mut text = format!("\n### {title}\n\n");
    if !how.is_empty() {
        text += &format!("{how}\n\n");
    }
    text += "| what | CPU µs | ÷ the first | requests/s | p50 µs | p99 µs | p99.9 µs | failures |\n| --- |";
    text += &" ---: |".repeat(7);
    text.push('\n');
    for peer in peers.iter().copied().filter(|peer| peer.is_edge()) {
        for scenario in scenarios.iter().filter(|scenario| scenario.id == base || scenario.id == other) {
            text += &format!(
                "| {} ({}) | {} | {} | {} | {} | {} | {} | {} |\n",
                scenario.title,
                peer.title(),
                number(results, scenario, peer, 1, |cell| Some(cell.cost)),
                ratio_text(results.ratio((scenario.id, peer), (base, peer))),
                number(results, scenario, peer, 0, |cell| Some(cell.rate)),
                number(results, scenario, peer, 0, |cell| Some(cell.p50)),
                number(results, scenario, peer, 0, |cell| Some(cell.p99)),
                number(results, scenario, peer, 0, |cell| Some(cell.p999)),
                failures_of(results, scenario.id, peer),
            );
        }
    }
    text
}

fn syscalls(results: &Results, peers: &[Peer]) -> String {
    let mut text = String::from(
        "\n### System calls per request\n\nCounted by strace over 8,000 requests on 64 connections. strace slows a proxy \
         down, so that less is batched than without it: read the figures as upper bounds.\n\n\
         | proxy | HTTP/1.1 | HTTPS |\n| --- | ---: | ---: |\n",
    );
    for peer in peers.iter().copied() {
        let one = |scenario| {
            let spread = results.spread(scenario, peer, |cell| Some(cell.cost));
            spread.map_or_else(|| "-".to_owned(), |spread| format!("{:.2}", spread.middle))
        };
        text += &format!("| {} | {} | {} |\n", peer.title(), one("syscalls"), one("syscalls-tls"));
    }
    text
}
