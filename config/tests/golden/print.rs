//! Snapshots and reports as text that a person can check line by line.

use std::fmt::Write;

use edge_config::Compiled;
use edge_config::issuer::{AcmeIssuer, NameSelector};
use edge_config::matching::{PathMatch, RouteMatch, ValueMatch};
use edge_config::problem::Problem;
use edge_config::report::{Condition, ObjectReport};
use edge_config::snapshot::*;

pub fn snapshot(compiled: &Compiled) -> String {
    let snapshot = &compiled.snapshot;
    let mut out = String::new();
    for vip in &snapshot.vips {
        let owners: Vec<String> = vip.owners.iter().map(ToString::to_string).collect();
        writeln!(out, "vip {} of {} from {}", vip.address, owners.join(", "), vip.source).unwrap();
    }
    for socket in &snapshot.sockets {
        let transport = if socket.transport == Transport::Tcp { "tcp" } else { "udp" };
        let port = &snapshot.ports[socket.port.index()];
        let proxied = match &port.proxy_protocol {
            Some(proxy) => format!(" PROXY {:?} from {} ranges", proxy.presence, proxy.from.len()),
            None => String::new(),
        };
        let sources = port.sources.as_ref().map(|sources| {
            let ranges: Vec<String> = sources.ranges().iter().map(ToString::to_string).collect();
            format!(" only from [{}]", ranges.join(", "))
        });
        let sources = sources.unwrap_or_default();
        let probed = port.keepalive.map(|probes| format!(" {probes:?}")).unwrap_or_default();
        writeln!(out, "{transport} {} → {}{proxied}{probed}{sources}", socket.address, port_text(&port.serve)).unwrap();
    }
    for (id, listener) in snapshot.listeners.iter().enumerate() {
        let what = format!("{} {}", listener.parent, listener.name);
        writeln!(out, "\nlistener {id}: {what} port {} host {}", listener.port, listener.hostname).unwrap();
        if listener.client != client() {
            writeln!(out, "  client {:?}", listener.client).unwrap();
        }
        if let Some(policy) = &listener.policy {
            writeln!(out, "  policy {}", serde_json::to_string(policy).unwrap()).unwrap();
        }
        serve(&mut out, &listener.serve);
    }
    for (id, rule) in snapshot.rules.iter().enumerate() {
        let name = rule.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
        writeln!(out, "\nrule {id}: {} #{}{name}", rule.route, rule.index).unwrap();
        action(&mut out, snapshot, &rule.action);
        filters(&mut out, "  ", snapshot, &rule.filters);
        if rule.timeouts != Timeouts::default() {
            writeln!(out, "  {:?}", rule.timeouts).unwrap();
        }
        if let Some(retry) = &rule.retry {
            writeln!(out, "  {retry:?}").unwrap();
        }
        if let Some(session) = &rule.session {
            writeln!(out, "  {session:?}").unwrap();
        }
        if let Some(policy) = &rule.policy {
            writeln!(out, "  policy {}", serde_json::to_string(policy).unwrap()).unwrap();
        }
        if rule.balance != Balance::RoundRobin {
            writeln!(out, "  {:?}", rule.balance).unwrap();
        }
        if let Some(protection) = rule.policy.as_ref().and_then(|policy| policy.protection.as_ref()) {
            writeln!(out, "  protection {}", serde_json::to_string(protection).unwrap()).unwrap();
        }
    }
    if !snapshot.services.is_empty() {
        out.push('\n');
    }
    for service in &snapshot.services {
        let list: Vec<String> = service.backends.iter().map(backend).collect();
        writeln!(out, "asked {} → [{}]", service.name, list.join(", ")).unwrap();
    }
    if !snapshot.upstreams.is_empty() {
        out.push('\n');
    }
    for (upstream, endpoints) in snapshot.upstreams.iter().zip(&compiled.endpoints) {
        write!(out, "upstream {} {:?}", upstream.key, upstream.protocol).unwrap();
        if let Some(version) = upstream.proxy_protocol {
            write!(out, " PROXY {version:?}").unwrap();
        }
        if let Some(tls) = &upstream.tls {
            write!(out, " tls {} {:?}", tls.hostname, tls.subject_alt_names).unwrap();
            match tls.trust {
                Some(trust) => write!(out, " trust {}", snapshot.trust[trust.index()].source).unwrap(),
                None if !tls.is_verified => out.push_str(" trust whoever answers"),
                None => out.push_str(" trust system"),
            }
            if let Some(client) = &tls.client_certificate {
                write!(out, " client certificate {client}").unwrap();
            }
        }
        if let Some(policy) = &upstream.policy {
            write!(out, " {policy:?}").unwrap();
        }
        match &**endpoints {
            EndpointSet::Dns { host, port } => writeln!(out, " at {host}:{port} (DNS)").unwrap(),
            EndpointSet::Addresses(list) => {
                let list: Vec<String> = list
                    .iter()
                    .map(|endpoint| {
                        let draining = if endpoint.state == EndpointState::Draining { " draining" } else { "" };
                        format!("{}{draining}", endpoint.address)
                    })
                    .collect();
                writeln!(out, " at [{}]", list.join(", ")).unwrap();
            }
        }
    }
    for wanted in &snapshot.certificates {
        let issuer = match &wanted.issuer {
            WantedIssuer::Acme(ids) => {
                format!("ACME of {}", ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", else "))
            }
            other => format!("{other:?}"),
        };
        write!(out, "\ncertificate {} by {issuer} for {:?}", wanted.id, wanted.dns_names).unwrap();
        if !wanted.addresses.is_empty() {
            write!(out, " addresses {:?}", wanted.addresses).unwrap();
        }
        if let Some(name) = &wanted.common_name {
            write!(out, " common name {name}").unwrap();
        }
        let hours = |duration: std::time::Duration| duration.as_secs() / 3600;
        let renewed = match wanted.renew_before.is_zero() {
            true => "renewed as the CA says".to_owned(),
            false => format!("renewed {}h before", hours(wanted.renew_before)),
        };
        write!(out, " {:?} {}h, {renewed}", wanted.key, hours(wanted.duration)).unwrap();
        if wanted.is_ca {
            out.push_str(", is CA");
        }
        if !wanted.rotate_key {
            out.push_str(", keeps its key");
        }
        if let Some(profile) = &wanted.profile {
            write!(out, ", profile {profile}").unwrap();
        }
        writeln!(out, "\n  wanted by {}", wanted.wanted_by.join(", ")).unwrap();
        if let Some(adopt) = &wanted.adopt {
            let unfit = adopt.unfit.as_ref().map(|why| format!(", unfit: {why}")).unwrap_or_default();
            writeln!(out, "  adopts Secret {}{unfit}", adopt.secret).unwrap();
        }
        if let Some(back) = &wanted.write_back {
            let pairs = |pairs: &[(Box<str>, Box<str>)]| {
                let short = |name: &str| name.replace("cert-manager.io/", "…/");
                pairs.iter().map(|(key, value)| format!("{}={value}", short(key))).collect::<Vec<_>>().join(" ")
            };
            let derived = if back.derived { " (derived)" } else { "" };
            writeln!(
                out,
                "  written to {}{derived}: {}; {}",
                back.secret,
                pairs(&back.annotations),
                pairs(&back.labels)
            )
            .unwrap();
        }
    }
    for issuer in &snapshot.issuers {
        issuer_text(&mut out, issuer);
    }
    crate::announce::text(&mut out, &snapshot.announce);
    out
}

