//! The objects that migrations write, as trees: Gateways with their listeners, routes, Services with their endpoints,
//! policies. Names and limits are those of the Gateway API's schema; what is over a limit is spread over more objects.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::gateway::GROUP;
use crate::manifest::{Place, decode_document};
use crate::problem::Severity;
use crate::yaml::Tree;

/// What Edge claims unless edge.toml says otherwise.
pub(super) const CLASS: &str = "edge";
const CONTROLLER: &str = "edge.internal/gateway-controller";
pub(super) const POLICIES: &str = "gateway.envoyproxy.io/v1alpha1";
pub(super) const V1: &str = "gateway.networking.k8s.io/v1";
/// TCPRoute and UDPRoute.
pub(super) const ALPHA: &str = "gateway.networking.k8s.io/v1alpha2";
/// Rules of a route, and listeners of a Gateway.
const MOST_RULES: usize = 16;
pub(super) const MOST_LISTENERS: usize = 64;

pub(super) fn object(api: &str, kind: &str, namespace: &str, name: &str, spec: Tree) -> Tree {
    let mut metadata = Tree::map([("name", name.into())]);
    if !namespace.is_empty() {
        metadata.put("namespace", namespace);
    }
    Tree::map([("apiVersion", api.into()), ("kind", kind.into()), ("metadata", metadata), ("spec", spec)])
}

pub(super) fn gateway_class() -> Tree {
    object(V1, "GatewayClass", "", CLASS, Tree::map([("controllerName", CONTROLLER.into())]))
}

/// Adds an annotation to an object.
pub(super) fn annotate(object: &mut Tree, name: &str, value: &str) {
    let Some(metadata) = object.member_mut("metadata") else { return };
    if metadata.member("annotations").is_none() {
        metadata.put("annotations", Tree::map([]));
    }
    if let Some(annotations) = metadata.member_mut("annotations") {
        annotations.put(name, value);
    }
}

/// A reference from a route to a listener.
pub(super) fn parent(gateway: (&str, &str), section: Option<&str>, from: &str) -> Tree {
    let (namespace, name) = gateway;
    let mut parent = Tree::map([("name", name.into())]);
    if namespace != from {
        parent.put("namespace", namespace);
    }
    parent.with_some("sectionName", section)
}

pub(super) fn listener(name: &str, protocol: &str, port: u16, hostname: Option<&str>) -> Tree {
    let listener = Tree::map([("name", name.into()), ("protocol", protocol.into()), ("port", port.into())]);
    listener.with_some("hostname", hostname)
}

/// `tls` of a listener that ends TLS with these Secrets (namespace, name).
pub(super) fn terminate(secrets: &[(&str, &str)], from: &str) -> Tree {
    let references = secrets.iter().map(|(namespace, name)| {
        let reference = Tree::map([("name", (*name).into())]);
        reference.with_some("namespace", Some(*namespace).filter(|namespace| *namespace != from))
    });
    Tree::map([("mode", "Terminate".into()), ("certificateRefs", Tree::List(references.collect()))])
}

pub(super) fn everybody() -> Tree {
    Tree::map([("namespaces", Tree::map([("from", "All".into())]))])
}

pub(super) fn addresses(addresses: &[IpAddr]) -> Tree {
    Tree::List(addresses.iter().map(|address| Tree::map([("value", address.to_string().into())])).collect())
}

/// Routes with at most so many rules each as one may have. Which of several matches counts is decided by the matches
/// themselves, wherever they are.
pub(super) fn routes(
    (api, kind): (&str, &str),
    (namespace, name): (&str, &str),
    parents: &[Tree],
    hostnames: &[String],
    rules: Vec<Tree>,
) -> Vec<Tree> {
    let chunks: Vec<Vec<Tree>> = rules.chunks(MOST_RULES).map(<[Tree]>::to_vec).collect();
    chunks
        .into_iter()
        .enumerate()
        .map(|(index, rules)| {
            let name = if index == 0 { name.to_owned() } else { format!("{name}-{}", index + 1) };
            let mut spec = Tree::map([("parentRefs", Tree::List(parents.to_vec()))]);
            if !hostnames.is_empty() {
                spec.put("hostnames", Tree::texts(hostnames));
            }
            object(api, kind, namespace, &name, spec.with("rules", rules))
        })
        .collect()
}

/// A rule of an HTTPRoute.
#[derive(Debug, Clone, Default)]
pub(super) struct Rule {
    pub matches: Vec<Tree>,
    pub filters: Vec<Tree>,
    pub backends: Vec<Tree>,
    pub session: Option<Tree>,
    pub timeouts: Option<Tree>,
}

impl Rule {
    pub fn tree(self) -> Tree {
        let mut rule = Tree::map([]);
        for (key, list) in [("matches", self.matches), ("filters", self.filters), ("backendRefs", self.backends)] {
            if !list.is_empty() {
                rule.put(key, list);
            }
        }
        rule.with_some("timeouts", self.timeouts).with_some("sessionPersistence", self.session)
    }
}

