//! The certificate that answers a tls-alpn-01 challenge (RFC 8737 §3): self-signed, for one identifier, with the digest of
//! the key authorization in a critical extension. Nobody but the CA is ever shown it.
//!
//! In: a challenge. Out: DER, and the server name under which the CA asks for it. No I/O, no clock: its times say nothing.

use std::fmt::Write as _;
use std::net::IpAddr;

use aws_lc_rs::digest;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair, SanType};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::challenge::{Challenge, Identifier};

/// The protocol of RFC 8737 §6.2; it is spoken with the CA alone.
pub const PROTOCOL: &[u8] = b"acme-tls/1";

#[derive(Debug, thiserror::Error)]
pub enum AlpnError {
    #[error("certificate for the challenge of {identifier}: {source}")]
    Make { identifier: Identifier, source: rcgen::Error },
}

/// What is shown in the handshake.
pub struct ChallengeCertificate {
    pub certificate: CertificateDer<'static>,
    pub key: PrivateKeyDer<'static>,
}

/// Makes the certificate for a challenge, with a key of its own.
pub fn certificate(challenge: &Challenge) -> Result<ChallengeCertificate, AlpnError> {
    let fail = |source| AlpnError::Make { identifier: challenge.identifier.clone(), source };
    let mut params = CertificateParams::default();
    // §3: "a subjectAltName extension containing the domain name being validated and no other entries".
    params.subject_alt_names = vec![match &challenge.identifier {
        Identifier::Dns(name) => SanType::DnsName(name.to_string().try_into().map_err(fail)?),
        // RFC 8738 §6: an iPAddress.
        Identifier::Ip(address) => SanType::IpAddress(*address),
    }];
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "ACME challenge");
    params.distinguished_name = name;
    let digest = digest::digest(&digest::SHA256, challenge.key_authorization.as_bytes());
    // Critical, as §3 wants it: rcgen marks it so.
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest.as_ref())];
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(fail)?;
    let certificate = params.self_signed(&key).map_err(fail)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(ChallengeCertificate { certificate: certificate.der().clone(), key })
}

/// The server name of the CA's handshake: the domain name, or the name of the address in the reverse tree (RFC 8738 §6).
pub fn server_name(identifier: &Identifier) -> Box<str> {
    match identifier {
        Identifier::Dns(name) => name.to_ascii_lowercase().into(),
        Identifier::Ip(IpAddr::V4(address)) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa").into()
        }
        Identifier::Ip(IpAddr::V6(address)) => {
            let mut name = String::with_capacity(72);
            for byte in address.octets().iter().rev() {
                // Writing to a String cannot fail.
                let _ = write!(name, "{:x}.{:x}.", byte & 15, byte >> 4);
            }
            name.push_str("ip6.arpa");
            name.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::challenge::ChallengeKind;
    use x509_parser::prelude::{FromDer as _, X509Certificate};

    fn challenge(identifier: Identifier) -> Challenge {
        Challenge {
            identifier,
            wildcard: false,
            kind: ChallengeKind::TlsAlpn01,
            token: "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA".into(),
            key_authorization: "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA.thumb".into(),
        }
    }

    #[test]
    fn it_names_one_identifier_and_the_digest() {
        for identifier in [Identifier::Dns("a.example".into()), Identifier::Ip("192.0.2.1".parse().unwrap())] {
            let challenge = challenge(identifier);
            let made = certificate(&challenge).unwrap();
            let (_, parsed) = X509Certificate::from_der(&made.certificate).unwrap();
            let names = parsed.subject_alternative_name().unwrap().unwrap();
            assert_eq!(names.value.general_names.len(), 1);
            let extension =
                parsed.extensions().iter().find(|one| one.oid.to_id_string() == "1.3.6.1.5.5.7.1.31").unwrap();
            let digest = digest::digest(&digest::SHA256, challenge.key_authorization.as_bytes());
            // DER: OCTET STRING of 32 bytes.
            assert!(extension.critical);
            assert_eq!(extension.value, [&[4, 32], digest.as_ref()].concat());
        }
    }

    #[test]
    fn addresses_are_asked_for_by_their_reverse_names() {
        for (identifier, expected) in [
            (Identifier::Dns("A.example".into()), "a.example"),
            (Identifier::Ip("192.0.2.1".parse().unwrap()), "1.2.0.192.in-addr.arpa"),
            (
                Identifier::Ip("2001:db8::7".parse().unwrap()),
                "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa",
            ),
        ] {
            assert_eq!(&*server_name(&identifier), expected);
        }
    }
}
