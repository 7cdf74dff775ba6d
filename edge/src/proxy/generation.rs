//! What the supervisor publishes: one value with everything that a request may need, taken whole or not at all.

use std::net::SocketAddr;
use std::sync::Arc;

use edge_config::settings::ProxySettings;
use edge_config::snapshot::{Endpoints, Snapshot};

use super::h1::parse::HeadLimits;
use super::limits::Limits;
use super::responses::Maintenance;
use super::secrets::Secrets;
use super::tls::table::TlsTable;
use super::trace::Tracer;

/// One generation. Cheap to clone; parts that did not change are shared with the one before.
#[derive(Clone)]
pub struct Generation {
    pub number: u64,
    pub snapshot: Arc<Snapshot>,
    /// By upstream. A set that is the same `Arc` as before costs nothing.
    pub endpoints: Arc<Endpoints>,
    pub tls: Arc<TlsTable>,
    /// Texts that policies name.
    pub secrets: Arc<Secrets>,
    pub limits: Limits,
    /// Where nothing but ACME challenges is answered: port 80 of VIPs on which nobody listens there.
    pub responders: Arc<[SocketAddr]>,
    /// Hosts that an operator has closed.
    pub maintenance: Option<Arc<Maintenance>>,
    /// `None`: nothing is traced.
    pub tracer: Option<Arc<Tracer>>,
}

impl Limits {
    pub fn of(settings: &ProxySettings) -> Self {
        Self {
            max_connections: usize::try_from(settings.max_connections).unwrap_or(usize::MAX),
            max_udp_sessions: usize::try_from(settings.max_udp_sessions).unwrap_or(usize::MAX),
            head: HeadLimits { bytes: settings.max_head, fields: settings.max_fields },
            head_timeout: settings.head_timeout,
            idle_timeout: settings.idle_timeout,
            stream_idle_timeout: settings.stream_idle_timeout,
            tunnel_idle_timeout: settings.tunnel_idle_timeout,
            connect_timeout: settings.connect_timeout,
            upstream_idle_timeout: settings.upstream_idle_timeout,
            upstream_idle_connections: settings.upstream_idle_connections,
            min_body_rate: settings.min_body_rate,
            min_body_rate_grace: settings.min_body_rate_grace,
        }
    }
}
