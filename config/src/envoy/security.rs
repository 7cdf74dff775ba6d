//! SecurityPolicy: who may pass. What each field means here is said in docs/authentication.md and docs/oidc.md.

mod authorization;
mod ext_auth;
mod jwt;
mod oidc;

use serde::{Deserialize, Serialize};

use super::{
    BackendProxyProtocol, BackendRetry, BackendTimeout, CircuitBreaker, Fraction, HealthCheck, LoadBalancer, MergeType,
    TargetSelector, merge,
};
use crate::gateway::{BackendObjectRef, PolicyTargetRef, SecretRef};
use crate::names::Kind;
use crate::wire::GepDuration;

pub use authorization::*;
pub use ext_auth::*;
pub use jwt::*;
pub use oidc::*;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecurityPolicySpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<PolicyTargetRef>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_refs: Vec<PolicyTargetRef>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_selectors: Vec<TargetSelector>,
    /// Absent: a policy of a route replaces the one of its listener or Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge_type: Option<MergeType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_auth: Option<ApiKeyAuth>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors: Option<PolicyCors>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csrf: Option<Csrf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic_auth: Option<BasicAuth>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<Jwt>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oidc: Option<Oidc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ext_auth: Option<ExtAuth>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization: Option<Authorization>,
    /// Why the policy cannot be read: it stands for that one, and nobody passes. In no manifest; it is written where the
    /// last good state is kept, so that a restart does not open anything.
    #[serde(default, rename = "edge.internal/unreadable", skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeyAuth {
    /// Each key of a Secret is a client, its value the client's key. Of a client that is in several the first counts.
    pub credential_refs: Vec<SecretRef>,
    /// The first place that has a key counts.
    pub extract_from: Vec<ExtractFrom>,
    #[serde(default, rename = "forwardClientIDHeader", skip_serializing_if = "Option::is_none")]
    pub forward_client_id_header: Option<String>,
    /// Whether the key is taken out before the request is forwarded. Absent is false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sanitize: Option<bool>,
}

/// Exactly one of the three.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExtractFrom {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cookies: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyCors {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_origins: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_methods: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_headers: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expose_headers: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<GepDuration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_credentials: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Csrf {
    /// Of requests, so many are judged and let through all the same. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow_fraction: Option<Fraction>,
    /// Allowed beside the destination's own; the scheme does not count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional_origins: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BasicAuth {
    /// An Opaque Secret with the key `.htpasswd`.
    pub users: SecretRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward_username_header: Option<String>,
}

/// How a server that Edge itself asks is reached: its `backendRefs`, each with its weight, and its settings. The four places
/// that have these fields give them out alike.
#[derive(Debug, Clone, Copy)]
pub struct Cluster<'s> {
    pub older: Option<&'s BackendObjectRef>,
    pub refs: &'s [ClusterBackendRef],
    pub settings: Option<&'s ClusterSettings>,
}

macro_rules! clusters {
    ($($at:ty),*) => {$(
        impl $at {
            pub fn cluster(&self) -> Cluster<'_> {
                Cluster {
                    older: self.backend_ref.as_ref(),
                    refs: &self.backend_refs,
                    settings: self.backend_settings.as_ref(),
                }
            }
        }
    )*};
}
clusters!(RemoteJwks, OidcProvider, GrpcExtAuth, HttpExtAuth);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterBackendRef {
    #[serde(default)]
    pub group: String,
    #[serde(default = "service_kind")]
    pub kind: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<bool>,
}

fn service_kind() -> String {
    "Service".to_owned()
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSettings {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<BackendRetry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<BackendProxyProtocol>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<BackendTimeout>,
    /// Known, and not acted on by this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http2: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_keepalive: Option<serde_json::Value>,
}

impl SecurityPolicySpec {
    /// What a policy may be about. Envoy Gateway knows neither of the last two; here they are streams like TCPRoute.
    pub const TARGETS: [Kind; 7] = [
        Kind::Gateway,
        Kind::ListenerSet,
        Kind::HTTPRoute,
        Kind::GRPCRoute,
        Kind::TCPRoute,
        Kind::TLSRoute,
        Kind::UDPRoute,
    ];

    /// This policy over the one of its listener or Gateway: what it says holds, and the other's for the rest.
    pub fn over(&self, parent: &Self) -> Option<Self> {
        let parts = |spec: &Self| {
            let no_targets = Self {
                target_ref: None,
                target_refs: Vec::new(),
                target_selectors: Vec::new(),
                merge_type: None,
                ..spec.clone()
            };
            serde_json::to_value(no_targets).ok()
        };
        let (mut below, above) = (parts(parent)?, parts(self)?);
        merge(&mut below, above);
        serde_json::from_value(below).ok()
    }

    /// The older fields that are used, each with what stands in its place.
    pub fn deprecated(&self) -> Vec<(&'static str, &'static str)> {
        let ext_auth = self.ext_auth.as_ref();
        let grpc = ext_auth.and_then(|auth| auth.grpc.as_ref());
        let http = ext_auth.and_then(|auth| auth.http.as_ref());
        let fields = [
            ("spec.targetRef", "spec.targetRefs", self.target_ref.is_some()),
            (
                "spec.extAuth.grpc.backendRef",
                "spec.extAuth.grpc.backendRefs",
                grpc.is_some_and(|grpc| grpc.backend_ref.is_some()),
            ),
            (
                "spec.extAuth.http.backendRef",
                "spec.extAuth.http.backendRefs",
                http.is_some_and(|http| http.backend_ref.is_some()),
            ),
        ];
        fields.into_iter().filter(|(_, _, is_set)| *is_set).map(|(old, new, _)| (old, new)).collect()
    }
}
