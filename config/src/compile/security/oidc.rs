//! OpenID Connect: what a policy says of logins.

use std::sync::Arc;
use std::time::Duration;

use super::super::backends::Use;
use super::super::context::{Fault, fingerprint};
use super::super::filters::is_token;
use super::super::policies::invalid;
use super::asked::{asked_url, note_clear, path_of, service, shown_url};
use super::credentials::field;
use super::make::Maker;
use crate::envoy::{self, OidcMatchType, SecurityPolicySpec};
use crate::names::{Kind, ObjectRef};
use crate::policy::{CALLBACK, ClientId, Oidc, OidcCookies, Provider, SameSite, TextMatch, TokenPlaces};

const CLIENT_ID: &str = "client-id";
const CLIENT_SECRET: &str = "client-secret";
const LOGOUT: &str = "/logout";
const REFRESH_TTL: Duration = Duration::from_secs(604_800);
const LOGIN_TTL: Duration = Duration::from_secs(600);
const MOST_HEADERS: usize = 16;
/// What Envoy Gateway writes for the host that was asked; other commands of Envoy's formatter are not understood.
const OWN_HOST: &str = "%REQ(x-forwarded-proto)%://%REQ(:authority)%";

pub(super) fn oidc(
    maker: &mut Maker<'_, '_, '_>,
    spec: &envoy::Oidc,
    policy: &SecurityPolicySpec,
) -> Result<Arc<Oidc>, Fault> {
    if spec.disable_token_encryption == Some(true) {
        let why = "browsers are given no token in the open";
        return Err(invalid(format!("oidc.disableTokenEncryption: {why}, so it cannot be true")));
    }
    let owner = ObjectRef::new(Kind::SecurityPolicy, maker.policy.key.clone());
    let provider = provider(maker, &spec.provider)?;
    let client_id = match (&spec.client_id, &spec.client_id_ref) {
        (Some(id), None) if !id.is_empty() => ClientId::Text(id.as_str().into()),
        (None, Some(reference)) => ClientId::Secret(maker.secret("oidc.clientIDRef", reference, CLIENT_ID)?),
        _ => return Err(invalid("oidc: expected exactly one of clientID and clientIDRef".to_owned())),
    };
    let client_secret = maker.secret("oidc.clientSecret", &spec.client_secret, CLIENT_SECRET)?;
    let (redirect_url, callback) = redirect(spec.redirect_url.as_deref())?;
    let logout_path = spec.logout_path.as_deref().unwrap_or(LOGOUT);
    if !logout_path.starts_with('/') || logout_path.contains(['?', '#']) {
        return Err(invalid(format!("oidc.logoutPath: {logout_path:?} is no path")));
    }
    if *logout_path == *callback {
        return Err(invalid(format!("oidc.logoutPath: {logout_path:?} is the path of redirectURL as well")));
    }
    let forward_access_token = spec.forward_access_token == Some(true);
    let forward_id_token = match &spec.forward_id_token {
        None => None,
        Some(forwarding) => Some(field("oidc.forwardIDToken.header", &forwarding.header)?),
    };
    match forward_id_token.as_deref() {
        Some("host") => return Err(invalid("oidc.forwardIDToken.header: Host is not a token's".to_owned())),
        Some("authorization") if forward_access_token => {
            let message = "oidc.forwardIDToken.header: forwardAccessToken has Authorization already";
            return Err(invalid(message.to_owned()));
        }
        _ => {}
    }
    let pass_through = match spec.pass_through_auth_header {
        Some(true) => pass_through(policy, forward_id_token.as_deref())?,
        _ => Vec::new(),
    };
    let mut scopes: Vec<Box<str>> = Vec::new();
    for scope in std::iter::once("openid").chain(spec.scopes.iter().map(String::as_str)) {
        // RFC 6749 §3.3.
        if scope.is_empty() || !scope.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\')) {
            return Err(invalid(format!("oidc.scopes: {scope:?} is no scope")));
        }
        if !scopes.iter().any(|known| **known == *scope) {
            scopes.push(scope.into());
        }
    }
    let ttl = |name: &str, value: Option<crate::wire::GepDuration>, otherwise: Duration| match value {
        Some(value) if value.0 < Duration::from_secs(1) => {
            Err(invalid(format!("oidc.{name}: {value} is less than a second")))
        }
        Some(value) => Ok(value.0),
        None => Ok(otherwise),
    };
    let refresh_ttl = ttl("defaultRefreshTokenTTL", spec.default_refresh_token_ttl, REFRESH_TTL)?;
    Ok(Arc::new(Oidc {
        provider,
        client_id,
        client_secret,
        redirect_url,
        callback,
        scopes,
        resources: spec.resources.iter().map(|resource| resource.as_str().into()).collect(),
        extra: Vec::new(),
        logout_path: logout_path.into(),
        home: None,
        forward_access_token,
        forward_id_token,
        token_ttl: spec.default_token_ttl.map(|ttl| ttl.0).filter(|ttl| !ttl.is_zero()),
        refresh_ttl: (spec.refresh_token != Some(false)).then_some(refresh_ttl),
        login_ttl: ttl("csrfTokenTTL", spec.csrf_token_ttl, LOGIN_TTL)?,
        cookies: cookies(spec, &owner)?,
        pass_through,
        deny_redirect: deny_redirect(spec)?,
        owner,
    }))
}

