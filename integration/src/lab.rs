//! One scenario: a temporary directory, a VIP of its own on loopback, origins, a configuration, and `edged` on it.
//!
//! Flows in: manifests. Flows out: a served configuration and what to ask it with. Everything ends with the [`Lab`].

#![allow(clippy::panic, clippy::unwrap_used)]

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use rustls::ClientConfig;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use crate::client::Tls;
use crate::edged::{Edged, until, workspace};
use crate::netns::{self, Namespace};
use crate::origin::Origin;
use crate::pki;

pub const HTTP: u16 = 8080;
pub const HTTPS: u16 = 8443;

/// Says on the real standard error, past the capture of the test harness, that a scenario did not run.
pub fn skip(scenario: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "\n*** SKIPPED {scenario}: {why}\n");
}

/// Runs work in a network namespace of its own, so that fixed addresses and ports of an example meet nobody else's;
/// without root on the host's loopback, one scenario at a time.
pub fn isolated<T: Send>(role: &str, work: impl FnOnce() -> T + Send) -> T {
    if netns::available().is_ok() {
        let namespace = Namespace::new(role).unwrap();
        return namespace.run(work).unwrap();
    }
    let lock = std::fs::File::create(
        std::env::temp_dir().join(format!("edge-lab-{}.lock", rustix::process::geteuid().as_raw())),
    )
    .unwrap();
    lock.lock().unwrap();
    work()
}

/// Copies a folder of `examples/` to where it may write.
pub fn copy_example(name: &str) -> TempDir {
    let target = tempfile::Builder::new().prefix("edge-example-").tempdir().unwrap();
    copy(&workspace().join("examples").join(name), target.path());
    target
}

/// Everything but what a run left behind.
fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_name() == ".run" {
            continue;
        }
        if entry.path().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Starts edged on an example as it is; returns when it serves and its status says so.
pub fn start_example(dir: &Path, ports: &[SocketAddr]) -> Edged {
    pki::install_provider();
    let mut edged = Edged::spawn(&dir.join("edge.toml"), &dir.join(".run/edged.sock"), &dir.join("edged.log"));
    for address in ports {
        edged.wait_port(*address);
    }
    edged.wait_shown();
    edged
}

/// Runs a future to its end on a runtime of the calling thread, and so in its network namespace.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    pki::install_provider();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, future)
}

pub struct Lab {
    // Dropped in this order: the daemon shows its log before the directory goes.
    edged: Option<Edged>,
    pub vip: IpAddr,
    origins: Origins,
    dir: TempDir,
}

