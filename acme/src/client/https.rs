//! One bounded HTTPS request at a time over connections that are kept.
//!
//! In: requests. Out: whole answers. Everything has a limit: connecting, the whole exchange, the size of a body. Plain
//! HTTP is spoken to loopback only, or where it was allowed. Redirects are answers, not followed.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::trust::{self, Trust};
use super::wait;

/// The browser-like name that CAs ask clients to have (RFC 8555 §6.1).
const USER_AGENT: &str = concat!("edge/", env!("CARGO_PKG_VERSION"), " (Gateway API edge; instant-acme/0.8)");

#[derive(Debug, Clone)]
pub struct Settings {
    pub trust: Trust,
    /// Name resolution, TCP; also each half of it where a name has many addresses.
    pub connect: Duration,
    /// The whole exchange.
    pub total: Duration,
    /// Bytes of an answer's body.
    pub body_limit: usize,
    /// Whether `http://` is spoken to others than loopback.
    pub plain_http: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            trust: Trust::System,
            connect: Duration::from_secs(10),
            total: Duration::from_secs(30),
            body_limit: 1 << 20,
            plain_http: false,
        }
    }
}

/// A client; cheap to clone, clones share connections.
#[derive(Clone)]
pub struct Https {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    total: Duration,
    body_limit: usize,
    plain_http: bool,
}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Https").field("total", &self.total).finish_non_exhaustive()
    }
}

/// A whole answer, whatever its status.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// Unix seconds of `Retry-After` (RFC 9110 §10.2.3), whether it was seconds or a date. A date is read against the
    /// server's own clock where it sent one.
    pub fn retry_after(&self, now: i64) -> Option<i64> {
        wait::retry_after(&self.headers, now)
    }

    /// How many seconds the server's clock is ahead of `now`.
    pub fn clock_ahead(&self, now: i64) -> Option<i64> {
        wait::date(&self.headers).map(|date| date.saturating_sub(now))
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok().map(str::trim)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("trusted certificates: {0}")]
    Trust(String),
    #[error("{0:?} is no URL of https")]
    Plain(String),
    #[error("no answer from {host} within {} s", after.as_secs_f32())]
    Timeout { host: String, after: Duration },
    #[error("cannot reach {host}: {reason}")]
    Connect { host: String, reason: String },
    #[error("exchange with {host} broke off: {reason}")]
    Broken { host: String, reason: String },
    #[error("answer of {host} is longer than {limit} bytes")]
    TooLong { host: String, limit: usize },
}

impl ClientError {
    /// Whether the request cannot have reached the server.
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::Trust(_) | Self::Plain(_) | Self::Connect { .. })
    }
}

impl Https {
    pub fn new(settings: &Settings) -> Result<Self, ClientError> {
        let tls = trust::client_config(&settings.trust)?;
        let mut tcp = HttpConnector::new();
        // Small requests in turn: Nagle's algorithm against delayed acknowledgements costs 40 ms each.
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(settings.connect));
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(50))
            .pool_max_idle_per_host(16)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .http2_keep_alive_timeout(Duration::from_secs(10))
            .http1_max_buf_size(64 << 10)
            .build(connector);
        Ok(Self { client, total: settings.total, body_limit: settings.body_limit, plain_http: settings.plain_http })
    }

    /// Sends it and reads the whole answer.
    pub async fn send(&self, mut request: Request<Bytes>) -> Result<Answer, ClientError> {
        let uri = request.uri();
        if !(uri.scheme_str() == Some("https")
            || uri.scheme_str() == Some("http") && (self.plain_http || is_loopback(uri)))
        {
            return Err(ClientError::Plain(uri.to_string()));
        }
        let host = uri.authority().map_or_else(String::new, |authority| authority.as_str().to_owned());
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        match tokio::time::timeout(self.total, self.exchange(request.map(Full::new), &host)).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Timeout { host, after: self.total }),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>, host: &str) -> Result<Answer, ClientError> {
        let answer = self.client.request(request).await.map_err(|error| {
            let reason = causes(&error);
            let host = host.to_owned();
            if error.is_connect() {
                ClientError::Connect { host, reason }
            } else {
                ClientError::Broken { host, reason }
            }
        })?;
        let (parts, body) = Response::into_parts(answer);
        let body = Limited::new(body, self.body_limit).collect().await.map_err(|error| {
            let host = host.to_owned();
            match error.is::<http_body_util::LengthLimitError>() {
                true => ClientError::TooLong { host, limit: self.body_limit },
                false => ClientError::Broken { host, reason: causes(&*error) },
            }
        })?;
        Ok(Answer { status: parts.status, headers: parts.headers, body: body.to_bytes() })
    }
}

fn is_loopback(uri: &Uri) -> bool {
    uri.host().is_some_and(|host| {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}

/// An error and what it was caused by, each said once.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback() {
        for (url, expected) in [
            ("http://127.0.0.1:14000/dir", true),
            ("http://[::1]:14000/dir", true),
            ("http://localhost/dir", true),
            ("http://localhost.example.com/dir", false),
            ("http://192.0.2.1/dir", false),
            ("http://127.0.0.1.example.com/", false),
        ] {
            assert_eq!(is_loopback(&url.parse().unwrap()), expected, "{url}");
        }
    }

    #[tokio::test]
    async fn other_schemes_are_refused_before_a_connection() {
        let https = Https::new(&Settings { trust: Trust::Insecure, ..Settings::default() }).unwrap();
        for url in ["http://192.0.2.1/", "ftp://localhost/", "/path"] {
            let request = Request::get(url).body(Bytes::new()).unwrap();
            assert!(matches!(https.send(request).await, Err(ClientError::Plain(_))), "{url}");
        }
    }
}