fn issuer_text(out: &mut String, issuer: &AcmeIssuer) {
    write!(out, "\nissuer {} at {}", issuer.id, issuer.directory).unwrap();
    for (what, is_set) in [
        ("private", issuer.private),
        ("insecure", issuer.insecure),
        ("makes no account", !issuer.create_account),
        ("with its own trust", issuer.trust.is_some()),
    ] {
        if is_set {
            write!(out, ", {what}").unwrap();
        }
    }
    for (what, text) in [("profile", &issuer.profile), ("chain", &issuer.preferred_chain)] {
        if let Some(text) = text {
            write!(out, ", {what} {text}").unwrap();
        }
    }
    if let Some(file) = &issuer.trust_file {
        write!(out, ", trusts {}", file.display()).unwrap();
    }
    writeln!(out).unwrap();
    let account = issuer.account_secret.as_ref().map(|place| format!("{}[{}]", place.secret, place.key));
    writeln!(out, "  account {:?} in {}", issuer.contacts, account.as_deref().unwrap_or("the store")).unwrap();
    if let Some(external) = &issuer.external_account {
        writeln!(out, "  external account {} {:?}", external.key_id, external.key).unwrap();
    }
    for solver in &issuer.solvers {
        let NameSelector { labels, dns_names, dns_zones } = &solver.names;
        writeln!(out, "  solver {:?} for labels {labels:?} names {dns_names:?} zones {dns_zones:?}", solver.solve)
            .unwrap();
    }
}

