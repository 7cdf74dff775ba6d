//! The network map: from a VIP through its listeners, their certificates, routes and rules to backends and endpoints, each
//! with its state and the reason in words.
//!
//! A [`World`], the time and what was chosen flow in, [`Lane`]s flow out: one for each step of the way, with a bounded
//! number of nodes. Pure. The states and reasons are those of [`status`](super::status::status) and [`why`](super::why); nothing
//! is judged here.

mod down;
mod find;
mod node;
mod problems;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use edge_config::names::ObjectRef;
use edge_config::snapshot::{Listener, UpstreamId};
use foldhash::{HashMap, HashSet};
use serde::Serialize;

use super::rates::{Rate, Rates};
use super::status::{port_listeners, status, streams_of};
use super::view::{BackendRow, Health, ListenerRow, State, Status, VipRow};
use super::world::World;

pub use find::{Hit, Hits};
pub use problems::{Trouble, Troubles};

/// So many nodes a lane shows at once.
pub const PAGE: usize = 100;

/// A moment of an edge with what is needed to walk through it.
pub struct Map {
    pub world: Arc<World>,
    pub at: SystemTime,
    pub status: Status,
    /// Objects with listeners, by their text in [`ListenerRow::parent`].
    parents: HashMap<String, ObjectRef>,
    /// Places in `status.listeners`, by parent and name.
    listeners: HashMap<(ObjectRef, String), usize>,
    /// Those among them that serve.
    serving: HashSet<usize>,
    /// Places in `status.routes`.
    routes: HashMap<ObjectRef, usize>,
    /// Those among them that are at some listener.
    served: HashSet<usize>,
    /// Places in `status.backends`, by name.
    backends: HashMap<String, usize>,
}

/// What the lanes show. An id that is not there any more is as none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chosen {
    pub vip: Option<String>,
    pub listener: Option<String>,
    pub certificate: Option<String>,
    pub route: Option<String>,
    pub rule: Option<String>,
    pub backend: Option<String>,
    pub endpoint: Option<String>,
    /// Only what is not up, in the lanes of VIPs, listeners, and routes.
    pub troubled: bool,
    /// Only routes with this in their name, hosts or backends; lower case.
    pub routes: String,
    /// The first VIP and route to be shown; absent: the page with what is chosen.
    pub vips_from: Option<usize>,
    pub routes_from: Option<usize>,
}

/// One step of the way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lane {
    /// `vip`, `listener`, `certificate`, `route`, `rule`, `backend` or `endpoint`
    pub kind: &'static str,
    /// How many there are in all.
    pub total: usize,
    /// Of them, by [`State::ALL`].
    pub states: [usize; State::ALL.len()],
    /// The place of the first node among all.
    pub from: usize,
    pub nodes: Vec<Node>,
    /// The id of the one whose parts the next lane shows.
    pub chosen: Option<String>,
    /// What is known of the chosen one beside its row.
    pub facts: Vec<Fact>,
    /// What to type to learn more about it.
    pub ask: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Node {
    pub id: String,
    pub title: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    #[serde(flatten)]
    pub health: Health,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

/// Something that is known of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fact {
    pub about: String,
    pub text: String,
    /// Absent: it is neither good nor bad.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub good: Option<bool>,
}

impl Fact {
    fn new(about: &str, text: impl Into<String>) -> Self {
        Self { about: about.to_owned(), text: text.into(), good: None }
    }
}

