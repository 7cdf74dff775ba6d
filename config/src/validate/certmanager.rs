//! cert-manager's kinds: what its webhook would refuse is an error; what Edge cannot do is a part that is not in effect.

use std::net::IpAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::Faults;
use super::text::is_hostname;
use crate::certmanager::{
    AcmeIssuerSpec, CertificateSpec, CloudflareSpec, CnameStrategy, Dns01Spec, IssuerSpec, PrivateKeyAlgorithm,
    Rfc2136Spec, RotationPolicy, SecretKeySelector, SolverSelector, SolverSpec,
};
use crate::issuer::{ServerAddress, TsigAlgorithm, UrlHost};
use crate::yaml::Quoted;

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
    if let Some(acme) = &spec.acme {
        acme_issuer(acme, faults);
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
    if let Some(percentage) = spec.renew_before_percentage {
        if !(1..=99).contains(&percentage) {
            let message = format!("{percentage} is out of range, expected 1 to 99");
            faults.error("spec.renewBeforePercentage", message);
        }
        if spec.renew_before.is_some() {
            faults.error("spec", "has both renewBefore and renewBeforePercentage, expected one of them");
        }
    }
}

/// An address as ACME contacts have it, without its scheme; RFC 8555 §7.3 allows one recipient and no header fields.
pub fn is_email(text: &str) -> bool {
    let is_plain =
        text.len() <= 254 && text.bytes().all(|byte| byte.is_ascii_graphic() && !b",?\"\\<>()[]:;".contains(&byte));
    let parts = text.split_once('@');
    is_plain
        && parts.is_some_and(|(local, domain)| !local.is_empty() && is_hostname(&domain.to_ascii_lowercase(), false))
}

/// What PEM certificates look like from outside; the certificates themselves are judged by who uses them.
pub fn ca_bundle(text: &str) -> Result<Vec<u8>, &'static str> {
    let packed: String = text.split_ascii_whitespace().collect();
    let bytes = BASE64_STANDARD.decode(packed).map_err(|_| "is not base64")?;
    let begin = b"-----BEGIN CERTIFICATE-----";
    match bytes.windows(begin.len()).any(|window| window == begin) {
        true => Ok(bytes),
        false => Err("holds no PEM certificate"),
    }
}

/// cert-manager's words for TSIG algorithms; HMACMD5 is its default.
pub fn tsig_algorithm(text: Option<&str>) -> Result<TsigAlgorithm, String> {
    const EXPECTED: &str = "expected HMACSHA256, HMACSHA384 or HMACSHA512";
    let word: String = text.unwrap_or("HMACMD5").to_ascii_uppercase().chars().filter(|c| *c != '-').collect();
    match word.as_str() {
        "HMACSHA256" => Ok(TsigAlgorithm::HmacSha256),
        "HMACSHA384" => Ok(TsigAlgorithm::HmacSha384),
        "HMACSHA512" => Ok(TsigAlgorithm::HmacSha512),
        "HMACMD5" if text.is_none() => Err(format!("is missing, which means HMACMD5 and is not supported, {EXPECTED}")),
        _ => Err(format!("{} is not supported, {EXPECTED}", Quoted(text.unwrap_or_default()))),
    }
}

fn acme_issuer(spec: &AcmeIssuerSpec, faults: &mut Faults) {
    let path = "spec.acme";
    if spec.server.is_empty() {
        faults.error(format_args!("{path}.server"), "is empty, expected the URL of a directory");
    } else if let Err(why) = UrlHost::directory(&spec.server) {
        faults.error(format_args!("{path}.server"), format!("{} {why}", Quoted(&spec.server)));
    }
    if let Some(email) = spec.email.as_deref().filter(|email| !email.is_empty() && !is_email(email)) {
        let message = format!("{} is no e-mail address; the account has no contact", Quoted(email));
        faults.part(format_args!("{path}.email"), message);
    }
    if spec.private_key_secret_ref.name.is_empty() {
        faults.error(format_args!("{path}.privateKeySecretRef.name"), "is empty, expected the name of a Secret");
    }
    if let Some(Err(why)) = spec.ca_bundle.as_deref().map(ca_bundle) {
        faults.error(format_args!("{path}.caBundle"), why);
    }
    if spec.ca_bundle.is_some() && spec.skip_tls_verify {
        faults.error(path, "has both caBundle and skipTLSVerify, expected one of them");
    }
    if spec.skip_tls_verify && UrlHost::parse(&spec.server).is_ok_and(|url| url.is_public()) {
        let message = "is not in effect for a public CA: whoever is in between could answer instead";
        faults.part(format_args!("{path}.skipTLSVerify"), message);
    }
    if let Some(binding) = &spec.external_account_binding {
        let path = format!("{path}.externalAccountBinding");
        if binding.key_id.is_empty() {
            faults.error(format_args!("{path}.keyID"), "is empty, expected the identifier that the CA gave");
        }
        secret(faults, &format!("{path}.keySecretRef"), Some(&binding.key_secret_ref));
    }
    if spec.solvers.is_empty() {
        faults.part(format_args!("{path}.solvers"), "is empty, expected at least one; the issuer can issue nothing");
    }
    for (index, entry) in spec.solvers.iter().enumerate() {
        solver(entry, &format!("{path}.solvers[{index}]"), faults);
    }
}

