//! What is in `monitoring/`: promtool takes the rules and their tests, every alert is tested and tells which command says
//! more, and no rule or panel names a metric that edged does not have, or not of that type.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use edge_integration::edged::{Said, edgectl, run, workspace};
use edge_integration::lab::{self, Lab};
use serde_json::Value;

fn file(name: &str) -> String {
    std::fs::read_to_string(workspace().join("monitoring").join(name)).unwrap()
}

/// `None`: skipped, loudly.
fn promtool(scenario: &str, arguments: &[&str]) -> Option<Said> {
    static FETCHED: OnceLock<Said> = OnceLock::new();
    let tool = workspace().join("integration/run/promtool");
    let fetched = FETCHED.get_or_init(|| run(&tool, &["--fetch"]));
    if fetched.code != Some(0) {
        lab::skip(scenario, &format!("no promtool: {}", fetched.stderr.trim()));
        return None;
    }
    Some(run(&tool, arguments))
}

#[test]
fn promtool_takes_the_rules() {
    let path = workspace().join("monitoring/alerts.yaml");
    let Some(said) = promtool("promtool_takes_the_rules", &["check", "rules", path.to_str().unwrap()]) else { return };
    assert_eq!(said.code, Some(0), "{said:?}");
}

#[test]
fn each_alert_speaks_when_it_must() {
    let path = workspace().join("monitoring/alerts.test.yaml");
    let Some(said) = promtool("each_alert_speaks_when_it_must", &["test", "rules", path.to_str().unwrap()]) else {
        return;
    };
    assert_eq!(said.code, Some(0), "{said:?}");
}

/// The lines of a YAML file that say `KEY: VALUE`, in order.
fn values<'t>(text: &'t str, key: &str) -> Vec<&'t str> {
    let of = |line: &'t str| line.trim_start_matches([' ', '-', '{']).strip_prefix(key)?.strip_prefix(": ");
    text.lines().filter_map(of).collect()
}

#[test]
fn each_alert_is_tested_and_says_where_to_look() {
    let (rules, tests) = (file("alerts.yaml"), file("alerts.test.yaml"));
    let alerts = values(&rules, "alert");
    assert!(alerts.len() > 15, "{alerts:?}");
    assert_eq!(alerts.len(), alerts.iter().collect::<BTreeSet<_>>().len(), "each name once");
    // A test that expects nothing alone would be content with an alert that never speaks.
    let speaks: BTreeSet<&str> = values(&tests, "alertname").into_iter().filter(|it| !it.contains(',')).collect();
    for alert in &alerts {
        assert!(speaks.contains(alert), "no test lets {alert} speak");
    }
    for key in ["severity", "summary", "why", "runbook"] {
        let found =
            if key == "severity" { rules.matches("labels: {severity: ").count() } else { values(&rules, key).len() };
        assert_eq!(found, alerts.len(), "each has {key}");
    }
    let severities = rules.matches("{severity: page}").count() + rules.matches("{severity: ticket}").count();
    assert_eq!(severities, alerts.len());

    // What is to be typed there exists.
    let mut commands = BTreeSet::new();
    for runbook in values(&rules, "runbook") {
        assert!(runbook.contains("edgectl "), "{runbook}");
        for rest in runbook.split("edgectl ").skip(1) {
            let is_word = |word: &&str| word.chars().all(|letter| letter.is_ascii_lowercase());
            let first = rest.split([' ', ',', ';', ':', '"']).next().unwrap();
            let second = rest.split(' ').nth(1).map(|word| word.trim_end_matches([',', ';', ':', '"'])).filter(is_word);
            commands.insert((first, if first == "cert" { second } else { None }));
        }
    }
    assert!(commands.len() > 5, "{commands:?}");
    for (command, below) in commands {
        let words: Vec<&str> =
            [command].into_iter().chain(below).chain((!command.starts_with('-')).then_some("--help")).collect();
        let said = edgectl(&words);
        assert_eq!(said.code, Some(0), "edgectl {words:?}: {said:?}");
    }
}

/// The families that edged's sources declare, with their types.
fn declared() -> BTreeMap<String, &'static str> {
    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    let mut files = Vec::new();
    sources(&workspace().join("edge/src"), &mut files);
    let mut families = BTreeMap::new();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        for (place, _) in text.match_indices("\"edge_") {
            let Some((name, rest)) = text[place + 1..].split_once('"') else { continue };
            let word = rest.trim_start_matches([',', ' ', '\n']).trim_start_matches("MetricType::");
            let word = word.split(|letter: char| !letter.is_ascii_alphabetic()).next().unwrap_or_default();
            let metric = match word {
                "Counter" => "counter",
                "Gauge" => "gauge",
                "Histogram" => "histogram",
                // A table of counters that are written one after the other.
                _ if path.ends_with("authorities/tally.rs") => "counter",
                _ => continue,
            };
            families.insert(name.to_owned(), metric);
        }
    }
    families
}

