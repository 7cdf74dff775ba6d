//! Tries: an endpoint, a connection, the relay; again where the rule or plain safety allows it.
//!
//! A request is sent again only when all that was read of its body is still here and no byte of a response went to the
//! client. Without a retry policy that happens in two cases: nothing was sent because no connection could be made, or a
//! reused connection turned out to be closed and the method is idempotent (RFC 9110 §9.2.2).

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edge_config::matching::Matched;
use edge_config::snapshot::{Retry, Rule, UpstreamProtocol};

use super::alike::Alike;
use super::answer::Answer;
use super::choose::Chosen;
use super::dues::Dues;
use super::gathered::Gathered;
use super::mirror::Copies;
use super::pace::Pace;
use super::record::{Record, unix_seconds};
use super::relay::{Failure, Relayed, Try};
use super::replay::Body;
use super::waits::Waits;
use super::watched::Watched;
use crate::proxy::body::{Sink, Source, StreamError};
use crate::proxy::clock::Elapsed;
use crate::proxy::filters;
use crate::proxy::filters::forwarded::Sender;
use crate::proxy::filters::session::{Pin, Recipient, backend_tag};
use crate::proxy::h2::client::BeginError;
use crate::proxy::l4::Quiet;
use crate::proxy::message::{RequestHead, ResponseHead};
use crate::proxy::protection::Protected;
use crate::proxy::proxy_protocol::Origin;
use crate::proxy::reason::Reason;
use crate::proxy::responses::Shaping;
use crate::proxy::upstream::circuit::{Circuit, Full, Held};
use crate::proxy::upstream::endpoint::Endpoint;
use crate::proxy::upstream::{DialError, Lease, NoEndpoint, Upstream};
use crate::proxy::worker::{Current, Worker};

/// Endpoints tried for one request when connecting fails and the rule says nothing of retries.
const CONNECT_TRIES: u32 = 3;

pub struct Forward<'a, 'g> {
    pub worker: &'a Rc<Worker>,
    pub current: &'a Rc<Current>,
    pub rule: &'g Rule,
    pub chosen: &'a Chosen<'g>,
    pub sender: Sender,
    /// A call of gRPC: nobody says how long its messages are apart.
    pub is_grpc: bool,
    /// The client's connection.
    pub client: Origin,
    pub alike: Alike,
    pub dues: Dues<'a>,
    /// What is still to be done to protect the backend.
    pub protected: Option<&'a Protected>,
    /// Of the listener.
    pub buffer_limit: Option<u64>,
    pub waits: Waits<'g>,
}

