//! `acme-demo`: Genestack's certificates from nothing on two edges behind one anycast VIP, what `edgectl cert` says of them,
//! and what it says of ten names that cannot have one.
//!
//! Flows in: `acme-demo [flow|causes]`, both without any. Flows out: each step with its time; failure where a promise does
//! not hold. Needs root, frr, gobgpd, pebble and, for the flow, Genestack's files.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::panic)]

mod causes;
mod flow;

use std::process::ExitCode;
use std::time::Instant;

use edge_integration::cluster::process::end_on_signals;
use edge_integration::pki;

const USAGE: &str = "usage: acme-demo [flow|causes]";

fn main() -> ExitCode {
    let parts: Vec<String> = std::env::args().skip(1).collect();
    if let Some(part) = parts.iter().find(|part| !["flow", "causes"].contains(&part.as_str())) {
        eprintln!("acme-demo: {part}: no such part\n{USAGE}");
        return ExitCode::from(2);
    }
    let wants = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    end_on_signals();
    pki::install_provider();
    let mut outcome = Ok(());
    if wants("flow") {
        outcome = outcome.and(flow::show());
    }
    if wants("causes") {
        outcome = outcome.and(causes::show());
    }
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("acme-demo: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Prints what happens with the time since the beginning.
struct Steps(Instant);

impl Steps {
    fn begin(title: &str) -> Self {
        println!("\n== {title}\n");
        Self(Instant::now())
    }

    fn say(&self, what: &str) {
        println!("{:>7.2} s  {what}", self.0.elapsed().as_secs_f64());
    }
}

/// Output of a program, indented, below its command line.
fn quote(command: &str, text: &str) {
    println!("\n  $ {command}");
    for line in text.lines() {
        println!("  {line}");
    }
    println!();
}
