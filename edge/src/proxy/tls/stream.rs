//! A connection inside TLS, for everything that runs on [`Io`]: rustls between plaintext buffers and a socket.
//!
//! In flow a socket, a config and the bytes that were already read; out flows an [`Io`] whose end is the peer's
//! close_notify. An end without it is an error (`UnexpectedEof`), so that a truncated body never looks whole
//! (RFC 8446 §6.1). Both directions run at the same time; records leave in the order in which they were sealed, also
//! those that the reading side owes (key updates, alerts). While nobody moves bytes, no buffer of the pool is held.

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::{ClientConnection, Connection, ServerConfig, ServerConnection};
use tokio::sync::Mutex;

use super::table::UpstreamConfig;
use super::verify::explain;
use crate::proxy::body::Chunk;
use crate::proxy::buffer::Buffer;
use crate::proxy::io::{Closed, Io};

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{0}")]
    Refused(String),
    #[error("closed during the TLS handshake")]
    Closed,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self::Refused(explain(&error))
    }
}

/// TLS over a socket, after the handshake.
pub struct TlsStream<S> {
    io: S,
    session: RefCell<Box<Session>>,
    /// Held from sealing to sent: records carry a sequence number each.
    sending: Mutex<()>,
    /// Whether the last read filled its buffer: then the next takes a large one.
    busy: Cell<bool>,
}

pub(super) struct Session {
    pub(super) connection: Connection,
    /// Bytes from the socket that rustls has not seen.
    pub(super) incoming: Option<Buffer>,
}

impl<S: Io> TlsStream<S> {
    /// The server's side. `initial` is what was read before, the ClientHello. The deadline is the caller's.
    pub async fn accept(io: S, config: &Arc<ServerConfig>, initial: Buffer) -> Result<Self, TlsError> {
        let connection = ServerConnection::new(Arc::clone(config))?;
        Self::handshake(io, connection.into(), Some(initial)).await
    }

    /// The client's side. The deadline is the caller's.
    pub async fn connect(io: S, upstream: &UpstreamConfig) -> Result<Self, TlsError> {
        let connection = ClientConnection::new(Arc::clone(&upstream.config), upstream.name.clone())?;
        Self::handshake(io, connection.into(), None).await
    }

