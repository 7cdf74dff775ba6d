//! Matches, filters and policies of a rule in words.

use std::time::Duration;

use edge_config::matching::{PathMatch, RouteMatch, ValueMatch};
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
        let codes: Vec<String> = retry.codes.iter().map(u16::to_string).collect();
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
    match rule.balance {
        Balance::RoundRobin => {}
        Balance::LeastRequest => lines.push("balance least request".to_owned()),
        Balance::Random => lines.push("balance random".to_owned()),
    }
    lines
}

pub fn filters(filters: &Filters) -> Vec<String> {
    let mut lines = Vec::new();
    edits(&mut lines, "request header", &filters.request_headers);
    if let Some(rewrite) = &filters.rewrite {
        lines.extend(rewrite.hostname.as_ref().map(|host| format!("rewrite host to {host}")));
        lines.extend(rewrite.path.as_ref().map(|edit| format!("rewrite {}", path_edit(edit))));
    }
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
