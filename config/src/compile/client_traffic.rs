//! ClientTrafficPolicy: which one holds for a listener, what it comes to, and its status.
//!
//! A policy of one listener (`sectionName`) goes before one of its ListenerSet, and that before one of the Gateway, each
//! wholly. Of two for one target the older has it. A policy that cannot be honoured is not in effect, and where it was to
//! validate clients, nobody comes in; fields that are not acted on are named in its status.

mod validation;
mod values;

use std::collections::BTreeSet;
use std::collections::hash_map::Entry;

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};

use super::context::{Context, Fault};
use super::gateways::GatewayState;
use super::listeners::{Class, ListenerState};
use super::policies::{Status, TARGET_NOT_FOUND, ancestor, conflicted, elsewhere, invalid, oldest_first, targets};
use super::ports::client_settings;
use super::tls::TrustStore;
use super::traffic::unacted;
use crate::envoy::ClientTrafficPolicySpec;
use crate::gateway::Protocol;
use crate::inputs::Object;
use crate::names::{Kind, ObjectKey, ObjectRef};
use crate::policy::CertificateField;
use crate::problem::Severity;
use crate::report::{Condition, ObjectReport};
use crate::snapshot::ProxyPresence;
use values::Client;
pub(super) use values::tls_parameters;

/// A Gateway or ListenerSet, and perhaps one listener of it.
type Target = (Kind, ObjectKey, Option<Box<str>>);

/// The policies that hold, with what each comes to. One that cannot be honoured is among them where it validates clients.
type Chosen<'a> = HashMap<Target, (&'a Object<ClientTrafficPolicySpec>, Result<Client, Fault>)>;

