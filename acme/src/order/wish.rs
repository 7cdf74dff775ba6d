//! What is to be ordered, and what came of it.
//!
//! In: a wanted certificate of the snapshot. Out: an order's wish; certificates with their keys.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use edge_config::snapshot::{KeyAlgorithm, WantedCertificate};
use zeroize::Zeroizing;

use crate::due::Validity;
use crate::order::SecretText;

/// The time that one call may take, whatever the CA asks us to wait.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// One certificate that is to be had now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderWish {
    /// In lower case; `*.` in front where it is a wildcard.
    pub dns_names: Vec<Box<str>>,
    pub addresses: Vec<IpAddr>,
    /// Asked for only where it is also among the names.
    pub common_name: Option<Box<str>>,
    pub key: KeyAlgorithm,
    /// PEM of the key to keep; a new one otherwise.
    pub keep_key: Option<SecretText>,
    /// Goes before the issuer's.
    pub profile: Option<Box<str>>,
    /// The identifier of the certificate that this one takes the place of ([`crate::order::certificate_id`]).
    pub replaces: Option<Box<str>>,
    /// Labels of the object that asked, for the choice of a solver.
    pub labels: Vec<(Box<str>, Box<str>)>,
    pub patience: Duration,
}

impl OrderWish {
    /// A new key, nothing replaced.
    pub fn of(wanted: &WantedCertificate) -> Self {
        Self {
            dns_names: wanted.dns_names.clone(),
            addresses: wanted.addresses.clone(),
            common_name: wanted.common_name.clone(),
            key: wanted.key,
            keep_key: None,
            profile: wanted.profile.clone(),
            replaces: None,
            labels: wanted.labels.clone(),
            patience: PATIENCE,
        }
    }
}

/// A certificate that was looked at and answers the wish.
#[derive(Clone)]
pub struct Obtained {
    /// Leaf first.
    pub chain_pem: String,
    /// PKCS#8.
    pub key_pem: Zeroizing<String>,
    pub validity: Validity,
    /// RFC 9773 §4.1, for renewal windows and `replaces`; `None`: the leaf has no authority key identifier.
    pub ari_id: Option<Box<str>>,
    /// Issuer of the leaf, as text.
    pub issuer: Box<str>,
    pub profile: Option<Box<str>>,
    pub order_url: Box<str>,
    /// Whether the CA took `replaces`: then no rate limit counted this order.
    pub replaced: bool,
    /// What the user may want to know: `replaces` refused, another chain than the preferred one, another challenge.
    pub notes: Vec<String>,
}

impl fmt::Debug for Obtained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Obtained")
            .field("validity", &self.validity)
            .field("ari_id", &self.ari_id)
            .field("issuer", &self.issuer)
            .field("order_url", &self.order_url)
            .field("notes", &self.notes)
            .finish_non_exhaustive()
    }
}

/// When a CA would like a certificate to be renewed (RFC 9773 §4.2), in Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewalWindow {
    pub start: i64,
    pub end: i64,
    /// A page that says why.
    pub explanation: Option<Box<str>>,
    /// When to ask again; between a minute and a day, six hours where the CA did not say.
    pub ask_again: i64,
}

/// RFC 5280 §5.3.1, those that RFC 8555 §7.6 lets a subscriber say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevocationReason {
    Unspecified = 0,
    KeyCompromise = 1,
    AffiliationChanged = 3,
    Superseded = 4,
    CessationOfOperation = 5,
}
