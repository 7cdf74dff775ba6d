//! Upgrades under load, as a package makes them: another program lies on the disk and `systemctl reload edged` is called.
//! Under a real systemd, with a real gobgpd and FRR as the router: no request fails, the router's kernel never loses the
//! VIP, its session never ends. Back to an older program is the same. A program that cannot take over leaves the one that
//! runs as it is. `UPGRADES` is how many upgrades are made (default 5).

#![allow(clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use edge_integration::client::{Tls, WebSocket, fetch};
use edge_integration::datacentre::flows::{Ask, Flow, Flows, Tally};
use edge_integration::datacentre::routes::RouteWatch;
use edge_integration::edged::until;
use edge_integration::lab;
use edge_integration::load::{self, Load, Plan};
use edge_integration::machine::{self, Machine};
use edge_integration::manifests::{CLASS, gateway, http_route, route, service, service_with, to};
use edge_integration::netns::{enter, run_in};
use edge_integration::origin::Origin;
use edge_integration::pki;
use edge_integration::rack::{Rack, TOR, address};
use edge_integration::router;

const VIP: &str = "198.51.100.1";
const HTTP: u16 = 80;
const HTTPS: u16 = 443;
const TCP: u16 = 5432;
const UDP: u16 = 5353;
const HOST: &str = "shop.test";
/// Connections that last stay with the first edged for so long.
const SETTINGS: &str = r#"
[edge]
name = "a"

[[manifests]]
path = "manifests"

[[pool]]
name = "public"
addresses = ["198.51.100.1"]

[proxy]
drain_timeout = "15m"

[bgp]
asn = 65101
router_id = "10.1.1.1"
graceful_shutdown = "0s"

[[bgp.peer]]
name = "tor"
address = "10.1.1.2"
asn = 65000

[[bgp.advertisement]]
name = "public"
pools = ["public"]
"#;

struct Site {
    machine: Machine,
    watch: RouteWatch,
    rack: Rack,
    _origin: Backend,
}

/// An origin inside the edge's namespace.
struct Backend {
    http: SocketAddr,
    tcp: SocketAddr,
    udp: SocketAddr,
    _end: tokio::sync::oneshot::Sender<()>,
}

impl Backend {
    fn start(namespace: &str) -> Self {
        let name = namespace.to_owned();
        let (told, heard) = mpsc::channel();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        std::thread::spawn(move || {
            enter(&name).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let http = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                let udp = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
                let places = (http.local_addr().unwrap(), tcp.local_addr().unwrap(), udp.local_addr().unwrap());
                let origin = Origin::new("a");
                tokio::spawn(origin.clone().serve_http(http, None));
                tokio::spawn(origin.clone().serve_tcp(tcp));
                tokio::spawn(origin.serve_udp(udp));
                told.send(places).unwrap();
                // Its sender is dropped with the site.
                let _ = ended.await;
            });
        });
        let (http, tcp, udp) = heard.recv().unwrap();
        Self { http, tcp, udp, _end: end }
    }

    fn manifests(&self) -> String {
        let listeners = format!(
            "    - {{name: http, port: {HTTP}, protocol: HTTP}}
    - {{name: https, port: {HTTPS}, protocol: HTTPS, tls: {{certificateRefs: [{{name: web-tls}}]}}}}
    - {{name: tcp, port: {TCP}, protocol: TCP}}
    - {{name: udp, port: {UDP}, protocol: UDP}}
"
        );
        let parent = |section: &str| format!("{{name: web, sectionName: {section}}}");
        [
            CLASS,
            &gateway("web", &listeners),
            &http_route("shop", &[HOST], &to("a", 80)),
            &route("TCPRoute", "tcp", &parent("tcp"), &[], &to("tcp", 1)),
            &route("UDPRoute", "udp", &parent("udp"), &[], &to("udp", 1)),
            &service("default", "a", 80, &[self.http]),
            &service("default", "tcp", 1, &[self.tcp]),
            &service_with("default", "udp", 1, "", "UDP", &[self.udp]),
        ]
        .concat()
    }
}

