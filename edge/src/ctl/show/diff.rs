//! `edgectl diff`.

use super::{View, plural};
use crate::control::diff::{Change, Difference, Entry};
use crate::ctl::style::Style;
use crate::ctl::table::one_line;

impl View for Difference {
    fn human(&self, style: Style, _all: bool) -> String {
        if self.is_empty() {
            return "no difference in effective routing\n".to_owned();
        }
        let mut out = String::new();
        for (name, entries) in
            [("VIPS", &self.vips), ("LISTENERS", &self.listeners), ("ROUTES", &self.routes), ("FAULTS", &self.faults)]
        {
            if entries.is_empty() {
                continue;
            }
            out.push_str(&style.heading(name));
            out.push('\n');
            for entry in entries {
                out.push_str(&lines(entry, name == "FAULTS", style));
            }
            out.push('\n');
        }
        let count = |change| self.routes.iter().filter(|entry| entry.change == change).count();
        out.push_str(&format!(
            "{}: {} added, {} changed, {} removed; {}, {} gone\n",
            plural(self.routes.len(), "route", "routes"),
            count(Change::Added),
            count(Change::Changed),
            count(Change::Removed),
            plural(
                self.faults.iter().filter(|entry| entry.change != Change::Removed).count(),
                "new fault",
                "new faults"
            ),
            self.faults.iter().filter(|entry| entry.change == Change::Removed).count(),
        ));
        out
    }
}

/// A fault that appears is bad, everything else that appears is not.
fn lines(entry: &Entry, fault: bool, style: Style) -> String {
    let what = one_line(&entry.what);
    let first = match entry.change {
        Change::Added if fault => style.bad(&format!("+ {what}")),
        Change::Removed if fault => style.good(&format!("- {what}")),
        Change::Added => style.good(&format!("+ {what}")),
        Change::Removed => style.bad(&format!("- {what}")),
        Change::Changed => style.warn(&format!("~ {what}")),
    };
    let mut out = format!("  {first}\n");
    for detail in entry.details.iter().filter(|detail| !detail.is_empty()) {
        out.push_str(&format!("      {}\n", one_line(detail)));
    }
    out
}
