//! The server's side of HTTP/2: one connection, to its end.
//!
//! In flow a [`Wire`], settings and the end of service; out flows a [`Request`] per stream to the caller's service. The
//! connection bounds what a client can make it do ([`super::mux`]), and how long it may take: to the first SETTINGS, for a
//! head, without a request, after GOAWAY. It ends by GOAWAY when idle or told to drain.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use edge_config::snapshot::Http2Bounds;

use super::body::{Inbound, Patience, Responder};
use super::mux::stream::Handle;
use super::mux::{Bounds, Drain, Ended, Mux, Shared, Side, Started};
use super::wire::{Turn, Wire};
use crate::proxy::clock::{Clock, Timer};
use crate::proxy::h1::parse::{HeadLimits, RequestError};
use crate::proxy::message::{RequestHead, Scheme};

/// What bounds a connection.
#[derive(Debug, Clone)]
pub struct Settings {
    pub scheme: Scheme,
    pub limits: HeadLimits,
    /// To the client's first SETTINGS, and for every head from its first byte.
    pub head_timeout: Duration,
    /// Without a request. A service may change it: only a request tells which listener's clients these are.
    pub idle_timeout: Rc<Cell<Duration>>,
    /// Without a byte of a body, per stream and direction.
    pub stream_idle_timeout: Duration,
    /// Where it is not our own.
    pub bounds: Http2Bounds,
}

/// Requests in progress at once.
pub const STREAMS: u32 = 100;
/// Bytes of a request body before it is asked for.
pub const STREAM_WINDOW: u32 = 64 * 1024;
pub const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// How long a client may take to say that it has heard of the end.
const ANNOUNCED: Duration = Duration::from_secs(1);

/// A request on its stream.
pub struct Request {
    /// Where it is refused, as far as it was understood.
    pub head: RequestHead,
    pub refused: Option<RequestError>,
    pub body: Inbound,
    pub sink: Responder,
}

/// Tells that the client has taken its request back.
pub struct Gone(Handle);

impl Gone {
    /// Ready when the client has no interest in the response any more, or is gone.
    pub async fn wait(&self) {
        std::future::poll_fn(|cx| self.0.mux.borrow_mut().poll_gone(self.0.key, cx)).await;
    }
}

/// Serves a connection to its end. When `drain` is done, no new request is taken and the connection ends after those in
/// progress. `accepted`: since when the client has been here. `service` takes each request and sees to it; `malformed` hears of streams that were reset for what was wrong
/// with their requests.
pub async fn serve(
    wire: Wire,
    settings: Settings,
    clock: Rc<Clock>,
    accepted: Instant,
    drain: impl Future<Output = ()>,
    service: impl Fn(Request, Gone),
    malformed: impl Fn(&'static str),
) -> Ended {
    let bounds = Bounds {
        side: Side::Server,
        scheme: settings.scheme,
        limits: settings.limits,
        streams: settings.bounds.streams.unwrap_or(STREAMS),
        stream_window: settings.bounds.stream_window.unwrap_or(STREAM_WINDOW),
        connection_window: settings.bounds.connection_window.unwrap_or(CONNECTION_WINDOW),
    };
    let mut turn = Turn::new(Mux::new(bounds, accepted), wire);
    let timer = clock.timer();
    {
        let mut drain = pin!(drain);
        let mut alarm = pin!(timer.limit(std::future::pending::<()>()));
        let mut drained = false;
        let mut idle_since = None;
        std::future::poll_fn(|cx| {
            turn.read(cx);
            loop {
                let started = turn.mux.borrow_mut().next_started();
                let Some(started) = started else { break };
                let (request, gone) = begin(&turn.mux, started, &settings, &clock);
                service(request, gone);
            }
            for why in turn.mux.borrow_mut().take_malformed() {
                malformed(why);
            }
            if !drained && drain.as_mut().poll(cx).is_ready() {
                drained = true;
                turn.mux.borrow_mut().begin_drain();
            }
            // Twice at most: what a deadline brings about has another one.
            for _ in 0..2 {
                watch(&mut turn.mux.borrow_mut(), &mut idle_since, &settings, &timer);
                if alarm.as_mut().poll(cx).is_pending() {
                    break;
                }
                late(&mut turn.mux.borrow_mut(), &settings);
            }
            turn.write(cx);
            let mut mux = turn.mux.borrow_mut();
            if mux.in_use() == 0 && matches!(mux.drain(), Drain::Final(_)) {
                mux.end(Ended::Done);
            }
            if mux.has_ended() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
    turn.close(&timer).await
}

/// Sets the deadline: for a head in progress, else for doing nothing. Requests have deadlines of their own.
fn watch(mux: &mut Mux, idle_since: &mut Option<Instant>, settings: &Settings, timer: &Timer) {
    if mux.in_use() > 0 {
        *idle_since = None;
    } else if idle_since.is_none() {
        *idle_since = Some(Instant::now());
    }
    let head = mux.head_since().map(|since| since + settings.head_timeout);
    let rest = match (mux.drain(), *idle_since) {
        (Drain::Announced(since), _) => Some(since + ANNOUNCED),
        (Drain::No, Some(since)) if !settings.idle_timeout.get().is_zero() => Some(since + settings.idle_timeout.get()),
        _ => None,
    };
    let lingering = if mux.in_use() > 0 { mux.reap_late(Instant::now()) } else { None };
    match head.into_iter().chain(rest).chain(lingering).min() {
        Some(at) => timer.set_at(at),
        None => timer.clear(),
    }
}

/// A deadline has passed.
fn late(mux: &mut Mux, settings: &Settings) {
    if mux.head_since().is_some_and(|since| since.elapsed() >= settings.head_timeout) {
        return mux.end(Ended::HeadTimeout);
    }
    match mux.drain() {
        Drain::No if mux.in_use() == 0 => mux.begin_drain(),
        Drain::Announced(since) if since.elapsed() >= ANNOUNCED => mux.finish_drain(),
        // A stream has lingered for long enough.
        Drain::No | Drain::Announced(_) | Drain::Final(_) => {}
    }
}

fn begin(mux: &Shared, started: Started, settings: &Settings, clock: &Rc<Clock>) -> (Request, Gone) {
    let Started { key, head, refused, ended } = started;
    let stream = Handle::new(mux, key);
    let idle = settings.stream_idle_timeout;
    let sink = Responder::new(stream.clone(), Patience::new(clock, idle), head.is_head());
    let mut patience = Patience::new(clock, idle);
    if !ended {
        // While the response moves, the rest of the request may take its time, and the other way round.
        patience.follow(Rc::default());
    }
    let mut body = Inbound::new(stream.clone(), head.length, ended, patience);
    if head.expect_continue {
        body.owe_continue();
    }
    (Request { head, refused, body, sink }, Gone(stream))
}
