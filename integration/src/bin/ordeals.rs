//! `ordeals`: what an edge lives through, at full length, and a table of what it cost.
//!
//! Flows in: how often edged is killed, how long things go wrong, the seed of their order. Flows out: the table, also into
//! a file; failure where a promise does not hold.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use edge_integration::cluster::process::end_on_signals;
use edge_integration::datacentre;
use edge_integration::ordeals::kills;
use edge_integration::ordeals::storm::{self, ALL, Fault};
use edge_integration::pki;
use edge_integration::trials::Findings;

const USAGE: &str = "usage: ordeals [--kills N] [--routes N] [--minutes M] [--seed N] [--faults WORD,…] [FILE]
0 kills or 0 minutes leave that ordeal out; faults, all without this option: ";

struct Options {
    kills: u32,
    routes: usize,
    minutes: f64,
    seed: u64,
    faults: Vec<Fault>,
    file: Option<PathBuf>,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self { kills: 500, routes: 5000, minutes: 120.0, seed: 1, faults: ALL.to_vec(), file: None };
        while let Some(word) = words.next() {
            if !word.starts_with("--") {
                options.file = Some(word.into());
                continue;
            }
            let value = words.next().ok_or_else(|| format!("{word}: needs a value"))?;
            let wrong = |_| format!("{word} {value}: expected a whole number");
            match word.as_str() {
                "--kills" => options.kills = value.parse().map_err(wrong)?,
                "--routes" => options.routes = value.parse().map_err(wrong)?,
                "--seed" => options.seed = value.parse().map_err(wrong)?,
                "--faults" => {
                    let fault = |word: &str| ALL.into_iter().find(|fault| fault.word() == word);
                    let known =
                        value.split(',').map(|word| fault(word).ok_or_else(|| format!("{word}: no such fault")));
                    options.faults = known.collect::<Result<_, _>>()?;
                }
                "--minutes" => {
                    let minutes = value.parse().ok().filter(|minutes: &f64| minutes.is_finite() && *minutes >= 0.0);
                    options.minutes = minutes.ok_or_else(|| format!("{word} {value}: expected a number of minutes"))?;
                }
                _ => return Err(format!("{word}: no such option")),
            }
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("ordeals: {error}\n{USAGE}{}", ALL.map(Fault::word).join(" "));
            return ExitCode::from(2);
        }
    };
    pki::install_provider();
    end_on_signals();
    let mut findings = Findings::aloud();
    if options.kills > 0 {
        kills::kills(&mut findings, options.kills, options.routes, options.seed);
    }
    if options.minutes > 0.0 {
        if let Err(why) = datacentre::available() {
            eprintln!("ordeals: no data centre here: {why}");
            return ExitCode::FAILURE;
        }
        storm::storm(&mut findings, &options.faults, Duration::from_secs_f64(options.minutes * 60.0), options.seed);
    }
    let optimised = if cfg!(debug_assertions) { "without optimisation" } else { "optimised" };
    let text = format!(
        "# What an edge lives through\n\nMade by `make ordeals`: {} times `kill -9` with {} routes, then {} minutes of faults in a \
         data centre of two routers and\ntwo edges, in an order that seed {} decides, under load; programs {optimised}, {} CPUs. A \
         planned act may cost no request,\nbut for exchanges under way on flows that routers move to the other edge; what fails without \
         a word may cost a client a\nmoment.\n\n{}",
        options.kills,
        options.routes,
        options.minutes,
        options.seed,
        std::thread::available_parallelism().map_or(0, usize::from),
        findings.table()
    );
    println!("{text}");
    if let Some(file) = &options.file
        && let Err(error) = std::fs::write(file, text)
    {
        eprintln!("ordeals: {}: {error}", file.display());
        return ExitCode::FAILURE;
    }
    if findings.hold() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
