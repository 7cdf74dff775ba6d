//! Clients of HTTP/3: one of the h3 crate, and one that writes every byte itself.
#![allow(dead_code)] // each test file uses its part

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use edge::certs::table::CertTable;
use edge::proxy::io::Backend;
use edge::proxy::limits::Limits;
use edge_config::snapshot::*;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionError, Endpoint, ReadToEndError, RecvStream, SendStream, VarInt};

use crate::rig::{PATIENCE, rule};
use crate::secure::{Ca, Leaf, SecureRig, cert_table, client_config, https, snapshot, upstream};

/// Runs a client.
pub fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("nothing takes that long") })
}

/// A proxy with HTTP/3 for every name, in front of one endpoint.
pub struct World {
    pub rig: SecureRig,
    pub table: CertTable,
    pub endpoint: SocketAddr,
}

impl World {
    pub fn new(backend: Backend, endpoint: SocketAddr) -> Self {
        Self::with_limits(backend, endpoint, Limits::default())
    }

    pub fn with_limits(backend: Backend, endpoint: SocketAddr, limits: Limits) -> Self {
        let rig = SecureRig::with_limits(backend, limits);
        let leaf = Ca::new().server(&["a.example"]);
        let world = Self { rig, table: cert_table(&[("a", &leaf)]), endpoint };
        world.publish(|listener| {
            listener.client.head_timeout = limits.head_timeout;
            listener.client.idle_timeout = limits.idle_timeout;
        });
        world
    }

    /// Publishes with another listener.
    pub fn publish(&self, edit: impl FnOnce(&mut Listener)) {
        let reasons = self.rig.publish(self.snapshot(edit), &self.table, &[self.endpoint]);
        assert_eq!(reasons, []);
    }

    pub fn snapshot(&self, edit: impl FnOnce(&mut Listener)) -> Snapshot {
        let mut listener = https("a", "*", "a", 0);
        listener.client.http3 = true;
        edit(&mut listener);
        let upstreams = vec![upstream(0, UpstreamProtocol::Http1, None)];
        with_quic(snapshot(self.rig.address, vec![listener], vec![rule(0)], upstreams))
    }
}

/// The same with a socket for QUIC where a listener wants one.
pub fn with_quic(mut snapshot: Snapshot) -> Snapshot {
    if snapshot.listeners.iter().any(|listener| listener.client.http3) {
        let socket = Socket { transport: Transport::Quic, ..snapshot.sockets[0].clone() };
        snapshot.sockets.push(socket);
    }
    snapshot
}

pub fn endpoint(certificate: Option<&Leaf>) -> Endpoint {
    let config = QuicClientConfig::try_from(client_config(certificate, &["h3"])).unwrap();
    let mut endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(config)));
    endpoint
}

pub async fn connect(address: SocketAddr, name: &str) -> Result<quinn::Connection, ConnectionError> {
    endpoint(None).connect(address, name).unwrap().await
}

pub type Sender = h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>;

/// A client of the h3 crate.
pub async fn client(connection: quinn::Connection) -> Sender {
    let (mut driver, sender) = h3::client::new(h3_quinn::Connection::new(connection)).await.unwrap();
    tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
    sender
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub fields: http::HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<http::HeaderMap>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends a request with a body and trailers, and takes the answer meanwhile.
pub async fn exchange(
    sender: &mut Sender,
    request: http::Request<()>,
    body: &[u8],
    trailers: Option<http::HeaderMap>,
) -> Result<Answer, h3::error::StreamError> {
    let (mut send, mut receive) = sender.send_request(request).await?.split();
    let sending = async {
        for chunk in body.chunks(10_000) {
            send.send_data(Bytes::copy_from_slice(chunk)).await?;
        }
        if let Some(trailers) = trailers {
            send.send_trailers(trailers).await?;
        }
        send.finish().await
    };
    let receiving = async {
        let head = receive.recv_response().await?;
        let mut body = Vec::new();
        while let Some(mut chunk) = receive.recv_data().await? {
            body.extend_from_slice(&chunk.copy_to_bytes(chunk.remaining()));
        }
        let trailers = receive.recv_trailers().await?;
        Ok::<_, h3::error::StreamError>(Answer {
            status: head.status().as_u16(),
            fields: head.headers().clone(),
            body,
            trailers,
        })
    };
    let (sent, received) = tokio::join!(sending, receiving);
    let answer = received?;
    // Who has answered need not read the rest.
    let _ = sent;
    Ok(answer)
}

pub fn get(path: &str) -> http::Request<()> {
    http::Request::get(format!("https://a.example{path}")).body(()).unwrap()
}

/// An integer of QUIC.
pub fn integer(value: u64) -> Vec<u8> {
    VarInt::from_u64(value)
        .map(|value| {
            let value = value.into_inner();
            match value {
                0..64 => vec![value as u8],
                64..16384 => (value as u16 | 0x4000).to_be_bytes().to_vec(),
                16384..1_073_741_824 => (value as u32 | 0x8000_0000).to_be_bytes().to_vec(),
                _ => (value | 0xc000_0000_0000_0000).to_be_bytes().to_vec(),
            }
        })
        .unwrap()
}

pub fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    [integer(kind), integer(payload.len() as u64), payload.to_vec()].concat()
}

