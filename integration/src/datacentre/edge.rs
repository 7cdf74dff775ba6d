//! One edge of the data centre: its edge.toml and manifests, the real `edged` inside its namespace, and what can be done
//! to it.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use super::neighbour::ROUTER;
use super::network::link_local;
use super::{BACKENDS, EngineAt, FLOWS_VIP, HOST, LAN_VIP, Network, PASSWORD, Plan, TCP_PORT, UDP_PORT, VIP, VIP6};
use crate::cluster::process::{Process, Program};
use crate::edged::{Edged, Said, until};
use crate::netns::run_in;
use crate::rack::{API, CLIENT, ENGINE, Secured};
use crate::speaker::{GOBGPD, gobgpd4};

const UNNUMBERED: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 0, 1));

pub struct Edge {
    pub name: &'static str,
    /// 1 for `a`.
    pub number: u8,
    /// `None`: it was killed.
    edged: Option<Edged>,
    at: EngineAt,
    /// Its session with `tor1` is by the interface's name.
    is_unnumbered: bool,
    engine: Option<Process>,
    namespace: String,
    directory: PathBuf,
}

impl Edge {
    pub(super) fn start(name: &'static str, number: u8, network: &Network, plan: &Plan, parent: &Path) -> Self {
        let directory = parent.join(name);
        std::fs::create_dir_all(directory.join("manifests")).unwrap();
        std::fs::write(directory.join("manifests/site.yaml"), manifests(plan)).unwrap();
        std::fs::write(directory.join("tor.key"), format!("{PASSWORD}\n")).unwrap();
        std::fs::write(directory.join("edge.toml"), settings(name, number, plan, &directory)).unwrap();
        let namespace = network.edge(name).name().to_owned();
        let (at, engine) = (plan.engine, engine(plan.engine, &namespace, &directory));
        let is_unnumbered = plan.is_unnumbered(number, 1);
        let mut edge = Self { name, number, edged: None, at, is_unnumbered, engine, namespace, directory };
        edge.restart();
        edge
    }

    /// Starts edged where it is not running.
    pub fn restart(&mut self) {
        self.start_by(&[]);
    }

    /// The same, without these capabilities, such as `net_raw`; nobody below has them either.
    pub fn restart_without(&mut self, capabilities: &[&str]) {
        let without: Vec<String> = capabilities.iter().map(|name| format!("-{name}")).collect();
        let without = without.join(",");
        self.start_by(&["setpriv", "--bounding-set", &without, "--inh-caps", &without]);
    }

    fn start_by(&mut self, before: &[&str]) {
        let [config, socket, log] = ["edge.toml", "edged.sock", "edged.log"].map(|name| self.directory.join(name));
        let spawn = || Edged::spawn_by(before, &config, &socket, &log);
        let edged = run_in(&self.namespace, spawn).unwrap();
        std::fs::write(self.directory.join("edged.pid"), format!("{}\n", edged.pid())).unwrap();
        self.edged = Some(edged);
    }

    pub(super) fn wait_serving(&mut self) {
        let address = std::net::SocketAddr::new(VIP.parse().unwrap(), 80);
        let namespace = self.namespace.clone();
        let edged = self.edged();
        run_in(&namespace, || edged.wait_port(address)).unwrap();
        edged.wait_shown();
    }

    /// The daemon.
    pub fn edged(&mut self) -> &mut Edged {
        self.edged.as_mut().expect("edged runs")
    }

