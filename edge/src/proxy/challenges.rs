//! Answers to ACME challenges, on the way of every request and every TLS handshake, before anything of the user's.
//!
//! In flow tables from the certificate side ([`Board::set`]), apart from generations, because a CA waits for them; out flow
//! answers. HTTP-01 (RFC 8555 §8.3) is answered from a token that was shared, or from the token asked for and the
//! thumbprint of the account that orders the host: no edge has to be told of a token before the CA asks it. Only for
//! hosts of the table, only for what can be a token ("MUST NOT contain any characters outside the base64url alphabet");
//! everything else is the user's, so another ACME client behind Edge goes on working. TLS-ALPN-01 (RFC 8737) is answered
//! by name, for clients that offer `acme-tls/1` and nothing else. No secret is here but keys of challenge certificates.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use edge_acme::alpn;
use edge_acme::challenge::{Challenge, ChallengeKind, Identifier};
use edge_config::names::CertId;
use edge_config::snapshot::{Listener, ListenerServe, PortServe, Snapshot, Transport, WantedCertificate, WantedIssuer};
use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::sync::{Notify, watch};

use super::message::RequestHead;
use super::tls::hello::Hello;
use super::tls::provider;

/// Where a CA asks (RFC 8555 §8.3).
pub const RESPONDER_PORT: u16 = 80;
const PREFIX: &str = "/.well-known/acme-challenge/";
/// Of a token that is answered without having been told: 128 bits of entropy are 22 characters (§8.1); CAs send 32 to 43.
const SHORTEST: usize = 22;
const LONGEST: usize = 128;

/// Hosts as in a Host field ([`host_of`]), with the thumbprint of the account that orders them.
pub type Hosts = HashMap<Box<str>, Arc<str>>;

/// What is answered now; immutable once it is on the [`Board`].
#[derive(Clone, Default)]
pub struct Challenges {
    revision: u64,
    hosts: Arc<Hosts>,
    /// By token.
    told: HashMap<Box<str>, Told>,
    /// By server name.
    handshakes: HashMap<Box<str>, Arc<ServerConfig>>,
}

#[derive(Clone)]
struct Told {
    host: Box<str>,
    content: Box<str>,
    /// How often it was asked for here.
    asked: Arc<AtomicU32>,
}

impl Challenges {
    /// Answers HTTP-01 for a host by the thumbprint of an account (RFC 8555 §8.1), whatever the token.
    pub fn answer_for(&mut self, identifier: &Identifier, thumbprint: &Arc<str>) {
        Arc::make_mut(&mut self.hosts).insert(host_of(identifier), Arc::clone(thumbprint));
    }

    /// Answers one challenge. Gives a counter of how often it was asked for here.
    pub fn tell(&mut self, challenge: &Challenge) -> Result<Arc<AtomicU32>, String> {
        let asked = Arc::default();
        match challenge.kind {
            ChallengeKind::Http01 => {
                if !is_token(&challenge.token, 1) {
                    return Err(format!("the token {:?} of the CA is none", challenge.token));
                }
                let told = Told {
                    host: host_of(&challenge.identifier),
                    content: challenge.key_authorization.clone(),
                    asked: Arc::clone(&asked),
                };
                self.told.insert(challenge.token.clone(), told);
            }
            ChallengeKind::TlsAlpn01 => {
                let config = handshake_config(challenge)?;
                self.handshakes.insert(alpn::server_name(&challenge.identifier), Arc::new(config));
            }
            ChallengeKind::Dns01 => return Err("dns-01 is not answered by the proxy".into()),
        }
        Ok(asked)
    }

    /// The same for all hosts at once.
    pub fn answer_for_all(&mut self, hosts: Arc<Hosts>) {
        self.hosts = hosts;
    }

