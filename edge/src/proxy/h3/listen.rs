//! Connections of QUIC on a worker, from the first datagram to the end of the handshake: who is let in, how many, and what is
//! asked of them first.
//!
//! An endpoint has the UDP socket of an address as long as any connection lives on it, also after the address has gone from
//! the configuration; then it refuses who is new. What comes back meanwhile is taken up again, because a second set of
//! sockets would get a share of the datagrams.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use edge_config::snapshot::{Http2Bounds, ListenerServe, PortServe, Transport};
use quinn::{
    Connecting, Connection, ConnectionError, Endpoint, EndpointConfig, IdleTimeout, Incoming, ServerConfig,
    TokioRuntime, TransportConfig, VarInt,
};
use rustls::pki_types::CertificateDer;

use super::connection;
use super::frame::Code;
use super::session::{Choice, Chosen, Common, VERSION};
use super::socket::Socket;
use super::steering::{Ids, Steering};
use crate::proxy::clock::Elapsed;
use crate::proxy::generation::Generation;
use crate::proxy::h2::serve::{CONNECTION_WINDOW, STREAM_WINDOW, STREAMS};
use crate::proxy::listening::Bound;
use crate::proxy::metrics::Handshake;
use crate::proxy::protection::connections::{self, Counted};
use crate::proxy::reason::Reason;
use crate::proxy::secure;
use crate::proxy::tls::shown::Asked;
use crate::proxy::worker::{Arrival, Current, Patience, Settled, Worker};

/// Handshakes in progress, per worker and address, above which a client must show first that it is where it says (RFC 9000
/// §8.1.2), and those that there may be.
const ASK_FROM: usize = 64;
const MOST: usize = 1024;
/// Connection attempts that wait for this worker's turn, and what is kept of each and of all.
const WAITING: usize = 1024;
const WAITING_BYTES: u64 = 32 << 10;
const WAITING_BYTES_OF_ALL: u64 = 8 << 20;
/// One control stream and two of QPACK, and some that nobody knows (RFC 9114 §6.2).
const UNIDIRECTIONAL: u32 = 8;
/// Sent and not yet acknowledged, per connection.
const SEND_WINDOW: u64 = 1 << 20;
/// As the probes of TCP: a client that does not answer any more is found out although nothing is to be sent.
const PROBE: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(120);

/// How often a worker without connections looks whether others have some.
const LOOK: Duration = Duration::from_millis(500);

/// An address on one worker.
pub struct Listening {
    bound: Arc<Bound>,
    address: SocketAddr,
    endpoint: Endpoint,
    steering: Arc<Steering>,
    common: Arc<Common>,
    /// Whether new connections are taken.
    open: Cell<bool>,
    handshakes: Cell<usize>,
    /// Of the generation that was asked for last.
    transport: RefCell<Option<(Weak<Generation>, Arc<TransportConfig>)>>,
}

impl Listening {
    pub fn is_open(&self) -> bool {
        self.open.get()
    }

    /// Takes no new connection. Those that there are live on.
    pub fn close(self: &Rc<Self>, worker: &Rc<Worker>) {
        if !self.open.replace(false) {
            return;
        }
        let (this, worker) = (Rc::clone(self), Rc::clone(worker));
        tokio::task::spawn_local(async move {
            this.endpoint.wait_idle().await;
            while !this.open.get() && !this.steering.is_idle() {
                tokio::time::sleep(LOOK).await;
            }
            if !this.open.get() {
                this.endpoint.close(Code::NoError.into(), b"");
                worker.forget_quic(&this);
            }
        });
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What every connection is told before its listener is known: of those on the port, the strictest.
    fn transport(&self, current: &Current, port: &PortServe) -> Arc<TransportConfig> {
        let mut known = self.transport.borrow_mut();
        if let Some((generation, config)) = &*known
            && std::ptr::eq(generation.as_ptr(), Arc::as_ptr(&current.generation))
        {
            return Arc::clone(config);
        }
        let all = match port {
            PortServe::Tls { names } => names.values().collect(),
            _ => Vec::new(),
        };
        let listeners = all.into_iter().filter_map(|id| current.snapshot().listeners.get(id.index()));
        let bounds = listeners.filter(|listener| listener.client.http3).map(|listener| listener.client.http2);
        let config = Arc::new(transport(bounds.map(Option::unwrap_or_default)));
        *known = Some((Arc::downgrade(&current.generation), Arc::clone(&config)));
        config
    }
}

fn transport(bounds: impl Iterator<Item = Http2Bounds>) -> TransportConfig {
    let strictest = |least: (u32, u32, u32), bounds: Http2Bounds| {
        let streams = bounds.streams.unwrap_or(STREAMS);
        let stream_window = bounds.stream_window.unwrap_or(STREAM_WINDOW);
        let connection_window = bounds.connection_window.unwrap_or(CONNECTION_WINDOW);
        (least.0.min(streams), least.1.min(stream_window), least.2.min(connection_window))
    };
    let none = (u32::MAX, u32::MAX, u32::MAX);
    let (streams, stream_window, connection_window) = match bounds.fold(none, strictest) {
        least if least == none => (STREAMS, STREAM_WINDOW, CONNECTION_WINDOW),
        least => least,
    };
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(UNIDIRECTIONAL))
        .stream_receive_window(VarInt::from_u32(stream_window))
        .receive_window(VarInt::from_u32(connection_window))
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(PROBE))
        .max_idle_timeout(IdleTimeout::try_from(SILENCE).ok());
    config
}

