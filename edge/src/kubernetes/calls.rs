//! Single calls to the API server, with plain JSON in and out: what the status writer, the Leases, the events and the
//! objects of Gateways are written with. Every call has a deadline, and every failure is one of a few.

use std::time::Duration;

use edge_config::names::{Kind, ObjectKey};
use http::{Method, Request};
use serde_json::Value;

use super::client::Api;

/// Longer than the API server's own patience with etcd under load, shorter than a Lease.
const PATIENCE: Duration = Duration::from_secs(8);
/// Who we are in `metadata.managedFields`.
pub const FIELD_MANAGER: &str = "edge";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    #[error("it was changed meanwhile")]
    Conflict,
    #[error("it exists already")]
    Exists,
    #[error("not found")]
    NotFound,
    #[error("refused: {0}")]
    Refused(String),
    #[error("the API server is not available: {why}")]
    Unavailable {
        why: String,
        /// How long it asks to be left alone.
        after: Option<Duration>,
        /// It does not believe who we are.
        is_doubted: bool,
    },
}

/// Where an object is: its path without a leading server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place(String);

impl Place {
    /// `api` is `api/v1` or `apis/<group>/<version>`; a cluster-scoped object has an empty namespace, a collection an
    /// empty name. Names are DNS names, so nothing in them needs escaping; what is none is refused by the API server.
    pub fn new(api: &str, plural: &str, namespace: &str, name: &str) -> Self {
        let mut path = format!("/{api}");
        if !namespace.is_empty() {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        for part in [plural, name] {
            if !part.is_empty() {
                path.push('/');
                path.push_str(part);
            }
        }
        Self(path)
    }

    pub fn of(kind: Kind, version: &str, key: &ObjectKey) -> Self {
        let api = match kind.group() {
            "" => format!("api/{version}"),
            group => format!("apis/{group}/{version}"),
        };
        Self::new(&api, &plural(kind), &key.namespace, &key.name)
    }

    pub fn status(mut self) -> Self {
        self.0.push_str("/status");
        self
    }
}

/// The name of a kind in paths: all that Edge knows are regular.
fn plural(kind: Kind) -> String {
    let name = kind.as_str().to_ascii_lowercase();
    match name.strip_suffix('y') {
        Some(stem) if !stem.ends_with('a') => format!("{stem}ies"),
        _ if name.ends_with('s') => format!("{name}es"),
        _ => format!("{name}s"),
    }
}

pub async fn get(api: &Api, place: &Place) -> Result<Value, CallError> {
    call(api, Method::GET, place.0.clone(), None).await
}

/// A page of objects with these labels; served from the API server's memory.
pub async fn list(api: &Api, place: &Place, selector: &str) -> Result<Vec<Value>, CallError> {
    let path = format!("{}?resourceVersion=0&labelSelector={}", place.0, escape(selector));
    call(api, Method::GET, path, None).await.map(items)
}

/// All objects as they are at this moment, whatever the API server has in its memory.
pub async fn list_now(api: &Api, place: &Place) -> Result<Vec<Value>, CallError> {
    call(api, Method::GET, place.0.clone(), None).await.map(items)
}

fn items(mut list: Value) -> Vec<Value> {
    match list["items"].take() {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}

pub async fn create(api: &Api, collection: &Place, body: &Value) -> Result<Value, CallError> {
    let path = format!("{}?fieldManager={FIELD_MANAGER}", collection.0);
    call(api, Method::POST, path, Some((body, "application/json"))).await
}

/// RFC 7396; a `metadata.resourceVersion` in the body is a precondition.
pub async fn merge(api: &Api, place: &Place, body: &Value) -> Result<Value, CallError> {
    let path = format!("{}?fieldManager={FIELD_MANAGER}", place.0);
    call(api, Method::PATCH, path, Some((body, "application/merge-patch+json"))).await
}

/// Server-side apply: what the body holds is ours from now on, and what we applied before and is not in it goes.
pub async fn apply(api: &Api, place: &Place, body: &Value) -> Result<Value, CallError> {
    let path = format!("{}?fieldManager={FIELD_MANAGER}&force=true", place.0);
    call(api, Method::PATCH, path, Some((body, "application/apply-patch+yaml"))).await
}

pub async fn delete(api: &Api, place: &Place) -> Result<(), CallError> {
    match call(api, Method::DELETE, place.0.clone(), None).await {
        Ok(_) | Err(CallError::NotFound) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn call(api: &Api, method: Method, path: String, body: Option<(&Value, &str)>) -> Result<Value, CallError> {
    let mut request = Request::builder().method(method).uri(path).header("accept", "application/json");
    let mut bytes = Vec::new();
    if let Some((body, content_type)) = body {
        request = request.header("content-type", content_type);
        bytes = body.to_string().into_bytes();
    }
    let request = request.body(bytes).map_err(|error| CallError::Refused(error.to_string()))?;
    let answer = async {
        match api.client().await {
            Some(client) => client.request::<Value>(request).await.map_err(judge),
            None => Err(CallError::Unavailable { why: "the daemon stops".to_owned(), after: None, is_doubted: false }),
        }
    };
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => {
            if let CallError::Unavailable { is_doubted: true, .. } = &error {
                api.doubt();
            }
            Err(error)
        }
        Err(_) => {
            Err(CallError::Unavailable { why: format!("no answer in {PATIENCE:?}"), after: None, is_doubted: false })
        }
    }
}

fn judge(error: kube::Error) -> CallError {
    let status = match error {
        kube::Error::Api(status) => status,
        other => return CallError::Unavailable { why: chain(&other), after: None, is_doubted: false },
    };
    let after = status.details.as_ref().map(|details| details.retry_after_seconds).filter(|seconds| *seconds > 0);
    let after = after.map(|seconds| Duration::from_secs(u64::from(seconds)));
    match (status.code, status.reason.as_str()) {
        (409, "AlreadyExists") => CallError::Exists,
        (409, _) => CallError::Conflict,
        (404, _) => CallError::NotFound,
        // A token that ended is renewed by the client; until then it is as if nobody answered.
        (401 | 408 | 429 | 500.., _) => {
            let why = format!("{} {}", status.code, status.message);
            CallError::Unavailable { why, after, is_doubted: status.code == 401 }
        }
        _ => CallError::Refused(format!("{} {}", status.code, status.message)),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// RFC 3986 §2.1, for a label selector.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        for (kind, key, path) in [
            (Kind::GatewayClass, "edge", "/apis/gateway.networking.k8s.io/v1/gatewayclasses/edge"),
            (Kind::HTTPRoute, "a/b", "/apis/gateway.networking.k8s.io/v1/namespaces/a/httproutes/b"),
            (Kind::BackendTLSPolicy, "a/b", "/apis/gateway.networking.k8s.io/v1/namespaces/a/backendtlspolicies/b"),
            (Kind::Service, "a/b", "/api/v1/namespaces/a/services/b"),
        ] {
            assert_eq!(Place::of(kind, "v1", &ObjectKey::parse(key)), Place(path.to_owned()));
        }
        assert_eq!(escape("a/b=c,d"), "a%2Fb%3Dc%2Cd");
    }
}
