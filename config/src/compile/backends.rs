//! References to backends: whether they may be followed and where they lead. One Service port, as one Gateway speaks
//! to it, is one upstream, however many routes use it.

use std::fmt::Write as _;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};

use super::backend_kind::{SpokenTls, backend_fault};
use super::backend_tls::TlsPolicies;
use super::context::{Context, Fault, fingerprint};
use super::gateways::Profile;
use super::tls::TrustStore;
use super::traffic::Traffic;
use super::upstream_settings::UpstreamSettings;
use crate::core::{PortProtocol, ServicePort, ServiceSpec};
use crate::envoy::{BackendProtocol, BackendSpec};
use crate::gateway::{BackendObjectRef, BackendRef};
use crate::inputs::Object;
use crate::names::{CertId, Kind, ObjectKey, ObjectRef};
use crate::policy::{Balance, UpstreamPolicy};
use crate::snapshot::{
    PolicyService, ProxyVersion, Target, Upstream, UpstreamId, UpstreamKey, UpstreamProtocol, UpstreamTls,
};

/// The variant of an upstream that is spoken to in UDP.
pub(super) const UDP: &str = UpstreamKey::UDP;

/// What a route does with its backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Use {
    Http,
    Grpc,
    /// TCP; BackendTLSPolicy applies where TLS does not reach through to the backend.
    Stream {
        passthrough: bool,
    },
    Udp,
}

/// A reference, whichever shape it was written in.
#[derive(Clone, Copy)]
pub(super) struct Reference<'r> {
    group: &'r str,
    kind: &'r str,
    namespace: Option<&'r str>,
    name: &'r str,
    port: Option<u16>,
}

impl<'r, F> From<&'r BackendRef<F>> for Reference<'r> {
    fn from(r: &'r BackendRef<F>) -> Self {
        Self { group: &r.group, kind: &r.kind, namespace: r.namespace.as_deref(), name: &r.name, port: r.port }
    }
}

impl<'r> Reference<'r> {
    /// A port of a Service.
    pub fn service(key: &'r ObjectKey, port: u16) -> Self {
        Self { group: "", kind: "Service", namespace: Some(&key.namespace), name: &key.name, port: Some(port) }
    }
}

impl<'r> From<&'r BackendObjectRef> for Reference<'r> {
    fn from(r: &'r BackendObjectRef) -> Self {
        Self { group: &r.group, kind: &r.kind, namespace: r.namespace.as_deref(), name: &r.name, port: r.port }
    }
}

/// Services and Backends by name, and the policies about them.
pub(super) struct Backends<'c, 'a> {
    pub context: &'c Context<'a>,
    pub policies: &'c TlsPolicies<'a>,
    pub settings: &'c UpstreamSettings<'a>,
    /// Where nearly all are going to be looked up.
    services: Option<HashMap<(&'a str, &'a str), &'a Object<ServiceSpec>>>,
}

/// The upstreams of a snapshot, each once, in the order of first use.
#[derive(Default)]
pub(super) struct Upstreams {
    pub list: Vec<Arc<Upstream>>,
    pub trust: TrustStore,
    /// Whom policies ask, each name once.
    pub services: Vec<PolicyService>,
    /// By `UpstreamId`, with the reference as the user wrote it.
    pub identities: Vec<Arc<Known>>,
    /// Of the first so many identities; the others are looked through where few are asked for.
    known: HashMap<Identity, UpstreamId>,
    searches: u32,
    /// Whether one was added that was not taken from an earlier compile.
    pub is_on_its_own: bool,
    pub trail: Trail,
}

/// So many identities may be looked through instead of hashed, at any time and for so many times.
const FEW: usize = 64;
const SEARCHES: u32 = 16;

/// What was looked at since somebody cleared it.
#[derive(Default)]
pub(super) struct Trail {
    /// In the order of first use.
    pub used: Vec<UpstreamId>,
    /// Something counted beside the upstreams that are `used`: a reference that leads nowhere, or a policy.
    pub is_branched: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub kind: Kind,
    pub object: ObjectKey,
    port: u16,
    protocol: UpstreamProtocol,
    udp: bool,
    proxy_protocol: Option<ProxyVersion>,
    traffic: Option<Arc<UpstreamPolicy>>,
    /// Of how it is spoken to in TLS.
    tls: Option<u64>,
    client_certificate: Option<CertId>,
}

