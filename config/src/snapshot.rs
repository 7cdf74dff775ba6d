//! One generation of what Edge serves, with every decision taken: hosts, precedence, weights, addresses, certificates.
//!
//! The data plane reads a snapshot and chooses nothing that is written here. It holds no private key (those are in the
//! certificate table, by [`CertId`]), no endpoint (those are in [`Endpoints`], so a rolling pod is not a recompile), no
//! Kubernetes type, no lock. Indices (`ListenerId`, `RuleId`, …) point into the vectors of the same snapshot only.

mod filters;
mod sources;
mod substitution;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::announce::Announce;
use crate::hosts::HostMap;
use crate::issuer::{AcmeIssuer, IssuerId, WriteBack};
use crate::matching::RouteTable;
use crate::names::{CertId, HostPattern, ObjectRef};
use crate::settings::{AddressRange, PathPolicy};

pub use crate::policy::{
    Authorization, Balance, CertificateDemands, ClientKeepalive, ClientRules, ConnectionLimit, FixedAnswer,
    Http2Bounds, ListenerHeaders, RulePolicy, ServiceName, TlsParameters, UpstreamPolicy, Waits,
};
pub use filters::{
    Cors, Credential, Extension, Filters, HeaderEdits, HostEdit, Mirror, Origin, PathEdit, Redirect, Rewrite, Scheme,
};
pub use sources::Sources;
pub use substitution::{Substitution, SubstitutionError, TooLong};

macro_rules! index {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl $name {
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}
index!(
    /// A listener, in [`Snapshot::listeners`].
    ListenerId
);
index!(
    /// A port of one Gateway or Service, in [`Snapshot::ports`].
    PortId
);
index!(
    /// A rule of an HTTPRoute or GRPCRoute, in [`Snapshot::rules`].
    RuleId
);
index!(
    /// A target of connections, in [`Snapshot::upstreams`].
    UpstreamId
);
index!(
    /// A set of trusted CA certificates, in [`Snapshot::trust`].
    TrustId
);

#[derive(Debug, Clone, Default, Serialize)]
pub struct Snapshot {
    /// Addresses to bind and announce, in address order.
    pub vips: Vec<Vip>,
    /// What accepts connections or datagrams, in address order. Every address is one of the `vips`.
    pub sockets: Vec<Socket>,
    pub ports: Vec<Port>,
    pub listeners: Vec<Listener>,
    /// Shared with the snapshot before where nothing about the rule changed.
    pub rules: Vec<Arc<Rule>>,
    /// Shared in the same way.
    pub upstreams: Vec<Arc<Upstream>>,
    pub trust: Vec<Trust>,
    /// Whom policies ask, in the order of their names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<PolicyService>,
    /// Certificates that Edge must have: no Secret supplies them, or one does and Edge is to renew it. In the order of
    /// their names.
    pub certificates: Vec<WantedCertificate>,
    /// The ACME issuers that these name, and all others that are configured, in the order of their names.
    pub issuers: Vec<AcmeIssuer>,
    /// What is told to the network of the `vips`.
    #[serde(skip_serializing_if = "Announce::is_idle")]
    pub announce: Announce,
}

/// Of thousands of rules nearly all are the very same ones as before, and the one that is not tells most differences: so
/// they go first.
impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        let Self {
            vips,
            sockets,
            ports,
            listeners,
            rules,
            upstreams,
            trust,
            services,
            certificates,
            issuers,
            announce,
        } = self;
        are_same(rules, &other.rules)
            && are_same(upstreams, &other.upstreams)
            && *vips == other.vips
            && *sockets == other.sockets
            && *ports == other.ports
            && *trust == other.trust
            && *services == other.services
            && *certificates == other.certificates
            && *issuers == other.issuers
            && *announce == other.announce
            && *listeners == other.listeners
    }
}

/// Whether both hold equal things; those that they share are not looked at.
pub(crate) fn are_same<T: PartialEq>(a: &[Arc<T>], b: &[Arc<T>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b) || a == b)
}

/// Backends of a policy, which only the data plane itself asks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PolicyService {
    pub name: ServiceName,
    pub backends: Vec<Backend>,
}

