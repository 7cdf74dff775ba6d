//! ReferenceGrant, BackendTLSPolicy, and the kinds of core, MetalLB's pools and Envoy Gateway.

use std::net::IpAddr;

use super::Faults;
use super::gateway::reference;
use super::text::{hostname, is_label, section_name};
use crate::core::{
    EndpointAddressType, EndpointSlice, IpFamily, IpFamilyPolicy, PortProtocol, ServiceSpec, ServiceType,
    SessionAffinity, TrafficPolicy,
};
use crate::envoy::{
    ActiveCheckType, BackendEndpoint, BackendProtocol, BackendProxyVersion, BackendSpec, BackendTls,
    BackendTrafficPolicySpec, BackendType, ConsistentHashType, LoadBalancerType, MergeType, RetryTrigger,
};
use crate::gateway::{BackendTlsPolicySpec, PolicyTargetRef, ReferenceGrantSpec, SubjectAltNameType, WellKnownCa};
use crate::metallb::IpAddressPoolSpec;
use crate::settings::AddressRange;
use crate::yaml::Quoted;

pub fn reference_grant(spec: &ReferenceGrantSpec, faults: &mut Faults) {
    for (path, found) in [("spec.from", spec.from.len()), ("spec.to", spec.to.len())] {
        if found == 0 {
            faults.error(path, "is empty, expected at least one item");
        }
        faults.at_most(path, found, 16);
    }
    for (index, from) in spec.from.iter().enumerate() {
        let path = format!("spec.from[{index}]");
        reference(faults, path, &from.group, &from.kind, "any", Some(&from.namespace));
    }
    for (index, to) in spec.to.iter().enumerate() {
        let path = format!("spec.to[{index}]");
        reference(faults, path, &to.group, &to.kind, to.name.as_deref().unwrap_or("any"), None);
    }
}

pub fn backend_tls_policy(spec: &BackendTlsPolicySpec, faults: &mut Faults) {
    targets(&spec.target_refs, faults);
    faults.at_most("spec.options", spec.options.len(), 16);
    let validation = &spec.validation;
    let path = "spec.validation";
    hostname(faults, format_args!("{path}.hostname"), &validation.hostname, false);
    match (validation.ca_certificate_refs.is_empty(), &validation.well_known_ca_certificates) {
        (false, Some(_)) => {
            faults.error(path, "has both caCertificateRefs and wellKnownCACertificates, expected one of them");
        }
        (true, None) => {
            faults.error(path, "has neither caCertificateRefs nor wellKnownCACertificates, expected one of them");
        }
        _ => {}
    }
    if let Some(WellKnownCa::Other(set)) = &validation.well_known_ca_certificates {
        // Domain-prefixed sets of other implementations are legal and end as a condition.
        if !set.contains('/') {
            let message = format!("unknown value {}, expected System", Quoted(set));
            faults.error(format_args!("{path}.wellKnownCACertificates"), message);
        }
    }
    faults.at_most(format_args!("{path}.caCertificateRefs"), validation.ca_certificate_refs.len(), 8);
    for (index, entry) in validation.ca_certificate_refs.iter().enumerate() {
        let path = format!("{path}.caCertificateRefs[{index}]");
        reference(faults, path, &entry.group, &entry.kind, &entry.name, None);
    }
    faults.at_most(format_args!("{path}.subjectAltNames"), validation.subject_alt_names.len(), 5);
    for (index, name) in validation.subject_alt_names.iter().enumerate() {
        let path = format!("{path}.subjectAltNames[{index}]");
        let kind = &name.kind;
        faults.known(format_args!("{path}.type"), kind.as_str(), kind.is_known(), SubjectAltNameType::KNOWN);
        for (of, member, value) in
            [(SubjectAltNameType::Hostname, "hostname", &name.hostname), (SubjectAltNameType::Uri, "uri", &name.uri)]
        {
            let value = value.as_deref().filter(|value| !value.is_empty());
            match (*kind == of, value) {
                (true, None) => faults.error(&path, format!("`{member}` is missing, expected it for type {of}")),
                (false, Some(_)) => {
                    faults.error(format_args!("{path}.{member}"), format!("belongs to type {of} only"));
                }
                (true, Some(value)) if of == SubjectAltNameType::Hostname => {
                    hostname(faults, format_args!("{path}.hostname"), value, true);
                }
                (true, Some(value)) => {
                    // `scheme:` and something after it.
                    let is_uri = value.len() <= 253
                        && value.split_once(':').is_some_and(|(scheme, rest)| {
                            !scheme.is_empty() && !scheme.contains(['/', '?', '#']) && rest.starts_with("//")
                        });
                    if !is_uri {
                        faults.error(format_args!("{path}.uri"), format!("{} is no URI", Quoted(value)));
                    }
                }
                (false, None) => {}
            }
        }
    }
}

