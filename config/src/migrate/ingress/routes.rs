//! Routes: one for each host of each Ingress, its canaries merged in, and the redirect from HTTP beside it.

use super::annotations::{Canary, Cors, Manner, Protocol};
use super::listeners::{Plan, hosts};
use super::paths::{Translated, translate};
use super::spec::PathRule;
use super::{Member, Services};
use crate::migrate::gateway::{self, Rule, V1, filter, path_match, path_modifier, redirect, slug};
use crate::migrate::{NoteKind, Notes};
use crate::yaml::Tree;

struct Writer<'w> {
    plan: &'w Plan,
    members: &'w [Member<'w>],
    services: &'w Services,
    notes: &'w mut Notes,
    /// Names of routes are unique in their namespace.
    taken: Vec<(String, String)>,
    /// Services with a BackendTLSPolicy.
    verified: Vec<(String, String)>,
}

pub(super) fn write(
    plan: &Plan,
    members: &[Member<'_>],
    services: &Services,
    routes: &mut Vec<Tree>,
    policies: &mut Vec<Tree>,
    notes: &mut Notes,
) {
    let mut writer = Writer { plan, members, services, notes, taken: Vec::new(), verified: Vec::new() };
    for member in members.iter().filter(|member| !member.is_canary()) {
        for host in hosts(member) {
            writer.host(member, host.as_deref(), routes, policies);
        }
    }
    for canary in members.iter().filter(|member| member.is_canary()) {
        let is_used = canary.spec.rules.iter().any(|rule| {
            let paths = rule.http.iter().flat_map(|http| &http.paths);
            paths.into_iter().any(|path| writer.main_of(canary, rule.host.as_deref(), path))
        });
        if !is_used {
            let message = "canary: no other Ingress has one of its hosts and paths, so it is not served";
            writer.notes.add(NoteKind::Differs, Some(&canary.origin()), &canary.subject(), message);
        }
    }
}

impl Writer<'_> {
    fn name(&mut self, namespace: &str, base: String) -> String {
        let mut name = base.clone();
        let mut number = 1;
        while self.taken.iter().any(|(known, other)| known == namespace && *other == name) {
            number += 1;
            name = format!("{base}-{number}");
        }
        self.taken.push((namespace.to_owned(), name.clone()));
        name
    }

    fn note(&mut self, member: &Member<'_>, kind: NoteKind, message: impl Into<String>) {
        self.notes.add(kind, Some(&member.origin()), &member.subject(), message);
    }

    /// Whether the paths of a host are regular expressions: one Ingress says it for all.
    fn is_regex(&self, host: Option<&str>) -> bool {
        self.members
            .iter()
            .any(|member| member.manner.is_regex && member.spec.rules.iter().any(|rule| rule.host.as_deref() == host))
    }

    fn main_of(&self, canary: &Member<'_>, host: Option<&str>, path: &PathRule) -> bool {
        let others = self.members.iter().filter(|m| !m.is_canary() && m.namespace == canary.namespace);
        others
            .flat_map(|member| &member.spec.rules)
            .filter(|rule| rule.host.as_deref() == host)
            .any(|rule| rule.http.iter().flat_map(|http| &http.paths).any(|main| same_path(main, path)))
    }

    fn host(&mut self, member: &Member<'_>, host: Option<&str>, routes: &mut Vec<Tree>, policies: &mut Vec<Tree>) {
        let namespace = member.namespace;
        let manner = &member.manner;
        let base = match host {
            Some(host) => format!("{}-{}", slug(&member.found.name), slug(host)),
            None => slug(&member.found.name),
        };
        let name = self.name(namespace, base);
        let mut hostnames: Vec<String> = host.map(str::to_owned).into_iter().collect();
        hostnames.extend(manner.aliases.iter().take(15).cloned());
        if manner.passthrough {
            self.passthrough(member, host, &name, routes);
            return;
        }
        let secure = self.plan.secure(host, namespace);
        let redirects = manner.ssl_redirect.unwrap_or(true) && secure.is_some();
        if manner.ssl_redirect == Some(true) && secure.is_none() {
            let message = "ssl-redirect: the host has no certificate here (spec.tls); where TLS ends before Edge, let \
                that redirect";
            self.note(member, NoteKind::NoEquivalent, message);
        }
        let mut parents: Vec<Tree> = Vec::new();
        if !redirects {
            parents.push(self.plan.plain(namespace));
        }
        parents.extend(secure);
        for alias in &manner.aliases {
            if self.plan.is_secure(host) && !self.plan.is_secure(Some(alias)) {
                let message =
                    format!("server-alias: {alias} has no certificate (spec.tls), so it is not served in TLS");
                self.note(member, NoteKind::Differs, message);
            }
        }
        let is_grpc = matches!(manner.protocol, Protocol::Grpc | Protocol::Grpcs);
        let kind = if is_grpc { "GRPCRoute" } else { "HTTPRoute" };
        let rules = if is_grpc { self.grpc(member, host) } else { self.http(member, host) };
        if redirects {
            let rule = Rule { filters: vec![gateway::to_https(308)], ..Rule::default() };
            let plain = self.plan.plain(namespace);
            let to_https = self.name(namespace, format!("{name}-to-https"));
            let place = (namespace, to_https.as_str());
            routes.extend(gateway::routes((V1, "HTTPRoute"), place, &[plain], &hostnames, vec![rule.tree()]));
        }
        if rules.is_empty() {
            return;
        }
        let made = gateway::routes((V1, kind), (namespace, &name), &parents, &hostnames, rules);
        let names: Vec<String> = made
            .iter()
            .filter_map(|route| route.member("metadata")?.member("name")?.as_str().map(str::to_owned))
            .collect();
        routes.extend(made);
        self.policies(member, &name, kind, &names, policies);
    }

    fn policies(&mut self, member: &Member<'_>, name: &str, kind: &str, routes: &[String], policies: &mut Vec<Tree>) {
        let manner = &member.manner;
        let rules = if manner.is_closed {
            Some(gateway::nobody())
        } else if !manner.allow.is_empty() {
            Some(gateway::only_from(&manner.allow))
        } else if !manner.deny.is_empty() {
            Some(gateway::not_from(&manner.deny))
        } else {
            None
        };
        if let Some(rules) = rules {
            policies.push(gateway::closed(member.namespace, name, kind, routes, rules));
        }
        let by_hash = manner.hash.as_ref().map(|key| gateway::by_hash(key.tree()));
        if let Some(balancer) = by_hash.or_else(|| manner.least_request.then(gateway::by_load)) {
            policies.push(gateway::balanced(member.namespace, name, kind, routes, balancer));
        }
        if matches!(manner.protocol, Protocol::Https | Protocol::Grpcs) {
            let rules = member.spec.rules.iter().flat_map(|rule| &rule.http).flat_map(|http| &http.paths);
            let backends = rules.map(|path| &path.backend).chain(&member.spec.default_backend);
            for service in backends.filter_map(|backend| Some(backend.service()?.0.to_owned())) {
                let key = (member.namespace.to_owned(), service.clone());
                if self.verified.contains(&key) {
                    continue;
                }
                self.verified.push(key);
                let hostname = match &manner.backend_name {
                    Some(name) => name.clone(),
                    None => format!("{service}.{}.svc", member.namespace),
                };
                let message = format!(
                    "backend-protocol: nginx did not verify Service {service}, Edge always does; its certificate must be \
                     for {hostname} and of a CA of the system, or write caCertificateRefs into the BackendTLSPolicy"
                );
                self.note(member, NoteKind::ToDo, message);
                policies.push(gateway::backend_tls(member.namespace, &service, &hostname));
            }
        }
    }

    fn passthrough(&mut self, member: &Member<'_>, host: Option<&str>, name: &str, routes: &mut Vec<Tree>) {
        let Some(host) = host else {
            self.note(member, NoteKind::NoEquivalent, "ssl-passthrough: needs a host, by which TLS is told apart");
            return;
        };
        let paths = member.spec.rules.iter().filter(|rule| rule.host.as_deref() == Some(host));
        let backend = paths.filter_map(|rule| rule.http.as_ref()).flat_map(|http| &http.paths).next();
        let backend = backend.map(|path| &path.backend).or(member.spec.default_backend.as_ref());
        let Some((service, port)) = backend.and_then(|b| self.services.resolve(member, b, self.notes)) else { return };
        let parents: Vec<Tree> = self.plan.secure(Some(host), member.namespace).into_iter().collect();
        let rule = Tree::map([("backendRefs", vec![gateway::backend(&service, port, 1)].into())]);
        let place = (member.namespace, name);
        routes.extend(gateway::routes((V1, "TLSRoute"), place, &parents, &[host.to_owned()], vec![rule]));
    }

    /// Rules of an HTTPRoute, the longest paths first: so nginx tries regular expressions.
    fn http(&mut self, member: &Member<'_>, host: Option<&str>) -> Vec<Tree> {
        let manner = &member.manner;
        let mut filters = Vec::new();
        filters.extend(manner.request_headers.of_request());
        filters.extend(manner.response_headers.of_response());
        filters.extend(manner.cors.as_ref().and_then(|cors| self.cors(member, cors)));
        if let Some((url, status)) = &manner.redirect {
            return match target(url, *status) {
                Some(to) => vec![Rule { filters: vec![redirect(to)], ..Rule::default() }.tree()],
                None => {
                    let message = format!(
                        "redirect to {url:?}: only a fixed URL, or one that ends in $request_uri, is \
                        a RequestRedirect; status {status} must be 301, 302, 303, 307 or 308"
                    );
                    self.note(member, NoteKind::NoEquivalent, message);
                    Vec::new()
                }
            };
        }
        let is_regex = self.is_regex(host);
        let mut paths: Vec<&PathRule> = member
            .spec
            .rules
            .iter()
            .filter(|rule| rule.host.as_deref().filter(|host| !host.is_empty()) == host)
            .flat_map(|rule| rule.http.iter().flat_map(|http| &http.paths))
            .collect();
        if is_regex {
            paths.sort_by_key(|path| std::cmp::Reverse(path.path.as_deref().unwrap_or_default().len()));
        }
        let mut rules = Vec::new();
        if let Some(root) = &manner.app_root {
            let to = Tree::map([("path", path_modifier("ReplaceFullPath", root)), ("statusCode", 302u16.into())]);
            rules.push(Rule {
                matches: vec![path_match("Exact", "/")],
                filters: vec![redirect(to)],
                ..Rule::default()
            });
        }
        let mut has_root = false;
        for path in &paths {
            let text = path.path.as_deref().unwrap_or("/");
            has_root |= matches!(text, "" | "/") && path.path_type.as_deref() != Some("Exact");
            let found = translate(text, path.path_type.as_deref(), manner, is_regex);
            if let Some((is_lost, why)) = &found.note {
                let kind = if *is_lost { NoteKind::NoEquivalent } else { NoteKind::Differs };
                self.note(member, kind, why.as_str());
            }
            self.with_canary(member, host, path, found, &filters, &mut rules);
        }
        if let Some(backend) = member.spec.default_backend.as_ref().filter(|_| !has_root)
            && let Some((service, port)) = self.services.resolve(member, backend, self.notes)
        {
            let backends = vec![gateway::backend(&service, port, 1)];
            rules.push(self.rule(manner, path_match("PathPrefix", "/"), None, &filters, backends));
        }
        rules.into_iter().map(Rule::tree).collect()
    }

    fn rule(
        &self,
        manner: &Manner,
        matches: Tree,
        rewrite: Option<&Tree>,
        filters: &[Tree],
        backends: Vec<Tree>,
    ) -> Rule {
        let mut filters = filters.to_vec();
        if rewrite.is_some() || manner.upstream_host.is_some() {
            let host = manner.upstream_host.as_deref();
            let value = Tree::map([]).with_some("hostname", host).with_some("path", rewrite.cloned());
            filters.push(filter("URLRewrite", "urlRewrite", value));
        }
        let session = manner.affinity.as_ref().map(|affinity| {
            let mut session = Tree::map([("type", "Cookie".into()), ("sessionName", affinity.name.as_str().into())]);
            if let Some(seconds) = affinity.max_age.filter(|seconds| *seconds > 0) {
                session.put("absoluteTimeout", format!("{}s", seconds.min(99_999)));
                session.put("cookieConfig", Tree::map([("lifetimeType", "Permanent".into())]));
            }
            session
        });
        Rule { matches: vec![matches], filters, backends, session, timeouts: None }
    }

    /// The rules of a path: those that send to the canary for certain, then the one that shares by weight.
    fn with_canary(
        &mut self,
        member: &Member<'_>,
        host: Option<&str>,
        path: &PathRule,
        found: Translated,
        filters: &[Tree],
        rules: &mut Vec<Rule>,
    ) {
        let manner = &member.manner;
        let main = self.services.resolve(member, &path.backend, self.notes);
        let mut backends: Vec<Tree> = main.iter().map(|(service, port)| gateway::backend(service, *port, 1)).collect();
        let canaries = self.members.iter().filter(|other| other.is_canary() && other.namespace == member.namespace);
        let canary = canaries.into_iter().find_map(|other| {
            let rules = other.spec.rules.iter().filter(|rule| rule.host.as_deref() == host);
            let mut paths = rules.flat_map(|rule| rule.http.iter().flat_map(|http| &http.paths));
            let same = paths.find(|candidate| same_path(candidate, path))?;
            Some((other, other.manner.canary.as_ref()?, same))
        });
        if let Some((other, canary, rule)) = canary
            && let Some((service, port)) = self.services.resolve(other, &rule.backend, self.notes)
        {
            let only = vec![gateway::backend(&service, port, 1)];
            for (condition, to_canary) in conditions(canary) {
                let matches = with_header(&found.matches, condition);
                let to = if to_canary { only.clone() } else { backends.clone() };
                rules.push(self.rule(manner, matches, found.rewrite.as_ref(), filters, to));
            }
            let weight = canary.weight.min(canary.total);
            if let (Some((main, main_port)), true) = (&main, weight > 0) {
                backends = vec![
                    gateway::backend(main, *main_port, canary.total - weight),
                    gateway::backend(&service, port, weight),
                ];
            }
        }
        rules.push(self.rule(manner, found.matches, found.rewrite.as_ref(), filters, backends));
    }

    fn cors(&mut self, member: &Member<'_>, cors: &Cors) -> Option<Tree> {
        let list = |text: &Option<String>, default: &str| -> Vec<String> {
            let text = text.as_deref().unwrap_or(default);
            text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
        };
        let mut value = Tree::map([
            ("allowOrigins", Tree::texts(list(&cors.origins, "*"))),
            ("allowMethods", Tree::texts(list(&cors.methods, "GET,PUT,POST,DELETE,PATCH,OPTIONS"))),
        ]);
        let standard = "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,\
            Authorization";
        value.put("allowHeaders", Tree::texts(list(&cors.headers, standard)));
        if cors.expose.is_some() {
            value.put("exposeHeaders", Tree::texts(list(&cors.expose, "")));
        }
        value.put("allowCredentials", cors.credentials.unwrap_or(true));
        value.put("maxAge", cors.max_age.unwrap_or(1_728_000).max(1));
        // Judged by the same rules as any manifest's, so that one bad origin does not cost the route.
        let rule = Rule { filters: vec![filter("CORS", "cors", value.clone())], ..Rule::default() };
        let spec = Tree::map([("rules", vec![rule.tree()].into())]);
        let is_sound = gateway::faults(&gateway::object(V1, "HTTPRoute", "x", "x", spec)).is_empty();
        if !is_sound {
            let message = "enable-cors: an origin, method or header of its lists cannot be in a CORS filter; write the \
                filter by hand";
            self.note(member, NoteKind::NoEquivalent, message);
        }
        is_sound.then(|| filter("CORS", "cors", value))
    }

    /// gRPC knows methods instead of paths.
    fn grpc(&mut self, member: &Member<'_>, host: Option<&str>) -> Vec<Tree> {
        let manner = &member.manner;
        let mut filters = Vec::new();
        filters.extend(manner.request_headers.of_request());
        filters.extend(manner.response_headers.of_response());
        if manner.rewrite.is_some() || manner.cors.is_some() || manner.redirect.is_some() || manner.app_root.is_some() {
            let message =
                "backend-protocol GRPC: rewrites, redirects and CORS are for HTTPRoutes; the GRPCRoute has none";
            self.note(member, NoteKind::NoEquivalent, message);
        }
        let mut rules = Vec::new();
        let paths = member.spec.rules.iter().filter(|rule| rule.host.as_deref() == host);
        for path in paths.flat_map(|rule| rule.http.iter().flat_map(|http| &http.paths)) {
            let text = path.path.as_deref().unwrap_or("/");
            let Some((service, port)) = self.services.resolve(member, &path.backend, self.notes) else { continue };
            let mut parts = text.trim_matches('/').split('/');
            let method = match (parts.next().unwrap_or_default(), parts.next(), parts.next()) {
                ("", None, _) => None,
                (service, None, _) => Some(Tree::map([("service", service.into())])),
                (service, Some(method), None) => {
                    Some(Tree::map([("service", service.into()), ("method", method.into())]))
                }
                _ => {
                    let message = format!("path {text:?}: gRPC has /SERVICE/METHOD; the path is left out");
                    self.note(member, NoteKind::NoEquivalent, message);
                    continue;
                }
            };
            let mut rule = Rule { filters: filters.clone(), ..Rule::default() };
            rule.matches = method.into_iter().map(|method| Tree::map([("method", method)])).collect();
            rule.backends = vec![gateway::backend(&service, port, 1)];
            rules.push(rule.tree());
        }
        rules
    }
}

