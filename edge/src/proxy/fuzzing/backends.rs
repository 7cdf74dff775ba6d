//! The far ends of the forwarder: a client in memory, and a worker whose pool already has connections to a backend that
//! reads with the [`reference`] reader and remembers what it was sent.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use edge_config::hosts::HostMap;
use edge_config::matching::{PathMatch, RouteMatch, RouteTable};
use edge_config::names::{HostPattern, Kind, ObjectKey, ObjectRef};
use edge_config::settings::PathPolicy;
use edge_config::snapshot::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::reference::{self, Request, Stop};
use crate::proxy::authorities::Authorities;
use crate::proxy::body::Chunk;
use crate::proxy::buffer::Buffer;
use crate::proxy::filters::session::Tokens;
use crate::proxy::h1::upstream::Connection;
use crate::proxy::io::{Backend as IoBackend, Closed, Io, Socket as IoSocket};
use crate::proxy::limits::Limits;
use crate::proxy::metrics::WorkerMetrics;
use crate::proxy::upstream::stream::Stream;
use crate::proxy::worker::{Arrival, Seat, Worker};
use crate::proxy::{Generation, Mode, Shared, Wanted};

/// Connections in the pool; a new one would be refused, because nobody listens at [`ENDPOINT`].
const POOLED: usize = 3;
const ENDPOINT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

/// A client that has said everything already, piece by piece, and then half-closes.
#[derive(Default)]
pub struct Client {
    pieces: RefCell<VecDeque<Vec<u8>>>,
    received: RefCell<Vec<u8>>,
    was_reset: Cell<bool>,
}

/// Edge's end of it.
pub struct ClientIo(pub Rc<Client>);

impl Client {
    pub fn new<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Rc<Self> {
        let pieces = pieces.into_iter().map(<[u8]>::to_vec).collect();
        Rc::new(Self { pieces: RefCell::new(pieces), ..Self::default() })
    }

    pub fn received(&self) -> Vec<u8> {
        self.received.borrow().clone()
    }

    pub fn was_reset(&self) -> bool {
        self.was_reset.get()
    }
}

impl Io for ClientIo {
    async fn readable(&self) -> io::Result<()> {
        tokio::task::yield_now().await;
        Ok(())
    }

    async fn read(&self, mut buffer: Buffer) -> (io::Result<usize>, Buffer) {
        let mut pieces = self.0.pieces.borrow_mut();
        let Some(mut piece) = pieces.pop_front() else { return (Ok(0), buffer) };
        let count = buffer.append(&piece);
        assert!(count > 0, "read into a full buffer");
        let rest = piece.split_off(count);
        if !rest.is_empty() {
            pieces.push_front(rest);
        }
        (Ok(count), buffer)
    }

    async fn write(&self, chunk: Chunk) -> (io::Result<()>, Chunk) {
        self.0.received.borrow_mut().extend_from_slice(chunk.as_slice());
        (Ok(()), chunk)
    }

    fn poll_closed(&self, _: &mut Context<'_>) -> Poll<Closed> {
        Poll::Pending
    }

    async fn broken(&self) {
        std::future::pending().await
    }

    async fn finish(&self) -> io::Result<()> {
        Ok(())
    }

    fn reset(&self) {
        self.0.was_reset.set(true);
    }

    fn abort(&self) {
        self.0.was_reset.set(true);
    }

    fn is_quiet(&self) -> bool {
        self.0.pieces.borrow().is_empty()
    }
}

/// What the backend does.
pub enum Script {
    /// Numbers its answers, in turn by length and chunked.
    Count,
    /// Sends this to the first request on the first connection, closes then or not, and counts on all others.
    Say { pieces: Vec<Vec<u8>>, close: bool },
}

/// What the backend was sent.
#[derive(Default)]
pub struct Seen {
    pub complete: Vec<Request>,
    /// Heads that were good, with what came of a body that was never ended.
    pub partial: Vec<Request>,
    pub malformed: Option<(&'static str, Vec<u8>)>,
}

/// The worker of this data plane and the backend's side of it.
pub struct Plane {
    pub worker: Rc<Worker>,
    pub arrival: Arrival,
    seen: Rc<RefCell<Seen>>,
    backends: Vec<JoinHandle<()>>,
    clock: JoinHandle<()>,
}

impl Plane {
    pub fn new(script: Script) -> Self {
        let limits = Limits { stream_idle_timeout: Duration::from_secs(60), ..Limits::default() };
        let generation = Arc::new(generation(limits));
        let wanted =
            Wanted { generation: Arc::clone(&generation), series: Vec::new(), sockets: Vec::new(), mode: Mode::Serve };
        let metrics = WorkerMetrics::new();
        let (worker, _) = Worker::new(Seat {
            index: 0,
            backend: IoBackend::Epoll,
            wanted: watch::channel(Arc::new(wanted)).1,
            shared: Arc::new(Shared::new(1, Authorities::new().0)),
            metrics: Arc::clone(&metrics),
            tokens: Arc::new(Tokens::new(b"fuzzing").unwrap()),
            log: None,
        });
        let series = metrics.prepare(&generation.snapshot);
        worker.adopt(generation, series);
        let clock = tokio::task::spawn_local(Rc::clone(&worker.clock).run());
        let (seen, script) = (Rc::<RefCell<Seen>>::default(), Rc::new(script));
        let current = worker.current();
        let endpoint = current.upstream(UpstreamId(0)).unwrap().endpoints().next().unwrap();
        let mut backends = Vec::new();
        // The pool gives back last what it got first.
        for number in (0..POOLED).rev() {
            let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
            near.set_nonblocking(true).unwrap();
            far.set_nonblocking(true).unwrap();
            // A socket is a socket: what Edge does with it is the same, and no port is used up.
            let near = IoSocket::from_std(OwnedFd::from(near).into(), IoBackend::Epoll).unwrap();
            let connection =
                Connection::new(Stream::Plain(near), &worker.clock, limits.head, limits.stream_idle_timeout);
            endpoint.put(Box::new(connection), endpoint.epoch(), POOLED, None);
            let far = UnixStream::from_std(far).unwrap();
            backends.push(tokio::task::spawn_local(serve(number, far, Rc::clone(&script), Rc::clone(&seen))));
        }
        drop(current);
        let arrival = Arrival::new("192.0.2.1:5000".parse().unwrap(), LOCAL);
        Self { worker, arrival, seen, backends, clock }
    }

