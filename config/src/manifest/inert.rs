//! Fields that Edge understands but does not act on in this version, per kind. Nothing is accepted in silence: what a
//! manifest sets and nobody obeys is in this table, and `check` lists it. `[]` stands for every item of a list, and
//! `=value` at the end for that value of the field only.

use crate::names::Kind;
use crate::yaml::{Entry, Mark, Node, Value};

/// Written by an API server; without meaning in a file.
const SERVER_OWNED: [&str; 10] = [
    "status",
    "metadata.creationTimestamp",
    "metadata.deletionTimestamp",
    "metadata.deletionGracePeriodSeconds",
    "metadata.finalizers",
    "metadata.generation",
    "metadata.managedFields",
    "metadata.ownerReferences",
    "metadata.resourceVersion",
    "metadata.uid",
];

fn paths(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::GatewayClass => &["spec.description"],
        Kind::Gateway => &["spec.defaultScope", "spec.listeners[].tls.options"],
        Kind::ListenerSet => &["spec.listeners[].tls.options"],
        Kind::HTTPRoute => &[
            "spec.useDefaultGateways",
            "spec.rules[].filters[].externalAuth",
            "spec.rules[].backendRefs[].filters[].externalAuth",
        ],
        Kind::GRPCRoute => &["spec.useDefaultGateways"],
        Kind::TLSRoute | Kind::TCPRoute | Kind::UDPRoute => &["spec.useDefaultGateways", "spec.rules[].name"],
        Kind::BackendTLSPolicy => &["spec.options"],
        Kind::Namespace => &["spec.finalizers"],
        Kind::Service => &[
            "spec.externalIPs",
            "spec.internalTrafficPolicy",
            "spec.healthCheckNodePort",
            "spec.selector",
            "spec.trafficDistribution",
            "spec.ports[].targetPort",
        ],
        Kind::EndpointSlice => &[
            "addressType=FQDN",
            "endpoints[].deprecatedTopology",
            "endpoints[].hints",
            "endpoints[].hostname",
            "endpoints[].zone",
            "ports[].appProtocol",
        ],
        Kind::Secret | Kind::ConfigMap => &["immutable"],
        Kind::Node => &["spec.taints", "spec.providerID"],
        Kind::Issuer | Kind::ClusterIssuer => &[
            "spec.selfSigned.crlDistributionPoints",
            "spec.ca.crlDistributionPoints",
            "spec.ca.ocspServers",
            "spec.ca.issuingCertificateURLs",
            "spec.acme",
            "spec.vault",
            "spec.venafi",
        ],
        Kind::Certificate => &[
            "spec.additionalOutputFormats",
            "spec.emailAddresses",
            "spec.encodeUsagesInRequest",
            "spec.ipAddresses",
            "spec.keystores",
            "spec.literalSubject",
            "spec.nameConstraints",
            "spec.otherNames",
            "spec.privateKey.encoding",
            "spec.renewBeforePercentage",
            "spec.revisionHistoryLimit",
            "spec.secretTemplate",
            "spec.signatureAlgorithm",
            "spec.subject",
            "spec.uris",
            "spec.usages",
        ],
        Kind::L2Advertisement | Kind::BGPPeer | Kind::BGPAdvertisement | Kind::Community | Kind::BFDProfile => {
            &["spec"]
        }
        Kind::ClientTrafficPolicy => &[
            "spec.clientIPDetection.customHeader",
            "spec.clientIPDetection.directSourceIP",
            "spec.clientIPDetection.xForwardedFor.disableXForwardedForAppend",
            "spec.clientIPDetection.xForwardedFor.trustedCIDRs",
            "spec.connection.connectionLimit",
            "spec.connection.maxAcceptPerSocketEvent",
            "spec.connection.socketBufferLimit",
            "spec.grpc",
            "spec.headers",
            "spec.healthCheck",
            "spec.http1",
            "spec.http2",
            "spec.http3",
            "spec.scheme",
            "spec.targetSelectors",
            "spec.tcpKeepalive",
            "spec.timeout.http.requestHeadersReceivedTimeout",
            "spec.timeout.http.requestReceivedTimeout",
            "spec.timeout.http.streamIdleTimeout",
            "spec.timeout.tcp",
            "spec.tls",
        ],
        Kind::BackendTrafficPolicy => &[
            "spec.admissionControl",
            "spec.bandwidthLimit",
            "spec.circuitBreaker",
            "spec.compression",
            "spec.compressor",
            "spec.connection",
            "spec.dns",
            "spec.faultInjection",
            "spec.healthCheck",
            "spec.http2",
            "spec.httpUpgrade",
            "spec.loadBalancer.backendUtilization",
            "spec.loadBalancer.consistentHash",
            "spec.loadBalancer.dynamicModule",
            "spec.loadBalancer.endpointOverride",
            "spec.loadBalancer.slowStart",
            "spec.loadBalancer.zoneAware",
            "spec.mergeType",
            "spec.rateLimit",
            "spec.requestBuffer",
            "spec.responseOverride",
            "spec.retry",
            "spec.routingType",
            "spec.targetSelectors",
            "spec.tcpKeepalive",
            "spec.telemetry",
            "spec.timeout.http.connectionIdleTimeout",
            "spec.timeout.http.maxConnectionDuration",
            "spec.timeout.http.maxStreamDuration",
            "spec.timeout.http.streamIdleTimeout",
            "spec.timeout.tcp",
            "spec.useClientProtocol",
        ],
        Kind::SecurityPolicy => &[
            "spec.apiKeyAuth",
            "spec.authorization",
            "spec.basicAuth",
            "spec.cors",
            "spec.csrf",
            "spec.extAuth",
            "spec.jwt",
            "spec.mergeType",
            "spec.oidc",
            "spec.targetSelectors[].namespaces",
        ],
        Kind::EnvoyProxy => &[
            "spec.backendTLS",
            "spec.bootstrap",
            "spec.concurrency",
            "spec.dynamicModules",
            "spec.extraArgs",
            "spec.filterOrder",
            "spec.geoIP",
            "spec.ipFamily",
            "spec.logging",
            "spec.luaValidation",
            "spec.mergeBackends",
            "spec.mergeGateways",
            "spec.mergeType",
            "spec.preserveRouteOrder",
            "spec.provider",
            "spec.routingType",
            "spec.shutdown",
            "spec.telemetry",
        ],
        Kind::Backend => &["spec.endpoints[].hostname", "spec.endpoints[].zone", "spec.fallback", "spec.tls"],
        Kind::IPAddressPool | Kind::ReferenceGrant => &[],
    }
}