/// What a sample of a family is called.
fn samples(families: &BTreeMap<String, &str>) -> BTreeSet<String> {
    let of = |(name, metric): (&String, &&str)| match *metric {
        "counter" => vec![format!("{name}_total")],
        "histogram" => ["bucket", "sum", "count"].map(|end| format!("{name}_{end}")).to_vec(),
        _ => vec![name.clone()],
    };
    families.iter().flat_map(of).collect()
}

/// The metrics of Edge that an expression names, each with the labels that it is selected by.
fn named(expression: &str) -> Vec<(String, Vec<(String, String)>)> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let mut found = Vec::new();
    for (place, _) in expression.match_indices("edge_") {
        if expression[..place].ends_with(is_name) {
            continue;
        }
        let rest = &expression[place..];
        let (name, rest) = rest.split_at(rest.find(|letter| !is_name(letter)).unwrap_or(rest.len()));
        let selector = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(inside, _)| inside);
        let matchers = selector.split("\",").filter_map(|matcher| {
            let (label, value) = matcher.split_once(['=', '!'])?;
            Some((label.trim().to_owned(), value.trim_start_matches(['=', '~']).trim_matches('"').to_owned()))
        });
        found.push((name.to_owned(), matchers.collect()));
    }
    found
}

/// What the dashboard says under one of these keys.
fn dashboard(keys: &[&str]) -> Vec<String> {
    fn collect(value: &Value, keys: &[&str], found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    match value {
                        Value::String(text) if keys.contains(&&**key) => found.push(text.clone()),
                        other => collect(other, keys, found),
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|value| collect(value, keys, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    collect(&serde_json::from_str(&file("dashboard.json")).unwrap(), keys, &mut found);
    assert!(found.len() > 40, "{}", found.len());
    found
}

/// Every expression of the rules and of the dashboard.
fn expressions() -> Vec<String> {
    let mut found = dashboard(&["expr", "query", "definition"]);
    // An expression of the rules is from `expr:` to the next key.
    for rule in file("alerts.yaml").split("expr:").skip(1) {
        found.push(rule.split("\n        for:").next().unwrap().split("\n        labels:").next().unwrap().to_owned());
    }
    found
}

#[test]
fn promtool_takes_what_the_dashboard_asks() {
    let mut rules = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
    for (number, expression) in dashboard(&["expr"]).iter().enumerate() {
        // As Grafana fills them in.
        let filled = expression.replace("$__rate_interval", "5m").replace("$instance", ".+");
        rules.push_str(&format!("      - {{record: 'panel:{number}', expr: {}}}\n", Value::from(filled)));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rules.yaml");
    std::fs::write(&path, &rules).unwrap();
    let Some(said) = promtool("promtool_takes_what_the_dashboard_asks", &["check", "rules", path.to_str().unwrap()])
    else {
        return;
    };
    assert_eq!(said.code, Some(0), "{said:?}\n{rules}");
}

#[test]
fn nothing_is_named_that_edged_does_not_have() {
    let families = declared();
    let known = samples(&families);
    let mut lab = Lab::new();
    lab.start(&[]);
    lab.edged().wait_control();
    let socket = lab.path("edged.sock");
    let said = run(Path::new("curl"), &["-sS", "--unix-socket", socket.to_str().unwrap(), "http://edge/metrics"]);
    let page =
        [said.stdout, std::fs::read_to_string(workspace().join("edge/tests/golden/metrics.txt")).unwrap()].concat();

    // The sources are read rightly: what edged shows is what was found in them.
    let mut shown = 0;
    for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, metric) = line.split_once(' ').unwrap();
        let name = if metric == "counter" { name.trim_end_matches("_total") } else { name };
        assert_eq!(families.get(name), Some(&metric), "{line}");
        shown += 1;
    }
    assert!(shown > 40, "{page}");

    let samples_of =
        |name: &str| page.lines().filter(|line| line.starts_with(&format!("{name}{{"))).collect::<Vec<_>>();
    for expression in expressions() {
        for (name, matchers) in named(&expression) {
            assert!(known.contains(&name), "edged has no {name}: {expression}");
            let samples = samples_of(&name);
            for (label, value) in matchers.iter().filter(|(label, _)| label != "instance") {
                // Where the page has the metric, it has the label, and of a closed set every value.
                if samples.is_empty() {
                    continue;
                }
                assert!(
                    samples.iter().any(|line| line.contains(&format!("{label}=\""))),
                    "{name} has no {label}: {expression}"
                );
                for value in
                    value.split('|').filter(|_| ["state", "level", "reason", "severity", "kind"].contains(&&**label))
                {
                    let wanted = format!("{label}=\"{value}\"");
                    assert!(samples.iter().any(|line| line.contains(&wanted)), "{name} has no {wanted}: {expression}");
                }
            }
        }
    }
}
