//! Filters of HTTPRoute and GRPCRoute.

use super::Faults;
use super::gateway::reference;
use super::route::backend_object;
use super::text::{field_name, field_value, hostname, is_field_name};
use crate::gateway::{
    Cors, ExternalAuth, ExternalAuthProtocol, GrpcFilter, GrpcFilterType, HeaderModifier, HttpFilter, HttpFilterType,
    PathModifier, PathModifierType, RedirectScheme, RequestMirror, RequestRedirect,
};
use crate::yaml::Quoted;

pub(super) fn http_filters(filters: &[HttpFilter], path: &str, faults: &mut Faults) {
    faults.at_most(path, filters.len(), 16);
    let has = |kind: &HttpFilterType| filters.iter().any(|filter| filter.kind == *kind);
    if has(&HttpFilterType::RequestRedirect) && has(&HttpFilterType::UrlRewrite) {
        faults.error(path, "has both RequestRedirect and URLRewrite, expected one of them");
    }
    for (index, filter) in filters.iter().enumerate() {
        let path = format!("{path}[{index}]");
        use HttpFilterType as Type;
        let is_single = matches!(
            filter.kind,
            Type::Cors
                | Type::RequestHeaderModifier
                | Type::ResponseHeaderModifier
                | Type::RequestRedirect
                | Type::UrlRewrite
        );
        if is_single && filters[..index].iter().any(|earlier| earlier.kind == filter.kind) {
            faults.error(&path, format!("filter {} is there twice", filter.kind));
        }
        for (kind, member, is_there) in [
            (Type::RequestHeaderModifier, "requestHeaderModifier", filter.request_header_modifier.is_some()),
            (Type::ResponseHeaderModifier, "responseHeaderModifier", filter.response_header_modifier.is_some()),
            (Type::RequestMirror, "requestMirror", filter.request_mirror.is_some()),
            (Type::RequestRedirect, "requestRedirect", filter.request_redirect.is_some()),
            (Type::UrlRewrite, "urlRewrite", filter.url_rewrite.is_some()),
            (Type::ExtensionRef, "extensionRef", filter.extension_ref.is_some()),
            (Type::Cors, "cors", filter.cors.is_some()),
            (Type::ExternalAuth, "externalAuth", filter.external_auth.is_some()),
        ] {
            member_fits(faults, &path, (filter.kind == kind, is_there), kind.as_str(), member);
        }
        modifiers(faults, &path, filter.request_header_modifier.as_ref(), filter.response_header_modifier.as_ref());
        if let Some(mirror) = &filter.request_mirror {
            request_mirror(faults, &format!("{path}.requestMirror"), mirror);
        }
        if let Some(redirect) = &filter.request_redirect {
            request_redirect(faults, &format!("{path}.requestRedirect"), redirect);
        }
        if let Some(rewrite) = &filter.url_rewrite {
            let path = format!("{path}.urlRewrite");
            if let Some(host) = &rewrite.hostname {
                hostname(faults, format_args!("{path}.hostname"), host, false);
            }
            path_modifier(faults, &path, rewrite.path.as_ref());
        }
        if let Some(rule) = &filter.cors {
            cors(faults, &format!("{path}.cors"), rule);
        }
        if let Some(auth) = &filter.external_auth {
            external_auth(faults, &format!("{path}.externalAuth"), auth);
        }
        if let Some(extension) = &filter.extension_ref {
            let path = format!("{path}.extensionRef");
            reference(faults, path, &extension.group, &extension.kind, &extension.name, None);
        }
    }
}

pub(super) fn grpc_filters(filters: &[GrpcFilter], path: &str, faults: &mut Faults) {
    faults.at_most(path, filters.len(), 16);
    for (index, filter) in filters.iter().enumerate() {
        let path = format!("{path}[{index}]");
        use GrpcFilterType as Type;
        let is_single = matches!(filter.kind, Type::RequestHeaderModifier | Type::ResponseHeaderModifier);
        if is_single && filters[..index].iter().any(|earlier| earlier.kind == filter.kind) {
            faults.error(&path, format!("filter {} is there twice", filter.kind));
        }
        for (kind, member, is_there) in [
            (Type::RequestHeaderModifier, "requestHeaderModifier", filter.request_header_modifier.is_some()),
            (Type::ResponseHeaderModifier, "responseHeaderModifier", filter.response_header_modifier.is_some()),
            (Type::RequestMirror, "requestMirror", filter.request_mirror.is_some()),
            (Type::ExtensionRef, "extensionRef", filter.extension_ref.is_some()),
        ] {
            member_fits(faults, &path, (filter.kind == kind, is_there), kind.as_str(), member);
        }
        modifiers(faults, &path, filter.request_header_modifier.as_ref(), filter.response_header_modifier.as_ref());
        if let Some(mirror) = &filter.request_mirror {
            request_mirror(faults, &format!("{path}.requestMirror"), mirror);
        }
        if let Some(extension) = &filter.extension_ref {
            let path = format!("{path}.extensionRef");
            reference(faults, path, &extension.group, &extension.kind, &extension.name, None);
        }
    }
}

