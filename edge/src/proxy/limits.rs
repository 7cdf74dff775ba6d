//! Every bound of the data plane in one value; see `[proxy]` in edge.toml for what each means.

use std::time::Duration;

use super::h1::parse::HeadLimits;

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_connections: usize,
    pub max_udp_sessions: usize,
    pub head: HeadLimits,
    pub head_timeout: Duration,
    pub idle_timeout: Duration,
    pub stream_idle_timeout: Duration,
    /// Zero: none.
    pub tunnel_idle_timeout: Duration,
    pub connect_timeout: Duration,
    pub upstream_idle_timeout: Duration,
    /// Per endpoint and worker.
    pub upstream_idle_connections: usize,
    /// Bytes per second that a client must reach while it is waited for; 0: none.
    pub min_body_rate: u32,
    pub min_body_rate_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 100_000,
            max_udp_sessions: 65_536,
            head: HeadLimits { bytes: 64 << 10, fields: 100 },
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            stream_idle_timeout: Duration::from_secs(300),
            tunnel_idle_timeout: Duration::ZERO,
            connect_timeout: Duration::from_secs(5),
            upstream_idle_timeout: Duration::from_secs(60),
            upstream_idle_connections: 256,
            min_body_rate: 240,
            min_body_rate_grace: Duration::from_secs(10),
        }
    }
}
