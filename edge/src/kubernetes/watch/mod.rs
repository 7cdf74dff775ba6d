//! The API server as a source: every kind that Edge reads, watched, decoded and handed over in whole steps.
//!
//! One feed per collection lists and follows it ([`reflector`] says how, [`feed`] does it); discovery tells feeds which
//! version to ask for. What they tell is gathered here, held back until it can be served ([`readiness`]) and handed over
//! as [`Changes`]: while the supervisor is busy, changes of one object become one. What must not happen here: forgetting
//! an object because the API server cannot be reached, or deciding what objects mean together.

mod discovery;
mod entry;
mod feed;
mod gather;
mod json;
mod kinds;
mod readiness;
mod references;
mod reflector;
mod state;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

use edge_config::names::{Kind, ObjectKey, ObjectRef};

pub use entry::{Entry, SOURCE};
pub use gather::{Gather, Wanted};
pub use readiness::Phase;
pub use references::secrets_of;
pub use state::{KindState, SourceState};

/// What changed since the batch before. It may be applied at once and as a whole only.
#[derive(Debug, Default)]
pub struct Changes {
    /// `None`: the object is gone.
    pub objects: BTreeMap<ObjectRef, Option<Arc<Entry>>>,
}

/// Objects that serve from before the start, by name.
pub type Restored = BTreeMap<ObjectRef, Arc<Entry>>;

/// Reads an object that was written down in the form of the API. `None`: it is none, or of no use any more.
pub fn restore(kind: Kind, text: &[u8]) -> Option<(ObjectKey, Entry)> {
    let raw = json::object(text, entry::status_part(kind)).ok()?;
    let mut texts = entry::Texts::default();
    let key = entry::key_of(kind, &raw, &mut texts)?;
    let entry = entry::decode(kind, &key, &raw, None, &texts)?;
    entry.served.is_ok().then_some((key, entry))
}

/// The version in which objects of a kind are written down.
pub(super) fn api_version(kind: Kind) -> String {
    let version = kinds::versions(kind).first().copied().unwrap_or("v1");
    if kind.group().is_empty() { version.to_owned() } else { format!("{}/{version}", kind.group()) }
}
