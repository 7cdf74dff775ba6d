//! Why a router changed its role, in words for a person.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// What led to the role of a router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Nothing happened yet.
    New,
    /// Became eligible and listens first.
    Eligible,
    /// Nobody was heard.
    Alone { waited: Duration },
    /// The active router fell silent.
    Silent { leader: IpAddr, waited: Duration },
    /// The active router gave the addresses up.
    GivenUp { leader: IpAddr },
    /// The active router has a lower priority, and we may preempt.
    Preempted { leader: IpAddr, priority: u8 },
    /// Another one is active with a higher priority, or with the same and a greater address.
    Outranked { leader: IpAddr, priority: u8 },
    /// The process before this one was active.
    Resumed,
    /// This edge cannot serve, in the words of whoever said so.
    Unfit(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("not started"),
            Self::Eligible => f.write_str("this edge can serve; it listens for others first"),
            Self::Alone { waited } => write!(f, "nobody else was heard for {} ms", waited.as_millis()),
            Self::Silent { leader, waited } => write!(f, "{leader} was silent for {} ms", waited.as_millis()),
            Self::GivenUp { leader } => write!(f, "{leader} gave the addresses up"),
            Self::Preempted { leader, priority } => write!(f, "{leader} had a lower priority ({priority})"),
            Self::Outranked { leader, priority } => write!(f, "{leader} has priority {priority} and leads"),
            Self::Resumed => f.write_str("took over from the process before it"),
            Self::Unfit(reason) => f.write_str(reason),
        }
    }
}

/// A router of the same VRID that advertises other addresses (§7.1: to be reported, not dropped).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    pub source: IpAddr,
    /// What it advertises, in order.
    pub theirs: Vec<IpAddr>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} advertises other addresses for this virtual router:", self.source)?;
        const SHOWN: usize = 4;
        for address in self.theirs.iter().take(SHOWN) {
            write!(f, " {address}")?;
        }
        match self.theirs.len().checked_sub(SHOWN) {
            Some(more @ 1..) => write!(f, " and {more} more"),
            _ => Ok(()),
        }
    }
}
