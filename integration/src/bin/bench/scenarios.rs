//! The scenarios, as a table.

use edge_integration::engine::Kind;

use crate::peers::Door;

#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub door: Door,
    pub kind: Kind,
    pub connections: usize,
    pub once: bool,
    pub resume: bool,
    /// Requests per second; otherwise as fast as answers come.
    pub rate: Option<f64>,
}

impl Load {
    pub fn is_bulk(self) -> bool {
        matches!(self.kind, Kind::Download(1_000_000..) | Kind::Upload(_))
    }
}

#[derive(Debug, Clone, Copy)]
pub enum What {
    Load(Load),
    H2 {
        grpc: bool,
    },
    /// Plain HTTP to that many hosts at random.
    Hosts(u32),
    Idle,
    /// Edge with its access log on or off.
    Logged(bool),
    /// Edge with that many workers.
    Workers(usize),
    Syscalls {
        secure: bool,
    },
}

pub struct Scenario {
    /// The word in `SCENARIOS`.
    pub id: &'static str,
    pub title: &'static str,
    pub what: What,
}

impl Scenario {
    pub fn is_bulk(&self) -> bool {
        matches!(self.what, What::Load(load) if load.is_bulk())
    }

    /// What does not vary enough to be worth more.
    pub fn rounds(&self, wanted: usize) -> usize {
        match self.what {
            What::Idle | What::Syscalls { .. } => 1,
            _ => wanted,
        }
    }
}

const fn load(id: &'static str, title: &'static str, load: Load) -> Scenario {
    Scenario { id, title, what: What::Load(load) }
}

const PLAIN: Load = Load::PLAIN;
const TLS: Load = Load { door: Door::Https, ..PLAIN };
const MEGABYTE: u64 = 1_000_000;
const BULK: Kind = Kind::Download(10 * MEGABYTE);

pub const SCENARIOS: &[Scenario] = &[
    load("plain", "HTTP/1.1 keep-alive, 1 KB, 64 connections", PLAIN),
    load(
        "rate",
        "HTTP/1.1 at a fixed 20,000 requests/s, open loop, 1 KB, 64 connections",
        Load { rate: Some(20_000.0), ..PLAIN },
    ),
    load("tls", "HTTPS keep-alive (TLS 1.3, ECDSA P-256, AES-128-GCM), 1 KB, 64 connections", TLS),
    load("handshake", "HTTPS, a full handshake per request, 32 at a time", Load { connections: 32, once: true, ..TLS }),
    load(
        "resumed",
        "HTTPS, a resumed handshake per request, 32 at a time",
        Load { connections: 32, once: true, resume: true, ..TLS },
    ),
    load(
        "download-1m",
        "HTTPS download, 1 MB bodies, 16 connections",
        Load { kind: Kind::Download(MEGABYTE), connections: 16, ..TLS },
    ),
    load("download-10m", "HTTPS download, 10 MB bodies, 8 connections", Load { kind: BULK, connections: 8, ..TLS }),
    load(
        "upload-10m",
        "HTTPS upload, 10 MB bodies, 8 connections",
        Load { kind: Kind::Upload(10 * MEGABYTE), connections: 8, ..TLS },
    ),
    Scenario {
        id: "h2",
        title: "HTTP/2 over TLS to HTTP/1.1, 1 KB, 10 connections of 32 streams",
        what: What::H2 { grpc: false },
    },
    Scenario {
        id: "grpc",
        title: "gRPC-like, HTTP/2 over TLS to h2c: POST 100 B, reply 128 B with trailers, 10 x 32 streams",
        what: What::H2 { grpc: true },
    },
    load(
        "passthrough",
        "TLS passthrough by SNI, 10 MB, 8 connections",
        Load { door: Door::ByName, kind: BULK, connections: 8, ..PLAIN },
    ),
    load("tcp", "TCP, 10 MB, 8 connections", Load { door: Door::Tcp, kind: BULK, connections: 8, ..PLAIN }),
    load("websocket", "WebSocket echo, 64 B messages, 64 connections", Load { kind: Kind::Echo, ..PLAIN }),
    Scenario { id: "hosts-1", title: "One host route (the client of the next table)", what: What::Hosts(1) },
    Scenario { id: "hosts-10k", title: "10,000 host routes, hosts at random", what: What::Hosts(10_000) },
    Scenario { id: "idle", title: "10,000 idle TLS connections", what: What::Idle },
    Scenario { id: "log-off", title: "Edge without access log", what: What::Logged(false) },
    Scenario { id: "log-on", title: "Edge with access log, JSON to a file", what: What::Logged(true) },
    Scenario { id: "workers-1", title: "Edge with one worker on one CPU", what: What::Workers(1) },
    Scenario { id: "workers-2", title: "Edge with two workers on two CPUs", what: What::Workers(2) },
    Scenario {
        id: "syscalls",
        title: "System calls per request, HTTP/1.1, 64 connections, under strace",
        what: What::Syscalls { secure: false },
    },
    Scenario {
        id: "syscalls-tls",
        title: "System calls per request, HTTPS, 64 connections, under strace",
        what: What::Syscalls { secure: true },
    },
];
