//! `tls.clientValidation` and `headers.xForwardedClientCert` of a ClientTrafficPolicy: whose certificates let clients in,
//! and what endpoints are told of them. Whatever cannot be honoured spoils the policy: to demand less than it says would
//! let in somebody whom nobody wanted.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::compile::context::{Context, Fault};
use crate::compile::policies::invalid;
use crate::compile::tls::{CaReasons, FoundCas, find_cas, holder};
use crate::compile::traffic::text_match;
use crate::core::RevocationLists;
use crate::envoy::{
    ClientCertDetail, ClientCertForwarding, ClientCertValidation, ClientValidationType, OtherNameMatch, RevocationList,
    StringMatch, StringMatchType, SubjectAltNameMatches, XForwardedClientCert,
};
use crate::gateway::SecretRef;
use crate::names::{Kind, ObjectKey};
use crate::policy::{
    CertificateDemands, CertificateDetails, CertificateField, NameDemand, NameKind, Revocation, Sha256, TextMatch,
};
use crate::snapshot::{ClientValidation, TrustId};

/// Who is let in.
#[derive(Debug, Clone)]
pub(super) struct Validation {
    mode: ClientValidationType,
    pub cas: FoundCas,
    pub demands: Option<Arc<CertificateDemands>>,
}

impl Validation {
    pub fn wish(&self, trust: TrustId) -> ClientValidation {
        match self.mode {
            ClientValidationType::Request => ClientValidation::Requested { trust },
            ClientValidationType::RequireAny => ClientValidation::Any { trust },
            ClientValidationType::VerifyIfGiven => ClientValidation::IfGiven { trust },
            ClientValidationType::RequireAndVerify | ClientValidationType::Other(_) => {
                ClientValidation::Required { trust }
            }
        }
    }
}

pub(super) fn validation(
    context: &Context<'_>,
    policy: &ObjectKey,
    spec: &ClientCertValidation,
) -> Result<Validation, Fault> {
    let mode = match (&spec.mode, spec.optional) {
        (Some(mode), _) => mode.clone(),
        (None, Some(true)) => ClientValidationType::VerifyIfGiven,
        (None, _) => ClientValidationType::RequireAndVerify,
    };
    let verifies = match mode {
        ClientValidationType::Request | ClientValidationType::RequireAny => false,
        ClientValidationType::VerifyIfGiven | ClientValidationType::RequireAndVerify => true,
        ClientValidationType::Other(other) => {
            return Err(bad(format!("mode {other:?}, expected one of {}", ClientValidationType::KNOWN.join(", "))));
        }
    };
    let home = &*policy.namespace;
    let references = spec.ca_certificate_refs.iter().map(|reference| parts(reference, home));
    let reasons = CaReasons { kind: "Invalid", reference: "Invalid" };
    let (cas, fault) = find_cas(context, (Kind::ClientTrafficPolicy, home), references, &reasons);
    if let Some(Fault { reason, message }) = fault {
        return Err(Fault::new(reason, format!("{PLACE}caCertificateRefs: {message}")));
    }
    if verifies && cas.certificates.is_empty() {
        return Err(bad(format!("mode {mode} needs caCertificateRefs, which are missing")));
    }
    let revocation = spec.crl.as_ref().map(|crl| revocation(context, home, crl)).transpose()?;
    let demands = CertificateDemands {
        certificates: hashes("certificateHashes", &spec.certificate_hashes, from_hex, "64 hexadecimal digits")?,
        keys: hashes("spkiHashes", &spec.spki_hashes, from_base64, "32 bytes in base64")?,
        names: spec.subject_alt_names.as_ref().map(names).transpose().map_err(bad)?.unwrap_or_default(),
        revocation,
        allows_expired: spec.allow_expired_certificate == Some(true),
    };
    match demands.or_none() {
        // With these modes a certificate that does not meet them comes in all the same.
        Some(demands) if !verifies => Err(bad(unverified(&mode, &demands))),
        demands => Ok(Validation { mode, cas, demands }),
    }
}

const PLACE: &str = "tls.clientValidation.";

fn bad(why: String) -> Fault {
    invalid(format!("{PLACE}{why}"))
}

