//! One row per listener of every Gateway and ListenerSet of ours, and per port of every Service of ours.

use std::collections::BTreeMap;

use edge_config::names::{CertId, HostPattern, Kind, ObjectRef};
use edge_config::report::{Condition, ListenerReport, ObjectReport};
use edge_config::snapshot::{Listener, ListenerId};

use super::lookup::certificates;
use super::{Lookup, first_fault, is_fault, port_text, says};
use crate::control::observed::SocketState;
use crate::control::view::{CertificateRow, Health, ListenerRow, State};

pub fn listener_rows(lookup: &Lookup<'_>, rows: &BTreeMap<CertId, CertificateRow>) -> Vec<ListenerRow> {
    let parents = lookup.scene.report.objects.iter();
    let parents =
        parents.filter(|(object, _)| matches!(object.kind, Kind::Gateway | Kind::ListenerSet | Kind::Service));
    parents
        .flat_map(|(parent, report)| report.listeners.iter().map(move |listener| (parent, report, listener)))
        .map(|(parent, report, listener)| {
            let serving = lookup.listener(parent, &listener.name);
            let ids = serving.map(|(_, listener)| certificates(listener)).unwrap_or_default();
            ListenerRow {
                health: health(lookup, (parent, report, listener), serving, rows),
                parent: parent.to_string(),
                name: listener.name.to_string(),
                port: listener.port,
                protocol: listener.protocol.to_string(),
                hostname: listener.hostname.as_deref().filter(|host| !host.is_empty()).unwrap_or("*").to_owned(),
                attached_routes: listener.attached_routes,
                certificates: ids.iter().map(ToString::to_string).collect(),
            }
        })
        .collect()
}

fn health(
    lookup: &Lookup<'_>,
    (parent, object, listener): (&ObjectRef, &ObjectReport, &ListenerReport),
    serving: Option<(ListenerId, &Listener)>,
    rows: &BTreeMap<CertId, CertificateRow>,
) -> Health {
    let fault = first_fault(&listener.conditions);
    let Some((id, serving)) = serving else {
        let reason = fault.or_else(|| first_fault(&object.conditions));
        return Health::new(State::Down, reason.unwrap_or_else(|| "it is not served".to_owned()));
    };
    let named = |kind: &str| listener.conditions.iter().find(|condition| condition.kind == kind);
    let mut health = Health::up();
    for (kind, state) in [
        ("Accepted", State::Down),
        ("Conflicted", State::Down),
        ("Programmed", State::Degraded),
        ("ResolvedRefs", State::Degraded),
    ] {
        if let Some(condition) = named(kind).filter(|condition| is_fault(condition)) {
            health = health.and(Health::new(state, says(condition)));
        }
    }
    health = health.and(sockets(lookup, id, parent, object));
    for id in certificates(serving) {
        let Some(row) = rows.get(id) else { continue };
        if row.health.state != State::Up {
            // One bad certificate of several does not take the listener down.
            let state = if certificates(serving).len() > 1 { State::Degraded } else { row.health.state };
            health = health.and(Health::new(state, format!("certificate {id}: {}", row.health.reason)));
        }
    }
    if health.state == State::Up && !certificates(serving).is_empty() {
        let names: Vec<&str> = certificates(serving)
            .iter()
            .filter_map(|id| rows.get(id))
            .flat_map(|row| &row.names)
            .map(String::as_str)
            .collect();
        if let Some(missing) = uncovered(&serving.hostname, &names) {
            health = Health::new(State::Degraded, format!("no certificate of it covers {missing}"));
        }
    }
    if health.state == State::Up {
        health.reason = notes(listener, named("OverlappingTLSConfig"));
    }
    health
}

fn sockets(lookup: &Lookup<'_>, listener: ListenerId, parent: &ObjectRef, object: &ObjectReport) -> Health {
    let observed = lookup.scene.observed;
    if observed.offline {
        return Health::up();
    }
    let (mut all, mut failed, mut waiting) = (0, Vec::new(), 0);
    for socket in lookup.sockets(listener) {
        all += 1;
        match observed.sockets.get(&(socket.address, socket.transport)) {
            Some(SocketState::Bound) => {}
            Some(SocketState::Failed(error)) => {
                failed.push(format!(
                    "{} {}: {error}",
                    socket.address.ip(),
                    port_text(socket.address.port(), socket.transport)
                ));
            }
            None => waiting += 1,
        }
    }
    if all == 0 {
        let reason = first_fault(&object.conditions).unwrap_or_else(|| format!("{parent} has no address"));
        return Health::new(State::Down, reason);
    }
    if let Some(first) = failed.first() {
        let state = if failed.len() == all { State::Down } else { State::Degraded };
        return Health::new(state, format!("cannot listen on {first}"));
    }
    if waiting > 0 { Health::new(State::Pending, "its socket is not bound yet") } else { Health::up() }
}

/// The host of the listener when none of the names covers it. A listener for every host is covered by anything.
fn uncovered<'p>(hostname: &'p HostPattern, names: &[&str]) -> Option<&'p HostPattern> {
    if names.is_empty() {
        return None;
    }
    let covered = match hostname {
        HostPattern::Any => true,
        HostPattern::Exact(host) => names.iter().any(|name| certificate_covers(name, host.as_str())),
        HostPattern::Wildcard(suffix) => {
            // A certificate's wildcard stands for one label (RFC 6125 §6.4.3); single names below it are as good.
            names.iter().any(|name| name.strip_prefix("*.").is_some_and(|base| base == suffix.as_str()))
                || names.iter().any(|name| hostname.matches(name.trim_start_matches("*.")))
        }
    };
    (!covered).then_some(hostname)
}

/// RFC 6125 §6.4.3: a wildcard stands for exactly one, the leftmost, label.
pub fn certificate_covers(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(suffix) => host.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(suffix)),
        None => name.eq_ignore_ascii_case(host),
    }
}

fn notes(listener: &ListenerReport, overlapping: Option<&Condition>) -> String {
    match overlapping.filter(|condition| condition.status) {
        Some(condition) => says(condition),
        None if listener.attached_routes == 0 => "no route is attached".to_owned(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_certificates() {
        for (name, host, covers) in [
            ("a.example", "a.example", true),
            ("A.Example", "a.example", true),
            ("*.example", "a.example", true),
            ("*.example", "b.a.example", false),
            ("*.example", "example", false),
        ] {
            assert_eq!(certificate_covers(name, host), covers, "{name} {host}");
        }
        let pattern = |text: &str| HostPattern::parse(Some(text)).unwrap();
        assert!(uncovered(&pattern("*.example"), &["*.example"]).is_none());
        assert!(uncovered(&pattern("*.example"), &["a.example"]).is_none());
        assert!(uncovered(&pattern("*.example"), &["a.other"]).is_some());
        assert!(uncovered(&HostPattern::Any, &["a.other"]).is_none());
    }
}
