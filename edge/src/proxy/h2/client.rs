//! The client's side of HTTP/2: a few connections to one endpoint, shared by all exchanges of a worker.
//!
//! In flow requests and a way to dial; out flows a [`Call`] per request, as an `Upload` and a `Download`. A connection
//! takes no more requests than its endpoint allows at once, none after GOAWAY, and none after it was silent while an
//! answer was due. Whether a request is tried again is decided elsewhere; [`Call::was_processed`] says if it may be.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream};
use tokio::sync::Notify;

use super::body::{Data, Inbound, Outbound, failure};
use super::convert;
use super::wire::{Flusher, Lazy, Wire};
use crate::proxy::body::{Chunk, Source, StreamError};
use crate::proxy::clock::{Clock, Pulse, Timer};
use crate::proxy::h1::parse::HeadLimits;
use crate::proxy::message::{Fields, Length, RequestHead, ResponseHead};
use crate::proxy::upstream;

/// Bytes of a response before they are asked for, per stream; and per connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Bytes of a request that h2 holds per stream.
const SEND_BUFFER: usize = 64 * 1024;
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
    pub async fn place<E>(&self, dial: impl AsyncFnOnce() -> Result<(Wire, Flusher), E>) -> Result<Place, E>
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
                        return self.open(wire).await.map_err(|error| E::from(into_io(error)));
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
        live.retain(|live| live.state() != Use::Over);
        let best = live.iter().filter(|live| live.state() == Use::Free).min_by_key(|live| live.active.get())?;
        Some(best.enter(true, &self.freed))
    }

    async fn open(&self, (wire, flusher): (Wire, Flusher)) -> Result<Place, h2::Error> {
        let heard = flusher.heard();
        let (sender, connection) = Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(self.settings.limits.bytes).unwrap_or(u32::MAX))
            .max_send_buffer_size(SEND_BUFFER)
            .handshake::<_, Data>(wire)
            .await?;
        let live = Rc::new(Live {
            sender: RefCell::new(Some(sender)),
            active: Cell::new(0),
            heard,
            changed: Notify::new(),
            greeted: Notify::new(),
            settings: self.settings,
            clock: Rc::clone(&self.clock),
        });
        let timer = self.clock.timer();
        let drive = drive(connection, Rc::clone(&live), timer, Rc::clone(&self.freed));
        tokio::task::spawn_local(Lazy::new(drive, flusher));
        // Its SETTINGS say how many requests it takes at once; those beyond would be refused.
        let mut opening = Opening(Some(live));
        if let Some(live) = &opening.0 {
            live.greeted.notified().await;
        }
        let live = opening.0.take().filter(|live| live.state() != Use::Over);
        let live = live.ok_or_else(|| h2::Error::from(Reason::REFUSED_STREAM))?;
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

