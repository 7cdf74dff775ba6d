//! `edgectl why`.

use super::View;
use super::status::router_cells;
use crate::control::view::State;
use crate::control::why::{PeerRow, Why};
use crate::ctl::style::Style;
use crate::ctl::table::{Cell, Table, one_line};

impl View for Why {
    fn human(&self, style: Style, _all: bool) -> String {
        let mut out = format!(
            "{} {}  {} of {}, on edge {}\n",
            style.heading(&self.address),
            style.state(self.health.state, self.health.state.as_str()),
            one_line(&self.source),
            one_line(&self.owners.join(", ")),
            one_line(&self.edge),
        );
        if !self.health.reason.is_empty() {
            out.push_str(&format!("  {}\n", one_line(&self.health.reason)));
        }
        out.push('\n');
        let mut table = Table::new(2, &["", "RULE", "EVIDENCE"]);
        for rule in &self.rules {
            let mark = if rule.allows { Cell::state_as(State::Up, "yes") } else { Cell::state_as(State::Down, "no") };
            table.row(vec![mark, Cell::text(&*rule.rule), Cell::text(&*rule.evidence)]);
        }
        out.push_str(&table.render(style));
        if !self.peers.is_empty() {
            out.push('\n');
            let mut table = Table::new(2, &["PEER", "SESSION", "TOLD", "SINCE", "WHY NOT"]);
            for peer in &self.peers {
                table.row(vec![
                    Cell::text(&*peer.peer),
                    Cell::text(&*peer.session),
                    Cell::text(told(peer)),
                    Cell::faint(peer.told.as_ref().map_or("", |told| &*told.since)),
                    Cell::text(&*peer.health.reason),
                ]);
            }
            out.push_str(&table.render(style));
        }
        if !self.elections.is_empty() {
            out.push('\n');
            let heads = ["GROUP", "INTERFACE", "VRID", "FAMILY", "ROLE", "SINCE", "PRIORITY", "LEADER", "BECAUSE"];
            let mut table = Table::new(2, &heads);
            for election in &self.elections {
                let mut cells = router_cells(election);
                cells.push(Cell::text(&*election.because));
                table.row(cells);
            }
            out.push_str(&table.render(style));
        }
        out
    }
}

/// What the peer has of the VIP.
fn told(peer: &PeerRow) -> String {
    let Some(told) = &peer.told else { return "nothing".to_owned() };
    let mut text = told.prefix.clone();
    if let Some(next_hop) = &told.next_hop {
        text.push_str(&format!(" via {next_hop}"));
    }
    if !told.communities.is_empty() {
        text.push_str(&format!(" community {}", told.communities.join(" ")));
    }
    for (name, value) in [("med", told.med), ("local-pref", told.local_pref)] {
        if let Some(value) = value {
            text.push_str(&format!(" {name} {value}"));
        }
    }
    if told.as_path.len() > 1 {
        let path: Vec<String> = told.as_path.iter().map(u32::to_string).collect();
        text.push_str(&format!(" as-path {}", path.join(" ")));
    }
    text
}
