//! HTTP/2 connections of clients on a worker: [`super::serve`] below, the exchange above.
//!
//! In flow connections that have turned out to speak HTTP/2; out flow exchanges, one per stream. Limits are those of the
//! generation in which the connection came; each request belongs to the generation in which it comes.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::mux::{Ended, Flood};
use super::serve::{self, Gone, Request, Settings};
use super::wire::{self, Wire};
use crate::proxy::body::{Sink, Source};
use crate::proxy::buffer::Buffer;
use crate::proxy::exchange::answer::{self, Answer};
use crate::proxy::exchange::{self, End, Record};
use crate::proxy::h1::parse::RequestError;
use crate::proxy::io::Socket;
use crate::proxy::message::{RequestHead, ResponseHead, Scheme};
use crate::proxy::reason::Reason;
use crate::proxy::tls::stream::TlsStream;
use crate::proxy::worker::{Arrival, Patience, Worker};

/// Serves a connection in clear (prior knowledge, RFC 9113 §3.3). `ahead` was read from it, the preface first.
pub async fn plain(worker: &Rc<Worker>, socket: Socket, ahead: Option<Buffer>, arrival: Arrival) {
    let wire = wire::plain(socket, ahead.as_ref().map_or(&[][..], Buffer::as_slice));
    drop(ahead);
    connection(worker, wire, Rc::new(arrival)).await;
}

/// Serves a connection inside TLS whose client chose `h2`.
pub async fn tls(worker: &Rc<Worker>, stream: TlsStream<Socket>, arrival: Arrival) {
    connection(worker, wire::tls(stream), Rc::new(arrival)).await;
}

async fn connection(worker: &Rc<Worker>, wire: io::Result<Wire>, arrival: Rc<Arrival>) {
    // The socket did not survive its change of owner: nothing is left to tell the client.
    let Ok(wire) = wire else { return };
    let limits = worker.current().generation.limits;
    // In clear the listener is not known before the first request.
    let usual = Patience { idle: limits.idle_timeout, head: limits.head_timeout };
    let patience = arrival.patience.get().unwrap_or(usual);
    let idle = Rc::new(Cell::new(patience.idle));
    let settings = Settings {
        scheme: if arrival.secure { Scheme::Https } else { Scheme::Http },
        limits: limits.head,
        head_timeout: patience.head,
        idle_timeout: Rc::clone(&idle),
        stream_idle_timeout: limits.stream_idle_timeout,
        bounds: arrival.http2.unwrap_or_default(),
    };
    let timer = worker.clock.timer();
    let drain = async {
        let never = timer.limit(std::future::pending::<()>());
        // Ends when the worker drains, and only then: the timer has no deadline.
        let _ = worker.unless_draining(never).await;
    };
    let service = |request, gone| {
        let (arrival, idle) = (Rc::clone(&arrival), Rc::clone(&idle));
        worker.attendants.give(Job { worker: Rc::clone(worker), arrival, idle, request, gone });
    };
    let malformed = |what| worker.metrics.count(Reason::BadRequest(what));
    let clock = Rc::clone(&worker.clock);
    let ended = serve::serve(wire, settings, clock, arrival.at, drain, service, malformed).await;
    let reason = match &ended {
        Ended::Done | Ended::Closed | Ended::Io(_) => None,
        Ended::Broken(..) => Some(Reason::ProtocolError),
        Ended::Flooded(Flood::Resets) => Some(Reason::StreamFlood),
        Ended::Flooded(Flood::Frames) => Some(Reason::FrameFlood),
        Ended::Flooded(Flood::Headers) => Some(Reason::HeaderFlood),
        Ended::HeadTimeout => Some(Reason::HeadTimeout),
    };
    if let Some(reason) = reason {
        worker.metrics.count(reason);
        tracing::debug!(client = %arrival.peer, %reason, why = %ended, "HTTP/2 connection closed");
    }
}

/// A request and what it needs to know of its connection.
struct Job {
    worker: Rc<Worker>,
    arrival: Rc<Arrival>,
    idle: Rc<Cell<Duration>>,
    request: Request,
    gone: Gone,
}

/// Tasks that see to one request after another. An exchange is thousands of bytes of state: made anew for each request it
/// would be allocated, moved into its task, and cold.
#[derive(Default)]
pub struct Attendants(RefCell<Vec<Rc<Seat>>>);

/// Where a task is given its next request.
#[derive(Default)]
struct Seat {
    job: RefCell<Option<Job>>,
    waker: RefCell<Option<Waker>>,
}

