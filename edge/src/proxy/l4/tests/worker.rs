//! Through the whole data plane: bound sockets, workers, generations, log.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use edge_config::names::{HostPattern, Kind, ObjectKey, ObjectRef};
use edge_config::settings::AddressRange;
use edge_config::snapshot::{
    ClientSettings, Endpoint, EndpointSet, EndpointState, Listener, ListenerId, ListenerServe, Port, PortId, PortServe,
    Snapshot, Socket, Sources, Transport, Upstream, UpstreamKey, UpstreamProtocol,
};

use super::route;
use crate::proxy::access_log::{AccessLog, Destination};
use crate::proxy::filters::session::Tokens;
use crate::proxy::h3::steering::Keys;
use crate::proxy::io::{Backend, uring};
use crate::proxy::limits::Limits;
use crate::proxy::metrics::{Format, render};
use crate::proxy::{Generation, Proxy, ProxyOptions};

type Backends<'a> = &'a [(u32, Option<u32>)];

/// A TCP listener and a UDP listener on one address, both with this route.
fn generation(number: u64, address: SocketAddr, backends: Backends<'_>, endpoints: &[SocketAddr]) -> Generation {
    let gateway = ObjectKey::new("infra", "gw");
    let route = (!backends.is_empty()).then(|| route(backends));
    let listener = |name: &str, serve| Listener {
        parent: ObjectRef::new(Kind::Gateway, gateway.clone()),
        name: name.into(),
        port: address.port(),
        hostname: HostPattern::Any,
        policy: None,
        client: ClientSettings {
            trusted_hops: 0,
            idle_timeout: Duration::from_secs(60),
            head_timeout: Duration::from_secs(30),
            buffer_limit: None,
            path: Default::default(),
            ..ClientSettings::default()
        },
        serve,
    };
    let owner = ObjectRef::new(Kind::Gateway, gateway.clone());
    let port = |serve| Port {
        owner: owner.clone(),
        number: address.port(),
        sources: None,
        proxy_protocol: None,
        keepalive: None,
        serve,
    };
    let snapshot = Snapshot {
        sockets: vec![
            Socket { address, transport: Transport::Tcp, port: PortId(0) },
            Socket { address, transport: Transport::Udp, port: PortId(1) },
        ],
        ports: vec![port(PortServe::Tcp { listener: ListenerId(0) }), port(PortServe::Udp { listener: ListenerId(1) })],
        listeners: vec![
            listener("tcp", ListenerServe::Tcp { route: route.clone() }),
            listener("udp", ListenerServe::Udp { route }),
        ],
        upstreams: (0..endpoints.len())
            .map(|index| Upstream {
                key: UpstreamKey {
                    object: ObjectRef::new(Kind::Service, ObjectKey::new("a", &*format!("s{index}"))),
                    port: 1,
                    variant: "".into(),
                },
                protocol: UpstreamProtocol::Stream,
                proxy_protocol: None,
                tls: None,
                policy: None,
            })
            .map(Arc::new)
            .collect(),
        ..Snapshot::default()
    };
    let endpoint = |address: &SocketAddr| Endpoint {
        address: *address,
        state: EndpointState::Ready,
        target: "".into(),
        node: "".into(),
    };
    let sets = endpoints.iter().map(|address| Arc::new(EndpointSet::Addresses(vec![endpoint(address)])));
    Generation {
        number,
        snapshot: Arc::new(snapshot),
        endpoints: Arc::new(sets.collect()),
        tls: Arc::default(),
        secrets: Arc::default(),
        limits: Limits::default(),
        responders: Arc::default(),
        maintenance: None,
        tracer: None,
    }
}

/// An endpoint for TCP and UDP that answers with its name and what it got.
fn echo(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let socket = UdpSocket::bind(address).unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 2048];
        while let Ok((count, from)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(&[name.as_bytes(), &bytes[..count]].concat(), from);
        }
    });
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut bytes = [0; 2048];
                let _ = stream.write_all(name.as_bytes());
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    let _ = stream.write_all(&bytes[..count]);
                }
            });
        }
    });
    address
}

