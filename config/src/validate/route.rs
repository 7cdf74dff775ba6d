//! HTTPRoute, GRPCRoute, TLSRoute, TCPRoute, UDPRoute.

use std::time::Duration;

use super::Faults;
use super::filter::{grpc_filters, http_filters};
use super::gateway::reference;
use super::text::{field_name, field_value, hostname, path_fault, section_name};
use crate::gateway::{
    BackendObjectRef, BackendRef, CookieLifetime, GrpcRouteSpec, HeaderMatch, HttpMethod, HttpRouteMatch,
    HttpRouteRule, HttpRouteSpec, L4RouteRule, L4RouteSpec, ParentReference, PathMatchType, SessionPersistence,
    SessionPersistenceType, TlsRouteSpec, ValueMatchType,
};
use crate::yaml::Quoted;

pub fn http_route(spec: &HttpRouteSpec, faults: &mut Faults) {
    parents(&spec.parent_refs, faults);
    hostnames(&spec.hostnames, 16, faults);
    if spec.rules.is_empty() {
        faults.error("spec.rules", "is empty, expected at least one rule");
    }
    faults.at_most("spec.rules", spec.rules.len(), 16);
    faults.at_most("spec.rules[].matches", spec.rules.iter().map(|rule| rule.matches.len()).sum(), 128);
    rule_names(spec.rules.iter().map(|rule| rule.name.as_deref()), faults);
    for (index, rule) in spec.rules.iter().enumerate() {
        http_rule(rule, &format!("spec.rules[{index}]"), faults);
    }
}

fn http_rule(rule: &HttpRouteRule, path: &str, faults: &mut Faults) {
    faults.at_most(format_args!("{path}.matches"), rule.matches.len(), 64);
    for (index, entry) in rule.matches.iter().enumerate() {
        http_match(entry, &format!("{path}.matches[{index}]"), faults);
    }
    http_filters(&rule.filters, &format!("{path}.filters"), faults);
    backends(&rule.backend_refs, path, faults);
    for (index, backend) in rule.backend_refs.iter().enumerate() {
        http_filters(&backend.filters, &format!("{path}.backendRefs[{index}].filters"), faults);
    }
    if !rule.backend_refs.is_empty() && rule.filters.iter().any(|filter| filter.request_redirect.is_some()) {
        faults.error(path, "has RequestRedirect and backendRefs, expected one of them");
    }
    let rewrites_prefix = |filters: &[crate::gateway::HttpFilter]| {
        let modifiers = filters.iter().flat_map(|filter| {
            [
                filter.request_redirect.as_ref().and_then(|redirect| redirect.path.as_ref()),
                filter.url_rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref()),
            ]
        });
        modifiers.flatten().any(|modifier| modifier.replace_prefix_match.is_some())
    };
    let is_one_prefix = matches!(&rule.matches[..], [one] if one.path.kind == PathMatchType::PathPrefix);
    if !is_one_prefix {
        let message = "replacePrefixMatch needs exactly one match, of type PathPrefix";
        if rewrites_prefix(&rule.filters) {
            faults.error(format_args!("{path}.filters"), message);
        }
        for (index, backend) in rule.backend_refs.iter().enumerate() {
            if rewrites_prefix(&backend.filters) {
                faults.error(format_args!("{path}.backendRefs[{index}].filters"), message);
            }
        }
    }
    if let Some(timeouts) = &rule.timeouts
        && let (Some(request), Some(one_try)) = (timeouts.request, timeouts.backend_request)
        && request.0 != Duration::ZERO
        && one_try > request
    {
        let message = format!("{one_try} is longer than the whole request's {request}");
        faults.error(format_args!("{path}.timeouts.backendRequest"), message);
    }
    if let Some(retry) = &rule.retry {
        for (index, code) in retry.codes.iter().enumerate() {
            let path = format!("{path}.retry.codes[{index}]");
            if !(400..=599).contains(code) {
                faults.error(&path, format!("{code} is out of range, expected 400 to 599"));
            }
            if retry.codes[..index].contains(code) {
                faults.error(&path, format!("{code} is there twice"));
            }
        }
        if retry.attempts == Some(0) {
            faults.error(format_args!("{path}.retry.attempts"), "0 is out of range, expected at least 1");
        }
    }
    session(rule.session_persistence.as_deref(), path, faults);
}

