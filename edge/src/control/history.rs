//! Configurations of the past as users see them: what there is, and where a revision would lead requests today.

use edge_config::compile;
use serde::{Deserialize, Serialize};

use super::diff::Effective;
use super::observed::Observed;
use super::world::{Scene, World};
use crate::history::{Held, Kept, Revision};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryView {
    /// Absent: the configuration is what the sources say.
    pub held: Option<Held>,
    /// Bytes on the disk.
    pub size: u64,
    /// The newest last.
    pub revisions: Vec<Revision>,
}

impl HistoryView {
    pub fn of(world: &World) -> Self {
        let history = &world.observed.history;
        Self { held: world.observed.held.clone(), size: history.size, revisions: history.revisions.clone() }
    }
}

/// Effective routing of a revision with the state of now, as a rollback to it would serve it. It compiles everything anew.
pub fn routing(kept: Kept, world: &World) -> Effective {
    let mut past = kept.past;
    let mut inputs = past.over(&world.inputs);
    inputs.assigned.clone_from(&world.inputs.assigned);
    for (object, addresses) in kept.assigned {
        inputs.assigned.entry(object).or_insert(addresses);
    }
    inputs.published.clone_from(&world.inputs.published);
    inputs.cert_manager.clone_from(&world.inputs.cert_manager);
    let compiled = compile(&inputs);
    let observed = Observed::offline();
    let scene = Scene {
        inputs: &inputs,
        snapshot: &compiled.snapshot,
        report: &compiled.report,
        endpoints: &compiled.endpoints,
        observed: &observed,
    };
    Effective::of(scene, &compiled.assigned)
}
