//! A client's HTTP/1 connection: request after request, each decoded, exchanged and answered in order.
//!
//! Deadlines run from accept: a head must be complete in time, an idle connection is closed, a body must move. After a
//! framing error, a cut-off response, or a body that was not read to its end, the connection ends; it is closed in a way
//! that lets the client read what was sent before.
//!
//! What requests need (heads, the exchange, both halves of the connection) is one allocation, which is kept from request to
//! request and given up when none has come for a while: an idle connection is little more than its socket.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::encode::{self, Client};
use super::parse::{self, Connection, Framing, RequestError};
use super::reader::{HeadError, Reader};
use super::writer::Writer;
use crate::proxy::body::{Chunk, Leaving, Sink, Source, StreamError};
use crate::proxy::buffer::Buffer;
use crate::proxy::clock::Pulse;
use crate::proxy::exchange::answer::{self, Answer};
use crate::proxy::exchange::{self, End, Record};
use crate::proxy::io::{Closed, Io};
use crate::proxy::limits::Limits;
use crate::proxy::message::{Fields, Length, RequestHead, ResponseHead, Scheme, Version};
use crate::proxy::reason::Reason;
use crate::proxy::worker::{Arrival, Patience, Worker};

/// The beginning of an HTTP/2 connection preface, which reads like a request head (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";
/// What is read of a body that nobody wanted, so that the connection can go on, and how long that may take.
const MOST_DRAINED: usize = 64 << 10;
const DRAIN_TIME: Duration = Duration::from_secs(2);
/// How long everything is kept for the next request.
const LINGER: Duration = Duration::from_secs(1);
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// How a connection ended, for the caller who owns it.
pub enum Served<I> {
    Closed,
    /// It speaks HTTP/2 by prior knowledge; these bytes were read already, the preface among them.
    Http2 {
        io: I,
        ahead: Option<Buffer>,
    },
}

/// Serves a connection to its end.
pub async fn serve<I: Io>(worker: &Rc<Worker>, io: I, arrival: &Arrival) -> Served<I> {
    let mut first = true;
    loop {
        match Box::pin(requests(worker, &io, arrival, first)).await {
            Pause::Ended => return Served::Closed,
            Pause::Http2 { ahead } => return Served::Http2 { io, ahead },
            Pause::Idle(patience) => {
                first = false;
                let timer = worker.clock.timer();
                timer.set(patience);
                let waited = worker.unless_idle_ends(timer.limit(io.readable())).await;
                if !matches!(waited, Some(Ok(Ok(())))) {
                    // Nothing is here to be read, so a close resets nothing.
                    timer.set(DRAIN_TIME);
                    let _ = timer.limit(io.finish()).await;
                    return Served::Closed;
                }
            }
        }
    }
}

/// Why there is no next request for now.
enum Pause {
    Ended,
    Http2 {
        ahead: Option<Buffer>,
    },
    /// None has come, and the client may wait so much longer.
    Idle(Duration),
}

/// Serves requests as long as they come. But for the `first` there is something to be read.
async fn requests<I: Io>(worker: &Rc<Worker>, io: &I, arrival: &Arrival, first: bool) -> Pause {
    let limits = worker.current().generation.limits;
    let mut reader = Reader::new(worker.clock.timer(), limits.head);
    reader.tolerate_empty_lines();
    reader.timer.follow(Rc::default());
    let mut writer = Writer::new(worker.clock.timer());
    let mut request = RequestHead::default();
    let mut response = ResponseHead::default();
    let scheme = if arrival.secure { Scheme::Https } else { Scheme::Http };
    let mut session = Session { worker, io, arrival, limits };
    if first {
        reader.timer.set_at(arrival.at + session.patience().head);
    } else {
        reader.timer.set(session.patience().head);
    }
    let (mut first, mut here) = (first, true);
    loop {
        if !std::mem::take(&mut here) {
            // What changed while the connection was in use counts from the next request on.
            session.limits = worker.current().generation.limits;
            reader.set_limits(session.limits.head);
            match session.wait(&mut reader).await {
                Wait::Come => {}
                Wait::Later(patience) => return Pause::Idle(patience),
                Wait::Never => break,
            }
        }
        let length = match reader.head(io).await {
            Ok(length) => length,
            Err(error) => {
                session.refuse_head(&error, first, &mut writer, &mut response).await;
                break;
            }
        };
        if first && !arrival.secure && reader.held().starts_with(PREFACE) {
            return Pause::Http2 { ahead: reader.take_held() };
        }
        let is_first = std::mem::take(&mut first);
        let bytes = reader.held().get(..length).unwrap_or_default();
        let connection = match parse::request(bytes, scheme, session.limits.head, &mut request) {
            Ok(connection) => connection,
            Err(_) if is_first && !arrival.secure && is_foreign(bytes) => {
                worker.metrics.count(Reason::ProtocolError);
                break;
            }
            Err(error) => {
                session.refuse(error, &request, &mut writer, &mut response).await;
                break;
            }
        };
        reader.begin_body(length, connection.framing);
        match session.exchange(connection, &mut request, &mut response, &mut reader, &mut writer).await {
            Next::Request => {}
            Next::Close => break,
            Next::Reset => return Pause::Ended,
        }
    }
    close(io, &reader).await;
    Pause::Ended
}

