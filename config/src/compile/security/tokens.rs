//! JWT providers: what they ask of tokens, and where their keys are.

use std::sync::Arc;
use std::time::Duration;

use super::super::backends::Use;
use super::super::context::Fault;
use super::super::policies::invalid;
use super::asked::{asked_url, note_clear, service};
use super::credentials::field;
use super::make::Maker;
use crate::envoy::{self, LocalJwksType};
use crate::names::{Kind, ObjectKey, ObjectRef};
use crate::policy::{ClaimPath, Jwks, Jwt, JwtProvider, KeySource, Missing, RemoteKeys, TokenPlaces};

/// What Envoy allows for clocks that differ.
const LEEWAY: Duration = Duration::from_secs(60);
/// How long remote keys are kept where the policy does not say.
const CACHE: Duration = Duration::from_secs(300);
/// Between fetches.
const SHORTEST: Duration = Duration::from_secs(1);
const MOST_PROVIDERS: usize = 16;

pub(super) fn jwt(maker: &mut Maker<'_, '_, '_>, spec: &envoy::Jwt) -> Result<Jwt, Fault> {
    if spec.optional.is_some() && spec.fail_open.is_some() {
        return Err(invalid("jwt: optional and failOpen exclude each other".to_owned()));
    }
    if spec.providers.is_empty() || spec.providers.len() > MOST_PROVIDERS {
        let count = spec.providers.len();
        return Err(invalid(format!("jwt.providers: has {count} items, expected 1 to {MOST_PROVIDERS}")));
    }
    let mut providers: Vec<JwtProvider> = Vec::with_capacity(spec.providers.len());
    for (index, written) in spec.providers.iter().enumerate() {
        let place = format!("jwt.providers[{index}]");
        if written.name.is_empty() || providers.iter().any(|known| *known.name == *written.name) {
            return Err(invalid(format!("{place}.name: {:?} is empty or there twice", written.name)));
        }
        providers.push(provider(maker, &place, written)?);
    }
    let missing = match (spec.optional, spec.fail_open) {
        (_, Some(true)) => Missing::PassesEvenBad,
        (Some(true), _) => Missing::Passes,
        _ => Missing::Refused,
    };
    let owner = ObjectRef::new(Kind::SecurityPolicy, maker.policy.key.clone());
    Ok(Jwt { owner, providers, missing })
}

fn provider(maker: &mut Maker<'_, '_, '_>, place: &str, spec: &envoy::JwtProvider) -> Result<JwtProvider, Fault> {
    if spec.recompute_route == Some(true) {
        return Err(invalid(format!("{place}.recomputeRoute is not acted on by this version")));
    }
    let keys = match (&spec.remote_jwks, &spec.local_jwks) {
        (None, Some(local)) => KeySource::Local(local_keys(maker, place, local)?),
        (Some(remote), None) => KeySource::Remote(remote_keys(maker, place, remote)?),
        _ => return Err(invalid(format!("{place}: expected exactly one of remoteJWKS and localJWKS"))),
    };
    let mut claim_headers = Vec::with_capacity(spec.claim_to_headers.len());
    for entry in &spec.claim_to_headers {
        let header = field(&format!("{place}.claimToHeaders"), &entry.header)?;
        if entry.claim.is_empty() {
            return Err(invalid(format!("{place}.claimToHeaders: {header} has no claim")));
        }
        claim_headers.push((header, ClaimPath(entry.claim.as_str().into())));
    }
    let places = match &spec.extract_from {
        None => TokenPlaces::default(),
        Some(from) => places(place, from)?,
    };
    let issuer = spec.issuer.as_str();
    Ok(JwtProvider {
        name: spec.name.as_str().into(),
        issuer: (!issuer.is_empty()).then(|| issuer.into()),
        audiences: spec.audiences.iter().map(|audience| audience.as_str().into()).collect(),
        keys,
        places,
        claim_headers,
        claims: None,
        realm: spec.name.as_str().into(),
        leeway: LEEWAY,
    })
}

fn places(place: &str, from: &envoy::JwtExtractor) -> Result<TokenPlaces, Fault> {
    let mut headers = Vec::with_capacity(from.headers.len());
    for header in &from.headers {
        let name = field(&format!("{place}.extractFrom.headers"), &header.name)?;
        headers.push((name, header.value_prefix.as_deref().unwrap_or_default().into()));
    }
    let names = |list: &[String]| list.iter().map(|name| name.as_str().into()).collect::<Vec<Box<str>>>();
    let (cookies, params) = (names(&from.cookies), names(&from.params));
    if headers.is_empty() && cookies.is_empty() && params.is_empty() {
        // As with Envoy Gateway, an empty one is none.
        return Ok(TokenPlaces::default());
    }
    Ok(TokenPlaces { headers, cookies, params })
}

fn local_keys(maker: &Maker<'_, '_, '_>, place: &str, local: &envoy::LocalJwks) -> Result<Arc<Jwks>, Fault> {
    let place = format!("{place}.localJWKS");
    let bad = |what: String, why: String| invalid(format!("{place}: {what} {why}"));
    match (&local.kind, &local.inline, &local.value_ref) {
        (None | Some(LocalJwksType::Inline), Some(text), None) => {
            Jwks::parse(text.as_bytes()).map(Arc::new).map_err(|why| bad("inline".to_owned(), why))
        }
        (Some(LocalJwksType::ValueRef), None, Some(reference)) => {
            if Kind::of(&reference.group, &reference.kind) != Some(Kind::ConfigMap) {
                return Err(invalid(format!(
                    "{place}: {} of group {:?} is no ConfigMap",
                    reference.kind, reference.group
                )));
            }
            let key = ObjectKey::new(maker.home, reference.name.as_str());
            let Some(found) = maker.context().inputs.config_maps.get(&key) else {
                return Err(invalid(format!("{place}: {}", maker.context().missing(Kind::ConfigMap, &key))));
            };
            match &found.spec.jwks {
                Some(Ok(keys)) => Ok(Arc::clone(keys)),
                Some(Err(why)) => Err(bad(format!("ConfigMap {key}"), why.clone())),
                None => Err(bad(format!("ConfigMap {key}"), "has no value".to_owned())),
            }
        }
        _ => Err(invalid(format!("{place}: expected inline for type Inline, or valueRef for type ValueRef"))),
    }
}

fn remote_keys(maker: &mut Maker<'_, '_, '_>, place: &str, spec: &envoy::RemoteJwks) -> Result<Arc<RemoteKeys>, Fault> {
    let place = format!("{place}.remoteJWKS");
    if spec.backend_ref.is_some() {
        return Err(invalid(format!("{place}.backendRef: expected backendRefs")));
    }
    let via = service(maker, &place, spec.cluster(), Use::Http)?;
    let uri = asked_url(&format!("{place}.uri"), &spec.uri, via.is_some())?;
    note_clear(maker, &format!("{place}.uri"), &spec.uri, via.as_ref());
    let at_least = |name: &str, value: Option<crate::wire::GepDuration>, otherwise: Duration| match value {
        Some(value) if value.0 < SHORTEST => Err(invalid(format!("{place}.{name}: {value} is less than a second"))),
        Some(value) => Ok(value.0),
        None => Ok(otherwise),
    };
    let keep = at_least("cacheDuration", spec.cache_duration, CACHE)?;
    let retry = at_least("failedRefetchDuration", spec.failed_refetch_duration, SHORTEST)?;
    Ok(Arc::new(RemoteKeys { uri, via, keep, retry }))
}
