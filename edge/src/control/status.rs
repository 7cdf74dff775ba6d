//! Status: what is wanted joined with what is observed, row by row, worst first.
//!
//! A [`Scene`] and the time flow in, rows flow out. Pure: the same scene and time give the same rows. Every row that is
//! not up has one line that says why, taken from the nearest cause: the condition of the object, the failed bind, the
//! missing certificate, the endpoints.

mod backends;
mod certificates;
mod listeners;
mod lookup;
mod routes;

use std::time::SystemTime;

use edge_config::names::Kind;
use edge_config::problem::Severity;
use edge_config::report::Condition;
use edge_config::snapshot::{Transport, Vip};

use super::observed::{CollectionState, SocketState, SourceState, VipState};
use super::span;
use super::view::{CollectionRow, Edge, Health, Problems, SourceRow, State, Status, VipRow};
use super::world::{Scene, World};

pub(super) use backends::backend_rows;
pub(super) use certificates::{certificate_row, certificate_rows};
pub(super) use listeners::certificate_covers as listener_covers;
pub(super) use lookup::{Lookup, certificates as certificates_of};
pub(super) use routes::{hostnames, is_route, parent_text};

/// Everything that `edgectl status` shows.
pub fn status(world: &World, now: SystemTime) -> Status {
    let scene = world.scene();
    let lookup = Lookup::new(scene);
    let backends = backend_rows(&lookup, now);
    let certificates = certificate_rows(&lookup, now);
    let mut status = Status {
        edge: edge(world, now),
        vips: vips(&lookup),
        listeners: listeners::listener_rows(&lookup, &certificates),
        routes: routes::route_rows(&lookup, &backends),
        certificates: certificates.into_values().collect(),
        backends,
        problems: problems(world),
    };
    status.vips.sort_by(|a, b| (&a.health.state, &a.owners, &a.address).cmp(&(&b.health.state, &b.owners, &b.address)));
    status.listeners.sort_by(|a, b| {
        (&a.health.state, &a.parent, a.port, &a.name).cmp(&(&b.health.state, &b.parent, b.port, &b.name))
    });
    status.certificates.sort_by(|a, b| (&a.health.state, &a.secret).cmp(&(&b.health.state, &b.secret)));
    status.routes.sort_by(|a, b| (&a.health.state, &a.route, &a.kind).cmp(&(&b.health.state, &b.route, &b.kind)));
    status.backends.sort_by(|a, b| (&a.health.state, &a.backend).cmp(&(&b.health.state, &b.backend)));
    status
}

fn edge(world: &World, now: SystemTime) -> Edge {
    let observed = &world.observed;
    let mut health = Health::up();
    if world.generation == 0 {
        health = health.and(Health::new(State::Pending, "starting: no generation is served yet"));
    } else if observed.acknowledged < observed.workers {
        let reason = format!(
            "{} of {} workers have not taken generation {} yet",
            observed.workers - observed.acknowledged,
            observed.workers,
            world.generation
        );
        health = health.and(Health::new(State::Pending, reason));
    }
    if let Some(drain) = observed.drain {
        health = health.and(Health::new(State::Degraded, format!("draining until {}", span::rfc3339(drain.until))));
    }
    let mut sources: Vec<SourceRow> = observed
        .sources
        .iter()
        .map(|source| SourceRow {
            health: match &source.error {
                Some(error) => Health::new(State::Degraded, format!("{error}; its last good version serves")),
                None => Health::up(),
            },
            name: source.name.clone(),
            last_good: source.last_good.map(span::rfc3339),
            collections: collections(source),
        })
        .collect();
    sources.sort_by(|a, b| (&a.health.state, &a.name).cmp(&(&b.health.state, &b.name)));
    if let Some(source) = sources.iter().find(|source| source.health.state != State::Up) {
        health = health.and(Health::new(State::Degraded, format!("source {}: {}", source.name, source.health.reason)));
    }
    if let Some(notice) = observed.notices.first() {
        health = health.and(Health::new(State::Degraded, notice.clone()));
    }
    Edge {
        health,
        name: world.edge.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        generation: world.generation,
        since: span::rfc3339(world.since),
        uptime_seconds: now.duration_since(world.started).unwrap_or_default().as_secs(),
        workers: observed.workers,
        acknowledged: observed.acknowledged,
        sources,
        notices: observed.notices.clone(),
    }
}