/// Whether the next request is here.
enum Wait {
    Come,
    Later(Duration),
    Never,
}

/// Whether a first line is of no version of HTTP/1: each has a slash, in its target or in its version. On a port where HTTP/2
/// may begin as well it is a broken preface, after which the connection ends without a word (RFC 9113 §3.4); an answer
/// in HTTP/1 would be read as a frame.
fn is_foreign(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    !line.contains(&b'/')
}

/// What becomes of a connection after an exchange.
enum Next {
    Request,
    Close,
    /// It is closed so that the client sees that something is missing.
    Reset,
}

/// What stays the same over the requests of a connection.
struct Session<'a, I> {
    worker: &'a Rc<Worker>,
    io: &'a I,
    arrival: &'a Arrival,
    limits: Limits,
}

impl<I: Io> Session<'_, I> {
    /// Waits a moment for the next request; no buffer is held meanwhile.
    async fn wait(&self, reader: &mut Reader) -> Wait {
        if self.worker.ends_idle() {
            return Wait::Never;
        }
        let patience = self.patience();
        reader.timer.set(patience.idle.min(LINGER));
        match self.worker.unless_idle_ends(reader.wait(self.io)).await {
            Some(Ok(())) => {
                reader.timer.set(patience.head);
                Wait::Come
            }
            Some(Err(HeadError::Elapsed { .. })) if patience.idle > LINGER => Wait::Later(patience.idle - LINGER),
            _ => Wait::Never,
        }
    }

    /// As the listener of the handshake or of the last request has it, which is all that is known of the next.
    fn patience(&self) -> Patience {
        let usual = Patience { idle: self.limits.idle_timeout, head: self.limits.head_timeout };
        self.arrival.patience.get().unwrap_or(usual)
    }

    /// One exchange; says what becomes of the connection.
    async fn exchange(
        &self,
        connection: Connection,
        request: &mut RequestHead,
        response: &mut ResponseHead,
        reader: &mut Reader,
        writer: &mut Writer,
    ) -> Next {
        let state = State {
            responded: Cell::new(false),
            close: Cell::new(!connection.keep_alive),
            owes_continue: Cell::new(request.expect_continue),
            is_tunnel: Cell::new(false),
            interim: Cell::default(),
        };
        let idle = self.limits.stream_idle_timeout;
        let mut source = ClientSource { io: self.io, reader, state: &state, length: request.length, idle };
        let mut sink = ClientSink {
            worker: self.worker,
            io: self.io,
            writer,
            state: &state,
            version: request.version,
            is_head: request.is_head(),
            idle,
        };
        let end = exchange::run(self.worker, self.arrival, request, response, &mut source, &mut sink).await;
        if end == End::Broken {
            // Without its proper end the response is visibly cut off; what is held back must not leave either.
            writer.clear();
            self.io.reset();
            return Next::Reset;
        }
        if state.close.get() || state.is_tunnel.get() {
            return Next::Close;
        }
        if reader.has_ended() || drain(self.io, reader).await { Next::Request } else { Next::Close }
    }

    async fn refuse(
        &self,
        error: RequestError,
        request: &RequestHead,
        writer: &mut Writer,
        response: &mut ResponseHead,
    ) {
        let reason = match error {
            RequestError::Malformed(what) => Reason::BadRequest(what),
            RequestError::TargetTooLong | RequestError::HeadTooLarge => Reason::TooLarge,
            RequestError::Version | RequestError::NotImplemented(_) | RequestError::Expectation => Reason::Unsupported,
        };
        self.answer(Answer::new(error.status(), reason), request, writer, response).await;
    }

    async fn refuse_head(&self, error: &HeadError, first: bool, writer: &mut Writer, response: &mut ResponseHead) {
        let answer = match error {
            HeadError::Malformed(what) => Answer::new(400, Reason::BadRequest(what)),
            HeadError::TooLarge { in_start_line: true } => Answer::new(414, Reason::TooLarge),
            HeadError::TooLarge { in_start_line: false } => Answer::new(431, Reason::TooLarge),
            HeadError::Elapsed { started: true } => Answer::new(408, Reason::HeadTimeout),
            // Who says nothing is told nothing.
            HeadError::Elapsed { started: false } => {
                if first {
                    self.worker.metrics.count(Reason::HeadTimeout);
                }
                return;
            }
            HeadError::Closed | HeadError::Truncated | HeadError::Io(_) => return,
        };
        self.answer(answer, &RequestHead::default(), writer, response).await;
    }

    /// An answer to what is no request; the connection ends with it.
    async fn answer(&self, answer: Answer, request: &RequestHead, writer: &mut Writer, response: &mut ResponseHead) {
        let state = State {
            responded: Cell::new(false),
            close: Cell::new(true),
            owes_continue: Cell::new(false),
            is_tunnel: Cell::new(false),
            interim: Cell::default(),
        };
        // It may be a client that never reads: the answer is small, and its time too.
        let idle = self.limits.head_timeout;
        let mut sink = ClientSink {
            worker: self.worker,
            io: self.io,
            writer,
            state: &state,
            version: Version::Http11,
            is_head: request.is_head(),
            idle,
        };
        let body = answer.fill(false, response);
        let mut record = Record::begin(self.arrival);
        record.answered(answer.status, answer.reason);
        let _ = answer::send(&mut sink, response, body).await;
        record.write(self.worker, &self.worker.current(), self.arrival, request);
    }
}

