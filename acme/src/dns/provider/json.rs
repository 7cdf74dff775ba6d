//! JSON over HTTPS for providers: a request, and the answer with its status, each failure in one line.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use serde_json::Value;
use zeroize::Zeroizing;

use super::ProviderError;
use crate::client::Https;

/// What a server said beyond this is not shown.
const SHOWN: usize = 200;

/// A server that speaks JSON, with what authenticates us there.
pub struct Json {
    https: Https,
    who: Box<str>,
    headers: HeaderMap,
    /// Never shown, even where the server repeats them.
    secrets: Vec<Zeroizing<String>>,
}

/// An answer; `body` is null where it is no JSON.
pub struct JsonAnswer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
    text: String,
}

impl Json {
    /// `who` is for people.
    pub fn new(https: Https, who: impl Into<Box<str>>) -> Self {
        Self { https, who: who.into(), headers: HeaderMap::new(), secrets: Vec::new() }
    }

    /// A header for every request, made of a secret. What a header cannot hold is refused without its text.
    pub fn secret_header(&mut self, name: &'static str, prefix: &str, secret: &str) -> Result<(), ProviderError> {
        let text = Zeroizing::new(format!("{prefix}{secret}"));
        let mut value = HeaderValue::from_str(&text).map_err(|_| ProviderError::Secret {
            what: format!("what authenticates at {}", self.who).into(),
            reason: "it has characters that no HTTP header can hold".into(),
        })?;
        value.set_sensitive(true);
        self.headers.insert(HeaderName::from_static(name), value);
        self.hide(secret);
        Ok(())
    }

    /// Keeps a text out of every error.
    pub fn hide(&mut self, secret: &str) {
        if !secret.is_empty() {
            self.secrets.push(Zeroizing::new(secret.to_owned()));
        }
    }

    /// Sends a request; any status is an answer.
    pub async fn send(&self, method: Method, url: &str, body: Option<&Value>) -> Result<JsonAnswer, ProviderError> {
        let mut request = Request::builder().method(method).uri(url).header(header::ACCEPT, "application/json");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let mut request = request.body(bytes).map_err(|error| self.garbled(&format!("URL {url:?}: {error}")))?;
        for (name, value) in &self.headers {
            request.headers_mut().insert(name.clone(), value.clone());
        }
        let answer = self.https.send(request).await?;
        let body = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        let text = String::from_utf8_lossy(&answer.body[..answer.body.len().min(2 * SHOWN)]).into_owned();
        Ok(JsonAnswer { status: answer.status, headers: answer.headers, body, text })
    }

    /// An error that quotes `reason`, or the answer's own text.
    pub fn refused(&self, name: &str, answer: &JsonAnswer, reason: Option<&str>) -> ProviderError {
        let said = self.clean(reason.unwrap_or(&answer.text));
        let reason = if said.is_empty() { answer.status.to_string() } else { format!("{}: {said}", answer.status) };
        ProviderError::Refused { who: self.who.clone(), name: name.into(), reason: reason.into() }
    }

    pub fn garbled(&self, reason: &str) -> ProviderError {
        ProviderError::Garbled { who: self.who.clone(), reason: self.clean(reason).into() }
    }

    /// One short line without secrets.
    fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            text = text.replace(secret.as_str(), "[redacted]");
        }
        let one_line = |letter: char| if letter.is_control() { ' ' } else { letter };
        let line: String = text.chars().map(one_line).take(SHOWN).collect();
        line.trim().to_owned()
    }
}

/// `url` and a path with one slash between.
pub fn join(url: &str, path: &str) -> String {
    format!("{}/{}", url.trim_end_matches('/'), path.trim_start_matches('/'))
}

/// A query parameter's value, percent-encoded (names of records hold nothing else that needs it).
pub fn query(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(char::from(byte)),
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

/// The name and its parents that could be a zone: down to two labels.
pub fn zones(name: &str) -> impl Iterator<Item = &str> {
    let mut next = Some(name);
    std::iter::from_fn(move || {
        let name = next.filter(|name| name.contains('.'))?;
        next = name.split_once('.').map(|(_, parent)| parent);
        Some(name)
    })
}
