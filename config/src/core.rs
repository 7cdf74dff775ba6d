//! Kubernetes core kinds: Namespace, Service, EndpointSlice, Node, Secret, ConfigMap. Secrets and ConfigMaps come in two
//! forms: the raw one that a source decodes, and the one in `Inputs`, in which certificates are facts, CA bundles are
//! public DER and private bytes are gone. Turning one into the other needs a crypto library and happens in the source.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::policy::{Htpasswd, Jwks};
use crate::wire::{Few, IntOrString, null_as_default, open_enum};

/// A Namespace is its labels; its spec holds nothing that Edge looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceSpec {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub finalizers: Vec<String>,
}

/// Of thousands most are a type and a port, so what few have takes little room where it is absent.
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
    pub cluster_ip: Option<Box<str>>,
    #[serde(default, rename = "clusterIPs", skip_serializing_if = "Few::is_none")]
    pub cluster_ips: Few<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_name: Option<Box<str>>,
    #[serde(default, rename = "externalIPs", skip_serializing_if = "Few::is_none")]
    pub external_ips: Few<String>,
    #[serde(default, rename = "loadBalancerIP", skip_serializing_if = "Option::is_none")]
    pub load_balancer_ip: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer_class: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Few::is_none")]
    pub load_balancer_source_ranges: Few<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<TrafficPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_traffic_policy: Option<TrafficPolicy>,
    #[serde(default, skip_serializing_if = "Few::is_none")]
    pub ip_families: Few<IpFamily>,
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
    pub hostname: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Box<str>>,
    /// Boxed, as endpoints that somebody wrote by hand have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<Box<TargetRef>>,
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

/// A secret text of another object than a Secret. Lives only inside a source, and is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(pub Vec<u8>);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A ConfigMap as a manifest holds it, binary values decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawConfigMap {
    pub values: BTreeMap<String, Vec<u8>>,
}

/// The type of Secrets with a password.
pub const BASIC_AUTH_SECRET: &str = "kubernetes.io/basic-auth";

/// A Secret without anything secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Secret {
    /// `kubernetes.io/tls`, `Opaque`, …
    pub kind: String,
    /// The key names that are there, in order.
    pub keys: Vec<String>,
    pub contents: SecretContents,
    /// The lists under `ca.crl`, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crl: Option<RevocationLists>,
    /// What is wrong with the values of keys, by key: users under `.htpasswd` and the like ([`value_faults`]), values that
    /// are empty or that another key has, too.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub faults: BTreeMap<String, ValueFault>,
}

/// Why a value of a Secret is of no use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum ValueFault {
    Empty,
    /// As this key's, which comes before.
    SameAs(String),
    /// It is not what its key stands for.
    Garbage(String),
}

impl fmt::Display for ValueFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("is empty"),
            Self::SameAs(key) => write!(f, "has the same value as key {key}"),
            Self::Garbage(why) => f.write_str(why),
        }
    }
}

/// The type of NGINX Gateway Fabric's Secrets with users, and the key in them; and the same with a key set.
pub const NGINX_USERS_SECRET: &str = "nginx.org/htpasswd";
pub const NGINX_KEYS_SECRET: &str = "nginx.org/jwt";
pub const NGINX_AUTH_KEY: &str = "auth";
/// The key of Envoy Gateway's Secrets with users.
pub const HTPASSWD_KEY: &str = ".htpasswd";