    /// `edgectl` of this edge.
    pub fn ctl(&self, arguments: &[&str]) -> Said {
        self.edged.as_ref().expect("edged runs").ctl(arguments)
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its address towards a router, which is its next hop there.
    pub fn next_hop(&self, router: u8) -> IpAddr {
        format!("10.{router}.{}.1", self.number).parse().unwrap()
    }

    /// What a router's kernel has as gateway of the routes that this edge announces to it.
    pub fn gateway(&self, router: u8, is_v6: bool) -> IpAddr {
        if router == 1 && self.is_unnumbered {
            // FRR has an IPv4 route by a link-local gateway (RFC 8950) as one by this address, with the MAC beside it.
            return if is_v6 { link_local(self.number, router, 1).parse().unwrap() } else { UNNUMBERED };
        }
        if is_v6 { self.next_hop6(router) } else { self.next_hop(router) }
    }

    pub fn next_hop6(&self, router: u8) -> IpAddr {
        format!("fd00:{router}:{}::1", self.number).parse().unwrap()
    }

    /// The gobgpd that is nobody's child, where the plan has one.
    pub fn engine(&mut self) -> Option<&mut Process> {
        self.engine.as_mut()
    }

    /// SIGKILL of the gobgpd that is nobody's child, and another in its place.
    pub fn restart_engine(&mut self) {
        if let Some(mut old) = self.engine.take() {
            old.signal(Signal::KILL);
            old.stop(std::time::Duration::ZERO);
            // It left its socket behind.
            let _ = std::fs::remove_file(self.directory.join("gobgpd.sock"));
            self.engine = engine(self.at, &self.namespace, &self.directory);
        }
    }

    /// SIGKILL of edged.
    pub fn kill(&mut self) {
        if let Some(mut edged) = self.edged.take() {
            edged.kill();
        }
    }

    /// SIGTERM of edged, and its end.
    pub fn terminate(&mut self) {
        if let Some(mut edged) = self.edged.take() {
            let ended = edged.terminate();
            assert!(ended.is_some(), "edge {} does not end", self.name);
        }
    }

    /// Whether one of its interfaces but `lo` has the address.
    pub fn has_address(&self, address: &str) -> bool {
        let lines = crate::netns::ip(&format!("-n {} -o addr show to {address}", self.namespace)).unwrap_or_default();
        lines.lines().any(|line| line.split_whitespace().nth(1) != Some("lo"))
    }

    /// The numbers of its processes with this name, such as `gobgpd` or `edge-guard`.
    pub fn processes(&self, name: &str) -> Vec<u32> {
        let inside = crate::netns::ip(&format!("netns pids {}", self.namespace)).unwrap_or_default();
        let is_called =
            |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|found| found.trim() == name);
        inside.lines().filter_map(|line| line.trim().parse().ok()).filter(is_called).collect()
    }

    /// A signal for all of them.
    pub fn signal(&self, name: &str, signal: Signal) {
        let processes = self.processes(name);
        assert!(!processes.is_empty(), "edge {} has no {name}", self.name);
        for pid in processes {
            kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
        }
    }
}

/// A gobgpd that nobody has told anything, where it is not edged that starts one.
fn engine(at: EngineAt, namespace: &str, directory: &Path) -> Option<Process> {
    let socket = directory.join("gobgpd.sock");
    let program = match at {
        EngineAt::Child => return None,
        EngineAt::Unix => Program::new(GOBGPD).args(["--api-hosts", &format!("unix://{}", socket.display())]),
        EngineAt::Tls => {
            let words = Secured::new(directory).words("engine", true);
            Program::new(gobgpd4().unwrap()).args(["--api-hosts", API]).args(words)
        }
    };
    let engine = Process::start("gobgpd", namespace, &program.args(["--pprof-disable"]), &directory.join("gobgpd.log"));
    if at == EngineAt::Unix {
        until("gobgpd listens", || socket.exists().then_some(()));
    }
    Some(engine)
}

/// The lines of edge.toml that say where it is.
fn engine_at(at: EngineAt, directory: &str) -> String {
    match at {
        EngineAt::Child => String::new(),
        EngineAt::Unix => format!("engine = \"unix:{directory}/gobgpd.sock\"\n"),
        EngineAt::Tls => format!(
            "engine = \"{API}\"\nengine_tls = {{ ca = \"ca.pem\", name = \"{ENGINE}\", \
             certificate = \"{CLIENT}.pem\", key = \"{CLIENT}.key\" }}\n"
        ),
    }
}

fn settings(name: &str, number: u8, plan: &Plan, directory: &Path) -> String {
    let at = directory.display();
    let mut text = format!(
        r#"[edge]
name = "{name}"

[state]
directory = "{at}/state"

[control]
socket = "{at}/edged.sock"

[log]
format = "human"

[[manifests]]
path = "{at}/manifests"

[[pool]]
name = "public"
addresses = ["198.51.100.0/28", "2001:db8:cafe::/124"]

[[pool]]
name = "lan"
addresses = ["10.60.0.80/29"]
"#
    );
    if plan.has_announcements {
        let _ = write!(text, "\n[vips]\nhold_down = \"{}\"\n", plan.hold_down);
        let _ = write!(text, "\n[bgp]\nasn = 6510{number}\nrouter_id = \"10.1.{number}.1\"\n");
        text += &engine_at(plan.engine, &at.to_string());
        let _ = writeln!(text, "graceful_shutdown = \"{}\"", plan.graceful_shutdown);
        for router in 1..=2 {
            text += &peer(number, router, plan);
        }
        text += "\n[[bgp.advertisement]]\nname = \"public\"\npools = [\"public\"]\n";
        if plan.has_l2 {
            // `a` before `b` before `c`.
            let priority = format!("priority = {}", 200 - u16::from(number) * 30);
            let own = if plan.l2.is_empty() { &priority } else { plan.l2 };
            let _ = write!(
                text,
                "\n[l2]\ninterface = \"lan\"\nrouter = {ROUTER}\npools = [\"lan\"]\npreempt_delay = \"2s\"\n{own}\n"
            );
        }
    }
    text += &plan.more;
    text
}

