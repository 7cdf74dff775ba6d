//! One blocking request to a server of the rig, also inside a namespace.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::netns;

const LIMIT: Duration = Duration::from_secs(20);

/// Runs it inside the namespace, or here where that has no name.
pub fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    match namespace {
        "" => work(),
        name => netns::run_in(name, work).unwrap_or_else(|error| panic!("namespace {name}: {error}")),
    }
}

/// A port that nobody has, and that nobody is given by chance: below those of outgoing connections, another one each time.
pub fn free_port(namespace: &str, address: IpAddr) -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 18_000;
    const COUNT: u32 = 14_000;
    let start = std::process::id().wrapping_mul(97);
    inside(namespace, || {
        let ports = std::iter::repeat_with(|| {
            let place = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
            u16::try_from(FIRST + place).unwrap()
        });
        let free = |port: &u16| TcpListener::bind((address, *port)).is_ok();
        ports.take(COUNT as usize).find(free).unwrap()
    })
}

/// Status and body.
pub fn ask(
    namespace: &str,
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    (method, path, body): (&str, &str, &str),
) -> io::Result<(u16, String)> {
    inside(namespace, || {
        let stream = TcpStream::connect_timeout(&address, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let request = format!(
            "{method} {path} HTTP/1.0\r\nhost: {address}\r\nuser-agent: edge-integration\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut answer = Vec::new();
        match tls {
            None => exchange(stream, &request, &mut answer)?,
            Some(config) => {
                let name = ServerName::from(address.ip());
                let session = ClientConnection::new(config, name).map_err(io::Error::other)?;
                exchange(StreamOwned::new(session, stream), &request, &mut answer)?;
            }
        }
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("no end of the head"))?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.ok_or_else(|| io::Error::other("no status"))?, body.to_owned()))
    })
}

fn exchange(mut stream: impl io::Read + Write, request: &str, answer: &mut Vec<u8>) -> io::Result<()> {
    stream.write_all(request.as_bytes())?;
    match stream.read_to_end(answer) {
        // TLS without its last word is an end as well.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && !answer.is_empty() => Ok(()),
        outcome => outcome.map(|_| ()),
    }
}
