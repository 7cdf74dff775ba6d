//! Matches, filters and policies of a rule in words.

use std::time::Duration;

use edge_config::matching::{PathMatch, RouteMatch, ValueMatch};
use edge_config::policy::{CheckKind, HashKey, UpstreamPolicy};
use edge_config::snapshot::{
    Balance, Cors, Filters, HeaderEdits, Mirror, Origin, PathEdit, Redirect, Rule, Scheme, SessionCarrier,
};

use crate::control::span;

/// `PathPrefix /v3, method GET, header x-env: canary`
pub fn conditions(entry: &RouteMatch) -> String {
    let mut parts = vec![path(&entry.path)];
    parts.extend(entry.method.as_ref().map(|method| format!("method {method}")));
    parts.extend(entry.headers.iter().map(|header| format!("header {}{}", header.name, value(&header.value, ": "))));
    parts.extend(entry.query.iter().map(|query| format!("query {}{}", query.name, value(&query.value, "="))));
    parts.extend(entry.cookies.iter().map(|cookie| format!("cookie {}{}", cookie.name, value(&cookie.value, "="))));
    parts.join(", ")
}

fn path(path: &PathMatch) -> String {
    match path {
        PathMatch::Exact(text) => format!("Exact {text}"),
        PathMatch::Prefix(text) if text.is_empty() => "PathPrefix /".to_owned(),
        PathMatch::Prefix(text) => format!("PathPrefix {text}"),
        PathMatch::Regex(pattern) => format!("RegularExpression {}", pattern.as_str()),
        PathMatch::GrpcMethod(method) => format!("gRPC method {method}"),
        PathMatch::GrpcRegex { service, method } => {
            let text = |pattern: &Option<edge_config::matching::Pattern>| {
                pattern.as_ref().map_or("*".to_owned(), |p| format!("~{}", p.as_str()))
            };
            format!("gRPC service {} method {}", text(service), text(method))
        }
    }
}

fn value(value: &ValueMatch, equal: &str) -> String {
    match value {
        ValueMatch::Exact(text) => format!("{equal}{text}"),
        ValueMatch::Regex(pattern) => format!(" ~ {}", pattern.as_str()),
    }
}

/// What a rule does to a request beside choosing a backend.
pub fn rule(rule: &Rule) -> Vec<String> {
    let mut lines = filters(&rule.filters);
    let timeout =
        |name: &str, length: Option<Duration>| length.map(|length| format!("timeout {name} {}", span::exact(length)));
    lines.extend(timeout("request", rule.timeouts.request));
    lines.extend(timeout("backendRequest", rule.timeouts.backend_request));
    if let Some(retry) = &rule.retry {
        let mut codes = ranges(&retry.codes);
        codes.extend(retry.grpc_codes.iter().map(|code| format!("grpc-status {code}")));
        let codes = if codes.is_empty() { String::new() } else { format!(" on {}", codes.join(", ")) };
        lines.push(format!("retry {} times{codes}, backoff {}", retry.attempts, span::exact(retry.backoff)));
    }
    if let Some(session) = &rule.session {
        let carrier = match session.carrier {
            SessionCarrier::SessionCookie => "session cookie",
            SessionCarrier::PermanentCookie => "permanent cookie",
            SessionCarrier::Header => "header",
        };
        let end =
            session.absolute_timeout.map(|length| format!(", at most {}", span::exact(length))).unwrap_or_default();
        lines.push(format!("sessions stay with their endpoint by {carrier} {}{end}", session.name));
    }
    lines.extend(balance(&rule.balance));
    lines
}

/// Of codes in order, those that follow each other as one.
fn ranges(codes: &[u16]) -> Vec<String> {
    let mut found: Vec<(u16, u16)> = Vec::new();
    for code in codes {
        match found.last_mut() {
            Some((_, last)) if *code == *last + 1 => *last = *code,
            _ => found.push((*code, *code)),
        }
    }
    let one = |(first, last): &(u16, u16)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first} to {last}"),
    };
    found.iter().map(one).collect()
}

