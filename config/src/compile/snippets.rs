//! NGINX Gateway Fabric's SnippetsFilter and SnippetsPolicy, which nothing here can carry out: their status says so. Rules
//! that name a filter answer 500 (`filters`); a policy is about whole Gateways, which serve without it.

use std::sync::Arc;

use super::context::{Context, condition};
use super::gateways::GatewayState;
use super::policies::{Status, ancestor, elsewhere, invalid, oldest_first};
use crate::names::{Kind, ObjectKey, ObjectRef};
use crate::problem::Severity;
use crate::report::ObjectReport;

pub(super) fn refuse(context: &Context<'_>, gateways: &[GatewayState<'_>], out: &mut Vec<(ObjectRef, ObjectReport)>) {
    let fault = invalid("snippets are text for NGINX's configuration, which cannot be carried out".to_owned());
    let controller: Arc<str> = context.inputs.settings.controller_names.first().map_or("", String::as_str).into();
    for (key, filter) in &context.inputs.snippets_filters {
        let object = ObjectRef::new(Kind::SnippetsFilter, key.clone());
        let report = ObjectReport {
            generation: filter.meta.generation,
            conditions: vec![condition("Accepted", "Accepted", Some(&fault))],
            controller: Some(Arc::clone(&controller)),
            ..ObjectReport::default()
        };
        out.push((object, report));
        context.problem(Severity::Warning, Kind::SnippetsFilter, &filter.meta, fault.message.clone());
    }
    for policy in oldest_first(&context.inputs.snippets_policies) {
        let mut status = Status::new(Kind::SnippetsPolicy, &policy.meta);
        for target in &policy.spec.target_refs {
            let key = ObjectKey::new(&*policy.meta.key.namespace, target.name.as_str());
            if let Some(gateway) = gateways.iter().find(|gateway| *gateway.key() == key) {
                status.add(context, ancestor(&key, None), &gateway.controller, Some(&fault));
            } else if !context.inputs.gateways.contains_key(&key) {
                status.not_found(context, target, Kind::Gateway, elsewhere(context, Kind::Gateway, &key.name));
            }
        }
        if status.parents.is_empty() {
            context.problem(Severity::Warning, Kind::SnippetsPolicy, &policy.meta, fault.message.clone());
        }
        status.finish(context, out);
    }
}
