//! Pools as `[[pool]]`.

use super::Model;
use crate::gateway::{LabelOperator, LabelSelector};
use crate::migrate::toml::Toml;
use crate::migrate::{NoteKind, Notes};
use crate::settings::AddressRange;

pub(super) fn write(model: &Model, toml: &mut Toml, notes: &mut Notes) {
    for (index, pool) in model.pools.iter().enumerate() {
        let entry = &pool.entry;
        let mut is_sound = !entry.spec.addresses.is_empty();
        if !is_sound {
            notes.add(NoteKind::Fault, Some(&entry.origin), &entry.subject, "spec.addresses is empty");
        }
        for range in &entry.spec.addresses {
            if let Err(error) = AddressRange::parse(range) {
                is_sound = false;
                let message = format!("spec.addresses: {range:?} is {error}");
                notes.add(NoteKind::Fault, Some(entry.at("spec.addresses")), &entry.subject, message);
            }
        }
        if model.pools[..index].iter().any(|earlier| earlier.entry.name == entry.name) {
            is_sound = false;
            notes.add(NoteKind::Fault, Some(&entry.origin), &entry.subject, "an earlier pool has this name");
        }
        if !is_sound {
            continue;
        }
        toml.begin("[[pool]]");
        toml.text("name", &entry.name);
        toml.texts("addresses", &entry.spec.addresses);
        if !entry.spec.auto_assign {
            toml.raw("auto_assign", false);
        }
        if entry.spec.avoid_buggy_ips {
            toml.raw("avoid_buggy_ips", true);
        }
        let Some(allocation) = &entry.spec.service_allocation else { continue };
        // Also where it is 0: that the pool is for somebody is what counts.
        toml.raw("priority", allocation.priority);
        if !allocation.namespaces.is_empty() {
            toml.texts("namespaces", &allocation.namespaces);
        }
        for (key, selectors) in [
            ("namespace_selectors", &allocation.namespace_selectors),
            ("service_selectors", &allocation.service_selectors),
        ] {
            let texts: Vec<String> = selectors.iter().map(selector).filter(|text| !text.is_empty()).collect();
            if texts.len() < selectors.len() {
                let message = format!("serviceAllocation: a selector without requirements is left out of {key}");
                notes.add(NoteKind::NoEquivalent, Some(&entry.origin), &entry.subject, message);
            }
            if !texts.is_empty() {
                toml.texts(key, &texts);
            }
        }
    }
}

/// As `kubectl -l` takes it.
fn selector(selector: &LabelSelector) -> String {
    let labels = selector.match_labels.iter().map(|(key, value)| format!("{key}={value}"));
    let expressions = selector.match_expressions.iter().map(|requirement| {
        let key = &requirement.key;
        let values = requirement.values.join(", ");
        match &requirement.operator {
            LabelOperator::In => format!("{key} in ({values})"),
            LabelOperator::NotIn => format!("{key} notin ({values})"),
            LabelOperator::Exists => key.clone(),
            LabelOperator::DoesNotExist => format!("!{key}"),
            // Selects nothing in a cluster either.
            LabelOperator::Other(_) => format!("{key},!{key}"),
        }
    });
    labels.chain(expressions).collect::<Vec<_>>().join(",")
}
