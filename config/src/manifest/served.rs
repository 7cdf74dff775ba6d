//! Objects as an API server serves them. They went through its schema and carry what it owns: generation, creation time,
//! status, managed fields. The tree of one object flows in, an [`Item`] flows out, as from a file; what is bulk to Edge is
//! left behind here, since there may be many thousands of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::{AnyObject, Findings, Item, Outcome, Place, closed, decode_body, inert, is_strict, password};
use crate::core::{ServicePort, ServiceSpec, ServiceType};
use crate::inputs::{Created, Meta};
use crate::names::{Kind, ObjectKey, ObjectRef};
use crate::problem::{Origin, Severity};
use crate::suggest;
use crate::yaml::{self, DecodeError, Node, Unknown};

/// What is known of an object before it is decoded.
pub struct Known<'k> {
    pub kind: Kind,
    pub key: &'k ObjectKey,
    /// The name of the source, in problems.
    pub source: &'k Arc<str>,
}

/// Kinds that are made for others, or by machines: what Edge does not act on in them is no finding.
pub fn is_infrastructure(kind: Kind) -> bool {
    use Kind::*;
    matches!(kind, Namespace | Service | EndpointSlice | Secret | ConfigMap | Node)
}

/// Decodes one object, whose identity was read from its metadata.
pub fn decode_served(node: &Node<'_>, known: &Known<'_>) -> Item {
    let identity = ObjectRef::new(known.kind, known.key.clone());
    // The API server has no lines.
    let origin = Origin { file: Arc::clone(known.source), line: 0, column: 0 };
    let place = Place { file: Arc::clone(known.source), line_offset: 0 };
    let mut findings = Findings { places: vec![&place], object: &identity, problems: Vec::new(), culprit: None };
    let is_told = !is_infrastructure(known.kind);
    let inert = if is_told { inert::find(known.kind, node) } else { Vec::new() };
    let inert: Vec<_> = inert.into_iter().filter(|field| !field.is_owned_by_servers()).collect();
    for field in &inert {
        findings.add(Severity::Inert, field.mark, field.to_string());
    }
    let report_unknown = |unknown: Vec<Unknown>, findings: &mut Findings<'_>| {
        let is_new = |field: &Unknown| is_told && !inert.iter().any(|inert| inert.covers(&field.path));
        for field in unknown.into_iter().filter(is_new) {
            // The server's schema has it, so it is no slip of the pen: it is of a version that Edge does not know.
            let name = field.path.rsplit('.').next().unwrap_or(&field.path);
            let hint = suggest::hint(name, field.known.iter().copied());
            let message = format!("{}: unknown to this version{hint}", field.path);
            match is_strict(known.kind, node, &field.path) {
                true => findings.fatal(field.mark, message),
                false => findings.add(Severity::Inert, field.mark, message),
            }
        }
    };
    let outcome = match meta(node, &identity, &origin) {
        Ok(meta) => decode_body(node, known.kind, meta, &mut findings, report_unknown),
        Err(fault) => {
            findings.fatal(fault.mark(), fault.to_string());
            Outcome::Broken
        }
    };
    let mut attempt = findings.into_attempt(outcome);
    match &mut attempt.outcome {
        Outcome::Ready(object) => slim(object),
        Outcome::Broken => {
            let closed = closed::of_object(node, &identity, &origin, &attempt.problems);
            attempt.outcome = closed.map_or(Outcome::Broken, Outcome::Closed);
        }
        _ => {}
    }
    let password = password(known.kind, node);
    Item { origin, identity: Some(identity), outcome: attempt.outcome, password, problems: attempt.problems }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServedMeta {
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    /// Core kinds have none.
    #[serde(default)]
    generation: Option<i64>,
    #[serde(default)]
    creation_timestamp: Option<String>,
}

