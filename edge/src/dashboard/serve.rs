//! The listening socket and its connections.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use edge_config::settings::DashboardSettings;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::auth::Shown;
use super::feed::Feed;
use super::material::{self, Material, MaterialError};
use super::pages::Site;
use super::{Sources, Trouble, host};

/// Open at the same time; further ones wait in the backlog.
const CONNECTIONS: usize = 64;
/// Of one client.
const CONNECTIONS_EACH: usize = 16;
const HANDSHAKE: Duration = Duration::from_secs(5);
/// To a complete head, from the answer before it too.
const HEAD: Duration = Duration::from_secs(15);
/// The longest life of a connection: browsers open another one.
const CONNECTION: Duration = Duration::from_secs(300);
const MAX_HEAD: usize = 16 << 10;
/// Between two attempts at what failed.
const AGAIN: Duration = Duration::from_secs(3);
/// So many tenths of a second the internal CA may take.
const MADE: u32 = 50;
/// Between two looks at certificates and the token.
const LOOK: Duration = Duration::from_secs(60);

/// Serves until `stopped` says so.
pub(super) async fn run(
    settings: DashboardSettings,
    sources: Sources,
    trouble: Trouble,
    mut stopped: watch::Receiver<bool>,
) {
    let feed = Arc::new(Feed::new(sources.worlds.clone(), sources.workers.clone()));
    tokio::select! {
        () = feed.follow() => {}
        () = listen(&settings, &sources, &feed, &trouble) => {}
        // A sender that is gone means the same as one that says so.
        _ = stopped.wait_for(|stop| *stop) => {}
    }
}

async fn listen(settings: &DashboardSettings, sources: &Sources, feed: &Arc<Feed>, trouble: &Trouble) {
    let mut tries = 0;
    let mut known = loop {
        match material::load(settings, sources) {
            Ok(known) => break Arc::new(known),
            // At the first start of all it is made meanwhile.
            Err(MaterialError::NoCa) if tries < MADE => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            Err(error) => trouble.set(Some(error.to_string())),
        }
        tokio::time::sleep(AGAIN).await;
    };
    let listener = loop {
        match TcpListener::bind(settings.address).await {
            Ok(listener) => break listener,
            // An edged that leaves may still have it.
            Err(error) => trouble.set(Some(format!("cannot listen: {error}"))),
        }
        tokio::time::sleep(AGAIN).await;
    };
    trouble.set(None);
    let scheme = if known.tls.is_some() { "https" } else { "http" };
    tracing::info!("dashboard: {scheme}://{}/", settings.address);
    let names = host::Names::new(&settings.names, &sources.edge);
    let site = Arc::new(Site::new(Arc::clone(feed), names));
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let clients = Arc::new(Clients::default());
    let mut look = tokio::time::interval(LOOK);
    look.tick().await;
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = look.tick() => {
                match material::load(settings, sources) {
                    Ok(new) => {
                        known = Arc::new(new);
                        trouble.set(None);
                    }
                    Err(error) => trouble.set(Some(format!("{error}; what was read before stays in use"))),
                }
                continue;
            }
        };
        match accepted {
            Ok((stream, from)) => {
                let Some(seat) = Clients::admit(&clients, from.ip()) else { continue };
                let (known, site) = (Arc::clone(&known), Arc::clone(&site));
                tokio::spawn(async move {
                    // Whatever ends it concerns only this client.
                    let _ = tokio::time::timeout(CONNECTION, converse(known, site, stream, from)).await;
                    drop((permit, seat));
                });
            }
            Err(error) => {
                tracing::warn!(%error, "dashboard: accept");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn converse(known: Arc<Material>, site: Arc<Site>, stream: TcpStream, from: SocketAddr) {
    let _ = stream.set_nodelay(true);
    let Some(tls) = &known.tls else {
        return speak(known, site, stream, from, Shown::Nothing).await;
    };
    let acceptor = TlsAcceptor::from(Arc::clone(tls));
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
    // The verifier has judged it.
    let is_shown = stream.get_ref().1.peer_certificates().is_some_and(|chain| !chain.is_empty());
    let shown = if is_shown { Shown::Certificate } else { Shown::Nothing };
    speak(known, site, stream, from, shown).await;
}

async fn speak<S>(known: Arc<Material>, site: Arc<Site>, stream: S, from: SocketAddr, shown: Shown)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let answer = site.answer(&known, from.ip(), shown, &request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .max_headers(64)
        .serve_connection(TokioIo::new(stream), service);
    let _ = connection.await;
}

/// How many connections each client has.
#[derive(Default)]
struct Clients(Mutex<HashMap<IpAddr, usize>>);

/// One of them.
struct Seat {
    of: IpAddr,
    clients: Arc<Clients>,
}

impl Clients {
    fn admit(clients: &Arc<Self>, of: IpAddr) -> Option<Seat> {
        let mut counts = clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(of).or_default();
        if *count >= CONNECTIONS_EACH {
            return None;
        }
        *count += 1;
        Some(Seat { of, clients: Arc::clone(clients) })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.of);
            }
        }
    }
}
