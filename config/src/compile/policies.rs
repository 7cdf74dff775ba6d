//! Envoy Gateway's policies, as far as they are acted on: what a ClientTrafficPolicy says of listeners, and a
//! BackendTrafficPolicy of rules. One that cannot be honoured is not in effect and says so; it is never half in effect.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};

use super::attach::Parents;
use super::backend_tls::MOST_ANCESTORS;
use super::context::{Context, Fault, by_age, condition};
use super::gateways::{GatewayState, Profile};
use super::listeners::Class;
use super::ports::client_settings;
use crate::envoy::{
    BackendProxyVersion, BackendTrafficPolicySpec, ClientTrafficPolicySpec, EscapedSlashesAction, LoadBalancerType,
    SecurityPolicySpec,
};
use crate::gateway::{ParentReference, PolicyTargetRef};
use crate::inputs::{Meta, Object, Objects};
use crate::names::{Kind, ObjectKey, ObjectRef};
use crate::problem::Severity;
use crate::report::{ObjectReport, ParentReport};
use crate::settings::{EscapedSlashes, RepeatedSlashes};
use crate::snapshot::{Balance, ClientSettings, ProxyPresence, ProxyVersion};

/// Stands for "no timeout" where a duration is needed; far enough away, and safe to add to a clock.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// What policies say of single routes.
pub(super) struct RoutePolicies {
    pub traffic: BTreeMap<ObjectRef, Traffic>,
    /// Routes whose protection is missing, and why.
    pub guards: BTreeMap<ObjectRef, Arc<str>>,
}

const TARGET_NOT_FOUND: &str = "TargetNotFound";

/// An ancestor in a policy's status.
pub(super) fn ancestor(gateway: &ObjectKey, section: Option<&str>) -> ParentReference {
    ParentReference {
        group: crate::gateway::GROUP.to_owned(),
        kind: Kind::Gateway.as_str().to_owned(),
        namespace: Some(gateway.namespace.to_string()),
        name: gateway.name.to_string(),
        section_name: section.map(str::to_owned),
        port: None,
    }
}

/// Collects the ancestors of one policy.
struct Status<'p> {
    kind: Kind,
    meta: &'p Meta,
    parents: Vec<ParentReport>,
    /// Targets that are nowhere.
    lost: Vec<String>,
}

impl<'p> Status<'p> {
    fn new(kind: Kind, meta: &'p Meta) -> Self {
        Self { kind, meta, parents: Vec::new(), lost: Vec::new() }
    }

    fn add(&mut self, context: &Context<'_>, parent: ParentReference, controller: &Arc<str>, fault: Option<&Fault>) {
        match fault {
            Some(fault) if fault.reason == TARGET_NOT_FOUND => self.lost.push(fault.message.clone()),
            Some(fault) => context.problem(Severity::Error, self.kind, self.meta, fault.message.clone()),
            None => {}
        }
        if self.parents.len() < MOST_ANCESTORS && !self.parents.iter().any(|known| *known.parent == parent) {
            let conditions = Arc::new([condition("Accepted", "Accepted", fault)]);
            let parent = Arc::new(parent);
            self.parents.push(ParentReport { parent, controller: Arc::clone(controller), conditions });
        }
    }

    /// A target that is nowhere. Policies reach objects of their own namespace only, which is easily forgotten.
    fn not_found(&mut self, context: &Context<'_>, target: &PolicyTargetRef, kind: Kind, elsewhere: Option<&str>) {
        let key = ObjectKey::new(&*self.meta.key.namespace, target.name.as_str());
        let mut message = format!("targetRefs: {}", context.missing(kind, &key));
        if let Some(namespace) = elsewhere {
            message.push_str(&format!(
                "; there is one in {namespace}, but a policy reaches objects of its own namespace only"
            ));
        }
        let fault = Fault::new(TARGET_NOT_FOUND, message);
        let parent = ParentReference {
            group: target.group.clone(),
            kind: target.kind.clone(),
            namespace: Some(key.namespace.to_string()),
            name: target.name.clone(),
            section_name: target.section_name.clone(),
            port: None,
        };
        let controller = context.inputs.settings.controller_names.first().map_or("", String::as_str).into();
        self.add(context, parent, &controller, Some(&fault));
    }

