//! What must hold for every configuration, tried with random ones; and how fast compile is.

mod memo;
mod outdated;
mod properties;
mod speed;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::inputs::{Created, Inputs, Meta, Object, Objects};
use crate::names::ObjectKey;
use crate::problem::Origin;
use crate::settings::{AddressRange, Pool, Settings};

/// Adds an object given as JSON of its spec.
pub(crate) fn add<T: DeserializeOwned>(objects: &mut Objects<T>, name: &str, created: u32, spec: serde_json::Value) {
    let key = ObjectKey::parse(name);
    let meta = Meta {
        key: key.clone(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        generation: 1,
        created: Created::parse(&format!("2026-01-01T00:00:{created:02}Z")).filter(|_| created > 0),
        origin: Origin { file: "test".into(), line: 1, column: 1 },
    };
    let spec = serde_json::from_value(spec).unwrap_or_else(|error| panic!("{name}: {error}"));
    objects.insert(key, Arc::new(Object { meta, spec }));
}

/// Inputs with a class `edge` and a pool of 250 addresses.
pub(crate) fn base() -> Inputs {
    let pool = Pool::new("test", vec![AddressRange::parse("10.0.0.1-10.0.0.250").unwrap()]);
    let settings = Settings { pools: vec![pool], ..Settings::default() };
    let mut inputs = Inputs { settings: Arc::new(settings), ..Inputs::default() };
    let class = serde_json::json!({"controllerName": "edge.internal/gateway-controller"});
    add(&mut inputs.gateway_classes, "edge", 0, class);
    inputs
}
