//! One try at one endpoint: the request goes up while the response comes down, neither waiting for the other.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};

use super::pace::Pace;
use super::replay::Body;
use super::waits::Waits;
use crate::proxy::body::{Chunk, Leaving, Sink, Source, StreamError};
use crate::proxy::clock::Timer;
use crate::proxy::l4::Quiet;
use crate::proxy::message::{Fields, RequestHead, ResponseHead};
use crate::proxy::protection::{Protected, Throttle, pieces};
use crate::proxy::reason::Reason;
use crate::proxy::responses::{self, Shaping};
use crate::proxy::upstream::{Download, Upload};

/// Interim responses that an endpoint may send before the final one.
const MOST_INTERIM: u32 = 16;

/// How long the answer to a client that sends no more may take before it is found out whether it is still there.
const LEAVING: Duration = Duration::from_secs(1);

/// How a try failed.
#[derive(Debug)]
pub enum Failure {
    /// Nothing of a response was seen and the connection ended: a reused one may have been closed just then.
    Unanswered(Reason),
    /// No usable response came.
    Endpoint(Reason),
    /// A response came, with a status at which the rule tries again.
    Code,
    /// The client failed; there is nobody to answer.
    Client(StreamError),
    /// Part of a response was sent already.
    Truncated(Reason),
}

/// What a try is given.
pub struct Try<'a, D> {
    pub request: &'a RequestHead,
    /// Whether a response with this head is to be tried again.
    pub is_retried: &'a dyn Fn(&ResponseHead) -> bool,
    /// Edits the response head before the client gets it.
    pub decorate: &'a D,
    pub tunnel_timer: &'a dyn Fn() -> (Timer, Quiet),
    /// Bytes held at once per direction, where the listener limits them.
    pub buffer_limit: Option<u64>,
    /// What is said of answers.
    pub shaping: Option<&'a Shaping<'a>>,
    pub waits: Waits<'a>,
    /// How slowly the client may read.
    pub pace: &'a dyn Fn() -> Pace,
    pub protected: Option<&'a Protected>,
}

/// What a try achieved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relayed {
    /// The whole request was sent, so the connection is in order.
    pub sent: bool,
    /// Response body bytes.
    pub bytes: u64,
    /// How a call of gRPC ended, where its trailers say so.
    pub grpc_status: Option<u8>,
}

