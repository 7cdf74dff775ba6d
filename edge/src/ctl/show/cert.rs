//! `edgectl cert`.

use std::time::Duration;

use super::{View, plural, some};
use crate::control::api::certificates::Done;
use crate::control::certificates::view::{
    Account, Budget, BudgetRow, CertificateList, CertificateRow, CertificateWhy, Served, Shown,
};
use crate::control::span;
use crate::control::view::State;
use crate::ctl::style::Style;
use crate::ctl::table::{Cell, Table, one_line};

/// Rows that are shown of what is well.
const FEW: usize = 10;

impl View for CertificateList {
    fn human(&self, style: Style, all: bool) -> String {
        let rows = &self.certificates;
        if rows.is_empty() {
            return "no certificate is wanted or served\n".to_owned();
        }
        let bad = rows.iter().filter(|row| row.health.state != State::Up).count();
        let shown = if all { rows.len() } else { rows.len().min(bad + FEW) };
        let mut table = Table::new(0, &["STATE", "CERTIFICATE", "NAMES", "SERVED", "ENDS IN", "RENEWS", "WHY"]);
        for row in &rows[..shown] {
            let renews = row.renews_at.as_deref().and_then(|at| at.get(..10)).unwrap_or_default();
            table.row(vec![
                Cell::state(row.health.state),
                Cell::text(&*row.certificate),
                Cell::text(some(&row.names, 1)),
                served(row),
                Cell::text(ends(row)),
                Cell::text(renews),
                Cell::text(&*row.health.reason),
            ]);
        }
        let mut out = table.render(style);
        if shown < rows.len() {
            out.push_str(&format!("… {} more are up; --all shows them\n", rows.len() - shown));
        }
        let orders = self.orders.as_ref().map(|edge| format!("; edge {} orders", one_line(edge))).unwrap_or_default();
        out.push_str(&format!("{}, {bad} with a problem{orders}\n", plural(rows.len(), "certificate", "certificates")));
        out
    }
}

fn served(row: &CertificateRow) -> Cell {
    let state = match row.served {
        Served::Real => State::Up,
        Served::LastGood | Served::StandIn => State::Degraded,
        Served::Placeholder | Served::Nothing => State::Down,
    };
    Cell::state_as(state, row.served.as_str())
}

fn ends(row: &CertificateRow) -> String {
    match row.seconds_left.filter(|_| row.served != Served::Placeholder) {
        Some(left) if left < 0 => format!("-{}", span::rough(Duration::from_secs(left.unsigned_abs()))),
        Some(left) => span::rough(Duration::from_secs(left.unsigned_abs())),
        None => String::new(),
    }
}

impl View for CertificateWhy {
    fn human(&self, style: Style, _all: bool) -> String {
        let sentence = one_line(&self.sentence);
        let mut table = Table::plain(2, 2);
        for row in &self.evidence {
            table.row(vec![Cell::faint(&*row.about), Cell::text(&*row.text)]);
        }
        format!("{}\n\n{}", style.state(self.row.health.state, &sentence), table.render(style))
    }
}

