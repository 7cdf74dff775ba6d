//! The log as users ask for it: which of the newest lines, and each as a value.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::span;
use crate::logging::levels::{Level, Word};
use crate::logging::modules::ALL;
use crate::logging::ring::Kept;

/// Which lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// No more than so many of the newest that fit.
    pub lines: u32,
    /// Of this importance or a greater one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// Of one of these; none: of all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<Word>,
    /// Somewhere in the message, or the value of a field; in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Then each further one, until the reader goes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub follow: bool,
}

impl Ask {
    pub fn passes(&self, line: &Kept) -> bool {
        self.level.is_none_or(|level| line.level <= level)
            && (self.modules.is_empty()
                || self.modules.iter().any(|word| word.as_str() == line.module || is_all(word, line)))
            && self.text.as_deref().is_none_or(|text| says(line, &text.to_lowercase()))
    }
}

fn is_all(word: &Word, line: &Kept) -> bool {
    word.as_str() == ALL && line.module != crate::logging::modules::LIBRARIES
}

fn says(line: &Kept, text: &str) -> bool {
    let in_field = |value: &Value| match value {
        Value::String(value) => value.to_lowercase().contains(text),
        other => other.to_string().contains(text),
    };
    line.message.to_lowercase().contains(text) || line.fields.iter().any(|(_, value)| in_field(value))
}

/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Item {
    Line(Line),
    /// Lines that are gone because the reader was too slow, or that had been forgotten when it came.
    Missed {
        missed: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Counts from 1 since the start of edged.
    pub number: u64,
    /// RFC 3339 with milliseconds, UTC.
    pub at: String,
    pub level: Level,
    /// A word as levels have them.
    pub module: String,
    /// Where in the program.
    pub target: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub fields: Map<String, Value>,
}

impl From<&Kept> for Line {
    fn from(kept: &Kept) -> Self {
        Self {
            number: kept.number,
            at: at(kept.at),
            level: kept.level,
            module: kept.module.to_owned(),
            target: kept.target.to_owned(),
            message: kept.message.to_string(),
            fields: kept.fields(),
        }
    }
}

fn at(time: SystemTime) -> String {
    let millis = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.subsec_millis());
    let whole = span::rfc3339(time);
    format!("{}.{millis:03}Z", whole.trim_end_matches('Z'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_lines() {
        let kept = Kept {
            number: 7,
            at: SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_005),
            level: Level::Warn,
            module: "bgp",
            target: "edge::vip::announcer",
            message: "session Lost".into(),
            fields: vec![("peer", Value::from("ToR-1")), ("asn", Value::from(64_512))].into(),
        };
        for (ask, passes) in [
            (r#"{"lines":1}"#, true),
            (r#"{"lines":1,"level":"warn"}"#, true),
            (r#"{"lines":1,"level":"error"}"#, false),
            (r#"{"lines":1,"modules":["tls","bgp"]}"#, true),
            (r#"{"lines":1,"modules":["all"]}"#, true),
            (r#"{"lines":1,"modules":["vip"]}"#, false),
            (r#"{"lines":1,"text":"tor-"}"#, true),
            (r#"{"lines":1,"text":"LOST"}"#, true),
            (r#"{"lines":1,"text":"64512"}"#, true),
            (r#"{"lines":1,"text":"peer"}"#, false),
        ] {
            assert_eq!(serde_json::from_str::<Ask>(ask).unwrap().passes(&kept), passes, "{ask}");
        }
        let line = serde_json::to_string(&Item::Line(Line::from(&kept))).unwrap();
        assert!(
            line.starts_with(r#"{"number":7,"at":"1970-01-01T00:00:01.005Z","level":"warn","module":"bgp""#),
            "{line}"
        );
        assert_eq!(serde_json::from_str::<Item>(&line).unwrap(), Item::Line(Line::from(&kept)));
        assert_eq!(serde_json::from_str::<Item>(r#"{"missed":3}"#).unwrap(), Item::Missed { missed: 3 });
    }
}
