//! `api-fault`: a proxy in front of the API server that makes it misbehave on command.
//!
//! Flows in: a kubeconfig of the real API server, and faults over a control socket. Flows out: a kubeconfig that leads
//! through the proxy, by a certificate and a token of the proxy's own; behind it requests go under the identity of the
//! first kubeconfig. Without a fault in force it only passes on and counts.

#![allow(clippy::print_stdout)]

mod control;
mod proxy;
mod request;
mod rules;
mod shadows;
mod token;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use edge_integration::pki;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use proxy::Proxy;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use token::Token;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, broadcast, watch};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

const USAGE: &str = "usage: api-fault --kubeconfig FILE --listen ADDR:PORT --write FILE --control SOCKET
       api-fault tell SOCKET COMMAND…
  --kubeconfig  of the real API server, with the identity to use there
  --write       the kubeconfig to give to the client; its token is in FILE.token";
const CLIENTS: usize = 1024;
const HANDSHAKE: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_millis(100);
/// Strikes that a watch may be behind.
const STRIKES: usize = 64;

struct Options {
    kubeconfig: PathBuf,
    listen: SocketAddr,
    write: PathBuf,
    control: PathBuf,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut kubeconfig, mut listen, mut write, mut control) = (None, None, None, None);
        while let Some(option) = words.next() {
            let place = match option.as_str() {
                "--kubeconfig" => &mut kubeconfig,
                "--listen" => &mut listen,
                "--write" => &mut write,
                "--control" => &mut control,
                _ => return Err(format!("{option}: unknown option")),
            };
            *place = Some(words.next().ok_or_else(|| format!("{option}: needs a value"))?);
        }
        let listen = listen.ok_or("--listen is missing")?;
        Ok(Self {
            kubeconfig: kubeconfig.ok_or("--kubeconfig is missing")?.into(),
            listen: listen.parse().map_err(|_| format!("--listen {listen}: expected ADDR:PORT"))?,
            write: write.ok_or("--write is missing")?.into(),
            control: control.ok_or("--control is missing")?.into(),
        })
    }
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1).peekable();
    if words.next_if(|word| word == "tell").is_some() {
        return tell(words);
    }
    pki::install_provider();
    let options = match Options::parse(words) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("api-fault: {problem}\n{USAGE}\n{}", rules::USAGE);
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("api-fault: runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match LocalSet::new().block_on(&runtime, run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("api-fault: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn tell(mut words: impl Iterator<Item = String>) -> ExitCode {
    let Some(socket) = words.next() else {
        eprintln!("{USAGE}\n{}", rules::USAGE);
        return ExitCode::from(2);
    };
    let line = words.collect::<Vec<_>>().join(" ");
    match control::tell(Path::new(&socket), &line) {
        Ok(answer) => {
            println!("{answer}");
            if answer.starts_with("error:") { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        Err(error) => {
            eprintln!("api-fault: {socket}: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<(), String> {
    let mut stops = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    let [Ok(terminate), Ok(interrupt)] = &mut stops else { return Err("signals: cannot be received".to_owned()) };
    let client = client(&options.kubeconfig).await?;
    let listener =
        TcpListener::bind(options.listen).await.map_err(|error| format!("--listen {}: {error}", options.listen))?;
    let address = listener.local_addr().map_err(|error| format!("--listen {}: {error}", options.listen))?;
    let fault = |error: std::io::Error| format!("--write {}: {error}", options.write.display());
    let (acceptor, token) = face(&options.write, address).map_err(fault)?;
    let control = control_socket(&options.control)
        .map_err(|error| format!("--control {}: {error}", options.control.display()))?;
    let proxy = Rc::new(Proxy {
        client,
        rules: RefCell::default(),
        shadows: RefCell::default(),
        counts: RefCell::default(),
        token: RefCell::new(token),
        refusing: watch::Sender::new(false),
        strikes: broadcast::Sender::new(STRIKES),
    });
    println!("api-fault: https://{address}, kubeconfig {}", options.write.display());
    tokio::select! {
        () = serve(Rc::clone(&proxy), listener, acceptor) => {}
        () = control::serve(proxy, control) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let _ = std::fs::remove_file(&options.control);
    Ok(())
}

async fn client(kubeconfig: &Path) -> Result<Client, String> {
    let fault = |cause: String| format!("--kubeconfig {}: {cause}", kubeconfig.display());
    let file = Kubeconfig::read_from(kubeconfig).map_err(|error| fault(error.to_string()))?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    let mut config = config.map_err(|error| fault(error.to_string()))?;
    // Whatever the API server answers is for the client to deal with.
    config.default_retry = false;
    Client::try_from(config).map_err(|error| fault(error.to_string()))
}

/// A certificate, a token, and the kubeconfig that holds both.
fn face(write: &Path, address: SocketAddr) -> std::io::Result<(TlsAcceptor, Token)> {
    let authority = pki::Authority::new("api-fault")?;
    let name = address.ip().to_string();
    let pair = authority.sign(&pki::Leaf { dns: &[&name], ..pki::Leaf::default() })?;
    let chain = pki::certificates(&pair.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(std::io::Error::other)?;
    // Without ALPN every client speaks HTTP/1.1.
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
    let config = config.map_err(std::io::Error::other)?;

    let write = std::path::absolute(write)?;
    let mut path = write.clone().into_os_string();
    path.push(".token");
    let path = PathBuf::from(path);
    let token = Token::write(&path)?;
    let authority = base64::engine::general_purpose::STANDARD.encode(&authority.certificate);
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "api-fault",
        "clusters": [{"name": "api-fault", "cluster": {
            "server": format!("https://{address}"), "certificate-authority-data": authority,
        }}],
        "users": [{"name": "api-fault", "user": {"tokenFile": path}}],
        "contexts": [{"name": "api-fault", "context": {"cluster": "api-fault", "user": "api-fault"}}],
    });
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&write)?;
    std::io::Write::write_all(&mut file, kubeconfig.to_string().as_bytes())?;
    Ok((TlsAcceptor::from(Arc::new(config)), token))
}

fn control_socket(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

/// Never returns.
async fn serve(proxy: Rc<Proxy>, listener: TcpListener, acceptor: TlsAcceptor) {
    let places = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok(_) if *proxy.refusing.borrow() => {}
            Ok((stream, _)) => {
                let (proxy, acceptor) = (Rc::clone(&proxy), acceptor.clone());
                tokio::task::spawn_local(async move {
                    let mut refusing = proxy.refusing.subscribe();
                    tokio::select! {
                        () = connection(Rc::clone(&proxy), stream, acceptor) => {}
                        _ = refusing.wait_for(|refusing| *refusing) => {}
                    }
                    drop(place);
                });
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

async fn connection(proxy: Rc<Proxy>, stream: TcpStream, acceptor: TlsAcceptor) {
    // Small events must not wait for each other.
    let _ = stream.set_nodelay(true);
    let Ok(Ok(stream)) = timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
    let service = service_fn(move |request| proxy::answer(Rc::clone(&proxy), request));
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(IDLE);
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}
