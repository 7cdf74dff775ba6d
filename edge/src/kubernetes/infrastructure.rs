//! What stands in the cluster for a Gateway: a Service without selector and the EndpointSlices that lead to the Gateway's
//! addresses, so that `kubectl get services` shows it, its name resolves inside the cluster, and labels and annotations
//! of `spec.infrastructure` have something to be on.
//!
//! In: worlds, and whether this edge writes. Out: server-side applies of these objects, once per change. They belong to
//! their Gateway (ownerReferences), so they go with it; one whose Gateway is no longer ours is deleted. No traffic takes
//! notice of them.
//!
//! Standards: Gateway API v1.6.1 GatewayInfrastructure, GEP-1762 (the label gateway.networking.k8s.io/gateway-name);
//! core/v1 Service without selector, discovery.k8s.io/v1.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use edge_config::gateway::{GatewaySpec, Protocol};
use edge_config::inputs::Object;
use edge_config::names::{Kind, ObjectKey, ObjectRef};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::calls::{self, CallError, Place};
use super::client::Api;
use super::leadership::View;
use super::mirror::Mirror;
use super::watch::{SOURCE, SourceState};
use crate::control::world::World;

/// How often it is looked whether all is still there, and nothing that should not be.
const LOOK: Duration = Duration::from_secs(600);
const SERVICES: &str = "api/v1";
const SLICES: &str = "apis/discovery.k8s.io/v1";
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const MANAGER: &str = "edge";
const COMPONENT: &str = "app.kubernetes.io/component";
const GATEWAY: &str = "gateway";

/// One object to apply.
#[derive(Debug, Clone, PartialEq)]
struct Applied {
    place: Place,
    body: Value,
}

/// The objects of one Gateway, the Service first.
fn objects(gateway: &Object<GatewaySpec>, version: &str, uid: &str, addresses: &[IpAddr]) -> Vec<Applied> {
    let key = &gateway.meta.key;
    let name = service_name(&key.name);
    let mut labels = Map::new();
    let mut annotations = Map::new();
    if let Some(infrastructure) = &gateway.spec.infrastructure {
        labels.extend(infrastructure.labels.iter().map(|(key, value)| (key.clone(), json!(value))));
        annotations.extend(infrastructure.annotations.iter().map(|(key, value)| (key.clone(), json!(value))));
    }
    labels.insert(GATEWAY_NAME.to_owned(), json!(label_value(&key.name)));
    labels.insert(MANAGED_BY.to_owned(), json!(MANAGER));
    labels.insert(COMPONENT.to_owned(), json!(GATEWAY));
    let owner = json!([{
        "apiVersion": format!("gateway.networking.k8s.io/{version}"), "kind": "Gateway", "name": &*key.name, "uid": uid,
        "controller": true, "blockOwnerDeletion": false,
    }]);
    let metadata = |name: &str, labels: &Map<String, Value>| {
        json!({"name": name, "namespace": &*key.namespace, "labels": labels, "annotations": annotations,
            "ownerReferences": owner})
    };
    let ports: BTreeSet<(&str, u16)> =
        gateway.spec.listeners.iter().map(|l| (transport(&l.protocol), l.port)).collect();
    let ports: Vec<Value> = ports
        .iter()
        .map(|(transport, port)| {
            json!({"name": format!("{}-{port}", transport.to_ascii_lowercase()), "protocol": transport, "port": port})
        })
        .collect();
    let mut out = vec![Applied {
        place: Place::new(SERVICES, "services", &key.namespace, &name),
        body: json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata(&name, &labels),
            // Headless: its name leads to the addresses themselves, and no cluster address is spent.
            "spec": {"type": "ClusterIP", "clusterIP": "None", "ports": ports},
        }),
    }];
    labels.insert("kubernetes.io/service-name".to_owned(), json!(name));
    labels.insert("endpointslice.kubernetes.io/managed-by".to_owned(), json!("edge.internal"));
    for (family, is_v4) in [("IPv4", true), ("IPv6", false)] {
        let addresses: Vec<String> = addresses
            .iter()
            .filter(|address| address.is_ipv4() == is_v4 && is_routable(**address))
            .map(IpAddr::to_string)
            .collect();
        if addresses.is_empty() {
            continue;
        }
        let endpoints: Vec<Value> =
            addresses.iter().map(|address| json!({"addresses": [address], "conditions": {"ready": true}})).collect();
        let name = format!("{name}-{}", family.to_ascii_lowercase());
        out.push(Applied {
            place: Place::new(SLICES, "endpointslices", &key.namespace, &name),
            body: json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata(&name, &labels),
                "addressType": family, "endpoints": endpoints, "ports": ports,
            }),
        });
    }
    out
}

