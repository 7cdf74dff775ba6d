//! JSON Web Tokens: the step of [`pass`](super::pass) that asks for one.
//!
//! A token that was verified is remembered by its digest, together with the keys that verified it, so that a client that
//! sends one with each request costs a signature once; its times are looked at with each request all the same.

mod claims;
mod keys;
mod remembered;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edge_config::policy::{Jwt, JwtProvider, KeySource, Missing, Token, TokenPlaces};

pub use self::keys::{JwtError, KeySet, Keys, unverified, verify};
pub use self::remembered::Verified;
use super::fields::param;
use super::prepared::Prepared;
use super::{Refusal, remote};
use crate::proxy::filters::session::cookies;
use crate::proxy::message::{Fields, RequestHead};
use crate::proxy::reason::Reason;
use crate::proxy::secrets::Secrets;
use crate::proxy::worker::Worker;

/// Tokens that are looked at in one request, of one provider.
const MOST_TOKENS: usize = 4;

/// Why one provider did not let a request in.
enum Why {
    Missing,
    Bad(JwtError),
    /// It cannot be told.
    Keys(Refusal),
}

pub async fn pass(
    jwt: &Jwt,
    worker: &Rc<Worker>,
    secrets: &Secrets,
    request: &mut RequestHead,
    tokens: &mut Vec<Token>,
) -> Result<(), Refusal> {
    for (header, _) in jwt.providers.iter().flat_map(|provider| &provider.claim_headers) {
        request.fields.remove(header.as_bytes());
    }
    let mut bad: Option<(JwtError, &JwtProvider)> = None;
    let mut unknown: Option<Refusal> = None;
    for provider in &jwt.providers {
        match one(provider, worker, secrets, request).await {
            Ok(found) => {
                for claims in &found {
                    claims::tell(provider, claims, &mut request.fields);
                }
                tokens.extend(found.into_iter().map(|claims| Token { provider: provider.name.clone(), claims }));
                return Ok(());
            }
            Err(Why::Missing) => {}
            Err(Why::Bad(why)) => bad = bad.or(Some((why, provider))),
            Err(Why::Keys(refusal)) => unknown = unknown.or(Some(refusal)),
        }
    }
    if jwt.missing == Missing::PassesEvenBad {
        return Ok(());
    }
    // One whose keys are away might have let it in.
    if let Some(refusal) = unknown {
        return Err(refusal);
    }
    let Some((why, provider)) = bad else {
        if jwt.missing == Missing::Passes {
            return Ok(());
        }
        // RFC 6750 §3.1: without any credentials there is no error code.
        let realm = jwt.providers.first().map(|provider| &*provider.realm).unwrap_or_default();
        return Err(Refusal::challenge(Reason::JwtMissing, format!("Bearer realm=\"{}\"", quotable(realm))));
    };
    let realm = quotable(&provider.realm);
    let challenge = format!("Bearer realm=\"{realm}\", error=\"invalid_token\", error_description=\"{why}\"");
    Err(Refusal::challenge(Reason::Jwt, challenge))
}

type Claims = Arc<serde_json::Map<String, serde_json::Value>>;

/// The claims of every token that is where the provider looks for one; all of them must be good.
async fn one(
    provider: &JwtProvider,
    worker: &Rc<Worker>,
    secrets: &Secrets,
    request: &RequestHead,
) -> Result<Vec<Claims>, Why> {
    let given = given(&provider.places, request);
    if given.is_empty() {
        return Err(Why::Missing);
    }
    let prepared = &worker.prepared;
    let missing = || Why::Keys(Refusal::new(500, Reason::SecretMissing));
    let keys = match &provider.keys {
        KeySource::Local(keys) => Keys::At(prepared.local_keys(keys)),
        KeySource::Secret(reference) => {
            let text = secrets.text(reference).map_err(|_| missing())?;
            Keys::At(prepared.keys_of_text(text).map_err(|_| missing())?)
        }
        KeySource::Remote(remote) => remote::keys(worker, remote),
    };
    let mut found = Vec::with_capacity(given.len());
    for token in &given {
        let token = std::str::from_utf8(token).map_err(|_| Why::Bad(JwtError::Malformed("it is no text")))?;
        let mut answer = match &keys {
            Keys::At(keys) => checked(provider, keys, token, prepared),
            Keys::Away => Err(Why::Keys(Refusal::new(503, Reason::JwtKeys))),
        };
        // A key that is new to us may be new to the issuer.
        if let (Err(Why::Bad(JwtError::UnknownKey) | Why::Keys(_)), KeySource::Remote(from)) = (&answer, &provider.keys)
            && remote::refetch(worker, from).await
        {
            answer = match remote::keys(worker, from) {
                Keys::At(keys) => checked(provider, &keys, token, prepared),
                Keys::Away => answer,
            };
        }
        found.push(answer?);
    }
    Ok(found)
}

fn checked(provider: &JwtProvider, keys: &KeySet, token: &str, prepared: &Prepared) -> Result<Claims, Why> {
    let (claims, times) = prepared.verified.of(keys, token).map_err(Why::Bad)?;
    claims::is_now(times, now(), provider.leeway).map_err(Why::Bad)?;
    claims::judge(provider, &claims).map_err(Why::Bad)?;
    Ok(claims)
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Every token that is where they are looked for.
fn given<'r>(places: &'r TokenPlaces, request: &'r RequestHead) -> Vec<Cow<'r, [u8]>> {
    let mut found: Vec<Cow<'r, [u8]>> = Vec::new();
    for (name, prefix) in &places.headers {
        found.extend(in_header(&request.fields, name, prefix).map(Cow::Borrowed));
    }
    for name in &places.params {
        found.extend(request.query().and_then(|query| param(query, name)));
    }
    for name in &places.cookies {
        found.extend(cookies(&request.fields, name).map(Cow::Borrowed));
    }
    found.retain(|token| !token.is_empty());
    found.truncate(MOST_TOKENS + 1);
    if found.len() > MOST_TOKENS {
        // More than anybody has; none of them counts.
        found = vec![Cow::Borrowed(b"-")];
    }
    found
}

/// What stands after the prefix, in each field of this name; a scheme is the same in capitals (RFC 9110 §11.1).
fn in_header<'f>(fields: &'f Fields, name: &str, prefix: &str) -> impl Iterator<Item = &'f [u8]> {
    let values: Vec<&[u8]> = fields
        .iter()
        .filter(|(field, _)| *field == name.as_bytes())
        .filter_map(|(_, value)| value.split_at_checked(prefix.len()))
        .filter(|(start, _)| start.eq_ignore_ascii_case(prefix.as_bytes()))
        .map(|(_, rest)| rest.trim_ascii())
        .collect();
    values.into_iter()
}

/// For a quoted string (RFC 9110 §5.6.4).
fn quotable(text: &str) -> String {
    text.chars().filter(|letter| letter.is_ascii_graphic() && !matches!(letter, '"' | '\\') || *letter == ' ').collect()
}