fn provider(maker: &mut Maker<'_, '_, '_>, spec: &envoy::OidcProvider) -> Result<Arc<Provider>, Fault> {
    if spec.backend_ref.is_some() {
        return Err(invalid("oidc.provider.backendRef: expected backendRefs".to_owned()));
    }
    let via = service(maker, "oidc.provider", spec.cluster(), Use::Http)?;
    let has_backends = via.is_some();
    let asked_there = [("tokenEndpoint", spec.token_endpoint.as_ref()), ("issuer", Some(&spec.issuer))];
    if let Some((name, url)) = asked_there.into_iter().find_map(|(name, url)| Some((name, url?))) {
        note_clear(maker, &format!("oidc.provider.{name}"), url, via.as_ref());
    }
    if spec.issuer.contains('?') {
        return Err(invalid(format!("oidc.provider.issuer: {:?} has a query", spec.issuer)));
    }
    let asked = |name: &str, url: &Option<String>| {
        url.as_deref().map(|url| asked_url(&format!("oidc.provider.{name}"), url, has_backends)).transpose()
    };
    let shown = |name: &str, url: &Option<String>| {
        url.as_deref().map(|url| shown_url(&format!("oidc.provider.{name}"), url)).transpose()
    };
    Ok(Arc::new(Provider {
        discovery: None,
        issuer: asked_url("oidc.provider.issuer", &spec.issuer, has_backends)?,
        authorization: shown("authorizationEndpoint", &spec.authorization_endpoint)?,
        token: asked("tokenEndpoint", &spec.token_endpoint)?,
        end_session: shown("endSessionEndpoint", &spec.end_session_endpoint)?,
        via,
    }))
}

/// The URL to come back to, and its path.
fn redirect(url: Option<&str>) -> Result<(Option<Box<str>>, Box<str>), Fault> {
    let Some(url) = url else { return Ok((None, CALLBACK.into())) };
    if let Some(path) = url.strip_prefix(OWN_HOST) {
        if path.starts_with('/') && !path.contains(['%', '?', '#']) {
            return Ok((None, path.into()));
        }
        return Err(invalid(format!("oidc.redirectURL: {path:?} is no path")));
    }
    if url.contains('%') {
        return Err(invalid(format!("oidc.redirectURL: {url:?} has commands that are not understood")));
    }
    let known = shown_url("oidc.redirectURL", url)?;
    let path = path_of(url);
    if path == "/" {
        // Envoy Gateway has it so, too: a page cannot be both.
        return Err(invalid(format!("oidc.redirectURL: {url:?} has no path of its own")));
    }
    Ok((Some(known), path.into()))
}

