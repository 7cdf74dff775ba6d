//! Listeners one by one and against each other: validity, supported kinds, conflicts, overlaps.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};

use super::context::{Context, Fault};
use super::gateways::GatewayState;
use super::traffic::Traffic;
use crate::gateway::{FromNamespaces, Listener, Protocol, TlsMode};
use crate::hosts::HostMap;
use crate::matching::RouteMatch;
use crate::names::{HostPattern, Kind, ObjectKey, ObjectRef};
use crate::report::Condition;
use crate::snapshot::{ClientKeepalive, ClientSettings, ListenerId, ProxyPresence, RulePolicy, StreamRoute, Terminate};

/// A listener of a Gateway or of an attached ListenerSet.
pub(super) struct ListenerState<'a> {
    pub spec: &'a Listener,
    /// The Gateway (`None`) or one of its sets.
    pub set: Option<usize>,
    /// Of the object that declares it: its namespace is home for routes and references.
    pub parent: &'a ObjectKey,
    pub hostname: HostPattern,
    pub class: Option<Class>,
    pub kinds: Vec<Kind>,
    /// Accepted.
    pub fault: Option<Fault>,
    pub conflict: Option<Fault>,
    /// OverlappingTLSConfig: the other listener.
    pub overlap: Option<String>,
    /// ResolvedRefs.
    pub refs_fault: Option<Fault>,
    /// ResolvedRefs, where nothing is wrong with what is served: it is not what its owner wrote last.
    pub outdated: Option<String>,
    /// Programmed, where neither `fault` nor `conflict` explains it.
    pub programmed_fault: Option<Fault>,
    pub terminate: Option<Terminate>,
    pub client: Option<ClientSettings>,
    pub keepalive: Option<ClientKeepalive>,
    /// The strictest of its port.
    pub proxy_protocol: Option<ProxyPresence>,
    /// What policies say of it for rules that have none of their own.
    pub policy: Option<Arc<RulePolicy>>,
    /// What a policy says of the way to endpoints, where it is narrower than the Gateway's.
    pub traffic: Option<Arc<Traffic>>,
    pub attached: u32,
    pub routes: AttachedRoutes,
    /// CertificateReady, where somebody else than a Secret or the internal CA has to do with its certificates.
    pub certificate_ready: Option<Condition>,
    /// Whether its certificates may have to hold the hostnames of routes.
    pub collects_hosts: bool,
    /// Those hostnames.
    pub route_hosts: Vec<HostPattern>,
    /// Set once it is in the snapshot.
    pub id: Option<ListenerId>,
}

/// What routes brought to a listener.
#[derive(Default)]
pub(super) struct AttachedRoutes {
    pub matches: Vec<(HostPattern, Arc<RouteMatch>)>,
    pub streams: HostMap<StreamRoute>,
    /// TCP and UDP: the oldest.
    pub stream: Option<StreamRoute>,
}

/// What may share a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Class {
    Http,
    /// HTTPS and TLS, told apart by server name.
    Tls,
    Tcp,
    Udp,
}

impl ListenerState<'_> {
    /// Whether it takes connections or datagrams without looking for HTTP in them.
    pub fn is_stream(&self) -> bool {
        matches!(self.spec.protocol, Protocol::Tls | Protocol::Tcp | Protocol::Udp)
    }

    pub fn kind(&self) -> Kind {
        if self.set.is_some() { Kind::ListenerSet } else { Kind::Gateway }
    }

    pub fn parent_ref(&self) -> ObjectRef {
        ObjectRef::new(self.kind(), self.parent.clone())
    }

    /// Whether anything of it may be in the data plane.
    pub fn is_valid(&self) -> bool {
        self.fault.is_none() && self.conflict.is_none()
    }

    pub fn is_passthrough(&self) -> bool {
        self.spec.protocol == Protocol::Tls
            && self.spec.tls.as_ref().is_some_and(|tls| tls.mode == TlsMode::Passthrough)
    }

    /// Whether it terminates TLS and so needs a certificate.
    pub fn terminates(&self) -> bool {
        self.class == Some(Class::Tls) && !self.is_passthrough()
    }

    pub fn describe(&self) -> String {
        format!("{} listener {}", self.parent_ref(), self.spec.name)
    }
}

/// Fills in the listeners of all Gateways: each judged alone, then against the others of its Gateway.
pub(super) fn listeners(context: &Context<'_>, gateways: &mut [GatewayState<'_>]) {
    for gateway in gateways {
        let own = &gateway.object.meta.key;
        for spec in &gateway.object.spec.listeners {
            gateway.listeners.push(judge(context, spec, None, own));
        }
        for (index, set) in gateway.sets.iter().enumerate().filter(|(_, set)| set.fault.is_none()) {
            for spec in &set.object.spec.listeners {
                gateway.listeners.push(judge(context, spec, Some(index), &set.object.meta.key));
            }
        }
        conflicts(&mut gateway.listeners);
        overlaps(&mut gateway.listeners);
    }
}

