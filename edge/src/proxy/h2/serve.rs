//! The server's side of HTTP/2: one connection, a task per request.
//!
//! In flow a [`Wire`], settings and the end of service; out flows a [`Request`] per stream to the caller's service. The
//! connection bounds what a client can make it do: streams, heads, windows, frames that cost more than they carry (by h2),
//! and requests that are taken back (rapid reset, CVE-2023-44487). It ends by GOAWAY when idle or told to drain.

use std::cell::{Cell, RefCell};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::server::{Builder, Connection};
use h2::{Reason, RecvStream};
use pin_project_lite::pin_project;
use tokio::sync::Notify;

use super::body::{Data, Inbound, Reply, Responder};
use super::convert;
use super::wire::{Flusher, Lazy, Wire};
use crate::proxy::clock::{Clock, Timer};
use crate::proxy::h1::parse::{HeadLimits, RequestError};
use crate::proxy::message::{RequestHead, Scheme};

/// What bounds a connection.
#[derive(Debug, Clone)]
pub struct Settings {
    pub scheme: Scheme,
    pub limits: HeadLimits,
    /// To the client's first SETTINGS.
    pub head_timeout: Duration,
    /// Without a request. A service may change it: only a request tells which listener's clients these are.
    pub idle_timeout: Rc<Cell<Duration>>,
    /// Without a byte of a body, per stream and direction.
    pub stream_idle_timeout: Duration,
}

/// Requests in progress at once.
const STREAMS: u32 = 100;
/// Bytes of a request body before it is asked for.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of a response that h2 holds per stream.
const SEND_BUFFER: usize = 64 * 1024;
/// How long a client may take to close after the last answer.
const CLOSING: Duration = Duration::from_secs(5);
/// So many requests may be taken back on a connection whatever it does; beyond it, no more than half of them.
const FREE_RESETS: u64 = 100;

/// A request on its stream.
pub struct Request {
    /// Where it is refused, as far as it was understood.
    pub head: RequestHead,
    pub refused: Option<RequestError>,
    pub body: Inbound,
    pub sink: Responder,
}

/// Serves a connection to its end. When `drain` is done, no new request is taken and the connection ends after those in
/// progress. A service is dropped when its client resets the stream or the connection ends.
pub async fn serve<S, F>(
    (wire, flusher): (Wire, Flusher),
    settings: Settings,
    clock: Rc<Clock>,
    drain: impl Future<Output = ()>,
    service: S,
) -> Result<(), h2::Error>
where
    S: Fn(Request) -> F,
    F: Future<Output = ()> + 'static,
{
    Lazy::new(run(wire, settings, clock, drain, service), flusher).await
}

async fn run<S, F>(
    wire: Wire,
    settings: Settings,
    clock: Rc<Clock>,
    drain: impl Future<Output = ()>,
    service: S,
) -> Result<(), h2::Error>
where
    S: Fn(Request) -> F,
    F: Future<Output = ()> + 'static,
{
    let timer = clock.timer();
    let handshake = builder(&settings).handshake(wire);
    let Ok(connection) = timer.within(settings.head_timeout, handshake).await else { return Ok(()) };
    let mut connection: Connection<Wire, Data> = connection?;
    let count = Rc::new(Count::default());
    let mut drain = pin!(drain);
    let (mut draining, mut accepted) = (false, 0_u64);
    timer.set(settings.idle_timeout.get());
    loop {
        let event = tokio::select! {
            biased;
            stream = connection.accept() => Event::Stream(stream),
            () = &mut drain, if !draining => Event::Drain,
            () = count.changed.notified() => Event::Changed,
            _ = timer.limit(std::future::pending::<()>()) => Event::Idle,
        };
        match event {
            Event::Stream(None) => return Ok(()),
            Event::Stream(Some(Err(error))) => return Err(error),
            Event::Stream(Some(Ok((request, reply)))) => {
                accepted += 1;
                timer.clear();
                let (parts, stream) = request.into_parts();
                let reply = Rc::new(RefCell::new(Reply::Waiting(reply)));
                let request = decode(&parts, stream, &settings, &clock, Rc::clone(&reply));
                tokio::task::spawn_local(Attend { service: service(request), reply, active: count.enter() });
            }
            Event::Drain | Event::Idle if draining && count.active.get() == 0 => return Ok(()),
            Event::Drain | Event::Idle => {
                draining = true;
                connection.graceful_shutdown();
                rearm(&timer, &count, CLOSING);
            }
            Event::Changed => {
                if count.resets.get() > FREE_RESETS.max(accepted / 2) {
                    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                }
                rearm(&timer, &count, if draining { CLOSING } else { settings.idle_timeout.get() });
            }
        }
    }
}

enum Event<T> {
    Stream(Option<T>),
    Drain,
    Changed,
    Idle,
}

/// Requests have deadlines of their own; the connection has one only while there is none.
fn rearm(timer: &Timer, count: &Count, wait: Duration) {
    if count.active.get() == 0 { timer.set(wait) } else { timer.clear() }
}

fn builder(settings: &Settings) -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(settings.limits.bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER);
    builder
}

fn decode(
    parts: &http::request::Parts,
    stream: RecvStream,
    settings: &Settings,
    clock: &Rc<Clock>,
    reply: Rc<RefCell<Reply>>,
) -> Request {
    let mut head = super::front::take_head();
    let ended = stream.is_end_stream();
    let refused = convert::request(parts, ended, settings.scheme, settings.limits, &mut head).err();
    let idle = settings.stream_idle_timeout;
    let promise = Rc::clone(&reply);
    let sink = Responder::new(reply, clock.timer(), idle, head.is_head());
    let timer = clock.timer();
    timer.follow(Rc::default());
    let mut body = Inbound::new(stream, head.length, timer, idle, settings.limits);
    if head.expect_continue {
        body.owe_continue(promise);
    }
    Request { head, refused, body, sink }
}

pin_project! {
    /// Runs the service of a stream until it is done or the client takes its request back. A type of its own, because an
    /// async fn would hold the service twice.
    struct Attend<F> {
        #[pin]
        service: F,
        reply: Rc<RefCell<Reply>>,
        active: Active,
    }
}

impl<F: Future<Output = ()>> Future for Attend<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.service.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        ready!(this.reply.borrow_mut().poll_gone(cx));
        let count = &this.active.0;
        count.resets.set(count.resets.get() + 1);
        count.changed.notify_one();
        Poll::Ready(())
    }
}

/// The requests of a connection.
#[derive(Default)]
struct Count {
    active: Cell<usize>,
    /// Taken back by the client.
    resets: Cell<u64>,
    /// The last request has ended, or one was taken back.
    changed: Notify,
}

impl Count {
    fn enter(self: &Rc<Self>) -> Active {
        self.active.set(self.active.get() + 1);
        Active(Rc::clone(self))
    }
}

/// One request; counted until dropped, also by a panic.
struct Active(Rc<Count>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
        if self.0.active.get() == 0 {
            self.0.changed.notify_one();
        }
    }
}
