//! `bigip.conf` to the [`Model`]. What is not about local traffic is passed over; objects that change traffic and have no
//! counterpart are told.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::conditions;
use super::model::{
    At, BackendTls, IRule, Kind, Model, Persistence, Place, Policy, PolicyRule, Pool, PoolMember, TlsProfile, Virtual,
    address, network, port,
};
use super::tree::{Block, Entry, parse};
use crate::migrate::{NoteKind, Notes, Source};
use crate::problem::Origin;
use crate::yaml::Mark;

/// Modules that decide about traffic and have no counterpart.
const MODULES: [&str; 8] = ["gtm", "asm", "apm", "security", "pem", "ilx", "cgnat", "wom"];
/// Profiles that say nothing that Edge would do otherwise.
const PLAIN: [&str; 9] =
    ["tcp", "udp", "http", "http2", "fastl4", "fasthttp", "one-connect", "client-ssl", "server-ssl"];

struct Reader<'r> {
    file: Arc<str>,
    model: &'r mut Model,
    notes: &'r mut Notes,
    nodes: BTreeMap<String, At>,
    /// Virtual addresses by name.
    addresses: BTreeMap<String, IpAddr>,
}

/// Returns whether there was anything.
pub(super) fn read(source: &Source, model: &mut Model, notes: &mut Notes) -> bool {
    let root = match parse(&source.text) {
        Ok(root) => root,
        Err(fault) => {
            let origin = Origin { file: source.file.clone(), line: fault.mark.line, column: fault.mark.column };
            notes.add(NoteKind::Fault, Some(&origin), "", fault.to_string());
            return true;
        }
    };
    let mut reader =
        Reader { file: source.file.clone(), model, notes, nodes: BTreeMap::new(), addresses: BTreeMap::new() };
    let mut has_any = false;
    let empty = Block::default();
    let objects: Vec<(&Entry, Vec<&str>, &Block)> = root
        .entries
        .iter()
        .map(|entry| {
            let words = entry.words.iter().map(String::as_str).collect();
            (entry, words, entry.block.as_ref().unwrap_or(&empty))
        })
        .collect();
    // What others refer to comes first, wherever it stands.
    for (entry, words, block) in &objects {
        match words.as_slice() {
            ["ltm", "node", name] => reader.node(entry, name, block),
            ["ltm", "virtual-address", name] => reader.virtual_address(name, block),
            ["ltm", "profile", kind, name] => reader.profile(entry, kind, name, block),
            _ => {}
        }
    }
    for (entry, words, block) in &objects {
        has_any |= words.first() == Some(&"ltm");
        match words.as_slice() {
            ["ltm", "virtual", name] => reader.virtual_server(entry, name, block),
            ["ltm", "pool", name] => reader.pool(entry, name, block),
            ["ltm", "persistence", kind, name] => reader.persistence(kind, name, block),
            ["ltm", "policy", name] => reader.policy(entry, name, block),
            ["ltm", "rule", name] => {
                let place = reader.place(entry.mark, format!("iRule {name}"));
                let text = block.raw.clone().unwrap_or_default();
                reader.model.rules.insert((*name).to_owned(), IRule { place, text });
            }
            [module, rest @ ..] if MODULES.contains(module) && !rest.is_empty() => {
                let place = reader.place(entry.mark, words.join(" "));
                place.note(reader.notes, NoteKind::NoEquivalent, format!("module {module} has no counterpart in Edge"));
            }
            ["ltm", kind @ ("nat" | "snat" | "ifile" | "traffic-class"), name] => {
                let place = reader.place(entry.mark, format!("{kind} {name}"));
                place.note(reader.notes, NoteKind::NoEquivalent, "has no counterpart in Edge");
            }
            _ => {}
        }
    }
    has_any
}

/// Full path of a name, which without one is of the partition Common.
fn full(name: &str) -> String {
    if name.starts_with('/') { name.to_owned() } else { format!("/Common/{name}") }
}

