//! The Gateways of our classes with the ListenerSets attached to them: what later steps fill in and read.

use std::net::IpAddr;
use std::sync::Arc;

use foldhash::HashMap;

use super::classes::{self, parameters};
use super::context::{Context, Fault, by_age};
use super::listeners::{Class, ListenerState};
use super::parameters::Parameters;
use super::traffic::Traffic;
use super::vips::Refused;
use crate::core::PortProtocol;
use crate::gateway::{AddressType, GatewaySpec, ListenerSetSpec};
use crate::inputs::Object;
use crate::names::{CertId, Kind, ObjectKey, ObjectRef};
use crate::policy::Protection;
use crate::problem::Severity;

/// A Gateway of ours.
pub(super) struct GatewayState<'a> {
    pub object: &'a Object<GatewaySpec>,
    pub controller: Arc<str>,
    /// Why it is not Accepted; nothing of it is served then.
    pub fault: Option<Fault>,
    /// Its sets, oldest first, the refused ones included.
    pub sets: Vec<SetState<'a>>,
    /// Its own listeners, then those of its sets in the order of `sets`.
    pub listeners: Vec<ListenerState<'a>>,
    pub addresses: Vec<(IpAddr, String)>,
    /// Ports that others have on its addresses.
    pub refused: Vec<Refused>,
    /// Why not every wanted address is there (reason of Programmed).
    pub address_fault: Option<Fault>,
    /// Shown to backends that ask for a client certificate.
    pub client_certificate: Option<CertId>,
    /// ResolvedRefs of what belongs to no listener.
    pub refs_fault: Option<Fault>,
    /// Some HTTPS listener asks for client certificates but accepts any.
    pub insecure_validation: bool,
    pub profile: Profile,
    /// The pool that its parameters name.
    pub pool: Option<&'a str>,
}

/// What a Gateway adds to the rules of its routes. Where profiles are equal, rules are shared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Profile {
    pub client_certificate: Option<CertId>,
    /// Of its parameters and its policy.
    pub traffic: Arc<Traffic>,
    /// Of policies that are inherited field by field.
    pub protection: Option<Arc<Protection>>,
}

/// A ListenerSet whose parent is a Gateway of ours.
pub(super) struct SetState<'a> {
    pub object: &'a Object<ListenerSetSpec>,
    /// Why no listener of it is attached.
    pub fault: Option<Fault>,
}

impl GatewayState<'_> {
    pub fn key(&self) -> &ObjectKey {
        &self.object.meta.key
    }

    /// Listeners whose port another has on every address are not accepted.
    pub fn refuse(&mut self, refused: Vec<Refused>) {
        for listener in self.listeners.iter_mut().filter(|_| !refused.is_empty()) {
            let protocol = if listener.class == Some(Class::Udp) { PortProtocol::Udp } else { PortProtocol::Tcp };
            if let Some(why) = Refused::everywhere(&refused, &self.addresses, listener.spec.port, &protocol) {
                listener.fault.get_or_insert(Fault::new("PortUnavailable", why));
            }
        }
        self.refused = refused;
    }

    /// What holds at one of its listeners.
    pub fn profile_at(&self, listener: usize) -> Profile {
        let traffic = self.listeners.get(listener).and_then(|listener| listener.traffic.clone());
        let traffic = traffic.unwrap_or_else(|| Arc::clone(&self.profile.traffic));
        Profile { traffic, ..self.profile.clone() }
    }

    pub fn reference(&self) -> ObjectRef {
        ObjectRef::new(Kind::Gateway, self.key().clone())
    }
}