fn meta(node: &Node<'_>, identity: &ObjectRef, origin: &Origin) -> Result<Meta, DecodeError> {
    let Some(body) = node.member("metadata") else { return Err(serde::de::Error::missing_field("metadata")) };
    let (decoded, _) = yaml::decode::<ServedMeta>(body, "metadata", &[]);
    let mut decoded = decoded?;
    trim(identity.kind, node, &mut decoded);
    Ok(Meta {
        key: identity.key.clone(),
        labels: decoded.labels,
        annotations: decoded.annotations,
        generation: decoded.generation.unwrap_or(1),
        created: decoded.creation_timestamp.as_deref().and_then(Created::parse),
        origin: origin.clone(),
    })
}

/// Drops what the specs of the most numerous kinds say to others than Edge.
fn slim(object: &mut AnyObject) {
    match object {
        AnyObject::Service(service) if service.spec.kind != ServiceType::LoadBalancer => {
            // Just made, so nobody shares it.
            let Some(service) = Arc::get_mut(service) else { return };
            let spec = std::mem::take(&mut service.spec);
            let port = |port: ServicePort| ServicePort { target_port: None, ..port };
            service.spec = ServiceSpec {
                kind: spec.kind,
                ports: spec.ports.into_iter().map(port).collect(),
                // Whether it is headless is part of what makes it valid.
                cluster_ip: spec.cluster_ip.filter(|address| **address == *"None"),
                external_name: spec.external_name,
                external_traffic_policy: spec.external_traffic_policy,
                publish_not_ready_addresses: spec.publish_not_ready_addresses,
                ..ServiceSpec::default()
            };
        }
        AnyObject::EndpointSlice(slice) => {
            let Some(slice) = Arc::get_mut(slice) else { return };
            let Meta { key, labels, .. } = &mut slice.meta;
            slice.spec.service =
                std::mem::take(labels).remove(crate::core::SERVICE_NAME_LABEL).map(String::into_boxed_str);
            slice.spec.endpoints.shrink_to_fit();
            slice.spec.ports.shrink_to_fit();
            for endpoint in &mut slice.spec.endpoints {
                endpoint.addresses.shrink_to_fit();
                endpoint.hostname = None;
                endpoint.zone = None;
                if let Some(target) = &mut endpoint.target_ref {
                    target.uid = None;
                    // What they are where they are absent.
                    target.kind.take_if(|kind| kind == "Pod");
                    target.namespace.take_if(|namespace| **namespace == *key.namespace);
                }
            }
        }
        _ => {}
    }
}

/// Who keeps an object as it is.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The whole object once more, which kubectl keeps.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Drops labels and annotations that nobody reads.
fn trim(kind: Kind, node: &Node<'_>, meta: &mut ServedMeta) {
    meta.annotations.remove(LAST_APPLIED);
    match kind {
        Kind::EndpointSlice => {
            meta.annotations.clear();
            meta.labels.retain(|name, _| name == crate::core::SERVICE_NAME_LABEL);
        }
        Kind::Service => {
            let is_announced =
                node.member("spec").and_then(|spec| spec.member("type")).and_then(Node::as_str) == Some("LoadBalancer");
            if !is_announced {
                // Only pools of addresses select Services, and only those that want one.
                meta.annotations.clear();
                meta.labels.clear();
            }
            // Answers, not wishes.
            meta.annotations.remove(crate::metallb::ALLOCATED_ANNOTATION);
            meta.annotations.remove(crate::metallb::WRITTEN_ANNOTATION);
        }
        // Whose certificate it is.
        Kind::Secret => {
            meta.annotations
                .retain(|name, _| name.starts_with("cert-manager.io/") || name.starts_with("edge.internal/"));
            meta.labels.retain(|name, _| name == MANAGED_BY);
        }
        Kind::ConfigMap => {
            meta.annotations.clear();
            meta.labels.clear();
        }
        Kind::Namespace | Kind::Node => meta.annotations.clear(),
        _ => {}
    }
}