    /// Takes the answer to one challenge back.
    pub fn forget(&mut self, challenge: &Challenge) {
        match challenge.kind {
            ChallengeKind::Http01 => drop(self.told.remove(&challenge.token)),
            ChallengeKind::TlsAlpn01 => drop(self.handshakes.remove(&alpn::server_name(&challenge.identifier))),
            ChallengeKind::Dns01 => {}
        }
    }

    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty() && self.told.is_empty() && self.handshakes.is_empty()
    }

    pub fn hosts(&self) -> &Arc<Hosts> {
        &self.hosts
    }

    /// The body of the answer to a request, if it is one of the CA's.
    #[inline]
    pub fn of_request(table: &std::cell::RefCell<Arc<Self>>, request: &RequestHead) -> Option<Bytes> {
        // The one comparison that all other requests pay for.
        let token = request.path().strip_prefix(PREFIX)?;
        table.borrow().answer(request.fields.text(request.method), request.host(), token)
    }

    #[cold]
    fn answer(&self, method: &[u8], host: &str, token: &str) -> Option<Bytes> {
        if !matches!(method, b"GET" | b"HEAD") {
            return None;
        }
        // One spelling of each address.
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')?.parse::<Ipv6Addr>().ok());
        let literal = literal.map(|address| host_of(&Identifier::Ip(IpAddr::V6(address))));
        let host = literal.as_deref().unwrap_or(host);
        if let Some(told) = self.told.get(token).filter(|told| *told.host == *host) {
            told.asked.fetch_add(1, Ordering::Relaxed);
            return Some(Bytes::copy_from_slice(told.content.as_bytes()));
        }
        let thumbprint = self.hosts.get(host).filter(|_| is_token(token, SHORTEST))?;
        Some(Bytes::from(format!("{token}.{thumbprint}")))
    }

    /// How to handshake with a CA that asks for a name. It offers exactly one protocol (RFC 8737 §3).
    #[inline]
    pub fn of_handshake(table: &std::cell::RefCell<Arc<Self>>, hello: &Hello) -> Option<Arc<ServerConfig>> {
        match &*hello.protocols {
            [only] if **only == *alpn::PROTOCOL => {
                table.borrow().handshakes.get(hello.server_name.as_deref()?).map(Arc::clone)
            }
            _ => None,
        }
    }
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenges")
            .field("revision", &self.revision)
            .field("hosts", &self.hosts.len())
            .field("told", &self.told.len())
            .field("handshakes", &self.handshakes.len())
            .finish()
    }
}

/// Where port 80 is to be opened for challenges alone: on VIPs that terminate TLS with a certificate from an ACME CA, and on
/// which nobody listens there.
pub fn responders(snapshot: &Snapshot) -> Vec<SocketAddr> {
    let ordered = |one: &&WantedCertificate| matches!(one.issuer, WantedIssuer::Acme(_));
    let ordered: BTreeSet<&CertId> = snapshot.certificates.iter().filter(ordered).map(|one| &one.id).collect();
    let asks = |listener: &Listener| match &listener.serve {
        ListenerServe::Https { tls, .. } | ListenerServe::TlsTerminate { tls, .. } => {
            tls.certificates.iter().any(|id| ordered.contains(id))
        }
        _ => false,
    };
    let tcp = || snapshot.sockets.iter().filter(|socket| socket.transport == Transport::Tcp);
    let taken: BTreeSet<IpAddr> =
        tcp().filter(|socket| socket.address.port() == RESPONDER_PORT).map(|socket| socket.address.ip()).collect();
    let with_names = tcp().filter(|socket| match snapshot.ports.get(socket.port.index()).map(|port| &port.serve) {
        Some(PortServe::Tls { names }) => names.values().any(|id| snapshot.listeners.get(id.index()).is_some_and(asks)),
        _ => false,
    });
    let addresses: BTreeSet<IpAddr> = with_names.map(|socket| socket.address.ip()).collect();
    addresses.difference(&taken).map(|address| SocketAddr::new(*address, RESPONDER_PORT)).collect()
}

/// An identifier as it stands in a Host field: in lower case, addresses of IPv6 in brackets.
pub fn host_of(identifier: &Identifier) -> Box<str> {
    match identifier {
        Identifier::Dns(name) => name.to_ascii_lowercase().into(),
        Identifier::Ip(IpAddr::V4(address)) => address.to_string().into(),
        Identifier::Ip(IpAddr::V6(address)) => format!("[{address}]").into(),
    }
}

