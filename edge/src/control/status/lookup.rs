//! A scene with the indices that rows need, so that thousands of routes cost one pass.

use std::collections::{BTreeMap, BTreeSet};

use edge_config::names::{CertId, ObjectRef};
use edge_config::snapshot::{
    Action, Backend, Listener, ListenerId, ListenerServe, PortServe, Rule, Socket, StreamRoute, Target, UpstreamId,
    WantedCertificate,
};

use crate::control::world::Scene;

pub struct Lookup<'a> {
    pub scene: Scene<'a>,
    /// Parent and listener name.
    listeners: BTreeMap<(&'a ObjectRef, &'a str), ListenerId>,
    pub rules: BTreeMap<&'a ObjectRef, Vec<&'a Rule>>,
    /// TLSRoutes, TCPRoutes, UDPRoutes; one entry per listener or host at which they serve.
    pub streams: BTreeMap<&'a ObjectRef, Vec<&'a StreamRoute>>,
    pub wanted: BTreeMap<&'a CertId, &'a WantedCertificate>,
    /// Listeners that serve a certificate, as `ns/gateway/listener`.
    pub users: BTreeMap<&'a CertId, Vec<String>>,
    /// How each upstream is used, by its id.
    pub uses: Vec<Use<'a>>,
    /// The sockets at which each listener is reached, by its id.
    sockets: Vec<Vec<&'a Socket>>,
}

/// Who sends traffic to an upstream.
#[derive(Debug, Default, Clone)]
pub struct Use<'a> {
    pub routes: BTreeSet<&'a ObjectRef>,
    /// At least one reference has a weight above 0.
    pub weighted: bool,
}

impl<'a> Lookup<'a> {
    pub fn new(scene: Scene<'a>) -> Self {
        let snapshot = scene.snapshot;
        let mut lookup = Self {
            scene,
            listeners: (0..)
                .zip(&snapshot.listeners)
                .map(|(id, listener)| ((&listener.parent, &*listener.name), ListenerId(id)))
                .collect(),
            rules: BTreeMap::new(),
            streams: BTreeMap::new(),
            wanted: snapshot.certificates.iter().map(|wanted| (&wanted.id, wanted)).collect(),
            users: BTreeMap::new(),
            uses: vec![Use::default(); snapshot.upstreams.len()],
            sockets: vec![Vec::new(); snapshot.listeners.len()],
        };
        let ports: Vec<Vec<usize>> = snapshot.ports.iter().map(|port| port_listeners(&port.serve)).collect();
        for socket in &snapshot.sockets {
            for &id in ports.get(socket.port.index()).into_iter().flatten() {
                if let Some(sockets) = lookup.sockets.get_mut(id) {
                    sockets.push(socket);
                }
            }
        }
        for listener in &snapshot.listeners {
            for id in certificates(listener) {
                lookup.users.entry(id).or_default().push(format!("{}/{}", listener.parent.key, listener.name));
            }
            for stream in streams(listener) {
                lookup.streams.entry(&stream.route).or_default().push(stream);
                lookup.count(&stream.route, &stream.backends);
            }
        }
        for rule in &snapshot.rules {
            lookup.rules.entry(&rule.route).or_default().push(rule);
            if let Action::Forward(backends) = &rule.action {
                lookup.count(&rule.route, backends);
            }
            let filters = std::iter::once(&rule.filters).chain(match &rule.action {
                Action::Forward(backends) => backends.iter().map(|backend| &backend.filters).collect::<Vec<_>>(),
                _ => Vec::new(),
            });
            for mirror in filters.flat_map(|filters| &filters.mirrors) {
                if let Target::Upstream(id) = mirror.target {
                    lookup.used(&rule.route, id, true);
                }
            }
        }
        lookup
    }

    fn count(&mut self, route: &'a ObjectRef, backends: &'a [Backend]) {
        for backend in backends {
            if let Target::Upstream(id) = backend.target {
                self.used(route, id, backend.weight > 0);
            }
        }
    }

    fn used(&mut self, route: &'a ObjectRef, id: UpstreamId, weighted: bool) {
        if let Some(entry) = self.uses.get_mut(id.index()) {
            entry.routes.insert(route);
            entry.weighted |= weighted;
        }
    }

    /// The sockets at which a listener of the snapshot is reached.
    pub fn sockets(&self, listener: ListenerId) -> &[&'a Socket] {
        self.sockets.get(listener.index()).map_or(&[], Vec::as_slice)
    }

    /// A listener of the snapshot by who declares it and its name.
    pub fn listener(&self, parent: &ObjectRef, name: &str) -> Option<(ListenerId, &'a Listener)> {
        let id = *self.listeners.get(&(parent, name))?;
        Some((id, self.scene.snapshot.listeners.get(id.index())?))
    }
}

/// The listeners of a port, as indices.
pub fn port_listeners(serve: &PortServe) -> Vec<usize> {
    match serve {
        PortServe::Http { hosts: map } | PortServe::Tls { names: map } => map.values().map(|id| id.index()).collect(),
        PortServe::Tcp { listener } | PortServe::Udp { listener } => vec![listener.index()],
    }
}

/// The certificates that a listener serves.
pub fn certificates(listener: &Listener) -> &[CertId] {
    match &listener.serve {
        ListenerServe::Https { tls, .. } | ListenerServe::TlsTerminate { tls, .. } => &tls.certificates,
        _ => &[],
    }
}

/// The stream routes of a listener.
pub fn streams(listener: &Listener) -> Vec<&StreamRoute> {
    match &listener.serve {
        ListenerServe::TlsTerminate { routes, .. } | ListenerServe::TlsPassthrough { routes } => {
            routes.values().collect()
        }
        ListenerServe::Tcp { route } | ListenerServe::Udp { route } => route.iter().collect(),
        ListenerServe::Http { .. } | ListenerServe::Https { .. } => Vec::new(),
    }
}
