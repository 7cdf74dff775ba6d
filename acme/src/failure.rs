//! Why a CA's part of the work failed, sorted by what can be done about it.
//!
//! In: problem documents (RFC 7807 as RFC 8555 §6.7 uses them), HTTP answers, our own refusals. Out: a class that
//! back-off is chosen by, and one sentence. Secrets never get here: no key, no token, no key authorization.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::challenge::{ChallengeKind, Identifier};
use crate::plan::Timestamp;

/// What can be done about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Class {
    /// The same order can never succeed: somebody has to change names, issuer, CAA or account first.
    Config,
    /// The CA looked and did not find the proof. Costs one of few tries per hour and name.
    Validation,
    /// Too many requests or orders; [`OrderError::until`] says when again, where the CA said so.
    Limited,
    /// The CA is down, slow, or talks nonsense: trying again is free.
    Transient,
    /// This side is at fault: no store, no key, a request that the CA calls malformed.
    Ours,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Config => "config",
            Self::Validation => "validation",
            Self::Limited => "limited",
            Self::Transient => "transient",
            Self::Ours => "ours",
        })
    }
}

impl Class {
    /// The class of a problem type without its `urn:ietf:params:acme:error:` (RFC 8555 §6.7, RFC 9773 §5, the profiles
    /// extension). Unknown types go by the status.
    pub fn of(kind: &str, status: u16) -> Self {
        match kind {
            "accountDoesNotExist"
            | "caa"
            | "externalAccountRequired"
            | "invalidContact"
            | "invalidProfile"
            | "rejectedIdentifier"
            | "unsupportedContact"
            | "unsupportedIdentifier"
            | "userActionRequired" => Self::Config,
            // At 403 "unauthorized" is said of the account; of a challenge it is told apart by the step.
            "unauthorized" | "connection" | "dns" | "tls" | "incorrectResponse" => Self::Validation,
            "rateLimited" => Self::Limited,
            "badNonce" | "serverInternal" | "orderNotReady" | "alreadyReplaced" => Self::Transient,
            "badCSR"
            | "badPublicKey"
            | "badSignatureAlgorithm"
            | "malformed"
            | "badRevocationReason"
            | "alreadyRevoked" => Self::Ours,
            _ if status == 429 || status == 503 => Self::Limited,
            _ if (400..500).contains(&status) && status != 408 => Self::Config,
            _ => Self::Transient,
        }
    }
}

/// What was being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Step {
    /// Reading settings and keys; nothing was asked of the CA.
    Prepare,
    Directory,
    Account,
    NewOrder,
    Authorize,
    /// Our answer to a challenge could not be put in place.
    Present,
    /// The CA judged a challenge.
    Validate,
    Finalize,
    Download,
    /// The certificate was looked at.
    Verify,
    /// Something had to be stored before going on.
    Journal,
    RenewalInfo,
    Revoke,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prepare => "preparing the order",
            Self::Directory => "reading the CA's directory",
            Self::Account => "using the ACME account",
            Self::NewOrder => "making the order",
            Self::Authorize => "reading the authorizations",
            Self::Present => "answering the challenge",
            Self::Validate => "validation by the CA",
            Self::Finalize => "finalizing the order",
            Self::Download => "downloading the certificate",
            Self::Verify => "checking the certificate",
            Self::Journal => "storing the order",
            Self::RenewalInfo => "asking for the renewal window",
            Self::Revoke => "revoking the certificate",
        })
    }
}

/// A failed order, or any other request to a CA that failed. [`fmt::Display`] is the one sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderError {
    pub class: Class,
    pub step: Step,
    /// Unix seconds before which the CA does not want to be asked again.
    pub until: Option<i64>,
    /// Whether the journaled order can be gone on with: trying again with it spends nothing. Otherwise it is over.
    #[serde(default)]
    pub resumes: bool,
    /// The CA answers as it should, and this order alone does not get on: nothing is said of others.
    #[serde(default)]
    pub answered: bool,
    /// The CA's problem type without its URN, or none where it said nothing.
    pub kind: Option<Box<str>>,
    /// One line, in the CA's words where it had some.
    pub detail: Box<str>,
    /// The names that are at fault, with what the CA saw; empty where it is about all of them.
    pub faults: Vec<Fault>,
}

/// What is wrong with one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub identifier: Identifier,
    pub wildcard: bool,
    pub challenge: Option<ChallengeKind>,
    pub class: Class,
    pub kind: Option<Box<str>>,
    pub detail: Box<str>,
    /// Where the CA looked (`validationRecord`), redirects in order.
    pub looked_at: Vec<LookedAt>,
}

