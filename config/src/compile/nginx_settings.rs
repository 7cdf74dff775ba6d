//! NGINX Gateway Fabric's ClientSettingsPolicy and ProxySettingsPolicy: what they say of Gateways and routes, and their
//! status.
//!
//! Both are inherited as NGINX's directives are: field by field, a route's before its Gateway's. Policies for one target
//! add up as long as they say different things; of two that say the same thing, the older one is in effect and the other
//! one not at all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};

use super::attach::Parents;
use super::context::{Context, Fault};
use super::gateways::GatewayState;
use super::policies::{Status, elsewhere, invalid, oldest_first, route_parents};
use super::protection::{RouteProtections, beside};
use super::rate_limits::of_target;
use super::traffic::unacted;
use crate::gateway::PolicyTargetRef;
use crate::inputs::Meta;
use crate::names::{Kind, ObjectKey, ObjectRef};
use crate::nginx::{ClientSettingsPolicySpec, NginxDuration, ProxySettingsPolicySpec};
use crate::policy::protection::UNBOUNDED;
use crate::policy::{Protection, Waits};
use crate::problem::Severity;
use crate::report::{Condition, ObjectReport};

/// What is said of routes; what is said of Gateways is in the settings of their listeners. How much may pass goes where
/// others say that.
pub(super) fn settings(
    context: &Context<'_>,
    gateways: &mut [GatewayState<'_>],
    protections: &mut RouteProtections,
    out: &mut Vec<(ObjectRef, ObjectReport)>,
) -> BTreeMap<ObjectRef, Arc<Waits>> {
    let inputs = context.inputs;
    if inputs.client_settings_policies.is_empty() && inputs.proxy_settings_policies.is_empty() {
        return BTreeMap::new();
    }
    let mut judge = Judge {
        context,
        parents: Parents::new(gateways),
        gateways,
        said: HashMap::new(),
        protections,
        protected: Vec::new(),
        of_gateways: BTreeMap::new(),
        of_routes: BTreeMap::new(),
    };
    for policy in oldest_first(&inputs.client_settings_policies) {
        let notes = unacted("spec", &crate::manifest::unacted(Kind::ClientSettingsPolicy, &policy.spec));
        let one = One { kind: Kind::ClientSettingsPolicy, meta: &policy.meta, notes, judged: client(&policy.spec) };
        judge.policy(one, std::slice::from_ref(&policy.spec.target_ref), out);
    }
    for policy in oldest_first(&inputs.proxy_settings_policies) {
        let notes = unacted("spec", &crate::manifest::unacted(Kind::ProxySettingsPolicy, &policy.spec));
        let one = One { kind: Kind::ProxySettingsPolicy, meta: &policy.meta, notes, judged: proxy(&policy.spec) };
        judge.policy(one, &policy.spec.target_refs, out);
    }
    let Judge { of_gateways, of_routes, protected, .. } = judge;
    for (gateway, said) in protected {
        let profile = &mut gateways[gateway].profile;
        profile.protection = Some(beside(profile.protection.as_ref(), &said));
    }
    for (gateway, waits) in of_gateways {
        for client in gateways[gateway].listeners.iter_mut().filter_map(|listener| listener.client.as_mut()) {
            // A ClientTrafficPolicy is about the listener alone, and goes first.
            let own = client.waits.as_deref().cloned().unwrap_or_default();
            client.waits = own.over(&waits).or_none();
        }
    }
    of_routes.into_iter().filter_map(|(route, waits)| Some((route, waits.or_none()?))).collect()
}

/// A policy with the fields that it says, and what they come to.
struct One<'p> {
    kind: Kind,
    meta: &'p Meta,
    notes: Option<Condition>,
    judged: Result<Said, String>,
}

#[derive(Default)]
struct Said {
    fields: Vec<&'static str>,
    waits: Waits,
    protection: Option<Protection>,
}

struct Judge<'j, 'a> {
    context: &'j Context<'a>,
    parents: Parents<'a>,
    gateways: &'j [GatewayState<'a>],
    /// Who says a field of a target.
    said: HashMap<(ObjectRef, &'static str), ObjectKey>,
    protections: &'j mut RouteProtections,
    /// The same of Gateways.
    protected: Vec<(usize, Protection)>,
    of_gateways: BTreeMap<usize, Waits>,
    of_routes: BTreeMap<ObjectRef, Waits>,
}

