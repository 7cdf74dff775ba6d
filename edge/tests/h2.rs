//! HTTP/2 end to end over loopback, on both back ends: inside TLS and by prior knowledge, to HTTP/1 and HTTP/2 upstreams.
#![allow(clippy::unwrap_used, clippy::panic)] // what fails in a helper fails the test

mod rig;
mod secure;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use edge_config::snapshot::*;
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response};
use rig::{Origin, PATIENCE, rule};
use secure::*;
use tokio::io::{AsyncRead, AsyncWrite};

/// Runs a client on a runtime of its own; nothing may take for ever.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("hangs") });
}

async fn over<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: T) -> SendRequest<Bytes> {
    let (client, connection) = h2::client::handshake(io).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn clear(address: SocketAddr) -> SendRequest<Bytes> {
    over(tokio::net::TcpStream::connect(address).await.unwrap()).await
}

async fn inside_tls(address: SocketAddr, name: &'static str) -> SendRequest<Bytes> {
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config(None, &["h2"])));
    let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let stream = connector.connect(name.try_into().unwrap(), tcp).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    over(stream).await
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

async fn ask(client: &SendRequest<Bytes>, request: Request<()>, body: &[u8]) -> Result<Answer, h2::Error> {
    let mut client = client.clone().ready().await?;
    let (response, mut stream) = client.send_request(request, body.is_empty())?;
    if !body.is_empty() {
        stream.send_data(Bytes::copy_from_slice(body), true)?;
    }
    let (parts, mut incoming) = response.await?.into_parts();
    let mut all = Vec::new();
    while let Some(bytes) = incoming.data().await {
        let bytes = bytes?;
        incoming.flow_control().release_capacity(bytes.len())?;
        all.extend_from_slice(&bytes);
    }
    let trailers = incoming.trailers().await?;
    Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body: all, trailers })
}

fn get(uri: &str) -> Request<()> {
    Request::builder().uri(uri).body(()).unwrap()
}

fn post(uri: &str) -> Request<()> {
    Request::builder().method("POST").uri(uri).body(()).unwrap()
}

/// An endpoint that speaks HTTP/2 in clear: echoes bodies with trailers; `refusals` requests are refused before that.
fn h2_origin(refusals: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let (counter, refused) = (Arc::clone(&connections), Arc::new(AtomicUsize::new(0)));
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((socket, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                let refused = Arc::clone(&refused);
                tokio::spawn(async move {
                    let Ok(mut server) = h2::server::handshake(socket).await else { return };
                    while let Some(Ok((request, mut reply))) = server.accept().await {
                        if refused.fetch_add(1, Ordering::Relaxed) < refusals {
                            reply.send_reset(h2::Reason::REFUSED_STREAM);
                            continue;
                        }
                        tokio::spawn(echo(request, reply));
                    }
                });
            }
        });
    });
    (address, connections)
}

async fn echo(request: Request<h2::RecvStream>, mut reply: h2::server::SendResponse<Bytes>) -> Result<(), h2::Error> {
    let (parts, mut body) = request.into_parts();
    let mut response =
        Response::builder().header("x-path", parts.uri.path()).header("x-scheme", parts.uri.scheme_str().unwrap());
    if let Some(te) = parts.headers.get("te") {
        response = response.header("x-te", te);
    }
    if parts.headers.get("content-type").is_some_and(|kind| kind == "application/grpc") {
        response = response.header("content-type", "application/grpc");
    }
    let mut stream = reply.send_response(response.body(()).unwrap(), false)?;
    while let Some(bytes) = body.data().await {
        let bytes = bytes?;
        body.flow_control().release_capacity(bytes.len())?;
        stream.send_data(bytes, false)?;
    }
    let mut trailers = body.trailers().await?.unwrap_or_default();
    trailers.insert("grpc-status", "0".parse().unwrap());
    stream.send_trailers(trailers)
}

fn http1() -> Vec<Upstream> {
    vec![upstream(0, UpstreamProtocol::Http1, None)]
}

fn http2() -> Vec<Upstream> {
    vec![upstream(0, UpstreamProtocol::Http2, None)]
}

#[test]
fn many_streams_inside_tls_reach_an_http1_endpoint() {
    on_each(|backend| {
        let (origin, ca) = (Origin::echo(), Ca::new());
        let rig = SecureRig::new(backend);
        let leaf = ca.server(&["a.example"]);
        let snapshot = snapshot(rig.address, vec![https("a", "*", "a", 0)], vec![rule(0)], http1());
        rig.publish(snapshot, &cert_table(&[("a", &leaf)]), &[origin.address]);
        run(async {
            let client = inside_tls(rig.address, "a.example").await;
            let asks = (0..50).map(|number| {
                let client = &client;
                async move {
                    let request = post(&format!("https://a.example/{number}?q"));
                    let body = format!("body {number}");
                    let answer = ask(client, request, body.as_bytes()).await.unwrap();
                    let text = String::from_utf8(answer.body).unwrap();
                    assert_eq!(answer.status, 200);
                    assert!(text.starts_with(&format!("POST /{number}?q HTTP/1.1\r\nhost: a.example\r\n")), "{text}");
                    assert!(text.contains("x-forwarded-proto: https") && text.ends_with(&body), "{text}");
                    assert_eq!(answer.headers["content-length"], text.len().to_string());
                }
            });
            futures_util::future::join_all(asks).await;
            // The same listener takes every name: no 421.
            assert_eq!(ask(&client, get("https://b.example/"), b"").await.unwrap().status, 200);
        });
    });
}