fn solver(solver: &SolverSpec, path: &str, faults: &mut Faults) {
    if let Some(SolverSelector { dns_names, dns_zones, .. }) = &solver.selector {
        for (member, texts, wildcard) in [("dnsNames", dns_names, true), ("dnsZones", dns_zones, false)] {
            for (index, text) in texts.iter().enumerate() {
                let name = text.strip_suffix('.').unwrap_or(text);
                if !is_hostname(&name.to_ascii_lowercase(), wildcard) {
                    let message = format!("{} is no DNS name, so it selects nothing", Quoted(text));
                    faults.part(format_args!("{path}.selector.{member}[{index}]"), message);
                }
            }
        }
    }
    match (&solver.http01, &solver.dns01) {
        (Some(http), None) => {
            if http.ingress.is_some() == http.gateway_http_route.is_some() {
                faults.error(format_args!("{path}.http01"), "expected exactly one of ingress and gatewayHTTPRoute");
            }
        }
        (None, Some(dns)) => dns01(dns, &format!("{path}.dns01"), faults),
        _ => faults.error(path, "expected exactly one of http01 and dns01"),
    }
}

fn dns01(spec: &Dns01Spec, path: &str, faults: &mut Faults) {
    if let Some(strategy) = &spec.cname_strategy {
        let path = format!("{path}.cnameStrategy");
        faults.known(path, strategy.as_str(), strategy.is_known(), CnameStrategy::KNOWN);
    }
    let providers: Vec<_> = spec.providers().collect();
    let [(name, is_usable)] = providers[..] else {
        let found = providers.len();
        faults.error(path, format!("has {found} providers, expected exactly one"));
        return;
    };
    if !is_usable {
        let message = "unsupported solver, expected rfc2136, acmeDNS, cloudflare or webhook";
        faults.part(format_args!("{path}.{name}"), message);
    }
    if let Some(spec) = &spec.rfc2136 {
        rfc2136(spec, &format!("{path}.rfc2136"), faults);
    }
    if let Some(spec) = &spec.acme_dns {
        if let Err(why) = UrlHost::parse(&spec.host) {
            faults.error(format_args!("{path}.acmeDNS.host"), format!("{} {why}", Quoted(&spec.host)));
        }
        secret(faults, &format!("{path}.acmeDNS.accountSecretRef"), Some(&spec.account_secret_ref));
    }
    if let Some(spec) = &spec.cloudflare {
        cloudflare(spec, &format!("{path}.cloudflare"), faults);
    }
    if let Some(spec) = &spec.webhook {
        for (member, text) in [("groupName", &spec.group_name), ("solverName", &spec.solver_name)] {
            if text.is_empty() {
                faults.error(format_args!("{path}.webhook.{member}"), "is empty, expected a name");
            }
        }
    }
}

fn rfc2136(spec: &Rfc2136Spec, path: &str, faults: &mut Faults) {
    if let Err(why) = ServerAddress::name_server(&spec.nameserver) {
        faults.error(format_args!("{path}.nameserver"), format!("{} {why}", Quoted(&spec.nameserver)));
    }
    let key_name = spec.tsig_key_name.as_deref().filter(|name| !name.is_empty());
    let secret_ref = spec.tsig_secret_secret_ref.as_ref().filter(|secret| !secret.name.is_empty());
    match (key_name, secret_ref) {
        (None, None) => {}
        (Some(_), Some(reference)) => {
            secret(faults, &format!("{path}.tsigSecretSecretRef"), Some(reference));
            if let Err(why) = tsig_algorithm(spec.tsig_algorithm.as_deref()) {
                faults.part(format_args!("{path}.tsigAlgorithm"), format!("{why}; unsupported solver"));
            }
        }
        _ => faults.error(path, "has one of tsigKeyName and tsigSecretSecretRef, expected both or none"),
    }
}

fn cloudflare(spec: &CloudflareSpec, path: &str, faults: &mut Faults) {
    match (&spec.api_token_secret_ref, &spec.api_key_secret_ref) {
        (Some(token), None) => secret(faults, &format!("{path}.apiTokenSecretRef"), Some(token)),
        (None, Some(_)) => {
            let message = "unsupported solver: a key of the whole account, expected apiTokenSecretRef";
            faults.part(format_args!("{path}.apiKeySecretRef"), message);
        }
        _ => faults.error(path, "expected exactly one of apiTokenSecretRef and apiKeySecretRef"),
    }
}

fn secret(faults: &mut Faults, path: &str, reference: Option<&SecretKeySelector>) {
    let Some(reference) = reference else { return };
    if reference.name.is_empty() {
        faults.error(format_args!("{path}.name"), "is empty, expected the name of a Secret");
    }
    if reference.key.as_deref().unwrap_or_default().is_empty() {
        faults.error(format_args!("{path}.key"), "is missing, expected the key within the Secret");
    }
}
