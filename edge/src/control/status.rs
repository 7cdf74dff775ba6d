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

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::SystemTime;

use edge_config::names::Kind;
use edge_config::problem::Severity;
use edge_config::report::Condition;
use edge_config::snapshot::{Transport, Vip};

use super::observed::{CollectionState, SocketState, SourceState, VipState};
use super::span;
use super::view::{
    BackendRow, CollectionRow, Edge, EdgeRow, FleetView, Health, Problems, SessionRow, SourceRow, State, Status, VipRow,
};
use super::why::{self, ElectionRow};
use super::world::{Scene, World};

pub(super) use backends::backend_rows;
pub(super) use certificates::{certificate_row, certificate_rows};
pub(super) use listeners::certificate_covers as listener_covers;
pub(super) use lookup::{Lookup, certificates as certificates_of, port_listeners, streams as streams_of};
pub(super) use routes::{forwarded, hostnames, is_route, parent_text, rule_health, rule_text, target_health};

/// Everything that `edgectl status` shows.
pub fn status(world: &World, now: SystemTime) -> Status {
    let scene = world.scene();
    let lookup = Lookup::new(scene);
    let backends: Vec<BackendRow> = backend_rows(&lookup, now).collect();
    let certificates = certificate_rows(&lookup, now);
    let mut status = Status {
        edge: edge(world, now),
        vips: vips(&lookup),
        listeners: listeners::listener_rows(&lookup, &certificates),
        routes: routes::route_rows(&lookup, &backends),
        certificates: certificates.into_values().collect(),
        backends,
        peers: peers(world),
        routers: routers(world),
        fleet: fleet(world),
        problems: problems(world),
    };
    status.peers.sort_by(|a, b| (&a.health.state, &a.peer).cmp(&(&b.health.state, &b.peer)));
    status.vips.sort_by(by_state);
    status.listeners.sort_by(|a, b| {
        (&a.health.state, &a.parent, a.port, &a.name).cmp(&(&b.health.state, &b.parent, b.port, &b.name))
    });
    status.certificates.sort_by(|a, b| (&a.health.state, &a.secret).cmp(&(&b.health.state, &b.secret)));
    status.routes.sort_by(|a, b| (&a.health.state, &a.route, &a.kind).cmp(&(&b.health.state, &b.route, &b.kind)));
    status.backends.sort_by(|a, b| (&a.health.state, &a.backend).cmp(&(&b.health.state, &b.backend)));
    status
}

/// What [`status`] lists, counted by state, for who wants no more than the numbers: they are asked for every few seconds.
pub struct Tally {
    pub edge: Edge,
    pub problems: Problems,
    /// Worst first, as there.
    pub vips: Vec<VipRow>,
    pub peers: Vec<SessionRow>,
    /// What kind of thing, and how many in each of [`State::ALL`].
    pub counts: [(&'static str, [usize; State::ALL.len()]); 6],
}

pub fn tally(world: &World, now: SystemTime) -> Tally {
    let lookup = Lookup::new(world.scene());
    let bare = |mut row: BackendRow| {
        // Its health follows from them; nobody looks at them here.
        row.endpoints = Vec::new();
        if row.health.state == State::Up {
            // Its name is part of what is told of routes that it keeps from serving.
            (row.backend, row.protocol) = (String::new(), String::new());
        }
        row
    };
    let backends: Vec<BackendRow> = backend_rows(&lookup, now).map(bare).collect();
    let certificates = certificate_rows(&lookup, now);
    let (mut vips, mut peers) = (vips(&lookup), peers(world));
    vips.sort_by(by_state);
    peers.sort_by(|a, b| (&a.health.state, &a.peer).cmp(&(&b.health.state, &b.peer)));
    let listeners = listeners::listener_rows(&lookup, &certificates);
    let counts = [
        ("vip", count(vips.iter().map(|row| row.health.state))),
        ("listener", count(listeners.iter().map(|row| row.health.state))),
        ("certificate", count(certificates.values().map(|row| row.health.state))),
        ("route", count(routes::route_states(&lookup, &backends))),
        ("backend", count(backends.iter().map(|row| row.health.state))),
        ("peer", count(peers.iter().map(|row| row.health.state))),
    ];
    Tally { edge: edge(world, now), problems: problems(world), vips, peers, counts }
}

/// A whole status, counted in the same way.
pub(super) fn tally_of(status: &Status) -> BTreeMap<&'static str, [usize; State::ALL.len()]> {
    BTreeMap::from([
        ("vip", count(status.vips.iter().map(|row| row.health.state))),
        ("listener", count(status.listeners.iter().map(|row| row.health.state))),
        ("certificate", count(status.certificates.iter().map(|row| row.health.state))),
        ("route", count(status.routes.iter().map(|row| row.health.state))),
        ("backend", count(status.backends.iter().map(|row| row.health.state))),
        ("peer", count(status.peers.iter().map(|row| row.health.state))),
    ])
}

fn by_state(a: &VipRow, b: &VipRow) -> Ordering {
    (&a.health.state, &a.owners, &a.address).cmp(&(&b.health.state, &b.owners, &b.address))
}

fn count(states: impl Iterator<Item = State>) -> [usize; State::ALL.len()] {
    let mut counts = [0; State::ALL.len()];
    for state in states {
        if let Some(place) = State::ALL.iter().position(|known| *known == state) {
            counts[place] += 1;
        }
    }
    counts
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
        health = health.and(Health::new(State::Degraded, drain.text()));
    }
    if !observed.closures.0.is_empty() {
        let reason = format!("in maintenance by command: {}", observed.closures.names());
        health = health.and(Health::new(State::Degraded, reason));
    }
    if let Some(held) = &observed.held {
        health = health.and(Health::new(State::Degraded, held.text()));
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
        held: observed.held.clone(),
        notices: observed.notices.clone(),
    }
}

