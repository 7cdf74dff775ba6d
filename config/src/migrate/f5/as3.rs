//! AS3 declarations (ADC → Tenant → Application → Service, Pool, …) to the [`Model`]. A class or property that changes
//! traffic and has no counterpart becomes a note; certificates and keys are never looked into.

mod policy;

use std::sync::Arc;

use super::model::{
    At, BackendTls, IRule, Kind, Model, Persistence, Place, Pool, PoolMember, TlsProfile, Virtual, address, network,
};
use crate::migrate::{NoteKind, Notes, Source};
use crate::problem::Origin;
use crate::yaml::{self, Entry, Mark, Node, Value};

/// Members that are no objects.
const PLAIN: [&str; 14] = [
    "class",
    "label",
    "remark",
    "schemaVersion",
    "id",
    "updateMode",
    "controls",
    "template",
    "enable",
    "constants",
    "defaultRouteDomain",
    "useCommonRouteDomainTenant",
    "optimisticLockKey",
    "$schema",
];
/// Classes that are looked at where they are named, or say nothing that Edge would do otherwise.
const QUIET: [&str; 15] = [
    "Certificate",
    "Certificate_Validator_OCSP",
    "CA_Bundle",
    "Monitor",
    "Service_Address",
    "HTTP_Profile",
    "TCP_Profile",
    "UDP_Profile",
    "L4_Profile",
    "HTTP2_Profile",
    "Multiplex_Profile",
    "Data_Group",
    "Constants",
    "Cipher_Group",
    "Cipher_Rule",
];
/// Properties of a Service that are read, or that Edge need not know.
const READ: [&str; 38] = [
    "class",
    "label",
    "remark",
    "virtualAddresses",
    "virtualPort",
    "pool",
    "persistenceMethods",
    "serverTLS",
    "clientTLS",
    "redirect80",
    "iRules",
    "policyEndpoint",
    "snat",
    "enable",
    "layer4",
    "profileHTTP",
    "profileTCP",
    "profileUDP",
    "profileL4",
    "profileHTTP2",
    "profileMultiplex",
    "translateServerAddress",
    "translateServerPort",
    "addressStatus",
    "shareAddresses",
    "virtualType",
    "mirroring",
    "metadata",
    "nat64Enabled",
    "maxConnections",
    "rateLimit",
    "allowVlans",
    "rejectVlans",
    "httpMrfRoutingEnabled",
    "adminState",
    "profileHTTPCompression",
    "fallbackPersistenceMethod",
    "profileHTTPAcceleration",
];

struct Reader<'r> {
    file: Arc<str>,
    line_offset: u32,
    model: &'r mut Model,
    notes: &'r mut Notes,
    /// `/tenant/application/`
    path: String,
    /// Service_Address: path → address and, where it says so, the network of clients.
    addresses: Vec<(String, String)>,
}

pub(super) fn is_declaration(text: &str) -> bool {
    text.trim_start().starts_with('{') && (text.contains("\"AS3\"") || text.contains("\"ADC\""))
}

pub(super) fn read(source: &Source, model: &mut Model, notes: &mut Notes) {
    // A tab is a blank of JSON and none of YAML; in a string of JSON there is none.
    let text = source.text.replace('\t', " ");
    let origin = |mark: Mark| Origin { file: source.file.clone(), line: mark.line, column: mark.column };
    let root = match yaml::parse(&text) {
        Ok(Some(root)) => root,
        Ok(None) => return,
        Err(fault) => {
            notes.add(NoteKind::Fault, Some(&origin(fault.mark)), "", fault.message);
            return;
        }
    };
    let adc = match class(&root) {
        Some("AS3") => root.member("declaration"),
        _ => Some(&root),
    };
    let Some(adc) = adc.filter(|node| class(node) == Some("ADC")) else {
        notes.add(NoteKind::Fault, Some(&origin(root.mark)), "", "holds no declaration of class ADC");
        return;
    };
    let mut reader =
        Reader { file: source.file.clone(), line_offset: 0, model, notes, path: String::new(), addresses: Vec::new() };
    // Addresses are named by services of other applications too.
    reader.each_object(adc, &mut |reader, entry| {
        if class(&entry.value) == Some("Service_Address")
            && let Some(address) = text_of(&entry.value, "virtualAddress")
        {
            reader.addresses.push((format!("{}{}", reader.path, entry.key), address.to_owned()));
        }
    });
    reader.each_object(adc, &mut Reader::object);
}

fn class<'n>(node: &'n Node<'_>) -> Option<&'n str> {
    node.member("class")?.as_str()
}

fn entries<'n, 't>(node: &'n Node<'t>) -> &'n [Entry<'t>] {
    match &node.value {
        Value::Mapping(entries) => entries,
        _ => &[],
    }
}

