//! A connection for one exchange: an idle one, or a new one within `connect_timeout`, TLS included.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use edge_config::policy::KeepAlive;

use super::endpoint::Endpoint;
use super::stream::{Counted, Stream};
use super::{Upstream, UpstreamProtocol};
use crate::proxy::body::Chunk;
use crate::proxy::buffer::Buffer;
use crate::proxy::clock::{Clock, recent};
use crate::proxy::h1::upstream::Connection;
use crate::proxy::h2::client::{BeginError, Call, Place, Settings};
use crate::proxy::h2::wire::{self, Wire};
use crate::proxy::io::{Backend, Io as _, Socket};
use crate::proxy::limits::Limits;
use crate::proxy::message::RequestHead;
use crate::proxy::proxy_protocol::{self, Origin};
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
    /// The client's connection, for endpoints that are told of it.
    pub origin: Option<Origin>,
    /// Where a rule says how long connecting may take, and the upstream does not.
    pub connect_timeout: Option<Duration>,
}

/// A connection to an endpoint, for one exchange: an HTTP/1 connection of its own, or a stream of a shared HTTP/2 one.
/// Dropped, the connection is closed or the stream cancelled; [`Lease::finish`] gives it back.
pub struct Lease {
    endpoint: Rc<Endpoint>,
    epoch: u32,
    connection: Option<Box<Connection<Stream>>>,
    place: Option<Place>,
    call: Option<Box<Call>>,
    /// Whether it was used before, and so may turn out to be closed.
    pub reused: bool,
    most_idle: usize,
    keep_alive: KeepAlive,
    /// The only client that the connection is for, if so.
    client: Option<Origin>,
}

impl Lease {
    pub async fn new(
        upstream: &Upstream,
        endpoint: Rc<Endpoint>,
        fresh: bool,
        dialer: Dialer<'_>,
    ) -> Result<Self, DialError> {
        let client = dialer.origin.filter(|_| upstream.proxy_protocol.is_some());
        let mut lease = Self {
            epoch: endpoint.epoch(),
            endpoint,
            reused: false,
            connection: None,
            place: None,
            call: None,
            most_idle: dialer.limits.upstream_idle_connections,
            keep_alive: KeepAlive::default(),
            client,
        };
        lease.endpoint.add_in_flight();
        if upstream.protocol == UpstreamProtocol::Http2 {
            // Boxed: dialling is rare, and would make every connection's task as large as a handshake.
            lease.place = Some(Box::pin(place(upstream, &lease.endpoint, dialer)).await?);
            lease.reused = lease.place.as_ref().is_some_and(|place| place.reused);
            return Ok(lease);
        }
        lease.keep_alive = upstream.keep_alive;
        if let Some(most) = upstream.keep_alive.idle_connections {
            lease.most_idle = most as usize;
        }
        if !fresh {
            lease.connection =
                lease.endpoint.take(upstream.idle_timeout(dialer.limits), upstream.keep_alive.age, client);
            lease.reused = lease.connection.is_some();
        }
        if lease.connection.is_none() {
            let stream = noted(upstream, &lease.endpoint, Box::pin(connect(upstream, &lease.endpoint, dialer)).await)?;
            let Dialer { clock, limits, .. } = dialer;
            let mut connection = Connection::new(stream, clock, limits.head, limits.stream_idle_timeout);
            connection.count(upstream.series.as_ref().map(Counted::new));
            lease.connection = Some(Box::new(connection));
        }
        Ok(lease)
    }

    pub fn endpoint(&self) -> &Rc<Endpoint> {
        &self.endpoint
    }

    pub fn connection(&mut self) -> Option<&mut Connection<Stream>> {
        self.connection.as_deref_mut()
    }

    /// Starts the request where it goes over HTTP/2; `None` where it goes over [`connection`](Self::connection).
    pub fn call(&mut self, head: &RequestHead) -> Option<Result<&mut Call, BeginError>> {
        let begun = self.place.take()?.begin(head);
        Some(begun.map(|call| &mut **self.call.insert(Box::new(call))))
    }

    /// `false`: the endpoint has said that it did not act on the request.
    pub fn was_processed(&self) -> bool {
        self.call.as_ref().is_none_or(|call| call.was_processed())
    }

