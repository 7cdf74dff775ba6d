//! The TLS of a QUIC connection: a handshake that chooses its listener by the ClientHello, as one over TCP does.
//!
//! quinn wants to know its TLS before the first byte of it is read, and rustls reads it only for a config. So a session
//! begins without one: it collects the ClientHello, asks the generation for the listener of the server name, and becomes
//! rustls's from there on. QUIC is TLS 1.3 (RFC 9001); early data is never accepted.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use edge_config::snapshot::{ListenerId, PortId, PortServe};
use quinn::crypto::{
    ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig, Session, UnsupportedVersion,
};
use quinn::{ConnectionId, Side};
use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{TransportError, TransportErrorCode};
use rustls::pki_types::CertificateDer;
use rustls::quic::{KeyChange, Secrets, ServerConnection, Suite, Version};
use rustls::server::NoServerSessionStorage;
use rustls::{AlertDescription, HandshakeKind};

use crate::proxy::generation::Generation;
use crate::proxy::tls::hello::{self, Hello};
use crate::proxy::tls::provider;
use crate::proxy::tls::resolver::Resolver;

/// What HTTP/3 is called in a handshake.
pub const ALPN: &[u8] = b"h3";
/// The only version of QUIC that is spoken.
pub const VERSION: u32 = 1;
/// A ClientHello with post-quantum keys has less than 2 KB.
const LONGEST_HELLO: usize = 16 << 10;

/// The config of a listener over TCP, made fit for QUIC; `None` where TLS 1.3 is not offered. Its tickets are its own.
pub fn quic_config(
    config: &rustls::ServerConfig,
    ticketer: impl FnOnce() -> Arc<dyn rustls::server::ProducesTickets>,
) -> Option<rustls::ServerConfig> {
    let mut config = config.clone();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_secret_extraction = false;
    config.max_early_data_size = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if config.send_tls13_tickets > 0 {
        config.ticketer = ticketer();
    }
    ServerConnection::new(Arc::new(config.clone()), Version::V1, Vec::new()).is_ok().then_some(config)
}

/// What a handshake came to.
pub struct Chosen {
    /// Of the listener. The first who asks has it: a connection must not keep a generation that has gone.
    pub generation: Option<Arc<Generation>>,
    pub listener: ListenerId,
    pub server_name: Option<Box<str>>,
    pub cipher: &'static str,
    pub resumed: bool,
}

/// The part of the cryptography that belongs to no listener: the first packets, and Retry.
pub struct Common {
    packets: QuicServerConfig,
    suite: Suite,
}

impl Common {
    /// `None` where the provider lacks the suite that QUIC begins with, which ours has.
    pub fn new() -> Option<Arc<Self>> {
        let config = rustls::ServerConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .ok()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Resolver::new(Vec::new())));
        let suites = provider().cipher_suites.iter().filter_map(|suite| suite.tls13());
        let first =
            suites.into_iter().find(|suite| suite.common.suite == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        Some(Arc::new(Self { packets: config.try_into().ok()?, suite: first?.quic_suite()? }))
    }
}

/// What a handshake chooses from: the listeners of a port in one generation.
pub struct Choice {
    common: Arc<Common>,
    /// Until the session that is begun has it.
    port: Mutex<Option<(Arc<Generation>, PortId)>>,
}

impl Choice {
    pub fn new(common: &Arc<Common>, port: Option<(&Arc<Generation>, PortId)>) -> Arc<Self> {
        let port = port.map(|(generation, port)| (Arc::clone(generation), port));
        Arc::new(Self { common: Arc::clone(common), port: Mutex::new(port) })
    }
}

/// Who takes a connection to a port, and with which TLS.
fn choose(
    port: Option<&(Arc<Generation>, PortId)>,
    hello: &Hello,
) -> Result<(ListenerId, Arc<rustls::ServerConfig>), TransportError> {
    let nobody = || refused(AlertDescription::UnrecognisedName, "no listener for this server name");
    let (generation, port) = port.ok_or_else(nobody)?;
    let snapshot = &generation.snapshot;
    let name = hello.server_name.as_deref().unwrap_or_default();
    let id = match snapshot.ports.get(port.index()).map(|port| &port.serve) {
        Some(PortServe::Tls { names }) => names.best(name).copied(),
        _ => None,
    };
    let id = id.ok_or_else(nobody)?;
    let listener = snapshot.listeners.get(id.index());
    if !listener.is_some_and(|listener| listener.client.http3) {
        return Err(refused(AlertDescription::NoApplicationProtocol, "the listener does not speak HTTP/3"));
    }
    let config = generation.tls.quic(id).cloned();
    Ok((id, config.ok_or_else(|| refused(AlertDescription::InternalError, "the listener has no certificate"))?))
}

fn refused(alert: AlertDescription, why: &str) -> TransportError {
    TransportError { code: TransportErrorCode::crypto(alert.into()), frame: None, reason: why.to_owned() }
}

impl ServerConfig for Choice {
    fn initial_keys(&self, version: u32, id: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.common.packets.initial_keys(version, id)
    }

