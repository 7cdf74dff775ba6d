//! Kubernetes core kinds: Namespace, Service, EndpointSlice, Node, Secret, ConfigMap. Secrets and ConfigMaps come in two
//! forms: the raw one that a source decodes, and the one in `Inputs`, in which certificates are facts, CA bundles are
//! public DER and private bytes are gone. Turning one into the other needs a crypto library and happens in the source.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::wire::{IntOrString, null_as_default, open_enum};

/// A Namespace is its labels; its spec holds nothing that Edge looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceSpec {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub finalizers: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    #[serde(default, rename = "type")]
    pub kind: ServiceType,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ServicePort>,
    /// Only tells whether EndpointSlices are made by a controller; Edge never looks at Pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, String>,
    /// `None` (the word) for a headless Service. Edge routes to endpoints in any case.
    #[serde(default, rename = "clusterIP", skip_serializing_if = "Option::is_none")]
    pub cluster_ip: Option<String>,
    #[serde(default, rename = "clusterIPs", skip_serializing_if = "Vec::is_empty")]
    pub cluster_ips: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_name: Option<String>,
    #[serde(default, rename = "externalIPs", skip_serializing_if = "Vec::is_empty")]
    pub external_ips: Vec<String>,
    #[serde(default, rename = "loadBalancerIP", skip_serializing_if = "Option::is_none")]
    pub load_balancer_ip: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer_class: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub load_balancer_source_ranges: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<TrafficPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_traffic_policy: Option<TrafficPolicy>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_families: Vec<IpFamily>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_family_policy: Option<IpFamilyPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check_node_port: Option<u16>,
    #[serde(default)]
    pub publish_not_ready_addresses: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<SessionAffinity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity_config: Option<SessionAffinityConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocate_load_balancer_node_ports: Option<bool>,
}

open_enum! {
    #[derive(Default)]
    pub enum ServiceType {
        #[default] ClusterIp = "ClusterIP",
        NodePort = "NodePort",
        LoadBalancer = "LoadBalancer",
        ExternalName = "ExternalName",
    }
}

open_enum! {
    pub enum IpFamily { V4 = "IPv4", V6 = "IPv6" }
}

open_enum! {
    #[derive(Default)]
    pub enum IpFamilyPolicy {
        #[default] SingleStack = "SingleStack",
        PreferDualStack = "PreferDualStack",
        RequireDualStack = "RequireDualStack",
    }
}

open_enum! {
    pub enum SessionAffinity { None = "None", ClientIp = "ClientIP" }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionAffinityConfig {
    #[serde(default, rename = "clientIP", skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<ClientIpConfig>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientIpConfig {
    /// 1 to 86400; absent is 10800.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
}

open_enum! {
    pub enum TrafficPolicy { Cluster = "Cluster", Local = "Local" }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// May be absent or empty where the Service has a single port; EndpointSlices carry the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default)]
    pub protocol: PortProtocol,
    pub port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<IntOrString>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_port: Option<u16>,
    /// `kubernetes.io/h2c`, `kubernetes.io/ws`, `kubernetes.io/wss`, an IANA name, or one of somebody else's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
}

open_enum! {
    #[derive(Default)]
    pub enum PortProtocol { #[default] Tcp = "TCP", Udp = "UDP", Sctp = "SCTP" }
}

/// Annotation and label names of this API.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// An EndpointSlice has no spec; this is its body. The Service it belongs to is the label [`SERVICE_NAME_LABEL`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    pub address_type: EndpointAddressType,
    #[serde(default, deserialize_with = "null_as_default")]
    pub endpoints: Vec<Endpoint>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub ports: Vec<EndpointPort>,
    /// The label, where a source keeps it here: a map for one entry takes as much memory as the rest of a slice.
    #[serde(skip)]
    pub service: Option<Box<str>>,
}

open_enum! {
    pub enum EndpointAddressType { Ipv4 = "IPv4", Ipv6 = "IPv6", Fqdn = "FQDN" }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    #[serde(default, deserialize_with = "null_as_default")]
    pub addresses: Vec<String>,
    #[serde(default)]
    pub conditions: EndpointConditions,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
}

/// Absent `ready` and `serving` mean yes, absent `terminating` means no.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointConditions {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
}

/// The Pod behind an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointPort {
    /// The name of the Service port; absent or empty for the only port of a Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default)]
    pub protocol: PortProtocol,
    /// Absent: every port, which Edge cannot connect to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
}

