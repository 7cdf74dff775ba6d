//! The way up: from a name that somebody looks for to the VIP under which it is.

use serde::Serialize;

use super::down::routes_at;
use super::{Chosen, Map, listener_id, vip_id};
use crate::control::view::{Health, ListenerRow};

/// Of each kind, so many hits are shown.
const SHOWN: usize = 12;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hits {
    pub hits: Vec<Hit>,
    /// How many were found that are not shown.
    pub more: usize,
}

/// Something with the wanted text in it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hit {
    /// As [`Lane::kind`](super::Lane::kind).
    pub kind: &'static str,
    /// What to choose in the map.
    pub id: String,
    pub title: String,
    pub detail: String,
    #[serde(flatten)]
    pub health: Health,
    /// Of an endpoint: its backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
}

impl Map {
    /// Everything that has the text in its name, host, address or node; worst first within a kind.
    pub fn find(&self, text: &str) -> Hits {
        let text = text.trim().to_ascii_lowercase();
        let mut found = Hits { hits: Vec::new(), more: 0 };
        if text.is_empty() {
            return found;
        }
        let is_in = |candidate: &str| candidate.to_ascii_lowercase().contains(&text);
        let any = |candidates: &[String]| candidates.iter().any(|candidate| is_in(candidate));
        let status = &self.status;
        let hit = |kind, id: String, title: &str, detail: String, health: &Health| Hit {
            kind,
            id,
            title: title.to_owned(),
            detail,
            health: health.clone(),
            of: None,
        };
        let vips = status.vips.iter().filter(|row| row.address.as_deref().is_some_and(is_in) || any(&row.owners));
        found.take(vips.map(|row| hit("vip", vip_id(row), &vip_id(row), row.owners.join(", "), &row.health)));
        let listeners =
            status.listeners.iter().filter(|row| is_in(&row.name) || is_in(&row.parent) || is_in(&row.hostname));
        found.take(listeners.map(|row| hit("listener", listener_id(row), &row.name, row.parent.clone(), &row.health)));
        let certificates = status.certificates.iter().filter(|row| is_in(&row.secret) || any(&row.names));
        found.take(certificates.map(|row| {
            hit("certificate", row.secret.clone(), &row.secret, super::node::few(&row.names, 2), &row.health)
        }));
        let routes = status.routes.iter().filter(|row| is_in(&row.route) || any(&row.hostnames));
        found.take(routes.map(|row| {
            let id = format!("{} {}", row.kind, row.route);
            hit("route", id.clone(), &id, super::node::few(&row.hostnames, 2), &row.health)
        }));
        let backends = status.backends.iter().filter(|row| is_in(&row.backend));
        found.take(
            backends.map(|row| hit("backend", row.backend.clone(), &row.backend, row.protocol.clone(), &row.health)),
        );
        let endpoints =
            status.backends.iter().flat_map(|backend| backend.endpoints.iter().map(move |row| (backend, row)));
        let endpoints = endpoints.filter(|(_, row)| is_in(&row.address) || is_in(&row.target) || is_in(&row.node));
        found.take(endpoints.map(|(backend, row)| {
            let detail = if row.target.is_empty() { backend.backend.clone() } else { row.target.clone() };
            let found = hit("endpoint", row.address.clone(), &row.address, detail, &row.health);
            Hit { of: Some(backend.backend.clone()), ..found }
        }));
        found
    }

    /// What leads to what was chosen, where that was left out.
    pub(super) fn completed(&self, chosen: &Chosen) -> Chosen {
        let mut way = chosen.clone();
        let status = &self.status;
        if let (Some(address), None) = (&way.endpoint, &way.backend) {
            let backend =
                status.backends.iter().find(|row| row.endpoints.iter().any(|endpoint| endpoint.address == *address));
            way.backend = backend.map(|row| row.backend.clone());
        }
        if let (Some(backend), None) = (&way.backend, &way.route) {
            (way.route, way.rule) = self.user_of(backend).unwrap_or_default();
        }
        if way.listener.is_none() {
            let by_certificate = way
                .certificate
                .as_ref()
                .and_then(|secret| status.listeners.iter().find(|row| row.certificates.contains(secret)));
            let by_route = || way.route.as_deref().and_then(|route| self.listener_with(route));
            way.listener = by_certificate.or_else(by_route).map(listener_id);
        }
        if let (Some(listener), None) = (&way.listener, &way.vip) {
            let place = status.listeners.iter().position(|row| listener_id(row) == *listener);
            let vip = place.and_then(|place| status.vips.iter().find(|vip| self.listeners_of(vip).contains(&place)));
            way.vip = vip.map(vip_id);
        }
        way
    }

    /// A route, and its rule, that sends traffic to a backend.
    fn user_of(&self, backend: &str) -> Option<(Option<String>, Option<String>)> {
        use edge_config::snapshot::{Action, Backend, Target};
        let snapshot = &self.world.compiled.snapshot;
        let place = snapshot.upstreams.iter().position(|upstream| upstream.key.to_string() == backend);
        let leads = |backends: &[Backend]| {
            backends.iter().any(|one| match one.target {
                Target::Upstream(id) => Some(id.index()) == place,
                Target::Invalid { .. } => *one.reference == *backend,
            })
        };
        let rule = snapshot.rules.iter().find(|rule| match &rule.action {
            Action::Forward(backends) => leads(backends),
            _ => false,
        });
        if let Some(rule) = rule {
            return Some((Some(rule.route.to_string()), Some(rule.index.to_string())));
        }
        let mut streams = snapshot.listeners.iter().flat_map(crate::control::status::streams_of);
        let stream = streams.find(|stream| leads(&stream.backends))?;
        Some((Some(stream.route.to_string()), None))
    }

    /// The first listener at which a route is, or would be.
    fn listener_with(&self, route: &str) -> Option<&ListenerRow> {
        let all = Chosen::default();
        let serves = |listener: &&ListenerRow| routes_at(self, listener, &all).iter().any(|entry| entry.id == route);
        self.status.listeners.iter().find(serves)
    }
}

impl Hits {
    fn take(&mut self, found: impl Iterator<Item = Hit>) {
        for (place, hit) in found.enumerate() {
            if place < SHOWN { self.hits.push(hit) } else { self.more += 1 }
        }
    }
}