/// What a policy says of an upstream.
pub fn policy(policy: &UpstreamPolicy) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(check) = &policy.check {
        let what = match &check.kind {
            CheckKind::Http(http) => format!("{} {}", http.method, http.path),
            CheckKind::Grpc { service } if service.is_empty() => "grpc.health.v1".to_owned(),
            CheckKind::Grpc { service } => format!("grpc.health.v1 of {service}"),
            CheckKind::Tcp { send, .. } if send.is_empty() => "connection".to_owned(),
            CheckKind::Tcp { .. } => "connection with a question".to_owned(),
        };
        let port = check.port.map(|port| format!(" at port {port}")).unwrap_or_default();
        lines.push(format!(
            "check by {what}{port} every {}, {} each; out after {} failures, back after {}",
            span::exact(check.interval),
            span::exact(check.timeout),
            check.fall,
            check.rise
        ));
    }
    if let Some(outliers) = &policy.outliers {
        let counts = [
            (outliers.server_errors, "answers with 5xx"),
            (outliers.gateway_errors, "with 502 to 504"),
            (outliers.local_failures.unwrap_or(0), "failures to connect"),
        ];
        let counts: Vec<String> =
            counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        lines.push(format!(
            "ejected after {} in a row, for {} and longer, at most {} % of the endpoints",
            counts.join(" or "),
            span::exact(outliers.base_ejection),
            outliers.most_ejected
        ));
    }
    if policy.judges_health() {
        lines.push(match policy.panic_below {
            0 => "unhealthy endpoints are never taken".to_owned(),
            below => format!("all endpoints are taken while less than {below} % are healthy"),
        });
    }
    lines.extend(policy.slow_start.map(|window| format!("new endpoints start slowly over {}", span::exact(window))));
    let limits = &policy.limits;
    let bounds = [
        (limits.connections, "connections"),
        (limits.endpoint_connections, "connections of each endpoint"),
        (limits.pending, "waiting requests"),
        (limits.requests, "requests at once"),
        (limits.retries.filter(|_| limits.retry_budget.is_none()), "retries at once"),
    ];
    let bounds: Vec<String> =
        bounds.iter().filter_map(|(most, what)| most.map(|most| format!("{most} {what}"))).collect();
    if !bounds.is_empty() {
        lines.push(format!("at most {}", bounds.join(", ")));
    }
    if let Some(budget) = limits.retry_budget {
        let share = f64::from(budget.share) / 100.0;
        lines.push(format!("retries at most {share} % of the requests, {} in any case", budget.at_least));
    }
    let keep = &policy.keep_alive;
    let kept = [
        keep.idle_connections.map(|count| format!("{count} idle ones per endpoint and worker")),
        keep.idle_timeout.map(|timeout| format!("idle for {}", span::exact(timeout))),
        keep.requests.map(|count| format!("{count} requests each")),
        keep.age.map(|age| format!("{} old", span::exact(age))),
    ];
    let kept: Vec<String> = kept.into_iter().flatten().collect();
    if !kept.is_empty() {
        lines.push(format!("connections kept: at most {}", kept.join(", ")));
    }
    lines.extend(policy.connect_timeout.map(|timeout| format!("timeout connect {}", span::exact(timeout))));
    lines
}

/// In turn is not worth a line.
pub fn balance(balance: &Balance) -> Option<String> {
    let by = match balance {
        Balance::RoundRobin => return None,
        Balance::LeastRequest => "least request".to_owned(),
        Balance::Random => "random".to_owned(),
        Balance::Hash(hash) => match &hash.key {
            HashKey::SourceIp => "hash of the client's address".to_owned(),
            HashKey::Headers(names) => format!("hash of header {}", names.join(", ")),
            HashKey::Cookie(cookie) => format!("hash of cookie {}", cookie.name),
            HashKey::Query(names) => format!("hash of query parameter {}", names.join(", ")),
            HashKey::Host => "hash of the host".to_owned(),
            HashKey::Path => "hash of the path".to_owned(),
            HashKey::Uri => "hash of path and query".to_owned(),
        },
    };
    Some(format!("balance {by}"))
}

pub fn filters(filters: &Filters) -> Vec<String> {
    let mut lines = Vec::new();
    edits(&mut lines, "request header", &filters.request_headers);
    if let Some(rewrite) = &filters.rewrite {
        lines.extend(rewrite.hostname.as_ref().map(|host| format!("rewrite host to {host}")));
        lines.extend(rewrite.path.as_ref().map(|edit| format!("rewrite {}", path_edit(edit))));
    }
    lines.extend(filters.extension.iter().flat_map(|extension| super::responses::extension(extension)));
    lines.extend(filters.mirrors.iter().map(mirror));
    lines.extend(filters.cors.as_ref().map(cors));
    edits(&mut lines, "response header", &filters.response_headers);
    lines
}

fn edits(lines: &mut Vec<String>, what: &str, edits: &HeaderEdits) {
    lines.extend(edits.set.iter().map(|(name, value)| format!("{what} set {name}: {value}")));
    lines.extend(edits.add.iter().map(|(name, value)| format!("{what} add {name}: {value}")));
    lines.extend(edits.remove.iter().map(|name| format!("{what} remove {name}")));
}

fn path_edit(edit: &PathEdit) -> String {
    match edit {
        PathEdit::Full(path) => format!("path to {path}"),
        PathEdit::Prefix(path) => format!("matched prefix to {}", if path.is_empty() { "/" } else { path }),
    }
}

fn mirror(mirror: &Mirror) -> String {
    if mirror.numerator >= mirror.denominator {
        format!("mirror every request to {}", mirror.reference)
    } else {
        format!("mirror {} of {} requests to {}", mirror.numerator, mirror.denominator, mirror.reference)
    }
}

fn cors(cors: &Cors) -> String {
    let origins: Vec<String> = cors
        .allow_origins
        .iter()
        .map(|origin| match origin {
            Origin::Any => "*".to_owned(),
            Origin::Exact(text) => text.to_string(),
            Origin::Wildcard { before, after } => format!("{before}*{after}"),
        })
        .collect();
    let credentials = if cors.allow_credentials { ", with credentials" } else { "" };
    format!("cors for {}{credentials}", origins.join(", "))
}

/// A redirect as far as it is written: for differences, where there is no request.
pub fn redirect(redirect: &Redirect) -> String {
    let mut text = format!("redirect {}", redirect.status);
    let scheme = redirect.scheme.map(|scheme| match scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    });
    let parts = [
        scheme.map(|scheme| format!("scheme {scheme}")),
        redirect.hostname.as_ref().map(|host| format!("host {host}")),
        redirect.port.map(|port| format!("port {port}")),
        redirect.path.as_ref().map(path_edit),
    ];
    for part in parts.into_iter().flatten() {
        text.push(' ');
        text.push_str(&part);
    }
    text
}
