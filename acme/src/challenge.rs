//! Challenges: what a CA asks for as proof of control, and the door to whoever can answer.
//!
//! In: authorizations as an order meets them. Out: what must be served, by whom. Nothing here talks to a CA.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What is to be proved (RFC 8555 §9.7.7, RFC 8738).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Identifier {
    /// In lower case, without `*.`: `wildcard` of the challenge says whether it was there.
    Dns(Box<str>),
    Ip(IpAddr),
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(address) => write!(f, "{address}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ChallengeKind {
    /// RFC 8555 §8.3
    Http01,
    /// RFC 8737
    TlsAlpn01,
    /// RFC 8555 §8.4
    Dns01,
}

impl fmt::Display for ChallengeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Dns01 => "dns-01",
        })
    }
}

/// One challenge that was chosen, ready to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    pub identifier: Identifier,
    pub wildcard: bool,
    pub kind: ChallengeKind,
    /// base64url, bounded.
    pub token: Box<str>,
    /// `TOKEN.THUMBPRINT` (RFC 8555 §8.1): public as soon as the CA may ask for it.
    pub key_authorization: Box<str>,
}

/// Answers challenges: the proxy for HTTP-01 and TLS-ALPN-01, a DNS provider for DNS-01.
pub trait Present: Send + Sync {
    /// Returns when the CA may ask: on all edges, or in all name servers. The error is one line without the challenge.
    fn present(&self, challenge: &Challenge) -> impl Future<Output = Result<(), String>> + Send;

    /// Takes the answer back. Must not fail loudly: what is left over is harmless.
    fn withdraw(&self, challenge: &Challenge) -> impl Future<Output = ()> + Send;
}
