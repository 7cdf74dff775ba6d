//! Where a worker's connections and datagrams enter this module: routes, endpoints, limits, log and counters of the
//! generation at hand come together here. A tunnel keeps none of the generation, which it may outlive by days.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use edge_config::names::ObjectRef;
use edge_config::snapshot::{
    Balance, Listener, ListenerId, ListenerServe, PortServe, StreamRoute, Transport, UpstreamId,
};
use tokio::net::{TcpStream, UdpSocket};

use super::tcp::{Connect, Refusal, Summary, dial};
use super::udp::{Serving, SessionEnd, Udp, UdpLimits};
use super::{Cause, How, Meter, Quiet, Targets, TunnelEnd, affinity, relay::relay, reset, tunnel};
use crate::proxy::access_log::{Entry, RuleOf, TlsOf};
use crate::proxy::buffer::Buffer;
use crate::proxy::io::{Backend, Io, Socket, epoll};
use crate::proxy::metrics::{ListenerSeries, UpstreamSeries};
use crate::proxy::proxy_protocol::Origin;
use crate::proxy::reason::Reason;
use crate::proxy::upstream::Census;
use crate::proxy::upstream::circuit::Held;
use crate::proxy::upstream::hashing;
use crate::proxy::upstream::stream::{Counted, Stream};
use crate::proxy::upstream::{DialError, Dialer, InFlight, dial as upstream};
use crate::proxy::worker::{Arrival, Current, Worker};

/// A connection of a TCPRoute.
pub async fn streams(worker: &Rc<Worker>, client: TcpStream, arrival: Arrival) {
    let current = worker.current();
    let listener = match current.port_at(arrival.local).map(|port| &port.serve) {
        Some(PortServe::Tcp { listener }) => *listener,
        // The port is gone or has become another one since the connection was accepted.
        _ => return reset(client),
    };
    carry(worker, current, Plain { client, first: None }, &arrival, listener, "TCP").await;
}

/// A connection of a TLSRoute that is not terminated; `first` was read from it. `listener` is one of `current`.
pub async fn passthrough(
    worker: &Rc<Worker>,
    current: Rc<Current>,
    client: TcpStream,
    first: Buffer,
    arrival: &Arrival,
    listener: ListenerId,
) {
    let first = Some(first).filter(|buffer| !buffer.is_empty());
    carry(worker, current, Plain { client, first }, arrival, listener, "TLS").await;
}

/// A connection of a TLSRoute inside TLS that Edge has terminated for `listener`, which is one of `current`.
pub async fn terminated<I: Io>(
    worker: &Rc<Worker>,
    current: Rc<Current>,
    io: I,
    arrival: &Arrival,
    listener: ListenerId,
) {
    carry(worker, current, Inside(io), arrival, listener, "TCP").await;
}

/// The client's side of a tunnel.
trait Downstream {
    async fn join(self, upstream: Stream, idle: Quiet, meter: &Meters) -> TunnelEnd;

    /// Turns the client away.
    fn refuse(self);
}

struct Plain {
    client: TcpStream,
    first: Option<Buffer>,
}

struct Inside<I>(I);

impl Downstream for Plain {
    async fn join(self, upstream: Stream, idle: Quiet, meter: &Meters) -> TunnelEnd {
        match upstream {
            Stream::Plain(socket) => match socket.into_tokio() {
                Ok(upstream) => tunnel(&self.client, &upstream, self.first, idle, meter).await,
                Err(_) => {
                    reset(self.client);
                    TunnelEnd { a_to_b: 0, b_to_a: 0, cause: Cause::BrokenB }
                }
            },
            upstream @ Stream::Tls(_) => {
                let client = Socket::Epoll(epoll::Socket::from_tokio(self.client));
                relay(&client, &upstream, self.first, idle, meter).await
            }
        }
    }

    fn refuse(self) {
        reset(self.client);
    }
}

impl<I: Io> Downstream for Inside<I> {
    async fn join(self, upstream: Stream, idle: Quiet, meter: &Meters) -> TunnelEnd {
        relay(&self.0, &upstream, None, idle, meter).await
    }

    fn refuse(self) {
        self.0.abort();
    }
}

