//! From [`Inputs`] to a [`Snapshot`] and a [`Report`].
use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::inputs::Inputs;
use crate::names::ObjectKey;
use crate::report::Report;
use crate::snapshot::{Endpoints, Snapshot};

/// Everything that follows from the inputs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Compiled {
    pub snapshot: Snapshot,
    pub report: Report,
    /// By `UpstreamId` of the snapshot.
    pub endpoints: Endpoints,
    /// The addresses of every Gateway, to be kept and given back in `Inputs::assigned`.
    pub assigned: BTreeMap<ObjectKey, Vec<IpAddr>>,
}

/// Total and deterministic: equal inputs, in whatever order they were inserted, give equal bytes.
pub fn compile(inputs: &Inputs) -> Compiled {
    let _ = inputs;
    Compiled::default()
}

/// The endpoints of every upstream of a snapshot, when only EndpointSlices or Backends changed since it was made.
pub fn endpoints(inputs: &Inputs, snapshot: &Snapshot) -> Endpoints {
    let _ = (inputs, snapshot);
    Endpoints::default()
}
