//! `[history]`: configurations that were applied, kept to be looked at and to go back to.

use serde::Serialize;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HistorySettings {
    /// So many revisions are kept; 0: none, and nothing is written.
    pub revisions: usize,
    /// Bytes that they may take on the disk; the oldest go first.
    pub max_size: usize,
}

impl Default for HistorySettings {
    fn default() -> Self {
        Self { revisions: 50, max_size: 64 << 20 }
    }
}