impl Snapshot {
    /// The backends of a policy by name.
    pub fn service(&self, name: &str) -> Option<&PolicyService> {
        let place = self.services.binary_search_by(|service| (*service.name).cmp(name)).ok()?;
        self.services.get(place)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vip {
    pub address: IpAddr,
    /// The Gateway or Service that it was given to, or all that share it, in order; never empty.
    pub owners: Vec<ObjectRef>,
    /// Where the address comes from: `pool NAME`, or `spec.addresses`.
    pub source: String,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Socket {
    pub address: SocketAddr,
    pub transport: Transport,
    pub port: PortId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    Tcp,
    Udp,
    /// UDP with HTTP/3 in it, beside the TCP socket of the same port.
    Quic,
}

impl Transport {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Quic => "quic",
        }
    }
}

/// What happens to a connection on one port of one Gateway or Service; shared by all of its addresses.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Port {
    pub owner: ObjectRef,
    pub number: u16,
    /// Who may connect or send; judged by the address that the packets come from. `None`: everybody.
    pub sources: Option<Sources>,
    /// Before TLS and everything else, so it is one for all listeners of the port. `None`: nobody looks for a header.
    pub proxy_protocol: Option<AcceptProxy>,
    /// Of connections of clients, before it is known whose they are. `None`: our own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<ClientKeepalive>,
    pub serve: PortServe,
}

/// PROXY protocol headers of load balancers in front, version 1 and 2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AcceptProxy {
    pub presence: ProxyPresence,
    /// Who is believed. A header of anybody else ends the connection.
    pub from: Vec<AddressRange>,
}

/// What a connection without a header is. The order is that of strictness: of two wishes for a port the greater counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum ProxyPresence {
    /// Served as what it looks like.
    Optional,
    /// Closed.
    Required,
}

/// The form of a header that goes to endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum ProxyVersion {
    V1,
    V2,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum PortServe {
    /// Plaintext HTTP/1.1 and h2c by prior knowledge. The most specific listener for the request's host takes it.
    Http {
        hosts: HostMap<ListenerId>,
    },
    /// TLS: the ClientHello's server name picks the listener, which terminates or passes through. A listener without a
    /// hostname also takes connections without a server name.
    Tls {
        names: HostMap<ListenerId>,
    },
    Tcp {
        listener: ListenerId,
    },
    Udp {
        listener: ListenerId,
    },
}

/// One listener of a Gateway or ListenerSet that serves, or one port of a Service of type LoadBalancer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Listener {
    /// The Gateway, ListenerSet or Service that declares it.
    pub parent: ObjectRef,
    /// Of a Service: the name of the port, or `5432/tcp`.
    pub name: Box<str>,
    pub port: u16,
    pub hostname: HostPattern,
    pub client: ClientSettings,
    /// Of rules that have none of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Arc<RulePolicy>>,
    pub serve: ListenerServe,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum ListenerServe {
    Http {
        routes: RouteTable,
    },
    /// HTTPS, with HTTP/2 and HTTP/1.1 by ALPN, and HTTP/3 beside it where its clients may have it. A Host that belongs to another listener of the port gets 421.
    Https {
        tls: Terminate,
        routes: RouteTable,
    },
    /// TLSRoute with termination: bytes inside TLS go to the backend as a TCP stream.
    TlsTerminate {
        tls: Terminate,
        routes: HostMap<StreamRoute>,
    },
    /// TLSRoute with passthrough.
    TlsPassthrough {
        routes: HostMap<StreamRoute>,
    },
    /// `None`: no route is attached, so connections are closed.
    Tcp {
        route: Option<StreamRoute>,
    },
    Udp {
        route: Option<StreamRoute>,
    },
}

/// How a listener terminates TLS.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Terminate {
    /// In the order of `certificateRefs`; never empty. A certificate that is not there yet is served by a placeholder.
    pub certificates: Vec<CertId>,
    pub client_validation: ClientValidation,
    /// What a valid certificate must have beside a chain to a CA.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub demands: Option<Arc<CertificateDemands>>,
    /// What is offered, where a policy says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Arc<TlsParameters>>,
}

/// Validation of client certificates (Gateway `spec.tls.frontend`, or `tls.clientValidation` of a policy).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ClientValidation {
    /// No certificate is asked for.
    Off,
    /// `AllowValidOnly`: the handshake fails without a certificate that chains to `trust`.
    Required { trust: TrustId },
    /// `AllowInsecureFallback`: asked for, but none or an invalid one is accepted.
    Requested { trust: TrustId },
    /// Asked for; none is accepted, an invalid one is not.
    IfGiven { trust: TrustId },
    /// The handshake fails without a certificate, but it may be anybody's.
    Any { trust: TrustId },
}

