//! Where the upstreams of a snapshot are: EndpointSlices of Services, addresses and names of Backends.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};

use super::backends::{UDP, backend_fault, port_name};
use crate::core::{EndpointSlice, PortProtocol, SERVICE_NAME_LABEL, ServiceType};
use crate::inputs::{Inputs, Object};
use crate::names::Kind;
use crate::snapshot::{Endpoint, EndpointSet, EndpointState, Endpoints, Snapshot, Upstream};

/// The endpoints of every upstream, by `UpstreamId`. Also used alone when only endpoints changed.
pub fn endpoints(inputs: &Inputs, snapshot: &Snapshot) -> Endpoints {
    let mut slices: HashMap<(&str, &str), Vec<&Object<EndpointSlice>>> = HashMap::new();
    for (key, slice) in &inputs.endpoint_slices {
        if let Some(service) = slice.meta.labels.get(SERVICE_NAME_LABEL) {
            slices.entry((&key.namespace, service)).or_default().push(slice);
        }
    }
    snapshot.upstreams.iter().map(|upstream| Arc::new(of_upstream(inputs, &slices, upstream))).collect()
}

fn of_upstream(
    inputs: &Inputs,
    slices: &HashMap<(&str, &str), Vec<&Object<EndpointSlice>>>,
    upstream: &Upstream,
) -> EndpointSet {
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
    let transport = if &*key.variant == UDP { PortProtocol::Udp } else { PortProtocol::Tcp };
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
    EndpointSet::Addresses(list)
}
