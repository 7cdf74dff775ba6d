//! What is stored of accounts and orders, so that a process that died is continued by another one.
//!
//! In and out: serde values. Keys in them are wiped when dropped and never printed; whoever stores them encrypts them.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::challenge::{ChallengeKind, Identifier};
use crate::client::Directory;

/// A secret text: wiped when dropped, printed as `[redacted]`.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    pub fn new(text: impl Into<Zeroizing<String>>) -> Self {
        Self(text.into())
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Serialize for SecretText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// An ACME account. With a `url` it needs no CA to be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountRecord {
    /// URL of the directory that it belongs to.
    pub directory: Box<str>,
    /// The account's URL; `None` until the CA has answered for the first time.
    pub url: Option<Box<str>>,
    /// ECDSA P-256, PEM of PKCS#8.
    pub key: SecretText,
    /// The key that a roll-over was about to put in its place; which of both holds is asked of the CA.
    #[serde(default)]
    pub next_key: Option<SecretText>,
    /// As the CA has them, without `mailto:`.
    #[serde(default)]
    pub contacts: Vec<Box<str>>,
    /// The external account that it is bound to.
    #[serde(default)]
    pub external_key_id: Option<Box<str>>,
    /// What the directory said last: read again before it is relied on.
    #[serde(default)]
    pub resources: Option<Directory>,
}

/// An order between the making of its key and the arrival of its certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderRecord {
    /// URL of the account; another account cannot go on with it.
    pub account: Box<str>,
    pub dns_names: Vec<Box<str>>,
    pub addresses: Vec<IpAddr>,
    pub profile: Option<Box<str>>,
    /// The certificate it replaces (RFC 9773 §4.1), where the CA accepted that.
    pub replaces: Option<Box<str>>,
    /// PEM of PKCS#8.
    pub key: SecretText,
    /// The request, base64 of DER.
    pub csr: Box<str>,
    /// `None` before the CA has answered: it may or may not know of the order.
    pub url: Option<Box<str>>,
    /// Whether the CSR may have reached the CA.
    pub finalizing: bool,
    /// Unix seconds.
    pub made: i64,
    /// Challenges that the CA has already failed to verify while this certificate was being obtained.
    #[serde(default)]
    pub failed: Vec<(Identifier, ChallengeKind)>,
}

/// What an account is opened with beside the issuer; read by whoever may read Secrets and files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    /// The HMAC key of the external account as the CA gives it: base64url.
    pub external_key: Option<SecretText>,
    /// PEM of the account key in the issuer's Secret; it goes before that of a record.
    pub account_key: Option<SecretText>,
    /// What the issuer's `trust_file` holds.
    pub trust: Option<Arc<[u8]>>,
}

/// Where records are kept. A record is durable when these return; an error stops the order before its next step.
pub trait Journal: Send + Sync {
    fn account(&self, record: &AccountRecord) -> impl Future<Output = Result<(), String>> + Send;

    /// Called before new-order, after it (`url` is there then: an order was spent), and before finalize.
    fn order(&self, record: &OrderRecord) -> impl Future<Output = Result<(), String>> + Send;
}
