//! The sending half of an HTTP/1 connection: a head is held back until it can leave together with the body's beginning,
//! and every body is framed by us, never by copying the peer's framing.

use std::time::Duration;

use super::chunked;
use crate::proxy::body::{Chunk, StreamError};
use crate::proxy::buffer::{BUFFER_SIZE, Buffer};
use crate::proxy::clock::Timer;
use crate::proxy::digits::decimal;
use crate::proxy::io::Io;
use crate::proxy::message::Fields;

/// Chunks up to this size are copied behind what is held back; larger ones are written as they are.
const COPIED: usize = 2048;

pub struct Writer {
    out: Option<Buffer>,
    framing: Framing,
    pub timer: Timer,
}

/// How the body that follows is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    /// So many bytes are still to come.
    Length(u64),
    Chunked,
    /// As it comes, up to the end of the connection.
    Close,
}

impl Writer {
    pub fn new(timer: Timer) -> Self {
        Self { out: None, framing: Framing::None, timer }
    }

    /// Holds bytes of a head back. Their number is bounded by the limits on heads and edits.
    pub fn put(&mut self, bytes: &[u8]) {
        match &mut self.out {
            Some(out) if out.room() >= bytes.len() => {
                out.append(bytes);
            }
            _ => self.put_in_larger(bytes),
        }
    }

    #[cold]
    fn put_in_larger(&mut self, bytes: &[u8]) {
        let mut larger = match &self.out {
            Some(out) => Buffer::with_size((out.len() + bytes.len()) * 2),
            None => Buffer::with_size(bytes.len()),
        };
        if let Some(out) = &self.out {
            larger.append(out.as_slice());
        }
        larger.append(bytes);
        self.out = Some(larger);
    }

    pub fn put_number(&mut self, number: u64) {
        let mut digits = [0; 20];
        self.put(decimal(number, &mut digits));
    }

    pub fn put_field(&mut self, name: &[u8], value: &[u8]) {
        self.put(name);
        self.put(b": ");
        self.put(value);
        self.put(b"\r\n");
    }

    /// Ends the head.
    pub fn begin_body(&mut self, framing: Framing) {
        self.put(b"\r\n");
        self.framing = framing;
    }

    /// Bytes as they come from now on.
    pub fn begin_tunnel(&mut self) {
        self.framing = Framing::Close;
    }

    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Takes what is held back, to look at it.
    #[cfg(test)]
    pub fn take(&mut self) -> Option<Buffer> {
        self.out.take()
    }

    /// Forgets what is held back.
    pub fn clear(&mut self) {
        self.out = None;
        self.framing = Framing::None;
    }

    pub async fn chunk<I: Io>(&mut self, io: &I, chunk: Chunk, idle: Duration) -> Result<(), StreamError> {
        let length = chunk.as_slice().len();
        if length == 0 {
            return Ok(());
        }
        match &mut self.framing {
            // Nothing may follow (a HEAD request, a 304): what comes all the same is not sent.
            Framing::None => return Ok(()),
            Framing::Length(left) => {
                *left =
                    left.checked_sub(length as u64).ok_or(StreamError::Malformed("body is longer than its length"))?;
            }
            Framing::Chunked | Framing::Close => {}
        }
        if self.out.is_none() && self.framing == Framing::Close {
            // What is neither framed nor counted gains nothing from being held back.
            return self.write(io, chunk, idle).await;
        }
        let room = self.out.as_ref().map_or(0, Buffer::room);
        if room >= length + chunked::OVERHEAD || (self.out.is_none() && length <= COPIED) {
            self.copy(chunk.as_slice());
            return Ok(());
        }
        self.flush(io, idle).await?;
        match chunk {
            Chunk::Pooled(mut buffer) if self.framing == Framing::Chunked => {
                if chunked::frame(&mut buffer) {
                    return self.write(io, Chunk::Pooled(buffer), idle).await;
                }
                self.copy_all(io, buffer.as_slice(), idle).await
            }
            Chunk::Shared(bytes) if self.framing == Framing::Chunked => self.copy_all(io, &bytes, idle).await,
            chunk => self.write(io, chunk, idle).await,
        }
    }

    /// Frames by copying, a buffer at a time.
    async fn copy_all<I: Io>(&mut self, io: &I, bytes: &[u8], idle: Duration) -> Result<(), StreamError> {
        for piece in bytes.chunks(BUFFER_SIZE - chunked::OVERHEAD) {
            self.flush(io, idle).await?;
            self.copy(piece);
        }
        self.flush(io, idle).await
    }

    fn copy(&mut self, bytes: &[u8]) {
        if self.framing == Framing::Chunked {
            let mut line = [0; chunked::SIZE_LINE];
            self.put(chunked::size_line(bytes.len(), &mut line));
            self.put(bytes);
            self.put(b"\r\n");
        } else {
            self.put(bytes);
        }
    }

    /// Ends the body and sends what is held back.
    pub async fn finish<I: Io>(
        &mut self,
        io: &I,
        trailers: Option<&Fields>,
        idle: Duration,
    ) -> Result<(), StreamError> {
        match self.framing {
            Framing::Length(1..) => return Err(StreamError::Malformed("body is shorter than its length")),
            Framing::Chunked => match trailers {
                None => self.put(chunked::END),
                Some(fields) => {
                    self.put(b"0\r\n");
                    for (name, value) in fields.iter() {
                        self.put_field(name, value);
                    }
                    self.put(b"\r\n");
                }
            },
            _ => {}
        }
        self.framing = Framing::None;
        self.flush(io, idle).await
    }

    pub async fn flush<I: Io>(&mut self, io: &I, idle: Duration) -> Result<(), StreamError> {
        match self.out.take() {
            Some(out) => self.write(io, Chunk::Pooled(out), idle).await,
            None => Ok(()),
        }
    }

    async fn write<I: Io>(&mut self, io: &I, chunk: Chunk, idle: Duration) -> Result<(), StreamError> {
        match self.timer.from_first_wait(idle, io.write(chunk)).await {
            Ok((result, _)) => Ok(result?),
            Err(_) => {
                io.abort();
                Err(StreamError::Stalled)
            }
        }
    }
}
