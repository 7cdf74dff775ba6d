//! The API of a running edge: HTTP/1.1 with JSON on a unix socket, and the few read-only pages of it that may also be
//! served on TCP.
//!
//! Requests of `edgectl`, scripts and scrapers flow in; views of the newest [`World`](super::world::World) flow out, and
//! commands go to the supervisor, whose answer is awaited. It runs on a thread and runtime of its own: however many
//! connections are opened and however slow they are, traffic and the supervisor do not notice. Bounds: connections,
//! bytes of a head and a body, time of a request. Whoever may connect may read (the socket has mode 0660); what changes
//! something also needs to be root, the same user, or a member of the socket's group.

pub mod certificates;
mod pages;
mod socket;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};

use super::world::Handle;
use crate::fleet::{Survey, Witness};
use crate::handover::message::ControlName;
use crate::handover::successor::HandedControl;
use crate::history::Folder;
use crate::memory;
use crate::proxy::metrics::Text;

/// A head must be there in this time, an answer too; a reload has longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest life of a connection: a reload of very many objects on a slow disk.
const CONNECTION: Duration = Duration::from_secs(90);
/// Open at the same time, per listener; further ones wait in the backlog.
const CONNECTIONS: usize = 64;
const MAX_HEAD: usize = 16 << 10;

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("control socket {0}: another edged serves it")]
    Taken(PathBuf),
    #[error("control socket {0}: exists and is no socket")]
    NotASocket(PathBuf),
    #[error("control socket {0}")]
    Bind(PathBuf, #[source] std::io::Error),
    #[error("metrics listener {0}")]
    Metrics(SocketAddr, #[source] std::io::Error),
    #[error("thread of the control api")]
    Thread(#[source] std::io::Error),
}

/// Appends the data plane's families to a page of `/metrics`, on request.
pub type Metrics = Arc<dyn Fn(&mut Text) + Send + Sync>;

#[derive(Clone)]
pub struct Api {
    pub handle: Handle,
    pub metrics: Metrics,
    /// Where configurations of the past are read.
    pub revisions: Folder,
    /// All edges; `None`: there is no `[fleet]`.
    pub fleet: Option<Survey>,
    /// How this edge stands.
    pub witness: Arc<dyn Witness>,
}

/// What is bound, before anything is served: a failure to bind is known at the start.
#[derive(Debug)]
pub struct Sockets {
    unix: std::os::unix::net::UnixListener,
    path: PathBuf,
    owner: socket::Owner,
    metrics: Option<std::net::TcpListener>,
    is_handed: Arc<AtomicBool>,
}

/// The same sockets, for another edged.
#[derive(Debug)]
pub struct Spare {
    path: PathBuf,
    unix: std::os::unix::net::UnixListener,
    metrics: Option<std::net::TcpListener>,
    is_handed: Arc<AtomicBool>,
}

impl Spare {
    pub fn hand(&self) -> std::io::Result<HandedControl> {
        let address = self.metrics.as_ref().map(std::net::TcpListener::local_addr).transpose()?;
        let mut descriptors = vec![OwnedFd::from(self.unix.try_clone()?)];
        if let Some(metrics) = &self.metrics {
            descriptors.push(metrics.try_clone()?.into());
        }
        Ok(HandedControl { name: ControlName { path: self.path.clone(), metrics: address }, descriptors })
    }

    /// Another edged serves them now: what is under way here is answered, and the file stays.
    pub fn is_taken(&self) {
        self.is_handed.store(true, Ordering::Release);
    }
}

impl Sockets {
    /// Binds the control socket, replacing one that nobody serves any more, and the metrics address.
    pub fn bind(path: &Path, metrics: Option<SocketAddr>) -> Result<Self, ApiError> {
        let (unix, owner) = socket::bind(path)?;
        let metrics = match metrics {
            Some(address) => Some(socket::bind_tcp(address).map_err(|error| ApiError::Metrics(address, error))?),
            None => None,
        };
        Ok(Self { unix, path: path.to_owned(), owner, metrics, is_handed: Arc::default() })
    }

    /// Those of another edged, as far as they are what is wanted here; the rest is bound.
    pub fn adopt(handed: HandedControl, path: &Path, metrics: Option<SocketAddr>) -> Result<Self, ApiError> {
        let HandedControl { name, descriptors } = handed;
        let mut descriptors = descriptors.into_iter();
        let unix = descriptors.next().filter(|_| name.path == path).map(std::os::unix::net::UnixListener::from);
        let tcp = descriptors.next().filter(|_| name.metrics == metrics).map(std::net::TcpListener::from);
        let (unix, owner) = match unix {
            Some(unix) => (unix, socket::owner(path)?),
            None => socket::bind(path)?,
        };
        let metrics = match (tcp, metrics) {
            (Some(tcp), _) => Some(tcp),
            (None, Some(address)) => {
                Some(socket::bind_tcp(address).map_err(|error| ApiError::Metrics(address, error))?)
            }
            (None, None) => None,
        };
        Ok(Self { unix, path: path.to_owned(), owner, metrics, is_handed: Arc::default() })
    }

    /// For another edged, later.
    pub fn spare(&self) -> Result<Spare, ApiError> {
        let failed = |error| ApiError::Bind(self.path.clone(), error);
        Ok(Spare {
            path: self.path.clone(),
            unix: self.unix.try_clone().map_err(failed)?,
            metrics: self.metrics.as_ref().map(std::net::TcpListener::try_clone).transpose().map_err(failed)?,
            is_handed: Arc::clone(&self.is_handed),
        })
    }

    /// Where metrics are served; tells the port where 0 was asked for.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().and_then(|listener| listener.local_addr().ok())
    }
}

/// Serves on a thread of its own until `stop` becomes true or its sender is gone; then removes the socket.
pub fn start(api: Api, sockets: Sockets, stop: watch::Receiver<bool>) -> Result<std::thread::JoinHandle<()>, ApiError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ApiError::Thread)?;
    let body = move || {
        if let Err(error) = runtime.block_on(serve(api, sockets, stop)) {
            tracing::error!(%error, "control api");
        }
    };
    std::thread::Builder::new().name("edge-api".to_owned()).spawn(body).map_err(ApiError::Thread)
}