fn into_io(error: h2::Error) -> std::io::Error {
    if error.is_io() {
        error.into_io().unwrap_or_else(|| std::io::ErrorKind::ConnectionAborted.into())
    } else {
        std::io::Error::other(error)
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

/// Runs a connection to its end; idle for too long, it is told to end.
async fn drive(connection: Connection<Wire, Data>, live: Rc<Live>, timer: Timer, freed: Rc<Notify>) {
    let mut connection = std::pin::pin!(connection);
    // The first frame is SETTINGS (RFC 9113 §3.4).
    let greeted = std::future::poll_fn(|cx| {
        let ended = connection.as_mut().poll(cx).is_ready();
        if ended || live.heard.get() > 0 { Poll::Ready(!ended) } else { Poll::Pending }
    })
    .await;
    if !greeted {
        live.retire();
        live.greeted.notify_one();
        return freed.notify_waiters();
    }
    live.greeted.notify_one();
    loop {
        tokio::select! {
            biased;
            // Why it ended is told to the streams that were open.
            _ = &mut connection => break,
            () = live.changed.notified() => {
                if live.active.get() == 0 { timer.set(live.settings.idle_timeout) } else { timer.clear() }
            }
            _ = timer.limit(std::future::pending::<()>()) => {
                timer.clear();
                if live.active.get() == 0 {
                    live.retire();
                }
            }
        }
    }
    live.retire();
    freed.notify_waiters();
}

/// One connection.
struct Live {
    /// `None`: takes no further request. The connection ends by itself when the last stream has.
    sender: RefCell<Option<SendRequest<Data>>>,
    active: Cell<usize>,
    heard: Rc<Cell<u64>>,
    /// The first request has come or the last has gone.
    changed: Notify,
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
    /// Whether a request may be started, found out without waiting.
    fn state(&self) -> Use {
        let mut sender = self.sender.borrow_mut();
        let Some(open) = sender.as_mut() else { return Use::Over };
        match open.poll_ready(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(Err(_)) => {
                *sender = None;
                Use::Over
            }
            // The endpoint has lowered its limit, and a request waits inside h2 already.
            Poll::Pending => Use::Full,
            Poll::Ready(Ok(())) if self.active.get() < open.current_max_send_streams() => Use::Free,
            Poll::Ready(Ok(())) => Use::Full,
        }
    }

    fn retire(&self) {
        self.sender.borrow_mut().take();
    }

    fn enter(self: &Rc<Self>, reused: bool, freed: &Rc<Notify>) -> Place {
        self.active.set(self.active.get() + 1);
        if self.active.get() == 1 {
            self.changed.notify_one();
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
        let settings = self.live.settings;
        let request = convert::to_request(head, settings.secure).map_err(|error| BeginError::Unwritable(error.0))?;
        let ends = head.length == Length::None;
        let sent = match self.live.sender.borrow_mut().as_mut() {
            Some(sender) => sender.send_request(request, ends),
            None => return Err(BeginError::Closed),
        };
        let (response, stream) = sent.map_err(|_| BeginError::Closed)?;
        let clock = &self.live.clock;
        Ok(Call {
            upload: Upload {
                body: Outbound::new(stream, ends),
                timer: clock.timer(),
                idle: settings.stream_idle_timeout,
            },
            download: Download {
                state: State::Waiting(response),
                is_head: head.is_head(),
                settings,
                clock: Rc::clone(clock),
                processed: true,
                since: Instant::now(),
                pulse: None,
                heard: self.live.heard.get(),
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
            self.live.changed.notify_one();
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
    timer: Timer,
    idle: Duration,
}

impl upstream::Upload for &mut Upload {
    async fn chunk(&mut self, chunk: Chunk) -> Result<(), StreamError> {
        let room = self.timer.within(self.idle, std::future::poll_fn(|cx| self.body.poll_room(cx))).await;
        room.map_err(|_| StreamError::Stalled)??;
        self.body.send(chunk)
    }

    async fn flush(&mut self) -> Result<(), StreamError> {
        // Frames leave at the end of the turn by themselves.
        Ok(())
    }

    async fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), StreamError> {
        self.body.finish(trailers)
    }
}

/// The response on its way back.
pub struct Download {
    state: State,
    is_head: bool,
    settings: Settings,
    clock: Rc<Clock>,
    processed: bool,
    since: Instant,
    heard: u64,
    place: Place,
    pulse: Option<Rc<Pulse>>,
}

#[expect(clippy::large_enum_variant, reason = "nearly all become a body; a box would be one more allocation each")]
enum State {
    Waiting(ResponseFuture),
    Body(Inbound),
    Failed,
}

enum Head {
    Interim(http::Response<()>),
    Final(http::Response<RecvStream>),
}

impl Download {
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, h2::Error>> {
        let State::Waiting(response) = &mut self.state else { return Poll::Ready(Err(Reason::INTERNAL_ERROR.into())) };
        if let Poll::Ready(Some(interim)) = response.poll_informational(cx) {
            return Poll::Ready(interim.map(Head::Interim));
        }
        Pin::new(response).poll(cx).map_ok(Head::Final)
    }

    fn fail(&mut self, error: h2::Error) -> StreamError {
        let refused = error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM);
        self.processed = !(error.is_remote() && refused);
        self.state = State::Failed;
        failure(error)
    }
}

impl upstream::Download for &mut Download {
    async fn head(&mut self, head: &mut ResponseHead) -> Result<(), StreamError> {
        let timer = self.clock.timer();
        if let Some(pulse) = &self.pulse {
            timer.follow(Rc::clone(pulse));
        }
        let idle = self.settings.stream_idle_timeout;
        let received = timer.within(idle, std::future::poll_fn(|cx| self.poll_head(cx))).await;
        let limits = self.settings.limits;
        match received.map_err(|_| StreamError::Stalled)?.map_err(|error| self.fail(error))? {
            Head::Interim(response) => {
                let (parts, ()) = response.into_parts();
                convert::response(&parts, false, self.is_head, limits, head).map_err(StreamError::Malformed)?;
                head.length = Length::None;
            }
            Head::Final(response) => {
                let (parts, stream) = response.into_parts();
                let ended = stream.is_end_stream();
                let converted = convert::response(&parts, ended, self.is_head, limits, head);
                self.state = State::Body(Inbound::new(stream, head.length, timer, idle, limits));
                converted.map_err(StreamError::Malformed)?;
            }
        }
        Ok(())
    }
}

impl Source for &mut Download {
    fn follow(&mut self, pulse: Rc<Pulse>) {
        self.pulse = Some(pulse);
    }

    fn length(&self) -> Length {
        if let State::Body(body) = &self.state { body.length() } else { Length::None }
    }

    fn is_ready(&self) -> bool {
        if let State::Body(body) = &self.state { body.is_ready() } else { true }
    }

    async fn next(&mut self) -> Result<Option<Chunk>, StreamError> {
        if let State::Body(body) = &mut self.state { body.next().await } else { Err(StreamError::Closed) }
    }

    fn trailers(&mut self) -> Option<Fields> {
        if let State::Body(body) = &mut self.state { body.trailers() } else { None }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        // Given up before an answer, and the connection has been silent: it may lead nowhere (no RST for a host that
        // is gone). Others are not sent after it.
        let live = &self.place.live;
        let waiting = matches!(self.state, State::Waiting(_));
        if waiting && self.heard == live.heard.get() && self.since.elapsed() >= SILENCE {
            live.retire();
        }
    }
}