/// What of a Node tells how its Pods are reached. Unlike other objects it is read with its status: its addresses are
/// nowhere else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    #[serde(default)]
    pub spec: NodeSpec,
    #[serde(default)]
    pub status: NodeStatus,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSpec {
    /// The same as the first of `pod_cidrs`, which may be absent.
    #[serde(default, rename = "podCIDR", skip_serializing_if = "Option::is_none")]
    pub pod_cidr: Option<String>,
    #[serde(default, rename = "podCIDRs", skip_serializing_if = "Vec::is_empty")]
    pub pod_cidrs: Vec<String>,
    #[serde(default)]
    pub unschedulable: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    #[serde(default, deserialize_with = "null_as_default")]
    pub addresses: Vec<NodeAddress>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub conditions: Vec<NodeCondition>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname`, …
    #[serde(rename = "type")]
    pub kind: String,
    pub address: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCondition {
    /// `Ready`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
}

/// A Secret as a manifest holds it. Lives only inside a source; prints its key names, never a value.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RawSecret {
    /// `Opaque` where the manifest says nothing.
    pub kind: String,
    pub values: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for RawSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawSecret")
            .field("kind", &self.kind)
            .field("keys", &self.values.keys())
            .field("values", &"[redacted]")
            .finish()
    }
}

/// A ConfigMap as a manifest holds it, binary values decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawConfigMap {
    pub values: BTreeMap<String, Vec<u8>>,
}

/// A Secret without anything secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Secret {
    /// `kubernetes.io/tls`, `Opaque`, …
    pub kind: String,
    /// The key names that are there, in order.
    pub keys: Vec<String>,
    pub contents: SecretContents,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum SecretContents {
    /// `tls.crt` and `tls.key` are there, or the type promises them; the error says why they cannot be served.
    Tls {
        certificate: Result<CertificateFacts, String>,
        ca: Option<CaBundle>,
    },
    /// `ca.crt` without a certificate of its own.
    Ca(CaBundle),
    Other,
}

impl Secret {
    /// The certificate, or the reason why there is none that could be served.
    pub fn certificate(&self) -> Result<&CertificateFacts, &str> {
        match &self.contents {
            SecretContents::Tls { certificate, .. } => certificate.as_ref().map_err(String::as_str),
            SecretContents::Ca(_) | SecretContents::Other => Err("holds no tls.crt and tls.key"),
        }
    }

    /// The bundle under `ca.crt`, where there is one.
    pub fn ca(&self) -> Option<&CaBundle> {
        match &self.contents {
            SecretContents::Tls { ca, .. } => ca.as_ref(),
            SecretContents::Ca(ca) => Some(ca),
            SecretContents::Other => None,
        }
    }
}

/// What the leaf certificate of a chain says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateFacts {
    /// DNS names, lower case, wildcards as written; the common name where there is no alternative name at all.
    pub dns_names: Vec<String>,
    pub ip_addresses: Vec<IpAddr>,
    /// Unix seconds.
    pub not_before: i64,
    /// Unix seconds.
    pub not_after: i64,
    /// The issuer's common name, or its whole name where it has none.
    pub issuer: String,
    pub key_algorithm: KeyAlgorithm,
    /// Of the leaf's DER, lower-case hex.
    pub sha256: String,
    pub is_ca: bool,
    pub is_self_signed: bool,
    /// How many certificates the chain holds, the leaf included.
    pub chain_length: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum KeyAlgorithm {
    Rsa { bits: u32 },
    EcdsaP256,
    EcdsaP384,
    EcdsaP521,
    Ed25519,
    Unknown,
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa { bits } => write!(f, "RSA {bits}"),
            Self::EcdsaP256 => f.write_str("ECDSA P-256"),
            Self::EcdsaP384 => f.write_str("ECDSA P-384"),
            Self::EcdsaP521 => f.write_str("ECDSA P-521"),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// Trust anchors: the DER certificates in their order, or why there are none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CaBundle(pub Result<Vec<Arc<[u8]>>, String>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfigMap {
    /// The key names that are there, in order.
    pub keys: Vec<String>,
    /// The bundle under `ca.crt`, where there is one.
    pub ca: Option<CaBundle>,
    /// The values that parameters of a Gateway may have ([`PARAMETERS`]); no other value is kept.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
}

/// The keys of a ConfigMap that `parametersRef` of a GatewayClass or a Gateway names.
pub const PARAMETERS: [&str; 4] = ["addressPool", "loadBalancer", "proxyProtocol", "requestTimeout"];
/// No value of a parameter is longer; of one that is, so much is kept that it is seen to be none.
const LONGEST_PARAMETER: usize = 256;

impl ConfigMap {
    /// What is kept of a ConfigMap with these values.
    pub fn new(values: &BTreeMap<String, Vec<u8>>, ca: Option<CaBundle>) -> Self {
        let parameters = values.iter().filter(|(key, _)| PARAMETERS.contains(&key.as_str()));
        let text = |value: &[u8]| String::from_utf8_lossy(&value[..value.len().min(LONGEST_PARAMETER)]).into_owned();
        let parameters = parameters.map(|(key, value)| (key.clone(), text(value))).collect();
        Self { keys: values.keys().cloned().collect(), ca, parameters }
    }
}
