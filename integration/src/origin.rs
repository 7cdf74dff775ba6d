//! A small honest origin: HTTP/1.1, h2c by prior knowledge, TLS with ALPN, WebSocket, gRPC echo, TCP and UDP echo.
//!
//! Flows in: connections. Flows out: what arrived, as JSON, so that a client sees what a proxy made of its request.
//! Every path it knows:
//!
//! | path | answer |
//! | --- | --- |
//! | `/status/NNN` | that status, empty |
//! | `/delay/MS` | the echo after that long |
//! | `/bytes/N` | N bytes, streamed |
//! | `/upload` | counts the body while it streams: `{"received": N}` |
//! | `/flaky/KEY/N` | 503 to the first N requests with that key, then the echo |
//! | `/drop/KEY/N` | the first N connections with that key end without an answer |
//! | `/stall` | a head that announces a body which never comes |
//! | `/trailers` | a body with trailers |
//! | `/cookie` | two `Set-Cookie` fields |
//! | `/ws` | WebSocket echo |
//! | `/count/KEY` | how many requests for `…/KEY/…` were seen: `{"count": N}` |
//! | a path given to [`Origin::page`] | what was given |
//! | anything else | the echo, after the `delay=1s` or `delay=100ms` of its query |
//!
//! A request with `content-type: application/grpc` gets its body back with `grpc-status: 0` in the trailers; a method
//! named `Fail` gets `grpc-status: 13` alone.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_rustls::TlsAcceptor;

use crate::websocket;

/// Distinct keys that `/flaky`, `/drop` and `/count` remember.
const MAX_KEYS: usize = 4096;

/// One origin: a name and what it has seen. Cheap to clone; clones are the same origin.
#[derive(Clone)]
pub struct Origin {
    name: Arc<str>,
    seen: Arc<Mutex<HashMap<String, u64>>>,
    pages: Arc<Mutex<HashMap<String, Bytes>>>,
}

/// What the connection adds to an echo.
#[derive(Clone, Default)]
struct Arrival {
    tls: bool,
    server_name: Option<String>,
    client_certificate: bool,
    peer: Option<SocketAddr>,
}