/// Reads the rest of a body that the response did not wait for. `false`: too much, too slow, or not in order.
async fn drain<I: Io>(io: &I, reader: &mut Reader) -> bool {
    let mut left = MOST_DRAINED;
    let end = Instant::now() + DRAIN_TIME;
    while let Ok(chunk) = reader.next(io, DRAIN_TIME).await {
        if Instant::now() >= end {
            return false;
        }
        let Some(chunk) = chunk else { return true };
        let Some(rest) = left.checked_sub(chunk.as_slice().len()) else { return false };
        left = rest;
    }
    false
}

/// Ends a connection: our end first, then a short while for the client's, because closing with unread bytes would reset
/// the connection and could cost the client the response it is about to read (RFC 9112 §9.6).
async fn close<I: Io>(io: &I, reader: &Reader) {
    reader.timer.set(DRAIN_TIME);
    // Inside TLS this sends bytes, for which a client that does not read leaves no room.
    let finished = reader.timer.limit(io.finish()).await;
    if !matches!(finished, Ok(Ok(()))) || reader.is_clean() {
        return;
    }
    let mut left = MOST_DRAINED;
    let discard = async {
        loop {
            if io.readable().await.is_err() {
                return;
            }
            match io.read(Buffer::take()).await {
                (Ok(1..), buffer) if buffer.len() <= left => left -= buffer.len(),
                _ => return,
            }
        }
    };
    let _ = reader.timer.limit(discard).await;
}

/// What the two directions of an exchange know of each other.
struct State {
    responded: Cell<bool>,
    close: Cell<bool>,
    /// The client waits for a 100 before it sends its body (RFC 9110 §10.1.1).
    owes_continue: Cell<bool>,
    is_tunnel: Cell<bool>,
    interim: Cell<Interim>,
}

/// A 100 on its way, which is written beside the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Interim {
    #[default]
    Whole,
    Writing,
    /// It was given up in the middle: nothing that follows can be understood.
    Torn,
}

struct Whole<'a>(&'a Cell<Interim>);

impl<'a> Whole<'a> {
    fn begin(interim: &'a Cell<Interim>) -> Self {
        interim.set(Interim::Writing);
        Self(interim)
    }

    fn done(self) {
        self.0.set(Interim::Whole);
    }
}

impl Drop for Whole<'_> {
    fn drop(&mut self) {
        if self.0.get() == Interim::Writing {
            self.0.set(Interim::Torn);
        }
    }
}

impl State {
    /// Lets a 100 leave first. Who writes it belongs to the same task, and so wakes who waits here.
    async fn behind_interim(&self) -> Result<(), StreamError> {
        poll_fn(|_| match self.interim.get() {
            Interim::Whole => Poll::Ready(Ok(())),
            Interim::Writing => Poll::Pending,
            Interim::Torn => Poll::Ready(Err(StreamError::Closed)),
        })
        .await
    }
}

