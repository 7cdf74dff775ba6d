//! The way of a request through the proxy: whose it is, which fault strikes it, and otherwise on to the API server.
//!
//! Flows in: requests of one client over HTTPS. Flows out: the API server's answers, or faults that look like its own.
//! Watches and other streams pass frame by frame; lists are read whole, to be kept for stale answers.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::pending;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, RETRY_AFTER,
    TRANSFER_ENCODING,
};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::Incoming;
use kube::Client;
use kube::client::Body as ApiBody;
use serde_json::json;
use tokio::sync::{broadcast, watch};
use tokio::time::{sleep, timeout};

use crate::request::{Shape, Verb};
use crate::rules::{Blow, Effect, Rules, Strike};
use crate::shadows::{Answer, Counts, Shadows, key};
use crate::token::Token;

const LARGEST_REQUEST: usize = 8 * 1024 * 1024;
const LARGEST_LIST: usize = 128 * 1024 * 1024;
/// For the API server to begin an answer.
const DEADLINE: Duration = Duration::from_secs(60);
/// Headers of one hop, and those the next hop writes itself.
const OWN: [HeaderName; 4] = [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, HOST];

pub type Body = Pin<Box<dyn http_body::Body<Data = Bytes, Error = Broken>>>;

/// The connection is closed in the middle.
#[derive(Debug, thiserror::Error)]
#[error("broken off")]
pub struct Broken;

/// Everything the proxy knows.
pub struct Proxy {
    pub client: Client,
    pub rules: RefCell<Rules>,
    pub shadows: RefCell<Shadows>,
    pub counts: RefCell<Counts>,
    pub token: RefCell<Token>,
    pub refusing: watch::Sender<bool>,
    pub strikes: broadcast::Sender<Strike>,
}

/// Answers one request; an error closes its connection.
pub async fn answer(proxy: Rc<Proxy>, request: Request<Incoming>) -> Result<Response<Body>, Broken> {
    let shape = Shape::of(request.method(), request.uri());
    let outcome = decided(&proxy, &shape, request).await;
    let code = outcome.as_ref().map_or(0, |response| response.status().as_u16());
    proxy.counts.borrow_mut().add(&shape, code);
    outcome
}

async fn decided(proxy: &Proxy, shape: &Shape, request: Request<Incoming>) -> Result<Response<Body>, Broken> {
    if !proxy.token.borrow().admits(request.headers().get(AUTHORIZATION)) {
        return Ok(status(401, "the token is not valid", None));
    }
    let decision = proxy.rules.borrow_mut().decide(shape);
    sleep(decision.delay).await;
    match decision.effect {
        Some(Effect::Fail { code, retry_after }) => Ok(status(code, "ordered from api-fault", retry_after)),
        Some(Effect::Reset) => Err(Broken),
        Some(Effect::Gone) => Ok(json_stream(full(gone()))),
        Some(Effect::Silent) => Ok(json_stream(silence(shape.clone(), proxy.strikes.subscribe()))),
        Some(Effect::Stale) => {
            let old = proxy.shadows.borrow().find(&key(request.uri(), request.headers().get(ACCEPT)));
            match old {
                Some(answer) => Ok(whole(answer)),
                None => pass(proxy, shape, request).await,
            }
        }
        Some(Effect::Delay(_)) | None => pass(proxy, shape, request).await,
    }
}

