//! Where the upstreams of a snapshot are: EndpointSlices of Services, addresses and names of Backends.
//!
//! Endpoints of an upstream follow from its key, its Service or Backend, and the slices of that Service. So those of an
//! earlier time are taken again where none of these changed ([`EndpointsMemo`]).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};

use super::backend_kind::backend_fault;
use super::backends::port_name;
use super::memo::differences;
use crate::core::{EndpointSlice, PortProtocol, SERVICE_NAME_LABEL, ServiceType};
use crate::inputs::{Inputs, Object};
use crate::names::{Kind, ObjectKey};
use crate::snapshot::{Endpoint, EndpointSet, EndpointState, Endpoints, Snapshot, Upstream, UpstreamKey};

type Slices<'a> = HashMap<(&'a str, &'a str), Vec<&'a Object<EndpointSlice>>>;

/// The endpoints of every upstream, by `UpstreamId`.
pub(super) fn endpoints(inputs: &Inputs, snapshot: &Snapshot) -> Endpoints {
    let slices = slices(inputs);
    snapshot.upstreams.iter().map(|upstream| Arc::new(of_upstream(inputs, &slices, upstream))).collect()
}

/// The slices of every Service, by its namespace and name.
fn slices(inputs: &Inputs) -> Slices<'_> {
    let mut slices: Slices<'_> = HashMap::with_capacity(inputs.endpoint_slices.len());
    for (key, slice) in &inputs.endpoint_slices {
        if let Some(service) = service_of(slice) {
            slices.entry((&*key.namespace, service)).or_default().push(slice);
        }
    }
    slices
}

fn service_of(slice: &Object<EndpointSlice>) -> Option<&str> {
    slice.spec.service.as_deref().or_else(|| slice.meta.labels.get(SERVICE_NAME_LABEL).map(String::as_str))
}

/// The endpoints as they were found last, and what they were found in.
pub(super) struct EndpointsMemo {
    inputs: Arc<Inputs>,
    snapshot: Arc<Snapshot>,
    endpoints: Endpoints,
}

impl EndpointsMemo {
    pub fn new(inputs: &Arc<Inputs>, snapshot: &Arc<Snapshot>, endpoints: &Endpoints) -> Self {
        Self { inputs: Arc::clone(inputs), snapshot: Arc::clone(snapshot), endpoints: endpoints.clone() }
    }

    /// What [`endpoints`] gives; a set that is equal to the one before is the same `Arc`.
    pub fn endpoints(&self, inputs: &Inputs, snapshot: &Snapshot) -> Endpoints {
        let touched = Touched::between(&self.inputs, inputs);
        let mut slices: Option<Slices<'_>> = None;
        let mut places: Option<HashMap<&UpstreamKey, usize>> = None;
        let mut found = Endpoints::with_capacity(snapshot.upstreams.len());
        for (place, upstream) in snapshot.upstreams.iter().enumerate() {
            // Nearly always it has the number that it had.
            let before = match self.snapshot.upstreams.get(place) {
                Some(known) if Arc::ptr_eq(known, upstream) || known.key == upstream.key => Some(place),
                _ => {
                    let all = self.snapshot.upstreams.iter().enumerate();
                    let places = places.get_or_insert_with(|| all.map(|(place, known)| (&known.key, place)).collect());
                    places.get(&upstream.key).copied()
                }
            };
            let before = before.and_then(|place| self.endpoints.get(place));
            if let Some(before) = before.filter(|_| !touched.has(upstream)) {
                found.push(Arc::clone(before));
                continue;
            }
            let slices = slices.get_or_insert_with(|| self::slices(inputs));
            let now = of_upstream(inputs, slices, upstream);
            found.push(match before {
                Some(before) if **before == now => Arc::clone(before),
                _ => Arc::new(now),
            });
        }
        found
    }
}

/// The Services and Backends whose endpoints may not be what they were.
struct Touched<'a> {
    services: HashSet<(&'a str, &'a str)>,
    backends: HashSet<&'a ObjectKey>,
}

impl<'a> Touched<'a> {
    fn between(before: &'a Inputs, now: &'a Inputs) -> Self {
        let mut touched = Self { services: HashSet::new(), backends: HashSet::new() };
        differences(&before.services, &now.services, |key, _, _| {
            touched.services.insert((&*key.namespace, &*key.name));
        });
        differences(&before.endpoint_slices, &now.endpoint_slices, |key, before, now| {
            let services = [before, now].into_iter().flatten().filter_map(|slice| service_of(slice));
            touched.services.extend(services.map(|service| (&*key.namespace, service)));
        });
        differences(&before.backends, &now.backends, |key, _, _| {
            touched.backends.insert(key);
        });
        touched
    }

