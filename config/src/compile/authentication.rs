//! NGINX Gateway Fabric's AuthenticationFilter: what it asks of who wants to pass a rule that names it. A filter that cannot
//! be carried out is not accepted, and rules that name it answer 500.

use std::sync::Arc;
use std::time::Duration;

use super::backends::Backends;
use super::context::{Context, Fault, condition};
use super::filters::is_token;
use super::policies::invalid;
use super::traffic::unacted;
use crate::core::{NGINX_AUTH_KEY, NGINX_KEYS_SECRET, NGINX_USERS_SECRET, ValueFault};
use crate::issuer::SecretRef;
use crate::manifest;
use crate::matching::Pattern;
use crate::names::{Kind, ObjectKey, ObjectRef};
use crate::nginx::{
    AuthenticationFilterSpec, AuthenticationType, ClaimMatchType, JwtKeySource, NginxAuthorization, NginxBasicAuth,
    NginxDuration, NginxJwtAuth, RequireType,
};
use crate::policy::{
    Basic, ClaimPath, ClaimRule, ClaimRules, ClaimValues, Jwt, JwtProvider, KeySource, Missing, Security, TokenPlaces,
};
use crate::problem::Severity;
use crate::report::ObjectReport;

/// The filter of this name, for a rule of its namespace.
pub(super) fn filter(backends: &Backends<'_, '_>, namespace: &str, name: &str) -> Result<Security, Fault> {
    let context: &Context<'_> = backends.context;
    let key = ObjectKey::new(namespace, name);
    let Some(found) = context.inputs.authentication_filters.get(&key) else {
        let message = format!("filter ExtensionRef: {}", context.missing(Kind::AuthenticationFilter, &key));
        return Err(Fault::new("InvalidFilter", message));
    };
    security(context, &key, &found.spec).map_err(|fault| {
        Fault::new("InvalidFilter", format!("filter ExtensionRef: AuthenticationFilter {key}: {}", fault.message))
    })
}

/// The status of every filter.
pub(super) fn report(context: &Context<'_>, out: &mut Vec<(ObjectRef, ObjectReport)>) {
    let controller: Arc<str> = context.inputs.settings.controller_names.first().map_or("", String::as_str).into();
    for (key, filter) in &context.inputs.authentication_filters {
        let fault = security(context, key, &filter.spec).err();
        if let Some(fault) = &fault {
            let message = fault.message.clone();
            context.problem(Severity::Error, Kind::AuthenticationFilter, &filter.meta, message);
        }
        let fields = manifest::unacted(Kind::AuthenticationFilter, &filter.spec);
        let note = unacted("spec", &fields).filter(|_| fault.is_none());
        let report = ObjectReport {
            generation: filter.meta.generation,
            conditions: std::iter::once(condition("Accepted", "Accepted", fault.as_ref())).chain(note).collect(),
            controller: Some(Arc::clone(&controller)),
            ..ObjectReport::default()
        };
        out.push((ObjectRef::new(Kind::AuthenticationFilter, key.clone()), report));
    }
}

fn security(context: &Context<'_>, key: &ObjectKey, spec: &AuthenticationFilterSpec) -> Result<Security, Fault> {
    let from = ObjectRef::new(Kind::AuthenticationFilter, key.clone()).to_string();
    let mut security = Security { from: from.into(), ..Security::default() };
    match (&spec.kind, &spec.basic, &spec.jwt, &spec.oidc) {
        (AuthenticationType::Basic, Some(spec), None, None) => security.basic = Some(basic(context, key, spec)?),
        (AuthenticationType::Jwt, None, Some(spec), None) => security.jwt = Some(jwt(context, key, spec)?),
        (AuthenticationType::Oidc, None, None, Some(spec)) => {
            security.oidc = Some(super::security::nginx_oidc::oidc(context, key, spec)?);
        }
        (kind, ..) => return Err(invalid(format!("type {kind} goes with its own member and no other"))),
    }
    Ok(security)
}

fn basic(context: &Context<'_>, key: &ObjectKey, spec: &NginxBasicAuth) -> Result<Basic, Fault> {
    let users = secret(context, key, "basic.secretRef", &spec.secret_ref.name, NGINX_KEYS_SECRET)?;
    Ok(Basic { users, realm: realm("basic.realm", &spec.realm)?, forward_user: None })
}

