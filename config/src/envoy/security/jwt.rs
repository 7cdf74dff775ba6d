//! JWT authentication: providers, where tokens and keys are found, what is told to backends.

use serde::{Deserialize, Serialize};

use super::{ClusterBackendRef, ClusterSettings};
use crate::gateway::BackendObjectRef;
use crate::wire::{GepDuration, open_enum};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Jwt {
    /// Whether a request without any token passes. Absent is false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
    /// Whether requests without a valid token pass. Absent is false; excludes `optional`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail_open: Option<bool>,
    /// Any of them may accept the token.
    pub providers: Vec<JwtProvider>,
}

/// Exactly one of `remoteJWKS` and `localJWKS`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JwtProvider {
    pub name: String,
    /// Empty: any.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub issuer: String,
    /// Empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audiences: Vec<String>,
    #[serde(default, rename = "remoteJWKS", skip_serializing_if = "Option::is_none")]
    pub remote_jwks: Option<RemoteJwks>,
    #[serde(default, rename = "localJWKS", skip_serializing_if = "Option::is_none")]
    pub local_jwks: Option<LocalJwks>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claim_to_headers: Vec<ClaimToHeader>,
    /// Not acted on by this version: a policy with it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recompute_route: Option<bool>,
    /// Absent: `Authorization: Bearer`, or the query parameter `access_token`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extract_from: Option<JwtExtractor>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoteJwks {
    /// The older form of `backendRefs` with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_ref: Option<BackendObjectRef>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backend_refs: Vec<ClusterBackendRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_settings: Option<ClusterSettings>,
    pub uri: String,
    /// Absent: 300s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_duration: Option<GepDuration>,
    /// Absent: 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_refetch_duration: Option<GepDuration>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalJwks {
    /// Absent: Inline.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<LocalJwksType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<String>,
    /// A ConfigMap: its key `jwks`, or else its first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_ref: Option<LocalValueRef>,
}

/// A reference within the namespace, whose group may be left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalValueRef {
    #[serde(default)]
    pub group: String,
    pub kind: String,
    pub name: String,
}

open_enum! {
    pub enum LocalJwksType { Inline = "Inline", ValueRef = "ValueRef" }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimToHeader {
    pub header: String,
    /// Names of nested claims are joined by dots.
    pub claim: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JwtExtractor {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<JwtHeaderExtractor>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cookies: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JwtHeaderExtractor {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_prefix: Option<String>,
}
