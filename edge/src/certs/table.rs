//! The certificates that Edge can serve or present now, by name: an immutable table, published apart from the snapshot,
//! so that a renewal is no recompile.
//!
//! In flow parsed keys and chains from the control side; out flow [`CertEntry`]s to the TLS table and facts to status
//! and renewal. Private keys stay inside `rustls`; nothing here prints them.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use edge_config::names::CertId;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Every certificate that is at hand. A certificate that is not here yet is served by what the resolver falls back to.
#[derive(Clone, Default)]
pub struct CertTable {
    entries: HashMap<CertId, Arc<CertEntry>>,
}

impl CertTable {
    pub fn builder() -> CertTableBuilder {
        CertTableBuilder::default()
    }

    /// A builder that starts with every entry of this table.
    pub fn to_builder(&self) -> CertTableBuilder {
        CertTableBuilder { entries: self.entries.clone() }
    }

    pub fn entry(&self, id: &CertId) -> Option<&Arc<CertEntry>> {
        self.entries.get(id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&CertId, &Arc<CertEntry>)> {
        self.entries.iter()
    }

    /// Whether both hold the very same entries.
    pub fn is_same(&self, other: &Self) -> bool {
        let same = |(id, entry): (&CertId, &Arc<CertEntry>)| {
            other.entries.get(id).is_some_and(|theirs| Arc::ptr_eq(entry, theirs))
        };
        self.len() == other.len() && self.iter().all(same)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl fmt::Debug for CertTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.entries.iter()).finish()
    }
}

/// Collects entries; a later one of the same name replaces an earlier one.
#[derive(Debug, Default)]
pub struct CertTableBuilder {
    entries: HashMap<CertId, Arc<CertEntry>>,
}

impl CertTableBuilder {
    pub fn insert(&mut self, id: CertId, entry: Arc<CertEntry>) -> &mut Self {
        self.entries.insert(id, entry);
        self
    }

    pub fn remove(&mut self, id: &CertId) -> &mut Self {
        self.entries.remove(id);
        self
    }

    pub fn build(self) -> CertTable {
        CertTable { entries: self.entries }
    }
}

/// One certificate with its chain and private key.
pub struct CertEntry {
    pub certified: Arc<CertifiedKey>,
    pub facts: CertFacts,
    pub origin: Origin,
}

/// What the leaf certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertFacts {
    /// Subject alternative names of type DNS, in lower case, as they stand (`*` and `*.example` included).
    pub dns_names: Vec<Box<str>>,
    pub addresses: Vec<IpAddr>,
    /// Unix seconds.
    pub not_before: i64,
    /// Unix seconds; the last second in which the certificate holds.
    pub not_after: i64,
    /// Common name of the issuer, else its whole name.
    pub issuer: Box<str>,
    /// SHA-256 of the DER certificate.
    pub fingerprint: Fingerprint,
}

/// Where a certificate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// A Secret, or a PEM file, of the user.
    Supplied,
    /// Issued by or through Edge.
    Issued,
    /// A stand-in of the internal CA until the real one is there.
    Placeholder,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why bytes are no usable certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    #[error("certificate is no PEM: {0}")]
    CertificatePem(rustls::pki_types::pem::Error),
    #[error("no PEM block CERTIFICATE")]
    NoCertificate,
    #[error("more than {MAX_CHAIN} certificates in the chain")]
    LongChain,
    #[error("no usable private key: {0}")]
    KeyPem(rustls::pki_types::pem::Error),
    #[error("certificate is malformed: {0}")]
    Malformed(String),
    #[error("private key does not belong to the certificate")]
    Mismatch,
    #[error("private key is malformed or of an unsupported type: {0}")]
    Key(rustls::Error),
}

/// Longer chains than this are refused: no real one comes near, and every byte is sent in each handshake.
const MAX_CHAIN: usize = 16;

