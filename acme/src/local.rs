//! Makes keys and certificates without a foreign CA: Edge's internal CA, self-signed ones, and what either or a CA of
//! the user signs.
//!
//! In: names, key algorithm, duration, signer, `now`. Out: PEM. Invalid names are errors, never left out silently. Keys
//! leave this module as PEM that is wiped when dropped and are never printed. RFC 5280 is the profile: random serial of
//! 127 bits (§4.1.2.2), subject and authority key identifiers (§4.2.1.1-2), basic constraints and key usage critical
//! (§4.2.1.3, §4.2.1.9), subjectAltName critical without a subject (§4.1.2.6).

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use aws_lc_rs::digest;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge_config::names::{HostPattern, HostnameError};
use edge_config::snapshot::KeyAlgorithm;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, RsaKeySize, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::due::{Validity, seconds};
use crate::plan::KeyId;

/// What is to be made.
#[derive(Debug, Clone)]
pub struct Order<'a> {
    /// Host names in lower case; the first label may be `*`.
    pub dns_names: &'a [Box<str>],
    pub addresses: &'a [IpAddr],
    pub common_name: Option<&'a str>,
    pub is_ca: bool,
    pub key: OrderKey<'a>,
    pub duration: Duration,
    /// Unix seconds.
    pub now: i64,
}

#[derive(Clone, Copy)]
pub enum OrderKey<'a> {
    New(KeyAlgorithm),
    /// PEM of the key that the certificate had before.
    Keep(&'a str),
}

impl fmt::Debug for OrderKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New(algorithm) => write!(f, "New({algorithm:?})"),
            Self::Keep(_) => f.write_str("Keep([redacted])"),
        }
    }
}

/// What was made.
#[derive(Clone)]
pub struct Made {
    /// Leaf first, then the CAs that are not self-signed.
    pub chain_pem: String,
    pub key_pem: Zeroizing<String>,
    pub validity: Validity,
    pub key_id: KeyId,
    /// Of the certificate that signed it; its own when self-signed.
    pub signer: KeyId,
}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Made")
            .field("chain_pem", &self.chain_pem)
            .field("key_pem", &"[redacted]")
            .field("validity", &self.validity)
            .finish()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    #[error("dns name {name:?} {error}")]
    Name { name: String, error: HostnameError },
    #[error("{0} dns names, expected at most {MAX_NAMES}")]
    TooManyNames(usize),
    #[error("has neither dns names nor a common name")]
    Nameless,
    #[error("common name {0:?} is longer than 64 characters (RFC 5280 ub-common-name)")]
    CommonName(String),
    #[error("rsa key of {0} bits, expected 2048, 3072 or 4096")]
    RsaSize(u16),
    #[error("validity leaves the years 1950 to 9999")]
    Time,
    #[error("duration {0:?} is shorter than a second")]
    Duration(Duration),
    #[error("the CA ends at {0}, before the certificate would begin")]
    CaEnded(crate::plan::Timestamp),
    #[error("CA certificate: {0}")]
    CaMalformed(String),
    #[error("the certificate of the CA is no CA certificate (basic constraints)")]
    NotACa,
    #[error("the CA's key usage does not permit signing certificates")]
    KeyUsage,
    #[error("the CA may sign no further CA (path length {0})")]
    PathLength(u32),
    #[error("the CA's private key does not belong to its certificate")]
    KeyMismatch,
    #[error("private key: {0}")]
    Key(String),
    #[error("the CA's subject cannot be repeated as issuer (it has an attribute twice, or several in one set)")]
    Subject,
    #[error("cannot be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// More names than this in one certificate make handshakes that clients refuse.
const MAX_NAMES: usize = 1000;
/// ub-common-name in RFC 5280 appendix A.1.
const MAX_COMMON_NAME: usize = 64;
/// Certificates begin this much in the past, for clients whose clock is behind.
const BACKDATE: i64 = 3600;

/// A CA certificate with its private key, ready to sign.
pub struct Signer {
    issuer: Issuer<'static, KeyPair>,
    subject: Vec<u8>,
    key_id: KeyId,
    validity: Validity,
    /// CAs that may follow below; `None` is any number.
    path_length: Option<u32>,
    /// The CA and what is above it, without self-signed roots, which a client must have anyway.
    chain_pem: String,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("key_id", &self.key_id).field("validity", &self.validity).finish_non_exhaustive()
    }
}

