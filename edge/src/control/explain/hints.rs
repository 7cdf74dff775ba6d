//! What might have been meant, and which objects name the host without serving it.

use std::collections::BTreeSet;

use edge_config::names::{HostPattern, Kind as ObjectKind, ObjectRef};
use edge_config::snapshot::{Port, PortServe, ProxyPresence};

use super::walk::Context;
use super::{Answer, Walk};
use crate::control::status::{first_fault, hostnames, is_route, listener_covers};

/// More would not help.
const MOST: usize = 6;

/// Adds the objects that the hints are about to `concerned`.
pub fn hints(context: &Context<'_>, walks: &[Walk], answer: &Answer, concerned: &mut Vec<ObjectRef>) -> Vec<String> {
    let mut hints = Vec::new();
    if walks.len() > 1 {
        hints.push(format!("{} Gateways or Services have this port: ask for one with --vip ADDRESS", walks.len()));
    }
    proxied(context, walks, &mut hints);
    certificates(context, walks, &mut hints);
    if !answer.is_good() {
        unserved(context, &mut hints, concerned);
        if walks.iter().all(|walk| walk.candidates.is_empty()) {
            ports(context, &mut hints);
            similar(context, &mut hints);
        } else {
            trailing_slash(walks, context, &mut hints);
        }
    }
    hints.truncate(MOST);
    hints
}

/// Who must have sent the connection.
fn proxied(context: &Context<'_>, walks: &[Walk], hints: &mut Vec<String>) {
    let is_asked = |port: &&Port| {
        port.number == context.asked.port && walks.iter().any(|walk| walk.owner == port.owner.to_string())
    };
    for port in context.lookup.scene.snapshot.ports.iter().filter(is_asked) {
        let Some(rule) = &port.proxy_protocol else { continue };
        let what = match rule.presence {
            ProxyPresence::Required => "takes connections with a PROXY protocol header only",
            ProxyPresence::Optional => "takes connections with a PROXY protocol header as well",
        };
        let from: Vec<String> = rule.from.iter().map(ToString::to_string).collect();
        let from = if from.is_empty() { "nobody: proxy_protocol_from is empty".to_owned() } else { from.join(", ") };
        hints.push(format!("port {} {what}, trusted from {from}", port.number));
    }
}

fn certificates(context: &Context<'_>, walks: &[Walk], hints: &mut Vec<String>) {
    let Some(name) = &context.asked.server_name else { return };
    for walk in walks {
        let known: Vec<_> = walk.certificates.iter().filter(|row| !row.names.is_empty()).collect();
        if !known.is_empty() && !known.iter().any(|row| row.names.iter().any(|covered| listener_covers(covered, name)))
        {
            hints.push(format!("no certificate of the listener covers {name}: clients that verify it will refuse"));
        }
    }
}

/// Routes that name the host but are not accepted by any parent.
fn unserved(context: &Context<'_>, hints: &mut Vec<String>, concerned: &mut Vec<ObjectRef>) {
    let scene = context.lookup.scene;
    for (route, report) in scene.report.objects.iter().filter(|(object, _)| is_route(object.kind)) {
        let names = hostnames(scene.inputs, route);
        let named = names.iter().any(|name| name != "*" && covers(name, &context.asked.host));
        if !named {
            continue;
        }
        for parent in &report.parents {
            let refused = parent.conditions.iter().find(|condition| condition.kind == "Accepted" && !condition.status);
            if let Some(condition) = refused {
                let reason = first_fault(std::slice::from_ref(condition)).unwrap_or_default();
                hints.push(format!("{route} names {} but is not accepted: {reason}", context.asked.host));
                concerned.push(route.clone());
            }
        }
    }
    for (object, reason) in scene.inputs.unusable.iter().filter(|(object, _)| is_route(object.kind)).take(MOST) {
        hints.push(format!("{object} cannot be used: {reason}"));
    }
    // Routes whose parents are not ours have no report at all.
    let strangers = scene.inputs.http_routes.iter().filter(|(key, route)| {
        !scene.report.objects.contains_key(&ObjectRef::new(ObjectKind::HTTPRoute, (*key).clone()))
            && route.spec.hostnames.iter().any(|name| covers(name, &context.asked.host))
    });
    for (key, _) in strangers.take(MOST) {
        hints
            .push(format!("HTTPRoute {key} names {} but none of its parents is a Gateway of Edge", context.asked.host));
    }
}

