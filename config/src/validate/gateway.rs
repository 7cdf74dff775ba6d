//! GatewayClass, Gateway, ListenerSet.

use std::fmt;

use super::Faults;
use super::text::{hostname, is_hostname, is_label, is_label_text, is_qualified_name, is_subdomain, section_name};
use crate::gateway::{
    AddressType, FromNamespaces, FrontendTlsConfig, GatewayClassSpec, GatewaySpec, LabelSelector, Listener,
    ListenerSetSpec, Protocol, SecretRef, TlsMode,
};
use crate::yaml::Quoted;

pub fn gateway_class(spec: &GatewayClassSpec, faults: &mut Faults) {
    let is_controller_name = spec.controller_name.len() <= 253
        && spec.controller_name.split_once('/').is_some_and(|(domain, path)| {
            is_subdomain(domain)
                && !path.is_empty()
                && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte))
        });
    if !is_controller_name {
        let found = Quoted(&spec.controller_name);
        faults.error("spec.controllerName", format!("{found} is no controller name, expected \"domain/path\""));
    }
    if let Some(parameters) = &spec.parameters_ref {
        let path = "spec.parametersRef";
        reference(faults, path, &parameters.group, &parameters.kind, &parameters.name, parameters.namespace.as_deref());
    }
    if spec.description.as_ref().is_some_and(|text| text.chars().count() > 64) {
        faults.error("spec.description", "is longer than 64 characters");
    }
}

pub fn gateway(spec: &GatewaySpec, faults: &mut Faults) {
    if spec.gateway_class_name.is_empty() || spec.gateway_class_name.len() > 253 {
        faults.error("spec.gatewayClassName", "is empty or longer than 253 characters");
    }
    listeners(&spec.listeners, faults);
    addresses(spec, faults);
    if let Some(infrastructure) = &spec.infrastructure {
        faults.at_most("spec.infrastructure.labels", infrastructure.labels.len(), 8);
        faults.at_most("spec.infrastructure.annotations", infrastructure.annotations.len(), 16);
        for key in infrastructure.labels.keys() {
            if !is_qualified_name(key) {
                faults.error("spec.infrastructure.labels", format!("{} is no label key", Quoted(key)));
            }
        }
        for value in infrastructure.labels.values() {
            if !is_label_text(value) {
                faults.error("spec.infrastructure.labels", format!("{} is no label value", Quoted(value)));
            }
        }
        for (key, value) in &infrastructure.annotations {
            if !is_qualified_name(key) {
                faults.error("spec.infrastructure.annotations", format!("{} is no annotation key", Quoted(key)));
            }
            if value.len() > 4096 {
                faults.error("spec.infrastructure.annotations", format!("the value of {key} is longer than 4096"));
            }
        }
        if let Some(parameters) = &infrastructure.parameters_ref {
            let path = "spec.infrastructure.parametersRef";
            reference(faults, path, &parameters.group, &parameters.kind, &parameters.name, None);
        }
    }
    let allowed = &spec.allowed_listeners.namespaces;
    let path = "spec.allowedListeners.namespaces.from";
    faults.known(path, allowed.from.as_str(), allowed.from.is_known(), FromNamespaces::KNOWN);
    selector(faults, "spec.allowedListeners.namespaces.selector", allowed.selector.as_ref());
    if let Some(tls) = &spec.tls {
        if let Some(certificate) = tls.backend.as_ref().and_then(|backend| backend.client_certificate_ref.as_ref()) {
            secret_ref(faults, "spec.tls.backend.clientCertificateRef", certificate);
        }
        if let Some(frontend) = &tls.frontend {
            frontend_config(faults, "spec.tls.frontend.default", &frontend.default);
            faults.at_most("spec.tls.frontend.perPort", frontend.per_port.len(), 64);
            for (index, entry) in frontend.per_port.iter().enumerate() {
                let path = format!("spec.tls.frontend.perPort[{index}]");
                faults.port(format_args!("{path}.port"), Some(entry.port));
                if frontend.per_port[..index].iter().any(|earlier| earlier.port == entry.port) {
                    faults.error(format_args!("{path}.port"), format!("port {} is there twice", entry.port));
                }
                frontend_config(faults, &format!("{path}.tls"), &entry.tls);
            }
        }
    }
}