fn transport(protocol: &Protocol) -> &'static str {
    if *protocol == Protocol::Udp { "UDP" } else { "TCP" }
}

/// What the API server takes for an endpoint.
fn is_routable(address: IpAddr) -> bool {
    let is_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(is_local || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

/// A DNS label that is the Gateway's alone: names of Gateways may be 253 characters long and hold dots.
fn service_name(gateway: &str) -> String {
    let readable: String = gateway.chars().take(40).map(|c| if c == '.' { '-' } else { c }).collect();
    format!("edge-{}-{:010x}", readable.trim_end_matches('-'), hash(gateway))
}

/// Label values hold 63 characters.
fn label_value(gateway: &str) -> String {
    if gateway.len() <= 63 {
        return gateway.to_owned();
    }
    let readable: String = gateway.chars().take(52).collect();
    format!("{}-{:010x}", readable.trim_end_matches(['-', '.']), hash(gateway))
}

/// 40 bits of FNV-1a.
fn hash(text: &str) -> u64 {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    (hash ^ (hash >> 40)) & 0xff_ffff_ffff
}

/// The objects of every Gateway that is ours and known to the API, by Gateway.
fn wanted(world: &World, mirror: &Mirror, version: &str) -> BTreeMap<ObjectKey, Vec<Applied>> {
    let mut wanted = BTreeMap::new();
    for (object, report) in &world.compiled.report.objects {
        let is_accepted = report.conditions.iter().any(|one| one.kind == "Accepted" && one.status);
        if object.kind != Kind::Gateway || !is_accepted {
            continue;
        }
        let Some(gateway) = world.inputs.gateways.get(&object.key) else { continue };
        let Some(seen) = mirror.look(object).filter(|seen| !seen.is_leaving) else { continue };
        if &*gateway.meta.origin.file == SOURCE {
            wanted.insert(object.key.clone(), objects(gateway, version, &seen.uid, &report.addresses));
        }
    }
    wanted
}

/// Keeps them.
pub(super) struct Infrastructure {
    pub api: Api,
    pub mirror: Mirror,
    pub source: watch::Receiver<Arc<SourceState>>,
    pub worlds: watch::Receiver<Arc<World>>,
    pub view: watch::Receiver<View>,
    pub stop: watch::Receiver<bool>,
}

impl Infrastructure {
    pub async fn run(mut self) {
        let mut stop = self.stop.clone();
        let mut applied: BTreeMap<ObjectKey, Vec<Applied>> = BTreeMap::new();
        let mut backoff = Backoff::default();
        let mut look_at = Instant::now();
        loop {
            let next;
            if self.view.borrow().may_write(Instant::now()) && self.source.borrow().is_complete {
                let world = self.worlds.borrow_and_update().clone();
                let wanted = wanted(&world, &self.mirror, self.source.borrow().version(Kind::Gateway));
                let is_due = look_at <= Instant::now();
                match self.keep(&world, wanted, &mut applied, is_due).await {
                    Ok(()) => {
                        backoff.reset();
                        if is_due {
                            look_at = Instant::now() + LOOK;
                        }
                        next = look_at;
                    }
                    Err(error) => {
                        tracing::warn!("services of Gateways: {error}");
                        next = Instant::now() + backoff.next(None);
                    }
                }
            } else {
                // Whoever wrote meanwhile may have left anything.
                applied.clear();
                look_at = Instant::now();
                next = Instant::now() + LOOK;
            }
            tokio::select! {
                changed = self.worlds.changed() => if changed.is_err() { return },
                changed = self.view.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(next) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    async fn keep(
        &self,
        world: &World,
        wanted: BTreeMap<ObjectKey, Vec<Applied>>,
        applied: &mut BTreeMap<ObjectKey, Vec<Applied>>,
        look: bool,
    ) -> Result<(), CallError> {
        if look {
            applied.clear();
            self.sweep(world, &wanted).await?;
        }
        let lost: Vec<ObjectKey> = applied.keys().filter(|key| !wanted.contains_key(*key)).cloned().collect();
        for key in lost {
            // One that is gone takes its objects along.
            if self.mirror.look(&ObjectRef::new(Kind::Gateway, key.clone())).is_some() {
                for object in applied.get(&key).into_iter().flatten().rev() {
                    calls::delete(&self.api, &object.place).await?;
                }
            }
            applied.remove(&key);
        }
        for (key, objects) in wanted {
            let known = applied.get(&key).map(Vec::as_slice).unwrap_or_default();
            if known == objects {
                continue;
            }
            for object in &objects {
                if !known.contains(object) {
                    match calls::apply(&self.api, &object.place, &object.body).await {
                        Ok(_) => {}
                        // One that cannot have it must not keep the others from theirs.
                        Err(error @ (CallError::Refused(_) | CallError::Conflict)) => {
                            tracing::warn!("service of Gateway {key}: {error}");
                        }
                        // The namespace is going.
                        Err(CallError::NotFound | CallError::Exists) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            let gone = known.iter().filter(|known| objects.iter().all(|object| object.place != known.place));
            for object in gone {
                calls::delete(&self.api, &object.place).await?;
            }
            applied.insert(key, objects);
        }
        Ok(())
    }

    /// Deletes what an earlier writer made for a Gateway that is still there and no longer ours.
    async fn sweep(&self, world: &World, wanted: &BTreeMap<ObjectKey, Vec<Applied>>) -> Result<(), CallError> {
        let keep: Vec<&Place> = wanted.values().flatten().map(|object| &object.place).collect();
        for (api, plural) in [(SERVICES, "services"), (SLICES, "endpointslices")] {
            let everywhere = Place::new(api, plural, "", "");
            let selector = format!("{MANAGED_BY}={MANAGER},{COMPONENT}={GATEWAY}");
            for found in calls::list(&self.api, &everywhere, &selector).await? {
                let text = |name: &str| found["metadata"][name].as_str().unwrap_or_default().to_owned();
                let place = Place::new(api, plural, &text("namespace"), &text("name"));
                let owner = found["metadata"]["ownerReferences"][0]["name"].as_str().unwrap_or_default();
                let owner = ObjectKey::new(text("namespace"), owner);
                if !keep.contains(&&place) && is_ours_to_delete(world, &owner) {
                    calls::delete(&self.api, &place).await?;
                }
            }
        }
        Ok(())
    }
}

/// Whether a Gateway is known here; one that is not may be another group's.
fn is_ours_to_delete(world: &World, gateway: &ObjectKey) -> bool {
    world.inputs.gateways.contains_key(gateway)
}

#[cfg(test)]
mod tests {
    use edge_config::inputs::Meta;
    use edge_config::problem::Origin;

    use super::*;

    fn gateway(name: &str) -> Object<GatewaySpec> {
        let origin = Origin { file: SOURCE.into(), line: 0, column: 0 };
        let spec = json!({
            "gatewayClassName": "edge",
            "infrastructure": {"labels": {"team": "a", MANAGED_BY: "me"}, "annotations": {"note": "b"}},
            "listeners": [
                {"name": "a", "port": 80, "protocol": "HTTP"}, {"name": "b", "port": 80, "protocol": "HTTP"},
                {"name": "c", "port": 53, "protocol": "UDP"}, {"name": "d", "port": 53, "protocol": "TCP"},
            ],
        });
        Object {
            meta: Meta {
                key: ObjectKey::new("ns", name),
                labels: BTreeMap::new(),
                annotations: BTreeMap::new(),
                generation: 1,
                created: None,
                origin,
            },
            spec: serde_json::from_value(spec).unwrap(),
        }
    }

    #[test]
    fn what_stands_for_a_gateway() {
        let addresses = ["192.0.2.1", "2001:db8::1", "127.0.0.1", "fe80::1"].map(|text| text.parse().unwrap());
        let all = objects(&gateway("web"), "v1", "uid-1", &addresses);
        let service = &all[0].body;
        let labels = &service["metadata"]["labels"];
        assert_eq!(labels["team"], "a");
        assert_eq!(labels[GATEWAY_NAME], "web");
        assert_eq!(labels[MANAGED_BY], "edge", "ours cannot be taken away");
        assert_eq!(service["metadata"]["annotations"], json!({"note": "b"}));
        assert_eq!(service["metadata"]["ownerReferences"][0]["uid"], "uid-1");
        let ports: Vec<&str> =
            service["spec"]["ports"].as_array().unwrap().iter().map(|port| port["name"].as_str().unwrap()).collect();
        assert_eq!(ports, ["tcp-53", "tcp-80", "udp-53"]);
        let addresses = |n: usize| all[n].body["endpoints"].as_array().unwrap().clone();
        assert_eq!((addresses(1).len(), addresses(2).len(), all.len()), (1, 1, 3));
        assert_eq!(all[2].body["addressType"], "IPv6");
        assert_eq!(objects(&gateway("web"), "v1", "uid-1", &[]).len(), 1);
    }

    #[test]
    fn names_of_any_length() {
        let long = |last: char| format!("{}{last}", "a.".repeat(126));
        for name in ["web", "1.2-3", &long('b'), &"x".repeat(253)] {
            let service = service_name(name);
            assert!(service.len() <= 63 && service.starts_with("edge-"), "{service}");
            assert!(service.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{service}");
            assert!(label_value(name).len() <= 63);
        }
        assert_ne!(service_name(&long('b')), service_name(&long('c')));
        assert_ne!(label_value(&long('b')), label_value(&long('c')));
    }
}
