//! Envoy Gateway's policies, HTTPRouteFilter, EnvoyProxy and Backend (v1.9). A field of theirs that is not here, or is here
//! and not acted on, is known by the table of inert fields and reported.

mod backend_traffic;
mod client_traffic;
mod limits;
mod parts;
mod responses;
mod route_filter;
mod security;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::gateway::{LabelRequirement, LabelSelector, ObjectReference, PolicyTargetRef, SecretRef, WellKnownCa};
use crate::wire::open_enum;

pub use backend_traffic::*;
pub use client_traffic::*;
pub use limits::*;
pub use parts::*;
pub use responses::*;
pub use route_filter::*;
pub use security::*;

/// Objects of one kind by their labels, in the namespace of the policy or in others that let it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetSelector {
    #[serde(default = "gateway_group")]
    pub group: String,
    pub kind: String,
    /// Absent is the policy's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<TargetNamespaces>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<LabelRequirement>,
}

/// A namespace other than the policy's own needs a ReferenceGrant there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetNamespaces {
    pub from: TargetNamespacesFrom,
    /// With from Selector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

open_enum! {
    pub enum TargetNamespacesFrom { Same = "Same", All = "All", Selector = "Selector" }
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
    /// Whether it is to be used only where the others of a rule are not healthy. Absent is false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<bool>,
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
    /// What `autoSNIFromEndpointHostname` takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
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

/// How it is spoken to in TLS. A BackendTLSPolicy goes field by field before it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTls {
    #[serde(default, rename = "caCertificateRefs", skip_serializing_if = "Vec::is_empty")]
    pub ca_certificate_refs: Vec<ObjectReference>,
    /// Not together with the one before.
    #[serde(default, rename = "wellKnownCACertificates", skip_serializing_if = "Option::is_none")]
    pub well_known_ca_certificates: Option<WellKnownCa>,
    #[serde(default)]
    pub insecure_skip_verify: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// Not together with `sni`.
    #[serde(default, rename = "autoSNIFromEndpointHostname", skip_serializing_if = "Option::is_none")]
    pub auto_sni_from_endpoint_hostname: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_ref: Option<SecretRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_version: Option<TlsVersion>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_version: Option<TlsVersion>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ciphers: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ecdh_curves: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signature_algorithms: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpn_protocols: Option<Vec<AlpnProtocol>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fingerprints: Vec<TlsFingerprint>,
}