impl Map {
    pub fn new(world: Arc<World>, now: SystemTime) -> Self {
        let status = status(&world, now);
        let report = &world.compiled.report;
        let parents: HashMap<String, ObjectRef> = report
            .objects
            .iter()
            .filter(|(_, report)| !report.listeners.is_empty())
            .map(|(object, _)| (object.to_string(), object.clone()))
            .collect();
        let rows = status.listeners.iter().enumerate();
        let listeners: HashMap<(ObjectRef, String), usize> = rows
            .filter_map(|(place, row)| Some(((parents.get(&row.parent)?.clone(), row.name.clone()), place)))
            .collect();
        let served = world.compiled.snapshot.listeners.iter();
        let serving =
            served.filter_map(|it| listeners.get(&(it.parent.clone(), it.name.to_string())).copied()).collect();
        let places: HashMap<(&str, &str), usize> =
            status.routes.iter().enumerate().map(|(place, row)| ((&*row.kind, &*row.route), place)).collect();
        let routes: HashMap<ObjectRef, usize> = report
            .objects
            .keys()
            .filter_map(|object| {
                let key = object.key.to_string();
                Some((object.clone(), *places.get(&(object.kind.as_str(), &*key))?))
            })
            .collect();
        let snapshot = &world.compiled.snapshot;
        let streams = snapshot.listeners.iter().flat_map(streams_of).map(|stream| &stream.route);
        let served = snapshot.rules.iter().map(|rule| &rule.route).chain(streams);
        let served = served.filter_map(|route| routes.get(route).copied()).collect();
        let backends = status.backends.iter().enumerate().map(|(place, row)| (row.backend.clone(), place)).collect();
        Self { at: now, status, parents, listeners, serving, routes, served, backends, world }
    }

    /// The way that is chosen, completed: upwards to where it begins, downwards by what is worst.
    pub fn lanes(&self, chosen: &Chosen, rates: &Rates) -> Vec<Lane> {
        down::lanes(self, &self.completed(chosen), rates)
    }

    /// The listeners of a VIP, worst first: those that serve there, and those of its owners that nobody serves.
    fn listeners_of(&self, vip: &VipRow) -> Vec<usize> {
        let snapshot = &self.world.compiled.snapshot;
        let mut found: Vec<usize> = Vec::new();
        if let Some(address) = vip.address.as_ref().and_then(|address| address.parse::<IpAddr>().ok()) {
            for socket in snapshot.sockets.iter().filter(|socket| socket.address.ip() == address) {
                let served = snapshot.ports.get(socket.port.index()).map(|port| port_listeners(&port.serve));
                let served = served.into_iter().flatten().filter_map(|id| snapshot.listeners.get(id));
                found.extend(served.filter_map(|it| self.place_of(it)));
            }
        }
        let idle = (0..self.status.listeners.len()).filter(|place| !self.serving.contains(place));
        found.extend(idle.filter(|place| {
            let parent = &self.status.listeners[*place].parent;
            vip.owners.contains(parent) || self.gateway_of(parent).is_some_and(|gateway| vip.owners.contains(&gateway))
        }));
        found.sort_unstable();
        found.dedup();
        found
    }

    fn place_of(&self, listener: &Listener) -> Option<usize> {
        self.listeners.get(&(listener.parent.clone(), listener.name.to_string())).copied()
    }

    /// The Gateway that a ListenerSet adds to, as text.
    fn gateway_of(&self, parent: &str) -> Option<String> {
        let set = self.parents.get(parent)?;
        let reference = &self.world.inputs.listener_sets.get(&set.key)?.spec.parent_ref;
        let namespace = reference.namespace.as_deref().unwrap_or(&set.key.namespace);
        Some(format!("Gateway {namespace}/{}", reference.name))
    }

    /// The listener of a row, if it is served.
    fn serving(&self, row: &ListenerRow) -> Option<&Listener> {
        let parent = self.parents.get(&row.parent)?;
        let all = &self.world.compiled.snapshot.listeners;
        all.iter().find(|it| it.parent == *parent && *it.name == *row.name)
    }

    fn backend(&self, name: &str) -> Option<&BackendRow> {
        self.status.backends.get(*self.backends.get(name)?)
    }

    fn upstream(&self, id: UpstreamId) -> Option<&BackendRow> {
        self.backend(&self.world.compiled.snapshot.upstreams.get(id.index())?.key.to_string())
    }
}

/// What a listener is called in lanes.
fn listener_id(row: &ListenerRow) -> String {
    format!("{}/{}", row.parent, row.name)
}

/// What a VIP is called in lanes: its address, or whose it would be.
fn vip_id(row: &VipRow) -> String {
    row.address.clone().unwrap_or_else(|| row.owners.join(", "))
}
