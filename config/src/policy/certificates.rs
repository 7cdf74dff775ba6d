//! Certificates of clients: what one must have beside a chain to a CA, and what endpoints are told of it. Envoy Gateway's
//! `tls.clientValidation` and `headers.xForwardedClientCert` become these values.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::TextMatch;

/// All of what is not empty must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CertificateDemands {
    /// The certificate is one of these, or its key one of [`Self::keys`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Sha256>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<Sha256>,
    /// It has one of these names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<NameDemand>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revocation: Option<Revocation>,
    /// A certificate that has ended is good if it was good then.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allows_expired: bool,
}

impl CertificateDemands {
    pub fn or_none(self) -> Option<Arc<Self>> {
        (self != Self::default()).then(|| Arc::new(self))
    }
}

/// Of the DER encoding: of a certificate, or of a key (SubjectPublicKeyInfo).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sha256(pub [u8; 32]);

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Sha256 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A subject alternative name of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NameDemand {
    pub kind: NameKind,
    pub text: TextMatch,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum NameKind {
    /// Without case; of a wildcard that stands for an exact name, the certificate need not have that name itself.
    Dns,
    Email,
    Ip,
    Uri,
    /// By its object identifier, as it is written with dots.
    Other(Box<str>),
}

/// Lists of revoked certificates. A certificate whose CA has no list here, or one that is out of date, is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Revocation {
    /// Where they come from, for people.
    pub source: String,
    /// DER (RFC 5280 §5).
    #[serde(serialize_with = "counted")]
    pub lists: Vec<Arc<[u8]>>,
    /// Of the client's own certificate only, not of the CAs between.
    pub leaf_only: bool,
}

fn counted<S: Serializer>(lists: &[Arc<[u8]>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{} lists", lists.len()))
}

/// What becomes of the field X-Forwarded-Client-Cert where it is not just removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum CertificateField {
    /// What a client with a valid certificate sends passes.
    Forward,
    /// The same, and what we know of its certificate comes behind.
    Append(CertificateDetails),
    /// What we know, and nothing else.
    Set(CertificateDetails),
    /// What any client sends passes.
    Always,
}

impl CertificateField {
    /// What we tell of a certificate, if anything.
    pub fn details(self) -> Option<CertificateDetails> {
        match self {
            Self::Append(details) | Self::Set(details) => Some(details),
            Self::Forward | Self::Always => None,
        }
    }
}

/// What is told beside the digest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CertificateDetails {
    pub subject: bool,
    pub certificate: bool,
    pub chain: bool,
    pub dns: bool,
    pub uri: bool,
}