impl ClientValidation {
    /// Whose certificates are asked for; of these names clients choose theirs.
    pub fn trust(self) -> Option<TrustId> {
        match self {
            Self::Off => None,
            Self::Required { trust } | Self::Requested { trust } | Self::IfGiven { trust } | Self::Any { trust } => {
                Some(trust)
            }
        }
    }

    /// Whether nobody comes in without a certificate.
    pub fn is_required(self) -> bool {
        matches!(self, Self::Required { .. } | Self::Any { .. })
    }

    /// Whether a certificate that is shown must be valid.
    pub fn verifies(self) -> bool {
        matches!(self, Self::Required { .. } | Self::IfGiven { .. })
    }
}

/// What a ClientTrafficPolicy or edge.toml says of the downstream side of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClientSettings {
    /// Trailing X-Forwarded-For entries written by proxies that we trust.
    pub trusted_hops: u32,
    /// A keep-alive connection without a request lives this long.
    pub idle_timeout: Duration,
    /// From the first byte of a request to its complete head.
    pub head_timeout: Duration,
    /// Bytes buffered per connection and direction, where a policy sets it.
    pub buffer_limit: Option<u64>,
    pub path: PathPolicy,
    /// Edits of all requests and responses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<Arc<ListenerHeaders>>,
    /// Whether responses tell of rates, where the rate leaves it open.
    pub rate_limit_headers: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_limit: Option<ConnectionLimit>,
    /// From the accepting of a connection to the end of its handshake. `None`: as long as a head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshake_timeout: Option<Duration>,
    /// Of connections that are no HTTP; zero is none. `None`: as edge.toml has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel_idle_timeout: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http2: Option<Http2Bounds>,
    /// Whether HTTP/3 is served on the UDP port of the same number; only ever of HTTPS.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub http3: bool,
    /// For what a rule leaves open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits: Option<Arc<Waits>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<Arc<ClientRules>>,
}

impl Default for ClientSettings {
    /// As without anything in edge.toml.
    fn default() -> Self {
        Self {
            trusted_hops: 0,
            idle_timeout: Duration::from_secs(60),
            head_timeout: Duration::from_secs(10),
            buffer_limit: None,
            path: PathPolicy::default(),
            handshake_timeout: None,
            tunnel_idle_timeout: None,
            http2: None,
            http3: false,
            waits: None,
            rate_limit_headers: true,
            connection_limit: None,
            rules: None,
            headers: None,
        }
    }
}

/// A rule of an HTTPRoute or GRPCRoute.
///
/// In this order in memory: what every request needs is together, since with thousands of rules each of its cache lines
/// has to be fetched.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[repr(C)]
pub struct Rule {
    pub action: Action,
    pub filters: Arc<Filters>,
    pub session: Option<Box<SessionPersistence>>,
    pub retry: Option<Box<Retry>>,
    pub timeouts: Timeouts,
    /// Whether faults are told in gRPC terms (`grpc-status` in trailers-only form).
    pub grpc: bool,
    pub balance: Balance,
    /// `None`: its listener's, where that has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Arc<RulePolicy>>,
    /// From 0, as in `spec.rules`.
    pub index: u32,
    pub route: ObjectRef,
    pub name: Option<Box<str>>,
}