/// An address at which nobody listens; nobody else in this process is given a port of this host, see `edge/tests/rig`.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let host = Ipv4Addr::new(127, 192 | (high & 0x3f), low, NEXT.fetch_add(1, Ordering::Relaxed));
    TcpListener::bind((host, 0)).unwrap().local_addr().unwrap()
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn publish(proxy: &Proxy, generation: Generation) {
    let number = generation.number;
    let failures = proxy.publish(generation);
    assert!(failures.is_empty(), "{failures:?}");
    until("the generation is live", || proxy.live() >= number);
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

fn exact(mut stream: &TcpStream, count: usize) -> String {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn ask(socket: &UdpSocket, address: SocketAddr, text: &str) -> String {
    let mut bytes = [0; 2048];
    socket.send_to(text.as_bytes(), address).unwrap();
    let (count, from) = socket.recv_from(&mut bytes).unwrap();
    assert_eq!(from, address);
    String::from_utf8(bytes[..count].to_vec()).unwrap()
}

fn udp_client() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    socket
}

fn through_workers(backend: Backend) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let (a, b, address) = (echo("a"), echo("b"), free_address());
    let options = ProxyOptions {
        workers: 2,
        backend: Some(backend),
        tokens: Tokens::new(b"test").unwrap(),
        keys: Keys::new(b"test"),
        log: Some(AccessLog::start(Destination::File(path.clone())).unwrap()),
        handed: None,
    };
    let proxy = Proxy::start(options, generation(0, address, &[], &[])).unwrap();
    publish(&proxy, generation(1, address, &[(1, Some(0)), (0, Some(1))], &[a, b]));

    let old = connect(address);
    assert_eq!(exact(&old, 1), "a");
    let datagrams = udp_client();
    assert_eq!(ask(&datagrams, address, "1"), "a1");

    // Another backend takes what is new; what there is stays.
    publish(&proxy, generation(2, address, &[(0, Some(0)), (1, Some(1))], &[a, b]));
    let new = connect(address);
    assert_eq!(exact(&new, 1), "b");
    assert_eq!(ask(&udp_client(), address, "2"), "b2");
    (&old).write_all(b"still").unwrap();
    assert_eq!(exact(&old, 5), "still");
    assert_eq!(ask(&datagrams, address, "3"), "a3");

    // The share of an invalid backend is turned away.
    publish(&proxy, generation(3, address, &[(1, None)], &[a, b]));
    assert_eq!(connect(address).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    (&old).write_all(b"still").unwrap();
    assert_eq!(exact(&old, 5), "still");

    let tcp = r#"kind="Gateway",namespace="infra",name="gw",listener="tcp""#;
    let udp = tcp.replace("tcp", "udp");
    let port = address.port();
    for line in [
        format!(r#"edge_connections_total{{namespace="infra",gateway="gw",port="{port}",transport="tcp"}} 3"#),
        format!(r#"edge_tunnels_total{{{tcp},port="{port}"}} 2"#),
        format!(r#"edge_tunnels_open{{{tcp},port="{port}"}} 2"#),
        // Counted while the tunnel lives.
        format!(r#"edge_listener_received_bytes_total{{{tcp},port="{port}"}} 10"#),
        format!(r#"edge_listener_sent_bytes_total{{{tcp},port="{port}"}} 12"#),
        format!(r#"edge_udp_sessions_total{{{udp},port="{port}"}} 2"#),
        format!(r#"edge_udp_sent_datagrams_total{{{udp},port="{port}"}} 3"#),
        r#"edge_upstream_connections_total{kind="Service",namespace="a",name="s1",port="1"} 1"#.to_owned(),
        r#"edge_upstream_sent_bytes_total{kind="Service",namespace="a",name="s0",port="1"} 10"#.to_owned(),
        r#"edge_local_responses_total{reason="invalid_backend"} 1"#.to_owned(),
    ] {
        // Counted right after it is felt.
        let page = || render(proxy.metrics(), 0, Format::Prometheus);
        until(&line, || page().lines().any(|found| found == line));
    }

    old.shutdown(Shutdown::Both).unwrap();
    drop(old);
    until("the old connection is over", || proxy.connections() == 1);
    // The other one ends with its worker.
    proxy.stop();
    drop(new);
    let log = std::fs::read_to_string(&path).unwrap();
    let entries: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let with = |key: &str, value: &str| entries.iter().filter(|entry| entry[key] == *value).count();
    assert_eq!((with("protocol", "TCP"), with("protocol", "UDP")), (3, 2), "{log}");
    assert_eq!((with("reason", "invalid_backend"), with("reason", "draining")), (1, 1), "{log}");
    assert_eq!((with("backend", "Service a/s0:1"), with("backend", "Service a/s1:1")), (2, 2), "{log}");
    let long = entries.iter().find(|entry| entry["protocol"] == "TCP" && entry["bytes_in"] == 10).unwrap();
    assert_eq!((&long["bytes_out"], &long["listener"]), (&11.into(), &"Gateway infra/gw/tcp".into()));
    assert_eq!((&long["route"], &long["endpoint"]), (&"TCPRoute a/b".into(), &a.to_string().into()));
}

#[test]
fn tcp_and_udp_routes_on_epoll() {
    through_workers(Backend::Epoll);
}

#[test]
fn tcp_and_udp_routes_on_io_uring() {
    match uring::probe() {
        Ok(()) => through_workers(Backend::Uring),
        Err(error) => eprintln!("io_uring is not tested: {error}"),
    }
}

fn options(workers: usize) -> ProxyOptions {
    ProxyOptions {
        workers,
        backend: Some(Backend::Epoll),
        tokens: Tokens::new(b"test").unwrap(),
        keys: Keys::new(b"test"),
        log: None,
        handed: None,
    }
}

/// The generation with its snapshot changed.
fn changed(mut generation: Generation, change: impl FnOnce(&mut Snapshot)) -> Generation {
    change(Arc::make_mut(&mut generation.snapshot));
    generation
}

#[test]
fn who_is_not_let_in_gets_nowhere() {
    let (a, address) = (echo("a"), free_address());
    let proxy = Proxy::start(options(2), generation(0, address, &[], &[])).unwrap();
    let only_from = |number, range: &str| {
        let sources = Sources::new(vec![AddressRange::parse(range).unwrap()]);
        changed(generation(number, address, &[(1, Some(0))], &[a]), |snapshot| {
            snapshot.ports.iter_mut().for_each(|port| port.sources = Some(sources.clone()));
        })
    };
    publish(&proxy, only_from(1, "127.0.0.0/8"));
    let datagrams = udp_client();
    assert_eq!(exact(&connect(address), 1), "a");
    assert_eq!(ask(&datagrams, address, "1"), "a1");

    publish(&proxy, only_from(2, "192.0.2.0/24"));
    assert_eq!(connect(address).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    // A session from before ends too: every datagram is judged.
    datagrams.send_to(b"2", address).unwrap();
    udp_client().send_to(b"3", address).unwrap();
    let port = address.port();
    for line in [
        format!(
            r#"edge_connections_forbidden_total{{namespace="infra",gateway="gw",port="{port}",transport="tcp"}} 1"#
        ),
        format!(r#"edge_connections_total{{namespace="infra",gateway="gw",port="{port}",transport="tcp"}} 1"#),
        format!(
            r#"edge_udp_dropped_datagrams_total{{kind="Gateway",namespace="infra",name="gw",listener="udp",port="{port}",reason="source_forbidden"}} 2"#
        ),
        format!(
            r#"edge_udp_received_datagrams_total{{kind="Gateway",namespace="infra",name="gw",listener="udp",port="{port}"}} 1"#
        ),
        r#"edge_local_responses_total{reason="source_forbidden"} 1"#.to_owned(),
    ] {
        let page = || render(proxy.metrics(), 0, Format::Prometheus);
        until(&line, || page().lines().any(|found| found == line));
    }
    datagrams.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(datagrams.recv_from(&mut [0; 8]).is_err());
    proxy.stop();
}

#[test]
fn a_client_stays_with_its_endpoint_whichever_worker_it_comes_to() {
    let (a, b, c, address) = (echo("a"), echo("b"), echo("c"), free_address());
    let proxy = Proxy::start(options(4), generation(0, address, &[], &[])).unwrap();
    // One upstream with several endpoints.
    let with = |number, endpoints: &[SocketAddr]| {
        let mut generation = changed(generation(number, address, &[(1, Some(0))], &[a]), |snapshot| {
            for listener in &mut snapshot.listeners {
                if let ListenerServe::Tcp { route: Some(route) } | ListenerServe::Udp { route: Some(route) } =
                    &mut listener.serve
                {
                    route.affinity = Some(Duration::from_secs(600));
                }
            }
        });
        let (state, target, node) = (EndpointState::Ready, Box::default(), Box::default());
        let endpoint = Endpoint { address: a, state, target, node };
        let mut all: Vec<Endpoint> =
            endpoints.iter().map(|address| Endpoint { address: *address, ..endpoint.clone() }).collect();
        all.sort();
        generation.endpoints = Arc::new(vec![Arc::new(EndpointSet::Addresses(all))]);
        generation
    };
    let served_by = |times: usize| -> Vec<String> { (0..times).map(|_| exact(&connect(address), 1)).collect() };
    publish(&proxy, with(1, &[a, b]));
    let first = served_by(1).remove(0);
    assert!(served_by(40).iter().all(|name| *name == first));
    // More endpoints change nothing for a client that is known.
    publish(&proxy, with(2, &[a, b, c]));
    assert!(served_by(40).iter().all(|name| *name == first));
    // Datagrams of the same client too: one Service, one client, one endpoint of each of its ports.
    let names: Vec<String> = (0..8).map(|_| ask(&udp_client(), address, "")).collect();
    assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
    // Without its endpoint it goes to another, and stays there when the first comes back.
    let without: Vec<SocketAddr> =
        [("a", a), ("b", b), ("c", c)].into_iter().filter(|(name, _)| *name != first).map(|(_, it)| it).collect();
    publish(&proxy, with(3, &without));
    let second = served_by(1).remove(0);
    assert_ne!(second, first);
    assert!(served_by(20).iter().all(|name| *name == second));
    publish(&proxy, with(4, &[a, b, c]));
    assert!(served_by(20).iter().all(|name| *name == second));
    proxy.stop();
}
