//! What the claims of a token must be (RFC 7519 §4.1), and what of them backends are told.

use std::time::Duration;

use edge_config::policy::JwtProvider;
use serde_json::{Map, Value};

use super::JwtError;
use crate::proxy::message::Fields;

/// Issuer, audiences, and what else is asked of claims.
pub fn judge(provider: &JwtProvider, claims: &Map<String, Value>) -> Result<(), JwtError> {
    if let Some(issuer) = &provider.issuer
        && claims.get("iss").and_then(Value::as_str) != Some(issuer)
    {
        return Err(JwtError::Claims("it is of another issuer"));
    }
    if provider.claims.as_ref().is_some_and(|rules| !rules.hold(claims)) {
        return Err(JwtError::Claims("its claims are not those that are asked for"));
    }
    if provider.audiences.is_empty() {
        return Ok(());
    }
    let is_wanted =
        |value: &Value| value.as_str().is_some_and(|one| provider.audiences.iter().any(|own| **own == *one));
    let is_for_us = match claims.get("aud") {
        Some(Value::Array(list)) => list.iter().any(is_wanted),
        Some(one) => is_wanted(one),
        None => false,
    };
    if is_for_us { Ok(()) } else { Err(JwtError::Claims("it is for another audience")) }
}

/// The times between which a token is good, in seconds since the epoch; the first one is that of `nbf` and `iat`.
pub fn times(claims: &Map<String, Value>) -> Result<(f64, f64), JwtError> {
    let number = |name: &str, absent: f64| match claims.get(name) {
        None => Ok(absent),
        Some(value) => value.as_f64().ok_or(JwtError::Claims("a time in it is no number")),
    };
    let begin = number("nbf", f64::NEG_INFINITY)?.max(number("iat", f64::NEG_INFINITY)?);
    Ok((begin, number("exp", f64::INFINITY)?))
}

/// Clocks may differ by `leeway`.
pub fn is_now((begin, end): (f64, f64), now: Duration, leeway: Duration) -> Result<(), JwtError> {
    let (now, leeway) = (now.as_secs_f64(), leeway.as_secs_f64());
    if now >= end + leeway {
        return Err(JwtError::Claims("it has expired"));
    }
    if now + leeway < begin {
        return Err(JwtError::Claims("its time has not come"));
    }
    Ok(())
}

/// Tells backends what they are to know. A claim that is no text, number or truth is left out, and so is a text that could
/// be no field.
pub fn tell(provider: &JwtProvider, claims: &Map<String, Value>, fields: &mut Fields) {
    for (header, claim) in &provider.claim_headers {
        match claim.find(claims) {
            Some(Value::String(text)) => super::super::forward(fields, header, text),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => {
                super::super::forward(fields, header, &value.to_string());
            }
            _ => {}
        }
    }
}
