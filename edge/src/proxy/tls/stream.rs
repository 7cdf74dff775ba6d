//! A connection inside TLS, for everything that runs on [`Io`]: records between plaintext buffers and a socket.
//!
//! In flow a socket, a config and the bytes that were already read; out flows an [`Io`] whose end is the peer's
//! close_notify. An end without it is an error (`UnexpectedEof`), so that a truncated body never looks whole
//! (RFC 8446 §6.1). Both directions run at the same time; records leave in the order in which they were sealed, also
//! those that the reading side owes (key updates, alerts). While nobody moves bytes, no buffer of the pool is held.
//!
//! A server whose config lets secrets be extracted has [`Records`] after the handshake; everybody else stays with rustls.

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::CertificateDer;
use rustls::{ClientConnection, Connection, ServerConfig, ServerConnection};
use tokio::sync::Mutex;

use super::handshake::{self, Agreed};
use super::large;
use super::record::cipher::MOST_CONTENT;
use super::record::{Records, Step, Taken};
use super::table::UpstreamConfig;
use super::verify::explain;
use crate::proxy::body::Chunk;
use crate::proxy::buffer::{BUFFER_SIZE, Buffer};
use crate::proxy::io::{Closed, Io};

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{0}")]
    Refused(String),
    /// The peer's certificate is no good, or it has shown none.
    #[error("{0}")]
    Certificate(String),
    #[error("closed during the TLS handshake")]
    Closed,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
                Self::Certificate(explain(&error))
            }
            error => Self::Refused(explain(&error)),
        }
    }
}

/// TLS over a socket, after the handshake.
pub struct TlsStream<S> {
    io: S,
    session: RefCell<Session>,
    agreed: Option<Agreed>,
    /// The client's chain, until somebody takes it.
    certificates: Option<Box<[CertificateDer<'static>]>>,
    /// Held from sealing to sent: records carry a sequence number each.
    sending: Mutex<()>,
    /// Whether the last read filled its buffer: then the next takes a large one.
    busy: Cell<bool>,
}

/// What turns plaintext into records and back.
pub enum Layer {
    Rustls(Box<Connection>),
    Records(Box<Records>),
}

pub(super) struct Session {
    pub(super) layer: Layer,
    /// Bytes from the socket that were not looked at; with [`Records`], maybe plaintext at their beginning.
    pub(super) incoming: Option<Buffer>,
}

impl<S: Io> TlsStream<S> {
    /// The server's side. `initial` is what was read before, the ClientHello. The deadline is the caller's.
    pub async fn accept(io: S, config: &Arc<ServerConfig>, initial: Buffer) -> Result<Self, TlsError> {
        if config.enable_secret_extraction {
            let done = handshake::serve(&io, config, initial).await?;
            let mut stream = Self::new(io, Layer::Records(Box::new(done.records)), done.incoming);
            (stream.agreed, stream.certificates) = (Some(done.agreed), done.certificates);
            return Ok(stream);
        }
        let connection = ServerConnection::new(Arc::clone(config))?;
        let mut stream = Self::handshake(io, connection.into(), Some(initial)).await?;
        stream.certificates = stream.session.get_mut().certificates();
        Ok(stream)
    }

    /// The client's side. The deadline is the caller's.
    pub async fn connect(io: S, upstream: &UpstreamConfig) -> Result<Self, TlsError> {
        let connection = ClientConnection::new(Arc::clone(&upstream.config), upstream.name.clone())?;
        Self::handshake(io, connection.into(), None).await
    }

    fn new(io: S, layer: Layer, incoming: Option<Buffer>) -> Self {
        let session = RefCell::new(Session { layer, incoming });
        Self { io, session, agreed: None, certificates: None, sending: Mutex::new(()), busy: Cell::new(false) }
    }

    async fn handshake(io: S, connection: Connection, incoming: Option<Buffer>) -> Result<Self, TlsError> {
        let mut stream = Self::new(io, Layer::Rustls(Box::new(connection)), incoming);
        loop {
            stream.send(&[]).await?;
            let agreed = stream.session.borrow().agreed();
            if agreed.is_some() {
                stream.agreed = agreed;
                return Ok(stream);
            }
            let fed = stream.session.borrow_mut().feed();
            match fed {
                Ok(true) => {}
                Ok(false) => {
                    if !stream.receive().await? {
                        return Err(TlsError::Closed);
                    }
                }
                Err(error) => {
                    // The alert says it to the peer as well.
                    let _ = stream.send(&[]).await;
                    return Err(error.into());
                }
            }
        }
    }

