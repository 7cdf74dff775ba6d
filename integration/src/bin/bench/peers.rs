//! The proxies: what each is called, how it is configured from a template, started, told to reload, and ended.
//!
//! Flows in: ports, certificate, hosts. Flows out: a [`Running`] proxy on the CPUs it was given. The templates are in
//! `integration/bench/`, where a reader can check that everybody got sane settings.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use edge_integration::edged::{program, run};
use edge_integration::engine::{Clock, tree};
use edge_integration::pki::Pair;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Pools that the hosts are spread over; all lead to the one origin.
const POOLS: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    Edge,
    EdgeUring,
    EdgeEpoll,
    Haproxy,
    Nginx,
    Envoy,
    Caddy,
}

pub const PEERS: [Peer; 7] =
    [Peer::Edge, Peer::EdgeUring, Peer::EdgeEpoll, Peer::Haproxy, Peer::Nginx, Peer::Envoy, Peer::Caddy];

impl Peer {
    /// The word in `PEERS`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::EdgeUring => "edge-io_uring",
            Self::EdgeEpoll => "edge-epoll",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
            Self::Caddy => "caddy",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::Edge => "Edge",
            Self::EdgeUring => "Edge, io_uring",
            Self::EdgeEpoll => "Edge, epoll",
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
            Self::Envoy => "Envoy",
            Self::Caddy => "Caddy",
        }
    }

    pub fn is_edge(self) -> bool {
        matches!(self, Self::Edge | Self::EdgeUring | Self::EdgeEpoll)
    }

    fn io(self) -> &'static str {
        match self {
            Self::EdgeUring => "io_uring",
            Self::EdgeEpoll => "epoll",
            _ => "auto",
        }
    }

    pub fn binary(self) -> PathBuf {
        let named = |variable: &str, otherwise: &str| {
            std::env::var_os(variable).map_or_else(|| PathBuf::from(otherwise), PathBuf::from)
        };
        match self {
            Self::Edge | Self::EdgeUring | Self::EdgeEpoll => program("edged"),
            Self::Haproxy => named("HAPROXY_BIN", "/usr/sbin/haproxy"),
            Self::Nginx => named("NGINX_BIN", "/usr/sbin/nginx"),
            Self::Envoy => named("ENVOY_BIN", "target/bench/envoy"),
            Self::Caddy => named("CADDY_BIN", "target/bench/caddy"),
        }
    }

    pub fn version(self) -> String {
        let (argument, after) = match self {
            Self::Edge | Self::EdgeUring | Self::EdgeEpoll => return env!("CARGO_PKG_VERSION").to_owned(),
            Self::Haproxy => ("-v", "version "),
            Self::Nginx => ("-v", "nginx/"),
            Self::Envoy => ("--version", "version: "),
            Self::Caddy => ("version", "v"),
        };
        let said = run(&self.binary(), &[argument]).text();
        let rest = said.split_once(after).map(|(_, rest)| rest).unwrap_or_default();
        let word = rest.split_whitespace().next().unwrap_or_default();
        // Envoy: commit/version/status.
        let word = word.split('/').find(|part| part.contains('.')).unwrap_or(word);
        word.split('-').next().unwrap_or_default().to_owned()
    }

    /// Neither has a TCP proxy without a plugin.
    pub fn passes_bytes(self) -> bool {
        self != Self::Caddy
    }
}

/// What every proxy of a run has in common.
pub struct Site {
    pub pair: Pair,
    pub origin: SocketAddr,
    pub h2c: u16,
}

/// How one proxy is to be.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    pub hosts: u32,
    pub workers: usize,
    /// CPUs that it may use.
    pub cpus: &'a [usize],
    pub access_log: bool,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    http: u16,
    https: u16,
    grpc: u16,
    l4: u16,
    tcp: u16,
    admin: u16,
}

/// Which of its doors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Http,
    Https,
    Grpc,
    ByName,
    Tcp,
}

pub struct Running {
    pub peer: Peer,
    child: Child,
    dir: TempDir,
    ports: Ports,
    workers: usize,
    access_log: bool,
    cpus: Vec<usize>,
    be: (u16, u16),
    /// From the start to the first answer for the last of the hosts.
    pub started: Duration,
}

impl Running {
    pub fn start(peer: Peer, site: &Site, setup: Setup<'_>) -> Result<Self, String> {
        let dir = tempfile::Builder::new().prefix("edge-bench-").tempdir().map_err(|error| error.to_string())?;
        let pair = &site.pair;
        for (name, text) in [
            ("cert.pem", pair.certificate.clone()),
            ("key.pem", pair.key.clone()),
            ("both.pem", format!("{}{}", pair.certificate, pair.key)),
        ] {
            fs::write(dir.path().join(name), text).map_err(|error| error.to_string())?;
        }
        let [http, https, grpc, l4, tcp, admin] = free_ports()?;
        let ports = Ports { http, https, grpc, l4, tcp, admin };
        let be = (site.origin.port(), site.h2c);
        let mut running = Self {
            peer,
            child: Command::new("true").spawn().map_err(|error| error.to_string())?,
            dir,
            ports,
            workers: setup.workers,
            access_log: setup.access_log,
            cpus: setup.cpus.to_vec(),
            be,
            started: Duration::ZERO,
        };
        running.child.wait().map_err(|error| error.to_string())?;
        running.configure(setup.hosts)?;
        running.spawn(setup.hosts)?;
        Ok(running)
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }

