//! Tries: an endpoint, a connection, the relay; again where the rule or plain safety allows it.
//!
//! A request is sent again only when all that was read of its body is still here and no byte of a response went to the
//! client. Without a retry policy that happens in two cases: nothing was sent because no connection could be made, or a
//! reused connection turned out to be closed and the method is idempotent (RFC 9110 §9.2.2).

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use edge_config::matching::Matched;
use edge_config::snapshot::Rule;

use super::Chosen;
use super::answer::Answer;
use super::mirror::Copies;
use super::pace::Pace;
use super::record::{Record, unix_seconds};
use super::relay::{Failure, Relayed, Try};
use super::replay::Body;
use crate::proxy::body::{Leaving, Sink, Source, StreamError};
use crate::proxy::clock::Elapsed;
use crate::proxy::filters;
use crate::proxy::filters::forwarded::Sender;
use crate::proxy::filters::session::{Pin, Recipient, backend_tag};
use crate::proxy::h2::client::BeginError;
use crate::proxy::l4::Quiet;
use crate::proxy::message::{RequestHead, ResponseHead};
use crate::proxy::proxy_protocol::Origin;
use crate::proxy::reason::Reason;
use crate::proxy::upstream::endpoint::Endpoint;
use crate::proxy::upstream::{DialError, Lease, Upstream};
use crate::proxy::worker::{Current, Worker};

/// Endpoints tried for one request when connecting fails and the rule says nothing of retries.
const CONNECT_TRIES: u32 = 3;

