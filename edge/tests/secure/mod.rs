//! Certificates of many kinds, a proxy with a TLS port, and TLS peers whose every step is visible.
#![allow(dead_code)] // each test file uses its part

use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use edge::certs::table::{CertEntry, CertTable, Origin as CertOrigin};
use edge::proxy::filters::session::Tokens;
use edge::proxy::h3::steering::Keys;
use edge::proxy::io::Backend as IoBackend;
use edge::proxy::limits::Limits;
use edge::proxy::tls::table::{TlsReason, TlsTable, tls_table};
use edge::proxy::tls::tickets::Tickets;
use edge::proxy::tls::{install_provider, provider};
use edge::proxy::trace::Tracer;
use edge::proxy::{BindFailure, Generation, Proxy, ProxyOptions};
use edge_config::hosts::HostMap;
use edge_config::matching::{PathMatch, RouteMatch, RouteTable};
use edge_config::names::{CertId, HostPattern, Kind, ObjectKey};
use edge_config::settings::TlsRecords;
use edge_config::snapshot::*;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, SignatureScheme, StreamOwned};

use crate::rig::{self, PATIENCE, free_address, object, wait_for};

thread_local! {
    static RECORDS: std::cell::Cell<TlsRecords> = const { std::cell::Cell::new(TlsRecords::Own) };
}

/// On both back ends, and with both makers of records.
pub fn on_each(test: impl Fn(IoBackend)) {
    for records in [TlsRecords::Own, TlsRecords::Rustls] {
        RECORDS.set(records);
        rig::on_both(&test);
    }
}

/// A CA. All of them have one name, as in the conformance suite.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub der: CertificateDer<'static>,
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Leaf {
    pub chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "the same name");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), der }
    }

    pub fn trust(&self) -> Trust {
        trust(&[self])
    }

    pub fn server(&self, names: &[&str]) -> Leaf {
        self.issue(names, ExtendedKeyUsagePurpose::ServerAuth, |_| {})
    }

    pub fn client(&self, name: &str) -> Leaf {
        self.issue(&[name], ExtendedKeyUsagePurpose::ClientAuth, |_| {})
    }

    /// Names with `://` become URI names.
    pub fn issue(
        &self,
        names: &[&str],
        usage: ExtendedKeyUsagePurpose,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Leaf {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let name = |name: &&str| match name.contains("://") {
            true => SanType::URI((*name).try_into().unwrap()),
            false => SanType::DnsName((*name).try_into().unwrap()),
        };
        params.subject_alt_names = names.iter().map(name).collect();
        params.extended_key_usages = vec![usage];
        params.not_before = time::OffsetDateTime::now_utc() - time::Duration::days(30);
        params.not_after = time::OffsetDateTime::now_utc() + time::Duration::days(30);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf { chain: vec![certificate.der().clone()], key: key.serialize_der() }
    }
}

pub fn expired(params: &mut CertificateParams) {
    params.not_after = time::OffsetDateTime::now_utc() - time::Duration::days(1);
}

pub fn self_signed(names: &[&str], is_ca: bool) -> Leaf {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = names.iter().map(|name| SanType::DnsName((*name).try_into().unwrap())).collect();
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Leaf { chain: vec![certificate.der().clone()], key: key.serialize_der() }
}

pub fn trust(cas: &[&Ca]) -> Trust {
    let certificates = cas.iter().map(|ca| Arc::from(ca.der.as_ref())).collect();
    Trust { source: "ConfigMap default/ca".into(), certificates }
}

impl Leaf {
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }

    pub fn entry(&self) -> Arc<CertEntry> {
        Arc::new(CertEntry::from_der(self.chain.clone(), self.key(), CertOrigin::Supplied, provider()).unwrap())
    }
}

pub fn cert_id(name: &str) -> CertId {
    CertId(ObjectKey::new("default", name))
}

pub fn cert_table(entries: &[(&str, &Leaf)]) -> CertTable {
    let mut builder = CertTable::builder();
    for (name, leaf) in entries {
        builder.insert(cert_id(name), leaf.entry());
    }
    builder.build()
}

pub fn pattern(host: &str) -> HostPattern {
    HostPattern::parse(Some(host).filter(|host| *host != "*")).unwrap()
}

