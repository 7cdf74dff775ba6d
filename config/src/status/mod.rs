//! Kubernetes-style status of every object: what compile reported, joined with what the world looks like.
//!
//! Flows in: a [`Report`] with its [`Snapshot`], and an [`Observed`] of plain values. Flows out: one `status` value per
//! object, without `lastTransitionTime`, which the writer adds by comparing with what it wrote before. Conditions only
//! get worse here: compile says what can be served, the world says whether it is.
//!
//! Standards: Gateway API v1.6.1 GatewayStatus, ListenerSetStatus, RouteStatus, PolicyStatus, GatewayClassStatus.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use foldhash::{HashMap, HashMapExt};
use serde_json::{Map, Value, json};

use crate::names::{CertId, Kind, ObjectRef};
use crate::report::{
    CERTIFICATE_READY, Condition, ListenerReport, ObjectReport, ParentReport, Report, ServicePortReport,
};
use crate::snapshot::{Listener, ListenerId, ListenerServe, PortServe, Snapshot, Transport};

/// What the actors see of one snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Whether every worker serves this snapshot.
    pub acknowledged: bool,
    /// One that is absent was not tried yet.
    pub sockets: BTreeMap<(SocketAddr, Transport), Outcome>,
    /// Addresses on an interface. One that is absent was not tried yet.
    pub vips: BTreeMap<IpAddr, VipState>,
    /// One that is absent is not at hand.
    pub certificates: BTreeMap<CertId, CertificateState>,
    /// Gateways and ListenerSets that not every edge serves as they are now, and which one does not.
    pub pending: BTreeMap<ObjectRef, String>,
    /// Policies and filters that ask somebody who is away, and what that comes to.
    pub troubles: BTreeMap<ObjectRef, String>,
}

/// Whether something worked, or in one line why not.
pub type Outcome = Result<(), String>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VipState {
    pub bound: Outcome,
    /// An error is the reason for which it is not announced; `Ok` also where nothing announces addresses.
    pub announced: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateState {
    /// Valid now.
    Present,
    /// The internal CA's stands in for it.
    Placeholder { why: String },
    /// Expired, not valid yet, or of no use for its names; it is served all the same.
    Unfit { why: String },
    /// It could not be loaded or issued.
    Failed { why: String },
}

impl Observed {
    /// A world in which everything of the snapshot works: what is true once it is programmed.
    pub fn programmed(snapshot: &Snapshot) -> Self {
        let certificates = snapshot.listeners.iter().filter_map(terminate).flat_map(|tls| &tls.certificates);
        let wanted = snapshot.certificates.iter().map(|wanted| &wanted.id);
        Self {
            acknowledged: true,
            sockets: snapshot.sockets.iter().map(|socket| ((socket.address, socket.transport), Ok(()))).collect(),
            vips: snapshot
                .vips
                .iter()
                .map(|vip| (vip.address, VipState { bound: Ok(()), announced: Ok(()) }))
                .collect(),
            certificates: certificates.chain(wanted).map(|id| (id.clone(), CertificateState::Present)).collect(),
            pending: BTreeMap::new(),
            troubles: BTreeMap::new(),
        }
    }
}

/// The `status` of every object of the report.
pub fn render(snapshot: &Snapshot, report: &Report, observed: &Observed) -> BTreeMap<ObjectRef, Value> {
    let world = World::new(snapshot, observed);
    report.objects.iter().map(|(object, report)| (object.clone(), world.status(object, report))).collect()
}

/// Whether the status of objects of a kind follows from the world too, and not from its report alone.
pub fn depends_on_the_world(kind: Kind) -> bool {
    matches!(kind, Kind::Gateway | Kind::ListenerSet | Kind::Certificate | Kind::Service)
}

/// A snapshot and what is seen of it, ready to give the status of one object after the other.
pub struct World<'a> {
    snapshot: &'a Snapshot,
    observed: &'a Observed,
    /// By declaring object and name.
    listeners: HashMap<(&'a ObjectRef, &'a str), ListenerId>,
    /// The sockets through which a listener is reached.
    sockets: HashMap<ListenerId, Vec<(SocketAddr, Transport)>>,
}

