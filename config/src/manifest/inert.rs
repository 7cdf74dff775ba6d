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

/// `backendSettings` of every place that has them, and what else of a SecurityPolicy nobody acts on.
macro_rules! security_policy {
    ($($part:literal),*) => {
        &[
            $(
                concat!($part, ".backendSettings.connection"),
                concat!($part, ".backendSettings.circuitBreaker.maxParallelRetries"),
                concat!($part, ".backendSettings.circuitBreaker.maxPendingRequests"),
                concat!($part, ".backendSettings.circuitBreaker.retryBudget"),
                concat!($part, ".backendSettings.dns"),
                concat!($part, ".backendSettings.healthCheck.active.initialJitter"),
                concat!($part, ".backendSettings.healthCheck.active.http.retriableStatuses"),
                concat!($part, ".backendSettings.healthCheck.passive.failurePercentageThreshold"),
                concat!($part, ".backendSettings.healthCheck.passive.interval"),
                concat!($part, ".backendSettings.http2"),
                concat!($part, ".backendSettings.loadBalancer.consistentHash"),
                concat!($part, ".backendSettings.loadBalancer.endpointOverride"),
                concat!($part, ".backendSettings.loadBalancer.zoneAware"),
                concat!($part, ".backendSettings.retry"),
                concat!($part, ".backendSettings.tcpKeepalive"),
                concat!($part, ".backendSettings.timeout.http.maxStreamDuration"),
                concat!($part, ".backendSettings.timeout.http.requestTimeout"),
                concat!($part, ".backendSettings.timeout.http.streamIdleTimeout"),
            )*
            "spec.extAuth.includeRouteMetadata=true",
            "spec.targetSelectors[].namespaces",
        ]
    };
}

const SECURITY_POLICY: &[&str] =
    security_policy!("spec.extAuth.grpc", "spec.extAuth.http", "spec.jwt.providers[].remoteJWKS", "spec.oidc.provider");