fn judge<'a>(
    _context: &Context<'_>,
    spec: &'a Listener,
    set: Option<usize>,
    parent: &'a ObjectKey,
) -> ListenerState<'a> {
    let (class, served): (_, &[Kind]) = match &spec.protocol {
        Protocol::Http => (Some(Class::Http), &[Kind::HTTPRoute, Kind::GRPCRoute]),
        Protocol::Https => (Some(Class::Tls), &[Kind::HTTPRoute, Kind::GRPCRoute]),
        Protocol::Tls => (Some(Class::Tls), &[Kind::TLSRoute]),
        Protocol::Tcp => (Some(Class::Tcp), &[Kind::TCPRoute]),
        Protocol::Udp => (Some(Class::Udp), &[Kind::UDPRoute]),
        Protocol::Other(_) => (None, &[]),
    };
    let asked = &spec.allowed_routes.kinds;
    let kinds: Vec<Kind> = if asked.is_empty() {
        served.to_vec()
    } else {
        let mut kinds = Vec::new();
        for kind in asked.iter().filter_map(|kind| Kind::of(&kind.group, &kind.kind)) {
            if served.contains(&kind) && !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        kinds
    };
    let refused = asked.iter().find(|asked| {
        Kind::of(&asked.group, &asked.kind).is_none_or(|kind| !served.contains(&kind)) && class.is_some()
    });
    let hostname = match class {
        // "For protocols that don't require hostname based matching, this field is ignored."
        Some(Class::Tcp | Class::Udp) => Ok(HostPattern::Any),
        _ => HostPattern::parse(spec.hostname.as_deref()),
    };
    let fault = accept(spec, class).or_else(|| {
        let error = hostname.as_ref().err()?;
        let text = spec.hostname.as_deref().unwrap_or_default();
        Some(Fault::new("UnsupportedValue", format!("hostname {text:?} {error}")))
    });
    ListenerState {
        spec,
        set,
        parent,
        hostname: hostname.unwrap_or(HostPattern::Any),
        class,
        kinds,
        fault,
        conflict: None,
        overlap: None,
        outdated: None,
        refs_fault: refused.map(|refused| {
            let message = format!(
                "route kind {} of group {:?} is not served with protocol {}",
                refused.kind, refused.group, spec.protocol
            );
            Fault::new("InvalidRouteKinds", message)
        }),
        programmed_fault: None,
        terminate: None,
        client: None,
        keepalive: None,
        proxy_protocol: None,
        policy: None,
        traffic: None,
        attached: 0,
        routes: AttachedRoutes::default(),
        certificate_ready: None,
        collects_hosts: false,
        route_hosts: Vec::new(),
        id: None,
    }
}

fn accept(spec: &Listener, class: Option<Class>) -> Option<Fault> {
    let unsupported = |message: String| Some(Fault::new("UnsupportedValue", message));
    if class.is_none() {
        let message =
            format!("protocol {:?} is not supported, expected one of {:?}", spec.protocol.as_str(), Protocol::KNOWN);
        return Some(Fault::new("UnsupportedProtocol", message));
    }
    if let FromNamespaces::Other(from) = &spec.allowed_routes.namespaces.from {
        return unsupported(format!("allowedRoutes.namespaces.from {from:?} is not supported"));
    }
    match spec.tls.as_ref().map(|tls| &tls.mode) {
        Some(TlsMode::Other(mode)) => unsupported(format!("tls.mode {mode:?} is not supported")),
        Some(TlsMode::Passthrough) if spec.protocol == Protocol::Https => {
            unsupported("tls.mode Passthrough is not possible with protocol HTTPS".to_owned())
        }
        _ => None,
    }
}

