//! From one request to one answer.

use std::net::IpAddr;
use std::sync::Arc;
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

use super::{Api, PATIENCE, certificates};
use crate::control::diff::Effective;
use crate::control::explain::{self, Question};
use crate::control::fleet;
use crate::control::history::{self, HistoryView};
use crate::control::metrics;
use crate::control::objects;
use crate::control::pools::{self, Edit};
use crate::control::status;
use crate::control::why;
use crate::control::world::{AskUpgrade, Command, World};
use crate::history::HistoryError;
use crate::proxy::metrics::{Format, Text};

const MAX_BODY: usize = 64 << 10;
/// A reload reads every file again, and so does a new edged before it takes over.
const RELOAD: Duration = Duration::from_secs(80);

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

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    pub access: Access,
    /// The number of the user at the other end of the socket.
    pub user: Option<u32>,
}

impl Caller {
    /// As people call the user: its name on this machine, or else its number.
    fn name(self) -> Option<String> {
        let user = self.user?;
        let known = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let name = known.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(user)).then(|| name.to_owned())
        });
        Some(name.unwrap_or_else(|| format!("uid {user}")))
    }
}

pub(super) type Answer = Response<Full<Bytes>>;

pub async fn answer(api: &Api, caller: Caller, request: Request<Incoming>) -> Answer {
    let access = caller.access;
    let (head, body) = request.into_parts();
    let path = head.uri.path().trim_end_matches('/');
    let path = if path.is_empty() { "/" } else { path };
    if access == Access::Metrics && !matches!(path, "/metrics" | "/healthz" | "/readyz") {
        return error(StatusCode::NOT_FOUND, "not found: /metrics, /healthz and /readyz are here");
    }
    let changes = matches!(
        path,
        "/v1/reload"
            | "/v1/upgrade"
            | "/v1/drain"
            | "/v1/undrain"
            | "/v1/endpoints/hold"
            | "/v1/maintenance/set"
            | "/v1/rollback"
    );
    let asks = matches!(path, "/v1/explain" | "/v1/pools/check");
    let of_certificates = certificates::method(path);
    let post = changes || asks || of_certificates == Some(Method::POST);
    let expected = if post { Method::POST } else { Method::GET };
    if head.method != expected && !(head.method == Method::HEAD && expected == Method::GET) {
        let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, &format!("{path} takes {expected}"));
        answer
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static(if expected == Method::GET { "GET, HEAD" } else { "POST" }));
        return answer;
    }
    if of_certificates.is_some() {
        return certificates::answer(api, access, path, body).await;
    }
    let world = api.handle.now();
    match path {
        "/v1/status" => json(&status::status(&world, SystemTime::now())),
        "/v1/why" => json(&why::all(&world)),
        "/v1/problems" => json(&world.findings()),
        "/v1/config" => json(&*world.inputs.settings),
        "/v1/routing" => json(&Effective::of(world.scene(), &world.compiled.assigned)),
        "/v1/explain" => match bounded(body).await {
            Ok(body) => explained(&world, &body),
            Err(answer) => answer,
        },
        "/v1/pools" => json(&pools::pools(&world.inputs, &world.compiled.report, &world.compiled.assigned)),
        "/v1/pools/check" => match bounded(body).await {
            Ok(body) => pools_checked(world, body).await,
            Err(answer) => answer,
        },
        _ if changes && access != Access::Change => forbidden(),
        "/v1/reload" => carried_out(&api.handle.commands, |reply| Command::Reload { by: caller.name(), reply }).await,
        "/v1/upgrade" => match bounded(body).await {
            Ok(body) => match serde_json::from_slice::<AskUpgrade>(&body) {
                Ok(ask) => {
                    carried_out(&api.handle.commands, |reply| Command::Upgrade { is_forced: ask.force, reply }).await
                }
                Err(fault) => error(StatusCode::BAD_REQUEST, &fault.to_string()),
            },
            Err(answer) => answer,
        },
        "/v1/drain" => carried_out(&api.handle.commands, |reply| Command::Drain { reply }).await,
        "/v1/endpoints" => json(&*world.observed.holds),
        "/v1/endpoints/hold" => match bounded(body).await {
            Ok(body) => match serde_json::from_slice(&body) {
                Ok(ask) => carried_out(&api.handle.commands, |reply| Command::Hold { ask, reply }).await,
                Err(fault) => error(StatusCode::BAD_REQUEST, &fault.to_string()),
            },
            Err(answer) => answer,
        },
        "/v1/maintenance" => json(&*world.observed.closures),
        "/v1/maintenance/set" => match bounded(body).await {
            Ok(body) => match serde_json::from_slice(&body) {
                Ok(ask) => carried_out(&api.handle.commands, |reply| Command::Close { ask, reply }).await,
                Err(fault) => error(StatusCode::BAD_REQUEST, &fault.to_string()),
            },
            Err(answer) => answer,
        },
        "/v1/fleet" => fleet_page(api, &world).await,
        "/v1/history" => json(&HistoryView::of(&world)),
        "/v1/rollback" => match bounded(body).await {
            Ok(body) => match serde_json::from_slice(&body) {
                Ok(ask) => {
                    let command = |reply| Command::Roll { ask, by: caller.name(), reply };
                    carried_out(&api.handle.commands, command).await
                }
                Err(fault) => error(StatusCode::BAD_REQUEST, &fault.to_string()),
            },
            Err(answer) => answer,
        },
        "/v1/undrain" => carried_out(&api.handle.commands, |reply| Command::Undrain { reply }).await,
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
        path => {
            let under = |prefix| path.strip_prefix(prefix);
            match (under("/v1/objects/"), under("/v1/why/"), under("/v1/history/")) {
                (Some(rest), ..) => found(&world, rest),
                (_, Some(address), _) => why_of(&world, address),
                (.., Some(rest)) => revision(api, world, rest).await,
                (None, None, None) => error(StatusCode::NOT_FOUND, &format!("{path} is not here")),
            }
        }
    }
}

