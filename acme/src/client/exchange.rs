//! The exchange of signed requests with one CA: nonces, refused nonces, and what came back besides the body.
//!
//! It is the HTTP client of instant-acme, and signs by itself what instant-acme has no call for. Nonces are pooled over
//! both: every answer brings one, so that hardly any has to be asked for.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use serde_json::Value;
use tokio::time::Instant;

use super::clock::CaClock;
use super::https::{Answer, ClientError, Https};
use super::jws::{self, Identity, KeyError, SigningKey};
use super::wire::Problem;

const NONCE: &str = "replay-nonce";
const POOLED: usize = 32;
/// CAs forget nonces; an old one would cost a round trip like a new one does.
const FRESH: Duration = Duration::from_secs(120);
/// How often a request is repeated because its nonce was refused. A CA that refuses half of them is survived.
pub(crate) const NONCE_ATTEMPTS: u32 = 12;
const LONGEST_NONCE: usize = 512;

#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("{0:?} is no URL")]
    Url(String),
    #[error("the directory was not read yet")]
    NoDirectory,
    #[error("no nonce from the CA (HTTP {})", .0.status.as_u16())]
    NoNonce(Box<Answer>),
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Exchange {
    inner: Arc<Inner>,
}

struct Inner {
    https: Https,
    nonces: Mutex<Nonces>,
    clock: Mutex<Option<CaClock>>,
}

#[derive(Default)]
struct Nonces {
    /// Where new ones are asked for, once the directory is known.
    url: Option<Box<str>>,
    pool: VecDeque<(String, Instant)>,
}

tokio::task_local! {
    /// The last answer that instant-acme got inside of [`Exchange::tee`].
    static SEEN: RefCell<Option<Answer>>;
}

impl Exchange {
    pub fn new(https: Https) -> Self {
        Self { inner: Arc::new(Inner { https, nonces: Mutex::default(), clock: Mutex::default() }) }
    }

    pub fn nonces_at(&self, url: &str) {
        self.nonces(|nonces| nonces.url = Some(url.into()));
    }

    /// A request without a signature.
    pub async fn fetch(&self, url: &str) -> Result<Answer, ExchangeError> {
        let request = Request::get(url).body(Bytes::new()).map_err(|_| ExchangeError::Url(url.into()))?;
        Ok(self.inner.https.send(request).await?)
    }

    /// A signed request, repeated while its nonce is refused; the answer is whatever the CA says at last.
    pub async fn post(
        &self,
        key: &SigningKey,
        identity: Identity<'_>,
        url: &str,
        payload: Option<&Value>,
    ) -> Result<Answer, ExchangeError> {
        let mut left = NONCE_ATTEMPTS;
        loop {
            let nonce = self.nonce().await?;
            let body = jws::sign(key, identity, Some(&nonce), url, payload)?.to_string();
            let request = Request::post(url)
                .header(header::CONTENT_TYPE, "application/jose+json")
                .body(Bytes::from(body))
                .map_err(|_| ExchangeError::Url(url.into()))?;
            let mut answer = self.inner.https.send(request).await?;
            self.keep_nonce(&mut answer.headers);
            self.keep_clock(&answer.headers);
            left -= 1;
            if left == 0 || answer.status != StatusCode::BAD_REQUEST || !Problem::of(&answer).is_bad_nonce() {
                return Ok(answer);
            }
        }
    }

    /// Runs a call of instant-acme, and hands over the last answer that it got.
    pub async fn tee<T>(&self, call: impl Future<Output = T>) -> (T, Option<Answer>) {
        SEEN.scope(RefCell::new(None), async {
            let outcome = call.await;
            (outcome, SEEN.with(|seen| seen.borrow_mut().take()))
        })
        .await
    }

    async fn nonce(&self) -> Result<String, ExchangeError> {
        if let Some(nonce) = self.pooled() {
            return Ok(nonce);
        }
        let url = self.nonces(|nonces| nonces.url.clone()).ok_or(ExchangeError::NoDirectory)?;
        let request = Request::head(&*url).body(Bytes::new()).map_err(|_| ExchangeError::Url(url.to_string()))?;
        let answer = self.inner.https.send(request).await?;
        nonce_of(&answer.headers).ok_or_else(|| ExchangeError::NoNonce(Box::new(answer)))
    }

    fn pooled(&self) -> Option<String> {
        self.nonces(|nonces| {
            // The newest first: of a refused request, that is the one that the refusal brought.
            while let Some((nonce, since)) = nonces.pool.pop_back() {
                if since.elapsed() < FRESH {
                    return Some(nonce);
                }
                nonces.pool.clear();
            }
            None
        })
    }

    /// Takes the nonce out of an answer, so that nobody else uses it as well.
    fn keep_nonce(&self, headers: &mut HeaderMap) {
        let found = nonce_of(headers);
        headers.remove(NONCE);
        let Some(nonce) = found else { return };
        self.nonces(|nonces| {
            if nonces.pool.len() >= POOLED {
                nonces.pool.pop_front();
            }
            nonces.pool.push_back((nonce, Instant::now()));
        });
    }

    /// What the CA's clock said in its last answer to a signed request, which no cache has kept.
    pub fn clock(&self) -> Option<CaClock> {
        *self.inner.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep_clock(&self, headers: &HeaderMap) {
        if let Some(clock) = CaClock::of(headers) {
            *self.inner.clock.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock);
        }
    }

    fn nonces<T>(&self, with: impl FnOnce(&mut Nonces) -> T) -> T {
        with(&mut self.inner.nonces.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// RFC 8555 §6.5.1: base64url.
fn nonce_of(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(NONCE)?.to_str().ok()?;
    let fits = (1..=LONGEST_NONCE).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    fits.then(|| text.to_owned())
}

impl HttpClient for Exchange {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let exchange = self.clone();
        Box::pin(async move {
            let other = |error: ExchangeError| instant_acme::Error::Other(Box::new(error));
            if request.method() == Method::HEAD {
                // It asks for a nonce before every request; most of the time there is one already.
                let nonce = exchange.nonce().await.map_err(other)?;
                let value = HeaderValue::from_str(&nonce).map_err(|error| instant_acme::Error::Other(error.into()))?;
                let mut answer = Response::new(Full::new(Bytes::new()));
                answer.headers_mut().insert(NONCE, value);
                return Ok(answer.into());
            }
            let is_signed = request.method() == Method::POST;
            let (parts, body) = request.into_parts();
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(never) => match never {},
            };
            let sent = exchange.inner.https.send(Request::from_parts(parts, body)).await;
            let mut answer = sent.map_err(|error| other(error.into()))?;
            exchange.keep_nonce(&mut answer.headers);
            if is_signed {
                exchange.keep_clock(&answer.headers);
            }
            // Outside of a tee nobody wants to know.
            let _ = SEEN.try_with(|seen| seen.replace(Some(answer.clone())));
            let mut response = Response::new(Full::new(answer.body));
            *response.status_mut() = answer.status;
            *response.headers_mut() = answer.headers;
            Ok(response.into())
        })
    }
}