/// The member named by the type must be there, and no other.
fn member_fits(faults: &mut Faults, path: &str, (is_type, is_there): (bool, bool), kind: &str, member: &str) {
    match (is_type, is_there) {
        (true, false) => faults.error(path, format!("`{member}` is missing, expected it for type {kind}")),
        (false, true) => faults.error(format_args!("{path}.{member}"), format!("belongs to type {kind} only")),
        _ => {}
    }
}

fn modifiers(faults: &mut Faults, path: &str, request: Option<&HeaderModifier>, response: Option<&HeaderModifier>) {
    for (member, modifier) in [("requestHeaderModifier", request), ("responseHeaderModifier", response)] {
        let Some(modifier) = modifier else { continue };
        for (list, headers) in [("set", &modifier.set), ("add", &modifier.add)] {
            let path = format!("{path}.{member}.{list}");
            faults.at_most(&path, headers.len(), 16);
            for (index, header) in headers.iter().enumerate() {
                field_name(faults, format_args!("{path}[{index}].name"), &header.name);
                field_value(faults, format_args!("{path}[{index}].value"), &header.value);
                if headers[..index].iter().any(|earlier| earlier.name == header.name) {
                    let message = format!("{} is there twice", Quoted(&header.name));
                    faults.error(format_args!("{path}[{index}].name"), message);
                }
            }
        }
        let path = format!("{path}.{member}.remove");
        faults.at_most(&path, modifier.remove.len(), 16);
        for (index, name) in modifier.remove.iter().enumerate() {
            // The schema has no pattern here, but a name that is none could remove nothing.
            field_name(faults, format_args!("{path}[{index}]"), name);
            if modifier.remove[..index].contains(name) {
                faults.error(format_args!("{path}[{index}]"), format!("{} is there twice", Quoted(name)));
            }
        }
    }
}

fn request_mirror(faults: &mut Faults, path: &str, mirror: &RequestMirror) {
    backend_object(faults, &format!("{path}.backendRef"), &mirror.backend_ref);
    if mirror.percent.is_some() && mirror.fraction.is_some() {
        faults.error(path, "has both percent and fraction, expected one of them");
    }
    if let Some(percent) = mirror.percent.filter(|percent| *percent > 100) {
        faults.error(format_args!("{path}.percent"), format!("{percent} is out of range, expected 0 to 100"));
    }
    if let Some(fraction) = mirror.fraction {
        if fraction.denominator == 0 {
            faults.error(format_args!("{path}.fraction.denominator"), "0 is out of range, expected at least 1");
        } else if fraction.numerator > fraction.denominator {
            let message = format!("{}/{} is more than 1", fraction.numerator, fraction.denominator);
            faults.error(format_args!("{path}.fraction"), message);
        }
    }
}

fn request_redirect(faults: &mut Faults, path: &str, redirect: &RequestRedirect) {
    if let Some(scheme) = &redirect.scheme {
        faults.known(format_args!("{path}.scheme"), scheme.as_str(), scheme.is_known(), RedirectScheme::KNOWN);
    }
    if let Some(host) = &redirect.hostname {
        hostname(faults, format_args!("{path}.hostname"), host, false);
    }
    faults.port(format_args!("{path}.port"), redirect.port);
    if ![301, 302, 303, 307, 308].contains(&redirect.status_code) {
        let message = format!("{} is no status for this, expected 301, 302, 303, 307 or 308", redirect.status_code);
        faults.error(format_args!("{path}.statusCode"), message);
    }
    path_modifier(faults, path, redirect.path.as_ref());
}

fn path_modifier(faults: &mut Faults, path: &str, modifier: Option<&PathModifier>) {
    let Some(modifier) = modifier else { return };
    let path = format!("{path}.path");
    faults.known(
        format_args!("{path}.type"),
        modifier.kind.as_str(),
        modifier.kind.is_known(),
        PathModifierType::KNOWN,
    );
    for (kind, member, value) in [
        (PathModifierType::ReplaceFullPath, "replaceFullPath", &modifier.replace_full_path),
        (PathModifierType::ReplacePrefixMatch, "replacePrefixMatch", &modifier.replace_prefix_match),
    ] {
        member_fits(faults, &path, (modifier.kind == kind, value.is_some()), kind.as_str(), member);
        if value.as_ref().is_some_and(|value| value.len() > 1024) {
            faults.error(format_args!("{path}.{member}"), "is longer than 1024 characters");
        }
    }
}

