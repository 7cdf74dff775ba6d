//! Pools and what an edit of them would change.

use super::{View, plural, some};
use crate::control::pools::{Holding, PoolChange, PoolRow, Pools};
use crate::ctl::style::Style;
use crate::ctl::table::{Cell, Table, one_line};

/// Holders and ranges of a row that are shown.
const FEW: usize = 4;
/// Numbers beyond this are not worth their digits.
const MANY: u64 = 1_000_000_000;

fn number(number: u64) -> Cell {
    if number >= MANY { Cell::text("many") } else { Cell::number(number) }
}

fn rows(table: &mut Table, pools: &[PoolRow]) {
    for pool in pools {
        let mut notes = Vec::new();
        notes.extend(pool.fault.as_ref().map(|fault| format!("not in effect: {fault}")));
        for (flag, word) in [
            (pool.disabled, "disabled"),
            (!pool.auto_assign, "only by name"),
            (pool.restricted, "for certain namespaces or Services"),
        ] {
            notes.extend(flag.then(|| word.to_owned()));
        }
        for (family, usage) in [("IPv4", pool.v4), ("IPv6", pool.v6)] {
            let Some(usage) = usage else { continue };
            let is_of_family = |text: &&String| text.contains(':') == (family == "IPv6");
            let ranges: Vec<String> = pool.ranges.iter().filter(is_of_family).cloned().collect();
            table.row(vec![
                Cell::text(&pool.name),
                Cell::text(family),
                number(usage.assigned),
                number(usage.available),
                number(usage.reserved),
                number(usage.total),
                Cell::text(some(&ranges, FEW)),
                Cell::faint(notes.join(", ")),
            ]);
        }
    }
}

const HEADS: [&str; 8] = ["POOL", "FAMILY", "ASSIGNED", "AVAILABLE", "RESERVED", "TOTAL", "RANGES", "NOTES"];

impl View for Pools {
    fn human(&self, style: Style, all: bool) -> String {
        if self.pools.is_empty() && self.outside.is_empty() {
            return "no pools: [[pool]] in edge.toml, or IPAddressPool objects\n".to_owned();
        }
        let mut table = Table::new(0, &HEADS);
        rows(&mut table, &self.pools);
        let mut out = table.render(style);
        let mut holdings = Table::new(0, &["ADDRESS", "POOL", "HOLDERS"]);
        let mut count = 0;
        let outside = self.outside.iter().map(|holding| (holding, "none"));
        let inside =
            self.pools.iter().flat_map(|pool| pool.assigned.iter().map(|holding| (holding, pool.name.as_str())));
        for (Holding { address, holders }, pool) in inside.chain(outside) {
            count += 1;
            if all || count <= 20 {
                holdings.row(vec![Cell::text(address.to_string()), Cell::text(pool), Cell::text(some(holders, FEW))]);
            }
        }
        if count > 0 {
            out.push('\n');
            out.push_str(&holdings.render(style));
        }
        if !all && count > 20 {
            out.push_str(&format!("… {} more: edgectl pool --all\n", count - 20));
        }
        out
    }
}

impl View for PoolChange {
    fn human(&self, style: Style, _all: bool) -> String {
        let mut out = String::new();
        for fault in &self.faults {
            out.push_str(&format!("{}\n", style.bad(&one_line(&format!("fault: {fault}")))));
        }
        for name in &self.removed {
            out.push_str(&format!("- pool {}\n", one_line(name)));
        }
        for moved in &self.moved {
            let list = |addresses: &[std::net::IpAddr]| {
                addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            };
            let what = match (moved.loses.is_empty(), moved.gets.is_empty()) {
                (true, _) => format!("+ {} gets {}", moved.object, list(&moved.gets)),
                (false, true) => format!("- {} loses {}: {}", moved.object, list(&moved.loses), moved.reason),
                (false, false) => format!(
                    "~ {} moves from {} to {}: {}",
                    moved.object,
                    list(&moved.loses),
                    list(&moved.gets),
                    moved.reason
                ),
            };
            let what = one_line(&what);
            out.push_str(&if moved.loses.is_empty() { what } else { style.bad(&what) });
            out.push('\n');
        }
        let losers = self.moved.iter().filter(|moved| !moved.loses.is_empty()).count();
        let summary = match losers {
            0 => format!("nobody loses an address; {} unchanged", plural(self.kept, "object", "objects")),
            losers => format!(
                "{} an address they have; {} unchanged",
                plural(losers, "object loses", "objects lose"),
                plural(self.kept, "object", "objects")
            ),
        };
        out.push_str(&if losers > 0 { style.bad(&summary) } else { summary });
        out.push_str("\n\nafterwards:\n");
        let mut table = Table::new(0, &HEADS);
        rows(&mut table, &self.pools);
        out.push_str(&table.render(style));
        out
    }
}
