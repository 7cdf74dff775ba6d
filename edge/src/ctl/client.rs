//! The way to a running edged: one request per connection over its unix socket, with a deadline.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;

/// More than any edge has to say: the routing of some 100,000 routes.
const MAX_ANSWER: usize = 256 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("edged cannot be reached at {0}")]
    Unreachable(PathBuf, #[source] io::Error),
    #[error("edged at {0} does not answer within {1:?}")]
    Slow(PathBuf, Duration),
    #[error("edged at {0} ends the conversation")]
    Broken(PathBuf, #[source] hyper::Error),
    #[error("{message}")]
    Refused { status: StatusCode, message: String },
    #[error("edged at {0} answers something that makes no sense; is it of another version?")]
    Senseless(PathBuf),
}

#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.exchange(Method::GET, path, Bytes::new(), Duration::from_secs(20))
    }

    /// An answer that takes edged longer than most.
    pub fn get_patiently<T: DeserializeOwned>(&self, path: &str, patience: Duration) -> Result<T, ClientError> {
        self.exchange(Method::GET, path, Bytes::new(), patience)
    }

    pub fn post<T: DeserializeOwned>(&self, path: &str, body: Vec<u8>, patience: Duration) -> Result<T, ClientError> {
        self.exchange(Method::POST, path, body.into(), patience)
    }

    /// An answer that is no JSON.
    pub fn fetch(&self, path: &str, patience: Duration) -> Result<Bytes, ClientError> {
        self.bytes(Method::POST, path, Bytes::new(), patience)
    }

    fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        patience: Duration,
    ) -> Result<T, ClientError> {
        let body = self.bytes(method, path, body, patience)?;
        serde_json::from_slice(&body).map_err(|_| ClientError::Senseless(self.socket.clone()))
    }

    fn bytes(&self, method: Method, path: &str, body: Bytes, patience: Duration) -> Result<Bytes, ClientError> {
        let unreachable = |error| ClientError::Unreachable(self.socket.clone(), error);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unreachable)?;
        let answer = runtime.block_on(async {
            match tokio::time::timeout(patience, self.converse(method, path, body)).await {
                Ok(answer) => answer,
                Err(_) => Err(ClientError::Slow(self.socket.clone(), patience)),
            }
        });
        let (status, body) = answer?;
        if status.is_success() {
            return Ok(body);
        }
        let said: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
        let message = said.as_ref().and_then(|said| said["error"].as_str()).map(str::to_owned);
        Err(ClientError::Refused { status, message: message.unwrap_or_else(|| format!("edged answers {status}")) })
    }

    async fn converse(&self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), ClientError> {
        let stream = tokio::net::UnixStream::connect(&self.socket)
            .await
            .map_err(|error| ClientError::Unreachable(self.socket.clone(), error))?;
        let broken = |error| ClientError::Broken(self.socket.clone(), error);
        let (mut send, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // It ends with the answer; a fault of it shows in `send_request`.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, "edged")
            .body(Full::new(body))
            .map_err(|_| ClientError::Senseless(self.socket.clone()))?;
        let answer = send.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|_| ClientError::Senseless(self.socket.clone()))?;
        Ok((status, body.to_bytes()))
    }
}