impl Signer {
    /// Reads a CA from PEM: the CA's certificate first, then those above it; a PKCS#8, PKCS#1 or SEC1 key.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, LocalError> {
        let malformed = |error: &dyn fmt::Display| LocalError::CaMalformed(error.to_string());
        let mut certificates = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(chain.as_bytes()).take(16) {
            certificates.push(certificate.map_err(|error| malformed(&error))?);
        }
        let ca = certificates.first().ok_or_else(|| malformed(&"no PEM block CERTIFICATE"))?;
        let (_, parsed) = X509Certificate::from_der(ca).map_err(|error| malformed(&error))?;
        let key = read_key(key)?;
        if *key.der_bytes() != *parsed.public_key().subject_public_key.data {
            return Err(LocalError::KeyMismatch);
        }
        let constraints = parsed.basic_constraints().map_err(|error| malformed(&error))?;
        let constraints = constraints.filter(|found| found.value.ca).ok_or(LocalError::NotACa)?;
        if parsed.key_usage().map_err(|error| malformed(&error))?.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(LocalError::KeyUsage);
        }
        let path_length = constraints.value.path_len_constraint;
        let validity = validity_of(&parsed);
        let subject = parsed.subject().as_raw().to_vec();
        let key_id = key_id_of(&parsed);
        let mut chain_pem = String::new();
        for certificate in &certificates {
            let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| malformed(&error))?;
            if parsed.subject().as_raw() != parsed.issuer().as_raw() {
                chain_pem.push_str(&to_pem(certificate));
            }
        }
        let issuer = Issuer::from_ca_cert_der(ca, key)?;
        Ok(Self { issuer, subject, key_id, validity, path_length, chain_pem })
    }

    pub fn key_id(&self) -> &KeyId {
        &self.key_id
    }

    pub fn validity(&self) -> Validity {
        self.validity
    }
}

/// Edge's own CA: self-signed, ECDSA P-256.
pub fn internal_ca(common_name: &str, duration: Duration, now: i64) -> Result<Made, LocalError> {
    self_signed(&Order {
        dns_names: &[],
        addresses: &[],
        common_name: Some(common_name),
        is_ca: true,
        key: OrderKey::New(KeyAlgorithm::EcdsaP256),
        duration,
        now,
    })
}

/// A certificate that is its own issuer.
pub fn self_signed(order: &Order<'_>) -> Result<Made, LocalError> {
    let key = order_key(order)?;
    let mut params = params(order, &key, i64::MIN, i64::MAX)?;
    if order.is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    if params.distinguished_name.iter().next().is_none() {
        // RFC 5280 §4.1.2.4: the issuer must have a name.
        params.distinguished_name.push(DnType::CommonName, "self-signed");
    }
    let certificate = params.self_signed(&key)?;
    made(certificate.der(), key, None)
}

/// A certificate signed by a CA; it never outlives the CA.
pub fn signed_by(order: &Order<'_>, signer: &Signer) -> Result<Made, LocalError> {
    if signer.validity.not_after <= order.now {
        return Err(LocalError::CaEnded(crate::plan::Timestamp(signer.validity.not_after)));
    }
    let key = order_key(order)?;
    let mut params = params(order, &key, signer.validity.not_before, signer.validity.not_after)?;
    if order.is_ca {
        // RFC 5280 §4.2.1.9: the path length counts the intermediates that may follow.
        params.is_ca = IsCa::Ca(match signer.path_length {
            None => BasicConstraints::Unconstrained,
            Some(0) => return Err(LocalError::PathLength(0)),
            Some(length) => BasicConstraints::Constrained(u8::try_from(length - 1).unwrap_or(u8::MAX)),
        });
    }
    let certificate = params.signed_by(&key, &signer.issuer)?;
    let (_, parsed) =
        X509Certificate::from_der(certificate.der()).map_err(|error| LocalError::CaMalformed(error.to_string()))?;
    // A chain is followed by comparing names byte for byte.
    if parsed.issuer().as_raw() != signer.subject {
        return Err(LocalError::Subject);
    }
    made(certificate.der(), key, Some(signer))
}

/// The validity and identity of a stored certificate (the first one of a PEM chain).
pub fn inspect(chain: &str) -> Result<(Validity, KeyId), LocalError> {
    let malformed = |error: &dyn fmt::Display| LocalError::CaMalformed(error.to_string());
    let leaf = CertificateDer::from_pem_slice(chain.as_bytes()).map_err(|error| malformed(&error))?;
    let (_, parsed) = X509Certificate::from_der(&leaf).map_err(|error| malformed(&error))?;
    Ok((validity_of(&parsed), key_id_of(&parsed)))
}

