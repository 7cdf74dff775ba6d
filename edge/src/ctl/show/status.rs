//! `edgectl status`.

use std::time::Duration;

use super::{View, plural, some};
use crate::control::span;
use crate::control::view::{Edge, Health, State, Status};
use crate::control::why::ElectionRow;
use crate::ctl::style::Style;
use crate::ctl::table::{Cell, Table, one_line};
use crate::reach::Way;

/// Rows of a section that are shown when all is well.
const FEW: usize = 6;
/// Rows of a section that are not up: more of them than this say the same thing again.
const MANY: usize = 25;

impl View for Status {
    fn human(&self, style: Style, all: bool) -> String {
        let mut out = edge(&self.edge, style);
        let mut section = |name: &str, heads: &[&'static str], rows: Vec<(&Health, Vec<Cell>)>| {
            out.push_str(&section(name, heads, rows, style, all));
        };
        for source in self.edge.sources.iter().filter(|source| !source.collections.is_empty()) {
            section(
                &format!("SOURCE {}", source.name),
                &["STATE", "KIND", "VERSION", "OBJECTS", "LAST EVENT", "LISTS", "FAILURES", "REASON"],
                rows(&source.collections, |row| {
                    let cells = vec![
                        Cell::text(&*row.name),
                        Cell::text(row.version.clone().unwrap_or_else(|| "absent".to_owned())),
                        Cell::number(row.objects),
                        Cell::text(row.last_event.clone().unwrap_or_default()),
                        Cell::number(row.lists),
                        Cell::number(row.failures),
                    ];
                    (&row.health, cells)
                }),
            );
        }
        section(
            "VIPS",
            &["STATE", "ADDRESS", "OWNER", "PORTS", "SOURCE", "ANNOUNCED", "REASON"],
            rows(&self.vips, |row| {
                let cells = vec![
                    Cell::text(row.address.clone().unwrap_or_else(|| "none".to_owned())),
                    Cell::text(some(&row.owners, 2).replace("Gateway ", "")),
                    Cell::text(some(&row.ports, 4)),
                    Cell::text(&*row.source),
                    Cell::text(row.announced.clone().unwrap_or_default()),
                ];
                (&row.health, cells)
            }),
        );
        if !self.peers.is_empty() {
            section(
                "PEERS",
                &["STATE", "PEER", "ADDRESS", "ASN", "SESSION", "SINCE", "TOLD", "LOST", "REASON"],
                rows(&self.peers, |row| {
                    let cells = vec![
                        Cell::text(&*row.peer),
                        Cell::text(&*row.address),
                        Cell::text(row.asn.map(|asn| asn.to_string()).unwrap_or_default()),
                        Cell::text(match &row.bfd {
                            None => row.session.clone(),
                            Some(bfd) => format!("{}, bfd {bfd}", row.session),
                        }),
                        Cell::text(&*row.since),
                        Cell::number(row.advertised),
                        Cell::number(row.flaps),
                    ];
                    (&row.health, cells)
                }),
            );
        }
        if !self.routers.is_empty() {
            section(
                "VIRTUAL ROUTERS",
                &["STATE", "GROUP", "INTERFACE", "VRID", "FAMILY", "ROLE", "SINCE", "PRIORITY", "LEADER", "REASON"],
                rows(&self.routers, |row| (&row.health, router_cells(row))),
            );
        }
        if let Some(fleet) = &self.fleet {
            section(
                "EDGES",
                &["STATE", "EDGE", "ADDRESS", "ORDERS", "LAST EXCHANGE", "VERSION", "REASON"],
                rows(&fleet.edges, |row| {
                    let cells = vec![
                        Cell::text(&*row.edge),
                        Cell::text(if row.address.is_empty() { "this edge" } else { &*row.address }),
                        Cell::text(if row.orders { format!("since {}", fleet.since) } else { String::new() }),
                        Cell::text(row.last_exchange.clone().unwrap_or_default()),
                        Cell::text(row.version.clone().unwrap_or_default()),
                    ];
                    (&row.health, cells)
                }),
            );
        }
        section(
            "LISTENERS",
            &["STATE", "PARENT", "LISTENER", "PORT", "PROTOCOL", "HOSTNAME", "ROUTES", "REASON"],
            rows(&self.listeners, |row| {
                let cells = vec![
                    Cell::text(row.parent.strip_prefix("Gateway ").unwrap_or(&row.parent)),
                    Cell::text(&*row.name),
                    Cell::number(row.port),
                    Cell::text(&*row.protocol),
                    Cell::text(&*row.hostname),
                    Cell::number(row.attached_routes),
                ];
                (&row.health, cells)
            }),
        );
        section(
            "CERTIFICATES",
            &["STATE", "SECRET", "FROM", "ENDS", "NAMES", "REASON"],
            rows(&self.certificates, |row| {
                let ends = row.not_after.as_deref().and_then(|end| end.get(..10)).unwrap_or_default();
                let cells = vec![
                    Cell::text(&*row.secret),
                    Cell::text(&*row.source),
                    Cell::text(ends),
                    Cell::text(some(&row.names, 2)),
                ];
                (&row.health, cells)
            }),
        );
        section(
            "ROUTES",
            &["STATE", "KIND", "ROUTE", "HOSTNAMES", "BACKENDS", "REASON"],
            rows(&self.routes, |row| {
                let cells = vec![
                    Cell::text(&*row.kind),
                    Cell::text(&*row.route),
                    Cell::text(some(&row.hostnames, 2)),
                    Cell::text(some(&row.backends, 2)),
                ];
                (&row.health, cells)
            }),
        );
        section(
            "BACKENDS",
            &["STATE", "BACKEND", "PROTOCOL", "READY", "REACH", "IN FLIGHT", "ROUTES", "REASON"],
            rows(&self.backends, |row| {
                let cells = vec![
                    Cell::text(&*row.backend),
                    Cell::text(&*row.protocol),
                    Cell::number(format!("{}/{}", row.ready, row.endpoints.len())),
                    Cell::text(row.reach.map_or("", Way::as_str)),
                    Cell::number(row.in_flight),
                    Cell::number(row.routes),
                ];
                (&row.health, cells)
            }),
        );
        let found = self.problems;
        if found.errors + found.warnings > 0 {
            out.push_str(&format!(
                "\n{} and {} in the configuration: edgectl get problems\n",
                plural(found.errors as usize, "error", "errors"),
                plural(found.warnings as usize, "warning", "warnings"),
            ));
        }
        out
    }
}