/// Looks at the values of a Secret of type `kind`, in the order of their keys. A source asks this, since values do not
/// leave it.
pub fn value_faults<'v>(
    kind: &str,
    values: impl Iterator<Item = (&'v String, &'v [u8])>,
) -> BTreeMap<String, ValueFault> {
    let mut faults = BTreeMap::new();
    let mut seen: BTreeMap<&[u8], &String> = BTreeMap::new();
    for (key, value) in values {
        let users = || Htpasswd::parse(value).map(|_| ());
        let garbage = match (kind, key.as_str()) {
            (_, HTPASSWD_KEY) | (NGINX_USERS_SECRET, NGINX_AUTH_KEY) => users().err(),
            (NGINX_KEYS_SECRET, NGINX_AUTH_KEY) => Jwks::parse(value).err(),
            // Of type Opaque it may be either.
            (_, NGINX_AUTH_KEY) if value.trim_ascii_start().starts_with(b"{") => Jwks::parse(value).err(),
            (_, NGINX_AUTH_KEY) => users().err(),
            _ => None,
        };
        let fault = if let Some(why) = garbage {
            Some(ValueFault::Garbage(why))
        } else if value.trim_ascii().is_empty() {
            Some(ValueFault::Empty)
        } else {
            seen.get(value).map(|before| ValueFault::SameAs((*before).clone()))
        };
        seen.entry(value).or_insert(key);
        faults.extend(fault.map(|fault| (key.clone(), fault)));
    }
    faults
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

/// Lists of revoked certificates (RFC 5280 §5): DER, in their order, or why there are none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RevocationLists(pub Result<Vec<Arc<[u8]>>, String>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfigMap {
    /// The key names that are there, in order.
    pub keys: Vec<String>,
    /// The bundle under `ca.crt`, where there is one.
    pub ca: Option<CaBundle>,
    /// The lists under `ca.crl`, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crl: Option<RevocationLists>,
    /// The values that parameters of a Gateway may have ([`PARAMETERS`]); no other value is kept.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
    /// What it holds as the body of an answer ([`RESPONSE_BODY`]).
    #[serde(skip)]
    pub body: Option<Result<Arc<str>, &'static str>>,
    /// What a JWT provider finds there: the key set under `jwks`, or else under the first key of all; the error says why
    /// it is none. `None`: there is nothing that looks like one.
    #[serde(skip)]
    pub jwks: Option<Result<Arc<Jwks>, String>>,
}

/// The key of the body of an answer. A ConfigMap with one key only may hold it under that.
pub const RESPONSE_BODY: &str = "response.body";
/// ConfigMaps are for many things, and most with one key are not for this: of those no more is kept.
const LONGEST_BODY_WITHOUT_KEY: usize = 64 << 10;

/// The keys of a ConfigMap that `parametersRef` of a GatewayClass or a Gateway names.
pub const PARAMETERS: [&str; 4] = ["addressPool", "loadBalancer", "proxyProtocol", "requestTimeout"];
/// No value of a parameter is longer; of one that is, so much is kept that it is seen to be none.
const LONGEST_PARAMETER: usize = 256;

fn body(values: &BTreeMap<String, Vec<u8>>) -> Option<Result<Arc<str>, &'static str>> {
    let only = values.iter().next().filter(|(key, value)| {
        values.len() == 1 && key.as_str() != "ca.crt" && value.len() <= LONGEST_BODY_WITHOUT_KEY
    });
    let (key, value) = values.get_key_value(RESPONSE_BODY).or(only)?;
    if PARAMETERS.contains(&key.as_str()) {
        return None;
    }
    if value.len() > crate::policy::LARGEST_BODY {
        return Some(Err("is longer than 1 MiB"));
    }
    Some(std::str::from_utf8(value).map(Arc::from).map_err(|_| "is no text in UTF-8"))
}

impl ConfigMap {
    /// What is kept of a ConfigMap with these values.
    pub fn new(values: &BTreeMap<String, Vec<u8>>, ca: Option<CaBundle>, crl: Option<RevocationLists>) -> Self {
        let parameters = values.iter().filter(|(key, _)| PARAMETERS.contains(&key.as_str()));
        let text = |value: &[u8]| String::from_utf8_lossy(&value[..value.len().min(LONGEST_PARAMETER)]).into_owned();
        let parameters = parameters.map(|(key, value)| (key.clone(), text(value))).collect();
        Self { keys: values.keys().cloned().collect(), ca, crl, parameters, body: body(values), jwks: jwks(values) }
    }

    /// The key under which the body of an answer is.
    pub fn body_key(&self) -> Option<&str> {
        let named = self.keys.iter().find(|key| *key == RESPONSE_BODY);
        named.or(self.keys.first()).filter(|_| self.body.is_some()).map(String::as_str)
    }
}

/// A value that begins as a JSON object is looked at; most ConfigMaps have none.
fn jwks(values: &BTreeMap<String, Vec<u8>>) -> Option<Result<Arc<Jwks>, String>> {
    let named = values.get("jwks");
    let value = named.or_else(|| values.values().next())?;
    let looks_like_one = value.trim_ascii_start().starts_with(b"{") && value.windows(6).any(|part| part == b"\"keys\"");
    (named.is_some() || looks_like_one).then(|| Jwks::parse(value).map(Arc::new))
}
