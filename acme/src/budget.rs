//! What a CA lets a client have: its published limits, and what of them is spent.
//!
//! In: what is about to be asked of a CA, and `now`. Out: yes, or which limit says no and until when. It is known before
//! an order is made: a refusal by the CA is news only where somebody else spends from the same limits. Limits are token
//! buckets, as Let's Encrypt counts (letsencrypt.org/docs/rate-limits); what the CA itself says of a wait goes first.

mod ledger;
mod limits;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;

use aws_lc_rs::digest;
use edge_config::issuer::IssuerId;
use edge_config::public;
use edge_config::snapshot::WantedCertificate;
use serde::{Deserialize, Serialize};

pub use ledger::{Ledger, Tentative, Usage};
pub use limits::{Limits, Rate};

use crate::challenge::Identifier;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// Accounts made from one address. (Per /48 of IPv6 it is far more, so that one is never met first.)
    NewAccounts,
    /// Orders of one account.
    NewOrders,
    /// Certificates below one registered domain, by whomever: see [`registered_domain`].
    PerDomain,
    /// Certificates for exactly the same names, by whomever.
    ExactSet,
    /// Authorizations of one name by one account that failed.
    AuthorizationFailures,
    /// Not of the CA: how fast Edge renews what is in no hurry.
    Pace,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NewAccounts => "new accounts",
            Self::NewOrders => "new orders",
            Self::PerDomain => "certificates per registered domain",
            Self::ExactSet => "certificates for the same names",
            Self::AuthorizationFailures => "failed authorizations",
            Self::Pace => "Edge's own pace of renewals",
        })
    }
}

impl Limit {
    /// Which limit a CA speaks of in the `detail` of `urn:ietf:params:acme:error:rateLimited`, in Let's Encrypt's words.
    pub fn of_detail(detail: &str) -> Option<Self> {
        let detail = detail.to_ascii_lowercase();
        [
            ("exact set", Self::ExactSet),
            ("already issued for", Self::PerDomain),
            ("failed authorizations", Self::AuthorizationFailures),
            ("new orders", Self::NewOrders),
            ("new registrations", Self::NewAccounts),
            ("new accounts", Self::NewAccounts),
        ]
        .into_iter()
        .find_map(|(words, limit)| detail.contains(words).then_some(limit))
    }
}

/// One bucket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Bucket {
    /// URL of the CA's directory.
    pub directory: Box<str>,
    pub limit: Limit,
    /// Whose: an issuer, a registered domain, a set of names, a name.
    pub of: Box<str>,
}

/// What one order takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// Taken when the order is made.
    pub buckets: Vec<Bucket>,
    /// Must not be empty, but are taken from by failures only.
    pub must_have: Vec<Bucket>,
}

/// How an order stands to the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exemption {
    None,
    /// Of a set of names that this CA has issued before: free of new-orders and per-domain.
    SameSet,
    /// It names the certificate that it replaces (RFC 9773 §5): free of all.
    Replaces,
}

/// Which of its own limits Edge heeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Haste {
    /// The pace of renewals.
    pub paced: bool,
    /// What is kept of limits for the operator.
    pub keeps: bool,
}

impl Charge {
    /// What an order for these names takes of this issuer's limits.
    pub fn of_order(directory: &str, issuer: &IssuerId, wanted: &WantedCertificate, exemption: Exemption) -> Self {
        let bucket = |limit, of: String| Bucket { directory: directory.into(), limit, of: of.into() };
        let mut charge = Self { buckets: vec![bucket(Limit::Pace, String::new())], must_have: Vec::new() };
        if exemption == Exemption::Replaces {
            return charge;
        }
        charge.buckets.push(bucket(Limit::ExactSet, exact_set(wanted)));
        if exemption == Exemption::None {
            charge.buckets.push(bucket(Limit::NewOrders, issuer.to_string()));
            let domains: BTreeSet<String> = identifiers(wanted).iter().map(registered_domain).collect();
            charge.buckets.extend(domains.into_iter().map(|domain| bucket(Limit::PerDomain, domain)));
        }
        charge.must_have = identifiers(wanted).iter().map(|one| Bucket::of_failures(directory, issuer, one)).collect();
        charge
    }

    /// An account has to be made for it first.
    pub fn with_account(mut self, directory: &str) -> Self {
        self.buckets.push(Bucket { directory: directory.into(), limit: Limit::NewAccounts, of: "this edge".into() });
        self
    }
}

impl Bucket {
    pub fn of_failures(directory: &str, issuer: &IssuerId, identifier: &Identifier) -> Self {
        Self {
            directory: directory.into(),
            limit: Limit::AuthorizationFailures,
            of: format!("{identifier} ({issuer})").into(),
        }
    }
}

/// What has to be authorized, each once: a wildcard is authorized by the name below its `*` (RFC 8555 §7.1.4).
pub fn identifiers(wanted: &WantedCertificate) -> BTreeSet<Identifier> {
    let dns = wanted.dns_names.iter().map(|name| {
        let name = name.strip_prefix("*.").unwrap_or(name);
        Identifier::Dns(name.to_ascii_lowercase().into())
    });
    dns.chain(wanted.addresses.iter().copied().map(Identifier::Ip)).collect()
}

/// What Let's Encrypt counts certificates by: the label below a public suffix, an IPv4 address, a /64 of IPv6. A name
/// that is itself a public suffix counts as itself.
pub fn registered_domain(identifier: &Identifier) -> String {
    match identifier {
        Identifier::Dns(name) => public::registered_domain(name).unwrap_or(name).to_owned(),
        Identifier::Ip(std::net::IpAddr::V4(address)) => address.to_string(),
        Identifier::Ip(std::net::IpAddr::V6(address)) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{}/64", std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// The set of names as text; a long one ends in a hash.
pub fn exact_set(wanted: &WantedCertificate) -> String {
    const LONGEST: usize = 120;
    let names: BTreeSet<String> = wanted
        .dns_names
        .iter()
        .map(|name| name.to_ascii_lowercase())
        .chain(wanted.addresses.iter().map(ToString::to_string))
        .collect();
    let count = names.len();
    let text = names.into_iter().collect::<Vec<_>>().join(",");
    if text.len() <= LONGEST {
        return text;
    }
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    let hash: String = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let first = text.split(',').next().unwrap_or_default();
    let first: String = first.chars().take(80).collect();
    format!("{first} and {} more #{hash}", count.saturating_sub(1))
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.of.is_empty() { write!(f, "{}", self.limit) } else { write!(f, "{} of {}", self.limit, self.of) }
    }
}