    fn retry_tag(&self, version: u32, id: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.common.packets.retry_tag(version, id, packet)
    }

    fn start_session(self: Arc<Self>, _version: u32, parameters: &TransportParameters) -> Box<dyn Session> {
        let mut written = Vec::new();
        parameters.write(&mut written);
        let port = self.port.lock().unwrap_or_else(PoisonError::into_inner).take();
        let common = Arc::clone(&self.common);
        Box::new(Handshake { common, port: Mutex::new(port), parameters: written, said: Vec::new(), live: None })
    }
}

/// A session, before and after the listener is known.
struct Handshake {
    common: Arc<Common>,
    port: Mutex<Option<(Arc<Generation>, PortId)>>,
    /// Of ours, as they are sent.
    parameters: Vec<u8>,
    /// Of the ClientHello, until it is whole.
    said: Vec<u8>,
    live: Option<Box<Live>>,
}

struct Live {
    listener: ListenerId,
    server_name: Option<Box<str>>,
    connection: ServerConnection,
    next: Option<Secrets>,
    announced: bool,
}

impl Live {
    fn read(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        let Self { connection, announced, .. } = self;
        connection.read_hs(bytes).map_err(|error| match connection.alert() {
            Some(alert) => refused(alert, &error.to_string()),
            None => refused(AlertDescription::InternalError, &error.to_string()),
        })?;
        // A name may be missing; the protocol is not, or there is no connection.
        Ok(connection.alpn_protocol().is_some() && !std::mem::replace(announced, true))
    }
}

impl Session for Handshake {
    fn initial_keys(&self, id: &ConnectionId, side: Side) -> Keys {
        let side = if side == Side::Client { rustls::Side::Client } else { rustls::Side::Server };
        keys(self.common.suite.keys(id, side, Version::V1))
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        let live = self.live.as_ref().filter(|live| live.announced)?;
        let suite = live.connection.negotiated_cipher_suite();
        let port = self.port.lock().unwrap_or_else(PoisonError::into_inner).take();
        Some(Box::new(Chosen {
            generation: port.map(|(generation, _)| generation),
            listener: live.listener,
            server_name: live.server_name.clone(),
            cipher: suite.and_then(|suite| suite.suite().as_str()).unwrap_or_default(),
            resumed: live.connection.handshake_kind() == Some(HandshakeKind::Resumed),
        }))
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        let chain = self.live.as_ref()?.connection.peer_certificates()?;
        let chain: Vec<CertificateDer<'static>> = chain.iter().map(|one| one.clone().into_owned()).collect();
        Some(Box::new(chain))
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        self.live.as_ref().is_none_or(|live| live.connection.is_handshaking())
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        if let Some(live) = &mut self.live {
            return live.read(bytes);
        }
        self.said.extend_from_slice(bytes);
        let malformed = |error: hello::HelloError| refused(AlertDescription::DecodeError, &error.to_string());
        let Some(hello) = hello::message(&self.said).map_err(malformed)? else {
            if self.said.len() > LONGEST_HELLO {
                return Err(refused(AlertDescription::DecodeError, "ClientHello is too long"));
            }
            return Ok(false);
        };
        let port = self.port.get_mut().unwrap_or_else(PoisonError::into_inner);
        let (listener, config) = choose(port.as_ref(), &hello)?;
        let parameters = std::mem::take(&mut self.parameters);
        let connection = ServerConnection::new(config, Version::V1, parameters)
            .map_err(|error| refused(AlertDescription::InternalError, &error.to_string()))?;
        let server_name = hello.server_name;
        let live = Live { listener, server_name, connection, next: None, announced: false };
        let said = std::mem::take(&mut self.said);
        self.live.insert(Box::new(live)).read(&said)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let Some(bytes) = self.live.as_ref().and_then(|live| live.connection.quic_transport_parameters()) else {
            return Ok(None);
        };
        Ok(Some(TransportParameters::read(Side::Server, &mut &*bytes)?))
    }

    fn write_handshake(&mut self, into: &mut Vec<u8>) -> Option<Keys> {
        let live = self.live.as_mut()?;
        Some(keys(match live.connection.write_hs(into)? {
            KeyChange::Handshake { keys } => keys,
            KeyChange::OneRtt { keys, next } => {
                live.next = Some(next);
                keys
            }
        }))
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let keys = self.live.as_mut()?.next.as_mut()?.next_packet_keys();
        Some(KeyPair { local: Box::new(keys.local), remote: Box::new(keys.remote) })
    }

    fn is_valid_retry(&self, _id: &ConnectionId, _header: &[u8], _payload: &[u8]) -> bool {
        // Only servers send them.
        false
    }

    fn export_keying_material(
        &self,
        _output: &mut [u8],
        _label: &[u8],
        _context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        // Nobody here binds anything to a connection.
        Err(ExportKeyingMaterialError)
    }
}

fn keys(keys: rustls::quic::Keys) -> Keys {
    Keys {
        header: KeyPair { local: Box::new(keys.local.header), remote: Box::new(keys.remote.header) },
        packet: KeyPair { local: Box::new(keys.local.packet), remote: Box::new(keys.remote.packet) },
    }
}
