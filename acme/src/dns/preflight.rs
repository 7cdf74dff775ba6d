//! Pre-flight: will the CA reach us for this name? Said before an authorization failure is spent.
//!
//! In: the wish (name, challenge, CA, our addresses, what the edges answered), and what DNS says of the name. Out:
//! findings, each one sentence with its evidence and the remedy. [`look`] asks DNS, [`judge`] is pure. A finding stops
//! only where the CA is certain to fail: what an inside view of DNS says can only warn.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use edge_config::issuer::DnsProvider;

pub use super::caa::Caa;
pub use super::resolver::Sight;
use crate::challenge::{ChallengeKind, Identifier};

mod judge;
mod look;

pub use judge::judge;
pub use look::look;

/// What is to be proved, to whom, and what the caller knows of our side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub identifier: Identifier,
    pub wildcard: bool,
    /// The challenge that was chosen.
    pub kind: ChallengeKind,
    pub ca: Ca,
    /// Where the name should lead; empty where it is not known.
    pub entries: Vec<Entry>,
    /// What each edge said when it was asked for the token; empty before it was.
    pub edges: Vec<EdgeAnswer>,
    /// For DNS-01.
    pub written: Written,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ca {
    /// For people: the host of its directory.
    pub name: Box<str>,
    /// `caaIdentities` of its directory.
    pub identities: Vec<Box<str>>,
    /// URL of our account, once there is one.
    pub account: Option<Box<str>>,
    pub stands: Stands,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stands {
    /// It reaches global addresses only.
    OnTheInternet,
    /// A CA of one's own: it may see what we see.
    Inside,
}

/// An address that leads to our listeners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As the world sees it: the VIP, or what NAT translates to it.
    pub address: IpAddr,
    pub announced: Announced,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Announced {
    Yes,
    /// Why not.
    No(Box<str>),
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeAnswer {
    pub edge: Box<str>,
    pub result: Result<(), Box<str>>,
}

/// Where the TXT record of DNS-01 is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// At `_acme-challenge.NAME` itself.
    There,
    /// Where a CNAME at `_acme-challenge.NAME` leads.
    WhereAliased,
    /// In another zone, always by a CNAME (acme-dns).
    OnlyWhereAliased,
}

impl Written {
    /// For `Solve::Dns01 { provider, follow_cname }`.
    pub fn of(provider: &DnsProvider, follow_cname: bool) -> Self {
        match provider {
            DnsProvider::AcmeDns { .. } => Self::OnlyWhereAliased,
            _ if follow_cname => Self::WhereAliased,
            _ => Self::There,
        }
    }
}

/// What there is to judge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub wish: Wish,
    /// Not looked at for IP addresses and DNS-01.
    pub addresses: Option<Addresses>,
    /// From the name upwards to the first set that is not empty, or to a failure; empty for IP addresses.
    pub caa: Vec<CaaStep>,
    /// For DNS-01.
    pub record: Option<RecordPlace>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    pub a: Seen<Ipv4Addr>,
    pub aaaa: Seen<Ipv6Addr>,
}

/// A lookup, and what it is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen<T> {
    pub sight: Sight,
    /// The server that said it, for people.
    pub server: Box<str>,
    /// Targets of the CNAMEs on the way.
    pub aliases: Vec<Box<str>>,
    pub said: Said<T>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said<T> {
    /// Not empty.
    Records(Vec<T>),
    NoRecord,
    /// NXDOMAIN
    NoName,
    /// No answer, or a refusal; a sentence without its full stop.
    Failed(Box<str>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaaStep {
    pub name: Box<str>,
    pub seen: Seen<Caa>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordPlace {
    /// `_acme-challenge.NAME`
    pub name: Box<str>,
    pub sight: Sight,
    pub aliases: Vec<Box<str>>,
    /// The zone that the last of the aliases, or the name, is in; or why none was found.
    pub zone: Result<ZoneServers, Box<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneServers {
    pub name: Box<str>,
    /// Each server with why it does not answer for the zone.
    pub servers: Vec<(Box<str>, Answers)>,
}

/// Whether a name server answers for a zone, or why not.
pub type Answers = Result<(), Box<str>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The CA is certain to fail: do not order.
    Stops,
    Warns,
    Fine,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    Challenge,
    Addresses,
    StaleIpv6,
    Announcement,
    Caa,
    Edges,
    Record,
}

/// One sentence with its evidence and the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    pub topic: Topic,
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests;