/// The elections that this edge takes part in.
fn routers(world: &World) -> Vec<ElectionRow> {
    let groups = world.observed.network.l2.groups.iter();
    groups.flat_map(|group| group.elections.iter().map(move |election| why::router_row(group, election))).collect()
}

/// The edges that share certificates with this one.
fn fleet(world: &World) -> Option<FleetView> {
    let seen = world.observed.fleet.as_deref()?;
    let orders = |name: &str| seen.orders.as_deref() == Ok(name);
    let own = EdgeRow {
        health: match &seen.orders {
            Ok(_) => Health::up(),
            Err(why) => Health::new(State::Degraded, format!("nobody orders certificates: {why}")),
        },
        edge: seen.name.clone(),
        address: String::new(),
        orders: orders(&seen.name),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        last_exchange: None,
    };
    let others = seen.peers.iter().map(|peer| EdgeRow {
        health: match (peer.is_live, &peer.error) {
            (true, None) => match seen.drift.iter().find(|drifted| drifted.edge == peer.name) {
                Some(drifted) => {
                    let since = span::rfc3339(drifted.since);
                    let what = drifted.difference.line(3);
                    Health::new(State::Degraded, format!("configured differently since {since}: {what}"))
                }
                None => Health::up(),
            },
            (true, Some(why)) => Health::new(State::Degraded, why.clone()),
            (false, why) => Health::new(State::Down, why.clone().unwrap_or_else(|| "it does not answer".to_owned())),
        },
        edge: peer.name.clone(),
        address: peer.address.to_string(),
        orders: orders(&peer.name),
        version: peer.version.clone(),
        last_exchange: peer.last_exchange.map(span::rfc3339),
    });
    Some(FleetView {
        orders: seen.orders.clone().ok(),
        reason: seen.orders.clone().err().unwrap_or_default(),
        since: span::rfc3339(seen.since),
        ticket_keys_since: seen.ticket_keys_since.map(span::rfc3339),
        edges: std::iter::once(own).chain(others).collect(),
    })
}

/// The BGP sessions.
fn peers(world: &World) -> Vec<SessionRow> {
    let Some(seen) = &world.observed.network.bgp else { return Vec::new() };
    let plan = world.compiled.snapshot.announce.bgp.as_ref();
    let row = |peer: &edge_bgp::PeerSeen| {
        let asked = plan.and_then(|plan| plan.peers.iter().find(|asked| asked.name == peer.name));
        let reason = || peer.error.clone().unwrap_or_else(|| format!("the session is {}", why::word(peer.session)));
        let health = match peer.session {
            edge_bgp::SessionState::Established => Health::up(),
            _ => Health::new(State::Down, reason()),
        };
        let address = peer.address.clone().or(asked.map(|asked| asked.address.to_string())).unwrap_or_default();
        let watched = address.split('%').next().and_then(|address| address.parse().ok());
        let bfd = watched.and_then(|address| world.observed.network.bfd.session(address));
        SessionRow {
            health,
            peer: peer.name.to_string(),
            address,
            asn: peer.asn,
            session: why::word(peer.session).to_owned(),
            bfd: bfd.map(|session| session.state.name().to_owned()),
            since: span::rfc3339(peer.since),
            advertised: peer.advertised,
            received: peer.received,
            flaps: peer.flaps,
        }
    };
    seen.peers.iter().map(row).collect()
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
        if announced.is_none() && !snapshot.announce.is_idle() && health.state == State::Up {
            let why = why::why(lookup.scene, "", vip.address);
            health = why.map_or(health, |why| why.health);
        }
        if let Some((.., seen)) = observed.network.l2.vip(vip.address)
            && let Some(conflict) = why::conflict(seen)
        {
            health = health.and(conflict);
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
    format!("{port}/{}", transport.as_str())
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