async fn carry<D: Downstream>(
    worker: &Rc<Worker>,
    current: Rc<Current>,
    client: D,
    arrival: &Arrival,
    listener: ListenerId,
    protocol: &'static str,
) {
    let found = current.snapshot().listeners.get(listener.index());
    let route = found.and_then(|listener| route_of(listener, arrival.server_name.as_deref()));
    let mut account = Account {
        worker,
        arrival,
        protocol,
        names: Names::of(found, route),
        summary: Summary::default(),
        meters: Meters { listener: current.series.listener(listener).cloned(), ..Meters::default() },
        reason: Some(Reason::Draining),
    };
    let limits = &current.generation.limits;
    let open = found.and_then(|listener| listener.client.tunnel_idle_timeout).unwrap_or(limits.tunnel_idle_timeout);
    let idle = Quiet { open, half_closed: limits.stream_idle_timeout };
    let (targets_of, origin) = (Rc::clone(&current), Some(arrival.origin()));
    let targets = WorkerTargets { worker: Rc::clone(worker), current: targets_of, origin };
    let dialed = dial(route, arrival.peer.ip(), &targets, worker.random.next_u32(), &mut account.summary).await;
    account.meters.upstream = account.summary.upstream.and_then(|id| current.series.upstream(id)).cloned();
    // A tunnel may live for days; the snapshot must not.
    drop(targets);
    drop(current);
    match dialed {
        Ok((connection, _load)) => {
            let _counted = account.meters.upstream.as_ref().map(Counted::new);
            account.meters.open();
            account.reason = client.join(connection, idle, &account.meters).await.cause.reason();
        }
        Err(reason) => {
            client.refuse();
            account.reason = Some(reason);
        }
    }
}

/// A connection's entry in log and counters. It is written when this is dropped, so also for a connection that ends with
/// its worker.
struct Account<'a> {
    worker: &'a Worker,
    arrival: &'a Arrival,
    protocol: &'static str,
    names: Names,
    summary: Summary,
    meters: Meters,
    reason: Option<Reason>,
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        self.meters.close();
        if let Some(reason) = self.reason {
            self.worker.metrics.count(reason);
        }
        let Some(log) = &self.worker.log else { return };
        let duration = self.arrival.at.elapsed();
        let at = SystemTime::now().checked_sub(duration).unwrap_or(UNIX_EPOCH);
        let mut entry = Entry::new(at, self.arrival.peer, self.arrival.destination(), self.protocol);
        self.names.fill(&mut entry);
        entry.backend = self.summary.backend.as_deref();
        entry.endpoint = self.summary.endpoint;
        entry.tries = self.summary.tries;
        entry.upstream = self.summary.connect;
        entry.duration = duration;
        entry.bytes_in = self.meters.received.get();
        entry.bytes_out = self.meters.sent.get();
        entry.reason = self.reason;
        entry.proxied_by = self.arrival.proxied.as_ref().map(|proxied| proxied.by);
        let server_name = self.arrival.server_name.as_deref();
        if self.arrival.tls.is_some() || server_name.is_some() {
            let (version, cipher) = self.arrival.tls.map_or(("", ""), |tls| (tls.version, tls.cipher));
            entry.tls = Some(TlsOf { version, cipher, server_name });
        }
        log.borrow_mut().record(&entry);
    }
}

fn route_of<'s>(listener: &'s Listener, server_name: Option<&str>) -> Option<&'s StreamRoute> {
    match &listener.serve {
        ListenerServe::Tcp { route } | ListenerServe::Udp { route } => route.as_ref(),
        ListenerServe::TlsTerminate { routes, .. } | ListenerServe::TlsPassthrough { routes } => {
            routes.best(server_name.unwrap_or_default())
        }
        ListenerServe::Http { .. } | ListenerServe::Https { .. } => None,
    }
}

/// What the log says of the configuration, kept beyond the generation.
struct Names {
    listener: Option<(ObjectRef, Box<str>)>,
    route: Option<ObjectRef>,
}

impl Names {
    fn of(listener: Option<&Listener>, route: Option<&StreamRoute>) -> Self {
        Self {
            listener: listener.map(|listener| (listener.parent.clone(), listener.name.clone())),
            route: route.map(|route| route.route.clone()),
        }
    }

    fn fill<'n>(&'n self, entry: &mut Entry<'n>) {
        entry.listener = self.listener.as_ref().map(|(parent, name)| (parent, &**name));
        entry.rule = self.route.as_ref().map(|route| RuleOf { route, index: None, name: None });
    }
}

/// Counts a tunnel's bytes while they move.
#[derive(Default)]
struct Meters {
    listener: Option<Arc<ListenerSeries>>,
    upstream: Option<Arc<UpstreamSeries>>,
    is_open: bool,
    received: Cell<u64>,
    sent: Cell<u64>,
}