/// `serve` is given the certificates.
pub fn listener(name: &str, host: &str, serve: ListenerServe) -> Listener {
    Listener {
        parent: object(Kind::Gateway, "gateway"),
        name: name.into(),
        port: 443,
        hostname: pattern(host),
        policy: None,
        client: ClientSettings {
            trusted_hops: 0,
            idle_timeout: Duration::from_secs(60),
            head_timeout: Duration::from_secs(10),
            buffer_limit: None,
            path: Default::default(),
            ..ClientSettings::default()
        },
        serve,
    }
}

pub fn terminate(certificates: &[&str], client_validation: ClientValidation) -> Terminate {
    Terminate {
        certificates: certificates.iter().map(|name| cert_id(name)).collect(),
        client_validation,
        demands: None,
        parameters: None,
    }
}

/// Routes of an HTTPS listener: host patterns with the rule that takes everything below them.
pub fn routes(hosts: &[(&str, u32)]) -> RouteTable {
    RouteTable::build(
        hosts
            .iter()
            .map(|(host, rule)| (pattern(host), Arc::new(RouteMatch::new(PathMatch::prefix(""), RuleId(*rule), 0)))),
    )
}

pub fn https(name: &str, host: &str, certificate: &str, rule: u32) -> Listener {
    let tls = terminate(&[certificate], ClientValidation::Off);
    listener(name, host, ListenerServe::Https { tls, routes: routes(&[("*", rule)]) })
}

/// Everything on one TLS port.
pub fn snapshot(address: SocketAddr, listeners: Vec<Listener>, rules: Vec<Rule>, upstreams: Vec<Upstream>) -> Snapshot {
    let gateway = object(Kind::Gateway, "gateway");
    let mut names = HostMap::new();
    for (listener, id) in listeners.iter().zip((0..).map(ListenerId)) {
        names.insert(listener.hostname.clone(), id);
    }
    Snapshot {
        vips: vec![Vip { address: address.ip(), owners: vec![gateway.clone()], source: "test".into() }],
        sockets: vec![Socket { address, transport: Transport::Tcp, port: PortId(0) }],
        ports: vec![Port {
            owner: gateway,
            number: address.port(),
            sources: None,
            proxy_protocol: None,
            keepalive: None,
            serve: PortServe::Tls { names },
        }],
        listeners,
        rules: rules.into_iter().map(Arc::new).collect(),
        upstreams: upstreams.into_iter().map(Arc::new).collect(),
        ..Snapshot::default()
    }
}

/// The same rules on a port in clear.
pub fn in_clear(address: SocketAddr, rules: Vec<Rule>, upstreams: Vec<Upstream>) -> Snapshot {
    let listener = listener("http", "*", ListenerServe::Http { routes: routes(&[("*", 0)]) });
    let mut snapshot = snapshot(address, vec![listener], rules, upstreams);
    let mut hosts = HostMap::new();
    hosts.insert(HostPattern::Any, ListenerId(0));
    snapshot.ports[0].serve = PortServe::Http { hosts };
    snapshot
}

pub fn upstream(index: u32, protocol: UpstreamProtocol, tls: Option<UpstreamTls>) -> Upstream {
    let object = object(Kind::Service, &format!("s{index}"));
    Upstream {
        key: UpstreamKey { object, port: 80, variant: "".into() },
        protocol,
        proxy_protocol: None,
        tls,
        policy: None,
    }
}

pub struct SecureRig {
    pub proxy: Proxy,
    pub address: SocketAddr,
    number: AtomicU64,
    tls: Mutex<Arc<TlsTable>>,
    tickets: Tickets,
    limits: Limits,
    /// Of the generations to come.
    pub tracer: Mutex<Option<Arc<Tracer>>>,
}

impl SecureRig {
    pub fn new(backend: IoBackend) -> Self {
        Self::with_limits(backend, Limits::default())
    }

    pub fn with_limits(backend: IoBackend, limits: Limits) -> Self {
        install_provider();
        let tokens = Tokens::new(b"test").unwrap();
        let keys = Keys::new(b"test");
        let options = ProxyOptions { workers: 2, backend: Some(backend), tokens, keys, log: None, handed: None };
        let first = Generation {
            number: 0,
            snapshot: Arc::default(),
            endpoints: Arc::default(),
            tls: Arc::default(),
            secrets: Arc::default(),
            limits,
            responders: Arc::default(),
            maintenance: None,
            tracer: None,
        };
        let proxy = Proxy::start(options, first).unwrap();
        Self {
            proxy,
            address: free_address(),
            number: AtomicU64::new(0),
            tls: Mutex::default(),
            tickets: Tickets::random(),
            limits,
            tracer: Mutex::default(),
        }
    }

