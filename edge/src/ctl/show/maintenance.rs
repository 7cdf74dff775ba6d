//! `edgectl maintenance`: hosts that are closed.

use std::time::SystemTime;

use super::View;
use crate::control::maintenance::Closures;
use crate::control::span;
use crate::ctl::style::Style;
use crate::ctl::table::{Cell, Table};

impl View for Closures {
    fn human(&self, style: Style, _all: bool) -> String {
        if self.0.is_empty() {
            return "no host is in maintenance on this edge\n".to_owned();
        }
        let now = SystemTime::now();
        let mut table = Table::new(0, &["HOST", "FOR", "UNTIL", "RETRY AFTER", "PAGE", "LET IN"]);
        for closure in &self.0 {
            let page = closure.page.as_ref().map(|page| format!("{} bytes of {}", page.text.len(), page.content_type));
            let allow: Vec<String> = closure.allow.iter().map(ToString::to_string).collect();
            table.row(vec![
                Cell::text(closure.host.to_string()),
                Cell::text(span::rough(now.duration_since(closure.since).unwrap_or_default())),
                Cell::text(closure.until.map_or_else(|| "it is ended".to_owned(), span::rfc3339)),
                Cell::text(format!("{} s", closure.retry_after)),
                Cell::text(page.unwrap_or_else(|| "Edge's own".to_owned())),
                Cell::text(if allow.is_empty() { "nobody".to_owned() } else { allow.join(", ") }),
            ]);
        }
        format!("{}on this edge; others are told one by one\n", table.render(style))
    }
}
