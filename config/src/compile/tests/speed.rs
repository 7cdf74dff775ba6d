//! 5,000 HTTPRoutes on one Gateway. The bound is for an optimised build; without optimisation only the outcome counts.

use serde_json::json;

use super::{add, base};
use crate::compile::{Compiler, compile};
use crate::inputs::Inputs;

pub(super) fn many(routes: usize) -> Inputs {
    let mut inputs = base();
    let listener = json!([{"name": "http", "port": 80, "protocol": "HTTP"}]);
    add(&mut inputs.gateways, "edge/gw", 0, json!({"gatewayClassName": "edge", "listeners": listener}));
    for n in 0..routes {
        let name = format!("edge/r{n:05}");
        add(&mut inputs.services, &name, 0, json!({"ports": [{"port": 80}]}));
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
    let inputs = std::sync::Arc::new(inputs);
    let mut best = u64::MAX;
    for _ in 0..30 {
        let start = spent();
        let compiled = compiler.compile(&inputs);
        best = best.min(spent() - start);
        assert_eq!(compiled.snapshot.rules.len(), 5_000);
    }
    println!("5,000 routes that did not change: {} us", best / 1_000);
}
