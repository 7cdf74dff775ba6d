//! One connection of HTTP/3, from the end of its handshake to its own.
//!
//! In flow streams; out flow exchanges, one per request. Limits are those of the generation in which the connection came;
//! each request belongs to the generation in which it comes. The client is who made the handshake: a connection that moves to
//! another address (RFC 9000 §9) goes on as the same client's, for an address that was not asked proves nothing.
//! It ends by GOAWAY when idle or told to drain.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use quinn::{RecvStream, SendStream, VarInt};
use tokio::sync::Notify;

use super::body::{Event, Inbound, Outgoing, Reader, Responder, Trouble};
use super::control;
use super::frame::{self, Code, kind, setting, stream};
use super::qpack;
use crate::proxy::clock::Elapsed;
use crate::proxy::exchange::End;
use crate::proxy::h1::parse::{HeadLimits, RequestError};
use crate::proxy::h2::body::Patience;
use crate::proxy::h2::budget::{Budget, Flood};
use crate::proxy::h2::convert::{Refusal, RequestBlock};
use crate::proxy::h2::front::{self, Message};
use crate::proxy::message::{RequestHead, Scheme, Version};
use crate::proxy::reason::Reason;
use crate::proxy::worker::{self, Arrival, Worker};

/// How long a client may take to hear of the end, and our last frames to leave.
const ANNOUNCED: Duration = Duration::from_secs(1);
/// Beyond every stream that a client can open (RFC 9114 §5.2).
const EVERY_STREAM: u64 = (1 << 62) - 4;
/// Of those three there is one each.
const CRITICAL: [u64; 3] = [stream::CONTROL, stream::ENCODER, stream::DECODER];

/// What the streams of a connection share.
pub struct Connection {
    quic: quinn::Connection,
    pub worker: Rc<Worker>,
    pub limits: HeadLimits,
    head_timeout: Duration,
    stream_idle_timeout: Duration,
    /// Without a request; requests may change it.
    idle_timeout: Cell<Duration>,
    budget: RefCell<Budget>,
    /// Requests whose responses have not arrived wholly.
    busy: Cell<usize>,
    claimed: Cell<[bool; 3]>,
    has_settings: Cell<bool>,
    is_broken: Cell<bool>,
    changed: Notify,
}

impl Connection {
    /// Whether a critical stream is the first of its kind.
    pub fn claim(&self, kind: u64) -> bool {
        let mut claimed = self.claimed.get();
        let place = CRITICAL.iter().position(|critical| *critical == kind);
        let is_first =
            place.and_then(|place| claimed.get_mut(place)).is_some_and(|slot| !std::mem::replace(slot, true));
        self.claimed.set(claimed);
        is_first
    }

    pub fn heard_settings(&self) {
        self.has_settings.set(true);
        self.changed.notify_one();
    }

    /// A frame that carries nothing.
    pub fn spend_frame(&self) -> Result<(), Trouble> {
        self.budget.borrow_mut().frame().map_err(Trouble::Flooded)
    }

    pub fn earn_frames(&self) {
        self.budget.borrow_mut().earn(1);
    }

    /// A request that came to nothing.
    fn spend_reset(&self) {
        let spent = self.budget.borrow_mut().reset();
        self.note(spent.err().map(Trouble::Flooded));
    }

    /// Ends the connection where the trouble is one of all of it.
    pub fn note(&self, trouble: Option<Trouble>) {
        match trouble {
            None | Some(Trouble::Closed | Trouble::Stalled | Trouble::Malformed(_)) => {}
            Some(Trouble::Broken(code, why)) => self.break_off(code, why, Reason::ProtocolError),
            Some(Trouble::Flooded(flood)) => {
                let (why, reason) = match flood {
                    Flood::Resets => ("too many streams that come to nothing", Reason::StreamFlood),
                    Flood::Frames => ("too many frames that carry nothing", Reason::FrameFlood),
                    Flood::Headers => ("a field section without end", Reason::HeaderFlood),
                };
                self.break_off(Code::ExcessiveLoad, why, reason);
            }
        }
    }

    fn break_off(&self, code: Code, why: &'static str, reason: Reason) {
        if self.is_broken.replace(true) || self.quic.close_reason().is_some() {
            return;
        }
        self.quic.close(code.into(), why.as_bytes());
        self.worker.metrics.count(reason);
        tracing::debug!(client = %self.quic.remote_address(), %reason, why, "HTTP/3 connection closed");
    }
}

/// A request in progress, until it is dropped.
struct Busy(Rc<Connection>);

impl Busy {
    fn new(connection: &Rc<Connection>) -> Self {
        connection.busy.set(connection.busy.get() + 1);
        Self(Rc::clone(connection))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get().saturating_sub(1));
        self.0.changed.notify_one();
    }
}