/// All Gateways of ours in the order of age, with their sets, before any listener is judged.
pub(super) fn gateways<'a>(
    context: &Context<'a>,
    classes: &HashMap<&str, classes::Class<'a>>,
) -> Vec<GatewayState<'a>> {
    let inputs = context.inputs;
    let mut gateways = Vec::new();
    for object in inputs.gateways.values() {
        let object: &'a Object<GatewaySpec> = object;
        let name = object.spec.gateway_class_name.as_str();
        let Some(class) = classes.get(name) else {
            let key = ObjectKey::new("", name);
            if !inputs.gateway_classes.contains_key(&key) {
                let message = context.missing(Kind::GatewayClass, &key);
                context.problem(Severity::Warning, Kind::Gateway, &object.meta, message);
            }
            continue;
        };
        let (parameters, fault) = match parameters_of(context, object, class) {
            Ok(parameters) => (parameters, fault(object)),
            Err(fault) => (Parameters::default(), Some(fault)),
        };
        gateways.push(GatewayState {
            object,
            controller: Arc::clone(&class.controller),
            fault,
            sets: Vec::new(),
            listeners: Vec::new(),
            addresses: Vec::new(),
            refused: Vec::new(),
            address_fault: None,
            client_certificate: None,
            refs_fault: None,
            insecure_validation: false,
            profile: parameters.profile(),
            pool: parameters.pool,
        });
    }
    gateways.sort_by(|a, b| by_age(&a.object.meta, &b.object.meta));
    attach_sets(context, &mut gateways);
    gateways
}

/// The Gateway's own parameters, and for the rest those of its class.
fn parameters_of<'a>(
    context: &Context<'a>,
    object: &Object<GatewaySpec>,
    class: &classes::Class<'a>,
) -> Result<Parameters<'a>, Fault> {
    if let Some(fault) = &class.fault {
        let message = format!("its GatewayClass is not accepted: {}", fault.message);
        return Err(Fault::new("InvalidParameters", message));
    }
    let reference =
        object.spec.infrastructure.as_ref().and_then(|infrastructure| infrastructure.parameters_ref.as_ref());
    let Some(reference) = reference else { return Ok(class.parameters.clone()) };
    let target = (&*object.meta.key.namespace, reference.name.as_str());
    Ok(parameters(context, (&reference.group, &reference.kind), target)?.over(&class.parameters))
}

fn fault(object: &Object<GatewaySpec>) -> Option<Fault> {
    let unknown = object.spec.addresses.iter().find(|address| address.kind != AddressType::IpAddress)?;
    Some(Fault::new(
        "UnsupportedAddress",
        format!("address type {:?} is not supported, expected IPAddress", unknown.kind.as_str()),
    ))
}

/// GEP-1713: listeners merge in the order: Gateway, then sets from the oldest to the newest, then by namespace/name.
fn attach_sets<'a>(context: &Context<'a>, gateways: &mut [GatewayState<'a>]) {
    let inputs = context.inputs;
    if inputs.listener_sets.is_empty() {
        return;
    }
    let index: HashMap<&'a ObjectKey, usize> =
        gateways.iter().enumerate().map(|(index, gateway)| (&gateway.object.meta.key, index)).collect();
    for object in inputs.listener_sets.values() {
        let object: &'a Object<ListenerSetSpec> = object;
        let parent = &object.spec.parent_ref;
        if Kind::of(&parent.group, &parent.kind) != Some(Kind::Gateway) {
            let message = format!("parentRef: {} of group {:?} cannot be a parent", parent.kind, parent.group);
            context.problem(Severity::Warning, Kind::ListenerSet, &object.meta, message);
            continue;
        }
        let home = &*object.meta.key.namespace;
        let key = ObjectKey::new(parent.namespace.as_deref().unwrap_or(home), parent.name.as_str());
        let Some(gateway) = index.get(&key).and_then(|index| gateways.get_mut(*index)) else {
            if !inputs.gateways.contains_key(&key) {
                let message = format!("parentRef: {}", context.missing(Kind::Gateway, &key));
                context.problem(Severity::Warning, Kind::ListenerSet, &object.meta, message);
            }
            continue;
        };
        let allowed = &gateway.object.spec.allowed_listeners.namespaces;
        let fault = if !context.allows(&allowed.from, allowed.selector.as_ref(), &key.namespace, home) {
            let message =
                format!("{} does not allow ListenerSets of namespace {home}", ObjectRef::new(Kind::Gateway, key));
            Some(Fault::new("NotAllowed", message))
        } else {
            gateway.fault.as_ref().map(|fault| Fault::new("ParentNotAccepted", fault.message.clone()))
        };
        gateway.sets.push(SetState { object, fault });
    }
    for gateway in gateways {
        gateway.sets.sort_by(|a, b| by_age(&a.object.meta, &b.object.meta));
    }
}
