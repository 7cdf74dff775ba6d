//! `oidc` and remote keys of NGINX Gateway Fabric's AuthenticationFilter, as the one model of logins has it.

use std::sync::Arc;
use std::time::Duration;

use super::super::context::{Context, Fault, fingerprint};
use super::super::filters::is_token;
use super::super::policies::invalid;
use super::asked::{asked_url, path_of, shown_url};
use crate::issuer::SecretRef;
use crate::names::{Kind, ObjectKey, ObjectRef};
use crate::nginx::{NginxDuration, NginxOidcAuth};
use crate::policy::{ClientId, Oidc, OidcCookies, Provider, RemoteKeys, SameSite};

const CLIENT_SECRET: &str = "client-secret";
const SESSION: Duration = Duration::from_secs(8 * 3600);
const CACHE: Duration = Duration::from_secs(300);
const SHORTEST: Duration = Duration::from_secs(1);
const LOGIN_TTL: Duration = Duration::from_secs(600);
/// Where the filter names none; nothing of a path that begins so is a page.
const LOGOUT: &str = "/.well-known/edge-oidc-logout/";

/// The keys behind a URI. nginx would fetch them for every request where nothing says how long they are good.
pub(in crate::compile) fn remote_keys(uri: &str, cache: Option<Duration>) -> Result<Arc<RemoteKeys>, Fault> {
    let uri = asked_url("jwt.remote.uri", uri, false)?;
    Ok(Arc::new(RemoteKeys { uri, via: None, keep: cache.unwrap_or(CACHE).max(SHORTEST), retry: SHORTEST }))
}

/// What a filter says of logins.
pub(in crate::compile) fn oidc(
    context: &Context<'_>,
    filter: &ObjectKey,
    spec: &NginxOidcAuth,
) -> Result<Arc<Oidc>, Fault> {
    let unknown = [
        ("caCertificateRefs", !spec.ca_certificate_refs.is_empty()),
        ("crlSecretRef", spec.crl_secret_ref.is_some()),
        ("authorization", spec.authorization.is_some()),
        (
            "logout.frontChannelLogoutURI",
            spec.logout.as_ref().is_some_and(|out| out.front_channel_logout_uri.is_some()),
        ),
    ];
    // Each makes a login stricter: without it somebody would pass who must not.
    if let Some((field, _)) = unknown.into_iter().find(|(_, is_set)| *is_set) {
        return Err(invalid(format!("oidc.{field} is not acted on by this version")));
    }
    if spec.client_id.is_empty() {
        return Err(invalid("oidc.clientID: is empty".to_owned()));
    }
    let secret = ObjectKey::new(&*filter.namespace, spec.client_secret_ref.name.as_str());
    let Some(found) = context.inputs.secrets.get(&secret) else {
        return Err(invalid(format!("oidc.clientSecretRef: {}", context.missing(Kind::Secret, &secret))));
    };
    if !found.spec.keys.iter().any(|key| key == CLIENT_SECRET) {
        return Err(invalid(format!("oidc.clientSecretRef: Secret {secret} has no key {CLIENT_SECRET:?}")));
    }
    let owner = ObjectRef::new(Kind::AuthenticationFilter, filter.clone());
    let own_path = format!("/oidc_callback_{}_{}", filter.namespace, filter.name);
    let (redirect_url, callback): (Option<Box<str>>, Box<str>) = match spec.redirect_uri.as_deref() {
        None => (None, own_path.into()),
        Some(path) if path.starts_with('/') && !path.contains(['?', '#']) => (None, path.into()),
        Some(url) => (Some(shown_url("oidc.redirectURI", url)?), path_of(url).into()),
    };
    let logout = spec.logout.as_ref();
    let logout_path: Box<str> = match logout.and_then(|logout| logout.uri.as_deref()) {
        None => format!("{LOGOUT}{filter}").into(),
        Some(path) if path.starts_with('/') && !path.contains(['?', '#']) && *path != *callback => path.into(),
        Some(path) => return Err(invalid(format!("oidc.logout.uri: {path:?} is no path of its own"))),
    };
    let home = match logout.and_then(|logout| logout.post_logout_uri.as_deref()) {
        None => None,
        Some(path) if path.starts_with('/') && !path.starts_with("//") => Some(path.into()),
        Some(url) => Some(shown_url("oidc.logout.postLogoutURI", url)?),
    };
    let session = spec.session.as_ref();
    let timeout = session.and_then(|session| session.timeout.as_ref());
    let timeout = timeout.map(|text: &NginxDuration| {
        text.parse().ok_or_else(|| invalid(format!("oidc.session.timeout: {:?} is no duration", text.0)))
    });
    let name = match session.and_then(|session| session.cookie_name.as_deref()) {
        None => format!("edge-oidc-{:016x}", fingerprint([owner.to_string().as_bytes()])).into(),
        Some(name) if is_token(name) && name.len() <= 128 => name.into(),
        Some(name) => return Err(invalid(format!("oidc.session.cookieName: {name:?} is no cookie name"))),
    };
    let discovery = spec.config_url.as_deref().map(|url| asked_url("oidc.configURL", url, false)).transpose()?;
    Ok(Arc::new(Oidc {
        provider: Arc::new(Provider {
            issuer: asked_url("oidc.issuer", &spec.issuer, false)?,
            discovery,
            authorization: None,
            token: None,
            end_session: None,
            via: None,
        }),
        client_id: ClientId::Text(spec.client_id.as_str().into()),
        client_secret: SecretRef { secret, key: CLIENT_SECRET.into() },
        redirect_url,
        callback,
        scopes: vec!["openid".into()],
        resources: Vec::new(),
        extra: spec.extra_auth_args.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect(),
        logout_path,
        home,
        forward_access_token: false,
        forward_id_token: None,
        token_ttl: None,
        refresh_ttl: Some(timeout.transpose()?.unwrap_or(SESSION)),
        login_ttl: LOGIN_TTL,
        cookies: OidcCookies { name, access_token: None, id_token: None, domain: None, same_site: SameSite::Lax },
        pass_through: Vec::new(),
        deny_redirect: Vec::new(),
        owner,
    }))
}