impl View for Shown {
    fn human(&self, style: Style, _all: bool) -> String {
        let row = &self.row;
        let mut out = format!(
            "{} {}\n",
            style.heading(&one_line(&row.certificate)),
            style.state(row.health.state, row.health.state.as_str())
        );
        if !row.health.reason.is_empty() {
            out.push_str(&format!("  {}\n", one_line(&row.health.reason)));
        }
        out.push('\n');
        let mut table = Table::plain(2, 2);
        let mut line = |about: &str, text: String| {
            if !text.is_empty() {
                table.row(vec![Cell::faint(about), Cell::text(text)]);
            }
        };
        let ends = ends(row);
        let ends = if ends.is_empty() { ends } else { format!(" ({ends})") };
        line("names", row.names.join(", "));
        line("served", row.served.as_str().to_owned());
        line("valid from", row.not_before.clone().unwrap_or_default());
        line("valid until", row.not_after.as_ref().map(|end| format!("{end}{ends}")).unwrap_or_default());
        line("renews at", row.renews_at.clone().unwrap_or_default());
        if let Some(window) = &row.window {
            let why = window.explanation.as_ref().map(|page| format!("; see {page}")).unwrap_or_default();
            line(
                "CA's window",
                format!("{} to {}, asked again at {}{why}", window.start, window.end, window.asked_again),
            );
        }
        line("level", row.level.clone());
        line("step", row.step.clone());
        line("issuers", row.issuers.join(", else "));
        line("issued by", row.issued_by.clone().unwrap_or_default());
        line("profile", self.profile.clone().unwrap_or_default());
        line("key", self.key.clone().unwrap_or_default());
        line("lies in", self.kept_in.clone());
        line("wanted by", self.wanted_by.join(", "));
        line("served by", row.used_by.join(", "));
        line("orders", row.orders.as_ref().map(|edge| format!("edge {edge}")).unwrap_or_default());
        if let Some(failure) = &row.last_failure {
            let text = format!("at {} by {} ({}): {}", failure.at, failure.issuer, failure.class, failure.sentence);
            line("last failure", text);
            if !failure.said.is_empty() && !failure.said.contains(&failure.sentence) {
                line("told", failure.said.clone());
            }
        }
        line("next try", row.next_try.clone().unwrap_or_default());
        for finding in &self.findings {
            line("before the order", finding.clone());
        }
        for seen in &self.seen {
            line("seen then", seen.clone());
        }
        line("no chain", self.chain_fault.clone().unwrap_or_default());
        out.push_str(&table.render(style));
        if !self.chain.is_empty() {
            let mut table = Table::new(2, &["CHAIN", "ISSUER", "SERIAL", "UNTIL", "SHA-256"]);
            for link in &self.chain {
                table.row(vec![
                    Cell::text(&*link.subject),
                    Cell::text(&*link.issuer),
                    Cell::text(&*link.serial),
                    Cell::text(&*link.not_after),
                    Cell::text(&*link.sha256),
                ]);
            }
            out.push_str(&format!("\n{}", table.render(style)));
        }
        if !self.accounts.is_empty() {
            out.push_str(&format!("\n{}", accounts(&self.accounts, style)));
        }
        if !self.budget.is_empty() {
            out.push_str(&format!("\n{}", limits(&self.budget, style)));
        }
        out
    }
}

impl View for Budget {
    fn human(&self, style: Style, _all: bool) -> String {
        let mut out = String::new();
        if self.accounts.is_empty() {
            return "no ACME issuer is configured\n".to_owned();
        }
        out.push_str(&accounts(&self.accounts, style));
        out.push('\n');
        if self.limits.is_empty() {
            out.push_str("no limits are known of these CAs, and none was met\n");
        } else {
            out.push_str(&limits(&self.limits, style));
        }
        out
    }
}

fn accounts(accounts: &[Account], style: Style) -> String {
    let mut table = Table::new(2, &["ISSUER", "DIRECTORY", "ACCOUNT", "THUMBPRINT", "PAUSED UNTIL", "ERROR"]);
    for account in accounts {
        table.row(vec![
            Cell::text(&*account.issuer),
            Cell::text(&*account.directory),
            Cell::text(account.account.clone().unwrap_or_else(|| "none yet".to_owned())),
            Cell::faint(account.thumbprint.clone().unwrap_or_default()),
            Cell::text(account.paused_until.clone().unwrap_or_default()),
            Cell::text(account.error.clone().unwrap_or_default()),
        ]);
    }
    table.render(style)
}

fn limits(limits: &[BudgetRow], style: Style) -> String {
    let mut table = Table::new(2, &["LEFT", "OF", "PER", "LIMIT", "WHOSE", "WAITING", "CA", "NEXT"]);
    for row in limits {
        let next = match (&row.refused_until, &row.next) {
            (Some(refused), _) => format!("{refused}, the CA says"),
            (None, Some(next)) => next.clone(),
            (None, None) => String::new(),
        };
        table.row(vec![
            Cell::number(row.left),
            Cell::number(row.most),
            Cell::text(&*row.per),
            Cell::text(&*row.limit),
            Cell::text(&*row.of),
            if row.waiting == 0 { Cell::text("") } else { Cell::number(row.waiting) },
            Cell::text(&*row.ca),
            Cell::text(next),
        ]);
    }
    table.render(style)
}

impl View for Done {
    fn human(&self, _style: Style, _all: bool) -> String {
        format!("{}\n", one_line(&self.done))
    }
}
