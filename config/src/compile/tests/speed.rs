//! 5,000 HTTPRoutes on one Gateway. The bound is for an optimised build; without optimisation only the outcome counts.

use serde_json::json;

use super::{add, base};
use crate::compile::compile;
use crate::inputs::Inputs;

fn many(routes: usize) -> Inputs {
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

/// `cargo test --profile quick -p edge-config --lib -- --ignored --nocapture speed`
#[test]
#[ignore = "measures"]
#[allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a measurement looks at the clock")]
fn speed() {
    let inputs = many(5_000);
    let mut best = std::time::Duration::MAX;
    for _ in 0..20 {
        let start = std::time::Instant::now();
        let compiled = compile(&inputs);
        best = best.min(start.elapsed());
        assert_eq!(compiled.snapshot.rules.len(), 5_000);
    }
    println!("5,000 routes: {best:?}");
}
