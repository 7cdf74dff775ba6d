//! A client that assumes nothing: HTTP/1.1 written by hand so that tests choose every byte, HTTP/2 by hyper, WebSocket.
//!
//! Flows in: an address and, for TLS, a server name and a configuration. Flows out: replies, or an error that says what
//! the peer did. Every wait ends after [`LIMIT`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::websocket::{self, Frame, Opcode};

/// No reply of a test takes longer, on the slowest machine.
pub const LIMIT: Duration = Duration::from_secs(20);

pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Ends a wait that should have ended by itself.
pub async fn within<T>(what: &str, future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(outcome) => outcome,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("{what}: nothing for {LIMIT:?}"))),
    }
}

#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Reply {
    /// The first value of a field; names are compared without case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn trailer(&self, name: &str) -> Option<&str> {
        self.trailers.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The echo of an origin; `Null` where the body is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Which origin answered, by its own word.
    pub fn backend(&self) -> Option<&str> {
        self.header("x-backend")
    }
}

/// How to speak TLS: whom to trust and which name to ask for.
#[derive(Clone)]
pub struct Tls {
    pub config: Arc<ClientConfig>,
    /// `None` sends no server name.
    pub server_name: Option<String>,
}

/// What the handshake showed.
#[derive(Debug, Clone, Default)]
pub struct Handshake {
    pub certificates: Vec<CertificateDer<'static>>,
    pub alpn: Option<Vec<u8>>,
}

/// One HTTP/1.1 connection.
pub struct Connection {
    stream: BufReader<Box<dyn Stream>>,
    pub handshake: Handshake,
    pub local: SocketAddr,
}

/// Connects, with TLS where asked for.
pub async fn open(address: SocketAddr, tls: Option<&Tls>) -> io::Result<(Box<dyn Stream>, Handshake, SocketAddr)> {
    within("connect", async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        let Some(tls) = tls else {
            return Ok((Box::new(stream) as Box<dyn Stream>, Handshake::default(), local));
        };
        let mut config = tls.config.clone();
        let name = match &tls.server_name {
            Some(name) => ServerName::try_from(name.clone()).map_err(io::Error::other)?,
            None => {
                let mut silent = (*config).clone();
                silent.enable_sni = false;
                config = Arc::new(silent);
                ServerName::from(address.ip())
            }
        };
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        let (_, session) = stream.get_ref();
        let handshake = Handshake {
            certificates: session
                .peer_certificates()
                .unwrap_or_default()
                .iter()
                .map(|c| c.clone().into_owned())
                .collect(),
            alpn: session.alpn_protocol().map(<[u8]>::to_vec),
        };
        Ok((Box::new(stream) as Box<dyn Stream>, handshake, local))
    })
    .await
}

impl Connection {
    pub async fn open(address: SocketAddr, tls: Option<&Tls>) -> io::Result<Self> {
        let (stream, handshake, local) = open(address, tls).await?;
        Ok(Self { stream: BufReader::new(stream), handshake, local })
    }