fn jwt(context: &Context<'_>, key: &ObjectKey, spec: &NginxJwtAuth) -> Result<Jwt, Fault> {
    let keys = match (&spec.source, &spec.file, &spec.remote) {
        (JwtKeySource::File, Some(file), None) => {
            let place = "jwt.file.secretRef";
            KeySource::Secret(secret(context, key, place, &file.secret_ref.name, NGINX_USERS_SECRET)?)
        }
        (JwtKeySource::Remote, None, Some(remote)) => {
            if !remote.ca_certificate_refs.is_empty() {
                return Err(invalid("jwt.remote.caCertificateRefs is not acted on by this version".to_owned()));
            }
            let cache = spec.key_cache.as_ref().and_then(NginxDuration::parse);
            KeySource::Remote(super::security::nginx_oidc::remote_keys(&remote.uri, cache)?)
        }
        (source, ..) => return Err(invalid(format!("jwt: source {source} goes with its own member and no other"))),
    };
    let duration = |field: &str, value: &Option<NginxDuration>| match value {
        None => Ok(Duration::ZERO),
        Some(text) => text.parse().ok_or_else(|| invalid(format!("jwt.{field}: {:?} is no duration", text.0))),
    };
    // Of remote keys. Those in a Secret are read when they change, and never expire.
    duration("keyCache", &spec.key_cache)?;
    let mut claim_headers = Vec::new();
    let claims = spec.authorization.iter().flat_map(|rules| &rules.rules).flat_map(|rule| &rule.claims);
    for claim in claims {
        if let Some(header) = &claim.proxy_set_header {
            if !is_token(header) {
                return Err(invalid(format!("jwt.authorization: proxySetHeader {header:?} is no header name")));
            }
            let entry = (header.to_ascii_lowercase().into(), ClaimPath(claim.name.as_str().into()));
            if !claim_headers.contains(&entry) {
                claim_headers.push(entry);
            }
        }
    }
    let provider = JwtProvider {
        name: key.to_string().into(),
        issuer: None,
        audiences: Vec::new(),
        keys,
        // nginx looks nowhere else.
        places: TokenPlaces { params: Vec::new(), ..TokenPlaces::default() },
        claim_headers,
        claims: spec.authorization.as_ref().map(claim_rules).transpose()?,
        realm: realm("jwt.realm", &spec.realm)?,
        leeway: duration("leeway", &spec.leeway)?,
    };
    let owner = ObjectRef::new(Kind::AuthenticationFilter, key.clone());
    Ok(Jwt { owner, providers: vec![provider], missing: Missing::Refused })
}

fn claim_rules(spec: &NginxAuthorization) -> Result<ClaimRules, Fault> {
    let place = "jwt.authorization";
    let is_all = |require: &Option<RequireType>| match require {
        None | Some(RequireType::Any) => Ok(false),
        Some(RequireType::All) => Ok(true),
        Some(RequireType::Other(other)) => Err(invalid(format!("{place}: require {other:?} is neither All nor Any"))),
    };
    if spec.rules.is_empty() {
        return Err(invalid(format!("{place}.rules: is empty, expected at least one rule")));
    }
    let mut rules = Vec::with_capacity(spec.rules.len());
    for (index, rule) in spec.rules.iter().enumerate() {
        let mut claims = Vec::with_capacity(rule.claims.len());
        for claim in &rule.claims {
            let place = format!("{place}.rules[{index}].claims");
            if claim.name.is_empty() || claim.values.is_empty() {
                return Err(invalid(format!("{place}: {:?} needs a name and values", claim.name)));
            }
            let values = match claim.match_type.as_ref().unwrap_or(&ClaimMatchType::Exact) {
                ClaimMatchType::Exact => {
                    ClaimValues::Exact(claim.values.iter().map(|value| value.as_str().into()).collect())
                }
                ClaimMatchType::Regex => {
                    // nginx looks for a pattern anywhere in a text.
                    let patterns = claim.values.iter().map(|value| Pattern::parse(&format!("(?s).*(?:{value}).*")));
                    let patterns = patterns.collect::<Result<_, _>>();
                    ClaimValues::Regex(patterns.map_err(|error| invalid(format!("{place}: {} {error}", claim.name)))?)
                }
                ClaimMatchType::Other(other) => {
                    return Err(invalid(format!("{place}: match {other:?} is neither Exact nor Regex")));
                }
            };
            claims.push((ClaimPath(claim.name.as_str().into()), values));
        }
        if claims.is_empty() {
            return Err(invalid(format!("{place}.rules[{index}].claims: is empty, expected at least one claim")));
        }
        rules.push(ClaimRule { all: is_all(&rule.require)?, claims });
    }
    Ok(ClaimRules { all: is_all(&spec.require)?, rules })
}

/// The member of a Secret of the filter's own namespace. `other` is the type of those that hold something else there.
fn secret(context: &Context<'_>, key: &ObjectKey, place: &str, name: &str, other: &str) -> Result<SecretRef, Fault> {
    let secret = ObjectKey::new(&*key.namespace, name);
    let Some(found) = context.inputs.secrets.get(&secret) else {
        return Err(invalid(format!("{place}: {}", context.missing(Kind::Secret, &secret))));
    };
    let found = &found.spec;
    if !found.keys.iter().any(|known| known == NGINX_AUTH_KEY) {
        return Err(invalid(format!("{place}: Secret {secret} has no key {NGINX_AUTH_KEY:?}")));
    }
    if found.kind == other {
        return Err(invalid(format!("{place}: Secret {secret} is of type {other}")));
    }
    match found.faults.get(NGINX_AUTH_KEY) {
        // Another key that has it, too, is no harm here.
        Some(fault @ (ValueFault::Empty | ValueFault::Garbage(_))) => {
            Err(invalid(format!("{place}: Secret {secret} key {NGINX_AUTH_KEY:?} {fault}")))
        }
        Some(ValueFault::SameAs(_)) | None => Ok(SecretRef { secret, key: NGINX_AUTH_KEY.into() }),
    }
}

/// It stands in a quoted string of a field.
fn realm(place: &str, text: &str) -> Result<Box<str>, Fault> {
    let is_plain = |letter: u8| (letter.is_ascii_graphic() || letter == b' ') && letter != b'"' && letter != b'\\';
    if text.bytes().all(is_plain) {
        Ok(text.into())
    } else {
        Err(invalid(format!("{place}: {text:?} has a character that cannot stand in a realm")))
    }
}