/// Why something is not programmed.
struct Fault {
    reason: &'static str,
    message: String,
}

impl<'a> World<'a> {
    pub fn new(snapshot: &'a Snapshot, observed: &'a Observed) -> Self {
        let mut listeners = HashMap::with_capacity(snapshot.listeners.len());
        for (id, listener) in (0u32..).zip(&snapshot.listeners) {
            listeners.insert((&listener.parent, &*listener.name), ListenerId(id));
        }
        let mut sockets: HashMap<ListenerId, Vec<_>> = HashMap::new();
        for socket in &snapshot.sockets {
            let address = (socket.address, socket.transport);
            match snapshot.ports.get(socket.port.index()).map(|port| &port.serve) {
                Some(PortServe::Http { hosts: map } | PortServe::Tls { names: map }) => {
                    map.values().for_each(|id| sockets.entry(*id).or_default().push(address));
                }
                Some(PortServe::Tcp { listener } | PortServe::Udp { listener }) => {
                    sockets.entry(*listener).or_default().push(address);
                }
                None => {}
            }
        }
        Self { snapshot, observed, listeners, sockets }
    }

    /// The `status` of one object of the report.
    pub fn status(&self, object: &ObjectRef, report: &ObjectReport) -> Value {
        let generation = report.generation;
        let mut status = Map::new();
        let faults: Vec<Option<Fault>> =
            report.listeners.iter().map(|listener| self.listener_fault(object, listener)).collect();
        let unissued: Vec<Option<Fault>> =
            report.listeners.iter().map(|listener| self.unissued(object, listener)).collect();
        if !report.conditions.is_empty() {
            let own = match object.kind {
                Kind::Gateway => self.gateway_fault(object, report, &faults),
                Kind::ListenerSet => set_fault(report, &faults),
                Kind::Certificate => self.certificate_fault(object),
                _ => None,
            };
            status.insert("conditions".into(), conditions(&report.conditions, (own.as_ref(), None), generation));
        }
        match object.kind {
            Kind::Gateway => {
                let addresses = report.addresses.iter().filter(|address| self.is_bound(**address));
                let addresses = addresses.map(|address| json!({"type": "IPAddress", "value": address.to_string()}));
                status.insert("addresses".into(), addresses.collect());
                status.insert("listeners".into(), listeners(report, &faults, &unissued));
                let sets = report.attached_listener_sets.unwrap_or_default();
                status.insert("attachedListenerSets".into(), json!(sets));
            }
            Kind::ListenerSet => {
                status.insert("listeners".into(), listeners(report, &faults, &unissued));
            }
            Kind::Service => {
                // Conditions of a Service are nobody's yet: what they would say goes into events.
                status.remove("conditions");
                status.insert("loadBalancer".into(), self.load_balancer(report));
            }
            Kind::GatewayClass => {
                let features = report.supported_features.iter().map(|name| json!({"name": name}));
                status.insert("supportedFeatures".into(), features.collect());
            }
            Kind::HTTPRoute | Kind::GRPCRoute | Kind::TLSRoute | Kind::TCPRoute | Kind::UDPRoute => {
                status.insert("parents".into(), parents(report, "parentRef"));
            }
            Kind::BackendTLSPolicy
            | Kind::ClientTrafficPolicy
            | Kind::BackendTrafficPolicy
            | Kind::SecurityPolicy
            | Kind::UpstreamSettingsPolicy
            | Kind::ClientSettingsPolicy
            | Kind::ProxySettingsPolicy
            | Kind::RateLimitPolicy
            | Kind::SnippetsPolicy => {
                let mut ancestors = parents(report, "ancestorRef");
                if let (Some(why), Some(ancestors)) = (self.observed.troubles.get(object), ancestors.as_array_mut()) {
                    ancestors.iter_mut().for_each(|entry| unreachable(entry, why, generation));
                }
                status.insert("ancestors".into(), ancestors);
            }
            Kind::AuthenticationFilter | Kind::SnippetsFilter => {
                let conditions = status.remove("conditions").unwrap_or_else(|| json!([]));
                let mut own = json!({"controllerName": report.controller, "conditions": conditions});
                if let Some(why) = self.observed.troubles.get(object) {
                    unreachable(&mut own, why, generation);
                }
                status.insert("controllers".into(), json!([own]));
            }
            _ => {}
        }
        Value::Object(status)
    }

