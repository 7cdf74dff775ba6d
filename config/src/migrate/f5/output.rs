//! The [`Model`] as `edge.toml` and manifests.

mod http;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::model::{Kind, Model, Persistence, Pool, Purpose, Virtual};
use super::pools::{Backends, Pools, is_by_load, is_by_ratio};
use super::rules;
use crate::metallb::{ADDRESSES_ANNOTATIONS, SHARING_ANNOTATIONS};
use crate::migrate::gateway::{self, ALPHA, V1, slug};
use crate::migrate::{NoteKind, Notes, Output};
use crate::yaml::Tree;

/// A path of a BIG-IP as namespace and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub namespace: String,
    pub name: String,
}

/// `/Common/web_vs` → `common`, `web-vs`; `/tenant/app/service` → `tenant`, `app-service`.
pub(super) fn named(path: &str) -> Name {
    let trimmed = path.trim_start_matches('/');
    match trimmed.split_once('/') {
        Some((partition, rest)) => Name { namespace: slug(partition), name: slug(rest) },
        None => Name { namespace: "common".to_owned(), name: slug(trimmed) },
    }
}

/// What becomes of persistence by source address where it is not a Service's.
const BY_SOURCE: &str = "persistence by source address: clients are spread by a hash of their address (BackendTrafficPolicy), which \
    forgets nobody after a time; when a member comes or goes, nearly everybody else stays";

struct Writer<'w> {
    model: &'w Model,
    notes: &'w mut Notes,
    pools: Pools,
    routes: Vec<Tree>,
    policies: Vec<Tree>,
    services: Vec<Tree>,
    gateways: Vec<Tree>,
    /// Namespace and name of each Secret.
    secrets: BTreeSet<(String, String)>,
    /// Certificates of which it was told that they must be filled in.
    told: BTreeSet<String>,
    /// Services with a BackendTLSPolicy.
    verified: BTreeSet<(String, String)>,
}

/// The Gateway that is being made.
struct Vip {
    address: IpAddr,
    namespace: String,
    name: String,
    listeners: Vec<Tree>,
    /// Ports that are taken: (is UDP, port).
    ports: BTreeSet<(bool, u16)>,
    is_shared: bool,
}

impl Vip {
    fn key(&self) -> String {
        slug(&self.address.to_string())
    }
}

pub(super) fn write(model: &Model, notes: &mut Notes) -> Output {
    let mut writer = Writer {
        model,
        notes,
        pools: Pools::default(),
        routes: Vec::new(),
        policies: Vec::new(),
        services: Vec::new(),
        gateways: Vec::new(),
        secrets: BTreeSet::new(),
        told: BTreeSet::new(),
        verified: BTreeSet::new(),
    };
    let mut addresses: BTreeMap<IpAddr, Vec<&Virtual>> = BTreeMap::new();
    for server in &model.virtuals {
        if !server.is_enabled {
            server.place.note(writer.notes, NoteKind::Differs, "is disabled, so it is not written");
            continue;
        }
        for address in &server.addresses {
            addresses.entry(*address).or_default().push(server);
        }
    }
    for (address, servers) in &addresses {
        writer.vip(*address, servers);
    }
    let mut output = Output::default();
    if !addresses.is_empty() {
        output.toml.begin("[[pool]]");
        output.toml.text("name", "f5");
        output.toml.texts("addresses", addresses.keys().map(ToString::to_string));
        output.toml.raw("auto_assign", false);
    }
    for (namespace, name) in &writer.secrets {
        output.toml.begin("[[secret]]");
        output.toml.text("name", &format!("{namespace}/{name}"));
        output.toml.text("certificate", &format!("secrets/{name}.crt"));
        output.toml.text("key", &format!("secrets/{name}.key"));
    }
    let Writer { pools, routes, policies, mut services, gateways, .. } = writer;
    services.extend(pools.objects);
    if !gateways.is_empty() {
        let mut all = vec![gateway::gateway_class()];
        all.extend(gateways);
        output.manifests.push(("gateways", all));
    }
    output.manifests.extend([("routes", routes), ("policies", policies), ("services", services)]);
    output
}