impl Rule {
    /// Its own, and those of its backends.
    pub fn filters(&self) -> impl Iterator<Item = &Filters> {
        let backends = match &self.action {
            Action::Forward(backends) => &**backends,
            _ => &[],
        };
        std::iter::once(&*self.filters).chain(backends.iter().map(|backend| &*backend.filters))
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Action {
    Redirect(Redirect),
    /// The answer is in the configuration.
    Respond(Arc<FixedAnswer>),
    /// Weighted choice; an entry of weight 0 is kept for explanations and never chosen.
    Forward(Vec<Backend>),
    /// No backend may be used at all, or a filter cannot be honoured: the answer is this status for this reason.
    Refuse {
        status: u16,
        reason: Arc<str>,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Backend {
    pub weight: u32,
    /// As the user wrote it: `Service ns/name:port`.
    pub reference: Arc<str>,
    pub target: Target,
    pub filters: Arc<Filters>,
    /// Goes before the rule's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<Balance>,
    /// For need: it takes what the others of the rule cannot, as far as these are not healthy.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub fallback: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Target {
    Upstream(UpstreamId),
    /// An invalid reference keeps its share of the traffic (HTTPRouteRule.backendRefs): 500 for that share.
    Invalid {
        status: u16,
        reason: Arc<str>,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Timeouts {
    /// The whole exchange, from the complete request head to the end of the response. `None` is no limit.
    pub request: Option<Duration>,
    /// One try at a backend.
    pub backend_request: Option<Duration>,
    /// The route says in so many words that a request has no limit ("0s"): it streams, and has no minimum rate either.
    pub streams: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits: Option<Arc<Waits>>,
}

/// HTTPRouteRetry, or a policy's. Where no connection can be made another endpoint is tried in any case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Retry {
    pub codes: Vec<u16>,
    /// Statuses of gRPC, where the head of a response has one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub grpc_codes: Vec<u8>,
    /// Whether a broken connection or a timeout is a reason, beside one that could not be made.
    pub resets: bool,
    /// Tries after the first.
    pub attempts: u32,
    pub backoff: Duration,
    /// Doubled each time up to this, and a random part of it each time. `None`: the same each time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longest_backoff: Option<Duration>,
}

impl Retry {
    /// As an HTTPRoute has it.
    pub fn new(codes: Vec<u16>, attempts: u32, backoff: Duration) -> Self {
        Self { codes, grpc_codes: Vec::new(), resets: true, attempts, backoff, longest_backoff: None }
    }
}

/// GEP-1619, as in v1.6.1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionPersistence {
    pub carrier: SessionCarrier,
    /// Cookie or header name.
    pub name: Box<str>,
    pub absolute_timeout: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum SessionCarrier {
    /// Ends with the browser session.
    SessionCookie,
    /// Written with Max-Age of the absolute timeout.
    PermanentCookie,
    Header,
}

/// A weighted set of TCP or UDP targets.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StreamRoute {
    /// The route, or the Service itself.
    pub route: ObjectRef,
    pub backends: Vec<Backend>,
    /// Connections and sessions of one client address go to one endpoint until there was none for so long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Duration>,
    /// Whose connections are taken; judged by the client's address as a PROXY protocol header says it. `None`: everybody's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admission: Option<Arc<Authorization>>,
}

/// One Service port as seen from one Gateway: its health and connections are shared by every route that uses it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Upstream {
    pub key: UpstreamKey,
    pub protocol: UpstreamProtocol,
    /// Every connection begins with a PROXY protocol header about the client, before TLS, and serves that client only.
    pub proxy_protocol: Option<ProxyVersion>,
    pub tls: Option<UpstreamTls>,
    /// `None`: nothing is asked of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Arc<UpstreamPolicy>>,
}

impl Upstream {
    /// Spoken to in datagrams.
    pub fn is_udp(&self) -> bool {
        self.key.is_udp()
    }
}

/// Stable across generations: connection pools and endpoint lists are kept under it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct UpstreamKey {
    /// Service, or Envoy Gateway Backend.
    pub object: ObjectRef,
    pub port: u16,
    /// Tells apart the uses of one port that differ in protocol, PROXY protocol, TLS, client certificate or policy; empty for the
    /// plain one.
    pub variant: Box<str>,
}

impl UpstreamKey {
    /// The variant of an upstream that is spoken to in datagrams.
    pub const UDP: &str = "udp";

    /// Spoken to in datagrams.
    pub fn is_udp(&self) -> bool {
        self.variant.split(' ').next() == Some(Self::UDP)
    }
}

impl std::fmt::Display for UpstreamKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.object.key, self.port)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, " ({})", self.variant) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum UpstreamProtocol {
    Http1,
    /// HTTP/2 by prior knowledge, or by ALPN inside TLS: appProtocol `kubernetes.io/h2c`, and every GRPCRoute backend.
    Http2,
    /// No HTTP: TCPRoute, TLSRoute, UDPRoute.
    Stream,
}

/// BackendTLSPolicy, resolved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct UpstreamTls {
    /// Sent as SNI, and authenticated unless `subject_alt_names` is not empty.
    pub hostname: Box<str>,
    /// Any one of them in the certificate suffices; `hostname` is then not authenticated.
    pub subject_alt_names: Vec<SubjectAltName>,
    /// `None`: the system's CA certificates.
    pub trust: Option<TrustId>,
    /// Presented when the backend asks (Gateway `spec.tls.backend.clientCertificateRef`).
    pub client_certificate: Option<CertId>,
    /// `false`: whoever answers is believed, as its Backend asks for.
    pub is_verified: bool,
    /// What is offered, where a Backend says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Arc<TlsParameters>>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum SubjectAltName {
    Dns(Box<str>),
    Uri(Box<str>),
}

