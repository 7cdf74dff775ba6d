//! `edgectl get`.

use serde::Serialize;
use serde_json::Value;

use super::View;
use crate::ctl::style::Style;
use crate::ctl::table::{Cell, Table};
use crate::ctl::yaml::to_yaml;

/// How many objects of each kind there are.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Counts(pub serde_json::Map<String, Value>);

/// All objects of a kind.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Listing(pub Vec<Value>);

/// One object, or the settings.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Single(pub Value);

impl View for Counts {
    fn human(&self, style: Style, _all: bool) -> String {
        if self.0.is_empty() {
            return "no objects\n".to_owned();
        }
        let mut table = Table::new(0, &["KIND", "OBJECTS"]);
        for (kind, count) in &self.0 {
            table.row(vec![Cell::text(&**kind), Cell::number(count)]);
        }
        table.render(style)
    }
}

impl View for Listing {
    fn human(&self, style: Style, _all: bool) -> String {
        if self.0.is_empty() {
            return "no objects\n".to_owned();
        }
        let mut table = Table::new(0, &["NAMESPACE", "NAME", "CONDITIONS", "FROM"]);
        for object in &self.0 {
            let meta = &object["metadata"];
            let text = |name: &str| meta[name].as_str().unwrap_or_default().to_owned();
            table.row(vec![
                Cell::text(text("namespace")),
                Cell::text(text("name")),
                Cell::text(conditions(&object["status"])),
                Cell::faint(text("origin")),
            ]);
        }
        table.render(style)
    }
}

impl View for Single {
    fn human(&self, _style: Style, _all: bool) -> String {
        to_yaml(&self.0)
    }
}

/// Conditions of the object, its parents and ancestors, each once: `Accepted ResolvedRefs=False(RefNotPermitted)`. Of
/// listeners only what is false, with the listener's name.
fn conditions(status: &Value) -> String {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let word = |condition: &Value| {
        let text = |name: &str| condition[name].as_str().unwrap_or_default().to_owned();
        match text("status").as_str() {
            "True" => text("type"),
            other => format!("{}={other}({})", text("type"), text("reason")),
        }
    };
    let mut words: Vec<String> = list(&status["conditions"]).iter().map(word).collect();
    for parent in list(&status["parents"]).iter().chain(&list(&status["ancestors"])) {
        words.extend(list(&parent["conditions"]).iter().map(word));
    }
    for listener in list(&status["listeners"]) {
        let name = listener["name"].as_str().unwrap_or_default();
        let conditions = list(&listener["conditions"]);
        let bad =
            conditions.iter().filter(|condition| condition["status"] != "True" && condition["type"] != "Conflicted");
        words.extend(bad.map(|condition| format!("{name}:{}", word(condition))));
    }
    let mut seen = std::collections::BTreeSet::new();
    words.retain(|word| seen.insert(word.clone()));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_in_few_words() {
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "Why"});
        let status = json!({
            "conditions": [condition("Accepted", "True")],
            "parents": [{"conditions": [condition("Accepted", "True"), condition("ResolvedRefs", "False")]}],
            "listeners": [{"name": "a", "conditions": [condition("Programmed", "False"), condition("Accepted", "True"),
                condition("Conflicted", "False")]}],
        });
        assert_eq!(conditions(&status), "Accepted ResolvedRefs=False(Why) a:Programmed=False(Why)");
        assert_eq!(conditions(&Value::Null), "");
    }
}
