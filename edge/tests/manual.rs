//! The manual of edge.toml is the specification: its examples are read without a fault, and every key that it describes
//! is one that the reader knows.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::sync::Arc;

use edge_config::edge_toml::decode;

const MANUAL: &str = include_str!("../../docs/edge.toml.md");

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

#[test]
fn described_keys_exist() {
    let mut section = "";
    let mut keys = 0;
    for line in MANUAL.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            section = heading;
        }
        let Some(key) = line.strip_prefix("| `").and_then(|rest| rest.split('`').next()) else { continue };
        keys += 1;
        // A table is the wrong value for every key but `target`, and the right fault to be told of.
        let found = faults(&format!("{section}\n{key} = {{}}\n"));
        assert!(
            !found.iter().any(|fault| fault.contains("unknown key") || fault.contains("unknown table")),
            "{section} {key}: {found:?}"
        );
        assert!(found.iter().any(|fault| fault.contains(key)) || key == "target", "{section} {key}: {found:?}");
    }
    assert!(keys >= 40, "{keys}");
    let words = faults("[proxy]\nworker = 1\n").join(" ");
    assert!(words.contains("unknown key `proxy.worker`"), "what is looked for above: {words}");
}
