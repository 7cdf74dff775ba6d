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

/// Conditions of the object, its listeners, parents and ancestors, each once: `Accepted ResolvedRefs=False(RefNotPermitted)`.
fn conditions(status: &Value) -> String {
    let own = status["conditions"].as_array().into_iter().flatten();
    let listeners = status["listeners"].as_array().into_iter().flatten();
    let ancestors = status["ancestors"].as_array().into_iter().flatten();
    let parents = status["parents"].as_array().into_iter().flatten().chain(ancestors).chain(listeners);
    let of_parents = parents.flat_map(|parent| parent["conditions"].as_array().into_iter().flatten());
    let mut words: Vec<String> = Vec::new();
    for condition in own.chain(of_parents) {
        let text = |name: &str| condition[name].as_str().unwrap_or_default();
        let word = match text("status") {
            "True" => text("type").to_owned(),
            other => format!("{}={other}({})", text("type"), text("reason")),
        };
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words.join(" ")
}
