//! One exchange: from a canonical request to the end of its response, the same for every protocol on either side.
//!
//! In: a decoded request, its body as a [`Source`], the way back as a [`Sink`]. Out: a [`Record`] of what happened. One
//! function per step, called in order, each returning what the next one needs:
//! listener → sender → rule → preflight → edits → action → backend → tries ([`forward`]) → relay. Whatever
//! Edge answers itself has a [`Reason`].

pub mod answer;
pub mod forward;
pub mod mirror;
pub mod pace;
pub mod record;
pub mod relay;
pub mod replay;
pub mod route;

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use edge_config::matching::Matched;
use edge_config::settings::PathPolicy;
use edge_config::snapshot::{Action, Backend, Rule, Target, UpstreamId};

use self::answer::Answer;
use self::forward::Forward;
pub use self::record::Record;
use self::relay::Failure;
use self::route::Place;
use super::body::{Sink, Source, StreamError};
use super::filters;
use super::filters::forwarded::Sender;
use super::message::{Length, RequestHead, ResponseHead, Span};
use super::path;
use super::reason::Reason;
use super::worker::{Arrival, Current, Patience, Worker};

/// How an exchange ended for its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The response is complete.
    Complete,
    /// The response is cut off, or there is nobody to answer: the connection (or stream) must be reset.
    Broken,
}

/// Runs an exchange. `response` is memory for the head, reused from one to the next.
pub async fn run<S: Source, K: Sink>(
    worker: &Rc<Worker>,
    arrival: &Arrival,
    request: &mut RequestHead,
    response: &mut ResponseHead,
    source: &mut S,
    sink: &mut K,
) -> End {
    run_unless(std::future::pending(), worker, arrival, request, response, source, sink).await
}

/// The same where the client can take its request back: then `gone` is ready, and the exchange is given up.
pub async fn run_unless<S: Source, K: Sink>(
    gone: impl Future<Output = ()>,
    worker: &Rc<Worker>,
    arrival: &Arrival,
    request: &mut RequestHead,
    response: &mut ResponseHead,
    source: &mut S,
    sink: &mut K,
) -> End {
    let current = worker.current();
    let mut record = Record::begin(arrival, request);
    let result = {
        let mut gone = pin!(gone);
        let mut respond = pin!(respond(worker, &current, arrival, request, response, source, sink, &mut record));
        poll_fn(|cx| {
            if let Poll::Ready(result) = respond.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            gone.as_mut().poll(cx).map(|()| Err(Failure::Client(StreamError::Closed)))
        })
        .await
    };
    let end = match result {
        Ok(()) => End::Complete,
        Err(Failure::Client(error)) => {
            record.fail(match error {
                StreamError::Stalled => Reason::StreamStalled,
                StreamError::TooSlow => Reason::TooSlow,
                StreamError::Malformed(what) => Reason::BadRequest(what),
                StreamError::Closed | StreamError::Io(_) => Reason::ClientClosed,
            });
            End::Broken
        }
        Err(Failure::Truncated(reason) | Failure::Endpoint(reason) | Failure::Unanswered(reason)) => {
            record.fail(reason);
            End::Broken
        }
        Err(Failure::Code) => End::Broken,
    };
    record.write(worker, &current, arrival, request);
    end
}

/// What the steps before the action have found.
struct Found<'g> {
    place: Place<'g>,
    sender: Sender,
    rule: &'g Rule,
    matched: Matched,
}

