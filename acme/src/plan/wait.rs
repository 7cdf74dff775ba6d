//! Why something is issued, and why something is not, each as one sentence.

use std::fmt;

use edge_config::issuer::IssuerId;
use edge_config::names::CertId;

use crate::budget::Bucket;

/// Why a certificate is issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    Missing,
    Due,
    /// Little of its lifetime is left: soft limits do not count any more.
    Pressing,
    /// Somebody asked for it.
    Asked,
    /// The CA does not vouch for it any more.
    Revoked,
    Expired,
    NotYetValid,
    Changed(&'static str),
    /// What the Secret supplies is not what is wanted.
    Unfit(Box<str>),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there is none yet"),
            Self::Due => f.write_str("its renewal is due"),
            Self::Pressing => f.write_str("its renewal is overdue and it expires soon"),
            Self::Revoked => f.write_str("it was revoked"),
            Self::Asked => f.write_str("its renewal was asked for"),
            Self::Unfit(why) => write!(f, "what its Secret holds is not what is wanted: {why}"),
            Self::Expired => f.write_str("it has expired"),
            Self::NotYetValid => f.write_str("it begins in the future: it was made under a wrong clock"),
            Self::Changed(what) => write!(f, "{what} changed"),
        }
    }
}

/// Why a wanted certificate is not issued now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    Clock,
    NoInternalCa(String),
    NoCa(CertId),
    CaUnusable {
        ca: CertId,
        reason: String,
    },
    CaWaits(CertId),
    CaEnds {
        ca: String,
        not_after: i64,
    },
    CaExpired {
        ca: String,
        not_after: i64,
    },
    Cycle(CertId),
    Backoff {
        until: i64,
        reason: String,
    },
    /// An order of it runs.
    UnderWay {
        issuer: IssuerId,
        since: i64,
    },
    /// Another edge orders; or nobody is known to.
    Elsewhere(String),
    NoIssuer {
        issuer: IssuerId,
        reason: String,
    },
    /// A limit of the CA would be exceeded.
    Budget {
        issuer: IssuerId,
        bucket: Bucket,
        until: i64,
    },
    /// The CA does not answer, and one order at a time is tried.
    CaDown {
        issuer: IssuerId,
        /// `None`: one is under way.
        until: Option<i64>,
        reason: String,
    },
    /// As many orders as are allowed at a time are under way.
    Busy(IssuerId),
    /// The first order makes the account; the others wait for it.
    Account(IssuerId),
    /// Whoever should issue cannot, and what is held serves until it ends.
    IssuerAway {
        reason: String,
        not_after: i64,
    },
    /// Whoever should issue cannot, and nothing is held that could serve.
    Nobody(String),
}

impl Wait {
    /// When it is over by itself, as far as that is known.
    pub fn until(&self) -> Option<i64> {
        match self {
            Self::Backoff { until, .. } | Self::Budget { until, .. } | Self::CaDown { until: Some(until), .. } => {
                Some(*until)
            }
            // A second later it has ended.
            Self::IssuerAway { not_after, .. } => Some(not_after.saturating_add(1)),
            _ => None,
        }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clock => f.write_str("the clock of this machine is before 2026-01-01"),
            Self::NoInternalCa(reason) => write!(f, "no internal CA: {reason}"),
            Self::NoCa(ca) => write!(f, "the CA's Secret {ca} does not exist"),
            Self::CaUnusable { ca, reason } => write!(f, "the CA's Secret {ca} cannot sign: {reason}"),
            Self::CaWaits(ca) => write!(f, "its CA {ca} is not issued yet"),
            Self::CaEnds { ca, not_after } => {
                write!(f, "its CA {ca} ends at {}, so nothing longer can be signed", Timestamp(*not_after))
            }
            Self::CaExpired { ca, not_after } => write!(f, "its CA {ca} has expired at {}", Timestamp(*not_after)),
            Self::Cycle(ca) => write!(f, "it would be signed, by way of {ca}, by itself"),
            Self::Backoff { until, reason } => write!(f, "{reason}; next try at {}", Timestamp(*until)),
            Self::UnderWay { issuer, since } => {
                write!(f, "an order at {issuer} is under way since {}", Timestamp(*since))
            }
            Self::Elsewhere(edge) => write!(f, "another edge orders: {edge}"),
            Self::NoIssuer { issuer, reason } => f.write_str(&of_issuer(issuer, "cannot issue", reason)),
            Self::Budget { issuer, bucket, until } => {
                write!(f, "{issuer} allows no more now: {bucket}; next at {}", Timestamp(*until))
            }
            Self::CaDown { issuer, until: Some(until), reason } => {
                write!(f, "{}; next try at {}", of_issuer(issuer, "cannot be used", reason), Timestamp(*until))
            }
            Self::CaDown { issuer, until: None, reason } => {
                write!(f, "{}; another order is trying it now", of_issuer(issuer, "cannot be used", reason))
            }
            Self::Busy(issuer) => write!(f, "as many orders at {issuer} are under way as are made at a time"),
            Self::Account(issuer) => write!(f, "the account at {issuer} is being made"),
            Self::IssuerAway { reason, not_after } => {
                write!(f, "{reason}; what is held serves until it ends at {}", Timestamp(*not_after))
            }
            Self::Nobody(reason) => f.write_str(reason),
        }
    }
}

/// A sentence that names the issuer already needs no other in front of it.
fn of_issuer(issuer: &IssuerId, what: &str, reason: &str) -> String {
    if reason.contains(&*issuer.0) { reason.to_owned() } else { format!("{issuer} {what}: {reason}") }
}

/// Unix seconds as RFC 3339 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use time::format_description::well_known::Rfc3339;
        let text = time::OffsetDateTime::from_unix_timestamp(self.0).ok().and_then(|at| at.format(&Rfc3339).ok());
        match text {
            Some(text) => f.write_str(&text),
            None => write!(f, "{} s", self.0),
        }
    }
}
