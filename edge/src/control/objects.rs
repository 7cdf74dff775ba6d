//! The objects that Edge reads, as Kubernetes would show them: metadata, spec as decoded with defaults, and the status
//! that Edge has for it. Secrets show names of keys and facts of certificates, never a value.

use std::collections::BTreeMap;

use edge_config::inputs::{Inputs, Meta, Object, Objects};
use edge_config::names::{Kind, ObjectKey, ObjectRef};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// By object; see [`edge_config::status::render`].
pub type Statuses = BTreeMap<ObjectRef, Value>;

/// How many objects of each kind there are, of those of which there are any.
pub fn counts(inputs: &Inputs) -> Value {
    let counts = Kind::ALL.into_iter().map(|kind| (kind, keys(inputs, kind).len())).filter(|(_, count)| *count > 0);
    Value::Object(counts.map(|(kind, count)| (kind.to_string(), count.into())).collect())
}

pub fn total(inputs: &Inputs) -> usize {
    Kind::ALL.into_iter().map(|kind| keys(inputs, kind).len()).sum()
}

/// All objects of a kind, in the order of namespace and name.
pub fn all(inputs: &Inputs, statuses: &Statuses, kind: Kind) -> Vec<Value> {
    keys(inputs, kind).into_iter().filter_map(|key| one(inputs, statuses, &ObjectRef::new(kind, key))).collect()
}

pub fn one(inputs: &Inputs, statuses: &Statuses, object: &ObjectRef) -> Option<Value> {
    let (meta, name, spec) = body(inputs, object)?;
    let kind = object.kind;
    let mut value = Map::new();
    value.insert("apiVersion".to_owned(), api_version(kind).into());
    value.insert("kind".to_owned(), kind.as_str().into());
    value.insert("metadata".to_owned(), metadata(meta));
    // What has no spec on the wire has its fields at the top.
    match (name, spec) {
        ("", Value::Object(fields)) => value.extend(fields),
        (name, spec) => drop(value.insert(if name.is_empty() { "spec" } else { name }.to_owned(), spec)),
    }
    if let Some(status) = statuses.get(object) {
        value.insert("status".to_owned(), status.clone());
    }
    Some(Value::Object(value))
}

/// The kind that a user means: its name in any case, its plural, or a short name of kubectl.
pub fn kind_of(text: &str) -> Option<Kind> {
    let lower = text.to_ascii_lowercase();
    let short = match lower.as_str() {
        "gc" => "gatewayclass",
        "gtw" | "gw" => "gateway",
        "ns" => "namespace",
        "svc" => "service",
        "eps" | "endpoints" => "endpointslice",
        "cm" => "configmap",
        "cert" => "certificate",
        "ctp" => "clienttrafficpolicy",
        "btp" => "backendtrafficpolicy",
        "sp" => "securitypolicy",
        "be" => "backend",
        "hrf" => "httproutefilter",
        "cspolicy" => "clientsettingspolicy",
        "pspolicy" => "proxysettingspolicy",
        "rlpolicy" => "ratelimitpolicy",
        "authfilter" => "authenticationfilter",
        "pool" => "ipaddresspool",
        other => other,
    };
    Kind::ALL.into_iter().find(|kind| {
        let name = kind.as_str().to_ascii_lowercase();
        short == name || short == plural(&name)
    })
}

fn plural(name: &str) -> String {
    match name.strip_suffix('y') {
        Some(stem) if !stem.ends_with('a') => format!("{stem}ies"),
        _ if name.ends_with('s') => format!("{name}es"),
        _ => format!("{name}s"),
    }
}

macro_rules! each {
    ($inputs:expr, $kind:expr, $visit:ident) => {
        match $kind {
            Kind::GatewayClass => $visit!($inputs.gateway_classes),
            Kind::Gateway => $visit!($inputs.gateways),
            Kind::ListenerSet => $visit!($inputs.listener_sets),
            Kind::HTTPRoute => $visit!($inputs.http_routes),
            Kind::GRPCRoute => $visit!($inputs.grpc_routes),
            Kind::TLSRoute => $visit!($inputs.tls_routes),
            Kind::TCPRoute => $visit!($inputs.tcp_routes),
            Kind::UDPRoute => $visit!($inputs.udp_routes),
            Kind::ReferenceGrant => $visit!($inputs.reference_grants),
            Kind::BackendTLSPolicy => $visit!($inputs.backend_tls_policies),
            Kind::Namespace => $visit!($inputs.namespaces),
            Kind::Service => $visit!($inputs.services),
            Kind::EndpointSlice => $visit!($inputs.endpoint_slices),
            Kind::Secret => $visit!($inputs.secrets),
            Kind::ConfigMap => $visit!($inputs.config_maps),
            Kind::Node => $visit!($inputs.nodes),
            Kind::Issuer => $visit!($inputs.issuers),
            Kind::ClusterIssuer => $visit!($inputs.cluster_issuers),
            Kind::Certificate => $visit!($inputs.certificates),
            Kind::IPAddressPool => $visit!($inputs.address_pools),
            Kind::L2Advertisement => $visit!($inputs.l2_advertisements),
            Kind::BGPPeer => $visit!($inputs.bgp_peers),
            Kind::BGPAdvertisement => $visit!($inputs.bgp_advertisements),
            Kind::Community => $visit!($inputs.communities),
            Kind::BFDProfile => $visit!($inputs.bfd_profiles),
            Kind::ClientTrafficPolicy => $visit!($inputs.client_traffic_policies),
            Kind::BackendTrafficPolicy => $visit!($inputs.backend_traffic_policies),
            Kind::SecurityPolicy => $visit!($inputs.security_policies),
            Kind::EnvoyProxy => $visit!($inputs.envoy_proxies),
            Kind::Backend => $visit!($inputs.backends),
            Kind::UpstreamSettingsPolicy => $visit!($inputs.upstream_settings_policies),
            Kind::HTTPRouteFilter => $visit!($inputs.http_route_filters),
            Kind::ClientSettingsPolicy => $visit!($inputs.client_settings_policies),
            Kind::ProxySettingsPolicy => $visit!($inputs.proxy_settings_policies),
            Kind::RateLimitPolicy => $visit!($inputs.rate_limit_policies),
            Kind::AuthenticationFilter => $visit!($inputs.authentication_filters),
            Kind::SnippetsFilter => $visit!($inputs.snippets_filters),
            Kind::SnippetsPolicy => $visit!($inputs.snippets_policies),
        }
    };
}

