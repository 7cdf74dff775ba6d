//! The request for a certificate, and the look at what came for it.
//!
//! In: a wish and a key; a chain from a CA that may send anything. Out: a CSR (RFC 2986) with the names and nothing
//! that CAs refuse (no must-staple); facts of a certificate that answers the wish, or why it does not.

use std::collections::BTreeSet;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData as _, SanType};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::OrderWish;
use crate::due::Validity;
use crate::local::{LocalError, read_key, to_pem, validity_of};

/// Longer chains are refused by clients.
const LONGEST_CHAIN: usize = 10;
/// A certificate that begins this much later than now comes from a CA whose clock, or ours, is wrong; it is not yet
/// useless.
const AHEAD: i64 = 86_400;

/// DER.
pub(super) fn request(wish: &OrderWish, key: &KeyPair) -> Result<Vec<u8>, LocalError> {
    let mut params = CertificateParams::default();
    for name in &wish.dns_names {
        params.subject_alt_names.push(SanType::DnsName(name.to_string().try_into()?));
    }
    params.subject_alt_names.extend(wish.addresses.iter().copied().map(SanType::IpAddress));
    params.distinguished_name = DistinguishedName::new();
    if let Some(name) = wish.common_name.as_deref().filter(|name| name.len() <= 64)
        && wish.dns_names.iter().any(|one| **one == *name)
    {
        // CAs take no other name in the subject than those that they validate (RFC 8555 §7.4).
        params.distinguished_name.push(DnType::CommonName, name);
    }
    Ok(params.serialize_request(key)?.der().to_vec())
}

/// What is wrong with a chain.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It can be fetched again.
    Garbage(String),
    /// It will be the same next time.
    Certificate(String),
}

#[derive(Debug)]
pub(super) struct Answered {
    /// Written anew: without text around the blocks.
    pub chain_pem: String,
    pub validity: Validity,
    pub ari_id: Option<Box<str>>,
    pub issuer: Box<str>,
    /// Common names of subjects and issuers, for the choice of a chain.
    pub common_names: BTreeSet<String>,
    /// It begins in the future by our clock.
    pub is_early: bool,
}

pub(super) fn look(chain: &[u8], wish: &OrderWish, key_pem: &str, now: i64) -> Result<Answered, Wrong> {
    let garbage = |what: &dyn std::fmt::Display| Wrong::Garbage(format!("the CA sent no certificate: {what}"));
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(chain).take(LONGEST_CHAIN + 1) {
        certificates.push(certificate.map_err(|error| garbage(&error))?);
    }
    if certificates.len() > LONGEST_CHAIN {
        return Err(Wrong::Certificate(format!("the chain has more than {LONGEST_CHAIN} certificates")));
    }
    let mut parsed = Vec::new();
    for der in &certificates {
        // Whole blocks: what is in them is what the CA has.
        let none = || Wrong::Certificate("the CA sent blocks of PEM with no certificate in them".to_owned());
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| none())?;
        if !rest.is_empty() {
            return Err(none());
        }
        parsed.push(certificate);
    }
    let leaf = parsed.first().ok_or_else(|| garbage(&"no PEM block CERTIFICATE"))?;
    let wrong =
        |what: String| Wrong::Certificate(format!("the CA sent another certificate than was asked for: {what}"));

    let key = read_key(key_pem).map_err(|error| Wrong::Certificate(error.to_string()))?;
    if *key.der_bytes() != *leaf.public_key().subject_public_key.data {
        return Err(wrong("it is for another key".into()));
    }
    if leaf.is_ca() {
        return Err(wrong("it is a CA's".into()));
    }
    let (names, addresses) = names(leaf).map_err(wrong)?;
    let wanted: BTreeSet<String> = wish.dns_names.iter().map(|name| name.to_ascii_lowercase()).collect();
    let wanted_addresses: BTreeSet<IpAddr> = wish.addresses.iter().copied().collect();
    if names != wanted || addresses != wanted_addresses {
        let all = names.into_iter().chain(addresses.iter().map(IpAddr::to_string));
        return Err(wrong(format!("its names are {:?}", all.take(20).collect::<Vec<_>>())));
    }
    for (place, pair) in parsed.windows(2).enumerate() {
        let [below, above] = pair else { continue };
        if below.issuer().as_raw() != above.subject().as_raw() || !keys_agree(below, above) {
            return Err(Wrong::Certificate(format!(
                "the chain is broken: its certificate {}, of {}, is not the issuer of the one before",
                place + 2,
                above.subject()
            )));
        }
    }
    let validity = validity_of(leaf);
    if validity.not_after <= now || validity.lifetime() < 1 {
        return Err(Wrong::Certificate(format!(
            "the certificate ended at {}; is the clock right?",
            crate::plan::Timestamp(validity.not_after)
        )));
    }
    if validity.not_before > now.saturating_add(AHEAD) {
        return Err(Wrong::Certificate(format!(
            "the certificate begins at {}; is the clock right?",
            crate::plan::Timestamp(validity.not_before)
        )));
    }
    let common_names = parsed
        .iter()
        .flat_map(|one| one.issuer().iter_common_name().chain(one.subject().iter_common_name()))
        .filter_map(|name| name.as_str().ok().map(str::to_owned))
        .collect();
    Ok(Answered {
        chain_pem: certificates.iter().map(|der| to_pem(der)).collect(),
        validity,
        ari_id: ari_id(leaf),
        issuer: leaf.issuer().to_string().into(),
        common_names,
        is_early: validity.not_before > now,
    })
}