impl<D: Fn(&mut ResponseHead)> Try<'_, D> {
    pub async fn run<U: Upload, W: Download, S: Source, K: Sink>(
        &self,
        mut up: U,
        mut down: W,
        body: &mut Body<'_, S>,
        response: &mut ResponseHead,
        sink: &mut K,
    ) -> Result<Relayed, Failure> {
        down.limit_buffer(self.buffer_limit);
        if self.waits.is_some() {
            self.waits.read().into_iter().for_each(|idle| down.set_idle(idle));
            self.waits.send().into_iter().for_each(|idle| up.set_idle(idle));
        }
        if let Some(pulse) = body.source().pulse() {
            down.follow(pulse);
        }
        // What is here of the body leaves together with the head; most requests are complete after that.
        let mut sent = false;
        let mut refused = false;
        while body.is_ready() && !sent && !refused {
            match step(&mut up, body).await {
                Ok(ended) => sent = ended,
                Err(UploadError::Client(error)) => return Err(Failure::Client(error)),
                // The endpoint may have answered before it closed.
                Err(UploadError::Endpoint) => refused = true,
            }
        }
        if !sent && !refused {
            refused = up.flush().await.is_err();
        }
        let mut beside = if sent || refused { Beside::done(sent) } else { Beside::new() };
        {
            let mut upload = pin!(async {
                loop {
                    if step(&mut up, body).await? {
                        return Ok(());
                    }
                    if !body.is_ready() && up.flush().await.is_err() {
                        return Err(UploadError::Endpoint);
                    }
                }
            });
            beside.run(upload.as_mut(), pin!(self.final_head(&mut down, response, sink))).await??;
            if response.status != 101 {
                (self.decorate)(response);
                let Some(shaping) = self.shaping else {
                    let body = body_of(&mut down, response, sink, (self.pace)(), self.protected);
                    let (bytes, grpc_status) = beside.run(upload.as_mut(), pin!(body)).await??;
                    return Ok(Relayed { sent: beside.sent, bytes, grpc_status });
                };
                // Rare: its memory is not every connection's.
                let way = responses::Way { request: self.request, pace: (self.pace)(), protected: self.protected };
                let mut shaped = Box::pin(responses::relay(shaping, way, &mut down, response, sink));
                let (bytes, grpc_status, ended) = beside.run(upload.as_mut(), shaped.as_mut()).await??;
                return Ok(Relayed { sent: beside.sent && ended, bytes, grpc_status });
            }
        }
        // RFC 9110 §7.8: the protocol switched to must be the one that was asked for.
        if self.request.upgrade.is_none() || response.upgrade.is_none() || !self.is_switched(response) {
            return Err(Failure::Endpoint(Reason::BackendMalformed));
        }
        (self.decorate)(response);
        sink.head(response).await.map_err(Failure::Client)?;
        sink.flush().await.map_err(Failure::Client)?;
        let bytes = Box::pin(self.tunnel(&mut up, &mut down, body.source(), sink)).await?;
        Ok(Relayed { sent: false, bytes, grpc_status: None })
    }

    fn is_switched(&self, response: &ResponseHead) -> bool {
        let asked = self.request.upgrade.map(|span| self.request.fields.text(span));
        asked == response.upgrade.map(|span| response.fields.text(span))
    }

    /// Waits for the final head; interim ones go to the client as they come, except for 100, which is ours to send.
    async fn final_head<W: Download, K: Sink>(
        &self,
        down: &mut W,
        response: &mut ResponseHead,
        sink: &mut K,
    ) -> Result<(), Failure> {
        for count in 0..=MOST_INTERIM {
            let head = {
                let mut head = pin!(down.head(response));
                let waited = poll_fn(|cx| match head.as_mut().poll(cx) {
                    Poll::Ready(head) => Poll::Ready(Ok(head)),
                    Poll::Pending => sink.poll_leaving(cx).map(Err),
                });
                match waited.await {
                    Ok(head) => head,
                    Err(Leaving::Gone) => return Err(Failure::Client(StreamError::Closed)),
                    // Rare: its memory is not every connection's.
                    Err(Leaving::Perhaps) => Box::pin(unless_gone(head, sink)).await?,
                }
            };
            if let Err(error) = head {
                return Err(match error {
                    StreamError::Closed | StreamError::Io(_) if count == 0 => {
                        Failure::Unanswered(Reason::BackendClosed)
                    }
                    StreamError::Closed | StreamError::Io(_) => Failure::Endpoint(Reason::BackendClosed),
                    StreamError::Malformed(_) => Failure::Endpoint(Reason::BackendMalformed),
                    StreamError::Stalled | StreamError::TooSlow | StreamError::TooLarge => {
                        Failure::Endpoint(Reason::BackendTimeout)
                    }
                });
            }
            match response.status {
                100 => {}
                102..=199 => sink.interim(response).await.map_err(Failure::Client)?,
                _ if (self.is_retried)(response) => return Err(Failure::Code),
                _ => return Ok(()),
            }
        }
        Err(Failure::Endpoint(Reason::BackendMalformed))
    }

    /// Bytes both ways until both have ended, or nothing moved for too long.
    async fn tunnel<U: Upload, W: Download, S: Source, K: Sink>(
        &self,
        up: &mut U,
        down: &mut W,
        source: &mut S,
        sink: &mut K,
    ) -> Result<u64, Failure> {
        source.begin_tunnel();
        down.begin_tunnel();
        up.begin_tunnel();
        let (timer, quiet) = (self.tunnel_timer)();
        let idle = Cell::new(quiet.open);
        timer.set(idle.get());
        // A side that has ended its direction waits for the other, but not for ever.
        let narrow = || {
            idle.set(quiet.narrowed());
            timer.set(idle.get());
        };
        let there = async {
            while let Some(chunk) = source.next().await.map_err(Failure::Client)? {
                timer.set(idle.get());
                up.chunk(chunk).await.map_err(|_| Failure::Truncated(Reason::BackendClosed))?;
                up.flush().await.map_err(|_| Failure::Truncated(Reason::BackendClosed))?;
            }
            up.end_tunnel().await.map_err(|_| Failure::Truncated(Reason::BackendClosed))?;
            narrow();
            Ok(())
        };
        let back = async {
            let mut bytes = 0;
            while let Some(chunk) = down.next().await.map_err(|_| Failure::Truncated(Reason::BackendClosed))? {
                timer.set(idle.get());
                bytes += chunk.as_slice().len() as u64;
                sink.chunk(chunk).await.map_err(Failure::Client)?;
                sink.flush().await.map_err(Failure::Client)?;
            }
            sink.finish(None).await.map_err(Failure::Client)?;
            narrow();
            Ok(bytes)
        };
        match timer.limit(futures_util::future::try_join(there, back)).await {
            Ok(result) => result.map(|((), bytes)| bytes),
            Err(_) => Err(Failure::Truncated(Reason::TunnelIdle)),
        }
    }
}

/// Waits for a head while the client may be gone. One that ends its direction may still wait for its answer (RFC 9112 §9.6):
/// an interim response, which tells it nothing, is answered by a reset where nobody is left.
async fn unless_gone<T, K: Sink>(mut head: Pin<&mut impl Future<Output = T>>, sink: &mut K) -> Result<T, Failure> {
    let patience = pin!(tokio::time::sleep(LEAVING));
    if let Either::Left((head, _)) = select(head.as_mut(), patience).await {
        return Ok(head);
    }
    let ask = ResponseHead { status: 100, ..ResponseHead::default() };
    let mut early = None;
    {
        // Written to its end, whatever comes meanwhile.
        let mut ask = pin!(sink.interim(&ask));
        poll_fn(|cx| {
            if early.is_none()
                && let Poll::Ready(head) = head.as_mut().poll(cx)
            {
                early = Some(head);
            }
            ask.as_mut().poll(cx)
        })
        .await
        .map_err(Failure::Client)?;
    }
    if let Some(head) = early {
        return Ok(head);
    }
    match select(head, pin!(sink.gone())).await {
        Either::Left((head, _)) => Ok(head),
        Either::Right(_) => Err(Failure::Client(StreamError::Closed)),
    }
}