fn keys(inputs: &Inputs, kind: Kind) -> Vec<ObjectKey> {
    macro_rules! names {
        ($objects:expr) => {
            $objects.keys().cloned().collect()
        };
    }
    each!(inputs, kind, names)
}

/// The metadata, the name under which the body stands (empty: at the top), and the body.
fn body<'a>(inputs: &'a Inputs, object: &ObjectRef) -> Option<(&'a Meta, &'static str, Value)> {
    fn visible<'a, T: Serialize>(objects: &'a Objects<T>, key: &ObjectKey) -> Option<(&'a Meta, Value)> {
        let found: &'a Object<T> = objects.get(key)?;
        // Shapes are plain structs and maps with text keys, for which this cannot fail.
        Some((&found.meta, serde_json::to_value(&found.spec).unwrap_or(Value::Null)))
    }
    macro_rules! visit {
        ($objects:expr) => {
            visible(&$objects, &object.key)?
        };
    }
    let (meta, spec) = each!(inputs, object.kind, visit);
    let (name, spec) = match object.kind {
        Kind::EndpointSlice | Kind::Node => ("", spec),
        Kind::Secret => ("facts", secret(inputs, &object.key)),
        Kind::ConfigMap => ("facts", json!({ "keys": spec["keys"] })),
        _ => ("spec", spec),
    };
    Some((meta, name, spec))
}

fn secret(inputs: &Inputs, key: &ObjectKey) -> Value {
    let Some(secret) = inputs.secrets.get(key).map(|secret| &secret.spec) else { return Value::Null };
    let certificate = match secret.certificate() {
        Ok(facts) => serde_json::to_value(facts).unwrap_or(Value::Null),
        Err(reason) => json!({ "unusable": reason }),
    };
    json!({ "type": secret.kind, "keys": secret.keys, "certificate": certificate })
}

fn api_version(kind: Kind) -> String {
    let version = match kind {
        Kind::IPAddressPool | Kind::L2Advertisement | Kind::BGPAdvertisement | Kind::Community | Kind::BFDProfile => {
            "v1beta1"
        }
        Kind::BGPPeer => "v1beta2",
        Kind::ReferenceGrant => "v1beta1",
        Kind::ClientTrafficPolicy
        | Kind::BackendTrafficPolicy
        | Kind::SecurityPolicy
        | Kind::EnvoyProxy
        | Kind::Backend
        | Kind::UpstreamSettingsPolicy
        | Kind::HTTPRouteFilter
        | Kind::ClientSettingsPolicy
        | Kind::ProxySettingsPolicy
        | Kind::RateLimitPolicy
        | Kind::AuthenticationFilter
        | Kind::SnippetsFilter
        | Kind::SnippetsPolicy => "v1alpha1",
        _ => "v1",
    };
    if kind.group().is_empty() { version.to_owned() } else { format!("{}/{version}", kind.group()) }
}

fn metadata(meta: &Meta) -> Value {
    let mut map = Map::new();
    map.insert("name".to_owned(), meta.key.name.as_ref().into());
    if !meta.key.namespace.is_empty() {
        map.insert("namespace".to_owned(), meta.key.namespace.as_ref().into());
    }
    map.insert("generation".to_owned(), meta.generation.into());
    if let Some(created) = &meta.created {
        map.insert("creationTimestamp".to_owned(), created.to_string().into());
    }
    for (name, values) in [("labels", &meta.labels), ("annotations", &meta.annotations)] {
        if !values.is_empty() {
            map.insert(name.to_owned(), json!(values));
        }
    }
    map.insert("origin".to_owned(), meta.origin.to_string().into());
    Value::Object(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_by_any_name() {
        for (text, kind) in [
            ("HTTPRoute", Kind::HTTPRoute),
            ("httproutes", Kind::HTTPRoute),
            ("gtw", Kind::Gateway),
            ("gateways", Kind::Gateway),
            ("gatewayclasses", Kind::GatewayClass),
            ("svc", Kind::Service),
            ("backendtrafficpolicies", Kind::BackendTrafficPolicy),
            ("envoyproxies", Kind::EnvoyProxy),
            ("communities", Kind::Community),
        ] {
            assert_eq!(kind_of(text), Some(kind), "{text}");
        }
        assert_eq!(kind_of("pods"), None);
    }
}