/// What one try came to.
enum Outcome {
    Done,
    /// An answer of ours, and whether another try may do better.
    Failed {
        answer: Answer,
        again: Again,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    No,
    /// At another endpoint if there is one: nothing was sent.
    Elsewhere,
    /// At any endpoint, this one included: it did not act on the request, and another connection may be in order.
    Anywhere,
    /// At the same endpoint on a fresh connection: the reused one was closed.
    Fresh,
    /// As the retry policy says.
    ByPolicy,
}

impl Forward<'_, '_> {
    /// Forwards a request. `Some` is what to answer instead of a response, of which the client has seen nothing yet.
    pub async fn run<S: Source, K: Sink>(
        &self,
        matched: &Matched,
        request: &mut RequestHead,
        response: &mut ResponseHead,
        (source, gathered): (&mut S, Option<Gathered>),
        sink: &mut K,
        record: &mut Record,
    ) -> Result<Option<Answer>, Failure> {
        let Some(upstream) = self.current.upstream(self.chosen.upstream) else {
            return Ok(Some(Answer::new(500, Reason::Internal)));
        };
        record.upstream = Some(self.chosen.upstream);
        if let Some(trace) = &mut record.trace {
            trace.tell(request);
        }
        let mirrors = [&self.rule.filters.mirrors, &self.chosen.backend.filters.mirrors];
        let mirrors = mirrors.into_iter().map(Vec::as_slice);
        let copies = Copies::start(self.worker, self.current, mirrors, request, self.client);
        let (begun, switched, replayable) = (Cell::new(false), Cell::new(false), Cell::new(true));
        let paced = !self.is_grpc && !self.rule.timeouts.streams;
        let pace = Pace::new(&self.worker.clock, &self.current.generation.limits, paced);
        let keep = self.rule.retry.is_some();
        let mut body = Body::new(source, keep, copies, pace, &replayable).after(gathered).within(self.protected);
        let mut sink = Watched { sink, begun: &begun, switched: &switched };
        let deadline = self.rule.timeouts.request.map(|limit| record.begun() + limit);
        // Counted as long as this lives, where the upstream limits requests.
        let _running = match upstream.circuit.as_ref().map(Circuit::enter) {
            Some(Err(Full)) => return Ok(Some(Answer::new(503, Reason::Overloaded))),
            Some(Ok(held)) => held,
            None => None,
        };
        let result = {
            let mut tries = pin!(self.tries(upstream, matched, request, response, &mut body, &mut sink, record));
            match deadline {
                None => tries.await,
                Some(deadline) => {
                    let timer = self.worker.clock.timer();
                    timer.set_at(deadline);
                    match timer.limit(tries.as_mut()).await {
                        Ok(result) => result,
                        // What the timeout is about, the answer, was there in time.
                        Err(Elapsed) if switched.get() => tries.await,
                        Err(Elapsed) if begun.get() => Err(Failure::Truncated(Reason::RequestTimeout)),
                        Err(Elapsed) => Ok(Some(Answer::new(504, Reason::RequestTimeout))),
                    }
                }
            }
        };
        record.bytes_in = body.received;
        result
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one exchange, borrowed apart")]
    async fn tries<S: Source, K: Sink>(
        &self,
        upstream: &Rc<Upstream>,
        matched: &Matched,
        request: &mut RequestHead,
        response: &mut ResponseHead,
        body: &mut Body<'_, S>,
        sink: &mut Watched<'_, K>,
        record: &mut Record,
    ) -> Result<Option<Answer>, Failure> {
        if let Some(most) = self.protected.and_then(|protected| protected.buffer) {
            match Box::pin(body.gather(most)).await {
                Ok(()) => {}
                Err(error) => return Ok(Some(of_client(&error).ok_or(Failure::Client(error))?)),
            }
        }
        let mut retries = self.rule.retry.as_ref().map_or(0, |retry| retry.attempts);
        let mut refreshed = false;
        let mut fresh = false;
        let mut avoid = None;
        // The answer of the last try, when only another endpoint may do better.
        let mut elsewhere = None;
        let mut endpoint = self.chosen.pin.and_then(|pin| upstream.pinned(pin.endpoint));
        let mut retried = 0;
        // Of a retry, for as long as it takes.
        let mut _retrying = None;
        loop {
            let (target, _held) = match (&upstream.circuit, endpoint.take()) {
                (Some(circuit), pinned)
                    if upstream.protocol == UpstreamProtocol::Http1 && circuit.counts_connections() =>
                {
                    // Boxed: it is rare, and would make every connection's task larger.
                    match Box::pin(self.room(upstream, circuit, pinned, avoid)).await {
                        Ok((target, held)) => (target, Some(held)),
                        Err(answer) => return Ok(Some(answer)),
                    }
                }
                (_, Some(target)) => (target, None),
                (_, None) => match self.pick(upstream, avoid) {
                    Ok(target) => (target, None),
                    Err(_) => return Ok(Some(Answer::new(503, Reason::NoReadyEndpoint))),
                },
            };
            if let Some(answer) = elsewhere.take().filter(|_| avoid == Some(target.address)) {
                return Ok(Some(answer));
            }
            record.tries += 1;
            record.endpoint = Some(target.address);
            if let Some(trace) = record.trace.as_mut().filter(|trace| trace.is_sampled()) {
                let to = (upstream.protocol, upstream.tls.is_some());
                trace.begin_try(&mut self.worker.spans.borrow_mut(), request, target.address, to);
            }
            let last = Attempt { target: &target, fresh, may_retry: retries > 0 };
            let outcome = self.attempt(last, upstream, matched, request, response, body, sink, record).await?;
            record.end_try(match &outcome {
                Outcome::Done => None,
                Outcome::Failed { answer, .. } => Some(answer.reason),
            });
            let (answer, again) = match outcome {
                Outcome::Done => return Ok(None),
                Outcome::Failed { answer, again } => (answer, again),
            };
            let replayable = body.replayable().get();
            match again {
                Again::Fresh if !refreshed && replayable && request.is_idempotent() => {
                    refreshed = true;
                    fresh = true;
                    endpoint = Some(target);
                }
                Again::Anywhere if record.tries < CONNECT_TRIES && replayable => avoid = Some(target.address),
                Again::Elsewhere if record.tries < CONNECT_TRIES && replayable && retries == 0 => {
                    avoid = Some(target.address);
                    elsewhere = Some(answer);
                }
                Again::No => return Ok(Some(answer)),
                _ if retries > 0 && replayable => {
                    // The one before is over.
                    drop(_retrying.take());
                    _retrying = match upstream.circuit.as_ref().map(Circuit::retry) {
                        Some(Err(Full)) => return Ok(Some(answer)),
                        Some(Ok(held)) => held,
                        None => None,
                    };
                    retries -= 1;
                    avoid = Some(target.address);
                    fresh = false;
                    if let Some(pause) = self.rule.retry.as_ref().map(|retry| self.pause(retry, retried))
                        && !pause.is_zero()
                    {
                        // Nobody's place is kept meanwhile.
                        drop(_held);
                        tokio::time::sleep(pause).await;
                    }
                    retried += 1;
                }
                _ => return Ok(Some(answer)),
            }
            body.rewind();
        }
    }

    fn pick(&self, upstream: &Upstream, avoid: Option<SocketAddr>) -> Result<Rc<Endpoint>, NoEndpoint> {
        let balance = self.chosen.backend.balance.as_ref().unwrap_or(&self.rule.balance);
        upstream.pick_alike(balance, self.alike.hash(), &self.worker.random, avoid)
    }

    /// An endpoint that may have one more connection, waited for up to the connect timeout.
    async fn room(
        &self,
        upstream: &Upstream,
        circuit: &Arc<Circuit>,
        mut pinned: Option<Rc<Endpoint>>,
        avoid: Option<SocketAddr>,
    ) -> Result<(Rc<Endpoint>, Held), Answer> {
        let overloaded = || Answer::new(503, Reason::Overloaded);
        let mut place = None;
        let usual = self.current.generation.limits.connect_timeout;
        let end = Instant::now() + upstream.connect_timeout(self.waits.connect().unwrap_or(usual));
        loop {
            let mut freed = pin!(circuit.freed());
            // Before the look, so that nothing is missed between it and the wait.
            freed.as_mut().enable();
            // A client that belongs to an endpoint waits for that one.
            let found = match &pinned {
                Some(endpoint) => Ok(Rc::clone(endpoint)),
                None => self.pick(upstream, avoid),
            };
            match found {
                Ok(endpoint) => match endpoint.vitals().map(|vitals| circuit.connect(vitals)) {
                    Some(Ok(held)) => return Ok((endpoint, held)),
                    Some(Err(Full)) => {}
                    // It has no part in this upstream any more.
                    None if pinned.take().is_some() => continue,
                    None => return Err(Answer::new(503, Reason::NoReadyEndpoint)),
                },
                Err(NoEndpoint::Healthy) => return Err(Answer::new(503, Reason::NoReadyEndpoint)),
                Err(NoEndpoint::Room) => {}
            }
            if place.is_none() {
                place = Some(circuit.queue().map_err(|Full| overloaded())?);
                // Who has just left may not have seen that somebody waits.
                continue;
            }
            let timer = self.worker.clock.timer();
            let left = end.saturating_duration_since(Instant::now());
            if timer.within(left, freed).await.is_err() {
                return Err(overloaded());
            }
        }
    }

    /// Before the next try.
    fn pause(&self, retry: &Retry, retried: u32) -> Duration {
        let Some(longest) = retry.longest_backoff else { return retry.backoff };
        let most = retry.backoff.saturating_mul(1 << retried.min(16)).min(longest);
        Duration::from_micros(self.worker.random.below(u64::try_from(most.as_micros()).unwrap_or(u64::MAX)))
    }

    /// Where the endpoint failed to answer: whether that is a reason to try again.
    fn broken(&self) -> Again {
        if self.rule.retry.as_ref().is_none_or(|retry| retry.resets) { Again::ByPolicy } else { Again::No }
    }

    /// One try under `backendRequest`.
    #[expect(clippy::too_many_arguments, reason = "the parts of one exchange, borrowed apart")]
    async fn attempt<S: Source, K: Sink>(
        &self,
        last: Attempt<'_>,
        upstream: &Rc<Upstream>,
        matched: &Matched,
        request: &RequestHead,
        response: &mut ResponseHead,
        body: &mut Body<'_, S>,
        sink: &mut Watched<'_, K>,
        record: &mut Record,
    ) -> Result<Outcome, Failure> {
        let (begun, switched) = (sink.begun, sink.switched);
        let mut once = pin!(self.once(last, upstream, matched, request, response, body, sink, record));
        match self.rule.timeouts.backend_request {
            None => once.await,
            Some(limit) => match self.worker.clock.timer().within(limit, once.as_mut()).await {
                Ok(result) => result,
                Err(Elapsed) if switched.get() => once.await,
                Err(Elapsed) if begun.get() => Err(Failure::Truncated(Reason::BackendTimeout)),
                Err(Elapsed) => {
                    upstream.failed(last.target);
                    Ok(Outcome::Failed { answer: Answer::new(504, Reason::BackendTimeout), again: self.broken() })
                }
            },
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one exchange, borrowed apart")]
    async fn once<S: Source, K: Sink>(
        &self,
        last: Attempt<'_>,
        upstream: &Rc<Upstream>,
        matched: &Matched,
        request: &RequestHead,
        response: &mut ResponseHead,
        body: &mut Body<'_, S>,
        sink: &mut Watched<'_, K>,
        record: &mut Record,
    ) -> Result<Outcome, Failure> {
        let failed = |status, reason, again| Ok(Outcome::Failed { answer: Answer::new(status, reason), again });
        let mut dialer = self.worker.dialer(self.current, Some(self.client));
        dialer.connect_timeout = self.waits.connect();
        let mut lease = match Lease::new(upstream, Rc::clone(last.target), last.fresh, dialer).await {
            Ok(lease) => lease,
            Err(DialError::Unusable(_)) => return failed(500, Reason::InvalidBackend, Again::No),
            Err(DialError::Tls(_)) => return failed(502, Reason::BackendTls, Again::Elsewhere),
            Err(DialError::Elapsed | DialError::Connect(_)) => {
                return failed(503, Reason::ConnectFailed, Again::Elsewhere);
            }
        };
        let reused = lease.reused;
        // With a connection at hand nothing was waited for since the request was complete.
        let start = if reused && record.tries == 1 { record.begun() } else { Instant::now() };
        record.sent = Some(start);
        let latency = Cell::new(None);
        let secure = self.sender.https;
        let decorate = |head: &mut ResponseHead| {
            latency.set(Some(start.elapsed()));
            if let Some(shaping) = self.dues.shaping {
                shaping.of_endpoint(request, head);
            }
            self.decorate(head, last.target.address, matched, request, secure);
        };
        // A response that cannot be tried again is the client's, however bad.
        let replayable = body.replayable();
        let is_retried = |head: &ResponseHead| {
            last.may_retry
                && replayable.get()
                && self.rule.retry.as_ref().is_some_and(|retry| {
                    retry.codes.contains(&head.status)
                        || !retry.grpc_codes.is_empty()
                            && head.fields.grpc_status().is_some_and(|code| retry.grpc_codes.contains(&code))
                })
        };
        let limits = &self.current.generation.limits;
        let listener = record.listener.and_then(|id| self.current.series.listener(id));
        let upgraded = Cell::new(false);
        let tunnel_timer = || {
            upgraded.set(true);
            if let Some(listener) = listener {
                listener.tunnels_opened.one();
            }
            let quiet = Quiet { open: limits.tunnel_idle_timeout, half_closed: limits.stream_idle_timeout };
            (self.worker.clock.timer(), quiet)
        };
        let attempt = Try {
            request,
            is_retried: &is_retried,
            decorate: &decorate,
            tunnel_timer: &tunnel_timer,
            buffer_limit: self.buffer_limit,
            shaping: self.dues.shaping,
            waits: self.waits,
            pace: &|| Pace::new(&self.worker.clock, limits, !self.is_grpc),
            protected: self.protected,
        };
        let result = match lease.call(request) {
            Some(Ok(call)) => {
                let (up, down) = call.halves();
                attempt.run(up, down, body, response, sink).await
            }
            Some(Err(BeginError::Closed)) => return failed(503, Reason::ConnectFailed, Again::Anywhere),
            Some(Err(BeginError::Unwritable(_))) => return failed(500, Reason::Internal, Again::No),
            None => {
                let Some(connection) = lease.connection() else {
                    return failed(500, Reason::Internal, Again::No);
                };
                connection.begin(request);
                let (up, down) = connection.halves(request.is_head());
                attempt.run(up, down, body, response, sink).await
            }
        };
        record.latency = latency.get();
        record.upgraded = upgraded.get();
        if upstream.circuit.is_some() {
            match &result {
                Ok(_) => {
                    let status = self.dues.shaping.map_or(response.status, Shaping::endpoint_status);
                    upstream.answered(last.target, status);
                }
                Err(Failure::Code) => upstream.answered(last.target, response.status),
                // A reused connection that was closed says nothing of the endpoint.
                Err(Failure::Unanswered(_)) if reused => {}
                Err(Failure::Unanswered(_) | Failure::Endpoint(_)) => {
                    upstream.failed(last.target);
                }
                Err(Failure::Client(_) | Failure::Truncated(_)) => {}
            }
        }
        match result {
            Ok(Relayed { sent, bytes, grpc_status }) => {
                if self.is_grpc {
                    record.grpc_status = grpc_status.or_else(|| response.fields.grpc_status());
                }
                record.status = response.status;
                record.endpoint_status = Some(self.dues.shaping.map_or(response.status, Shaping::endpoint_status));
                if self.dues.shaping.is_some_and(Shaping::is_replaced) {
                    record.reason = Some(Reason::ResponseOverride);
                }
                record.bytes_out = bytes;
                if let Some(status) = record.endpoint_status {
                    record.answered_try(status);
                }
                lease.finish(sent);
                Ok(Outcome::Done)
            }
            // RFC 9113 §8.7: safe to send again whatever the method.
            Err(Failure::Unanswered(reason)) if !lease.was_processed() => failed(502, reason, Again::Anywhere),
            Err(Failure::Unanswered(reason)) if reused => failed(502, reason, Again::Fresh),
            Err(Failure::Unanswered(reason)) => failed(502, reason, self.broken()),
            Err(Failure::Endpoint(Reason::BackendTimeout)) => failed(504, Reason::BackendTimeout, self.broken()),
            Err(Failure::Endpoint(reason)) => failed(502, reason, Again::No),
            Err(Failure::Code) => {
                record.answered_try(response.status);
                failed(response.status, Reason::BackendClosed, Again::ByPolicy)
            }
            Err(failure) => {
                if let Failure::Client(error) = &failure
                    && let Some(answer) = of_client(error).filter(|_| !sink.begun.get())
                {
                    return Ok(Outcome::Failed { answer, again: Again::No });
                }
                if sink.begun.get() {
                    record.status = response.status;
                    let status = self.dues.shaping.map_or(response.status, Shaping::endpoint_status);
                    record.endpoint_status = Some(status);
                    record.answered_try(status);
                }
                Err(failure)
            }
        }
    }

    /// The filters for responses, and the session's token.
    fn decorate(
        &self,
        response: &mut ResponseHead,
        endpoint: SocketAddr,
        matched: &Matched,
        request: &RequestHead,
        secure: bool,
    ) {
        let backend = self.chosen.backend;
        if !backend.filters.response_headers.is_empty() {
            filters::headers::apply(&backend.filters.response_headers, &mut response.fields);
        }
        if let Some(cors) = &backend.filters.cors {
            filters::cors::decorate(cors, self.dues.origin, &mut response.fields);
        }
        self.dues.edit(response);
        self.alike.seat(backend.balance.as_ref().unwrap_or(&self.rule.balance), response);
        if let Some(session) = &self.rule.session
            && self.chosen.pin.is_none_or(|pin| pin.endpoint != endpoint)
        {
            let pin = Pin { endpoint, backend: backend_tag(&backend.reference), issued: unix_seconds() };
            let path = request.fields.str(self.chosen.path).get(..matched.prefix).unwrap_or("/");
            let to = Recipient { rule: self.rule, session, path, secure };
            self.worker.tokens.issue(&pin, to, &mut response.fields);
        }
        self.dues.end(response);
    }
}

/// What a client that can still be told is told of its own fault.
fn of_client(error: &StreamError) -> Option<Answer> {
    Some(match error {
        StreamError::Malformed(what) => Answer::new(400, Reason::BadRequest(what)),
        StreamError::Stalled => Answer::new(408, Reason::StreamStalled),
        StreamError::TooSlow => Answer::new(408, Reason::TooSlow),
        StreamError::TooLarge => Answer::new(413, Reason::TooLarge),
        StreamError::Closed | StreamError::Io(_) => return None,
    })
}

/// One try of several.
#[derive(Clone, Copy)]
struct Attempt<'a> {
    target: &'a Rc<Endpoint>,
    /// Not on an idle connection.
    fresh: bool,
    may_retry: bool,
}
