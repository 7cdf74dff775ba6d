//! The official Gateway API conformance suite, whole, against `edged` on a real control plane. `make conformance` runs the
//! same and writes the report.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use edge_integration::cluster::suite::Run;
use edge_integration::cluster::{Channel, Cluster};
use edge_integration::edged::workspace;
use edge_integration::lab::skip;
use edge_integration::netns;

#[test]
fn every_test_of_every_gateway_profile_passes() {
    if let Err(why) = netns::available() {
        return skip("conformance", &why);
    }
    let mut cluster = Cluster::start("suite", &workspace().join("target/conformance/suite"));
    cluster.define(Channel::Experimental);
    cluster.start_node();
    cluster.start_edge();
    cluster.kubectl(&["wait", "--for=condition=Accepted", "--timeout=60s", "gatewayclass", "--all"]);
    let run = Run { only: None, parallel: 4, limit: Duration::from_secs(1800), flags: Vec::new() };
    let outcome = run.on(&mut cluster, |line| println!("{line}"));
    println!("{}", outcome.summary());
    let said: Vec<String> = outcome.said.iter().map(|(name, said)| format!("## {name}\n{said}\n")).collect();
    assert!(outcome.passed(), "{}\n{}", outcome.summary(), said.join("\n"));
}
