//! `[kubernetes]`: where the API server is and what is read from it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Section, Sink, namespace, path, set};
use crate::settings::{Credentials, KubernetesSettings, SecretScope};
use crate::validate::{self, is_label_text, is_qualified_name};
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
    let context = section
        .parsed(sink, "context", |text| if text.is_empty() { Err("is empty".to_owned()) } else { Ok(text.to_owned()) });
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
    settings.gateway_selector = section.parsed(sink, "gateway_selector", |text| {
        label_selector(text).map_err(|why| format!("{} is no label selector: {why}", Quoted(text)))?;
        Ok(text.to_owned())
    });
    let scopes = [("all", SecretScope::All), ("referenced", SecretScope::Referenced)];
    set(&mut settings.secrets, section.word(sink, "secrets", &scopes));
    let start = section.value_start("sync_timeout");
    let timeout = section.duration(sink, "sync_timeout");
    if timeout.is_some_and(|timeout| !(SYNC_TIMEOUT_LEAST..=SYNC_TIMEOUT_MOST).contains(&timeout)) {
        sink.error(start..start, format!("{} is out of range, expected 1s to 10m", section.path("sync_timeout")));
    }
    set(&mut settings.sync_timeout, timeout);
    set(&mut settings.write_status, section.boolean(sink, "write_status"));
    set(&mut settings.group, section.parsed(sink, "group", group));
    set(&mut settings.lease_namespace, section.parsed(sink, "lease_namespace", namespace));
    set(&mut settings.gateway_services, section.boolean(sink, "gateway_services"));
    section.finish(sink);
    is_enabled.then_some(settings)
}

/// Names of Leases begin with it.
fn group(text: &str) -> Result<String, String> {
    if validate::is_label(text) { Ok(text.to_owned()) } else { Err(format!("{} is no DNS label", Quoted(text))) }
}

/// Checks a selector as `kubectl -l` takes it: `key`, `!key`, `key=value`, `key==value`, `key!=value`,
/// `key in (a, b)`, `key notin (a, b)`, joined by commas.
fn label_selector(text: &str) -> Result<(), String> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err("it is empty".to_owned());
    }
    loop {
        rest = requirement(rest)?.trim_start();
        match rest.strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None if rest.is_empty() => return Ok(()),
            None => return Err(format!("expected a comma before {}", Quoted(rest))),
        }
    }
}

/// Checks the first requirement and returns what follows it.
fn requirement(text: &str) -> Result<&str, String> {
    let (is_negated, text) = match text.strip_prefix('!') {
        Some(text) => (true, text.trim_start()),
        None => (false, text),
    };
    let (key, rest) = word(text);
    if !is_qualified_name(key) {
        return Err(format!("{} is no label name", Quoted(key)));
    }
    let rest = rest.trim_start();
    if is_negated || rest.is_empty() || rest.starts_with(',') {
        return Ok(rest);
    }
    for operator in ["==", "!=", "="] {
        if let Some(rest) = rest.strip_prefix(operator) {
            let (value, rest) = word(rest.trim_start());
            return label_value(value).map(|()| rest);
        }
    }
    let set = rest.strip_prefix("notin").or_else(|| rest.strip_prefix("in")).map(str::trim_start);
    let Some(set) = set.and_then(|set| set.strip_prefix('(')) else {
        return Err(format!("{} has no operator, expected =, ==, !=, in (…) or notin (…)", Quoted(key)));
    };
    let Some((values, rest)) = set.split_once(')') else { return Err("a parenthesis is not closed".to_owned()) };
    values.split(',').try_for_each(|value| label_value(value.trim()))?;
    Ok(rest)
}

fn label_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_label_text(value) { Ok(()) } else { Err(format!("{} is no label value", Quoted(value))) }
}

fn word(text: &str) -> (&str, &str) {
    let is_part = |character: char| character.is_ascii_alphanumeric() || "-_./".contains(character);
    text.split_at(text.find(|character: char| !is_part(character)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn selectors() {
        for text in [
            "shard",
            "!shard",
            "shard=a",
            "shard == a",
            "shard!=",
            "edge.internal/shard in (a, b),!draft",
            "tier notin (x),a=b",
        ] {
            assert_eq!(super::label_selector(text), Ok(()), "{text}");
        }
        for text in ["", ",", "a=b,", "a b", "a in b", "a in (b", "a=(b)", "-a", "a>1", "a/b/c=d", "a=b c"] {
            assert!(super::label_selector(text).is_err(), "{text}");
        }
    }
}
