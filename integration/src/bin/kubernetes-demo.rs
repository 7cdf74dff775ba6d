//! `kubernetes-demo`: what Edge promises of Kubernetes, at full length, and a table of what was measured.
//!
//! Flows in: how many routes, how long, which trials. Flows out: the table; failure where a promise does not hold.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::process::ExitCode;
use std::time::Duration;

use edge_integration::cluster::process::end_on_signals;
use edge_integration::edged::workspace;
use edge_integration::netns;
use edge_integration::trials::findings::millis;
use edge_integration::trials::{Field, Findings, faults, flip, outage, pair, probe, quarantine};

const USAGE: &str = "usage: kubernetes-demo [--prefix TEXT] [--routes N] [--samples N] [--churn PER-SECOND]
                       [--flip MINUTES] [--outage MINUTES] [TRIAL…]
trials: probe rest flip outage broken secret namespaces pair faults quarrel; all of them without any";
const TRIALS: [&str; 10] =
    ["probe", "rest", "flip", "outage", "broken", "secret", "namespaces", "pair", "faults", "quarrel"];
/// p99 from the API write to the first 200.
const GOAL: Duration = Duration::from_millis(50);
/// With 5,000 routes, in kB.
const MEMORY: u64 = 64 * 1024;

struct Options {
    prefix: String,
    routes: u32,
    samples: u32,
    churn: f64,
    flip: f64,
    outage: f64,
    trials: Vec<String>,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            prefix: "demo".to_owned(),
            routes: 5000,
            samples: 300,
            churn: 20.0,
            flip: 5.0,
            outage: 30.0,
            trials: Vec::new(),
        };
        while let Some(word) = words.next() {
            if TRIALS.contains(&word.as_str()) {
                options.trials.push(word);
                continue;
            }
            if !word.starts_with("--") {
                return Err(format!("{word}: no such trial"));
            }
            let value = words.next().ok_or_else(|| format!("{word}: needs a value"))?;
            let number = || value.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
            let positive = || number().ok_or_else(|| format!("{word} {value}: expected a number above 0"));
            let count = || value.parse::<u32>().ok().filter(|count| *count > 0);
            let whole = || count().ok_or_else(|| format!("{word} {value}: expected 1 or more"));
            match word.as_str() {
                "--prefix" => options.prefix.clone_from(&value),
                "--routes" => options.routes = whole()?,
                "--samples" => options.samples = whole()?,
                "--churn" => options.churn = positive()?,
                "--flip" => options.flip = positive()?,
                "--outage" => options.outage = positive()?,
                _ => return Err(format!("{word}: unknown option")),
            }
        }
        Ok(options)
    }

    fn wants(&self, trial: &str) -> bool {
        self.trials.is_empty() || self.trials.iter().any(|wanted| wanted == trial)
    }
}

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("kubernetes-demo: {why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if let Err(why) = netns::available() {
        eprintln!("kubernetes-demo: network namespaces are not to be had: {why}");
        return ExitCode::FAILURE;
    }
    end_on_signals();
    let dir = workspace().join("target/kubernetes-demo").join(&options.prefix);
    let mut field = Field::raise(&options.prefix, &dir, options.routes, false);
    let mut findings = Findings::default();
    field.inside(|field| direct(field, &options, &mut findings));
    if ["faults", "quarrel"].iter().any(|trial| options.wants(trial)) {
        field.lead_through_faults();
        field.inside(|field| faulty(field, &options, &mut findings));
    }
    println!("{}", findings.table());
    if findings.hold() {
        println!("every promise holds");
        return ExitCode::SUCCESS;
    }
    println!("BROKEN:\n{}", findings.broken().join("\n"));
    ExitCode::FAILURE
}

/// What is measured without anything between edged and the API server.
fn direct(field: &mut Field, options: &Options, findings: &mut Findings) {
    let routes = field.routes;
    findings.note(format!("{routes} routes: start of edged to all served"), millis(field.start));
    field.await_rest();
    if options.wants("probe") {
        let plan = |churn| probe::Plan { samples: options.samples, churn, goal: GOAL };
        probe::probe(field, &plan(0.0), findings);
        probe::probe(field, &plan(options.churn), findings);
    }
    if options.wants("rest") {
        field.await_rest();
        probe::rest(field, Duration::from_secs(60), MEMORY, findings);
    }
    let minutes = |minutes: f64| Duration::from_secs_f64(minutes * 60.0);
    if options.wants("flip") {
        flip::flip(field, minutes(options.flip), flip::IN_TIME, findings);
    }
    if options.wants("broken") {
        quarantine::broken_routes(field, 100, findings);
    }
    if options.wants("secret") {
        quarantine::secret(field, 60, findings);
    }
    if options.wants("namespaces") {
        quarantine::namespaces(field, 10, findings);
    }
    if options.wants("pair") {
        pair::pair(field, Duration::from_secs(60), findings);
    }
    if options.wants("outage") {
        outage::outage(field, minutes(options.outage), findings);
    }
}

fn faulty(field: &mut Field, options: &Options, findings: &mut Findings) {
    if options.wants("faults") {
        faults::faults(field, Duration::from_secs(10), false, findings);
    }
    if options.wants("quarrel") {
        faults::quarrel(field, Duration::from_secs(60), findings);
    }
}
