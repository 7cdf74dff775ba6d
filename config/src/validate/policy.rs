//! ReferenceGrant, BackendTLSPolicy, and the kinds of core, cert-manager, MetalLB and Envoy Gateway.

use std::net::IpAddr;

use super::Faults;
use super::gateway::reference;
use super::text::{hostname, is_label, section_name};
use crate::certmanager::{CertificateSpec, IssuerSpec, PrivateKeyAlgorithm, RotationPolicy};
use crate::core::{
    EndpointAddressType, EndpointSlice, IpFamily, IpFamilyPolicy, PortProtocol, ServiceSpec, ServiceType,
    SessionAffinity, TrafficPolicy,
};
use crate::envoy::{
    BackendProtocol, BackendProxyVersion, BackendSpec, BackendTrafficPolicySpec, BackendType, ClientTrafficPolicySpec,
    ConsistentHashType, EscapedSlashesAction, LoadBalancerType,
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

fn targets(targets: &[PolicyTargetRef], faults: &mut Faults) {
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

pub fn issuer(spec: &IssuerSpec, faults: &mut Faults) {
    let members = [
        spec.self_signed.is_some(),
        spec.ca.is_some(),
        spec.acme.is_some(),
        spec.vault.is_some(),
        spec.venafi.is_some(),
    ];
    let found = members.into_iter().filter(|is_there| *is_there).count();
    if found != 1 {
        let message = format!("has {found} of selfSigned, ca, acme, vault and venafi, expected exactly one");
        faults.error("spec", message);
    }
    if spec.ca.as_ref().is_some_and(|ca| ca.secret_name.is_empty()) {
        faults.error("spec.ca.secretName", "is empty, expected the name of a Secret");
    }
}

pub fn certificate(spec: &CertificateSpec, faults: &mut Faults) {
    if spec.secret_name.is_empty() {
        faults.error("spec.secretName", "is empty, expected the name of a Secret");
    }
    if spec.issuer_ref.name.is_empty() {
        faults.error("spec.issuerRef.name", "is empty, expected the name of an issuer");
    }
    let names = [&spec.dns_names, &spec.ip_addresses, &spec.uris, &spec.email_addresses];
    if spec.common_name.is_none() && names.iter().all(|names| names.is_empty()) && spec.subject.is_none() {
        faults.error("spec", "has no commonName, dnsNames, ipAddresses, uris or emailAddresses, expected one of them");
    }
    for (index, address) in spec.ip_addresses.iter().enumerate() {
        if address.parse::<IpAddr>().is_err() {
            faults.error(format_args!("spec.ipAddresses[{index}]"), format!("{} is no IP address", Quoted(address)));
        }
    }
    if let Some(key) = &spec.private_key {
        let algorithm = &key.algorithm;
        let path = "spec.privateKey.algorithm";
        faults.known(path, algorithm.as_str(), algorithm.is_known(), PrivateKeyAlgorithm::KNOWN);
        if let Some(policy) = &key.rotation_policy {
            let path = "spec.privateKey.rotationPolicy";
            faults.known(path, policy.as_str(), policy.is_known(), RotationPolicy::KNOWN);
        }
        let sizes: &[u32] = match algorithm {
            PrivateKeyAlgorithm::Rsa => &[2048, 3072, 4096, 8192],
            PrivateKeyAlgorithm::Ecdsa => &[256, 384, 521],
            _ => &[],
        };
        if let Some(size) = key.size.filter(|size| !sizes.is_empty() && !sizes.contains(size)) {
            faults
                .error("spec.privateKey.size", format!("{size} is no size for {algorithm}, expected one of {sizes:?}"));
        }
    }
    if let (Some(duration), Some(before)) = (spec.duration, spec.renew_before)
        && before >= duration
    {
        faults.error("spec.renewBefore", "is not shorter than duration");
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

pub fn client_traffic_policy(spec: &ClientTrafficPolicySpec, faults: &mut Faults) {
    let hops = spec.client_ip_detection.as_ref().and_then(|detection| detection.x_forwarded_for.as_ref());
    if hops.and_then(|hops| hops.num_trusted_hops).is_some_and(|hops| hops > 16) {
        let path = "spec.clientIPDetection.xForwardedFor.numTrustedHops";
        faults.error(path, "is out of range, expected 0 to 16");
    }
    if let Some(action) = spec.path.as_ref().and_then(|path| path.escaped_slashes_action.as_ref()) {
        let path = "spec.path.escapedSlashesAction";
        faults.known(path, action.as_str(), action.is_known(), EscapedSlashesAction::KNOWN);
    }
}

pub fn backend_traffic_policy(spec: &BackendTrafficPolicySpec, faults: &mut Faults) {
    if let Some(proxy) = &spec.proxy_protocol {
        let version = &proxy.version;
        let path = "spec.proxyProtocol.version";
        faults.known(path, version.as_str(), version.is_known(), BackendProxyVersion::KNOWN);
    }
    let Some(balancer) = &spec.load_balancer else { return };
    let kind = &balancer.kind;
    faults.known("spec.loadBalancer.type", kind.as_str(), kind.is_known(), LoadBalancerType::KNOWN);
    if matches!(
        kind,
        LoadBalancerType::ConsistentHash | LoadBalancerType::BackendUtilization | LoadBalancerType::DynamicModule
    ) {
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
}
