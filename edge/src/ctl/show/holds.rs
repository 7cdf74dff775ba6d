//! `edgectl endpoint`: what is said of endpoints.

use std::time::SystemTime;

use super::View;
use crate::control::holds::{Holds, Standing};
use crate::control::span;
use crate::ctl::style::Style;
use crate::ctl::table::{Cell, Table};

impl View for Holds {
    fn human(&self, style: Style, _all: bool) -> String {
        if self.0.is_empty() {
            return "no endpoint is drained or disabled\n".to_owned();
        }
        let now = SystemTime::now();
        let mut table = Table::new(0, &["ENDPOINT", "IS", "FOR", "UNTIL"]);
        for hold in &self.0 {
            let standing = match hold.standing {
                Standing::Enabled => "enabled",
                Standing::Drained => "drained",
                Standing::Disabled => "disabled",
            };
            let until = match hold.until {
                None => "it is enabled".to_owned(),
                Some(until) => span::rfc3339(until),
            };
            table.row(vec![
                Cell::text(hold.endpoint.to_string()),
                Cell::text(standing),
                Cell::text(span::rough(now.duration_since(hold.since).unwrap_or_default())),
                Cell::text(until),
            ]);
        }
        table.render(style)
    }
}