/// Names what a mode that verifies nothing leaves without effect.
fn unverified(mode: &ClientValidationType, demands: &CertificateDemands) -> String {
    let named = [
        ("certificateHashes", !demands.certificates.is_empty()),
        ("spkiHashes", !demands.keys.is_empty()),
        ("subjectAltNames", !demands.names.is_empty()),
        ("crl", demands.revocation.is_some()),
        ("allowExpiredCertificate", demands.allows_expired),
    ];
    let named: Vec<&str> = named.iter().filter(|(_, is_there)| *is_there).map(|(name, _)| *name).collect();
    format!("mode {mode} verifies nothing, so {} would keep nobody out", named.join(", "))
}

/// Group, kind, namespace, name.
fn parts<'r>(reference: &'r SecretRef, home: &'r str) -> (&'r str, &'r str, &'r str, &'r str) {
    (&reference.group, &reference.kind, reference.namespace.as_deref().unwrap_or(home), &reference.name)
}

fn revocation(context: &Context<'_>, home: &str, spec: &RevocationList) -> Result<Revocation, Fault> {
    let mut found = Revocation {
        source: String::new(),
        lists: Vec::new(),
        leaf_only: spec.only_verify_leaf_certificate == Some(true),
    };
    for reference in &spec.refs {
        let (group, kind, namespace, name) = parts(reference, home);
        let whole = ("revocation list", group, kind, namespace, name);
        let object = holder(context, (Kind::ClientTrafficPolicy, home), whole, "Invalid")
            .map_err(|fault| Fault::new(fault.reason, format!("{PLACE}crl.refs: {}", fault.message)))?;
        let inputs = context.inputs;
        let lists = match object.kind {
            Kind::ConfigMap => inputs.config_maps.get(&object.key).map(|found| found.spec.crl.as_ref()),
            _ => inputs.secrets.get(&object.key).map(|found| found.spec.crl.as_ref()),
        };
        let wrong = |why: String| bad(format!("crl.refs: {why}"));
        match lists {
            None => return Err(wrong(context.missing(object.kind, &object.key))),
            Some(None) => return Err(wrong(format!("{object} has no ca.crl"))),
            Some(Some(RevocationLists(Err(why)))) => return Err(wrong(format!("{object}: {why}"))),
            Some(Some(RevocationLists(Ok(lists)))) => found.lists.extend_from_slice(lists),
        }
        if !found.source.is_empty() {
            found.source.push_str(", ");
        }
        found.source.push_str(&object.to_string());
    }
    if found.lists.is_empty() {
        return Err(bad("crl.refs is empty, expected a ConfigMap or a Secret".to_owned()));
    }
    Ok(found)
}

fn hashes(
    field: &str,
    texts: &[String],
    read: fn(&str) -> Option<[u8; 32]>,
    expected: &str,
) -> Result<Vec<Sha256>, Fault> {
    let one = |(place, text): (usize, &String)| {
        let wrong = || bad(format!("{field}[{place}]: {text:?} is no SHA-256 digest, expected {expected}"));
        read(text).map(Sha256).ok_or_else(wrong)
    };
    texts.iter().enumerate().map(one).collect()
}

/// Also with a colon after each byte, as openssl prints it.
fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = match text.len() {
        64 => text.bytes().collect(),
        95 if text.bytes().skip(2).step_by(3).all(|byte| byte == b':') => {
            text.bytes().enumerate().filter(|(place, _)| place % 3 != 2).map(|(_, byte)| byte).collect()
        }
        _ => return None,
    };
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        let (high, low) = (digit(*pair.first()?)?, digit(*pair.last()?)?);
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    Some(bytes)
}

fn from_base64(text: &str) -> Option<[u8; 32]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

