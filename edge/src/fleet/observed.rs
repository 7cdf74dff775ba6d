//! What an edge sees of its fleet, as plain values.

use std::time::SystemTime;

use super::drift::Drifted;
use crate::control::span;

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
    /// Edges that have had another configuration for longer than a change takes.
    pub drift: Vec<Drifted>,
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
        let drift = self.drift.iter().map(|drifted| {
            let Drifted { edge, since, difference } = drifted;
            let since = span::rfc3339(*since);
            format!("fleet: the configuration of edge {edge} is another one since {since}: {}", difference.line(3))
        });
        self.notices.iter().map(|notice| format!("fleet: {notice}")).chain(drift).collect()
    }
}