fn collections(source: &SourceState) -> Vec<CollectionRow> {
    let row = |collection: &CollectionState| CollectionRow {
        health: match &collection.notice {
            Some(notice) => Health::new(State::Degraded, notice.clone()),
            None => Health::up(),
        },
        name: collection.name.clone(),
        version: collection.version.clone(),
        objects: collection.objects,
        last_event: collection.last_event.map(span::rfc3339),
        lists: collection.lists,
        failures: collection.failures,
    };
    let mut rows: Vec<CollectionRow> = source.collections.iter().map(row).collect();
    rows.sort_by(|a, b| (&a.health.state, &a.name).cmp(&(&b.health.state, &b.name)));
    rows
}

fn problems(world: &World) -> Problems {
    let mut counts = Problems::default();
    for problem in world.findings() {
        *match problem.severity {
            Severity::Error => &mut counts.errors,
            Severity::Warning => &mut counts.warnings,
            Severity::Inert => &mut counts.inert,
        } += 1;
    }
    counts
}

fn vips(lookup: &Lookup<'_>) -> Vec<VipRow> {
    let Scene { snapshot, report, observed, .. } = lookup.scene;
    let mut rows = Vec::new();
    for vip in &snapshot.vips {
        let sockets: Vec<_> = snapshot.sockets.iter().filter(|socket| socket.address.ip() == vip.address).collect();
        let mut announced = None;
        let mut health = match observed.vips.get(&vip.address) {
            Some(VipState::Bound { announced: by }) => {
                announced.clone_from(by);
                Health::up()
            }
            Some(VipState::Withheld(reason)) => Health::new(State::Down, format!("not announced: {reason}")),
            Some(VipState::Failed(reason)) => Health::new(State::Down, format!("not on this machine: {reason}")),
            None => Health::new(State::Pending, "not bound yet"),
        };
        let failed: Vec<String> = sockets
            .iter()
            .filter_map(|socket| match observed.sockets.get(&(socket.address, socket.transport)) {
                Some(SocketState::Failed(error)) => {
                    Some(format!("{}: {error}", port_text(socket.address.port(), socket.transport)))
                }
                _ => None,
            })
            .collect();
        if let Some(first) = failed.first() {
            let state = if failed.len() == sockets.len() { State::Down } else { State::Degraded };
            health = health.and(Health::new(state, format!("cannot listen on {first}")));
        }
        if sockets.is_empty() {
            health = health.and(Health::new(State::Degraded, "nothing listens on it"));
        }
        rows.push(VipRow {
            health,
            address: Some(vip.address.to_string()),
            owners: vip.owners.iter().map(ToString::to_string).collect(),
            source: vip.source.clone(),
            announced,
            ports: sockets.iter().map(|socket| port_text(socket.address.port(), socket.transport)).collect(),
        });
    }
    for (object, found) in &report.objects {
        let wants_one = matches!(object.kind, Kind::Gateway | Kind::Service);
        if wants_one && !snapshot.vips.iter().any(|vip| vip.owners.contains(object)) {
            let reason = first_fault(&found.conditions).unwrap_or_else(|| "has no address".to_owned());
            rows.push(VipRow {
                health: Health::new(State::Down, reason),
                address: None,
                owners: vec![object.to_string()],
                source: String::new(),
                announced: None,
                ports: Vec::new(),
            });
        }
    }
    rows
}

/// Who has a VIP, as text.
pub(super) fn owners_text(vip: &Vip) -> String {
    vip.owners.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// `443/tcp`
pub(super) fn port_text(port: u16, transport: Transport) -> String {
    let transport = match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    };
    format!("{port}/{transport}")
}

/// What a condition says, whether that is good or bad.
pub(super) fn says(condition: &Condition) -> String {
    if condition.message.is_empty() { condition.reason.to_owned() } else { condition.message.clone() }
}

/// Gateway API: these conditions are bad when true, all others when false.
pub(super) fn is_fault(condition: &Condition) -> bool {
    match condition.kind {
        "Conflicted" | "PartiallyInvalid" => condition.status,
        "OverlappingTLSConfig" | "InsecureFrontendValidationMode" => false,
        _ => !condition.status,
    }
}

/// The first condition that speaks against the object, in the order in which they are checked.
pub(super) fn first_fault(conditions: &[Condition]) -> Option<String> {
    let order = ["Accepted", "Conflicted", "ResolvedRefs", "Allocated", "Programmed"];
    let known = order.iter().filter_map(|kind| conditions.iter().find(|condition| condition.kind == *kind));
    let others = conditions.iter().filter(|condition| !order.contains(&condition.kind));
    known.chain(others).find(|condition| is_fault(condition)).map(says)
}

#[cfg(test)]
mod tests;