    /// What the handshake settled.
    pub fn agreed(&self) -> Option<&Agreed> {
        self.agreed.as_ref()
    }

    /// The chain that a client has shown, its own certificate first; empty where there is none.
    pub fn take_certificates(&mut self) -> Box<[CertificateDer<'static>]> {
        self.certificates.take().unwrap_or_default()
    }

    pub fn is_h2(&self) -> bool {
        self.agreed.is_some_and(|agreed| agreed.h2)
    }

    pub fn get_ref(&self) -> &S {
        &self.io
    }

    /// The socket, the TLS state and what was read ahead, for another way of moving bytes. Nothing may be pending.
    pub fn into_parts(self) -> (S, Layer, Option<Buffer>) {
        let session = self.session.into_inner();
        (self.io, session.layer, session.incoming)
    }

    /// Takes the next bytes from the socket; `false` at its end.
    async fn receive(&self) -> io::Result<bool> {
        self.io.readable().await?;
        let buffer = self.session.borrow_mut().receiver(self.busy.get());
        let (result, buffer) = self.io.read(buffer).await;
        let count = result?;
        self.busy.set(buffer.room() == 0);
        let mut session = self.session.borrow_mut();
        if count == 0 {
            session.end()?;
            return Ok(false);
        }
        session.incoming = Some(buffer);
        Ok(true)
    }

    /// Seals and sends all of `plaintext`, and before it all that is owed.
    async fn send(&self, plaintext: &[u8]) -> io::Result<()> {
        let _sending = self.sending.lock().await;
        self.send_alone(plaintext).await
    }

    async fn send_alone(&self, mut plaintext: &[u8]) -> io::Result<()> {
        loop {
            let sealed = self.session.borrow_mut().seal(&mut plaintext)?;
            let Some(buffer) = sealed else { return Ok(()) };
            let (result, chunk) = self.io.write(Chunk::Pooled(buffer)).await;
            if let Chunk::Pooled(buffer) = chunk {
                large::give_back(buffer);
            }
            result?;
        }
    }

    /// Sends what reading made necessary, unless a writer is at it: that one sends it along.
    async fn send_owed(&self) -> io::Result<()> {
        match self.sending.try_lock() {
            Ok(_sending) => self.send_alone(&[]).await,
            Err(_) => Ok(()),
        }
    }
}

impl<S: Io> Io for TlsStream<S> {
    /// May be early: what has arrived can turn out to be no data but a key update or a ticket.
    async fn readable(&self) -> io::Result<()> {
        if self.session.borrow_mut().is_readable() {
            return Ok(());
        }
        self.io.readable().await
    }

    async fn read(&self, mut buffer: Buffer) -> (io::Result<usize>, Buffer) {
        loop {
            let (result, owed) = {
                let mut session = self.session.borrow_mut();
                (session.take(&mut buffer), session.is_urgent())
            };
            if owed && let Err(error) = self.send_owed().await {
                return (Err(error), buffer);
            }
            match result {
                Ok(Some(count)) => return (Ok(count), buffer),
                Ok(None) => {}
                Err(error) => return (Err(error), buffer),
            }
            if let Err(error) = self.receive().await {
                return (Err(error), buffer);
            }
        }
    }

    async fn write(&self, mut chunk: Chunk) -> (io::Result<()>, Chunk) {
        let _sending = self.sending.lock().await;
        let in_place = match &mut chunk {
            Chunk::Pooled(buffer) => self.session.borrow_mut().seal_in_place(buffer),
            Chunk::Shared(_) => Ok(false),
        };
        match in_place {
            Ok(true) => {
                let (result, chunk) = self.io.write(chunk).await;
                // What became owed meanwhile was left to us.
                let is_urgent = self.session.borrow().is_urgent();
                let result = if is_urgent && result.is_ok() { self.send_alone(&[]).await } else { result };
                (result, chunk)
            }
            Ok(false) => (self.send_alone(chunk.as_slice()).await, chunk),
            Err(error) => (Err(error), chunk),
        }
    }

    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<Closed> {
        self.io.poll_closed(cx)
    }

    async fn broken(&self) {
        self.io.broken().await;
    }

    async fn finish(&self) -> io::Result<()> {
        self.session.borrow_mut().close();
        self.send(&[]).await?;
        self.io.finish().await
    }

    fn last(&self) {
        if let Layer::Records(records) = &mut self.session.borrow_mut().layer {
            records.close_with_next();
        }
    }

    fn reset(&self) {
        self.io.reset();
    }

    fn abort(&self) {
        self.io.abort();
    }

    fn is_quiet(&self) -> bool {
        !self.session.borrow_mut().is_readable() && self.io.is_quiet()
    }
}

impl<S> std::fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsStream").finish_non_exhaustive()
    }
}

