//! The client's side of HTTP/2: a few connections to one endpoint, shared by all exchanges of a worker.
//!
//! In flow requests and a way to dial; out flows a [`Call`] per request, as an `Upload` and a `Download`. A connection
//! takes no more requests than its endpoint allows at once, none after GOAWAY, and none after it was silent while an
//! answer was due. Whether a request is tried again is decided elsewhere; [`Call::was_processed`] says if it may be.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::body::{Inbound, Outbound, Patience};
use super::mux::stream::Handle;
use super::mux::{Bounds, Ended, Mux, Shared, Side};
use super::wire::{Turn, Wire};
use crate::proxy::body::{Chunk, Source, StreamError};
use crate::proxy::clock::{Clock, Pulse, Timer, recent};
use crate::proxy::h1::parse::HeadLimits;
use crate::proxy::message::{Fields, Length, RequestHead, ResponseHead, Scheme};
use crate::proxy::upstream;

/// Bytes of a response before they are asked for, per stream; and per connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Connections to one endpoint, when its limit of streams calls for more than one.
const MOST: usize = 8;
/// A connection on which nothing was heard for so long while an answer was due takes no further request.
const SILENCE: Duration = Duration::from_secs(5);

/// What the connections of an endpoint have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    pub limits: HeadLimits,
    /// A connection without a request is closed after this long.
    pub idle_timeout: Duration,
    pub stream_idle_timeout: Duration,
    /// Whether the connections are inside TLS.
    pub secure: bool,
    /// A connection takes no more requests after so many, or when it is so old.
    pub requests: Option<u32>,
    pub age: Option<Duration>,
}

/// The connections to one endpoint.
pub struct Connections {
    settings: Settings,
    clock: Rc<Clock>,
    live: Rc<RefCell<Vec<Rc<Live>>>>,
    /// Held while dialling, so that a burst of requests makes one connection.
    dialling: tokio::sync::Mutex<()>,
    /// A place for a request has become free somewhere.
    freed: Rc<Notify>,
}

impl Connections {
    pub fn new(settings: Settings, clock: &Rc<Clock>) -> Self {
        Self {
            settings,
            clock: Rc::clone(clock),
            live: Rc::default(),
            dialling: tokio::sync::Mutex::default(),
            freed: Rc::default(),
        }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn len(&self) -> usize {
        self.live.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.live.borrow().is_empty()
    }

    /// Whether nothing is open, and nobody waits for what is being opened.
    pub fn is_over(self: &Rc<Self>) -> bool {
        self.live.borrow_mut().retain(|live| live.state() != Use::Over);
        self.is_empty() && Rc::strong_count(self) == 1
    }

    /// A place for one request: on a connection that is there, or on a new one. The deadline is the caller's.
    pub async fn place<E>(&self, dial: impl AsyncFnOnce() -> Result<Wire, E>) -> Result<Place, E>
    where
        E: From<std::io::Error>,
    {
        loop {
            if let Some(place) = self.free() {
                return Ok(place);
            }
            let freed = self.freed.notified();
            tokio::select! {
                _dialling = self.dialling.lock() => {
                    // Another request may have dialled meanwhile.
                    if let Some(place) = self.free() {
                        return Ok(place);
                    }
                    if self.len() < MOST {
                        let wire = dial().await?;
                        return self.open(wire).await.map_err(E::from);
                    }
                }
                () = freed => continue,
            }
            self.freed.notified().await;
        }
    }

    /// Takes no further requests on the connections that are open; those in progress go on.
    pub fn retire(&self) {
        self.live.borrow_mut().drain(..).for_each(|live| live.retire());
    }

    fn free(&self) -> Option<Place> {
        let mut live = self.live.borrow_mut();
        live.iter().filter(|live| live.is_worn()).for_each(|live| live.retire());
        live.retain(|live| live.state() != Use::Over);
        let best = live.iter().filter(|live| live.state() == Use::Free).min_by_key(|live| live.active.get())?;
        Some(best.enter(true, &self.freed))
    }

    async fn open(&self, wire: Wire) -> Result<Place, std::io::Error> {
        let bounds = Bounds {
            side: Side::Client,
            scheme: Scheme::Http,
            limits: self.settings.limits,
            streams: 0,
            stream_window: STREAM_WINDOW,
            connection_window: CONNECTION_WINDOW,
        };
        let turn = Turn::new(Mux::new(bounds, Instant::now()), wire);
        let live = Rc::new(Live {
            mux: Rc::clone(&turn.mux),
            retired: Cell::new(false),
            active: Cell::new(0),
            begun: Cell::new(0),
            opened: recent(),
            greeted: Notify::new(),
            settings: self.settings,
            clock: Rc::clone(&self.clock),
        });
        tokio::task::spawn_local(drive(turn, Rc::clone(&live), self.clock.timer(), Rc::clone(&self.freed)));
        // Its SETTINGS say how many requests it takes at once; those beyond would be refused.
        let mut opening = Opening(Some(live));
        if let Some(live) = &opening.0 {
            live.greeted.notified().await;
        }
        let live = opening.0.take().filter(|live| live.state() != Use::Over);
        let live = live.ok_or(std::io::ErrorKind::ConnectionAborted)?;
        let place = live.enter(false, &self.freed);
        self.live.borrow_mut().push(live);
        // The requests that waited for this connection.
        self.freed.notify_waiters();
        Ok(place)
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.retire();
    }
}

/// A connection that is not in use yet; given up, it ends.
struct Opening(Option<Rc<Live>>);

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(live) = &self.0 {
            live.retire();
        }
    }
}

