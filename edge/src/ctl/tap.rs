//! `edgectl tap`: requests as they happen.

use super::args::{Format, Tapped};
use super::client::Client;
use super::log::{each, shown};
use super::run::{RunError, Terminal, write};
use super::show::tap::{Seen, line};
use crate::proxy::tap::ask::Ask;

/// Shows requests until as many as were asked for have been seen, or nobody reads them.
pub fn run(client: &Client, tapped: &Tapped, format: Format, terminal: &mut Terminal<'_>) -> Result<u8, RunError> {
    let lower = |name: &String| name.to_ascii_lowercase();
    let ask = Ask {
        host: tapped.host.clone(),
        methods: tapped.method.iter().map(|method| method.to_ascii_uppercase()).collect(),
        path: tapped.path.clone(),
        statuses: tapped.status.clone(),
        route: tapped.route.clone(),
        clients: tapped.client.clone(),
        slow_ms: tapped.slow.map(|slow| u64::try_from(slow.as_millis()).unwrap_or(u64::MAX)),
        failed: tapped.failed,
        sample: tapped.sample,
        count: tapped.count,
        headers: tapped.headers.iter().map(lower).collect(),
    };
    let body = serde_json::to_vec(&ask).unwrap_or_default();
    each(client, "/v1/tap", body, |bytes| {
        let style = terminal.style;
        let text = shown(bytes, format, |seen: &Seen| line(seen, style));
        write(terminal, text.as_bytes())
    })?;
    Ok(0)
}
