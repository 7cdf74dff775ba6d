//! One row per upstream: its endpoints and how they do.

use std::net::SocketAddr;
use std::time::SystemTime;

use edge_config::snapshot::{Endpoint, EndpointSet, EndpointState, Upstream, UpstreamProtocol};

use super::Lookup;
use crate::control::observed::UpstreamState;
use crate::control::span;
use crate::control::view::{BackendRow, EndpointRow, Health, State};

/// In the order of the snapshot's upstreams, one by one: thousands of them take megabytes.
pub fn backend_rows(lookup: &Lookup<'_>, now: SystemTime) -> impl Iterator<Item = BackendRow> {
    let scene = lookup.scene;
    let rows = scene.snapshot.upstreams.iter().zip(&lookup.uses).enumerate();
    rows.map(move |(id, (upstream, used))| {
        let set = scene.endpoints.get(id).map(|set| &**set);
        let observed = scene.observed.upstreams.get(&upstream.key);
        let mut row = backend_row(upstream, set, observed, scene.observed.offline, now);
        row.routes = u32::try_from(used.routes.len()).unwrap_or(u32::MAX);
        if !used.weighted && row.health.state != State::Up {
            row.health = Health::new(State::Up, format!("weight 0, takes no traffic ({})", row.health.reason));
        }
        row
    })
}

fn backend_row(
    upstream: &Upstream,
    set: Option<&EndpointSet>,
    observed: Option<&UpstreamState>,
    offline: bool,
    now: SystemTime,
) -> BackendRow {
    let (endpoints, unresolved) = match set {
        Some(EndpointSet::Addresses(all)) => (all.iter().map(|one| endpoint_row(one, observed, now)).collect(), None),
        Some(EndpointSet::Dns { host, .. }) => resolved(host, observed, offline, now),
        None => (Vec::new(), None),
    };
    let ready = endpoints.iter().filter(|row: &&EndpointRow| row.health.state == State::Up).count();
    let ejected = endpoints.iter().filter(|row| row.health.state == State::Down).count();
    let draining = endpoints.len() - ready - ejected;
    let health = if let Some(health) = unresolved {
        health
    } else if endpoints.is_empty() {
        Health::new(State::Down, "no ready endpoint")
    } else if ready == 0 && draining == 0 {
        let reason = endpoints.first().map(|row| row.health.reason.clone()).unwrap_or_default();
        Health::new(State::Down, format!("every endpoint is ejected: {reason}"))
    } else if ready == 0 {
        Health::new(State::Degraded, "only terminating endpoints are left")
    } else if let Some(row) = endpoints.iter().find(|row| row.health.state == State::Down) {
        let reason =
            format!("{ejected} of {} endpoints ejected: {}: {}", endpoints.len(), row.address, row.health.reason);
        Health::new(State::Degraded, reason)
    } else {
        Health::up()
    };
    let reach = observed.and_then(|state| state.reach.as_ref());
    let health = match reach {
        Some(reach) if health.state == State::Up && health.reason.is_empty() => Health::new(State::Up, &*reach.why),
        _ => health,
    };
    BackendRow {
        health,
        backend: upstream.key.to_string(),
        protocol: protocol(upstream),
        ready: u32::try_from(ready).unwrap_or(u32::MAX),
        ejected: u32::try_from(ejected).unwrap_or(u32::MAX),
        endpoints,
        reach: reach.map(|reach| reach.way),
        reach_reason: reach.map(|reach| reach.why.clone()).unwrap_or_default(),
        in_flight: observed.map_or(0, |state| state.in_flight),
        routes: 0,
    }
}

fn protocol(upstream: &Upstream) -> String {
    let name = match upstream.protocol {
        UpstreamProtocol::Http1 => "http/1.1",
        UpstreamProtocol::Http2 => "http/2",
        UpstreamProtocol::Stream => "stream",
    };
    if upstream.tls.is_some() { format!("{name} over tls") } else { name.to_owned() }
}

fn endpoint_row(endpoint: &Endpoint, observed: Option<&UpstreamState>, now: SystemTime) -> EndpointRow {
    let health = match endpoint.state {
        EndpointState::Ready => Health::up(),
        EndpointState::Draining => Health::new(State::Pending, "terminating"),
        EndpointState::Drained => Health::new(State::Pending, "drained by an operator: edgectl endpoint list"),
        EndpointState::Disabled => Health::new(State::Down, "disabled by an operator: edgectl endpoint list"),
    };
    EndpointRow {
        health: ejection(endpoint.address, observed, now).unwrap_or(health),
        address: endpoint.address.to_string(),
        target: endpoint.target.to_string(),
        node: endpoint.node.to_string(),
    }
}

fn ejection(address: SocketAddr, observed: Option<&UpstreamState>, now: SystemTime) -> Option<Health> {
    let ejection = observed?.ejected.get(&address)?;
    let age = now.duration_since(ejection.since).unwrap_or_default();
    Some(Health::new(State::Down, format!("{} ({} ago)", ejection.reason, span::rough(age))))
}

/// The endpoints behind a name, and what keeps it from having any.
fn resolved(
    host: &str,
    observed: Option<&UpstreamState>,
    offline: bool,
    now: SystemTime,
) -> (Vec<EndpointRow>, Option<Health>) {
    match observed.and_then(|state| state.resolved.as_ref()) {
        Some(Ok(addresses)) => {
            let row = |address: &SocketAddr| EndpointRow {
                health: ejection(*address, observed, now).unwrap_or_else(Health::up),
                address: address.to_string(),
                target: host.to_owned(),
                node: String::new(),
            };
            let empty = addresses.is_empty().then(|| Health::new(State::Down, format!("{host} has no address")));
            (addresses.iter().map(row).collect(), empty)
        }
        Some(Err(error)) => (Vec::new(), Some(Health::new(State::Down, format!("{host} does not resolve: {error}")))),
        None if offline => (Vec::new(), Some(Health::new(State::Up, format!("{host}, resolved when it is used")))),
        None => (Vec::new(), Some(Health::new(State::Pending, format!("{host} is not resolved yet")))),
    }
}
