//! What a Gateway or a Service asks for: particular addresses or any, of which families, from which pool, shared with whom.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::super::context::Fault;
use super::super::gateways::GatewayState;
use super::super::listeners::Class;
use super::super::services::ServiceState;
use super::Refused;
use crate::core::{IpFamily, IpFamilyPolicy, PortProtocol, ServiceSpec, TrafficPolicy};
use crate::inputs::Meta;
use crate::metallb::{ADDRESSES_ANNOTATIONS, POOL_ANNOTATIONS, SHARING_ANNOTATIONS};
use crate::names::{Kind, ObjectRef};
use crate::report::Condition;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// Addresses beside the particular ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Want {
    /// So many, whichever, each from whichever pool: Gateways.
    Count(usize),
    /// All from one pool: Services.
    Families(Families),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Families {
    /// One address of either family.
    Either,
    One(Family),
    /// RequireDualStack.
    Both,
    /// PreferDualStack: both, else this one, else the other.
    Most(Family),
}

impl Families {
    pub fn has(self, family: Family) -> bool {
        match self {
            Self::One(one) => one == family,
            Self::Either | Self::Both | Self::Most(_) => true,
        }
    }
}

/// Who may have the same address (MetalLB): who has the same key, the same Pods where `externalTrafficPolicy: Local` says
/// that they matter, and other ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sharing<'a> {
    pub key: Option<&'a str>,
    pub pods: Cow<'a, BTreeMap<String, String>>,
    pub ports: BTreeSet<(u16, PortProtocol)>,
}

pub(super) struct Claim<'a> {
    pub object: ObjectRef,
    pub meta: &'a Meta,
    pub labels: Cow<'a, BTreeMap<String, String>>,
    pub pool: Option<&'a str>,
    /// Particular addresses that it does not have yet.
    pub fixed: Vec<IpAddr>,
    /// Its addresses are particular ones.
    pub is_particular: bool,
    pub want: Want,
    pub sharing: Sharing<'a>,
    /// At fault: what it had is for nobody else, but it is given nothing.
    pub is_held: bool,
    /// With the name of the pool; none where `spec.addresses` was taken at its word.
    pub addresses: Vec<(IpAddr, Option<&'a str>)>,
    pub refused: Vec<Refused>,
    pub fault: Option<Fault>,
    pub note: Option<Condition>,
}

impl Claim<'_> {
    pub fn has(&self, family: Family) -> bool {
        self.addresses.iter().any(|(address, _)| Family::of(*address) == family)
    }

    /// A particular address cannot be had.
    pub fn not_usable(&self, message: String) -> Fault {
        let reason = if self.object.kind == Kind::Service { "AllocationFailed" } else { "AddressNotUsable" };
        Fault::new(reason, message)
    }

    /// No address can be had.
    pub fn not_assigned(&self, message: String) -> Fault {
        let reason = if self.object.kind == Kind::Service { "AllocationFailed" } else { "AddressNotAssigned" };
        Fault::new(reason, message)
    }
}

fn value<'a>(annotations: &'a BTreeMap<String, String>, names: [&str; 2]) -> Option<&'a str> {
    names.into_iter().find_map(|name| annotations.get(name)).map(String::as_str)
}

pub(super) fn of_gateway<'a>(gateway: &GatewayState<'a>) -> Claim<'a> {
    let object = gateway.object;
    let infrastructure = object.spec.infrastructure.as_ref();
    // Envoy Gateway copies the infrastructure's annotations to the Service that MetalLB sees; so these count first.
    let annotation = |names: [&str; 2]| {
        let copied = infrastructure.and_then(|infrastructure| value(&infrastructure.annotations, names));
        copied.or_else(|| value(&object.meta.annotations, names))
    };
    // The Service that MetalLB would see carries the infrastructure's labels.
    let labels = match infrastructure.filter(|infrastructure| !infrastructure.labels.is_empty()) {
        None => Cow::Borrowed(&object.meta.labels),
        Some(infrastructure) => {
            let mut labels = object.meta.labels.clone();
            labels.extend(infrastructure.labels.iter().map(|(key, value)| (key.clone(), value.clone())));
            Cow::Owned(labels)
        }
    };
    let ports = gateway.listeners.iter().filter_map(|listener| {
        let protocol = if listener.class? == Class::Udp { PortProtocol::Udp } else { PortProtocol::Tcp };
        Some((listener.spec.port, protocol))
    });
    let mut claim = Claim {
        object: gateway.reference(),
        meta: &object.meta,
        labels,
        pool: annotation(POOL_ANNOTATIONS).or(gateway.pool),
        fixed: Vec::new(),
        is_particular: false,
        want: Want::Count(0),
        sharing: Sharing {
            key: annotation(SHARING_ANNOTATIONS).filter(|key| !key.is_empty()),
            pods: Cow::Owned(BTreeMap::new()),
            ports: ports.collect(),
        },
        is_held: gateway.fault.is_some(),
        addresses: Vec::new(),
        refused: Vec::new(),
        fault: None,
        note: None,
    };
    if claim.is_held {
        return claim;
    }
    let asked = &object.spec.addresses;
    let mut any = 0;
    let outcome = match annotation(ADDRESSES_ANNOTATIONS).filter(|_| asked.is_empty()) {
        Some(list) => list.split(',').try_for_each(|text| ask(&mut claim.fixed, text, "annotation loadBalancerIPs")),
        None => asked.iter().try_for_each(|address| match address.value.as_deref() {
            None | Some("") => {
                any += 1;
                Ok(())
            }
            Some(text) => ask(&mut claim.fixed, text, "spec.addresses"),
        }),
    };
    if asked.is_empty() && claim.fixed.is_empty() {
        any = 1;
    }
    claim.want = Want::Count(any);
    if let Err(message) = outcome {
        claim.fault = Some(claim.not_usable(message));
        claim.is_held = true;
    }
    claim
}