fn client() -> ClientSettings {
    let proxy = edge_config::settings::ProxySettings::default();
    ClientSettings {
        trusted_hops: proxy.trusted_hops,
        idle_timeout: proxy.idle_timeout,
        head_timeout: proxy.head_timeout,
        path: proxy.path,
        ..ClientSettings::default()
    }
}

fn port_text(port: &PortServe) -> String {
    let hosts = |hosts: &edge_config::hosts::HostMap<ListenerId>| {
        hosts.iter().map(|(host, id)| format!("{host} → {}", id.0)).collect::<Vec<_>>().join(", ")
    };
    match port {
        PortServe::Http { hosts: map } => format!("HTTP {{{}}}", hosts(map)),
        PortServe::Tls { names } => format!("TLS {{{}}}", hosts(names)),
        PortServe::Tcp { listener } => format!("TCP {}", listener.0),
        PortServe::Udp { listener } => format!("UDP {}", listener.0),
    }
}

fn serve(out: &mut String, serve: &ListenerServe) {
    let tls_text = |tls: &Terminate| {
        let names: Vec<String> = tls.certificates.iter().map(ToString::to_string).collect();
        let offered = tls.parameters.as_ref().map(|offered| format!(" {offered:?}")).unwrap_or_default();
        let demands = tls.demands.as_ref().map(|demands| format!(" {demands:?}")).unwrap_or_default();
        let names = names.join(", ");
        format!("certificates [{names}] client validation {:?}{demands}{offered}", tls.client_validation)
    };
    let streams = |out: &mut String, routes: &edge_config::hosts::HostMap<StreamRoute>| {
        for (host, route) in routes.iter() {
            writeln!(out, "  {host}: {}", stream(route)).unwrap();
        }
    };
    match serve {
        ListenerServe::Http { routes } => table(out, routes),
        ListenerServe::Https { tls, routes } => {
            writeln!(out, "  {}", tls_text(tls)).unwrap();
            table(out, routes);
        }
        ListenerServe::TlsTerminate { tls, routes } => {
            writeln!(out, "  TLS terminates, {}", tls_text(tls)).unwrap();
            streams(out, routes);
        }
        ListenerServe::TlsPassthrough { routes } => {
            out.push_str("  TLS passes through\n");
            streams(out, routes);
        }
        ListenerServe::Tcp { route } | ListenerServe::Udp { route } => match route {
            Some(route) => writeln!(out, "  {}", stream(route)).unwrap(),
            None => out.push_str("  nothing\n"),
        },
    }
}