/// What makes an upstream what it is, and what references to it look like.
pub(super) type Known = (Identity, Arc<str>);

/// Who refers, and on behalf of which Gateways.
#[derive(Clone, Copy)]
pub(super) struct Referrer<'r> {
    pub kind: Kind,
    pub namespace: &'r str,
    pub gateways: &'r [usize],
    pub profile: &'r Profile,
    /// What is said of its way to endpoints.
    pub traffic: &'r Traffic,
    /// The same of single rules, by their names.
    pub sections: &'r [(Box<str>, Arc<Traffic>)],
}

impl Referrer<'_> {
    /// The same for one of its rules.
    pub fn of_rule(mut self, name: Option<&str>) -> Self {
        if let Some((_, traffic)) = self.sections.iter().find(|(section, _)| Some(&**section) == name) {
            self.traffic = traffic;
        }
        self
    }
}

/// Where a reference leads, how it is told to people, how the Service's own policy has it balanced, and whether it is for
/// need.
type Followed = (UpstreamId, Arc<str>, Option<Balance>, bool);

/// A reference that was judged.
pub(super) struct Resolved {
    pub reference: Arc<str>,
    /// Where a policy of the Service says so, and none of the route.
    pub balance: Option<Balance>,
    pub target: Target,
    /// A Backend for need.
    pub fallback: bool,
    pub fault: Option<Fault>,
}

impl Upstreams {
    fn find(&mut self, identity: &Identity) -> Option<(UpstreamId, Arc<str>)> {
        let id = self.id(identity)?;
        if !self.trail.used.contains(&id) {
            self.trail.used.push(id);
        }
        let (_, text) = &**self.identities.get(id.index())?;
        Some((id, Arc::clone(text)))
    }

    fn id(&mut self, identity: &Identity) -> Option<UpstreamId> {
        if let Some(id) = self.known.get(identity) {
            return Some(*id);
        }
        let rest = self.identities.get(self.known.len()..).unwrap_or_default();
        if rest.len() > FEW && self.searches >= SEARCHES {
            self.learn();
            return self.known.get(identity).copied();
        }
        self.searches += u32::from(rest.len() > FEW);
        let place = rest.iter().position(|known| known.0 == *identity)?;
        Some(UpstreamId(u32::try_from(self.known.len() + place).unwrap_or(u32::MAX)))
    }

    fn learn(&mut self) {
        let first = self.known.len();
        for (id, known) in (0..).map(UpstreamId).zip(&self.identities).skip(first) {
            self.known.insert(known.0.clone(), id);
        }
    }

    pub fn is_known(&mut self, identity: &Identity) -> bool {
        self.id(identity).is_some()
    }

    /// Adds one that is not there yet.
    pub fn add(&mut self, identity: Identity, text: Arc<str>, upstream: Upstream) -> UpstreamId {
        self.is_on_its_own = true;
        let id = UpstreamId(u32::try_from(self.list.len()).unwrap_or(u32::MAX));
        if self.known.len() == self.identities.len() {
            self.known.insert(identity.clone(), id);
        }
        self.add_again(Arc::new((identity, text)), Arc::new(upstream));
        self.trail.used.push(id);
        id
    }

    /// The same, of one that an earlier compile had.
    pub fn add_again(&mut self, known: Arc<Known>, upstream: Arc<Upstream>) {
        self.list.push(upstream);
        self.identities.push(known);
    }
}

impl<'c, 'a> Backends<'c, 'a> {
    /// `all`: there are many references to follow.
    pub fn new(
        context: &'c Context<'a>,
        policies: &'c TlsPolicies<'a>,
        settings: &'c UpstreamSettings<'a>,
        all: bool,
    ) -> Self {
        let services = all.then(|| {
            let mut services = HashMap::with_capacity(context.inputs.services.len());
            for (key, service) in &context.inputs.services {
                services.insert((&*key.namespace, &*key.name), &**service);
            }
            services
        });
        Self { context, policies, settings, services }
    }

