//! One version of the inputs after the other: what was compiled before saves work, and changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::properties::{NAMESPACES, Piece, bytes, inputs, pieces};
use super::{add, speed};
use crate::compile::{Compiler, compile};
use crate::inputs::{Inputs, Object};
use crate::names::ObjectKey;

/// Some of the objects of one list, some of which another list replaces, and some of the Services and TLS policies.
fn version(first: &[Piece], second: &[Piece], choice: u64) -> Inputs {
    let bit = |place: usize| choice.rotate_right(u32::try_from(place).unwrap()) & 3;
    let mut chosen: BTreeMap<_, &Piece> = BTreeMap::new();
    for (_, piece) in first.iter().enumerate().filter(|(place, _)| bit(*place) != 0) {
        chosen.insert((piece.0, piece.1.clone()), piece);
    }
    for (_, piece) in second.iter().enumerate().filter(|(place, _)| bit(*place + 7) == 0) {
        chosen.insert((piece.0, piece.1.clone()), piece);
    }
    let pieces: Vec<Piece> = chosen.into_values().cloned().collect();
    let mut inputs = inputs(&pieces);
    for (place, namespace) in NAMESPACES.into_iter().enumerate() {
        let name = format!("{namespace}/web");
        if bit(place + 40) == 0 {
            inputs.services.remove(&ObjectKey::parse(&name));
        } else if bit(place + 43) == 0 {
            inputs.services.remove(&ObjectKey::parse(&name));
            add(&mut inputs.services, &name, 0, json!({"ports": [{"port": 80, "appProtocol": "kubernetes.io/h2c"}]}));
        }
        if bit(place + 46) == 0 {
            let target = json!([{"group": "", "kind": "Service", "name": "web"}]);
            let validation = json!({"hostname": "web.test", "wellKnownCACertificates": "System"});
            let spec = json!({"targetRefs": target, "validation": validation});
            add(&mut inputs.backend_tls_policies, &format!("{namespace}/policy"), 0, spec);
        }
    }
    inputs
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_was_compiled_before_changes_nothing(
        first in pieces(),
        second in pieces(),
        choices in prop::collection::vec(any::<u64>(), 2..6),
    ) {
        let mut compiler = Compiler::default();
        // Small steps too, in which most stays: few bits differ from the choice before.
        let steps = choices.iter().flat_map(|choice| [*choice, choice ^ 2, choice ^ (1 << 40), choice ^ (1 << 55)]);
        for choice in steps {
            let inputs = Arc::new(version(&first, &second, choice));
            let (fresh, after) = (compile(&inputs), compiler.compile(&inputs));
            prop_assert_eq!(bytes(&fresh), bytes(&after));
            prop_assert_eq!(fresh, after);
        }
    }
}

/// How many rules of the second compile are the very ones of the first.
fn shared(change: impl FnOnce(&mut Inputs)) -> (usize, usize) {
    let mut compiler = Compiler::default();
    let mut inputs = Arc::new(speed::many(50));
    let before = compiler.compile(&inputs).snapshot;
    let mut next = Inputs::clone(&inputs);
    change(&mut next);
    inputs = Arc::new(next);
    let after = compiler.compile(&inputs);
    assert_eq!(after, compile(&inputs));
    let is_shared = |rule: &&Arc<_>| before.rules.iter().any(|known| Arc::ptr_eq(known, rule));
    (after.snapshot.rules.iter().filter(is_shared).count(), after.snapshot.rules.len())
}

#[test]
fn what_did_not_change_is_shared() {
    let route = |backend: &str| json!({"parentRefs": [{"name": "gw"}], "rules": [{"backendRefs": [{"name": backend, "port": 80}]}]});
    assert_eq!(shared(|_| {}), (50, 50), "nothing changed");
    let first = |inputs: &mut Inputs| add(&mut inputs.http_routes, "edge/a", 0, route("r00000"));
    assert_eq!(shared(first), (50, 51), "a route before all others");
    let with_service = |inputs: &mut Inputs| {
        add(&mut inputs.services, "edge/z", 0, json!({"ports": [{"port": 80}]}));
        add(&mut inputs.http_routes, "edge/z", 0, route("z"));
    };
    assert_eq!(shared(with_service), (50, 51), "a route with its Service, after all others");
    let service = |inputs: &mut Inputs| {
        inputs.services.remove(&ObjectKey::new("edge", "r00007"));
    };
    // Upstreams are numbered by first use: those after it get other numbers.
    assert_eq!(shared(service), (7, 50), "a Service is gone");
    let moved = |inputs: &mut Inputs| {
        for route in inputs.http_routes.values_mut() {
            let mut meta = route.meta.clone();
            meta.origin.line += 3;
            *route = Arc::new(Object { meta, spec: route.spec.clone() });
        }
    };
    assert_eq!(shared(moved), (50, 50), "other lines of the file");
    let gateway = |inputs: &mut Inputs| {
        let key = ObjectKey::new("edge", "gw");
        let mut object = Object::clone(&inputs.gateways[&key]);
        object.spec.listeners[0].port = 81;
        inputs.gateways.insert(key, Arc::new(object));
    };
    assert_eq!(shared(gateway), (0, 50), "the Gateway");
}