fn same_path(one: &PathRule, other: &PathRule) -> bool {
    one.path.as_deref().unwrap_or("/") == other.path.as_deref().unwrap_or("/")
}

/// Header matches of a canary, and whether they lead to it: the header goes before the cookie.
fn conditions(canary: &Canary) -> Vec<(Tree, bool)> {
    let exact = |name: &str, value: &str| Tree::map([("name", name.into()), ("value", value.into())]);
    let regex = |name: &str, value: &str| {
        Tree::map([("type", "RegularExpression".into()), ("name", name.into()), ("value", value.into())])
    };
    let mut found = Vec::new();
    if let Some(header) = &canary.header {
        match (&canary.value, &canary.pattern) {
            (Some(value), _) => found.push((exact(header, value), true)),
            // A pattern of nginx need not match the whole value.
            (None, Some(pattern)) => found.push((regex(header, &format!(".*(?:{pattern}).*")), true)),
            (None, None) => {
                found.push((exact(header, "always"), true));
                found.push((exact(header, "never"), false));
            }
        }
    }
    if let Some(cookie) = &canary.cookie {
        for (word, to_canary) in [("always", true), ("never", false)] {
            let name: String = cookie.chars().flat_map(escaped).collect();
            found.push((regex("Cookie", &format!("(?:.*; ?)?{name}={word}(?:;.*)?")), to_canary));
        }
    }
    found
}