    fn find(&self, namespace: &str, name: &str) -> Option<&'a Object<ServiceSpec>> {
        match &self.services {
            Some(services) => services.get(&(namespace, name)).copied(),
            None => self.context.inputs.services.get(&ObjectKey::new(namespace, name)).map(|service| &**service),
        }
    }

    /// Follows a reference. What is wrong with it becomes a status for its share of the traffic: 500, or 503 in gRPC,
    /// which the data plane tells as UNAVAILABLE.
    pub fn resolve(
        &self,
        referrer: Referrer<'_>,
        reference: Reference<'_>,
        purpose: Use,
        upstreams: &mut Upstreams,
    ) -> Resolved {
        match self.target(referrer, reference, purpose, upstreams) {
            Ok((id, text, balance, fallback)) => {
                Resolved { reference: text, balance, target: Target::Upstream(id), fallback, fault: None }
            }
            Err((fault, unresolved)) => {
                upstreams.trail.is_branched = true;
                let status = if purpose == Use::Grpc { 503 } else { 500 };
                let target = Target::Invalid { status, reason: fault.message.as_str().into() };
                let fault = unresolved.then_some(fault);
                Resolved {
                    reference: describe(referrer, reference).into(),
                    balance: None,
                    target,
                    fallback: false,
                    fault,
                }
            }
        }
    }

    /// The flag says whether the fault is one of the route's references (ResolvedRefs), rather than a policy's.
    fn target(
        &self,
        referrer: Referrer<'_>,
        reference: Reference<'_>,
        purpose: Use,
        upstreams: &mut Upstreams,
    ) -> Result<Followed, (Fault, bool)> {
        let namespace = reference.namespace.unwrap_or(referrer.namespace);
        let refuse = |reason, message: String| (Fault::new(reason, message), true);
        let kind = match Kind::of(reference.group, reference.kind) {
            Some(kind @ (Kind::Service | Kind::Backend)) => kind,
            _ => {
                let message = format!(
                    "backend {} {}: kind of group {:?} is not supported, expected a Service",
                    reference.kind, reference.name, reference.group
                );
                return Err(refuse("InvalidKind", message));
            }
        };
        // Before anything is looked up: whether the object exists is not for the unpermitted to know.
        if !self.context.grants.permit(referrer.kind, referrer.namespace, kind, namespace, reference.name) {
            let message =
                format!("backend {} not permitted (no ReferenceGrant in {namespace})", describe(referrer, reference));
            return Err(refuse("RefNotPermitted", message));
        }
        let found = match kind {
            Kind::Service => self.service(namespace, reference, purpose),
            _ => self.backend(namespace, reference, purpose),
        };
        let found = found.map_err(|fault| (fault, true))?;
        let with_policy = match purpose {
            Use::Http | Use::Grpc => true,
            Use::Stream { passthrough } => !passthrough,
            Use::Udp => false,
        };
        let policy =
            with_policy.then(|| self.policies.of(kind, found.object, found.port_name, referrer.gateways)).flatten();
        upstreams.trail.is_branched |= policy.is_some();
        if let Some((_, policy)) = policy
            && let Some(fault) = &policy.fault
        {
            let message = format!("BackendTLSPolicy {}: {}", policy.key(), fault.message);
            return Err((Fault::new(fault.reason, message), false));
        }
        let own = found.backend.and_then(|backend| Some((backend, backend.spec.tls.as_ref()?))).filter(|_| with_policy);
        upstreams.trail.is_branched |= own.is_some();
        if found.needs_tls && policy.is_none() && own.is_none() {
            let message = format!("backend {} speaks TLS, but has no BackendTLSPolicy", describe(referrer, reference));
            return Err(refuse("UnsupportedProtocol", message));
        }
        let of_gateway = || referrer.profile.client_certificate.clone();
        let policy = policy.map(|(_, policy)| policy);
        let spoken = match (own, policy) {
            (Some((object, tls)), policy) => {
                let spoken = SpokenTls::of_backend(self.context, object, tls, policy, of_gateway());
                Some(spoken.map_err(|fault| refuse("UnsupportedProtocol", fault.message))?)
            }
            (None, Some(policy)) => Some(SpokenTls::of_policy(policy, of_gateway())),
            (None, None) => None,
        };
        let of_service = if kind == Kind::Service { self.settings.of(found.object, referrer.gateways) } else { None };
        upstreams.trail.is_branched |= of_service.is_some();
        let traffic = match of_service {
            Some(settings) => settings.under(referrer.traffic.upstream.as_ref()),
            None => referrer.traffic.upstream.clone(),
        };
        let balance = of_service.filter(|_| !referrer.traffic.balance_is_own).and_then(|own| own.balance.clone());
        let identity = Identity {
            kind,
            object: found.object.clone(),
            port: found.port,
            protocol: found.protocol,
            udp: purpose == Use::Udp,
            // There is no connection to begin with it.
            proxy_protocol: referrer.traffic.proxy_protocol.filter(|_| purpose != Use::Udp),
            traffic,
            tls: spoken.as_ref().map(|spoken| spoken.print),
            client_certificate: spoken.as_ref().and_then(|spoken| spoken.client_certificate.clone()),
        };
        let fallback = found.backend.is_some_and(|backend| backend.spec.fallback == Some(true));
        if let Some((id, text)) = upstreams.find(&identity) {
            return Ok((id, text, balance, fallback));
        }
        let tls = spoken.map(|spoken| UpstreamTls {
            hostname: spoken.hostname,
            subject_alt_names: spoken.names,
            trust: spoken.cas.map(|cas| upstreams.trust.intern(cas)),
            client_certificate: spoken.client_certificate,
            is_verified: spoken.is_verified,
            parameters: spoken.parameters,
        });
        let object = ObjectRef::new(kind, found.object.clone());
        let text: Arc<str> = match kind {
            Kind::Service => format!("{object}:{}", found.port).into(),
            _ => object.to_string().into(),
        };
        let variant = variant(&identity);
        let upstream = Upstream {
            key: UpstreamKey { object, port: found.port, variant: variant.into() },
            protocol: found.protocol,
            proxy_protocol: identity.proxy_protocol,
            tls,
            policy: identity.traffic.clone(),
        };
        Ok((upstreams.add(identity, Arc::clone(&text), upstream), text, balance, fallback))
    }

    fn service(&self, namespace: &str, reference: Reference<'_>, purpose: Use) -> Result<Found<'a>, Fault> {
        let Some(service) = self.find(namespace, reference.name) else {
            let missing = self.context.missing(Kind::Service, &ObjectKey::new(namespace, reference.name));
            return Err(Fault::new("BackendNotFound", missing));
        };
        let key = &service.meta.key;
        let not_found = |message: String| Fault::new("BackendNotFound", message);
        let number = reference.port.ok_or_else(|| not_found(format!("Service {key}: the reference names no port")))?;
        let transport = if purpose == Use::Udp { PortProtocol::Udp } else { PortProtocol::Tcp };
        let port = service.spec.ports.iter().find(|port| port.port == number && port.protocol == transport);
        let Some(port) = port else {
            // ExternalName Services need no ports.
            if service.spec.external_name.is_some() && service.spec.ports.is_empty() {
                let protocol = protocol(None, purpose).map_or(UpstreamProtocol::Http1, |(protocol, _)| protocol);
                return Ok(Found {
                    object: key,
                    port: number,
                    port_name: None,
                    protocol,
                    needs_tls: false,
                    backend: None,
                });
            }
            return Err(not_found(format!("Service {key} has no {transport} port {number}")));
        };
        let Some((protocol, needs_tls)) = protocol(port.app_protocol.as_deref(), purpose) else {
            let app = port.app_protocol.as_deref().unwrap_or_default();
            let message = format!("Service {key}:{number}: appProtocol {app:?} is not supported");
            return Err(Fault::new("UnsupportedProtocol", message));
        };
        let port_name = port_name(port);
        Ok(Found { object: key, port: number, port_name, protocol, needs_tls, backend: None })
    }

    /// Envoy Gateway's Backend. Its endpoints have ports of their own.
    fn backend(&self, namespace: &str, reference: Reference<'_>, purpose: Use) -> Result<Found<'a>, Fault> {
        let key = ObjectKey::new(namespace, reference.name);
        let backend = self.context.inputs.backends.get(&key);
        let backend =
            backend.ok_or_else(|| Fault::new("BackendNotFound", self.context.missing(Kind::Backend, &key)))?;
        let unsupported = |why: &str| Fault::new("UnsupportedProtocol", format!("Backend {key}: {why}"));
        if let Some(why) = backend_fault(&backend.spec) {
            return Err(unsupported(&why));
        }
        // The order of the list means nothing.
        let protocols = &backend.spec.app_protocols;
        let (protocol, needs_tls) = match purpose {
            Use::Udp if backend.spec.tls.is_some() => {
                return Err(unsupported("tls: nobody speaks it to a UDPRoute's backends"));
            }
            Use::Stream { .. } | Use::Udp => (UpstreamProtocol::Stream, false),
            Use::Grpc => (UpstreamProtocol::Http2, false),
            Use::Http => {
                if let Some(other) = protocols.iter().find(|protocol| !protocol.is_known()) {
                    return Err(unsupported(&format!("appProtocol {:?} is not supported", other.as_str())));
                }
                let speaks = |protocol| protocols.contains(&protocol);
                match (speaks(BackendProtocol::H2c), speaks(BackendProtocol::Wss)) {
                    (true, true) => return Err(unsupported("appProtocols h2c and wss exclude each other")),
                    (true, false) => (UpstreamProtocol::Http2, false),
                    (false, wss) => (UpstreamProtocol::Http1, wss),
                }
            }
        };
        let object = &backend.meta.key;
        Ok(Found { object, port: 0, port_name: None, protocol, needs_tls, backend: Some(backend) })
    }
}

/// The name under which EndpointSlices and policies know a port; the only port of a Service may have none.
pub(super) fn port_name(port: &ServicePort) -> Option<&str> {
    port.name.as_deref().filter(|name| !name.is_empty())
}

struct Found<'a> {
    object: &'a ObjectKey,
    port: u16,
    port_name: Option<&'a str>,
    protocol: UpstreamProtocol,
    needs_tls: bool,
    backend: Option<&'a Object<BackendSpec>>,
}