/// One entry of a challenge's `validationRecord` (as Boulder and Pebble write it).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookedAt {
    pub url: Option<Box<str>>,
    pub host: Box<str>,
    pub port: Option<u16>,
    pub resolved: Vec<IpAddr>,
    pub used: Option<IpAddr>,
}

impl OrderError {
    pub fn new(class: Class, step: Step, detail: impl Into<Box<str>>) -> Self {
        let (detail, faults) = (detail.into(), Vec::new());
        Self { class, step, until: None, resumes: false, answered: false, kind: None, detail, faults }
    }

    /// Whether the CA called the failure so (`rateLimited`, `caa` …), of the order or of one of its names.
    pub fn is_kind(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind) || self.faults.iter().any(|fault| fault.kind.as_deref() == Some(kind))
    }
}

impl std::error::Error for OrderError {}

impl fmt::Display for OrderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.step)?;
        match self.faults.as_slice() {
            [] => {
                write!(f, ": {}", self.detail)?;
                if let Some(kind) = &self.kind {
                    write!(f, " ({kind})")?;
                }
            }
            [first, rest @ ..] => {
                write!(f, ": {first}")?;
                if !rest.is_empty() {
                    write!(f, "; and {} more of its names", rest.len())?;
                }
            }
        }
        if let Some(until) = self.until {
            write!(f, "; not before {}", Timestamp(until))?;
        }
        Ok(())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.wildcard { "*." } else { "" }, self.identifier)?;
        if let Some(challenge) = self.challenge {
            write!(f, " by {challenge}")?;
        }
        write!(f, ": {}", self.detail)?;
        if let Some(kind) = &self.kind {
            write!(f, " ({kind})")?;
        }
        if let Some(last) = self.looked_at.last() {
            write!(f, "; the CA looked at {last}")?;
        }
        Ok(())
    }
}

impl fmt::Display for LookedAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.url {
            Some(url) => f.write_str(url)?,
            None => f.write_str(&self.host)?,
        }
        if let Some(used) = self.used {
            write!(f, " on {used}")?;
        }
        if let Some(port) = self.port {
            write!(f, " port {port}")?;
        }
        if self.resolved.len() > 1 {
            write!(f, " (of {} addresses)", self.resolved.len())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences() {
        let mut error = OrderError::new(Class::Limited, Step::NewOrder, "too many certificates already issued");
        error.kind = Some("rateLimited".into());
        error.until = Some(1_790_000_000);
        assert_eq!(
            error.to_string(),
            format!(
                "making the order: too many certificates already issued (rateLimited); not before {}",
                Timestamp(1_790_000_000)
            )
        );
        let fault = Fault {
            identifier: Identifier::Dns("www.example.com".into()),
            wildcard: false,
            challenge: Some(ChallengeKind::Http01),
            class: Class::Validation,
            kind: Some("connection".into()),
            detail: "connection refused".into(),
            looked_at: vec![LookedAt {
                url: Some("http://www.example.com/.well-known/acme-challenge/x".into()),
                host: "www.example.com".into(),
                port: Some(80),
                resolved: vec![IpAddr::from([203, 0, 113, 7]), IpAddr::from([203, 0, 113, 8])],
                used: Some(IpAddr::from([203, 0, 113, 7])),
            }],
        };
        let mut error = OrderError::new(Class::Validation, Step::Validate, "");
        error.faults = vec![fault.clone(), fault];
        assert_eq!(
            error.to_string(),
            "validation by the CA: www.example.com by http-01: connection refused (connection); the CA looked at \
             http://www.example.com/.well-known/acme-challenge/x on 203.0.113.7 port 80 (of 2 addresses); \
             and 1 more of its names"
        );
        assert!(error.is_kind("connection"));
    }

    #[test]
    fn classes_by_type_and_by_status() {
        for (kind, status, class) in [
            ("rateLimited", 429, Class::Limited),
            ("", 503, Class::Limited),
            ("", 500, Class::Transient),
            ("", 404, Class::Config),
            ("serverInternal", 500, Class::Transient),
            ("rejectedIdentifier", 400, Class::Config),
            ("dns", 400, Class::Validation),
            ("badCSR", 400, Class::Ours),
        ] {
            assert_eq!(Class::of(kind, status), class, "{kind} {status}");
        }
    }
}