impl Session {
    /// Set once the handshake is over.
    fn agreed(&self) -> Option<Agreed> {
        match &self.layer {
            Layer::Rustls(connection) if !connection.is_handshaking() => Some(Agreed::of(connection)),
            _ => None,
        }
    }

    fn certificates(&self) -> Option<Box<[CertificateDer<'static>]>> {
        match &self.layer {
            Layer::Rustls(connection) => connection.peer_certificates().map(Into::into),
            Layer::Records(_) => None,
        }
    }

    /// Gives rustls some of the bytes that are here; `false` when there are none.
    fn feed(&mut self) -> Result<bool, rustls::Error> {
        match &mut self.layer {
            Layer::Rustls(connection) => feed(connection, &mut self.incoming),
            Layer::Records(_) => Ok(false),
        }
    }

    /// The buffer to read into next, which has room.
    fn receiver(&mut self, busy: bool) -> Buffer {
        let usual = || if busy { large::take() } else { Buffer::take() };
        let Layer::Records(records) = &self.layer else { return usual() };
        let Some(mut held) = self.incoming.take().filter(|held| !held.is_empty()) else { return usual() };
        held.compact();
        let whole = records.wants(held.as_slice());
        if held.len() + held.room() >= whole && held.room() > 0 {
            return held;
        }
        let mut larger = large::take();
        larger.append(held.as_slice());
        larger
    }

    /// The socket has ended.
    fn end(&mut self) -> io::Result<()> {
        match &mut self.layer {
            // rustls tells an end with close_notify from one without.
            Layer::Rustls(connection) => connection.read_tls(&mut io::empty()).map(drop),
            Layer::Records(records) => {
                records.cut();
                Ok(())
            }
        }
    }

    /// Ends our direction: the next records end with close_notify.
    fn close(&mut self) {
        match &mut self.layer {
            Layer::Rustls(connection) => connection.send_close_notify(),
            Layer::Records(records) => records.close(),
        }
    }

    /// Whether something should leave even if there is no data.
    fn is_urgent(&self) -> bool {
        match &self.layer {
            Layer::Rustls(connection) => connection.wants_write(),
            Layer::Records(records) => records.is_urgent(),
        }
    }

    /// Records to be sent next: what is owed, and as much of the plaintext as fits behind it.
    fn seal(&mut self, plaintext: &mut &[u8]) -> io::Result<Option<Buffer>> {
        match &mut self.layer {
            Layer::Rustls(connection) => {
                let mut taken = 0;
                if !plaintext.is_empty() {
                    taken = connection.writer().write(plaintext)?;
                    *plaintext = plaintext.get(taken..).unwrap_or_default();
                } else if !connection.wants_write() {
                    return Ok(None);
                }
                // More would mean many records: all that rustls holds goes out in one write.
                let mut buffer = if taken > SMALL { large::take() } else { Buffer::take() };
                connection.write_tls(&mut Gather(&mut buffer))?;
                Ok(Some(buffer))
            }
            Layer::Records(records) => {
                if !plaintext.is_empty() {
                    records.refresh()?;
                } else if !records.owes() {
                    return Ok(None);
                }
                let owed = records.take_owed();
                let mut buffer = match owed.len() + plaintext.len() {
                    0..SMALL => Buffer::take(),
                    _ if owed.len() < SMALL => large::take(),
                    // Tickets that hold a long chain of certificates.
                    _ => return Ok(Some(Buffer::copy_of(&owed))),
                };
                buffer.append(&owed);
                let (taken, written) = records.seal(plaintext, buffer.room_mut())?;
                buffer.grow(written);
                *plaintext = plaintext.get(taken..).unwrap_or_default();
                if plaintext.is_empty() {
                    end_with(records, &mut buffer);
                }
                Ok(Some(buffer))
            }
        }
    }

    /// Makes a record of a buffer where it lies; `false` where that cannot be.
    fn seal_in_place(&mut self, buffer: &mut Buffer) -> io::Result<bool> {
        let Layer::Records(records) = &mut self.layer else { return Ok(false) };
        if buffer.is_empty() || buffer.len() > MOST_CONTENT {
            return Ok(false);
        }
        records.refresh()?;
        if records.owes() {
            return Ok(false);
        }
        let (front, back) = records.margins();
        let Some(record) = buffer.surround(front, back) else { return Ok(false) };
        records.seal_in_place(record)?;
        end_with(records, buffer);
        Ok(true)
    }