fn http_match(entry: &HttpRouteMatch, path: &str, faults: &mut Faults) {
    let value = &entry.path.value;
    faults.known(
        format_args!("{path}.path.type"),
        entry.path.kind.as_str(),
        entry.path.kind.is_known(),
        PathMatchType::KNOWN,
    );
    if value.len() > 1024 {
        faults.error(format_args!("{path}.path.value"), "is longer than 1024 characters");
    } else if matches!(entry.path.kind, PathMatchType::Exact | PathMatchType::PathPrefix)
        && let Some(fault) = path_fault(value)
    {
        faults.error(format_args!("{path}.path.value"), format!("{} {fault}", Quoted(value)));
    }
    header_matches(&entry.headers, path, true, faults);
    faults.at_most(format_args!("{path}.queryParams"), entry.query_params.len(), 16);
    for (index, parameter) in entry.query_params.iter().enumerate() {
        let path = format!("{path}.queryParams[{index}]");
        value_type(&path, &parameter.kind, faults);
        field_name(faults, format_args!("{path}.name"), &parameter.name);
        if parameter.value.is_empty() || parameter.value.len() > 1024 {
            faults.error(format_args!("{path}.value"), "is empty or longer than 1024 characters");
        }
        if entry.query_params[..index].iter().any(|earlier| earlier.name == parameter.name) {
            faults.error(format_args!("{path}.name"), format!("{} is there twice", Quoted(&parameter.name)));
        }
    }
    if let Some(method) = &entry.method {
        faults.known(format_args!("{path}.method"), method.as_str(), method.is_known(), HttpMethod::KNOWN);
    }
}

fn header_matches(headers: &[HeaderMatch], path: &str, strict_value: bool, faults: &mut Faults) {
    faults.at_most(format_args!("{path}.headers"), headers.len(), 16);
    for (index, header) in headers.iter().enumerate() {
        let path = format!("{path}.headers[{index}]");
        value_type(&path, &header.kind, faults);
        field_name(faults, format_args!("{path}.name"), &header.name);
        if strict_value {
            field_value(faults, format_args!("{path}.value"), &header.value);
        } else if header.value.is_empty() || header.value.len() > 4096 {
            faults.error(format_args!("{path}.value"), "is empty or longer than 4096 characters");
        }
        if headers[..index].iter().any(|earlier| earlier.name == header.name) {
            faults.error(format_args!("{path}.name"), format!("{} is there twice", Quoted(&header.name)));
        }
    }
}

fn value_type(path: &str, kind: &ValueMatchType, faults: &mut Faults) {
    faults.known(format_args!("{path}.type"), kind.as_str(), kind.is_known(), ValueMatchType::KNOWN);
}

fn session(session: Option<&SessionPersistence>, path: &str, faults: &mut Faults) {
    let Some(session) = session else { return };
    let path = format!("{path}.sessionPersistence");
    let kind = &session.kind;
    faults.known(format_args!("{path}.type"), kind.as_str(), kind.is_known(), SessionPersistenceType::KNOWN);
    if session.session_name.as_ref().is_some_and(|name| name.len() > 128) {
        faults.error(format_args!("{path}.sessionName"), "is longer than 128 characters");
    } else if let Some(name) = session.session_name.as_deref().filter(|name| !name.is_empty()) {
        // It becomes a cookie or header name (RFC 6265 §4.1.1: both are tokens).
        if !super::text::is_field_name(name) {
            faults.error(format_args!("{path}.sessionName"), format!("{} is no cookie or header name", Quoted(name)));
        }
    }
    let Some(cookie) = &session.cookie_config else { return };
    let lifetime = &cookie.lifetime_type;
    let path_of_type = format!("{path}.cookieConfig.lifetimeType");
    faults.known(&path_of_type, lifetime.as_str(), lifetime.is_known(), CookieLifetime::KNOWN);
    if *lifetime == CookieLifetime::Permanent && session.absolute_timeout.is_none() {
        faults.error(&path, "absoluteTimeout is missing, expected it for a Permanent cookie");
    }
    if *kind != SessionPersistenceType::Cookie {
        faults.error(format_args!("{path}.cookieConfig"), "belongs to type Cookie only");
    }
}

pub fn grpc_route(spec: &GrpcRouteSpec, faults: &mut Faults) {
    parents(&spec.parent_refs, faults);
    hostnames(&spec.hostnames, 16, faults);
    faults.at_most("spec.rules", spec.rules.len(), 16);
    faults.at_most("spec.rules[].matches", spec.rules.iter().map(|rule| rule.matches.len()).sum(), 128);
    rule_names(spec.rules.iter().map(|rule| rule.name.as_deref()), faults);
    for (index, rule) in spec.rules.iter().enumerate() {
        let path = format!("spec.rules[{index}]");
        faults.at_most(format_args!("{path}.matches"), rule.matches.len(), 64);
        for (index, entry) in rule.matches.iter().enumerate() {
            let path = format!("{path}.matches[{index}]");
            header_matches(&entry.headers, &path, false, faults);
            let Some(method) = &entry.method else { continue };
            let path = format!("{path}.method");
            value_type(&path, &method.kind, faults);
            if method.service.is_none() && method.method.is_none() {
                faults.error(&path, "has neither service nor method, expected at least one");
            }
            for (member, value) in [("service", &method.service), ("method", &method.method)] {
                let Some(value) = value else { continue };
                let is_word = |word: &str| {
                    word.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
                        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
                };
                let is_name = match member {
                    "service" => value.strip_prefix('.').unwrap_or(value).split('.').all(is_word),
                    _ => is_word(value),
                };
                if value.len() > 1024 || (method.kind == ValueMatchType::Exact && !is_name) {
                    faults
                        .error(format_args!("{path}.{member}"), format!("{} is no gRPC {member} name", Quoted(value)));
                }
            }
        }
        grpc_filters(&rule.filters, &format!("{path}.filters"), faults);
        backends(&rule.backend_refs, &path, faults);
        for (index, backend) in rule.backend_refs.iter().enumerate() {
            grpc_filters(&backend.filters, &format!("{path}.backendRefs[{index}].filters"), faults);
        }
        session(rule.session_persistence.as_deref(), &path, faults);
    }
}