impl Origin {
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), seen: Arc::default(), pages: Arc::default() }
    }

    /// Answers a path with a text from now on.
    pub fn page(&self, path: &str, text: &str) {
        let mut pages = self.pages.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        pages.insert(path.to_owned(), Bytes::copy_from_slice(text.as_bytes()));
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Requests whose path begins with `prefix`, so far.
    pub fn count(&self, prefix: &str) -> u64 {
        let seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        seen.iter().filter(|(path, _)| path.starts_with(prefix)).map(|(_, n)| n).sum()
    }

    fn note(&self, path: &str) -> u64 {
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !seen.contains_key(path) && seen.len() >= MAX_KEYS {
            seen.clear();
        }
        let count = seen.entry(path.to_owned()).or_default();
        *count += 1;
        *count
    }

    /// Serves HTTP until the listener fails.
    pub async fn serve_http(self, listener: TcpListener, tls: Option<TlsAcceptor>) -> io::Result<()> {
        loop {
            let (stream, peer) = listener.accept().await?;
            let _ = stream.set_nodelay(true);
            let (origin, tls) = (self.clone(), tls.clone());
            tokio::spawn(async move {
                // What becomes of one connection is the peer's business.
                let _ = match tls {
                    None => origin.plain(stream, peer).await,
                    Some(tls) => origin.encrypted(stream, peer, &tls).await,
                };
            });
        }
    }

    async fn plain(self, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        // RFC 9113 §3.4: the preface begins with "PRI ", which is no HTTP/1.1 method of ours.
        let mut start = [0u8; 3];
        let h2 = loop {
            let n = stream.peek(&mut start).await?;
            match start.get(..n) {
                None | Some(b"") => return Ok(()),
                Some(b"P" | b"PR") => tokio::task::yield_now().await,
                Some(head) => break head == b"PRI",
            }
        };
        let arrival = Arrival { peer: Some(peer), ..Arrival::default() };
        self.connection(stream, h2, arrival).await
    }

    async fn encrypted(self, stream: TcpStream, peer: SocketAddr, tls: &TlsAcceptor) -> io::Result<()> {
        let stream = tls.accept(stream).await?;
        let (_, session) = stream.get_ref();
        let h2 = session.alpn_protocol() == Some(b"h2");
        let arrival = Arrival {
            tls: true,
            server_name: session.server_name().map(str::to_owned),
            client_certificate: session.peer_certificates().is_some_and(|chain| !chain.is_empty()),
            peer: Some(peer),
        };
        self.connection(stream, h2, arrival).await
    }

    async fn connection<S>(self, stream: S, h2: bool, arrival: Arrival) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(move |request| {
            let (origin, arrival) = (self.clone(), arrival.clone());
            async move { origin.answer(request, &arrival).await }
        });
        let served = if h2 {
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .max_concurrent_streams(1000)
                .serve_connection(TokioIo::new(stream), service)
                .await
        } else {
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await
        };
        served.map_err(io::Error::other)
    }

    async fn answer(&self, request: Request<Incoming>, arrival: &Arrival) -> io::Result<Response<OriginBody>> {
        let path = request.uri().path().to_owned();
        let seen = self.note(&path);
        let is_head = request.method() == http::Method::HEAD;
        let grpc = request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        if grpc {
            return Ok(self.named(grpc_echo(request)));
        }
        let mut steps = path.split('/').skip(1);
        let word = steps.next().unwrap_or_default();
        let argument = steps.next();
        let second = steps.next().and_then(|text| text.parse::<u64>().ok());
        let number = argument.and_then(|text| text.parse::<u64>().ok());
        let mut response = match (word, number) {
            ("status", Some(code)) => {
                let status = u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok());
                answer_with(status.unwrap_or(StatusCode::BAD_REQUEST), OriginBody::empty())
            }
            ("delay", Some(milliseconds)) => {
                tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                self.echo(request, arrival)
            }
            ("bytes", Some(length)) => answer_with(StatusCode::OK, OriginBody::Fill { left: length }),
            ("upload", _) => self.upload(request).await,
            ("flaky", _) if seen <= second.unwrap_or(1) => {
                answer_with(StatusCode::SERVICE_UNAVAILABLE, OriginBody::empty())
            }
            ("drop", _) if seen <= second.unwrap_or(1) => return Err(io::Error::other("dropped as asked")),
            ("stall", _) => answer_with(StatusCode::OK, OriginBody::Stall),
            ("trailers", _) => {
                let mut trailers = HeaderMap::new();
                trailers.insert("x-checksum", HeaderValue::from_static("42"));
                let mut response = answer_with(StatusCode::OK, OriginBody::with_trailers(b"body".to_vec(), trailers));
                response.headers_mut().insert(header::TRAILER, HeaderValue::from_static("x-checksum"));
                response
            }
            ("cookie", _) => {
                let mut response = answer_with(StatusCode::OK, OriginBody::empty());
                response.headers_mut().append(header::SET_COOKIE, HeaderValue::from_static("a=1; Path=/"));
                response.headers_mut().append(header::SET_COOKIE, HeaderValue::from_static("b=2; HttpOnly"));
                response
            }
            ("count", _) => json_answer(&json!({ "count": self.count(&format!("/{}", argument.unwrap_or_default())) })),
            ("ws", _) => upgrade(request),
            _ => {
                let page = self.pages.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(&path).cloned();
                if let Some(delay) = request.uri().query().and_then(delay) {
                    tokio::time::sleep(delay).await;
                }
                match page {
                    Some(text) => {
                        let mut response = answer_with(StatusCode::OK, OriginBody::Whole(Some(text)));
                        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
                        response
                    }
                    None => self.echo(request, arrival),
                }
            }
        };
        if is_head {
            // The head of a GET without its body (RFC 9110 §9.3.2); hyper does not see to it in HTTP/2.
            if let Some(length) = response.body().size_hint().exact() {
                response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
            }
            *response.body_mut() = OriginBody::empty();
        }
        Ok(self.named(response))
    }

    fn named(&self, mut response: Response<OriginBody>) -> Response<OriginBody> {
        if let Ok(name) = HeaderValue::from_str(&self.name) {
            response.headers_mut().insert("x-backend", name);
        }
        response
    }

    fn echo(&self, request: Request<Incoming>, arrival: &Arrival) -> Response<OriginBody> {
        let mut headers = Map::new();
        for name in request.headers().keys() {
            let values = request.headers().get_all(name).iter();
            let values = values.map(|value| Value::from(String::from_utf8_lossy(value.as_bytes()))).collect();
            headers.insert(name.as_str().to_owned(), Value::Array(values));
        }
        // HTTP/2 carries the host in :authority, which hyper puts into the URI.
        let host = match request.uri().authority() {
            Some(authority) => authority.as_str().to_owned(),
            None => String::from_utf8_lossy(request.headers().get(header::HOST).map_or(b"", |h| h.as_bytes())).into(),
        };
        json_answer(&json!({
            "backend": &*self.name,
            "method": request.method().as_str(),
            "path": request.uri().path(),
            "query": request.uri().query(),
            "host": host,
            "protocol": match request.version() {
                Version::HTTP_2 => "HTTP/2",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            "headers": headers,
            "tls": arrival.tls,
            "server_name": arrival.server_name,
            "client_certificate": arrival.client_certificate,
            "peer": arrival.peer.map(|peer| peer.to_string()),
        }))
    }

    async fn upload(&self, request: Request<Incoming>) -> Response<OriginBody> {
        let mut body = request.into_body();
        let (mut received, mut sum) = (0u64, 0u64);
        while let Some(frame) = body.frame().await {
            match frame.map(Frame::into_data) {
                Ok(Ok(bytes)) => {
                    received += bytes.len() as u64;
                    sum = bytes.iter().fold(sum, |sum, byte| sum.wrapping_add(u64::from(*byte)));
                }
                Ok(Err(_trailers)) => {}
                Err(_) => return answer_with(StatusCode::BAD_REQUEST, OriginBody::empty()),
            }
        }
        json_answer(&json!({ "received": received, "sum": sum }))
    }

    /// Says the name, then echoes, per TCP connection.
    pub async fn serve_tcp(self, listener: TcpListener) -> io::Result<()> {
        loop {
            let (mut stream, _) = listener.accept().await?;
            let origin = self.clone();
            self.note("tcp");
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                if writer.write_all(format!("{}\n", origin.name).as_bytes()).await.is_ok() {
                    let _ = tokio::io::copy(&mut reader, &mut writer).await;
                    let _ = writer.shutdown().await;
                }
            });
        }
    }

    /// Prefixes every datagram with the name and sends it back.
    pub async fn serve_udp(self, socket: UdpSocket) -> io::Result<()> {
        let mut buffer = vec![0; 65_536];
        loop {
            let (n, peer) = socket.recv_from(&mut buffer).await?;
            self.note("udp");
            let mut answer = format!("{}:", self.name).into_bytes();
            answer.extend_from_slice(buffer.get(..n).unwrap_or_default());
            socket.send_to(&answer, peer).await?;
        }
    }
}

