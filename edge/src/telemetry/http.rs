//! OTLP over HTTP with binary protobuf.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use edge_acme::client::{ClientError, Https, Settings, Trust, now};
use edge_config::settings::Collector;
use http::header::CONTENT_TYPE;
use http::{Request, StatusCode};
use prost::Message as _;

use super::exporter::{Again, Fault, said};
use super::files::Fields;
use super::otlp::{Response, Status};

const PROTOBUF: &str = "application/x-protobuf";
/// What is read of an answer.
const LARGEST: usize = 64 << 10;

pub struct Client {
    https: Https,
    url: String,
}

impl Client {
    pub fn new(collector: &Collector, ca: &[u8]) -> Result<Self, Fault> {
        let trust = if ca.is_empty() { Trust::System } else { Trust::Roots(Arc::from(ca)) };
        let settings = Settings {
            trust,
            connect: collector.timeout.min(Duration::from_secs(5)),
            total: collector.timeout,
            body_limit: LARGEST,
            // Within a network of one's own that is how collectors listen.
            plain_http: true,
        };
        let https = Https::new(&settings).map_err(|error| Fault::passing(error.to_string()))?;
        Ok(Self { https, url: url(&collector.endpoint) })
    }

    pub async fn send(&self, message: Bytes, fields: Fields) -> Result<Response, Fault> {
        let mut request = Request::post(&self.url).header(CONTENT_TYPE, PROTOBUF);
        if let Some(headers) = request.headers_mut() {
            for (name, value) in fields {
                headers.append(name, value);
            }
        }
        let request = request.body(message).map_err(|error| Fault::lasting(error.to_string()))?;
        let answer = self.https.send(request).await.map_err(|error| match error {
            // It answers, and not as it should: the same would come again.
            ClientError::TooLong { .. } => Fault::lasting(error.to_string()),
            error => Fault::passing(error.to_string()),
        })?;
        let (status, content) = (answer.status, answer.text("content-type").unwrap_or_default());
        if status.is_success() {
            let is_sound = answer.body.is_empty() || content.starts_with(PROTOBUF);
            let response = Response::decode(answer.body.as_ref()).ok().filter(|_| is_sound);
            return response.ok_or_else(|| {
                Fault::lasting(format!("it answers {} with {content:?}, which is no OTLP", status.as_u16()))
            });
        }
        let mut why = format!("it answers {}", status.as_u16());
        let text = match content.starts_with(PROTOBUF) {
            true => Status::decode(answer.body.as_ref()).map(|status| said(status.message.as_bytes())),
            false => Ok(said(&answer.body)),
        };
        if let Some(text) = text.ok().filter(|text| !text.is_empty()) {
            why.push_str(": ");
            why.push_str(&text);
        }
        let asked = answer.retry_after(now()).map(|at| at.saturating_sub(now()));
        let asked = asked.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
        // OTLP, "Retryable Response Codes".
        let again = match status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Again::After(asked),
            _ => Again::No,
        };
        Err(Fault { why, again })
    }
}

/// As the endpoint says, with the path of traces where it says none.
fn url(endpoint: &str) -> String {
    let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    match rest.split_once('/') {
        Some((_, path)) if !path.is_empty() => endpoint.to_owned(),
        _ => format!("{}/v1/traces", endpoint.trim_end_matches('/')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (endpoint, expected) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
            ("https://a.example/otlp/v1/traces", "https://a.example/otlp/v1/traces"),
            ("https://a.example/otlp/", "https://a.example/otlp/"),
        ] {
            assert_eq!(url(endpoint), expected);
        }
    }
}