struct ClientSource<'a, I> {
    io: &'a I,
    reader: &'a mut Reader,
    state: &'a State,
    length: Length,
    idle: Duration,
}

impl<I: Io> Source for ClientSource<'_, I> {
    fn length(&self) -> Length {
        self.length
    }

    fn is_ready(&self) -> bool {
        self.reader.is_ready()
    }

    async fn next(&mut self) -> Result<Option<Chunk>, StreamError> {
        // Somebody wants the body now, so it is promised to be read; unless it comes anyway, or is answered already.
        if self.state.owes_continue.get() {
            self.state.owes_continue.set(false);
            if !self.reader.is_ready() && !self.state.responded.get() {
                let whole = Whole::begin(&self.state.interim);
                let written = self.io.write(Chunk::Shared(Bytes::from_static(CONTINUE)));
                let Ok((result, _)) = self.reader.timer.within(self.idle, written).await else {
                    self.io.abort();
                    return Err(StreamError::Stalled);
                };
                result?;
                whole.done();
            }
        }
        let next = self.reader.next(self.io, self.idle).await;
        if next.is_err() {
            self.state.close.set(true);
        }
        next
    }

    fn trailers(&mut self) -> Option<Fields> {
        self.reader.trailers()
    }

    fn pulse(&self) -> Option<Rc<Pulse>> {
        self.reader.timer.pulse()
    }

    fn limit_buffer(&mut self, bytes: Option<u64>) {
        self.reader.limit_buffer(bytes);
    }

    fn set_idle(&mut self, idle: Duration) {
        self.idle = idle;
    }

    fn begin_tunnel(&mut self) {
        self.idle = Duration::ZERO;
        self.reader.begin_tunnel();
    }
}

struct ClientSink<'a, I> {
    worker: &'a Worker,
    io: &'a I,
    writer: &'a mut Writer,
    state: &'a State,
    version: Version,
    is_head: bool,
    idle: Duration,
}

impl<I: Io> Sink for ClientSink<'_, I> {
    async fn interim(&mut self, head: &ResponseHead) -> Result<(), StreamError> {
        if self.version == Version::Http10 {
            return Ok(());
        }
        self.state.behind_interim().await?;
        encode::interim(head, self.writer);
        self.writer.flush(self.io, self.idle).await
    }

    async fn head(&mut self, head: &ResponseHead) -> Result<(), StreamError> {
        let state = self.state;
        state.responded.set(true);
        state.behind_interim().await?;
        // A client that still waits for a 100 may send its body or not: the connection would be out of step.
        let close = state.close.get() || state.owes_continue.get() || self.worker.is_draining();
        let client = Client { version: self.version, is_head: self.is_head, close };
        state.close.set(encode::response(head, client, self.writer));
        if head.status == 101 {
            state.is_tunnel.set(true);
            self.idle = Duration::ZERO;
        }
        Ok(())
    }

    fn poll_leaving(&mut self, cx: &mut Context<'_>) -> Poll<Leaving> {
        self.io.poll_closed(cx).map(|closed| match closed {
            // A body that was not asked for yet will not come any more.
            Closed::Ended if !self.state.owes_continue.get() => Leaving::Perhaps,
            Closed::Ended | Closed::Broken => Leaving::Gone,
        })
    }

    async fn gone(&mut self) {
        self.io.broken().await;
    }

    fn close(&mut self) {
        self.state.close.set(true);
    }

    fn set_idle(&mut self, idle: Duration) {
        self.idle = idle;
    }

    async fn chunk(&mut self, chunk: Chunk) -> Result<(), StreamError> {
        self.writer.chunk(self.io, chunk, self.idle).await
    }

    async fn flush(&mut self) -> Result<(), StreamError> {
        self.writer.flush(self.io, self.idle).await
    }

    async fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), StreamError> {
        if self.state.close.get() && !self.state.is_tunnel.get() {
            self.io.last();
        }
        self.writer.finish(self.io, trailers, self.idle).await?;
        if self.state.is_tunnel.get() {
            self.io.finish().await?;
        }
        Ok(())
    }
}

impl Framing {
    /// Whether bytes follow the head.
    pub fn has_body(self) -> bool {
        !matches!(self, Self::None | Self::Length(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::io::Socket;

    /// What requests need is not in it.
    #[test]
    fn the_task_of_a_connection_is_small() {
        fn size_of<'a, F>(_: impl Fn(&'a Rc<Worker>, Socket, &'a Arrival) -> F) -> usize {
            std::mem::size_of::<F>()
        }
        let size = size_of(serve::<Socket>);
        assert!(size < 700, "{size} bytes");
    }
}
