//! `edgectl explain`.

use super::{View, plural, some};
use crate::control::explain::{Answer, BackendStep, Explanation, Kind, Walk};
use crate::control::view::{CertificateRow, State};
use crate::ctl::style::Style;
use crate::ctl::table::{Cell, Table, broken, one_line};

/// The column in which values begin.
const MARGIN: usize = 13;
/// Endpoints of one backend that are shown unless all are asked for.
const ENDPOINTS: usize = 8;

impl View for Explanation {
    fn human(&self, style: Style, all: bool) -> String {
        let asked = &self.request;
        let mut out = format!("{} {}", style.heading(&asked.method), style.heading(&asked.url));
        if asked.server_name.as_deref().is_some_and(|name| name != asked.host) {
            out.push_str(&format!("  host {}", asked.host));
        }
        out.push('\n');
        for walk in &self.walks {
            out.push('\n');
            out.push_str(&walked(walk, style, all));
        }
        if self.walks.is_empty() {
            out.push('\n');
            out.push_str(&answer(&self.answer, style));
        }
        for hint in &self.hints {
            out.push_str(&labelled("hint", vec![hint.clone()], style));
        }
        for problem in &self.problems {
            out.push_str(&labelled("problem", vec![problem.clone()], style));
        }
        out
    }
}

fn walked(walk: &Walk, style: Style, all: bool) -> String {
    let (kind, owner) = walk.owner.split_once(' ').unwrap_or(("", &walk.owner));
    let mut out = labelled(&kind.to_ascii_lowercase(), vec![owner.to_owned()], style);
    let sockets = walk.sockets.iter().map(|socket| match socket.health.state {
        State::Up => socket.address.clone(),
        state => format!("{} {}: {}", socket.address, style.state(state, state.as_str()), socket.health.reason),
    });
    out.push_str(&labelled("address", sockets.collect(), style));
    out.push_str(&listeners(walk, style, all));
    out.push_str(&labelled(
        "certificate",
        walk.certificates.iter().map(|row| certificate(row, style)).collect(),
        style,
    ));
    out.push_str(&labelled("clients", walk.clients.clone(), style));
    out.push_str(&candidates(walk, style, all));
    if let Some(rule) = &walk.rule {
        out.push_str(&labelled("applies", rule.applies.clone(), style));
        let backends = rule.backends.iter().flat_map(|backend| backend_lines(backend, style, all));
        out.push_str(&labelled("backends", backends.collect(), style));
    }
    out.push_str(&answer(&walk.answer, style));
    out
}

fn listeners(walk: &Walk, style: Style, all: bool) -> String {
    let dull = |why: &str| why == "hostname does not match";
    let mut table = Table::plain(0, 4);
    for step in walk.listeners.iter().filter(|step| all || !dull(&step.why)) {
        table.row(vec![
            Cell::text(format!("{} {}", if step.chosen { "*" } else { " " }, step.name)),
            Cell::text(format!("{} {}", step.protocol, step.hostname)),
            Cell::text(step.parent.strip_prefix("Gateway ").unwrap_or(&step.parent)),
            Cell::text(&*step.why),
        ]);
    }
    let mut lines: Vec<String> = table.render(narrowed(style)).lines().map(str::to_owned).collect();
    let hidden = walk.listeners.iter().filter(|step| !all && dull(&step.why)).count();
    if hidden > 0 {
        let what = plural(hidden, "other: its hostname does not match", "others: their hostnames do not match");
        lines.push(style.faint(&format!("  {what}")));
    }
    labelled("listener", lines, style)
}

fn candidates(walk: &Walk, style: Style, all: bool) -> String {
    let mut table = Table::plain(0, 4);
    for step in &walk.candidates {
        let name = step.rule_name.as_ref().map_or_else(|| step.rule.to_string(), ToString::to_string);
        table.row(vec![
            Cell::text(format!("{} {} rule {name}", if step.won { "*" } else { " " }, step.route)),
            Cell::text(&*step.host),
            Cell::text(&*step.matches),
            Cell::text(&*step.why),
        ]);
    }
    let mut lines: Vec<String> = table.render(narrowed(style)).lines().map(str::to_owned).collect();
    if walk.omitted > 0 {
        lines.push(style.faint(&format!("  and {} more at this host", walk.omitted)));
    }
    if walk.other_hosts > 0 && (all || walk.candidates.is_empty()) {
        let what = plural(walk.other_hosts as usize, "match is for another host", "matches are for other hosts");
        lines.push(style.faint(&format!("  {what}")));
    }
    labelled("routes", lines, style)
}

