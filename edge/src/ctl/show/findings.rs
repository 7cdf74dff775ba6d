//! Problems of a configuration, one line each: `edgectl check` and `edgectl get problems`.

use edge_config::problem::{Problem, Severity};
use serde::Serialize;

use super::{View, plural};
use crate::ctl::style::Style;
use crate::ctl::table::one_line;

/// What a running edged found.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Findings(pub Vec<serde_json::Value>);

impl View for Findings {
    fn human(&self, style: Style, _all: bool) -> String {
        let mut out = String::new();
        for problem in &self.0 {
            let text = |name: &str| problem[name].as_str().unwrap_or_default();
            let place = &problem["origin"];
            let place = match (place["file"].as_str(), place["line"].as_u64(), place["column"].as_u64()) {
                (Some(file), Some(line), Some(column)) => format!("{file}:{line}:{column}: "),
                _ => String::new(),
            };
            let object = match text("object") {
                "" => String::new(),
                object => format!("{object}: "),
            };
            let severity = match text("severity") {
                "warning" => style.warn("warning: "),
                "inert" => style.faint("not acted on: "),
                _ => String::new(),
            };
            out.push_str(&format!(
                "{}{severity}{}\n",
                one_line(&place),
                one_line(&format!("{object}{}", text("message")))
            ));
        }
        if out.is_empty() { "no problems\n".to_owned() } else { out }
    }
}

/// What a check found.
#[derive(Debug, Serialize)]
pub struct Checked {
    pub ok: bool,
    pub objects: usize,
    pub errors: usize,
    pub warnings: usize,
    pub inert: usize,
    pub problems: Vec<Problem>,
}

impl Checked {
    /// Sorts and counts. With `strict`, warnings fail the check too.
    pub fn new(mut problems: Vec<Problem>, objects: usize, strict: bool) -> Self {
        problems.sort_by(|a, b| {
            (&a.origin, a.severity, &a.object, &a.message).cmp(&(&b.origin, b.severity, &b.object, &b.message))
        });
        problems.dedup();
        let count = |severity| problems.iter().filter(|problem| problem.severity == severity).count();
        let (errors, warnings, inert) = (count(Severity::Error), count(Severity::Warning), count(Severity::Inert));
        Self { ok: errors == 0 && (!strict || warnings == 0), objects, errors, warnings, inert, problems }
    }
}

impl View for Checked {
    fn human(&self, style: Style, _all: bool) -> String {
        let mut out = String::new();
        for problem in &self.problems {
            let place = problem.origin.as_ref().map(|origin| format!("{origin}: ")).unwrap_or_default();
            let object = problem.object.as_ref().map(|object| format!("{object}: ")).unwrap_or_default();
            let message = one_line(&format!("{object}{}", problem.message));
            let line = match problem.severity {
                Severity::Error => style.bad(&message),
                Severity::Warning => format!("{}{message}", style.warn("warning: ")),
                Severity::Inert => format!("{}{message}", style.faint("not acted on: ")),
            };
            out.push_str(&format!("{}{line}\n", one_line(&place)));
        }
        let verdict = if self.ok { style.good("ok") } else { style.bad("failed") };
        out.push_str(&format!(
            "{verdict}: {}, {}, {}, {} not acted on\n",
            plural(self.objects, "object", "objects"),
            plural(self.errors, "error", "errors"),
            plural(self.warnings, "warning", "warnings"),
            plural(self.inert, "field", "fields"),
        ));
        out
    }
}