fn params(order: &Order<'_>, key: &KeyPair, earliest: i64, latest: i64) -> Result<CertificateParams, LocalError> {
    if order.dns_names.len() > MAX_NAMES {
        return Err(LocalError::TooManyNames(order.dns_names.len()));
    }
    if order.dns_names.is_empty() && order.addresses.is_empty() && order.common_name.is_none() {
        return Err(LocalError::Nameless);
    }
    let mut params = CertificateParams::default();
    for name in order.dns_names {
        let wrong = |error| LocalError::Name { name: name.to_string(), error };
        if let HostPattern::Any = HostPattern::parse(Some(name)).map_err(wrong)? {
            return Err(wrong(HostnameError::Empty));
        }
        params.subject_alt_names.push(SanType::DnsName(name.to_string().try_into()?));
    }
    params.subject_alt_names.extend(order.addresses.iter().copied().map(SanType::IpAddress));
    params.distinguished_name = DistinguishedName::new();
    let first = order.dns_names.first().map(|name| &**name).filter(|name| name.len() <= MAX_COMMON_NAME);
    if let Some(common_name) = order.common_name.or(first) {
        if common_name.chars().count() > MAX_COMMON_NAME {
            return Err(LocalError::CommonName(common_name.into()));
        }
        params.distinguished_name.push(DnType::CommonName, common_name);
    } else if order.is_ca {
        // RFC 5280 §4.1.2.6: a CA must have a subject.
        return Err(LocalError::Nameless);
    }
    let duration = seconds(order.duration);
    if duration < 1 {
        return Err(LocalError::Duration(order.duration));
    }
    let not_before = order.now.saturating_sub(BACKDATE.min(duration / 10)).max(earliest);
    let not_after = order.now.saturating_add(duration).min(latest);
    params.not_before = moment(not_before)?;
    params.not_after = moment(not_after)?;
    params.serial_number = Some(serial());
    params.use_authority_key_identifier_extension = true;
    if order.is_ca {
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    } else {
        // Writes the subject key identifier too.
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if key.algorithm() == &rcgen::PKCS_RSA_SHA256 {
            // RSA key exchange of TLS 1.2; meaningless for the other algorithms.
            params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
        }
        // Served by listeners, and presented to backends that ask for a client certificate.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    }
    Ok(params)
}

fn order_key(order: &Order<'_>) -> Result<KeyPair, LocalError> {
    match order.key {
        OrderKey::Keep(pem) => read_key(pem),
        OrderKey::New(algorithm) => new_key(algorithm),
    }
}

pub(crate) fn new_key(algorithm: KeyAlgorithm) -> Result<KeyPair, LocalError> {
    let rsa = |size| KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size);
    Ok(match algorithm {
        KeyAlgorithm::EcdsaP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?,
        KeyAlgorithm::EcdsaP384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384)?,
        KeyAlgorithm::Ed25519 => KeyPair::generate_for(&rcgen::PKCS_ED25519)?,
        KeyAlgorithm::Rsa(2048) => rsa(RsaKeySize::_2048)?,
        KeyAlgorithm::Rsa(3072) => rsa(RsaKeySize::_3072)?,
        KeyAlgorithm::Rsa(4096) => rsa(RsaKeySize::_4096)?,
        KeyAlgorithm::Rsa(bits) => return Err(LocalError::RsaSize(bits)),
    })
}

pub(crate) fn read_key(pem: &str) -> Result<KeyPair, LocalError> {
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| LocalError::Key(error.to_string()))?;
    KeyPair::try_from(&key).map_err(|error| LocalError::Key(error.to_string()))
}

fn made(leaf: &CertificateDer<'_>, key: KeyPair, signer: Option<&Signer>) -> Result<Made, LocalError> {
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| LocalError::CaMalformed(error.to_string()))?;
    let key_id = key_id_of(&parsed);
    let mut chain_pem = to_pem(leaf);
    chain_pem.push_str(signer.map_or("", |signer| &signer.chain_pem));
    Ok(Made {
        chain_pem,
        key_pem: Zeroizing::new(key.serialize_pem()),
        validity: validity_of(&parsed),
        signer: signer.map_or_else(|| key_id.clone(), |signer| signer.key_id.clone()),
        key_id,
    })
}

pub(crate) fn validity_of(certificate: &X509Certificate<'_>) -> Validity {
    Validity {
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
    }
}

fn key_id_of(certificate: &X509Certificate<'_>) -> KeyId {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(certificate.subject().as_raw());
    context.update(certificate.public_key().raw);
    KeyId(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// At least 64 bits from a CSPRNG, positive, at most 20 octets (RFC 5280 §4.1.2.2).
fn serial() -> SerialNumber {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).expect("the kernel supplies randomness");
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn moment(seconds: i64) -> Result<OffsetDateTime, LocalError> {
    let moment = OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| LocalError::Time)?;
    // GeneralizedTime and UTCTime of RFC 5280 §4.1.2.5 write no others.
    if (1950..=9999).contains(&moment.year()) { Ok(moment) } else { Err(LocalError::Time) }
}

pub(crate) fn to_pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = String::with_capacity(text.len() + text.len() / 64 + 60);
    pem.push_str("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        // RFC 7468 §2: lines of 64 characters.
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests;