/// Runs a connection to its end; idle for too long, it ends.
async fn drive(mut turn: Turn, live: Rc<Live>, timer: Timer, freed: Rc<Notify>) {
    {
        let mut alarm = pin!(timer.limit(std::future::pending::<()>()));
        let mut greeted = false;
        // Whether the timer runs: from the last request on, and until the first.
        let mut idle = false;
        std::future::poll_fn(|cx| {
            turn.read(cx);
            if !greeted && turn.mux.borrow().is_greeted() {
                greeted = true;
                live.greeted.notify_one();
            }
            let in_use = turn.mux.borrow().in_use() > 0 || live.active.get() > 0;
            if in_use == idle {
                idle = !in_use;
                if idle { timer.set(live.settings.idle_timeout) } else { timer.clear() }
            }
            if alarm.as_mut().poll(cx).is_ready() {
                timer.clear();
                live.retire();
            }
            turn.write(cx);
            let mut mux = turn.mux.borrow_mut();
            // Its reads and writes are done; whoever holds a place on it asks first.
            if greeted && !in_use && (live.retired.get() || !mux.takes_requests()) {
                mux.end(Ended::Done);
            }
            if mux.has_ended() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
    live.retire();
    live.greeted.notify_one();
    freed.notify_waiters();
    turn.close(&timer).await;
}

/// One connection.
struct Live {
    mux: Shared,
    /// Takes no further request; it ends by itself when the last stream has.
    retired: Cell<bool>,
    active: Cell<usize>,
    /// All requests so far.
    begun: Cell<u32>,
    /// By [`recent`].
    opened: Duration,
    /// The endpoint has sent its first frame, or will not.
    greeted: Notify,
    settings: Settings,
    clock: Rc<Clock>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Free,
    Full,
    Over,
}

impl Live {
    /// Whether a request may be started.
    fn state(&self) -> Use {
        let mux = self.mux.borrow();
        if self.retired.get() || !mux.takes_requests() {
            Use::Over
        } else if self.active.get() < mux.max_streams() && !mux.is_full() {
            Use::Free
        } else {
            Use::Full
        }
    }

    /// Whether it has had all the requests, or all the time, that it may have.
    fn is_worn(&self) -> bool {
        let Settings { requests, age, .. } = self.settings;
        requests.is_some_and(|most| self.begun.get() >= most)
            || age.is_some_and(|age| recent().saturating_sub(self.opened) >= age)
    }

    fn retire(&self) {
        self.retired.set(true);
        self.mux.borrow().wake();
    }

    fn enter(self: &Rc<Self>, reused: bool, freed: &Rc<Notify>) -> Place {
        self.active.set(self.active.get() + 1);
        self.begun.set(self.begun.get().saturating_add(1));
        if self.active.get() == 1 {
            self.mux.borrow().wake();
        }
        Place { live: Rc::clone(self), freed: Rc::clone(freed), reused }
    }
}

/// The right to start one request on a connection.
pub struct Place {
    live: Rc<Live>,
    freed: Rc<Notify>,
    /// Whether the connection was there before, and so may turn out to be closed.
    pub reused: bool,
}

impl Place {
    /// Starts a request. Its head leaves at the end of this turn.
    pub fn begin(self, head: &RequestHead) -> Result<Call, BeginError> {
        let live = &self.live;
        let (settings, clock) = (live.settings, Rc::clone(&live.clock));
        if live.state() == Use::Over {
            return Err(BeginError::Closed);
        }
        let ends = head.length == Length::None;
        let opened = live.mux.borrow_mut().open_stream(head, settings.secure, ends);
        let key = opened.map_err(|error| BeginError::Unwritable(error.0))?;
        let stream = Handle::new(&live.mux, key);
        let heard = live.mux.borrow().heard();
        let idle = settings.stream_idle_timeout;
        Ok(Call {
            upload: Upload { body: Outbound::new(stream.clone(), Patience::new(&clock, idle)), ended: ends },
            download: Download {
                stream,
                body: None,
                waiting: true,
                patience: Some(Patience::new(&clock, idle)),
                processed: true,
                since: Instant::now(),
                heard,
                place: self,
            },
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let left = self.live.active.get() - 1;
        self.live.active.set(left);
        if left == 0 {
            self.live.mux.borrow().wake();
        }
        self.freed.notify_one();
    }
}

/// Why a request could not be started; nothing of it was sent.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    #[error("the connection takes no further request")]
    Closed,
    #[error("not a valid {0}")]
    Unwritable(&'static str),
}

/// One request and its response. Dropped early, it is cancelled and the connection goes on.
pub struct Call {
    upload: Upload,
    download: Download,
}

impl Call {
    pub fn halves(&mut self) -> (&mut Upload, &mut Download) {
        (&mut self.upload, &mut self.download)
    }

    /// `false` after a failure if the endpoint has said that it did not act on the request (GOAWAY, REFUSED_STREAM;
    /// RFC 9113 §8.7): then it may be sent again whatever its method.
    pub fn was_processed(&self) -> bool {
        self.download.processed
    }
}

/// The request's body on its way to the endpoint.
pub struct Upload {
    body: Outbound,
    /// The head was the end.
    ended: bool,
}

impl upstream::Upload for &mut Upload {
    async fn chunk(&mut self, chunk: Chunk) -> Result<(), StreamError> {
        self.body.chunk(chunk).await
    }

    fn set_idle(&mut self, idle: Duration) {
        self.body.set_idle(idle);
    }

    async fn flush(&mut self) -> Result<(), StreamError> {
        // Frames leave at the end of the turn by themselves.
        Ok(())
    }

    async fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), StreamError> {
        if self.ended { Ok(()) } else { self.body.finish(trailers) }
    }
}

/// The response on its way back.
pub struct Download {
    stream: Handle,
    /// From the final head on.
    body: Option<Inbound>,
    /// For the first head.
    waiting: bool,
    patience: Option<Patience>,
    processed: bool,
    since: Instant,
    heard: u64,
    place: Place,
}

impl upstream::Download for &mut Download {
    async fn head(&mut self, head: &mut ResponseHead) -> Result<(), StreamError> {
        let Handle { mux, key } = &self.stream;
        let Some(patience) = &mut self.patience else { return Err(StreamError::Closed) };
        match patience.until(|cx| mux.borrow_mut().poll_head(*key, cx)).await? {
            Ok(received) => *head = received,
            Err(why) => {
                self.processed = why.was_processed();
                self.waiting = false;
                return Err(why.error());
            }
        }
        self.waiting = false;
        if head.status < 200 {
            head.length = Length::None;
        } else if let Some(patience) = self.patience.take() {
            let ended = head.length == Length::None && mux.borrow().is_received(*key);
            self.body = Some(Inbound::new(self.stream.clone(), head.length, ended, patience));
        }
        Ok(())
    }
}

impl Source for &mut Download {
    fn follow(&mut self, pulse: Rc<Pulse>) {
        if let Some(patience) = &mut self.patience {
            patience.follow(pulse);
        }
    }

    fn length(&self) -> Length {
        self.body.as_ref().map_or(Length::None, Source::length)
    }

    /// Before the head: the body has the patience of its head.
    fn set_idle(&mut self, idle: Duration) {
        if let Some(patience) = &mut self.patience {
            patience.set_idle(idle);
        }
    }

    fn is_ready(&self) -> bool {
        self.body.as_ref().is_none_or(Source::is_ready)
    }

    async fn next(&mut self) -> Result<Option<Chunk>, StreamError> {
        match &mut self.body {
            Some(body) => body.next().await,
            None => Err(StreamError::Closed),
        }
    }

    fn trailers(&mut self) -> Option<Fields> {
        self.body.as_mut().and_then(Source::trailers)
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        // Given up before an answer, and the connection has been silent: it may lead nowhere (no RST for a host that
        // is gone). Others are not sent after it.
        let live = &self.place.live;
        if self.waiting && self.heard == live.mux.borrow().heard() && self.since.elapsed() >= SILENCE {
            live.retire();
        }
    }
}