/// As [`start`], on the caller's runtime.
pub async fn serve(api: Api, sockets: Sockets, mut stop: watch::Receiver<bool>) -> Result<(), ApiError> {
    let unix = UnixListener::from_std(sockets.unix).map_err(|error| ApiError::Bind(sockets.path.clone(), error))?;
    let tcp = match sockets.metrics {
        Some(listener) => {
            let address = listener.local_addr().map_err(ApiError::Thread)?;
            Some(TcpListener::from_std(listener).map_err(|error| ApiError::Metrics(address, error))?)
        }
        None => None,
    };
    let owner = sockets.owner;
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let on_socket = accept_unix(&api, unix, owner, Arc::clone(&room));
    let on_tcp = async {
        match tcp {
            Some(listener) => accept_tcp(&api, listener).await,
            None => std::future::pending().await,
        }
    };
    let stopped = async {
        // A sender that is gone means the same as one that says so.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    tokio::select! {
        () = on_socket => {}
        () = on_tcp => {}
        () = stopped => {}
    }
    if sockets.is_handed.load(Ordering::Acquire) {
        // The answer to who asked for it is one of them.
        let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(CONNECTION, room.acquire_many(all)).await;
    } else {
        socket::remove(&sockets.path, owner);
    }
    Ok(())
}

async fn accept_unix(api: &Api, listener: UnixListener, owner: socket::Owner, room: Arc<Semaphore>) {
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let may_change = socket::may_change(&stream, owner);
                let access = if may_change { pages::Access::Change } else { pages::Access::Read };
                let user = socket::user(&stream);
                let api = api.clone();
                tokio::spawn(async move {
                    converse(api, TokioIo::new(stream), pages::Caller { access, user }).await;
                    drop(permit);
                });
            }
            Err(error) => pause(&error).await,
        }
    }
}

async fn accept_tcp(api: &Api, listener: TcpListener) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let api = api.clone();
                tokio::spawn(async move {
                    let caller = pages::Caller { access: pages::Access::Metrics, user: None };
                    converse(api, TokioIo::new(stream), caller).await;
                    drop(permit);
                });
            }
            Err(error) => pause(&error).await,
        }
    }
}

/// Out of descriptors or memory: others must be given time to return some (accept(2)).
async fn pause(error: &std::io::Error) {
    tracing::warn!(%error, "control api: accept");
    tokio::time::sleep(Duration::from_millis(200)).await;
}

async fn converse<I>(api: Api, io: I, caller: pages::Caller)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
{
    // A page about thousands of objects takes megabytes for a moment.
    let is_heavy = AtomicBool::new(false);
    let service = service_fn(|request: Request<Incoming>| {
        is_heavy.fetch_or(!matches!(request.uri().path(), "/healthz" | "/readyz"), Ordering::Relaxed);
        let api = api.clone();
        async move { Ok::<Response<Full<Bytes>>, Infallible>(pages::answer(&api, caller, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(MAX_HEAD)
        .max_headers(64)
        .keep_alive(false)
        .serve_connection(io, service);
    // Whatever ends it concerns only this client.
    let _ = tokio::time::timeout(CONNECTION, connection).await;
    if is_heavy.into_inner() {
        memory::give_back();
    }
}

#[cfg(test)]
mod tests;
