//! NGINX Gateway Fabric's UpstreamSettingsPolicy: what it says of a Service, and its status.
//!
//! It is attached to Services, so it holds for every route that leads there. Policies for one Service add up as long as they
//! say different things; of two that say the same thing, the older one is in effect and the other one not at all. What a
//! BackendTrafficPolicy of the route says goes before it, and it before what one of the Gateway says of balancing.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};

use super::backend_tls::MOST_ANCESTORS;
use super::context::{Context, Fault, condition};
use super::gateways::GatewayState;
use super::policies::{ancestor, invalid, oldest_first};
use super::traffic::unacted;
use crate::inputs::Object;
use crate::names::{Kind, ObjectKey, ObjectRef};
use crate::nginx::{LoadBalancingMethod, UpstreamSettingsPolicySpec};
use crate::policy::{Balance, HashBalance, HashCookie, HashKey, KeepAlive, UpstreamPolicy};
use crate::problem::Severity;
use crate::report::{Condition, ObjectReport, ParentReport};

pub(super) struct UpstreamSettings<'a> {
    services: HashMap<ObjectKey, Settings>,
    policies: Vec<Judged<'a>>,
    /// By policy, the Gateways that lead to one of its Services.
    ancestors: RefCell<Vec<BTreeSet<usize>>>,
}

/// What is said of one Service.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    pub balance: Option<Balance>,
    keep_alive: KeepAlive,
    /// Who says it, or says something that is not in effect.
    policies: Vec<usize>,
}

impl Settings {
    /// A route's policy, with this for what it leaves open.
    pub fn under(&self, route: Option<&Arc<UpstreamPolicy>>) -> Option<Arc<UpstreamPolicy>> {
        if self.keep_alive == KeepAlive::default() {
            return route.cloned();
        }
        let mut policy = route.map(|route| UpstreamPolicy::clone(route)).unwrap_or_default();
        let (above, below) = (policy.keep_alive, self.keep_alive);
        policy.keep_alive = KeepAlive {
            idle_connections: above.idle_connections.or(below.idle_connections),
            idle_timeout: above.idle_timeout.or(below.idle_timeout),
            requests: above.requests.or(below.requests),
            age: above.age.or(below.age),
        };
        Some(Arc::new(policy))
    }
}

struct Judged<'a> {
    object: &'a Object<UpstreamSettingsPolicySpec>,
    fault: Option<Fault>,
}