/// Serves the socket of an address.
pub fn start(worker: &Rc<Worker>, bound: &Arc<Bound>) -> io::Result<Rc<Listening>> {
    let (address, _) = bound.key();
    if let Some(known) = worker.quic(address)
        && Arc::ptr_eq(&known.bound, bound)
    {
        known.open.set(true);
        return Ok(known);
    }
    let unfit = |what| io::Error::new(io::ErrorKind::Unsupported, what);
    let steering = bound.steering().ok_or_else(|| unfit("no socket of QUIC"))?;
    let common = Common::new().ok_or_else(|| unfit("the cryptography lacks what QUIC begins with"))?;
    if Ids::new(steering, worker.index).is_none() {
        return Err(unfit("QUIC is served by 256 workers at most"));
    }
    let own = bound.descriptors(worker.index, worker.count())?.pop();
    let (_, descriptor) = own.ok_or_else(|| unfit("no socket for this worker"))?;
    let socket = std::net::UdpSocket::from(descriptor);
    let socket = Arc::new(Socket::new(socket, worker.index, steering)?);
    let mut config = EndpointConfig::new(Arc::clone(&steering.keys.reset));
    let (of_ids, index) = (Arc::clone(steering), worker.index);
    config.supported_versions(vec![VERSION]).cid_generator(move || match Ids::new(&of_ids, index) {
        Some(ids) => Box::new(ids),
        // It was looked at before.
        None => Box::<quinn_proto::RandomConnectionIdGenerator>::default(),
    });
    // Each connection has a choice of its own.
    let mut server = ServerConfig::new(Choice::new(&common, None), Arc::clone(&steering.keys.token));
    server.max_incoming(WAITING).incoming_buffer_size(WAITING_BYTES).incoming_buffer_size_total(WAITING_BYTES_OF_ALL);
    let endpoint = Endpoint::new_with_abstract_socket(config, Some(server), socket, Arc::new(TokioRuntime))?;
    let listening = Rc::new(Listening {
        bound: Arc::clone(bound),
        address,
        endpoint,
        steering: Arc::clone(steering),
        common,
        open: Cell::new(true),
        handshakes: Cell::new(0),
        transport: RefCell::default(),
    });
    tokio::task::spawn_local(accept(Rc::clone(worker), Rc::clone(&listening)));
    Ok(listening)
}

async fn accept(worker: Rc<Worker>, listening: Rc<Listening>) {
    while let Some(incoming) = listening.endpoint.accept().await {
        admit(&worker, &listening, incoming);
    }
}

fn admit(worker: &Rc<Worker>, listening: &Rc<Listening>, incoming: Incoming) {
    if !listening.is_open() {
        return incoming.refuse();
    }
    let (current, peer, local) = (worker.current(), incoming.remote_address(), listening.address);
    let Some(port) = current.port_id(local, Transport::Quic) else { return incoming.refuse() };
    let Some(serve) = current.snapshot().ports.get(port.index()).map(|port| &port.serve) else {
        return incoming.refuse();
    };
    let series = current.series.port(port).cloned();
    let handshakes = listening.handshakes.get();
    if handshakes >= ASK_FROM && !incoming.remote_address_validated() {
        // Costs nothing here: what is to be known again is in the token. It may be asked as long as it is not known.
        let _ = incoming.retry();
        return;
    }
    let place = if handshakes < MOST { worker.enter() } else { None };
    let Some(place) = place else {
        if let Some(series) = series {
            series.refused.one();
        }
        return incoming.refuse();
    };
    if let Some(series) = &series {
        series.accepted.one();
    }
    let choice = Choice::new(&listening.common, Some((&current.generation, port)));
    let mut server = ServerConfig::new(choice, Arc::clone(&listening.steering.keys.token));
    server.transport_config(listening.transport(&current, serve));
    let arrival = Arrival::new(peer, local);
    let (worker, in_progress, alive) = (Rc::clone(worker), InProgress::new(listening), listening.steering.enter());
    // An error here is one of the packet, which is answered already.
    let Ok(connecting) = incoming.accept_with(Arc::new(server)) else {
        if let Some(series) = series {
            series.closed.one();
        }
        return;
    };
    tokio::task::spawn_local(async move {
        let (_place, _alive) = (place, alive);
        if let Some((connection, arrival, _counted)) = Box::pin(handshake(&worker, connecting, arrival)).await {
            drop(in_progress);
            connection::serve(&worker, connection, arrival).await;
        }
        if let Some(series) = series {
            series.closed.one();
        }
    });
}