pub(super) fn targets(targets: &[PolicyTargetRef], faults: &mut Faults) {
    if targets.is_empty() {
        faults.error("spec.targetRefs", "is empty, expected at least one target");
    }
    faults.at_most("spec.targetRefs", targets.len(), 16);
    for (index, target) in targets.iter().enumerate() {
        let path = format!("spec.targetRefs[{index}]");
        reference(faults, &path, &target.group, &target.kind, &target.name, None);
        if let Some(section) = &target.section_name {
            section_name(faults, format_args!("{path}.sectionName"), section);
        }
        for earlier in &targets[..index] {
            if (&earlier.group, &earlier.kind, &earlier.name) != (&target.group, &target.kind, &target.name) {
                continue;
            }
            if earlier.section_name.is_some() != target.section_name.is_some() {
                faults.error(&path, "names a target that is there already, expected sectionName on both");
            } else if earlier.section_name == target.section_name {
                faults.error(&path, "names the same target and sectionName as one before it");
            }
        }
    }
}

pub fn service(spec: &ServiceSpec, faults: &mut Faults) {
    faults.known("spec.type", spec.kind.as_str(), spec.kind.is_known(), ServiceType::KNOWN);
    if spec.kind == ServiceType::ExternalName {
        match spec.external_name.as_deref().map(|name| name.strip_suffix('.').unwrap_or(name)) {
            Some(name) => hostname(faults, "spec.externalName", &name.to_ascii_lowercase(), false),
            None => faults.error("spec", "externalName is missing, expected it for type ExternalName"),
        }
    } else if spec.ports.is_empty() && spec.cluster_ip.as_deref() != Some("None") {
        faults.error("spec", "ports is missing, expected at least one port");
    }
    load_balancer(spec, faults);
    for (index, port) in spec.ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        faults.port(format_args!("{path}.port"), Some(port.port));
        let protocol = &port.protocol;
        faults.known(format_args!("{path}.protocol"), protocol.as_str(), protocol.is_known(), PortProtocol::KNOWN);
        let name = port.name.as_deref().filter(|name| !name.is_empty());
        match name {
            None if spec.ports.len() > 1 => {
                faults.error(&path, "name is missing, expected it where there are several ports");
            }
            Some(name) if !is_label(name) => {
                faults.error(format_args!("{path}.name"), format!("{} is no port name", Quoted(name)));
            }
            _ => {}
        }
        for earlier in &spec.ports[..index] {
            if name.is_some() && earlier.name.as_deref() == name {
                faults.error(format_args!("{path}.name"), format!("{:?} is the name of two ports", port.name));
            }
            if (earlier.port, &earlier.protocol) == (port.port, protocol) {
                faults.error(format_args!("{path}.port"), format!("{}/{protocol} is there twice", port.port));
            }
        }
    }
}