impl CertEntry {
    /// Reads a PEM chain, leaf first, and a PEM private key (PKCS#8, PKCS#1 or SEC1).
    pub fn from_pem(chain: &[u8], key: &[u8], origin: Origin, provider: &CryptoProvider) -> Result<Self, CertError> {
        let mut certificates = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(chain) {
            if certificates.len() == MAX_CHAIN {
                return Err(CertError::LongChain);
            }
            certificates.push(certificate.map_err(CertError::CertificatePem)?);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(CertError::KeyPem)?;
        Self::from_der(certificates, key, origin, provider)
    }

    /// As [`from_pem`](Self::from_pem), from DER; checks that key and leaf belong together.
    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        origin: Origin,
        provider: &CryptoProvider,
    ) -> Result<Self, CertError> {
        let leaf = chain.first().ok_or(CertError::NoCertificate)?;
        let facts = CertFacts::of(leaf)?;
        let certified = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => CertError::Mismatch,
            rustls::Error::InvalidCertificate(error) => CertError::Malformed(error.to_string()),
            error => CertError::Key(error),
        })?;
        Ok(Self { certified: Arc::new(certified), facts, origin })
    }

    /// Whether the certificate holds at this moment (Unix seconds).
    pub fn is_valid_at(&self, now: i64) -> bool {
        (self.facts.not_before..=self.facts.not_after).contains(&now)
    }
}

impl fmt::Debug for CertEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertEntry")
            .field("facts", &self.facts)
            .field("origin", &self.origin)
            .field("key", &format_args!("[redacted]"))
            .finish()
    }
}

impl CertFacts {
    /// Reads the facts of a DER certificate.
    pub fn of(certificate: &[u8]) -> Result<Self, CertError> {
        let malformed = |error: &dyn fmt::Display| CertError::Malformed(error.to_string());
        let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|error| malformed(&error))?;
        if !rest.is_empty() {
            return Err(CertError::Malformed("bytes after the end".into()));
        }
        let mut dns_names = Vec::new();
        let mut addresses = Vec::new();
        if let Some(names) = parsed.subject_alternative_name().map_err(|error| malformed(&error))? {
            for name in &names.value.general_names {
                match name {
                    GeneralName::DNSName(name) => dns_names.push(name.to_ascii_lowercase().into()),
                    GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
                    _ => {}
                }
            }
        }
        let issuer = parsed.issuer();
        let issuer = match issuer.iter_common_name().next().and_then(|name| name.as_str().ok()) {
            Some(name) => name.into(),
            None => issuer.to_string().into(),
        };
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest.as_ref());
        Ok(Self {
            dns_names,
            addresses,
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            issuer,
            fingerprint: Fingerprint(fingerprint),
        })
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use edge_config::names::ObjectKey;

    fn provider() -> CryptoProvider {
        rustls::crypto::aws_lc_rs::default_provider()
    }

    fn certificate(names: &[&str]) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn facts_are_read_from_the_leaf() {
        let (chain, key) = certificate(&["A.example", "*", "*.b.example", "192.0.2.7", "2001:db8::7"]);
        let entry = CertEntry::from_pem(chain.as_bytes(), key.as_bytes(), Origin::Supplied, &provider()).unwrap();
        let names: Vec<&str> = entry.facts.dns_names.iter().map(|name| &**name).collect();
        assert_eq!(names, ["a.example", "*", "*.b.example"]);
        assert_eq!(entry.facts.addresses, ["192.0.2.7".parse::<IpAddr>().unwrap(), "2001:db8::7".parse().unwrap()]);
        assert!(entry.facts.not_before < entry.facts.not_after);
        assert!(entry.is_valid_at(entry.facts.not_after) && !entry.is_valid_at(entry.facts.not_after + 1));
        assert_eq!(&*entry.facts.issuer, "rcgen self signed cert");
    }

    #[test]
    fn what_is_no_pair_is_refused() {
        let (chain, key) = certificate(&["a.example"]);
        let (_, other) = certificate(&["a.example"]);
        let load = |chain: &str, key: &str| {
            CertEntry::from_pem(chain.as_bytes(), key.as_bytes(), Origin::Supplied, &provider()).unwrap_err()
        };
        assert!(matches!(load(&chain, &other), CertError::Mismatch));
        assert!(matches!(load("", &key), CertError::NoCertificate));
        assert!(matches!(load(&chain, ""), CertError::KeyPem(_)));
        assert!(matches!(load(&chain.repeat(17), &key), CertError::LongChain));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(load(broken, &key), CertError::Malformed(_)));
    }

    #[test]
    fn no_key_is_printed() {
        let (chain, key) = certificate(&["a.example"]);
        let entry = CertEntry::from_pem(chain.as_bytes(), key.as_bytes(), Origin::Issued, &provider()).unwrap();
        let mut builder = CertTable::builder();
        builder.insert(CertId(ObjectKey::new("default", "web")), Arc::new(entry));
        let text = format!("{:?}", builder.build());
        assert!(text.contains("[redacted]") && text.contains("a.example"), "{text}");
    }
}