pub struct Forward<'a, 'g> {
    pub worker: &'a Rc<Worker>,
    pub current: &'a Rc<Current>,
    pub rule: &'g Rule,
    pub chosen: &'a Chosen<'g>,
    pub sender: Sender,
    /// The client's connection.
    pub client: Origin,
    pub origin: Option<&'a [u8]>,
    /// Of the listener.
    pub buffer_limit: Option<u64>,
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
        request: &RequestHead,
        response: &mut ResponseHead,
        source: &mut S,
        sink: &mut K,
        record: &mut Record,
    ) -> Result<Option<Answer>, Failure> {
        let Some(upstream) = self.current.upstream(self.chosen.upstream) else {
            return Ok(Some(Answer::new(500, Reason::Internal)));
        };
        record.upstream = Some(self.chosen.upstream);
        let mirrors = [&self.rule.filters.mirrors, &self.chosen.backend.filters.mirrors];
        let mirrors = mirrors.into_iter().map(Vec::as_slice);
        let copies = Copies::start(self.worker, self.current, mirrors, request, self.client);
        let (begun, switched, replayable) = (Cell::new(false), Cell::new(false), Cell::new(true));
        let paced = !self.rule.grpc && !self.rule.timeouts.streams && !request.is_grpc();
        let pace = Pace::new(&self.worker.clock, &self.current.generation.limits, paced);
        let mut body = Body::new(source, self.rule.retry.is_some(), copies, pace, &replayable);
        let mut sink = Watched { sink, begun: &begun, switched: &switched };
        let deadline = self.rule.timeouts.request.map(|limit| record.begun() + limit);
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
        request: &RequestHead,
        response: &mut ResponseHead,
        body: &mut Body<'_, S>,
        sink: &mut Watched<'_, K>,
        record: &mut Record,
    ) -> Result<Option<Answer>, Failure> {
        let mut retries = self.rule.retry.as_ref().map_or(0, |retry| retry.attempts);
        let mut refreshed = false;
        let mut fresh = false;
        let mut avoid = None;
        // The answer of the last try, when only another endpoint may do better.
        let mut elsewhere = None;
        let mut endpoint = self.chosen.pin.and_then(|pin| upstream.endpoint_at(pin.endpoint));
        loop {
            let Some(target) = endpoint.take().or_else(|| upstream.pick(self.rule.balance, &self.worker.random, avoid))
            else {
                return Ok(Some(Answer::new(503, Reason::NoReadyEndpoint)));
            };
            if let Some(answer) = elsewhere.take().filter(|_| avoid == Some(target.address)) {
                return Ok(Some(answer));
            }
            record.tries += 1;
            record.endpoint = Some(target.address);
            let last = Attempt { target: &target, fresh, may_retry: retries > 0 };
            let (answer, again) =
                match self.attempt(last, upstream, matched, request, response, body, sink, record).await? {
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
                    retries -= 1;
                    avoid = Some(target.address);
                    fresh = false;
                    if let Some(retry) = self.rule.retry.as_ref().filter(|retry| !retry.backoff.is_zero()) {
                        tokio::time::sleep(retry.backoff).await;
                    }
                }
                _ => return Ok(Some(answer)),
            }
            body.rewind();
        }
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
                    Ok(Outcome::Failed { answer: Answer::new(504, Reason::BackendTimeout), again: Again::ByPolicy })
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
        let dialer = self.worker.dialer(self.current, Some(self.client));
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
        let latency = Cell::new(None);
        let secure = self.sender.https;
        let decorate = |head: &mut ResponseHead| {
            latency.set(Some(start.elapsed()));
            self.decorate(head, last.target.address, matched, request, secure);
        };
        // A response that cannot be tried again is the client's, however bad.
        let replayable = body.replayable();
        let is_retried = |status: u16| {
            last.may_retry
                && replayable.get()
                && self.rule.retry.as_ref().is_some_and(|retry| retry.codes.contains(&status))
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
            pace: &|| Pace::new(&self.worker.clock, limits, !self.rule.grpc && !request.is_grpc()),
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
        match result {
            Ok(Relayed { sent, bytes }) => {
                record.status = response.status;
                record.from_endpoint = true;
                record.bytes_out = bytes;
                lease.finish(sent);
                Ok(Outcome::Done)
            }
            // RFC 9113 §8.7: safe to send again whatever the method.
            Err(Failure::Unanswered(reason)) if !lease.was_processed() => failed(502, reason, Again::Anywhere),
            Err(Failure::Unanswered(reason)) if reused => failed(502, reason, Again::Fresh),
            Err(Failure::Unanswered(reason)) => failed(502, reason, Again::ByPolicy),
            Err(Failure::Endpoint(Reason::BackendTimeout)) => failed(504, Reason::BackendTimeout, Again::ByPolicy),
            Err(Failure::Endpoint(reason)) => failed(502, reason, Again::No),
            Err(Failure::Code) => failed(response.status, Reason::BackendClosed, Again::ByPolicy),
            Err(Failure::Client(StreamError::Malformed(what))) if !sink.begun.get() => {
                failed(400, Reason::BadRequest(what), Again::No)
            }
            Err(Failure::Client(StreamError::Stalled)) if !sink.begun.get() => {
                failed(408, Reason::StreamStalled, Again::No)
            }
            Err(Failure::Client(StreamError::TooSlow)) if !sink.begun.get() => failed(408, Reason::TooSlow, Again::No),
            Err(failure) => {
                if sink.begun.get() {
                    record.status = response.status;
                    record.from_endpoint = true;
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
        for filters in [&backend.filters, &self.rule.filters] {
            if !filters.response_headers.is_empty() {
                filters::headers::apply(&filters.response_headers, &mut response.fields);
            }
            if let Some(cors) = &filters.cors {
                filters::cors::decorate(cors, self.origin, &mut response.fields);
            }
        }
        if let Some(session) = &self.rule.session
            && self.chosen.pin.is_none_or(|pin| pin.endpoint != endpoint)
        {
            let pin = Pin { endpoint, backend: backend_tag(&backend.reference), issued: unix_seconds() };
            let path = request.fields.str(self.chosen.path).get(..matched.prefix).unwrap_or("/");
            let to = Recipient { rule: self.rule, session, path, secure };
            self.worker.tokens.issue(&pin, to, &mut response.fields);
        }
    }
}

/// One try of several.
#[derive(Clone, Copy)]
struct Attempt<'a> {
    target: &'a Rc<Endpoint>,
    /// Not on an idle connection.
    fresh: bool,
    may_retry: bool,
}

/// A sink that remembers whether the client has seen anything of a final response.
pub struct Watched<'a, K> {
    sink: &'a mut K,
    begun: &'a Cell<bool>,
    /// It was a 101: the connection is a tunnel now.
    switched: &'a Cell<bool>,
}

impl<K: Sink> Sink for Watched<'_, K> {
    async fn interim(&mut self, head: &ResponseHead) -> Result<(), StreamError> {
        // Given up in the middle, it leaves a client that can be told nothing more.
        self.begun.set(true);
        let sent = self.sink.interim(head).await;
        self.begun.set(false);
        sent
    }

    async fn head(&mut self, head: &ResponseHead) -> Result<(), StreamError> {
        self.begun.set(true);
        self.switched.set(head.status == 101);
        self.sink.head(head).await
    }

    fn poll_leaving(&mut self, cx: &mut Context<'_>) -> Poll<Leaving> {
        self.sink.poll_leaving(cx)
    }

    async fn gone(&mut self) {
        self.sink.gone().await;
    }

    fn close(&mut self) {
        self.sink.close();
    }

    async fn chunk(&mut self, chunk: crate::proxy::body::Chunk) -> Result<(), StreamError> {
        self.sink.chunk(chunk).await
    }

    async fn flush(&mut self) -> Result<(), StreamError> {
        self.sink.flush().await
    }

    async fn finish(&mut self, trailers: Option<&crate::proxy::message::Fields>) -> Result<(), StreamError> {
        self.sink.finish(trailers).await
    }
}
