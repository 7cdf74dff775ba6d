//! Accepting: a connection becomes a task, which serves it as its port says. A failure to accept only ever waits; a panic
//! costs its connection.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edge_config::snapshot::{ListenerId, PortServe, Transport};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::challenges::RESPONDER_PORT;
use super::complaints::Complaints;
use super::h1::{self, serve::Served};
use super::h3;
use super::io::{Backend, Socket};
use super::listening::Bound;
use super::protection::connections::{self, Counted};
use super::proxy_protocol;
use super::reason::Reason;
use super::worker::{Arrival, Current, Worker};

/// After a failure that will not go away at once (no descriptors, no memory).
const PAUSE: Duration = Duration::from_millis(50);

/// Starts to serve the sockets that a worker has of an address.
pub fn start(worker: &Rc<Worker>, bound: &Arc<Bound>) -> io::Result<Accepting> {
    let (address, transport) = bound.key();
    if transport == Transport::Quic {
        return h3::start(worker, bound).map(Accepting::Quic);
    }
    let mut tasks = JoinSet::new();
    for (index, descriptor) in bound.descriptors(worker.index, worker.count())? {
        let worker = Rc::clone(worker);
        if transport == Transport::Tcp {
            let listener = TcpListener::from_std(descriptor.into())?;
            tasks.spawn_local(accept(worker, listener, address));
        } else {
            let socket = tokio::net::UdpSocket::from_std(descriptor.into())?;
            tasks.spawn_local(super::l4::datagrams(worker, socket, address, index));
        }
    }
    Ok(Accepting::Tasks(tasks))
}

/// Sockets that are served.
pub enum Accepting {
    /// Dropping the tasks closes them.
    Tasks(JoinSet<()>),
    Quic(Rc<h3::Listening>),
}

impl Accepting {
    /// Takes no new connection or datagram from here on.
    pub fn stop(self, worker: &Rc<Worker>) {
        match self {
            Self::Tasks(tasks) => drop(tasks),
            Self::Quic(listening) => listening.close(worker),
        }
    }

    /// The same, and waits until each has put away what it has. Connections of QUIC keep their socket.
    pub async fn end(self, worker: &Rc<Worker>) {
        match self {
            Self::Tasks(mut tasks) => tasks.shutdown().await,
            Self::Quic(listening) => listening.close(worker),
        }
    }
}

async fn accept(worker: Rc<Worker>, listener: TcpListener, local: SocketAddr) {
    let complaints = Complaints::default();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => admit(&worker, stream, peer, local),
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                if let Some(more) = complaints.note(Instant::now()) {
                    tracing::warn!(socket = %local, %error, more, "cannot accept, trying again");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Errors of a connection that failed while it waited in the queue.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn admit(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr, local: SocketAddr) {
    let current = worker.current();
    let series = current.port_id(local, Transport::Tcp).and_then(|id| current.series.port(id)).cloned();
    let sources = current.port_at(local).and_then(|port| port.sources.as_ref());
    if sources.is_some_and(|sources| !sources.contains(peer.ip())) {
        if let Some(series) = series {
            series.forbidden.one();
        }
        worker.metrics.count(Reason::SourceForbidden);
        // Before it counts against any limit: who is not let in must not keep others out.
        return super::l4::reset(stream);
    }
    let Some(place) = worker.enter() else {
        // Dropped, hence closed: an answer would cost what there is too little of.
        if let Some(series) = series {
            series.refused.one();
        }
        return;
    };
    if let Some(series) = &series {
        series.accepted.one();
    }
    if let Some(probes) = current.port_at(local).and_then(|port| port.keepalive) {
        let probes = socket2::TcpKeepalive::new()
            .with_time(probes.idle)
            .with_interval(probes.interval)
            .with_retries(probes.probes);
        // A connection that is gone already says so when it is read.
        let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&probes);
    }
    let arrival = Arrival::new(peer, local);
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        let _place = place;
        serve(worker, stream, arrival).await;
        if let Some(series) = series {
            series.closed.one();
        }
    });
}

async fn serve(worker: Rc<Worker>, stream: TcpStream, mut arrival: Arrival) {
    let mut current = worker.current();
    if current.port_at(arrival.local).is_some_and(|port| port.proxy_protocol.is_some()) {
        let taken = take_header(&worker, current, &stream, &mut arrival);
        // Boxed, so that connections without a header do not have room for one.
        if !Box::pin(taken).await {
            return;
        }
        // What was published meanwhile counts.
        current = worker.current();
    }
    match current.port_at(arrival.local).map(|port| &port.serve) {
        Some(PortServe::Http { .. }) => {
            let counted = match count(&worker, &current, arrival.local) {
                Ok(counted) => counted,
                Err(delay) => return Box::pin(connections::hold(&worker, delay)).await,
            };
            let Ok(socket) = into_socket(stream, worker.backend) else { return };
            drop(current);
            if let Served::Http2 { io, ahead } = h1::serve::serve(&worker, socket, &arrival).await {
                Box::pin(super::h2::front::plain(&worker, io, ahead, arrival)).await;
            }
            drop(counted);
        }
        Some(PortServe::Tls { .. }) => {
            let Ok(socket) = into_socket(stream, worker.backend) else { return };
            drop(current);
            super::secure::serve(&worker, socket, arrival).await;
        }
        Some(PortServe::Tcp { listener }) => {
            let _counted = match count_stream(&worker, &current, *listener) {
                Ok(counted) => counted,
                Err(delay) => return Box::pin(connections::hold(&worker, delay)).await,
            };
            drop(current);
            Box::pin(super::l4::streams(&worker, stream, arrival)).await;
        }
        // Nobody's port 80: bound for challenges alone, or until a moment ago a listener's.
        None if arrival.local.port() == RESPONDER_PORT => {
            let Ok(socket) = into_socket(stream, worker.backend) else { return };
            drop(current);
            // HTTP/2 is not what a CA speaks here.
            let _ = h1::serve::serve(&worker, socket, &arrival).await;
        }
        Some(PortServe::Udp { .. }) | None => {}
    }
}

/// A place among the connections that the HTTP listeners of a port may have, where somebody limits them.
fn count(worker: &Worker, current: &Current, local: SocketAddr) -> Result<Option<Counted>, Duration> {
    let Some(limit) = current.port_limit(local) else { return Ok(None) };
    let Some(port) = current.port_at(local) else { return Ok(None) };
    connections::enter(worker, limit, connections::of_owner(&port.owner)).map(Some)
}

/// The same of one listener of streams.
fn count_stream(worker: &Worker, current: &Current, id: ListenerId) -> Result<Option<Counted>, Duration> {
    let Some(listener) = current.snapshot().listeners.get(id.index()) else { return Ok(None) };
    let Some(limit) = listener.client.connection_limit else { return Ok(None) };
    connections::enter(worker, limit, connections::of_listener(listener)).map(Some)
}

async fn take_header(worker: &Worker, current: Rc<Current>, stream: &TcpStream, arrival: &mut Arrival) -> bool {
    match current.port_at(arrival.local).and_then(|port| port.proxy_protocol.as_ref()) {
        Some(rule) => proxy_protocol::accept::take(worker, stream, rule, arrival).await,
        None => true,
    }
}

pub(super) fn into_socket(stream: TcpStream, backend: Backend) -> io::Result<Socket> {
    match backend {
        Backend::Epoll => Ok(Socket::Epoll(super::io::epoll::Socket::from_tokio(stream))),
        Backend::Uring => Socket::from_std(stream.into_std()?, backend),
    }
}