pub fn stream(route: &StreamRoute) -> String {
    let list: Vec<String> = route.backends.iter().map(backend).collect();
    let affinity = route.affinity.map(|timeout| format!(" by client for {timeout:?}")).unwrap_or_default();
    let admission = route.admission.as_ref().map(|admission| serde_json::to_string(admission).unwrap());
    let admission = admission.map(|admission| format!(" for {admission}")).unwrap_or_default();
    format!("{} → [{}]{affinity}{admission}", route.route, list.join(", "))
}

fn backend(backend: &Backend) -> String {
    let invalid = match &backend.target {
        Target::Upstream(_) => String::new(),
        Target::Invalid { status, reason } => format!(" invalid {status} ({reason})"),
    };
    let balance = backend.balance.as_ref().map(|balance| format!(" by {balance:?}")).unwrap_or_default();
    let need = if backend.fallback { " for need" } else { "" };
    format!("{} × {}{need}{invalid}{balance}", backend.reference, backend.weight)
}

fn table(out: &mut String, routes: &edge_config::matching::RouteTable) {
    for (host, matches) in routes.iter() {
        writeln!(out, "  {host}").unwrap();
        for entry in matches {
            writeln!(out, "    {} → {}", matched(entry), entry.rule.0).unwrap();
        }
    }
}

fn matched(entry: &RouteMatch) -> String {
    let mut text = match &entry.path {
        PathMatch::Exact(path) => format!("exact {path}"),
        PathMatch::Prefix(path) => format!("prefix {path}/"),
        PathMatch::Regex(pattern) => format!("regex {}", pattern.as_str()),
        PathMatch::GrpcMethod(method) => format!("method {method}"),
        PathMatch::GrpcRegex { service, method } => format!("grpc {service:?} {method:?}"),
    };
    let value = |value: &ValueMatch| match value {
        ValueMatch::Exact(text) => format!("={text}"),
        ValueMatch::Regex(pattern) => format!("~{}", pattern.as_str()),
    };
    if let Some(method) = &entry.method {
        write!(text, " {method}").unwrap();
    }
    for header in &entry.headers {
        write!(text, " header {}{}", header.name, value(&header.value)).unwrap();
    }
    for query in &entry.query {
        write!(text, " query {}{}", query.name, value(&query.value)).unwrap();
    }
    for cookie in &entry.cookies {
        write!(text, " cookie {}{}", cookie.name, value(&cookie.value)).unwrap();
    }
    text
}

fn action(out: &mut String, snapshot: &Snapshot, action: &Action) {
    match action {
        Action::Redirect(redirect) => writeln!(out, "  {redirect:?}").unwrap(),
        Action::Refuse { status, reason } => writeln!(out, "  refuse {status}: {reason}").unwrap(),
        Action::Respond(answer) => writeln!(out, "  respond {answer:?}").unwrap(),
        Action::Forward(list) => {
            for entry in list {
                writeln!(out, "  {}", backend(entry)).unwrap();
                filters(out, "    ", snapshot, &entry.filters);
            }
        }
    }
}

fn filters(out: &mut String, indent: &str, _snapshot: &Snapshot, filters: &Filters) {
    for (name, edits) in [("request", &filters.request_headers), ("response", &filters.response_headers)] {
        if !edits.is_empty() {
            writeln!(out, "{indent}{name} {edits:?}").unwrap();
        }
    }
    if let Some(rewrite) = &filters.rewrite {
        writeln!(out, "{indent}{rewrite:?}").unwrap();
    }
    if let Some(extension) = &filters.extension {
        writeln!(out, "{indent}{extension:?}").unwrap();
    }
    for mirror in &filters.mirrors {
        let valid = matches!(mirror.target, Target::Upstream(_));
        let (n, d) = (mirror.numerator, mirror.denominator);
        writeln!(out, "{indent}mirror {n}/{d} to {} valid {valid}", mirror.reference).unwrap();
    }
    if let Some(cors) = &filters.cors {
        writeln!(out, "{indent}{cors:?}").unwrap();
    }
}

