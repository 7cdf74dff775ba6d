//! One generation of what Edge serves, with every decision taken: hosts, precedence, weights, addresses, certificates.
//!
//! The data plane reads a snapshot and chooses nothing that is written here. It holds no private key (those are in the
//! certificate table, by [`CertId`]), no endpoint (those are in [`Endpoints`], so a rolling pod is not a recompile), no
//! Kubernetes type, no lock. Indices (`ListenerId`, `RuleId`, …) point into the vectors of the same snapshot only.

mod filters;
mod sources;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::hosts::HostMap;
use crate::matching::RouteTable;
use crate::names::{CertId, HostPattern, ObjectRef};
use crate::settings::{AddressRange, PathPolicy};

pub use filters::{Cors, Filters, HeaderEdits, Mirror, Origin, PathEdit, Redirect, Rewrite, Scheme};
pub use sources::Sources;

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

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Snapshot {
    /// Addresses to bind and announce, in address order.
    pub vips: Vec<Vip>,
    /// What accepts connections or datagrams, in address order. Every address is one of the `vips`.
    pub sockets: Vec<Socket>,
    pub ports: Vec<Port>,
    pub listeners: Vec<Listener>,
    /// Shared with the snapshot before where nothing about the rule changed.
    pub rules: Vec<Arc<Rule>>,
    pub upstreams: Vec<Upstream>,
    pub trust: Vec<Trust>,
    /// Certificates that Edge must have, because no Secret supplies them, in the order of their names.
    pub certificates: Vec<WantedCertificate>,
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
    pub serve: ListenerServe,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum ListenerServe {
    Http {
        routes: RouteTable,
    },
    /// HTTPS, with HTTP/2 and HTTP/1.1 by ALPN. A Host that belongs to another listener of the port gets 421.
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
}

/// Validation of client certificates (Gateway `spec.tls.frontend`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ClientValidation {
    /// No certificate is asked for.
    Off,
    /// `AllowValidOnly`: the handshake fails without a certificate that chains to `trust`.
    Required { trust: TrustId },
    /// `AllowInsecureFallback`: asked for, but none or an invalid one is accepted.
    Requested { trust: TrustId },
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
    /// From 0, as in `spec.rules`.
    pub index: u32,
    pub route: ObjectRef,
    pub name: Option<Box<str>>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Action {
    Redirect(Redirect),
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
}

/// HTTPRouteRetry. Connection errors and backend timeouts are retried even when no code is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Retry {
    pub codes: Vec<u16>,
    /// Tries after the first.
    pub attempts: u32,
    pub backoff: Duration,
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

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum Balance {
    #[default]
    RoundRobin,
    /// The less loaded of two random endpoints (per worker view).
    LeastRequest,
    Random,
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
}

/// One Service port as seen from one Gateway: its health and connections are shared by every route that uses it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Upstream {
    pub key: UpstreamKey,
    pub protocol: UpstreamProtocol,
    /// Every connection begins with a PROXY protocol header about the client, before TLS, and serves that client only.
    pub proxy_protocol: Option<ProxyVersion>,
    pub tls: Option<UpstreamTls>,
}

impl Upstream {
    /// Spoken to in datagrams.
    pub fn is_udp(&self) -> bool {
        &*self.key.variant == UpstreamKey::UDP
    }
}

/// Stable across generations: connection pools and endpoint lists are kept under it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct UpstreamKey {
    /// Service, or Envoy Gateway Backend.
    pub object: ObjectRef,
    pub port: u16,
    /// Tells apart the uses of one port that differ in protocol, PROXY protocol, TLS or client certificate; empty for the plain one.
    pub variant: Box<str>,
}

impl UpstreamKey {
    /// The variant of an upstream that is spoken to in datagrams.
    pub const UDP: &str = "udp";
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

/// A certificate that no Secret supplies, with all that its issuer needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WantedCertificate {
    /// The Secret that a listener or Certificate names.
    pub id: CertId,
    pub issuer: WantedIssuer,
    /// Host names, wildcards allowed, in order, without duplicates; a name that is no DNS name is not here.
    pub dns_names: Vec<Box<str>>,
    pub common_name: Option<Box<str>>,
    pub is_ca: bool,
    pub key: KeyAlgorithm,
    /// Whether a renewal makes a new key. cert-manager's `privateKey.rotationPolicy`.
    pub rotate_key: bool,
    pub duration: Duration,
    /// Renewed this long before it ends.
    pub renew_before: Duration,
    /// Who asked: listeners and Certificates.
    pub wanted_by: Vec<String>,
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
}