pub fn tls_route(spec: &TlsRouteSpec, faults: &mut Faults) {
    parents(&spec.parent_refs, faults);
    if spec.hostnames.is_empty() {
        faults.error("spec.hostnames", "is empty, expected at least one host name");
    }
    hostnames(&spec.hostnames, 1024, faults);
    l4_rules(&spec.rules, faults);
}

pub fn l4_route(spec: &L4RouteSpec, faults: &mut Faults) {
    parents(&spec.parent_refs, faults);
    l4_rules(&spec.rules, faults);
}

fn l4_rules(rules: &[L4RouteRule], faults: &mut Faults) {
    if rules.len() != 1 {
        faults.error("spec.rules", format!("has {} items, expected exactly 1", rules.len()));
    }
    rule_names(rules.iter().map(|rule| rule.name.as_deref()), faults);
    for (index, rule) in rules.iter().enumerate() {
        let path = format!("spec.rules[{index}]");
        if rule.backend_refs.is_empty() {
            faults.error(format_args!("{path}.backendRefs"), "is empty, expected at least one backend");
        }
        backends(&rule.backend_refs, &path, faults);
    }
}

fn hostnames(names: &[String], most: usize, faults: &mut Faults) {
    faults.at_most("spec.hostnames", names.len(), most);
    for (index, name) in names.iter().enumerate() {
        hostname(faults, format_args!("spec.hostnames[{index}]"), name, true);
    }
}

fn rule_names<'n>(names: impl Iterator<Item = Option<&'n str>>, faults: &mut Faults) {
    let mut seen = Vec::new();
    for (index, name) in names.enumerate() {
        let Some(name) = name else { continue };
        section_name(faults, format_args!("spec.rules[{index}].name"), name);
        if seen.contains(&name) {
            faults.error(format_args!("spec.rules[{index}].name"), format!("{name:?} is the name of two rules"));
        }
        seen.push(name);
    }
}

fn parents(parents: &[ParentReference], faults: &mut Faults) {
    faults.at_most("spec.parentRefs", parents.len(), 32);
    for (index, parent) in parents.iter().enumerate() {
        let path = format!("spec.parentRefs[{index}]");
        reference(faults, &path, &parent.group, &parent.kind, &parent.name, parent.namespace.as_deref());
        if let Some(section) = &parent.section_name {
            section_name(faults, format_args!("{path}.sectionName"), section);
        }
        faults.port(format_args!("{path}.port"), parent.port);
        for earlier in &parents[..index] {
            let one = |parent: &ParentReference| {
                (parent.group.clone(), parent.kind.clone(), parent.namespace.clone(), parent.name.clone())
            };
            if one(earlier) != one(parent) {
                continue;
            }
            if earlier.section_name.is_some() != parent.section_name.is_some()
                || earlier.port.is_some() != parent.port.is_some()
            {
                let message =
                    "names a parent that is there already, expected sectionName or port on both or on neither";
                faults.error(&path, message);
            } else if (&earlier.section_name, earlier.port) == (&parent.section_name, parent.port) {
                faults.error(&path, "names the same parent, sectionName and port as one before it");
            }
        }
    }
}

fn backends<F>(backends: &[BackendRef<F>], path: &str, faults: &mut Faults) {
    faults.at_most(format_args!("{path}.backendRefs"), backends.len(), 16);
    for (index, backend) in backends.iter().enumerate() {
        let path = format!("{path}.backendRefs[{index}]");
        backend_object(faults, &path, &backend.object());
        if backend.weight > 1_000_000 {
            let message = format!("{} is out of range, expected 0 to 1000000", backend.weight);
            faults.error(format_args!("{path}.weight"), message);
        }
    }
}

pub(super) fn backend_object(faults: &mut Faults, path: &str, backend: &BackendObjectRef) {
    reference(faults, path, &backend.group, &backend.kind, &backend.name, backend.namespace.as_deref());
    faults.port(format_args!("{path}.port"), backend.port);
    if backend.group.is_empty() && backend.kind == "Service" && backend.port.is_none() {
        faults.error(path, "port is missing, expected it for a Service");
    }
}