pub(super) fn path_match(kind: &str, value: &str) -> Tree {
    Tree::map([("path", Tree::map([("type", kind.into()), ("value", value.into())]))])
}

/// A filter: its type and the member that the type names.
pub(super) fn filter(kind: &str, member: &str, value: Tree) -> Tree {
    Tree::map([("type", kind.into()), (member, value)])
}

pub(super) fn redirect(value: Tree) -> Tree {
    filter("RequestRedirect", "requestRedirect", value)
}

pub(super) fn to_https(status: u16) -> Tree {
    redirect(Tree::map([("scheme", "https".into()), ("statusCode", status.into())]))
}

/// `ReplaceFullPath` or `ReplacePrefixMatch`.
pub(super) fn path_modifier(kind: &str, value: &str) -> Tree {
    let member = if kind == "ReplaceFullPath" { "replaceFullPath" } else { "replacePrefixMatch" };
    Tree::map([("type", kind.into()), (member, value.into())])
}

/// What a header modifier does: (`set`, `add`) as pairs, `remove` as names.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Headers {
    pub set: Vec<(String, String)>,
    pub add: Vec<(String, String)>,
    pub remove: Vec<String>,
}

impl Headers {
    pub fn tree(&self, kind: &str, member: &str) -> Option<Tree> {
        let pairs = |list: &[(String, String)]| {
            let entry = |(name, value): &(String, String)| {
                Tree::map([("name", name.as_str().into()), ("value", value.as_str().into())])
            };
            Tree::List(list.iter().map(entry).collect())
        };
        let mut value = Tree::map([]);
        for (key, list) in [("set", &self.set), ("add", &self.add)] {
            if !list.is_empty() {
                value.put(key, pairs(list));
            }
        }
        if !self.remove.is_empty() {
            value.put("remove", Tree::texts(&self.remove));
        }
        (*self != Self::default()).then(|| filter(kind, member, value))
    }

    pub fn of_request(&self) -> Option<Tree> {
        self.tree("RequestHeaderModifier", "requestHeaderModifier")
    }

    pub fn of_response(&self) -> Option<Tree> {
        self.tree("ResponseHeaderModifier", "responseHeaderModifier")
    }
}