/// What is spoken to a port (GEP-1911), and whether it needs TLS. `None`: nothing that this kind of route can speak.
/// Plain `https` is not asked to have a policy: Services carried it before BackendTLSPolicy, and the suite's own do.
fn protocol(app: Option<&str>, purpose: Use) -> Option<(UpstreamProtocol, bool)> {
    match purpose {
        Use::Stream { .. } | Use::Udp => return Some((UpstreamProtocol::Stream, false)),
        Use::Grpc => return Some((UpstreamProtocol::Http2, false)),
        Use::Http => {}
    }
    let app = app.unwrap_or_default();
    let is = |names: &[&str]| names.iter().any(|name| app.eq_ignore_ascii_case(name));
    if is(&["", "http", "https", "tcp", "tls", "ws", "kubernetes.io/ws"]) {
        Some((UpstreamProtocol::Http1, false))
    } else if is(&["kubernetes.io/h2c", "h2c", "http2", "grpc"]) {
        Some((UpstreamProtocol::Http2, false))
    } else if is(&["kubernetes.io/wss", "wss"]) {
        Some((UpstreamProtocol::Http1, true))
    } else {
        None
    }
}

/// Whether an HTTPRoute's backend with this appProtocol is spoken to in HTTP/2.
pub(super) fn is_http2(app: Option<&str>) -> bool {
    protocol(app, Use::Http).is_some_and(|(protocol, _)| protocol == UpstreamProtocol::Http2)
}

