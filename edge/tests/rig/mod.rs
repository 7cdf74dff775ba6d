//! A proxy in this process over a snapshot built by hand, with scripted endpoints and clients that see every byte.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)] // each test file uses its part; a failure here fails the test

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use edge::proxy::access_log::AccessLog;
use edge::proxy::filters::session::Tokens;
use edge::proxy::h3::steering::Keys;
use edge::proxy::io::{Backend as IoBackend, uring};
use edge::proxy::limits::Limits;
use edge::proxy::secrets::Secrets;
use edge::proxy::trace::Tracer;
use edge::proxy::{BindFailure, Generation, Proxy, ProxyOptions};
use edge_config::hosts::HostMap;
use edge_config::matching::{PathMatch, RouteMatch, RouteTable};
use edge_config::names::{HostPattern, Kind, ObjectKey, ObjectRef};
use edge_config::settings::PathPolicy;
use edge_config::snapshot::*;

/// Nothing that a test waits for takes longer, on the slowest machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a test on every back end of this machine.
pub fn on_both(test: impl Fn(IoBackend)) {
    test(IoBackend::Epoll);
    match uring::probe() {
        Ok(()) => test(IoBackend::Uring),
        Err(error) => eprintln!("io_uring not tested: {error}"),
    }
}

/// What the rules of a test send where: `(path prefix, rule)`, upstream `n` being endpoint set `n`.
pub struct Rig {
    pub proxy: Proxy,
    pub address: SocketAddr,
    number: AtomicU64,
    limits: Limits,
    /// Of every listener from the next publication on.
    pub path: Mutex<PathPolicy>,
}

impl Rig {
    pub fn new(backend: IoBackend, rules: Vec<(&str, Rule)>, upstreams: Vec<Vec<SocketAddr>>) -> Self {
        Self::with_limits(backend, rules, upstreams, Limits::default())
    }

    /// One rule for everything, one endpoint.
    pub fn plain(backend: IoBackend, endpoint: SocketAddr) -> Self {
        Self::new(backend, vec![("", rule(0))], vec![vec![endpoint]])
    }

    /// The same, with an access log.
    pub fn logging(backend: IoBackend, endpoint: SocketAddr, log: AccessLog) -> Self {
        Self::start(backend, vec![("", rule(0))], vec![vec![endpoint]], Limits::default(), Some(log))
    }

    pub fn with_limits(
        backend: IoBackend,
        rules: Vec<(&str, Rule)>,
        upstreams: Vec<Vec<SocketAddr>>,
        limits: Limits,
    ) -> Self {
        Self::start(backend, rules, upstreams, limits, None)
    }

    fn start(
        backend: IoBackend,
        rules: Vec<(&str, Rule)>,
        upstreams: Vec<Vec<SocketAddr>>,
        limits: Limits,
        log: Option<AccessLog>,
    ) -> Self {
        let address = free_address();
        let options = ProxyOptions {
            workers: 2,
            backend: Some(backend),
            tokens: Tokens::new(b"test").unwrap(),
            keys: Keys::new(b"test"),
            log,
            handed: None,
        };
        let first = generation(0, Snapshot::default(), Vec::new(), limits);
        let proxy = Proxy::start(options, first).unwrap();
        let rig = Self { proxy, address, number: AtomicU64::new(0), limits, path: Mutex::default() };
        rig.publish(rules, upstreams);
        rig
    }

    /// Publishes another generation and waits until it is live.
    pub fn publish(&self, rules: Vec<(&str, Rule)>, upstreams: Vec<Vec<SocketAddr>>) {
        let failures = self.publish_at(&[self.address], rules, upstreams);
        assert!(failures.is_empty(), "{failures:?}");
    }