/// GatewaySpec.Listeners: "The implementation MUST NOT pick one conflicting Listener as the winner. ALL indistinct
/// Listeners must not be accepted for processing." This holds within one Gateway and within one set. Between them,
/// GEP-1713 has an order: the Gateway's own listeners, then those of older sets, go first.
fn conflicts(listeners: &mut [ListenerState<'_>]) {
    let mut taken: HashMap<(u16, bool), Vec<Taken>> = HashMap::new();
    let mut start = 0;
    while start < listeners.len() {
        let set = listeners[start].set;
        let end = start + listeners[start..].iter().take_while(|listener| listener.set == set).count();
        let group = &mut listeners[start..end];
        start = end;
        for listener in group.iter_mut() {
            let Some(class) = listener.class.filter(|_| listener.fault.is_none()) else { continue };
            let earlier = taken.get(&(listener.spec.port, class == Class::Udp)).into_iter().flatten();
            if let Some(other) = earlier.into_iter().find(|other| other.clashes(class, &listener.hostname)) {
                listener.conflict = Some(conflict(listener.spec.port, other.class == class, class, &other.name));
            }
        }
        let losers: Vec<bool> = group.iter().map(|listener| listener.conflict.is_some()).collect();
        among_equals(group);
        // One that conflicts with an equal keeps its place: a set must not take what the Gateway asks for.
        for (listener, _) in group.iter().zip(losers).filter(|(_, lost)| !lost) {
            let Some(class) = listener.class.filter(|_| listener.fault.is_none()) else { continue };
            // ListenerSet: "Implementations SHOULD be cautious about what information from the parent or siblings are
            // reported": a set knows its Gateway, but not what other sets there are.
            let name = if set.is_none() { listener.describe() } else { "an older ListenerSet".to_owned() };
            let hostname = listener.hostname.clone();
            taken.entry((listener.spec.port, class == Class::Udp)).or_default().push(Taken { class, hostname, name });
        }
    }
}

struct Taken {
    class: Class,
    hostname: HostPattern,
    name: String,
}

impl Taken {
    fn clashes(&self, class: Class, hostname: &HostPattern) -> bool {
        self.class != class || self.hostname == *hostname
    }
}

fn conflict(port: u16, same_class: bool, class: Class, other: &str) -> Fault {
    if same_class && matches!(class, Class::Http | Class::Tls) {
        Fault::new("HostnameConflict", format!("same port {port} and hostname as {other}"))
    } else {
        Fault::new("ProtocolConflict", format!("port {port} is also asked for by {other}"))
    }
}

fn among_equals(group: &mut [ListenerState<'_>]) {
    let mut ports: HashMap<(u16, bool), Vec<usize>> = HashMap::new();
    for (index, listener) in group.iter().enumerate() {
        if let Some(class) = listener.class.filter(|_| listener.is_valid()) {
            ports.entry((listener.spec.port, class == Class::Udp)).or_default().push(index);
        }
    }
    let mut found = Vec::new();
    for indices in ports.values().filter(|indices| indices.len() > 1) {
        let mut hosts: HashMap<(Class, &HostPattern), Vec<usize>> = HashMap::new();
        let mut classes: Vec<(Class, usize)> = Vec::new();
        for index in indices {
            let listener = &group[*index];
            let Some(class) = listener.class else { continue };
            hosts.entry((class, &listener.hostname)).or_default().push(*index);
            if !classes.iter().any(|(known, _)| *known == class) {
                classes.push((class, *index));
            }
        }
        for index in indices {
            let listener = &group[*index];
            let Some(class) = listener.class else { continue };
            let (other, same) = match classes.iter().find(|(other, _)| *other != class) {
                Some((_, other)) => (Some(other), false),
                None => (hosts[&(class, &listener.hostname)].iter().find(|other| *other != index), true),
            };
            if let Some(other) = other {
                found.push((*index, conflict(listener.spec.port, same, class, &group[*other].describe())));
            }
        }
    }
    for (index, fault) in found {
        group[index].conflict = Some(fault);
    }
}

/// ListenerConditionOverlappingTLSConfig: "Controllers MUST detect the presence of overlapping hostnames". Two patterns
/// overlap exactly if one lies within the other.
fn overlaps(listeners: &mut [ListenerState<'_>]) {
    let mut ports: HashMap<u16, HostMap<usize>> = HashMap::new();
    let tls = |listener: &ListenerState<'_>| listener.class == Some(Class::Tls) && listener.is_valid();
    for (index, listener) in listeners.iter().enumerate().filter(|(_, listener)| tls(listener)) {
        ports.entry(listener.spec.port).or_default().insert(listener.hostname.clone(), index);
    }
    let mut found = Vec::new();
    for (index, listener) in listeners.iter().enumerate().filter(|(_, listener)| tls(listener)) {
        let around = match &listener.hostname {
            HostPattern::Any => continue,
            HostPattern::Exact(name) => name.as_str().to_owned(),
            HostPattern::Wildcard(suffix) => format!("x.{suffix}"),
        };
        let wider = ports[&listener.spec.port].candidates(&around).filter(|other| **other != index);
        // The name made up for a wildcard may also be an exact listener's, which lies within the wildcard.
        for other in wider {
            found.push((index, *other));
            found.push((*other, index));
        }
    }
    for (index, other) in found {
        let name = listeners[other].spec.name.clone();
        listeners[index].overlap.get_or_insert(name);
    }
}