impl Writer<'_> {
    fn vip(&mut self, address: IpAddr, servers: &[&Virtual]) {
        let namespaces: BTreeSet<String> = servers.iter().map(|server| named(&server.name).namespace).collect();
        let mut vip = Vip {
            address,
            namespace: servers.first().map(|server| named(&server.name).namespace).unwrap_or_default(),
            name: format!("vip-{}", slug(&address.to_string())),
            listeners: Vec::new(),
            ports: BTreeSet::new(),
            is_shared: namespaces.len() > 1,
        };
        let before = self.services.len();
        for server in servers {
            if !vip.ports.insert((server.kind == Kind::Udp, server.port)) {
                let message =
                    format!("{address}:{} is of an earlier virtual server; this one is left out", server.port);
                server.place.note(self.notes, NoteKind::NoEquivalent, message);
                continue;
            }
            self.server(&mut vip, server);
        }
        for server in servers {
            if let Some(port) = server.redirect_from.filter(|port| vip.ports.insert((false, *port))) {
                self.redirect(&mut vip, server, port);
            }
        }
        let has_services = self.services.len() > before;
        if vip.listeners.is_empty() {
            return;
        }
        let (listeners, rest) = vip.listeners.split_at(vip.listeners.len().min(gateway::MOST_LISTENERS));
        if !rest.is_empty() {
            let message =
                format!("{address} has more than {} listeners; move some to ListenerSets", gateway::MOST_LISTENERS);
            self.notes.add(NoteKind::NoEquivalent, None, "", message);
        }
        let spec = Tree::map([
            ("gatewayClassName", gateway::CLASS.into()),
            ("addresses", gateway::addresses(&[address])),
            ("listeners", listeners.to_vec().into()),
        ]);
        let mut object = gateway::object(V1, "Gateway", &vip.namespace, &vip.name, spec);
        if has_services {
            gateway::annotate(&mut object, SHARING_ANNOTATIONS[0], &vip.key());
        }
        self.gateways.push(object);
    }

    fn listen(vip: &mut Vip, listener: Tree) {
        let listener = if vip.is_shared { listener.with("allowedRoutes", gateway::everybody()) } else { listener };
        vip.listeners.push(listener);
    }

    fn server(&mut self, vip: &mut Vip, server: &Virtual) {
        match server.kind {
            Kind::TlsTcp => {
                let message = "TLS ends here and inside is no HTTP: a TLSRoute needs host names; write a TLS listener \
                    (mode Terminate) and a TLSRoute for those of its certificate";
                server.place.note(self.notes, NoteKind::NoEquivalent, message);
            }
            Kind::Tcp | Kind::Udp => self.stream(vip, server),
            Kind::Http | Kind::Https => self.http(vip, server),
        }
    }

    /// What the iRules of a virtual server do: a redirect to HTTPS, and whether it must be kept closed.
    fn scripts(&mut self, server: &Virtual) -> (Option<u16>, bool) {
        let (mut to_https, mut is_closed) = (None, false);
        for name in &server.rules {
            if name.ends_with("/_sys_https_redirect") {
                to_https = Some(302);
                continue;
            }
            let Some(rule) = self.model.rules.get(name) else {
                let message = format!("iRule {name} is in none of the files, so what it does is not known");
                server.place.note(self.notes, NoteKind::NoEquivalent, message);
                continue;
            };
            match rule.purpose() {
                Purpose::ToHttps(status) => to_https = Some(status),
                Purpose::Script(uses, refuses) => {
                    let uses = if uses.is_empty() { "is TCL".to_owned() } else { uses.join("; ") };
                    let closed = if refuses {
                        "; it refuses somebody, so a SecurityPolicy keeps the virtual server closed until you decide"
                    } else {
                        ""
                    };
                    let message = format!("iRules are not translated: it {uses}{closed}");
                    rule.place.note(self.notes, NoteKind::NoEquivalent, message);
                    is_closed |= refuses;
                }
            }
        }
        (to_https, is_closed)
    }

    fn persistence(&mut self, server: &Virtual) -> Option<Persistence> {
        let name = server.persistence.as_deref()?;
        if let Some(known) = self.model.persistence.get(name) {
            return Some(known.clone());
        }
        Some(match name.rsplit('/').next().unwrap_or(name) {
            "cookie" => Persistence::Cookie { name: None, seconds: 0 },
            "source_addr" | "source-address" => Persistence::SourceAddress(180),
            other => Persistence::Other(other.to_owned()),
        })
    }

    fn tell_by_source(&mut self, server: &Virtual, pool: &Pool) {
        server.place.note(self.notes, NoteKind::Differs, BY_SOURCE);
        if is_by_ratio(pool) {
            let message = "persistence by source address: members of different ratios are different Services, and which of \
                these a client comes to is drawn each time";
            pool.place.note(self.notes, NoteKind::NoEquivalent, message);
        }
    }

    fn stream(&mut self, vip: &mut Vip, server: &Virtual) {
        let (_, mut is_closed) = self.scripts(server);
        for name in &server.policies {
            let message = format!("policy {name}: connections are not looked into");
            server.place.note(self.notes, NoteKind::NoEquivalent, message);
            is_closed |=
                self.model.policies.get(name).is_some_and(|policy| rules::translate(policy, &mut Notes::default()).1);
        }
        let own = named(&server.name);
        let (protocol, listener, kind) = match server.kind {
            Kind::Udp => ("UDP", "UDP", "UDPRoute"),
            _ => ("TCP", "TCP", "TCPRoute"),
        };
        let Some(name) = server.pool.as_deref() else {
            server.place.note(
                self.notes,
                NoteKind::NoEquivalent,
                "has no pool; where connections go, only an iRule knows",
            );
            return;
        };
        let model = self.model;
        let Some(pool) = model.pools.get(name) else {
            server.place.note(self.notes, NoteKind::Fault, format!("pool {name} is in none of the files"));
            return;
        };
        self.pools.tell(name, pool, self.notes);
        let persistence = self.persistence(server);
        let affinity = match &persistence {
            Some(Persistence::SourceAddress(seconds)) => Some(*seconds),
            Some(Persistence::Other(what)) => {
                server.place.note(self.notes, NoteKind::NoEquivalent, format!("persistence {what} has no counterpart"));
                None
            }
            _ => None,
        };
        let wants_service = affinity.is_some() || !server.sources.is_empty();
        let mut probe = Pools::default();
        let alike = probe.backends(&own.namespace, name, pool, protocol).alike;
        if let Some(endpoints) = alike.filter(|_| wants_service && !is_closed && server.backend_tls.is_none()) {
            self.load_balancer(vip, server, &own, protocol, &endpoints, affinity);
            return;
        }
        if affinity.is_some() {
            self.tell_by_source(server, pool);
        } else if is_by_load(pool) {
            let message = format!("{}: connections go round in turn", pool.method);
            pool.place.note(self.notes, NoteKind::Differs, message);
        }
        let Backends { references, services, .. } = self.pools.backends(&own.namespace, name, pool, protocol);
        self.verify(server, &own.namespace, &services);
        let section = format!("{}-{}", protocol.to_ascii_lowercase(), server.port);
        Self::listen(vip, gateway::listener(&section, listener, server.port, None));
        let parent = gateway::parent((&vip.namespace, &vip.name), Some(&section), &own.namespace);
        let rule = Tree::map([("backendRefs", references.into())]);
        let route = self.route_name(vip, server, &own.name);
        self.routes.extend(gateway::routes((ALPHA, kind), (&own.namespace, &route), &[parent], &[], vec![rule]));
        if affinity.is_some() {
            let balancer = gateway::by_hash(gateway::by_source());
            let routes = std::slice::from_ref(&route);
            self.policies.push(gateway::balanced(&own.namespace, &route, kind, routes, balancer));
        }
        self.guard(server, &own.namespace, kind, &[route], is_closed);
    }

    /// A Service of type LoadBalancer: it has source ranges, and affinity by source address.
    fn load_balancer(
        &mut self,
        vip: &Vip,
        server: &Virtual,
        own: &Name,
        protocol: &str,
        endpoints: &[gateway::Endpoint],
        affinity: Option<u64>,
    ) {
        let name = self.route_name(vip, server, &own.name);
        let mut made = gateway::service((&own.namespace, &name), (server.port, protocol), endpoints);
        if let Some(service) = made.first_mut() {
            gateway::annotate(service, ADDRESSES_ANNOTATIONS[0], &vip.address.to_string());
            // Others may have other ports of the address.
            gateway::annotate(service, SHARING_ANNOTATIONS[0], &vip.key());
            if let Some(spec) = service.member_mut("spec") {
                spec.put("type", "LoadBalancer");
                spec.put("loadBalancerClass", "edge.internal/load-balancer");
                if !server.sources.is_empty() {
                    spec.put("loadBalancerSourceRanges", Tree::texts(&server.sources));
                }
                if let Some(seconds) = affinity {
                    spec.put("sessionAffinity", "ClientIP");
                    let timeout =
                        Tree::map([("timeoutSeconds", i64::try_from(seconds.clamp(1, 86_400)).unwrap_or(180).into())]);
                    spec.put("sessionAffinityConfig", Tree::map([("clientIP", timeout)]));
                }
            }
        }
        self.services.extend(made);
    }

    /// A virtual server with several addresses has a route at each of them.
    fn route_name(&self, vip: &Vip, server: &Virtual, base: &str) -> String {
        if server.addresses.len() > 1 { format!("{base}-{}", vip.key()) } else { base.to_owned() }
    }

    fn verify(&mut self, server: &Virtual, namespace: &str, services: &[String]) {
        let Some(name) = &server.backend_tls else { return };
        let host = self.model.backend_tls.get(name).and_then(|profile| profile.server_name.clone());
        let host = host.unwrap_or_else(|| "change-me.invalid".to_owned());
        let mut new = Vec::new();
        for service in services {
            if self.verified.insert((namespace.to_owned(), service.clone())) {
                new.push(format!("{namespace}/{service}"));
                self.policies.push(gateway::backend_tls(namespace, service, &host));
            }
        }
        if !new.is_empty() {
            let message = format!(
                "TLS to members: BIG-IP verifies them only where it is told to, Edge always; in BackendTLSPolicy {} write \
                 the name of their certificate in place of {host} and, unless it is of a CA of the system, \
                 caCertificateRefs",
                new.join(", ")
            );
            server.place.note(self.notes, NoteKind::ToDo, message);
        }
    }

    /// Keeps closed what was closed.
    fn guard(&mut self, server: &Virtual, namespace: &str, kind: &str, routes: &[String], is_closed: bool) {
        let Some(first) = routes.first() else { return };
        let rules = if is_closed {
            gateway::nobody()
        } else if !server.sources.is_empty() {
            gateway::only_from(&server.sources)
        } else {
            return;
        };
        self.policies.push(gateway::closed(namespace, first, kind, routes, rules));
    }
}