#[expect(clippy::too_many_arguments, reason = "one call, made by `run` alone, which owns each of them")]
async fn respond<S: Source, K: Sink>(
    worker: &Rc<Worker>,
    current: &Rc<Current>,
    arrival: &Arrival,
    request: &mut RequestHead,
    response: &mut ResponseHead,
    source: &mut S,
    sink: &mut K,
    record: &mut Record,
) -> Result<(), Failure> {
    let found = match find(current, arrival, request, record) {
        Ok(found) => found,
        Err(Made::Answer(answer)) => {
            if matches!(answer.status, 400 | 501) {
                sink.close();
            }
            return refuse(answer, request.is_grpc(), response, sink, record).await;
        }
        Err(Made::Redirect { status, location }) => {
            fill_redirect(status, location, response);
            record.answered(status, Reason::Redirect);
            return answer::send(sink, response, None).await.map_err(Failure::Client);
        }
    };
    let buffer_limit = found.place.listener.client.buffer_limit;
    source.limit_buffer(buffer_limit);
    let rule = found.rule;
    if let Some(cors) = &rule.filters.cors
        && filters::cors::answer_preflight(cors, request, response)
    {
        record.answered(response.status, Reason::CorsPreflight);
        return answer::send(sink, response, None).await.map_err(Failure::Client);
    }
    // The origin is needed for the response, after edits that may remove it.
    let origin = origin_of(rule, request);
    filters::headers::apply_to_request(&rule.filters.request_headers, request);
    let action = match &rule.action {
        Action::Redirect(redirect) => {
            let port = found.place.listener.port;
            match filters::redirect::location(redirect, request, port, found.matched.prefix) {
                Ok(location) => Err(Made::Redirect { status: redirect.status, location }),
                Err(_) => Err(Made::Answer(Answer::new(500, Reason::RefusedFilter))),
            }
        }
        Action::Refuse { status, .. } => Err(Made::Answer(Answer::new(*status, Reason::RefusedFilter))),
        Action::Forward(backends) => prepare(worker, &found, backends, request),
    };
    match action {
        Ok(chosen) => {
            record.backend = backends_of(rule).iter().position(|backend| std::ptr::eq(backend, chosen.backend));
            let forward = Forward {
                worker,
                current,
                rule,
                chosen: &chosen,
                sender: found.sender,
                client: arrival.origin(),
                origin: origin.as_deref(),
                buffer_limit,
            };
            match forward.run(&found.matched, request, response, source, sink, record).await? {
                None => Ok(()),
                Some(answer) => {
                    respond_for_rule(answer, rule, request, origin.as_deref(), response, sink, record).await
                }
            }
        }
        Err(Made::Redirect { status, location }) => {
            fill_redirect(status, location, response);
            filters::headers::apply(&rule.filters.response_headers, &mut response.fields);
            decorate_cors(rule, origin.as_deref(), response);
            record.answered(status, Reason::Redirect);
            answer::send(sink, response, None).await.map_err(Failure::Client)
        }
        Err(Made::Answer(answer)) => {
            respond_for_rule(answer, rule, request, origin.as_deref(), response, sink, record).await
        }
    }
}

fn fill_redirect(status: u16, location: String, response: &mut ResponseHead) {
    response.clear();
    response.status = status;
    response.length = Length::None;
    answer::date(response);
    response.fields.add(b"location", location.as_bytes());
}

/// Listener, sender, path, rule.
fn find<'g>(
    current: &'g Current,
    arrival: &Arrival,
    request: &mut RequestHead,
    record: &mut Record,
) -> Result<Found<'g>, Made> {
    let place = route::listener(current, arrival, request).map_err(Made::Answer)?;
    record.listener = Some(place.id);
    arrival.patience.set(Some(Patience::of(&place.listener.client)));
    let sender = filters::forwarded::apply(request, arrival.peer.ip(), place.listener.client.trusted_hops);
    record.client = sender.client;
    if !request.path_marks.is_plain() {
        settle_path(place.listener.client.path, sender, request)?;
    }
    let (rule, matched) = route::rule(current.snapshot(), place, request).map_err(Made::Answer)?;
    record.rule = Some(matched.rule);
    Ok(Found { place, sender, rule, matched })
}

/// Makes the path the one that is matched and forwarded, or sends the client there.
fn settle_path(policy: PathPolicy, sender: Sender, request: &mut RequestHead) -> Result<(), Made> {
    let bad = |why| Made::Answer(Answer::new(400, Reason::BadRequest(why)));
    let settled = path::settle(request.path().as_bytes(), request.path_marks, policy).map_err(bad)?;
    let text = String::from_utf8(settled.path.into_owned()).map_err(|_| bad("path is not ASCII"))?;
    if !settled.redirect {
        request.set_path(&text);
        return Ok(());
    }
    // A gRPC client follows no redirect, and without an authority there is no URL.
    if request.is_grpc() || request.authority().is_empty() {
        return Err(bad("path has an encoded slash"));
    }
    let scheme = if sender.https { "https" } else { "http" };
    let mut location = format!("{scheme}://{}{text}", request.authority());
    if let Some(query) = request.query() {
        location.push('?');
        location.push_str(query);
    }
    Err(Made::Redirect { status: 307, location })
}

/// What Edge makes itself instead of forwarding.
enum Made {
    Redirect { status: u16, location: String },
    Answer(Answer),
}

