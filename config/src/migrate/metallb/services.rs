//! Services that MetalLB serves. They keep the addresses that they have now, which only their status tells.

use std::net::IpAddr;

use crate::metallb::{ADDRESSES_ANNOTATIONS, ALLOCATED_ANNOTATION};
use crate::migrate::read::Found;
use crate::migrate::toml::Toml;
use crate::migrate::{NoteKind, Notes};
use crate::problem::Origin;
use crate::yaml::{Tree, Value};

/// A Service of type LoadBalancer.
pub(super) struct Service {
    object: Tree,
    subject: String,
    origin: Origin,
    class: Option<String>,
    /// Addresses of its status.
    live: Vec<String>,
    /// It names addresses of its own.
    is_particular: bool,
}

/// What MetalLB wrote.
const WRITTEN: [&str; 2] = [ALLOCATED_ANNOTATION, "metallb.universe.tf/ip-allocated-from-pool"];

pub(super) fn load_balancer(object: &Found<'_>) -> Option<Service> {
    if object.text_at("spec.type") != Some("LoadBalancer") {
        return None;
    }
    let live = match object.at("status.loadBalancer.ingress").map(|node| &node.value) {
        Some(Value::Sequence(entries)) => {
            let addresses = entries.iter().filter_map(|entry| entry.member("ip")?.as_str());
            addresses.filter(|text| text.parse::<IpAddr>().is_ok()).map(str::to_owned).collect()
        }
        _ => Vec::new(),
    };
    let named = object.annotation(&ADDRESSES_ANNOTATIONS).is_some();
    let mut tree = object.bare();
    if let Some(metadata) = tree.member_mut("metadata")
        && let Some(annotations) = metadata.member_mut("annotations")
    {
        WRITTEN.iter().for_each(|name| drop(annotations.take(name)));
        if matches!(annotations, Tree::Map(members) if members.is_empty()) {
            metadata.take("annotations");
        }
    }
    Some(Service {
        object: tree,
        subject: object.subject(),
        origin: object.origin(),
        class: object.text_at("spec.loadBalancerClass").map(str::to_owned),
        live,
        is_particular: named || object.text_at("spec.loadBalancerIP").is_some(),
    })
}

/// `[services]`: those that MetalLB served are to be Edge's.
pub(super) fn settings(services: &[Service], toml: &mut Toml) {
    let mut classes: Vec<&str> = services.iter().filter_map(|service| service.class.as_deref()).collect();
    classes.sort_unstable();
    classes.dedup();
    let without_class = services.iter().any(|service| service.class.is_none());
    if services.is_empty() {
        return;
    }
    toml.begin("[services]");
    if !classes.is_empty() {
        toml.texts("classes", &classes);
    }
    if without_class {
        toml.raw("without_class", true);
    }
}

pub(super) fn objects(services: Vec<Service>, notes: &mut Notes) -> Vec<Tree> {
    let mut out = Vec::new();
    let mut first = None;
    for service in services {
        let Service { mut object, subject, origin, live, is_particular, .. } = service;
        if live.is_empty() {
            if !is_particular {
                let message = "has no address in its status, so it will get any of its pool; take it from the live \
                    cluster (kubectl get service -A -o yaml) to keep the address it has";
                notes.add(NoteKind::Differs, Some(&origin), &subject, message);
            }
        } else {
            if let Some(metadata) = object.member_mut("metadata") {
                if metadata.member("annotations").is_none() {
                    metadata.put("annotations", Tree::map([]));
                }
                if let Some(annotations) = metadata.member_mut("annotations") {
                    annotations.take(ADDRESSES_ANNOTATIONS[1]);
                    annotations.put(ADDRESSES_ANNOTATIONS[0], live.join(","));
                }
            }
            if let Some(spec) = object.member_mut("spec") {
                // The annotation says it; both at once is refused by MetalLB.
                spec.take("loadBalancerIP");
            }
        }
        first.get_or_insert((origin, subject));
        out.push(object);
    }
    if let Some((origin, subject)) = first {
        let message = "Services are in manifests/services.yaml with the addresses they have now; where Edge reads \
            them from the cluster ([kubernetes] in edge.toml), kubectl apply that file and remove it here, since an \
            object that is given twice is an error; MetalLB must not serve them any longer";
        notes.add(NoteKind::ToDo, Some(&origin), &subject, message);
    }
    out
}
