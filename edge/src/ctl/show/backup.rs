//! `edgectl backup` and `edgectl restore`.

use super::View;
use crate::ctl::backup::Backed;
use crate::ctl::style::Style;
use crate::ctl::table::{Cell, Table, one_line};

impl View for Backed {
    fn human(&self, style: Style, _all: bool) -> String {
        let mut table = Table::new(2, &["RECORDS", "OF", "KEYS", "SEALED"]);
        for row in &self.kinds {
            let sealed = match row.sealed {
                0 if row.keys => "no: whoever has the file has the keys".to_owned(),
                0 => String::new(),
                all if all == row.records => "yes: the key of the store opens them".to_owned(),
                some => format!("{some} of them"),
            };
            table.row(vec![
                Cell::number(row.records),
                Cell::text(&*row.kind),
                Cell::text(if row.keys { "yes" } else { "" }),
                Cell::text(sealed),
            ]);
        }
        format!("{}; the backup is of {}\n{}", one_line(&self.outcome), self.made, table.render(style))
    }
}
