//! Between h2's messages and the canonical ones, under the same policy as HTTP/1 ([`crate::proxy::h1`]).
//!
//! In flow heads that h2 has decoded, with lower-case names and no connection-level field (RFC 9113 §8.2); out flow
//! canonical heads, and the other way round. What could be read in two ways is refused, never repaired.

use http::header::{CONTENT_LENGTH, COOKIE, EXPECT, HOST, TE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};

use crate::proxy::h1::fields::{self, Hop, Trailer, is_alias_of_own};
use crate::proxy::h1::parse::{HeadLimits, RequestError};
use crate::proxy::h1::target::{self, Target};
use crate::proxy::message::{Fields, Length, RequestHead, ResponseHead, Scheme, Version};
use crate::proxy::path;

/// Decodes a request head. `ended`: END_STREAM came with it, so there is no body.
pub fn request(
    parts: &http::request::Parts,
    ended: bool,
    scheme: Scheme,
    limits: HeadLimits,
    head: &mut RequestHead,
) -> Result<(), RequestError> {
    use RequestError::{Malformed, NotImplemented};
    head.clear();
    head.version = Version::Http2;
    head.scheme = scheme;
    if parts.method == Method::CONNECT {
        return Err(NotImplemented("CONNECT"));
    }
    if parts.headers.len() > limits.fields {
        return Err(RequestError::HeadTooLarge);
    }
    fields::check_method(parts.method.as_str().as_bytes()).map_err(Malformed)?;
    head.method = head.fields.store(parts.method.as_str().as_bytes());
    if !matches!(parts.uri.scheme_str(), None | Some("http" | "https")) {
        return Err(Malformed("scheme is neither http nor https"));
    }
    authority(parts, scheme, head).map_err(Malformed)?;
    target_of(&parts.uri, head).map_err(Malformed)?;

    let length = content_length(&parts.headers).map_err(Malformed)?;
    head.length = match (ended, length) {
        // RFC 9113 §8.1.1: a length that the body does not meet makes the request malformed.
        (true, Some(1..)) => return Err(Malformed("Content-Length without a body")),
        (true, None) => Length::None,
        (_, Some(length)) => Length::Known(length),
        (false, None) => Length::Unknown,
    };
    // RFC 9110 §9.3.8
    if parts.method == Method::TRACE && !ended {
        return Err(Malformed("TRACE with content"));
    }
    head.te_trailers = parts.headers.get(TE).is_some_and(|value| value == "trailers");
    if let Some(expect) = one(&parts.headers, &EXPECT).map_err(|()| Malformed("more than one Expect"))? {
        if !expect.as_bytes().eq_ignore_ascii_case(b"100-continue") {
            return Err(RequestError::Expectation);
        }
        head.expect_continue = !ended;
    }
    let mut cookies: Option<Vec<u8>> = None;
    for (name, value) in &parts.headers {
        check_value(value).map_err(Malformed)?;
        let name_bytes = name.as_str().as_bytes();
        if *name == COOKIE {
            // RFC 9113 §8.2.3: crumbs are joined before they leave HTTP/2.
            let joined = cookies.get_or_insert_default();
            if !joined.is_empty() {
                joined.extend_from_slice(b"; ");
            }
            joined.extend_from_slice(value.as_bytes());
        } else if !is_taken_out(name) && !is_alias_of_own(name_bytes) {
            head.fields.add(name_bytes, value.as_bytes());
        }
    }
    if let Some(cookies) = cookies {
        head.fields.add(b"cookie", &cookies);
    }
    Ok(())
}

/// RFC 9113 §8.3.1: `:authority` and Host must not say different things; one of them must be there.
fn authority(parts: &http::request::Parts, scheme: Scheme, head: &mut RequestHead) -> Result<(), &'static str> {
    let host = one(&parts.headers, &HOST).map_err(|()| "more than one Host")?;
    let given = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let chosen = match (given, host.map(HeaderValue::as_bytes)) {
        (Some(given), Some(host)) => {
            target::check_authority(host)?;
            if !target::same_authority(given, host, scheme == Scheme::Https) {
                return Err("Host differs from :authority");
            }
            given
        }
        (Some(given), None) => given,
        (None, Some(host)) => host,
        (None, None) => return Err("no :authority"),
    };
    let length = target::check_authority(chosen)?;
    let host = chosen.get(..length).unwrap_or_default();
    head.authority = head.fields.store(chosen);
    head.host = head.fields.store_lower(host.strip_suffix(b".").unwrap_or(host));
    Ok(())
}

fn target_of(uri: &Uri, head: &mut RequestHead) -> Result<(), &'static str> {
    let given = uri.path_and_query().map_or("/", |given| given.as_str()).as_bytes();
    let (path, query) = match target::split(given)? {
        Target::Asterisk if head.method() == "OPTIONS" => {
            head.path = head.fields.store(b"*");
            return Ok(());
        }
        Target::Asterisk => return Err("* is a target for OPTIONS only"),
        Target::Absolute { .. } => return Err(":path is no path"),
        Target::Origin { path, query } => (given.get(path).unwrap_or_default(), query),
    };
    path::store(path, head)?;
    head.query = query.map(|query| head.fields.store(given.get(query).unwrap_or_default()));
    Ok(())
}

fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (first, None) => Ok(first),
        _ => Err(()),
    }
}

/// RFC 9110 §8.6, as strictly as in HTTP/1.
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, &'static str> {
    let Some(value) = one(headers, &CONTENT_LENGTH).map_err(|()| "more than one Content-Length")? else {
        return Ok(None);
    };
    fields::content_length(value.as_bytes()).map(Some)
}

/// RFC 9113 §8.2.1: no white space around a value. h2 has refused control characters.
fn check_value(value: &HeaderValue) -> Result<(), &'static str> {
    let space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let bytes = value.as_bytes();
    if space(bytes.first()) || space(bytes.last()) {
        return Err("white space around a field value");
    }
    Ok(())
}

/// Fields that live on as members of a head, or that belong to one connection (RFC 9110 §7.6.1).
fn is_taken_out(name: &HeaderName) -> bool {
    *name == HOST || *name == EXPECT || Hop::of(name.as_str().as_bytes()).is_some()
}

/// Decodes a response head of an upstream. `ended`: END_STREAM came with it.
pub fn response(
    parts: &http::response::Parts,
    ended: bool,
    request_is_head: bool,
    limits: HeadLimits,
    head: &mut ResponseHead,
) -> Result<(), &'static str> {
    head.clear();
    head.status = parts.status.as_u16();
    if head.status == 101 || !(100..=599).contains(&head.status) {
        // RFC 9113 §8.6: "HTTP/2 does not support the 101".
        return Err("status that HTTP/2 does not have");
    }
    if parts.headers.len() > limits.fields {
        return Err("too many fields");
    }
    let length = content_length(&parts.headers)?;
    head.length = match length {
        Some(length) if request_is_head || head.status == 304 => Length::Known(length),
        _ if head.is_bodiless(request_is_head) => Length::None,
        Some(1..) if ended => return Err("Content-Length without a body"),
        Some(length) => Length::Known(length),
        None if ended => Length::None,
        None => Length::Unknown,
    };
    for (name, value) in &parts.headers {
        check_value(value)?;
        if !is_taken_out(name) {
            head.fields.add(name.as_str().as_bytes(), value.as_bytes());
        }
    }
    Ok(())
}

/// Decodes trailers. What frames or routes a message must not be there (RFC 9110 §6.5.1).
pub fn trailers(trailers: &HeaderMap, limits: HeadLimits, kept: &mut Fields) -> Result<(), &'static str> {
    if trailers.len() > limits.fields {
        return Err("too many trailer fields");
    }
    for (name, value) in trailers {
        check_value(value)?;
        let name = name.as_str().as_bytes();
        match fields::trailer(name) {
            Trailer::Keep => kept.add(name, value.as_bytes()),
            Trailer::Drop => {}
            Trailer::Refuse => return Err("trailer section has a framing field"),
        }
    }
    Ok(())
}

/// A canonical message that cannot be written: an edit made something that is no valid field or target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {0}")]
pub struct Unwritable(pub &'static str);

/// Encodes a response head.
pub fn to_response(head: &ResponseHead) -> Result<http::Response<()>, Unwritable> {
    let mut response = http::Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status).map_err(|_| Unwritable("status"))?;
    let headers = response.headers_mut();
    copy(&head.fields, headers)?;
    // RFC 9110 §8.6: never in 1xx and 204.
    if let Length::Known(length) = head.length
        && !matches!(head.status, 100..=199 | 204)
    {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    Ok(response)
}

/// Encodes a request head.
pub fn to_request(head: &RequestHead, secure: bool) -> Result<http::Request<()>, Unwritable> {
    let path = match head.query() {
        Some(query) => format!("{}?{query}", head.path()),
        None => head.path().to_owned(),
    };
    let uri = Uri::builder()
        .scheme(if secure { "https" } else { "http" })
        .authority(head.authority())
        .path_and_query(path)
        .build()
        .map_err(|_| Unwritable("target"))?;
    let mut request = http::Request::new(());
    *request.method_mut() = Method::from_bytes(head.method().as_bytes()).map_err(|_| Unwritable("method"))?;
    *request.uri_mut() = uri;
    *request.version_mut() = http::Version::HTTP_2;
    let headers = request.headers_mut();
    copy(&head.fields, headers)?;
    if let Length::Known(length) = head.length {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    if head.te_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    Ok(request)
}

/// Encodes trailers.
pub fn to_trailers(fields: &Fields) -> Result<HeaderMap, Unwritable> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    copy(fields, &mut headers)?;
    Ok(headers)
}

fn copy(fields: &Fields, headers: &mut HeaderMap) -> Result<(), Unwritable> {
    headers.try_reserve(fields.len()).map_err(|_| Unwritable("number of fields"))?;
    for (name, value) in fields.iter() {
        let name = HeaderName::from_bytes(name).map_err(|_| Unwritable("field name"))?;
        let value = HeaderValue::from_bytes(value).map_err(|_| Unwritable("field value"))?;
        headers.try_append(name, value).map_err(|_| Unwritable("number of fields"))?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