impl Lab {
    /// A scenario with an address of 127.0.0.0/8 that no other scenario on the machine has.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(10);
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let last = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes()[3];
        Self::with_vip(Ipv4Addr::new(127, 64 | (high & 0x3f), low, last).into())
    }

    pub fn with_vip(vip: IpAddr) -> Self {
        pki::install_provider();
        let dir = tempfile::Builder::new().prefix("edge-lab-").tempdir().unwrap();
        std::fs::create_dir(dir.path().join("manifests")).unwrap();
        let lab = Self { dir, vip, origins: Origins::start(), edged: None };
        lab.write_config("");
        lab
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn config(&self) -> PathBuf {
        self.path("edge.toml")
    }

    /// The usual edge.toml followed by `more`.
    pub fn write_config(&self, more: &str) {
        self.write_config_with("", more);
    }

    /// The usual edge.toml with further keys of `[proxy]`, followed by `more`.
    pub fn write_config_with(&self, proxy: &str, more: &str) {
        let vip = self.vip;
        // The same scenarios on either I/O back end: EDGE_LAB_IO=epoll or io_uring.
        let io = std::env::var("EDGE_LAB_IO").unwrap_or_else(|_| "auto".to_owned());
        let text = format!(
            r#"
[state]
directory = "state"

[control]
socket = "edged.sock"

[[manifests]]
path = "manifests"

[[pool]]
name = "lab"
addresses = ["{vip}/{}"]

[proxy]
workers = 2
io = "{io}"
{proxy}

[access_log]
path = "access.log"

[log]
level = "info"
format = "human"

{more}
"#,
            if vip.is_ipv4() { 32 } else { 128 }
        );
        self.write_file("edge.toml", &self.absolute(&text));
    }

    /// Relative paths of the usual configuration under the scenario's directory, whatever edged resolves them against.
    fn absolute(&self, text: &str) -> String {
        let dir = self.dir.path().display();
        text.replace("\"state\"", &format!("\"{dir}/state\""))
            .replace("\"edged.sock\"", &format!("\"{dir}/edged.sock\""))
            .replace("\"manifests\"", &format!("\"{dir}/manifests\""))
            .replace("\"access.log\"", &format!("\"{dir}/access.log\""))
    }

    /// Writes a file under the scenario's directory the way a careful operator does: whole or not at all.
    pub fn write_file(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let fresh = path.with_extension("fresh~");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(&fresh, &path).unwrap();
    }

    /// Writes a file of the manifest directory.
    pub fn manifest(&self, name: &str, text: &str) {
        self.write_file(&format!("manifests/{name}"), text);
    }

    pub fn remove_manifest(&self, name: &str) {
        std::fs::remove_file(self.path("manifests").join(name)).unwrap();
    }

    /// Starts an HTTP origin on a free loopback port.
    pub fn origin(&self, name: &str) -> Running {
        self.origins.http(name, None)
    }

    pub fn origins(&self) -> &Origins {
        &self.origins
    }

    /// Starts edged; returns when the given ports of the VIP accept connections and the status knows it.
    pub fn start(&mut self, ports: &[u16]) {
        let mut edged = self.spawn();
        for port in ports {
            edged.wait_port(self.at(*port));
        }
        edged.wait_shown();
        self.edged = Some(edged);
    }

    /// The same by a program that becomes edged, with its arguments before.
    pub fn start_by(&mut self, before: &[&str], ports: &[u16]) {
        let mut edged = Edged::spawn_by(before, &self.config(), &self.path("edged.sock"), &self.path("edged.log"));
        for port in ports {
            edged.wait_port(self.at(*port));
        }
        edged.wait_shown();
        self.edged = Some(edged);
    }

    /// Starts edged without waiting and without owning it.
    pub fn spawn(&self) -> Edged {
        Edged::spawn(&self.config(), &self.path("edged.sock"), &self.path("edged.log"))
    }

    pub fn edged(&mut self) -> &mut Edged {
        self.edged.as_mut().expect("edged was started")
    }

    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.vip, port)
    }

    /// The internal CA, as soon as edged has written it.
    pub fn internal_ca(&self) -> String {
        internal_ca(&self.path("state"))
    }

    /// TLS that trusts the internal CA, with both HTTP versions offered or only the one named.
    pub fn tls(&self, server_name: &str, alpn: &[&str]) -> Tls {
        Tls { config: self.tls_config(alpn), server_name: Some(server_name.to_owned()) }
    }

    pub fn tls_config(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        pki::client(&self.internal_ca(), alpn, None).unwrap()
    }

    /// The lines of the access log so far.
    pub fn access_log(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.path("access.log")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

/// The internal CA in a state directory, as soon as edged has written it.
pub fn internal_ca(state: &Path) -> String {
    let path = state.join("internal-ca.crt");
    until("internal-ca.crt", || std::fs::read_to_string(&path).ok().filter(|pem| pem.contains("END CERT")))
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

/// Origins of one scenario, on one thread of their own.
pub struct Origins {
    jobs: Option<UnboundedSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

enum Job {
    Http(Origin, std::net::TcpListener, Option<TlsAcceptor>, mpsc::Sender<AbortHandle>),
    Tcp(Origin, std::net::TcpListener, mpsc::Sender<AbortHandle>),
    Udp(Origin, std::net::UdpSocket, mpsc::Sender<AbortHandle>),
}

/// One origin that listens; [`Running::stop`] makes it refuse.
pub struct Running {
    pub origin: Origin,
    pub address: SocketAddr,
    abort: AbortHandle,
}

impl Running {
    /// Stops accepting; what is open stays.
    pub fn stop(&self) {
        self.abort.abort();
        until("origin stopped", || std::net::TcpStream::connect(self.address).is_err().then_some(()));
    }
}

const LOOPBACK: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

impl Origins {
    pub fn start() -> Self {
        let (jobs, mut queue) = unbounded_channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                while let Some(job) = queue.recv().await {
                    match job {
                        Job::Http(origin, listener, tls, reply) => {
                            let listener = TcpListener::from_std(listener).unwrap();
                            let _ = reply.send(tokio::spawn(origin.serve_http(listener, tls)).abort_handle());
                        }
                        Job::Tcp(origin, listener, reply) => {
                            let listener = TcpListener::from_std(listener).unwrap();
                            let _ = reply.send(tokio::spawn(origin.serve_tcp(listener)).abort_handle());
                        }
                        Job::Udp(origin, socket, reply) => {
                            let socket = UdpSocket::from_std(socket).unwrap();
                            let _ = reply.send(tokio::spawn(origin.serve_udp(socket)).abort_handle());
                        }
                    }
                }
            });
        });
        Self { jobs: Some(jobs), thread: Some(thread) }
    }

    pub fn http(&self, name: &str, tls: Option<TlsAcceptor>) -> Running {
        self.http_at(name, LOOPBACK.into(), tls)
    }

    pub fn http_at(&self, name: &str, at: SocketAddr, tls: Option<TlsAcceptor>) -> Running {
        let listener = std::net::TcpListener::bind(at).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        self.give(name, address, |origin, reply| Job::Http(origin, listener, tls, reply))
    }

    pub fn tcp(&self, name: &str) -> Running {
        let listener = std::net::TcpListener::bind(LOOPBACK).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        self.give(name, address, |origin, reply| Job::Tcp(origin, listener, reply))
    }

    pub fn udp(&self, name: &str) -> Running {
        let socket = std::net::UdpSocket::bind(LOOPBACK).unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        self.give(name, address, |origin, reply| Job::Udp(origin, socket, reply))
    }

    fn give(
        &self,
        name: &str,
        address: SocketAddr,
        job: impl FnOnce(Origin, mpsc::Sender<AbortHandle>) -> Job,
    ) -> Running {
        let origin = Origin::new(name);
        let (reply, abort) = mpsc::channel();
        self.jobs.as_ref().unwrap().send(job(origin.clone(), reply)).ok().unwrap();
        Running { origin, address, abort: abort.recv().unwrap() }
    }
}

impl Drop for Origins {
    fn drop(&mut self) {
        self.jobs.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
