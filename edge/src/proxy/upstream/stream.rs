//! A connection to an endpoint, in clear or inside TLS.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::proxy::body::Chunk;
use crate::proxy::buffer::Buffer;
use crate::proxy::io::{Closed, Io, Socket};
use crate::proxy::metrics::UpstreamSeries;
use crate::proxy::tls::stream::TlsStream;

/// Counts a connection as open, from its making to its drop.
pub struct Counted(Arc<UpstreamSeries>);

impl Counted {
    pub fn new(series: &Arc<UpstreamSeries>) -> Self {
        series.connections_opened.one();
        Self(Arc::clone(series))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections_closed.one();
    }
}

pub enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl Io for Stream {
    async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Plain(io) => io.readable().await,
            Self::Tls(io) => io.readable().await,
        }
    }

    async fn read(&self, buffer: Buffer) -> (io::Result<usize>, Buffer) {
        match self {
            Self::Plain(io) => io.read(buffer).await,
            Self::Tls(io) => io.read(buffer).await,
        }
    }

    async fn write(&self, chunk: Chunk) -> (io::Result<()>, Chunk) {
        match self {
            Self::Plain(io) => io.write(chunk).await,
            Self::Tls(io) => io.write(chunk).await,
        }
    }

    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<Closed> {
        match self {
            Self::Plain(io) => io.poll_closed(cx),
            Self::Tls(io) => io.poll_closed(cx),
        }
    }

    async fn broken(&self) {
        match self {
            Self::Plain(io) => io.broken().await,
            Self::Tls(io) => io.broken().await,
        }
    }

    async fn finish(&self) -> io::Result<()> {
        match self {
            Self::Plain(io) => io.finish().await,
            Self::Tls(io) => io.finish().await,
        }
    }

    fn reset(&self) {
        match self {
            Self::Plain(io) => io.reset(),
            Self::Tls(io) => io.reset(),
        }
    }

    fn abort(&self) {
        match self {
            Self::Plain(io) => io.abort(),
            Self::Tls(io) => io.abort(),
        }
    }

    fn is_quiet(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_quiet(),
            Self::Tls(io) => io.is_quiet(),
        }
    }
}