    async fn handshake(io: S, connection: Connection, incoming: Option<Buffer>) -> Result<Self, TlsError> {
        let session = RefCell::new(Box::new(Session { connection, incoming }));
        let stream = Self { io, session, sending: Mutex::new(()), busy: Cell::new(false) };
        loop {
            stream.send(&[]).await?;
            if !stream.session.borrow().connection.is_handshaking() {
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

    /// Looks at the connection; for what the handshake settled.
    pub fn inspect<T>(&self, look: impl FnOnce(&Connection) -> T) -> T {
        look(&self.session.borrow().connection)
    }

    pub fn is_h2(&self) -> bool {
        self.inspect(|connection| connection.alpn_protocol() == Some(b"h2"))
    }

    pub fn get_ref(&self) -> &S {
        &self.io
    }

    /// The socket, the TLS state and what was read ahead, for another way of moving bytes. Nothing may be pending.
    pub fn into_parts(self) -> (S, Connection, Option<Buffer>) {
        let session = *self.session.into_inner();
        (self.io, session.connection, session.incoming)
    }

    /// Takes the next bytes from the socket; `false` at its end.
    async fn receive(&self) -> io::Result<bool> {
        self.io.readable().await?;
        let buffer = if self.busy.get() { large::take() } else { Buffer::take() };
        let (result, buffer) = self.io.read(buffer).await;
        let count = result?;
        self.busy.set(buffer.room() == 0);
        let mut session = self.session.borrow_mut();
        if count == 0 {
            // rustls tells an end with close_notify from one without.
            session.connection.read_tls(&mut io::empty())?;
            return Ok(false);
        }
        session.incoming = Some(buffer);
        Ok(true)
    }

    /// Seals and sends all of `plaintext`, and before it all that rustls owes.
    async fn send(&self, plaintext: &[u8]) -> io::Result<()> {
        let _sending = self.sending.lock().await;
        self.send_alone(plaintext).await
    }

    async fn send_alone(&self, mut plaintext: &[u8]) -> io::Result<()> {
        loop {
            let buffer = {
                let connection = &mut self.session.borrow_mut().connection;
                if !plaintext.is_empty() {
                    let taken = connection.writer().write(plaintext)?;
                    plaintext = plaintext.get(taken..).unwrap_or_default();
                    // More would mean many records: all that rustls holds goes out in one write.
                    let mut buffer = if taken > SMALL { large::take() } else { Buffer::take() };
                    connection.write_tls(&mut Gather(&mut buffer))?;
                    buffer
                } else if connection.wants_write() {
                    let mut buffer = Buffer::take();
                    connection.write_tls(&mut Gather(&mut buffer))?;
                    buffer
                } else {
                    return Ok(());
                }
            };
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
                (session.take(&mut buffer), session.connection.wants_write())
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

    async fn write(&self, chunk: Chunk) -> (io::Result<()>, Chunk) {
        (self.send(chunk.as_slice()).await, chunk)
    }

    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<Closed> {
        self.io.poll_closed(cx)
    }

    async fn broken(&self) {
        self.io.broken().await;
    }

    async fn finish(&self) -> io::Result<()> {
        self.session.borrow_mut().connection.send_close_notify();
        self.send(&[]).await?;
        self.io.finish().await
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
    /// Gives rustls some of the bytes that are here; `false` when there are none.
    fn feed(&mut self) -> Result<bool, rustls::Error> {
        let Some(buffer) = &mut self.incoming else { return Ok(false) };
        let mut bytes = buffer.as_slice();
        let before = bytes.len();
        // Fails only where plaintext waits; the callers take that first.
        let count = self.connection.read_tls(&mut bytes).map_err(|error| rustls::Error::General(error.to_string()))?;
        if count == 0 || count >= before {
            // After close_notify nothing is taken: what follows it is to be ignored.
            if let Some(buffer) = self.incoming.take() {
                large::give_back(buffer);
            }
        } else {
            buffer.advance(count);
        }
        self.connection.process_new_packets()?;
        Ok(true)
    }

    /// Moves plaintext into the buffer; `None` when more bytes of the peer are needed, 0 after its close_notify.
    fn take(&mut self, buffer: &mut Buffer) -> io::Result<Option<usize>> {
        let mut total = 0;
        loop {
            let room = buffer.room_mut();
            if room.is_empty() {
                return Ok(Some(total));
            }
            match self.connection.reader().read(room) {
                Ok(0) => return Ok(Some(total)),
                Ok(count) => {
                    buffer.grow(count);
                    total += count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match self.feed() {
                    Ok(true) => {}
                    Ok(false) => return Ok((total > 0).then_some(total)),
                    Err(_) if total > 0 => return Ok(Some(total)),
                    Err(error) => return Err(invalid(error)),
                },
                // What came before an error or an early end is given out first; both stay.
                Err(_) if total > 0 => return Ok(Some(total)),
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether `take` would give something, be it the end or an error.
    fn is_readable(&mut self) -> bool {
        loop {
            match self.connection.reader().fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match self.feed() {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(_) => return true,
                },
                _ => return true,
            }
        }
        // rustls makes its own buffer small again on the next read, which may be an hour away: this is such a read.
        let _ = self.connection.read_tls(&mut Nothing);
        false
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

/// Plaintext up to this size, sealed, fits into a buffer of the pool together with a little that was owed.
const SMALL: usize = crate::proxy::buffer::BUFFER_SIZE - 512;

/// Buffers for several records, for connections that move bulk; each belongs to its user for one operation only.
mod large {
    use std::cell::RefCell;

    use crate::proxy::buffer::{BUFFER_SIZE, Buffer};

    /// Four full records, their framing included.
    const SIZE: usize = 4 * (BUFFER_SIZE + 64);
    /// Per thread: 32 are 2 MiB.
    const RETAINED: usize = 32;

    thread_local! {
        static POOL: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
    }

    pub fn take() -> Buffer {
        let pooled = POOL.try_with(|pool| pool.borrow_mut().pop()).ok().flatten();
        pooled.unwrap_or_else(|| Buffer::with_size(SIZE))
    }

    /// Keeps a large buffer for the next user. One of the usual size goes back to its own pool.
    pub fn give_back(mut buffer: Buffer) {
        buffer.clear();
        if buffer.room() < SIZE {
            return;
        }
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < RETAINED {
                pool.push(buffer);
            }
        });
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