/// Of a Service of another type than LoadBalancer: routes go to its endpoints and ask nothing of how it would be reached.
const NO_LOAD_BALANCER: [&str; 10] = [
    "spec.clusterIPs",
    "spec.externalTrafficPolicy",
    "spec.ipFamilies",
    "spec.ipFamilyPolicy",
    "spec.loadBalancerClass",
    "spec.loadBalancerIP",
    "spec.loadBalancerSourceRanges",
    "spec.allocateLoadBalancerNodePorts",
    "spec.sessionAffinity",
    "spec.sessionAffinityConfig",
];

/// What is said beside the path, where the path alone would mislead.
fn note(kind: Kind, pattern: &str) -> &'static str {
    match (kind, pattern) {
        (Kind::Service, "spec.selector") => ": endpoints come from EndpointSlices, Pods are not looked at",
        (Kind::Service, "spec.ports[].targetPort") => ": endpoints come with their ports from EndpointSlices",
        (Kind::EndpointSlice, "addressType=FQDN") => " FQDN: its endpoints are left out",
        (Kind::ClientTrafficPolicy, "spec.timeout.http.requestReceivedTimeout") => {
            " beyond the head of a request: its body only has to keep moving"
        }
        _ => "",
    }
}

/// Annotations of other projects by the beginning of their names, with those that are acted on.
const ANNOTATIONS: [(&str, &[&str]); 3] = [
    (
        "cert-manager.io/",
        &[
            "issuer",
            "cluster-issuer",
            "issuer-kind",
            "issuer-group",
            "common-name",
            "duration",
            "renew-before",
            "private-key-algorithm",
            "private-key-size",
            "private-key-rotation-policy",
        ],
    ),
    ("metallb.io/", &METALLB),
    ("metallb.universe.tf/", &METALLB),
];

/// The last one is an answer, not a wish.
const METALLB: [&str; 4] = ["address-pool", "loadBalancerIPs", "allow-shared-ip", "ip-allocated-from-pool"];

