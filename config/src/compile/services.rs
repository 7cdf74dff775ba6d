//! Services of type LoadBalancer that are ours: what MetalLB and kube-proxy do for them inside a cluster, done outside.
//!
//! Every TCP or UDP port becomes a stream to the Service's endpoints. `loadBalancerSourceRanges` and
//! `sessionAffinity: ClientIP` hold as kube-proxy has them. `externalTrafficPolicy` asks for nothing here: Edge connects
//! to endpoints directly, so there is no second hop to be avoided, and with either policy the endpoint sees Edge as its
//! peer. It counts for who may share an address, and where node ports are the only way to the Pods.
//! Standards: Kubernetes v1 Service, MetalLB's annotations.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::backends::{Backends, Reference, Referrer, Upstreams, Use};
use super::context::{Context, Fault, by_age, condition};
use super::gateways::Profile;
use super::vips::Refused;
use crate::core::{PortProtocol, ServicePort, ServiceSpec, ServiceType, SessionAffinity};
use crate::inputs::Object;
use crate::names::{HostPattern, Kind, ObjectRef};
use crate::problem::Severity;
use crate::report::{Condition, ListenerReport, LoadBalancerReport, ObjectReport, ServicePortReport};
use crate::settings::AddressRange;
use crate::snapshot::{
    Backend, ClientSettings, Listener, ListenerServe, PortServe, Snapshot, Sources, StreamRoute, Transport,
};

/// `sessionAffinityConfig.clientIP.timeoutSeconds` where it is absent.
const AFFINITY_TIMEOUT: Duration = Duration::from_secs(10_800);

pub(super) struct ServiceState<'a> {
    pub object: &'a Object<ServiceSpec>,
    /// Nothing of it is served.
    pub fault: Option<Fault>,
    pub addresses: Vec<(IpAddr, String)>,
    /// Ports that others have on its addresses.
    pub refused: Vec<Refused>,
    /// The name of the pool of its addresses.
    pub pool: Option<Box<str>>,
    /// Why not every address is there.
    pub address_fault: Option<Fault>,
    pub note: Option<Condition>,
    pub sources: Option<Sources>,
    /// In the order of the spec.
    pub ports: Vec<PortState<'a>>,
}

pub(super) struct PortState<'a> {
    spec: &'a ServicePort,
    /// The error is as `status.loadBalancer.ingress[].ports[].error` has it.
    transport: Result<Transport, &'static str>,
    route: Option<StreamRoute>,
    /// Another has the port on every address, as this says.
    refused: Option<String>,
    is_served: bool,
}

impl ServiceState<'_> {
    pub fn reference(&self) -> ObjectRef {
        ObjectRef::new(Kind::Service, self.object.meta.key.clone())
    }
}

/// The Services of ours, the oldest first.
pub(super) fn services<'a>(context: &Context<'a>) -> Vec<ServiceState<'a>> {
    let settings = &context.inputs.settings.services;
    let mut services = Vec::new();
    for object in context.inputs.services.values().filter(|object| object.spec.kind == ServiceType::LoadBalancer) {
        let object: &'a Object<ServiceSpec> = object;
        let is_ours = match object.spec.load_balancer_class.as_deref().filter(|class| !class.is_empty()) {
            Some(class) => settings.classes.iter().any(|known| **known == *class),
            None => settings.without_class,
        };
        if !is_ours {
            if object.spec.load_balancer_class.is_none() {
                let message = "spec.type LoadBalancer: it names no loadBalancerClass, and [services] without_class is \
                               not set";
                context.problem(Severity::Inert, Kind::Service, &object.meta, message);
            }
            continue;
        }
        let (sources, fault) = match sources(&object.spec.load_balancer_source_ranges) {
            Ok(sources) => (sources, None),
            Err(message) => (None, Some(Fault::new("LoadBalancerFailed", message))),
        };
        let ports = object.spec.ports.iter().map(|spec| {
            let transport = match spec.protocol {
                PortProtocol::Tcp => Ok(Transport::Tcp),
                PortProtocol::Udp => Ok(Transport::Udp),
                PortProtocol::Sctp | PortProtocol::Other(_) => Err("UnsupportedProtocol"),
            };
            PortState { spec, transport, route: None, refused: None, is_served: false }
        });
        services.push(ServiceState {
            object,
            fault,
            addresses: Vec::new(),
            refused: Vec::new(),
            pool: None,
            address_fault: None,
            note: None,
            sources,
            ports: ports.collect(),
        });
    }
    services.sort_by(|a, b| by_age(&a.object.meta, &b.object.meta));
    services
}

/// Nobody is let in for a text that says nothing: who limits access must not end up without a limit.
fn sources(texts: &[String]) -> Result<Option<Sources>, String> {
    if texts.is_empty() {
        return Ok(None);
    }
    let parse = |text: &String| {
        AddressRange::parse(text).map_err(|error| format!("loadBalancerSourceRanges: {text:?}: {error}"))
    };
    texts.iter().map(parse).collect::<Result<Vec<_>, _>>().map(|ranges| Some(Sources::new(ranges)))
}

/// How long a client stays with its endpoint.
fn affinity(spec: &ServiceSpec) -> Option<Duration> {
    (spec.session_affinity == Some(SessionAffinity::ClientIp)).then(|| {
        let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
        let seconds = config.and_then(|client_ip| client_ip.timeout_seconds);
        seconds.map_or(AFFINITY_TIMEOUT, |seconds| Duration::from_secs(seconds.into()))
    })
}