/// Tasks that wait for work, per worker.
const WAITING: usize = 512;

impl Attendants {
    /// Gives a request to the task that became free last, or to a new one.
    fn give(&self, job: Job) {
        let free = self.0.borrow_mut().pop();
        if let Some(seat) = free {
            *seat.job.borrow_mut() = Some(job);
            if let Some(waker) = &*seat.waker.borrow() {
                waker.wake_by_ref();
            }
            return;
        }
        let seat = Rc::new(Seat { job: RefCell::new(Some(job)), waker: RefCell::default() });
        tokio::task::spawn_local(attend(seat));
    }
}

/// Holds the worker while there is a request, and no longer: what waits must not keep alive what it waits in.
async fn attend(seat: Rc<Seat>) {
    loop {
        let job = poll_fn(|cx| match seat.job.borrow_mut().take() {
            Some(job) => Poll::Ready(job),
            None => {
                let mut waker = seat.waker.borrow_mut();
                if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        });
        let job = job.await;
        let worker = Rc::clone(&job.worker);
        see_to(job).await;
        let mut waiting = worker.attendants.0.borrow_mut();
        if waiting.len() >= WAITING {
            return;
        }
        waiting.push(Rc::clone(&seat));
    }
}

async fn see_to(job: Job) {
    let Job { worker, arrival, idle, request, gone } = job;
    let Request { head, refused, body, sink } = request;
    // A broken one: the stream is reset when its sink is dropped.
    let (End::Complete | End::Broken) =
        answer(&worker, &arrival, Message { head, refused, body, sink }, gone.wait()).await;
    if let Some(patience) = arrival.patience.get() {
        idle.set(patience.idle);
    }
}

/// A request of a protocol with streams.
pub struct Message<S, K> {
    /// Where it is refused, as far as it was understood.
    pub head: RequestHead,
    pub refused: Option<RequestError>,
    pub body: S,
    pub sink: K,
}

/// Answers a request, by an exchange or because it is refused. `gone` is ready when the client has taken it back.
pub async fn answer<S: Source, K: Sink>(
    worker: &Rc<Worker>,
    arrival: &Arrival,
    message: Message<S, K>,
    gone: impl Future<Output = ()>,
) -> End {
    let Message { mut head, refused, mut body, mut sink } = message;
    let mut response = Response::take();
    let end = if let Some(error) = refused {
        let reason = match error {
            RequestError::Malformed(what) => Reason::BadRequest(what),
            RequestError::TargetTooLong | RequestError::HeadTooLarge => Reason::TooLarge,
            RequestError::Version | RequestError::NotImplemented(_) | RequestError::Expectation => Reason::Unsupported,
        };
        let answer = Answer::new(error.status(), reason);
        let text = answer.fill(false, &mut response.0);
        let mut record = Record::begin(arrival);
        record.answered(answer.status, answer.reason);
        // A client that has gone hears nothing.
        let sent = answer::send(&mut sink, &response.0, text).await;
        record.write(worker, &worker.current(), arrival, &head);
        if sent.is_ok() { End::Complete } else { End::Broken }
    } else {
        exchange::run_unless(gone, worker, arrival, &mut head, &mut response.0, &mut body, &mut sink).await
    };
    give_back(head);
    end
}

/// Heads that are kept per thread for the next requests.
const KEPT: usize = 256;

thread_local! {
    static REQUESTS: RefCell<Vec<RequestHead>> = const { RefCell::new(Vec::new()) };
    static RESPONSES: RefCell<Vec<ResponseHead>> = const { RefCell::new(Vec::new()) };
}

/// A request head with memory of an earlier one.
pub fn take_head() -> RequestHead {
    REQUESTS.with_borrow_mut(Vec::pop).unwrap_or_default()
}

fn give_back(mut head: RequestHead) {
    head.clear();
    REQUESTS.with_borrow_mut(|kept| {
        if kept.len() < KEPT {
            kept.push(head);
        }
    });
}

/// A response head that goes back when dropped, also with a request that was given up.
struct Response(ResponseHead);

impl Response {
    fn take() -> Self {
        Self(RESPONSES.with_borrow_mut(Vec::pop).unwrap_or_default())
    }
}

impl Drop for Response {
    fn drop(&mut self) {
        let mut head = std::mem::take(&mut self.0);
        head.clear();
        // At thread exit the memory is simply freed.
        let _ = RESPONSES.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() < KEPT {
                kept.push(head);
            }
        });
    }
}
