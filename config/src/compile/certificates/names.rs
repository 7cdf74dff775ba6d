//! Which names and addresses an ACME issuer can certify, and in one line why not another. In: names, issuers. Out: the
//! issuers that can. It says nothing about what a CA will say.
//! Standards: RFC 8555 §7.1.3 (wildcards), RFC 8738 (addresses), RFC 8737 §3 and §4 (TLS-ALPN-01).

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::issuer::{AcmeIssuer, IssuerId, Solve};
use crate::public;

/// What is to be certified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject<'n> {
    /// A host name, a wildcard's `*.` included.
    Name(&'n str),
    Address(IpAddr),
}

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// Why no issuer is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Of the condition.
    pub reason: &'static str,
    pub message: String,
}

pub(super) const NOT_PUBLIC: &str = "NotPublic";
pub(super) const NOT_ISSUABLE: &str = "NotIssuable";

/// Those of the issuers that can be asked for the subject, or why not even the first. `labels` are those of who asks.
pub(super) fn judge<'i>(
    subject: Subject<'_>,
    issuers: impl Iterator<Item = &'i AcmeIssuer>,
    labels: &BTreeMap<String, String>,
) -> Result<Vec<IssuerId>, Refusal> {
    let mut able = Vec::new();
    let mut first = None;
    for issuer in issuers {
        match one(subject, issuer, labels) {
            Ok(()) => able.push(issuer.id.clone()),
            Err(refusal) => {
                first.get_or_insert(refusal);
            }
        }
    }
    match first {
        Some(refusal) if able.is_empty() => Err(refusal),
        _ => Ok(able),
    }
}

fn one(subject: Subject<'_>, issuer: &AcmeIssuer, labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    let no = |message: String| Refusal { reason: NOT_ISSUABLE, message };
    let known = match subject {
        Subject::Name(name) => {
            public::issuable_name(name).map_err(no)?;
            public::public_name(name)
        }
        Subject::Address(address) => public::public_address(address),
    };
    if let Err(why) = known
        && (why.local || !issuer.private)
    {
        return Err(Refusal { reason: NOT_PUBLIC, message: why.reason });
    }
    let text = subject.to_string();
    let solver = issuer.solver(&text, |key, value| labels.get(key).is_some_and(|found| found == value));
    let Some(solver) = solver else {
        return Err(no(format!("no solver of {} is for {subject}", issuer.id)));
    };
    let (has_dns, kind) = match solver.solve {
        Solve::Http01 => (false, "http-01"),
        Solve::TlsAlpn01 => (false, "tls-alpn-01"),
        Solve::Dns01 { .. } => (true, "dns-01"),
    };
    let id = &issuer.id;
    match subject {
        Subject::Name(name) if name.starts_with("*.") && !has_dns => {
            Err(no(format!("{name} is a wildcard, which takes a dns-01 solver, and that of {id} for it is {kind}")))
        }
        Subject::Address(_) if has_dns => {
            let wanted = "an http-01 or tls-alpn-01 solver";
            Err(no(format!("{subject} is an address, which takes {wanted}, and that of {id} for it is {kind}")))
        }
        _ => Ok(()),
    }
}

/// Whether a name is in a certificate with these: itself, or by a wildcard in the place of its first label.
pub(super) fn is_covered<'n>(name: &str, mut by: impl Iterator<Item = &'n str>) -> bool {
    let above = name.split_once('.').map(|(_, above)| above);
    by.any(|known| {
        known == name || known.strip_prefix("*.").is_some_and(|suffix| above == Some(suffix) && !name.starts_with("*."))
    })
}