/// `None`: skipped, loudly.
fn site(scenario: &str) -> Option<Site> {
    if let Err(why) = machine::available().and_then(|()| router::available()) {
        lab::skip(scenario, &why);
        return None;
    }
    let rack = Rack::start(&format!("up-{scenario}"), TOR)?;
    let origin = Backend::start(rack.edge.name());
    let machine = Machine::start(&rack.edge, SETTINGS, &origin.manifests(), "");
    // The user of the unit has to get at the programs there.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(machine.directory(), mode).unwrap();
    for copy in ["a", "b"] {
        let said = machine.run(&["cp", "/programs/edged", &format!("/share/edged-{copy}")]);
        assert_eq!(said.code, Some(0), "{said:?}");
    }
    let watch = RouteWatch::start(&rack.router, rack.tor.name(), &format!("{VIP}/32"));
    let site = Site { machine, watch, rack, _origin: origin };
    site.install("/share/edged-a");
    let said = site.machine.systemctl(&["start", "edged"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    until("the router has the route", || (site.watch.now() == [address("10.1.1.1")]).then_some(()));
    Some(site)
}

impl Site {
    /// What a package does: another file has the name from here on.
    fn install(&self, program: &str) {
        let said = self.machine.run(&["ln", "-sfn", program, "/usr/bin/edged"]);
        assert_eq!(said.code, Some(0), "{said:?}");
    }

    fn install_text(&self, name: &str, text: &str) {
        let path = self.machine.directory().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        self.install(&format!("/share/{name}"));
    }

    fn main_process(&self) -> String {
        self.machine.property("MainPID")
    }

    /// One upgrade; how long `systemctl reload` took.
    fn upgrade(&self) -> Duration {
        let before = self.main_process();
        let begun = Instant::now();
        let said = self.machine.systemctl(&["reload", "edged"]);
        let took = begun.elapsed();
        assert_eq!(said.code, Some(0), "{said:?}\n{}", self.machine.log());
        let after = self.main_process();
        assert_ne!(before, after, "another edged is the main process");
        assert_eq!(self.machine.property("SubState"), "running");
        took
    }

    /// What is wrong, in the words of `edgectl status`.
    fn notices(&self) -> String {
        self.machine.run(&["edgectl", "status"]).stdout
    }

    fn sessions_lost(&self) -> u64 {
        self.rack.dropped("10.1.1.1")
    }

    fn tls(&self) -> Tls {
        let path = format!("/proc/{}/root/var/lib/edge/internal-ca.crt", self.machine.edged());
        let ca = until("the internal CA", || std::fs::read_to_string(&path).ok());
        let config = pki::client(&ca, &["http/1.1"], None).unwrap();
        Tls { config, server_name: Some(HOST.to_owned()) }
    }
}

/// Everything that clients do at once.
struct Clients {
    load: Load,
    flows: Flows,
    /// Handshakes, each on a connection of its own.
    fresh: Repeated,
    /// One that is never opened again.
    websocket: Repeated,
}

/// Something that is done again and again on a thread of its own.
struct Repeated {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(u64, BTreeMap<String, u64>)>,
}

impl Repeated {
    fn stop(self) -> (u64, BTreeMap<String, u64>) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn place(port: u16) -> SocketAddr {
    SocketAddr::new(address(VIP), port)
}

impl Clients {
    fn start(site: &Site) -> Self {
        let namespace = site.rack.tor.name();
        let tls = site.tls();
        until("requests are answered", || {
            let ask =
                || lab::block_on(fetch(place(HTTPS), Some(&tls), HOST, "/")).is_ok_and(|reply| reply.status == 200);
            run_in(namespace, ask).unwrap().then_some(())
        });
        let every = Duration::from_millis(10);
        let plan = Plan {
            http: place(HTTP),
            https: Some((place(HTTPS), tls.clone())),
            host: HOST.to_owned(),
            backend: "a".to_owned(),
            h1: 6,
            h2: 3,
            websockets: 0,
            every,
        };
        let load = run_in(namespace, || Load::start(plan)).unwrap().unwrap();
        let flow = |ask: Ask, port| Flow::new(ask, place(port), every);
        let flows = vec![
            flow(Ask::Http { host: HOST.to_owned() }, HTTP),
            flow(Ask::Tcp, TCP),
            flow(Ask::Udp, UDP),
            flow(Ask::Udp, UDP),
            flow(Ask::Udp, UDP),
        ];
        let flows = Flows::start_in(namespace, flows);
        Self { load, flows, fresh: fresh(namespace, tls), websocket: websocket(namespace) }
    }

    /// Nothing has failed; how much there was of each.
    fn stop(self) -> String {
        let load: load::Tally = self.load.stop();
        assert!(load.failures.is_empty(), "{:?}", load.failures);
        let (handshakes, failures) = self.fresh.stop();
        assert!(failures.is_empty(), "new TLS connections: {failures:?}");
        let (echoes, failures) = self.websocket.stop();
        assert!(failures.is_empty(), "the WebSocket: {failures:?}");
        let tallies = self.flows.stop();
        let lost: Vec<(u64, u64, &BTreeMap<String, u64>)> =
            tallies.iter().map(|tally: &Tally| (tally.asked, tally.lost(), &tally.failures)).collect();
        assert!(tallies.iter().all(|tally| tally.lost() == 0 && tally.failures.is_empty()), "{lost:?}");
        let asked: Vec<u64> = tallies.iter().map(|tally| tally.asked).collect();
        assert!(load.h1 > 0 && load.h2 > 0 && handshakes > 0 && echoes > 0 && asked.iter().all(|asked| *asked > 0));
        format!(
            "{} requests of HTTP/1.1, {} of HTTP/2, {handshakes} TLS handshakes, {echoes} echoes of one WebSocket, \
             {} new connections of HTTP, {} of TCP, {} datagrams: 0 failed",
            load.h1,
            load.h2,
            asked[0],
            asked[1],
            asked[2..].iter().sum::<u64>(),
        )
    }
}

fn fresh(namespace: &str, tls: Tls) -> Repeated {
    repeated(namespace, async move |failures, stop| {
        let mut done = 0;
        while !stop.load(Ordering::Relaxed) {
            match fetch(place(HTTPS), Some(&tls), HOST, "/").await {
                Ok(reply) if reply.status == 200 => done += 1,
                Ok(reply) => *failures.entry(format!("status {}", reply.status)).or_default() += 1,
                Err(error) => *failures.entry(error.to_string()).or_default() += 1,
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        done
    })
}

fn websocket(namespace: &str) -> Repeated {
    repeated(namespace, async move |failures, stop| {
        let mut socket = WebSocket::open(place(HTTP), None, HOST, "/ws").await.unwrap();
        let mut done: u64 = 0;
        while !stop.load(Ordering::Relaxed) {
            if let Err(error) = socket.echo(&done.to_be_bytes()).await {
                *failures.entry(format!("echo {done}: {error}")).or_default() += 1;
                return done;
            }
            done += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        done
    })
}

fn repeated<F>(namespace: &str, body: F) -> Repeated
where
    F: AsyncFnOnce(&mut BTreeMap<String, u64>, &AtomicBool) -> u64 + Send + 'static,
{
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, name) = (Arc::clone(&stop), namespace.to_owned());
    let thread = std::thread::spawn(move || {
        enter(&name).unwrap();
        let mut failures = BTreeMap::new();
        let done = lab::block_on(body(&mut failures, &stopped));
        (done, failures)
    });
    Repeated { stop, thread }
}

#[test]
fn upgrades_under_load_and_back_again_cost_nobody_anything() {
    let Some(site) = site("load") else { return };
    let upgrades: u32 = std::env::var("UPGRADES").ok().map_or(5, |text| text.parse().unwrap());
    let gobgpd = site.machine.processes("gobgpd");
    let (since, lost) = (Instant::now(), site.sessions_lost());
    let clients = Clients::start(&site);
    let mut took = Vec::new();
    for round in 0..upgrades {
        clients.load.pass(100);
        // There, and back to the older one.
        site.install(if round % 2 == 0 { "/share/edged-b" } else { "/share/edged-a" });
        took.push(site.upgrade());
    }
    clients.load.pass(200);
    took.sort();
    let said = clients.stop();
    assert_eq!(site.watch.changes(since), 0, "the router's kernel has noticed");
    assert_eq!(site.sessions_lost(), lost, "the session has ended");
    assert_eq!(site.machine.processes("gobgpd"), gobgpd, "gobgpd went from hand to hand");
    let (middle, longest) = (took[took.len() / 2], took[took.len() - 1]);
    eprintln!("{upgrades} upgrades, {middle:?} each in the middle, {longest:?} at most: {said}");

    // The WebSocket has ended: nothing is left of anybody but the last.
    until("one edged is left", || (site.machine.processes("edged").len() == 1).then_some(()));
    assert_eq!(site.machine.processes("edge-guard").len(), 1);
    // The same program once more is a reload.
    let before = site.main_process();
    assert_eq!(site.machine.systemctl(&["reload", "edged"]).code, Some(0));
    assert_eq!(site.main_process(), before);

    // Who took over is guarded as the first one was.
    let killed = Instant::now();
    let said = site.machine.systemctl(&["kill", "--signal=KILL", "--kill-whom=main", "edged"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    site.watch.when(killed, "the route is gone", |gateways| gateways.is_empty());
    until("edged was started again", || (site.machine.property("NRestarts") != "0").then_some(()));
    until("the route is back", || (site.watch.now() == [address("10.1.1.1")]).then_some(()));
    until("one gobgpd", || (site.machine.processes("gobgpd").len() == 1).then_some(()));
    // And so an orderly end leaves nothing.
    assert_eq!(site.machine.systemctl(&["stop", "edged"]).code, Some(0));
    for name in ["edged", "edge-guard", "edge-minder", "gobgpd"] {
        until(&format!("no {name} is left"), || site.machine.processes(name).is_empty().then_some(()));
    }
}

#[test]
fn a_program_that_cannot_take_over_leaves_the_one_that_runs_as_it_is() {
    let Some(site) = site("bad") else { return };
    let (since, lost, main) = (Instant::now(), site.sessions_lost(), site.main_process());
    let clients = Clients::start(&site);
    let hello = |versions: &str| {
        format!(
            "#!/usr/bin/python3\nimport socket\nline = socket.socket(fileno=0)\n\
             line.send(b'{{{versions},\"edged\":\"9.9.9\"}}')\nline.recv(65536)\nimport time\ntime.sleep(600)\n"
        )
    };
    for (name, text, expected) in [
        ("dies", "#!/bin/sh\nexit 3\n".to_owned(), "ended before its first word: exit status: 3"),
        ("no-program", "no program at all\n".to_owned(), "cannot be started"),
        ("silent", "#!/bin/sh\nexec sleep 600\n".to_owned(), "says nothing within 10 s"),
        ("other", hello("\"oldest\":7,\"newest\":9"), "edged 9.9.9 speaks versions 7 to 9 of the handover"),
        ("never-ready", hello("\"oldest\":1,\"newest\":1"), "was not ready within 40 s"),
    ] {
        site.install_text(name, &text);
        let said = site.machine.systemctl(&["reload", "edged"]);
        assert_ne!(said.code, Some(0), "{name}: the reload fails");
        assert_eq!(site.main_process(), main, "{name}: the same edged goes on");
        assert_eq!(site.machine.property("SubState"), "running");
        let notices = site.notices();
        assert!(notices.contains("upgrade: failed at") && notices.contains(expected), "{name}: {notices}");
        assert!(site.machine.log().contains(expected), "{name}: the log says it as well");
    }
    // A sound program with settings that it refuses.
    let sound = std::fs::read_to_string(site.machine.directory().join("edge/edge.toml")).unwrap();
    let write = |text: &str| {
        let said = site.machine.run(&["sh", "-c", &format!("cat >/etc/edge/edge.toml <<'END'\n{text}\nEND")]);
        assert_eq!(said.code, Some(0), "{said:?}");
    };
    write(&sound.replace("[proxy]", "[proxy]\nworkres = 2"));
    site.install("/share/edged-b");
    assert_ne!(site.machine.systemctl(&["reload", "edged"]).code, Some(0));
    assert_eq!(site.main_process(), main);
    assert!(site.notices().contains("workres"), "{}", site.notices());
    // And when everything is sound, it is done, with other settings that need a start.
    write(&sound.replace("[proxy]", "[proxy]\nworkers = 1"));
    site.upgrade();
    clients.load.pass(100);
    eprintln!("{}", clients.stop());
    assert!(!site.notices().contains("failed at"), "{}", site.notices());
    assert_eq!(site.watch.changes(since), 0, "the router's kernel has noticed");
    assert_eq!(site.sessions_lost(), lost);
}
