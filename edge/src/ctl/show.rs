//! Views in every form: each has a text for people, and JSON and YAML of the same value. A view without all three does
//! not compile.

mod backup;
mod cert;
mod diff;
mod explain;
mod findings;
mod fleet;
mod history;
mod holds;
mod maintenance;
mod objects;
mod pools;
mod status;
mod why;

use serde::Serialize;

use super::args::Format;
use super::style::Style;
use super::yaml::to_yaml;

pub use findings::{Checked, Findings};
pub use objects::{Counts, Listing, Single};

/// Something that can be shown.
pub trait View: Serialize {
    /// Lines with a newline each. `all` leaves nothing out.
    fn human(&self, style: Style, all: bool) -> String;
}

/// A view as text, with a newline at the end.
pub fn render<V: View>(view: &V, format: Format, style: Style, all: bool) -> String {
    // Views are plain structs and maps with text keys, for which conversion cannot fail.
    let value = || serde_json::to_value(view).unwrap_or(serde_json::Value::Null);
    match format {
        Format::Human => view.human(style, all),
        Format::Json => format!("{:#}\n", value()),
        Format::Yaml => to_yaml(&value()),
    }
}

/// `3 errors`, `1 error`
pub(super) fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// The first few of many, joined.
fn some(items: &[String], most: usize) -> String {
    if items.len() <= most {
        return items.join(", ");
    }
    format!("{}, … {} more", items[..most].join(", "), items.len() - most)
}
