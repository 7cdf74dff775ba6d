//! What Edge promises of Kubernetes, for seconds instead of minutes: a few hundred routes on a real control plane, and an
//! edged that reaches it through `api-fault`. `make kubernetes-demo` is the same at full length, with figures.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use edge_integration::edged::workspace;
use edge_integration::lab::skip;
use edge_integration::netns;
use edge_integration::trials::{Field, Findings, faults, flip, outage, pair, probe, quarantine};

#[test]
fn promises_of_kubernetes_hold() {
    if let Err(why) = netns::available() {
        return skip("promises of Kubernetes", &why);
    }
    let mut findings = Findings::default();
    let mut field = Field::raise("trials", &workspace().join("target/trials"), 200, true);
    field.inside(|field| {
        // On a machine that is busy no time is asked for, only what is seen.
        let plan = |churn| probe::Plan { samples: 10, churn, goal: Duration::from_secs(20) };
        field.await_rest();
        probe::probe(field, &plan(0.0), &mut findings);
        probe::probe(field, &plan(10.0), &mut findings);
        field.await_rest();
        probe::rest(field, Duration::from_secs(3), 512 * 1024, &mut findings);
        flip::flip(field, Duration::from_secs(3), Duration::from_secs(20), &mut findings);
        quarantine::broken_routes(field, 10, &mut findings);
        quarantine::secret(field, 4, &mut findings);
        quarantine::namespaces(field, 1, &mut findings);
        faults::faults(field, Duration::from_secs(1), true, &mut findings);
        faults::quarrel(field, Duration::from_secs(3), &mut findings);
        pair::pair(field, Duration::from_secs(3), &mut findings);
        outage::outage(field, Duration::from_secs(6), &mut findings);
    });
    assert_eq!(findings.broken(), Vec::<String>::new());
}
