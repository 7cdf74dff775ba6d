//! `edgectl log` and `edgectl loglevel`: the log of a running edged, and how much is in it.

use std::ops::ControlFlow;

use super::args::{Format, LogFilter};
use super::client::Client;
use super::run::{RunError, Terminal, write};
use super::show::log::line;
use super::yaml::to_yaml;
use crate::control::log::{Ask, Item};

/// Shows lines until there are no more, or nobody reads them.
pub fn log(client: &Client, filter: &LogFilter, format: Format, terminal: &mut Terminal<'_>) -> Result<u8, RunError> {
    let ask = Ask {
        lines: filter.lines,
        level: filter.level,
        modules: filter.module.clone(),
        text: filter.text.clone(),
        follow: filter.follow,
    };
    let body = serde_json::to_vec(&ask).unwrap_or_default();
    each(client, "/v1/log", body, |bytes| {
        let style = terminal.style;
        let text = shown(bytes, format, |item: &Item| line(item, style));
        write(terminal, text.as_bytes())
    })?;
    Ok(0)
}

/// Calls for every line of an answer that goes on.
pub(super) fn each(
    client: &Client,
    path: &str,
    body: Vec<u8>,
    mut show: impl FnMut(&[u8]) -> Result<(), RunError>,
) -> Result<(), RunError> {
    let mut outcome = Ok(());
    client.lines(path, body, |line| match show(line) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            outcome = Err(error);
            ControlFlow::Break(())
        }
    })?;
    outcome
}

/// One value per line as JSON, one document each as YAML, a text of its own for people.
pub(super) fn shown<T: serde::de::DeserializeOwned>(
    line: &[u8],
    format: Format,
    human: impl Fn(&T) -> String,
) -> String {
    match (format, serde_json::from_slice(line)) {
        (Format::Human, Ok(item)) => human(&item),
        // Of a newer edged, perhaps.
        (Format::Json, _) | (Format::Human, Err(_)) => format!("{}\n", String::from_utf8_lossy(line)),
        (Format::Yaml, _) => {
            let value = serde_json::from_slice(line).unwrap_or(serde_json::Value::Null);
            format!("---\n{}", to_yaml(&value))
        }
    }
}
