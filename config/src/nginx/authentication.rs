//! AuthenticationFilter: who may pass a rule, by password, by token or by login. Rules name it by `extensionRef`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::NginxDuration;
use crate::wire::open_enum;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthenticationFilterSpec {
    #[serde(rename = "type")]
    pub kind: AuthenticationType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<NginxBasicAuth>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<NginxJwtAuth>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oidc: Option<Box<NginxOidcAuth>>,
}

open_enum! {
    pub enum AuthenticationType { Basic = "Basic", Jwt = "JWT", Oidc = "OIDC" }
}

/// An object of the filter's own namespace: a Secret wherever it stands here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalName {
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NginxBasicAuth {
    /// Its key `auth` is an htpasswd file.
    pub secret_ref: LocalName,
    pub realm: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NginxJwtAuth {
    pub realm: String,
    pub source: JwtKeySource,
    /// With source File.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<JwtFile>,
    /// With source Remote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<JwtRemote>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_cache: Option<NginxDuration>,
    /// Of `exp` and `nbf`; absent is 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leeway: Option<NginxDuration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization: Option<NginxAuthorization>,
}

open_enum! {
    pub enum JwtKeySource { File = "File", Remote = "Remote" }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JwtFile {
    /// Its key `auth` is a JWKS.
    pub secret_ref: LocalName,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JwtRemote {
    /// `https://…`
    pub uri: String,
    /// At most one: a Secret with the key `ca.crt`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ca_certificate_refs: Vec<LocalName>,
}

/// Rules about the claims of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NginxAuthorization {
    /// Whether all rules have to hold, or one; absent is Any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require: Option<RequireType>,
    pub rules: Vec<ClaimRule>,
}

open_enum! {
    pub enum RequireType { All = "All", Any = "Any" }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimRule {
    /// Whether all claims have to hold, or one; absent is Any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require: Option<RequireType>,
    pub claims: Vec<NginxClaim>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NginxClaim {
    /// The field in which the endpoint gets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_set_header: Option<String>,
    pub name: String,
    /// Absent is Exact.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub match_type: Option<ClaimMatchType>,
    /// One of them is enough.
    pub values: Vec<String>,
}

open_enum! {
    pub enum ClaimMatchType { Exact = "Exact", Regex = "Regex" }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NginxOidcAuth {
    pub issuer: String,
    #[serde(rename = "clientID")]
    pub client_id: String,
    /// Its key is `client-secret`.
    pub client_secret_ref: LocalName,
    /// Absent: `.well-known/openid-configuration` of the issuer.
    #[serde(default, rename = "configURL", skip_serializing_if = "Option::is_none")]
    pub config_url: Option<String>,
    /// At most one: a Secret with the key `ca.crt`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ca_certificate_refs: Vec<LocalName>,
    /// Its key is `ca.crl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crl_secret_ref: Option<LocalName>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra_auth_args: BTreeMap<String, String>,
    /// Absent: where the provider asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pkce: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<OidcSession>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logout: Option<OidcLogout>,
    /// A path of this host, or a whole URI elsewhere. Absent: `/oidc_callback_NAMESPACE_NAME`.
    #[serde(default, rename = "redirectURI", skip_serializing_if = "Option::is_none")]
    pub redirect_uri: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization: Option<NginxAuthorization>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OidcSession {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie_name: Option<String>,
    /// Absent is 8h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<NginxDuration>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OidcLogout {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    #[serde(default, rename = "postLogoutURI", skip_serializing_if = "Option::is_none")]
    pub post_logout_uri: Option<String>,
    #[serde(default, rename = "frontChannelLogoutURI", skip_serializing_if = "Option::is_none")]
    pub front_channel_logout_uri: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_hint: Option<bool>,
}