fn names(spec: &SubjectAltNameMatches) -> Result<Vec<NameDemand>, String> {
    let mut found = Vec::new();
    for (field, kind, list) in [
        ("dnsNames", NameKind::Dns, &spec.dns_names),
        ("emailAddresses", NameKind::Email, &spec.email_addresses),
        ("ipAddresses", NameKind::Ip, &spec.ip_addresses),
        ("uris", NameKind::Uri, &spec.uris),
    ] {
        for (place, entry) in list.iter().enumerate() {
            let text = name(&kind, entry).map_err(|why| format!("subjectAltNames.{field}[{place}]: {why}"))?;
            found.push(NameDemand { kind: kind.clone(), text });
        }
    }
    for (place, OtherNameMatch { oid, kind, value }) in spec.other_names.iter().enumerate() {
        let wrong = |why: String| format!("subjectAltNames.otherNames[{place}]: {why}");
        let is_oid = oid.contains('.') && oid.split('.').all(|part| part.parse::<u64>().is_ok());
        if !is_oid {
            return Err(wrong(format!("oid {oid:?} is no object identifier, expected one as 1.3.6.1.4.1.311.20.2.3")));
        }
        let entry = StringMatch { kind: kind.clone(), value: value.clone() };
        found.push(NameDemand { kind: NameKind::Other(oid.as_str().into()), text: text_match(&entry).map_err(wrong)? });
    }
    if found.is_empty() {
        return Err("subjectAltNames is empty, expected names".to_owned());
    }
    Ok(found)
}

/// Names of hosts have no case, and an address is written in one way only.
fn name(kind: &NameKind, spec: &StringMatch) -> Result<TextMatch, String> {
    match (kind, &spec.kind) {
        (NameKind::Dns, Some(StringMatchType::RegularExpression)) => {
            text_match(&StringMatch { kind: spec.kind.clone(), value: format!("(?i:{})", spec.value) })
        }
        (NameKind::Dns, _) => {
            text_match(&StringMatch { kind: spec.kind.clone(), value: spec.value.to_ascii_lowercase() })
        }
        (NameKind::Ip, None | Some(StringMatchType::Exact)) => match spec.value.parse::<std::net::IpAddr>() {
            Ok(address) => Ok(TextMatch::Exact(address.to_string().into())),
            Err(_) => Err(format!("{:?} is no IP address", spec.value)),
        },
        _ => text_match(spec),
    }
}

/// `None`: the field is removed.
pub(super) fn certificate_field(spec: &XForwardedClientCert) -> Result<Option<CertificateField>, String> {
    const PLACE: &str = "headers.xForwardedClientCert.";
    let mut details = CertificateDetails::default();
    for detail in &spec.cert_details_to_add {
        match detail {
            ClientCertDetail::Subject => details.subject = true,
            ClientCertDetail::Cert => details.certificate = true,
            ClientCertDetail::Chain => details.chain = true,
            ClientCertDetail::Dns => details.dns = true,
            ClientCertDetail::Uri => details.uri = true,
            ClientCertDetail::Other(other) => {
                let known = ClientCertDetail::KNOWN.join(", ");
                return Err(format!("{PLACE}certDetailsToAdd: {other:?}, expected one of {known}"));
            }
        }
    }
    let field = match spec.mode.as_ref().unwrap_or(&ClientCertForwarding::Sanitize) {
        ClientCertForwarding::Sanitize => None,
        ClientCertForwarding::ForwardOnly => Some(CertificateField::Forward),
        ClientCertForwarding::AppendForward => Some(CertificateField::Append(details)),
        ClientCertForwarding::SanitizeSet => Some(CertificateField::Set(details)),
        ClientCertForwarding::AlwaysForwardOnly => Some(CertificateField::Always),
        ClientCertForwarding::Other(other) => {
            return Err(format!("{PLACE}mode {other:?}, expected one of {}", ClientCertForwarding::KNOWN.join(", ")));
        }
    };
    if !spec.cert_details_to_add.is_empty() && field.and_then(CertificateField::details).is_none() {
        return Err(format!("{PLACE}certDetailsToAdd belongs to modes AppendForward and SanitizeSet only"));
    }
    Ok(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests() {
        let bytes = [0xab; 32];
        let (plain, colons) = ("aB".repeat(32), vec!["AB"; 32].join(":"));
        assert_eq!((from_hex(&plain), from_hex(&colons)), (Some(bytes), Some(bytes)));
        for wrong in ["", "ab", &plain[1..], &"zz".repeat(32), &colons.replace(':', "-"), &"é".repeat(32)] {
            assert_eq!(from_hex(wrong), None, "{wrong}");
        }
        assert_eq!(from_base64(&STANDARD.encode(bytes)), Some(bytes));
        for wrong in ["", "AAAA", "*", &STANDARD.encode([1; 33])] {
            assert_eq!(from_base64(wrong), None, "{wrong}");
        }
    }
}