fn paths(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::GatewayClass => &["spec.description"],
        Kind::Gateway => &["spec.defaultScope", "spec.listeners[].tls.options"],
        Kind::ListenerSet => &["spec.listeners[].tls.options"],
        Kind::HTTPRoute | Kind::GRPCRoute => &["spec.useDefaultGateways"],
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
            "spec.acme.enableDurationFeature=true",
            "spec.acme.externalAccountBinding.keyAlgorithm",
            "spec.acme.solvers[].http01.ingress",
            "spec.acme.solvers[].http01.gatewayHTTPRoute.serviceType",
            "spec.acme.solvers[].http01.gatewayHTTPRoute.labels",
            "spec.acme.solvers[].http01.gatewayHTTPRoute.podTemplate",
            "spec.acme.solvers[].dns01.rfc2136.protocol",
            "spec.acme.solvers[].dns01.cloudflare.email",
            "spec.acme.solvers[].dns01.webhook.config",
            "spec.vault",
            "spec.venafi",
        ],
        Kind::Certificate => &[
            "spec.additionalOutputFormats",
            "spec.emailAddresses",
            "spec.encodeUsagesInRequest",
            "spec.keystores",
            "spec.literalSubject",
            "spec.nameConstraints",
            "spec.otherNames",
            "spec.privateKey.encoding",
            "spec.revisionHistoryLimit",
            "spec.signatureAlgorithm",
            "spec.subject",
            "spec.uris",
            "spec.usages",
        ],
        Kind::BGPPeer => &["spec.disableMP=true"],
        Kind::BFDProfile => &["spec.echoMode=true", "spec.echoInterval"],
        Kind::ClientTrafficPolicy => &[
            "spec.connection.connectionLimit.maxStreamDuration",
            "spec.connection.maxAcceptPerSocketEvent",
            "spec.connection.socketBufferLimit",
            "spec.grpc.enableWeb=true",
            "spec.headers.enableEnvoyHeaders=true",
            "spec.headers.host",
            "spec.headers.maxRequestHeaderLimit",
            "spec.http1.disableSafeMaxConnectionDuration=true",
            "spec.http1.enableTrailers=false",
            "spec.http1.http10.useDefaultHost=true",
            "spec.http1.ignoredUpgradeTypes",
            "spec.http1.preserveHeaderCase=true",
            "spec.http2.connectionKeepalive",
            "spec.http2.onInvalidMessage=TerminateConnection",
            "spec.scheme=MatchBackend",
            "spec.targetSelectors[].namespaces",
            "spec.timeout.http.requestReceivedTimeout",
            "spec.timeout.tcp.connectionInspectionTimeout",
            "spec.tls.fingerprints",
            "spec.tls.signatureAlgorithms",
        ],
        Kind::BackendTrafficPolicy => &[
            "spec.connection",
            "spec.dns",
            "spec.healthCheck.active.initialJitter",
            "spec.healthCheck.active.http.retriableStatuses",
            "spec.healthCheck.passive.failurePercentageThreshold",
            "spec.healthCheck.passive.interval",
            "spec.http2",
            "spec.httpUpgrade",
            "spec.loadBalancer.backendUtilization",
            "spec.loadBalancer.dynamicModule",
            "spec.loadBalancer.endpointOverride",
            "spec.loadBalancer.zoneAware",
            "spec.rateLimit.global.rules[].limit.fromMetadata",
            "spec.retry.numAttemptsPerPriority",
            "spec.routingType",
            "spec.tcpKeepalive",
            "spec.telemetry",
            "spec.timeout.http.maxStreamDuration",
            "spec.useClientProtocol",
        ],
        Kind::UpstreamSettingsPolicy => &["spec.useClusterIP=true", "spec.zoneSize"],
        Kind::ClientSettingsPolicy => &[
            "spec.body.bufferSize",
            "spec.keepAlive.minTimeout",
            "spec.keepAlive.timeout.header",
        ],
        Kind::ProxySettingsPolicy => &[
            "spec.buffering.bufferSize",
            "spec.buffering.buffers",
            "spec.buffering.busyBuffersSize",
            "spec.buffering.disable=false",
        ],
        Kind::AuthenticationFilter => &["spec.oidc.pkce=false", "spec.oidc.logout.tokenHint=false"],
        Kind::RateLimitPolicy => &["spec.rateLimit.local.rules[].zoneSize"],
        Kind::SecurityPolicy => SECURITY_POLICY,
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
        Kind::Backend => &[
            "spec.endpoints[].zone",
            "spec.tls.alpnProtocols",
            "spec.tls.fingerprints",
            "spec.tls.signatureAlgorithms",
        ],
        Kind::IPAddressPool
        | Kind::L2Advertisement
        | Kind::BGPAdvertisement
        | Kind::Community
        | Kind::ReferenceGrant
        // Rules that name one which is not acted on answer 500, and conditions say so.
        | Kind::HTTPRouteFilter
        | Kind::SnippetsFilter
        | Kind::SnippetsPolicy => &[],
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
        (Kind::BGPPeer, _) => ": deprecated by MetalLB; dualStackAddressFamily says which families there are",
        (Kind::BFDProfile, _) => ": BFD is asynchronous, without echo packets",
        (Kind::Service, "spec.selector") => ": endpoints come from EndpointSlices, Pods are not looked at",
        (Kind::Service, "spec.ports[].targetPort") => ": endpoints come with their ports from EndpointSlices",
        (Kind::EndpointSlice, "addressType=FQDN") => " FQDN: its endpoints are left out",
        (Kind::ClientTrafficPolicy, "spec.timeout.http.requestReceivedTimeout") => {
            " beyond the head of a request: its body only has to keep moving"
        }
        (Kind::BackendTrafficPolicy, "spec.healthCheck.passive.interval") => ": endpoints are judged with each answer",
        (Kind::BackendTrafficPolicy, "spec.healthCheck.active.initialJitter") => {
            ": first checks are spread over the interval in any case"
        }
        (Kind::SecurityPolicy, pattern) if pattern.ends_with(".backendSettings.timeout.http.requestTimeout") => {
            ": an exchange takes 10s at most, one with an authorizer what extAuth.timeout says"
        }
        (Kind::AuthenticationFilter, "spec.oidc.pkce=false") => ": every login is made with PKCE",
        (Kind::AuthenticationFilter, _) => ": a provider is always given the ID token at a logout",
        (Kind::ClientSettingsPolicy, "spec.body.bufferSize") => {
            ": bodies are handed on as they come, no file is written"
        }
        (Kind::ProxySettingsPolicy, _) => ": answers are handed on as they come, no more is held than a client is slow",
        (Kind::UpstreamSettingsPolicy, "spec.zoneSize") => ": there is no zone of shared memory",
        (Kind::Issuer | Kind::ClusterIssuer, "spec.acme.solvers[].http01.ingress") => {
            ": no Ingress and no Pod is made, Edge answers by itself"
        }
        (Kind::Issuer | Kind::ClusterIssuer, pattern) if pattern.contains(".gatewayHTTPRoute.") => {
            ": no HTTPRoute and no Pod is made, Edge answers by itself"
        }
        (Kind::Issuer | Kind::ClusterIssuer, "spec.acme.solvers[].dns01.webhook.config") => {
            ": what stands for the webhook in edge.toml has its own"
        }
        (Kind::Issuer | Kind::ClusterIssuer, "spec.acme.enableDurationFeature=true") => {
            ": the CA and its profiles say how long certificates live"
        }
        _ => "",
    }
}

