//! Login of browsers with OpenID Connect. The data plane asks the provider; what is here says whom and how. Secrets are named
//! and never held.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::issuer::SecretRef;
use crate::names::ObjectRef;
use crate::policy::{ServiceName, TextMatch};

/// An OpenID provider.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Provider {
    /// As it must stand in ID tokens, but for a slash at its end.
    pub issuer: Box<str>,
    /// Of its discovery document. `None`: where OpenID Connect Discovery has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discovery: Option<Box<str>>,
    /// Each goes before what is discovered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_session: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<ServiceName>,
}

/// Login with OpenID Connect (Core 1.0, authorization code flow).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Oidc {
    /// Who says it. A session of one policy is worth nothing to another.
    pub owner: ObjectRef,
    pub provider: Arc<Provider>,
    pub client_id: ClientId,
    pub client_secret: SecretRef,
    /// Where the provider sends browsers back to. `None`: [`CALLBACK`] of the host that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect_url: Option<Box<str>>,
    /// The path of that URL: requests for it end a login.
    pub callback: Box<str>,
    /// With `openid`.
    pub scopes: Vec<Box<str>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<Box<str>>,
    /// Further arguments of the way to the provider.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra: Vec<(Box<str>, Box<str>)>,
    pub logout_path: Box<str>,
    /// Where a logout leads, a path of the host that was asked or a URL. `None`: its root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home: Option<Box<str>>,
    /// As `Authorization: Bearer`.
    pub forward_access_token: bool,
    /// In this field, lower case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward_id_token: Option<Box<str>>,
    /// Where the provider does not say how long a token is good. `None`: until the ID token expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ttl: Option<Duration>,
    /// How long a refresh token is taken to be good. `None`: sessions are not prolonged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_ttl: Option<Duration>,
    /// How long a login may take.
    pub login_ttl: Duration,
    pub cookies: OidcCookies,
    /// Fields in which a client may bring a token of its own instead (name in lower case, and what stands before the
    /// token); what verifies that token stands beside this in the policy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pass_through: Vec<(Box<str>, Box<str>)>,
    /// Requests that are answered 401 instead of being sent to the provider, by a field (lower case).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny_redirect: Vec<(Box<str>, TextMatch)>,
}

/// See [`Oidc::redirect_url`].
pub const CALLBACK: &str = "/oauth2/callback";

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum ClientId {
    Text(Box<str>),
    Secret(SecretRef),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OidcCookies {
    /// The sealed session; further parts are called `NAME-1` and so on.
    pub name: Box<str>,
    /// Under these names those behind Edge find the tokens in the open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_token: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<Box<str>>,
    pub same_site: SameSite,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum SameSite {
    #[default]
    Lax,
    Strict,
    None,
}

impl Oidc {
    /// What must be at hand before anybody can log in.
    pub(super) fn secrets(&self, into: &mut BTreeSet<SecretRef>) {
        into.insert(self.client_secret.clone());
        if let ClientId::Secret(reference) = &self.client_id {
            into.insert(reference.clone());
        }
    }
}