pub fn status(compiled: &Compiled, parse: &[Problem]) -> String {
    let mut out = String::new();
    for (object, report) in &compiled.report.objects {
        writeln!(out, "{object} (generation {})", report.generation).unwrap();
        one(&mut out, report);
        let kept = compiled.assigned.get(object);
        if let Some(kept) = kept.filter(|kept| **kept != report.addresses) {
            writeln!(out, "  keeps {kept:?}").unwrap();
        }
    }
    if !parse.is_empty() || !compiled.report.problems.is_empty() {
        out.push_str("\nproblems\n");
    }
    for problem in parse.iter().chain(&compiled.report.problems) {
        writeln!(out, "  {problem}").unwrap();
    }
    out
}

fn one(out: &mut String, report: &ObjectReport) {
    conditions(out, "  ", &report.conditions);
    if !report.addresses.is_empty() {
        writeln!(out, "  addresses {:?}", report.addresses).unwrap();
    }
    if let Some(sets) = report.attached_listener_sets.filter(|sets| *sets > 0) {
        writeln!(out, "  attached ListenerSets {sets}").unwrap();
    }
    for listener in &report.listeners {
        let kinds: Vec<&str> = listener.supported_kinds.iter().map(|kind| kind.as_str()).collect();
        let (name, routes) = (&listener.name, listener.attached_routes);
        writeln!(out, "  listener {name}: {routes} routes, kinds {kinds:?}").unwrap();
        conditions(out, "    ", &listener.conditions);
    }
    if let Some(balancer) = &report.load_balancer {
        if let Some(pool) = &balancer.pool {
            writeln!(out, "  pool {pool}").unwrap();
        }
        for port in balancer.ports.iter().filter(|port| port.error.is_some()) {
            writeln!(out, "  port {}/{}: {}", port.port, port.protocol, port.error.unwrap_or_default()).unwrap();
        }
        conditions(out, "  event ", balancer.note.as_slice());
    }
    for parent in &report.parents {
        let parent_ref = &parent.parent;
        write!(out, "  parent {}", parent_ref.kind).unwrap();
        if let Some(namespace) = &parent_ref.namespace {
            write!(out, " {namespace}/{}", parent_ref.name).unwrap();
        } else {
            write!(out, " {}", parent_ref.name).unwrap();
        }
        if let Some(section) = &parent_ref.section_name {
            write!(out, " section {section}").unwrap();
        }
        if let Some(port) = parent_ref.port {
            write!(out, " port {port}").unwrap();
        }
        out.push('\n');
        conditions(out, "    ", &parent.conditions);
    }
}

fn conditions(out: &mut String, indent: &str, conditions: &[Condition]) {
    for condition in conditions {
        let sign = if condition.status { "True " } else { "False" };
        write!(out, "{indent}{sign} {} {}", condition.kind, condition.reason).unwrap();
        if !condition.message.is_empty() {
            write!(out, ": {}", condition.message).unwrap();
        }
        out.push('\n');
    }
}

/// What a request has to show before it goes on; an error where nothing helps.
pub fn asks(security: &edge_config::policy::Security) -> Result<String, String> {
    if let Some(why) = &security.closed {
        return Err(format!("500 ({why}) instead of "));
    }
    let steps = [
        ("cors", security.cors.is_some()),
        ("csrf", security.csrf.is_some()),
        ("ext-auth", !security.ext_auth.is_empty()),
        ("another ext-auth", security.ext_auth.len() > 1),
        ("API key", security.api_keys.is_some()),
        ("password", security.basic.is_some()),
        ("login", security.oidc.is_some()),
        ("token", security.jwt.is_some()),
        ("authorization", security.authorization.is_some()),
    ];
    let steps: Vec<&str> = steps.into_iter().filter(|(_, is_asked)| *is_asked).map(|(name, _)| name).collect();
    Ok(format!("after {} by {}: ", steps.join(", "), security.from))
}