fn cookies(spec: &envoy::Oidc, owner: &ObjectRef) -> Result<OidcCookies, Fault> {
    let named = |place: &str, name: Option<&String>| match name.map(String::as_str) {
        None => Ok(None),
        Some(name) if is_token(name) && name.len() <= 128 => Ok(Some(Box::<str>::from(name))),
        Some(name) => Err(invalid(format!("oidc.cookieNames.{place}: {name:?} is no cookie name"))),
    };
    let names = spec.cookie_names.as_ref();
    let access_token = named("accessToken", names.and_then(|names| names.access_token.as_ref()))?;
    let id_token = named("idToken", names.and_then(|names| names.id_token.as_ref()))?;
    if access_token.is_some() && access_token == id_token {
        return Err(invalid("oidc.cookieNames: accessToken and idToken are the same".to_owned()));
    }
    let domain = match spec.cookie_domain.as_deref() {
        None => None,
        Some(domain) => {
            let is_label = |label: &str| {
                let inner = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
                !label.is_empty() && inner && !label.starts_with('-') && !label.ends_with('-')
            };
            if domain.len() > 253 || !domain.split('.').all(is_label) {
                return Err(invalid(format!("oidc.cookieDomain: {domain:?} is no domain")));
            }
            Some(domain.into())
        }
    };
    let same_site = match spec.cookie_config.as_ref().and_then(|config| config.same_site.as_ref()) {
        None | Some(envoy::SameSite::Lax) => SameSite::Lax,
        Some(envoy::SameSite::Strict) => SameSite::Strict,
        Some(envoy::SameSite::None) => SameSite::None,
        Some(envoy::SameSite::Other(other)) => {
            return Err(invalid(format!("oidc.cookieConfig.sameSite: unknown value {other:?}")));
        }
    };
    let print = fingerprint([owner.to_string().as_bytes()]);
    Ok(OidcCookies { name: format!("edge-oidc-{print:016x}").into(), access_token, id_token, domain, same_site })
}

fn deny_redirect(spec: &envoy::Oidc) -> Result<Vec<(Box<str>, TextMatch)>, Fault> {
    let Some(deny) = &spec.deny_redirect else { return Ok(Vec::new()) };
    if deny.headers.is_empty() || deny.headers.len() > MOST_HEADERS {
        let count = deny.headers.len();
        return Err(invalid(format!("oidc.denyRedirect.headers: has {count} items, expected 1 to {MOST_HEADERS}")));
    }
    let mut rules = Vec::with_capacity(deny.headers.len());
    for (index, header) in deny.headers.iter().enumerate() {
        let place = format!("oidc.denyRedirect.headers[{index}]");
        let name = field(&format!("{place}.name"), &header.name)?;
        let value = header.value.as_str();
        let rule = match &header.kind {
            None | Some(OidcMatchType::Exact) => TextMatch::Exact(value.into()),
            Some(OidcMatchType::Prefix) => TextMatch::Prefix(value.into()),
            Some(OidcMatchType::Suffix) => TextMatch::Suffix(value.into()),
            Some(OidcMatchType::RegularExpression) => {
                TextMatch::regex(value).map_err(|why| invalid(format!("{place}.value: {value:?} {why}")))?
            }
            Some(OidcMatchType::Other(other)) => return Err(invalid(format!("{place}.type: unknown value {other:?}"))),
        };
        rules.push((name, rule));
    }
    Ok(rules)
}

/// Name in lower case, and what stands before a token.
type TokenFields = Vec<(Box<str>, Box<str>)>;

/// The fields in which JWT looks for tokens. A request that brings one there is left to JWT, so JWT must refuse what is
/// not good.
fn pass_through(policy: &SecurityPolicySpec, forward_id_token: Option<&str>) -> Result<TokenFields, Fault> {
    let refuse = |why: &str| invalid(format!("oidc.passThroughAuthHeader: {why}"));
    let jwt = policy.jwt.as_ref().ok_or_else(|| refuse("needs jwt, which is to verify the token"))?;
    if jwt.fail_open == Some(true) || jwt.optional == Some(true) {
        return Err(refuse("jwt lets requests without a good token pass (optional, failOpen), so everybody would"));
    }
    let mut fields: TokenFields = Vec::new();
    for provider in &jwt.providers {
        let headers: Vec<(String, String)> = match &provider.extract_from {
            Some(from) if !from.headers.is_empty() => {
                let prefix = |prefix: &Option<String>| prefix.clone().unwrap_or_default();
                from.headers.iter().map(|header| (header.name.clone(), prefix(&header.value_prefix))).collect()
            }
            Some(from) if !from.cookies.is_empty() || !from.params.is_empty() => Vec::new(),
            _ => {
                let places = TokenPlaces::default().headers;
                places.into_iter().map(|(name, prefix)| (name.into(), prefix.into())).collect()
            }
        };
        for (name, prefix) in headers {
            fields.push((field("jwt.providers.extractFrom.headers", &name)?, prefix.into()));
        }
    }
    if fields.is_empty() {
        return Err(refuse("needs a jwt provider that reads a header"));
    }
    if fields.iter().any(|(name, _)| Some(&**name) == forward_id_token) {
        return Err(refuse("jwt reads the header of forwardIDToken"));
    }
    Ok(fields)
}
