//! What the actor of layer 2 sees, as plain values: who has which address of every group, since when and why.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use edge_bgp::l2::Mac;
use edge_bgp::vrrp::{Counters, Family, Role};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct L2Observed {
    /// In the order in which they were wished.
    pub groups: Vec<GroupSeen>,
    /// Of no group: what the kernel refuses, what is left over.
    pub notices: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSeen {
    pub name: Arc<str>,
    pub interface: String,
    pub router: u8,
    /// Whether the interface can carry anything, or why not.
    pub link: Result<(), String>,
    /// One for each family that the group has VIPs of, IPv4 first.
    pub elections: Vec<ElectionSeen>,
}

/// One election: a virtual router of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElectionSeen {
    pub family: Family,
    pub role: Role,
    /// When the role was taken, and why.
    pub since: SystemTime,
    pub reason: String,
    /// What this edge brings into the election at the moment; `None`: it takes no part.
    pub priority: Option<u8>,
    /// Who is active as far as this edge knows; itself while active.
    pub leader: Option<LeaderSeen>,
    pub vips: Vec<VipSeen>,
    /// What is wrong though it works, one line each.
    pub problems: Vec<String>,
    pub counters: Counters,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderSeen {
    pub address: IpAddr,
    pub priority: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VipSeen {
    pub address: IpAddr,
    pub state: VipHeld,
    /// Others that claim it while it is ours.
    pub conflicts: Vec<ConflictSeen>,
    /// Announcements since the start.
    pub announced: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VipHeld {
    /// On our interface and told to the link.
    Held,
    /// This edge is active, and the address is on its way to the interface.
    Taking,
    /// With another edge, or nobody.
    NotHeld,
    /// Not told here, though others of its group may be.
    Withheld,
    /// It cannot be put on the interface.
    Failed(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConflictSeen {
    pub mac: Mac,
    pub first: SystemTime,
    pub last: SystemTime,
    pub claims: u64,
}

impl L2Observed {
    /// What is seen of a VIP, with its group and election.
    pub fn vip(&self, address: IpAddr) -> Option<(&GroupSeen, &ElectionSeen, &VipSeen)> {
        self.groups.iter().find_map(|group| {
            group.elections.iter().find_map(|election| {
                let vip = election.vips.iter().find(|vip| vip.address == address)?;
                Some((group, election, vip))
            })
        })
    }

    /// Whether this edge has the address and tells the link so.
    pub fn is_held(&self, address: IpAddr) -> bool {
        self.vip(address).is_some_and(|(.., vip)| vip.state == VipHeld::Held)
    }
}