/// A field that is set and not acted on.
pub(super) struct Inert {
    pub(super) mark: Mark,
    pub(super) path: String,
    note: &'static str,
}

impl std::fmt::Display for Inert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.path == "spec.acme" {
            return f.write_str("ACME: listeners get a certificate of the internal CA instead");
        }
        write!(f, "{}{}", self.path, self.note)
    }
}

impl Inert {
    /// Whether it is in every object that comes from an API server.
    pub(super) fn is_owned_by_servers(&self) -> bool {
        SERVER_OWNED.contains(&self.path.as_str())
    }

    /// Whether a field that no shape has is known to be this one or inside it. A kind that is inert as a whole still
    /// has a shape, so that its unknown fields are told.
    pub(super) fn covers(&self, path: &str) -> bool {
        self.path != "spec"
            && path.strip_prefix(self.path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    }
}

pub(super) fn find(kind: Kind, root: &Node<'_>) -> Vec<Inert> {
    let mut found = Vec::new();
    // A Node is read with its status.
    let is_owned = |pattern: &&&str| !(kind == Kind::Node && **pattern == "status");
    let is_load_balancer = kind == Kind::Service && is_text(root, &["spec", "type"], "LoadBalancer");
    let unused = if kind == Kind::Service && !is_load_balancer { &NO_LOAD_BALANCER[..] } else { &[] };
    for pattern in SERVER_OWNED.iter().filter(is_owned).chain(paths(kind)).chain(unused) {
        let start = found.len();
        walk(root, pattern, &mut String::new(), &mut found);
        found.iter_mut().skip(start).for_each(|inert| inert.note = note(kind, pattern));
    }
    if matches!(kind, Kind::Gateway | Kind::ListenerSet) {
        annotations(root, &["metadata", "annotations"], &mut found);
        annotations(root, &["spec", "infrastructure", "annotations"], &mut found);
    }
    if is_load_balancer {
        annotations(root, &["metadata", "annotations"], &mut found);
    }
    found.sort_by_key(|inert| inert.mark);
    found
}

fn is_text(root: &Node<'_>, place: &[&str], expected: &str) -> bool {
    let found = place.iter().try_fold(root, |node, name| node.member(name));
    found.is_some_and(|node| matches!(&node.value, Value::String(text) if text == expected))
}

/// Those of projects that we stand in for, as far as nobody reads them.
fn annotations(root: &Node<'_>, place: &[&str], found: &mut Vec<Inert>) {
    let Some(node) = place.iter().try_fold(root, |node, name| node.member(name)) else { return };
    let Value::Mapping(entries) = &node.value else { return };
    for Entry { mark, key, .. } in entries {
        let unread =
            |(prefix, read): &(&str, &[&str])| key.strip_prefix(prefix).is_some_and(|key| !read.contains(&key));
        if ANNOTATIONS.iter().any(unread) {
            found.push(Inert { mark: *mark, path: format!("{}.{key}", place.join(".")), note: "" });
        }
    }
}

fn walk(node: &Node<'_>, pattern: &str, path: &mut String, found: &mut Vec<Inert>) {
    if let Some(rest) = pattern.strip_prefix("[]") {
        let Value::Sequence(nodes) = &node.value else { return };
        let rest = rest.strip_prefix('.').unwrap_or(rest);
        for (index, node) in nodes.iter().enumerate() {
            let length = path.len();
            path.push_str(&format!("[{index}]"));
            walk(node, rest, path, found);
            path.truncate(length);
        }
        return;
    }
    let end = pattern.find(['.', '[', '=']).unwrap_or(pattern.len());
    let (key, rest) = pattern.split_at(end);
    let Some(Entry { mark, value, .. }) = node.entry(key) else { return };
    if value.value == Value::Null {
        return;
    }
    let length = path.len();
    if length > 0 {
        path.push('.');
    }
    path.push_str(key);
    let is_value = |expected: &str| matches!(&value.value, Value::String(text) if text == expected);
    match (rest.strip_prefix('.').unwrap_or(rest), rest.strip_prefix('=')) {
        ("", _) => found.push(Inert { mark: *mark, path: path.clone(), note: "" }),
        (_, Some(expected)) if is_value(expected) => found.push(Inert { mark: *mark, path: path.clone(), note: "" }),
        (_, Some(_)) => {}
        (rest, None) => walk(value, rest, path, found),
    }
    path.truncate(length);
}
