//! `[fleet]`: the edges that share what they issue, and how they reach each other.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FleetSettings {
    /// Where the other edges call.
    pub listen: SocketAddr,
    /// Bytes that all edges of the fleet have and nobody else: at least 32.
    pub secret_file: PathBuf,
    /// All edges, this one included, by name.
    pub edges: Vec<FleetEdge>,
    /// How long the other of two edges must have been silent before one that comes second orders alone. `None`: it never
    /// does.
    pub alone_after: Option<Duration>,
    /// How long two edges may be configured differently before that is a problem.
    pub drift_after: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FleetEdge {
    /// Its `[edge] name`.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
}

impl FleetSettings {
    /// The same with the path of the secret taken relative to `base`.
    pub(super) fn anchor(&mut self, base: &Path) {
        self.secret_file = base.join(&self.secret_file);
    }
}