    /// `ipMode: Proxy`: connections reach a Pod at its own address. kube-proxy then leaves the VIP alone, and clients
    /// inside the cluster come to Edge like all others. Ports are named where one of them has an error.
    fn load_balancer(&self, report: &ObjectReport) -> Value {
        let ports: &[_] = report.load_balancer.as_ref().map_or(&[], |balancer| &balancer.ports);
        let has_errors = ports.iter().any(|port| port.error.is_some());
        let one = |port: &ServicePortReport| {
            let mut entry =
                Map::from_iter([("port".into(), json!(port.port)), ("protocol".into(), json!(port.protocol))]);
            if let Some(error) = port.error {
                entry.insert("error".into(), json!(error));
            }
            Value::Object(entry)
        };
        let ports: Option<Vec<Value>> = has_errors.then(|| ports.iter().map(one).collect());
        let addresses = report.addresses.iter().filter(|address| self.is_bound(**address));
        let ingress: Vec<Value> = addresses
            .map(|address| {
                let mut entry =
                    Map::from_iter([("ip".into(), json!(address.to_string())), ("ipMode".into(), json!("Proxy"))]);
                if let Some(ports) = &ports {
                    entry.insert("ports".into(), json!(ports));
                }
                Value::Object(entry)
            })
            .collect();
        if ingress.is_empty() { json!({}) } else { json!({ "ingress": ingress }) }
    }

    fn is_bound(&self, address: IpAddr) -> bool {
        self.observed.vips.get(&address).is_some_and(|vip| vip.bound.is_ok())
    }

    /// What keeps a listener that could be served from being served.
    fn listener_fault(&self, parent: &ObjectRef, report: &ListenerReport) -> Option<Fault> {
        let id = self.listeners.get(&(parent, &*report.name))?;
        let listener = self.snapshot.listeners.get(id.index())?;
        let sockets = self.sockets.get(id).map_or(&[][..], Vec::as_slice);
        let mut waiting = None;
        for (address, transport) in sockets {
            match self.observed.sockets.get(&(*address, *transport)) {
                Some(Ok(())) => {}
                // GatewaySpec.Addresses: "MUST bind all Listeners to every GatewayAddress".
                Some(Err(why)) => {
                    return Some(Fault { reason: "PortUnavailable", message: format!("{address}: {why}") });
                }
                None => waiting = Some(address),
            }
        }
        if let Some(address) = waiting {
            return Some(Fault { reason: "Pending", message: format!("{address} is not bound yet") });
        }
        if let Some(fault) = self.unserved(parent) {
            return Some(fault);
        }
        self.certificates_fault(listener, report)
    }

    /// A listener is fine while one of its certificates is. Where somebody is at work to issue it, a placeholder is what
    /// is wanted until then: who waits for the listener, as a challenge may, must not wait for the certificate.
    fn certificates_fault(&self, listener: &Listener, report: &ListenerReport) -> Option<Fault> {
        let may_wait = report.conditions.iter().any(|condition| condition.kind == CERTIFICATE_READY);
        let mut first = None;
        for id in &terminate(listener)?.certificates {
            let message = match self.observed.certificates.get(id) {
                Some(CertificateState::Present) => return None,
                Some(CertificateState::Placeholder { .. }) if may_wait => return None,
                Some(CertificateState::Placeholder { why }) => {
                    format!("certificate {id}: a placeholder is served: {why}")
                }
                Some(CertificateState::Unfit { why } | CertificateState::Failed { why }) => {
                    format!("certificate {id}: {why}")
                }
                None => format!("certificate {id} is not at hand yet"),
            };
            first.get_or_insert(message);
        }
        first.map(|message| Fault { reason: "Invalid", message })
    }