    /// Closes every connection and says what the backend was sent on them.
    pub async fn end(self) -> Seen {
        self.clock.abort();
        let _ = self.clock.await;
        drop(self.worker);
        for backend in self.backends {
            backend.await.unwrap();
        }
        self.seen.take()
    }
}

/// One connection of the backend, up to its end.
async fn serve(number: usize, mut stream: UnixStream, script: Rc<Script>, seen: Rc<RefCell<Seen>>) {
    let mut bytes = Vec::new();
    let mut first = true;
    let mut chunk = [0; 8192];
    while let Ok(count @ 1..) = stream.read(&mut chunk).await {
        bytes.extend_from_slice(&chunk[..count]);
        let found = reference::requests(&bytes);
        if let Stop::Malformed(what) = found.stop {
            seen.borrow_mut().malformed.get_or_insert((what, bytes.clone()));
            return;
        }
        bytes.drain(..found.used);
        for request in found.complete {
            let order = seen.borrow().complete.len();
            let is_head = request.method == b"HEAD";
            seen.borrow_mut().complete.push(request);
            match &*script {
                Script::Say { pieces, close } if number == 0 && std::mem::take(&mut first) => {
                    for piece in pieces {
                        let _ = stream.write_all(piece).await;
                        tokio::task::yield_now().await;
                    }
                    if *close {
                        return;
                    }
                }
                _ => {
                    let _ = stream.write_all(&counted(number, order, is_head)).await;
                }
            }
        }
    }
    let found = reference::requests(&bytes);
    seen.borrow_mut().partial.extend(found.partial);
}

fn counted(connection: usize, order: usize, is_head: bool) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nx-order: {order}\r\nx-connection: {connection}\r\n");
    let body = format!("answer {order}");
    let text = match (is_head, order % 2) {
        (true, _) => format!("{head}content-length: {}\r\n\r\n", body.len()),
        (_, 0) => format!("{head}content-length: {}\r\n\r\n{body}", body.len()),
        _ => format!("{head}transfer-encoding: chunked\r\n\r\n{:x};x\r\n{body}\r\n0\r\n\r\n", body.len()),
    };
    text.into_bytes()
}

const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 80);

/// Everything goes to one endpoint.
fn generation(limits: Limits) -> Generation {
    let object = |kind, name: &str| ObjectRef::new(kind, ObjectKey::new("default", name));
    let mut hosts = HostMap::new();
    hosts.insert(HostPattern::Any, ListenerId(0));
    let entry = RouteMatch::new(PathMatch::prefix(""), RuleId(0), 0);
    let routes = RouteTable::build([(HostPattern::Any, Arc::new(entry))]);
    let snapshot = Snapshot {
        sockets: vec![Socket { address: LOCAL, transport: Transport::Tcp, port: PortId(0) }],
        ports: vec![Port {
            owner: object(Kind::Gateway, "gateway"),
            number: LOCAL.port(),
            sources: None,
            proxy_protocol: None,
            keepalive: None,
            serve: PortServe::Http { hosts },
        }],
        listeners: vec![Listener {
            parent: object(Kind::Gateway, "gateway"),
            name: "http".into(),
            port: LOCAL.port(),
            hostname: HostPattern::Any,
            policy: None,
            client: ClientSettings {
                trusted_hops: 0,
                idle_timeout: limits.idle_timeout,
                head_timeout: limits.head_timeout,
                buffer_limit: None,
                path: PathPolicy::default(),
                ..ClientSettings::default()
            },
            serve: ListenerServe::Http { routes },
        }],
        rules: vec![Arc::new(Rule {
            route: object(Kind::HTTPRoute, "route"),
            index: 0,
            name: None,
            grpc: false,
            filters: Arc::default(),
            action: Action::Forward(vec![Backend {
                weight: 1,
                reference: "Service default/backend:80".into(),
                target: Target::Upstream(UpstreamId(0)),
                filters: Arc::default(),
                balance: None,
                fallback: false,
            }]),
            timeouts: Timeouts::default(),
            retry: None,
            session: None,
            balance: Balance::RoundRobin,
            policy: None,
        })],
        upstreams: vec![Arc::new(Upstream {
            key: UpstreamKey { object: object(Kind::Service, "backend"), port: 80, variant: "".into() },
            protocol: UpstreamProtocol::Http1,
            proxy_protocol: None,
            tls: None,
            policy: None,
        })],
        ..Snapshot::default()
    };
    let endpoint = Endpoint { address: ENDPOINT, state: EndpointState::Ready, target: "".into(), node: "".into() };
    let endpoints = vec![Arc::new(EndpointSet::Addresses(vec![endpoint]))];
    Generation {
        number: 1,
        snapshot: Arc::new(snapshot),
        endpoints: Arc::new(endpoints),
        tls: Arc::default(),
        secrets: Arc::default(),
        limits,
        responders: Arc::default(),
        maintenance: None,
        tracer: None,
    }
}
