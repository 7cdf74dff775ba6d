//! The door between the channel and whoever knows how this edge stands.

use std::sync::Arc;

use super::standing::{Keys, Standing};

/// Knows how this edge stands. Asking may take the time of looking at every object, so it is asked off the thread of the
/// channel.
pub trait Witness: Send + Sync + 'static {
    fn standing(&self) -> Standing;

    /// What is configured, and the hash of it all; `None`: nothing is in force yet.
    fn configuration(&self) -> Option<Arc<(String, Keys)>>;

    /// The same hash, where it is known already. Cheap.
    fn hash(&self) -> Option<String>;
}