    fn has(&self, upstream: &Upstream) -> bool {
        let object = &upstream.key.object;
        if object.kind == Kind::Backend {
            !self.backends.is_empty() && self.backends.contains(&object.key)
        } else {
            !self.services.is_empty() && self.services.contains(&(&*object.key.namespace, &*object.key.name))
        }
    }
}

fn of_upstream(inputs: &Inputs, slices: &Slices<'_>, upstream: &Upstream) -> EndpointSet {
    let key = &upstream.key;
    if key.object.kind == Kind::Backend {
        return of_backend(inputs, upstream);
    }
    let Some(service) = inputs.services.get(&key.object.key) else { return EndpointSet::default() };
    if service.spec.kind == ServiceType::ExternalName {
        return match service.spec.external_name.as_deref() {
            Some(host) => by_name(host, key.port),
            None => EndpointSet::default(),
        };
    }
    let transport = if key.is_udp() { PortProtocol::Udp } else { PortProtocol::Tcp };
    let port = service.spec.ports.iter().find(|port| port.port == key.port && port.protocol == transport);
    let Some(port) = port else { return EndpointSet::default() };
    let name = port_name(port);
    let found = slices.get(&(&*key.object.key.namespace, &*key.object.key.name));
    let mut list = Vec::new();
    for slice in found.into_iter().flatten() {
        let ports = slice.spec.ports.iter();
        let same = ports.filter(|p| p.name.as_deref().filter(|n| !n.is_empty()) == name && p.protocol == transport);
        for number in same.filter_map(|port| port.port) {
            for endpoint in &slice.spec.endpoints {
                let conditions = endpoint.conditions;
                // EndpointConditions: nil ready and serving mean true, nil terminating means false.
                // What a Service publishes before it is ready is as good as ready.
                let ready = conditions.ready.unwrap_or(true) || service.spec.publish_not_ready_addresses;
                let draining = conditions.serving.unwrap_or(ready) && conditions.terminating.unwrap_or(false);
                let state = match (ready, draining) {
                    (true, _) => EndpointState::Ready,
                    (false, true) => EndpointState::Draining,
                    (false, false) => continue,
                };
                let target = endpoint.target_ref.as_ref().map(|target| {
                    format!(
                        "{} {}/{}",
                        target.kind.as_deref().unwrap_or("Pod"),
                        target.namespace.as_deref().unwrap_or(&key.object.key.namespace),
                        target.name.as_deref().unwrap_or_default()
                    )
                });
                // All addresses of an endpoint are the same endpoint; the API allows to use the first only.
                let Some(address) = endpoint.addresses.first().and_then(|text| text.parse::<IpAddr>().ok()) else {
                    continue;
                };
                list.push(Endpoint {
                    address: SocketAddr::new(address, number),
                    state,
                    target: target.unwrap_or_default().into(),
                    node: endpoint.node_name.as_deref().unwrap_or_default().into(),
                });
            }
        }
    }
    addresses(list)
}

fn of_backend(inputs: &Inputs, upstream: &Upstream) -> EndpointSet {
    let Some(backend) = inputs.backends.get(&upstream.key.object.key) else { return EndpointSet::default() };
    if backend_fault(&backend.spec).is_some() {
        return EndpointSet::default();
    }
    if let Some(name) = backend.spec.endpoints.iter().find_map(|endpoint| endpoint.fqdn.as_ref()) {
        return by_name(&name.hostname, name.port);
    }
    let endpoints = backend.spec.endpoints.iter().filter_map(|endpoint| endpoint.ip.as_ref());
    let list = endpoints.filter_map(|ip| {
        Some(Endpoint {
            address: SocketAddr::new(ip.address.parse().ok()?, ip.port),
            state: EndpointState::Ready,
            target: Box::default(),
            node: Box::default(),
        })
    });
    addresses(list.collect())
}

fn by_name(host: &str, port: u16) -> EndpointSet {
    match host.parse::<IpAddr>() {
        Ok(address) => EndpointSet::Addresses(vec![Endpoint {
            address: SocketAddr::new(address, port),
            state: EndpointState::Ready,
            target: Box::default(),
            node: Box::default(),
        }]),
        Err(_) => EndpointSet::Dns { host: host.trim_end_matches('.').to_ascii_lowercase().into(), port },
    }
}

/// In address order; the same address in two slices counts once, as ready if one of them says so.
fn addresses(mut list: Vec<Endpoint>) -> EndpointSet {
    list.sort_by(|a, b| (a.address, a.state).cmp(&(b.address, b.state)).then_with(|| a.cmp(b)));
    list.dedup_by(|later, first| later.address == first.address);
    // One is by far the most frequent number, and a vector begins with room for four.
    list.shrink_to_fit();
    EndpointSet::Addresses(list)
}
