//! What compile has to say about every object: conditions in the words of the API, and findings in ours.
//!
//! A report knows the configuration only. What the world looks like (sockets bound, certificates at hand, workers that
//! acknowledged) is the observed side; [`crate::status`] joins both into what users see.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use crate::names::ObjectRef;
use crate::problem::Problem;

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    pub objects: BTreeMap<ObjectRef, Arc<ObjectReport>>,
    /// In the order of place, then text.
    pub problems: Vec<Problem>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ObjectReport {
    pub generation: i64,
    /// Conditions of the object itself (GatewayClass, Gateway, ListenerSet, Certificate, pools and issuers).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// AuthenticationFilter and SnippetsFilter, whose conditions are told by each controller for itself: our name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<Arc<str>>,
    /// Gateway and Service: assigned addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Gateway and ListenerSet, in the order of the spec.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<ListenerReport>,
    /// Gateway: how many ListenerSets are accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attached_listener_sets: Option<u32>,
    /// Routes: one entry per parentRef that names a Gateway or ListenerSet of ours. Policies: one per ancestor.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<ParentReport>,
    /// GatewayClass.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub supported_features: Vec<&'static str>,
    /// Service of type LoadBalancer; thousands of routes have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<Box<LoadBalancerReport>>,
}

/// What is written back to a Service beside its addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LoadBalancerReport {
    /// The value of the annotation [`crate::metallb::ALLOCATED_ANNOTATION`]; to be removed where absent.
    pub pool: Option<Box<str>>,
    /// In the order of the spec.
    pub ports: Vec<ServicePortReport>,
    /// That something optional was not given, such as the second address family: an event, no fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<Condition>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServicePortReport {
    pub port: u16,
    pub protocol: Box<str>,
    /// In the form of `status.loadBalancer.ingress[].ports[].error`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ListenerReport {
    pub name: Box<str>,
    pub port: u16,
    pub protocol: Box<str>,
    pub hostname: Option<Box<str>>,
    pub supported_kinds: Vec<crate::names::Kind>,
    pub attached_routes: u32,
    pub conditions: Vec<Condition>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ParentReport {
    /// The reference exactly as the spec has it.
    pub parent: Arc<crate::gateway::ParentReference>,
    /// The controller name under which we answer: that of the Gateway's class.
    pub controller: Arc<str>,
    pub conditions: Arc<[Condition]>,
}

/// The condition of a listener whose certificates somebody else than a Secret or the internal CA has to do with: true
/// where compile has nothing against it and, on rendering, all of them are there.
pub const CERTIFICATE_READY: &str = "CertificateReady";

/// Every condition type that is written to objects that others write to as well. One that is no longer wanted is removed
/// there, so a type that is missing here would stay for ever.
pub const CONDITION_TYPES: [&str; 12] = [
    "Accepted",
    "Programmed",
    "ResolvedRefs",
    "Conflicted",
    "OverlappingTLSConfig",
    "InsecureFrontendValidationMode",
    "PartiallyInvalid",
    CERTIFICATE_READY,
    "Warning",
    "Overridden",
    "Merged",
    "Reachable",
];

/// A condition in the Kubernetes sense; `observedGeneration` is that of its object and is added on rendering.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub status: bool,
    pub reason: &'static str,
    /// Empty where there is nothing to add to the reason.
    pub message: String,
}
