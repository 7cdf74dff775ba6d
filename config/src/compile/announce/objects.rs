//! Reports of MetalLB's announcing objects, and what is said of those that nobody obeys here.

use super::super::context::{Context, Fault, condition};
use super::Reports;
use crate::inputs::{Meta, Objects};
use crate::names::{Kind, ObjectRef};
use crate::problem::Severity;
use crate::report::{Condition, ObjectReport};

/// Says of every object without a section that obeys it that it is not acted on.
pub(super) fn unobeyed(context: &Context<'_>, out: &mut Reports) {
    let inputs = context.inputs;
    let bgp = match &inputs.settings.bgp {
        None => Some("edge.toml has no [bgp]"),
        Some(bgp) if !bgp.metallb => Some("edge.toml has [bgp] metallb = false"),
        Some(_) => None,
    };
    if let Some(why) = bgp {
        tell(context, Kind::BGPPeer, &inputs.bgp_peers, why, out);
        tell(context, Kind::BGPAdvertisement, &inputs.bgp_advertisements, why, out);
        tell(context, Kind::Community, &inputs.communities, why, out);
        tell(context, Kind::BFDProfile, &inputs.bfd_profiles, why, out);
    }
    let l2 = match &inputs.settings.l2 {
        None => Some("edge.toml has no [l2]"),
        Some(l2) if !l2.metallb => Some("edge.toml has [l2] metallb = false"),
        Some(_) => None,
    };
    if let Some(why) = l2 {
        tell(context, Kind::L2Advertisement, &inputs.l2_advertisements, why, out);
    }
}

fn tell<T>(context: &Context<'_>, kind: Kind, objects: &Objects<T>, why: &str, out: &mut Reports) {
    for object in objects.values() {
        context.problem(Severity::Inert, kind, &object.meta, format!("spec: {why}"));
        report(kind, &object.meta, vec![sound("NotActedOn", why)], out);
    }
}

pub(super) fn report(kind: Kind, meta: &Meta, conditions: Vec<Condition>, out: &mut Reports) {
    let report = ObjectReport { generation: meta.generation, conditions, ..ObjectReport::default() };
    out.push((ObjectRef::new(kind, meta.key.clone()), report));
}

/// In effect, or why not; a fault is a finding too.
pub(super) fn accepted(context: &Context<'_>, kind: Kind, meta: &Meta, fault: Option<&Fault>, out: &mut Reports) {
    if let Some(fault) = fault {
        context.problem(Severity::Error, kind, meta, format!("not in effect: {}", fault.message));
    }
    report(kind, meta, vec![condition("Accepted", "Accepted", fault)], out);
}

/// No fault of the object, but nothing comes of it here.
fn sound(reason: &'static str, why: &str) -> Condition {
    Condition { kind: "Accepted", status: true, reason, message: why.to_owned() }
}

/// Sound, and for other edges.
pub(super) fn elsewhere(kind: Kind, meta: &Meta, out: &mut Reports) {
    report(kind, meta, vec![sound("OtherEdges", "its nodeSelectors do not match the labels of this edge")], out);
}
