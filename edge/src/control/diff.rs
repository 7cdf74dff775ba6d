//! What a change does to effective routing: not which lines differ, but which requests go elsewhere.
//!
//! A compiled configuration flows into [`Effective`], a flat, serializable reading of it; two of these flow into a
//! [`Difference`]. Pure. An entry is one match at one host of one listener, so a rename or a moved file is no
//! difference, and a route that another one overshadows is none either.

use std::collections::BTreeMap;

use edge_config::names::{HostPattern, ObjectRef};
use edge_config::snapshot::{Action, Backend, Listener, ListenerServe, Rule, Snapshot, StreamRoute, Target};
use serde::{Deserialize, Serialize};

use super::explain::{describe, responses};
use super::status::{is_fault, owners_text, parent_text, says};
use super::world::Scene;

/// A configuration, read as what it does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effective {
    /// Addresses by `ns/name` of their Gateway: to be kept by a configuration that is compared with a running one.
    pub assigned: BTreeMap<String, Vec<std::net::IpAddr>>,
    /// `Gateway ns/name ADDRESS`
    pub vips: BTreeMap<String, String>,
    /// `ns/gateway/listener` to port, protocol and hostname.
    pub listeners: BTreeMap<String, String>,
    /// `https://host PathPrefix /x [ns/gateway/listener]` to what happens there.
    pub routes: BTreeMap<String, Destination>,
    /// `HTTPRoute ns/name, parent ns/gateway: ResolvedRefs` to what is wrong.
    pub faults: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// `HTTPRoute ns/name rule 0`
    pub rule: String,
    /// `Service ns/name:80`, several with their weights, a redirect or a refusal.
    pub to: String,
    /// Filters, timeouts and the like.
    pub applies: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    Removed,
    Changed,
    Added,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub change: Change,
    pub what: String,
    /// `from → to`, one line per aspect; the value itself for what was added or removed.
    pub details: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    pub vips: Vec<Entry>,
    pub listeners: Vec<Entry>,
    pub routes: Vec<Entry>,
    /// Added is a fault that is new, removed one that is gone.
    pub faults: Vec<Entry>,
}

impl Difference {
    pub fn is_empty(&self) -> bool {
        self.vips.is_empty() && self.listeners.is_empty() && self.routes.is_empty() && self.faults.is_empty()
    }

    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.vips.iter().chain(&self.listeners).chain(&self.routes).chain(&self.faults)
    }
}

pub fn difference(before: &Effective, after: &Effective) -> Difference {
    let text = |value: &String| vec![value.clone()];
    let moved = |old: &String, new: &String| vec![format!("{old} → {new}")];
    Difference {
        vips: compare(&before.vips, &after.vips, text, moved),
        listeners: compare(&before.listeners, &after.listeners, text, moved),
        routes: compare(&before.routes, &after.routes, |value| vec![value.to.clone()], aspects),
        faults: compare(&before.faults, &after.faults, text, moved),
    }
}

fn compare<T: PartialEq>(
    before: &BTreeMap<String, T>,
    after: &BTreeMap<String, T>,
    whole: impl Fn(&T) -> Vec<String>,
    aspects: impl Fn(&T, &T) -> Vec<String>,
) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (what, old) in before {
        let (change, details) = match after.get(what) {
            None => (Change::Removed, whole(old)),
            Some(new) if new == old => continue,
            Some(new) => (Change::Changed, aspects(old, new)),
        };
        // A rule that only moved within its route or to another route does the same as before.
        if change == Change::Removed || !details.is_empty() {
            entries.push(Entry { change, what: what.clone(), details });
        }
    }
    for (what, new) in after.iter().filter(|(what, _)| !before.contains_key(*what)) {
        entries.push(Entry { change: Change::Added, what: what.clone(), details: whole(new) });
    }
    entries.sort_by(|a, b| (a.change, &a.what).cmp(&(b.change, &b.what)));
    entries
}

fn aspects(old: &Destination, new: &Destination) -> Vec<String> {
    let mut lines = Vec::new();
    if old.to != new.to {
        lines.push(format!("{} → {}", old.to, new.to));
    }
    lines
        .extend(old.applies.iter().filter(|line| !new.applies.contains(line)).map(|line| format!("no longer: {line}")));
    lines.extend(new.applies.iter().filter(|line| !old.applies.contains(line)).map(|line| format!("now: {line}")));
    lines
}

impl Effective {
    pub fn of(scene: Scene<'_>, assigned: &BTreeMap<ObjectRef, Vec<std::net::IpAddr>>) -> Self {
        let snapshot = scene.snapshot;
        let mut effective = Self {
            assigned: assigned.iter().map(|(key, addresses)| (key.to_string(), addresses.clone())).collect(),
            vips: snapshot
                .vips
                .iter()
                .map(|vip| (format!("{} {}", owners_text(vip), vip.address), vip.source.clone()))
                .collect(),
            ..Self::default()
        };
        for listener in &snapshot.listeners {
            effective.listener(snapshot, listener);
        }
        effective.conditions(scene);
        effective
    }

