//! What comes and goes on a request's stream: [`Inbound`] is its `Source`, [`Responder`] the `Sink` of its response.
//!
//! Flow control is QUIC's: what was taken makes room for more, and nothing is handed to it before there is room. Every wait
//! has a deadline. Nothing is read ahead: a frame's head byte by byte as needed, its content into a buffer of the worker that
//! is there only while there is something to put into it.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use quinn::{ReadError, RecvStream, SendStream, WriteError};

use super::connection::Connection;
use super::frame::{self, Code, Head, kind};
use super::qpack;
use crate::proxy::body::{Chunk, Sink, Source, StreamError};
use crate::proxy::buffer::Buffer;
use crate::proxy::clock::Pulse;
use crate::proxy::h2::body::Patience;
use crate::proxy::h2::budget::Flood;
use crate::proxy::h2::convert::TrailerBlock;
use crate::proxy::message::{Fields, Length, ResponseHead};

/// Why reading a stream has ended before its end.
#[derive(Debug)]
pub enum Trouble {
    /// The client took the stream back, or the connection is gone.
    Closed,
    Stalled,
    /// The message is malformed: the stream is reset.
    Malformed(&'static str),
    /// The connection is of no further use.
    Broken(Code, &'static str),
    Flooded(Flood),
}

/// What a request's stream brings next.
#[derive(Debug)]
pub enum Event {
    /// A field section, as encoded.
    Section(Vec<u8>),
    /// One beyond the limit; nothing of it was read.
    TooLong,
    /// So many bytes of a body follow.
    Data(u64),
    End,
}

/// Reads frames. What has been read of one is kept here, so that a future may be dropped at any point.
pub struct Reader {
    stream: RecvStream,
    connection: Rc<Connection>,
    head: Head,
    /// Of a frame that is of no interest.
    skipping: u64,
    /// A payload that is taken whole, and how much is missing.
    section: Option<(Vec<u8>, u64)>,
    ahead: Option<Event>,
}

impl Reader {
    pub fn new(stream: RecvStream, connection: Rc<Connection>) -> Self {
        Self { stream, connection, head: Head::default(), skipping: 0, section: None, ahead: None }
    }

    pub fn stop(&mut self, code: Code) {
        // A stream that is over needs no stop.
        let _ = self.stream.stop(code.into());
    }

    /// Some bytes, or 0 at the end.
    async fn some(&mut self, patience: &mut Patience, room: &mut [u8]) -> Result<usize, Trouble> {
        let read = patience.until(|cx| self.stream.poll_read(cx, room)).await;
        read.map_err(|_| Trouble::Stalled)?.map_err(closed)
    }

    pub async fn byte(&mut self, patience: &mut Patience) -> Result<Option<u8>, Trouble> {
        let mut byte = [0];
        Ok((self.some(patience, &mut byte).await? > 0).then_some(byte[0]))
    }

    /// An integer in front of everything.
    pub async fn integer(&mut self, patience: &mut Patience) -> Result<Option<u64>, Trouble> {
        let mut bytes = Vec::with_capacity(8);
        loop {
            let Some(byte) = self.byte(patience).await? else { return Ok(None) };
            bytes.push(byte);
            if let Some((value, _)) = frame::integer(&bytes) {
                return Ok(Some(value));
            }
        }
    }

    /// The next frame's kind and length; `None` at the end.
    pub async fn head(&mut self, patience: &mut Patience) -> Result<Option<(u64, u64)>, Trouble> {
        loop {
            if let Some(found) = self.head.take() {
                return Ok(Some(found));
            }
            let Self { stream, head, .. } = self;
            let read = patience.until(|cx| stream.poll_read(cx, head.room())).await;
            match read.map_err(|_| Trouble::Stalled)?.map_err(closed)? {
                0 if head.is_empty() => return Ok(None),
                0 => return Err(CUT),
                count => head.grow(count),
            }
        }
    }

    /// A payload, whose length the caller has judged.
    pub async fn payload(&mut self, patience: &mut Patience, length: u64) -> Result<Vec<u8>, Trouble> {
        self.section = Some((Vec::new(), length));
        self.rest_of_section(patience).await
    }

    async fn rest_of_section(&mut self, patience: &mut Patience) -> Result<Vec<u8>, Trouble> {
        loop {
            let Self { stream, section, .. } = self;
            let Some((bytes, missing)) = section else { return Ok(Vec::new()) };
            if *missing == 0 {
                return Ok(section.take().map(|(bytes, _)| bytes).unwrap_or_default());
            }
            let mut room = [0; 1024];
            let most = room.len().min(usize::try_from(*missing).unwrap_or(usize::MAX));
            let read = patience.until(|cx| stream.poll_read(cx, room.get_mut(..most).unwrap_or_default())).await;
            match read.map_err(|_| Trouble::Stalled)?.map_err(closed)? {
                0 => return Err(CUT),
                count => {
                    bytes.extend_from_slice(room.get(..count).unwrap_or_default());
                    *missing -= count as u64;
                }
            }
        }
    }

    pub async fn skip(&mut self, patience: &mut Patience, length: u64) -> Result<(), Trouble> {
        self.skipping = length;
        while self.skipping > 0 {
            let mut room = [0; 1024];
            let most = room.len().min(usize::try_from(self.skipping).unwrap_or(usize::MAX));
            match self.some(patience, room.get_mut(..most).unwrap_or_default()).await? {
                0 => return Err(CUT),
                count => self.skipping -= count as u64,
            }
        }
        Ok(())
    }

    /// What a request's stream brings next; a section has this many bytes at most.
    pub async fn event(&mut self, patience: &mut Patience, most: usize) -> Result<Event, Trouble> {
        if let Some(event) = self.ahead.take() {
            return Ok(event);
        }
        if self.section.is_some() {
            return Ok(Event::Section(self.rest_of_section(patience).await?));
        }
        loop {
            if self.skipping > 0 {
                self.skip(patience, self.skipping).await?;
            }
            let Some((kind, length)) = self.head(patience).await? else { return Ok(Event::End) };
            match kind {
                kind::DATA if length == 0 => self.connection.spend_frame()?,
                kind::DATA => return Ok(Event::Data(length)),
                kind::HEADERS if length > most as u64 => return Ok(Event::TooLong),
                kind::HEADERS => {
                    let section = self.payload(patience, length).await?;
                    return Ok(Event::Section(section));
                }
                kind::CANCEL_PUSH | kind::SETTINGS | kind::PUSH_PROMISE | kind::GOAWAY | kind::MAX_PUSH_ID => {
                    return Err(Trouble::Broken(Code::FrameUnexpected, "frame of another stream on a request's"));
                }
                kind if kind::is_of_http2(kind) => {
                    return Err(Trouble::Broken(Code::FrameUnexpected, "frame of HTTP/2"));
                }
                // §9: what is unknown is passed over.
                _ => {
                    self.connection.spend_frame()?;
                    self.skipping = length;
                }
            }
        }
    }

    /// Whether the stream is known to be at its end already; waits for nothing.
    pub async fn is_at_end(&mut self, patience: &mut Patience, most: usize) -> Result<bool, Trouble> {
        let next = {
            let mut next = std::pin::pin!(self.event(patience, most));
            std::future::poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await
        };
        if let Poll::Ready(event) = next {
            self.ahead = Some(event?);
        }
        Ok(matches!(self.ahead, Some(Event::End)))
    }
}

/// RFC 9114 §7.1: a stream that ends inside a frame.
const CUT: Trouble = Trouble::Broken(Code::Frame, "stream ends inside a frame");

fn closed(_: ReadError) -> Trouble {
    Trouble::Closed
}

/// The sending half of a request's stream. One that is dropped before it is finished is reset, so that a truncated response
/// never looks whole.
pub struct Outgoing {
    stream: SendStream,
    /// Frames that were begun: they go first, whatever became of the future that began them.
    queue: Vec<u8>,
    is_head_sent: bool,
    is_finished: bool,
    code: Code,
}

impl Outgoing {
    pub fn new(stream: SendStream) -> Rc<RefCell<Self>> {
        let code = Code::InternalError;
        Rc::new(RefCell::new(Self { stream, queue: Vec::new(), is_head_sent: false, is_finished: false, code }))
    }

    /// What the client is told when the stream is reset.
    pub fn blame(&mut self, code: Code) {
        self.code = code;
    }

    /// Resets the stream at once: what was malformed gets no answer, as over HTTP/2.
    fn break_off(&mut self, code: Code) {
        // One that the client has stopped is over already.
        let _ = self.stream.reset(code.into());
        self.is_finished = true;
    }

    /// Done when the client has everything, or has said that it wants no more, or is gone; the latter two are `true`.
    pub fn over(&self) -> impl Future<Output = bool> + use<> {
        let stopped = self.stream.stopped();
        async move { !matches!(stopped.await, Ok(None)) }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, StreamError>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes).map_err(|error: WriteError| match error {
            WriteError::Stopped(_)
            | WriteError::ConnectionLost(_)
            | WriteError::ClosedStream
            | WriteError::ZeroRttRejected => StreamError::Closed,
        })
    }

    fn poll_queue(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        while !self.queue.is_empty() {
            let queue = std::mem::take(&mut self.queue);
            let written = self.poll_write(cx, &queue);
            self.queue = queue;
            let count = ready!(written)?;
            self.queue.drain(..count);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if !self.is_finished {
            // One that the client has stopped is over already.
            let _ = self.stream.reset(self.code.into());
        }
    }
}

type Shared = Rc<RefCell<Outgoing>>;

async fn send(stream: &Shared, patience: &mut Patience, mut bytes: &[u8]) -> Result<(), StreamError> {
    patience.until(|cx| stream.borrow_mut().poll_queue(cx)).await??;
    while !bytes.is_empty() {
        let count = patience.until(|cx| stream.borrow_mut().poll_write(cx, bytes)).await??;
        bytes = bytes.get(count..).unwrap_or_default();
    }
    Ok(())
}

async fn send_section(
    stream: &Shared,
    patience: &mut Patience,
    put: impl FnOnce(&mut Vec<u8>) -> Result<(), crate::proxy::h2::convert::Unwritable>,
) -> Result<(), StreamError> {
    let mut section = Vec::with_capacity(256);
    put(&mut section).map_err(|_| StreamError::Malformed("response head"))?;
    {
        let mut out = stream.borrow_mut();
        frame::put_head(&mut out.queue, kind::HEADERS, section.len());
        out.queue.extend_from_slice(&section);
    }
    send(stream, patience, &[]).await
}

/// A request's body.
pub struct Inbound {
    reader: Reader,
    out: Shared,
    length: Length,
    seen: u64,
    /// Of the frame that is being read.
    rest: u64,
    ended: bool,
    trailers: Option<Fields>,
    had_trailers: bool,
    /// The client waits for a 100 before it sends the body (RFC 9110 §10.1.1).
    owes_continue: bool,
    patience: Patience,
}

impl Inbound {
    pub fn new(reader: Reader, out: &Shared, (length, ended): (Length, bool), patience: Patience) -> Self {
        Self {
            reader,
            out: Rc::clone(out),
            length,
            seen: 0,
            rest: 0,
            ended,
            trailers: None,
            had_trailers: false,
            owes_continue: false,
            patience,
        }
    }

    pub fn owe_continue(&mut self) {
        self.owes_continue = true;
    }

    async fn read(&mut self) -> Result<Option<Chunk>, Trouble> {
        loop {
            if self.rest > 0 {
                return self.content().await.map(Some);
            }
            let most = self.reader.connection.limits.bytes;
            match self.reader.event(&mut self.patience, most).await? {
                Event::Data(_) | Event::Section(_) | Event::TooLong if self.had_trailers => {
                    return Err(Trouble::Broken(Code::FrameUnexpected, "frame behind the trailers"));
                }
                Event::Data(length) => {
                    self.seen = self.seen.saturating_add(length);
                    // RFC 9114 §4.1.2
                    if matches!(self.length, Length::Known(known) if self.seen > known) {
                        return Err(Trouble::Malformed("more content than Content-Length says"));
                    }
                    self.rest = length;
                    self.reader.connection.earn_frames();
                }
                Event::TooLong => return Err(Trouble::Malformed("too many trailer fields")),
                Event::Section(section) => {
                    self.had_trailers = true;
                    let mut block = TrailerBlock::new(self.reader.connection.limits);
                    qpack::decode(&section, |name, value| block.field(name, value))
                        .map_err(|error| Trouble::Broken(Code::QpackDecompression, error.0))?;
                    self.trailers = Some(block.finish().map_err(Trouble::Malformed)?);
                }
                Event::End => {
                    if matches!(self.length, Length::Known(known) if self.seen != known) {
                        return Err(Trouble::Malformed("less content than Content-Length says"));
                    }
                    return Ok(None);
                }
            }
        }
    }

    async fn content(&mut self) -> Result<Chunk, Trouble> {
        let Self { reader: Reader { stream, .. }, patience, rest, .. } = self;
        let read = patience.until(|cx| {
            let mut buffer = Buffer::take();
            let room = buffer.room_mut();
            let most = room.len().min(usize::try_from(*rest).unwrap_or(usize::MAX));
            stream.poll_read(cx, room.get_mut(..most).unwrap_or_default()).map_ok(|count| {
                buffer.grow(count);
                buffer
            })
        });
        let buffer = read.await.map_err(|_| Trouble::Stalled)?.map_err(closed)?;
        if buffer.is_empty() {
            return Err(CUT);
        }
        *rest -= buffer.len() as u64;
        Ok(Chunk::Pooled(buffer))
    }
}

impl Source for Inbound {
    fn pulse(&self) -> Option<Rc<Pulse>> {
        self.patience.pulse()
    }

    fn length(&self) -> Length {
        self.length
    }

    fn is_ready(&self) -> bool {
        self.ended || matches!(self.reader.ahead, Some(Event::End))
    }

    async fn next(&mut self) -> Result<Option<Chunk>, StreamError> {
        if self.ended {
            return Ok(None);
        }
        if std::mem::take(&mut self.owes_continue) && !self.out.borrow().is_head_sent {
            let head = ResponseHead { status: 100, ..ResponseHead::default() };
            send_section(&self.out, &mut self.patience, |into| qpack::put_response(&head, into)).await?;
        }
        match self.read().await {
            Ok(None) => {
                self.ended = true;
                Ok(None)
            }
            Ok(chunk) => Ok(chunk),
            Err(trouble) => {
                let error = match &trouble {
                    Trouble::Closed | Trouble::Flooded(_) => StreamError::Closed,
                    Trouble::Stalled => StreamError::Stalled,
                    Trouble::Malformed(why) | Trouble::Broken(_, why) => StreamError::Malformed(why),
                };
                if matches!(trouble, Trouble::Malformed(_)) {
                    self.out.borrow_mut().break_off(Code::Message);
                }
                self.reader.connection.note(Some(trouble));
                Err(error)
            }
        }
    }

    fn trailers(&mut self) -> Option<Fields> {
        self.trailers.take()
    }

    fn set_idle(&mut self, idle: Duration) {
        self.patience.set_idle(idle);
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        // RFC 9114 §4.1.1: what is not needed any more is not asked for.
        if !self.ended {
            self.reader.stop(Code::NoError);
        }
    }
}

/// Where the response to one request goes.
pub struct Responder {
    out: Shared,
    patience: Patience,
    request_is_head: bool,
    /// The head was the end.
    ended: bool,
}

impl Responder {
    pub fn new(out: Shared, patience: Patience, request_is_head: bool) -> Self {
        Self { out, patience, request_is_head, ended: false }
    }

    async fn send_head(&mut self, head: &ResponseHead) -> Result<(), StreamError> {
        send_section(&self.out, &mut self.patience, |into| qpack::put_response(head, into)).await
    }

    fn end(&mut self) {
        let mut out = self.out.borrow_mut();
        // A client that wants no more has said so, which is seen elsewhere.
        let _ = out.stream.finish();
        out.is_finished = true;
    }
}

impl Sink for Responder {
    async fn interim(&mut self, head: &ResponseHead) -> Result<(), StreamError> {
        self.send_head(head).await
    }

    async fn head(&mut self, head: &ResponseHead) -> Result<(), StreamError> {
        self.out.borrow_mut().is_head_sent = true;
        self.send_head(head).await?;
        self.ended = head.length == Length::None || head.is_bodiless(self.request_is_head);
        if self.ended {
            self.end();
        }
        Ok(())
    }

    async fn chunk(&mut self, chunk: Chunk) -> Result<(), StreamError> {
        if self.ended {
            return Ok(());
        }
        let content = chunk.as_slice();
        frame::put_head(&mut self.out.borrow_mut().queue, kind::DATA, content.len());
        send(&self.out, &mut self.patience, content).await
    }

    fn set_idle(&mut self, idle: Duration) {
        self.patience.set_idle(idle);
    }

    async fn flush(&mut self) -> Result<(), StreamError> {
        // Packets leave at the end of the turn by themselves.
        Ok(())
    }

    async fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), StreamError> {
        if self.ended {
            return Ok(());
        }
        if let Some(trailers) = trailers {
            send_section(&self.out, &mut self.patience, |into| qpack::put_fields(trailers, into)).await?;
        }
        self.ended = true;
        self.end();
        Ok(())
    }
}