/// Counts a handshake until it is dropped.
struct InProgress(Rc<Listening>);

impl InProgress {
    fn new(listening: &Rc<Listening>) -> Self {
        listening.handshakes.set(listening.handshakes.get() + 1);
        Self(Rc::clone(listening))
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.handshakes.set(self.0.handshakes.get().saturating_sub(1));
    }
}

async fn handshake(
    worker: &Rc<Worker>,
    mut connecting: Connecting,
    mut arrival: Arrival,
) -> Option<(Connection, Arrival, Option<Counted>)> {
    let timer = worker.clock.timer();
    timer.set_at(arrival.at + worker.current().generation.limits.head_timeout);
    let settled = async {
        let chosen = connecting.handshake_data().await?.downcast::<Chosen>().ok();
        let generation = chosen.as_ref().and_then(|chosen| chosen.generation.clone());
        let asked_by = generation.zip(chosen.map(|chosen| chosen.listener));
        let listener = asked_by.as_ref().and_then(|(generation, id)| generation.snapshot.listeners.get(id.index()));
        if let Some(limit) = listener.and_then(|listener| listener.client.handshake_timeout) {
            timer.set_at(arrival.at + limit);
        }
        Ok::<_, ConnectionError>((connecting.await?, asked_by))
    };
    let (connection, asked_by) = match timer.limit(settled).await {
        Ok(Ok(settled)) => settled,
        Ok(Err(error)) => {
            secure::count(worker, &arrival, Handshake::Failed);
            return secure::refuse(worker, &arrival, why(&error), &error);
        }
        Err(Elapsed) => {
            secure::count(worker, &arrival, Handshake::Failed);
            return secure::refuse(worker, &arrival, Reason::HeadTimeout, &"the handshake took too long");
        }
    };
    let chosen = connection.handshake_data().and_then(|chosen| chosen.downcast::<Chosen>().ok())?;
    let Chosen { server_name, cipher, resumed, .. } = *chosen;
    arrival.server_name = server_name;
    arrival.secure = true;
    arrival.tls = Some(Settled { version: "TLSv1.3", cipher });
    secure::count(worker, &arrival, if resumed { Handshake::Resumed } else { Handshake::Full });
    let (generation, id) = asked_by?;
    let listener = generation.snapshot.listeners.get(id.index())?;
    arrival.patience.set(Some(Patience::of(&listener.client)));
    arrival.http2 = listener.client.http2;
    let limit = listener.client.connection_limit;
    let counted = match limit.map(|limit| connections::enter(worker, limit, connections::of_listener(listener))) {
        None => None,
        Some(Ok(counted)) => Some(counted),
        Some(Err(_)) => {
            connection.close(Code::ExcessiveLoad.into(), b"too many connections");
            return None;
        }
    };
    let ListenerServe::Https { tls, .. } = &listener.serve else { return None };
    if let Some(asked) = Asked::of(listener, tls.client_validation) {
        let chain = connection.peer_identity().and_then(|chain| chain.downcast::<Vec<CertificateDer<'_>>>().ok());
        match asked.answered(&chain.map(|chain| *chain).unwrap_or_default()) {
            Ok(shown) => arrival.shown = Some(Box::new(shown)),
            Err(why) => {
                connection.close(Code::RequestRejected.into(), b"certificate");
                return secure::refuse(worker, &arrival, Reason::ClientCertificate, &why);
            }
        }
    }
    Some((connection, arrival, counted))
}

/// Alerts about a client's certificate (RFC 8446 §6) have codes of their own.
fn why(error: &ConnectionError) -> Reason {
    let ConnectionError::TransportError(error) = error else { return Reason::HandshakeFailed };
    match u64::from(error.code) {
        0x12a..=0x131 | 0x174 => Reason::ClientCertificate,
        _ => Reason::HandshakeFailed,
    }
}
