//! One exchange: from a canonical request to the end of its response, the same for every protocol on either side.
//!
//! In: a decoded request, its body as a [`Source`], the way back as a [`Sink`]. Out: a [`Record`] of what happened. One
//! function per step, called in order, each returning what the next one needs:
//! challenge of a CA → listener → sender → rule → preflight → policies ([`gate`]) → edits → action → backend → tries
//! ([`forward`]) → relay. Whatever Edge answers itself has a [`Reason`].

mod alike;
pub mod answer;
mod choose;
mod dues;
pub mod forward;
pub mod gate;
mod gathered;
pub mod mirror;
pub mod pace;
pub mod record;
pub mod relay;
pub mod replay;
pub mod route;
pub mod waits;
mod watched;

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use edge_config::matching::{ByPath, Matched};
use edge_config::policy::FixedAnswer;
use edge_config::settings::PathPolicy;
use edge_config::snapshot::{Action, Backend, Cors, Rule};

use self::alike::Alike;
use self::answer::Answer;
use self::dues::{Dues, Late, edit_late};
use self::forward::Forward;
use self::gate::{Gate, Policies, Stopped};
use self::gathered::{GatherError, Gathered};
use self::pace::Pace;
pub use self::record::Record;
use self::relay::Failure;
use self::route::Place;
use self::waits::Waits;
use super::body::{Sink, Source, StreamError};
use super::challenges::Challenges;
use super::filters;
use super::filters::client::Instead;
use super::filters::forwarded::{Sender, Trust, Unnamed};
use super::message::{Length, RequestHead, ResponseHead};
use super::path;
use super::reason::Reason;
use super::responses::{self, Shaping};
use super::trace::Trace;
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
    let mut record = Record::begin(arrival);
    if let Some(tracer) = &current.generation.tracer {
        record.trace = Some(Trace::begin(tracer, &mut worker.spans.borrow_mut(), request));
    }
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
                StreamError::TooLarge => Reason::TooLarge,
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
    // Before whatever the user says of this host: a redirect or a login would keep the CA out.
    if let Some(content) = Challenges::of_request(&worker.challenges, request) {
        let body = answer::challenge(content, response);
        record.answered(response.status, Reason::AcmeChallenge);
        return answer::send(sink, response, Some(body)).await.map_err(Failure::Client);
    }
    let found = match find(worker, current, arrival, request, record) {
        Ok(found) => found,
        Err(Made::Answer(answer)) => {
            if matches!(answer.status, 400 | 501) {
                sink.close();
            }
            return refuse(worker, current, answer, request, response, sink, record).await;
        }
        Err(Made::Redirect { status, location }) => {
            fill_redirect(status, location, response);
            edit_late(current, request, response, record);
            record.answered(status, Reason::Redirect);
            return answer::send(sink, response, None).await.map_err(Failure::Client);
        }
        Err(Made::Direct(answer)) => {
            let body = responses::direct(answer, request, response, record.client);
            edit_late(current, request, response, record);
            record.answered(response.status, Reason::Maintenance);
            return answer::send(sink, response, body).await.map_err(Failure::Client);
        }
    };
    let buffer_limit = found.place.listener.client.buffer_limit;
    source.limit_buffer(buffer_limit);
    let rule = found.rule;
    let waits = Waits::of(rule, found.place.listener);
    if waits.is_some() {
        waits.settle(arrival, source, sink);
    }
    let policies = Policies::of(rule, found.place.listener);
    let cors = cors_of(rule, policies);
    if let Some(cors) = cors
        && filters::cors::answer_preflight(cors, request, response)
    {
        record.answered(response.status, Reason::CorsPreflight);
        return answer::send(sink, response, None).await.map_err(Failure::Client);
    }
    // The origin is needed for the response, after edits that may remove it.
    let origin = origin_of(rule, cors, request);
    let late = Late::of(found.place.listener, found.sender.https, record.announces_http3);
    let mut passed = None;
    let mut shaping = None;
    let mut gathered = None;
    if !policies.is_none() {
        shaping = policies.responses().map(|policy| {
            let port = found.place.listener.port;
            Box::new(Shaping::begin(policy, request, found.sender.client, port, &worker.metrics.compression))
        });
        let mut body = None;
        if let Some(most) = policies.gathers() {
            let mut pace = Pace::new(&worker.clock, &current.generation.limits, !rule.grpc);
            // Boxed for the same reason as below.
            match Box::pin(Gathered::read(source, most, &mut pace)).await {
                Ok(whole) => {
                    body = Some(whole.bytes());
                    gathered = Some(whole);
                }
                Err(GatherError::Client(error)) => return Err(Failure::Client(error)),
                Err(GatherError::TooLong) => {
                    sink.close();
                    let answer = Answer::new(413, Reason::TooLarge);
                    return refuse(worker, current, answer, request, response, sink, record).await;
                }
            }
        }
        let listener = found.place.listener;
        let gate = Gate { worker, current, arrival, sender: found.sender, listener, rule, policies, body };
        // Boxed: it is rare, and would make every connection's task larger.
        match Box::pin(gate::pass(&gate, request, response)).await {
            Ok(of_gate) => passed = Some(of_gate),
            Err(Stopped { reason, body }) => {
                let (origin, shaping) = (origin.as_deref(), shaping.as_deref());
                let dues = Dues { rule, cors, origin, owed: None, late, shaping };
                let body = dues.settle_local(request, response, body, reason);
                record.answered(response.status, reason);
                return answer::send(sink, response, body).await.map_err(Failure::Client);
            }
        }
    }
    let dues = Dues {
        rule,
        cors,
        origin: origin.as_deref(),
        owed: passed.as_ref().map(|passed| &passed.fields),
        late,
        shaping: shaping.as_deref(),
    };
    if let Some(fault) = dues.shaping.and_then(|shaping| shaping.policy().fault.as_ref()) {
        let is_grpc = rule.grpc || request.is_grpc();
        let injected = Box::pin(responses::inject(fault, worker, is_grpc, sink)).await;
        if let Some(answer) = injected.map_err(Failure::Client)? {
            return dues.answer(answer, request, response, sink, record).await;
        }
    }
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
        Action::Respond(answer) if rule.grpc || request.is_grpc() => {
            let status = answer.status.unwrap_or(200);
            Err(Made::Answer(Answer::new(status, Reason::DirectResponse)))
        }
        Action::Respond(answer) => Err(Made::Direct(answer)),
        Action::Forward(backends) => choose::backend(worker, current, &found, backends, request),
    };
    let protected = passed.as_ref().and_then(|passed| passed.protected.as_deref());
    match action {
        Ok(chosen) => {
            record.backend = backends_of(rule).iter().position(|backend| std::ptr::eq(backend, chosen.backend));
            let forward = Forward {
                worker,
                current,
                rule,
                chosen: &chosen,
                sender: found.sender,
                is_grpc: rule.grpc || request.is_grpc(),
                client: arrival.origin(),
                alike: Alike::of(worker, rule, chosen.backend, request, found.sender.client),
                dues,
                protected,
                buffer_limit,
                waits,
            };
            let answered = forward.run(&found.matched, request, response, (source, gathered), sink, record).await;
            if let Some(protected) = protected {
                let status = answered.as_ref().map_or(0, |answer| {
                    let sent = record.endpoint_status.unwrap_or(record.status);
                    answer.map_or(sent, |answer| answer.status)
                });
                protected.settle(worker.ledger(), status, record.grpc_status);
            }
            match answered? {
                None => Ok(()),
                Some(answer) => dues.answer(answer, request, response, sink, record).await,
            }
        }
        Err(Made::Redirect { status, location }) => {
            fill_redirect(status, location, response);
            dues.settle(response);
            record.answered(status, Reason::Redirect);
            answer::send(sink, response, None).await.map_err(Failure::Client)
        }
        Err(Made::Answer(answer)) => dues.answer(answer, request, response, sink, record).await,
        Err(Made::Direct(answer)) => {
            let body = responses::direct(answer, request, response, found.sender.client);
            let body = dues.settle_and_code(request, response, body);
            record.answered(response.status, Reason::DirectResponse);
            answer::send(sink, response, body).await.map_err(Failure::Client)
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
    worker: &Worker,
    current: &'g Current,
    arrival: &Arrival,
    request: &mut RequestHead,
    record: &mut Record,
) -> Result<Found<'g>, Made<'g>> {
    let place = route::listener(current, arrival, request).map_err(Made::Answer)?;
    record.listener = Some(place.id);
    let client = &place.listener.client;
    record.announces_http3 =
        client.http3 && arrival.secure && arrival.proxied.is_none() && worker.serves_http3(arrival.local);
    arrival.patience.set(Some(Patience::of(client)));
    let sender = filters::forwarded::apply(request, arrival.peer.ip(), Trust::of(client, arrival))
        .map_err(|Unnamed| Made::Answer(Answer::new(403, Reason::ClientUnnamed)))?;
    record.client = sender.client;
    if let Some(rules) = &client.rules {
        filters::client::apply(rules, &worker.random, request).map_err(|instead| match instead {
            Instead::Malformed(why) => Made::Answer(Answer::new(400, Reason::BadRequest(why))),
            // Who watches us from outside sends the next clients elsewhere.
            Instead::Healthy if worker.is_draining() => Made::Answer(Answer::new(503, Reason::HealthCheck)),
            Instead::Healthy => Made::Answer(Answer::new(200, Reason::HealthCheck)),
        })?;
    }
    if let Some(maintenance) = &current.generation.maintenance
        && let Some(answer) = maintenance.answer(request.host(), sender.client)
    {
        // To a call the same is said in its own terms.
        return Err(match request.is_grpc() {
            true => Made::Answer(Answer::new(503, Reason::Maintenance)),
            false => Made::Direct(answer),
        });
    }
    if let Some(headers) = &client.headers {
        filters::headers::apply_all(&headers.early, &mut request.fields);
    }
    if !request.path_marks.is_plain() {
        settle_path(place.listener.client.path, sender, request)?;
    }
    let (rule, matched) = route::rule(current.snapshot(), place, request).map_err(Made::Answer)?;
    record.rule = Some(matched.rule);
    if let Some(trace) = &mut record.trace {
        match matched.by_path {
            ByPath::Exact => trace.route(request.path, request.path.len()),
            ByPath::Prefix => trace.route(request.path, matched.prefix),
            ByPath::Pattern => {}
        }
    }
    Ok(Found { place, sender, rule, matched })
}

/// Makes the path the one that is matched and forwarded, or sends the client there.
fn settle_path(policy: PathPolicy, sender: Sender, request: &mut RequestHead) -> Result<(), Made<'static>> {
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
enum Made<'g> {
    Redirect { status: u16, location: String },
    Answer(Answer),
    Direct(&'g FixedAnswer),
}

fn backends_of(rule: &Rule) -> &[Backend] {
    match &rule.action {
        Action::Forward(backends) => backends,
        _ => &[],
    }
}

/// What is said of CORS: by a filter of the rule, or else by a policy.
fn cors_of<'g>(rule: &'g Rule, policies: Policies<'g>) -> Option<&'g Cors> {
    rule.filters.cors.as_ref().or_else(|| policies.security()?.cors.as_ref())
}

fn origin_of(rule: &Rule, cors: Option<&Cors>, request: &RequestHead) -> Option<Box<[u8]>> {
    let wanted = cors.is_some() || backends_of(rule).iter().any(|backend| backend.filters.cors.is_some());
    if wanted { request.fields.first(b"origin").map(Box::from) } else { None }
}

/// An answer to what no rule takes; the policy of the listener may have another one.
async fn refuse<K: Sink>(
    worker: &Worker,
    current: &Current,
    answer: Answer,
    request: &mut RequestHead,
    response: &mut ResponseHead,
    sink: &mut K,
    record: &mut Record,
) -> Result<(), Failure> {
    let mut body = answer.fill(request.is_grpc(), response);
    let listener = record.listener.and_then(|id| current.snapshot().listeners.get(id.index()));
    let policy = listener.and_then(|listener| Some((listener.policy.as_deref()?.responses.as_deref()?, listener.port)));
    if let Some((policy, port)) = policy {
        let shaping = Shaping::begin(policy, request, record.client, port, &worker.metrics.compression);
        body = shaping.local(request, response, body, answer.reason);
        body = shaping.whole(request, response, body);
    }
    edit_late(current, request, response, record);
    record.answered(response.status, answer.reason);
    answer::send(sink, response, body).await.map_err(Failure::Client)
}
