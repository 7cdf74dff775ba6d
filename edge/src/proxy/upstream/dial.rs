//! A connection for one exchange: an idle one, or a new one within `connect_timeout`, TLS included.

use std::io;
use std::rc::Rc;
use std::time::Instant;

use super::endpoint::Endpoint;
use super::stream::Stream;
use super::{Upstream, UpstreamProtocol};
use crate::proxy::clock::Clock;
use crate::proxy::h1::upstream::Connection;
use crate::proxy::io::{Backend, Socket};
use crate::proxy::limits::Limits;
use crate::proxy::tls::stream::{TlsError, TlsStream};

/// Why there is no connection; nothing of the request was sent.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("not connected within the connect timeout")]
    Elapsed,
    #[error(transparent)]
    Connect(#[from] io::Error),
    #[error("TLS: {0}")]
    Tls(String),
    /// The upstream's TLS cannot be used as configured, or speaks a protocol that was not asked for.
    #[error("{0}")]
    Unusable(Box<str>),
}

/// What dialling needs to know of the worker.
#[derive(Clone, Copy)]
pub struct Dialer<'a> {
    pub clock: &'a Rc<Clock>,
    pub backend: Backend,
    pub limits: &'a Limits,
}

/// A connection to an endpoint, for one exchange. Dropped, the connection is closed; [`Lease::finish`] gives it back.
pub struct Lease {
    endpoint: Rc<Endpoint>,
    epoch: u32,
    connection: Option<Box<Connection<Stream>>>,
    /// Whether it was used before, and so may turn out to be closed.
    pub reused: bool,
    most_idle: usize,
}

impl Lease {
    pub async fn new(
        upstream: &Upstream,
        endpoint: Rc<Endpoint>,
        fresh: bool,
        dialer: Dialer<'_>,
    ) -> Result<Self, DialError> {
        let epoch = endpoint.epoch();
        let idle = if fresh { None } else { endpoint.take(dialer.limits.upstream_idle_timeout) };
        endpoint.add_in_flight();
        let mut lease = Self {
            endpoint,
            epoch,
            reused: idle.is_some(),
            connection: idle,
            most_idle: dialer.limits.upstream_idle_connections,
        };
        if lease.connection.is_none() {
            match connect(upstream, &lease.endpoint, dialer).await {
                Ok(stream) => {
                    lease.endpoint.note_success();
                    let Dialer { clock, limits, .. } = dialer;
                    let connection = Connection::new(stream, clock, limits.head, limits.stream_idle_timeout);
                    lease.connection = Some(Box::new(connection));
                }
                Err(error) => {
                    lease.endpoint.note_failure(&error, Instant::now());
                    return Err(error);
                }
            }
        }
        Ok(lease)
    }

    pub fn endpoint(&self) -> &Rc<Endpoint> {
        &self.endpoint
    }

    pub fn connection(&mut self) -> Option<&mut Connection<Stream>> {
        self.connection.as_deref_mut()
    }

    /// Ends the exchange. `sent`: the whole request was sent.
    pub fn finish(mut self, sent: bool) {
        if let Some(connection) = self.connection.take().filter(|connection| sent && connection.is_clean()) {
            self.endpoint.put(connection, self.epoch, self.most_idle);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.remove_in_flight();
    }
}

async fn connect(upstream: &Upstream, endpoint: &Endpoint, dialer: Dialer<'_>) -> Result<Stream, DialError> {
    let attempt = async {
        let socket = Socket::connect(endpoint.address, dialer.backend).await?;
        match &upstream.tls {
            None => Ok(Stream::Plain(socket)),
            Some(Err(why)) => Err(DialError::Unusable(why.clone())),
            Some(Ok(config)) => {
                let stream = TlsStream::connect(socket, config).await.map_err(|error| match error {
                    TlsError::Io(error) => DialError::Connect(error),
                    error => DialError::Tls(error.to_string()),
                })?;
                if stream.is_h2() && upstream.protocol != UpstreamProtocol::Http2 {
                    return Err(DialError::Unusable("the endpoint chose HTTP/2 unasked".into()));
                }
                Ok(Stream::Tls(Box::new(stream)))
            }
        }
    };
    let timer = dialer.clock.timer();
    timer.within(dialer.limits.connect_timeout, attempt).await.unwrap_or(Err(DialError::Elapsed))
}
