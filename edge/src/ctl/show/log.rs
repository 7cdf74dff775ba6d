//! `edgectl log` and `edgectl loglevel`.

use std::time::SystemTime;

use serde_json::Value;

use super::{View, plural};
use crate::control::log::{Item, Line};
use crate::control::span;
use crate::ctl::style::Style;
use crate::ctl::table::{Cell, Table, one_line};
use crate::logging::levels::{Level, Levels};
use crate::logging::modules::{ALL, LIBRARIES, MODULES};

/// A line for people.
pub fn line(item: &Item, style: Style) -> String {
    let Line { at, level, module, message, fields, .. } = match item {
        Item::Line(line) => line,
        Item::Missed { missed } => {
            let text = format!(
                "… {} missed: this reader is too slow",
                plural(usize::try_from(*missed).unwrap_or(usize::MAX), "line", "lines")
            );
            return format!("{}\n", style.warn(&text));
        }
    };
    let word = format!("{level:<5}");
    let word = match level {
        Level::Error => style.bad(&word),
        Level::Warn => style.warn(&word),
        Level::Info => style.good(&word),
        Level::Debug | Level::Trace => style.faint(&word),
    };
    let mut out = format!("{} {word} {module:<12} {}", style.faint(at), one_line(message));
    for (name, value) in fields {
        let text = match value {
            Value::String(text) if !text.is_empty() && !text.contains([' ', '"', '=']) => one_line(text),
            other => one_line(&other.to_string()),
        };
        out.push_str(&format!(" {}{text}", style.faint(&format!("{name}="))));
    }
    out.push('\n');
    out
}

impl View for Levels {
    fn human(&self, style: Style, _all: bool) -> String {
        let mut table = Table::new(0, &["MODULE", "LEVEL", "UNTIL", "WHAT"]);
        let now = SystemTime::now();
        let rows = [(ALL, "everything of Edge's")]
            .into_iter()
            .chain(MODULES.iter().map(|module| (module.word, module.about)))
            .chain([(LIBRARIES, "what Edge is made with; warnings and errors, unless it is named or all is trace")]);
        for (word, about) in rows {
            let said = self.said_of(word);
            let until = said.map(|changed| match changed.until {
                Some(at) => {
                    format!("{} ({} left)", span::rfc3339(at), span::rough(at.duration_since(now).unwrap_or_default()))
                }
                None => "it is taken back".to_owned(),
            });
            table.row(vec![
                Cell::text(word),
                match said {
                    Some(changed) => Cell::text(changed.level.as_str()),
                    None if word == LIBRARIES => Cell::faint(self.of_libraries().as_str()),
                    None => Cell::faint(self.of_module(word).as_str()),
                },
                Cell::text(until.unwrap_or_default()),
                Cell::faint(about),
            ]);
        }
        let and = match self.changed.is_empty() {
            true => "nothing differs from it",
            false => "what has an UNTIL is by command, and ends with edged",
        };
        format!("{}[log] level is {}; {and}\n", table.render(style), self.configured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_people() {
        let text = r#"{"number":1,"at":"2026-11-23T23:20:16.005Z","level":"warn","module":"bgp","target":"edge::x",
            "message":"session\nlost","fields":{"peer":"tor","why":"hold timer","asn":64512}}"#;
        let shown = line(&serde_json::from_str(text).unwrap(), Style::default());
        assert_eq!(
            shown,
            "2026-11-23T23:20:16.005Z warn  bgp          session lost peer=tor why=\"hold timer\" asn=64512\n"
        );
        let missed = line(&Item::Missed { missed: 1 }, Style::default());
        assert_eq!(missed, "… 1 line missed: this reader is too slow\n");
    }

    #[test]
    fn levels_for_people() {
        let mut levels = Levels::default();
        let text = levels.human(Style::default(), true);
        assert!(text.ends_with("[log] level is info; nothing differs from it\n") && !text.contains("UNTIL"), "{text}");
        let changes = vec!["tls=trace".parse().unwrap(), "vip=warn".parse().unwrap()];
        levels.ask(crate::logging::levels::Ask { changes, seconds: Some(600) }, SystemTime::now()).unwrap();
        let text = levels.human(Style::default(), true);
        let row = |word: &str| text.lines().find(|line| line.starts_with(&format!("{word} "))).unwrap().to_owned();
        assert!(row("tls").contains("trace") && row("tls").contains("m59s left)"), "{text}");
        assert!(
            row("bgp").contains("warn") && row("proxy").contains("info") && row("libraries").contains("warn"),
            "{text}"
        );
    }
}