fn load_balancer(spec: &ServiceSpec, faults: &mut Faults) {
    for (index, family) in spec.ip_families.iter().enumerate() {
        let path = format!("spec.ipFamilies[{index}]");
        faults.known(&path, family.as_str(), family.is_known(), IpFamily::KNOWN);
        if spec.ip_families[..index].contains(family) {
            faults.error(&path, format!("{family} is there twice"));
        }
    }
    if let Some(policy) = &spec.ip_family_policy {
        faults.known("spec.ipFamilyPolicy", policy.as_str(), policy.is_known(), IpFamilyPolicy::KNOWN);
    }
    if let Some(affinity) = &spec.session_affinity {
        faults.known("spec.sessionAffinity", affinity.as_str(), affinity.is_known(), SessionAffinity::KNOWN);
    }
    if let Some(policy) = &spec.external_traffic_policy {
        faults.known("spec.externalTrafficPolicy", policy.as_str(), policy.is_known(), TrafficPolicy::KNOWN);
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    if let Some(seconds) = config.and_then(|config| config.timeout_seconds)
        && !(1..=86_400).contains(&seconds)
    {
        let path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        faults.error(path, format!("{seconds} is out of range, expected 1 to 86400"));
    }
    for (index, text) in spec.load_balancer_source_ranges.iter().enumerate() {
        if text.trim().parse::<ipnet::IpNet>().is_err() {
            let path = format!("spec.loadBalancerSourceRanges[{index}]");
            faults.error(path, format!("{} is no network, expected one such as \"192.0.2.0/24\"", Quoted(text)));
        }
    }
}

pub fn endpoint_slice(slice: &EndpointSlice, faults: &mut Faults) {
    let kind = &slice.address_type;
    faults.known("addressType", kind.as_str(), kind.is_known(), EndpointAddressType::KNOWN);
    faults.at_most("endpoints", slice.endpoints.len(), 1000);
    faults.at_most("ports", slice.ports.len(), 20_000);
    for (index, port) in slice.ports.iter().enumerate() {
        faults.port(format_args!("ports[{index}].port"), port.port);
    }
    for (index, endpoint) in slice.endpoints.iter().enumerate() {
        let path = format!("endpoints[{index}].addresses");
        if endpoint.addresses.is_empty() {
            faults.error(&path, "is empty, expected at least one address");
        }
        faults.at_most(&path, endpoint.addresses.len(), 100);
        for (index, address) in endpoint.addresses.iter().enumerate() {
            let is_fine = match kind {
                EndpointAddressType::Ipv4 => matches!(address.parse(), Ok(IpAddr::V4(_))),
                EndpointAddressType::Ipv6 => matches!(address.parse(), Ok(IpAddr::V6(_))),
                EndpointAddressType::Fqdn => super::text::is_hostname(address, false),
                EndpointAddressType::Other(_) => true,
            };
            if !is_fine {
                faults.error(format_args!("{path}[{index}]"), format!("{} is no {kind} address", Quoted(address)));
            }
        }
    }
}

pub fn address_pool(spec: &IpAddressPoolSpec, faults: &mut Faults) {
    if spec.addresses.is_empty() {
        faults.error("spec.addresses", "is empty, expected at least one range");
    }
    for (index, range) in spec.addresses.iter().enumerate() {
        if let Err(fault) = AddressRange::parse(range) {
            faults.error(format_args!("spec.addresses[{index}]"), format!("{}: {fault}", Quoted(range)));
        }
    }
}

/// Values of which it needs more than a look at one field to know what they come to are judged by compile.
pub fn backend_traffic_policy(spec: &BackendTrafficPolicySpec, faults: &mut Faults) {
    if let Some(proxy) = &spec.proxy_protocol {
        let version = &proxy.version;
        let path = "spec.proxyProtocol.version";
        faults.known(path, version.as_str(), version.is_known(), BackendProxyVersion::KNOWN);
    }
    if let Some(merge) = &spec.merge_type {
        faults.known("spec.mergeType", merge.as_str(), merge.is_known(), MergeType::KNOWN);
    }
    if let Some(active) = spec.health_check.as_ref().and_then(|health| health.active.as_ref()) {
        let kind = &active.kind;
        faults.known("spec.healthCheck.active.type", kind.as_str(), kind.is_known(), ActiveCheckType::KNOWN);
    }
    let triggers = spec.retry.iter().filter_map(|retry| retry.retry_on.as_ref()).flat_map(|on| &on.triggers);
    for (index, trigger) in triggers.enumerate() {
        let path = format!("spec.retry.retryOn.triggers[{index}]");
        faults.known(path, trigger.as_str(), trigger.is_known(), RetryTrigger::KNOWN);
    }
    let Some(balancer) = &spec.load_balancer else { return };
    let kind = &balancer.kind;
    faults.known("spec.loadBalancer.type", kind.as_str(), kind.is_known(), LoadBalancerType::KNOWN);
    if matches!(kind, LoadBalancerType::BackendUtilization | LoadBalancerType::DynamicModule) {
        let message = format!("{kind} is not acted on by this version; endpoints are taken in turn");
        faults.part("spec.loadBalancer.type", message);
    }
    if (*kind == LoadBalancerType::ConsistentHash) != balancer.consistent_hash.is_some() {
        faults.error("spec.loadBalancer", "consistentHash belongs to type ConsistentHash, and to it only");
    }
    if let Some(hash) = &balancer.consistent_hash {
        let path = "spec.loadBalancer.consistentHash.type";
        faults.known(path, hash.kind.as_str(), hash.kind.is_known(), ConsistentHashType::KNOWN);
    }
}

pub fn backend(spec: &BackendSpec, faults: &mut Faults) {
    faults.known("spec.type", spec.kind.as_str(), spec.kind.is_known(), BackendType::KNOWN);
    if spec.kind == BackendType::DynamicResolver {
        faults.part("spec.type", "DynamicResolver is not acted on by this version; the Backend has no endpoint");
    } else if spec.endpoints.is_empty() {
        faults.error("spec", "endpoints is missing, expected at least one endpoint");
    }
    faults.at_most("spec.endpoints", spec.endpoints.len(), 256);
    for (index, protocol) in spec.app_protocols.iter().enumerate() {
        let path = format!("spec.appProtocols[{index}]");
        faults.known(path, protocol.as_str(), protocol.is_known(), BackendProtocol::KNOWN);
    }
    for (index, endpoint) in spec.endpoints.iter().enumerate() {
        let path = format!("spec.endpoints[{index}]");
        if let Some(name) = &endpoint.hostname {
            hostname(faults, format_args!("{path}.hostname"), name, false);
        }
        let members = [endpoint.fqdn.is_some(), endpoint.ip.is_some(), endpoint.unix.is_some()];
        if members.into_iter().filter(|is_there| *is_there).count() != 1 {
            faults.error(&path, "expected exactly one of fqdn, ip and unix");
        }
        if let Some(fqdn) = &endpoint.fqdn {
            let name = fqdn.hostname.strip_suffix('.').unwrap_or(&fqdn.hostname);
            hostname(faults, format_args!("{path}.fqdn.hostname"), name, false);
            faults.port(format_args!("{path}.fqdn.port"), Some(fqdn.port));
        }
        if let Some(ip) = &endpoint.ip {
            if ip.address.parse::<IpAddr>().is_err() {
                let message = format!("{} is no IP address", Quoted(&ip.address));
                faults.error(format_args!("{path}.ip.address"), message);
            }
            faults.port(format_args!("{path}.ip.port"), Some(ip.port));
        }
        if endpoint.unix.is_some() {
            faults.part(format_args!("{path}.unix"), "unix sockets are not acted on by this version");
        }
    }
    let with_name = spec.endpoints.iter().filter(|endpoint| endpoint.fqdn.is_some()).count();
    if with_name > 0 && with_name < spec.endpoints.len() {
        faults.error("spec.endpoints", "has fqdn beside other addresses, expected either");
    }
    if let Some(tls) = &spec.tls {
        backend_tls(spec, tls, faults);
    }
}

fn backend_tls(spec: &BackendSpec, tls: &BackendTls, faults: &mut Faults) {
    let path = "spec.tls";
    faults.at_most(format_args!("{path}.caCertificateRefs"), tls.ca_certificate_refs.len(), 8);
    for (index, entry) in tls.ca_certificate_refs.iter().enumerate() {
        let path = format!("{path}.caCertificateRefs[{index}]");
        reference(faults, path, &entry.group, &entry.kind, &entry.name, None);
    }
    let well_known = tls.well_known_ca_certificates.as_ref().filter(|set| !set.as_str().is_empty());
    if let Some(set) = well_known {
        faults.known(format_args!("{path}.wellKnownCACertificates"), set.as_str(), set.is_known(), WellKnownCa::KNOWN);
    }
    let has_refs = !tls.ca_certificate_refs.is_empty();
    if has_refs && well_known.is_some() {
        faults.error(path, "has both caCertificateRefs and wellKnownCACertificates, expected one of them");
    }
    if tls.insecure_skip_verify && (has_refs || well_known.is_some()) {
        faults.error(path, "has a CA beside insecureSkipVerify, expected either");
    }
    let is_automatic = tls.auto_sni_from_endpoint_hostname == Some(true);
    if let Some(sni) = &tls.sni {
        hostname(faults, format_args!("{path}.sni"), sni, false);
        if is_automatic {
            faults.error(path, "has both sni and autoSNIFromEndpointHostname, expected one of them");
        }
    }
    let is_nameless = |endpoint: &BackendEndpoint| endpoint.fqdn.is_none() && endpoint.hostname.is_none();
    if is_automatic && spec.endpoints.iter().any(is_nameless) {
        faults.error("spec.endpoints", "has one without hostname, expected it for autoSNIFromEndpointHostname");
    }
    super::envoy::tls_parameters(
        path,
        (tls.min_version.as_ref(), tls.max_version.as_ref()),
        (tls.alpn_protocols.as_deref().unwrap_or_default(), &tls.fingerprints),
        faults,
    );
}
