//! Who may pass: authentication and authorization, as Envoy Gateway's SecurityPolicy and NGINX Gateway Fabric's
//! AuthenticationFilter say it.
//!
//! Nothing in here is secret: passwords, keys of clients and secrets of login are named by [`SecretRef`], and the data
//! plane finds their texts beside the snapshot. What could not be understood closes the whole: [`Security::closed`].

mod access;
mod api_keys;
mod basic;
mod csrf;
mod ext_auth;
mod htpasswd;
mod jwks;
mod jwt;
mod networks;
mod oidc;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use crate::issuer::SecretRef;
use crate::snapshot::Cors;

pub use access::{AccessRule, Authorization, ClaimTest, PathTest, PathTestKind, Request, Token};
pub use api_keys::{ApiKeys, Place};
pub use basic::Basic;
pub use csrf::{Csrf, CsrfOrigin};
pub use ext_auth::{ExtAuth, ExtAuthPath, ExtAuthProtocol, Extension};
pub use htpasswd::{Htpasswd, PasswordHash};
pub use jwks::{Curve, Jwk, Jwks, JwsAlgorithm, KeyText, PublicKey};
pub use jwt::{
    ClaimPath, ClaimRule, ClaimRules, ClaimValues, Jwt, JwtProvider, KeySource, Missing, RemoteKeys, TokenPlaces,
};
pub use networks::Networks;
pub use oidc::{CALLBACK, ClientId, Oidc, OidcCookies, Provider, SameSite};

/// The steps in the order in which they are asked, which is Envoy's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Security {
    /// Who says it: `SecurityPolicy ns/name`, or several.
    pub from: Arc<str>,
    /// Why nobody passes (500): something in it cannot be carried out, and leaving it away would open what it protects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed: Option<Arc<str>>,
    /// Of rules without a CORS filter of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors: Option<Cors>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csrf: Option<Csrf>,
    /// All of them let a request pass.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ext_auth: Vec<Arc<ExtAuth>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_keys: Option<Arc<ApiKeys>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basic: Option<Basic>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oidc: Option<Arc<Oidc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt: Option<Jwt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization: Option<Authorization>,
}

impl Security {
    /// Closed for everybody.
    pub fn closed(from: Arc<str>, why: Arc<str>) -> Self {
        Self { from, closed: Some(why), ..Self::default() }
    }

    /// What a filter of a rule says, over what policies say of it: step by step, the filter's first. Authorizers of both are
    /// asked, those of policies first. A closed one of the two closes both.
    pub fn over(&self, wider: &Self) -> Self {
        Self {
            from: format!("{}, {}", self.from, wider.from).into(),
            closed: self.closed.clone().or_else(|| wider.closed.clone()),
            cors: self.cors.clone().or_else(|| wider.cors.clone()),
            csrf: self.csrf.clone().or_else(|| wider.csrf.clone()),
            ext_auth: wider.ext_auth.iter().chain(&self.ext_auth).cloned().collect(),
            api_keys: self.api_keys.clone().or_else(|| wider.api_keys.clone()),
            basic: self.basic.clone().or_else(|| wider.basic.clone()),
            oidc: self.oidc.clone().or_else(|| wider.oidc.clone()),
            jwt: self.jwt.clone().or_else(|| wider.jwt.clone()),
            authorization: self.authorization.clone().or_else(|| wider.authorization.clone()),
        }
    }

    /// What of it holds for connections without HTTP: whose they may be, by address. An error says why none is taken.
    pub fn for_streams(&self) -> Result<Option<&Authorization>, Arc<str>> {
        if let Some(why) = &self.closed {
            return Err(Arc::clone(why));
        }
        let Some(authorization) = &self.authorization else { return Ok(None) };
        if authorization.is_about_addresses() {
            return Ok(Some(authorization));
        }
        let why = format!("{}: authorization of connections without HTTP knows clientCIDRs only", self.from);
        Err(why.into())
    }

    /// Key sets that are fetched.
    pub fn remote_keys(&self) -> impl Iterator<Item = &Arc<RemoteKeys>> {
        let providers = self.jwt.iter().flat_map(|jwt| &jwt.providers);
        providers.filter_map(|provider| match &provider.keys {
            KeySource::Remote(remote) => Some(remote),
            KeySource::Local(_) | KeySource::Secret(_) => None,
        })
    }

    /// The members of Secrets that its steps need.
    pub fn secrets(&self, into: &mut BTreeSet<SecretRef>) {
        into.extend(self.basic.iter().map(|basic| basic.users.clone()));
        into.extend(self.api_keys.iter().flat_map(|keys| keys.clients.iter().map(|(_, key)| key.clone())));
        let providers = self.jwt.iter().flat_map(|jwt| &jwt.providers);
        into.extend(providers.filter_map(|provider| match &provider.keys {
            KeySource::Secret(reference) => Some(reference.clone()),
            KeySource::Local(_) | KeySource::Remote(_) => None,
        }));
        if let Some(oidc) = &self.oidc {
            oidc.secrets(into);
        }
        for ext_auth in &self.ext_auth {
            ext_auth.secrets(into);
        }
    }
}