pub fn listener_set(spec: &ListenerSetSpec, faults: &mut Faults) {
    let parent = &spec.parent_ref;
    reference(faults, "spec.parentRef", &parent.group, &parent.kind, &parent.name, parent.namespace.as_deref());
    listeners(&spec.listeners, faults);
}

fn listeners(listeners: &[Listener], faults: &mut Faults) {
    if listeners.is_empty() {
        faults.error("spec.listeners", "is empty, expected at least one listener");
    }
    faults.at_most("spec.listeners", listeners.len(), 64);
    for (index, entry) in listeners.iter().enumerate() {
        let path = format!("spec.listeners[{index}]");
        listener(entry, &path, faults);
        for earlier in &listeners[..index] {
            if earlier.name == entry.name {
                faults.error(format_args!("{path}.name"), format!("{:?} is the name of two listeners", entry.name));
            } else if (earlier.port, &earlier.protocol, &earlier.hostname)
                == (entry.port, &entry.protocol, &entry.hostname)
            {
                // An API server refuses the whole Gateway. Here only the two are lost: the Conflicted condition
                // exists for Gateways that came into being without that rule.
                let message = format!(
                    "listener {:?} has the port, protocol and hostname of listener {:?}, so neither serves",
                    entry.name, earlier.name
                );
                faults.part(&path, message);
            }
        }
    }
}

fn listener(entry: &Listener, path: &str, faults: &mut Faults) {
    section_name(faults, format_args!("{path}.name"), &entry.name);
    faults.port(format_args!("{path}.port"), Some(entry.port));
    let host = entry.hostname.as_deref().filter(|text| !text.is_empty());
    if let Some(host) = host {
        hostname(faults, format_args!("{path}.hostname"), host, true);
        if matches!(entry.protocol, Protocol::Tcp | Protocol::Udp) {
            let message = format!("must not be there for protocol {}", entry.protocol);
            faults.error(format_args!("{path}.hostname"), message);
        }
    }
    if !is_protocol(entry.protocol.as_str()) {
        let message = format!("{} is no protocol name", Quoted(entry.protocol.as_str()));
        faults.error(format_args!("{path}.protocol"), message);
    }
    if let Some(tls) = &entry.tls {
        let path = format!("{path}.tls");
        if matches!(entry.protocol, Protocol::Http | Protocol::Tcp | Protocol::Udp) {
            faults.error(&path, format!("must not be there for protocol {}", entry.protocol));
        }
        faults.known(format_args!("{path}.mode"), tls.mode.as_str(), tls.mode.is_known(), TlsMode::KNOWN);
        if entry.protocol == Protocol::Https && tls.mode == TlsMode::Passthrough {
            let message = "is Passthrough, expected Terminate for protocol HTTPS; protocol TLS passes through";
            faults.error(format_args!("{path}.mode"), message);
        }
        if tls.mode == TlsMode::Terminate && tls.certificate_refs.is_empty() && tls.options.is_empty() {
            faults.error(&path, "certificateRefs is empty, expected a certificate for mode Terminate");
        }
        faults.at_most(format_args!("{path}.certificateRefs"), tls.certificate_refs.len(), 64);
        faults.at_most(format_args!("{path}.options"), tls.options.len(), 16);
        for (index, certificate) in tls.certificate_refs.iter().enumerate() {
            secret_ref(faults, &format!("{path}.certificateRefs[{index}]"), certificate);
        }
    } else if entry.protocol == Protocol::Tls {
        faults.error(path, "tls is missing, expected it with a mode for protocol TLS");
    }
    let routes = &entry.allowed_routes;
    faults.at_most(format_args!("{path}.allowedRoutes.kinds"), routes.kinds.len(), 8);
    let from = &routes.namespaces.from;
    // `None` is a value of allowedListeners only.
    let is_known = from.is_known() && *from != FromNamespaces::None;
    faults.known(
        format_args!("{path}.allowedRoutes.namespaces.from"),
        from.as_str(),
        is_known,
        &["All", "Selector", "Same"],
    );
    let path = format!("{path}.allowedRoutes.namespaces.selector");
    selector(faults, &path, routes.namespaces.selector.as_ref());
}

