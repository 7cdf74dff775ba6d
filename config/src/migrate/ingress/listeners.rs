//! The Gateway of a class: port 80 for all hosts, and a listener on port 443 for each host that has a certificate.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Member, issuer, listener_set, live};
use crate::migrate::gateway::{self, MOST_LISTENERS, slug};
use crate::migrate::{NoteKind, Notes};
use crate::yaml::Tree;

/// Where hosts are served.
pub(super) struct Plan {
    pub namespace: String,
    pub name: String,
    pub addresses: Vec<IpAddr>,
    /// Routes come from other namespaces too.
    is_shared: bool,
    /// By host; `None`: every host.
    secure: BTreeMap<Option<String>, Secure>,
}

struct Secure {
    /// Name of the listener.
    section: String,
    /// Where the listener is, if not in the Gateway itself.
    set: Option<String>,
    /// Namespace and name of the Secret; `None`: TLS goes through to the backends.
    secret: Option<(String, String)>,
}

/// Hosts of an Ingress; `None`: it has a rule for every host.
pub(super) fn hosts(member: &Member<'_>) -> Vec<Option<String>> {
    let mut hosts: Vec<Option<String>> = Vec::new();
    for rule in &member.spec.rules {
        let host = rule.host.clone().filter(|host| !host.is_empty());
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    if hosts.is_empty() {
        hosts.push(None);
    }
    hosts
}

pub(super) fn plan(class: &str, members: &[Member<'_>], notes: &mut Notes) -> Plan {
    let namespaces: BTreeSet<&str> = members.iter().map(|member| member.namespace).collect();
    let namespace = match namespaces.first() {
        Some(only) if namespaces.len() == 1 => (*only).to_owned(),
        _ => "default".to_owned(),
    };
    let name = slug(class);
    let mut secure: BTreeMap<Option<String>, Secure> = BTreeMap::new();
    let mut is_default_told = false;
    for member in members {
        if member.manner.passthrough {
            for host in hosts(member).into_iter().flatten() {
                secure.entry(Some(host)).or_insert_with(|| Secure { section: String::new(), set: None, secret: None });
            }
            continue;
        }
        for tls in &member.spec.tls {
            let named: Vec<Option<String>> =
                tls.hosts.iter().filter(|host| !host.is_empty()).map(|host| Some(host.clone())).collect();
            let named = if named.is_empty() { hosts(member) } else { named };
            let own = tls.secret_name.as_deref().filter(|name| !name.is_empty());
            let secret = match own {
                Some(own) => (member.namespace.to_owned(), own.to_owned()),
                None => (namespace.clone(), format!("{name}-default-tls")),
            };
            if own.is_none() && !std::mem::replace(&mut is_default_told, true) {
                let message = format!(
                    "spec.tls names no Secret, which means the controller's default certificate; put it into Secret \
                     {}/{}",
                    secret.0, secret.1
                );
                notes.add(NoteKind::ToDo, Some(&member.found.origin_of_key("spec.tls")), &member.subject(), message);
            }
            for host in named {
                match secure.get(&host) {
                    Some(known) if known.secret.as_ref() != Some(&secret) => {
                        let (other_namespace, other) = known.secret.clone().unwrap_or_default();
                        let message = format!(
                            "host {}: Secret {} is not used, since an earlier Ingress has {other_namespace}/{other} for it",
                            host.as_deref().unwrap_or("*"),
                            secret.1
                        );
                        let origin = member.found.origin_of_key("spec.tls");
                        notes.add(NoteKind::Differs, Some(&origin), &member.subject(), message);
                    }
                    Some(_) => {}
                    None => {
                        let secret = Some(secret.clone());
                        secure.insert(host, Secure { section: String::new(), set: None, secret });
                    }
                }
            }
        }
    }
    let mut taken = BTreeSet::new();
    for (index, (host, entry)) in secure.iter_mut().enumerate() {
        let base = host.as_deref().map_or_else(|| "https".to_owned(), |host| format!("https-{}", slug(host)));
        let mut section = base.clone();
        let mut number = 1;
        while !taken.insert(section.clone()) {
            number += 1;
            section = format!("{base}-{number}");
        }
        entry.section = section;
        // The first is port 80.
        let place = (index + 1) / MOST_LISTENERS;
        entry.set = (place > 0).then(|| format!("{name}-{}", place + 1));
    }
    Plan { namespace, name, addresses: live(members), is_shared: namespaces.len() > 1, secure }
}

impl Plan {
    /// Where requests for a host arrive in TLS.
    fn of(&self, host: Option<&str>) -> Option<&Secure> {
        let exact = self.secure.get(&host.map(str::to_owned));
        let wildcard = || {
            // A wildcard of an Ingress covers one label.
            let (_, rest) = host?.split_once('.')?;
            self.secure.get(&Some(format!("*.{rest}")))
        };
        exact.or_else(wildcard).or_else(|| self.secure.get(&None).filter(|_| host.is_some()))
    }

    pub fn is_secure(&self, host: Option<&str>) -> bool {
        self.of(host).is_some()
    }

    /// A reference to the listener of port 80, for routes of a namespace.
    pub fn plain(&self, from: &str) -> Tree {
        gateway::parent((&self.namespace, &self.name), Some("http"), from)
    }

    /// A reference to the listener in TLS that serves a host.
    pub fn secure(&self, host: Option<&str>, from: &str) -> Option<Tree> {
        let entry = self.of(host)?;
        let Some(set) = &entry.set else {
            return Some(gateway::parent((&self.namespace, &self.name), Some(&entry.section), from));
        };
        let mut parent = gateway::parent((&self.namespace, set), Some(&entry.section), from);
        parent.put("group", crate::gateway::GROUP);
        parent.put("kind", "ListenerSet");
        Some(parent)
    }

    pub fn objects(&self, members: &[Member<'_>], notes: &mut Notes) -> Vec<Tree> {
        let allow = |listener: Tree| {
            if self.is_shared { listener.with("allowedRoutes", gateway::everybody()) } else { listener }
        };
        let mut own = vec![allow(gateway::listener("http", "HTTP", 80, None))];
        let mut sets: BTreeMap<&str, Vec<Tree>> = BTreeMap::new();
        let mut foreign = BTreeSet::new();
        for (host, entry) in &self.secure {
            let listener = match &entry.secret {
                Some((namespace, name)) => {
                    if *namespace != self.namespace {
                        foreign.insert(namespace.as_str());
                    }
                    gateway::listener(&entry.section, "HTTPS", 443, host.as_deref())
                        .with("tls", gateway::terminate(&[(namespace, name)], &self.namespace))
                }
                None => gateway::listener(&entry.section, "TLS", 443, host.as_deref())
                    .with("tls", Tree::map([("mode", "Passthrough".into())])),
            };
            match &entry.set {
                None => own.push(allow(listener)),
                Some(set) => sets.entry(set).or_default().push(allow(listener)),
            }
        }
        let mut spec = Tree::map([("gatewayClassName", gateway::CLASS.into())]);
        if !self.addresses.is_empty() {
            spec.put("addresses", gateway::addresses(&self.addresses));
        }
        if !sets.is_empty() {
            spec.put("allowedListeners", Tree::map([("namespaces", Tree::map([("from", "Same".into())]))]));
        }
        spec.put("listeners", own);
        let mut gateway = gateway::object(gateway::V1, "Gateway", &self.namespace, &self.name, spec);
        issuer(&mut gateway, members, notes);
        let mut out = vec![gateway];
        for (name, listeners) in sets {
            out.push(listener_set(&self.namespace, name, &self.name, listeners));
        }
        out.extend(foreign.into_iter().map(|namespace| gateway::grant_secrets(namespace, &self.namespace)));
        out
    }
}