    /// Publishes and waits until it is live.
    pub fn publish(&self, snapshot: Snapshot, certificates: &CertTable, endpoints: &[SocketAddr]) -> Vec<TlsReason> {
        let (reasons, failures) = self.publish_as_far_as_possible(snapshot, certificates, endpoints);
        assert!(failures.is_empty(), "{failures:?}");
        reasons
    }

    /// The same where sockets may be another's.
    pub fn publish_as_far_as_possible(
        &self,
        snapshot: Snapshot,
        certificates: &CertTable,
        endpoints: &[SocketAddr],
    ) -> (Vec<TlsReason>, Vec<BindFailure>) {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        let mut before = self.tls.lock().unwrap();
        let (table, reasons) = tls_table(&snapshot, certificates, RECORDS.get(), &self.tickets, Some(&**before));
        *before = Arc::new(table);
        let endpoint = |address: &SocketAddr| {
            let (target, node) = Default::default();
            let endpoint = Endpoint { address: *address, state: EndpointState::Ready, target, node };
            Arc::new(EndpointSet::Addresses(vec![endpoint]))
        };
        let failures = self.proxy.publish(Generation {
            number,
            snapshot: Arc::new(snapshot),
            endpoints: Arc::new(endpoints.iter().map(endpoint).collect()),
            tls: Arc::clone(&before),
            secrets: Arc::default(),
            limits: self.limits,
            responders: Arc::default(),
            maintenance: None,
            tracer: self.tracer.lock().unwrap().clone(),
        });
        wait_for(|| self.proxy.live() >= number);
        (reasons, failures)
    }
}

pub type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A client that takes any certificate and can look at it afterwards.
pub fn client_config(certificate: Option<&Leaf>, protocols: &[&str]) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything));
    let mut config = match certificate {
        Some(leaf) => builder.with_client_auth_cert(leaf.chain.clone(), leaf.key()).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

pub fn tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A finished handshake, or why there is none.
pub fn connect(address: SocketAddr, config: &Arc<ClientConfig>, name: &'static str) -> std::io::Result<Stream> {
    let connection = ClientConnection::new(Arc::clone(config), name.try_into().unwrap()).unwrap();
    let mut stream = StreamOwned::new(connection, tcp(address));
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// One request and the whole answer, after which the connection is closed.
pub fn ask(stream: &mut Stream, host: &str, path: &str) -> std::io::Result<String> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if answer.is_empty() => Err(error),
        _ => Ok(String::from_utf8(answer).unwrap()),
    }
}

/// The status of an answer.
pub fn status(answer: &str) -> u16 {
    answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status: {answer:?}"))
}

pub fn anything() -> Arc<dyn ServerCertVerifier> {
    Arc::new(Anything)
}

#[derive(Debug)]
struct Anything;

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// An endpoint inside TLS that answers every request with what it saw of the handshake.
pub fn tls_origin(leaf: &Leaf, client_ca: Option<&Ca>) -> SocketAddr {
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(provider())).with_safe_default_protocol_versions().unwrap();
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(ca.der.clone()).unwrap();
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(provider()));
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let config = Arc::new(builder.with_single_cert(leaf.chain.clone(), leaf.key()).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((socket, _)) = listener.accept() {
            let config = Arc::clone(&config);
            std::thread::spawn(move || -> std::io::Result<()> {
                socket.set_read_timeout(Some(PATIENCE))?;
                let connection = rustls::ServerConnection::new(config).map_err(std::io::Error::other)?;
                let mut stream = StreamOwned::new(connection, socket);
                let mut bytes = [0; 16384];
                while stream.read(&mut bytes)? > 0 {
                    let text = format!(
                        "sni {} client {}",
                        stream.conn.server_name().unwrap_or("-"),
                        stream.conn.peer_certificates().is_some(),
                    );
                    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len())?;
                }
                Ok(())
            });
        }
    });
    address
}