fn certificate(row: &CertificateRow, style: Style) -> String {
    let mut parts = vec![row.secret.clone()];
    if row.health.state != State::Up {
        parts.push(format!("{}: {}", style.state(row.health.state, row.health.state.as_str()), row.health.reason));
    } else if !row.health.reason.is_empty() {
        parts.push(row.health.reason.clone());
    }
    if !row.source.is_empty() && !row.health.reason.contains(&row.source) {
        parts.push(format!("from {}", row.source));
    }
    if let Some(end) = row.not_after.as_deref().and_then(|end| end.get(..10)) {
        parts.push(format!("until {end}"));
    }
    if !row.names.is_empty() {
        parts.push(format!("for {}", some(&row.names, 4)));
    }
    parts.join(", ")
}

fn backend_lines(step: &BackendStep, style: Style, all: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let share = if step.share < 100.0 { format!("  weight {} ({} %)", step.weight, step.share) } else { String::new() };
    let health = match (&step.upstream, &step.refused) {
        (Some(row), _) => {
            let state = style.state(row.health.state, row.health.state.as_str());
            let reason = if row.health.reason.is_empty() { String::new() } else { format!(": {}", row.health.reason) };
            format!(
                "{state}{reason}, {} of {} ready, {}",
                row.ready,
                plural(row.endpoints.len(), "endpoint", "endpoints"),
                row.protocol
            )
        }
        (None, Some(refused)) => style.bad(&format!("refused, {refused}")),
        (None, None) => String::new(),
    };
    lines.push(format!("{}{share}  {health}", step.reference));
    lines.extend(step.applies.iter().map(|line| format!("  {line}")));
    let endpoints = step.upstream.iter().flat_map(|row| &row.endpoints);
    let count = step.upstream.as_ref().map_or(0, |row| row.endpoints.len());
    let shown = if all { count } else { ENDPOINTS };
    for endpoint in endpoints.take(shown) {
        let mut line =
            format!("  {} {}", endpoint.address, style.state(endpoint.health.state, endpoint.health.state.as_str()));
        for (before, text) in [(": ", &endpoint.health.reason), ("  ", &endpoint.target), (" on ", &endpoint.node)] {
            if !text.is_empty() {
                line.push_str(before);
                line.push_str(text);
            }
        }
        lines.push(line);
    }
    if count > shown {
        lines.push(style.faint(&format!("  and {} more", count - shown)));
    }
    lines
}

fn answer(answer: &Answer, style: Style) -> String {
    let text = match (answer.kind, answer.status) {
        (Kind::Backend, _) => style.good(&answer.text),
        (Kind::Redirect, _) => style.good(&answer.text),
        (Kind::Preflight | Kind::Direct, Some(status)) => style.good(&format!("{status}: {}", answer.text)),
        (_, Some(status)) => style.bad(&format!("{status}: {}", answer.text)),
        (_, None) => style.bad(&answer.text),
    };
    labelled("answer", vec![text], style)
}

/// What is left of the terminal beside the labels.
fn narrowed(style: Style) -> Style {
    Style { width: style.width.map(|width| width.saturating_sub(MARGIN)), ..style }
}

/// A label beside the first of its lines; nothing where there are none. Long lines of plain text are broken.
fn labelled(label: &str, lines: Vec<String>, style: Style) -> String {
    let mut out = String::new();
    let room = style.width.map(|width| width.saturating_sub(MARGIN)).filter(|room| *room >= 40);
    let lines = lines.iter().flat_map(|line| {
        // Painted text must not be measured or broken: its codes have no width.
        if line.contains('\x1b') { vec![line.clone()] } else { broken(&one_line(line), room) }
    });
    for (number, line) in lines.enumerate() {
        let label = if number == 0 { label } else { "" };
        let padding = " ".repeat(MARGIN.saturating_sub(label.len()));
        out.push_str(format!("{}{padding}{line}", style.faint(label)).trim_end());
        out.push('\n');
    }
    out
}