/// A list, or one value in place of a list of one.
fn list<'n, 't>(node: Option<&'n Node<'t>>) -> Vec<&'n Node<'t>> {
    match node.map(|node| &node.value) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Sequence(nodes)) => nodes.iter().collect(),
        Some(_) => node.into_iter().collect(),
    }
}

fn text_of<'n>(node: &'n Node<'_>, key: &str) -> Option<&'n str> {
    node.member(key)?.as_str()
}

fn number_of(node: &Node<'_>, key: &str) -> Option<u64> {
    number(node.member(key)?)
}

fn number(node: &Node<'_>) -> Option<u64> {
    match node.value {
        Value::Int(number) => u64::try_from(number).ok(),
        _ => None,
    }
}

fn flag(node: &Node<'_>, key: &str) -> Option<bool> {
    match node.member(key)?.value {
        Value::Bool(value) => Some(value),
        _ => None,
    }
}

impl Reader<'_> {
    fn origin(&self, mark: Mark) -> Origin {
        Origin { file: self.file.clone(), line: self.line_offset + mark.line, column: mark.column }
    }

    fn each_object(&mut self, adc: &Node<'_>, act: &mut dyn FnMut(&mut Self, &Entry<'_>)) {
        for tenant in entries(adc).iter().filter(|entry| class(&entry.value) == Some("Tenant")) {
            for application in entries(&tenant.value).iter().filter(|entry| class(&entry.value) == Some("Application"))
            {
                self.path = format!("/{}/{}/", tenant.key, application.key);
                let objects = entries(&application.value).iter().filter(|entry| !PLAIN.contains(&&*entry.key));
                for entry in objects {
                    act(self, entry);
                }
            }
        }
    }

    /// A name, `{"use": …}` or `{"bigip": …}` as a full path.
    fn pointer(&self, node: &Node<'_>) -> Option<String> {
        let name = match &node.value {
            Value::String(name) => name,
            _ => text_of(node, "bigip").or_else(|| text_of(node, "use"))?,
        };
        Some(if name.starts_with('/') { (*name).to_owned() } else { format!("{}{name}", self.path) })
    }

    fn object(&mut self, entry: &Entry<'_>) {
        let node = &entry.value;
        let Some(class) = class(node) else { return };
        let name = format!("{}{}", self.path, entry.key);
        let place = Place { subject: format!("{class} {name}"), origin: self.origin(entry.mark) };
        match class {
            "Service_HTTP" | "Service_HTTPS" | "Service_TCP" | "Service_UDP" | "Service_L4" => {
                self.service(class, name, node, &place);
            }
            "Pool" => self.pool(name, node, place),
            "TLS_Server" => {
                let certificates = list(node.member("certificates"));
                let mut named: Vec<(bool, String)> = certificates
                    .iter()
                    .filter_map(|one| {
                        let is_default = flag(one, "sniDefault").unwrap_or(false);
                        Some((is_default, self.pointer(one.member("certificate")?)?))
                    })
                    .collect();
                named.sort_by_key(|(is_default, _)| !is_default);
                for key in ["ciphers", "cipherGroup", "tls1_1Enabled", "tls1_0Enabled"] {
                    if let Some(member) = node.entry(key) {
                        let place = Place { origin: self.origin(member.mark), ..place.clone() };
                        let message = format!("{key}: Edge offers the suites of rustls, TLS 1.2 and 1.3");
                        place.note(self.notes, NoteKind::Differs, message);
                    }
                }
                let is_mutual = text_of(node, "authenticationMode") == Some("require");
                let certificates = named.into_iter().map(|(_, name)| name).collect();
                self.model.tls.insert(name, TlsProfile { place, certificates, is_mutual });
            }
            "TLS_Client" => {
                let server_name = text_of(node, "serverName").or_else(|| text_of(node, "sendSNI")).map(str::to_owned);
                self.model.backend_tls.insert(name, BackendTls { server_name });
            }
            "Persist" => {
                let seconds = number_of(node, "ttl").or_else(|| number_of(node, "duration"));
                let found = match text_of(node, "persistenceMethod").unwrap_or_default() {
                    "cookie" => Persistence::Cookie {
                        name: text_of(node, "cookieName").map(str::to_owned),
                        seconds: seconds.unwrap_or(0),
                    },
                    "source-address" => Persistence::SourceAddress(seconds.unwrap_or(180)),
                    other => Persistence::Other(other.to_owned()),
                };
                self.model.persistence.insert(name, found);
            }
            "Endpoint_Policy" => self.policy(name, node, place),
            "iRule" => {
                let text = match node.member("iRule") {
                    Some(body) => body.as_str().map(str::to_owned).or_else(|| decoded(text_of(body, "base64")?)),
                    None => None,
                };
                self.model.rules.insert(name, IRule { place, text: text.unwrap_or_default() });
            }
            class if QUIET.contains(&class) => {}
            class => {
                place.note(self.notes, NoteKind::NoEquivalent, format!("class {class} has no counterpart in Edge"));
            }
        }
    }

    fn address(&mut self, text: &str, place: &Place) -> Option<std::net::IpAddr> {
        let text = text.split_once('/').map_or(text, |(address, _)| address);
        match address(text) {
            Some((found, domain)) => {
                if let Some(domain) = domain {
                    let message = format!(
                        "route domain {domain} of {text}: Edge has the routes of its host; put edged into a VRF, or \
                         give the networks distinct addresses"
                    );
                    place.note(self.notes, NoteKind::NoEquivalent, message);
                }
                Some(found)
            }
            None => {
                place.note(self.notes, NoteKind::Fault, format!("{text:?} is no address"));
                None
            }
        }
    }

    fn service(&mut self, class: &str, name: String, node: &Node<'_>, place: &Place) {
        let mut sources = Vec::new();
        let mut addresses = Vec::new();
        for one in list(node.member("virtualAddresses")) {
            let at = Place { origin: self.origin(one.mark), ..place.clone() };
            let text = match &one.value {
                Value::String(text) => (**text).to_owned(),
                // An address, and the clients that may come to it.
                Value::Sequence(pair) => {
                    if let Some(source) = pair.get(1).and_then(Node::as_str).filter(|text| !text.ends_with("/0")) {
                        sources.extend(network(source));
                    }
                    pair.first().and_then(Node::as_str).unwrap_or_default().to_owned()
                }
                _ => {
                    let name = self.pointer(one).unwrap_or_default();
                    match self.addresses.iter().find(|(known, _)| *known == name) {
                        Some((_, address)) => address.clone(),
                        None => {
                            at.note(
                                self.notes,
                                NoteKind::Fault,
                                format!("Service_Address {name} is in none of the files"),
                            );
                            continue;
                        }
                    }
                }
            };
            match self.address(&text, &at) {
                Some(address) if address.is_unspecified() => {
                    at.note(self.notes, NoteKind::NoEquivalent, format!("{text}: only single addresses are VIPs"));
                }
                Some(address) => addresses.push(address),
                None => {}
            }
        }
        let default_port = match class {
            "Service_HTTP" => Some(80),
            "Service_HTTPS" => Some(443),
            _ => None,
        };
        let mut ports: Vec<u16> = list(node.member("virtualPort"))
            .into_iter()
            .filter_map(number)
            .filter_map(|n| u16::try_from(n).ok())
            .collect();
        if ports.is_empty() {
            ports.extend(default_port);
        }
        if addresses.is_empty() {
            return;
        }
        let tls: Vec<String> = list(node.member("serverTLS")).into_iter().filter_map(|one| self.pointer(one)).collect();
        let layer4 = text_of(node, "layer4").unwrap_or("tcp");
        let kind = match class {
            "Service_HTTP" => Kind::Http,
            "Service_HTTPS" => Kind::Https,
            "Service_UDP" => Kind::Udp,
            "Service_L4" if layer4 == "udp" => Kind::Udp,
            _ if !tls.is_empty() => Kind::TlsTcp,
            "Service_L4" if layer4 != "tcp" => {
                let message = format!("layer4 {layer4}: only tcp and udp are served");
                place.note(self.notes, NoteKind::NoEquivalent, message);
                return;
            }
            _ => Kind::Tcp,
        };
        self.properties(node, place);
        // AS3's own defaults.
        let persistence = match node.member("persistenceMethods") {
            Some(methods) => list(Some(methods)).into_iter().next().and_then(|one| match &one.value {
                Value::String(word) => Some(format!("/Common/{word}")),
                _ => self.pointer(one),
            }),
            None if matches!(kind, Kind::Http | Kind::Https) => Some("/Common/cookie".to_owned()),
            None => Some("/Common/source-address".to_owned()),
        };
        let pointers = |key: &str| -> Vec<String> {
            list(node.member(key)).into_iter().filter_map(|one| self.pointer(one)).collect()
        };
        let redirects = class == "Service_HTTPS" && flag(node, "redirect80").unwrap_or(true);
        let found = Virtual {
            name,
            place: place.clone(),
            addresses,
            port: 0,
            kind,
            pool: node.member("pool").and_then(|pool| self.pointer(pool)),
            tls,
            backend_tls: node.member("clientTLS").and_then(|tls| self.pointer(tls)),
            redirect_from: redirects.then_some(80),
            persistence,
            policies: pointers("policyEndpoint"),
            rules: pointers("iRules"),
            sources,
            is_enabled: flag(node, "enable").unwrap_or(true),
        };
        if ports.iter().all(|port| *port == 0) {
            let message = "virtualPort: a listener has one port; write one per port";
            place.note(self.notes, NoteKind::NoEquivalent, message);
        }
        for (index, port) in ports.into_iter().filter(|port| *port != 0).enumerate() {
            let name = if index == 0 { found.name.clone() } else { format!("{}-{port}", found.name) };
            let redirect_from = found.redirect_from.filter(|_| index == 0);
            self.model.virtuals.push(Virtual { name, port, redirect_from, ..found.clone() });
        }
    }

    /// Properties of a Service that Edge has no counterpart for.
    fn properties(&mut self, node: &Node<'_>, place: &Place) {
        for entry in entries(node) {
            let at = Place { origin: self.origin(entry.mark), ..place.clone() };
            let message = match &*entry.key {
                "snat"
                    if !matches!(entry.value.as_str(), Some("auto" | "self"))
                        && entry.value.as_str() == Some("none") =>
                {
                    at.note(
                        self.notes,
                        NoteKind::Differs,
                        "snat none: endpoints saw the clients' addresses; now they see Edge's: X-Forwarded-For tells, \
                         or a BackendTrafficPolicy with proxyProtocol",
                    );
                    continue;
                }
                "maxConnections" | "rateLimit" if number(&entry.value).unwrap_or(1) > 0 => {
                    format!("{}: [proxy] max_connections of edge.toml is for the whole edge", entry.key)
                }
                "allowVlans" | "rejectVlans" => {
                    format!("{}: a VIP is served on every interface that it reaches; filter with nftables", entry.key)
                }
                "mirroring" if entry.value.as_str() == Some("L4") => {
                    "mirroring: connections are not mirrored between edges".to_owned()
                }
                "profileHTTPCompression" | "profileHTTPAcceleration" => {
                    format!("{}: bodies are passed on as they are", entry.key)
                }
                key if READ.contains(&key) => continue,
                key => format!("{key} has no counterpart in Edge"),
            };
            at.note(self.notes, NoteKind::NoEquivalent, message);
        }
    }

    fn pool(&mut self, name: String, node: &Node<'_>, place: Place) {
        let mut members = Vec::new();
        for member in list(node.member("members")) {
            let at = Place { origin: self.origin(member.mark), ..place.clone() };
            let port = number_of(member, "servicePort").and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
            if port == 0 {
                at.note(self.notes, NoteKind::NoEquivalent, "members: servicePort 0; the port must be written");
                continue;
            }
            if number_of(member, "connectionLimit").is_some_and(|limit| limit > 0) {
                at.note(self.notes, NoteKind::NoEquivalent, "members: connectionLimit: Edge limits no endpoint");
            }
            let mut places = Vec::new();
            match text_of(member, "addressDiscovery").unwrap_or("static") {
                "static" => {
                    for one in list(member.member("serverAddresses")) {
                        let Some(text) = one.as_str() else { continue };
                        places.extend(self.address(text, &at).map(At::Address));
                    }
                    for one in list(member.member("servers")) {
                        let Some(text) = text_of(one, "address") else { continue };
                        places.extend(self.address(text, &at).map(At::Address));
                    }
                }
                "fqdn" => places.extend(text_of(member, "hostname").map(|name| At::Name(name.to_owned()))),
                other => {
                    let message = format!("members: addressDiscovery {other}: endpoints come from Services here");
                    at.note(self.notes, NoteKind::NoEquivalent, message);
                }
            }
            let number = |key: &str| number_of(member, key).and_then(|number| u32::try_from(number).ok());
            members.extend(places.into_iter().map(|at| PoolMember {
                at,
                port,
                ratio: number("ratio").unwrap_or(1).max(1),
                priority: number("priorityGroup").unwrap_or(0),
                is_enabled: text_of(member, "adminState").unwrap_or("enable") == "enable",
            }));
        }
        for (key, instead) in [
            ("slowRampTime", "is not written; loadBalancer.slowStart of a BackendTrafficPolicy has it"),
            ("reselectTries", "has no counterpart in Edge"),
        ] {
            if let Some(entry) = node.entry(key).filter(|entry| !matches!(number(&entry.value), Some(0 | 10))) {
                let at = Place { origin: self.origin(entry.mark), ..place.clone() };
                at.note(self.notes, NoteKind::NoEquivalent, format!("{key} {instead}"));
            }
        }
        let monitors = list(node.member("monitors")).into_iter().filter_map(|one| match &one.value {
            Value::String(word) => Some((**word).to_owned()),
            _ => self.pointer(one),
        });
        let monitors = monitors.collect();
        let pool = Pool {
            place,
            members,
            method: text_of(node, "loadBalancingMode").unwrap_or("round-robin").to_owned(),
            monitors,
            minimum_active: number_of(node, "minimumMembersActive").and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
        };
        self.model.pools.insert(name, pool);
    }
}

fn decoded(text: &str) -> Option<String> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    String::from_utf8(bytes).ok()
}