/// Listeners for the host on other ports.
fn ports(context: &Context<'_>, hints: &mut Vec<String>) {
    let asked = context.asked;
    let mut seen = BTreeSet::new();
    for port in &context.lookup.scene.snapshot.ports {
        let (scheme, found) = match &port.serve {
            PortServe::Http { hosts } => ("http", hosts.best(&asked.host).is_some()),
            PortServe::Tls { names } => ("https", names.best(&asked.host).is_some()),
            PortServe::Tcp { .. } | PortServe::Udp { .. } => continue,
        };
        let same = port.number == asked.port && scheme == asked.protocol;
        if found && !same && seen.insert((port.number, scheme)) {
            let well_known = matches!((scheme, port.number), ("http", 80) | ("https", 443));
            let port_text = if well_known { String::new() } else { format!(":{}", port.number) };
            hints.push(format!("{} has a listener for this host at {scheme}://{}{port_text}/", port.owner, asked.host));
        }
    }
}

/// Hosts that look like the one asked for.
fn similar(context: &Context<'_>, hints: &mut Vec<String>) {
    let scene = context.lookup.scene;
    let host = context.asked.host.as_str();
    let mut known: BTreeSet<String> = BTreeSet::new();
    for (route, _) in scene.report.objects.iter().filter(|(object, _)| is_route(object.kind)) {
        known.extend(hostnames(scene.inputs, route));
    }
    for report in scene.report.objects.values() {
        known.extend(report.listeners.iter().filter_map(|listener| listener.hostname.as_deref().map(str::to_owned)));
    }
    let mut near: Vec<(usize, &str)> = known
        .iter()
        .filter(|name| *name != "*" && !covers(name, host))
        .filter_map(|name| closeness(host, name).map(|distance| (distance, name.as_str())))
        .collect();
    near.sort_unstable();
    let best = near.first().map_or(0, |(distance, _)| *distance);
    near.retain(|(distance, _)| *distance <= best + 1);
    for (_, name) in near.into_iter().take(3) {
        let note = match name.strip_prefix("*.") {
            Some(suffix) if suffix == host => " (which needs a label before it)",
            _ => "",
        };
        hints.push(format!("did you mean {name}{note}?"));
    }
}

/// An Exact match that only a slash separates from the path, the commonest of near misses.
fn trailing_slash(walks: &[Walk], context: &Context<'_>, hints: &mut Vec<String>) {
    let path = context.asked.path.trim_end_matches('/');
    for candidate in walks.iter().flat_map(|walk| &walk.candidates) {
        let exact = candidate.matches.strip_prefix("Exact ").and_then(|rest| rest.split(',').next());
        if exact.is_some_and(|exact| exact != context.asked.path && exact.trim_end_matches('/') == path) {
            hints.push(format!(
                "{} rule {} matches exactly {}: only the slash differs",
                candidate.route,
                candidate.rule,
                exact.unwrap_or_default()
            ));
        }
    }
}

fn covers(pattern: &str, host: &str) -> bool {
    HostPattern::parse(Some(pattern).filter(|text| *text != "*")).is_ok_and(|pattern| pattern.matches(host))
}

/// Smaller is closer; `None` is no resemblance. The same first label under another domain is a likely slip, such as a
/// domain that was not substituted.
fn closeness(host: &str, name: &str) -> Option<usize> {
    if name.strip_prefix("*.") == Some(host) {
        return Some(0);
    }
    let distance = edit_distance(host, name.trim_start_matches("*."));
    let near = distance <= 2 || (distance <= 4 && host.len() > 20);
    let same_label =
        host.split('.').next().is_some_and(|label| label.len() > 2 && name.split('.').next() == Some(label));
    match (near, same_label) {
        (true, _) => Some(distance),
        (false, true) => Some(10 + distance),
        _ => None,
    }
}

/// Levenshtein's, over bytes: hosts are ASCII and at most 253 long.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resemblance() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        for (host, name, near) in [
            ("keystnoe.example.com", "keystone.example.com", true),
            ("keystone.example.com", "keystone.your.domain.tld", true),
            ("example.com", "*.example.com", true),
            ("nova.example.com", "swift.elsewhere.org", false),
        ] {
            assert_eq!(closeness(host, name).is_some(), near, "{host} {name}");
        }
    }
}