fn is_token(text: &str, shortest: usize) -> bool {
    (shortest..=LONGEST).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn handshake_config(challenge: &Challenge) -> Result<ServerConfig, String> {
    let made = alpn::certificate(challenge).map_err(|error| error.to_string())?;
    let key = provider().key_provider.load_private_key(made.key).map_err(|error| error.to_string())?;
    // Not `from_der`: it refuses the critical extension, which is the point of the certificate.
    let certified = CertifiedKey::new(vec![made.certificate], key);
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![alpn::PROTOCOL.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Where the certificate side puts the table and the workers find it. A worker takes a new one between two tasks.
#[derive(Debug)]
pub struct Board {
    current: watch::Sender<Arc<Challenges>>,
    /// The revision that each worker answers by.
    live: Vec<AtomicU64>,
    changed: Notify,
}

impl Board {
    pub fn new(workers: usize) -> Self {
        let live = (0..workers).map(|_| AtomicU64::new(0)).collect();
        Self { current: watch::Sender::default(), live, changed: Notify::new() }
    }

    /// Replaces the table. Gives the revision for [`until_live`](Self::until_live).
    pub fn set(&self, mut table: Challenges) -> u64 {
        let mut revision = 0;
        self.current.send_modify(|current| {
            revision = current.revision + 1;
            table.revision = revision;
            *current = Arc::new(std::mem::take(&mut table));
        });
        revision
    }

    /// Waits until every worker answers by this table or a later one; the error says who does not in time.
    pub async fn until_live(&self, revision: u64, patience: Duration) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let changed = self.changed.notified();
            let late = self.live.iter().position(|live| live.load(Ordering::Acquire) < revision);
            let Some(late) = late else { return Ok(()) };
            // A notice may come between the look and the wait; nobody waits for long because of it.
            let pause = deadline.min(tokio::time::Instant::now() + Duration::from_millis(20));
            let _ = tokio::time::timeout_at(pause, changed).await;
            if tokio::time::Instant::now() >= deadline {
                return Err(format!("worker {late} of this edge does not answer challenges yet: it is busy"));
            }
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Challenges>> {
        let mut receiver = self.current.subscribe();
        receiver.mark_changed();
        receiver
    }

    pub(super) fn acknowledge(&self, worker: usize, table: &Challenges) {
        if let Some(live) = self.live.get(worker) {
            live.store(table.revision, Ordering::Release);
        }
        self.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA";

    fn challenge(kind: ChallengeKind, identifier: Identifier, token: &str) -> Challenge {
        let key_authorization = format!("{token}.other").into();
        Challenge { identifier, wildcard: false, kind, token: token.into(), key_authorization }
    }

    fn dns(name: &str) -> Identifier {
        Identifier::Dns(name.into())
    }

    #[test]
    fn only_what_a_ca_asks_is_answered() {
        let mut table = Challenges::default();
        let thumbprint: Arc<str> = "thumb".into();
        table.answer_for(&dns("A.example"), &thumbprint);
        table.answer_for(&Identifier::Ip("192.0.2.1".parse().unwrap()), &thumbprint);
        table.answer_for(&Identifier::Ip("2001:db8::1".parse().unwrap()), &thumbprint);
        let asked = table.tell(&challenge(ChallengeKind::Http01, dns("b.example"), "short")).unwrap();
        let stateless = format!("{TOKEN}.thumb");
        let longest = "x".repeat(LONGEST);
        let from_longest = format!("{longest}.thumb");
        let long = "x".repeat(LONGEST + 1);
        for (method, host, token, expected) in [
            ("GET", "a.example", TOKEN, Some(&*stateless)),
            ("HEAD", "a.example", TOKEN, Some(&stateless)),
            ("GET", "192.0.2.1", TOKEN, Some(&stateless)),
            ("GET", "[2001:db8::1]", TOKEN, Some(&stateless)),
            ("GET", "[2001:DB8:0::1]", TOKEN, Some(&stateless)),
            ("GET", "a.example", &longest, Some(&from_longest)),
            ("GET", "b.example", "short", Some("short.other")),
            // The user's.
            ("POST", "a.example", TOKEN, None),
            ("GET", "b.example", TOKEN, None),
            ("GET", "a.example", "short", None),
            ("GET", "x.a.example", TOKEN, None),
            ("GET", "", TOKEN, None),
            ("GET", "a.example", "", None),
            ("GET", "a.example", &long, None),
            ("GET", "a.example", "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ/PCt92wr", None),
            ("GET", "a.example", "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ%2DPCt92wr", None),
            ("GET", "a.example", "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ.PCt92wr", None),
            ("GET", "a.example", "../../../../secret-secret-secret", None),
        ] {
            let answer = table.answer(method.as_bytes(), host, token);
            assert_eq!(answer.as_deref(), expected.map(str::as_bytes), "{method} {host} {token}");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn handshakes_are_for_the_one_protocol() {
        crate::proxy::tls::install_provider();
        let mut table = Challenges::default();
        table.tell(&challenge(ChallengeKind::TlsAlpn01, dns("a.example"), TOKEN)).unwrap();
        table.tell(&challenge(ChallengeKind::TlsAlpn01, Identifier::Ip("192.0.2.1".parse().unwrap()), TOKEN)).unwrap();
        let table = std::cell::RefCell::new(Arc::new(table));
        let hello = |name: Option<&str>, protocols: &[&str]| Hello {
            server_name: name.map(Into::into),
            protocols: protocols.iter().map(|one| one.as_bytes().into()).collect(),
            resumes: false,
        };
        for (name, protocols, expected) in [
            (Some("a.example"), &["acme-tls/1"][..], true),
            (Some("1.2.0.192.in-addr.arpa"), &["acme-tls/1"], true),
            (Some("b.example"), &["acme-tls/1"], false),
            (None, &["acme-tls/1"], false),
            (Some("a.example"), &["acme-tls/1", "h2"], false),
            (Some("a.example"), &["h2", "http/1.1"], false),
            (Some("a.example"), &[], false),
        ] {
            let found = Challenges::of_handshake(&table, &hello(name, protocols)).is_some();
            assert_eq!(found, expected, "{name:?} {protocols:?}");
        }
    }

    #[tokio::test]
    async fn a_table_is_live_when_every_worker_says_so() {
        let board = Board::new(2);
        let revision = board.set(Challenges::default());
        let table = board.subscribe().borrow().clone();
        board.acknowledge(0, &table);
        let error = board.until_live(revision, Duration::from_millis(30)).await.unwrap_err();
        assert!(error.contains("worker 1"), "{error}");
        board.acknowledge(1, &table);
        board.until_live(revision, Duration::from_secs(5)).await.unwrap();
        assert!(board.until_live(revision + 1, Duration::from_millis(1)).await.is_err());
    }

    /// Port 80 is opened where a name has to be proved and nobody listens there.
    #[test]
    fn port_80_of_a_vip_is_opened_where_a_certificate_is_ordered_for_it() {
        const COMMON: &str = "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\n\
             metadata: {name: all, namespace: metallb-system}\nspec: {addresses: [203.1.113.0/24]}\n---\n\
             apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: edge}\n\
             spec: {controllerName: edge.internal/gateway-controller}\n---\n\
             apiVersion: cert-manager.io/v1\nkind: ClusterIssuer\nmetadata: {name: le}\nspec:\n  acme:\n    \
             server: https://acme-v02.api.letsencrypt.org/directory\n    privateKeySecretRef: {name: le}\n    \
             solvers: [{http01: {gatewayHTTPRoute: {}}}]\n---\n";
        const LE: &str = "cert-manager.io/cluster-issuer: le";
        let terminated =
            "{name: a, port: 443, protocol: HTTPS, hostname: a.example.com, tls: {certificateRefs: [{name: a}]}}";
        let passed = "{name: a, port: 443, protocol: TLS, hostname: a.example.com, tls: {mode: Passthrough}}";
        let inner =
            "{name: b, port: 8443, protocol: HTTPS, hostname: b.cluster.local, tls: {certificateRefs: [{name: b}]}}";
        let plain = "{name: http, port: 80, protocol: HTTP}";
        for (title, annotation, listeners, opened) in [
            ("ordered", LE, vec![terminated], true),
            ("ordered, beside others", LE, vec![inner, terminated], true),
            ("somebody listens there", LE, vec![terminated, plain], false),
            ("the internal CA's", "a: b", vec![terminated], false),
            ("a name that is not public", LE, vec![inner], false),
            ("TLS of others", LE, vec![passed], false),
            ("no TLS at all", LE, vec!["{name: http, port: 8080, protocol: HTTP}"], false),
        ] {
            let gateway = format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
                 metadata: {{name: web, namespace: default, annotations: {{{annotation}}}}}\n\
                 spec: {{gatewayClassName: edge, addresses: [{{value: 203.1.113.10}}], listeners: [{}]}}\n",
                listeners.join(", ")
            );
            let directory = tempfile::tempdir().unwrap();
            std::fs::write(directory.path().join("web.yaml"), format!("{COMMON}{gateway}")).unwrap();
            let inputs = crate::source::load_directory(directory.path(), &mut Default::default()).inputs;
            let compiled = edge_config::compile(&inputs);
            let expected: Vec<SocketAddr> = opened.then(|| "203.1.113.10:80".parse().unwrap()).into_iter().collect();
            assert_eq!(responders(&compiled.snapshot), expected, "{title}");
        }
    }
}