/// Gives every listener its client settings: edge.toml's, as changed by the policy for its section, set or Gateway.
pub(super) fn client_traffic(
    context: &Context<'_>,
    gateways: &mut [GatewayState<'_>],
    trust: &mut TrustStore,
    out: &mut Vec<(ObjectRef, ObjectReport)>,
) {
    let mut chosen: Chosen<'_> = HashMap::new();
    let places = Places::of(gateways);
    let mut policies = oldest_first(&context.inputs.client_traffic_policies);
    // One that cannot be read may be about everything: what others are known to be about is theirs.
    policies.sort_by_key(|policy| policy.spec.unreadable.is_some());
    for policy in policies {
        let mut status = Status::new(Kind::ClientTrafficPolicy, &policy.meta);
        status.notes.extend(unacted("spec", &crate::manifest::unacted(Kind::ClientTrafficPolicy, &policy.spec)));
        let judged = match &policy.spec.unreadable {
            None => values::client(context, policy),
            Some(why) => Err(invalid(why.clone())),
        };
        for target in &targets(context, &policy.meta, policy.spec.targets(), &policy.spec.target_selectors) {
            let kind = Kind::of(&target.group, &target.kind);
            let Some(kind @ (Kind::Gateway | Kind::ListenerSet)) = kind else {
                let message = format!("targetRefs: {} of group {:?} cannot be a target", target.kind, target.group);
                context.problem(Severity::Error, Kind::ClientTrafficPolicy, &policy.meta, message);
                continue;
            };
            let object = ObjectRef::new(kind, ObjectKey::new(&*policy.meta.key.namespace, target.name.as_str()));
            if context.inputs.meta(&object).is_none() {
                status.not_found(context, target, kind, elsewhere(context, kind, &object.key.name));
                continue;
            }
            let Some(gateway) = places.gateway(&object).map(|place| &gateways[place]) else { continue };
            let section = target.section_name.as_deref().filter(|name| !name.is_empty());
            let fault = match &judged {
                _ if !has_section(gateway, &object, section) => {
                    let message = format!("targetRefs: {object} has no listener {}", section.unwrap_or_default());
                    Some(Fault::new(TARGET_NOT_FOUND, message))
                }
                Err(fault) if !validates(&policy.spec) => Some(fault.clone()),
                judged => match chosen.entry((kind, object.key.clone(), section.map(Into::into))) {
                    Entry::Occupied(rival) => Some(conflicted(&rival.get().0.meta.key)),
                    Entry::Vacant(free) => {
                        free.insert((policy, judged.clone()));
                        judged.as_ref().err().cloned()
                    }
                },
            };
            let mut parent = ancestor(&object.key, section);
            parent.kind = kind.as_str().to_owned();
            let of_all = status.notes.len();
            status.notes.extend(in_clear(gateway, &object, section, &policy.spec));
            status.add(context, parent, &gateway.controller, fault.as_ref());
            status.notes.truncate(of_all);
        }
        status.finish(context, out);
    }
    settle(context, gateways, trust, &chosen);
}

/// Where Gateways are, and whose ListenerSets are.
struct Places {
    gateways: HashMap<ObjectKey, usize>,
    sets: HashMap<ObjectKey, usize>,
}

impl Places {
    fn of(gateways: &[GatewayState<'_>]) -> Self {
        let mut places = Self { gateways: HashMap::with_capacity(gateways.len()), sets: HashMap::new() };
        for (place, gateway) in gateways.iter().enumerate() {
            places.gateways.insert(gateway.key().clone(), place);
            for listener in gateway.listeners.iter().filter(|listener| listener.set.is_some()) {
                places.sets.entry(listener.parent.clone()).or_insert(place);
            }
        }
        places
    }

    fn gateway(&self, object: &ObjectRef) -> Option<usize> {
        let places = if object.kind == Kind::Gateway { &self.gateways } else { &self.sets };
        places.get(&object.key).copied()
    }
}

/// Whether it lets in clients only whose certificates it has validated.
fn validates(spec: &ClientTrafficPolicySpec) -> bool {
    spec.unreadable.is_some() || spec.tls.as_ref().is_some_and(|tls| tls.client_validation.is_some())
}

/// What is said of certificates of clients has no effect on listeners that do not terminate TLS: names them.
fn in_clear(
    gateway: &GatewayState<'_>,
    object: &ObjectRef,
    section: Option<&str>,
    spec: &ClientTrafficPolicySpec,
) -> Option<Condition> {
    const SHOWN: usize = 8;
    let forwarding = spec.headers.as_ref().and_then(|headers| headers.x_forwarded_client_cert.as_ref());
    let told = forwarding.and_then(|field| validation::certificate_field(field).ok().flatten());
    let fields = [
        ("spec.tls.clientValidation", spec.tls.as_ref().is_some_and(|tls| tls.client_validation.is_some())),
        // What removes or passes on what the client sends is done in clear as well.
        ("spec.headers.xForwardedClientCert", told.and_then(CertificateField::details).is_some()),
    ];
    let fields: Vec<&str> = fields.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name).collect();
    let is_about = |listener: &&ListenerState<'_>| match object.kind {
        // Listeners of sets are the Gateway's, too.
        Kind::Gateway if section.is_none() => true,
        _ => {
            (object.kind == Kind::ListenerSet) == listener.set.is_some()
                && *listener.parent == object.key
                && section.is_none_or(|section| listener.spec.name == section)
        }
    };
    let clear = gateway.listeners.iter().filter(is_about).filter(|listener| !listener.terminates());
    let names: BTreeSet<String> = clear.map(|listener| listener.spec.name.clone()).collect();
    if fields.is_empty() || names.is_empty() {
        return None;
    }
    let more = names.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let names: Vec<String> = names.into_iter().take(SHOWN).collect();
    let message =
        format!("{}: no effect on listeners that do not terminate TLS ({}{more})", fields.join(", "), names.join(", "));
    Some(Condition { kind: "Warning", status: true, reason: "UnsupportedField", message })
}

fn has_section(gateway: &GatewayState<'_>, object: &ObjectRef, section: Option<&str>) -> bool {
    let is_of_it = |listener: &&ListenerState<'_>| {
        (object.kind == Kind::ListenerSet) == listener.set.is_some() && *listener.parent == object.key
    };
    section.is_none_or(|section| gateway.listeners.iter().filter(is_of_it).any(|own| own.spec.name == section))
}

