//! Answers, and the headers that every one of them carries.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode, header};
use serde::Serialize;

pub(super) type Answer = Response<Full<Bytes>>;

/// Scripts, styles, images and requests of this origin and nothing else: no inline script or style, no frame, form or plugin.
/// Trusted Types without a policy take the sinks away that make markup of text.
pub(super) const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const FIELDS: [(HeaderName, &str); 8] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
];

pub(super) fn guarded(fields: &mut HeaderMap) {
    for (name, value) in FIELDS {
        fields.insert(name, HeaderValue::from_static(value));
    }
}

pub(super) fn of(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    guarded(answer.headers_mut());
    answer
}

pub(super) fn encoded(value: &impl Serialize) -> Bytes {
    // Maps with keys that are no text are the only thing that cannot be written, and there is none.
    serde_json::to_vec(value).unwrap_or_else(|_| b"{}".to_vec()).into()
}

pub(super) fn json(body: Bytes) -> Answer {
    of(StatusCode::OK, "application/json", body)
}

/// For programs and people: one line.
pub(super) fn error(status: StatusCode, message: &str) -> Answer {
    of(status, "application/json", encoded(&serde_json::json!({ "error": message })))
}

pub(super) fn redirect(to: &'static str) -> Answer {
    let mut answer = of(StatusCode::SEE_OTHER, "text/plain; charset=utf-8", Bytes::new());
    answer.headers_mut().insert(header::LOCATION, HeaderValue::from_static(to));
    answer
}