#[test]
fn grpc_passes_with_trailers_over_few_upstream_connections() {
    on_each(|backend| {
        let (origin, connections) = h2_origin(0);
        let rig = SecureRig::new(backend);
        rig.publish(in_clear(rig.address, vec![Rule { grpc: true, ..rule(0) }], http2()), &cert_table(&[]), &[origin]);
        run(async {
            let client = clear(rig.address).await;
            let asks = (0..40).map(|number| {
                let client = &client;
                async move {
                    let request = Request::builder()
                        .method("POST")
                        .uri("http://a.example/pkg.Service/Method")
                        .header("te", "trailers")
                        .header("content-type", "application/grpc")
                        .body(())
                        .unwrap();
                    let body = vec![number as u8; 20_000];
                    let answer = ask(client, request, &body).await.unwrap();
                    assert_eq!((answer.status, answer.body == body), (200, true));
                    assert_eq!(answer.headers["x-path"], "/pkg.Service/Method");
                    assert_eq!(
                        (&answer.headers["x-te"], &answer.headers["x-scheme"]),
                        (&"trailers".parse().unwrap(), &"http".parse().unwrap())
                    );
                    assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
                }
            });
            futures_util::future::join_all(asks).await;
        });
        // One per worker.
        assert!(connections.load(Ordering::Relaxed) <= 2);
    });
}

#[test]
fn an_http1_client_reaches_an_http2_endpoint() {
    on_each(|backend| {
        let (origin, _) = h2_origin(1);
        let rig = SecureRig::new(backend);
        rig.publish(in_clear(rig.address, vec![rule(0)], http2()), &cert_table(&[]), &[origin]);
        let mut client = rig::Client::new(rig.address);
        // The first stream is refused before it is acted on, so that even a POST is sent again.
        client.send("POST /one HTTP/1.1\r\nHost: a\r\n\r\n");
        let (head, body) = client.message();
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("x-path: /one"), "{head}");
        assert_eq!(body, "[grpc-status: 0]");
        client.send("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
        assert_eq!(client.message().1, "abc[grpc-status: 0]");
        client.send("GET /two HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(client.message().0.contains("x-path: /two"));
    });
}

#[test]
fn what_edge_answers_itself() {
    on_each(|backend| {
        let closed = rig::free_address();
        let rig = SecureRig::new(backend);
        rig.publish(in_clear(rig.address, vec![rule(0)], http2()), &cert_table(&[]), &[closed]);
        run(async {
            let client = clear(rig.address).await;
            let grpc =
                Request::builder().uri("http://a/x.Y/Z").header("content-type", "application/grpc").body(()).unwrap();
            let conflict = Request::builder().uri("http://a/").header("host", "b").body(()).unwrap();
            assert_eq!(ask(&client, get("http://a/"), b"").await.unwrap().status, 503);
            let answer = ask(&client, grpc, b"").await.unwrap();
            assert_eq!((answer.status, &answer.headers["grpc-status"]), (200, &"14".parse().unwrap()));
            assert_eq!(ask(&client, conflict, b"").await.unwrap().status, 400);
            assert_eq!(ask(&client, get("http://a/..%2f"), b"").await.unwrap().status, 400);
            // One bad request costs one stream.
            assert_eq!(ask(&client, get("http://a/"), b"").await.unwrap().status, 503);
        });
    });
}

#[test]
fn a_request_that_is_taken_back_is_taken_back_upstream() {
    on_each(|backend| {
        let (sender, gone) = std::sync::mpsc::channel();
        let sender = std::sync::Mutex::new(sender);
        let origin = Origin::new(move |client, _| {
            client.head();
            // Never answered; the proxy closes.
            assert!(client.is_at_end());
            sender.lock().unwrap().send(()).unwrap();
        });
        let rig = SecureRig::new(backend);
        rig.publish(in_clear(rig.address, vec![rule(0)], http1()), &cert_table(&[]), &[origin.address]);
        run(async {
            let client = clear(rig.address).await;
            let mut ready = client.clone().ready().await.unwrap();
            let (response, mut stream) = ready.send_request(get("http://a/"), false).unwrap();
            while origin.connections() == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            stream.send_reset(h2::Reason::CANCEL);
            drop(response);
            drop(stream);
            // The connection itself goes on, until the client ends it.
            tokio::time::sleep(Duration::from_millis(20)).await;
        });
        gone.recv_timeout(PATIENCE).unwrap();
    });
}

/// RFC 9113 §8.1: after a whole answer the rest of a request may be stopped with NO_ERROR. Nothing else moves on this
/// connection meanwhile, so it is the server's own clock that ends the stream.
#[test]
fn a_request_that_goes_on_after_its_answer_is_ended() {
    on_each(|backend| {
        let rig = SecureRig::new(backend);
        let nobody = rig::free_address();
        rig.publish(in_clear(rig.address, vec![rule(0)], http1()), &cert_table(&[]), &[nobody]);
        run(async {
            let client = clear(rig.address).await;
            // Answered by Edge, since nobody is there; one request alone, then two at once, and none of them is ended.
            for count in [1, 2] {
                let mut open = Vec::new();
                for _ in 0..count {
                    let mut ready = client.clone().ready().await.unwrap();
                    let (response, stream) = ready.send_request(post("http://a/"), false).unwrap();
                    let response = response.await.unwrap();
                    assert_eq!(response.status(), 503);
                    let mut body = response.into_body();
                    while let Some(piece) = body.data().await {
                        piece.unwrap();
                    }
                    open.push((stream, body));
                }
                for (mut stream, _body) in open {
                    let reset = std::future::poll_fn(|cx| stream.poll_reset(cx)).await.unwrap();
                    assert_eq!(reset, h2::Reason::NO_ERROR);
                }
            }
            // The connection serves on.
            assert_eq!(ask(&client, get("http://a/"), b"").await.unwrap().status, 503);
        });
    });
}
