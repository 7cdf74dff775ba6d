//! Golden cases: each folder of `cases/` is a configuration with what must follow from it.
//!
//! A case holds `edge.toml` (else `golden/base.toml` is used), manifests (`*.yaml`, beside `golden/base.yaml`), and `requests.txt`, a table of requests of which
//! each line ends in `→` and its outcome. `snapshot.txt`, `status.txt` and these outcomes are compared; `UPDATE=1` writes
//! them anew. They are read by eye before they are committed: the specification decides, not the code.
//!
//! Certificates stand in for themselves: a Secret's `tls.crt`, or a `ca.crt`, that says `good` is good, `good ca` is a
//! CA, `good for NAME,NAME by ISSUER` says more, and any other is broken for the reason it gives.
//!
//! `cluster*.yaml` stands for what an API server serves, `cert-manager.txt` for a cert-manager that runs.

#![allow(clippy::disallowed_methods, reason = "a test runner reads its cases")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a case that cannot be read is a failure of the test")]

#[path = "golden/announce.rs"]
mod announce;
#[path = "golden/inputs.rs"]
mod inputs;
#[path = "golden/print.rs"]
mod print;
#[path = "golden/request.rs"]
mod request;

use std::fs;
use std::path::{Path, PathBuf};

use edge_config::names::Kind;
use edge_config::report::{CONDITION_TYPES, Report};

#[test]
fn golden_cases() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut cases: Vec<PathBuf> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.retain(|path| path.is_dir());
    cases.sort();
    assert!(!cases.is_empty(), "no cases in {}", root.display());
    let only = std::env::var("CASE").unwrap_or_default();
    let update = std::env::var_os("UPDATE").is_some();
    let mut wrong = Vec::new();
    for case in cases.iter().filter(|case| case.ends_with(&only) || only.is_empty()) {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let inputs = inputs::read(case);
        let compiled = edge_config::compile(&inputs.inputs);
        let mut expect = |file: &str, actual: String| {
            let path = case.join(file);
            let expected = fs::read_to_string(&path).unwrap_or_default();
            if expected == actual {
                return;
            }
            if update {
                fs::write(&path, &actual).unwrap();
            } else {
                wrong.push(format!("{name}/{file}:\n{}", difference(&expected, &actual)));
            }
        };
        expect("snapshot.txt", print::snapshot(&compiled));
        expect("status.txt", print::status(&compiled, &inputs.problems));
        known_types(&name, &compiled.report);
        if let Ok(table) = fs::read_to_string(case.join("requests.txt")) {
            expect("requests.txt", request::table(&table, &compiled));
        }
    }
    assert!(wrong.is_empty(), "{} differ; UPDATE=1 rewrites them\n\n{}", wrong.len(), wrong.join("\n"));
}

/// A condition type that is not in the list would stay on objects when it is over.
fn known_types(case: &str, report: &Report) {
    // What is written whole, or to nobody's object but ours.
    let elsewhere = [Kind::Service, Kind::Certificate, Kind::Issuer, Kind::ClusterIssuer];
    for (object, report) in report.objects.iter().filter(|(object, _)| !elsewhere.contains(&object.kind)) {
        let own = report.conditions.iter().chain(report.listeners.iter().flat_map(|listener| &listener.conditions));
        for condition in own.chain(report.parents.iter().flat_map(|parent| &*parent.conditions)) {
            assert!(CONDITION_TYPES.contains(&condition.kind), "{case}: {object} has {}", condition.kind);
        }
    }
}

fn difference(expected: &str, actual: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), actual.lines().collect());
    let lost = old.iter().filter(|line| !new.contains(line)).map(|line| format!("  - {line}\n"));
    let gained = new.iter().filter(|line| !old.contains(line)).map(|line| format!("  + {line}\n"));
    let text: String = lost.chain(gained).collect();
    if text.is_empty() { "  (the order of lines differs)\n".to_owned() } else { text }
}