pub(super) async fn bounded(body: Incoming) -> Result<Bytes, Answer> {
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

/// It compiles everything anew, so others are not made to wait for it.
async fn pools_checked(world: Arc<World>, body: Bytes) -> Answer {
    let edit: Edit = match serde_json::from_slice(&body) {
        Ok(edit) => edit,
        Err(fault) => return error(StatusCode::BAD_REQUEST, &format!("body: {fault}")),
    };
    let done = tokio::task::spawn_blocking(move || pools::dry_run(&world.inputs, &world.compiled, &edit)).await;
    match done {
        Ok(Ok(found)) => json(&found),
        Ok(Err(faults)) => error(StatusCode::UNPROCESSABLE_ENTITY, &faults.join("\n")),
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "the compile did not end"),
    }
}

/// Every edge is asked now.
async fn fleet_page(api: &Api, world: &World) -> Answer {
    let Some(survey) = &api.fleet else {
        return error(StatusCode::NOT_FOUND, "this edge is in no fleet: there is no [fleet] in edge.toml");
    };
    let (words, own) = tokio::join!(survey.ask(), fleet::own(Arc::clone(&api.witness)));
    match own {
        Some(own) => json(&fleet::fleet_status(world, own, words)),
        None => error(StatusCode::INTERNAL_SERVER_ERROR, "how this edge stands cannot be told now"),
    }
}

/// `REVISION`, `REVISION/routing`
async fn revision(api: &Api, world: Arc<World>, rest: &str) -> Answer {
    let (number, part) = rest.split_once('/').map_or((rest, None), |(number, part)| (number, Some(part)));
    let Ok(number) = number.parse::<u64>() else {
        return error(StatusCode::BAD_REQUEST, &format!("{number:?} is no revision, expected a number"));
    };
    match part {
        None => match world.observed.history.revisions.iter().find(|revision| revision.revision == number) {
            Some(revision) => json(revision),
            None => error(StatusCode::NOT_FOUND, &HistoryError::Unknown(number).to_string()),
        },
        Some("routing") => {
            let folder = api.revisions.clone();
            let read = move || folder.read(number).map(|kept| history::routing(kept, &world));
            match tokio::task::spawn_blocking(read).await {
                Ok(Ok(effective)) => json(&effective),
                Ok(Err(fault)) => error(StatusCode::NOT_FOUND, &fault.to_string()),
                Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "the compile did not end"),
            }
        }
        Some(part) => error(StatusCode::NOT_FOUND, &format!("{part} of a revision is not here")),
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

fn why_of(world: &World, address: &str) -> Answer {
    let Ok(parsed) = address.parse::<IpAddr>() else {
        return error(StatusCode::BAD_REQUEST, &format!("{address:?} is no IP address"));
    };
    match why::why(world.scene(), &world.edge, parsed) {
        Some(found) => json(&found),
        None => {
            let known: Vec<String> = world.compiled.snapshot.vips.iter().map(|vip| vip.address.to_string()).collect();
            let known =
                if known.is_empty() { "there are none".to_owned() } else { format!("there are {}", known.join(", ")) };
            error(StatusCode::NOT_FOUND, &format!("{parsed} is no VIP of this edge; {known}"))
        }
    }
}

async fn carried_out<T: Serialize>(
    commands: &mpsc::Sender<Command>,
    command: impl FnOnce(oneshot::Sender<Result<T, String>>) -> Command,
) -> Answer {
    let (reply, answer) = oneshot::channel();
    if commands.try_send(command(reply)).is_err() {
        return busy();
    }
    patiently(answer).await.map_or_else(|answer| answer, |outcome| json(&outcome))
}

/// What came of a command; the error is the answer that says why nothing did.
pub(super) async fn patiently<T>(answer: oneshot::Receiver<Result<T, String>>) -> Result<T, Answer> {
    match tokio::time::timeout(RELOAD, answer).await {
        Ok(Ok(Ok(outcome))) => Ok(outcome),
        Ok(Ok(Err(reason))) => Err(error(StatusCode::CONFLICT, &reason)),
        Ok(Err(_)) => Err(error(StatusCode::SERVICE_UNAVAILABLE, "edged is stopping")),
        Err(_) => Err(error(StatusCode::GATEWAY_TIMEOUT, "it is still under way after 80s; see edgectl status")),
    }
}

pub(super) fn busy() -> Answer {
    error(StatusCode::SERVICE_UNAVAILABLE, "the supervisor does not take commands: it is busy or stopping")
}

pub(super) fn forbidden() -> Answer {
    error(StatusCode::FORBIDDEN, "a change takes root, the user of edged, or a member of the socket's group")
}

pub(super) fn json(value: &impl Serialize) -> Answer {
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

pub(super) fn error(status: StatusCode, message: &str) -> Answer {
    let mut body = json!({ "error": message }).to_string().into_bytes();
    body.push(b'\n');
    respond(status, "application/json", body)
}

pub(super) fn respond(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