fn escaped(c: char) -> impl Iterator<Item = char> {
    let escape = (!c.is_ascii_alphanumeric() && c != '_' && c != '-').then_some('\\');
    escape.into_iter().chain(Some(c))
}

fn with_header(matches: &Tree, header: Tree) -> Tree {
    matches.clone().with("headers", vec![header])
}

/// A fixed URL as a RequestRedirect.
fn target(url: &str, status: u16) -> Option<Tree> {
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let keeps_path = url.ends_with("$request_uri");
    let url = url.strip_suffix("$request_uri").unwrap_or(url);
    if url.contains('$') {
        return None;
    }
    let mut to = Tree::map([]);
    let path = match url.split_once("://") {
        Some((scheme, rest)) => {
            if !matches!(scheme, "http" | "https") {
                return None;
            }
            to.put("scheme", scheme);
            let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            let (host, port) = match authority.split_once(':') {
                Some((host, port)) => (host, Some(port.parse::<u16>().ok()?)),
                None => (authority, None),
            };
            to.put("hostname", host);
            if let Some(port) = port {
                to.put("port", port);
            }
            path
        }
        None => url.starts_with('/').then_some(url)?,
    };
    // A filter has no query.
    if path.contains(['?', '#']) || (keeps_path && !path.trim_end_matches('/').is_empty()) {
        return None;
    }
    if !keeps_path {
        to.put("path", path_modifier("ReplaceFullPath", if path.is_empty() { "/" } else { path }));
    }
    Some(to.with("statusCode", status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects() {
        for (url, status, good) in [
            ("https://www.example.com", 301, true),
            ("https://www.example.com:8443/new", 308, true),
            ("https://www.example.com$request_uri", 302, true),
            ("/login", 303, true),
            ("https://$host/x", 301, false),
            ("ftp://x/", 301, false),
            ("https://a/b?c=d", 301, false),
            ("https://a/", 418, false),
        ] {
            assert_eq!(target(url, status).is_some(), good, "{url}");
        }
    }
}
