//! Passwords and keys of clients: where they are, and what is told of who has them.

use super::super::context::Fault;
use super::super::filters::is_token;
use super::super::policies::invalid;
use super::make::Maker;
use crate::core::HTPASSWD_KEY;
use crate::envoy;
use crate::issuer::SecretRef;
use crate::policy::{ApiKeys, Basic, Place};

/// What a browser shows with its question, as with Envoy.
const REALM: &str = "Edge";
/// More clients than this are refused: each has a key of its own to be read.
const MOST_CLIENTS: usize = 10_000;

pub(super) fn basic(maker: &Maker<'_, '_, '_>, spec: &envoy::BasicAuth) -> Result<Basic, Fault> {
    let users = maker.secret("basicAuth.users", &spec.users, HTPASSWD_KEY)?;
    let forward_user = spec.forward_username_header.as_deref();
    let forward_user = forward_user.map(|name| field("basicAuth.forwardUsernameHeader", name)).transpose()?;
    Ok(Basic { users, realm: REALM.into(), forward_user })
}

pub(super) fn api_keys(maker: &Maker<'_, '_, '_>, spec: &envoy::ApiKeyAuth) -> Result<ApiKeys, Fault> {
    let mut clients: Vec<(Box<str>, SecretRef)> = Vec::new();
    let mut seen = foldhash::HashSet::default();
    for (index, reference) in spec.credential_refs.iter().enumerate() {
        let secret = maker.secret_object(&format!("apiKeyAuth.credentialRefs[{index}]"), reference)?;
        let found = maker.context().inputs.secrets.get(&secret).map(|found| &found.spec);
        let keys = found.into_iter().flat_map(|found| &found.keys);
        for key in keys.filter(|key| seen.insert(key.as_str())) {
            // Whose key it would be is not known, so nobody's is taken.
            if let Some(fault) = found.and_then(|found| found.faults.get(key)) {
                let place = format!("apiKeyAuth.credentialRefs[{index}]: Secret {secret} key {key:?}");
                return Err(invalid(format!("{place} {fault}")));
            }
            clients.push((key.as_str().into(), SecretRef { secret: secret.clone(), key: key.as_str().into() }));
        }
    }
    if clients.is_empty() {
        return Err(invalid("apiKeyAuth.credentialRefs: name no Secret with a key, and nobody could pass".to_owned()));
    }
    if clients.len() > MOST_CLIENTS {
        let message = format!("apiKeyAuth.credentialRefs: {} clients, expected at most {MOST_CLIENTS}", clients.len());
        return Err(invalid(message));
    }
    let mut places = Vec::new();
    for (index, from) in spec.extract_from.iter().enumerate() {
        let place = format!("apiKeyAuth.extractFrom[{index}]");
        let members = [from.headers.is_empty(), from.params.is_empty(), from.cookies.is_empty()];
        if members.into_iter().filter(|is_empty| !is_empty).count() != 1 {
            return Err(invalid(format!("{place}: expected exactly one of headers, params and cookies")));
        }
        for name in &from.headers {
            places.push(Place::Header(field(&format!("{place}.headers"), name)?));
        }
        places.extend(from.params.iter().map(|name| Place::Param(name.as_str().into())));
        for name in &from.cookies {
            if !is_token(name) {
                return Err(invalid(format!("{place}.cookies: {name:?} is no cookie name")));
            }
            places.push(Place::Cookie(name.as_str().into()));
        }
    }
    if places.is_empty() {
        return Err(invalid("apiKeyAuth.extractFrom: is empty, expected at least one place".to_owned()));
    }
    let forward_client = spec.forward_client_id_header.as_deref();
    let forward_client = forward_client.map(|name| field("apiKeyAuth.forwardClientIDHeader", name)).transpose()?;
    Ok(ApiKeys { clients, places, forward_client, sanitize: spec.sanitize == Some(true) })
}

/// A field name in lower case.
pub(super) fn field(place: &str, name: &str) -> Result<Box<str>, Fault> {
    if is_token(name) {
        Ok(name.to_ascii_lowercase().into())
    } else {
        Err(invalid(format!("{place}: {name:?} is no header name")))
    }
}
