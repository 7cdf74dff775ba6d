//! `edgectl --all status`: every edge of a fleet on one screen.

use std::time::SystemTime;

use super::{View, plural, some};
use crate::control::fleet::{EdgeStatus, FleetStatus};
use crate::control::span;
use crate::control::view::State;
use crate::ctl::style::Style;
use crate::ctl::table::{Cell, Table, one_line};

/// Rows of a section that are shown without being asked for all.
const FEW: usize = 20;

impl View for FleetStatus {
    fn human(&self, style: Style, all: bool) -> String {
        let mut out = String::new();
        let heads = [
            "STATE",
            "EDGE",
            "ADDRESS",
            "VERSION",
            "GENERATION",
            "CONFIGURATION",
            "VIPS",
            "PROBLEMS",
            "HEARD",
            "REASON",
        ];
        let mut table = Table::new(0, &heads);
        self.edges.iter().for_each(|edge| table.row(row(edge)));
        out.push_str(&table.render(style));
        vips(self, style, all, &mut out);
        certificates(self, style, all, &mut out);
        for (edge, drift) in self.edges.iter().filter_map(|edge| Some((edge, edge.drift.as_ref()?))) {
            let what = plural(drift.total, "difference", "differences");
            out.push_str(&format!("\n{}\n", style.heading(&format!("CONFIGURATION of {}: {what}", edge.edge))));
            let shown = if all { drift.named.len() } else { drift.named.len().min(FEW) };
            for line in drift.named.iter().take(shown) {
                out.push_str(&format!("  {}\n", one_line(line)));
            }
            if drift.total > shown {
                out.push_str(&style.faint(&format!("  and {} more\n", drift.total - shown)));
            }
        }
        out
    }
}

fn row(edge: &EdgeStatus) -> Vec<Cell> {
    let standing = edge.standing.as_ref();
    let announced = |standing: &crate::fleet::standing::Standing| {
        let told = standing.vips.iter().filter(|vip| vip.announced.is_some()).count();
        format!("{told} of {}", standing.vips.len())
    };
    let heard = match (&edge.last_exchange, edge.address.is_empty()) {
        (_, true) => "now".to_owned(),
        (Some(at), _) => ago(at).unwrap_or_else(|| at.clone()),
        (None, _) => "never".to_owned(),
    };
    vec![
        Cell::state(edge.health.state),
        Cell::text(&*edge.edge),
        Cell::text(if edge.address.is_empty() { "asked" } else { &*edge.address }),
        Cell::text(edge.version.clone().unwrap_or_default()),
        Cell::number(standing.map(|standing| standing.edge.generation.to_string()).unwrap_or_default()),
        Cell::text(standing.and_then(|standing| standing.hash.as_deref()?.get(..12)).unwrap_or_default()),
        Cell::text(standing.map(announced).unwrap_or_default()),
        Cell::text(standing.map(problems).unwrap_or_default()),
        Cell::text(heard),
        Cell::text(&*edge.health.reason),
    ]
}

fn problems(standing: &crate::fleet::standing::Standing) -> String {
    let found = standing.problems;
    match (found.errors, found.warnings) {
        (0, 0) => "none".to_owned(),
        (errors, warnings) => format!(
            "{}, {}",
            plural(errors as usize, "error", "errors"),
            plural(warnings as usize, "warning", "warnings")
        ),
    }
}

/// `3s ago`
fn ago(at: &str) -> Option<String> {
    let at = time::OffsetDateTime::parse(at, &time::format_description::well_known::Rfc3339).ok()?;
    let age = SystemTime::now().duration_since(SystemTime::from(at)).unwrap_or_default();
    Some(format!("{} ago", span::rough(age)))
}

/// Each VIP with the edges that have it.
fn vips(fleet: &FleetStatus, style: Style, all: bool, out: &mut String) {
    let standing = fleet.edges.iter().filter_map(|edge| Some((&edge.edge, edge.standing.as_ref()?)));
    let mut rows: Vec<_> =
        standing.flat_map(|(edge, standing)| standing.vips.iter().map(move |vip| (edge, vip))).collect();
    rows.sort_by(|(a, one), (b, other)| (&one.address, a).cmp(&(&other.address, b)));
    if rows.is_empty() {
        return;
    }
    let shown = if all { rows.len() } else { rows.len().min(FEW) };
    let mut table = Table::new(2, &["STATE", "ADDRESS", "EDGE", "OWNER", "ANNOUNCED", "REASON"]);
    for (edge, vip) in rows.iter().take(shown) {
        table.row(vec![
            Cell::state(vip.health.state),
            Cell::text(vip.address.clone().unwrap_or_else(|| "none".to_owned())),
            Cell::text(edge.as_str()),
            Cell::text(some(&vip.owners, 2).replace("Gateway ", "")),
            Cell::text(vip.announced.clone().unwrap_or_default()),
            Cell::text(&*vip.health.reason),
        ]);
    }
    out.push_str(&format!("\n{}\n{}", style.heading("VIPS"), table.render(style)));
    more(rows.len() - shown, style, out);
}

/// Those that are not as wanted, on any edge.
fn certificates(fleet: &FleetStatus, style: Style, all: bool, out: &mut String) {
    let standing = fleet.edges.iter().filter_map(|edge| Some((&edge.edge, edge.standing.as_ref()?)));
    let rows: Vec<_> =
        standing.flat_map(|(edge, standing)| standing.certificates.iter().map(move |row| (edge, row))).collect();
    if rows.iter().all(|(_, row)| row.health.state == State::Up) {
        return;
    }
    let shown = if all { rows.len() } else { rows.len().min(FEW) };
    let mut table = Table::new(2, &["STATE", "SECRET", "EDGE", "FROM", "ENDS", "REASON"]);
    for (edge, row) in rows.iter().take(shown) {
        table.row(vec![
            Cell::state(row.health.state),
            Cell::text(&*row.secret),
            Cell::text(edge.as_str()),
            Cell::text(&*row.source),
            Cell::text(row.not_after.as_deref().and_then(|end| end.get(..10)).unwrap_or_default()),
            Cell::text(&*row.health.reason),
        ]);
    }
    out.push_str(&format!("\n{}\n{}", style.heading("CERTIFICATES"), table.render(style)));
    more(rows.len() - shown, style, out);
}

fn more(rest: usize, style: Style, out: &mut String) {
    if rest > 0 {
        out.push_str(&style.faint(&format!("  and {rest} more: --all\n")));
    }
}
