//! Logs over HTTPS, as the API server asks a kubelet for them.
//!
//! Flows in: `GET /containerLogs/NAMESPACE/POD/CONTAINER?…`. Flows out: lines, as they come where they are followed. The
//! certificate is made at start: without `--kubelet-certificate-authority` the API server does not look at it. Whoever
//! reaches the port may read; it is bound to the node's address in the rig's own networks.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use edge_integration::pki;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::jiff::Timestamp;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::logs::{Chunk, Journal, Query, Shelf};

/// Readers at once; more of them wait.
const READERS: usize = 128;
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(30);
/// After a failed accept: the usual reason is that no file descriptors are left.
const PAUSE: Duration = Duration::from_millis(100);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The port of a node's logs.
pub struct LogServer {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    shelf: Arc<Shelf>,
}

impl LogServer {
    pub async fn bind(address: SocketAddr, shelf: Arc<Shelf>) -> io::Result<Self> {
        let authority = pki::Authority::new("podlet")?;
        let name = address.ip().to_string();
        let pair = authority.sign(&pki::Leaf { dns: &[&name], ..pki::Leaf::default() })?;
        let chain = pki::certificates(&pair.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(io::Error::other)?;
        // Without ALPN every client speaks HTTP/1.1.
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
        let acceptor = TlsAcceptor::from(Arc::new(config.map_err(io::Error::other)?));
        Ok(Self { listener: TcpListener::bind(address).await?, acceptor, shelf })
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Never returns.
    pub async fn serve(self) {
        let places = Arc::new(Semaphore::new(READERS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (acceptor, shelf) = (self.acceptor.clone(), Arc::clone(&self.shelf));
                    tokio::task::spawn_local(async move {
                        connection(stream, acceptor, shelf).await;
                        drop(place);
                    });
                }
                Err(_) => sleep(PAUSE).await,
            }
        }
    }
}

/// A reader that fails concerns nobody else.
async fn connection(stream: TcpStream, acceptor: TlsAcceptor, shelf: Arc<Shelf>) {
    let Ok(Ok(stream)) = timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(request.method(), request.uri(), &shelf);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADERS);
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()).boxed_unsync());
    *response.status_mut() = status;
    response
}

fn answer(method: &Method, uri: &http::Uri, shelf: &Shelf) -> Response<Body> {
    if method != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    }
    let parts: Vec<&str> = uri.path().trim_start_matches('/').split('/').collect();
    let title = match parts.as_slice() {
        ["healthz"] => return plain(StatusCode::OK, "ok"),
        ["containerLogs", namespace, pod, container] => {
            ((*namespace).to_owned(), (*pod).to_owned(), (*container).to_owned())
        }
        _ => return plain(StatusCode::NOT_FOUND, format!("{}: not served by podlet\n", uri.path())),
    };
    let query = match Query::parse(uri.query().unwrap_or_default(), Timestamp::now()) {
        Ok(query) => query,
        Err(problem) => return plain(StatusCode::BAD_REQUEST, format!("{problem}\n")),
    };
    let Some(journal) = shelf.find(&title, query.previous) else {
        let run = if query.previous { "no earlier run" } else { "waiting to start" };
        let text = format!("container \"{}\" in pod \"{}\": {run}\n", title.2, title.1);
        return plain(StatusCode::BAD_REQUEST, text);
    };
    if query.follow {
        return Response::new(follow(journal, query).boxed_unsync());
    }
    let mut chunk = journal.first(&query);
    chunk.bytes.truncate(query.limit.unwrap_or(usize::MAX));
    plain(StatusCode::OK, chunk.bytes)
}

/// Where a follower is.
struct Follower {
    journal: Arc<Journal>,
    news: watch::Receiver<u64>,
    query: Query,
    next: Option<u64>,
    left: usize,
    done: bool,
}

fn follow(journal: Arc<Journal>, query: Query) -> impl http_body::Body<Data = Bytes, Error = Infallible> {
    let left = query.limit.unwrap_or(usize::MAX);
    let news = journal.subscribe();
    let follower = Follower { journal, news, query, next: None, left, done: false };
    StreamBody::new(stream::unfold(follower, |mut follower| async move {
        let bytes = follower.more().await?;
        Some((Ok(Frame::data(Bytes::from(bytes))), follower))
    }))
}

impl Follower {
    /// The next lines; `None` at the end.
    async fn more(&mut self) -> Option<Vec<u8>> {
        while !self.done {
            // What comes after this line wakes us, even before the wait below begins.
            self.news.borrow_and_update();
            let Chunk { mut bytes, next, last } = match self.next {
                None => self.journal.first(&self.query),
                Some(next) => self.journal.after(next, &self.query),
            };
            self.next = Some(next);
            bytes.truncate(self.left);
            self.left -= bytes.len();
            self.done = last || self.left == 0;
            if !bytes.is_empty() {
                return Some(bytes);
            }
            if !self.done && self.news.changed().await.is_err() {
                return None;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shelf() -> (Arc<Shelf>, Arc<Journal>) {
        let shelf = Arc::new(Shelf::default());
        let journal = shelf.open(&("shop".to_owned(), "web-1".to_owned(), "web".to_owned()));
        journal.add(Timestamp::from_second(1_800_000_000).unwrap(), b"one");
        (shelf, journal)
    }

    async fn ask(shelf: &Shelf, uri: &str) -> (u16, String) {
        let response = answer(&Method::GET, &uri.parse().unwrap(), shelf);
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test(flavor = "current_thread")]
    async fn answers() {
        let (shelf, _journal) = shelf();
        let cases = [
            ("/healthz", 200, "ok"),
            ("/containerLogs/shop/web-1/web", 200, "one\n"),
            ("/containerLogs/shop/web-1/web?sinceTime=2030-01-01T00%3A00%3A00Z", 200, ""),
            ("/containerLogs/shop/web-1/web?limitBytes=2", 200, "on"),
            ("/containerLogs/shop/web-1/web?tailLines=-1", 400, "tailLines=-1: expected a number\n"),
            (
                "/containerLogs/shop/web-1/web?previous=true",
                400,
                "container \"web\" in pod \"web-1\": no earlier run\n",
            ),
            ("/containerLogs/shop/web-2/web", 400, "container \"web\" in pod \"web-2\": waiting to start\n"),
            ("/pods", 404, "/pods: not served by podlet\n"),
        ];
        for (uri, status, text) in cases {
            assert_eq!(ask(&shelf, uri).await, (status, text.to_owned()), "{uri}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn followers_get_what_comes_until_the_end() {
        let (shelf, journal) = shelf();
        let uri = "/containerLogs/shop/web-1/web?follow=true".parse().unwrap();
        let mut body = answer(&Method::GET, &uri, &shelf).into_body();
        let mut read = async || body.frame().await.map(|frame| frame.unwrap().into_data().unwrap());
        assert_eq!(read().await.unwrap(), "one\n");
        journal.add(Timestamp::now(), b"two");
        assert_eq!(read().await.unwrap(), "two\n");
        let later = async {
            tokio::task::yield_now().await;
            journal.add(Timestamp::now(), b"three");
            journal.close();
        };
        assert_eq!(tokio::join!(read(), later).0.unwrap(), "three\n");
        assert!(read().await.is_none());
    }
}
