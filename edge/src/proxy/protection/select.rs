//! Which requests a rate is about, and by what it counts them.

use std::borrow::Cow;
use std::net::IpAddr;

use aws_lc_rs::digest;
use edge_config::matching::{ValueMatch, query_value};
use edge_config::policy::protection::{HeaderTest, KeyPart, PathTest, Rate, Selector};

use super::table::Key;
use crate::proxy::filters::session::cookies;
use crate::proxy::message::RequestHead;

/// Whether all of it holds.
pub fn is_about(selector: &Selector, request: &RequestHead, client: IpAddr) -> bool {
    let Selector { headers, methods, path, source, query } = selector;
    let method = request.method();
    (methods.is_empty() || methods.iter().any(|one| one.holds(|name| **name == *method)))
        && source.as_ref().is_none_or(|one| one.holds(|range| range.contains(client.to_canonical())))
        && path.as_ref().is_none_or(|one| one.holds(|test| is_path(test, request.path())))
        && headers.iter().all(|one| one.holds(|test| is_header(test, request)))
        && query.iter().all(|one| one.holds(|test| test.matches(request.query())))
}

fn is_path(test: &PathTest, path: &str) -> bool {
    match test {
        PathTest::Exact(text) => **text == *path,
        PathTest::Prefix(text) => {
            path.strip_prefix(&**text).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        PathTest::Regex(pattern) => pattern.matches(path.as_bytes()),
    }
}

fn is_header(test: &HeaderTest, request: &RequestHead) -> bool {
    let Some(value) = header(request, &test.name) else { return false };
    match &test.value {
        ValueMatch::Exact(text) => *value == *text.as_bytes(),
        ValueMatch::Regex(pattern) => pattern.matches(&value),
    }
}

/// All fields of a name as one value (RFC 9110 §5.3).
fn header<'r>(request: &'r RequestHead, name: &'r str) -> Option<Cow<'r, [u8]>> {
    let mut all = request.fields.all(name.as_bytes());
    // Both are no fields of the canonical request.
    let Some(first) = all.next() else {
        return (name == "host").then(|| Cow::Borrowed(request.authority().as_bytes()));
    };
    let mut value = Cow::Borrowed(first);
    for more in all {
        let value = value.to_mut();
        value.push(b',');
        value.extend_from_slice(more);
    }
    Some(value)
}

/// The bucket that a request is counted in. `None`: it has not what it would be counted by. `place`: of the route, the
/// listener or the Gateway that has a count of its own.
pub fn key(rate: &Rate, place: u64, request: &RequestHead, client: IpAddr) -> Option<Key> {
    let limit = rate.digest ^ place.rotate_left(1);
    if rate.by.is_empty() {
        return Some(Key::everybody(limit));
    }
    // What clients choose is hashed so that nobody finds another's bucket.
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut has_any = false;
    let mut add = |part: &[u8]| {
        hash.update(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        hash.update(part);
    };
    for part in &rate.by {
        let value: Option<Cow<'_, [u8]>> = match part {
            KeyPart::Client => Some(match client.to_canonical() {
                IpAddr::V4(address) => Cow::Owned(address.octets().to_vec()),
                IpAddr::V6(address) => Cow::Owned(address.octets().to_vec()),
            }),
            KeyPart::Header(name) => header(request, name),
            KeyPart::Cookie(name) => cookies(&request.fields, name).next().map(Cow::Borrowed),
            KeyPart::Query(name) => query_value(request.query(), name),
            KeyPart::Host => Some(Cow::Owned(request.host().to_ascii_lowercase().into_bytes())),
            KeyPart::Method => Some(Cow::Borrowed(request.method().as_bytes())),
            KeyPart::Path => Some(Cow::Borrowed(request.path().as_bytes())),
            KeyPart::Uri => {
                add(request.path().as_bytes());
                has_any = true;
                Some(Cow::Borrowed(request.query().unwrap_or_default().as_bytes()))
            }
            KeyPart::Text(text) => Some(Cow::Borrowed(text.as_bytes())),
        };
        let value = match value {
            Some(value) => value,
            None if rate.by_any => Cow::Borrowed(&[][..]),
            None => return None,
        };
        has_any |= !value.is_empty() || !rate.by_any;
        add(&value);
    }
    if !has_any {
        return None;
    }
    let hash = hash.finish();
    let first = hash.as_ref().first_chunk::<8>().copied().unwrap_or_default();
    Some(Key::client(limit, u64::from_be_bytes(first)))
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