/// How far the end has come.
#[derive(Debug, Clone, Copy)]
enum Drain {
    No,
    Announced(Instant),
    /// No request is taken any more.
    Final,
}

/// Serves a connection to its end.
pub async fn serve(worker: &Rc<Worker>, quic: quinn::Connection, arrival: Arrival) {
    let limits = worker.current().generation.limits;
    let usual = worker::Patience { idle: limits.idle_timeout, head: limits.head_timeout };
    let patience = arrival.patience.get().unwrap_or(usual);
    let connection = Rc::new(Connection {
        quic,
        worker: Rc::clone(worker),
        limits: limits.head,
        head_timeout: patience.head,
        stream_idle_timeout: limits.stream_idle_timeout,
        idle_timeout: Cell::new(patience.idle),
        budget: RefCell::default(),
        busy: Cell::new(0),
        claimed: Cell::default(),
        has_settings: Cell::new(false),
        is_broken: Cell::new(false),
        changed: Notify::new(),
    });
    let arrival = Rc::new(arrival);
    let begun = Instant::now();
    let (timer, draining) = (worker.clock.timer(), worker.clock.timer());
    let opened = timer.within(connection.head_timeout, open_control(&connection)).await;
    let Ok(Some(mut control)) = opened else { return connection.quic.close(Code::NoError.into(), b"") };
    // Ends when the worker drains, and only then: the timer has no deadline.
    let mut leaving = pin!(worker.unless_draining(draining.limit(std::future::pending::<()>())));
    let mut is_leaving = false;
    let mut drain = Drain::No;
    let mut idle_since = Some(begun);
    let mut next = 0;
    loop {
        if connection.busy.get() > 0 {
            idle_since = None;
        } else if matches!(drain, Drain::Final) {
            return connection.quic.close(Code::NoError.into(), b"");
        } else {
            idle_since = idle_since.or_else(|| Some(Instant::now()));
        }
        let settings = (!connection.has_settings.get()).then(|| begun + connection.head_timeout);
        let idle = connection.idle_timeout.get();
        let rest = match (drain, idle_since) {
            (Drain::Announced(since), _) => Some(since + ANNOUNCED),
            (Drain::No, Some(since)) if !idle.is_zero() => since.checked_add(idle),
            _ => None,
        };
        match settings.into_iter().chain(rest).min() {
            Some(at) => timer.set_at(at),
            None => timer.clear(),
        }
        tokio::select! {
            stream = connection.quic.accept_bi() => match stream {
                Ok((send, receive)) if matches!(drain, Drain::Final) => reject(send, receive),
                Ok((send, receive)) => {
                    next = VarInt::from(send.id()).into_inner() + 4;
                    let (connection, arrival) = (Rc::clone(&connection), Rc::clone(&arrival));
                    let busy = Busy::new(&connection);
                    tokio::task::spawn_local(async move { request(&connection, &arrival, send, receive, busy).await });
                }
                Err(_) => return,
            },
            stream = connection.quic.accept_uni() => match stream {
                Ok(stream) => drop(tokio::task::spawn_local(control::read(Rc::clone(&connection), stream))),
                Err(_) => return,
            },
            () = connection.changed.notified() => {}
            _ = &mut leaving, if !is_leaving => {
                is_leaving = true;
                if matches!(drain, Drain::No) {
                    drain = announce(&timer, &mut control).await;
                }
            }
            Err(Elapsed) = timer.limit(std::future::pending::<()>()) => {
                let now = Instant::now();
                if settings.is_some_and(|at| at <= now) {
                    return connection.break_off(Code::MissingSettings, "no SETTINGS in time", Reason::HeadTimeout);
                }
                match drain {
                    Drain::No => drain = announce(&timer, &mut control).await,
                    Drain::Announced(_) => {
                        send_goaway(&timer, &mut control, next).await;
                        drain = Drain::Final;
                    }
                    Drain::Final => {}
                }
            }
        }
    }
}

/// Says that the end is near; requests that are on their way are still taken (RFC 9114 §5.2).
async fn announce(timer: &crate::proxy::clock::Timer, control: &mut SendStream) -> Drain {
    send_goaway(timer, control, EVERY_STREAM).await;
    Drain::Announced(Instant::now())
}

async fn send_goaway(timer: &crate::proxy::clock::Timer, control: &mut SendStream, stream: u64) {
    let (mut frame, mut payload) = (Vec::new(), Vec::new());
    frame::put_integer(&mut payload, stream);
    frame::put_head(&mut frame, kind::GOAWAY, payload.len());
    frame.extend_from_slice(&payload);
    // A client that leaves no room for it is not told.
    let _ = timer.within(ANNOUNCED, control.write_all(&frame)).await;
}