fn ask(fixed: &mut Vec<IpAddr>, text: &str, place: &str) -> Result<(), String> {
    let address = text.trim().parse::<IpAddr>().map_err(|_| format!("{place}: {text:?} is no IP address"))?;
    if !fixed.contains(&address) {
        fixed.push(address);
    }
    Ok(())
}

pub(super) fn of_service<'a>(service: &ServiceState<'a>) -> Claim<'a> {
    let object = service.object;
    let annotations = &object.meta.annotations;
    // MetalLB compares Pods, by selector, where they must be those of one node.
    let pods = match &object.spec.external_traffic_policy {
        Some(TrafficPolicy::Local) => Cow::Borrowed(&object.spec.selector),
        _ => Cow::Owned(BTreeMap::new()),
    };
    let ports = object.spec.ports.iter().map(|port| (port.port, port.protocol.clone()));
    let mut claim = Claim {
        object: service.reference(),
        meta: &object.meta,
        labels: Cow::Borrowed(&object.meta.labels),
        pool: value(annotations, POOL_ANNOTATIONS).filter(|pool| !pool.is_empty()),
        fixed: Vec::new(),
        is_particular: false,
        want: Want::Families(Families::Either),
        sharing: Sharing {
            key: value(annotations, SHARING_ANNOTATIONS).filter(|key| !key.is_empty()),
            pods,
            ports: ports.collect(),
        },
        is_held: service.fault.is_some(),
        addresses: Vec::new(),
        refused: Vec::new(),
        fault: None,
        note: None,
    };
    if claim.is_held {
        return claim;
    }
    match families(&object.spec).and_then(|families| Ok((families, particular(object, families)?))) {
        Ok((families, fixed)) => {
            claim.want = Want::Families(families);
            claim.is_particular = !fixed.is_empty();
            claim.fixed = fixed;
        }
        Err(fault) => {
            claim.fault = Some(fault);
            claim.is_held = true;
        }
    }
    claim
}

/// The families of the cluster addresses, which the API server chose by the Service's own wishes; in a file, which may
/// leave them out, these wishes.
fn families(spec: &ServiceSpec) -> Result<Families, Fault> {
    let policy = spec.ip_family_policy.clone().unwrap_or_default();
    let list: &[Box<str>] = if spec.cluster_ips.is_empty() { spec.cluster_ip.as_slice() } else { &spec.cluster_ips };
    let cluster: Vec<Family> = list.iter().filter_map(|text| text.parse().ok()).map(Family::of).collect();
    let asked = spec.ip_families.iter().filter_map(|family| match family {
        IpFamily::V4 => Some(Family::V4),
        IpFamily::V6 => Some(Family::V6),
        IpFamily::Other(_) => None,
    });
    let asked: Vec<Family> = asked.collect();
    let first = asked.first().or(cluster.first()).copied();
    if policy == IpFamilyPolicy::RequireDualStack && cluster.len() == 1 {
        let message = format!("dual stack is required, but the Service has one cluster address only, {}", list[0]);
        return Err(Fault::new("NotEnoughClusterIPs", message));
    }
    let is_dual = match cluster.len() {
        0 => asked.len() == 2 || (asked.is_empty() && policy != IpFamilyPolicy::SingleStack),
        addresses => addresses == 2,
    };
    Ok(match (is_dual, policy, first) {
        (true, IpFamilyPolicy::PreferDualStack, first) => Families::Most(first.unwrap_or(Family::V4)),
        (true, _, _) => Families::Both,
        (false, IpFamilyPolicy::RequireDualStack, _) => Families::Both,
        (false, _, Some(one)) => Families::One(cluster.first().copied().unwrap_or(one)),
        (false, _, None) => Families::Either,
    })
}

/// The addresses that the Service names.
fn particular(object: &crate::inputs::Object<ServiceSpec>, families: Families) -> Result<Vec<IpAddr>, Fault> {
    let failed = |message: String| Fault::new("LoadBalancerFailed", message);
    let listed = value(&object.meta.annotations, ADDRESSES_ANNOTATIONS).filter(|list| !list.is_empty());
    let single = object.spec.load_balancer_ip.as_deref().filter(|address| !address.is_empty());
    let mut fixed = Vec::new();
    match (listed, single) {
        (None, None) => return Ok(fixed),
        (Some(_), Some(_)) => {
            return Err(failed("has both the annotation loadBalancerIPs and spec.loadBalancerIP".to_owned()));
        }
        (None, Some(text)) => ask(&mut fixed, text, "spec.loadBalancerIP").map_err(failed)?,
        (Some(list), None) => {
            let place = "annotation loadBalancerIPs";
            list.split(',').try_for_each(|text| ask(&mut fixed, text, place)).map_err(failed)?;
        }
    }
    let of = |family: Family| fixed.iter().filter(|address| Family::of(**address) == family).count();
    let counts = (of(Family::V4), of(Family::V6));
    if counts.0 > 1 || counts.1 > 1 {
        return Err(failed("names two addresses of one IP family".to_owned()));
    }
    let fits = match families {
        Families::Either | Families::Most(_) => true,
        Families::One(Family::V4) => counts == (1, 0),
        Families::One(Family::V6) => counts == (0, 1),
        Families::Both => counts == (1, 1),
    };
    if fits { Ok(fixed) } else { Err(failed("the addresses that it names are not of its IP families".to_owned())) }
}