    fn listener(&mut self, snapshot: &Snapshot, listener: &Listener) {
        let name = format!("{}/{}", listener.parent.key, listener.name);
        let (scheme, table) = match &listener.serve {
            ListenerServe::Http { routes } => ("http", Some(routes)),
            ListenerServe::Https { routes, .. } => ("https", Some(routes)),
            ListenerServe::TlsTerminate { .. } => ("tls", None),
            ListenerServe::TlsPassthrough { .. } => ("tls passthrough", None),
            ListenerServe::Tcp { .. } => ("tcp", None),
            ListenerServe::Udp { .. } => ("udp", None),
        };
        self.listeners.insert(name.clone(), format!("{scheme} port {}, host {}", listener.port, listener.hostname));
        let port = match (scheme, listener.port) {
            ("http", 80) | ("https", 443) => String::new(),
            (_, port) => format!(":{port}"),
        };
        for (host, matches) in table.into_iter().flat_map(|table| table.iter()) {
            for entry in matches {
                let what = format!("{scheme}://{host}{port} {} [{name}]", describe::conditions(entry));
                let Some(rule) = snapshot.rules.get(entry.rule.index()) else { continue };
                // They come in the order of precedence: an equal match that follows takes no request.
                self.routes.entry(what).or_insert_with(|| destination(rule));
            }
        }
        let mut stream = |host: &str, route: &StreamRoute| {
            let to = backends(&route.backends);
            let value = Destination { rule: route.route.to_string(), to, applies: Vec::new() };
            self.routes.insert(format!("{}://{host}{port} [{name}]", scheme.replace(' ', "-")), value);
        };
        match &listener.serve {
            ListenerServe::TlsTerminate { routes, .. } | ListenerServe::TlsPassthrough { routes } => {
                routes.iter().for_each(|(host, route)| stream(&host, route));
            }
            ListenerServe::Tcp { route: Some(route) } | ListenerServe::Udp { route: Some(route) } => {
                stream(&HostPattern::Any.to_string(), route);
            }
            _ => {}
        }
    }

    fn conditions(&mut self, scene: Scene<'_>) {
        for (object, report) in &scene.report.objects {
            let mut add = |place: String, conditions: &[edge_config::report::Condition]| {
                for condition in conditions.iter().filter(|condition| is_fault(condition)) {
                    self.faults.insert(format!("{object}{place}: {}", condition.kind), says(condition));
                }
            };
            add(String::new(), &report.conditions);
            for listener in &report.listeners {
                add(format!(", listener {}", listener.name), &listener.conditions);
            }
            for parent in &report.parents {
                add(format!(", parent {}", parent_text(&parent.parent, object)), &parent.conditions);
            }
        }
    }
}

fn destination(rule: &Rule) -> Destination {
    let to = match &rule.action {
        Action::Redirect(redirect) => describe::redirect(redirect),
        Action::Refuse { status, reason } => format!("{status}: {reason}"),
        Action::Respond(answer) => format!("answer {}", responses::fixed(answer)),
        Action::Forward(list) => backends(list),
    };
    let mut applies = describe::rule(rule);
    applies.extend(rule.policy.iter().filter_map(|policy| policy.responses.as_deref()).flat_map(responses::policy));
    if let Action::Forward(list) = &rule.action {
        for backend in list {
            applies.extend(
                describe::filters(&backend.filters).into_iter().map(|line| format!("to {}: {line}", backend.reference)),
            );
        }
    }
    Destination { rule: format!("{} rule {}", rule.route, rule.index), to, applies }
}

fn backends(list: &[Backend]) -> String {
    let several = list.len() > 1;
    let one = |backend: &Backend| {
        let invalid = match &backend.target {
            Target::Upstream(_) => String::new(),
            Target::Invalid { status, .. } => format!(" (refused with {status})"),
        };
        let weight = if several { format!(" weight {}", backend.weight) } else { String::new() };
        format!("{}{weight}{invalid}", backend.reference)
    };
    if list.is_empty() { "nothing".to_owned() } else { list.iter().map(one).collect::<Vec<_>>().join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effective(routes: &[(&str, &str, &[&str])]) -> Effective {
        let routes = routes.iter().map(|(what, to, applies)| {
            let applies = applies.iter().map(|&line| line.to_owned()).collect();
            ((*what).to_owned(), Destination { rule: format!("rule of {what}"), to: (*to).to_owned(), applies })
        });
        Effective { routes: routes.collect(), ..Effective::default() }
    }

    #[test]
    fn what_differs() {
        let before = effective(&[("a", "x", &[]), ("b", "x", &["timeout request 5s"]), ("c", "x", &[])]);
        let after = effective(&[("b", "y", &["timeout request 9s"]), ("c", "x", &[]), ("d", "z", &[])]);
        let found = difference(&before, &after);
        let lines: Vec<String> =
            found.routes.iter().map(|entry| format!("{:?} {} {:?}", entry.change, entry.what, entry.details)).collect();
        assert_eq!(
            lines,
            [
                "Removed a [\"x\"]",
                "Changed b [\"x → y\", \"no longer: timeout request 5s\", \"now: timeout request 9s\"]",
                "Added d [\"z\"]",
            ]
        );
        assert!(difference(&before, &before).is_empty());
    }

    #[test]
    fn a_rule_that_only_moved_is_no_difference() {
        let before = effective(&[("a", "x", &[])]);
        let mut after = before.clone();
        after.routes.get_mut("a").unwrap().rule = "another".into();
        assert!(difference(&before, &after).is_empty());
    }
}
