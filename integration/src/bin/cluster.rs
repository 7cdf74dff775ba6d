//! `cluster`: the Kubernetes rig by hand, and the conformance suite on it.
//!
//! Flows in: `cluster up` or `cluster conformance [REGEX]`. Flows out: how to reach the rig, or a line per test, a
//! summary per profile and, after a whole run that passed, the report in `docs/conformance/`. Ends everything on a signal.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use edge_integration::cluster::process::{await_within, end_on_signals};
use edge_integration::cluster::suite::Run;
use edge_integration::cluster::{Channel, Cluster};
use edge_integration::edged::workspace;
use edge_integration::netns;

const USAGE: &str =
    "usage: cluster [--prefix TEXT] [--parallel N] up|node|control-plane|conformance [REGEX] [-- SUITE-FLAG…]
  up             control plane, node and edge, until a signal
  node           without the edge
  control-plane  without the edge and without a node
  conformance    the Gateway API's conformance suite, or those of its tests that match";

struct Options {
    prefix: String,
    parallel: usize,
    command: String,
    only: Option<String>,
    flags: Vec<String>,
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("cluster: {why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if let Err(why) = netns::available() {
        eprintln!("cluster: network namespaces are not to be had: {why}");
        return ExitCode::FAILURE;
    }
    end_on_signals();
    let dir = workspace().join("target/conformance").join(&options.prefix);
    let mut cluster = Cluster::start(&options.prefix, &dir);
    cluster.define(Channel::Experimental);
    println!("control plane: KUBECONFIG={}", cluster.control.admin().display());
    if options.command == "control-plane" {
        return stay(&mut cluster);
    }
    cluster.start_node();
    if options.command == "node" {
        return stay(&mut cluster);
    }
    cluster.start_edge();
    if options.command == "up" {
        println!("edge:          edgectl --socket {}", cluster.dir().join("edged.sock").display());
        return stay(&mut cluster);
    }
    conformance(&mut cluster, &options)
}

fn conformance(cluster: &mut Cluster, options: &Options) -> ExitCode {
    cluster.kubectl(&["wait", "--for=condition=Accepted", "--timeout=60s", "gatewayclass", "--all"]);
    let run = Run {
        only: options.only.clone(),
        parallel: options.parallel,
        limit: Duration::from_secs(3600),
        flags: options.flags.clone(),
    };
    let outcome = run.on(cluster, |line| println!("{line}"));
    println!("\n{}", outcome.summary());
    let failures: Vec<String> = outcome.said.iter().map(|(name, said)| format!("## {name}\n{said}\n")).collect();
    std::fs::write(cluster.dir().join("failures.txt"), failures.join("\n")).unwrap();
    if !outcome.passed() {
        println!("FAILED; what the tests said: {}", cluster.dir().join("failures.txt").display());
        return ExitCode::FAILURE;
    }
    if let Some(report) = &outcome.report {
        let name = format!("experimental-v{}-default-report.yaml", env!("CARGO_PKG_VERSION"));
        let path: PathBuf = workspace().join("docs/conformance").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, std::fs::read(report).unwrap()).unwrap();
        println!("report: {}", path.display());
    }
    println!("PASSED");
    ExitCode::SUCCESS
}

/// Until a signal, or until a part of the rig ends.
fn stay(cluster: &mut Cluster) -> ExitCode {
    println!("log files:     {}\nCtrl-C ends everything", cluster.dir().display());
    await_within(Duration::MAX, "a signal", || {
        cluster.must_live();
        None
    })
}

fn options(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options =
        Options { prefix: "rig".to_owned(), parallel: 4, command: String::new(), only: None, flags: Vec::new() };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word}: needs a value"));
        match word.as_str() {
            "--prefix" => options.prefix = value()?,
            "--parallel" => options.parallel = value()?.parse().map_err(|_| "--parallel: expected a number")?,
            "--" => options.flags = words.by_ref().collect(),
            "up" | "node" | "control-plane" | "conformance" if options.command.is_empty() => options.command = word,
            _ if options.command == "conformance" && options.only.is_none() && !word.starts_with('-') => {
                // An empty word is a make variable that was not set.
                options.only = Some(word).filter(|word| !word.is_empty());
            }
            _ => return Err(format!("{word}: not expected here")),
        }
    }
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    match options.command.as_str() {
        "" => Err("a command is missing".to_owned()),
        _ if options.prefix.is_empty() || options.prefix.len() > 12 || !is_plain(&options.prefix) => {
            Err(format!("--prefix {}: expected at most 12 letters, digits and -", options.prefix))
        }
        _ => Ok(options),
    }
}
