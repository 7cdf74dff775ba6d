//! The Gateway API conformance suite on a [`Cluster`], judged by its test lines.
//!
//! Flows in: which tests to run. Flows out: a verdict per test, what failed tests said, and a summary per profile. The
//! suite's own report is not the judge: v1.6.1 records parallel tests as passed before they have run.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use crate::cluster::edge::{CLASS, UNUSABLE, USABLE};
use crate::cluster::process::{Process, Program, check_interrupt};
use crate::cluster::{Cluster, Programs};

/// The one test function that all tests of the suite are parts of.
const ROOT: &str = "TestConformance";
const PROFILES: [&str; 5] = ["GATEWAY-HTTP", "GATEWAY-GRPC", "GATEWAY-TLS", "GATEWAY-TCP", "GATEWAY-UDP"];
/// What is kept of the output of one test, in lines.
const KEPT_LINES: usize = 60;

/// What the suite consists of, without the tests and features of meshes.
pub struct Inventory {
    pub features: Vec<String>,
    /// The profiles of each test, as `PROFILE/core` or `PROFILE/extended`.
    pub tests: BTreeMap<String, Vec<String>>,
}

impl Inventory {
    pub fn read(programs: &Programs) -> Self {
        let output = Command::new(programs.suite()).args(["-test.run", "^TestList$"]).output().unwrap();
        Self::parse(&String::from_utf8_lossy(&output.stdout))
    }