    fn spawn(&mut self, hosts: u32) -> Result<(), String> {
        let binary = self.peer.binary().to_string_lossy().into_owned();
        let words: Vec<String> = match self.peer {
            Peer::Edge | Peer::EdgeUring | Peer::EdgeEpoll => vec!["--config".into(), self.path("edge.toml")],
            Peer::Haproxy => vec!["-W".into(), "-db".into(), "-f".into(), self.path("haproxy.cfg")],
            Peer::Nginx => {
                let dir = self.dir.path().to_string_lossy().into_owned();
                vec!["-p".into(), dir, "-c".into(), self.path("nginx.conf"), "-e".into(), self.path("error.log")]
            }
            Peer::Envoy => {
                let config = self.path("envoy.yaml");
                ["--concurrency", "1", "--log-level", "error", "--disable-hot-restart", "-c", &config]
                    .map(str::to_owned)
                    .to_vec()
            }
            Peer::Caddy => {
                let config = self.path("Caddyfile");
                ["run", "--adapter", "caddyfile", "--config", &config].map(str::to_owned).to_vec()
            }
        };
        let log = fs::File::create(self.path("log")).map_err(|error| error.to_string())?;
        let cpus: Vec<String> = self.cpus.iter().map(usize::to_string).collect();
        let mut command = Command::new("taskset");
        command.arg("-c").arg(cpus.join(",")).arg(&binary).args(&words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        if self.peer == Peer::Caddy {
            let dir = self.dir.path();
            command.env("GOMAXPROCS", "1").env("HOME", dir).env("XDG_DATA_HOME", dir).env("XDG_CONFIG_HOME", dir);
        }
        let begin = Instant::now();
        self.child = command.spawn().map_err(|error| format!("{binary}: {error}"))?;
        let last = format!("h{}.example.test", hosts.max(1) - 1);
        while !self.serves(&last) {
            let over = matches!(self.child.try_wait(), Ok(Some(_)) | Err(_));
            if over || begin.elapsed() > Duration::from_secs(60) {
                let said = fs::read_to_string(self.path("log")).unwrap_or_default();
                let said: String = said.chars().take(800).collect();
                return Err(format!("{} does not serve: {said}", self.peer.title()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.started = begin.elapsed();
        Ok(())
    }

    pub fn door(&self, door: Door) -> SocketAddr {
        let port = match door {
            Door::Http => self.ports.http,
            Door::Https => self.ports.https,
            Door::Grpc => self.ports.grpc,
            Door::ByName => self.ports.l4,
            Door::Tcp => self.ports.tcp,
        };
        // Edge: another Gateway has another address.
        let last = if door == Door::Tcp && self.peer.is_edge() { 2 } else { 1 };
        (Ipv4Addr::new(127, 0, 0, last), port).into()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn clock(&self) -> Clock {
        Clock { pid: self.pid(), core: self.cpus.first().copied().unwrap_or_default() }
    }

    pub fn serves(&self, host: &str) -> bool {
        ask(self.door(Door::Http), &format!("GET /b/3 HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"))
            .is_some_and(|reply| reply.starts_with(b"HTTP/1.1 200 "))
    }

    /// Writes the configuration for that many hosts, whole or not at all.
    pub fn configure(&self, hosts: u32) -> Result<(), String> {
        let files: &[(&str, &str)] = match self.peer {
            Peer::Edge | Peer::EdgeUring | Peer::EdgeEpoll => &[(
                "edge.toml",
                concat!(
                    include_str!("../../../bench/edge.toml.tpl"),
                    include_str!("../../../bench/peers/edge-tcp.toml.tpl")
                ),
            )],
            Peer::Haproxy => &[
                ("haproxy.cfg", include_str!("../../../bench/peers/haproxy.cfg.tpl")),
                ("hosts.map", include_str!("../../../bench/peers/haproxy-hosts.map.tpl")),
            ],
            Peer::Nginx => &[("nginx.conf", include_str!("../../../bench/peers/nginx.conf.tpl"))],
            // The watched file last.
            Peer::Envoy => &[
                ("envoy.yaml", include_str!("../../../bench/peers/envoy.yaml.tpl")),
                ("routes.json", include_str!("../../../bench/peers/envoy-routes.json.tpl")),
            ],
            Peer::Caddy => &[("Caddyfile", include_str!("../../../bench/peers/Caddyfile.tpl"))],
        };
        for (name, template) in files {
            let text = self.render(template, hosts);
            let fresh = self.path(&format!("{name}.fresh"));
            fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, self.path(name))).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    fn render(&self, template: &str, hosts: u32) -> String {
        let log = if self.access_log { self.path("access.log") } else { "off".to_owned() };
        let marks: BTreeMap<&str, String> = BTreeMap::from([
            ("@http@", self.ports.http.to_string()),
            ("@https@", self.ports.https.to_string()),
            ("@grpc@", self.ports.grpc.to_string()),
            ("@l4@", self.ports.l4.to_string()),
            ("@tcp@", self.ports.tcp.to_string()),
            ("@admin@", self.ports.admin.to_string()),
            ("@be_http@", self.be.0.to_string()),
            ("@be_sni@", self.be.0.to_string()),
            ("@be_h2c@", self.be.1.to_string()),
            ("@cert@", self.path("cert.pem")),
            ("@key@", self.path("key.pem")),
            ("@pem@", self.path("both.pem")),
            ("@dir@", self.dir.path().to_string_lossy().into_owned()),
            ("@log@", log),
            ("@count@", hosts.to_string()),
        ]);
        let mut template = template.to_owned();
        if self.peer.is_edge() {
            let own = format!("workers = {}\nio = \"{}\"\n", self.workers, self.peer.io());
            template = template.replace("workers = 1\n", &own);
        }
        for (mark, value) in &marks {
            template = template.replace(mark, value);
        }
        repeat_blocks(&template, hosts)
    }

    /// Tells it to read its configuration again; [`Self::configure`] has written it.
    pub fn reload(&self) -> Result<(), String> {
        let signal = match self.peer {
            Peer::Edge | Peer::EdgeUring | Peer::EdgeEpoll | Peer::Nginx => Signal::HUP,
            Peer::Haproxy => Signal::USR2,
            // It watches the file.
            Peer::Envoy => return Ok(()),
            Peer::Caddy => {
                let text = fs::read_to_string(self.path("Caddyfile")).map_err(|error| error.to_string())?;
                let request = format!(
                    "POST /load HTTP/1.1\r\nhost: 127.0.0.1:{}\r\ncontent-type: text/caddyfile\r\n\
                     connection: close\r\ncontent-length: {}\r\n\r\n{text}",
                    self.ports.admin,
                    text.len()
                );
                let reply = ask((Ipv4Addr::LOCALHOST, self.ports.admin).into(), &request).unwrap_or_default();
                let good = reply.starts_with(b"HTTP/1.1 200 ");
                return good.then_some(()).ok_or_else(|| String::from_utf8_lossy(&reply).into_owned());
            }
        };
        send(self.pid(), signal);
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The whole tree at once: a reloaded HAProxy or nginx has more than one process, and none has work left.
        for pid in tree(self.pid()) {
            send(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(pid, signal);
    }
}

/// One exchange; whatever came until the end.
fn ask(address: SocketAddr, request: &str) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).ok()?;
    Some(reply)
}

fn free_ports<const N: usize>() -> Result<[u16; N], String> {
    let bound: Vec<TcpListener> = (0..N).filter_map(|_| TcpListener::bind("127.0.0.1:0").ok()).collect();
    let ports: Vec<u16> = bound.iter().filter_map(|socket| Some(socket.local_addr().ok()?.port())).collect();
    ports.try_into().map_err(|_| "no free ports".to_owned())
}

/// `@@route` repeats for every host, `@@pool` for every pool in use, each up to `@@end`; `@,@` stands between them.
fn repeat_blocks(template: &str, hosts: u32) -> String {
    let mut text = String::with_capacity(template.len());
    let mut block: Option<(&str, String)> = None;
    for line in template.lines() {
        match (line.trim(), &mut block) {
            ("@@route", _) => block = Some(("route", String::new())),
            ("@@pool", _) => block = Some(("pool", String::new())),
            ("@@end", _) => match block.take() {
                Some(("route", one)) => {
                    for index in 0..hosts {
                        let host = format!("h{index}.example.test");
                        let ups = (index as usize % POOLS).to_string();
                        let comma = if index + 1 == hosts { "" } else { "," };
                        text += &one.replace("@host@", &host).replace("@ups@", &ups).replace("@,@", comma);
                    }
                }
                Some((_, one)) => {
                    for pool in 0..POOLS.min(hosts as usize) {
                        let of_pool = (pool as u32..hosts).step_by(POOLS);
                        let names: Vec<String> = of_pool.map(|index| format!("h{index}.example.test")).collect();
                        text += &one.replace("@pool@", &pool.to_string()).replace("@hosts@", &names.join(" "));
                    }
                }
                None => {}
            },
            (_, Some((_, one))) => *one += &format!("{line}\n"),
            (_, None) => text += &format!("{line}\n"),
        }
    }
    text
}

/// Whether a program is there to be measured.
pub fn is_there(peer: Peer) -> bool {
    Path::new(&peer.binary()).exists()
}