/// The backend that takes a request, and the session that chose it or is to be told of it.
pub struct Chosen<'g> {
    pub backend: &'g Backend,
    pub upstream: UpstreamId,
    /// As the client wrote it, for a session's cookie.
    pub path: Span,
    pub pin: Option<filters::session::Pin>,
}

/// Chooses the backend and applies what remains of the request's filters.
fn prepare<'g>(
    worker: &Worker,
    found: &Found<'g>,
    backends: &'g [Backend],
    request: &mut RequestHead,
) -> Result<Chosen<'g>, Made> {
    let rule = found.rule;
    let refuse = |status, reason| Made::Answer(Answer::new(status, reason));
    let pin = rule
        .session
        .as_ref()
        .and_then(|session| worker.tokens.read(rule, session, &request.fields, record::unix_seconds()));
    let pinned = pin.and_then(|pin| {
        let of_pin = |backend: &&Backend| filters::session::backend_tag(&backend.reference) == pin.backend;
        // GEP-1619: "the persistence to a single backend MUST be maintained across services, even if the weight is set
        // to 0". A backend that is invalid by now has no session to keep.
        backends.iter().filter(|backend| matches!(backend.target, Target::Upstream(_))).find(of_pin)
    });
    let backend = match pinned {
        Some(backend) => backend,
        None => weighted(backends, worker).ok_or_else(|| refuse(500, Reason::InvalidBackend))?,
    };
    let upstream = match &backend.target {
        Target::Upstream(upstream) => *upstream,
        Target::Invalid { status, .. } => return Err(refuse(*status, Reason::InvalidBackend)),
    };
    filters::headers::apply_to_request(&backend.filters.request_headers, request);
    let path = request.path;
    for rewrite in [&rule.filters.rewrite, &backend.filters.rewrite].into_iter().flatten() {
        filters::rewrite::apply(rewrite, request, found.matched.prefix)
            .map_err(|_| refuse(500, Reason::RefusedFilter))?;
    }
    Ok(Chosen { backend, upstream, path, pin: pin.filter(|_| pinned.is_some()) })
}

/// A backend by weight; `None` when no weight is above 0.
fn weighted<'g>(backends: &'g [Backend], worker: &Worker) -> Option<&'g Backend> {
    if let [only] = backends {
        return Some(only).filter(|backend| backend.weight > 0);
    }
    let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let mut draw = worker.random.below(total);
    backends.iter().find(|backend| {
        let weight = u64::from(backend.weight);
        let hit = draw < weight;
        draw = draw.saturating_sub(weight);
        hit
    })
}

fn backends_of(rule: &Rule) -> &[Backend] {
    match &rule.action {
        Action::Forward(backends) => backends,
        _ => &[],
    }
}

fn origin_of(rule: &Rule, request: &RequestHead) -> Option<Box<[u8]>> {
    let wanted = rule.filters.cors.is_some() || backends_of(rule).iter().any(|backend| backend.filters.cors.is_some());
    if wanted { request.fields.first(b"origin").map(Box::from) } else { None }
}

fn decorate_cors(rule: &Rule, origin: Option<&[u8]>, response: &mut ResponseHead) {
    if let Some(cors) = &rule.filters.cors {
        filters::cors::decorate(cors, origin, &mut response.fields);
    }
}

/// An answer in place of the backend's, under the rule's filters for responses.
async fn respond_for_rule<K: Sink>(
    answer: Answer,
    rule: &Rule,
    request: &RequestHead,
    origin: Option<&[u8]>,
    response: &mut ResponseHead,
    sink: &mut K,
    record: &mut Record,
) -> Result<(), Failure> {
    if answer.status == 408 {
        sink.close();
    }
    let body = answer.fill(rule.grpc || request.is_grpc(), response);
    filters::headers::apply(&rule.filters.response_headers, &mut response.fields);
    decorate_cors(rule, origin, response);
    record.answered(response.status, answer.reason);
    answer::send(sink, response, body).await.map_err(Failure::Client)
}

async fn refuse<K: Sink>(
    answer: Answer,
    grpc: bool,
    response: &mut ResponseHead,
    sink: &mut K,
    record: &mut Record,
) -> Result<(), Failure> {
    let body = answer.fill(grpc, response);
    record.answered(response.status, answer.reason);
    answer::send(sink, response, body).await.map_err(Failure::Client)
}