/// Leads every port to its endpoints.
pub(super) fn connect(backends: &Backends<'_, '_>, services: &mut [ServiceState<'_>], upstreams: &mut Upstreams) {
    let profile = Profile::default();
    let served = |service: &&mut ServiceState<'_>| service.fault.is_none() && !service.addresses.is_empty();
    for service in services.iter_mut().filter(served) {
        let key = &service.object.meta.key;
        let referrer = Referrer {
            kind: Kind::Service,
            namespace: &key.namespace,
            gateways: &[],
            profile: &profile,
            traffic: &profile.traffic,
            sections: &[],
        };
        let affinity = affinity(&service.object.spec);
        let object = ObjectRef::new(Kind::Service, key.clone());
        for port in &mut service.ports {
            port.refused =
                Refused::everywhere(&service.refused, &service.addresses, port.spec.port, &port.spec.protocol);
            if port.refused.is_some() {
                continue;
            }
            // Bytes go through as they are: a BackendTLSPolicy is for who originates TLS.
            let purpose = match port.transport {
                Ok(Transport::Tcp) => Use::Stream { passthrough: true },
                Ok(Transport::Udp) => Use::Udp,
                // HTTP/3 is a listener's.
                Ok(Transport::Quic) | Err(_) => continue,
            };
            let resolved = backends.resolve(referrer, Reference::service(key, port.spec.port), purpose, upstreams);
            let backend = Backend {
                weight: 1,
                reference: resolved.reference,
                target: resolved.target,
                filters: Arc::clone(&backends.context.no_filters),
                balance: resolved.balance,
                fallback: false,
            };
            port.route =
                Some(StreamRoute { route: object.clone(), backends: vec![backend], affinity, admission: None });
        }
    }
}

/// Puts what is served into the snapshot; each port is given to `bind` with the addresses that it is reached at.
pub(super) fn build(
    services: &mut [ServiceState<'_>],
    client: &ClientSettings,
    snapshot: &mut Snapshot,
    mut bind: impl FnMut(&mut Snapshot, &ServiceState<'_>, u16, Transport, PortServe),
) {
    for service in services.iter_mut().filter(|service| service.fault.is_none() && !service.addresses.is_empty()) {
        for place in 0..service.ports.len() {
            let port = &mut service.ports[place];
            let (Ok(transport), Some(route)) = (port.transport, port.route.take()) else { continue };
            let (route, number) = (Some(route), port.spec.port);
            let id = crate::snapshot::ListenerId(super::ports::count(snapshot.listeners.len()));
            let (serve, port_serve) = match transport {
                Transport::Tcp => (ListenerServe::Tcp { route }, PortServe::Tcp { listener: id }),
                Transport::Udp => (ListenerServe::Udp { route }, PortServe::Udp { listener: id }),
                Transport::Quic => continue,
            };
            port.is_served = true;
            snapshot.listeners.push(Listener {
                parent: ObjectRef::new(Kind::Service, service.object.meta.key.clone()),
                name: name(port.spec),
                port: number,
                hostname: HostPattern::Any,
                policy: None,
                client: client.clone(),
                serve,
            });
            bind(snapshot, service, number, transport, port_serve);
        }
    }
}

/// The name of a port, as a listener has one.
fn name(port: &ServicePort) -> Box<str> {
    match port.name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => name.into(),
        None => format!("{}/{}", port.port, port.protocol.as_str().to_ascii_lowercase()).into(),
    }
}

pub(super) fn report(services: &[ServiceState<'_>], out: &mut Vec<(ObjectRef, ObjectReport)>) {
    for service in services {
        let allocated = service.fault.as_ref().or(service.address_fault.as_ref());
        let programmed = programmed(service);
        let listeners = service.ports.iter().map(|port| {
            let fault = match port.transport {
                Err(reason) => Some(Fault::new(reason, format!("{} is not supported", port.spec.protocol))),
                Ok(_) if let Some(why) = &port.refused => Some(Fault::new("PortUnavailable", why.as_str())),
                Ok(_) if !port.is_served => programmed.clone(),
                Ok(_) => None,
            };
            ListenerReport {
                name: name(port.spec),
                port: port.spec.port,
                protocol: port.spec.protocol.as_str().into(),
                hostname: None,
                supported_kinds: Vec::new(),
                attached_routes: 0,
                conditions: vec![condition("Programmed", "Programmed", fault.as_ref())],
            }
        });
        let ports = service.ports.iter().map(|port| ServicePortReport {
            port: port.spec.port,
            protocol: port.spec.protocol.as_str().into(),
            error: port.transport.err().or(port.refused.as_ref().map(|_| "PortUnavailable")),
        });
        let report = ObjectReport {
            generation: service.object.meta.generation,
            conditions: vec![
                condition("Allocated", "IPAllocated", allocated),
                condition("Programmed", "Programmed", programmed.as_ref()),
            ],
            addresses: service.addresses.iter().map(|(address, _)| *address).collect(),
            listeners: listeners.collect(),
            load_balancer: Some(Box::new(LoadBalancerReport {
                pool: service.pool.clone(),
                ports: ports.collect(),
                note: service.note.clone(),
            })),
            ..ObjectReport::default()
        };
        out.push((service.reference(), report));
    }
}

fn programmed(service: &ServiceState<'_>) -> Option<Fault> {
    if let Some(fault) = &service.fault {
        return Some(Fault::new("Invalid", fault.message.clone()));
    }
    if service.addresses.is_empty() {
        let why = service.address_fault.as_ref().map_or("it has no address", |fault| &fault.message);
        return Some(Fault::new("AddressNotAssigned", why));
    }
    if service.ports.iter().any(|port| port.is_served) {
        return None;
    }
    let refused = service.ports.iter().find_map(|port| port.refused.as_deref());
    Some(match refused {
        Some(why) => Fault::new("PortUnavailable", why),
        None => Fault::new("UnsupportedProtocol", "none of its ports is TCP or UDP"),
    })
}