    pub fn publish_at(
        &self,
        addresses: &[SocketAddr],
        rules: Vec<(&str, Rule)>,
        upstreams: Vec<Vec<SocketAddr>>,
    ) -> Vec<BindFailure> {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        let (mut snapshot, endpoints) = snapshot(self.address, rules, upstreams);
        let socket = |address: &SocketAddr| Socket { address: *address, transport: Transport::Tcp, port: PortId(0) };
        for listener in &mut snapshot.listeners {
            listener.client.idle_timeout = self.limits.idle_timeout;
            listener.client.head_timeout = self.limits.head_timeout;
            listener.client.path = *self.path.lock().unwrap();
        }
        snapshot.sockets = addresses.iter().map(socket).collect();
        let failures = self.proxy.publish(generation(number, snapshot, endpoints, self.limits));
        wait_for(|| self.proxy.live() >= number);
        failures
    }

    /// Publishes one rule for everything and one endpoint, with whatever else is done to the snapshot.
    pub fn publish_edited(&self, endpoint: SocketAddr, edit: impl FnOnce(&mut Snapshot)) {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        let (mut snapshot, endpoints) = snapshot(self.address, vec![("", rule(0))], vec![vec![endpoint]]);
        edit(&mut snapshot);
        assert!(self.proxy.publish(generation(number, snapshot, endpoints, self.limits)).is_empty());
        wait_for(|| self.proxy.live() >= number);
    }

    /// The same with texts of Secrets.
    pub fn publish_guarded(&self, endpoint: SocketAddr, secrets: &Arc<Secrets>, edit: impl FnOnce(&mut Snapshot)) {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        let (mut snapshot, endpoints) =
            snapshot(self.address, vec![("", rule(0)), ("/open", rule(0))], vec![vec![endpoint]]);
        edit(&mut snapshot);
        let generation = generation(number, snapshot, endpoints, self.limits);
        let generation = Generation { secrets: Arc::clone(secrets), ..generation };
        assert!(self.proxy.publish(generation).is_empty());
        wait_for(|| self.proxy.live() >= number);
    }

    /// Publishes one rule for everything and one endpoint, and traces.
    pub fn publish_traced(&self, endpoint: SocketAddr, tracer: &Arc<Tracer>) {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        let (snapshot, endpoints) = snapshot(self.address, vec![("", rule(0))], vec![vec![endpoint]]);
        let generation = generation(number, snapshot, endpoints, self.limits);
        let generation = Generation { tracer: Some(Arc::clone(tracer)), ..generation };
        assert!(self.proxy.publish(generation).is_empty());
        wait_for(|| self.proxy.live() >= number);
    }

    /// The same for rules and endpoints.
    pub fn publish_as(
        &self,
        rules: Vec<(&str, Rule)>,
        upstreams: Vec<Vec<SocketAddr>>,
        edit: impl FnOnce(&mut Snapshot),
    ) {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        let (mut snapshot, endpoints) = snapshot(self.address, rules, upstreams);
        edit(&mut snapshot);
        assert!(self.proxy.publish(generation(number, snapshot, endpoints, self.limits)).is_empty());
        wait_for(|| self.proxy.live() >= number);
    }

    /// Publishes a listener with one rule for each host.
    pub fn publish_hosts(&self, hosts: &[&str], rules: Vec<Rule>, upstreams: Vec<Vec<SocketAddr>>) {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        let (mut snapshot, endpoints) = snapshot(self.address, vec![("", rule(0))], upstreams);
        let mut map = HostMap::new();
        let template = snapshot.listeners.remove(0);
        for (id, host) in (0..).zip(hosts) {
            let hostname = HostPattern::parse(Some(host)).unwrap();
            map.insert(hostname.clone(), ListenerId(id));
            let entry = Arc::new(RouteMatch::new(PathMatch::prefix(""), RuleId(id), 0));
            let routes = RouteTable::build([(hostname.clone(), entry)]);
            snapshot.listeners.push(Listener { hostname, serve: ListenerServe::Http { routes }, ..template.clone() });
        }
        snapshot.rules = rules.into_iter().map(Arc::new).collect();
        snapshot.ports[0].serve = PortServe::Http { hosts: map };
        assert!(self.proxy.publish(generation(number, snapshot, endpoints, self.limits)).is_empty());
        wait_for(|| self.proxy.live() >= number);
    }

