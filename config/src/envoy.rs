//! Envoy Gateway's policies, EnvoyProxy and Backend (v1.9): typed where Edge acts. A field of theirs that is not here
//! is known by the table of inert fields and reported as not acted on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::gateway::{LabelRequirement, LabelSelector, ObjectReference, PolicyTargetRef, SecretRef};
use crate::snapshot::ProxyPresence;
use crate::wire::{ByteQuantity, GepDuration, open_enum};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientTrafficPolicySpec {
    /// The older single form; [`Self::targets`] has both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<PolicyTargetRef>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_refs: Vec<PolicyTargetRef>,
    #[serde(default, rename = "clientIPDetection", skip_serializing_if = "Option::is_none")]
    pub client_ip_detection: Option<ClientIpDetection>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<ClientConnection>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<ClientTimeout>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathSettings>,
    /// The older form; `proxyProtocol` goes before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_proxy_protocol: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ClientProxyProtocol>,
}

/// An absent member leaves what edge.toml says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathSettings {
    /// `%2F` and `%5C`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escaped_slashes_action: Option<EscapedSlashesAction>,
    /// `false` merges them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_merge_slashes: Option<bool>,
}

open_enum! {
    pub enum EscapedSlashesAction {
        KeepUnchanged = "KeepUnchanged",
        RejectRequest = "RejectRequest",
        UnescapeAndForward = "UnescapeAndForward",
        UnescapeAndRedirect = "UnescapeAndRedirect",
    }
}

/// PROXY protocol headers from load balancers in front.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientProxyProtocol {
    /// Whether connections without a header are served as well. Absent is false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

impl ClientTrafficPolicySpec {
    /// What it says of PROXY protocol headers. `None`: nothing; `Some(None)`: that there are none.
    pub fn proxy_presence(&self) -> Option<Option<ProxyPresence>> {
        let presence = match (self.proxy_protocol, self.enable_proxy_protocol) {
            (Some(ClientProxyProtocol { optional: Some(true) }), _) => Some(ProxyPresence::Optional),
            (Some(_), _) | (None, Some(true)) => Some(ProxyPresence::Required),
            (None, Some(false)) => None,
            (None, None) => return None,
        };
        Some(presence)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientIpDetection {
    #[serde(default, rename = "xForwardedFor", skip_serializing_if = "Option::is_none")]
    pub x_forwarded_for: Option<XForwardedFor>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct XForwardedFor {
    /// How many entries of `X-Forwarded-For`, counted from the right, were written by proxies of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_trusted_hops: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientConnection {
    /// The most that is buffered of one connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buffer_limit: Option<ByteQuantity>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientTimeout {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<ClientHttpTimeout>,
}

/// Zero disables a timeout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientHttpTimeout {
    /// A connection without a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<GepDuration>,
    /// From the start of a request to its last byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_received_timeout: Option<GepDuration>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTrafficPolicySpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<PolicyTargetRef>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_refs: Vec<PolicyTargetRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<BackendTimeout>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<BackendProxyProtocol>,
}

/// PROXY protocol headers to endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendProxyProtocol {
    pub version: BackendProxyVersion,
}

open_enum! {
    pub enum BackendProxyVersion { V1 = "V1", V2 = "V2" }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancer {
    #[serde(rename = "type")]
    pub kind: LoadBalancerType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistent_hash: Option<ConsistentHash>,
}

open_enum! {
    pub enum LoadBalancerType {
        ConsistentHash = "ConsistentHash",
        LeastRequest = "LeastRequest",
        Random = "Random",
        RoundRobin = "RoundRobin",
        BackendUtilization = "BackendUtilization",
        DynamicModule = "DynamicModule",
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsistentHash {
    #[serde(rename = "type")]
    pub kind: ConsistentHashType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<HashName>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HashName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<HashCookie>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query_params: Vec<HashName>,
}

open_enum! {
    pub enum ConsistentHashType {
        SourceIp = "SourceIP",
        Header = "Header",
        Headers = "Headers",
        Cookie = "Cookie",
        QueryParams = "QueryParams",
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HashName {
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HashCookie {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<GepDuration>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTimeout {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<BackendTcpTimeout>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<BackendHttpTimeout>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTcpTimeout {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<GepDuration>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendHttpTimeout {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_timeout: Option<GepDuration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_idle_timeout: Option<GepDuration>,
}

/// Read so that what it is to protect can be closed; no other member of it is acted on by this version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecurityPolicySpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<PolicyTargetRef>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_refs: Vec<PolicyTargetRef>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_selectors: Vec<TargetSelector>,
}

/// Objects of one kind by their labels, in the namespace of the policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetSelector {
    #[serde(default = "gateway_group")]
    pub group: String,
    pub kind: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<LabelRequirement>,
}

fn gateway_group() -> String {
    crate::gateway::GROUP.to_owned()
}

impl TargetSelector {
    pub fn labels(&self) -> LabelSelector {
        LabelSelector { match_labels: self.match_labels.clone(), match_expressions: self.match_expressions.clone() }
    }
}

macro_rules! targets {
    ($($policy:ty),*) => {$(
        impl $policy {
            /// What the policy applies to, whichever of the two forms says it.
            pub fn targets(&self) -> impl Iterator<Item = &PolicyTargetRef> {
                self.target_ref.iter().chain(&self.target_refs)
            }
        }
    )*};
}
targets!(ClientTrafficPolicySpec, BackendTrafficPolicySpec, SecurityPolicySpec);

/// Read so that a GatewayClass or Gateway may name it; nothing in it is acted on by this version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnvoyProxySpec {}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendSpec {
    #[serde(default, rename = "type")]
    pub kind: BackendType,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<BackendEndpoint>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub app_protocols: Vec<BackendProtocol>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<BackendTls>,
}

open_enum! {
    #[derive(Default)]
    pub enum BackendType { #[default] Endpoints = "Endpoints", DynamicResolver = "DynamicResolver" }
}

open_enum! {
    pub enum BackendProtocol {
        H2c = "gateway.envoyproxy.io/h2c",
        Ws = "gateway.envoyproxy.io/ws",
        Wss = "gateway.envoyproxy.io/wss",
    }
}

/// Files must have exactly one of the three.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendEndpoint {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fqdn: Option<FqdnEndpoint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpEndpoint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unix: Option<UnixEndpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FqdnEndpoint {
    pub hostname: String,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpEndpoint {
    pub address: String,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnixEndpoint {
    pub path: String,
}

/// Not acted on by this version: a Backend with it is refused rather than spoken to in plain text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTls {
    #[serde(default, rename = "caCertificateRefs", skip_serializing_if = "Vec::is_empty")]
    pub ca_certificate_refs: Vec<ObjectReference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_ref: Option<SecretRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    #[serde(default)]
    pub insecure_skip_verify: bool,
}