fn cors(faults: &mut Faults, path: &str, rule: &Cors) {
    const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "*"];
    for (member, list, most) in [
        ("allowOrigins", &rule.allow_origins, 64),
        ("allowMethods", &rule.allow_methods, 9),
        ("allowHeaders", &rule.allow_headers, 64),
        ("exposeHeaders", &rule.expose_headers, 64),
    ] {
        let path = format!("{path}.{member}");
        faults.at_most(&path, list.len(), most);
        if member != "exposeHeaders" && list.len() > 1 && list.iter().any(|entry| entry == "*") {
            faults.error(&path, "has \"*\" beside other entries, expected it alone");
        }
        for (index, entry) in list.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let is_fine = match member {
                "allowOrigins" => is_origin(entry),
                "allowMethods" => METHODS.contains(&entry.as_str()),
                _ => is_field_name(entry),
            };
            if !is_fine {
                let expected = match member {
                    "allowOrigins" => "\"*\" or \"scheme://host[:port]\", where the host may begin with \"*.\"",
                    "allowMethods" => "a method in upper case or \"*\"",
                    _ => "a header name or \"*\"",
                };
                faults.error(&path, format!("{} does not fit, expected {expected}", Quoted(entry)));
            }
            if list[..index].contains(entry) {
                faults.error(path, format!("{} is there twice", Quoted(entry)));
            }
        }
    }
    if rule.max_age == 0 {
        faults.error(format_args!("{path}.maxAge"), "0 is out of range, expected at least 1");
    }
}

/// `(^\*$)|(^(http(s)?):\/\/(((\*\.)?([a-zA-Z0-9\-]+\.)*[a-zA-Z0-9-]+|\*)(:([0-9]{1,5}))?)$)`
fn is_origin(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    if text.len() > 253 {
        return false;
    }
    let Some(rest) = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) else { return false };
    let (host, port) = match rest.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (rest, None),
    };
    let is_port = |port: &str| (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    let is_part =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    port.is_none_or(is_port) && (host == "*" || host.strip_prefix("*.").unwrap_or(host).split('.').all(is_part))
}

fn external_auth(faults: &mut Faults, path: &str, auth: &ExternalAuth) {
    let (grpc, http) = (auth.grpc.as_ref(), auth.http.as_ref());
    for (place, names) in [
        ("grpc.allowedHeaders", grpc.map(|grpc| &grpc.allowed_headers)),
        ("http.allowedHeaders", http.map(|http| &http.allowed_headers)),
        ("http.allowedResponseHeaders", http.map(|http| &http.allowed_response_headers)),
    ] {
        let (path, names) = (format!("{path}.{place}"), names.map_or(&[][..], |names| names));
        faults.at_most(&path, names.len(), 64);
        for (index, name) in names.iter().enumerate() {
            field_name(faults, format_args!("{path}[{index}]"), name);
        }
    }
    if http.and_then(|http| http.path.as_ref()).is_some_and(|path| path.len() > 1024) {
        faults.error(format_args!("{path}.http.path"), "is longer than 1024 characters");
    }
    if let Some(most) = auth.forward_body.as_ref().and_then(|body| body.max_size).filter(|most| *most > 0xffff) {
        faults
            .error(format_args!("{path}.forwardBody.maxSize"), format!("{most} is out of range, expected 0 to 65535"));
    }
    backend_object(faults, &format!("{path}.backendRef"), &auth.backend_ref);
    let known = ExternalAuthProtocol::KNOWN;
    faults.known(format_args!("{path}.protocol"), auth.protocol.as_str(), auth.protocol.is_known(), known);
    for (protocol, member, is_there) in [
        (ExternalAuthProtocol::Grpc, "grpc", auth.grpc.is_some()),
        (ExternalAuthProtocol::Http, "http", auth.http.is_some()),
    ] {
        match (auth.protocol == protocol, is_there) {
            (true, false) => faults.error(path, format!("`{member}` is missing, expected it for protocol {protocol}")),
            (false, true) => {
                faults.error(format_args!("{path}.{member}"), format!("belongs to protocol {protocol} only"));
            }
            _ => {}
        }
    }
}