fn names(leaf: &X509Certificate<'_>) -> Result<(BTreeSet<String>, BTreeSet<IpAddr>), String> {
    let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    let found = leaf.subject_alternative_name().map_err(|error| error.to_string())?;
    for name in found.iter().flat_map(|found| &found.value.general_names) {
        match name {
            GeneralName::DNSName(name) => {
                names.insert(name.to_ascii_lowercase());
            }
            GeneralName::IPAddress(bytes) => {
                let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                addresses.insert(address.map_err(|_| "an address of odd length".to_owned())?);
            }
            other => return Err(format!("it has the name {other:?}")),
        }
    }
    Ok((names, addresses))
}

/// What identifies the first certificate of a chain to renewal information (RFC 9773 §4.1): its issuer's key identifier
/// and its serial number. `None` where it cannot be identified so.
pub fn certificate_id(chain_pem: &str) -> Option<Box<str>> {
    let leaf = CertificateDer::from_pem_slice(chain_pem.as_bytes()).ok()?;
    ari_id(&X509Certificate::from_der(&leaf).ok()?.1)
}

/// RFC 5280 §4.2.1.1: CAs of one name are told apart by their keys, where both certificates say which.
fn keys_agree(below: &X509Certificate<'_>, above: &X509Certificate<'_>) -> bool {
    let own = above.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    });
    authority_key(below).zip(own).is_none_or(|(named, own)| named == own)
}

fn authority_key<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(authority) => authority.key_identifier.as_ref().map(|id| id.0),
        _ => None,
    })
}

