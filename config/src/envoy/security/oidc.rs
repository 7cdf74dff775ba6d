//! OpenID Connect: login of browsers.

use serde::{Deserialize, Serialize};

use super::{ClusterBackendRef, ClusterSettings};
use crate::gateway::{BackendObjectRef, SecretRef};
use crate::wire::{GepDuration, open_enum};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Oidc {
    pub provider: OidcProvider,
    /// Exactly one of `clientID` and `clientIDRef`.
    #[serde(default, rename = "clientID", skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// An Opaque Secret with the key `client-id`.
    #[serde(default, rename = "clientIDRef", skip_serializing_if = "Option::is_none")]
    pub client_id_ref: Option<SecretRef>,
    /// An Opaque Secret with the key `client-secret`.
    pub client_secret: SecretRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie_names: Option<OidcCookieNames>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie_config: Option<OidcCookieConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie_domain: Option<String>,
    /// `openid` is always asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Absent: `/oauth2/callback` of the host of the request.
    #[serde(default, rename = "redirectURL", skip_serializing_if = "Option::is_none")]
    pub redirect_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deny_redirect: Option<OidcDenyRedirect>,
    /// Absent: `/logout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logout_path: Option<String>,
    /// Absent is false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward_access_token: Option<bool>,
    #[serde(default, rename = "forwardIDToken", skip_serializing_if = "Option::is_none")]
    pub forward_id_token: Option<OidcTokenForwarding>,
    #[serde(default, rename = "defaultTokenTTL", skip_serializing_if = "Option::is_none")]
    pub default_token_ttl: Option<GepDuration>,
    /// Absent is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<bool>,
    /// Absent: 604800s.
    #[serde(default, rename = "defaultRefreshTokenTTL", skip_serializing_if = "Option::is_none")]
    pub default_refresh_token_ttl: Option<GepDuration>,
    /// Absent: 10m.
    #[serde(default, rename = "csrfTokenTTL", skip_serializing_if = "Option::is_none")]
    pub csrf_token_ttl: Option<GepDuration>,
    /// Absent is false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_token_encryption: Option<bool>,
    /// Whether a request with a token where JWT looks for one is left to JWT. Absent is false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass_through_auth_header: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OidcProvider {
    /// The older form of `backendRefs` with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_ref: Option<BackendObjectRef>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backend_refs: Vec<ClusterBackendRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_settings: Option<ClusterSettings>,
    pub issuer: String,
    /// Absent: as the provider's metadata says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization_endpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_endpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_session_endpoint: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OidcDenyRedirect {
    pub headers: Vec<OidcDenyRedirectHeader>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OidcDenyRedirectHeader {
    pub name: String,
    /// Absent: Exact.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<OidcMatchType>,
    pub value: String,
}

open_enum! {
    pub enum OidcMatchType {
        Exact = "Exact",
        Prefix = "Prefix",
        Suffix = "Suffix",
        RegularExpression = "RegularExpression",
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OidcCookieNames {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_token: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OidcCookieConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_site: Option<SameSite>,
}

open_enum! {
    pub enum SameSite { Lax = "Lax", Strict = "Strict", None = "None" }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OidcTokenForwarding {
    pub header: String,
}