/// A HEADERS frame of literals.
pub fn headers(fields: &[(&str, &str)]) -> Vec<u8> {
    let length = |bits: u32, flags: u8, length: usize| {
        let mask = (1_usize << bits) - 1;
        if length < mask {
            return vec![flags | length as u8];
        }
        let (mut bytes, mut rest) = (vec![flags | mask as u8], length - mask);
        while rest >= 128 {
            bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
        bytes
    };
    let mut section = vec![0, 0];
    for (name, value) in fields {
        section.extend(length(3, 0x20, name.len()));
        section.extend(name.bytes());
        section.extend(length(7, 0, value.len()));
        section.extend(value.bytes());
    }
    frame(1, &section)
}

/// The fields that every request has.
pub const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":authority", "a.example"), (":path", "/")];

/// A client that writes every byte itself.
pub struct Raw {
    pub connection: quinn::Connection,
    pub control: SendStream,
}

impl Raw {
    pub async fn new(address: SocketAddr) -> Self {
        let connection = connect(address, "a.example").await.unwrap();
        let mut control = connection.open_uni().await.unwrap();
        control.write_all(&[&[0][..], &frame(4, &[])].concat()).await.unwrap();
        Self { connection, control }
    }

    /// The answer to bytes on a request stream of their own: all of it, or the code that it was reset with.
    pub async fn request(&self, bytes: &[u8]) -> Result<Vec<u8>, Refused> {
        let (mut send, receive) = self.connection.open_bi().await.unwrap();
        // It may be refused before all is sent.
        let _ = send.write_all(bytes).await;
        let _ = send.finish();
        answer(receive).await
    }

    /// The code that the connection is closed with.
    pub async fn closed(&self) -> u64 {
        match self.connection.closed().await {
            ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
            other => panic!("{other}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Stream(u64),
    Connection(u64),
}

pub async fn answer(mut receive: RecvStream) -> Result<Vec<u8>, Refused> {
    match receive.read_to_end(1 << 20).await {
        Ok(bytes) => Ok(bytes),
        Err(ReadToEndError::Read(quinn::ReadError::Reset(code))) => Err(Refused::Stream(code.into_inner())),
        Err(ReadToEndError::Read(quinn::ReadError::ConnectionLost(ConnectionError::ApplicationClosed(close)))) => {
            Err(Refused::Connection(close.error_code.into_inner()))
        }
        Err(other) => panic!("{other}"),
    }
}

/// Whether a raw answer has this status, which is written as an entry of the static table or as three digits.
pub fn has_status(answer: &[u8], status: u16) -> bool {
    let indexed: &[u8] = match status {
        200 => &[0xd9],
        400 => &[0xff, 67 - 63],
        421 => &[0xff, 69 - 63],
        _ => &[],
    };
    let section = answer.get(3..).unwrap_or_default();
    let digits = [&[0x5f, 0x09, 3][..], status.to_string().as_bytes()].concat();
    let at = |bytes: &[u8]| section.windows(bytes.len()).take(6).any(|window| window == bytes);
    (!indexed.is_empty() && at(indexed)) || at(&digits)
}

/// Short, and long enough for a busy machine.
pub const BRIEF: Duration = Duration::from_secs(3);