    fn finish(self, context: &Context<'_>, out: &mut Vec<(ObjectRef, ObjectReport)>) {
        // One line for all: such a policy is most often in the wrong namespace with every target of its list.
        if let Some(first) = self.lost.first() {
            let more = match self.lost.len() {
                1 => String::new(),
                count => format!("; and {} more of its targets are not found", count - 1),
            };
            context.problem(Severity::Warning, self.kind, self.meta, format!("{first}{more}"));
        }
        out.push((
            ObjectRef::new(self.kind, self.meta.key.clone()),
            ObjectReport { generation: self.meta.generation, parents: self.parents, ..ObjectReport::default() },
        ));
    }
}

fn oldest_first<T>(objects: &Objects<T>) -> Vec<&Object<T>> {
    let mut sorted: Vec<&Object<T>> = objects.values().map(|object| &**object).collect();
    sorted.sort_by(|a, b| by_age(&a.meta, &b.meta));
    sorted
}

fn invalid(message: String) -> Fault {
    Fault::new("Invalid", message)
}

fn conflicted(rival: &ObjectKey) -> Fault {
    Fault::new("Conflicted", format!("the older policy {rival} has the same target"))
}

/// Gives every listener its client settings: edge.toml's, as changed by the policy for its section or its Gateway.
pub(super) fn client_traffic(
    context: &Context<'_>,
    gateways: &mut [GatewayState<'_>],
    out: &mut Vec<(ObjectRef, ObjectReport)>,
) {
    let index: HashMap<ObjectKey, usize> =
        gateways.iter().enumerate().map(|(index, gateway)| (gateway.key().clone(), index)).collect();
    // Gateway and section → policy.
    let mut chosen: HashMap<(usize, Option<&str>), &Object<ClientTrafficPolicySpec>> = HashMap::new();
    for policy in oldest_first(&context.inputs.client_traffic_policies) {
        let mut status = Status::new(Kind::ClientTrafficPolicy, &policy.meta);
        for target in policy.spec.targets() {
            let key = ObjectKey::new(&*policy.meta.key.namespace, target.name.as_str());
            let section = target.section_name.as_deref().filter(|name| !name.is_empty());
            if Kind::of(&target.group, &target.kind) != Some(Kind::Gateway) {
                let message = format!("targetRefs: {} of group {:?} cannot be a target", target.kind, target.group);
                context.problem(Severity::Error, Kind::ClientTrafficPolicy, &policy.meta, message);
                continue;
            }
            let Some(found) = index.get(&key).copied() else {
                if !context.inputs.gateways.contains_key(&key) {
                    let elsewhere = context.inputs.gateways.keys().find(|other| other.name == key.name);
                    status.not_found(context, target, Kind::Gateway, elsewhere.map(|key| &*key.namespace));
                }
                continue;
            };
            let gateway = &gateways[found];
            let known = section.is_none_or(|section| gateway.object.spec.listeners.iter().any(|l| l.name == section));
            let fault = if !known {
                let message = format!("targetRefs: Gateway {key} has no listener {}", section.unwrap_or_default());
                Some(Fault::new(TARGET_NOT_FOUND, message))
            } else {
                match chosen.entry((found, section)) {
                    std::collections::hash_map::Entry::Occupied(rival) => Some(conflicted(&rival.get().meta.key)),
                    std::collections::hash_map::Entry::Vacant(free) => {
                        free.insert(policy);
                        None
                    }
                }
            };
            let controller = Arc::clone(&gateway.controller);
            status.add(context, ancestor(&key, section), &controller, fault.as_ref());
        }
        status.finish(context, out);
    }
    let proxy = &context.inputs.settings.proxy;
    let mut unbelieved: HashSet<&ObjectKey> = HashSet::new();
    for (index, gateway) in gateways.iter_mut().enumerate() {
        for listener in &mut gateway.listeners {
            let section = listener.spec.name.as_str();
            // A section is one of the Gateway's own listeners; a policy for the whole also holds for its sets.
            let special = chosen.get(&(index, Some(section))).filter(|_| listener.set.is_none());
            let policy = special.or_else(|| chosen.get(&(index, None)));
            let mut client = client_settings(proxy);
            if let Some(policy) = policy {
                apply(&policy.spec, &mut client);
            }
            listener.client = Some(client);
            if listener.class != Some(Class::Udp) {
                let wish = policy.and_then(|policy| policy.spec.proxy_presence());
                listener.proxy_protocol = wish.unwrap_or(proxy.proxy_protocol);
                if proxy.proxy_protocol_from.is_empty()
                    && let (Some(policy), Some(Some(_))) = (policy, wish)
                    && unbelieved.insert(&policy.meta.key)
                {
                    let message = "proxyProtocol: no source is trusted ([proxy] proxy_protocol_from of edge.toml is \
                        empty), so connections with a header are closed, and where it is required all are";
                    context.problem(Severity::Error, Kind::ClientTrafficPolicy, &policy.meta, message.to_owned());
                }
            }
        }
        one_for_a_port(context, gateway);
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

fn apply(spec: &ClientTrafficPolicySpec, client: &mut ClientSettings) {
    let forwarded = spec.client_ip_detection.as_ref().and_then(|detection| detection.x_forwarded_for.as_ref());
    if let Some(hops) = forwarded.and_then(|forwarded| forwarded.num_trusted_hops) {
        client.trusted_hops = hops;
    }
    if let Some(limit) = spec.connection.as_ref().and_then(|connection| connection.buffer_limit) {
        client.buffer_limit = Some(limit.0);
    }
    if let Some(path) = &spec.path {
        client.path.escaped_slashes = match path.escaped_slashes_action {
            Some(EscapedSlashesAction::KeepUnchanged) => EscapedSlashes::Keep,
            Some(EscapedSlashesAction::RejectRequest) => EscapedSlashes::Reject,
            Some(EscapedSlashesAction::UnescapeAndForward) => EscapedSlashes::Unescape,
            Some(EscapedSlashesAction::UnescapeAndRedirect) => EscapedSlashes::Redirect,
            // An unknown value was refused with the object; absent, edge.toml's holds.
            Some(EscapedSlashesAction::Other(_)) | None => client.path.escaped_slashes,
        };
        client.path.repeated_slashes = match path.disable_merge_slashes {
            Some(true) => RepeatedSlashes::Keep,
            Some(false) => RepeatedSlashes::Merge,
            None => client.path.repeated_slashes,
        };
    }
    let Some(http) = spec.timeout.as_ref().and_then(|timeout| timeout.http) else { return };
    if let Some(idle) = http.idle_timeout {
        client.idle_timeout = if idle.0.is_zero() { NEVER } else { idle.0 };
    }
    // It limits a request up to its last byte, so its head all the more; a longer one does not loosen ours.
    if let Some(received) = http.request_received_timeout.filter(|received| !received.0.is_zero()) {
        client.head_timeout = client.head_timeout.min(received.0);
    }
}

/// What a BackendTrafficPolicy says of the rules that it is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub balance: Option<Balance>,
    pub request_timeout: Option<Duration>,
    pub proxy_protocol: Option<ProxyVersion>,
}

impl Traffic {
    /// What a Gateway says of the routes that have no policy of their own.
    pub fn of(profile: &Profile) -> Self {
        Self {
            balance: profile.balance,
            request_timeout: profile.request_timeout,
            proxy_protocol: profile.proxy_protocol,
        }
    }
}

/// What a BackendTrafficPolicy may be about.
const TRAFFIC_TARGETS: [Kind; 5] = [Kind::Gateway, Kind::HTTPRoute, Kind::GRPCRoute, Kind::TLSRoute, Kind::TCPRoute];

/// A policy of a route goes before, and wholly replaces, one of its Gateway.
pub(super) fn backend_traffic(
    context: &Context<'_>,
    gateways: &mut [GatewayState<'_>],
    out: &mut Vec<(ObjectRef, ObjectReport)>,
) -> BTreeMap<ObjectRef, Traffic> {
    let mut routes = BTreeMap::new();
    if context.inputs.backend_traffic_policies.is_empty() {
        return routes;
    }
    let index: HashMap<ObjectKey, usize> =
        gateways.iter().enumerate().map(|(index, gateway)| (gateway.key().clone(), index)).collect();
    let parents = Parents::new(gateways);
    let mut taken: HashMap<ObjectRef, &ObjectKey> = HashMap::new();
    let mut of_gateways: Vec<(usize, Traffic)> = Vec::new();
    for policy in oldest_first(&context.inputs.backend_traffic_policies) {
        let mut status = Status::new(Kind::BackendTrafficPolicy, &policy.meta);
        let judged = traffic(&policy.spec);
        for target in policy.spec.targets() {
            let key = ObjectKey::new(&*policy.meta.key.namespace, target.name.as_str());
            let kind = Kind::of(&target.group, &target.kind);
            let refused =
                |message: String| context.problem(Severity::Error, Kind::BackendTrafficPolicy, &policy.meta, message);
            let Some(kind) = kind.filter(|kind| TRAFFIC_TARGETS.contains(kind)) else {
                refused(format!("targetRefs: {} of group {:?} cannot be a target", target.kind, target.group));
                continue;
            };
            if let Some(section) = target.section_name.as_deref().filter(|section| !section.is_empty()) {
                refused(format!("targetRefs: sectionName {section:?} is not acted on by this version"));
                continue;
            }
            if matches!(kind, Kind::TLSRoute | Kind::TCPRoute)
                && let Ok(Traffic { balance, request_timeout, .. }) = judged
            {
                let set = [("loadBalancer", balance.is_some()), ("timeout.http", request_timeout.is_some())];
                for (field, _) in set.into_iter().filter(|(_, is_set)| *is_set) {
                    let message = format!("{field} is not acted on for a {kind}");
                    context.problem(Severity::Warning, Kind::BackendTrafficPolicy, &policy.meta, message);
                }
            }
            let object = ObjectRef::new(kind, key);
            if context.inputs.meta(&object).is_none() {
                let elsewhere = elsewhere(context, kind, &object.key.name);
                status.not_found(context, target, kind, elsewhere);
                continue;
            }
            let fault = match (taken.get(&object), &judged) {
                (Some(rival), _) => Some(conflicted(rival)),
                (None, Err(fault)) => Some(fault.clone()),
                (None, Ok(traffic)) => {
                    taken.insert(object.clone(), &policy.meta.key);
                    match (kind, index.get(&object.key)) {
                        (Kind::Gateway, Some(gateway)) => of_gateways.push((*gateway, *traffic)),
                        (Kind::Gateway, None) => {}
                        _ => {
                            routes.insert(object.clone(), *traffic);
                        }
                    }
                    None
                }
            };
            match (kind, index.get(&object.key)) {
                (Kind::Gateway, Some(gateway)) => {
                    status.add(context, ancestor(&object.key, None), &gateways[*gateway].controller, fault.as_ref());
                }
                (Kind::Gateway, None) => {}
                _ => {
                    for (parent, gateway) in route_parents(context, &parents, &object) {
                        status.add(context, parent, &gateways[gateway].controller, fault.as_ref());
                    }
                }
            }
        }
        status.finish(context, out);
    }
    for (gateway, traffic) in of_gateways {
        // What the policy leaves open is as the Gateway's parameters have it.
        let profile = &mut gateways[gateway].profile;
        profile.balance = traffic.balance.or(profile.balance);
        profile.request_timeout = traffic.request_timeout.or(profile.request_timeout);
        profile.proxy_protocol = traffic.proxy_protocol.or(profile.proxy_protocol);
    }
    routes
}

fn traffic(spec: &BackendTrafficPolicySpec) -> Result<Traffic, Fault> {
    let balance = match spec.load_balancer.as_ref().map(|balancer| &balancer.kind) {
        None => None,
        Some(LoadBalancerType::RoundRobin) => Some(Balance::RoundRobin),
        Some(LoadBalancerType::LeastRequest) => Some(Balance::LeastRequest),
        Some(LoadBalancerType::Random) => Some(Balance::Random),
        Some(other) => return Err(invalid(format!("loadBalancer.type {other} is not acted on by this version"))),
    };
    let http = spec.timeout.as_ref().and_then(|timeout| timeout.http);
    let request_timeout = http.and_then(|http| http.request_timeout).map(|timeout| timeout.0);
    let proxy_protocol = match spec.proxy_protocol.as_ref().map(|proxy| &proxy.version) {
        None => None,
        Some(BackendProxyVersion::V1) => Some(ProxyVersion::V1),
        Some(BackendProxyVersion::V2) => Some(ProxyVersion::V2),
        Some(other) => return Err(invalid(format!("proxyProtocol.version {other} is not known, expected V1 or V2"))),
    };
    Ok(Traffic { balance, request_timeout, proxy_protocol })
}

fn elsewhere<'a>(context: &Context<'a>, kind: Kind, name: &str) -> Option<&'a str> {
    let inputs = context.inputs;
    let same = |key: &&'a ObjectKey| &*key.name == name;
    let found = match kind {
        Kind::HTTPRoute => inputs.http_routes.keys().find(same),
        Kind::GRPCRoute => inputs.grpc_routes.keys().find(same),
        Kind::TLSRoute => inputs.tls_routes.keys().find(same),
        Kind::TCPRoute => inputs.tcp_routes.keys().find(same),
        _ => inputs.gateways.keys().find(same),
    };
    found.map(|key| &*key.namespace)
}

/// The Gateways that a route names as parents, in Envoy Gateway's manner: with the section, as ancestors of a policy.
fn route_parents(context: &Context<'_>, parents: &Parents<'_>, route: &ObjectRef) -> Vec<(ParentReference, usize)> {
    let inputs = context.inputs;
    let key = &route.key;
    let references = match route.kind {
        Kind::HTTPRoute => inputs.http_routes.get(key).map(|route| &route.spec.parent_refs),
        Kind::GRPCRoute => inputs.grpc_routes.get(key).map(|route| &route.spec.parent_refs),
        Kind::TLSRoute => inputs.tls_routes.get(key).map(|route| &route.spec.parent_refs),
        Kind::TCPRoute => inputs.tcp_routes.get(key).map(|route| &route.spec.parent_refs),
        Kind::UDPRoute => inputs.udp_routes.get(key).map(|route| &route.spec.parent_refs),
        _ => None,
    };
    let mut found = Vec::new();
    for reference in references.into_iter().flatten() {
        let namespace = reference.namespace.as_deref().unwrap_or(&route.key.namespace);
        if let Some(gateway) = parents.gateway_of(reference, namespace) {
            let mut parent = reference.clone();
            parent.namespace = Some(namespace.to_owned());
            found.push((parent, gateway));
        }
    }
    found
}

/// What a SecurityPolicy is about: named, or selected by labels in its namespace.
fn secured(context: &Context<'_>, policy: &Object<SecurityPolicySpec>) -> Vec<PolicyTargetRef> {
    let inputs = context.inputs;
    let mut targets: Vec<PolicyTargetRef> = policy.spec.targets().cloned().collect();
    for selector in &policy.spec.target_selectors {
        let labels = selector.labels();
        let mut select = |meta: &Meta| {
            if meta.key.namespace == policy.meta.key.namespace && labels.matches(&meta.labels) {
                targets.push(PolicyTargetRef {
                    group: selector.group.clone(),
                    kind: selector.kind.clone(),
                    name: meta.key.name.to_string(),
                    section_name: None,
                });
            }
        };
        match Kind::of(&selector.group, &selector.kind) {
            Some(Kind::Gateway) => inputs.gateways.values().for_each(|object| select(&object.meta)),
            Some(Kind::ListenerSet) => inputs.listener_sets.values().for_each(|object| select(&object.meta)),
            Some(Kind::HTTPRoute) => inputs.http_routes.values().for_each(|object| select(&object.meta)),
            Some(Kind::GRPCRoute) => inputs.grpc_routes.values().for_each(|object| select(&object.meta)),
            Some(Kind::TLSRoute) => inputs.tls_routes.values().for_each(|object| select(&object.meta)),
            Some(Kind::TCPRoute) => inputs.tcp_routes.values().for_each(|object| select(&object.meta)),
            Some(Kind::UDPRoute) => inputs.udp_routes.values().for_each(|object| select(&object.meta)),
            _ => {}
        }
    }
    targets
}

/// SecurityPolicies are not acted on, and what they were to protect must not be open instead: their targets answer 500,
/// as with Envoy Gateway when it cannot carry one out, and connections are closed. Returns the routes concerned;
/// listeners are marked.
pub(super) fn security(
    context: &Context<'_>,
    gateways: &mut [GatewayState<'_>],
    out: &mut Vec<(ObjectRef, ObjectReport)>,
) -> BTreeMap<ObjectRef, Arc<str>> {
    let mut routes = BTreeMap::new();
    if context.inputs.security_policies.is_empty() {
        return routes;
    }
    let parents = Parents::new(gateways);
    for policy in context.inputs.security_policies.values() {
        let mut status = Status::new(Kind::SecurityPolicy, &policy.meta);
        let fault = invalid("SecurityPolicy is not acted on by this version: its targets answer 500".to_owned());
        let reason: Arc<str> = format!("SecurityPolicy {} is not acted on by this version", policy.meta.key).into();
        for target in &secured(context, policy) {
            let key = ObjectKey::new(&*policy.meta.key.namespace, target.name.as_str());
            let section = target.section_name.as_deref().filter(|section| !section.is_empty());
            match Kind::of(&target.group, &target.kind) {
                Some(Kind::Gateway) => {
                    let Some(gateway) = gateways.iter_mut().find(|gateway| *gateway.key() == key) else { continue };
                    for listener in &mut gateway.listeners {
                        if section.is_none_or(|section| listener.set.is_none() && listener.spec.name == section) {
                            listener.guard.get_or_insert_with(|| Arc::clone(&reason));
                        }
                    }
                    status.add(context, ancestor(&key, section), &gateway.controller, Some(&fault));
                }
                Some(Kind::ListenerSet) => {
                    for listener in gateways.iter_mut().flat_map(|gateway| &mut gateway.listeners) {
                        let is_of_it = listener.set.is_some() && *listener.parent == key;
                        if is_of_it && section.is_none_or(|section| listener.spec.name == section) {
                            listener.guard.get_or_insert_with(|| Arc::clone(&reason));
                        }
                    }
                }
                Some(kind @ (Kind::HTTPRoute | Kind::GRPCRoute | Kind::TLSRoute | Kind::TCPRoute | Kind::UDPRoute)) => {
                    let object = ObjectRef::new(kind, key);
                    for (parent, gateway) in route_parents(context, &parents, &object) {
                        status.add(context, parent, &gateways[gateway].controller, Some(&fault));
                    }
                    // A section names one rule; the others of the route would be reached beside it, so all are closed.
                    routes.entry(object).or_insert_with(|| Arc::clone(&reason));
                }
                _ => {
                    let message = format!("targetRefs: {} of group {:?} cannot be a target", target.kind, target.group);
                    context.problem(Severity::Error, Kind::SecurityPolicy, &policy.meta, message);
                }
            }
        }
        context.problem(Severity::Error, Kind::SecurityPolicy, &policy.meta, fault.message);
        status.finish(context, out);
    }
    routes
}
