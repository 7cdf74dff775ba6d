//! What is so: the engine, the sessions, and what each peer has really been told.
//!
//! Flows out of the speaker, whole, each time anything of it changes. A prefix counts as announced to a peer when the
//! session is established and the engine's adj-out for the peer holds it; nothing here is an intention.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;
use serde::Serialize;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Observed {
    /// Of the wanted set that all the rest was compared with; what [`crate::Speaker::set`] returned. 0: none yet.
    pub generation: u64,
    /// Everything that was wanted has been asked of the engine; peers may still be down, or refused by it.
    pub is_settled: bool,
    pub engine: EngineSeen,
    /// As in the wanted set.
    pub peers: Vec<PeerSeen>,
    /// As in the wanted set.
    pub prefixes: Vec<PrefixSeen>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EngineSeen {
    pub state: EngineState,
    pub since: SystemTime,
    /// 3 or 4: the series of GoBGP's API that it speaks.
    pub api: Option<u8>,
    /// What a child says of itself, as `3.10.0`.
    pub version: Option<String>,
    /// Of a child.
    pub pid: Option<u32>,
    /// How often it had to be filled anew.
    pub restarts: u32,
    /// Where, what, value, expected; in one line.
    pub error: Option<String>,
    /// Peers and paths in it that are not ours and are left alone, in words.
    pub foreign: Option<String>,
    /// The last lines a child wrote, oldest first.
    pub log: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineState {
    /// No BGP is wanted.
    Idle,
    /// A child is being started, or somebody else's engine is being called.
    Starting,
    Running,
    /// It will be tried again.
    Down,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerSeen {
    pub name: Arc<str>,
    /// Of an unnumbered peer: the address that was found at the other end.
    pub address: Option<String>,
    pub session: SessionState,
    pub since: SystemTime,
    /// What the peer said in its OPEN.
    pub asn: Option<u32>,
    pub router_id: Option<Ipv4Addr>,
    /// Why the session is down, or why an established one is told less than wanted; one line.
    pub error: Option<String>,
    /// Prefixes that the peer told us, none of which is used.
    pub received: u64,
    /// Of these, those that got past our import policy into the engine's own table: 0, as long as all is well.
    pub accepted: u64,
    /// Prefixes in adj-out while the session is established.
    pub advertised: u64,
    /// How often an established session was lost.
    pub flaps: u32,
    /// The hold time that both sides agreed on, in seconds.
    pub hold_time: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionState {
    /// Not in the engine.
    Absent,
    Idle,
    Connect,
    Active,
    OpenSent,
    OpenConfirm,
    Established,
    AdminDown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PrefixSeen {
    pub prefix: IpNet,
    /// It is in the engine's own table.
    pub is_held: bool,
    /// Peers that have been told, in the order of their names.
    pub told: Vec<Told>,
}

/// What one peer has been told of one prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Told {
    pub peer: Arc<str>,
    pub since: SystemTime,
    pub next_hop: Option<IpAddr>,
    pub communities: Vec<u32>,
    pub large_communities: Vec<(u32, u32, u32)>,
    pub as_path: Vec<u32>,
    pub med: Option<u32>,
    pub local_pref: Option<u32>,
}

impl Observed {
    /// Before anything is known.
    pub fn nothing(now: SystemTime) -> Self {
        Self {
            generation: 0,
            is_settled: false,
            engine: EngineSeen {
                state: EngineState::Idle,
                since: now,
                api: None,
                version: None,
                pid: None,
                restarts: 0,
                error: None,
                foreign: None,
                log: Vec::new(),
            },
            peers: Vec::new(),
            prefixes: Vec::new(),
        }
    }

    pub fn peer(&self, name: &str) -> Option<&PeerSeen> {
        self.peers.iter().find(|peer| &*peer.name == name)
    }

    pub fn prefix(&self, prefix: &IpNet) -> Option<&PrefixSeen> {
        self.prefixes.iter().find(|seen| seen.prefix == *prefix)
    }
}
