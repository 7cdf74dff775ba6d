//! The walls between the crates: which dependency may not be reached from which crate, and why.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// (crate, dependency it must not reach, why)
const WALLS: &[(&str, &[&str], &str)] = &[
    (
        "edge-config",
        &[
            "tokio",
            "tokio-uring",
            "hyper",
            "rustls",
            "aws-lc-rs",
            "kube",
            "rtnetlink",
            "sled",
            "socket2",
            "clap",
            "edge-acme",
            "edge",
        ],
        "config is pure: text and values in, values out",
    ),
    (
        "edge-acme",
        &["tokio-uring", "sled", "rtnetlink", "clap", "kube", "edge"],
        "acme decides, signs and asks CAs; storing and serving belong to edge",
    ),
    (
        "edge-bgp",
        &["tokio-uring", "sled", "rtnetlink", "clap", "kube", "axum", "edge-acme", "edge"],
        "bgp speaks to an engine and decides; addresses, routes and sockets of the machine belong to edge",
    ),
    (
        "edge",
        &["openssl", "native-tls", "serde_yaml", "serde_yml", "rustls-pemfile"],
        "rustls and our own YAML reader only",
    ),
];

#[test]
fn no_crate_reaches_past_its_wall() {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked", "--filter-platform", &platform])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let name_of: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (package["id"].as_str().unwrap(), package["name"].as_str().unwrap()))
        .collect();
    let mut needs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in metadata["resolve"]["nodes"].as_array().unwrap() {
        let normal =
            node["deps"].as_array().unwrap().iter().filter(|dependency| {
                dependency["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null())
            });
        needs.insert(
            node["id"].as_str().unwrap(),
            normal.map(|dependency| dependency["pkg"].as_str().unwrap()).collect(),
        );
    }

    let mut breaches = Vec::new();
    for (from, forbidden, why) in WALLS {
        let root = name_of.iter().find(|(_, name)| *name == from).map(|(id, _)| *id);
        let root = root.unwrap_or_else(|| panic!("{from} is no package of this workspace"));
        let mut seen = BTreeSet::from([root]);
        let mut open = vec![root];
        while let Some(package) = open.pop() {
            for next in &needs[package] {
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        for package in seen {
            if package != root && forbidden.contains(&name_of[package]) {
                breaches.push(format!("{from} reaches {}: {why}", name_of[package]));
            }
        }
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
}
