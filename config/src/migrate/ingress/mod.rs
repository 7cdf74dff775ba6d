//! Ingress objects: one Gateway for each IngressClass, with a listener for each host that has a certificate, and HTTPRoutes
//! for the hosts of each Ingress. Services and EndpointSlices among the sources are handed on and tell the numbers of
//! named ports.

mod annotations;
mod listeners;
mod paths;
mod routes;
mod snippet;
mod spec;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use annotations::Manner;
use spec::{Backend, IngressSpec};

use super::gateway::{self, object};
use super::read::{Found, objects};
use super::{NoteKind, Notes, Output, Source};
use crate::problem::Origin;
use crate::wire::IntOrString;
use crate::yaml::{Tree, Value};

/// One Ingress.
struct Member<'t> {
    found: &'t Found<'t>,
    namespace: &'t str,
    spec: IngressSpec,
    manner: Manner,
}

impl Member<'_> {
    fn origin(&self) -> Origin {
        self.found.origin()
    }

    fn subject(&self) -> String {
        self.found.subject()
    }

    fn is_canary(&self) -> bool {
        self.manner.canary.is_some()
    }
}

/// Ports of the Services in the sources, by name: (namespace, Service) → port name → number.
#[derive(Default)]
struct Services(BTreeMap<(String, String), BTreeMap<String, u16>>);

/// Issuers that cert-manager and Edge read from a Gateway.
const ISSUERS: [&str; 2] = ["cert-manager.io/cluster-issuer", "cert-manager.io/issuer"];
const OLD_CLASS: &str = "kubernetes.io/ingress.class";
const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

pub(super) fn migrate(sources: &[Source], notes: &mut Notes) -> Output {
    let found = objects(sources, notes);
    let mut services = Services::default();
    let mut copied = Vec::new();
    let mut default_class = None;
    for object in &found {
        match (object.group(), object.kind.as_str()) {
            ("", "Service") => {
                services.learn(object);
                copied.push(object.bare());
            }
            ("discovery.k8s.io", "EndpointSlice") => copied.push(object.bare()),
            ("networking.k8s.io" | "extensions", "IngressClass") => {
                if object.annotation(&[DEFAULT_CLASS]).is_some_and(|(_, value)| value == "true") {
                    default_class = Some(object.name.clone());
                }
                ingress_class(object, notes);
            }
            _ => {}
        }
    }
    let mut classes: BTreeMap<String, Vec<Member<'_>>> = BTreeMap::new();
    for object in &found {
        if object.kind != "Ingress" || !matches!(object.group(), "networking.k8s.io" | "extensions") {
            continue;
        }
        let Some(spec) = object.spec::<IngressSpec>(notes) else { continue };
        let old = object.annotation(&[OLD_CLASS]).map(|(_, class)| class.to_owned());
        let class = spec.ingress_class_name.clone().or(old).or_else(|| default_class.clone());
        let class = class.unwrap_or_else(|| "ingress".to_owned());
        let namespace = if object.namespace.is_empty() { "default" } else { &object.namespace };
        let manner = annotations::read(object, notes);
        classes.entry(class).or_default().push(Member { found: object, namespace, spec, manner });
    }
    let mut output = Output::default();
    if classes.is_empty() {
        let origin = sources.first().map(|source| Origin { file: source.file.clone(), line: 0, column: 0 });
        notes.add(NoteKind::Fault, origin.as_ref(), "", "holds no Ingress");
        return output;
    }
    let mut gateways = vec![gateway::gateway_class()];
    let mut out = Vec::new();
    let mut policies = Vec::new();
    let mut is_without_address = false;
    for (class, members) in &classes {
        let plan = listeners::plan(class, members, notes);
        is_without_address |= plan.addresses.is_empty();
        gateways.extend(plan.objects(members, notes));
        routes::write(&plan, members, &services, &mut out, &mut policies, notes);
    }
    if is_without_address {
        output.toml.begin("[[pool]]");
        output.toml.comment("To do: the addresses at which clients reach these hosts.");
        output.toml.text("name", "ingress");
        output.toml.texts("addresses", ["192.0.2.1"]);
        let first = classes.values().flatten().next();
        let message = "no Ingress tells an address in its status; write the address of the hosts into [[pool]] of \
            edge.toml in place of 192.0.2.1";
        notes.add(NoteKind::ToDo, first.map(Member::origin).as_ref(), "", message);
    }
    output.manifests = vec![("gateways", gateways), ("routes", out), ("policies", policies), ("services", copied)];
    output
}

