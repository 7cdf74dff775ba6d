//! `edgectl history` and `edgectl rollback`.

use super::{View, plural};
use crate::control::history::HistoryView;
use crate::control::view::State;
use crate::control::world::Rolled;
use crate::ctl::style::Style;
use crate::ctl::table::{Cell, Table, one_line};
use crate::history::{How, Outcome, Revision};

/// Revisions that are shown without being asked for all.
const FEW: usize = 20;
/// Changes that a row names.
const NAMED: usize = 2;

impl View for HistoryView {
    fn human(&self, style: Style, all: bool) -> String {
        let mut out = String::new();
        if let Some(held) = &self.held {
            out.push_str(&style.warn(&one_line(&held.text())));
            out.push_str("\n\n");
        }
        if self.revisions.is_empty() {
            out.push_str("nothing is kept: [history] revisions is 0, or nothing was in force yet\n");
            return out;
        }
        let shown = if all { self.revisions.len() } else { self.revisions.len().min(FEW) };
        let heads = ["REVISION", "AT", "CAUSE", "BY", "OUTCOME", "HASH", "OBJECTS", "GENERATION", "CHANGES"];
        let mut table = Table::new(0, &heads);
        for revision in self.revisions.iter().rev().take(shown) {
            let changes = match (&revision.outcome, revision.changes.total) {
                (Outcome::Refused { reason }, _) => reason.clone(),
                (_, 0) => "none".to_owned(),
                _ => revision.changes.line(NAMED),
            };
            table.row(vec![
                Cell::number(revision.revision),
                Cell::text(&*revision.at),
                Cell::text(revision.cause.text()),
                Cell::text(revision.by.clone().unwrap_or_default()),
                Cell::state_as(state(&revision.outcome), &revision.outcome.text()),
                Cell::text(revision.hash.get(..12).unwrap_or_default()),
                Cell::number(revision.counts.objects),
                Cell::number(revision.generation),
                Cell::text(changes),
            ]);
        }
        out.push_str(&table.render(style));
        let rest = self.revisions.len() - shown;
        if rest > 0 {
            out.push_str(&style.faint(&format!("and {rest} older: --all\n")));
        }
        out
    }
}

fn state(outcome: &Outcome) -> State {
    match outcome {
        Outcome::Applied { errors: 0, .. } => State::Up,
        Outcome::Applied { .. } => State::Degraded,
        Outcome::Refused { .. } => State::Down,
    }
}

impl View for Revision {
    fn human(&self, style: Style, _all: bool) -> String {
        let by = self.by.as_deref().map(|by| format!(" by {by}")).unwrap_or_default();
        let mut out = format!(
            "{} {}  at {}, {}{by}, version {}\n",
            style.heading(&format!("revision {}", self.revision)),
            style.state(state(&self.outcome), &self.outcome.text()),
            self.at,
            self.cause.text(),
            self.version,
        );
        if let Outcome::Refused { reason } = &self.outcome {
            out.push_str(&format!("  {}\n", one_line(reason)));
            return out;
        }
        let counts = &self.counts;
        out.push_str(&format!(
            "  generation {}, {}, {}, {}, {}, {}\n  hash {}\n",
            self.generation,
            plural(counts.objects, "object", "objects"),
            plural(counts.vips, "VIP", "VIPs"),
            plural(counts.listeners, "listener", "listeners"),
            plural(counts.rules, "rule", "rules"),
            plural(counts.upstreams, "upstream", "upstreams"),
            self.hash,
        ));
        if self.changes.total == 0 {
            out.push_str("no change against the revision before\n");
        }
        for change in &self.changes.named {
            let what = one_line(&change.what);
            out.push_str(&match change.how {
                How::Added => style.good(&format!("+ {what}")),
                How::Changed => style.warn(&format!("~ {what}")),
                How::Removed => style.bad(&format!("- {what}")),
            });
            out.push('\n');
        }
        let rest = self.changes.total - self.changes.named.len();
        if rest > 0 {
            out.push_str(&format!("and {rest} more, which are not kept by name\n"));
        }
        out
    }
}

impl View for Rolled {
    fn human(&self, style: Style, _all: bool) -> String {
        let what = match &self.held {
            Some(held) => style.warn(&one_line(&held.text())),
            None => "the configuration is what files and the API server say".to_owned(),
        };
        let mut out = format!("generation {}: {what}\n", self.generation);
        if self.errors > 0 {
            let text = format!("{}: edgectl get problems", plural(self.errors as usize, "error", "errors"));
            out.push_str(&style.bad(&text));
            out.push('\n');
        }
        out
    }
}
