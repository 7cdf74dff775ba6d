//! From one request to one answer.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use edge_config::names::{Kind, ObjectKey, ObjectRef};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::{Api, PATIENCE};
use crate::control::diff::Effective;
use crate::control::explain::{self, Question};
use crate::control::metrics;
use crate::control::objects;
use crate::control::status;
use crate::control::world::{Command, World};
use crate::proxy::metrics::{Format, Text};

const MAX_BODY: usize = 64 << 10;
/// A reload reads every file again.
const RELOAD: Duration = Duration::from_secs(60);

/// What the other end may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// On TCP: metrics and health only.
    Metrics,
    /// On the socket.
    Read,
    /// On the socket, as root, the same user or a member of the group.
    Change,
}

type Answer = Response<Full<Bytes>>;

pub async fn answer(api: &Api, access: Access, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let path = head.uri.path().trim_end_matches('/');
    let path = if path.is_empty() { "/" } else { path };
    if access == Access::Metrics && !matches!(path, "/metrics" | "/healthz" | "/readyz") {
        return error(StatusCode::NOT_FOUND, "not found: /metrics, /healthz and /readyz are here");
    }
    let changes = matches!(path, "/v1/reload");
    let asks = matches!(path, "/v1/explain");
    let expected = if changes || asks { Method::POST } else { Method::GET };
    if head.method != expected && !(head.method == Method::HEAD && expected == Method::GET) {
        let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, &format!("{path} takes {expected}"));
        answer
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static(if expected == Method::GET { "GET, HEAD" } else { "POST" }));
        return answer;
    }
    let world = api.handle.now();
    match path {
        "/v1/status" => json(&status::status(&world, SystemTime::now())),
        "/v1/problems" => json(&world.findings()),
        "/v1/config" => json(&*world.inputs.settings),
        "/v1/routing" => json(&Effective::of(world.scene(), &world.compiled.assigned)),
        "/v1/explain" => match bounded(body).await {
            Ok(body) => explained(&world, &body),
            Err(answer) => answer,
        },
        "/v1/reload" if access != Access::Change => {
            error(StatusCode::FORBIDDEN, "a reload takes root, the user of edged, or a member of the socket's group")
        }
        "/v1/reload" => reload(&api.handle.commands).await,
        "/metrics" => {
            let accept = head.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let format = Format::of_accept(accept);
            let mut page = Text::new(format);
            metrics::write(&world, SystemTime::now(), &mut page);
            (api.metrics)(&mut page);
            text(format.content_type(), page.finish())
        }
        "/healthz" => text("text/plain; charset=utf-8", "ok\n".to_owned()),
        "/readyz" => match world.ready() {
            Ok(()) => text("text/plain; charset=utf-8", "ok\n".to_owned()),
            Err(reason) => {
                let mut answer = text("text/plain; charset=utf-8", format!("{reason}\n"));
                *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                answer
            }
        },
        "/v1/objects" => json(&objects::counts(&world.inputs)),
        path => match path.strip_prefix("/v1/objects/") {
            Some(rest) => found(&world, rest),
            None => error(StatusCode::NOT_FOUND, &format!("{path} is not here")),
        },
    }
}

async fn bounded(body: Incoming) -> Result<Bytes, Answer> {
    match tokio::time::timeout(PATIENCE, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => Err(error(StatusCode::PAYLOAD_TOO_LARGE, "the body is unfinished or larger than 64 KiB")),
        Err(_) => Err(error(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
    }
}

fn explained(world: &World, body: &[u8]) -> Answer {
    let question: Question = match serde_json::from_slice(body) {
        Ok(question) => question,
        Err(fault) => return error(StatusCode::BAD_REQUEST, &format!("body: {fault}")),
    };
    match explain::explain(world.scene(), &question, SystemTime::now()) {
        Ok(explanation) => json(&explanation),
        Err(fault) => error(StatusCode::BAD_REQUEST, &fault.to_string()),
    }
}

/// `KIND`, `KIND/NAME`, `KIND/NAMESPACE/NAME`
fn found(world: &World, rest: &str) -> Answer {
    let (kind_text, name) = rest.split_once('/').map_or((rest, None), |(kind, name)| (kind, Some(name)));
    let Some(kind) = objects::kind_of(kind_text) else {
        let kinds: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
        return error(
            StatusCode::NOT_FOUND,
            &format!("kind {kind_text:?} is not known; there are {}", kinds.join(", ")),
        );
    };
    let inputs = &world.inputs;
    let observed = world.observed.for_conditions(SystemTime::now());
    let statuses = edge_config::status::render(&world.compiled.snapshot, &world.compiled.report, &observed);
    let Some(name) = name else {
        return json(&objects::all(inputs, &statuses, kind));
    };
    let object = ObjectRef::new(kind, ObjectKey::parse(name));
    match objects::one(inputs, &statuses, &object) {
        Some(value) => json(&value),
        None => match world.inputs.unusable.get(&object) {
            Some(reason) => error(StatusCode::NOT_FOUND, &format!("{object} cannot be used: {reason}")),
            None => error(StatusCode::NOT_FOUND, &format!("{object} does not exist")),
        },
    }
}

async fn reload(commands: &mpsc::Sender<Command>) -> Answer {
    let (reply, answer) = oneshot::channel();
    if commands.try_send(Command::Reload { reply }).is_err() {
        return error(StatusCode::SERVICE_UNAVAILABLE, "the supervisor does not take commands: it is busy or stopping");
    }
    match tokio::time::timeout(RELOAD, answer).await {
        Ok(Ok(Ok(reloaded))) => json(&reloaded),
        Ok(Ok(Err(reason))) => error(StatusCode::CONFLICT, &reason),
        Ok(Err(_)) => error(StatusCode::SERVICE_UNAVAILABLE, "edged is stopping"),
        Err(_) => error(StatusCode::GATEWAY_TIMEOUT, "the reload still runs after 60s; see edgectl status"),
    }
}

fn json(value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            respond(StatusCode::OK, "application/json", body)
        }
        Err(fault) => error(StatusCode::INTERNAL_SERVER_ERROR, &fault.to_string()),
    }
}

fn text(kind: &'static str, body: String) -> Answer {
    respond(StatusCode::OK, kind, body.into_bytes())
}

fn error(status: StatusCode, message: &str) -> Answer {
    let mut body = json!({ "error": message }).to_string().into_bytes();
    body.push(b'\n');
    respond(status, "application/json", body)
}

fn respond(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
