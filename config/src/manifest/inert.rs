//! Fields that Edge understands but does not act on in this version, per kind. Nothing is accepted in silence: what a
//! manifest sets and nobody obeys is in this table, and `check` lists it. `[]` stands for every item of a list.

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
        Kind::Gateway => &["spec.defaultScope", "spec.infrastructure.labels", "spec.listeners[].tls.options"],
        Kind::ListenerSet => &["spec.listeners[].tls.options"],
        Kind::HTTPRoute => &[
            "spec.useDefaultGateways",
            "spec.rules[].filters[].externalAuth",
            "spec.rules[].backendRefs[].filters[].externalAuth",
        ],
        Kind::GRPCRoute | Kind::TLSRoute | Kind::TCPRoute | Kind::UDPRoute => &["spec.useDefaultGateways"],
        Kind::BackendTLSPolicy => &["spec.options"],
        Kind::Namespace => &["spec.finalizers"],
        Kind::Service => &[
            "spec.clusterIPs",
            "spec.externalIPs",
            "spec.externalTrafficPolicy",
            "spec.internalTrafficPolicy",
            "spec.ipFamilies",
            "spec.ipFamilyPolicy",
            "spec.healthCheckNodePort",
            "spec.loadBalancerClass",
            "spec.loadBalancerIP",
            "spec.loadBalancerSourceRanges",
            "spec.allocateLoadBalancerNodePorts",
            "spec.sessionAffinity",
            "spec.sessionAffinityConfig",
            "spec.trafficDistribution",
            "spec.ports[].nodePort",
        ],
        Kind::EndpointSlice => &["endpoints[].deprecatedTopology", "endpoints[].hints", "endpoints[].zone"],
        Kind::Secret | Kind::ConfigMap => &["immutable"],
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
            "spec.enableProxyProtocol",
            "spec.grpc",
            "spec.headers",
            "spec.healthCheck",
            "spec.http1",
            "spec.http2",
            "spec.http3",
            "spec.path",
            "spec.proxyProtocol",
            "spec.scheme",
            "spec.targetSelectors",
            "spec.tcpKeepalive",
            "spec.timeout.http.requestHeadersReceivedTimeout",
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
            "spec.proxyProtocol",
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
            "spec.targetSelectors",
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

/// A field that is set and not acted on.
pub(super) struct Inert {
    pub(super) mark: Mark,
    pub(super) path: String,
}

impl Inert {
    /// Whether a field that no shape has is known to be this one or inside it. A kind that is inert as a whole still
    /// has a shape, so that its unknown fields are told.
    pub(super) fn covers(&self, path: &str) -> bool {
        self.path != "spec"
            && path.strip_prefix(self.path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    }
}

pub(super) fn find(kind: Kind, root: &Node<'_>) -> Vec<Inert> {
    let mut found = Vec::new();
    for pattern in SERVER_OWNED.iter().chain(paths(kind)) {
        walk(root, pattern, &mut String::new(), &mut found);
    }
    found.sort_by_key(|inert| inert.mark);
    found
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
    let end = pattern.find(['.', '[']).unwrap_or(pattern.len());
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
    match rest.strip_prefix('.').unwrap_or(rest) {
        "" => found.push(Inert { mark: *mark, path: path.clone() }),
        rest => walk(value, rest, path, found),
    }
    path.truncate(length);
}