fn ari_id(leaf: &X509Certificate<'_>) -> Option<Box<str>> {
    let authority = authority_key(leaf)?;
    Some(format!("{}.{}", URL_SAFE_NO_PAD.encode(authority), URL_SAFE_NO_PAD.encode(leaf.raw_serial())).into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use edge_config::snapshot::KeyAlgorithm;

    use super::*;
    use crate::local::{Made, Order, OrderKey, Signer, internal_ca, new_key, signed_by};

    const NOW: i64 = 1_790_000_000;

    fn wish(names: &[&str]) -> OrderWish {
        OrderWish {
            dns_names: names.iter().map(|name| (*name).into()).collect(),
            addresses: Vec::new(),
            common_name: None,
            key: KeyAlgorithm::EcdsaP256,
            keep_key: None,
            profile: None,
            replaces: None,
            labels: Vec::new(),
            patience: super::super::PATIENCE,
        }
    }

    fn made(names: &[Box<str>], key: &str, now: i64) -> Made {
        let ca = internal_ca("CA of the test", Duration::from_secs(90 * 86_400 * 4), now).unwrap();
        let signer = Signer::from_pem(&ca.chain_pem, &ca.key_pem).unwrap();
        let key = OrderKey::Keep(key);
        let duration = Duration::from_secs(90 * 86_400);
        let order = Order { dns_names: names, addresses: &[], common_name: None, is_ca: false, key, duration, now };
        signed_by(&order, &signer).unwrap()
    }

    #[test]
    fn the_example_of_rfc_9773() {
        // Appendix A.
        let pem = "-----BEGIN CERTIFICATE-----\n\
            MIIBQzCB66ADAgECAgUAh2VDITAKBggqhkjOPQQDAjAVMRMwEQYDVQQDEwpFeGFt\n\
            cGxlIENBMCIYDzAwMDEwMTAxMDAwMDAwWhgPMDAwMTAxMDEwMDAwMDBaMBYxFDAS\n\
            BgNVBAMTC2V4YW1wbGUuY29tMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEeBZu\n\
            7cbpAYNXZLbbh8rNIzuOoqOOtmxA1v7cRm//AwyMwWxyHz4zfwmBhcSrf47NUAFf\n\
            qzLQ2PPQxdTXREYEnKMjMCEwHwYDVR0jBBgwFoAUaYhba4dGQEHhs3uEe6CuLN4B\n\
            yNQwCgYIKoZIzj0EAwIDRwAwRAIge09+S5TZAlw5tgtiVvuERV6cT4mfutXIlwTb\n\
            +FYN/8oCIClDsqBklhB9KAelFiYt9+6FDj3z4KGVelYM5MdsO3pK\n\
            -----END CERTIFICATE-----\n";
        assert_eq!(certificate_id(pem).as_deref(), Some("aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"));
        assert_eq!(certificate_id("nothing"), None);
    }

    #[test]
    fn only_the_certificate_that_was_asked_for_is_taken() {
        let key = new_key(KeyAlgorithm::EcdsaP256).unwrap().serialize_pem();
        let other = new_key(KeyAlgorithm::EcdsaP256).unwrap().serialize_pem();
        let wish = wish(&["a.example.com", "*.b.example.com"]);
        let good = made(&wish.dns_names, &key, NOW).chain_pem;
        let found = look(format!("text\n{good}").as_bytes(), &wish, &key, NOW).unwrap();
        assert_eq!(found.chain_pem, good);
        assert!(found.common_names.contains("CA of the test") && found.ari_id.is_some() && !found.is_early);

        // Each `made` has a CA of its own, all of one name.
        let other_ca = internal_ca("CA of the test", Duration::from_secs(90 * 86_400), NOW).unwrap().chain_pem;
        let cases: [(&str, String, &str); 6] = [
            ("other key", made(&wish.dns_names, &other, NOW).chain_pem, "another key"),
            ("fewer names", made(&wish.dns_names[..1], &key, NOW).chain_pem, "its names are"),
            ("ended", made(&wish.dns_names, &key, NOW - 100 * 86_400).chain_pem, "ended at"),
            ("begins later", made(&wish.dns_names, &key, NOW + 3 * 86_400).chain_pem, "begins at"),
            ("broken chain", format!("{good}{}", made(&wish.dns_names, &other, NOW).chain_pem), "chain is broken"),
            ("a CA of the same name", format!("{good}{other_ca}"), "chain is broken"),
        ];
        for (case, chain, expected) in cases {
            match look(chain.as_bytes(), &wish, &key, NOW).unwrap_err() {
                Wrong::Certificate(why) => assert!(why.contains(expected), "{case}: {why}"),
                Wrong::Garbage(why) => panic!("{case}: {why}"),
            }
        }
        let cut = &good[..good.len() / 2];
        let empty = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(look(empty.as_bytes(), &wish, &key, NOW), Err(Wrong::Certificate(_))));
        for garbage in ["", "<html>", cut] {
            let found = look(garbage.as_bytes(), &wish, &key, NOW).unwrap_err();
            assert!(matches!(found, Wrong::Garbage(_)), "{garbage:?}: {found:?}");
        }
    }

    #[test]
    fn requests_have_the_names_and_no_subject_unless_asked() {
        use x509_parser::certification_request::X509CertificationRequest;
        let key = new_key(KeyAlgorithm::EcdsaP384).unwrap();
        let mut wish = wish(&["a.example.com"]);
        wish.addresses = vec!["2001:db8::1".parse().unwrap()];
        for (asked, expected) in [(None, ""), (Some("a.example.com"), "CN=a.example.com"), (Some("b.example.com"), "")]
        {
            wish.common_name = asked.map(Into::into);
            let der = request(&wish, &key).unwrap();
            let (_, parsed) = X509CertificationRequest::from_der(&der).unwrap();
            assert_eq!(parsed.certification_request_info.subject.to_string(), expected);
            let extensions: Vec<_> = parsed.requested_extensions().unwrap().collect();
            assert!(
                matches!(extensions.as_slice(), [ParsedExtension::SubjectAlternativeName(san)] if san.general_names.len() == 2)
            );
        }
    }
}
