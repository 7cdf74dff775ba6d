//! TOML text, section by section. Values flow in, lines come out; it never parses.
//! Standards: TOML 1.0 (basic strings).

use std::fmt::Write;

/// An `edge.toml` that is being written.
#[derive(Debug, Default)]
pub(super) struct Toml(String);

impl Toml {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A section or an entry of an array of tables: `[bgp]`, `[[pool]]`.
    pub fn begin(&mut self, header: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0.push_str(header);
        self.0.push('\n');
    }

    /// A line of comment, above what comes next.
    pub fn comment(&mut self, text: &str) {
        // One line, whatever was in the text.
        let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let _ = writeln!(self.0, "# {line}");
    }

    pub fn raw(&mut self, key: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{key} = {value}");
    }

    pub fn text(&mut self, key: &str, value: &str) {
        self.raw(key, quoted(value));
    }

    pub fn texts<T: AsRef<str>>(&mut self, key: &str, values: impl IntoIterator<Item = T>) {
        self.raw(key, list(values));
    }

    pub fn finish(self) -> String {
        self.0
    }
}

pub(super) fn list<T: AsRef<str>>(values: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = values.into_iter().map(|value| quoted(value.as_ref())).collect();
    format!("[{}]", items.join(", "))
}

/// A basic string.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
