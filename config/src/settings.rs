//! The decoded form of `edge.toml`: plain typed fields, every one with the default that an absent key means. Decoding
//! text into it is `toml`'s; nothing here reads or writes anything.

mod addresses;
mod announce;
mod certificates;
mod dashboard;
mod fleet;
mod history;
mod tracing;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::names::{Kind, ObjectKey};
use crate::snapshot::ProxyPresence;

pub use addresses::{AddressRange, AddressRangeError, Pool};
pub use announce::{
    BgpAdvertisement, BgpSettings, EdgeSettings, HOSTNAME_LABEL, L2GroupSettings, L2Settings, RequireEndpoints,
    VipSelection, defaults, edge_name,
};
pub use certificates::{
    CertificateMode, CertificateSettings, CertificateWish, IssuerName, IssuerSettings, WildcardPolicy, WishedAddress,
};
pub use dashboard::{DashboardCertificate, DashboardSettings};
pub use fleet::{FleetEdge, FleetSettings};
pub use history::HistorySettings;
pub use tracing::{Collector, OtlpProtocol, ParentRule, Ratio, TracingSettings};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Settings {
    pub edge: EdgeSettings,
    /// `[state] directory`: the store and its plain copies.
    pub state_directory: PathBuf,
    /// The key that seals keys in the state directory; `None`: systemd's credential `edge-store-key`, where there is one.
    pub state_key_file: Option<PathBuf>,
    /// `[gateway] controller_names`: the GatewayClasses that are claimed.
    pub controller_names: Vec<String>,
    pub services: ServiceSettings,
    pub reach: ReachSettings,
    pub manifests: Vec<ManifestSource>,
    pub patches: Vec<PatchSource>,
    pub secrets: Vec<SecretSource>,
    /// Texts replaced in every manifest and patch before parsing.
    pub substitute: BTreeMap<String, String>,
    pub pools: Vec<Pool>,
    pub vips: VipSettings,
    /// `None`: nothing is announced by BGP.
    pub bgp: Option<BgpSettings>,
    /// `None`: nothing is announced by ARP and NDP.
    pub l2: Option<L2Settings>,
    pub proxy: ProxySettings,
    pub access_log: AccessLog,
    /// `None`: nothing is traced.
    pub tracing: Option<TracingSettings>,
    pub log: LogSettings,
    pub control: ControlSettings,
    pub certificates: CertificateSettings,
    pub issuers: IssuerSettings,
    /// `[kubernetes]`: the API server that is read beside the files. `None`: none is.
    pub kubernetes: Option<KubernetesSettings>,
    /// `None`: this edge is alone, or has the others only in common with the API server.
    pub fleet: Option<FleetSettings>,
    /// `None`: there is no web page.
    pub dashboard: Option<DashboardSettings>,
    pub history: HistorySettings,
}

/// `[services]`: which Services of type LoadBalancer are served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceSettings {
    /// Values of `spec.loadBalancerClass`.
    pub classes: Vec<String>,
    /// Also those that name no class: nobody else in the cluster may serve them then.
    pub without_class: bool,
}

/// `[reach]`: how Pods are reached from outside of their cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReachSettings {
    pub mode: ReachMode,
    /// Routes that Edge has added stay when it stops.
    pub keep_routes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReachMode {
    /// The first of the three below that works, by probes.
    Auto,
    /// Pods are routable as they are.
    Direct,
    /// By routes that Edge adds, through the nodes.
    PodRoute,
    /// By the nodes' own ports.
    NodePort,
}