impl Meters {
    fn open(&mut self) {
        self.is_open = true;
        if let Some(listener) = &self.listener {
            listener.tunnels_opened.one();
        }
    }

    fn close(&mut self) {
        if std::mem::take(&mut self.is_open)
            && let Some(listener) = &self.listener
        {
            listener.tunnels_closed.one();
        }
    }

    fn each(&self, listener: impl Fn(&ListenerSeries), upstream: impl Fn(&UpstreamSeries)) {
        if let Some(series) = &self.listener {
            listener(series);
        }
        if let Some(series) = &self.upstream {
            upstream(series);
        }
    }
}

impl Meter for Meters {
    fn a_to_b(&self, bytes: u64) {
        self.received.set(self.received.get() + bytes);
        self.each(|listener| listener.received.add(bytes), |upstream| upstream.sent.add(bytes));
    }

    fn b_to_a(&self, bytes: u64) {
        self.sent.set(self.sent.get() + bytes);
        self.each(|listener| listener.sent.add(bytes), |upstream| upstream.received.add(bytes));
    }
}

/// The endpoints of one generation.
struct WorkerTargets {
    worker: Rc<Worker>,
    current: Rc<Current>,
    /// The client's connection; datagrams have none.
    origin: Option<Origin>,
}

impl Targets for WorkerTargets {
    type Load = (InFlight, Option<Held>);

    fn pick(&self, upstream: UpstreamId, how: How<'_>, avoid: Option<SocketAddr>) -> Option<(SocketAddr, Self::Load)> {
        let upstream = self.current.upstream(upstream)?;
        let endpoint = match how.sticky {
            None => {
                let balance = how.balance.unwrap_or(&Balance::RoundRobin);
                let hash = matches!(balance, Balance::Hash(_)).then(|| hashing::of_client(how.client));
                upstream.pick_alike(balance, hash, &self.worker.random, avoid).ok()?
            }
            Some(sticky) => {
                let now = Instant::now();
                let known = &self.worker.shared.affinity;
                let own = known.endpoint(&upstream.key, sticky.client, now);
                let weight = |endpoint| affinity::weight(sticky.client, endpoint);
                let endpoint = upstream.pick_for(own, weight, avoid, now)?;
                known.note(&upstream.key, sticky, endpoint.address, now);
                endpoint
            }
        };
        // There is no queue for connections: who waits would not be told.
        let held = match (&upstream.circuit, endpoint.vitals()) {
            (Some(circuit), Some(vitals)) if circuit.counts_connections() => Some(circuit.connect(vitals).ok()?),
            _ => None,
        };
        Some((endpoint.address, (InFlight::new(endpoint), held)))
    }

    fn census(&self, upstream: UpstreamId) -> Census {
        self.current.upstream(upstream).map(|upstream| upstream.census()).unwrap_or_default()
    }

    fn has(&self, upstream: UpstreamId, endpoint: SocketAddr) -> bool {
        self.current.upstream(upstream).is_some_and(|upstream| upstream.endpoint_at(endpoint).is_some())
    }

    fn hold(&self, upstream: UpstreamId, endpoint: SocketAddr) -> Option<Self::Load> {
        let known = self.current.upstream(upstream)?.endpoint_at(endpoint)?;
        Some((InFlight::new(known), None))
    }

    fn note(&self, upstream: UpstreamId, endpoint: SocketAddr, outcome: Result<(), &io::Error>) {
        let Some(of) = self.current.upstream(upstream) else { return };
        let Some(known) = of.endpoint_at(endpoint) else { return };
        match outcome {
            Ok(()) => {
                known.note_success();
                of.answered(&known, 200);
            }
            Err(error) => {
                let is_ejected = known.note_failure(error, Instant::now()) | of.failed(&known);
                if let Some(series) = self.current.series.upstream(upstream) {
                    series.connect_failures.one();
                    series.ejections.add(u64::from(is_ejected));
                }
            }
        }
    }
}

impl Connect for WorkerTargets {
    type Connection = Stream;