fn ingress_class(object: &Found<'_>, notes: &mut Notes) {
    let controller = object.text_at("spec.controller").unwrap_or_default();
    if !controller.is_empty() && !controller.contains("nginx") {
        let message =
            format!("spec.controller: {controller} is not ingress-nginx, so its annotations are not understood");
        notes.add(NoteKind::Differs, Some(&object.origin_of_key("spec.controller")), &object.subject(), message);
    }
    if object.at("spec.parameters").is_some() {
        let message = "spec.parameters: belong to that controller";
        notes.add(NoteKind::NoEquivalent, Some(&object.origin_of_key("spec.parameters")), &object.subject(), message);
    }
}

impl Services {
    fn learn(&mut self, object: &Found<'_>) {
        let namespace = if object.namespace.is_empty() { "default" } else { &object.namespace };
        let ports = self.0.entry((namespace.to_owned(), object.name.clone())).or_default();
        let Some(Value::Sequence(list)) = object.at("spec.ports").map(|node| &node.value) else { return };
        for port in list {
            let number = port.member("port").and_then(|node| match node.value {
                Value::Int(number) => u16::try_from(number).ok(),
                _ => None,
            });
            if let (Some(name), Some(number)) = (port.member("name").and_then(crate::yaml::Node::as_str), number) {
                ports.insert(name.to_owned(), number);
            }
        }
    }

    /// Name and port of a backend; what cannot be told becomes a note.
    fn resolve(&self, member: &Member<'_>, backend: &Backend, notes: &mut Notes) -> Option<(String, u16)> {
        let mut refuse = |kind, message: String| {
            notes.add(kind, Some(&member.origin()), &member.subject(), message);
            None
        };
        if let Some(resource) = &backend.resource {
            let message = format!("backend {} {}: only Services are backends", resource.kind, resource.name);
            return refuse(NoteKind::NoEquivalent, message);
        }
        let Some((name, port)) = backend.service() else {
            return refuse(NoteKind::Fault, "a backend names no Service and port".to_owned());
        };
        match port {
            IntOrString::Int(number) => match u16::try_from(number) {
                Ok(number) if number > 0 => Some((name.to_owned(), number)),
                _ => refuse(NoteKind::Fault, format!("backend {name}: {number} is no port")),
            },
            IntOrString::String(text) => {
                let known = self.0.get(&(member.namespace.to_owned(), name.to_owned()));
                match known.and_then(|ports| ports.get(&text)) {
                    Some(number) => Some((name.to_owned(), *number)),
                    None => refuse(
                        NoteKind::Fault,
                        format!(
                            "backend {name}: what number port {text:?} has is in none of the files; give the Service \
                             too (kubectl get ingress,service,endpointslice -A -o yaml)"
                        ),
                    ),
                }
            }
        }
    }
}

/// Addresses in the status: those that clients use now.
fn live(members: &[Member<'_>]) -> Vec<IpAddr> {
    let mut addresses = BTreeSet::new();
    for member in members {
        let Some(Value::Sequence(list)) = member.found.at("status.loadBalancer.ingress").map(|node| &node.value) else {
            continue;
        };
        addresses.extend(list.iter().filter_map(|entry| entry.member("ip")?.as_str()?.parse::<IpAddr>().ok()));
    }
    addresses.into_iter().take(16).collect()
}

/// The Gateway's annotations that name its issuer, where all Ingresses agree.
fn issuer(gateway: &mut Tree, members: &[Member<'_>], notes: &mut Notes) {
    let mut known: Option<(&str, &str)> = None;
    for member in members {
        let Some((name, value)) = member.found.annotation(&ISSUERS) else { continue };
        match known {
            None => {
                known = Some((name, value));
                gateway::annotate(gateway, name, value);
            }
            Some(known) if known != (name, value) => {
                let message = format!("{name}: a Gateway has one issuer, which is {} here", known.1);
                notes.add(NoteKind::NoEquivalent, Some(&member.origin()), &member.subject(), message);
            }
            Some(_) => {}
        }
    }
    if let Some(member) = members.iter().find(|member| member.found.annotation(&["kubernetes.io/tls-acme"]).is_some())
        && known.is_none()
    {
        let message = "kubernetes.io/tls-acme: the controller's default issuer is not known here; annotate the Gateway \
            with cert-manager.io/cluster-issuer";
        notes.add(NoteKind::ToDo, Some(&member.origin()), &member.subject(), message);
    }
}

fn listener_set(namespace: &str, name: &str, gateway: &str, listeners: Vec<Tree>) -> Tree {
    let spec = Tree::map([("parentRef", Tree::map([("name", gateway.into())])), ("listeners", listeners.into())]);
    object(gateway::V1, "ListenerSet", namespace, name, spec)
}