    /// Moves plaintext into the buffer; `None` when more bytes of the peer are needed, 0 after its close_notify.
    fn take(&mut self, buffer: &mut Buffer) -> io::Result<Option<usize>> {
        let mut total = 0;
        loop {
            if buffer.room() == 0 {
                return Ok(Some(total));
            }
            let more = match &mut self.layer {
                Layer::Rustls(connection) => take_from_rustls(connection, &mut self.incoming, buffer),
                Layer::Records(records) => take_record(records, &mut self.incoming, buffer, total > 0),
            };
            match more {
                Ok(Some(0)) => return Ok(Some(total)),
                Ok(Some(count)) => total += count,
                Ok(None) => return Ok((total > 0).then_some(total)),
                // What came before an error or an early end is given out first; both stay.
                Err(_) if total > 0 => return Ok(Some(total)),
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether `take` would give something, be it the end or an error.
    fn is_readable(&mut self) -> bool {
        let connection = match &mut self.layer {
            Layer::Rustls(connection) => connection,
            Layer::Records(records) => {
                return records.is_readable(self.incoming.as_ref().map(Buffer::as_slice).unwrap_or_default());
            }
        };
        loop {
            match connection.reader().fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match feed(connection, &mut self.incoming) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(_) => return true,
                },
                _ => return true,
            }
        }
        // rustls makes its own buffer small again on the next read, which may be an hour away: this is such a read.
        let _ = connection.read_tls(&mut Nothing);
        false
    }
}

/// Gives rustls some of the bytes that are here; `false` when there are none.
fn feed(connection: &mut Connection, incoming: &mut Option<Buffer>) -> Result<bool, rustls::Error> {
    let Some(buffer) = incoming else { return Ok(false) };
    let mut bytes = buffer.as_slice();
    let before = bytes.len();
    // Fails only where plaintext waits; the callers take that first.
    let count = connection.read_tls(&mut bytes).map_err(|error| rustls::Error::General(error.to_string()))?;
    if count == 0 || count >= before {
        // After close_notify nothing is taken: what follows it is to be ignored.
        if let Some(buffer) = incoming.take() {
            large::give_back(buffer);
        }
    } else {
        buffer.advance(count);
    }
    connection.process_new_packets()?;
    Ok(true)
}

fn take_from_rustls(
    connection: &mut Connection,
    incoming: &mut Option<Buffer>,
    buffer: &mut Buffer,
) -> io::Result<Option<usize>> {
    loop {
        match connection.reader().read(buffer.room_mut()) {
            Ok(count) => {
                buffer.grow(count);
                return Ok(Some(count));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !feed(connection, incoming).map_err(invalid)? {
                    return Ok(None);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Puts close_notify behind the last data, where that is wanted and there is room.
fn end_with(records: &mut Records, buffer: &mut Buffer) {
    if records.closes_with_next() && buffer.room() >= CLOSE_NOTIFY {
        records.close();
        buffer.append(&records.take_owed());
    }
}

/// The next record's data, or a part of it. `some`: the buffer has data already, which may go before more is copied.
fn take_record(
    records: &mut Records,
    incoming: &mut Option<Buffer>,
    buffer: &mut Buffer,
    some: bool,
) -> io::Result<Option<usize>> {
    loop {
        let bytes = incoming.as_mut().map(Buffer::as_mut_slice).unwrap_or_default();
        let most = buffer.room();
        let into = buffer.room_and_back_mut();
        if some && records.copies(bytes, into.len(), most) {
            return Ok(None);
        }
        let Step { used, taken } = records.take(bytes, into, most)?;
        if let Some(held) = incoming {
            held.advance(used);
            if held.is_empty()
                && let Some(held) = incoming.take()
            {
                large::give_back(held);
            }
        }
        match taken {
            Taken::Data(count) => {
                buffer.grow(count);
                return Ok(Some(count));
            }
            Taken::Nothing => {}
            Taken::Starved => return Ok(None),
            Taken::Ended => return Ok(Some(0)),
        }
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// A source without bytes, but without an end either.
struct Nothing;

impl io::Read for Nothing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// Collects records into one buffer, as many bytes as fit.
struct Gather<'a>(&'a mut Buffer);

impl io::Write for Gather<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.0.append(bytes))
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let mut total = 0;
        for slice in slices {
            let count = self.0.append(slice);
            total += count;
            if count < slice.len() {
                break;
            }
        }
        Ok(total)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The longest record of an alert, with a little to spare.
const CLOSE_NOTIFY: usize = 64;

/// Plaintext up to this size, sealed, fits into a buffer of the pool together with a little that was owed.
const SMALL: usize = BUFFER_SIZE - 512;

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
