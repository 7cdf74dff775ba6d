//! Whether TLS sessions go on at whichever edge the routers choose.

#![allow(clippy::unwrap_used)]

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};

use super::Cloud;
use crate::pki;

const LIMIT: Duration = Duration::from_secs(20);

/// A client that trusts the CA and remembers sessions.
pub fn client(root: &str) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(&pki::client(root, &["http/1.1"], None).unwrap());
    config.resumption = Resumption::in_memory_sessions(64);
    Arc::new(config)
}

/// One request of the VIP on a connection of its own; how its handshake went.
pub fn visit(config: &Arc<ClientConfig>, host: &str) -> io::Result<Option<HandshakeKind>> {
    let name = host.to_owned().try_into().map_err(io::Error::other)?;
    let connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    let stream = TcpStream::connect_timeout(&Cloud::https(), LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut stream = StreamOwned::new(connection, stream);
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply)?;
    Ok(stream.conn.handshake_kind())
}