    /// The certificates that a listener is promised by an issuer and that are not there.
    fn unissued(&self, object: &ObjectRef, report: &ListenerReport) -> Option<Fault> {
        let is_promised = |condition: &Condition| condition.kind == CERTIFICATE_READY && condition.status;
        report.conditions.iter().find(|condition| is_promised(condition))?;
        let id = self.listeners.get(&(object, &*report.name))?;
        let ids = &terminate(self.snapshot.listeners.get(id.index())?)?.certificates;
        let mut missing = ids.iter().filter_map(|id| {
            let wanted = self.snapshot.certificates.binary_search_by(|wanted| wanted.id.cmp(id)).ok();
            let wanted = wanted.and_then(|place| self.snapshot.certificates.get(place))?;
            // What the internal CA has in the place of another is no promise.
            if wanted.issuer.away().is_some() {
                return None;
            }
            match self.observed.certificates.get(id) {
                Some(CertificateState::Present) => None,
                Some(
                    CertificateState::Placeholder { why }
                    | CertificateState::Unfit { why }
                    | CertificateState::Failed { why },
                ) => Some((id, why.as_str())),
                None => Some((id, "it is not issued yet")),
            }
        });
        let (id, why) = missing.next()?;
        let more = match missing.count() {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        Some(Fault { reason: "Issuing", message: format!("certificate {id}: {why}{more}") })
    }

    /// Whether somebody does not serve an object as it is now.
    fn unserved(&self, object: &ObjectRef) -> Option<Fault> {
        let message = match self.observed.pending.get(object) {
            Some(why) => why.clone(),
            None if !self.observed.acknowledged => "not every worker serves it yet".to_owned(),
            None => return None,
        };
        Some(Fault { reason: "Pending", message })
    }

    fn gateway_fault(&self, object: &ObjectRef, report: &ObjectReport, listeners: &[Option<Fault>]) -> Option<Fault> {
        for address in &report.addresses {
            match self.observed.vips.get(address).map(|vip| &vip.bound) {
                Some(Ok(())) => {}
                Some(Err(why)) => {
                    return Some(Fault { reason: "AddressNotUsable", message: format!("{address}: {why}") });
                }
                // An address without a socket is not in the snapshot.
                None if self.snapshot.vips.iter().any(|vip| vip.address == *address) => {
                    return Some(Fault { reason: "Pending", message: format!("{address} is not bound yet") });
                }
                None => {}
            }
        }
        self.unserved(object).or_else(|| all_down(report, listeners))
    }

    fn certificate_fault(&self, object: &ObjectRef) -> Option<Fault> {
        let name = object.to_string();
        let wanted = self.snapshot.certificates.iter().find(|wanted| wanted.wanted_by.contains(&name))?;
        match self.observed.certificates.get(&wanted.id) {
            Some(CertificateState::Present) => None,
            Some(
                CertificateState::Placeholder { why }
                | CertificateState::Unfit { why }
                | CertificateState::Failed { why },
            ) => Some(Fault { reason: "Failed", message: why.clone() }),
            None => Some(Fault { reason: "Issuing", message: "not issued yet".to_owned() }),
        }
    }
}

fn terminate(listener: &Listener) -> Option<&crate::snapshot::Terminate> {
    match &listener.serve {
        ListenerServe::Https { tls, .. } | ListenerServe::TlsTerminate { tls, .. } => Some(tls),
        _ => None,
    }
}

fn set_fault(report: &ObjectReport, listeners: &[Option<Fault>]) -> Option<Fault> {
    all_down(report, listeners)
}

/// The fault of the first listener, if no listener is programmed.
fn all_down(report: &ObjectReport, faults: &[Option<Fault>]) -> Option<Fault> {
    let mut first = None;
    for (listener, fault) in report.listeners.iter().zip(faults) {
        match fault {
            None if is_programmed(listener) => return None,
            None => {}
            Some(fault) => {
                first.get_or_insert(fault);
            }
        }
    }
    let fault = first?;
    let reason = if fault.reason == "Pending" { "Pending" } else { "Invalid" };
    Some(Fault { reason, message: format!("no listener is programmed: {}", fault.message) })
}

fn is_programmed(listener: &ListenerReport) -> bool {
    listener.conditions.iter().any(|condition| condition.kind == "Programmed" && condition.status)
}

fn listeners(report: &ObjectReport, faults: &[Option<Fault>], unissued: &[Option<Fault>]) -> Value {
    let one = |(listener, (fault, unissued)): (&ListenerReport, (&Option<Fault>, &Option<Fault>))| {
        let kinds = listener.supported_kinds.iter().map(|kind| json!({"group": kind.group(), "kind": kind.as_str()}));
        json!({
            "name": listener.name,
            // GatewayInvalidRouteKind asks for an empty list, not for none.
            "supportedKinds": kinds.collect::<Vec<_>>(),
            "attachedRoutes": listener.attached_routes,
            "conditions": conditions(&listener.conditions, (fault.as_ref(), unissued.as_ref()), report.generation),
        })
    };
    report.listeners.iter().zip(faults.iter().zip(unissued)).map(one).collect()
}

fn parents(report: &ObjectReport, reference: &str) -> Value {
    let one = |parent: &ParentReport| {
        let mut entry = Map::new();
        entry.insert(reference.to_owned(), serde_json::to_value(&parent.parent).unwrap_or(Value::Null));
        entry.insert("controllerName".to_owned(), json!(parent.controller));
        entry.insert("conditions".to_owned(), conditions(&parent.conditions, (None, None), report.generation));
        Value::Object(entry)
    };
    report.parents.iter().map(one).collect()
}

/// A condition that is there only while somebody is away whom a policy asks. Accepted stays what it is: that is the
/// policy's own.
fn unreachable(entry: &mut Value, why: &str, generation: i64) {
    let Some(conditions) = entry.get_mut("conditions").and_then(Value::as_array_mut) else { return };
    let is_accepted =
        |one: &Value| one.get("type") == Some(&json!("Accepted")) && one.get("status") == Some(&json!("True"));
    if conditions.iter().any(is_accepted) {
        conditions.push(json!({
            "type": "Reachable",
            "status": "False",
            "observedGeneration": generation,
            "reason": "Away",
            "message": why,
        }));
    }
}

/// Conditions in their Kubernetes form. A fault of the world turns `Programmed` or `Ready` false where it was true, and
/// one of certificates `CertificateReady`.
fn conditions(conditions: &[Condition], (fault, unissued): (Option<&Fault>, Option<&Fault>), generation: i64) -> Value {
    let one = |condition: &Condition| {
        let fault = match condition.kind {
            _ if !condition.status => None,
            "Programmed" | "Ready" => fault,
            CERTIFICATE_READY => unissued,
            _ => None,
        };
        let (status, reason, message) = match fault {
            Some(fault) => (false, fault.reason, fault.message.as_str()),
            None => (condition.status, condition.reason, condition.message.as_str()),
        };
        json!({
            "type": condition.kind,
            "status": if status { "True" } else { "False" },
            "observedGeneration": generation,
            "reason": reason,
            "message": message,
        })
    };
    conditions.iter().map(one).collect()
}

#[cfg(test)]
mod tests;
