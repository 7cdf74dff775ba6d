//! Answers that Edge itself makes: short, with a reason that is the same in the access log, and in gRPC terms for gRPC.

use bytes::Bytes;

use crate::proxy::body::{Chunk, Sink, StreamError};
use crate::proxy::message::{Length, ResponseHead};
use crate::proxy::reason::Reason;

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub reason: Reason,
    /// Where it is more than what follows from the two.
    grpc: Option<u8>,
}

impl Answer {
    pub fn new(status: u16, reason: Reason) -> Self {
        Self { status, reason, grpc: None }
    }

    /// To a call of gRPC.
    pub fn of_grpc(code: u8, reason: Reason) -> Self {
        Self { status: 200, reason, grpc: Some(code) }
    }

    /// Fills a head that has none of the endpoint's fields, and gives the body.
    pub fn fill(self, grpc: bool, response: &mut ResponseHead) -> Option<Bytes> {
        response.clear();
        if grpc {
            // "Trailers-Only": one head that is also the end (gRPC over HTTP/2).
            response.status = 200;
            response.length = Length::None;
            response.fields.add(b"content-type", b"application/grpc");
            let code = self.grpc.map(|code| code.to_string());
            let code = code.as_deref().unwrap_or_else(|| grpc_status(self.status, self.reason));
            response.fields.add(b"grpc-status", code.as_bytes());
            response.fields.add(b"grpc-message", self.reason.code().as_bytes());
            return None;
        }
        response.status = self.status;
        date(response);
        let text = match self.reason {
            Reason::BadRequest(what) => format!("{} bad_request: {what}\n", self.status),
            reason => format!("{} {}\n", self.status, reason.code()),
        };
        let body = Bytes::from(text);
        response.length = Length::Known(body.len() as u64);
        response.fields.add(b"content-type", b"text/plain; charset=utf-8");
        if self.status == 503 {
            response.fields.add(b"retry-after", b"1");
        }
        Some(body)
    }
}

/// Fills the head of an answer to a CA, whose body is the content.
pub fn challenge(content: Bytes, response: &mut ResponseHead) -> Bytes {
    response.clear();
    response.status = 200;
    date(response);
    response.length = Length::Known(content.len() as u64);
    // RFC 8555 §8.3 shows this type.
    response.fields.add(b"content-type", b"application/octet-stream");
    response.fields.add(b"cache-control", b"no-store");
    content
}

/// RFC 9110 §6.6.1: who makes a response and has a clock says when.
pub fn date(response: &mut ResponseHead) {
    let now = httpdate::fmt_http_date(std::time::SystemTime::now());
    response.fields.add(b"date", now.as_bytes());
}

/// Sends a filled head and its body.
pub async fn send<K: Sink>(sink: &mut K, response: &ResponseHead, body: Option<Bytes>) -> Result<(), StreamError> {
    sink.head(response).await?;
    if let Some(body) = body {
        sink.chunk(Chunk::Shared(body)).await?;
    }
    sink.finish(None).await
}

/// The mapping of gRPC's "HTTP to gRPC Status Code Mapping", where the reason does not say more: a method without a
/// route is UNIMPLEMENTED (12), whatever cannot be reached is UNAVAILABLE (14).
fn grpc_status(status: u16, reason: Reason) -> &'static str {
    match (reason, status) {
        (Reason::InvalidBackend | Reason::RefusedFilter | Reason::RateLimited, _) => "14",
        (Reason::TooLarge, _) => "8",
        (Reason::SecurityPolicy | Reason::SecretMissing, _) => "14",
        (Reason::RequestTimeout | Reason::BackendTimeout, _) => "4",
        (_, 400 | 431) => "13",
        (_, 401) => "16",
        (_, 403) => "7",
        (_, 404) => "12",
        (_, 429 | 502 | 503 | 504) => "14",
        _ => "2",
    }
}