/// Annotations of other projects by the beginning of their names, with those that are acted on.
const ANNOTATIONS: [(&str, &[&str]); 5] = [
    ("edge.internal/", &["issuers", "certificates", "wildcard", "profile", "priority", "max-parallel-requests"]),
    (
        "cert-manager.io/",
        &[
            "issuer",
            "cluster-issuer",
            "issuer-kind",
            "issuer-group",
            "common-name",
            "alt-names",
            "ip-sans",
            "duration",
            "renew-before",
            "renew-before-percentage",
            "ignore-tls-listeners",
            "private-key-algorithm",
            "private-key-size",
            "private-key-rotation-policy",
        ],
    ),
    // It asks for a certificate to serve until the ordered one is there, which is what is done anyway.
    ("acme.cert-manager.io/", &["http01-edit-in-place"]),
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
        write!(f, "{}{}", self.path, self.note)
    }
}

impl Inert {
    /// Whether it is in every object that comes from an API server.
    pub(super) fn is_owned_by_servers(&self) -> bool {
        SERVER_OWNED.contains(&self.path.as_str())
    }

    /// Whether a field that no shape has is known to be this one or inside it.
    pub(super) fn covers(&self, path: &str) -> bool {
        path.strip_prefix(self.path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    }
}

/// The fields of a spec that are set and not acted on, as the table has them, without `spec.`.
pub(crate) fn unacted<T: serde::Serialize>(kind: Kind, spec: &T) -> Vec<&'static str> {
    // Shapes are plain structs and maps with text keys, for which this cannot fail.
    let spec = serde_json::to_value(spec).unwrap_or(serde_json::Value::Null);
    let fields = paths(kind).iter().filter_map(|pattern| pattern.strip_prefix("spec."));
    let set = fields.filter(|pattern| is_set(&spec, pattern));
    set.map(|pattern| pattern.split_once('=').map_or(pattern, |(field, _)| field)).collect()
}

fn is_set(value: &serde_json::Value, pattern: &str) -> bool {
    if let Some(rest) = pattern.strip_prefix("[]") {
        let rest = rest.strip_prefix('.').unwrap_or(rest);
        return value.as_array().is_some_and(|list| list.iter().any(|value| is_set(value, rest)));
    }
    if let Some(expected) = pattern.strip_prefix('=') {
        return value.as_str() == Some(expected)
            || value.as_bool().is_some_and(|is_true| is_true.to_string() == expected);
    }
    if pattern.is_empty() {
        return !value.is_null();
    }
    let (key, rest) = pattern.split_at(pattern.find(['.', '[', '=']).unwrap_or(pattern.len()));
    value.get(key).is_some_and(|value| is_set(value, rest.strip_prefix('.').unwrap_or(rest)))
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
    let is_value = |expected: &str| match &value.value {
        Value::String(text) => text == expected,
        Value::Bool(is_set) => expected == if *is_set { "true" } else { "false" },
        _ => false,
    };
    match (rest.strip_prefix('.').unwrap_or(rest), rest.strip_prefix('=')) {
        ("", _) => found.push(Inert { mark: *mark, path: path.clone(), note: "" }),
        (_, Some(expected)) if is_value(expected) => found.push(Inert { mark: *mark, path: path.clone(), note: "" }),
        (_, Some(_)) => {}
        (rest, None) => walk(value, rest, path, found),
    }
    path.truncate(length);
}
