//! What protects browsers' users: CORS and CSRF.

use super::super::context::Fault;
use super::super::filters::{is_token, origin};
use super::super::policies::invalid;
use crate::envoy;
use crate::policy::{Csrf, CsrfOrigin};
use crate::snapshot::Cors;

/// Seconds for which a browser keeps an answer where nothing is said (Fetch §4.8).
const MAX_AGE: u32 = 5;

pub(super) fn cors(spec: &envoy::PolicyCors) -> Result<Cors, Fault> {
    let names = |field: &str, list: &[String]| -> Result<Vec<Box<str>>, Fault> {
        let wrong = list.iter().find(|name| *name != "*" && !is_token(name));
        match wrong {
            Some(name) => Err(invalid(format!("cors.{field}: {name:?} is no name"))),
            None => Ok(list.iter().map(|name| name.as_str().into()).collect()),
        }
    };
    let allow_origins = spec.allow_origins.iter().map(|text| origin(text));
    let allow_origins = allow_origins
        .collect::<Result<_, _>>()
        .map_err(|fault: Fault| invalid(format!("cors.allowOrigins: {}", fault.message)))?;
    let max_age = spec.max_age.map_or(MAX_AGE, |age| u32::try_from(age.0.as_secs()).unwrap_or(u32::MAX));
    Ok(Cors {
        allow_origins,
        allow_credentials: spec.allow_credentials == Some(true),
        allow_methods: names("allowMethods", &spec.allow_methods)?,
        allow_headers: names("allowHeaders", &spec.allow_headers)?,
        expose_headers: names("exposeHeaders", &spec.expose_headers)?,
        max_age,
    })
}

pub(super) fn csrf(spec: &envoy::Csrf) -> Result<Csrf, Fault> {
    let shadow = match spec.shadow_fraction {
        None => None,
        Some(fraction) => {
            let (numerator, denominator) = (fraction.numerator, fraction.denominator.unwrap_or(100));
            if denominator == 0 || numerator > denominator {
                let message = format!("csrf.shadowFraction: {numerator}/{denominator} is no fraction of requests");
                return Err(invalid(message));
            }
            Some((numerator, denominator)).filter(|(numerator, _)| *numerator > 0)
        }
    };
    if spec.additional_origins.len() > 16 {
        let count = spec.additional_origins.len();
        return Err(invalid(format!("csrf.additionalOrigins: {count} origins, expected at most 16")));
    }
    let origins = spec.additional_origins.iter().map(|text| csrf_origin(text)).collect::<Result<_, _>>()?;
    Ok(Csrf { origins, shadow })
}

fn csrf_origin(text: &str) -> Result<CsrfOrigin, Fault> {
    if text == "*" {
        return Ok(CsrfOrigin::Any);
    }
    let wrong = || invalid(format!("csrf.additionalOrigins: {text:?} is no origin, expected scheme://host[:port]"));
    let (_, authority) = text.split_once("://").filter(|(scheme, _)| !scheme.is_empty()).ok_or_else(wrong)?;
    let is_authority = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte));
    let authority = authority.to_ascii_lowercase();
    match authority.split_once('*') {
        Some(("", "")) => Ok(CsrfOrigin::Any),
        Some((before, after)) if is_authority(before) && is_authority(after) => {
            Ok(CsrfOrigin::Wildcard { before: before.into(), after: after.into() })
        }
        None if !authority.is_empty() && is_authority(&authority) => Ok(CsrfOrigin::Exact(authority.into())),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_of_csrf() {
        for (text, matching, other) in [
            ("*", Some("anything:1"), None),
            ("https://*", Some("a.example"), None),
            ("https://www.Example.com", Some("www.example.com"), Some("example.com")),
            ("https://*.example.com", Some("a.b.example.com"), Some("example.com")),
            ("http://*.example.com:8080", Some("a.example.com:8080"), Some("a.example.com")),
        ] {
            let origin = csrf_origin(text).unwrap();
            assert!(matching.is_none_or(|authority| origin.matches(authority)), "{text}");
            assert!(!other.is_some_and(|authority| origin.matches(authority)), "{text}");
        }
        for text in ["", "example.com", "://x", "https://", "https://a/b", "https://a.*.b.*", "https://a b"] {
            assert!(csrf_origin(text).is_err(), "{text:?}");
        }
    }
}