async fn pass(proxy: &Proxy, shape: &Shape, request: Request<Incoming>) -> Result<Response<Body>, Broken> {
    // Before the API server begins the watch, so that no strike falls between.
    let strikes = proxy.strikes.subscribe();
    let (mut head, body) = request.into_parts();
    let Ok(Ok(body)) = timeout(DEADLINE, Limited::new(body, LARGEST_REQUEST).collect()).await else {
        return Ok(status(413, "the request's body did not arrive, or is larger than api-fault passes on", None));
    };
    let shadow = key(&head.uri, head.headers.get(ACCEPT));
    // The client's own encodings are between it and us; the identity is that of our kubeconfig.
    for name in OWN.into_iter().chain([AUTHORIZATION, ACCEPT_ENCODING]) {
        head.headers.remove(name);
    }
    head.extensions = http::Extensions::new();
    let outgoing = Request::from_parts(head, ApiBody::from(body.to_bytes()));
    let response = match timeout(DEADLINE, proxy.client.send(outgoing)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Ok(status(502, &format!("api-fault: API server: {error}"), None)),
        Err(_) => return Ok(status(504, "api-fault: API server: no answer", None)),
    };
    let (mut head, body) = response.into_parts();
    for name in OWN {
        head.headers.remove(name);
    }
    let passed = head.status.is_success();
    if shape.verb == Verb::List && passed {
        let read = Limited::new(body, LARGEST_LIST).collect().await;
        let Ok(bytes) = read.map(http_body_util::Collected::to_bytes) else { return Err(Broken) };
        let answer = Answer { content_type: head.headers.get(CONTENT_TYPE).cloned(), bytes: bytes.clone() };
        proxy.shadows.borrow_mut().keep(shadow, answer);
        return Ok(Response::from_parts(head, full(bytes)));
    }
    let body: Body = if shape.verb == Verb::Watch && passed {
        watched(body, shape.clone(), strikes)
    } else {
        Box::pin(body.map_err(|_| Broken))
    };
    Ok(Response::from_parts(head, body))
}

/// A watch that passes until it is struck.
fn watched(body: ApiBody, shape: Shape, strikes: broadcast::Receiver<Strike>) -> Body {
    struct Watch {
        body: Option<ApiBody>,
        shape: Shape,
        strikes: broadcast::Receiver<Strike>,
    }
    let watch = Watch { body: Some(body), shape, strikes };
    Box::pin(StreamBody::new(stream::unfold(watch, |mut watch| async move {
        let body = watch.body.as_mut()?;
        let blow = tokio::select! {
            frame = body.frame() => {
                return Some((frame?.map_err(|_| Broken), watch));
            }
            blow = blow(&watch.shape, &mut watch.strikes, false) => blow,
        };
        // The API server's side ends here, whatever the client still believes.
        watch.body = None;
        match blow {
            Blow::Gone => return Some((Ok(Frame::data(gone())), watch)),
            Blow::Silence => {
                let _ = self::blow(&watch.shape, &mut watch.strikes, true).await;
            }
            Blow::Drop | Blow::Wake => {}
        }
        Some((Err(Broken), watch))
    })))
}

/// A watch that says nothing until it is struck, and then breaks off.
fn silence(shape: Shape, strikes: broadcast::Receiver<Strike>) -> Body {
    Box::pin(StreamBody::new(stream::unfold((shape, strikes), |(shape, mut strikes)| async move {
        let _ = blow(&shape, &mut strikes, true).await;
        Some((Err(Broken), (shape, strikes)))
    })))
}

/// The next strike at a watch that ends its present state.
async fn blow(shape: &Shape, strikes: &mut broadcast::Receiver<Strike>, silent: bool) -> Blow {
    loop {
        match strikes.recv().await {
            Ok(Strike { blow: Blow::Wake, .. }) if silent => return Blow::Wake,
            Ok(Strike { blow: Blow::Wake | Blow::Silence, .. }) if silent => {}
            Ok(Strike { blow: Blow::Wake, .. }) => {}
            Ok(strike) if strike.scope.matches(shape) => return strike.blow,
            // More strikes at once than are kept: the ones seen next are as good.
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => pending().await,
        }
    }
}

/// What an API server says in a watch whose start it has forgotten.
fn gone() -> Bytes {
    let object = failure(410, "too old resource version: 1 (2)");
    Bytes::from(format!("{}\n", json!({"type": "ERROR", "object": object})))
}

fn failure(code: u16, message: &str) -> serde_json::Value {
    let reason = match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        413 => "RequestEntityTooLarge",
        422 => "Invalid",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "",
    };
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": reason, "code": code,
    })
}

fn status(code: u16, message: &str, retry_after: Option<u32>) -> Response<Body> {
    let text = failure(code, message).to_string();
    let content_type = Some(HeaderValue::from_static("application/json"));
    let mut response = whole(Answer { content_type, bytes: text.into() });
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn full(bytes: Bytes) -> Body {
    Box::pin(Full::new(bytes).map_err(|never: Infallible| -> Broken { match never {} }))
}

fn whole(answer: Answer) -> Response<Body> {
    let mut response = Response::new(full(answer.bytes));
    if let Some(content_type) = answer.content_type {
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    response
}

fn json_stream(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