async fn open_control(connection: &Connection) -> Option<SendStream> {
    let mut control = connection.quic.open_uni().await.ok()?;
    let (mut payload, mut bytes) = (Vec::new(), Vec::new());
    frame::put_integer(&mut payload, setting::MAX_FIELD_SECTION_SIZE);
    frame::put_integer(&mut payload, connection.limits.bytes as u64);
    frame::put_integer(&mut bytes, stream::CONTROL);
    frame::put_head(&mut bytes, kind::SETTINGS, payload.len());
    bytes.extend_from_slice(&payload);
    control.write_all(&bytes).await.ok()?;
    Some(control)
}

/// What comes behind the end may be sent again elsewhere.
fn reject(mut send: SendStream, mut receive: RecvStream) {
    // Either half may be over already.
    let _ = send.reset(Code::RequestRejected.into());
    let _ = receive.stop(Code::RequestRejected.into());
}

/// One request, from the first byte of its stream until the client has the whole response.
async fn request(
    connection: &Rc<Connection>,
    arrival: &Rc<Arrival>,
    send: SendStream,
    receive: RecvStream,
    _busy: Busy,
) {
    let worker = &connection.worker;
    let out = Outgoing::new(send);
    let (gone, delivered) = (out.borrow().over(), out.borrow().over());
    let mut reader = Reader::new(receive, Rc::clone(connection));
    let read = Box::pin(read_head(connection, &mut reader));
    let timer = worker.clock.timer();
    let outcome = match timer.within(connection.head_timeout, read).await {
        Ok(outcome) => outcome,
        Err(Elapsed) => {
            worker.metrics.count(Reason::HeadTimeout);
            Err(Trouble::Malformed("no head in time"))
        }
    };
    let (head, refused, ended) = match outcome {
        Ok(read) => read,
        Err(trouble) => {
            out.borrow_mut().blame(match trouble {
                Trouble::Closed | Trouble::Stalled => Code::RequestIncomplete,
                _ => Code::Message,
            });
            reader.stop(Code::RequestRejected);
            connection.note(Some(trouble));
            return connection.spend_reset();
        }
    };
    connection.budget.borrow_mut().request();
    let idle = connection.stream_idle_timeout;
    let sink = Responder::new(Rc::clone(&out), Patience::new(&worker.clock, idle), head.is_head());
    let mut patience = Patience::new(&worker.clock, idle);
    if !ended {
        // While the response moves, the rest of the request may take its time, and the other way round.
        patience.follow(Rc::default());
    }
    let mut body = Inbound::new(reader, &out, (head.length, ended), patience);
    if head.expect_continue {
        body.owe_continue();
    }
    drop(out);
    let taken_back = Cell::new(false);
    let gone = async {
        if gone.await {
            taken_back.set(true);
        } else {
            std::future::pending::<()>().await;
        }
    };
    let message = Message { head, refused, body, sink };
    let end = Box::pin(front::answer(worker, arrival, message, gone)).await;
    if let Some(patience) = arrival.patience.get() {
        connection.idle_timeout.set(patience.idle);
    }
    if end == End::Complete {
        // A connection that is closed takes with it what has not arrived.
        let _ = timer.within(idle, delivered).await;
    } else if taken_back.get() {
        connection.spend_reset();
    }
}

type Read = (RequestHead, Option<RequestError>, bool);

/// The head of a request, why it is refused, and whether nothing follows.
async fn read_head(connection: &Rc<Connection>, reader: &mut Reader) -> Result<Read, Trouble> {
    // The deadline is the caller's.
    let mut patience = Patience::new(&connection.worker.clock, Duration::ZERO);
    let most = connection.limits.bytes;
    let mut head = front::take_head();
    let section = match reader.event(&mut patience, most).await? {
        Event::Section(section) => section,
        Event::TooLong => {
            head.clear();
            head.version = Version::Http3;
            return Ok((head, Some(RequestError::HeadTooLarge), false));
        }
        Event::Data(_) => return Err(Trouble::Broken(Code::FrameUnexpected, "content before a head")),
        Event::End => return Err(Trouble::Malformed("stream without a request")),
    };
    let ended = reader.is_at_end(&mut patience, most).await?;
    let mut block = RequestBlock::new(&mut head, connection.limits);
    qpack::decode(&section, |name, value| block.field(name, value))
        .map_err(|error| Trouble::Broken(Code::QpackDecompression, error.0))?;
    let finished = block.finish(ended, Scheme::Https);
    head.version = Version::Http3;
    match finished {
        Ok(()) => Ok((head, None, ended)),
        Err(Refusal::Refused(error)) => Ok((head, Some(error), ended)),
        Err(Refusal::Malformed(why)) => {
            connection.worker.metrics.count(Reason::BadRequest(why));
            Err(Trouble::Malformed(why))
        }
    }
}