    /// Ends the exchange. `sent`: the whole request was sent.
    pub fn finish(mut self, sent: bool) {
        let KeepAlive { requests, age, .. } = self.keep_alive;
        let is_worn = |connection: &Connection<Stream>| {
            requests.is_some_and(|most| connection.exchanges() >= most)
                || age.is_some_and(|age| recent().saturating_sub(connection.opened()) >= age)
        };
        let connection = self.connection.take().filter(|connection| sent && connection.is_clean());
        if let Some(connection) = connection.filter(|connection| !is_worn(connection)) {
            self.endpoint.put(connection, self.epoch, self.most_idle, self.client);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.remove_in_flight();
    }
}

/// Notes how dialling went, for passive health.
fn noted<T>(upstream: &Upstream, endpoint: &Endpoint, result: Result<T, DialError>) -> Result<T, DialError> {
    match &result {
        Ok(_) => endpoint.note_success(),
        Err(error) => {
            let is_ejected = endpoint.note_failure(error, Instant::now()) | upstream.failed(endpoint);
            if let Some(series) = &upstream.series {
                series.connect_failures.one();
                series.ejections.add(u64::from(is_ejected));
            }
        }
    }
    result
}

async fn within<T>(
    upstream: &Upstream,
    dialer: Dialer<'_>,
    attempt: impl Future<Output = Result<T, DialError>>,
) -> Result<T, DialError> {
    let timer = dialer.clock.timer();
    let limit = upstream.connect_timeout(dialer.connect_timeout.unwrap_or(dialer.limits.connect_timeout));
    timer.within(limit, attempt).await.unwrap_or(Err(DialError::Elapsed))
}

/// A place on a shared connection. Waiting for one of those that are full counts against the connect timeout as well.
async fn place(upstream: &Upstream, endpoint: &Endpoint, dialer: Dialer<'_>) -> Result<Place, DialError> {
    let settings = Settings {
        limits: dialer.limits.head,
        idle_timeout: upstream.idle_timeout(dialer.limits),
        stream_idle_timeout: dialer.limits.stream_idle_timeout,
        secure: upstream.tls.is_some(),
        requests: upstream.keep_alive.requests,
        age: upstream.keep_alive.age,
    };
    let connections = match dialer.origin.filter(|_| upstream.proxy_protocol.is_some()) {
        None => endpoint.connections(settings, dialer.clock),
        Some(client) => endpoint.connections_of(client, settings, dialer),
    };
    let dial = async || -> Result<Wire, DialError> {
        let mut wire = match open(upstream, endpoint, dialer).await? {
            Stream::Plain(socket) => wire::plain(socket, b"")?,
            Stream::Tls(stream) => wire::tls(*stream)?,
        };
        wire.count(upstream.series.as_ref().map(Counted::new));
        Ok(wire)
    };
    match within(upstream, dialer, connections.place(dial)).await {
        // Connected, and all its streams taken for so long: that is load, not failure.
        Err(DialError::Elapsed) if !connections.is_empty() => Err(DialError::Elapsed),
        result => noted(upstream, endpoint, result),
    }
}

/// Makes a connection that is not the pool's, within `connect_timeout`, TLS included.
pub(in crate::proxy) async fn connect(
    upstream: &Upstream,
    endpoint: &Endpoint,
    dialer: Dialer<'_>,
) -> Result<Stream, DialError> {
    within(upstream, dialer, open(upstream, endpoint, dialer)).await
}

async fn open(upstream: &Upstream, endpoint: &Endpoint, dialer: Dialer<'_>) -> Result<Stream, DialError> {
    // Before anything is sent: what cannot be verified is never called.
    let config = match &upstream.tls {
        None => None,
        Some(Ok(config)) => Some(config),
        Some(Err(why)) => return Err(DialError::Unusable(why.clone())),
    };
    let socket = Socket::connect(endpoint.address, dialer.backend).await?;
    if let Some(version) = upstream.proxy_protocol {
        // Before TLS: it is for whatever accepts the connection.
        let Some(origin) = &dialer.origin else {
            return Err(DialError::Unusable("there is no client to tell the endpoint of".into()));
        };
        let header = proxy_protocol::encode(version, origin);
        socket.write(Chunk::Pooled(Buffer::copy_of(header.as_slice()))).await.0?;
    }
    let Some(config) = config else { return Ok(Stream::Plain(socket)) };
    let stream = TlsStream::connect(socket, config).await.map_err(|error| match error {
        TlsError::Io(error) => DialError::Connect(error),
        error => DialError::Tls(error.to_string()),
    })?;
    if stream.is_h2() && upstream.protocol != UpstreamProtocol::Http2 {
        return Err(DialError::Unusable("the endpoint chose HTTP/2 unasked".into()));
    }
    Ok(Stream::Tls(Box::new(stream)))
}