fn variant(identity: &Identity) -> String {
    let mut text = match identity.protocol {
        _ if identity.udp => UDP,
        UpstreamProtocol::Http1 => "",
        UpstreamProtocol::Http2 => "h2",
        UpstreamProtocol::Stream => "stream",
    }
    .to_owned();
    let space = |text: &str| if text.is_empty() { "" } else { " " };
    if let Some(version) = identity.proxy_protocol {
        let version = match version {
            ProxyVersion::V1 => "v1",
            ProxyVersion::V2 => "v2",
        };
        let _ = write!(text, "{}proxy {version}", space(&text));
    }
    if let Some(print) = identity.tls {
        let client = &identity.client_certificate;
        let client_print =
            client.as_ref().map(|client| fingerprint([client.0.namespace.as_bytes(), client.0.name.as_bytes()]));
        let _ = write!(text, "{}tls {:08x}", space(&text), print.wrapping_add(client_print.unwrap_or(0)) & 0xffff_ffff);
    }
    if let Some(policy) = &identity.traffic {
        // A plain struct of numbers, texts and lists, for which this cannot fail.
        let bytes = serde_json::to_vec(policy).unwrap_or_default();
        let _ = write!(text, "{}policy {:08x}", space(&text), fingerprint([bytes.as_slice()]) & 0xffff_ffff);
    }
    text
}

fn describe(referrer: Referrer<'_>, reference: Reference<'_>) -> String {
    let namespace = reference.namespace.unwrap_or(referrer.namespace);
    let port = reference.port.map(|port| format!(":{port}")).unwrap_or_default();
    format!("{} {namespace}/{}{port}", reference.kind, reference.name)
}
