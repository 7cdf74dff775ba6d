//! 5,000 HTTPRoutes on one Gateway. The bound is for an optimised build; without optimisation only the outcome counts.

use std::sync::Arc;

use serde_json::json;

use super::{add, base};
use crate::compile::{Compiler, compile};
use crate::core::SERVICE_NAME_LABEL;
use crate::inputs::Inputs;
use crate::names::ObjectKey;

pub(super) fn many(routes: usize) -> Inputs {
    let mut inputs = base();
    let listener = json!([{"name": "http", "port": 80, "protocol": "HTTP"}]);
    add(&mut inputs.gateways, "edge/gw", 0, json!({"gatewayClassName": "edge", "listeners": listener}));
    for n in 0..routes {
        let name = format!("edge/r{n:05}");
        add(&mut inputs.services, &name, 0, json!({"ports": [{"port": 80}]}));
        add(&mut inputs.endpoint_slices, &name, 0, slice());
        label(&mut inputs, &name, &format!("r{n:05}"));
        add(
            &mut inputs.http_routes,
            &name,
            0,
            json!({
                "parentRefs": [{"name": "gw"}],
                "hostnames": [format!("h{n}.example.com")],
                "rules": [{"backendRefs": [{"name": format!("r{n:05}"), "port": 80}]}],
            }),
        );
    }
    inputs
}

fn slice() -> serde_json::Value {
    let endpoint = |last: u8| {
        let target = json!({"kind": "Pod", "namespace": "edge", "name": format!("pod-{last}")});
        json!({"addresses": [format!("10.9.0.{last}")], "nodeName": "node-1", "targetRef": target})
    };
    json!({"addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": [endpoint(2), endpoint(3)]})
}

/// Makes a slice one of a Service.
fn label(inputs: &mut Inputs, slice: &str, service: &str) {
    let slice = inputs.endpoint_slices.get_mut(&ObjectKey::parse(slice)).and_then(Arc::get_mut).unwrap();
    slice.meta.labels.insert(SERVICE_NAME_LABEL.to_owned(), service.to_owned());
}

#[test]
fn thousands_of_routes() {
    let compiled = compile(&many(5_000));
    assert_eq!(compiled.snapshot.rules.len(), 5_000);
    assert_eq!(compiled.snapshot.upstreams.len(), 5_000);
}

/// `CARGO_PROFILE_TEST_OPT_LEVEL=3 cargo test -p edge-config --lib -- --ignored --nocapture speed`
#[test]
#[ignore = "measures"]
#[allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a measurement reads a clock and tells it")]
fn speed() {
    // Nanoseconds on a CPU of this thread, so that a busy machine does not count.
    let spent = || -> u64 {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    };
    let inputs = many(5_000);
    let mut best = u64::MAX;
    for _ in 0..30 {
        let start = spent();
        let compiled = compile(&inputs);
        best = best.min(spent() - start);
        assert_eq!(compiled.snapshot.rules.len(), 5_000);
    }
    println!("5,000 routes: {} us", best / 1_000);
    let mut compiler = Compiler::default();
    let inputs = Arc::new(inputs);
    let mut more = Inputs::clone(&inputs);
    let spec = json!({
        "parentRefs": [{"name": "gw"}],
        "hostnames": ["more.example.com"],
        "rules": [{"backendRefs": [{"name": "r00007", "port": 80}]}],
    });
    // Between the others, so that half of the rules get other numbers.
    add(&mut more.http_routes, "edge/r02500-more", 0, spec.clone());
    let between = Arc::new(more);
    let mut more = Inputs::clone(&inputs);
    add(&mut more.http_routes, "edge/s", 0, spec);
    let last = Arc::new(more);
    for (what, versions) in [
        ("nothing", [&inputs, &inputs]),
        ("a route after all others", [&inputs, &last]),
        ("a route between others", [&inputs, &between]),
    ] {
        // The mean: what a thread has spent is brought up to date with every tick only.
        let rounds: Vec<_> = (0..62).map(|round| Arc::new(Inputs::clone(versions[round & 1]))).collect();
        let mut start = 0;
        for (round, inputs) in rounds.iter().enumerate() {
            if round == 12 {
                start = spent();
            }
            let compiled = compiler.compile(inputs);
            assert_eq!(compiled.snapshot.rules.len(), inputs.http_routes.len());
        }
        let mean = (spent() - start) / 50;
        println!("5,000 routes, changed: {what}: {} us", mean / 1_000);
    }
}