/// What an election is and how it stands.
pub(super) fn router_cells(row: &ElectionRow) -> Vec<Cell> {
    vec![
        Cell::text(&*row.group),
        Cell::text(&*row.interface),
        Cell::number(row.router),
        Cell::text(&*row.family),
        Cell::text(&*row.role),
        Cell::text(&*row.since),
        Cell::number(row.priority.map(|priority| priority.to_string()).unwrap_or_default()),
        Cell::text(row.leader.clone().unwrap_or_default()),
    ]
}

fn edge(edge: &Edge, style: Style) -> String {
    let mut out = format!(
        "{} {}  generation {} since {}, running for {}, {} of {} workers, version {}\n",
        style.heading(&edge.name),
        style.state(edge.health.state, edge.health.state.as_str()),
        edge.generation,
        edge.since,
        span::rough(Duration::from_secs(edge.uptime_seconds)),
        edge.acknowledged,
        edge.workers,
        edge.version,
    );
    if !edge.health.reason.is_empty() {
        out.push_str(&format!("  {}\n", one_line(&edge.health.reason)));
    }
    for source in edge.sources.iter().filter(|source| source.health.state != State::Up) {
        let since = source.last_good.as_deref().map(|at| format!(" (last good {at})")).unwrap_or_default();
        let line = format!("  source {}: {}{since}\n", source.name, one_line(&source.health.reason));
        if !line.contains(&edge.health.reason) || edge.health.reason.is_empty() {
            out.push_str(&line);
        }
    }
    for notice in edge.notices.iter().filter(|notice| **notice != edge.health.reason) {
        out.push_str(&format!("  {}\n", one_line(notice)));
    }
    if !edge.log_levels.is_empty() {
        out.push_str(&format!("  log levels by command: {}\n", edge.log_levels));
    }
    out
}

fn rows<'a, T>(items: &'a [T], row: impl Fn(&'a T) -> (&'a Health, Vec<Cell>)) -> Vec<(&'a Health, Vec<Cell>)> {
    items.iter().map(row).collect()
}

fn section(name: &str, heads: &[&'static str], rows: Vec<(&Health, Vec<Cell>)>, style: Style, all: bool) -> String {
    let mut out = format!("\n{}", style.heading(name));
    if rows.is_empty() {
        out.push_str("  none\n");
        return out;
    }
    let counts: Vec<String> = State::ALL
        .into_iter()
        .map(|state| (state, rows.iter().filter(|(health, _)| health.state == state).count()))
        .filter(|(_, count)| *count > 0)
        .map(|(state, count)| style.state(state, &format!("{count} {state}")))
        .collect();
    out.push_str(&format!("  {}\n", counts.join(", ")));
    let bad = rows.iter().filter(|(health, _)| health.state != State::Up).count();
    let shown = if all { rows.len() } else { bad.min(MANY).max(FEW.min(rows.len())) };
    let rest = &rows[shown..];
    let rest_up = rest.iter().filter(|(health, _)| health.state == State::Up).count();
    let mut table = Table::new(2, heads);
    for (health, cells) in rows.iter().take(shown) {
        let mut row = vec![Cell::state(health.state)];
        row.extend(cells.iter().cloned());
        row.push(Cell::text(&*health.reason));
        table.row(row);
    }
    out.push_str(&table.render(style));
    if !rest.is_empty() {
        let what = if rest_up == rest.len() {
            "all up".to_owned()
        } else {
            format!("{} of them not up", rest.len() - rest_up)
        };
        out.push_str(&style.faint(&format!("  and {} more, {what}: --all", rest.len())));
        out.push('\n');
    }
    out
}