    async fn connect(&self, upstream: UpstreamId, endpoint: SocketAddr) -> Result<Stream, Refusal> {
        let gone = || Refusal { reason: Reason::NoReadyEndpoint, error: io::ErrorKind::NotFound.into() };
        let upstream = self.current.upstream(upstream).ok_or_else(gone)?;
        let endpoint = upstream.endpoint_at(endpoint).ok_or_else(gone)?;
        // splice(2) needs readiness, whatever the rest of the worker runs on.
        let dialer = Dialer { backend: Backend::Epoll, ..self.worker.dialer(&self.current, self.origin) };
        upstream::connect(upstream, &endpoint, dialer).await.map_err(|error| match error {
            DialError::Connect(error) => Refusal { reason: Reason::ConnectFailed, error },
            DialError::Elapsed => Refusal { reason: Reason::ConnectFailed, error: io::Error::other(error) },
            error => Refusal { reason: Reason::BackendTls, error: io::Error::other(error.to_string()) },
        })
    }
}

/// The datagrams of a UDPRoute that come to one of the sockets of its address, for as long as the future lives.
pub async fn datagrams(worker: Rc<Worker>, socket: UdpSocket, address: SocketAddr, index: usize) {
    let logged = Rc::clone(&worker);
    let ended = Box::new(move |end: &SessionEnd| log_session(&logged, address, end));
    let mut served = worker.current();
    let all = Arc::clone(&worker.shared.udp_sessions);
    let udp = Udp::start(socket, UdpLimits::default(), serving(&worker, &served, address), all, ended);
    for flow in worker.shared.flows_of(address, index) {
        udp.resume(flow);
    }
    let _closing = Closing { udp: Rc::clone(&udp), worker: Rc::clone(&worker), address, index };
    let mut receiving = std::pin::pin!(Rc::clone(&udp).run());
    loop {
        let changed = worker.shared.changed.notified();
        let current = worker.current();
        if !Rc::ptr_eq(&current, &served) {
            udp.set(serving(&worker, &current, address));
            served = current;
        }
        tokio::select! {
            outcome = &mut receiving => {
                if let Err(error) = outcome {
                    tracing::error!(socket = %address, worker = worker.index, %error, "cannot receive datagrams");
                }
                return;
            }
            () = changed => {}
        }
    }
}

/// Ends the sessions when the task that receives is ended; they go on elsewhere where another process has taken over.
struct Closing {
    udp: Rc<Udp<WorkerTargets>>,
    worker: Rc<Worker>,
    address: SocketAddr,
    index: usize,
}

impl Drop for Closing {
    fn drop(&mut self) {
        if self.worker.is_relieved() {
            self.worker.shared.hand_flows(self.udp.hand(self.address, self.index));
        }
        self.udp.close();
    }
}

fn udp_listener(current: &Current, address: SocketAddr) -> Option<ListenerId> {
    let port = current.port_id(address, Transport::Udp)?;
    match current.snapshot().ports.get(port.index())?.serve {
        PortServe::Udp { listener } => Some(listener),
        _ => None,
    }
}

fn serving(worker: &Rc<Worker>, current: &Rc<Current>, address: SocketAddr) -> Serving<WorkerTargets> {
    let id = udp_listener(current, address);
    let port = current.port_id(address, Transport::Udp).and_then(|id| current.snapshot().ports.get(id.index()));
    let listener = id.and_then(|id| current.snapshot().listeners.get(id.index()));
    let draws = Rc::clone(worker);
    Serving {
        route: listener.and_then(|listener| route_of(listener, None)).cloned(),
        sources: port.and_then(|port| port.sources.clone()),
        targets: WorkerTargets { worker: Rc::clone(worker), current: Rc::clone(current), origin: None },
        series: id.and_then(|id| current.series.listener(id)).cloned().unwrap_or_default(),
        draw: Box::new(move || draws.random.next_u32()),
        most: current.generation.limits.max_udp_sessions,
    }
}

fn log_session(worker: &Worker, address: SocketAddr, end: &SessionEnd) {
    if let Some(reason) = end.reason {
        worker.metrics.count(reason);
    }
    let Some(log) = &worker.log else { return };
    let current = worker.current();
    let listener = udp_listener(&current, address).and_then(|id| current.snapshot().listeners.get(id.index()));
    let names = Names::of(listener, listener.and_then(|listener| route_of(listener, None)));
    let mut entry = Entry::new(end.began, end.client, address, "UDP");
    names.fill(&mut entry);
    entry.backend = Some(&end.backend);
    entry.endpoint = Some(end.endpoint);
    entry.duration = end.duration;
    entry.bytes_in = end.received;
    entry.bytes_out = end.sent;
    entry.reason = end.reason;
    log.borrow_mut().record(&entry);
}