    fn parse(text: &str) -> Self {
        let mut inventory = Self { features: Vec::new(), tests: BTreeMap::new() };
        for line in text.lines() {
            let mut words = line.split_whitespace().map(str::to_owned);
            match (words.next().as_deref(), words.next()) {
                (Some("feature"), Some(name)) => inventory.features.push(name),
                (Some("test"), Some(name)) => drop(inventory.tests.insert(name, words.collect())),
                _ => {}
            }
        }
        inventory
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Pass,
    Fail,
    Skip,
}

/// Which part of the suite to run, and how.
pub struct Run {
    /// A regular expression over test names, as Go reads it; `None` runs everything and writes a report.
    pub only: Option<String>,
    /// How many of the tests that allow it run at the same time.
    pub parallel: usize,
    /// The suite ends itself after this time.
    pub limit: Duration,
    /// Further flags of the suite.
    pub flags: Vec<String>,
}

pub struct Outcome {
    pub inventory: Inventory,
    pub verdicts: BTreeMap<String, Verdict>,
    /// What the tests said that did not pass; what was said outside of tests is under the name of the suite.
    pub said: BTreeMap<String, String>,
    /// Written by the suite where everything was run.
    pub report: Option<PathBuf>,
    is_whole: bool,
    has_ended_well: bool,
}

impl Run {
    /// Runs on the client's host; prints a line per test when it ends.
    pub fn on(&self, cluster: &mut Cluster, mut progress: impl FnMut(&str)) -> Outcome {
        let inventory = Inventory::read(&cluster.programs);
        let report = self.only.is_none().then(|| cluster.dir().join("report.yaml"));
        let mut suite = Program::new(cluster.programs.suite())
            .env("KUBECONFIG", cluster.control.admin())
            .arg("-test.v=test2json")
            .arg(format!("-test.timeout={}s", self.limit.as_secs()))
            .arg(format!("-test.parallel={}", self.parallel))
            .arg(match &self.only {
                None => format!("-test.run=^{ROOT}$"),
                Some(only) => format!("-test.run=^{ROOT}$/({only})"),
            })
            .arg(format!("-gateway-class={CLASS}"))
            .arg(format!("-conformance-profiles={}", PROFILES.join(",")))
            .arg(format!("-usable-address={USABLE}"))
            .arg(format!("-unusable-address={UNUSABLE}"));
        if let Some(report) = &report {
            let about = ["organization=edge", "project=edge", "url=https://edge.internal", "contact=@edge"];
            suite = suite
                .args(about.map(|flag| format!("-{flag}")))
                .arg(format!("-version=v{}", env!("CARGO_PKG_VERSION")))
                .arg(format!("-report-output={}", report.display()));
        }
        let suite = suite.args(&self.flags);
        let log = cluster.log("suite");
        let mut copy = File::options().create(true).append(true).open(&log).unwrap();
        let (mut process, output) = Process::piped("suite", cluster.fabric.client.name(), &suite, &log);

        let (lines, queue) = sync_channel(1024);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
            }
        });
        let mut reading = Reading::default();
        let mut looked = Instant::now();
        loop {
            match queue.recv_timeout(Duration::from_secs(1)) {
                Ok(line) => {
                    writeln!(copy, "{line}").unwrap();
                    if let Some(end) = reading.line(&line)
                        && inventory.tests.contains_key(&end.test)
                    {
                        progress(&format!("{:?} {} {}", end.verdict, end.test, end.time));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if looked.elapsed() > Duration::from_secs(1) {
                check_interrupt();
                cluster.must_live();
                looked = Instant::now();
            }
        }
        reader.join().unwrap();
        let status = loop {
            match process.ended() {
                Some(status) => break status,
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        // The suite skips its tests of meshes by itself.
        reading.verdicts.retain(|name, _| inventory.tests.contains_key(name));
        Outcome {
            said: reading.said(),
            inventory,
            verdicts: reading.verdicts,
            report: report.filter(|path| path.exists()),
            is_whole: self.only.is_none(),
            has_ended_well: status.success(),
        }
    }
}

impl Outcome {
    /// Whether every test that was to run has a line that says it passed.
    pub fn passed(&self) -> bool {
        let passes = |name: &str| self.verdicts.get(name) == Some(&Verdict::Pass);
        let wanted = if self.is_whole { self.inventory.tests.len() } else { 1 };
        self.has_ended_well
            && self.verdicts.len() >= wanted
            && self.verdicts.values().all(|verdict| *verdict == Verdict::Pass)
            && (!self.is_whole || self.inventory.tests.keys().all(|name| passes(name)))
    }

    /// A line per profile and level, and one per test that did not pass.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        let count = |wanted: &dyn Fn(&[String]) -> bool| {
            let of = self.inventory.tests.iter().filter(|(_, profiles)| wanted(profiles));
            let (mut all, mut good) = (0, 0);
            for (name, _) in of {
                all += 1;
                good += usize::from(self.verdicts.get(name) == Some(&Verdict::Pass));
            }
            (good, all)
        };
        for profile in PROFILES {
            let at = |level: &str| count(&|profiles| profiles.iter().any(|name| *name == format!("{profile}/{level}")));
            let ((core, all_core), (extended, all_extended)) = (at("core"), at("extended"));
            let _ = writeln!(text, "{profile:13} core {core:>3}/{all_core:<3} extended {extended:>3}/{all_extended}");
        }
        let (good, all) = count(&|_| true);
        let _ = writeln!(text, "{:13} {good}/{all}", "all tests");
        for name in self.inventory.tests.keys() {
            match self.verdicts.get(name) {
                Some(Verdict::Pass) => {}
                None if !self.is_whole => {}
                verdict => {
                    let verdict = verdict.map_or("no result".to_owned(), |verdict| format!("{verdict:?}"));
                    let reason = self.said.get(name).map(|said| reason(said)).unwrap_or_default();
                    let _ = writeln!(text, "{verdict}: {name}: {reason}");
                }
            }
        }
        text
    }
}

/// The suite's output, one line after the other.
#[derive(Default)]
struct Reading {
    verdicts: BTreeMap<String, Verdict>,
    output: BTreeMap<String, VecDeque<String>>,
    /// The test that is speaking.
    current: String,
}

struct End {
    test: String,
    verdict: Verdict,
    time: String,
}

impl Reading {
    /// Takes a line; returns the test that has ended with it.
    fn line(&mut self, line: &str) -> Option<End> {
        let plain = line.trim_start_matches('\x16').trim();
        for marker in ["=== RUN", "=== CONT", "=== NAME", "=== PAUSE"] {
            if let Some(name) = plain.strip_prefix(marker) {
                self.current = test_of(name.trim()).unwrap_or(ROOT).to_owned();
                return None;
            }
        }
        for (marker, verdict) in
            [("--- PASS: ", Verdict::Pass), ("--- FAIL: ", Verdict::Fail), ("--- SKIP: ", Verdict::Skip)]
        {
            let Some(rest) = plain.strip_prefix(marker) else { continue };
            let (name, time) = rest.split_once(' ').unwrap_or((rest, ""));
            let test = test_of(name)?;
            if name.strip_prefix(ROOT).is_some_and(|rest| rest.strip_prefix('/') == Some(test)) {
                self.verdicts.insert(test.to_owned(), verdict);
                return Some(End { test: test.to_owned(), verdict, time: time.to_owned() });
            }
            if verdict != Verdict::Pass {
                self.keep(test.to_owned(), plain);
            }
            return None;
        }
        let current = if self.current.is_empty() { ROOT.to_owned() } else { self.current.clone() };
        self.keep(current, line);
        None
    }

    fn keep(&mut self, test: String, line: &str) {
        let lines = self.output.entry(test).or_default();
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    fn said(&self) -> BTreeMap<String, String> {
        let passed = |name: &String| self.verdicts.get(name) == Some(&Verdict::Pass);
        let told = self.output.iter().filter(|(name, _)| !passed(name));
        told.map(|(name, lines)| (name.clone(), lines.iter().cloned().collect::<Vec<_>>().join("\n"))).collect()
    }
}

/// The test of the suite in a name as `TestConformance/Name/part`.
fn test_of(name: &str) -> Option<&str> {
    name.strip_prefix(ROOT)?.strip_prefix('/')?.split('/').next()
}

/// The line of a failed test that tells most: what its assertion found, and where it says so its message.
fn reason(said: &str) -> String {
    let after = |label: &str| said.lines().find_map(|line| line.trim_start().strip_prefix(label).map(str::trim));
    let found = [after("Error:"), after("Messages:")];
    let found: Vec<&str> = found.into_iter().flatten().filter(|text| !text.is_empty()).collect();
    match found.is_empty() {
        false => found.join("; "),
        true => said.lines().last().unwrap_or_default().trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\x16=== RUN   TestConformance\n    suite.go:1: setting up\n\
        \x16=== RUN   TestConformance/One\n\x16=== PAUSE TestConformance/One\n\
        \x16=== RUN   TestConformance/Two\n\x16=== RUN   TestConformance/Two/part\n    x.go:7: \n\
        \tError:      \tCondition never satisfied\n\tMessages:   \tno address\n\
        \x16--- FAIL: TestConformance/Two/part (0.00s)\n\x16--- FAIL: TestConformance/Two (1.50s)\n\
        \x16=== CONT  TestConformance/One\n    y.go:1: fine\n\x16--- PASS: TestConformance/One (0.20s)\n\
        \x16--- SKIP: TestConformance/Three (0.00s)\n\x16--- FAIL: TestConformance (2.00s)\nFAIL\n";

    fn read() -> (Reading, Vec<String>) {
        let mut reading = Reading::default();
        let ends = OUTPUT.lines().filter_map(|line| reading.line(line));
        let told = ends.map(|end| format!("{:?} {} {}", end.verdict, end.test, end.time)).collect();
        (reading, told)
    }

    #[test]
    fn lines_become_verdicts() {
        let (reading, told) = read();
        assert_eq!(told, ["Fail Two (1.50s)", "Pass One (0.20s)", "Skip Three (0.00s)"]);
        let said = reading.said();
        assert_eq!(reason(&said["Two"]), "Condition never satisfied; no address");
        assert!(!said.contains_key("One"));
    }

    #[test]
    fn a_test_without_a_line_has_not_passed() {
        let inventory = "feature A\ntest One GATEWAY-HTTP/core\ntest Four GATEWAY-HTTP/extended\nPASS\n";
        let mut outcome = Outcome {
            inventory: Inventory::parse(inventory),
            verdicts: BTreeMap::from([("One".to_owned(), Verdict::Pass)]),
            said: BTreeMap::new(),
            report: None,
            is_whole: true,
            has_ended_well: true,
        };
        assert!(!outcome.passed());
        assert!(outcome.summary().contains("no result: Four"), "{}", outcome.summary());
        assert!(outcome.summary().contains("GATEWAY-HTTP  core   1/1   extended   0/1"), "{}", outcome.summary());
        outcome.verdicts.insert("Four".to_owned(), Verdict::Skip);
        assert!(!outcome.passed());
        outcome.verdicts.insert("Four".to_owned(), Verdict::Pass);
        assert!(outcome.passed());
        outcome.has_ended_well = false;
        assert!(!outcome.passed());
    }

    #[test]
    fn part_of_the_suite_needs_one_result() {
        let mut outcome = Outcome {
            inventory: Inventory::parse("test One\ntest Two\n"),
            verdicts: BTreeMap::new(),
            said: BTreeMap::new(),
            report: None,
            is_whole: false,
            has_ended_well: true,
        };
        assert!(!outcome.passed());
        outcome.verdicts.insert("One".to_owned(), Verdict::Pass);
        assert!(outcome.passed());
    }
}
