//! Requests that change something must come from the site itself, or from one that is named: the step of
//! [`pass`](super::pass) that looks at `Origin`, or where that is missing at `Referer`, as Envoy does.

use edge_config::policy::Csrf;

use super::Refusal;
use crate::proxy::message::RequestHead;
use crate::proxy::reason::Reason;

pub fn pass(csrf: &Csrf, request: &RequestHead, draw: impl FnOnce(u64) -> u64) -> Result<Option<bool>, Refusal> {
    if !matches!(request.method(), "POST" | "PUT" | "DELETE" | "PATCH") {
        return Ok(None);
    }
    let is_good = is_good(csrf, request);
    // In shadow a request is judged, and passes all the same.
    let is_shadow =
        csrf.shadow.is_some_and(|(numerator, denominator)| draw(u64::from(denominator)) < u64::from(numerator));
    if is_good || is_shadow {
        return Ok(Some(is_good));
    }
    Err(Refusal::new(403, Reason::Csrf))
}

fn is_good(csrf: &Csrf, request: &RequestHead) -> bool {
    let mut origins = request.fields.all(b"origin");
    let source = match (origins.next(), origins.next()) {
        // Two of them are nobody's.
        (Some(_), Some(_)) => return false,
        (Some(origin), None) if origin != b"null" => Some(origin),
        (Some(_), None) => None,
        (None, _) => request.fields.first(b"referer"),
    };
    let Some(source) = source.and_then(authority) else { return false };
    let whole = source.to_ascii_lowercase();
    let source = without_default_port(&whole);
    let own = request.authority().to_ascii_lowercase();
    if !own.is_empty() && *source == *without_default_port(&own) {
        return true;
    }
    csrf.origins.iter().any(|origin| origin.matches(source) || origin.matches(&whole))
}

/// Host and port of a URL.
fn authority(url: &[u8]) -> Option<&str> {
    let (_, rest) = std::str::from_utf8(url).ok()?.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    rest.get(..end).filter(|authority| !authority.is_empty() && !authority.contains('@'))
}

/// Browsers leave out the port of the scheme, and requests may have it.
fn without_default_port(authority: &str) -> &str {
    authority.strip_suffix(":443").or_else(|| authority.strip_suffix(":80")).unwrap_or(authority)
}

#[cfg(test)]
mod tests {
    use edge_config::policy::CsrfOrigin;

    use super::*;

    #[test]
    fn where_requests_come_from() {
        let origins = vec![
            CsrfOrigin::Exact("www.example.com".into()),
            CsrfOrigin::Wildcard { before: "".into(), after: ".trusted.example".into() },
        ];
        let csrf = Csrf { origins, shadow: None };
        let shadow = Csrf { shadow: Some((100, 100)), ..csrf.clone() };
        for (method, fields, expected) in [
            ("GET", &[("origin", "https://evil.example")][..], Ok(None)),
            ("POST", &[("origin", "https://shop.example")], Ok(Some(true))),
            ("POST", &[("origin", "http://SHOP.example:80")], Ok(Some(true))),
            ("POST", &[("origin", "https://shop.example:8443")], Err(())),
            ("POST", &[("origin", "https://www.example.com")], Ok(Some(true))),
            ("POST", &[("origin", "https://a.trusted.example")], Ok(Some(true))),
            ("POST", &[("origin", "https://trusted.example")], Err(())),
            ("POST", &[("origin", "https://evil.example")], Err(())),
            ("POST", &[("origin", "https://shop.example@evil.example")], Err(())),
            ("POST", &[("origin", "https://shop.example"), ("origin", "https://evil.example")], Err(())),
            ("POST", &[("origin", "null")], Err(())),
            ("POST", &[], Err(())),
            ("DELETE", &[("referer", "https://shop.example/page?x")], Ok(Some(true))),
            ("DELETE", &[("referer", "https://evil.example/shop.example")], Err(())),
            ("PATCH", &[("origin", "garbage")], Err(())),
        ] {
            let mut request = RequestHead::default();
            request.set_authority("shop.example");
            request.method = request.fields.store(method.as_bytes());
            fields.iter().for_each(|(name, value)| request.fields.add(name.as_bytes(), value.as_bytes()));
            assert_eq!(pass(&csrf, &request, |_| 0).map_err(|_| ()), expected, "{method} {fields:?}");
            let found = pass(&shadow, &request, |_| 99).map_err(|_| ());
            assert_eq!(found, expected.or(Ok(Some(false))), "{method} {fields:?}");
        }
    }
}
