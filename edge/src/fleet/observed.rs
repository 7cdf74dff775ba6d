//! What an edge sees of its fleet, as plain values.

use std::time::SystemTime;

/// The others, who orders, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetObserved {
    /// Of this edge.
    pub name: String,
    /// The edge that orders, or why nobody is known to.
    pub orders: Result<String, String>,
    /// Since when it is so.
    pub since: SystemTime,
    pub peers: Vec<PeerObserved>,
    /// When the keys of session tickets in use began to seal.
    pub ticket_keys_since: Option<SystemTime>,
    /// One line each.
    pub notices: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerObserved {
    pub name: String,
    pub address: std::net::SocketAddr,
    pub is_live: bool,
    /// When it last answered.
    pub last_exchange: Option<SystemTime>,
    /// What runs there.
    pub version: Option<String>,
    /// Why it cannot be reached, or what is wrong with it.
    pub error: Option<String>,
}

impl FleetObserved {
    /// What is wrong beyond a single edge, one line each.
    pub fn notices(&self) -> Vec<String> {
        self.notices.iter().map(|notice| format!("fleet: {notice}")).collect()
    }
}