/// CA certificates from ConfigMaps or Secrets: public, so they may live here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trust {
    /// `ConfigMap ns/name, …`
    pub source: String,
    #[serde(skip)]
    pub certificates: Vec<Arc<[u8]>>,
}

/// A certificate that Edge must have, with all that its issuer needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WantedCertificate {
    /// The Secret that a listener or Certificate names.
    pub id: CertId,
    pub issuer: WantedIssuer,
    /// Host names, wildcards allowed, in order, without duplicates; a name that is no DNS name is not here.
    pub dns_names: Vec<Box<str>>,
    /// Addresses to be in it (RFC 8738 for ACME).
    pub addresses: Vec<IpAddr>,
    pub common_name: Option<Box<str>>,
    pub is_ca: bool,
    pub key: KeyAlgorithm,
    /// Whether a renewal makes a new key. cert-manager's `privateKey.rotationPolicy`.
    pub rotate_key: bool,
    pub duration: Duration,
    /// Renewed this long before it ends. Zero where nobody has a wish (ACME): when the CA or its real lifetime says.
    pub renew_before: Duration,
    /// Goes before the profile of the issuer (ACME).
    pub profile: Option<Box<str>>,
    /// Labels of the object that asked, for the choice of an ACME solver.
    pub labels: Vec<(Box<str>, Box<str>)>,
    /// The Secret that it is written to; `None` where files are the source, or where somebody else writes it.
    pub write_back: Option<WriteBack>,
    /// What a Secret supplies of it now. It serves and counts as held, so that nothing is issued before it is due;
    /// `None`: nobody supplies it.
    pub adopt: Option<Adopt>,
    /// Who asked: listeners and Certificates.
    pub wanted_by: Vec<String>,
}

/// A certificate in a Secret that Edge takes over as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Adopt {
    /// The Secret: mostly the wanted one itself, but a Secret with a wildcard stands for each host below it.
    pub secret: CertId,
    /// Unix seconds.
    pub not_before: i64,
    /// Unix seconds.
    pub not_after: i64,
    /// Of the leaf's DER, lower-case hex: tells whether it is the one that Edge itself wrote there.
    pub sha256: Box<str>,
    /// Why it is not what is wanted (a name is missing, another issuer made it): it serves until the wanted one is
    /// there, which is due at once.
    pub unfit: Option<Box<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum WantedIssuer {
    /// Edge's own CA: no issuer was named, or the named one cannot issue (then `instead_of` says which and why).
    Internal {
        instead_of: Option<String>,
    },
    SelfSigned,
    /// Signed by the key of another certificate, which may itself be wanted.
    Ca(CertId),
    /// By ACME: the first of these that can, the others where it cannot. Never empty; each is in [`Snapshot::issuers`].
    Acme(Vec<IssuerId>),
    /// Nobody at the moment: what is held serves for as long as it holds, and nothing is made. It is for names beside a
    /// Secret for which the internal CA stands in.
    Nobody {
        why: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum KeyAlgorithm {
    EcdsaP256,
    EcdsaP384,
    Ed25519,
    /// Modulus size in bits: 2048, 3072, 4096.
    Rsa(u16),
}

/// The endpoints of every upstream of a snapshot, by [`UpstreamId`]; published apart from it.
pub type Endpoints = Vec<Arc<EndpointSet>>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum EndpointSet {
    Addresses(Vec<Endpoint>),
    /// ExternalName or an FQDN Backend: a resolver turns it into addresses.
    Dns {
        host: Box<str>,
        port: u16,
    },
}

impl WantedIssuer {
    /// Why whoever should issue cannot at the moment. What it issued before serves on meanwhile.
    pub fn away(&self) -> Option<&str> {
        match self {
            Self::Internal { instead_of: Some(why) } | Self::Nobody { why } => Some(why),
            Self::Internal { instead_of: None } | Self::SelfSigned | Self::Ca(_) | Self::Acme(_) => None,
        }
    }
}

impl Default for EndpointSet {
    fn default() -> Self {
        Self::Addresses(Vec::new())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Endpoint {
    pub address: SocketAddr,
    /// Ready endpoints only take new work; a terminating one that still serves is used when no ready one is left.
    pub state: EndpointState,
    /// `Pod ns/name`, or empty.
    pub target: Box<str>,
    pub node: Box<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointState {
    Ready,
    /// Not ready, but serving and terminating.
    Draining,
    /// An operator says that it gets no request but those of sessions that are pinned to it. Compile never says so.
    Drained,
    /// An operator says that it gets none at all.
    Disabled,
}