    /// Writes bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        within("write", async {
            self.stream.get_mut().write_all(bytes).await?;
            self.stream.get_mut().flush().await
        })
        .await
    }

    /// One request with a body of known length and its reply; the connection stays usable.
    pub async fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Reply> {
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        self.send(&bytes).await?;
        self.reply(method).await
    }

    pub async fn get(&mut self, host: &str, target: &str) -> io::Result<Reply> {
        self.request("GET", target, &[("host", host)], b"").await
    }

    /// Reads one final reply; interim ones are skipped, 101 is final.
    pub async fn reply(&mut self, method: &str) -> io::Result<Reply> {
        within("reply", async {
            loop {
                let (status, headers) = self.head().await?;
                if (100..200).contains(&status) && status != 101 {
                    continue;
                }
                let mut reply = Reply { status, headers, body: Vec::new(), trailers: Vec::new() };
                if method == "HEAD" || status == 101 || status == 204 || status == 304 {
                    return Ok(reply);
                }
                self.body(&mut reply).await?;
                return Ok(reply);
            }
        })
        .await
    }

    async fn head(&mut self) -> io::Result<(u16, Vec<(String, String)>)> {
        let line = self.line().await?;
        let mut words = line.splitn(3, ' ');
        let version = words.next().unwrap_or_default();
        let status = words.next().and_then(|code| code.parse().ok());
        let status = match status {
            Some(status) if version == "HTTP/1.1" || version == "HTTP/1.0" => status,
            _ => return Err(invalid(format!("status line {line:?}"))),
        };
        Ok((status, self.fields().await?))
    }

    async fn fields(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').ok_or_else(|| invalid(format!("field line {line:?}")))?;
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).await?;
        if !line.ends_with(b"\r\n") {
            let what = if line.is_empty() { "closed before the reply" } else { "closed within the reply" };
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
        line.truncate(line.len() - 2);
        String::from_utf8(line).map_err(|_| invalid("reply that is no text".to_owned()))
    }

    async fn body(&mut self, reply: &mut Reply) -> io::Result<()> {
        if reply.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            loop {
                let line = self.line().await?;
                let digits = line.split(';').next().unwrap_or_default().trim();
                let size = usize::from_str_radix(digits, 16).map_err(|_| invalid(format!("chunk size {line:?}")))?;
                if size == 0 {
                    reply.trailers = self.fields().await?;
                    return Ok(());
                }
                let start = reply.body.len();
                reply.body.resize(start + size, 0);
                self.stream.read_exact(reply.body.get_mut(start..).unwrap_or_default()).await?;
                if !self.line().await?.is_empty() {
                    return Err(invalid("chunk without its end".to_owned()));
                }
            }
        }
        match reply.header("content-length").map(str::parse::<usize>) {
            Some(Ok(length)) => {
                reply.body.resize(length, 0);
                self.stream.read_exact(&mut reply.body).await?;
            }
            Some(Err(_)) => return Err(invalid("content-length".to_owned())),
            None => {
                self.stream.read_to_end(&mut reply.body).await?;
            }
        }
        Ok(())
    }

    /// Waits for the peer to close; data instead is an error.
    pub async fn closed(&mut self) -> io::Result<()> {
        within("close", async {
            let mut byte = [0u8; 1];
            match self.stream.read(&mut byte).await {
                Ok(0) => Ok(()),
                Ok(_) => Err(invalid("data instead of the end".to_owned())),
                // A reset, or TLS without close_notify, is an end as well.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
                Err(error) => Err(error),
            }
        })
        .await
    }

    pub fn into_stream(self) -> BufReader<Box<dyn Stream>> {
        self.stream
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A single exchange on its own connection.
pub async fn fetch(address: SocketAddr, tls: Option<&Tls>, host: &str, target: &str) -> io::Result<Reply> {
    Connection::open(address, tls).await?.get(host, target).await
}

/// One HTTP/2 connection: over TLS by ALPN, or by prior knowledge.
pub struct H2 {
    sender: SendRequest<Full<Bytes>>,
    secure: bool,
    pub handshake: Handshake,
}

impl H2 {
    pub async fn open(address: SocketAddr, tls: Option<&Tls>) -> io::Result<Self> {
        let (stream, handshake, _) = open(address, tls).await?;
        if tls.is_some() && handshake.alpn.as_deref() != Some(b"h2") {
            return Err(invalid(format!("ALPN chose {:?}, not h2", handshake.alpn)));
        }
        let (sender, connection) = within("h2 handshake", async {
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(io::Error::other)
        })
        .await?;
        tokio::spawn(connection);
        Ok(Self { sender, secure: tls.is_some(), handshake })
    }

    /// Whether the other end has told that it takes no more requests.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub async fn request(
        &mut self,
        method: &str,
        authority: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Reply> {
        let scheme = if self.secure { "https" } else { "http" };
        let mut request = Request::builder().method(method).uri(format!("{scheme}://{authority}{target}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body))).map_err(io::Error::other)?;
        within("h2 reply", async {
            self.sender.ready().await.map_err(io::Error::other)?;
            let response = self.sender.send_request(request).await.map_err(io::Error::other)?;
            let status = response.status().as_u16();
            let headers = pairs(response.headers());
            let body = response.into_body().collect().await.map_err(io::Error::other)?;
            let trailers = body.trailers().map(pairs).unwrap_or_default();
            Ok(Reply { status, headers, body: body.to_bytes().to_vec(), trailers })
        })
        .await
    }

    pub async fn get(&mut self, authority: &str, target: &str) -> io::Result<Reply> {
        self.request("GET", authority, target, &[], b"").await
    }
}

fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

/// One WebSocket connection.
pub struct WebSocket {
    stream: BufReader<Box<dyn Stream>>,
    /// Which origin answered.
    pub backend: String,
}

impl WebSocket {
    pub async fn open(address: SocketAddr, tls: Option<&Tls>, host: &str, target: &str) -> io::Result<Self> {
        let mut connection = Connection::open(address, tls).await?;
        let key = "AAECAwQFBgcICQoLDA0ODw==";
        let headers = [
            ("host", host),
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", key),
        ];
        let reply = connection.request("GET", target, &headers, b"").await?;
        if reply.status != 101 {
            return Err(invalid(format!("status {} instead of 101", reply.status)));
        }
        if reply.header("sec-websocket-accept") != Some(&websocket::accept_key(key)) {
            return Err(invalid("wrong sec-websocket-accept".to_owned()));
        }
        let backend = reply.backend().unwrap_or_default().to_owned();
        Ok(Self { stream: connection.into_stream(), backend })
    }

    /// Sends a payload and expects exactly it.
    pub async fn echo(&mut self, payload: &[u8]) -> io::Result<()> {
        within("websocket echo", async {
            websocket::write_frame(&mut self.stream, Opcode::Binary, payload, Some([7, 1, 9, 4])).await?;
            let Frame { opcode, payload: answer } = websocket::read_frame(&mut self.stream).await?;
            if opcode != Opcode::Binary || answer != payload {
                return Err(invalid(format!("{opcode:?} of {} bytes instead of the echo", answer.len())));
            }
            Ok(())
        })
        .await
    }

    /// Closing handshake, and the end of the connection after it.
    pub async fn close(mut self) -> io::Result<()> {
        within("websocket close", async {
            websocket::write_frame(&mut self.stream, Opcode::Close, &[3, 232], Some([1; 4])).await?;
            let frame = websocket::read_frame(&mut self.stream).await?;
            if frame.opcode != Opcode::Close {
                return Err(invalid(format!("{:?} instead of the close", frame.opcode)));
            }
            Ok(())
        })
        .await
    }
}
