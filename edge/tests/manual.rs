//! The manual of edge.toml is the specification: its examples are read without a fault, and every key that it describes
//! is one that the reader knows.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::sync::Arc;

use edge_config::edge_toml::decode;

const MANUAL: &str = include_str!("../../docs/edge.toml.md");

/// Keys whose value is a table that may be empty.
const TABLES: [&str; 4] = ["target", "labels", "bfd", "attributes"];

fn faults(text: &str) -> Vec<String> {
    let file: Arc<str> = "edge.toml".into();
    decode(&file, text).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

#[test]
fn examples_are_valid() {
    let examples: Vec<&str> =
        MANUAL.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect();
    assert!(examples.len() >= 2);
    for example in examples {
        assert_eq!(faults(example), [""; 0], "{example}");
    }
}

/// Without this nothing else in the section is looked at.
fn beside(section: &str) -> &'static str {
    if section == "[[issuers.NAME.solver]]" { "type = \"dns-01\"\n" } else { "" }
}

#[test]
fn described_keys_exist() {
    let mut section = "";
    let mut keys = 0;
    for line in MANUAL.lines() {
        if let Some(heading) = line.strip_prefix("## ").or_else(|| line.strip_prefix("### ")) {
            section = heading;
        }
        let Some(key) = line.strip_prefix("| `").and_then(|rest| rest.split('`').next()) else { continue };
        // A table of the values of one key.
        if key.starts_with('"') {
            continue;
        }
        keys += 1;
        // A table is the wrong value for every other key, and the right fault to be told of.
        let named = section.replace("NAME", "name").replace("GROUP/SOLVER", "example.com/solver");
        let beside = if key == "type" { "" } else { beside(section) };
        let found = faults(&format!("{named}\n{beside}{key} = {{}}\n"));
        assert!(
            !found.iter().any(|fault| fault.contains("unknown key") || fault.contains("unknown table")),
            "{section} {key}: {found:?}"
        );
        assert!(found.iter().any(|fault| fault.contains(key)) || TABLES.contains(&key), "{section} {key}: {found:?}");
    }
    assert!(keys >= 40, "{keys}");
    let words = faults("[proxy]\nworker = 1\n").join(" ");
    assert!(words.contains("unknown key `proxy.worker`"), "what is looked for above: {words}");
}