    pub fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// One request on a connection of its own; the whole answer up to the end.
    pub fn ask(&self, request: &str) -> String {
        let mut client = self.client();
        client.send(request);
        client.rest()
    }
}

/// An address at which nobody listens. The host is nobody else's, in this process or another: a port of 127.0.0.1 could be
/// given to the next who asks for any before it is bound here, and listeners of two proxies would share it.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let [.., last] = (NEXT.fetch_add(1, Ordering::Relaxed) % 250 + 1).to_be_bytes();
    TcpListener::bind((Ipv4Addr::new(127, 128 | (high & 0x3f), low, last), 0)).unwrap().local_addr().unwrap()
}

pub fn wait_for(mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "waited in vain");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn generation(number: u64, snapshot: Snapshot, endpoints: Endpoints, limits: Limits) -> Generation {
    Generation {
        number,
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

pub fn object(kind: Kind, name: &str) -> ObjectRef {
    ObjectRef::new(kind, ObjectKey::new("default", name))
}

/// A rule that forwards to one upstream.
pub fn rule(upstream: u32) -> Rule {
    forward(vec![backend(upstream, 1)])
}

pub fn backend(upstream: u32, weight: u32) -> Backend {
    Backend {
        weight,
        reference: format!("Service default/s{upstream}:80").into(),
        target: Target::Upstream(UpstreamId(upstream)),
        filters: Arc::default(),
        balance: None,
        fallback: false,
    }
}

pub fn forward(backends: Vec<Backend>) -> Rule {
    Rule {
        route: object(Kind::HTTPRoute, "route"),
        index: 0,
        name: None,
        grpc: false,
        filters: Arc::default(),
        action: Action::Forward(backends),
        timeouts: Timeouts::default(),
        retry: None,
        session: None,
        balance: Balance::RoundRobin,
        policy: None,
    }
}

fn snapshot(address: SocketAddr, rules: Vec<(&str, Rule)>, upstreams: Vec<Vec<SocketAddr>>) -> (Snapshot, Endpoints) {
    let gateway = object(Kind::Gateway, "gateway");
    let routes = RouteTable::build(rules.iter().zip(0..).map(|((path, _), index)| {
        let entry = RouteMatch::new(PathMatch::prefix(path), RuleId(index), 0);
        (HostPattern::Any, Arc::new(entry))
    }));
    let mut hosts = HostMap::new();
    hosts.insert(HostPattern::Any, ListenerId(0));
    let snapshot = Snapshot {
        vips: vec![Vip { address: address.ip(), owners: vec![gateway.clone()], source: "test".into() }],
        sockets: vec![Socket { address, transport: Transport::Tcp, port: PortId(0) }],
        ports: vec![Port {
            owner: gateway,
            number: address.port(),
            sources: None,
            proxy_protocol: None,
            keepalive: None,
            serve: PortServe::Http { hosts },
        }],
        listeners: vec![Listener {
            parent: object(Kind::Gateway, "gateway"),
            name: "http".into(),
            port: address.port(),
            hostname: HostPattern::Any,
            policy: None,
            client: ClientSettings {
                trusted_hops: 0,
                idle_timeout: Duration::from_secs(60),
                head_timeout: Duration::from_secs(10),
                buffer_limit: None,
                path: Default::default(),
                ..ClientSettings::default()
            },
            serve: ListenerServe::Http { routes },
        }],
        rules: rules.into_iter().map(|(_, rule)| Arc::new(rule)).collect(),
        upstreams: (0..upstreams.len())
            .map(|index| Upstream {
                key: UpstreamKey { object: object(Kind::Service, &format!("s{index}")), port: 80, variant: "".into() },
                protocol: UpstreamProtocol::Http1,
                proxy_protocol: None,
                tls: None,
                policy: None,
            })
            .map(Arc::new)
            .collect(),
        ..Snapshot::default()
    };
    let endpoints = upstreams
        .into_iter()
        .map(|addresses| {
            let endpoint =
                |address| Endpoint { address, state: EndpointState::Ready, target: "".into(), node: "".into() };
            Arc::new(EndpointSet::Addresses(addresses.into_iter().map(endpoint).collect()))
        })
        .collect();
    (snapshot, endpoints)
}

/// A scripted peer: a connection from one of its ends.
pub struct Client {
    pub stream: TcpStream,
    held: Vec<u8>,
    was_reset: bool,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self::of(TcpStream::connect(address).unwrap())
    }

    pub fn of(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, held: Vec::new(), was_reset: false }
    }

    pub fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    fn more(&mut self) -> bool {
        let mut bytes = [0; 65536];
        let count = self.stream.read(&mut bytes).unwrap_or_else(|error| {
            self.was_reset |= error.kind() == std::io::ErrorKind::ConnectionReset;
            0
        });
        self.held.extend_from_slice(&bytes[..count]);
        count > 0
    }

    /// Up to and with a text; what came before the end if it does not come.
    pub fn until(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = find(&self.held, text.as_bytes()) {
                return self.take(at + text.len());
            }
            if !self.more() {
                return self.take(self.held.len());
            }
        }
    }

    pub fn head(&mut self) -> String {
        self.until("\r\n\r\n")
    }

    pub fn exactly(&mut self, count: usize) -> String {
        while self.held.len() < count && self.more() {}
        self.take(count.min(self.held.len()))
    }

    /// A whole message: its head, and its body by Content-Length or chunked (framing taken off).
    pub fn message(&mut self) -> (String, String) {
        let head = self.head();
        let lower = head.to_ascii_lowercase();
        if lower.contains("transfer-encoding: chunked") {
            let mut body = String::new();
            loop {
                let line = self.until("\r\n");
                let size = usize::from_str_radix(line.trim_end(), 16).unwrap_or_else(|_| panic!("size {line:?}"));
                if size == 0 {
                    break;
                }
                body.push_str(&self.exactly(size));
                assert_eq!(self.exactly(2), "\r\n");
            }
            loop {
                let line = self.until("\r\n");
                if line == "\r\n" || line.is_empty() {
                    return (head, body);
                }
                body.push_str(&format!("[{}]", line.trim_end()));
            }
        }
        let length = lower.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        let body = self.exactly(length.map_or(0, |length| length.parse().unwrap()));
        (head, body)
    }

    /// What is held, or else what comes.
    pub fn exactly_or_read(&mut self, bytes: &mut [u8]) -> usize {
        if self.held.is_empty() {
            return self.stream.read(bytes).unwrap_or(0);
        }
        let count = self.held.len().min(bytes.len());
        self.held.drain(..count);
        count
    }

    /// Everything up to the end.
    pub fn rest(&mut self) -> String {
        while self.more() {}
        self.take(self.held.len())
    }

    /// Whether the connection breaks off.
    pub fn is_reset(&mut self) -> bool {
        self.rest();
        self.was_reset
    }

    /// Whether the peer ends without another byte.
    pub fn is_at_end(&mut self) -> bool {
        self.held.is_empty() && self.stream.read(&mut [0; 1]).is_ok_and(|count| count == 0)
    }

    fn take(&mut self, count: usize) -> String {
        let rest = self.held.split_off(count);
        String::from_utf8_lossy(&std::mem::replace(&mut self.held, rest)).into_owned()
    }
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}

/// A scripted endpoint; the script runs for every connection in a thread of its own.
pub struct Origin {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Origin {
    pub fn new(script: impl Fn(&mut Client, usize) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let script = Arc::new(script);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let number = counter.fetch_add(1, Ordering::Relaxed);
                let script = Arc::clone(&script);
                std::thread::spawn(move || script(&mut Client::of(stream), number));
            }
        });
        Self { address, connections }
    }

    /// Answers every request with its own head as the body.
    pub fn echo() -> Self {
        Self::new(|client, _| {
            loop {
                let (head, body) = client.message();
                if head.is_empty() {
                    return;
                }
                let text = format!("{head}{body}");
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
                if client.stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        })
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}
