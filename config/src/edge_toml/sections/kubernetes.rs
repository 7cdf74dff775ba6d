//! `[kubernetes]`: where the API server is and what is read from it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Section, Sink, label, namespace, not_empty, path, selector, set};
use crate::names::{Kind, ObjectKey};
use crate::settings::{Credentials, KubernetesSettings, SecretScope};
use crate::validate::{is_label, is_object_name};
use crate::yaml::Quoted;

/// Each namespace costs a watch per kind.
const MAX_NAMESPACES: usize = 64;
const SYNC_TIMEOUT_LEAST: Duration = Duration::from_secs(1);
const SYNC_TIMEOUT_MOST: Duration = Duration::from_secs(600);

pub(super) fn kubernetes(mut section: Section<'_>, sink: &mut Sink<'_>) -> Option<KubernetesSettings> {
    let mut settings = KubernetesSettings::default();
    let is_enabled = section.boolean(sink, "enabled").unwrap_or(true);
    let has_file = section.has("kubeconfig");
    let file = section.parsed(sink, "kubeconfig", path);
    let start = section.value_start("context");
    let context = section.parsed(sink, "context", not_empty);
    if context.is_some() && !has_file {
        let message = format!("{} needs a file that has contexts", section.path("context"));
        sink.error(start..start, format!("{message}, expected {}", section.path("kubeconfig")));
    }
    if let Some(path) = file {
        settings.credentials = Credentials::Kubeconfig { path, context };
    }
    let start = section.value_start("namespaces");
    if let Some(namespaces) = section.list(sink, "namespaces", namespace) {
        if namespaces.is_empty() || namespaces.len() > MAX_NAMESPACES {
            let message = format!("{} has {} items", section.path("namespaces"), namespaces.len());
            sink.error(start..start, format!("{message}, expected 1 to {MAX_NAMESPACES}, or none of it for all"));
        }
        settings.namespaces = namespaces.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    }
    settings.gateway_selector =
        section.parsed(sink, "gateway_selector", |text| selector::parse(text).map(|_| text.to_owned()));
    let scopes = [("all", SecretScope::All), ("referenced", SecretScope::Referenced)];
    set(&mut settings.secrets, section.word(sink, "secrets", &scopes));
    let start = section.value_start("sync_timeout");
    let timeout = section.duration(sink, "sync_timeout");
    if timeout.is_some_and(|timeout| !(SYNC_TIMEOUT_LEAST..=SYNC_TIMEOUT_MOST).contains(&timeout)) {
        sink.error(start..start, format!("{} is out of range, expected 1s to 10m", section.path("sync_timeout")));
    }
    set(&mut settings.sync_timeout, timeout);
    set(&mut settings.write_status, section.boolean(sink, "write_status"));
    set(&mut settings.group, section.parsed(sink, "group", label));
    settings.edge_name = section.parsed(sink, "edge_name", label);
    set(&mut settings.lease_namespace, section.parsed(sink, "lease_namespace", namespace));
    set(&mut settings.gateway_services, section.boolean(sink, "gateway_services"));
    set(&mut settings.cert_manager_lease, section.parsed(sink, "cert_manager_lease", lease));
    section.finish(sink);
    is_enabled.then_some(settings)
}

fn lease(text: &str) -> Result<ObjectKey, String> {
    match text.split_once('/') {
        // Leases have the names that Secrets may have.
        Some((namespace, name)) if is_label(namespace) && is_object_name(Kind::Secret, name) => {
            Ok(ObjectKey::new(namespace, name))
        }
        _ => Err(format!("{} is no Lease, expected \"namespace/name\"", Quoted(text))),
    }
}
