//! `[edge]` and `[vips]`: who this edge is, and what becomes of its addresses.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Section, Sink, interface, label, set};
use crate::settings::{BindVips, EdgeSettings, RequireEndpoints, Settings, VipSettings};
use crate::validate::{is_label_text, is_qualified_name};
use crate::yaml::Quoted;

const HOLD_DOWN_MOST: Duration = Duration::from_secs(3600);

pub(super) fn edge(mut section: Section<'_>, sink: &mut Sink<'_>) -> EdgeSettings {
    let name = section.parsed(sink, "name", label);
    let start = section.value_start("labels");
    let labels: BTreeMap<String, String> = section.texts(sink, "labels");
    for (key, value) in &labels {
        let fault = match (is_qualified_name(key), is_label_text(value)) {
            (false, _) => format!("{} is no label name", Quoted(key)),
            (_, false) => format!("{key}: {} is no label value", Quoted(value)),
            (true, true) => continue,
        };
        sink.error(start..start, format!("{}: {fault}", section.path("labels")));
    }
    section.finish(sink);
    EdgeSettings { name, labels }
}

/// `[kubernetes] edge_name` is another place for the name; both are one.
pub(super) fn one_name(settings: &mut Settings, start: usize, sink: &mut Sink<'_>) {
    let Some(kubernetes) = &mut settings.kubernetes else { return };
    match (&settings.edge.name, &kubernetes.edge_name) {
        (Some(name), Some(other)) if name != other => {
            let message = format!("kubernetes.edge_name: {other:?} is not edge.name, {name:?}; one of them is enough");
            sink.error(start..start, message);
        }
        (None, Some(name)) => settings.edge.name = Some(name.clone()),
        (name, _) => kubernetes.edge_name.clone_from(name),
    }
}

pub(super) fn vips(mut section: Section<'_>, vips: &mut VipSettings, sink: &mut Sink<'_>) {
    set(&mut vips.bind, section.word(sink, "bind", &[("auto", BindVips::Auto), ("never", BindVips::Never)]));
    set(&mut vips.interface, section.parsed(sink, "interface", interface));
    set(&mut vips.hold_down, section.duration_in(sink, "hold_down", Duration::ZERO, HOLD_DOWN_MOST));
    let words =
        [("services", RequireEndpoints::Services), ("all", RequireEndpoints::All), ("none", RequireEndpoints::None)];
    set(&mut vips.require_endpoints, section.word(sink, "require_endpoints", &words));
    section.finish(sink);
}