/// A path is relative to the directory of `edge.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum TextSource {
    Path(PathBuf),
    /// The text itself and the line of `edge.toml` on which it starts.
    Inline {
        text: String,
        line: u32,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ManifestSource {
    pub source: TextSource,
    /// File names, or path prefixes relative to the source's path, that are left out.
    pub exclude: Vec<String>,
    /// For namespaced objects that name none.
    pub namespace: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum PatchType {
    /// RFC 6902
    Json,
    /// RFC 7396
    Merge,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PatchTarget {
    /// Absent: the group that the kind has in Edge.
    pub group: Option<String>,
    pub kind: Kind,
    pub key: ObjectKey,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PatchSource {
    pub source: TextSource,
    pub format: PatchType,
    pub target: PatchTarget,
    /// The line of `edge.toml` at which the patch is declared.
    pub line: u32,
}

/// A TLS Secret from two PEM files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SecretSource {
    pub key: ObjectKey,
    pub certificate: PathBuf,
    pub private_key: PathBuf,
    /// The line of `edge.toml` at which it is declared.
    pub line: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum BindVips {
    /// Add an address where it is missing and remove it at the end.
    Auto,
    /// Addresses are somebody else's job.
    Never,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VipSettings {
    pub bind: BindVips,
    /// Where `Auto` adds addresses.
    pub interface: String,
    /// How long one that was withdrawn must be good before it is announced again.
    pub hold_down: Duration,
    pub require_endpoints: RequireEndpoints,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum IoBackend {
    Auto,
    IoUring,
    Epoll,
}

/// Who makes the records of clients' connections after the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum TlsRecords {
    /// Edge, in place.
    Own,
    Rustls,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProxySettings {
    /// 0 means one per CPU; at most 512.
    pub workers: u16,
    pub io: IoBackend,
    pub tls_records: TlsRecords,
    /// Of the whole daemon; one more is closed at accept.
    pub max_connections: u32,
    /// Of the whole daemon; a client of one more gets no answer.
    pub max_udp_sessions: u32,
    /// Bytes of a request's head, its first line included; 4 KiB to 1 MiB.
    pub max_head: usize,
    /// Header fields of a request; 10 to 1000.
    pub max_fields: usize,
    /// From accept, or the first byte of a later request, to a complete head.
    pub head_timeout: Duration,
    /// A kept-alive connection without a request.
    pub idle_timeout: Duration,
    /// A body that moves no byte in either direction.
    pub stream_idle_timeout: Duration,
    /// Upgraded and L4 connections; zero is off.
    pub tunnel_idle_timeout: Duration,
    /// To an endpoint, TLS included.
    pub connect_timeout: Duration,
    /// A pooled upstream connection.
    pub upstream_idle_timeout: Duration,
    /// Pooled per endpoint and worker.
    pub upstream_idle_connections: usize,
    /// In-flight requests get this long at the end.
    pub drain_timeout: Duration,
    /// Entries of `X-Forwarded-For` that are trusted, at most 16; a ClientTrafficPolicy overrides it.
    pub trusted_hops: u32,
    /// A ClientTrafficPolicy overrides it, member by member.
    pub path: PathPolicy,
    /// Bytes per second that a client's body, and a client's reading of a response, must reach on average while it is
    /// waited for; 0 is off.
    pub min_body_rate: u32,
    /// So long a body may be waited for in all before the rate counts.
    pub min_body_rate_grace: Duration,
    /// Whether connections begin with a PROXY protocol header; a ClientTrafficPolicy overrides it. `None`: they do not.
    pub proxy_protocol: Option<ProxyPresence>,
    /// Whose headers are believed.
    pub proxy_protocol_from: Vec<AddressRange>,
}

/// What becomes of paths that several servers could take for different ones, before they are matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct PathPolicy {
    pub escaped_slashes: EscapedSlashes,
    pub dot_segments: DotSegments,
    pub repeated_slashes: RepeatedSlashes,
}

/// `%2F` and `%5C`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum EscapedSlashes {
    #[default]
    Reject,
    /// Matched and forwarded as they are.
    Keep,
    /// They become slashes.
    Unescape,
    /// The client is sent to the path in which they are slashes (307).
    Redirect,
}

/// `.` and `..`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum DotSegments {
    #[default]
    Reject,
    /// RFC 3986 §5.2.4
    Resolve,
}

/// `//`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum RepeatedSlashes {
    /// An empty segment is a segment (RFC 3986 §3.3).
    #[default]
    Keep,
    Merge,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum AccessLog {
    Off,
    Stdout,
    /// Reopened on SIGUSR1.
    File(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum LogFormat {
    /// Human on a terminal, JSON elsewhere.
    Auto,
    Human,
    Json,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogSettings {
    pub level: LogLevel,
    pub format: LogFormat,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ControlSettings {
    /// Unix socket for edgectl.
    pub socket: PathBuf,
    /// Where /metrics, /healthz and /readyz are served, if anywhere.
    pub metrics: Option<SocketAddr>,
}

/// How the API server is reached and what is read from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KubernetesSettings {
    pub credentials: Credentials,
    /// The only namespaces whose objects are read; empty: all.
    pub namespaces: Vec<String>,
    /// A label selector that the Gateways to be read match; `None`: all of them.
    pub gateway_selector: Option<String>,
    pub secrets: SecretScope,
    /// How long a start without last good objects waits for every kind to be listed.
    pub sync_timeout: Duration,
    /// Whether what became of objects is written to them, by the edge of its group that does.
    pub write_status: bool,
    /// Edges of one group serve the same Gateways; the name of the Lease that says which of them writes.
    pub group: String,
    /// What this edge is called in its group; `None`: as its host.
    pub edge_name: Option<String>,
    /// Where the Leases are.
    pub lease_namespace: String,
    /// Whether each Gateway gets a Service in the cluster that leads to its addresses.
    pub gateway_services: bool,
    /// The Lease that cert-manager's controller renews while it lives.
    pub cert_manager_lease: ObjectKey,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Credentials {
    /// The service account of the Pod that edged runs in.
    InCluster,
    Kubeconfig {
        path: PathBuf,
        /// `None`: the file's current context.
        context: Option<String>,
    },
}

/// Which Secrets are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum SecretScope {
    /// All of a type that can hold a certificate.
    All,
    /// Those that an object refers to, each by its name.
    Referenced,
}

impl Default for KubernetesSettings {
    fn default() -> Self {
        Self {
            credentials: Credentials::InCluster,
            namespaces: Vec::new(),
            gateway_selector: None,
            secrets: SecretScope::All,
            sync_timeout: Duration::from_secs(30),
            write_status: true,
            group: "edge".to_owned(),
            edge_name: None,
            lease_namespace: "edge-system".to_owned(),
            gateway_services: true,
            cert_manager_lease: ObjectKey::new("kube-system", "cert-manager-controller"),
        }
    }
}

impl Settings {
    /// The same with the daemon's own paths (state, control socket, access log, kubeconfig, and those of `[tracing]`, `[bgp]`,
    /// `[l2]`, `[fleet]`, `[dashboard]` and issuers) taken relative to `base`, the directory of `edge.toml`. The paths of sources stay as they
    /// were written, since findings name them.
    pub fn anchored(mut self, base: &Path) -> Self {
        self.state_directory = base.join(&self.state_directory);
        self.state_key_file = self.state_key_file.map(|file| base.join(file));
        self.control.socket = base.join(&self.control.socket);
        if let AccessLog::File(path) = &mut self.access_log {
            *path = base.join(&*path);
        }
        if let Some(KubernetesSettings { credentials: Credentials::Kubeconfig { path, .. }, .. }) = &mut self.kubernetes
        {
            *path = base.join(&*path);
        }
        self.issuers.anchor(base);
        if let Some(bgp) = &mut self.bgp {
            bgp.anchor(base);
        }
        if let Some(l2) = &mut self.l2 {
            l2.anchor(base);
        }
        if let Some(tracing) = &mut self.tracing {
            tracing.collector.anchor(base);
        }
        if let Some(fleet) = &mut self.fleet {
            fleet.anchor(base);
        }
        if let Some(dashboard) = &mut self.dashboard {
            dashboard.anchor(base);
        }
        self
    }

    /// These, as settings of an earlier time that are in force again; what is about this machine, this process and the
    /// places of objects is as it is now.
    pub fn held_over(self, now: &Self) -> Self {
        // Without `..`, so that a new setting is thought of here.
        Self {
            edge: now.edge.clone(),
            state_directory: now.state_directory.clone(),
            state_key_file: now.state_key_file.clone(),
            controller_names: self.controller_names,
            services: self.services,
            reach: self.reach,
            manifests: now.manifests.clone(),
            patches: now.patches.clone(),
            secrets: now.secrets.clone(),
            substitute: now.substitute.clone(),
            pools: self.pools,
            vips: self.vips,
            bgp: self.bgp,
            l2: self.l2,
            proxy: ProxySettings { workers: now.proxy.workers, io: now.proxy.io, ..self.proxy },
            access_log: now.access_log.clone(),
            tracing: now.tracing.clone(),
            log: now.log.clone(),
            control: now.control.clone(),
            certificates: self.certificates,
            issuers: self.issuers,
            kubernetes: now.kubernetes.clone(),
            fleet: now.fleet.clone(),
            dashboard: now.dashboard.clone(),
            history: now.history.clone(),
        }
    }

    /// The same with the name of the host for an edge that has no name.
    pub fn on_host(mut self, host: &str) -> Self {
        self.edge.name.get_or_insert_with(|| edge_name(host));
        self
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            edge: EdgeSettings::default(),
            state_directory: PathBuf::from("/var/lib/edge"),
            state_key_file: None,
            controller_names: vec!["edge.internal/gateway-controller".to_owned()],
            services: ServiceSettings { classes: vec!["edge.internal/load-balancer".to_owned()], without_class: false },
            reach: ReachSettings { mode: ReachMode::Auto, keep_routes: false },
            manifests: Vec::new(),
            patches: Vec::new(),
            secrets: Vec::new(),
            substitute: BTreeMap::new(),
            pools: Vec::new(),
            vips: VipSettings::default(),
            bgp: None,
            l2: None,
            proxy: ProxySettings::default(),
            access_log: AccessLog::Off,
            tracing: None,
            log: LogSettings { level: LogLevel::Info, format: LogFormat::Auto },
            control: ControlSettings { socket: PathBuf::from("/run/edge/edged.sock"), metrics: None },
            certificates: CertificateSettings::default(),
            issuers: IssuerSettings::default(),
            kubernetes: None,
            fleet: None,
            dashboard: None,
            history: HistorySettings::default(),
        }
    }
}

impl Default for VipSettings {
    fn default() -> Self {
        Self {
            bind: BindVips::Auto,
            interface: "lo".to_owned(),
            hold_down: defaults::HOLD_DOWN,
            require_endpoints: RequireEndpoints::Services,
        }
    }
}

impl Default for ProxySettings {
    fn default() -> Self {
        Self {
            workers: 0,
            io: IoBackend::Auto,
            tls_records: TlsRecords::Own,
            max_connections: 100_000,
            max_udp_sessions: 65_536,
            max_head: 64 << 10,
            max_fields: 100,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            stream_idle_timeout: Duration::from_secs(300),
            tunnel_idle_timeout: Duration::ZERO,
            connect_timeout: Duration::from_secs(5),
            upstream_idle_timeout: Duration::from_secs(60),
            upstream_idle_connections: 256,
            drain_timeout: Duration::from_secs(30),
            trusted_hops: 0,
            path: PathPolicy::default(),
            min_body_rate: 240,
            min_body_rate_grace: Duration::from_secs(10),
            proxy_protocol: None,
            proxy_protocol_from: Vec::new(),
        }
    }
}