/// The last part of a path.
fn leaf(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Address and port of `10.0.0.1:80`, `2001:db8::1.80`, `10.0.0.1%1:http`.
fn split_port(text: &str) -> Option<(&str, u16)> {
    let text = leaf(text);
    // IPv6 has colons inside, and a dot before the port.
    let (address, word) = match text.matches(':').count() {
        0 | 1 => text.rsplit_once(':')?,
        _ => text.rsplit_once('.')?,
    };
    Some((address, port(word)?))
}

impl Reader<'_> {
    fn place(&self, mark: Mark, subject: String) -> Place {
        Place { subject, origin: Origin { file: self.file.clone(), line: mark.line, column: mark.column } }
    }

    fn at(&self, block: &Block, key: &str, place: &Place) -> Place {
        match block.entry(key) {
            Some(entry) => self.place(entry.mark, place.subject.clone()),
            None => place.clone(),
        }
    }

    /// An address; a route domain is told and left out.
    fn address(&mut self, text: &str, place: &Place) -> Option<IpAddr> {
        let (found, domain) = address(text)?;
        if let Some(domain) = domain {
            let message = format!(
                "route domain {domain} of {text}: Edge has the routes of its host; put edged into a VRF, or give the \
                 networks distinct addresses"
            );
            place.note(self.notes, NoteKind::NoEquivalent, message);
        }
        Some(found)
    }

    fn node(&mut self, entry: &Entry, name: &str, block: &Block) {
        let place = self.place(entry.mark, format!("node {name}"));
        let fqdn = block.block("fqdn").and_then(|fqdn| fqdn.value("name"));
        let at = match (fqdn, block.value("address")) {
            (Some(fqdn), _) => Some(At::Name(fqdn.to_owned())),
            (None, Some(text)) => address(text).map(|(address, _)| At::Address(address)),
            (None, None) => None,
        };
        match at {
            Some(at) => drop(self.nodes.insert(full(name), at)),
            None => place.note(self.notes, NoteKind::Fault, "has no address"),
        }
    }

    fn virtual_address(&mut self, name: &str, block: &Block) {
        if let Some((address, _)) = block.value("address").and_then(address) {
            self.addresses.insert(full(name), address);
        }
    }

    fn profile(&mut self, entry: &Entry, kind: &str, name: &str, block: &Block) {
        let name = full(name);
        let place = self.place(entry.mark, format!("{kind} profile {name}"));
        self.model.profiles.insert(name.clone(), kind.to_owned());
        match kind {
            "client-ssl" => {
                let mut certificates: Vec<String> = Vec::new();
                if let Some(chain) = block.block("cert-key-chain") {
                    certificates.extend(
                        chain.entries.iter().filter_map(|e| e.block.as_ref()?.value("cert")).map(str::to_owned),
                    );
                }
                if certificates.is_empty() {
                    certificates.extend(block.value("cert").map(str::to_owned));
                }
                certificates.retain(|name| name != "none");
                let is_mutual = matches!(block.value("peer-cert-mode"), Some("require"));
                if let Some(ciphers) = block.value("ciphers").filter(|text| *text != "DEFAULT" && *text != "none") {
                    let message = format!("ciphers {ciphers:?}: Edge offers the suites of rustls, TLS 1.2 and 1.3");
                    self.at(block, "ciphers", &place).note(self.notes, NoteKind::Differs, message);
                }
                let profile = TlsProfile { place, certificates, is_mutual };
                self.model.tls.insert(name, profile);
            }
            "server-ssl" => {
                let server_name = block.value("server-name").filter(|name| *name != "none").map(str::to_owned);
                self.model.backend_tls.insert(name, BackendTls { server_name });
            }
            _ => {}
        }
    }

    fn pool(&mut self, entry: &Entry, name: &str, block: &Block) {
        let place = self.place(entry.mark, format!("pool {}", full(name)));
        let mut members = Vec::new();
        for member in block.block("members").map_or(&[][..], |members| &members.entries) {
            let at = self.place(member.mark, place.subject.clone());
            let empty = Block::default();
            let inner = member.block.as_ref().unwrap_or(&empty);
            let Some((node, port)) = split_port(member.key()) else {
                let message = format!("member {:?}: expected NODE:PORT", member.key());
                at.note(self.notes, NoteKind::Fault, message);
                continue;
            };
            let named = inner.value("address").unwrap_or(node);
            let place_of = match self.address(named, &at) {
                Some(address) => Some(At::Address(address)),
                None => {
                    let prefix = member.key().rsplit_once('/').map_or("/Common", |(prefix, _)| prefix);
                    let fqdn = inner.block("fqdn").and_then(|fqdn| fqdn.value("name"));
                    let known = self.nodes.get(&format!("{prefix}/{node}")).cloned();
                    known.or_else(|| fqdn.map(|name| At::Name(name.to_owned())))
                }
            };
            let Some(place_of) = place_of else {
                at.note(self.notes, NoteKind::Fault, format!("member {}: its node is not in the files", member.key()));
                continue;
            };
            if port == 0 {
                let message =
                    format!("member {}: any port; the port of the virtual server must be written", member.key());
                at.note(self.notes, NoteKind::NoEquivalent, message);
                continue;
            }
            let number = |key: &str| inner.value(key).and_then(|text| text.parse().ok());
            let is_down = inner.value("session") == Some("user-disabled") || inner.value("state") == Some("user-down");
            if let Some(limit) = number("connection-limit").filter(|limit: &u32| *limit > 0) {
                let message = format!("member {}: connection-limit {limit}: Edge limits no endpoint", member.key());
                at.note(self.notes, NoteKind::NoEquivalent, message);
            }
            members.push(PoolMember {
                at: place_of,
                port,
                ratio: number("ratio").unwrap_or(1),
                priority: number("priority-group").unwrap_or(0),
                is_enabled: !is_down,
            });
        }
        let monitors = match block.entry("monitor") {
            Some(entry) => {
                let words = entry.words.iter().skip(1).map(String::as_str);
                let inner = entry.block.iter().flat_map(Block::words);
                let is_name =
                    |word: &&str| !matches!(*word, "and" | "min" | "of" | "none") && word.parse::<u32>().is_err();
                words.chain(inner).filter(is_name).map(str::to_owned).collect()
            }
            None => Vec::new(),
        };
        for (key, instead) in [
            ("slow-ramp-time", "not written; loadBalancer.slowStart of a BackendTrafficPolicy has it"),
            ("reselect-tries", "a failed connection is tried at one other endpoint"),
            (
                "queue-on-connection-limit",
                "not written; circuitBreaker of a BackendTrafficPolicy has limits and queues",
            ),
        ] {
            let value = block.value(key).filter(|value| !matches!(*value, "0" | "10" | "disabled"));
            if let Some(value) = value {
                let message = format!("{key} {value}: {instead}");
                self.at(block, key, &place).note(self.notes, NoteKind::NoEquivalent, message);
            }
        }
        if let Some(action) = block.value("service-down-action").filter(|action| *action != "none") {
            let message =
                format!("service-down-action {action}: connections of an endpoint that fails end as they end");
            self.at(block, "service-down-action", &place).note(self.notes, NoteKind::Differs, message);
        }
        let pool = Pool {
            place,
            members,
            method: block.value("load-balancing-mode").unwrap_or("round-robin").to_owned(),
            monitors,
            minimum_active: block.value("min-active-members").and_then(|text| text.parse().ok()).unwrap_or(0),
        };
        self.model.pools.insert(full(name), pool);
    }

    fn persistence(&mut self, kind: &str, name: &str, block: &Block) {
        let found = match kind {
            "cookie" => Persistence::Cookie {
                name: block.value("cookie-name").filter(|name| *name != "none").map(str::to_owned),
                seconds: block.value("expiration").and_then(|text| text.parse().ok()).unwrap_or(0),
            },
            "source-addr" => {
                Persistence::SourceAddress(block.value("timeout").and_then(|text| text.parse().ok()).unwrap_or(180))
            }
            other => Persistence::Other(other.to_owned()),
        };
        self.model.persistence.insert(full(name), found);
    }

    fn policy(&mut self, entry: &Entry, name: &str, block: &Block) {
        let place = self.place(entry.mark, format!("policy {}", full(name)));
        let mut rules: Vec<(u32, PolicyRule)> = Vec::new();
        for rule in block.block("rules").map_or(&[][..], |rules| &rules.entries) {
            let empty = Block::default();
            let inner = rule.block.as_ref().unwrap_or(&empty);
            let list = |key: &str| inner.block(key).map_or(&[][..], |block| &block.entries);
            let found = PolicyRule {
                name: rule.key().to_owned(),
                conditions: list("conditions")
                    .iter()
                    .filter_map(|e| e.block.as_ref())
                    .map(conditions::condition)
                    .collect(),
                actions: list("actions").iter().filter_map(|e| e.block.as_ref()).map(conditions::action).collect(),
            };
            let ordinal = inner.value("ordinal").and_then(|text| text.parse().ok()).unwrap_or(0);
            rules.push((ordinal, found));
        }
        rules.sort_by_key(|(ordinal, _)| *ordinal);
        let rules = rules.into_iter().map(|(_, rule)| rule).collect();
        self.model.policies.insert(full(name), Policy { place, rules });
    }

    fn virtual_server(&mut self, entry: &Entry, name: &str, block: &Block) {
        let name = full(name);
        let place = self.place(entry.mark, format!("virtual {name}"));
        let lost = |reader: &mut Self, key: &str, message: &str| {
            let at = reader.at(block, key, &place);
            at.note(reader.notes, NoteKind::NoEquivalent, message);
        };
        for key in ["ip-forward", "l2-forward", "internal", "reject", "stateless"] {
            if block.has(key) {
                lost(
                    self,
                    key,
                    &format!("a virtual server of type {key} is not served; Edge forwards connections only"),
                );
                return;
            }
        }
        let Some(destination) = block.value("destination") else {
            place.note(self.notes, NoteKind::Fault, "has no destination");
            return;
        };
        let at = self.at(block, "destination", &place);
        let Some((host, port)) = split_port(destination) else {
            at.note(self.notes, NoteKind::Fault, format!("destination {destination:?}: expected ADDRESS:PORT"));
            return;
        };
        let path = destination.rsplit_once('/').map_or("/Common", |(path, _)| path);
        let known = self.addresses.get(&format!("{path}/{host}")).copied();
        let Some(address) = self.address(host, &at).or(known) else {
            at.note(
                self.notes,
                NoteKind::NoEquivalent,
                format!("destination {destination}: only single addresses are VIPs"),
            );
            return;
        };
        let mask = block.value("mask").unwrap_or("any");
        let is_host = matches!(mask, "any" | "any6" | "255.255.255.255" | "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        if !is_host || address.is_unspecified() {
            lost(self, "mask", &format!("destination {destination} mask {mask}: only single addresses are VIPs"));
            return;
        }
        if port == 0 {
            at.note(
                self.notes,
                NoteKind::NoEquivalent,
                format!("destination {destination}: a listener has one port; write one per port"),
            );
            return;
        }
        let mut found = Virtual {
            name,
            place: place.clone(),
            addresses: vec![address],
            port,
            kind: Kind::Tcp,
            pool: block.value("pool").filter(|pool| *pool != "none").map(full),
            tls: Vec::new(),
            backend_tls: None,
            redirect_from: None,
            persistence: None,
            policies: Vec::new(),
            rules: Vec::new(),
            sources: Vec::new(),
            is_enabled: !block.has("disabled"),
        };
        let mut is_http = false;
        for profile in block.block("profiles").map_or(&[][..], |profiles| &profiles.entries) {
            let named = full(profile.key());
            // Profiles of the system are in another file; their names tell what they are.
            let kind = self.model.profiles.get(&named).cloned().unwrap_or_else(|| built_in(leaf(&named)).to_owned());
            match kind.as_str() {
                "http" | "http2" | "fasthttp" => is_http = true,
                "client-ssl" => found.tls.push(named),
                "server-ssl" => found.backend_tls = Some(named),
                kind if PLAIN.contains(&kind) => {}
                kind => {
                    let message = format!("profile {named} of type {kind} has no counterpart");
                    self.place(profile.mark, place.subject.clone()).note(self.notes, NoteKind::NoEquivalent, message);
                }
            }
        }
        found.kind = match (block.value("ip-protocol"), is_http, found.tls.is_empty()) {
            (Some("udp"), ..) => Kind::Udp,
            (_, true, true) => Kind::Http,
            (_, true, false) => Kind::Https,
            (_, false, false) => Kind::TlsTcp,
            (Some("tcp"), false, true) => Kind::Tcp,
            (other, ..) => {
                let message = format!("ip-protocol {}: only tcp and udp are served", other.unwrap_or("any"));
                lost(self, "ip-protocol", &message);
                return;
            }
        };
        let names = |key: &str| -> Vec<String> {
            block.block(key).map_or(Vec::new(), |list| list.entries.iter().map(|entry| full(entry.key())).collect())
        };
        found.rules = block.block("rules").map_or(Vec::new(), |list| list.words().into_iter().map(full).collect());
        found.policies = names("policies");
        found.persistence = names("persist").into_iter().next();
        if let Some(source) = block.value("source").filter(|source| !source.ends_with("/0")) {
            match network(source) {
                Some(network) => found.sources.push(network),
                None => place.note(self.notes, NoteKind::Fault, format!("source {source:?} is no network")),
            }
        }
        let translation = block.block("source-address-translation").and_then(|block| block.value("type"));
        if found.is_enabled && !matches!(translation, Some("automap" | "snat")) {
            let message = "without source address translation endpoints saw the clients' addresses; now they see Edge's: \
                X-Forwarded-For tells, or a BackendTrafficPolicy with proxyProtocol";
            place.note(self.notes, NoteKind::Differs, message);
        }
        for (key, message) in [
            ("vlans", "vlans: a VIP is served on every interface that it reaches; filter with nftables"),
            ("connection-limit", "connection-limit: [proxy] max_connections of edge.toml is for the whole edge"),
            ("rate-limit", "rate-limit: has no counterpart"),
            ("mirror", "mirror: connections are not mirrored between edges"),
            ("fallback-persistence", "fallback-persistence: a session is kept in one way"),
            ("fw-enforced-policy", "fw-enforced-policy: filter with nftables"),
            ("last-hop-pool", "last-hop-pool: answers take the routes of the host"),
            ("clone-pools", "clone-pools: a RequestMirror filter copies requests"),
        ] {
            if block
                .entry(key)
                .is_some_and(|entry| !matches!(entry.words.get(1).map(String::as_str), Some("0" | "disabled" | "none")))
            {
                lost(self, key, message);
            }
        }
        self.model.virtuals.push(found);
    }
}

/// The type of a profile of the system, by its name.
fn built_in(name: &str) -> &str {
    match name {
        "clientssl" | "clientssl-secure" | "clientssl-insecure-compatible" => "client-ssl",
        "serverssl" | "serverssl-insecure-compatible" | "apm-default-serverssl" => "server-ssl",
        "http" | "http-explicit" | "http-transparent" => "http",
        "fastL4" => "fastl4",
        "oneconnect" => "one-connect",
        name if name.starts_with("tcp") || name.starts_with("mptcp") || name.starts_with("f5-tcp") => "tcp",
        name if name.starts_with("udp") => "udp",
        name if name.starts_with("http2") => "http2",
        other => other,
    }
}