impl<'a> UpstreamSettings<'a> {
    pub fn new(context: &Context<'a>) -> Self {
        let mut services: HashMap<ObjectKey, Settings> = HashMap::new();
        let mut said: HashMap<(ObjectKey, &'static str), ObjectKey> = HashMap::new();
        let mut policies = Vec::new();
        for object in oldest_first(&context.inputs.upstream_settings_policies) {
            let place = policies.len();
            let judged = settings(&object.spec).map_err(invalid);
            let mut fault = judged.as_ref().err().cloned();
            let (fields, own) = judged.unwrap_or_default();
            let mut targets = Vec::new();
            for target in &object.spec.target_refs {
                let key = ObjectKey::new(&*object.meta.key.namespace, target.name.as_str());
                // The group of Services may be written as "core".
                let group = if target.group == "core" { "" } else { &target.group };
                if Kind::of(group, &target.kind) != Some(Kind::Service) {
                    let message = format!("targetRefs: {} of group {:?} cannot be a target", target.kind, target.group);
                    fault.get_or_insert(invalid(message));
                } else if !context.inputs.services.contains_key(&key) {
                    let message = format!("targetRefs: {}", context.missing(Kind::Service, &key));
                    fault.get_or_insert(Fault::new(super::policies::TARGET_NOT_FOUND, message));
                } else {
                    targets.push(key);
                }
            }
            let rival = targets.iter().find_map(|key| {
                fields.iter().find_map(|field| said.get(&(key.clone(), *field)).map(|rival| (key, field, rival)))
            });
            if let Some((key, field, rival)) = rival {
                let message = format!("the older policy {rival} has {field} for Service {key}");
                fault.get_or_insert(Fault::new("Conflicted", message));
            }
            for key in targets {
                let known = services.entry(key.clone()).or_default();
                known.policies.push(place);
                // Of several targets one that is not there costs itself only.
                if fault.as_ref().is_none_or(|fault| fault.reason == super::policies::TARGET_NOT_FOUND) {
                    said.extend(fields.iter().map(|field| ((key.clone(), *field), object.meta.key.clone())));
                    known.balance = known.balance.take().or_else(|| own.balance.clone());
                    let (above, below) = (known.keep_alive, own.keep_alive);
                    known.keep_alive = KeepAlive {
                        idle_connections: above.idle_connections.or(below.idle_connections),
                        idle_timeout: above.idle_timeout.or(below.idle_timeout),
                        requests: above.requests.or(below.requests),
                        age: above.age.or(below.age),
                    };
                }
            }
            if let Some(fault) = &fault {
                let message = fault.message.clone();
                context.problem(Severity::Error, Kind::UpstreamSettingsPolicy, &object.meta, message);
            }
            policies.push(Judged { object, fault });
        }
        let ancestors = RefCell::new(vec![BTreeSet::new(); policies.len()]);
        Self { services, policies, ancestors }
    }

    /// What is said of a Service, to which these Gateways lead.
    pub fn of(&self, service: &ObjectKey, gateways: &[usize]) -> Option<&Settings> {
        if self.policies.is_empty() {
            return None;
        }
        let found = self.services.get(service)?;
        let mut ancestors = self.ancestors.borrow_mut();
        for place in &found.policies {
            if let Some(set) = ancestors.get_mut(*place) {
                set.extend(gateways);
            }
        }
        Some(found)
    }

    pub fn report(&self, gateways: &[GatewayState<'_>], out: &mut Vec<(ObjectRef, ObjectReport)>) {
        for (judged, ancestors) in self.policies.iter().zip(&*self.ancestors.borrow()) {
            let accepted = condition("Accepted", "Accepted", judged.fault.as_ref());
            let note = unacted("spec", &without_counterpart(&judged.object.spec)).filter(|_| judged.fault.is_none());
            let conditions: Arc<[Condition]> = std::iter::once(accepted).chain(note).collect();
            let parents = ancestors.iter().filter_map(|gateway| gateways.get(*gateway)).take(MOST_ANCESTORS);
            let parents = parents.map(|gateway| ParentReport {
                parent: Arc::new(ancestor(gateway.key(), None)),
                controller: Arc::clone(&gateway.controller),
                conditions: Arc::clone(&conditions),
            });
            let meta = &judged.object.meta;
            let report =
                ObjectReport { generation: meta.generation, parents: parents.collect(), ..ObjectReport::default() };
            out.push((ObjectRef::new(Kind::UpstreamSettingsPolicy, meta.key.clone()), report));
        }
    }
}

fn without_counterpart(spec: &UpstreamSettingsPolicySpec) -> Vec<&'static str> {
    let fields = [("zoneSize", spec.zone_size.is_some()), ("useClusterIP", spec.use_cluster_ip == Some(true))];
    fields.into_iter().filter(|(_, is_set)| *is_set).map(|(field, _)| field).collect()
}

/// What a policy says, and the names of the fields in which it says something.
fn settings(spec: &UpstreamSettingsPolicySpec) -> Result<(Vec<&'static str>, Settings), String> {
    let keep_alive = spec.keep_alive.clone().unwrap_or_default();
    let length = |field: &str, text: &Option<crate::nginx::NginxDuration>| match text {
        None => Ok(None),
        Some(text) => match text.parse() {
            Some(length) => Ok(Some(length).filter(|length| !length.is_zero())),
            None => Err(format!("keepAlive.{field} {:?} is no duration such as 60s", text.0)),
        },
    };
    let fields = [
        ("loadBalancingMethod", spec.load_balancing_method.is_some()),
        ("hashMethodKey", spec.hash_method_key.is_some()),
        ("zoneSize", spec.zone_size.is_some()),
        ("useClusterIP", spec.use_cluster_ip.is_some()),
        ("keepAlive.connections", keep_alive.connections.is_some()),
        ("keepAlive.requests", keep_alive.requests.is_some()),
        ("keepAlive.time", keep_alive.time.is_some()),
        ("keepAlive.timeout", keep_alive.timeout.is_some()),
    ];
    let settings = Settings {
        balance: balance(spec)?,
        keep_alive: KeepAlive {
            idle_connections: keep_alive.connections,
            idle_timeout: length("timeout", &keep_alive.timeout)?,
            requests: keep_alive.requests.filter(|requests| *requests > 0),
            age: length("time", &keep_alive.time)?,
        },
        policies: Vec::new(),
    };
    Ok((fields.into_iter().filter(|(_, is_set)| *is_set).map(|(field, _)| field).collect(), settings))
}

fn balance(spec: &UpstreamSettingsPolicySpec) -> Result<Option<Balance>, String> {
    use LoadBalancingMethod::*;
    let Some(method) = &spec.load_balancing_method else {
        return match &spec.hash_method_key {
            None => Ok(None),
            Some(_) => Err("hashMethodKey is for loadBalancingMethod hash and hash consistent".to_owned()),
        };
    };
    let balance = match method {
        RoundRobin => Balance::RoundRobin,
        Random => Balance::Random,
        // Of two random endpoints the less loaded, which for `least_conn` comes close to the least loaded of all.
        LeastConn | RandomTwo | RandomTwoLeastConn => Balance::LeastRequest,
        IpHash => Balance::Hash(Arc::new(HashBalance { key: HashKey::SourceIp, table: None })),
        // `hash` moves nearly all keys when endpoints change; nobody wants that.
        Hash | HashConsistent => {
            let key = spec.hash_method_key.as_deref();
            let key =
                key.ok_or_else(|| format!("hashMethodKey is missing, expected it for loadBalancingMethod {method}"))?;
            Balance::Hash(Arc::new(HashBalance { key: variable(key)?, table: None }))
        }
        RandomTwoLeastTimeHeader
        | RandomTwoLeastTimeLastByte
        | LeastTimeHeader
        | LeastTimeLastByte
        | LeastTimeHeaderInflight
        | LeastTimeLastByteInflight => {
            return Err(format!(
                "loadBalancingMethod {method:?} is not acted on by this version",
                method = method.as_str()
            ));
        }
        Other(other) => return Err(format!("loadBalancingMethod {other:?} is not known")),
    };
    Ok(Some(balance))
}

/// An NGINX variable as a part of the request.
fn variable(name: &str) -> Result<HashKey, String> {
    let one = |name: &str| vec![name.into()];
    let key = match name {
        "$remote_addr" | "$binary_remote_addr" | "$realip_remote_addr" => HashKey::SourceIp,
        "$host" | "$http_host" => HashKey::Host,
        "$request_uri" => HashKey::Uri,
        "$uri" | "$document_uri" => HashKey::Path,
        _ => match (name.strip_prefix("$http_"), name.strip_prefix("$cookie_"), name.strip_prefix("$arg_")) {
            (Some(header), ..) if !header.is_empty() => HashKey::Headers(one(&header.replace('_', "-"))),
            (_, Some(cookie), _) if !cookie.is_empty() => {
                HashKey::Cookie(Box::new(HashCookie { name: cookie.into(), ttl: None, attributes: Vec::new() }))
            }
            (_, _, Some(argument)) if !argument.is_empty() => HashKey::Query(one(argument)),
            _ => return Err(format!("hashMethodKey {name:?} is not acted on by this version")),
        },
    };
    Ok(key)
}