/// A Service that is nothing but these endpoints, and its EndpointSlices, one per family.
pub(super) fn service(
    (namespace, name): (&str, &str),
    (port, protocol): (u16, &str),
    endpoints: &[Endpoint],
) -> Vec<Tree> {
    let entry = Tree::map([("name", "main".into()), ("protocol", protocol.into()), ("port", port.into())]);
    let mut out = vec![object("v1", "Service", namespace, name, Tree::map([("ports", vec![entry].into())]))];
    out.extend(slices((namespace, name), &[("main", protocol)], endpoints));
    out
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Endpoint {
    pub address: IpAddr,
    pub port: u16,
    /// Takes new connections.
    pub is_ready: bool,
}

/// EndpointSlices have one family and one port for all their endpoints.
fn slices((namespace, name): (&str, &str), ports: &[(&str, &str)], endpoints: &[Endpoint]) -> Vec<Tree> {
    let kinds: BTreeSet<(bool, u16)> =
        endpoints.iter().map(|endpoint| (endpoint.address.is_ipv6(), endpoint.port)).collect();
    let mut out = Vec::new();
    for (index, (is_v6, port)) in kinds.iter().enumerate() {
        let members = endpoints.iter().filter(|e| e.address.is_ipv6() == *is_v6 && e.port == *port);
        let members: Vec<Tree> = members
            .map(|endpoint| {
                let addresses = Tree::texts([endpoint.address.to_string()]);
                let entry = Tree::map([("addresses", addresses)]);
                let conditions = (!endpoint.is_ready).then(|| Tree::map([("ready", false.into())]));
                entry.with_some("conditions", conditions)
            })
            .collect();
        let ports = ports.iter().map(|(name, protocol)| {
            Tree::map([("name", (*name).into()), ("protocol", (*protocol).into()), ("port", (*port).into())])
        });
        let labels = Tree::map([(crate::core::SERVICE_NAME_LABEL, name.into())]);
        let metadata = Tree::map([
            ("name", format!("{name}-{}", index + 1).into()),
            ("namespace", namespace.into()),
            ("labels", labels),
        ]);
        out.push(Tree::map([
            ("apiVersion", "discovery.k8s.io/v1".into()),
            ("kind", "EndpointSlice".into()),
            ("metadata", metadata),
            ("addressType", (if *is_v6 { "IPv6" } else { "IPv4" }).into()),
            ("endpoints", Tree::List(members)),
            ("ports", Tree::List(ports.collect())),
        ]));
    }
    out
}

pub(super) fn backend(name: &str, port: u16, weight: u32) -> Tree {
    let backend = Tree::map([("name", name.into()), ("port", port.into())]);
    if weight == 1 { backend } else { backend.with("weight", weight) }
}

/// What is wrong with an object by the rules for manifests.
pub(super) fn faults(object: &Tree) -> Vec<String> {
    let place = Place { file: "output".into(), line_offset: 0 };
    let items = decode_document(&object.to_yaml(), &place, &"default".into(), &[]);
    let problems = items.into_iter().flat_map(|item| item.problems);
    problems.filter(|problem| problem.severity == Severity::Error).map(|problem| problem.message).collect()
}

/// What a policy is about.
pub(super) fn target(group: &str, kind: &str, name: &str) -> Tree {
    Tree::map([("group", group.into()), ("kind", kind.into()), ("name", name.into())])
}

/// Who takes the next request or connection of these routes.
pub(super) fn balanced(namespace: &str, name: &str, kind: &str, routes: &[String], balancer: Tree) -> Tree {
    let targets: Vec<Tree> = routes.iter().map(|route| target(GROUP, kind, route)).collect();
    let spec = Tree::map([("targetRefs", targets.into()), ("loadBalancer", balancer)]);
    object(POLICIES, "BackendTrafficPolicy", namespace, name, spec)
}

/// `loadBalancer`: the less loaded of two.
pub(super) fn by_load() -> Tree {
    Tree::map([("type", "LeastRequest".into())])
}

/// `loadBalancer`: what is alike goes to the same endpoint.
pub(super) fn by_hash(key: Tree) -> Tree {
    Tree::map([("type", "ConsistentHash".into()), ("consistentHash", key)])
}

/// `consistentHash`: by the client's address.
pub(super) fn by_source() -> Tree {
    Tree::map([("type", "SourceIP".into())])
}

/// Verification of endpoints that are spoken to in TLS, by the CAs of the system.
pub(super) fn backend_tls(namespace: &str, service: &str, hostname: &str) -> Tree {
    let validation = Tree::map([("hostname", hostname.into()), ("wellKnownCACertificates", "System".into())]);
    let spec = Tree::map([("targetRefs", vec![target("", "Service", service)].into()), ("validation", validation)]);
    object(V1, "BackendTLSPolicy", namespace, service, spec)
}

/// A policy that this version does not carry out, and which keeps its routes closed until somebody decides.
pub(super) fn closed(namespace: &str, name: &str, kind: &str, routes: &[String], rules: Tree) -> Tree {
    let targets: Vec<Tree> = routes.iter().map(|route| target(GROUP, kind, route)).collect();
    let mut spec = Tree::map([("targetRefs", targets.into())]);
    if let Tree::Map(members) = rules {
        for (key, value) in members {
            spec.put(&key, value);
        }
    }
    object(POLICIES, "SecurityPolicy", namespace, name, spec)
}

/// SecurityPolicy: only clients of these networks.
pub(super) fn only_from(networks: &[String]) -> Tree {
    let principal = Tree::map([("clientCIDRs", Tree::texts(networks))]);
    let rule = Tree::map([("name", "clients".into()), ("action", "Allow".into()), ("principal", principal)]);
    Tree::map([("authorization", Tree::map([("defaultAction", "Deny".into()), ("rules", vec![rule].into())]))])
}

/// SecurityPolicy: all but clients of these networks.
pub(super) fn not_from(networks: &[String]) -> Tree {
    let principal = Tree::map([("clientCIDRs", Tree::texts(networks))]);
    let rule = Tree::map([("name", "clients".into()), ("action", "Deny".into()), ("principal", principal)]);
    Tree::map([("authorization", Tree::map([("defaultAction", "Allow".into()), ("rules", vec![rule].into())]))])
}

/// SecurityPolicy: nobody.
pub(super) fn nobody() -> Tree {
    Tree::map([("authorization", Tree::map([("defaultAction", "Deny".into())]))])
}

/// `namespace/Secret` may be referred to by Gateways of another namespace.
pub(super) fn grant_secrets(namespace: &str, gateways: &str) -> Tree {
    let from = Tree::map([("group", GROUP.into()), ("kind", "Gateway".into()), ("namespace", gateways.into())]);
    let to = Tree::map([("group", "".into()), ("kind", "Secret".into())]);
    let spec = Tree::map([("from", vec![from].into()), ("to", vec![to].into())]);
    object("gateway.networking.k8s.io/v1beta1", "ReferenceGrant", namespace, "gateways", spec)
}

/// Text to a part of a name: lower case, digits and `-`.
pub(super) fn slug(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '*' => out.push_str("wildcard"),
            c if c.is_ascii_alphanumeric() => out.push(c.to_ascii_lowercase()),
            _ if out.ends_with('-') || out.is_empty() => {}
            _ => out.push('-'),
        }
    }
    let out = out.trim_end_matches('-');
    if out.is_empty() { "x".to_owned() } else { out.chars().take(200).collect() }
}
