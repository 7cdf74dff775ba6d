//! `edge.toml` to [`Settings`]: every fault of the text at once, each with line and column. Text flows in, settings or
//! problems flow out; an unknown key is an error, and so is a value out of its range.
//! Standards: TOML 1.1, GEP-2257 (durations).

mod portion;
mod reader;
mod sections;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use crate::problem::{Origin, Problem, Severity};
use crate::settings::Settings;
pub use portion::{differences, portion, shared_keys};
use reader::{Section, Sink};

/// Decodes the text of `edge.toml`; `file` is its name in problems.
pub fn decode(file: &Arc<str>, text: &str) -> Result<Settings, Vec<Problem>> {
    let mut sink = Sink::new(text);
    let (table, faults) = DeTable::parse_recoverable(text);
    for fault in faults {
        sink.error(fault.span().unwrap_or(0..0), format!("not valid TOML: {}", fault.message()));
    }
    let settings = sections::settings(Section::root(table), &mut sink);
    let faults = sink.into_faults();
    if faults.is_empty() {
        return Ok(settings);
    }
    let problem = |(line, column, message): (u32, u32, String)| Problem {
        severity: Severity::Error,
        origin: Some(Origin { file: file.clone(), line, column }),
        object: None,
        message,
    };
    Err(faults.into_iter().map(problem).collect())
}

type Value<'i> = DeValue<'i>;