impl Judge<'_, '_> {
    fn policy(&mut self, one: One<'_>, targets: &[PolicyTargetRef], out: &mut Vec<(ObjectRef, ObjectReport)>) {
        let context = self.context;
        let mut status = Status::new(one.kind, one.meta);
        status.notes.extend(one.notes);
        for target in targets {
            let kind = Kind::of(&target.group, &target.kind);
            let Some(kind @ (Kind::Gateway | Kind::HTTPRoute | Kind::GRPCRoute)) = kind else {
                let message = format!("targetRefs: {} of group {:?} cannot be a target", target.kind, target.group);
                context.problem(Severity::Error, one.kind, one.meta, message);
                continue;
            };
            let object = ObjectRef::new(kind, ObjectKey::new(&*one.meta.key.namespace, target.name.as_str()));
            if context.inputs.meta(&object).is_none() {
                status.not_found(context, target, kind, elsewhere(context, kind, &object.key.name));
                continue;
            }
            let found = match kind {
                Kind::Gateway => self.gateways.iter().position(|gateway| *gateway.key() == object.key),
                _ => route_parents(context, &self.parents, &object).first().map(|(_, gateway)| *gateway),
            };
            // Of somebody else's Gateways there is nothing to say.
            let Some(gateway) = found else { continue };
            let fault = match &one.judged {
                Err(why) => Some(invalid(why.clone())),
                Ok(said) => {
                    let fault = self.rival(&object, &said.fields);
                    if fault.is_none() {
                        self.take(&object, gateway, said, &one.meta.key);
                    }
                    fault
                }
            };
            let controller = Arc::clone(&self.gateways[gateway].controller);
            status.add(context, of_target(target, &object), &controller, fault.as_ref());
        }
        status.finish(context, out);
    }

    fn rival(&self, object: &ObjectRef, fields: &[&'static str]) -> Option<Fault> {
        let (field, rival) =
            fields.iter().find_map(|field| Some((field, self.said.get(&(object.clone(), *field))?)))?;
        Some(Fault::new("Conflicted", format!("the older policy {rival} has {field} for {object}")))
    }

    fn take(&mut self, object: &ObjectRef, gateway: usize, said: &Said, by: &ObjectKey) {
        self.said.extend(said.fields.iter().map(|field| ((object.clone(), *field), by.clone())));
        let known = match object.kind {
            Kind::Gateway => self.of_gateways.entry(gateway).or_default(),
            _ => self.of_routes.entry(object.clone()).or_default(),
        };
        *known = known.over(&said.waits);
        match (&said.protection, object.kind) {
            (Some(protection), Kind::Gateway) => self.protected.push((gateway, protection.clone())),
            (Some(protection), _) => self.protections.say(object, protection),
            (None, _) => {}
        }
    }
}

fn client(spec: &ClientSettingsPolicySpec) -> Result<Said, String> {
    let mut waits = Waits::default();
    let body = spec.body.clone().unwrap_or_default();
    waits.body = duration("body.timeout", body.timeout.as_ref())?;
    let max_body = match body.max_size.as_ref().map(|size| (size, size.parse())) {
        None => None,
        Some((_, Some(0))) => Some(UNBOUNDED),
        Some((_, Some(bytes))) => Some(bytes),
        Some((size, None)) => return Err(format!("body.maxSize {:?}, expected a size such as \"10m\"", size.0)),
    };
    let keep = spec.keep_alive.clone().unwrap_or_default();
    waits.keep.age = duration("keepAlive.time", keep.time.as_ref())?.filter(|age| !age.is_zero());
    let timeout = keep.timeout.clone().unwrap_or_default();
    waits.keep.idle = duration("keepAlive.timeout.server", timeout.server.as_ref())?;
    // As with NGINX, none at all means that no connection is kept.
    waits.keep.requests = keep.requests.map(|most| most.max(1));
    let fields = [
        ("body.maxSize", body.max_size.is_some()),
        ("body.bufferSize", body.buffer_size.is_some()),
        ("body.timeout", body.timeout.is_some()),
        ("keepAlive.requests", keep.requests.is_some()),
        ("keepAlive.time", keep.time.is_some()),
        ("keepAlive.timeout", keep.timeout.is_some()),
        ("keepAlive.minTimeout", keep.min_timeout.is_some()),
    ];
    Ok(Said {
        fields: set(&fields),
        waits,
        protection: max_body.map(|most| Protection { max_body: Some(most), ..Protection::default() }),
    })
}

fn proxy(spec: &ProxySettingsPolicySpec) -> Result<Said, String> {
    let mut waits = Waits::default();
    let timeout = spec.timeout.clone().unwrap_or_default();
    waits.connect = duration("timeout.connect", timeout.connect.as_ref())?.filter(|limit| !limit.is_zero());
    waits.read = duration("timeout.read", timeout.read.as_ref())?;
    waits.send = duration("timeout.send", timeout.send.as_ref())?;
    let buffering = spec.buffering.clone().unwrap_or_default();
    let fields = [
        ("buffering.disable", buffering.disable.is_some()),
        ("buffering.bufferSize", buffering.buffer_size.is_some()),
        ("buffering.buffers", buffering.buffers.is_some()),
        ("buffering.busyBuffersSize", buffering.busy_buffers_size.is_some()),
        ("timeout.connect", timeout.connect.is_some()),
        ("timeout.read", timeout.read.is_some()),
        ("timeout.send", timeout.send.is_some()),
    ];
    Ok(Said { fields: set(&fields), waits, protection: None })
}

fn set(fields: &[(&'static str, bool)]) -> Vec<&'static str> {
    fields.iter().filter(|(_, is_set)| *is_set).map(|(field, _)| *field).collect()
}

fn duration(field: &str, text: Option<&NginxDuration>) -> Result<Option<Duration>, String> {
    let Some(text) = text else { return Ok(None) };
    let wrong = || format!("{field}: {:?} is no duration, expected one such as \"60s\" or \"500ms\"", text.0);
    text.parse().map(Some).ok_or_else(wrong)
}