fn peer(edge: u8, router: u8, plan: &Plan) -> String {
    let asn = 65_000 + u32::from(router) + plan.wrong_asn;
    let mut text = format!("\n[[bgp.peer]]\nname = \"tor{router}\"\nasn = {asn}\n");
    let is_unnumbered = plan.is_unnumbered(edge, router);
    if is_unnumbered {
        let _ = writeln!(text, "interface = \"tor{router}\"");
    } else {
        let _ = writeln!(text, "address = \"10.{router}.{edge}.2\"");
    }
    let _ = writeln!(text, "families = [\"ipv4\", \"ipv6\"]");
    let _ = writeln!(text, "keepalive = \"{}s\"\nhold_time = \"{}s\"", plan.keepalive, plan.hold_time);
    if plan.has_password && router == 1 && !is_unnumbered {
        text += "password_file = \"tor.key\"\n";
    }
    if let Some(seconds) = plan.graceful_restart {
        let _ = writeln!(text, "graceful_restart = \"{seconds}s\"");
    }
    if plan.has_bfd {
        text += "bfd = true\n";
    }
    text
}

fn manifests(plan: &Plan) -> String {
    let mut text = String::from(
        r#"apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: edge }
spec: { controllerName: edge.internal/gateway-controller }
"#,
    );
    let mut gateway = |name: &str, addresses: &[&str], listeners: &str| {
        let addresses: Vec<String> =
            addresses.iter().map(|address| format!("{{ type: IPAddress, value: \"{address}\" }}")).collect();
        let _ = write!(
            text,
            r#"---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: {name}, namespace: default }}
spec:
  gatewayClassName: edge
  addresses: [{}]
  listeners:
{listeners}"#,
            addresses.join(", ")
        );
    };
    let http = "    - { name: http, port: 80, protocol: HTTP }\n";
    gateway("web", &[VIP, VIP6], http);
    let flows = format!(
        "    - {{ name: tcp, port: {TCP_PORT}, protocol: TCP }}\n    - {{ name: udp, port: {UDP_PORT}, protocol: UDP }}\n"
    );
    gateway("flows", &[FLOWS_VIP], &flows);
    let mut parents = "{ name: web }".to_owned();
    let mut datagrams = "{ name: flows, sectionName: udp }".to_owned();
    if plan.has_l2 || !plan.has_announcements {
        let udp = format!("{http}    - {{ name: udp, port: {UDP_PORT}, protocol: UDP }}\n");
        gateway("lan", &[LAN_VIP], &udp);
        parents += ", { name: lan, sectionName: http }";
        datagrams += ", { name: lan, sectionName: udp }";
    }
    let [first, second] = BACKENDS.map(|(_, address)| address);
    let _ = write!(
        text,
        r#"---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: shop, namespace: default }}
spec:
  parentRefs: [{parents}]
  hostnames: ["{HOST}"]
  rules: [{{ backendRefs: [{{ name: shop, port: 80 }}] }}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {{ name: flows, namespace: default }}
spec:
  parentRefs: [{{ name: flows, sectionName: tcp }}]
  rules: [{{ backendRefs: [{{ name: shop, port: {TCP_PORT} }}] }}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: UDPRoute
metadata: {{ name: flows, namespace: default }}
spec:
  parentRefs: [{datagrams}]
  rules: [{{ backendRefs: [{{ name: shop, port: {UDP_PORT} }}] }}]
---
apiVersion: v1
kind: Service
metadata: {{ name: shop, namespace: default }}
spec:
  ports:
    - {{ name: http, port: 80, protocol: TCP }}
    - {{ name: tcp, port: {TCP_PORT}, protocol: TCP }}
    - {{ name: udp, port: {UDP_PORT}, protocol: UDP }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: shop-1, namespace: default, labels: {{ kubernetes.io/service-name: shop }} }}
addressType: IPv4
ports:
  - {{ name: http, port: 8000, protocol: TCP }}
  - {{ name: tcp, port: {TCP_PORT}, protocol: TCP }}
  - {{ name: udp, port: {UDP_PORT}, protocol: UDP }}
endpoints: [{{ addresses: ["{first}"] }}, {{ addresses: ["{second}"] }}]
"#
    );
    text
}
