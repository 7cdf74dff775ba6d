//! What is not up, worst first, with what is so for the same reason told once.

use serde::Serialize;

use super::{Map, listener_id, vip_id};
use crate::control::view::{Health, State};

/// So many of them are listed.
const LISTED: usize = 60;
/// So many names stand for all with one reason.
const NAMED: usize = 3;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Troubles {
    /// Of all kinds of things together, by [`State::ALL`].
    pub states: [usize; State::ALL.len()],
    pub listed: Vec<Trouble>,
    /// How many reasons are not listed.
    pub more: usize,
}

/// Everything of one kind that is as it is for one reason.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trouble {
    #[serde(flatten)]
    pub health: Health,
    /// As [`Lane::kind`](super::Lane::kind), or `edge`, `peer`, `router`, `fleet`.
    pub kind: &'static str,
    pub count: usize,
    /// The first of them; ids as in lanes.
    pub names: Vec<String>,
}

impl Map {
    pub fn troubles(&self) -> Troubles {
        let status = &self.status;
        let mut all: Vec<Trouble> = Vec::new();
        let mut states = [0; State::ALL.len()];
        let mut note = |kind: &'static str, health: &Health, name: &dyn Fn() -> String| {
            if let Some(place) = State::ALL.iter().position(|state| *state == health.state) {
                states[place] += 1;
            }
            if health.state == State::Up {
                return;
            }
            match all.iter_mut().rev().take(LISTED).find(|one| one.kind == kind && one.health == *health) {
                Some(known) => {
                    known.count += 1;
                    if known.names.len() < NAMED {
                        known.names.push(name());
                    }
                }
                None => all.push(Trouble { health: health.clone(), kind, count: 1, names: vec![name()] }),
            }
        };
        note("edge", &status.edge.health, &|| status.edge.name.clone());
        status.vips.iter().for_each(|row| note("vip", &row.health, &|| vip_id(row)));
        status.peers.iter().for_each(|row| note("peer", &row.health, &|| row.peer.clone()));
        let routers = status.routers.iter();
        routers.for_each(|row| note("router", &row.health, &|| format!("{} on {}", row.group, row.interface)));
        status.certificates.iter().for_each(|row| note("certificate", &row.health, &|| row.secret.clone()));
        status.listeners.iter().for_each(|row| note("listener", &row.health, &|| listener_id(row)));
        status.backends.iter().for_each(|row| note("backend", &row.health, &|| row.backend.clone()));
        status.routes.iter().for_each(|row| note("route", &row.health, &|| format!("{} {}", row.kind, row.route)));
        let edges = status.fleet.iter().flat_map(|fleet| &fleet.edges);
        edges.for_each(|row| note("fleet", &row.health, &|| row.edge.clone()));
        // A stable sort: causes stay before what they cost.
        all.sort_by_key(|trouble| trouble.health.state);
        let more = all.len().saturating_sub(LISTED);
        all.truncate(LISTED);
        Troubles { states, listed: all, more }
    }
}