/// The response from its head on.
pub async fn body_of<W: Download, K: Sink>(
    down: &mut W,
    response: &ResponseHead,
    sink: &mut K,
    mut pace: Pace,
    protected: Option<&Protected>,
) -> Result<(u64, Option<u8>), Failure> {
    let started = protected.map(|_| Instant::now());
    let throttle = protected.and_then(|protected| protected.response.as_ref());
    let mut begun = false;
    let mut bytes = 0;
    loop {
        if !begun && !down.is_ready() {
            // The body may take its time; the head need not wait for it.
            sink.head(response).await.map_err(Failure::Client)?;
            sink.flush().await.map_err(Failure::Client)?;
            begun = true;
        }
        let next = match down.next().await {
            Ok(next) => next,
            // What came with the head is looked at before the head is passed on: there still is another answer.
            Err(error) if !begun => return Err(Failure::Endpoint(body_fault(&error))),
            // From here on there is none: the client must see that it is cut off.
            Err(error) => return Err(Failure::Truncated(body_fault(&error))),
        };
        if !begun {
            sink.head(response).await.map_err(Failure::Client)?;
            begun = true;
        }
        let Some(chunk) = next else { break };
        bytes += chunk.as_slice().len() as u64;
        pace.moved(chunk.as_slice().len());
        match throttle {
            None => pace.hold(sink.chunk(chunk)).await.map_err(Failure::Client)?,
            // Boxed: it is rare, and would make every connection's task larger.
            Some(throttle) => Box::pin(throttled(throttle, chunk, sink, &mut pace)).await.map_err(Failure::Client)?,
        }
        if !down.is_ready() {
            pace.hold(sink.flush()).await.map_err(Failure::Client)?;
        }
    }
    let mut trailers = down.trailers();
    let grpc_status = trailers.as_ref().and_then(Fields::grpc_status);
    if let (Some(protected), Some(started)) = (protected, started) {
        trailers = protected.trailers(trailers, started);
    }
    sink.finish(trailers.as_ref()).await.map_err(Failure::Client)?;
    Ok((bytes, grpc_status))
}

/// Passes a chunk on as fast as it may.
pub async fn throttled<K: Sink>(
    throttle: &Throttle,
    chunk: Chunk,
    sink: &mut K,
    pace: &mut Pace,
) -> Result<(), StreamError> {
    for piece in pieces(chunk, throttle.piece()) {
        throttle.pass(piece.as_slice().len()).await;
        pace.hold(sink.chunk(piece)).await?;
        pace.hold(sink.flush()).await?;
    }
    Ok(())
}

pub fn body_fault(error: &StreamError) -> Reason {
    match error {
        StreamError::Stalled | StreamError::TooSlow | StreamError::TooLarge => Reason::StreamStalled,
        StreamError::Malformed(_) => Reason::BackendMalformed,
        StreamError::Closed | StreamError::Io(_) => Reason::BackendClosed,
    }
}

enum UploadError {
    Client(StreamError),
    Endpoint,
}

/// Moves one chunk, or the end; says whether it was the end.
async fn step<U: Upload, S: Source>(up: &mut U, body: &mut Body<'_, S>) -> Result<bool, UploadError> {
    match body.next().await.map_err(UploadError::Client)? {
        Some(chunk) => {
            up.chunk(chunk).await.map_err(|_| UploadError::Endpoint)?;
            Ok(false)
        }
        None => {
            up.finish(body.trailers()).await.map_err(|_| UploadError::Endpoint)?;
            Ok(true)
        }
    }
}

/// The upload beside something else, over several of those.
struct Beside {
    over: bool,
    sent: bool,
}

impl Beside {
    fn new() -> Self {
        Self { over: false, sent: false }
    }

    fn done(sent: bool) -> Self {
        Self { over: true, sent }
    }

    /// Runs `main` to its end, with the upload as far as that goes. Only a failure of the client ends it early: an
    /// endpoint that takes no more of the request may still answer.
    async fn run<T>(
        &mut self,
        mut upload: Pin<&mut impl Future<Output = Result<(), UploadError>>>,
        mut main: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Failure> {
        poll_fn(|cx| {
            if !self.over
                && let Poll::Ready(result) = upload.as_mut().poll(cx)
            {
                self.over = true;
                match result {
                    Ok(()) => self.sent = true,
                    Err(UploadError::Endpoint) => {}
                    Err(UploadError::Client(error)) => return Poll::Ready(Err(Failure::Client(error))),
                }
            }
            main.as_mut().poll(cx).map(Ok)
        })
        .await
    }
}