/// `delay=2s` or `delay=250ms`, as the echo server of the Gateway API's conformance suite takes it.
fn delay(query: &str) -> Option<Duration> {
    let text = query.split('&').find_map(|pair| pair.strip_prefix("delay="))?;
    match text.strip_suffix("ms") {
        Some(number) => number.parse().ok().map(Duration::from_millis),
        None => text.strip_suffix('s')?.parse().ok().map(Duration::from_secs),
    }
}

fn answer_with(status: StatusCode, body: OriginBody) -> Response<OriginBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

fn json_answer(value: &Value) -> Response<OriginBody> {
    let mut text = value.to_string();
    text.push('\n');
    let mut response = answer_with(StatusCode::OK, OriginBody::Whole(Some(text.into())));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn upgrade(mut request: Request<Incoming>) -> Response<OriginBody> {
    let Some(key) = request.headers().get("sec-websocket-key").and_then(|key| key.to_str().ok()) else {
        return answer_with(StatusCode::UPGRADE_REQUIRED, OriginBody::empty());
    };
    let accept = HeaderValue::from_str(&websocket::accept_key(key));
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(stream) = upgrade.await {
            let _ = websocket::echo(&mut TokioIo::new(stream)).await;
        }
    });
    let mut response = answer_with(StatusCode::SWITCHING_PROTOCOLS, OriginBody::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = accept {
        headers.insert("sec-websocket-accept", accept);
    }
    response
}

fn grpc_echo(request: Request<Incoming>) -> Response<OriginBody> {
    let fail = request.uri().path().ends_with("/Fail");
    let mut response = if fail {
        let mut response = answer_with(StatusCode::OK, OriginBody::empty());
        response.headers_mut().insert("grpc-status", HeaderValue::from_static("13"));
        response.headers_mut().insert("grpc-message", HeaderValue::from_static("asked to fail"));
        response
    } else {
        answer_with(StatusCode::OK, OriginBody::Echo { body: request.into_body(), ended: false })
    };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// The bodies that an origin answers with.
pub enum OriginBody {
    Whole(Option<Bytes>),
    WithTrailers(Option<Bytes>, Option<HeaderMap>),
    Fill {
        left: u64,
    },
    Stall,
    /// The request body back, then gRPC's trailers.
    Echo {
        body: Incoming,
        ended: bool,
    },
}

impl OriginBody {
    fn empty() -> Self {
        Self::Whole(None)
    }

    fn with_trailers(body: Vec<u8>, trailers: HeaderMap) -> Self {
        Self::WithTrailers(Some(body.into()), Some(trailers))
    }
}

static FILL: [u8; 16_384] = [b'x'; 16_384];

impl Body for OriginBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::WithTrailers(bytes, trailers) => {
                let data = bytes.take().map(Frame::data);
                Poll::Ready(data.or_else(|| trailers.take().map(Frame::trailers)).map(Ok))
            }
            Self::Fill { left: 0 } => Poll::Ready(None),
            Self::Fill { left } => {
                let n = FILL.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= n as u64;
                Poll::Ready(FILL.get(..n).map(|part| Ok(Frame::data(Bytes::from_static(part)))))
            }
            Self::Stall => Poll::Pending,
            Self::Echo { ended: true, .. } => Poll::Ready(None),
            Self::Echo { body, ended } => match Pin::new(body).poll_frame(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Some(Ok(frame))) if frame.is_data() => Poll::Ready(Some(Ok(frame))),
                Poll::Ready(_) => {
                    *ended = true;
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", HeaderValue::from_static("0"));
                    Poll::Ready(Some(Ok(Frame::trailers(trailers))))
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None) | Self::Fill { left: 0 })
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Fill { left } => SizeHint::with_exact(*left),
            Self::Stall => SizeHint::with_exact(1 << 20),
            Self::WithTrailers(..) | Self::Echo { .. } => SizeHint::default(),
        }
    }
}