fn settle(context: &Context<'_>, gateways: &mut [GatewayState<'_>], trust: &mut TrustStore, chosen: &Chosen<'_>) {
    let proxy = &context.inputs.settings.proxy;
    let mut unbelieved: HashSet<&ObjectKey> = HashSet::new();
    for gateway in gateways.iter_mut() {
        let whole = (Kind::Gateway, gateway.key().clone(), None);
        for listener in &mut gateway.listeners {
            let kind = if listener.set.is_some() { Kind::ListenerSet } else { Kind::Gateway };
            let own = (kind, listener.parent.clone(), Some(Box::from(listener.spec.name.as_str())));
            let of_set = (kind, listener.parent.clone(), None);
            let found = chosen.get(&own).or_else(|| chosen.get(&of_set)).or_else(|| chosen.get(&whole));
            let client = found.and_then(|(_, client)| client.as_ref().ok());
            listener.client = Some(client.map_or_else(|| client_settings(proxy), |client| client.settings.clone()));
            listener.keepalive = client.and_then(|client| client.keepalive);
            if let Some((policy, Err(fault))) = found
                && listener.terminates()
            {
                let why =
                    format!("ClientTrafficPolicy {}: {}; nobody is let in unvalidated", policy.meta.key, fault.message);
                listener.fault.get_or_insert(invalid(why));
            }
            if let (Some(terminate), Some(client)) = (&mut listener.terminate, client) {
                terminate.parameters.clone_from(&client.tls);
                // In place of what the Gateway says itself (`spec.tls.frontend`), wholly.
                if let Some(validation) = &client.validation {
                    terminate.client_validation = validation.wish(trust.intern(validation.cas.clone()));
                    terminate.demands.clone_from(&validation.demands);
                }
            }
            if listener.class == Some(Class::Udp) {
                continue;
            }
            let found = found.filter(|(_, client)| client.is_ok());
            let wish = found.and_then(|(policy, _)| policy.spec.proxy_presence());
            listener.proxy_protocol = wish.unwrap_or(proxy.proxy_protocol);
            if proxy.proxy_protocol_from.is_empty()
                && let (Some((policy, _)), Some(Some(_))) = (found, wish)
                && unbelieved.insert(&policy.meta.key)
            {
                let message = "proxyProtocol: no source is trusted ([proxy] proxy_protocol_from of edge.toml is \
                    empty), so connections with a header are closed, and where it is required all are";
                context.problem(Severity::Error, Kind::ClientTrafficPolicy, &policy.meta, message.to_owned());
            }
        }
        one_for_a_port(context, gateway);
        http3(context, gateway, chosen);
    }
}

/// Leaves HTTP/3 with the listeners that can serve it, and says why others cannot. That a policy for a whole Gateway does
/// not mean its listeners in clear needs no word.
fn http3(context: &Context<'_>, gateway: &mut GatewayState<'_>, chosen: &Chosen<'_>) {
    let whole = (Kind::Gateway, gateway.key().clone(), None);
    for listener in &mut gateway.listeners {
        let Some(client) = listener.client.as_mut().filter(|client| client.http3) else { continue };
        let is_https = listener.spec.protocol == Protocol::Https;
        let has_tls13 = listener.terminate.as_ref().and_then(|terminate| terminate.parameters.as_ref());
        let why = if !is_https {
            "it is no HTTPS listener"
        } else if has_tls13.is_some_and(|parameters| !parameters.tls13) {
            "QUIC is TLS 1.3, which tls.maxVersion leaves out"
        } else if listener.proxy_protocol == Some(ProxyPresence::Required) {
            "PROXY protocol is required on its port, and QUIC has no such header"
        } else {
            continue;
        };
        client.http3 = false;
        let (kind, parent) = (listener.kind(), listener.parent.clone());
        let own = (kind, parent.clone(), Some(Box::from(listener.spec.name.as_str())));
        let of_own = chosen.get(&own);
        let found = of_own.or_else(|| chosen.get(&(kind, parent, None))).or_else(|| chosen.get(&whole));
        let Some((policy, _)) = found.filter(|_| is_https || of_own.is_some()) else { continue };
        let message = format!("http3: not served by listener {} of {}: {why}", listener.spec.name, listener.parent);
        context.problem(Severity::Warning, Kind::ClientTrafficPolicy, &policy.meta, message);
    }
}

/// The header comes before anything that tells listeners apart, so those of a port are alike: the strictest wish counts.
fn one_for_a_port(context: &Context<'_>, gateway: &mut GatewayState<'_>) {
    let mut strictest: HashMap<u16, ProxyPresence> = HashMap::new();
    for listener in gateway.listeners.iter().filter(|listener| listener.is_valid()) {
        if let Some(presence) = listener.proxy_protocol {
            let known = strictest.entry(listener.spec.port).or_insert(presence);
            *known = presence.max(*known);
        }
    }
    for listener in gateway.listeners.iter_mut().filter(|listener| listener.class != Some(Class::Udp)) {
        let Some(presence) = strictest.get(&listener.spec.port).copied() else { continue };
        if listener.is_valid() && listener.proxy_protocol != Some(presence) {
            let message = format!(
                "listener {}: PROXY protocol is {} as for another listener of port {}",
                listener.spec.name,
                if presence == ProxyPresence::Required { "required" } else { "accepted" },
                listener.spec.port
            );
            context.problem(Severity::Warning, Kind::Gateway, &gateway.object.meta, message);
            listener.proxy_protocol = Some(presence);
        }
    }
}