fn is_protocol(text: &str) -> bool {
    let is_word = |text: &str| {
        let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        edge(text.as_bytes().first())
            && edge(text.as_bytes().last())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    text.len() <= 255
        && match text.split_once('/') {
            None => is_word(text),
            Some((domain, name)) => {
                is_subdomain(domain) && !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
            }
        }
}

fn addresses(spec: &GatewaySpec, faults: &mut Faults) {
    faults.at_most("spec.addresses", spec.addresses.len(), 16);
    for (index, address) in spec.addresses.iter().enumerate() {
        let path = format!("spec.addresses[{index}]");
        let Some(value) = address.value.as_deref() else { continue };
        if value.len() > 253 {
            faults.error(format_args!("{path}.value"), "is longer than 253 characters");
        }
        match address.kind {
            AddressType::IpAddress if value.parse::<std::net::IpAddr>().is_err() => {
                faults.error(format_args!("{path}.value"), format!("{} is no IP address", Quoted(value)));
            }
            AddressType::Hostname if !value.is_empty() && !is_hostname(value, true) => {
                faults.error(format_args!("{path}.value"), format!("{} is no host name", Quoted(value)));
            }
            _ => {}
        }
        let is_unique = matches!(address.kind, AddressType::IpAddress | AddressType::Hostname);
        if is_unique && spec.addresses[..index].contains(address) {
            faults.error(format_args!("{path}.value"), format!("{} is there twice", Quoted(value)));
        }
    }
}

fn frontend_config(faults: &mut Faults, path: &str, config: &FrontendTlsConfig) {
    let Some(validation) = &config.validation else { return };
    let references = format!("{path}.validation.caCertificateRefs");
    if validation.ca_certificate_refs.is_empty() {
        faults.error(&references, "is empty, expected at least one CA certificate");
    }
    faults.at_most(&references, validation.ca_certificate_refs.len(), 16);
    for (index, entry) in validation.ca_certificate_refs.iter().enumerate() {
        let path = format!("{references}[{index}]");
        reference(faults, &path, &entry.group, &entry.kind, &entry.name, entry.namespace.as_deref());
    }
    let path = format!("{path}.validation.mode");
    let expected = crate::gateway::FrontendValidationMode::KNOWN;
    faults.known(path, validation.mode.as_str(), validation.mode.is_known(), expected);
}

pub(super) fn secret_ref(faults: &mut Faults, path: &str, secret: &SecretRef) {
    reference(faults, path, &secret.group, &secret.kind, &secret.name, secret.namespace.as_deref());
}

/// Group, kind, name and namespace of any reference: their patterns, not whether anybody knows them.
pub(super) fn reference(
    faults: &mut Faults,
    path: impl fmt::Display,
    group: &str,
    kind: &str,
    name: &str,
    namespace: Option<&str>,
) {
    if !group.is_empty() && !is_subdomain(group) {
        faults.error(format_args!("{path}.group"), format!("{} is no API group", Quoted(group)));
    }
    let is_kind = kind.len() <= 63
        && kind.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic())
        && kind.bytes().last().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !is_kind {
        faults.error(format_args!("{path}.kind"), format!("{} is no kind", Quoted(kind)));
    }
    if name.is_empty() || name.len() > 253 {
        faults.error(format_args!("{path}.name"), "is empty or longer than 253 characters");
    }
    if let Some(namespace) = namespace
        && !is_label(namespace)
    {
        faults.error(format_args!("{path}.namespace"), format!("{} is no namespace", Quoted(namespace)));
    }
}

pub(super) fn selector(faults: &mut Faults, path: &str, selector: Option<&LabelSelector>) {
    for (index, requirement) in selector.into_iter().flat_map(|selector| &selector.match_expressions).enumerate() {
        let path = format!("{path}.matchExpressions[{index}]");
        let operator = &requirement.operator;
        let expected = crate::gateway::LabelOperator::KNOWN;
        faults.known(format_args!("{path}.operator"), operator.as_str(), operator.is_known(), expected);
        let wants_values = matches!(operator.as_str(), "In" | "NotIn");
        if operator.is_known() && wants_values == requirement.values.is_empty() {
            let expected = if wants_values { "expected at least one" } else { "expected none" };
            faults.error(format_args!("{path}.values"), format!("{expected} for operator {operator}"));
        }
    }
}
